"""Certificates and distances as functions of plain arrays, batch axes first.

Each takes one game or many; the batch shapes of the arguments broadcast as in numpy.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import ArrayLike

from nashjax import linear, problem, simplex
from nashjax.arguments import as_floating, check_all, check_policy
from nashjax.games import Game
from nashjax.inputs import Inputs, as_inputs, as_numbers, as_policy_of, is_concrete

__all__ = [
    "Uniqueness",
    "best_response",
    "entropy",
    "exploitability",
    "kl_bound",
    "kl_divergence",
    "l1_bound",
    "span",
    "uniqueness",
]


def best_response(
    game: Game | ArrayLike, policy: ArrayLike, beta: ArrayLike, reference: ArrayLike | None = None
) -> jax.Array:
    """Best response to a policy, `b ∝ r exp(P p / beta)` (spec 2); at `beta = 0` the reference on the best actions.

    Args:
      game: a `Game` or preferences `[*batch, n, n]`.
      policy: probabilities `[*batch, n]`.
      beta: regularisation, `[*batch]`, >= 0, in units of preference.
      reference: probabilities `[*batch, n]`, default uniform; a zero excludes the action.

    Returns:
      Probabilities, `[*batch, n]`.

    Raises:
      ValueError: an argument is not valid.
    """
    inputs = as_inputs(game, beta, reference)
    return _best_response(inputs, as_policy_of(inputs.game, "policy", policy))


def exploitability(
    game: Game | ArrayLike, policy: ArrayLike, beta: ArrayLike, reference: ArrayLike | None = None
) -> jax.Array:
    """What the best response gains over a policy, `E_b(p)` (spec 2).

    At `beta = 0` that is `max_i (P p)_i - 1/2` over the actions that the reference allows.

    Args:
      game: as in `best_response`, as are the others and the errors.
      policy: probabilities `[*batch, n]`.
      beta: regularisation, `[*batch]`, >= 0, in units of preference.
      reference: probabilities `[*batch, n]`, default uniform; a zero excludes the action.

    Returns:
      `[*batch]`, in units of preference, >= 0, and 0 at the equilibrium; inf for a policy that plays an excluded
      action.

    >>> import nashjax as nj
    >>> float(nj.metrics.exploitability([[0.5, 0.75], [0.25, 0.5]], [0.5, 0.5], beta=0.0))
    0.125
    """
    inputs = as_inputs(game, beta, reference)
    return _exploitability(inputs, as_policy_of(inputs.game, "policy", policy))


class Uniqueness(NamedTuple):
    """Whether an equilibrium of the plain game is the only one (spec 3); a pytree, `[*batch]` each.

    Attributes:
      margin: how much less than the others the best action off the support earns, in units of preference; inf where
        all allowed actions are on it. 0 where an action off the support earns as much.
      null_dimension: dimension of the null space of `P - 1/2` on the support, int32.
      unique: whether the margin is positive beyond rounding and the dimension is 1.
    """

    margin: jax.Array
    null_dimension: jax.Array
    unique: jax.Array


def uniqueness(game: Game | ArrayLike, policy: ArrayLike, reference: ArrayLike | None = None) -> Uniqueness:
    """Tell whether an equilibrium at `beta = 0` is the only one (spec 3).

    The support is what is played with more probability than it earns less than the best action: at an exact equilibrium
    an action has one of the two only. Where both are small, as in a policy solved to a loose tolerance, the answer is
    that of a nearby game.

    Args:
      game: a `Game` with `dense()`, or preferences `[*batch, n, n]`.
      policy: an equilibrium, such as `nashjax.solve(game, 0.0)` returns, probabilities `[*batch, n]`.
      reference: probabilities `[*batch, n]`, default uniform; only its zeros count, which exclude actions.

    Raises:
      ValueError: an argument is not valid, or the game has no `dense()`.
    """
    inputs = as_inputs(game, 0.0, reference)
    return _uniqueness(inputs, as_policy_of(inputs.game, "policy", policy))


def kl_bound(exploitability: ArrayLike, beta: ArrayLike) -> jax.Array:
    """Certified bound on `KL(p||p*)` in nats (spec 2), `[*batch]`; inf at `beta = 0`.

    `(sqrt(exploitability) + sqrt(rounding))^2 / beta`, where the rounding is what the dtype of the exploitability may
    hide.

    Args:
      exploitability: `E_b(p)`, `[*batch]`, >= 0, in units of preference.
      beta: regularisation, `[*batch]`, >= 0, in units of preference.

    Raises:
      ValueError: an argument is negative or no number.
    """
    return problem.kl_bound(*_with_floor(exploitability, beta))


def l1_bound(exploitability: ArrayLike, beta: ArrayLike) -> jax.Array:
    """Certified bound on `||p - p*||_1 <= sqrt(2 KL(p||p*))`, at most 2 (spec 2); `[*batch]`.

    Args:
      exploitability: `E_b(p)`, `[*batch]`, >= 0, in units of preference.
      beta: regularisation, `[*batch]`, >= 0, in units of preference.

    Raises:
      ValueError: an argument is negative or no number.
    """
    return problem.l1_bound(*_with_floor(exploitability, beta))


def kl_divergence(policy: ArrayLike, other: ArrayLike) -> jax.Array:
    """`KL(policy || other)` in nats, accurate also where the two nearly agree; `[*batch, n]` to `[*batch]`.

    Raises:
      ValueError: one of the two does not hold probabilities that sum to 1.
    """
    return simplex.kl_divergence(*_log_actions_first(policy=policy, other=other))


def span(log_policy: ArrayLike, other: ArrayLike) -> jax.Array:
    """Span semi-norm of `log_policy - other`, log-probabilities `[*batch, n]`; `[*batch]`, in nats (spec 2).

    Takes logarithms because only they tell tiny probabilities apart. Actions that either excludes do not count.
    """
    first, second = jnp.asarray(log_policy), jnp.asarray(other)
    return simplex.span(*(jnp.moveaxis(x, -1, 0) for x in jnp.broadcast_arrays(first, second)))


def entropy(policy: ArrayLike) -> jax.Array:
    """Shannon entropy of a `policy` in nats, `[*batch, n]` to `[*batch]`; its exponential counts effective actions.

    Raises:
      ValueError: the argument does not hold probabilities that sum to 1.
    """
    return simplex.entropy(*_log_actions_first(policy=policy))


def _with_floor(exploitability: ArrayLike, beta: ArrayLike) -> tuple[jax.Array, jax.Array, jax.Array]:
    for name, value in (("exploitability", exploitability), ("beta", beta)):
        if is_concrete(value):
            values = as_numbers(name, value)
            check_all(name, values, values >= 0, "numbers >= 0")
    E = as_floating(jnp.asarray(exploitability))
    b = jnp.asarray(beta, E.dtype)
    return E, b, problem.rounding_floor(b, E.dtype)


def _log_actions_first(**policies: ArrayLike) -> list[jax.Array]:
    for name, policy in policies.items():
        if not isinstance(policy, Tracer):
            check_policy(name, as_numbers(name, policy))
    arrays = [jnp.asarray(policy) for policy in policies.values()]
    if len({array.shape[-1] for array in arrays}) > 1:
        found = ", ".join(f"{name} {list(jnp.shape(policy))}" for name, policy in policies.items())
        raise ValueError(f"numbers of actions differ: {found}; allowed are equal last axes")
    return [jnp.log(jnp.moveaxis(array, -1, 0)) for array in jnp.broadcast_arrays(*arrays)]


@jax.jit
def _best_response(inputs: Inputs, policy: jax.Array) -> jax.Array:
    regularized, _, payoffs = _ask(inputs, policy)
    return jnp.moveaxis(jnp.exp(regularized.best_response(payoffs)), 0, -1)


@jax.jit
def _exploitability(inputs: Inputs, policy: jax.Array) -> jax.Array:
    regularized, log_policy, payoffs = _ask(inputs, policy)
    found = regularized.exploitability(log_policy, payoffs)
    if inputs.reference is None:
        return found
    excluded = jnp.isneginf(regularized.log_reference) & (log_policy > -jnp.inf)  # not NaN, of a game that is none
    return jnp.where(jnp.any(excluded, axis=0), jnp.inf, found)


@jax.jit
def _uniqueness(inputs: Inputs, policy: jax.Array) -> Uniqueness:
    plain, log_policy, payoffs = _ask(inputs, policy)
    shortfall, support = plain.shortfall(payoffs), plain.support(log_policy, payoffs)
    others = ~support & ~jnp.isneginf(plain.log_reference)
    margin = jnp.min(jnp.where(others, shortfall, jnp.inf), axis=0)
    inside = jnp.moveaxis(support, 0, -1)
    both = inside[..., :, None] & inside[..., None, :]
    on_support = jnp.where(both, simplex.to_rank(linear.margins(plain.game), both), 0)
    size = jnp.linalg.svd(on_support, compute_uv=False)
    rounding = 16 * jnp.finfo(size.dtype).eps * policy.shape[-1]
    rank = jnp.sum(size > rounding * jnp.maximum(jnp.max(size, axis=-1, keepdims=True), 0.5), axis=-1)
    null_dimension = (jnp.sum(support, axis=0) - rank).astype(jnp.int32)
    return Uniqueness(margin, null_dimension, (margin > rounding) & (null_dimension == 1))


def _ask(inputs: Inputs, policy: jax.Array) -> tuple[problem.RegularizedGame, jax.Array, jax.Array]:
    """The problem, `log p` and its query, `[n, *batch]`; NaN where the game is not valid."""
    # The policy takes part in the broadcast, so it stands in the place of an initial one.
    inputs = inputs._replace(initial=policy)
    regularized, _, valid = inputs.prepare()
    batch = inputs.batch_shape
    log_policy = jnp.log(jnp.moveaxis(jnp.broadcast_to(policy, (*batch, policy.shape[-1])), -1, 0))
    log_policy = simplex.choose(valid, simplex.normalize(log_policy), jnp.nan)
    return regularized, log_policy, regularized.payoffs(log_policy)
