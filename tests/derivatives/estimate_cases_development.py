"""The development set: functions and points on which the estimator may be looked at and tuned, so that the held-out splits need not be.

Its references are in ``data/development.npz``. No test gates on it.
"""

from typing import Any

from estimate_cases import F64, Function, computed_in, noisy, on_a_grid, on_a_relative_grid, stored_in, wave
from estimate_cases_second import beside, spread, uniform

MANY = 16


def logistic(xp: Any, x: Any) -> Any:
    return 1 / (1 + xp.exp(-x))


def fixed_point(xp: Any, x: Any) -> Any:
    """Twenty steps of y = cos(x y), a simulation that converges."""
    y = 0.5 + 0 * x
    for _ in range(20):
        y = xp.cos(x * y)
    return y


def euler(xp: Any, x: Any) -> Any:
    """Sixty steps of y' = -x y + sin y."""
    y = 1 + 0 * x
    for _ in range(60):
        y = y + (xp.sin(y) - x * y) / 64
    return y


FUNCTIONS = (
    Function("smooth/cosine", lambda xp, x: xp.cos(x), uniform(1001, -3, 3, MANY), smooth=True),
    Function("smooth/exp", lambda xp, x: xp.exp(x), uniform(1002, -1, 2, MANY), smooth=True),
    Function("smooth/mexican", lambda xp, x: (1 - x * x) * xp.exp(-x * x / 2) + x, uniform(1003, -2, 2, MANY), smooth=True),
    Function("smooth/rational", lambda xp, x: (x * x + 1) / (x * x + x + 2), uniform(1004, -2, 2, MANY), smooth=True),
    Function("smooth/fixed_point", fixed_point, uniform(1005, 0.1, 0.9, MANY), smooth=True),
    Function("smooth/euler", euler, uniform(1006, 0.3, 3, MANY), smooth=True),
    Function("smooth/log1p_exp", lambda xp, x: xp.log1p(xp.exp(x)), uniform(1007, -2, 2, MANY), smooth=True),
    Function("smooth/sqrt_shifted", lambda xp, x: xp.sqrt(2 + x), uniform(1008, -1, 3, MANY), smooth=True),
    Function("smooth/power", lambda xp, x: x**2.5 / 4, uniform(1009, 0.6, 3, MANY), smooth=True),
    Function("smooth/arctan_of_exp", lambda xp, x: xp.arctan(xp.exp(x)), uniform(1010, -2, 2, MANY), smooth=True),
    # fractional powers at zero: every scale is like every other
    Function("power_at_0/three_halves", lambda xp, x: xp.abs(x) * xp.sqrt(xp.abs(x)), (0.0,), known={0.0: {1: 0.0}}),
    Function("power_at_0/four_thirds", lambda xp, x: xp.abs(x) * xp.sqrt(xp.sqrt(xp.abs(x))) + x, (0.0,), known={0.0: {1: 1.0}}),
    Function("power_at_0/one_sided_seven_quarters", lambda xp, x: x * xp.sqrt(x * xp.sqrt(x)), (0.0,), known={0.0: {1: 0.0}}),
    Function("power_at_0/one_sided_five_halves", lambda xp, x: x * x * xp.sqrt(x) + xp.exp(x), (0.0,), known={0.0: {1: 1.0, 2: 1.0}}),
    Function("power_at_0/five_halves", lambda xp, x: x * x * xp.sqrt(xp.abs(x)), (0.0,), known={0.0: {1: 0.0, 2: 0.0}}),
    Function("power_at_0/odd_three_halves", lambda xp, x: x * xp.sqrt(xp.abs(x)) + 2 * x, (0.0,), known={0.0: {1: 2.0}}),
    Function(
        "power_at_0/x2_log", lambda xp, x: xp.where(x == 0, 0 * x, x * x * xp.log(xp.abs(x) + (x == 0))), (0.0,), known={0.0: {1: 0.0}}
    ),
    Function("power_at_0/seven_thirds", lambda xp, x: xp.abs(x) ** 2.3125 + xp.sin(x), (0.0,), known={0.0: {1: 1.0, 2: 0.0}}),
    Function("power_at_0/wild", lambda xp, x: xp.where(x == 0, 0 * x, x * x * xp.sin(1 / (x + (x == 0)))), (0.0,), known={0.0: {1: 0.0}}),
    # edges
    Function("edge/log", lambda xp, x: xp.log(x) + x, spread(1020, 1e-10, 1, MANY)),
    Function("edge/sqrt_log", lambda xp, x: xp.sqrt(-xp.log(x)), (0.999, 0.99, 0.9, 0.5, 0.1, 1e-3, 1e-7)),
    Function("edge/inverse_cube", lambda xp, x: 1 / (x * x * x), spread(1021, 1e-4, 1, MANY)),
    Function("edge/sqrt_1_minus_x2", lambda xp, x: xp.sqrt(1 - x * x), (0.9, 0.99, 0.999, 0.9999, -0.95, -0.9995, 0.3, 0.0)),
    Function("edge/gamma_like", lambda xp, x: xp.exp(-x) * x**0.75, spread(1022, 1e-8, 4, MANY)),
    Function("edge/secant", lambda xp, x: 1 / xp.cos(x), beside(1.5703125, 1023, 1e-2, 1, MANY)),
    # scales
    Function("scale/sharp_tanh", lambda xp, x: xp.tanh(128 * (x - 0.75)), beside(0.75, 1030, 1e-4, 0.2, MANY)),
    Function("scale/peak", lambda xp, x: 1 / (2.0**-16 + (x - 0.5) ** 2), beside(0.5, 1031, 1e-3, 1, MANY)),
    Function("scale/peak_on_slope", lambda xp, x: xp.sin(x) + xp.exp(-((256 * (x - 1)) ** 2)) / 4, beside(1, 1032, 1e-3, 0.4, MANY)),
    Function("scale/wide", lambda xp, x: xp.cos(x / 300), uniform(1033, -1000, 1000, MANY)),
    Function("scale/offset", lambda xp, x: 65536 + xp.cos(x), uniform(1034, -3, 3, MANY)),
    Function("scale/exp_30", lambda xp, x: xp.exp(30 * x), uniform(1035, -1, 1, MANY)),
    # oscillations
    Function("oscillating/sin_40", lambda xp, x: xp.sin(40 * x) + x, uniform(1040, -3, 3, MANY)),
    Function("oscillating/chirp", lambda xp, x: xp.cos(x * x * x), uniform(1041, 1, 5, MANY)),
    Function("oscillating/two", lambda xp, x: xp.sin(3 * x) + xp.cos(50 * x) / 50, uniform(1042, -3, 3, MANY)),
    Function("large/cos", lambda xp, x: xp.cos(x), spread(1050, 1e2, 1e7, MANY), dtypes=F64),
    Function("large/root", lambda xp, x: xp.sqrt(1 + x), spread(1051, 1e2, 1e7, MANY)),
    Function("tiny/sinh", lambda xp, x: xp.sinh(x) + 1, spread(1052, 1e-12, 1e-2, MANY)),
    # cancellation
    Function("cancellation/1_minus_cos", lambda xp, x: 1 - xp.cos(x), spread(1060, 1e-4, 1, MANY)),
    Function("cancellation/exp_minus_1", lambda xp, x: (xp.exp(x) - 1) / x, spread(1061, 1e-5, 1, MANY)),
    Function("cancellation/expanded", lambda xp, x: (((x - 8) * x + 24) * x - 32) * x + 16, uniform(1062, 1.5, 2.5, MANY)),
    Function("cancellation/logs", lambda xp, x: xp.log(x + 100) - xp.log(x + 99), uniform(1063, -3, 3, MANY)),
    # grids
    Function("quantised/sin_1e-2", lambda xp, x: xp.sin(x), uniform(1070, -1, 1, MANY), perturb=on_a_grid(1e-2)),
    Function("quantised/sin_1e-4", lambda xp, x: xp.sin(x) + x * x, uniform(1071, -2, 2, MANY), perturb=on_a_grid(1e-4)),
    Function("quantised/exp_1e-6", lambda xp, x: xp.exp(-x), uniform(1072, -1, 2, MANY), perturb=on_a_grid(1e-6)),
    Function("quantised/cos_1e-9", lambda xp, x: xp.cos(x), uniform(1073, -1, 2, MANY), perturb=on_a_grid(1e-9), dtypes=F64),
    Function("quantised/11_bits", lambda xp, x: logistic(xp, x), uniform(1074, -2, 2, MANY), perturb=on_a_relative_grid(11)),
    Function("quantised/float32", lambda xp, x: xp.sin(2 * x), uniform(1075, -2, 2, MANY), perturb=computed_in("float32"), dtypes=F64),
    Function("quantised/bfloat16", lambda xp, x: xp.exp(x / 2), uniform(1076, -2, 2, MANY), perturb=computed_in("bfloat16")),
    Function("quantised/float16", lambda xp, x: xp.sqrt(x + 3), uniform(1077, -2, 2, MANY), perturb=stored_in("float16")),
    Function("quantised/line", lambda xp, x: 5 * x, uniform(1078, -2, 2, MANY), perturb=on_a_grid(1e-3)),
    # noise
    Function("noisy/1e-3", lambda xp, x: xp.sin(x) + 2, uniform(1080, -2, 2, MANY), perturb=noisy(1e-3)),
    Function("noisy/1e-5", lambda xp, x: xp.exp(x), uniform(1081, -2, 2, MANY), perturb=noisy(1e-5)),
    Function("noisy/1e-8", lambda xp, x: xp.cos(x), uniform(1082, -2, 2, MANY), perturb=noisy(1e-8), dtypes=F64),
    Function("noisy/1e-12", lambda xp, x: xp.arctan(x), uniform(1083, -2, 2, MANY), perturb=noisy(1e-12), dtypes=F64),
    Function("noisy/absolute", lambda xp, x: x * x, uniform(1084, -2, 2, MANY), perturb=noisy(1e-4, is_relative=False)),
    # kinks and jumps off x
    Function("kink_nearby/abs", lambda xp, x: xp.abs(x - 2) + xp.cos(x), beside(2, 1090, 1e-4, 1, MANY)),
    Function("kink_nearby/relu2", lambda xp, x: xp.maximum(x - 1, 0 * x) ** 2 + x, beside(1, 1091, 1e-3, 1, MANY)),
    Function("kink_nearby/jump", lambda xp, x: xp.exp(x) + xp.where(x < 0.25, 0 * x, 0.125 + 0 * x), beside(0.25, 1092, 1e-3, 1, MANY)),
    Function("kink_nearby/min", lambda xp, x: xp.minimum(xp.exp(x), 2 + 0 * x), beside(0.6875, 1093, 1e-3, 1, MANY)),
    # waves
    Function("aliasing/2048", lambda xp, x: xp.sin(x) + wave(xp, x, 2048) / 4096, uniform(1100, -2, 2, MANY)),
    Function("aliasing/256", lambda xp, x: x * x + wave(xp, x, 256) / 512, uniform(1101, -2, 2, MANY)),
    Function("aliasing/free", lambda xp, x: xp.exp(x) + xp.sin(1234 * x) / 2048, uniform(1102, -2, 2, MANY)),
    # what has no derivative
    Function("on_a_kink/abs", lambda xp, x: xp.abs(x) + x, (0.0,), expects="kink"),
    Function("on_a_kink/abs_1", lambda xp, x: xp.abs(x - 3) / 8 + xp.exp(x), (3.0,), expects="kink"),
    Function("on_a_kink/relu_sin", lambda xp, x: xp.maximum(xp.sin(x), 0 * x), (0.0,), expects="kink"),
    Function("on_a_jump/floor", lambda xp, x: xp.floor(x) + x, (2.0, -1.0), expects="jump"),
)
