"""The page of a ranking in a real browser: it loads, sorts, shows the numbers of the JSON, and runs no name as code."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="needs the extra `rank`")

from nashjax.files.errors import visible
from nashjax.ranking.page import render_page
from tests.ranking.pages import COLUMNS, HOSTILE, PLAIN, drawn_content, hostile_contents


@pytest.fixture(scope="module")
def contents() -> dict[str, Any]:
    return hostile_contents()


class Browser:
    """A page in a browser."""

    def __init__(self, driver: Any, folder: Path):
        self.driver, self.folder = driver, folder

    def show(self, content: dict[str, Any], address: str | None = None) -> None:
        path = self.folder / "page.html"
        path.write_text(render_page(content, "A title"), encoding="utf-8")
        self.driver.get(address or path.as_uri())
        assert self.driver.get_log("browser") == []  # no error, nothing refused by the policy
        assert self.run("return performance.getEntriesByType('resource').length") == 0

    def run(self, script: str, *values: Any) -> Any:
        return self.driver.execute_script(script, *values)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).innerText", selector)

    def rows(self) -> list[list[list[str]]]:
        """Value and interval of each cell of the rows that are to be seen."""
        return self.run(
            """return [...document.querySelectorAll('section:not([hidden]) .items tbody tr:not([hidden])')].map(
            (row) => [...row.cells].map((cell) => [cell.firstChild.textContent,
              cell.querySelector('.range')?.textContent ?? '']))"""
        )

    def names(self) -> list[str]:
        return [row[1][0] for row in self.rows()]

    def emulate(self, command: str, **values: Any) -> None:
        self.driver.execute_cdp_cmd(f"Emulation.{command}", values)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the extra `test`")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs the browser chromium and its chromedriver, which are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    switches = "headless=new no-sandbox disable-gpu disable-dev-shm-usage no-first-run disable-quic"
    offline = "disable-background-networking disable-component-update disable-sync window-size=1300,1000"
    for switch in f"{switches} {offline} user-data-dir={tmp_path_factory.mktemp('browser')}".split():
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    opened.set_page_load_timeout(60)
    try:
        yield Browser(opened, tmp_path_factory.mktemp("page"))
    finally:
        opened.quit()


def agrees(text: str, value: float | None) -> bool:
    """Whether a shown number is the value in the digits shown."""
    if value is None:
        return text == "–"
    per_cent = text.endswith("\u00a0%")
    number = text.removesuffix("\u00a0%").replace(",", "")
    last = 10.0 ** -len(number.partition(".")[2]) / (100 if per_cent else 1)
    return abs(float(number) / (100 if per_cent else 1) - value) <= last / 2 + 1e-12


@pytest.mark.parametrize("kind", ["full", "bare", "drawn"])
def test_the_numbers_are_those_of_the_json(browser: Browser, contents: dict[str, Any], kind: str):
    content = drawn_content(200) if kind == "drawn" else contents[kind]
    browser.show(content)
    rows = browser.rows()
    assert len(rows) == len(content["items"])
    for row, item in zip(rows, content["items"], strict=True):
        for key, (value, interval) in zip(COLUMNS, row, strict=True):
            if key != "item":
                assert agrees(value.strip(), item[key]), (key, value, item[key])
            if key == "bradley_terry":
                assert interval == f"({item['bradley_terry_rank']})"
            elif kind == "full" and f"{key}_low" in item:
                ends = zip(interval.split("–"), ("low", "high"), strict=True)
                assert all(agrees(text, item[f"{key}_{end}"]) for text, end in ends)
            else:
                assert interval == ""
    intervals = len(rows) * 2 if kind == "full" else 0
    assert browser.run("return document.querySelectorAll('.whisker').length") == intervals
    assert browser.one(".tint").is_displayed() == (kind == "full")
    assert [visible(text)[:1500] for text in content["warnings"]] == [
        text.removesuffix("…") for text in browser.text(".warnings ul").split("\n")
    ]


def test_hostile_names_are_text(browser: Browser, contents: dict[str, Any]):
    browser.show(contents["full"])
    assert browser.driver.title == "A title"
    shown = browser.names()
    titles = browser.run("return [...document.querySelectorAll('.items bdi')].map((name) => name.title)")
    items = [row["item"] for row in contents["full"]["items"]]
    for name, text, title in zip(items, shown, titles, strict=True):
        if len(visible(name)) > 48:
            assert text == "n" * 32 + "…" + "n" * 15
        else:
            assert text == visible(name)
        assert title == ("" if text == name else visible(name)[:1000])
    assert browser.run("return document.querySelectorAll('img, iframe, link, script').length") == 2
    with pytest.raises(Exception, match="no such alert"):
        browser.driver.switch_to.alert  # noqa: B018
    everything = browser.run("return document.body.innerText")
    assert "[object" not in everything
    assert "undefined" not in everything
    assert "\u202e" not in everything


def test_columns_sort_both_ways(browser: Browser):
    content = drawn_content(40)
    browser.show(content)
    buttons = browser.driver.find_elements("css selector", ".items th button")
    heads = browser.driver.find_elements("css selector", ".items thead th")
    assert [head.get_attribute("aria-sort") for head in heads] == ["ascending", *[None] * 7]
    for number, key in [*enumerate(COLUMNS)][::-1]:
        rising_first = key in ("rank", "item")
        presses = [lambda button: button.click(), lambda button: button.send_keys("\ue007"),
                   lambda button: button.send_keys(" ")]  # fmt: skip
        for turn, press in enumerate(presses):  # by mouse, by the keys Enter and Space
            press(buttons[number])
            rising = rising_first == (turn % 2 == 0)
            sign = 1 if rising else -1
            numbers = {
                row["item"]: int(row["item"][2:]) if key == "item" else row[key] for row in content["items"]
            }  # in the order of ranks, which equal ones keep
            expected = sorted(numbers, key=lambda name, by=numbers: (by[name] is None, sign * (by[name] or 0)))
            assert browser.names() == expected, (key, rising)
            states = [head.get_attribute("aria-sort") for head in heads]
            assert states.pop(number) == ("ascending" if rising else "descending")
            assert set(states) == {None}


def test_the_table_can_be_searched(browser: Browser, contents: dict[str, Any]):
    browser.show(contents["full"])
    field = browser.one("input")
    field.send_keys("CAT")
    assert browser.names() == ["Cat"]
    assert browser.text(".found") == f"1 of {len(HOSTILE + PLAIN)} items"
    field.clear()
    field.send_keys("\\u202E")
    assert len(browser.names()) == 1
    field.clear()
    field.send_keys("x")
    field.send_keys("\ue003")  # the key Backspace
    assert len(browser.names()) == len(HOSTILE + PLAIN)
    assert browser.text(".found") == ""


def said(content: dict[str, Any], i: int, j: int) -> str:
    """What the heat map should say of a pair."""
    a, b = (content["items"][k]["item"] for k in (i, j))
    p, times = content["preferences"][i][j], content["pair_comparisons"][i][j]
    if i == j:
        return f"{a} with itself"
    return f"{a} over {b}: " + (f"{p:.2f} in {times:g} comparison{'s' * (times != 1)}" if times else "never compared")


@pytest.mark.parametrize("n", [3, 40, 250])
def test_the_heat_map_names_pairs_and_darkens_with_losses(browser: Browser, n: int):
    from selenium.webdriver.common.action_chains import ActionChains

    content = drawn_content(n)
    browser.show(content)
    canvas = browser.one("canvas")
    browser.run("arguments[0].scrollIntoView({block: 'center'})", canvas)
    size = canvas.rect["width"]
    rng = np.random.default_rng(0)
    pairs = [(0, 0), (0, n - 1), (n - 1, 0), (1, 2), *rng.integers(0, n, size=(6, 2)).tolist()]
    for i, j in pairs:
        x, y = (int((k + 0.5) * size / n - size / 2) for k in (j, i))
        ActionChains(browser.driver, duration=0).move_to_element_with_offset(canvas, x, y).perform()
        assert browser.text(".tip") == said(content, i, j)
    canvas.send_keys("\ue012")  # the arrow to the left, from the last of these pairs
    i, j = pairs[-1]
    assert browser.text(".tip") == said(content, i, max(j - 1, 0))
    page_and_tip = "return [innerWidth, document.querySelector('.tip').getBoundingClientRect().right]"
    assert browser.run(page_and_tip)[1] <= browser.run(page_and_tip)[0]
    all_pixels = "const c = arguments[0]; return [...c.getContext('2d').getImageData(0, 0, c.width, c.width).data]"
    pixels = browser.run(all_pixels, canvas)
    colors = np.array(pixels, np.float64).reshape(n, n, 4)
    known = (np.array(content["pair_comparisons"]) > 0) | np.eye(n, dtype=bool)
    assert np.array_equal(colors[..., 3] == 255, known)
    assert not colors[~known, 3].any()
    rates = np.array(content["preferences"], np.float64)[known]
    grey = (colors[..., :3] @ [0.2126, 0.7152, 0.0722])[known][np.argsort(rates)]
    assert np.diff(grey).min() > -1.5  # rounded colours: the more wins, the lighter
    assert np.ptp(grey) > 100
    assert len(browser.run("return [...document.querySelectorAll('.values span')]")) == (n * n if n < 13 else 0)


def test_cycles_winners_and_what_to_compare_next(browser: Browser, contents: dict[str, Any]):
    content = drawn_content(40)
    browser.show(content)
    a, b, c = (row["item"] for row in content["items"][:3])
    text = browser.text(".structure")
    for wanted in (f"{a} > 0.70 {b} > 0.66 {c} > 0.80 {a}", "7 of 1,234 (0.6 %)", "all 40 items", "and 8 more",
                   "no, in 2 parts", f"2 items: {a}, {b}", "None: every item is beaten by some other"):  # fmt: skip
        assert wanted in text.replace("\u00a0", " ")
    beaten = [j for j in range(40) if (content["preferences"][j][0] or 0) > 0.5]
    assert f"the leader by {content['items'][beaten[0]]['item']} (" in text
    assert browser.text(".next td:nth-child(4)") == "1.23\u00a0%"
    assert not browser.one(".path").is_displayed()

    for change, wanted in (
        ({"condorcet_winner": a}, f"{a} beats every other item."),
        ({"weak_condorcet_winners": [b]}, f"tied, or never compared): {b}"),
    ):
        browser.show(content | {"structure": content["structure"] | change, "bootstrap": 1})
        assert wanted in browser.text(".structure")
    assert "95\u00a0% intervals from 1 Bayesian resamples, all of one worker drawn together" in browser.text(".summary")

    full = contents["full"]
    browser.show(full)
    table = [line.split("\t") for line in browser.text(".path table").split("\n")]
    assert table[0] == ["Item", "beta = 0.3", "beta = 0.05", "beta = 0"]
    where = {visible(row["item"]): i for i, row in enumerate(full["items"])}
    checked = [line for line in table[1:] if line[0] in where]
    assert len(checked) > 3
    for name, *numbers in checked:
        masses = [full["path"]["mass"][k][where[name]] for k in (1, 0, 2)]
        assert all(agrees(*pair) for pair in zip(numbers, masses, strict=True))
    assert browser.run("return document.querySelectorAll('.chart polyline').length") == 3 + len(full["items"])


def test_groups_take_turns(browser: Browser, contents: dict[str, Any]):
    from selenium.webdriver.support.select import Select

    groups = {"one": contents["bare"], "</script>": drawn_content(40), "__proto__": contents["full"]}
    browser.show({"by": "<kind>", "groups": groups})
    choice = Select(browser.one("#groups select"))
    assert [option.text for option in choice.options] == list(groups)
    assert browser.text("#groups span") == "<kind>"
    for index in (0, 1, 2, 0):
        choice.select_by_index(index)
        items = list(groups.values())[index]["items"]
        assert [row[2][0].strip() for row in browser.rows()] == [
            "–" if item["mass"] is None else f"{item['mass']:.3f}" for item in items
        ]
        assert browser.run("return document.querySelectorAll('section:not([hidden])').length") == 1


def test_nothing_is_asked_from_anywhere_and_the_policy_holds(browser: Browser, contents: dict[str, Any]):
    asked = []

    class Server(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            asked.append(self.path)

    handler = functools.partial(Server, directory=str(browser.folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        browser.show(contents["full"], f"{address}/page.html")
        tried = browser.driver.execute_async_script(
            """const done = arguments[arguments.length - 1], image = new Image();
            image.onerror = () => fetch('/fetched').then(() => done('came'), () => done('refused'));
            image.src = '/image';"""
        )
        server.shutdown()
    assert tried == "refused"
    assert asked == ["/page.html"]
    assert any("Content Security Policy" in entry["message"] for entry in browser.driver.get_log("browser"))


def test_phones_the_dark_and_paper(browser: Browser):
    browser.show(drawn_content(40))
    background = "return getComputedStyle(document.body).backgroundColor"
    try:
        browser.emulate("setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=2, mobile=True)
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.run("const box = document.querySelector('.box'); return box.scrollWidth > box.clientWidth")
        light = browser.run(background)
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        browser.emulate("setEmulatedMedia", features=dark)
        assert browser.run(background) != light
        browser.emulate("setEmulatedMedia", media="print", features=dark)
        assert browser.run(background) == light
        assert not browser.one(".tools").is_displayed()
    finally:
        browser.emulate("setEmulatedMedia", media="", features=[])
        browser.emulate("clearDeviceMetricsOverride")
