"""Whether a function of one number is continuous and differentiable at a point, judged from values alone, with the evidence.

No finite number of values can prove either. What can be done is to look at how f behaves on a ladder of distances h = 2^-k from x, on
both sides at once, through two combinations that take out what every smooth function has:

    even part   E(h) = f(x + h) + f(x - h) - 2 f(x)         smooth: f'' h^2;   corner: (f'_+ - f'_-) h
    odd part    Q(h) = O(h) - 2 O(h / 2),  O(h) = f(x + h) - f(x - h)          smooth: f''' h^3 / 4, the slope gone

and the power of h with which each vanishes, read off the smallest distances at which it still stands out of f's own noise:

    power of E or Q     below 0      0                        between 0 and 1            1                    above 1
    meaning             unbounded    Q: jump; E: removable    infinite slope:            E: corner            differentiable
                                                              cusp, vertical tangent     Q: slope diverges

A corner beside a curvature, c h + b h^2, has no clean power where the two are of one size, and is looked for in (4 E(h / 2) - E(h)) / h,
which is c alone: a corner shows as a plateau over several rungs that no smaller distance contradicts.

The noise of f is measured: by fourth differences of values at several small spacings on either side, and by its rounding. Where neither
part shows a clean power, or a corner as large as a twentieth of the slopes around could hide in the noise, the answer is "inconclusive".
The thresholds are ours.

References:
    J. Moré and S. Wild, Estimating computational noise, SIAM Journal on Scientific Computing 33 (2011) 1292-1314: noise from difference
    tables.
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon
from jaxdiff._validation import as_float_leaves, check_positive, explain_tracing_errors, is_traced
from jaxdiff.derivatives.protocol import Bound, compiled

# How many rungs of the ladder must agree on a power of h, and how many times the noise each of them must be.
_RUNGS = 4
_STANDS_OUT = 4.0
# Powers of h that a window's rungs may differ by and still count as one.
_SPREAD = 0.25
# By how much the rungs of a corner's plateau may differ.
_PLATEAU = 0.2
# A corner this large, relative to the slopes around, has to be excluded before a point is called smooth.
_WORST_HIDDEN_CORNER = 0.05


class PointKind(enum.StrEnum):
    """What f looks like at a point."""

    SMOOTH = "smooth"
    """Differentiable, as far as the precision and the noise of f can tell."""
    CORNER = "corner"
    """Continuous; the slopes from left and right are finite and differ."""
    CUSP = "cusp"
    """Continuous; the slopes grow without bound, with opposite signs."""
    VERTICAL_TANGENT = "vertical tangent"
    """Continuous; the slope grows without bound, on both sides with one sign, or on one side only."""
    JUMP = "jump"
    """The limits from left and right differ."""
    REMOVABLE = "removable"
    """The limits agree with one another and not with f there, which differs or is not finite."""
    NON_FINITE = "non-finite"
    """F is not finite on one or both sides, or grows without bound: a pole, or the edge of its domain."""
    INCONCLUSIVE = "inconclusive"
    """Noise, oscillation or precision allow no answer."""


@dataclasses.dataclass(frozen=True)
class PointReport:
    """A verdict and what it rests on. All numbers are Python floats; NaN where there is none.

    Attributes:
        kind: the verdict.
        is_continuous: None where that was not settled.
        is_differentiable: None where that was not settled.
        x: the point.
        value: f there.
        left_limit: f from the left.
        right_limit: f from the right.
        left_slope: slope from the left; infinite where it diverges.
        right_slope: slope from the right.
        noise: measured error of one value of f.
        hidden_jump: a difference of the limits up to this size would have gone unnoticed.
        hidden_corner: a difference of the slopes up to this size would have gone unnoticed.
    """

    kind: PointKind
    is_continuous: bool | None
    is_differentiable: bool | None
    x: float
    value: float
    left_limit: float
    right_limit: float
    left_slope: float
    right_slope: float
    noise: float
    hidden_jump: float
    hidden_corner: float

    def __str__(self) -> str:
        """One line of text."""
        slopes = f"slopes {self.left_slope:.6g} and {self.right_slope:.6g}"
        return f"{self.kind} at x = {self.x:.6g}: limits {self.left_limit:.6g} and {self.right_limit:.6g}, {slopes}"


def classify_point(f: Callable[..., Any], x: Any, *args: Any, scale: float | None = None) -> PointReport:
    """Tell whether f is continuous and differentiable at a point: smooth, corner, cusp, jump, vertical tangent, ...

    The answer comes from values of f in the precision of x, at distances from ``scale / 4`` down to a few spacings of x, in one batched
    call. It runs on the host and cannot be traced.

    Args:
        f: called as ``f(x, *args)`` with one number; written in JAX; returns one number.
        x: the point.
        *args: f's other arguments.
        scale: four times the largest distance looked at, absolute; by default max(|x|, 1).

    Returns:
        The verdict, with limits and slopes from both sides.

    Raises:
        TypeError: f does not return one real number; x is not real; called inside a JAX transformation.
        ValueError: x is not one finite number; scale is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> report = jd.derivatives.classify_point(jnp.abs, 0.0)
        >>> str(report.kind), report.is_continuous, report.is_differentiable
        ('corner', True, False)
        >>> round(report.left_slope, 6), round(report.right_slope, 6)
        (-1.0, 1.0)
        >>> str(jd.derivatives.classify_point(jnp.sign, 0.0).kind)
        'jump'
    """
    if is_traced((x, args)):
        raise TypeError("classify_point looks at values and cannot be traced; call it outside of jit, vmap and grad")
    point = as_float_leaves(x, "x")
    if not isinstance(point, jax.Array) or point.ndim != 0 or not bool(jnp.isfinite(point)):
        raise ValueError(f"x = {x!r}; expected one finite number")
    check_positive(scale, "scale")
    with explain_tracing_errors():
        return _judge(_look(Bound.of(f, (point, *args)), point, scale))


@dataclasses.dataclass(frozen=True)
class _View:
    """Values of f around a point, in float64 on the host; distances descend.

    Attributes:
        x: the point.
        value: f there.
        h: distances, [k].
        left: f(x - h), [k].
        right: f(x + h), [k].
        noise: error of a value at each distance, [k].
        measured: the part of it that the difference tables show.
        epsilon: machine epsilon of the precision that f was evaluated in.
    """

    x: float
    value: float
    h: np.ndarray
    left: np.ndarray
    right: np.ndarray
    noise: np.ndarray
    measured: float
    epsilon: float


@compiled
def _values(_: None, bound: Bound, points: jax.Array) -> jax.Array:
    return jax.vmap(lambda point: bound.scalar(point)[0])(points)


def _look(bound: Bound, point: jax.Array, scale: float | None) -> _View:
    epsilon, dtype = machine_epsilon(point.dtype), point.dtype
    x = float(point)
    scale = max(abs(x), 1.0) if scale is None else float(scale)
    # The spacing of numbers at x; around zero, of numbers as large as the scale, since f seldom resolves less.
    spacing = epsilon * 2.0 ** np.floor(np.log2(abs(x))) if x else epsilon * scale
    top = np.floor(np.log2(scale / 4))
    h = 2.0 ** np.arange(top, np.ceil(np.log2(8 * spacing)) - 1, -1.0)
    spacings = spacing * 2.0 ** np.arange(4, max(5, -np.log2(epsilon) / 2), 6)
    table = np.arange(1, 13)[None, :] * spacings[:, None]
    # Points are rounded once, here, to the precision of x.
    grid = x + np.concatenate([[0.0], h, -h, table.ravel(), -table.ravel()])
    points = jnp.asarray(grid, dtype)
    values = np.asarray(_values(None, bound, points), np.float64)
    value, right, left = float(values[0]), values[1 : 1 + h.size], values[1 + h.size : 1 + 2 * h.size]
    taken = np.asarray(points, np.float64) - x
    right_moved, left_moved = taken[1 : 1 + h.size], -taken[1 + h.size : 1 + 2 * h.size]
    tables = values[1 + 2 * h.size :].reshape(2 * spacings.size, -1)
    measured = _table_noise(tables)
    size = np.maximum(np.maximum(np.abs(left), np.abs(right)), abs(value) if np.isfinite(value) else 0.0)
    noise = np.maximum(epsilon * size, measured)
    # A correctly rounded multiple of x inside f changes f by the slope times the rounding of x, at every distance alike.
    with np.errstate(all="ignore"):
        slopes = np.abs(right - left) / (2 * h)
    slopes = np.where(np.isfinite(slopes), slopes, 0.0)
    noise = noise + epsilon * abs(x) * np.quantile(slopes, 0.25)  # a low quantile: beside a jump most of these are too steep
    # A distance that x + h or x - h cannot carry makes the two sides uneven: that is an error in f, of the slope times the rounding.
    uneven = np.abs(right_moved - h) + np.abs(left_moved - h)
    noise = noise + uneven * slopes
    return _View(x, value, h, left, right, noise, measured, epsilon)


def _table_noise(tables: np.ndarray) -> float:
    """Largest standard deviation that fourth differences of any table show.

    Differences of independent errors alternate in sign; where they do not, what they show is f itself. Tables with values that are not
    finite are left out.
    """
    fourth = np.diff(tables[np.all(np.isfinite(tables), axis=1)], n=4, axis=1)
    is_noise = np.sum(np.sign(fourth[:, 1:]) * np.sign(fourth[:, :-1]) < 0, axis=1) >= 3
    # The fourth difference of independent errors of variance s^2 has variance 70 s^2: 8! / (4!)^2.
    return float(np.sqrt(np.max(np.mean(fourth[is_noise] ** 2, axis=1), initial=0.0) / 70))


def _judge(view: _View) -> PointReport:
    is_finite = np.isfinite(view.left) & np.isfinite(view.right)
    if not np.all(is_finite[-_RUNGS:]):
        return _report(view, PointKind.NON_FINITE, continuous=False)
    # Of the larger distances only those count that are joined to x by finite values.
    first = int(np.flatnonzero(~is_finite)[-1]) + 1 if not np.all(is_finite) else 0
    view = dataclasses.replace(view, **{name: getattr(view, name)[first:] for name in ("h", "left", "right", "noise")})
    if len(view.h) < 2 * _RUNGS:
        return _report(view, PointKind.INCONCLUSIVE)
    if not np.isfinite(view.value):
        return _judge_hole(view)
    odd = view.right - view.left
    even = (view.right - view.value) + (view.left - view.value)
    even_power = _power(even, 4 * view.noise)
    odd_power = _power(odd[:-1] - 2 * odd[1:], 6 * view.noise[:-1])
    if np.isnan(even_power) or np.isnan(odd_power):
        return _report(view, PointKind.INCONCLUSIVE)
    if min(even_power, odd_power) < -0.1:
        return _report(view, PointKind.NON_FINITE, continuous=False)
    if min(even_power, odd_power) < 0.1:
        changes = [_power(side[:-1] - side[1:], 2 * view.noise[:-1]) for side in (view.left, view.right)]
        if not min(changes) > 0.1:  # a side that has no limit, such as log |x|
            return _report(view, PointKind.INCONCLUSIVE)
        left, right = (_limit(side, view.noise) for side in (view.left, view.right))
        is_jump = odd_power < 0.1
        gap = abs(right - left) if is_jump else max(abs(right - view.value), abs(left - view.value))
        if not gap > _hidden_jump(view):  # the smallest distances do not bear out what larger ones show
            return _report(view, PointKind.INCONCLUSIVE)
        return _report(view, PointKind.JUMP if is_jump else PointKind.REMOVABLE, continuous=False)
    if 1.03 < odd_power < 1.15:
        return _report(view, PointKind.INCONCLUSIVE, continuous=True)
    if min(even_power, odd_power) < 0.85 or odd_power < 1.15:
        return _report(view, _steep_kind(view, even_power < 0.85, odd_power < 1.15), continuous=True)
    if even_power < 1.15:
        # A corner's E is linear: E(h) - 2 E(h / 2) leaves only the curvature. Where a linear part stays, E / h has no limit: |x| log |x|.
        rest = _power(even[:-1] - 2 * even[1:], 12 * view.noise[:-1])
        if rest > 1.25:
            return _report(view, PointKind.CORNER, continuous=True)
        return _report(view, PointKind.CUSP if even_power < 1.03 else PointKind.INCONCLUSIVE, continuous=True)
    corner, hidden = _corner(view)
    if corner:
        return _report(view, PointKind.CORNER, continuous=True)
    if even_power < 1.35 or not _is_flat(view, hidden):
        return _report(view, PointKind.INCONCLUSIVE, continuous=True if even_power < 1.35 else None)
    return _report(view, PointKind.SMOOTH, continuous=True)


def _is_flat(view: _View, hidden: float) -> bool:
    """Whether a corner that could hide is small: beside the slopes around, or beside the rounding of f where f does not change at all."""
    changes = np.maximum(np.abs(view.left - view.value), np.abs(view.right - view.value))
    slopes = np.where(changes > _STANDS_OUT * 2 * view.noise, changes, 0.0) / view.h
    size = max(abs(view.value), float(np.max(np.abs(view.left))), float(np.max(np.abs(view.right))))
    return bool(hidden <= _WORST_HIDDEN_CORNER * np.max(slopes) or hidden * view.h[0] <= 128 * view.epsilon * size)


def _judge_hole(view: _View) -> PointReport:
    """F is not finite at x itself: its limits may still exist and agree."""
    odd_power = _power(view.right - view.left, 2 * view.noise)
    total = view.right + view.left
    even_power = _power(total[:-1] - total[1:], 4 * view.noise[:-1])
    least = min(odd_power, even_power)
    if np.isnan(odd_power) or np.isnan(even_power) or least < -0.1 or 4 * view.noise[-1] > 0.01 * np.max(np.abs(total)):
        return _report(view, PointKind.NON_FINITE, continuous=False)
    if least > 0.1:
        return _report(view, PointKind.REMOVABLE, continuous=False)
    return _report(view, PointKind.JUMP if even_power > 0.1 else PointKind.NON_FINITE, continuous=False)


def _power(part: np.ndarray, noise: np.ndarray) -> float:
    """The power of h with which ``part`` vanishes, read at the smallest distances; inf where it never stands out, NaN where it is erratic.

    Windows of a few rungs are tried from the smallest distance upwards. The first one that shows one power decides, if what lies below it
    is noise: smaller than the window by half.
    """
    size = np.abs(part)
    stands_out = size > _STANDS_OUT * noise
    if not np.any([np.all(stands_out[k : k + _RUNGS]) for k in range(len(size) - _RUNGS + 1)]):
        return np.inf
    for start in range(len(size) - _RUNGS, -1, -1):
        window = slice(start, start + _RUNGS)
        if not np.all(stands_out[window]) or np.any(np.sign(part[window]) != np.sign(part[start])):
            continue
        powers = np.log2(size[window][:-1] / size[window][1:])
        is_one_power = np.ptp(powers) < _SPREAD or np.all(powers > 1.35)
        below = size[start + _RUNGS :]
        power = float(np.min(powers)) if np.all(powers > 1.35) else float(powers[-1])
        if is_one_power and (below.size == 0 or np.max(below) * 2 <= size[start]):
            # What the power foretells for smaller distances, where that is far above the noise, must be there.
            foretold = size[start + _RUNGS - 1] * 2.0 ** (-max(power, 0.0) * np.arange(1, below.size + 1))
            is_missing = (foretold > 4 * _STANDS_OUT * noise[start + _RUNGS :]) & (below < foretold / 2)
            if power > 1.35 or not np.any(is_missing):
                return power
    return np.nan


def _hidden_jump(view: _View) -> float:
    """The largest jump that does not stand out of the noise in Q at the smallest distance."""
    return float(6 * _STANDS_OUT * view.noise[-1])


def _corner(view: _View) -> tuple[bool, float]:
    """Whether a plateau shows a corner, and otherwise how large a corner may still be."""
    even = (view.right - view.value) + (view.left - view.value)
    sizes = (4 * even[1:] - even[:-1]) / view.h[:-1]
    # Independent errors of f(x), f(x +- h), f(x +- h / 2) enter with weights 6, 1 and 4.
    bars = _STANDS_OUT * np.sqrt(36 + 2 + 32) * view.noise[:-1] / view.h[:-1]
    value, bar, taken = _settle(sizes, bars)
    window = sizes[taken][np.abs(sizes[taken]) > bars[taken]]
    is_plateau = window.size >= _RUNGS and np.ptp(window[:_RUNGS]) <= _PLATEAU * abs(value)
    return bool(is_plateau and abs(value) > bar), abs(value) + bar


def _steep_kind(view: _View, even_is_steep: bool, odd_is_steep: bool) -> PointKind:
    """Slopes that diverge with opposite signs show in the even part alone: a cusp. With both parts steep the sides are asked one by one."""
    if not odd_is_steep:
        return PointKind.CUSP
    left, right = _side_slopes(view) if even_is_steep else (np.inf, np.inf)
    is_cusp = np.isinf(left) and np.isinf(right) and np.sign(left) != np.sign(right)
    return PointKind.CUSP if is_cusp else PointKind.VERTICAL_TANGENT


def _side_slopes(view: _View) -> tuple[float, float]:
    """Slopes from left and right; infinite where the slope's changes from rung to rung do not shrink, NaN where that cannot be told."""
    slopes = []
    for side, sign in ((view.left, -1.0), (view.right, 1.0)):
        quotient = sign * (side - view.value) / view.h
        bend = (side - view.value)[:-1] - 2 * (side - view.value)[1:]
        power = _power(bend, 4 * view.noise[:-1])
        if power < 1.03:
            slopes.append(float(np.copysign(np.inf, quotient[-1])))
        elif not power > 1.15:  # too close to tell, or erratic
            slopes.append(float("nan"))
        else:
            slopes.append(_limit(quotient, 2 * view.noise / view.h))
    return slopes[0], slopes[1]


def _limit(values: np.ndarray, noise: np.ndarray) -> float:
    """The limit of values that approach it in proportion to h."""
    return _settle(2 * values[1:] - values[:-1], _STANDS_OUT * 3 * noise[1:])[0]


def _settle(values: np.ndarray, bars: np.ndarray) -> tuple[float, float, slice]:
    """The best of values that agree: from the smallest distance upwards, for as long as all intervals value +- bar have a point in common.

    Larger distances have less noise and more truncation; the first that contradicts those below it is the first whose truncation shows.

    Returns:
        The value of the smallest bar, its bar, and which rungs agreed (from larger to smaller distances).
    """
    low, high, start = -np.inf, np.inf, len(values)
    for k in range(len(values) - 1, -1, -1):
        low, high = max(low, values[k] - bars[k]), min(high, values[k] + bars[k])
        if not low <= high:
            break
        start = k
    # The largest distance that agrees before one that does not may be biased by as much as its bar: the next one is not.
    start = start if start == 0 else min(start + 1, len(values) - 1)
    agreed = slice(start, None)
    # Of bars that are much alike, the one of the smallest distance.
    best = start + int(np.flatnonzero(bars[agreed] <= 1.5 * np.min(bars[agreed]))[-1])
    return float(values[best]), float(bars[best]), agreed


def _report(view: _View, kind: PointKind, continuous: bool | None = None) -> PointReport:
    nan = float("nan")
    limits, slopes, hidden = (nan, nan), (nan, nan), nan
    is_finite = np.isfinite(view.left) & np.isfinite(view.right)
    if kind is not PointKind.NON_FINITE and np.all(is_finite) and len(view.h) > 3:
        steep = kind in (PointKind.CUSP, PointKind.VERTICAL_TANGENT)
        # Towards an infinite slope f does not approach its limit in proportion to h; it is continuous there, and f itself is the limit.
        limits = (view.value, view.value) if steep else (_limit(view.left, view.noise), _limit(view.right, view.noise))
        if continuous and np.isfinite(view.value):
            slopes, hidden = _side_slopes(view), _corner(view)[1]
    differentiable = {PointKind.SMOOTH: True, PointKind.INCONCLUSIVE: None}.get(kind, False)
    hidden_jump = _hidden_jump(view) if np.all(is_finite) else nan
    return PointReport(kind, continuous, differentiable, view.x, view.value, *limits, *slopes, view.measured, hidden_jump, hidden)
