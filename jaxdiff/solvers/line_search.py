"""Accepting or shortening a step, one trial at a time.

A nested line-search loop would hold every lane to the slowest lane's last trial. Here a trial is a step of the solver; a rejected trial
is a step that does not move, and the next one is shorter.
"""

import dataclasses

import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import LaneBool, LaneFloat, LaneInt

SUFFICIENT_DECREASE = 1e-4
"""c_1 of Armijo's condition (Nocedal and Wright, section 3.1)."""


def rounding_of(value: LaneFloat) -> LaneFloat:
    """How far two values of f may differ by rounding alone: eps^(3/4) of f, our own allowance.

    A sum of squares of small residuals of large data, as in NIST's Misra1a, carries some 500 units of rounding; Hager and Zhang allow 1e-6.

    Example:
        >>> bool(rounding_of(jnp.array([1.0]))[0] < 1e-4)
        True
    """
    return machine_epsilon(value.dtype) ** 0.75 * jnp.abs(value)


def is_sufficient_decrease(
    value: LaneFloat, trial_value: LaneFloat, slope: LaneFloat, trial_slope: LaneFloat, step_size: LaneFloat
) -> LaneBool:
    """Armijo's condition, or, where f has gone flat to rounding, a slope that shrinks instead.

    Near a minimum the decrease is lost in the rounding of f while the gradient still tells the way. There a trial that keeps f to within
    its rounding (see `rounding_of`) counts as progress where its slope along the step is at most nine tenths of the old one in size.

    Args:
        value: f before the step.
        trial_value: f behind it; NaN is never a decrease.
        slope: derivative of f along the direction, before the step; negative for a descent direction.
        trial_slope: the same behind it.
        step_size: multiple of the direction that was tried.

    References:
        Nocedal and Wright, Numerical Optimization (2006), equation 3.4; Hager and Zhang, SIAM J. Optim. 16 (2005) 170-192, section 4,
        for the approximate condition; its constants here are our own.
    """
    armijo = trial_value <= value + SUFFICIENT_DECREASE * step_size * slope
    is_steady = (jnp.abs(trial_value - value) <= rounding_of(value)) & (jnp.abs(trial_slope) <= 0.9 * jnp.abs(slope))
    # Where the slope term is lost in rounding, Armijo's inequality alone would accept an f that has not fallen at all.
    return (armijo & (trial_value < value)) | is_steady


def shortened(step_size: LaneFloat, value: LaneFloat, trial_value: LaneFloat, slope: LaneFloat) -> LaneFloat:
    """The next step size to try: where the parabola through f, its slope and the trial has its minimum, kept within [0.1, 0.5] of the last.

    A trial that is not finite says nothing about curvature; the step is then a tenth.

    References:
        Nocedal and Wright, Numerical Optimization (2006), section 3.5.
    """
    rise = trial_value - value - slope * step_size
    guess = safe_divide(-slope * step_size * step_size, 2 * rise, otherwise=0.0)
    guess = jnp.where(jnp.isfinite(guess) & jnp.isfinite(trial_value), guess, 0)
    return jnp.clip(guess, 0.1 * step_size, 0.5 * step_size)


def is_lost_in_rounding(promised: LaneFloat, left: LaneFloat, value: LaneFloat) -> LaneBool:
    """Whether a rejected step may be the last: what the model still promises lies below the rounding of f.

    One unit of rounding is believed at once. Up to `rounding_of`, which is far more than most functions have, shorter steps are tried
    first: in a curved valley one of them makes the slope shrink, where a full step does not.

    Args:
        promised: decrease of f by a full step.
        left: decrease by the next step to be tried.
        value: f.
    """
    return (promised <= machine_epsilon(value.dtype) * jnp.abs(value)) | ((promised <= rounding_of(value)) & (left <= 0.02 * promised))


CURVATURE = 0.9
"""c_2 of Wolfe's condition (Nocedal and Wright, section 3.1)."""


@pytree_dataclass
class Bracket:
    """The interval of step sizes in which the weak Wolfe conditions can be met, and the next one to try.

    Attributes:
        low: largest step size known to lower f enough while its slope is still steep; 0 at first.
        high: smallest step size known to be too long; inf at first.
        trial: the step size to try next.
    """

    low: LaneFloat
    high: LaneFloat
    trial: LaneFloat

    @classmethod
    def fresh(cls, trial: LaneFloat) -> "Bracket":
        """A new line, on which nothing is known."""
        return cls(jnp.zeros_like(trial), jnp.full_like(trial, jnp.inf), trial)

    def narrowed(
        self, is_low: LaneBool, value: LaneFloat, trial_value: LaneFloat, slope: LaneFloat, trial_slope: LaneFloat
    ) -> tuple["Bracket", LaneBool]:
        """What the trial has taught, and whether it is accepted.

        Args:
            is_low: whether the trial lowered f enough.
            value: f at the start of the line.
            trial_value: f at the trial.
            slope: derivative along the line at its start.
            trial_slope: derivative along the line at the trial.
        """
        is_flat_enough = trial_slope >= CURVATURE * slope
        is_accepted = is_low & is_flat_enough
        high = jnp.where(is_low, self.high, self.trial)
        low = jnp.where(is_low & ~is_flat_enough, self.trial, self.low)
        # Too long and nothing below it known: the parabola's minimum; known on both sides: the middle; no upper end: twice as far.
        middle = jnp.where(jnp.isfinite(high), (low + high) / 2, 2 * self.trial)
        backed = shortened(self.trial, value, trial_value, slope)
        trial = jnp.where(~is_low & (low == 0), backed, middle)
        return Bracket(low, high, trial), is_accepted


@pytree_dataclass
class StrongBracket:
    """The interval of step sizes in which the strong Wolfe conditions can be met, and the next one to try.

    Attributes:
        low: the best step size so far that lowers f enough; 0 at first.
        low_value: f there.
        low_slope: derivative of f along the line there; it points from low towards high.
        high: the other end, on either side of low; inf while none is known.
        high_value: f there; NaN where it is not finite.
        high_slope: derivative there.
        trial: the step size to try next.
        num_trials: trials on this line so far.
    """

    low: LaneFloat
    low_value: LaneFloat
    low_slope: LaneFloat
    high: LaneFloat
    high_value: LaneFloat
    high_slope: LaneFloat
    trial: LaneFloat
    num_trials: LaneInt

    @classmethod
    def fresh(cls, trial: LaneFloat, value: LaneFloat, slope: LaneFloat) -> "StrongBracket":
        """A new line, of which only f and its derivative at 0 are known."""
        zero = jnp.zeros_like(trial)
        infinite = jnp.full_like(trial, jnp.inf)
        return cls(zero, value, slope, infinite, infinite, zero, trial, jnp.zeros(trial.shape, jnp.int32))

    def narrowed(
        self, is_low: LaneBool, value: LaneFloat, trial_value: LaneFloat, slope: LaneFloat, trial_slope: LaneFloat, curvature: float
    ) -> tuple["StrongBracket", LaneBool]:
        """What the trial has taught, and whether it is accepted.

        Where the interval has shrunk to rounding, its low end is tried again, and then taken for its decrease alone.

        Args:
            is_low: whether the trial lowered f enough.
            value: f at the start of the line.
            trial_value: f at the trial.
            slope: derivative along the line at its start.
            trial_slope: derivative along the line at the trial.
            curvature: c_2, the fraction of the first slope, in size, at which a slope is flat enough.

        References:
            Nocedal and Wright, Numerical Optimization (2006), algorithms 3.5 and 3.6, which change the ends by one and the same rule.
        """
        is_finite = jnp.isfinite(trial_value) & jnp.isfinite(trial_slope)
        is_level = jnp.abs(trial_value - self.low_value) <= rounding_of(value)
        is_better = is_low & ((trial_value < self.low_value) | is_level)
        is_last = is_low & (self.trial == self.low)
        is_accepted = is_last | (is_better & (jnp.abs(trial_slope) <= curvature * jnp.abs(slope)))
        does_turn = is_better & (trial_slope * jnp.where(self.high < self.low, -1, 1) >= 0)
        seen = (self.trial, jnp.where(is_finite, trial_value, jnp.nan), jnp.where(is_finite, trial_slope, 0))
        low, low_value, low_slope = _chosen(is_better, seen, (self.low, self.low_value, self.low_slope))
        high, high_value, high_slope = _chosen(
            does_turn,
            (self.low, self.low_value, self.low_slope),
            _chosen(is_better, (self.high, self.high_value, self.high_slope), seen),
        )
        # No upper end yet: to where the slope would vanish if it went on as it has, one to nine times as far again.
        moved = low - self.low
        further = safe_divide(-low_slope * moved, low_slope - self.low_slope, otherwise=jnp.inf)
        further = low + jnp.clip(jnp.where(further > 0, further, 9 * moved), moved, 9 * moved)
        ends = StrongBracket(low, low_value, low_slope, high, high_value, high_slope, self.trial, self.num_trials + 1)
        trial = jnp.where(jnp.isfinite(high), ends._between(value), further)
        is_exhausted = jnp.isfinite(high) & (jnp.abs(high - low) <= 4 * machine_epsilon(low.dtype) * jnp.maximum(low, high))
        trial = jnp.where(is_exhausted & (low > 0), low, trial)
        return dataclasses.replace(ends, trial=trial), is_accepted

    def _between(self, value: LaneFloat) -> LaneFloat:
        """A step size inside the interval: the minimum of the cubic through both ends, or, where f is flat to rounding, of the parabola.

        Every third trial of a line is the middle, so that the interval shrinks whatever the interpolation does.
        """
        width = jnp.where(jnp.isfinite(self.high), self.high, 0) - self.low
        secant = safe_divide(-self.low_slope, self.high_slope - self.low_slope, otherwise=0.5)
        mean = safe_divide(self.low_value - self.high_value, -width)
        d1 = self.low_slope + self.high_slope - 3 * mean
        d2 = jnp.sqrt(jnp.maximum(d1 * d1 - self.low_slope * self.high_slope, 0)) * jnp.sign(width)
        cubic = 1 - safe_divide(self.high_slope + d2 - d1, self.high_slope - self.low_slope + 2 * d2, otherwise=0.5)
        fraction = jnp.where(jnp.abs(self.high_value - self.low_value) <= rounding_of(value), secant, cubic)
        fraction = jnp.where(jnp.isfinite(fraction) & (self.num_trials % 3 > 0), fraction, 0.5)
        # A high end that is not finite says nothing of the slope: a tenth of the way there.
        fraction = jnp.where(jnp.isnan(self.high_value), 0.1, jnp.clip(fraction, 0.05, 0.95))
        return self.low + fraction * width


def _chosen(keep: LaneBool, new: tuple[LaneFloat, ...], old: tuple[LaneFloat, ...]) -> tuple[LaneFloat, ...]:
    return tuple(jnp.where(keep, a, b) for a, b in zip(new, old, strict=True))
