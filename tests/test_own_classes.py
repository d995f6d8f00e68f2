"""Games and methods of users' own, registered as jax's documentation says."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj
from nashjax._math.pytree import Classes

register = functools.partial(jax.tree_util.register_dataclass, data_fields=["u"], meta_fields=[])


def own_game(payoffs, batch_shape=()):
    """An instance of a class of its own with this query."""
    members = {"num_actions": 3, "batch_shape": batch_shape, "payoffs": payoffs}
    cls = dataclasses.make_dataclass("Own", [("u", jax.Array)], bases=(nj.Game,), namespace=members, frozen=True)
    register(cls)
    return cls(jnp.array([0.1, -0.2, 0.05]))


def ranked(scale):
    def payoffs(self, weights):
        u = scale * self.u.reshape(-1, *[1] * (weights.ndim - 1))
        return weights.sum(0) / 2 + u * weights.sum(0) - (u * weights).sum(0)

    return payoffs


def test_no_class_gets_the_program_of_another():
    """jaxlib takes the structures of two dataclasses of as many fields for equal; of so many classes some collide."""
    for k in range(60):
        scale = 1 + k / 60
        game = own_game(ranked(scale))
        margins = scale * (game.u[:, None] - game.u[None, :])
        found = nj.metrics.best_response(game, jnp.full(3, 1 / 3), 0.1)
        expected = jax.nn.softmax((0.5 + margins).mean(axis=1) / 0.1)
        np.testing.assert_allclose(found, expected, atol=1e-9, err_msg=str(k))


def own_method(step_size):
    """An instance of a class of its own with this step."""
    members = {
        "queries_per_step": 1,
        "init": lambda self, problem, log_policy: nj.OnlineMirrorDescent().init(problem, log_policy),
        "step": lambda self, problem, state: nj.OnlineMirrorDescent(step_size).step(problem, state),
    }
    cls = dataclasses.make_dataclass("Own", [("u", float)], bases=(nj.Algorithm,), namespace=members, frozen=True)
    register(cls)
    return cls(0.0)


def test_no_method_gets_the_program_of_another():
    P = nj.games.random_game(jax.random.key(0), 3)
    for k in range(40):
        step = 0.01 * (k + 1)
        path = nj.trajectory(P, 0.1, algorithm=own_method(step), num_steps=1)
        np.testing.assert_allclose(path.step_size, step, err_msg=str(k))


@pytest.mark.parametrize(
    ("payoffs", "message"),
    [
        (
            lambda self, w: w.sum(0),
            r"Own.payoffs must be a query that answers weights of shape \[3\], .*, got shape \[\]\.",
        ),
        (lambda self, w: jnp.concatenate([w, w]), r"got shape \[6\]\."),
        (lambda self, w: w + jnp.ones(4), r"Own.payoffs must be able to answer weights of shape \[3\], got the error"),
    ],
)
def test_answers_of_the_wrong_shape_are_refused(payoffs, message):
    with pytest.raises(ValueError, match=message):
        nj.solve(own_game(payoffs), 0.1)


def test_a_game_written_for_one_policy_says_so_where_it_meets_more():
    game = own_game(lambda self, w: w.sum(0) / 2 + self.u * w.sum(0) - self.u @ w)
    assert nj.solve(game, 0.1).converged
    with pytest.raises(ValueError, match=r"Own.payoffs must be able to answer weights of shape \[3, 2\]"):
        nj.solve(game, jnp.array([0.1, 0.2]))


def test_what_is_missing_is_named():
    class Bare:
        def payoffs(self, weights):
            return weights

    with pytest.raises(TypeError, match=r"game must be .*, got .*\. Derive the class from nashjax\.Game\."):
        nj.solve(Bare(), 0.1)  # pyright: ignore[reportArgumentType]

    class Method:
        def init(self, problem, log_policy): ...

        def step(self, problem, state): ...

    even: Any = jnp.full((2, 2), 0.5)
    with pytest.raises(TypeError, match=r"algorithm must be .*, got .*\. Derive the class from nashjax\.Algorithm\."):
        nj.solve(even, 0.1, algorithm=Method())  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"Hidden\.has_matrix must be True, got False in a class with dense\(\)\."):
        type("Hidden", (nj.Game,), {"dense": lambda self: even})
    with pytest.raises(TypeError, match=r"Lacking\.has_matrix must be False, got True in a class without dense\(\)\."):
        type("Lacking", (nj.Game,), {"has_matrix": True})
    with pytest.raises(TypeError, match=r"Undeclared\.queries_per_step must be an integer, .*, got nothing\."):
        type("Undeclared", (nj.Algorithm,), {})

    class Unregistered(nj.Algorithm):
        queries_per_step = 1

        def init(self, problem, log_policy): ...

        def step(self, problem, state): ...

    with pytest.raises(TypeError, match=r"algorithm must be a pytree, got an instance of Unregistered\."):
        nj.solve(even, 0.1, algorithm=Unregistered())


def test_numpy_and_jax_arrays_share_a_program():
    P = np.full((2, 2), 0.5)
    assert Classes.of(nj.MatrixGame(P)) == Classes.of(nj.MatrixGame(jnp.asarray(P)))  # pyright: ignore
    assert Classes.of(own_game(ranked(1.0))) != Classes.of(own_game(ranked(1.0)))
