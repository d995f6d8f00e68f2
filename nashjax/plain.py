"""The default of `solve` at `beta = 0`: plain equilibria, of several the one of least divergence from the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from nashjax import linear, simplex
from nashjax.algorithms import InteriorPoint, Newton
from nashjax.driver import STALL_LEVEL, Outcome, restart, resume
from nashjax.problem import RegularizedGame
from nashjax.solution import Status

NEAR_ENOUGH = {"float64": 1e-12, "float32": 1e-6}
"""The exploitability that interior points go to; beyond it rounding would hide the support."""
LIMIT_BETA = {"float64": 1e-6, "float32": 1e-3}
"""The `beta` whose equilibrium stands for the limit where plain equilibria are many."""
LARGEST_NOISE = 1e-3
"""A support whose system is so ill-conditioned that rounding exceeds this proves nothing."""


def finish_plain(
    problem: RegularizedGame, outcome: Outcome, playing: jax.Array, tol: jax.Array, max_queries: jax.Array | int
) -> Outcome:
    """Solve the games `playing`, whose `beta` is 0, side by side; all else stays as it is (spec 3).

    1. Interior points find the support of an equilibrium, and a linear system on it the exact probabilities.
    2. If that equilibrium is provably the only one, it is the answer.
    3. If not, the answer is the limit of the regularised equilibria. Newton's method finds that of a small
       `beta`, and proximal steps at `beta = 0` project it onto the set of equilibria. Its log-ratio to the reference is
       `P p / beta`, which is what the optimality conditions of the least divergence ask for; a proximal step adds
       payoffs to it and so keeps that.
    """
    dtype = outcome.log_policy.dtype
    small = LIMIT_BETA[dtype.name]
    plain = dataclasses.replace(problem, beta=jnp.zeros_like(problem.beta))
    interior = resume(plain, InteriorPoint(), outcome, playing, NEAR_ENOUGH[dtype.name], max_queries)
    answer, proved = _make_exact(plain, interior, playing, max_queries)

    unproved = playing & ~proved
    regularized = dataclasses.replace(problem, beta=jnp.full_like(problem.beta, small))
    limit = restart(answer, problem.log_reference)
    limit = resume(regularized, Newton(), limit, unproved, float(jnp.finfo(dtype).eps), max_queries)
    proximal = Newton(first_step=1 / small, largest_eta=1 / small)
    limit = resume(plain, proximal, restart(limit, limit.log_policy), unproved, tol, max_queries)

    better = (limit.exploitability <= tol) | (limit.exploitability <= answer.exploitability)
    answer = limit._replace(
        log_policy=jnp.where(unproved & better, limit.log_policy, answer.log_policy),
        exploitability=jnp.where(unproved & better, limit.exploitability, answer.exploitability),
    )
    floor = STALL_LEVEL * plain.rounding_floor()
    status = jnp.where(answer.exploitability <= floor, jnp.int8(Status.STALLED), jnp.int8(Status.MAX_QUERIES))
    status = jnp.where(answer.exploitability <= tol, jnp.int8(Status.CONVERGED), status)
    return answer._replace(status=jnp.where(playing & (outcome.status != Status.INVALID), status, outcome.status))


def start_from_interior(
    problem: RegularizedGame, outcome: Outcome, playing: jax.Array, max_queries: jax.Array | int
) -> Outcome:
    """Move games of a small `beta` to a policy near their equilibrium, made of one of the plain game.

    On the support the probabilities are those of the plain game; off it, as at the regularised equilibrium,
    `log p = log r - slack / beta + constant`. The exploitability is left unknown, inf.
    """
    plain = dataclasses.replace(problem, beta=jnp.zeros_like(problem.beta))
    near_enough = jnp.maximum(0.1 * problem.beta, NEAR_ENOUGH[outcome.log_policy.dtype.name])
    interior = resume(plain, InteriorPoint(), outcome, playing, near_enough, max_queries)
    log_p, slack = interior.log_policy, plain.shortfall(plain.payoffs(interior.log_policy))
    p = jnp.exp(log_p)
    on_support = p > slack
    log_ratio = jnp.where(on_support, p * (log_p - problem.log_reference), 0)
    constant = jnp.sum(log_ratio, axis=0) / jnp.sum(jnp.where(on_support, p, 0), axis=0)
    beta = jnp.where(problem.beta > 0, problem.beta, 1)
    off_support = jnp.minimum(log_p, problem.log_reference - slack / beta + constant)
    start = simplex.normalize(jnp.where(on_support, log_p, off_support))
    return interior._replace(
        log_policy=jnp.where(playing, start, interior.log_policy),
        exploitability=jnp.where(playing, jnp.inf, interior.exploitability),
        queries=interior.queries + jnp.where(playing, 1, 0),
        status=jnp.where(playing & (interior.status != Status.INVALID), jnp.int8(Status.MAX_QUERIES), interior.status),
    )


def support_system(plain: RegularizedGame, support: jax.Array) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """The system `A_BB + 1 1^T` of a support, bool `[n, *batch]`: what solves it, and the rounding of its solutions.

    The rounding, `[*batch]`, is inf where the system may be singular: where more than one policy on the support is
    an equilibrium. Other actions than those of the support solve to their right-hand side.
    """
    solve = linear.factorise(linear.on_support(plain.game, support))
    dtype = plain.log_reference.dtype
    # What the inverse makes of a vector without a pattern tells how large it is.
    probe = jnp.cos(jnp.arange(len(support), dtype=dtype) ** 2).reshape(-1, *(1,) * (support.ndim - 1))
    size = jnp.max(jnp.abs(solve(jnp.where(support, probe, 0))), axis=0)
    noise = 16 * jnp.finfo(dtype).eps * jnp.maximum(size, 1)
    return solve, jnp.where(noise < LARGEST_NOISE, noise, jnp.inf)  # inf for NaN too


def _make_exact(
    plain: RegularizedGame, near: Outcome, playing: jax.Array, max_queries: jax.Array | int
) -> tuple[Outcome, jax.Array]:
    """Solve on the support that a nearly exact policy shows; keep that where it is provably the only equilibrium.

    On the support `B` of the only equilibrium `A_BB p_B = 0`, and `p_B` sums to 1: it solves
    `(A_BB + 1 1^T) p_B = 1`. It is the only one if `p_B > 0`, all other actions earn strictly less, and the null space
    of `A_BB` has one dimension, that is, the system is regular (spec 3). Two queries.

    Returns:
      The outcome, and where it was proved, bool `[*batch]`.
    """
    support = jnp.exp(near.log_policy) > plain.shortfall(plain.payoffs(near.log_policy))
    solve, noise = support_system(plain, support)
    exact = solve(support.astype(near.log_policy.dtype))
    log_exact = simplex.normalize(jnp.where(support, jnp.log(jnp.where(support, exact, 1)), -jnp.inf))
    payoffs = plain.payoffs(log_exact)
    others = ~support & ~jnp.isneginf(plain.log_reference)
    margin = jnp.min(jnp.where(others, 0.5 - payoffs, jnp.inf), axis=0)
    exploitability = plain.exploitability(log_exact, payoffs)
    asked = playing & (near.status != Status.INVALID) & (near.queries <= max_queries - 2)
    proved = asked & (jnp.min(jnp.where(support, exact, 1), axis=0) > noise) & (margin > noise)
    proved &= exploitability <= noise
    return near._replace(
        log_policy=jnp.where(proved, log_exact, near.log_policy),
        exploitability=jnp.where(proved, exploitability, near.exploitability),
        queries=near.queries + jnp.where(asked, 2, 0),
        steps=near.steps + jnp.where(asked, 1, 0),
    ), proved


def _judge(plain: RegularizedGame, answer: Outcome, tol: jax.Array) -> jax.Array:
    floor = STALL_LEVEL * plain.rounding_floor()
    status = jnp.where(answer.exploitability <= floor, jnp.int8(Status.STALLED), jnp.int8(Status.MAX_QUERIES))
    status = jnp.where(answer.exploitability <= tol, jnp.int8(Status.CONVERGED), status)
    return jnp.where(answer.status == Status.INVALID, answer.status, status)
