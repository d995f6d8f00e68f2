"""The front door: `solve` games to a tolerance, or record the `trajectory` of a method."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from nashjax import cores, simplex, spread
from nashjax.algorithms import Algorithm
from nashjax.algorithms.support import check_algorithm, check_supported, supported_betas
from nashjax.arguments import LARGEST_INT, check_integer, invalid
from nashjax.blocks import default_block_size, map_blocks
from nashjax.driver import Outcome, certify, run
from nashjax.games import Game
from nashjax.games.validity import check_game
from nashjax.hybrid import BetaKinds, beta_kinds, run_hybrid
from nashjax.implicit import attach_derivative
from nashjax.inputs import Inputs, as_inputs, as_path_inputs
from nashjax.problem import kl_bound, rounding_floor
from nashjax.solution import Solution, Status
from nashjax.transfers import explicit
from nashjax.vmap import solve_mapped_axis_as_batch

MASS_TOLERANCE = 1e-2
"""How far from 1 the probabilities of an answer may sum up: rounding of a million of them leaves less."""


def solve(
    game: Game | ArrayLike,
    beta: ArrayLike,
    *,
    reference: ArrayLike | None = None,
    algorithm: Algorithm[Any] | None = None,
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
    check_algorithm(algorithm)
    if not isinstance(max_queries, Tracer):
        check_integer("max_queries", max_queries, 1, LARGEST_INT)
    if block_size is not None:
        check_integer("block_size", block_size, 1, LARGEST_INT)
    arguments = (game, beta, reference, initial, tol)
    on_cores = cores.can_share(*arguments, algorithm, max_queries)
    is_spread = not on_cores and spread.is_spread(*arguments)
    # Then the matrices are read where they lie, and checked in passing, while they are in the cache.
    in_place = on_cores or is_spread
    inputs = as_inputs(*arguments, validate=validate, in_place=in_place).run_by(algorithm)
    check_supported(algorithm, inputs.game, beta)
    betas = beta_kinds(beta, inputs.beta.dtype)
    if not in_place:
        return _solve(*explicit((inputs, algorithm, max_queries)), block_size, betas)
    if is_spread:
        where = spread.layout(inputs)
        inputs = spread.place(inputs, where)
        solution = _solve_spread(inputs, *explicit((algorithm, max_queries)), block_size, betas, where=where)
        if validate:
            spread.check_statuses(inputs, solution.status, where)
        return jax.block_until_ready(solution)
    solution = _solve_on_cores(inputs, algorithm, max_queries, block_size, betas)
    status = np.asarray(jax.block_until_ready(solution).status)
    if validate and (status.size == 0 or (status == Status.INVALID.value).any()):
        check_game(inputs.game, inputs.reference)
    return solution


def solve_path(
    game: Game | ArrayLike,
    betas: ArrayLike,
    *,
    reference: ArrayLike | None = None,
    algorithm: Algorithm[Any] | None = None,
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
    check_algorithm(algorithm)
    if not isinstance(max_queries, Tracer):
        check_integer("max_queries", max_queries, 1, LARGEST_INT)
    inputs = as_path_inputs(game, betas, reference, initial, tol, validate=validate).run_by(algorithm)
    check_supported(algorithm, inputs.game, betas, "betas")
    kinds = beta_kinds(betas, inputs.beta.dtype)
    if not spread.is_spread(game, betas, reference, initial, tol):
        return _solve_path(*explicit((inputs, algorithm, max_queries)), kinds)
    where = spread.layout(inputs)
    if where.batch[0]:
        raise invalid("betas", "whole on every device", f"a path cut along {where.batch[0]} of the mesh")
    algorithm, max_queries = explicit((algorithm, max_queries))
    return jax.block_until_ready(_solve_path_spread(spread.place(inputs, where), algorithm, max_queries, kinds, where))


class Trajectory(NamedTuple):
    """The path of an algorithm; a pytree, the batch axes first.

    Attributes:
      log_policy: `[*batch, num_steps + 1, n]`; entry 0 is the initial policy.
      exploitability: of each policy, `[*batch, num_steps + 1]`.
      queries: evaluations of `P v` so far, int32 `[*batch, num_steps + 1]`.
      step_size: the `eta` of each step (the `a` of methods that have one), `[*batch, num_steps]`; one step is one
        trial; a rejected one repeats the policy.
    """

    log_policy: jax.Array
    exploitability: jax.Array
    queries: jax.Array
    step_size: jax.Array


def trajectory(
    game: Game | ArrayLike,
    beta: ArrayLike,
    *,
    algorithm: Algorithm[Any],
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
    check_algorithm(algorithm, allow_none=False)
    check_integer("num_steps", num_steps, 0, LARGEST_INT)
    inputs = as_inputs(game, beta, reference, initial).run_by(algorithm)
    if getattr(algorithm, "needs_matrix", False):
        check_supported(algorithm, inputs.game, 0.0)
    return _trajectory(*explicit((inputs, algorithm)), num_steps)


def _in_dtype(algorithm: Algorithm[Any] | None, dtype: jnp.dtype) -> Any:
    """The algorithm with its hyper-parameters in the dtype of the games."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), algorithm)


def _solve_and_differentiate(
    inputs: Inputs,
    algorithm: Algorithm[Any] | None,
    max_queries: jax.Array,
    block_size: int | None,
    betas: BetaKinds,
) -> Solution:
    algorithm = _in_dtype(algorithm, inputs.beta.dtype)
    solution = _solve_games(jax.lax.stop_gradient(inputs), algorithm, max_queries, block_size, betas)
    return dataclasses.replace(solution, log_policy=attach_derivative(inputs, solution.log_policy))


_compile = functools.partial(jax.jit, _solve_and_differentiate, static_argnames=("block_size", "betas"))
_solve = _compile()
_solve_in_memory = _compile(compiler_options=cores.WIDE)
_solve_alone = _compile(compiler_options=cores.ALONE)


def _solve_on_cores(
    inputs: Inputs,
    algorithm: Algorithm[Any] | None,
    max_queries: int | jax.Array,
    block_size: int | None,
    betas: BetaKinds,
) -> Solution:
    """As `_solve`, for arrays in the memory of a processor: in parts of few sizes, on all of its cores."""
    size, starts = cores.parts(math.prod(inputs.batch_shape), block_size or default_block_size(inputs))
    if len(starts) == 1:
        return _solve_in_memory(*explicit((inputs, algorithm, max_queries)), block_size, betas)
    return cores.solve_parts(
        lambda part: _solve_alone(*explicit((part, algorithm, max_queries)), block_size, betas), inputs, size, starts
    )


@functools.partial(jax.jit, static_argnames=("block_size", "betas", "where"))
def _solve_spread(
    inputs: Inputs,
    algorithm: Algorithm[Any] | None,
    max_queries: jax.Array,
    block_size: int | None,
    betas: BetaKinds,
    where: spread.Layout,
) -> Solution:
    """As `_solve`, for games that lie on several devices; has no derivatives."""

    def solve_own(inputs: Inputs, others: tuple[Algorithm[Any] | None, jax.Array]) -> Solution:
        return _solve_games(inputs, *others, block_size, betas)

    return spread.solve_spread(solve_own, inputs, (_in_dtype(algorithm, inputs.beta.dtype), max_queries), where)


def _solve_games(
    inputs: Inputs,
    algorithm: Algorithm[Any] | None,
    max_queries: jax.Array,
    block_size: int | None,
    betas: BetaKinds,
) -> Solution:
    """Solve games inside a trace; under `vmap` the mapped axis joins the batch. Has no derivatives."""

    def solve(inputs: Inputs, others: tuple[Algorithm[Any] | None, jax.Array]) -> Solution:
        return _solve_batch(inputs, *others, block_size, betas)

    return solve_mapped_axis_as_batch(solve, inputs, (algorithm, max_queries))


def _solve_batch(
    inputs: Inputs,
    algorithm: Algorithm[Any] | None,
    max_queries: jax.Array,
    block_size: int | None,
    betas: BetaKinds,
) -> Solution:
    inputs, max_queries = inputs.aligned(), jnp.asarray(max_queries, jnp.int32)
    if block_size is None:
        block_size = default_block_size(inputs)

    if algorithm is None:
        end = run_hybrid(inputs, max_queries, betas, block_size)
    else:

        def solve_block(block: Inputs) -> Outcome:
            problem, log_initial, valid = block.prepare()
            valid &= supported_betas(algorithm).include(problem.beta)
            end = run(problem, algorithm, log_initial, valid, block.tol, max_queries)
            return certify(problem, end, valid, block.tol).batch_first()

        end = map_blocks(solve_block, inputs, block_size)
    # An exploitability is one of a policy: of weights that do not sum to 1 it certifies nothing.
    is_policy = jnp.abs(jnp.sum(jnp.exp(end.log_policy), axis=-1) - 1) <= MASS_TOLERANCE
    status = jnp.where(is_policy, end.status, jnp.int8(Status.INVALID))
    beta, invalid = inputs.beta, status == Status.INVALID
    exploitability = jnp.where(invalid, jnp.inf, end.exploitability)
    return Solution(
        log_policy=jnp.where(invalid[..., None], jnp.nan, end.log_policy),
        exploitability=exploitability,
        kl_bound=kl_bound(exploitability, beta, rounding_floor(beta, beta.dtype)),
        queries=end.queries,
        steps=end.steps,
        status=status,
    )


@functools.partial(jax.jit, static_argnames="betas")
def _solve_path(inputs: Inputs, algorithm: Algorithm[Any] | None, max_queries: jax.Array, betas: BetaKinds) -> Solution:
    algorithm = _in_dtype(algorithm, inputs.beta.dtype)
    solution = _follow_path(jax.lax.stop_gradient(inputs), algorithm, max_queries, betas)
    return dataclasses.replace(solution, log_policy=attach_derivative(inputs, solution.log_policy))


@functools.partial(jax.jit, static_argnames=("betas", "where"))
def _solve_path_spread(
    inputs: Inputs, algorithm: Algorithm[Any] | None, max_queries: jax.Array, betas: BetaKinds, where: spread.Layout
) -> Solution:
    """As `_solve_path`, for games that lie on several devices; has no derivatives."""

    def solve_own(inputs: Inputs, others: tuple[Algorithm[Any] | None, jax.Array]) -> Solution:
        return _follow_path(inputs, *others, betas)

    return spread.solve_spread(solve_own, inputs, (_in_dtype(algorithm, inputs.beta.dtype), max_queries), where)


def _follow_path(
    inputs: Inputs, algorithm: Algorithm[Any] | None, max_queries: jax.Array, betas: BetaKinds
) -> Solution:
    n, batch = inputs.game.num_actions, inputs.batch_shape[1:]
    uniform = jnp.full(n, 1 / n, inputs.beta.dtype)
    reference = uniform if inputs.reference is None else inputs.reference
    initial = jnp.broadcast_to(reference if inputs.initial is None else inputs.initial, (*batch, n))

    def follow(policy: jax.Array, beta: jax.Array) -> tuple[jax.Array, Solution]:
        solution = _solve_games(inputs._replace(beta=beta, initial=policy), algorithm, max_queries, None, betas)
        invalid = (solution.status == Status.INVALID)[..., None]  # one beta must not spoil the next
        return jnp.where(invalid, policy, solution.policy), solution

    return jax.lax.scan(follow, initial, inputs.beta)[1]


@functools.partial(jax.jit, static_argnames="num_steps")
def _trajectory(inputs: Inputs, algorithm: Algorithm[Any], num_steps: int) -> Trajectory:
    problem, log_initial, valid = inputs.prepare()
    algorithm = _in_dtype(algorithm, inputs.beta.dtype)

    def record(state: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        exploitability = problem.exploitability(state.log_policy, state.payoffs)
        return (
            simplex.choose(valid, state.log_policy, jnp.nan),
            jnp.where(valid, exploitability, jnp.inf),
            state.queries,
        )

    def advance(state: Any, _: None) -> tuple[Any, tuple[Any, jax.Array]]:
        state = algorithm.step(problem, state)
        return state, (record(state), state.step_size)

    start = algorithm.init(problem, log_initial)
    _, (records, step_size) = jax.lax.scan(advance, start, length=num_steps)
    log_policy, exploitability, queries = jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest]), record(start), records
    )
    # From [steps, n, *batch] and [steps, *batch] to batch first.
    return Trajectory(
        log_policy=jnp.moveaxis(log_policy, (0, 1), (-2, -1)),
        exploitability=jnp.moveaxis(exploitability, 0, -1),
        queries=jnp.moveaxis(queries, 0, -1),
        step_size=jnp.moveaxis(step_size, 0, -1),
    )
