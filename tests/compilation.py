"""How the tests compile."""

import mmap
from pathlib import Path

import jaxlib

ALWAYS = "--xla_backend_optimization_level=0"
WHERE_KNOWN = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")
"""Flags that not every jaxlib has; one that it does not know would end the process."""


def fast() -> str:
    """Settings of XLA that spend little on making programs fast that run once.

    Most of the time of the tests is compilation, which takes 0.4 of the time so. To test with the settings that users
    have, set XLA_FLAGS to nothing; what hangs on the last digits of float32 is (the mark `compiled_as_by_users`).
    """
    for path in Path(jaxlib.__file__).parent.glob("*jax_common*"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
            return " ".join([ALWAYS, *(flag for flag in WHERE_KNOWN if library.find(as_text(flag)) >= 0)])
    return ALWAYS


def as_text(flag: str) -> bytes:
    """The name of a flag as a text of its own; one that has been given up is still part of other names."""
    return b"\0" + flag.strip("-").partition("=")[0].encode() + b"\0"
