"""A batch of arrays in memory, cut into parts of a few sizes and solved on all cores of a processor.

Inside a trace there is one program and one loop at a time. Outside of one, threads call a program for each part: all
cores work, and whatever the size of the batch, only programs for a power of two of games or blocks are compiled.
"""

from __future__ import annotations

import collections
import functools
import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import get_opaque_trace_state

from nashjax.inputs import Inputs
from nashjax.solution import Solution
from nashjax.transfers import explicit, is_concrete

T = TypeVar("T")

MOST_BLOCKS = 64
"""The blocks of the largest part; larger ones would be further programs to compile, with little left to gain."""
CALL = 0.5
"""What one more part costs, in blocks: the call of its program, and a chunk of unfinished games that is not full."""
WIDE = {"xla_cpu_prefer_vector_width": 512}
"""Compiler options for a processor: vectors as wide as it has them, where XLA would halve them. Saves a sixth
(with AVX-512)."""
ALONE = WIDE | {"xla_cpu_multi_thread_eigen": False}
"""The same for a program beside which others run: products of matrices keep to one core."""


def can_share(*arguments: Any) -> bool:
    """Whether all arrays among the arguments are numbers in the memory of the one processor that jax works on.

    Not inside of a trace, whatever they are: what is computed there becomes part of the trace.
    """
    if jax.default_backend() != "cpu" or not is_concrete(arguments):
        return False
    if traces_constants():
        return False
    config: Any = jax.config
    device = config.jax_default_device or jax.local_devices()[0]
    arrays = [leaf for leaf in jax.tree.leaves(arguments) if isinstance(leaf, jax.Array)]
    return all(
        leaf.is_fully_addressable and leaf.devices() == {device} and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        for leaf in arrays
    )


_leaves_constants_alone: list[Any] = []
"""The last state of jax's tracing of which that is known."""


def traces_constants() -> bool:
    """Whether what is computed here, even of constants, becomes part of a trace that is being made."""
    # Computing something tells, but takes long for a question of every call. A state is a trace: what is known stays.
    state = get_opaque_trace_state()
    if state in _leaves_constants_alone:
        return False
    if isinstance(jax.lax.neg(explicit(np.float32(0))), Tracer):
        return True
    _leaves_constants_alone[:] = [state]
    return False


def parts(num_games: int, block_size: int) -> tuple[int, Sequence[int]]:
    """The games of a part and where each part begins; the last ends where the batch does, and may overlap.

    Parts are powers of two (times a block that is none), so that a sweep over the size of the batch compiles few
    programs and pads nothing; of these, the one with which the cores are estimated to be done first.
    """
    if num_games <= 1:
        return num_games, (0,)
    if num_games < block_size:
        size = 2 ** int(math.log2(num_games))
    else:

        def time(blocks: int) -> float:
            turns = math.ceil(math.ceil(num_games / (blocks * block_size)) / num_cores())
            return turns * (blocks + CALL)

        powers = [2**k for k in range(int(math.log2(MOST_BLOCKS)) + 1) if 2**k * block_size <= num_games]
        size = block_size * min(reversed(powers), key=time)
    return size, [min(start, num_games - size) for start in range(0, num_games, size)]


def solve_parts(solve: Callable[[Inputs], Solution], inputs: Inputs, size: int, starts: Sequence[int]) -> Solution:
    """Solve each part with a call of its own, on all cores; waits for the last one.

    Args:
      solve: a compiled program for `size` games.
      inputs: the games, `[*batch]`, of which only parts that are being solved are ever copied.
      size: games in a part.
      starts: where each part begins in the flattened batch.
    """
    batch, num_games = inputs.batch_shape, math.prod(inputs.batch_shape)
    views = jax.tree.map(np.asarray, inputs)
    wholes: list[np.ndarray] = []
    allocation = threading.Lock()

    def solve_part(start: int) -> Any:
        leaves, structure = jax.tree.flatten(solve(views.part(start, size)))
        with allocation:
            if not wholes:
                wholes.extend(np.empty((num_games, *leaf.shape[1:]), leaf.dtype) for leaf in leaves)
        for whole, leaf in zip(wholes, leaves, strict=True):
            whole[start : start + size] = leaf
        return structure

    structure = on_all_cores(solve_part, starts)[0]
    return jax.tree.unflatten(structure, [jnp.asarray(explicit(x.reshape(*batch, *x.shape[1:]))) for x in wholes])


def on_all_cores(function: Callable[[int], T], arguments: Sequence[int]) -> list[T]:
    """Call a function with each argument, in this thread and in others, as many as this process may use cores."""
    results: list[Any] = [None] * len(arguments)
    waiting = collections.deque(enumerate(arguments))
    caller = _settings()

    def work() -> None:
        try:
            while waiting:
                try:
                    place, argument = waiting.popleft()
                except IndexError:  # another thread was quicker
                    return
                results[place] = function(argument)
        except BaseException:  # an interrupt, too, ends what has not begun
            waiting.clear()
            raise

    def help_caller() -> None:
        # What a caller has set for its own thread alone, with `jax.enable_x64(True):`, other threads do not see.
        if _settings() == caller:
            work()
            return
        x64, device = caller
        with jax.enable_x64(x64), jax.default_device(device):
            work()

    helpers: list[Future[None]] = []
    try:
        for _ in range(min(num_cores(), len(arguments)) - 1):
            helpers.append(_threads().submit(help_caller))
        work()
    finally:
        waiting.clear()
        wait([helper for helper in helpers if not helper.cancel()])
    for helper in helpers:
        if not helper.cancelled():
            helper.result()
    return results


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """The threads that help a caller: kept, as to start one takes as long as to solve a few games."""
    return ThreadPoolExecutor(os.cpu_count(), "nashjax")


if hasattr(os, "register_at_fork"):  # a process that is forked off does not get them
    os.register_at_fork(after_in_child=_threads.cache_clear)


def _settings() -> tuple[Any, ...]:
    config: Any = jax.config
    return config.jax_enable_x64, config.jax_default_device


def num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
