"""Where weights and answers lie on a mesh of devices: `data` splits answers, `fsdp` splits answers and weights."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nashjax._validation import invalid, wrong_type

T = TypeVar("T")

AXES = ("data", "fsdp")
SMALLEST = 2**14
"""Arrays of fewer entries lie whole on every device: to gather them costs more than they take."""


def check_mesh(mesh: Mesh, rows: int, accumulate: int) -> None:
    """Raise ValueError unless a mesh has the axes of `AXES` and its devices divide the prompts of a micro-batch."""
    if not isinstance(mesh, Mesh):
        raise wrong_type("mesh", "a mesh of jax, such as jax.make_mesh makes", mesh)
    if not set(mesh.axis_names) <= set(AXES):
        raise invalid("mesh", f"must have axes among {AXES}", str(mesh.axis_names))
    if rows % (mesh.size * accumulate):
        requirement = (
            f"must have a number of devices that divides the {rows / accumulate:g} prompts of a part of a step"
        )
        raise invalid("mesh", requirement, str(mesh.size))


def place_weights(weights: T, mesh: Mesh | None) -> T:
    """Weights on the devices of a mesh, each split along its longest axis that `fsdp` divides."""
    if mesh is None:
        return weights
    return jax.tree.map(lambda x: jax.device_put(np.asarray(x), _split(x, mesh)), weights)


def split_weights(weights: T, mesh: Mesh | None) -> T:
    """As `place_weights`, for what is of the weights' shapes, such as an optimiser's state; inside of compiled code."""
    if mesh is None:
        return weights
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, _split(x, mesh)), weights)


def _split(x: Any, mesh: Mesh) -> NamedSharding:
    devices = mesh.shape.get("fsdp", 1)
    spec: list[str | None] = [None] * x.ndim
    for axis in sorted(range(x.ndim), key=lambda axis: -x.shape[axis]):
        if devices > 1 and x.size >= SMALLEST and x.shape[axis] % devices == 0:
            spec[axis] = "fsdp"
            break
    return NamedSharding(mesh, PartitionSpec(*spec))


def split_rows(x: T, mesh: Mesh | None) -> T:
    """Arrays that lead with prompts, split over all devices; inside of compiled code."""
    return (
        x if mesh is None else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
    )


def whole(x: T, mesh: Mesh | None) -> T:
    """Arrays as a whole on every device; inside of compiled code."""
    return x if mesh is None else jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec()))


def to_all_processes(x: np.ndarray) -> np.ndarray:
    """What process 0 says, on every process."""
    if jax.process_count() == 1:
        return x
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(x))


def to_mesh(x: Any, mesh: Mesh | None) -> jax.Array:
    """An array that all processes have, whole on every device."""
    if mesh is None:
        return jnp.asarray(x)
    return jax.device_put(np.asarray(x), NamedSharding(mesh, PartitionSpec()))
