"""Real data sets against reference answers made by independent tools (skipped where the data is absent)."""

import csv
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nashjax as nj
from nashjax.files import read_games

SETS = ["food", "football_men", "llm_crowd", "riddler_castles", "roshambo_bots", "soccer_agents"]


def roshambo(folder: Path, items: list[str]) -> np.ndarray:
    place = {item: i for i, item in enumerate(items)}
    payoff = np.zeros((len(items), len(items)))
    with (folder / "payoffs.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            payoff[place[row["item_a"]], place[row["item_b"]]] = float(row["payoff_a"])
    return np.asarray(nj.MatrixGame.from_payoffs((payoff - payoff.T) / 2, bound=1000).preferences)


def castles(folder: Path) -> np.ndarray:
    plans = np.loadtxt(folder / "strategies.csv", delimiter=",", skiprows=1)[:, :10]
    margin = np.zeros((len(plans), len(plans)))
    for castle in range(10):
        soldiers = plans[:, castle]
        margin += (castle + 1) * np.sign(soldiers[:, None] - soldiers[None, :])
    return (np.sign(margin) + 1) / 2


def load(data: Path, name: str) -> tuple[np.ndarray, dict]:
    folder = data / name
    answers = json.loads((folder / "reference.json").read_text(encoding="utf-8"))
    if name == "roshambo_bots":
        return roshambo(folder, answers["items"]), answers
    if name == "riddler_castles":
        return castles(folder), answers
    files = {
        "food": "pairs.csv",
        "football_men": "pairs.csv",
        "llm_crowd": "battles.csv",
        "soccer_agents": "winrates.csv",
    }
    read = read_games(folder / files[name])
    assert list(read.items) == answers["items"]
    return read.preferences, answers


every_set = pytest.mark.parametrize("name", SETS)
"""All tests of a data set run in one process (`conftest.py`) and share one program: see `solve_all`."""


def solve_all(P: np.ndarray, answers: dict, tol: float) -> tuple[np.ndarray, nj.Solution]:
    """Solve at every beta of the references and then at 0, where `tol` is 1e-10: always the same program."""
    betas = np.array([*map(float, answers["regularised"]), 0.0])
    return betas, nj.solve(P, betas, tol=np.where(betas > 0, tol, 1e-10))


@every_set
def test_it_loads_to_the_references_checks(data, name):
    P, answers = load(data, name)
    assert P.shape == (answers["n"],) * 2
    np.testing.assert_allclose((P**2).sum(), answers["checks"]["sum_P_squared"], rtol=1e-12)
    np.testing.assert_allclose(P.mean(1), answers["checks"]["row_mean"], atol=1e-12)


@every_set
def test_it_solves_to_the_reference_answers(data, name):
    """float64, `tol = 1e-12`: `max |p - p*| <= ||p - p*||_1 / 2 <= sqrt(E / (2 beta)) <= 7.1e-6` at beta >= 0.01."""
    P, answers = load(data, name)
    betas, solution = solve_all(P, answers, tol=1e-12)
    asked = betas >= 0.01
    betas, solution = betas[asked], jax.tree.map(lambda x: x[asked], solution)
    expected = np.array([answers["regularised"][b]["p"] for b in answers["regularised"] if float(b) >= 0.01])
    assert len(betas) >= 2
    assert bool(solution.converged.all())
    assert (solution.exploitability <= 1e-12).all()
    assert np.abs(solution.policy - expected).max() <= 1e-5
    assert (np.abs(solution.policy - expected).sum(-1) <= nj.metrics.l1_bound(solution.exploitability, betas)).all()
    single = nj.solve(jnp.asarray(P, jnp.float32), betas)
    assert bool(single.converged.all())
    assert np.abs(single.policy - expected).sum(-1).max() <= np.sqrt(2 * 1e-6 / 0.01)
    if "regularised_with_reference_proportional_to_count" in answers:
        count = np.loadtxt(data / name / "strategies.csv", delimiter=",", skiprows=1)[:, 10]
        weighted = answers["regularised_with_reference_proportional_to_count"]
        solution = nj.solve(P, betas, reference=count / count.sum(), tol=1e-12)
        expected = np.array([weighted[b]["p"] for b in weighted])
        assert np.abs(solution.policy - expected).max() <= 1e-5
