"""Streams of games solved into a directory: stopped at any moment, a sweep goes on and ends with the same files.

`nashjax.sweep` runs one, `load` reads its directory, `RandomGames` are games drawn from seeds. The directory holds

| file | content |
| --- | --- |
| `manifest.json` | the format (1), and all that answers depend on: the source (of a folder the name of each file, its bytes, the CRC-32 of its games, their number and size), beta, tol, the games of a chunk, the dtype, versions, and the devices of a process (of a processor the cores it may use, too). Later calls must agree with it |
| `shard-00000000.npz` | the answers to the first chunk of games: the fields of `nashjax.Solution`, batch first; `first_game`, the position of its first game among all; `input_sha256`, the SHA-256 of a line `DTYPE [GAMES, N, N]` and of the games' bytes. Chunk k is shard k; uncompressed, with no dates, so that the same answers are the same bytes |
| `shard-00000000.npz.sha256` | its checksum; `sha256sum -c *.sha256` checks all. A shard counts if its checksum is there and agrees |
| `summary.json` | written at the end: how many games and shards there are, and how many games ended with each status |
| `lock` | locked by the process at work (`flock`, which ends with it), and who that is or was; it means nothing else |

Each file is written under another name (`.NAME-RANDOM.partial`), brought to the disk and then renamed, the checksum before
its shard. The games themselves are not stored: `SweepResults.games` draws or reads them again, bit for bit. What a kill leaves of such files is removed by the next call. The manifest and the shards are the whole state.
No pickle is ever written or read. What the manifest does not know is the model of a processor: on another one the last
digits of answers can differ.
"""  # noqa: E501 (a table cell cannot be broken)

from nashjax.sweeps.reading import SweepResults, load
from nashjax.sweeps.run import SweepSummary, sweep
from nashjax.sweeps.shards import Shard
from nashjax.sweeps.sources import RandomGames

__all__ = ["RandomGames", "Shard", "SweepResults", "SweepSummary", "load", "sweep"]
