"""Reading the directory of a sweep, finished or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nashjax.files.errors import BadInput, visible
from nashjax.sweeps import store
from nashjax.sweeps.shards import Damaged, Shard, read_shard, shard_name


@dataclasses.dataclass(frozen=True)
class SweepResults:
    """The answers in a directory; iterating reads one shard after the other, in the order of the games.

    Attributes:
      directory: where they are.
      manifest: what the sweep was started with.
      numbers: of the shards that were there when this was made; those of a sweep that was stopped may have gaps.
      complete: whether the sweep has ended and all its shards are there.
    """

    directory: Path
    manifest: dict[str, Any]
    numbers: tuple[int, ...]
    complete: bool

    def __len__(self) -> int:
        """The number of shards."""
        return len(self.numbers)

    def __iter__(self) -> Iterator[Shard]:
        """Read each shard and check it.

        Raises:
          BadInput: one is damaged.
        """
        last: Shard | None = None
        for number in self.numbers:
            try:
                shard = read_shard(self.directory, number)
                if last is not None and shard.number == last.number + 1:
                    expected = last.first_game + last.num_games
                    if shard.first_game != expected:
                        raise Damaged(f"it begins with game {shard.first_game}, not with {expected}")
            except Damaged as error:
                where = visible(str(self.directory / shard_name(number)))
                raise BadInput(f"{where}: is damaged: {error}; the same sweep, started again, makes it anew") from None
            yield shard
            last = shard


def load(directory: str | Path) -> SweepResults:
    """Open the directory of a sweep, finished or not, for reading.

    Raises:
      BadInput: it is none, or one of a format that this version does not know.
    """
    directory = Path(directory)
    manifest = store.read_manifest(directory)
    numbers = tuple(store.shard_numbers(directory))
    summary = store.read_summary(directory)
    # The number first: a range of what a damaged summary says might fill the memory.
    complete = summary is not None and len(numbers) == summary["shards"] and numbers == tuple(range(len(numbers)))
    return SweepResults(directory, manifest, numbers, complete)
