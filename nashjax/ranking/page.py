"""A ranking as one self-contained page: nothing is fetched, and nothing in a name can become code."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from importlib import resources
from typing import Any

from nashjax.files.errors import visible


def render_page(content: dict[str, Any], title: str) -> str:
    """A sortable table with intervals, a heat map of preferences, and the cycles, as HTML.

    Names reach the page as JSON and are shown as text only; the policy in its head forbids all scripts but its own.

    Args:
      content: what `to_content` makes, with preferences; or `{"by": ..., "groups": {name: content}}`.
      title: of the page.
    """
    folder = resources.files("nashjax.ranking")
    style, script, frame = ((folder / f"page.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js", "html"))
    parts = {
        "title": html.escape(visible(title)),
        "policy": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:",
        "style": style,
        "script": script,
        "data": _harmless(json.dumps(content, allow_nan=False)),
    }
    # In one pass: what a name says is never taken for a place to fill.
    return re.sub(r"\[\[(\w+)\]\]", lambda place: parts[place[1]], frame)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _harmless(text: str) -> str:
    """JSON without the characters that could end its element; they stand only in texts, where they can be escaped."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
