"""Hessians read forward, entry by entry: equal to JAX's own, sparse where the function is, and refused where they are not covered."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.curvature import NotCoveredError, value_gradient_hessian

ROWS = np.random.default_rng(0).normal(size=(12, 4))
LABELS = np.where(ROWS.sum(axis=1) > 0, 1.0, -1.0)
FUNCTIONS = {
    "logistic": lambda x: jnp.sum(jax.nn.softplus(-LABELS * (ROWS @ x))) + 0.05 * jnp.sum(x * x),
    "chained": lambda x: jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2),
    "peak": lambda x: jnp.sum((x[0] * jnp.exp(-((ROWS[:, 0] - x[1]) ** 2) / (2 * x[2] ** 2)) + x[3] - LABELS) ** 2),
    "two_movers": lambda x: jnp.sum(jnp.logaddexp(ROWS @ x, x[0] * LABELS)) + jnp.arctan2(x[0], x[1]),
    "residuals": lambda x: jnp.dot(ROWS @ x - LABELS, ROWS @ x - LABELS) + x @ (ROWS[:4] @ ROWS[:4].T) @ x,
    "selected": lambda x: jnp.where(LABELS[0] > 0, x[0], x[1]) ** 3 + jnp.sum(jnp.abs(jnp.concatenate([x, jnp.ones(2)])) ** 2.5),
    "stopped": lambda x: jnp.sum(jax.lax.stop_gradient(x) * x**3) / (1 + jnp.sum(x**2)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_gradient_and_hessian_equal_those_of_jax(name):
    f, x = FUNCTIONS[name], jnp.array([0.4, -0.7, 1.1, 0.3])
    value, first, lower = jax.jit(lambda x: value_gradient_hessian(f, x))(x)
    places = np.tril_indices(4)
    expected = jax.jit(jax.hessian(f))(x)[places]
    np.testing.assert_allclose(value, f(x), rtol=1e-14)
    np.testing.assert_allclose(np.array(first), jax.grad(f)(x), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(np.array(lower), expected, rtol=1e-12, atol=1e-12)


def test_derivatives_that_are_zero_by_structure_are_never_multiplied_by():
    # 0 * inf would be NaN: the slope of sqrt at 0 is infinite, and x[1] does not enter it.
    _, first, lower = value_gradient_hessian(lambda x: jnp.sqrt(x[0]) + x[1] ** 2, jnp.array([0.0, 3.0]))
    assert float(first[1]) == 6.0
    assert float(lower[1]) == 0.0
    assert float(lower[2]) == 2.0


def test_an_exponential_that_only_a_zero_would_multiply_is_not_computed():
    # One in the value of softplus, one in its derivatives; the rule for logaddexp has another, for its constant operand.
    lowered = jax.jit(lambda x: value_gradient_hessian(FUNCTIONS["logistic"], x)).lower(jnp.ones(4))
    assert lowered.as_text().count("stablehlo.exponential ") == 2


def test_what_is_not_read_is_refused_by_name():
    with pytest.raises(NotCoveredError, match=r"while|scan"):
        value_gradient_hessian(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y * x[0], x[1]), jnp.ones(2))
    with pytest.raises(NotCoveredError, match="product of matrices"):
        value_gradient_hessian(lambda x: jnp.sum(jnp.tanh(ROWS[:, :2] @ x.reshape(2, 2))), jnp.ones(4))
    with pytest.raises(NotCoveredError, match="product of matrices"):
        value_gradient_hessian(lambda x: jnp.sum(jnp.einsum("ij,ij->i", ROWS[:2, :2], x.reshape(2, 2)) ** 2), jnp.ones(4))
    outer = (((), ()), ((), ()))
    with pytest.raises(NotCoveredError, match="product of matrices"):
        value_gradient_hessian(lambda x: jnp.sum(jax.lax.dot_general(x, ROWS[0], outer) ** 3), jnp.ones(4))


def test_what_would_take_long_to_compile_is_refused():
    with pytest.raises(NotCoveredError, match="products of derivatives"):
        value_gradient_hessian(lambda x: functools.reduce(lambda product, _: product * jnp.sum(x), range(30), 1.0), jnp.ones(12))
