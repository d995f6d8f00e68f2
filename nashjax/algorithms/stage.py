"""One stage of a solve: an algorithm with the games that it plays, where it starts, and what it has to reach."""

from __future__ import annotations

import abc
import dataclasses
import enum
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nashjax._math import simplex
from nashjax._math.pytree import register_dataclass
from nashjax._math.regularized import kl_bound
from nashjax.algorithms._loop import STALL_LEVEL, Goal, Observer, Run, run
from nashjax.algorithms.base import Algorithm, Betas
from nashjax.games.regularized import RegularizedGame
from nashjax.problem import Problem
from nashjax.solution import Progress, Status

TIGHT_TOLERANCE = 1e-9
"""In float64, tolerances below this also ask for accurate logarithms of rare actions, which a certificate of a policy
does not show: Newton's method and its polish make them so."""
LARGEST_MATRIX = 4096
"""Above this many actions a linear solve costs more than the queries that it saves."""
MASS_TOLERANCE = 1e-2
"""How far from 1 the probabilities of an answer may sum up: rounding of a million of them leaves less."""


class Start(enum.Enum):
    """Policy from which a stage starts."""

    LAST = "where the last stage ended"
    BEST = "the best policy so far"
    REFERENCE = "the reference"


class Context(NamedTuple):
    """State of a solve that the rules of a stage can read; arrays are `[*batch]`.

    Attributes:
      games: the games, actions first.
      tol: exploitability asked for by the caller.
      exploitability: certificate of the best policy so far; inf before the first.
      max_queries: queries that a game has left.
    """

    games: RegularizedGame
    tol: jax.Array
    exploitability: jax.Array
    max_queries: jax.Array

    @property
    def beta(self) -> jax.Array:
        """Regularization of each game."""
        return jnp.broadcast_to(self.games.beta, self.exploitability.shape)

    @property
    def dtype(self) -> jnp.dtype:
        """Dtype of the solve."""
        return self.games.log_reference.dtype

    @property
    def is_tight(self) -> jax.Array:
        """Whether tolerances ask for accurate logarithms, too, bool `[*batch]`."""
        return (self.tol < TIGHT_TOLERANCE) & (self.dtype == jnp.float64)

    @property
    def solvable(self) -> bool:
        """Whether linear systems of the games are worth solving."""
        return is_solvable(self.games.game.has_matrix, self.games.game.num_actions)


def is_solvable(has_matrix: bool, num_actions: int) -> bool:
    """Return whether games offer a matrix small enough for linear solves."""
    return has_matrix and num_actions <= LARGEST_MATRIX


@dataclasses.dataclass(frozen=True)
class When:
    """Games that a stage plays: the unfinished ones that meet all conditions.

    Attributes:
      betas: kind of beta.
      beta_from: least beta.
      beta_below: all betas are below this; inf for no bound.
      matrix: only games that offer a matrix of at most `LARGEST_MATRIX` actions.
      dtype: only solves in this dtype, "float32" or "float64"; None for both.
      divergence_above: only games whose start is not certified to be within this divergence of the equilibrium, in
        nats; games at beta = 0 never are.
      actions_from: least number of actions.
    """

    betas: Betas = Betas.ANY
    beta_from: float = 0.0
    beta_below: float = math.inf
    matrix: bool = False
    dtype: str | None = None
    divergence_above: float | None = None
    actions_from: int = 0

    def includes_beta(self, beta: Any) -> Any:
        """Return the betas that are in range, bool; one that is not valid is in every range."""
        included = self.betas.include(beta)
        if self.beta_from > 0:
            included &= beta >= self.beta_from
        if self.beta_below < math.inf:
            included &= beta < self.beta_below
        return included | ~(beta >= 0)

    def can_include(self, solvable: bool, num_actions: int, dtype: np.dtype, betas: np.ndarray | None) -> bool:
        """Return whether games of a size and dtype, with linear systems worth solving or not, can be among these.

        `betas` are their values, None if they are traced.
        """
        if (self.matrix and not solvable) or self.dtype not in (None, dtype.name) or num_actions < self.actions_from:
            return False
        return betas is None or bool(np.any(self.includes_beta(betas)))

    def includes(self, context: Context) -> jax.Array:
        """Return the games that meet the conditions that depend on values, bool `[*batch]`."""
        beta = context.beta
        included = self.includes_beta(beta)
        if self.divergence_above is not None:
            included &= (beta == 0) | ~(context.exploitability <= self.divergence_above * beta)
        return included

    def __str__(self) -> str:
        low = f"{self.beta_from:g} <= " if self.beta_from else ""
        high = "" if self.beta_below == math.inf else f" < {self.beta_below:g}"
        conditions = [f"{low}beta{high}" if low or high else self.betas.value]
        conditions += ["matrix"] if self.matrix else []
        conditions += [f"actions >= {self.actions_from}"] if self.actions_from else []
        conditions += [self.dtype] if self.dtype else []
        conditions += [f"divergence > {self.divergence_above:g}"] if self.divergence_above is not None else []
        return ", ".join(conditions)


def reach_tolerance(context: Context) -> Goal:
    """Reach the tolerance of the caller."""
    return Goal(context.tol, context.max_queries)


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """One algorithm in a list of stages.

    Attributes:
      name: short name, shown by `repr` and used to replace the stage.
      when: the games that the stage plays; games that an earlier stage has finished are left out.
      algorithm: the method.
      goal: function of the `Context` that returns what the run has to reach, a `Goal`.
      start: policy to start from.
      beta: function of the games that returns the betas `[*batch]` to play at; None for their own. Where it differs,
        the end is a starting policy for the next stage.
      hand_over: function of the games, the log-policy at which a run at another beta has ended and its payoffs, that
        returns the log-policy with which the next stage starts; None for the end itself.
      verify: whether one more query, not counted, verifies each answer.
    """

    name: str = dataclasses.field(metadata={"static": True})
    when: When = dataclasses.field(metadata={"static": True})
    algorithm: Algorithm[Any]
    goal: Callable[[Context], Goal] = dataclasses.field(default=reach_tolerance, metadata={"static": True})
    start: Start = dataclasses.field(default=Start.LAST, metadata={"static": True})
    beta: Callable[[RegularizedGame], jax.Array] | None = dataclasses.field(default=None, metadata={"static": True})
    hand_over: Callable[[RegularizedGame, jax.Array, jax.Array], jax.Array] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )
    verify: bool = dataclasses.field(default=True, metadata={"static": True})

    @functools.cached_property
    def identity(self) -> int:
        """Number that stages share if they differ in leaves of their algorithms alone."""
        rules = (self.name, self.when, type(self.algorithm), self.goal, self.start)
        rules += (self.beta, self.hand_over, self.verify)
        return _identities.setdefault(rules, len(_identities))

    def __str__(self) -> str:
        return f"{self.name}: {self.when}: {self.algorithm}: {self.goal.__name__}"


class Recorder(abc.ABC):
    """Records the steps of the stages of a solve."""

    @abc.abstractmethod
    def limit(self, goal: Goal) -> Goal:
        """Return the goal with no more steps than there is room to record."""

    @abc.abstractmethod
    def start(self, games: RegularizedGame, queries: jax.Array) -> tuple[Observer, Any]:
        """Return the observer of the run of a stage and the records so far; `queries` were asked before the run."""

    @abc.abstractmethod
    def end(self, records: Any, plays: jax.Array, steps: jax.Array) -> None:
        """Take back the records of the run, with the steps of the games that have played."""


_identities: dict[tuple[Any, ...], int] = {}


def run_stage(
    stage: Stage,
    problem: Problem,
    progress: Progress | None,
    max_queries: jax.Array | int,
    recorder: Recorder | None = None,
) -> Progress:
    """Run a stage on the games that it plays; all others stay as they are. Traceable.

    Args:
      stage: the stage.
      problem: the games.
      progress: where earlier stages have left them, batch axes first; None at the beginning.
      max_queries: largest number of queries of each game over all stages.
      recorder: records every step; None for no record.

    Returns:
      The progress, batch axes first.
    """
    games, log_initial, valid = problem.regularized()
    tol = problem.aligned().tol
    now = _begin(games, log_initial, valid) if progress is None else progress.actions_first()
    if stage.when.divergence_above is not None:
        now = _certify_start(games, now, tol)
    # What ends a run at another beta is certified at the beta of the games, by one more query.
    left = jnp.asarray(max_queries, jnp.int32) - now.queries - (0 if stage.beta is None else 1)
    context = Context(games, tol, now.exploitability, left)
    goal = stage.goal(context)
    # A game that has an answer plays on only if that allows a step.
    enough = jnp.where(now.status == Status.INVALID, left >= 1, left > stage.algorithm.queries_per_step)
    plays = now.unfinished & stage.when.includes(context) & enough
    played = games if stage.beta is None else dataclasses.replace(games, beta=stage.beta(games), player_betas=None)
    if recorder is not None:
        goal = recorder.limit(goal)
    observe, records = (None, None) if recorder is None else recorder.start(games, now.queries)
    end, records = run(played, stage.algorithm, _starting_policy(stage, games, now), plays, goal, observe, records)
    if recorder is not None:
        recorder.end(records, plays, end.steps)
    if stage.beta is None:
        return _take_answer(stage, context, now, end, plays, goal).actions_last()
    return _take_start(stage, context, now, end, plays, played).actions_last()


def _begin(games: RegularizedGame, log_initial: jax.Array, valid: jax.Array) -> Progress:
    """Return the progress of games that no stage has played: status INVALID, which holds if none ever does."""
    zero = jnp.zeros(valid.shape, jnp.int32)
    inf = jnp.full(valid.shape, jnp.inf, log_initial.dtype)
    status = jnp.full(valid.shape, Status.INVALID, jnp.int8)
    return Progress(log_initial, inf, inf, zero, zero, status, valid, log_initial)


def _certify_start(games: RegularizedGame, now: Progress, tol: jax.Array) -> Progress:
    """Certify the policy that games start from where no stage has played: one query.

    A game whose start has the tolerance is finished, unless it is a plain one, which may have a better equilibrium, or
    the tolerance is tight.
    """
    new = now.unfinished & (now.status == Status.INVALID)
    exploitability = games.exploitability(now.last, games.payoffs(now.last))
    finite = new & jnp.isfinite(exploitability)
    now = now._replace(
        log_policy=simplex.choose(finite, now.last, now.log_policy),
        exploitability=jnp.where(finite, exploitability, now.exploitability),
        queries=now.queries + jnp.where(new, 1, 0),
        status=jnp.where(finite, jnp.int8(Status.MAX_QUERIES), now.status),
        unfinished=now.unfinished & (finite | ~new),
    )
    context = Context(games, tol, now.exploitability, now.queries)
    finished = new & (now.exploitability <= tol) & (context.beta > 0) & ~context.is_tight
    return _judged(context, now._replace(unfinished=now.unfinished & ~finished), new & finite, new & ~finite)


def _starting_policy(stage: Stage, games: RegularizedGame, now: Progress) -> jax.Array:
    if stage.start is Start.REFERENCE:
        return jnp.broadcast_to(games.log_reference, now.last.shape)
    if stage.start is Start.LAST:
        return now.last
    return simplex.choose(jnp.isfinite(now.exploitability), now.log_policy, now.last)


def _take_answer(stage: Stage, context: Context, now: Progress, end: Run, plays: jax.Array, goal: Goal) -> Progress:
    """Merge the answers of a run on the games themselves: one that settles its game counts, else the better one."""
    games = context.games
    exploitability = _verified(games, end) if stage.verify else end.exploitability
    refuted = exploitability != end.exploitability
    reached = (exploitability <= goal.exploitability) | (end.stalled & ~refuted)
    settled = plays & ((reached & goal.settles) | end.proved)
    first = now.status == Status.INVALID
    failed = plays & end.failed & first  # the first answer of a game that is not finite shows that it is no game
    taken = plays & (settled | (exploitability <= now.exploitability) | first)
    return _judged(
        context,
        now._replace(
            log_policy=simplex.choose(taken, end.log_policy, now.log_policy),
            exploitability=jnp.where(taken, exploitability, now.exploitability),
            queries=now.queries + jnp.where(plays, end.queries, 0),
            steps=now.steps + jnp.where(plays, end.steps, 0),
            unfinished=now.unfinished & ~settled & ~failed,
            last=simplex.choose(plays, end.log_policy, now.last),
        ),
        plays,
        failed,
    )


def _take_start(
    stage: Stage, context: Context, now: Progress, end: Run, plays: jax.Array, played: RegularizedGame
) -> Progress:
    """Merge the ends of a run at other betas: starts for the next stage, and answers only where they are better."""
    games = context.games
    payoffs = games.payoffs(end.log_policy)
    exploitability = games.exploitability(end.log_policy, payoffs)
    start = end.log_policy
    if stage.hand_over is not None:
        start = stage.hand_over(games, end.log_policy, payoffs)
    elsewhere = plays & (context.beta != jnp.broadcast_to(played.beta, plays.shape))
    taken = plays & (exploitability <= now.exploitability)
    return _judged(
        context,
        now._replace(
            log_policy=simplex.choose(taken, end.log_policy, now.log_policy),
            exploitability=jnp.where(taken, exploitability, now.exploitability),
            queries=now.queries + jnp.where(plays, end.queries, 0) + jnp.where(elsewhere, 1, 0),
            steps=now.steps + jnp.where(plays, end.steps, 0),
            last=simplex.choose(elsewhere, start, simplex.choose(plays, end.log_policy, now.last)),
        ),
        plays,
        plays & False,
    )


def _verified(games: RegularizedGame, end: Run) -> jax.Array:
    """Return the certificate of each answer, computed once more where it is off by more than rounding; `[*batch]`.

    A method certifies itself with the payoffs that it holds. They may be those of another policy: in float32 at tiny
    betas logarithms of 1e6 are rounded once for the policy and differently for its query, and a user's own method may
    be wrong.
    """
    exploitability = games.exploitability(end.log_policy, games.payoffs(end.log_policy))
    rounding = jnp.sqrt(STALL_LEVEL * games.rounding_floor())
    confirmed = exploitability <= jnp.square(jnp.sqrt(end.exploitability) + rounding)
    return jnp.where(confirmed | ~jnp.isfinite(end.exploitability), end.exploitability, exploitability)


def _judged(context: Context, now: Progress, plays: jax.Array, failed: jax.Array) -> Progress:
    """Give the games that have played the status that their certificate shows."""
    floor = context.games.rounding_floor()
    stalled = now.exploitability <= STALL_LEVEL * floor
    status = jnp.where(stalled, jnp.int8(Status.STALLED), jnp.int8(Status.MAX_QUERIES))
    status = jnp.where(now.exploitability <= context.tol, jnp.int8(Status.CONVERGED), status)
    # An exploitability certifies nothing of weights that do not sum to 1.
    mass = simplex.sums(jnp.exp(now.log_policy), context.games.sizes)
    is_policy = jnp.all(jnp.abs(mass - 1) <= MASS_TOLERANCE, axis=0)
    status = jnp.where(failed | ~is_policy | ~(now.exploitability < jnp.inf), jnp.int8(Status.INVALID), status)
    status = jnp.where(plays, status, now.status)
    invalid = status == Status.INVALID
    exploitability = jnp.where(invalid, jnp.inf, now.exploitability)
    return now._replace(
        log_policy=simplex.choose(~invalid, now.log_policy, jnp.nan),
        exploitability=exploitability,
        kl_bound=kl_bound(exploitability, context.games.lowest_beta, floor),
        status=status,
        unfinished=now.unfinished & ~(plays & invalid),
    )
