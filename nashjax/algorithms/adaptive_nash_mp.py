"""Nash Mirror Prox whose step grows as far as a provable test allows."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from nashjax._math import simplex
from nashjax._math.pytree import register_dataclass
from nashjax.algorithms.base import Algorithm, BasicState, Betas, check_hyperparameter
from nashjax.algorithms.nash_mp import PAPER_STEP
from nashjax.games.regularized import RegularizedGame

LARGEST_STEP = 1e6


class AdaptiveNashMPState(NamedTuple):
    """State of `AdaptiveNashMP`.

    Attributes:
      log_policy: `log p`, `[n, *batch]`.
      payoffs: `P p`, `[n, *batch]`.
      queries: int32 `[*batch]`.
      step_size: the `eta` of the last trial, `[*batch]`.
      prediction: the payoffs that the improved opponent of the next trial will answer, `[n, *batch]`.
      next_step: `s = eta / beta` of the next trial, `[*batch]`.
    """

    log_policy: jax.Array
    payoffs: jax.Array
    queries: jax.Array
    step_size: jax.Array
    prediction: jax.Array
    next_step: jax.Array


@register_dataclass
@dataclasses.dataclass(frozen=True)
class AdaptiveNashMP(Algorithm[AdaptiveNashMPState]):
    """Nash Mirror Prox with a step of its own for each game, tested before it is made.

    A trial predicts payoffs `g~`, forms `h = prox(p, g~)` and `p' = prox(p, P h)`, and moves to `p'` if

    `s <P h - g~, p' - h>  <=  KL(h||p) + (1 + eta) KL(p'||h)`,  `s = eta / beta`,

    which proves `KL(p*||p') <= KL(p*||p) / (1 + eta)` with the `eta` used, however large. Accepted, `s` grows and
    the next prediction is `P p'` (two queries in all); rejected, `s` shrinks to `s'` and the paid query serves the
    next prediction, `g~ = P p + (s'/s)(P h - P p)` (one query). `s` never falls below the paper's 2, which passes
    by theory with the prediction `P p`. Games that are solved side by side all compute the second product; `queries`
    counts it where it was used.

    Attributes:
      growth: factor of `s` after an accepted trial, > 1.
      shrink: factor of `s` after a rejected trial, in (0, 1).
      first_step: `s` of the first trial, >= 2.
    """

    queries_per_step: ClassVar[int] = 2
    betas: ClassVar[Betas] = Betas.ANY
    many_players: ClassVar[bool] = True

    growth: float | jax.Array = 1.35
    shrink: float | jax.Array = 0.6
    first_step: float | jax.Array = 16.0

    def __post_init__(self):
        check_hyperparameter("growth", self.growth, 1, math.inf)
        check_hyperparameter("shrink", self.shrink, 0, 1)
        check_hyperparameter("first_step", self.first_step, PAPER_STEP, math.inf, closed=True)

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> AdaptiveNashMPState:
        """Start from a policy `[n, *batch]`: one query."""
        start = BasicState.start(problem, log_policy)
        first = jnp.full_like(start.step_size, self.first_step)
        return AdaptiveNashMPState(*start, prediction=start.payoffs, next_step=first)

    def step(self, problem: RegularizedGame, state: AdaptiveNashMPState) -> AdaptiveNashMPState:
        """Make one trial: two queries if it is accepted, one if not."""
        s = state.next_step
        eta = s * problem.beta
        opponent = problem.proximal_map(state.log_policy, state.prediction, s)
        answer = problem.payoffs(opponent)
        moved = problem.proximal_map(state.log_policy, answer, s)

        error = s * jnp.sum((answer - state.prediction) * (jnp.exp(moved) - jnp.exp(opponent)), axis=0)
        room = problem.contraction_room(state.log_policy, opponent, moved, s)
        # At the paper's step with the paper's prediction the test passes by theory, whatever rounding says.
        accepted = (error <= room) | (s <= PAPER_STEP)

        smaller = jnp.maximum(s * self.shrink, PAPER_STEP)
        corrected = jnp.where(
            simplex.to_rank(smaller > PAPER_STEP, answer),
            state.payoffs + simplex.to_rank(smaller / s, answer) * (answer - state.payoffs),
            state.payoffs,
        )
        log_policy = simplex.choose(accepted, moved, state.log_policy)
        payoffs = simplex.choose(accepted, problem.payoffs(moved), state.payoffs)
        return AdaptiveNashMPState(
            log_policy=log_policy,
            payoffs=payoffs,
            queries=state.queries + jnp.where(accepted, 2, 1),
            step_size=eta,
            prediction=simplex.choose(accepted, payoffs, corrected),
            next_step=jnp.where(accepted, jnp.minimum(s * self.growth, LARGEST_STEP), smaller),
        )
