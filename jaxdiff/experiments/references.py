"""Values to hold ours against, in 50 digits: every definition is written from its formula in mpmath, and derivatives are mpmath's own.

No derivative formula of ours enters: mpmath differentiates the value numerically in a precision in which that costs nothing.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

DIGITS = 50


def _mpmath() -> Any:
    try:
        import mpmath
    except ImportError:
        raise ImportError("the reference values need mpmath: install jaxdiff[reference]") from None
    return mpmath


@dataclasses.dataclass(frozen=True)
class Elementary:
    """A function of one number: its name in jax.numpy, its formula, and its name in mpmath."""

    jax_name: str
    formula: str
    mpmath_name: str


ELEMENTARY: dict[str, Elementary] = {
    "sin": Elementary("sin", "sin(x)", "sin"),
    "cos": Elementary("cos", "cos(x)", "cos"),
    "exp": Elementary("exp", "exp(x)", "exp"),
    "log": Elementary("log", "log(x)", "log"),
    "sqrt": Elementary("sqrt", "sqrt(x)", "sqrt"),
    "arctan": Elementary("arctan", "arctan(x)", "atan"),
    "cosh": Elementary("cosh", "cosh(x)", "cosh"),
}


def _activation_definitions(mp: Any) -> dict[str, Callable[[Any], Any]]:
    def sigmoid(x: Any) -> Any:
        return 1 / (1 + mp.exp(-x))

    def softplus(x: Any) -> Any:
        # log1p, not log(1 + exp(x)): at x = -200 even fifty digits cannot hold 1 + exp(x).
        return mp.log1p(mp.exp(x))

    # Klambauer et al., "Self-Normalizing Neural Networks" (2017): for a standard normal x, selu(x) has mean 0 and variance 1. With
    # E[exp(k x); x < 0] = exp(k^2 / 2) Phi(-k) these two conditions are solved here, rather than copying the constants.
    root = mp.sqrt(2)
    one, two = mp.sqrt(mp.e) * mp.ncdf(-1), mp.e**2 * mp.ncdf(-2)
    selu_alpha = 1 / mp.sqrt(2 * mp.pi) / (mp.mpf(1) / 2 - one)
    selu_scale = 1 / mp.sqrt(mp.mpf(1) / 2 + selu_alpha**2 * (two - 2 * one + mp.mpf(1) / 2))
    return {
        "sigmoid": sigmoid,
        "relu": lambda x: x if x > 0 else x * 0,
        "tanh": mp.tanh,
        # The slope is the number that a user's 0.01 becomes, see `leaky_slope`.
        "leaky_relu": lambda x: x if x > 0 else x * mp.mpf(0.01),
        "elu": lambda x: x if x > 0 else mp.expm1(x),
        "selu": lambda x: selu_scale * x if x > 0 else selu_scale * selu_alpha * mp.expm1(x),
        "gelu": lambda x: x * mp.erfc(-x / root) / 2,
        "gelu_tanh": lambda x: x * sigmoid(2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf("0.044715") * x**3)),
        "silu": lambda x: x * sigmoid(x),
        "softplus": softplus,
        "log_sigmoid": lambda x: -softplus(-x),
        "mish": lambda x: x * mp.tanh(softplus(x)),
        "softsign": lambda x: x / (1 + abs(x)),
        "hard_tanh": lambda x: max(mp.mpf(-1), min(mp.mpf(1), x)),
        "hard_sigmoid": lambda x: max(mp.mpf(0), min(mp.mpf(1), (x + 3) / 6)),
    }


# Jacobians of functions of a whole vector; `vector_jacobian` differentiates these.
def _vector_definitions(mp: Any) -> dict[str, Callable[[Sequence[Any]], list[Any]]]:
    def softmax(x: Sequence[Any]) -> list[Any]:
        weights = [mp.exp(value) for value in x]
        total = mp.fsum(weights)
        return [weight / total for weight in weights]

    return {"softmax": softmax, "log_softmax": lambda x: [value - mp.log(mp.fsum([mp.exp(v) for v in x])) for value in x]}


def _loss_definitions(mp: Any) -> dict[str, Callable[[Any, Any], Any]]:
    """Loss of one element; the categorical ones of one class, to be summed over the classes."""

    def xlogy(x: Any, y: Any) -> Any:
        return mp.mpf(0) if x == 0 else x * mp.log(y)

    def softplus(x: Any) -> Any:
        return mp.log1p(mp.exp(x))

    return {
        "mse": lambda p, t: (p - t) ** 2,
        "mae": lambda p, t: abs(p - t),
        "huber": lambda p, t: (p - t) ** 2 / 2 if abs(p - t) <= 1 else abs(p - t) - mp.mpf(1) / 2,
        "log_cosh": lambda p, t: mp.log(mp.cosh(p - t)),
        "binary_cross_entropy": lambda p, t: -xlogy(t, p) - xlogy(1 - t, 1 - p),
        "binary_cross_entropy_with_logits": lambda p, t: softplus(p) - t * p,
        "hinge": lambda p, t: max(mp.mpf(0), 1 - t * p),
        "poisson_nll": lambda p, t: mp.exp(p) - t * p,
        "categorical_cross_entropy": lambda p, t: -xlogy(t, p),
        "kl_divergence": lambda p, t: xlogy(t, t) - xlogy(t, p),
    }


def has_activation(name: str) -> bool:
    """Whether there is a definition of this elementwise activation here."""
    return name in _activation_definitions(_mpmath().mp)


def has_vector(name: str) -> bool:
    """Whether there is a definition of this function of a whole vector here."""
    return name in _vector_definitions(_mpmath().mp)


def scalar_derivative(name: str, points: Sequence[float], n: int = 1) -> list[Any]:
    """The n-th derivative of an elementary function or activation at each point, to 50 digits.

    Example:
        >>> float(scalar_derivative("sin", [0.0])[0])
        1.0
        >>> derivative = scalar_derivative("tanh", [60.0])[0]  # sech(60)^2
        >>> round(float(derivative * 1e52), 6)
        3.067059
    """
    mpmath = _mpmath()
    exact = []
    for point in points:
        # In a tail the value is one less exp(-2|x|), and the derivative is that difference: it needs digits of its own.
        with mpmath.workdps(DIGITS + int(n * 2 * abs(point))):
            definitions = _activation_definitions(mpmath.mp) | {
                key: getattr(mpmath.mp, entry.mpmath_name) for key, entry in ELEMENTARY.items()
            }
            exact.append(mpmath.diff(definitions[name], mpmath.mpf(float(point)), n))
    return exact


def vector_jacobian(name: str, x: Sequence[float]) -> list[list[Any]]:
    """Jacobian of softmax or log-softmax at x, rows are outputs, to 50 digits."""
    mpmath = _mpmath()
    with mpmath.workdps(DIGITS):
        function = _vector_definitions(mpmath.mp)[name]
        point = [mpmath.mpf(float(value)) for value in x]

        def entry(i: int, j: int) -> Any:
            return mpmath.diff(lambda value: function([*point[:j], value, *point[j + 1 :]])[i], point[j])

        return [[entry(i, j) for j in range(len(point))] for i in range(len(point))]


def loss_derivative(name: str, prediction: np.ndarray, target: np.ndarray, *, count: int) -> list[Any]:
    """Derivative of a mean loss with respect to each prediction, flattened in C order, to 50 digits.

    Args:
        name: registered loss.
        prediction: ``[N]``, or ``[N, classes]``.
        target: of the same shape.
        count: how many losses the mean is over.
    """
    mpmath = _mpmath()
    with mpmath.workdps(DIGITS):
        mp = mpmath.mp
        if name == "categorical_cross_entropy_with_logits":
            rows = []
            for logits, targets in zip(prediction, target, strict=True):
                total = mp.fsum([mp.exp(mp.mpf(float(v))) for v in logits])
                mass = mp.fsum([mp.mpf(float(t)) for t in targets])
                # d/dz_i of sum_j t_j (log sum exp z - z_j); differentiated by hand, since here the classes are coupled.
                rows += [(mass * mp.exp(mp.mpf(float(z))) / total - mp.mpf(float(t))) / count for z, t in zip(logits, targets, strict=True)]
            return rows
        function = _loss_definitions(mp)[name]
        pairs = zip(np.ravel(prediction).tolist(), np.ravel(target).tolist(), strict=True)
        return [mpmath.diff(lambda p, t=t: function(p, mpmath.mpf(t)), mpmath.mpf(p)) / count for p, t in pairs]


def has_loss(name: str) -> bool:
    """Whether there is a definition of this loss here."""
    return name == "categorical_cross_entropy_with_logits" or name in _loss_definitions(_mpmath().mp)


def error_in_ulp(values: Any, references: Sequence[Any], dtype: str, terms: Sequence[float] | None = None) -> np.ndarray:
    """|value - reference| in units in the last place (ulp) of the reference; inf where the value is not finite.

    Below the smallest normal number the unit is that number: XLA flushes what is smaller to zero.

    Args:
        values: numbers of ``dtype``.
        references: exact ones.
        dtype: float32 or float64.
        terms: sizes of the terms that a reference is the difference of; where they are larger, the unit is theirs, since a rounded term
            cannot leave a difference with more digits.

    Example:
        >>> error_in_ulp(np.array([1.0 + 2.0**-52]), [1], "float64").tolist()
        [1.0]
    """
    mpmath = _mpmath()
    info = np.finfo(dtype)
    smallest = mpmath.mpf(float(info.smallest_normal))
    errors = []
    with mpmath.workdps(DIGITS):
        sizes = [0.0] * len(references) if terms is None else terms
        for value, reference, term in zip(np.ravel(np.asarray(values)).tolist(), references, sizes, strict=True):
            size = max(abs(mpmath.mpf(reference)), mpmath.mpf(float(term)))
            spacing = mpmath.mpf(2) ** (mpmath.frexp(size)[1] - 1) * mpmath.mpf(float(info.eps)) if size >= smallest else smallest
            errors.append(float(abs(mpmath.mpf(value) - reference) / spacing) if np.isfinite(value) else float("inf"))
    return np.asarray(errors)


def relative_error(values: Any, references: Sequence[Any]) -> np.ndarray:
    """|value - reference| / |reference|; inf where the value is not finite, absolute where the reference is zero."""
    mpmath = _mpmath()
    errors = []
    with mpmath.workdps(DIGITS):
        for value, reference in zip(np.ravel(np.asarray(values)).tolist(), references, strict=True):
            if not np.isfinite(value):
                errors.append(float("inf"))
                continue
            difference = abs(mpmath.mpf(value) - reference)
            errors.append(float(difference if reference == 0 else difference / abs(reference)))
    return np.asarray(errors)
