"""Judges: who says which of two texts is preferred.

`ask` is how training asks one. That behind an endpoint, `http.HttpJudge`, needs httpx and tenacity, of the extra `lm`.
"""

from nashjax.lm.judges.base import Judge, JudgeError, ask
from nashjax.lm.judges.local import CallableJudge, DemoJudge, MatrixJudge, RewardJudge

__all__ = ["CallableJudge", "DemoJudge", "Judge", "JudgeError", "MatrixJudge", "RewardJudge", "ask"]
