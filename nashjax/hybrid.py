"""The default of `solve`: adaptive Nash Mirror Prox, and linear solves where they are the faster way to the end.

| game | how it is solved |
| --- | --- |
| `beta >= SMALL_BETA` | `AdaptiveNashMP`; from `first_order_budget` queries on, or at exploitability `HANDOVER` where the tolerance is below `TIGHT_TOLERANCE` in float64, `Newton` |
| `0 < beta < SMALL_BETA` | `InteriorPoint` shows the support of a plain equilibrium; `Newton` from the policy made of it |
| `beta = 0` | `InteriorPoint`, then exactly on the support if that is proved to be the only equilibrium; otherwise `Newton` at `LIMIT_BETA`, then proximal steps |
| no matrix, or more than `LARGEST_NEWTON` actions | `AdaptiveNashMP` |
"""  # noqa: E501 (a table cell cannot be broken)

from __future__ import annotations

import jax
import jax.numpy as jnp

from nashjax.algorithms import AdaptiveNashMP, Newton
from nashjax.blocks import map_blocks, update_some
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


def run_hybrid(inputs: Inputs, max_queries: jax.Array | int, betas: BetaKinds, block_size: int) -> Outcome:
    """Solve games: all by first order in blocks, then what is left in small chunks by linear solves.

    The unfinished games are brought together first, so that a few hard games cost linear solves of their own only.

    Returns:
      The outcome, the batch axes first.
    """
    n = inputs.game.num_actions
    solves = hasattr(inputs.game, "dense") and n <= LARGEST_NEWTON

    def first_order(block: Inputs) -> tuple[Outcome, jax.Array]:
        problem, log_initial, valid = block.prepare()
        if not solves:
            first = run(problem, AdaptiveNashMP(), log_initial, valid, block.tol, max_queries)
            return first.batch_first(), jnp.zeros_like(valid)
        tight = (block.tol < TIGHT_TOLERANCE) & (log_initial.dtype == jnp.float64)
        handover = jnp.where(tight, jnp.maximum(block.tol, HANDOVER), block.tol)
        small = problem.beta < SMALL_BETA
        budget = jnp.where(small, 1, jnp.minimum(max_queries, first_order_budget(n)))
        first = run(problem, AdaptiveNashMP(), log_initial, valid, handover, budget)
        unfinished = (first.status == Status.MAX_QUERIES) | ((tight | small) & (first.status != Status.INVALID))
        first = first._replace(status=jnp.where(unfinished, jnp.int8(Status.MAX_QUERIES), first.status))
        return first.batch_first(), unfinished

    def finish(chunk: Inputs, first: Outcome) -> Outcome:
        problem, _, _ = chunk.prepare()
        beta = jnp.broadcast_to(problem.beta, first.status.shape)
        outcome, unfinished = first.actions_first(), first.status == Status.MAX_QUERIES
        if betas.regular or betas.small:
            outcome = _finish_regularized(problem, outcome, unfinished & (beta > 0), chunk.tol, max_queries, betas)
        if betas.zero:
            outcome = finish_plain(problem, outcome, unfinished & (beta == 0), chunk.tol, max_queries)
        return outcome.batch_first()

    first, unfinished = map_blocks(first_order, inputs, block_size)
    if not solves:
        return first
    return update_some(finish, inputs, first, unfinished, chunk_size=min(max(2**15 // n**2, 1), 256))


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
