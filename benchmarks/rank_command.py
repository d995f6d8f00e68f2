"""How long `nashjax rank` takes from the shell, import and compilation included, and how much memory.

Run `python -m benchmarks.rank_command` in the project's folder with the extra `rank` installed (a minute or two, 60 MB
of disk, Linux). Arenas are drawn, written as CSV files and ranked by the program in processes of its own, none of which
finds compiled programs of another. Writes `rank_command.json` into the folder `--output`, by default
benchmarks/results.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.record import RESULTS, write_results

ABOUT = (
    "`nashjax rank FILE --output ANSWER` with 1,000 resamples at beta 0.01. seconds: of each run, from the start of a "
    "process to its end; peak_mb: the most memory that one of them has held; file_mb: of FILE, MB = 10^6 bytes."
)
RUNS = 3
CASES = ((59, 9_000, "ranking.json"), (200, 2_000_000, "ranking.html"))
"""Models, battles, and what is written."""
TIES = 0.4


def draw_battles(models: int, battles: int) -> pd.DataFrame:
    """Battles of models with ratings and cycles, two of five tied, as a chat arena publishes them."""
    rng = np.random.default_rng(models)
    rating, noise = rng.normal(size=models), rng.normal(size=(models, models))
    first = rng.integers(models, size=battles)
    second = (first + rng.integers(1, models, size=battles)) % models
    logit = rating[first] - rating[second] + (noise - noise.T)[first, second] / 2
    won = np.where(rng.random(battles) < 1 / (1 + np.exp(-logit)), "model_a", "model_b")
    names = np.array([f"model-{i}" for i in range(models)])
    winner = np.where(rng.random(battles) < TIES, "tie", won)
    return pd.DataFrame({"model_a": names[first], "model_b": names[second], "winner": winner})


def run(arguments: list[str]) -> tuple[float, float]:
    """Seconds and the most megabytes of the program, which must end well."""
    program = [sys.executable, "-c", "from nashjax.cli import main; main()", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    start = time.perf_counter()
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(arguments)} ended with exit code {process.returncode}")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def measure(models: int, battles: int, answer: str, folder: Path) -> dict[str, Any]:
    file = folder / "battles.csv"
    draw_battles(models, battles).to_csv(file, index=False)
    runs = [run(["rank", str(file), "--output", str(folder / answer)]) for _ in range(RUNS)]
    return {
        "models": models,
        "battles": battles,
        "file_mb": round(file.stat().st_size / 1e6, 1),
        "answer": answer,
        "seconds": [round(seconds, 2) for seconds, _ in runs],
        "median_seconds": round(statistics.median(seconds for seconds, _ in runs), 2),
        "peak_mb": round(max(megabytes for _, megabytes in runs)),
    }


def main() -> None:
    """Measure every case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(*case, Path(folder)))
        print(rows[-1], flush=True)
    print(write_results("rank_command", ABOUT, rows, options.output))


if __name__ == "__main__":
    main()
