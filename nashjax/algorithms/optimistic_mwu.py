"""Optimistic multiplicative weights."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from nashjax._math import simplex
from nashjax._math.pytree import register_dataclass
from nashjax.algorithms.base import Algorithm, BasicState, Betas, check_hyperparameter
from nashjax.games.regularized import RegularizedGame


class OptimisticMWUState(NamedTuple):
    """State of `OptimisticMWU`.

    Attributes:
      log_policy: `log p`, `[n, *batch]`.
      payoffs: `P p`, `[n, *batch]`.
      queries: int32 `[*batch]`.
      step_size: the `a` of the last step, `[*batch]`.
      previous: the payoffs before these, `[n, *batch]`.
    """

    log_policy: jax.Array
    payoffs: jax.Array
    queries: jax.Array
    step_size: jax.Array
    previous: jax.Array


@register_dataclass
@dataclasses.dataclass(frozen=True)
class OptimisticMWU(Algorithm[OptimisticMWUState]):
    """Multiplicative weights that count the last payoffs twice (Daskalakis and Panageas 2019, Wei et al. 2021).

    `log p' = normalize(log p + a (2 g - g_before))`, `g = P p`: one query a step. For the game at `beta = 0`: the last
    iterate converges to the equilibrium if there is only one. It does not use `beta`, so
    `nashjax.solve` refuses it at `beta > 0`.

    Attributes:
      step_size: `a`, > 0.
    """

    queries_per_step: ClassVar[int] = 1
    betas: ClassVar[Betas] = Betas.ZERO
    many_players: ClassVar[bool] = True

    step_size: float | jax.Array = 1 / 8

    def __post_init__(self):
        check_hyperparameter("step_size", self.step_size, 0, math.inf)

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> OptimisticMWUState:
        """Start from a policy `[n, *batch]`: one query."""
        start = BasicState.start(problem, log_policy)
        return OptimisticMWUState(*start, previous=start.payoffs)

    def step(self, problem: RegularizedGame, state: OptimisticMWUState) -> OptimisticMWUState:
        """Make one step: one query."""
        expected = 2 * state.payoffs - state.previous
        log_policy = problem.normalize(state.log_policy + simplex.to_rank(self.step_size, expected) * expected)
        return OptimisticMWUState(
            log_policy=log_policy,
            payoffs=problem.payoffs(log_policy),
            queries=state.queries + 1,
            step_size=jnp.full_like(state.step_size, self.step_size),
            previous=state.payoffs,
        )
