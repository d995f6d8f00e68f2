"""The linear systems of games of several players, whose policy is a product of simplices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from nashjax._math import layout, simplex
from nashjax._math.linear import product


def players_skew_system(M: jax.Array, root: jax.Array, half: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """Return `I - W^(1/2) Pi S M S Pi W^(1/2)`, `S = diag(root)`, `W^(1/2) = diag(half)`.

    `Pi` projects orthogonally to the part of `root` of each player. `half` is constant within a player, so that it
    commutes with `Pi`.

    Args:
      M: skew-symmetric, `[*batch, n, n]`, of as many batch axes as `root` or fewer.
      root: a unit vector for each player, `[n, *batch]`.
      half: `[n, *batch]`, or of a rank that broadcasts with that.
      sizes: number of actions of each player.

    Returns:
      `[*batch, n, n]`.
    """
    q = layout.actions_last(root)
    t = layout.actions_last(root * half)
    K = t[..., :, None] * simplex.to_rank(M, t[..., None]) * t[..., None, :]
    Q = q[..., None] * _membership(sizes, K)
    C = product("...ij,...jg->...ig", K, Q)
    # Pi K Pi = K + Q C' - C Q' + Q (Q' C) Q', half of the last term with each of the other two.
    C = C - product("...ig,...gk->...ik", Q, product("...ig,...ik->...gk", Q, C)) / 2
    K = K + product("...ig,...jg->...ij", Q, C) - product("...ig,...jg->...ij", C, Q)
    return simplex.to_rank(jnp.eye(K.shape[-1], dtype=K.dtype), K) - K


def bordered_support_system(M: jax.Array, support: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """Return the equations of an equilibrium of the plain game on a support: equal payoffs, total probabilities of 1.

    Its solution for the right-hand side 0 in the first `n` rows and 1 in the others is the policy, followed by the
    payoff of each player. Actions off the support have the identity.

    Args:
      M: skew-symmetric, `[*batch, n, n]`, of as many batch axes as `support` or fewer.
      support: bool `[n, *batch]`.
      sizes: number of actions of each player.

    Returns:
      `[*batch, n + players, n + players]`, skew-symmetric on the support.
    """
    inside = layout.actions_last(support)
    both = inside[..., :, None] & inside[..., None, :]
    core = jnp.where(both, simplex.to_rank(M, both), simplex.to_rank(jnp.eye(both.shape[-1], dtype=M.dtype), both))
    border = jnp.where(inside[..., None], _membership(sizes, core), 0)
    corner = jnp.zeros((*border.shape[:-2], len(sizes), len(sizes)), M.dtype)
    return jnp.concatenate(
        [
            jnp.concatenate([core, -border], axis=-1),
            jnp.concatenate([border.mT, corner], axis=-1),
        ],
        axis=-2,
    )


def _membership(sizes: tuple[int, ...], like: jax.Array) -> jax.Array:
    """Return which player each action belongs to, 0 or 1, `[n, players]` with axes of size 1 in front."""
    members = np.repeat(np.eye(len(sizes)), sizes, axis=0)
    return jnp.asarray(members.reshape(*(1,) * (like.ndim - 2), *members.shape), like.dtype)
