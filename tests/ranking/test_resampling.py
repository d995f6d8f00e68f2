"""The bootstrap against draws made row by row in plain numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra `rank`")
pd = pytest.importorskip("pandas", reason="needs the extra `rank`")

from nashjax.files import BadInput  # noqa: E402
from nashjax.ranking import Battles  # noqa: E402
from nashjax.ranking.resampling import Resampler  # noqa: E402

DRAWS = 4000


@pytest.fixture(scope="module")
def battles() -> Battles:
    rng = np.random.default_rng(5)
    first = rng.integers(4, size=60)
    second = (first + rng.integers(1, 4, size=60)) % 4
    table = {
        "model_a": [f"m{i}" for i in first],
        "model_b": [f"m{i}" for i in second],
        "winner": np.array(["model_a", "model_b", "tie"])[rng.choice(3, size=60, p=[0.5, 0.3, 0.2])],
        "judge": [f"j{i}" for i in rng.integers(8, size=60)],
        "w": rng.choice([1.0, 2.5], size=60),
    }
    return Battles.read(pd.DataFrame(table), labels=["judge"], weight="w")


def by_rows(battles: Battles, weights: np.ndarray, ties: str, prior: float) -> np.ndarray:
    """Preferences for weights of rows, one row after the other."""
    won, met = np.zeros((2, battles.num_items, battles.num_items))
    for i, j, outcome, weight, factor in zip(
        battles.first, battles.second, battles.outcome, battles.weight, weights, strict=True
    ):
        if outcome == 2 and ties == "drop":
            continue
        share = {0: 1.0, 1: 0.0, 2: 0.5}[int(outcome)]
        won[i, j] += factor * weight * share
        won[j, i] += factor * weight * (1 - share)
        met[i, j] += factor * weight
        met[j, i] += factor * weight
    return np.where(met + prior > 0, (won + prior / 2) / np.maximum(met + prior, 1e-300), 0.5)


@pytest.mark.parametrize(
    ("cluster", "bayesian", "ties", "prior"),
    [
        (None, False, "half", 0.0),
        (None, True, "drop", 1.0),
        ("judge", False, "half", 1.0),
        ("judge", True, "half", 0.0),
    ],
)
def test_mean_and_spread_are_those_of_draws_by_rows(
    battles: Battles, cluster: str | None, bayesian: bool, ties: str, prior: float
):
    resampler = Resampler.of(battles, ties=ties, cluster=cluster, bayesian=bayesian)
    ours = np.concatenate(list(resampler.draw(np.random.default_rng(0), DRAWS, prior)))
    rng = np.random.default_rng(1)
    units = np.arange(60) if cluster is None else battles.label(cluster).codes
    number = len(np.unique(units))

    def weights() -> np.ndarray:
        if bayesian:
            return rng.dirichlet(np.ones(number)) * number
        return np.bincount(rng.integers(number, size=number), minlength=number).astype(float)

    theirs = np.stack([by_rows(battles, weights()[units], ties, prior) for _ in range(DRAWS)])
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours + ours.mT, 1, atol=1e-15)
    spread = theirs.std(axis=0)
    # Five standard errors of a difference of two means; of two spreads, generously.
    assert (np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) <= 5 * spread * np.sqrt(2 / DRAWS) + 1e-12).all()
    np.testing.assert_allclose(ours.std(axis=0), spread, rtol=0.1, atol=1e-12)
    for a, b in itertools.combinations([(0, 1), (2, 3), (0, 2)], 2):  # pairs move together as they should
        ours_r, theirs_r = (np.corrcoef(x[:, *a], x[:, *b])[0, 1] for x in (ours, theirs))
        assert abs(ours_r - theirs_r) < 0.1


def test_what_one_draw_looks_like_with_one_kind_of_comparison():
    battles = Battles.from_counts(["a", "b"], np.array([[0, 7], [0, 0]]))
    resampler = Resampler.of(battles)
    drawn = np.concatenate(list(resampler.draw(np.random.default_rng(0), 3)))
    assert resampler.num_units == 7
    np.testing.assert_array_equal(drawn, np.tile([[0.5, 1], [0, 0.5]], (3, 1, 1)))


def test_the_same_seed_draws_the_same_and_chunks_do_not_matter(battles: Battles, monkeypatch: pytest.MonkeyPatch):
    resampler = Resampler.of(battles)
    whole = np.concatenate(list(resampler.draw(np.random.default_rng(3), 50)))
    monkeypatch.setattr("nashjax.ranking.resampling._AT_A_TIME", 200)
    pieces = list(resampler.draw(np.random.default_rng(3), 50))
    assert len(pieces) > 5
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_clusters_need_two_names(battles: Battles):
    one = battles.groups("judge")["j0"]
    with pytest.raises(BadInput, match="cluster 'judge': number of names must be at least 2, got 1"):
        Resampler.of(one, cluster="judge")


def test_less_than_one_comparison_cannot_be_drawn_again():
    few = Battles.from_counts(["a", "b"], np.array([[0, 0.2], [0.1, 0]]))
    with pytest.raises(BadInput, match=r"battles: number of comparisons must be at least 1, to draw again, got 0\.3"):
        Resampler.of(few)
