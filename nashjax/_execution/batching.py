"""The one rule that cuts a batch: blocks for a cache, parts for cores, chunks of unfinished games.

The cost model has three figures: the bytes of a game, the cores, and the cost of a call. Sizes are powers of four, of
games or of blocks, so that a new batch size seldom needs a new program.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from nashjax.problem import Problem

T = TypeVar("T")

CACHE = 2**21
"""Bytes of matrices that are worked on together: the cache of a core (benchmarks/blocks.py)."""
SYSTEM_ENTRIES = 2**15
"""Entries of linear systems that are solved side by side on a processor: more would wait for the last of them."""
MOST_BLOCKS = 64
"""Blocks of the largest part; larger parts would be further programs to compile, with little left to gain."""
CALL = 0.5
"""Cost of one more part, in blocks: the call of its program."""


def num_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this operating system
        return os.cpu_count() or 1


def default_block_size(problem: Problem, *, systems: bool = False) -> int:
    """Return how many games to solve together, a power of two: what fits a cache, or all on an accelerator.

    Args:
      problem: the games.
      systems: whether the algorithm solves linear systems, which need several matrices for each game.
    """
    n, itemsize = problem.game.num_actions, problem.beta.dtype.itemsize
    on_cpu = jax.default_backend() == "cpu"
    if not on_cpu:
        most = max(math.prod(problem.batch_shape), 1)
        return min(max(2**27 // n**2, 1), most) if systems else most
    if math.prod(tuple(problem.game.batch_shape)) <= 1:
        block = _power_of_two(2**15 / n, least=64)
    else:
        most = 512 if n < 8 else 128 if n < 16 else 64  # more games wait longer for the last of them
        block = _power_of_two(min(CACHE / (n**2 * itemsize), most), least=2)
    if systems:
        return _power_of_two(min(SYSTEM_ENTRIES / n**2, block / (2 if itemsize == 8 else 4)), least=1)
    return block


def _power_of_two(number: float, least: int) -> int:
    return max(2 ** int(math.log2(max(number, 1))), least)


def cut(num_games: int, block_size: int) -> tuple[int, Sequence[int]]:
    """Return the size of the parts of a batch and where each begins.

    The last part ends where the batch does and may overlap the one before. A batch smaller than the part is padded. Of
    the few sizes that parts may have, this is the one with which the cores are estimated to finish first.
    """
    if num_games <= 1:
        return num_games, (0,)
    sizes = [4**k for k in range(16) if 4**k < block_size]
    sizes += [block_size * 4**k for k in range(8) if 4**k <= MOST_BLOCKS]

    def time(size: int) -> float:
        turns = math.ceil(math.ceil(num_games / size) / num_cores())
        return turns * (size / block_size + CALL)

    fitting = [size for size in sizes if size < 4 * num_games]
    size = min(reversed(fitting), key=time)
    return size, [max(min(start, num_games - size), 0) for start in range(0, num_games, size)]


def map_blocks(function: Callable[[Problem, Any], T], problem: Problem, more: Any, block_size: int) -> T:
    """Apply a function to blocks of games, one after the other.

    Args:
      function: from games of some batch shape, and what belongs to them, to a pytree whose leaves lead with that shape.
      problem: the games, `[*batch]`.
      more: a pytree whose leaves lead with `[*batch]`, or None.
      block_size: games in a block.

    Returns:
      The pytree of all games, its leaves `[*batch, ...]`.
    """
    batch = problem.batch_shape
    num_games = math.prod(batch)
    if num_games <= block_size:
        return function(problem, more)
    num_blocks = math.ceil(num_games / block_size)
    # The last block ends where the batch does; what it shares with the one before is solved twice and used once.
    starts = jnp.minimum(jnp.arange(num_blocks) * block_size, num_games - block_size)
    flat = flatten_batch(more, batch)

    def solve_block(start: jax.Array) -> T:
        own = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, block_size), flat)
        return function(problem.slice(start, block_size), own)

    solved = jax.lax.map(solve_block, starts)
    new_in_last = num_games - (num_blocks - 1) * block_size

    def join(x: jax.Array) -> jax.Array:
        if new_in_last == block_size:
            return x.reshape(*batch, *x.shape[2:])
        joined = jnp.concatenate([x[:-1].reshape(-1, *x.shape[2:]), x[-1, -new_in_last:]])
        return joined.reshape(*batch, *x.shape[2:])

    return jax.tree.map(join, solved)


def update_some(
    update: Callable[[Problem, T], T], problem: Problem, progress: T, chosen: jax.Array, chunk_size: int
) -> T:
    """Apply a function to the chosen games alone, brought together in chunks; all others stay as they are.

    Args:
      update: from games and their progress, leaves `[chunk, ...]`, to new progress.
      problem: the games, `[*batch]`.
      progress: a pytree whose leaves lead with `[*batch]`.
      chosen: bool `[*batch]`.
      chunk_size: games in a chunk.
    """
    batch = problem.batch_shape
    num_games = math.prod(batch)
    if num_games == 0:
        return progress
    if num_games == 1:
        return jax.lax.cond(jnp.any(chosen), update, lambda _, progress: progress, problem, progress)
    chunk_size = min(chunk_size, num_games)
    flat = flatten_batch(progress, batch)
    # Beyond the chosen ones stands an index that no game has: what is computed there is dropped.
    places = jnp.nonzero(chosen.reshape(num_games), size=num_games, fill_value=num_games)[0]
    places = jnp.concatenate([places, jnp.full(chunk_size, num_games)])

    def go_on(carried: tuple[jax.Array, T]) -> tuple[jax.Array, T]:
        start, flat = carried
        index = jax.lax.dynamic_slice(places, (start,), (chunk_size,))
        # An index past the end reads the last game.
        updated = update(problem.take(jnp.minimum(index, num_games - 1)), jax.tree.map(lambda x: x[index], flat))
        flat = jax.tree.map(lambda x, new: x.at[index].set(new, mode="drop"), flat, updated)
        return start + chunk_size, flat

    _, flat = jax.lax.while_loop(lambda carried: places[carried[0]] < num_games, go_on, (jnp.int32(0), flat))
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), flat)


def flatten_batch(tree: T, batch: tuple[int, ...]) -> T:
    """Return a pytree whose leaves `[*batch, ...]` lead with one axis for all games; numpy arrays become views."""
    num_games = math.prod(batch)
    return jax.tree.map(lambda x: x.reshape(num_games, *x.shape[len(batch) :]), tree)
