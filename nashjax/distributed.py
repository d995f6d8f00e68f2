"""Games on many devices and in many processes, by jax's own runtime (`jax.distributed`, meshes).

`nashjax.solve` takes what these functions return as it takes any other games: each device solves those that lie on it.
In a run of several processes all of them make the same calls in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nashjax._execution.mesh import put
from nashjax._math.transfers import to_host
from nashjax._validation import as_real_array, check_square, invalid, wrong_type
from nashjax.games import MatrixGame

__all__ = ["games_mesh", "gather", "initialize", "shard", "shard_local", "shard_rows"]

T = TypeVar("T")

GAMES = "games"
"""The axis of the mesh of `games_mesh`."""


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    heartbeat_timeout: int = 100,
    **options: Any,
) -> None:
    """Join the run of several processes, before anything else is computed; the first call in each of them.

    A thin `jax.distributed.initialize`: under SLURM, on TPU pods and where Open MPI or Kubernetes starts the processes,
    jax finds all arguments by itself. On processors the processes exchange data by gloo.

    Args:
      coordinator_address: `host:port` of the process 0.
      num_processes: how many there are.
      process_id: the number of this one, from 0.
      heartbeat_timeout: seconds without a sign of life of one process after which all others end with an error.
      **options: further ones of `jax.distributed.initialize`.

    Raises:
      RuntimeError: something has been computed before, or the others cannot be reached.
      ValueError: arguments are missing that jax does not find by itself.
    """
    jax.distributed.initialize(
        coordinator_address, num_processes, process_id, heartbeat_timeout_seconds=heartbeat_timeout, **options
    )


def games_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of one axis, "games", over these devices; by default all devices of all processes."""
    chosen = jax.devices() if devices is None else list(devices)
    return Mesh(np.array(chosen), (GAMES,))


def shard(games: T, mesh: Mesh | None = None) -> T:
    """Spread a batch over a mesh: each device gets as many games, in order.

    Args:
      games: a game, an array, or any pytree of arrays that lead with the batch axis, of size 1 where they are shared.
        Every process passes the whole batch.
      mesh: of one axis; default `games_mesh()`.

    Raises:
      ValueError: the mesh has more axes than one, or the games do not divide over its devices.
    """
    mesh, axis = _one_axis(mesh)

    def shard_leaf(leaf: Any) -> jax.Array:
        _check_axis("games", leaf, mesh.size, "games", shared=True)
        return put(leaf, NamedSharding(mesh, PartitionSpec() if leaf.shape[0] == 1 else PartitionSpec(axis)))

    return jax.tree.map(shard_leaf, games)


def shard_local(games: T, mesh: Mesh | None = None) -> T:
    """Spread a batch of which each process has loaded its own part: the parts in the order of the processes.

    Args:
      games: as in `shard`, but only the games of this process; every process as many. What is shared (size 1) has to be
        the same in all.
      mesh: as in `shard`.

    Raises:
      ValueError: as `shard`, or the processes have different numbers of games.
    """
    mesh, axis = _one_axis(mesh)
    devices = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    sizes = np.array([math.prod(np.shape(leaf)[:1]) for leaf in jax.tree.leaves(games)])
    most = sizes.max(initial=1)
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        all_sizes = np.asarray(multihost_utils.process_allgather(sizes))
        if (all_sizes != all_sizes[0]).any():
            found = str(all_sizes.max(axis=1).tolist())
            raise invalid("games", "the same number of games in every process", found)

    def join(leaf: Any) -> jax.Array:
        local = np.asarray(leaf)
        if local.shape[:1] == (1,) and most > 1:
            return put(local, NamedSharding(mesh, PartitionSpec()))
        _check_axis("games", local, devices, "games of a process")
        return jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec(axis)), local)

    return jax.tree.map(join, games)


def shard_rows(game: MatrixGame | Any, mesh: Mesh | None = None) -> MatrixGame:
    """Spread the matrix of one game that is too large for one device: each device gets as many rows, in order.

    A solve then asks all devices in each query, which exchange the `n` payoffs once, and all else they do alike. It is
    by first-order methods unless `Newton()` is asked for (GMRES): near `beta = 0` it can end as `Status.MAX_QUERIES`.

    Args:
      game: a `MatrixGame` or preferences `[n, n]`; from a numpy array each device is sent its rows only.
      mesh: of one axis; default `games_mesh()`.

    Raises:
      ValueError: it is not one square matrix, the mesh has more axes than one, or the rows do not divide over its
        devices. Actions that the reference excludes can fill a game up.
    """
    mesh, axis = _one_axis(mesh)
    preferences: Any = game.preferences if isinstance(game, MatrixGame) else as_real_array("game", game)
    shape = preferences.shape
    check_square("game", shape)
    if len(shape) > 2:
        raise invalid("game", "one matrix [n, n]", f"shape {list(shape)}")
    _check_axis("game", preferences, mesh.size, "rows")
    rows = put(preferences, NamedSharding(mesh, PartitionSpec(axis)))
    return MatrixGame(rows, game.payoff_scale if isinstance(game, MatrixGame) else None)


def gather(results: T) -> T:
    """Bring `results`, a pytree such as a `Solution`, to every process: the same with whole numpy arrays."""
    return jax.tree.map(to_host, results)


def _one_axis(mesh: Mesh | None) -> tuple[Mesh, str]:
    mesh = games_mesh() if mesh is None else mesh
    if not isinstance(mesh, Mesh):
        raise wrong_type("mesh", "a mesh, such as games_mesh(devices)", mesh)
    if len(mesh.axis_names) != 1:
        advice = "Use jax.device_put to cut batch axes and rows along axes of their own."
        raise invalid("mesh", "a mesh of one axis, as that of games_mesh()", f"the axes {dict(mesh.shape)}", advice)
    return mesh, mesh.axis_names[0]


def _check_axis(name: str, leaf: Any, devices: int, what: str, *, shared: bool = False) -> None:
    shape = np.shape(leaf)
    if not shape:
        raise invalid(name, "arrays that lead with a batch axis", "a number without axes")
    if shape[0] % devices and not (shared and shape[0] == 1):
        raise invalid(name, f"a multiple of {devices} {what}, for {devices} devices", str(shape[0]))
