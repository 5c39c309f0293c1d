"""Norms, dtype tolerances and guarded arithmetic.

Everything here follows the dtype of its input and works on host numbers as well as on traced arrays.
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff._types import DType


@functools.lru_cache(maxsize=32)
def machine_epsilon(dtype: DType) -> float:
    """Spacing of floating-point numbers just above one, as a Python float (``ml_dtypes`` included).

    Example:
        >>> machine_epsilon("float32") == 2.0**-23
        True
    """
    return float(jnp.finfo(dtype).eps)


def smallest_normal(dtype: DType) -> float:
    """Smallest positive number of full precision in ``dtype``.

    Example:
        >>> smallest_normal("float64") == 2.0**-1022
        True
    """
    return float(jnp.finfo(dtype).smallest_normal)


def default_gradient_tolerance(dtype: DType, *, is_exact: bool) -> float:
    """Default ``gtol``: eps^(1/2) where the gradient is exact to rounding, eps^(1/3) where it is a finite difference.

    A central difference of second order carries a relative error near eps^(2/3) of the scale of f;
    eps^(1/3) leaves room for an f larger than one. These are our own choices, not taken from a book.
    """
    return machine_epsilon(dtype) ** (1 / 2 if is_exact else 1 / 3)


def is_float_dtype(dtype: DType) -> bool:
    """Whether ``dtype`` is a real floating-point type, ``bfloat16`` included."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


def safe_divide(numerator: Float[Array, "..."], denominator: Float[Array, "..."], otherwise: float = 0.0) -> Float[Array, "..."]:
    """Quotient where the denominator is not zero, ``otherwise`` elsewhere.

    The denominator is guarded *before* the division, so that neither the value nor any derivative ever sees 0/0.

    Example:
        >>> safe_divide(jnp.array([1.0, 1.0]), jnp.array([0.0, 2.0])).tolist()
        [0.0, 0.5]
    """
    is_zero = denominator == 0
    guarded = jnp.where(is_zero, jnp.ones_like(denominator), denominator)
    return jnp.where(is_zero, jnp.asarray(otherwise, guarded.dtype), numerator / guarded)


def power_of_two_at_least(value: float) -> float:
    """Smallest power of two that is not below ``value`` (host arithmetic, exact).

    Example:
        >>> power_of_two_at_least(3.0)
        4.0
    """
    mantissa, exponent = np.frexp(value)
    return float(np.ldexp(1.0, int(exponent) - (1 if mantissa == 0.5 else 0)))
