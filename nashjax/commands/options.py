"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from nashjax._validation import LARGEST_SEED
from nashjax.commands.terminal import number_option, size_option
from nashjax.files import TIE_WORDS
from nashjax.files.errors import bad_input, quoted
from nashjax.games.random import KINDS

Top = Annotated[
    int, typer.Option(parser=number_option(0, whole=True), metavar="INTEGER", help="Rows to show; 0 shows all.")
]
OneBeta = Annotated[float, typer.Option(parser=number_option(0), metavar="NUMBER", help="Regularization, >= 0.")]
Tolerance = Annotated[
    float, typer.Option(parser=number_option(0, closed=False), metavar="NUMBER", help="Exploitability to reach, > 0.")
]
Double = Annotated[bool, typer.Option("--x64", help="Compute in double precision.")]
Seed = Annotated[
    int, typer.Option(parser=number_option(0, whole=True, high=LARGEST_SEED), metavar="INTEGER", help="Of the draws.")
]
Prior = Annotated[
    float,
    typer.Option(
        parser=number_option(0),
        metavar="NUMBER",
        help="Imagined comparisons of each pair, half won by each: shrinks rare pairs to 1/2.",
    ),
]
ItemA = Annotated[str | None, typer.Option(help="Column of the first item, instead of model_a or item_a.")]
ItemB = Annotated[str | None, typer.Option(help="Column of the second item.")]
Winner = Annotated[str | None, typer.Option(help="Column of the winner in a file of battles.")]
TieWords = Annotated[
    list[str] | None,
    typer.Option(metavar="WORD", help=f"A word for a tie besides {', '.join(TIE_WORDS)}; repeatable."),
]
MaxFileSize = Annotated[
    int,
    typer.Option(
        parser=size_option,
        metavar="SIZE",
        show_default="1G",
        help="Most bytes to read of a pipe, a device or standard input (-), and most that packed data (gzip, .npz, "
        ".parquet) may unpack to, such as 500M or 4G. A regular file may also be as large as the free memory.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def check_kind(kind: str) -> None:
    """Raise BadInput unless random games can be drawn so."""
    if kind not in KINDS:
        raise bad_input("--kind", "", f"one of {', '.join(KINDS)}", quoted(kind))
