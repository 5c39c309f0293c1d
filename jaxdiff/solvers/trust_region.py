"""Judging a step by a quadratic model, and the best step of such a model inside a ball.

The judgement is that of Nocedal and Wright, Numerical Optimization (2006), algorithm 4.1, one trial at a time. What it does where f has
gone flat to rounding is our own: there the decrease is taken from the gradients at both ends.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._types import LaneBool, LaneFloat, LaneVector
from jaxdiff.linalg import dot
from jaxdiff.problem import Minimize
from jaxdiff.solvers.line_search import rounding_of, shortened
from jaxdiff.solvers.path import Path

ACCEPT, POOR, GOOD = 1e-4, 0.25, 0.75
"""Gain ratios from which a step is taken, from which the region keeps its size, and from which it may grow."""


def gain_ratio(
    value: LaneFloat, trial_value: LaneFloat, slope: LaneFloat, trial_slope: LaneFloat, predicted: LaneFloat
) -> tuple[LaneFloat, LaneBool]:
    """Actual over predicted decrease, and whether the step is to be taken.

    Where the two values are within the rounding of f, the decrease is minus the mean slope over the step, exact for a quadratic; f may then
    rise by no more than that rounding.

    Args:
        value: f before the step.
        trial_value: f behind it; NaN is never a decrease.
        slope: the gradient before the step times the step.
        trial_slope: the gradient behind it times the step.
        predicted: decrease that the model promises, positive.
    """
    is_flat = jnp.abs(trial_value - value) <= rounding_of(value)
    actual = jnp.where(is_flat, -(slope + trial_slope) / 2, value - trial_value)
    # A model that promises nothing, as rounding may make of one between bounds, is a poor one.
    ratio = jnp.where(predicted > 0, safe_divide(actual, predicted, otherwise=-1.0), -1.0).astype(actual.dtype)
    return ratio, (predicted > 0) & (ratio >= ACCEPT)


def next_radius(
    radius: LaneFloat, length: LaneFloat, ratio: LaneFloat, value: LaneFloat, trial_value: LaneFloat, slope: LaneFloat
) -> LaneFloat:
    """The radius after a step: shorter than a poor step, twice a good one that reached the boundary, else as it was.

    Args:
        radius: it was.
        length: of the step, in the norm of the region.
        ratio: see `gain_ratio`; NaN counts as poor.
        value: f before the step.
        trial_value: f behind it.
        slope: the gradient before the step times the step.
    """
    shorter = length * shortened(jnp.ones_like(length), value, trial_value, slope)
    kept = jnp.where((ratio > GOOD) & (length >= 0.8 * radius), 2 * length, radius)
    return jnp.where(ratio >= POOR, jnp.maximum(kept, radius), shorter)


def between_bounds(
    problem: Minimize, x: LaneVector, gradient: LaneVector, step: LaneVector, predict: Callable[[LaneVector], LaneFloat]
) -> tuple[LaneVector, LaneFloat]:
    """The step of a region brought between bounds: bent along them, or ended at the first, whichever lowers the model more.

    Along the step the model falls all the way, so that ending it early still gains; bending it may not, but lets many parameters arrive at
    their bounds in one step.

    Args:
        problem: with the bounds; without them the step is returned as it is.
        x: from where.
        gradient: there.
        step: of the region; 0 for parameters that are held.
        predict: the decrease that the model promises of a step.

    Returns:
        The step and the decrease.
    """
    one = jnp.ones(x.shape[-1], x.dtype)
    bent = Path.along(problem, x, gradient, step, one)
    if bent.first_stop is None:
        return step, predict(step)
    ended = Path.along(problem, x, gradient, step, jnp.minimum(bent.first_stop, one)).displacement
    by_bent, by_ended = predict(bent.displacement), predict(ended)
    is_bent = by_bent >= by_ended
    return jnp.where(is_bent, bent.displacement, ended), jnp.where(is_bent, by_bent, by_ended)


def solve_in_ball(eigenvalues: LaneVector, gradient: LaneVector, radius: LaneFloat) -> tuple[LaneVector, LaneFloat, LaneBool]:
    """The minimum of g's + s'W s / 2 over |s| <= radius, for a diagonal W: the exact trust-region step, in the basis of eigenvectors.

        (w_i + lambda) s_i = -g_i,    lambda >= max(0, -w_1),    lambda (radius - |s|) = 0

    Solved for mu = lambda + w_1, in which no denominator w_i - w_1 + mu cancels. Newton's method on 1 / radius - 1 / |s(mu)| rises to the
    root from any mu at which s is too long; at the first one no component is longer than the radius, so nothing overflows. In the hard case
    g has no component along the lowest eigenvector; one the size of rounding is given to it, and s is led to the boundary along it.

    Args:
        eigenvalues: w, in ascending order.
        gradient: g in that basis.
        radius: of the ball, positive.

    Returns:
        s; the decrease it promises, a sum of positive terms; whether it is the unconstrained minimum of a positive definite model.

    References:
        Moré and Sorensen, Computing a trust region step, SIAM J. Sci. Stat. Comput. 4 (1983) 553-572; Nocedal and Wright (2006),
        theorem 4.1 and section 4.3.

    Example:
        >>> w, g = jnp.array([[-2.0], [1.0]]), jnp.array([[0.0], [0.0]])
        >>> s, decrease, is_inside = solve_in_ball(w, g, jnp.array([1.0]))
        >>> round(abs(float(s[0, 0])), 2), round(float(decrease[0]), 2), bool(is_inside[0])
        (1.0, 1.0, False)
    """
    epsilon = machine_epsilon(radius.dtype)
    lowest = eigenvalues[0]
    gaps = eigenvalues - lowest
    size = jnp.max(jnp.abs(gradient), axis=0) + jnp.max(jnp.abs(eigenvalues), axis=0) * radius
    least = jnp.maximum(epsilon * size, jnp.finfo(radius.dtype).tiny)
    given = jnp.where(jnp.signbit(gradient[0]), -1, 1) * jnp.maximum(jnp.abs(gradient[0]), least)
    g = gradient.at[0].set(jnp.where(lowest > 0, gradient[0], given))

    def step(mu: LaneFloat) -> LaneVector:
        return -safe_divide(g, gaps + mu)

    newton = step(jnp.maximum(lowest, 0))
    is_inside = (lowest > 0) & (dot(newton, newton) <= radius**2)

    def rise(carry: tuple[jax.Array, LaneFloat, LaneBool]) -> tuple[jax.Array, LaneFloat, LaneBool]:
        count, mu, is_long = carry
        s = step(mu)
        squared = dot(s, s)
        norm = jnp.sqrt(squared)
        curvature = jnp.sum(safe_divide(s * s, gaps + mu), axis=0)
        more = safe_divide(squared, curvature) * (norm / radius - 1)
        is_long = is_long & (norm > (1 + 1e-3) * radius)
        return count + 1, jnp.where(is_long, mu + more, mu), is_long

    first = jnp.maximum(jnp.max(jnp.abs(g) / radius - gaps, axis=0), jnp.maximum(lowest, 0))
    start = (jnp.zeros((), jnp.int32), first, ~is_inside)
    _, mu, _ = jax.lax.while_loop(lambda carry: (carry[0] < 40) & jnp.any(carry[2]), rise, start)
    mu = jnp.where(is_inside, lowest, mu)
    s = step(mu)
    decrease = (jnp.sum((gaps + mu) * s * s, axis=0) + jnp.maximum(mu - lowest, 0) * dot(s, s)) / 2
    return s, decrease, is_inside
