"""Powell's dogleg: inside a trust region, from the minimum along the gradient towards the Gauss-Newton step.

    p(t) = t p_C,                        0 <= t <= 1,    p_C = -(g'g / |J g|^2) g
    p(t) = p_C + (t - 1) (p_GN - p_C),   1 <= t <= 2

Between bounds p_C ends at the first of them, and p_GN is the minimum of the linearized residuals between them (`box_step`): the model falls
from one to the other all the same, and what lies between them lies between the bounds.

Sources: Powell, A hybrid method for nonlinear equations (1970); Nocedal and Wright, Numerical Optimization (2006), equation 4.16 and
algorithm 4.1; the ellipsoid of the largest column norms is MINPACK's.
"""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import DType, LaneFloat, LaneVector
from jaxdiff._validation import check_positive
from jaxdiff.linalg import dot
from jaxdiff.problem import LeastSquares
from jaxdiff.solvers.base import check_dense, require_residuals
from jaxdiff.solvers.box_step import Room, best_between, first_stop, landed, room_about
from jaxdiff.solvers.residual_model import FitState, LinearModel, default_residual_tolerance, safe_norm, try_point


@pytree_dataclass
class DoglegState(FitState):
    """State of Powell's dogleg: the fields of `FitState`, and the region.

    Attributes:
        radius: of the trust region, in the norm |D p|, D the largest column norms so far; relative before the start is evaluated.
    """

    radius: LaneFloat

    @property
    def step_size(self) -> LaneFloat:
        """The radius, under the name that a history keeps it by."""
        return self.radius


@pytree_dataclass
class Dogleg:
    """Powell's dogleg for least squares.

    Attributes:
        gtol: as in `LevenbergMarquardt`.
        xtol: as in `LevenbergMarquardt`.
        ftol: as in `LevenbergMarquardt`.
        radius: of the first trust region, relative to |D x|; absolute where x is zero.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> residuals = lambda x: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])
        >>> result = jd.least_squares(residuals, [-1.2, 1.0], solver=jd.Dogleg())
        >>> [round(float(v), 6) for v in result.x], bool(result.success)
        ([1.0, 1.0], True)
    """

    gtol: Any = None
    xtol: Any = None
    ftol: Any = None
    radius: Any = 1.0

    name: ClassVar[str] = "dogleg"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol", "xtol", "ftol")
    takes_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(self.radius, "radius")

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        return default_residual_tolerance(name, dtype, is_exact)

    def init(self, problem: Any, x: LaneVector) -> DoglegState:
        """See `base.Solver`."""
        problem = require_residuals(problem, "Dogleg")
        check_dense("Dogleg", x)
        return DoglegState(radius=jnp.full(x.shape[-1], self.radius, x.dtype), **FitState.fresh(problem, x))

    def step(self, problem: LeastSquares, state: DoglegState) -> DoglegState:
        """See `base.Solver`."""
        epsilon = machine_epsilon(state.x.dtype)
        is_start = state.num_steps < 0
        model = state.model
        weights = safe_divide(state.largest_norms, model.column_norms, otherwise=1.0)
        far, room = model.scaled(state.newton), None
        if problem.is_bounded:
            room = room_about(problem, model, state.x)
            far = best_between(model, room)
        scaled, length = _dogleg(model, far, weights, state.radius / model.residual_scale, room)
        step = scaled * model.units
        image = model.predicted(scaled)
        predicted = -dot(model.rotated, image) - dot(image, image) / 2
        trial_x = landed(problem, state.x, step) if problem.is_bounded else state.x + step
        trial = try_point(problem, self, state, trial_x, predicted, weights)
        ratio = jnp.where(trial.is_blind, jnp.where(trial.fall < 1, 1.0, -1.0), safe_divide(trial.decrease, predicted))
        is_accepted = trial.verdict.is_finite & (is_start | ((ratio > 1e-4) & (predicted > 0)))

        is_stuck = jnp.all(jnp.abs(step) <= epsilon * jnp.abs(state.x), axis=0)

        # Nocedal and Wright, algorithm 4.1; a trial that is not finite says nothing but that it was too far.
        length = length * model.residual_scale
        wider = jnp.where((ratio > 0.75) & (length >= 0.9 * state.radius), 2 * state.radius, state.radius)
        radius = jnp.where(ratio >= 0.25, wider, 0.25 * jnp.minimum(length, state.radius))
        radius = jnp.where(trial.verdict.is_finite & ~jnp.isnan(ratio), radius, 0.1 * jnp.minimum(length, state.radius))
        size = safe_norm(trial.largest_norms * trial.x)
        radius = jnp.where(is_start, state.radius * jnp.where(size > 0, size, 1), radius)

        return DoglegState(radius=radius, **state.after(problem, trial, is_accepted, is_stuck))


def _dogleg(
    model: LinearModel, newton: LaneVector, weights: LaneVector, radius: LaneFloat, room: Room | None
) -> tuple[LaneVector, LaneFloat]:
    """The point where the dogleg leaves the trust region, or its end, in units of the scaled model; and its length in the metric."""
    slopes = jnp.sum(model.factor * model.rotated[:, None], axis=0)
    downhill = -safe_divide(safe_divide(slopes, weights), weights)
    image = model.predicted(downhill)
    cauchy = downhill * safe_divide(-dot(slopes, downhill), dot(image, image), otherwise=1.0)
    if room is not None:
        cauchy = cauchy * first_stop(cauchy, room)
    far = jnp.where(jnp.all(jnp.isfinite(newton), axis=0), newton, cauchy)
    a, b = weights * cauchy, weights * (far - cauchy)
    short = jnp.sqrt(dot(a, a))
    # |a + t b| = radius for the second leg; the root without cancellation.
    half, rest, square = dot(a, b), short**2 - radius**2, dot(b, b)
    root = jnp.sqrt(jnp.maximum(half**2 - square * rest, 0))
    t = jnp.where(half > 0, safe_divide(-rest, half + root), safe_divide(root - half, square))
    bent = cauchy + jnp.clip(t, 0, 1) * (far - cauchy)
    whole = jnp.sqrt(dot(weights * far, weights * far))
    step = jnp.where(whole <= radius, far, jnp.where(short >= radius, cauchy * safe_divide(radius, short), bent))
    return step, jnp.sqrt(dot(weights * step, weights * step))
