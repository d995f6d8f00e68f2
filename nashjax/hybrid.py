"""The default of `solve`: adaptive Nash Mirror Prox, and linear solves where they are the faster way to the end.

| game | how it is solved |
| --- | --- |
| `beta >= SMALL_BETA` | `AdaptiveNashMP`; from `first_order_budget` queries on, or at exploitability `HANDOVER` where the tolerance is below `TIGHT_TOLERANCE` in float64, `Newton` |
| `0 < beta < SMALL_BETA` | `InteriorPoint` shows the support of a plain equilibrium; `Newton` from the policy made of it, and again from the reference if that does not succeed. From a start that is certified to be near, `Newton` at once |
| `beta = 0` | `InteriorPoint`, then exactly on the support if that is proved to be the only equilibrium; otherwise `Newton` at a small beta (`plain.LIMIT_BETA`), then proximal steps at 0 |
| `beta > 0` in float32 | `AdaptiveNashMP` again where rounding defeats `Newton` |
| no matrix, or more than `LARGEST_NEWTON` actions | `AdaptiveNashMP` |

What each costs: benchmarks/default.py.
"""  # noqa: E501 (a table cell cannot be broken)

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from nashjax import plain, simplex
from nashjax.algorithms import AdaptiveNashMP, InteriorPoint, Newton
from nashjax.blocks import map_blocks, update_some
from nashjax.driver import STALL_LEVEL, Outcome, certify, judge, keep_better, restart, resume, run
from nashjax.inputs import Inputs
from nashjax.problem import RegularizedGame
from nashjax.solution import Status
from nashjax.transfers import is_concrete, to_host

TIGHT_TOLERANCE = 1e-9
"""In float64, tolerances below this end with Newton's method and its polish, all others only where queries run high."""
HANDOVER = 1e-5
"""The exploitability at which games of a tight tolerance go over to Newton's method."""
FIRST_NEWTON_STEPS = 100
"""Linear solves after which Newton's method, at a small beta, starts again from the reference. At `beta = 0` also the
most that a solved game spends on the limit: one that needs more keeps the equilibrium that interior points found."""
LAST_NEWTON_STEPS = 1000
"""Linear solves after which a game is given up."""
SMALL_BETA = 1e-3
"""Below this the mixture is nearly that of the plain game, and interior points are the way to find it."""
NEAR = 0.1
"""A start whose divergence from the equilibrium is certified to be below this, in nats, needs no interior points."""
LARGEST_NEWTON = 4096
"""Above this many actions a linear solve costs more than the queries it saves."""


def first_order_budget(num_actions: int) -> int:
    """Queries after which a game goes over to Newton's method: what a solve of about ten steps of it costs."""
    return 60 + 5 * num_actions


def is_tight(tol: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Whether a tolerance asks for Newton's method and accurate logarithms."""
    return (tol < TIGHT_TOLERANCE) & (dtype == jnp.float64)


class BetaKinds(NamedTuple):
    """Which kinds of beta a solve can meet; what cannot come up is not compiled."""

    regular: bool = True
    small: bool = True
    zero: bool = True


def beta_kinds(beta: ArrayLike, dtype: jnp.dtype) -> BetaKinds:
    """The kinds among these values in a dtype, every kind where they are traced."""
    if not is_concrete(beta):
        return BetaKinds()
    if isinstance(beta, (int, float)):  # without arrays, which take longer
        value = dtype.type(beta)
        zero, small = bool(value == 0), bool(0 < value < SMALL_BETA)
        return BetaKinds(regular=not (zero or small), small=small, zero=zero)
    values = to_host(beta).astype(dtype)
    zero, small = values == 0, (values > 0) & (values < SMALL_BETA)
    return BetaKinds(regular=bool((~zero & ~small).any()), small=bool(small.any()), zero=bool(zero.any()))


def run_hybrid(inputs: Inputs, max_queries: jax.Array | int, betas: BetaKinds, block_size: int) -> Outcome:
    """Solve games: all by first order in blocks, then what is left in small chunks by linear solves.

    The unfinished games are brought together first, so that a few hard games cost linear solves of their own only.

    Returns:
      The outcome, the batch axes first.
    """
    n = inputs.game.num_actions
    solves = hasattr(inputs.game, "dense") and n <= LARGEST_NEWTON

    def first_order(block: Inputs) -> Outcome:
        """What is not at its end has the status MAX_QUERIES."""
        problem, log_initial, valid = block.prepare()
        if not solves:
            return run(problem, AdaptiveNashMP(), log_initial, valid, block.tol, max_queries).batch_first()
        tight = is_tight(block.tol, log_initial.dtype)
        handover = jnp.where(tight, jnp.maximum(block.tol, HANDOVER), block.tol)
        small = problem.beta < SMALL_BETA
        budget = jnp.where(small, 1, jnp.minimum(max_queries, first_order_budget(n)))
        first = run(problem, AdaptiveNashMP(), log_initial, valid, handover, budget)
        # At beta = 0 the certificate alone does not tell which of several equilibria was found.
        to_finish = (tight | (problem.beta == 0)) & (first.status == Status.CONVERGED)
        first = first._replace(status=jnp.where(to_finish, jnp.int8(Status.MAX_QUERIES), first.status))
        return first.batch_first()

    def finish(chunk: Inputs, first: Outcome) -> Outcome:
        problem, _, _ = chunk.prepare()
        return _finish(problem, first.actions_first(), chunk.tol, max_queries, betas).batch_first()

    first = map_blocks(first_order, inputs, block_size)
    if not solves:
        return first
    # Systems solved side by side. On a processor few, as few games are left, which would wait for empty places; only
    # where a tolerance is tight they are many.
    if jax.default_backend() == "cpu":
        entries, most = 2**15, max(block_size // (2 if inputs.beta.dtype == jnp.float64 else 4), 1)
    else:
        entries, most = 2**27, block_size
    chunk_size = min(max(entries // n**2, 1), most)
    return update_some(finish, inputs, first, first.status == Status.MAX_QUERIES, chunk_size)


def _finish(
    problem: RegularizedGame, first: Outcome, tol: jax.Array, max_queries: jax.Array | int, betas: BetaKinds
) -> Outcome:
    """Go on with the games of a chunk that have not ended, status MAX_QUERIES; all others stay as they are.

    Games of every beta share the stages, so that each method is compiled once for all of them.
    """
    dtype = first.log_policy.dtype
    beta = jnp.broadcast_to(problem.beta, first.status.shape)
    is_plain, is_small = beta == 0, beta < SMALL_BETA
    limit = plain.LIMIT_BETA[dtype.name]
    reference = jnp.broadcast_to(problem.log_reference, first.log_policy.shape)
    best, start, playing = first, first.log_policy, first.status == Status.MAX_QUERIES
    if betas.small or betas.zero:
        best, start, playing = _from_interior(problem, first, playing, max_queries, betas)

    # Newton's method; where several plain equilibria may be, from the reference at a small beta for 0.
    regularized = dataclasses.replace(problem, beta=jnp.where(is_plain, limit, beta).astype(dtype))
    newton = Newton(
        first_step=jnp.where(is_plain, 16, 300).astype(dtype),
        max_steps=jnp.where(is_small & ~is_plain, FIRST_NEWTON_STEPS, LAST_NEWTON_STEPS),
    )
    # An error of p shows in its logarithms divided by beta: where these are asked for, go on until it is small there.
    accurate = jnp.maximum(beta**3 / 2, STALL_LEVEL * problem.rounding_floor())
    goal = jnp.where(is_tight(tol, dtype), jnp.minimum(tol, accurate), tol)
    goal = jnp.where(is_plain, jnp.finfo(dtype).eps, goal)
    start = simplex.choose(is_plain, reference, start)
    found = resume(regularized, newton, restart(best, start), playing, goal, max_queries)
    best = simplex.choose(playing & ~is_plain, keep_better(found, best), _count(found, best))
    playing &= is_plain | (best.status == Status.MAX_QUERIES)

    if betas.small or betas.zero:
        # Steps at beta = 0 from the limit; a small beta again, as where plain equilibria are many a start near one of
        # them can be worse than none.
        newton = Newton(
            first_step=jnp.where(is_plain, 1 / limit, 16).astype(dtype),
            largest_eta=jnp.where(is_plain, 1 / limit, 1e4).astype(dtype),
            max_steps=jnp.where(is_plain & (best.exploitability <= tol), FIRST_NEWTON_STEPS, LAST_NEWTON_STEPS),
        )
        start = simplex.choose(is_plain, found.log_policy, reference)
        goal = jnp.where(is_plain, tol, goal)
        last = resume(problem, newton, restart(best, start), playing & is_small, goal, max_queries)
        closer = (last.exploitability <= goal) | (last.exploitability <= best.exploitability)
        best = simplex.choose(playing & is_small & closer, last, _count(last, best)._replace(status=last.status))
    if dtype == jnp.float32 and (betas.regular or betas.small):
        # In float32 rounding can defeat Newton's method at a small beta.
        best = certify(problem, best, first.status == Status.MAX_QUERIES, tol)
        playing = (first.status == Status.MAX_QUERIES) & ~is_plain & (best.status == Status.MAX_QUERIES)
        best = resume(problem, AdaptiveNashMP(), best, playing, tol, max_queries)
    best = certify(problem, best, first.status == Status.MAX_QUERIES, tol)
    ended = (first.status == Status.MAX_QUERIES) & (best.status != Status.INVALID)
    verdict = judge(problem, best.exploitability, tol)
    verdict = jnp.where(is_plain | (best.exploitability <= tol), verdict, best.status)
    return best._replace(status=jnp.where(ended, verdict, best.status))


def _from_interior(
    problem: RegularizedGame, first: Outcome, playing: jax.Array, max_queries: jax.Array | int, betas: BetaKinds
) -> tuple[Outcome, jax.Array, jax.Array]:
    """Send games at or near `beta = 0` through interior points, unless their start is certified to be near already.

    Returns:
      The best so far; log of a policy to go on from, `[n, *batch]`; which games have to go on, `[*batch]`.
    """
    beta = jnp.broadcast_to(problem.beta, first.status.shape)
    is_plain = beta == 0
    game = plain.plain_game(problem)
    far = is_plain | ((beta < SMALL_BETA) & (first.exploitability > NEAR * beta))
    near = resume(game, InteriorPoint(), first, playing & far, plain.near_enough(beta), max_queries - 1)
    moved = near.queries > first.queries
    payoffs = problem.payoffs(near.log_policy)
    start = simplex.choose(moved, plain.start_near(problem, near.log_policy, payoffs), first.log_policy)
    near = near._replace(
        exploitability=problem.exploitability(near.log_policy, payoffs),
        queries=near.queries + jnp.where(moved & ~is_plain, 1, 0),  # at beta = 0 the payoffs are those of its end
        status=jnp.where(is_plain, near.status, first.status),
    )
    best = simplex.choose(moved, keep_better(near, first), first)
    if betas.zero:
        best, proved = plain.make_exact(game, best, playing & is_plain, max_queries)
        playing &= ~proved
    return best, start, playing


def _count(counted: Outcome, outcome: Outcome) -> Outcome:
    """The outcome with the counts of a later one."""
    return outcome._replace(queries=counted.queries, steps=counted.steps)
