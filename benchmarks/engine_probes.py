"""Measurements of `benchmarks/engine.py`, each in a process of its own, on the nashjax that PYTHONPATH leads to.

Run as a script with the name of a probe and its settings as JSON. Prints one JSON object a line, each more complete
than the last. Uses the public interface only and imports nothing from this folder, so that any version can be measured.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import statistics
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nashjax as nj

Row = dict[str, Any]
FULL_PROGRAM = 0.2
"""CPU seconds of compilation from which a program counts as a full one."""
BEFORE_COMPILE = "/jax/core/compile/jaxpr_to_mlir_module_duration"
COMPILE = "/jax/core/compile/backend_compile_duration"
ENOUGH = 15.0
"""Seconds of repeated calls after which a probe stops repeating."""


def random_games(n: int, *batch: int) -> np.ndarray:
    """Draw Bradley-Terry-like cyclic games in float32, the same ones for every version of the library."""
    noise = np.random.default_rng(n).normal(size=(*batch, n, n))
    P = np.triu(1 / (1 + np.exp(noise.swapaxes(-1, -2) - noise)), 1).astype(np.float32)
    return P + np.tril(1 - P.swapaxes(-1, -2), -1) + np.eye(n, dtype=np.float32) / 2


def start() -> None:
    """Run one trivial operation, so that later figures leave out the start of jax."""
    jax.block_until_ready(jnp.ones(3) + 1)


def count_maps() -> int:
    """Return the number of memory maps of this process."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return sum(1 for _ in maps)


def resident_mb() -> float:
    """Return the resident memory of this process in MB (10^6 bytes)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Compilations:
    """Compilations of this process from the creation of this object on, with the CPU seconds of each.

    jax reports the lowering of a program right before its compilation. CPU seconds are those of the whole process
    between both reports in one thread.
    """

    def __init__(self) -> None:
        self.cpu_seconds: list[float] = []
        self._thread = threading.local()
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == BEFORE_COMPILE:
            self._thread.lowered = time.process_time()
        elif event == COMPILE:
            lowered = getattr(self._thread, "lowered", None)
            self.cpu_seconds.append(duration_secs if lowered is None else time.process_time() - lowered)
            self._thread.lowered = None

    def report(self) -> Row:
        """Return the number of full programs, that of all programs, and the CPU seconds of all."""
        seconds = self.cpu_seconds
        full = sum(one >= FULL_PROGRAM for one in seconds)
        return {"full_programs": full, "programs": len(seconds), "compile_cpu_s": round(sum(seconds), 2)}


def first_call(n: int, beta: float) -> Iterator[Row]:
    """CPU seconds and memory maps of the first solve of one game."""
    game = random_games(n)
    start()
    compilations, maps = Compilations(), count_maps()
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(nj.solve(game, beta))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    yield {"cpu_s": round(cpu, 3), "wall_s": round(wall, 3), "maps": count_maps() - maps} | compilations.report()


def sizes(sizes: int) -> Iterator[Row]:
    """Solves of one game of many sizes in one process, until all are solved or the process dies."""
    start()
    for done, n in enumerate(range(3, 3 + sizes), 1):
        for beta in (0.1, 0.0):
            jax.block_until_ready(nj.solve(random_games(n), beta))
        yield {"sizes": done, "maps": count_maps(), "cpu_s": round(time.process_time(), 1)}


def batch_sizes(n: int, beta: float, batch: list[int]) -> Iterator[Row]:
    """Compilations of solves of many batch sizes."""
    games = random_games(n, max(batch))
    start()
    compilations = Compilations()
    for done, size in enumerate(batch, 1):
        jax.block_until_ready(nj.solve(games[:size], beta))
        yield {"sizes": done, "maps": count_maps()} | compilations.report()


def memory(n: int, beta: float, calls: int, largest: int) -> Iterator[Row]:
    """Growth of resident memory over solves of random batch sizes, after a first solve of the largest size."""
    games = random_games(n, largest)
    start()
    before, compilations = resident_mb(), Compilations()
    jax.block_until_ready(nj.solve(games, beta))
    first = resident_mb()
    for done, size in enumerate(np.random.default_rng(0).integers(1, largest + 1, calls), 1):
        jax.block_until_ready(nj.solve(games[:size], beta))
        if done % 10 == 0 or done == calls:
            growth = {"growth_mb": round(resident_mb() - first, 1), "first_call_mb": round(first - before, 1)}
            yield {"calls": done} | growth | {"maps": count_maps()} | compilations.report()


def seconds_of(call: Callable[[], Any]) -> float:
    """Return the wall-clock seconds of a call until its results are there."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - begin


def latency(n: int, beta: float, on_device: bool, repetitions: int) -> Iterator[Row]:
    """Median microseconds of a compiled solve of one game."""
    game = jnp.asarray(random_games(n)) if on_device else random_games(n)
    times = [seconds_of(lambda: nj.solve(game, beta)) for _ in range(repetitions + repetitions // 10)]
    yield {"us": round(statistics.median(times[-repetitions:]) * 1e6, 2)}


def in_jit(n: int, beta: float, games: int, repetitions: int) -> Iterator[Row]:
    """Time of solves inside `jit` over that of `AdaptiveNashMP`, with a constant and with a traced beta."""
    alone = jax.jit(lambda P: nj.solve(P, beta, algorithm=nj.AdaptiveNashMP()))
    constant = jax.jit(lambda P: nj.solve(P, beta))
    traced = jax.jit(lambda P, b: nj.solve(P, b))
    value = jnp.float32(beta)
    ratios: dict[str, list[float]] = {"constant": [], "traced": []}
    alone_us = []
    for game in jnp.asarray(random_games(n, games)):
        calls = {
            "alone": functools.partial(alone, game),
            "constant": functools.partial(constant, game),
            "traced": functools.partial(traced, game, value),
        }
        for call in calls.values():
            seconds_of(call)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(repetitions):
            for name, call in calls.items():
                times[name].append(seconds_of(call))
        medians = {name: statistics.median(found) for name, found in times.items()}
        alone_us.append(medians["alone"] * 1e6)
        for name, found in ratios.items():
            found.append(round(medians[name] / medians["alone"], 3))
    limits = {name: [min(found), max(found)] for name, found in ratios.items()}
    yield limits | {"alone_us": round(statistics.median(alone_us), 2), "games": games}


def in_vmap(n: int, beta: float, games: int, calls: int) -> Iterator[Row]:
    """Time of `jit(vmap(solve))` over that of one call with the batch."""
    P = jnp.asarray(random_games(n, games))
    mapped = jax.jit(jax.vmap(lambda game: nj.solve(game, beta)))
    first = seconds_of(lambda: nj.solve(P, beta))
    batch = statistics.median(seconds_of(lambda: nj.solve(P, beta)) for _ in range(calls))
    row = {"first_batch_s": round(first, 3), "batch_s": round(batch, 5), "calls": 0}
    yield row
    row["first_vmap_s"] = round(seconds_of(lambda: mapped(P)), 3)
    yield row
    times = []
    while len(times) < calls and sum(times) < ENOUGH:
        times.append(seconds_of(lambda: mapped(P)))
        vmap = statistics.median(times)
        yield row | {"vmap_s": round(vmap, 5), "ratio": round(vmap / batch, 3), "calls": len(times)}


class Frames:
    """Paths through the library's own files from `nj.solve` to payoff queries; the shortest ones.

    Attributes:
      shortest: of all queries, those that only check the game included.
      in_loop: of the queries inside of a loop of jax, which are those of the steps.
    """

    def __init__(self) -> None:
        self.shortest: list[str] = []
        self.in_loop: list[str] = []
        self._solve: Any = inspect.unwrap(nj.solve)

    def record(self) -> None:
        """Note the stack of a query; called from `payoffs`."""
        stack = [frame for frame, _ in traceback.walk_stack(sys._getframe(2))]
        codes = [frame.f_code for frame in stack]
        if self._solve.__code__ not in codes:
            return  # a query of another thread
        package = str(Path(str(nj.__file__)).parent) + os.sep
        inside = stack[: codes.index(self._solve.__code__) + 1][::-1]
        own = [frame.f_code for frame in inside if frame.f_code.co_filename.startswith(package)]
        names = [f"{code.co_filename.removeprefix(package)}: {code.co_name}" for code in own]
        self.shortest = min(self.shortest or names, names, key=len)
        if any(str(frame.f_globals.get("__name__")).endswith("control_flow.loops") for frame in inside):
            self.in_loop = min(self.in_loop or names, names, key=len)


frames_seen = Frames()


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rating"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Race(nj.Game):
    """A game without a matrix that a user could have written, `P[i, j] = 1/2 + (rating[i] - rating[j]) / 2`."""

    rating: jax.Array

    @property
    def num_actions(self) -> int:
        """The number of actions."""
        return self.rating.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """No batch axes."""
        return ()

    def payoffs(self, weights: jax.Array) -> jax.Array:
        """Answer a query and note who asked."""
        frames_seen.record()
        rating = self.rating.reshape(-1, *[1] * (weights.ndim - 1))
        total = weights.sum(axis=0)
        return total / 2 + (rating * total - (rating * weights).sum(axis=0)) / 2


def frames(n: int, beta: float, matrix: bool) -> Iterator[Row]:
    """Own frames from `nj.solve` to the caller of `payoffs`, both included."""
    game: Any = random_games(n) if matrix else Race(jnp.linspace(0.0, 0.5, n))
    payoffs = nj.MatrixGame.payoffs

    def recorded(self: nj.MatrixGame, weights: jax.Array) -> jax.Array:
        frames_seen.record()
        return payoffs(self, weights)

    if matrix:
        nj.MatrixGame.payoffs = recorded
    jax.block_until_ready(nj.solve(game, beta))
    found = {"shortest": frames_seen.shortest, "in_loop": frames_seen.in_loop}
    yield {name: len(path) for name, path in found.items() if path} | {"paths": found}


PROBES: dict[str, Callable[..., Iterator[Row]]] = {
    probe.__name__: probe for probe in (first_call, sizes, batch_sizes, memory, latency, in_jit, in_vmap, frames)
}


def main() -> None:
    """Run the probe that the command line names."""
    for row in PROBES[sys.argv[1]](**json.loads(sys.argv[2])):
        print(json.dumps(row | {"nashjax": nj.__version__}), flush=True)


if __name__ == "__main__":
    main()
