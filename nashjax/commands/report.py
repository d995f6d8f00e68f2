"""What the command line prints: tables of mixtures and of games, certificates in words, warnings about the data."""

from __future__ import annotations

import io
import math
import sys

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nashjax.files import Answer, GameFile, counts
from nashjax.files.errors import visible
from nashjax.progress import styles
from nashjax.solution import Status

_TEXT_WIDTH = 80
_SHORTEST_NAME = 8
STATUS_WORDS = {"CONVERGED": "solved", "MAX_QUERIES": "not yet", "STALLED": "stalled", "INVALID": "invalid"}


def make_console() -> Console:
    """A console to capture with that is like the standard output, or as wide as it takes where that is no terminal."""
    is_terminal = sys.stdout.isatty()
    standard = Console()
    return Console(
        file=io.TextIOWrapper(io.BytesIO(), encoding=standard.encoding),
        **styles(sys.stdout),
        width=standard.width if is_terminal else 10_000,
        markup=False,
        highlight=False,
        emoji=False,
    )


def show_mixture(console: Console, answer: Answer, index: tuple[int, ...], top: int) -> None:
    """Print the mixture of one game, its `top` most probable items (0: all), with its certificate."""
    policy, payoffs = answer.policy[index], answer.payoffs[index]
    order = np.argsort(-policy, kind="stable")
    shown = order[: top or None]
    comparisons = answer.comparisons
    win_rate = answer.mean_win_rate[index]
    rows = [
        [
            answer.items[i],
            probability(policy[i]),
            f"{payoffs[i]:.4f}",
            f"{win_rate[i]:.4f}",
            "-" if comparisons is None else f"{comparisons[i]:.10g}",
        ]
        for i in shown
    ]
    console.print(f"beta = {float(answer.beta[index]):g}\n")
    headers = ["item", "probability", "payoff against\nthe mixture", "mean\nwin rate", "comparisons"]
    print_table(console, headers, rows, name_column=0)
    if len(shown) < len(order):
        rest = policy[order[len(shown) :]].sum()
        console.print(
            f"{counted(len(order) - len(shown), 'more item')} with {probability(rest)} together (--top 0 shows all).\n"
        )
    print_sentences(console, certificate(answer, index))


def show_games(console: Console, answer: Answer, top: int) -> None:
    """Print a row for each of the first `top` games (0: all), and the worst certificate of all in words."""
    indices = list(np.ndindex(answer.beta.shape))
    favourite, highest = answer.policy.argmax(axis=-1), answer.policy.max(axis=-1)
    support = np.exp(_entropy(answer.policy))
    rows = [
        [
            answer.game_name(index),
            *([f"{answer.beta[index]:g}"] if answer.several_betas else []),
            answer.items[favourite[index]],
            probability(highest[index]),
            f"{support[index]:.2f}",
            bound(float(answer.exploitability[index])),
            bound(float(answer.kl_bound[index])),
            str(answer.queries[index]),
            STATUS_WORDS[str(answer.status[index])],
        ]
        for index in indices[: top or None]
    ]
    headers = ["game", *(["beta"] if answer.several_betas else []), "leading\nitem", "its prob-\nability"]
    headers += ["effective\nsupport", "exploit-\nability", "KL\nbound", "queries", "status"]
    print_table(console, headers, rows, name_column=headers.index("leading\nitem"))
    if len(rows) < len(indices):
        console.print(f"{counted(len(indices) - len(rows), 'more row')} (--top 0 shows all).\n")
    solved = int((answer.status == Status.CONVERGED.name).sum())
    console.print(f"{solved} of {len(indices)} solved, with {int(answer.queries.max())} queries at most.")
    # NaN, where a game is not valid, counts as the worst.
    worst = indices[int(np.argmax(np.where(np.isnan(answer.exploitability), np.inf, answer.exploitability)))]
    beta = f" at beta = {answer.beta[worst]:g}" if answer.several_betas else ""
    console.print(f"The worst certificate is that of game {answer.game_name(worst)}{beta}:")
    print_sentences(console, certificate(answer, worst))


def certificate(answer: Answer, index: tuple[int, ...]) -> list[str]:
    """Say what is certain about one mixture, and how its solve ended, in sentences."""
    status = Status[str(answer.status[index])]
    exploitability, kl_bound = float(answer.exploitability[index]), float(answer.kl_bound[index])
    queries = int(answer.queries[index])
    if status is Status.CONVERGED:
        sentences = [f"Solved; preference queries used: {queries}."]
    else:
        sentences = [f"NOT solved to the tolerance, after {queries} queries. {status.describe()}"]
    if not math.isfinite(exploitability):
        return sentences
    number = bound(exploitability)
    if answer.beta[index] == 0:
        sentences.append(
            f"Exploitability {number}: no item that the reference allows is preferred over the mixture "
            f"with probability more than 1/2 + {number}."
        )
        return sentences
    sentences.append(
        f"Exploitability {number}: no other mixture gains more than that against this one, "
        "in units of preference probability and less what beta charges for leaving the reference."
    )
    if not math.isfinite(kl_bound):
        return sentences
    # |p - p*|_1 <= sqrt(2 KL), half of which is the most that one probability can gain or lose.
    off = min(1.0, 0.5 * math.sqrt(2 * kl_bound))
    sentences.append(
        f"Certified: KL(mixture || exact equilibrium) <= {bound(kl_bound)}, "
        f"so no probability here is off by more than {bound(off)}."
    )
    return sentences


def data_warnings(game: GameFile) -> list[str]:
    """Say what in the counts of a file makes the answer less sure."""
    if game.comparisons is None:
        return []
    return counts.data_warnings(game.items, game.comparisons, game.ties or 0.0)


def title(source: object, game: GameFile) -> str:
    """Say what a file holds, in a line."""
    batch = game.preferences.shape[:-2]
    items = counted(len(game.items), "item")
    games = f"{counted(math.prod(batch), 'game')} of {items}" if batch else items
    compared = "" if game.comparisons is None else f", {counted(game.comparisons.sum() / 2, 'comparison')}"
    return f"{visible(str(source))}: {games}{compared}"


def counted(number: float, noun: str) -> str:
    """The number with its noun, in the plural unless it is 1."""
    return f"{number:.10g} {noun}{'' if number == 1 else 's'}"


def print_table(console: Console, headers: list[str], rows: list[list[str]], name_column: int) -> None:
    """Print a table whose numbers are always whole; in a narrow terminal the names are shortened."""
    cells = [[visible(cell) for cell in row] for row in rows]
    widths = [
        max(cell_len(line) for text in (header, *(row[i] for row in cells)) for line in text.split("\n"))
        for i, header in enumerate(headers)
    ]
    between = 2 * (len(headers) - 1)
    left_for_name = console.width - between - sum(widths) + widths[name_column]
    widths[name_column] = min(widths[name_column], max(_SHORTEST_NAME, left_for_name))
    # With its width given, a table too wide for the terminal keeps all columns; the terminal breaks the lines.
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, width=sum(widths) + between
    )
    for i, header in enumerate(headers):
        justify = "left" if i == name_column else "right"
        table.add_column(header, justify=justify, no_wrap=True, overflow="ellipsis", width=widths[i])
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table, crop=False, no_wrap=True)
    console.print()


def print_sentences(console: Console, sentences: list[str]) -> None:
    """Print sentences, a paragraph each."""
    for sentence in sentences:
        console.print(sentence, width=min(console.width, _TEXT_WIDTH))


def probability(p: float) -> str:
    """Return a probability as it is printed."""
    if 0 < p < 5e-5:
        return "<0.0001"
    return f"{p:.4f}"


def bound(value: float) -> str:
    """Two digits, rounded up: what is printed is still a bound."""
    if not math.isfinite(value):
        return "-"
    if value <= 0:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit - 1e-9) * unit:.2g}"


def _entropy(policy: np.ndarray) -> np.ndarray:
    logs = np.log(policy, out=np.zeros_like(policy), where=policy > 0)
    return -(policy * logs).sum(axis=-1)
