"""Errors about files and options: one line each, safe to print."""

from __future__ import annotations

from nashjax._validation import message


class BadInput(ValueError):  # noqa: N818 (the name says what happened)
    """A file or an option that cannot be used; the message is one line for the user."""


def bad_input(where: object, subject: str, requirement: str, got: str, advice: str = "") -> BadInput:
    """Return the error `WHERE: SUBJECT must be REQUIREMENT, got GOT. ADVICE`.

    Args:
      where: the file, with its line or byte, or the option. An empty string leaves it out.
      subject: what in that place is wrong. An empty string if it is the place itself: `WHERE must be ...`.
      requirement: what the subject must be, as in `arguments.message`.
      got: what was found.
      advice: one full sentence that says how to fix it, or nothing.
    """
    place = shortened(str(where), 300)
    named = f"{place}: {subject}" if place and subject else place or subject
    return BadInput(message(named, requirement, got, advice))


def unreadable(where: object, error: OSError) -> BadInput:
    """Return the error for a file that the operating system does not open or read."""
    name = visible(str(where))
    if isinstance(error, FileNotFoundError):
        return bad_input(name, "", "a file that exists", "a path where nothing is")
    if isinstance(error, IsADirectoryError):
        return bad_input(name, "", "a file", "a directory")
    return bad_input(name, "", "a readable file", f"the error {error.strerror or error}")


def unwritable(where: object, error: OSError) -> BadInput:
    """Return the error for a file that the operating system does not write."""
    return bad_input(visible(str(where)), "", "writable", f"the error {error.strerror or error}")


def visible(text: str) -> str:
    """The text with every control, format or unpaired character escaped, so that it cannot steer a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def sentence(text: str) -> str:
    """The text made visible, with a period at its end."""
    return f"{visible(text.strip()).rstrip('.')}."


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
