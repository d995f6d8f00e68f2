"""Arguments of a wrong type on purpose, which the type checker does not see."""

from typing import Any


def anything(x: Any) -> Any:
    """The value, of no known type."""
    return x
