"""A primal-dual interior-point method for the plain game, `beta = 0`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nashjax._math import linear, simplex
from nashjax._math.pytree import register_dataclass
from nashjax._validation import check_integer
from nashjax.algorithms.base import Algorithm, Betas
from nashjax.games.regularized import RegularizedGame

LONGEST_MOVE = 0.9
"""Share of the way to the boundary of the positive numbers that a step goes at most, until it is near the end."""
FIRST_SLACK = 0.5
"""How far the first level lies above the highest payoff, in units of the largest payoff."""


class InteriorPointState(NamedTuple):
    """State of `InteriorPoint`.

    Attributes:
      log_policy: `log p`, `[n, *batch]`.
      payoffs: `P p`, `[n, *batch]`.
      queries: int32 `[*batch]`.
      step_size: share of the Newton direction that the last step went, `[*batch]`; 0 before the first.
      slack: `w = v - A p`, > 0, `[n, *batch]`.
      level: `v` of each player, above every payoff of its policy, `[players, *batch]`; the duality gap `<p, w>` is the
        sum.
    """

    log_policy: jax.Array
    payoffs: jax.Array
    queries: jax.Array
    step_size: jax.Array
    slack: jax.Array
    level: jax.Array


@register_dataclass
@dataclasses.dataclass(frozen=True)
class InteriorPoint(Algorithm[InteriorPointState]):
    """Mehrotra's predictor-corrector method on the linear program of a symmetric game, which is its own dual.

    The program is `min v` subject to `w = v - A p >= 0`, `p` a policy; for every policy `<p, w> = v`, so that any
    policy with a level above its payoffs is a strictly feasible start. A step is a damped Newton step towards
    `p_i w_i = sigma mu`, with one matrix for both of its directions: `I - S A S`, `S = diag(sqrt(p / w))`, the
    skew-symmetric system of Newton's method. Needs 5 to 25 steps whatever the size. Ends in the middle of the set of
    equilibria: `solve` at `beta = 0` uses it to find the support. In a game of several players each has a level, and
    their policies keep their sums. Starts from the uniform policy whatever
    `initial` says. The game must offer its matrix, `dense()`. It does not use `beta`, so
    `nashjax.solve` refuses it at `beta > 0`.

    Mehrotra 1992, "On the implementation of a primal-dual interior point method".

    Attributes:
      max_steps: linear solves after which a game is given up, >= 1.
    """

    queries_per_step: ClassVar[int] = 1
    solves_systems: ClassVar[bool] = True
    betas: ClassVar[Betas] = Betas.ZERO
    many_players: ClassVar[bool] = True
    needs_matrix: ClassVar[bool] = True

    max_steps: int = dataclasses.field(default=100, metadata={"static": True})

    def __post_init__(self):
        check_integer("max_steps", self.max_steps, 1)

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> InteriorPointState:
        """Start from the uniform policy on the allowed actions: one query."""
        allowed, sizes = jnp.isfinite(log_policy), problem.sizes
        log_policy = problem.normalize(jnp.where(allowed, 0, -jnp.inf).astype(log_policy.dtype))
        payoffs = problem.payoffs(log_policy)
        margin = jnp.where(allowed, payoffs - problem.game.value, 0)
        level = simplex.maxima(margin, sizes) + FIRST_SLACK * simplex.maxima(jnp.abs(margin), sizes) + 0.01
        batch = log_policy.shape[1:]
        return InteriorPointState(
            log_policy=log_policy,
            payoffs=payoffs,
            queries=jnp.ones(batch, jnp.int32),
            step_size=jnp.zeros(batch, log_policy.dtype),
            slack=jnp.where(allowed, simplex.spread(level, sizes) - margin, 1),
            level=level,
        )

    def step(self, problem: RegularizedGame, state: InteriorPointState) -> InteriorPointState:
        """Make one step: one query, one matrix factorized."""
        p, w, level = jnp.exp(state.log_policy), state.slack, state.level
        allowed = p > 0
        direction = _newton_directions(problem, p, w)

        def reach(change: jax.Array, slack_change: jax.Array) -> jax.Array:
            """The largest multiple of a direction that keeps everything positive."""
            return jnp.minimum(_distance_to_zero(p, change), _distance_to_zero(w, slack_change))

        size = jnp.sum(allowed, axis=0).astype(p.dtype)
        mu = jnp.sum(p * w, axis=0) / size
        change, slack_change, _ = direction(jnp.zeros_like(p))
        length = simplex.to_rank(jnp.minimum(reach(change, slack_change), 1), p)
        predicted = jnp.sum((p + length * change) * (w + length * slack_change), axis=0) / size
        target = simplex.to_rank((predicted / mu) ** 3 * mu, p) - change * slack_change
        change, slack_change, level_change = direction(target)
        share = jnp.maximum(LONGEST_MOVE, 1 - mu)
        length = jnp.minimum(share * reach(change, slack_change), 1)

        sound = jnp.isfinite(length) & jnp.all(jnp.isfinite(change) & jnp.isfinite(slack_change), axis=0)
        # What is left of an entry may be nothing but rounding.
        tiny = jnp.finfo(p.dtype).eps
        move = simplex.to_rank(length, p)
        moved = simplex.log(jnp.maximum(p + move * change, tiny * p))
        log_policy = simplex.choose(sound, problem.normalize(moved), state.log_policy)
        # The slack is updated, not recomputed from the payoffs, whose rounding would be larger than a small slack.
        slack = simplex.choose(sound, jnp.maximum(w + move * slack_change, tiny * w), w)
        return InteriorPointState(
            log_policy=log_policy,
            payoffs=problem.payoffs(log_policy),
            queries=state.queries + 1,
            step_size=length,
            slack=jnp.where(allowed, slack, 1),
            level=simplex.choose(sound, level + move * level_change, level),
        )


_Directions = Callable[[jax.Array], tuple[jax.Array, jax.Array, jax.Array]]


def _newton_directions(problem: RegularizedGame, p: jax.Array, w: jax.Array) -> _Directions:
    """Factorize the Newton system at a point.

    Returns:
      A function of the target `[n, *batch]` of `p_i w_i`, which returns the changes of `p`, `w` and `v` towards it. The
      policy of each player still sums to 1.
    """
    sizes, allowed = problem.sizes, p > 0
    scale = simplex.sqrt(p / w)
    solve = linear.factorize(linear.skew_system(problem.margins(), scale))

    def solve_scaled(rhs: jax.Array) -> jax.Array:
        return scale * solve(scale * rhs)

    # The change of the policies as the level of each player rises by 1, and what that does to their sums.
    members = jnp.asarray(np.repeat(np.eye(len(sizes)), sizes, axis=0), p.dtype)
    columns = [
        solve_scaled(jnp.broadcast_to(members[:, g].reshape(-1, *(1,) * (p.ndim - 1)), p.shape))
        for g in range(len(sizes))
    ]
    mass = [simplex.sums(column, sizes) for column in columns]

    def direction(target: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        change = solve_scaled(jnp.where(allowed, target / jnp.where(allowed, p, 1) - w, 0))
        level_change = _eliminate(mass, simplex.sums(change, sizes))
        change = change - sum(level_change[g][None] * column for g, column in enumerate(columns))
        slack_change = jnp.where(allowed, (target - p * w - w * change) / jnp.where(allowed, p, 1), 0)
        return change, slack_change, level_change

    return direction


def _eliminate(columns: list[jax.Array], rhs: jax.Array) -> jax.Array:
    """Solve a small system by elimination without pivots.

    Its symmetric part is positive definite, so no pivot is small.

    Args:
      columns: columns of the matrix, `[players, *batch]` each.
      rhs: `[players, *batch]`.
    """
    size, columns = len(columns), [*columns, rhs]
    for k in range(size):
        pivot = columns[k][k]
        for j in range(k + 1, size + 1):
            row = columns[j][k] / pivot
            others = [columns[j][i] - columns[k][i] * row if i != k else row for i in range(size)]
            columns[j] = jnp.stack(others)
    return columns[size]


def _distance_to_zero(x: jax.Array, change: jax.Array) -> jax.Array:
    """The smallest multiple of `change` that brings an entry of `x > 0` down to 0, `[*batch]`; inf if none does."""
    falling = change < 0
    return jnp.min(jnp.where(falling, -x / jnp.where(falling, change, -1), jnp.inf), axis=0)
