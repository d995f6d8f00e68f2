"""`nashjax finetune`: a language model learns from a judge; heavy imports are in the functions."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nashjax.commands.options import Debug, MaxFileSize, Seed
from nashjax.commands.report import counted
from nashjax.commands.run_settings import LARGEST_RANK, LONGEST_ANSWER, RUN_FILE, read_settings
from nashjax.commands.terminal import errors_in_one_line, library_errors, number_option, put
from nashjax.files import BadInput
from nashjax.files.errors import bad_input, quoted, sentence, visible
from nashjax.files.source import DEFAULT_LIMIT, Source
from nashjax.files.write import write_whole

if TYPE_CHECKING:
    from nashjax import lm

WEIGHTS_FILE = "weights.npz"
_ADDRESSES = ("http://", "https://")
_HELD_OUT_SHARE, _MOST_HELD_OUT = 10, 32

Count = number_option(1, whole=True)
AnswerLength = number_option(1, whole=True, high=LONGEST_ANSWER)
_OPTIONS = {
    "beta": "--beta",
    "path": "--gguf",
    "folder": "--model",
    "method": "--method",
    "dtype": "--dtype",
    "lora_rank": "--lora-rank",
    "prompts_per_step": "--prompts-per-step",
    "samples_per_prompt": "--samples",
}
"""What the library calls its arguments, and what the user gives."""


def finetune(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="tiny|FOLDER",
            help="A tiny model with random weights, or a Tunix model folder. Its chat template is code of its author.",
        ),
    ] = None,
    gguf: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Weights in a GGUF file, instead, whose chat template is code of its author."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl",
            help='A line for each prompt, {"prompt": "..."}; - is standard input. One in ten, from 1 to 32, is kept '
            "for win rates and not learnt from. Not needed with tiny.",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="URL|MODULE:FUNCTION|demo",
            help="An OpenAI-compatible address, a function of three lists of texts (prompts, responses, opponents), "
            "or rock, paper, scissors, as in the demonstration.",
        ),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(metavar="NAME", help="The model to ask for at the URL.")] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="How to learn, see the README; default proximal_point.")
    ] = None,
    beta: Annotated[
        float,
        typer.Option(parser=number_option(0, closed=False), metavar="NUMBER", help="Pull to the first model, > 0."),
    ] = 0.05,
    steps: Annotated[int, typer.Option(parser=Count, metavar="INTEGER", help="How many steps to make.")] = 400,
    answer_length: Annotated[
        int | None, typer.Option(parser=AnswerLength, metavar="INTEGER", help="Most tokens of an answer; default 32.")
    ] = None,
    prompts_per_step: Annotated[
        int | None, typer.Option(parser=Count, metavar="INTEGER", help="Prompts in a step; default 8, or all.")
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            parser=number_option(2, whole=True),
            metavar="INTEGER",
            help="Answers to each prompt of the policy and of its opponent, all compared with each other; default 4. "
            "In the demonstration each is compared with one, default 64.",
        ),
    ] = None,
    learning_rate: Annotated[
        float, typer.Option(parser=number_option(0, closed=False), metavar="NUMBER", help="Of Adam.")
    ] = 0.0015,
    lora_rank: Annotated[
        int | None,
        typer.Option(
            parser=number_option(0, whole=True, high=LARGEST_RANK),
            metavar="INTEGER",
            help="Of the adapters; 0 trains all weights. Default 8, and 0 for the tiny model.",
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(metavar="float32|bfloat16", help="What is computed in.")] = "float32",
    seed: Seed = 0,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where to keep metrics, checkpoints and the weights; needed with prompts."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the output folder; all else as when it began.")
    ] = False,
    max_file_size: MaxFileSize = DEFAULT_LIMIT,
    debug: Debug = False,
) -> None:
    """Fine-tune a language model, so that its answers are preferred over any other policy's.

    Without options: a demonstration, a tiny model that learns rock, paper, scissors. All of its answers can be listed,
    so it ends by comparing what was learnt with the exact equilibrium.

    The chat template of a model is code of the model's author. It runs in a process of its own, with limits on its
    time, its memory and the text that it makes.
    """
    with errors_in_one_line(debug), library_errors(**_OPTIONS):
        from nashjax import lm

        demo = prompts is None
        if not demo and judge is None:
            raise bad_input("--judge", "", "given with --prompts, to compare the answers", "nothing")
        if not demo and output is None:
            raise bad_input("--output", "", "given with --prompts, to keep the weights", "nothing")
        judge = judge or "demo"
        tiny = gguf is None and model in (None, "tiny")
        if tiny and dtype != "float32":
            raise bad_input("--dtype", "", "float32 for the tiny model", quoted(dtype))
        settings = {
            "model": model if model in (None, "tiny") or not Path(model).is_dir() else str(Path(model).absolute()),
            "gguf": None if gguf is None else str(gguf.absolute()),
            "lora_rank": (0 if tiny else 8) if lora_rank is None else lora_rank,
            "dtype": dtype,
            "answer_length": answer_length or (3 if demo else 32),
            "demo": demo,
            "judge": "URL" if judge.startswith(_ADDRESSES) else judge,  # which may change, the model there may not
            "judge_model": judge_model,
        }
        if demo and (gguf is not None or model not in (None, "tiny")):
            advice = "Without prompts there is only the demonstration, which has its own model."
            raise bad_input("--prompts", "", "given with a model", "nothing", advice)
        if gguf is not None and model is not None:
            raise bad_input("--gguf", "", "given without --model", "both")
        if demo and answer_length not in (None, 3):
            raise bad_input("--answer-length", "", "3 in the demonstration", str(answer_length))
        _check_output(output, resume, settings)
        listed = lm.ListedGame(lora_rank=settings["lora_rank"]) if demo else None
        policy = first_policy(settings) if listed is None else listed.policy
        texts = read_prompts(Source(prompts, max_file_size)) if prompts is not None else []
        held_out = texts[::_HELD_OUT_SHARE][:_MOST_HELD_OUT] if len(texts) > 1 else []
        training = [text for text in texts if text not in held_out] if listed is None else listed.prompts
        chosen = lm.make_method(
            method or lm.DEFAULT_METHOD,
            prompts_per_step=prompts_per_step or min(8, len(training)),
            samples_per_prompt=samples or (64 if demo else 4),
            learning_rate=learning_rate,
            all_pairs=not demo,
        )
        if texts:
            policy.encode(texts, settings["answer_length"])  # raises for one that is too long
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
        with make_judge(judge, judge_model, output) as compare:
            if output is not None:  # a command that could not begin can be given again
                write_whole(output / RUN_FILE, (json.dumps(settings, indent=1) + "\n").encode())
            try:
                _run(policy, listed, training, held_out, compare, chosen, beta, steps, settings, seed, output)
            except lm.JudgeError as error:
                further = "" if output is None else " Continue by the same command with --resume."
                raise BadInput(f"The judge failed: {sentence(str(error))}{further}") from error


def _run(
    policy: lm.LanguagePolicy,
    listed: lm.ListedGame | None,
    training: list[str],
    held_out: list[str],
    judge: lm.Judge,
    method: Any,
    beta: float,
    steps: int,
    settings: dict[str, Any],
    seed: int,
    output: Path | None,
) -> None:
    import jax

    from nashjax import lm

    game = None if listed is None else listed.preferences(judge)

    def show(record: lm.Record, params: Any) -> None:
        line = f"step {record.step}: {record.judge_calls} judge calls, KL {record.kl:.3f}"
        if listed is not None and game is not None:
            gap = listed.exploitability(game, params, beta)
            line += f", exploitability {gap.mean():.4f} (at most {gap.max():.4f})"
        if record.reference_win_rate is not None:
            mean, low, high = record.reference_win_rate
            line += f", win rate against the first model {mean:.2f} ({low:.2f} to {high:.2f})"
        lines = [line, *(f"  {visible(p)!s:.60} -> {visible(a)!s:.200}" for p, a in record.samples[:2])]
        put("\n".join(lines) + "\n")

    if listed is not None and game is not None:
        gap = listed.exploitability(game, policy.params, beta)
        put(f"Before: exploitability {gap.mean():.4f} (at most {gap.max():.4f}).\n")
    else:
        numbers = (
            f"{counted(steps, 'step')}, {counted(len(training), 'prompt')} to learn from, {len(held_out)} held out"
        )
        put(f"{numbers}; compiling.\n")
    result = lm.train(
        policy,
        training,
        judge,
        beta,
        num_steps=steps,
        answer_length=settings["answer_length"],
        key=jax.random.key(seed),
        method=method,
        held_out=held_out,
        output=output,
        on_record=show,
        progress=sys.stdout.isatty(),
    )
    if output is not None:
        lm.save_weights(output / WEIGHTS_FILE, result.params)
        put(f"Written to {visible(str(output))}.\n")
    if listed is not None and game is not None:
        _show_equilibrium(listed, game, result.params, beta)


def _show_equilibrium(listed: lm.ListedGame, game: Any, params: Any, beta: float) -> None:
    """What was learnt beside the exact equilibrium, of the first prompt."""
    import numpy as np

    import nashjax as nj

    reference, learnt = (np.exp(listed.log_policy(x)) for x in (listed.policy.params, params))
    exact = np.asarray(nj.solve(game.astype(np.float32), beta, reference=reference).policy)
    lines = [f"\nPrompt {listed.prompts[0]!r}, the likeliest answers:", "answer   exact  learnt  at first"]
    for index in np.argsort(-exact[0])[:6]:
        numbers = (exact[0, index], learnt[0, index], reference[0, index])
        lines.append(f"{listed.answers[index]:6s} " + " ".join(f"{x:7.3f}" for x in numbers))
    put("\n".join(lines) + "\n")


def read_prompts(source: Source) -> list[str]:
    """Prompts of a JSON Lines file, objects with `prompt` or texts.

    Raises:
      BadInput: a line is neither; it is named.
    """
    try:
        lines = source.read("JSON Lines").decode("utf-8-sig").split("\n")  # other ends of lines may be inside of a text
    except UnicodeDecodeError as error:
        got = f"byte 0x{error.object[error.start]:02x} at position {error.start + 1}"
        raise bad_input(source, "", "text in UTF-8", got) from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where, cause, text = f"{source}, line {number}", None, None
        try:
            value = json.loads(line)
            text = value.get("prompt") if isinstance(value, dict) else value
        except (ValueError, RecursionError) as error:
            cause = error
        if not isinstance(text, str) or not text or not _is_unicode(text):
            raise bad_input(where, "", 'a line such as {"prompt": "..."}', quoted(line)) from cause
        found.append(text)
    if not found:
        raise bad_input(source, "number of prompts", "at least 1", "0")
    return list(dict.fromkeys(found))


def _is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON may escape half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


@contextlib.contextmanager
def make_judge(text: str, model: str | None, output: Path | None) -> Iterator[lm.Judge]:
    """The judge that an option names."""
    from nashjax import lm

    if model is not None and not text.startswith(_ADDRESSES):
        raise bad_input("--judge-model", "", "given with an address, --judge URL", quoted(model))
    if text == "demo":
        yield lm.DemoJudge()
    elif text.startswith(_ADDRESSES):
        if model is None:
            raise bad_input("--judge-model", "", "given with an address", "nothing")
        with lm.HttpJudge(text, model, cache=None if output is None else output / "judge.sqlite3") as judge:
            yield judge
            calls = f"{judge.calls} requests, two for a comparison of different answers"
            if judge.prompt_tokens:
                calls += f", read {judge.prompt_tokens} tokens and wrote {judge.completion_tokens}"
            failed = f", failed attempts: {dict(judge.failures)}" if judge.failures else ""
            put(f"The judge took {calls}{failed}.\n")
    else:
        yield lm.CallableJudge(_function(text))


def _function(text: str) -> Callable[..., Any]:
    """`module:function`, also of the folder that the command is run in."""
    module, _, name = text.partition(":")
    if not (module and name):
        raise bad_input("--judge", "", "an address, MODULE:FUNCTION or demo", quoted(text))
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever a user's module does wrong
        said = visible(f"{type(error).__name__}: {error}")
        raise bad_input("--judge", "", "a function that can be imported", f"{quoted(text)} ({said})") from error
    if not callable(found):
        raise bad_input("--judge", "", "a function", f"{quoted(text)}, a {type(found).__name__}")
    return found


def first_policy(settings: dict[str, Any]) -> lm.LanguagePolicy:
    """The model that a run starts from."""
    from nashjax import lm

    options = {"lora_rank": settings["lora_rank"], "dtype": settings["dtype"]}
    if settings["gguf"] is not None:
        return lm.load_gguf(settings["gguf"], **options)
    if settings["model"] in (None, "tiny"):
        return lm.tiny_policy(lora_rank=settings["lora_rank"])
    if not Path(settings["model"]).is_dir():
        raise bad_input("--model", "", "tiny or a folder of a model", quoted(settings["model"]))
    from nashjax.lm.tunix import load_tunix

    return load_tunix(settings["model"], **options)


def _check_output(output: Path | None, resume: bool, settings: dict[str, Any]) -> None:
    if output is None:
        if resume:
            raise bad_input("--output", "", "given with --resume, the folder of the run", "nothing")
        return
    if output.exists() and not output.is_dir():
        raise bad_input("--output", "", "a folder", f"the file {quoted(str(output))}")
    begun = (output / RUN_FILE).exists()
    if begun and not resume:
        advice = "The same command with --resume continues that run."
        raise bad_input("--output", "", "a folder without a run", quoted(str(output)), advice)
    if resume and not begun:
        raise bad_input("--resume", "", "given with the folder of a run", quoted(str(output)))
    if begun:
        for name, value in read_settings(output, "--output").items():
            if settings[name] != value:
                option = f"--{name.replace('_', '-')}"
                raise bad_input(option, "", f"{value!r}, as in the run to resume", repr(settings[name]))
