"""Trained weights in one file. A policy with adapters saves the adapters alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from nashjax.files.archives import read_arrays
from nashjax.files.errors import BadInput, bad_input, shortened
from nashjax.files.write import whole_file
from nashjax.stochastic.checkpoint import CheckpointError
from nashjax.stochastic.policies import Params


def save_weights(path: str | Path, params: Params) -> None:
    """Write the weights `params` of a policy to `path` as `.npz`, one array per leaf.

    If writing fails, no file appears at `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        np.savez(file, **_named(params))


def load_weights(path: str | Path, like: Params) -> Params:
    """Read weights from `path` for a policy whose initial weights are `like`.

    No more memory is allocated than the weights need, whatever the file says.

    Args:
      path: a file that `save_weights` has written.
      like: weights of the same model, whose names, shapes and dtypes the result has.

    Raises:
      CheckpointError: of `nashjax.stochastic`, a `BadInput`: the file cannot be read, has entries that are not finite
        numbers, or belongs to another model. The message names the first difference.
    """
    try:
        found = read_arrays(path, {name: value.shape for name, value in _named(like).items()})
        return jax.tree.map_with_path(
            lambda place, leaf: _converted(path, jax.tree_util.keystr(place), found, leaf), like
        )
    except BadInput as error:
        raise CheckpointError(str(error)) from (error.__cause__ or error)


def _converted(path: str | Path, name: str, found: dict[str, np.ndarray], like: Any) -> jax.Array:
    """Return an array in the dtype of `like`; raises BadInput where that cannot hold its numbers."""
    with np.errstate(over="ignore"):
        array = found[name].astype(like.dtype)
    if not np.isfinite(array).all():
        raise bad_input(path, f"array {shortened(name)}", f"finite in {like.dtype}", "larger numbers")
    return jax.numpy.asarray(array)


def _named(params: Params) -> dict[str, Any]:
    """Return each array by its path in the pytree."""
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}
