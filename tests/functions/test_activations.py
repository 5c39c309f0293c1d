"""Activations: values and derivatives against mpmath over the whole range, conventions at kinks, and what may come in."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from jaxdiff.functions.activations import ACTIVATIONS, softmax, softmax_derivative

SMOOTH = sorted(name for name, entry in ACTIVATIONS.items() if entry.is_elementwise and entry.is_smooth)
KINKED = sorted(name for name, entry in ACTIVATIONS.items() if entry.is_elementwise and not entry.is_smooth)
ELEMENTWISE = SMOOTH + KINKED


# --- references: written from the definitions, evaluated with 300 bits; mpmath's exp overflows its exponent only beyond any float. --------


def _s(x: mp.mpf) -> mp.mpf:
    return 1 / (1 + mp.exp(-x)) if abs(x) < 1e5 else mp.mpf(int(x > 0))


def _cdf(x: mp.mpf) -> mp.mpf:
    return mp.erfc(-x / mp.sqrt(2)) / 2 if abs(x) < 1e3 else mp.mpf(int(x > 0))


def _pdf(x: mp.mpf) -> mp.mpf:
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi) if abs(x) < 1e3 else mp.mpf(0)


def _z(x: mp.mpf) -> mp.mpf:
    return 2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)


def _z_slope(x: mp.mpf) -> mp.mpf:
    return 2 * mp.sqrt(2 / mp.pi) * (1 + 3 * mp.mpf("0.044715") * x**2)


def _sech2(x: mp.mpf) -> mp.mpf:
    return mp.sech(x) ** 2 if abs(x) < 1e4 else mp.mpf(0)


def _softplus(x: mp.mpf) -> mp.mpf:
    return mp.log1p(mp.exp(x)) if abs(x) < 1e4 else max(x, mp.mpf(0))


def _piecewise(left: Callable, right: Callable) -> Callable:
    return lambda x: right(x) if x > 0 else left(x)


ALPHA = mp.mpf("1.6732632423543772848170429916717")
SCALE = mp.mpf("1.0507009873554804934193349852946")
ONE = mp.mpf(1)
REFERENCES: dict[str, tuple[Callable, Callable]] = {
    "sigmoid": (_s, lambda x: _s(x) * _s(-x)),
    "tanh": (mp.tanh, _sech2),
    "elu": (_piecewise(mp.expm1, lambda x: x), _piecewise(mp.exp, lambda x: ONE)),
    "selu": (
        _piecewise(lambda x: SCALE * ALPHA * mp.expm1(x), lambda x: SCALE * x),
        _piecewise(lambda x: SCALE * ALPHA * mp.exp(x), lambda x: SCALE),
    ),
    "gelu": (lambda x: x * _cdf(x), lambda x: _cdf(x) + x * _pdf(x)),
    "gelu_tanh": (lambda x: x * _s(_z(x)), lambda x: _s(_z(x)) + x * _s(_z(x)) * _s(-_z(x)) * _z_slope(x)),
    "silu": (lambda x: x * _s(x), lambda x: _s(x) * (1 + x * _s(-x))),
    "softplus": (_softplus, _s),
    "log_sigmoid": (lambda x: -_softplus(-x), lambda x: _s(-x)),
    # The derivative by the chain rule, not by the documented formula.
    "mish": (lambda x: x * mp.tanh(_softplus(x)), lambda x: mp.tanh(_softplus(x)) + x * _sech2(_softplus(x)) * _s(x)),
    "softsign": (lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "relu": (_piecewise(lambda x: 0 * x, lambda x: x), _piecewise(lambda x: 0 * x, lambda x: ONE)),
    "leaky_relu": (_piecewise(lambda x: x / 100, lambda x: x), _piecewise(lambda x: ONE / 100, lambda x: ONE)),
    "hard_tanh": (lambda x: min(max(x, -ONE), ONE), lambda x: ONE * int(abs(x) < 1)),
    "hard_sigmoid": (lambda x: min(max(x + 3, 0 * ONE), 6 * ONE) / 6, lambda x: ONE / 6 * int(abs(x) < 3)),
}


def _ulps(got: np.ndarray, expected: list[mp.mpf], dtype: str) -> np.ndarray:
    """Error in units of the last place of the exact result; an error below the smallest normal number counts as none."""
    info = np.finfo(dtype)
    smallest = mp.mpf(float(info.smallest_normal))
    ulps = []
    for value, exact in zip(got.tolist(), expected, strict=True):
        error = abs(mp.mpf(value) - exact) if np.isfinite(value) else mp.inf
        unit = mp.mpf(2) ** (mp.floor(mp.log(max(abs(exact), smallest), 2)) - info.nmant)
        ulps.append(0.0 if error <= smallest else float(error / unit))
    return np.array(ulps)


def _points(dtype: str, count: int = 150) -> np.ndarray:
    """The whole range in magnitude, the region where exponentials live, and the neighbourhood of every root and of every seam."""
    rng = np.random.default_rng(20240)
    info = np.finfo(dtype)
    reach = 90.0 if dtype == "float32" else 750.0
    magnitudes = np.exp(rng.uniform(np.log(float(info.smallest_normal)), np.log(float(info.max) * 0.99), count // 5))
    tails = np.exp(rng.uniform(np.log(1e-3), np.log(reach), count))
    seams = [0.25, 0.45, 0.55, 0.75, 1.0, 1.3, 1.65, 2.0, 2.2, 64.0]
    roots = [0.7517915246935645, 0.7524614220710163, 1.2784645427610737, 1.1924312145154952]
    beside = np.array([0, 1, -1, 2, -3, 40, -100, 1e4, -1e5]) * float(info.eps) / 2
    near = np.concatenate([point + beside for point in seams + roots])
    x = np.concatenate([magnitudes, tails, rng.uniform(0, 14, count), near])
    # 0 and infinity are tested by themselves.
    return np.concatenate([x, -x]).astype(dtype)


@functools.cache
def _compiled(name: str) -> Callable:
    """Value, gradient and derivative in one program, shared by the tests, which all pass arrays of one length."""
    entry = ACTIVATIONS[name]
    return jax.jit(lambda v: (entry.value(v), jax.vmap(jax.grad(entry.value))(v), entry.derivative(v)))


# The largest error seen over 12,000 points per function and dtype, on CPU with jax 0.10.2, is 3.8 (gelu).
@pytest.mark.core
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_value_and_gradient_are_within_four_ulp_over_the_whole_range(name: str, dtype: str) -> None:
    x = _points(dtype)
    value, gradient, derivative = _compiled(name)(x)
    with mp.workprec(300):
        exact = [[f(mp.mpf(float(point))) for point in x] for f in REFERENCES[name]]
    assert value.dtype == gradient.dtype == derivative.dtype == dtype
    assert _ulps(np.asarray(value), exact[0], dtype).max() <= 4
    assert _ulps(np.asarray(gradient), exact[1], dtype).max() <= 4
    np.testing.assert_array_equal(gradient, derivative)


def test_naive_forms_fail_the_same_measure() -> None:
    x = np.array([-95.0, -12.0, 12.0, 40.0], np.float32)
    sigmoid, tanh = ACTIVATIONS["sigmoid"], ACTIVATIONS["tanh"]
    # A sigmoid that exponentiates -x overflows, and differentiating it gives inf / inf.
    naive_gradient = jax.vmap(jax.grad(lambda v: 1 / (1 + jnp.exp(-v))))(x)
    assert np.isnan(naive_gradient[0])
    assert np.all(np.isfinite(jax.vmap(jax.grad(sigmoid.value))(x)))
    # 1 - tanh^2 is zero or worse in the tails.
    exact = [REFERENCES["tanh"][1](mp.mpf(float(point))) for point in x]
    assert _ulps(1 - np.tanh(x) ** 2, exact, "float32").max() > 1e6
    assert _ulps(np.asarray(tanh.derivative(x)), exact, "float32").max() <= 4


@pytest.mark.parametrize("name", SMOOTH)
def test_second_derivative_follows_the_exact_one(name: str, dtype: str) -> None:
    x = np.concatenate([np.linspace(-6, 6, 49), [0.0, -1e-3, 1e-3]]).astype(dtype)
    x = x[(x != 0) | (name not in ("elu", "softsign"))]
    second = np.asarray(jax.jit(jax.vmap(jax.grad(jax.grad(ACTIVATIONS[name].value))))(x))
    with mp.workdps(40):
        h = mp.mpf(10) ** -12
        slope = REFERENCES[name][1]
        # Beside a jump of the second derivative (elu, softsign at zero) the step is far smaller than the distance.
        exact = np.array([float((slope(mp.mpf(float(p)) + h) - slope(mp.mpf(float(p)) - h)) / (2 * h)) for p in x])
    np.testing.assert_allclose(second, exact, rtol=64 * np.finfo(dtype).eps, atol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "gelu", "mish"])
def test_third_derivative_at_zero_is_not_lost_to_a_branch(name: str) -> None:
    f = ACTIVATIONS[name].value
    third = float(jax.grad(jax.grad(jax.grad(f)))(0.0))
    with mp.workdps(40):
        exact = float(mp.diff(REFERENCES[name][0], 0, 3, h=mp.mpf(10) ** -8))
    assert third == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_limits_at_infinity_are_finite_or_infinite_and_never_nan(name: str, dtype: str) -> None:
    x = _points(dtype)
    x[:5] = [np.inf, -np.inf, 1e30, -1e30, np.nan]
    value, gradient, derivative = (np.asarray(result, np.float64)[:5] for result in _compiled(name)(x))
    far = value[2:4]
    np.testing.assert_array_equal(value[:2], np.where(np.abs(far) < 1e20, far, np.copysign(np.inf, far)))
    np.testing.assert_allclose(derivative[:2], derivative[2:4], atol=1e-29)
    np.testing.assert_array_equal(gradient[:4], derivative[:4])
    assert np.isnan(value[4])
    assert np.isnan(derivative[4])


@pytest.mark.parametrize("name", KINKED)
def test_derivative_at_a_kink_is_the_documented_convention(name: str) -> None:
    entry = ACTIVATIONS[name]
    expected = {"relu": 0.0, "leaky_relu": 0.01, "hard_tanh": 0.0, "hard_sigmoid": 0.0, "selu": float(SCALE * ALPHA)}[name]
    assert entry.kink_convention
    for kink in entry.kinks:
        left, right = (float(REFERENCES[name][1](mp.mpf(kink) + side)) for side in (-1e-9, 1e-9))
        assert left != right
        assert float(entry.derivative(kink)) == pytest.approx(expected, rel=1e-15)
        assert float(jax.grad(entry.value)(kink)) == float(entry.derivative(kink))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_half_precision_is_the_float32_result_rounded_once(name: str) -> None:
    entry = ACTIVATIONS[name]
    for half, f in (("bfloat16", entry.value), ("float16", entry.derivative)):
        x = np.linspace(-8, 8, len(_points("float32"))).astype(half)
        result = f(x)
        assert result.dtype == half
        wide = np.asarray(_compiled(name)(x.astype("float32"))[0 if f is entry.value else 2])
        np.testing.assert_array_equal(np.asarray(result), wide.astype(half))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_vmap_jvp_and_vjp_agree(name: str) -> None:
    entry = ACTIVATIONS[name]
    x = np.linspace(-3.1, 3.3, 24, dtype=np.float32).reshape(4, 6)

    @jax.jit
    def every_way(x: jax.Array) -> tuple[jax.Array, ...]:
        value, tangent = jax.jvp(entry.value, (x,), (2 * jnp.ones_like(x),))
        (cotangent,) = jax.vjp(entry.value, x)[1](2 * jnp.ones_like(x))
        return value, jax.vmap(entry.value, in_axes=-1, out_axes=-1)(x), tangent, cotangent, 2 * entry.derivative(x)

    value, mapped, tangent, cotangent, expected = every_way(x)
    np.testing.assert_array_equal(mapped, value)
    np.testing.assert_array_equal(tangent, cotangent)
    np.testing.assert_array_equal(tangent, expected)


def test_parameters_do_not_widen_a_float32_input() -> None:
    x = jnp.float32(-0.3)
    wide = np.float64(0.2)
    for f in (ACTIVATIONS[name] for name in ("elu", "leaky_relu")):
        for g in (f.value, f.derivative):
            assert g(x).dtype == g(x, 0.2).dtype == g(x, wide).dtype == jnp.float32


def test_gradient_with_respect_to_a_slope_is_the_left_branch() -> None:
    assert float(jax.grad(ACTIVATIONS["leaky_relu"].value, argnums=1)(-3.0, 0.1)) == -3.0
    assert float(jax.grad(ACTIVATIONS["elu"].value, argnums=1)(-3.0, 0.1)) == pytest.approx(np.expm1(-3.0), rel=1e-15)
    assert float(jax.grad(ACTIVATIONS["elu"].value, argnums=1)(3.0, 0.1)) == 0.0


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("bad", ["abc", None, np.array([None]), np.array([True]), 1j, True], ids=repr)
def test_what_is_not_a_real_number_is_refused_by_name(name: str, bad: object) -> None:
    with pytest.raises(TypeError, match="x"):
        ACTIVATIONS[name].value(bad)


def test_integers_are_promoted() -> None:
    for name in ELEMENTWISE:
        np.testing.assert_array_equal(ACTIVATIONS[name].value(np.array([-1, 2])), ACTIVATIONS[name].value(np.array([-1.0, 2.0])))


# --- softmax ------------------------------------------------------------------------------------------------------------------------------


def _logits(dtype: str) -> np.ndarray:
    rng = np.random.default_rng(3)
    rows = [rng.normal(size=7) * scale for scale in (1e-3, 1, 5, 20, 40) for _ in range(8)]
    rows += [row + 1000 for row in rows[:24]]
    rows += [np.array([50.0, 0.1, -0.2, -20.3, 3, 7, -80]), np.array([0.0, 0, 0, 0, 0, 0, 0]), np.array([8.0, 8, -3, 8, 1, 1, 1])]
    return np.array(rows).astype(dtype)


def _exact_softmax(x: np.ndarray) -> tuple[list, list, list]:
    """Probabilities, log-probabilities and Jacobians of each row, without cancellation."""
    p, log_p, jacobian = [], [], []
    for row in x:
        row = [mp.mpf(float(v)) for v in row]
        e = [mp.exp(v) for v in row]
        total = mp.fsum(e)
        p += [v / total for v in e]
        log_p += [v - mp.log(total) for v in row]
        jacobian += [a * ((total - a) if i == j else -b) / total**2 for i, a in enumerate(e) for j, b in enumerate(e)]
    return p, log_p, jacobian


@pytest.mark.core
def test_softmax_and_log_softmax_are_within_four_ulp(dtype: str) -> None:
    x = _logits(dtype)
    with mp.workprec(600):
        p, log_p, jacobian = _exact_softmax(x)
    k = x.shape[-1]
    log_jacobian = [value / p[i // k] for i, value in enumerate(jacobian)]
    for name, value, slope in (("softmax", p, jacobian), ("log_softmax", log_p, log_jacobian)):
        entry = ACTIVATIONS[name]
        assert _ulps(np.asarray(entry.value(x)).ravel(), value, dtype).max() <= 4
        # An element of the softmax Jacobian is a product of two probabilities, each with the error of its sum of exponentials.
        bound = 6 if name == "softmax" else 4
        assert _ulps(np.asarray(entry.derivative(x)).ravel(), slope, dtype).max() <= bound
        for jacobian_of in (jax.jacfwd, jax.jacrev):
            automatic = np.asarray(jax.jit(jax.vmap(jacobian_of(entry.value)))(x))
            assert _ulps(automatic.ravel(), slope, dtype).max() <= bound


def test_softmax_without_the_shift_overflows_and_ours_does_not() -> None:
    x = np.array([1000.0, 999.0], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.all(np.isnan(np.exp(x) / np.exp(x).sum()))
    np.testing.assert_allclose(softmax(x), [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], rtol=1e-6)


def test_softmax_takes_any_axis_and_a_masked_class() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    np.testing.assert_array_equal(softmax(x, axis=1), np.moveaxis(softmax(np.moveaxis(x, 1, -1)), -1, 1))
    assert softmax_derivative(x, axis=1).shape == (3, 5, 4, 4)
    masked = softmax(np.array([0.0, -np.inf, 0.0]))
    np.testing.assert_array_equal(masked, [0.5, 0.0, 0.5])
    gradient = jax.grad(lambda v: ACTIVATIONS["log_softmax"].value(v)[0])(jnp.array([0.0, -jnp.inf, 0.0]))
    np.testing.assert_array_equal(gradient, [0.5, 0.0, -0.5])


@pytest.mark.parametrize("axis", [2, -3, True])
def test_an_axis_that_x_does_not_have_is_an_error(axis: int) -> None:
    with pytest.raises(ValueError, match="axis"):
        softmax(np.zeros((2, 3)), axis)


def test_softmax_second_derivatives_match_the_closed_form() -> None:
    x = jnp.array([0.3, -1.2, 2.0])
    hessian = jax.hessian(lambda v: softmax(v)[0])(x)
    p = np.asarray(softmax(x))
    eye = np.eye(3)
    # d^2 p_0 / dx_i dx_j = p_0 [(d_0i - p_i)(d_0j - p_j) - p_i (d_ij - p_j)]
    expected = p[0] * (np.outer(eye[0] - p, eye[0] - p) - np.diag(p) + np.outer(p, p))
    np.testing.assert_allclose(hessian, expected, rtol=1e-13, atol=1e-16)


def test_registry_is_complete_and_consistent() -> None:
    assert set(ACTIVATIONS) == {
        *("sigmoid", "relu", "tanh", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu", "softplus", "log_sigmoid", "mish"),
        *("softsign", "hard_tanh", "hard_sigmoid", "softmax", "log_softmax"),
    }
    for name, entry in ACTIVATIONS.items():
        assert entry.name == name
        assert all((entry.formula, entry.derivative_formula, entry.source))
        assert bool(entry.kinks) == bool(entry.kink_convention)


@pytest.mark.parametrize(
    ("name", "dtype", "points"),
    [
        # Where the first derivative, or the density in it, underflows and the second derivative does not.
        ("tanh", "float32", [-44.4, 44.4]),
        ("gelu", "float32", [-13.2, 13.2]),
        ("gelu_tanh", "float32", [-10.1, 10.1]),
        ("silu", "float32", [-89.0, 89.0]),
        ("mish", "float32", [44.5, -89.0]),
        # Where a power of it overflows.
        ("softsign", "float32", [-4.3e10, 4.3e10]),
        # Beside its roots; that of gelu is the square root of two.
        ("gelu", "float64", [-1.4153855499652228, 1.4142]),
        ("gelu_tanh", "float64", [1.4185, -1.4062]),
        ("silu", "float64", [2.3993572, -2.40088]),
        ("mish", "float64", [1.48988, -2.256376, 11.2]),
    ],
)
def test_second_derivative_keeps_its_digits_where_its_factors_do_not(name: str, dtype: str, points: list[float]) -> None:
    z = lambda x: 2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)  # noqa: E731
    exact = {
        "gelu_tanh": lambda x: mp.diff(lambda t: t / (1 + mp.exp(-z(t))), x, 2),
        "tanh": lambda x: -2 * mp.tanh(x) * mp.sech(x) ** 2,
        "silu": lambda x: mp.diff(lambda t: t / (1 + mp.exp(-t)), x, 2),
        "mish": lambda x: mp.diff(lambda t: t * mp.tanh(mp.log1p(mp.exp(t))), x, 2),
        "softsign": lambda x: -2 * mp.sign(x) / (1 + abs(x)) ** 3,
        "gelu": lambda x: (2 - x * x) * mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi),
    }[name]
    x = jnp.asarray(points, dtype)
    second = jax.vmap(jax.grad(jax.grad(ACTIVATIONS[name].value)))(x)
    with mp.workdps(200):
        expected = np.array([float(exact(mp.mpf(float(point)))) for point in x])
    assert np.all(np.abs(expected) > np.finfo(dtype).smallest_normal)
    np.testing.assert_allclose(second, expected, rtol=4 * np.finfo(dtype).eps)
