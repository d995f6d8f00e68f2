"""Derivatives of equilibria by the implicit function theorem, never through the iterations."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from nashjax import simplex
from nashjax.inputs import Inputs


@jax.custom_jvp
def attach_derivative(inputs: Inputs, log_policy: jax.Array) -> jax.Array:
    """Return equilibria as they are, with their derivative in the game, beta and the reference (spec 3).

    At the equilibrium `log p = normalise(log r + P p / beta)`; a change `d` of the right-hand side at fixed `p` changes
    `log p` by the solution of one linear system, that of a Newton step. The same holds for derivatives of derivatives.
    At `beta = 0`, where an equilibrium can jump, they are NaN.

    Args:
      inputs: the games.
      log_policy: their equilibria, `[*batch, n]`, as exact as the derivative is to be.
    """
    del inputs
    return log_policy


@attach_derivative.defjvp
def _attach_derivative_jvp(
    primals: tuple[Inputs, jax.Array], tangents: tuple[Inputs, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    inputs, log_policy = primals
    log_policy = attach_derivative(inputs, log_policy)  # for derivatives of this derivative
    log_p = jnp.moveaxis(log_policy, -1, 0)

    def answer(inputs: Inputs) -> tuple[jax.Array, jax.Array]:
        """The best response, and something that depends on all that the equilibrium does, `[*batch]`."""
        problem, _, _ = inputs.prepare()
        payoffs = problem.payoffs(log_p)
        finite = jnp.where(jnp.isneginf(problem.log_reference), 0, problem.log_reference)
        return problem.best_response(payoffs), jnp.sum(payoffs, 0) + problem.beta + jnp.sum(finite, 0)

    _, (change, anything) = jax.jvp(answer, (inputs,), (tangents[0],))
    problem, _, _ = inputs.prepare()
    weight = 1 / jnp.where(problem.beta > 0, problem.beta, 1)
    policy_change = problem.newton_change(log_p, problem.payoffs(log_p), change, weight)
    # As in a Newton step: recovered from the equation, accurate also where p is tiny.
    payoff_change = problem.game.payoffs(policy_change) * simplex.to_rank(weight, policy_change)
    played = jnp.isfinite(log_p)
    p = jnp.exp(log_p)
    log_change = change + payoff_change
    log_change = log_change - jnp.sum(p * jnp.where(played, log_change, 0), axis=0, keepdims=True)
    # A factor, not a choice: in reverse mode what is not chosen would get a derivative of 0.
    missing = anything * jnp.where(problem.beta > 0, 0, jnp.nan).astype(log_p.dtype)
    return log_policy, jnp.moveaxis(jnp.where(played, log_change, 0) + missing[None], 0, -1)
