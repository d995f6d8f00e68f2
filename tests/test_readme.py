"""What the README shows is what happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nashjax as nj

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_the_example_prints_what_it_says(tmp_path: Path):
    code, shown = blocks("python")[0], blocks("text")[0]
    assert len(code.strip().splitlines()) <= 7  # the imports, and six lines at most
    users = os.environ | {"XLA_FLAGS": ""}  # not as tests compile
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True, env=users
    )
    # Other machines may round the last digits otherwise, and print fewer.
    number = re.compile(r"\d+\.\d+(?:e-?\d+)?")
    form = [re.sub(" +", " ", number.sub("#", text)) for text in (done.stdout, shown)]
    assert form[0] == form[1]
    for found, said in zip(number.findall(done.stdout), number.findall(shown), strict=True):
        assert abs(float(found) - float(said)) <= 1e-3 * abs(float(said)) + 1e-6


def test_the_example_of_comparisons_runs(tmp_path: Path):
    pytest.importorskip("optax", reason="needs the extra `train`")
    code = blocks("python")[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    *policy, comparisons = (float(number) for number in re.findall(r"[\d.]+", done.stdout))
    assert 10_000 < comparisons <= 20_000
    assert max(abs(p - 0.2) for p in policy) < 0.03  # by symmetry the equilibrium is uniform


def test_the_example_of_sweeps_runs(tmp_path: Path):
    code = blocks("py")[0]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.startswith("0 (1000, 5) ")


def test_the_continuous_integration_runs_the_second_command():
    install, test = (command.strip() for command in blocks("sh")[:2])
    assert install.endswith("&& nashjax demo")
    assert test in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


PAGES = (README, *((ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "CHANGELOG.md")))


def test_links_lead_somewhere():
    targets = [target for page in PAGES for target in re.findall(r"\]\(([^)#]+)\)", page)]
    assert len(targets) > 10
    assert [t for t in targets if not (t.startswith("https://") or (ROOT / t).exists())] == []


def test_public_names_are_there():
    pytest.importorskip("flax", reason="needs the extra `train`")
    for page in PAGES:
        for name in re.findall(r"`nj\.([A-Za-z_]+(?:\.[A-Za-z_]+)*)", page):
            value = nj
            for part in name.split("."):
                value = getattr(value, part)
    assert set(nj.__all__) <= set(dir(nj))
