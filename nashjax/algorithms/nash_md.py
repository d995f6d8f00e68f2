"""Nash mirror descent against a mixture with the reference."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from nashjax._math import simplex
from nashjax._math.pytree import register_dataclass
from nashjax.algorithms.base import (
    Algorithm,
    BasicState,
    Betas,
    at_most_best_response,
    check_hyperparameter,
    decreasing_step,
)
from nashjax.games.regularized import RegularizedGame


class NashMDState(NamedTuple):
    """State of `NashMD`.

    Attributes:
      log_policy: `log p`, `[n, *batch]`.
      payoffs: `P p`, `[n, *batch]`.
      queries: int32 `[*batch]`.
      step_size: the `a` of the last step, `[*batch]`.
      steps: steps made, int32 `[*batch]`.
    """

    log_policy: jax.Array
    payoffs: jax.Array
    queries: jax.Array
    step_size: jax.Array
    steps: jax.Array


@register_dataclass
@dataclasses.dataclass(frozen=True)
class NashMD(Algorithm[NashMDState]):
    """Mirror descent against a geometric mixture of the policy with the reference (Munos et al. 2024).

    `m = normalize((1 - a beta) log p + a beta log r)`, `log p' = normalize(m + a P exp(m))`. The method asks `P m`
    alone; the query of `p'`, the second of a step, serves the certificate only.

    With its own schedule `a_t = 2 / (beta (t + 2))`, `KL(p*||p_t) <= 8 / (beta^2 (t + 1))`: no linear rate. A constant
    step ends elsewhere, the further from the equilibrium the larger the step.

    Attributes:
      step_size: a constant `a`, > 0; at most `1 / beta` is used. None is the schedule. At `beta = 0`, where that would
        be infinite, None is the schedule of `SelfPlayMWU`: multiplicative weights, whose last iterate
        goes around the equilibrium and does not converge, so `nashjax.solve` refuses it there.
    """

    queries_per_step: ClassVar[int] = 2
    betas: ClassVar[Betas] = Betas.POSITIVE
    many_players: ClassVar[bool] = True

    step_size: float | jax.Array | None = None

    def __post_init__(self):
        check_hyperparameter("step_size", self.step_size, 0, math.inf)

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> NashMDState:
        """Start from a policy `[n, *batch]`: one query."""
        start = BasicState.start(problem, log_policy)
        return NashMDState(*start, steps=jnp.zeros_like(start.queries))

    def step(self, problem: RegularizedGame, state: NashMDState) -> NashMDState:
        """Make one step: two queries."""
        beta = problem.beta
        if self.step_size is None:
            share = 2 / (state.steps + 2).astype(beta.dtype)  # a beta
            unregularized = decreasing_step(problem, state.steps)
            a = jnp.where(beta > 0, share / jnp.where(beta > 0, beta, 1), unregularized)
        else:
            a = at_most_best_response(self.step_size, beta)
        mixture = problem.mix_reference(state.log_policy, a)
        log_policy = problem.normalize(mixture + simplex.to_rank(a, mixture) * problem.payoffs(mixture))
        return NashMDState(
            log_policy=log_policy,
            payoffs=problem.payoffs(log_policy),
            queries=state.queries + 2,
            step_size=jnp.broadcast_to(a, state.step_size.shape),
            steps=state.steps + 1,
        )
