"""How a file or an option that cannot be used is reported: one line, safe to print."""


class BadInput(ValueError):  # noqa: N818 (it reads as what it is)
    """A file or an option that cannot be used; the message is one line for the user."""


def bad_input(where: object, found: str, allowed: str) -> BadInput:
    """The error `WHERE: found FOUND; allowed ALLOWED`; `allowed` begins with its verb ("are counts >= 0")."""
    return BadInput(f"{shortened(str(where), 300)}: found {found}; allowed {allowed}")


def unreadable(where: object, error: OSError) -> BadInput:
    """The error for a file that the operating system does not give."""
    if isinstance(error, FileNotFoundError):
        return BadInput(f"{visible(str(where))}: there is no such file")
    if isinstance(error, IsADirectoryError):
        return bad_input(where, "a directory", "is a file")
    return BadInput(f"{visible(str(where))}: cannot be read: {error.strerror or error}")


def unwritable(where: object, error: OSError) -> BadInput:
    """The error for a file that the operating system does not take."""
    return BadInput(f"{visible(str(where))}: cannot be written: {error.strerror or error}")


def visible(text: str) -> str:
    """The text with every control, format or unpaired character escaped, so that it cannot steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(name: str, limit: int = 60) -> str:
    """A name to print: made visible, and cut to `limit` characters."""
    return visible(name if len(name) <= limit else f"{name[:limit]}...")


def number(text: str, kind: type[float] = float) -> float:
    """The number a text stands for, an int for `kind=int`; raises ValueError for all else, such as Python's `1_000`."""
    if "_" in text:
        raise ValueError(text)
    return kind(text)


def quoted(text: str, limit: int = 60) -> str:
    """The text in quotes, made visible and cut to `limit` characters."""
    return repr(text) if len(text) <= limit else f"{text[:limit]!r}..."


def listed(names: list[str], limit: int = 8) -> str:
    """Names in quotes with commas between, at most `limit` of them, and how many more there are."""
    shown = ", ".join(quoted(name, 40) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
