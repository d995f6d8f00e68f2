"""The exact equilibrium of the plain game, `beta = 0`, on a support, with a proof that it is the only one."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from nashjax._math import linear, player_systems, simplex
from nashjax._math.pytree import register_dataclass
from nashjax.algorithms.base import Algorithm, BasicState, Betas
from nashjax.games.regularized import RegularizedGame

LARGEST_NOISE = 1e-3
"""A support whose system is so ill-conditioned that rounding exceeds this proves nothing."""


class ExactSupportState(NamedTuple):
    """State of `ExactSupport`.

    Attributes:
      log_policy: `log p`, `[n, *batch]`.
      payoffs: `P p`, `[n, *batch]`.
      queries: int32 `[*batch]`.
      step_size: 0, there is none, `[*batch]`.
      proved: whether `p` is proved to be the only equilibrium, bool `[*batch]`.
    """

    log_policy: jax.Array
    payoffs: jax.Array
    queries: jax.Array
    step_size: jax.Array
    proved: jax.Array


@register_dataclass
@dataclasses.dataclass(frozen=True)
class ExactSupport(Algorithm[ExactSupportState]):
    """Solve for the equilibrium on the support that a nearly exact policy shows; one step, two queries.

    On the support `B` of the only equilibrium `A_BB p_B = 0` with `A = P - 1/2`, and `p_B` sums to 1. Hence
    `(A_BB + 1 1^T) p_B = 1`. The solution is the only equilibrium if `p_B > 0`, all other actions earn strictly less,
    and the null space of `A_BB` has one dimension, which is the case if the system is regular. In a zero-sum game of
    several players the payoffs of the players are further unknowns, and the same conditions prove uniqueness.
    """

    queries_per_step: ClassVar[int] = 1
    solves_systems: ClassVar[bool] = True
    betas: ClassVar[Betas] = Betas.ZERO
    many_players: ClassVar[bool] = True
    needs_matrix: ClassVar[bool] = True
    max_steps: Any = dataclasses.field(default=1, metadata={"static": True})

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> ExactSupportState:
        """Start from a nearly exact policy `[n, *batch]`: one query."""
        start = BasicState.start(problem, log_policy)
        return ExactSupportState(*start, proved=jnp.zeros(start.queries.shape, bool))

    def step(self, problem: RegularizedGame, state: ExactSupportState) -> ExactSupportState:
        """Solve on the support: one query, one matrix factorized."""
        support = problem.support(state.log_policy, state.payoffs)
        exact, noise = solve_support(problem, support)
        log_exact = problem.normalize(jnp.where(support, jnp.log(jnp.where(support, exact, 1)), -jnp.inf))
        payoffs = problem.payoffs(log_exact)
        others = ~support & ~jnp.isneginf(problem.log_reference)
        earned = problem.gains(jnp.exp(log_exact), payoffs)
        margin = jnp.min(jnp.where(others, -earned, jnp.inf), axis=0)
        proved = (jnp.min(jnp.where(support, exact, 1), axis=0) > noise) & (margin > noise)
        proved &= problem.exploitability(log_exact, payoffs) <= noise
        return ExactSupportState(
            log_policy=simplex.choose(proved, log_exact, state.log_policy),
            payoffs=simplex.choose(proved, payoffs, state.payoffs),
            queries=state.queries + 1,
            step_size=state.step_size,
            proved=proved,
        )

    def proves(self, state: ExactSupportState) -> jax.Array:
        """Return the games whose policy is proved to be the only equilibrium, bool `[*batch]`."""
        return state.proved


def solve_support(problem: RegularizedGame, support: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solve the equations of an equilibrium on a support, bool `[n, *batch]`.

    For one player these are `A_BB p_B = 0`. For several, all actions of a player on the support earn the same, which is
    one more unknown of each player.

    Returns:
      The weights of the policy, `[n, *batch]`, up to the scale of each player, 1 off the support; and the rounding of
      the solution, `[*batch]`, inf where the system may be singular: where more than one policy on the support is an
      equilibrium.
    """
    dtype, n, shape = problem.log_reference.dtype, len(support), support.shape
    if len(problem.sizes) == 1:
        solve = linear.factorize(linear.support_system(problem.margins(), support))
        # `A + 1 1^T` has the same solution up to scale for the right-hand side 1.
        rhs, live = support.astype(dtype), support
    else:
        solve = linear.factorize(player_systems.bordered_support_system(problem.margins(), support, problem.sizes))
        border = jnp.ones((len(problem.sizes), *shape[1:]), bool)
        rhs, live = jnp.concatenate([jnp.zeros(shape, dtype), border.astype(dtype)]), jnp.concatenate([support, border])
    # What the inverse makes of a vector without a pattern tells how large it is.
    probe = jnp.cos(jnp.arange(len(live), dtype=dtype) ** 2).reshape(-1, *(1,) * (live.ndim - 1))
    size = jnp.max(jnp.abs(solve(jnp.where(live, probe, 0))), axis=0)
    noise = 16 * jnp.finfo(dtype).eps * jnp.maximum(size, 1)
    weights = jnp.where(support, solve(rhs)[:n], 1)
    return weights, jnp.where(noise < LARGEST_NOISE, noise, jnp.inf)  # inf for NaN too
