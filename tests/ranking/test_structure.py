"""Majorities and cycles against enumeration of all sets and triples."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pyarrow", reason="needs the extra `rank`")

from nashjax.ranking import Battles, Counts, find_structure


def counts_of(lead: np.ndarray, comparisons: np.ndarray | None = None) -> Counts:
    met = np.ones_like(lead) - np.eye(len(lead)) if comparisons is None else comparisons
    return Counts(lead.astype(float), np.maximum(met, np.abs(lead)).astype(float), np.zeros(lead.shape))


@st.composite
def tables(draw: st.DrawFn) -> Counts:
    n = draw(st.integers(2, 6))
    upper = draw(st.lists(st.integers(-2, 2), min_size=n * (n - 1) // 2, max_size=n * (n - 1) // 2))
    met = draw(st.lists(st.integers(0, 3), min_size=len(upper), max_size=len(upper)))
    lead, comparisons = np.zeros((2, n, n))
    lead[np.triu_indices(n, 1)], comparisons[np.triu_indices(n, 1)] = upper, met
    return counts_of(lead - lead.T, comparisons + comparisons.T)


def subsets(n: int) -> list[tuple[int, ...]]:
    return [c for size in range(1, n + 1) for c in itertools.combinations(range(n), size)]


@settings(max_examples=200, deadline=None)
@given(tables())
def test_sets_are_those_of_their_definitions(counts: Counts):
    n, found = len(counts.lead), find_structure(counts)
    beats = counts.lead > 0

    def outside(inside: tuple[int, ...]) -> list[int]:
        return [j for j in range(n) if j not in inside]

    dominating = [c for c in subsets(n) if all(beats[i, j] for i in c for j in outside(c))]
    assert found.smith_set == min(dominating, key=len)
    undominated = [c for c in subsets(n) if not any(beats[j, i] for i in c for j in outside(c))]
    minimal = [c for c in undominated if not any(set(d) < set(c) for d in undominated)]
    assert set(found.schwartz_set) == {i for c in minimal for i in c}
    winners = [i for i in range(n) if all(beats[i, j] for j in range(n) if j != i)]
    assert found.condorcet_winner == (winners[0] if winners else None)
    assert found.weak_condorcet_winners == tuple(i for i in range(n) if not any(beats[:, i]))
    circles = [
        t
        for t in itertools.permutations(range(n), 3)
        if t[0] == min(t) and beats[t[0], t[1]] and beats[t[1], t[2]] and beats[t[2], t[0]]
    ]
    assert found.cyclic_triples == len(circles)
    sure = np.where(beats, counts.lead / np.sqrt(np.maximum(counts.comparisons, 1e-9)), 0)
    strength = sorted((min(sure[a, b], sure[b, c], sure[c, a]) for a, b, c in circles), reverse=True)[:5]
    shown = [min(sure[a, b], sure[b, c], sure[c, a]) for a, b, c in (cycle.items for cycle in found.strongest_cycles)]
    np.testing.assert_allclose(shown, strength)
    assert all(cycle.items in circles for cycle in found.strongest_cycles)


@settings(max_examples=100, deadline=None)
@given(tables())
def test_components_and_the_largest_cycle_against_closure(counts: Counts):
    n, found = len(counts.lead), find_structure(counts)

    def closure(relation: np.ndarray) -> np.ndarray:
        reach = relation | np.eye(n, dtype=bool)
        for _ in range(n):
            reach = (reach.astype(int) @ reach) > 0
        return reach

    connected = closure(counts.comparisons > 0)
    assert sorted(found.components) == sorted({tuple(np.flatnonzero(row).tolist()) for row in connected})
    along = closure(counts.lead > 0)
    cycles = {tuple(np.flatnonzero(row).tolist()) for row in along & along.T}
    largest = max(len(c) for c in cycles)
    assert len(found.largest_cycle) == (largest if largest > 2 else 0)
    assert largest <= 2 or found.largest_cycle in cycles
    assert found.pairs_compared == int((counts.comparisons > 0).sum()) // 2


def test_a_planted_cycle_is_named_first():
    n = 12
    lead = np.triu(np.full((n, n), 4.0), 1)
    lead -= lead.T
    for i, j in [(0, 1), (1, 2), (2, 0)]:
        lead[i, j], lead[j, i] = 20, -20
    found = find_structure(counts_of(lead, np.full((n, n), 30.0)))
    assert found.strongest_cycles[0].items == (0, 1, 2)
    assert found.smith_set == found.schwartz_set == found.largest_cycle == (0, 1, 2)
    assert found.cyclic_triples == 1
    assert found.condorcet_winner is None


@pytest.mark.parametrize(("name", "file"), [("food", "pairs"), ("football_men", "pairs"), ("llm_crowd", "battles")])
def test_real_data_has_the_structure_that_others_found(data: Path, name: str, file: str):
    majority = json.loads((data / name / "reference.json").read_text(encoding="utf-8"))["majority"]
    battles = Battles.read(data / name / f"{file}.csv")
    found = find_structure(battles.counts())
    winner = found.condorcet_winner
    assert majority["condorcet_winner"] == (None if winner is None else battles.items[winner])
    assert majority["smith_set_size"] == len(found.smith_set)
    assert majority["schwartz_set_size"] == len(found.schwartz_set)
    assert majority["largest_strict_cycle_component"] == len(found.largest_cycle)
    assert (majority["cyclic_triples"], majority["triples"]) == (found.cyclic_triples, found.triples)
