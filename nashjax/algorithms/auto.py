"""The default of `solve`: adaptive Nash Mirror Prox, and linear solves where they are the faster way to the end.

At `beta = 0` a game can have several equilibria. The one wanted is the limit of the regularized equilibria as `beta`
goes to 0, which is that of least divergence from the reference. The stages `limit` and `proximal` find the equilibrium
at a small `beta` and project it onto the set of plain equilibria by proximal steps at `beta = 0`: the log-ratio of the
first to the reference is `P p / beta`, which is what the optimality conditions of the least divergence ask for, and a
proximal step adds payoffs to it and so keeps that.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nashjax._math.pytree import register_dataclass
from nashjax._math.transfers import is_concrete
from nashjax._validation import invalid, wrong_type
from nashjax.algorithms._loop import STALL_LEVEL, Goal
from nashjax.algorithms.adaptive_nash_mp import AdaptiveNashMP
from nashjax.algorithms.base import Betas
from nashjax.algorithms.interior_point import InteriorPoint
from nashjax.algorithms.memory_nash_mp import MemoryNashMP
from nashjax.algorithms.newton import Newton
from nashjax.algorithms.stage import Context, Stage, Start, When, is_solvable, reach_tolerance
from nashjax.algorithms.support import ExactSupport
from nashjax.games.low_rank import LowRankGame
from nashjax.games.regularized import RegularizedGame

HANDOVER = 1e-5
"""The exploitability at which games of a tight tolerance go over to Newton's method."""
FIRST_NEWTON_STEPS = 100
"""Linear solves after which Newton's method, at a small beta, starts again from the reference. At `beta = 0` also the
most that a solved game spends on the limit: one that needs more keeps the equilibrium that interior points found."""
LAST_NEWTON_STEPS = 1000
"""Linear solves after which a game is given up."""
SMALL_BETA = 1e-3
"""Below this the mixture is nearly that of the plain game, and interior points are the way to find it."""
NEAR = 0.1
"""A start whose divergence from the equilibrium is certified to be below this, in nats, needs no interior points."""
NEAR_ENOUGH = {"float64": 1e-12, "float32": 5e-7}
"""The exploitability that interior points go to; beyond it rounding would hide the support."""
MOST_KNOWN = 1000
"""Values of beta whose stages are remembered."""
LIMIT_BETA = {"float64": 1e-6, "float32": 1e-3}
"""The `beta` whose equilibrium stands for the limit where plain equilibria are many."""

MEMORY_ACTIONS = 1000
"""Least number of actions of a matrix whose linear solves cost more than the queries and fits of `MemoryNashMP`."""
MEMORY_BETA = 3e-4
"""Least `beta` at which `MemoryNashMP` is tried on such a matrix; at 1e-4 it fails on random games."""
MEMORY_BUDGET = 500
"""Queries of that trial: about the time of the linear solves that it may save."""
CHEAP_QUERIES = 1000
"""Queries after which a game of low rank, whose queries are cheaper than any fit, goes over to `MemoryNashMP`."""
DEAR_QUERIES = 30
"""The same for all other games without a matrix; enough for most games at `beta >= 0.1`."""


def first_order_budget(num_actions: int) -> int:
    """Return the queries after which a game goes over to Newton's method: the cost of about ten of its steps."""
    return 60 + 5 * num_actions


def reach_handover(context: Context) -> Goal:
    """Reach the tolerance within a budget of queries; in float64 tight tolerances only go to `HANDOVER` at first."""
    if not context.solvable:
        return reach_tolerance(context)
    tight = context.is_tight
    goal = jnp.where(tight, jnp.maximum(context.tol, HANDOVER), context.tol)
    budget = jnp.minimum(context.max_queries, first_order_budget(context.games.game.num_actions))
    return Goal(goal, budget, settles=~tight)


def reach_handover_by_memory(context: Context) -> Goal:
    """Reach the tolerance within `MEMORY_BUDGET` queries; in float64 tight tolerances only go to `HANDOVER`."""
    return reach_handover(context)._replace(max_queries=jnp.minimum(context.max_queries, MEMORY_BUDGET))


def reach_tolerance_soon(context: Context) -> Goal:
    """Reach the tolerance within few queries, unless these are cheap."""
    budget = CHEAP_QUERIES if isinstance(context.games.game, LowRankGame) else DEAR_QUERIES
    return Goal(context.tol, jnp.minimum(context.max_queries, budget))


def show_support(context: Context) -> Goal:
    """Come so near to a plain equilibrium that its support shows."""
    goal = jnp.maximum(0.1 * context.beta, NEAR_ENOUGH[context.dtype.name])
    return Goal(goal, context.max_queries, settles=False)


def prove_support(context: Context) -> Goal:
    """Make the one step that proves an equilibrium, whatever its certificate."""
    return Goal(jnp.full_like(context.tol, -1), context.max_queries, settles=False)


def reach_accurately(context: Context) -> Goal:
    """Reach the tolerance; a tight one until the logarithms of rare actions are accurate.

    An error of `p` shows in its logarithms divided by beta.
    """
    accurate = jnp.maximum(context.beta**3 / 2, STALL_LEVEL * context.games.rounding_floor())
    goal = jnp.where(context.is_tight, jnp.minimum(context.tol, accurate), context.tol)
    return Goal(goal, context.max_queries, LAST_NEWTON_STEPS)


def reach_accurately_soon(context: Context) -> Goal:
    """As `reach_accurately`; where beta is small, in few steps."""
    steps = jnp.where(context.beta < SMALL_BETA, FIRST_NEWTON_STEPS, LAST_NEWTON_STEPS)
    return reach_accurately(context)._replace(max_steps=steps)


def reach_rounding(context: Context) -> Goal:
    """Reach what rounding allows."""
    goal = jnp.full_like(context.exploitability, jnp.finfo(context.dtype).eps)
    return Goal(goal, context.max_queries, LAST_NEWTON_STEPS)


def reach_plain_tolerance(context: Context) -> Goal:
    """Reach the tolerance; a game that is solved already spends few steps on it."""
    solved = context.exploitability <= context.tol
    return Goal(context.tol, context.max_queries, jnp.where(solved, FIRST_NEWTON_STEPS, LAST_NEWTON_STEPS))


def no_regularization(games: RegularizedGame) -> jax.Array:
    """Play the plain game, `beta = 0`."""
    return jnp.zeros_like(games.beta)


def limit_beta(games: RegularizedGame) -> jax.Array:
    """Play at the small beta that stands for the limit."""
    return jnp.full_like(games.beta, LIMIT_BETA[games.beta.dtype.name])


def start_near_support(games: RegularizedGame, log_plain: jax.Array, payoffs: jax.Array) -> jax.Array:
    """Return a policy near the equilibrium at a small `beta`, made of a plain one that is not quite exact.

    On the support the probabilities are those of the plain game. Off the support they are as at the regularized
    equilibrium, `log p = log r - shortfall / beta + constant`.
    """
    p = jnp.exp(log_plain)
    on_support = games.support(log_plain, payoffs)
    log_ratio = jnp.where(on_support, p * (log_plain - games.log_reference), 0)
    constant = games.totals(log_ratio) / games.totals(jnp.where(on_support, p, 0))
    price = jnp.where(games.price > 0, games.price, 1)
    off_support = jnp.minimum(log_plain, games.log_reference - games.shortfall(payoffs) / price + constant)
    return games.normalize(jnp.where(on_support, log_plain, off_support))


def _proximal(dtype: str) -> Stage:
    """Return the stage of steps at `beta = 0` as long as those at the beta of the limit."""
    step = 1 / LIMIT_BETA[dtype]
    name = "proximal" if dtype == "float64" else "proximal in float32"
    when = When(Betas.ZERO, matrix=True, dtype=dtype)
    return Stage(name, when, Newton(first_step=step, largest_eta=step), reach_plain_tolerance)


STAGES = (
    Stage("first order", When(beta_from=SMALL_BETA, matrix=True), AdaptiveNashMP(), reach_handover, verify=False),
    Stage(
        "memory",
        When(beta_from=MEMORY_BETA, beta_below=SMALL_BETA, matrix=True, actions_from=MEMORY_ACTIONS),
        MemoryNashMP(),
        reach_handover_by_memory,
        verify=False,
    ),
    Stage(
        "interior point",
        When(beta_below=SMALL_BETA, matrix=True, divergence_above=NEAR),
        InteriorPoint(),
        show_support,
        beta=no_regularization,
        hand_over=start_near_support,
    ),
    Stage("exact support", When(Betas.ZERO, matrix=True), ExactSupport(), prove_support, verify=False),
    Stage("newton", When(Betas.POSITIVE, matrix=True), Newton(first_step=300.0), reach_accurately_soon),
    Stage(
        "newton from reference",
        When(Betas.POSITIVE, beta_below=SMALL_BETA, matrix=True),
        Newton(first_step=16.0),
        reach_accurately,
        start=Start.REFERENCE,
    ),
    Stage(
        "limit",
        When(Betas.ZERO, matrix=True),
        Newton(first_step=16.0),
        reach_rounding,
        start=Start.REFERENCE,
        beta=limit_beta,
    ),
    _proximal("float64"),
    _proximal("float32"),
    Stage(
        "first order again",
        When(Betas.POSITIVE, matrix=True, dtype="float32"),
        AdaptiveNashMP(),
        reach_tolerance,
        start=Start.BEST,
    ),
)
WITHOUT_MATRIX = (
    Stage("first order", When(), AdaptiveNashMP(), reach_tolerance_soon, verify=False),
    Stage("memory without matrix", When(), MemoryNashMP(memory=48), reach_tolerance, verify=False),
)


@register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Auto:
    """Default algorithm: a list of stages, each of which goes on with the games that are not finished.

    Every stage is a `Stage(name, when, algorithm, goal)`. A game leaves the list when its certificate shows that it has
    reached the goal of a stage. The decision table of the default:

    | game | stages |
    | --- | --- |
    | `beta >= 0.001` | `AdaptiveNashMP`; `Newton` for what is left after `60 + 5 n` queries, and for tolerances below 1e-9 in float64 from exploitability 1e-5 on |
    | `0.0003 <= beta < 0.001`, at least 1,000 actions | `MemoryNashMP` for at most 500 queries; then as below |
    | `0 < beta < 0.001` | `InteriorPoint` at `beta = 0` unless the start is certified to be near; `Newton` from there, then from the reference |
    | `beta = 0` | `InteriorPoint`; the exact equilibrium of its support, if that is proved to be the only one; else `Newton` at a small beta (1e-6 in float64, 1e-3 in float32) and proximal steps at 0 |
    | `beta > 0` in float32 | `AdaptiveNashMP` again where rounding defeats `Newton` |
    | no matrix, rows spread over devices, or more than 4,096 actions | `AdaptiveNashMP` for 30 queries (`LowRankGame`: 1,000); then `MemoryNashMP(memory=48)` |

    The cost of each stage is measured in benchmarks/default.py, that of `MemoryNashMP` in benchmarks/memory.py.

    Attributes:
      stages: stages for games that offer a matrix, in order.
      without_matrix: stages for all other games.

    Example:
      >>> import nashjax as nj
      >>> [stage.name for stage in nj.Auto().stages][:3]
      ['first order', 'memory', 'interior point']
      >>> slow_start = nj.Auto().replace("first order", algorithm=nj.AdaptiveNashMP(first_step=4.0))
      >>> bool(nj.solve([[0.5, 0.9], [0.1, 0.5]], beta=0.1, algorithm=slow_start).converged)
      True
    """  # noqa: E501 (a table cell cannot be broken)

    stages: tuple[Stage, ...] = dataclasses.field(default_factory=lambda: STAGES)
    without_matrix: tuple[Stage, ...] = dataclasses.field(default_factory=lambda: WITHOUT_MATRIX)

    def __post_init__(self):
        for name in ("stages", "without_matrix"):
            stages = vars(self)[name]
            if not isinstance(stages, tuple) or not all(isinstance(stage, Stage) for stage in stages):
                raise wrong_type(name, "a tuple of nashjax.Stage", stages)
            if not stages:
                raise invalid(name, "a tuple with at least one nashjax.Stage", "()")

    def replace(self, name: str, **changes: Any) -> Auto:
        """Return the same list with one stage changed.

        Args:
          name: name of the stage.
          **changes: fields of `Stage` with their new values.

        Raises:
          ValueError: no stage has this name.
        """
        names = [stage.name for stage in (*self.stages, *self.without_matrix)]
        if name not in names:
            raise invalid("name", f"one of {', '.join(map(repr, names))}", repr(name))

        def changed(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
            return tuple(dataclasses.replace(stage, **changes) if stage.name == name else stage for stage in stages)

        return Auto(changed(self.stages), changed(self.without_matrix))

    @functools.cached_property
    def is_concrete(self) -> bool:
        """Whether no hyperparameter is traced."""
        return is_concrete((self.stages, self.without_matrix))

    def possible_stages(
        self, has_matrix: bool, num_actions: int, dtype: np.dtype, betas: np.ndarray | None
    ) -> tuple[Stage, ...]:
        """Return the stages that games can need, at least one.

        Args:
          has_matrix: whether the games offer their matrix where they are solved.
          num_actions: their number of actions.
          dtype: dtype of the solve.
          betas: values of beta, None if they are traced.
        """
        solvable = is_solvable(has_matrix, num_actions)
        stages = self.stages if solvable else self.without_matrix
        if betas is None or betas.ndim:
            return _possible(stages, solvable, num_actions, dtype, betas)
        known, key = self._known, (solvable, num_actions, dtype, betas.item())
        if key not in known:
            if len(known) >= MOST_KNOWN:
                known.clear()
            known[key] = _possible(stages, solvable, num_actions, dtype, betas)
        return known[key]

    @functools.cached_property
    def _known(self) -> dict[Any, tuple[Stage, ...]]:
        """The stages of problems with one beta, which is the usual case and has to be quick."""
        return {}

    def __repr__(self) -> str:
        lines = [f"  {stage}" for stage in self.stages] + ["without matrix:"]
        lines += [f"  {stage}" for stage in self.without_matrix]
        return "\n".join(["Auto:", *lines])


def _possible(
    stages: tuple[Stage, ...], solvable: bool, num_actions: int, dtype: np.dtype, betas: np.ndarray | None
) -> tuple[Stage, ...]:
    possible = tuple(stage for stage in stages if stage.when.can_include(solvable, num_actions, dtype, betas))
    return possible or stages[:1]
