"""`RegularizedGame`, the view of a problem that algorithms get: certificates, proximal map and Newton step."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from nashjax._math import linear, player_systems, regularized, simplex
from nashjax._math.pytree import register_dataclass
from nashjax.games.base import Game


@register_dataclass
@dataclasses.dataclass(frozen=True)
class RegularizedGame:
    """The beta-regularized game, of one player against itself or of several players.

    The preference of a regularized preference game is `P(p > q) - beta KL(p||r) + beta KL(q||r)`; its unique symmetric
    equilibrium `p*` solves `p*_i ∝ r_i exp((P p*)_i / beta)`. In a zero-sum game of several players, player `g` earns
    `<p_g, (M p)_g> - beta_g KL(p_g||r_g)`, where `M` is skew-symmetric, and the same equation holds for each player.
    The code reads as one game and runs a block: actions first, batch axes behind, the players of a game concatenated.

    Attributes:
      game: what answers the queries.
      beta: regularization towards the reference, `[*batch]`, >= 0, in units of payoff; the largest of the players.
      log_reference: log of the reference policy `r`, `[n, *batch]`, normalized for each player; `-inf` excludes an
        action.
      player_betas: regularization of each player, `[players, *batch]`; None if `beta` is that of all.

    Batch axes may have size 1 but must be there: `[n]` next to policies `[n, 5]` would be read as `[1, n]`.
    """

    game: Game
    beta: jax.Array
    log_reference: jax.Array
    player_betas: jax.Array | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of actions of each player."""
        return self.game.sizes

    @property
    def lowest_beta(self) -> jax.Array:
        """The smallest regularization of a player, `[*batch]`."""
        return self.beta if self.player_betas is None else jnp.min(self.player_betas, axis=0)

    @property
    def price(self) -> jax.Array:
        """Regularization that each action pays, of a rank that broadcasts with `[n, *batch]`."""
        if self.player_betas is None:
            return simplex.to_rank(self.beta, self.log_reference)
        return simplex.spread(self.player_betas, self.sizes)

    def normalize(self, log_weights: jax.Array) -> jax.Array:
        """Scale weights `[n, *batch]` to a policy of each player."""
        return simplex.normalize(log_weights, self.sizes)

    def totals(self, x: jax.Array) -> jax.Array:
        """Sum over the actions of the same player, for each action; broadcasts with `[n, *batch]`."""
        if len(self.sizes) == 1:
            return jnp.sum(x, axis=0, keepdims=True)
        return simplex.spread(simplex.sums(x, self.sizes), self.sizes)

    def payoffs(self, log_policy: jax.Array) -> jax.Array:
        """Ask one query, `P p`; `[n, *batch]`."""
        return self.game.payoffs(jnp.exp(log_policy))

    def best_response(self, payoffs: jax.Array) -> jax.Array:
        """Log of the best response to an opponent of these payoffs, `b ∝ r exp(P p / beta)`.

        At `beta = 0`: the reference restricted to the actions of the highest payoff.
        """
        shortfall, price = self._shortfall(payoffs), self.price
        scaled = jnp.where(price > 0, shortfall / _or_one(price), jnp.where(shortfall > 0, jnp.inf, 0))
        return self.normalize(jnp.where(self._excluded, -jnp.inf, self.log_reference - scaled))

    def exploitability(self, log_policy: jax.Array, payoffs: jax.Array) -> jax.Array:
        """Compute the gain of the best response over the policy, `E_b(p) = beta KL(p||b) >= 0`.

        At `beta = 0`: `max_i (P p)_i - 1/2`. In a preference game the duality gap is twice this. With several players
        this is the duality gap itself (NashConv), the sum of the gains of all players.

        Args:
          log_policy: `log p`, `[n, *batch]`.
          payoffs: its query `P p`, `[n, *batch]`.

        Returns:
          `[*batch]`, in units of payoff.
        """
        # At `beta = 0` the divergence would be infinite, and what is not chosen would make derivatives NaN.
        beta = _or_one(self.beta)
        if self.player_betas is None:
            response = dataclasses.replace(self, beta=beta).best_response(payoffs)
            divergence = beta * simplex.kl_divergence(log_policy, response)
            return jnp.where(self.beta > 0, divergence, self._plain_exploitability(log_policy, payoffs))
        betas = _or_one(self.player_betas)
        response = dataclasses.replace(self, player_betas=betas).best_response(payoffs)
        divergence = simplex.sums(simplex.divergence_terms(log_policy, response), self.sizes)
        regret = simplex.sums(self._regret_terms(log_policy, payoffs), self.sizes)
        return jnp.sum(jnp.where(self.player_betas > 0, betas * divergence, regret), axis=0)

    def _plain_exploitability(self, log_policy: jax.Array, payoffs: jax.Array) -> jax.Array:
        if len(self.sizes) == 1:
            return jnp.maximum(self._highest(payoffs)[0] - self.game.value, 0)
        return jnp.sum(self._regret_terms(log_policy, payoffs), axis=0)

    def _regret_terms(self, log_policy: jax.Array, payoffs: jax.Array) -> jax.Array:
        """Terms >= 0 whose sum over a player is `max_i u_i - <p, u>`, so that nothing cancels; `[n, *batch]`."""
        p = jnp.exp(log_policy)
        return p * jnp.where(p != 0, self.shortfall(payoffs), 0)

    def shortfall(self, payoffs: jax.Array) -> jax.Array:
        """How much less than the best allowed action of the player each earns, >= 0; `[n, *batch]`."""
        return jnp.maximum(self._shortfall(payoffs), 0)

    def support(self, log_policy: jax.Array, payoffs: jax.Array) -> jax.Array:
        """Return the support of the plain equilibrium near a policy, bool `[n, *batch]`.

        An action belongs to it if its probability is larger than its shortfall: at an exact equilibrium one of the two
        is 0.
        """
        return jnp.exp(log_policy) > self.shortfall(payoffs)

    def rounding_floor(self) -> jax.Array:
        """Bound what rounding alone may add to or hide from an exploitability, `[*batch]`."""
        return len(self.sizes) * regularized.rounding_floor(self.lowest_beta, self.log_reference.dtype)

    def proximal_map(self, log_center: jax.Array, payoffs: jax.Array, step: jax.Array | float) -> jax.Array:
        """Move from a policy towards the best response, in log space.

        `prox(c, g) = argmax_p <p, g> - beta KL(p||r) - (beta/eta) KL(p||c)`
        `           = normalize((s g + eta log r + log c) / (1 + eta))`, `eta = s beta`.

        Args:
          log_center: `log c`, `[n, *batch]`.
          payoffs: of the opponent, `g`, `[n, *batch]`; a constant added to those of a player changes nothing.
          step: `s = eta/beta`, `[]` or `[*batch]`, > 0; finite also at `beta = 0`.
        """
        return regularized.proximal_map(log_center, payoffs, step, self.price, self.log_reference, self.sizes)

    def contraction_room(
        self, log_center: jax.Array, log_opponent: jax.Array, log_moved: jax.Array, step: jax.Array
    ) -> jax.Array:
        """Return the right side of the acceptance test, `KL(h||p) + sum_g (1 + s beta_g) KL(p'_g||h_g)`; `[*batch]`.

        Args:
          log_center: `log p`, `[n, *batch]`.
          log_opponent: `log h`, `[n, *batch]`.
          log_moved: `log p'`, `[n, *batch]`.
          step: `s`, `[*batch]`.
        """
        near = simplex.kl_divergence(log_opponent, log_center)
        if self.player_betas is None:
            return near + (1 + step * self.beta) * simplex.kl_divergence(log_moved, log_opponent)
        terms = simplex.sums(simplex.divergence_terms(log_moved, log_opponent), self.sizes)
        return near + jnp.sum((1 + simplex.to_rank(step, terms) * self.player_betas) * terms, axis=0)

    def mix_reference(self, log_policy: jax.Array, step: jax.Array) -> jax.Array:
        """Return the geometric mixture with the reference, `normalize((1 - a beta) log p + a beta log r)`.

        Args:
          log_policy: `log p`, `[n, *batch]`.
          step: `a`, `[]` or `[*batch]`; where rounding leaves `a beta` above 1 it counts as 1.
        """
        share = jnp.minimum(simplex.to_rank(step, log_policy) * self.price, 1)
        mixture = (1 - share) * log_policy + share * self.log_reference
        return self.normalize(jnp.where(self._excluded, -jnp.inf, mixture))

    def gains(self, policy: jax.Array, payoffs: jax.Array) -> jax.Array:
        """Compute the gain of each action over the policy, `u_i - <p, u>` of its player; `-inf` for an excluded one.

        In a preference game the policy itself earns 1/2 against itself, whatever it is: `p^T P p = 1/2`.

        Args:
          policy: probabilities `p`, `[n, *batch]`.
          payoffs: its query, `[n, *batch]`.
        """
        earned = self.game.value if len(self.sizes) == 1 else self.totals(policy * payoffs)
        return jnp.where(self._excluded, -jnp.inf, payoffs - earned)

    def newton_weight(self, step: jax.Array) -> jax.Array:
        """Return `w = s / (1 + s beta)` for a proximal step `s`, `[*batch]`, or `[n, *batch]` if players differ."""
        if self.player_betas is None:
            return step / (1 + step * self.beta)
        return simplex.to_rank(step, self.price) / (1 + simplex.to_rank(step, self.price) * self.price)

    def limit_weight(self) -> jax.Array:
        """Return the `newton_weight` of an infinite step, `1 / beta`; 1 at `beta = 0`."""
        return 1 / _or_one(self.beta if self.player_betas is None else self.price)

    def newton_change(
        self, log_policy: jax.Array, payoffs: jax.Array, residual: jax.Array, weight: jax.Array
    ) -> jax.Array:
        """Compute the change of `p` that a Newton step on `log p = normalize(weight P p + constant)` makes.

        With `S = diag(sqrt p)`, `W = diag(weight)`, `Pi` the projector orthogonal to `sqrt p` of each player and
        `A = P - 1/2` (or the matrix of the zero-sum game), solves
        `(I - W^(1/2) Pi S A S Pi W^(1/2)) y = W^(-1/2) Pi S residual`. `S A S` is skew-symmetric, so the matrix is
        always invertible and its inverse has norm <= 1.

        Args:
          log_policy: `log p`, `[n, *batch]`.
          payoffs: its query `P p`, `[n, *batch]`.
          residual: of the equation, right-hand side less left, `[n, *batch]`; where `p` is 0 it does not count.
          weight: `newton_weight` or `limit_weight`, `[*batch]` or `[n, *batch]`.

        Returns:
          `S W^(1/2) y`, `[n, *batch]`, to first order the change of `p`; it sums to 0 for each player. Without a matrix
          it is found by queries (GMRES), and NaN where GMRES does not succeed.
        """
        root = jnp.exp(log_policy / 2)
        rhs = root * jnp.where(root > 0, residual, 0)
        rhs = rhs - root * self.totals(root * rhs)
        if len(self.sizes) > 1:
            half = jnp.sqrt(simplex.to_rank(weight, root))
            system = player_systems.players_skew_system(self.margins(), root, half, self.sizes)
            return root * half * linear.factorize(system)(rhs / half)
        if self.game.has_matrix:
            system = linear.projected_skew_system(self.margins(), root, root * (payoffs - 0.5), weight)
            return root * linear.factorize(system)(rhs)

        def multiply_by_margins(v: jax.Array) -> jax.Array:
            return self.game.payoffs(v) - jnp.sum(v, axis=0, keepdims=True) / 2

        return root * linear.solve_projected_by_queries(multiply_by_margins, root, weight, rhs)

    def margins(self) -> jax.Array:
        """Return the skew-symmetric matrix of the game, `P - 1/2` or `M`, `[*batch_shape, n, n]`."""
        return self.game.dense() - self.game.value

    @property
    def _excluded(self) -> jax.Array:
        return jnp.isneginf(self.log_reference)

    def _highest(self, payoffs: jax.Array) -> jax.Array:
        """The highest payoff of an allowed action, broadcasts with `[n, *batch]`."""
        allowed = jnp.where(self._excluded, -jnp.inf, payoffs)
        if len(self.sizes) == 1:
            return jnp.max(allowed, axis=0, keepdims=True)
        return simplex.spread(simplex.maxima(allowed, self.sizes), self.sizes)

    def _shortfall(self, payoffs: jax.Array) -> jax.Array:
        return self._highest(payoffs) - payoffs


def _or_one(x: jax.Array) -> jax.Array:
    """Return positive numbers as they are, and 1 for others."""
    return jnp.where(x > 0, x, 1)
