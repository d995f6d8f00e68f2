"""Certified Nash equilibria of preference games, thousands at a time, on CPU, GPU and TPU.

`solve` is the front door, `sweep` that for streams of games; `games` makes games, `metrics` judges policies,
`distributed` spreads games over devices. With extras: `stochastic` learns from sampled comparisons, `lm` fine-tunes
language models, `ranking` ranks items from their battles, `plotting` draws.
"""

from typing import TYPE_CHECKING, Any

from nashjax import algorithms, distributed, games, metrics, sweeps
from nashjax._solve import solve, solve_many, solve_path, trajectory
from nashjax.algorithms import (
    EGPO,
    AdaptiveNashMP,
    Algorithm,
    Auto,
    Betas,
    ExtragradientRM,
    InteriorPoint,
    MagneticMirrorDescent,
    MemoryNashMP,
    NashMD,
    NashMP,
    NashProx,
    Newton,
    OnlineMirrorDescent,
    OptimisticMWU,
    PredictiveRM,
    SelfPlayMWU,
    Stage,
    When,
)
from nashjax.files.errors import BadInput
from nashjax.games import Game, MatrixGame, PolymatrixGame, ZeroSumGame
from nashjax.games.regularized import RegularizedGame
from nashjax.solution import Distances, NotConverged, Solution, Status, Trajectory
from nashjax.sweeps import sweep
from nashjax.version import __version__ as __version__

if TYPE_CHECKING:
    from nashjax import lm as lm
    from nashjax import plotting as plotting
    from nashjax import ranking as ranking
    from nashjax import stochastic as stochastic

__all__ = [
    "EGPO",
    "AdaptiveNashMP",
    "Algorithm",
    "Auto",
    "BadInput",
    "Betas",
    "Distances",
    "ExtragradientRM",
    "Game",
    "InteriorPoint",
    "MagneticMirrorDescent",
    "MatrixGame",
    "MemoryNashMP",
    "NashMD",
    "NashMP",
    "NashProx",
    "Newton",
    "NotConverged",
    "OnlineMirrorDescent",
    "OptimisticMWU",
    "PolymatrixGame",
    "PredictiveRM",
    "RegularizedGame",
    "SelfPlayMWU",
    "Solution",
    "Stage",
    "Status",
    "Trajectory",
    "When",
    "ZeroSumGame",
    "algorithms",
    "distributed",
    "games",
    "metrics",
    "solve",
    "solve_many",
    "solve_path",
    "sweep",
    "sweeps",
    "trajectory",
]


def __getattr__(name: str) -> Any:
    """Import what needs an extra when it is first asked for."""
    if name in ("lm", "plotting", "ranking", "stochastic"):
        import importlib

        return importlib.import_module(f"nashjax.{name}")
    raise AttributeError(f"module 'nashjax' has no attribute {name!r}")
