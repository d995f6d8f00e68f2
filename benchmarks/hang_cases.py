"""Cases of `benchmarks/hangs.py`, several in one process, on the nashjax that PYTHONPATH leads to.

Run as a script with a JSON object: `verb`, `transform`, `cases` (each with `case`, `beta`, `n`, `games`), `calls` and
`limit`. Prints a JSON object when a case begins, after each of its calls, and when it ends. Uses the public interface
only and imports nothing from this folder, so that any version can be checked.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nashjax as nj

Function = Callable[[jax.Array], Any]
SCANNED = 4
"""Batches that the transform `scan` goes through."""
STEPS = 20
"""Steps of a trajectory."""


def policy_of(verb: str, beta: float) -> Function:
    """Return the function from preferences `[*batch, n, n]` to policies `[*batch, n]` that is transformed."""
    if verb == "solve":
        return lambda P: nj.solve(P, beta).policy
    if verb == "solve_path":
        return lambda P: nj.solve_path(P, np.array([0.5, beta], np.float32)).policy[-1]
    algorithm = nj.AdaptiveNashMP() if beta > 0 else nj.InteriorPoint()
    return lambda P: jnp.exp(nj.trajectory(P, beta, algorithm=algorithm, num_steps=STEPS).log_policy[..., -1, :])


def scanned(f: Function) -> Function:
    """Solve one batch after the other in a loop."""

    def body(total: jax.Array, P: jax.Array) -> tuple[jax.Array, jax.Array]:
        policy = f(P)
        return total + policy[..., 0].sum(), policy

    return lambda P: jax.lax.scan(body, jnp.zeros((), P.dtype), jnp.broadcast_to(P, (SCANNED, *P.shape)))


def on_mesh(f: Function, check_vma: bool = True) -> Function:
    """Solve a part of the batch on each device."""
    mesh = jax.make_mesh((jax.device_count(),), ("games",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("games")
    return jax.shard_map(f, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma)


def nested(f: Function) -> Function:
    """Map over two axes, as near to a square as a power of two allows."""

    def both(P: jax.Array) -> Any:
        rows = 2 ** (int(math.log2(P.shape[0])) // 2)
        return jax.vmap(jax.vmap(f))(P.reshape(rows, -1, *P.shape[1:]))

    return both


def beside(f: Function) -> Function:
    """Solve games and independent linear systems in one program."""
    return lambda P: (f(P), jnp.linalg.solve(jnp.eye(P.shape[-1]) + P, jnp.ones((*P.shape[:-1], 1))))


TRANSFORMS: dict[str, Callable[[Function], Function]] = {
    "jit": lambda f: f,
    "vmap": jax.vmap,
    "nested-vmap": nested,
    "grad": lambda f: jax.grad(lambda P: jnp.sum(f(P) ** 2)),
    "jacfwd": lambda f: jax.vmap(jax.jacfwd(f)),
    "hessian": lambda f: jax.vmap(jax.hessian(lambda P: jnp.sum(f(P) ** 2))),
    "scan": scanned,
    "shard_map": on_mesh,
    "shard_map-unchecked": lambda f: on_mesh(f, check_vma=False),
    "two-solves": lambda f: lambda P: (f(P), f(1 - P)),
    "beside-linalg": beside,
}


def run_case(function: Function, n: int, games: int, calls: int, limit: float, note: Callable[..., None]) -> None:
    """Compile, call until `calls` calls are made or `limit` seconds are over, and say whether all is finite."""
    P = nj.games.random_game(jax.random.key(0), n, (games,)).preferences
    jax.block_until_ready(P)
    compiled = jax.jit(function)
    begin, answer, done = time.perf_counter(), None, 0
    while done < calls and (done < 2 or time.perf_counter() - begin < limit):
        start = time.perf_counter()
        answer = jax.block_until_ready(compiled(P))
        done += 1
        note(seconds=round(time.perf_counter() - start, 5))
    note(done=True, finite=all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(answer)))


def main() -> None:
    """Run the cases that the command line holds."""
    asked = json.loads(sys.argv[1])
    for case in asked["cases"]:

        def note(identity: int = case["case"], **fields: Any) -> None:
            print(json.dumps({"case": identity} | fields), flush=True)

        note(begun=True)
        try:
            f = policy_of(asked["verb"], case["beta"])
            games = case["games"] * (jax.device_count() if asked["transform"].startswith("shard_map") else 1)
            run_case(TRANSFORMS[asked["transform"]](f), case["n"], games, asked["calls"], asked["limit"], note)
        except Exception as error:  # the study reports it and goes on
            text = (str(error).strip().splitlines() or [""])[0]
            note(done=True, error=f"{type(error).__name__}: {text}"[:200])


if __name__ == "__main__":
    main()
