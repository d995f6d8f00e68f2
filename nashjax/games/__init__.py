"""Preference games: what can be queried, and generators of random ones."""

from nashjax.games.base import Game
from nashjax.games.matrix import MatrixGame
from nashjax.games.random import random_game

__all__ = ["Game", "MatrixGame", "random_game"]
