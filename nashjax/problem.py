"""The problem that a solve gets: regularized games, their certificates and their proximal map.

`Problem` holds the validated arguments as users pass them, batch axes first. `RegularizedGame` is what algorithms see:
the same games with actions first. `Problem.regularized` converts one to the other.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from nashjax._math import layout, linear, regularized, simplex
from nashjax._math.pytree import Classes, register_dataclass
from nashjax._math.transfers import is_concrete, to_host
from nashjax._validation import SUM_TOLERANCE, as_numbers, as_policy, cast, check_all, check_betas, invalid
from nashjax.games import Game
from nashjax.games.conversion import as_game, check_answers, dtype_of
from nashjax.games.validity import allowed_actions, check_game


class Problem(NamedTuple):
    """Validated batch of regularized games with the targets of a solve, batch axes first; a pytree.

    The batch shapes of the fields broadcast with each other; nothing is copied to make them equal.

    Attributes:
      game: of any `batch_shape`.
      beta: `[*batch]`.
      reference: `[*batch, n]`, None for uniform.
      initial: `[*batch, n]`, None for the reference.
      tol: exploitability to reach, `[*batch]`.
      classes: classes of the game and of everything else that a program is compiled for.
    """

    game: Game
    beta: jax.Array
    reference: jax.Array | None
    initial: jax.Array | None
    tol: jax.Array
    classes: Classes

    @classmethod
    def build(
        cls,
        game: Game | ArrayLike,
        beta: ArrayLike,
        reference: ArrayLike | None = None,
        initial: ArrayLike | None = None,
        tol: ArrayLike = 0.0,
        *,
        validate: bool = True,
        in_place: bool = False,
    ) -> Problem:
        """Validate the arguments of a solve and cast them to the dtype of the game.

        Shapes are always checked. Values are checked if they are concrete and `validate` is true.

        If `in_place` is true, numpy arrays are passed to compiled code without a copy. Do not modify them until it
        finishes. The values of the game are not checked either: call `check_games` if a status is INVALID.

        Raises:
          TypeError: an argument has a wrong type.
          ValueError: an argument has a wrong value; the message names the index of the first bad entry.
        """
        game = as_game(game, in_place=in_place)
        dtype = dtype_of(game)
        if validate:
            check_betas(beta, tol, dtype)
        n, policy = game.num_actions, functools.partial(as_policy, dtype=dtype, validate=validate, in_place=in_place)
        problem = cls(
            game=game,
            beta=cast(beta, dtype, in_place=in_place),
            reference=None if reference is None else policy("reference", reference, n),
            initial=None if initial is None else policy("initial", initial, n),
            tol=cast(tol, dtype, in_place=in_place),
            classes=Classes.of(game),
        )
        check_answers(game, dtype, problem._checked_batch_shape())
        if validate and not in_place:
            problem.check_games()
        return problem

    @classmethod
    def build_path(
        cls,
        game: Game | ArrayLike,
        betas: ArrayLike,
        reference: ArrayLike | None,
        initial: ArrayLike | None,
        tol: ArrayLike,
        *,
        validate: bool = True,
        in_place: bool = False,
    ) -> Problem:
        """As `build`, with `beta` `[num_betas, *batch]`: one more axis in front of all others.

        Raises:
          ValueError: as `build`, or the betas increase along the first axis.
        """
        if not isinstance(betas, jax.Array):
            betas = as_numbers("betas", betas)
        if betas.ndim == 0 or betas.shape[0] == 0:
            raise invalid("betas", "an array [num_betas, ...] with at least one beta", f"shape {list(betas.shape)}")
        if validate and is_concrete(betas):
            values = to_host(betas)
            check_betas(values, tol, dtype_of(as_game(game, in_place=True)), beta_name="betas")
            never_increasing = np.concatenate([np.full_like(values[:1], True, bool), values[1:] <= values[:-1]])
            check_all(
                "betas", values, never_increasing, "at most the beta before it", "Sort betas in descending order."
            )
        # One beta stands for all of them: whole, they would broadcast with the batch.
        first = np.zeros(betas.shape[1:])
        problem = cls.build(game, first, reference, initial, tol, validate=validate, in_place=in_place)
        between = (1,) * (len(problem.batch_shape) - (betas.ndim - 1))
        whole = cast(betas, problem.beta.dtype, in_place=in_place)
        return problem._replace(beta=whole.reshape(len(betas), *between, *betas.shape[1:]))

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape to which all batch shapes broadcast."""
        return broadcast_shapes(self.batch_shapes().values())

    def batch_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the batch shape of each field."""
        return {
            "game": tuple(self.game.batch_shape),
            "beta": self.beta.shape,
            "reference": () if self.reference is None else self.reference.shape[:-1],
            "initial": () if self.initial is None else self.initial.shape[:-1],
            "tol": self.tol.shape,
            "classes": (),
        }

    def is_concrete(self) -> bool:
        """Return whether no array is traced."""
        arrays = (self.beta, self.tol, self.reference, self.initial)
        return not any(isinstance(array, Tracer) for array in arrays) and is_concrete(self.game)

    def check_games(self) -> None:
        """Raise ValueError that names the first bad entry unless all games are preference games; not in a trace."""
        check_game(self.game, self.reference)

    def _checked_batch_shape(self) -> tuple[int, ...]:
        shapes = self.batch_shapes()
        try:
            return broadcast_shapes(shapes.values())
        except ValueError:
            found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items() if shape)
            raise invalid("batch shapes", "shapes that broadcast with each other", found) from None

    def aligned(self) -> Problem:
        """Return the same problem with `beta` and `tol` of the rank of the batch, unless they are single numbers."""
        rank = len(self.batch_shape)
        beta, tol = (
            x.reshape((1,) * (rank - x.ndim) + x.shape) if 0 < x.ndim < rank else x for x in (self.beta, self.tol)
        )
        return self._replace(beta=beta, tol=tol)

    def run_by(self, *algorithms: object) -> Problem:
        """Return the same problem, for programs that are shared with no other classes of algorithms."""
        return self._replace(classes=self.classes.beside(*algorithms))

    def regularized(self) -> tuple[RegularizedGame, jax.Array, jax.Array]:
        """Convert to the layout of the core; traceable.

        Returns:
          The games, actions first; the log of the initial policy, `[n, *batch]`; whether each entry is valid,
          `[*batch]`.
        """
        batch, beta = self.batch_shape, self.aligned().beta
        game, is_game = self.game.prepared(allowed_actions(self.reference))
        uniform = jnp.full(game.num_actions, 1 / game.num_actions, self.beta.dtype)
        reference = uniform if self.reference is None else self.reference
        initial = reference if self.initial is None else self.initial
        good = [jnp.isfinite(beta) & (beta >= 0), is_game, _is_policy(reference), _is_policy(initial)]
        valid = functools.reduce(operator.and_, [jnp.broadcast_to(each, batch) for each in good])
        excluded = reference == 0
        # What starts at 0 would stay there: a probability that has underflowed must not exclude its action.
        initial = jnp.maximum(initial, jnp.finfo(initial.dtype).tiny)
        log_reference = _log_policy(reference, excluded, batch)
        log_initial = jnp.broadcast_to(_log_policy(initial, excluded, batch), (game.num_actions, *batch))
        return RegularizedGame(game, beta, log_reference), log_initial, valid

    def take(self, index: Any) -> Problem:
        """Return the games at these positions of the flattened batch, `[block]`.

        What all games share stays one array; what some of them share is copied for each. A numpy index selects from
        numpy arrays.
        """
        return self._select(lambda leaf: leaf[index], index)

    def slice(self, start: jax.Array, size: int) -> Problem:
        """Return the games from a position of the flattened batch on, `[size]`; as `take`, without gathering."""
        return self._select(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), start + jnp.arange(size))

    def view(self, start: int, size: int) -> Problem:
        """As `slice`, of numpy arrays: the arrays of the part are views."""
        return self._select(lambda leaf: leaf[start : start + size], np.arange(start, start + size))

    def _select(self, select: Callable[[Any], Any], index: Any) -> Problem:
        """Select the games at `index` from every leaf, with `select` where each game has an entry of its own."""
        shapes, batch = self.batch_shapes(), self.batch_shape or (1,)
        xp: Any = np if isinstance(index, np.ndarray) else jnp

        def from_leaf(leaf: Any, own: tuple[int, ...]) -> Any:
            lead, rest = leaf.shape[: len(own)], leaf.shape[len(own) :]
            if math.prod(lead) == 1:
                return leaf.reshape(rest if math.prod(own) == 1 else (1, *rest))
            if lead == batch:
                return select(leaf.reshape(-1, *rest))
            position = xp.unravel_index(index, batch)[len(batch) - len(own) :]
            return leaf[tuple(xp.where(size == 1, 0, at) for size, at in zip(lead, position, strict=True))]

        def from_field(field: Any, own: tuple[int, ...]) -> Any:
            return jax.tree.map(lambda leaf: from_leaf(leaf, own), field)

        selected = {name: from_field(field, shapes[name]) for name, field in self._asdict().items()}
        # One beta for each game, so that a block is a batch even where its games share everything.
        return Problem(**selected)._replace(beta=select(xp.broadcast_to(self.beta, batch).reshape(-1)))


def broadcast_shapes(shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the shape to which shapes broadcast; ValueError if they do not."""
    different = {shape for shape in shapes if shape}  # nearly always one at most, and then numpy takes longer
    return np.broadcast_shapes(*different) if len(different) > 1 else next(iter(different), ())


def _log_policy(policy: jax.Array, excluded: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    # Axes of size 1 keep the batch axes apart from the action axis once that is in front.
    policy, excluded = (x.reshape((1,) * (len(batch) - x.ndim + 1) + x.shape) for x in (policy, excluded))
    # The logarithm of an excluded action is never taken: its derivative would be infinite.
    log_policy = jnp.where(excluded, -jnp.inf, jnp.log(jnp.where(excluded, 1, policy)))
    return simplex.normalize(layout.actions_first(log_policy))


def _is_policy(policy: jax.Array) -> jax.Array:
    slack = SUM_TOLERANCE + policy.shape[-1] * jnp.finfo(policy.dtype).eps
    sums_to_one = jnp.abs(jnp.sum(policy, axis=-1) - 1) <= slack
    return jnp.all(jnp.isfinite(policy) & (policy >= 0), axis=-1) & sums_to_one


@register_dataclass
@dataclasses.dataclass(frozen=True)
class RegularizedGame:
    """The beta-regularized preference game.

    Its preference is `P(p > q) - beta KL(p||r) + beta KL(q||r)`; its unique symmetric equilibrium `p*` solves
    `p*_i ∝ r_i exp((P p*)_i / beta)`. Reads as one game and runs a block: actions first, batch axes behind.

    Attributes:
      game: what answers the preference queries.
      beta: regularization towards the reference, `[*batch]`, >= 0, in units of preference.
      log_reference: log of the reference policy `r`, `[n, *batch]`, normalized; `-inf` excludes an action.

    Batch axes may have size 1 but must be there: `[n]` beside policies `[n, 5]` would be read as `[1, n]`.
    """

    game: Game
    beta: jax.Array
    log_reference: jax.Array

    def payoffs(self, log_policy: jax.Array) -> jax.Array:
        """Ask one preference query, `P p`; `[n, *batch]`."""
        return self.game.payoffs(jnp.exp(log_policy))

    def best_response(self, payoffs: jax.Array) -> jax.Array:
        """Log of the best response to an opponent of these payoffs, `b ∝ r exp(P p / beta)`.

        At `beta = 0`: the reference restricted to the actions of the highest payoff.
        """
        shortfall = simplex.to_rank(self._highest(payoffs), payoffs) - payoffs
        beta = simplex.to_rank(self.beta, payoffs)
        scaled = jnp.where(beta > 0, shortfall / jnp.where(beta > 0, beta, 1), jnp.where(shortfall > 0, jnp.inf, 0))
        return simplex.normalize(jnp.where(self._excluded, -jnp.inf, self.log_reference - scaled))

    def exploitability(self, log_policy: jax.Array, payoffs: jax.Array) -> jax.Array:
        """Compute the gain of the best response over the policy, `E_b(p) = beta KL(p||b) >= 0`.

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
        """The support of the plain equilibrium that a policy is near to, bool `[n, *batch]`.

        What is played with more probability than it falls short of the best: at an exact equilibrium an action
        has one of the two only.
        """
        return jnp.exp(log_policy) > self.shortfall(payoffs)

    def rounding_floor(self) -> jax.Array:
        """Bound what rounding alone may add to or hide from an exploitability, `[*batch]`."""
        return regularized.rounding_floor(self.beta, self.log_reference.dtype)

    def proximal_map(self, log_center: jax.Array, payoffs: jax.Array, step: jax.Array | float) -> jax.Array:
        """Move from a policy towards the best response, in log space.

        `prox(c, g) = argmax_p <p, g> - beta KL(p||r) - (beta/eta) KL(p||c)`
        `           = normalize((s g + eta log r + log c) / (1 + eta))`, `eta = s beta`.

        Args:
          log_center: `log c`, `[n, *batch]`.
          payoffs: of the opponent, `g`, `[n, *batch]`; a constant added to them changes nothing.
          step: `s = eta/beta`, `[]` or `[*batch]`, > 0; finite also at `beta = 0`.
        """
        return regularized.proximal_map(log_center, payoffs, step, self.beta, self.log_reference)

    def mix_reference(self, log_policy: jax.Array, share: jax.Array) -> jax.Array:
        """The geometric mixture with the reference, `normalize((1 - share) log p + share log r)`.

        Args:
          log_policy: `log p`, `[n, *batch]`.
          share: `[]` or `[*batch]`, in [0, 1]; what rounding leaves above 1 counts as 1.
        """
        share = simplex.to_rank(jnp.minimum(share, 1), log_policy)
        mixture = (1 - share) * log_policy + share * self.log_reference
        return simplex.normalize(jnp.where(self._excluded, -jnp.inf, mixture))

    def gains(self, payoffs: jax.Array) -> jax.Array:
        """Compute the gain of each action over the policy of these payoffs, `P p - 1/2`; `-inf` for an excluded one.

        The policy itself is worth 1/2 against itself, whatever it is: `p^T P p = 1/2`.
        """
        return jnp.where(self._excluded, -jnp.inf, payoffs - 0.5)

    def newton_change(
        self, log_policy: jax.Array, payoffs: jax.Array, residual: jax.Array, weight: jax.Array
    ) -> jax.Array:
        """The change of `p` that a Newton step on `log p = normalize(weight P p + constant)` makes.

        With `S = diag(sqrt p)`, `Pi` the projector orthogonal to `sqrt p` and `A = P - 1/2`, solves
        `(I - weight Pi S A S Pi) z = Pi S residual`. `S A S` is skew-symmetric, so the matrix is always
        invertible and its inverse has norm <= 1.

        Args:
          log_policy: `log p`, `[n, *batch]`.
          payoffs: its query `P p`, `[n, *batch]`.
          residual: of the equation, right-hand side less left, `[n, *batch]`; where `p` is 0 it does not count.
          weight: `[]` or `[*batch]`: `s / (1 + eta)` for a proximal step, `1 / beta` for the game itself.

        Returns:
          `S z`, `[n, *batch]`, to first order the change of `p`; it sums to 0. Without a matrix it is found by queries
          (GMRES), and NaN where GMRES does not succeed.
        """
        root = jnp.exp(log_policy / 2)
        rhs = root * jnp.where(root > 0, residual, 0)
        rhs = rhs - root * jnp.sum(root * rhs, axis=0, keepdims=True)
        if self.game.has_matrix:
            system = linear.projected_skew_system(self.margins(), root, root * (payoffs - 0.5), weight)
            return root * linear.factorize(system)(rhs)

        def multiply_by_margins(v: jax.Array) -> jax.Array:
            return self.game.payoffs(v) - jnp.sum(v, axis=0, keepdims=True) / 2

        return root * linear.solve_projected_by_queries(multiply_by_margins, root, weight, rhs)

    def margins(self) -> jax.Array:
        """Return the skew-symmetric matrix `A = P - 1/2`, `[*batch_shape, n, n]`; the game must declare a matrix."""
        return self.game.dense() - 0.5

    @property
    def _excluded(self) -> jax.Array:
        return jnp.isneginf(self.log_reference)

    def _highest(self, payoffs: jax.Array) -> jax.Array:
        return jnp.max(jnp.where(self._excluded, -jnp.inf, payoffs), axis=0)
