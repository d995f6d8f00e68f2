"""The compiled programs of the stages, least recently used first."""

from __future__ import annotations

import collections
import threading
import warnings
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

MOST_MAPS = 50_000
"""Memory maps of the process at which programs are dropped: Linux allows 65,530, beyond which LLVM aborts."""
_MAPS = Path("/proc/self/maps")


def count_maps() -> int:
    """Return how many memory maps the process has; 0 where the operating system does not tell."""
    try:
        with _MAPS.open("rb") as lines:
            return sum(1 for _ in lines)
    except OSError:
        return 0


class Programs:
    """Jitted functions by a key; the least recently used are dropped before the process runs out of memory maps.

    Attributes:
      most_maps: number of memory maps at which half of the programs are dropped.
    """

    def __init__(self, most_maps: int = MOST_MAPS) -> None:
        self.most_maps = most_maps
        self._programs: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._has_warned = False

    def __len__(self) -> int:
        return len(self._programs)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the program of a key; `make` returns a new jitted function where there is none."""
        program = self._programs.get(key)
        with self._lock:
            if program is None:
                program = self._programs.get(key)
            if program is None:
                self._make_room()
                program = self._programs[key] = make()
            else:
                self._programs[key] = program
                self._programs.move_to_end(key)
        return program

    def clear(self) -> None:
        """Drop all programs."""
        with self._lock:
            self._drop(len(self._programs))

    def _make_room(self) -> None:
        """Drop the older half of the programs if memory maps run out, and say so once."""
        if not self._programs or count_maps() < self.most_maps:
            return
        number = (len(self._programs) + 1) // 2
        self._drop(number)
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"nashjax dropped its {number} least recently used compiled programs: the process has "
                f"{self.most_maps} memory maps or more, and Linux allows 65,530. They are compiled again when needed.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _drop(self, number: int) -> None:
        for _ in range(number):
            _, program = self._programs.popitem(last=False)
            program.clear_cache()


PROGRAMS = Programs()
