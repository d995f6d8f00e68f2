"""The methods, one file each; `base.py` is the interface they share."""

from nashjax.algorithms.adaptive_nash_mp import AdaptiveNashMP
from nashjax.algorithms.base import Algorithm, State
from nashjax.algorithms.interior_point import InteriorPoint
from nashjax.algorithms.nash_mp import NashMP
from nashjax.algorithms.newton import Newton

__all__ = ["AdaptiveNashMP", "Algorithm", "InteriorPoint", "NashMP", "Newton", "State"]
