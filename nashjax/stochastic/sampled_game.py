"""One game as a method sees it that only has samples: what it may draw, compare and look up."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from nashjax._math import simplex
from nashjax._math.pytree import register_dataclass
from nashjax._validation import invalid, message
from nashjax.games import MatrixGame
from nashjax.stochastic.oracles import OracleError, PreferenceOracle
from nashjax.stochastic.policies import Params, Policy

FEW_SAMPLES = 64
"""Up to this many samples of a policy are found by comparing with every cumulative probability, more by bisection."""


class Asked(NamedTuple):
    """Questions and their answers, `[contexts, samples]` each; a pytree.

    Attributes:
      context: where it was asked, int32.
      action: which action was compared, int32.
      opponent: with which one, int32.
      outcome: the answer, in [0, 1]: 1 where the action is preferred.
    """

    context: jax.Array
    action: jax.Array
    opponent: jax.Array
    outcome: jax.Array


@register_dataclass
@dataclasses.dataclass(frozen=True)
class SampledGame:
    """An oracle, a family of policies and the regularization; one game, batches by `vmap`.

    A `PolicyMethod` uses only `beta`, `num_contexts`, `init_params`, `draw_contexts`, `sample`, `log_prob`,
    `reference_log_prob`, `compare` and `log_policy` (with `exact=True`, also `exact_value`): whatever else offers them
    can be learnt by the same methods.

    Attributes:
      oracle: who answers.
      policy: the family of policies.
      beta: regularization, `[]`.
      log_reference: `[num_contexts, n]`, `-inf` excludes an action.
    """

    oracle: PreferenceOracle
    policy: Policy
    beta: jax.Array
    log_reference: jax.Array

    @property
    def num_contexts(self) -> int:
        """How many contexts there are."""
        return self.log_reference.shape[0]

    def init_params(self, key: jax.Array) -> Params:
        """First parameters, in the float type of the reference where they are floats."""
        params = self.policy.init(key, *self.log_reference.shape)
        dtype = self.log_reference.dtype
        return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, params)

    def log_policy(self, params: Params, contexts: jax.Array | None = None) -> jax.Array:
        """Log-probabilities `[k, n]` in contexts `[k]`, by default in all of them."""
        if contexts is None:
            contexts = jnp.arange(self.num_contexts)
        logits = self.policy.logits(params, contexts)
        chex.assert_shape(logits, (contexts.shape[0], self.log_reference.shape[1]))
        log_reference = self.log_reference[contexts]
        excluded = jnp.isneginf(log_reference)
        # What is excluded has no gradient, not that of `-inf`.
        logits = jnp.where(excluded, -jnp.inf, jnp.where(excluded, 0, log_reference) + logits)
        return jax.nn.log_softmax(logits.astype(self.log_reference.dtype), axis=-1)

    def draw_contexts(self, key: jax.Array, num: int) -> jax.Array:
        """Contexts int32 `[num]`, uniformly."""
        if self.num_contexts == 1:
            return jnp.zeros(num, jnp.int32)
        return jax.random.randint(key, (num,), 0, self.num_contexts, jnp.int32)

    def sample(
        self, params: Params, key: jax.Array, contexts: jax.Array, num: int, reference_share: jax.Array | float = 0.0
    ) -> jax.Array:
        """Draw actions int32 `[k, num]`, from `p^(1 - m) r^m`, normalized, `m` the share of the reference."""
        return draw(self._mixed(params, contexts, reference_share), key, num)

    def log_prob(
        self, params: Params, contexts: jax.Array, actions: jax.Array, reference_share: jax.Array | float = 0.0
    ) -> jax.Array:
        """`log p(action)`, of the mixture where there is one, `[k, num]`."""
        return jnp.take_along_axis(self._mixed(params, contexts, reference_share), actions, axis=-1)

    def _mixed(self, params: Params, contexts: jax.Array, reference_share: jax.Array | float) -> jax.Array:
        log_policy = self.log_policy(params, contexts)
        if isinstance(reference_share, float) and reference_share == 0:
            return log_policy
        log_reference = self.log_reference[contexts]
        mixture = (1 - reference_share) * log_policy + reference_share * log_reference
        return jax.nn.log_softmax(jnp.where(jnp.isneginf(log_reference), -jnp.inf, mixture), axis=-1)

    def reference_log_prob(self, contexts: jax.Array, actions: jax.Array) -> jax.Array:
        """`log r(action)`, `[k, num]`."""
        return jnp.take_along_axis(self.log_reference[contexts], actions, axis=-1)

    def compare(self, key: jax.Array, contexts: jax.Array, actions: jax.Array, opponents: jax.Array) -> Asked:
        """Ask the oracle; contexts `[k]`, actions `[k, num]`. An action against itself counts as 1/2, whatever it says.

        Raises:
          OracleError: the answer has the wrong shape.
        """
        context = jnp.broadcast_to(contexts[:, None], actions.shape)
        flat = [x.reshape(-1) for x in (context, actions, opponents)]
        outcome = jnp.asarray(self.oracle.compare(key, *flat))
        try:
            chex.assert_shape(outcome, flat[0].shape)
        except AssertionError:
            subject = f"the oracle's answer to {flat[0].size} comparisons"
            required, found = f"an array of shape {list(flat[0].shape)}", f"shape {list(outcome.shape)}"
            raise OracleError(message(subject, required, found)) from None
        outcome = jnp.where(actions == opponents, 0.5, outcome.reshape(actions.shape))
        return Asked(context, actions, opponents, outcome.astype(self.log_reference.dtype))

    def exact_value(
        self,
        params: Params,
        opponent: Params,
        center: Params | None,
        prox_weight: jax.Array | float,
        reference_share: jax.Array | float = 0.0,
    ) -> jax.Array:
        """`J(p; q, c) = P(p > q) - beta KL(p||r) - prox_weight KL(p||c)`, the mean over contexts (spec 4).

        For studies: only where the matrix behind the answers is known. The share is that of the reference in `q`.
        """
        log_policy = self.log_policy(params)
        log_opponent = self._mixed(opponent, jnp.arange(self.num_contexts), reference_share)
        payoffs = jax.vmap(MatrixGame.payoffs)(known_game(self.oracle), jnp.exp(log_opponent))
        value = jnp.sum(jnp.exp(log_policy) * payoffs, axis=-1)
        value -= self.beta * simplex.kl_divergence(log_policy.T, self.log_reference.T)
        if center is not None:
            value -= prox_weight * simplex.kl_divergence(log_policy.T, self.log_policy(center).T)
        return jnp.mean(value)


def known_game(oracle: PreferenceOracle) -> MatrixGame:
    """The games behind the answers of an oracle of one game, batch shape `[num_contexts]`.

    Raises:
      ValueError: the oracle knows no matrix.
    """
    game = getattr(oracle, "game", None)
    if not isinstance(game, MatrixGame):
        required = "an oracle that knows its matrix, such as a BernoulliOracle"
        raise invalid("oracle", required, f"a {type(oracle).__name__}")
    n = game.num_actions
    return MatrixGame(game.preferences.reshape(-1, n, n))


def draw(log_policy: jax.Array, key: jax.Array, num: int) -> jax.Array:
    """Draw `num` actions from each row: `[k, n]` to int32 `[k, num]`, one uniform number a sample."""
    probability = jnp.exp(log_policy)
    # The sums are rounded block by block, so that they can differ, and even fall, where nothing is added: an action
    # without probability takes over the sum of the last one that has some, exactly.
    cumulative = jnp.where(probability > 0, jnp.cumsum(probability, axis=-1), 0)
    cumulative = jax.lax.cummax(cumulative, axis=1)
    # Drawn in float32, so that a key gives the same samples with and without `jax_enable_x64`.
    uniform = jax.random.uniform(key, (log_policy.shape[0], num), jnp.float32).astype(log_policy.dtype)
    uniform = uniform * cumulative[:, -1:]
    method = "compare_all" if num <= FEW_SAMPLES else "scan"

    def find(cumulative: jax.Array, uniform: jax.Array) -> jax.Array:
        return jnp.searchsorted(cumulative, uniform, side="right", method=method)

    # Rounding can take a uniform number up to the last cumulative probability, past the last action that is played.
    last = log_policy.shape[-1] - 1 - jnp.argmax(probability[:, ::-1] > 0, axis=-1)
    return jnp.minimum(jax.vmap(find)(cumulative, uniform).astype(jnp.int32), last[:, None].astype(jnp.int32))
