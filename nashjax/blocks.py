"""A batch cut into blocks: what fits the cache together is solved together, each block to its own end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from nashjax.inputs import Inputs

T = TypeVar("T")


def map_blocks(solve_block: Callable[[Inputs], T], inputs: Inputs, block_size: int) -> T:
    """Apply a function to blocks of games, one after the other.

    Args:
      solve_block: from games of some batch shape to a pytree whose leaves lead with that shape.
      inputs: the games, `[*batch]`.
      block_size: games in a block.

    Returns:
      The pytree of all games, its leaves `[*batch, ...]`.
    """
    batch = inputs.batch_shape
    num_games = math.prod(batch)
    if num_games <= block_size:
        return solve_block(inputs)
    num_blocks = math.ceil(num_games / block_size)
    # The last block ends where the batch does; what it shares with the one before is solved twice and used once.
    starts = jnp.minimum(jnp.arange(num_blocks) * block_size, num_games - block_size)
    solved = jax.lax.map(lambda start: solve_block(inputs.slice(start, block_size)), starts)
    new_in_last = num_games - (num_blocks - 1) * block_size

    def join(x: jax.Array) -> jax.Array:
        if new_in_last == block_size:
            return x.reshape(*batch, *x.shape[2:])
        joined = jnp.concatenate([x[:-1].reshape(-1, *x.shape[2:]), x[-1, -new_in_last:]])
        return joined.reshape(*batch, *x.shape[2:])

    return jax.tree.map(join, solved)


def update_some(update: Callable[[Inputs, T], T], inputs: Inputs, outcome: T, chosen: jax.Array, chunk_size: int) -> T:
    """Apply a function to the chosen games alone, brought together in chunks; all others stay as they are.

    Args:
      update: from games and their outcome, leaves `[chunk, ...]`, to a new outcome.
      inputs: the games, `[*batch]`.
      outcome: a pytree whose leaves lead with `[*batch]`.
      chosen: bool `[*batch]`.
      chunk_size: games in a chunk.
    """
    batch = inputs.batch_shape
    num_games = math.prod(batch)
    if num_games == 0:
        return outcome
    chunk_size = min(chunk_size, num_games)
    flat = jax.tree.map(lambda x: x.reshape(num_games, *x.shape[len(batch) :]), outcome)
    # Beyond the chosen ones stands an index that no game has: what is computed there is dropped.
    places = jnp.nonzero(chosen.reshape(num_games), size=num_games, fill_value=num_games)[0]
    places = jnp.concatenate([places, jnp.full(chunk_size, num_games)])

    def go_on(carried: tuple[jax.Array, T]) -> tuple[jax.Array, T]:
        start, flat = carried
        index = jax.lax.dynamic_slice(places, (start,), (chunk_size,))
        # An index past the end reads the last game.
        updated = update(inputs.take(jnp.minimum(index, num_games - 1)), jax.tree.map(lambda x: x[index], flat))
        flat = jax.tree.map(lambda x, new: x.at[index].set(new, mode="drop"), flat, updated)
        return start + chunk_size, flat

    _, flat = jax.lax.while_loop(lambda carried: places[carried[0]] < num_games, go_on, (jnp.int32(0), flat))
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), flat)


def default_block_size(inputs: Inputs) -> int:
    """How many games to solve together: what fits the cache of a core; all on an accelerator (benchmarks/blocks.py).

    A power of two, so that parts of `nashjax/cores.py` consist of whole blocks.
    """
    n = inputs.game.num_actions
    if jax.default_backend() != "cpu":
        return max(math.prod(inputs.batch_shape), 1)
    if math.prod(tuple(inputs.game.batch_shape)) <= 1:
        return 2 ** max(int(math.log2(2**15 / n)), 6)
    bytes_of_a_game = n**2 * inputs.beta.dtype.itemsize
    most = 512 if n < 8 else 128 if n < 16 else 64  # more games wait longer for the last of them
    return 2 ** max(int(math.log2(min(2**21 / bytes_of_a_game, most))), 1)
