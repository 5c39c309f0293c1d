"""The slope of functions of one step t at t = 0, with an error bar, from values on a ladder of steps; on the host, many functions at once.

Central quotients (phi(h) - phi(-h)) / 2h on halving steps are extrapolated to h = 0 (Richardson's columns). Noise is the rounding of phi or
what the quotients at the smallest steps scatter by, whichever is larger; where the smallest steps do not change phi at all and larger ones
change it by more than its rounding, phi is a staircase and its first stair is its noise. Where phi leaves its tangent by a leap and not by
growing, noise of that size is frozen at smaller steps: between the leaps phi is smooth, with a slope that is wrong by up to the leap over
its distance. (1 - cos x) / x^2 near 0 is the example. In each column confidence intervals are
intersected from the smallest step upwards for as long as they have a point in common, which stops where truncation begins to show. The
estimate is the entry with the smallest bar. Its bar is widened threefold and by its distance to the best entry made of other steps: a check
compares thousands of numbers, and may not be wrong about one of them.

Slopes of either side are found in the same way from one-sided quotients. Where they contradict one another phi has a kink, or bends within
a distance that the steps cannot resolve.

References:
    L. F. Richardson, The approximate arithmetical solution by finite differences, Phil. Trans. A 210 (1911) 307-357. O. Lepski, On a
    problem of adaptive estimation in Gaussian white noise, Theory of Probability and its Applications 35 (1991) 454-466: the intersection
    of confidence intervals. The factors are ours.
"""

import dataclasses

import numpy as np

# Richardson's columns, the plain quotients included.
_COLUMNS = 4
# Half-width of a confidence interval in units of the noise.
_WIDTH = 2.0
# By how much the bar of the best entry is widened.
_SAFETY = 3.0
# By how much the distance from the tangent falls, from one rung to all smaller ones, where phi leaps; and by how much it grows beyond a
# kink, at least (a kink at distance d, h / 2 < d < h, makes it grow by (2 h - d) / (h - d) >= 3 and then by more than 7 / 3).
_LEAP, _GROWTH = 64.0, 2.3
# Stairs this many roundings high are phi's own: no cancellation within phi would have left it so few digits, in double precision.
_COARSE = 2.0**46
# Rungs at the small end that have to leave phi as it is before it counts as a staircase.
_FLAT_RUNGS = 3
# Rungs at the small end at which a jump shows alike; what has a slope changes by a factor of eight over them.
_JUMP_RUNGS = 4


@dataclasses.dataclass(frozen=True)
class Slopes:
    """Slopes of S functions at t = 0. Every array has shape [S].

    Attributes:
        value: the slope; of one side where phi is not finite on the other.
        bar: its error bar; infinite where there is no slope.
        left: slope from the left, NaN where phi is not finite there.
        left_bar: its error bar.
        right: slope from the right.
        right_bar: its error bar.
        noise: error of one value of phi.
        roughness: error of the slope of a phi that is smooth between leaps of its rounding: leap over distance.
        is_kink: whether the slopes of the two sides contradict one another.
        is_flat: whether the smallest steps leave phi as it is, bit by bit.
        is_staircase: whether phi is flat and its stairs are too high for rounding, as those of ``round`` are.
        is_jump: whether phi leaps at 0: a change that stays, however small the step.
        is_one_sided: whether phi is finite on one side only, at every step.
        is_finite: whether phi is finite at 0 and, on one side at least, beside it.
    """

    value: np.ndarray
    bar: np.ndarray
    left: np.ndarray
    left_bar: np.ndarray
    right: np.ndarray
    right_bar: np.ndarray
    noise: np.ndarray
    roughness: np.ndarray
    is_kink: np.ndarray
    is_flat: np.ndarray
    is_staircase: np.ndarray
    is_jump: np.ndarray
    is_one_sided: np.ndarray
    is_finite: np.ndarray

    @property
    def lower(self) -> np.ndarray:
        """The smallest slope that central or one-sided quotients allow."""
        sides = np.fmin(self.left - self.left_bar, self.right - self.right_bar)
        return np.fmin(self.value - self.bar, sides)

    @property
    def upper(self) -> np.ndarray:
        """The largest slope that central or one-sided quotients allow."""
        sides = np.fmax(self.left + self.left_bar, self.right + self.right_bar)
        return np.fmax(self.value + self.bar, sides)


def slopes_from_values(h: np.ndarray, left: np.ndarray, middle: np.ndarray, right: np.ndarray, rounding: np.ndarray) -> Slopes:
    """Slopes with error bars.

    Args:
        h: steps, descending, each the same part of the one before, a half or less, [K].
        left: phi(-h), [K, S].
        middle: phi(0), [S].
        right: phi(h), [K, S].
        rounding: error that a value of phi has by its own size, and by rounding of its argument, absolute, [S].

    Example:
        >>> h = 2.0 ** -np.arange(2.0, 20.0)
        >>> values = lambda t: np.sin(1.0 + t)[:, None]
        >>> slopes = slopes_from_values(h, values(-h), np.sin([1.0]), values(h), np.array([2.0**-53]))
        >>> bool(abs(slopes.value[0] - np.cos(1.0)) < slopes.bar[0] < 1e-10)
        True
    """
    with np.errstate(all="ignore"):
        noise, is_flat = _noise(h, left, middle, right, rounding)
        is_staircase = is_flat & (noise > _COARSE * rounding)
        step, ratio = h[:, None], float(h[0] / h[1]) if h.size > 1 else 2.0
        central, central_bar = _extrapolate((right - left) / (2 * step), noise / step, ratio=ratio**2)
        forward, forward_bar = _extrapolate((right - middle) / step, 2 * noise / step, ratio=ratio)
        backward, backward_bar = _extrapolate((middle - left) / step, 2 * noise / step, ratio=ratio)
        has_sides = np.isfinite(forward_bar) & np.isfinite(backward_bar)
        is_kink = has_sides & (np.abs(forward - backward) > 2 * (forward_bar + backward_bar))
        roughness = _roughness(h, left, middle, right, np.where(np.isfinite(central), central, 0.0), rounding)
        is_open = (np.isfinite(right).any(axis=0), np.isfinite(left).any(axis=0))
        # At the edge of the domain one side is all there is.
        one_sided = np.where(is_open[0] & ~is_open[1], forward, np.where(is_open[1] & ~is_open[0], backward, np.nan))
        one_bar = np.where(is_open[0] & ~is_open[1], forward_bar, np.where(is_open[1] & ~is_open[0], backward_bar, np.inf))
        is_central = np.isfinite(central_bar)
    return Slopes(
        value=np.where(is_central, central, one_sided),
        bar=np.where(is_central, central_bar, one_bar),
        left=backward,
        left_bar=backward_bar,
        right=forward,
        right_bar=forward_bar,
        noise=noise,
        roughness=roughness,
        is_kink=is_kink,
        is_flat=is_flat,
        is_staircase=is_staircase,
        is_jump=_is_jump(left, middle, right, rounding),
        is_one_sided=is_open[0] != is_open[1],
        is_finite=np.isfinite(middle) & (is_open[0] | is_open[1]),
    )


def taylor_slope(h: np.ndarray, left: np.ndarray, middle: np.ndarray, right: np.ndarray, slope: np.ndarray, noise: np.ndarray) -> float:
    """The power of h with which |phi(h) - phi(0) - h slope| vanishes: 2 where the slope is right, 1 where it is not.

    The rungs at which it stands 16 times out of the noise are fitted, of those the six smallest; no step has to be chosen. The larger of
    both sides and the sum over all functions is taken.

    Args:
        h: steps, descending, [K].
        left: phi(-h), [K, S].
        middle: phi(0), [S].
        right: phi(h), [K, S].
        slope: what is claimed, [S].
        noise: error of one value of phi, [S].

    Returns:
        The power, or NaN where fewer than four rungs stand out (a straight line has no remainder).

    Example:
        >>> h = 2.0 ** -np.arange(2.0, 20.0)
        >>> values = lambda t: np.exp(t)[:, None]
        >>> [round(taylor_slope(h, values(-h), np.ones(1), values(h), np.array([c]), np.array([1e-16])), 1) for c in (1.0, 1.1)]
        [2.0, 1.0]
    """
    with np.errstate(all="ignore"):
        step = h[:, None]
        forward, backward = np.abs(right - middle - step * slope), np.abs(left - middle + step * slope)
        size = np.sum(np.fmax(forward, backward), axis=1)
        used = np.isfinite(size) & (size > 16 * np.sum(noise))
    rungs = np.flatnonzero(used)[-6:]
    if rungs.size < 4 or rungs[-1] - rungs[0] != rungs.size - 1:
        return float("nan")
    return float(np.polyfit(np.log2(h[rungs]), np.log2(size[rungs]), 1)[0])


def _noise(h: np.ndarray, left: np.ndarray, middle: np.ndarray, right: np.ndarray, rounding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Error of one value of phi, and whether phi does not move at the smallest steps; both [S]."""
    quotients = (right - left) / (2 * h[:, None])
    # Independent errors of size s make neighbouring quotients differ by about s / h (1 + 1 / 2), where steps halve.
    scatter = np.abs(np.diff(quotients, axis=0)) * h[1:, None] / (1 + h[1:, None] / h[:-1, None])
    scatter = scatter[-max(6, h.size // 3) :]
    measured = np.max(np.where(np.isfinite(scatter), scatter, 0.0), axis=0)
    changes = np.abs(np.stack([right - middle, left - middle]))
    changes = np.where(np.isfinite(changes), changes, 0.0)
    is_flat = np.all(changes[:, -_FLAT_RUNGS:] == 0, axis=(0, 1))
    stair = np.min(np.where(changes > 0, changes, np.inf), axis=(0, 1))
    stair = np.where(is_flat & np.isfinite(stair), stair, 0.0)
    return np.maximum(np.maximum(rounding, measured), stair), is_flat


def _is_jump(left: np.ndarray, middle: np.ndarray, right: np.ndarray, rounding: np.ndarray) -> np.ndarray:
    """Whether phi changes, on one side at least, by as much at each of the smallest steps, and by more than its rounding; [S]."""
    with np.errstate(all="ignore"):
        changes = np.stack([right - middle, left - middle])[:, -_JUMP_RUNGS:]
        low, high = np.min(changes, axis=1), np.max(changes, axis=1)
        size = np.maximum(np.abs(low), np.abs(high))
        return np.any(np.isfinite(size) & (size > _LEAP * rounding) & (high - low <= size / 8), axis=0)


def _roughness(
    h: np.ndarray, left: np.ndarray, middle: np.ndarray, right: np.ndarray, slope: np.ndarray, rounding: np.ndarray
) -> np.ndarray:
    """The largest leap of phi off its tangent, over the step at which it shows; zero where phi leaves its tangent gradually, [S]."""
    step = h[:, None]
    away = np.fmax(np.abs(right - middle - step * slope), np.abs(left - middle + step * slope))
    away = np.where(np.isfinite(away), away, 0.0)
    if h.size < 4:
        return np.zeros(away.shape[1])
    at, before, earlier = away[2:-1], away[1:-2], away[:-3]
    smaller = np.maximum.accumulate(away[::-1], axis=0)[::-1][3:]
    is_leap = at > _LEAP * np.maximum(smaller, rounding)
    grows = (before >= _GROWTH * at) & (earlier >= _GROWTH * before)
    leap = np.maximum(at, np.maximum(before, earlier))
    return np.max(np.where(is_leap & ~grows, leap / step[2:-1], 0.0), axis=0)


def _extrapolate(quotients: np.ndarray, rounding: np.ndarray, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """The limit of quotients [K, S] and its bar; Richardson's column j removes the error that falls by ``ratio ** j`` per rung."""
    table, bars, values, places = quotients, rounding, [], []
    all_bars = []
    for column in range(_COLUMNS):
        if table.shape[0] < 2:
            break
        # From the smallest step upwards.
        value, width = table[::-1], bars[::-1]
        low = np.maximum.accumulate(np.where(np.isfinite(value), value - _WIDTH * width, -np.inf), axis=0)
        high = np.minimum.accumulate(np.where(np.isfinite(value), value + _WIDTH * width, np.inf), axis=0)
        agrees = np.logical_and.accumulate(np.isfinite(value) & np.isfinite(width) & (low <= high), axis=0)
        moved = np.abs(np.diff(value, axis=0, prepend=value[:1]))
        moved[0] = 3 * width[0]
        values.append(value)
        all_bars.append(np.where(agrees, width + moved, np.inf))
        places.append(np.stack([np.full(len(value), column), np.arange(len(value))]))
        factor = ratio ** (column + 1)
        bars = (factor * bars[1:] + bars[:-1]) / (factor - 1)
        table = (factor * table[1:] - table[:-1]) / (factor - 1)
    value, bar, place = np.concatenate(values), np.concatenate(all_bars), np.concatenate(places, axis=1)
    best = np.argmin(bar, axis=0)
    at = np.arange(bar.shape[1])
    # A second opinion from other steps: another rung of the column, or another column.
    is_near = (place[0][:, None] == place[0][best]) & (np.abs(place[1][:, None] - place[1][best]) <= 1)
    other = np.argmin(np.where(is_near, np.inf, bar), axis=0)
    apart = np.abs(value[best, at] - value[other, at])
    widened = _SAFETY * bar[best, at] + apart
    is_known = np.isfinite(widened)
    return np.where(is_known, value[best, at], np.nan), np.where(is_known, widened, np.inf)
