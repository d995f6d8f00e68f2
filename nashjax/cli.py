"""The command line: its commands are the modules of `nashjax/commands/`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

import nashjax as nj
from nashjax.commands.finetune import finetune
from nashjax.commands.generate import generate
from nashjax.commands.rank import rank
from nashjax.commands.solve import demo, solve
from nashjax.commands.sweep import sweep
from nashjax.commands.terminal import OUTPUT_FAILED, fail, flush_output, open_standard_streams
from nashjax.files.errors import unwritable, visible

_UsageError: Any = typer.BadParameter.__base__

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Certified Nash equilibria of preference games: of data in a file, of random games, of language models.",
    epilog="Example: nashjax solve battles.csv --beta 0.02",
)


def main() -> None:
    """Run the program; the entry of the console script."""
    open_standard_streams()
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except _UsageError as error:
        fail(visible(error.format_message()))
    except OSError as error:
        if error.filename is not None:
            raise
        fail(str(unwritable("standard output", error)), OUTPUT_FAILED)  # the help cannot be printed
    flush_output()
    sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nashjax {nj.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


app.command(epilog="Example: nashjax solve battles.csv --beta 0.01,0.1 --output result.json")(solve)
app.command(epilog="Example: nashjax rank battles.csv --output ranking.html")(rank)
app.command(epilog="Example: nashjax demo --num-games 4096 --num-actions 50 --beta 0.1 --kind cyclic")(demo)
app.command(epilog="Example: nashjax sweep OUT --kind gaussian --num-actions 10 --num-games 1000000 --seed 0")(sweep)
app.command(epilog="Example: nashjax finetune --output RUN")(finetune)
app.command(epilog="Example: nashjax generate RUN --prompt 'Write a line about the sea.'")(generate)

if __name__ == "__main__":
    main()
