"""`nashjax rank`: items ranked from head-to-head records in a file."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nashjax.commands import report
from nashjax.commands.options import (
    Debug,
    ItemA,
    ItemB,
    MaxFileSize,
    OneBeta,
    Prior,
    Seed,
    TieWords,
    Top,
    Winner,
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
from nashjax.files import BadInput, check_output
from nashjax.files.errors import bad_input, quoted, shortened, unwritable, visible
from nashjax.files.source import DEFAULT_LIMIT, Source
from nashjax.progress import progress_line

if TYPE_CHECKING:
    from rich.console import Console

    from nashjax.ranking import Battles, Ranking

FORMS = ("battles", "pairs", "matrix", "array")
PLOTS = (".png", ".svg", ".pdf")
_MOST_PANELS = 12
_PATH = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0)


def rank(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The comparisons: see above.", show_default=False)],
    beta: OneBeta = 0.01,
    bootstrap: Annotated[
        int,
        typer.Option(
            parser=number_option(0, whole=True), metavar="INTEGER", help="Resamples for the intervals; 0 for none."
        ),
    ] = 1000,
    cluster: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Draw all comparisons of one judge, prompt, ... together.")
    ] = None,
    bayesian: Annotated[
        bool, typer.Option("--bayesian", help="Give comparisons (or clusters) random weights instead of drawing them.")
    ] = False,
    level: Annotated[
        float,
        typer.Option(parser=number_option(0, closed=False, high=0.9999), metavar="NUMBER", help="Of the intervals."),
    ] = 0.95,
    seed: Seed = 0,
    by: Annotated[str | None, typer.Option(metavar="COLUMN", help="A ranking for each value of this column.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=TEXT", help="Use only the rows with this text in this column; repeatable."),
    ] = None,
    weight: Annotated[str | None, typer.Option(metavar="COLUMN", help="What each row counts, >= 0; default 1.")] = None,
    ties: Annotated[str, typer.Option(metavar="half|drop", help="A tie is half a win for both, or nothing.")] = "half",
    prior: Prior = 0.0,
    path: Annotated[
        bool, typer.Option("--path", help=f"Also report the masses at beta = {', '.join(f'{b:g}' for b in _PATH)}.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first row that cannot be used, instead of leaving it out.")
    ] = False,
    top: Top = 15,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json|csv|html", help="Also write the ranking to this file.", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png|svg|pdf", help="Draw the intervals of the payoffs.", show_default=False),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="|".join(FORMS), help="Form of FILE; default: recognized.")
    ] = None,
    item_a: ItemA = None,
    item_b: ItemB = None,
    winner: Winner = None,
    tie_word: TieWords = None,
    comparisons_per_pair: Annotated[
        float | None,
        typer.Option(
            parser=number_option(0, closed=False),
            metavar="NUMBER",
            help="How many comparisons each entry of a matrix stands for.",
        ),
    ] = None,
    max_file_size: MaxFileSize = DEFAULT_LIMIT,
    debug: Debug = False,
) -> None:
    """Rank items from head-to-head records, fairly also where they beat each other in circles.

    \b
    FILE is one of
      battles  .csv or .parquet with rows model_a,model_b,winner
               (winner: model_a, model_b or a tie word)
      pairs    .csv or .parquet with rows item_a,item_b,wins_a,wins_b,ties
      matrix   .csv, or .npy/.npz (array), of preferences, if
               --comparisons-per-pair says how many comparisons an entry is
    or a pipe, or - for standard input, with one of these; each may be
    packed by gzip.

    An item's mass is its share in the mixture that no other mixture is preferred over; its payoff is how often it is
    preferred over that mixture; intervals are by bootstrap. The ranking goes to standard output, warnings and progress
    to standard error. Exit code 0: solved; 1: not solved to the tolerance, or standard output cannot be written; 2: an
    input cannot be used.
    """
    with errors_in_one_line(debug), library_errors():
        if output is not None:
            check_output(output, file, suffixes=(".json", ".csv", ".html"))
        if plot is not None:
            check_output(plot, file, suffixes=PLOTS)
            importlib.import_module("nashjax.plotting")  # says what is missing before anything is computed
        labels = [name for name in (cluster, by) if name is not None]
        source = Source(file, max_file_size)
        battles = _read(source, form, (item_a, item_b, winner), weight, tie_word or [], labels, where or [],
                        strict, comparisons_per_pair)  # fmt: skip
        parts = {"": battles} if by is None else battles.groups(by)
        if plot is not None and len(parts) > _MOST_PANELS:
            raise bad_input("--plot", "", f"used with at most {_MOST_PANELS} groups", str(len(parts)))
        options = {"beta": beta, "bootstrap": bootstrap, "seed": seed, "cluster": cluster, "bayesian": bayesian,
                   "level": level, "prior": prior, "ties": ties, "path": _PATH if path else ()}  # fmt: skip
        rankings = _rank_all(parts, bootstrap, options)
        _print(source, rankings, top)
        found = rankings[""] if by is None else rankings
        if output is not None:
            from nashjax.ranking.write import write_ranking

            write_ranking(output, found, by=by, title=f"Ranking of {Path(str(source)).name}")
            put(f"Written to {visible(str(output))}.\n")
        if plot is not None:
            _draw(plot, rankings)
            put(f"Drawn to {visible(str(plot))}.\n")
        raise typer.Exit(0 if all(ranking.converged for ranking in rankings.values()) else NOT_CONVERGED)


def _read(
    source: Source,
    form: str | None,
    columns: tuple[str | None, str | None, str | None],
    weight: str | None,
    tie_words: list[str],
    labels: list[str],
    where: list[str],
    strict: bool,
    comparisons_per_pair: float | None,
) -> Battles:
    from nashjax.ranking import Battles

    if form not in (None, *FORMS):
        raise bad_input("--format", "", f"one of {', '.join(FORMS)}", quoted(str(form)))
    if form in ("matrix", "array") or comparisons_per_pair is not None or source.suffix in (".npy", ".npz"):
        return _read_matrix(source, form, comparisons_per_pair, labels or where or ([weight] if weight else []))
    conditions = {}
    for condition in where:
        column, equals, text = condition.partition("=")
        if not (column and equals):
            raise bad_input("--where", "", "COLUMN=TEXT", quoted(condition))
        conditions[column] = text
    item_a, item_b, winner = columns
    return Battles.read(
        source,
        format=form,
        item_a=item_a,
        item_b=item_b,
        winner=winner,
        weight=weight,
        tie_words=tie_words,
        labels=labels,
        where=conditions,
        strict=strict,
    )


def _read_matrix(source: Source, form: str | None, comparisons_per_pair: float | None, columns: list[str]) -> Battles:
    from nashjax.files import read_games
    from nashjax.ranking import Battles

    game = read_games(source, format=form)
    if game.preferences.ndim > 2:
        raise bad_input(source, "", "one game", f"{game.preferences.shape[0]} games")
    if game.comparisons is not None:
        raise bad_input(
            "--comparisons-per-pair", "", "used with a matrix", f"a file with counts, {quoted(str(source))}"
        )
    if comparisons_per_pair is None:
        advice = "Say with --comparisons-per-pair how many each entry stands for; nashjax solve needs no counts."
        raise bad_input(source, "", "a file with counts of comparisons", "a matrix", advice)
    if columns:
        raise bad_input(source, "", f"a file with a column {quoted(columns[0])}", "a matrix")
    return Battles.from_counts(game.items, game.preferences * comparisons_per_pair)


def _rank_all(parts: Mapping[str, Battles], bootstrap: int, options: dict[str, Any]) -> dict[str, Ranking]:
    import jax

    from nashjax import ranking

    jax.config.update("jax_enable_x64", True)
    found = {}
    with progress_line("resamples", len(parts) * bootstrap or None) as show:
        for number, (name, part) in enumerate(parts.items()):

            def work(part: Battles = part, before: int = number * bootstrap) -> Ranking:
                return ranking.rank(part, on_progress=lambda done: show(before + done, "resamples"), **options)

            try:
                with library_errors(beta="--beta", ties="--ties"):
                    found[name] = interruptible(work)
            except BadInput as error:
                raise BadInput(f"{visible(name) + ': ' if name else ''}{error}") from error
    return found


def _print(source: Source, rankings: Mapping[str, Ranking], top: int) -> None:
    console = report.make_console()
    with console.capture() as shown:
        for name, ranking in rankings.items():
            group = f", {visible(name)}" if name else ""
            items = report.counted(len(ranking.items), "item")
            compared = report.counted(ranking.comparisons.sum() / 2, "comparison")
            console.print(f"{visible(str(source))}{group}: {items}, {compared}")
            console.print(f"beta = {ranking.beta:g}, {_resampling(ranking)}\n")
            _print_table(console, ranking, top)
            for sentence in _sentences(ranking):
                console.print(sentence)
            console.print()
    put(shown.get())
    of_all = [w for w in next(iter(rankings.values())).warnings if all(w in r.warnings for r in rankings.values())]
    for warning in of_all:
        warn(warning)
    for name, ranking in rankings.items():
        for warning in ranking.warnings:
            if warning not in of_all:
                warn(f"{visible(name)}: {warning}")


def _resampling(ranking: Ranking) -> str:
    how = ranking.resampling
    if not ranking.bootstrap:
        return "no intervals"
    drawn = f"clusters of {visible(str(how['cluster']))}" if how["cluster"] else "comparisons"
    bayesian = "Bayesian " if how["kind"] == "bayesian" else ""
    resamples = report.counted(ranking.bootstrap, f"{bayesian}resample")
    return f"{100 * how['level']:g} % intervals by {resamples} of {drawn}"


def _print_table(console: Console, ranking: Ranking, top: int) -> None:
    headers = ["rank", "item", "mass", "payoff against\nthe mixture", "first", "win\nrate"]
    headers += ["comparisons", "Bradley-\nTerry"]
    shown = ranking.rows()[: top or None]
    rows = [
        [
            _with_interval(row, "rank", "d", " to "),
            row["item"],
            _with_interval(row, "mass", ".4f", ", "),
            _with_interval(row, "payoff", ".4f", ", "),
            "-" if row["first_share"] is None else f"{100 * row['first_share']:.3g} %",
            "-" if row["win_rate"] is None else f"{row['win_rate']:.3f}",
            f"{row['comparisons']:.10g}",
            f"{row['bradley_terry']:.2f} (#{row['bradley_terry_rank']})",
        ]
        for row in shown
    ]
    report.print_table(console, headers, rows, name_column=1)
    left = len(ranking.items) - len(rows)
    if left:
        rest = ranking.mass.value[len(rows) :].sum()
        console.print(f"{left} more with mass {rest:.4f} together (--top 0 shows all).\n")


def _with_interval(row: dict[str, Any], name: str, form: str, between: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    value = f"{row[name]:{form}}"
    return value if low is None else f"{value} ({low:{form}}{between}{high:{form}})"


def _sentences(ranking: Ranking) -> Iterator[str]:
    """Structure and disagreements, in words."""
    from nashjax.ranking.notes import disagreements

    structure = ranking.structure
    names = [shortened(name) for name in ranking.items]
    smith_set = _listed(structure.smith_set, names)
    yield (
        f"{structure.cyclic_triples} of {structure.triples} triples are cyclic; Smith set: {smith_set}; "
        f"{structure.pairs_compared} of {structure.pairs} pairs were compared."
    )
    for cycle in structure.strongest_cycles[:1]:
        steps = " > ".join(names[i] for i in (*cycle.items, cycle.items[0]))
        rates = ", ".join(f"{p:.2f}" for p in cycle.preferences)
        yield f"The surest cycle: {steps} ({rates})."
    apart = [f"{names[i]} (#{ranking.rank.value[i]:.0f}, there #{other:.0f})" for i, other in disagreements(ranking, 3)]
    if apart:
        yield f"Farthest from Bradley-Terry: {', '.join(apart)}."
    pairs = [f"{names[s.items[0]]} - {names[s.items[1]]}" for s in ranking.suggestions[:3]]
    if pairs:
        yield f"To shrink the intervals most, compare next: {', '.join(pairs)}."


def _listed(positions: tuple[int, ...], names: list[str]) -> str:
    if len(positions) > 5:
        return f"{len(positions)} items"
    return ", ".join(names[i] for i in positions)


def _draw(path: Path, rankings: Mapping[str, Ranking]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from nashjax import plotting

    rows = max(min(len(ranking.items), 25) for ranking in rankings.values())
    figure, panels = plt.subplots(
        len(rankings), 1, figsize=(7, (1.2 + 0.24 * rows) * len(rankings)), squeeze=False, layout="constrained"
    )
    for panel, (name, ranking) in zip(panels[:, 0], rankings.items(), strict=True):
        value, low, high = ranking.payoff.value, ranking.payoff.low, ranking.payoff.high
        if not ranking.bootstrap:
            low = high = value
        names = [shortened(item, 40) for item in ranking.items]
        plotting.ranking_intervals(names, value, low, high, ax=panel)
        if name:
            panel.set_title(shortened(name).replace("$", r"\$"), fontsize=10)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise unwritable(path, error) from error
    plt.close(figure)
