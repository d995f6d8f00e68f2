"""Whether a matrix fits into memory, asked before any of it is allocated."""

from __future__ import annotations

import os
from pathlib import Path

from nashjax.files.errors import bad_input

# Reading, checking and solving hold the matrices about this often at a time, in double precision; measured 5 times.
_BYTES_PER_ENTRY = 6 * 8

_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)
"""Of each version: the folder, its files of what a group may use and does use, and the part that can be had back."""


def check_game_memory(where: object, num_items: int, num_games: int = 1) -> None:
    """Raise BadInput unless `num_games` games of `num_items` items can be solved in the memory there is."""
    games = f"{num_games} games of {num_items} items" if num_games > 1 else f"a game of {num_items} items"
    check_memory(where, games, _BYTES_PER_ENTRY * num_games * num_items**2)


def check_memory(where: object, found: str, needed: int) -> None:
    """Raise BadInput unless there are `needed` bytes for what was found."""
    available = available_memory()
    if available is not None and needed > available:
        requirement = f"small enough for the {size(available)} of free memory"
        raise bad_input(where, "", requirement, f"{found}, which needs about {size(needed)}")


def available_memory() -> int | None:
    """The bytes of memory that can still be used, or None where the system does not tell."""
    known = [limit for limit in (_free_memory(), *(_free_in_group(*names) for names in _CGROUPS)) if limit is not None]
    return min(known, default=None)


def _free_memory() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not a POSIX system, or one without these names
        return None


def _free_in_group(folder: Path, limit: str, usage: str, cached: tuple[str, ...]) -> int | None:
    most, used = _number_in(folder / limit), _number_in(folder / usage)
    if most is None:
        return None
    try:
        fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        had_back = sum(int(fields.get(name, 0)) for name in cached)
    except (OSError, ValueError):
        had_back = 0
    return max(most - max((used or 0) - had_back, 0), 0)


def _number_in(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None


def size(num_bytes: int) -> str:
    """So many bytes in words."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:,.3g} MB"
