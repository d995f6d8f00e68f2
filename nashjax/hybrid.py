"""The default of `solve`: adaptive Nash Mirror Prox, and linear solves where they are the faster way to the end.

| game | how it is solved |
| --- | --- |
| `beta >= SMALL_BETA` | `AdaptiveNashMP`; from `first_order_budget` queries on, or at exploitability `HANDOVER` where the tolerance is below `TIGHT_TOLERANCE` in float64, `Newton` |
| `0 < beta < SMALL_BETA` | `InteriorPoint` shows the support of a plain equilibrium; `Newton` from the policy made of it |
| `beta = 0` | `InteriorPoint`, then exactly on the support if that is proved to be the only equilibrium; otherwise `Newton` at `LIMIT_BETA`, then proximal steps |
| no matrix, or more than `LARGEST_NEWTON` actions | `AdaptiveNashMP` |
"""  # noqa: E501 (a table cell cannot be broken)

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from nashjax.algorithms import AdaptiveNashMP, Newton
from nashjax.driver import Outcome, keep_better, restart, resume, run
from nashjax.inputs import SMALL_BETA, BetaKinds, Inputs
from nashjax.plain import finish_plain, start_from_interior
from nashjax.problem import RegularizedGame
from nashjax.solution import Status

TIGHT_TOLERANCE = 1e-9
"""In float64, tolerances below this end with Newton's method and its polish, all others only where queries run high."""
HANDOVER = 1e-5
"""The exploitability at which games of a tight tolerance go over to Newton's method."""
FIRST_NEWTON_STEPS = 100
"""Linear solves after which Newton's method starts again, from the reference."""
LARGEST_NEWTON = 4096
"""Above this many actions a linear solve costs more than the queries it saves."""


def first_order_budget(num_actions: int) -> int:
    """Queries after which a game goes over to Newton's method: what a solve of about ten steps of it costs."""
    return 60 + 5 * num_actions


def run_hybrid(inputs: Inputs, max_queries: jax.Array | int, betas: BetaKinds) -> Outcome:
    """Solve games side by side: all by first order, then what is left in small chunks by linear solves.

    The unfinished games are brought together first, so that a few hard games cost linear solves of their own only.
    """
    problem, log_initial, valid = inputs.prepare()
    n, dtype = problem.game.num_actions, log_initial.dtype
    if not hasattr(problem.game, "dense") or n > LARGEST_NEWTON:
        return run(problem, AdaptiveNashMP(), log_initial, valid, inputs.tol, max_queries)
    tight = (inputs.tol < TIGHT_TOLERANCE) & (dtype == jnp.float64)
    handover = jnp.where(tight, jnp.maximum(inputs.tol, HANDOVER), inputs.tol)
    budget = jnp.where(problem.beta >= SMALL_BETA, jnp.minimum(max_queries, first_order_budget(n)), 1)
    first = run(problem, AdaptiveNashMP(), log_initial, valid, handover, budget)
    exact = tight | (problem.beta < SMALL_BETA)
    unfinished = (first.status == Status.MAX_QUERIES) | (exact & (first.status != Status.INVALID))
    first = first._replace(status=jnp.where(unfinished, jnp.int8(Status.MAX_QUERIES), first.status))
    return _finish(inputs, first, unfinished, max_queries, betas)


def _finish(
    inputs: Inputs, first: Outcome, unfinished: jax.Array, max_queries: jax.Array | int, betas: BetaKinds
) -> Outcome:
    """Finish the unfinished games; they are brought together, so that each chunk of the others costs nothing."""
    batch = first.status.shape
    num_games, n = math.prod(batch), inputs.game.num_actions
    chunk_size = min(max(2**15 // n**2, 1), 256)
    if num_games <= chunk_size:
        return _finish_chunk(inputs, first, unfinished, max_queries, betas)
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
        return _finish_chunk(inputs.take(index), start, unfinished[index] & real, max_queries, betas)

    ended = jax.lax.map(finish, (chunks, position < num_games))
    ended = jax.tree.map(lambda x: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)[..., :num_games], ended)
    place = jnp.argsort(order)
    return jax.tree.map(lambda x: x[..., place].reshape(*x.shape[:-1], *batch), ended)


def _finish_chunk(
    inputs: Inputs, first: Outcome, unfinished: jax.Array, max_queries: jax.Array | int, betas: BetaKinds
) -> Outcome:
    def finish() -> Outcome:
        problem, _, _ = inputs.prepare()
        beta = jnp.broadcast_to(problem.beta, unfinished.shape)
        outcome = first
        if betas.regular or betas.small:
            outcome = _finish_regularized(problem, outcome, unfinished & (beta > 0), inputs.tol, max_queries, betas)
        if betas.zero:
            outcome = finish_plain(problem, outcome, unfinished & (beta == 0), inputs.tol, max_queries)
        return outcome

    return jax.lax.cond(jnp.any(unfinished), finish, lambda: first)


def _finish_regularized(
    problem: RegularizedGame,
    outcome: Outcome,
    playing: jax.Array,
    tol: jax.Array,
    max_queries: jax.Array | int,
    betas: BetaKinds,
) -> Outcome:
    first = outcome
    if betas.small:
        outcome = start_from_interior(problem, outcome, playing & (problem.beta < SMALL_BETA), max_queries)
    newton = Newton(first_step=300.0, max_steps=FIRST_NEWTON_STEPS)
    outcome = keep_better(resume(problem, newton, outcome, playing, tol, max_queries), first)
    playing &= outcome.status == Status.MAX_QUERIES
    if outcome.log_policy.dtype == jnp.float64:
        # Where plain equilibria are many, a start near one of them can be worse than none.
        anew = restart(outcome, problem.log_reference)
        anew = resume(problem, Newton(), anew, playing, tol, max_queries)
        return keep_better(anew, outcome)
    # In float32 rounding can defeat Newton's method at a small beta.
    return resume(problem, AdaptiveNashMP(), outcome, playing, tol, max_queries)
