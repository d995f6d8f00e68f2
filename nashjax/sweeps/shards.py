"""One shard: the answers to a chunk of games as a file that is the same, bit by bit, whenever it is written."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import re
import stat
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nashjax.files.arrays import read_member
from nashjax.files.source import reason
from nashjax.solution import FIELDS, Solution, Status

CHECKSUM = ".sha256"
_NAME = re.compile(r"shard-(\d{8,18})\.npz")
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)
_INTEGERS = {"queries": "int32", "steps": "int32", "status": "int8"}


class Damaged(Exception):  # noqa: N818 (it reads as what it is)
    """A shard that cannot be used; the message, with a verb first, says why in words for a terminal."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """The answers to consecutive games.

    Attributes:
      number: of the shard, from 0 on.
      first_game: the position of its first game among all.
      solution: of all its games, `[games]`, in numpy's arrays.
      input_sha256: SHA-256 of the games themselves: of a line `DTYPE [GAMES, N, N]` and then of their bytes.
    """

    number: int
    first_game: int
    solution: Solution
    input_sha256: str

    @property
    def num_games(self) -> int:
        """How many games it answers."""
        return len(self.solution.status)

    def statuses(self) -> np.ndarray:
        """How many games ended with each value of `Status`, `[len(Status)]`."""
        return np.bincount(np.asarray(self.solution.status), minlength=len(Status))


def shard_name(number: int) -> str:
    """The name of its file."""
    return f"shard-{number:08d}.npz"


def shard_number(name: str) -> int | None:
    """The number of the shard with this name of a file, None where it is not the name of one."""
    match = _NAME.fullmatch(name)
    return None if match is None or shard_name(int(match[1])) != name else int(match[1])


def encode(shard: Shard) -> bytes:
    """The content of the file: an uncompressed archive of arrays, with nothing in it of when or where."""
    arrays = {name: np.asarray(getattr(shard.solution, name)) for name in FIELDS}
    arrays |= {"first_game": np.int64(shard.first_game), "input_sha256": np.array(shard.input_sha256)}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", _FIRST_DATE), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    return stream.getvalue()


def checksum_line(name: str, content: bytes) -> bytes:
    """What stands in the file beside it, as `sha256sum` writes it."""
    return f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode()


def read_regular(path: Path, most: int = -1) -> bytes:
    """The content of a file, or its first bytes; OSError where it is a pipe or a device, which may have no end."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a directory says what it is
        raise OSError(errno.EINVAL, "no regular file")
    with open(path, "rb") as stream:
        return stream.read(most)


def read_shard(directory: Path, number: int, dtype: np.dtype) -> Shard:
    """Read a shard of a sweep in this dtype, and check the shard against its checksum.

    Raises:
      Damaged: the shard or its checksum is missing, they do not agree, or it holds something else than answers.
    """
    name = shard_name(number)
    try:
        content = read_regular(directory / name)
        expected = read_regular(directory / (name + CHECKSUM), len(name) + 100)
    except FileNotFoundError as error:
        raise Damaged("has no checksum" if error.filename.endswith(CHECKSUM) else "is missing") from error
    except OSError as error:
        raise Damaged(f"cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise Damaged("is larger than the memory") from error
    if checksum_line(name, content) != expected:
        raise Damaged("does not agree with its checksum")
    try:
        return _decode(number, content, dtype)
    except Exception as error:  # whatever zipfile and numpy raise on hostile bytes
        raise Damaged(f"holds no answers ({reason(error)})") from error


def _decode(number: int, content: bytes, dtype: np.dtype) -> Shard:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        fields = list(FIELDS)
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if set(members) != {*fields, "first_game", "input_sha256"}:
            raise ValueError("other arrays than those of a shard")
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise ValueError("compressed arrays")  # which could unpack to any size
        arrays: dict[str, Any] = {
            name: read_member(archive, name, "the shard", lambda header: None) for name in members
        }
    digest, first_game = arrays.pop("input_sha256"), arrays.pop("first_game")
    games = arrays["status"].shape
    dtypes = {name: _INTEGERS.get(name, dtype) for name in fields}
    shapes = {name: games if name != "log_policy" else (*games, arrays["log_policy"].shape[-1]) for name in fields}
    good = len(games) == 1 and digest.shape == () and digest.dtype == "U64"
    good &= first_game.shape == () and first_game.dtype == "int64" and bool(first_game >= 0)
    good &= all(arrays[name].dtype == dtypes[name] and arrays[name].shape == shapes[name] for name in fields)
    if not good or not np.isin(arrays["status"], list(Status)).all():
        raise ValueError("arrays of other shapes or types than those of a shard")
    return Shard(number, int(first_game), Solution(**arrays), str(digest))


def as_shard(number: int, first_game: int, solution: Solution, input_sha256: str) -> Shard:
    """The shard of a solution, its arrays brought to numpy."""
    return Shard(number, first_game, jax.tree.map(np.asarray, solution), input_sha256)
