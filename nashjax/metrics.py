"""Certificates and distances as functions of plain arrays, batch axes first.

Each takes one game or many; the batch shapes of the arguments broadcast as in numpy.

Derivatives are finite where a probability or a reference is 0. If the true derivative is infinite, as that of `p log p`
at 0, its infinite part counts as 0. The derivative with respect to an action that the reference excludes is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nashjax._math import layout, linear, regularized, simplex
from nashjax._math.transfers import explicit, is_concrete
from nashjax._validation import as_floating, as_numbers, as_real_array, check_all, check_policy, invalid
from nashjax.games import Game
from nashjax.games.conversion import check_one_player
from nashjax.games.players import BetaLike, PolicyLike, as_policies, split_policies
from nashjax.games.regularized import RegularizedGame
from nashjax.problem import Problem

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
    game: Game | ArrayLike, policy: PolicyLike, beta: BetaLike, reference: PolicyLike | None = None
) -> jax.Array | tuple[jax.Array, ...]:
    """Return the best response to a policy, `b ∝ r exp(P p / beta)`.

    At `beta = 0` it is the reference restricted to the best actions. For a zero-sum game, pass a tuple of policies;
    you get a tuple with the best response of each player to the others.

    Args:
      game: a `Game` or preferences `[*batch, n, n]`.
      policy: probabilities `[*batch, n]`.
      beta: regularization, `[*batch]`, >= 0, in units of preference.
      reference: probabilities `[*batch, n]`, default uniform; a zero excludes the action.

    Returns:
      Probabilities, `[*batch, n]`.

    Raises:
      TypeError: an argument is of a wrong type.
      ValueError: an argument has a wrong value.
    """
    problem = Problem.build(game, beta, reference)
    found = _best_response(*explicit((problem, _policy_of(problem, policy))))
    sizes = problem.game.sizes
    return found if len(sizes) == 1 else split_policies(found, sizes)


def exploitability(
    game: Game | ArrayLike, policy: PolicyLike, beta: BetaLike, reference: PolicyLike | None = None
) -> jax.Array:
    """Return the exploitability of a policy: the gain of the best response over it, `E_b(p)`.

    At `beta = 0` that is `max_i (P p)_i - 1/2` over the actions that the reference allows. For a zero-sum game, pass a
    tuple of policies; you get the duality gap (NashConv), the sum of the gains of all players, in payoffs.

    Args:
      game: as in `best_response`, as are the others and the errors.
      policy: probabilities `[*batch, n]`.
      beta: regularization, `[*batch]`, >= 0, in units of preference.
      reference: probabilities `[*batch, n]`, default uniform; a zero excludes the action.

    Returns:
      `[*batch]`, in units of preference, >= 0, and 0 at the equilibrium; inf for a policy that plays an excluded
      action.

    >>> import nashjax as nj
    >>> float(nj.metrics.exploitability([[0.5, 0.75], [0.25, 0.5]], [0.5, 0.5], beta=0.0))
    0.125
    """
    problem = Problem.build(game, beta, reference)
    return problem.in_payoff_units(_exploitability(*explicit((problem, _policy_of(problem, policy)))))


class Uniqueness(NamedTuple):
    """Whether an equilibrium of the plain game is the only one; a pytree, `[*batch]` each.

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
    """Tell whether an equilibrium at `beta = 0` is the only one.

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
    check_one_player(game)
    problem = Problem.build(game, 0.0, reference)
    return _uniqueness(*explicit((problem, _policy_of(problem, policy))))


def kl_bound(exploitability: ArrayLike, beta: ArrayLike) -> jax.Array:
    """Certified bound on `KL(p||p*)` in nats, `[*batch]`; inf at `beta = 0`.

    `(sqrt(exploitability) + sqrt(rounding))^2 / beta`, where the rounding is what the dtype of the exploitability may
    hide.

    Args:
      exploitability: `E_b(p)`, `[*batch]`, >= 0, in units of preference.
      beta: regularization, `[*batch]`, >= 0, in units of preference.

    Raises:
      ValueError: an argument is negative or no number.
    """
    return _kl_bound(*_floating(exploitability, beta))


def l1_bound(exploitability: ArrayLike, beta: ArrayLike) -> jax.Array:
    """Certified bound on `||p - p*||_1 <= sqrt(2 KL(p||p*))`, at most 2; `[*batch]`.

    Args:
      exploitability: `E_b(p)`, `[*batch]`, >= 0, in units of preference.
      beta: regularization, `[*batch]`, >= 0, in units of preference.

    Raises:
      ValueError: an argument is negative or no number.
    """
    return _l1_bound(*_floating(exploitability, beta))


def kl_divergence(policy: ArrayLike, other: ArrayLike) -> jax.Array:
    """`KL(policy || other)` in nats, accurate also where the two nearly agree; `[*batch, n]` to `[*batch]`.

    Raises:
      ValueError: one of the two does not hold probabilities that sum to 1.
    """
    return _kl_divergence(*_policies(policy=policy, other=other))


def span(log_policy: ArrayLike, other: ArrayLike) -> jax.Array:
    """Span semi-norm of `log_policy - other`, log-probabilities `[*batch, n]`; `[*batch]`, in nats.

    Takes logarithms because only they tell tiny probabilities apart. Actions that either excludes do not count.

    Raises:
      TypeError: an argument is not an array of real numbers.
      ValueError: the shapes do not fit each other.
    """
    return _span(*_log_policies(log_policy=log_policy, other=other))


def entropy(policy: ArrayLike) -> jax.Array:
    """Shannon entropy of a `policy` in nats, `[*batch, n]` to `[*batch]`; its exponential counts effective actions.

    Raises:
      ValueError: the argument does not hold probabilities that sum to 1.
    """
    return _entropy(*_policies(policy=policy))


def _policy_of(problem: Problem, policy: PolicyLike) -> jax.Array:
    return as_policies("policy", policy, problem.game.sizes, problem.beta.dtype)


def _floating(exploitability: ArrayLike, beta: ArrayLike) -> tuple[jax.Array, jax.Array]:
    given = {"exploitability": exploitability, "beta": beta}
    for name, value in given.items():
        if is_concrete(value):
            values = as_numbers(name, value)
            check_all(name, values, values >= 0, ">= 0")
    arrays = {name: as_real_array(name, value) for name, value in given.items()}
    _check_shapes({name: array.shape for name, array in arrays.items()})
    E = as_floating(jnp.asarray(explicit(arrays["exploitability"])))
    return E, jnp.asarray(explicit(arrays["beta"]), E.dtype)


def _policies(**policies: ArrayLike) -> list[jax.Array]:
    for name, policy in policies.items():
        if is_concrete(policy):
            check_policy(name, as_numbers(name, policy))
    return _log_policies(**policies)


def _log_policies(**policies: ArrayLike) -> list[jax.Array]:
    """Return arrays `[*batch, n]` in one dtype; raises unless their actions agree and their batches broadcast."""
    arrays = {name: as_real_array(name, policy) for name, policy in policies.items()}
    for name, array in arrays.items():
        if not array.ndim:
            raise invalid(name, "an array [..., n] with an entry for each action", "a single number")
    if len({array.shape[-1] for array in arrays.values()}) > 1:
        found = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise invalid(" and ".join(arrays), "must have equal last axes", found)
    _check_shapes({name: array.shape[:-1] for name, array in arrays.items()})
    return _same_dtype(*arrays.values())


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise invalid("batch shapes", "shapes that broadcast with each other", found) from None


def _same_dtype(*arrays: ArrayLike) -> list[jax.Array]:
    floating = [as_floating(jnp.asarray(x)) for x in explicit(arrays)]
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*floating)
    return [x.astype(dtype) for x in floating]


def _actions_first(*arrays: jax.Array) -> list[jax.Array]:
    return [layout.actions_first(array) for array in jnp.broadcast_arrays(*arrays)]


@jax.jit
def _kl_divergence(policy: jax.Array, other: jax.Array) -> jax.Array:
    return simplex.kl_divergence(*map(simplex.log, _actions_first(policy, other)))


@jax.jit
def _entropy(policy: jax.Array) -> jax.Array:
    return simplex.entropy(*map(simplex.log, _actions_first(policy)))


@jax.jit
def _span(log_policy: jax.Array, other: jax.Array) -> jax.Array:
    return simplex.span(*_actions_first(log_policy, other))


@jax.jit
def _kl_bound(exploitability: jax.Array, beta: jax.Array) -> jax.Array:
    exploitability, beta = jnp.broadcast_arrays(exploitability, beta)
    return regularized.kl_bound(exploitability, beta, regularized.rounding_floor(beta, beta.dtype))


@jax.jit
def _l1_bound(exploitability: jax.Array, beta: jax.Array) -> jax.Array:
    exploitability, beta = jnp.broadcast_arrays(exploitability, beta)
    return regularized.l1_bound(exploitability, beta, regularized.rounding_floor(beta, beta.dtype))


@jax.jit
def _best_response(problem: Problem, policy: jax.Array) -> jax.Array:
    regularized, _, payoffs = _ask(problem, policy)
    return layout.actions_last(jnp.exp(regularized.best_response(payoffs)))


@jax.jit
def _exploitability(problem: Problem, policy: jax.Array) -> jax.Array:
    regularized, log_policy, payoffs = _ask(problem, policy)
    found = regularized.exploitability(log_policy, payoffs)
    if len(regularized.sizes) == 1:
        found = found + regularized.beta * _slope_at_zero(regularized, log_policy, payoffs)
    if problem.reference is None:
        return found
    excluded = jnp.isneginf(regularized.log_reference) & (log_policy > -jnp.inf)  # not NaN, of a game that is none
    return jnp.where(jnp.any(excluded, axis=0), jnp.inf, found)


def _slope_at_zero(regularized: RegularizedGame, log_policy: jax.Array, payoffs: jax.Array) -> jax.Array:
    """Derivative of the exploitability in beta at `beta = 0`, a constant; 0 elsewhere and where it is infinite."""
    best = jnp.where(regularized.shortfall(payoffs) > 0, -jnp.inf, regularized.log_reference)
    divergence = simplex.kl_divergence(log_policy, regularized.log_reference)
    slope = jax.nn.logsumexp(best, axis=0) + divergence
    return jax.lax.stop_gradient(jnp.where((regularized.beta == 0) & jnp.isfinite(slope), slope, 0))


@jax.jit
def _uniqueness(problem: Problem, policy: jax.Array) -> Uniqueness:
    plain, log_policy, payoffs = _ask(problem, policy)
    shortfall, support = plain.shortfall(payoffs), plain.support(log_policy, payoffs)
    others = ~support & ~jnp.isneginf(plain.log_reference)
    margin = jnp.min(jnp.where(others, shortfall, jnp.inf), axis=0)
    inside = layout.actions_last(support)
    both = inside[..., :, None] & inside[..., None, :]
    on_support = jnp.where(both, simplex.to_rank(plain.margins(), both), 0)
    size = linear.singular_values(on_support)
    rounding = 16 * jnp.finfo(size.dtype).eps * policy.shape[-1]
    rank = jnp.sum(size > rounding * jnp.maximum(jnp.max(size, axis=-1, keepdims=True), 0.5), axis=-1)
    null_dimension = (jnp.sum(support, axis=0) - rank).astype(jnp.int32)
    return Uniqueness(margin, null_dimension, (margin > rounding) & (null_dimension == 1))


def _ask(problem: Problem, policy: jax.Array) -> tuple[RegularizedGame, jax.Array, jax.Array]:
    """The problem, `log p` and its query, `[n, *batch]`; NaN where the game is not valid."""
    # The policy takes part in the broadcast, so it stands in the place of an initial one.
    problem = problem._replace(initial=policy)
    regularized, _, valid = problem.regularized()
    batch = problem.batch_shape
    weights = layout.actions_first(jnp.broadcast_to(policy, (*batch, policy.shape[-1])))
    # An action that is not part of the game and not played has no derivative.
    weights = jnp.where(jnp.isneginf(regularized.log_reference) & (weights == 0), 0, weights)
    weights = simplex.choose(valid, weights, jnp.nan)
    log_policy = regularized.normalize(simplex.log(weights))
    # Not from the logarithms: the payoffs have a derivative in a probability of 0.
    return regularized, log_policy, regularized.game.payoffs(weights / regularized.totals(weights))
