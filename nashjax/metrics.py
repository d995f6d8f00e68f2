"""Certificates and distances as functions of plain arrays, batch axes first.

Each takes one game or many; the batch shapes of the arguments broadcast as in numpy.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from nashjax import problem, simplex
from nashjax.games import Game
from nashjax.inputs import Inputs, as_inputs, as_policy


def best_response(
    game: Game | ArrayLike, policy: ArrayLike, beta: ArrayLike, reference: ArrayLike | None = None
) -> jax.Array:
    """Best response to a policy, `b ∝ r exp(P p / beta)` (spec 2); at `beta = 0` the reference on the best actions.

    Args:
      game: a `Game` or preferences `[*batch, n, n]`.
      policy: probabilities `[*batch, n]`.
      beta: regularisation `[*batch]`, >= 0.
      reference: probabilities `[*batch, n]`, default uniform; a zero excludes the action.

    Returns:
      Probabilities, `[*batch, n]`.

    Raises:
      ValueError: an argument is not valid.
    """
    regularized, _, payoffs = _query(game, policy, beta, reference)
    return _response(regularized, payoffs)


def exploitability(
    game: Game | ArrayLike, policy: ArrayLike, beta: ArrayLike, reference: ArrayLike | None = None
) -> jax.Array:
    """What the best response gains over a policy, `E_b(p)` (spec 2); at `beta = 0`, `max_i (P p)_i - 1/2`.

    Arguments and errors as in `best_response`.

    Returns:
      `[*batch]`, in units of preference, >= 0; 0 only at the equilibrium.
    """
    regularized, log_policy, payoffs = _query(game, policy, beta, reference)
    return _exploitability(regularized, log_policy, payoffs)


def kl_bound(exploitability: ArrayLike, beta: ArrayLike) -> jax.Array:
    """Certified bound on `KL(p||p*)`, `E_b(p) / beta` in nats (spec 2); inf at `beta = 0`; `[*batch]`."""
    return problem.kl_bound(jnp.asarray(exploitability), jnp.asarray(beta))


def l1_bound(exploitability: ArrayLike, beta: ArrayLike) -> jax.Array:
    """Certified bound on `||p - p*||_1`, `sqrt(2 E_b(p) / beta)`, at most 2 (spec 2); `[*batch]`."""
    return problem.l1_bound(jnp.asarray(exploitability), jnp.asarray(beta))


def kl_divergence(policy: ArrayLike, other: ArrayLike) -> jax.Array:
    """`KL(policy || other)` in nats, accurate also where the two nearly agree; `[*batch, n]` to `[*batch]`."""
    return simplex.kl_divergence(_log_actions_first(policy), _log_actions_first(other))


def span(log_policy: ArrayLike, other: ArrayLike) -> jax.Array:
    """Span semi-norm of the difference of two arrays of log-probabilities, `[*batch, n]` to `[*batch]` (spec 2).

    Takes logarithms because only they tell tiny probabilities apart. Actions that either excludes do not count.
    """
    first, second = jnp.asarray(log_policy), jnp.asarray(other)
    return simplex.span(*(jnp.moveaxis(x, -1, 0) for x in jnp.broadcast_arrays(first, second)))


def entropy(policy: ArrayLike) -> jax.Array:
    """Shannon entropy in nats, `[*batch, n]` to `[*batch]`; its exponential is the effective number of actions."""
    return simplex.entropy(_log_actions_first(policy))


def _log_actions_first(policy: ArrayLike) -> jax.Array:
    return jnp.moveaxis(jnp.log(jnp.asarray(policy)), -1, 0)


def _query(
    game: Game | ArrayLike, policy: ArrayLike, beta: ArrayLike, reference: ArrayLike | None
) -> tuple[problem.RegularizedGame, jax.Array, jax.Array]:
    inputs = as_inputs(game, beta, reference)
    return _ask(inputs, as_policy("policy", policy, inputs.game))


@jax.jit
def _ask(inputs: Inputs, asked: jax.Array) -> tuple[problem.RegularizedGame, jax.Array, jax.Array]:
    # The policy takes part in the broadcast, but it is no start of a solve: its zeros exclude nothing.
    batch = inputs._replace(initial=asked).batch_shape
    regularized, _, valid = inputs._replace(tol=jnp.zeros(batch)).prepare()
    log_policy = jnp.log(jnp.moveaxis(jnp.broadcast_to(asked, (*batch, asked.shape[-1])), -1, 0))
    log_policy = jnp.where(valid, log_policy, jnp.nan)
    return regularized, log_policy, regularized.payoffs(log_policy)


@jax.jit
def _response(regularized: problem.RegularizedGame, payoffs: jax.Array) -> jax.Array:
    return jnp.moveaxis(jnp.exp(regularized.best_response(payoffs)), 0, -1)


_exploitability = jax.jit(problem.RegularizedGame.exploitability)
