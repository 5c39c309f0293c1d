"""How large a finite-difference step to take: the rule, its derivation, and steps that floating-point numbers can carry.

For a stencil of derivative order d and accuracy order p, with truncation constant C and absolute weight W = sum |w_k|, the error at step
h is at most

    |C| h^p |f^(d+p)|  +  W e |f| / h^d,

truncation first, then rounding, where e is the relative error of one evaluation of f. Setting the derivative with respect to h to zero
gives

    h = ( d W e |f| / (p |C| |f^(d+p)|) )^(1 / (d + p)).

Nothing is known of f^(d+p) in advance. If f is analytic within a distance L of x, Cauchy's estimate bounds |f^(k)| by k! |f| / L^k, and

    h = L ( d W e / (p |C| (d+p)!) )^(1 / (d + p)).

The rule takes L = max(|x|, 1) (as scipy's ``approx_derivative`` does) and e = eps / 2, a correctly rounded f. So the forward difference
steps by (2 e)^(1/2) L, the central one by (e / 2)^(1/3) L, the second central one by (2 e)^(1/4) L. For sin and exp, whose derivatives do
not grow, this is shorter than the best step, by up to 2.6 times at order four; for log it is the best. Leaving the factorial out was
measured to lose more on log than it wins on sin, above all in float32. A function that varies on another scale, or is computed with less
care, needs its own ``step``.

The step is then rounded to a power of two. x + h is thereby exact unless it crosses into a larger binade, and what is left of that
rounding the kernels divide out, by the difference that was really taken.

References:
    J. Nocedal and S. Wright, Numerical Optimization, 2nd edition (2006), section 8.1, equations 8.4 to 8.8 (forward and central
    differences). W. Press et al., Numerical Recipes, 3rd edition (2007), section 5.7 (a representable difference; powers of the machine
    epsilon).
"""

import math

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon
from jaxdiff._types import DType
from jaxdiff.derivatives.stencils import Stencil, stencil_for


def balanced_step(constant: float, absolute_weight: float, derivative: int, order: int, epsilon: float) -> float:
    """The step, in units of the length scale L, at which truncation and rounding together are smallest.

    Args:
        constant: C, of truncation.
        absolute_weight: W, of rounding.
        derivative: order d of the derivative.
        order: order p of accuracy.
        epsilon: machine epsilon of the precision in which f is evaluated.

    Example:
        >>> round(balanced_step(1 / 2, 2.0, 1, 1, 2.0**-52) * 2**26, 12)  # sqrt(eps)
        1.0
    """
    rounding = epsilon / 2
    total = derivative + order
    return (derivative * absolute_weight * rounding / (order * abs(constant) * math.factorial(total))) ** (1 / total)


def relative_step(stencil: Stencil, epsilon: float) -> float:
    """`balanced_step` of one stencil."""
    return balanced_step(float(stencil.constant), stencil.absolute_weight, stencil.derivative, stencil.order, epsilon)


def default_step(kind: str = "central", derivative: int = 1, order: int = 2, dtype: DType = "float64") -> float:
    """The default step at |x| <= 1, a power of two; elsewhere it grows as |x|.

    Args:
        kind: "forward", "backward" or "central".
        derivative: order of the derivative.
        order: order of accuracy.
        dtype: precision in which f is evaluated.

    Returns:
        The step, absolute.

    Example:
        >>> default_step("central", 1, 2, "float64") == 2.0**-18
        True
    """
    step = relative_step(stencil_for(kind, derivative, order), machine_epsilon(dtype))
    return float(nearest_power_of_two(jnp.float32(step)))


def nearest_power_of_two(value: jax.Array) -> jax.Array:
    """The power of two nearest to a positive number, exact under jit and in every precision.

    The mantissa is rounded away bit by bit: ``exp2`` of a rounded ``log2`` need not be an exact power of two in every backend.
    """
    info = jnp.finfo(value.dtype)
    return jax.lax.reduce_precision(value, exponent_bits=info.bits - 1 - info.nmant, mantissa_bits=0)


def power_of_two_below(value: jax.Array) -> jax.Array:
    """A power of two that is not above ``value``, nor 2.25 times below it.

    Rounding 2/3 of m 2^k (1 <= m < 2) to the nearest power gives 2^k or 2^(k-1), never more than the value.
    """
    return nearest_power_of_two(value * (2 / 3))


def length_scale(x: jax.Array) -> jax.Array:
    """L = max(|x|, 1), elementwise."""
    return jnp.maximum(jnp.abs(x), jnp.ones_like(x))
