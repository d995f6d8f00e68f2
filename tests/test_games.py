import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import ShapedArray

import nashjax as nj
from nashjax.games import embedding, low_rank, random, transposable
from nashjax.games.faults import first_fault
from nashjax.games.random import KINDS


@pytest.fixture
def compiled_as_by_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what the other tests save of compilation (`tests/compilation.py`): exactness depends on it."""
    if "xla_cpu_use_fusion_emitters=false" in os.environ["XLA_FLAGS"]:
        drawn: Any = random._margin
        static = ("n", "batch", "kind", "rank")
        options = {"xla_cpu_use_fusion_emitters": True}
        compiled = jax.jit(drawn.__wrapped__, static_argnames=static, compiler_options=options)
        monkeypatch.setattr(random, "_margin", compiled)


@pytest.mark.usefixtures("compiled_as_by_users")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [2, 39])  # vectors of the processor in whole, and what is left
@pytest.mark.parametrize("kind", KINDS)
def test_generated_games_are_exact_and_reproducible(kind, n, dtype):
    with jax.enable_x64(dtype == "float64"):
        game = nj.games.random_game(jax.random.key(3), n, (4, 2), kind)
        again = nj.games.random_game(jax.random.key(3), n, (4, 2), kind)
        other = nj.games.random_game(jax.random.key(4), n, (4, 2), kind)
    P = np.asarray(game.preferences)
    assert P.dtype == dtype
    assert P.shape == (4, 2, n, n)
    assert (game.num_actions, game.batch_shape) == (n, (4, 2))
    # Exact in real numbers, not only after rounding: each margin is the other's negative.
    exact = P.astype(np.longdouble)
    assert (exact + np.swapaxes(exact, -1, -2) == 1).all()
    assert P.min() >= 0
    assert P.max() <= 1
    assert np.array_equal(P, again.preferences)
    assert np.array_equal(P, game.symmetrized().preferences)
    if not (kind == "cyclic" and n == 2):  # one possible game only
        assert not np.array_equal(P, other.preferences)
    assert bool(game.is_valid().all())


@pytest.mark.parametrize("batch", [(), (0,), (3,), (2, 2)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_key_gives_the_same_games_with_and_without_x64(kind, batch):
    found = []
    for x64 in (False, True):
        with jax.enable_x64(x64):
            found.append(np.asarray(nj.games.random_game(jax.random.key(5), 7, batch, kind, rank=3).preferences))
    single, double = found
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    assert single.shape == double.shape == (*batch, 7, 7)
    np.testing.assert_allclose(single, double, rtol=0, atol=1e-6)
    if kind in ("uniform", "tournament", "cyclic"):  # exact in float32
        np.testing.assert_array_equal(single, double)


@pytest.mark.parametrize("x64", [False, True])
def test_the_first_game_of_key_0(x64):
    with jax.enable_x64(x64):
        P = np.asarray(nj.games.random_game(jax.random.key(0), 3).preferences)
    assert P[0, 1] == pytest.approx(0.883, abs=5e-4)


def test_kinds_are_what_they_say():
    key = jax.random.key(0)

    def draw(kind, n, batch=(), **options):
        return np.asarray(nj.games.random_game(key, n, batch, kind, **options).preferences)

    upper = np.triu_indices(40, 1)
    gaussian = draw("gaussian", 40, (50,), scale=1.7)[:, *upper]
    logits = np.log(gaussian / (1 - gaussian))
    assert abs(logits.std() - 1.7) < 0.02
    assert abs(logits.mean()) < 0.04
    uniform = draw("uniform", 40, (50,))[:, *upper]
    assert abs(uniform.mean() - 0.5) < 0.01
    assert abs(uniform.var() - 1 / 12) < 0.001
    tournament = draw("tournament", 40, (50,))[:, *upper]
    assert set(np.unique(tournament)) == {0.0, 1.0}
    assert abs(tournament.mean() - 0.5) < 0.01
    for n in (3, 7, 8):
        cyclic = draw("cyclic", n)
        assert (np.sum(cyclic == 1, axis=1) == (n - 1) // 2).all()
        np.testing.assert_array_equal(cyclic.sum(1), n / 2)
    ranked = draw("bradley_terry", 12)
    logits = np.log(ranked / (1 - ranked))
    np.testing.assert_allclose(logits[0, 1] + logits[1, 2], logits[0, 2], rtol=1e-6)
    low = draw("low_rank", 30, rank=3)
    singular = np.linalg.svd(np.log(low / (1 - low)), compute_uv=False)
    assert singular[5] > 1e-2
    assert singular[6] < 1e-6 * singular[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_actions": 1}, "num_actions must be an integer >= 2, got 1"),
        ({"num_actions": 3.0}, "num_actions must be an integer >= 2, got 3.0"),
        ({"num_actions": 3, "batch_shape": 4}, "batch_shape must be a tuple of integers >= 0, got 4"),
        ({"num_actions": 3, "batch_shape": np.int64(4)}, "batch_shape must be a tuple of integers >= 0, got .*4"),
        ({"num_actions": 3, "batch_shape": (2, -1)}, r"batch_shape\[1\] must be an integer >= 0, got -1"),
        ({"num_actions": 3, "kind": "chess"}, "kind must be one of 'gaussian', 'uniform', .*, got 'chess'"),
        ({"num_actions": 3, "scale": -1.0}, "scale must be a finite number >= 0, got -1.0"),
        ({"num_actions": 3, "rank": 0, "kind": "low_rank"}, "rank must be an integer >= 1, got 0"),
        ({"num_actions": 3, "key": 0}, "key must be one jax random key, .*, got 0"),
    ],
)
def test_random_game_refuses(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        nj.games.random_game(**{"key": jax.random.key(0), **options})


def test_from_payoffs_records_its_units():
    rng = np.random.default_rng(0)
    A = rng.standard_normal((3, 5, 5)) * np.array([1, 10, 1000])[:, None, None]
    A = A - np.swapaxes(A, 1, 2)
    game = nj.MatrixGame.from_payoffs(A)
    P = np.asarray(game.preferences)
    np.testing.assert_allclose(np.abs(P - 0.5).max((1, 2)), 0.5, rtol=1e-15)
    p = rng.dirichlet(np.ones(5), 3)
    preferred = jnp.moveaxis(game.payoffs(jnp.array(p.T)), 0, -1)
    np.testing.assert_allclose(
        game.to_payoff_units(preference=preferred, per_action=True),
        np.einsum("bij,bj->bi", A, p),
        rtol=1e-12,
        atol=1e-12,
    )
    np.testing.assert_allclose(game.to_payoff_units(preference=jnp.full(3, 0.75)), np.abs(A).max((1, 2)) / 2)
    np.testing.assert_allclose(game.to_payoff_units(difference=jnp.full(3, 0.25)), np.abs(A).max((1, 2)) / 2)
    with pytest.raises(TypeError, match=r"got a positional argument\. Use difference= for an exploitability"):
        game.to_payoff_units(jnp.zeros(3))
    bounded = nj.MatrixGame.from_payoffs(A, bound=1e4)
    np.testing.assert_allclose(bounded.preferences, 0.5 + A / 2e4)
    np.testing.assert_array_equal(nj.MatrixGame.from_payoffs(np.zeros((2, 2))).preferences, 0.5)
    with pytest.raises(ValueError, match="game must be one with payoff units"):
        nj.MatrixGame(game.preferences).to_payoff_units(preference=jnp.array(0.5))


@pytest.mark.parametrize(
    ("A", "bound", "message"),
    [
        (
            [[0.0, 1.0], [1.0, 0.0]],
            None,
            r"payoffs\[0, 1\] must be -payoffs\[1, 0\], as in a skew-symmetric matrix, got 1.0 and 1.0\.",
        ),
        ([[0.0, np.nan], [1.0, 0.0]], None, r"payoffs\[0, 1\] must be a finite number, got nan"),
        ([[0.0, 2.0], [-2.0, 0.0]], 1.0, r"payoffs\[0, 1\] must be at most the bound .*, got 2.0"),
        ([[0.0, 2.0], [-2.0, 0.0]], -1.0, "bound must be a finite number > 0, got -1.0"),
        ([[0.0, 2.0]], None, r"payoffs must be a square matrix .*, got shape \[1, 2\]"),
    ],
)
def test_from_payoffs_refuses(A, bound, message):
    with pytest.raises(ValueError, match=message):
        nj.MatrixGame.from_payoffs(np.array(A), bound)


def test_a_matrix_game_is_checked_when_it_is_made():
    P = [[0.5, 0.9], [0.1, 0.5]]
    np.testing.assert_array_equal(nj.MatrixGame(P).preferences, P)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"preferences must be a square matrix .*, got shape \[2, 3\]"):
        nj.MatrixGame(np.ones((2, 3)))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="preferences must be an array of real numbers, got 'chess'"):
        nj.MatrixGame("chess")  # pyright: ignore[reportArgumentType]
    assert jax.vmap(lambda game: game.payoffs(jnp.ones(2)), (nj.MatrixGame(0),))(  # pyright: ignore
        nj.MatrixGame(jnp.array([P, P]))
    ).shape == (2, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_games_of_any_payoffs_are_preference_games(dtype):
    """The largest payoff, scaled in a compiled program, is not beyond 1/2 by its rounding."""
    A = np.random.default_rng(0).normal(size=(300, 4, 4)).astype(dtype)
    A = A - np.swapaxes(A, 1, 2)
    traced = jax.jit(lambda A: nj.MatrixGame.from_payoffs(A).preferences)(A)
    for P in (np.asarray(nj.MatrixGame.from_payoffs(A).preferences), np.asarray(traced)):
        assert P.dtype == dtype
        assert ((P >= 0) & (P <= 1)).all()
        assert (P + np.swapaxes(P, 1, 2) == 1).all()


def test_payoffs_may_leave_out_what_an_action_earns_against_itself():
    game = nj.MatrixGame.from_payoffs(np.array([[np.nan, 2.0], [-2.0, np.nan]]))
    np.testing.assert_array_equal(game.preferences, [[0.5, 1.0], [0.0, 0.5]])


def test_first_fault_names_the_entry():
    P = np.full((2, 3, 3), 0.5)
    assert first_fault(P) is None
    for entry, found in ((np.nan, "nan"), (np.inf, "inf"), (1.5, "1.5"), (-0.1, "-0.1")):
        bad = P.copy()
        bad[1, 0, 2] = entry
        fault = first_fault(bad)
        assert fault is not None
        assert (fault.index, fault.found) == ((1, 0, 2), found)
    bad = P.copy()
    bad[0, 0, 1] = 0.51
    bad[1, 2, 0] = 0.7  # the worst
    fault = first_fault(bad)
    assert fault is not None
    assert set(fault.index[1:]) == {0, 2}
    assert "0.7" in fault.found
    allowed = np.array([[True, True, True], [False, True, True]])
    assert first_fault(np.where(np.arange(3) == 0, np.nan, P)[1], allowed[1]) is None
    fault = first_fault(bad, allowed)
    assert fault is not None
    assert fault.index in ((0, 0, 1), (0, 1, 0))


def test_a_query_is_linear_broadcasts_and_asks_for_full_precision():
    game = nj.games.random_game(jax.random.key(0), 6, (4,), "gaussian")
    v = jax.random.normal(jax.random.key(1), (6, 4))
    np.testing.assert_allclose(game.payoffs(v), np.einsum("bij,jb->ib", game.preferences, v), rtol=1e-13)
    shared = nj.MatrixGame(game.preferences[0])
    np.testing.assert_allclose(shared.payoffs(v), shared.preferences @ v, rtol=1e-13)
    large = nj.games.random_game(jax.random.key(0), 40, (4,), "gaussian")  # fewer actions are queried without products
    for lowered in (
        jax.jit(lambda g, v: g.payoffs(v)).lower(game, v),
        jax.jit(lambda P: nj.solve(P, 0.1)).lower(large.preferences),
        jax.jit(lambda P: nj.solve(P, 0.1, algorithm=nj.NashMP())).lower(game.preferences[0]),
    ):
        products = [line for line in lowered.as_text().splitlines() if "dot_general" in line]
        assert products
        assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)
    newton = jax.jit(lambda P: nj.solve(P, 0.1, algorithm=nj.Newton())).lower(large.preferences)
    text = newton.as_text()
    # A factorization in the dtype of the game; what product it has outside of that asks for full precision too.
    assert "lapack_dgetrf" in text
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_one_matrix_with_many_betas_is_a_matrix_product_without_copies():
    P = nj.games.random_game(jax.random.key(0), 50).preferences
    for shape in ((50, 50), (1, 50, 50)):
        text = jax.jit(lambda P, b: nj.solve(P, b)).lower(P.reshape(shape), jnp.full(256, 0.1)).as_text()
        assert "256x50x50" not in text


@pytest.mark.parametrize("kind", ["embedding", "low rank"])
def test_a_query_that_sums_in_steps_has_a_transpose_in_every_jax(monkeypatch, kind):
    """Before jax 0.10 a query is the derivative of itself, see `transposable`."""
    monkeypatch.setitem(embedding.TILE, "cpu", 2)
    monkeypatch.setattr(low_rank, "CHUNK", 2)
    rng = np.random.default_rng(0)
    x, y, v, w = rng.normal(size=(5, 4)), rng.normal(size=(5, 4)), rng.normal(size=5), rng.normal(size=5)
    turn = np.kron(np.eye(2), [[0.0, 1.0], [-1.0, 0.0]])
    if kind == "embedding":
        game = nj.games.EmbeddingGame(jnp.asarray(x), jnp.asarray(turn))
        P = 1 / (1 + np.exp(-x @ turn @ x.T))
    else:
        game = nj.games.LowRankGame(jnp.asarray(x), jnp.asarray(y))
        P = 0.5 + x @ y.T - y @ x.T
    found = {True: jax.linear_transpose(game.payoffs, v)} if transposable.TRANSPOSES_SCANS else {}
    monkeypatch.setattr(transposable, "TRANSPOSES_SCANS", False)
    found[False] = jax.linear_transpose(game.payoffs, v)
    np.testing.assert_allclose(game.payoffs(jnp.asarray(v)), P @ v, atol=1e-13)
    for transpose in found.values():
        np.testing.assert_allclose(transpose(jnp.asarray(w))[0], P.T @ w, atol=1e-13)


def test_games_derive_from_the_base_class():
    class Wrapped(nj.Game):
        num_actions, batch_shape = 3, ()  # pyright: ignore

        def payoffs(self, weights):
            return weights

    assert not Wrapped().has_matrix
    assert Wrapped().is_valid().all()
    with pytest.raises(NotImplementedError, match="Wrapped has no matrix"):
        Wrapped().dense()
    assert not isinstance(ShapedArray((3, 3), np.dtype("float32")), nj.Game)
