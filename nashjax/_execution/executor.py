"""Executors, which decide where a problem is solved: inside a trace, on all cores, or on a mesh of devices."""

from __future__ import annotations

import abc
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state

from nashjax._execution import inline, mesh, threads
from nashjax._execution.derivative import attach_derivative
from nashjax._math.transfers import explicit, is_concrete
from nashjax.algorithms.base import Algorithm
from nashjax.algorithms.stage import Stage
from nashjax.problem import Problem
from nashjax.solution import Progress, Solution, Status, Trajectory

T = TypeVar("T")
Numbered = tuple[tuple[int, Stage], ...]
"""Stages with their indices in the list of the algorithm."""


class Executor(abc.ABC):
    """Decides where a problem is solved and in which pieces; the mathematics is the same everywhere."""

    @abc.abstractmethod
    def solve(self, problem: Problem, stages: tuple[Stage, ...], max_queries: Any, block_size: int | None) -> Progress:
        """Run the stages one after the other, each on the games that are not finished.

        Args:
          problem: the games.
          stages: the stages that they can need, at least one.
          max_queries: largest number of queries of each game.
          block_size: games solved together by first-order methods; None for the default.
        """

    @abc.abstractmethod
    def follow(self, problem: Problem, stages: tuple[Stage, ...], max_queries: Any) -> Progress:
        """Solve for each beta of `problem.beta`, `[num_betas, *batch]`, from the equilibrium of the one before."""

    @abc.abstractmethod
    def record(
        self, problem: Problem, fixed: Problem, algorithm: Algorithm[Any] | Numbered, num_steps: int
    ) -> Trajectory:
        """Record the steps of an algorithm or of a list of stages; `fixed` is the problem without derivatives."""

    @abc.abstractmethod
    def differentiate(self, problem: Problem, fixed: Problem, log_policy: jax.Array) -> jax.Array:
        """Return equilibria unchanged, with their derivative in the problem; `fixed` is the problem without it."""

    def finish(self, solution: Solution) -> Solution:
        """Return the solution as jax arrays whose computation has ended."""
        return jax.block_until_ready(solution)

    def has_matrix(self, problem: Problem) -> bool:
        """Return whether the games offer their matrix where they are solved."""
        return problem.game.has_matrix

    def check_before(self, problem: Problem) -> None:
        """Raise ValueError that names the first bad entry of the games, where a solve does not find it in passing."""
        del problem

    def check_after(self, problem: Problem, status: jax.Array) -> None:
        """Raise ValueError that names the first bad entry of the games if the status of one is INVALID."""
        del problem, status


def choose_executor(problem: Problem, others_are_concrete: bool) -> Executor:
    """Return the executor of a problem: by where its arrays lie, and whether they are traced."""
    if not (others_are_concrete and problem.is_concrete()) or is_tracing():
        return INLINE
    arrays = [leaf for leaf in jax.tree.leaves(problem) if isinstance(leaf, jax.Array)]
    if mesh.is_spread(arrays):
        return MESH
    return THREADS if _is_in_host_memory(arrays) else INLINE


class Inline(Executor):
    """Inside a trace, and on an accelerator: one program for all stages."""

    def solve(self, problem: Problem, stages: tuple[Stage, ...], max_queries: Any, block_size: int | None) -> Progress:
        """See `Executor.solve`."""
        return _solve_inline(*explicit((_own(problem, stages), stages, max_queries)), block_size)

    def follow(self, problem: Problem, stages: tuple[Stage, ...], max_queries: Any) -> Progress:
        """See `Executor.follow`."""
        return _follow_inline(*explicit((_own(problem, stages), stages, max_queries)))

    def record(
        self, problem: Problem, fixed: Problem, algorithm: Algorithm[Any] | Numbered, num_steps: int
    ) -> Trajectory:
        """See `Executor.record`."""
        return _record_inline(*explicit((_own(problem, algorithm), algorithm)), num_steps)

    def differentiate(self, problem: Problem, fixed: Problem, log_policy: jax.Array) -> jax.Array:
        """See `Executor.differentiate`."""
        return _differentiate(*explicit((problem, log_policy)))

    def finish(self, solution: Solution) -> Solution:
        """See `Executor.finish`; inside a trace there is nothing to wait for."""
        return solution

    def check_before(self, problem: Problem) -> None:
        """See `Executor.check_before`; traced values are not checked."""
        problem.check_games()


class StageByStage(Executor):
    """Outside of a trace: a program for each stage, compiled when a game first needs it."""

    @abc.abstractmethod
    def run_stage(
        self, stage: Stage, problem: Problem, progress: Progress | None, max_queries: Any, block_size: int | None
    ) -> Progress:
        """Run a stage on the unfinished games."""

    @abc.abstractmethod
    def is_finished(self, progress: Progress) -> bool:
        """Return whether no game is left."""

    @abc.abstractmethod
    def is_needed(self, stage: Stage, problem: Problem, progress: Progress) -> bool:
        """Return whether a game in the range of the stage is unfinished."""

    def solve(self, problem: Problem, stages: tuple[Stage, ...], max_queries: Any, block_size: int | None) -> Progress:
        """See `Executor.solve`."""
        progress = self.run_stage(stages[0], problem, None, max_queries, block_size)
        for stage in stages[1:]:
            if self.is_finished(progress):
                break
            if self.is_needed(stage, problem, progress):
                progress = self.run_stage(stage, problem, progress, max_queries, block_size)
        return progress


class Threads(StageByStage):
    """Arrays in host memory: parts of a few sizes on all cores."""

    run_stage = staticmethod(threads.run_stage)  # pyright: ignore[reportAssignmentType]

    def is_finished(self, progress: Progress) -> bool:
        """See `StageByStage.is_finished`."""
        return not np.asarray(progress.unfinished).any()

    def is_needed(self, stage: Stage, problem: Problem, progress: Progress) -> bool:
        """See `StageByStage.is_needed`."""
        in_range = stage.when.includes_beta(np.asarray(problem.beta))
        return bool((np.asarray(progress.unfinished) & in_range).any())

    def follow(self, problem: Problem, stages: tuple[Stage, ...], max_queries: Any) -> Progress:
        """See `Executor.follow`: one solve after the other."""
        found, initial = [], problem.initial
        for beta in np.asarray(problem.beta):
            one = problem._replace(beta=beta, initial=initial)
            own = tuple(stage for stage in stages if np.any(stage.when.includes_beta(beta)))
            progress = jax.tree.map(np.asarray, self.solve(one, own or stages[:1], max_queries, None))
            found.append(progress)
            invalid = (progress.status == Status.INVALID)[..., None]  # one beta must not spoil the next
            before = _initial_policy(one, progress.log_policy.shape)
            initial = np.where(invalid, before, np.exp(progress.log_policy))
        return jax.tree.map(lambda *leaves: np.stack(leaves), *found)

    def record(
        self, problem: Problem, fixed: Problem, algorithm: Algorithm[Any] | Numbered, num_steps: int
    ) -> Trajectory:
        """See `Executor.record`."""
        if fixed is not problem:  # derivatives go through the steps
            return INLINE.record(problem, fixed, algorithm, num_steps)
        return _on_device(threads.record(problem, algorithm, num_steps))

    def differentiate(self, problem: Problem, fixed: Problem, log_policy: jax.Array) -> jax.Array:
        """See `Executor.differentiate`."""
        return _differentiate(*explicit((problem, log_policy)))

    def finish(self, solution: Solution) -> Solution:
        """See `Executor.finish`."""
        if isinstance(solution.status, jax.Array):
            jax.block_until_ready(solution.status)  # and with it all that the same program returns
            return solution
        return _on_device(solution)

    def check_after(self, problem: Problem, status: jax.Array) -> None:
        """See `Executor.check_after`."""
        found = np.asarray(status)
        if not found.size or (found == _INVALID).any():  # without a beta no game has been checked
            problem.check_games()


class Mesh(StageByStage):
    """Arrays cut over devices: each device solves its own games, or all devices one game whose rows they share."""

    def run_stage(
        self, stage: Stage, problem: Problem, progress: Progress | None, max_queries: Any, block_size: int | None
    ) -> Progress:
        """See `StageByStage.run_stage`."""
        return mesh.run_stage(stage, _own(problem, stage), progress, max_queries, block_size)

    def is_finished(self, progress: Progress) -> bool:
        """See `StageByStage.is_finished`: all processes get the same answer."""
        return not mesh.is_any(progress.unfinished)

    def is_needed(self, stage: Stage, problem: Problem, progress: Progress) -> bool:
        """See `StageByStage.is_needed`: all processes get the same answer."""
        return mesh.is_needed(stage, problem, progress)

    def follow(self, problem: Problem, stages: tuple[Stage, ...], max_queries: Any) -> Progress:
        """See `Executor.follow`: one program for the whole path."""
        return mesh.follow(_own(problem, stages), stages, max_queries)

    def record(
        self, problem: Problem, fixed: Problem, algorithm: Algorithm[Any] | Numbered, num_steps: int
    ) -> Trajectory:
        """See `Executor.record`."""
        return jax.block_until_ready(
            mesh.record(_own(problem, algorithm), _own(fixed, algorithm), algorithm, num_steps)
        )

    def differentiate(self, problem: Problem, fixed: Problem, log_policy: jax.Array) -> jax.Array:
        """See `Executor.differentiate`: each device has the derivatives of its own games."""
        return mesh.differentiate(problem, fixed, log_policy)

    def has_matrix(self, problem: Problem) -> bool:
        """See `Executor.has_matrix`: a device that holds some rows of a matrix does not have it."""
        return problem.game.has_matrix and not mesh.shares_rows(problem)

    def check_after(self, problem: Problem, status: jax.Array) -> None:
        """See `Executor.check_after`; games that are traced by a derivative are not checked."""
        if is_concrete(problem):
            mesh.check_statuses(problem, status)


_INVALID = int(Status.INVALID)
"""numpy takes ten times longer to compare with a member of an enumeration."""
INLINE, THREADS, MESH = Inline(), Threads(), Mesh()

_solve_inline = jax.jit(inline.solve, static_argnames="block_size")
_follow_inline = jax.jit(inline.follow)
_record_inline = jax.jit(inline.record, static_argnames="num_steps")
_differentiate = jax.jit(attach_derivative)


def _on_device(tree: T) -> T:
    """Return a pytree with its numpy arrays as jax arrays, all computed.

    `jnp.asarray` would compile trivial programs for every new shape; `device_put` compiles nothing.
    """
    return jax.block_until_ready(jax.tree.map(lambda x: jax.device_put(x) if isinstance(x, np.ndarray) else x, tree))


def _own(problem: Problem, algorithms: Any) -> Problem:
    """Return the problem marked with the classes of algorithms, whose programs others must not share."""
    found = jax.tree.leaves(algorithms, is_leaf=lambda x: isinstance(x, Algorithm))
    return problem.run_by(*(x for x in found if isinstance(x, Algorithm)))


def _initial_policy(problem: Problem, shape: tuple[int, ...]) -> np.ndarray:
    """Return the policies that a solve starts from, `[*batch, n]`."""
    initial = problem.reference if problem.initial is None else problem.initial
    if initial is None:
        return np.broadcast_to(problem.uniform(), shape)
    return np.broadcast_to(np.asarray(initial), shape)


def _is_in_host_memory(arrays: list[jax.Array]) -> bool:
    """Return whether all arrays are numbers in the memory of the one processor that jax works on."""
    if jax.default_backend() != "cpu":
        return False
    if not arrays:
        return True
    config: Any = jax.config
    device = config.jax_default_device or jax.local_devices()[0]
    return all(
        leaf.is_fully_addressable and leaf.devices() == {device} and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        for leaf in arrays
    )


_known_not_tracing: list[Any] = []
"""The last state of jax's tracing that is known not to trace constants."""


def is_tracing() -> bool:
    """Return whether a computation, even one of constants, becomes part of a trace that is being made.

    Tracing a trivial operation is the reliable test but too slow for every call, so the result is kept for one state of
    jax's tracing.
    """
    state = get_opaque_trace_state()
    if state in _known_not_tracing:
        return False
    if isinstance(jax.lax.neg(explicit(np.float32(0))), Tracer):
        return True
    _known_not_tracing[:] = [state]
    return False
