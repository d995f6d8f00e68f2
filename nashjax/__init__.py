"""Certified Nash equilibria of preference games, thousands at a time, on CPU, GPU and TPU.

`solve` is the front door; `games` makes games, `metrics` judges policies.
"""

from nashjax import games, metrics
from nashjax.algorithms import AdaptiveNashMP, InteriorPoint, NashMP, Newton
from nashjax.games import Game, MatrixGame
from nashjax.problem import RegularizedGame
from nashjax.solution import Solution, Status
from nashjax.solve import Trajectory, solve, solve_path, trajectory

__version__ = "0.1.0"

__all__ = [
    "AdaptiveNashMP",
    "Game",
    "InteriorPoint",
    "MatrixGame",
    "NashMP",
    "Newton",
    "RegularizedGame",
    "Solution",
    "Status",
    "Trajectory",
    "games",
    "metrics",
    "solve",
    "solve_path",
    "trajectory",
]
