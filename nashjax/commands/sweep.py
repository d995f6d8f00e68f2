"""`nashjax sweep`: a stream of games, solved into a directory; stopped at any moment, it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import jax
import typer

import nashjax as nj
from nashjax._validation import LARGEST_SEED
from nashjax.commands.options import Debug, Double, MaxFileSize, OneBeta, Tolerance, check_kind
from nashjax.commands.report import counted
from nashjax.commands.terminal import NOT_CONVERGED, errors_in_one_line, library_errors, number_option, put, warn
from nashjax.files import BadInput
from nashjax.files.errors import bad_input, sentence, visible
from nashjax.files.source import DEFAULT_LIMIT
from nashjax.games.random import KINDS
from nashjax.sweeps.sources import LARGEST_CHUNK, MOST_RANDOM_GAMES, GameFolder


def sweep(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT_DIR", help="Where the answers go.", show_default=False)],
    folder: Annotated[
        Path | None, typer.Option("--input", metavar="DIR", help="Solve the .npz files of this folder, sorted by name.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help=f"Or draw games, default gaussian: {', '.join(KINDS)}.")
    ] = None,
    num_actions: Annotated[
        int | None, typer.Option(parser=number_option(2, whole=True, high=2**15), metavar="INTEGER", help="Of each.")
    ] = None,
    num_games: Annotated[
        int | None,
        typer.Option(
            parser=number_option(1, whole=True, high=MOST_RANDOM_GAMES), metavar="INTEGER", help="How many are drawn."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            parser=number_option(0, whole=True, high=LARGEST_SEED), metavar="INTEGER", help="Of the draws, default 0."
        ),
    ] = None,
    beta: OneBeta = 0.01,
    tol: Tolerance = 1e-6,
    chunk_size: Annotated[
        int | None,
        typer.Option(
            parser=number_option(1, whole=True, high=LARGEST_CHUNK),
            metavar="INTEGER",
            help="Games solved together and written to one file; default 65536, fewer with over 16 actions.",
        ),
    ] = None,
    x64: Double = False,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed", help="Share the work with the other processes of a SLURM job, a TPU pod or the like."
        ),
    ] = False,
    coordinator: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Or of processes started by hand: where the first one listens."),
    ] = None,
    num_processes: Annotated[
        int | None, typer.Option(parser=number_option(1, whole=True), metavar="INTEGER", help="How many these are.")
    ] = None,
    process_id: Annotated[
        int | None, typer.Option(parser=number_option(0, whole=True), metavar="INTEGER", help="Which this one is.")
    ] = None,
    max_file_size: MaxFileSize = DEFAULT_LIMIT,
    debug: Debug = False,
) -> None:
    """Solve a stream of games into OUTPUT_DIR, chunk by chunk.

    Stopped or killed at any moment and started again in the same way, it goes on and ends with the same files. The
    Python documentation of nashjax.sweeps says what is in them; sha256sum -c *.sha256 checks them.

    Several processes share the work, and OUTPUT_DIR, when each is told of the others (--distributed, or --coordinator,
    --num-processes and --process-id): each solves chunks of its own on its own devices.

    Exit code 0: all games solved; 1: some not to the tolerance, or standard output cannot be written; 2: an input
    cannot be used, or the disk is full.
    """
    with errors_in_one_line(debug):
        drawing = {"--kind": kind, "--num-actions": num_actions, "--num-games": num_games, "--seed": seed}
        jax.config.update("jax_enable_x64", x64)
        if folder is not None:
            unused = [name for name, value in drawing.items() if value is not None]
            if unused:
                raise bad_input("--input", "", "the only source of games", f"{', '.join(unused)} too")
            source = GameFolder(folder, max_file_size)
        else:
            if num_actions is None or num_games is None:
                missing = [name for name in ("--num-actions", "--num-games") if drawing[name] is None]
                advice = "Use --input DIR to read games instead."
                raise bad_input(" and ".join(missing), "", "given to draw games", "nothing", advice)
            kind = "gaussian" if kind is None else kind
            check_kind(kind)
            source = nj.sweeps.RandomGames(kind, num_actions, num_games, seed or 0)

        by_hand = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
        missing = [name for name, value in by_hand.items() if value is None]
        if distributed or len(missing) < len(by_hand):
            if missing and not distributed:
                advice = "Use --distributed where the processes find each other."
                raise bad_input(missing[0], "", f"given with the others of {', '.join(by_hand)}", "nothing", advice)
            _join("--distributed" if distributed else "--coordinator", coordinator, num_processes, process_id)

        with library_errors(beta="--beta", tol="--tol"):
            done = nj.sweep(source, output, beta=beta, tol=tol, chunk_size=chunk_size, notify=warn)
        ends = ", ".join(f"{count} {name}" for name, count in done.statuses.items() if count)
        put(f"{counted(done.games, 'game')}: {ends}.\n")
        put(f"Written to {visible(str(output))}, {counted(done.shards, 'shard')}.\n")
        raise typer.Exit(0 if done.converged else NOT_CONVERGED)


def _join(option: str, coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    try:
        nj.distributed.initialize(coordinator, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        raise BadInput(f"{option} failed to join the other processes: {sentence(str(error))}") from error
