"""Games: preference games, zero-sum games of several players, and generators of random games."""

from nashjax.games.base import Game
from nashjax.games.embedding import EmbeddingGame
from nashjax.games.low_rank import LowRankGame
from nashjax.games.matrix import MatrixGame
from nashjax.games.random import random_game
from nashjax.games.zero_sum import PolymatrixGame, ZeroSumGame

__all__ = ["EmbeddingGame", "Game", "LowRankGame", "MatrixGame", "PolymatrixGame", "ZeroSumGame", "random_game"]
