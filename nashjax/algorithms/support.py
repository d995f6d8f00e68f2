"""Validation of the algorithm of a solve."""

from __future__ import annotations

from typing import Any

import jax
from jax.typing import ArrayLike

from nashjax.algorithms.base import Algorithm, Betas
from nashjax.arguments import check_all, invalid, message, wrong_type
from nashjax.games import Game
from nashjax.transfers import is_concrete, to_host


def check_algorithm(algorithm: object, *, allow_none: bool = True) -> None:
    """Raise TypeError unless this is an instance of an algorithm, or None where that stands for the default."""
    if algorithm is None and allow_none:
        return
    if isinstance(algorithm, type) or not (hasattr(algorithm, "init") and hasattr(algorithm, "step")):
        raise wrong_type("algorithm", "an instance of an algorithm, such as nashjax.NashMP()", algorithm)
    name = type(algorithm).__name__
    if not hasattr(algorithm, "queries_per_step"):
        requirement = "an algorithm that declares queries_per_step, the most queries of one step"
        raise TypeError(message("algorithm", requirement, f"an instance of {name}"))
    if any(leaf is algorithm for leaf in jax.tree.leaves(algorithm)):
        advice = "Register the class with jax.tree_util.register_dataclass."
        raise TypeError(message("algorithm", "a pytree", f"an instance of {name}", advice))


def check_supported(algorithm: Algorithm[Any] | None, game: Game, beta: ArrayLike, beta_name: str = "beta") -> None:
    """Raise ValueError unless an algorithm supports the game and all betas; traced betas cannot be checked."""
    if algorithm is None:
        return
    name = type(algorithm).__name__
    if getattr(algorithm, "needs_matrix", False) and not hasattr(game, "dense"):
        advice = "Use nashjax.AdaptiveNashMP(), or leave algorithm out."
        raise invalid(
            "game", f"a game with a matrix, dense(), for {name}", f"an instance of {type(game).__name__}", advice
        )
    betas = supported_betas(algorithm)
    if betas is Betas.ANY or not is_concrete(beta):
        return
    values = to_host(beta)
    other = "Newton" if betas is Betas.ZERO else "InteriorPoint" if hasattr(game, "dense") else "AdaptiveNashMP"
    requirement = f"{betas.value.removeprefix('beta ').removeprefix('= ')} for {name}"
    check_all(beta_name, values, betas.include(values), requirement, f"Use nashjax.{other}(), or leave algorithm out.")


def supported_betas(algorithm: Algorithm[Any]) -> Betas:
    """Return what an algorithm declares; a user's own need not inherit the declaration from `Algorithm`."""
    return getattr(algorithm, "betas", Betas.ANY)
