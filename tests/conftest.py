"""Shared by all tests: both precisions, and where the real data is."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from compilation import fast

# Two test processes whose linear algebra each starts a thread on every core get in each other's way.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("XLA_FLAGS", fast())

import jax
import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

jax.config.update("jax_enable_x64", True)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell's job in the background ignores interrupts, and so would the programs that tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)

APART = {"test_notebooks.py", "test_readme.py"}
"""Files whose tests start processes and share nothing."""
REAL_DATA = re.compile(r"test_(?:data|newton|plain)\.py::test_(?:it_loads|it_solves|real_data)\w*\[(\w+)\]$")
"""Tests that share a data set and its program."""


def group(nodeid: str) -> str:
    """What one process runs together: what it has compiled for one test it need not compile for the next."""
    path = nodeid.partition("::")[0]
    if path.rpartition("/")[2] in APART:
        return nodeid
    shared = REAL_DATA.search(nodeid)
    # The page is made once for the tests of its text and for those in a browser.
    return shared[1] if shared else path.replace("test_page_in_browser.py", "test_page.py")


class ByGroup(LoadScopeScheduling):
    """By `group`: the marks `xdist_group` of pytest-xdist 3.8 are not seen by pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Distribute groups, those of most tests first."""
    return ByGroup(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled programs from one run of a test to the next, and for the command lines that it starts."""
    if getattr(config, "cache", None) is None:
        return
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")  # each its own: they write at the same time
    settings = {
        "jax_compilation_cache_dir": str(config.cache.mkdir(f"compiled-{worker}")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


AS_BY_USERS = "compiled_as_by_users"
ended_as_by_users: dict[Path, subprocess.CompletedProcess[str]] = {}


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run what hangs on the last digits of float32 in a process with the compiler as users have it, a file at once."""
    if pyfuncitem.get_closest_marker(AS_BY_USERS) is None or not os.environ["XLA_FLAGS"]:
        return None
    path = pyfuncitem.path
    if path not in ended_as_by_users:
        asked = [
            item for item in pyfuncitem.session.items if item.path == path and item.get_closest_marker(AS_BY_USERS)
        ]
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        ended_as_by_users[path] = subprocess.run(
            [*command, *(item.nodeid for item in asked)],
            cwd=pyfuncitem.config.rootpath,
            env=environment | {"XLA_FLAGS": "", "PYTEST_ADDOPTS": "-rA"},
            capture_output=True,
            text=True,
        )
    ended = ended_as_by_users[path]
    assert f"PASSED {pyfuncitem.nodeid}" in ended.stdout.splitlines(), ended.stdout + ended.stderr
    return True


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Forget the compiled programs of a file of tests at its end, unless the next goes on with the same data.

    Each takes some memory maps, of which Linux allows a process 65,530: with those of all tests jaxlib crashes.
    """
    if nextitem is not None and nextitem.path != item.path and group(nextitem.nodeid) != group(item.nodeid):
        jax.clear_caches()


DATA = Path(os.environ.get("NASHJAX_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets with reference answers."""
    if not DATA.is_dir():
        pytest.skip("needs real data sets, which are not part of the project, see CONTRIBUTING.md")
    return DATA
