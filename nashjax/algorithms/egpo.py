"""Extragradient preference optimisation."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax

from nashjax._math import simplex
from nashjax._math.pytree import register_dataclass
from nashjax.algorithms.base import Algorithm, BasicState, Betas, at_most_best_response, check_hyperparameter
from nashjax.algorithms.nash_mp import PAPER_STEP
from nashjax.games.regularized import RegularizedGame


@register_dataclass
@dataclasses.dataclass(frozen=True)
class EGPO(Algorithm[BasicState]):
    """The extragradient method on the regularized payoffs (Zhou, Fazel and Du 2025).

    `log h = normalize((1 - a beta) log p + a (beta log r + P p))`, then `p'` in the same way from `p` with `P h`: two
    queries a step. With `a = s / (1 + s beta)` these are the steps of `NashMP` at `eta = s beta`, guarantee
    included: the same method in another form, known under this name.

    Attributes:
      step_size: `a`, > 0; at most `1 / beta`, the best response itself, is used. None is `2 / (1 + 2 beta)`, the
        step of `NashMP`.
    """

    queries_per_step: ClassVar[int] = 2
    betas: ClassVar[Betas] = Betas.ANY
    many_players: ClassVar[bool] = True

    step_size: float | jax.Array | None = None

    def __post_init__(self):
        check_hyperparameter("step_size", self.step_size, 0, math.inf)

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> BasicState:
        """Start from a policy `[n, *batch]`: one query."""
        return BasicState.start(problem, log_policy)

    def step(self, problem: RegularizedGame, state: BasicState) -> BasicState:
        """Make one step: two queries."""
        beta = problem.beta
        default = PAPER_STEP / (1 + PAPER_STEP * beta)
        a = default if self.step_size is None else at_most_best_response(self.step_size, beta)
        kept = problem.mix_reference(state.log_policy, a)
        step = simplex.to_rank(a, kept)
        opponent = problem.normalize(kept + step * state.payoffs)
        log_policy = problem.normalize(kept + step * problem.payoffs(opponent))
        return state.move(problem, log_policy, a, queries=2)
