"""The complex step: right to the last bits where f is holomorphic, refused by name where it is not."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.derivatives.complex_step import ComplexStep

STEP = ComplexStep()

# Each with its definition in mpmath; points where f and its derivatives are far from a root.
FUNCTIONS: dict[str, tuple[Callable, Callable]] = {
    "sin_exp": (lambda x: jnp.sin(x) * jnp.exp(-x / 2), lambda x: mp.sin(x) * mp.exp(-x / 2)),
    "log": (jnp.log, mp.log),
    "sqrt_of_sum": (lambda x: jnp.sqrt(x * x + 1) * (1 + x), lambda x: mp.sqrt(x * x + 1) * (1 + x)),
    "power": (lambda x: x**1.75 + x**3, lambda x: x ** mp.mpf(1.75) + x**3),
    "tanh": (jnp.tanh, mp.tanh),
    "arctan": (jnp.arctan, mp.atan),
    # Of Squire and Trapp.
    "squire": (
        lambda x: jnp.exp(x) / jnp.sqrt(jnp.sin(x) ** 3 + jnp.cos(x) ** 3),
        lambda x: mp.exp(x) / mp.sqrt(mp.sin(x) ** 3 + mp.cos(x) ** 3),
    ),
}


def test_derivatives_are_within_a_few_ulp_of_mpmath(dtype: str) -> None:
    x = np.array([0.3, 0.71, 1.25, 1.9, 2.2]).astype(dtype)
    both = jax.jit(lambda x: {key: [jd.derivative(f, n, method=STEP)(x) for n in (1, 2)] for key, (f, _) in FUNCTIONS.items()})(x)
    for name, (_, exact) in FUNCTIONS.items():
        for n, values in enumerate(both[name], start=1):
            assert values.dtype == dtype
            with mp.workdps(50):
                references = np.array([float(mp.diff(exact, mp.mpf(float(point)), n)) for point in x])
            # The rounding of f's own terms; 3 eps is the worst seen for the first derivative, 38 for the second (autodiff's rules in it).
            bound = {1: 8, 2: 64}[n] * np.finfo(dtype).eps
            np.testing.assert_allclose(np.asarray(values, np.float64), references, rtol=bound, err_msg=f"{name}, derivative {n}")


def test_step_follows_x_down_to_tiny_numbers(dtype: str) -> None:
    x = np.array([1e-30, 1e-20, 1e-6, 1.0, 1e10]).astype(dtype)
    slopes = jd.derivative(jnp.log, method=STEP)(x)
    np.testing.assert_allclose(slopes, 1 / x, rtol=4 * np.finfo(dtype).eps)


def test_differences_lose_what_the_complex_step_keeps() -> None:
    exact = np.cos(1.0)
    by_difference = abs(float(jd.derivative(jnp.sin, method=jd.FiniteDifference())(1.0)) - exact)
    assert by_difference > 1e-13
    assert abs(float(jd.derivative(jnp.sin, method=STEP)(1.0)) - exact) <= 2e-16


def test_containers_have_the_form_of_autodiff() -> None:
    def f(x: dict) -> jax.Array:
        return jnp.sum(jnp.sin(x["a"]) ** 2) * jnp.exp(x["b"]) + jnp.dot(x["a"], x["a"]) * x["b"] ** 2

    x = {"a": jnp.array([0.3, -0.8, 1.1]), "b": jnp.float64(0.4)}
    v = {"a": jnp.array([1.0, -2.0, 0.0]), "b": jnp.float64(0.5)}
    residuals = lambda x: {"r": jnp.outer(x["a"], jnp.cos(x["a"])) * x["b"]}  # noqa: E731

    def all_of(method: object) -> list:
        return [
            jd.value_and_gradient(f, method=method)(x),
            jd.hessian(f, method=method)(x),
            jd.hvp(f, x, v, method=method),
            jd.directional_derivative(residuals, x, v, method=method),
            jd.jacobian(residuals, method=method)(x),
        ]

    got, expected = jax.jit(lambda: (all_of(STEP), all_of(jd.Autodiff())))()
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14), got, expected)
    partials = [jd.partial(lambda x: jnp.sin(x[0] * x[1]), *which, method=STEP)(jnp.array([0.5, 2.0])) for which in ((1,), (0, 1))]
    np.testing.assert_allclose(partials, [0.5 * np.cos(1.0), np.cos(1.0) - np.sin(1.0)], rtol=1e-15)


def test_loops_and_branches_are_passed_through() -> None:
    def f(x: jax.Array) -> jax.Array:
        power = jax.lax.fori_loop(0, 3, lambda i, y: y * jnp.sin(x), jnp.ones_like(x))
        return jax.lax.cond(jnp.asarray(True), lambda: power, lambda: 2 * power)

    exact = 3 * np.sin(0.7) ** 2 * np.cos(0.7)
    assert float(jd.derivative(f, method=STEP)(0.7)) == pytest.approx(exact, rel=1e-15)


def test_what_only_moves_numbers_is_passed_through() -> None:
    def f(x: jax.Array) -> jax.Array:
        first, second, third = jnp.unstack(jnp.stack([x[2] ** 2, x[0] * x[1], x[1]]))
        return jnp.sum(jnp.tile(first * second, (3,))) + jnp.polyval(jnp.array([2.0, 0.0, 1.0]), third)

    x, y, z = point = np.array([0.4, -1.3, 2.0])
    exact = [3 * z**2 * y, 3 * z**2 * x + 4 * y, 6 * z * x * y]
    np.testing.assert_allclose(jd.gradient(f, method=STEP)(jnp.asarray(point)), exact, rtol=1e-14)


@jax.custom_jvp
def _hidden_abs(x: jax.Array) -> jax.Array:
    return jnp.abs(x)


_hidden_abs.defjvps(lambda tangent, _, x: tangent)

NOT_HOLOMORPHIC = {
    "abs": (lambda x: jnp.sum(jnp.abs(x)), "abs"),
    "max": (lambda x: jnp.max(x), "max"),
    "maximum": (lambda x: jnp.sum(jnp.maximum(x, 0.1)), "max"),
    "min": (lambda x: jnp.min(x), "min"),
    "relu": (lambda x: jnp.sum(jax.nn.relu(x)), "max"),
    "conj": (lambda x: jnp.sum(jnp.conj(x) * x).real, "conj|real"),
    "real": (lambda x: jnp.sum(jnp.real(x)), "real"),
    "imag": (lambda x: jnp.sum(x + jnp.imag(x)), "imag"),
    "sign": (lambda x: jnp.sum(jnp.sign(x) * x), "sign"),
    "where": (lambda x: jnp.sum(jnp.where(x > 0, x, 2 * x)), "gt|real|lt"),
    "sort": (lambda x: jnp.sort(x)[0], "sort"),
    "argmax": (lambda x: x[jnp.argmax(x)], "argmax|real"),
    "norm": (lambda x: jnp.linalg.norm(x), "abs|real|conj|is_finite"),
    "cast": (
        lambda x: jnp.sum(jax.lax.convert_element_type_p.bind(x, new_dtype=np.dtype("float64"), weak_type=False, sharding=None)),
        "cast",
    ),
    "stop_gradient": (lambda x: jnp.sum(jax.lax.stop_gradient(x)), "stop_gradient"),
    "floor": (lambda x: jnp.sum(jnp.floor(x)), "complex|floor"),
    "in a custom rule": (lambda x: jnp.sum(_hidden_abs(x)), "abs"),
    "in jit": (lambda x: jax.jit(lambda y: jnp.sum(jnp.abs(y)))(x), "abs"),
    "in a scan": (lambda x: jax.lax.scan(lambda c, y: (c + jnp.abs(y), None), 0.0 * x[0], x)[0], "abs"),
    "in a branch": (lambda x: jax.lax.cond(jnp.asarray(False), lambda: jnp.abs(x[0]) * x[0], lambda: jnp.sum(x)), "abs"),
    "in a loop's condition": (lambda x: jax.lax.while_loop(lambda y: jnp.abs(y) < 9, lambda y: 2 * y, x[0]), "abs"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NOT_HOLOMORPHIC)
def test_what_is_not_holomorphic_is_refused_by_name(name: str) -> None:
    f, named = NOT_HOLOMORPHIC[name]
    with pytest.raises(TypeError, match=named):
        jd.gradient(f, method=STEP)(jnp.array([0.4, -1.3, 2.0]))


def test_where_f_has_no_value_it_has_no_derivative() -> None:
    x = jnp.array([-1.0, 1.0])
    np.testing.assert_array_equal(jd.derivative(jnp.log, method=STEP)(x), [np.nan, 1.0])
    assert np.isnan(jd.gradient(lambda x: jnp.sqrt(x[0]) + x[1], method=STEP)(x)).all()


@pytest.mark.parametrize("n", [3, 7])
def test_orders_above_two_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"n = {n}; expected 1 or 2"):
        jd.derivative(jnp.sin, n, method=STEP)(1.0)


def test_precision_of_x_is_kept_without_64_bits() -> None:
    with jax.enable_x64(False):
        gradient = jd.gradient(lambda x: jnp.sum(jnp.exp(x)), method=STEP)(jnp.array([0.5, 1.5]))
        half = jd.derivative(jnp.sin, method=STEP)(jnp.asarray(1.0, jnp.bfloat16))
    assert gradient.dtype == jnp.float32
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient, np.exp([0.5, 1.5]), rtol=4e-7)
