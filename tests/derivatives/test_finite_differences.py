"""Finite differences: as accurate as the scheme allows, inside the bounds, in every precision and container; and the naive forms they
replace."""

import dataclasses
import functools
import gc
import weakref

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxdiff as jd

Central2 = jd.FiniteDifference()

# Each with its first and second derivative in closed form, taken in float64: a thousand times more accurate than what is judged by them.
FUNCTIONS = (
    (jnp.sin, np.cos, lambda x: -np.sin(x)),
    (jnp.exp, np.exp, np.exp),
    (jnp.log, lambda x: 1 / x, lambda x: -1 / x**2),
    (jnp.tanh, lambda x: 1 / np.cosh(x) ** 2, lambda x: -2 * np.tanh(x) / np.cosh(x) ** 2),
)


def errors(method: jd.FiniteDifference, n: int, dtype: str) -> np.ndarray:
    """Relative errors over the four functions and 64 random points on [0.5, 2]."""
    x = np.random.default_rng(1).uniform(0.5, 2.0, 64).astype(dtype)
    all_four = jax.jit(lambda x: jnp.stack([jd.derivative(row[0], n, method=method)(x) for row in FUNCTIONS]))
    values = np.asarray(all_four(x), np.float64)
    exact = np.array([row[n](x.astype(np.float64)) for row in FUNCTIONS])
    return np.abs(values - exact) / np.abs(exact)


@pytest.mark.core
@pytest.mark.parametrize(
    ("dtype", "kind", "order", "n", "best"),
    [
        ("float64", "forward", 1, 1, 1.4e-8),
        ("float64", "central", 2, 1, 7e-12),
        ("float64", "central", 4, 1, 1.2e-13),
        ("float64", "central", 2, 2, 5e-9),
        ("float32", "forward", 1, 1, 3e-4),
        ("float32", "central", 2, 1, 6e-6),
        ("float32", "central", 4, 1, 1.1e-6),
        ("float32", "central", 2, 2, 1.1e-4),
    ],
)
def test_default_step_is_within_three_times_of_the_best_possible(dtype: str, kind: str, order: int, n: int, best: float) -> None:
    assert np.median(errors(jd.FiniteDifference(kind=kind, order=order), n, dtype)) <= 3 * best


@pytest.mark.parametrize(
    ("kind", "order", "n"),
    [("forward", 1, 1), ("backward", 2, 1), ("central", 2, 1), ("central", 4, 1), ("central", 2, 2), ("forward", 2, 2), ("central", 2, 3)],
)
def test_error_shrinks_as_step_to_the_order(kind: str, order: int, n: int) -> None:
    """Halving a step that is large enough for rounding not to matter divides the error by 2^order."""
    method = jd.FiniteDifference(kind=kind, order=order)
    x, steps = jnp.asarray([0.3, 0.7, 1.9, 2.6]), jnp.asarray([2.0**-4, 2.0**-5, 2.0**-6])

    def error(step: jax.Array) -> jax.Array:
        # exp, whose derivatives are all itself.
        return jd.derivative(jnp.exp, n, method=dataclasses.replace(method, step=step))(x) - jnp.exp(x)

    each = np.asarray(jax.jit(jax.vmap(error))(steps))
    np.testing.assert_allclose(np.log2(np.abs(each[:-1] / each[1:])), order, atol=0.12)


def test_central_difference_error_shrinks_as_h_squared() -> None:
    """And its size is the truncation constant times f''' h^2: for sin at 1, cos(1) / 6 h^2."""
    h = 2.0**-8
    error = float(jd.derivative(jnp.sin, method=jd.FiniteDifference(step=h))(1.0)) - np.cos(1.0)
    assert error == pytest.approx(-np.cos(1.0) * h**2 / 6, rel=1e-4)


@pytest.mark.parametrize("kind", ["forward", "backward", "central"])
@pytest.mark.parametrize(("order", "n"), [(2, 1), (4, 1), (2, 2), (4, 3)])
def test_polynomials_below_the_order_are_differentiated_to_rounding(kind: str, order: int, n: int, dtype: str) -> None:
    """With dyadic points, steps and coefficients no operation rounds by more than the last bits: what is left is rounding of the
    weights."""
    degree = order + n - 1
    coefficients = jnp.asarray(np.random.default_rng(degree).integers(-3, 4, degree + 1), dtype)
    method = jd.FiniteDifference(kind=kind, order=order, step=0.25)
    x = jnp.asarray([-1.0, 0.0, 0.5, 1.25], dtype)
    exact = np.polyval(np.polyder(np.asarray(coefficients, np.float64), n), np.asarray(x, np.float64))
    ours = jd.derivative(lambda x, c: jnp.polyval(c, x), n, method=method)(x, coefficients)
    np.testing.assert_allclose(ours, exact, atol=3000 * float(jnp.finfo(dtype).eps) * 4**n)


@settings(deadline=None, max_examples=30)
@given(st.floats(-5, 5), st.floats(-3, 3), st.floats(-3, 3))
def test_derivative_is_linear_in_f(x: float, a: float, b: float) -> None:
    slopes = _SLOPES(x, a, b)
    scale = 1 + abs(a) + abs(b)
    assert abs(slopes[2] - (a * slopes[0] + b * slopes[1])) <= 1e-9 * scale * np.exp(abs(x))


def _combination(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    return a * jnp.sin(x) + b * jnp.cosh(x)


@jax.jit
def _SLOPES(x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    slope = jd.derivative(_combination, method=Central2)
    return jnp.stack([slope(x, 1.0, 0.0), slope(x, 0.0, 1.0), slope(x, a, b)])


# Naive forms, each of which somebody has shipped, and each of which fails what ours passes.


def test_forward_difference_in_float32_is_not_taken_with_1e_minus_7() -> None:
    x = jnp.asarray(np.random.default_rng(2).uniform(0.5, 2, 64), "float32")
    exact = np.cos(np.asarray(x, np.float64))
    naive = (jnp.sin(x + 1e-7) - jnp.sin(x)) / jnp.float32(1e-7)
    ours = jd.derivative(jnp.sin, method=jd.FiniteDifference(kind="forward", order=1))(x)
    allowed = 2e-3
    assert np.max(np.abs(ours - exact)) < allowed
    assert np.median(np.abs(naive - exact)) > 10 * allowed


def test_second_derivative_is_not_taken_with_1e_minus_7() -> None:
    x = jnp.asarray(np.random.default_rng(3).uniform(0.5, 2, 64))
    h = 1e-7
    naive = (jnp.exp(x + h) - 2 * jnp.exp(x) + jnp.exp(x - h)) / h**2
    ours = jd.derivative(jnp.exp, 2, method=Central2)(x)
    assert np.max(np.abs(ours / jnp.exp(x) - 1)) < 1e-7
    assert np.median(np.abs(naive / jnp.exp(x) - 1)) > 1e-3


def rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosenbrock_hessian(x: np.ndarray) -> np.ndarray:
    """By hand, for two parameters."""
    return np.array([[1200 * x[0] ** 2 - 400 * x[1] + 2, -400 * x[0]], [-400 * x[0], 200.0]])


@pytest.mark.core
@pytest.mark.parametrize(("hessian_from", "order", "allowed"), [("gradients", 2, 1e-9), ("values", 2, 1e-6), ("values", 4, 1e-8)])
def test_hessian_is_not_taken_from_values_with_1e_minus_7(hessian_from: str, order: int, allowed: float) -> None:
    x = np.array([-1.2, 1.0])
    exact = rosenbrock_hessian(x)
    ours = jd.hessian(rosenbrock, method=jd.FiniteDifference(order=order, hessian_from=hessian_from))(jnp.asarray(x))
    assert np.max(np.abs(ours - exact)) < allowed * np.max(np.abs(exact))
    np.testing.assert_array_equal(ours, ours.T)
    eps, unit = 1e-7, np.eye(2)
    f = lambda x: float(rosenbrock(jnp.asarray(x)))  # noqa: E731
    naive = [[(f(x + eps * (a + b)) - f(x + eps * a) - f(x + eps * b) + f(x)) / eps**2 for a in unit] for b in unit]
    assert np.max(np.abs(naive - exact)) > 1e-4 * np.max(np.abs(exact))


def test_hessian_of_gradients_is_a_thousand_times_better_than_of_values() -> None:
    x = jnp.asarray([0.3, 0.8, -0.4])
    f = lambda x: jnp.sum(jnp.exp(x)) * jnp.sin(x[0])  # noqa: E731
    exact = jax.jit(jax.hessian(f))(x)
    of = {way: np.max(np.abs(jd.hessian(f, method=jd.FiniteDifference(hessian_from=way))(x) - exact)) for way in ("gradients", "values")}
    assert 0 < of["gradients"] < 1e-3 * of["values"] < 1e-3 * 1e-6


# Trees, batches, chunks, dtypes.


def tree_function(x: dict, scale: jax.Array) -> jax.Array:
    return scale * jnp.sum(jnp.sin(x["a"]) * x["b"][0]) + jnp.sum(x["b"][1] ** 3)


TREE = {"a": jnp.asarray([[0.1, 0.7], [1.1, -0.5]]), "b": (jnp.asarray(1.5), jnp.asarray([0.3, -0.2]))}


def tree_outputs(x: dict) -> dict:
    return {"s": jnp.sin(x["a"]), "t": (x["b"][0] * x["b"][1], x["b"][0])}


@functools.cache
def tree_references() -> tuple:
    direction = jax.tree.map(lambda leaf: jnp.ones_like(leaf) / 2, TREE)
    scaled = lambda x: tree_function(x, 2.0)  # noqa: E731

    @jax.jit
    def references(x: dict) -> tuple:
        along = jax.jvp(tree_outputs, (x,), (direction,))[1]
        product = jax.jvp(jax.grad(scaled), (x,), (direction,))[1]
        return jax.grad(scaled)(x), jax.hessian(scaled)(x), jax.jacfwd(tree_outputs)(x), along, product

    return direction, references(TREE)


@pytest.mark.parametrize("kind", ["forward", "central"])
def test_trees_come_back_as_trees_in_the_form_of_jax(kind: str) -> None:
    method = jd.FiniteDifference(kind=kind, order=4)
    direction, references = tree_references()
    ours = (
        jd.gradient(tree_function, method=method)(TREE, 2.0),
        jd.hessian(tree_function, method=method)(TREE, 2.0),
        jd.jacobian(tree_outputs, method=method)(TREE),
        jd.directional_derivative(tree_outputs, TREE, direction, method=method),
        jd.hvp(tree_function, TREE, direction, 2.0, method=method),
    )
    assert jax.tree.structure(ours) == jax.tree.structure(references)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), ours) == jax.tree.map(lambda a: (a.shape, a.dtype), references)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8), ours, references)


def test_hvp_of_values_equals_the_hessian_times_v() -> None:
    method = jd.FiniteDifference(order=4, hessian_from="values")
    x, v = jnp.asarray([0.4, -0.3, 1.2]), jnp.asarray([1.0, -2.0, 0.5])
    f = lambda x: jnp.sin(x[0] * x[1]) + jnp.exp(x[2]) * x[0]  # noqa: E731
    np.testing.assert_allclose(jd.hvp(f, x, v, method=method), jax.hessian(f)(x) @ v, rtol=1e-7)
    bounded = dataclasses.replace(method, bounds=(jnp.asarray([0.4, -1.0, 1.0]), 1.25))
    np.testing.assert_allclose(jd.hvp(f, x, v, method=bounded), jax.hessian(f)(x) @ v, rtol=1e-4)


def test_directions_of_any_length_are_as_accurate() -> None:
    x, v = jnp.asarray([0.4, -0.3, 1.2]), jnp.asarray([1.0, -2.0, 0.0])
    f = lambda x: jnp.sin(x[0] * x[1]) + jnp.exp(x[2])  # noqa: E731
    exact = jnp.vdot(jax.grad(f)(x), v)
    for length in (1e-150, 1e-6, 1.0, 1e6, 1e150):
        along = jd.directional_derivative(f, x, v * length, method=Central2)
        assert float(along / length) == pytest.approx(float(exact), rel=1e-9)
    assert float(jd.directional_derivative(f, x, jnp.zeros(3), method=Central2)) == 0


@pytest.mark.parametrize("indices", [(0,), (1, 1), (0, 1), (1, 0, 2), (0, 0, 1, 1), (-1, 2)])
@pytest.mark.parametrize("kind", ["forward", "central"])
def test_mixed_partials_of_any_order(indices: tuple[int, ...], kind: str) -> None:
    """F = exp(a . x): every partial is a product of coefficients times f."""
    a, x = np.array([0.5, -1.0, 2.0]), jnp.asarray([0.2, 0.1, -0.3])
    exact = np.prod(a[list(indices)]) * np.exp(a @ np.asarray(x))
    partial = jd.partial(lambda x, a: jnp.exp(a @ x), *indices, method=jd.FiniteDifference(kind=kind, order=4))
    assert float(partial(x, jnp.asarray(a))) == pytest.approx(exact, rel=[1e-10, 1e-8, 1e-6, 1e-4][len(indices) - 1])


@functools.cache
def in_chunks(chunk_size: int | None) -> tuple:
    """A gradient, both Hessians and derivatives at points, at most so many at a time."""
    x = jnp.linspace(-1.0, 1.0, 5)
    methods = {way: jd.FiniteDifference(chunk_size=chunk_size, hessian_from=way) for way in ("gradients", "values")}

    @jax.jit
    def everything(x: jax.Array) -> tuple:
        gradient = jd.gradient(rosenbrock, method=methods["values"])(x)
        hessians = [jd.hessian(rosenbrock, method=methods[way])(x) for way in methods]
        return gradient, *hessians, jd.derivative(jnp.sin, method=methods["values"])(x)

    return everything(x)


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_chunks_change_memory_and_not_the_result(chunk_size: int) -> None:
    for chunked, whole, allowed in zip(in_chunks(chunk_size), in_chunks(None), (1e-9, 1e-8, 1e-4, 1e-9), strict=True):
        np.testing.assert_allclose(chunked, whole, atol=allowed)


def test_chunked_gradient_holds_a_chunk_and_not_the_whole() -> None:
    """2,000 coordinates: all perturbed points at once would be 64 MB; in chunks of 50 the program needs a small part of that."""
    x = jnp.ones(2000)

    def memory(chunk_size: int) -> int:
        gradient = jd.gradient(lambda x: jnp.sum(jnp.sin(x) * x[::-1]), method=jd.FiniteDifference(chunk_size=chunk_size))
        return jax.jit(gradient).lower(x).compile().memory_analysis().temp_size_in_bytes

    assert memory(50) < 8 * 2000 * 2 * 50 * 4 < memory(2000)


@pytest.mark.core
@pytest.mark.parametrize(("dtype", "allowed"), [("float16", 1e-2), ("bfloat16", 6e-2), ("float32", 3e-5), ("float64", 1e-10)])
def test_every_precision_stays_itself(dtype: str, allowed: float) -> None:
    x = jnp.asarray([0.25, 0.75, 1.5], dtype)
    f = lambda x: jnp.sum(jnp.sin(x)) + 0.5 * x[0] * x[1]  # noqa: E731
    exact = jax.grad(f)(x.astype("float64"))
    value, gradient = jd.value_and_gradient(f, method=Central2)(x)
    assert value.dtype == gradient.dtype == x.dtype
    np.testing.assert_allclose(gradient.astype("float64"), exact, atol=allowed)
    slope = jd.derivative(jnp.sin, method=Central2)(x)
    assert slope.dtype == x.dtype
    np.testing.assert_allclose(slope.astype("float64"), jnp.cos(x.astype("float64")), atol=allowed)
    hessian = jd.hessian(f, method=jd.FiniteDifference(hessian_from="values"))(x)
    assert hessian.dtype == x.dtype
    np.testing.assert_allclose(hessian.astype("float64"), jax.hessian(f)(x.astype("float64")), atol=max(30 * allowed, 1e-7))


def test_leaves_of_different_precision_each_take_their_own_step() -> None:
    x = {"half": jnp.asarray([0.5, 1.5], "float16"), "double": jnp.asarray([0.3], "float64")}
    f = lambda x: jnp.sum(jnp.sin(x["half"].astype("float64"))) + jnp.sin(x["double"][0])  # noqa: E731
    ours = jd.gradient(f, method=Central2)(x)
    assert ours["half"].dtype == jnp.float16
    np.testing.assert_allclose(ours["half"].astype("float64"), np.cos([0.5, 1.5]), atol=3e-3)
    np.testing.assert_allclose(ours["double"], np.cos([0.3]), rtol=1e-9)


def test_a_function_that_computes_in_lower_precision_gets_the_step_of_that_precision() -> None:
    """X is float64, f float32: a step for float64 would see nothing but rounding."""
    x = jnp.asarray([0.3, 1.1])
    f = lambda x: jnp.sum(jnp.sin(x.astype("float32")))  # noqa: E731
    ours = jd.gradient(f, method=Central2)(x)
    assert ours.dtype == jnp.float64
    np.testing.assert_allclose(ours, np.cos([0.3, 1.1]), atol=1e-4)


def test_one_vmapped_and_jitted_agree() -> None:
    gradient = jd.gradient(rosenbrock, method=Central2)
    points = jnp.asarray(np.random.default_rng(4).uniform(-1, 1, (5, 3)))
    one_by_one = jnp.stack([gradient(x) for x in points])
    np.testing.assert_allclose(jax.vmap(gradient)(points), one_by_one, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.vmap(gradient, in_axes=-1, out_axes=-1))(points.T).T, one_by_one, rtol=1e-9, atol=1e-9)


def test_derivative_takes_points_of_any_shape_and_shares_the_other_arguments() -> None:
    x = jnp.linspace(0.1, 1.0, 6).reshape(1, 3, 2)
    slopes = jd.derivative(lambda x, a: jnp.sum(a) * jnp.sin(x), method=Central2)(x, jnp.asarray([1.0, 2.0]))
    np.testing.assert_allclose(slopes, 3 * jnp.cos(x), rtol=1e-9)
    assert jd.derivative(jnp.sin, method=Central2)(jnp.zeros((0, 3))).shape == (0, 3)
    np.testing.assert_allclose(jd.derivative(jnp.sin, method=Central2)([0, 1]), np.cos([0, 1]), rtol=1e-9)


def test_finite_differences_may_be_differentiated() -> None:
    """By autodiff, with the step held: f'' as the autodiff of a difference; in a while_loop; under grad of a batch."""
    slope = jd.derivative(jnp.sin, method=Central2)
    assert float(jax.grad(slope)(0.7)) == pytest.approx(-np.sin(0.7), rel=1e-9)
    gradient = jd.gradient(lambda x, a: jnp.sum(a * x**2), method=Central2)
    batch = jax.grad(lambda a: jnp.sum(jax.vmap(gradient, (0, None))(jnp.ones((3, 2)), a)))(jnp.asarray([1.0, 2.0]))
    np.testing.assert_allclose(batch, [6.0, 6.0], rtol=1e-9)
    descend = lambda x: x - 0.25 * gradient(x, jnp.ones(2))  # noqa: E731
    found = jax.jit(lambda x: jax.lax.while_loop(lambda x: jnp.sum(x**2) > 1e-12, descend, x))(jnp.asarray([3.0, -2.0]))
    np.testing.assert_allclose(found, 0, atol=1e-6)


# The method as an object.


def test_methods_are_hashable_by_content() -> None:
    make = lambda value: jd.FiniteDifference(step=np.array([value, 1.0]), bounds=(np.zeros(2), None))  # noqa: E731
    assert make(0.5) == make(0.5)
    assert hash(make(0.5)) == hash(make(0.5))
    assert make(0.5) != make(0.25)
    assert jd.FiniteDifference() != jd.Autodiff()
    assert len({jd.FiniteDifference(), jd.FiniteDifference(order=4), jd.FiniteDifference(), jd.Autodiff(), jd.Autodiff()}) == 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        jd.FiniteDifference().order = 4  # type: ignore[misc]


def test_flattened_method_speaks_of_the_flat_vector() -> None:
    lower = jax.tree.map(lambda leaf: leaf, TREE)
    method = jd.FiniteDifference(bounds=(lower, None), step=jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e-4), TREE))
    flat, unravel = jax.flatten_util.ravel_pytree(TREE)
    guarded = lambda x: jnp.where(jnp.any(x < flat), jnp.nan, tree_function(unravel(x), 1.0))  # noqa: E731
    ours = jd.gradient(guarded, method=method.flattened(TREE))(flat)
    np.testing.assert_allclose(ours, jax.grad(lambda x: tree_function(unravel(x), 1.0))(flat), rtol=1e-5)


def test_method_is_a_static_argument_or_a_pytree() -> None:
    def slope(x, method):
        return jd.derivative(jnp.sin, method=method)(x)

    static = jax.jit(slope, static_argnums=1)
    for step in (1e-3, 1e-4):
        assert float(static(1.0, jd.FiniteDifference(step=step))) == pytest.approx(np.cos(1.0), rel=step)
    assert static._cache_size() == 2
    as_data = jax.jit(lambda x, method: slope(x, method))
    for step in (1e-3, 1e-4):
        assert float(as_data(1.0, jd.FiniteDifference(step=step))) == pytest.approx(np.cos(1.0), rel=step)
    assert as_data._cache_size() == 1


def test_second_call_compiles_nothing() -> None:
    """Nor does another step, other data, or another float; a new function does."""
    traces = []

    def f(x: jax.Array, a) -> jax.Array:
        traces.append(1)
        return jnp.sum(a * x**2)

    for step, a in ((1e-3, 1.0), (1e-4, 2.0), (1e-5, 3.0)):
        gradient = jd.gradient(f, method=jd.FiniteDifference(step=step))(jnp.ones(3), a)
        np.testing.assert_allclose(gradient, 2 * a * np.ones(3), rtol=1e-6)
        seen = len(traces) if step == 1e-3 else seen
    assert len(traces) == seen > 0


def test_arguments_that_are_not_arrays_stay_what_they_are() -> None:
    """A flag, a word, a count: f may branch on them, as under jax.grad."""

    def f(x: jax.Array, power: int, flag: bool, *, name: str) -> jax.Array:
        total = sum(x[i] ** power for i in range(power)) if flag else jnp.sum(x)
        return {"one": 1.0, "two": 2.0}[name] * total

    gradient = jd.gradient(f, method=Central2)
    x = jnp.asarray([1.0, 2.0, 3.0])
    np.testing.assert_allclose(gradient(x, 2, True, name="two"), [4.0, 8.0, 0.0], atol=1e-8)
    np.testing.assert_allclose(gradient(x, 1, True, name="one"), [1.0, 0.0, 0.0], atol=1e-8)
    np.testing.assert_allclose(gradient(x, 1, False, name="one"), [1.0, 1.0, 1.0], atol=1e-8)


def test_what_is_compiled_lives_no_longer_than_the_function() -> None:
    def make():
        return lambda x: jnp.sum(x**2)

    f = make()
    jd.gradient(f, method=Central2)(jnp.ones(2))
    alive = weakref.ref(f)
    del f
    gc.collect()
    assert alive() is None


def test_unhashable_functions_work_too() -> None:
    @dataclasses.dataclass
    class Scaled:
        scale: float

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.scale * jnp.sum(x**2)

    f = Scaled(3.0)
    np.testing.assert_allclose(jd.gradient(f, method=Central2)(jnp.ones(2)), [6.0, 6.0], rtol=1e-9)
    f.scale = 4.0
    np.testing.assert_allclose(jd.gradient(f, method=Central2)(jnp.ones(2)), [8.0, 8.0], rtol=1e-9)


@pytest.mark.parametrize(
    ("method", "n", "count"),
    [
        (jd.FiniteDifference(), 3, 7),
        (jd.FiniteDifference(kind="forward", order=1), 3, 4),
        (jd.FiniteDifference(order=4), 3, 13),
        (jd.FiniteDifference(kind="backward", order=2), 3, 7),
        (jd.FiniteDifference(bounds=(0.0, None)), 3, 7),
        (jd.Autodiff(), 3, 1),
    ],
    ids=str,
)
def test_evaluations_are_counted_as_they_happen(method, n: int, count: int) -> None:
    calls = []

    def f(x: np.ndarray) -> np.ndarray:
        calls.append(x)
        return np.sum(x**2)

    def counted(x: jax.Array) -> jax.Array:
        return jax.pure_callback(f, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")

    assert method.num_evaluations(n) == count
    assert method.is_exact == isinstance(method, jd.Autodiff)
    if not method.is_exact:
        gradient = jd.gradient(counted, method=method)(jnp.arange(1.0, n + 1))
        np.testing.assert_allclose(gradient, 2 * np.arange(1.0, n + 1), rtol=1e-6)
        assert len(calls) == count


def test_function_behind_a_callback_has_a_hessian_of_values() -> None:
    """What autodiff cannot pass: the user's simulator."""

    def f(x: jax.Array) -> jax.Array:
        return jax.pure_callback(lambda x: np.sum(np.asarray(x) ** 3), jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")

    hessian = jd.hessian(f, method=jd.FiniteDifference(hessian_from="values"))(jnp.asarray([1.0, 2.0]))
    np.testing.assert_allclose(hessian, [[6.0, 0.0], [0.0, 12.0]], atol=1e-5)
