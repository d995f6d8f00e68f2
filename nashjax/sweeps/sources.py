"""Where the games of a sweep come from: a folder of files, seeds, or a Python iterable; cut into chunks.

One file, though long: the three kinds of sources share how games are cut into chunks and told apart.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from nashjax._validation import (
    LARGEST_INT,
    LARGEST_SEED,
    as_real_array,
    check_choice,
    check_integer,
    check_number,
    invalid,
    shown,
    wrong_type,
)
from nashjax.files.arrays import describe_game_archive, read_game_array
from nashjax.files.errors import bad_input, unreadable
from nashjax.files.memory import check_game_memory
from nashjax.files.source import DEFAULT_LIMIT
from nashjax.files.source import Source as FileSource
from nashjax.games import MatrixGame
from nashjax.games.matrix import as_exact
from nashjax.games.random import KINDS, random_game

MOST_GAMES, MOST_ENTRIES = 2**16, 2**24
"""Of a chunk, unless the caller says how many games: enough to keep a device busy, little to do again after a kill."""
MOST_DRAWN, MOST_DRAWN_ENTRIES = 2**12, 2**19
"""Of the random games that are drawn together. Drawn games depend on these numbers only, not on the chunks."""
LARGEST_CHUNK, MOST_RANDOM_GAMES = LARGEST_INT, 2**32
DRAWS = 2
"""Version of the map from a seed to games, in the manifest. In version 1 (nashjax 0.1) it depended on the dtype."""

K = TypeVar("K")


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Games that are solved together and whose answers stand in one shard.

    Attributes:
      number: of the chunk, from 0 on.
      first_game: the position of its first game among all.
      games: preferences `[games, n, n]`, in the dtype of the sweep.
      where: tells of a game of this chunk, by its position, where it came from.
    """

    number: int
    first_game: int
    games: np.ndarray
    where: Callable[[int], str]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the games, in hexadecimal digits."""
        found = hashlib.sha256(f"{self.games.dtype} {list(self.games.shape)}\n".encode())
        found.update(np.ascontiguousarray(self.games).data)
        return found.hexdigest()


class Source(Protocol):
    """A stream of games that is the same whenever it is read."""

    @property
    def num_games(self) -> int | None:
        """How many games there are, None where only the end of the stream tells."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the manifest says of it: JSON that is the same only for the same games."""
        ...

    def num_chunks(self, chunk_size: int | None) -> int | None:
        """How many chunks there are, None where only the end of the stream tells."""
        ...

    def chunks(self, chunk_size: int | None, dtype: np.dtype, wanted: Callable[[int], bool]) -> Iterator[Chunk]:
        """The chunks whose numbers are wanted, in order; others too, where leaving them out saves nothing."""
        ...


def as_source(source: Any) -> Source:
    """The source that an argument of `sweep` stands for.

    Raises:
      TypeError: it stands for none.
      BadInput: the folder cannot be read.
    """
    if isinstance(source, (str, Path)):
        return GameFolder(Path(source))
    if isinstance(source, (RandomGames, GameFolder)):
        return source
    if isinstance(source, (MatrixGame, np.ndarray, jax.Array)):
        return Iterated((source,))
    if isinstance(source, Iterable) and not isinstance(source, (bytes, dict)):
        return Iterated(source)
    requirement = "the path of a folder, a nashjax.sweeps.RandomGames or an iterable of preferences"
    raise wrong_type("source", requirement, source)


def games_per_chunk(num_actions: int, chunk_size: int | None) -> int:
    """How many games of so many actions a full chunk holds; a power of two unless the caller says another number."""
    if chunk_size is not None:
        return chunk_size
    return _power_of_two(MOST_ENTRIES // num_actions**2, MOST_GAMES)


def cut(items: Iterable[tuple[K, int, int]], chunk_size: int | None) -> Iterator[list[tuple[K, int, int]]]:
    """Cut a stream of batches of games into chunks, games of one size in each; reads no further than it has to.

    Args:
      items: for each batch its key, its number of games and their number of actions.
      chunk_size: as in `sweep`.

    Yields:
      For each chunk the pieces that it is made of: the key of a batch, and its games from a start up to a stop.
    """
    pieces: list[tuple[K, int, int]] = []
    actions = room = 0
    for key, count, n in items:
        if n != actions:
            if pieces:
                yield pieces
            pieces, actions, room = [], n, games_per_chunk(n, chunk_size)
        start = 0
        while start < count:
            stop = min(count, start + room)
            pieces.append((key, start, stop))
            start, room = stop, room - (stop - start)
            if room == 0:
                yield pieces
                pieces, room = [], games_per_chunk(n, chunk_size)
    if pieces:
        yield pieces


@dataclasses.dataclass(frozen=True)
class RandomGames:
    """Games drawn by `nashjax.games.random_game`; a game depends on its position and on these fields only.

    Attributes:
      kind: one of the table of `random_game`.
      num_actions: of each game, >= 2.
      num_games: how many, from 1 to 2^32.
      seed: from 0 to 2^32 - 1.
      scale: as in `random_game`.
      rank: as in `random_game`.

    A seed means the same games in both dtypes, up to rounding, whatever `jax_enable_x64` is.

    Raises:
      TypeError: a field has the wrong type.
      ValueError: a field is out of range.
    """

    kind: str
    num_actions: int
    num_games: int
    seed: int = 0
    scale: float = 1.0
    rank: int = 2

    def __post_init__(self):
        check_choice("kind", self.kind, KINDS)
        limits = {
            "num_actions": (2, 2**15),
            "num_games": (1, MOST_RANDOM_GAMES),
            "seed": (0, LARGEST_SEED),
            "rank": (1, 2**15),
        }
        for name, (low, high) in limits.items():
            # As plain numbers, which the manifest can hold.
            object.__setattr__(self, name, check_integer(name, getattr(self, name), low, high))
        object.__setattr__(self, "scale", check_number("scale", self.scale))

    def games(self, first: int, count: int, dtype: Any = None) -> np.ndarray:
        """Draw games.

        Args:
          first: position of the first game, from 0 to `num_games - 1`.
          count: number of games, >= 1.
          dtype: float32 or float64, also without `jax_enable_x64`; default jax's float type. A sweep of the same
            dtype solves exactly these games, bit for bit.

        Returns:
          Preferences `[count, n, n]`, a numpy array.

        Raises:
          TypeError: an argument has the wrong type.
          ValueError: the source does not have these games, or the dtype is another one.
        """
        first = check_integer("first", first, 0, self.num_games - 1)
        count = check_integer("count", count, 1, self.num_games - first)
        return self._gather(first, count, functools.partial(self._draw, dtype=as_dtype(dtype)))

    def describe(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {"from": "random_games", **dataclasses.asdict(self), "draws": DRAWS}

    def num_chunks(self, chunk_size: int | None) -> int:
        """How many chunks there are."""
        return -(-self.num_games // games_per_chunk(self.num_actions, chunk_size))

    def chunks(self, chunk_size: int | None, dtype: np.dtype, wanted: Callable[[int], bool]) -> Iterator[Chunk]:
        """The chunks whose numbers are wanted."""
        size = games_per_chunk(self.num_actions, chunk_size)
        check_game_memory("source", self.num_actions, min(size, self.num_games))
        # Small chunks share what is drawn together.
        draw = functools.lru_cache(maxsize=1)(functools.partial(self._draw, dtype=dtype))
        for number in filter(wanted, range(self.num_chunks(chunk_size))):
            first = number * size
            games = self._gather(first, min(size, self.num_games - first), draw)
            yield Chunk(number, first, games, lambda i, first=first: f"random game {first + i}")

    def _gather(self, first: int, count: int, draw: Callable[[int], np.ndarray]) -> np.ndarray:
        block = self._block
        numbers = range(first // block, (first + count - 1) // block + 1)
        parts = [draw(k)[max(first - k * block, 0) : first + count - k * block] for k in numbers]
        return np.concatenate(parts)

    @property
    def _block(self) -> int:
        return _power_of_two(MOST_DRAWN_ENTRIES // self.num_actions**2, MOST_DRAWN)

    def _draw(self, number: int, dtype: np.dtype) -> np.ndarray:
        """The block of games of this number; one program draws all of them, so that none depends on the chunks."""
        start = np.uint32(number * self._block)
        # The same program and the same random bits, whatever the settings of jax are in this process.
        with jax.enable_x64(dtype == np.float64), jax.threefry_partitionable(True):
            key = jax.random.wrap_key_data(jnp.array([0, self.seed], jnp.uint32), impl="threefry2x32")
            games = _draw_block(key, start, self.num_actions, self._block, self.kind, self.scale, self.rank)
            return np.asarray(games)


def described_games(description: dict[str, Any]) -> RandomGames:
    """Return the random games that `RandomGames.describe` has described.

    Raises:
      TypeError: a field has the wrong type.
      ValueError: a field is missing, not known or out of range, or the games were drawn by nashjax 0.1.
    """
    if description.get("draws") != DRAWS:
        found = shown(description["draws"]) if "draws" in description else "nothing"
        advice = "Draw games of nashjax 0.1 with that version: its seeds mean other games."
        raise invalid("draws", str(DRAWS), found, advice)
    names = [field.name for field in dataclasses.fields(RandomGames)]
    if set(description) != {"from", "draws", *names}:
        raise invalid("keys", ", ".join(("from", "draws", *names)), ", ".join(description)[:200])
    return RandomGames(**{name: description[name] for name in names})


@functools.partial(jax.jit, static_argnames=("n", "count", "kind", "scale", "rank"))
def _draw_block(key: jax.Array, start: jax.Array, n: int, count: int, kind: str, scale: float, rank: int) -> jax.Array:
    """The games at the positions from `start` on, `[count, n, n]`, each with a key of its own."""

    def draw(position: jax.Array) -> jax.Array:
        return random_game(jax.random.fold_in(key, position), n, kind=kind, scale=scale, rank=rank).preferences

    return jax.vmap(draw)(start + jnp.arange(count, dtype=jnp.uint32))


class GameFolder:
    """The `.npz` files of a folder in the order of their names, each read as `nashjax solve` reads it.

    Args:
      folder: where the files are.
      limit: most bytes that packed arrays of a file may unpack to.

    Raises:
      BadInput: there is no such folder, no such file in it, or one whose headers show that it cannot be used.
    """

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT):
        self._folder, self._limit = folder, limit
        try:
            names = sorted(name for name in os.listdir(folder) if name.lower().endswith(".npz"))
        except NotADirectoryError as error:
            raise bad_input(folder, "", "a folder of .npz files", "a file") from error
        except OSError as error:
            raise unreadable(folder, error) from error
        if not names:
            raise bad_input(folder, "", "a folder of .npz files with games", "a folder without any .npz file")
        self._files = {name: self._look_at(name) for name in names}

    @property
    def num_games(self) -> int:
        """How many games all files have together."""
        return sum(games for _, _, games, _ in self._files.values())

    def describe(self) -> dict[str, Any]:
        """What the manifest says of it: of each file its bytes, the CRC-32 of its games, how many, and their size."""
        return {"from": "folder", "files": {name: list(numbers) for name, numbers in self._files.items()}}

    def num_chunks(self, chunk_size: int | None) -> int:
        """How many chunks there are."""
        return sum(1 for _ in self._plan(chunk_size))

    def chunks(self, chunk_size: int | None, dtype: np.dtype, wanted: Callable[[int], bool]) -> Iterator[Chunk]:
        """The chunks whose numbers are wanted; only their files are read."""
        read = functools.lru_cache(maxsize=1)(self._read)  # a large file is many chunks
        first = 0
        for number, pieces in enumerate(self._plan(chunk_size)):
            if wanted(number):
                games = _join([read(name)[start:stop] for name, start, stop in pieces], dtype)
                where = functools.partial(_where, [(self._folder / name, a, b) for name, a, b in pieces])
                yield Chunk(number, first, games, where)
            first += sum(stop - start for _, start, stop in pieces)

    def _plan(self, chunk_size: int | None) -> Iterator[list[tuple[str, int, int]]]:
        return cut(((name, games, n) for name, (_, _, games, n) in self._files.items()), chunk_size)

    def _read(self, name: str) -> np.ndarray:
        path = self._folder / name
        if self._look_at(name) != self._files[name]:
            raise bad_input(path, "", "the file that was there when the sweep was started", "a file that has changed")
        preferences = read_game_array(FileSource(path, self._limit))[1]
        return preferences.reshape(-1, *preferences.shape[-2:])

    def _look_at(self, name: str) -> tuple[int, int, int, int]:
        """Of a file its bytes, the CRC-32 of its games, how many games, and the actions of each."""
        path = self._folder / name
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise bad_input(path, "", "a regular file", "a pipe or a device")  # reading a pipe would wait for ever
        shape, crc = describe_game_archive(FileSource(path, self._limit))
        return path.stat().st_size, crc, math.prod(shape[:-2]), shape[-1]


class Iterated:
    """Games that a Python iterable gives: preferences `[n, n]` or `[games, n, n]`, or a `MatrixGame` of these."""

    num_games = None

    def __init__(self, iterable: Iterable[Any]):
        self._iterable = iterable

    def describe(self) -> dict[str, Any]:
        """What the manifest says of it; what it gave, only the shards tell."""
        return {"from": "iterable"}

    def num_chunks(self, chunk_size: int | None) -> None:
        """Not known."""
        return

    def chunks(self, chunk_size: int | None, dtype: np.dtype, wanted: Callable[[int], bool]) -> Iterator[Chunk]:
        """All chunks: the iterable has to be drawn anyway."""
        del wanted
        held: dict[int, np.ndarray] = {}

        def draw() -> Iterator[tuple[int, int, int]]:
            for number, item in enumerate(self._iterable):
                # A copy: the next item may be written over this one, in the same memory.
                held[number] = _as_games(item, f"source[{number}]").astype(dtype)
                yield number, len(held[number]), held[number].shape[-1]

        first = 0
        for number, pieces in enumerate(cut(draw(), chunk_size)):
            games = _join([held[item][start:stop] for item, start, stop in pieces], dtype)
            where = functools.partial(_where, [(f"source[{item}]", a, b) for item, a, b in pieces])
            yield Chunk(number, first, games, where)
            first += len(games)
            for item in [item for item in held if item < pieces[-1][0]]:
                del held[item]


def as_dtype(dtype: Any) -> np.dtype:
    """Return the numpy dtype, by default that of jax's floats.

    Raises:
      TypeError: the value is no dtype.
      ValueError: the dtype is not float32 or float64.
    """
    try:
        found = np.dtype(jnp.result_type(float) if dtype is None else dtype)
    except (TypeError, ValueError):
        raise wrong_type("dtype", "float32 or float64", dtype) from None
    if found not in (np.float32, np.float64):
        raise invalid("dtype", "float32 or float64", shown(dtype))
    return found


def _as_games(item: Any, name: str) -> np.ndarray:
    """What an iterable gave as preferences `[games, n, n]`; values are not checked here."""
    if isinstance(item, MatrixGame):
        item = item.preferences
    array = np.asarray(as_real_array(name, item))
    if array.ndim not in (2, 3) or array.shape[-1] != array.shape[-2] or array.shape[-1] < 2 or not len(array):
        raise invalid(name, "preferences [n, n] or [games, n, n] with n >= 2", f"shape {list(array.shape)}")
    if array.dtype.itemsize < 4:
        array = np.asarray(as_exact(array))
    return array.reshape(-1, *array.shape[-2:])


def _join(parts: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):  # what becomes infinite is refused when it is solved
        return np.concatenate([part.astype(dtype, copy=False) for part in parts])


def _where(pieces: list[tuple[Any, int, int]], position: int) -> str:
    """Where the game at this position of a chunk came from: `NAME, game I`."""
    for name, start, stop in pieces:
        if position < stop - start:
            return f"{name}, game {start + position}"
        position -= stop - start
    raise IndexError(position)


def _power_of_two(most: int, limit: int) -> int:
    """The largest power of two that is at most `most` and `limit`, at least 1."""
    return 2 ** int(math.log2(max(1, min(most, limit))))
