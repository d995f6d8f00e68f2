"""The interface that every algorithm shares."""

from __future__ import annotations

from numbers import Real
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp

from nashjax.problem import RegularizedGame


class State(Protocol):
    """What every algorithm's state, a NamedTuple of arrays, carries.

    Every leaf ends with the batch axes, so that a driver can keep the finished games of a block as they are.

    Attributes:
      log_policy: what is certified, `[n, *batch]`; methods that average put the average here.
      payoffs: its query `P p`, `[n, *batch]`; the certificate reuses it.
      queries: evaluations of `P v` so far, the first included, int32 `[*batch]`.
      step_size: the `eta` of the step that led here, `[*batch]`; 0 before the first.
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


class Algorithm(Protocol[S]):
    """A method: a frozen dataclass whose numeric hyper-parameters are pytree leaves."""

    queries_per_step: ClassVar[int]
    """The most queries that one step asks."""

    def init(self, problem: RegularizedGame, log_policy: jax.Array) -> S:
        """Start from a policy `[n, *batch]`; asks its query."""
        ...

    def step(self, problem: RegularizedGame, state: S) -> S:
        """Make one step (an adaptive method: one trial)."""
        ...


class BasicState(NamedTuple):
    """The state of a method that remembers nothing but its policy; the fields are those of `State`."""

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


def check_hyperparameter(name: str, value: object, low: float, high: float, *, closed: bool = False) -> None:
    """Raise ValueError unless a plain number lies between `low` and `high`, `low` itself allowed if `closed`.

    Arrays are not looked at: they may be traced, or stand for no value at all while jax rebuilds a pytree.
    """
    if not isinstance(value, Real):
        return
    number = float(value)
    if not ((low < number or (closed and low == number)) and number < high):
        raise ValueError(f"{name}: is {value}; allowed are numbers {'>=' if closed else '>'} {low:g} and < {high:g}")
