"""Shared by all tests: both precisions, and where the real data is."""

from pathlib import Path

import jax
import pytest

jax.config.update("jax_enable_x64", True)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets with reference answers."""
    if not DATA.is_dir():
        pytest.skip("needs the real data sets in ../shared/data, which are not part of the project")
    return DATA
