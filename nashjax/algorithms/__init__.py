"""The methods, one file each; `base.py` is the interface they share."""

from nashjax.algorithms._loop import Goal
from nashjax.algorithms.adaptive_nash_mp import AdaptiveNashMP
from nashjax.algorithms.auto import Auto
from nashjax.algorithms.base import Algorithm, BasicState, Betas, State
from nashjax.algorithms.egpo import EGPO
from nashjax.algorithms.extragradient_rm import ExtragradientRM
from nashjax.algorithms.interior_point import InteriorPoint
from nashjax.algorithms.magnetic_mirror_descent import MagneticMirrorDescent
from nashjax.algorithms.memory_nash_mp import MemoryNashMP
from nashjax.algorithms.nash_md import NashMD
from nashjax.algorithms.nash_mp import NashMP
from nashjax.algorithms.nash_prox import NashProx
from nashjax.algorithms.newton import Newton
from nashjax.algorithms.online_mirror_descent import OnlineMirrorDescent
from nashjax.algorithms.optimistic_mwu import OptimisticMWU
from nashjax.algorithms.predictive_rm import PredictiveRM
from nashjax.algorithms.self_play_mwu import SelfPlayMWU
from nashjax.algorithms.stage import Context, Stage, Start, When

__all__ = [
    "EGPO",
    "AdaptiveNashMP",
    "Algorithm",
    "Auto",
    "BasicState",
    "Betas",
    "Context",
    "ExtragradientRM",
    "Goal",
    "InteriorPoint",
    "MagneticMirrorDescent",
    "MemoryNashMP",
    "NashMD",
    "NashMP",
    "NashProx",
    "Newton",
    "OnlineMirrorDescent",
    "OptimisticMWU",
    "PredictiveRM",
    "SelfPlayMWU",
    "Stage",
    "Start",
    "State",
    "When",
]
