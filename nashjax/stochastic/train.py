"""The front door: learn a policy from comparisons."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nashjax._math.transfers import explicit
from nashjax._validation import check_number, invalid
from nashjax.progress import progress_line
from nashjax.stochastic.checkpoint import Checkpoints
from nashjax.stochastic.methods import LearnerState, Method, StochasticNashMP
from nashjax.stochastic.oracles import CallableOracle, PreferenceOracle
from nashjax.stochastic.policies import Policy, TabularPolicy
from nashjax.stochastic.records import Record, stack, unstack
from nashjax.stochastic.setup import Setup, advance, ask_reference, evaluate, init, make_setup


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What was learnt, of every independent game.

    Attributes:
      log_policy: log-probabilities `[*batch, n]`; of a contextual oracle `[*batch, num_contexts, n]`.
      params: parameters of that policy, leaves `[*batch, ...]`; None for a method that has no parameters.
      comparisons: spent on each game, int `[*batch]`; what was left of the budget did not fill a batch.
      exploitability: `[*batch]`, the mean over contexts; an array, or None where the oracle knows no matrix.
      diverged: whether the policy of a game is not finite, bool `[*batch]`; a smaller learning rate may help. A run
        that is finite can still have failed: see `exploitability`, or `reference_win_rate` in the history.
      history: all records, the fields of `Record` with a leading axis `[records]`.
      state: the method's own last state, leaves `[*batch, ...]`.
    """

    log_policy: jax.Array
    params: Any
    comparisons: np.ndarray
    exploitability: Any
    diverged: np.ndarray
    history: Record
    state: Any

    @property
    def policy(self) -> jax.Array:
        """Probabilities, of the shape of `log_policy`."""
        return jnp.exp(self.log_policy)


def train(
    oracle: PreferenceOracle,
    beta: ArrayLike,
    *,
    method: Method | None = None,
    num_comparisons: int,
    key: jax.Array,
    reference: ArrayLike | None = None,
    policy: Policy | None = None,
    num_records: int = 20,
    evaluation_comparisons: int = 0,
    tol: float | None = None,
    on_record: Callable[[Record], Any] | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> TrainResult:
    """Learn the equilibrium of a preference game from sampled comparisons (spec 4).

    All games of the oracle's batch are learnt side by side, each from answers of its own. The result depends only on
    the arguments: a run that was killed and is started again with the same `checkpoint` ends as if it had not been.

    Args:
      oracle: who answers, a `PreferenceOracle`.
      beta: regularization towards the reference, broadcast to `[*batch]`, > 0, in units of preference.
      method: how to learn; default `StochasticNashMP()`. Where the actions can be listed, `PlugIn()` needs far fewer
        comparisons.
      num_comparisons: the most that may be spent on each game; an action that meets itself counts, although that is not
        asked of a `CallableOracle`. A finished run cannot be prolonged: what is learnt depends on its length.
      key: a jax random key.
      reference: policies that broadcast to `[*batch, n]`, or `[*batch, num_contexts, n]` for a contextual oracle; zeros
        exclude actions; default uniform.
      policy: the family of policies that learns; default a `TabularPolicy`. Not used by methods that have no
        parameters.
      num_records: how often to evaluate, record and save, >= 1.
      evaluation_comparisons: how many comparisons with the reference to spend on each record, within the budget.
      tol: stop at the first record where the exploitability of every game is at most this; needs an oracle that knows
        its matrix.
      on_record: called with each `Record`; a true answer stops the run.
      checkpoint: folder to save to at every record, and to go on from. What an oracle of one's own holds is not
        compared with that of the run before, nor what the function of a `CallableOracle` has closed over.
      progress: whether to draw a progress bar, on the standard output.

    Returns:
      A `TrainResult`.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: an argument is not valid.
      OracleError: an answer is not a number in [0, 1] or has the wrong shape, or the oracle raised; nothing of what
        came after the last record is saved.
      CheckpointError: of `nashjax.stochastic`, a ValueError: the folder holds another run.
      ImportError: checkpoints are asked for without orbax.
    """
    method = StochasticNashMP() if method is None else method
    policy = TabularPolicy() if policy is None else policy
    setup = explicit(
        make_setup(oracle, beta, method, num_comparisons, key, reference, policy, num_records, evaluation_comparisons)
    )
    if tol is not None:
        check_number("tol", tol)
    if tol is not None and not setup.knows_matrix:
        raise invalid("tol", f"None for a {type(oracle).__name__}, which knows no matrix", str(tol))
    saved = None if checkpoint is None else Checkpoints(checkpoint, setup.settings())
    try:
        with _oracle_failures(oracle):
            return _to_end(setup, saved, tol, on_record, progress)
    finally:
        if saved is not None:
            saved.close()


def _to_end(
    setup: Setup,
    saved: Checkpoints | None,
    tol: float | None,
    on_record: Callable[[Record], Any] | None,
    progress: bool,
) -> TrainResult:
    """Make all steps, from the last checkpoint on if there is one."""
    states, records = init(setup), []
    restored = None if saved is None else saved.restore(_to_save(setup, states, [_empty_record(setup)]))
    if restored is not None:
        number, found = restored
        states = jax.tree.map(jnp.asarray, explicit(found["states"]))
        records = unstack(Record(**found["history"]), number)
    log_policy = None
    with _progress_bar(progress, setup.num_records, len(records)) as show:
        while len(records) < setup.num_records and not (records and _is_done(records[-1], tol)):
            states, log_policy, record = _to_next_record(setup, states, len(records))
            records.append(record)
            if saved is not None:
                saved.save(len(records), _to_save(setup, states, records))
            show(record)
            stopped = on_record is not None and on_record(record)
            if stopped or np.isnan(record.kl).all():  # no game is left that could still be learnt
                break
    if log_policy is None:
        log_policy = evaluate(setup, states)[0]
    return _result(setup, states, log_policy, records)


def _to_next_record(setup: Setup, states: Any, done: int) -> tuple[Any, jax.Array, Record]:
    first, end = (setup.num_steps * k // setup.num_records for k in (done, done + 1))
    states, tally = jax.block_until_ready(advance(setup, states, *explicit((np.int32(first), np.int32(end)))))
    tally.check()
    log_policy, kl, exploitability = evaluate(setup, states)
    against_reference: tuple[Any, ...] = (None, None, None)
    if setup.evaluation_comparisons:
        asked = ask_reference(setup, log_policy, explicit(np.int32(done + 1)))
        asked.check()
        against_reference = asked.interval(setup.evaluation_comparisons)
    batch_size = setup.method.batch_size
    columns: tuple[Any, ...] = (
        None if exploitability is None else np.asarray(exploitability),
        *tally.interval((end - first) * batch_size),
        *against_reference,
        np.asarray(kl),
    )
    spent = end * batch_size + (done + 1) * setup.evaluation_comparisons
    return states, log_policy, Record(spent, *(_shaped(x, setup.batch) for x in columns))


def _shaped(x: Any, batch: tuple[int, ...]) -> Any:
    return None if x is None else x.reshape(batch)


def _empty_record(setup: Setup) -> Record:
    """A record of the right types, to restore into."""
    array = np.zeros(setup.batch)
    exact = np.zeros(setup.batch, setup.beta.dtype)
    asked = array if setup.evaluation_comparisons else None
    return Record(0, exact if setup.knows_matrix else None, array, array, array, asked, asked, asked, exact)


def _to_save(setup: Setup, states: Any, records: list[Record]) -> dict[str, Any]:
    """All there is, in arrays whose length does not depend on how many records there are."""
    missing = setup.num_records - len(records)

    def pad(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])

    history = stack(records)._asdict()
    return {"states": states, "history": {name: None if x is None else pad(x) for name, x in history.items()}}


def _result(setup: Setup, states: Any, log_policy: jax.Array, records: list[Record]) -> TrainResult:
    batch = setup.batch
    states = jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), states)
    log_policy = log_policy.reshape(*batch, *log_policy.shape[1 if setup.contextual else 2 :])
    axes = tuple(range(len(batch), log_policy.ndim))
    return TrainResult(
        log_policy=log_policy,
        params=states.average if isinstance(states, LearnerState) else None,
        comparisons=np.full(batch, records[-1].comparisons),
        exploitability=records[-1].exploitability,
        diverged=np.asarray(np.isnan(np.asarray(log_policy)).any(axis=axes)),
        history=stack(records),
        state=states,
    )


def _is_done(record: Record, tol: float | None) -> bool:
    return tol is not None and record.exploitability is not None and bool((record.exploitability <= tol).all())


@contextmanager
def _oracle_failures(oracle: Any) -> Iterator[None]:
    """What an oracle raises inside of compiled code comes out as jax's own error: raise the oracle's instead."""
    if not isinstance(oracle, CallableOracle):
        yield
        return
    oracle.failure = None
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError):  # the one or the other, by how the program was called
        if oracle.failure is None:
            raise
        raise oracle.failure from oracle.failure.__cause__


@contextmanager
def _progress_bar(shown: bool, total: int, done: int) -> Iterator[Callable[[Record], None]]:
    """A bar on the terminal; gives the function that moves it on by a record."""
    numbers = itertools.count(done + 1)
    with progress_line("training", total, done, shown=shown, asked=True) as show:

        def show_record(record: Record) -> None:
            known = record.exploitability
            text = f"win rate {record.win_rate.mean():.3f}" if known is None else f"exploitability {known.mean():.2e}"
            show(next(numbers), f"{record.comparisons} comparisons, {text}")

        yield show_record
