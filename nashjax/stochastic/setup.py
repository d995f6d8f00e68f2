"""The arguments of a run, checked and laid out, and the compiled functions that work on them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from nashjax._math import simplex
from nashjax._math.pytree import register_dataclass
from nashjax._math.transfers import explicit, is_concrete
from nashjax._validation import (
    LARGEST_INT,
    as_numbers,
    as_policy,
    check_all,
    check_integer,
    check_key,
    invalid,
    message,
)
from nashjax.games import MatrixGame
from nashjax.games.regularized import RegularizedGame
from nashjax.stochastic.checkpoint import describe, describe_code
from nashjax.stochastic.methods import Method
from nashjax.stochastic.oracles import PreferenceOracle
from nashjax.stochastic.policies import Policy
from nashjax.stochastic.records import Tally
from nashjax.stochastic.sampled_game import SampledGame, draw, known_game


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Setup:
    """A run, its games in one axis `[games]`; a pytree, what it does is static.

    Attributes:
      oracle: leaves `[games, ...]`; empty where `static_oracle` stands in its place.
      policy: the family of policies, one for all games; empty where `static_policy` stands in its place.
      beta: `[games]`.
      log_reference: `[games, contexts, n]`.
      keys: one for each game.
      method: how to learn.
      static_oracle: an oracle that is no pytree of arrays, one for all games.
      static_policy: a policy that is no pytree of arrays.
      batch: the axes that became one.
      contextual: whether policies have an axis of contexts.
      num_comparisons: the most that may be spent on each game.
      num_steps: steps of the method in the whole run.
      num_records: how often to evaluate, record and save.
      evaluation_comparisons: with the reference, at every record.
    """

    oracle: Any
    policy: Any
    beta: jax.Array
    log_reference: jax.Array
    keys: jax.Array
    method: Method = dataclasses.field(metadata={"static": True})
    static_oracle: Any = dataclasses.field(metadata={"static": True})
    static_policy: Any = dataclasses.field(metadata={"static": True})
    batch: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    contextual: bool = dataclasses.field(metadata={"static": True})
    num_comparisons: int = dataclasses.field(metadata={"static": True})
    num_steps: int = dataclasses.field(metadata={"static": True})
    num_records: int = dataclasses.field(metadata={"static": True})
    evaluation_comparisons: int = dataclasses.field(metadata={"static": True})

    @property
    def knows_matrix(self) -> bool:
        """Whether exploitabilities can be told."""
        return self.static_oracle is None and knows_matrix(self.oracle)

    def settings(self) -> dict[str, Any]:
        """What makes this run what it is, for its checkpoints."""
        oracle = self.oracle if self.static_oracle is None else self.static_oracle
        policy = self.policy if self.static_policy is None else self.static_policy
        return {
            "method": describe(self.method),
            "oracle": [type(oracle).__qualname__, describe_code(getattr(oracle, "function", None))],
            "game": describe(jax.tree.leaves(self.oracle)),
            "policy": describe(policy),
            "beta": describe(self.beta),
            "reference": describe(self.log_reference),
            "key": describe(self.keys),
            "batch_shape": list(self.batch),
            "num_comparisons": self.num_comparisons,
            "num_records": self.num_records,
            "evaluation_comparisons": self.evaluation_comparisons,
        }

    def over_games(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """`function(game, key, *arrays)` of each game, by `vmap`."""

        def of_one(oracle: Any, beta: jax.Array, log_reference: jax.Array, key: jax.Array, *arrays: Any) -> Any:
            oracle = self.static_oracle if self.static_oracle is not None else oracle
            policy = self.static_policy if self.static_policy is not None else self.policy
            return function(SampledGame(oracle, policy, beta, log_reference), key, *arrays)

        return jax.vmap(of_one)(self.oracle, self.beta, self.log_reference, self.keys, *arrays)


@jax.jit
def init(setup: Setup) -> Any:
    """The first states of the method, leaves `[games, ...]`."""
    return setup.over_games(lambda game, key: setup.method.init(game, jax.random.fold_in(key, LARGEST_INT)))


@jax.jit
def advance(setup: Setup, states: Any, first: jax.Array, end: jax.Array) -> tuple[Any, Tally]:
    """Make the steps from `first` up to `end`."""

    def step(t: jax.Array, carried: tuple[Any, Tally]) -> tuple[Any, Tally]:
        progress = t.astype(setup.beta.dtype) / setup.num_steps

        def of_one(game: SampledGame, key: jax.Array, state: Any, tally: Tally) -> tuple[Any, Tally]:
            state, asked = setup.method.step(game, state, jax.random.fold_in(key, t), progress)
            if asked.outcome.size != setup.method.batch_size:
                required = f"must ask its batch_size of {setup.method.batch_size} comparisons in a step"
                raise invalid(f"method {type(setup.method).__name__}", required, str(asked.outcome.size))
            return state, tally.add(asked)

        return setup.over_games(of_one, *carried)

    return jax.lax.fori_loop(first, end, step, (states, Tally.empty(setup.beta.shape, setup.beta.dtype)))


@jax.jit
def evaluate(setup: Setup, states: Any) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Log-policies `[games, contexts, n]`, their divergence from the reference, their exploitability `[games]`."""

    def of_one(game: SampledGame, key: jax.Array, state: Any) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        log_policy = setup.method.log_policy(game, state)
        kl = jnp.mean(simplex.kl_divergence(log_policy.T, game.log_reference.T))
        if not setup.knows_matrix:
            return log_policy, kl, None
        problem = RegularizedGame(known_game(game.oracle), game.beta[None], game.log_reference.T)
        exploitability = problem.exploitability(log_policy.T, problem.payoffs(log_policy.T))
        return log_policy, kl, jnp.mean(exploitability)

    return setup.over_games(of_one, states)


@jax.jit
def ask_reference(setup: Setup, log_policy: jax.Array, record: jax.Array) -> Tally:
    """Compare the learnt policies with the reference, `evaluation_comparisons` times each game."""
    num = setup.evaluation_comparisons

    def of_one(game: SampledGame, key: jax.Array, log_policy: jax.Array) -> Tally:
        keys = jax.random.split(jax.random.fold_in(key, LARGEST_INT - record), 4)
        contexts = game.draw_contexts(keys[0], num)
        actions = draw(log_policy[contexts], keys[1], 1)
        opponents = draw(game.log_reference[contexts], keys[2], 1)
        return Tally.empty((), setup.beta.dtype).add(game.compare(keys[3], contexts, actions, opponents))

    return setup.over_games(of_one, log_policy)


def make_setup(
    oracle: PreferenceOracle,
    beta: ArrayLike,
    method: Method,
    num_comparisons: int,
    key: jax.Array,
    reference: ArrayLike | None,
    policy: Policy,
    num_records: int,
    evaluation_comparisons: int,
) -> Setup:
    """Check the arguments of `train`, and lay all games along one axis.

    Raises:
      TypeError: an argument has the wrong type.
      ValueError: an argument has a wrong value or shape.
    """
    _check_protocol("oracle", oracle, PreferenceOracle, "BernoulliOracle(game)")
    _check_protocol("method", method, Method, "StochasticNashMP()")
    _check_protocol("policy", policy, Policy, "TabularPolicy()")
    num_comparisons = check_integer("num_comparisons", num_comparisons, 1)
    num_records = check_integer("num_records", num_records, 1)
    evaluation_comparisons = check_integer("evaluation_comparisons", evaluation_comparisons, 0)
    # Each record has at least one step to report.
    num_records = min(num_records, max(num_comparisons // (method.batch_size + evaluation_comparisons), 1))
    steps = (num_comparisons - num_records * evaluation_comparisons) // method.batch_size
    if steps < 1 or num_comparisons > LARGEST_INT:
        least = method.batch_size + num_records * evaluation_comparisons
        parts = f"the method's batch_size, {method.batch_size}, and {evaluation_comparisons} to evaluate"
        required = f"an integer from {least} ({parts}) to {LARGEST_INT}"
        raise invalid("num_comparisons", required, str(num_comparisons))
    if not is_concrete((oracle, policy, beta, reference, key)):
        raise invalid("train", "must be called outside of jit, vmap and grad", "a traced argument")
    check_key("key", key)

    batch, contexts, n = tuple(oracle.batch_shape), oracle.num_contexts, oracle.num_actions
    contextual = bool(getattr(oracle, "contextual", contexts > 1))
    games = math.prod(batch)
    dtype = oracle.game.preferences.dtype if knows_matrix(oracle) else jnp.result_type(float)  # pyright: ignore
    log_reference = _as_log_reference(reference, batch, contexts, n, contextual, dtype)
    arrays, static_oracle = _split("oracle", oracle)
    shared, static_policy = _split("policy", policy)
    _check_hashable("method", method)
    return Setup(
        oracle=jax.tree.map(lambda x: _flatten(x, batch), arrays),
        policy=shared,
        beta=_as_betas(beta, batch, dtype).reshape(games),
        log_reference=log_reference.reshape(games, contexts, n),
        keys=jax.random.split(key, games),
        method=method,
        static_oracle=static_oracle,
        static_policy=static_policy,
        batch=batch,
        contextual=contextual,
        num_comparisons=num_comparisons,
        num_steps=steps,
        num_records=num_records,
        evaluation_comparisons=evaluation_comparisons,
    )


def knows_matrix(oracle: Any) -> bool:
    """Whether exploitabilities can be told."""
    return isinstance(getattr(oracle, "game", None), MatrixGame)


def _split(name: str, x: Any) -> tuple[Any, Any]:
    """A pytree of arrays and None, or an empty one and the thing itself, which then has to be hashable."""
    if all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in jax.tree.leaves(x)):
        return x, None
    _check_hashable(name, x)
    return (), x


def _check_protocol(name: str, x: Any, protocol: type, such_as: str) -> None:
    """Raise TypeError, naming what is missing, unless an instance offers what a protocol says."""
    if not isinstance(x, type) and isinstance(x, protocol):
        return
    found = f"the class {x.__name__}" if isinstance(x, type) else f"a {type(x).__name__}"
    offered = [attribute for attribute in dir(protocol) if not attribute.startswith("_")]
    missing = [attribute for attribute in offered if attribute not in dir(x)]
    lacks = f", which lacks {', '.join(missing)}" if missing else ""
    raise TypeError(message(name, f"an instance such as {such_as}", f"{found}{lacks}"))


def _check_hashable(name: str, x: Any) -> None:
    try:
        hash(x)
    except TypeError:
        advice = "Register its class with jax, or make it a frozen dataclass."
        raise TypeError(message(name, "a pytree of arrays or hashable", f"a {type(x).__name__}", advice)) from None


def _flatten(leaf: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    rest = leaf.shape[len(batch) :]
    return jnp.broadcast_to(leaf, (*batch, *rest)).reshape(math.prod(batch), *rest)


def _as_betas(beta: ArrayLike, batch: tuple[int, ...], dtype: Any) -> jax.Array:
    values = as_numbers("beta", beta)
    good = (values >= float(jnp.finfo(dtype).tiny)) & (values <= float(jnp.finfo(dtype).max))
    check_all("beta", values, good, "a finite number > 0")
    return jnp.asarray(explicit(_broadcast("beta", values, batch)), dtype)


def _as_log_reference(
    reference: ArrayLike | None, batch: tuple[int, ...], contexts: int, n: int, contextual: bool, dtype: Any
) -> jax.Array:
    """`[*batch, contexts, n]`."""
    if reference is None:
        return jnp.asarray(explicit(np.full((*batch, contexts, n), -math.log(n), dtype)))
    values = np.asarray(as_policy("reference", reference, n, dtype))
    values = _broadcast("reference", values, (*batch, contexts, n) if contextual else (*batch, n))
    return _log_normalized(explicit(values.reshape(*batch, contexts, n)))


@jax.jit
def _log_normalized(policy: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(jnp.log(policy), axis=-1)


def _broadcast(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        required = f"an array that broadcasts to {list(shape)}"
        raise invalid(name, required, f"shape {list(values.shape)}") from None
