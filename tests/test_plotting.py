"""Pictures hold the numbers they are made of, on the axes they were given."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

mpl = pytest.importorskip("matplotlib", reason="needs the extra `plot`")
mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

import nashjax as nj  # noqa: E402
from nashjax import plotting  # noqa: E402

RPS = np.array([[0.5, 0.1, 0.8], [0.9, 0.5, 0.3], [0.2, 0.7, 0.5]])
CORNERS = np.array([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def paths() -> dict[str, nj.Trajectory]:
    start = np.array([0.8, 0.1, 0.1])
    methods = {"Nash-MP": nj.NashMP(), "mirror descent": nj.OnlineMirrorDescent()}
    return {k: nj.trajectory(RPS, 0.1, algorithm=m, num_steps=20, initial=start) for k, m in methods.items()}


def test_convergence_shows_the_numbers_and_the_bound(paths: dict[str, nj.Trajectory]):
    ax = plt.subplots()[1]
    assert plotting.convergence(paths, beta=0.1, ax=ax) is ax
    first, second, bound = ax.get_lines()
    for line, path in ((first, paths["Nash-MP"]), (second, paths["mirror descent"])):
        np.testing.assert_allclose(line.get_xdata(), path.queries)
        np.testing.assert_allclose(line.get_ydata(), path.exploitability)
    N, y = (np.asarray(x) for x in bound.get_data())
    np.testing.assert_allclose(y, float(paths["Nash-MP"].exploitability[0]) * 1.2 ** (-N / 2))
    assert ax.get_yscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("queries", "exploitability")


def test_the_divergence_stays_below_the_bound(paths: dict[str, nj.Trajectory]):
    policy = nj.solve(RPS, 0.1, tol=1e-14).policy
    ax = plotting.convergence({"Nash-MP": paths["Nash-MP"]}, beta=0.1, equilibrium=policy)
    line, bound = ax.get_lines()
    N, y = (np.asarray(x) for x in bound.get_data())
    values = np.asarray(line.get_ydata())
    assert (values <= 1.21 * np.interp(np.asarray(line.get_xdata()), N, y) + 1e-12).all()
    assert values[0] == pytest.approx(float(nj.metrics.kl_divergence(policy, np.array([0.8, 0.1, 0.1]))))


def test_several_games_are_shown_by_their_median():
    games = np.stack([RPS, 0.5 + (RPS - 0.5) / 2, np.full((3, 3), 0.5)])
    path = nj.trajectory(games, 0.1, algorithm=nj.NashMP(), num_steps=5, initial=np.array([0.8, 0.1, 0.1]))
    (line,) = plotting.convergence({"x": path}).get_lines()
    np.testing.assert_allclose(line.get_ydata(), np.median(np.asarray(path.exploitability), axis=0))


def test_the_simplex_shows_paths_and_the_equilibrium_where_they_are(paths: dict[str, nj.Trajectory]):
    ax = plotting.simplex_dynamics(RPS, 0.1, paths, labels=["rock", "paper", "scissors"])
    lines = {str(line.get_label()): np.array(line.get_data()).T for line in ax.get_lines()}
    np.testing.assert_allclose(lines["Nash-MP"], np.exp(paths["Nash-MP"].log_policy) @ CORNERS, atol=1e-12)
    np.testing.assert_allclose(lines["equilibrium"], [np.asarray(nj.solve(RPS, 0.1).policy) @ CORNERS], atol=1e-9)
    assert {text.get_text() for text in ax.texts} == {"rock", "paper", "scissors"}
    (arrows,) = [c for c in ax.collections if isinstance(c, mpl.quiver.Quiver)]
    # Near the first corner rock is played; paper beats it, so the arrow leads towards the second.
    nearest = int(np.argmin(np.linalg.norm(np.asarray(arrows.get_offsets()), axis=1)))
    assert np.asarray(arrows.U)[nearest] > 0.9


def test_the_heat_map_leaves_out_what_was_never_compared():
    counts = np.array([[0, 3, 0], [3, 0, 2], [0, 2, 0]])
    ax = plotting.preference_heatmap(RPS, items=["a", "b", "c"], comparisons=counts)
    shown = ax.get_images()[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), [[False, False, True], [False] * 3, [True, False, False]])
    assert [patch.get_hatch() for patch in ax.patches] == ["///", "///"]
    assert sorted(text.get_text() for text in ax.texts) == sorted(
        ["0.50", "0.10", "0.90", "0.50", "0.30", "0.70", "0.50"]
    )
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "b", "c"]


def test_the_path_along_beta():
    betas = np.array([1, 0.1, 0.01, 0])
    solution = nj.solve_path(RPS, betas)
    ax = plotting.equilibrium_path(betas, solution.policy, items=["a", "b", "c"], top=2)
    policy = np.asarray(solution.policy)
    order = np.argsort(-policy.max(axis=0))
    for line, i in zip(ax.get_lines(), order[:2], strict=False):
        np.testing.assert_allclose(line.get_ydata(), policy[:, i])
        assert line.get_label() == "abc"[i]
    assert ax.get_lines()[2].get_label() == "1 others"
    np.testing.assert_allclose(ax.get_lines()[2].get_ydata(), policy[:, order[2]])
    left, right = ax.get_xlim()
    assert left > right  # beta falls
    assert "0" in [tick.get_text() for tick in ax.get_xticklabels()]


def test_intervals_stand_in_the_order_given():
    ax = plotting.ranking_intervals(["x", "y", "z"], [3, 2, 1], [2, 1, 0], [4, 3, 2], top=2)
    (segments,) = ax.collections
    np.testing.assert_allclose([s[:, 0] for s in segments.get_segments()], [[2, 4], [1, 3]])  # pyright: ignore
    np.testing.assert_allclose(ax.get_lines()[0].get_xdata(), [3, 2])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["x", "y"]
    bottom, top = ax.get_ylim()
    assert bottom > top  # the first item is on top


def test_lines_differ_without_colours(paths: dict[str, nj.Trajectory]):
    many = {str(k): paths["Nash-MP"] for k in range(20)}
    styles = [(line.get_linestyle(), line.get_marker()) for line in plotting.convergence(many).get_lines()]
    assert len(set(styles)) == 20


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no trajectory": (lambda: plotting.convergence({}), "trajectories: is empty"),
    "four actions": (lambda: plotting.simplex_dynamics(np.full((4, 4), 0.5), 0.1), "game: has shape \\[4, 4\\]"),
    "not square": (lambda: plotting.preference_heatmap(np.ones((2, 3))), "preferences: has shape \\[2, 3\\]"),
    "items": (lambda: plotting.preference_heatmap(RPS, items=["a"]), "items: has length 1; allowed is 3"),
    "betas": (lambda: plotting.equilibrium_path([0.1, 0.2], np.full((2, 3), 1 / 3)), "betas: increase"),
    "policies": (lambda: plotting.equilibrium_path([0.1], np.full((2, 3), 1 / 3)), "policies: has shape"),
    "lengths": (lambda: plotting.ranking_intervals(["a"], [1, 2], [1], [1]), "value, low, high: have shapes"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_drawn(kind: str):
    call, message = BAD[kind]
    with pytest.raises(ValueError, match=message):
        call()


def test_the_library_does_not_import_matplotlib():
    asked = "nashjax.plotting; assert 'matplotlib' in sys.modules"
    code = f"import sys, nashjax; assert 'matplotlib' not in sys.modules; {asked}"
    subprocess.run([sys.executable, "-c", code], check=True)
