"""The second held-out split: other functions, points drawn at random, written when the estimator was done and never tuned on.

The first split (`estimate_cases`) had been looked at while the estimator was written; this one keeps that honest. Its references are in
``data/heldout_second.npz``.
"""

from typing import Any

import numpy as np
from estimate_cases import F32, F64, Function, computed_in, noisy, on_a_grid, on_a_relative_grid, stored_in, wave

COUNT = 6


def uniform(seed: int, low: float, high: float, count: int = COUNT) -> tuple[float, ...]:
    """Points anywhere between two numbers."""
    return tuple(float(x) for x in np.random.default_rng(seed).uniform(low, high, count))


def spread(seed: int, low: float, high: float, count: int = COUNT) -> tuple[float, ...]:
    """Points of any size between two positive numbers."""
    return tuple(float(x) for x in np.exp(np.random.default_rng(seed).uniform(np.log(low), np.log(high), count)))


def beside(centre: float, seed: int, low: float, high: float, count: int = COUNT) -> tuple[float, ...]:
    """Points at any distance between two from a centre, on both sides of it."""
    return tuple(centre + (-1) ** i * distance for i, distance in enumerate(spread(seed, low, high, count)))


def continued_fraction(xp: Any, x: Any) -> Any:
    """Five levels of 1 + x / (2 + x / (3 + ...)): smooth for x > 0."""
    total = 6 + 0 * x
    for level in (5, 4, 3, 2, 1):
        total = level + x / total
    return total


def newton_sqrt(xp: Any, x: Any) -> Any:
    """The square root by six Newton steps: an algorithm, not a formula."""
    root = (1 + x) / 2
    for _ in range(6):
        root = (root + x / root) / 2
    return root


def pendulum(xp: Any, x: Any) -> Any:
    """The angle after sixteen leapfrog steps, over the angle at the start: a small simulation."""
    angle, speed = x, 0 * x
    for _ in range(16):
        speed = speed - xp.sin(angle) / 8
        angle = angle + speed / 8
    return angle


def horner_product(xp: Any, x: Any) -> Any:
    """(x - 2)^7, expanded."""
    return ((((((x - 14) * x + 84) * x - 280) * x + 560) * x - 672) * x + 448) * x - 128


FUNCTIONS = (
    # --- smooth, well scaled
    Function("smooth/continued_fraction", continued_fraction, uniform(1, 0.5, 4), smooth=True),
    Function("smooth/sin_of_sin", lambda xp, x: xp.sin(2 * xp.sin(x)) + x / 4, uniform(2, 0.2, 1.2), smooth=True),
    Function("smooth/arcsinh", lambda xp, x: xp.arcsinh(x), uniform(3, 0.4, 2.5), smooth=True),
    Function("smooth/exp_of_minus_root", lambda xp, x: xp.exp(-xp.sqrt(x)), uniform(4, 0.7, 3), smooth=True),
    Function("smooth/log_of_cosh", lambda xp, x: xp.log(xp.cosh(x)), uniform(5, 0.4, 2), smooth=True),
    Function("smooth/lorentz_times_line", lambda xp, x: (1 + x) / (1 + x * x), uniform(6, 0.6, 2.2), smooth=True),
    Function("smooth/exp_of_part", lambda xp, x: xp.exp(x * 0.6875), uniform(7, -1.5, 1.5), smooth=True),
    Function("smooth/arctan_of_square", lambda xp, x: xp.arctan(x * x), uniform(8, 0.5, 1.5), smooth=True),
    Function("smooth/newton_sqrt", newton_sqrt, uniform(9, 0.6, 4), smooth=True),
    Function("smooth/pendulum", pendulum, uniform(10, 0.3, 1.4), smooth=True),
    Function("smooth/log_of_one_plus_exp_sin", lambda xp, x: xp.log(1 + xp.exp(xp.sin(x))), uniform(11, -1.2, 1.2), smooth=True),
    Function("smooth/sqrt_of_quadratic", lambda xp, x: xp.sqrt(x * x + x + 1), uniform(12, -0.2, 2), smooth=True),
    # --- near a singularity or the edge of the domain
    Function("edge/log_of_tan", lambda xp, x: xp.log(xp.tan(x)), spread(20, 1e-8, 1.2)),
    Function("edge/reciprocal_square", lambda xp, x: 1 / (x * x), spread(21, 1e-5, 0.3)),
    Function("edge/fourth_root", lambda xp, x: xp.sqrt(xp.sqrt(x)), spread(22, 1e-12, 0.1)),
    Function("edge/square_root_of_distance", lambda xp, x: xp.sqrt(3 - x), (2.9997, 2.999, 2.9, 2.75, 2.99, 1.6)),
    Function("edge/log_of_log", lambda xp, x: xp.log(xp.log(x)), (1.001, 1.02, 1.3, 1.0001, 2.1, 1.7)),
    Function("edge/x_to_the_x", lambda xp, x: xp.exp(x * xp.log(x)), spread(24, 1e-6, 1)),
    Function("edge/entropy", lambda xp, x: -x * xp.log(x) - (1 - x) * xp.log(1 - x), (1e-3, 0.02, 0.98, 0.9993, 0.4, 1e-7)),
    Function("edge/cotangent", lambda xp, x: xp.cos(x) / xp.sin(x), spread(25, 1e-6, 0.5)),
    Function("edge/arccos", lambda xp, x: xp.arccos(x), (0.9, 0.9987, -0.99995, -0.87, 0.3, 0.999997)),
    # --- steep, narrow or wide
    Function("scale/sigmoid_200", lambda xp, x: 1 / (1 + xp.exp(-200 * (x - 0.5))), beside(0.5, 30, 1e-4, 0.05)),
    Function("scale/two_peaks", lambda xp, x: 1 / (2.0**-13 + (x - 1) ** 2) + 1 / (2.0**-7 + (x + 1) ** 2), beside(1, 31, 1e-3, 1)),
    Function("scale/arctan_1e4", lambda xp, x: xp.arctan(10000 * (x - 0.25)), beside(0.25, 32, 1e-5, 1e-1)),
    Function("scale/line_and_spike", lambda xp, x: 2 * x + xp.exp(-((100 * (x - 2)) ** 2)) / 8, beside(2, 33, 2e-3, 0.5)),
    Function("scale/wide_gaussian", lambda xp, x: xp.exp(-((x / 400) ** 2)), uniform(34, -700, 700)),
    Function("scale/huge_values", lambda xp, x: xp.cos(x) * 2.0**70, uniform(35, -3, 3)),
    Function("scale/offset_1e6", lambda xp, x: 1048576 + xp.exp(x), uniform(36, -1, 2)),
    Function("scale/stretched_exponential", lambda xp, x: xp.exp(-40 * xp.sqrt(x)), spread(37, 1e-3, 0.3)),
    # --- oscillating
    Function("oscillating/cos_of_exp", lambda xp, x: xp.cos(xp.exp(x)), uniform(40, 1, 4.5)),
    Function("oscillating/sin_70_plus_square", lambda xp, x: xp.sin(70 * x) + x * x, uniform(41, -2, 2)),
    Function("oscillating/fifth_harmonic", lambda xp, x: xp.sin(x) + xp.sin(15 * x) / 5 + xp.sin(31 * x) / 25, uniform(42, -3, 3)),
    Function("oscillating/sin_of_log", lambda xp, x: xp.sin(8 * xp.log(x)), spread(43, 1e-6, 3)),
    # --- |x| large, |x| tiny
    Function("large/sin_plus_line", lambda xp, x: xp.sin(x) + x / 8, spread(50, 100, 1e6), dtypes=F64),
    Function("large/sin_plus_line", lambda xp, x: xp.sin(x) + x / 8, spread(51, 50, 5e3), dtypes=F32),
    Function("large/power_1_3", lambda xp, x: x**0.3125, spread(52, 1e2, 1e8)),
    Function("large/tanh_of_scaled", lambda xp, x: xp.tanh(x / 4096), spread(53, 100, 1e4)),
    Function("large/quartic", lambda xp, x: x * x * (x * x - 9), spread(54, 1e2, 1e6)),
    Function("tiny/cosh_plus_line", lambda xp, x: xp.cosh(x) + 2 * x, spread(55, 1e-12, 1e-2)),
    Function("tiny/expm1_of_square_plus_x", lambda xp, x: xp.expm1(x * x) + x, spread(56, 1e-12, 1e-2)),
    # --- digits lost inside f
    Function("cancellation/sin_x_over_x_minus_1", lambda xp, x: (xp.sin(x) - x) / (x * x * x), spread(60, 1e-3, 1)),
    Function("cancellation/tan_minus_sin", lambda xp, x: xp.tan(x) - xp.sin(x), spread(61, 1e-2, 1)),
    Function("cancellation/difference_of_roots", lambda xp, x: xp.sqrt(x + 1) - xp.sqrt(x), spread(62, 1, 1e4)),
    Function("cancellation/seventh_power_expanded", horner_product, uniform(63, 1.2, 2.8)),
    Function("cancellation/log_of_exp", lambda xp, x: xp.log(xp.exp(x) + 1 - xp.exp(x / 2)), uniform(64, -2, 3)),
    Function("cancellation/large_terms", lambda xp, x: (x + 4096) ** 2 - 16777216 - 8192 * x, uniform(65, 0.5, 6)),
    # --- values on a grid
    Function("quantised/cos_1e-4", lambda xp, x: xp.cos(x), uniform(70, 0.3, 2.5), perturb=on_a_grid(1e-4)),
    Function("quantised/arctan_1e-2", lambda xp, x: 4 * xp.arctan(x), uniform(71, -2, 2), perturb=on_a_grid(1e-2)),
    Function("quantised/log_1e-6", lambda xp, x: xp.log(x), uniform(72, 0.5, 4), perturb=on_a_grid(1e-6)),
    Function("quantised/polynomial_1e-8", lambda xp, x: x * x * x - x, uniform(73, -2, 2), perturb=on_a_grid(1e-8), dtypes=F64),
    Function("quantised/exp_12_bits", lambda xp, x: xp.exp(-x), uniform(74, -1, 1), perturb=on_a_relative_grid(12)),
    Function("quantised/sqrt_40_bits", lambda xp, x: xp.sqrt(x), uniform(75, 0.6, 4), perturb=on_a_relative_grid(40), dtypes=F64),
    Function(
        "quantised/float32_inside", lambda xp, x: xp.log(2 + xp.sin(x)), uniform(76, -3, 3), perturb=computed_in("float32"), dtypes=F64
    ),
    Function("quantised/float16_stored", lambda xp, x: xp.sin(x) + 2, uniform(77, -3, 3), perturb=stored_in("float16")),
    Function("quantised/float16_inside", lambda xp, x: xp.exp(x / 2), uniform(78, -1, 1), perturb=computed_in("float16")),
    Function("quantised/slow_line", lambda xp, x: x / 16, uniform(79, -4, 4), perturb=on_a_grid(2.0**-10)),
    # --- noise without trend
    Function("noisy/cos_1e-4", lambda xp, x: xp.cos(x), uniform(80, 0.3, 2.8), perturb=noisy(1e-4)),
    Function("noisy/exp_1e-2", lambda xp, x: xp.exp(x / 2), uniform(81, -1, 2), perturb=noisy(1e-2, is_relative=False)),
    Function("noisy/arctan_1e-9", lambda xp, x: xp.arctan(x), uniform(82, -2, 2), perturb=noisy(1e-9), dtypes=F64),
    Function("noisy/sin_20_1e-5", lambda xp, x: xp.sin(20 * x), uniform(83, -2, 2), perturb=noisy(1e-5, is_relative=False)),
    Function("noisy/line_1e-13", lambda xp, x: 2 * x + 1, uniform(84, -2, 2), perturb=noisy(1e-13), dtypes=F64),
    # --- a kink or a jump some way off
    Function("kink_nearby/leaky", lambda xp, x: xp.where(x > 1, x, x / 8) + xp.cos(x), beside(1, 90, 1e-3, 1)),
    Function("kink_nearby/clipped_sin", lambda xp, x: xp.minimum(xp.sin(x), 0.75 + 0 * x), (0.84, 0.86, 0.8, 1.5, 2.2, 2.32)),
    Function("kink_nearby/elastic", lambda xp, x: x * x / 2 + xp.abs(x) / 4, beside(0, 91, 1e-3, 1)),
    Function("kink_nearby/triangle", lambda xp, x: xp.abs(x - xp.round(x)) + x, (0.03, 0.47, 0.52, 0.98, 1.2, -0.27)),
    Function("kink_nearby/saw", lambda xp, x: x - xp.floor(x) + xp.sin(x), (0.03, 0.47, 0.92, 0.98, 1.2, -0.27)),
    Function("kink_nearby/cubic_spline", lambda xp, x: xp.maximum(x - 1, 0 * x) ** 3 + x * x, beside(1, 92, 1e-2, 1)),
    # --- a fast wave of small amplitude
    Function("aliasing/512", lambda xp, x: xp.cos(x) + wave(xp, x, 512) / 2048, uniform(100, 0.3, 2.5)),
    Function("aliasing/irrational", lambda xp, x: xp.arctan(x) + xp.sin(777.5 * x) / 1024, uniform(101, -2, 2)),
    # --- symmetry, constants, lines
    Function("symmetric/hat", lambda xp, x: (1 - x * x) * xp.exp(-x * x / 2), (0.0,)),
    Function("symmetric/sin_cubed", lambda xp, x: xp.sin(x) ** 3, (0.0, 1e-4)),
    Function("symmetric/cos_about_2", lambda xp, x: xp.cos(4 * (x - 2)), (2.0,)),
    Function("line/offset", lambda xp, x: 1000 - x / 7, uniform(110, -3, 3)),
    # --- where the right answer is a status
    Function("on_a_kink/elastic", lambda xp, x: x * x / 2 + xp.abs(x) / 4, (0.0,), expects="kink"),
    Function("on_a_kink/triangle", lambda xp, x: xp.abs(x - xp.round(x)), (0.0, 1.0, 0.5), expects="kink"),
    Function("on_a_kink/hinge", lambda xp, x: xp.maximum(1 - x, 0 * x) + x * x, (1.0,), expects="kink"),
    Function("on_a_kink/small", lambda xp, x: xp.exp(x) + xp.abs(x - 0.5) / 64, (0.5,), expects="kink"),
    Function("on_a_jump/saw", lambda xp, x: x - xp.floor(x), (1.0, -2.0), expects="jump"),
    Function("on_a_jump/small_step", lambda xp, x: xp.sin(x) + xp.where(x >= 0.25, 0.01 + 0 * x, 0 * x), (0.25,), expects="jump"),
    Function("outside/arccos", lambda xp, x: xp.arccos(x), (1.5, -3.0), expects="non_finite"),
    Function("outside/log_of_negative", lambda xp, x: xp.log(x - 2), (1.0, -4.0, 1.999), expects="non_finite"),
)
