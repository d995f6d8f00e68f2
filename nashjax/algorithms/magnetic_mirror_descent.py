"""Magnetic mirror descent."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from nashjax._math.pytree import register_dataclass
from nashjax.algorithms.base import UNREGULARIZED_STEP, Algorithm, BasicState, Betas, check_hyperparameter
from nashjax.games.regularized import RegularizedGame


@register_dataclass
@dataclasses.dataclass(frozen=True)
class MagneticMirrorDescent(Algorithm[BasicState]):
    """Mirror descent that is drawn to the reference as to a magnet (Sokota et al. 2023).

    `log p' = normalize((log p + a P p + a beta log r) / (1 + a beta))`, the proximal map against the current policy:
    one query a step. At `a <= 4 beta`, for every game, `KL(p*||p') <= KL(p*||p) / (1 + a beta)`: a digit costs about
    `1 / beta^2` queries where `NashMP` needs `1 / beta`.

    Attributes:
      step_size: `a`, > 0; None is `4 beta`. At `beta = 0`, where that would stay put, None is 1/8:
        multiplicative weights, whose last iterate goes around the equilibrium and does not converge, so
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
        default = jnp.where(beta > 0, 4 * beta, UNREGULARIZED_STEP)
        a = default if self.step_size is None else jnp.asarray(self.step_size)
        return state.move(problem, problem.proximal_map(state.log_policy, state.payoffs, a), a)
