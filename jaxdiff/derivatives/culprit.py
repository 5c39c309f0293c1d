"""Where a derivative that is not finite comes from: its program, run equation by equation.

The derivative is traced to a jaxpr and evaluated one primitive at a time. Every value that is not finite remembers the equation at which
it, or what it was made from, first left the finite numbers; the result's memory names the culprit. So the double-where trap is found at
the division that made the infinity, not at the zero that turned it into NaN. Calls (``jit``, ``custom_jvp``, checkpoints) are looked into;
loops and branches are taken as one equation.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

_OURS = str(pathlib.Path(__file__).parent)
_Origin = tuple[str, str] | None
_CALLS = ("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")
_CHECKPOINTS = ("checkpoint", "remat", "remat2")


def find_culprit(function: Callable[..., Any], *args: Any) -> str:
    """The equation at which a function's result left the finite numbers.

    Args:
        function: such as a gradient or a jvp; of arrays.
        *args: where.

    Returns:
        The primitive and the line of the user's code it comes from, in words; empty where the result is finite or nothing can be said.

    Example:
        >>> find_culprit(lambda x: 1 / x, jnp.float32(0.0)).split(" at ")[0]
        'div'
        >>> find_culprit(lambda x: 1 / x, jnp.float32(1.0))
        ''
    """
    closed = jax.make_jaxpr(function)(*args)
    leaves: list[tuple[Any, _Origin]] = [(jnp.asarray(leaf), None) for leaf in jax.tree.leaves(args)]
    outputs = _run(closed.jaxpr, closed.consts, leaves, "")
    for value, origin in outputs:
        if origin is not None and _is_bad(value):
            primitive, line = origin
            return f"{primitive} at {line}" if line else primitive
    return ""


def _run(jaxpr: Any, consts: Any, inputs: list[tuple[Any, _Origin]], line: str) -> list[tuple[Any, _Origin]]:
    known: dict[Any, tuple[Any, _Origin]] = dict(zip(jaxpr.constvars, ((const, None) for const in consts), strict=True))
    known.update(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> tuple[Any, _Origin]:
        return (atom.val, None) if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        here = _user_line(equation) or line
        inner = called(equation)
        if inner is not None:
            results = _run(inner.jaxpr, inner.consts, operands, here)
        else:
            values = equation.primitive.bind(*(value for value, _ in operands), **equation.params)
            values = values if equation.primitive.multiple_results else [values]
            results = [(value, _origin(value, operands, (equation.primitive.name, here))) for value in values]
        known.update(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _origin(value: Any, operands: list[tuple[Any, _Origin]], here: tuple[str, str]) -> _Origin:
    if not _is_bad(value):
        return None
    # Of several operands the one that is NaN already explains more than one that is infinite, and a constant of -inf explains nothing.
    blamed = [origin for operand, origin in operands if origin is not None and _is_bad(operand)]
    return blamed[0] if blamed else here


def called(equation: Any) -> Any:
    """The jaxpr of a call that only groups equations, whose inputs are the call's own; None for everything else."""
    if equation.primitive.name in _CHECKPOINTS:
        return core.ClosedJaxpr(equation.params["jaxpr"], ())
    if equation.primitive.name not in _CALLS:
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        if inner is not None and hasattr(inner, "consts") and len(inner.jaxpr.invars) == len(equation.invars):
            return inner
    return None


def _is_bad(value: Any) -> bool:
    if not hasattr(value, "dtype") or not jnp.issubdtype(value.dtype, jnp.inexact):
        return False
    return not bool(np.all(np.isfinite(np.asarray(value).astype(np.complex128 if np.iscomplexobj(value) else np.float64))))


def _user_line(equation: Any) -> str:
    """``file:line`` of the innermost frame of an equation that is the user's; what JAX keeps of it is no public interface."""
    try:
        from jax._src import source_info_util

        frame = source_info_util.user_frame(equation.source_info.traceback)
        # Whoever calls JAX is a user to it, the checker included; further out there is only the line that called the checker.
        return "" if frame is None or frame.file_name.startswith(_OURS) else f"{frame.file_name}:{frame.start_line}"
    except (ImportError, AttributeError, TypeError):
        return ""
