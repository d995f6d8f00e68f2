"""Values of a model folder's JSON files: wrong types and sizes that the tensors cannot have are named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flax", reason="needs the extra `lm`")
pytest.importorskip("optax", reason="needs the extra `lm`")

from nashjax.files import BadInput
from nashjax.lm.tunix.fields import MOST_JSON_BYTES, Fields, model_sizes, read_json

TENSORS = model_sizes({"embed": (20, 24), "q": (32, 24), "up": (40, 24)}, (20, 24))
GOOD: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "rope_theta": 300.0,
}


def write(folder: Path, **changes: Any) -> Fields:
    (folder / "config.json").write_text(json.dumps(GOOD | changes))
    return Fields.of(folder)


def read(fields: Fields) -> tuple[Any, ...]:
    """Everything that a family reads of these."""
    return fields.sizes(TENSORS), fields.context_length(), fields.rope(1e4, linear=True), fields.cap("cap", 30.0)


def test_true_values_are_read(tmp_path):
    sizes, context, rope, cap = read(write(tmp_path))
    expected = {"num_layers": 1, "embed_dim": 24, "hidden_dim": 40, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
    assert sizes == expected
    assert (context, rope, cap) == (64, (300.0, 1.0), 30.0)
    text = {"text_config": {"rope_scaling": {"rope_type": "linear", "factor": 8}, "cap": None, "head_dim": None}}
    sizes, _, rope, cap = read(write(tmp_path, **text))
    assert (sizes["head_dim"], rope, cap) == (6, (300.0, 8.0), None)
    parameters = {"full_attention": {"rope_theta": 5.0}, "sliding_attention": {"rope_theta": 7.0}}
    fields = write(tmp_path, rope_parameters=parameters)
    assert [fields.rope(1e4, layers=layers)[0] for layers in parameters] == [5.0, 7.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "24"}, "hidden_size must be the integer 24, got '24'."),
        ({"hidden_size": 10**9}, "hidden_size must be the integer 24, got 1000000000."),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be an integer from 1 to 3, got 0."),
        ({"num_hidden_layers": 1e9}, "num_hidden_layers must be an integer from 1 to 3, got 1000000000.0."),
        ({"num_attention_heads": 0}, "num_attention_heads must be an integer from 1 to 40, got 0."),
        ({"num_attention_heads": True}, "num_attention_heads must be an integer from 1 to 40, got True."),
        ({"num_attention_heads": [4]}, "num_attention_heads must be an integer from 1 to 40, got [4]."),
        ({"num_key_value_heads": 3}, "num_key_value_heads must be a divisor of num_attention_heads, 4, got 3."),
        ({"head_dim": 7}, "head_dim must be even, got 7."),
        ({"head_dim": -8}, "head_dim must be an integer from 2 to 40, got -8."),
        (
            {"head_dim": 40},
            "sizes must be such that the 2208 entries of all tensors suffice, got 1 layers of 4 heads of 40.",
        ),
        ({"intermediate_size": 10**12}, "intermediate_size must be an integer from 1 to 40, got 1000000000000."),
        ({"max_position_embeddings": 1}, "max_position_embeddings must be an integer from 2 to 2147483647, got 1."),
        ({"rope_theta": 0}, "rope_theta must be a number > 0 and <= 1e+12, got 0."),
        ({"rope_theta": float("nan")}, "rope_theta must be a number > 0 and <= 1e+12, got nan."),
        ({"rope_theta": "many"}, "rope_theta must be a number > 0 and <= 1e+12, got 'many'."),
        ({"rope_parameters": {"rope_theta": -1}}, "rope_theta must be a number > 0 and <= 1e+12, got -1."),
        ({"rope_parameters": [1]}, "rope_parameters must be a JSON object, got [1]."),
        ({"rope_scaling": "linear"}, "rope_scaling must be a JSON object, got 'linear'."),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor must be a number > 0 and <= 1e+06, got 0."),
        ({"text_config": [1]}, "text_config must be a JSON object, got [1]."),
        ({"cap": float("inf")}, "cap must be a number > 0 and <= 1e+09, got inf."),
        ({"attention_bias": "no"}, "attention_bias must be False, got 'no'."),
    ],
)
def test_a_value_that_does_not_fit_is_named(tmp_path, changes, message):
    with pytest.raises(BadInput, match=f"^{re.escape(f'{tmp_path}/config.json: {message}')}$"):
        read(write(tmp_path, **changes))


def test_layers_of_another_kind_are_named(tmp_path):
    fields = write(tmp_path, rope_parameters={"full_attention": 3})
    with pytest.raises(BadInput, match=r"rope_parameters must be an object for each kind of layers, got 3."):
        fields.rope(1e4, layers="full_attention")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "config.json must be an undamaged JSON file, got nesting that is too deep."),
        (b'{"a":' * 100_000, "config.json must be an undamaged JSON file, got nesting that is too deep."),
        (b"\xff\xfe{}", "config.json must be an undamaged JSON file, got UnicodeDecodeError: "),
        (b'{"a": 1', "config.json must be an undamaged JSON file, got JSONDecodeError: "),
        (b"9" * 5000, "config.json must be an undamaged JSON file, got ValueError: "),
        (b"[1]", "config.json must be a JSON object, got [1]."),
        (b"null", "config.json must be a JSON object, got None."),
        (b" " * (MOST_JSON_BYTES + 1), f"config.json must be at most {MOST_JSON_BYTES} bytes long, got "),
    ],
    ids=range(8),
)
def test_settings_that_are_no_json_object_are_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        Fields.of(tmp_path)
    assert str(caught.value).isprintable()


def test_a_file_that_is_missing_has_no_fields(tmp_path):
    assert read_json(tmp_path / "none.json") == {}
    with pytest.raises(BadInput, match=r"config\.json must be a file that exists, got a path where no file is\."):
        Fields.of(tmp_path)
