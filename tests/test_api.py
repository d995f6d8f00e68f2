"""The public face: names, signatures and docstrings."""

import doctest
import enum
import importlib
import inspect
import re
from pathlib import Path

import api
import jax
import pytest

PAGE = Path(__file__).resolve().parents[1] / "API.md"
NEEDS = {
    "stochastic": "optax",
    "lm": "tokenizers",
    "lm.tunix": "tokenizers",
    "ranking": "pandas",
    "plotting": "matplotlib",
}
GAMES = tuple(f"games.{name}" for name in ("base", "matrix", "embedding", "low_rank", "random"))
EXAMPLES = ("_solve", "solution", "algorithms.base", "algorithms.auto", *GAMES, "metrics", "sweeps.run", "plotting")


@pytest.mark.parametrize("name", api.MODULES)
def test_the_page_of_public_names_is_what_there_is(name):
    """Signatures are frozen there: a change that was meant is written by `python tests/api.py > API.md`."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"nashjax.{name} needs an extra")
    assert "\n" + api.table(name) in PAGE.read_text(encoding="utf-8")


def test_the_page_has_no_other_sections():
    sections = re.findall(r"^## `nj\.?(.*)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sections == list(api.MODULES)


def documentation(value: object) -> str:
    """The docstring; of a class that of its bases, too, which say what it inherits."""
    bases = [base for base in value.__mro__ if base.__module__.startswith("nashjax")] if isinstance(value, type) else []
    return "\n".join(inspect.getdoc(each) or "" for each in (bases or [value]))


@pytest.mark.parametrize("name", api.MODULES)
def test_docstrings_tell_of_every_parameter(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"nashjax.{name} needs an extra")
    public = api.module(name)
    silent = []
    for member in public.__all__:
        value = getattr(public, member)
        said = documentation(value)
        if not said:
            silent.append(member)
        if api.has_parameters(value) and not issubclass(value if isinstance(value, type) else object, enum.Enum):
            names = [parameter.name for parameter in api.parameters(value)]
            silent += [f"{member}: {one}" for one in names if not re.search(rf"\b{one}\b", said)]
    assert not silent


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_in_docstrings_are_true(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jax.config.update("jax_enable_x64", False)  # as it is unless told otherwise
    try:
        result = doctest.testmod(
            importlib.import_module(f"nashjax.{name}"), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
        )
    finally:
        jax.config.update("jax_enable_x64", True)
    assert result.attempted > 0
    assert result.failed == 0
