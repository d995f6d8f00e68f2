"""Multiplicative weights in self-play, the exact form of SPPO."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from nashjax._math import simplex
from nashjax._math.pytree import register_dataclass
from nashjax.algorithms.base import Algorithm, Average, BasicState, Betas, check_hyperparameter, decreasing_step
from nashjax.games.regularized import RegularizedGame


class SelfPlayMWUState(NamedTuple):
    """State of `SelfPlayMWU`.

    Attributes:
      log_policy: log of the average policy, `[n, *batch]`.
      payoffs: its query, the average of those of the policies, `[n, *batch]`.
      queries: int32 `[*batch]`.
      step_size: the `a` of the last step, `[*batch]`.
      average: the policies played so far and their queries.
      log_played: the last policy played, `[n, *batch]`.
      played_payoffs: its query, `[n, *batch]`.
      steps: steps made, int32 `[*batch]`.
    """

    log_policy: jax.Array
    payoffs: jax.Array
    queries: jax.Array
    step_size: jax.Array
    average: Average
    log_played: jax.Array
    played_payoffs: jax.Array
    steps: jax.Array


@register_dataclass
@dataclasses.dataclass(frozen=True)
class SelfPlayMWU(Algorithm[SelfPlayMWUState]):
    """Multiplicative weights against oneself, averaged (Wu et al. 2024).

    `log p' = normalize(log p + a_t P p)`, one query a step. For the game at `beta = 0`, and for the average of the
    policies alone: the policies themselves go around the equilibrium. Each policy counts with its step `a_t`, as the
    proof wants it: `E(average) <= (max_i log(1/p_0(i)) + sum a_t^2 / 8) / sum a_t`, for the default step and a uniform
    start `O(sqrt(log n / t) log t)`. It does not use `beta`, so `nashjax.solve` refuses it at
    `beta > 0`.

    Attributes:
      step_size: a constant `a`, > 0 (then the average is the plain one); None is `a_t = sqrt(log n / (t + 1))`.
    """

    queries_per_step: ClassVar[int] = 1
    betas: ClassVar[Betas] = Betas.ZERO
    many_players: ClassVar[bool] = True

    step_size: float | jax.Array | None = None

    def __post_init__(self):
        check_hyperparameter("step_size", self.step_size, 0, math.inf)

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> SelfPlayMWUState:
        """Start from a policy `[n, *batch]`: one query."""
        start = BasicState.start(problem, log_policy)
        steps = jnp.zeros_like(start.queries)
        average = Average.of(jnp.exp(log_policy), start.payoffs, self._step_size(problem, steps))
        return SelfPlayMWUState(
            *start, average=average, log_played=log_policy, played_payoffs=start.payoffs, steps=steps
        )

    def step(self, problem: RegularizedGame, state: SelfPlayMWUState) -> SelfPlayMWUState:
        """Make one step: one query."""
        a = self._step_size(problem, state.steps)
        log_played = problem.normalize(state.log_played + simplex.to_rank(a, state.log_played) * state.played_payoffs)
        payoffs = problem.payoffs(log_played)
        average = state.average.include(jnp.exp(log_played), payoffs, self._step_size(problem, state.steps + 1))
        return SelfPlayMWUState(
            log_policy=average.log_policy(problem),
            payoffs=average.payoffs(problem),
            queries=state.queries + 1,
            step_size=jnp.broadcast_to(a, state.step_size.shape),
            average=average,
            log_played=log_played,
            played_payoffs=payoffs,
            steps=state.steps + 1,
        )

    def _step_size(self, problem: RegularizedGame, steps: jax.Array) -> jax.Array:
        """`a_t`, `[*batch]` or `[]`."""
        return decreasing_step(problem, steps) if self.step_size is None else jnp.asarray(self.step_size)
