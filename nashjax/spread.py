"""Games that lie on several devices: each device solves its own, or all of them one whose matrix they share."""

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

from nashjax.arguments import invalid, place_name
from nashjax.cores import traces_constants
from nashjax.games import MatrixGame
from nashjax.games.faults import SYMMETRY_TOLERANCE
from nashjax.games.matrix import has_no_fault_among, product
from nashjax.games.validity import NOT_A_GAME, allowed_at
from nashjax.inputs import Inputs, batch_shapes
from nashjax.pytree import register_dataclass
from nashjax.solution import Status
from nashjax.transfers import is_concrete, to_host

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


def is_spread(*arguments: Any) -> bool:
    """Whether arrays among the arguments are cut over several devices, outside of a trace."""
    return is_concrete(arguments) and any(map(_is_cut, jax.tree.leaves(arguments))) and not traces_constants()


def layout(inputs: Inputs) -> Layout:
    """Find how the batch is cut over a mesh, and the rows of matrices.

    Raises:
      ValueError: arrays lie on different meshes, or are cut along an axis that is neither of the batch nor of rows.
    """
    shapes, batch = batch_shapes(inputs), inputs.batch_shape
    mesh: Mesh | None = None
    cuts: list[Axes] = [()] * len(batch)
    rows: Axes = ()
    for name in inputs._fields:
        own = len(shapes[name])
        for leaf in jax.tree.leaves(getattr(inputs, name)):
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
                if not isinstance(inputs.game, MatrixGame) or any(cut[own + 1 :]):
                    required = "must be cut over devices along batch axes or, for a MatrixGame, along its rows"
                    found = f"an array {list(leaf.shape)} cut as {leaf.sharding.spec}"
                    raise invalid("game", required, found)
                rows = cut[own]
    assert mesh is not None
    used = [axis for cut in (*cuts, rows) for axis in cut]
    if len(set(used)) < len(used):
        raise invalid("game", "must be cut along one axis for each axis of the mesh", str(used))
    return Layout(mesh, tuple(cuts), rows)


def place(inputs: Inputs, where: Layout) -> Inputs:
    """Bring every array to where its games lie."""
    leaves, structure = jax.tree.flatten(inputs)
    return jax.tree.unflatten(
        structure,
        [put(leaf, NamedSharding(where.mesh, spec)) for leaf, spec in zip(leaves, _specs(inputs, where), strict=True)],
    )


def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Bring an array to its devices; of one that each process has whole, every device is sent its own part."""
    if sharding.is_fully_addressable or (isinstance(leaf, jax.Array) and not leaf.is_fully_addressable):
        return jax.device_put(leaf, sharding)
    whole = np.asarray(leaf)  # `device_put` would compare it with that of all other processes, NaN for NaN
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def solve_spread(solve: Callable[[Inputs, Any], T], inputs: Inputs, others: Any, where: Layout) -> T:
    """Let each device solve the games that lie on it, with no communication but for the rows of one game.

    Args:
      solve: from games and what else it needs to a pytree whose leaves lead with the batch axes.
      inputs: the games, where `place` has brought them.
      others: a pytree of numbers that every device gets.
      where: the layout of the games.
    """
    leaves, structure = jax.tree.flatten(inputs)

    def solve_own(leaves: list[jax.Array], others: Any) -> T:
        own = jax.tree.unflatten(structure, leaves)
        if where.rows:
            own = own._replace(game=RowsOfGame(own.game.preferences, where.rows))
        return solve(own, others)

    return jax.shard_map(
        solve_own,
        mesh=where.mesh,
        in_specs=(_specs(inputs, where), PartitionSpec()),
        out_specs=PartitionSpec(*where.batch),
        check_vma=False,  # a loop that asks a game of many devices carries what is the same on all of them
    )(leaves, others)


def check_statuses(inputs: Inputs, status: jax.Array, where: Layout) -> None:
    """Raise ValueError, naming the first that is no game of those that are INVALID; all processes call it together.

    The others are games of which the method has returned no policy.
    """
    if not bool(jnp.any(status == Status.INVALID)):
        return
    game = inputs.game
    found = np.argwhere(to_host((status == Status.INVALID) & ~_are_games(inputs, where)))
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

    allowed = allowed_at(inputs.reference, tuple(int(i) for i in found[0]))
    own = jax.tree.map(of_bad_game, game)
    seen = len(jax.tree.leaves(own)) == len(jax.tree.leaves(game)) and hasattr(own, "fault")
    fault = own.fault(allowed, bad) if seen else None
    raise ValueError(f"game.{fault}") if fault else invalid(place_name("game", bad), NOT_A_GAME, "another matrix")


@functools.partial(jax.jit, static_argnames="where")
def _are_games(inputs: Inputs, where: Layout) -> jax.Array:
    """Which of the games are some, `[*batch]`."""
    return solve_spread(lambda own, _: own.prepare()[2], inputs, (), where)


def _specs(inputs: Inputs, where: Layout) -> list[PartitionSpec]:
    """How each array of the games is cut."""
    shapes, batch = batch_shapes(inputs), inputs.batch_shape

    def spec(name: str, leaf: jax.Array) -> PartitionSpec:
        first = len(batch) - len(shapes[name])
        own = leaf.shape[: len(shapes[name])]
        cuts = [where.batch[first + axis] if size == batch[first + axis] else () for axis, size in enumerate(own)]
        if name == "game" and where.rows and leaf.ndim == len(own) + 2:
            cuts.append(where.rows)
        return PartitionSpec(*cuts)

    return [spec(name, leaf) for name in inputs._fields for leaf in jax.tree.leaves(getattr(inputs, name))]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class RowsOfGame:
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
        own, n = self.preferences.shape[-2:]
        tiles = self.preferences.reshape(*self.batch_shape, own, n // own, own)
        exchanged = jax.lax.all_to_all(jnp.moveaxis(tiles, -2, 0), self.axes, split_axis=0, concat_axis=0)
        # From [device, *batch, its rows, my columns] to [*batch, my columns, all rows].
        return jnp.moveaxis(exchanged, (0, -2), (-2, -1)).reshape(*self.batch_shape, own, n)


def _is_cut(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding) and any(_cuts(leaf))


def _cuts(leaf: Any) -> list[Axes]:
    """Along which axes of its mesh each axis of an array is cut into more than one piece."""
    mesh, spec = leaf.sharding.mesh, leaf.sharding.spec
    names = [() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in spec]
    names += [()] * (leaf.ndim - len(names))
    return [axes if math.prod(mesh.shape[axis] for axis in axes) > 1 else () for axes in names]
