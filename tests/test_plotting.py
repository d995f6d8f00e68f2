"""Pictures show the numbers that they are given, also in black and white.

One file, though long: all pictures are looked at by the same functions.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

import nashjax as nj

pytest.importorskip("matplotlib", reason="needs the extra `plot`")

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D
from matplotlib.quiver import Quiver

from nashjax import plotting

CYCLE = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.8], [0.8, 0.2, 0.5]])
BETA = 0.1


@pytest.fixture
def ax() -> Iterator[Axes]:
    figure, axes = plt.subplots()
    yield axes
    figure.canvas.draw()  # what cannot be drawn raises here
    plt.close("all")


@pytest.fixture(scope="module")
def batch() -> nj.MatrixGame:
    return nj.games.random_game(jax.random.key(1), 5, (3,))


@pytest.fixture(scope="module")
def paths(batch: nj.MatrixGame) -> dict[str, nj.Trajectory]:
    methods = {"fixed": nj.NashMP(), "adaptive": nj.AdaptiveNashMP()}
    return {name: nj.trajectory(batch, BETA, algorithm=method, num_steps=12) for name, method in methods.items()}


def line(ax: Axes, label: str) -> Line2D:
    return next(line for line in ax.get_lines() if line.get_label() == label)


def data(ax: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    drawn = line(ax, label)
    return np.asarray(drawn.get_xdata()), np.asarray(drawn.get_ydata())


def merged(good: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    return good | change


def styles(ax: Axes) -> list[tuple[object, object]]:
    return [(line.get_linestyle(), line.get_marker()) for line in ax.get_lines() if str(line.get_label())[0] != "_"]


def test_importing_the_package_leaves_matplotlib_alone():
    code = "import sys, nashjax; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_matplotlib_the_error_names_the_extra():
    code = "import sys; sys.modules['matplotlib'] = None; from nashjax import plotting"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith('python -m pip install "nashjax[plot]"')


def test_neither_settings_nor_backend_are_changed(ax: Axes):
    code = """
import matplotlib
before, backend = dict(matplotlib.rcParams), matplotlib.get_backend(auto_select=False)
from nashjax import plotting
same = all(matplotlib.rcParams[name] == value for name, value in before.items() if name != "backend")
print(same, matplotlib.get_backend(auto_select=False) == backend)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
    before = dict(matplotlib.rcParams)
    plotting.preference_heatmap(CYCLE, ax=ax)
    plotting.simplex_dynamics(CYCLE, BETA)
    assert dict(matplotlib.rcParams) == before


def test_every_function_makes_axes_of_its_own_where_none_are_given(paths: dict[str, nj.Trajectory]):
    plt.close("all")
    drawn = [
        plotting.convergence(paths),
        plotting.simplex_dynamics(CYCLE, BETA),
        plotting.preference_heatmap(CYCLE),
        plotting.equilibrium_path([0.1, 0.01], np.full((2, 3), 1 / 3)),
        plotting.ranking_intervals("ab", [2, 1], [1, 0], [3, 2]),
    ]
    assert all(isinstance(ax, Axes) for ax in drawn)
    assert [ax.figure for ax in drawn] == [plt.figure(number) for number in plt.get_fignums()]
    plt.close("all")


class TestConvergence:
    def test_one_game_is_drawn_as_it_was_recorded(self, ax: Axes):
        path = nj.trajectory(CYCLE, BETA, algorithm=nj.AdaptiveNashMP(), num_steps=9)
        assert plotting.convergence({"method": path}, ax=ax) is ax
        queries, values = data(ax, "method")
        np.testing.assert_array_equal(queries, path.queries)
        np.testing.assert_array_equal(values, path.exploitability)
        assert (ax.get_yscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "queries N", "exploitability")

    def test_of_a_batch_the_median_of_what_is_reached_is_drawn(self, ax: Axes, paths: dict[str, nj.Trajectory]):
        plotting.convergence(paths, ax=ax)
        for name, path in paths.items():
            counts, measured = np.asarray(path.queries), np.asarray(path.exploitability)
            queries, values = data(ax, name)
            assert queries[-1] == counts[:, -1].min()
            for number, value in zip(queries, values, strict=True):
                reached = [measured[game, counts[game] <= number][-1] for game in range(3)]
                assert value == sorted(reached)[1]

    def test_the_divergence_is_that_from_the_equilibrium(self, ax: Axes, batch: nj.MatrixGame):
        star = np.asarray(nj.solve(batch, BETA, tol=1e-14).policy)
        path = nj.trajectory(batch, BETA, algorithm=nj.NashMP(), num_steps=12)
        plotting.convergence({"fixed": path}, measure="kl", equilibrium=star, beta=BETA, ax=ax)
        kl = np.sum(star[:, None] * (np.log(star)[:, None] - np.asarray(path.log_policy)), axis=-1)
        values = data(ax, "fixed")[1]
        np.testing.assert_allclose(values, np.median(kl, axis=0), rtol=1e-6, atol=1e-14)
        assert (values <= data(ax, "(1 + 2 beta)^(-N/2)")[1] * (1 + 1e-6)).all()  # what the theory promises

    @pytest.mark.parametrize("measure", ["kl", "span"])
    def test_recorded_distances_are_drawn(self, ax: Axes, batch: nj.MatrixGame, measure: str):
        star = np.asarray(nj.solve(batch, BETA, tol=1e-14).policy)
        path = nj.trajectory(batch, BETA, algorithm=nj.NashMP(), num_steps=12, equilibrium=star)
        plotting.convergence({"recorded": path}, measure=measure, ax=ax)
        plotting.convergence({"given": path._replace(distances=None)}, measure=measure, equilibrium=star, ax=ax)
        ratio = np.asarray(path.log_policy) - np.log(star)[:, None]
        expected = np.ptp(ratio, axis=-1) if measure == "span" else -np.sum(star[:, None] * ratio, axis=-1)
        for name in ("recorded", "given"):
            np.testing.assert_allclose(data(ax, name)[1], np.median(expected, axis=0), rtol=1e-6, atol=1e-14)

    def test_the_history_of_learning_is_drawn_against_comparisons(self, ax: Axes, paths: dict[str, nj.Trajectory]):
        st = pytest.importorskip("nashjax.stochastic", reason="needs the extra `train`")
        oracle = st.ProbabilityOracle(nj.games.random_game(jax.random.key(0), 3, (3,)))
        options = {"method": st.PlugIn(), "num_comparisons": 400, "num_records": 4, "key": jax.random.key(0)}
        history = st.train(oracle, BETA, **options).history
        plotting.convergence({"plug in": history}, ax=ax)
        comparisons, values = data(ax, "plug in")
        np.testing.assert_array_equal(comparisons, history.comparisons)
        np.testing.assert_array_equal(values, [sorted(record)[1] for record in history.exploitability])
        assert ax.get_xlabel() == "comparisons"
        unknown = history._replace(exploitability=None)
        for change, message in (
            ({"trajectories": {"a": history} | paths}, "^trajectories must be either .*, got both; 'a' is a history"),
            ({"beta": BETA}, "^beta must be None for histories"),
            ({"measure": "kl"}, "^measure must be 'exploitability' for histories"),
            ({"trajectories": {"a": unknown}}, r"^trajectories\['a'\] must be a history with exploitabilities"),
        ):
            with pytest.raises(ValueError, match=message):
                plotting.convergence(**merged({"trajectories": {"a": history}}, change))

    def test_an_equilibrium_may_exclude_actions(self, ax: Axes):
        reference = np.array([0.5, 0.5, 0])
        path = nj.trajectory(CYCLE, BETA, algorithm=nj.NashMP(), num_steps=3, reference=reference)
        star = nj.solve(CYCLE, BETA, reference=reference).policy
        values = data(plotting.convergence({"a": path}, measure="kl", equilibrium=star, ax=ax), "a")[1]
        assert np.isfinite(values).all()
        assert values[-1] < values[0]

    def test_the_line_of_the_theory_starts_where_the_first_method_does(self, ax: Axes, paths: dict[str, nj.Trajectory]):
        plotting.convergence(paths, beta=BETA, ax=ax)
        queries, promised = data(ax, "(1 + 2 beta)^(-N/2)")
        first, values = data(ax, "fixed")
        assert (queries[0], promised[0]) == (first[0], values[0])
        np.testing.assert_allclose(promised, values[0] * np.sqrt(1.2) ** -(queries - queries[0]), rtol=1e-12)
        assert line(ax, "(1 + 2 beta)^(-N/2)").get_linestyle() == ":"

    def test_lines_differ_without_their_colours(self, ax: Axes, paths: dict[str, nj.Trajectory]):
        plotting.convergence({f"method {k}": paths["fixed"] for k in range(33)}, beta=BETA, ax=ax)
        assert len(set(styles(ax))) == 34

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"trajectories": {}}, "^trajectories must be a mapping .*, got {}"),
            ({"trajectories": {"a": [1]}}, r"^trajectories\['a'\] must be a Trajectory .*, got \[1\]"),
            ({"measure": "gap"}, "^measure must be one of 'exploitability', 'kl', 'span', got 'gap'"),
            ({"beta": 0.0}, "^beta must be a finite number > 0, got 0.0"),
            ({"beta": [0.1, 0.2]}, "^beta must be "),
            ({"measure": "kl"}, "^equilibrium must be .* with measure='kl', got None"),
            (
                {"measure": "kl", "equilibrium": [0.5, 0.5]},
                r"^equilibrium must be an array that broadcasts to \[3, 5\] for .*, got shape \[2\]",
            ),
            ({"measure": "kl", "equilibrium": np.ones((2, 5)) / 5}, r"^equilibrium must be .*, got shape \[2, 5\]"),
            (
                {"measure": "kl", "equilibrium": [0.5] * 5},
                "^equilibrium must be probabilities .*, got the sum 2.5",
            ),
        ],
    )
    def test_bad_input_is_named(self, paths: dict[str, nj.Trajectory], change: dict[str, Any], message: str):
        with pytest.raises((TypeError, ValueError), match=message):
            plotting.convergence(**merged({"trajectories": paths}, change))

    def test_a_batch_without_games_is_named(self, paths: dict[str, nj.Trajectory]):
        empty = jax.tree.map(lambda x: x[:0], paths["fixed"])
        with pytest.raises(ValueError, match=r"^trajectories\['a'\] must be .*, got the batch shape \[0\]"):
            plotting.convergence({"a": empty})


class TestSimplexDynamics:
    def test_the_star_is_the_equilibrium(self, ax: Axes):
        reference = np.array([0.6, 0.3, 0.1])
        assert plotting.simplex_dynamics(CYCLE, BETA, reference=reference, ax=ax) is ax
        p = np.asarray(nj.solve(CYCLE, BETA, reference=reference).policy)
        (x,), (y,) = data(ax, "equilibrium")
        # Left, right and top corner at (0, 0), (1, 0) and the height of an equilateral triangle.
        np.testing.assert_allclose([x, y], [p[1] + p[2] / 2, p[2] * np.sqrt(3) / 2], rtol=1e-12)

    @pytest.mark.parametrize("beta", [0.0, BETA])
    def test_the_arrows_follow_the_regularised_flow(self, ax: Axes, beta: float):
        plotting.simplex_dynamics(CYCLE, beta, ax=ax)
        arrows = next(child for child in ax.get_children() if isinstance(child, Quiver))
        start, way = np.asarray(arrows.get_offsets()), np.column_stack([np.asarray(arrows.U), np.asarray(arrows.V)])
        assert len(start) > 100
        lengths = []
        for (x, y), (u, v) in zip(start, way, strict=True):
            top = y / np.sqrt(0.75)
            p = np.array([1 - x - top / 2, x - top / 2, top])
            assert (p > 0).all()
            gain = CYCLE @ p - beta * np.log(3 * p)
            d = p * (gain - p @ gain)
            flow = np.array([d[1] + d[2] / 2, d[2] * np.sqrt(0.75)])
            np.testing.assert_allclose([u, v], flow / np.linalg.norm(flow) * np.hypot(u, v), atol=1e-9)
            lengths.append(np.hypot(u, v) / np.sqrt(np.linalg.norm(flow)))
        np.testing.assert_allclose(lengths, lengths[0], rtol=1e-6)

    def test_paths_are_drawn_where_their_policies_are(self, ax: Axes):
        path = nj.trajectory(CYCLE, BETA, algorithm=nj.NashMP(), num_steps=7, initial=np.array([0.8, 0.1, 0.1]))
        corners = np.eye(3)
        plotting.simplex_dynamics(CYCLE, BETA, {"path": path, "round": corners}, labels=("rock", "b", "c"), ax=ax)
        p = np.exp(np.asarray(path.log_policy))
        np.testing.assert_allclose(data(ax, "path")[0], p[:, 1] + p[:, 2] / 2, rtol=1e-12)
        np.testing.assert_allclose(np.transpose(data(ax, "round")), [[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])
        assert len(set(styles(ax))) == 3  # two paths and the star
        assert [text.get_text() for text in ax.texts] == ["rock", "b", "c"]

    def test_a_game_at_rest_can_be_drawn(self, ax: Axes):
        plotting.simplex_dynamics(np.full((3, 3), 0.5), 0.0, ax=ax)
        arrows = next(child for child in ax.get_children() if isinstance(child, Quiver))
        assert not np.any(arrows.U)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"game": np.full((4, 4), 0.5)}, "^game must be one game of 3 actions, .*, got 4 actions"),
            ({"game": np.full((2, 3, 3), 0.5)}, r"^game must be one game of 3 actions, .* batch shape \[2\]"),
            ({"beta": [0.1, 0.2]}, r"^game must be one game of 3 actions, .* batch shape \[2\]"),
            ({"beta": -1.0}, "^beta.* -1.0"),
            ({"reference": [0.5, 0.5, 0]}, "^reference must be 3 probabilities > 0, .*, got "),
            ({"labels": "ab"}, "^labels must be 3 names, got 2"),
            (
                {"trajectories": {"a": np.ones((2, 4)) / 4}},
                r"^trajectories\['a'\] must be .*, got shape \[2, 4\]",
            ),
            (
                {"trajectories": {"a": np.ones((0, 3))}},
                r"^trajectories\['a'\] must be .* not empty, got shape \[0, 3\]",
            ),
            ({"trajectories": {"a": np.ones((2, 3))}}, r"^trajectories\['a'\]\[0\] must be .*, got the sum 3"),
        ],
    )
    def test_bad_input_is_named(self, change: dict[str, Any], message: str):
        with pytest.raises((TypeError, ValueError), match=message):
            plotting.simplex_dynamics(**merged({"game": CYCLE, "beta": BETA}, change))


def hatched(ax: Axes) -> set[tuple[int, int]]:
    """Row and column of the hatched cells."""
    cells = [
        c
        for c in ax.collections
        if isinstance(c, PolyCollection) and c.get_hatch()  # pyright: ignore
    ]
    boxes = [path.get_extents() for c in cells for path in c.get_paths()]
    return {(round((box.y0 + box.y1) / 2), round((box.x0 + box.x1) / 2)) for box in boxes}


class TestPreferenceHeatmap:
    def test_the_image_is_the_matrix_in_the_order_given(self, ax: Axes):
        assert plotting.preference_heatmap(CYCLE, items=["a", "b", "c"], order=[2, 0, 1], ax=ax) is ax
        order = [2, 0, 1]
        shown = np.asarray(ax.images[0].get_array())
        np.testing.assert_array_equal(shown, CYCLE[order][:, order])
        assert [label.get_text() for label in ax.get_yticklabels()] == ["c", "a", "b"]
        assert [label.get_text() for label in ax.get_xticklabels()] == ["c", "a", "b"]
        cells = {tuple(text.get_position()): text.get_text() for text in ax.texts}
        assert len(cells) == 9
        assert cells[2, 1] == "0.90"  # x is the column: a over b
        bar = ax.figure.axes[-1]
        assert bar.get_ylabel() == "how often the row is preferred over the column"

    def test_one_half_is_in_the_middle_and_lightness_only_grows(self, ax: Axes):
        plotting.preference_heatmap(CYCLE, ax=ax)
        low, high = ax.images[0].get_clim()
        assert (low + high) / 2 == pytest.approx(0.5)
        assert (low, high) == pytest.approx((0.1, 0.9))
        rgb = plotting.PREFERENCE_COLORS(np.linspace(0, 1, 101))[:, :3]
        lightness = rgb @ [0.2126, 0.7152, 0.0722]
        assert (np.diff(lightness) > 0).all()
        assert rgb[0, 2] > rgb[0, 0]  # blue at the one end, yellow at the other, grey between
        assert rgb[-1, 2] < rgb[-1, 0]
        assert np.ptp(rgb[50]) < 0.02

    def test_pairs_never_compared_are_hatched(self, ax: Axes):
        counts = np.array([[0, 4, 0], [4, 0, 1], [0, 1, 0]])
        plotting.preference_heatmap(CYCLE, comparisons=counts, ax=ax)
        assert hatched(ax) == {(0, 2), (2, 0)}
        assert np.ma.getmaskarray(np.ma.asarray(ax.images[0].get_array())).sum() == 2
        assert len(ax.texts) == 7

    def test_unknown_preferences_are_hatched_where_the_order_puts_them(self, ax: Axes):
        unknown = CYCLE.copy()
        unknown[0, 1] = unknown[1, 0] = np.nan
        plotting.preference_heatmap(unknown, order=[0, 2, 1], ax=ax)
        assert hatched(ax) == {(0, 2), (2, 0)}
        assert ax.images[0].get_clim() == pytest.approx((0.2, 0.8))

    def test_with_all_compared_nothing_is_hatched(self, ax: Axes):
        plotting.preference_heatmap(CYCLE, comparisons=np.ones((3, 3)), ax=ax)
        assert hatched(ax) == set()

    def test_large_matrices_have_no_numbers_and_few_names(self, ax: Axes):
        plotting.preference_heatmap(np.full((100, 100), 0.5), ax=ax)
        assert len(ax.texts) == 0
        assert 20 <= len(ax.get_xticks()) <= plotting.MOST_TICKS

    def test_names_are_no_formulas(self, ax: Axes):
        plotting.preference_heatmap(CYCLE, items=["$x", "a$b_c$", "c"], ax=ax)
        assert not any("$" in label.get_text().replace(r"\$", "") for label in ax.get_yticklabels())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"preferences": np.ones((2, 3)) / 2},
                r"^preferences must be a square .*, got shape \[2, 3\]",
            ),
            ({"preferences": np.ones((0, 0))}, r"^preferences must be .* not empty, got shape \[0, 0\]"),
            ({"preferences": [[0.5, 2], [-1, 0.5]]}, r"^preferences\[0, 1\] must be a number in \[0, 1\].*, got 2.0"),
            ({"preferences": "words"}, "^preferences.*'words'"),
            ({"items": ["a"]}, "^items must be 3 names, got 1"),
            ({"order": [0, 0, 1]}, r"^order must be the numbers from 0 to 2, each once, got \[0, 0, 1\]"),
            ({"comparisons": np.ones((2, 2))}, r"^comparisons must be an array \[3, 3\] .*, got shape \[2, 2\]"),
            ({"comparisons": -np.ones((3, 3))}, r"^comparisons\[0, 0\] must be a number >= 0, got -1.0"),
        ],
    )
    def test_bad_input_is_named(self, change: dict[str, Any], message: str):
        with pytest.raises((TypeError, ValueError), match=message):
            plotting.preference_heatmap(**merged({"preferences": CYCLE}, change))


class TestEquilibriumPath:
    betas = np.array([1.0, 0.1, 0.01, 0.0])
    policies = np.array([[0.3, 0.3, 0.2, 0.2], [0.5, 0.2, 0.2, 0.1], [0.7, 0.05, 0.2, 0.05], [0.8, 0.0, 0.2, 0.0]])

    def test_the_lines_are_the_masses_and_the_rest_is_one(self, ax: Axes):
        drawn = plotting.equilibrium_path(self.betas, self.policies, items=["a", "b", "c", "d"], top=2, ax=ax)
        assert drawn is ax
        np.testing.assert_array_equal(data(ax, "a")[1], self.policies[:, 0])
        np.testing.assert_array_equal(data(ax, "b")[1], self.policies[:, 1])
        np.testing.assert_allclose(data(ax, "others")[1], self.policies[:, 2:].sum(1))
        assert ax.get_xscale() == "log"

    def test_beta_falls_to_the_right_with_zero_at_the_edge(self, ax: Axes):
        shuffled = [2, 3, 0, 1]
        plotting.equilibrium_path(self.betas[shuffled], self.policies[shuffled], ax=ax)
        x, mass = data(ax, "0")
        np.testing.assert_array_equal(x[:3], [1.0, 0.1, 0.01])
        assert 0 < x[3] < 0.01
        np.testing.assert_array_equal(mass, self.policies[:, 0])
        left, right = ax.get_xlim()
        assert left > right
        marks = dict(zip(ax.get_xticks(), (label.get_text() for label in ax.get_xticklabels()), strict=True))
        assert marks == {x[3]: "0", 0.01: "0.01", 0.1: "0.1", 1.0: "1"}

    def test_without_others_there_is_no_such_line(self, ax: Axes):
        plotting.equilibrium_path([0.03, 0.02], self.policies[:2], ax=ax)
        assert [line.get_label() for line in ax.get_lines()] == ["0", "1", "2", "3"]
        assert len(set(styles(ax))) == 4
        assert [label.get_text() for label in ax.get_xticklabels()] == ["0.02", "0.03"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"betas": []}, r"^betas must be an array \[num_betas\] that is not empty, got shape \[0\]"),
            ({"betas": [1.0, -1.0, 2.0, 3.0]}, r"^betas\[1\] must be a finite number >= 0, got -1.0"),
            ({"betas": [1.0, 1.0, 0.1, 0.0]}, "^betas must be different numbers, .*, got"),
            ({"betas": [0.0], "policies": [[1.0]]}, "at least one of them > 0"),
            ({"policies": np.ones((3, 2)) / 2}, r"^policies must be an array \[4, n\] .*, got shape \[3, 2\]"),
            ({"policies": np.ones((4, 2))}, r"^policies\[0\] must be probabilities .*, got the sum 2"),
            ({"items": ["a"]}, "^items must be 4 names, got 1"),
            ({"top": 0}, "^top must be an integer >= 1, got 0"),
            ({"top": 1.5}, "^top must be an integer >= 1, got 1.5"),
        ],
    )
    def test_bad_input_is_named(self, change: dict[str, Any], message: str):
        with pytest.raises((TypeError, ValueError), match=message):
            plotting.equilibrium_path(**merged({"betas": self.betas, "policies": self.policies}, change))


class TestRankingIntervals:
    def test_the_first_is_on_top_with_its_interval(self, ax: Axes):
        drawn = plotting.ranking_intervals("abc", [3, 2, 1], [2, 1.5, 0], [4, 3, 1], label="score", top=2, ax=ax)
        assert drawn is ax
        (dots,) = ax.get_lines()
        np.testing.assert_array_equal(np.column_stack([dots.get_xdata(), dots.get_ydata()]), [[3, 0], [2, 1]])
        bars = next(c for c in ax.collections if isinstance(c, LineCollection))
        np.testing.assert_array_equal(bars.get_segments(), [[[2, 0], [4, 0]], [[1.5, 1], [3, 1]]])
        assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
        bottom, top = ax.get_ylim()
        assert bottom > top
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("score", "the first 2 of 3 items")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"items": "a", "value": [], "low": [], "high": []},
                r"^value must be an array \[n\] that is not empty, got shape \[0\]",
            ),
            ({"low": [1.0]}, r"^low must be an array \[2\] .*, got shape \[1\]"),
            ({"high": [3.0, 0.0]}, r"^high\[1\] must be a number not below that of low, got 0.0"),
            ({"value": [np.nan, 1.0]}, r"^value\[0\] must be a finite number, got nan"),
            ({"items": "abc"}, "^items must be 2 names, got 3"),
            ({"top": 0}, "^top must be an integer >= 1, got 0"),
        ],
    )
    def test_bad_input_is_named(self, change: dict[str, Any], message: str):
        good = {"items": "ab", "value": [2.0, 1.0], "low": [1.0, 0.5], "high": [3.0, 2.0]}
        with pytest.raises((TypeError, ValueError), match=message):
            plotting.ranking_intervals(**merged(good, change))
