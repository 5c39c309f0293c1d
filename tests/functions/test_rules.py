"""The rules of differentiation against autodiff of the value they build, and their edges."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdiff.functions.activations import ACTIVATIONS
from jaxdiff.functions.rules import (
    Differentiable,
    chain_rule,
    constant_multiple_rule,
    power_rule,
    product_rule,
    quotient_rule,
    sum_rule,
)

SINE = Differentiable(jnp.sin, jnp.cos)
EXP = Differentiable(jnp.exp, jnp.exp)
TANH = Differentiable(ACTIVATIONS["tanh"].value, ACTIVATIONS["tanh"].derivative)
# 2 + sin(x): never zero.
AWAY_FROM_ZERO = sum_rule(constant_multiple_rule(2.0, power_rule(0)), SINE)

leaves = st.one_of(st.sampled_from([SINE, TANH, AWAY_FROM_ZERO]), st.integers(0, 3).map(power_rule))
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(sum_rule, inner, inner),
        st.builds(product_rule, inner, inner),
        st.builds(lambda f: quotient_rule(f, AWAY_FROM_ZERO), inner),
        st.builds(lambda f, g: chain_rule(f, chain_rule(TANH, g)), inner, inner),
        st.builds(constant_multiple_rule, st.floats(-3, 3), inner),
    ),
    max_leaves=5,
)


def _by_autodiff(f: Callable, x: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jvp(f, (x,), (np.ones_like(x),))[1])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(trees)
def test_every_composition_of_rules_agrees_with_autodiff(f: Differentiable) -> None:
    x = np.linspace(-1.5, 1.5, 13)
    by_rule, by_autodiff = np.asarray(f.derivative(x)), _by_autodiff(f.value, x)
    # Terms of size up to the largest derivative on the interval may cancel at a point.
    np.testing.assert_allclose(by_rule, by_autodiff, rtol=1e-12, atol=1e-13 * (1 + np.abs(by_autodiff).max()))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.one_of(st.integers(-4, 6), st.floats(-3, 3).filter(lambda n: abs(n) > 1e-3)))
def test_power_rule_agrees_with_autodiff_for_positive_x(n: int | float) -> None:
    f = power_rule(n)
    x = np.array([0.1, 0.5, 1.0, 1.7, 12.0])
    np.testing.assert_allclose(f(x), x ** float(n), rtol=1e-13)
    np.testing.assert_allclose(f.derivative(x), _by_autodiff(f.value, x), rtol=1e-13)
    np.testing.assert_allclose(f.derivative(x), n * x ** (float(n) - 1), rtol=1e-13)


@pytest.mark.parametrize("n", [-3, -2, -1, 0, 1, 2, 3, 2.0, -1.0])
def test_whole_exponents_hold_for_negative_bases(n: int | float) -> None:
    x = np.array([-2.0, -0.5])
    np.testing.assert_allclose(power_rule(n)(x), x ** float(n), rtol=1e-15)
    np.testing.assert_allclose(power_rule(n).derivative(x), n * x ** (float(n) - 1), rtol=1e-15)


@pytest.mark.parametrize(
    ("n", "value", "derivative"),
    [(0, 1, 0), (1, 0, 1), (2, 0, 0), (3, 0, 0), (0.5, 0, np.inf), (1.5, 0, 0), (-1, np.inf, -np.inf), (-2, np.inf, -np.inf)],
)
def test_power_rule_at_zero(n: float, value: float, derivative: float) -> None:
    assert float(power_rule(n)(0.0)) == value
    assert float(power_rule(n).derivative(0.0)) == derivative


@pytest.mark.parametrize("n", [0.5, -1.5, 1 / 3])
def test_broken_exponents_of_negative_bases_are_nan(n: float) -> None:
    assert np.isnan(power_rule(n)(-1.0))
    assert np.isnan(power_rule(n).derivative(-1.0))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.floats(0.05, 3).map(lambda c: (c, SINE)), st.booleans())
def test_quotient_rule_agrees_with_autodiff_away_from_zeros(pair: tuple, is_swapped: bool) -> None:
    shift = sum_rule(constant_multiple_rule(pair[0], power_rule(0)), EXP)
    f, g = (shift, SINE) if is_swapped else (SINE, shift)
    q = quotient_rule(f, g)
    x = np.array([-2.5, -1.0, 0.3, 1.0, 2.0])
    np.testing.assert_allclose(q(x), np.asarray(f(x)) / np.asarray(g(x)), rtol=1e-15)
    np.testing.assert_allclose(q.derivative(x), _by_autodiff(q.value, x), rtol=1e-12)


def test_quotient_at_a_zero_of_the_denominator_is_never_finite() -> None:
    one, x = power_rule(0), power_rule(1)
    points = np.array([0.0, 1.0])
    pole, removable = quotient_rule(one, x), quotient_rule(SINE, x)
    np.testing.assert_array_equal(pole(points), [np.inf, 1.0])
    np.testing.assert_array_equal(pole.derivative(points), [np.nan, -1.0])
    # sin(x)/x has a limit at zero; the quotient of the two functions has none to offer.
    assert np.isnan(removable(0.0))
    assert np.isnan(removable.derivative(0.0))
    assert float(quotient_rule(constant_multiple_rule(-1, one), power_rule(2))(0.0)) == -np.inf
    # Other elements of the same array are untouched, also when the derivative is differentiated again.
    second = _by_autodiff(pole.derivative, np.array([0.0, 1.0]))
    assert second[1] == 2.0


def test_quotient_survives_where_the_squared_denominator_does_not() -> None:
    tiny, huge = 1e-200, 1e200
    q = quotient_rule(power_rule(2), power_rule(1))
    # x^2 / x = x has slope one; with g^2 in the denominator it would be 0/0 or inf/inf.
    assert float(q.derivative(1e-150)) == pytest.approx(1.0, rel=1e-15)
    reciprocal = quotient_rule(power_rule(0), power_rule(1))
    assert float(reciprocal.derivative(huge)) == 0.0
    assert float(reciprocal.derivative(tiny)) == -np.inf
    assert float(reciprocal.derivative(1e153)) == pytest.approx(-1e-306, rel=1e-15)


def test_rules_keep_float32_and_work_under_jit_and_vmap(dtype: str) -> None:
    f = quotient_rule(product_rule(power_rule(3), TANH), sum_rule(constant_multiple_rule(2.0, power_rule(0)), chain_rule(EXP, SINE)))
    x = np.linspace(-1, 1, 5).astype(dtype)
    value, derivative = jax.jit(lambda x: (f(x), f.derivative(x)))(x)
    assert value.dtype == derivative.dtype == dtype
    np.testing.assert_allclose(jax.vmap(f.derivative)(x), derivative, rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(derivative, _by_autodiff(f.value, x), rtol=16 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("rule", [sum_rule, product_rule, quotient_rule, chain_rule])
def test_a_function_without_its_derivative_is_refused(rule: Callable) -> None:
    with pytest.raises(TypeError, match="Differentiable"):
        rule(jnp.sin, SINE)
    with pytest.raises(TypeError, match="Differentiable"):
        rule(SINE, jnp.sin)


def test_bad_exponents_and_parts_are_refused() -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="n ="):
            power_rule(bad)
        with pytest.raises(ValueError, match="c ="):
            constant_multiple_rule(bad, SINE)
    with pytest.raises(TypeError, match="x"):
        SINE("abc")
