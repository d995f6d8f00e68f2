"""Newton's method inside the proximal step: machine precision at any beta > 0, from any start."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from nashjax._math import simplex
from nashjax._math.pytree import register_dataclass
from nashjax._validation import check_integer
from nashjax.algorithms.base import Algorithm, BasicState, Betas, check_hyperparameter
from nashjax.games.regularized import RegularizedGame


class NewtonState(NamedTuple):
    """State of `Newton`.

    Attributes:
      log_policy: `log p`, `[n, *batch]`.
      payoffs: `P p`, `[n, *batch]`.
      queries: int32 `[*batch]`.
      step_size: the `eta` of the last step, `[*batch]`.
      log_opponent: the improved opponent `h` so far, an iterate of the inner Newton method, `[n, *batch]`.
      opponent_payoffs: `P h`, `[n, *batch]`.
      inner_steps: Newton steps made on this opponent, int32 `[*batch]`.
      distance: how far the opponent was from answering itself, `[*batch]`; inf before the first inner step.
      next_step: `s = eta / beta` of the next step, `[*batch]`.
      lowest: the lowest exploitability seen, `[*batch]`.
    """

    log_policy: jax.Array
    payoffs: jax.Array
    queries: jax.Array
    step_size: jax.Array
    log_opponent: jax.Array
    opponent_payoffs: jax.Array
    inner_steps: jax.Array
    distance: jax.Array
    next_step: jax.Array
    lowest: jax.Array


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Newton(Algorithm[NewtonState]):
    """Proximal steps whose improved opponent comes from Newton's method.

    The best opponent of a proximal step is one that already answers itself, `h = prox(p, P h)`: then any step is
    safe. One `step` makes one Newton step on that equation (one linear solve of size n), which predicts the payoffs
    `g~` that `h = prox(p, g~)` answers. The move to `p' = prox(p, P h)` is made if the test of `AdaptiveNashMP`
    proves its contraction, and the move to `h` if that brings the exploitability below `decrease` of the lowest so far.
    After a move `s` grows, so that the method turns by itself from first order (small `s`) to Newton's on the game
    (`s -> inf`); when the inner steps do not converge it shrinks. Needs no continuation in beta and no good start.

    A game without a matrix, `dense()`, is asked further queries by each linear solve (GMRES; `queries` does not count
    them), about `1 / beta` of them several times over: worth it for tight tolerances only. In float64 this reaches an
    exploitability of 1e-14 at every beta tried (1e-6 to 1); two more undamped steps (`polish`, made by `solve`) then
    make the logarithms of tiny probabilities accurate too, which no small exploitability alone does.

    Attributes:
      first_step: `s` of the first step, > 0.
      shrink: factor of `s` when the inner steps fail, in (0, 1).
      decrease: see above, in (0, 1).
      largest_eta: bound on `eta = s beta`, > 0: the larger, the nearer to Newton's method on the game itself.
      max_inner_steps: Newton steps on one opponent before `s` shrinks, >= 1.
      max_steps: linear solves after which a game is given up, >= 1: one that fails must not hold up its batch.
    """

    queries_per_step: ClassVar[int] = 3
    solves_systems: ClassVar[bool] = True
    polishes: ClassVar[bool] = True
    betas: ClassVar[Betas] = Betas.ANY
    many_players: ClassVar[bool] = True

    first_step: float | jax.Array = 16.0
    shrink: float | jax.Array = 0.35
    decrease: float | jax.Array = 0.3
    largest_eta: float | jax.Array = 1e4
    max_inner_steps: int = dataclasses.field(default=6, metadata={"static": True})
    max_steps: int | jax.Array = 1000

    def __post_init__(self):
        check_hyperparameter("first_step", self.first_step, 0, math.inf)
        check_hyperparameter("shrink", self.shrink, 0, 1)
        check_hyperparameter("decrease", self.decrease, 0, 1)
        check_hyperparameter("largest_eta", self.largest_eta, 0, math.inf)
        check_integer("max_inner_steps", self.max_inner_steps, 1)
        check_hyperparameter("max_steps", self.max_steps, 1, math.inf, closed=True)

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> NewtonState:
        """Start from a policy `[n, *batch]`: one query."""
        start = BasicState.start(problem, log_policy)
        return NewtonState(
            *start,
            log_opponent=log_policy,
            opponent_payoffs=start.payoffs,
            inner_steps=jnp.zeros_like(start.queries),
            distance=jnp.full_like(start.step_size, jnp.inf),
            next_step=jnp.full_like(start.step_size, self.first_step),
            lowest=problem.exploitability(log_policy, start.payoffs),
        )

    def step(self, problem: RegularizedGame, state: NewtonState) -> NewtonState:
        """Make one inner Newton step and, if that is good enough, the move: three queries, one linear solve."""
        s = state.next_step
        eta = s * problem.beta
        answer = problem.proximal_map(state.log_policy, state.opponent_payoffs, s)
        residual = answer - state.log_opponent
        change = problem.newton_change(state.log_opponent, state.opponent_payoffs, residual, problem.newton_weight(s))
        prediction = state.opponent_payoffs + problem.game.payoffs(change)
        # Far from its solution the equation may predict payoffs of 1e4; times `s` these would drown the logarithms.
        # Kept in memory: computed again for its query, a policy of such logarithms would be another.
        opponent = problem.proximal_map(state.log_policy, -problem.shortfall(prediction), s)
        opponent = simplex.materialize(opponent, state.log_policy)
        payoffs = problem.payoffs(opponent)
        moved = simplex.materialize(problem.proximal_map(state.log_policy, payoffs, s), state.log_policy)

        error = s * jnp.sum((payoffs - prediction) * (jnp.exp(moved) - jnp.exp(opponent)), axis=0)
        room = problem.contraction_room(state.log_policy, opponent, moved, s)
        exploitability = problem.exploitability(opponent, payoffs)
        leap = exploitability <= self.decrease * state.lowest
        proved = (error <= room) & ~leap
        distance = jnp.sum(jnp.abs(jnp.exp(moved) - jnp.exp(opponent)), axis=0)
        inner_steps = state.inner_steps + 1
        hopeless = (inner_steps >= self.max_inner_steps) | ~(distance <= state.distance)
        failed = ~leap & ~proved & hopeless
        stays = ~leap & ~proved & ~hopeless

        moved_payoffs = problem.payoffs(moved)
        log_policy = simplex.choose(leap, opponent, simplex.choose(proved, moved, state.log_policy))
        reached = simplex.choose(leap, payoffs, simplex.choose(proved, moved_payoffs, state.payoffs))
        lowest = jnp.minimum(state.lowest, exploitability)
        lowest = jnp.where(proved, jnp.minimum(lowest, problem.exploitability(moved, moved_payoffs)), lowest)
        # The fewer inner steps a move took, the more of a larger one can be expected.
        growth = jnp.where(inner_steps <= 1, 8, jnp.where(inner_steps <= 3, 4, 2)).astype(s.dtype)
        largest = self.largest_eta / jnp.where(problem.beta > 0, problem.beta, 1)
        return NewtonState(
            log_policy=log_policy,
            payoffs=reached,
            queries=state.queries + 3,
            step_size=eta,
            log_opponent=simplex.choose(stays, opponent, log_policy),
            opponent_payoffs=simplex.choose(stays, payoffs, reached),
            inner_steps=jnp.where(stays, inner_steps, 0),
            distance=jnp.where(stays, distance, jnp.inf),
            next_step=jnp.where(
                leap | proved, jnp.minimum(s * growth, largest), jnp.where(failed, s * self.shrink, s)
            ).astype(s.dtype),
            lowest=lowest,
        )

    def polish(
        self, problem: RegularizedGame, log_policy: jax.Array, payoffs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Make one undamped Newton step on the game itself, for a policy close to the equilibrium.

        Returns:
          The new policy and its query: two queries, one linear solve.
        """
        residual = problem.best_response(payoffs) - log_policy
        change = problem.newton_change(log_policy, payoffs, residual, problem.limit_weight())
        # The change is recovered from the residual: divided by the square root of p it would be 0/0 for rare actions.
        polished = problem.best_response(payoffs + problem.game.payoffs(change))
        return polished, problem.payoffs(polished)
