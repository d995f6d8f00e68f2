"""The interface that every algorithm shares."""

from __future__ import annotations

import abc
import enum
import math
from numbers import Real
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from nashjax._math import simplex
from nashjax._math.transfers import is_concrete, to_host
from nashjax._validation import check_all, check_number, invalid, message, wrong_type
from nashjax.games import Game
from nashjax.games.regularized import RegularizedGame

UNREGULARIZED_STEP = 1 / 8
"""The step at `beta = 0` of methods whose own would be 0 there; that of `OptimisticMWU`."""


class State(Protocol):
    """What every algorithm's state, a NamedTuple of arrays, carries.

    Every leaf ends with the batch axes, so that a driver can keep the finished games of a block as they are.

    Attributes:
      log_policy: what is certified, `[n, *batch]`; methods that average put the average here.
      payoffs: its query `P p`, `[n, *batch]`; the certificate reuses it.
      queries: evaluations of `P v` so far, the first included, int32 `[*batch]`.
      step_size: of the step that led here, the `eta` or the `a` of the method, `[*batch]`; 0 before the first.
    """

    @property
    def log_policy(self) -> jax.Array: ...  # noqa: D102
    @property
    def payoffs(self) -> jax.Array: ...  # noqa: D102
    @property
    def queries(self) -> jax.Array: ...  # noqa: D102
    @property
    def step_size(self) -> jax.Array: ...  # noqa: D102


S = TypeVar("S", bound=State)


class Betas(enum.Enum):
    """The betas at which an algorithm converges to the equilibrium of the regularized game."""

    ANY = "any beta >= 0"
    POSITIVE = "beta > 0"
    ZERO = "beta = 0"

    def include(self, beta: Any) -> Any:
        """Return which of these betas, an array of numpy or jax, are among them; bool of the same shape."""
        match self:
            case Betas.ANY:
                return beta >= 0
            case Betas.POSITIVE:
                return beta > 0
            case Betas.ZERO:
                return beta == 0


class Algorithm(abc.ABC, Generic[S]):
    """Iterative method that finds the equilibria of regularized games.

    A method is a frozen dataclass, registered as a pytree, whose numeric hyperparameters are leaves. Its class
    attributes declare what it can do; `nashjax.solve` raises for anything else. The code is written for one game,
    actions on axis 0, and runs a block of games unchanged, because all batch axes come last.

    Attributes:
      queries_per_step: largest number of queries that one step asks. Every subclass has to declare it.
      betas: values of beta at which the method converges to the equilibrium; by default any.
      needs_matrix: whether the game has to offer its matrix (`Game.has_matrix`).
      many_players: whether the method also solves zero-sum games of several players. Such a method treats the policy
        as one of each player: it normalizes and sums by the methods of `RegularizedGame`.
      max_steps: number of steps after which the method gives a game up; None if it never does.
      solves_systems: whether a step solves linear systems, which need several matrices for each game.
      polishes: whether the method offers `polish`.

    Example:
      >>> import dataclasses, functools
      >>> import nashjax as nj
      >>> @functools.partial(jax.tree_util.register_dataclass, data_fields=["step_size"], meta_fields=[])
      ... @dataclasses.dataclass(frozen=True)
      ... class FictitiousPlay(nj.Algorithm):  # moves towards the best response
      ...     step_size: float = 0.02
      ...     queries_per_step = 1
      ...
      ...     def init(self, problem, log_policy):
      ...         return nj.algorithms.BasicState.start(problem, log_policy)
      ...
      ...     def step(self, problem, state):
      ...         response = problem.best_response(state.payoffs)
      ...         p = (1 - self.step_size) * jnp.exp(state.log_policy) + self.step_size * jnp.exp(response)
      ...         return state.move(problem, jnp.log(p), self.step_size)
      >>> solution = nj.solve([[0.5, 0.9], [0.1, 0.5]], beta=0.5, algorithm=FictitiousPlay())
      >>> [round(float(p), 3) for p in solution.policy]
      [0.689, 0.311]
    """

    queries_per_step: ClassVar[int]
    betas: ClassVar[Betas] = Betas.ANY
    needs_matrix: ClassVar[bool] = False
    many_players: ClassVar[bool] = False
    solves_systems: ClassVar[bool] = False
    polishes: ClassVar[bool] = False
    max_steps: Any = None

    @abc.abstractmethod
    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> S:
        """Start from a policy `[n, *batch]`; asks its query."""

    @abc.abstractmethod
    def step(self, problem: RegularizedGame, state: S) -> S:
        """Make one step; for an adaptive method, one trial."""

    def polish(
        self, problem: RegularizedGame, log_policy: jax.Array, payoffs: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Improve a policy close to the equilibrium, with two queries; only of methods that declare `polishes`.

        Returns:
          The new policy and its query.
        """
        raise NotImplementedError(f"{type(self).__name__} does not polish.")

    def proves(self, state: S) -> jax.Array | None:
        """Return the games whose policy is proved to be the answer, bool `[*batch]`; None for no such proof."""
        del state
        return None

    def __init_subclass__(cls, **options: Any) -> None:
        """Check the declarations."""
        super().__init_subclass__(**options)
        if not any("queries_per_step" in vars(base) for base in cls.__mro__):
            requirement = "an integer, the largest number of queries of one step"
            raise TypeError(message(f"{cls.__name__}.queries_per_step", requirement, "nothing"))


class BasicState(NamedTuple):
    """State of a method that remembers nothing but its policy.

    Attributes:
      log_policy: `[n, *batch]`.
      payoffs: query `P p` of the policy, `[n, *batch]`.
      queries: evaluations of `P v` so far, int32 `[*batch]`.
      step_size: step that led here, `[*batch]`; 0 before the first.
    """

    log_policy: jax.Array
    payoffs: jax.Array
    queries: jax.Array
    step_size: jax.Array

    @classmethod
    def start(cls, problem: RegularizedGame, log_policy: jax.Array) -> BasicState:
        """Ask the first query."""
        batch = log_policy.shape[1:]
        return cls(
            log_policy=log_policy,
            payoffs=problem.payoffs(log_policy),
            queries=jnp.ones(batch, jnp.int32),
            step_size=jnp.zeros(batch, log_policy.dtype),
        )

    def move(
        self, problem: RegularizedGame, log_policy: jax.Array, step_size: jax.Array, queries: int = 1
    ) -> BasicState:
        """Go to the next policy and ask its query, the last of the `queries` of the step."""
        return BasicState(
            log_policy=log_policy,
            payoffs=problem.payoffs(log_policy),
            queries=self.queries + queries,
            step_size=jnp.broadcast_to(step_size, self.step_size.shape),
        )


class Average(NamedTuple):
    """The weighted average of policies and, by linearity, of their queries: it costs no query.

    The sums are compensated (Kahan 1965): the rounding of many thousand terms would make the certificate false.

    Attributes:
      sums: of the weighted policies, and of their weighted queries, `[2, n, *batch]`.
      excess: what rounding has added to the sums, `[2, n, *batch]`.
    """

    sums: jax.Array
    excess: jax.Array

    @classmethod
    def of(cls, policy: jax.Array, payoffs: jax.Array, weight: jax.Array | float = 1.0) -> Average:
        """Average one policy `[n, *batch]` and its query `[n, *batch]` with a weight `[]` or `[*batch]`."""
        both = jnp.stack([policy, payoffs])
        sums = simplex.to_rank(weight, both) * both
        return cls(sums, jnp.zeros_like(sums))

    def include(self, policy: jax.Array, payoffs: jax.Array, weight: jax.Array | float = 1.0) -> Average:
        """Average one more."""
        both = jnp.stack([policy, payoffs])
        term = simplex.to_rank(weight, both) * both - self.excess
        sums = self.sums + term
        return Average(sums, (sums - self.sums) - term)

    def log_policy(self, problem: RegularizedGame) -> jax.Array:
        """Return the log of the average policy, `[n, *batch]`."""
        return simplex.log(self.sums[0] / problem.totals(self.sums[0]))

    def payoffs(self, problem: RegularizedGame) -> jax.Array:
        """Return its query, `[n, *batch]`."""
        weight = jnp.sum(self.sums[0], axis=0, keepdims=True) / len(problem.sizes)
        return self.sums[1] / weight


def relative_step(eta: float | jax.Array | None, beta: jax.Array, default: float) -> jax.Array:
    """`s = eta / beta`, or the default where `eta` is None or `beta` 0, at which `eta = s beta` says nothing of `s`."""
    if eta is None:
        return jnp.full_like(beta, default)
    return jnp.where(beta > 0, eta / jnp.where(beta > 0, beta, 1), default).astype(beta.dtype)


def at_most_best_response(a: float | jax.Array, beta: jax.Array) -> jax.Array:
    """The step `a`, but at most `1 / beta`, which leads to the best response; `[*batch]`."""
    return jnp.minimum(a, jnp.where(beta > 0, 1 / jnp.where(beta > 0, beta, 1), jnp.inf)).astype(beta.dtype)


def decreasing_step(problem: RegularizedGame, steps: jax.Array) -> jax.Array:
    """The step `sqrt(log n / (t + 1))` of multiplicative weights after `t` steps, int32 `[*batch]`."""
    return jnp.sqrt(math.log(max(problem.sizes)) / (steps + 1).astype(problem.beta.dtype))


def check_hyperparameter(name: str, value: object, low: float, high: float, *, closed: bool = False) -> None:
    """Check that numbers lie between `low` and `high`, `low` itself allowed if `closed`.

    Arrays of jax are not checked, because they may be traced; nor is what stands for no value while jax rebuilds a
    pytree.

    Raises:
      TypeError: the value is a string.
      ValueError: a number is out of range.
    """
    if isinstance(value, (Real, str)):
        check_number(name, value, low, high, open_at=(high,) if closed else (low, high))
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        good = np.isfinite(value) & ((value >= low) if closed else (value > low)) & (value < high)
        check_all(name, value, good, f"a finite number {'>=' if closed else '>'} {low:g} and < {high:g}")


def check_algorithm(algorithm: object, *kinds: type) -> None:
    """Raise TypeError unless this is an instance of an algorithm that jax can take apart, or of one of the kinds."""
    if kinds and isinstance(algorithm, kinds):
        return
    if not isinstance(algorithm, Algorithm):
        defines = not isinstance(algorithm, type) and "step" in vars(type(algorithm))
        advice = "Derive the class from nashjax.Algorithm." if defines else ""
        raise wrong_type("algorithm", "an instance of an algorithm, such as nashjax.NashMP()", algorithm, advice)
    if any(leaf is algorithm for leaf in jax.tree.leaves(algorithm)):
        advice = "Register the class with jax.tree_util.register_dataclass."
        raise TypeError(message("algorithm", "a pytree", f"an instance of {type(algorithm).__name__}", advice))


def check_players(algorithm: Algorithm[Any], game: Game) -> None:
    """Raise ValueError if a game has several players and the algorithm does not support that."""
    if len(game.sizes) > 1 and not algorithm.many_players:
        name, advice = type(algorithm).__name__, "Use nashjax.AdaptiveNashMP(), or leave algorithm out."
        found = f"an instance of {type(game).__name__} with {len(game.sizes)} players"
        raise invalid("game", f"a preference game for {name}", found, advice)


def check_matrix(algorithm: Algorithm[Any], game: Game, has_matrix: bool) -> None:
    """Raise ValueError if an algorithm needs a matrix that the game does not offer where it is solved."""
    if algorithm.needs_matrix and not has_matrix:
        name, advice = type(algorithm).__name__, "Use nashjax.AdaptiveNashMP(), or leave algorithm out."
        requirement = f"a game with a matrix, dense(), for {name}"
        shared = ", whose rows lie on several devices" if game.has_matrix else ""
        raise invalid("game", requirement, f"an instance of {type(game).__name__}{shared}", advice)


def check_supported(
    algorithm: Algorithm[Any], game: Game, has_matrix: bool, beta: Any, beta_name: str = "beta"
) -> None:
    """Raise ValueError unless an algorithm supports the game and all betas; traced betas are not checked."""
    check_players(algorithm, game)
    check_matrix(algorithm, game, has_matrix)
    betas, name = algorithm.betas, type(algorithm).__name__
    if isinstance(beta, tuple) and len(game.sizes) > 1:
        for g, own in enumerate(beta):
            check_supported(algorithm, game, has_matrix, own, f"{beta_name}[{g}]")
        return
    if betas is Betas.ANY or not is_concrete(beta):
        return
    values = to_host(beta)
    other = "Newton" if betas is Betas.ZERO else "InteriorPoint" if has_matrix else "AdaptiveNashMP"
    requirement = f"{betas.value.removeprefix('beta ').removeprefix('= ')} for {name}"
    check_all(beta_name, values, betas.include(values), requirement, f"Use nashjax.{other}(), or leave algorithm out.")
