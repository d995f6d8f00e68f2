"""Chat templates: from conversations to text, and from that text to tokens, with the users' own text protected."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nashjax.arguments import invalid, wrong_type
from nashjax.files.errors import quoted, visible

OUTPUT_LIMIT = 1 << 20
"""Most bytes that a template may make of one conversation, and that it may itself have."""
_MEMORY_LIMIT = 512 << 20
_SECONDS_LIMIT = 2.0
"""Most seconds of processor time for one conversation."""
_BATCH = 8 << 20
"""About so many characters go to one process and come back from it, which keeps both within its memory limit."""

Message = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    Attributes:
      text: the whole text.
      spans: where contents of messages stand in it, without the blanks around them; None if the template changes
        contents so that this cannot be known.
      contents: the contents of the messages.
    """

    text: str
    spans: tuple[tuple[int, int], ...] | None
    contents: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """Chat template of a model, a Jinja program as `transformers` runs it.

    A template is code of the model's author. It runs in Jinja's immutable sandbox, in a process of its own with at most
    512 MiB of memory and 2 s of processor time for a conversation, and may make at most 1 MiB of text of it. The memory
    limit holds where the system enforces `RLIMIT_AS`, which Linux does and macOS does not.

    Attributes:
      source: the program.
      special: special tokens that the program may use, such as `{"bos_token": "<s>"}`.
      prefix: name of a token that every text begins with; put in front unless the program has written it.

    Raises:
      ImportError: jinja2 is not installed.
      ValueError: the program cannot be run, breaks a limit or leaves out what the user says.
    """

    source: str
    special: Mapping[str, str] | None = None
    prefix: str = ""

    def __post_init__(self):
        if not isinstance(self.source, str):
            raise wrong_type("source", "a text", self.source)
        if len(self.source) > OUTPUT_LIMIT:
            raise invalid("source", f"must have at most {OUTPUT_LIMIT} characters", str(len(self.source)))
        if importlib.util.find_spec("jinja2") is None:
            raise ImportError('chat templates need jinja2: python -m pip install "nashjax[lm]"')
        first, second = self.render([[{"role": "user", "content": text}] for text in ("one", "two")])
        if first.text == second.text:
            raise invalid("chat template", "must show what the user says", f"{quoted(first.text)} for any prompt")

    def render(self, conversations: Sequence[Sequence[Message]]) -> Iterator[Rendered]:
        """Render conversations, each with the beginning of the model's answer behind it.

        Args:
          conversations: lists of messages, each a mapping with `role` and `content`.

        Raises:
          ValueError: the template refuses a conversation or breaks a limit.
        """
        opening, closing = self._marks(conversations)
        pending: list[list[Message]] = []
        for messages in conversations:
            pending += [list(messages), [_marked(message, opening, closing) for message in messages]]
        for (plain, marked), messages in zip(_pairs(self._run(pending)), conversations, strict=True):
            if "text" not in plain:
                raise invalid("chat template", "must render every conversation", visible(plain["error"]).rstrip("."))
            text, spans = plain["text"], None
            if "text" in marked:
                spans = _spans(text, marked["text"], opening, closing)
            if self.prefix and not text.startswith(self.prefix):
                text, shift = self.prefix + text, len(self.prefix)
                spans = None if spans is None else tuple((a + shift, b + shift) for a, b in spans)
            contents = tuple(str(message.get("content") or "") for message in messages)
            yield Rendered(text, spans, contents)

    def _marks(self, conversations: Sequence[Sequence[Message]]) -> tuple[str, str]:
        """Two characters that are neither in the template nor in a conversation."""
        taken = set(self.source + "".join((self.special or {}).values()))
        for messages in conversations:
            for message in messages:
                taken.update(str(message))
        free = (chr(code) for code in range(0xF0000, 0xFFFFE) if chr(code) not in taken)
        return next(free), next(free)

    def _run(self, pending: Sequence[Any]) -> Iterator[dict[str, str]]:
        """Render in processes, as many as it takes; yield a text or an error each."""
        variables = {**(self.special or {}), "tools": None, "documents": None, "add_generation_prompt": True}
        while pending:
            part = _first(pending)
            request = {
                "path": sys.path,
                "source": self.source,
                "variables": variables,
                "conversations": part,
                "memory": _MEMORY_LIMIT,
                "seconds": _SECONDS_LIMIT,
                "length": OUTPUT_LIMIT,
                "total": _BATCH,
            }
            done = _ask(request, 60 + _SECONDS_LIMIT * len(part))
            yield from done
            pending = pending[len(done) :]


def _first(pending: Sequence[Sequence[Message]]) -> Sequence[Sequence[Message]]:
    """Return the first conversations, as many as go to one process."""
    size = 0
    for index, messages in enumerate(pending):
        size += sum(len(str(message)) for message in messages)
        if index and size > _BATCH:
            return pending[:index]
    return pending


def _ask(request: dict[str, Any], timeout: float) -> list[dict[str, str]]:
    """Run the sandbox once; raises ValueError if its process breaks a limit."""
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(Path(__file__).with_name("sandbox.py"))]
    try:
        done = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise invalid("chat template", f"must render within {timeout:g} s", "no answer") from None
    if done.returncode == -signal.SIGPROF:
        raise invalid("chat template", f"must render within {_SECONDS_LIMIT:g} s of processor time", "no answer")
    try:
        return json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise invalid("chat template", "must render in Jinja's sandbox", quoted(last, 200)) from None


def _pairs(items: Iterator[dict[str, str]]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Items by twos."""
    return zip(items, items, strict=True)


def _marked(message: Message, opening: str, closing: str) -> Message:
    """The message with marks around its content, inside of the blanks, which templates may strip."""
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        return message
    core = content.strip()
    before, after = content.split(core, 1)
    return {**message, "content": f"{before}{opening}{core}{closing}{after}"}


def _spans(text: str, marked: str, opening: str, closing: str) -> tuple[tuple[int, int], ...] | None:
    """Where the marked parts stand in the text; None unless the marks are all that differs, in pairs."""
    pieces = re.split(f"([{opening}{closing}])", marked)
    if "".join(pieces[::2]) != text or "".join(pieces[1::2]) != (opening + closing) * (len(pieces) // 4):
        return None
    spans, place = [], 0
    for index, piece in enumerate(pieces[::2]):
        if index % 2:
            spans.append((place, place + len(piece)))
        place += len(piece)
    return tuple(spans)


def read_template(source: str, special: Mapping[str, str], prefix: str = "") -> str | ChatTemplate:
    """Return the chat template of a file: a text with `{prompt}`, or a Jinja program."""
    if "{prompt}" in source and "{{" not in source and "{%" not in source:
        return source if source.startswith(prefix) else prefix + source
    return ChatTemplate(source, special, prefix)


def renderings(template: str | ChatTemplate, prompts: Sequence[str]) -> Iterator[Rendered]:
    """Render prompts, each the only message of its conversation, or the text in the place of `{prompt}`."""
    if isinstance(template, ChatTemplate):
        yield from template.render([[{"role": "user", "content": prompt}] for prompt in prompts])
        return
    before, after = template.split("{prompt}", 1)
    for prompt in prompts:
        start = len(before) + len(prompt) - len(prompt.lstrip())
        core = prompt.strip()
        spans = ((start, start + len(core)),) if core else ()
        yield Rendered(before + prompt + after, spans, (prompt,))
