"""Execution on a mesh: each device solves the games that lie on it, or all devices one game whose rows they share."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nashjax._execution import inline
from nashjax._execution.derivative import attach_derivative
from nashjax._math.linear import product
from nashjax._math.pytree import register_dataclass
from nashjax._math.transfers import explicit, to_host
from nashjax._validation import invalid
from nashjax.algorithms.stage import Stage, When
from nashjax.games import Game, MatrixGame
from nashjax.games.faults import SYMMETRY_TOLERANCE
from nashjax.games.matrix import has_no_fault_among
from nashjax.games.validity import allowed_at, game_error
from nashjax.problem import Problem
from nashjax.solution import Progress, Status, Trajectory

T = TypeVar("T")
Axes = tuple[str, ...]
"""Names of the axes of a mesh that one axis of an array is cut along; `()` where it is whole on every device."""


class Layout(NamedTuple):
    """Where games lie.

    Attributes:
      mesh: the devices.
      batch: along which axes of the mesh each batch axis is cut.
      rows: along which ones the rows of the matrices are.
    """

    mesh: Mesh
    batch: tuple[Axes, ...]
    rows: Axes


def is_spread(arrays: list[jax.Array]) -> bool:
    """Return whether concrete arrays among the arguments are cut over several devices."""
    return any(map(_is_cut, arrays))


def shares_rows(problem: Problem) -> bool:
    """Return whether the devices share the rows of a matrix."""
    return bool(layout(problem).rows)


def layout(problem: Problem) -> Layout:
    """Find how the batch is cut over a mesh, and the rows of matrices.

    Raises:
      ValueError: arrays lie on different meshes, or are cut along an axis that is neither of the batch nor of rows.
    """
    shapes, batch = problem.batch_shapes(), problem.batch_shape
    mesh: Mesh | None = None
    cuts: list[Axes] = [()] * len(batch)
    rows: Axes = ()
    for name, field in problem._asdict().items():
        own = len(shapes[name])
        for leaf in jax.tree.leaves(field):
            if not _is_cut(leaf):
                continue
            if mesh is not None and leaf.sharding.mesh != mesh:
                meshes = (leaf.sharding.mesh, mesh)
                found, others = (f"{dict(one.shape)} of devices {[d.id for d in one.devices.flat]}" for one in meshes)
                raise invalid(name, f"on the mesh {others} of the other arguments", f"the mesh {found}")
            mesh = leaf.sharding.mesh
            cut = _cuts(leaf)
            for axis in range(own):
                place = len(batch) - own + axis
                cuts[place] = cuts[place] or cut[axis]
            if name == "game" and any(cut[own:]):
                if not isinstance(problem.game, MatrixGame) or any(cut[own + 1 :]):
                    required = "must be cut over devices along batch axes or, for a MatrixGame, along its rows"
                    found = f"an array {list(leaf.shape)} cut as {leaf.sharding.spec}"
                    raise invalid("game", required, found)
                rows = cut[own]
    assert mesh is not None
    used = [axis for cut in (*cuts, rows) for axis in cut]
    if len(set(used)) < len(used):
        raise invalid("game", "must be cut along one axis for each axis of the mesh", str(used))
    return Layout(mesh, tuple(cuts), rows)


def place(problem: Problem, where: Layout) -> Problem:
    """Bring every array to where its games lie."""
    leaves, structure = jax.tree.flatten(problem)
    return jax.tree.unflatten(
        structure,
        [put(leaf, NamedSharding(where.mesh, spec)) for leaf, spec in zip(leaves, _specs(problem, where), strict=True)],
    )


def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Bring an array to its devices; of one that each process has whole, every device is sent its own part."""
    if sharding.is_fully_addressable or (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable):
        return jax.device_put(leaf, sharding)
    whole = np.asarray(leaf)  # `device_put` would compare it with that of all other processes, NaN for NaN
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def on_each_device(
    function: Callable[[Problem, Any, Any], T], problem: Problem, own: Any, shared: Any, where: Layout
) -> T:
    """Apply a function to the games of each device, with no communication but for the rows of one game.

    Args:
      function: from games, what belongs to them, and what all share, to a pytree whose leaves lead with the batch axes.
      problem: the games, where `place` has brought them.
      own: a pytree whose leaves lead with the batch axes, cut as the batch is; or None.
      shared: a pytree of numbers that every device gets.
      where: the layout of the games.
    """
    leaves, structure = jax.tree.flatten(problem)

    def apply(leaves: list[jax.Array], own: Any, shared: Any) -> T:
        games = jax.tree.unflatten(structure, leaves)
        if where.rows:
            games = games._replace(game=RowsOfGame(games.game.preferences, where.rows))
        return function(games, own, shared)

    return jax.shard_map(
        apply,
        mesh=where.mesh,
        in_specs=(_specs(problem, where), PartitionSpec(*where.batch), PartitionSpec()),
        out_specs=PartitionSpec(*where.batch),
        check_vma=False,  # a loop that asks a game of many devices carries what is the same on all of them
    )(leaves, own, shared)


def run_stage(
    stage: Stage, problem: Problem, progress: Progress | None, max_queries: Any, block_size: int | None
) -> Progress:
    """Run a stage on each device."""
    where = layout(problem)
    stage, max_queries = explicit((stage, max_queries))
    return _run_stage(stage, place(problem, where), progress, max_queries, where, block_size)


@functools.partial(jax.jit, static_argnames=("where", "block_size"))
def _run_stage(
    stage: Stage,
    problem: Problem,
    progress: Progress | None,
    max_queries: jax.Array,
    where: Layout,
    block_size: int | None,
) -> Progress:
    def run_own(own: Problem, progress: Progress | None, shared: tuple[Stage, jax.Array]) -> Progress:
        stage, max_queries = shared
        if progress is None:
            return inline.run_on_all(stage, own.aligned(), max_queries, block_size)
        return inline.run_on_some(stage, own.aligned(), progress, max_queries, block_size)

    return on_each_device(run_own, problem, progress, (stage, max_queries), where)


lower_stage = _run_stage.lower
"""Lowering of the program of a stage, for a look at what the devices exchange."""


def is_any(unfinished: jax.Array) -> bool:
    """Return whether an entry is true, on any device."""
    return bool(_any(unfinished))


_any = jax.jit(jnp.any)


def is_needed(stage: Stage, problem: Problem, progress: Progress) -> bool:
    """Return whether a game in the range of the stage is unfinished, on any device."""
    return bool(_is_needed(progress.unfinished, place(problem, layout(problem)).beta, stage.when))


@functools.partial(jax.jit, static_argnames="when")
def _is_needed(unfinished: jax.Array, beta: jax.Array, when: When) -> jax.Array:
    return jnp.any(unfinished & when.includes_beta(beta))


def follow(problem: Problem, stages: tuple[Stage, ...], max_queries: Any) -> Progress:
    """Solve for each beta of `problem.beta`, `[num_betas, *batch]`, on each device."""
    where = layout(problem)
    if where.batch[0]:
        raise invalid("betas", "whole on every device", f"a path cut along {where.batch[0]} of the mesh")
    return _follow(place(problem, where), *explicit((stages, max_queries)), where)


@functools.partial(jax.jit, static_argnames="where")
def _follow(problem: Problem, stages: tuple[Stage, ...], max_queries: jax.Array, where: Layout) -> Progress:
    return on_each_device(
        lambda own, _, shared: inline.follow(own, *shared), problem, None, (stages, max_queries), where
    )


def record(problem: Problem, fixed: Problem, algorithm: Any, num_steps: int) -> Trajectory:
    """Record the steps of an algorithm or of numbered stages on each device; `fixed` tells where the games lie."""
    where = layout(fixed)
    problem = place(problem, where) if problem is fixed else problem
    return _record(problem, explicit(algorithm), num_steps, where)


@functools.partial(jax.jit, static_argnames=("num_steps", "where"))
def _record(problem: Problem, algorithm: Any, num_steps: int, where: Layout) -> Trajectory:
    def record_own(own: Problem, _: None, algorithm: Any) -> Trajectory:
        return inline.record(own, algorithm, num_steps)

    return on_each_device(record_own, problem, None, algorithm, where)


def differentiate(problem: Problem, fixed: Problem, log_policy: jax.Array) -> jax.Array:
    """Return equilibria unchanged, with their derivative in the problem, each device those of its own games.

    The derivative of a game whose rows are shared is one program that XLA partitions: in one that each device runs for
    itself, XLA for processors starts independent exchanges in any order and can wait forever (jaxlib 0.10.2).

    Args:
      problem: the games, traced by a derivative.
      fixed: the same games as concrete arrays, which tell where they lie.
      log_policy: their equilibria, `[*batch, n]`.
    """
    where = layout(fixed)
    return _differentiate_together(problem, log_policy) if where.rows else _differentiate(problem, log_policy, where)


_differentiate_together = jax.jit(attach_derivative)


@functools.partial(jax.jit, static_argnames="where")
def _differentiate(problem: Problem, log_policy: jax.Array, where: Layout) -> jax.Array:
    def differentiate_own(own: Problem, log_policy: jax.Array, _: None) -> jax.Array:
        return attach_derivative(own, log_policy)

    return on_each_device(differentiate_own, problem, log_policy, None, where)


def check_statuses(problem: Problem, status: jax.Array) -> None:
    """Raise ValueError, naming the first that is no game of those that are INVALID; all processes call it together.

    The others are games of which the method has returned no policy.
    """
    if not bool(jnp.any(status == Status.INVALID)):
        return
    where, game = layout(problem), problem.game
    found = np.argwhere(to_host((status == Status.INVALID) & ~_are_games(place(problem, where), where)))
    if not len(found):
        return
    bad = tuple(int(i) for i in found[0][status.ndim - len(game.batch_shape) :])

    def of_bad_game(leaf: jax.Array) -> np.ndarray | None:
        """Its part of an array; None where that is not, or not whole, on this process."""
        at = tuple(0 if size == 1 else i for i, size in zip(bad, leaf.shape, strict=False))
        if leaf.is_fully_addressable:
            return np.asarray(leaf[at] if not _is_cut(leaf) else np.asarray(leaf)[at])
        for shard in leaf.addressable_shards:
            ranges = [range(*cut.indices(size)) for cut, size in zip(shard.index, leaf.shape, strict=True)]
            here = all(i in own for i, own in zip(at, ranges, strict=False))
            whole = all(len(own) == size for own, size in zip(ranges[len(at) :], leaf.shape[len(at) :], strict=True))
            if here and whole:
                return np.asarray(shard.data)[tuple(i - own.start for i, own in zip(at, ranges, strict=False))]
        return None

    allowed = allowed_at(problem.reference, tuple(int(i) for i in found[0]))
    own = jax.tree.map(of_bad_game, game)
    is_whole = len(jax.tree.leaves(own)) == len(jax.tree.leaves(game))
    raise game_error(own if is_whole else None, allowed, bad)


@functools.partial(jax.jit, static_argnames="where")
def _are_games(problem: Problem, where: Layout) -> jax.Array:
    """Which of the games are some, `[*batch]`."""
    return on_each_device(lambda own, *_: own.regularized()[2], problem, None, (), where)


def _specs(problem: Problem, where: Layout) -> list[PartitionSpec]:
    """How each array of the games is cut."""
    shapes, batch = problem.batch_shapes(), problem.batch_shape

    def spec(name: str, leaf: jax.Array) -> PartitionSpec:
        first = len(batch) - len(shapes[name])
        own = leaf.shape[: len(shapes[name])]
        cuts = [where.batch[first + axis] if size == batch[first + axis] else () for axis, size in enumerate(own)]
        if name == "game" and where.rows and leaf.ndim == len(own) + 2:
            cuts.append(where.rows)
        return PartitionSpec(*cuts)

    return [spec(name, leaf) for name, field in problem._asdict().items() for leaf in jax.tree.leaves(field)]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class RowsOfGame(Game):
    """The rows of matrix games that lie on this device, inside of `shard_map`; all else is the same on every device.

    Attributes:
      preferences: `[*batch, n / devices, n]`, otherwise as in `MatrixGame`.
      axes: of the mesh, along which the rows are cut.
    """

    preferences: jax.Array
    axes: Axes = dataclasses.field(metadata={"static": True})

    @property
    def num_actions(self) -> int:
        """The number `n` of actions of each game."""
        return self.preferences.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The batch axes; `()` for one game."""
        return self.preferences.shape[:-2]

    def payoffs(self, weights: jax.Array) -> jax.Array:
        """Answer one preference query `P v`: each device its rows, then one exchange of `n` numbers."""
        own = product("...ij,j...->i...", self.preferences, weights)
        return jax.lax.all_gather(own, self.axes, axis=0, tiled=True)

    def prepared(self, allowed: jax.Array | None = None) -> tuple[RowsOfGame, jax.Array]:
        """Return the game `1/2 + (P - P^T)/2`, the matrix exchanged once; otherwise as `MatrixGame.prepared`."""
        P, own = self.preferences, self.preferences.shape[-2]
        first = jax.lax.axis_index(self.axes) * own
        diagonal = (first + jnp.arange(own))[:, None] == jnp.arange(self.num_actions)[None]
        diagonal = diagonal.reshape(*(1,) * len(self.batch_shape), own, self.num_actions)
        exact = 0.5 + jnp.where(diagonal, 0, P - self._transposed()) / 2
        good = ((P >= 0) & (P <= 1) & (jnp.abs(P - exact) <= SYMMETRY_TOLERANCE / 2)) | diagonal
        if allowed is None:
            valid = jnp.all(good, axis=(-2, -1))
        else:
            own_allowed = jax.lax.dynamic_slice_in_dim(allowed, first, own, -1)
            valid = has_no_fault_among(allowed, ~good, own_allowed)
            exact = jnp.where(good, exact, 0.5)
        valid = jax.lax.pmin(valid.astype(jnp.int32), self.axes) == 1
        return dataclasses.replace(self, preferences=exact), valid

    def _transposed(self) -> jax.Array:
        """The rows of `P^T` that belong to this device."""
        last = self.preferences.ndim - 1
        exchanged = jax.lax.all_to_all(self.preferences, self.axes, split_axis=last, concat_axis=last - 1, tiled=True)
        return exchanged.mT


def _is_cut(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding) and any(_cuts(leaf))


def _cuts(leaf: Any) -> list[Axes]:
    """Along which axes of its mesh each axis of an array is cut into more than one piece."""
    mesh, spec = leaf.sharding.mesh, leaf.sharding.spec
    names = [() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in spec]
    names += [()] * (leaf.ndim - len(names))
    return [axes if math.prod(mesh.shape[axis] for axis in axes) > 1 else () for axes in names]
