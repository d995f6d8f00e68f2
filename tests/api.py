"""The table of public names: `python tests/api.py > API.md` writes it anew after a change that was meant."""

from __future__ import annotations

import enum
import importlib
import inspect
import re
from typing import Any

MODULES = (
    "",
    "games",
    "algorithms",
    "metrics",
    "distributed",
    "sweeps",
    "stochastic",
    "lm",
    "lm.tunix",
    "ranking",
    "plotting",
)
"""Those with public names, and what is installed with them is tested."""
HEAD = """# Public names

What `import nashjax as nj` offers. All else may change from one version to the next. `help(nj.solve)` tells more.
"""


def module(name: str) -> Any:
    return importlib.import_module(f"nashjax.{name}" if name else "nashjax")


def signature(name: str, value: Any) -> str:
    """The name with its parameters and their defaults; of enumerations the members."""
    if isinstance(value, type) and issubclass(value, enum.Enum):
        return f"{name}: {', '.join(member.name for member in value)}"
    if not has_parameters(value):
        return name
    parts: list[str] = []
    previous = None
    for parameter in parameters(value):
        keyword, variadic = parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL
        if parameter.kind == keyword and previous not in (keyword, variadic):
            parts.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        default = parameter.default
        shown = getattr(default, "__name__", None) or re.sub(r" at 0x[0-9a-f]+", "", repr(default))
        parts.append(f"{stars}{parameter.name}" + ("" if default is parameter.empty else f"={shown}"))
        previous = parameter.kind
    return f"{name}({', '.join(parts)})"


def parameters(value: Any) -> list[inspect.Parameter]:
    """Those that a user passes; of a class those of its `__init__`, which metaclasses such as flax's hide."""
    if isinstance(value, type) and "__init__" in vars(value):
        return list(inspect.signature(vars(value)["__init__"]).parameters.values())[1:]
    return list(inspect.signature(value).parameters.values())


def has_parameters(value: Any) -> bool:
    """Whether a name is called by users: not modules, protocols and errors."""
    is_error = isinstance(value, type) and issubclass(value, BaseException)
    return callable(value) and not is_error and not getattr(value, "_is_protocol", False)


def table(name: str) -> str:
    """The section of one module; of the methods, which stand in the first, only what they have in common."""
    public = module(name)
    prefix = f"nj.{name}." if name else "nj."
    lines = [f"## `{prefix.rstrip('.')}`", "", "| name | what it is |", "| --- | --- |"]
    known = set(module("").__all__) if name == "algorithms" else set()
    for member in sorted((one for one in public.__all__ if one not in known), key=str.lower):
        value = getattr(public, member)
        is_value = not inspect.ismodule(value) and not callable(value)  # whose docstring is that of its type
        summary = "" if is_value else inspect.getdoc(value) or ""
        if is_value:
            summary = f"`{', '.join(map(repr, value)) if isinstance(value, dict) else repr(value)}`"
        first = summary.split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
        shown = f"{member} (below)" if inspect.ismodule(value) else signature(member, value).replace("|", "\\|")
        lines.append(f"| `{shown}` | {first} |".replace("|`", "| `"))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(HEAD + "\n" + "\n".join(table(name) for name in MODULES), end="")
