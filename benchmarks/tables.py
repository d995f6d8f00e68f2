"""The tables of benchmarks/README.md from the files in `results/`: `python -m benchmarks.tables` writes them anew.

One file, though long: all that is shown of the studies stands in one place, a function for each table. In the page a
table stands between `<!-- NAME -->` and `<!-- end -->`; the line below it says what it was measured on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peer_table
from benchmarks.peer_table import lines
from benchmarks.record import RESULTS

PAGE = Path(__file__).parent / "README.md"
Row = dict[str, Any]


def markdown(rows: Iterable[Row], columns: dict[str, str]) -> str:
    """A table of the rows: for each column its title, and what `str.format` makes of a row; empty where that fails."""

    def cell(shown: str, row: Row) -> str:
        try:
            return shown.format(**row)
        except (KeyError, IndexError):
            return ""

    return lines(columns, [[cell(shown, row) for shown in columns.values()] for row in rows])


def grid(rows: Iterable[Row], down: Sequence[str], across: str, show: Callable[[Row], str], name: str = "{}") -> str:
    """One line for each value of the fields `down`, one column for each of `across`."""
    cells: dict[tuple[Any, ...], dict[Any, str]] = {}
    for row in rows:
        cells.setdefault(tuple(row[field] for field in down), {})[row[across]] = show(row)
    heads = list(dict.fromkeys(value for found in cells.values() for value in found))
    table = ([*key, *(found.get(head, "") for head in heads)] for key, found in cells.items())
    return lines([*down, *(name.format(head) for head in heads)], table)


# --- the engine -------------------------------------------------------------------------------------------------------


def adaptive(rows: list[Row]) -> str:
    """Queries of the fixed and the adaptive step."""
    chosen = [row for row in rows if row["kind"] == "gaussian" and row["beta"] in (0.001, 0.01, 0.1, 0.5)]
    return grid(chosen, ("beta",), "n", lambda row: f"{row['fixed']:g} / {row['adaptive']:g}", "n = {}")


def adaptive_kinds(rows: list[Row]) -> str:
    """How much the adaptive step saves on each kind of games, and the smallest certificates in float32."""
    found = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        here = [row for row in rows if row["kind"] == kind]
        saved = f"{np.exp(np.mean([np.log(row['ratio']) for row in here])):.1f}"
        least = min(row["worst_ratio"] for row in here)
        floors = [max(row[name] for row in here if name in row) for name in ("floor", "fixed_floor")]
        found.append([f"`{kind}`", saved, least, *floors])
    heads = ("games", "fixed / adaptive", "least of a game", "float32 floor, adaptive", "fixed")
    return lines(heads, found)


def tuning(rows: list[Row]) -> str:
    """The best steps of the grid, those in use, and the worst."""
    used = next(row for row in rows if (row["growth"], row["shrink"], row["first_step"]) == (1.35, 0.6, 16.0))
    columns = {
        "": "{what}",
        "growth": "{growth:g}",
        "shrink": "{shrink:g}",
        "first step": "{first_step:g}",
        "queries": "{queries}",
        "worst setting": "{worst}",
        "from uniform references": "{uniform}",
    }
    longer = next(row for row in rows if (row["growth"], row["shrink"], row["first_step"]) == (1.35, 0.6, 64.0))
    shown = {"best": rows[0], "in use, first step 64": longer, "in use": used, "worst": rows[-1]}
    return markdown([row | {"what": what} for what, row in shown.items()], columns)


def memory(rows: list[Row]) -> str:
    """Queries of adaptive Nash-MP and of two memories; float32 where it differs."""
    methods = ("adaptive", "memory_16", "memory_64")
    chosen = [row for row in rows if row["part"] == "table"]
    single = {(row["n"], row["beta"], row["kind"]): row for row in chosen if row["dtype"] == "float32"}

    def counts(row: Row) -> str:
        other = single[row["n"], row["beta"], row["kind"]]
        shown = (
            f"{row[m]:g}" + (f" ({other[m]:g})" if abs(other[m] - row[m]) > 0.05 * row[m] else "") for m in methods
        )
        return " / ".join(shown)

    return grid([row for row in chosen if row["dtype"] == "float64"], ("n", "beta"), "kind", counts)


def memory_random(rows: list[Row]) -> str:
    """How often memory needs more queries than adaptive steps, and how many it saves."""
    columns = {
        "games": "{kind}",
        "dtype": "{dtype}",
        "number": "{games}",
        "more than 3 over": "{over_3}",
        "largest excess": "{largest_excess}",
        "adaptive / memory": "{ratio}",
    }
    return markdown([row for row in rows if row["part"] == "random"], columns)


def memory_embedding(rows: list[Row]) -> str:
    """Queries and seconds on games of features, medians over the seeds."""
    groups: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        if row["part"] == "embedding":
            groups.setdefault((row["beta"], row["method"]), []).append(row)
    medians = [
        {
            "beta": beta,
            "method": method,
            "shown": f"{'' if all(row['converged'] for row in found) else '> '}"
            f"{np.median([row['queries'] for row in found]):g}, {np.median([row['seconds'] for row in found]):.3g} s",
        }
        for (beta, method), found in groups.items()
    ]
    return grid(medians, ("method",), "beta", lambda row: row["shown"], "beta = {:g}")


def memory_matrix(rows: list[Row]) -> str:
    """Memory beside interior points and Newton's method on matrices."""
    found: dict[tuple[int, str, float], dict[str, Row]] = {}
    for row in rows:
        if row["part"] == "matrix":
            found.setdefault((row["n"], row["shape"], row["beta"]), {})[row["method"]] = row

    def show(row: Row) -> str:
        memory, other = row["memory_16"], row["linear_solves"]
        text = f"{memory['queries']}, {memory['seconds']:.3g} s"
        return f"{text if memory['converged'] else f'({text})'} / {other['seconds']:.3g} s"

    pairs = [{"n": n, "games": shape, "beta": beta} | row for (n, shape, beta), row in found.items()]
    return grid(pairs, ("n", "games"), "beta", show, "beta = {:g}")


def robustness(rows: list[Row]) -> str:
    """All kinds together."""
    found = []
    for key in dict.fromkeys((row["dtype"], row["n"]) for row in rows):
        here = [row for row in rows if (row["dtype"], row["n"]) == key]
        total = {name: sum(row[name] for row in here) for name in ("games", "converged", "stalled", "max_queries")}
        unsolved = [row["unsolved_above"] for row in here if row["unsolved_above"] is not None]
        last = [sum(row["wrong"] for row in here), max(row["most_steps"] for row in here)]
        found.append([*key, *(f"{value:,}" for value in (*total.values(), *last)), max(unsolved, default="")])
    heads = "dtype", "n", "games", "converged", "stalled", "max_queries", "wrong", "most steps", "unsolved up to beta"
    return lines(heads, found)


def default(rows: list[Row]) -> str:
    """Adaptive Nash-MP, Newton's method and the default; brackets around what left games unsolved."""

    def times(row: Row) -> str:
        pairs = [(row[method], row[f"{method}_unsolved"]) for method in ("adaptive", "newton", "default")]
        return " / ".join(f"({us:.3g})" if unsolved else f"{us:.3g}" for us, unsolved in pairs)

    return grid(rows, ("n", "dtype", "tol"), "beta", times, "beta = {:g}")


def blocks(rows: list[Row]) -> str:
    """Time of a game against the games in a block; 0 stands for all of them."""
    sizes = [*sorted({row["block_size"] for row in rows} - {0, "default"}), 0, "default"]
    found: dict[tuple[Any, ...], dict[Any, str]] = {}
    for row in rows:
        case = found.setdefault((row["n"], row["games"], row["beta"]), {})
        case[row["block_size"]] = f"{row['microseconds']:.3g}"
    table = ([*case, *(cells.get(size, "") for size in sizes)] for case, cells in found.items())
    return lines(["n", "games", "beta", *(size or "all" for size in sizes)], table)


def throughput(rows: list[Row]) -> str:
    """The rates of the machine, and one line a case."""
    limits, cases = rows[0], [row for row in rows if row["study"] in ("actions", "batch")]
    names = ("n", "games", "us", "games_per_s", "queries", "flops_share", "bytes_share")
    ceilings = f"Ceilings: {limits['flops_per_s'] / 1e9:.4g} Gflop/s, {limits['bytes_per_s'] / 1e9:.3g} GB/s."
    return f"{ceilings}\n\n" + markdown(cases, {name: f"{{{name}:.5g}}" for name in names})


def parts(rows: list[Row]) -> str:
    """Where the time of a call goes."""
    columns = {
        "n": "{n}",
        "games": "{games:,}",
        "us": "{us:.4g}",
        "mean steps": "{mean_steps}",
        "us of a step": "{us_of_a_step:.3g}",
        "before": "{share_before:.0%}",
        "steps": "{share_steps:.0%}",
        "waiting": "{share_waiting:.0%}",
        "matrices read, GB/s": "{gigabytes_per_s:.3g}",
    }
    return markdown([row for row in rows if row["study"] == "parts"], columns)


def fuzz(rows: list[Row]) -> str:
    """Share of games that did not converge, in per cent, by actions and beta."""
    cells = [row for row in rows if "n" in row]
    games, refuted = (f"{sum(row[name] for row in cells):,}" for name in ("games", "refuted"))
    table = grid(cells, ("dtype", "n"), "beta", lambda row: f"{100 * row['share']:.3g}", "beta >= {}")
    return f"{games} games; said to have converged and refuted: {refuted}.\n\n{table}"


# --- methods ----------------------------------------------------------------------------------------------------------


def convergence(rows: list[Row], beta: float) -> str:
    """Queries of each method to three tolerances, on each kind of games."""

    def shown(row: Row) -> str:
        return " / ".join("–" if row[tol] is None else f"{row[tol]:g}" for tol in ("1e-3", "1e-6", "1e-9"))

    chosen = [row for row in rows if row["part"] == "queries" and row["beta"] == beta]
    return grid(mark(chosen), ("method",), "kind", shown, "`{}`")


def mark(rows: list[Row]) -> list[Row]:
    """Names of methods as code."""
    return [row | {"method": f"`{row['method']}`"} for row in rows]


def best_rates(rows: list[Row]) -> list[Row]:
    """Of the rows of several learning rates the best one, for each method and beta."""
    best: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = (row["method"], row["beta"])
        if key not in best or row["exploitability"] < best[key]["exploitability"]:
            best[key] = row
    order = list(dict.fromkeys(row["method"] for row in rows))
    return sorted(best.values(), key=lambda row: (order.index(row["method"]), row["beta"]))


def stochastic(rows: list[Row]) -> str:
    """Setting S: the best learning rate of each method."""

    def shown(row: Row) -> str:
        rate = f", rate {row['learning_rate']}" if row["learning_rate"] else ""
        return f"{row['exploitability']:.2g} ({row['low']:.2g} to {row['high']:.2g}{rate})"

    return grid(best_rates([row for row in rows if row["part"] == "tune"]), ("method",), "beta", shown, "beta = {}")


def both_betas(rows: Iterable[Row], down: Sequence[str], across: str, name: str = "{}") -> str:
    """A grid whose cells hold the exploitabilities at both values of beta."""
    pairs: dict[tuple[Any, ...], Row] = {}
    for row in sorted(rows, key=lambda row: row["beta"]):
        key = tuple(row[field] for field in (*down, across))
        value = f"{row['exploitability']:.2g}"
        pairs[key] = row | {"both": f"{pairs[key]['both']} / {value}" if key in pairs else value}
    return grid(pairs.values(), down, across, lambda row: row["both"], name)


def budgets(rows: list[Row]) -> str:
    """Setting S with other numbers of comparisons."""
    chosen = sorted((row for row in rows if row["part"] == "budget"), key=lambda row: row["budget"])
    return both_betas(chosen, ("method",), "budget", "{:,}")


def reductions(rows: list[Row]) -> str:
    """The default with one device changed."""
    chosen = [row for row in rows if row["part"] == "reductions"]
    return grid(chosen, ("method",), "beta", lambda row: f"{row['exploitability']:.2g}", "beta = {}")


def loops(rows: list[Row]) -> str:
    """Inner steps and batches of the default."""
    return both_betas(
        [row for row in rows if row["part"] == "loops"], ("inner_steps",), "batch_size", "{} comparisons a step"
    )


def contextual(rows: list[Row]) -> str:
    """Contexts that were not seen, and in brackets those that were."""

    def shown(row: Row) -> str:
        return f"{row['exploitability']:.2g} ({row['seen']:.2g})"

    return grid([row for row in rows if row["part"] == "contextual"], ("method",), "beta", shown, "beta = {}")


# --- language models --------------------------------------------------------------------------------------------------


def interval(rows: list[Row]) -> tuple[float, float, float]:
    """Mean of the exploitability over runs, and half its 95 % interval (Student's), and the largest."""
    values = np.array([row["exploitability"] for row in rows])
    factor = {1: np.nan, 2: 12.71, 3: 4.30, 4: 3.18}.get(len(values), 2.0)
    half = factor * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(values.mean()), float(half), float(values.max())


def language_model(rows: list[Row]) -> str:
    """The ends of all runs, the best method first."""
    settings = json.loads((RESULTS / "language_model_tuning.json").read_text(encoding="utf-8"))["settings"]
    columns = {
        "512,000 calls": ("L", 512_000),
        "2,048,000 calls": ("L", 2_048_000),
        "easy, 512,000": ("easy", 512_000),
        "long, 512,000": ("long", 512_000),
    }
    found: list[tuple[float, list[str]]] = []
    for method, options in settings.items():
        cells = []
        for setting, budget in columns.values():
            runs = [r for r in rows if (r["setting"], r["budget"], r["method"]) == (setting, budget, method)]
            mean, half, _ = interval([r for r in runs if "seconds" in r]) if runs else (np.nan,) * 3
            # Two runs have an interval that says nothing.
            cells.append("" if not runs else f"{mean:.4f}" if setting == "long" else f"{mean:.4f} ± {half:.4f}")
        ends = [
            r for r in rows if (r["setting"], r["budget"], r["method"]) == ("L", 512_000, method) and "seconds" in r
        ]
        mean, _, worst = interval(ends)
        named = ", ".join(f"{name} {value:g}" for name, value in options.items())
        found.append((mean, [f"`{method}`", cells[0], f"{worst:.4f}", *cells[1:], named]))
    heads = list(columns)
    return lines(["method", heads[0], "its worst run", *heads[1:], "settings"], [cells for _, cells in sorted(found)])


def smollm2(rows: list[Row]) -> str:
    """What was found."""
    by_part = {row["part"]: row for row in rows}
    policies = {row["policy"]: row for row in rows if row["part"] == "policy"}
    training, before, after = by_part["training"], policies["untrained"], policies["trained"]
    average = policies["average"]
    apart = max(row["largest_difference"] for row in rows if row["part"] == "runtime")
    found = {
        f"perplexity of an expository passage, {by_part['perplexity']['tokens']} tokens": by_part["perplexity"][
            "perplexity"
        ],
        "five likeliest first tokens of three prompts, against xllamacpp": f"at most {apart} nat apart",
        "win rate against the frozen model on held-out prompts, before": rate(before),
        "after": rate(after),
        "after, the moving average": rate(average),
        "rise": f"{training['rise']} ({training['rise_low']} to {training['rise_high']})",
        "divergence from the frozen model": f"{after['kl']} nats an answer",
        "nats a token for the frozen model, before and after": f"{before['frozen_nats_per_token']} and "
        f"{after['frozen_nats_per_token']}",
        "answers that end as a sentence, before and after": f"{before['complete']} and {after['complete']}",
        f"a step on {training['cores']} cores": f"{training['seconds_per_step']} s: {training['draw']} drawing, "
        f"{training['learn']} learning",
        "tokens drawn in a second": training["sampled_tokens_per_second"],
        "most memory": f"{training['peak_gigabytes']} GB",
    }
    return lines(["measured", "found"], found.items())


def rate(row: Row) -> str:
    return f"{row['win_rate']} ({row['low']} to {row['high']})"


def samples(rows: list[Row]) -> str:
    """Answers to some held-out prompts."""
    chosen = [row for row in rows if row["part"] == "sample"]
    return markdown(chosen, {"prompt": "{prompt}", "frozen model": "{untrained}", "fine-tuned": "{trained}"})


# --- rankings, large games, sweeps ------------------------------------------------------------------------------------


def intervals(rows: list[Row]) -> str:
    """How often intervals hold the truth."""
    columns = {
        "arenas": "{name}",
        "beta": "{beta:g}",
        "payoff": "{payoff:.1%}",
        "the leader's": "{leader:.1%}",
        "mass": "{mass:.1%}",
        "rank": "{rank:.1%}",
        "median width": "{width:.3f}",
    }
    return markdown(rows, columns)


def large(rows: list[Row]) -> str:
    """Games without a matrix."""
    columns = {
        "game": "{kind}",
        "actions": "{actions:,}",
        "features or rank": "{width}",
        "beta": "{beta}",
        "tol": "{tol:g}",
        "seconds": "{seconds:.3g}",
        "with compilation": "{first_seconds:.3g}",
        "queries": "{queries}",
        "a query": "{query_seconds:.2g} s",
        "of the product's rate": "{product_share:.0%}",
        "peak memory": "{peak_mb} MB",
        "exploitability": "{exploitability:.2g}",
        "in float64": "{exploitability_float64:.2g}",
        "from the dense answer": "{distance_to_dense:.1g}",
    }
    return markdown(rows, columns)


def many(rows: list[Row]) -> str:
    """Games of different sizes."""
    columns = {
        "games": "{games:,}",
        "beta": "{beta:g}",
        "padded to": "{padded_sizes}",
        "programs": "{programs}",
        "first call": "{first_seconds:.2g} s",
        "later calls": "{seconds:.3g} s",
        "one batch of size 60": "{batch_seconds:.3g} s",
        "ratio": "{ratio:.2f}",
        "one game by `solve`": "{alone_ms} ms",
        "by HiGHS": "{highs_ms} ms",
        "unsolved": "{unsolved}",
        "largest distance in L1": "{worst_l1:.1g}",
        "certified": "{l1_bound:.1g}",
        "from the value by HiGHS": "{highs_worst:.1g}",
    }
    return markdown(rows, columns)


def rank_command(rows: list[Row]) -> str:
    """Rankings from the shell."""
    columns = {
        "models": "{models}",
        "battles": "{battles:,}",
        "file": "{file_mb} MB",
        "answer": "`{answer}`",
        "seconds": "{median_seconds}",
        "peak memory": "{peak_mb} MB",
    }
    return markdown(rows, columns)


def scaling(rows: list[Row]) -> str:
    """Devices and processes."""
    columns = {
        "study": "{study}",
        "processes": "{processes}",
        "devices": "{devices}",
        "games": "{games:,}",
        "seconds": "{seconds:.3g}",
        "in the loop": "{in_loop[operations]} operations, {in_loop[bytes]:,} bytes",
        "outside": "{outside[operations]} operations, {outside[bytes]:,} bytes",
    }
    return markdown(rows, columns)


def sweep_kills(rows: list[Row]) -> str:
    """A sweep in peace and one that is killed."""
    columns = {
        "games": "{games:,}",
        "shards": "{shards}",
        "seconds in peace": "{seconds_in_peace}",
        "kills": "{kills}",
        "in a write": "{kills_in_a_write}",
        "seconds with them": "{seconds_killed}",
        "files": "{files}",
        "the same": "{same_files}",
        "each game once": "{games_once}",
    }
    return markdown(rows, columns)


def file_fuzz(rows: list[Row]) -> str:
    """How commands end on damaged files."""
    columns = {
        "files": "{form}",
        "cases": "{cases:,}",
        "answered (exit 0)": "{answered}",
        "refused in one line (exit 2)": "{refused}",
        "tracebacks": "{traceback}",
        "hangs": "{hang}",
        "over 1 GB": "{memory}",
        "longest": "{seconds} s",
        "most memory": "{peak_mb} MB",
    }
    return markdown(rows, columns)


# --- the page ---------------------------------------------------------------------------------------------------------

TABLES: dict[str, tuple[str, Callable[[list[Row]], str]]] = {
    "adaptive": ("adaptive", adaptive),
    "adaptive-kinds": ("adaptive", adaptive_kinds),
    "tuning": ("tuning", tuning),
    "memory": ("memory", memory),
    "memory-random": ("memory", memory_random),
    "memory-embedding": ("memory", memory_embedding),
    "memory-matrix": ("memory", memory_matrix),
    "robustness": ("robustness", robustness),
    "fuzz": ("fuzz", fuzz),
    "default": ("default", default),
    "blocks": ("blocks", blocks),
    "throughput": ("throughput_cpu", throughput),
    "throughput-parts": ("throughput_cpu", parts),
    **{f"peers-{group}": ("peers", lambda rows, g=group: peer_table.table(rows, g)) for group in peer_table.GROUPS},
    "peers-grid": ("peers", peer_table.ratios_over_sizes),
    "convergence": ("convergence", lambda rows: convergence(rows, 0.03)),
    "convergence-plain": ("convergence", lambda rows: convergence(rows, 0.0)),
    "stochastic": ("stochastic", stochastic),
    "stochastic-budgets": ("stochastic", budgets),
    "stochastic-reductions": ("stochastic", reductions),
    "stochastic-loops": ("stochastic", loops),
    "stochastic-contextual": ("stochastic", contextual),
    "language-model": ("language_model", language_model),
    "smollm2": ("smollm2", smollm2),
    "smollm2-samples": ("smollm2", samples),
    "intervals": ("intervals", intervals),
    "rank-command": ("rank_command", rank_command),
    "large": ("large", large),
    "many": ("many", many),
    "scaling": ("scaling", scaling),
    "sweep-kills": ("sweep_kills", sweep_kills),
    "file-fuzz": ("file_fuzz", file_fuzz),
}
"""For each table of the page its file, and what makes it of the file's rows."""


def measured_on(study: str, machine: Row, rows: list[Row]) -> str:
    """The line below a table. Rows that were measured on days of their own say so."""
    days = sorted({row["date"] for row in rows if "date" in row} or {machine["date"]})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    versions = ", ".join(f"{name} {machine[name]}" for name in ("nashjax", "jax", "python"))
    device = f"{machine.get('processor', machine['device'])}, {machine['cpu_cores']} cores"
    if days[0] < machine["date"]:
        device += f" on {machine['date']}"  # rows of earlier days do not tell theirs
    return f"[{study}.json](results/{study}.json): {when}; {versions}; {device}."


def render(page: str) -> str:
    """The page with all its tables made anew.

    Raises:
      ValueError: the page lacks a table, or has one that nothing makes.
    """
    shown = re.findall(r"^<!-- (?!end)([\w-]+) -->$", page, re.MULTILINE)
    if sorted(shown) != sorted(TABLES):
        raise ValueError(f"tables of the page: found {sorted(set(shown) ^ set(TABLES))} on one side only")

    def make(match: re.Match[str]) -> str:
        study, table = TABLES[match[1]]
        found = json.loads((RESULTS / f"{study}.json").read_text(encoding="utf-8"))
        below = measured_on(study, found["machine"], peer_table.chosen(found["rows"], match[1]))
        return f"<!-- {match[1]} -->\n{table(found['rows'])}\n\n{below}\n<!-- end -->"

    return re.sub(r"^<!-- (?!end)([\w-]+) -->$.*?^<!-- end -->$", make, page, flags=re.MULTILINE | re.DOTALL)


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
