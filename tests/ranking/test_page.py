"""The page of a ranking in a real browser: it loads, sorts, shows the numbers of the JSON, and runs no name as code."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra `rank`")

from nashjax.ranking import Battles, rank
from nashjax.ranking.page import render_page
from nashjax.ranking.write import harmless, to_content, write_ranking

HOSTILE = [
    "</script><script>document.title='taken'</script>",
    "<img src=x onerror=\"document.title='taken'\">",
    '=HYPERLINK("http://x")',
    "[[script]] & \"quotes\" 'too'",
    "right\u202eto left\nnext line",
    "n" * 5000,
]
PLAIN = ["ant", "bee", "Cat", "dog"]


@pytest.fixture(scope="module")
def contents() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    n = len(HOSTILE + PLAIN)
    wins = rng.integers(0, 12, size=(n, n)) * (rng.random((n, n)) < 0.8)
    battles = Battles.from_counts(HOSTILE + PLAIN, wins)
    full = to_content(rank(battles, 0.05, bootstrap=30, path=(0.3, 0.05)), with_preferences=True)
    bare = to_content(rank(battles, 0.05, bootstrap=0, path=(0.3, 0.05)), with_preferences=True)
    return {"full": full, "bare": bare | {"path": None}}


class Elements(html.parser.HTMLParser):
    """The tags of a page, their attributes, and the texts of its scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self._open, []).append(data)


def test_the_page_needs_no_network_and_no_name_is_markup(contents: dict[str, Any]):
    page = render_page(contents["full"], "Ranking of <b>.csv")
    found = Elements(page)
    names = [tag for tag, _ in found.tags]
    assert names.count("script") == 2
    assert not {"img", "link", "iframe", "b"} & set(names) - {"b"}
    assert all(not {"src", "href"} & set(attributes) for _, attributes in found.tags)
    (policy,) = (a["content"] for tag, a in found.tags if tag == "meta" and "http-equiv" in a)
    assert str(policy).startswith("default-src 'none';")
    assert "unsafe" not in str(policy)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    assert json.loads(data[1]) == contents["full"]
    assert "Ranking of &lt;b&gt;.csv" in page
    code = len(page) - len(data[1])
    assert code < 20_000


def test_json_and_csv_hold_the_same(tmp_path: Path, contents: dict[str, Any]):
    import csv

    battles = Battles.from_counts(HOSTILE[:3] + PLAIN, np.ones((7, 7)) + np.eye(7, k=1))
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs the browser chromium and its chromedriver, which are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    switches = "headless=new no-sandbox disable-gpu disable-dev-shm-usage no-first-run window-size=1300,1200"
    offline = "disable-background-networking disable-component-update disable-sync"
    for switch in f"{switches} {offline}".split():
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def show(browser: Any, folder: Path, content: dict[str, Any]) -> None:
    path = folder / "page.html"
    path.write_text(render_page(content, "A title"), encoding="utf-8")
    browser.get(path.as_uri())
    assert browser.get_log("browser") == []  # no error, nothing refused by the policy
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def title(item: str) -> str:
    """What a name is shown as, before it is cut."""
    return item.replace("\u202e", "\\u202e").replace("\n", "\\u000a")[:1000]


def column(browser: Any, number: int) -> list[str]:
    script = "return [...document.querySelectorAll('#ranking tbody tr')].map(r => r.cells[arguments[0]].textContent)"
    return browser.execute_script(script, number)


def test_the_numbers_are_those_of_the_json(browser: Any, tmp_path: Path, contents: dict[str, Any]):
    content = contents["full"]
    show(browser, tmp_path, content)
    items = content["items"]
    assert column(browser, 0) == [f"{r['rank']} ({r['rank_low']} to {r['rank_high']})" for r in items]
    assert column(browser, 2) == [f"{r['mass']:.4f}" for r in items]
    assert [float(x) for x in column(browser, 3)] == pytest.approx([r["payoff"] for r in items], abs=6e-5)
    assert [float(x) for x in column(browser, 6)] == [r["comparisons"] for r in items]
    labels = browser.execute_script("return [...document.querySelectorAll('td svg')].map(s => s.ariaLabel)")
    assert labels[0] == f"{items[0]['mass_low']:.4f} to {items[0]['mass_high']:.4f}"
    shown = browser.execute_script("return document.body.innerText")
    for warning in content["warnings"]:
        assert warning[:60] in shown
    cyclic = f"{content['structure']['cyclic_triples']} of {content['structure']['triples']}"
    assert cyclic in shown
    assert browser.execute_script("return document.querySelectorAll('#along tr').length") == 3


def test_hostile_names_are_text(browser: Any, tmp_path: Path, contents: dict[str, Any]):
    show(browser, tmp_path, contents["full"])
    assert browser.title == "A title"
    assert browser.execute_script("return document.querySelectorAll('img, #ranking script').length") == 0
    names = column(browser, 1)
    assert HOSTILE[0] in names
    assert "right\\u202eto left\\u000anext line" in names
    assert "n" * 59 + "…" in names
    assert all(len(name) <= 60 for name in names)


@pytest.mark.parametrize(
    ("number", "name"), [(0, "rank"), (1, "item"), (2, "mass"), (5, "win_rate"), (6, "comparisons")]
)
def test_columns_sort_both_ways(browser: Any, tmp_path: Path, contents: dict[str, Any], number: int, name: str):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(browser, tmp_path, contents["full"])
    script = "return [...document.querySelectorAll('#ranking tbody tr')].map(r => r.cells[1].title)"
    button = browser.find_elements(By.CSS_SELECTOR, "#ranking th button")[number]
    items = contents["full"]["items"]
    button.click()
    first = browser.execute_script(script)
    button.send_keys(Keys.ENTER)  # from the keyboard
    second = browser.execute_script(script)
    rising, falling = (
        [
            title(row["item"]) for row in sorted(items, key=lambda row: row[name], reverse=reverse)
        ]  # equals stay in order
        for reverse in (False, True)
    )
    assert sorted([first, second]) == sorted([rising, falling])
    head = browser.find_elements(By.CSS_SELECTOR, "#ranking th")[number]
    assert head.get_attribute("aria-sort") == ("ascending" if second == rising else "descending")


def test_the_table_can_be_searched_and_cells_say_what_they_are(browser: Any, tmp_path: Path, contents: dict[str, Any]):
    from selenium.webdriver.common.by import By

    content = contents["full"]
    show(browser, tmp_path, content)
    browser.find_element(By.ID, "filter").send_keys("CAT")
    assert column(browser, 1) == ["Cat"]
    script = """const c = document.getElementById('heat'), b = c.getBoundingClientRect(), n = arguments[2];
        c.dispatchEvent(new PointerEvent('pointermove', {clientX: b.left + (arguments[1] + .5) * b.width / n,
            clientY: b.top + (arguments[0] + .5) * b.height / n}));
        return document.getElementById('tip').textContent"""
    names = {i: row["item"] for i, row in enumerate(content["items"]) if row["item"] in PLAIN}
    pairs = [(i, j) for i in names for j in names if i != j]
    for i, j in pairs:
        said = browser.execute_script(script, i, j, len(content["items"]))
        p = content["preferences"][i][j]
        if p is None:
            assert said == f"{names[i]} and {names[j]} were never compared"
        else:
            assert said.startswith(f"{names[i]} over {names[j]}: ")
            assert float(said.split(": ")[1].split(" ")[0]) == pytest.approx(p, abs=0.0051)
            assert said.endswith(f"in {content['pair_comparisons'][i][j]:g} comparisons")
    assert len(pairs) == 12


def test_without_intervals_and_in_groups(browser: Any, tmp_path: Path, contents: dict[str, Any]):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.select import Select

    show(browser, tmp_path, {"by": "kind", "groups": {"one": contents["bare"], "</script>": contents["full"]}})
    assert column(browser, 0) == [str(row["rank"]) for row in contents["bare"]["items"]]
    assert set(column(browser, 4)) == {"–"}
    Select(browser.find_element(By.ID, "group")).select_by_index(1)
    assert column(browser, 0)[0] == "{rank} ({rank_low} to {rank_high})".format(**contents["full"]["items"][0])
