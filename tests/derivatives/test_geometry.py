"""Tangents, secants, level sets; and what a point of a function looks like, without a wrong answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxdiff as jd
from jaxdiff.derivatives import (
    PointKind,
    classify_point,
    direction_of_steepest_ascent,
    level_curve_tangent,
    level_surface_tangents,
    secants,
    tangent_line,
    tangent_plane,
)


def test_tangent_line_touches_and_departs_as_the_square() -> None:
    line = tangent_line(jnp.exp, 0.5)
    assert float(line(0.5)) == pytest.approx(np.exp(0.5))
    assert float(line.slope) == pytest.approx(np.exp(0.5))
    assert float(line.intercept) == pytest.approx(np.exp(0.5) * 0.5)
    h = np.array([1e-2, 1e-3])
    np.testing.assert_allclose((np.exp(0.5 + h) - line(0.5 + h)) / h**2, np.exp(0.5) / 2, rtol=1e-2)


@pytest.mark.parametrize("method", [jd.Autodiff(), jd.FiniteDifference()], ids=["autodiff", "finite"])
def test_tangent_plane_touches_and_its_normal_is_perpendicular(method) -> None:
    f = lambda x, a: a * jnp.sin(x[0]) * x[1] ** 2  # noqa: E731
    x = jnp.asarray([0.3, 1.2])
    plane = tangent_plane(f, x, 2.0, method=method)
    assert float(plane(x)) == pytest.approx(float(f(x, 2.0)))
    np.testing.assert_allclose(plane.gradient, [2 * np.cos(0.3) * 1.44, 2 * np.sin(0.3) * 2.4], rtol=1e-8)
    others = jnp.asarray([[1.0, 0.0], [0.3, -2.0]])
    along = jnp.concatenate([others - x, (plane(others) - plane.value)[:, None]], axis=1)
    np.testing.assert_allclose(along @ plane.normal, 0, atol=1e-12)
    assert float(jnp.linalg.norm(plane.normal)) == pytest.approx(1.0)


def test_secants_turn_into_the_tangent(dtype: str) -> None:
    """The error halves with the step: for exp at 0 it is (e^h - 1) / h - 1 = h / 2 + ..."""
    steps = 2.0 ** -np.arange(1.0, 8.0)
    lines = secants(jnp.exp, jnp.asarray(0.0, dtype), steps)
    assert lines.slopes.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(lines.slopes, np.expm1(steps) / steps, rtol=40 * float(jnp.finfo(dtype).eps) * 2**7)
    assert np.all(np.diff(lines.errors) < 0)
    assert float(lines.tangent) == 1.0
    np.testing.assert_allclose(lines(0.0), 1.0)
    assert lines(jnp.zeros(3)).shape == (7, 3)


def test_secants_divide_by_the_distance_really_taken() -> None:
    lines = secants(lambda x: x, jnp.float32(1e6), [0.1, -0.1])
    np.testing.assert_array_equal(lines.slopes, [1.0, 1.0])


COEFFICIENTS = st.lists(st.floats(-3, 3), min_size=5, max_size=5)


@jax.jit
def _level(c: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    def f(x: jax.Array, c: jax.Array) -> jax.Array:
        return c[0] * x[0] + c[1] * jnp.sin(x[1]) + c[2] * x[0] * x[1] + c[3] * jnp.exp(0.1 * x[0]) + c[4] * x[1] ** 2

    return level_curve_tangent(f, x, c), direction_of_steepest_ascent(f, x, c), jax.grad(f)(x, c)


@settings(deadline=None, max_examples=60)
@given(COEFFICIENTS, st.floats(-2, 2), st.floats(-2, 2))
def test_level_curve_is_perpendicular_to_the_gradient(c: list[float], x: float, y: float) -> None:
    tangent, up, gradient = (np.asarray(vector) for vector in _level(jnp.asarray(c), jnp.asarray([x, y])))
    if not np.any(gradient):
        np.testing.assert_array_equal(tangent, 0)
        np.testing.assert_array_equal(up, 0)
        return
    assert np.linalg.norm(tangent) == pytest.approx(1.0)
    assert np.linalg.norm(up) == pytest.approx(1.0)
    # By elements, since a gradient may be as small as the smallest numbers there are.
    unit = gradient / np.max(np.abs(gradient))
    assert abs(tangent @ unit) <= 1e-14
    assert up @ unit > 0
    assert up[0] * tangent[1] - up[1] * tangent[0] == pytest.approx(1.0), "a quarter turn to the left"


@pytest.mark.parametrize("gradient", [[1e-200, 1e-200], [1e200, -1e200], [0.0, 3.0], [-5e-324, 0.0]], ids=str)
def test_directions_neither_overflow_nor_vanish(gradient: list[float]) -> None:
    g = jnp.asarray(gradient)
    up = direction_of_steepest_ascent(lambda x: jnp.sum(g * x), jnp.ones(2))
    if abs(gradient[0]) == 5e-324:
        assert float(jnp.linalg.norm(up)) in (0.0, 1.0)  # denormal numbers may be flushed to zero
    else:
        np.testing.assert_allclose(up, np.array(gradient) / np.max(np.abs(gradient)) / np.sqrt(np.count_nonzero(gradient)), rtol=1e-15)


def test_direction_of_steepest_ascent_of_a_tree() -> None:
    up = direction_of_steepest_ascent(lambda x: 3 * x["a"] + 4 * x["b"][1], {"a": 1.0, "b": jnp.ones(2)})
    np.testing.assert_allclose(up["a"], 0.6)
    np.testing.assert_allclose(up["b"], [0.0, 0.8])


@pytest.mark.parametrize("n", [2, 3, 7])
def test_level_surface_basis_is_orthonormal_and_perpendicular_to_the_gradient(n: int, dtype: str) -> None:
    rng = np.random.default_rng(n)
    tangents = jax.jit(jax.vmap(lambda g: level_surface_tangents(lambda x, g: jnp.sum(g * x), jnp.zeros(n, dtype), g)))
    gradients = np.vstack([rng.normal(size=(20, n)), np.eye(n), -np.eye(n), 1e-30 * np.ones((1, n))]).astype(dtype)
    basis = tangents(jnp.asarray(gradients))
    assert basis.shape == (len(gradients), n - 1, n)
    allowed = 10 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        np.einsum("bin,bjn->bij", basis, basis), np.broadcast_to(np.eye(n - 1), (len(gradients), n - 1, n - 1)), atol=allowed
    )
    units = gradients / np.max(np.abs(gradients), axis=1, keepdims=True)
    np.testing.assert_allclose(np.einsum("bin,bn->bi", basis, units), 0, atol=allowed * n)
    np.testing.assert_array_equal(tangents(jnp.zeros((1, n), dtype)), np.zeros((1, n - 1, n)))


def test_wrong_points_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="expected one number"):
        tangent_line(jnp.sum, jnp.ones(2))
    with pytest.raises(ValueError, match="expected a vector of at least 1"):
        tangent_plane(jnp.sum, 1.0)
    with pytest.raises(ValueError, match=r"expected \(2,\); for more dimensions use level_surface_tangents"):
        level_curve_tangent(jnp.sum, jnp.ones(3))
    with pytest.raises(ValueError, match="at least 2"):
        level_surface_tangents(jnp.sum, jnp.ones(1))
    with pytest.raises(ValueError, match="expected a vector of distances"):
        secants(jnp.exp, 0.0, 0.1)


# What a point looks like.


def guarded(x: jax.Array) -> jax.Array:
    return jnp.where(x == 0, 1.0, x)


def at_zero(value: float, f) -> object:
    return lambda x: jnp.where(x == 0, value, f(guarded(x)))


WITH_LEFT_AND_RIGHT = {
    # name: function, point, verdict, left and right slope (None where there is none)
    "|x|": (jnp.abs, 0.0, "corner", -1.0, 1.0),
    "relu": (jax.nn.relu, 0.0, "corner", 0.0, 1.0),
    "small kink on sin": (lambda x: 1e-3 * jnp.abs(x) + jnp.sin(x), 0.0, "corner", 0.999, 1.001),
    "small kink on cos": (lambda x: 1e-3 * jnp.abs(x) + jnp.cos(x), 0.0, "corner", -0.001, 0.001),
    "kink on a steep slope": (lambda x: 1e3 * x + jnp.abs(x - 1), 1.0, "corner", 999.0, 1001.0),
    "kink far out": (lambda x: jnp.abs(x - 1e6), 1e6, "corner", -1.0, 1.0),
    "x |x|": (lambda x: x * jnp.abs(x), 0.0, "smooth", 0.0, 0.0),
    "|x|^1.5": (lambda x: jnp.abs(x) ** 1.5, 0.0, "smooth", 0.0, 0.0),
    "huber": (lambda x: jnp.where(jnp.abs(x) < 1, x * x / 2, jnp.abs(x) - 0.5), 1.0, "smooth", 1.0, 1.0),
    "exp(-1/x^2)": (at_zero(0.0, lambda x: jnp.exp(-1 / x**2)), 0.0, "smooth", 0.0, 0.0),
    "constant": (lambda x: 0 * x + 3, 1.0, "smooth", 0.0, 0.0),
    "line": (lambda x: 3 * x - 7, 1.5, "smooth", 3.0, 3.0),
    "floor between": (jnp.floor, 2.5, "smooth", 0.0, 0.0),
    "sin at its top": (jnp.sin, np.pi / 2, "smooth", 0.0, 0.0),
    "large curvature": (lambda x: 1e3 * x * x, 0.0, "smooth", 0.0, 0.0),
    "larger curvature, slope 1": (lambda x: 1e6 * x * x + x, 0.0, "smooth", 1.0, 1.0),
    "steep softplus": (lambda x: jax.nn.softplus(1000 * x) / 1000, 0.0, "smooth", 0.5, 0.5),
    "steep tanh": (lambda x: jnp.tanh(1e3 * x), 0.0, "smooth", 1000.0, 1000.0),
    "fast sine": (lambda x: jnp.sin(1000 * x), 0.0, "smooth", 1000.0, 1000.0),
    "sqrt|x|": (lambda x: jnp.sqrt(jnp.abs(x)), 0.0, "cusp", -np.inf, np.inf),
    "|x|^(2/3)": (lambda x: jnp.cbrt(x * x), 0.0, "cusp", -np.inf, np.inf),
    "|x| log|x|": (at_zero(0.0, lambda x: jnp.abs(x) * jnp.log(jnp.abs(x))), 0.0, "cusp", np.inf, -np.inf),
    "cbrt": (jnp.cbrt, 0.0, "vertical tangent", np.inf, np.inf),
    "x log|x|": (at_zero(0.0, lambda x: x * jnp.log(jnp.abs(x))), 0.0, "vertical tangent", -np.inf, -np.inf),
    "sqrt of the positive part": (lambda x: jnp.sqrt(jnp.maximum(x, 0)), 0.0, "vertical tangent", 0.0, np.inf),
    "sign": (jnp.sign, 0.0, "jump", None, None),
    "floor": (jnp.floor, 3.0, "jump", None, None),
    "half a step": (lambda x: jnp.where(x < 0, 0.0, jnp.where(x > 0, 1.0, 0.5)), 0.0, "jump", None, None),
    "small step on a slope": (lambda x: x + jnp.where(x < 1, 0, 1e-3), 1.0, "jump", None, None),
    "arctan(1/x)": (lambda x: jnp.arctan(1 / x), 0.0, "jump", None, None),
    "sin(x)/x": (lambda x: jnp.sin(x) / x, 0.0, "removable", None, None),
    "a point moved": (lambda x: jnp.where(x == 0, 1.0, jnp.cos(x) + 1), 0.0, "removable", None, None),
    "tan": (jnp.tan, np.pi / 2, "non-finite", None, None),
    "1/x": (lambda x: 1 / x, 0.0, "non-finite", None, None),
    "1/x^2": (lambda x: 1 / x**2, 0.0, "non-finite", None, None),
    "log at its edge": (jnp.log, 0.0, "non-finite", None, None),
    "sqrt at its edge": (jnp.sqrt, 0.0, "non-finite", None, None),
}
CONTINUOUS = {"smooth", "corner", "cusp", "vertical tangent"}


@pytest.mark.parametrize("name", WITH_LEFT_AND_RIGHT)
def test_points_are_what_they_are(name: str, dtype: str) -> None:
    f, x, kind, left, right = WITH_LEFT_AND_RIGHT[name]
    report = classify_point(f, jnp.asarray(x, dtype))
    assert str(report.kind) == kind
    assert report.is_continuous == (kind in CONTINUOUS)
    assert report.is_differentiable == (kind == "smooth")
    if left is not None:
        scale = max(abs(s) for s in (left, right, 1.0) if np.isfinite(s))
        allowed = scale * (1e-6 if dtype == "float64" else 2e-3)
        assert (report.left_slope, report.right_slope) == pytest.approx((left, right), abs=allowed)


@pytest.mark.parametrize(
    ("f", "x", "left", "right"),
    [
        (jnp.sign, 0.0, -1.0, 1.0),
        (jnp.floor, 3.0, 2.0, 3.0),
        (lambda x: jnp.arctan(1 / x), 0.0, -np.pi / 2, np.pi / 2),
        (lambda x: jnp.sin(x) / x, 0.0, 1.0, 1.0),
        (lambda x: jnp.where(x < 1, x**2, 4 - x), 1.0, 1.0, 3.0),
    ],
    ids=["sign", "floor", "arctan(1/x)", "sin(x)/x", "pieces"],
)
def test_limits_from_both_sides_are_evidence(f, x: float, left: float, right: float, dtype: str) -> None:
    report = classify_point(f, jnp.asarray(x, dtype))
    assert (report.left_limit, report.right_limit) == pytest.approx((left, right), abs=1e-12 if dtype == "float64" else 1e-5)


def noise(x: jax.Array) -> jax.Array:
    """Deterministic, of size one, without any continuity at the spacing of the points looked at."""
    bits = jax.lax.bitcast_convert_type(x.astype("float32") + jnp.float32(0.1) * jnp.sin(1e7 * x).astype("float32"), jnp.uint32)
    return ((bits * jnp.uint32(2654435761)) >> 8).astype(x.dtype) / 2**23 - 1


@pytest.mark.parametrize(
    ("f", "x", "allowed"),
    [
        # What cannot be told, or only just: any answer but a wrong one.
        (at_zero(0.0, lambda x: x**2 * jnp.sin(1 / x)), 0.0, {"smooth", "inconclusive"}),
        (at_zero(0.0, lambda x: x * jnp.sin(1 / x)), 0.0, {"inconclusive"}),
        (lambda x: jnp.sin(1 / x), 0.0, {"non-finite", "inconclusive"}),
        (lambda x: jnp.abs(x) ** 1.1, 0.0, {"smooth", "inconclusive"}),
        (lambda x: jnp.sin(x) + 1e-2 * noise(x), 0.4, {"inconclusive"}),
        (lambda x: jnp.round(jnp.sin(x) * 1e4) / 1e4, 0.4, {"smooth", "inconclusive"}),
        (lambda x: (1 - jnp.cos(x)) / guarded(x) ** 2, 1e-3, {"smooth", "inconclusive"}),
        (lambda x: jnp.log(jnp.abs(x) + 1e-30), 0.0, {"inconclusive", "non-finite"}),
    ],
    ids=["x^2 sin(1/x)", "x sin(1/x)", "sin(1/x)", "|x|^1.1", "noise", "rounded", "cancellation", "log"],
)
def test_what_cannot_be_told_is_not_told_wrongly(f, x: float, allowed: set[str], dtype: str) -> None:
    report = classify_point(f, jnp.asarray(x, dtype))
    assert str(report.kind) in allowed
    if report.kind is PointKind.INCONCLUSIVE:
        assert report.is_differentiable is None


@pytest.mark.parametrize("kind", ["corner", "jump", "cusp"])
def test_what_is_too_small_for_the_precision_is_bounded_by_what_could_hide(kind: str) -> None:
    """A feature of every size, in float32: it is either found, or called no larger than it is allowed to be."""
    shape = {"corner": jnp.abs, "jump": lambda x: jnp.where(x >= 0, 1.0, 0.0), "cusp": lambda x: jnp.sqrt(jnp.abs(x))}[kind]
    f = lambda x, size: jnp.cos(x) + jnp.sin(3 * x) / 4 + size * shape(x - jnp.float32(0.75)).astype("float32")  # noqa: E731
    found = []
    for size in (1.0, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        report = classify_point(f, jnp.float32(0.75), jnp.float32(size))
        found.append(str(report.kind) == kind)
        assert str(report.kind) in (kind, "smooth", "inconclusive")
        if report.kind is PointKind.SMOOTH:
            assert {"corner": report.hidden_corner / 2, "jump": report.hidden_jump, "cusp": report.hidden_corner}[kind] >= size
    assert found[:3] == [True] * 3
    assert not found[-1]


def test_smooth_points_raise_no_alarm(dtype: str) -> None:
    """Twenty points of a few smooth functions, just below powers of two included: never a corner, a cusp or a jump."""
    points = np.concatenate(
        [np.random.default_rng(6).uniform(-5, 5, 12), [0.0, 1.0, 2.0, -4.0, np.nextafter(1, 0), 2 - 4e-16, 1e-3, -1e-6]]
    )
    functions = [jnp.sin, jnp.tanh, lambda x: 1 / (1 + 25 * x * x), lambda x: jnp.cos(50 * x) + x, lambda x: jnp.exp(x) * jnp.sin(x)]
    for f in functions:
        kinds = [str(classify_point(f, jnp.asarray(x, dtype)).kind) for x in points]
        assert set(kinds) <= {"smooth", "inconclusive"}
        assert kinds.count("smooth") >= (len(points) if dtype == "float64" else len(points) - 4)


def test_scale_says_where_to_look() -> None:
    """Ripples of length 1e-9 on a slope: seen from a distance they are noise, from near by they are smooth."""
    f = lambda x: x + 1e-6 * jnp.sin(2e9 * x)  # noqa: E731
    near = classify_point(f, 0.0, scale=1e-12)
    assert near.kind is PointKind.SMOOTH
    assert near.left_slope == pytest.approx(2001.0, rel=1e-4)


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(TypeError, match="cannot be traced"):
        jax.jit(lambda x: classify_point(jnp.abs, x).value)(1.0)
    for wrong in (jnp.ones(2), np.nan, np.inf):
        with pytest.raises(ValueError, match="expected one finite number"):
            classify_point(jnp.abs, wrong)
    with pytest.raises(ValueError, match=r"scale = -1.0; expected a positive"):
        classify_point(jnp.abs, 0.0, scale=-1.0)
    with pytest.raises(TypeError, match="f returned"):
        classify_point(lambda x: jnp.stack([x, x]), 0.0)
    assert "corner at x = 0: limits 0 and 0, slopes -1 and 1" in str(classify_point(jnp.abs, 0.0))
