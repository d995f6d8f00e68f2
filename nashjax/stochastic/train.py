"""The front door: learn a policy from comparisons."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nashjax import simplex
from nashjax.games import MatrixGame
from nashjax.inputs import as_policy
from nashjax.problem import RegularizedGame
from nashjax.pytree import register_dataclass
from nashjax.stochastic.checkpoint import Checkpoints, describe
from nashjax.stochastic.methods import LearnerState, Method, StochasticNashMP
from nashjax.stochastic.methods.base import at_least
from nashjax.stochastic.oracles import PreferenceOracle
from nashjax.stochastic.policies import Policy, TabularPolicy
from nashjax.stochastic.records import History, Record, Tally
from nashjax.stochastic.sampled_game import SampledGame, draw, known_game

LARGEST_INT = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What was learnt, of every independent game.

    Attributes:
      log_policy: log-probabilities `[*batch, n]`; of a contextual oracle `[*batch, num_contexts, n]`.
      params: parameters of that policy, leaves `[*batch, ...]`; None for a method that has no parameters.
      comparisons: spent on each game, int `[*batch]`; what was left of the budget did not fill a batch.
      exploitability: `[*batch]`, the mean over contexts; an array, or None where the oracle knows no matrix.
      diverged: whether the policy of a game is not finite, bool `[*batch]`; a smaller learning rate may help.
      history: the records.
      state: the method's own last state, leaves `[*batch, ...]`.
    """

    log_policy: jax.Array
    params: Any
    comparisons: np.ndarray
    exploitability: Any
    diverged: np.ndarray
    history: History
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
      beta: strength of the regularisation towards the reference, broadcast to `[*batch]`, > 0, in units of preference.
      method: how to learn; default `StochasticNashMP()`. Where the actions can be listed, `PlugIn()` needs far fewer
        comparisons.
      num_comparisons: the most that may be spent on each game.
      key: a jax random key.
      reference: policies that broadcast to `[*batch, n]`, or `[*batch, num_contexts, n]` for a contextual oracle; zeros
        exclude actions; default uniform.
      policy: the family of policies that learns; default a `TabularPolicy`. Not used by methods that have no
        parameters.
      num_records: how often to evaluate, record and save, >= 1.
      evaluation_comparisons: how many comparisons with the reference to spend on each record, within the budget.
      tol: stop once the exploitability of every game is at most this; needs an oracle that knows its matrix.
      on_record: called with each `Record`; a true answer stops the run.
      checkpoint: folder to save to at every record, and to go on from.
      progress: whether to show a progress bar.

    Returns:
      A `TrainResult`.

    Raises:
      ValueError: an argument is not valid.
      OracleError: an answer is not a number in [0, 1] or has the wrong shape, or the oracle raised; nothing of what
        came after the last record is saved.
      CheckpointError: the folder holds another run.
    """
    method = StochasticNashMP() if method is None else method
    run = _Run.make(oracle, beta, method, num_comparisons, key, reference, policy, num_records, evaluation_comparisons)
    if tol is not None and not run.knows_matrix:
        raise ValueError(f"tol: is {tol}, but {type(oracle).__name__} knows no matrix; allowed is None")
    saved = None
    if checkpoint is not None:
        saved = Checkpoints(checkpoint, run.describe())
    try:
        with _oracle_failures(oracle):
            return run.to_end(saved, tol, on_record, progress)
    finally:
        if saved is not None:
            saved.close()


@register_dataclass
@dataclasses.dataclass(frozen=True)
class _Setup:
    """What the compiled functions need, the games in one axis `[games]`.

    An oracle or policy that is no pytree of arrays is `static`, one for all games.
    """

    oracle: Any
    policy: Any
    beta: jax.Array
    log_reference: jax.Array
    keys: jax.Array
    method: Method = dataclasses.field(metadata={"static": True})
    static_oracle: Any = dataclasses.field(metadata={"static": True})
    static_policy: Any = dataclasses.field(metadata={"static": True})
    num_steps: int = dataclasses.field(metadata={"static": True})

    def over_games(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """`function(game, key, *arrays)` of each game, by `vmap`."""

        def of_one(oracle: Any, beta: jax.Array, log_reference: jax.Array, key: jax.Array, *arrays: Any) -> Any:
            oracle = self.static_oracle if self.static_oracle is not None else oracle
            policy = self.static_policy if self.static_policy is not None else self.policy
            return function(SampledGame(oracle, policy, beta, log_reference), key, *arrays)

        return jax.vmap(of_one)(self.oracle, self.beta, self.log_reference, self.keys, *arrays)


@jax.jit
def _init(setup: _Setup) -> Any:
    return setup.over_games(lambda game, key: setup.method.init(game, jax.random.fold_in(key, LARGEST_INT)))


@jax.jit
def _advance(setup: _Setup, states: Any, first: jax.Array, end: jax.Array) -> tuple[Any, Tally]:
    """Make the steps from `first` up to `end`."""

    def step(t: jax.Array, carried: tuple[Any, Tally]) -> tuple[Any, Tally]:
        progress = t.astype(setup.beta.dtype) / setup.num_steps

        def of_one(game: SampledGame, key: jax.Array, state: Any, tally: Tally) -> tuple[Any, Tally]:
            state, asked = setup.method.step(game, state, jax.random.fold_in(key, t), progress)
            return state, tally.add(asked)

        return setup.over_games(of_one, *carried)

    return jax.lax.fori_loop(first, end, step, (states, Tally.empty(setup.beta.shape, setup.beta.dtype)))


@jax.jit
def _evaluate(setup: _Setup, states: Any) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Log-policies `[games, contexts, n]`, their divergence from the reference, their exploitability `[games]`."""

    def of_one(game: SampledGame, key: jax.Array, state: Any) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        log_policy = setup.method.log_policy(game, state)
        kl = jnp.mean(simplex.kl_divergence(log_policy.T, game.log_reference.T))
        if not isinstance(getattr(game.oracle, "game", None), MatrixGame):
            return log_policy, kl, None
        problem = RegularizedGame(known_game(game.oracle), game.beta[None], game.log_reference.T)
        exploitability = problem.exploitability(log_policy.T, problem.payoffs(log_policy.T))
        return log_policy, kl, jnp.mean(exploitability)

    return setup.over_games(of_one, states)


def _ask_reference(setup: _Setup, log_policy: jax.Array, record: jax.Array, num: int) -> Tally:
    """Compare the learnt policies with the reference, `num` times each game."""

    def of_one(game: SampledGame, key: jax.Array, log_policy: jax.Array) -> Tally:
        keys = jax.random.split(jax.random.fold_in(key, LARGEST_INT - record), 4)
        contexts = game.draw_contexts(keys[0], num)
        actions = draw(log_policy[contexts], keys[1], 1)
        opponents = draw(game.log_reference[contexts], keys[2], 1)
        return Tally.empty((), setup.beta.dtype).add(game.compare(keys[3], contexts, actions, opponents))

    return setup.over_games(of_one, log_policy)


_ask_reference = jax.jit(_ask_reference, static_argnames="num")


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run, its arguments checked."""

    setup: _Setup
    batch: tuple[int, ...]
    contextual: bool
    num_records: int
    evaluation_comparisons: int
    settings: dict[str, Any]

    @classmethod
    def make(
        cls,
        oracle: PreferenceOracle,
        beta: ArrayLike,
        method: Method,
        num_comparisons: int,
        key: jax.Array,
        reference: ArrayLike | None,
        policy: Policy | None,
        num_records: int,
        evaluation_comparisons: int,
    ) -> _Run:
        """Check the arguments, and lay all games along one axis."""
        if isinstance(oracle, type) or not isinstance(oracle, PreferenceOracle):
            raise ValueError(f"oracle: is {oracle!r}; allowed are oracles such as BernoulliOracle(game)")
        if isinstance(method, type) or not isinstance(method, Method):
            raise ValueError(f"method: is {method!r}; allowed are instances such as StochasticNashMP()")
        policy = TabularPolicy() if policy is None else policy
        if isinstance(policy, type) or not isinstance(policy, Policy):
            raise ValueError(f"policy: is {policy!r}; allowed are instances such as TabularPolicy()")
        at_least("num_comparisons", num_comparisons, 1)
        at_least("num_records", num_records, 1)
        at_least("evaluation_comparisons", evaluation_comparisons, 0)
        steps = (num_comparisons - num_records * evaluation_comparisons) // method.batch_size
        if steps < 1 or num_comparisons > LARGEST_INT:
            least = method.batch_size + num_records * evaluation_comparisons
            raise ValueError(f"num_comparisons: is {num_comparisons}; allowed here are {least} to {LARGEST_INT}")
        if not isinstance(key, jax.Array) or key.shape not in ((), (2,)):
            raise ValueError(f"key: is {key!r}; allowed are jax random keys")

        batch, contexts, n = tuple(oracle.batch_shape), oracle.num_contexts, oracle.num_actions
        contextual = bool(getattr(oracle, "contextual", contexts > 1))
        games = math.prod(batch)
        dtype = oracle.game.preferences.dtype if _knows_matrix(oracle) else jnp.result_type(float)  # pyright: ignore
        beta = _as_betas(beta, batch, dtype)
        log_reference = _as_log_reference(reference, batch, contexts, n, contextual, dtype)
        arrays, static_oracle = _split(oracle)
        shared, static_policy = _split(policy)
        setup = _Setup(
            oracle=jax.tree.map(lambda x: _flatten(x, batch), arrays),
            policy=shared,
            beta=beta.reshape(games),
            log_reference=log_reference.reshape(games, contexts, n),
            keys=jax.random.split(key, games),
            method=method,
            static_oracle=static_oracle,
            static_policy=static_policy,
            num_steps=steps,
        )
        settings = {
            "method": describe(method) | {"class": type(method).__qualname__},
            "oracle": type(oracle).__qualname__,
            "policy": describe(policy),
            "game": describe(jax.tree.leaves(arrays)),
            "beta": describe(setup.beta),
            "reference": describe(setup.log_reference),
            "key": describe(key),
            "num_comparisons": num_comparisons,
            "num_records": num_records,
            "evaluation_comparisons": evaluation_comparisons,
            "batch_shape": list(batch),
        }
        return cls(setup, batch, contextual, min(num_records, steps), evaluation_comparisons, settings)

    @property
    def knows_matrix(self) -> bool:
        """Whether exploitabilities can be told."""
        return _knows_matrix(self.setup.oracle)

    def describe(self) -> dict[str, Any]:
        """What makes this run what it is."""
        return self.settings

    def to_end(
        self,
        saved: Checkpoints | None,
        tol: float | None,
        on_record: Callable[[Record], Any] | None,
        progress: bool,
    ) -> TrainResult:
        """Make all steps, from the last checkpoint on if there is one."""
        states, records = _init(self.setup), []
        restored = None if saved is None else saved.restore(self._to_save(states, [self._empty_record()]))
        if restored is not None:
            number, found = restored
            states = jax.tree.map(jnp.asarray, found["states"])
            records = History(**found["history"]).records()[:number]
        log_policy = None
        with _progress_bar(progress, self.num_records, len(records)) as show:
            while len(records) < self.num_records and not (records and _is_done(records[-1], tol)):
                states, log_policy, record = self._to_next_record(states, len(records))
                records.append(record)
                if saved is not None:
                    saved.save(len(records), self._to_save(states, records))
                show(record)
                if on_record is not None and on_record(record):
                    break
        if log_policy is None:
            log_policy = _evaluate(self.setup, states)[0]
        return self._result(states, log_policy, records)

    def _to_next_record(self, states: Any, done: int) -> tuple[Any, jax.Array, Record]:
        setup, method = self.setup, self.setup.method
        first, end = (setup.num_steps * k // self.num_records for k in (done, done + 1))
        states, tally = jax.block_until_ready(_advance(setup, states, jnp.int32(first), jnp.int32(end)))
        tally.check()
        log_policy, kl, exploitability = _evaluate(setup, states)
        against_reference: tuple[Any, ...] = (None, None, None)
        if self.evaluation_comparisons:
            asked = jax.block_until_ready(
                _ask_reference(setup, log_policy, jnp.int32(done + 1), num=self.evaluation_comparisons)
            )
            asked.check()
            against_reference = asked.interval(self.evaluation_comparisons)
        columns: tuple[Any, ...] = (
            None if exploitability is None else np.asarray(exploitability),
            *tally.interval((end - first) * method.batch_size),
            *against_reference,
            np.asarray(kl),
        )
        spent = end * method.batch_size + (done + 1) * self.evaluation_comparisons
        shaped: list[Any] = [None if x is None else x.reshape(self.batch) for x in columns]
        return states, log_policy, Record(spent, *shaped)

    def _empty_record(self) -> Record:
        array = np.zeros(self.batch)
        exact = np.zeros(self.batch, self.setup.beta.dtype)
        asked = array if self.evaluation_comparisons else None
        return Record(0, exact if self.knows_matrix else None, array, array, array, asked, asked, asked, exact)

    def _to_save(self, states: Any, records: list[Record]) -> dict[str, Any]:
        """All records, in arrays whose length does not depend on how many there are."""
        history = History.of(records)
        missing = self.num_records - len(records)

        def pad(x: np.ndarray) -> np.ndarray:
            return np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])

        return {"states": states, "history": {k: v if v is None else pad(v) for k, v in history._asdict().items()}}

    def _result(self, states: Any, log_policy: jax.Array, records: list[Record]) -> TrainResult:
        states = jax.tree.map(lambda x: x.reshape(*self.batch, *x.shape[1:]), states)
        shape = log_policy.shape[1:] if self.contextual else log_policy.shape[2:]
        log_policy = log_policy.reshape(*self.batch, *shape)
        axes = tuple(range(len(self.batch), log_policy.ndim))
        return TrainResult(
            log_policy=log_policy,
            params=states.average if isinstance(states, LearnerState) else None,
            comparisons=np.full(self.batch, records[-1].comparisons),
            exploitability=records[-1].exploitability,
            diverged=np.asarray(np.isnan(np.asarray(log_policy)).any(axis=axes)),
            history=History.of(records),
            state=states,
        )


def _knows_matrix(oracle: Any) -> bool:
    return isinstance(getattr(oracle, "game", None), MatrixGame)


def _is_done(record: Record, tol: float | None) -> bool:
    return tol is not None and record.exploitability is not None and bool((record.exploitability <= tol).all())


def _split(x: Any) -> tuple[Any, Any]:
    """A pytree of arrays and None, or an empty one and the thing itself, which then has to be hashable."""
    if all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in jax.tree.leaves(x)):
        return x, None
    return (), x


def _flatten(leaf: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    rest = leaf.shape[len(batch) :]
    return jnp.broadcast_to(leaf, (*batch, *rest)).reshape(math.prod(batch), *rest)


def _as_betas(beta: ArrayLike, batch: tuple[int, ...], dtype: Any) -> jax.Array:
    try:
        values = np.asarray(beta, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"beta: is {beta!r}; allowed are real numbers") from None
    good = np.isfinite(values) & (values >= float(jnp.finfo(dtype).tiny))
    if not good.all():
        index = [int(i) for i in np.argwhere(~good)[0]]
        raise ValueError(f"beta{index or ''} is {values[tuple(index)]}; allowed are finite numbers > 0")
    return jnp.asarray(_broadcast("beta", values, batch), dtype)


def _as_log_reference(
    reference: ArrayLike | None, batch: tuple[int, ...], contexts: int, n: int, contextual: bool, dtype: Any
) -> jax.Array:
    """`[*batch, contexts, n]`."""
    if reference is None:
        return jnp.full((*batch, contexts, n), -math.log(n), dtype)
    values = np.asarray(as_policy("reference", reference, MatrixGame(jnp.zeros((n, n), dtype))))
    values = _broadcast("reference", values, (*batch, contexts, n) if contextual else (*batch, n))
    log_reference = jnp.log(jnp.asarray(values.reshape(*batch, contexts, n)))
    return jax.nn.log_softmax(log_reference, axis=-1)


def _broadcast(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        raise ValueError(
            f"{name}: has shape {list(values.shape)}; allowed are shapes that broadcast to {list(shape)}"
        ) from None


@contextmanager
def _oracle_failures(oracle: Any) -> Iterator[None]:
    """What an oracle raises inside of compiled code comes out as jax's own error: raise the oracle's instead."""
    if hasattr(oracle, "failure"):
        oracle.failure = None
    try:
        yield
    except jax.errors.JaxRuntimeError:
        failure = getattr(oracle, "failure", None)
        if failure is None:
            raise
        raise failure from None


@contextmanager
def _progress_bar(shown: bool, total: int, done: int) -> Iterator[Callable[[Record], None]]:
    """A bar on the terminal; gives the function that moves it on."""
    if not shown:
        yield lambda record: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
    with Progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task("training", total=total, completed=done)

        def show(record: Record) -> None:
            known = record.exploitability
            text = f"win rate {record.win_rate.mean():.3f}" if known is None else f"exploitability {known.mean():.2e}"
            bar.update(task, advance=1, description=f"{record.comparisons} comparisons, {text}")

        yield show
