"""Solves under `jax.vmap` are those of a batch, and end."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scripts import run_script
from test_own_classes import own_game, ranked

import nashjax as nj

GAMES = np.asarray(nj.games.random_game(jax.random.key(0), 4, (3,)).preferences)
REFERENCES = np.random.default_rng(0).dirichlet(np.ones(4), 2)
BETAS = np.array([0.05, 0.1, 0.3])
FIRST_ORDER = {"algorithm": nj.AdaptiveNashMP(), "tol": 1e-12}  # quick to compile


def policy(P, beta, reference):
    return nj.solve(P, beta, reference=reference, **FIRST_ORDER).policy


def test_mapped_games_are_solved_at_beta_0():
    mapped = jax.jit(jax.vmap(lambda P: nj.solve(P, 0.0).policy))(GAMES)
    assert (np.einsum("bij,bj->bi", GAMES, mapped).max(-1) <= 0.5 + 1e-9).all()
    np.testing.assert_allclose(mapped.sum(-1), 1, rtol=1e-9)


def test_a_mapped_axis_of_any_argument_is_a_batch_axis():
    expected = nj.solve(GAMES[:, None, None], BETAS[:, None], reference=REFERENCES, **FIRST_ORDER).policy
    over_references = jax.vmap(policy, (None, None, 0))
    over_all = jax.vmap(jax.vmap(over_references, (None, 0, None)), (0, None, None))
    np.testing.assert_allclose(jax.jit(over_all)(GAMES, BETAS, REFERENCES), expected, atol=1e-9)


def test_a_mapped_axis_stands_before_the_batch_axes():
    shared = nj.MatrixGame.from_payoffs(2 * GAMES - 1, bound=1.0)
    mapped = jax.jit(jax.vmap(lambda game: policy(game, BETAS, REFERENCES[:, None])))(shared)
    expected = nj.solve(GAMES[:, None, None], BETAS, reference=REFERENCES[:, None], **FIRST_ORDER).policy
    np.testing.assert_allclose(mapped, expected, atol=1e-9)


def test_the_gradient_of_mapped_solves_is_the_mapped_gradient():
    def value(P, beta):
        return policy(P, beta, None)[..., 0]

    mapped = jax.jit(jax.vmap(jax.grad(value), (0, None)))(GAMES, 0.1)
    whole = jax.jit(jax.grad(lambda P: jnp.sum(jax.vmap(value, (0, None))(P, 0.1))))(GAMES)
    batch = jax.jit(jax.grad(lambda P: jnp.sum(value(P, 0.1))))(GAMES)
    np.testing.assert_allclose(mapped, batch, atol=1e-12)
    np.testing.assert_allclose(whole, batch, atol=1e-12)
    step = 1e-4 * (np.eye(4)[0][:, None] * np.eye(4)[1] - np.eye(4)[1][:, None] * np.eye(4)[0])
    difference = (value(GAMES + step, 0.1) - value(GAMES - step, 0.1)) / 2e-4
    np.testing.assert_allclose(batch[:, 0, 1] - batch[:, 1, 0], difference, rtol=1e-4)


def test_mapped_embedding_games_share_what_is_not_mapped():
    features = np.random.default_rng(1).normal(size=(3, 5, 2))
    skew = np.array([[0.0, 1.5], [-1.5, 0.0]])

    def exploitability(x):
        return nj.solve(nj.games.EmbeddingGame(x, jnp.asarray(skew)), 0.1, **FIRST_ORDER).exploitability

    assert (jax.jit(jax.vmap(exploitability))(features) <= 1e-12).all()


def test_games_of_other_classes_and_hyper_parameters_are_mapped_one_by_one():
    game = own_game(ranked(1.0))
    scaled = jax.tree.map(lambda u: jnp.stack([u, 2 * u]), game)
    found = jax.vmap(lambda game: policy(game, 0.1, None))(scaled)
    for k in range(2):
        alone = policy(jax.tree.map(lambda u, k=k: u[k], scaled), 0.1, None)
        np.testing.assert_allclose(found[k], alone, atol=1e-6)
    queries = jax.vmap(lambda eta: nj.solve(GAMES[0], 0.1, algorithm=nj.NashMP(eta=eta)).queries)(jnp.array([0.1, 0.2]))
    assert queries[0] > queries[1]


def test_only_the_units_of_the_payoffs_are_mapped():
    found = jax.vmap(lambda scale: policy(nj.MatrixGame(GAMES[0], scale), 0.1, None))(jnp.ones(2))
    np.testing.assert_allclose(found, np.stack([policy(GAMES[0], 0.1, None)] * 2), atol=1e-9)


def test_hyper_parameters_have_derivatives_of_0():
    def value(beta, eta):
        return nj.solve(GAMES[0], beta, algorithm=nj.NashMP(eta=eta), tol=1e-12).policy[0]

    alone = jax.grad(value)(0.1, 0.2)
    tied = jax.jit(jax.grad(lambda beta: value(beta, 2 * beta)))(0.1)
    np.testing.assert_allclose(tied, alone, rtol=1e-6)
    assert jax.grad(value, argnums=1)(0.1, 0.2) == 0


def test_a_mapped_path_is_the_path_of_a_batch():
    path = functools.partial(nj.solve_path, betas=BETAS[::-1], **FIRST_ORDER)
    mapped = jax.jit(jax.vmap(lambda P: path(P).policy))(GAMES)
    np.testing.assert_allclose(mapped, np.swapaxes(path(GAMES).policy, 0, 1), atol=1e-9)


def test_many_mapped_games_are_solved():
    """With kernels for many matrices, this waited forever on two cores."""
    script = """
        import jax, nashjax as nj
        games = nj.games.random_game(jax.random.key(0), 10, (4096,)).preferences
        solve = jax.jit(jax.vmap(lambda P: nj.solve(P, 0.0, algorithm=nj.InteriorPoint()).converged))
        print(solve(games).mean() > 0.99)
    """
    assert run_script(script, 200) == "True\n"


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="only the kernels of processors wait for each other")
@pytest.mark.parametrize(
    ("n", "mapped"),
    [
        (20, lambda P: nj.solve(P, 0.0).policy),
        (4, lambda P: nj.solve(P, 0.0, algorithm=nj.InteriorPoint()).policy),
        (20, lambda P: nj.trajectory(P, 0.1, algorithm=nj.Newton(), num_steps=2).log_policy),
        (4, jax.hessian(lambda P: nj.solve(P, 0.1, algorithm=nj.NashMP()).policy[0])),
        (20, lambda P: nj.metrics.uniqueness(P, np.full(len(P), 1 / len(P))).margin),
    ],
    ids=["default", "interior point", "trajectory", "hessian", "uniqueness"],
)
def test_no_mapped_program_has_a_kernel_for_many_matrices(n, mapped):
    """Two such kernels in one program wait for each other forever (jaxlib 0.10 and 0.11)."""
    games = jax.ShapeDtypeStruct((64, n, n), jnp.float32)
    text = jax.jit(jax.vmap(mapped)).lower(games).as_text()
    calls = re.findall(r"@lapack_\w+\(.*?\) .*?: \((.*?)\) ->", text)
    kernels = re.findall(r"@(lapack_\w+)", text)
    assert len(kernels) == len(calls)
    shapes = [re.findall(r"tensor<([\dx]+)xf32>", call) for call in calls]
    assert all(len(shape.split("x")) <= 2 for call in shapes for shape in call), list(zip(kernels, shapes, strict=True))
