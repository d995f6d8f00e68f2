"""What a folder says of the run that made it, compared with what a run is that would go on from it."""

from __future__ import annotations

import json
from typing import Any

from nashjax.files.errors import shortened


def first_difference(there: Any, here: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Where two settings, as JSON holds them, differ first.

    Args:
      there: those of the folder.
      here: those of this run.
      name: of the setting that they are; names of inner ones follow behind a dot.

    Returns:
      The name of the setting and the two values, `...` for one that is not there; None where nothing differs.
    """
    if isinstance(there, dict) and isinstance(here, dict):
        for key in (*here, *(key for key in there if key not in here)):
            different = first_difference(there.get(key, ...), here.get(key, ...), f"{name}.{key}".lstrip("."))
            if different is not None:
                return different
        return None
    return None if there == here and type(there) is type(here) else (name, there, here)


def told(value: Any) -> str:
    """A value of `first_difference` in a message."""
    if value is ...:
        return "nothing"
    try:
        return shortened(json.dumps(value), 80)
    except RecursionError:
        return "deeply nested lists"
