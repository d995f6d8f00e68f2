"""Files of weights: what is saved comes back, and damaged or hostile archives are refused in one line."""

from __future__ import annotations

import io
import json
import re
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flax", reason="needs the extra `lm`")
pytest.importorskip("optax", reason="needs the extra `lm`")
pytest.importorskip("orbax.checkpoint", reason="needs the extra `lm`")

import jax
import jax.numpy as jnp

from nashjax import lm
from nashjax.files import BadInput
from nashjax.stochastic import CheckpointError
from nashjax.stochastic.checkpoint import Checkpoints

LIKE = {"a": jnp.arange(6, dtype=jnp.float32).reshape(2, 3), "b": jnp.ones(4, jnp.float32)}
VALUES = [0, 1, 127, 255, *range(256)]
"""What damaged bytes are."""
NAMES = {"a": "['a']", "b": "['b']"}


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def header(text: str, version: int = 1, length: int | None = None) -> bytes:
    """The front of an array file with this text for a header."""
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode()


def archive(path: Path, *, compression: int = zipfile.ZIP_STORED, **changes: bytes) -> Path:
    """A file of good weights, some of whose members have other bytes."""
    members = {"a": npy(np.asarray(LIKE["a"])), "b": npy(np.asarray(LIKE["b"]))} | changes
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{NAMES.get(name, name)}.npy", content)
    return path


def same(x: Any, y: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: x.dtype == y.dtype and np.array_equal(x, y), x, y))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_weights_come_back_as_they_were_saved(tmp_path, compression):
    lm.save_weights(tmp_path / "weights.npz", LIKE)
    assert same(lm.load_weights(tmp_path / "weights.npz", jax.tree.map(jnp.zeros_like, LIKE)), LIKE)
    path = archive(tmp_path / "w.npz", compression=compression, b=npy(np.ones(4, ">f8")))
    assert same(lm.load_weights(path, LIKE), LIKE)


def as_array(array: Any) -> bytes:
    return npy(np.asarray(array))


UNREADABLE = "array ['b'] must be an array written by numpy.save, got an unreadable header."
REFUSED: list[tuple[bytes, str]] = [
    (as_array(["x"] * 4), "array ['b'] must be an array of real numbers of at most 8 bytes, got dtype '<U1'."),
    (as_array([b"x"] * 4), "of at most 8 bytes, got dtype '|S1'."),
    (as_array(np.zeros(4, "f4,i4")), "of at most 8 bytes, got dtype "),
    (as_array(np.zeros(4, "V7")), "of at most 8 bytes, got dtype '|V7'."),
    (as_array(np.array([None] * 4)), "array ['b']: dtype must be a number type, got object."),
    (as_array(np.ones(4, complex)), "of at most 8 bytes, got dtype 'complex128'."),
    (as_array(np.ones(4, bool)), "of at most 8 bytes, got dtype 'bool'."),
    (as_array(np.ones(5)), "array ['b'] must be of shape [4], got [5]. Take weights of the same model."),
    (as_array(np.ones((2, 2))), "must be of shape [4], got [2, 2]."),
    (as_array([1, 2, np.nan, 4]), "array ['b'] must be finite numbers, got entries that are not finite."),
    (as_array([1, 2, 3, 1e300]), "array ['b'] must be finite in float32, got larger numbers."),
    (as_array(np.ones(4))[:-1], "array ['b'] must be 32 bytes long after its header of shape [4], got 31."),
    (b"", UNREADABLE),
    (b"\x93NUMPY\x09\x00" + b"\0" * 100, UNREADABLE),
    (header("{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}" + " " * 20), UNREADABLE),
    (header("{'descr': '<f8', 'fortran_order': False, 'shape': (-4,)}" + " " * 20), UNREADABLE),
    (header("{'descr': '<f8', 'fortran_order': False, 'shape': (1e9,)}"), UNREADABLE),
    (header("{'descr': '<f8', 'shape': (4,)}"), UNREADABLE),
    (header("[" * 2000), UNREADABLE),
    (header("(" * 2000 + ")" * 900), UNREADABLE),
    (header("x" * 40_000, 2), UNREADABLE),
    (header("", 2, 2**32 - 1), UNREADABLE),
    (b"\0" * 10**7, "array ['b'] must be at most 65568 bytes long, as an array of shape [4] is, got 10000000 bytes."),
]


def refused(path: Path, message: str) -> None:
    """Check the message, its cause, and that no more memory was needed than for a small file."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=f"^{re.escape(str(path))}.*{re.escape(message)}") as caught:
            lm.load_weights(path, LIKE)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert isinstance(caught.value, BadInput)
    assert str(caught.value).isprintable()
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(("content", "message"), REFUSED)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_array_that_is_no_weight_of_the_model_is_named(tmp_path, content, message, compression):
    refused(archive(tmp_path / "w.npz", compression=compression, b=content), message)


def test_arrays_of_other_models_are_named(tmp_path):
    refused(archive(tmp_path / "w.npz", c=npy(np.ones(2))), "array c.npy must be one of the model's, got an array that")
    lm.save_weights(tmp_path / "less.npz", {"a": LIKE["a"]})
    refused(tmp_path / "less.npz", """array ['b'] must be in the file, got arrays "['a']". Take weights""")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile says that the name is there twice
        with zipfile.ZipFile(archive(tmp_path / "w.npz"), "a") as file:
            file.writestr("['a'].npy", b"")
    refused(tmp_path / "w.npz", "array ['a'].npy must be in the file once, got two of this name.")


def test_files_that_are_no_archives_are_named(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(2))
    refused(tmp_path / "one.npy", " must be an undamaged .npz file, got BadZipFile: File is not a zip file.")
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    refused(tmp_path / "broken.npz", "got BadZipFile: File is not a zip file.")
    refused(tmp_path / "none.npz", " must be a file that exists, got a path where nothing is.")
    refused(tmp_path, " must be a file, got a directory.")


def test_members_that_are_encrypted_or_packed_in_other_ways_are_refused(tmp_path):
    good = archive(tmp_path / "w.npz").read_bytes()
    for offset, value, message in [
        (8, 1, "got RuntimeError: "),  # the flag of encryption, as in the central directory
        (10, 12, "array ['a']: compression must be none or deflate, got method 12."),
        (10, 14, "array ['a']: compression must be none or deflate, got method 14."),
        (10, 99, "array ['a']: compression must be none or deflate, got method 99."),
        (27, 127, "must be at most 65584 bytes long, as an array of shape [2, 3] is, got 21"),  # the declared size
        (42, 255, "must be an undamaged .npz file, got BadZipFile: "),  # where the member begins
    ]:
        content = bytearray(good)
        content[good.index(b"PK\1\2") + offset] = value
        (tmp_path / "w.npz").write_bytes(content)
        refused(tmp_path / "w.npz", message)


def test_damaged_archives_are_refused_or_read_but_never_crash(tmp_path):
    random = np.random.default_rng(0)
    path, refusals = tmp_path / "damaged.npz", []
    for trial in range(300):
        kind = zipfile.ZIP_DEFLATED if trial % 2 else zipfile.ZIP_STORED
        content = bytearray(archive(path, compression=kind).read_bytes())
        for at in random.integers(0, len(content), random.integers(1, 6)):
            content[at] = int(random.choice(VALUES))
        path.write_bytes(content[: random.integers(len(content))] if trial % 5 == 0 else content)
        try:
            found = lm.load_weights(path, LIKE)
            assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, LIKE)
        except CheckpointError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert all(said.startswith(str(path)) and said.isprintable() for said in refusals)


def test_a_checkpoint_with_deeply_nested_json_is_refused(tmp_path):
    """Its settings are JSON, which a reader that calls itself cannot read."""
    checkpoints = Checkpoints(tmp_path, {"beta": 0.1})
    checkpoints.save(1, LIKE)
    assert checkpoints.restore(LIKE) is not None
    files = [file for file in (tmp_path / "1" / "settings").rglob("*") if file.is_file()]
    assert any(json.loads(file.read_text()) == {"beta": 0.1} for file in files)
    for file in files:
        file.write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="1 must be undamaged, got the error ") as caught:
        checkpoints.restore(LIKE)
    checkpoints.close()
    assert isinstance(caught.value, BadInput)
