"""When a gradient is small: a number with units, held against what f, its gradient and x have been on the way.

A tolerance that a person gives is what it says. The default, eps to some power, means little for 1e-6 f: every gradient of that may lie
below it. So, beside being below it, a gradient has to be a small fraction of the largest one seen, and one of these must hold of f:

    |g_i| |x| <= eps^(2/5) |f|                       what a change of x by its own size could gain to first order is a small part of f
    |f| <= 1e-12 |f|_max, |s_i| <= eps^(2/5) |x|     f has all but vanished, and the last step s was short
    |f| <= eps^(3/2) |f|_max                         f has vanished

|x| is the largest entry of x here and at the start, |f|_max the largest f seen. None of them changes with the units of f and x.

Source: the first is the relative gradient of Dennis and Schnabel, Numerical Methods for Unconstrained Optimization and Nonlinear Equations
(1983), section 7.2, equation 7.2.5; the others, for minima at which f is zero, and all of the constants are our own.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import LaneBool, LaneFloat, LaneInt, LaneVector
from jaxdiff.linalg import all_rows, max_norm
from jaxdiff.problem import Minimize
from jaxdiff.result import Status

VANISHED = 1e-12
"""Fraction of the largest f below which f may be on its way to zero; in any precision, for it is a fact of f and not of rounding."""


@pytree_dataclass
class GradientTolerance:
    """A gtol as solvers see it; numbers, so that another one, or one in place of the default, compiles nothing.

    Attributes:
        limit: largest absolute entry of the gradient, ``[]`` or ``[n, 1]``.
        is_given: whether a person gave it, so that it alone counts.
    """

    limit: Any
    is_given: Any

    def share(self, sizes: "Sizes", largest: LaneFloat) -> Any:
        """The tolerance, and of the default the fraction of it that counts for a gradient whose largest entry is this."""
        return self.limit * jnp.where(self.is_given, 1, sizes.fraction(largest)).astype(largest.dtype)

    def is_met(self, gradient: LaneVector, largest: LaneFloat) -> LaneBool:
        """Whether every entry of the gradient, of which ``largest`` is the largest, is at most its tolerance."""
        return largest <= self.limit if jnp.ndim(self.limit) == 0 else all_rows(jnp.abs(gradient) <= self.limit)


@pytree_dataclass
class Sizes:
    """How large things have been at the points that were accepted.

    Attributes:
        steepest: largest entry of the projected gradient.
        highest: largest absolute value of f.
        widest: largest entry of the start.
    """

    steepest: LaneFloat
    highest: LaneFloat
    widest: LaneFloat

    @classmethod
    def none(cls, x: LaneVector) -> "Sizes":
        """Nothing has been seen."""
        zero = jnp.zeros(x.shape[-1], x.dtype)
        return cls(zero, zero, zero)

    def with_point(self, is_accepted: LaneBool, is_start: LaneBool, largest: LaneFloat, value: LaneFloat, width: LaneFloat) -> "Sizes":
        """With a point that was accepted, of which these are the largest entries of the gradient and of x."""
        return Sizes(
            jnp.where(is_accepted, jnp.maximum(self.steepest, largest), self.steepest),
            jnp.where(is_accepted, jnp.maximum(self.highest, jnp.abs(value)), self.highest),
            jnp.where(is_accepted & is_start, width, self.widest),
        )

    def fraction(self, largest: LaneFloat) -> LaneFloat:
        """What the default tolerance is multiplied by: the largest gradient seen, where that is below one."""
        return jnp.minimum(jnp.maximum(self.steepest, largest), 1)


def is_stationary(
    tolerance: GradientTolerance,
    sizes: Sizes,
    x: LaneVector,
    value: LaneFloat,
    gradient: LaneVector,
    displacement: LaneVector,
) -> LaneBool:
    """Whether the gradient is small in the sense of this module.

    Args:
        tolerance: of the gradient.
        sizes: of the points before; this one is counted in.
        x: the point.
        value: f there.
        gradient: there, 0 for parameters that bounds hold.
        displacement: the step that led there.

    Example:
        >>> import numpy as np
        >>> tolerance, sizes = GradientTolerance(np.float32(1e-4), np.bool_(False)), Sizes(*3 * [jnp.ones(2)])
        >>> is_stationary(tolerance, sizes, jnp.ones((1, 2)), jnp.array([1.0, 1e-5]), jnp.full((1, 2), 1e-6), jnp.ones((1, 2))).tolist()
        [True, False]
    """
    ratio = max_norm(gradient / tolerance.limit)
    return is_small(tolerance.is_given, sizes, ratio, max_norm(gradient), value, max_norm(x), max_norm(displacement))


def is_small(
    is_given: Any, sizes: Sizes, ratio: LaneFloat, largest: LaneFloat, value: LaneFloat, width: LaneFloat, stride: LaneFloat
) -> LaneBool:
    """`is_stationary` of numbers that are there already.

    Args:
        is_given: whether a person gave the tolerance.
        sizes: of the points before.
        ratio: largest entry of the gradient in units of its tolerance.
        largest: largest entry of the gradient.
        value: f.
        width: largest entry of x.
        stride: largest entry of the step that led there.
    """
    epsilon, size = machine_epsilon(value.dtype), jnp.abs(value)
    highest, width = jnp.maximum(sizes.highest, size), jnp.maximum(sizes.widest, width)
    unit = jnp.where(width > 0, width, 1)
    is_gain_small = largest * unit <= epsilon**0.4 * size
    has_vanished = (size <= epsilon**1.5 * highest) | ((size <= VANISHED * highest) & (stride <= epsilon**0.4 * unit))
    # From the start on a gradient is a fraction of nothing: there f alone can tell.
    is_beyond_doubt = (ratio * jnp.maximum(unit, 1) <= size) | (largest == 0)
    is_fraction = ratio <= sizes.fraction(largest)
    return (ratio <= 1) & (is_given | is_beyond_doubt | (is_fraction & (is_gain_small | has_vanished)))


def is_step_negligible(tolerance: GradientTolerance, sizes: Sizes, x: LaneVector, gradient: LaneVector, newton: LaneVector) -> LaneBool:
    """Whether the gradient is below its tolerance and the Newton step moves no parameter by more than eps^(2/3) of the largest."""
    width = jnp.maximum(sizes.widest, max_norm(x))
    is_short = all_rows(jnp.abs(newton) <= machine_epsilon(x.dtype) ** (2 / 3) * width)
    return tolerance.is_met(gradient, max_norm(gradient)) & is_short


def is_rest(is_given: Any, sizes: Sizes, ratio: LaneFloat, largest: LaneFloat, value: LaneFloat, width: LaneFloat) -> LaneBool:
    """Whether a point from which no step leads on, for f has gone flat to rounding, is a minimum as far as rounding lets one see.

    A gradient that has hardly shrunk says nothing, however small: f may be too flat for its own rounding to show a descent. The arguments
    are those of `is_small`.
    """
    epsilon, size = machine_epsilon(largest.dtype), jnp.abs(value)
    has_shrunk = largest <= epsilon**0.25 * sizes.steepest
    unit = jnp.maximum(sizes.widest, width)
    is_gain_small = (largest * unit <= epsilon**0.25 * size) | (size <= epsilon * sizes.highest)
    # Of a gradient that has fallen to rounding of the largest one nothing more can be asked, in double precision, however small f is.
    is_rounding = (largest <= 8 * epsilon * sizes.steepest) & (epsilon < 1e-10)
    return (ratio <= 1) & (is_given | (has_shrunk & is_gain_small) | is_rounding)


def has_run_away(sizes: Sizes, width: LaneFloat, value: LaneFloat, last_value: LaneFloat) -> LaneBool:
    """Whether a trial shows that there is no minimum to be found this way: f is -inf, or falls on where f or x is beyond all measure.

    Of x that is eps^(-5/2) of the start's largest entry, or of one: no digit is left there of where it came from, and a gradient that is
    small may be so by underflow. Of f it is where its square overflows, if no f before was nearly as large. Both are our own.

    Args:
        sizes: of the points before.
        width: largest entry of the trial.
        value: f there.
        last_value: f at the point before; +inf where there is none.

    Example:
        >>> sizes = Sizes(*3 * [jnp.ones(2, "float32")])
        >>> value = jnp.array([-5.0, -jnp.inf], "float32")
        >>> has_run_away(sizes, jnp.array([1e18, 1e3], "float32"), value, jnp.zeros(2, "float32")).tolist()
        [True, True]
    """
    limit = max(machine_epsilon(value.dtype) ** -2.5, 1e17) * jnp.maximum(sizes.widest, 1)
    is_deep = (value <= -(float(jnp.finfo(value.dtype).max) ** 0.5)) & (value <= -1.5 * sizes.highest)
    return (value == -jnp.inf) | ((value < last_value) & (last_value < jnp.inf) & ((width >= limit) | is_deep))


def assessed(
    problem: Minimize,
    tolerance: GradientTolerance,
    sizes: Sizes,
    is_start: LaneBool,
    is_accepted: LaneBool,
    x: LaneVector,
    displacement: LaneVector | Callable[[], LaneVector],
    value: LaneFloat,
    gradient: LaneVector,
) -> tuple[LaneBool, Sizes]:
    """Whether an accepted trial ends the run, and the sizes with it; for many parameters: two passes over vectors where nothing is small.

    Args:
        problem: with its bounds.
        tolerance: of the gradient.
        sizes: of the points before.
        is_start: lanes whose trial is the start.
        is_accepted: lanes that take the trial.
        x: the trial.
        displacement: the step that led there; or what computes it, where it is not to be kept for a test that is rarely made.
        value: f there.
        gradient: there, not yet projected.
    """
    projected = problem.projected(x, gradient)
    largest = max_norm(projected)
    is_below = is_accepted & tolerance.is_met(projected, largest)
    moved = displacement if callable(displacement) else lambda: displacement
    has_ended = jax.lax.cond(
        jnp.any(is_below),
        lambda: is_below & is_stationary(tolerance, sizes, x, value, projected, moved()),
        lambda: jnp.zeros_like(is_below),
    )
    width = jax.lax.cond(jnp.any(is_start), lambda: max_norm(x), lambda: sizes.widest)
    return has_ended, sizes.with_point(is_accepted, is_start, largest, value, width)


def stopped_short(
    problem: Minimize,
    tolerance: GradientTolerance,
    sizes: Sizes,
    x: LaneVector,
    value: LaneFloat,
    gradient: LaneVector,
    is_stuck: LaneBool,
    is_finite: LaneBool,
) -> LaneInt:
    """Codes of what to call a point from which no step leads on: CONVERGED_GRADIENT at a rest, else STALLED; NON_FINITE before a wall."""

    def rest() -> LaneBool:
        projected = problem.projected(x, gradient)
        return is_rest(tolerance.is_given, sizes, max_norm(projected / tolerance.limit), max_norm(projected), value, max_norm(x))

    rests = jax.lax.cond(jnp.any(is_stuck), rest, lambda: jnp.zeros_like(is_stuck))
    # Whether a lane that is not stuck has been looked at depends on its neighbours.
    return jnp.where(rests & is_stuck, Status.CONVERGED_GRADIENT, jnp.where(is_finite, Status.STALLED, Status.NON_FINITE)).astype(jnp.int32)
