"""`sweep`: a stream of games, solved chunk by chunk, that goes on where it was stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nashjax import distributed
from nashjax._execution.batching import num_cores
from nashjax._solve import solve
from nashjax._validation import check_integer, check_number, invalid, shown, wrong_type
from nashjax.files import BadInput
from nashjax.files.errors import bad_input, sentence, visible
from nashjax.games.faults import first_fault
from nashjax.problem import Problem
from nashjax.progress import progress_line
from nashjax.solution import Solution, Status
from nashjax.sweeps import store
from nashjax.sweeps.lock import locked
from nashjax.sweeps.pipeline import pipeline
from nashjax.sweeps.processes import agree
from nashjax.sweeps.shards import Damaged, Shard, as_shard, read_shard, shard_name
from nashjax.sweeps.sources import LARGEST_CHUNK, Chunk, Source, as_dtype, as_source
from nashjax.version import __version__


@dataclasses.dataclass(frozen=True)
class SweepSummary:
    """What a finished sweep has found.

    Attributes:
      directory: where the answers are.
      games: how many were solved.
      shards: how many files hold the answers.
      statuses: how many games ended with each `Status`, by its name.
      redone: names of the damaged shards that this process has solved again in this call.
    """

    directory: Path
    games: int
    shards: int
    statuses: dict[str, int]
    redone: tuple[str, ...]

    @property
    def converged(self) -> bool:
        """Whether all games have converged."""
        return self.statuses[Status.CONVERGED.name] == self.games


def sweep(
    source: Any,
    output: str | Path,
    *,
    beta: float,
    tol: float = 1e-6,
    chunk_size: int | None = None,
    dtype: Any = None,
    progress: bool = True,
    notify: Callable[[str], Any] = warnings.warn,
) -> SweepSummary:
    """Solve a stream of games chunk by chunk into a directory, on all devices; a sweep that was stopped goes on.

    Killed at any moment and called again with the same arguments it ends with the same files, bit by bit, each game
    solved into one of them once. Shards that are damaged are made anew. `nashjax.sweeps` documents the directory;
    `nashjax.sweeps.load` reads it, also while the sweep is at work.

    In a run of several processes (`jax.distributed`) each calls this with the same arguments and a directory that
    they share, and solves its share of the chunks on its own devices.

    Args:
      source: the path of a folder of `.npz` files (in the order of their names, each as `nashjax solve` reads it), a
        `nashjax.sweeps.RandomGames`, or an iterable of preferences `[n, n]` or `[games, n, n]` or a `MatrixGame` of
        these. An iterable is drawn from its start again when a sweep goes on, and has to give the same games.
      output: the directory, made if it is not there.
      beta: regularization, one number >= 0, in units of preference.
      tol: exploitability to reach, one number >= 0, in units of preference.
      chunk_size: games solved together, one shard; by default 65,536, or fewer where games have more than 16 actions.
        Consecutive games of another size begin another chunk.
      dtype: float32 or float64 (which needs `jax_enable_x64`); default that of jax.
      progress: whether to draw a progress line, where the standard error is a terminal.
      notify: called with a sentence for each damaged shard.

    Returns:
      A `SweepSummary`, in each process of all games.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: an argument is not valid, before any compute. As `BadInput`: the directory belongs to another sweep
        or to something else, another process is at work on it, a file or an item holds no game (it is named), the
        games are not those of before, or the disk is full. What was solved until then stays.

    >>> import nashjax as nj
    >>> games = nj.sweeps.RandomGames("gaussian", num_actions=3, num_games=100, seed=0)
    >>> nj.sweep(games, "answers", beta=0.1, progress=False).statuses["CONVERGED"]
    100
    """
    problem = run = None
    try:
        run = _Run.of(source, _check_output(output), beta, tol, chunk_size, dtype, notify)
    except Exception as error:  # whatever it is, the other processes have to be told
        problem = error
    agree(problem)
    assert run is not None
    with run.claimed():
        try:
            run.look()
            run.solve_all(progress)
        except Exception as error:  # as above: they would wait for this one's shards
            problem = error
        agree(problem)  # all shards are there
        return run.finish()


@dataclasses.dataclass
class _Run:
    """One process at work on a sweep; the fields after `notify` are what it has found and done."""

    source: Source
    directory: Path
    beta: float
    tol: float
    chunk_size: int | None
    dtype: np.dtype
    notify: Callable[[str], Any]
    digests: dict[int, str] = dataclasses.field(default_factory=dict)
    statuses: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(len(Status), np.int64))
    redone: list[str] = dataclasses.field(default_factory=list)
    num_chunks: int | None = None

    @classmethod
    def of(
        cls,
        source: Any,
        directory: Path,
        beta: Any,
        tol: Any,
        chunk_size: Any,
        dtype: Any,
        notify: Callable[[str], Any],
    ) -> _Run:
        """A run with the arguments of `sweep`, which are checked here."""
        stream = as_source(source)
        if chunk_size is not None:
            chunk_size = check_integer("chunk_size", chunk_size, 1, LARGEST_CHUNK)
        kind = _check_dtype(dtype)
        beta, tol = check_number("beta", beta), check_number("tol", tol)
        Problem.build(np.full((2, 2), 0.5, kind), beta, tol=tol)  # within the limits of the dtype
        return cls(stream, directory, beta, tol, chunk_size, kind, notify)

    def settings(self) -> dict[str, Any]:
        """What the manifest holds: what the bits of the answers depend on."""
        device = jax.local_devices()[0]
        devices = {"platform": device.platform, "kind": device.device_kind, "number": len(jax.local_devices())}
        if device.platform == "cpu":
            devices["cores"] = num_cores()  # over which a chunk is cut
        return {
            "source": self.source.describe(),
            "beta": self.beta,
            "tol": self.tol,
            "chunk_size": self.chunk_size,
            "dtype": str(self.dtype),
            "versions": {
                "nashjax": __version__,
                "jax": jax.__version__,
                "jaxlib": importlib.metadata.version("jaxlib"),
            },
            # Of one process: other programs, other rounding.
            "devices": devices,
        }

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the directory, as that of this sweep; the first process makes it, all others wait."""
        settings = self.settings()
        first, several = jax.process_index() == 0, jax.process_count() > 1
        with contextlib.ExitStack() as held:
            for turn in (True, False):
                problem = None
                try:
                    if turn == first:
                        if first:
                            store.check_directory(self.directory)
                        held.enter_context(self._locked(shared=several, joins=not first))
                        if first:
                            store.claim(self.directory, settings)
                        else:
                            store.compare_manifest(self.directory, settings)
                except BadInput as error:
                    problem = error
                agree(problem)
            yield

    @contextlib.contextmanager
    def _locked(self, **how: bool) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            with store.writing(self.directory, "the lock"):
                held.enter_context(locked(self.directory, **how))
            yield

    def mine(self, number: int) -> bool:
        """Whether a chunk is for this process to solve."""
        return number % jax.process_count() == jax.process_index()

    def look(self) -> None:
        """See what is there already; damaged shards are removed, and told of."""
        self.num_chunks = self.source.num_chunks(self.chunk_size)
        for number, shard, fault in store.find_shards(self.directory, self.mine, self.num_chunks, self.dtype):
            if shard is not None:
                self._count(shard)
                continue
            self.redone.append(shard_name(number))
            self.notify(f"{visible(str(self.directory))}: {shard_name(number)} is solved again because it {fault}.")
            store.remove_shard(self.directory, number)

    def _count(self, shard: Shard) -> None:
        self.digests[shard.number] = shard.input_sha256
        self.statuses += shard.statuses()

    def solve_all(self, progress: bool) -> None:
        """Solve what is missing, reading ahead and writing behind."""
        before = int(self.statuses.sum())
        start = time.perf_counter()
        share = None if self.source.num_games is None else -(-self.source.num_games // jax.process_count())
        with progress_line("sweep", share, before, shown=progress and jax.process_index() == 0) as show:

            def report(shard: Shard) -> None:
                self._count(shard)
                done = int(self.statuses.sum())
                speed = (done - before) / (time.perf_counter() - start)
                show(done, f"{speed:,.0f} games/s, {done - self.statuses[Status.CONVERGED]} unconverged")

            pipeline(self._missing(), self._solve, lambda shard: store.write_shard(self.directory, shard), report)

    def _missing(self) -> Iterator[Chunk]:
        """The chunks to solve; of the others it is checked that they are what they were, where they are drawn."""
        known = self.num_chunks is not None
        ended = None if known else store.read_summary(self.directory)
        number = -1
        for chunk in self.source.chunks(self.chunk_size, self.dtype, lambda k: self.mine(k) and k not in self.digests):
            number = chunk.number
            if ended is not None and number >= ended["shards"]:
                raise bad_input("source", "", f"the {ended['games']} games of the finished sweep", "more games")
            if number in self.digests:
                self._check_same(chunk)
            elif self.mine(number):
                chunk.digest  # noqa: B018 (computed here, while another chunk is being solved)
                yield chunk
        if not known:
            self.num_chunks = number + 1
            if number < 0:
                raise bad_input("source", "", "at least one game", "no games")
            solved = [k + 1 for k in store.shard_numbers(self.directory)]
            chunks = max([0 if ended is None else ended["shards"], *solved])
            if chunks > number + 1:
                requirement = "all games that it gave this sweep before"
                raise bad_input("source", "", requirement, f"only {number + 1} of {chunks} chunks")

    def _check_same(self, chunk: Chunk) -> None:
        if chunk.digest != self.digests[chunk.number]:
            last = chunk.first_game + len(chunk.games) - 1
            subject, name = f"games {chunk.first_game} to {last}", shard_name(chunk.number)
            raise bad_input("source", subject, f"the games that {name} answers", "other games")

    def _solve(self, chunk: Chunk) -> Shard:
        try:
            solution = solve_chunk(chunk.games, self.beta, self.tol)
            if (np.asarray(solution.status) == Status.INVALID).any():
                raise ValueError("not all are preference games")
        except ValueError as error:
            fault = first_fault(chunk.games)
            if fault is None:
                raise BadInput(f"{chunk.where(0)} and the games after it failed: {sentence(str(error))}") from error
            entry = f"entry {list(fault.index[1:])}"
            raise bad_input(chunk.where(fault.index[0]), entry, fault.allowed, fault.found) from error
        return as_shard(chunk.number, chunk.first_game, solution, chunk.digest)

    def finish(self) -> SweepSummary:
        """Count the games of all processes, and let the first one write it down."""
        assert self.num_chunks is not None
        problem, number = None, 0
        try:
            for number in range(self.num_chunks):
                if number not in self.digests:  # solved by another process
                    self._count(read_shard(self.directory, number, self.dtype))
            if jax.process_index() == 0 and store.read_summary(self.directory) != self._summary():
                store.write_file(self.directory, store.SUMMARY, json.dumps(self._summary()).encode() + b"\n")
        except Damaged as error:
            problem = store.damaged(self.directory, number, error)
            problem.__cause__ = error
        except BadInput as error:
            problem = error
        agree(problem)
        return SweepSummary(self.directory, **self._summary(), redone=tuple(self.redone))

    def _summary(self) -> dict[str, Any]:
        statuses = {status.name: int(self.statuses[status]) for status in Status}
        return {"games": sum(statuses.values()), "shards": self.num_chunks, "statuses": statuses}


def solve_chunk(games: np.ndarray, beta: float, tol: float) -> Solution:
    """Solve games `[games, n, n]` on all devices of this process, with no word to other processes."""
    devices = jax.local_devices()
    if len(devices) == 1 and devices[0].platform == "cpu":
        return jax.block_until_ready(solve(games, beta, tol=tol))
    # The last game again, up to a power of two, so that few programs are compiled, and as many for every device.
    count = 2 ** math.ceil(math.log2(len(games)))
    count += -count % len(devices)
    padded = np.concatenate([games, np.repeat(games[-1:], count - len(games), axis=0)])
    solution = solve(distributed.shard(padded, distributed.games_mesh(devices)), beta, tol=tol)
    return jax.tree.map(lambda x: np.asarray(x)[: len(games)], solution)


def _check_output(output: object) -> Path:
    if not isinstance(output, (str, os.PathLike)):
        raise wrong_type("output", "the path of a directory", output)
    if not str(output) or "\0" in str(output):
        raise invalid("output", "the path of a directory", shown(output))
    if Path(output).exists() and not Path(output).is_dir():
        raise bad_input("output", "", "a directory", f"the file {shown(str(output))}")
    return Path(output)


def _check_dtype(dtype: Any) -> np.dtype:
    default = np.dtype(jnp.result_type(float))
    with ThreadPoolExecutor(1) as thread:
        if thread.submit(lambda: jnp.result_type(float)).result() != default:
            advice = "Use jax.config.update."
            raise invalid("jax_enable_x64", "set for all threads", "a value for this thread alone", advice)
    found = as_dtype(dtype)
    if found == np.float64 and default != np.float64:
        advice = "Call jax.config.update('jax_enable_x64', True) first."
        raise invalid("dtype", "float32 without jax_enable_x64", "float64", advice)
    return found
