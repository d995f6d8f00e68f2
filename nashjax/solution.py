"""What a solve returns."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nashjax._math import layout
from nashjax._math.pytree import register_dataclass


class Status(enum.IntEnum):
    """How the solve of a game ended; `describe` says it in words."""

    CONVERGED = 0
    MAX_QUERIES = 1
    STALLED = 2
    INVALID = 3

    def describe(self) -> str:
        """Say it as a sentence."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.CONVERGED: "The exploitability is within the tolerance.",
    Status.MAX_QUERIES: "The queries, or the steps that a method allows itself, ran out before the tolerance was "
    "reached; the best policy found is returned.",
    Status.STALLED: "The exploitability is as small as the rounding of this dtype can show, above the tolerance; "
    "use float64 or a larger tolerance.",
    Status.INVALID: "Not a preference game, or beta, reference or initial is not valid or not supported by the "
    "method, or the payoffs are not finite, or the method returned no policy.",
}


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Solution:
    """Equilibria with their certificates; a pytree, the batch axes first.

    Attributes:
      log_policy: log-probabilities of the best policy found, `[*batch, n]`; `-inf` for excluded actions, NaN where the
        status is INVALID. The certificate weighs each action by its probability, so first-order methods leave
        the logarithms of rare actions wrong, by several nats at `beta` 0.01 and by thousands at 1e-5; the default at
        `tol < 1e-9` in float64 makes them accurate down to a `beta` of 1e-5, `Newton` itself at `tol=1e-14`.
      exploitability: `E_b` of that policy (spec 2), `[*batch]`, in units of preference; inf where INVALID.
      kl_bound: certified bound on `KL(policy || equilibrium)` in nats, `[*batch]`:
        `(sqrt(exploitability) + sqrt(rounding floor))^2 / beta`; inf at `beta = 0`.
      queries: evaluations of `P v`, the first included, int32 `[*batch]`; not that by which what linear solves or a
        named method have found is judged once more.
      steps: steps of the algorithm (an adaptive one: trials), int32 `[*batch]`.
      status: values of `Status`, int8 `[*batch]`.
    """

    log_policy: jax.Array
    exploitability: jax.Array
    kl_bound: jax.Array
    queries: jax.Array
    steps: jax.Array
    status: jax.Array

    @property
    def policy(self) -> jax.Array:
        """Probabilities, `[*batch, n]`, in the dtype of `log_policy`; a numpy array if that is one."""
        # jax would make float32 of a float64 array unless `jax_enable_x64` is set.
        exp: Any = np.exp if isinstance(self.log_policy, np.ndarray) else jnp.exp
        return exp(self.log_policy)

    @property
    def converged(self) -> jax.Array:
        """Whether the exploitability is within the tolerance, bool `[*batch]`."""
        # Compiled, because a comparison with a Python number is an implicit transfer.
        return _is_converged(self.status) if isinstance(self.status, jax.Array) else self.status == Status.CONVERGED


_is_converged = jax.jit(lambda status: status == Status.CONVERGED)


class Trajectory(NamedTuple):
    """Path of an algorithm; a pytree, the batch axes first.

    Attributes:
      log_policy: `[*batch, num_steps + 1, n]`; entry 0 is the initial policy.
      exploitability: exploitability of each policy, `[*batch, num_steps + 1]`.
      queries: evaluations of `P v` so far, int32 `[*batch, num_steps + 1]`.
      step_size: the `eta` of each step (the `a` of methods that have one), `[*batch, num_steps]`. One step is one
        trial; a rejected trial repeats the policy.
      stage: index of the stage of `Auto` that made each step, int8 `[*batch, num_steps]`; 0 for a single algorithm, and
        -1 after a game is finished, where the last policy is repeated.
    """

    log_policy: jax.Array
    exploitability: jax.Array
    queries: jax.Array
    step_size: jax.Array
    stage: jax.Array

    def batch_first(self) -> Trajectory:
        """Convert arrays `[steps, n, *batch]` and `[steps, *batch]` to the layout of the public functions."""
        log_policy = layout.actions_last(self.log_policy, 2)
        return Trajectory(log_policy, *(layout.actions_last(x) for x in self[1:]))


class Progress(NamedTuple):
    """How far a solve has come; leaves `[*batch]`, batch axes first between stages and actions first within one.

    The first six fields are those of `Solution`.

    Attributes:
      log_policy: the best policy so far, `[*batch, n]`.
      exploitability: certificate of it; inf before the first stage that plays the game.
      kl_bound: as in `Solution`.
      queries: as in `Solution`.
      steps: as in `Solution`.
      status: what the status would be if no further stage played.
      unfinished: whether a later stage may go on, bool.
      last: log-policy at which the next stage starts, `[*batch, n]`.
    """

    log_policy: jax.Array
    exploitability: jax.Array
    kl_bound: jax.Array
    queries: jax.Array
    steps: jax.Array
    status: jax.Array
    unfinished: jax.Array
    last: jax.Array

    def actions_first(self) -> Progress:
        """Return the progress in the layout of the core."""
        log_policy, last = layout.actions_first(self.log_policy), layout.actions_first(self.last)
        return self._replace(log_policy=log_policy, last=last)

    def actions_last(self) -> Progress:
        """Return the progress in the layout of the public functions."""
        return self._replace(log_policy=layout.actions_last(self.log_policy), last=layout.actions_last(self.last))

    def solution(self) -> Solution:
        """Return what the caller of a solve gets."""
        return Solution(*self[:6])
