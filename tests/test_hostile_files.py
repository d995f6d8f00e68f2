"""Files made to break their readers: each is refused in one line that names it, with the cause chained."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nashjax as nj
from nashjax.commands.run_settings import read_settings
from nashjax.files import BadInput, read_games
from nashjax.files.settings import first_difference, told
from nashjax.sweeps import store
from nashjax.sweeps.shards import Damaged, checksum_line, encode, read_shard, shard_name

GAME = np.full((3, 3), 0.5)
DEEP = "[" * 100_000


def refused(call: Callable[[], Any]) -> str:
    """The message of the error, which is one line and has a cause where a parser failed."""
    with pytest.raises(BadInput) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable()
    assert message.endswith(".")
    if "undamaged" in message or "unreadable header" in message:
        assert caught.value.__cause__ is not None
    return message


def npy(shape: str, descr: str = "<f8", data: bytes = GAME.tobytes()) -> bytes:
    """An array file whose header holds any text for its shape."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


HEADERS = {
    "a truth": ("(True, 3)", "g.npy must be an array written by numpy.save, got an unreadable header."),
    "33 axes": (f"({'1, ' * 31}3, 3)", "g.npy must be an array written by numpy.save, got an unreadable header."),
    "a float": ("(3.0, 3)", "g.npy must be an array written by numpy.save, got an unreadable header."),
    "negative": ("(-3, -3)", "g.npy must be an array written by numpy.save, got an unreadable header."),
    "deep": ("(" * 500 + "3" + ")" * 500, "got an unreadable header."),
    "longer than the file": ("(2, 3, 3)", "g.npy must be 144 bytes long after its header of shape [2, 3, 3], got 72."),
    "larger than a number": (f"({2**70}, {2**70})", "g.npy must be small enough for the "),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_is_not_believed(tmp_path: Path, kind: str):
    shape, message = HEADERS[kind]
    (tmp_path / "g.npy").write_bytes(npy(shape))
    assert message in refused(lambda: read_games(tmp_path / "g.npy"))


def archive(path: Path, packing: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", packing) as written:
        for name, content in members.items():
            written.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("point", [0x110000, 0x80000000, 0xFFFFFFFF])
def test_names_that_are_no_characters_are_refused(tmp_path: Path, point: int):
    for width in (1, 2):  # numpy refuses some of those that are one character long
        items = npy("(3,)", f"<U{width}", struct.pack("<II", point, 98) * 3)
        path = archive(tmp_path / "g.npz", preferences=npy("(3, 3)"), items=items)
        message = f"g.npz, array items: characters must be at most U+10FFFF, got U+{point:X}."
        assert refused(lambda path=path: read_games(path)).endswith(message)


def test_archives_are_packed_by_deflate_or_not_at_all(tmp_path: Path):
    path = archive(tmp_path / "g.npz", zipfile.ZIP_BZIP2, preferences=npy("(3, 3)"))
    message = refused(lambda: read_games(path))
    assert message.endswith("g.npz, array preferences: compression must be none or deflate, got method 12.")


def test_sizes_in_an_archive_are_not_believed(tmp_path: Path):
    """The directory promises 2 GB, and the header that many entries."""
    path = archive(tmp_path / "g.npz", preferences=npy("(27777777, 3, 3)"))
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 2 * 10**9)
    path.write_bytes(bytes(content))
    assert "g.npz, array preferences must be at most " in refused(lambda: read_games(path))


@pytest.mark.parametrize("kind", ["encrypted", "cut", "empty directory", "directory that points elsewhere"])
def test_damaged_archives_are_refused(tmp_path: Path, kind: str):
    path = archive(tmp_path / "g.npz", preferences=npy("(3, 3)"))
    content = bytearray(path.read_bytes())
    directory, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    match kind:
        case "encrypted":
            content[directory + 8] |= 1
            content[6] |= 1
        case "cut":
            del content[end - 20 : end]
        case "empty directory":
            content[end + 12 : end + 16] = bytes(4)
        case _:
            content[directory + 42 : directory + 46] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(bytes(content))
    assert "g.npz" in refused(lambda: read_games(path))


# --- the folders of runs and sweeps ---

SETTINGS: dict[str, Any] = {
    "model": None,
    "gguf": None,
    "lora_rank": 0,
    "dtype": "float32",
    "answer_length": 3,
    "demo": True,
    "judge": "demo",
    "judge_model": None,
}
RUNS: dict[str, tuple[str, str]] = {
    "deep": (DEEP, "run.json must be an undamaged JSON file, got nesting that is too deep."),
    "a list": ("[1]", "run.json must be an object, got a list."),
    "no JSON": ("{", "run.json must be an undamaged JSON file, got JSONDecodeError: "),
    "no UTF-8": ('"\udcff"', "run.json must be an undamaged JSON file, got UnicodeDecodeError: "),
    "rank": (json.dumps(SETTINGS | {"lora_rank": 10**12}), "lora_rank must be an integer from 0 to 65536, got 1000"),
    "truth": (json.dumps(SETTINGS | {"lora_rank": True}), "lora_rank must be an integer from 0 to 65536, got true."),
    "path": (json.dumps(SETTINGS | {"gguf": 3}), "run.json: gguf must be a string or null, got 3."),
    "length": (
        json.dumps(SETTINGS | {"answer_length": "3"}),
        'answer_length must be an integer from 1 to 16777216, got "',
    ),
    "a key more": (json.dumps(SETTINGS | {"more": 1}), "run.json: more must be one of the keys model, gguf, "),
}


@pytest.mark.parametrize("kind", RUNS)
def test_settings_of_a_run_are_checked(tmp_path: Path, kind: str):
    text, message = RUNS[kind]
    (tmp_path / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert message in refused(lambda: read_settings(tmp_path, "FOLDER"))


def test_settings_that_are_whole_are_read(tmp_path: Path):
    (tmp_path / "run.json").write_text(json.dumps(SETTINGS))
    assert read_settings(tmp_path, "FOLDER") == SETTINGS


RECORD: dict[str, Any] = {
    "step": 1,
    "judge_calls": 2,
    "win_rate": 0.5,
    "kl": 0.0,
    "entropy": 1.0,
    "answer_length": 3.0,
    "gradient_norm": 1,
    "tokens_per_second": 9.0,
    "reference_win_rate": {"mean": 0.5, "low": 0.4, "high": 0.6},
    "target_win_rate": None,
    "samples": [["prompt", "answer"]],
}
RECORDS: dict[str, str] = {
    "deep": DEEP,
    "a number": "1",
    "a list": "[]",
    "step": json.dumps(RECORD | {"step": "1"}),
    "rate": json.dumps(RECORD | {"reference_win_rate": {"mean": "x", "low": 0, "high": 1}}),
    "number": json.dumps(RECORD | {"kl": [0.0]}),
    "samples": json.dumps(RECORD | {"samples": [[1, 2]]}),
    "no UTF-8": '"\udcff"',
}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_whole_line_of_metrics_that_is_no_record_is_named(tmp_path: Path, kind: str):
    pytest.importorskip("flax", reason="needs the extra `lm`")
    from nashjax.lm.records import RecordFile

    path, good = tmp_path / "metrics.jsonl", json.dumps(RECORD)
    content = f"{good}\n{RECORDS[kind]}\n{good}\n".encode("utf-8", "surrogateescape")
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"metrics\.jsonl, line 2 must be a record of this run, got ") as caught:
        RecordFile(path, 5)
    assert caught.value.__cause__ is not None
    assert path.read_bytes() == content, "nothing is dropped"
    path.write_text(f"{good}\n{RECORDS['a number']}")  # cut off by a kill
    assert [record.step for record in RecordFile(path, 5).records] == [1]


MANIFESTS = {
    "deep": (DEEP, "manifest.json must be JSON of at most 20 levels, got deeper nesting."),
    "no JSON": ("{", "manifest.json must be JSON, got a file that cannot be parsed."),
    "no UTF-8": ('"\udcff"', "manifest.json must be JSON, got a file that cannot be parsed."),
    "long number": ("1" * 5000, "manifest.json must be JSON, got a file that cannot be parsed."),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_manifests_that_cannot_be_parsed_are_refused(tmp_path: Path, kind: str):
    text, message = MANIFESTS[kind]
    (tmp_path / store.MANIFEST).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert message in refused(lambda: nj.sweeps.load(tmp_path))


def test_deep_settings_can_be_told():
    deep: Any = 0
    for _ in range(100_000):
        deep = [deep]
    assert first_difference({"a": deep}, {"a": 1}) == ("a", deep, 1)
    assert told(deep) == "deeply nested lists"
    while isinstance(deep, list):  # what is nested this deeply cannot be freed at once
        deep = deep.pop()


SHARDS = {
    "no axis": ("log_policy", np.float32(0.5)),
    "more entries than bytes": ("log_policy", npy("(1000000000, 3)", "<f4")),
    "objects": ("status", np.array([None])),
    "records": ("status", np.zeros(1, [("a", "f8")])),
}


@pytest.mark.parametrize("kind", SHARDS)
def test_shards_with_a_checksum_of_their_own_are_checked_too(tmp_path: Path, kind: str):
    games = nj.sweeps.RandomGames("gaussian", 3, 1)
    nj.sweep(games, tmp_path / "SWEEP", beta=0.5, progress=False)
    shard = next(iter(nj.sweeps.load(tmp_path / "SWEEP")))
    name, value = SHARDS[kind]
    stream, path = io.BytesIO(), tmp_path / "SWEEP" / shard_name(0)
    with zipfile.ZipFile(io.BytesIO(encode(shard))) as old, zipfile.ZipFile(stream, "w") as new:
        for member in old.namelist():
            if member != f"{name}.npy":
                new.writestr(member, old.read(member))
            elif isinstance(value, bytes):
                new.writestr(member, value)
            else:
                with new.open(member, "w") as entry:
                    np.lib.format.write_array(entry, np.asarray(value), allow_pickle=True)
    path.write_bytes(stream.getvalue())
    path.with_name(path.name + ".sha256").write_bytes(checksum_line(path.name, stream.getvalue()))
    with pytest.raises(Damaged, match="holds no answers"):
        read_shard(tmp_path / "SWEEP", 0, np.dtype("float32"))
