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

    Names reach the page as JSON and are shown as text only; the policy in its head forbids all scripts and styles but
    its own, and all connections.

    Args:
      content: what `to_content` makes, with preferences; or `{"by": ..., "groups": {name: content}}`, of which the page
        shows one at a time.
      title: of the page.
    """
    style = re.sub(r"\s*([{};,>]|:(?= ))\s*", r"\1", _part("page.css")).replace(";}", "}")
    script = f'(() => {{\n"use strict";\n{_part("page_pictures.js")}{_part("page.js")}}})();'
    parts = {
        "title": html.escape(visible(title)),
        "policy": f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        "style": style,
        "script": script,
        "data": _harmless(json.dumps(content, allow_nan=False, separators=(",", ":"))),
    }
    # In one pass: what a name says is never taken for a place to fill.
    return re.sub(r"\[\[(\w+)\]\]", lambda place: parts[place[1]], _part("page.html"))


def _part(name: str) -> str:
    """A file of the page without its indentation and comments, which stand on lines of their own."""
    lines = (resources.files("nashjax.ranking") / name).read_text(encoding="utf-8").splitlines()
    return "".join(f"{line.strip()}\n" for line in lines if line and not line.lstrip().startswith(("//", "/**")))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _harmless(text: str) -> str:
    """JSON without the characters that could end its element; they stand only in texts, where they can be escaped."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
