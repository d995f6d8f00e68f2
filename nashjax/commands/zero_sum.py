"""`nashjax solve --zero-sum`: the payoffs of a row player in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

import nashjax as nj
from nashjax.commands import report
from nashjax.commands.terminal import NOT_CONVERGED, interruptible, library_errors, put
from nashjax.files import PayoffFile, read_payoffs
from nashjax.files.errors import bad_input, visible
from nashjax.files.payoffs import check_range
from nashjax.files.source import Source
from nashjax.files.write_zero_sum import PLAYERS, ZeroSumAnswer, write_zero_sum_answer


def refuse_options(options: Mapping[str, Any]) -> None:
    """Raise BadInput if an option for files of comparisons was given; `options` maps names to values."""
    for name, value in options.items():
        if value:
            raise bad_input(name, "", "left out with --zero-sum", str(value))


def solve_zero_sum(
    source: Source,
    betas: np.ndarray,
    *,
    form: str | None,
    tol: float,
    max_queries: int,
    x64: bool,
    top: int,
    output: Path | None,
) -> int:
    """Solve the zero-sum games of a file, print and write them; return the exit code."""
    games = read_payoffs(source, format=form)
    dtype = np.dtype(np.float64 if x64 else np.float32)
    check_range(games, source, dtype)
    jax.config.update("jax_enable_x64", x64)
    batch = games.payoffs.shape[:-2]
    beta = betas.reshape(-1, *(1,) * len(batch)) if betas.size > 1 else betas[0]
    game = nj.ZeroSumGame(games.payoffs.astype(dtype))  # pyright: ignore[reportArgumentType]
    with library_errors(beta="--beta", tol="--tol"):
        solution = interruptible(
            lambda: jax.block_until_ready(nj.solve(game, beta, tol=tol, max_queries=max_queries)).to_numpy()
        )
    answer = _gather(games, betas, solution)
    if output is not None:
        write_zero_sum_answer(output, answer)
    _print_answer(source, answer, top, output)
    return 0 if (answer.status == nj.Status.CONVERGED.name).all() else NOT_CONVERGED


def _gather(games: PayoffFile, betas: np.ndarray, solution: nj.Solution) -> ZeroSumAnswer:
    """Return what is shown and written, in double precision."""
    row, column = (np.asarray(policy, np.float64) for policy in solution.policies)
    axes = row.shape[:-1]
    beta = betas.reshape(-1, *(1,) * (len(axes) - 1)) if betas.size > 1 else betas[0]
    return ZeroSumAnswer(
        actions=(games.rows, games.columns),
        several_betas=betas.size > 1,
        beta=np.broadcast_to(beta, axes),
        policies=(row, column),
        payoffs=(
            (games.payoffs @ column[..., None])[..., 0],
            -(games.payoffs.swapaxes(-1, -2) @ row[..., None])[..., 0],
        ),
        value=np.asarray(solution.value, np.float64),
        exploitability=np.asarray(solution.exploitability, np.float64),
        kl_bound=np.asarray(solution.kl_bound, np.float64),
        queries=np.asarray(solution.queries),
        status=np.vectorize(lambda code: nj.Status(code).name, otypes=[str])(np.asarray(solution.status)),
    )


def _print_answer(source: Source, answer: ZeroSumAnswer, top: int, output: Path | None) -> None:
    console = report.make_console()
    sizes = " x ".join(str(len(names)) for names in answer.actions)
    with console.capture() as shown:
        console.print(f"{visible(str(source))}: zero-sum, {sizes} actions\n")
        if answer.is_batch:
            _show_games(console, answer, top)
        else:
            for index in np.ndindex(answer.beta.shape):
                _show_game(console, answer, index, top)
                console.print()
        if output is not None:
            console.print(f"Written to {visible(str(output))}.")
    put(shown.get())


def _show_game(console: Console, answer: ZeroSumAnswer, index: tuple[int, ...], top: int) -> None:
    console.print(f"beta = {float(answer.beta[index]):g}, value for the row player {answer.value[index]:.6g}\n")
    for g, player in enumerate(PLAYERS):
        policy, payoffs = answer.policies[g][index], answer.payoffs[g][index]
        order = np.argsort(-policy, kind="stable")
        shown = order[: top or None]
        rows = [[answer.actions[g][i], report.probability(policy[i]), f"{payoffs[i]:.6g}"] for i in shown]
        report.print_table(console, [f"{player} player", "probability", "payoff"], rows, name_column=0)
        if len(shown) < len(order):
            rest = report.probability(policy[order[len(shown) :]].sum())
            more = report.counted(len(order) - len(shown), "more action")
            console.print(f"{more} with {rest} together (--top 0 shows all).\n")
    report.print_sentences(console, _certificate(answer, index))


def _certificate(answer: ZeroSumAnswer, index: tuple[int, ...]) -> list[str]:
    """Say what is certain about one game, and how its solve ended, in sentences."""
    status = nj.Status[str(answer.status[index])]
    if status is nj.Status.CONVERGED:
        sentences = [f"Solved; queries used: {int(answer.queries[index])}."]
    else:
        sentences = [f"NOT solved to the tolerance. {status.describe()}"]
    gap, kl_bound = float(answer.exploitability[index]), float(answer.kl_bound[index])
    if math.isfinite(gap):
        less = "" if answer.beta[index] == 0 else ", less what beta charges for leaving the uniform policy"
        sentences.append(
            f"Duality gap {report.bound(gap)}: the most that both players together can gain by changing their "
            f"policies, in payoffs{less}."
        )
    if math.isfinite(kl_bound):
        sentences.append(f"Certified: KL(policies || exact equilibrium) <= {report.bound(kl_bound)}.")
    return sentences


def _show_games(console: Console, answer: ZeroSumAnswer, top: int) -> None:
    indices = list(np.ndindex(answer.beta.shape))
    rows = [
        [
            answer.game_name(index),
            f"{answer.beta[index]:g}",
            f"{answer.value[index]:.6g}",
            *(answer.actions[g][int(answer.policies[g][index].argmax())] for g in range(2)),
            report.bound(float(answer.exploitability[index])),
            str(answer.queries[index]),
            report.STATUS_WORDS[str(answer.status[index])],
        ]
        for index in indices[: top or None]
    ]
    headers = ["game", "beta", "value", "leading\nrow", "leading\ncolumn", "duality\ngap", "queries", "status"]
    report.print_table(console, headers, rows, name_column=3)
    if len(rows) < len(indices):
        console.print(f"{report.counted(len(indices) - len(rows), 'more row')} (--top 0 shows all).\n")
    solved = int((answer.status == nj.Status.CONVERGED.name).sum())
    console.print(f"{solved} of {len(indices)} solved.")
    worst = indices[int(np.argmax(np.where(np.isnan(answer.exploitability), np.inf, answer.exploitability)))]
    console.print(f"The worst certificate is that of game {answer.game_name(worst)}:")
    report.print_sentences(console, _certificate(answer, worst))
