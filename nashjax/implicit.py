"""Derivatives of equilibria by the implicit function theorem, never through the iterations."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from nashjax.inputs import BetaKinds, Inputs
from nashjax.plain import support_system
from nashjax.problem import RegularizedGame


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def attach_derivative(betas: BetaKinds, inputs: Inputs, log_policy: jax.Array) -> jax.Array:
    """Return equilibria as they are, with their derivative in the game, beta and the reference (spec 3).

    At the equilibrium `log p = normalise(log r + P p / beta)`; a change `d` of the right-hand side at fixed `p` changes
    `log p` by the solution of one linear system, that of a Newton step. The same holds for derivatives of derivatives.
    At `beta = 0` the equation is `P p = beta log(p / r) + constant` on the support; the derivative is NaN where
    the equilibrium is not provably the only one.

    Args:
      betas: the kinds of beta that can come up.
      inputs: the games.
      log_policy: their equilibria, `[*batch, n]`, as exact as the derivative is to be.
    """
    del betas, inputs
    return log_policy


@attach_derivative.defjvp
def _attach_derivative_jvp(
    betas: BetaKinds, primals: tuple[Inputs, jax.Array], tangents: tuple[Inputs, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    inputs, log_policy = primals
    log_policy = attach_derivative(betas, inputs, log_policy)  # for derivatives of this derivative
    log_p = jnp.moveaxis(log_policy, -1, 0)
    problem, _, _ = inputs.prepare()
    change = _regularized_change(inputs, tangents[0], problem, log_p)
    if betas.zero:
        change = jnp.where(problem.beta > 0, change, _plain_change(inputs, tangents[0], problem, log_p))
    return log_policy, jnp.moveaxis(change, 0, -1)


def _regularized_change(inputs: Inputs, tangent: Inputs, problem: RegularizedGame, log_p: jax.Array) -> jax.Array:
    """The change of `log p`, `[n, *batch]`, at `beta > 0`."""

    def answer(inputs: Inputs) -> jax.Array:
        problem, _, _ = inputs.prepare()
        return problem.best_response(problem.payoffs(log_p))

    _, change = jax.jvp(answer, (inputs,), (tangent,))
    weight = 1 / jnp.where(problem.beta > 0, problem.beta, 1)
    policy_change = problem.newton_change(log_p, problem.payoffs(log_p), change, weight)
    # As in a Newton step: recovered from the equation, accurate also where p is tiny.
    payoff_change = problem.game.payoffs(policy_change) * weight
    played = jnp.isfinite(log_p)
    p = jnp.exp(log_p)
    log_change = change + payoff_change - jnp.sum(p * jnp.where(played, change + payoff_change, 0), axis=0)
    return jnp.where(played, log_change, 0)


def _plain_change(inputs: Inputs, tangent: Inputs, problem: RegularizedGame, log_p: jax.Array) -> jax.Array:
    """The change of `log p`, `[n, *batch]`, at `beta = 0`: to first order the support stays."""
    support = jnp.isfinite(log_p) & (problem.beta == 0)  # elsewhere nothing that could be singular
    p = jnp.exp(log_p)
    log_ratio = jnp.where(support, log_p - problem.log_reference, 0)

    def excess(inputs: Inputs) -> jax.Array:
        problem, _, _ = inputs.prepare()
        return problem.payoffs(log_p) - problem.beta * log_ratio

    _, change = jax.jvp(excess, (inputs,), (tangent,))
    plain = dataclasses.replace(problem, beta=jnp.zeros_like(problem.beta))
    solve, noise = support_system(plain, support)
    rhs = jnp.where(support, jnp.sum(p * change, axis=0) - change, 0)
    log_change = solve(rhs) / jnp.where(support, p, 1)
    unique = jnp.min(jnp.where(support, p, 1), axis=0) > noise
    return jnp.where(support, jnp.where(unique, log_change, jnp.nan), 0)
