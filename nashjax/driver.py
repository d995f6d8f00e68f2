"""The driver: repeat an algorithm's step over a batch of games until each certificate is small enough."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nashjax import simplex
from nashjax.algorithms import Algorithm
from nashjax.problem import RegularizedGame
from nashjax.solution import Status

STALL_LEVEL = 4.0
"""Below this many rounding floors an exploitability may be all that the dtype can show (benchmarks/adaptive.py)."""
STALL_PATIENCE = 50
"""Steps without a new best at that level, and a quarter of all steps made, before a game counts as stalled."""
POLISHING_STEPS = 2
"""Undamped Newton steps past the tolerance, which make the logarithms of rare actions accurate (spec 3)."""

_RUNNING = -1


class Outcome(NamedTuple):
    """How games ended; actions first.

    Attributes:
      log_policy: the best policy found, `[n, *batch]`.
      exploitability: of that policy, `[*batch]`; inf where the status is INVALID.
      queries: evaluations of `P v`, int32 `[*batch]`.
      steps: steps of the algorithm, int32 `[*batch]`.
      status: int8 `[*batch]`.
    """

    log_policy: jax.Array
    exploitability: jax.Array
    queries: jax.Array
    steps: jax.Array
    status: jax.Array

    def batch_first(self) -> Outcome:
        """The outcome with the action axis last."""
        return self._replace(log_policy=jnp.moveaxis(self.log_policy, 0, -1))

    def actions_first(self) -> Outcome:
        """The outcome with the action axis first again."""
        return self._replace(log_policy=jnp.moveaxis(self.log_policy, -1, 0))


class _Progress(NamedTuple):
    """What the loop carries: the algorithm's state and, of each game, the best so far."""

    state: Any
    best: Outcome
    steps_since_best: jax.Array  # [*batch]


def run(
    problem: RegularizedGame,
    algorithm: Algorithm[Any],
    log_initial: jax.Array,
    playing: jax.Array,
    tol: jax.Array | float,
    max_queries: jax.Array | int,
) -> Outcome:
    """Run an algorithm on games side by side until the last one ends; a game that has ended stays as it is.

    Args:
      problem: the games.
      algorithm: the method.
      log_initial: where it starts, `[n, *batch]`.
      playing: bool `[*batch]`; the other games end at once, as INVALID.
      tol: exploitability to reach, `[*batch]`.
      max_queries: most queries of each game, `[*batch]`.
    """
    floor = problem.rounding_floor()

    def judge_running(progress: _Progress) -> jax.Array:
        best = progress.best
        patience = STALL_PATIENCE + best.steps // 4  # slow progress is not a stall
        stalled = (best.exploitability <= STALL_LEVEL * floor) & (progress.steps_since_best >= patience)
        spent = best.queries > max_queries - algorithm.queries_per_step
        if hasattr(algorithm, "max_steps"):
            most = jnp.asarray(algorithm.max_steps, floor.dtype)  # pyright: ignore[reportAttributeAccessIssue]
            spent |= best.steps.astype(floor.dtype) >= most
        verdict = jnp.where(spent, jnp.int8(Status.MAX_QUERIES), jnp.int8(_RUNNING))
        verdict = jnp.where(stalled, jnp.int8(Status.STALLED), verdict)
        verdict = jnp.where(best.exploitability <= tol, jnp.int8(Status.CONVERGED), verdict)
        return jnp.broadcast_to(verdict, playing.shape)

    def advance(progress: _Progress) -> _Progress:
        best = progress.best
        state = algorithm.step(problem, progress.state)
        exploitability = problem.exploitability(state.log_policy, state.payoffs)
        better = exploitability < best.exploitability
        best = Outcome(
            log_policy=simplex.choose(better, state.log_policy, best.log_policy),
            exploitability=jnp.where(better, exploitability, best.exploitability),
            queries=state.queries,
            steps=best.steps + 1,
            status=best.status,
        )
        following = _Progress(state, best, jnp.where(better, 0, progress.steps_since_best + 1))
        status = jnp.where(jnp.isfinite(exploitability), judge_running(following), jnp.int8(Status.INVALID))
        following = following._replace(best=best._replace(status=status))
        running = progress.best.status == _RUNNING
        return simplex.choose(running, following, progress)

    state = algorithm.init(problem, log_initial)
    exploitability = problem.exploitability(state.log_policy, state.payoffs)
    playing &= jnp.isfinite(exploitability)
    zero = jnp.zeros(playing.shape, jnp.int32)
    best = Outcome(
        state.log_policy, jnp.where(playing, exploitability, jnp.inf), state.queries, zero, zero.astype(jnp.int8)
    )
    start = _Progress(state, best, zero)
    status = jnp.where(playing, judge_running(start), jnp.int8(Status.INVALID))
    start = start._replace(best=best._replace(status=status))
    # Under `shard_map` what a loop carries must vary over the mesh from the start, as the arguments of the solve do.
    anything = playing & (tol >= 0) & (max_queries > 0)
    start = simplex.choose(anything, start, start)
    end = jax.lax.while_loop(lambda progress: jnp.any(progress.best.status == _RUNNING), advance, start)
    best = end.best
    if hasattr(algorithm, "polish"):
        # A game that has converged did so with its last policy, whose query the state holds.
        best = jax.lax.cond(
            jnp.any(best.status == Status.CONVERGED),
            lambda best: _polish(problem, algorithm, best, end.state.payoffs, tol, max_queries),
            lambda best: best,
            best,
        )
    return best._replace(exploitability=jnp.where(best.status == Status.INVALID, jnp.inf, best.exploitability))


def resume(
    problem: RegularizedGame,
    algorithm: Algorithm[Any],
    outcome: Outcome,
    playing: jax.Array,
    tol: jax.Array | float,
    max_queries: jax.Array | int,
) -> Outcome:
    """Go on with another algorithm in the games `playing`; all else stays as it is. The counts go on too.

    A game that got here has been queried and is one: where this algorithm comes to what is not finite, that is its own
    rounding, and the game has the status MAX_QUERIES, as any that it did not solve.
    """
    left = max_queries - outcome.queries
    playing &= (outcome.status != Status.INVALID) & (left > algorithm.queries_per_step)
    ended = run(problem, algorithm, outcome.log_policy, playing, tol, left)
    ended = ended._replace(
        queries=outcome.queries + ended.queries,
        steps=outcome.steps + ended.steps,
        status=jnp.where(ended.status == Status.INVALID, jnp.int8(Status.MAX_QUERIES), ended.status),
    )
    return simplex.choose(playing, ended, outcome)


def restart(outcome: Outcome, log_policy: jax.Array) -> Outcome:
    """The outcome with another policy to go on from; its exploitability is not known yet, inf."""
    log_policy = jnp.broadcast_to(log_policy, outcome.log_policy.shape)
    return outcome._replace(log_policy=log_policy, exploitability=jnp.full_like(outcome.exploitability, jnp.inf))


def keep_better(new: Outcome, old: Outcome) -> Outcome:
    """The new outcome, with the old policy where that has the lower exploitability."""
    better = new.exploitability <= old.exploitability
    return new._replace(
        log_policy=simplex.choose(better, new.log_policy, old.log_policy),
        exploitability=jnp.where(better, new.exploitability, old.exploitability),
    )


def judge(problem: RegularizedGame, exploitability: jax.Array, tol: jax.Array | float) -> jax.Array:
    """The status of games that have ended with these exploitabilities, int8 `[*batch]`."""
    stalled = exploitability <= STALL_LEVEL * problem.rounding_floor()
    verdict = jnp.where(stalled, jnp.int8(Status.STALLED), jnp.int8(Status.MAX_QUERIES))
    return jnp.where(exploitability <= tol, jnp.int8(Status.CONVERGED), verdict)


def certify(problem: RegularizedGame, outcome: Outcome, among: jax.Array, tol: jax.Array | float) -> Outcome:
    """Judge the policies of the games `among`, bool `[*batch]`, once more, by a query that is not counted.

    A method certifies itself with the payoffs that it holds. They may be those of another policy: in float32 at tiny
    betas logarithms of 1e6 are rounded once for the policy and differently for its query, and a user's own method may
    be wrong. A certificate that is off by more than rounding gives way to the true one, and the status follows it.
    """
    exploitability = problem.exploitability(outcome.log_policy, problem.payoffs(outcome.log_policy))
    rounding = jnp.sqrt(STALL_LEVEL * problem.rounding_floor())
    refuted = ~(exploitability <= jnp.square(jnp.sqrt(outcome.exploitability) + rounding))
    refuted &= among & (outcome.status != Status.INVALID)
    return outcome._replace(
        exploitability=jnp.where(refuted, exploitability, outcome.exploitability),
        status=jnp.where(refuted, judge(problem, exploitability, tol), outcome.status),
    )


def _polish(
    problem: RegularizedGame,
    algorithm: Any,
    end: Outcome,
    payoffs: jax.Array,
    tol: jax.Array | float,
    max_queries: jax.Array | int,
) -> Outcome:
    """Undamped steps for the games that have converged, each kept unless it leaves the tolerance."""

    def polish(carried: tuple[Outcome, jax.Array], _: None) -> tuple[tuple[Outcome, jax.Array], None]:
        end, payoffs = carried
        log_policy, polished_payoffs = algorithm.polish(problem, end.log_policy, payoffs)
        exploitability = problem.exploitability(log_policy, polished_payoffs)
        asked = (end.status == Status.CONVERGED) & (problem.beta > 0) & (end.queries <= max_queries - 2)
        kept = asked & (exploitability <= tol)
        polished = end._replace(
            log_policy=simplex.choose(kept, log_policy, end.log_policy),
            exploitability=jnp.where(kept, exploitability, end.exploitability),
            queries=end.queries + jnp.where(asked, 2, 0),
        )
        return (polished, simplex.choose(kept, polished_payoffs, payoffs)), None

    return jax.lax.scan(polish, (end, payoffs), length=POLISHING_STEPS)[0][0]
