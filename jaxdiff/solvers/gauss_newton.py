"""Gauss-Newton: the step to the minimum of the linearized residuals, shortened until the cost falls.

    p = -(J'J)^{-1} J'r,    x_{k+1} = x_k + alpha p

Source: Nocedal and Wright, Numerical Optimization (2006), section 10.3; the backtracking is their algorithm 3.1, one trial per step.
"""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import DType, LaneFloat, LaneInt, LaneVector
from jaxdiff.linalg import dot, select_lanes
from jaxdiff.problem import LeastSquares
from jaxdiff.result import Status
from jaxdiff.solvers.base import check_dense, counted, require_residuals, unevaluated
from jaxdiff.solvers.line_search import SUFFICIENT_DECREASE
from jaxdiff.solvers.residual_model import LinearModel, default_residual_tolerance, try_point


@pytree_dataclass
class GaussNewtonState:
    """State of Gauss-Newton.

    Attributes:
        x: current points.
        value: the cost there.
        gradient: its gradient there.
        model: the residuals to first order there.
        direction: the Gauss-Newton step.
        step_size: multiple of it to try next.
        largest_norms: largest length of each column of the Jacobian so far.
        at_rest: code of `Status` for a lane that gets no further from x.
        num_blind: steps within the rounding of the cost that did not lower the slopes by a tenth.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of the residuals.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    model: LinearModel
    direction: LaneVector
    step_size: LaneFloat
    largest_norms: LaneVector
    at_rest: LaneInt
    num_blind: LaneInt
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt


@pytree_dataclass
class GaussNewton:
    """Gauss-Newton with backtracking: quickest near a solution with small residuals, without help far from it or where J is singular.

    Attributes:
        gtol: as in `LevenbergMarquardt`.
        xtol: as in `LevenbergMarquardt`.
        ftol: as in `LevenbergMarquardt`.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> residuals = lambda x: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])
        >>> result = jd.least_squares(residuals, [-1.2, 1.0], solver=jd.GaussNewton())
        >>> [round(float(v), 6) for v in result.x], bool(result.success)
        ([1.0, 1.0], True)
    """

    gtol: Any = None
    xtol: Any = None
    ftol: Any = None

    name: ClassVar[str] = "gauss_newton"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol", "xtol", "ftol")

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        return default_residual_tolerance(name, dtype, is_exact)

    def init(self, problem: Any, x: LaneVector) -> GaussNewtonState:
        """See `base.Solver`."""
        problem = require_residuals(problem, "GaussNewton")
        check_dense("GaussNewton", x)
        return GaussNewtonState(
            model=LinearModel.empty(problem, x),
            direction=jnp.zeros_like(x),
            step_size=jnp.ones(x.shape[-1], x.dtype),
            largest_norms=jnp.zeros_like(x),
            at_rest=jnp.zeros(x.shape[-1], jnp.int32),
            num_blind=jnp.zeros(x.shape[-1], jnp.int32),
            **unevaluated(x),
        )

    def step(self, problem: LeastSquares, state: GaussNewtonState) -> GaussNewtonState:
        """See `base.Solver`."""
        epsilon = machine_epsilon(state.x.dtype)
        is_start = state.num_steps < 0
        image = state.model.predicted(state.model.scaled(state.direction))
        slope = -dot(state.model.rotated, image)
        predicted = state.step_size * slope - state.step_size**2 * dot(image, image) / 2
        step = state.step_size * state.direction
        trial = try_point(problem, self, state, state.x + step, predicted, jnp.ones_like(step))
        is_low = (trial.decrease > 0) & (trial.decrease >= SUFFICIENT_DECREASE * state.step_size * slope)
        is_accepted = trial.verdict.is_finite & (is_start | jnp.where(trial.is_blind, trial.fall < 1, is_low))

        is_resting = trial.is_blind & ~(trial.fall <= 0.9)
        num_blind = jnp.where(is_resting, state.num_blind + 1, jnp.where(is_accepted, 0, state.num_blind)).astype(jnp.int32)
        is_lost = num_blind >= 40
        accepted_status = jnp.where(is_lost & (trial.verdict.status == Status.RUNNING), trial.verdict.at_rest, trial.verdict.status)
        # Nothing slopes at the start, and nothing tells whether it is a minimum.
        is_flat = is_start & trial.verdict.is_flat & (trial.model.residual_norm > 0)
        accepted_status = jnp.where(is_flat, Status.PLATEAU, accepted_status)
        is_stuck = is_lost | jnp.all(jnp.abs(step) <= epsilon * jnp.abs(state.x), axis=0) | (state.step_size <= epsilon**2)
        given_up = jnp.where(trial.verdict.is_finite, state.at_rest, Status.NON_FINITE)
        rejected_status = jnp.where(is_start, Status.NON_FINITE_START, jnp.where(is_stuck, given_up, Status.RUNNING))

        taken = (trial.x, trial.value, trial.gradient, trial.model, trial.verdict.newton, trial.largest_norms, trial.verdict.at_rest)
        kept = (state.x, state.value, state.gradient, state.model, state.direction, state.largest_norms, state.at_rest)
        x, value, gradient, model, direction, largest_norms, at_rest = select_lanes(is_accepted | is_start, taken, kept)
        return GaussNewtonState(
            x=x,
            value=value,
            gradient=gradient,
            model=model,
            direction=jnp.where(jnp.isfinite(direction), direction, 0),
            step_size=jnp.where(is_accepted, 1, state.step_size / 3).astype(state.step_size.dtype),
            largest_norms=largest_norms,
            at_rest=at_rest,
            num_blind=num_blind,
            status=jnp.where(is_accepted, accepted_status, rejected_status).astype(jnp.int32),
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, problem.evaluations_per_gradient),
        )
