"""Cost of the engine besides the arithmetic: compilation, memory, latency, transforms, and counts of the source.

Run `python -m benchmarks.engine` in the project's folder on Linux (ten minutes or more). `--baseline PATH` measures
another source tree side by side, `--rows first-call,latency` selects rows, and `--long` adds the rows that take many
minutes. Prints a table and writes `engine.json` into the folder `--output`, by default benchmarks/results. Every
figure comes from a fresh process without a cache of compiled programs; see `benchmarks/engine_probes.py`.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nashjax as nj
from benchmarks.processes import environment, merge, run_worker
from benchmarks.record import RESULTS, read_rows, write_results

ABOUT = (
    "One row for each quantity, measured on two source trees: `baseline` and `now` are the figures (or how the process "
    "ended), and the two `details` are what the processes reported. CPU seconds are those of all threads of the "
    "process. Games are float32. A full program takes at least 0.2 CPU s to compile. us: median of many calls in one "
    "process, the least of several processes that alternate between the trees. ratio: of medians in one process."
)
PROBES = Path(__file__).with_name("engine_probes.py")
NOW = Path(str(nj.__file__)).parents[1]
ANSWER_WITHIN = 900.0
"""Seconds without an answer after which a process is killed, except in the row `vmap`."""
BATCH_SIZES = [1, 2, 3, 4, 5, 7, 9, 13, 18, 25, 34, 46, 64, 88, 121, 167, 230, 317, 436, 601, 827, 1139, 1569, 2160]
BATCH_SIZES += [2975, 4096]
"""26 sizes, evenly spaced on a log scale where integers allow it."""
NOT_CORE = {"lm", "stochastic", "ranking", "sweeps", "files", "commands", "plotting.py"}
LAYOUT_CALLS = {"moveaxis", "swapaxes", "transpose"}

Row = dict[str, Any]
Trees = dict[str, Path]
Options = argparse.Namespace


def ask(tree: Path, probe: str, within: float = ANSWER_WITHIN, **settings: Any) -> Row:
    """Run a probe in a process of its own; return the last object it printed and how the process ended."""
    rows, ending = run_worker(PROBES, [probe, json.dumps(settings)], environment(tree), within)
    return (rows[-1] if rows else {}) | {"ending": str(ending), "exit_code": ending.code}


def alternate(trees: Trees, rounds: int, probe: str, **settings: Any) -> dict[str, list[Row]]:
    """Run a probe several times, the trees by turns."""
    found: dict[str, list[Row]] = {side: [] for side in trees}
    for _ in range(rounds):
        for side, tree in trees.items():
            found[side].append(ask(tree, probe, **settings))
    return found


def quantity(name: str, figures: dict[str, Any], target: str, details: dict[str, Any] | None = None) -> Row:
    """Make a row from the figures of the trees."""
    sides = {side: figures.get(side) for side in ("baseline", "now")}
    return {"quantity": name} | sides | {"target": target, "details": details or {}}


def figure(answer: Row, field: str) -> Any:
    """Return a field of an answer, or how the process ended if it did not get that far."""
    return answer.get(field, "no figure" if answer["ending"] == "ended" else answer["ending"])


def best(answers: list[Row], field: str, choose: Callable[[list[Any]], Any] = min) -> Any:
    """Return the chosen value of several processes, or how the first of them ended if none has a value."""
    values = [answer[field] for answer in answers if field in answer]
    return choose(values) if values else figure(answers[0], field)


def middle(values: list[Any]) -> Any:
    """Return the median, the upper one of an even number."""
    return sorted(values)[len(values) // 2]


def first_call(trees: Trees, options: Options) -> list[Row]:
    """Measure the first solve of a process."""
    rows = []
    for beta, seconds, maps in ((0.1, "2.0", "300"), (0.0, "3.5", "400")):
        found = alternate(trees, options.processes, "first_call", n=10, beta=beta)
        for field, unit, target in (("cpu_s", "CPU s", seconds), ("maps", "memory maps", maps)):
            figures = {side: best(answers, field, middle) for side, answers in found.items()}
            rows.append(quantity(f"first call, one game, n = 10, beta {beta:g}: {unit}", figures, target, found))
    return rows


def sizes(trees: Trees, options: Options) -> list[Row]:
    """Solve games of many sizes in one process."""
    found = {side: ask(tree, "sizes", sizes=options.sizes) for side, tree in trees.items()}
    figures = {}
    for side, answer in found.items():
        done = f"{answer.get('sizes', 0)} sizes, {answer.get('maps', 0)} maps"
        figures[side] = done if answer["exit_code"] == 0 else f"{done}; {answer['ending']}"
    name = f"n = 3 to {options.sizes + 2} at beta 0.1 and 0 in one process"
    return [quantity(name, figures, "runs to the end", found)]


def batch_sizes(trees: Trees, options: Options) -> list[Row]:
    """Count compiled programs over many batch sizes."""
    found = {side: ask(tree, "batch_sizes", n=10, beta=0.1, batch=BATCH_SIZES) for side, tree in trees.items()}
    complete = {side: answer for side, answer in found.items() if answer.get("sizes") == len(BATCH_SIZES)}
    name = "26 batch sizes of n = 10, beta 0.1"
    fields = (("full programs", "full_programs", "8"), ("programs of any size", "programs", ""))
    return [
        quantity(
            f"{name}: {label}",
            {side: figure(complete.get(side, {"ending": answer["ending"]}), field) for side, answer in found.items()},
            target,
            found,
        )
        for label, field, target in fields
    ]


def memory(trees: Trees, options: Options) -> list[Row]:
    """Measure the growth of a process over random batch sizes."""
    found = {
        side: ask(tree, "memory", n=4, beta=0.1, calls=options.calls, largest=5000) for side, tree in trees.items()
    }
    figures = {}
    for side, answer in found.items():
        done = answer.get("calls") == options.calls
        figures[side] = figure(answer, "growth_mb") if done else f"{answer.get('calls', 0)} calls; {answer['ending']}"
    name = f"{options.calls:,} random batch sizes up to 5,000, n = 4, after the first call: growth in MB"
    return [quantity(name, figures, "100", found)]


def latency(trees: Trees, options: Options) -> list[Row]:
    """Measure a compiled solve of one game."""
    rows = []
    for on_device, kind in ((False, "numpy"), (True, "jax")):
        settings = {"n": 10, "beta": 0.1, "on_device": on_device, "repetitions": options.repetitions}
        found = alternate(trees, options.rounds, "latency", **settings)
        figures = {side: best(answers, "us") for side, answers in found.items()}
        rows.append(quantity(f"warm call, one game, n = 10, beta 0.1, {kind} array: us", figures, "80", found))
    return rows


def in_jit(trees: Trees, options: Options) -> list[Row]:
    """Compare the default with its first method alone, inside `jit`."""
    settings = {"n": 10, "beta": 0.1, "games": 20, "repetitions": max(options.repetitions // 10, 1)}
    found = {side: ask(tree, "in_jit", **settings) for side, tree in trees.items()}
    rows = []
    for field, target in (("constant", "1.2"), ("traced", "1.5")):
        figures = {side: figure(answer, field) for side, answer in found.items()}
        figures = {
            side: f"{value[0]:.2f} to {value[1]:.2f}" if isinstance(value, list) else value
            for side, value in figures.items()
        }
        name = f"inside `jit`, n = 10, {field} beta 0.1, over `AdaptiveNashMP`: ratio over 20 games"
        rows.append(quantity(name, figures, target, found))
    return rows


def in_vmap(trees: Trees, options: Options) -> list[Row]:
    """Compare `jit(vmap(solve))` with one call for the batch."""
    rows = []
    for beta in (0.0, 1e-4, 0.1):
        settings = {"n": 10, "beta": beta, "games": 4096, "calls": 5}
        found = {side: ask(tree, "in_vmap", options.deadline, **settings) for side, tree in trees.items()}
        figures = {side: figure(answer, "ratio") for side, answer in found.items()}
        for side, answer in found.items():
            if "ratio" in answer and answer["exit_code"]:
                figures[side] = f"{answer['ratio']}, then {answer['ending']}"
        name = f"`jit(vmap(solve))`, 4,096 games, n = 10, beta {beta:g}, over the batch call: ratio"
        rows.append(quantity(name, figures, "1.2", found))
    return rows


def frames(trees: Trees, options: Options) -> list[Row]:
    """Count the library's own frames from `nj.solve` to a query."""
    rows = []
    for matrix, kind in ((True, "`MatrixGame`"), (False, "a user's game")):
        found = {side: ask(tree, "frames", n=10, beta=0.1, matrix=matrix) for side, tree in trees.items()}
        for field, which, target in (("in_loop", "query of a step", "9"), ("shortest", "nearest query", "")):
            figures = {side: figure(answer, field) for side, answer in found.items()}
            rows.append(quantity(f"own frames from `nj.solve` to the {which}, {kind}", figures, target, found))
    return rows


def references(path: Path, names: set[str]) -> int:
    """Count the places of a file that name a function, as `name` or `module.name`; text and comments do not count."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = [node.attr for node in nodes if isinstance(node, ast.Attribute)]
    found += [node.id for node in nodes if isinstance(node, ast.Name)]
    return sum(name in names for name in found)


def count_source(tree: Path) -> Row:
    """Count what the structure of the package is judged by."""
    package = tree / "nashjax"
    files = sorted(package.rglob("*.py"))
    core = [path for path in files if path.relative_to(package).parts[0] not in NOT_CORE]
    layout = {path: references(path, LAYOUT_CALLS) for path in core}
    layout = {str(path.relative_to(package)): count for path, count in layout.items() if count}
    jits = {str(path.relative_to(package)): references(path, {"jit"}) for path in core if path.name != "metrics.py"}
    return {
        "hasattr": sum(references(path, {"hasattr"}) for path in files),
        "root_files": sum(path.is_file() for path in package.iterdir()),
        "layout_files": len(layout),
        "layout_places": sum(layout.values()),
        "layout": layout,
        "jit": sum(jits.values()),
        "jits": {path: count for path, count in jits.items() if count},
    }


def static(trees: Trees, options: Options) -> list[Row]:
    """Count over the source of the package."""
    found = {side: count_source(tree) for side, tree in trees.items()}
    layout = {side: f"{one['layout_files']} files, {one['layout_places']} places" for side, one in found.items()}
    return [
        quantity("`hasattr` in the package", {side: one["hasattr"] for side, one in found.items()}, "0", found),
        quantity("files at the root of the package", {s: one["root_files"] for s, one in found.items()}, "12", found),
        quantity("`moveaxis`, `swapaxes`, `transpose` in the core", layout, "2 files", found),
        quantity("`jax.jit` in the core, metrics excluded", {s: one["jit"] for s, one in found.items()}, "", found),
    ]


ROWS: dict[str, Callable[[Trees, Options], list[Row]]] = {
    "static": static,
    "frames": frames,
    "first-call": first_call,
    "batch-sizes": batch_sizes,
    "latency": latency,
    "jit": in_jit,
    "vmap": in_vmap,
    "sizes": sizes,
    "memory": memory,
}
LONG = ("sizes", "memory")


def markdown(rows: list[Row]) -> str:
    """Return the table of quantities."""
    lines = ["| quantity | baseline | now | target |", "| --- | --- | --- | --- |"]
    for row in rows:
        cells = (row["quantity"], row["baseline"], row["now"], row["target"])
        lines.append("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def arguments() -> Options:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--baseline", type=Path, help="source tree to compare with")
    parser.add_argument("--rows", help=f"some of: {','.join(ROWS)}; default all but {' and '.join(LONG)}")
    parser.add_argument("--long", action="store_true", help=f"add the rows {' and '.join(LONG)} (many minutes)")
    parser.add_argument("--processes", type=int, default=3, help="processes for each first call, of which the median")
    parser.add_argument("--rounds", type=int, default=5, help="processes for each latency, of which the best")
    parser.add_argument("--repetitions", type=int, default=2000, help="calls in each process for a latency")
    parser.add_argument("--deadline", type=float, default=60, help="seconds without an answer in the row vmap")
    parser.add_argument("--sizes", type=int, default=200, help="sizes of the row sizes, from n = 3 on")
    parser.add_argument("--calls", type=int, default=1000, help="calls of the row memory")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--append", action="store_true", help="keep the rows of the file that are not measured again")
    options = parser.parse_args()
    options.rows = options.rows.split(",") if options.rows else [name for name in ROWS if name not in LONG]
    options.rows += [name for name in LONG if options.long and name not in options.rows]
    if unknown := set(options.rows) - set(ROWS):
        parser.error(f"--rows must be some of {', '.join(ROWS)}, got {', '.join(sorted(unknown))}")
    if options.baseline and not (options.baseline / "nashjax" / "__init__.py").exists():
        parser.error(f"--baseline must be a folder that holds nashjax, got {options.baseline}")
    return options


def main() -> None:
    """Measure, print the table and write the figures."""
    options = arguments()
    trees = {"baseline": options.baseline} if options.baseline else {}
    trees["now"] = NOW
    path = options.output / "engine.json"
    old = read_rows("engine", options.output) if options.append and path.exists() else []
    rows: list[Row] = []
    for name in options.rows:
        rows += [{"row": name} | row for row in ROWS[name](trees, options)]
        write_results("engine", ABOUT, merge(old, rows, "quantity"), options.output)
        print("measured", name, flush=True)
    print(markdown(rows))
    print("written to", path)


if __name__ == "__main__":
    main()
