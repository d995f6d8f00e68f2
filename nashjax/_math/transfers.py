"""Transfers between host and device, explicit ones, which `jax.transfer_guard("disallow")` allows."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import numpy as np
from jax.core import Tracer

T = TypeVar("T")


def explicit(tree: Any) -> Any:
    """Transfer the numbers and numpy arrays of a pytree to the device if a transfer guard is set.

    Without a guard the pytree is returned as it is: a compiled function transfers a number in a tenth of the time that
    `jax.device_put` takes.
    """
    config: Any = jax.config
    if config.jax_transfer_guard_host_to_device in (None, "allow"):
        return tree
    return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else jax.device_put(x), tree)


def owned(x: T) -> T:
    """Return a copy of a numpy array; anything else is returned as it is.

    jax may read a numpy array after the call that takes it, and before 0.10.2 `jnp.asarray` can share its memory. If
    you copy the array first, callers can change theirs.
    """
    return np.array(x) if isinstance(x, np.ndarray) else x  # pyright: ignore[reportReturnType]


def to_host(array: Any) -> np.ndarray:
    """The values of an array, also where it lies in the memories of several processes; each of them has to call."""
    if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
        from jax.experimental import multihost_utils  # slow to import, and seldom needed

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def is_concrete(x: object) -> bool:
    """Whether no part of a pytree is traced."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(x))
