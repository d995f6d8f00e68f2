"""The default of `solve`: adaptive Nash Mirror Prox, and Newton's method where that is the faster way to the end."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from nashjax.algorithms import AdaptiveNashMP, Algorithm, Newton
from nashjax.driver import Outcome, run
from nashjax.inputs import Inputs
from nashjax.solution import Status

TIGHT_TOLERANCE = 1e-9
"""In float64, tolerances below this end with Newton's method and its polish, all others only where queries run high."""
HANDOVER = 1e-5
"""The exploitability at which games of a tight tolerance go over to Newton's method."""
LARGEST_NEWTON = 4096
"""Above this many actions a linear solve costs more than the queries it saves."""

_NEWTON = Newton(first_step=300.0)


def first_order_budget(num_actions: int) -> int:
    """Queries after which a game goes over to Newton's method: what a solve of about ten steps of it costs."""
    return 60 + 5 * num_actions


def run_hybrid(inputs: Inputs, max_queries: jax.Array) -> Outcome:
    """Solve games side by side: all by first order, then what is left in small chunks by Newton's method.

    A game goes over when its queries reach `first_order_budget`, or at exploitability `HANDOVER` where its tolerance
    is tight. What Newton's method gives up returns to first order. The unfinished games are brought together first,
    so that a few hard games cost linear solves of their own only.
    """
    problem, log_initial, valid = inputs.prepare()
    n, dtype = problem.game.num_actions, log_initial.dtype
    if not hasattr(problem.game, "dense") or n > LARGEST_NEWTON:
        return run(problem, AdaptiveNashMP(), log_initial, valid, inputs.tol, max_queries)
    tight = (inputs.tol < TIGHT_TOLERANCE) & (dtype == jnp.float64)
    handover = jnp.where(tight, jnp.maximum(inputs.tol, HANDOVER), inputs.tol)
    budget = jnp.minimum(max_queries, first_order_budget(n))
    first = run(problem, AdaptiveNashMP(), log_initial, valid, handover, budget)
    unfinished = (first.status == Status.MAX_QUERIES) | (tight & (first.status == Status.CONVERGED))
    first = first._replace(status=jnp.where(unfinished, jnp.int8(Status.MAX_QUERIES), first.status))
    return _finish(inputs, first, unfinished, max_queries)


def _finish(inputs: Inputs, first: Outcome, unfinished: jax.Array, max_queries: jax.Array) -> Outcome:
    """Finish the unfinished games; they are brought together, so that each chunk of the others costs nothing."""
    batch = first.status.shape
    num_games, n = math.prod(batch), inputs.game.num_actions
    chunk_size = min(max(2**15 // n**2, 1), 256)
    if num_games <= chunk_size:
        return _finish_chunk(inputs, first, unfinished, max_queries)
    num_chunks = math.ceil(num_games / chunk_size)

    first = jax.tree.map(lambda x: x.reshape(*x.shape[: x.ndim - len(batch)], num_games), first)
    unfinished = unfinished.reshape(num_games)
    order = jnp.argsort(~unfinished, stable=True)
    # The last chunk is filled up with games that are left alone.
    position = jnp.arange(num_chunks * chunk_size).reshape(num_chunks, chunk_size)
    chunks = order[jnp.minimum(position, num_games - 1)]

    def finish(chunk: tuple[jax.Array, jax.Array]) -> Outcome:
        index, real = chunk
        start = jax.tree.map(lambda x: x[..., index], first)
        return _finish_chunk(inputs.take(index), start, unfinished[index] & real, max_queries)

    ended = jax.lax.map(finish, (chunks, position < num_games))
    ended = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)[..., :num_games], ended)
    place = jnp.argsort(order)
    return jax.tree.map(lambda x: x[..., place].reshape(*x.shape[:-1], *batch), ended)


def _finish_chunk(inputs: Inputs, start: Outcome, unfinished: jax.Array, max_queries: jax.Array) -> Outcome:
    problem, _, _ = inputs.prepare()

    def go_on(outcome: Outcome, algorithm: Algorithm[Any]) -> Outcome:
        left = max_queries - outcome.queries
        playing = unfinished & (outcome.status == Status.MAX_QUERIES) & (left > algorithm.queries_per_step)
        ended = run(problem, algorithm, outcome.log_policy, playing, inputs.tol, left)
        ended = ended._replace(queries=outcome.queries + ended.queries, steps=outcome.steps + ended.steps)
        return jax.tree.map(lambda new, old: jnp.where(playing, new, old), ended, outcome)

    outcome = go_on(start, _NEWTON)
    # In float64 Newton's method solved every game that was tried; in float32 rounding can defeat it at a small beta.
    return outcome if start.log_policy.dtype == jnp.float64 else go_on(outcome, AdaptiveNashMP())
