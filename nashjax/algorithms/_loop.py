"""The driver: repeat the step of an algorithm over a batch of games until each certificate is small enough."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nashjax._math import simplex
from nashjax.algorithms.base import Algorithm
from nashjax.games.regularized import RegularizedGame

STALL_LEVEL = 4.0
"""Below this many rounding floors an exploitability may be all that the dtype can show (benchmarks/adaptive.py)."""
STALL_PATIENCE = 50
"""Steps without a new best at that level, and a quarter of all steps made, before a game counts as stalled."""
POLISHING_STEPS = 2
"""Undamped Newton steps past the goal, which make the logarithms of rare actions accurate."""


class Goal(NamedTuple):
    """When a run of an algorithm ends; every field is a number or `[*batch]`.

    Attributes:
      exploitability: exploitability to reach.
      max_queries: largest number of queries of the run.
      max_steps: largest number of steps of the run.
      settles: whether a game that reaches the goal is finished; if not, a later stage goes on with it.
    """

    exploitability: jax.Array
    max_queries: jax.Array | int
    max_steps: jax.Array | int | None = None
    settles: jax.Array | bool = True


class Run(NamedTuple):
    """How a run of an algorithm ended; actions first.

    Attributes:
      log_policy: the best policy found, or the proved one, `[n, *batch]`.
      exploitability: of that policy, `[*batch]`; inf where the start was not finite.
      queries: evaluations of `P v` in this run, int32 `[*batch]`.
      steps: steps of this run, int32 `[*batch]`.
      running: whether a game goes on, bool `[*batch]`; false for all at the end.
      stalled: whether a game has ended because the dtype shows no further progress, bool `[*batch]`.
      failed: whether a game has ended because its payoffs were not finite, bool `[*batch]`.
      proved: whether the policy is proved to be the answer, bool `[*batch]`.
    """

    log_policy: jax.Array
    exploitability: jax.Array
    queries: jax.Array
    steps: jax.Array
    running: jax.Array
    stalled: jax.Array
    failed: jax.Array
    proved: jax.Array


class _Loop(NamedTuple):
    """Carry of the loop: the state of the algorithm and, for each game, the best so far."""

    state: Any
    best: Run
    steps_since_best: jax.Array  # [*batch]
    records: Any


Observer = Callable[[Any, Any, jax.Array, jax.Array], Any]
"""From the records, the state after a step, the number of the step and the games that made it to the new records."""


def run(
    problem: RegularizedGame,
    algorithm: Algorithm[Any],
    log_initial: jax.Array,
    playing: jax.Array,
    goal: Goal,
    observe: Observer | None = None,
    records: Any = None,
) -> tuple[Run, Any]:
    """Run an algorithm on games side by side until the last one ends; a game that has ended stays as it is.

    Args:
      problem: the games.
      algorithm: the method.
      log_initial: policies to start from, `[n, *batch]`.
      playing: games to run on, bool `[*batch]`.
      goal: when a game ends.
      observe: function called after each step, None for none.
      records: what that function gets first.

    Returns:
      How the run ended, and the records.
    """
    floor = problem.rounding_floor()

    def advance(loop: _Loop) -> _Loop:
        state = algorithm.step(problem, loop.state)
        best, exploitability = loop.best, problem.exploitability(state.log_policy, state.payoffs)
        better = exploitability < best.exploitability
        best = best._replace(
            log_policy=simplex.choose(better, state.log_policy, best.log_policy),
            exploitability=jnp.where(better, exploitability, best.exploitability),
            queries=state.queries,
            steps=best.steps + 1,
        )
        following = _Loop(state, best, jnp.where(better, 0, loop.steps_since_best + 1), None)
        following = _judge(following, algorithm, goal, floor, ~jnp.isfinite(exploitability))
        following = simplex.choose(loop.best.running, following, loop._replace(records=None))
        if observe is None:
            return following
        return following._replace(records=observe(loop.records, state, best.steps, loop.best.running))

    state = algorithm.init(problem, log_initial)
    exploitability = problem.exploitability(state.log_policy, state.payoffs)
    finite = jnp.isfinite(exploitability)
    none, zero = playing & False, jnp.zeros(playing.shape, jnp.int32)
    start = Run(
        state.log_policy, jnp.where(finite, exploitability, jnp.inf), state.queries, zero, playing, none, none, none
    )
    loop = _judge(_Loop(state, start, zero, None), algorithm, goal, floor, ~finite)
    # Under `shard_map` what a loop carries must vary over the mesh from the start, as the arguments of the solve do.
    anything = playing & (goal.exploitability >= 0) & (goal.max_queries > 0)
    loop = simplex.choose(anything, loop, loop)._replace(records=records)
    end = jax.lax.while_loop(lambda loop: jnp.any(loop.best.running), advance, loop)
    return _conclude(problem, algorithm, end, playing, goal), end.records


def _judge(loop: _Loop, algorithm: Algorithm[Any], goal: Goal, floor: jax.Array, failed: jax.Array) -> _Loop:
    """End the games that have reached the goal, stalled, failed or spent their queries or steps."""
    best = loop.best
    patience = STALL_PATIENCE + best.steps // 4  # slow progress is not a stall
    reached = best.exploitability <= goal.exploitability
    stalled = (best.exploitability <= STALL_LEVEL * floor) & (loop.steps_since_best >= patience)
    spent = best.queries > goal.max_queries - algorithm.queries_per_step
    for most in (algorithm.max_steps, goal.max_steps):
        if most is not None:
            spent |= best.steps.astype(floor.dtype) >= jnp.asarray(most, floor.dtype)
    failed, stalled = failed & best.running, stalled & best.running & ~reached
    return loop._replace(
        best=best._replace(
            running=best.running & ~(reached | stalled | spent | failed),
            stalled=best.stalled | stalled,
            failed=best.failed | failed,
        )
    )


def _conclude(problem: RegularizedGame, algorithm: Algorithm[Any], loop: _Loop, playing: jax.Array, goal: Goal) -> Run:
    """Polish the games that have reached the goal, and prefer proved policies to those of the best certificate."""
    best, state = loop.best, loop.state
    if algorithm.polishes:
        # A game that has reached the goal did so with its last policy, whose query the state holds.
        reached = playing & ~best.failed & (best.exploitability <= goal.exploitability)
        best = jax.lax.cond(
            jnp.any(reached),
            lambda best: _polish(problem, algorithm, best, state.payoffs, reached, goal),
            lambda best: best,
            best,
        )
    proved = algorithm.proves(state)
    if proved is None:
        return best
    proved &= playing & ~best.failed
    return best._replace(
        log_policy=simplex.choose(proved, state.log_policy, best.log_policy),
        exploitability=jnp.where(proved, problem.exploitability(state.log_policy, state.payoffs), best.exploitability),
        proved=proved,
    )


def _polish(
    problem: RegularizedGame, algorithm: Algorithm[Any], end: Run, payoffs: jax.Array, reached: jax.Array, goal: Goal
) -> Run:
    """Make undamped steps in the games that have reached the goal; a step is kept unless it leaves the goal."""

    def polish(carried: tuple[Run, jax.Array], _: None) -> tuple[tuple[Run, jax.Array], None]:
        end, payoffs = carried
        log_policy, polished_payoffs = algorithm.polish(problem, end.log_policy, payoffs)
        exploitability = problem.exploitability(log_policy, polished_payoffs)
        asked = reached & (problem.lowest_beta > 0) & (end.queries <= goal.max_queries - 2)
        kept = asked & (exploitability <= goal.exploitability)
        polished = end._replace(
            log_policy=simplex.choose(kept, log_policy, end.log_policy),
            exploitability=jnp.where(kept, exploitability, end.exploitability),
            queries=end.queries + jnp.where(asked, 2, 0),
        )
        return (polished, simplex.choose(kept, polished_payoffs, payoffs)), None

    return jax.lax.scan(polish, (end, payoffs), length=POLISHING_STEPS)[0][0]
