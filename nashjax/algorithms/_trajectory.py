"""Recording of the steps of an algorithm or of a list of stages."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nashjax._math import simplex
from nashjax.algorithms._loop import Goal, Observer
from nashjax.algorithms.base import Algorithm
from nashjax.algorithms.stage import Recorder, Stage, run_stage
from nashjax.games.regularized import RegularizedGame
from nashjax.problem import Problem
from nashjax.solution import Trajectory

NO_STAGE = -1
"""Number of the stage of a step that was not made."""
UNLIMITED = 2**31 - 1


def record_algorithm(problem: Problem, algorithm: Algorithm[Any], num_steps: int) -> Trajectory:
    """Record a fixed number of steps of an algorithm, whatever its certificate; traceable."""
    games, log_initial, valid = problem.regularized()

    def record(state: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        exploitability = games.exploitability(state.log_policy, state.payoffs)
        log_policy = simplex.choose(valid, state.log_policy, jnp.nan)
        return log_policy, jnp.where(valid, exploitability, jnp.inf), state.queries

    def advance(state: Any, _: None) -> tuple[Any, tuple[Any, jax.Array]]:
        state = algorithm.step(games, state)
        return state, (record(state), state.step_size)

    start = algorithm.init(games, log_initial)
    _, (records, step_size) = jax.lax.scan(advance, start, length=num_steps)
    log_policy, exploitability, queries = jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest]), record(start), records
    )
    stage = jnp.zeros((num_steps, *valid.shape), jnp.int8)
    return Trajectory(log_policy, exploitability, queries, step_size, stage).batch_first()


def record_stages(problem: Problem, stages: tuple[tuple[int, Stage], ...], num_steps: int) -> Trajectory:
    """Record the steps of a list of stages, given with their numbers, until each game is finished; traceable.

    After its end a game repeats the last policy, and the number of its stage is `NO_STAGE`.
    """
    batch = problem.batch_shape
    games, log_initial, valid = problem.regularized()
    recorder = _Buffers(games, log_initial, num_steps)
    progress = None
    for number, stage in stages:
        recorder.number = number
        progress = run_stage(stage, problem, progress, UNLIMITED, recorder)
    return recorder.trajectory(valid, batch)


class _Records(NamedTuple):
    """Arrays that are filled step by step; `G` is the number of games.

    Attributes:
      log_policy: `[num_steps + 1, n, G]`.
      exploitability: `[num_steps + 1, G]`.
      queries: int32 `[num_steps + 1, G]`.
      step_size: `[num_steps, G]`.
      stage: int8 `[num_steps, G]`.
    """

    log_policy: jax.Array
    exploitability: jax.Array
    queries: jax.Array
    step_size: jax.Array
    stage: jax.Array


class _Buffers(Recorder):
    """Records into arrays of a fixed number of steps."""

    def __init__(self, games: RegularizedGame, log_initial: jax.Array, num_steps: int) -> None:
        n, num_games = len(log_initial), math.prod(log_initial.shape[1:])
        first = log_initial.reshape(n, num_games)
        exploitability = games.exploitability(log_initial, games.payoffs(log_initial)).reshape(num_games)
        dtype, self._batch = log_initial.dtype, log_initial.shape[1:]
        self.number = 0
        self._num_steps = num_steps
        self._count = jnp.zeros(num_games, jnp.int32)
        self._records = _Records(
            jnp.broadcast_to(first, (num_steps + 1, n, num_games)),
            jnp.broadcast_to(exploitability, (num_steps + 1, num_games)),
            jnp.ones((num_steps + 1, num_games), jnp.int32),
            jnp.zeros((num_steps, num_games), dtype),
            jnp.full((num_steps, num_games), NO_STAGE, jnp.int8),
        )

    def limit(self, goal: Goal) -> Goal:
        """Return the goal with no more steps than there is room to record."""
        room = (self._num_steps - self._count).reshape(self._batch)
        return goal._replace(max_steps=room if goal.max_steps is None else jnp.minimum(goal.max_steps, room))

    def start(self, games: RegularizedGame, queries: jax.Array) -> tuple[Observer, Any]:
        """Return the observer of the run of a stage and the records so far."""
        number, count, everyone = self.number, self._count, jnp.arange(len(self._count))

        def observe(records: _Records, state: Any, step: jax.Array, made: jax.Array) -> _Records:
            flat = made.reshape(-1)
            # A place past the end is dropped.
            at = jnp.where(flat, count + step.reshape(-1), self._num_steps + 1)
            before = jnp.where(flat, at - 1, self._num_steps)
            exploitability = games.exploitability(state.log_policy, state.payoffs)
            policy = state.log_policy.reshape(len(state.log_policy), -1)
            asked = (queries + state.queries).reshape(-1)
            step_size = jnp.broadcast_to(state.step_size, made.shape).reshape(-1)
            return _Records(
                records.log_policy.at[at, :, everyone].set(policy.T, mode="drop"),
                records.exploitability.at[at, everyone].set(exploitability.reshape(-1), mode="drop"),
                records.queries.at[at, everyone].set(asked, mode="drop"),
                records.step_size.at[before, everyone].set(step_size, mode="drop"),
                records.stage.at[before, everyone].set(jnp.int8(number), mode="drop"),
            )

        return observe, self._records

    def end(self, records: Any, plays: jax.Array, steps: jax.Array) -> None:
        """Take back the records of the run, with the steps of the games that have played."""
        self._records = records
        self._count = self._count + jnp.where(plays, steps, 0).reshape(-1)

    def trajectory(self, valid: jax.Array, batch: tuple[int, ...]) -> Trajectory:
        """Return what was recorded, the batch axes first."""
        at = jnp.minimum(jnp.arange(self._num_steps + 1)[:, None], self._count)

        def take(recorded: jax.Array) -> jax.Array:
            return jnp.take_along_axis(recorded, at, axis=0)

        policies = jnp.take_along_axis(self._records.log_policy, at[:, None], axis=0)
        found = Trajectory(
            jnp.where(valid.reshape(-1), policies, jnp.nan).reshape(*policies.shape[:2], *batch),
            jnp.where(valid.reshape(-1), take(self._records.exploitability), jnp.inf).reshape(-1, *batch),
            take(self._records.queries).reshape(-1, *batch),
            self._records.step_size.reshape(-1, *batch),
            self._records.stage.reshape(-1, *batch),
        )
        return found.batch_first()
