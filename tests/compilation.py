"""How the tests compile."""

import mmap
from pathlib import Path

import jaxlib


def fast() -> str:
    """Settings of XLA that spend little on making programs fast that run once.

    Most of the time of the tests is compilation, which takes 0.4 of the time so. To test with the settings that users
    have, set XLA_FLAGS to nothing; what hangs on the last digits of float32 is (the mark `compiled_as_by_users`).
    """
    flags = "--xla_backend_optimization_level=0"
    for path in Path(jaxlib.__file__).parent.glob("*jax_common*"):
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
            if library.find(b"xla_cpu_use_fusion_emitters") >= 0:  # a flag that it does not know would end the process
                return f"{flags} --xla_cpu_use_fusion_emitters=false"
    return flags
