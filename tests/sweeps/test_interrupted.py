"""Sweeps in processes of their own: killed, interrupted, without room on the disk, several at once."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from sweeps.runs import CODE, contents, finish, resume, start

import nashjax as nj


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a process leaves that nothing happens to; it compiles for all others."""
    directory = tmp_path_factory.mktemp("whole") / "out"
    assert "games=600" in finish(start(CODE, directory))
    return directory


def count_shards(directory: Path) -> int:
    return len(list(directory.glob("shard-*.npz")))


def wait_for_shards(process: subprocess.Popen[str], directory: Path, number: int) -> bool:
    """Whether so many are there before the process ends."""
    while process.poll() is None:
        if count_shards(directory) >= number:
            return True
        time.sleep(0.001)
    return False


def test_killed_at_random_moments(whole: Path, tmp_path: Path):
    directory, moments, kills = tmp_path / "out", random.Random(0), 0
    for _ in range(3):
        process = start(CODE, directory)
        if wait_for_shards(process, directory, count_shards(directory) + moments.randint(1, 5)):
            time.sleep(moments.random() / 50)
            process.kill()
            kills += 1
        process.communicate()
    assert kills >= 2
    assert contents(directory).keys() <= contents(whole).keys() | {n for n in contents(directory) if "partial" in n}
    assert resume(directory).games == 600
    assert contents(directory) == contents(whole)


# Kills itself in the middle of writing: at a call of `os.replace` or `os.fsync`, before or after it.
KILLED = """
import os, sys
calls = 0
def deadly(function):
    def call(*arguments):
        global calls
        calls += 1
        before, at = calls == int(sys.argv[2]), function(*arguments) if calls != int(sys.argv[2]) else None
        if before:
            if sys.argv[3] == "after":
                function(*arguments)
            os.kill(os.getpid(), 9)
        return at
    return call
os.replace, os.fsync = deadly(os.replace), deadly(os.fsync)
"""


def test_killed_at_each_step_of_a_write(whole: Path, tmp_path: Path):
    # A file is fsync, replace, fsync of the directory; a shard is two files; the first file is the manifest.
    directory = tmp_path / "out"
    for step, moment in ((2, "before"), (8, "before"), (8, "after"), (4, "before")):
        process = start(KILLED + CODE, directory, step, moment)
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
    assert 1 <= count_shards(directory) < 30
    assert resume(directory).redone == ()  # nothing half done was ever there
    assert contents(directory) == contents(whole)


def test_no_room_for_a_file(whole: Path, tmp_path: Path):
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))" + CODE
    process = start(limited, tmp_path / "out")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "must have room for shard-00000000.npz of 0.00" in err
    assert "got the error that the file is larger than files may be. Finished files stay" in err
    assert count_shards(tmp_path / "out") == 0
    assert not list((tmp_path / "out").glob(".*partial"))
    resume(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)


def test_interrupted_in_python(whole: Path, tmp_path: Path):
    process = start(CODE, tmp_path / "out")
    assert wait_for_shards(process, tmp_path / "out", 3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    assert not list((tmp_path / "out").glob(".*partial"))
    resume(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(whole)


def test_four_devices(whole: Path, tmp_path: Path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    # A chunk of 50 games, which is no multiple of the devices.
    code = CODE.replace("'chunk_size': 20", "'chunk_size': 50")
    assert "games=600" in finish(start(code, tmp_path / "out", XLA_FLAGS=flags))
    found = np.concatenate([np.exp(shard.solution.log_policy) for shard in nj.sweeps.load(tmp_path / "out")])
    expected = np.concatenate([np.exp(shard.solution.log_policy) for shard in nj.sweeps.load(whole)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
    process = start(code, tmp_path / "out")
    assert "devices.number must be 4 as in its manifest.json, got 1" in process.communicate(timeout=60)[1]


DISTRIBUTED = """
import sys, jax
jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, int(sys.argv[3]), heartbeat_timeout_seconds=10)
"""


def start_two(code: str, directory: Path) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [start(code, directory, port, process) for process in range(2)]


def test_two_processes_of_one_run_one_of_them_killed(whole: Path, tmp_path: Path):
    directory = tmp_path / "out"
    both = start_two(DISTRIBUTED + CODE, directory)
    assert wait_for_shards(both[0], directory, 4)
    both[1].kill()
    both[1].communicate()
    # The first one still lives: a new run is kept out until it has ended.
    both[0].kill()
    both[0].communicate()
    assert count_shards(directory) < 30
    for process in start_two(DISTRIBUTED + CODE, directory):
        assert "games=600" in finish(process)
    assert contents(directory) == contents(whole)


def test_what_is_wrong_in_one_process_ends_both(whole: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    for process in start_two(DISTRIBUTED + CODE, tmp_path / "out"):
        assert "thesis.tex" in process.communicate(timeout=120)[1]
        assert process.returncode != 0
