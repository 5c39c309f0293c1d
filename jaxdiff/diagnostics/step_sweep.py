"""The error of a finite difference over its step: the U-curve, its two slopes, and the predicted best step on it.

The error is |C| h^p |f^(d+p)| of truncation and W e |f| / h^d of rounding (`jaxdiff.derivatives.steps`): on logarithmic axes two straight
lines, one rising with slope p, one falling with slope -d, that cross near the best step. Both are fitted to the measured errors, so that a
scheme that is not of the order it claims, or an f that is computed with less care than to the last bit, shows.

References:
    W. Press et al., Numerical Recipes, 3rd edition (2007), section 5.7. The slopes are fitted as medians of the slopes between all pairs:
    P. Sen, Estimates of the regression coefficient based on Kendall's tau, JASA 63 (1968), 1379-1389; rounding errors scatter by decades.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._validation import check_choice, check_count
from jaxdiff.derivatives import Autodiff, FiniteDifference, default_step, derivative

DTYPES = ("float32", "float64")
# A step counts for a slope where the other error is at most 2^-6 of this one's. Our own choice.
_CLEARANCE = 6
# At one point rounding errors are a matter of luck: the median is taken over so many, irregularly spread.
_NUM_POINTS = 15


@dataclasses.dataclass(frozen=True)
class StepCurve:
    """One scheme in one precision.

    Attributes:
        scheme: kind and order, as in ``"central-2"``.
        dtype: precision of x and f.
        order: p, the power of the step by which the scheme claims to be wrong.
        derivative_order: n.
        steps: absolute, powers of two, ascending.
        errors: of the derivative at each step, median over the points, relative to the reference, absolute where that is zero; inf where it
            is not finite.
        truncation_slope: d log(error) / d log(h) to the right of the best step; p is expected. NaN where too few steps show it.
        rounding_slope: the same to the left; minus the order of the derivative is expected.
        predicted_step: what `default_step` says, without looking at f, times max(|x|, 1).
        predicted_error: the error there.
        best_step: the step with the smallest error.
        best_error: the error there.
    """

    scheme: str
    dtype: str
    order: int
    derivative_order: int
    steps: np.ndarray
    errors: np.ndarray
    truncation_slope: float
    rounding_slope: float
    predicted_step: float
    predicted_error: float
    best_step: float
    best_error: float

    def fitted_lines(self) -> list[np.ndarray]:
        """The errors that each fitted slope means at every step, of rounding, then of truncation; without those of too few steps."""
        lines = []
        for slope, is_used in zip(
            (self.rounding_slope, self.truncation_slope), _lawful(self.errors, self.derivative_order + self.order), strict=True
        ):
            if math.isfinite(slope):
                height = np.median(np.log(self.errors[is_used]) - slope * np.log(self.steps[is_used]))
                lines.append(np.exp(height + slope * np.log(self.steps)))
        return lines


@dataclasses.dataclass(frozen=True)
class StepSweep:
    """Every curve of one sweep.

    Attributes:
        x: the point.
        n: order of the derivative.
        references: what the derivative at x is taken to be, by dtype: each at the number that the dtype makes of x.
        source: where the reference comes from.
        curves: one for each scheme and dtype.
    """

    x: float
    n: int
    references: dict[str, float]
    source: str
    curves: tuple[StepCurve, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings."""
        curves = [
            {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in dataclasses.asdict(curve).items()}
            for curve in self.curves
        ]
        return {"x": self.x, "n": self.n, "references": dict(self.references), "source": self.source, "curves": curves}

    def __str__(self) -> str:
        """One line for each curve."""
        lines = [f"derivative {self.n} at x = {self.x:g}; reference: {self.source}"]
        lines.append(f"{'dtype':8} {'scheme':12} {'slopes':>13} {'predicted step':>15} {'error':>8} {'best step':>10} {'error':>8}")
        for curve in self.curves:
            slopes = f"{curve.rounding_slope:+.2f} {curve.truncation_slope:+.2f}"
            predicted, best = (
                f"{curve.predicted_step:15.2e} {curve.predicted_error:8.1e}",
                f"{curve.best_step:10.2e} {curve.best_error:8.1e}",
            )
            lines.append(f"{curve.dtype:8} {curve.scheme:12} {slopes:>13} {predicted} {best}")
        return "\n".join(lines)

    def plot(self, figure: Any = None) -> Any:
        """Draw the curves, one panel per dtype: a star where the step was predicted, a ring at the best one, thin lines of both slopes.

        Args:
            figure: a matplotlib figure to draw on; None makes one.

        Returns:
            The figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        if figure is None:
            try:
                from matplotlib.figure import Figure
            except ImportError:
                raise ImportError("plot needs matplotlib: install jaxdiff[plot]") from None
            figure = Figure(figsize=(9.0, 4.3), layout="constrained")
        dtypes = list(dict.fromkeys(curve.dtype for curve in self.curves))
        panels = figure.subplots(1, len(dtypes), squeeze=False)[0]
        for panel, dtype in zip(panels, dtypes, strict=True):
            floor = float(np.finfo(dtype).eps) / 8
            for position, curve in enumerate(curve for curve in self.curves if curve.dtype == dtype):
                color = f"C{position}"
                is_shown = np.isfinite(curve.errors)
                slopes = [f"{slope:+.1f}" if math.isfinite(slope) else "?" for slope in (curve.rounding_slope, curve.truncation_slope)]
                label = f"{curve.scheme}, slopes {', '.join(slopes)}"
                panel.loglog(curve.steps[is_shown], np.maximum(curve.errors[is_shown], floor), ".-", color=color, label=label)
                for line in curve.fitted_lines():
                    is_within = (line > curve.best_error / 8) & (line < 1)
                    panel.plot(curve.steps[is_within], line[is_within], "--", color=color, linewidth=0.8, alpha=0.6)
                panel.plot(curve.predicted_step, max(curve.predicted_error, floor), "*", color=color, markersize=14, markeredgecolor="k")
                panel.plot(curve.best_step, max(curve.best_error, floor), "o", color=color, markersize=10, fillstyle="none")
            panel.set_title(dtype)
            panel.set_xlabel("step h")
            panel.legend(title="star: predicted step, ring: best", fontsize=7.5, title_fontsize=7.5, framealpha=0.6)
        panels[0].set_ylabel(f"error of derivative {self.n} at {self.x:g}")
        return figure


def step_sweep(
    f: Callable[[Any], Any],
    x: float,
    schemes: Sequence[str | FiniteDifference] = ("forward-1", "central-2", "central-4"),
    dtypes: Sequence[str] = DTYPES,
    *,
    n: int = 1,
    reference: float | Callable[[float], Any] | None = None,
    spread: float = 2.0**-6,
) -> StepSweep:
    """The error of finite differences of f at x for every power of two as the step.

    Args:
        f: function of one number, written in JAX.
        x: the point; each dtype takes the number nearest to it.
        schemes: names such as ``"central-4"`` (kind and order of accuracy), or `FiniteDifference` methods, whose step is not looked at.
        dtypes: ``"float32"``, ``"float64"`` or both; float64 is switched on for as long as it is needed.
        n: order of the derivative.
        reference: the exact derivative: a number, or a function of the point; None for autodiff in float64, which is itself only as good
            as the rules of the functions that f is made of.
        spread: errors are medians over points within ``spread * |x|`` of x, since at one point rounding errors are a matter of luck; zero,
            x = 0 or a reference that is a number take x alone.

    Returns:
        The curves, their slopes, and the predicted and the best step of each.

    Raises:
        ValueError: an unknown scheme or dtype; a reference or an x that is not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> curve = jd.step_sweep(jnp.exp, 1.0, ["central-2"], ["float64"]).curves[0]
        >>> round(curve.truncation_slope, 1)
        2.0
        >>> curve.predicted_error < 10 * curve.best_error + 1e-10
        True
    """
    n = check_count(n, "n", minimum=1)
    point = float(x)
    if not math.isfinite(point):
        raise ValueError(f"x = {x!r}; expected a finite number")
    for dtype in dtypes:
        check_choice(dtype, "dtypes", DTYPES)
    methods = [_as_method(scheme) for scheme in schemes]
    curves: list[StepCurve] = []
    references: dict[str, float] = {}
    for dtype in dict.fromkeys(dtypes):
        points = _points(point, spread if reference is None or callable(reference) else 0.0).astype(dtype)
        exact = _references(f, points, n, reference)
        references[dtype] = float(exact[0])
        with _precision(dtype):
            curves += _curves(f, points, n, methods, exact)
    source = "autodiff in float64" if reference is None else "given"
    return StepSweep(point, n, references, source, tuple(curves))


def _as_method(scheme: str | FiniteDifference) -> FiniteDifference:
    if isinstance(scheme, FiniteDifference):
        return dataclasses.replace(scheme, step=None)
    kind, _, order = scheme.partition("-") if isinstance(scheme, str) else ("", "", "")
    if not order.isdecimal():
        raise ValueError(f"schemes has {scheme!r}; expected names such as 'central-2', or FiniteDifference methods")
    return FiniteDifference(kind=kind, order=int(order))


def _precision(dtype: str) -> contextlib.AbstractContextManager:
    return jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext()


def _points(x: float, spread: float) -> np.ndarray:
    """x first, then its neighbours: multiples of the golden ratio modulo one fill an interval evenly and in no step with powers of two."""
    if spread == 0 or x == 0:
        return np.array([x])
    share = np.arange(_NUM_POINTS) * (math.sqrt(5) - 1) / 2 % 1
    return x * (1 + spread * np.where(share > 0.5, share - 1, share) * 2)


def _references(f: Callable[[Any], Any], x: np.ndarray, n: int, reference: Any) -> np.ndarray:
    wide = x.astype(np.float64)
    if reference is None:
        with jax.enable_x64(True):
            values = np.asarray(derivative(f, n, method=Autodiff())(wide))
    else:
        values = np.array([_call(reference, point) for point in wide.tolist()])
    if not np.all(np.isfinite(values)):
        worst = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"the reference at x = {wide[worst]!r} is {values[worst]}; expected a finite derivative")
    return values


def _call(reference: Callable[[float], Any] | float, x: float) -> float:
    return float(reference(x)) if callable(reference) else float(reference)


def _curves(f: Callable[[Any], Any], x: np.ndarray, n: int, methods: list[FiniteDifference], references: np.ndarray) -> list[StepCurve]:
    info = np.finfo(x.dtype)
    length = max(abs(float(x[0])), 1.0)
    top = round(math.log2(length)) - 1
    steps = 2.0 ** np.arange(top - info.nmant + 2, top + 1)

    def sweep(x: jax.Array, steps: jax.Array) -> list[jax.Array]:
        return [jax.vmap(lambda h, m=method: derivative(f, n, method=dataclasses.replace(m, step=h))(x))(steps) for method in methods]

    # One program: compiling costs more than running.
    rows = jax.jit(sweep)(jnp.asarray(x), jnp.asarray(steps, x.dtype))
    curves = []
    for method, row in zip(methods, rows, strict=True):
        each = np.abs(np.asarray(row, np.float64) - references) / np.where(references == 0, 1.0, np.abs(references))
        errors = np.median(np.where(np.isfinite(each), each, np.inf), axis=1)
        predicted = default_step(method.kind, n, method.order, x.dtype.name) * 2.0 ** round(math.log2(length))
        best = int(np.argmin(errors))
        near = int(np.argmin(np.abs(np.log(steps / predicted))))
        falling, rising = fitted_slopes(steps, errors, n + method.order)
        curves.append(
            StepCurve(
                scheme=f"{method.kind}-{method.order}",
                dtype=x.dtype.name,
                order=method.order,
                derivative_order=n,
                steps=steps,
                errors=errors,
                truncation_slope=rising,
                rounding_slope=falling,
                predicted_step=float(steps[near]),
                predicted_error=float(errors[near]),
                best_step=float(steps[best]),
                best_error=float(errors[best]),
            )
        )
    return curves


def fitted_slopes(steps: np.ndarray, errors: np.ndarray, powers: int) -> tuple[float, float]:
    """Slopes of the error to the left and to the right of the best step, on logarithmic axes; NaN where too few steps show one.

    Args:
        steps: ascending, powers of two.
        errors: relative, at each step.
        powers: order of the derivative and of the scheme together: by so many powers of the step the ratio of the two errors grows.

    Example:
        >>> h = 2.0 ** np.arange(-40, 0)
        >>> [round(slope, 1) for slope in fitted_slopes(h, h**2 + 1e-16 / h, 3)]
        [-1.0, 2.0]
    """
    left, right = _lawful(errors, powers)
    return _median_slope(steps, errors, left), _median_slope(steps, errors, right)


def _lawful(errors: np.ndarray, powers: int) -> tuple[np.ndarray, np.ndarray]:
    """At which steps the error is one of rounding, and at which one of truncation."""
    bottom = int(np.argmin(errors))
    clearance = math.ceil(_CLEARANCE / powers)
    # An error of one is no derivative at all and follows no power law, nor does what lies beyond it; zero has no logarithm.
    is_lawless = errors >= 0.1
    first = int(np.max(np.flatnonzero(is_lawless[:bottom]), initial=-1)) + 1
    last = bottom + int(np.argmax(is_lawless[bottom:])) if np.any(is_lawless[bottom:]) else errors.size
    index = np.arange(errors.size)
    is_used = (index >= first) & (index < last) & (errors > 0)
    return is_used & (index <= bottom - clearance), is_used & (index >= bottom + clearance)


def _median_slope(steps: np.ndarray, errors: np.ndarray, is_used: np.ndarray) -> float:
    if np.count_nonzero(is_used) < 3:
        return math.nan
    h, e = np.log(steps[is_used]), np.log(errors[is_used])
    left, right = np.triu_indices(h.size, 1)
    return float(np.median((e[right] - e[left]) / (h[right] - h[left])))
