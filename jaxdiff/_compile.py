"""Compiling what runs once or twice: the compiler's time counts there, and not the program's."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jaxlib.version

from jaxdiff._validation import is_staged, is_traced

QUICKLY: dict[str, Any] = (
    {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1} if jaxlib.version.__version_info__ < (0, 11) else {}
)
"""Options of XLA's CPU compiler with which it takes a half to a third of the time. Its newer emitters set up a compiler of their own for
each loop, and their loops run up to a third faster where exponentials and logarithms are most of the work. jaxlib 0.12 has no others."""

FEW = 4096
"""Up to so many lanes a program that is new is compiled longer than it runs."""


def is_worth_haste(num_lanes: int) -> bool:
    """Whether to compile with `QUICKLY`, outside of any trace: only the outermost program may have compiler options."""
    return num_lanes <= FEW and jax.default_backend() == "cpu"


def jit_quickly(f: Callable[..., Any], num_lanes: Callable[..., int], static_argnums: tuple[int, ...] = ()) -> Callable[..., Any]:
    """``jax.jit(f)`` that compiles in less time where it is the outermost program, and ``num_lanes(*args)`` are few.

    Args:
        f: a pure function of its arguments alone: what it closed over could be traced without being seen.
        num_lanes: says of the arguments how many lanes they are.
        static_argnums: as of ``jax.jit``.

    Returns:
        The compiled function.
    """
    plain = jax.jit(f, static_argnums=static_argnums)
    quick = jax.jit(f, static_argnums=static_argnums, compiler_options=QUICKLY or None)

    @functools.wraps(f)
    def call(*args: Any) -> Any:
        may = not is_traced(args) and not is_staged() and is_worth_haste(num_lanes(*args))
        return (quick if may else plain)(*args)

    return call
