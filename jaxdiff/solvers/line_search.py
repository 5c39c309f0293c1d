"""Accepting or shortening a step, one trial at a time.

A nested line-search loop would hold every lane to the slowest lane's last trial. Here a trial is a step of the solver; a rejected trial
is a step that does not move, and the next one is shorter.
"""

import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import LaneBool, LaneFloat

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
