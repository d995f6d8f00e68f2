"""Every notebook runs from a clean kernel, in its small setting, and shows what it showed when it was made."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient, of the extra `test`")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient, of the extra `test`")
pytest.importorskip("ipykernel", reason="needs ipykernel, of the extra `test`")
for _module in ("matplotlib", "pyarrow", "optax", "flax"):
    pytest.importorskip(_module, reason="needs the extras `plot`, `rank` and `train`")

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
LONG = {"06_language_model"}
"""A run of two minutes; what it does is tested in tests/lm."""


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def test_there_are_notebooks():
    assert len(PATHS) >= 6


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_committed_outputs_are_whole(path: Path):
    text = path.read_text(encoding="utf-8")
    assert str(Path.home()) not in text
    assert "site-packages" not in text
    outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
    assert outputs
    assert all(output["output_type"] != "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("path", [p for p in PATHS if p.stem not in LONG], ids=lambda path: path.stem)
def test_it_opens_in_colab_and_installs_only_what_is_missing(path: Path):
    first = "".join(cells(path, "markdown")[0]["source"])
    assert f"/blob/main/notebooks/{path.name})" in first
    install = "".join(cells(path, "code")[0]["source"])
    assert "find_spec(module) is None" in install
    assert "--no-deps" in install  # so that the jax of the runtime stays what it is


@pytest.mark.filterwarnings("default")  # those of the kernel's own machinery
@pytest.mark.parametrize("path", [p for p in PATHS if p.stem not in LONG], ids=lambda path: path.stem)
def test_it_runs_from_a_clean_kernel(path: Path, tmp_path: Path):
    notebook = nbformat.read(path, as_version=4)
    environment = {**os.environ, "NASHJAX_NOTEBOOKS": "small", "IPYTHONDIR": str(tmp_path)}
    client = nbclient.NotebookClient(notebook, timeout=150, resources={"metadata": {"path": str(FOLDER)}})
    client.execute(env=environment)
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in ran)
    assert not any(output.output_type == "error" for cell in ran for output in cell.outputs)
