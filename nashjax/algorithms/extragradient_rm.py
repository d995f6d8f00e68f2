"""Regret matching plus by the extragradient method."""

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


class ExtragradientRMState(NamedTuple):
    """State of `ExtragradientRM`.

    Attributes:
      log_policy: log of `R / sum R`, `[n, *batch]`.
      payoffs: its query, `[n, *batch]`.
      queries: int32 `[*batch]`.
      step_size: the `a` of the last step, `[*batch]`.
      regrets: `R >= 0`, `sum R >= 1`, `[n, *batch]`.
    """

    log_policy: jax.Array
    payoffs: jax.Array
    queries: jax.Array
    step_size: jax.Array
    regrets: jax.Array


@register_dataclass
@dataclasses.dataclass(frozen=True)
class ExtragradientRM(Algorithm[ExtragradientRMState]):
    """Extragradient regret matching plus (ExRM+): the last iterate converges (Cai et al. 2023).

    On `{R >= 0, sum R >= 1}`, with the projection `Pi` onto it and the gains `u(R) = P p - 1/2`, `p = R / sum R`:
    `R' = Pi(R + a u(R))`, then `R <- Pi(R + a u(R'))`: two queries a step. The bound on the sum makes `u` Lipschitz
    there (Farina et al. 2023). For the game at `beta = 0`. It does not use `beta`, so
    `nashjax.solve` refuses it at `beta > 0`.

    Attributes:
      step_size: `a`, > 0; None is `1 / n`, below the inverse of the Lipschitz constant of `u` in every game: of its
        derivative, `P[i, j] - (P p)[i]` over `sum R`, no entry exceeds 1 and none with `i = j` exceeds 1/2.
    """

    queries_per_step: ClassVar[int] = 2
    betas: ClassVar[Betas] = Betas.ZERO
    many_players: ClassVar[bool] = True

    step_size: float | jax.Array | None = None

    def __post_init__(self):
        check_hyperparameter("step_size", self.step_size, 0, math.inf)

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> ExtragradientRMState:
        """Start from a policy `[n, *batch]`: one query."""
        return ExtragradientRMState(*BasicState.start(problem, log_policy), regrets=jnp.exp(log_policy))

    def step(self, problem: RegularizedGame, state: ExtragradientRMState) -> ExtragradientRMState:
        """Make one step: two queries."""
        a = 1 / problem.game.num_actions if self.step_size is None else self.step_size
        step = simplex.to_rank(a, state.regrets)
        halfway = _project(
            state.regrets + step * problem.gains(jnp.exp(state.log_policy), state.payoffs), problem.sizes
        )
        played = halfway / problem.totals(halfway)
        gains = problem.gains(played, problem.game.payoffs(played))
        regrets = _project(state.regrets + step * gains, problem.sizes)
        policy = regrets / problem.totals(regrets)
        return ExtragradientRMState(
            log_policy=simplex.log(policy),
            payoffs=problem.game.payoffs(policy),
            queries=state.queries + 2,
            step_size=jnp.full_like(state.step_size, a),
            regrets=regrets,
        )


def _project(x: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """Project the regrets of each player."""
    return jnp.concatenate([_project_one(part) for part in simplex.split(x, sizes)])


def _project_one(x: jax.Array) -> jax.Array:
    """The nearest point of `{R >= 0, sum R >= 1}`, `[n, *batch]`; `-inf` becomes 0.

    That is `[x - t]_+` with the smallest `-t >= 0` that makes the sum at least 1; for a sum of exactly 1,
    `t = max_k (the sum of the k largest - 1) / k`.
    """
    descending = -jnp.sort(-x, axis=0)
    count = jnp.cumsum(jnp.ones_like(x), axis=0)
    t = jnp.max((jnp.cumsum(descending, axis=0) - 1) / count, axis=0, keepdims=True)
    return jnp.maximum(x - jnp.minimum(t, 0), 0)
