"""Trained weights in one file: with adapters, those alone."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nashjax.files.write import whole_file
from nashjax.stochastic.checkpoint import CheckpointError
from nashjax.stochastic.policies import Params


def save_weights(path: str | Path, params: Params) -> None:
    """Write the weights `params` of a policy to `path` as `.npz`, an array a leaf; there as a whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        np.savez(file, **_named(params))


def load_weights(path: str | Path, like: Params) -> Params:
    """Read weights from `path` for a policy whose first weights are `like`.

    Raises:
      CheckpointError: of `nashjax.stochastic`, a ValueError: the file cannot be read, has entries that are no numbers,
        or is of another model; the first difference is named.
    """
    try:
        with open(path, "rb") as stream, np.load(stream) as file:
            found = dict(file)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise CheckpointError(f"weights: {path} cannot be read ({error})") from error
    expected = _named(like)
    for name, value in expected.items():
        shape = found[name].shape if name in found else None
        if shape != value.shape:
            raise CheckpointError(
                f"weights: {path} has {name} of shape {shape}, the model one of {value.shape}; allowed are weights of "
                "the same model"
            )
        if not np.isfinite(found[name]).all():
            raise CheckpointError(f"weights: {path} has {name} with entries that are not finite")
    more = set(found) - set(expected)
    if more:
        raise CheckpointError(f"weights: {path} has {min(more)}, which the model has not; allowed are its own weights")
    leaves, structure = jax.tree.flatten(like)
    new = [jax.numpy.asarray(found[name], leaf.dtype) for name, leaf in zip(expected, leaves, strict=True)]
    return jax.tree.unflatten(structure, new)


def _named(params: Params) -> dict[str, Any]:
    """Each array by its path."""
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}
