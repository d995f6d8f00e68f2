"""Policies that learn: a table of logits, and any flax module that maps the features of a context to logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nashjax._math.pytree import register_dataclass
from nashjax._math.transfers import explicit, is_concrete, owned
from nashjax._validation import as_floating, as_real_array, check_all, check_integer, invalid, wrong_type

Params = Any


@contextmanager
def default_promotion() -> Iterator[None]:
    """Let jax promote dtypes and ranks by default: flax and optax need that whatever mode the caller has set."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@runtime_checkable
class Policy(Protocol):
    """A family of policies, softmax over logits, as pure functions of parameters (spec 4).

    The probability of an action is proportional to that of the reference times `exp(logit)`: with logits of 0 the
    policy is the reference, and what that excludes stays excluded.
    """

    def init(self, key: jax.Array, num_contexts: int, num_actions: int) -> Params:
        """Draw the first parameters, any pytree of arrays."""
        ...

    def logits(self, params: Params, contexts: jax.Array) -> jax.Array:
        """The logits `[k, n]` in contexts int32 `[k]`."""
        ...


@register_dataclass
@dataclasses.dataclass(frozen=True)
class TabularPolicy:
    """A logit for every action in every context, from 0 on: it starts as the reference."""

    def init(self, key: jax.Array, num_contexts: int, num_actions: int) -> Params:
        """Zeros, `[num_contexts, num_actions]`."""
        del key
        return jnp.zeros((num_contexts, num_actions))

    def logits(self, params: Params, contexts: jax.Array) -> jax.Array:
        """Rows of the table, `[k, n]`."""
        return params[contexts]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class FlaxPolicy:
    """A flax module that maps features to logits.

    Attributes:
      features: of each context, float `[num_contexts, ...]`. For other contexts of the same kind, replace them:
        `dataclasses.replace(policy, features=others)`.
      module: a `flax.linen.Module`, or a function from `nnx.Rngs` to a `flax.nnx.Module`; called with features
        `[k, ...]`, it returns logits `[k, n]`. It may hold parameters only: no batch statistics, no dropout.
    """

    features: jax.Array
    module: Any = dataclasses.field(metadata={"static": True})

    def __post_init__(self):
        if isinstance(self.features, (list, tuple, np.ndarray)):
            features = as_floating(as_real_array("features", self.features))
            object.__setattr__(self, "features", jnp.asarray(explicit(owned(features))))
        if isinstance(self.features, jax.Array) and is_concrete(self.features):
            values = np.asarray(self.features)
            check_all("features", values, np.isfinite(values), "a finite number")
        if not callable(self.module) or _is_nnx(self.module):
            requirement = "a flax.linen module or a function from nnx.Rngs to an nnx module, such as its class"
            raise wrong_type("module", requirement, self.module)

    def init(self, key: jax.Array, num_contexts: int, num_actions: int) -> Params:
        """The module's own initialisation.

        Raises:
          ValueError: there are not as many features as contexts, the module holds more than parameters, or
            its logits have the wrong shape.
        """
        if self.features.ndim < 2 or self.features.shape[0] != num_contexts:
            required, found = f"an array [{num_contexts}, ...]", f"shape {list(self.features.shape)}"
            raise invalid("features", required, found)
        if _is_linen(self.module):
            with default_promotion():
                variables = self.module.init(key, self.features[:1])
            if set(variables) - {"params"}:
                raise invalid("module", "a module of parameters only", f"the collections {sorted(variables)}")
            params = variables["params"]
        else:
            params = self._split(key)[1]
        logits = jax.eval_shape(self.logits, params, jnp.zeros(1, jnp.int32))
        try:
            chex.assert_shape(logits, (1, num_actions))
        except AssertionError:
            required = f"a module whose logits of one context have shape [1, {num_actions}], one for each action"
            raise invalid("module", required, f"shape {list(logits.shape)}") from None
        return params

    def logits(self, params: Params, contexts: jax.Array) -> jax.Array:
        """The module's answer, `[k, n]`."""
        features = self.features[contexts]
        if _is_linen(self.module):
            with default_promotion():
                return self.module.apply({"params": params}, features)
        from flax import nnx

        graph = nnx.eval_shape(lambda: self._split(jax.random.key(0)))[0]
        with default_promotion():
            return nnx.merge(graph, params)(features)

    def _split(self, key: jax.Array) -> tuple[Any, Any]:
        from flax import nnx

        graph, params, rest = nnx.split(self.module(nnx.Rngs(key)), nnx.Param, ...)
        if jax.tree.leaves(rest):
            raise invalid("module", "a module that holds nnx.Param only", "other variables, too")
        return graph, params


def _is_nnx(module: Any) -> bool:
    from flax import nnx

    return isinstance(module, nnx.Module)


def _is_linen(module: Any) -> bool:
    from flax import linen

    return isinstance(module, linen.Module)


def MLPPolicy(features: ArrayLike, num_actions: int, *, hidden: Sequence[int] = (64, 64)) -> FlaxPolicy:  # noqa: N802
    """A multilayer perceptron from features to logits, an example of a `FlaxPolicy`; it starts as the reference.

    Args:
      features: of each context, `[num_contexts, d]`.
      num_actions: `n`.
      hidden: widths of the layers between, with `tanh`.

    A smaller learning rate than for a table is wanted, such as 0.003.

    Raises:
      TypeError: the features are not real numbers, or a width is not an integer.
      ValueError: the features have another shape than `[num_contexts, d]`, or a width is less than 1.
    """
    from flax import linen

    array = as_floating(as_real_array("features", features))
    if array.ndim != 2:
        raise invalid("features", "an array [num_contexts, d]", f"shape {list(array.shape)}")
    layers: list[Callable[..., Any]] = []
    for width in hidden if isinstance(hidden, Sequence) else (hidden,):
        check_integer("hidden", width, 1)
        layers += [linen.Dense(width), linen.tanh]
    layers.append(linen.Dense(num_actions, kernel_init=linen.initializers.zeros))
    return FlaxPolicy(jnp.asarray(explicit(owned(array))), linen.Sequential(layers))
