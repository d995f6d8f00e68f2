"""Methods for actions that can be listed: estimate the game or its payoffs, then apply what is exact (spec 4)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from nashjax._math import simplex
from nashjax._math.regularized import proximal_map
from nashjax._solve import solve
from nashjax._validation import check_choice, check_integer, check_number, check_positive, invalid
from nashjax.algorithms import AdaptiveNashMP, NashMP
from nashjax.games import MatrixGame
from nashjax.games.regularized import RegularizedGame
from nashjax.stochastic.methods.base import check_schedule, linear_decay
from nashjax.stochastic.sampled_game import Asked, SampledGame, draw

SOLVE_TOLERANCE = 1e-8
"""Far below what answers can tell; the solve says STALLED where float32 cannot show it, which does no harm."""
STEPS_TO_KEEP_APART = 1024
"""Steps whose answers are counted apart before they join all others."""


class PlugInState(NamedTuple):
    """State of `PlugIn`.

    Attributes:
      wins: how often an action was preferred, ties as halves, `[num_contexts, n, n]`, but for the last steps.
      recent: the same in the last steps: a single answer would be lost in the rounding of a large count.
      step: int32, how many steps were made.
      log_policy: a rough equilibrium of what is known, where questions go, `[num_contexts, n]`.
    """

    wins: jax.Array
    recent: jax.Array
    step: jax.Array
    log_policy: jax.Array


@dataclasses.dataclass(frozen=True)
class PlugIn:
    """Ask pairs, estimate the matrix, solve it: the best there is where actions can be listed (spec 4).

    Attributes:
      ask: which pairs: `"uniform"`, or `"equilibrium"` for pairs of which each action is drawn half uniformly and half
        from the equilibrium of what is known so far.
      prior: imagined comparisons of each pair beforehand, half won by each, >= 0; pairs without any count as 1/2.
      batch_size: comparisons in a step, >= 1.
    """

    ask: Literal["uniform", "equilibrium"] = "uniform"
    prior: float = 1.0
    batch_size: int = 128

    def __post_init__(self):
        check_integer("batch_size", self.batch_size, 1)
        check_choice("ask", self.ask, ("uniform", "equilibrium"))
        check_number("prior", self.prior)

    def init(self, game: SampledGame, key: jax.Array) -> PlugInState:
        """Nothing is known."""
        del key
        contexts, n = game.log_reference.shape
        zeros = jnp.zeros((contexts, n, n), game.log_reference.dtype)
        return PlugInState(zeros, zeros, jnp.int32(0), game.log_reference)

    def step(
        self, game: SampledGame, state: PlugInState, key: jax.Array, progress: jax.Array
    ) -> tuple[PlugInState, Asked]:
        """Ask `batch_size` pairs of different allowed actions and count."""
        del progress
        for_contexts, for_actions, for_opponents, for_answers = jax.random.split(key, 4)
        contexts = game.draw_contexts(for_contexts, self.batch_size)
        allowed = jnp.isfinite(game.log_reference)
        number = jnp.sum(allowed, axis=-1, keepdims=True).astype(game.log_reference.dtype)
        log_asked = jnp.where(allowed, -jnp.log(number), -jnp.inf)
        if self.ask == "equilibrium":
            log_asked = jnp.logaddexp(log_asked, state.log_policy) - math.log(2.0)
        log_asked = log_asked[contexts]
        actions = draw(log_asked, for_actions, 1)
        # An action compared with itself tells nothing.
        itself = jnp.arange(log_asked.shape[-1], dtype=jnp.int32)[None] == actions
        others = jnp.where(itself, -jnp.inf, log_asked)
        any_other = jnp.any(jnp.isfinite(others), axis=-1, keepdims=True)
        opponents = jnp.where(any_other, draw(others, for_opponents, 1), actions)
        asked = game.compare(for_answers, contexts, actions, opponents)
        at = jax.tree.map(jnp.ravel, asked)
        recent = state.recent.at[at.context, at.action, at.opponent].add(at.outcome)
        recent = recent.at[at.context, at.opponent, at.action].add(1 - at.outcome)
        step = state.step + 1
        full = step % STEPS_TO_KEEP_APART == 0
        state = state._replace(
            wins=jnp.where(full, state.wins + recent, state.wins), recent=jnp.where(full, 0, recent), step=step
        )
        if self.ask == "equilibrium":
            problem = RegularizedGame(self.estimate(state), game.beta[None], game.log_reference.T)
            algorithm = NashMP()
            exact = algorithm.step(problem, algorithm.init(problem, state.log_policy.T))
            state = state._replace(log_policy=exact.log_policy.T)
        return state, asked

    def estimate(self, state: PlugInState) -> MatrixGame:
        """The game of what was counted, batch shape `[num_contexts]`."""
        wins = state.wins + state.recent
        wins = wins + self.prior / 2 * (1 - jnp.eye(wins.shape[-1], dtype=wins.dtype))[None]
        both = wins + jnp.swapaxes(wins, -1, -2)
        return MatrixGame(jnp.where(both > 0, wins / jnp.where(both > 0, both, 1), 0.5))

    def log_policy(self, game: SampledGame, state: PlugInState) -> jax.Array:
        """The equilibrium of the estimated game, `[num_contexts, n]`."""
        return solve(
            self.estimate(state),
            game.beta,
            reference=jnp.exp(game.log_reference),
            algorithm=AdaptiveNashMP(),
            tol=SOLVE_TOLERANCE,
            max_queries=20_000,
        ).log_policy


class ClosedFormState(NamedTuple):
    """State of `ClosedFormNashMP`.

    Attributes:
      log_policy: `log p_k`, `[num_contexts, n]`.
      average: running average of the policies, `[num_contexts, n]`.
      step: int32, how many iterations were made.
    """

    log_policy: jax.Array
    average: jax.Array
    step: jax.Array


@dataclasses.dataclass(frozen=True)
class ClosedFormNashMP:
    """Nash Mirror Prox on a table: payoffs estimated from samples, the proximal map exact (spec 3, 4).

    An iteration estimates `P p_k`, and then `P h`, from `batch_size / 2` answers each: an action is drawn from a
    mixture of the policy and the uniform one, and its answer weighed by the inverse of the probability of that.

    Attributes:
      eta: step of the first iteration, > 0; None for `2 beta`.
      schedule: factor of the step, a function of the share of the run that is done.
      uniform_share: of the uniform policy in the mixture, in (0, 1].
      batch_size: comparisons in an iteration, >= 2 and even.
      averaging: weight of late policies in the average that is returned, as in `PolicyMethod`.
    """

    eta: float | None = None
    schedule: Callable[[jax.Array], jax.Array] = linear_decay
    uniform_share: float = 0.5
    batch_size: int = 128
    averaging: float | None = 1.0

    def __post_init__(self):
        check_integer("batch_size", self.batch_size, 2)
        if self.batch_size % 2:
            raise invalid("batch_size", "an even number", str(self.batch_size))
        check_schedule(self.schedule)
        check_positive("uniform_share", self.uniform_share, 1)
        if self.eta is not None:
            check_positive("eta", self.eta)
        if self.averaging is not None:
            check_number("averaging", self.averaging)

    def init(self, game: SampledGame, key: jax.Array) -> ClosedFormState:
        """Start from the reference."""
        del key
        return ClosedFormState(game.log_reference, jnp.exp(game.log_reference), jnp.int32(0))

    def step(
        self, game: SampledGame, state: ClosedFormState, key: jax.Array, progress: jax.Array
    ) -> tuple[ClosedFormState, Asked]:
        """One iteration: an improved opponent, then the answer to it."""
        for_first, for_second = jax.random.split(key)
        step = (2.0 if self.eta is None else self.eta / game.beta) * self.schedule(progress)
        center = state.log_policy
        payoffs, first = self.payoffs(game, center, for_first)
        opponent = proximal_map(center.T, payoffs.T, step, game.beta, game.log_reference.T).T
        payoffs, second = self.payoffs(game, opponent, for_second)
        log_policy = proximal_map(center.T, payoffs.T, step, game.beta, game.log_reference.T).T
        count = state.step + 1
        average = jnp.exp(log_policy)
        if self.averaging is not None:
            rate = (1 + self.averaging) / (count.astype(average.dtype) + self.averaging)
            average = state.average + rate * (average - state.average)
        asked = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first, second)
        return ClosedFormState(log_policy, average, count), asked

    def payoffs(self, game: SampledGame, log_policy: jax.Array, key: jax.Array) -> tuple[jax.Array, Asked]:
        """An unbiased estimate of `P p - 1/2`, `[num_contexts, n]`, from half of a batch of answers."""
        for_contexts, for_actions, for_opponents, for_answers = jax.random.split(key, 4)
        num = self.batch_size // 2
        contexts = game.draw_contexts(for_contexts, num)
        allowed = jnp.isfinite(game.log_reference)
        allowed = allowed.astype(log_policy.dtype)
        uniform = allowed / jnp.sum(allowed, axis=-1, keepdims=True)
        probability = (1 - self.uniform_share) * jnp.exp(log_policy) + self.uniform_share * uniform
        actions = draw(simplex.log(probability)[contexts], for_actions, 1)
        opponents = draw(log_policy[contexts], for_opponents, 1)
        asked = game.compare(for_answers, contexts, actions, opponents)
        at = jax.tree.map(jnp.ravel, asked)
        weight = game.num_contexts / (num * probability[at.context, at.action])
        estimate = jnp.zeros_like(log_policy).at[at.context, at.action].add((at.outcome - 0.5) * weight)
        return estimate, asked

    def log_policy(self, game: SampledGame, state: ClosedFormState) -> jax.Array:
        """The average of the policies, `[num_contexts, n]`."""
        del game
        return simplex.log(state.average)
