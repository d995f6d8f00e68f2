"""Read the directory of a sweep, finished or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nashjax.files.errors import BadInput, bad_input, visible
from nashjax.sweeps import store
from nashjax.sweeps.shards import Damaged, Shard, read_shard, shard_name
from nashjax.sweeps.sources import Source, as_source, described_games


@dataclasses.dataclass(frozen=True)
class SweepResults:
    """Answers in a directory; iterating reads one shard after the other, in the order of the games.

    Attributes:
      directory: path of the sweep.
      manifest: what the sweep was started with.
      numbers: of the shards that were there when this was made; those of a sweep that was stopped may have gaps.
      complete: whether the sweep has ended and all its shards are there.
    """

    directory: Path
    manifest: dict[str, Any]
    numbers: tuple[int, ...]
    complete: bool

    def __len__(self) -> int:
        """Return the number of shards."""
        return len(self.numbers)

    def __iter__(self) -> Iterator[Shard]:
        """Read each shard and check it; its arrays are numpy's, in the dtype of the sweep.

        Raises:
          BadInput: a shard is damaged.
        """
        last: Shard | None = None
        for number in self.numbers:
            try:
                shard = read_shard(self.directory, number, np.dtype(self.manifest["dtype"]))
                if last is not None and shard.number == last.number + 1:
                    expected = last.first_game + last.num_games
                    if shard.first_game != expected:
                        raise Damaged(f"begins with game {shard.first_game} instead of {expected}")
            except Damaged as error:
                raise store.damaged(self.directory, number, error) from error
            yield shard
            last = shard

    def games(self, shard: Shard, source: Any = None) -> np.ndarray:
        """Return the games that a shard answers, bit for bit as the sweep has solved them.

        The games are not stored. Random games are drawn again, whether or not `jax_enable_x64` is set; other games
        are read again from the source of the sweep. The result is compared with the checksum in the shard.

        Args:
          shard: one of this sweep.
          source: the folder or iterable that the sweep was given; not needed for `RandomGames`.

        Returns:
          Preferences `[games, n, n]`, a numpy array in the dtype of the sweep.

        Raises:
          TypeError: the source is missing or is none.
          BadInput: the source gives other games now, or other rounding. Random games need the jax version and the
            platform of the sweep (`manifest["versions"]`, `manifest["devices"]`).
        """
        stream = self._random_games() if source is None else as_source(source)
        size, dtype = self.manifest["chunk_size"], np.dtype(self.manifest["dtype"])
        most = stream.num_chunks(size)
        if most is None or shard.number < most:
            for chunk in stream.chunks(size, dtype, lambda number: number == shard.number):
                if chunk.number == shard.number:
                    if chunk.digest == shard.input_sha256:
                        return chunk.games
                    break
        advice = "Draw random games with the versions and on the platform that the manifest names."
        requirement = f"the source of the games in {shard_name(shard.number)}"
        raise bad_input(self.directory, "source", requirement, "other games", advice if source is None else "")

    def _random_games(self) -> Source:
        described = self.manifest["source"]
        if described["from"] != "random_games":
            raise TypeError(f"source must be the {described['from']} that the sweep was given, got None.")
        try:
            return described_games(described)
        except (TypeError, ValueError) as error:
            where = visible(str(self.directory / store.MANIFEST))
            raise BadInput(f"{where}, source: {visible(str(error))}") from error


def load(directory: str | Path) -> SweepResults:
    """Open the directory of a sweep, finished or not, for reading.

    Raises:
      BadInput: the directory holds no sweep, a damaged manifest, or one of a format that this version does not know.
    """
    directory = Path(directory)
    manifest = store.read_manifest(directory)
    numbers = tuple(store.shard_numbers(directory))
    summary = store.read_summary(directory)
    # The number first: a range of what a damaged summary says might fill the memory.
    complete = summary is not None and len(numbers) == summary["shards"] and numbers == tuple(range(len(numbers)))
    return SweepResults(directory, manifest, numbers, complete)
