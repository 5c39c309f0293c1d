"""What comes in becomes a real array, and half precision is computed in float32."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._types import PyTree
from jaxdiff._validation import as_float_leaves


def as_real(x: Any, name: str) -> jax.Array:
    """A real floating-point array: integers and Python numbers become the default float.

    Raises:
        TypeError: ``x`` is not numeric, is boolean, or is complex.
    """
    if isinstance(x, (int, float)) and not isinstance(x, bool):
        return jnp.asarray(float(x))
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating):
        return x
    if isinstance(x, (list, tuple)):
        try:
            x = jnp.asarray(x)
        except TypeError as error:
            raise TypeError(f"{name} = {x!r} is not an array of real numbers") from error
    return as_float_leaves(x, name)


def _widen(x: PyTree) -> PyTree:
    is_half = isinstance(x, jax.Array) and x.dtype in (jnp.float16, jnp.bfloat16)
    return x.astype(jnp.float32) if is_half else x


def _rounded_like(y: jax.Array, x: jax.Array) -> jax.Array:
    return y if y.dtype == x.dtype else y.astype(x.dtype)


def in_working_precision(kernel: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """``kernel`` evaluated in float32 where the input is float16 or bfloat16, and rounded once at the end.

    A chain of half-precision operations would lose in each of them what the result can hold.
    """

    @functools.wraps(kernel)
    def wrapper(x: jax.Array) -> jax.Array:
        return _rounded_like(kernel(_widen(x)), x)

    return wrapper


def bits_of(x: jax.Array) -> int:
    """Width of the float of ``x``: 32 or 64, the key of every table of coefficients."""
    return 8 * x.dtype.itemsize


def keep_dtype(f: Callable[..., jax.Array], x: jax.Array, *parameters: Any) -> jax.Array:
    """``f(x, *parameters)`` in working precision, rounded to the dtype of ``x`` whatever the parameters are."""
    wide = _widen(x)
    return _rounded_like(f(wide, *(jnp.asarray(p, wide.dtype) for p in parameters)), x)
