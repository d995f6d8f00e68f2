"""Settings of a model folder: every value of `config.json` is checked against its type and against the tensors."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, NoReturn

from nashjax._validation import LARGEST_INT, shown
from nashjax.files.errors import bad_input, shortened
from nashjax.files.source import Source, parsing

MOST_JSON_BYTES = 2**26
"""Limit of a JSON file of settings."""
_LARGEST_BASE = 1e12
"""Bases of rotary positions are at most some 1e9 in published models."""


@dataclasses.dataclass(frozen=True)
class Tensors:
    """Sizes of the tensors of a folder, which bound those of `config.json`.

    Attributes:
      vocabulary_size: rows of the embedding.
      width: columns of the embedding.
      number: number of tensors.
      longest: largest size of an axis.
      entries: number of entries of all tensors together.
    """

    vocabulary_size: int
    width: int
    number: int
    longest: int
    entries: int


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, an empty one if there is no file.

    Raises:
      BadInput: the file cannot be read, is too large, or does not hold an object.
    """
    if not path.is_file():
        return {}
    with parsing(path, "JSON"):
        num_bytes = path.stat().st_size
        if num_bytes > MOST_JSON_BYTES:
            raise bad_input(path, "", f"at most {MOST_JSON_BYTES} bytes long", f"{num_bytes}")
        found = json.loads(Source(path, MOST_JSON_BYTES).read("JSON").decode("utf-8"))
    if not isinstance(found, dict):
        raise bad_input(path, "", "a JSON object", shown(found))
    return found


class Fields:
    """Fields of a `config.json`.

    Args:
      path: the file, for messages.
      fields: what it holds.
    """

    def __init__(self, path: Path, fields: dict[str, Any]):
        self.path, self.fields = path, fields

    @classmethod
    def of(cls, folder: Path) -> Fields:
        """Return the fields of a folder. For a model that also sees, return those of its text part."""
        path = folder / "config.json"
        if not path.is_file():
            raise bad_input(path, "", "a file that exists", "a path where no file is")
        fields = cls(path, read_json(path))
        return cls(path, {**fields.fields, **fields.mapping("text_config")})

    def __call__(self, name: str, default: Any) -> Any:
        """Return a field, which may be missing or null."""
        value = self.fields.get(name)
        return default if value is None else value

    def integer(self, name: str, least: int, most: int, default: int | None = None) -> int:
        """Return an integer from `least` to `most`."""
        value = self(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.refuse(name, f"an integer from {least} to {most}" if least < most else f"the integer {least}")
        return value

    def number(self, name: str, most: float, default: float | None = None, *, within: dict | None = None) -> float:
        """Return a number > 0, at most `most`; it may also stand in a mapping `within` the fields."""
        value = (within or {}).get(name)
        value = self(name, default) if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
            self.refuse(name, f"a number > 0 and <= {most:g}", value)
        return float(value)

    def mapping(self, name: str) -> dict[str, Any]:
        """Return a JSON object, which may be missing or null."""
        value = self(name, {})
        if not isinstance(value, dict):
            self.refuse(name, "a JSON object")
        return value

    def cap(self, name: str, default: float) -> float | None:
        """Return a number > 0. A null in the file means that there is none, a missing field the default."""
        return None if name in self.fields and self.fields[name] is None else self.number(name, 1e9, default)

    def only(self, name: str, value: Any, allowed: Any) -> None:
        """Raise BadInput unless a field has the one value that is computed."""
        if value != allowed:
            self.refuse(name, repr(allowed), value)

    def refuse(self, name: str, requirement: str, value: Any = None) -> NoReturn:
        """Raise BadInput for a field; by default its value is that in the file."""
        value = self.fields.get(name) if value is None else value
        raise bad_input(self.path, name, requirement, "no such field" if value is None else shortened(shown(value)))

    def sizes(self, tensors: Tensors, **defaults: int) -> dict[str, int]:
        """Return the sizes by Tunix's names, after a check of the options that no family here computes."""
        self.only("quantization_config", self.fields.get("quantization_config"), None)
        for name in ("attention_bias", "mlp_bias", "use_sliding_window"):
            self.only(name, self(name, False), False)

        def size(name: str, most: int) -> int:
            return self.integer(name, 1, most, defaults.get(name))

        width = self.integer("hidden_size", tensors.width, tensors.width, defaults.get("hidden_size"))
        layers = size("num_hidden_layers", tensors.number)
        heads = size("num_attention_heads", tensors.longest)
        kv_heads = self.integer("num_key_value_heads", 1, heads, defaults.get("num_key_value_heads", heads))
        if heads % kv_heads:
            self.refuse("num_key_value_heads", f"a divisor of num_attention_heads, {heads}", kv_heads)
        head_dim = self.integer("head_dim", 2, tensors.longest, defaults.get("head_dim", width // heads))
        if head_dim % 2:
            self.refuse("head_dim", "even", head_dim)
        if layers * heads * head_dim * width > tensors.entries:
            got = f"{layers} layers of {heads} heads of {head_dim}"
            raise bad_input(self.path, "sizes", f"such that the {tensors.entries} entries of all tensors suffice", got)
        return {
            "num_layers": layers,
            "embed_dim": width,
            "hidden_dim": size("intermediate_size", tensors.longest),
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": head_dim,
        }

    def context_length(self) -> int:
        """Return the length of the context, at least a token to read and one to answer."""
        return self.integer("max_position_embeddings", 2, LARGEST_INT)

    def rope(self, base: float, *, layers: str = "", linear: bool = False) -> tuple[float, float]:
        """Return the base of the rotary positions and their divisor.

        Args:
          base: the default.
          layers: kind of layers, where there are several.
          linear: whether there may be a divisor.
        """
        found = self.mapping("rope_parameters")
        found = found.get(layers, found)
        local = layers == "sliding_attention"
        # Files from before `rope_parameters`, where scaling is not of local layers.
        scaling = found if local else self.mapping("rope_scaling") or found
        for part in (found, scaling):
            if not isinstance(part, dict):
                self.refuse("rope_parameters", "an object for each kind of layers", part)
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind != "linear" or not linear:
            self.only("rope_scaling", kind, "default")
        self.only("partial_rotary_factor", found.get("partial_rotary_factor", self("partial_rotary_factor", 1)), 1)
        base = (
            self.number("rope_theta", _LARGEST_BASE, within=found)
            if "rope_theta" in found
            else self.number("rope_local_base_freq" if local else "rope_theta", _LARGEST_BASE, base)
        )
        return base, self.number("factor", 1e6, 1.0, within=scaling) if kind == "linear" else 1.0


def model_sizes(shapes: dict[str, tuple[int, ...]], embedding: tuple[int, ...]) -> Tensors:
    """Return the sizes that the shapes of all tensors give."""
    longest = max((size for shape in shapes.values() for size in shape), default=0)
    entries = sum(math.prod(shape) for shape in shapes.values())
    return Tensors(embedding[0], embedding[1], len(shapes), longest, entries)
