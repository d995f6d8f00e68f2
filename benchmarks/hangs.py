"""Check that solves inside of transforms of jax end: every verb, transform, beta and batch size.

Run `python -m benchmarks.hangs` in the project's folder on Linux (hours; `--quick` takes minutes). `--verbs`,
`--transforms`, `--betas` and `--batch` select cases, and `--tree PATH` checks another source tree. Prints each case
that does not end well and a table, and writes `hangs.json` into the folder `--output`, by default benchmarks/results.
The cases of one verb and transform share a process; after a hang the remaining cases go on in a new process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path
from typing import Any

import nashjax as nj
from benchmarks.processes import Ending, environment, merge, run_worker
from benchmarks.record import RESULTS, read_rows, write_results

ABOUT = (
    "One row for each case and process. batch: games asked for; games: games solved at once, fewer than `batch` where "
    "derivatives of all would not fit into memory (on each of two simulated devices for `shard_map`, which is "
    "`unchecked` with `check_vma=False`). outcome: ok; fail: an exception or the end of the process, see `message`; "
    "hang: a call did not end within the deadline while the process was idle; slow: the same while it was at work. "
    "calls: calls that ended, of `asked`; first_s: seconds of the first call, compilation included; call_s: median of "
    "the others. finite: whether all results of the last call were; derivatives at beta = 0 are documented to be NaN."
)
CASES = Path(__file__).with_name("hang_cases.py")
VERBS = ("solve", "solve_path", "trajectory")
TRANSFORMS = (
    "jit",
    "vmap",
    "nested-vmap",
    "grad",
    "jacfwd",
    "hessian",
    "scan",
    "shard_map",
    "shard_map-unchecked",
    "two-solves",
    "beside-linalg",
)
BETAS = (0.0, 1e-4, 0.1)
BATCH = (1, 64, 4096)
QUICK = {"transforms": ("vmap", "two-solves", "beside-linalg"), "betas": (0.0, 0.1), "batch": (64,)}
MOST_GAMES = {"jacfwd": 1024, "hessian": 256}
"""Derivatives of more games at once do not fit into the memory of a small machine."""
KEYS = ("verb", "transform", "beta", "batch", "process")

Row = dict[str, Any]
Options = argparse.Namespace


def make_cases(transform: str, options: Options) -> list[Row]:
    """Return the cases of a transform as the worker reads them."""
    return [
        {
            "case": number,
            "beta": beta,
            "batch": batch,
            "n": 6 if transform == "hessian" else 10,
            "games": min(batch, MOST_GAMES.get(transform, batch)),
        }
        for number, (beta, batch) in enumerate(itertools.product(options.betas, options.batch))
    ]


def run_group(verb: str, transform: str, options: Options) -> list[Row]:
    """Run all cases of a verb and a transform, in a new process after each that ends the process."""
    more = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"} if transform.startswith("shard_map") else {}
    variables = environment(options.tree, **more)
    left, rows = make_cases(transform, options), []
    while left:
        asked = {"verb": verb, "transform": transform, "cases": left}
        asked |= {"calls": options.repeat, "limit": options.deadline}
        lines, ending = run_worker(CASES, [json.dumps(asked)], variables, options.deadline)
        # The last case that began is the one that ended the process; without any, the process did not start.
        begun = {line["case"] for line in lines} or {left[0]["case"]}
        for case in (case for case in left if case["case"] in begun):
            own = [line for line in lines if line["case"] == case["case"]]
            rows.append({"verb": verb, "transform": transform} | judge(case, own, ending) | {"asked": options.repeat})
        left = [case for case in left if case["case"] not in begun]
    return rows


def judge(case: Row, lines: list[Row], ending: Ending) -> Row:
    """Return the row of a case from what its process reported."""
    row = {key: case[key] for key in ("beta", "batch", "n", "games")}
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    last = lines[-1] if lines else {}
    if "error" in last:
        row |= {"outcome": "fail", "message": last["error"]}
    elif last.get("done"):
        row |= {"outcome": "ok", "finite": last["finite"]}
    elif ending.how in ("hangs", "slow"):
        row["outcome"] = "hang" if ending.how == "hangs" else "slow"
    else:
        row |= {"outcome": "fail", "message": str(ending)}
    row["calls"] = len(seconds)
    if seconds:
        row["first_s"] = seconds[0]
    if len(seconds) > 1:
        row["call_s"] = round(statistics.median(seconds[1:]), 5)
    return row


def show(row: Row) -> str:
    """Return one line about a case."""
    cut = "" if row["games"] == row["batch"] else f" (cut to {row['games']} games)"
    where = f"{row['verb']}, {row['transform']}, beta {row['beta']:g}, batch {row['batch']}{cut}"
    done = f"{row['calls']} of {row['asked']} calls, first {row.get('first_s', '-')} s, then {row.get('call_s', '-')} s"
    return f"{row['outcome']}: {where}: {done} {row.get('message', '')}".rstrip()


def markdown(rows: list[Row]) -> str:
    """Return the table: outcomes by verb and transform, and the cases that did not end well."""
    lines = ["| verb | transform | ok | fail | hang | slow | slowest call, s | not ok |"]
    lines.append("|" + " --- |" * 8)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["verb"], row["transform"]), []).append(row)
    for group, found in groups.items():
        counts = [sum(row["outcome"] == outcome for row in found) for outcome in ("ok", "fail", "hang", "slow")]
        slowest = max((row["call_s"] for row in found if "call_s" in row), default="")
        bad = [f"{row['outcome']} at beta {row['beta']:g}, batch {row['batch']}" for row in found]
        bad = [text for text in bad if not text.startswith("ok")]
        lines.append("| " + " | ".join(map(str, (*group, *counts, slowest, "; ".join(dict.fromkeys(bad))))) + " |")
    return "\n".join(lines)


def arguments() -> Options:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])

    def words(text: str) -> tuple[str, ...]:
        return tuple(text.split(","))

    parser.add_argument("--tree", type=Path, default=Path(str(nj.__file__)).parents[1], help="source tree to check")
    parser.add_argument("--verbs", type=words, help=f"some of: {','.join(VERBS)}")
    parser.add_argument("--transforms", type=words, help=f"some of: {','.join(TRANSFORMS)}")
    parser.add_argument("--betas", type=words, help="values of beta, with commas between")
    parser.add_argument("--batch", type=words, help="numbers of games, with commas between")
    parser.add_argument("--quick", action="store_true", help="a few transforms, betas and batch sizes, unless given")
    parser.add_argument("--repeat", type=int, default=10, help="calls of each compiled function")
    parser.add_argument("--processes", type=int, default=1, help="how often each case is run in a new process")
    parser.add_argument("--deadline", type=float, default=120, help="seconds for one call, and for no new call after")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--append", action="store_true", help="keep the rows of the file that are not measured again")
    options = parser.parse_args()
    quick = QUICK if options.quick else {}
    options.verbs = options.verbs or VERBS
    options.transforms = options.transforms or quick.get("transforms", TRANSFORMS)
    options.betas = tuple(map(float, options.betas or quick.get("betas", BETAS)))
    options.batch = tuple(map(int, options.batch or quick.get("batch", BATCH)))
    for name, known in (("verbs", VERBS), ("transforms", TRANSFORMS)):
        if unknown := set(getattr(options, name)) - set(known):
            parser.error(f"--{name} must be some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    if not (options.tree / "nashjax" / "__init__.py").exists():
        parser.error(f"--tree must be a folder that holds nashjax, got {options.tree}")
    return options


def main() -> None:
    """Run all cases asked for, print the table and write the outcomes."""
    options = arguments()
    path = options.output / "hangs.json"
    rows: list[Row] = []
    old = read_rows("hangs", options.output) if options.append and path.exists() else []
    for process in range(1, options.processes + 1):
        for verb, transform in itertools.product(options.verbs, options.transforms):
            found = [row | {"process": process} for row in run_group(verb, transform, options)]
            print("\n".join(map(show, found)), flush=True)
            rows += found
            write_results("hangs", ABOUT, merge(old, rows, *KEYS), options.output)
    print(markdown(rows))
    print("written to", path)


if __name__ == "__main__":
    main()
