"""Judges: who says which of two texts is preferred.

`ask` is how training asks one. `HttpJudge` needs httpx and tenacity, of the extra `lm`; the others do not.
"""

from typing import TYPE_CHECKING, Any

from nashjax.lm.judges.base import Judge, JudgeError, ask
from nashjax.lm.judges.local import CallableJudge, DemoJudge, MatrixJudge, RewardJudge

if TYPE_CHECKING:
    from nashjax.lm.judges.http import HttpJudge

__all__ = ["CallableJudge", "DemoJudge", "HttpJudge", "Judge", "JudgeError", "MatrixJudge", "RewardJudge", "ask"]


def __getattr__(name: str) -> Any:
    """Import `HttpJudge` when it is first asked for: the other judges do without its libraries."""
    if name == "HttpJudge":
        from nashjax.lm.judges.http import HttpJudge

        return HttpJudge
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
