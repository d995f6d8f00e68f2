"""Distances of a trajectory to the equilibrium, against plain numpy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from independent import draw_games, equilibrium, exact_kl
from scripts import run_script

import nashjax as nj

GAMES = draw_games(3, 4, (3,), "gaussian")
BETA = 0.1
UNIFORM = np.full(4, 0.25)
STARS = np.stack([equilibrium(P, BETA, UNIFORM) for P in GAMES])
METHOD = nj.NashMP()
PLACES = {
    "one game": lambda f: jax.tree.map(lambda *x: np.stack(x), *(f(P, p) for P, p in zip(GAMES, STARS, strict=True))),
    "cores": lambda f: f(GAMES, STARS),
    "jit": lambda f: jax.jit(f)(GAMES, STARS),
    "vmap": lambda f: jax.vmap(f)(jnp.asarray(GAMES), jnp.asarray(STARS)),
}


def distances(log_policy: np.ndarray, star: np.ndarray) -> tuple[float, float]:
    ratio = log_policy.astype(np.longdouble) - np.log(star.astype(np.longdouble))
    return exact_kl(star, np.exp(log_policy)), float(ratio.max() - ratio.min())


@pytest.mark.parametrize("place", PLACES)
def test_distances_are_those_of_plain_numpy_in_every_place(place):
    def record(P, star):
        path = nj.trajectory(P, BETA, algorithm=METHOD, num_steps=5, equilibrium=star)
        return path.log_policy, path.distances

    log_policy, found = PLACES[place](record)
    assert found.kl.shape == found.span.shape == (3, 6)
    for game, step in np.ndindex(3, 6):
        kl, span = distances(np.asarray(log_policy[game, step]), STARS[game])
        np.testing.assert_allclose(found.kl[game, step], kl, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(found.span[game, step], span, rtol=1e-9, atol=1e-12)


def test_the_equilibrium_is_computed_on_request():
    path = nj.trajectory(GAMES, BETA, algorithm=nj.Auto(), num_steps=30, equilibrium=True)
    expected = nj.trajectory(GAMES, BETA, algorithm=nj.Auto(), num_steps=30, equilibrium=STARS)
    assert path.distances is not None
    assert expected.distances is not None
    np.testing.assert_allclose(path.distances.kl, expected.distances.kl, rtol=1e-6, atol=1e-18)
    np.testing.assert_allclose(path.distances.span, expected.distances.span, rtol=1e-6, atol=1e-9)
    assert (path.distances.span[:, -1] < 1e-4).all()


def test_without_a_request_there_are_none():
    assert nj.trajectory(GAMES, BETA, algorithm=METHOD, num_steps=5).distances is None


def test_excluded_actions_do_not_count():
    reference = np.array([0.5, 0.25, 0.25, 0])
    star = np.append(equilibrium(GAMES[0][:3, :3], BETA, reference[:3]), 0)
    path = nj.trajectory(GAMES[0], BETA, algorithm=METHOD, num_steps=4, reference=reference, equilibrium=star)
    assert path.distances is not None
    for step in range(5):
        kl, span = distances(np.asarray(path.log_policy[step, :3]), star[:3])
        np.testing.assert_allclose(path.distances.kl[step], kl, rtol=1e-9)
        np.testing.assert_allclose(path.distances.span[step], span, rtol=1e-9)


def test_distances_have_derivatives():
    margin = GAMES[0] - 0.5

    def last(scale):
        options = {"algorithm": METHOD, "num_steps": 3, "equilibrium": True}
        path = nj.trajectory(0.5 + scale * jnp.asarray(margin), BETA, **options)
        assert path.distances is not None
        return path.distances.kl[-1]

    def by_differences(step=1e-5):
        found = []
        for scale in (0.9 + step, 0.9 - step):
            P = 0.5 + scale * margin
            path = nj.trajectory(P, BETA, algorithm=METHOD, num_steps=3)
            found.append(distances(np.asarray(path.log_policy[-1]), equilibrium(P, BETA, UNIFORM))[0])
        return (found[0] - found[1]) / (2 * step)

    np.testing.assert_allclose(jax.grad(last)(0.9), by_differences(), rtol=1e-5)


@pytest.mark.parametrize(
    ("equilibrium", "said"),
    [
        (UNIFORM[:3], "equilibrium must be an array [..., 4]"),
        (UNIFORM + 1, "equilibrium must be probabilities that sum to 1"),
        (np.stack([UNIFORM] * 2), "equilibrium must be an array that broadcasts to [3, 4], got shape [2, 4]."),
        (None, "equilibrium must be an array of real numbers, got None."),
    ],
)
def test_a_wrong_equilibrium_is_refused(equilibrium, said):
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        nj.trajectory(GAMES, BETA, algorithm=METHOD, num_steps=1, equilibrium=equilibrium)


def test_an_equilibrium_that_is_not_found_raises(monkeypatch):
    limited = functools.partial(nj.solve, algorithm=METHOD, max_queries=4)
    monkeypatch.setattr("nashjax._solve.solve", limited)
    with pytest.raises(nj.NotConverged) as raised:
        nj.trajectory(GAMES, BETA, algorithm=METHOD, num_steps=2, equilibrium=True)
    assert "Pass an equilibrium as an array" in raised.value.__notes__[0]


def test_distances_on_a_mesh_are_those_of_one_device():
    script = """
        import os
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 " + os.environ.get("XLA_FLAGS", "")
        import jax, numpy as np, nashjax as nj
        jax.config.update("jax_enable_x64", True)
        games = nj.games.random_game(jax.random.key(0), 4, (6,)).preferences
        whole = nj.games.random_game(jax.random.key(1), 8).preferences
        star = np.linspace(1, 2, 4) / 6
        rows_star = np.linspace(1, 2, 8) / 12
        for P, equilibrium in ((nj.distributed.shard(games), star), (nj.distributed.shard_rows(whole), rows_star)):
            path = nj.trajectory(P, 0.2, algorithm=nj.NashMP(), num_steps=3, equilibrium=equilibrium)
            ratio = np.asarray(path.log_policy) - np.log(equilibrium)
            np.testing.assert_allclose(path.distances.kl, -ratio @ equilibrium, rtol=1e-9)
            np.testing.assert_allclose(path.distances.span, np.ptp(ratio, axis=-1), rtol=1e-9)
    """
    run_script(script, seconds=120)
