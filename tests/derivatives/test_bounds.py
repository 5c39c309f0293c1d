"""Finite differences beside a bound: never a point outside, never an order of accuracy less."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


def tree_function(x: dict, scale: jax.Array) -> jax.Array:
    return scale * jnp.sum(jnp.sin(x["a"]) * x["b"][0]) + jnp.sum(x["b"][1] ** 3)


TREE = {"a": jnp.asarray([[0.1, 0.7], [1.1, -0.5]]), "b": (jnp.asarray(1.5), jnp.asarray([0.3, -0.2]))}


@pytest.mark.parametrize("kind", ["forward", "backward", "central"])
@pytest.mark.parametrize(("order", "n"), [(2, 1), (4, 1), (2, 2)])
def test_bounds_are_never_left_and_cost_no_order_of_accuracy(kind: str, order: int, n: int) -> None:
    """F is NaN outside [1, 2], where x^3 log x is anything but; at the edges, inside them by less than a step, and in the middle."""
    f = lambda x: jnp.where((x >= 1) & (x <= 2), x**3 * jnp.log(x), jnp.nan)  # noqa: E731
    exact = {1: lambda x: 3 * x**2 * np.log(x) + x**2, 2: lambda x: 6 * x * np.log(x) + 5 * x}[n]
    x = np.array([1.0, np.nextafter(1, 2), 1 + 1e-6, 1.4, 2 - 1e-6, np.nextafter(2, 1), 2.0])
    method = jd.FiniteDifference(kind=kind, order=order, bounds=(1.0, 2.0))
    inside = jd.derivative(f, n, method=method)(jnp.asarray(x))
    np.testing.assert_allclose(inside, exact(x), rtol={(2, 1): 2e-9, (4, 1): 2e-11, (2, 2): 3e-6}[order, n])
    gradient = jd.jacobian(lambda x: f(x), method=dataclasses.replace(method, order=order))(jnp.asarray(x))
    assert np.all(np.isfinite(gradient))


def test_narrow_bounds_shorten_the_step() -> None:
    """A box a hundred times narrower than the step: the slope of a parabola is still exact, and no point outside is touched."""
    width = 1e-8
    f = lambda x: jnp.where((x >= 1) & (x <= 1 + width), (x - 1) * 3, jnp.nan)  # noqa: E731
    for x in (1.0, 1 + width / 3, 1 + width):
        slope = jd.derivative(f, method=jd.FiniteDifference(bounds=(1.0, 1 + width)))(x)
        assert float(slope) == pytest.approx(3.0, rel=1e-6)


def test_a_box_of_no_width_has_no_derivative() -> None:
    method = jd.FiniteDifference(bounds=(jnp.asarray([0.0, 1.0]), jnp.asarray([2.0, 1.0])))
    gradient = jd.gradient(lambda x: jnp.sum(x**2), method=method)(jnp.asarray([1.0, 1.0]))
    assert float(gradient[0]) == pytest.approx(2.0)
    assert np.isnan(gradient[1])


def test_bounds_may_be_trees_and_infinite_and_traced() -> None:
    lower = {"a": -jnp.inf, "b": (1.5, jnp.asarray([0.3, -1.0]))}
    method = jd.FiniteDifference(order=2, bounds=(lower, None))
    guarded = lambda x: tree_function(x, 1.0) + jnp.where((x["b"][0] < 1.5) | (x["b"][1][0] < 0.3), jnp.nan, 0.0)  # noqa: E731
    exact = jax.grad(tree_function)(TREE, 1.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7), jd.gradient(guarded, method=method)(TREE), exact)

    @jax.jit
    def slope(x: jax.Array, low: jax.Array) -> jax.Array:
        f = lambda x: jnp.where(x < low, jnp.nan, x**2)  # noqa: E731
        return jd.derivative(f, method=jd.FiniteDifference(bounds=(low, None)))(x)

    assert float(slope(1.0, 1.0)) == pytest.approx(2.0)
    assert np.isnan(slope(1.0, 1.5)), "outside of its bounds a traced x has no derivative"


@pytest.mark.parametrize(
    ("bounds", "x", "message"),
    [
        ((1.0, 0.0), [0.5, 0.5], "at index 0 the lower bound 1.0 exceeds the upper bound 0.0"),
        ((None, [1.0, 0.2]), [0.5, 0.5], r"bounds has the structure"),
        ((None, np.array([1.0, 0.2])), [0.5, 0.5], r"x = 0.5 at index 1 lies outside its bounds \[-inf, 0.2\]"),
        ((None, np.ones(3)), [0.5, 0.5], r"bounds has a leaf of shape \(3,\); expected a scalar or \(2,\)"),
        ((np.nan, None), [0.5, 0.5], "the lower bound holds NaN"),
        ((0.0, 1.0, 2.0), [0.5, 0.5], "expected a pair"),
        (1.0, [0.5, 0.5], "expected a pair"),
    ],
    ids=str,
)
def test_impossible_bounds_are_refused_with_index_and_value(bounds, x: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jd.gradient(lambda x: jnp.sum(x), method=jd.FiniteDifference(bounds=bounds))(jnp.asarray(x))
