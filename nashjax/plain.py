"""Plain equilibria, `beta = 0`: the exact one on a support, the proof that it is the only one, and what is near it.

Where a game has several equilibria, the one wanted is the limit of the regularised equilibria as `beta -> 0`, which is
that of least divergence from the reference (spec 3). `solve` finds the equilibrium of a small `beta` and projects it
onto the set of plain equilibria by proximal steps at `beta = 0`. The log-ratio of the first to the reference is
`P p / beta`, which is what the optimality conditions of the least divergence ask for; a proximal step adds payoffs to
it and so keeps that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from nashjax import linear, simplex
from nashjax.driver import Outcome
from nashjax.problem import RegularizedGame
from nashjax.solution import Status

NEAR_ENOUGH = {"float64": 1e-12, "float32": 5e-7}
"""The exploitability that interior points go to; beyond it rounding would hide the support."""
LIMIT_BETA = {"float64": 1e-6, "float32": 1e-3}
"""The `beta` whose equilibrium stands for the limit where plain equilibria are many."""
LARGEST_NOISE = 1e-3
"""A support whose system is so ill-conditioned that rounding exceeds this proves nothing."""


def plain_game(problem: RegularizedGame) -> RegularizedGame:
    """The same games without regularisation, `beta = 0`."""
    return dataclasses.replace(problem, beta=jnp.zeros_like(problem.beta))


def near_enough(beta: jax.Array) -> jax.Array:
    """The exploitability that interior points go to; beyond it rounding would hide the support."""
    return jnp.maximum(0.1 * beta, NEAR_ENOUGH[beta.dtype.name])


def start_near(problem: RegularizedGame, log_plain: jax.Array, payoffs: jax.Array) -> jax.Array:
    """Log of a policy near the equilibrium at a small `beta`, made of a plain one that is not quite exact.

    On the support the probabilities are those of the plain game; off it, as at the regularised equilibrium,
    `log p = log r - slack / beta + constant`.
    """
    slack = problem.shortfall(payoffs)
    p = jnp.exp(log_plain)
    on_support = problem.support(log_plain, payoffs)
    log_ratio = jnp.where(on_support, p * (log_plain - problem.log_reference), 0)
    share = jnp.sum(jnp.where(on_support, p, 0), axis=0, keepdims=True)
    constant = jnp.sum(log_ratio, axis=0, keepdims=True) / share
    beta = simplex.to_rank(jnp.where(problem.beta > 0, problem.beta, 1), p)
    off_support = jnp.minimum(log_plain, problem.log_reference - slack / beta + constant)
    return simplex.normalize(jnp.where(on_support, log_plain, off_support))


def support_system(plain: RegularizedGame, support: jax.Array) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """The system `A_BB + 1 1^T` of a support, bool `[n, *batch]`: what solves it, and the rounding of its solutions.

    The rounding, `[*batch]`, is inf where the system may be singular: where more than one policy on the support is
    an equilibrium. Other actions than those of the support solve to their right-hand side.
    """
    solve = linear.factorize(linear.on_support(plain.game, support))
    dtype = plain.log_reference.dtype
    # What the inverse makes of a vector without a pattern tells how large it is.
    probe = jnp.cos(jnp.arange(len(support), dtype=dtype) ** 2).reshape(-1, *(1,) * (support.ndim - 1))
    size = jnp.max(jnp.abs(solve(jnp.where(support, probe, 0))), axis=0)
    noise = 16 * jnp.finfo(dtype).eps * jnp.maximum(size, 1)
    return solve, jnp.where(noise < LARGEST_NOISE, noise, jnp.inf)  # inf for NaN too


def make_exact(
    plain: RegularizedGame, near: Outcome, playing: jax.Array, max_queries: jax.Array | int
) -> tuple[Outcome, jax.Array]:
    """Solve on the support that a nearly exact policy shows; keep that where it is provably the only equilibrium.

    On the support `B` of the only equilibrium `A_BB p_B = 0`, and `p_B` sums to 1: it solves
    `(A_BB + 1 1^T) p_B = 1`. It is the only one if `p_B > 0`, all other actions earn strictly less, and the null space
    of `A_BB` has one dimension, that is, the system is regular (spec 3). Two queries.

    Returns:
      The outcome, and where it was proved, bool `[*batch]`.
    """
    support = plain.support(near.log_policy, plain.payoffs(near.log_policy))
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
        log_policy=simplex.choose(proved, log_exact, near.log_policy),
        exploitability=jnp.where(proved, exploitability, near.exploitability),
        queries=near.queries + jnp.where(asked, 2, 0),
        steps=near.steps + jnp.where(asked, 1, 0),
    ), proved
