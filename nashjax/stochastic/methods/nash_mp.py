"""Nash Mirror Prox from samples: two inner loops, or one loop with moving averages (spec 4, 5)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from nashjax._validation import check_integer, check_positive
from nashjax.stochastic.methods.base import PolicyMethod, Roles, choose, move
from nashjax.stochastic.policies import Params


@dataclasses.dataclass(frozen=True)
class StochasticNashMP(PolicyMethod):
    """Approximate Nash Mirror Prox, two inner loops of policy gradients (spec 4).

    The first loop improves the opponent, from and against `p_k`; the second answers it, with `p_k` as the centre of
    both. The defaults were chosen by measurement, `benchmarks/stochastic.py`.

    Attributes:
      eta: step of the outer iteration, > 0; None for `2 beta`.
      inner_steps: gradient steps in each of the two loops, >= 1.
      warm: whether the second loop starts where the first ended (true) or at `p_k`.
      keep_optimizer: whether an inner loop goes on with the optimiser's state of the one before.
    """

    eta: float | None = None
    inner_steps: int = 24
    warm: bool = True
    keep_optimizer: bool = True

    def __post_init__(self):
        super().__post_init__()
        check_integer("inner_steps", self.inner_steps, 1)
        if self.eta is not None:
            check_positive("eta", self.eta)

    @property
    def keeps_optimizer(self) -> bool:
        """As `keep_optimizer`."""
        return self.keep_optimizer

    def prox_weight(self, beta: jax.Array) -> jax.Array | float:
        """`beta / eta`."""
        return 0.5 if self.eta is None else beta / self.eta

    def start(self, params: Params) -> Roles:
        """Both the opponent and the centre are the first policy."""
        return Roles(params, params)

    def advance(
        self, params: Params, roles: Roles, step: jax.Array, pace: jax.Array
    ) -> tuple[Params, Roles, jax.Array]:
        """At the end of a first loop its policy becomes the opponent, at the end of a second the centre as well."""
        del pace
        ended = step % self.inner_steps == 0
        second = (step // self.inner_steps) % 2 == 0
        opponent = choose(ended, params, roles.opponent)
        following = params if self.warm else choose(ended & ~second, roles.center, params)
        return following, Roles(opponent, choose(ended & second, params, roles.center)), ended


@dataclasses.dataclass(frozen=True)
class AveragedNashMP(PolicyMethod):
    """Nash Mirror Prox in one loop: moving averages of the policy take the place of its two steps (spec 5).

    | form | opponent | centre |
    | --- | --- | --- |
    | `AveragedNashMP.target()` | a moving average | the same average |
    | `AveragedNashMP.two_average()`, the default | a fast average: the improved opponent | a slow one: `p_k` |
    | `AveragedNashMP.proximal_point()` | the policy itself | a slow average |

    The rates fall with the `schedule`, as the steps do: an average that keeps its pace while the policy slows down
    comes to be that policy, and then nothing holds it back from cycling any more. So the decay of an `optimizer` of
    one's own belongs into the `schedule`, too.

    Attributes:
      opponent_rate: `kappa` of the opponent's average, in (0, 1]; 1 is the policy itself.
      center_rate: `kappa` of the centre's average, in (0, 1].
      eta: step of the outer iteration, > 0; None for `2 beta`.
    """

    opponent_rate: float = 1 / 24
    center_rate: float = 1 / 48
    eta: float | None = None

    def __post_init__(self):
        super().__post_init__()
        check_positive("opponent_rate", self.opponent_rate, 1)
        check_positive("center_rate", self.center_rate, 1)
        if self.eta is not None:
            check_positive("eta", self.eta)

    @classmethod
    def target(cls, rate: float = 1 / 24, **options: Any) -> AveragedNashMP:
        """One average is both the opponent and the centre, the target policy."""
        check_positive("rate", rate, 1)
        return cls(opponent_rate=rate, center_rate=rate, **options)

    @classmethod
    def two_average(cls, fast: float = 1 / 24, slow: float = 1 / 48, **options: Any) -> AveragedNashMP:
        """A fast average is the opponent, a slow one the centre."""
        check_positive("fast", fast, 1)
        check_positive("slow", slow, 1)
        return cls(opponent_rate=fast, center_rate=slow, **options)

    @classmethod
    def proximal_point(cls, rate: float = 1 / 48, **options: Any) -> AveragedNashMP:
        """The policy plays itself, near a slow average."""
        check_positive("rate", rate, 1)
        return cls(opponent_rate=1.0, center_rate=rate, **options)

    def prox_weight(self, beta: jax.Array) -> jax.Array | float:
        """`beta / eta`."""
        return 0.5 if self.eta is None else beta / self.eta

    def start(self, params: Params) -> Roles:
        """Both averages start at the first policy."""
        return Roles(None if self.opponent_rate == 1 else params, params)

    def advance(self, params: Params, roles: Roles, step: jax.Array, pace: jax.Array) -> tuple[Params, Roles, None]:
        """Move both averages towards the policy."""
        del step
        fast, slow = (jnp.minimum(rate * pace, 1) for rate in (self.opponent_rate, self.center_rate))
        opponent = None if roles.opponent is None else move(roles.opponent, params, fast)
        return params, Roles(opponent, move(roles.center, params, slow)), None
