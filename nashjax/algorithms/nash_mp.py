"""Nash Mirror Prox with the fixed step of the paper."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax

from nashjax._math.pytree import register_dataclass
from nashjax.algorithms.base import Algorithm, BasicState, Betas, check_hyperparameter, relative_step
from nashjax.games.regularized import RegularizedGame

PAPER_STEP = 2.0
"""The largest `s = eta / beta` that the theory covers for every game."""


@register_dataclass
@dataclasses.dataclass(frozen=True)
class NashMP(Algorithm[BasicState]):
    """Nash Mirror Prox (Tiapkin et al. 2025): an improved opponent, then the update against it.

    `h = prox(p, P p)`, `p' = prox(p, P h)`: two queries a step. At `eta <= 2 beta`, for every game,
    `KL(p*||p') <= KL(p*||p) / (1 + eta)`; no rate depends on the number of actions.

    Attributes:
      eta: the step, > 0; None is the paper's `2 beta`. Larger steps are not covered by the
        theory. At `beta = 0`, where `eta = s beta` cannot be told from 0, the paper's `s = 2` is taken.
    """

    queries_per_step: ClassVar[int] = 2
    betas: ClassVar[Betas] = Betas.ANY
    many_players: ClassVar[bool] = True

    eta: float | jax.Array | None = None

    def __post_init__(self):
        check_hyperparameter("eta", self.eta, 0, math.inf)

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> BasicState:
        """Start from a policy `[n, *batch]`: one query."""
        return BasicState.start(problem, log_policy)

    def step(self, problem: RegularizedGame, state: BasicState) -> BasicState:
        """Make one step: two queries."""
        s = relative_step(self.eta, problem.beta, PAPER_STEP)
        opponent = problem.proximal_map(state.log_policy, state.payoffs, s)
        log_policy = problem.proximal_map(state.log_policy, problem.payoffs(opponent), s)
        return state.move(problem, log_policy, s * problem.beta, queries=2)
