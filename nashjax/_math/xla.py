"""Compiler options of XLA, each used only if the installed jaxlib accepts it."""

from __future__ import annotations

import functools

import jax

WIDE = ("xla_cpu_prefer_vector_width", 512)
"""Vectors as wide as the processor has them, where XLA would halve them: saves a sixth of the time with AVX-512."""
ONE_CORE = ("xla_cpu_multi_thread_eigen", False)
"""Keep products of matrices on one core: for programs that run side by side."""
ONE_MODULE = ("xla_cpu_parallel_codegen_split_count", 1)
"""Compile a program as one module: fewer memory maps, of which Linux allows a process 65,530."""


@functools.cache
def accepted(*options: tuple[str, int | bool]) -> dict[str, int | bool]:
    """Return the options that this jaxlib accepts on the default backend; asks once, by compiling a trivial program."""
    if jax.default_backend() != "cpu":
        return {}
    return {name: value for name, value in options if _is_accepted(name, value)}


@functools.cache
def _is_accepted(name: str, value: int | bool) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(jax.ShapeDtypeStruct((), "float32")).compile()
    except (jax.errors.JaxRuntimeError, ValueError, TypeError):
        return False
    return True
