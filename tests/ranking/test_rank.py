"""Rankings against reference answers, independent solvers, and truths that were planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
import pytest
from independent import equilibrium
from scipy.optimize import minimize
from test_data import roshambo

pytest.importorskip("pyarrow", reason="needs the extra `rank`")

from nashjax.ranking import Battles, bradley_terry, rank
from nashjax.ranking.compare_next import compare_next
from nashjax.ranking.equilibria import ranks_of
from nashjax.ranking.resampling import Resampler

DRAWS = 20  # and five items wherever it does not matter: one program for many tests


def arena(truth: np.ndarray, votes: int, seed: int = 0) -> Battles:
    """Votes of every pair, drawn from true preferences."""
    rng = np.random.default_rng(seed)
    n = len(truth)
    wins = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1, n):
            wins[i, j] = rng.binomial(votes, truth[i, j])
            wins[j, i] = votes - wins[i, j]
    return Battles.from_counts([f"m{i:02d}" for i in range(n)], wins)


def transitive(strength: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(strength[None, :] - strength[:, None]))


@pytest.fixture(scope="module")
def small() -> Battles:
    rng = np.random.default_rng(2)
    noise = np.triu(rng.normal(size=(5, 5)), 1)
    return arena(1 / (1 + np.exp(-(noise - noise.T))), votes=12)


def in_order(ranking: Any, items: list[str] | tuple[str, ...]) -> list[int]:
    return [items.index(name) for name in ranking.items]


def test_every_resample_is_its_equilibrium(small: Battles):
    found = rank(small, 0.05, bootstrap=DRAWS, seed=4)
    order = in_order(found, small.items)
    games = [small.counts().preferences()]
    games += list(np.concatenate(list(Resampler.of(small).draw(np.random.default_rng(4), DRAWS))))
    masses = np.array([equilibrium(P, 0.05, np.full(5, 0.2)) for P in games])[:, order]
    payoffs = np.array([(P[np.ix_(order, order)]) @ p for P, p in zip(games, masses, strict=True)])
    np.testing.assert_allclose(found.mass.value, masses[0], atol=1e-6)
    np.testing.assert_allclose(found.mass.mean, masses[1:].mean(axis=0), atol=5e-4)
    np.testing.assert_allclose(found.payoff.low, np.quantile(payoffs[1:], 0.025, axis=0), atol=5e-4)
    np.testing.assert_allclose(found.payoff.high, np.quantile(payoffs[1:], 0.975, axis=0), atol=5e-4)
    best = np.array([[int((row > x + 1e-9).sum()) == 0 for x in row] for row in payoffs[1:]])
    np.testing.assert_allclose(found.first_share, best.mean(axis=0))
    assert list(found.rank.value) == sorted(found.rank.value)
    assert found.converged
    assert found.unconverged == 0


def test_single_precision_outside_changes_nothing(small: Battles):
    double = rank(small, 0.05, bootstrap=DRAWS)
    with jax.enable_x64(False):
        single = rank(small, 0.05, bootstrap=DRAWS)
        assert not jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose(single.mass.value, double.mass.value, atol=1e-9)
    np.testing.assert_allclose(single.mass.mean, double.mass.mean, atol=1e-6)


def test_chunks_do_not_matter_and_the_seed_does(small: Battles, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    whole = rank(small, 0.05, bootstrap=28, seed=1)
    monkeypatch.setattr("nashjax.ranking.equilibria._ENTRIES_AT_A_TIME", 8 * 25)
    pieces = rank(small, 0.05, bootstrap=28, seed=1, on_progress=seen.append)
    np.testing.assert_allclose(pieces.mass.mean, whole.mass.mean, atol=1e-6)
    np.testing.assert_array_equal(pieces.rank.low, whole.rank.low)
    assert seen == [5, 13, 21, 28]
    monkeypatch.undo()
    other = rank(small, 0.05, bootstrap=28, seed=2)
    assert np.abs(other.mass.mean - whole.mass.mean).max() > 1e-4


def test_resamples_are_drawn_as_they_are_needed():
    from nashjax.ranking import equilibria

    drawn: list[int] = []

    def draws():
        for number in range(10):
            drawn.append(number)
            yield np.full((4, 2, 2), 0.5)

    chunks = equilibria._in_chunks(draws(), 8)
    assert next(chunks)[1] == 8
    assert drawn == [0, 1]
    assert sum(number for _, number in chunks) == 32
    assert drawn == list(range(10))


def test_the_path_is_that_of_solves_and_needs_no_resamples(small: Battles):
    betas = np.geomspace(0.3, 0.02, 14)  # with which 17 games are solved, as many as other tests compile for
    found = rank(small, 0.05, bootstrap=0, path=tuple(betas))
    P = small.counts().preferences()[np.ix_(*[in_order(found, small.items)] * 2)]
    expected = [equilibrium(P, beta, np.full(5, 0.2)) for beta in betas]
    np.testing.assert_allclose(found.path_mass, expected, atol=1e-6)
    assert np.isnan(found.mass.low).all()
    assert found.rows()[0]["mass_low"] is None


@pytest.mark.parametrize("options", [{"bayesian": True}, {"cluster": "half"}, {"cluster": "half", "bayesian": True}])
def test_ways_to_resample_agree_where_they_should(options: dict[str, Any]):
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    first = np.repeat([0, 0, 1], 400)
    second = np.repeat([1, 2, 2], 400)
    won = rng.random(1200) < np.repeat([0.7, 0.3, 0.7], 400)
    table = {
        "model_a": [f"m{i}" for i in first],
        "model_b": [f"m{i}" for i in second],
        "winner": np.where(won, "model_a", "model_b"),
        "half": [f"h{i}" for i in rng.integers(300, size=1200)],  # names without a meaning
    }
    battles = Battles.read(pd.DataFrame(table), labels=["half"])
    plain, other = rank(battles, 0.1, bootstrap=800), rank(battles, 0.1, bootstrap=800, **options)
    np.testing.assert_allclose(other.payoff.high - other.payoff.low, plain.payoff.high - plain.payoff.low, rtol=0.2)


def test_transitive_arenas_are_ranked_as_by_bradley_terry():
    truth = transitive(np.array([0.3, 2.1, -1.0, 1.2, -2.0]))
    found = rank(arena(truth, votes=4000), 0.05, bootstrap=DRAWS)
    assert found.items == ("m01", "m03", "m00", "m02", "m04")
    np.testing.assert_array_equal(found.bradley_terry_rank, found.rank.value)
    assert found.structure.condorcet_winner == 0
    assert found.structure.cyclic_triples == 0
    assert found.structure.largest_cycle == ()
    assert any("m01 is a Condorcet winner" in warning for warning in found.warnings)


def test_a_planted_cycle_on_top_shares_the_mass_and_is_named():
    truth = transitive(np.array([3.0, 3.0, 3.0, 0.5, 0.0]))
    for winner, loser, p in [(0, 1, 0.9), (1, 2, 0.9), (2, 0, 0.6)]:
        truth[winner, loser], truth[loser, winner] = p, 1 - p
    found = rank(arena(truth, votes=2000), 0.01, bootstrap=DRAWS)
    assert set(found.items[:3]) == {"m00", "m01", "m02"}
    assert found.mass.value[:3].sum() > 0.999
    cycle = [found.items[i] for i in found.structure.strongest_cycles[0].items]
    assert "".join(cycle * 2).count("m00m01m02") >= 1
    assert sorted(found.items[i] for i in found.structure.smith_set) == ["m00", "m01", "m02"]


def test_bradley_terry_is_the_maximum_of_the_likelihood():
    counts = arena(transitive(np.array([0.5, 0.0, -1.0, 0.7])), votes=30, seed=3).counts()
    wins = (counts.comparisons + counts.lead) / 2

    def loss(s: np.ndarray) -> float:
        return float((wins * np.logaddexp(0, s[None, :] - s[:, None])).sum())

    best = minimize(loss, np.zeros(4), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 10**4})
    np.testing.assert_allclose(bradley_terry(counts), best.x - best.x.mean(), atol=1e-3)


def test_pairs_to_compare_next_are_those_of_finite_differences(small: Battles):
    counts = small.counts()
    P, met, beta = counts.preferences(), counts.comparisons, 0.05
    found = compare_next(P, met, equilibrium(P, beta, np.full(5, 0.2)), beta, num=10)

    def payoffs(i: int, j: int, step: float) -> np.ndarray:
        moved = P.copy()
        moved[i, j] += step
        moved[j, i] -= step
        return moved @ equilibrium(moved, beta, np.full(5, 0.2))

    saved, total = {}, 0.0
    for i in range(5):
        for j in range(i + 1, 5):
            slope = (payoffs(i, j, 1e-5) - payoffs(i, j, -1e-5)) / 2e-5
            p = (P[i, j] * met[i, j] + 1) / (met[i, j] + 2)
            variance = (slope**2).sum() * p * (1 - p)
            saved[i, j] = variance * (1 / (met[i, j] + 2) - 1 / (met[i, j] + 3))
            total += variance / (met[i, j] + 2)
    assert [pair.items for pair in found] == sorted(saved, key=lambda pair: -saved[pair])
    np.testing.assert_allclose([s.reduction for s in found], [saved[s.items] / total for s in found], rtol=1e-5)


def test_ranks_share_places():
    np.testing.assert_array_equal(ranks_of(np.array([0.2, 0.5, 0.5, 0.1])), [3, 1, 1, 4])


def test_the_plain_game_ranks_by_payoff_then_by_mass():
    wins = np.array([[0, 9, 1, 9, 9], [1, 0, 9, 9, 9], [9, 1, 0, 9, 9], [1, 1, 1, 0, 9], [1, 1, 1, 1, 0]])
    found = rank(Battles.from_counts(list("abcde"), wins), 0.0, bootstrap=DRAWS)
    np.testing.assert_allclose(found.mass.value, [1 / 3, 1 / 3, 1 / 3, 0, 0], atol=1e-6)
    np.testing.assert_array_equal(found.rank.value, [1, 1, 1, 4, 4])  # the last two lose alike to the mixture
    assert found.unique_at_beta_0


def test_copies_share_a_mass_and_losers_change_nothing():
    cycle = np.array([[0, 8, 3], [2, 0, 6], [7, 4, 0]])
    before = {"a": 1 / 6, "b": 1 / 3, "c": 1 / 2}  # of three, each has the mass that the other two differ by
    more = np.zeros((5, 5))
    more[:4, :4] = cycle[np.ix_([0, 1, 2, 0], [0, 1, 2, 0])]  # "d" is a copy of "a"
    more[[0, 3], [3, 0]] = 5
    more[:4, 4] = 10
    joined = rank(Battles.from_counts(list("abcde"), more), 0.0, bootstrap=DRAWS)
    after = dict(zip(joined.items, joined.mass.value, strict=True))
    assert after["a"] + after["d"] == pytest.approx(before["a"], abs=1e-6)
    assert [after["b"], after["c"], after["e"]] == pytest.approx([before["b"], before["c"], 0], abs=1e-6)
    payoff = dict(zip(joined.items, joined.payoff.value, strict=True))
    assert [payoff[name] for name in "abcd"] == pytest.approx([0.5] * 4, abs=1e-6)


def test_warnings_say_what_is_wrong_with_the_data():
    wins = np.zeros((5, 5))
    wins[[0, 1, 2, 3, 2], [1, 0, 3, 2, 4]] = [3, 1, 2, 1, 1]
    apart = Battles.from_counts(list("abcde"), wins)
    text = "\n".join(rank(apart, 0.01, bootstrap=DRAWS).warnings)
    assert "7 of 10 pairs (70 %) were never compared; they count as 1/2." in text
    assert "The items fall into 2 parts that were never compared with each other (of 3, 2 items)" in text
    assert "The equilibrium at beta = 0 is not unique" in text
    assert "These may profit from never having been compared" in text
    assert "Beaten by no other item, though not better than all (weak Condorcet winners): c, a." in text
    assert "held the truth about half of the time" in text


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "beta": ({"beta": -1.0}, "beta must be a finite number >= 0, got -1.0"),
    "beta nan": ({"beta": float("nan")}, "beta must be a finite number >= 0, got nan"),
    "beta text": ({"beta": "x"}, "beta must be a finite number >= 0, got 'x'"),
    "bootstrap": ({"bootstrap": -1}, "bootstrap must be an integer >= 0, got -1"),
    "bootstrap float": ({"bootstrap": 1.5}, "bootstrap must be an integer >= 0, got 1.5"),
    "level": ({"level": 1.0}, "level must be a finite number > 0 and < 1, got 1.0"),
    "prior": ({"prior": float("inf")}, "prior must be a finite number >= 0, got inf"),
    "path": ({"path": (0.1, -0.1)}, r"path\[1\] must be a finite number >= 0, got -0.1"),
    "ties": ({"ties": "win"}, "ties must be one of 'half', 'drop', got 'win'"),
    "cluster": ({"cluster": "judge"}, r"column must be one of the labels that were read \(none\), got 'judge'"),
}


@pytest.mark.parametrize("kind", BAD)
def test_arguments_that_cannot_be_used(small: Battles, kind: str):
    arguments, message = BAD[kind]
    with pytest.raises((TypeError, ValueError), match=message):
        rank(small, **arguments)


def test_a_file_has_to_be_read_first():
    with pytest.raises(TypeError, match=r"^battles must be a Battles, got 'battles\.csv'\. Use Battles\.read"):
        rank(cast(Any, "battles.csv"))


def test_ties_alone_cannot_be_dropped():
    ties = Battles.from_counts(list("abcde"), np.zeros((5, 5)), np.ones((5, 5)))
    assert rank(ties, bootstrap=DRAWS).mass.value == pytest.approx(np.full(5, 0.2))
    with pytest.raises(ValueError, match="ties must be 'half' for comparisons that are all ties, got 'drop'"):
        rank(ties, ties="drop")


def read(data: Path, name: str, file: str) -> tuple[Battles, dict[str, Any]]:
    reference = json.loads((data / name / "reference.json").read_text(encoding="utf-8"))
    return Battles.read(data / name / f"{file}.csv"), reference


def test_crowd_votes_on_language_models(data: Path):
    battles, reference = read(data, "llm_crowd", "battles")
    found = rank(battles, 0.01)
    order = in_order(found, reference["items"])
    np.testing.assert_allclose(found.mass.value, np.array(reference["regularised"]["0.01"]["p"])[order], atol=1e-5)
    mean, sd = (np.array(reference["bootstrap"][name])[order] for name in ("mean", "sd"))
    # Three standard errors of the difference of two bootstraps; those of the rarest items are not normal.
    assert (np.abs(found.mass.mean - mean) <= 3 * sd * np.sqrt(2 / 1000) + 1e-5).all()
    text = "\n".join(found.warnings)
    assert "The equilibrium at beta = 0 is not unique" in text
    assert "784 of 1711 pairs (45.8 %) were never compared" in text
    assert "These may profit from never having been compared" in text
    assert found.unconverged == 0


def test_cuisines_have_a_winner(data: Path):
    battles, reference = read(data, "food", "pairs")
    found = rank(battles, 0.01, bootstrap=DRAWS)
    assert found.items[0] == "Italy"
    assert any(warning.startswith("Italy is a Condorcet winner") for warning in found.warnings)
    order = in_order(found, reference["items"])
    np.testing.assert_allclose(found.mass.value, np.array(reference["regularised"]["0.01"]["p"])[order], atol=1e-5)


def test_football_has_no_unique_answer(data: Path):
    battles, reference = read(data, "football_men", "pairs")
    found = rank(battles, 0.01, bootstrap=DRAWS)
    order = in_order(found, reference["items"])
    np.testing.assert_allclose(found.mass.value, np.array(reference["regularised"]["0.01"]["p"])[order], atol=1e-5)
    text = "\n".join(found.warnings)
    assert "The equilibrium at beta = 0 is not unique" in text
    assert "8458 of 12403 pairs" in text


def test_noisy_bots_have_an_unsure_winner(data: Path):
    reference = json.loads((data / "roshambo_bots" / "reference.json").read_text(encoding="utf-8"))
    P = roshambo(data / "roshambo_bots", reference["items"])
    # Each entry is a mean over 1000 games in either order.
    found = rank(Battles.from_counts(reference["items"], 2000 * P), 0.01, bootstrap=200)
    assert found.first_share[0] < 0.9
    candidates = int((found.rank.low == 1).sum())
    assert candidates > 1
    assert any(
        f"{found.items[0]} comes first in" in warning and f"; {candidates} of 43 items have rank 1" in warning
        for warning in found.warnings
    )
