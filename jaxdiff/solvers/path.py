"""The way of a step between bounds: straight where there is room, and along the bounds where there is none.

    x(alpha) = P(x + alpha p),    P(x) = min(max(x, lower), upper)

The direction p is made by a solver from the parameters that may move (`Minimize.free`), so that it descends among them: the two-metric
projection of Bertsekas, Projected Newton methods for optimization problems with simple constraints, SIAM J. Control Optim. 20 (1982)
221-246. In place of its tolerance around the bounds stands the first of the step sizes at which a bound is met: a search that shortens its
step tries that one too, and there the parameter lies on its bound to the last bit. So no tolerance depends on the units of x, and no
step creeps towards a bound without arriving.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import LaneBool, LaneFloat, LaneMatrix, LaneVector
from jaxdiff.linalg import dot
from jaxdiff.problem import Minimize
from jaxdiff.solvers.line_search import StrongBracket


@pytree_dataclass
class Path:
    """One trial along the way, and what the search needs to know of it.

    Attributes:
        x: the trial point, between the bounds.
        displacement: from the start of the way to the trial.
        direction: the direction at the start; 0 where a bound leaves no way.
        moving: the direction at the trial; 0 where a bound has been met before.
        slope: derivative of f along the way at its start.
        mean_slope: what the gradient at the start promises of the trial, per unit of step size.
        first_stop: the smallest step size at which a parameter meets its bound; None without bounds.
    """

    x: LaneVector
    displacement: LaneVector
    direction: LaneVector
    moving: LaneVector
    slope: LaneFloat
    mean_slope: LaneFloat
    first_stop: LaneFloat | None

    @classmethod
    def along(cls, problem: Minimize, x: LaneVector, gradient: LaneVector, direction: LaneVector, step_size: LaneFloat) -> "Path":
        """The trial at ``step_size``; without bounds the point on the straight line, and nothing more is computed than for that."""
        if not problem.is_bounded:
            displacement, slope = step_size * direction, dot(gradient, direction)
            return cls(x + displacement, displacement, direction, direction, slope, slope, None)
        lower, upper = problem.limits
        direction = open_ways(problem, x, direction)
        limit = jnp.where(direction < 0, lower, upper)
        # An infinite bound is taken out before the division: unrolled steps are differentiated, and infinities spoil that way back.
        is_limited = jnp.isfinite(limit) & (direction != 0)
        room = jnp.where(is_limited, safe_divide(jnp.where(is_limited, limit, x) - x, direction), jnp.inf)
        # A trial that should meet the bound exactly may miss it by rounding.
        has_met = step_size * (1 + 4 * machine_epsilon(x.dtype)) >= room
        trial = problem.project(jnp.where(has_met, limit, x + step_size * direction))
        displacement = trial - x
        mean = safe_divide(jnp.minimum(dot(gradient, displacement), 0), step_size)
        return cls(trial, displacement, direction, jnp.where(has_met, 0, direction), dot(gradient, direction), mean, jnp.min(room, axis=0))

    def not_past_first_stop(self, tried: LaneFloat, shorter: LaneFloat) -> LaneFloat:
        """The shorter step to try next, but not shorter than to the first bound, unless that has been tried."""
        return shorter if self.first_stop is None else not_past(self.first_stop, tried, shorter)


def not_past(first_stop: LaneFloat, tried: LaneFloat, shorter: LaneFloat) -> LaneFloat:
    """As `Path.not_past_first_stop`."""
    return jnp.where(first_stop < tried, jnp.maximum(shorter, first_stop), shorter)


def at_stop(
    path: Path, bracket: StrongBracket, is_accepted: LaneBool, is_low: LaneBool, tried: LaneFloat
) -> tuple[StrongBracket, LaneBool]:
    """What a strong Wolfe search does at bounds: a trial that meets one needs to lower f only, and one beyond it goes back to it first.

    The slope along the way jumps at a bound, so that its smallest f may have no flat slope at all.
    """
    if path.first_stop is None:
        return bracket, is_accepted
    has_met = jnp.any((path.moving != path.direction), axis=0)
    trial = jnp.where(is_low, bracket.trial, path.not_past_first_stop(tried, bracket.trial))
    return dataclasses.replace(bracket, trial=trial), is_accepted | (is_low & has_met)


def open_ways(problem: Minimize, x: LaneVector, direction: LaneVector) -> LaneVector:
    """The direction, 0 where it leads out of a bound on which the parameter lies, or where it is fixed."""
    if not problem.is_bounded:
        return direction
    lower, upper = problem.limits
    is_open = jnp.where(direction < 0, x > lower, x < upper)
    return jnp.where(is_open & (lower < upper), direction, 0)


def among_movable(problem: Minimize, x: LaneVector, gradient: LaneVector, tolerance: Any) -> tuple[jax.Array | None, LaneVector, LaneBool]:
    """Which parameters a second-order method may move, the gradient of these, and whether one of them lies on a bound.

    A parameter on a bound whose gradient is no larger than its tolerance is not held: only so is a maximum on a bound seen for what it is.

    Returns:
        The mask, None without bounds; the gradient, 0 elsewhere; and the last, per lane.
    """
    free = problem.free(x, gradient)
    if free is None:
        return None, gradient, jnp.zeros(x.shape[-1], bool)
    lower, upper = problem.limits
    is_movable = (lower < upper) & (free | (jnp.abs(gradient) <= tolerance))
    is_weak = jnp.any(is_movable & ((x <= lower) | (x >= upper)), axis=0)
    return is_movable, jnp.where(is_movable, gradient, 0), is_weak


def with_identity(is_movable: jax.Array | None, matrix: LaneMatrix) -> LaneMatrix:
    """The matrix, rows and columns of the identity in place of those of parameters that may not move."""
    if is_movable is None:
        return matrix
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)[..., None]
    return jnp.where(is_movable[:, None] & is_movable[None], matrix, identity)


def among_free(free: jax.Array | None, vector: LaneVector) -> LaneVector:
    """The vector, 0 where a parameter is not free."""
    return vector if free is None else jnp.where(free, vector, 0)
