"""The game of a fine-tuning as a method of `nashjax.stochastic` sees it: answers are token sequences (spec 5)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nashjax._math.pytree import register_dataclass
from nashjax.lm.decoding import Decoder, Tokens, generate, log_probs
from nashjax.lm.policy import LanguagePolicy, mixture
from nashjax.lm.sharding import place_weights, split_rows, to_mesh
from nashjax.stochastic.policies import Params


@register_dataclass
@dataclasses.dataclass(frozen=True)
class LanguageGame:
    """What a `PolicyMethod` may draw and look up; comparing is left to a judge, outside of compiled code.

    Contexts are prompts, actions are answers, `Tokens` of shape `[contexts, samples, length]`.

    Attributes:
      decoder: the model.
      reference: its weights at the start.
      prompts: all of them, `[prompts, width]`.
      bias: see `generate`.
      beta: strength of the regularization, `[]`.
      length: most tokens of an answer.
      stop: tokens that end one.
      mesh: devices that share the work; None for one.
    """

    decoder: Decoder
    reference: Params
    prompts: Tokens
    bias: jax.Array | None
    beta: jax.Array
    length: int = dataclasses.field(metadata={"static": True})
    stop: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    mesh: Mesh | None = dataclasses.field(default=None, metadata={"static": True})

    @classmethod
    def of(
        cls, policy: LanguagePolicy, prompts: Tokens, beta: float, length: int, mesh: Mesh | None = None
    ) -> LanguageGame:
        """The game of a policy and prompts, its weights on the devices of a mesh."""
        decoder, reference = place_weights((policy.decoder, policy.params), mesh)
        prompts, bias, weight = jax.tree.map(lambda x: to_mesh(x, mesh), (prompts, policy.bias, np.float32(beta)))
        return cls(decoder, reference, prompts, bias, weight, length, policy.stop_ids, mesh)

    @property
    def num_contexts(self) -> int:
        """The number of prompts."""
        return self.prompts.tokens.shape[0]

    def init_params(self, key: jax.Array) -> Params:
        """The reference."""
        del key
        return self.reference

    def draw_contexts(self, key: jax.Array, num: int) -> jax.Array:
        """Prompts int32 `[num]`, each as often as any other, and those of the rest without repetition."""
        times, rest = divmod(num, self.num_contexts)
        whole = jnp.tile(jnp.arange(self.num_contexts, dtype=jnp.int32), times)
        drawn = jax.random.permutation(key, self.num_contexts)[:rest].astype(jnp.int32)
        return jnp.concatenate([whole, drawn])

    def sample(
        self, params: Params, key: jax.Array, contexts: jax.Array, num: int, reference_share: jax.Array | float = 0.0
    ) -> Tokens:
        """Draw `num` answers to each prompt."""
        members = mixture(params, self.reference, reference_share)
        prompts = self._prompts(contexts)
        return generate(self.decoder, members, key, prompts, num, self.length, stop=self.stop, bias=self.bias)[0]

    def log_prob(
        self, params: Params, contexts: jax.Array, actions: Tokens, reference_share: jax.Array | float = 0.0
    ) -> jax.Array:
        """Log-probabilities of answers, `[contexts, samples]`."""
        members = mixture(params, self.reference, reference_share)
        by_token = log_probs(self.decoder, members, self._prompts(contexts), actions, bias=self.bias)
        return jnp.sum(by_token, axis=-1)

    def reference_log_prob(self, contexts: jax.Array, actions: Tokens) -> jax.Array:
        """Log-probabilities under the reference."""
        return self.log_prob(self.reference, contexts, actions)

    def _prompts(self, contexts: jax.Array) -> Tokens:
        return split_rows(jax.tree.map(lambda x: x[contexts], self.prompts), self.mesh)
