"""Losses: values and derivatives against mpmath, reductions, exact limits, and the mistakes they replace."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from jaxdiff.functions.losses import LOSSES, binary_cross_entropy, huber, huber_derivative, mse, mse_derivative, poisson_nll

ELEMENTWISE = sorted(name for name, entry in LOSSES.items() if not entry.is_rowwise)
ROWWISE = sorted(name for name, entry in LOSSES.items() if entry.is_rowwise)


def _ulps(got: np.ndarray, expected: list, dtype: str) -> np.ndarray:
    info = np.finfo(dtype)
    smallest = mp.mpf(float(info.smallest_normal))
    ulps = []
    for value, exact in zip(np.asarray(got).ravel().tolist(), expected, strict=True):
        error = abs(mp.mpf(value) - exact) if np.isfinite(value) else mp.inf
        unit = mp.mpf(2) ** (mp.floor(mp.log(max(abs(exact), smallest), 2)) - info.nmant)
        ulps.append(0.0 if error <= smallest else float(error / unit))
    return np.array(ulps)


def _s(x: mp.mpf) -> mp.mpf:
    return 1 / (1 + mp.exp(-x))


def _huber(d: mp.mpf) -> mp.mpf:
    return d * d / 2 if abs(d) <= 1 else abs(d) - mp.mpf(1) / 2


def _log_cosh(d: mp.mpf) -> mp.mpf:
    return abs(d) + mp.log1p(mp.exp(-2 * abs(d))) - mp.log(2)


REFERENCES: dict[str, tuple[Callable, Callable]] = {
    "mse": (lambda p, t: (p - t) ** 2, lambda p, t: 2 * (p - t)),
    "mae": (lambda p, t: abs(p - t), lambda p, t: mp.sign(p - t)),
    "huber": (lambda p, t: _huber(p - t), lambda p, t: max(min(p - t, mp.mpf(1)), -mp.mpf(1))),
    "log_cosh": (lambda p, t: _log_cosh(p - t), lambda p, t: mp.tanh(p - t)),
    "binary_cross_entropy": (
        lambda p, t: -t * mp.log(p) - (1 - t) * mp.log1p(-p),
        lambda p, t: (p - t) / (p * (1 - p)),
    ),
    "binary_cross_entropy_with_logits": (
        lambda z, t: t * mp.log1p(mp.exp(-z)) + (1 - t) * mp.log1p(mp.exp(z)),
        lambda z, t: (1 - t) * _s(z) - t * _s(-z),
    ),
    "hinge": (lambda p, t: max(mp.mpf(0), 1 - t * p), lambda p, t: -t if t * p < 1 else mp.mpf(0)),
    "poisson_nll": (lambda z, t: mp.exp(z) - t * z, lambda z, t: mp.exp(z) - t),
}


def _samples(name: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and targets in the domain of the loss, tails included; 400 of each."""
    rng = np.random.default_rng(7)
    entry = LOSSES[name]
    count, reach = 400, 80.0 if dtype == "float32" else 700.0
    spread = np.exp(rng.uniform(np.log(1e-6), np.log(reach), count)) * rng.choice([-1, 1], count)
    if entry.predictions == "probability":
        prediction = np.concatenate([rng.uniform(0, 1, 250), 10.0 ** rng.uniform(-30, 0, 100), 1 - 10.0 ** rng.uniform(-6, -1, 50)])
    else:
        prediction = spread
    if entry.targets == "probability":
        target = rng.integers(0, 2, count).astype(float)
    elif entry.targets == "sign":
        target = rng.choice([-1.0, 1.0], count)
    elif entry.targets == "count":
        # Beside z = log(t) the slope exp(z) - t cancels by nature: the sample keeps away from it.
        target = np.where(prediction < -1, rng.poisson(5, count), 0).astype(float)
    else:
        # Differences of every size, exact in both precisions.
        target = np.where(rng.uniform(size=count) < 0.5, 0.0, rng.integers(-4, 5, count))
    return prediction.astype(dtype), target.astype(dtype)


@functools.cache
def _compiled(name: str) -> Callable:
    entry = LOSSES[name]

    def every(p: jax.Array, t: jax.Array) -> tuple[jax.Array, ...]:
        gradient = jax.grad(lambda p: entry.value(p, t, reduction="sum"))(p)
        return entry.value(p, t, reduction="none"), entry.derivative(p, t, reduction="none"), gradient

    return jax.jit(every)


# The largest error seen over 12,000 samples per loss and dtype, on CPU with jax 0.10.2, is 2.5.
@pytest.mark.core
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_value_derivative_and_gradient_are_within_four_ulp(name: str, dtype: str) -> None:
    p, t = _samples(name, dtype)
    value, derivative, gradient = _compiled(name)(p, t)
    with mp.workprec(2400 if dtype == "float64" else 400):
        exact = [[f(mp.mpf(float(a)), mp.mpf(float(b))) for a, b in zip(p, t, strict=True)] for f in REFERENCES[name]]
    assert value.dtype == derivative.dtype == gradient.dtype == dtype
    assert _ulps(value, exact[0], dtype).max() <= 4
    assert _ulps(derivative, exact[1], dtype).max() <= 4
    np.testing.assert_array_equal(gradient, derivative)


def _rows(name: str, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(11)
    logits = np.concatenate([rng.normal(size=(20, 5)) * s for s in (0.1, 1, 5, 10)])
    target = np.eye(5)[rng.integers(0, 5, 80)]
    if name == "categorical_cross_entropy_with_logits":
        return logits.astype(dtype), target.astype(dtype)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    soft = np.exp(rng.normal(size=(80, 5)))
    return p.astype(dtype), np.where(rng.uniform(size=(80, 1)) < 0.3, target, soft / soft.sum(-1, keepdims=True)).astype(dtype)


@pytest.mark.core
@pytest.mark.parametrize("name", ROWWISE)
def test_rowwise_losses_match_mpmath(name: str, dtype: str) -> None:
    p, t = _rows(name, dtype)
    value, derivative, gradient = _compiled(name)(p, t)
    exact_value, exact_slope, sizes = [], [], []
    with mp.workprec(1200):
        for row_p, row_t in zip(p, t, strict=True):
            a, b = [mp.mpf(float(v)) for v in row_p], [mp.mpf(float(v)) for v in row_t]
            if name.endswith("logits"):
                e = [mp.exp(v) for v in a]
                total = mp.fsum(e)
                terms = [y * (mp.log(total) - v) for v, y in zip(a, b, strict=True)]
                exact_slope += [v * mp.fsum(b) / total - y if y == 0 else -(total - v) / total for v, y in zip(e, b, strict=True)]
            elif name == "kl_divergence":
                terms = [y * mp.log(y / v) if y else mp.mpf(0) for v, y in zip(a, b, strict=True)]
                exact_slope += [-y / v for v, y in zip(a, b, strict=True)]
            else:
                terms = [-y * mp.log(v) for v, y in zip(a, b, strict=True)]
                exact_slope += [-y / v for v, y in zip(a, b, strict=True)]
            exact_value.append(mp.fsum(terms))
            sizes.append(float(mp.fsum([abs(term) for term in terms])))
    assert _ulps(derivative, exact_slope, dtype).max() <= 4
    np.testing.assert_array_equal(gradient, derivative)
    error = np.abs(np.array([float(mp.mpf(float(v)) - x) for v, x in zip(value, exact_value, strict=True)]))
    # The terms of a divergence cancel, so its error is measured against the sum of their sizes; the other losses have terms of one sign.
    assert np.all(error <= 4 * np.finfo(dtype).eps * np.array(sizes) + np.finfo(dtype).smallest_normal)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_reductions_agree_in_value_and_derivative(name: str) -> None:
    entry = LOSSES[name]
    p, t = _rows(name, "float64") if entry.is_rowwise else (v.reshape(8, 50) for v in _samples(name, "float64"))
    keep = np.abs(p) < 30
    p = np.where(keep, p, 0.5)
    each, slopes = entry.value(p, t, reduction="none"), entry.derivative(p, t, reduction="none")
    assert each.shape == (p.shape[:-1] if entry.is_rowwise else p.shape)
    assert slopes.shape == p.shape
    count = each.size
    np.testing.assert_allclose(entry.value(p, t, reduction="sum"), np.sum(each), rtol=1e-13)
    np.testing.assert_allclose(entry.value(p, t), np.sum(each) / count, rtol=1e-13)
    np.testing.assert_array_equal(entry.derivative(p, t, reduction="sum"), slopes)
    np.testing.assert_allclose(entry.derivative(p, t), slopes / count, rtol=1e-15)
    for reduction in ("mean", "sum"):
        gradient = jax.grad(lambda p, r=reduction: entry.value(p, t, reduction=r))(p)
        np.testing.assert_allclose(gradient, entry.derivative(p, t, reduction=reduction), rtol=1e-15)


def test_mse_derivative_without_one_over_n_is_caught() -> None:
    p, t = np.arange(5.0), np.zeros(5)
    naive = 2 * (p - t)
    gradient = jax.grad(mse)(p, t)
    np.testing.assert_allclose(mse_derivative(p, t), gradient, rtol=1e-15)
    assert not np.allclose(naive, gradient)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_unequal_shapes_are_an_error_naming_both(name: str) -> None:
    for f in (LOSSES[name].value, LOSSES[name].derivative):
        with pytest.raises(ValueError, match=r"prediction has shape \(4,\) and target has shape \(4, 1\)"):
            f(np.full(4, 0.5), np.full((4, 1), 0.5))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_unknown_reduction_is_an_error_with_the_closest_name(name: str) -> None:
    p = np.array([[0.25, 0.75]])
    for f in (LOSSES[name].value, LOSSES[name].derivative):
        with pytest.raises(ValueError, match=r"reduction = 'means'.*did you mean 'mean'"):
            f(p, p, reduction="means")


@pytest.mark.parametrize("bad", ["abc", None, 1j, np.array([True]), np.array([None])], ids=repr)
def test_what_is_not_a_real_number_is_refused_by_name(bad: object) -> None:
    with pytest.raises(TypeError, match="prediction"):
        mse(bad, 1.0)
    with pytest.raises(TypeError, match="target"):
        mse(1.0, bad)


def test_integers_are_promoted_and_the_prediction_sets_the_dtype() -> None:
    assert float(mse(np.array([1, 4]), np.array([1, 2]))) == 2.0
    p, t = np.array([0.5], np.float32), np.array([1.0], np.float64)
    assert mse(p, t).dtype == mse_derivative(p, t).dtype == np.float32
    for half in ("float16", "bfloat16"):
        x = jnp.full(4096, 0.1, half)
        assert mse(x, 0 * x).dtype == half
        # 4,096 terms summed in half precision would stall at 2,048 units; the sum is taken in float32.
        assert float(mse(x, 0 * x)) == pytest.approx(float(x[0]) ** 2, rel=float(jnp.finfo(half).eps))


def test_classes_need_an_axis() -> None:
    with pytest.raises(ValueError, match="last axis"):
        LOSSES["kl_divergence"].value(0.5, 0.5)
    with pytest.raises(ValueError, match="last axis"):
        LOSSES["kl_divergence"].value(np.zeros((3, 0)), np.zeros((3, 0)))


def test_cross_entropy_limits_are_exact(dtype: str) -> None:
    p, t = np.array([0, 1, 0, 1, 0.5, 2, np.nan], dtype), np.array([0, 1, 1, 0, 1, 0, 0], dtype)
    value = np.asarray(binary_cross_entropy(p, t, reduction="none"))
    np.testing.assert_array_equal(value, np.array([0, 0, np.inf, np.inf, np.log(2), np.nan, np.nan], dtype))
    # Where the formula (p - t) / (p (1 - p)) is 0/0 the derivative is finite; where the loss is infinite it is infinite.
    slope = np.asarray(LOSSES["binary_cross_entropy"].derivative(p, t, reduction="none"))
    np.testing.assert_array_equal(slope, np.array([1, -1, -np.inf, np.inf, -2, np.nan, np.nan], dtype))
    np.testing.assert_array_equal(jax.grad(lambda p: binary_cross_entropy(p, t, reduction="sum"))(p), slope)


@pytest.mark.parametrize("name", ["categorical_cross_entropy", "kl_divergence"])
def test_a_class_without_target_costs_nothing_and_passes_no_nan(name: str, dtype: str) -> None:
    entry = LOSSES[name]
    p, t = np.array([[0.5, 0.5, 0], [0, 1, 0], [np.nan, 0.5, 0.5]], dtype), np.array([[0, 1, 0], [1, 0, 0], [0, 1, 0]], dtype)
    np.testing.assert_array_equal(entry.value(p, t, reduction="none"), np.array([np.log(2), np.inf, np.nan], dtype))
    gradient = jax.grad(lambda p: entry.value(p[:2], t[:2], reduction="sum"))(p)
    np.testing.assert_array_equal(gradient[:2], np.array([[0, -2, 0], [-np.inf, 0, 0]], dtype))


def test_clipping_at_1e_15_is_wrong_in_float32_and_ours_is_not() -> None:
    p = np.array([1.0], np.float32)
    eps = np.float32(1e-15)
    with np.errstate(divide="ignore"):
        naive = -np.log(1 - np.clip(p, eps, 1 - eps))
    # 1 - 1e-15 is 1 in float32: the clip that was to keep the loss at 34.5 does nothing, and the slope is 1/0.
    assert naive[0] == np.inf
    # With a probability beside one the naive gradient is that of the clip: zero, where the loss falls steeply.
    near = np.float32(1 - 2**-24)
    assert float(binary_cross_entropy(near, 0.0)) == pytest.approx(24 * np.log(2), rel=1e-6)
    assert float(jax.grad(binary_cross_entropy)(near, np.float32(0.0))) == pytest.approx(2.0**24)


def test_silent_broadcasting_would_have_returned_a_number() -> None:
    p, t = np.arange(4.0), np.arange(4.0).reshape(4, 1)
    assert np.mean((p - t) ** 2) == 2.5  # what a loss without the check reports for a perfect prediction
    with pytest.raises(ValueError, match="equal shapes"):
        mse(p, t)


def test_logit_losses_do_not_overflow(dtype: str) -> None:
    entry = LOSSES["binary_cross_entropy_with_logits"]
    z, t = np.array([1e4, -1e4, 1e4, -1e4, np.inf, -np.inf], dtype), np.array([1, 0, 0, 1, 1, 0], dtype)
    np.testing.assert_array_equal(entry.value(z, t, reduction="none"), np.array([0, 0, 1e4, 1e4, 0, 0], dtype))
    np.testing.assert_array_equal(entry.derivative(z, t, reduction="none"), np.array([0, 0, 1, -1, 0, 0], dtype))
    rows = LOSSES["categorical_cross_entropy_with_logits"]
    z, t = np.array([[0, -np.inf, 0]], dtype), np.array([[1, 0, 0]], dtype)
    assert float(rows.value(z, t)) == pytest.approx(np.log(2))
    np.testing.assert_array_equal(jax.grad(rows.value)(z, t), np.array([[-0.5, 0, 0.5]], dtype))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradient_with_respect_to_the_target_matches_a_difference(name: str) -> None:
    entry = LOSSES[name]
    rng = np.random.default_rng(2)
    p, t = rng.uniform(0.2, 0.8, (2, 3, 4))
    direction = rng.normal(size=t.shape)
    _, slope = jax.jvp(lambda t: entry.value(p, t), (t,), (direction,))
    h = 1e-6
    difference = (entry.value(p, t + h * direction) - entry.value(p, t - h * direction)) / (2 * h)
    assert float(slope) == pytest.approx(float(difference), rel=1e-7)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_second_derivative_matches_a_difference_of_the_first(name: str) -> None:
    entry = LOSSES[name]
    rng = np.random.default_rng(4)
    p, t = rng.uniform(0.2, 0.8, (2, 3, 4))
    direction = rng.normal(size=p.shape)
    gradient = jax.jit(jax.grad(entry.value))
    _, second = jax.jvp(lambda p: gradient(p, t), (p,), (direction,))
    h = 1e-6
    difference = (entry.derivative(p + h * direction, t) - entry.derivative(p - h * direction, t)) / (2 * h)
    np.testing.assert_allclose(second, difference, rtol=1e-6, atol=1e-9)


# Targets of zero and one, predictions that are right already, and p = 1/4, where log(1 - p) changes its formula: (p, t), and by hand the
# derivatives in p twice, in p and t, and in t twice.
SPECIAL_POINTS = {
    "binary_cross_entropy": (
        [(0.25, 0.0), (0.25, 1.0), (0.75, 1.0), (0.25, 0.25)],
        lambda p, t: (t / p**2 + (1 - t) / (1 - p) ** 2, -1 / (p * (1 - p)), 0 * p),
    ),
    "categorical_cross_entropy": ([(0.25, 0.0), (0.5, 1.0), (0.25, 0.25)], lambda p, t: (t / p**2, -1 / p, 0 * p)),
    "kl_divergence": ([(0.2, 0.2), (0.3, 0.3), (0.5, 0.1)], lambda p, t: (t / p**2, -1 / p, 1 / t)),
    "poisson_nll": ([(0.5, 0.0), (-1.0, 3.0)], lambda z, t: (np.exp(z), -1 + 0 * z, 0 * z)),
    "log_cosh": ([(0.3, 0.3), (0.0, 8.0)], lambda p, t: (np.cosh(p - t) ** -2, -(np.cosh(p - t) ** -2), np.cosh(p - t) ** -2)),
}


@pytest.mark.parametrize("name", sorted(SPECIAL_POINTS))
def test_second_derivatives_in_prediction_and_target_hold_at_special_points(name: str) -> None:
    pairs, by_hand = SPECIAL_POINTS[name]
    p, t = np.array(pairs).T
    gradient = jax.grad(functools.partial(LOSSES[name].value, reduction="sum"), argnums=(0, 1))
    of_p = jax.jvp(lambda p: gradient(p, t), (p,), (np.ones_like(p),))[1]
    of_t = jax.jvp(lambda t: gradient(p, t), (t,), (np.ones_like(t),))[1]
    pp, pt, tt = by_hand(p, t)
    for found, expected in zip((*of_p, *of_t), (pp, pt, pt, tt), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=0)


def test_target_slopes_hold_at_special_points() -> None:
    slope = jax.grad(functools.partial(binary_cross_entropy, reduction="sum"), argnums=1)
    assert float(slope(0.25, 0.0)) == pytest.approx(np.log(3), rel=1e-15)  # log((1 - p) / p)
    assert float(jax.grad(poisson_nll, argnums=1)(0.3, 0.0)) == -0.3


def test_second_derivatives_keep_their_digits_where_the_difference_rounds_or_squares_leave_the_range(dtype: str) -> None:
    info = np.finfo(dtype)
    # sech(p - t)^2, where the rounding of p - t is multiplied by 2 |p - t|.
    p = np.array([-7.884293, -15.783618, 31.836785, 40.1], dtype)
    with mp.workdps(40):
        exact = [mp.sech(mp.mpf(float(v)) - mp.mpf(1) / 4) ** 2 for v in p]
    second = jax.vmap(jax.grad(jax.grad(LOSSES["log_cosh"].value)))(p, np.full_like(p, 0.25))
    assert np.max(_ulps(second, exact, dtype)) <= 4
    # t / p^2, within a factor of four of the largest number.
    p = np.array([0.52, 0.7], dtype) / np.sqrt(info.max)
    with mp.workdps(40):
        exact = [mp.mpf(1) / 4 / mp.mpf(float(v)) ** 2 + mp.mpf(3) / 4 for v in p]
    second = jax.vmap(jax.grad(jax.grad(binary_cross_entropy)))(p, np.full_like(p, 0.25))
    assert np.max(_ulps(second, exact, dtype)) <= 4


def test_huber_threshold() -> None:
    d = np.array([-3.0, -2.0, 0.5, 2.0, 1e200])
    np.testing.assert_allclose(huber(d, 0 * d, 2.0, reduction="none"), [4, 2, 0.125, 2, 2e200], rtol=1e-15)
    np.testing.assert_array_equal(huber_derivative(d, 0 * d, 2.0, reduction="none"), [-2, -2, 0.5, 2, 2])
    # d/d(delta) of delta (|d| - delta/2) is |d| - delta.
    assert float(jax.grad(huber, argnums=2)(5.0, 0.0, 2.0)) == 3.0
    for bad in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="delta"):
            huber(d, d, bad)


def test_poisson_rate_form() -> None:
    rate, count = np.array([2.0, 0.0, 0.0]), np.array([3.0, 0.0, 1.0])
    value = poisson_nll(rate, count, is_log_rate=False, reduction="none")
    np.testing.assert_allclose(value, [2 - 3 * np.log(2), 0, np.inf], rtol=1e-15)
    slope = jax.grad(lambda r: poisson_nll(r, count, is_log_rate=False, reduction="sum"))(rate)
    np.testing.assert_array_equal(slope, [-0.5, 1, -np.inf])


def test_registry_is_complete_and_consistent() -> None:
    assert set(LOSSES) == {
        *("mse", "mae", "huber", "log_cosh", "binary_cross_entropy", "binary_cross_entropy_with_logits", "categorical_cross_entropy"),
        *("categorical_cross_entropy_with_logits", "kl_divergence", "hinge", "poisson_nll"),
    }
    for name, entry in LOSSES.items():
        assert entry.name == name
        assert all((entry.formula, entry.derivative_formula, entry.source))
        assert bool(entry.kinks) == bool(entry.kink_convention)
