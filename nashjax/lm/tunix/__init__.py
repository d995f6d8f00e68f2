"""Models of Tunix (Llama, Qwen, Gemma) as policies, adapters by Qwix, and weights from folders of Hugging Face's kind.

Needs the extra `tunix`; neither package is imported before a function here wants it.

Tried on tiny random models of google-tunix 0.1.7, on processors: Llama and Llama3, Qwen2, Qwen3, Gemma, Gemma2 and
Gemma3, with prompts of several lengths padded on the left and answers that a stop token ends. Log-probabilities of
whole answers agree to 4e-6 between drawing and scoring, and with 37 tokens more of padding; to 3e-5 with 1000 more.
Those of weights that `load_tunix` reads agree to 4e-6 with the models as their papers write them down.

What does not work, or is worked around:

- Llama3 and Qwen3 rotate by a base of 1000000 whatever their configuration says. `load_tunix` reads Llama weights into
  Tunix's Qwen2, whose biases are zero then, and refuses Qwen3 weights of another base.
- Tunix's Gemma compares slots of the cache with positions in its local layers. Positions are slots here, padding
  included: rotary positions only know differences, so that the window is right and nothing else changes.
- Tunix's Gemma3 takes the first of several new tokens for the first of the text in its local layers. Where a text is
  longer than the window, `score` reads it as a whole and not through the cache, which costs more.
- Flash attention is refused, for it leaves out the mask of the padding. Gemma4, mixtures of experts and images were
  not tried. Logits are computed of all the tokens that a call reads, those of the prompt too.
"""

from nashjax.lm.tunix.decoder import LORA_PATTERN, TunixCache, TunixDecoder, tunix_policy
from nashjax.lm.tunix.folder import load_tunix

__all__ = ["LORA_PATTERN", "TunixCache", "TunixDecoder", "load_tunix", "tunix_policy"]
