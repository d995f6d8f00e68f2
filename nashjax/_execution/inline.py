"""Execution inside a trace: all stages in one program, the later ones only where a game needs them."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from nashjax._execution.batching import default_block_size, map_blocks, update_some
from nashjax._execution.vmap import map_as_batch
from nashjax.algorithms._trajectory import record_algorithm, record_stages
from nashjax.algorithms.base import Algorithm
from nashjax.algorithms.stage import Stage, run_stage
from nashjax.problem import Problem
from nashjax.solution import Progress, Status, Trajectory

T = TypeVar("T")


def solve(
    problem: Problem, stages: tuple[Stage, ...], max_queries: jax.Array | int, block_size: int | None
) -> Progress:
    """Solve games; under `vmap` the mapped axis joins the batch. Derivatives are 0.

    Args:
      problem: the games.
      stages: the stages that games of this problem can need, at least one.
      max_queries: largest number of queries of each game.
      block_size: games solved together by first-order methods; None for the default.
    """
    max_queries = jnp.asarray(max_queries, jnp.int32)

    def solve_batch(problem: Problem, others: tuple[tuple[Stage, ...], jax.Array]) -> Progress:
        stages, max_queries = others
        problem = problem.aligned()
        progress = run_on_all(stages[0], problem, max_queries, block_size)
        if len(stages) == 1:
            return progress

        def run_rest(progress: Progress) -> Progress:
            for stage in stages[1:]:
                progress = run_on_some(stage, problem, progress, max_queries, block_size)
            return progress

        return jax.lax.cond(jnp.any(progress.unfinished), run_rest, lambda progress: progress, progress)

    return map_as_batch(solve_batch, problem, (stages, max_queries))


def follow(problem: Problem, stages: tuple[Stage, ...], max_queries: jax.Array | int) -> Progress:
    """Solve for each beta of `problem.beta`, `[num_betas, *batch]`, from the equilibrium of the one before."""
    n, batch = problem.game.num_actions, problem.batch_shape[1:]
    reference = jnp.asarray(problem.uniform()) if problem.reference is None else problem.reference
    initial = jnp.broadcast_to(reference if problem.initial is None else problem.initial, (*batch, n))

    def go_on(policy: jax.Array, beta: jax.Array) -> tuple[jax.Array, Progress]:
        progress = solve(problem._replace(beta=beta, initial=policy), stages, max_queries, None)
        invalid = (progress.status == Status.INVALID)[..., None]  # one beta must not spoil the next
        return jnp.where(invalid, policy, jnp.exp(progress.log_policy)), progress

    return jax.lax.scan(go_on, jax.lax.stop_gradient(initial), problem.beta)[1]


def record(problem: Problem, algorithm: Algorithm[Any] | tuple[tuple[int, Stage], ...], num_steps: int) -> Trajectory:
    """Record the steps of an algorithm or of numbered stages; traceable."""
    dtype = problem.beta.dtype
    if isinstance(algorithm, Algorithm):
        return record_algorithm(problem, in_dtype(algorithm, dtype), num_steps)
    stages = tuple((number, in_dtype(stage, dtype)) for number, stage in algorithm)
    return record_stages(problem.aligned(), stages, num_steps)


def block_size_of(stage: Stage, problem: Problem, block_size: int | None) -> int:
    """Return how many games a stage solves together; the caller's number is that of first-order methods."""
    if differs_between_games(stage.algorithm):
        return max(math.prod(problem.batch_shape), 1)
    if block_size is None or stage.algorithm.solves_systems:
        return default_block_size(problem, systems=stage.algorithm.solves_systems)
    return block_size


def differs_between_games(algorithm: Any) -> bool:
    """Return whether a hyperparameter is an array with a value for each game, so that the batch cannot be cut."""
    return any(jnp.ndim(leaf) for leaf in jax.tree.leaves(algorithm))


def run_on_all(
    stage: Stage, problem: Problem, max_queries: jax.Array, block_size: int | None, progress: Progress | None = None
) -> Progress:
    """Run a stage on games in blocks; traceable."""
    stage = in_dtype(stage, problem.beta.dtype)
    block = block_size_of(stage, problem, block_size)
    if math.prod(problem.batch_shape) <= block:
        return run_stage(stage, problem, progress, max_queries)

    def run_block(block: Problem, progress: Progress | None) -> Progress:
        return run_stage(stage, block, progress, max_queries)

    return map_blocks(run_block, problem, progress, block)


def run_on_some(
    stage: Stage, problem: Problem, progress: Progress, max_queries: jax.Array, block_size: int | None
) -> Progress:
    """Run a stage on the unfinished games in its range of betas, brought together in chunks; traceable."""
    stage = in_dtype(stage, problem.beta.dtype)

    def run_chunk(chunk: Problem, progress: Progress) -> Progress:
        return run_stage(stage, chunk, progress, max_queries)

    chosen = progress.unfinished & stage.when.includes_beta(jnp.broadcast_to(problem.beta, progress.unfinished.shape))
    return update_some(run_chunk, problem, progress, chosen, block_size_of(stage, problem, block_size))


def in_dtype(algorithm: T, dtype: jnp.dtype) -> T:
    """Return an algorithm, or a stage with one, with its hyperparameters in the dtype of the games."""
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), algorithm)
