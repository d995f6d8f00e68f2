"""Who imports whom, and how large things are: what CONTRIBUTING.md says of the tree holds."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nashjax"
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def rooms() -> list[str]:
    """The rooms of the table in CONTRIBUTING.md, from the ground up, such as `simplex` or `games`."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    return [name.removesuffix(".py").rstrip("/") for row in rows for name in re.findall(r"`([\w./]+)`", row)]


def room_of(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def imported(path: Path) -> set[tuple[str, ...]]:
    """The modules of the package that a file imports, but for type checking alone; `()` is the package itself."""
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found: set[tuple[str, ...]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "nashjax"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nashjax":
            inner = tuple((node.module or "").split(".")[1:])
            for alias in node.names:
                file = PACKAGE.joinpath(*inner, alias.name)
                is_module = file.is_dir() or file.with_suffix(".py").exists()
                found.add((*inner, alias.name) if is_module else inner)
    return found


def test_the_table_names_every_room_once():
    table = rooms()
    there = {room_of(path.parts) for path in FILES} - {"__init__"}
    assert sorted(table) == sorted(there)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_module_imports_only_from_rooms_above_its_own(path: Path):
    table = rooms()
    own = room_of(path.parts)
    if own == "__init__":
        return
    for module in imported(path):
        if module == ():  # the package as a user sees it
            assert own in ("commands", "cli"), "import nashjax"
            continue
        assert table.index(room_of(module)) <= table.index(own), ".".join(module)


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


ENGINE = ("_math", "games", "algorithms", "_execution", "problem", "solution", "_validation", "_solve", "metrics")
"""Rooms whose files keep the limits of size and layout."""
ENGINE_FILES = [path for path in FILES if room_of(path.parts) in ENGINE]


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its signature and docstring."""
    first = function.body[1] if ast.get_docstring(function) and len(function.body) > 1 else function.body[0]
    return (function.end_lineno or 0) - first.lineno + 1


@pytest.mark.parametrize("path", ENGINE_FILES, ids=str)
def test_files_and_functions_of_the_engine_are_short(path: Path):
    text = (PACKAGE / path).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_FILE
    long = {f.name: body_lines(f) for f in functions(ast.parse(text)) if body_lines(f) > 50}
    assert not long


LONGEST_FILE = 400


@pytest.mark.parametrize("path", ENGINE_FILES, ids=str)
def test_the_engine_discovers_no_capabilities(path: Path):
    """Capabilities are declared on base classes; `hasattr` finds what happens to be there."""
    calls = list(ast.walk(ast.parse((PACKAGE / path).read_text(encoding="utf-8"))))
    names = [node.func.id for node in calls if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    assert "hasattr" not in names


MAY_MOVE_AXES = {"_math/layout.py", "_math/linear.py"}


def test_axes_are_moved_in_one_place():
    moving = set()
    for path in ENGINE_FILES:
        tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        if attributes & {"moveaxis", "swapaxes", "transpose"}:
            moving.add(path.as_posix())
    assert moving == MAY_MOVE_AXES


def test_the_root_holds_few_files():
    assert len([path for path in FILES if len(path.parts) == 1]) <= 12


def test_no_module_has_the_name_of_what_it_exports():
    for path in ENGINE_FILES:
        if len(path.parts) == 1:
            names = {
                node.name
                for node in ast.parse((PACKAGE / path).read_text(encoding="utf-8")).body
                if isinstance(node, (ast.FunctionDef, ast.ClassDef))
            }
            assert path.stem not in names, path


def code_lines(path: Path) -> int:
    """Lines that hold code: not those of docstrings, comments or nothing."""
    source = path.read_text(encoding="utf-8")
    documentation: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documentation |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    nothing = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in nothing:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documentation)


def test_the_engine_stays_small():
    """All of the engine is measured: whatever is moved between its files counts."""
    assert {room_of(path.parts) for path in ENGINE_FILES} == set(ENGINE)
    assert sum(code_lines(PACKAGE / path) for path in ENGINE_FILES) < 5350


def test_a_long_file_says_why():
    for path in (path for part in ("nashjax", "benchmarks", "tests") for path in (ROOT / part).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > 400:
            assert "One file, though long: " in (ast.get_docstring(ast.parse(text)) or ""), path
