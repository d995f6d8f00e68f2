"""Renders chat templates under limits. `nashjax.lm.chat` runs this file as a script, in a process of its own.

A template is a program of the model's author. Jinja's sandbox keeps it from Python's internals, but not from loops,
powers or repetitions that never end or fill the memory. Only the operating system can stop all of these, because
many are a single call into C. The script does not import nashjax: jax alone takes longer than all templates.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import signal
import sys
from typing import Any


def main() -> None:
    """Read one request from standard input and write the rendered conversations to standard output, as JSON."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    limit_memory(request["memory"])
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    seconds, length, total = request["seconds"], request["length"], 0
    signal.setitimer(signal.ITIMER_PROF, seconds)
    results: list[dict[str, str]] = []
    try:
        template = environment().from_string(request["source"])
    except Exception as error:  # whatever the template of a model file does; told to the process that asked
        json.dump([{"error": described(error)}] * len(request["conversations"]), sys.stdout)
        return
    for messages in request["conversations"]:
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process, within a call into C, too
        try:
            text = rendered(template, {**request["variables"], "messages": messages}, length)
            results.append({"text": text})
        except Exception as error:  # as above, of one conversation
            results.append({"error": described(error)})
        total += len(results[-1].get("text", ""))
        if total > request["total"]:
            break
    json.dump(results, sys.stdout)


def limit_memory(size: int) -> None:
    """Refuse allocations beyond `size` bytes of address space, where the system can."""
    import resource

    with contextlib.suppress(ValueError, OSError):
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        size = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def rendered(template: Any, variables: dict[str, Any], length: int) -> str:
    """Render a template; raise ValueError as soon as there are more than `length` bytes of output."""
    pieces, size = [], 0
    for piece in template.generate(variables):
        size += len(piece.encode("utf-8", "surrogatepass"))
        if size > length:
            raise ValueError(f"output must have at most {length} bytes, got more.")
        pieces.append(piece)
    return "".join(pieces)


def described(error: Exception) -> str:
    """Return one line about an error."""
    if isinstance(error, MemoryError):
        return "MemoryError: the template needs too much memory"
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def environment() -> Any:
    """Make the environment that transformers gives to chat templates: its blocks, filters and functions."""
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` around what the model has written; rendered as it stands."""

        tags = {"generation"}  # noqa: RUF012 (the base class has a set)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Any) -> Any:
            return caller()

    class Namespace(jinja2.utils.Namespace):
        """A namespace without names of Python's internals."""

        def __init__(*args: Any, **fields: Any):
            self, args = args[0], args[1:]
            values = dict(*args, **fields)
            for name in values:
                _check_name(name)
            jinja2.utils.Namespace.__init__(self, values)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_name(name)
            super().__setitem__(name, value)

    def _check_name(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace must have no name that begins with _, got {name!r}.")

    class Dictionary:
        """`dict` without the attributes of the class."""

        def __call__(self, *args: Any, **fields: Any) -> dict[Any, Any]:
            return dict(*args, **fields)

        def fromkeys(self, *args: Any) -> dict[Any, Any]:
            return dict.fromkeys(*args)

    def raise_exception(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def strftime_now(format: str) -> str:
        return datetime.datetime.now().strftime(format)

    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = tojson
    made.globals.update(
        raise_exception=raise_exception, strftime_now=strftime_now, dict=Dictionary(), namespace=Namespace
    )
    return made


if __name__ == "__main__":
    main()
