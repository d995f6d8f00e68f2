"""Two real processes with two devices each, which exchange data by gloo."""

import re
import socket

import pytest
from scripts import REFUSED, run_together, start

PROCESS = """
    import os, signal, sys
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 " + os.environ.get("XLA_FLAGS", "")
    import jax, jax.numpy as jnp, numpy as np, nashjax as nj
    process = PROCESS
    nj.distributed.initialize("localhost:PORT", 2, process, heartbeat_timeout=10)
    jax.config.update("jax_enable_x64", True)
    assert (jax.device_count(), jax.local_device_count()) == (4, 2)
"""


def of_two_processes(script: str) -> list[str]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    return [(PROCESS + REFUSED + script).replace("PROCESS", str(i)).replace("PORT", port) for i in range(2)]


def test_the_answers_are_those_of_one_device():
    script = """
    rng = np.random.default_rng(0)
    upper = np.triu(rng.uniform(size=(8, 6, 6)), 1)
    P = upper + np.tril(1 - np.swapaxes(upper, 1, 2), -1) + np.eye(6) / 2
    betas = np.geomspace(1e-3, 1, 8)
    first_order = nj.AdaptiveNashMP()  # quick to compile
    expected = nj.solve(P, betas, tol=1e-12, algorithm=first_order)

    own = slice(4 * process, 4 * process + 4)  # each process loads its own games
    found = nj.solve(nj.distributed.shard_local(P[own]), nj.distributed.shard(betas), tol=1e-12, algorithm=first_order)
    assert not found.policy.is_fully_addressable
    assert "spread over processes" in repr(found)
    whole = nj.distributed.gather(found)
    assert (whole.status == 0).all() and (whole.queries > 0).all()
    assert np.abs(whole.policy - np.asarray(expected.policy)).max() < 1e-6

    game = np.asarray(nj.games.random_game(jax.random.key(1), 16).preferences)
    rows = nj.solve(nj.distributed.shard_rows(game), 0.1, tol=1e-14, algorithm=first_order)
    assert np.abs(np.asarray(rows.policy) - nj.solve(game, 0.1, tol=1e-14, algorithm=first_order).policy).max() < 1e-6

    P[6, 1, 2] = np.nan  # which is not even equal to itself
    entry = "game.preferences[6, 1, 2] must be a finite" if process == 1 else "game[6] must be a preference game"
    refused(lambda: nj.solve(nj.distributed.shard(P), 0.1, algorithm=first_order), entry)
    refused(lambda: nj.solve_path(nj.distributed.shard(P), [0.2, 0.1]), entry)
    refused(lambda: nj.solve(P[:4], nj.distributed.shard(np.array([0.1, 0.1, -1, 0.1]))), "beta[2]", "-1.0")
    refused(lambda: nj.distributed.shard_local(P[: 2 + 2 * process]), "in every process, got [2, 4]")
    print("done")
    """
    assert [output.splitlines()[-1] for output in run_together(of_two_processes(script), 200)] == ["done", "done"]


@pytest.mark.parametrize("dies", [0, 1])
def test_when_a_process_dies_the_other_ends_with_an_error(dies):
    """Also if it is the coordinator, within its timeout."""
    script = f"""
    print("joined", flush=True)
    if process == {dies}:
        os.kill(os.getpid(), signal.SIGKILL)
    P = nj.games.random_game(jax.random.key(0), 4, (4,))
    nj.distributed.gather(nj.solve(nj.distributed.shard(P), 0.1, algorithm=nj.AdaptiveNashMP()))
    print("done")
    """
    processes = [start(text) for text in of_two_processes(script)]
    try:
        output, errors = processes[1 - dies].communicate(timeout=120)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert processes[1 - dies].returncode != 0
    assert output == "joined\n"
    assert re.search("heartbeat|unavailable|connection|peer", errors, re.IGNORECASE), errors
