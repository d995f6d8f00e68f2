"""Models small enough to be made on the spot: for trying things out, and for games whose answers can be listed."""

from __future__ import annotations

import itertools

import numpy as np
from flax import nnx

from nashjax import metrics
from nashjax._validation import check_integer
from nashjax.lm.decoding import Tokens
from nashjax.lm.judges import Judge, ask
from nashjax.lm.llama import Llama, LlamaConfig, LlamaDecoder
from nashjax.lm.policy import LanguagePolicy
from nashjax.lm.tokenizers import AlphabetTokenizer, ByteTokenizer
from nashjax.stochastic.policies import Params


def tiny_policy(*, seed: int = 0, context_length: int = 256, lora_rank: int = 0) -> LanguagePolicy:
    """A llama of 2 blocks on bytes, with random weights: nothing to download, and nothing it could say.

    Args:
      seed: of the weights.
      context_length: most tokens of a prompt and its answer together.
      lora_rank: of the adapters; 0 trains all weights.
    """
    tokenizer = ByteTokenizer()
    config = LlamaConfig(tokenizer.vocabulary_size, context_length=context_length, lora_rank=lora_rank)
    decoder, params = LlamaDecoder.split(Llama(config, nnx.Rngs(seed)))
    return LanguagePolicy(decoder, params, tokenizer, context_length, stop=("<end>",))


class ListedGame:
    """A tiny llama whose answers, all texts of some letters, can be listed: everything about it is known exactly.

    Args:
      letters: of answers.
      length: of every answer; there is no stop token.
      num_prompts: how many prompts, at most ten, "0", "1" and so on.
      seed: of the first weights.
      lora_rank: of the adapters; 0 trains all weights.

    Attributes:
      policy: the model.
      prompts: all prompts.
      answers: all answers.

    Raises:
      ValueError: an argument is not valid.
    """

    def __init__(self, letters: str = "rps.", length: int = 3, num_prompts: int = 4, seed: int = 0, lora_rank: int = 0):
        check_integer("length", length, 1)
        check_integer("num_prompts", num_prompts, 1, 10)
        self.prompts = [str(c) for c in range(num_prompts)]
        self.answers = ["".join(answer) for answer in itertools.product(letters, repeat=length)]
        self._length = length
        digits = "".join(self.prompts)
        tokenizer = AlphabetTokenizer(letters + digits)
        config = LlamaConfig(
            tokenizer.vocabulary_size,
            width=32,
            num_layers=2,
            num_heads=4,
            num_kv_heads=4,
            mlp_width=128,
            tied_head=False,
            context_length=1 + length,
            lora_rank=lora_rank,
        )
        decoder, params = LlamaDecoder.split(Llama(config, nnx.Rngs(seed)))
        self.policy = LanguagePolicy(decoder, params, tokenizer, 1 + length, forbidden=("<end>", *digits))

    def log_policy(self, params: Params) -> np.ndarray:
        """Log-probabilities of all answers, float32 `[prompts, answers]`."""
        prompts = self.policy.encode(self.prompts, self._length)
        found = []
        for start in range(0, len(self.answers), 4096):
            part = [self.answers[start : start + 4096]] * len(self.prompts)
            answers: Tokens = self.policy.encode_answers(part, self._length)
            found.append(np.asarray(self.policy.log_probs(params, prompts, answers)))
        return np.concatenate(found, axis=1)

    def preferences(self, judge: Judge) -> np.ndarray:
        """What a judge says of all pairs of answers, `[prompts, answers, answers]`; a game for `nashjax.solve`."""
        n = len(self.answers)
        left, right = (np.repeat(self.answers, n), np.tile(self.answers, n))
        rows = [ask(judge, [prompt] * n**2, list(map(str, left)), list(map(str, right))) for prompt in self.prompts]
        return np.stack(rows).reshape(len(self.prompts), n, n)

    def exploitability(self, preferences: np.ndarray, params: Params, beta: float) -> np.ndarray:
        """Of a policy, with the first weights as the reference, `[prompts]`."""
        policy, reference = (np.exp(self.log_policy(x)) for x in (params, self.policy.params))
        return np.asarray(metrics.exploitability(preferences.astype(np.float32), policy, beta, reference))
