"""The exact study of fine-tuning: exploitability against judge calls, where all answers can be listed (spec 7).

Run `python -m benchmarks.language_model` in the project's folder with the extra `train`, and `plot` for the figure (33
minutes on two cores); `--quick` is a small part, `--tune` finds the settings that the others use (50 minutes). Writes
`language_model.json` and `language_model.png` into benchmarks/results, parts of the study only what `--output` names.

Setting L: 4 prompts, answers of 3 letters of 4, no stop token, beta 0.03, a strongly cyclic judge, votes 0 or 1, 256 in
a step. The easy setting has beta 0.1 and a milder judge, the long one 32,768 answers to a prompt (8 letters, 5 long).
The policy is the package's own llama, of width 32 with 2 blocks, its first weights the reference; a game is a draw of
the judge and of these weights.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import importlib.util
import itertools
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.record import RESULTS, write_file
from benchmarks.tables import interval
from nashjax import lm
from nashjax.games import Game
from nashjax.games.regularized import RegularizedGame

ABOUT = (
    "One row for each record of a run: exploitability of the online policy, mean and maximum over prompts, float32. "
    "setting: L, easy, long; budget: judge calls of the whole run, on which step sizes depend; log_policy: of all "
    "answers in the order of itertools.product, prompts first. games: preferences and log_reference of every game."
)
TUNING = RESULTS / "language_model_tuning.json"
RATES = (0.0005, 0.0015, 0.004)
VARIANTS: dict[str, tuple[dict[str, float], ...]] = {
    "target": ({"rate": 0.05}, {"rate": 0.2}),
    "two_average": ({"fast": 0.1, "slow": 0.02}, {"fast": 0.5, "slow": 0.1}),
    "proximal_point": ({"rate": 0.05}, {"rate": 0.2}),
    "two_loop": ({"inner_steps": 20}, {"inner_steps": 10}),
    "nash_md": ({"mixture": 0.1}, {"mixture": 0.02}),
    "self_play": ({},),
    "online_ipo": ({},),
    "online_dpo": ({}, {"scale": 0.1}, {"scale": 0.3}, {"scale": 1.0}),
}
"""What is tuned besides the learning rate; of DPO, `scale` is beta if not given."""
EXPLORATION = (0.0, 0.25)
"""Tuned for all policy gradients."""
NO_GRADIENTS = ("online_ipo", "online_dpo")
FAMILY = ("target", "two_average", "proximal_point", "two_loop")
CALLS_PER_STEP, PROMPTS, RANK = 256, 4, 6
BUDGET, LONG_BUDGET, TUNING_BUDGET = 512_000, 2_048_000, 256_000
TUNING_SEEDS = (100, 101)
SEEDS = 4
RECORDS = 8


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a game is drawn from."""

    name: str
    letters: int = 4
    length: int = 3
    beta: float = 0.03
    scale: float = 5.0

    @property
    def alphabet(self) -> str:
        """Letters of answers."""
        return "abcdefgh"[: self.letters]


SETTINGS = {
    setting.name: setting
    for setting in (Setting("L"), Setting("easy", beta=0.1, scale=3.0), Setting("long", letters=8, length=5))
}


class Arena:
    """A game of a setting: judge, policy, and what every policy's exploitability is."""

    def __init__(self, setting: Setting, seed: int):
        self.setting = setting
        self.listed = lm.ListedGame(setting.alphabet, setting.length, PROMPTS, seed)
        rng = np.random.default_rng([seed, setting.letters, setting.length])
        digits = np.array(list(itertools.product(range(setting.letters), repeat=setting.length)))
        embedding = rng.normal(size=(PROMPTS, setting.length, setting.letters, RANK + 1))
        features = sum(embedding[:, t, digits[:, t]] for t in range(setting.length)) / np.sqrt(setting.length)
        features += 0.5 * rng.normal(size=features.shape)
        cyclic, level = np.tanh(features[..., :RANK]), 0.3 * features[..., RANK:]
        turn = np.kron(np.eye(RANK // 2), [[0, 1], [-1, 0]])
        # The logit of a preference is the product of what an answer is on the left and on the right.
        one = np.ones_like(level)
        self.left = np.concatenate([setting.scale * cyclic @ turn, level, one], axis=-1)
        self.right = np.concatenate([cyclic, one, -level], axis=-1)
        self.place = {answer: index for index, answer in enumerate(self.listed.answers)}
        self.log_reference = self.listed.log_policy(self.listed.policy.params)

    @property
    def judge(self) -> lm.CallableJudge:
        """Looks features up by text."""
        return lm.CallableJudge(self._judge)

    def _judge(self, prompts: Any, responses: Any, opponents: Any) -> np.ndarray:
        c = np.array([int(prompt) for prompt in prompts])
        ours, theirs = (np.array([self.place[text] for text in texts]) for texts in (responses, opponents))
        return 1 / (1 + np.exp(-np.sum(self.left[c, ours] * self.right[c, theirs], axis=-1)))

    def exploitability(self, log_policy: np.ndarray) -> np.ndarray:
        """Of a policy `[prompts, n]`, for each prompt."""
        return np.array(
            [
                _exploitability(*map(jnp.float32, (left, right, p, r, self.setting.beta)))
                for left, right, p, r in zip(self.left, self.right, log_policy, self.log_reference, strict=True)
            ]
        )

    def as_json(self) -> dict[str, Any]:
        """The matrices, for whoever wants to check."""
        logits = np.einsum("cik,cjk->cij", self.left, self.right)
        return {"preferences": rounded(1 / (1 + np.exp(-logits)), 7), "log_reference": rounded(self.log_reference, 7)}


class _Logistic(Game):
    """A `Game` whose preferences are `sigmoid(left @ right.T)`, never stored as a whole."""

    def __init__(self, left: jax.Array, right: jax.Array):
        self.left, self.right = left, right

    batch_shape = ()  # pyright: ignore

    num_actions = property(lambda self: self.left.shape[0])  # pyright: ignore

    def payoffs(self, weights: jax.Array) -> jax.Array:
        """`P weights`."""
        return jax.lax.map(lambda row: jax.nn.sigmoid(self.right @ row) @ weights, self.left, batch_size=256)


@jax.jit
def _exploitability(left: Any, right: Any, log_policy: Any, log_reference: Any, beta: Any) -> jax.Array:
    log_policy = jax.nn.log_softmax(log_policy)
    problem = RegularizedGame(_Logistic(left, right), beta, jax.nn.log_softmax(log_reference))
    return problem.exploitability(log_policy, problem.payoffs(log_policy))


def rounded(x: Any, digits: int) -> Any:
    """Nested lists of numbers with so many significant digits."""
    return [rounded(y, digits) for y in x] if np.ndim(x) else float(f"{float(x):.{digits}g}")


@functools.cache
def arena(setting: str, game_seed: int) -> Arena:
    """The game of a setting and a seed."""
    return Arena(SETTINGS[setting], game_seed)


def run(
    setting: str, method: str, options: dict[str, float], game_seed: int, seed: int, budget: int, records: int = RECORDS
) -> list[dict[str, Any]]:
    """One run, as rows."""
    here = arena(setting, game_seed)
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()

    def look(record: lm.Record, params: Any) -> None:
        log_policy = here.listed.log_policy(params)
        found = here.exploitability(log_policy)
        row = {
            "setting": setting,
            "method": method,
            "seed": seed,
            "game_seed": game_seed,
            "budget": budget,
            "judge_calls": record.judge_calls,
            "exploitability": rounded(found.mean(), 6),
            "exploitability_max": rounded(found.max(), 6),
            "kl": rounded(np.mean(np.sum(np.exp(log_policy) * (log_policy - here.log_reference), axis=1)), 4),
        }
        if len(here.place) <= 64:
            row["log_policy"] = rounded(log_policy, 6)
        rows.append(row)

    lm.train(
        here.listed.policy,
        here.listed.prompts,
        here.judge,
        here.setting.beta,
        method=lm.make_method(
            method,
            prompts_per_step=PROMPTS,
            samples_per_prompt=CALLS_PER_STEP // PROMPTS,
            all_pairs=False,
            **options,
        ),
        num_steps=budget // CALLS_PER_STEP,
        answer_length=here.setting.length,
        key=jax.random.key(seed),
        votes=True,
        num_records=records,
        on_record=look,
    )
    rows[-1]["seconds"] = round(time.perf_counter() - start, 1)
    last = rows[-1]
    print(
        f"{setting:5s} {method:15s} {options} game {game_seed}, seed {seed}, {budget} calls: "
        f"{last['exploitability']:.4f} ({last['seconds']:.0f} s)",
        flush=True,
    )
    return rows


def run_all(setting: str, method: str, options: dict[str, float], pairs: Any, budget: int) -> list[dict[str, Any]]:
    """A method on several pairs of game and seed, in one process: it compiles once."""
    found = (run(setting, method, options, game_seed, seed, budget) for game_seed, seed in pairs)
    return [row for rows in found for row in rows]


def in_parallel(jobs: list[tuple[Any, ...]], workers: int) -> list[dict[str, Any]]:
    """The rows of all jobs, arguments of `run_all`, on so many processes of one thread each."""
    if workers == 1:
        return [row for job in jobs for row in run_all(*job)]
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        return [row for rows in pool.map(run_all, *zip(*jobs, strict=True)) for row in rows]


def tune(methods: list[str], workers: int) -> dict[str, dict[str, float]]:
    """The best settings of each method, all over the same learning rates, on games of their own; written down."""
    grid = [
        (method, {"learning_rate": rate, **variant} | explored)
        for method in methods
        for variant in VARIANTS[method]
        for explored in ([{}] if method in NO_GRADIENTS else [{"exploration": share} for share in EXPLORATION])
        for rate in RATES
    ]
    pairs = [(seed, seed) for seed in TUNING_SEEDS]
    rows = in_parallel([("L", method, options, pairs, TUNING_BUDGET) for method, options in grid], workers)
    ends = np.array([row["exploitability"] for row in rows if "seconds" in row]).reshape(len(grid), len(pairs))
    tried = [
        {"method": method, **options, "exploitability": rounded(mean, 6)}
        for (method, options), mean in zip(grid, ends.mean(axis=1), strict=True)
    ]
    best = {
        method: min((row for row in tried if row["method"] == method), key=lambda row: row["exploitability"])
        for method in methods
    }
    settings = {
        method: {name: value for name, value in row.items() if name not in ("method", "exploitability")}
        for method, row in best.items()
    }
    games = " and ".join(map(str, TUNING_SEEDS))
    about = (
        f"Setting L, games and seeds {games}, {TUNING_BUDGET} judge calls: the mean; settings: the best of each method."
    )
    if TUNING.exists():  # what it says of other methods stays
        before = json.loads(TUNING.read_text(encoding="utf-8"))
        settings = before["settings"] | settings
        tried = [row for row in before["rows"] if row["method"] not in methods] + tried
    write_file(TUNING, about, tried, settings=settings)
    return settings


def tuned() -> dict[str, dict[str, float]]:
    """The settings that were found."""
    return json.loads(TUNING.read_text(encoding="utf-8"))["settings"]


def summarise(rows: list[dict[str, Any]]) -> str:
    """The ends of all runs as a table."""
    ends = [row for row in rows if row["judge_calls"] >= row["budget"] - CALLS_PER_STEP]
    groups = sorted({(row["setting"], row["budget"], row["method"]) for row in ends})
    lines = ["| setting | judge calls | method | exploitability | 95 % | worst run | runs |", "| --- " * 7 + "|"]
    for setting, budget, method in groups:
        found = [r for r in ends if (r["setting"], r["budget"], r["method"]) == (setting, budget, method)]
        mean, half, worst = interval(found)
        lines.append(f"| {setting} | {budget:,} | {method} | {mean:.4f} | +-{half:.4f} | {worst:.4f} | {len(found)} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Exploitability against judge calls, one panel a setting."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in SETTINGS if any(row["setting"] == name for row in rows)]
    figure, panels = plt.subplots(1, len(names), figsize=(4.2 * len(names), 3.6), squeeze=False, sharey=True)
    styles = dict(zip(VARIANTS, [*["-"] * 4, *["--"] * 4], strict=True))
    colors = dict(
        zip(VARIANTS, [*plt.cm.Blues(np.linspace(0.4, 1, 4)), *plt.cm.Oranges(np.linspace(0.4, 1, 4))], strict=True)
    )  # pyright: ignore[reportAttributeAccessIssue]
    markers = dict(zip(VARIANTS, "os^Dv<>x", strict=True))
    for axes, name in zip(panels[0], names, strict=True):
        budget = min(row["budget"] for row in rows if row["setting"] == name)
        for method in VARIANTS:
            mine = [r for r in rows if (r["setting"], r["method"], r["budget"]) == (name, method, budget)]
            calls = sorted({row["judge_calls"] for row in mine})
            means = [np.mean([row["exploitability"] for row in mine if row["judge_calls"] == c]) for c in calls]
            if calls:
                axes.plot(
                    calls, means, styles[method], color=colors[method], marker=markers[method], ms=4, label=method
                )
        axes.set(xlabel="judge calls", yscale="log", title=f"setting {name}, beta {SETTINGS[name].beta:g}")
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("exploitability, mean over prompts")
    panels[0, 0].legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """The JSON, with the matrices of the games whose answers are few."""
    pairs = sorted({(row["setting"], row["game_seed"]) for row in rows if SETTINGS[row["setting"]].letters == 4})
    games = [{"setting": name, "game_seed": seed, **arena(name, seed).as_json()} for name, seed in pairs]
    first = pairs[0][0] if len(pairs) == 1 else "L"
    here = {name: games[0][name] for name in ("preferences", "log_reference")} if len(games) == 1 else {"games": games}
    write_file(path, ABOUT, rows, beta=SETTINGS[first].beta, **here)


def main() -> None:
    """Run the study, or a part of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune", action="store_true", help="find the settings of the methods first")
    parser.add_argument("--quick", action="store_true", help="setting L, two methods, one game, 64,000 judge calls")
    parser.add_argument("--settings", default="L,easy,long")
    parser.add_argument("--methods", default=",".join(VARIANTS))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="pairs of game and training seed")
    parser.add_argument("--game-seed", type=int, help="one game for all training seeds")
    parser.add_argument("--judge-calls", type=int, default=BUDGET)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--figure", action="store_true", help="draw and tabulate the file again")
    parser.add_argument(
        "--output", type=Path, help="FILE.json; default: that of benchmarks/results for the whole study"
    )
    arguments = parser.parse_args()
    committed = RESULTS / "language_model.json"
    if arguments.figure:
        path = arguments.output or committed
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        draw(rows, path.with_suffix(".png"))
        print(summarise(rows))
        return
    methods = arguments.methods.split(",")
    unknown = [name for name in methods if name not in VARIANTS]
    if unknown:
        parser.error(f"--methods: found {unknown[0]!r}; allowed are {', '.join(VARIANTS)}")
    if arguments.tune:
        print(json.dumps(tune(methods, arguments.workers)))
        return
    options = tuned()
    pairs = [(seed if arguments.game_seed is None else arguments.game_seed, seed) for seed in range(arguments.seeds)]
    names = arguments.settings.split(",")
    budget = arguments.judge_calls
    jobs: list[tuple[Any, ...]] = []
    if arguments.quick:
        methods, names, pairs, budget = [lm.DEFAULT_METHOD, "self_play"], ["L"], pairs[:1], 64_000
    for name in names:
        if name == "long":
            continue
        jobs += [(name, method, options[method], pairs, budget) for method in methods]
    rows = in_parallel(jobs, arguments.workers)
    whole = not arguments.quick and set(methods) == set(VARIANTS) and arguments.judge_calls == BUDGET
    if whole and "L" in names:
        rivals = {
            method: interval([r for r in rows if (r["setting"], r["method"]) == ("L", method) and "seconds" in r])[0]
            for method in methods
            if method not in FAMILY
        }
        both = (lm.DEFAULT_METHOD, min(rivals, key=lambda method: rivals[method]))
        more: list[tuple[Any, ...]] = [("L", method, options[method], pairs[:3], LONG_BUDGET) for method in both]
        if "long" in names:
            more += [("long", method, options[method], pairs[:2], BUDGET) for method in both]
        rows += in_parallel(more, arguments.workers)
    whole &= set(names) == set(SETTINGS) and arguments.seeds == SEEDS and arguments.game_seed is None
    path = arguments.output or (committed if whole else None)
    if path is not None:
        write(rows, path)
        if importlib.util.find_spec("matplotlib") is None:
            print('no figure: that needs matplotlib, python -m pip install ".[plot]"')
        elif not arguments.quick:
            draw(rows, path.with_suffix(".png"))
    print(summarise(rows))
    print("a part of the study: written only where --output says" if path is None else f"written to {path}")


if __name__ == "__main__":
    main()
