"""Chat templates: from conversations to text, and from that text to tokens, with the users' own text protected."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nashjax._validation import invalid, shown, wrong_type
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
      spans: where contents of messages stand in it, without the blanks around them. If the template changes contents
        so that this cannot be known, the text it makes of neutral contents instead; None if it refuses these.
      contents: the contents of the messages.
    """

    text: str
    spans: tuple[tuple[int, int], ...] | str | None
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
      TypeError: a field is not of its type.
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
        if not isinstance(self.special, (Mapping, type(None))):
            raise wrong_type("special", "a mapping from names to tokens", self.special)
        for name, token in (self.special or {}).items():
            if not isinstance(name, str):
                raise wrong_type("name in special", "a string", name)
            if not isinstance(token, str):
                raise wrong_type(f"special[{name!r}]", "a string", token)
        if not isinstance(self.prefix, str):
            raise wrong_type("prefix", "a string", self.prefix)
        if importlib.util.find_spec("jinja2") is None:
            raise ImportError('chat templates need jinja2: python -m pip install "nashjax[lm]"')
        first, second = self.render([[{"role": "user", "content": text}] for text in ("one", "two")])
        if first.text == second.text:
            raise invalid("chat template", "must show what the user says", f"{quoted(first.text)} for any prompt")

    def render(self, conversations: Sequence[Sequence[Message]]) -> Iterator[Rendered]:
        """Render conversations, each with the beginning of the model's answer behind it.

        Args:
          conversations: lists of messages, each a mapping with the strings `role`, a word, and `content`.

        Raises:
          TypeError: a conversation, a message or a content is not of its type.
          ValueError: a message has another key, a role is not a word, the template refuses a conversation, or it breaks
            a limit.
        """
        return self._rendered(_checked(conversations))

    def _rendered(self, conversations: Sequence[Sequence[dict[str, str]]]) -> Iterator[Rendered]:
        """Render conversations: as they are, with marks around the contents, and with marks around neutral contents."""
        opening, closing = self._marks(conversations)
        pending: list[list[dict[str, str]]] = []
        for messages in conversations:
            neutral = [_neutral(message) for message in messages]
            pending += [list(messages), *([_marked(m, opening, closing) for m in each] for each in (messages, neutral))]
        for (plain, *others), messages in zip(_threes(self._run(pending)), conversations, strict=True):
            if "text" not in plain:
                raise invalid("chat template", "must render every conversation", visible(plain["error"]).rstrip("."))
            marked, neutral = (other.get("text") for other in others)
            spans = _spans(plain["text"], marked, neutral, opening, closing)
            if spans is None and neutral is not None:
                spans = self._begun(neutral.replace(opening, "").replace(closing, ""))
            text = self._begun(plain["text"])
            shift = len(text) - len(plain["text"])
            if isinstance(spans, tuple):
                spans = tuple((a + shift, b + shift) for a, b in spans)
            yield Rendered(text, spans, tuple(message["content"] for message in messages))

    def _begun(self, text: str) -> str:
        """The text with the prefix in front."""
        return text if text.startswith(self.prefix) else self.prefix + text

    def _marks(self, conversations: Sequence[Sequence[dict[str, str]]]) -> tuple[str, str]:
        """Two characters that are neither in the template nor in a conversation."""
        taken = set(self.source + "".join((self.special or {}).values()))
        for message in itertools.chain(*conversations):
            taken.update(message["role"], message["content"])
        private = map(chr, itertools.chain(range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE)))
        free = tuple(itertools.islice((mark for mark in private if mark not in taken), 2))
        if len(free) < 2:
            raise invalid("conversations", "must leave two private-use characters free", "all of them")
        return free[0], free[1]

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
    except subprocess.TimeoutExpired as error:
        raise invalid("chat template", f"must render within {timeout:g} s", "no answer") from error
    if done.returncode == -signal.SIGPROF:
        raise invalid("chat template", f"must render within {_SECONDS_LIMIT:g} s of processor time", "no answer")
    try:
        return json.loads(done.stdout)
    except ValueError as error:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise invalid("chat template", "must render in Jinja's sandbox", quoted(last, 200)) from error


def _checked(conversations: Any) -> list[list[dict[str, str]]]:
    """The conversations as lists; raises TypeError or ValueError for what is none."""
    found = []
    for index, messages in enumerate(_listed("conversations", "a list of conversations", conversations)):
        name = f"conversations[{index}]"
        messages = _listed(name, "a list of messages", messages)
        found.append([_message(f"{name}[{place}]", message) for place, message in enumerate(messages)])
    return found


def _listed(name: str, requirement: str, value: Any) -> Sequence[Any]:
    """The value; raises TypeError unless it is a list or the like."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise wrong_type(name, requirement, value)
    return value


def _message(name: str, message: Any) -> dict[str, str]:
    """The message as a dictionary. Only its content can be protected, so nothing else may be a user's free text."""
    if not isinstance(message, Mapping):
        raise wrong_type(name, "a mapping with 'role' and 'content'", message)
    if set(message) != {"role", "content"}:
        raise invalid(name, "must have the keys 'role' and 'content' and no other", shown(list(message)))
    for key in ("role", "content"):
        if not isinstance(message[key], str):
            raise wrong_type(f"{name}[{key!r}]", "a string", message[key])
    if not re.fullmatch(r"[\w-]+", message["role"]):
        raise invalid(f"{name}['role']", "a word such as 'user'", quoted(message["role"]))
    return {"role": message["role"], "content": message["content"]}


def _threes(items: Iterator[dict[str, str]]) -> Iterator[tuple[dict[str, str], ...]]:
    """Items by threes."""
    return zip(items, items, items, strict=True)


def _neutral(message: dict[str, str]) -> dict[str, str]:
    """The message with a content of the same length and blanks that no template looks for."""
    return {**message, "content": re.sub(r"\S", "x", message["content"])}


def _marked(message: dict[str, str], opening: str, closing: str) -> dict[str, str]:
    """The message with marks around its content, inside of the blanks, which templates may strip."""
    core = message["content"].strip()
    if not core:
        return message
    before, after = message["content"].split(core, 1)
    return {**message, "content": f"{before}{opening}{core}{closing}{after}"}


def _spans(
    text: str, marked: str | None, neutral: str | None, opening: str, closing: str
) -> tuple[tuple[int, int], ...] | None:
    """Where the marked parts stand in the text.

    None unless the marks are all that differs, in pairs, and the rest is the same around neutral contents: a template
    may take a part of a content from between its marks.
    """
    if marked is None or neutral is None:
        return None
    pieces, others = (re.split(f"([{opening}{closing}])", each) for each in (marked, neutral))
    if "".join(pieces[::2]) != text or "".join(pieces[1::2]) != (opening + closing) * (len(pieces) // 4):
        return None
    if pieces[::4] != others[::4] or pieces[1::2] != others[1::2]:
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
