"""Fine-tuning language models so that no other policy's answers are preferred over theirs (spec 5).

`train` is the front door: a `LanguagePolicy`, prompts and a judge. Needs the extra `train`; `HttpJudge`,
`load_gguf` and the tokenizers of files need `lm`, and the models of `nashjax.lm.tunix` need `tunix`.
"""

from typing import TYPE_CHECKING, Any

try:
    import flax as _flax  # noqa: F401
    import optax as _optax  # noqa: F401
except ImportError as error:
    raise ImportError(f'nashjax.lm needs {error.name}: python -m pip install "nashjax[lm]"') from error

from nashjax.lm.chat import ChatTemplate
from nashjax.lm.decoding import Decoder, Tokens
from nashjax.lm.evaluate import Tournament, evaluate
from nashjax.lm.gguf import load_gguf
from nashjax.lm.judges import CallableJudge, DemoJudge, Judge, JudgeError, MatrixJudge, RewardJudge
from nashjax.lm.llama import Llama, LlamaConfig, LlamaDecoder
from nashjax.lm.methods import DEFAULT as DEFAULT_METHOD
from nashjax.lm.methods import METHODS, make_method
from nashjax.lm.policy import LanguagePolicy
from nashjax.lm.records import Rate, Record
from nashjax.lm.tiny import ListedGame, tiny_policy
from nashjax.lm.tokenizers import AlphabetTokenizer, ByteTokenizer, LibraryTokenizer, Tokenizer
from nashjax.lm.train import TrainResult, train
from nashjax.lm.weights import load_weights, save_weights

if TYPE_CHECKING:
    from nashjax.lm.judges.http import HttpJudge

__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "AlphabetTokenizer",
    "ByteTokenizer",
    "CallableJudge",
    "ChatTemplate",
    "Decoder",
    "DemoJudge",
    "HttpJudge",
    "Judge",
    "JudgeError",
    "LanguagePolicy",
    "LibraryTokenizer",
    "ListedGame",
    "Llama",
    "LlamaConfig",
    "LlamaDecoder",
    "MatrixJudge",
    "Rate",
    "Record",
    "RewardJudge",
    "Tokenizer",
    "Tokens",
    "Tournament",
    "TrainResult",
    "evaluate",
    "load_gguf",
    "load_weights",
    "make_method",
    "save_weights",
    "tiny_policy",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import `HttpJudge` when it is first asked for: all else does without its libraries."""
    if name == "HttpJudge":
        from nashjax.lm.judges.http import HttpJudge

        return HttpJudge
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
