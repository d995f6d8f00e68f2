"""Damaged copies of small files: bytes flipped, cut and inserted, and fields of each format set to hostile values."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

EXTREMES = (0, 1, 2, 127, 128, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
SHAPES = (
    *("(True, 3)", "(3, True)", "(3.0, 3)", "(-3, -3)", "(0, 0)", "()", "(3,)", "(1, 1)", "3", "[3, 3]", "(None, 3)"),
    *("(3, 3, 3)", "(10000, 10000)", "(10000000, 10000000)", f"({2**63}, {2**63})", "(1_0, 3)", "'ab'", "{3: 3}"),
    *(f"({'1, ' * 33})", f"({'1, ' * 70}3, 3)", "(" * 150 + "3" + ",)" * 150, f"({'9' * 3000}, 3)", "(2, 2, 2, 2)"),
)
TYPES = (
    *("'|O'", "'<U3'", "'<U999999999'", "'|S0'", "'|V8'", "'|V999999999'", "'<M8[s]'", "'<c16'", "'<f16'", "'>f2'"),
    *("'<i1'", "'|b1'", "'<f99'", "'x'", "None", "[('a', '<f8')]", "[('a', '<f8', (99999, 99999))]", "('<f8', (3,))"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 0.5, 1e308, 10**30, 2**63, "", "x", "\0", "\x1b[2J", "a" * 10_000, [], {}, [[]]),
    *({"a": {}}, [0.5] * 3, ["x"], float("nan"), float("inf"), "/dev/zero", "..", 10**400),
)
FIELDS = ("", " ", '"', '"a', "\0", "nan", "-1", "1e400", "1_0", "=1", "\ufeff", "é", "x" * 200_000, "\n", "a,b", ";")

Mutation = Callable[[random.Random, bytes], bytes]


def flip(rng: random.Random, content: bytes) -> bytes:
    """Change one to eight bytes."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8) if rng.random() < 0.7 else rng.randrange(1, 256)
    return bytes(changed)


def cut(rng: random.Random, content: bytes) -> bytes:
    """Cut the end off, or a piece out."""
    start = rng.randrange(len(content))
    return content[:start] + (b"" if rng.random() < 0.5 else content[start + rng.randint(1, 64) :])


def insert(rng: random.Random, content: bytes) -> bytes:
    """Insert random bytes, or a piece of the file itself."""
    start = rng.randrange(len(content) + 1)
    piece = rng.randbytes(rng.randint(1, 200)) if rng.random() < 0.5 else content[start // 2 : start // 2 + 100]
    return content[:start] + piece * rng.choice((1, 1, 20)) + content[start:]


def overwrite(rng: random.Random, content: bytes) -> bytes:
    """Set an integer of 1 to 8 bytes anywhere, the more often the nearer to the start, to an extreme value."""
    width = rng.choice((1, 2, 4, 8))
    at = int((len(content) - width) * rng.random() ** 3) if len(content) > width else 0
    value = rng.choice(EXTREMES) & (2 ** (8 * width) - 1)
    return content[:at] + value.to_bytes(width, "little") + content[at + width :]


def npy_header(rng: random.Random, content: bytes) -> bytes:
    """Change the shape, the type or the length in the header of an array."""
    if len(content) < 12 or not content.startswith(b"\x93NUMPY"):
        return flip(rng, content)
    if rng.random() < 0.1:
        length = struct.pack("<H", rng.choice(EXTREMES) & 0xFFFF)
        return content[:8] + length + content[10:]
    end = 10 + struct.unpack("<H", content[8:10])[0]
    header = content[10:end].decode("latin-1")
    if rng.random() < 0.6:
        header = re.sub(r"'shape': .*\)", lambda _: f"'shape': {rng.choice(SHAPES)}", header)
    else:
        header = re.sub(r"'descr': '[^']*'", lambda _: f"'descr': {rng.choice(TYPES)}", header)
    encoded = header.rstrip().encode("latin-1") + b"\n"
    return content[:8] + struct.pack("<H", min(len(encoded), 0xFFFF)) + encoded + content[end:]


def zip_member(rng: random.Random, content: bytes) -> bytes:
    """Damage one member of an archive and pack the archive again, so that checksums and sizes fit."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(members))
    inner = rng.choice((npy_header, npy_header, flip, cut, insert, code_points, other_array))
    members[name] = inner(rng, members[name])
    if rng.random() < 0.2:
        members[rng.choice(("x.npy", "items.npy", "é\0.npy", "a/../b.npy", "x"))] = members[name]
    stream = io.BytesIO()
    packing = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return stream.getvalue()


def code_points(rng: random.Random, content: bytes) -> bytes:
    """An array of text with code points that no character has."""
    del content
    words = np.array(["abc", "d", "e"])
    raw = bytearray(words.tobytes())
    raw[:4] = struct.pack("<I", rng.choice((0xD800, 0x110000, 0xFFFFFFFF, 0x80000000)))
    return _npy(np.frombuffer(bytes(raw), words.dtype))


def other_array(rng: random.Random, content: bytes) -> bytes:
    """An array of another type or shape."""
    del content
    return _npy(rng.choice(OTHERS))


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


OTHERS = (
    np.array([None, 1], object),
    np.zeros(3, [("a", "f8"), ("b", "U3")]),
    np.zeros(3, "V8"),
    np.array(["x"] * 3),
    np.zeros((0, 3)),
    np.zeros(()),
    np.full((3, 3), np.nan),
    np.full((3, 3), 1e300),
    np.zeros((3, 3), complex),
)


def zip_field(rng: random.Random, content: bytes) -> bytes:
    """Set a field of a local header, the central directory or its end to an extreme value."""
    places = [(match.start(), match[0]) for match in re.finditer(rb"PK(\x01\x02|\x03\x04|\x05\x06)", content)]
    at, magic = rng.choice(places)
    size = {b"PK\x01\x02": 46, b"PK\x03\x04": 30, b"PK\x05\x06": 22}[magic]
    width = rng.choice((2, 4))
    offset = at + rng.randrange(4, size - width + 1, 2)
    value = rng.choice(EXTREMES) & (2 ** (8 * width) - 1)
    return content[:offset] + value.to_bytes(width, "little") + content[offset + width :]


def csv_field(rng: random.Random, content: bytes) -> bytes:
    """Replace, repeat or drop fields of a table."""
    rows = [line.split(",") for line in content.decode("utf-8").splitlines()]
    for _ in range(rng.randint(1, 3)):
        row = rng.choice(rows)
        column = rng.randrange(len(row))
        match rng.randrange(4):
            case 0:
                row[column : column + 1] = []
                row.append("") if not row else None
            case 1:
                row[column:column] = [row[column]] * rng.choice((1, 5000))
            case _:
                row[column] = rng.choice(FIELDS)
    return rng.choice(("\n", "\r\n", "\r")).join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")


def json_value(rng: random.Random, content: bytes) -> bytes:
    """Replace a value by one of another type, nest it deeply, or repeat or drop a key."""
    fields = json.loads(content)
    name = rng.choice(list(fields))
    match rng.randrange(6):
        case 0:
            deep = rng.choice(("[", '{"a":', "[[],")) * rng.choice((50, 900, 990, 100_000))
            return json.dumps(fields).replace(json.dumps(fields[name]), deep, 1).encode()
        case 1:
            del fields[name]
        case 2:
            return content.replace(
                b"{", b"{" + f"{json.dumps(name)}: {json.dumps(rng.choice(VALUES[:9]))},".encode(), 1
            )
        case 3:
            whole = rng.choice(VALUES)
            return _dump(whole)
        case _:
            fields[name] = rng.choice(VALUES)
    return _dump(fields)


def _dump(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except ValueError:  # an integer with more digits than Python writes
        return b"1" + b"0" * 5000


def gguf_field(rng: random.Random, content: bytes) -> bytes:
    """Set a count of the header, or the type, the length or the value of a key, to an extreme value."""
    keys = [match.end() for match in re.finditer(rb"(?:general|llama|tokenizer)\.[a-z_.]+", content)]
    names = [match.end() for match in re.finditer(rb"(?:blk\.\d+\.[a-z_]+|token_embd|output)\.weight", content)]
    match rng.randrange(4):
        case 0:
            at, width = rng.choice((4, 8, 16)), rng.choice((4, 8))
        case 1 if names:
            at, width = rng.choice(names) + rng.choice((0, 4, 8, 12, 16, 20, 24)), rng.choice((4, 8))
        case _ if keys:
            at, width = rng.choice(keys) + rng.choice((0, 4, 8, 16, -8, -24)), rng.choice((4, 8))
        case _:
            return overwrite(rng, content)
    value = rng.choice((*EXTREMES, rng.randrange(16))) & (2 ** (8 * width) - 1)
    return content[:at] + value.to_bytes(width, "little") + content[at + width :]


MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "npy": (npy_header, npy_header, overwrite),
    "npz": (zip_member, zip_member, zip_field),
    "csv": (csv_field, csv_field),
    "json": (json_value, json_value, json_value),
    "gguf": (gguf_field, gguf_field, gguf_field, overwrite),
    "weights": (zip_member, zip_member, zip_field),
}
"""Mutations of each format, besides those of any bytes."""


def mutate(rng: random.Random, form: str, content: bytes) -> bytes:
    """A damaged copy of a file."""
    mutation = rng.choice((flip, cut, insert, *MUTATIONS[form], *MUTATIONS[form]))
    return mutation(rng, content)
