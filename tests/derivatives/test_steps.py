"""Steps: the textbook rule, powers of two, and differences that no compiler removes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.derivatives.stencils import stencil_for
from jaxdiff.derivatives.steps import balanced_step, default_step, nearest_power_of_two, power_of_two_below

HALF_AND_FULL = ["float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize(
    ("kind", "derivative", "order", "textbook"),
    [
        # With |f^(k)| = k! |f| and rounding e, from minimising truncation + rounding by hand.
        ("forward", 1, 1, lambda e: math.sqrt(2 * e)),  # h |f''| / 2 + 2 e / h, |f''| = 2
        ("central", 1, 2, lambda e: (e / 2) ** (1 / 3)),  # h^2 |f'''| / 6 + e / h, |f'''| = 6
        ("central", 2, 2, lambda e: (2 * e) ** (1 / 4)),  # h^2 |f''''| / 12 + 4 e / h^2, |f''''| = 24
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_balanced_step_is_the_textbook_one(kind: str, derivative: int, order: int, textbook, dtype: str) -> None:
    epsilon = float(np.finfo(dtype).eps)
    stencil = stencil_for(kind, derivative, order)
    step = balanced_step(float(stencil.constant), stencil.absolute_weight, derivative, order, epsilon)
    assert step == pytest.approx(textbook(epsilon / 2), rel=1e-12)
    assert textbook(epsilon / 2) / 1.5 <= default_step(kind, derivative, order, dtype) <= textbook(epsilon / 2) * 1.5


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("derivative", [1, 2, 3])
def test_balanced_step_minimises_truncation_plus_rounding(derivative: int, order: int) -> None:
    """The total of the error bound is larger a little to either side of it."""
    stencil = stencil_for("forward", derivative, order)
    constant, weight, epsilon = abs(float(stencil.constant)), stencil.absolute_weight, 2.0**-52

    def bound(h: float) -> float:
        return constant * h**order * math.factorial(derivative + order) + weight * epsilon / 2 / h**derivative

    best = balanced_step(constant, weight, derivative, order, epsilon)
    assert bound(best) < min(bound(best * 0.98), bound(best * 1.02))


@pytest.mark.core
@pytest.mark.parametrize("dtype", HALF_AND_FULL)
@pytest.mark.parametrize("is_jitted", [True, False])
def test_powers_of_two_are_exact_in_every_precision(dtype: str, is_jitted: bool) -> None:
    values = jnp.asarray(np.geomspace(1e-3, 1e3, 301), dtype)
    nearest, below = ((jax.jit(f) if is_jitted else f)(values) for f in (nearest_power_of_two, power_of_two_below))
    for powers in (nearest, below):
        assert powers.dtype == jnp.dtype(dtype)
        mantissa, _ = np.frexp(np.asarray(powers, np.float64))
        assert np.all(mantissa == 0.5)
    exact = np.asarray(values, np.float64)
    assert np.all((np.asarray(below, np.float64) <= exact) & (np.asarray(below, np.float64) >= exact / 2.25))
    assert np.all(np.abs(np.log2(np.asarray(nearest, np.float64) / exact)) <= math.log2(1.5) + 1e-12)


@pytest.mark.core
@pytest.mark.parametrize("kind", ["forward", "backward", "central"])
def test_difference_is_divided_by_what_was_really_taken(kind: str) -> None:
    """In float32 near 1e6 numbers are 1/16 apart, so a step of 0.1 moves x by 1/8 or 1/16. The slope of the identity is one, not 1.25 or
    0.625.

    The naive form divides by the step that was asked for; so would a compiler that cancels (x + h) - x.
    """
    method = jd.FiniteDifference(kind=kind, order=2 if kind == "central" else 1, step=0.1)
    x = jnp.asarray(np.linspace(1.0e6, 1.03e6, 41), "float32")
    for slope in (jd.derivative(lambda x: x, method=method), jax.jit(jd.derivative(lambda x: x, method=method))):
        np.testing.assert_array_equal(slope(x), np.ones(41, "float32"))
    with jax.disable_jit():
        np.testing.assert_array_equal(jd.derivative(lambda x: x, method=method)(x[:2]), np.ones(2, "float32"))
    h = jnp.float32(0.1)
    naive = ((x + h) - x) / h
    assert float(jnp.max(jnp.abs(naive - 1))) > 0.2


def test_higher_derivatives_lose_nothing_where_a_step_crosses_a_binade() -> None:
    """Just below 2 the point x + h is rounded: unless that is allowed for, it leaks a share of f' into f'' that is larger than the
    scheme's own error.

    f = 1000 x has no second derivative, and all its values here are exact enough to show the leak alone.
    """
    method = jd.FiniteDifference(order=2)
    x = jnp.nextafter(2.0, 0.0) - jnp.arange(0, 64, 1) * 2.0**-52
    h = 2.0**-12
    naive = (1000 * (x + h) - 2000 * x + 1000 * (x - h)) / h**2
    ours = jd.derivative(lambda x: 1024 * x, 2, method=method)(x)
    np.testing.assert_allclose(ours, 0, atol=1e-9)
    assert float(jnp.max(jnp.abs(naive))) > 1e-6


def test_step_below_the_spacing_of_x_still_moves_it() -> None:
    """A step of 1e-7 is under half the spacing of float32 at 4: without a floor it would divide zero by zero."""
    method = jd.FiniteDifference(kind="forward", order=1, step=1e-7)
    slope = jd.derivative(lambda x: x, method=method)(jnp.float32(4.0))
    assert float(slope) == 1.0
