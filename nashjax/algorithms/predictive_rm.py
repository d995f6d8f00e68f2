"""Predictive regret matching plus."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from nashjax._math.pytree import register_dataclass
from nashjax.algorithms.base import Algorithm, Average, BasicState, Betas
from nashjax.games.regularized import RegularizedGame


class PredictiveRMState(NamedTuple):
    """State of `PredictiveRM`.

    Attributes:
      log_policy: log of the average policy, `[n, *batch]`.
      payoffs: its query, the average of those of the policies, `[n, *batch]`.
      queries: int32 `[*batch]`.
      step_size: 0, there is none, `[*batch]`.
      average: the policies played so far and their queries.
      played: the last policy played, `[n, *batch]`.
      gains: what each action gained against it, `[n, *batch]`.
      regrets: `R >= 0`, those gains included, `[n, *batch]`.
    """

    log_policy: jax.Array
    payoffs: jax.Array
    queries: jax.Array
    step_size: jax.Array
    average: Average
    played: jax.Array
    gains: jax.Array
    regrets: jax.Array


@register_dataclass
@dataclasses.dataclass(frozen=True)
class PredictiveRM(Algorithm[PredictiveRMState]):
    """Predictive regret matching plus (PRM+), averaged: no step to choose (Farina et al. 2021).

    With the regrets `R >= 0` and the gains `u = P p - 1/2` of the actions against the last policy, plays in proportion
    to `[R + u]_+`, the regrets expected if the gains stay, and then adds the new gains: `R' = [R + u']_+`. One query a
    step. For the game at `beta = 0`, and for the average of the policies alone. It does not use
    `beta`, so `nashjax.solve` refuses it at `beta > 0`.
    """

    queries_per_step: ClassVar[int] = 1
    betas: ClassVar[Betas] = Betas.ZERO
    many_players: ClassVar[bool] = True

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> PredictiveRMState:
        """Start from a policy `[n, *batch]`, which serves as the first regrets: one query.

        From regrets of 0 the first gains would decide alone, and at an equilibrium these are rounding.
        """
        start = BasicState.start(problem, log_policy)
        played = jnp.exp(log_policy)
        gains = problem.gains(played, start.payoffs)
        return PredictiveRMState(
            *start,
            average=Average.of(played, start.payoffs),
            played=played,
            gains=gains,
            regrets=jnp.maximum(played + gains, 0),
        )

    def step(self, problem: RegularizedGame, state: PredictiveRMState) -> PredictiveRMState:
        """Make one step: one query."""
        expected = jnp.maximum(state.regrets + state.gains, 0)
        total = problem.totals(expected)
        # Nothing to regret: then any policy may be played, and the last one is what an equilibrium keeps.
        played = jnp.where(total > 0, expected / jnp.where(total > 0, total, 1), state.played)
        payoffs = problem.game.payoffs(played)
        gains = problem.gains(played, payoffs)
        average = state.average.include(played, payoffs)
        return PredictiveRMState(
            log_policy=average.log_policy(problem),
            payoffs=average.payoffs(problem),
            queries=state.queries + 1,
            step_size=state.step_size,
            average=average,
            played=played,
            gains=gains,
            regrets=jnp.maximum(state.regrets + gains, 0),
        )
