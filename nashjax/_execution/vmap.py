"""Solving under `jax.vmap`: the mapped axis joins the batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from nashjax.games.conversion import BUILT_IN
from nashjax.problem import Problem

T = TypeVar("T")


def map_as_batch(solve: Callable[[Problem, Any], T], problem: Problem, others: Any) -> T:
    """Call `solve(problem, others)`; under `vmap`, once for all mapped games, as if they came as a batch.

    Without this, `vmap` would turn each branch of the solver into a selection and each factorization into a kernel for
    many matrices. It would cost up to ninety times as much and, on a processor, could wait forever. Games of a user's
    class are mapped by `vmap` itself, because only the class knows the batch axes of its leaves. The same holds for a
    call whose mapped axis is one of `others`.

    Args:
      solve: function of the games and of what else it needs, to a pytree whose leaves begin with the batch axes. Its
        derivatives are 0.
      problem: the games, `[*batch]`.
      others: a pytree of arrays without batch axes.
    """
    others = jax.lax.stop_gradient(others)
    mappable = jax.custom_batching.custom_vmap(solve)

    @mappable.def_vmap
    def rule(axis_size: int, in_batched: Any, problem: Problem, others: Any) -> tuple[T, Any]:
        batched, others_batched = in_batched
        if isinstance(problem.game, BUILT_IN) and not any(jax.tree.leaves(others_batched)):
            solved = mappable(_join_batch(problem, batched), others)
        else:
            axes = jax.tree.map(lambda mapped: 0 if mapped else None, tuple(in_batched))
            solved = jax.vmap(solve, in_axes=axes, axis_size=axis_size)(problem, others)
        return solved, jax.tree.map(lambda _: True, solved)

    return mappable(problem, others)


def _join_batch(problem: Problem, batched: Problem) -> Problem:
    """Make the mapped axis, which leads the arrays marked in `batched`, the first batch axis of the games."""
    # The shapes before the axis was mapped: those of single members of it.
    one = jax.tree.map(lambda leaf, own: jax.ShapeDtypeStruct(leaf.shape[own:], leaf.dtype), problem, batched)
    shapes = one.batch_shapes()
    rank = max(len(shape) for shape in shapes.values())

    def joined(leaves: Any, mapped: Any, own_rank: int) -> Any:
        if not any(jax.tree.leaves(mapped)):
            return leaves
        missing = (1,) * (rank - own_rank)

        def leaf_joined(leaf: jax.Array, own: bool) -> jax.Array:
            lead, rest = (leaf.shape[:1], leaf.shape[1:]) if own else ((1,), leaf.shape)
            return leaf.reshape(*lead, *missing, *rest)

        return jax.tree.map(leaf_joined, leaves, mapped)

    fields, marks = problem._asdict(), batched._asdict()
    return Problem(**{name: joined(fields[name], marks[name], len(shapes[name])) for name in fields})
