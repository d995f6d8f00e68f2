"""A small version of the study `benchmarks/file_fuzz.py`: damaged files end with an answer or one line of error."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

pytest.importorskip("pyarrow", reason="needs the extra `rank`")

from benchmarks import file_fuzz


@pytest.fixture(autouse=True)
def single_precision() -> Iterator[None]:
    """As the program begins; `rank` computes in double precision from then on."""
    yield
    jax.config.update("jax_enable_x64", True)


def test_damaged_files_end_with_an_answer_or_one_line_of_error(tmp_path: Path):
    valid, folder = tmp_path / "valid", tmp_path / "folder"
    valid.mkdir()
    file_fuzz.write_games(valid)
    shutil.copytree(valid, folder)
    cases = file_fuzz.draw(valid, 60, seed=1)
    assert {base.form for base, _ in cases} == {"npy", "npz", "csv", "json"}
    ends = []
    for base, content in cases:
        end, done = file_fuzz.run_case(
            base, content, valid, folder, lambda arguments: file_fuzz.call(arguments, folder)
        )
        assert end in ("answered", "refused"), (base, content[:2000], done)
        ends.append(end)
    assert ends.count("refused") > len(ends) / 3, "the damage is noticed"


@pytest.mark.parametrize(
    ("verdict", "changes"),
    [
        ("answered", {"code": 0, "errors": "warning: w\n"}),
        ("refused", {}),
        ("traceback", {"code": None, "errors": "Traceback (most recent call last):\nKeyError: 1\n"}),
        ("traceback", {"code": 1}),
        ("traceback", {"errors": "error: one\nerror: two\n"}),
        ("traceback", {"code": 0, "errors": "RuntimeWarning: overflow\n"}),
        ("memory", {"megabytes": 1001.5}),
        ("memory", {"errors": "error: the computation failed: Unable to allocate 7 GiB\n"}),
        ("hang", {"seconds": 10.5}),
        ("hang", {"code": "hang"}),
    ],
)
def test_the_study_tells_failures_from_good_ends(verdict: str, changes: dict):
    done = {"code": 2, "errors": "error: g.npy must be ...\n", "seconds": 0.1, "megabytes": 999.0} | changes
    assert file_fuzz.verdict(done, 100) == verdict
