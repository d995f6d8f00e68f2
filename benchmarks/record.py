"""Writing the figures of a study, with what they were measured on."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import jax

import nashjax as nj

RESULTS = Path(__file__).parent / "results"


def describe_machine() -> dict[str, Any]:
    """What a study is run on."""
    return {
        "nashjax": nj.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
        "processor": processor(),
        "cpu_cores": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
    }


def processor() -> str:
    """The name that the processor gives itself, where Linux tells."""
    path = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.*)$", path.read_text(), re.MULTILINE) if path.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def write_results(study: str, about: str, rows: list[dict[str, Any]], folder: Path) -> Path:
    """Write `STUDY.json`: what was measured, on what, and one object a row."""
    return write_file(folder / f"{study}.json", about, rows)


def write_file(path: Path, about: str, rows: list[dict[str, Any]], **more: Any) -> Path:
    """As `write_results`, to any file, with more fields before the rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = {"about": about, "machine": describe_machine()} | more
    head = ",\n ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    path.write_text(f'{{\n {head},\n "rows": [\n  {lines}\n ]\n}}\n', encoding="utf-8")
    return path


def read_rows(study: str, folder: Path = RESULTS) -> list[dict[str, Any]]:
    """The rows of `STUDY.json`."""
    return json.loads((folder / f"{study}.json").read_text(encoding="utf-8"))["rows"]
