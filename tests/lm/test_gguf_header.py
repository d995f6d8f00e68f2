"""Headers of GGUF files that lie: each number is checked before it is used, in time and memory of the file's size.

The files are written byte by byte, since the package `gguf` writes none that lie.

One file, though long: its tests share what writes a file byte by byte.
"""

from __future__ import annotations

import re
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flax", reason="needs the extra `lm`")
pytest.importorskip("gguf", reason="needs the extra `lm`")
pytest.importorskip("jinja2", reason="needs the extra `lm`")
pytest.importorskip("tokenizers", reason="needs the extra `lm`")

from nashjax import lm
from nashjax.files import BadInput
from nashjax.lm import gguf as loading
from nashjax.lm import sentencepiece
from nashjax.lm.gguf_header import GGUFHeader

U8, I32, U32, F32, BOOL, STRING, ARRAY, U64 = 0, 5, 4, 6, 7, 8, 9, 10
CODES = {U8: "<B", I32: "<i", U32: "<I", F32: "<f", BOOL: "<B", U64: "<Q"}
TOKENS = [*"abcdefgh", "ab", "<end>"]
WIDTH, MLP = 8, 12
VALUES = [0, 1, 127, 128, 255, *range(256)]
"""What damaged bytes are."""

Keys = dict[str, tuple[int, Any]]
Tensors = dict[str, tuple[list[int], int, int | None]]


class Raw(bytes):
    """A value that is written as it is."""


def text(value: str | bytes) -> bytes:
    encoded = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(encoded)) + encoded


def value_bytes(kind: int, value: Any) -> bytes:
    """A value of a type; of arrays `(type, entries)`."""
    if isinstance(value, Raw):
        return value
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        inner, entries = value
        return struct.pack("<IQ", inner, len(entries)) + b"".join(value_bytes(inner, entry) for entry in entries)
    return struct.pack(CODES[kind], value)


def good_keys() -> Keys:
    return {
        "general.architecture": (STRING, "llama"),
        "general.alignment": (U32, 32),
        "llama.block_count": (U32, 1),
        "llama.context_length": (U32, 16),
        "llama.embedding_length": (U32, WIDTH),
        "llama.feed_forward_length": (U32, MLP),
        "llama.attention.head_count": (U32, 2),
        "llama.attention.head_count_kv": (U32, 1),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "llama.rope.freq_base": (F32, 1e4),
        "llama.rope.dimension_count": (U32, 4),
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, TOKENS)),
        "tokenizer.ggml.token_type": (ARRAY, (I32, [1] * 9 + [3])),
        "tokenizer.ggml.merges": (ARRAY, (STRING, ["a b"])),
        "tokenizer.ggml.eos_token_id": (U32, 9),
        "tokenizer.chat_template": (STRING, "{prompt}"),
    }


def good_tensors() -> Tensors:
    """Shapes as the file has them, columns first; the offset follows where it is None."""
    block = {
        "attn_norm": [WIDTH],
        "attn_q": [WIDTH, 8],
        "attn_k": [WIDTH, 4],
        "attn_v": [WIDTH, 4],
        "attn_output": [8, WIDTH],
        "ffn_norm": [WIDTH],
        "ffn_gate": [WIDTH, MLP],
        "ffn_up": [WIDTH, MLP],
        "ffn_down": [MLP, WIDTH],
    }
    shapes = {"token_embd": [WIDTH, len(TOKENS)], "output_norm": [WIDTH]}
    shapes |= {f"blk.0.{name}": shape for name, shape in block.items()}
    return {f"{name}.weight": (shape, 0, None) for name, shape in shapes.items()}


def write(
    path: Path,
    keys: Keys,
    tensors: Tensors,
    *,
    version: int = 3,
    num_keys: int | None = None,
    num_tensors: int | None = None,
    extra: bytes = b"",
    alignment: int = 32,
    fill: float = 0.5,
) -> Path:
    """A file with these keys, the bytes of further keys, and tensors of one number."""
    header = b"GGUF" + struct.pack("<I", version)
    header += struct.pack("<Q", len(tensors) if num_tensors is None else num_tensors)
    header += struct.pack("<Q", len(keys) if num_keys is None else num_keys)
    header += b"".join(text(name) + struct.pack("<I", kind) + value_bytes(kind, x) for name, (kind, x) in keys.items())
    header += extra
    end = 0
    for name, (shape, kind, offset) in tensors.items():
        header += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        header += struct.pack("<IQ", kind, end if offset is None else offset)
        if offset is None:
            end += -(-4 * int(np.prod(shape)) // alignment) * alignment
    header += b"\0" * (-len(header) % alignment)
    path.write_bytes(header + np.full(end // 4, fill, "<f4").tobytes())
    return path


def key_bytes(name: str, kind: int, value: Any) -> bytes:
    return text(name) + struct.pack("<I", kind) + value_bytes(kind, value)


def nested(depth: int) -> Raw:
    """Arrays of one array, so deep."""
    return Raw(struct.pack("<IQ", ARRAY, 1) * (depth - 1) + struct.pack("<IQ", U8, 0))


def test_a_file_of_true_numbers_is_loaded(tmp_path):
    """Also: arrays of arrays and keys that no llama needs are read over."""
    keys = good_keys() | {
        "other.nested": (ARRAY, (ARRAY, [(U8, [1, 2]), (STRING, ["x"])])),
        "other.flag": (BOOL, 1),
        "other.large": (U64, 2**63),
    }
    policy = lm.load_gguf(write(tmp_path / "m.gguf", keys, good_tensors(), version=2))
    config = policy.decoder.model(policy.params).config  # pyright: ignore[reportAttributeAccessIssue]
    assert (config.width, config.num_layers, config.num_heads, config.head, config.mlp_width) == (WIDTH, 1, 2, 4, MLP)
    assert (policy.stop, policy.context_length, policy.tokenizer.encode("abba")) == (("<end>",), 16, [8, 1, 0])
    fields = GGUFHeader(tmp_path / "m.gguf").fields
    assert [list(part) for part in fields["other.nested"]] == [[1, 2], ["x"]]
    assert (fields["other.flag"], fields["other.large"]) == (True, 2**63)


NAN, INFINITE = float("nan"), float("inf")
BASE = "must be a number >= 1 and <= 1e+12, got"
EPSILON = "must be a number > 0 and <= 1, got"

LYING_KEYS: list[tuple[str, int, Any, str]] = [
    ("llama.attention.head_count", U32, 0, "must be an integer from 1 to 12, got 0."),
    ("llama.attention.head_count", U32, 2**32 - 1, "must be an integer from 1 to 12, got 4294967295."),
    ("llama.attention.head_count", STRING, "2", "must be an integer from 1 to 12, got '2'."),
    ("llama.attention.head_count", BOOL, 1, "must be an integer from 1 to 12, got True."),
    ("llama.attention.head_count", F32, 2.0, "must be an integer from 1 to 12, got 2.0."),
    ("llama.attention.head_count", ARRAY, (U32, [2]), "must be an integer from 1 to 12, got an array of 1 entries."),
    ("llama.attention.head_count", I32, -2, "must be an integer from 1 to 12, got -2."),
    ("llama.attention.head_count_kv", U32, 0, "must be an integer from 1 to 2, got 0."),
    ("llama.attention.head_count_kv", U32, 3, "must be an integer from 1 to 2, got 3."),
    ("llama.block_count", U32, 0, "must be an integer from 1 to 1, got 0."),
    ("llama.block_count", U64, 2**60, f"must be an integer from 1 to 1, got {2**60}."),
    ("llama.embedding_length", U32, 2**31, f"must be an integer from 8 to 8, got {2**31}."),
    ("llama.embedding_length", U32, 0, "must be an integer from 8 to 8, got 0."),
    ("llama.vocab_size", U32, 2**31, f"must be an integer from 10 to 10, got {2**31}."),
    ("llama.feed_forward_length", U64, 2**62, f"must be an integer from 1 to 12, got {2**62}."),
    ("llama.rope.dimension_count", U32, 0, "must be an integer from 2 to 12, got 0."),
    ("llama.rope.dimension_count", U32, 3, "must be even, got 3."),
    ("llama.context_length", U64, 2**63, f"must be an integer from 2 to {2**31 - 1}, got {2**63}."),
    ("llama.context_length", U32, 1, f"must be an integer from 2 to {2**31 - 1}, got 1."),
    ("llama.rope.freq_base", F32, 0.0, f"{BASE} 0.0."),
    ("llama.rope.freq_base", F32, -1e4, f"{BASE} -10000.0."),
    ("llama.rope.freq_base", F32, NAN, f"{BASE} nan."),
    ("llama.rope.freq_base", F32, INFINITE, f"{BASE} inf."),
    ("llama.rope.freq_base", STRING, "10000", f"{BASE} '10000'."),
    ("llama.rope.scaling.factor", F32, NAN, "must be a number >= 0 and <= inf, got nan."),
    ("llama.rope.scaling.factor", F32, -1.0, "must be a number >= 0 and <= inf, got -1.0."),
    ("llama.rope.scaling.type", U32, 1, "must be a string, got 1."),
    ("llama.attention.layer_norm_rms_epsilon", F32, 0.0, f"{EPSILON} 0.0."),
    ("llama.attention.layer_norm_rms_epsilon", F32, NAN, f"{EPSILON} nan."),
    ("llama.attention.layer_norm_rms_epsilon", F32, 1e6, f"{EPSILON} 1000000.0."),
    ("general.alignment", U32, 0, f"must be an integer from 1 to {2**31}, got 0."),
    ("general.alignment", U32, 48, "must be a power of two, got 48."),
    ("general.alignment", STRING, "32", f"must be an integer from 1 to {2**31}, got '32'."),
    ("general.architecture", U32, 7, "must be a string, got 7."),
    ("tokenizer.ggml.tokens", U32, 7, "must be an array of strings, got 7."),
    (
        "tokenizer.ggml.tokens",
        ARRAY,
        (STRING, TOKENS[1:]),
        "must be 10 tokens, as many as the embedding has rows, got 9.",
    ),
    ("tokenizer.ggml.token_type", ARRAY, (I32, [1]), "must be an array of 10 integers, got an array of 1 entries."),
    ("tokenizer.ggml.token_type", ARRAY, (F32, [1.0] * 10), "must be an array of 10 integers, got an array of 10"),
    ("tokenizer.ggml.eos_token_id", U32, 10, "must be an integer from 0 to 9, got 10."),
    ("tokenizer.ggml.bos_token_id", I32, -1, "must be an integer from 0 to 9, got -1."),
    ("tokenizer.ggml.add_bos_token", U32, 1, "must be a bool, got 1."),
    ("tokenizer.chat_template", U32, 1, "must be a string, got 1."),
    ("tokenizer.chat_template", STRING, b"\xff\xfe", "must be UTF-8, got b'\\xff\\xfe'."),
    ("other", 13, Raw(b"\0" * 8), "must be of a type from 0 to 12, got type 13."),
    ("other", BOOL, 2, "must be bools of 0 or 1, got 2."),
    (
        "other",
        ARRAY,
        Raw(struct.pack("<IQ", 77, 1) + b"\0" * 8),
        "must be an array of a type from 0 to 12, got type 77.",
    ),
    ("other", ARRAY, nested(100_000), "must be an array with at most 4 levels, got one that is nested deeper."),
]


@pytest.mark.parametrize(("key", "kind", "value", "message"), LYING_KEYS)
def test_a_key_that_does_not_fit_the_file_is_named(tmp_path, key, kind, value, message):
    path = write(tmp_path / "m.gguf", good_keys() | {key: (kind, value)}, good_tensors())
    refused(path, f"{path}: {key} ", message) if "levels" not in message else refused(
        path, f"{path}: {key}[0]", message
    )


def refused(path: Path, place: str, message: str) -> None:
    """Check the message, and that nothing large was allocated before it."""
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(BadInput, match=f"^{re.escape(place)}.*{re.escape(message)}") as caught:
            lm.load_gguf(path)
        assert "\n" not in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 10e6 + 10 * path.stat().st_size
    finally:
        tracemalloc.stop()
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("missing", [key for key in good_keys() if key.startswith("llama") or "ggml" in key])
def test_a_missing_key_is_named_unless_it_has_a_default(tmp_path, missing):
    keys = {key: value for key, value in good_keys().items() if key != missing}
    path = write(tmp_path / "m.gguf", keys, good_tensors())
    # Two heads as there are key heads, and a tokenizer of rules that are not implemented.
    defaults = {"llama.attention.head_count_kv": "tensor blk.0.attn_k.weight must be of shape [8, 8], got [4, 8]."}
    defaults["tokenizer.ggml.pre"] = "tokenizer.ggml.pre must be one of 'gpt-2', 'smollm', got 'default'."
    if missing in ("llama.rope.freq_base", "llama.rope.dimension_count"):
        assert loading._config(GGUFHeader(path), None).head == 4
    else:
        refused(path, f"{path}: {defaults.get(missing, missing)}", "")


@pytest.mark.parametrize("kind", [U8, U64, STRING, ARRAY])
@pytest.mark.parametrize("length", [2**64 - 1, 2**62, 10**9, 200_000])
def test_an_array_longer_than_the_file_is_refused_at_once(tmp_path, kind, length):
    value = Raw(struct.pack("<IQ", kind, length))
    path = write(tmp_path / "m.gguf", {"long": (ARRAY, value)}, {}, alignment=1024)
    refused(path, f"{path}: long must be at most ", f"entries, all that the file has room for, got {length}.")


def test_strings_longer_than_the_file_are_refused_at_once(tmp_path):
    path = write(tmp_path / "m.gguf", {"long": (STRING, Raw(struct.pack("<Q", 2**63)))}, {})
    refused(path, f"{path}: long must be within the ", f"bytes that are left of the file, got a length of {2**63}.")
    path = write(tmp_path / "m.gguf", {}, {}, num_keys=1, extra=struct.pack("<Q", 2**40) + b"key" + b"\0" * 20)
    refused(path, f"{path}: name of key 0 must be within the ", f"got a length of {2**40}.")


def test_as_many_strings_as_the_limit_are_read_in_seconds_and_one_more_is_refused(tmp_path):
    def of(length: int) -> Raw:
        return Raw(struct.pack("<IQ", STRING, length) + text("ab") * length)

    path = write(tmp_path / "m.gguf", {"many": (ARRAY, of(2**20))}, {})
    start = time.process_time()
    assert GGUFHeader(path).fields["many"] == ["ab"] * 2**20
    assert time.process_time() - start < 3
    path = write(tmp_path / "m.gguf", {"many": (ARRAY, of(2**20 + 1))}, {})
    refused(path, f"{path}: header must be strings in arrays of at most {2**20} entries, got ", f"{2**20 + 1} entries.")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([text("a"), text(b"\xff")], "many[1] must be UTF-8, got b'\\xff'."),
        ([text("a"), struct.pack("<Q", 2**63)], f"bytes that are left of the file, got a length of {2**63}."),
        ([text("a"), struct.pack("<Q", 2**63 + 9)], "many[1] must be within the "),
        ([text("x" * (2**25 - 4)), text("y")], f"header must be at most {2**25} bytes of text, got {2**25 + 1}."),
    ],
)
def test_a_string_of_an_array_that_does_not_fit_is_named(tmp_path, entries, message):
    value = Raw(struct.pack("<IQ", STRING, len(entries)) + b"".join(entries))
    path = write(tmp_path / "m.gguf", {"many": (ARRAY, value)}, {}, alignment=64)
    with pytest.raises(BadInput, match=re.escape(message)):
        GGUFHeader(path)


def test_arrays_of_many_arrays_are_refused_at_once(tmp_path):
    value = Raw(struct.pack("<IQ", ARRAY, 2**17) + struct.pack("<IQ", U8, 0) * 2**17)
    path = write(tmp_path / "m.gguf", {"many": (ARRAY, value)}, {})
    refused(path, f"{path}: header must be at most 65536 arrays inside of arrays, got at least 131072.", "")


def test_a_token_that_is_too_long_is_named_before_its_merges_are_looked_for(tmp_path):
    """A token of 512 bytes is still one."""
    start = time.process_time()
    for size, message in [(513, "513"), (220_000, "220000")]:
        for kind in ("gpt2", "llama"):
            tokens = (ARRAY, (STRING, [*TOKENS[:9], "a" * size]))
            scores = (ARRAY, (F32, [0.0] * 10))
            keys = good_keys() | {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": scores}
            keys["tokenizer.ggml.model"] = (STRING, kind)
            path = write(tmp_path / "m.gguf", keys, good_tensors())
            refused(path, f"{path}: tokenizer.ggml.tokens[9] must be at most 512 bytes long, got {message}.", "")
    keys["tokenizer.ggml.tokens"] = (ARRAY, (STRING, [*TOKENS[:9], "a" * 512]))
    header = GGUFHeader(write(tmp_path / "m.gguf", keys, good_tensors()))
    assert loading._tokenizer(header, 10).vocabulary_size == 10
    assert time.process_time() - start < 5


def test_vocabularies_with_too_many_characters_or_merges_are_refused(tmp_path, monkeypatch):
    scores = {"tokenizer.ggml.scores": (ARRAY, (F32, [0.0] * 10)), "tokenizer.ggml.model": (STRING, "llama")}
    path = write(tmp_path / "m.gguf", good_keys() | scores, good_tensors())
    header = GGUFHeader(path)
    assert loading._tokenizer(header, 10).encode("ab") == [8]
    for name, most, message in [
        ("MOST_CHARACTERS", 9, "of at most 9 characters together, got 10."),
        ("MOST_MERGES", 0, "tokens with at most 0 merges, got more."),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(sentencepiece, name, most)
            with pytest.raises(BadInput, match=f"ggml.tokens must be {message}"):
                loading._tokenizer(header, 10)


@pytest.mark.parametrize("counts", [{"num_keys": 2**63}, {"num_tensors": 2**63}, {"num_keys": 10**6}])
def test_more_keys_or_tensors_than_the_file_has_room_for_are_refused_at_once(tmp_path, counts):
    path = write(tmp_path / "m.gguf", good_keys(), good_tensors(), **counts)
    subject = "number of keys" if "num_keys" in counts else "number of tensors"
    refused(
        path, f"{path}: {subject} must be at most ", f"for which the file has room, got {next(iter(counts.values()))}."
    )


@pytest.mark.parametrize("version", [0, 1, 4, 0x03000000])
def test_other_versions_and_byte_orders_are_refused(tmp_path, version):
    path = write(tmp_path / "m.gguf", good_keys(), good_tensors(), version=version)
    refused(path, f"{path}: version must be 2 or 3, little-endian, got {version}.", "")


def test_a_key_or_tensor_given_twice_is_named(tmp_path):
    again = key_bytes("llama.block_count", U32, 1)
    path = write(tmp_path / "m.gguf", good_keys(), good_tensors(), num_keys=len(good_keys()) + 1, extra=again)
    refused(path, f"{path}: name of key 18 must be different from the other keys, got 'llama.block_count' twice.", "")
    twice = text("x") + struct.pack("<IQIQ", 1, 8, 0, 0)
    path = write(tmp_path / "m.gguf", good_keys(), {}, num_tensors=2, extra=2 * twice)
    refused(path, f"{path}: name of tensor 1 must be different from the other tensors, got 'x' twice.", "")


def test_a_token_or_merge_that_cannot_be_is_named(tmp_path):
    for key, entries, message in [
        ("tokens", [*TOKENS[:9], "a"], "tokens[9] must be a new token of a character or more, got 'a'."),
        ("tokens", [*TOKENS[:9], ""], "tokens[9] must be a new token of a character or more, got ''."),
        ("merges", ["a b", "a b c"], "merges[1] must be two tokens with a blank between, which together are a token"),
        ("merges", ["ab"], "merges[0] must be two tokens with a blank between, which together are a token, got 'ab'."),
    ]:
        keys = good_keys() | {f"tokenizer.ggml.{key}": (ARRAY, (STRING, entries))}
        path = write(tmp_path / "m.gguf", keys, good_tensors())
        refused(path, f"{path}: tokenizer.ggml.{message}", "")


LYING_TENSORS: list[tuple[str, list[int], int, int | None, str]] = [
    ("blk.0.ffn_norm", [], 0, 0, "must be 1 to 4 dimensions, got 0."),
    ("blk.0.ffn_norm", [1] * 5, 0, 0, "must be 1 to 4 dimensions, got 5."),
    ("blk.0.ffn_norm", [0], 0, 0, "must be of a shape without 0, got [0]."),
    ("blk.0.ffn_norm", [8], 5, 0, "must be of a known type, got type 5."),
    ("blk.0.ffn_norm", [8], 2**31, 0, f"must be of a known type, got type {2**31}."),
    ("blk.0.ffn_norm", [8], 8, 0, "must be of rows in blocks of 32, as type Q8_0 has, got rows of 8."),
    ("blk.0.ffn_norm", [8], 0, 4, "must be at an offset that is a multiple of 32, got 4."),
    (
        "blk.0.ffn_norm",
        [8],
        0,
        2**40,
        "bytes of data that the file has, got shape [8], 32 bytes at offset 1099511627776.",
    ),
    ("blk.0.ffn_norm", [2**63, 2**63], 0, 0, f"got shape [{2**63}, {2**63}], {2**128} bytes at offset 0."),
    ("blk.0.ffn_norm", [8], 0, 32, "must be apart from all other tensors, got bytes of token_embd.weight."),
    ("blk.0.ffn_norm", [8], 24, None, "must be of a type that can be dequantized, got I8."),
]


@pytest.mark.parametrize(("name", "shape", "kind", "offset", "message"), LYING_TENSORS)
def test_a_tensor_that_does_not_fit_the_file_is_named(tmp_path, name, shape, kind, offset, message):
    tensors = good_tensors() | {f"{name}.weight": (shape, kind, offset)}
    path = write(tmp_path / "m.gguf", good_keys(), tensors)
    with pytest.raises(BadInput, match=f"^{re.escape(f'{path}: tensor {name}.weight ')}.*{re.escape(message)}$"):
        lm.load_gguf(path)


def test_tensors_beyond_a_file_with_a_large_alignment_are_refused(tmp_path):
    path = write(tmp_path / "m.gguf", good_keys() | {"general.alignment": (U32, 2**31)}, good_tensors())
    refused(path, f"{path}: tensor token_embd.weight must be inside of the 0 bytes of data that the file has, got ", "")


def test_weights_that_are_not_finite_are_named(tmp_path):
    path = write(tmp_path / "m.gguf", good_keys(), good_tensors(), fill=NAN)
    with pytest.raises(BadInput, match=r"tensor token_embd.weight must be finite numbers, got entries that are not"):
        lm.load_gguf(path)


def test_damaged_headers_are_refused_or_read_but_never_crash(tmp_path):
    """Everything before the weights are read: that has no number of the header left."""
    good = write(tmp_path / "m.gguf", good_keys(), good_tensors()).read_bytes()
    header_bytes = len(good) - sum(-(-4 * int(np.prod(shape)) // 32) * 32 for shape, _, _ in good_tensors().values())
    random = np.random.default_rng(0)
    path, refusals = tmp_path / "damaged.gguf", []
    for trial in range(400):
        content = bytearray(good if trial % 4 else good[: random.integers(len(good))])
        for at in random.integers(0, min(header_bytes, len(content) or 1), random.integers(1, 4)):
            if len(content):
                content[at] = int(random.choice(VALUES))
        path.write_bytes(content)
        try:
            header = GGUFHeader(path)
            config = loading._config(header, None)
            loading._template(header, loading._tokenizer(header, config.vocabulary_size))
        except BadInput as error:
            refusals.append(str(error))
    assert len(refusals) > 200
    assert all(said.startswith(str(path)) and said.isprintable() for said in refusals)
