"""`nashjax generate`: what a run has learnt answers prompts; heavy imports are in the function."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nashjax.commands.finetune import WEIGHTS_FILE, AnswerLength, Count, first_policy, read_prompts
from nashjax.commands.options import Debug, MaxFileSize, Seed
from nashjax.commands.run_settings import read_settings
from nashjax.commands.terminal import errors_in_one_line, library_errors, number_option, put
from nashjax.files.errors import bad_input, quoted
from nashjax.files.source import DEFAULT_LIMIT, Source


def generate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a finished run.", show_default=False)],
    prompt: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="What to answer; repeatable.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Prompts in a file; - is standard input.")
    ] = None,
    samples: Annotated[int, typer.Option(parser=Count, metavar="INTEGER", help="Answers to each prompt.")] = 1,
    answer_length: Annotated[
        int | None,
        typer.Option(parser=AnswerLength, metavar="INTEGER", help="Most tokens of an answer; default the run's."),
    ] = None,
    temperature: Annotated[
        float, typer.Option(parser=number_option(0), metavar="NUMBER", help="0 takes the likeliest tokens.")
    ] = 1.0,
    top_p: Annotated[
        float,
        typer.Option(parser=number_option(0, closed=False, high=1), metavar="NUMBER", help="Share to draw from."),
    ] = 1.0,
    seed: Seed = 0,
    max_file_size: MaxFileSize = DEFAULT_LIMIT,
    debug: Debug = False,
) -> None:
    """Answer prompts with the model that a run has learnt; one line of JSON for each answer.

    The chat template of the model is code of the model's author. It runs in a process of its own, with limits on its
    time, its memory and the text that it makes.
    """
    with errors_in_one_line(debug), library_errors():
        import jax

        from nashjax import lm

        settings = _read_run(folder)
        texts = list(prompt or []) + ([] if prompts is None else read_prompts(Source(prompts, max_file_size)))
        if not texts and not settings["demo"]:
            raise bad_input("--prompt", "", "given, or --prompts", "nothing")
        policy = lm.ListedGame(lora_rank=settings["lora_rank"]).policy if settings["demo"] else first_policy(settings)
        texts = texts or list(lm.ListedGame().prompts)
        params = lm.load_weights(folder / WEIGHTS_FILE, policy.params)
        length = answer_length or settings["answer_length"]
        tokens = policy.encode(texts, length)
        key = jax.random.key(seed)
        drawn = policy.sample(params, key, tokens, samples, length, temperature=temperature, top_p=top_p)[0]
        for text, answers in zip(texts, policy.decode(drawn), strict=True):
            for answer in answers:
                put(_json_line({"prompt": text, "answer": answer}))


def _json_line(fields: dict[str, str]) -> str:
    """One line, readable, and without characters that would end it or steer a terminal."""
    line = json.dumps(fields, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in line) + "\n"


def _read_run(folder: Path) -> dict[str, Any]:
    settings = read_settings(folder, "FOLDER")
    if not (folder / WEIGHTS_FILE).exists():
        advice = "The command of the run with --resume continues it."
        raise bad_input("FOLDER", "", "that of a finished run", quoted(str(folder)), advice)
    return settings
