import dataclasses
import functools
import os
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import run_script

import nashjax as nj
from nashjax._execution import batching, threads
from nashjax._execution.batching import cut
from nashjax._execution.programs import PROGRAMS

solve_traced = jax.jit(functools.partial(nj.solve, algorithm=nj.AdaptiveNashMP()))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10_000), st.integers(1, 200))
def test_parts_cover_the_batch_and_never_leave_it(num_games, block_size):
    size, starts = cut(num_games, block_size)
    covered = np.zeros(num_games, int)
    for start in starts:
        assert 0 <= start <= max(num_games - size, 0)
        covered[start : start + size] += 1
    assert (covered >= 1).all()
    assert covered.sum() < 2 * max(num_games, 1)


def test_a_sweep_over_batch_sizes_compiles_few_programs(monkeypatch):
    monkeypatch.setattr(batching, "num_cores", lambda: 2)  # the sizes of parts depend on it
    sizes = {cut(num_games, 64)[0] for num_games in range(1, 100_000)}
    assert len(sizes) <= 7
    P = nj.games.random_game(jax.random.key(0), 4, (2000,)).preferences
    before = len(PROGRAMS)
    for num_games in (1100, 1101, 1399, 1500, 1777, 1999, 2000):
        nj.solve(P[:num_games], 0.1, algorithm=nj.NashMP())
    assert len(PROGRAMS) - before <= 1


@pytest.mark.parametrize("n", [3, 40])
def test_parts_change_nothing_but_the_order_of_the_work(n):
    games = nj.games.random_game(jax.random.key(n), n, (1, 301))
    beta = jnp.array([[0.5], [0.1]])
    reference = jax.random.dirichlet(jax.random.key(1), jnp.ones(n), (2, 1))
    alone = solve_traced(games, beta, reference=reference)
    for block_size in (None, 16, 50):
        found = nj.solve(games, beta, reference=reference, algorithm=nj.AdaptiveNashMP(), block_size=block_size)
        assert found.policy.shape == (2, 301, n)
        same = np.asarray(found.queries == alone.queries)
        assert same.mean() > 0.98  # rounding decides on a trial now and then
        np.testing.assert_allclose(found.policy[same], alone.policy[same], atol=1e-9)
        np.testing.assert_allclose(found.policy, alone.policy, atol=2e-3)
        assert (found.status == nj.Status.CONVERGED).all()
    for i, j in ((0, 0), (1, 150), (1, 300)):
        exactly: dict[str, Any] = {"algorithm": nj.NashMP(), "tol": 1e-12}
        one = nj.solve(games.preferences[0, j], beta[i, 0], reference=reference[i, 0], **exactly)
        np.testing.assert_allclose(found.policy[i, j], one.policy, atol=2 * np.sqrt(2e-6 / float(beta[i, 0])))


def test_hyperparameters_of_each_game_keep_the_batch_whole():
    games = nj.games.random_game(jax.random.key(0), 3, (2, 3))
    eta = jnp.array([[0.1, 0.2, 0.3], [0.15, 0.25, 0.35]])
    found = nj.solve(games, 0.1, algorithm=nj.NashMP(eta=eta))
    path = nj.trajectory(games, 0.1, algorithm=nj.NashMP(eta=eta), num_steps=2)
    np.testing.assert_allclose(path.step_size, np.stack([eta, eta], -1))
    for i, j in np.ndindex(2, 3):
        alone = nj.solve(games.preferences[i, j], 0.1, algorithm=nj.NashMP(eta=float(eta[i, j])))
        assert found.queries[i, j] == alone.queries


def test_a_bad_game_in_a_large_batch_is_named():
    P = np.array(nj.games.random_game(jax.random.key(0), 3, (20, 50)).preferences)
    P[13, 7, 1, 2] += 0.25
    with pytest.raises(ValueError, match=r"game.preferences\[13, 7, (1, 2|2, 1)\]"):
        nj.solve(P, 0.1, algorithm=nj.NashMP())
    for call in (
        lambda: nj.solve_path(P, np.array([0.2, 0.1]), algorithm=nj.NashMP()),
        lambda: nj.trajectory(P, 0.1, algorithm=nj.NashMP(), num_steps=2),
    ):
        with pytest.raises(ValueError, match=r"game.preferences\[13, 7, (1, 2|2, 1)\]"):
            call()
    solution = nj.solve(P, 0.1, algorithm=nj.NashMP(), validate=False)
    assert solution.status[13, 7] == nj.Status.INVALID
    assert (solution.status == nj.Status.INVALID).sum() == 1


def test_what_ends_one_part_ends_the_call_and_what_has_not_begun():
    for error in (KeyboardInterrupt, ValueError):
        begun = []

        def part(start: int, begun: list[int] = begun, error: type[BaseException] = error) -> None:
            begun.append(start)
            time.sleep(0.02)
            if start == 1:
                raise error

        with pytest.raises(error):
            threads.on_all_cores(part, range(1000))
        assert len(begun) < 100
        ended = len(begun)
        time.sleep(0.05)
        assert len(begun) == ended


def test_parts_may_call_for_parts():
    def outer(start: int) -> list[int]:
        return threads.on_all_cores(lambda inner: start + inner, range(4))

    assert threads.on_all_cores(outer, range(50)) == [[start + inner for inner in range(4)] for start in range(50)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs an operating system that forks")
def test_a_process_that_is_forked_off_has_threads_of_its_own():
    script = """
        import os, time
        from nashjax._execution import threads
        def names(_):
            time.sleep(0.01)
            return os.getpid()
        threads.on_all_cores(names, range(8))
        child = os.fork()
        if child == 0:
            os._exit(0 if set(threads.on_all_cores(names, range(8))) == {os.getpid()} else 1)
        print(os.waitpid(child, 0)[1])
    """
    assert run_script(script, 60) == "0\n"


def test_settings_of_one_thread_reach_all_of_its_games():
    P = np.asarray(nj.games.random_game(jax.random.key(0), 3, (300,)).preferences)
    assert nj.solve(P, 0.1, algorithm=nj.NashMP()).policy.dtype == np.float64
    with jax.enable_x64(False):
        assert nj.solve(P, 0.1, algorithm=nj.NashMP()).policy.dtype == np.float32


@pytest.mark.skipif(batching.num_cores() < 2, reason="needs two cores")
def test_threads_that_help_take_over_the_settings_of_the_caller():
    together = threading.Barrier(2, timeout=30)  # so that each thread has one of the two arguments

    def dtype(_: int) -> Any:
        together.wait()
        return jnp.ones(1).dtype

    assert threads.on_all_cores(dtype, [0, 1]) == [jnp.float64, jnp.float64]
    with jax.enable_x64(False):
        assert threads.on_all_cores(dtype, [0, 1]) == [jnp.float32, jnp.float32]


def test_arrays_may_be_reused_after_a_call():
    """Compiled functions read numpy arrays where they lie, and return before they have ended."""
    P = np.array(nj.games.random_game(jax.random.key(0), 400).preferences)
    few: dict[str, Any] = {"algorithm": nj.NashMP(), "tol": 0.0, "max_queries": 40}
    calls = [
        lambda P: nj.solve(P, 0.1, validate=False, **few).exploitability,
        lambda P: nj.solve_path(P, np.array([0.2, 0.1]), **few).exploitability,
        lambda P: nj.trajectory(P, 0.1, algorithm=nj.NashMP(), num_steps=20).exploitability,
    ]
    for call in calls:
        expected = np.asarray(call(P))
        reused = P.copy()
        found = call(reused)
        reused[:] = np.nan
        np.testing.assert_array_equal(found, expected)


def test_concrete_games_inside_of_a_trace_belong_to_the_trace():
    P = np.asarray(nj.games.random_game(jax.random.key(0), 4, (200,)).preferences)
    expected = nj.solve(P, 0.1, algorithm=nj.NashMP()).policy
    found = jax.jit(lambda x: x * nj.solve(P, 0.1, algorithm=nj.NashMP()).policy)(1.0)
    np.testing.assert_allclose(found, expected, atol=1e-12)

    def both(beta: Any) -> Any:  # a list, also of tracers
        betas: Any = [beta, 2 * beta]
        return nj.solve(P[0], betas, algorithm=nj.AdaptiveNashMP(), tol=1e-10).policy

    np.testing.assert_allclose(jax.jit(both)(0.1), both(0.1), atol=1e-5)


def test_games_of_other_classes_are_checked_too():
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Checked(nj.Game):
        matrix: jax.Array
        key: jax.Array

        num_actions = property(lambda self: self.matrix.shape[-1])  # pyright: ignore
        batch_shape = property(lambda self: self.matrix.shape[:-2])  # pyright: ignore

        def payoffs(self, weights):
            return jnp.einsum("...ij,j...->i...", self.matrix, weights)

        def is_valid(self):
            return jnp.all(self.matrix[..., 0, :] + self.matrix[..., :, 0] == 1, axis=-1)

    P = np.array(nj.games.random_game(jax.random.key(0), 3, (5,)).preferences)
    game: Any = Checked(jnp.asarray(P), jax.random.key(0))
    assert nj.solve(game, 0.1).converged.all()
    P[3, 0, 1] += 0.1
    bad: Any = dataclasses.replace(game, matrix=jnp.asarray(P))
    with pytest.raises(ValueError, match=r"game\[3\] must be a preference game"):
        nj.solve(bad, 0.1)
    assert (jax.jit(lambda game: nj.solve(game, 0.1).status)(bad) == nj.Status.INVALID).sum() == 1


def test_games_that_no_beta_asks_for_are_checked_and_bytes_may_come_in_any_order():
    P = np.array(nj.games.random_game(jax.random.key(0), 3).preferences)
    swapped = P.astype(P.dtype.newbyteorder())
    found, expected = (nj.solve(x, 0.1, algorithm=nj.NashMP()).policy for x in (swapped, P))
    np.testing.assert_array_equal(found, expected)
    P[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"game.preferences\[2, 1\] must be a finite probability, got nan"):
        nj.solve(P, np.zeros(0), algorithm=nj.NashMP())


def test_solves_in_several_threads_at_a_time_end():
    """The kernels of LAPACK for many matrices would wait for each other here, for ever (`linear._factorize_each`)."""
    script = """
        from concurrent.futures import ThreadPoolExecutor
        import os, jax, numpy as np, nashjax as nj
        games = nj.games.random_game(jax.random.key(0), 60, (64,), "tournament")
        def solve(_):
            return np.asarray(nj.solve(games, 0.01, algorithm=nj.Newton(), block_size=16).converged).all()
        with ThreadPoolExecutor(4 * os.cpu_count()) as threads:
            print(all(threads.map(solve, range(8 * os.cpu_count()))))
    """
    assert run_script(script, 120) == "True\n"


def test_games_spread_over_an_explicit_mesh_are_solved():
    script = """
        import os
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        import jax, numpy as np, nashjax as nj
        games = nj.games.random_game(jax.random.key(0), 4, (6,))
        mesh = jax.make_mesh((2,), ("games",), axis_types=(jax.sharding.AxisType.Explicit,))
        spread = jax.device_put(games, jax.NamedSharding(mesh, jax.P("games")))
        found = nj.solve(spread, 0.1, algorithm=nj.NashMP()).policy
        print(np.abs(found - nj.solve(games, 0.1, algorithm=nj.NashMP()).policy).max() < 1e-6)
    """
    assert run_script(script, 120) == "True\n"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to reset the peak of memory")
def test_a_batch_is_not_copied():
    script = """
        import jax, numpy as np, nashjax as nj
        def peak():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
        P = np.full((512, 256, 256), 0.5, np.float32)  # 128 MiB
        P[:, 0, 1:], P[:, 1:, 0] = 0.75, 0.25
        games = jax.block_until_ready(jax.device_put(P))
        del P
        nj.solve(games, 0.1, algorithm=nj.NashMP())
        open("/proc/self/clear_refs", "w").write("5")
        before = peak()
        assert nj.solve(games, 0.1, algorithm=nj.NashMP()).converged.all()
        print(peak() - before)
    """
    assert float(run_script(script, 120)) < 40
