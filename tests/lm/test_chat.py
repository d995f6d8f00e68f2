"""Chat templates: what they may use, and the limits of their process."""

from __future__ import annotations

import datetime
import subprocess
import time
from types import MappingProxyType
from typing import Any

import pytest

pytest.importorskip("flax", reason="needs the extra `lm`")
pytest.importorskip("jinja2", reason="needs the extra `lm`")

from nashjax import lm
from nashjax.lm import chat, sandbox

SAID = "{{ messages[-1]['content'] }}"


def render(source: str, *messages: dict[str, Any], **special: str) -> str:
    """The text that a template makes of a conversation, or of the word "hello"."""
    conversation = list(messages) or [{"role": "user", "content": "hello"}]
    (found,) = lm.ChatTemplate(source + SAID, special).render([conversation])
    return found.text.removesuffix(conversation[-1]["content"])


FEATURES: dict[str, tuple[str, str]] = {
    "blocks take their line": ("  {% if true %}\n  a\n  {% endif %}\nb", "  a\nb"),
    "loop controls": ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
    "loop variables": ("{% for m in 'ab' %}{{ loop.index0 }}{{ loop.last }}{% endfor %}", "0False1True"),
    "tojson keeps signs": ("{{ {'b': '<é>', 'a': 1} | tojson }}", '{"b": "<é>", "a": 1}'),
    "tojson options": (
        "{{ {'b': 1, 'a': [2]} | tojson(indent=1, sort_keys=true) }}",
        '{\n "a": [\n  2\n ],\n "b": 1\n}',
    ),
    "generation blocks": ("{% generation %}x{% endgeneration %}", "x"),
    "namespaces": (
        "{% set n = namespace(x=1) %}{% for i in [1, 2] %}{% set n.x = n.x + i %}{% endfor %}{{ n.x }}",
        "4",
    ),
    "dictionaries": ("{{ dict(a=1).a }}{{ dict.fromkeys('ab', 2) | length }}", "12"),
    "special tokens": ("{{ bos_token }}{{ eos_token is defined }}{{ tools is none }}", "<s>FalseTrue"),
    "date": ("{{ strftime_now('%Y') }}", str(datetime.date.today().year)),
    "texts": ("{{ ' x '.strip() + 'a,b'.split(',')[-1] + ('y' * 3) + '%s' % 1 }}", "xbyyy1"),
    "macros": ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(1) }}", "<1>"),
}


def test_templates_may_use_what_transformers_gives_them():
    """All in one template: a line for each."""
    for name, (source, expected) in FEATURES.items():
        if name == "blocks take their line":
            assert render(source, bos_token="<s>") == expected
    together = "|".join(source for name, (source, _) in FEATURES.items() if name != "blocks take their line")
    expected = "|".join(text for name, (_, text) in FEATURES.items() if name != "blocks take their line")
    assert render(together, bos_token="<s>") == expected


def test_a_template_says_why_it_refuses_a_conversation():
    template = lm.ChatTemplate(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no\n system') }}{% endif %}" + SAID
    )
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "hello"}]
    expected = r"^chat template must render every conversation, got TemplateError: no system\.$"
    with pytest.raises(ValueError, match=expected):
        list(template.render([messages]))


FILL = "{% for i in range(60) %}{% set n.x = n.x OP n.x %}{% endfor %}"
MEMORY = "MemoryError: the template needs too much memory"
HOSTILE = {
    "endless output": ("{% for i in range(100000) %}{{ 'x' * 100 }}{% endfor %}", "at most 1048576 bytes"),
    "one long piece": ("{{ '%2000000d' | format(1) }}", "at most 1048576 bytes"),
    "long range": ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    "repetition": ("{{ 'x' * 10**10 }}", MEMORY),
    "repetition of a list": ("{{ ([0] * 10**10) | length }}", MEMORY),
    "width": ("{{ '%9999999999d' % 1 }}", MEMORY),
    "width of format": ("{{ '{:9999999999}'.format(1) }}", MEMORY),
    "center": ("{{ 'x' | center(10**10) }}", MEMORY),
    "indent": ("{{ 'a\nb' | indent(10**10) }}", MEMORY),
    "join": ("{{ range(99999) | join('x' * 10**5) }}", MEMORY),
    "replace": ("{% set x = ('a' * 10**6).replace('a', 'a' * 10**6) %}", MEMORY),
    "doubling": ("{% set n = namespace(x='x') %}" + FILL.replace("OP", "~"), MEMORY),
    "doubling in a block": (
        "{% set n = namespace(x='x') %}{% for i in range(60) %}{% set x %}{{ n.x }}{{ n.x }}{% endset %}"
        "{% set n.x = x %}{% endfor %}",
        MEMORY,
    ),
    "bytes": ("{% set x = (1).to_bytes(10**10, 'big') %}", MEMORY),
    "tojson": ("{{ [1] | tojson(indent=10**10) }}", MEMORY),
    "internals": ("{{ ''.__class__.__mro__ }}", "SecurityError"),
    "changed messages": ("{{ messages.append(1) }}", "SecurityError"),
    "internals in a namespace": ("{% set n = namespace(__class__=1) %}", "SecurityError"),
    "nesting": ("{{ " + "(" * 100_000, "RecursionError"),
    "syntax": ("{% if %}", "TemplateSyntaxError"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_in_one_line(monkeypatch, name):
    monkeypatch.setattr(chat, "_MEMORY_LIMIT", 128 << 20)  # less to fill
    source, expected = HOSTILE[name]
    with pytest.raises(ValueError, match=r"^chat template must render every conversation, got ") as caught:
        lm.ChatTemplate(source + SAID)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{% set x = f(60) %}",
        "{% set n = namespace(x=9**999) %}" + FILL.replace("OP", "*"),
        "{% set x = 3 ** (10**9) %}",
    ],
)
def test_a_template_that_does_not_end_is_ended(monkeypatch, source):
    """Also within a single call, where Python looks at nothing else."""
    monkeypatch.setattr(chat, "_SECONDS_LIMIT", 0.4)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"must render within 0\.4 s of processor time, got no answer\.$"):
        lm.ChatTemplate(source + SAID)
    assert time.monotonic() - began < 20  # seconds, on a machine that has other work


def test_many_long_conversations_come_from_several_processes(monkeypatch):
    monkeypatch.setattr(chat, "_BATCH", 1000)
    asked = []
    ask = chat._ask
    monkeypatch.setattr(chat, "_ask", lambda *arguments: asked.append(1) or ask(*arguments))
    template = lm.ChatTemplate("{{ 'x' * 400 }}" + SAID)
    asked.clear()
    found = [one.text for one in template.render([[{"role": "user", "content": str(i)}] for i in range(4)])]
    assert found == ["x" * 400 + str(i) for i in range(4)]
    assert len(asked) == 4  # of at most three texts each, three for a conversation
    asked.clear()
    assert len([*template.render([[{"role": "user", "content": "y" * 900}]] * 2)]) == 2
    assert len(asked) == 6


def test_the_contents_of_messages_are_found_in_the_text():
    template = lm.ChatTemplate("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}|{% endfor %}")
    messages = [
        {"role": "user", "content": " a b\n"},
        {"role": "a", "content": ""},
        {"role": "user", "content": "user"},
    ]
    (found,) = template.render([messages])
    assert found.text == "<user>a b|<a>|<user>user|"
    assert found.spans == ((6, 9), (20, 24))  # "a b" and the second "user"


def test_a_first_token_is_put_in_front_unless_the_template_writes_it():
    for source in ("{{ bos_token }}", ""):
        template = lm.ChatTemplate(source + SAID, {"bos_token": "<s>"}, "<s>")
        (found,) = template.render([[{"role": "user", "content": "hello"}]])
        assert (found.text, found.spans) == ("<s>hello", ((3, 8),))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("no prompt", ValueError, r"^chat template must show what the user says, got 'no prompt' for any prompt\.$"),
        (3, TypeError, r"^source must be a text, got 3\.$"),
        ("x" * (1 << 21), ValueError, r"^source must have at most 1048576 characters, got 2097152\.$"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused(source, error, message):
    with pytest.raises(error, match=message):
        lm.ChatTemplate(source)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prefix": 3}, r"^prefix must be a string, got 3\.$"),
        ({"special": ""}, r"^special must be a mapping from names to tokens, got ''\.$"),
        ({"special": {"a": object()}}, r"^special\['a'\] must be a string, got <object object at .*>\.$"),
        ({"special": {3: "x"}}, r"^name in special must be a string, got 3\.$"),
    ],
)
def test_a_field_of_a_wrong_type_is_named(fields, message):
    with pytest.raises(TypeError, match=message):
        lm.ChatTemplate(SAID, **fields)


@pytest.fixture(scope="module")
def plain() -> lm.ChatTemplate:
    """A template that writes contents and nothing else."""
    return lm.ChatTemplate(SAID)


def user(content: Any, **others: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **others}


@pytest.mark.parametrize(
    ("conversations", "error", "message"),
    [
        ("ab", TypeError, r"^conversations must be a list of conversations, got 'ab'\.$"),
        (["a"], TypeError, r"^conversations\[0\] must be a list of messages, got 'a'\.$"),
        ([user("a")], TypeError, r"^conversations\[0\] must be a list of messages, got \{'role': .*\.$"),
        ([[], ["a"]], TypeError, r"^conversations\[1\]\[0\] must be a mapping with 'role' and 'content', got 'a'\.$"),
        ([[user(b"x")]], TypeError, r"^conversations\[0\]\[0\]\['content'\] must be a string, got b'x'\.$"),
        ([[user(5)]], TypeError, r"^conversations\[0\]\[0\]\['content'\] must be a string, got 5\.$"),
        ([[user(None)]], TypeError, r"^conversations\[0\]\[0\]\['content'\] must be a string, got None\.$"),
        (
            [[user([{"type": "text", "text": "<|im_end|>"}])]],
            TypeError,
            r"\['content'\] must be a string, got \[\{'type",
        ),
        ([[user("a", role=3)]], TypeError, r"^conversations\[0\]\[0\]\['role'\] must be a string, got 3\.$"),
        (
            [[user("a", role="user<|im_end|>")]],
            ValueError,
            r"\['role'\] must be a word such as 'user', got 'user<\|im_end",
        ),
        ([[{"role": "user"}]], ValueError, r"must have the keys 'role' and 'content' and no other, got \['role'\]\.$"),
        ([[user("a", name="<|im_end|>")]], ValueError, r"and no other, got \['role', 'content', 'name'\]\.$"),
    ],
)
def test_a_conversation_that_cannot_be_protected_is_refused_before_it_is_rendered(plain, conversations, error, message):
    with pytest.raises(error, match=message):
        plain.render(conversations)


def test_a_message_may_be_any_mapping(plain):
    (found,) = plain.render([(MappingProxyType(user("hello")),)])
    assert found.text == "hello"


def test_characters_of_messages_are_not_taken_for_marks(plain):
    (found,) = plain.render([[user("a \U000f0000 b")]])
    assert (found.text, found.spans) == ("a \U000f0000 b", ((0, 5),))
    everything = "".join(map(chr, (*range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))))
    with pytest.raises(
        ValueError, match=r"^conversations must leave two private-use characters free, got all of them\.$"
    ):
        list(plain.render([[user(everything)]]))


def test_a_part_taken_from_between_the_marks_is_not_taken_for_the_templates_text():
    template = lm.ChatTemplate("<{{ messages[0].content.split('|')[1] or messages[0].content }}>")
    (found,) = template.render([[user("a|b|c")]])
    assert (found.text, found.spans) == ("<b>", "<xxxxx>")


def test_the_cause_of_a_broken_limit_is_kept(plain, monkeypatch):
    request: dict[str, Any] = {"conversations": []}
    with pytest.raises(ValueError, match=r"must render within 1e-09 s, got no answer\.$") as caught:
        chat._ask(request, 1e-9)
    assert isinstance(caught.value.__cause__, subprocess.TimeoutExpired)
    with pytest.raises(ValueError, match=r"must render in Jinja's sandbox, got .*KeyError") as caught:
        chat._ask(request, 60)
    assert isinstance(caught.value.__cause__, ValueError)


def test_messages_of_the_sandbox_end_with_a_period():
    with pytest.raises(ValueError, match=r"^output must have at most 3 bytes, got more\.$"):
        sandbox.rendered(sandbox.environment().from_string("abcd"), {}, 3)
    with pytest.raises(Exception, match=r"^a namespace must have no name that begins with _, got '_a'\.$"):
        sandbox.environment().from_string("{{ namespace(_a=1) }}").render()
