"""Functions and points on which derivative estimates and their error bars are judged, kept apart from every point they were tuned on.

The functions are written once, against a module argument ``xp``: with ``jax.numpy`` they run traced, in the dtype of x, and with mpmath
they gave the references in ``data/`` (written by ``benchmarks/make_estimate_references.py``). Constants are short binary
fractions, the same number in every dtype, so that in float32 and float64 the function is the same and only its rounding differs.

References are derivatives of the clean function at the very number x that the dtype holds. An order whose derivative the dtype cannot hold,
and a point where the function itself is not finite in the dtype, have none.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.derivatives.estimates import Estimate
from jaxdiff.derivatives.lines import estimate_lines_now, point_lines

DATA = pathlib.Path(__file__).parent / "data"
ORDERS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Case:
    """One function at one point.

    Attributes:
        name: ``group/function``; equal for the points of one function, as ``f`` is.
        f: the function of one number, in JAX.
        x: the point, a NumPy scalar of the dtype asked for.
        references: the n-th derivative for every n that has one; empty where a status is expected instead.
        smooth: whether f is well scaled: analytic well around x, f and its derivatives of order one, computed to the last bits.
        expects: the status that is the right answer, ``"kink"``, ``"jump"`` or ``"non_finite"``; None where a value is.
    """

    name: str
    f: Callable[[Any], Any]
    x: np.generic
    references: dict[int, float]
    smooth: bool
    expects: str | None


@dataclass(frozen=True)
class Function:
    """One row of the table: an expression and its points."""

    name: str
    expression: Callable[[Any, Any], Any]
    points: tuple[float, ...]
    smooth: bool = False
    expects: str | None = None
    perturb: Callable[[Callable[[Any], Any]], Callable[[Any], Any]] | None = None
    dtypes: tuple[str, ...] = ("float32", "float64")
    known: dict[float, dict[int, float]] = field(default_factory=dict)

    @property
    def f(self) -> Callable[[Any], Any]:
        """The function as JAX runs it, its perturbation included."""
        clean = lambda x: self.expression(jnp, x)  # noqa: E731
        return clean if self.perturb is None else self.perturb(clean)


# --- what spoils a value --------------------------------------------------------------------------------------------------------------


def on_a_grid(spacing: float) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Values rounded to multiples of the spacing."""
    return lambda clean: lambda x: jnp.round(clean(x) / spacing) * spacing


def on_a_relative_grid(bits: int) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Values rounded to so many bits."""

    def perturbed(clean: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def f(x: Any) -> Any:
            mantissa, exponent = jnp.frexp(clean(x))
            return jnp.ldexp(jnp.round(mantissa * 2.0**bits) / 2.0**bits, exponent)

        return f

    return perturbed


def computed_in(dtype: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """The argument rounded to a lower precision, f computed there and cast up."""
    return lambda clean: lambda x: clean(x.astype(dtype)).astype(x.dtype)


def stored_in(dtype: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """f computed as it should be and its value rounded to a lower precision."""
    return lambda clean: lambda x: clean(x).astype(dtype).astype(x.dtype)


def noisy(level: float, is_relative: bool = True) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Values times 1 + level u, or plus level u, with u in [-1, 1) a hash of the bits of x: the same at every call, without any trend."""

    def hashed(x: Any) -> Any:
        bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
        word = bits if bits.ndim == x.ndim else bits[..., 0] ^ (bits[..., 1] * jnp.uint32(0x9E3779B1))
        for multiplier in (0x7FEB352D, 0x846CA68B):
            word = (word ^ (word >> 16)) * jnp.uint32(multiplier)
        return ((word ^ (word >> 16)) >> 8).astype(x.dtype) * 2.0**-23 - 1

    def perturbed(clean: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda x: clean(x) * (1 + level * hashed(x)) if is_relative else clean(x) + level * hashed(x)

    return perturbed


# --- expressions longer than a line ---------------------------------------------------------------------------------------------------


def expanded_power(xp: Any, x: Any) -> Any:
    """(x - 1)^5, expanded."""
    return ((((x - 5) * x + 10) * x - 10) * x + 5) * x - 1


def wilkinson_like(xp: Any, x: Any) -> Any:
    """(x - 1)(x - 2)(x - 3)(x - 4), expanded."""
    return (((x - 10) * x + 35) * x - 50) * x + 24


def wave(xp: Any, x: Any, frequency: float) -> Any:
    """sin(2 pi frequency x), its argument reduced exactly."""
    return xp.sin(2 * xp.pi * (frequency * x - xp.round(frequency * x)))


def softplus(xp: Any, x: Any) -> Any:
    """log(1 + exp(x)) without overflow."""
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


def planck(xp: Any, x: Any) -> Any:
    """x^3 / (exp(x) - 1)."""
    return x * x * x / xp.expm1(x)


def geometric_sum(xp: Any, x: Any) -> Any:
    """Thirty-two terms of a power series, summed one after the other."""
    total = 1 + 0 * x
    for _ in range(32):
        total = 1 + x * total
    return total


def logistic_map(xp: Any, x: Any) -> Any:
    """Five steps of the logistic map: rounding is amplified by the slope."""
    for _ in range(5):
        x = 3.75 * x * (1 - x)
    return x


F64 = ("float64",)
F32 = ("float32",)

ORDINARY = (-2.3, -1.1, -0.4, 0.35, 0.9, 1.7, 2.6)
POSITIVE = (0.6, 0.85, 1.15, 1.6, 2.4, 3.3, 4.7)
UNIT = (-0.45, -0.3, -0.12, 0.17, 0.28, 0.41)

FUNCTIONS = (
    # --- smooth, well scaled
    Function("smooth/sin", lambda xp, x: xp.sin(x), ORDINARY, smooth=True),
    Function("smooth/cos_of_shifted", lambda xp, x: xp.cos(x + 0.375), ORDINARY, smooth=True),
    Function("smooth/exp_of_half", lambda xp, x: xp.exp(x / 2), ORDINARY, smooth=True),
    Function("smooth/gaussian", lambda xp, x: xp.exp(-x * x), (-1.4, -0.9, -0.3, 0.2, 0.6, 1.3), smooth=True),
    Function("smooth/sigmoid", lambda xp, x: 1 / (1 + xp.exp(-x)), (-1.9, -0.8, 0.3, 0.7, 1.4, 2.2), smooth=True),
    Function("smooth/softplus", softplus, (-1.8, -0.7, 0.4, 0.8, 1.5, 2.1), smooth=True),
    Function("smooth/log", lambda xp, x: xp.log(x), POSITIVE, smooth=True),
    Function("smooth/sqrt", lambda xp, x: xp.sqrt(x), POSITIVE, smooth=True),
    Function("smooth/rational", lambda xp, x: (x + 2) / (x * x + 3), (-1.6, -0.5, 0.3, 0.8, 1.9, 2.7), smooth=True),
    Function("smooth/polynomial", lambda xp, x: ((x / 8 - 1) * x + 0.5) * x * x + x, (-1.2, -0.6, 0.45, 0.75, 1.35, 2.2), smooth=True),
    Function("smooth/planck", planck, POSITIVE, smooth=True),
    Function("smooth/sin_times_exp", lambda xp, x: xp.sin(x) * xp.exp(-x / 2), (0.3, 0.9, 1.6, 2.1, 2.8, 3.6), smooth=True),
    Function("smooth/nested", lambda xp, x: xp.sin(xp.cos(x) + x / 2), ORDINARY, smooth=True),
    Function("smooth/sinh_over_cosh", lambda xp, x: xp.sinh(x) / xp.cosh(x), (-1.3, -0.55, 0.25, 0.65, 0.95, 1.5), smooth=True),
    Function("smooth/power", lambda xp, x: x**1.75, POSITIVE, smooth=True),
    Function("smooth/arctan", lambda xp, x: xp.arctan(x), (-1.7, -0.8, 0.3, 0.8, 1.2, 2.3), smooth=True),
    # --- near a singularity or the edge of the domain
    Function("edge/log", lambda xp, x: xp.log(x), (1e-3, 3e-2, 1e-6, 2e-10, 1e-20, 1e-30)),
    Function("edge/sqrt", lambda xp, x: xp.sqrt(x), (1e-2, 1e-3, 4e-5, 1e-8, 1e-14, 1e-25)),
    Function("edge/tan", lambda xp, x: xp.tan(x), (1.5, 1.56, 1.57, 1.5705, -1.55, 4.7)),
    Function("edge/power_3_2", lambda xp, x: x * xp.sqrt(x), (0.05, 1e-3, 1e-5, 2e-9, 1e-13, 0.0), known={0.0: {1: 0.0}}),
    Function("edge/arcsin", lambda xp, x: xp.arcsin(x), (0.95, 0.999, 0.99999, -0.998, -0.97, 0.999999)),
    Function("edge/log_of_1_minus_x", lambda xp, x: xp.log(1 - x), (0.9, 0.99, 0.9995, 0.99999, -30.0, 0.75)),
    Function("edge/reciprocal", lambda xp, x: 1 / x, (1e-3, -1e-3, 0.02, -1e-6, 1e-5, 0.1)),
    Function("edge/sqrt_of_square_minus_1", lambda xp, x: xp.sqrt(x * x - 1), (1.01, 1.0005, -1.02, 1.1, 1.00001, 3.0)),
    Function("edge/x_log_x", lambda xp, x: x * xp.log(x), (1e-2, 1e-4, 1e-7, 0.07, 1e-12, 0.3)),
    Function("edge/power_3_8", lambda xp, x: x**0.375, (1e-1, 1e-3, 3e-6, 1e-9, 0.02, 1e-16)),
    Function("edge/arctanh", lambda xp, x: xp.arctanh(x), (0.9, -0.99, 0.9995, 0.99, -0.75, 0.99999)),
    # --- steep, narrow or wide
    Function("scale/tanh_500", lambda xp, x: xp.tanh(512 * x), (0.001, -0.002, 0.004, 0.0005, -0.0001, 0.01, 0.1)),
    Function("scale/narrow_gaussian", lambda xp, x: xp.exp(-((1024 * (x - 1)) ** 2)), (1.0005, 0.9995, 1.001, 0.998, 1.0001, 0.9992)),
    Function("scale/narrow_lorentzian", lambda xp, x: 1 / (1 + (256 * x) ** 2), (0.001, 0.004, -0.01, 0.05, -0.3, 1.2)),
    Function("scale/bump_beside_a_slope", lambda xp, x: x + xp.exp(-((512 * (x - 1)) ** 2)), (0.9, 1.05, 0.999, 1.001, 1.0, 1.25)),
    Function("scale/wide_sin", lambda xp, x: xp.sin(x / 1024), (1.0, -300.0, 700.0, 1500.0, 0.1, 2900.0)),
    Function("scale/wide_exp", lambda xp, x: xp.exp(x / 512), (-900.0, -100.0, 3.0, 50.0, 400.0, 1300.0)),
    Function("scale/steep_exp", lambda xp, x: xp.exp(64 * x), (-0.5, -0.1, 0.05, 0.2, 0.6, 1.0)),
    Function("scale/large_offset", lambda xp, x: 16384 + xp.sin(x), (-2.1, -0.6, 0.4, 0.9, 1.9, 2.7)),
    Function("scale/small_values", lambda xp, x: xp.sin(x) * 2.0**-60, (-2.1, -0.6, 0.4, 0.9, 1.9, 2.7)),
    Function("scale/flat_then_steep", lambda xp, x: xp.exp(-1 / (x * x)), (0.15, 0.25, -0.35, 0.6, 1.3, -0.2)),
    # --- oscillating
    Function("oscillating/sin_50", lambda xp, x: xp.sin(50 * x), (-1.3, -0.44, 0.21, 0.77, 1.9, 3.1)),
    Function("oscillating/chirp", lambda xp, x: xp.sin(x * x), (3.1, 5.3, 8.7, -6.2, 11.9, 0.8)),
    Function("oscillating/sin_of_reciprocal", lambda xp, x: xp.sin(1 / x), (0.011, 0.033, 0.07, 0.2, -0.05, -0.4)),
    Function("oscillating/damped", lambda xp, x: xp.exp(-x) * xp.cos(32 * x), (0.13, 0.5, 1.1, 2.3, -0.7, 4.4)),
    Function("oscillating/beats", lambda xp, x: xp.sin(20 * x) * xp.sin(21 * x), (0.31, -0.9, 1.4, 2.2, 3.3, -4.1)),
    # --- |x| large
    Function("large/sin", lambda xp, x: xp.sin(x), (1e3, -4321.0, 1.7e4, 1e5, 1.3e6, 1e8), dtypes=F64),
    Function("large/sin", lambda xp, x: xp.sin(x), (1e3, -4321.0, 1.7e4, 250.0, -777.0, 6.1e4), dtypes=F32),
    Function("large/sqrt", lambda xp, x: xp.sqrt(x), (1e3, 2.5e4, 1e5, 3e6, 1e7, 1e8)),
    Function("large/log", lambda xp, x: xp.log(x), (1e3, 2.5e4, 1e5, 3e6, 1e7, 1e8)),
    Function("large/cubic", lambda xp, x: x * x * x - 7 * x * x, (1e3, -2e4, 1e5, -3e6, 1e7, 1e8)),
    Function("large/reciprocal", lambda xp, x: 1 / (1 + x), (1e3, 2.5e4, -1e5, 3e6, 1e7, -1e8)),
    Function("large/wave_on_a_line", lambda xp, x: x / 1024 + xp.sin(x / 64), (1e3, 5e3, -2e4, 1.5e5, -6e5, 2e6)),
    # --- |x| tiny
    Function("tiny/exp", lambda xp, x: xp.exp(x), (1e-4, 1e-8, -1e-8, 1e-30, -1e-20, 0.0)),
    Function("tiny/sin", lambda xp, x: xp.sin(x), (1e-4, 1e-8, -1e-8, 1e-30, -1e-20, 0.0)),
    Function("tiny/quartic", lambda xp, x: x * x * x * x + 3 * x, (1e-4, 1e-8, -1e-8, 1e-30, -1e-20, 0.0)),
    Function("tiny/log1p", lambda xp, x: xp.log1p(x), (1e-4, 1e-8, -1e-8, 1e-30, -1e-20, 0.0)),
    # --- digits lost inside f
    Function("cancellation/one_minus_cos", lambda xp, x: (1 - xp.cos(x)) / (x * x), (1e-4, 1e-3, 0.02, 0.3, 1.4, -1e-2)),
    Function("cancellation/exp_minus_1_minus_x", lambda xp, x: (xp.exp(x) - 1 - x) / (x * x), (1e-4, 1e-3, 0.02, 0.3, 1.4, -1e-2)),
    Function("cancellation/sqrt_minus_x", lambda xp, x: xp.sqrt(x * x + 1) - x, (0.7, 9.0, 50.0, 333.0, 1e3, 1e4), dtypes=F64),
    Function("cancellation/sqrt_minus_x", lambda xp, x: xp.sqrt(x * x + 1) - x, (0.7, 3.0, 9.0, 20.0, 50.0, 120.0), dtypes=F32),
    Function("cancellation/naive_log1p", lambda xp, x: xp.log(1 + x), (1e-6, 1e-4, 1e-2, 0.2, -1e-3, -1e-8)),
    Function("cancellation/fifth_power_expanded", expanded_power, (1.0, 1.001, 0.99, 1.1, 0.7, 1.5)),
    Function("cancellation/four_roots_expanded", wilkinson_like, (1.0, 2.001, 2.5, 3.99, 4.2, 0.1)),
    Function("cancellation/sines", lambda xp, x: xp.sin(x + 64) - xp.sin(64 + 0 * x), (0.01, -0.3, 0.7, 1e-3, 2.2, 1e-5)),
    Function("cancellation/power_sum", geometric_sum, (0.3, -0.5, 0.8, 0.95, -0.9, 1.1)),
    Function("cancellation/logistic_map", logistic_map, (0.2, 0.33, 0.47, 0.61, 0.75, 0.9)),
    Function("cancellation/textbook_sech2", lambda xp, x: 1 - xp.tanh(x) ** 2, (0.5, 2.0, 4.0, 6.0, -3.0, -1.2)),
    # --- values on a grid
    Function("quantised/sin_1e-3", lambda xp, x: xp.sin(x), UNIT, perturb=on_a_grid(1e-3)),
    Function("quantised/exp_1e-5", lambda xp, x: xp.exp(x), ORDINARY, perturb=on_a_grid(1e-5)),
    Function("quantised/arctan_1e-7", lambda xp, x: xp.arctan(x), ORDINARY, perturb=on_a_grid(1e-7), dtypes=F64),
    Function("quantised/sqrt_1e-10", lambda xp, x: xp.sqrt(x), POSITIVE, perturb=on_a_grid(1e-10), dtypes=F64),
    Function("quantised/gaussian_10_bits", lambda xp, x: xp.exp(-x * x), UNIT, perturb=on_a_relative_grid(10)),
    Function("quantised/log_16_bits", lambda xp, x: xp.log(x + 3), ORDINARY, perturb=on_a_relative_grid(16)),
    Function("quantised/cos_30_bits", lambda xp, x: xp.cos(x), ORDINARY, perturb=on_a_relative_grid(30), dtypes=F64),
    Function("quantised/computed_in_float32", lambda xp, x: xp.sin(x) + x, ORDINARY, perturb=computed_in("float32"), dtypes=F64),
    Function("quantised/computed_in_bfloat16", lambda xp, x: xp.exp(x), UNIT, perturb=computed_in("bfloat16")),
    Function("quantised/stored_in_float32", lambda xp, x: xp.exp(-x / 2), ORDINARY, perturb=stored_in("float32"), dtypes=F64),
    Function("quantised/stored_in_bfloat16", lambda xp, x: 1 / (2 + xp.cos(x)), ORDINARY, perturb=stored_in("bfloat16")),
    Function("quantised/line_1e-2", lambda xp, x: 3 * x + 1, ORDINARY, perturb=on_a_grid(2.0**-7)),
    # --- noise without trend
    Function("noisy/sin_1e-6", lambda xp, x: xp.sin(x), ORDINARY, perturb=noisy(1e-6)),
    Function("noisy/exp_1e-5", lambda xp, x: xp.exp(x), UNIT, perturb=noisy(1e-5)),
    Function("noisy/log_1e-3", lambda xp, x: xp.log(x), POSITIVE, perturb=noisy(1e-3, is_relative=False)),
    Function("noisy/rational_1e-8", lambda xp, x: 1 / (1 + x * x), ORDINARY, perturb=noisy(1e-8), dtypes=F64),
    Function("noisy/cos_1e-10", lambda xp, x: xp.cos(x), ORDINARY, perturb=noisy(1e-10), dtypes=F64),
    Function("noisy/sqrt_1e-12", lambda xp, x: xp.sqrt(x), POSITIVE, perturb=noisy(1e-12), dtypes=F64),
    Function("noisy/constant_1e-6", lambda xp, x: 2 + 0 * x, ORDINARY, perturb=noisy(1e-6)),
    # --- a kink some way off
    Function("kink_nearby/abs", lambda xp, x: xp.abs(x - 1), (1.01, 0.97, 1.1, 0.8, 1.5, 0.3)),
    Function("kink_nearby/relu_plus_sin", lambda xp, x: xp.maximum(x - 0.5, 0) + xp.sin(x), (0.51, 0.48, 0.53, 0.45, 0.6, 1.4)),
    Function("kink_nearby/max_of_two", lambda xp, x: xp.maximum(x, x * x), (1.02, 0.95, 1.2, 0.7, 0.05, -0.1)),
    Function("kink_nearby/huber", lambda xp, x: xp.where(xp.abs(x) <= 1, x * x / 2, xp.abs(x) - 0.5), (0.98, 1.03, -0.9, -1.2, 0.5, 2.0)),
    Function("kink_nearby/x_abs_x", lambda xp, x: x * xp.abs(x), (0.01, -0.03, 0.1, -0.3, 0.9, 0.0), known={0.0: {1: 0.0}}),
    Function("kink_nearby/abs_sin", lambda xp, x: xp.abs(xp.sin(3 * x)), (0.02, 1.0, 0.9, 1.1, -0.05, 2.5)),
    Function("kink_nearby/step_far_off", lambda xp, x: xp.cos(x) + xp.where(x < 0.75, 0 * x, 1 + 0 * x), (0.7, 0.8, 0.74, 1.5, 0.2, 0.76)),
    # --- a fast wave of small amplitude; frequencies that a ladder of powers of two meets always in the same phase among them
    Function("aliasing/in_phase_with_halving", lambda xp, x: xp.sin(x) + wave(xp, x, 1024) / 1024, (0.3, 0.77, 1.13, -0.61, 1.9, 2.45)),
    Function("aliasing/in_phase_very_fast", lambda xp, x: xp.exp(x / 2) + wave(xp, x, 2.0**16) / 2**20, UNIT, dtypes=F64),
    Function("aliasing/out_of_phase", lambda xp, x: x * x + xp.sin(3000 * x) / 4096, (0.3, 0.77, 1.13, -0.61, 1.9, 2.45)),
    Function("aliasing/slow_and_small", lambda xp, x: xp.cos(x) + xp.sin(100 * x) / 1024, ORDINARY),
    # --- odd and even functions at zero, constants, lines
    Function("symmetric/cos", lambda xp, x: xp.cos(x), (0.0,)),
    Function("symmetric/sinh", lambda xp, x: xp.sinh(x), (0.0,)),
    Function("symmetric/gaussian", lambda xp, x: xp.exp(-x * x), (0.0,)),
    Function("symmetric/lorentzian", lambda xp, x: 1 / (1 + 16 * x * x), (0.0,)),
    Function("symmetric/sinc_like", lambda xp, x: xp.sin(x) * x, (0.0,)),
    Function("symmetric/cubic", lambda xp, x: x * x * x, (0.0, 1e-3)),
    Function("symmetric/gaussian_off_centre", lambda xp, x: xp.exp(-((x - 3) ** 2)), (3.0,)),
    Function("constant/seven", lambda xp, x: 7 + 0 * x, (-1e3, -1.5, 0.0, 1e-8, 0.3, 40.0)),
    Function("constant/clipped", lambda xp, x: xp.minimum(xp.maximum(x, -1), 1), (3.0, -2.5, 1.5, 10.0, -1.2, 60.0)),
    Function("constant/saturated", lambda xp, x: xp.tanh(x), (25.0, -30.0, 22.0, 60.0, -45.0, 300.0)),
    Function("line/exact", lambda xp, x: 3 * x - 2, (-1e3, -1.5, 0.0, 1e-8, 0.3, 1e6)),
    Function("line/rounded", lambda xp, x: x / 3 + 5 / (8 + 0 * x), (-1e3, -1.5, 0.0, 1e-8, 0.3, 1e6)),
    # --- where the right answer is a status
    Function("on_a_kink/abs", lambda xp, x: xp.abs(x), (0.0,), expects="kink"),
    Function("on_a_kink/abs_shifted", lambda xp, x: xp.abs(x - 1) + xp.sin(x), (1.0,), expects="kink"),
    Function("on_a_kink/relu", lambda xp, x: xp.maximum(x, 0), (0.0,), expects="kink"),
    Function("on_a_kink/max_of_two", lambda xp, x: xp.maximum(x, x * x), (1.0, 0.0), expects="kink"),
    Function("on_a_kink/leaky", lambda xp, x: xp.where(x > 0, x, x / 8), (0.0,), expects="kink"),
    Function("on_a_kink/minimum", lambda xp, x: xp.minimum(xp.exp(x), 1 + 3 * x), (0.0,), expects="kink"),
    Function("on_a_kink/abs_sin", lambda xp, x: xp.abs(xp.sin(x)), (0.0,), expects="kink"),
    Function("on_a_jump/floor", lambda xp, x: xp.floor(x), (1.0, 2.0, -3.0), expects="jump"),
    Function("on_a_jump/sign", lambda xp, x: xp.sign(x), (0.0,), expects="jump"),
    Function("on_a_jump/heaviside", lambda xp, x: xp.where(x < 0.5, 0 * x, 1 + 0 * x), (0.5,), expects="jump"),
    Function("on_a_jump/shifted_line", lambda xp, x: xp.where(x >= 1, x + 0.5, x), (1.0,), expects="jump"),
    Function("outside/log", lambda xp, x: xp.log(x), (-1.0, -1e-3, -50.0), expects="non_finite"),
    Function("outside/sqrt", lambda xp, x: xp.sqrt(x), (-1.0, -1e-2), expects="non_finite"),
    Function("outside/arcsin", lambda xp, x: xp.arcsin(x), (2.0, -1.25), expects="non_finite"),
    Function("outside/pole", lambda xp, x: 1 / x, (0.0,), expects="non_finite"),
)


@dataclass(frozen=True)
class Split:
    """A set of functions and where the references of its points are."""

    name: str
    functions: tuple[Function, ...]
    data: pathlib.Path


def split(name: str) -> Split:
    """``"first"``, the table above; ``"second"``, drawn later; or ``"development"``, the only one that is tuned on."""
    if name == "first":
        return Split(name, FUNCTIONS, DATA / "heldout.npz")
    if name == "second":
        import estimate_cases_second

        return Split(name, estimate_cases_second.FUNCTIONS, DATA / "heldout_second.npz")
    import estimate_cases_development

    return Split(name, estimate_cases_development.FUNCTIONS, DATA / "development.npz")


def load_cases(dtype: str, name: str = "first") -> list[Case]:
    """Every case of one dtype, in the order of the table.

    Args:
        dtype: ``"float32"`` or ``"float64"``.
        name: of the split.
    """
    chosen = split(name)
    with np.load(chosen.data, allow_pickle=False) as data:
        is_asked = data["dtype"] == dtype
        rows, points, values = data["function"][is_asked], data["x"][is_asked], data["references"][is_asked]
    functions = [function.f for function in chosen.functions]
    cases = []
    for row, x, derivatives in zip(rows, points, values, strict=True):
        function = chosen.functions[row]
        references = {n: float(value) for n, value in zip(ORDERS, derivatives, strict=True) if not np.isnan(value)}
        cases.append(Case(function.name, functions[row], np.dtype(dtype).type(x), references, function.smooth, function.expects))
    return cases


def estimates(
    dtype: str, name: str, orders: Sequence[int] = ORDERS, *, compiled: bool = False, extrapolation: str = "polynomial"
) -> dict[int, list[tuple[Case, Estimate]]]:
    """Every case with its estimate, by order.

    Args:
        dtype: ``"float32"`` or ``"float64"``.
        name: of the split.
        orders: of the derivatives.
        compiled: whether every function goes through ``jd.estimate`` by itself, which compiles it; otherwise functions run operation by
            operation, once for all orders, and what is judged is their values, all functions' together.
        extrapolation: as in ``jd.Adaptive``.
    """
    lines_of = lambda x: replace(point_lines(x, None, None), extrapolation=extrapolation)  # noqa: E731
    groups: dict[Any, list[Case]] = {}
    for case in load_cases(dtype, name):
        groups.setdefault(case.f, []).append(case)
    cases = [case for members in groups.values() for case in members]
    x = jnp.asarray([case.x for case in cases], dtype)
    owner = np.repeat(np.arange(len(groups)), [len(members) for members in groups.values()])
    values_at = _remembering(functools.partial(_values_eagerly, list(groups), owner))
    result = {}
    for n in orders:
        if compiled:
            scheme = jd.Adaptive(extrapolation=extrapolation)
            parts = [jd.estimate(f, x[owner == i], n, scheme=scheme) for i, f in enumerate(groups)]
            found = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        else:
            found = jax.tree.map(lambda leaf: np.asarray(leaf)[:, 0], estimate_lines_now(values_at, lines_of(x), n, 1))
        result[n] = [(case, jax.tree.map(lambda leaf, i=i: leaf[i], found)) for i, case in enumerate(cases)]
    return result


def _values_eagerly(functions: list[Callable[[Any], Any]], owner: np.ndarray, index: Any, positions: Any) -> np.ndarray:
    """[J, C, 1] values at positions [J, C], functions one after the other, all arrays of one size: each operation compiles once."""
    index, positions = np.asarray(index), np.asarray(positions)
    values = np.full(positions.shape, np.nan, positions.dtype)
    for number, function in enumerate(functions):
        columns = np.flatnonzero(owner[index] == number)
        flat = positions[:, columns].ravel()
        found = [function(jnp.asarray(np.resize(flat[k : k + _SIZE], _SIZE))) for k in range(0, flat.size, _SIZE)]
        if found:
            values[:, columns] = np.concatenate(found)[: flat.size].reshape(-1, len(columns))
    return values[..., None]


_SIZE = 2048


def _remembering(values_at: Callable[[Any, Any], np.ndarray]) -> Callable[[Any, Any], np.ndarray]:
    """The same, evaluating f once at the same positions: they do not depend on the order."""
    known: dict[tuple[bytes, bytes], np.ndarray] = {}

    def remembered(index: Any, positions: Any) -> np.ndarray:
        key = np.asarray(index).tobytes(), np.asarray(positions).tobytes()
        if key not in known:
            known[key] = values_at(index, positions)
        return known[key]

    return remembered
