"""The public verbs: `solve` games to a tolerance, `solve_path` along betas, record the `trajectory` of a method."""

from __future__ import annotations

from typing import Any

import jax
from jax.core import Tracer
from jax.typing import ArrayLike

from nashjax._execution.executor import Executor, choose_executor, concrete_betas
from nashjax._math.transfers import is_concrete
from nashjax._validation import LARGEST_INT, check_integer
from nashjax.algorithms.auto import Auto
from nashjax.algorithms.base import Algorithm, check_algorithm, check_matrix, check_supported
from nashjax.algorithms.stage import Stage, When
from nashjax.games import Game
from nashjax.problem import Problem
from nashjax.solution import Progress, Solution, Trajectory

DEFAULT = Auto()


def solve(
    game: Game | ArrayLike,
    beta: ArrayLike,
    *,
    reference: ArrayLike | None = None,
    algorithm: Algorithm[Any] | Auto | None = None,
    tol: ArrayLike = 1e-6,
    max_queries: int | jax.Array = 100_000,
    initial: ArrayLike | None = None,
    block_size: int | None = None,
    validate: bool = True,
) -> Solution:
    """Find the equilibria of beta-regularised preference games, each with a certificate (spec 1-3).

    The batch shapes of all arguments broadcast as in numpy: one game with 256 betas is one matrix, not 256 copies.
    Works under `jit`, `vmap` and `grad`. Outside of these, arrays in the memory of a processor are solved on all of its
    cores; games that are spread over a mesh (`nashjax.distributed`) are solved where they lie, each device going
    through its own without waiting for others; and the call returns when all is done. Rounding hides exploitabilities
    below about `eps^2 (1/beta + 8 beta)` (eps at `beta = 0`); a `tol` below that, or up to four times it, can end as
    `Status.STALLED`.

    At `beta = 0` the answer is a plain Nash equilibrium (a maximal lottery). Of several, the default finds the one of
    least divergence from the reference, in the limit of `beta -> 0`, if the game offers its matrix: that of
    `beta = 1e-6` in float64, in float32 only that of 1e-3, which in games with ties can be some 0.05 away in L1.

    The policy (not the certificate) has derivatives in the game, where that means `P -> 1/2 + (P - P^T)/2`, in `beta`
    and in the reference, by implicit differentiation and at the cost of one linear solve; second ones too. They are as
    exact as the policy: ask for a tight `tol`. At `beta = 0` they are NaN, and in reverse mode so is the derivative in
    whatever a game at `beta = 0` shares with others.

    Args:
      game: a `Game`, or preferences `[*batch, n, n]` taken as a `MatrixGame`. Its dtype, float32 or (with
        `jax_enable_x64`) float64, is that of the solve; integers and booleans are promoted.
      beta: regularisation, `[*batch]`, >= 0, in units of preference.
      reference: policy `r` that `beta` pulls towards, probabilities `[*batch, n]`, default uniform. A zero excludes
        the action, so that games of different sizes can share a batch. The row and the column of an excluded action may
        hold anything, NaN included.
      algorithm: by default `AdaptiveNashMP()`, then `Newton()` for tolerances below 1e-9 in float64 and for games that
        have used many queries; `InteriorPoint()` first where beta is below 1e-3 (the table in `nashjax/hybrid.py`).
      tol: exploitability to reach, `[*batch]`, in units of preference.
      max_queries: most evaluations of `P v` for each game, >= 1.
      initial: policy to start from, `[*batch, n]`, default the reference. Zeros are raised to the smallest number of
        the dtype: where a solve starts does not change the game. Interior points start from their own.
      block_size: games solved at a time by first-order methods, each block to its own convergence; by default as many
        as fit the cache of a processor, or all on an accelerator.
      validate: check values: those of the other arguments before any compute, those of matrices in passing. Inside a
        trace values cannot be checked; a bad game then ends as `Status.INVALID`, with NaN for its policy.

    Returns:
      A `Solution`, the batch axes first. The best iterate of each game is returned, whatever its status.

    Raises:
      TypeError: an argument is of a wrong type.
      ValueError: an argument has a wrong value, or the algorithm does not support a beta or the game. The message names
        the argument, the index of the first bad entry and what it must be.

    >>> import nashjax as nj
    >>> solution = nj.solve([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]], beta=0.05)
    >>> [round(float(p), 3) for p in solution.policy], bool(solution.converged)
    ([0.316, 0.289, 0.395], True)
    """
    algorithm = DEFAULT if algorithm is None else algorithm
    _check(algorithm, max_queries, block_size)
    problem = Problem.build(game, beta, reference, initial, tol, validate=validate, in_place=True)
    if isinstance(algorithm, Algorithm):
        check_supported(algorithm, problem.game, beta)
    fixed = _without_derivatives(problem)
    executor = choose_executor(fixed, algorithm, max_queries)
    progress = executor.solve(fixed, _stages(algorithm, fixed), max_queries, block_size)
    return _solution(executor, problem, fixed, progress, validate)


def solve_path(
    game: Game | ArrayLike,
    betas: ArrayLike,
    *,
    reference: ArrayLike | None = None,
    algorithm: Algorithm[Any] | Auto | None = None,
    tol: ArrayLike = 1e-6,
    max_queries: int | jax.Array = 100_000,
    initial: ArrayLike | None = None,
    validate: bool = True,
) -> Solution:
    """Follow equilibria along decreasing betas, each solve starting where the one before ended.

    (Interior points, used below 1e-3, have a start of their own unless that of the path is already near.) The matrix
    of a game is read, never copied, for all its betas and references. What `solve` says of its arguments, its
    derivatives and its errors holds here too.

    Args:
      game: as in `solve`.
      betas: `[num_betas]` or `[num_betas, *batch]`, not increasing along the first axis; the last may be 0.
      reference: as in `solve`, the same for all betas.
      algorithm: as in `solve`.
      tol: as in `solve`, the same for all betas.
      max_queries: as in `solve`, for each beta.
      initial: where the first solve starts, as in `solve`.
      validate: as in `solve`.

    Returns:
      A `Solution` whose first axis is that of the betas: `[num_betas, *batch]`.
    """
    algorithm = DEFAULT if algorithm is None else algorithm
    _check(algorithm, max_queries, None)
    problem = Problem.build_path(game, betas, reference, initial, tol, validate=validate, in_place=True)
    if isinstance(algorithm, Algorithm):
        check_supported(algorithm, problem.game, betas, "betas")
    fixed = _without_derivatives(problem)
    executor = choose_executor(fixed, algorithm, max_queries)
    progress = executor.follow(fixed, _stages(algorithm, fixed), max_queries)
    return _solution(executor, problem, fixed, progress, validate)


def trajectory(
    game: Game | ArrayLike,
    beta: ArrayLike,
    *,
    algorithm: Algorithm[Any] | Auto,
    num_steps: int,
    reference: ArrayLike | None = None,
    initial: ArrayLike | None = None,
) -> Trajectory:
    """Record a fixed number of steps of an algorithm, to study its dynamics.

    Betas that an algorithm does not support, at which it does not converge, are recorded as any other.

    Args:
      game: as in `solve`.
      beta: as in `solve`.
      algorithm: the method to run.
      num_steps: how many steps, >= 0.
      reference: as in `solve`.
      initial: as in `solve`.

    Returns:
      A `Trajectory`; a game that is not valid (possible only inside a trace) has NaN policies and exploitability inf.

    Raises:
      ValueError: an argument is not valid.
    """
    check_algorithm(algorithm, Auto)
    check_integer("num_steps", num_steps, 0, LARGEST_INT)
    problem = Problem.build(game, beta, reference, initial, in_place=True)
    fixed = _without_derivatives(problem)
    executor = choose_executor(fixed, algorithm)
    if isinstance(algorithm, Algorithm):
        check_matrix(algorithm, problem.game)
        return executor.record(problem, fixed, algorithm, num_steps)
    numbered = tuple(enumerate(algorithm.stages_for(problem.game)))
    chosen = _stages(algorithm, fixed)
    numbered = tuple((number, stage) for number, stage in numbered if stage in chosen)
    return executor.record(problem, fixed, numbered, num_steps)


def _check(algorithm: Any, max_queries: Any, block_size: int | None) -> None:
    """Raise unless these arguments, which do not depend on the games, are valid."""
    check_algorithm(algorithm, Auto)
    if not isinstance(max_queries, Tracer):
        check_integer("max_queries", max_queries, 1, LARGEST_INT)
    if block_size is not None:
        check_integer("block_size", block_size, 1, LARGEST_INT)


def _stages(algorithm: Algorithm[Any] | Auto, problem: Problem) -> tuple[Stage, ...]:
    """Return the stages of an algorithm that games of this problem can need."""
    if isinstance(algorithm, Algorithm):
        return (Stage(type(algorithm).__name__, When(algorithm.betas), algorithm),)
    stages, betas = algorithm.stages_for(problem.game), concrete_betas(problem)
    possible = tuple(stage for stage in stages if stage.when.can_include(problem, betas))
    return possible or stages[:1]


def _without_derivatives(problem: Problem) -> Problem:
    """Return the problem as derivatives do not see it, itself if it is concrete: concrete arrays stay concrete."""
    if is_concrete(problem):
        return problem
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if isinstance(leaf, Tracer) else leaf, problem)


def _solution(executor: Executor, problem: Problem, fixed: Problem, progress: Progress, validate: bool) -> Solution:
    """Return the solution of a problem, with derivatives where the problem is traced by one."""
    if validate:
        executor.check(fixed, progress.status)
    if fixed is not problem:
        progress = progress._replace(log_policy=executor.differentiate(problem, fixed, progress.log_policy))
    return executor.finish(progress.solution())
