"""Slopes from a ladder of values: bars that hold, kinks, edges, stairs; expected values from closed forms."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from jaxdiff.derivatives.slopes import Slopes, slopes_from_values, taylor_slope

FUNCTIONS: dict[str, tuple[Callable, Callable]] = {
    "sin": (np.sin, np.cos),
    "exp": (np.exp, np.exp),
    "log": (np.log, lambda x: 1 / x),
    "sqrt": (np.sqrt, lambda x: 0.5 / np.sqrt(x)),
    "tanh": (np.tanh, lambda x: 1 / np.cosh(x) ** 2),
    "1 / (1 + x^2)": (lambda x: 1 / (1 + x**2), lambda x: -2 * x / (1 + x**2) ** 2),
    "sin(50 x)": (lambda x: np.sin(50 * x), lambda x: 50 * np.cos(50 * x)),
    "1000 + cos": (lambda x: 1000 + np.cos(x), lambda x: -np.sin(x)),
}


def ladder(f: Callable, x: np.ndarray, dtype: type, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    h = scale * 2.0 ** -np.arange(1.0, 31.0 if dtype is np.float64 else 19.0)
    x = x.astype(dtype)
    with np.errstate(all="ignore"):
        values = [
            np.asarray(f(x + t), dtype).astype(np.float64)
            for t in (-h[:, None].astype(dtype), np.zeros((1, 1), dtype), h[:, None].astype(dtype))
        ]
    return h, values[0], values[1][0], values[2]


def slopes(f: Callable, x: np.ndarray, dtype: type, scale: float = 1.0, slope: float | np.ndarray = 0.0, stride: int = 1) -> Slopes:
    h, left, middle, right = ladder(f, x, dtype, scale)
    h, left, right = (part[::stride] for part in (h, left, right))
    return slopes_from_values(h, left, middle, right, np.finfo(dtype).eps * (np.abs(middle) + np.abs(x * slope)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_bars_hold_and_are_of_use(name: str, dtype: type, stride: int) -> None:
    f, derivative = FUNCTIONS[name]
    x = np.random.default_rng(0).uniform(0.05, 3.0, 2000).astype(dtype)
    exact = derivative(x.astype(np.float64))
    found = slopes(f, x, dtype, slope=exact, stride=stride)
    error = np.abs(found.value - exact)
    # At an extremum of sin(50 x) the rounding of 50 x, which neither f nor its slope there shows, moves the slope.
    holds = error <= found.bar
    assert np.all(holds) if (name, dtype) != ("sin(50 x)", np.float32) else np.mean(holds) >= 0.99
    assert np.all(error[~holds] < 1e-4 * np.max(np.abs(exact)))
    assert not np.any(found.is_kink)
    assert not np.any(found.is_staircase)
    # Of use: in single precision, five per cent of a slope of one could be told, even beside 1000.
    limit = {np.float32: 5e-2, np.float64: 1e-6}[dtype]
    # Every other step is too few for a wave of length 0.13 in single precision; the bar says so.
    if (name, dtype, stride) != ("sin(50 x)", np.float32, 2):
        assert np.median(found.bar / np.maximum(np.abs(exact), 1.0)) < limit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_kink_has_two_slopes(dtype: type) -> None:
    found = slopes(lambda x: np.where(x > 0, np.sin(2 * x), -3 * x).astype(dtype), np.zeros(1), dtype)
    assert found.is_kink.all()
    assert found.left == pytest.approx(-3.0, abs=1e-3)
    assert found.right == pytest.approx(2.0, abs=1e-3)


def test_a_function_with_an_edge_has_the_slope_of_its_side() -> None:
    found = slopes(lambda x: np.sqrt(x) ** 3 + x, np.zeros(1), np.float64)
    assert found.is_one_sided.all()
    # Richardson's columns are made for whole powers of h; those of one side accuse at ten times the bar only.
    assert abs(found.value[0] - 1.0) <= 10 * found.bar[0] < 1e-2


def test_stairs_are_told_from_rounding() -> None:
    assert slopes(np.round, np.array([0.3]), np.float64).is_staircase.all()
    rounded = slopes(lambda x: (np.asarray(1e12, x.dtype) + x) - np.asarray(1e12, x.dtype), np.array([0.3]), np.float64)
    assert not rounded.is_staircase.any()
    assert abs(rounded.value[0] - 1.0) <= rounded.bar[0]


def test_a_slope_frozen_between_leaps_of_rounding_is_rough() -> None:
    """(1 - cos x) / x^2 at 1e-3 in float32; the derivative is -x / 12, what small steps see is nearer to -1000."""
    f = lambda x: (np.asarray(1, x.dtype) - np.cos(x)) / x**2  # noqa: E731
    found = slopes(f, np.array([1e-3]), np.float32, scale=2.0**-10)
    assert abs(found.value[0] + 1e-3 / 12) <= found.bar[0] + 2 * found.roughness[0]
    assert slopes(np.sin, np.array([1.0]), np.float32).roughness[0] == 0.0


def test_the_remainder_of_a_right_slope_vanishes_as_the_square() -> None:
    h, left, middle, right = ladder(np.exp, np.array([0.5]), np.float64)
    noise = np.array([1e-15])
    powers = [taylor_slope(h, left, middle, right, np.array([factor * math.exp(0.5)]), noise) for factor in (1.0, 1.01)]
    assert powers == [pytest.approx(2.0, abs=0.05), pytest.approx(1.0, abs=0.05)]
    h, left, middle, right = ladder(lambda x: 2 * x, np.array([0.5]), np.float64)
    assert math.isnan(taylor_slope(h, left, middle, right, np.array([2.0]), noise))
