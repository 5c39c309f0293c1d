"""Activation functions, each with its documented derivative as a function of its own, and one registry of all of them.

The value and the derivative are written so that neither overflows nor loses a tail: within a few units in the last place of the exact
result over the whole range of float32 and float64 (the tests give the bound per function). ``jax.grad`` of a value goes through the
documented derivative, and ``jax.grad`` of a derivative through a formula of its own, so that differentiating keeps the digits. At a
kink the derivative is a convention, and the registry says which.

Every function takes a scalar, an array or a nested list of real numbers; integers are promoted, and the dtype of a floating input is kept.
float16 and bfloat16 are computed in float32 and rounded once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.functions import _coefficients as table
from jaxdiff.functions import _special as special
from jaxdiff.functions._arrays import as_real, bits_of, in_working_precision, keep_dtype

# Klambauer et al. (2017), "Self-Normalizing Neural Networks", equation 14: the fixed point has mean 0 and variance 1.
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def _smooth(kernel: Callable[[jax.Array], jax.Array], derivative: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """``kernel`` compiled, differentiated by ``derivative`` in forward and in reverse mode."""
    value = jax.custom_jvp(in_working_precision(kernel))
    value.defjvps(lambda tangent, _, x: derivative(x) * tangent)
    return jax.jit(value)


@jax.jit
def _select(x: jax.Array, condition: jax.Array, if_true: float | jax.Array, if_false: float | jax.Array) -> jax.Array:
    """One slope or another on the two sides of a kink, NaN where ``x`` is NaN."""
    return jnp.where(jnp.isnan(x), x, jnp.where(condition, if_true, if_false).astype(x.dtype))


def _with_root(
    x: jax.Array,
    elsewhere: jax.Array,
    root: dict[int, tuple[float, float]],
    slope: dict[int, tuple[float, ...]],
    span: tuple[float, float, float],
) -> jax.Array:
    """A derivative whose terms cancel around its root -r: there, the exact distance to the root times a polynomial."""
    low, high, centre = span
    a = jnp.clip(-x, low, high)
    near_root = -special.distance_to_root(a, root) * special.horner(slope[bits_of(x)], a - centre)
    return jnp.where((-x > low) & (-x < high), near_root, elsewhere)


# --- sigmoid, tanh, softplus ----------------------------------------------------------------------------------------------------------


def _sigmoid_kernel(x: jax.Array) -> jax.Array:
    e = jnp.exp(-jnp.abs(x))
    return jnp.where(x < 0, e, 1) / (1 + e)


def _sigmoid_derivative_kernel(x: jax.Array) -> jax.Array:
    m, scale = special.scaled_exp(-jnp.abs(x))
    e = m * scale
    return m / (1 + e * (2 + e)) * scale


def _tanh_derivative_kernel(x: jax.Array) -> jax.Array:
    return _sech_squared_times(4.0, x)


def _tanh_second_kernel(x: jax.Array) -> jax.Array:
    # -2 tanh sech^2, which is twice as large as sech^2 where that underflows.
    return _sech_squared_times(-8 * special.tanh(x), x)


def _sech_squared_times(factor: float | jax.Array, x: jax.Array) -> jax.Array:
    """factor sech(x)^2 / 4."""
    m, scale = special.scaled_exp(-2 * jnp.abs(x))
    e = m * scale
    return factor * m / (1 + e * (2 + e)) * scale


def _softplus_kernel(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x)))


_sigmoid_derivative = _smooth(_sigmoid_derivative_kernel, lambda x: -_sigmoid_derivative(x) * _tanh(x / 2))
_sigmoid = _smooth(_sigmoid_kernel, _sigmoid_derivative)
_tanh_derivative = _smooth(_tanh_derivative_kernel, lambda x: _tanh_second(x))
_tanh_second = _smooth(_tanh_second_kernel, lambda x: _tanh_derivative(x) * (6 * _tanh(x) ** 2 - 2))
_tanh = _smooth(special.tanh, _tanh_derivative)
_softplus = _smooth(_softplus_kernel, _sigmoid)
_exp = _smooth(jnp.exp, lambda x: _exp(x))
_expm1_negative = _smooth(special.expm1_negative, _exp)


@jax.custom_jvp
def _exp_times(factor: jax.Array, x: jax.Array) -> jax.Array:
    """factor exp(x) for x <= 0, without the underflow of exp alone."""
    m, scale = special.scaled_exp(x)
    return factor * m * scale


_exp_times.defjvps(
    lambda tangent, _, factor, x: tangent * _exp(x),
    lambda tangent, result, factor, x: result * tangent,
)


@jax.custom_jvp
def _expm1_times(factor: jax.Array, x: jax.Array) -> jax.Array:
    """factor (exp(x) - 1) for x <= 0."""
    return factor * special.expm1_negative(x)


_expm1_times.defjvps(
    lambda tangent, _, factor, x: tangent * _expm1_negative(x),
    lambda tangent, _, factor, x: _exp_times(factor, x) * tangent,
)


def sigmoid(x: Any) -> Float[Array, "..."]:
    """Logistic sigmoid, 1 / (1 + exp(-x)).

    The exponential is taken of -|x|, so it never overflows.

    Args:
        x: real numbers of any shape.

    Returns:
        Values in [0, 1], of the shape and dtype of ``x``.

    Example:
        >>> float(sigmoid(0.0))
        0.5
    """
    return _sigmoid(as_real(x, "x"))


def sigmoid_derivative(x: Any) -> Float[Array, "..."]:
    """Derivative of the sigmoid, sigmoid(x) sigmoid(-x).

    The textbook form s (1 - s) loses every digit where s rounds to one.

    Example:
        >>> float(sigmoid_derivative(0.0))
        0.25
        >>> float(sigmoid_derivative(50.0)) > 0
        True
    """
    return _sigmoid_derivative(as_real(x, "x"))


def tanh(x: Any) -> Float[Array, "..."]:
    """Hyperbolic tangent.

    Example:
        >>> round(float(tanh(1.0)), 6)
        0.761594
    """
    return _tanh(as_real(x, "x"))


def tanh_derivative(x: Any) -> Float[Array, "..."]:
    """Derivative of tanh, sech(x)^2 = 4 exp(-2|x|) / (1 + exp(-2|x|))^2.

    The textbook form 1 - tanh(x)^2 cancels: in float32 it is zero from |x| = 9 on, where the derivative is 6e-8.

    Example:
        >>> float(tanh_derivative(0.0))
        1.0
        >>> float(tanh_derivative(30.0)) > 0
        True
    """
    return _tanh_derivative(as_real(x, "x"))


def softplus(x: Any) -> Float[Array, "..."]:
    """Softplus, log(1 + exp(x)), as max(x, 0) + log1p(exp(-|x|)).

    Example:
        >>> float(softplus(1000.0))
        1000.0
    """
    return _softplus(as_real(x, "x"))


def softplus_derivative(x: Any) -> Float[Array, "..."]:
    """Derivative of softplus, sigmoid(x).

    Example:
        >>> float(softplus_derivative(0.0))
        0.5
    """
    return sigmoid(x)


def log_sigmoid(x: Any) -> Float[Array, "..."]:
    """Logarithm of the sigmoid, -softplus(-x).

    Example:
        >>> float(log_sigmoid(-1000.0))
        -1000.0
    """
    return -_softplus(-as_real(x, "x"))


def log_sigmoid_derivative(x: Any) -> Float[Array, "..."]:
    """Derivative of the log-sigmoid, sigmoid(-x).

    Example:
        >>> float(log_sigmoid_derivative(0.0))
        0.5
    """
    return _sigmoid(-as_real(x, "x"))


# --- piecewise linear -----------------------------------------------------------------------------------------------------------------


def relu(x: Any) -> Float[Array, "..."]:
    """Rectified linear unit, max(x, 0).

    Example:
        >>> relu([-1.0, 2.0]).tolist()
        [0.0, 2.0]
    """
    return _relu(as_real(x, "x"))


def relu_derivative(x: Any) -> Float[Array, "..."]:
    """Derivative of relu: 1 for x > 0, else 0; at the kink x = 0 it is 0.

    Example:
        >>> relu_derivative([-1.0, 0.0, 2.0]).tolist()
        [0.0, 0.0, 1.0]
    """
    x = as_real(x, "x")
    return _select(x, x > 0, 1.0, 0.0)


_relu = _smooth(lambda x: jnp.maximum(x, 0), relu_derivative)


def leaky_relu(x: Any, negative_slope: Any = 0.01) -> Float[Array, "..."]:
    """Leaky rectified linear unit: x for x > 0, else ``negative_slope`` times x.

    Args:
        x: real numbers of any shape.
        negative_slope: slope on the left; may be traced and differentiated.

    Example:
        >>> leaky_relu([-1.0, 2.0], 0.5).tolist()
        [-0.5, 2.0]
    """
    return keep_dtype(lambda x, slope: jnp.where(x > 0, x, slope * x), as_real(x, "x"), negative_slope)


def leaky_relu_derivative(x: Any, negative_slope: Any = 0.01) -> Float[Array, "..."]:
    """Derivative of leaky_relu: 1 for x > 0, else ``negative_slope``, which is also its value at the kink x = 0.

    Example:
        >>> leaky_relu_derivative([-1.0, 0.0, 2.0], 0.5).tolist()
        [0.5, 0.5, 1.0]
    """
    return keep_dtype(lambda x, slope: _select(x, x > 0, jnp.ones_like(slope), slope), as_real(x, "x"), negative_slope)


def hard_tanh(x: Any) -> Float[Array, "..."]:
    """Hard tanh: x cut to [-1, 1].

    Example:
        >>> hard_tanh([-3.0, 0.5, 2.0]).tolist()
        [-1.0, 0.5, 1.0]
    """
    return _hard_tanh(as_real(x, "x"))


def hard_tanh_derivative(x: Any) -> Float[Array, "..."]:
    """Derivative of hard_tanh: 1 for -1 < x < 1, else 0; at the kinks x = -1 and x = 1 it is 0.

    Example:
        >>> hard_tanh_derivative([-1.0, 0.5, 1.0]).tolist()
        [0.0, 1.0, 0.0]
    """
    x = as_real(x, "x")
    return _select(x, jnp.abs(x) < 1, 1.0, 0.0)


_hard_tanh = _smooth(lambda x: jnp.clip(x, -1, 1), hard_tanh_derivative)


def hard_sigmoid(x: Any) -> Float[Array, "..."]:
    """Hard sigmoid: (x + 3) / 6 cut to [0, 1].

    Example:
        >>> hard_sigmoid([-4.0, 0.0, 3.0]).tolist()
        [0.0, 0.5, 1.0]
    """
    return _hard_sigmoid(as_real(x, "x"))


def hard_sigmoid_derivative(x: Any) -> Float[Array, "..."]:
    """Derivative of hard_sigmoid: 1/6 for -3 < x < 3, else 0; at the kinks x = -3 and x = 3 it is 0.

    Example:
        >>> (6 * hard_sigmoid_derivative([-3.0, 0.0, 4.0])).round(6).tolist()
        [0.0, 1.0, 0.0]
    """
    x = as_real(x, "x")
    return _select(x, jnp.abs(x) < 3, 1 / 6, 0.0)


_hard_sigmoid = _smooth(lambda x: jnp.clip(x + 3, 0, 6) / 6, hard_sigmoid_derivative)


# --- exponential linear units ---------------------------------------------------------------------------------------------------------


@jax.jit
def _elu(x: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    is_positive = x > 0
    return jnp.where(is_positive, right * x, _expm1_times(left, jnp.where(is_positive, 0, x)))


@jax.jit
def _elu_slope(x: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
    is_positive = x > 0
    return jnp.where(is_positive, right, _exp_times(left, jnp.where(is_positive, 0, x)))


def elu(x: Any, alpha: Any = 1.0) -> Float[Array, "..."]:
    """Exponential linear unit: x for x > 0, else alpha (exp(x) - 1).

    Args:
        x: real numbers of any shape.
        alpha: minus the limit on the left; may be traced and differentiated. One makes the derivative continuous.

    Example:
        >>> elu([-100.0, 2.0]).tolist()
        [-1.0, 2.0]
    """
    return keep_dtype(_elu, as_real(x, "x"), alpha, 1.0)


def elu_derivative(x: Any, alpha: Any = 1.0) -> Float[Array, "..."]:
    """Derivative of elu: 1 for x > 0, else alpha exp(x), so alpha at x = 0 (a kink unless alpha is one).

    Example:
        >>> elu_derivative([0.0, 2.0]).tolist()
        [1.0, 1.0]
    """
    return keep_dtype(_elu_slope, as_real(x, "x"), alpha, 1.0)


def selu(x: Any) -> Float[Array, "..."]:
    """Scaled exponential linear unit: scale x for x > 0, else scale alpha (exp(x) - 1), with the two constants of the paper.

    Example:
        >>> round(float(selu(1.0)), 6)
        1.050701
    """
    return keep_dtype(_elu, as_real(x, "x"), SELU_SCALE * SELU_ALPHA, SELU_SCALE)


def selu_derivative(x: Any) -> Float[Array, "..."]:
    """Derivative of selu: scale for x > 0, else scale alpha exp(x), which is also its value at the kink x = 0.

    Example:
        >>> [round(float(slope), 6) for slope in selu_derivative([0.0, 2.0])]
        [1.758099, 1.050701]
    """
    return keep_dtype(_elu_slope, as_real(x, "x"), SELU_SCALE * SELU_ALPHA, SELU_SCALE)


# --- gelu -----------------------------------------------------------------------------------------------------------------------------


def _gelu_kernel(x: jax.Array) -> jax.Array:
    a = jnp.minimum(jnp.abs(x), special.NORMAL_CUTOFF[bits_of(x)])
    density, scale = special.gaussian(a)
    centre = special.normal_centre(jnp.minimum(a, 1))
    beyond = jnp.maximum(a, 1)
    # a Phi(-a): the factor a goes in before the scale, with which the product may underflow.
    tail = density / (1 + special.mills_tail(beyond) / beyond)
    left = -jnp.where(a < 1, a * (0.5 - centre), tail * scale)
    return jnp.where(x < 0, left, x * jnp.where(a < 1, 0.5 + centre, 1 - tail / beyond * scale))


def _gelu_derivative_kernel(x: jax.Array) -> jax.Array:
    a = jnp.minimum(jnp.abs(x), special.NORMAL_CUTOFF[bits_of(x)])
    pdf, scale = special.gaussian(a)
    centre = special.normal_centre(jnp.minimum(a, 1))
    beyond = jnp.maximum(a, 1)
    mills = 1 / (beyond + special.mills_tail(beyond))
    right = jnp.where(a < 1, 0.5 + centre, 1 - pdf * mills * scale) + a * pdf * scale
    left = jnp.where(a < 1, 0.5 - (centre + a * pdf), pdf * (mills - a) * scale)
    return _with_root(x, jnp.where(x < 0, left, right), table.GELU_ROOT, table.GELU_SLOPE, table.GELU_SPAN)


# The square root of two in two parts, nearest and rest.
_ROOT_OF_TWO = {32: (1.4142135381698608, 2.420323420895794e-08), 64: (1.4142135623730951, -9.667293313452913e-17)}


def _gelu_second_kernel(x: jax.Array) -> jax.Array:
    # (2 - x^2) phi(x); scaled last, for x^2 keeps the product in range where phi(x) alone underflows.
    a = jnp.minimum(jnp.abs(x), special.NORMAL_CUTOFF[bits_of(x)])
    m, scale = special.gaussian(a)
    return -special.distance_to_root(a, _ROOT_OF_TWO) * (a + math.sqrt(2)) * m * scale


def _gelu_third(x: jax.Array) -> jax.Array:
    cut = jnp.clip(x, -100, 100)
    return _normal_pdf(x) * cut * (cut - 2) * (cut + 2)


def _tanh_form_cubic(a: jax.Array, weight: int) -> tuple[jax.Array, jax.Array]:
    """2 sqrt(2/pi) (a + weight 0.044715 a^3) as a sum of two numbers.

    With weight 1 it is the exponent z: in a single number it rounds, and exp magnifies the rounding up to 80-fold. With weight 3 it
    is a z'(a).
    """

    def renormalise(high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
        leading = special.leading_bits(high)
        return leading, (high - leading) + low

    a_high = special.leading_bits(a)
    a_low = a - a_high
    square_high, square_low = renormalise(a_high * a_high, a_low * (a + a_high))
    b_high, b_low = (weight * part for part in table.GELU_TANH_B)
    c_high, c_low = special.unfolded(table.GELU_TANH_A[0], a), table.GELU_TANH_A[1]
    # Each product of leading parts is exact; what their sum with c_high rounds away is caught (Knuth's two-sum).
    cubic_high, cubic_low = square_high * b_high, square_high * b_low + square_low * (b_high + b_low)
    total = c_high + cubic_high
    back = total - c_high
    lost = (c_high - (total - back)) + (cubic_high - back)
    slope_high, slope_low = renormalise(total, lost + (cubic_low + c_low))
    return renormalise(a_high * slope_high, a_high * slope_low + a_low * (slope_high + slope_low))


def _tanh_form_exp(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(m, s) with exp(-z(a)) = m s."""
    high, low = _tanh_form_cubic(a, 1)
    m, scale = special.scaled_exp(-high)
    return m + m * special.expm1_near_zero(-low), scale


_TANH_FORM_CUTOFF = {32: 12.0, 64: 24.0}


def _gelu_tanh_kernel(x: jax.Array) -> jax.Array:
    a = jnp.minimum(jnp.abs(x), _TANH_FORM_CUTOFF[bits_of(x)])
    m, scale = _tanh_form_exp(a)
    denominator = 1 + m * scale
    return jnp.where(x < 0, -a * (m / denominator) * scale, x / denominator)


def _gelu_tanh_derivative_kernel(x: jax.Array) -> jax.Array:
    a = jnp.minimum(jnp.abs(x), _TANH_FORM_CUTOFF[bits_of(x)])
    m, scale = _tanh_form_exp(a)
    e = m * scale
    high, low = _tanh_form_cubic(a, 3)
    square = 1 + e * (2 + e)
    result = jnp.where(x < 0, m * ((1 - high) + (e - low)) / square * scale, (1 + e * (1 + (high + low))) / square)
    return _with_root(x, result, table.GELU_TANH_ROOT, table.GELU_TANH_SLOPE, table.GELU_TANH_SPAN)


def _gelu_tanh_second_kernel(x: jax.Array) -> jax.Array:
    # s(z) s(-z) (2 z' + x z'' - x z'^2 tanh(z/2)), even in x; the exponential in two factors and scaled last, as in the derivative.
    a = jnp.minimum(jnp.abs(x), _TANH_FORM_CUTOFF[bits_of(x)])
    m, scale = _tanh_form_exp(a)
    e = m * scale
    linear, cubic = sum(table.GELU_TANH_A), sum(table.GELU_TANH_B)
    slope = linear + 3 * cubic * a * a
    rest = 2 * slope + 6 * cubic * a * a - a * slope * slope * ((1 - e) / (1 + e))
    result = m * rest / (1 + e * (2 + e)) * scale
    return _with_root(-jnp.abs(x), result, table.GELU_TANH_SECOND_ROOT, table.GELU_TANH_SECOND_SLOPE, table.GELU_TANH_SECOND_SPAN)


def _gelu_tanh_third(x: jax.Array) -> jax.Array:
    return jax.jvp(_gelu_tanh_second_plainly, (x,), (jnp.ones_like(x),))[1]


def _gelu_tanh_second_plainly(x: jax.Array) -> jax.Array:
    cut = jnp.clip(x, -24, 24)
    linear, cubic = sum(table.GELU_TANH_A), sum(table.GELU_TANH_B)
    z = _tanh_form_argument(cut)
    slope = linear + 3 * cubic * cut * cut
    bell = _sigmoid_derivative(z)
    return bell * (2 * slope + 6 * cubic * cut * cut - cut * slope * slope * _tanh(z / 2))


def _tanh_form_argument(x: jax.Array) -> jax.Array:
    return sum(table.GELU_TANH_A) * x + sum(table.GELU_TANH_B) * x**3


_normal_pdf = _smooth(special.normal_pdf, lambda x: -jnp.clip(x, -100, 100) * _normal_pdf(x))
_gelu_second = _smooth(_gelu_second_kernel, _gelu_third)
_gelu_derivative = _smooth(_gelu_derivative_kernel, _gelu_second)
_gelu = _smooth(_gelu_kernel, _gelu_derivative)
_gelu_tanh_second = _smooth(_gelu_tanh_second_kernel, _gelu_tanh_third)
_gelu_tanh_derivative = _smooth(_gelu_tanh_derivative_kernel, _gelu_tanh_second)
_gelu_tanh = _smooth(_gelu_tanh_kernel, _gelu_tanh_derivative)


def gelu(x: Any, *, approximate: bool = False) -> Float[Array, "..."]:
    """Gaussian error linear unit, x Phi(x), Phi the standard normal distribution.

    Args:
        x: real numbers of any shape.
        approximate: take the tanh form, ``gelu_tanh``, instead.

    Example:
        >>> round(float(gelu(1.0)), 6)
        0.841345

    References:
        Hendrycks and Gimpel (2016), "Gaussian Error Linear Units (GELUs)".
    """
    return (_gelu_tanh if approximate else _gelu)(as_real(x, "x"))


def gelu_derivative(x: Any, *, approximate: bool = False) -> Float[Array, "..."]:
    """Derivative of gelu, Phi(x) + x phi(x), phi the standard normal density.

    Example:
        >>> float(gelu_derivative(0.0))
        0.5
    """
    return (_gelu_tanh_derivative if approximate else _gelu_derivative)(as_real(x, "x"))


def gelu_tanh(x: Any) -> Float[Array, "..."]:
    """The tanh form of gelu, x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).

    Example:
        >>> round(float(gelu_tanh(1.0)), 6)
        0.841192
    """
    return gelu(x, approximate=True)


def gelu_tanh_derivative(x: Any) -> Float[Array, "..."]:
    """Derivative of the tanh form: s(z) + x s(z) s(-z) z'(x), s the sigmoid and z = 2 sqrt(2/pi) (x + 0.044715 x^3).

    Example:
        >>> float(gelu_tanh_derivative(0.0))
        0.5
    """
    return gelu_derivative(x, approximate=True)


# --- silu, mish, softsign -------------------------------------------------------------------------------------------------------------

# x exp(x) is below the smallest normal number beyond these.
_EXP_CUTOFF = {32: 110.0, 64: 760.0}


def _silu_kernel(x: jax.Array) -> jax.Array:
    a = jnp.minimum(jnp.abs(x), _EXP_CUTOFF[bits_of(x)])
    m, scale = special.scaled_exp(-a)
    denominator = 1 + m * scale
    return jnp.where(x < 0, -a * m / denominator * scale, x / denominator)


def _silu_derivative_kernel(x: jax.Array) -> jax.Array:
    a = jnp.minimum(jnp.abs(x), _EXP_CUTOFF[bits_of(x)])
    m, scale = special.scaled_exp(-a)
    e = m * scale
    square = 1 + e * (2 + e)
    result = jnp.where(x < 0, m * ((1 + e) - a) / square * scale, (1 + e * (1 + a)) / square)
    return _with_root(x, result, table.SILU_ROOT, table.SILU_SLOPE, table.SILU_SPAN)


def _silu_second_kernel(x: jax.Array) -> jax.Array:
    # s(x) s(-x) (2 - x tanh(x/2)), even in x.
    a = jnp.minimum(jnp.abs(x), _EXP_CUTOFF[bits_of(x)])
    m, scale = special.scaled_exp(-a)
    e = m * scale
    result = m * (2 - a * ((1 - e) / (1 + e))) / (1 + e * (2 + e)) * scale
    return _with_root(-jnp.abs(x), result, table.SILU_SECOND_ROOT, table.SILU_SECOND_SLOPE, table.SILU_SECOND_SPAN)


def _silu_second_plainly(x: jax.Array) -> jax.Array:
    return _sigmoid_derivative(x) * (2 - jnp.clip(x, -760, 760) * _tanh(x / 2))


def _mish_kernel(x: jax.Array) -> jax.Array:
    a = jnp.minimum(jnp.abs(x), _EXP_CUTOFF[bits_of(x)])
    m, scale = special.scaled_exp(-a)
    e = m * scale
    return jnp.where(x < 0, -a * (m * (e + 2) / (e * (e + 2) + 2)) * scale, x * (1 + 2 * e) / (1 + 2 * e * (1 + e)))


def _mish_derivative_kernel(x: jax.Array) -> jax.Array:
    a = jnp.minimum(jnp.abs(x), _EXP_CUTOFF[bits_of(x)])
    m, scale = special.scaled_exp(-a)
    e = m * scale
    # Both denominators are squares, multiplied out: squaring would double their rounding.
    right = (1 + e * (4 + e * ((4 * a + 6) + e * (4 * (a + 1))))) / (1 + 4 * e * (1 + e * (2 + e * (2 + e))))
    left = m * (4 * (1 - a) + e * ((6 - 4 * a) + e * (4 + e))) / (4 + e * (8 + e * (8 + e * (4 + e)))) * scale
    return _with_root(x, jnp.where(x < 0, left, right), table.MISH_ROOT, table.MISH_SLOPE, table.MISH_SPAN)


def _tanh_softplus_derivative(x: jax.Array) -> jax.Array:
    """Slope of tanh(softplus(x)), each side of zero in the exponential that vanishes there, so that JAX may differentiate it at zero."""
    is_positive = x > 0
    e = _exp(jnp.where(is_positive, 0, x))
    u = _exp(jnp.where(is_positive, -x, 0))
    return jnp.where(is_positive, 4 * u * u * (1 + u) / (1 + 2 * u * (1 + u)) ** 2, 4 * e * (1 + e) / (e * (e + 2) + 2) ** 2)


def _mish_second_kernel(x: jax.Array) -> jax.Array:
    # As `_mish_second_plainly`, in e = exp(-|x|), of which a factor (on the right a square) comes last, for it may underflow.
    a = jnp.minimum(jnp.abs(x), _EXP_CUTOFF[bits_of(x)])
    (m, scale), (square, square_scale) = special.scaled_exp(-a), special.scaled_exp(-2 * a)
    e = m * scale
    d, b = 2 + e * (2 + e), 1 + 2 * e * (1 + e)
    left = m * (4 * (1 + e)) / (d * d) * (2 - a * (1 + e / (1 + e) - 4 * e * (1 + e) / d)) * scale
    # On the right the ratio is -2 and what vanishes with e, which is kept apart.
    right = square * (4 * (1 + e)) / (b * b) * (2 * (1 - a) + a * e * (4 * (1 + 2 * e) / b - 1 / (1 + e))) * square_scale
    left = _with_root(x, left, table.MISH_SECOND_LEFT_ROOT, table.MISH_SECOND_LEFT_SLOPE, table.MISH_SECOND_LEFT_SPAN)
    right = _with_root(-x, right, table.MISH_SECOND_RIGHT_ROOT, table.MISH_SECOND_RIGHT_SLOPE, table.MISH_SECOND_RIGHT_SPAN)
    return jnp.where(x < 0, left, right)


def _mish_second_plainly(x: jax.Array) -> jax.Array:
    # With T = tanh(softplus(x)): mish'' = 2 T' + x T'', and T''/T' = 1 + s - 4 e (1 + e) / (e^2 + 2 e + 2), s the sigmoid and e = exp(x).
    is_positive = x > 0
    e = _exp(jnp.where(is_positive, 0, x))
    u = _exp(jnp.where(is_positive, -x, 0))
    right = 1 + 1 / (1 + u) - 4 * (1 + u) / (1 + 2 * u * (1 + u))
    left = 1 + e / (1 + e) - 4 * e * (1 + e) / (e * (e + 2) + 2)
    return _tanh_softplus_derivative(x) * (2 + jnp.clip(x, -760, 760) * jnp.where(is_positive, right, left))


def _softsign_kernel(x: jax.Array) -> jax.Array:
    a = jnp.abs(x)
    # Beyond one as 1 / (1 + 1/a), which is right at infinity.
    inverse = 1 / jnp.maximum(a, 1)
    return jnp.copysign(jnp.where(a > 1, 1 / (1 + inverse), a / (1 + jnp.minimum(a, 1))), x)


_silu_second = _smooth(_silu_second_kernel, lambda x: jax.jvp(_silu_second_plainly, (x,), (jnp.ones_like(x),))[1])
_silu_derivative = _smooth(_silu_derivative_kernel, _silu_second)
_silu = _smooth(_silu_kernel, _silu_derivative)
_mish_second = _smooth(_mish_second_kernel, lambda x: jax.jvp(_mish_second_plainly, (x,), (jnp.ones_like(x),))[1])
_mish_derivative = _smooth(_mish_derivative_kernel, _mish_second)
_mish = _smooth(_mish_kernel, _mish_derivative)


def silu(x: Any) -> Float[Array, "..."]:
    """Sigmoid linear unit (swish), x sigmoid(x).

    Example:
        >>> round(float(silu(1.0)), 6)
        0.731059
    """
    return _silu(as_real(x, "x"))


def silu_derivative(x: Any) -> Float[Array, "..."]:
    """Derivative of silu, s(x) (1 + x s(-x)), s the sigmoid.

    Example:
        >>> float(silu_derivative(0.0))
        0.5
    """
    return _silu_derivative(as_real(x, "x"))


def mish(x: Any) -> Float[Array, "..."]:
    """Mish, x tanh(softplus(x)).

    Example:
        >>> round(float(mish(1.0)), 6)
        0.865098

    References:
        Misra (2019), "Mish: A Self Regularized Non-Monotonic Activation Function".
    """
    return _mish(as_real(x, "x"))


def mish_derivative(x: Any) -> Float[Array, "..."]:
    """Derivative of mish, e w / d^2 with e = exp(x), w = 4 (x + 1) + (4 x + 6) e + 4 e^2 + e^3 and d = e^2 + 2 e + 2.

    Example:
        >>> round(float(mish_derivative(0.0)), 6)
        0.6
    """
    return _mish_derivative(as_real(x, "x"))


def softsign(x: Any) -> Float[Array, "..."]:
    """Softsign, x / (1 + |x|).

    Example:
        >>> softsign([-1.0, 3.0]).tolist()
        [-0.5, 0.75]
    """
    return _softsign(as_real(x, "x"))


def softsign_derivative(x: Any) -> Float[Array, "..."]:
    """Derivative of softsign, 1 / (1 + |x|)^2.

    Example:
        >>> float(softsign_derivative(1.0))
        0.25
    """
    return keep_dtype(_softsign_slope, as_real(x, "x"))


def _softsign_slope_kernel(x: jax.Array) -> jax.Array:
    a = jnp.abs(x)
    return 1 / (1 + a * (2 + a))


def _softsign_second(x: jax.Array) -> jax.Array:
    # By factors: the fourth power that JAX's quotient rule divides by overflows where this is a normal number.
    inverse = 1 / (1 + jnp.abs(x))
    return -2 * jnp.sign(x) * inverse * inverse * inverse


_softsign_slope = _smooth(_softsign_slope_kernel, _softsign_second)
_softsign = _smooth(_softsign_kernel, softsign_derivative)


# --- softmax --------------------------------------------------------------------------------------------------------------------------


def _shifted_exponentials(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(d, e, rest): d = x - max(x), e = exp(d), and the sum of e over all but one place of the maximum.

    The subtraction rounds, and exp magnifies the rounding by |d|; what it lost is found by Knuth's two-sum and given back.
    """
    largest = jnp.max(x, axis, keepdims=True)
    d = x - largest
    back = d - x
    lost = (x - (d - back)) - (largest + back)
    e = jnp.exp(d) * (1 + jnp.where(jnp.isfinite(d), lost, 0))
    place = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    is_largest = place == jnp.argmax(x, axis, keepdims=True).astype(jnp.int32)
    rest = jnp.sum(jnp.where(is_largest, 0, e), axis, keepdims=True)
    return d, e, rest


def _softmax_kernel(x: jax.Array, axis: int) -> jax.Array:
    _, e, rest = _shifted_exponentials(x, axis)
    return e / (1 + rest)


def _log_softmax_kernel(x: jax.Array, axis: int) -> jax.Array:
    d, _, rest = _shifted_exponentials(x, axis)
    return d - jnp.log1p(rest)


def _centred(p: jax.Array, tangent: jax.Array, axis: int) -> jax.Array:
    """tangent - sum(p tangent): without cancellation where one p is nearly one.

    A class with p > 1/2 is unique. Measured from its tangent, its own deviation is the sum over the others alone, where
    1 - p would have lost the digits.
    """
    is_dominant = p > 0.5
    shifted = jnp.where(is_dominant, 0, tangent - jnp.sum(jnp.where(is_dominant, tangent, 0), axis, keepdims=True))
    return shifted - jnp.sum(p * shifted, axis, keepdims=True)


def _along_axis(kernel: Callable[[jax.Array, int], jax.Array], jvp: Callable[..., jax.Array]) -> Callable[[jax.Array, int], jax.Array]:
    def value(x: jax.Array, axis: int) -> jax.Array:
        return in_working_precision(lambda y: kernel(y, axis))(x)

    f = jax.custom_jvp(value, nondiff_argnums=(1,))

    @f.defjvp
    def _(axis: int, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        (x,), (tangent,) = primals, tangents
        return f(x, axis), jvp(_softmax(x, axis), tangent, axis)

    return jax.jit(f, static_argnums=1)


_softmax = _along_axis(_softmax_kernel, lambda p, tangent, axis: p * _centred(p, tangent, axis))
_log_softmax = _along_axis(_log_softmax_kernel, _centred)


def _check_axis(x: jax.Array, axis: int) -> int:
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise ValueError(f"axis = {axis!r}; expected an integer")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis = {axis}; expected an axis of x, whose shape is {x.shape}")
    return axis % x.ndim


def softmax(x: Any, axis: int = -1) -> Float[Array, "..."]:
    """Softmax, exp(x_i) / sum_j exp(x_j), with the largest x subtracted first.

    Args:
        x: logits; minus infinity rules a class out.
        axis: where the classes lie.

    Returns:
        Probabilities of the shape and dtype of ``x``; NaN where every logit of a row is minus infinity or one is plus infinity.

    Raises:
        ValueError: ``x`` has no such axis.

    Example:
        >>> softmax([1000.0, 1000.0]).tolist()
        [0.5, 0.5]
    """
    x = as_real(x, "x")
    return _softmax(x, _check_axis(x, axis))


def _complement(p: jax.Array) -> jax.Array:
    """1 - p along the last axis, as the sum of the others where p > 1/2."""
    is_dominant = p > 0.5
    return jnp.where(is_dominant, jnp.sum(jnp.where(is_dominant, 0, p), -1, keepdims=True), 1 - p)


def softmax_derivative(x: Any, axis: int = -1) -> Float[Array, "... k k"]:
    """Jacobian of softmax along ``axis``, J_ij = p_i (delta_ij - p_j).

    Returns:
        The Jacobian of each row in the last two axes (the class axis is taken out of its place).

    Example:
        >>> softmax_derivative([0.0, 0.0]).tolist()
        [[0.25, -0.25], [-0.25, 0.25]]
    """
    x = as_real(x, "x")
    p = jnp.moveaxis(_softmax(x, _check_axis(x, axis)), axis, -1)
    is_diagonal = jnp.eye(p.shape[-1], dtype=bool)
    return p[..., :, None] * jnp.where(is_diagonal, _complement(p)[..., :, None], -p[..., None, :])


def log_softmax(x: Any, axis: int = -1) -> Float[Array, "..."]:
    """Logarithm of softmax, x_i - log(sum_j exp(x_j)).

    Example:
        >>> log_softmax([0.0, -1000.0]).tolist()
        [0.0, -1000.0]
    """
    x = as_real(x, "x")
    return _log_softmax(x, _check_axis(x, axis))


def log_softmax_derivative(x: Any, axis: int = -1) -> Float[Array, "... k k"]:
    """Jacobian of log_softmax along ``axis``, J_ij = delta_ij - p_j, in the last two axes.

    Example:
        >>> log_softmax_derivative([0.0, 0.0]).tolist()
        [[0.5, -0.5], [-0.5, 0.5]]
    """
    x = as_real(x, "x")
    p = jnp.moveaxis(_softmax(x, _check_axis(x, axis)), axis, -1)
    is_diagonal = jnp.eye(p.shape[-1], dtype=bool)
    return jnp.where(is_diagonal, _complement(p)[..., :, None], -p[..., None, :])


# --- registry -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Activation:
    """One activation as the checker, the documentation and the command line see it.

    Attributes:
        name: key in ``ACTIVATIONS``.
        value: the function, called as ``value(x)``.
        derivative: its documented derivative; a Jacobian over the last axis where ``is_elementwise`` is false.
        formula: the value in plain text.
        derivative_formula: the derivative in plain text.
        kinks: points where the function is continuous and not differentiable.
        kink_convention: what the derivative returns there; empty without kinks.
        is_elementwise: whether each output depends on one input alone.
        source: where it comes from.
    """

    name: str
    value: Callable[..., Array]
    derivative: Callable[..., Array]
    formula: str
    derivative_formula: str
    kinks: tuple[float, ...] = ()
    kink_convention: str = ""
    is_elementwise: bool = True
    source: str = ""

    @property
    def is_smooth(self) -> bool:
        """Whether the derivative exists everywhere."""
        return not self.kinks


_ENTRIES = (
    Activation(
        "sigmoid",
        sigmoid,
        sigmoid_derivative,
        "1 / (1 + exp(-x))",
        "sigmoid(x) sigmoid(-x)",
        source="logistic function, Verhulst (1845)",
    ),
    Activation(
        "relu",
        relu,
        relu_derivative,
        "max(x, 0)",
        "1 if x > 0 else 0",
        kinks=(0.0,),
        kink_convention="0 at x = 0",
        source="Nair and Hinton (2010)",
    ),
    Activation("tanh", tanh, tanh_derivative, "tanh(x)", "sech(x)^2", source="elementary"),
    Activation(
        "leaky_relu",
        leaky_relu,
        leaky_relu_derivative,
        "x if x > 0 else 0.01 x",
        "1 if x > 0 else 0.01",
        kinks=(0.0,),
        kink_convention="the negative slope at x = 0",
        source="Maas, Hannun and Ng (2013)",
    ),
    Activation(
        "elu",
        elu,
        elu_derivative,
        "x if x > 0 else exp(x) - 1",
        "1 if x > 0 else exp(x)",
        source="Clevert, Unterthiner and Hochreiter (2015)",
    ),
    Activation(
        "selu",
        selu,
        selu_derivative,
        "1.0507 x if x > 0 else 1.7581 (exp(x) - 1)",
        "1.0507 if x > 0 else 1.7581 exp(x)",
        kinks=(0.0,),
        kink_convention="the left slope, 1.7581, at x = 0",
        source="Klambauer et al. (2017), equation 2",
    ),
    Activation("gelu", gelu, gelu_derivative, "x Phi(x)", "Phi(x) + x phi(x)", source="Hendrycks and Gimpel (2016)"),
    Activation(
        "gelu_tanh",
        gelu_tanh,
        gelu_tanh_derivative,
        "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))",
        "s(z) + x s(z) s(-z) z', s = sigmoid, z = 2 sqrt(2/pi) (x + 0.044715 x^3)",
        source="Hendrycks and Gimpel (2016)",
    ),
    Activation("silu", silu, silu_derivative, "x sigmoid(x)", "sigmoid(x) (1 + x sigmoid(-x))", source="Elfwing, Uchibe and Doya (2017)"),
    Activation("softplus", softplus, softplus_derivative, "log(1 + exp(x))", "sigmoid(x)", source="Dugas et al. (2000)"),
    Activation("log_sigmoid", log_sigmoid, log_sigmoid_derivative, "-log(1 + exp(-x))", "sigmoid(-x)", source="elementary"),
    Activation(
        "mish",
        mish,
        mish_derivative,
        "x tanh(softplus(x))",
        "e w / d^2, e = exp(x), w = 4 (x + 1) + (4 x + 6) e + 4 e^2 + e^3, d = e^2 + 2 e + 2",
        source="Misra (2019)",
    ),
    Activation("softsign", softsign, softsign_derivative, "x / (1 + |x|)", "1 / (1 + |x|)^2", source="Bergstra et al. (2009)"),
    Activation(
        "hard_tanh",
        hard_tanh,
        hard_tanh_derivative,
        "min(max(x, -1), 1)",
        "1 if |x| < 1 else 0",
        kinks=(-1.0, 1.0),
        kink_convention="0 at x = -1 and x = 1",
        source="Collobert (2004)",
    ),
    Activation(
        "hard_sigmoid",
        hard_sigmoid,
        hard_sigmoid_derivative,
        "min(max(x + 3, 0), 6) / 6",
        "1/6 if |x| < 3 else 0",
        kinks=(-3.0, 3.0),
        kink_convention="0 at x = -3 and x = 3",
        source="Howard et al. (2019), as h-swish uses it",
    ),
    Activation(
        "softmax",
        softmax,
        softmax_derivative,
        "exp(x_i) / sum_j exp(x_j)",
        "p_i (delta_ij - p_j), p = softmax(x)",
        is_elementwise=False,
        source="Bridle (1990)",
    ),
    Activation(
        "log_softmax",
        log_softmax,
        log_softmax_derivative,
        "x_i - log sum_j exp(x_j)",
        "delta_ij - p_j, p = softmax(x)",
        is_elementwise=False,
        source="Bridle (1990)",
    ),
)

ACTIVATIONS: dict[str, Activation] = {entry.name: entry for entry in _ENTRIES}
