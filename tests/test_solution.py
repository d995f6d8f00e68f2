"""`Solution`: indexing, conversion, and the report of games that have not converged."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj

GAMES = nj.games.random_game(jax.random.key(0), 4, (2, 3)).preferences
BATCH = nj.solve(GAMES, 0.1, algorithm=nj.NashMP())


def test_indices_select_games():
    assert len(BATCH) == 2
    assert BATCH[1].policy.shape == (3, 4)
    assert BATCH[1, 2].policy.shape == (4,)
    assert BATCH[:, 1:].policy.shape == (2, 2, 4)
    assert BATCH[..., 0].policy.shape == (2, 4)
    np.testing.assert_array_equal(BATCH[..., 2].policy, BATCH.policy[:, 2])
    np.testing.assert_array_equal(BATCH[np.array([[True, False, True], [False] * 3])].policy, BATCH.policy[0, [0, 2]])
    assert [row.policy.shape for row in BATCH] == [(3, 4), (3, 4)]
    np.testing.assert_array_equal([one.exploitability for one in BATCH[1]], BATCH.exploitability[1])
    beyond: list[Any] = [2, -3, np.int64(2), (0, 3), (2,), np.array([0, 2]), jnp.array([5]), (Ellipsis, 3), (0, 0, 0)]
    for index in beyond:
        with pytest.raises(IndexError):
            BATCH[index]
    assert BATCH[jnp.array([1, 0])].policy.shape == (2, 3, 4)
    assert jax.jit(lambda i: BATCH[i].policy)(1).shape == (3, 4)
    with pytest.raises(TypeError, match="one game cannot be indexed"):
        BATCH[0, 0][0]
    with pytest.raises(TypeError, match="one game has no length"):
        len(BATCH[0, 0])


def test_conversions_keep_every_number():
    found = BATCH.to_dict()
    assert list(found) == ["policy", "log_policy", "exploitability", "kl_bound", "queries", "steps", "status"]
    assert all(type(array) is np.ndarray for array in found.values())
    np.testing.assert_array_equal(found["policy"], BATCH.policy)
    assert isinstance(BATCH.to_numpy().log_policy, np.ndarray)


def test_a_data_frame_has_a_row_for_each_game():
    pd = pytest.importorskip("pandas", reason="to_pandas needs the extra rank")
    table = BATCH.to_pandas(items=["a", "b", "c", "d"])
    np.testing.assert_array_equal(table[["a", "b", "c", "d"]].to_numpy(), np.asarray(BATCH.policy).reshape(6, 4))
    assert table.loc[(1, 2), "status"] == "CONVERGED"
    assert list(BATCH[0].to_pandas().index) == [0, 1, 2]
    assert isinstance(BATCH[0, 0].to_pandas(), pd.DataFrame)
    with pytest.raises(ValueError, match="items must be 4 names, one for each action, got 2"):
        BATCH.to_pandas(items=["a", "b"])


def test_games_that_have_not_converged_are_counted_and_explained():
    assert "All 6 games converged." in repr(BATCH)
    cut = nj.solve(GAMES, 0.001, algorithm=nj.NashMP(), max_queries=5)
    assert "0 of 6 games converged. 6 MAX_QUERIES, the first at index [0, 0]: " in repr(cut)
    assert "Try a larger max_queries" in repr(cut[0, 0])
    assert "not computed" in jax.eval_shape(lambda P: nj.solve(P, 0.1, algorithm=nj.NashMP()), GAMES).__repr__()


@pytest.mark.parametrize("verb", [nj.solve, lambda P, beta, **options: nj.solve_path(P, jnp.array([beta]), **options)])
def test_throw_raises_with_the_solution(verb):
    options = {"algorithm": nj.NashMP(), "throw": True}
    assert verb(GAMES, 0.1, **options).converged.all()
    with pytest.raises(nj.NotConverged, match="0 of 6 games converged") as raised:
        verb(GAMES, 0.001, max_queries=5, **options)
    assert np.isfinite(raised.value.solution.exploitability).all()
    found = jax.jit(lambda P: verb(P, 0.001, max_queries=5, **options).status)(GAMES)
    assert (found == nj.Status.MAX_QUERIES).all()


def test_raise_for_status_returns_what_has_converged():
    assert BATCH.raise_for_status() is BATCH
    with pytest.raises(nj.NotConverged, match="MAX_QUERIES"):
        nj.solve(GAMES[0, 0], 0.001, algorithm=nj.NashMP(), max_queries=5).raise_for_status()
    assert jnp.all(BATCH.converged)
