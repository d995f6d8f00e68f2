"""How far learning from sampled comparisons gets: exploitability against comparisons spent, for every method.

Run `python -m benchmarks.stochastic` in the project's folder with the extras `train` and `plot` installed (some
hours on a core); `--part` chooses parts, `--setting S` runs setting S alone (minutes), and `--figure` draws the file
again. Writes `stochastic.json` and `stochastic.png` into the folder `--output`, by default benchmarks/results.

Setting S: `gaussian` games of scale 4 with 10 actions, answers 0 or 1, 256,000 comparisons a game; 32 games, each
learnt 4 times. Every method is tuned at setting S over the same learning rates, and runs at other budgets with the best
of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import time
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

import nashjax as nj
from benchmarks import tables
from benchmarks.record import RESULTS, write_results
from nashjax import stochastic as st

ABOUT = (
    "One row for each run, float32: 32 games times 4 seeds, `exploitability` the mean of all, `low` and `high` its "
    "95 % interval over games, `worst` the largest mean of a game. part: tune, the learning rates that were tried at "
    "256,000 comparisons; budget, the best of them at other budgets; loops, inner steps and batch sizes; reductions, "
    "what each device against variance does; contextual, a network on the features of 256 contexts, judged on 256 "
    "others (`seen`: on those it has learnt from)."
)
ACTIONS, SCALE, GAMES, SEEDS = 10, 4.0, 32, 4
BETAS = (0.02, 0.1)
COMPARISONS = 256_000
BUDGETS = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
METHODS: dict[str, st.PolicyMethod] = {
    "Nash-MP": st.StochasticNashMP(),
    "two-average": st.AveragedNashMP.two_average(),
    "proximal-point": st.AveragedNashMP.proximal_point(),
    "target": st.AveragedNashMP.target(),
    "Nash Prox": st.StochasticNashProx(),
    "MMD-PG": st.MMDPolicyGradient(),
    "Nash-MD-PG": st.NashMDPolicyGradient(),
    "Nash-MD-PG, mixture 0.02": st.NashMDPolicyGradient(mixture=0.02),
    "self-play PG": st.SelfPlayPolicyGradient(),
    "online IPO": st.OnlineIPO(),
    "online DPO": st.OnlineDPO(),
    "online DPO, scale 0.3": st.OnlineDPO(scale=0.3),
}
TABULAR: dict[str, st.Method] = {
    "plug-in": st.PlugIn(),
    "plug-in, asked at the equilibrium": st.PlugIn(ask="equilibrium"),
    "closed-form prox": st.ClosedFormNashMP(),
}
DEFAULT = "Nash-MP, its defaults"
OURS = ("Nash-MP", "two-average", "proximal-point", "target")


def setting_s() -> st.BernoulliOracle:
    """The games of setting S, `[32, 4]`: each stands there 4 times."""
    game = nj.games.random_game(jax.random.key(2505), ACTIONS, (GAMES, 1), "gaussian", scale=SCALE)
    return st.BernoulliOracle(nj.MatrixGame(jnp.broadcast_to(game.preferences, (GAMES, SEEDS, ACTIONS, ACTIONS))))


def measure(method: st.Method, beta: float, num_comparisons: int) -> dict[str, Any]:
    """One run, as the fields of a row."""
    start = time.perf_counter()
    result = st.train(
        setting_s(),
        beta,
        method=method,
        num_comparisons=num_comparisons,
        key=jax.random.key(1),
        num_records=1,
    )
    seconds = time.perf_counter() - start
    return summary(result.exploitability) | {
        "beta": beta,
        "comparisons": int(result.comparisons.max()),
        "seconds": round(seconds, 1),
    }


def summary(exploitability: Any) -> dict[str, float]:
    """The mean, its 95 % interval over games and the worst game, of `[games, seeds]`."""
    games = np.asarray(exploitability, np.float64).mean(axis=1)
    half = 1.96 * games.std(ddof=1) / np.sqrt(len(games))
    values = {
        "exploitability": games.mean(),
        "low": games.mean() - half,
        "high": games.mean() + half,
        "worst": games.max(),
    }
    return {name: float(f"{value:.3g}") for name, value in values.items()}


def tune(methods: list[str]) -> list[dict[str, Any]]:
    """Every method at setting S with every learning rate; methods without one, once."""
    rows = []
    for beta in BETAS:
        for name, method in METHODS.items():
            for rate in RATES if name in methods else ():
                tried = dataclasses.replace(method, learning_rate=rate)
                rows.append(show("tune", name, measure(tried, beta, COMPARISONS), rate))
        for name, method in (TABULAR | {DEFAULT: st.StochasticNashMP()}).items():
            if name in methods:
                rows.append(show("tune", name, measure(method, beta, COMPARISONS)))
    return rows


def budgets(tuned: list[dict[str, Any]], methods: list[str], chosen: list[int]) -> list[dict[str, Any]]:
    """Every method at other budgets, with its best learning rate."""
    rows = []
    for comparisons in chosen:
        for beta in BETAS:
            for name, method in (METHODS | TABULAR | {DEFAULT: st.StochasticNashMP()}).items():
                if name not in methods:
                    continue
                tries = [row for row in tuned if row["method"] == name and row["beta"] == beta]
                rate = min(tries, key=lambda row: row["exploitability"])["learning_rate"]
                tried = dataclasses.replace(cast(Any, method), learning_rate=rate) if rate else method
                row = measure(tried, beta, comparisons) | {"budget": comparisons}
                rows.append(show("budget", name, row, rate))
    return rows


def loops() -> list[dict[str, Any]]:
    """Two-loop Nash-MP with several inner steps and batch sizes."""
    rows = []
    for beta in BETAS:
        for inner_steps in (6, 24, 96):
            for batch_size in (8, 32, 128):
                method = st.StochasticNashMP(inner_steps=inner_steps, batch_size=batch_size)
                row = measure(method, beta, COMPARISONS) | {"inner_steps": inner_steps, "batch_size": batch_size}
                rows.append(show("loops", "Nash-MP", row, method.learning_rate))
    return rows


def reductions() -> list[dict[str, Any]]:
    """Two-loop Nash-MP without one of its devices, or with another."""
    base = st.StochasticNashMP()
    variants = {
        "as it is": base,
        "one side of a comparison": dataclasses.replace(base, both_sides=False),
        "no leave-one-out baseline": dataclasses.replace(base, baseline=False),
        "neither": dataclasses.replace(base, both_sides=False, baseline=False),
        "last iterate": dataclasses.replace(base, averaging=None),
        "average of all alike": dataclasses.replace(base, averaging=0.0),
        "average of late ones": dataclasses.replace(base, averaging=4.0),
        "no decay of the learning rate": dataclasses.replace(base, schedule=st.no_decay),
        "second loop from the centre": dataclasses.replace(base, warm=False),
        "optimiser anew in each loop": dataclasses.replace(base, keep_optimizer=False),
        "plain gradients, rate 1": dataclasses.replace(base, optimizer=optax.sgd(1.0)),
        "plain gradients, rate 3": dataclasses.replace(base, optimizer=optax.sgd(3.0)),
    }
    rows = []
    for beta in BETAS:
        for name, method in variants.items():
            rows.append(show("reductions", name, measure(method, beta, COMPARISONS)))
        probabilities = st.ProbabilityOracle(setting_s().game)
        result = st.train(
            probabilities, beta, method=base, num_comparisons=COMPARISONS, key=jax.random.key(1), num_records=1
        )
        row = summary(result.exploitability) | {"beta": beta, "comparisons": COMPARISONS}
        rows.append(show("reductions", "answers are probabilities", row))
    return rows


def contextual() -> list[dict[str, Any]]:
    """A network on features: 256 contexts to learn from, 256 others of the same distribution to be judged on.

    The matrix of a context is `sigmoid(4 sum_k x_k B_k / sqrt(d))`, `B_k` antisymmetric and Gaussian, `x` standard
    Gaussian with d = 3. Exact gradients, of every context at every step, show what the network can do; more
    of them fit the contexts they have seen better and others worse.
    """
    d, contexts = 3, 256
    for_matrices, for_features = jax.random.split(jax.random.key(256))
    B = jax.random.normal(for_matrices, (d, ACTIONS, ACTIONS))
    B = jnp.triu(B, 1) - jnp.swapaxes(jnp.triu(B, 1), -1, -2)
    features = jax.random.normal(for_features, (2, contexts, d))
    logits = SCALE * jnp.einsum("sck,kij->scij", features, B, precision="highest") / np.sqrt(d)
    seen, unseen = nj.MatrixGame(jax.nn.sigmoid(logits[0])), nj.MatrixGame(jax.nn.sigmoid(logits[1]))
    policy = st.MLPPolicy(features[0], ACTIONS)
    elsewhere = dataclasses.replace(policy, features=features[1])
    rows = []
    options: dict[str, Any] = {"learning_rate": 0.003, "batch_size": 256}
    exact = st.StochasticNashMP(learning_rate=0.01, batch_size=256, exact=True)
    methods: dict[str, tuple[st.PolicyMethod, int]] = {
        "Nash-MP": (st.StochasticNashMP(**options), 2**24),
        "proximal-point": (st.AveragedNashMP.proximal_point(**options), 2**24),
        "self-play PG": (st.SelfPlayPolicyGradient(**options), 2**24),
        "online IPO": (st.OnlineIPO(**options), 2**24),
        "Nash-MP, 4,096 exact gradients": (exact, 2**20),
        "Nash-MP, 16,384 exact gradients": (exact, 2**22),
    }
    for beta in BETAS:
        for name, (method, num_comparisons) in methods.items():
            result = st.train(
                st.BernoulliOracle(seen, contextual=True),
                beta,
                method=method,
                num_comparisons=num_comparisons,
                key=jax.random.key(3),
                policy=policy,
                num_records=1,
            )
            uniform = jnp.full((contexts, ACTIONS), -np.log(ACTIONS))
            game = st.SampledGame(st.BernoulliOracle(unseen, contextual=True), elsewhere, jnp.float32(beta), uniform)
            found = nj.metrics.exploitability(unseen, jnp.exp(game.log_policy(result.params)), beta)
            row = {
                "beta": beta,
                "comparisons": int(result.comparisons),
                "exploitability": float(f"{found.mean():.3g}"),
                "worst": float(f"{found.max():.3g}"),
                "seen": float(f"{float(result.exploitability):.3g}"),
            }
            rows.append(show("contextual", name, row, method.learning_rate))
    return rows


def show(part: str, method: str, row: dict[str, Any], rate: float | None = None) -> dict[str, Any]:
    """Complete a row and print it."""
    row = {"part": part, "method": method, "learning_rate": rate} | row | {"date": datetime.date.today().isoformat()}
    print(json.dumps(row), flush=True)
    return row


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Exploitability against comparisons."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(BETAS), figsize=(11, 4.6), sharex=True, layout="constrained")
    names = list(dict.fromkeys(row["method"] for row in rows))
    colors = plt.get_cmap("tab20").colors  # pyright: ignore[reportAttributeAccessIssue]
    for axis, beta in zip(axes, BETAS, strict=True):
        for name, color in zip(names, colors, strict=False):
            line = sorted(
                (r["comparisons"], r["exploitability"]) for r in rows if (r["method"], r["beta"]) == (name, beta)
            )
            style = "-" if name in (*OURS, DEFAULT) else ":" if name in TABULAR else "--"
            color = "black" if name == DEFAULT else color
            axis.loglog(*zip(*line, strict=True), style, color=color, label=name, marker="o", markersize=3)
        axis.set(title=f"beta = {beta}", xlabel="comparisons")
    axes[0].set_ylabel("exploitability, mean over games")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    figure.savefig(path, dpi=110)


PARTS = ("tune", "budget", "loops", "reductions", "contextual")


def main() -> None:
    """Run the study, or parts of it, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", default=",".join(PARTS), help=f"some of: {', '.join(PARTS)}, with commas between")
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)), help="those of the part budget to run")
    parser.add_argument("--setting", choices=["S"], help="run setting S alone, and write nothing")
    parser.add_argument("--figure", action="store_true", help="draw the file, run nothing")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    parser.add_argument("--methods", help="those of the parts tune and budget to run, with semicolons between")
    options = parser.parse_args()
    names = [*METHODS, *TABULAR, DEFAULT]
    methods = options.methods.split(";") if options.methods else names
    if not set(methods) <= set(names):
        parser.error(f"--methods: allowed are {'; '.join(names)}")
    if options.setting:
        print(tables.stochastic(tune(methods)))
        return
    path = options.output / "stochastic.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    for part in () if options.figure else options.part.split(","):
        chosen = [int(x) for x in options.budgets.split(",")]
        again = [row for row in rows if row["part"] == part]
        if part in ("tune", "budget"):
            again = [row for row in again if row["method"] in methods and row.get("budget") in (None, *chosen)]
        kept = [row for row in rows if row not in again]
        tuned = [row for row in rows if row["part"] == "tune"]
        new = {
            "tune": lambda: tune(methods),
            "budget": lambda tuned=tuned, chosen=chosen: budgets(tuned, methods, chosen),
            "loops": loops,
            "reductions": reductions,
            "contextual": contextual,
        }[part]()
        rows = kept + new
        print("written to", write_results("stochastic", ABOUT, rows, options.output))
    print(tables.stochastic(rows))
    draw([row for row in rows if row["part"] == "budget"], options.output / "stochastic.png")


if __name__ == "__main__":
    main()
