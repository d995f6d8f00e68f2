"""Checkpoints of a run, by orbax: a run that was killed goes on as if it had not been."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nashjax._validation import message
from nashjax.files.errors import BadInput, visible
from nashjax.files.settings import first_difference, told
from nashjax.files.source import reason

SMALL = 8
"""Arrays of up to so many entries are told in full, larger ones by a hash."""


class CheckpointError(BadInput):
    """A checkpoint or a weights file that cannot be used: it belongs to another run or model, or is damaged."""


class Checkpoints:
    """The checkpoints of one run in a folder; a checkpoint is there as a whole or not at all.

    Args:
      folder: where they lie; made if it is not there.
      settings: what makes a run what it is; only a run of the same may go on from them.

    Raises:
      ImportError: orbax is not installed.
      CheckpointError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path, settings: dict[str, Any]):
        try:
            import orbax.checkpoint as ocp
        except ImportError as error:
            raise ImportError(f'checkpoints need {error.name}: python -m pip install "nashjax[train]"') from error
        self._args = ocp.args
        self._settings = settings
        if Path(folder).exists() and not Path(folder).is_dir():
            raise CheckpointError(message("folder of checkpoints", "a folder", f"the file {visible(str(folder))}"))
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        try:
            self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)
        except OSError as error:
            got = f"the error {error.strerror or error} for {visible(str(folder))}"
            raise CheckpointError(message("folder of checkpoints", "a folder that can be made", got)) from error

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """The last checkpoint, None if there is none.

        Args:
          like: a pytree of the same structure and shapes as the one that was saved.

        Returns:
          Its number and the pytree.

        Raises:
          CheckpointError: it cannot be read, or is of a run with other settings, the first of which is named.
        """
        number = self._manager.latest_step()
        if number is None:
            return None
        found = self._read(number, settings=self._args.JsonRestore())
        different = first_difference(found, json.loads(json.dumps(self._settings)))
        if different is not None:
            name, there, here = different
            subject = f"{name} of the run in {visible(str(self._manager.directory))}"
            advice = "Use the folder of the same run or an empty one."
            raise CheckpointError(message(subject, f"{told(here)} as in this run", told(there), advice))
        state = self._read(number, state=self._args.StandardRestore(jax.tree.map(_as_array, like)))
        return number, jax.tree.map(_as_was, like, state)

    def _read(self, number: int, **item: Any) -> Any:
        try:
            return self._manager.restore(number, args=self._args.Composite(**item))[next(iter(item))]
        except Exception as error:  # by what is missing or damaged, orbax raises classes of all kinds
            subject = f"checkpoint {visible(str(self._manager.directory / str(number)))}"
            advice = "Remove that folder to continue from the checkpoint before it, if there is one."
            raise CheckpointError(message(subject, "undamaged", f"the error {reason(error)}", advice)) from error

    def save(self, number: int, state: Any) -> None:
        """Save a pytree of arrays; returns once it is on disk."""
        args = self._args.Composite(
            state=self._args.StandardSave(jax.tree.map(_as_array, state)), settings=self._args.JsonSave(self._settings)
        )
        self._manager.save(number, args=args)
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Let go of the folder."""
        self._manager.close()


def describe(value: Any, seen: dict[int, int] | None = None) -> Any:
    """What a checkpoint says of a setting: the same in every process, different for different settings.

    A function is its code and what it has closed over, which is where optax keeps its hyper-parameters. What stands
    in several places, or in itself, is told once.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, (jax.Array, np.ndarray)):
        array = np.ascontiguousarray(jax.random.key_data(value) if _is_key(value) else value)
        if array.size <= SMALL and np.isfinite(array).all():
            return array.tolist()
        return f"{array.dtype}{list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"
    if isinstance(value, (type, types.ModuleType, types.BuiltinFunctionType)):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
    seen = {} if seen is None else seen
    if id(value) in seen:
        return f"see {seen[id(value)]}"
    seen[id(value)] = len(seen)

    def inside(parts: Iterable[Any]) -> list[Any]:
        return [describe(part, seen) for part in parts]

    def named(parts: Mapping[Any, Any]) -> dict[str, Any]:
        return {str(key): describe(part, seen) for key, part in parts.items()}

    if isinstance(value, types.FunctionType):
        bound = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *_closure(value))
        return [describe_code(value), *inside(bound)]
    if isinstance(value, types.MethodType):
        return inside((value.__func__, value.__self__))
    if isinstance(value, functools.partial):
        return inside((value.func, value.args, value.keywords))
    if isinstance(value, (tuple, list)):
        return inside(value)
    if isinstance(value, dict):
        return named(value)
    wrapped = inspect.unwrap(value, stop=lambda one: one is not value)  # of a function that jax has compiled
    if wrapped is not value:
        return describe(wrapped, seen)
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    else:
        fields = getattr(value, "__dict__", {})
    # What is made only here is not among what was seen: the next of its kind can lie in the same place.
    return {"class": describe(type(value)), **named(fields)}


def describe_model(tree: Any) -> dict[str, Any]:
    """What a checkpoint says of a large pytree, to tell models apart and not to guard them.

    The first numbers of each array, its shape, and what stands beside the arrays, such as the scale of adapters.
    """
    beside = re.sub(r" at 0x[0-9a-f]+", "", str(jax.tree.structure(tree)))  # less where things lie in memory
    arrays = [[list(x.shape), str(x.dtype), np.asarray(x.reshape(-1)[:4], np.float32)] for x in jax.tree.leaves(tree)]
    return {"arrays": describe(arrays), "structure": hashlib.sha256(beside.encode()).hexdigest()[:16]}


def describe_code(function: Any) -> str | None:
    """A function without what it has closed over; None for what is no function."""
    code = getattr(function, "__code__", None)
    if code is None:
        return None if function is None else describe(type(function))
    return f"{function.__module__}.{function.__qualname__} {hashlib.sha256(_source(code)).hexdigest()[:16]}"


def _source(code: types.CodeType) -> bytes:
    """What a function does, less where it stands."""
    parts = [code.co_code, repr(code.co_names).encode()]
    for constant in code.co_consts:
        if isinstance(constant, frozenset):  # its order differs from process to process
            constant = sorted(map(repr, constant))
        parts.append(_source(constant) if isinstance(constant, types.CodeType) else repr(constant).encode())
    return b" ".join(parts)


def _closure(function: types.FunctionType) -> list[Any]:
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not filled yet
            found.append(None)
    return found


def _is_key(x: Any) -> bool:
    return isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _as_array(x: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(x) if _is_key(x) else x)


def _as_was(like: Any, x: Any) -> Any:
    return jax.random.wrap_key_data(x, impl=jax.random.key_impl(like)) if _is_key(like) else x
