"""The best step of a linear model of residuals between bounds, for the solvers that know no damping.

    minimize |R p + Q' r_s|^2  with  low <= p <= high

Rounds of an active set: parameters at a bound that the model pushes them against stay there, the others go to the minimum among themselves,
bent along the bounds or ended at the first of them, or along the slopes up to the first, whichever lowers the model most. No round raises
the model, so that a step cut short by a line search or a trust region still descends; and every point between its ends lies between the
bounds.

Sources: Björck, Numerical Methods for Least Squares Problems (1996), section 5.2.3; Moré and Toraldo, On the solution of large quadratic
programming problems with bound constraints, SIAM J. Optim. 1 (1991) 93-113. The choice among three points is our own.
"""

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._types import LaneVector
from jaxdiff.linalg import dot, matvec
from jaxdiff.problem import LeastSquares
from jaxdiff.solvers.residual_model import LinearModel, invert_upper, triangular_factor

_ROUNDS = 8
"""At most so many rounds, whatever the number of parameters: what is left is for the next step to do. Our own choice."""

Room = tuple[LaneVector, LaneVector]


def room_about(problem: LeastSquares, model: LinearModel, x: LaneVector) -> Room:
    """How far each parameter may go down and up, as scaled steps of the model."""

    def side(limit: jax.Array, none: float) -> LaneVector:
        # A parameter that the model does not move has no unit.
        return jnp.where(model.units > 0, model.scaled(limit - x), none)

    lower, upper = problem.limits
    return side(lower, -jnp.inf), side(upper, jnp.inf)


def first_stop(step: jax.Array, room: Room) -> jax.Array:
    """The multiple of a scaled step, or of several, at most one, at which the first parameter meets a bound."""
    low, high = room
    stops = safe_divide(jnp.where(step < 0, low, high), step, otherwise=1.0)
    return jnp.minimum(jnp.min(stops, axis=-2), 1)


def best_between(model: LinearModel, room: Room) -> LaneVector:
    """The scaled step that lowers the model most between the bounds.

    Args:
        model: about a point between them.
        room: see `room_about`.
    """
    low, high = room

    def improved(carry: tuple[jax.Array, LaneVector, jax.Array]) -> tuple[jax.Array, LaneVector, jax.Array]:
        count, p, _ = carry
        slopes = jnp.sum(model.factor * (model.rotated + model.predicted(p))[:, None], axis=0)
        is_met = ((p <= low) & (slopes >= 0)) | ((p >= high) & (slopes <= 0))
        downhill = jnp.where(is_met, 0, -slopes)
        image = model.predicted(downhill)
        ways = jnp.stack([_minimum(model, p, is_met) - p, downhill * safe_divide(dot(downhill, downhill), dot(image, image))])
        ended = ways * first_stop(ways, (low - p, high - p))[:, None]
        points = jnp.concatenate([jnp.zeros_like(p)[None], ways[:1], ended])
        points = jnp.clip(p + jnp.where(jnp.isfinite(points), points, 0), low, high)
        images = jnp.sum(model.factor * points[:, None], axis=2)
        costs = jnp.sum((model.rotated + images / 2) * images, axis=1)
        lowest = jnp.argmin(jnp.where(jnp.isnan(costs), jnp.inf, costs), axis=0)
        return count + 1, jnp.take_along_axis(points, lowest[None, None], axis=0)[0], jnp.any(lowest > 0)

    start = (jnp.zeros((), jnp.int32), jnp.zeros_like(model.rotated), jnp.ones((), bool))
    return jax.lax.while_loop(lambda carry: carry[2] & (carry[0] < _ROUNDS), improved, start)[1]


def _minimum(model: LinearModel, p: LaneVector, is_met: jax.Array) -> LaneVector:
    """The minimum of the model among the parameters that have not met a bound; the others stay where ``p`` has them."""
    n = p.shape[0]
    right = model.rotated + model.predicted(jnp.where(is_met, p, 0))
    identity = jnp.eye(n, dtype=p.dtype)[..., None]
    # A row of the identity in place of each column that is left out.
    columns = jnp.concatenate([jnp.where(is_met[None], 0, model.factor), jnp.where(is_met[None], identity, 0)])
    reduced = triangular_factor(jnp.concatenate([columns, jnp.concatenate([right, jnp.zeros_like(right)])[:, None]], axis=1))
    factor = reduced[:, :-1]
    pivots = jnp.sum(factor * identity, axis=0)
    # A pivot that cannot be told from rounding: its column depends on those before it, and does without a step of its own.
    is_small = jnp.abs(pivots) <= 10 * max(n, model.at.residuals.shape[0]) * machine_epsilon(p.dtype)
    inverse = invert_upper(jnp.where((identity > 0) & is_small[None], 1, factor))
    return jnp.where(is_met, p, -matvec(inverse, jnp.where(is_small, 0, reduced[:, -1])))


def landed(problem: LeastSquares, x: LaneVector, step: LaneVector) -> LaneVector:
    """Where a step leads: between the bounds, and to the last bit onto one that it misses by rounding."""
    lower, upper = problem.limits
    limit = jnp.where(step < 0, lower, upper)
    rounding = 4 * machine_epsilon(x.dtype) * (jnp.abs(x) + jnp.abs(step))
    is_there = (step != 0) & (jnp.abs(limit - (x + step)) <= rounding)
    return jnp.where(is_there, limit, problem.project(x + step))
