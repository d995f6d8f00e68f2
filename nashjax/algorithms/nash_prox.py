"""The proximal point method: each step an equilibrium of an easier game."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from nashjax._math import simplex
from nashjax._math.pytree import register_dataclass
from nashjax.algorithms.adaptive_nash_mp import AdaptiveNashMP, AdaptiveNashMPState
from nashjax.algorithms.base import Algorithm, BasicState, Betas, check_hyperparameter, relative_step
from nashjax.games.regularized import RegularizedGame

DEFAULT_STEP = 16.0
"""`s = eta / beta`. Of 2, 4, ..., 128 and 512 the values 16 to 64 needed the fewest queries at beta 0.003 to 0.3."""


class NashProxState(NamedTuple):
    """State of `NashProx`.

    Attributes:
      log_policy: `log p`, `[n, *batch]`.
      payoffs: `P p`, `[n, *batch]`.
      queries: int32 `[*batch]`.
      step_size: the `eta` of the last step, `[*batch]`.
      inner: of the method that solves the inner game; its `log_policy` is the opponent `h`.
    """

    log_policy: jax.Array
    payoffs: jax.Array
    queries: jax.Array
    step_size: jax.Array
    inner: AdaptiveNashMPState


@register_dataclass
@dataclasses.dataclass(frozen=True)
class NashProx(Algorithm[NashProxState]):
    """Nash Prox, the proximal point method (the 2026 revision of Tiapkin et al. 2025).

    The next policy is the equilibrium of the *inner game*, which pulls by `beta` towards the reference and by
    `beta / eta` towards the policy `p`. Both pulls are one of strength `beta (1 + 1/eta) = (1 + eta) / s`,
    `s = eta / beta`, towards `r' = normalize((eta log r + log p) / (1 + eta))`: the inner game is a regularized game
    like any other, the easier the smaller `eta`, and `AdaptiveNashMP` solves it.

    One `step` makes one trial of that and then moves to `p'`, the best response to the inner policy `h`, if

    `s E'(h) <= KL(h||p)`,  `E'(h) = (1 + eta)/s KL(h||p')` the exploitability in the inner game,

    which is the test of `AdaptiveNashMP` for any opponent `h` and proves `KL(p*||p') <= KL(p*||p) / (1 + eta)`, as
    for the exact inner equilibrium. It comes true after finitely many trials: `E'` falls to 0 and `KL(h||p)` does not,
    unless `p` is the equilibrium. A step that does not move repeats the policy. Queries: one or two for the trial
    and one for the move. Games that are solved side by side all compute all three; `queries` counts what was used.

    Attributes:
      eta: the step, > 0, of any size; None is `16 beta`. At `beta = 0`, where `eta = s beta` cannot be told from 0,
        `s = 16` is taken.
    """

    queries_per_step: ClassVar[int] = 3
    betas: ClassVar[Betas] = Betas.ANY
    many_players: ClassVar[bool] = True

    eta: float | jax.Array | None = None

    def __post_init__(self):
        check_hyperparameter("eta", self.eta, 0, math.inf)

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> NashProxState:
        """Start from a policy `[n, *batch]`: one query."""
        start = BasicState.start(problem, log_policy)
        first = jnp.full_like(start.step_size, _SOLVER.first_step)
        inner = AdaptiveNashMPState(*start, prediction=start.payoffs, next_step=first)
        return NashProxState(*start, inner=inner)

    def step(self, problem: RegularizedGame, state: NashProxState) -> NashProxState:
        """Make one trial in the inner game and, if that is solved well enough, the move: at most three queries."""
        s = relative_step(self.eta, problem.beta, DEFAULT_STEP)
        eta = s * problem.beta
        # Against an opponent without payoffs the proximal map leaves the two pulls alone.
        pull = problem.proximal_map(state.log_policy, jnp.zeros_like(state.payoffs), s)
        inner_game = _inner_game(problem, pull, s)

        inner = _SOLVER.step(inner_game, state.inner)
        error = inner_game.exploitability(inner.log_policy, inner.payoffs)
        room = simplex.kl_divergence(inner.log_policy, state.log_policy)
        # At the rounding floor the opponent cannot be made better.
        solved = (s * error <= room) | (error <= inner_game.rounding_floor())

        moved = inner_game.best_response(inner.payoffs)
        log_policy = simplex.choose(solved, moved, state.log_policy)
        payoffs = simplex.choose(solved, problem.payoffs(moved), state.payoffs)
        restarted = inner._replace(log_policy=moved, payoffs=payoffs, prediction=payoffs)
        return NashProxState(
            log_policy=log_policy,
            payoffs=payoffs,
            queries=state.queries + inner.queries - state.inner.queries + jnp.where(solved, 1, 0),
            step_size=jnp.broadcast_to(eta, state.step_size.shape),
            inner=simplex.choose(solved, restarted, inner),
        )


def _inner_game(problem: RegularizedGame, pull: jax.Array, s: jax.Array) -> RegularizedGame:
    """Return the game regularized towards the reference and the last policy, `pull` between the two."""
    betas = problem.player_betas
    if betas is not None:
        betas = betas + 1 / simplex.to_rank(s, betas)
    return RegularizedGame(problem.game, (1 + s * problem.beta) / s, pull, betas)


_SOLVER = AdaptiveNashMP()
