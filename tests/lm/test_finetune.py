"""The commands `nashjax finetune` and `nashjax generate`: what they print, keep, go on with and refuse.

One file, though long: its tests share two trained runs.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scripts import Done, call

pytest.importorskip("flax", reason="needs the extra `lm`")
pytest.importorskip("optax", reason="needs the extra `lm`")
pytest.importorskip("orbax.checkpoint", reason="needs the extra `lm`")

import jax

import nashjax as nj
from nashjax import lm

PROGRAM = Path(sys.executable).with_name("nashjax")
STEPS = 3


@pytest.fixture(autouse=True)
def single_precision() -> Iterator[None]:
    """As the installed program computes."""
    with jax.enable_x64(False):
        yield


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Done]:
    """`call` in the folder of the test."""
    return functools.partial(call, folder=tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The folder of the demonstration, and what it has printed."""
    folder = tmp_path_factory.mktemp("demo")
    with jax.enable_x64(False):
        return folder / "RUN", call("finetune", "--steps", STEPS, "--output", "RUN", folder=folder)


@pytest.fixture
def demo(finished: tuple[Path, Done], tmp_path: Path) -> Path:
    """A copy of its folder, the folder that the test runs in having it as RUN."""
    return Path(shutil.copytree(finished[0], tmp_path / "RUN"))


def assert_refused(done: Done, message: str) -> None:
    assert done.returncode == 2, done
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


# The demonstration.


def test_the_demonstration_shows_exploitability_and_the_exact_equilibrium(finished):
    folder, done = finished
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    game = lm.ListedGame()
    preferences = game.preferences(lm.DemoJudge())
    learnt = lm.load_weights(folder / "weights.npz", game.policy.params)
    before, after = (game.exploitability(preferences, params, 0.05) for params in (game.policy.params, learnt))
    assert lines[0] == f"Before: exploitability {before.mean():.4f} (at most {before.max():.4f})."
    steps = [line for line in lines if line.startswith("step ")]
    assert [int(re.findall(r"\d+", line)[0]) for line in steps] == [1, 2, 3]
    assert [int(re.findall(r"(\d+) judge calls", line)[0]) for line in steps] == [256, 512, 768]
    shown = float(re.findall(r"exploitability (\d\.\d+)", steps[-1])[0])
    assert shown == pytest.approx(after.mean(), abs=1e-4)
    assert "Written to RUN." in lines

    reference, policy = (np.exp(game.log_policy(params)) for params in (game.policy.params, learnt))
    exact = np.asarray(nj.solve(preferences.astype(np.float32), 0.05, reference=reference).policy)
    assert lines[-8] == "Prompt '0', the likeliest answers:"
    for line, index in zip(lines[-6:], np.argsort(-exact[0])[:6], strict=True):
        answer, *numbers = line.split()
        assert answer == game.answers[index]
        expected = [x[0, index] for x in (exact, policy, reference)]
        np.testing.assert_allclose(list(map(float, numbers)), expected, rtol=0, atol=1e-3)


def test_a_run_is_kept_and_not_begun_again(finished, demo, run):
    folder, done = finished
    assert [record["step"] for record in records(folder)] == [1, 2, 3]
    assert [record["judge_calls"] for record in records(folder)] == [256, 512, 768]
    assert (demo / "run.json").exists()
    kept = {path: path.read_bytes() for path in demo.rglob("*") if path.is_file()}
    assert_refused(
        run("finetune", "--steps", STEPS, "--output", "RUN"),
        "--output must be a folder without a run, got 'RUN'. The same command with --resume continues that run.",
    )
    assert {path: path.read_bytes() for path in demo.rglob("*") if path.is_file()} == kept
    again = run("finetune", "--steps", STEPS, "--output", "RUN", "--resume")
    assert again.returncode == 0, again.stderr
    assert "step" not in again.stdout, "there was nothing left to do"
    assert again.stdout.splitlines()[-8:] == done.stdout.splitlines()[-8:]
    assert_refused(
        run("finetune", "--steps", STEPS, "--output", "RUN", "--resume", "--beta", 0.1),
        "as in this run, got 0.05",
    )
    assert_refused(
        run("finetune", "--steps", 4, "--output", "RUN", "--resume"), "must be 4 as in this run, got 3. Use the folder"
    )
    settings = (demo / "run.json").read_bytes()
    other = run("finetune", "--steps", STEPS, "--output", "RUN", "--resume", "--lora-rank", 4)
    assert_refused(other, "--lora-rank must be 0, as in the run to resume, got 4.")
    assert (demo / "run.json").read_bytes() == settings


def test_answers_of_a_finished_run(demo, run):
    likely = run("generate", "RUN", "--temperature", 0)
    assert likely.returncode == 0, likely.stderr
    game = lm.ListedGame()
    params = lm.load_weights(demo / "weights.npz", game.policy.params)
    tokens = game.policy.encode(game.prompts, 3)
    greedy = game.policy.decode(game.policy.sample(params, jax.random.key(0), tokens, 1, 3, temperature=0.0)[0])
    lines = [json.loads(line) for line in likely.stdout.splitlines()]
    expected = [{"prompt": p, "answer": a} for p, (a,) in zip(game.prompts, greedy, strict=True)]
    assert lines == expected

    (demo.parent / "two.jsonl").write_text('{"prompt": "3"}\n"1"\n', encoding="utf-8")
    options = ("RUN", "--prompt", "2", "--prompts", "two.jsonl", "--samples", 4, "--top-p", 0.9)
    several = [json.loads(line) for line in run("generate", *options).stdout.splitlines()]
    assert [line["prompt"] for line in several] == ["2"] * 4 + ["3"] * 4 + ["1"] * 4
    assert {len(line["answer"]) for line in several} == {3}
    assert len({line["answer"] for line in several}) > 1
    assert run("generate", *options).stdout == run("generate", *options, "--seed", 0).stdout
    assert run("generate", *options).stdout != run("generate", *options, "--seed", 1).stdout


def test_the_installed_program_answers_the_same(demo, run):
    arguments = ["generate", "RUN", "--prompt", "2", "--samples", "3"]
    done = subprocess.run(
        [PROGRAM, *arguments], capture_output=True, text=True, encoding="utf-8", cwd=demo.parent, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run(*arguments).stdout
    assert done.stdout.count("\n") == 3


def test_weights_of_another_model_are_refused(demo, run):
    lm.save_weights(demo / "weights.npz", lm.tiny_policy().params)
    assert_refused(run("generate", "RUN"), "weights.npz: array ['head'].value must be in the file")
    assert_refused(run("generate", "RUN"), "Take weights of the same model.")
    (demo / "weights.npz").write_bytes(b"no archive")
    assert_refused(run("generate", "RUN"), "RUN/weights.npz must be an undamaged .npz file, got ")


# Judges.

JUDGING = '''
"""A judge of the user's: the demonstration's, which fails at its sixth call while a file says so."""
from pathlib import Path

from nashjax.lm import DemoJudge

number = 3
calls = 0


def shaky(prompts, responses, opponents):
    global calls
    calls += 1
    if calls == 6 and Path("broken").exists():
        raise OSError("the line is dead")
    return DemoJudge()(prompts, responses, opponents)


def wrong(prompts, responses, opponents):
    return [2.0] * len(prompts)
'''


@pytest.fixture
def judging(tmp_path: Path) -> Path:
    """The folder of the run has a module of judges."""
    (tmp_path / "judging.py").write_text(JUDGING, encoding="utf-8")
    (tmp_path / "untidy.py").write_text("def judge(:", encoding="utf-8")
    return tmp_path


def test_a_judge_that_fails_ends_the_run_which_goes_on_where_it_was(judging, run, finished):
    """It is asked four times for the whole game, once a prompt, and then once a step."""
    command = ("finetune", "--judge", "judging:shaky", "--steps", STEPS, "--output", "RUN")
    (judging / "broken").touch()
    failed = run(*command)
    assert_refused(failed, "error: The judge failed: ")
    assert failed.stderr.endswith(". Continue by the same command with --resume.\n")
    assert "'the line is dead'" in failed.stderr
    assert [line[:6] for line in failed.stdout.splitlines()] == ["Before", "step 1"]
    assert any((judging / "RUN" / "checkpoints").iterdir())
    assert not (judging / "RUN" / "weights.npz").exists()
    message = "FOLDER must be that of a finished run, got 'RUN'."
    assert_refused(run("generate", "RUN"), message)

    (judging / "broken").unlink()
    done = run(*command, "--resume")
    assert done.returncode == 0, done.stderr
    assert [line[:6] for line in done.stdout.splitlines()][:3] == ["Before", "step 2", "step 3"]
    folder, whole = finished
    assert done.stdout.splitlines()[-8:] == whole.stdout.splitlines()[-8:], "as if it had not been cut"
    assert [record["step"] for record in records(judging / "RUN")] == [1, 2, 3]
    with np.load(folder / "weights.npz") as expected, np.load(judging / "RUN" / "weights.npz") as found:
        assert set(found) == set(expected)
        for name in expected:
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-5)
    assert run("generate", "RUN").returncode == 0


JUDGES = {
    "answers": ("judging:wrong", "must be a number from 0 to 1, got 2.0."),
    "no function of it": (
        "judging:absent",
        "--judge must be a function that can be imported, got 'judging:absent' (AttributeError: module '",
    ),
    "no function": ("judging:number", "--judge must be a function, got 'judging:number', a int."),
    "no module": (
        "absent_module:judge",
        "--judge must be a function that can be imported, got 'absent_module:judge' (ModuleNotFoundError",
    ),
    "wrong syntax": (
        "untidy:judge",
        "--judge must be a function that can be imported, got 'untidy:judge' (SyntaxError: invalid synta",
    ),
    "relative": (
        "..judging:shaky",
        "--judge must be a function that can be imported, got '..judging:shaky' (TypeError: the 'package",
    ),
    "no colon": ("judging", "--judge must be an address, MODULE:FUNCTION or demo, got 'judging'."),
    "url": ("http://127.0.0.1:9/v1", "--judge-model must be given with an address, got nothing."),
}


@pytest.mark.parametrize("case", JUDGES)
def test_a_judge_that_cannot_be_asked_is_refused(judging, run, case):
    judge, message = JUDGES[case]
    assert_refused(run("finetune", "--judge", judge, "--steps", 1, "--output", "RUN"), message)
    if judge != "judging:wrong":
        assert not (judging / "RUN" / "run.json").exists(), "the command can be given again"


# A model and prompts.


def test_prompts_of_ones_own(judging, run):
    lines = [json.dumps({"prompt": f"Wort {index} – \u00e4\u2028"}, ensure_ascii=False) for index in range(3)]
    (judging / "p.jsonl").write_text("\n".join([*lines, "", '"text alone"', lines[0]]), encoding="utf-8")
    options = ("--model", "tiny", "--prompts", "p.jsonl", "--answer-length", 4, "--samples", 2, "--steps", 1)
    options = (*options, "--prompts-per-step", 2, "--method", "self_play", "--output", "RUN")
    done = run("finetune", *options, "--judge", "demo")
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == "1 step, 3 prompts to learn from, 1 held out; compiling."
    # Two prompts, two answers against two, and the one held-out prompt against the first model.
    assert re.fullmatch(
        r"step 1: 9 judge calls, KL -?0\.000, win rate against the first model [\d.]+ \([\d.]+ to [\d.]+\)", lines[0]
    )
    assert lines[1].startswith("  Wort 0 – ä\\u2028 -> ")
    assert lines[-1] == "Written to RUN."
    assert "exploitability" not in done.stdout
    answers = run("generate", "RUN", "--prompt", "Wort 1", "--samples", 2)
    assert [json.loads(line)["prompt"] for line in answers.stdout.splitlines()] == ["Wort 1"] * 2
    assert answers.stdout.replace("\n", "").isprintable()
    other = run("finetune", *options, "--judge", "judging:shaky", "--resume")
    assert_refused(other, "--judge must be 'demo', as in the run to resume, got 'judging:shaky'.")
    assert_refused(run("generate", "RUN"), "--prompt must be given, or --prompts, got nothing.")
    assert_refused(run("generate", "RUN", "--prompt", "x" * 300), "prompts[0] must have 1 to 252 tokens")


PROMPTS: dict[str, tuple[bytes | None, str]] = {
    "no json": (b'{"prompt": "a"}\n\nb\n', 'p.jsonl, line 3 must be a line such as {"prompt": "..."}, got \'b\'.'),
    "no text": (
        b'{"prompt": "a"}\n{"prompt": 3}\n',
        'p.jsonl, line 2 must be a line such as {"prompt": "..."}, got \'{"prompt": 3}\'.',
    ),
    "empty": (b'{"prompt": ""}\n', 'p.jsonl, line 1 must be a line such as {"prompt": "..."}, got \'{"prompt": ""}\'.'),
    "no prompt": (
        b'{"prompts": "a"}\n',
        'p.jsonl, line 1 must be a line such as {"prompt": "..."}, got \'{"prompts": "a"}\'.',
    ),
    "list": (b'["a"]\n', 'p.jsonl, line 1 must be a line such as {"prompt": "..."}, got \'["a"]\'.'),
    "cut": (
        b'"a"\n"b"\n{"prompt": "c\n',
        'p.jsonl, line 3 must be a line such as {"prompt": "..."}, got \'{"prompt": "c\'.',
    ),
    "nothing": (b"\n  \n", "p.jsonl: number of prompts must be at least 1, got 0."),
    "latin-1": ("ä\n".encode("latin-1"), "p.jsonl must be text in UTF-8, got byte 0xe4 at position 1."),
    "half a character": (
        b'"a"\n"\\ud83d"\n',
        'p.jsonl, line 2 must be a line such as {"prompt": "..."}, got \'"\\\\ud83d"\'.',
    ),
    "deep": (
        b"[" * 100_000,
        'p.jsonl, line 1 must be a line such as {"prompt": "..."}, got \'[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[',
    ),
    "steers the terminal": (
        b"\x1b[2J\n",
        'p.jsonl, line 1 must be a line such as {"prompt": "..."}, got \'\\x1b[2J\'.',
    ),
    "no file": (None, "p.jsonl must be a file that exists, got a path where nothing is."),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_a_file_of_prompts_that_cannot_be_used_is_named_with_the_line(tmp_path, run, case):
    content, message = PROMPTS[case]
    if content is not None:
        (tmp_path / "p.jsonl").write_bytes(content)
    options = ("--model", "tiny", "--prompts", "p.jsonl", "--steps", 1, "--judge", "demo", "--output", "RUN")
    assert_refused(run("finetune", *options), message)


# Options.

OPTIONS: dict[str, tuple[tuple[object, ...], str]] = {
    "method": (("--method", "nash"), "--method must be one of 'target', 'two_average', 'proximal_point',"),
    "resume without output": (
        ("--resume",),
        "--output must be given with --resume, the folder of the run, got nothing.",
    ),
    "resume of nothing": (("--resume", "--output", "no"), "--resume must be given with the folder of a run, got 'no'."),
    "output in a file": (
        ("--output", "p.jsonl/run"),
        "p.jsonl/run must be readable and writable, got the error Not a directory.",
    ),
    "judge's model without an address": (
        ("--judge-model", "big"),
        "--judge-model must be given with an address, --judge URL, got 'big'.",
    ),
    "output is a file": (("--output", "p.jsonl"), "--output must be a folder, got the file 'p.jsonl'."),
    "model without prompts": (
        ("--model", "folder"),
        "--prompts must be given with a model, got nothing. Without prompts there is only the demonstrat",
    ),
    "weights without prompts": (
        ("--gguf", "m.gguf"),
        "--prompts must be given with a model, got nothing. Without prompts there is only the demonstrat",
    ),
    "model": (
        ("--model", "no", "--prompts", "p.jsonl", "--judge", "demo", "--output", "RUN"),
        "--model must be tiny or a folder of a model, got 'no'.",
    ),
    "weights": (
        ("--gguf", "no.gguf", "--prompts", "p.jsonl", "--judge", "demo", "--output", "RUN"),
        "no.gguf must be a file that exists",
    ),
    "nobody to judge": (
        ("--gguf", "no.gguf", "--prompts", "p.jsonl", "--output", "RUN"),
        "--judge must be given with --prompts, to compare the answers, got nothing.",
    ),
    "nowhere to write": (
        ("--gguf", "no.gguf", "--prompts", "p.jsonl", "--judge", "demo"),
        "--output must be given with --prompts, to keep the weights, got nothing.",
    ),
    "prompt too long": (
        ("--model", "tiny", "--prompts", "p.jsonl", "--answer-length", 250, "--judge", "demo", "--output", "RUN"),
        "prompts[0] must have 1 to 6 tokens",
    ),
    "both": (
        ("--gguf", "m", "--model", "tiny", "--prompts", "p.jsonl", "--judge", "demo", "--output", "RUN"),
        "--gguf must be given without --model, got both.",
    ),
    "length": (("--answer-length", 2), "--answer-length must be 3 in the demonstration, got 2."),
    "beta": (("--beta", 0), "--beta must be a finite number > 0, got '0'."),
    "steps": (("--steps", 0), "--steps must be an integer >= 1, got '0'."),
    "samples": (("--samples", 1), "--samples must be an integer >= 2, got '1'."),
    "learning rate": (("--learning-rate", "nan"), "--learning-rate must be a finite number > 0, got 'nan'."),
    "dtype": (("--dtype", "bfloat16"), "--dtype must be float32 for the tiny model, got 'bfloat16'."),
    "seed": (("--seed", -1), "--seed must be an integer >= 0 and <= 4294967295, got '-1'."),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_cannot_be_used_are_refused_before_anything_is_written(tmp_path, run, case):
    options, message = OPTIONS[case]
    (tmp_path / "p.jsonl").write_text('{"prompt": "a prompt."}\n', encoding="utf-8")
    done = run("finetune", *options)
    assert_refused(done, message)
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["p.jsonl"]


def test_adapters_of_the_tiny_model(tmp_path, run):
    """`--lora-rank` is heeded there too: what is kept are the adapters, and answers come from them."""
    done = run("finetune", "--steps", 1, "--lora-rank", 2, "--output", "RUN")
    assert done.returncode == 0, done.stderr
    names = np.load(tmp_path / "RUN" / "weights.npz").files
    assert names
    assert all("lora" in name for name in names)
    answered = run("generate", "RUN", "--prompt", "1")
    assert len(json.loads(answered.stdout)["answer"]) == 3


GENERATE: dict[str, tuple[tuple[object, ...], str]] = {
    "no run": (("elsewhere",), "FOLDER must be an output folder of nashjax finetune, got 'elsewhere'."),
    "no file": (("RUN", "--prompts", "p.jsonl"), "p.jsonl must be a file that exists"),
    "letter": (("RUN", "--prompt", "r9"), "prompts[0]: text[1] must be one of 'rps.0123', got '9'."),
    "too long": (("RUN", "--answer-length", 4), "length of answers must be less than the context, 4 tokens, got 4"),
    "temperature": (("RUN", "--temperature", -1), "--temperature must be a finite number >= 0, got '-1'."),
    "top p": (("RUN", "--top-p", 1.5), "--top-p must be a finite number > 0 and <= 1, got '1.5'."),
}


@pytest.mark.parametrize("case", GENERATE)
def test_what_cannot_be_answered_is_refused(demo, run, case):
    options, message = GENERATE[case]
    done = run("generate", *options)
    assert_refused(done, message)
    assert done.stdout == ""
