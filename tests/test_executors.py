"""Every verb in every place: one game, all cores, a mesh, and the transformations of jax; the values agree."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripts import run_script

import nashjax as nj

GAMES = nj.games.random_game(jax.random.key(0), 4, (6,)).preferences
BETA = 0.2


@functools.partial(jax.tree_util.register_dataclass, data_fields=["step_size"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Extragradient(nj.Algorithm):
    """A user's own method: two steps towards the best response, the second from where the first leads."""

    step_size: float = 0.5
    queries_per_step = 2

    def init(self, problem, log_policy):
        return nj.algorithms.BasicState.start(problem, log_policy)

    def step(self, problem, state):
        ahead = problem.proximal_map(state.log_policy, state.payoffs, self.step_size / problem.beta)
        moved = problem.proximal_map(state.log_policy, problem.payoffs(ahead), self.step_size / problem.beta)
        return state.move(problem, moved, self.step_size, queries=2)


def solve(P, algorithm):
    return nj.solve(P, BETA, algorithm=algorithm, tol=1e-10).policy


def solve_path(P, algorithm):
    return nj.solve_path(P, jnp.array([0.4, BETA]), algorithm=algorithm, tol=1e-10).policy[-1]


def trajectory(P, algorithm):
    path = nj.trajectory(P, BETA, algorithm=algorithm, num_steps=40)
    return jnp.exp(path.log_policy[..., -1, :])


VERBS = (solve, solve_path, trajectory)
PLACES = {
    "one game": lambda f: np.stack([f(np.asarray(P)) for P in GAMES]),
    "cores": lambda f: f(np.asarray(GAMES)),
    "jax arrays": lambda f: f(GAMES),
    "jit": lambda f: jax.jit(f)(GAMES),
    "vmap": lambda f: jax.vmap(f)(GAMES),
    "nested vmap": lambda f: jax.jit(jax.vmap(jax.vmap(f)))(GAMES.reshape(2, 3, 4, 4)).reshape(6, 4),
    "scan": lambda f: jax.lax.scan(lambda _, P: (None, f(P)), None, GAMES)[1],
}


@pytest.mark.parametrize("algorithm", [Extragradient(), nj.AdaptiveNashMP()], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_a_verb_gives_the_same_in_every_place(verb, algorithm):
    expected = verb(np.asarray(GAMES), algorithm)
    exact = nj.solve(GAMES, BETA, algorithm=nj.Newton(), tol=1e-20).policy
    np.testing.assert_allclose(expected, exact, atol=1e-4)
    for place, call in PLACES.items():
        found = call(functools.partial(verb, algorithm=algorithm))
        np.testing.assert_allclose(found, expected, atol=1e-8, err_msg=place)


@pytest.mark.parametrize("verb", [solve, solve_path], ids=lambda verb: verb.__name__)
def test_a_verb_has_the_same_derivative_in_every_place(verb):
    weights = jnp.linspace(0, 1, 4)

    def value(P):
        return jnp.sum(verb(P, nj.AdaptiveNashMP()) * weights)

    expected = jax.vmap(jax.grad(value))(GAMES)
    for place, found in (
        ("one game", jnp.stack([jax.grad(value)(P) for P in GAMES])),
        ("cores", jax.grad(value)(GAMES)),
        ("jit", jax.jit(jax.grad(value))(GAMES)),
        ("forward", jax.jacfwd(value)(GAMES)),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=place)


def test_verbs_and_derivatives_of_games_on_a_mesh_stay_on_the_mesh():
    script = """
        import os
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 " + os.environ.get("XLA_FLAGS", "")
        import jax, jax.numpy as jnp, numpy as np, nashjax as nj
        jax.config.update("jax_enable_x64", True)
        games = nj.games.random_game(jax.random.key(0), 4, (6,)).preferences
        whole = nj.games.random_game(jax.random.key(1), 8).preferences
        method = nj.AdaptiveNashMP()
        places = {"batch": (games, nj.distributed.shard(games)),
                  "rows": (whole, nj.distributed.shard_rows(whole).preferences)}
        verbs = {
            "solve": lambda P: nj.solve(P, 0.2, algorithm=method, tol=1e-12).policy,
            "path": lambda P: nj.solve_path(P, [0.4, 0.2], algorithm=method, tol=1e-12).policy[-1],
            "trajectory": lambda P: nj.trajectory(P, 0.2, algorithm=method, num_steps=30).log_policy[..., -1, :],
        }
        for place, (plain, spread) in places.items():
            for name, verb in verbs.items():
                assert np.abs(np.asarray(verb(spread)) - np.asarray(verb(plain))).max() < 1e-6, (place, name)
                if name == "trajectory":
                    continue
                value = lambda P: jnp.sum(verb(P)[..., 0])
                expected, found = jax.grad(value)(plain), jax.grad(value)(spread)
                assert np.abs(np.asarray(found) - np.asarray(expected)).max() < 1e-6, (place, name)
                stays = found.sharding.is_equivalent_to(spread.sharding, found.ndim)
                assert stays or place == "rows", (place, name, found.sharding)
        rows = nj.distributed.shard_rows(whole)
        for beta in (1e-4, 0.0):  # by queries, in two stages: no device has the matrix
            found = nj.solve(rows, beta, max_queries=35)
            assert found.status == nj.Status.MAX_QUERIES and 30 < found.queries <= 35, found
            assert abs(found.exploitability - nj.metrics.exploitability(whole, found.policy, beta)) < 1e-12
        try:
            nj.solve(rows, 0.0, algorithm=nj.InteriorPoint())
        except ValueError as error:
            assert "whose rows lie on several devices" in str(error), error
        else:
            raise AssertionError("interior points need the matrix")
        print("done")
    """
    assert run_script(script, 300) == "done\n"


def test_the_default_is_an_object():
    assert repr(nj.Auto()).count("\n") == len(nj.Auto().stages) + len(nj.Auto().without_matrix) + 1
    assert "first order: 0.001 <= beta, matrix: AdaptiveNashMP(" in repr(nj.Auto())
    for beta in (0.1, 1e-4, 0.0):
        found, expected = nj.solve(GAMES[0], beta, algorithm=nj.Auto()), nj.solve(GAMES[0], beta)
        for own, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(own, other)
    slow = nj.Auto().replace("first order", algorithm=nj.NashMP())
    assert nj.solve(GAMES[0], 0.1, algorithm=slow).queries > nj.solve(GAMES[0], 0.1).queries
    with pytest.raises(ValueError, match="name must be one of 'first order', "):
        nj.Auto().replace("second order")
    with pytest.raises(TypeError, match=r"stages must be a tuple of nashjax\.Stage, got \[\]"):
        nj.Auto(stages=[])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"stages must be a tuple with at least one nashjax\.Stage, got \(\)"):
        nj.Auto(stages=())


def test_the_stages_of_many_betas_are_not_remembered_for_ever():
    auto = nj.Auto()
    for beta in np.linspace(0.1, 1, 2500):
        assert auto.possible_stages(True, 4, np.dtype("float64"), np.asarray(beta))[0].name == "first order"
    assert len(auto._known) <= 1000


def test_the_trajectory_of_the_default_tells_the_stage_of_each_step():
    names = [stage.name for stage in nj.Auto().stages]
    path = nj.trajectory(GAMES[:3], np.array([0.1, 1e-4, 0.0]), algorithm=nj.Auto(), num_steps=60)
    solved = nj.solve(GAMES[:3], np.array([0.1, 1e-4, 0.0]), tol=0.0)
    first = [names[int(stage)] for stage in path.stage[:, 0]]
    assert first == ["first order", "interior point", "interior point"]
    assert names[int(path.stage[2][path.stage[2] >= 0][-1])] == "exact support"
    assert (path.stage[2, -1], int((path.stage[2] >= 0).sum())) == (-1, int(solved.steps[2]))
    np.testing.assert_array_equal(path.log_policy[2, -1], path.log_policy[2, -2])
    np.testing.assert_allclose(np.exp(path.log_policy[2, -1]), solved.policy[2], atol=1e-9)
    again = nj.metrics.exploitability(GAMES[0], np.exp(path.log_policy[0]), 0.1)
    np.testing.assert_allclose(path.exploitability[0], again, rtol=1e-9, atol=1e-18)
