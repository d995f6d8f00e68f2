"""The examples of the pages in docs/ run, print what the pages say, and their links lead somewhere."""

import contextlib
import importlib.util
import io
import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path for path in sorted((ROOT / "docs").glob("*.md"))}
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")


def blocks(page: str) -> list[tuple[str, str]]:
    """The blocks of code of a page, and the text right below, which is what each prints."""
    return BLOCK.findall(PAGES[page].read_text(encoding="utf-8"))


def agree(printed: str, shown: str) -> bool:
    """Whether two texts are the same but for the last digits of their numbers."""
    if NUMBER.sub("#", printed) != NUMBER.sub("#", shown):
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    return all(abs(float(a) - float(b)) <= 0.05 * abs(float(b)) for a, b in pairs)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_the_examples_print_what_the_page_says(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for package in re.findall(r"^import (\w+)", "\n".join(code for code, _ in blocks(page)), re.MULTILINE):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}, of an extra")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page}
    jax.config.update("jax_enable_x64", False)  # as it is unless told otherwise
    try:
        for code, shown in blocks(page):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, f"docs/{page}.md", "exec"), names)
            assert agree(printed.getvalue(), shown), printed.getvalue()
    finally:
        jax.config.update("jax_enable_x64", True)


def test_there_are_examples():
    assert {"learn_a_game", "unequal_games", "warm_starts"} <= {page for page in PAGES if blocks(page)}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str):
    targets = re.findall(r"\]\(([^)]+)\)", PAGES[page].read_text(encoding="utf-8"))
    for target in targets:
        path, _, anchor = target.partition("#")
        if target.startswith("https://"):
            continue
        file = (PAGES[page].parent / path).resolve()
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}, target


def test_both_versions_of_the_paper_are_named():
    for name in ("README.md", "CITATION.cff", "docs/citation.md"):
        text = re.sub(r"[{}]", "", (ROOT / name).read_text(encoding="utf-8"))
        for title in (
            "Accelerating Nash Learning from Human Feedback via Mirror Prox",
            "Proximal Point Nash Learning from Human Feedback",
        ):
            assert title in text, (name, title)
        assert "2505.19731" in text
