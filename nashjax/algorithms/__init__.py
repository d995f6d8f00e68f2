"""The methods, one file each; `base.py` is the interface they share."""

from nashjax.algorithms.adaptive_nash_mp import AdaptiveNashMP
from nashjax.algorithms.base import Algorithm, State
from nashjax.algorithms.nash_mp import NashMP
from nashjax.algorithms.newton import Newton

__all__ = ["AdaptiveNashMP", "Algorithm", "NashMP", "Newton", "State"]
