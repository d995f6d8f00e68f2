"""This library beside other solvers: time for each game, accuracy reached, share of games unsolved.

Run `python -m benchmarks.peers` in the project's folder, with the extra `peers` installed; `--group`, `--peers`,
`--actions`, `--batch`, `--betas` choose a part of it, and `--append` keeps what the file has of the rest. Writes
`peers.json` into the folder `--output`, by default benchmarks/results.

Each case is one peer on games of one size and beta, in a process of its own that is ended after `--limit` seconds for
each kind of games. It solves the games with the peer, checks the answers, finds the largest `tol` at which this library
is as accurate, and then times both by turns, so that whatever else the machine does meets both.

One file, though long: drawing games, timing by turns and judging answers are one procedure that all groups share.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nashjax as nj
from benchmarks.peer_solvers import PEERS, Peer, Task, exploitability, newton_with_continuation, numpy_newton
from benchmarks.record import RESULTS, write_results

ABOUT = (
    "One row for each peer and set of games. us: microseconds for each game, median of `runs` runs after a warm-up, "
    "each of as many calls as take 0.2 s; "
    "compile_s: how much longer the first call took. exploitability: the largest of the solved games, and unsolved: "
    "the share of games above `target`, both recomputed in float64 by numpy. log_error: largest error of a "
    "log-probability in the first games (16, or 2 above n = 100) as far as solved, against Newton's method in numpy; "
    "null where that failed or is the peer itself, and at beta = 0. games: solved at a time by this library; sample: "
    "measured of a peer that takes one game at a time. nashjax_*: this library on the same games, at `nashjax_beta` "
    "and `nashjax_tol`, in `nashjax_dtype`. ratio: us / nashjax_us. as_accurate: whether this library was at least as "
    "accurate, up to rounding."
)
LARGEST_BATCH = 2**24
"""Entries of all matrices of a case at most: larger batches are cut."""
LARGEST_SAMPLE = 256
SAMPLE_SECONDS = 2.0
"""Peers that take one game at a time get as many games as fit into this."""
RUNS = 5
SHORTEST = 0.2
"""Seconds that a run takes at least: shorter calls are made several times."""
SLACK = 1.01
"""A float32 certificate and the check in float64 differ in the last digits."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Cases that answer one question: all combinations of the fields, and how this library is asked.

    Attributes:
      algorithm: of this library; None is its default.
      dtype: of this library; None is the peer's.
      tol: of this library; None is whatever makes it as accurate as the peer.
      beta: of this library; None is the peer's.
      largest_log_error: where given, accuracy includes a log-policy error of at most this.
      good_enough: exploitability below which differences do not count.
      cases: actions, games and beta, instead of all combinations.
    """

    peers: tuple[str, ...]
    actions: tuple[int, ...] = ()
    batch: tuple[int, ...] = ()
    betas: tuple[float, ...] = ()
    kinds: tuple[str, ...] = ("gaussian",)
    algorithm: nj.Newton | None = None
    dtype: str | None = None
    tol: float | None = None
    beta: float | None = None
    largest_log_error: float | None = None
    good_enough: float = 0.0
    cases: tuple[tuple[int, int, float], ...] = ()


ROOT_FINDERS = tuple(name for name in PEERS if name.startswith("optimistix"))
GROUPS = {
    "root-finders": Group(
        peers=(*ROOT_FINDERS, "numpy newton"),
        cases=tuple((n, batch, beta) for n, batch in ((10, 256), (50, 64)) for beta in (0.1, 0.01, 0.001)),
        kinds=("gaussian", "uniform", "tournament", "cyclic"),
        algorithm=nj.Newton(),
        tol=1e-14,
        largest_log_error=1e-9,
        good_enough=1e-20,
    ),
    "logit": Group(("pygambit logit",), (10, 100), (1000,), (0.1,), largest_log_error=1e-9, good_enough=1e-20),
    "plain": Group(tuple(name for name in PEERS if not PEERS[name].regularized), (3, 10, 100, 500), (1000,), (0.0,)),
    "bootstrap-exact": Group(("numpy newton",), (59,), (1000,), (0.01,), kinds=("bootstrap",)),
    "bootstrap": Group(
        ("highs", "numpy newton"),
        (59,),
        (1000,),
        (0.0, 0.01),
        kinds=("bootstrap",),
        dtype="float32",
        tol=1e-6,
        beta=0.01,
    ),
    "textbook": Group(
        ("textbook fixed", "textbook adaptive"),
        cases=((3, 65536, 0.1), (10, 4096, 0.1), (10, 16384, 0.01), (100, 1024, 0.01), (500, 64, 0.01)),
    ),
    "grid": Group(tuple(PEERS), (3, 10, 50, 100, 500), (1, 100, 4096), (0.0, 0.01, 0.1)),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One peer on sets of games that differ only in kind: a row of the table for each."""

    group: str
    peer: str
    n: int
    batch: int
    beta: float


def main() -> None:
    """Run the comparison, or a part of it, from the command line."""
    options = arguments()
    if options.case:
        run_case(Case(**json.loads(options.case)), options.limit)
        return
    path = options.output / "peers.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if options.append and path.exists() else []
    tried: list[tuple[Case, bool]] = []
    for case in choose_cases(options):
        outcomes = hopeless(case, tried) or measure(case, options.limit)
        tried.append((case, any("us" in outcome for outcome in outcomes.values())))
        version = importlib.metadata.version(PEERS[case.peer].package)
        for kind, outcome in outcomes.items():
            identity = dataclasses.asdict(case) | {"kind": kind}
            row = identity | {"version": version, "date": datetime.date.today().isoformat()} | outcome
            rows = [old for old in rows if any(old[key] != identity[key] for key in identity)] + [row]
            print(json.dumps(row), flush=True)
        write_results("peers", ABOUT, rows, options.output)
    print("written to", path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", default=",".join(GROUPS), help="questions to answer, with commas between")
    parser.add_argument("--peers", help=f"some of: {', '.join(PEERS)}")
    parser.add_argument("--actions", help="numbers of actions instead of the group's, or of its cases")
    parser.add_argument("--batch", help="numbers of games, likewise")
    parser.add_argument("--betas", help="values of beta, likewise")
    parser.add_argument("--limit", type=float, default=120, help="seconds for a case, and for each kind of games in it")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--append", action="store_true", help="keep the rows of the file that are not measured again")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    return parser.parse_args()


def choose_cases(options: argparse.Namespace) -> list[Case]:
    """The cases asked for, less those of peers that are not installed, which one line each tells."""
    missing = {name for name in PEERS if not installed(PEERS[name].package)}
    cases = []
    for name in options.group.split(","):
        group = GROUPS[name]
        peers = options.peers.split(",") if options.peers else group.peers
        asked = (parse(options.actions, int), parse(options.batch, int), parse(options.betas, float))
        actions, batches, betas = (
            own if given is None else given
            for own, given in zip((group.actions, group.batch, group.betas), asked, strict=True)
        )
        if not group.cases:
            combinations = [(n, batch, beta) for n, beta, batch in itertools.product(actions, betas, batches)]
        else:
            combinations = [
                case
                for case in group.cases
                if all(given is None or value in given for value, given in zip(case, asked, strict=True))
            ]
            if not combinations:
                raise SystemExit(f"{name}: no case is left; it has {', '.join(map(str, group.cases))}")
        for (n, batch, beta), peer in itertools.product(combinations, group.peers):
            if peer in peers and PEERS[peer].regularized == (beta > 0):
                cases.append(Case(name, peer, n, batch, beta))
    for name in sorted(missing & {case.peer for case in cases}):
        print(f"skipped: {name} needs {PEERS[name].package}, which the extra `peers` installs")
    return [case for case in cases if case.peer not in missing]


def parse(text: str | None, kind: type) -> list[Any] | None:
    return None if text is None else [kind(word) for word in text.split(",")]


def installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def hopeless(case: Case, tried: list[tuple[Case, bool]]) -> dict[str, dict[str, Any]] | None:
    """The outcome of a case that is not tried because the peer did not finish one of fewer and smaller games."""
    for old, finished in tried:
        same = (old.group, old.peer, old.beta) == (case.group, case.peer, case.beta)
        if same and old.n <= case.n and old.batch <= case.batch and not finished:
            outcome = {"outcome": f"not tried, after n = {old.n}"}
            return dict.fromkeys(GROUPS[case.group].kinds, outcome)
    return None


def measure(case: Case, limit: float) -> dict[str, dict[str, Any]]:
    """Run a case in a process of its own; what it printed before it failed or was ended is kept. A result a kind."""
    kinds = GROUPS[case.group].kinds
    command = [sys.executable, "-m", "benchmarks.peers", "--limit", str(limit)]
    command += ["--case", json.dumps(dataclasses.asdict(case))]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=limit * len(kinds), check=False)
        output, failure = ended.stdout, f"failed: {last_line(ended.stderr)}"
    except subprocess.TimeoutExpired as expired:
        output, failure = expired.stdout or b"", "timed out"
    found: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for line in output.decode().splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            found[row["kind"]] = row
    return {kind: {"outcome": "done" if "ratio" in row else failure} | row for kind, row in found.items()}


def last_line(stderr: bytes) -> str:
    return (stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1][:200]


# --- in the process of a case -----------------------------------------------------------------------------------------


def run_case(case: Case, limit: float) -> None:
    """Measure a case in this process."""
    jax.config.update("jax_enable_x64", True)
    for kind in GROUPS[case.group].kinds:
        run_kind(case, kind, limit)


def run_kind(case: Case, kind: str, limit: float) -> None:
    """Measure one kind of games, printing what is known so far: the peer alone, then with this library beside it."""
    peer, group = PEERS[case.peer], GROUPS[case.group]
    task = make_task(case, kind)
    row: dict[str, Any] = {"kind": kind, "games": len(task.P), "dtype": peer.dtype, "target": peer.target}

    sampled, warm_up = sample(peer, task)
    solve = peer.prepare(sampled)
    log_policy, first_seconds = timed(solve)
    seconds = [repeated(solve)]
    expected = log_equilibria(sampled)
    found = judge(sampled, log_policy, None if peer.prepare is numpy_newton else expected, peer.target)
    compile_s = warm_up if peer.one_by_one else max(first_seconds - seconds[0], 0)
    row |= {"sample": len(sampled.P), "runs": 1, "us": round(seconds[0] / len(sampled.P) * 1e6, 2)}
    row |= {"compile_s": round(compile_s, 2)} | found
    print(json.dumps(row), flush=True)

    here = task._replace(beta=task.beta if group.beta is None else group.beta)
    rival, as_accurate, settings = match(group, here, peer, found, expected if here.beta == task.beta else None)
    rival_seconds = [repeated(rival)]
    enough = 0.4 * limit / (seconds[0] + rival_seconds[0])
    for _ in range(min(RUNS, math.ceil(enough)) - 1):
        seconds.append(repeated(solve))
        rival_seconds.append(repeated(rival))
    row |= {"runs": len(seconds), "us": round(statistics.median(seconds) / len(sampled.P) * 1e6, 2)} | settings
    row["nashjax_us"] = round(statistics.median(rival_seconds) / len(task.P) * 1e6, 2)
    row |= {"ratio": float(f"{row['us'] / row['nashjax_us']:.3g}"), "as_accurate": as_accurate}
    print(json.dumps(row), flush=True)


def make_task(case: Case, kind: str) -> Task:
    """The games of a case, `cyclic` ones with a Dirichlet(1) reference: their equilibrium is uniform."""
    games = min(case.batch, max(LARGEST_BATCH // case.n**2, 1))
    if kind == "bootstrap":
        P = bootstrap_games(case.n, games)
    else:
        P = np.asarray(nj.games.random_game(jax.random.key(case.n), case.n, (games,), kind).preferences)
    reference = np.full((games, case.n), 1 / case.n)
    if kind == "cyclic":
        reference = np.random.default_rng(case.n).dirichlet(np.ones(case.n), games)
    return Task(P, np.log(reference), case.beta)


def bootstrap_games(n: int, games: int, battles: int = 9000, ties: float = 0.4) -> np.ndarray:
    """An arena of items with ratings and cycles: its battles drawn once, then resampled for each game.

    An entry is the share of wins, a tie being half a win, with one battle of prior on each pair, tied.
    """
    rng = np.random.default_rng(n)
    rating, noise = rng.normal(size=n), rng.normal(size=(n, n))
    logits = rating[:, None] - rating[None, :] + (noise - noise.T) / 2
    upper = np.triu_indices(n, 1)
    win = (1 - ties) / (1 + np.exp(-logits[upper]))
    outcomes = np.stack([win, np.full_like(win, ties), 1 - ties - win]).ravel() / len(win)
    observed = rng.multinomial(battles, outcomes)
    wins, ties_seen, losses = rng.multinomial(battles, observed / battles, games).reshape(games, 3, -1).swapaxes(0, 1)
    P = np.full((games, n, n), 0.5)
    P[:, upper[0], upper[1]] = (wins + ties_seen / 2 + 0.5) / (wins + ties_seen + losses + 1)
    P[:, upper[1], upper[0]] = 1 - P[:, upper[0], upper[1]]
    return P


def sample(peer: Peer, task: Task) -> tuple[Task, float]:
    """As many games as a peer can be measured on, and the seconds that a peer of single games took to warm up."""
    if not peer.one_by_one:
        return task, 0.0
    one = peer.prepare(task.first(1))
    _, first_seconds = timed(one)
    _, seconds = timed(one)
    return task.first(max(min(int(SAMPLE_SECONDS / seconds), LARGEST_SAMPLE), 1)), max(first_seconds - seconds, 0)


def log_equilibria(task: Task) -> np.ndarray | None:
    """Log-policies of the first games to compare with; None at beta = 0, where they need not be unique."""
    if task.beta == 0:
        return None
    few = task.first(16 if task.P.shape[-1] <= 100 else 2)
    games = zip(few.P, few.log_reference, strict=True)
    return np.stack([newton_with_continuation(P, log_r, task.beta) for P, log_r in games])


def judge(task: Task, log_policy: np.ndarray, expected: np.ndarray | None, target: float) -> dict[str, float | None]:
    """What a row says about accuracy."""
    value = exploitability(task, log_policy)
    solved = value <= SLACK * target  # false for NaN
    found: dict[str, float | None] = {
        "exploitability": float(f"{value[solved].max():.3g}") if solved.any() else None,
        "unsolved": round(float(1 - solved.mean()), 4),
        "log_error": None,
    }
    if expected is not None:
        error = np.abs(log_policy[: len(expected)] - expected).max(-1)[solved[: len(expected)]]
        error = error[np.isfinite(error)]
        found["log_error"] = float(f"{error.max():.3g}") if len(error) else None
    return found


def match(
    group: Group, task: Task, peer: Peer, found: dict[str, float | None], expected: np.ndarray | None
) -> tuple[Callable[[], Any], bool, dict[str, Any]]:
    """This library at the largest tolerance of a few that makes it as accurate as the peer, its checks of input on.

    Returns:
      The call, whether it is as accurate, and what to write in the row.
    """
    dtype = jnp.dtype(group.dtype or peer.dtype)
    eps = float(jnp.finfo(dtype).eps)
    # Ten roundings of payoffs and logarithms; see `nj.RegularizedGame.rounding_floor` for one.
    rounding = 100 * eps**2 * (1 / task.beta + 8 * task.beta) if task.beta > 0 else 1e-13
    reached = peer.target if found["exploitability"] is None else found["exploitability"]
    reached = max(reached, rounding, group.good_enough)
    if group.tol is not None:
        tolerances = [group.tol]
    elif task.beta == 0:
        tolerances = [peer.target]
    else:
        # Below 1e-14 only log-policies still improve, and those by the steps past the tolerance.
        tolerances = [max(reached * factor, min(reached, 1e-14)) for factor in (1, 0.1, 1e-2, 1e-4, 1e-6, 1e-8)]

    game = nj.MatrixGame(jnp.asarray(task.P, dtype))
    uniform = np.ptp(task.log_reference) == 0
    reference = None if uniform else jnp.asarray(np.exp(task.log_reference), dtype)

    def solve_to(tol: float) -> Callable[[], Any]:
        return lambda: nj.solve(game, task.beta, reference=reference, tol=tol, algorithm=group.algorithm).log_policy

    def judge_at(tol: float) -> tuple[dict[str, float | None], bool]:
        here = judge(task, timed(solve_to(tol))[0], expected, max(group.tol or 0, peer.target))
        as_accurate = here["exploitability"] is not None and here["exploitability"] <= reached
        if group.largest_log_error is not None and here["log_error"] is not None:
            as_accurate &= here["log_error"] <= group.largest_log_error
        return here, as_accurate

    tol, *smaller = tolerances
    _, first_seconds = timed(solve_to(tol))
    _, second_seconds = timed(solve_to(tol))
    here, as_accurate = judge_at(tol)
    while smaller and not as_accurate:
        tol, *smaller = smaller
        here, as_accurate = judge_at(tol)
    settings: dict[str, Any] = {"nashjax_beta": task.beta, "nashjax_tol": tol, "nashjax_dtype": dtype.name}
    settings["nashjax_compile_s"] = round(max(first_seconds - second_seconds, 0), 2)
    return solve_to(tol), as_accurate, settings | {f"nashjax_{key}": value for key, value in here.items()}


def timed(solve: Callable[[], Any]) -> tuple[np.ndarray, float]:
    """A call's answer as float64 numpy and the seconds that it took."""
    start = time.perf_counter()
    answer = jax.block_until_ready(solve())
    seconds = time.perf_counter() - start
    return np.asarray(answer, np.float64), seconds


def repeated(solve: Callable[[], Any]) -> float:
    """Seconds of a call: the mean of as many as fill `SHORTEST`, since one of milliseconds says little."""
    _, seconds = timed(solve)
    calls = math.ceil(SHORTEST / seconds)
    return seconds if calls == 1 else statistics.mean(timed(solve)[1] for _ in range(calls))


if __name__ == "__main__":
    main()
