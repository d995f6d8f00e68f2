"""Every notebook runs from a clean kernel, and what is committed of it is whole."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

FILES = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
LOCAL_PATH = re.compile(r"(?:(?<![\w/.:])/(?:home|root|tmp|usr|opt|work|content|Users|private|var)/|[A-Z]:\\)[\w.-]+")
LONG = {"06_language_model"}
"""A run of two minutes; what it does is tested in tests/lm."""
each = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def load(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def code_cells(file: Path) -> list[dict[str, Any]]:
    return [cell for cell in load(file)["cells"] if cell["cell_type"] == "code"]


def needed_by(install: str) -> dict[str, str]:
    """The modules that an install cell looks for, and their packages."""
    found = [node for node in ast.parse(install).body if isinstance(node, ast.Assign)]
    (needed,) = [node.value for node in found if ast.unparse(node.targets[0]) == "needed"]
    return ast.literal_eval(needed)


def texts(outputs: list[dict[str, Any]]) -> list[str]:
    """What outputs say, without their pictures."""
    said = [output.get("text", "") for output in outputs]
    said += [data for output in outputs for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    return ["".join(text) for text in said]


def test_there_are_notebooks():
    assert len(FILES) >= 6


@pytest.mark.parametrize("file", [file for file in FILES if file.stem not in LONG], ids=lambda file: file.stem)
@pytest.mark.filterwarnings("ignore:Proactor event loop:RuntimeWarning")  # of zmq, on Windows
def test_it_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra `test`")
    pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra `test`")
    import nbformat

    notebook = nbformat.read(file, as_version=4)
    needed = needed_by(next(cell.source for cell in notebook.cells if cell.cell_type == "code"))
    missing = [package for module, package in needed.items() if importlib.util.find_spec(module) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}, which a test does not install")
    monkeypatch.setenv("NASHJAX_NOTEBOOKS", "small")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    settings: dict[str, Any] = {"timeout": 180, "kernel_name": "python3", "resources": {"metadata": {"path": tmp_path}}}
    nbclient.NotebookClient(notebook, **settings).execute()  # raises where a cell does
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in ran] == list(range(1, len(ran) + 1))
    said = "".join(text for cell in ran for text in texts(cell.outputs))
    assert said.strip()
    assert "Traceback" not in said


@each
def test_the_badge_opens_this_file(file: Path):
    first = load(file)["cells"][0]
    assert first["cell_type"] == "markdown"
    (address,) = re.findall(r"\]\((https://colab\.research\.google\.com/github/[^)]+)\)", "".join(first["source"]))
    assert address.endswith(f"/blob/main/notebooks/{file.name}")


@each
def test_the_first_cell_installs_what_is_missing_but_never_another_jax(file: Path, monkeypatch: pytest.MonkeyPatch):
    install = "".join(code_cells(file)[0]["source"])
    needed = needed_by(install)
    assert {"jax", "jaxlib", "nashjax", "matplotlib"} <= set(needed)
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: commands.append(command))
    there = set(needed)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in there else None)
    exec(install, {})
    assert commands == []  # nothing is missing
    there = {"jax", "jaxlib"}
    exec(install, {})
    (command,) = commands
    assert command[1:4] == ["-m", "pip", "install"]
    assert "--no-deps" in command  # which would bring a jax of their own
    asked = {word for word in command[4:] if not word.startswith("-")}
    assert asked == {package for module, package in needed.items() if module not in there}


@each
def test_what_is_committed_was_run_from_top_to_bottom(file: Path):
    cells = code_cells(file)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]


@each
def test_nothing_of_the_machine_is_committed(file: Path):
    notebook = load(file)
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        said = ["".join(cell["source"]), *texts(cell.get("outputs", []))]
        assert not [found for text in said for found in LOCAL_PATH.findall(text)]
