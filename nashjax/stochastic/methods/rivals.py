"""The other methods of the field, on the same comparisons (spec 6)."""

from __future__ import annotations

import dataclasses

import jax

from nashjax._validation import check_integer, check_number, check_positive, invalid
from nashjax.stochastic.estimators import Comparisons, dpo_loss, ipo_loss
from nashjax.stochastic.methods.base import PolicyMethod, Roles, choose
from nashjax.stochastic.policies import Params


@dataclasses.dataclass(frozen=True)
class SelfPlayPolicyGradient(PolicyMethod):
    """The policy against itself, with no proximal term (spec 6)."""


@dataclasses.dataclass(frozen=True)
class NashMDPolicyGradient(PolicyMethod):
    """Nash-MD-PG: the policy against its geometric mixture with the reference (Munos et al. 2024; spec 6).

    Attributes:
      mixture: share of the reference in the opponent, in [0, 1].
    """

    mixture: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_number("mixture", self.mixture, 0.0, 1.0)

    def reference_share(self, beta: jax.Array) -> float:
        """As `mixture`."""
        del beta
        return self.mixture


@dataclasses.dataclass(frozen=True)
class _OuterLoop(PolicyMethod):
    """The policy against itself, near the policy of the last outer step.

    Attributes:
      inner_steps: gradient steps in an outer step, >= 1.
      eta: step of the outer iteration, > 0; None for the default of the method.
    """

    inner_steps: int = 24
    eta: float | None = None

    def __post_init__(self):
        super().__post_init__()
        check_integer("inner_steps", self.inner_steps, 1)
        if self.eta is not None:
            check_positive("eta", self.eta)

    def start(self, params: Params) -> Roles:
        """The centre is the first policy."""
        return Roles(center=params)

    def advance(
        self, params: Params, roles: Roles, step: jax.Array, pace: jax.Array
    ) -> tuple[Params, Roles, jax.Array]:
        """The centre moves to the policy at the end of an outer step."""
        del pace
        ended = step % self.inner_steps == 0
        return params, Roles(center=choose(ended, params, roles.center)), ended


@dataclasses.dataclass(frozen=True)
class MMDPolicyGradient(_OuterLoop):
    """MMD-PG: magnetic mirror descent (Sokota et al. 2023; spec 6), `1/a` the weight of the proximal term.

    Attributes:
      eta: the step `a` of magnetic mirror descent; None for `4 beta`.
    """

    def prox_weight(self, beta: jax.Array) -> jax.Array | float:
        """`1 / a`."""
        return 1 / (4 * beta) if self.eta is None else 1 / self.eta


@dataclasses.dataclass(frozen=True)
class StochasticNashProx(_OuterLoop):
    """Nash Prox with self-play in its inner loops: the proximal-point method in outer steps (spec 6).

    Attributes:
      eta: step of the outer iteration; None for `2 beta`.
    """

    def prox_weight(self, beta: jax.Array) -> jax.Array | float:
        """`beta / eta`."""
        return 0.5 if self.eta is None else beta / self.eta


@dataclasses.dataclass(frozen=True)
class OnlineIPO(PolicyMethod):
    """Online IPO: pairs of the policy's own, by regression of their log-ratio (Calandriello et al. 2024; spec 6)."""

    def __post_init__(self):
        super().__post_init__()
        _refuse_what_gradients_have(self)

    def loss(self, compared: Comparisons, beta: jax.Array) -> jax.Array:
        """The squared error, times `beta^2 / 4`: of the size of the other losses, so that their step sizes fit it."""
        return ipo_loss(compared, beta) * beta**2 / 4


@dataclasses.dataclass(frozen=True)
class OnlineDPO(PolicyMethod):
    """Online DPO: pairs of the policy's own, by classification (spec 6). Its fixed point is another one.

    Attributes:
      scale: factor of the log-ratio in the loss, > 0; None for `beta`.
    """

    scale: float | None = None

    def __post_init__(self):
        super().__post_init__()
        _refuse_what_gradients_have(self)
        if self.scale is not None:
            check_positive("scale", self.scale)

    def loss(self, compared: Comparisons, beta: jax.Array) -> jax.Array:
        """The logistic loss of spec 6."""
        return dpo_loss(compared, beta if self.scale is None else self.scale)


def _refuse_what_gradients_have(method: PolicyMethod) -> None:
    if method.exact:
        raise invalid("exact", "False for a method that is no policy gradient", "True")
    if method.exploration:
        requirement = "0 for a method that is no policy gradient, whose samples must be the policy's own"
        raise invalid("exploration", requirement, str(method.exploration))
