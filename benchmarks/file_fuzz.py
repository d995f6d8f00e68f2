"""Thousands of damaged files given to the commands: whether each one ends with an answer or with one line of error.

Run `python -m benchmarks.file_fuzz` in the project's folder; `--cases 200` for a look, which writes nothing. Needs the
extras `rank`, `train` and `lm` and those of the tests. The commands are called in worker processes, each of which runs
many cases, so that jax is imported once. A worker that does not answer is killed and counted as a hang. Writes
`file_fuzz.json` into benchmarks/results and prints its table.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import queue
import random
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import tables
from benchmarks.mutations import mutate
from benchmarks.record import RESULTS, write_results
from nashjax.sweeps.shards import checksum_line

ROOT = Path(__file__).resolve().parents[1]
ABOUT = (
    "Damaged copies of small valid files (bytes flipped, cut, inserted; fields of headers set to hostile values), each "
    "given to a command in a process that has run others before. answered: exit code 0; refused: exit code 2 with one "
    "line of error. Failures: tracebacks or other outputs than that (traceback), more than 10 s of processor time or "
    "no answer within 60 s (hang), more than 1 GB of memory beyond the size of the file and what the process held "
    "before (memory). seconds, peak_mb: the most processor time and memory of one case."
)
MOST_SECONDS, MOST_MEGABYTES = 10.0, 1000.0
PATIENCE, WARM_UP = 60.0, 900.0
"""Seconds that a worker may take for a case, on a machine with other work, and to run all valid files at first."""
SHARES = {"npy": 0.18, "npz": 0.22, "csv": 0.18, "json": 0.18, "gguf": 0.12, "weights": 0.12}
"""Count all cases of each format."""
NO_MEMORY = re.compile("does not fit into memory|MemoryError|nable to allocate|not enough memory|RESOURCE_EXHAUSTED")


@dataclasses.dataclass(frozen=True)
class Base:
    """A valid file and the command that reads it.

    Attributes:
      form: its format, a key of `SHARES`.
      path: the file to damage, relative to the folder of all files.
      arguments: of the command, which runs in that folder.
    """

    form: str
    path: str
    arguments: tuple[str, ...]


SOLVE = ("--beta", "0.1", "--tol", "1e-3")
SWEEP = ("sweep", "SWEEP", "--num-actions", "3", "--num-games", "4", "--beta", "0.1", "--tol", "1e-3")
BASES = (
    Base("npy", "game.npy", ("solve", "game.npy", *SOLVE)),
    Base("npy", "reference.npy", ("solve", "game.npy", *SOLVE, "--reference", "reference.npy")),
    Base("npz", "game.npz", ("solve", "game.npz", *SOLVE)),
    Base("npz", "packed.npz", ("solve", "packed.npz", *SOLVE)),
    Base("npz", "GAMES/a.npz", ("sweep", "OF_FILES", "--input", "GAMES", *SOLVE)),
    Base("npz", "SWEEP/shard-00000000.npz", SWEEP),
    Base("csv", "battles.csv", ("solve", "battles.csv", *SOLVE)),
    # Refused after the file was read, before anything is compiled for its number of items.
    Base("csv", "battles.csv", ("rank", "battles.csv", "--ties", "read only")),
    Base("csv", "pairs.csv", ("solve", "pairs.csv", *SOLVE)),
    Base("csv", "matrix.csv", ("solve", "matrix.csv", *SOLVE)),
    Base("csv", "reference.csv", ("solve", "game.npz", *SOLVE, "--reference", "reference.csv")),
    Base("json", "reference.json", ("solve", "game.npz", *SOLVE, "--reference", "reference.json")),
    Base("json", "SWEEP/manifest.json", SWEEP),
    Base("json", "SWEEP/summary.json", SWEEP),
    Base("json", "RUN/run.json", ("generate", "RUN", "--prompt", "2")),
    Base("gguf", "model.gguf", ("generate", "OF_GGUF", "--prompt", "a")),
    Base("weights", "RUN/weights.npz", ("generate", "RUN", "--prompt", "2")),
    Base("weights", "OF_GGUF/weights.npz", ("generate", "OF_GGUF", "--prompt", "a")),
)


def write_games(folder: Path) -> None:
    """Write the valid files of games and references, and a finished sweep."""
    game = np.array([[0.5, 0.9, 0.3], [0.1, 0.5, 0.6], [0.7, 0.4, 0.5]])
    names = np.array(["a", "b", "c"])
    (folder / "GAMES").mkdir()
    np.save(folder / "game.npy", game)
    np.save(folder / "reference.npy", np.array([0.5, 0.25, 0.25]))
    np.savez(folder / "game.npz", preferences=game, items=names)
    np.savez_compressed(folder / "packed.npz", preferences=np.stack([game] * 4), items=names)
    np.savez(folder / "GAMES" / "a.npz", preferences=np.stack([game] * 4))
    battles = ["a,b,model_a", "b,c,model_b", "c,a,tie", "a,b,model_a"]
    pairs = ["a,b,3,1,0", "b,c,2,2,1", "c,a,1,0,0"]
    matrix = [f"{name},{','.join(map(str, row))}" for name, row in zip("abc", game.tolist(), strict=True)]
    tables_of_text = {
        "battles.csv": ["model_a,model_b,winner", *battles],
        "pairs.csv": ["item_a,item_b,wins_a,wins_b,ties", *pairs],
        "matrix.csv": ["item,a,b,c", *matrix],
        "reference.csv": ["item,probability", "a,0.5", "b,0.25", "c,0.25"],
    }
    for name, lines in tables_of_text.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "reference.json").write_text('{"a": 0.5, "b": 0.25, "c": 0.25}', encoding="utf-8")
    done = call(SWEEP, folder)
    assert done["code"] == 0, done


def write_models(folder: Path) -> None:
    """Write the valid runs of fine-tuning: one of the demonstration, one of a GGUF file with adapters."""
    from nashjax import lm

    sys.path.insert(0, str(ROOT / "tests" / "lm"))
    import test_gguf as small  # pyright: ignore[reportMissingImports]

    small.write(folder / "model.gguf", small.random_weights())
    models = {"RUN": lm.ListedGame(lora_rank=0).policy, "OF_GGUF": lm.load_gguf(folder / "model.gguf", lora_rank=2)}
    for name, policy in models.items():
        demo = name == "RUN"
        settings = {
            "model": None,
            "gguf": None if demo else "model.gguf",
            "lora_rank": 0 if demo else 2,
            "dtype": "float32",
            "answer_length": 3,
            "demo": demo,
            "judge": "demo",
            "judge_model": None,
        }
        lm.save_weights(folder / name / "weights.npz", policy.params)
        (folder / name / "run.json").write_text(json.dumps(settings), encoding="utf-8")


def call(arguments: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Call the entry of the program in this process and in a folder: its exit code, errors, time and memory."""
    from nashjax import cli

    outputs = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    jax.config.update("jax_enable_x64", False)  # as the installed program begins
    before, start, code = _reset_peak(), time.process_time(), None
    with contextlib.chdir(folder), contextlib.redirect_stdout(outputs[0]), contextlib.redirect_stderr(outputs[1]):
        argv, sys.argv = sys.argv, ["nashjax", *arguments]
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.argv = argv
    seconds = time.process_time() - start
    outputs[1].flush()
    errors = outputs[1].buffer.getvalue().decode("utf-8")  # pyright: ignore[reportAttributeAccessIssue]
    return {"code": code, "errors": errors, "seconds": seconds, "megabytes": _peak() - before}


def _reset_peak() -> float:
    """Forget the most memory that this process has held; what it holds now, in megabytes."""
    with contextlib.suppress(OSError):  # not allowed everywhere: the peak is then that of all cases
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1000 if found else 0.0


def verdict(done: dict[str, Any], file_bytes: int) -> str:
    """Return how the case ended: answered, refused, or a failure."""
    lines = done["errors"].splitlines()
    if done["code"] == "hang" or done["seconds"] > MOST_SECONDS:
        return "hang"
    if done["megabytes"] > MOST_MEGABYTES + file_bytes / 1e6 or NO_MEMORY.search(done["errors"]):
        return "memory"
    if done["code"] == 0 and all(line.startswith("warning: ") for line in lines):
        return "answered"
    errors = [line for line in lines if not line.startswith("warning: ")]
    if done["code"] == 2 and len(errors) == 1 and errors[0].startswith("error: "):
        return "refused"
    return "traceback"


def run_case(
    base: Base, content: bytes, valid: Path, folder: Path, ask: Callable[[tuple[str, ...]], dict[str, Any]]
) -> tuple[str, dict[str, Any]]:
    """Run a case in a folder like that of the valid files, which it is again afterwards: its verdict, and `ask`'s."""
    path = folder / base.path
    for other in ("SWEEP", "OF_FILES"):  # which the commands write to
        shutil.rmtree(folder / other, ignore_errors=True)
        if (valid / other).exists():
            shutil.copytree(valid / other, folder / other)
    if base.path.startswith("SWEEP/shard"):  # so that the shard itself is parsed, not refused by its checksum
        path.with_name(path.name + ".sha256").write_bytes(checksum_line(path.name, content))
    path.write_bytes(content)
    try:
        done = ask(base.arguments)
    finally:
        shutil.copy(valid / base.path, path)
    return verdict(done, len(content)), done


class Worker:
    """A process that runs cases, in a copy of the valid files."""

    def __init__(self, valid: Path, folder: Path):
        self.folder = folder
        shutil.copytree(valid, folder)
        self._valid = valid
        self._process: subprocess.Popen[str] | None = None

    def run(self, base: Base, content: bytes) -> tuple[str, dict[str, Any]]:
        """Run a case: its verdict, and what was measured."""
        return run_case(base, content, self._valid, self.folder, self._ask)

    def _ask(self, arguments: tuple[str, ...]) -> dict[str, Any]:
        if self._process is None:
            command = [sys.executable, "-m", "benchmarks.file_fuzz", "--worker", str(self.folder)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            if self._line(WARM_UP) is None:
                raise RuntimeError("the worker has not finished the valid files")
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        line = self._line(PATIENCE)
        if line is not None:
            return json.loads(line)
        return {"code": "hang", "errors": "", "seconds": MOST_SECONDS, "megabytes": 0.0}

    def _line(self, seconds: float) -> str | None:
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else ""
        if not line:
            self.close()
        return line or None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def serve(folder: Path) -> None:
    """Run the cases whose arguments come in on standard input, a line each."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w", buffering=1), open(os.devnull, "w")  # noqa: SIM115
    for arguments in {base.arguments for base in BASES if (folder / base.path).exists()}:
        call(arguments, folder)  # compiles what valid files need
    held = int(re.findall(r"VmSize:\s*(\d+)", Path("/proc/self/status").read_text())[0]) * 1024
    most = held + 8 * 10**9
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    answers.write("ready\n")
    for line in sys.stdin:
        answers.write(json.dumps(call(tuple(json.loads(line)), folder)) + "\n")


def draw(valid: Path, total: int, seed: int) -> list[tuple[Base, bytes]]:
    """The cases: a base and its damaged content; the same seed draws the same ones."""
    found = []
    for form, share in SHARES.items():
        rng = random.Random(f"{seed} {form}")
        bases = [base for base in BASES if base.form == form and (valid / base.path).exists()]
        for i in range(round(total * share) if bases else 0):
            base = bases[i % len(bases)]
            found.append((base, mutate(rng, form, (valid / base.path).read_bytes())))
    return found


def study(total: int, seed: int, folder: Path, num_workers: int) -> list[dict[str, Any]]:
    """Run all cases: a row for each format."""
    valid = folder / "valid"
    valid.mkdir()
    write_games(valid)
    write_models(valid)
    cases = draw(valid, total, seed)
    idle: queue.Queue[Worker] = queue.Queue()
    workers = [Worker(valid, folder / f"worker-{i}") for i in range(num_workers)]
    for worker in workers:
        idle.put(worker)

    def run(number: int) -> tuple[str, dict[str, Any]]:
        worker, (base, content) = idle.get(), cases[number]
        try:
            ended, done = worker.run(base, content)
        finally:
            idle.put(worker)
        if ended not in ("answered", "refused"):
            (folder / f"failed-{number}").write_bytes(content)
            print(f"case {number}, {base.path}: {ended}: {done['errors'][-600:]}", flush=True)
        return ended, done

    with ThreadPoolExecutor(num_workers) as pool:
        ended = list(pool.map(run, range(len(cases))))
    for worker in workers:
        worker.close()
    rows = []
    for form in SHARES:
        here = [end for (base, _), end in zip(cases, ended, strict=True) if base.form == form]
        counts = Counter(kind for kind, _ in here)
        row: dict[str, Any] = {"form": form, "cases": len(here)}
        row |= {kind: counts[kind] for kind in ("answered", "refused", "traceback", "hang", "memory")}
        most = {name: max((done[name] for _, done in here), default=0.0) for name in ("seconds", "megabytes")}
        rows.append(row | {"seconds": round(most["seconds"], 1), "peak_mb": round(most["megabytes"])})
    return rows


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help="folder for the files of failed cases")
    options = parser.parse_args()
    if options.worker is not None:
        serve(options.worker)
        return
    with tempfile.TemporaryDirectory() as folder:
        # The workers share what they compile.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/compiled"
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
        rows = study(options.cases, options.seed, Path(folder), options.workers)
        if options.keep is not None:
            options.keep.mkdir(exist_ok=True)
            for path in Path(folder).glob("failed-*"):
                shutil.copy(path, options.keep)
    print(tables.file_fuzz(rows))
    if sum(row["cases"] for row in rows) >= 2000:
        print(write_results("file_fuzz", ABOUT, rows, RESULTS))


if __name__ == "__main__":
    main()
