"""Results of a solve: `Solution`, `Status`, `Trajectory`, and the `Progress` between stages."""

from __future__ import annotations

import dataclasses
import enum
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from nashjax._math import layout
from nashjax._math.pytree import register_dataclass
from nashjax._math.transfers import is_concrete, to_host

FIELDS = ("log_policy", "exploitability", "kl_bound", "queries", "steps", "status")
"""Fields of the `Solution` of a preference game."""
ARRAYS = (jax.Array, np.ndarray, np.generic)


class Status(enum.IntEnum):
    """How the solve of a game ended; `describe` says it in a sentence."""

    CONVERGED = 0
    MAX_QUERIES = 1
    STALLED = 2
    INVALID = 3

    def describe(self) -> str:
        """Return a sentence that says what happened and what to try."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.CONVERGED: "The exploitability is within the tolerance.",
    Status.MAX_QUERIES: "The queries, or the steps that a method allows itself, ran out before the tolerance was "
    "reached; the best policy found is returned. Try a larger max_queries or tol, or the default algorithm.",
    Status.STALLED: "The exploitability is as small as the rounding of this dtype can show, above the tolerance. "
    "Use float64 or a larger tolerance.",
    Status.INVALID: "Not a preference game, or beta, reference or initial is not valid or not supported by the "
    "method, or the payoffs are not finite, or the method returned no policy. Solve with validate=True, outside of a "
    "trace, to see what is wrong.",
}


class NotConverged(RuntimeError):  # noqa: N818 (reads as what happened)
    """Raised by `solve(..., throw=True)` and `Solution.raise_for_status` if a game has not converged.

    Attributes:
      solution: the whole solution, with the best policies found; of `solve_many`, the list of all solutions.
    """

    def __init__(self, solution: Solution | list[Solution]) -> None:
        super().__init__(solution.describe() if isinstance(solution, Solution) else _describe_many(solution))
        self.solution: Any = solution


def _describe_many(solutions: list[Solution]) -> str:
    failed = [place for place, solution in enumerate(solutions) if not solution.is_solved()]
    first = solutions[failed[0]].describe()
    return (
        f"{len(solutions) - len(failed)} of {len(solutions)} converged. The first other is games[{failed[0]}]: {first}"
    )


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Solution:
    """Equilibria with their certificates; a pytree, the batch axes first.

    Attributes:
      log_policy: log-probabilities of the best policy found, `[*batch, n]`; `-inf` for excluded actions, NaN where the
        status is INVALID. The certificate weighs each action by its probability, so first-order methods leave
        the logarithms of rare actions wrong, by several nats at `beta` 0.01 and by thousands at 1e-5; the default at
        `tol < 1e-9` in float64 makes them accurate down to a `beta` of 1e-5, `Newton` itself at `tol=1e-14`.
      exploitability: gain of the best response over that policy, `beta KL(policy || best response)`, `[*batch]`, in
        units of preference; inf where INVALID.
      kl_bound: certified bound on `KL(policy || equilibrium)` in nats, `[*batch]`:
        `(sqrt(exploitability) + sqrt(rounding floor))^2 / beta`; inf at `beta = 0`.
      queries: evaluations of `P v`, the first included, int32 `[*batch]`; not that by which what linear solves or a
        named method have found is judged once more.
      steps: steps of the algorithm (an adaptive one: trials), int32 `[*batch]`.
      status: values of `Status`, int8 `[*batch]`.
      earnings: what each player of a zero-sum game earns, `[*batch, players]`, in payoffs; None for preference games.
      player_sizes: number of actions of each player of a zero-sum game; `()` for preference games.

    Example:
      >>> import nashjax as nj
      >>> solution = nj.solve([[[0.5, 0.9], [0.1, 0.5]], [[0.5, 0.6], [0.4, 0.5]]], beta=0.5)
      >>> len(solution), solution[0].policy.shape
      (2, (2,))
      >>> solution
      Solution(policy [2, 2] float32: All 2 games converged.)
    """

    log_policy: jax.Array
    exploitability: jax.Array
    kl_bound: jax.Array
    queries: jax.Array
    steps: jax.Array
    status: jax.Array
    earnings: jax.Array | None = None
    player_sizes: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})

    @property
    def policy(self) -> jax.Array:
        """Probabilities, `[*batch, n]`, in the dtype of `log_policy`; a numpy array if that is one.

        Raises:
          AttributeError: the solution is one of a zero-sum game, whose players have a policy each: use `policies`.
        """
        if self.player_sizes:
            raise AttributeError(
                f"policy must be that of a preference game, got a solution of {len(self.player_sizes)} players. "
                "Use policies."
            )
        return self._probabilities

    @property
    def policies(self) -> tuple[jax.Array, ...]:
        """Probabilities of each player, a tuple of `[*batch, n_g]`; of a preference game, one policy."""
        ends = itertools.accumulate(sizes := self.player_sizes or (np.shape(self.log_policy)[-1],))
        p = self._probabilities
        return tuple(p[..., end - size : end] for size, end in zip(sizes, ends, strict=True))

    @property
    def value(self) -> jax.Array:
        """Payoff of the row player in a zero-sum game of two players, `[*batch]`.

        Raises:
          AttributeError: the game is a preference game, whose value is 1/2, or has more players: use `earnings`.
        """
        if self.earnings is None or len(self.player_sizes) != 2:
            found = (
                f"{len(self.player_sizes)} players" if self.player_sizes else "a preference game, whose value is 1/2"
            )
            advice = " Use earnings." if self.player_sizes else ""
            raise AttributeError(f"value must be that of a zero-sum game of two players, got {found}.{advice}")
        return self.earnings[..., 0]

    @property
    def _probabilities(self) -> jax.Array:
        # jax would make float32 of a float64 array unless `jax_enable_x64` is set.
        exp: Any = np.exp if isinstance(self.log_policy, np.ndarray) else jnp.exp
        return exp(self.log_policy)

    @property
    def converged(self) -> jax.Array:
        """Whether the exploitability is within the tolerance, bool `[*batch]`."""
        # Compiled, because a comparison with a Python number is an implicit transfer.
        return _is_converged(self.status) if isinstance(self.status, jax.Array) else self.status == Status.CONVERGED

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch axes; `()` for one game."""
        return tuple(np.shape(self.status))

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("A solution of one game has no length.")
        return self.batch_shape[0]

    def __getitem__(self, index: Any) -> Solution:
        """Return the solutions at an index, slice, mask or tuple of these, which selects along the batch axes."""
        if not self.batch_shape:
            raise TypeError("A solution of one game cannot be indexed.")
        index = index if isinstance(index, tuple) else (index,)
        if is_concrete(index):
            # jax would take the last game for an index beyond it. An array without entries of its own tells.
            np.broadcast_to(False, self.batch_shape)[jax.tree.map(_as_numpy, index)]
        ends_in_games = any(part is Ellipsis for part in index)
        with_actions = (*index, slice(None)) if ends_in_games else index
        trailing = {"log_policy": with_actions, "earnings": with_actions}
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        found: dict[str, Any] = {
            name: field if name == "player_sizes" or field is None else field[trailing.get(name, index)]
            for name, field in fields.items()
        }
        return Solution(**found)

    def __iter__(self) -> Iterator[Solution]:
        """Iterate over the first batch axis, on the host."""
        host = self.to_numpy()
        return (host[i] for i in range(len(self)))

    def to_numpy(self) -> Solution:
        """Return the solution with numpy arrays."""
        return jax.tree.map(np.asarray, self)

    def to_dict(self) -> dict[str, np.ndarray]:
        """Return the policy and all fields as numpy arrays, by name.

        For a zero-sum game, `policy_0`, `policy_1` and so on are the policies of the players.
        """
        host = self.to_numpy()
        fields = {name: field for name, field in vars(host).items() if field is not None and name != "player_sizes"}
        if not self.player_sizes:
            return {"policy": np.asarray(self.policy), **fields}
        return {**{f"policy_{g}": np.asarray(policy) for g, policy in enumerate(self.policies)}, **fields}

    def to_pandas(self, items: Sequence[str] | None = None) -> Any:
        """Return a pandas data frame with a row for each game.

        Args:
          items: names of the actions, `[n]`, default their numbers; the columns of their probabilities. The actions of
            a zero-sum game are those of all players, one player after the other.

        Returns:
          A `pandas.DataFrame`: the probabilities, then the exploitability, the bound, the counts and the status by
          name. Several batch axes become a `MultiIndex`.

        Raises:
          ImportError: pandas is not installed.
          ValueError: `items` has another length than there are actions.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError('to_pandas needs pandas: pip install "nashjax[rank]"') from error
        found, n, batch = self.to_dict(), np.shape(self.log_policy)[-1], self.batch_shape
        names = list(range(n)) if items is None else list(items)
        if len(names) != n:
            raise ValueError(f"items must be {n} names, one for each action, got {len(names)}.")
        policy = np.concatenate([np.asarray(part) for part in self.policies], axis=-1)
        table = pd.DataFrame(policy.reshape(-1, n), columns=pd.Index(names))
        for name in ("exploitability", "kl_bound", "queries", "steps"):
            table[name] = found[name].reshape(-1)
        for g in range(len(self.player_sizes)):
            table[f"earnings_{g}"] = found["earnings"][..., g].reshape(-1)
        table["status"] = [Status(int(status)).name for status in found["status"].reshape(-1)]
        if len(batch) > 1:
            table.index = pd.MultiIndex.from_product([range(size) for size in batch])
        return table

    def raise_for_status(self) -> Solution:
        """Return the solution; raise `NotConverged`, which holds it, if a game has not converged."""
        if not self.is_solved():
            raise NotConverged(self)
        return self

    def is_solved(self) -> bool:
        """Return whether all games have converged."""
        return bool((to_host(self.status) == int(Status.CONVERGED)).all())

    def describe(self) -> str:
        """Return how many games converged and, if some did not, why and what to try.

        All processes that hold a part of the games have to call this together.
        """
        status = to_host(self.status)
        if not self.batch_shape:
            found = Status(int(status))
            return f"{found.name}: exploitability {float(to_host(self.exploitability)):.3g}. {found.describe()}"
        total, good = status.size, int((status == Status.CONVERGED).sum())
        if good == total:
            return f"All {total} games converged." if total else "No games."
        lines = [f"{good} of {total} games converged."]
        for kind in list(Status)[1:]:
            where = np.argwhere(status == kind)
            if len(where):
                first = where[0].tolist() if where.shape[1] > 1 else int(where[0, 0])
                lines.append(f"{len(where)} {kind.name}, the first at index {first}: {kind.describe()}")
        return " ".join(lines)

    def __repr__(self) -> str:
        shape = list(np.shape(self.log_policy)) if self.log_policy is not None else "?"
        leaves = [field for name, field in vars(self).items() if name != "player_sizes" and field is not None]
        if any(isinstance(leaf, Tracer) or not isinstance(leaf, ARRAYS) for leaf in leaves):
            return f"Solution(policy {shape}, not computed)"
        if not all(leaf.is_fully_addressable for leaf in leaves if isinstance(leaf, jax.Array)):
            return f"Solution(policy {shape}, spread over processes; see nashjax.distributed.gather)"
        shown = f"policies {' + '.join(map(str, self.player_sizes))}, " if self.player_sizes else ""
        return f"Solution({shown}policy {shape} {self.log_policy.dtype}: {self.describe()})"


def _as_numpy(part: Any) -> Any:
    return np.asarray(part) if isinstance(part, jax.Array) else part


_is_converged = jax.jit(lambda status: status == Status.CONVERGED)


class Distances(NamedTuple):
    """Distances of policies to the equilibrium, in nats; a pytree, `[*batch, num_steps + 1]` each.

    Attributes:
      kl: `KL(p* || p)` of the equilibrium `p*` to each policy `p`; inf where `p` excludes an action that `p*` plays.
      span: largest minus smallest entry of `log p - log p*`, over the actions to which both give a positive
        probability. Unlike the divergence it also shows errors of rare actions.
    """

    kl: jax.Array
    span: jax.Array


class Trajectory(NamedTuple):
    """Path of an algorithm; a pytree, the batch axes first.

    Attributes:
      log_policy: `[*batch, num_steps + 1, n]`; entry 0 is the initial policy.
      exploitability: exploitability of each policy, `[*batch, num_steps + 1]`.
      queries: evaluations of `P v` so far, int32 `[*batch, num_steps + 1]`.
      step_size: the `eta` of each step (the `a` of methods that have one), `[*batch, num_steps]`. One step is one
        trial; a rejected trial repeats the policy.
      stage: index of the stage of `Auto` that made each step, int8 `[*batch, num_steps]`; 0 for a single algorithm, and
        -1 after a game is finished, where the last policy is repeated.
      distances: the distances of each policy to the equilibrium, `[*batch, num_steps + 1]` each; None unless
        `trajectory` was called with `equilibrium`.

    For a zero-sum game, `log_policy` holds the actions of all players, one player after the other, and the
    exploitability is in payoffs.
    """

    log_policy: jax.Array
    exploitability: jax.Array
    queries: jax.Array
    step_size: jax.Array
    stage: jax.Array
    distances: Distances | None = None

    def batch_first(self) -> Trajectory:
        """Convert arrays `[steps, n, *batch]` and `[steps, *batch]` to the layout of the public functions."""
        return self._replace(
            log_policy=layout.actions_last(self.log_policy, 2),
            exploitability=layout.actions_last(self.exploitability),
            queries=layout.actions_last(self.queries),
            step_size=layout.actions_last(self.step_size),
            stage=layout.actions_last(self.stage),
        )


class Progress(NamedTuple):
    """How far a solve has come; leaves `[*batch]`, batch axes first between stages and actions first within one.

    The first six fields are those of `Solution`.

    Attributes:
      log_policy: the best policy so far, `[*batch, n]`.
      exploitability: certificate of it; inf before the first stage that plays the game.
      kl_bound: as in `Solution`.
      queries: as in `Solution`.
      steps: as in `Solution`.
      status: what the status would be if no further stage played.
      unfinished: whether a later stage may go on, bool.
      last: log-policy at which the next stage starts, `[*batch, n]`.
    """

    log_policy: jax.Array
    exploitability: jax.Array
    kl_bound: jax.Array
    queries: jax.Array
    steps: jax.Array
    status: jax.Array
    unfinished: jax.Array
    last: jax.Array

    def actions_first(self) -> Progress:
        """Return the progress in the layout of the core."""
        log_policy, last = layout.actions_first(self.log_policy), layout.actions_first(self.last)
        return self._replace(log_policy=log_policy, last=last)

    def actions_last(self) -> Progress:
        """Return the progress in the layout of the public functions."""
        return self._replace(log_policy=layout.actions_last(self.log_policy), last=layout.actions_last(self.last))

    def solution(self) -> Solution:
        """Return what the caller of a solve gets."""
        return Solution(*self[:6])
