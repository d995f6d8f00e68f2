"""Registering dataclasses as pytrees."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TypeVar

import jax

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Classes:
    """Classes as a pytree without leaves, so that programs compiled for one of them never serve another.

    Users register games and methods of their own with `jax.tree_util.register_dataclass`, whose structures jaxlib can
    take for each other (see `register_dataclass`); beside them in the arguments of a compiled function this keeps them
    apart.
    """

    classes: tuple[type, ...] = ()

    @classmethod
    def of(cls, *values: object) -> Classes:
        """Those of some values and of the dataclasses that they are made of."""
        return cls(tuple(found for value in values for found in _classes(value)))

    def beside(self, *values: object) -> Classes:
        """These, and those of further values."""
        return Classes(self.classes + Classes.of(*values).classes)


def _classes(value: object) -> Iterator[type]:
    yield type(value)
    if dataclasses.is_dataclass(value):
        for field in vars(value).values():
            # Not of arrays: whose they are, numpy's or jax's, makes no other program.
            if dataclasses.is_dataclass(field) and not isinstance(field, type):
                yield from _classes(field)


jax.tree_util.register_pytree_node(Classes, lambda kept: ((), kept.classes), lambda classes, _: Classes(classes))


def register_dataclass(cls: type[T]) -> type[T]:
    """Register a dataclass as a pytree that jax can tell from every other, fields marked `static` as structure.

    `jax.tree_util.register_dataclass` will not do: since version 0.10, jaxlib takes the structures of two dataclasses
    with the same number of fields for equal, whatever their classes. Only their hashes differ, so that `jit` now and
    then runs the program of another class.
    """
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    static = [field.name for field in fields if field.metadata.get("static")]
    traced = [field.name for field in fields if field.name not in static]

    def flatten(instance: T) -> tuple[list[object], tuple[object, ...]]:
        return [getattr(instance, name) for name in traced], (cls, *(getattr(instance, name) for name in static))

    def flatten_with_keys(instance: T) -> tuple[list[tuple[object, object]], tuple[object, ...]]:
        values, structure = flatten(instance)
        return [(jax.tree_util.GetAttrKey(n), v) for n, v in zip(traced, values, strict=True)], structure

    def unflatten(structure: tuple[object, ...], values: Iterable[object]) -> T:
        # Not by `cls(...)`: what that checks holds for what users make, not for all that jax puts in its place.
        instance = object.__new__(cls)
        for name, value in (*zip(traced, values, strict=True), *zip(static, structure[1:], strict=True)):
            object.__setattr__(instance, name, value)
        return instance

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
