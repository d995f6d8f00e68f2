"""Arguments of a solve that are wrong, or not quite what was meant."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj

GOOD = np.array([[0.5, 0.7, 0.2], [0.3, 0.5, 0.9], [0.8, 0.1, 0.5]])


def changed(index: tuple[int, ...], value: float) -> np.ndarray:
    P = np.stack([GOOD, GOOD])
    P[index] = value
    return P


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"game": np.full((2, 3), 0.5)},
            r"game must be a square matrix \[\.\.\., n, n\] with n >= 2, got shape \[2, 3\]\.",
        ),
        ({"game": np.full((1, 1), 0.5)}, r"game must be a square matrix .*, got shape \[1, 1\]\."),
        ({"game": np.array(0.5)}, r"got shape \[\]\."),
        (
            {"game": changed((1, 0, 2), np.nan)},
            r"^game.preferences\[1, 0, 2\] must be a finite probability, got nan\.$",
        ),
        (
            {"game": changed((1, 0, 2), 1.2)},
            r"game.preferences\[1, 0, 2\] must be a probability in \[0, 1\], got 1.2\.$",
        ),
        (
            {"game": changed((0, 1, 2), 0.8)},
            r"preferences\[0, 1, 2\] must satisfy P\[i, j\] \+ .*, got 0.8, and 0.1 at the mirrored entry\.$",
        ),
        ({"beta": -0.1}, r"^beta must be finite and >= 0, got -0.1\.$"),
        ({"beta": [0.1, np.nan]}, r"beta\[1\] must be finite and >= 0, got nan\."),
        ({"beta": 1e-320}, r"beta must be 0 or, in float64, 2.23e-308 to .*, got 1e-320\."),
        ({"tol": -1e-3}, r"tol must be a number >= 0 and, in float64, <= 1.8e\+308, got -0.001\."),
        ({"max_queries": 0}, "max_queries must be an integer from 1 to .*, got 0"),
        ({"max_queries": 10**12}, "max_queries must be an integer from 1 to 2147483647, got 1000000000000"),
        ({"game": [[0.5, 0.2], [0.8]]}, "game must be an array of real numbers, rows of equal length"),
        ({"beta": 1e39, "game": GOOD.astype(np.float32)}, "beta must be 0 or, in float32, .*, got 1e[+]39"),
        ({"reference": [0.5, 0.5, 1e-320]}, r"reference\[2\] must be 0 or, in float64, .*, got 1e-320"),
        ({"block_size": 0}, "block_size must be an integer from 1 to .*, got 0"),
        (
            {"reference": [0.5, 0.5]},
            r"reference must be an array \[..., 3\] with a probability for each action, got shape \[2\]",
        ),
        ({"reference": [0.5, 0.6, -0.1]}, r"reference\[2\] must be a probability >= 0, got -0.1"),
        ({"reference": [0.0, 0.0, 0.0]}, "reference must be probabilities that sum to 1 within 1e-06, got the sum 0.0"),
        ({"reference": [[0.5, 0.5, 0.0], [0.5, 0.4, 0.0]]}, r"reference\[1\] must be .*, got the sum 0.9"),
        ({"initial": [0.5, np.nan, 0.5]}, r"initial\[1\] must be a probability >= 0, got nan"),
        (
            {"beta": [0.1] * 3, "game": changed((0, 0, 0), 0.5)},
            r"batch shapes must be shapes that broadcast with each other, got game \[2\], beta \[3\]\.",
        ),
    ],
)
def test_a_wrong_value_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        nj.solve(**{"game": GOOD, "beta": 0.1, "algorithm": nj.NashMP(), **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": "high"}, "beta must be real numbers, got 'high'."),
        ({"beta": "0.1"}, "beta must be real numbers, got '0.1'."),
        ({"beta": None}, "beta must be real numbers, got None."),
        ({"block_size": 2.0}, "block_size must be an integer from 1 to 2147483647, got 2.0."),
        (
            {"algorithm": nj.NashMP},
            "algorithm must be an instance of an algorithm, such as nashjax.NashMP(), got <class",
        ),
        ({"algorithm": "nash"}, "such as nashjax.NashMP(), got 'nash'."),
        ({"game": "foo.csv"}, "game must be an array of real numbers, got 'foo.csv'."),
        ({"game": None}, "game must be an array of real numbers, got None."),
        ({"game": [["a", "b"], ["c", "d"]]}, "game must be an array of real numbers, got dtype <U1."),
        ({"game": np.full((2, 2), 0.5 + 0j)}, "game must be an array of real numbers, got dtype complex128."),
    ],
)
def test_a_wrong_type_is_named(arguments, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        nj.solve(**{"game": GOOD, "beta": 0.1, "algorithm": nj.NashMP(), **arguments})


@pytest.mark.parametrize(
    ("game", "advice"),
    [
        (2 * GOOD - 1, "For a skew-symmetric payoff matrix, use MatrixGame.from_payoffs."),
        (100 * GOOD, "Divide percentages by 100."),
        (np.array([[0.0, 3.0], [1.0, 0.0]]), "For a matrix of win counts, divide by wins + wins.T."),
    ],
)
def test_what_looks_like_another_kind_of_matrix_is_told_where_to_go(game, advice):
    with pytest.raises(ValueError, match=re.escape(advice) + "$"):
        nj.solve(game, 0.1, algorithm=nj.NashMP())


@pytest.mark.parametrize("diagonal", [np.nan, 0.0, 1.0])
def test_the_diagonal_may_hold_anything(diagonal):
    P = GOOD.copy()
    np.fill_diagonal(P, diagonal)
    expected = nj.solve(GOOD, 0.1, algorithm=nj.NashMP()).policy
    np.testing.assert_array_equal(nj.solve(P, 0.1, algorithm=nj.NashMP()).policy, expected)
    found = jax.jit(lambda P: nj.solve(P, 0.1, algorithm=nj.NashMP()).policy)(P)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_is_symmetrized_within_its_own_rounding(dtype):
    P = np.array([[0.5, 0.7, 0.4], [0.3, 0.5, 0.9], [0.6, 0.1, 0.5]])
    rounded = P.astype(dtype)
    assert np.abs(rounded.astype(float) + rounded.astype(float).T - 1).max() > 1e-5
    found = nj.solve(rounded, 0.1, algorithm=nj.NashMP())
    assert found.policy.dtype == np.float32
    expected = nj.solve(P, 0.1, algorithm=nj.NashMP()).policy
    np.testing.assert_allclose(found.policy, expected, atol=0.01)
    wrong = rounded.copy()
    wrong[0, 1] = float(wrong[0, 1]) + 0.05
    with pytest.raises(ValueError, match=r"game.preferences\[(0, 1|1, 0)\] must satisfy"):
        nj.solve(wrong, 0.1, algorithm=nj.NashMP())


def test_a_solution_in_place_of_an_array_says_pass_its_policy():
    solution = nj.solve(GOOD, 0.1, algorithm=nj.NashMP())
    for call in (
        lambda: nj.solve(GOOD, 0.1, reference=solution),  # pyright: ignore[reportArgumentType]
        lambda: nj.metrics.entropy(solution),  # pyright: ignore[reportArgumentType]
        lambda: nj.metrics.exploitability(GOOD, solution, 0.1),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(TypeError, match=r"must be an array, got a Solution\. Pass its \.policy\.$"):
            call()
    with pytest.raises(TypeError, match=r"log_policy must be an array, got a Solution\. Pass its \.log_policy\.$"):
        nj.metrics.span(solution, solution)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"game must be an array, got a Solution\.$"):
        nj.solve(solution, 0.1)  # pyright: ignore[reportArgumentType]


def test_lists_are_games_inside_a_trace_too():
    found = jax.jit(lambda P: nj.solve(P, 0.1, algorithm=nj.NashMP()).policy)(GOOD.tolist())
    np.testing.assert_allclose(found, nj.solve(GOOD, 0.1, algorithm=nj.NashMP()).policy, atol=1e-12)
    with pytest.raises(ValueError, match="game must be an array of real numbers, rows of equal length"):
        jax.jit(nj.solve)([[0.5, 0.2], [0.8]], 0.1)


def test_policies_of_numpy_solutions_are_numpy_in_the_same_dtype():
    """Also where jax has no float64: then float64 leaves come from files, pickles and `jax.device_get`."""
    solution = nj.distributed.gather(nj.solve(GOOD, 0.1, algorithm=nj.NashMP()))
    with jax.enable_x64(False):
        policy = solution.policy
    assert isinstance(policy, np.ndarray)
    assert policy.dtype == np.float64
    np.testing.assert_array_equal(policy, np.exp(solution.log_policy))


def test_almost_complementary_matrices_are_made_exact():
    noisy = GOOD + 4e-7 * np.random.default_rng(0).uniform(-1, 1, (3, 3)) * (1 - np.eye(3))
    exact = 0.5 + (noisy - noisy.T) / 2
    found, expected = (nj.solve(P, 0.1, algorithm=nj.NashMP(), tol=1e-15).policy for P in (noisy, exact))
    np.testing.assert_allclose(found, expected, atol=1e-15)
