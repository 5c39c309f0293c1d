"""Loss functions with their documented derivatives with respect to the prediction.

Every loss is called as ``loss(prediction, target, reduction="mean")``, its derivative with the same arguments:

- ``"none"``: one loss per element (per row where classes lie on the last axis); the derivative of each with respect to its own prediction;
- ``"sum"``: their sum; the derivative is the gradient of the sum;
- ``"mean"``: their sum divided by their number N; the derivative carries the factor 1/N.

Prediction and target must have equal shapes: (N,) against (N, 1) would broadcast to N x N losses and still return a number. The result has
the dtype of the prediction. Limits are exact: a probability of zero where the target says one costs infinity, not -log of an epsilon
that float32 rounds away, and 0 log 0 is 0. ``jax.grad`` of a loss is its documented derivative, and derivatives can be
differentiated again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from jaxdiff._validation import closest, is_traced
from jaxdiff.functions import _special as special
from jaxdiff.functions._arrays import as_real, keep_dtype
from jaxdiff.functions.activations import _complement, _log_softmax, _sigmoid, _smooth, _softmax, _tanh, _tanh_derivative

REDUCTIONS = ("mean", "sum", "none")
Kernel = Callable[..., jax.Array]


# --- what all losses share ------------------------------------------------------------------------------------------------------------


def _pair(prediction: Any, target: Any, *, min_ndim: int = 0) -> tuple[jax.Array, jax.Array]:
    prediction = as_real(prediction, "prediction")
    if isinstance(target, np.ndarray) and target.dtype.kind == "f":
        target = target.astype(prediction.dtype)
    target = as_real(target, "target").astype(prediction.dtype)
    if prediction.shape != target.shape:
        raise ValueError(f"prediction has shape {prediction.shape} and target has shape {target.shape}; expected equal shapes")
    if prediction.ndim < min_ndim or (min_ndim and prediction.shape[-1] == 0):
        raise ValueError(f"prediction has shape {prediction.shape}; expected classes on its last axis")
    return prediction, target


def _check_reduction(reduction: Any) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"reduction = {reduction!r}; expected one of {', '.join(map(repr, REDUCTIONS))}{closest(str(reduction), REDUCTIONS)}"
        )


def _reduced(losses: jax.Array, reduction: str) -> jax.Array:
    return losses if reduction == "none" else jnp.sum(losses) if reduction == "sum" else jnp.mean(losses)


def _value(kernel: Kernel, prediction: Any, target: Any, reduction: str, *parameters: Any, min_ndim: int = 0) -> jax.Array:
    _check_reduction(reduction)
    prediction, target = _pair(prediction, target, min_ndim=min_ndim)
    return keep_dtype(lambda p, *rest: _reduced(kernel(p, *rest), reduction), prediction, target, *parameters)


def _slope(kernel: Kernel, prediction: Any, target: Any, reduction: str, *parameters: Any, min_ndim: int = 0) -> jax.Array:
    _check_reduction(reduction)
    prediction, target = _pair(prediction, target, min_ndim=min_ndim)
    count = prediction.size // prediction.shape[-1] if min_ndim else prediction.size

    def slope(*arguments: jax.Array) -> jax.Array:
        each = kernel(*arguments)
        return each / count if reduction == "mean" else each

    return keep_dtype(slope, prediction, target, *parameters)


def _with_slopes(kernel: Kernel, prediction_slope: Kernel, target_slope: Kernel, *, is_rowwise: bool = False) -> Kernel:
    """``kernel(prediction, target)`` compiled, with both derivatives attached.

    The slope with respect to the target is infinite where a probability is zero. It is left out where the target is not being
    differentiated: multiplied by a tangent of zeros it would be NaN.
    """
    f = jax.custom_jvp(kernel)

    def rule(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        value = f(*primals)
        total = jnp.zeros_like(value)
        for slope, tangent in zip((prediction_slope, target_slope), tangents, strict=True):
            if not isinstance(tangent, SymbolicZero):
                change = slope(*primals) * tangent
                total += jnp.sum(change, -1) if is_rowwise else change
        return value, total

    f.defjvp(rule, symbolic_zeros=True)
    return jax.jit(f)


def _weighted(weight: jax.Array, x: jax.Array) -> jax.Array:
    """weight times x, zero where the weight is zero even if x is infinite (NaN stays)."""
    is_dropped = (weight == 0) & ~jnp.isnan(x)
    return jnp.where(is_dropped, 0, weight * jnp.where(is_dropped, 0, x))


# --- regression -----------------------------------------------------------------------------------------------------------------------


@jax.jit
def _squared(p: jax.Array, t: jax.Array) -> jax.Array:
    return (p - t) ** 2


@jax.jit
def _twice_difference(p: jax.Array, t: jax.Array) -> jax.Array:
    return 2 * (p - t)


@jax.jit
def _absolute(p: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.abs(p - t)


@jax.jit
def _sign(p: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.sign(p - t)


@jax.jit
def _huber(p: jax.Array, t: jax.Array, delta: jax.Array) -> jax.Array:
    # With q the clipped difference d both branches are q (d - q/2); nothing is squared that could overflow.
    d = p - t
    q = jnp.clip(d, -delta, delta)
    return q * (d - q / 2)


@jax.jit
def _huber_slope(p: jax.Array, t: jax.Array, delta: jax.Array) -> jax.Array:
    # Written with where, not clip, whose own derivative at the ends is a half.
    d = p - t
    return jnp.where(jnp.abs(d) <= delta, d, delta * jnp.sign(d))


def _log_cosh_second_kernel(p: jax.Array, t: jax.Array) -> jax.Array:
    # sech(d)^2 turns the rounding of d = p - t into 2 |d| times as much, 67 ulp in the tail: what d has left out is made up for.
    d = p - t
    moved = d - p
    left_out = (p - (d - moved)) - (t + moved)
    left_out = jnp.where(jnp.isfinite(left_out), left_out, 0)
    return _tanh_derivative(d) * (1 - 2 * left_out * special.tanh(d))


def _log_cosh_third(p: jax.Array, t: jax.Array) -> jax.Array:
    return -2 * _tanh(p - t) * _log_cosh_second(p, t)


_log_cosh_second = _with_slopes(_log_cosh_second_kernel, _log_cosh_third, lambda p, t: -_log_cosh_third(p, t))
_log_cosh_slope = _with_slopes(lambda p, t: special.tanh(p - t), _log_cosh_second, lambda p, t: -_log_cosh_second(p, t))
_log_cosh = _with_slopes(lambda p, t: special.log_cosh(p - t), _log_cosh_slope, lambda p, t: -_log_cosh_slope(p, t))


def mse(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Squared error, (prediction - target)^2.

    Args:
        prediction: real numbers of any shape.
        target: real numbers of the same shape.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or one loss per element for ``"none"``.

    Raises:
        ValueError: the shapes differ, or the reduction is unknown.

    Example:
        >>> float(mse([1.0, 4.0], [1.0, 2.0]))
        2.0
    """
    return _value(_squared, prediction, target, reduction)


def mse_derivative(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Derivative of mse with respect to the prediction, 2 (prediction - target), over N for the mean.

    Example:
        >>> mse_derivative([1.0, 4.0], [1.0, 2.0]).tolist()
        [0.0, 2.0]
    """
    return _slope(_twice_difference, prediction, target, reduction)


def mae(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Absolute error, |prediction - target|.

    Example:
        >>> float(mae([1.0, 4.0], [1.0, 2.0]))
        1.0
    """
    return _value(_absolute, prediction, target, reduction)


def mae_derivative(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Derivative of mae: the sign of prediction - target, over N for the mean; 0 where they are equal.

    Example:
        >>> mae_derivative([1.0, 4.0], [1.0, 2.0], reduction="sum").tolist()
        [0.0, 1.0]
    """
    return _slope(_sign, prediction, target, reduction)


def _check_delta(delta: Any) -> None:
    if not is_traced(delta) and not (np.ndim(delta) == 0 and delta > 0):
        raise ValueError(f"delta = {delta!r}; expected a number > 0")


def huber(prediction: Any, target: Any, delta: Any = 1.0, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Huber loss: d^2 / 2 for |d| <= delta, else delta (|d| - delta / 2), with d = prediction - target.

    Args:
        prediction: real numbers of any shape.
        target: real numbers of the same shape.
        delta: where the parabola becomes a line, in units of the prediction.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Example:
        >>> huber([0.5, 3.0], [0.0, 0.0], reduction="none").tolist()
        [0.125, 2.5]

    References:
        Huber (1964), "Robust Estimation of a Location Parameter".
    """
    _check_delta(delta)
    return _value(_huber_with_slope, prediction, target, reduction, delta)


def huber_derivative(prediction: Any, target: Any, delta: Any = 1.0, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Derivative of huber: prediction - target cut to [-delta, delta], over N for the mean.

    Example:
        >>> huber_derivative([0.5, 3.0], [0.0, 0.0], reduction="sum").tolist()
        [0.5, 1.0]
    """
    _check_delta(delta)
    return _slope(_huber_slope, prediction, target, reduction, delta)


_huber_with_slope = jax.custom_jvp(_huber)
_huber_with_slope.defjvps(
    lambda tangent, _, p, t, delta: _huber_slope(p, t, delta) * tangent,
    lambda tangent, _, p, t, delta: -_huber_slope(p, t, delta) * tangent,
    lambda tangent, _, p, t, delta: jnp.maximum(jnp.abs(p - t) - delta, 0) * tangent,
)


def log_cosh(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Log-cosh loss, log(cosh(prediction - target)): a parabola near zero, |d| - log 2 far away.

    Example:
        >>> round(float(log_cosh(1000.0, 0.0)), 6)
        999.306853
    """
    return _value(_log_cosh, prediction, target, reduction)


def log_cosh_derivative(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Derivative of log_cosh, tanh(prediction - target), over N for the mean.

    Example:
        >>> float(log_cosh_derivative(1000.0, 0.0))
        1.0
    """
    return _slope(_log_cosh_slope, prediction, target, reduction)


# --- classification -------------------------------------------------------------------------------------------------------------------


def _bce(p: jax.Array, t: jax.Array) -> jax.Array:
    loss = -_weighted(t, jnp.log(p)) - _weighted(1 - t, special.log_one_minus(p))
    return jnp.where((p >= 0) & (p <= 1), loss, jnp.nan)


def _over_square(weight: jax.Array, x: jax.Array) -> jax.Array:
    """weight / x^2 with no intermediate beyond it: of weight / x / x XLA makes weight / (x x), and x x underflows. Zero without weight."""
    return jnp.where(weight == 0, 0, weight * (1 / x) * (1 / x))


def _bce_slope_kernel(p: jax.Array, t: jax.Array) -> jax.Array:
    # A target of exactly zero or one leaves one term, which is finite where the other, 0/0, is not.
    inside = (t != 0) & (t != 1)
    numerator = jnp.where(inside, p - t, jnp.where(t == 1, -1, 1))
    denominator = jnp.where(inside, p * (1 - p), jnp.where(t == 1, p, 1 - p))
    return jnp.where((p >= 0) & (p <= 1), numerator / denominator, jnp.nan)


def _bce_second(p: jax.Array, t: jax.Array) -> jax.Array:
    # t / p^2 + (1 - t) / (1 - p)^2
    return jnp.where((p >= 0) & (p <= 1), _over_square(t, p) + _over_square(1 - t, 1 - p), jnp.nan)


def _bce_with_logits(z: jax.Array, t: jax.Array) -> jax.Array:
    # max(z, 0) - t z, each side as one product: the difference would cancel where the target is one.
    linear = jnp.where(z > 0, _weighted(1 - t, z), -_weighted(t, z))
    return linear + jnp.log1p(jnp.exp(-jnp.abs(z)))


def _bce_with_logits_slope(z: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.where(t > 0.5, (1 - t) - _sigmoid(-z), _sigmoid(z) - t)


def _cross_entropy(p: jax.Array, t: jax.Array) -> jax.Array:
    return -jnp.sum(_weighted(t, jnp.log(p)), -1)


def _ratio_slope_kernel(p: jax.Array, t: jax.Array) -> jax.Array:
    is_zero = (t == 0) & (p >= 0)
    return jnp.where(is_zero, 0, -t / jnp.where(is_zero, 1, p)) + jnp.where(p < 0, jnp.nan, 0)


def _cross_entropy_with_logits(z: jax.Array, t: jax.Array) -> jax.Array:
    return -jnp.sum(_weighted(t, _log_softmax(z, z.ndim - 1)), -1)


def _cross_entropy_with_logits_slope(z: jax.Array, t: jax.Array) -> jax.Array:
    # p_i sum(t) - t_i, arranged so that only terms of different classes meet: p_i (sum(t) - t_i) - t_i (1 - p_i).
    p = _softmax(z, z.ndim - 1)
    return p * (jnp.sum(t, -1, keepdims=True) - t) - t * _complement(p)


def _log_ratio_kernel(p: jax.Array, t: jax.Array) -> jax.Array:
    """log(t / p), accurate where t and p are close, and where their ratio leaves the range."""
    ratio = t / p
    is_close = (ratio > 0.5) & (ratio < 2)
    larger, smaller = jnp.maximum(p, t), jnp.minimum(p, t)
    near = jnp.sign(t - p) * jnp.log1p(jnp.where(is_close, (larger - smaller) / smaller, 0))
    is_in_range = (ratio > jnp.finfo(p.dtype).smallest_normal) & (ratio < jnp.inf)
    return jnp.where(is_close, near, jnp.where(is_in_range, jnp.log(ratio), jnp.log(t) - jnp.log(p)))


_log_one_minus = _smooth(special.log_one_minus, lambda p: -1 / (1 - p))
_log_ratio = _with_slopes(_log_ratio_kernel, lambda p, t: -1 / p, lambda p, t: 1 / t)
# Where the target is zero the slope's change with the target is what it is elsewhere.
_ratio_slope = _with_slopes(_ratio_slope_kernel, lambda p, t: _over_square(t, p), lambda p, t: -1 / p)


def _kl(p: jax.Array, t: jax.Array) -> jax.Array:
    is_zero = (t == 0) & (p >= 0)
    return jnp.sum(jnp.where(is_zero, 0, t * _log_ratio(p, jnp.where(is_zero, 1, t))), -1)


_bce_slope = _with_slopes(_bce_slope_kernel, _bce_second, lambda p, t: -1 / (p * (1 - p)))
_bce_loss = _with_slopes(_bce, _bce_slope, lambda p, t: _log_one_minus(p) - jnp.log(p))
_bce_with_logits_loss = _with_slopes(_bce_with_logits, _bce_with_logits_slope, lambda z, t: -z)
_cross_entropy_loss = _with_slopes(_cross_entropy, _ratio_slope, lambda p, t: -jnp.log(p), is_rowwise=True)
_cross_entropy_with_logits_loss = _with_slopes(
    _cross_entropy_with_logits, _cross_entropy_with_logits_slope, lambda z, t: -_log_softmax(z, z.ndim - 1), is_rowwise=True
)
_kl_loss = _with_slopes(_kl, _ratio_slope, lambda p, t: _log_ratio(p, t) + 1, is_rowwise=True)


def binary_cross_entropy(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Binary cross-entropy of probabilities, -t log(p) - (1 - t) log(1 - p).

    Args:
        prediction: probabilities p in [0, 1]; NaN comes out for anything else.
        target: probabilities or labels t in [0, 1], of the same shape.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss; infinity where p rules out what happened (p = 0 and t > 0, or p = 1 and t < 1), and 0 where p = t = 0 or p = t = 1.

    Example:
        >>> binary_cross_entropy([0.0, 0.5, 0.0], [0.0, 1.0, 1.0], reduction="none").round(4).tolist()
        [0.0, 0.6931, inf]
    """
    return _value(_bce_loss, prediction, target, reduction)


def binary_cross_entropy_derivative(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Derivative of binary_cross_entropy, (p - t) / (p (1 - p)), over N for the mean.

    Where t is exactly 0 or 1 it is 1 / (1 - p) or -1 / p, finite at p = t.

    Example:
        >>> binary_cross_entropy_derivative([0.0, 0.5], [0.0, 1.0], reduction="sum").tolist()
        [1.0, -2.0]
    """
    return _slope(_bce_slope, prediction, target, reduction)


def binary_cross_entropy_with_logits(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Binary cross-entropy of logits z, max(z, 0) - t z + log(1 + exp(-|z|)).

    Example:
        >>> binary_cross_entropy_with_logits([1000.0, -1000.0], [1.0, 1.0], reduction="none").tolist()
        [0.0, 1000.0]
    """
    return _value(_bce_with_logits_loss, prediction, target, reduction)


def binary_cross_entropy_with_logits_derivative(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Derivative of binary_cross_entropy_with_logits, sigmoid(z) - t, over N for the mean.

    For t > 1/2 it is taken as (1 - t) - sigmoid(-z), which keeps its tail.

    Example:
        >>> float(binary_cross_entropy_with_logits_derivative(0.0, 1.0))
        -0.5
    """
    return _slope(_bce_with_logits_slope, prediction, target, reduction)


def categorical_cross_entropy(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Cross-entropy of class probabilities, -sum_i t_i log(p_i) over the last axis.

    Args:
        prediction: probabilities, classes on the last axis. They are not normalized here.
        target: probabilities or one-hot labels of the same shape.
        reduction: over the leading axes: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The loss; infinity where a class of probability zero has a positive target; a class with target zero costs nothing.

    Example:
        >>> round(float(categorical_cross_entropy([0.5, 0.5, 0.0], [1.0, 0.0, 0.0])), 6)
        0.693147
    """
    return _value(_cross_entropy_loss, prediction, target, reduction, min_ndim=1)


def categorical_cross_entropy_derivative(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Derivative of categorical_cross_entropy, -t_i / p_i (0 where t_i = 0), over the number of rows for the mean.

    Example:
        >>> (categorical_cross_entropy_derivative([0.5, 0.5, 0.0], [1.0, 0.0, 0.0]) + 0.0).tolist()
        [-2.0, 0.0, 0.0]
    """
    return _slope(_ratio_slope, prediction, target, reduction, min_ndim=1)


def categorical_cross_entropy_with_logits(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Cross-entropy of logits, -sum_i t_i log_softmax(z)_i over the last axis.

    Example:
        >>> float(categorical_cross_entropy_with_logits([0.0, -1000.0], [0.0, 1.0]))
        1000.0
    """
    return _value(_cross_entropy_with_logits_loss, prediction, target, reduction, min_ndim=1)


def categorical_cross_entropy_with_logits_derivative(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Derivative of categorical_cross_entropy_with_logits, softmax(z)_i sum(t) - t_i, over the number of rows for the mean.

    Example:
        >>> categorical_cross_entropy_with_logits_derivative([0.0, 0.0], [0.0, 1.0]).tolist()
        [0.5, -0.5]
    """
    return _slope(_cross_entropy_with_logits_slope, prediction, target, reduction, min_ndim=1)


def kl_divergence(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Kullback-Leibler divergence of the prediction p from the target t, sum_i t_i log(t_i / p_i) over the last axis.

    Args:
        prediction: probabilities, classes on the last axis.
        target: probabilities of the same shape.
        reduction: over the leading axes: ``"mean"``, ``"sum"`` or ``"none"``.

    Returns:
        The divergence; infinity where a class of probability zero has a positive target; a class with target zero costs nothing.

    Example:
        >>> round(float(kl_divergence([0.5, 0.5], [1.0, 0.0])), 6)
        0.693147
    """
    return _value(_kl_loss, prediction, target, reduction, min_ndim=1)


def kl_divergence_derivative(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Derivative of kl_divergence with respect to the prediction, -t_i / p_i (0 where t_i = 0), over the number of rows for the mean.

    Example:
        >>> kl_divergence_derivative([0.5, 0.5], [0.25, 0.75]).tolist()
        [-0.5, -1.5]
    """
    return _slope(_ratio_slope, prediction, target, reduction, min_ndim=1)


# --- margins and counts ---------------------------------------------------------------------------------------------------------------


@jax.jit
def _hinge(p: jax.Array, t: jax.Array) -> jax.Array:
    margin = 1 - t * p
    return jnp.where(margin <= 0, 0, margin)


@jax.jit
def _hinge_slope(p: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.where(t * p >= 1, 0, -t)


@jax.jit
def _poisson_kernel(z: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.exp(z) - _weighted(t, z)


@jax.jit
def _poisson_slope(z: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.exp(z) - t


_poisson = _with_slopes(_poisson_kernel, _poisson_slope, lambda z, t: -z)


def _poisson_rate(rate: jax.Array, t: jax.Array) -> jax.Array:
    return rate - _weighted(t, jnp.log(rate))


def _poisson_rate_slope(rate: jax.Array, t: jax.Array) -> jax.Array:
    return 1 + _ratio_slope(rate, t)


_poisson_rate_loss = _with_slopes(_poisson_rate, _poisson_rate_slope, lambda rate, t: -jnp.log(rate))


def hinge(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Hinge loss, max(0, 1 - t p).

    Args:
        prediction: scores p of any shape.
        target: labels t of the same shape, -1 or 1.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Example:
        >>> hinge([0.5, 2.0, -1.0], [1.0, 1.0, 1.0], reduction="none").tolist()
        [0.5, 0.0, 2.0]
    """
    return _value(_hinge, prediction, target, reduction)


def hinge_derivative(prediction: Any, target: Any, *, reduction: str = "mean") -> Float[Array, "..."]:
    """Derivative of hinge: -t where t p < 1, else 0 (also at the kink t p = 1), over N for the mean.

    Example:
        >>> hinge_derivative([0.5, 1.0], [1.0, 1.0], reduction="sum").tolist()
        [-1.0, 0.0]
    """
    return _slope(_hinge_slope, prediction, target, reduction)


def poisson_nll(prediction: Any, target: Any, *, is_log_rate: bool = True, reduction: str = "mean") -> Float[Array, "..."]:
    """Negative log-likelihood of Poisson counts, without the constant log(t!).

    Args:
        prediction: logarithm z of the rate, for exp(z) - t z; or the rate r itself, for r - t log(r).
        target: counts t of the same shape.
        is_log_rate: which of the two the prediction is.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Example:
        >>> float(poisson_nll(0.0, 3.0))
        1.0
        >>> float(poisson_nll(1.0, 3.0, is_log_rate=False))
        1.0
    """
    return _value(_poisson if is_log_rate else _poisson_rate_loss, prediction, target, reduction)


def poisson_nll_derivative(prediction: Any, target: Any, *, is_log_rate: bool = True, reduction: str = "mean") -> Float[Array, "..."]:
    """Derivative of poisson_nll, exp(z) - t, or 1 - t / r for a rate, over N for the mean.

    Example:
        >>> float(poisson_nll_derivative(0.0, 3.0))
        -2.0
    """
    return _slope(_poisson_slope if is_log_rate else _poisson_rate_slope, prediction, target, reduction)


# --- registry -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loss:
    """One loss as the checker, the documentation and the command line see it.

    Attributes:
        name: key in ``LOSSES``.
        value: the function, called as ``value(prediction, target, reduction=...)``.
        derivative: its derivative with respect to the prediction, called alike.
        formula: one loss in plain text; p or z is the prediction, t the target, d = p - t.
        derivative_formula: its derivative in plain text, without the 1/N of the mean.
        predictions: what a prediction is: ``"real"``, ``"probability"``, ``"logit"``, ``"distribution"`` or ``"logits"``.
        targets: what a target is: ``"real"``, ``"probability"``, ``"distribution"``, ``"sign"`` or ``"count"``.
        kinks: where the loss is not differentiable, in plain text; empty where it is everywhere.
        kink_convention: what the derivative returns there.
        is_rowwise: whether classes lie on the last axis, so that there is one loss per row.
        source: where it comes from.
    """

    name: str
    value: Callable[..., Array]
    derivative: Callable[..., Array]
    formula: str
    derivative_formula: str
    predictions: str
    targets: str
    kinks: str = ""
    kink_convention: str = ""
    is_rowwise: bool = False
    source: str = ""

    @property
    def is_smooth(self) -> bool:
        """Whether the derivative exists everywhere in the domain."""
        return not self.kinks


_ENTRIES = (
    Loss("mse", mse, mse_derivative, "d^2", "2 d", "real", "real", source="least squares, Legendre (1805)"),
    Loss(
        "mae",
        mae,
        mae_derivative,
        "|d|",
        "sign(d)",
        "real",
        "real",
        kinks="d = 0",
        kink_convention="0 at d = 0",
        source="least absolute deviations, Boscovich (1757)",
    ),
    Loss(
        "huber",
        huber,
        huber_derivative,
        "d^2/2 if |d| <= 1 else |d| - 1/2",
        "d cut to [-1, 1]",
        "real",
        "real",
        source="Huber (1964)",
    ),
    Loss("log_cosh", log_cosh, log_cosh_derivative, "log(cosh(d))", "tanh(d)", "real", "real", source="elementary"),
    Loss(
        "binary_cross_entropy",
        binary_cross_entropy,
        binary_cross_entropy_derivative,
        "-t log(p) - (1 - t) log(1 - p)",
        "(p - t) / (p (1 - p))",
        "probability",
        "probability",
        source="Bernoulli log-likelihood",
    ),
    Loss(
        "binary_cross_entropy_with_logits",
        binary_cross_entropy_with_logits,
        binary_cross_entropy_with_logits_derivative,
        "max(z, 0) - t z + log(1 + exp(-|z|))",
        "sigmoid(z) - t",
        "logit",
        "probability",
        source="Bernoulli log-likelihood",
    ),
    Loss(
        "categorical_cross_entropy",
        categorical_cross_entropy,
        categorical_cross_entropy_derivative,
        "-sum_i t_i log(p_i)",
        "-t_i / p_i",
        "distribution",
        "distribution",
        is_rowwise=True,
        source="multinomial log-likelihood",
    ),
    Loss(
        "categorical_cross_entropy_with_logits",
        categorical_cross_entropy_with_logits,
        categorical_cross_entropy_with_logits_derivative,
        "-sum_i t_i log_softmax(z)_i",
        "softmax(z)_i sum(t) - t_i",
        "logits",
        "distribution",
        is_rowwise=True,
        source="multinomial log-likelihood",
    ),
    Loss(
        "kl_divergence",
        kl_divergence,
        kl_divergence_derivative,
        "sum_i t_i log(t_i / p_i)",
        "-t_i / p_i",
        "distribution",
        "distribution",
        is_rowwise=True,
        source="Kullback and Leibler (1951)",
    ),
    Loss(
        "hinge",
        hinge,
        hinge_derivative,
        "max(0, 1 - t p)",
        "-t if t p < 1 else 0",
        "real",
        "sign",
        kinks="t p = 1",
        kink_convention="0 at t p = 1",
        source="Cortes and Vapnik (1995)",
    ),
    Loss(
        "poisson_nll",
        poisson_nll,
        poisson_nll_derivative,
        "exp(z) - t z",
        "exp(z) - t",
        "real",
        "count",
        source="Poisson log-likelihood, log link",
    ),
)

LOSSES: dict[str, Loss] = {entry.name: entry for entry in _ENTRIES}
