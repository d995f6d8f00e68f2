"""Preference games: what can be queried, and generators of random ones."""

from nashjax.games.base import Game
from nashjax.games.embedding import EmbeddingGame
from nashjax.games.low_rank import LowRankGame
from nashjax.games.matrix import MatrixGame
from nashjax.games.random import random_game

__all__ = ["EmbeddingGame", "Game", "LowRankGame", "MatrixGame", "random_game"]
