"""Elementary and special functions to a few units in the last place, over the whole range of float32 and float64.

XLA's own are not enough: on CPU, jax 0.10.2 is off by up to 4 ulp in ``expm1`` and ``tanh`` and by 60 ulp in ``erfc``, and a formula
built on them adds its own roundings. The polynomials come from ``_coefficients.py``. Nothing here is meant to be differentiated by JAX:
whoever uses these functions attaches the derivative.

Where a product of a large factor and a vanishing exponential is wanted, the exponential alone would underflow (XLA flushes
subnormal numbers to zero) while the product is still a normal number. ``scaled_exp`` therefore returns two factors.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdiff.functions import _coefficients as table
from jaxdiff.functions._arrays import bits_of

# Beyond these arguments the normal tail is below the smallest normal number, times the argument too.
NORMAL_CUTOFF = {32: 14.0, 64: 40.0}
# Below the threshold exp(z) = exp(z + S log 2) 2^-S, with S log 2 in two parts, of which the first adds to z without rounding.
_DEEP = {32: (-64.0, 64), 64: (-600.0, 512)}


def horner(coefficients: Sequence[float], x: jax.Array) -> jax.Array:
    """Polynomial with the lowest power first."""
    result = jnp.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        result = result * x + c
    return result


def unfolded(constant: float, x: jax.Array) -> jax.Array:
    """``constant``, NaN where ``x`` is NaN: a constant that the compiler does not know to be one.

    XLA rewrites (x - c1) - c2 as x - (c1 + c2), which rounds away what c2 was there for.
    """
    return jnp.where(jnp.isnan(x), x, jnp.asarray(constant, x.dtype))


def leading_bits(x: jax.Array) -> jax.Array:
    """``x`` with the lower half of its significand cleared, so that the product of two such numbers is exact."""
    if bits_of(x) == 32:
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & jnp.uint32(0xFFFFF000)
    else:
        bits = jax.lax.bitcast_convert_type(x, jnp.uint64) & jnp.uint64(0xFFFFFFFFF8000000)
    return jax.lax.bitcast_convert_type(bits, x.dtype)


def expm1_near_zero(x: jax.Array) -> jax.Array:
    """exp(x) - 1 for x in [-1, 1/2]."""
    return x + x * x * horner(table.EXPM1[bits_of(x)], x)


def expm1_negative(x: jax.Array) -> jax.Array:
    """exp(x) - 1 for x <= 1/2."""
    return jnp.where(x < -1, jnp.exp(x) - 1, expm1_near_zero(jnp.maximum(x, -1)))


def scaled_exp(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(m, s) with exp(z) = m s for z <= 0, s a power of two, and m not subnormal wherever a product with it matters."""
    threshold, exponent = _DEEP[bits_of(z)]
    high, low = (exponent * part for part in table.LOG_2)
    is_deep = z < threshold
    m = jnp.exp(z + jnp.where(is_deep, high, 0.0).astype(z.dtype))
    return jnp.where(is_deep, m * math.exp(low), m), jnp.where(is_deep, 2.0**-exponent, 1.0).astype(z.dtype)


def tanh(x: jax.Array) -> jax.Array:
    """Hyperbolic tangent."""
    a = jnp.abs(x)
    small = jnp.minimum(a, 0.55)
    square = small * small
    near_zero = small + small * square * horner(table.TANH[bits_of(x)], square)
    return jnp.copysign(jnp.where(a < 0.55, near_zero, 1 - 2 / (1 + jnp.exp(2 * a))), x)


def log_one_minus(p: jax.Array) -> jax.Array:
    """log(1 - p): through log where 1 - p loses nothing that matters, since log1p of jax 0.10.2 is off by 126 ulp near p = 0.41."""
    return jnp.where(p > 0.25, jnp.log(1 - p), jnp.log1p(-jnp.minimum(p, 0.25)))


def log_cosh(x: jax.Array) -> jax.Array:
    """log(cosh(x)): a polynomial near zero, where |x| - log 2 + log1p(exp(-2|x|)) cancels."""
    a = jnp.abs(x)
    square = jnp.minimum(a, 1) ** 2
    high, low = table.LOG_2
    return jnp.where(
        a < 1, square * horner(table.LOG_COSH[bits_of(x)], square), (a - high) + (jnp.log1p(jnp.exp(-2 * a)) - unfolded(low, x))
    )


def gaussian(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(m, s) with exp(-a^2/2) / sqrt(2 pi) = m s, for 0 <= a <= the cutoff.

    a^2 rounds, and exp turns that rounding into a^2/2 times as much: 100 ulp in the tail. With b the leading bits of a, b^2 is
    exact, and the rest, (a - b)(a + b), is small; what rounding the constant took is made up there too.
    """
    constant, correction = table.INVERSE_SQRT_2PI[bits_of(a)]
    b = leading_bits(a)
    m, scale = scaled_exp(-0.5 * b * b)
    m *= constant
    rest = -0.5 * (a - b) * (a + b) + correction
    return m + m * expm1_near_zero(rest), scale


def mills_tail(a: jax.Array) -> jax.Array:
    """w(a) for 1 <= a <= the cutoff, where 1 / (a + w(a)) is the Mills ratio (1 - Phi(a)) / phi(a)."""
    shifted = a + 4
    return horner(table.MILLS_TAIL[bits_of(a)], (a - 4) / shifted) / shifted


def normal_centre(a: jax.Array) -> jax.Array:
    """Phi(a) - 1/2 for 0 <= a <= 1."""
    return a * horner(table.NORMAL_CENTRE[bits_of(a)], a * a)


def normal_pdf(x: jax.Array) -> jax.Array:
    """Density of the standard normal distribution."""
    m, scale = gaussian(jnp.minimum(jnp.abs(x), NORMAL_CUTOFF[bits_of(x)]))
    return m * scale


def distance_to_root(a: jax.Array, root: dict[int, tuple[float, float]]) -> jax.Array:
    """a - root, right to the last bit beside the root."""
    nearest, rest = root[bits_of(a)]
    return (a - nearest) - unfolded(rest, a)
