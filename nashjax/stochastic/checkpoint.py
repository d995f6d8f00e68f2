"""Checkpoints of a run, by orbax: a run that was killed goes on as if it had not been."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SMALL = 8
"""Arrays of up to so many entries are told in full, larger ones by a hash."""


class CheckpointError(ValueError):
    """A folder holds the checkpoints of another run."""


class Checkpoints:
    """The checkpoints of one run in a folder; a checkpoint is there as a whole or not at all.

    Args:
      folder: where they lie; made if it is not there.
      settings: what makes a run what it is; only a run of the same may go on from them.

    Raises:
      ImportError: orbax is not installed.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]):
        try:
            import orbax.checkpoint as ocp
        except ImportError as error:
            raise ImportError(f'checkpoints need {error.name}: python -m pip install "nashjax[train]"') from error
        self._args = ocp.args
        self._settings = settings
        if Path(folder).exists() and not Path(folder).is_dir():
            raise CheckpointError(f"checkpoint: {folder} is a file; allowed are folders")
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """The last checkpoint, None if there is none.

        Args:
          like: the pytree that was saved, its arrays of any values; a leading axis of the arrays may differ.

        Returns:
          Its number and the pytree.

        Raises:
          CheckpointError: it is of a run with other settings; the first difference is named.
        """
        number = self._manager.latest_step()
        if number is None:
            return None
        found = self._manager.restore(number, args=self._args.Composite(settings=self._args.JsonRestore()))["settings"]
        different = _first_difference("", found, json.loads(json.dumps(self._settings)))
        if different is not None:
            name, there, here = different
            raise CheckpointError(
                f"checkpoint: the run in {self._manager.directory} had {name} {there}, this one has {here}; allowed "
                "are the folder of the same run and an empty one"
            )
        restored = self._manager.restore(
            number, args=self._args.Composite(state=self._args.StandardRestore(_as_arrays(like)))
        )
        return number, restored["state"]

    def save(self, number: int, state: Any) -> None:
        """Save a pytree of arrays; returns once it is on disk."""
        args = self._args.Composite(
            state=self._args.StandardSave(_as_arrays(state)), settings=self._args.JsonSave(self._settings)
        )
        self._manager.save(number, args=args)
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()


def describe(value: Any, depth: int = 12) -> Any:
    """What a checkpoint says of a setting: the same in every process, different for different settings.

    A function is its code and what it has closed over, which is where optax keeps its hyper-parameters.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (jax.Array, np.ndarray)):
        is_key = jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
        array = np.ascontiguousarray(jax.random.key_data(value) if is_key else value)
        if array.size <= SMALL:
            return array.tolist()
        return f"{array.dtype}{list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if depth == 0:  # something that contains itself
        return name

    def inside(parts: Iterable[Any]) -> list[Any]:
        return [describe(part, depth - 1) for part in parts]

    if isinstance(value, types.FunctionType):
        code = hashlib.sha256(value.__code__.co_code).hexdigest()[:16]
        constants = [x for x in value.__code__.co_consts if isinstance(x, (int, float, str))]
        bound = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *_closure(value))
        return [f"{value.__module__}.{value.__qualname__} {code}", constants, inside(bound)]
    if isinstance(value, functools.partial):
        return inside((value.func, value.args, value.keywords))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value)]
        return {"class": name, **{field: describe(getattr(value, field), depth - 1) for field in fields}}
    if isinstance(value, (tuple, list)):
        return inside(value)
    if isinstance(value, dict):
        return {str(key): describe(x, depth - 1) for key, x in value.items()}
    return name


def _first_difference(name: str, there: Any, here: Any) -> tuple[str, Any, Any] | None:
    """Where two descriptions differ first, and what stands there; None where they do not."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in here:
            different = _first_difference(f"{name}.{key}".lstrip("."), there.get(key), here[key])
            if different is not None:
                return different
        return None
    return None if there == here else (name, there, here)


def _closure(function: types.FunctionType) -> list[Any]:
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not filled yet
            found.append(None)
    return found


def _as_arrays(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)
