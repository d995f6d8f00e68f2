"""The public verbs: `solve` games, `solve_path` along betas, `solve_many` of different sizes, record a `trajectory`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from nashjax._execution.distances import log_probabilities, measure_distances
from nashjax._execution.executor import Executor, choose_executor, is_tracing
from nashjax._execution.items import read_entries
from nashjax._execution.unequal import solve_entries
from nashjax._math import layout
from nashjax._math.transfers import is_concrete, to_host
from nashjax._validation import LARGEST_INT, check_integer, invalid, wrong_type
from nashjax.algorithms.auto import Auto
from nashjax.algorithms.base import Algorithm, check_algorithm, check_matrix, check_players, check_supported
from nashjax.algorithms.stage import Stage, When
from nashjax.games import Game
from nashjax.games.players import BetaLike, PolicyLike, as_policies
from nashjax.problem import Problem
from nashjax.solution import NotConverged, Progress, Solution, Status, Trajectory

DEFAULT = Auto()


def solve(
    game: Game | ArrayLike,
    beta: BetaLike,
    *,
    reference: PolicyLike | None = None,
    algorithm: Algorithm[Any] | Auto | None = None,
    tol: ArrayLike = 1e-6,
    max_queries: int | jax.Array = 100_000,
    initial: PolicyLike | None = None,
    block_size: int | None = None,
    validate: bool = True,
    throw: bool = False,
) -> Solution:
    """Find the equilibria of beta-regularized games, each with a certificate.

    The regularized equilibrium is the unique policy `p` with `p_i` proportional to `r_i exp((P p)_i / beta)`. The batch
    shapes of all arguments broadcast as in numpy, so that one game with 256 betas is one matrix, not 256 copies.

    A zero-sum game (`ZeroSumGame`, `PolymatrixGame`) has a policy for each player, `Solution.policies`. Its
    exploitability is the duality gap (NashConv) in the units of its payoffs, and all else here holds for its payoffs
    shifted and scaled to [-1/2, 1/2].

    `solve` works under `jit`, `vmap` and `grad`, which compile all stages of the algorithm into one program. Outside of
    a trace, each stage is a program that is compiled when a game first needs it. Arrays in host memory are then solved
    on all cores, and games that are sharded over a mesh (`nashjax.distributed`) on the device where they lie. The call
    returns when all games are done.

    Rounding hides exploitabilities below about `eps^2 (1/beta + 8 beta)`, or `eps` at `beta = 0`. A `tol` below four
    times this floor can end as `Status.STALLED`.

    `beta = 0` returns a Nash equilibrium of the game itself, a maximal lottery. If there are several, the default finds
    the one closest to the reference in KL, the limit as `beta` goes to 0, provided that the game offers its matrix. The
    limit is taken at `beta = 1e-6` in float64 and at 1e-3 in float32, where games with ties can be off by 0.05 in L1.

    The policy has derivatives in the game, in `beta` and in the reference, by implicit differentiation at the cost of
    one linear solve; second derivatives too. The derivative in `P` is that of `P -> 1/2 + (P - P^T)/2`. Derivatives are
    as exact as the policy, so use a tight `tol`. At `beta = 0` they are NaN, and in reverse mode so is the derivative
    in everything that a game at `beta = 0` shares with other games. Certificates have no derivatives.

    Args:
      game: a `Game`, or preferences `[*batch, n, n]` taken as a `MatrixGame`. Its dtype, float32 or (with
        `jax_enable_x64`) float64, is that of the solve; integers and booleans are promoted.
      beta: regularization, `[*batch]`, >= 0, in units of preference. For a zero-sum game, in units of payoff, and
        either one for all players or a tuple with one for each.
      reference: policy `r` that `beta` pulls towards, probabilities `[*batch, n]`, default uniform; for a zero-sum
        game, a tuple with one for each player. A zero excludes the action, so that games of different sizes can share
        a batch. The row and the column of an excluded action may hold anything, NaN included.
      algorithm: an `Algorithm`, or a list of stages; by default `Auto()`, whose docstring holds the decision table.
      tol: exploitability to reach, `[*batch]`, in units of preference. For a zero-sum game, relative to its largest
        absolute payoff (half the range of the payoffs of two players).
      max_queries: largest number of evaluations of `P v` for each game, >= 1.
      initial: policy to start from, `[*batch, n]`, default the reference. Zeros are raised to the smallest number of
        the dtype: where a solve starts does not change the game. Interior points start from their own.
      block_size: number of games that first-order methods solve together; by default as many as fit the cache of a
        core, or all on an accelerator.
      validate: whether to check values. Inside a trace values cannot be checked; an invalid game then ends as
        `Status.INVALID`, with NaN for its policy.
      throw: whether to raise `NotConverged` if a game has not converged. Has no effect inside a trace.

    Returns:
      A `Solution`, the batch axes first. The best iterate of each game is returned, whatever its status.

    Raises:
      TypeError: an argument is of a wrong type.
      ValueError: an argument has a wrong value, or the algorithm does not support a beta or the game. The message names
        the argument, the index of the first bad entry and what it must be.
      NotConverged: a game has not converged and `throw` is true; the exception holds the solution.

    Example:
      >>> import nashjax as nj
      >>> solution = nj.solve([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]], beta=0.05)
      >>> [round(float(p), 3) for p in solution.policy], bool(solution.converged)
      ([0.316, 0.289, 0.395], True)
    """
    algorithm = DEFAULT if algorithm is None else algorithm
    _check(algorithm, max_queries, block_size)
    problem = Problem.build(game, beta, reference, initial, tol, validate=validate, in_place=True)
    fixed = _without_derivatives(problem)
    executor = choose_executor(fixed, _is_concrete(algorithm, max_queries))
    has_matrix = executor.has_matrix(fixed)
    if isinstance(algorithm, Algorithm):
        check_supported(algorithm, problem.game, has_matrix, beta)
    if validate:
        executor.check_before(problem)
    progress = executor.solve(fixed, _stages(algorithm, fixed, has_matrix), max_queries, block_size)
    return _solution(executor, problem, fixed, progress, validate=validate, throw=throw)


def solve_path(
    game: Game | ArrayLike,
    betas: ArrayLike,
    *,
    reference: PolicyLike | None = None,
    algorithm: Algorithm[Any] | Auto | None = None,
    tol: ArrayLike = 1e-6,
    max_queries: int | jax.Array = 100_000,
    initial: PolicyLike | None = None,
    validate: bool = True,
    throw: bool = False,
) -> Solution:
    """Follow equilibria along decreasing betas, each solve starting from the equilibrium of the one before.

    Interior points, used below `beta = 0.001`, start from their own policy unless the path is already near. The matrix
    of a game is read, never copied, for all its betas and references. Derivatives are those of `solve`.

    Args:
      game: a `Game`, or preferences `[*batch, n, n]`.
      betas: `[num_betas]` or `[num_betas, *batch]`, not increasing along the first axis; the last may be 0.
      reference: probabilities `[*batch, n]`, default uniform, the same for all betas; a zero excludes the action.
      algorithm: an `Algorithm`, or a list of stages, by default `Auto()`.
      tol: exploitability to reach, `[*batch]`, the same for all betas.
      max_queries: largest number of evaluations of `P v` for each game and beta, >= 1.
      initial: policy from which the first solve starts, `[*batch, n]`, default the reference.
      validate: whether to check values.
      throw: whether to raise `NotConverged` if a game has not converged. Has no effect inside a trace.

    Returns:
      A `Solution` whose first axis is that of the betas: `[num_betas, *batch]`.

    Raises:
      TypeError: an argument is of a wrong type.
      ValueError: an argument has a wrong value, or the algorithm does not support a beta or the game.
      NotConverged: a game has not converged and `throw` is true.

    Example:
      >>> import nashjax as nj
      >>> path = nj.solve_path([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]], betas=[1.0, 0.1, 0.0])
      >>> [round(float(p), 2) for p in path.policy[:, 0]]
      [0.34, 0.33, 0.3]
    """
    algorithm = DEFAULT if algorithm is None else algorithm
    _check(algorithm, max_queries, None)
    problem = Problem.build_path(game, betas, reference, initial, tol, validate=validate, in_place=True)
    fixed = _without_derivatives(problem)
    executor = choose_executor(fixed, _is_concrete(algorithm, max_queries))
    has_matrix = executor.has_matrix(fixed)
    if isinstance(algorithm, Algorithm):
        check_supported(algorithm, problem.game, has_matrix, betas, "betas")
    if validate:
        executor.check_before(problem)
    progress = executor.follow(fixed, _stages(algorithm, fixed, has_matrix), max_queries)
    return _solution(executor, problem, fixed, progress, validate=validate, throw=throw)


def solve_many(
    games: Iterable[Game | ArrayLike],
    beta: ArrayLike | Sequence[ArrayLike],
    *,
    reference: Sequence[ArrayLike | None] | jax.Array | np.ndarray | None = None,
    algorithm: Algorithm[Any] | Auto | None = None,
    tol: ArrayLike | Sequence[ArrayLike] = 1e-6,
    max_queries: int | jax.Array = 100_000,
    throw: bool = False,
) -> list[Solution]:
    """Find the equilibria of games of different sizes, all of them together in few batches.

    Matrices are padded to a few sizes with actions that the reference excludes. Each size is solved as one batch on all
    cores, and the padding is removed. The sizes are chosen from those that occur, so that little work is spent on
    padding: at most 8, 4 or 2, the fewer the more methods the algorithm may need at these betas, because each size
    is a program to compile for each stage. The return type does not depend on whether sizes agree.

    Games without a matrix are not padded: those of one class and shape are stacked, and each other one is solved by
    itself. Inside a trace, games are solved one after the other, with the derivatives of `solve`.

    Args:
      games: any iterable of preferences `[n, n]`, `MatrixGame`, `LowRankGame`, `EmbeddingGame` or your own `Game`. An
        item may be a batch itself, `[*batch, n, n]`. Its dtype, float32 or (with `jax_enable_x64`) float64, is that of
        its solve; integers and booleans are promoted.
      beta: regularization, >= 0, in units of preference: a number, or one value for each item.
      reference: None for uniform references, or a list with probabilities `[n]` or None for each item; a zero excludes
        the action.
      algorithm: an `Algorithm`, or a list of stages; by default `Auto()`. Its hyperparameters must be single numbers.
      tol: exploitability to reach, in units of preference: a number, or one value for each item.
      max_queries: largest number of evaluations of `P v` for each game, >= 1.
      throw: whether to raise `NotConverged` if a game has not converged. Has no effect inside a trace.

    Returns:
      A list with the `Solution` of each item, in order; `[]` if there are none. Outside of a trace the solutions hold
      numpy arrays.

    Raises:
      TypeError: an argument is of a wrong type.
      ValueError: an argument has a wrong value. The message names the item, such as `games[17]`. Matrices are checked
        before anything is solved.
      NotConverged: a game has not converged and `throw` is true; the exception holds the list of solutions.

    Example:
      >>> import nashjax as nj
      >>> rock_paper_scissors = [[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]]
      >>> solutions = nj.solve_many([rock_paper_scissors, [[0.5, 0.6], [0.4, 0.5]]], beta=0.1)
      >>> [solution.policy.shape for solution in solutions]
      [(3,), (2,)]
      >>> [round(float(p), 2) for p in solutions[1].policy]
      [0.73, 0.27]
    """
    algorithm = DEFAULT if algorithm is None else algorithm
    _check(algorithm, max_queries, None)
    pad = _is_concrete(algorithm, max_queries) and not is_tracing()
    if any(np.ndim(leaf) for leaf in jax.tree.leaves(algorithm)):
        raise wrong_type("algorithm", "an algorithm whose hyperparameters are single numbers", algorithm)
    entries = read_entries(games, beta, reference, tol, pad=pad)
    if isinstance(algorithm, Algorithm):
        for entry in entries:
            game = entry.as_game()
            check_supported(algorithm, game, game.has_matrix, entry.beta, f"beta of games[{entry.place}]")

    def count_methods(num_actions: int, dtype: np.dtype, betas: np.ndarray) -> int:
        if isinstance(algorithm, Algorithm):
            return 1
        return len({type(s.algorithm) for s in algorithm.possible_stages(True, num_actions, dtype, betas)})

    own = functools.partial(solve, algorithm=algorithm, max_queries=max_queries, validate=False)
    solutions = solve_entries(entries, own, count_methods)
    if throw and not all(solution.is_solved() for solution in solutions if is_concrete(solution.status)):
        raise NotConverged(solutions)
    return solutions


def trajectory(
    game: Game | ArrayLike,
    beta: BetaLike,
    *,
    algorithm: Algorithm[Any] | Auto,
    num_steps: int,
    reference: PolicyLike | None = None,
    initial: PolicyLike | None = None,
    equilibrium: PolicyLike | bool = False,
) -> Trajectory:
    """Record the steps of an algorithm, to study its dynamics.

    An `Algorithm` makes all steps, also at betas that it does not support and at which it does not converge. The stages
    of `Auto` end as in `solve` at a tolerance of 0; a game that is finished repeats its last policy.

    Args:
      game: a `Game`, or preferences `[*batch, n, n]`.
      beta: regularization, `[*batch]`, >= 0, in units of preference.
      algorithm: the method, or a list of stages such as `Auto()`.
      num_steps: number of steps to record, >= 0.
      reference: probabilities `[*batch, n]`, default uniform; a zero excludes the action.
      initial: policy to start from, `[*batch, n]`, default the reference.
      equilibrium: whether to record the distances to the equilibrium, too. If true, the equilibrium is computed by
        `solve` to the precision of the dtype; an array of probabilities `[*batch, n]` is used as it is.

    Returns:
      A `Trajectory`, whose `stage` tells which stage made each step. Its `distances` are None unless `equilibrium` is
      given. An invalid game, which is possible only inside a trace, has NaN policies and exploitability inf.

    Raises:
      TypeError: an argument is of a wrong type.
      ValueError: an argument has a wrong value.
      NotConverged: `equilibrium` is true and the equilibrium was not found, outside of a trace.

    Example:
      >>> import nashjax as nj
      >>> rock_paper_scissors = [[0.5, 0.0, 1.0], [1.0, 0.5, 0.0], [0.0, 1.0, 0.5]]
      >>> path = nj.trajectory(rock_paper_scissors, 0.1, algorithm=nj.NashMP(), num_steps=5, initial=[0.6, 0.2, 0.2])
      >>> path.log_policy.shape
      (6, 3)
      >>> path = nj.trajectory(rock_paper_scissors, 0.1, algorithm=nj.NashMP(), num_steps=50, equilibrium=True)
      >>> bool(path.distances.kl[-1] < 1e-6)
      True
    """
    check_algorithm(algorithm, Auto)
    check_integer("num_steps", num_steps, 0, LARGEST_INT)
    problem = Problem.build(game, beta, reference, initial, in_place=True)
    fixed = _without_derivatives(problem)
    problem.check_games()
    log_star = _log_equilibrium(game, beta, reference, problem, equilibrium)
    executor = choose_executor(fixed, _is_concrete(algorithm, num_steps))
    has_matrix = executor.has_matrix(fixed)
    if isinstance(algorithm, Algorithm):
        check_players(algorithm, problem.game)
        check_matrix(algorithm, problem.game, has_matrix)
        path = executor.record(problem, fixed, algorithm, num_steps)
    else:
        chosen = _stages(algorithm, fixed, has_matrix)
        every = algorithm.stages if chosen[0] in algorithm.stages else algorithm.without_matrix
        numbered = tuple((number, stage) for number, stage in enumerate(every) if stage in chosen)
        path = executor.record(problem, fixed, numbered, num_steps)
    path = _in_payoff_units(problem, path)
    return (
        path
        if log_star is None
        else path._replace(distances=measure_distances(path.log_policy, log_star, problem.game.sizes))
    )


def _log_equilibrium(game: Any, beta: Any, reference: Any, problem: Problem, equilibrium: Any) -> jax.Array | None:
    """Return the log of the equilibrium that a trajectory is compared with, `[*batch, n]`; None if there is none."""
    if isinstance(equilibrium, (bool, np.bool)):
        if not equilibrium:
            return None
        found = solve(game, beta, reference=reference, tol=0.0)  # ends as STALLED at what rounding can show
        if is_concrete(found) and (to_host(found.status) == int(Status.MAX_QUERIES)).any():
            error = NotConverged(found)
            error.add_note("Raised by trajectory(..., equilibrium=True). Pass an equilibrium as an array instead.")
            raise error
        return found.log_policy
    n, batch = problem.game.num_actions, problem.batch_shape
    given = as_policies("equilibrium", equilibrium, problem.game.sizes, problem.beta.dtype)
    if given.ndim - 1 > len(batch) or any(a not in (1, b) for a, b in zip(given.shape[-2::-1], batch[::-1])):  # noqa: B905
        raise invalid("equilibrium", f"an array that broadcasts to {[*batch, n]}", f"shape {list(given.shape)}")
    return log_probabilities(given)


def _in_payoff_units(problem: Problem, found: Trajectory) -> Trajectory:
    """Return a trajectory with exploitabilities in the units of the game that the caller passed."""
    if problem.unit is None:
        return found
    by_step = problem.in_payoff_units(layout.actions_first(found.exploitability))
    return found._replace(exploitability=layout.actions_last(by_step))


def _check(algorithm: Any, max_queries: Any, block_size: int | None) -> None:
    """Raise unless these arguments, which do not depend on the games, are valid."""
    check_algorithm(algorithm, Auto)
    if not isinstance(max_queries, Tracer):
        check_integer("max_queries", max_queries, 1, LARGEST_INT)
    if block_size is not None:
        check_integer("block_size", block_size, 1, LARGEST_INT)


def _stages(algorithm: Algorithm[Any] | Auto, problem: Problem, has_matrix: bool) -> tuple[Stage, ...]:
    """Return the stages of an algorithm that games of this problem can need."""
    if isinstance(algorithm, Algorithm):
        return (Stage(type(algorithm).__name__, When(algorithm.betas), algorithm),)
    betas = to_host(problem.beta) if is_concrete(problem.beta) else None
    return algorithm.possible_stages(has_matrix, problem.game.num_actions, problem.beta.dtype, betas)


def _is_concrete(algorithm: Algorithm[Any] | Auto, max_queries: Any) -> bool:
    """Return whether neither the algorithm nor the number of queries is traced."""
    if isinstance(max_queries, Tracer):
        return False
    return algorithm.is_concrete if isinstance(algorithm, Auto) else is_concrete(algorithm)


def _without_derivatives(problem: Problem) -> Problem:
    """Return the problem as derivatives do not see it, itself if it is concrete: concrete arrays stay concrete."""
    if problem.is_concrete():
        return problem
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if isinstance(leaf, Tracer) else leaf, problem)


def _solution(
    executor: Executor, problem: Problem, fixed: Problem, progress: Progress, *, validate: bool, throw: bool
) -> Solution:
    """Return the solution of a problem, with derivatives where the problem is traced by one."""
    if validate:
        executor.check_after(problem, progress.status)
    if fixed is not problem:
        progress = progress._replace(log_policy=executor.differentiate(problem, fixed, progress.log_policy))
    solution = executor.finish(problem.solution(progress))
    return solution.raise_for_status() if throw and is_concrete(solution.status) else solution
