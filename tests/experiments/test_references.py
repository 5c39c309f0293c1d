"""The references themselves, against closed forms and published constants: nothing of ours is asked."""

import mpmath
import numpy as np
import pytest

from jaxdiff.experiments import references


@pytest.mark.parametrize(
    ("name", "closed_form"),
    [
        ("sin", lambda x: mpmath.cos(x)),
        ("sqrt", lambda x: 1 / (2 * mpmath.sqrt(x))),
        ("arctan", lambda x: 1 / (1 + x * x)),
        ("tanh", lambda x: mpmath.sech(x) ** 2),
        ("sigmoid", lambda x: 1 / (2 * mpmath.cosh(x / 2)) ** 2),
        ("softplus", lambda x: 1 / (1 + mpmath.exp(-x))),
        ("gelu", lambda x: mpmath.ncdf(x) + x * mpmath.npdf(x)),
        ("silu", lambda x: (1 + mpmath.exp(-x) * (1 + x)) / (1 + mpmath.exp(-x)) ** 2),
    ],
)
def test_derivatives_keep_thirty_digits_deep_into_the_tails(name: str, closed_form) -> None:
    points = [0.25, 3.0, 70.0] + ([] if name == "sqrt" else [-0.25, -70.0])
    with mpmath.workdps(250):
        for point, found in zip(points, references.scalar_derivative(name, points), strict=True):
            exact = closed_form(mpmath.mpf(point))
            assert abs(found - exact) <= abs(exact) * mpmath.mpf(10) ** -30


def test_selu_constants_are_the_published_ones() -> None:
    # Klambauer et al. (2017), "Self-Normalizing Neural Networks", section 2: alpha = 1.6733, lambda = 1.0507.
    (right,) = references.scalar_derivative("selu", [1.0])
    (left,) = references.scalar_derivative("selu", [-1e-12])
    assert round(float(right), 4) == 1.0507
    assert round(float(left / right), 4) == 1.6733


def test_softmax_jacobian_is_that_of_the_closed_form() -> None:
    x = [0.5, -1.0, 2.0]
    weights = np.exp(x) / np.sum(np.exp(x))
    expected = np.diag(weights) - np.outer(weights, weights)
    np.testing.assert_allclose(np.array(references.vector_jacobian("softmax", x), dtype=float), expected, rtol=1e-13)


@pytest.mark.parametrize(
    ("name", "closed_form"),
    [
        ("mse", lambda p, t: 2 * (p - t)),
        ("log_cosh", lambda p, t: np.tanh(p - t)),
        ("binary_cross_entropy", lambda p, t: (p - t) / (p * (1 - p))),
        ("kl_divergence", lambda p, t: -t / p),
        ("poisson_nll", lambda p, t: np.exp(p) - t),
    ],
)
def test_loss_derivatives_are_divided_by_the_count(name: str, closed_form) -> None:
    prediction, target = np.array([0.2, 0.7]), np.array([0.5, 0.25])
    found = references.loss_derivative(name, prediction, target, count=2)
    np.testing.assert_allclose(np.array(found, dtype=float), closed_form(prediction, target) / 2, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ulp_is_the_spacing_at_the_reference(dtype: str) -> None:
    one = np.asarray(3.0, dtype)
    above = np.nextafter(one, np.asarray(4.0, dtype))
    assert references.error_in_ulp(np.array([above]), [3], dtype)[0] == 1.0
    smallest = float(np.finfo(dtype).smallest_normal)
    assert references.error_in_ulp(np.array([0.0]), [smallest / 8], dtype)[0] == 0.125
    assert references.error_in_ulp(np.array([np.nan]), [1], dtype)[0] == np.inf
    assert references.error_in_ulp(np.array([above - one]), [0], dtype, [3.0])[0] == 1.0


def test_relative_error_is_exact_and_infinite_where_the_value_is_not_finite() -> None:
    errors = references.relative_error(np.array([1.5, np.inf, 0.25]), [1, 1, 0])
    assert errors.tolist() == [0.5, np.inf, 0.25]
