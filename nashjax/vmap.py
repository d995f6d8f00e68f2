"""Solving under `jax.vmap`: the mapped axis joins the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from nashjax.games import EmbeddingGame, LowRankGame, MatrixGame
from nashjax.inputs import Inputs, batch_shapes

T = TypeVar("T")


def solve_mapped_axis_as_batch(solve: Callable[[Inputs, Any], T], inputs: Inputs, others: Any) -> T:
    """Call `solve(inputs, others)`; under `vmap`, once for all mapped games, as if they came as a batch.

    Without this, `vmap` would turn each branch of the solver into a selection and each factorization into a kernel for
    many matrices. It would cost up to ninety times as much and, on a processor, could wait forever. Games of classes
    that are not ours are mapped by `vmap` itself, because only their authors know where their batch axes are. So is a
    call whose mapped axis is one of `others`.

    Args:
      solve: function of the games and of what else it needs, to a pytree whose leaves begin with the batch axes. Its
        derivatives are 0.
      inputs: the games, `[*batch]`.
      others: a pytree of arrays without batch axes.
    """
    inputs, others = jax.lax.stop_gradient((inputs, others))
    mappable = jax.custom_batching.custom_vmap(solve)

    @mappable.def_vmap
    def rule(axis_size: int, in_batched: Any, inputs: Inputs, others: Any) -> tuple[T, Any]:
        batched, others_batched = in_batched
        ours = isinstance(inputs.game, (MatrixGame, EmbeddingGame, LowRankGame))
        if ours and not any(jax.tree.leaves(others_batched)):
            solved = mappable(_join_batch(inputs, batched), others)
        else:
            axes = jax.tree.map(lambda mapped: 0 if mapped else None, tuple(in_batched))
            solved = jax.vmap(solve, in_axes=axes, axis_size=axis_size)(inputs, others)
        return solved, jax.tree.map(lambda _: True, solved)

    return mappable(inputs, others)


def _join_batch(inputs: Inputs, batched: Inputs) -> Inputs:
    """Make the mapped axis, which leads the arrays marked in `batched`, the first batch axis of the games."""
    # The shapes before the axis was mapped: those of single members of it.
    one = jax.tree.map(lambda leaf, own: jax.ShapeDtypeStruct(leaf.shape[own:], leaf.dtype), inputs, batched)
    shapes = batch_shapes(one)
    rank = max(len(shape) for shape in shapes.values())

    def join(name: str) -> Any:
        mapped = jax.tree.leaves(getattr(batched, name))
        if not any(mapped):
            return getattr(inputs, name)
        missing = (1,) * (rank - len(shapes[name]))

        def leaf_joined(leaf: jax.Array, own: bool) -> jax.Array:
            lead, rest = (leaf.shape[:1], leaf.shape[1:]) if own else ((1,), leaf.shape)
            return leaf.reshape(*lead, *missing, *rest)

        return jax.tree.map(leaf_joined, getattr(inputs, name), getattr(batched, name))

    return inputs._replace(**{name: join(name) for name in inputs._fields})
