"""Execution in host memory: a program for each stage, called for each part of a batch on all cores.

Outside of a trace only the stages that games need are compiled: after each stage the unfinished games are gathered on
the host and only they go on.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import jax
import numpy as np

from nashjax._execution import inline
from nashjax._execution.batching import cut, flatten_batch, num_cores
from nashjax._execution.programs import PROGRAMS
from nashjax._math import xla
from nashjax._math.transfers import explicit
from nashjax.algorithms.base import Algorithm
from nashjax.algorithms.stage import Stage
from nashjax.problem import Problem
from nashjax.solution import Progress, Trajectory

T = TypeVar("T")


def run_stage(
    stage: Stage, problem: Problem, progress: Progress | None, max_queries: Any, block_size: int | None
) -> Progress:
    """Run a stage on all games, or on the unfinished ones in its range of betas; waits for the end.

    Args:
      stage: the stage.
      problem: the games, arrays in host memory.
      progress: where earlier stages have left them; None at the beginning.
      max_queries: largest number of queries of each game.
      block_size: games solved together by first-order methods; None for the default.
    """
    batch = problem.batch_shape
    if batch == () or inline.differs_between_games(stage.algorithm):  # as a whole, without views and copies
        program = _program(stage, problem, math.prod(batch), block_size)
        return program(*explicit((stage, problem, max_queries)), progress=explicit(progress))
    num_games = math.prod(batch)
    views = jax.tree.map(np.asarray, problem)
    before = None if progress is None else flatten_batch(jax.tree.map(np.asarray, progress), batch)
    chosen = np.arange(num_games)
    if before is not None:
        in_range = stage.when.includes_beta(np.broadcast_to(views.beta, batch).reshape(-1))
        chosen = np.flatnonzero(before.unfinished & in_range)
    size, starts = cut(len(chosen), inline.block_size_of(stage, problem, block_size))
    program = _program(stage, problem, size, block_size)
    result = _Result(num_games, before)

    def run_part(start: int) -> None:
        places = chosen[start : start + size]
        padding = size - len(places)
        is_view = before is None and not padding
        part = views.view(start, size) if is_view else views.take(_padded(places, padding))
        own = None if before is None else jax.tree.map(lambda x: x[_padded(places, padding)], before)
        where = places if before is not None else slice(start, start + len(places))
        result.put(where, program(*explicit((stage, part, max_queries)), progress=explicit(own)))

    run_parts(program, run_part, starts)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), result.whole())


def _padded(places: np.ndarray, padding: int) -> np.ndarray:
    return np.concatenate([places, np.repeat(places[-1:], padding)]) if padding else places


class _Result:
    """The arrays of a whole batch, filled part by part from several threads."""

    def __init__(self, num_games: int, before: Any) -> None:
        self._num_games = num_games
        self._arrays = None if before is None else jax.tree.map(np.array, before)
        self._lock = threading.Lock()

    def put(self, places: np.ndarray | slice, part: Any) -> None:
        """Store the progress of the games at these places, a slice if they are consecutive; the rest is padding."""
        found = jax.tree.map(np.asarray, part)
        with self._lock:
            if self._arrays is None:
                self._arrays = jax.tree.map(lambda x: np.empty((self._num_games, *x.shape[1:]), x.dtype), found)
        for whole, own in zip(jax.tree.leaves(self._arrays), jax.tree.leaves(found), strict=True):
            own = own[: len(whole[places])] if isinstance(places, slice) else own[: len(places)]
            whole[places] = own

    def whole(self) -> Any:
        """Return the arrays."""
        assert self._arrays is not None
        return self._arrays


def _program(stage: Stage, problem: Problem, num_games: int, block_size: int | None) -> Callable[..., Progress]:
    """Return the compiled program of a stage for games of this kind."""
    key = (stage.identity, problem.classes.classes, problem.game.sizes, num_games, block_size)

    def make() -> Any:
        options = [xla.WIDE, xla.ONE_MODULE] + ([xla.ONE_CORE] if num_games > 1 else [])
        return jax.jit(
            functools.partial(inline.run_on_all, block_size=block_size), compiler_options=xla.accepted(*options)
        )

    return PROGRAMS.get(key, make)


def record(problem: Problem, algorithm: Algorithm[Any] | tuple[tuple[int, Stage], ...], num_steps: int) -> Trajectory:
    """Record the steps of an algorithm or of numbered stages, in parts on all cores."""
    batch = problem.batch_shape
    kinds = tuple(stage.identity for _, stage in algorithm) if isinstance(algorithm, tuple) else type(algorithm)
    key = (kinds, problem.classes.classes, num_steps)

    def make() -> Any:
        return jax.jit(functools.partial(inline.record, num_steps=num_steps), compiler_options=xla.accepted(xla.WIDE))

    program = PROGRAMS.get(key, make)
    num_games = math.prod(batch)
    if num_games <= 1 or inline.differs_between_games(algorithm):
        return program(*explicit((problem, algorithm)))
    views = jax.tree.map(np.asarray, problem)
    size, starts = cut(num_games, inline.default_block_size(problem))
    result = _Result(num_games, None)

    def run_part(start: int) -> None:
        places = np.arange(start, min(start + size, num_games))
        part = views.take(_padded(places, size - len(places)))
        result.put(places, program(*explicit((part, algorithm))))

    run_parts(program, run_part, starts)
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), result.whole())


def run_parts(program: Any, run_part: Callable[[int], None], starts: Sequence[int]) -> None:
    """Run all parts on all cores; the first one alone if the program is still to be compiled.

    Two threads would compile the program twice.
    """
    if program not in _has_run:
        run_part(starts[0])
        _has_run.add(program)
        starts = starts[1:]
    on_all_cores(run_part, starts)


_has_run: weakref.WeakSet[Any] = weakref.WeakSet()


def on_all_cores(function: Callable[[int], T], arguments: Sequence[int]) -> list[T]:
    """Call a function with each argument, in this thread and in others, as many as this process may use cores."""
    results: list[Any] = [None] * len(arguments)
    waiting = collections.deque(enumerate(arguments))
    caller = _settings()

    def work() -> None:
        try:
            while waiting:
                try:
                    place, argument = waiting.popleft()
                except IndexError:  # another thread was quicker
                    return
                results[place] = function(argument)
        except BaseException:  # an interrupt, too, ends what has not begun
            waiting.clear()
            raise

    def help_caller() -> None:
        # What a caller has set for its own thread alone, with `jax.enable_x64(True):`, other threads do not see.
        if _settings() == caller:
            work()
            return
        x64, device = caller
        with jax.enable_x64(x64), jax.default_device(device):
            work()

    helpers: list[Future[None]] = []
    try:
        for _ in range(min(num_cores(), len(arguments)) - 1):
            helpers.append(_threads().submit(help_caller))
        work()
    finally:
        waiting.clear()
        wait([helper for helper in helpers if not helper.cancel()])
    for helper in helpers:
        if not helper.cancelled():
            helper.result()
    return results


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """The threads that help a caller: kept, as to start one takes as long as to solve a few games."""
    return ThreadPoolExecutor(os.cpu_count(), "nashjax")


with contextlib.suppress(AttributeError):  # an operating system without forks
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a forked process does not get the threads


def _settings() -> tuple[Any, ...]:
    config: Any = jax.config
    return config.jax_enable_x64, config.jax_default_device
