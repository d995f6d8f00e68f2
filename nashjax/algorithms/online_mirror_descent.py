"""Online mirror descent, the exact form of online IPO."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from nashjax._math import simplex
from nashjax._math.pytree import register_dataclass
from nashjax.algorithms.base import (
    UNREGULARIZED_STEP,
    Algorithm,
    BasicState,
    Betas,
    at_most_best_response,
    check_hyperparameter,
)
from nashjax.games.regularized import RegularizedGame


@register_dataclass
@dataclasses.dataclass(frozen=True)
class OnlineMirrorDescent(Algorithm[BasicState]):
    """Mirror descent on the regularized payoffs at the current policy (Calandriello et al. 2024).

    `log p' = normalize((1 - a beta) log p + a beta log r + a P p)`: one query a step, the same step as that of
    `MagneticMirrorDescent` with `a / (1 - a beta)`. The last iterate converges linearly, but with steps of the order of
    beta: a digit costs about `1 / beta^2` queries where `NashMP` needs `1 / beta`.

    Attributes:
      step_size: `a`, > 0; at most `1 / beta`, the best response itself, is used. None is `4 beta`, but no more than
        `1 / (2 beta)`, half of the way to the best response: a step of `4 beta` would overshoot it from
        `beta = 1/2` on. At `beta = 0`, where `4 beta` would stay put, None is 1/8: multiplicative weights,
        whose last iterate goes around the equilibrium and does not converge, so
        `nashjax.solve` refuses it there.
    """

    queries_per_step: ClassVar[int] = 1
    betas: ClassVar[Betas] = Betas.POSITIVE
    many_players: ClassVar[bool] = True

    step_size: float | jax.Array | None = None

    def __post_init__(self):
        check_hyperparameter("step_size", self.step_size, 0, math.inf)

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> BasicState:
        """Start from a policy `[n, *batch]`: one query."""
        return BasicState.start(problem, log_policy)

    def step(self, problem: RegularizedGame, state: BasicState) -> BasicState:
        """Make one step: one query."""
        beta = problem.beta
        if self.step_size is None:
            a = jnp.where(beta > 0, jnp.minimum(4 * beta, at_most_best_response(jnp.inf, beta) / 2), UNREGULARIZED_STEP)
        else:
            a = at_most_best_response(self.step_size, beta)
        kept = problem.mix_reference(state.log_policy, a)
        return state.move(problem, problem.normalize(kept + simplex.to_rank(a, kept) * state.payoffs), a)
