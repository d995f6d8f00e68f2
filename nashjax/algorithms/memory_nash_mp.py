"""Nash Mirror Prox that predicts the next opponent from past queries."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from nashjax._math import least_squares, simplex
from nashjax._math.linear import product
from nashjax._math.pytree import register_dataclass
from nashjax._validation import check_integer
from nashjax.algorithms.adaptive_nash_mp import LARGEST_STEP
from nashjax.algorithms.base import Algorithm, BasicState, Betas, check_hyperparameter
from nashjax.algorithms.nash_mp import PAPER_STEP
from nashjax.games.regularized import RegularizedGame

FITS = 3
"""Gauss-Newton steps on the opponent of one trial. On embedding games (n = 1500, beta 1e-4) 6 saved at most 6 %."""
FRACTIONS = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Shares of a Gauss-Newton step that are compared; a step none of which helps is not made."""
LEAST_WEIGHT = 1e-3
"""Probability below which an action counts in a fit as if it had this one. Otherwise rare actions dominate the fit:
`gaussian` games of 30 actions at beta 0.001, memory 64, took 77 queries with 1e-12 and 26 with this bound."""
LARGEST_ETA = 1e4
"""Bound on `eta = s beta`. A step that long is nearly the best response."""
TRY, ASK, PAPER = 0, 1, 2
"""Kinds of trials: of a prediction; of the center itself; and the step of the paper, which passes by theory."""


class MemoryNashMPState(NamedTuple):
    """State of `MemoryNashMP`.

    Attributes:
      log_policy: the opponent of the lowest exploitability so far, `[n, *batch]`.
      payoffs: its query, `[n, *batch]`.
      queries: int32 `[*batch]`.
      step_size: the `eta` of the last trial, `[*batch]`.
      log_center: `log p`, the center of the proximal steps, `[n, *batch]`.
      opponents: the last policies whose payoffs were asked, newest first, `[n, memory, *batch]`.
      answers: their queries, `[n, memory, *batch]`.
      next_step: `s = eta / beta` of the next trial, `[*batch]`.
      lowest: exploitability of `log_policy`, `[*batch]`.
      trial: kind of the next trial, int32 `[*batch]`.
    """

    log_policy: jax.Array
    payoffs: jax.Array
    queries: jax.Array
    step_size: jax.Array
    log_center: jax.Array
    opponents: jax.Array
    answers: jax.Array
    next_step: jax.Array
    lowest: jax.Array
    trial: jax.Array


class _Mixture(NamedTuple):
    """Mixture of remembered policies whose payoffs are known without a query.

    Attributes:
      weights: `H c`, `[n, *batch]`; sums to 1, entries may be negative.
      payoffs: `A c`, `[n, *batch]`.
      misfit: squared distance between the mixture and its own proximal answer, `[*batch]`.
    """

    weights: jax.Array
    payoffs: jax.Array
    misfit: jax.Array


@register_dataclass
@dataclasses.dataclass(frozen=True)
class MemoryNashMP(Algorithm[MemoryNashMPState]):
    """Nash Mirror Prox that infers payoffs from its last queries instead of asking for them.

    `P` is linear. If `a_i = P h_i` are known for the columns `h_i` of `H`, every mixture `H c` with `sum c = 1` has the
    payoffs `A c`, without a query. A trial at the center `p` with the step `s` has three parts:

    1. Find the mixture that answers itself best, `min_c |D^(-1/2) (prox(p, A c) - H c)|` with `D = diag(prox(p, A c))`,
       by Gauss-Newton steps.
    2. Form the opponent `h = prox(p, g~)`, `g~ = A c`, and ask the only query of the trial, `P h`.
    3. Move to `p' = prox(p, P h)` if `s <P h - g~, p' - h>  <=  KL(h||p) + (1 + eta) KL(p'||h)`, `eta = s beta`.

    Every accepted step satisfies `KL(p*||p') <= KL(p*||p) / (1 + eta)`, however large `s` is. A move to `h` itself is
    made if its exploitability is below `decrease` times the lowest so far, as in `Newton`. If a trial fails at the
    paper's `s = 2`, the next two queries make the paper's step, which passes by theory. The certified policy is the
    opponent of the lowest exploitability.

    A trial costs one query and `O(memory^2 n)` operations. Prefer this method to `AdaptiveNashMP` if a query is dear:
    games without a matrix, matrices whose rows are spread over devices, large games at small `beta`.

    Attributes:
      memory: number of queries to remember, >= 2; the state holds `2 memory n` numbers for each game.
      growth: factor of `s` after a move, > 1.
      shrink: factor of `s` after a failed trial, in (0, 1).
      first_step: `s` of the first trial, >= 2.
      decrease: share of the lowest exploitability that allows a move without a proof, in (0, 1).

    Example:
      >>> import jax
      >>> import nashjax as nj
      >>> game = nj.games.random_game(jax.random.key(0), 30)
      >>> few = nj.solve(game, beta=0.001, algorithm=nj.MemoryNashMP())
      >>> many = nj.solve(game, beta=0.001, algorithm=nj.AdaptiveNashMP())
      >>> bool(few.converged and many.converged and 5 * few.queries < many.queries)
      True

    References:
      Tiapkin et al. 2025, "Accelerating Nash Learning from Human Feedback via Mirror Prox",
      https://arxiv.org/abs/2505.19731: the two proximal steps.
      Anderson 1965, "Iterative procedures for nonlinear integral equations", https://doi.org/10.1145/321296.321305:
      mixtures of past iterates.
    """

    queries_per_step: ClassVar[int] = 1
    betas: ClassVar[Betas] = Betas.ANY
    many_players: ClassVar[bool] = True

    memory: int = dataclasses.field(default=16, metadata={"static": True})
    growth: float | jax.Array = 2.0
    shrink: float | jax.Array = 0.35
    first_step: float | jax.Array = 16.0
    decrease: float | jax.Array = 0.3

    def __post_init__(self):
        check_integer("memory", self.memory, 2)
        check_hyperparameter("growth", self.growth, 1, math.inf)
        check_hyperparameter("shrink", self.shrink, 0, 1)
        check_hyperparameter("first_step", self.first_step, PAPER_STEP, math.inf, closed=True)
        check_hyperparameter("decrease", self.decrease, 0, 1)

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> MemoryNashMPState:
        """Start from a policy `[n, *batch]`: one query."""
        start = BasicState.start(problem, log_policy)

        def fill(x: jax.Array) -> jax.Array:
            return jnp.repeat(x[:, None], self.memory, axis=1)

        return MemoryNashMPState(
            *start,
            log_center=log_policy,
            opponents=fill(jnp.exp(log_policy)),
            answers=fill(start.payoffs),
            next_step=jnp.full_like(start.step_size, self.first_step),
            lowest=problem.exploitability(log_policy, start.payoffs),
            trial=jnp.full_like(start.queries, TRY),
        )

    def step(self, problem: RegularizedGame, state: MemoryNashMPState) -> MemoryNashMPState:
        """Make one trial: one query."""
        s, center = state.next_step, state.log_center
        eta = s * problem.beta
        asks, by_theory = state.trial == ASK, state.trial == PAPER
        prediction = simplex.choose(by_theory, state.answers[:, 0], _predict(problem, state))
        # Extrapolated payoffs can be large; times `s` they would drown the logarithms.
        opponent = problem.proximal_map(center, -problem.shortfall(prediction), s)
        opponent = simplex.choose(asks, center, opponent)
        # Kept in memory: computed again for its query, the opponent could be rounded differently.
        opponent = simplex.materialize(opponent, center)
        payoffs = problem.payoffs(opponent)
        moved = problem.proximal_map(center, payoffs, s)

        error = s * jnp.sum((payoffs - prediction) * (jnp.exp(moved) - jnp.exp(opponent)), axis=0)
        room = problem.contraction_room(center, opponent, moved, s)
        exploitability = problem.exploitability(opponent, payoffs)
        leaps = (exploitability <= self.decrease * state.lowest) & ~asks
        proved = ((error <= room) | by_theory) & ~leaps & ~asks
        moves, better = leaps | proved, exploitability < state.lowest
        fails_at_paper_step = ~moves & ~asks & (s <= PAPER_STEP)
        return MemoryNashMPState(
            log_policy=simplex.choose(better, opponent, state.log_policy),
            payoffs=simplex.choose(better, payoffs, state.payoffs),
            queries=state.queries + 1,
            step_size=eta,
            log_center=simplex.choose(leaps, opponent, simplex.choose(proved, moved, center)),
            opponents=_remember(jnp.exp(opponent), state.opponents),
            answers=_remember(payoffs, state.answers),
            next_step=self._next_step(problem, s, moves, asks),
            lowest=jnp.where(better, exploitability, state.lowest),
            trial=jnp.where(asks, PAPER, jnp.where(fails_at_paper_step, ASK, TRY)).astype(jnp.int32),
        )

    def _next_step(self, problem: RegularizedGame, s: jax.Array, moves: jax.Array, asks: jax.Array) -> jax.Array:
        positive = problem.beta > 0
        largest = jnp.where(positive, LARGEST_ETA / jnp.where(positive, problem.beta, 1), LARGEST_STEP)
        largest = jnp.maximum(largest, PAPER_STEP)
        failed = jnp.where(asks, s, jnp.maximum(s * self.shrink, PAPER_STEP))
        return jnp.where(moves, jnp.minimum(s * self.growth, largest), failed).astype(s.dtype)


def _remember(newest: jax.Array, memory: jax.Array) -> jax.Array:
    return jnp.concatenate([newest[:, None], memory[:, :-1]], axis=1)


def _predict(problem: RegularizedGame, state: MemoryNashMPState) -> jax.Array:
    """Return the payoffs of the mixture of remembered policies that best answers itself, `[n, *batch]`."""
    newest, answer = state.opponents[:, 0], state.answers[:, 0]
    directions, changes = _directions(state)

    def reply_to(payoffs: jax.Array) -> jax.Array:
        return jnp.exp(problem.proximal_map(state.log_center, payoffs, state.next_step))

    def mix(weights: jax.Array, payoffs: jax.Array) -> _Mixture:
        reply = reply_to(payoffs)
        misfit = jnp.sum((reply - weights) ** 2 / jnp.maximum(reply, LEAST_WEIGHT), axis=0)
        return _Mixture(weights, payoffs, misfit)

    def improve(_: jax.Array, mixture: _Mixture) -> _Mixture:
        reply, differential = jax.linearize(reply_to, mixture.payoffs)
        columns = jax.vmap(differential, 1, 1)(changes) - directions
        scale = 1 / jnp.sqrt(jnp.maximum(reply, LEAST_WEIGHT))
        change = least_squares.fit(scale[:, None] * columns, scale * (mixture.weights - reply))
        weights = product("nk...,k...->n...", directions, change)
        payoffs = product("nk...,k...->n...", changes, change)
        best = mixture
        for fraction in FRACTIONS:
            tried = mix(mixture.weights + fraction * weights, mixture.payoffs + fraction * payoffs)
            best = simplex.choose(tried.misfit < best.misfit, tried, best)
        return best

    return jax.lax.fori_loop(0, FITS, improve, mix(newest, answer)).payoffs


def _directions(state: MemoryNashMPState) -> tuple[jax.Array, jax.Array]:
    """Return differences of remembered policies to the newest, of unit L1 norm, and those of their queries.

    Each is `[n, memory - 1, *batch]`, 0 for places of the memory that are still empty.
    """
    directions = state.opponents[:, 1:] - state.opponents[:, :1]
    size = jnp.sum(jnp.abs(directions), axis=0, keepdims=True)
    place = jnp.arange(1, directions.shape[1] + 1, dtype=jnp.int32).reshape(1, -1, *(1,) * state.queries.ndim)
    used = (place < state.queries[None, None]) & (size > 0)
    scale = jnp.where(used, 1 / jnp.where(size > 0, size, 1), 0)
    return directions * scale, (state.answers[:, 1:] - state.answers[:, :1]) * scale
