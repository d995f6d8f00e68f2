"""The front door of fine-tuning: a policy, prompts and a judge in, a policy that no other is preferred over out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from nashjax._validation import (
    LARGEST_INT,
    check_integer,
    check_key,
    check_positive,
    invalid,
    message,
    shown,
    wrong_type,
)
from nashjax.lm import step as steps
from nashjax.lm.decoding import Tokens
from nashjax.lm.game import LanguageGame
from nashjax.lm.judges import Judge, JudgeError
from nashjax.lm.judges.base import ask_rows
from nashjax.lm.methods import DEFAULT, make_method
from nashjax.lm.policy import LanguagePolicy
from nashjax.lm.records import Rate, Record, RecordFile, Totals
from nashjax.lm.sharding import check_mesh, to_all_processes, to_mesh, whole
from nashjax.progress import progress_line
from nashjax.stochastic.checkpoint import Checkpoints, describe, describe_model
from nashjax.stochastic.methods import LearnerState, PolicyMethod
from nashjax.stochastic.policies import Params

METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
SHOWN_SAMPLES = 4


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What was learnt.

    Attributes:
      params: weights of the policy at the end (the online policy), to be used with the policy that was given:
        `policy.sample(result.params, ...)`.
      average: their running average over the run, by the method's `averaging`.
      history: all records.
      judge_calls: comparisons in all.
      state: the method's own last state.
    """

    params: Params
    average: Params
    history: tuple[Record, ...]
    judge_calls: int
    state: LearnerState


@dataclasses.dataclass(frozen=True)
class _Run:
    """The arguments of a run, checked."""

    policy: LanguagePolicy
    game: LanguageGame
    method: PolicyMethod
    judge: Judge
    prompts: tuple[str, ...]
    held_out: tuple[str, ...]
    key: jax.Array
    num_steps: int
    num_records: int
    votes: bool
    accumulate: int

    @property
    def record_steps(self) -> list[int]:
        """After which steps there is a record."""
        return [self.num_steps * (k + 1) // self.num_records for k in range(self.num_records)]

    def settings(self) -> dict[str, Any]:
        """What makes this run what it is, for its checkpoints."""
        policy = self.policy
        return {
            "model": describe_model((policy.decoder, policy.params)),
            "tokens": [policy.tokenizer.vocabulary_size, *policy.stop, *policy.forbidden, str(policy.template)],
            "method": describe(self.method),
            "prompts": describe(list(self.prompts)),
            "held_out": describe(list(self.held_out)),
            "beta": float(self.game.beta),
            "answer_length": self.game.length,
            "key": describe(self.key),
            "num_steps": self.num_steps,
            "num_records": self.num_records,
            "votes": self.votes,
            "accumulate": self.accumulate,
        }


def train(
    policy: LanguagePolicy,
    prompts: Sequence[str],
    judge: Judge,
    beta: float,
    *,
    num_steps: int,
    answer_length: int,
    key: jax.Array,
    method: str | PolicyMethod = DEFAULT,
    held_out: Sequence[str] = (),
    num_records: int = 10,
    votes: bool = False,
    accumulate: int = 1,
    mesh: Mesh | None = None,
    output: str | Path | None = None,
    on_record: Callable[[Record, Params], Any] | None = None,
    progress: bool = False,
) -> TrainResult:
    """Fine-tune a language model towards the equilibrium of the game that a judge plays (spec 5).

    In a step the policy and its opponent answer some prompts, the judge compares the answers, and the policy follows
    the gradient of `P(p > q) - beta KL(p||r) - (beta/eta) KL(p||c)`, with opponent `q` and centre `c` as the method
    says and the policy's first weights as the reference `r`.

    Args:
      policy: the model; what of its weights is trained, all or adapters, was decided when it was made.
      prompts: texts to answer, which need no answers of their own.
      judge: who compares; see `Judge`.
      beta: strength of the regularization, > 0, in units of preference for a nat of divergence of a whole answer.
      num_steps: how many steps to make; a finished run cannot be prolonged, since its step sizes depend on its length.
      answer_length: most tokens of an answer, the stop token among them.
      key: a jax random key.
      method: a name in `METHODS`, with the settings of `make_method`, or a method made by that or by its class.
      held_out: prompts that are not learnt from, for win rates against the reference and the proximal centre; these
        comparisons are counted too.
      num_records: how often to evaluate, record and save.
      votes: whether to learn from answers 0 or 1 that are drawn with the judge's probabilities, as people would give.
      accumulate: in how many parts, a divisor of the prompts of a step, to compute a gradient: less memory.
      mesh: devices to share the work, with axes `data` (answers) and `fsdp` (answers, and the weights are split).
      output: folder for `metrics.jsonl` and checkpoints, at every record and when the judge fails or the run is
        interrupted; a run that is started again goes on from there and ends with the same weights, to the last bit.
      on_record: called with each `Record` and the policy's weights; a true answer stops the run.
      progress: whether to draw a progress bar, on the standard output.

    Returns:
      A `TrainResult`.

    Raises:
      ValueError: an argument is not valid.
      JudgeError: the judge has failed for good.
      CheckpointError: of `nashjax.stochastic`, a ValueError: the folder holds another run.
      ImportError: checkpoints are asked for without orbax.
      FloatingPointError: a step was not finite; a smaller learning rate may help.
    """
    run = _checked(
        policy,
        prompts,
        judge,
        beta,
        num_steps,
        answer_length,
        key,
        method,
        held_out,
        num_records,
        votes,
        accumulate,
        mesh,
    )
    folder = None if output is None else Path(output)
    saved = None if folder is None else Checkpoints(folder / CHECKPOINTS, run.settings())
    try:
        return _to_end(run, saved, folder, on_record, progress)
    finally:
        if saved is not None:
            saved.close()


def _to_end(
    run: _Run,
    saved: Checkpoints | None,
    folder: Path | None,
    on_record: Callable[[Record, Params], Any] | None,
    progress: bool,
) -> TrainResult:
    """Make all steps, from the last checkpoint on if there is one."""
    state = steps.init(run.game, run.method, _step_key(run, 0))
    done, calls, totals = 0, 0, Totals()
    restored = None if saved is None else saved.restore(_to_save(run, state, calls, totals))
    number = 1
    if restored is not None:
        number, found = restored
        done = number // 2
        state = _as_state(state, found["state"])
        calls, totals = int(found["calls"]), Totals(*map(float, found["totals"]))
    writes = jax.process_index() == 0
    # With an even number, making its record is what has failed: one that is there was not saved.
    file = RecordFile(folder / METRICS if folder is not None and writes else None, (number - 1) // 2)
    due = run.record_steps
    recorded, stopped = done if number % 2 else -1, False

    def save(after_record: bool) -> None:
        # Numbers rise: that of a record comes after that of a failure to make it.
        if saved is not None:
            saved.save(2 * done + after_record, _to_save(run, state, calls, totals))

    with _progress_bar(progress and writes, run.num_steps, done) as show:
        try:
            while True:
                if done in due and recorded < done:
                    record, asked = _evaluate(run, state, done, calls, totals)
                    calls, totals, recorded = calls + asked, Totals(), done
                    file.add(record)
                    save(after_record=True)
                    stopped = on_record is not None and bool(on_record(record, state.params))
                if done == run.num_steps or stopped:
                    break
                state, asked, totals = _make_step(run, state, done, totals)
                calls += asked
                done += 1
                show(done, totals, file.records)
        except (JudgeError, KeyboardInterrupt):
            if done and recorded < done:
                save(after_record=False)
            raise
    return TrainResult(state.params, state.average, tuple(file.records), calls, state)


def _make_step(run: _Run, state: LearnerState, done: int, totals: Totals) -> tuple[LearnerState, int, Totals]:
    start = time.perf_counter()
    key = _step_key(run, done + 1)
    question = steps.draw(run.game, run.method, state, key)
    actions, opponents = run.method.pairs(question)
    contexts = np.asarray(question.contexts)
    outcome = _compare(run, [run.prompts[i] for i in contexts], actions, opponents)
    state, looks = steps.learn(
        run.game,
        run.method,
        state,
        question,
        to_mesh(outcome, run.game.mesh),
        key,
        to_mesh(np.float32(done / run.num_steps), run.game.mesh),
        votes=run.votes,
        accumulate=run.accumulate,
    )
    looks = [float(x) for x in looks]
    if not np.isfinite(looks).all():
        values = str(dict(zip(steps.Looks._fields, looks, strict=True)))
        advice = "Try a smaller learning rate."
        raise FloatingPointError(message(f"step {done + 1}", "must give finite numbers", values, advice))
    drawn = int(np.asarray(question.actions.mask).sum() + np.asarray(question.opponents.mask).sum())
    return state, outcome.size, totals.add(*looks[:-1], drawn, time.perf_counter() - start)


def _compare(run: _Run, prompts: list[str], actions: Tokens, opponents: Tokens) -> np.ndarray:
    """What the judge says, float32 `[prompts, comparisons]`."""
    ours, theirs = run.policy.decode(actions), run.policy.decode(opponents)
    return _ask(run, prompts, ours, theirs).astype(np.float32)


def _ask(run: _Run, prompts: Sequence[str], ours: list[list[str]], theirs: list[list[str]]) -> np.ndarray:
    """What the judge says on the first process, on all of them, `[prompts, comparisons]`."""
    outcome, failure = np.full((len(prompts), len(ours[0])), np.nan), None
    if jax.process_index() == 0:
        try:
            outcome = ask_rows(run.judge, prompts, ours, theirs)
        except JudgeError as error:
            failure = error
    # Also where it has failed: the others wait for this.
    outcome = to_all_processes(outcome)
    if failure is not None:
        raise failure
    if np.isnan(outcome).any():
        raise JudgeError("The judge has failed on the first process, whose error says why.")
    return outcome


def _evaluate(run: _Run, state: LearnerState, done: int, calls: int, totals: Totals) -> tuple[Record, int]:
    """The record at a step, and the comparisons it has cost."""
    if not run.held_out:
        return totals.record(done, calls, reference_win_rate=None, target_win_rate=None, samples=()), 0
    key = jax.random.fold_in(run.key, LARGEST_INT - done)  # apart from those of the steps
    answers = _answers(run, state.params, jax.random.fold_in(key, 0))
    against = {"reference_win_rate": run.game.reference, "target_win_rate": state.roles.center}
    rates: dict[str, Any] = dict.fromkeys(against)
    asked = 0
    for index, (name, params) in enumerate(against.items()):
        if params is not None:
            opponents = _answers(run, params, jax.random.fold_in(key, 1 + index))
            rates[name] = Rate.of(_ask(run, run.held_out, answers, opponents))
            asked += len(run.held_out)
    shown = [text for (text,) in answers[:SHOWN_SAMPLES]]
    samples = tuple(zip(run.held_out[:SHOWN_SAMPLES], shown, strict=True))
    return totals.record(done, calls + asked, samples=samples, **rates), asked


def _answers(run: _Run, params: Params, key: jax.Array) -> list[list[str]]:
    """One answer to each held-out prompt."""
    prompts = run.policy.encode(run.held_out, run.game.length)
    prompts = jax.tree.map(lambda x: to_mesh(x, run.game.mesh), prompts)
    return run.policy.decode(steps.answer(run.game, params, _on_mesh(run, key), prompts))


def _step_key(run: _Run, step: int) -> jax.Array:
    """The key of a step, on all devices."""
    return _on_mesh(run, jax.random.fold_in(run.key, step))


def _on_mesh(run: _Run, key: jax.Array) -> jax.Array:
    if run.game.mesh is None:
        return key
    data = to_mesh(jax.random.key_data(key), run.game.mesh)
    return jax.random.wrap_key_data(data, impl=str(jax.random.key_impl(key)))


def _to_save(run: _Run, state: LearnerState, calls: int, totals: Totals) -> dict[str, Any]:
    leaves: Any = jax.tree.leaves(state)
    if run.game.mesh is not None:  # a process may hold but a part; one by one, as all of them may not fit a device
        leaves = [np.asarray(_whole(leaf, run.game.mesh)) for leaf in leaves]
    named = {str(index): leaf for index, leaf in enumerate(leaves)}
    return {"state": named, "calls": np.int64(calls), "totals": np.array(totals)}


_whole: Any = jax.jit(whole, static_argnums=1)


def _as_state(like: LearnerState, leaves: dict[str, Any]) -> LearnerState:
    old, structure = jax.tree.flatten(like)
    found = [jax.device_put(leaves[str(index)], leaf.sharding) for index, leaf in enumerate(old)]
    return jax.tree.unflatten(structure, found)


def _checked(
    policy: LanguagePolicy,
    prompts: Sequence[str],
    judge: Judge,
    beta: float,
    num_steps: int,
    answer_length: int,
    key: jax.Array,
    method: str | PolicyMethod,
    held_out: Sequence[str],
    num_records: int,
    votes: bool,
    accumulate: int,
    mesh: Mesh | None,
) -> _Run:
    """The arguments, or ValueError."""
    if not isinstance(policy, LanguagePolicy):
        raise wrong_type("policy", "a LanguagePolicy", policy)
    if not callable(judge):
        raise wrong_type("judge", "a function of prompts, responses and opponents", judge)
    num_steps = check_integer("num_steps", num_steps, 1)
    answer_length = check_integer("answer_length", answer_length, 1)
    num_records = check_integer("num_records", num_records, 1)
    accumulate = check_integer("accumulate", accumulate, 1)
    check_positive("beta", beta)
    check_key("key", key)
    if isinstance(method, str):
        method = make_method(method)
    if not isinstance(method, PolicyMethod):
        raise wrong_type("method", "a name or a policy method", method)
    if method.samples_per_context is None or method.exact:
        raise invalid("method", "a policy method with samples_per_context and exact=False", shown(method))
    rows = method.batch_size // method.samples_per_context ** (2 if method.all_pairs else 1)
    if rows % accumulate:
        raise invalid("accumulate", f"a divisor of the {rows} prompts of a step", str(accumulate))
    if mesh is not None:
        check_mesh(mesh, rows, accumulate)
    if held_out:
        policy.encode(held_out, answer_length, name="held_out")
    game = LanguageGame.of(policy, policy.encode(prompts, answer_length), beta, answer_length, mesh)
    num_records = min(num_records, num_steps)
    return _Run(
        policy, game, method, judge, tuple(prompts), tuple(held_out), key, num_steps, num_records, votes, accumulate
    )


@contextmanager
def _progress_bar(shown: bool, total: int, done: int) -> Iterator[Callable[[int, Totals, list[Record]], None]]:
    """A bar on the terminal; gives the function that moves it on."""
    with progress_line("fine-tuning", total, done, shown=shown, asked=True) as show:

        def show_step(done: int, totals: Totals, records: list[Record]) -> None:
            parts = []
            if totals.steps:
                parts.append(f"KL {totals.kl / totals.steps:.2f}, {totals.tokens / totals.seconds:.0f} tokens/s")
            if records and records[-1].reference_win_rate is not None:
                parts.insert(0, f"win rate {records[-1].reference_win_rate.mean:.2f}")
            show(done, ", ".join(parts) or "fine-tuning")

        yield show_step
