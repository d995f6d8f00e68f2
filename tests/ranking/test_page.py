"""The page of a ranking as text: it refers to nothing outside, and no name in it is markup."""

from __future__ import annotations

import csv
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra `rank`")

from nashjax.ranking import Battles, rank
from nashjax.ranking.page import render_page
from nashjax.ranking.write import harmless, write_ranking
from tests.ranking.pages import HOSTILE, hostile_contents


@pytest.fixture(scope="module")
def contents() -> dict[str, Any]:
    return hostile_contents()


class Elements(html.parser.HTMLParser):
    """The tags of a page and their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_needs_no_network_and_no_name_is_markup(contents: dict[str, Any]):
    page = render_page(contents["full"], "Ranking of <b>\u202e.csv")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert json.loads(data[1]) == contents["full"]
    assert not set("<>&\u2028") & set(data[1])
    assert page.count("Ranking of &lt;b&gt;\\u202e.csv") == 2
    found = Elements(page).tags
    assert [tag for tag, _ in found].count("script") == 2
    assert not {"img", "link", "iframe", "b", "base", "form"} & {tag for tag, _ in found}
    attributes = [name for _, given in found for name in given]
    assert not {"src", "href", "style", "srcset"} & set(attributes)
    assert not [name for name in attributes if name.startswith("on")]
    code = page.replace(data[1], "")
    assert len(code.encode()) <= 25_000
    outside = re.findall(r"https?://[^\"]*|url\(|@import|\bfetch\(|innerHTML|eval\(", code)
    assert outside == ["http://www.w3.org/2000/svg"]  # a name, not an address
    (policy,) = (given["content"] for tag, given in found if given.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    hashed = r"default-src 'none'; style-src 'sha256-\S+'; script-src 'sha256-\S+'; "
    assert re.fullmatch(hashed + "base-uri 'none'; form-action 'none'", policy)


def test_json_and_csv_hold_the_same(tmp_path: Path, contents: dict[str, Any]):
    items = [*HOSTILE[:3], *(f"item {i}" for i in range(8))]
    battles = Battles.from_counts(items, np.ones((11, 11)) + np.eye(11, k=1))
    ranking = rank(battles, 0.05, bootstrap=30)
    for suffix in ("json", "csv"):
        write_ranking(tmp_path / f"r.{suffix}", ranking)
    items = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["items"]
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [harmless(item["item"]) for item in items] == [row["item"] for row in rows]
    assert not any(row["item"].startswith(("=", "+", "-", "@")) for row in rows)
    assert [row["item"] for row in rows if "HYPERLINK" in row["item"]] == ["'" + HOSTILE[2]]
    for item, row in zip(items, rows, strict=True):
        assert {name: float(value) for name, value in row.items() if name != "item"} == pytest.approx(
            {name: value for name, value in item.items() if name != "item"}
        )
    wanted = {"item", "mass", "mass_mean", "mass_low", "mass_high", "payoff", "payoff_low", "payoff_high", "rank"}
    wanted |= {"rank_low", "rank_high", "win_rate", "comparisons", "bradley_terry"}
    assert wanted <= set(items[0])
    assert {"items", "beta", "bootstrap", "warnings", "structure"} <= set(contents["full"])
