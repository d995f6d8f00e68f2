"""`nashjax solve`, games in a file, and `nashjax demo`, random ones."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer

import nashjax as nj
from nashjax._validation import LARGEST_INT, LARGEST_SEED
from nashjax.commands import report
from nashjax.commands.options import (
    Debug,
    Double,
    ItemA,
    ItemB,
    MaxFileSize,
    OneBeta,
    Prior,
    TieWords,
    Tolerance,
    Top,
    Winner,
    check_kind,
)
from nashjax.commands.terminal import (
    NOT_CONVERGED,
    errors_in_one_line,
    interruptible,
    library_errors,
    number_option,
    put,
    warn,
)
from nashjax.commands.zero_sum import refuse_options, solve_zero_sum
from nashjax.files import (
    FORMATS,
    Answer,
    Columns,
    GameFile,
    check_output,
    read_games,
    write_answer,
)
from nashjax.files.errors import bad_input, number, quoted, visible
from nashjax.files.memory import check_game_memory
from nashjax.files.source import DEFAULT_LIMIT, Source
from nashjax.games.random import KINDS

Beta = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NUMBERS", help="Regularization, >= 0, default 0.01; several with commas between or by repeating."
    ),
]


def solve(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The games: see above.", show_default=False)],
    beta: Beta = None,
    tol: Tolerance = 1e-6,
    max_queries: Annotated[
        int,
        typer.Option(
            parser=number_option(1, whole=True, high=LARGEST_INT),
            metavar="INTEGER",
            help="Most preference queries for each game.",
        ),
    ] = 100_000,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Policy that beta pulls towards, default uniform: a .csv (item,probability), .json or .npy file, or "
            "the numbers with commas between; - is standard input. 0 excludes an item."
        ),
    ] = None,
    prior: Prior = 0.0,
    top: Top = 10,
    output: Annotated[
        Path | None, typer.Option(help="Also write the answer to this .json, .csv or .npz file.", show_default=False)
    ] = None,
    x64: Double = False,
    zero_sum: Annotated[
        bool, typer.Option("--zero-sum", help="FILE holds what the row player gets from the column player.")
    ] = False,
    form: Annotated[
        str | None, typer.Option("--format", metavar="|".join(FORMATS), help="Form of FILE; default: recognized.")
    ] = None,
    item_a: ItemA = None,
    item_b: ItemB = None,
    winner: Winner = None,
    tie_word: TieWords = None,
    max_file_size: MaxFileSize = DEFAULT_LIMIT,
    debug: Debug = False,
) -> None:
    """Find the equilibrium of the game in FILE, with a certificate.

    \b
    FILE is one of
      array    .npy or .npz of shape [..., n, n], entry [i, j] the probability
               that i is preferred over j; in a .npz file the array
               preferences, or the only one, and if wanted the names, items
      matrix   .csv with the item names in the header and in the first column
      pairs    .csv with rows item_a,item_b,wins_a,wins_b,ties
      battles  .csv with rows model_a,model_b,winner
               (winner: model_a, model_b or a tie word)
    or a pipe, or - for standard input, with one of these; each may be
    packed by gzip.

    \b
    With --zero-sum, FILE holds the payoffs of a row player, and is one of
      array    .npy of shape [..., n1, n2]
      matrix   .csv with the names of the columns in the header and those of
               the rows in the first column

    The answer goes to standard output, warnings go to standard error. Exit code 0: solved; 1: not solved to the
    tolerance, or standard output cannot be written; 2: an input cannot be used.
    """
    with errors_in_one_line(debug):
        betas = _parse_betas(beta, default=0.01)
        if form not in (None, *FORMATS):
            raise bad_input("--format", "", f"one of {', '.join(FORMATS)}", quoted(form))
        if output is not None:
            check_output(output, file, *([] if reference is None else [Path(reference)]))
        source = Source(file, max_file_size)
        if zero_sum:
            comparisons = {"--item-a": item_a, "--item-b": item_b, "--winner": winner, "--tie-word": tie_word}
            refuse_options({"--reference": reference, "--prior": prior, **comparisons})
            settings = {"form": form, "tol": tol, "max_queries": max_queries, "x64": x64, "top": top}
            raise typer.Exit(solve_zero_sum(source, betas, output=output, **settings))
        columns = Columns(item_a, item_b, winner)
        pulled = None if reference is None else Source(reference, max_file_size)
        if pulled is not None and source.is_standard_input and pulled.is_standard_input:
            raise bad_input("--reference", "", "another source than FILE", "standard input for both")
        words = tie_word or ()
        game = read_games(source, format=form, columns=columns, tie_words=words, prior=prior, reference=pulled)
        solution = _solve(game, betas, tol=tol, max_queries=max_queries, x64=x64)
        answer = _gather(game, betas, solution)
        if output is not None:
            write_answer(output, answer)
        _print_answer(source, game, answer, top, output)
        raise typer.Exit(_exit_code(answer))


def demo(
    num_games: Annotated[
        int, typer.Option(parser=number_option(1, whole=True), metavar="INTEGER", help="How many games.")
    ] = 1024,
    num_actions: Annotated[
        int,
        typer.Option(parser=number_option(2, whole=True), metavar="INTEGER", help="How many actions each game has."),
    ] = 20,
    beta: OneBeta = 0.05,
    kind: Annotated[str, typer.Option(metavar="KIND", help=f"How games are drawn: {', '.join(KINDS)}.")] = "gaussian",
    seed: Annotated[
        int,
        typer.Option(
            parser=number_option(0, whole=True, high=LARGEST_SEED),
            metavar="INTEGER",
            help="The same seed draws the same games, also with --x64.",
        ),
    ] = 0,
    tol: Tolerance = 1e-6,
    x64: Double = False,
    top: Top = 8,
    debug: Debug = False,
) -> None:
    """Make random games, solve them all in one call, and show the certificates."""
    with errors_in_one_line(debug):
        betas = np.array([beta])
        check_kind(kind)
        check_game_memory("demo", num_actions, num_games)
        jax.config.update("jax_enable_x64", x64)
        drawn = nj.games.random_game(jax.random.key(seed), num_actions, (num_games,), kind=kind)
        game = GameFile(tuple(map(str, range(num_actions))), np.asarray(drawn.preferences, np.float64))
        start = time.perf_counter()
        _solve(game, betas, tol=tol, x64=x64)
        compiled = time.perf_counter()
        solution = _solve(game, betas, tol=tol, x64=x64)
        end = time.perf_counter()
        answer = _gather(game, betas, solution)
        console = report.make_console()
        with console.capture() as shown:
            console.print(f"{num_games} random games of {num_actions} actions ({kind}), beta = {betas[0]:g}\n")
            report.show_games(console, answer, top)
            console.print(f"Took {compiled - start:.2f} s with compilation, {end - compiled:.3f} s once compiled.")
        put(shown.get())
        raise typer.Exit(_exit_code(answer))


def _solve(
    game: GameFile,
    betas: np.ndarray,
    *,
    tol: float,
    x64: bool,
    max_queries: int = 100_000,
) -> nj.Solution:
    """Solve every game at every beta in one call; the axis of several betas comes first."""
    jax.config.update("jax_enable_x64", x64)
    reference, preferences = game.reference, game.preferences.astype(np.float64 if x64 else np.float32)
    batch = np.broadcast_shapes(preferences.shape[:-2], () if reference is None else reference.shape[:-1])
    beta = betas.reshape(-1, *(1,) * len(batch)) if betas.size > 1 else betas[0]

    def run() -> nj.Solution:
        return jax.block_until_ready(nj.solve(preferences, beta, reference=reference, tol=tol, max_queries=max_queries))

    with library_errors(beta="--beta", tol="--tol", reference="--reference"):
        return interruptible(run)


def _gather(game: GameFile, betas: np.ndarray, solution: nj.Solution) -> Answer:
    """What is shown and written, in double precision."""
    P = game.preferences
    policy = np.asarray(solution.policy, np.float64)
    axes = policy.shape[:-1]
    beta = betas.reshape(-1, *(1,) * (len(axes) - 1)) if betas.size > 1 else betas[0]
    return Answer(
        items=game.items,
        several_betas=betas.size > 1,
        beta=np.broadcast_to(beta, axes),
        policy=policy,
        payoffs=(P @ policy[..., None])[..., 0],
        mean_win_rate=np.broadcast_to((P.sum(axis=-1) - 0.5) / (len(game.items) - 1), policy.shape),
        comparisons=None if game.comparisons is None else game.comparisons.sum(axis=1),
        exploitability=np.asarray(solution.exploitability, np.float64),
        kl_bound=np.asarray(solution.kl_bound, np.float64),
        queries=np.asarray(solution.queries),
        status=np.vectorize(lambda code: nj.Status(code).name, otypes=[str])(np.asarray(solution.status)),
    )


def _print_answer(source: Source, game: GameFile, answer: Answer, top: int, output: Path | None) -> None:
    console = report.make_console()
    with console.capture() as shown:
        console.print(report.title(source, game))
        console.print()
        if answer.is_batch:
            report.show_games(console, answer, top)
        else:
            for index in np.ndindex(answer.beta.shape):
                report.show_mixture(console, answer, index, top)
                console.print()
        if output is not None:
            console.print(f"Written to {visible(str(output))}.")
    put(shown.get())
    for warning in report.data_warnings(game):
        warn(warning)


def _parse_betas(texts: list[str] | None, default: float) -> np.ndarray:
    fields = [field for text in texts or [str(default)] for field in text.split(",")]
    betas = []
    for field in fields:
        try:
            value = number(field)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise bad_input("--beta", "", "a finite number >= 0", quoted(field))
        betas.append(value)
    return np.array(betas)


def _exit_code(answer: Answer) -> int:
    return 0 if (answer.status == nj.Status.CONVERGED.name).all() else NOT_CONVERGED
