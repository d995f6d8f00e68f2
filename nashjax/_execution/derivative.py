"""Derivatives of equilibria by the implicit function theorem, never through the iterations."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from nashjax._math import layout, simplex
from nashjax.problem import Problem


@jax.custom_jvp
def attach_derivative(problem: Problem, log_policy: jax.Array) -> jax.Array:
    """Return equilibria unchanged, with their derivative in the game, beta and the reference.

    At the equilibrium `log p = normalize(log r + P p / beta)`. A change `d` of the right-hand side at fixed `p` changes
    `log p` by the solution of one linear system, that of a Newton step. The same holds for derivatives of derivatives.
    At `beta = 0`, where an equilibrium can jump, derivatives are NaN.

    Args:
      problem: the games.
      log_policy: their equilibria, `[*batch, n]`, as exact as the derivative is to be.
    """
    del problem
    return log_policy


@attach_derivative.defjvp
def _attach_derivative_jvp(
    primals: tuple[Problem, jax.Array], tangents: tuple[Problem, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    problem, log_policy = primals
    log_policy = attach_derivative(problem, log_policy)  # for derivatives of this derivative
    log_p = layout.actions_first(log_policy)

    def answer(problem: Problem) -> tuple[jax.Array, jax.Array]:
        """Return the best response, and something that depends on all that the equilibrium does, `[*batch]`."""
        games, _, _ = problem.regularized()
        payoffs = games.payoffs(log_p)
        finite = jnp.where(jnp.isneginf(games.log_reference), 0, games.log_reference)
        return games.best_response(payoffs), jnp.sum(payoffs, 0) + games.beta + jnp.sum(finite, 0)

    _, (change, anything) = jax.jvp(answer, (problem,), (tangents[0],))
    games, _, _ = problem.regularized()
    weight = games.limit_weight()
    policy_change = games.newton_change(log_p, games.payoffs(log_p), change, weight)
    # As in a Newton step: recovered from the equation, accurate also where p is tiny.
    payoff_change = games.game.payoffs(policy_change) * simplex.to_rank(weight, policy_change)
    played = jnp.isfinite(log_p)
    p = jnp.exp(log_p)
    log_change = change + payoff_change
    log_change = log_change - games.totals(p * jnp.where(played, log_change, 0))
    # A factor, not a choice: in reverse mode what is not chosen would get a derivative of 0.
    missing = anything * jnp.where(games.lowest_beta > 0, 0, jnp.nan).astype(log_p.dtype)
    return log_policy, layout.actions_last(jnp.where(played, log_change, 0) + missing[None])
