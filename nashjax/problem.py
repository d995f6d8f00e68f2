"""The regularised preference game, its proximal map, and certificates of how far a policy is from its equilibrium."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from nashjax import linear, simplex
from nashjax.games import Game
from nashjax.pytree import register_dataclass


@register_dataclass
@dataclasses.dataclass(frozen=True)
class RegularizedGame:
    """The beta-regularised preference game (spec 1).

    Its preference is `P(p > q) - beta KL(p||r) + beta KL(q||r)`; its unique symmetric equilibrium `p*` solves
    `p*_i ∝ r_i exp((P p*)_i / beta)`. Reads as one game and runs a block: actions first, batch axes behind.

    Attributes:
      game: what answers the preference queries.
      beta: regularisation towards the reference, `[*batch]`, >= 0, in units of preference.
      log_reference: log of the reference policy `r`, `[n, *batch]`, normalised; `-inf` excludes an action.

    Batch axes may have size 1 but must be there: `[n]` beside policies `[n, 5]` would be read as `[1, n]`.
    """

    game: Game
    beta: jax.Array
    log_reference: jax.Array

    def payoffs(self, log_policy: jax.Array) -> jax.Array:
        """Ask one preference query, `P p`; `[n, *batch]`."""
        return self.game.payoffs(jnp.exp(log_policy))

    def best_response(self, payoffs: jax.Array) -> jax.Array:
        """Log of the best response to an opponent of these payoffs, `b ∝ r exp(P p / beta)` (spec 2).

        At `beta = 0`: the reference restricted to the actions of the highest payoff.
        """
        shortfall = simplex.to_rank(self._highest(payoffs), payoffs) - payoffs
        beta = simplex.to_rank(self.beta, payoffs)
        scaled = jnp.where(beta > 0, shortfall / jnp.where(beta > 0, beta, 1), jnp.where(shortfall > 0, jnp.inf, 0))
        return simplex.normalize(jnp.where(self._excluded, -jnp.inf, self.log_reference - scaled))

    def exploitability(self, log_policy: jax.Array, payoffs: jax.Array) -> jax.Array:
        """What the best response gains over the policy, `E_b(p) = beta KL(p||b) >= 0` (spec 2).

        At `beta = 0`: `max_i (P p)_i - 1/2`. The duality gap is twice this.

        Args:
          log_policy: `log p`, `[n, *batch]`.
          payoffs: its query `P p`, `[n, *batch]`.

        Returns:
          `[*batch]`, in units of preference.
        """
        # At `beta = 0` the divergence would be infinite, and what is not chosen would make derivatives NaN.
        beta = jnp.where(self.beta > 0, self.beta, 1)
        response = dataclasses.replace(self, beta=beta).best_response(payoffs)
        regularized = beta * simplex.kl_divergence(log_policy, response)
        return jnp.where(self.beta > 0, regularized, jnp.maximum(self._highest(payoffs) - 0.5, 0))

    def shortfall(self, payoffs: jax.Array) -> jax.Array:
        """How much less than the best allowed action each earns, >= 0; `[n, *batch]`."""
        return jnp.maximum(simplex.to_rank(self._highest(payoffs), payoffs) - payoffs, 0)

    def support(self, log_policy: jax.Array, payoffs: jax.Array) -> jax.Array:
        """The support of the plain equilibrium that a policy is near to, bool `[n, *batch]` (spec 3).

        What is played with more probability than it falls short of the best: at an exact equilibrium an action
        has one of the two only.
        """
        return jnp.exp(log_policy) > self.shortfall(payoffs)

    def rounding_floor(self) -> jax.Array:
        """What rounding alone may add to or hide from an exploitability, `[*batch]` (spec 2)."""
        return rounding_floor(self.beta, self.log_reference.dtype)

    def proximal_map(self, log_center: jax.Array, payoffs: jax.Array, step: jax.Array | float) -> jax.Array:
        """Move from a policy towards the best response (spec 3), in log space.

        `prox(c, g) = argmax_p <p, g> - beta KL(p||r) - (beta/eta) KL(p||c)`
        `           = normalise((s g + eta log r + log c) / (1 + eta))`, `eta = s beta`.

        Args:
          log_center: `log c`, `[n, *batch]`.
          payoffs: of the opponent, `g`, `[n, *batch]`; a constant added to them changes nothing.
          step: `s = eta/beta`, `[]` or `[*batch]`, > 0; finite also at `beta = 0`.
        """
        return proximal_map(log_center, payoffs, step, self.beta, self.log_reference)

    def mix_reference(self, log_policy: jax.Array, share: jax.Array) -> jax.Array:
        """The geometric mixture with the reference, `normalise((1 - share) log p + share log r)` (spec 6).

        Args:
          log_policy: `log p`, `[n, *batch]`.
          share: `[]` or `[*batch]`, in [0, 1]; what rounding leaves above 1 counts as 1.
        """
        share = simplex.to_rank(jnp.minimum(share, 1), log_policy)
        mixture = (1 - share) * log_policy + share * self.log_reference
        return simplex.normalize(jnp.where(self._excluded, -jnp.inf, mixture))

    def gains(self, payoffs: jax.Array) -> jax.Array:
        """What each action gains over the policy of these payoffs, `P p - 1/2`; `-inf` for an excluded one (spec 6).

        The policy itself is worth 1/2 against itself, whatever it is: `p^T P p = 1/2`.
        """
        return jnp.where(self._excluded, -jnp.inf, payoffs - 0.5)

    def newton_change(
        self, log_policy: jax.Array, payoffs: jax.Array, residual: jax.Array, weight: jax.Array
    ) -> jax.Array:
        """The change of `p` that a Newton step on `log p = normalise(weight P p + constant)` makes (spec 3).

        With `S = diag(sqrt p)`, `Pi` the projector orthogonal to `sqrt p` and `A = P - 1/2`, solves
        `(I - weight Pi S A S Pi) z = Pi S residual`. `S A S` is skew-symmetric, so the matrix is always
        invertible and its inverse has norm <= 1.

        Args:
          log_policy: `log p`, `[n, *batch]`.
          payoffs: its query `P p`, `[n, *batch]`.
          residual: of the equation, right-hand side less left, `[n, *batch]`; where `p` is 0 it does not count.
          weight: `[]` or `[*batch]`: `s / (1 + eta)` for a proximal step, `1 / beta` for the game itself.

        Returns:
          `S z`, `[n, *batch]`, to first order the change of `p`; it sums to 0. Of a game without `dense()` it is found
          by queries (GMRES), and NaN where that does not succeed.
        """
        root = jnp.exp(log_policy / 2)
        rhs = root * jnp.where(root > 0, residual, 0)
        rhs = rhs - root * jnp.sum(root * rhs, axis=0, keepdims=True)
        return root * linear.solve_projected(self.game, root, root * (payoffs - 0.5), weight, rhs)

    @property
    def _excluded(self) -> jax.Array:
        return jnp.isneginf(self.log_reference)

    def _highest(self, payoffs: jax.Array) -> jax.Array:
        return jnp.max(jnp.where(self._excluded, -jnp.inf, payoffs), axis=0)


def proximal_map(
    log_center: jax.Array, payoffs: jax.Array, step: jax.Array | float, beta: jax.Array, log_reference: jax.Array
) -> jax.Array:
    """The proximal map where there are payoffs but no game; see `RegularizedGame.proximal_map`."""
    step, beta = simplex.to_rank(step, payoffs), simplex.to_rank(beta, payoffs)
    eta = step * beta
    pull = jnp.where(jnp.isneginf(log_reference), -jnp.inf, eta * log_reference)
    return simplex.normalize((step * payoffs + pull + log_center) / (1 + eta))


def rounding_floor(beta: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """What rounding alone may add to or hide from an exploitability, about `eps^2 / beta` (spec 2).

    The payoffs carry an error of about eps, so the log-ratio to the best response one of eps/beta, and the
    exploitability half the square of that, times beta; but never more than the error of the payoffs themselves, which
    is what counts at `beta = 0`. The second term is the rounding of the logarithms. Measured: benchmarks/adaptive.py,
    column `floor`.
    """
    eps = jnp.finfo(dtype).eps
    beta = jnp.asarray(beta, dtype)
    of_payoffs = jnp.where(beta > eps, eps**2 / jnp.where(beta > eps, beta, 1), eps)
    return of_payoffs + 8 * eps**2 * beta


def kl_bound(exploitability: jax.Array, beta: jax.Array, floor: jax.Array | float = 0.0) -> jax.Array:
    """Certified bound on `KL(p||p*)` in nats, `E_b(p) / beta` and what rounding may add (spec 2); inf at `beta = 0`.

    An exploitability is the square of a distance, and `floor` that of its rounding: it is the distances that add up.
    """
    floor = jnp.asarray(floor, exploitability.dtype)
    total = exploitability + 2 * simplex.sqrt(exploitability) * simplex.sqrt(floor) + floor
    return jnp.where(beta > 0, total / jnp.where(beta > 0, beta, 1), jnp.inf)


def l1_bound(exploitability: jax.Array, beta: jax.Array, floor: jax.Array | float = 0.0) -> jax.Array:
    """Certified bound on `||p - p*||_1 <= sqrt(2 KL(p||p*))` (spec 2), at most 2."""
    return jnp.minimum(simplex.sqrt(2 * kl_bound(exploitability, beta, floor)), 2)
