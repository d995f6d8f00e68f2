"""The line that tells how far a long computation is."""

from __future__ import annotations

import pytest

pytest.importorskip("flax", reason="needs the extra `train`")

from nashjax.lm.train import Totals
from nashjax.lm.train import _progress_bar as fine_tuning
from nashjax.progress import progress_line


def test_it_is_drawn_on_terminals_only_unless_asked_for(capsys: pytest.CaptureFixture[str]):
    for options in ({}, {"shown": False, "asked": True}):
        with progress_line("games", 10, **options) as show:
            show(3, "3 [games]")
    assert capsys.readouterr() == ("", "")
    for total in (10, None):
        with progress_line("games", total, done=2, asked=True) as show:
            show(3, "some [bold]games")
        shown = capsys.readouterr()
        assert "some [bold]games" in shown.out
        assert ("3/10" if total else "3/?") in shown.out
        assert shown.err == ""


def test_a_fine_tuning_draws_it(capsys: pytest.CaptureFixture[str]):
    with fine_tuning(True, 8, 0) as show:
        show(2, Totals(steps=2, kl=1.0, tokens=30, seconds=3), [])
    assert "KL 0.50, 10 tokens/s" in capsys.readouterr().out
