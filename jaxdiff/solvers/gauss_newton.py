"""Gauss-Newton: the step to the minimum of the linearized residuals, shortened until the cost falls.

    p = -(J'J)^{-1} J'r,    x_{k+1} = x_k + alpha p

Between bounds p is the minimum of the linearized residuals between them (`box_step`).

Source: Nocedal and Wright, Numerical Optimization (2006), section 10.3; the backtracking is their algorithm 3.1, one trial per step.
"""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import DType, LaneFloat, LaneVector
from jaxdiff.linalg import dot
from jaxdiff.problem import LeastSquares
from jaxdiff.solvers.base import check_dense, require_residuals
from jaxdiff.solvers.box_step import best_between, landed, room_about
from jaxdiff.solvers.line_search import SUFFICIENT_DECREASE
from jaxdiff.solvers.residual_model import FitState, default_residual_tolerance, try_point


@pytree_dataclass
class GaussNewtonState(FitState):
    """State of Gauss-Newton: the fields of `FitState`, and how far along the step to go.

    Attributes:
        step_size: multiple of the Gauss-Newton step to try next.
    """

    step_size: LaneFloat


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
    takes_bounds: ClassVar[bool] = True

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        return default_residual_tolerance(name, dtype, is_exact)

    def init(self, problem: Any, x: LaneVector) -> GaussNewtonState:
        """See `base.Solver`."""
        problem = require_residuals(problem, "GaussNewton")
        check_dense("GaussNewton", x)
        return GaussNewtonState(step_size=jnp.ones(x.shape[-1], x.dtype), **FitState.fresh(problem, x))

    def step(self, problem: LeastSquares, state: GaussNewtonState) -> GaussNewtonState:
        """See `base.Solver`."""
        epsilon = machine_epsilon(state.x.dtype)
        is_start = state.num_steps < 0
        direction, scaled = state.newton, state.model.scaled(state.newton)
        if problem.is_bounded:
            scaled = best_between(state.model, room_about(problem, state.model, state.x))
            direction = scaled * state.model.units
        image = state.model.predicted(scaled)
        slope = -dot(state.model.rotated, image)
        predicted = state.step_size * slope - state.step_size**2 * dot(image, image) / 2
        step = state.step_size * direction
        trial_x = landed(problem, state.x, step) if problem.is_bounded else state.x + step
        trial = try_point(problem, self, state, trial_x, predicted, jnp.ones_like(step))
        is_low = (trial.decrease > 0) & (trial.decrease >= SUFFICIENT_DECREASE * state.step_size * slope)
        is_accepted = trial.verdict.is_finite & (is_start | jnp.where(trial.is_blind, trial.fall < 1, is_low))

        is_stuck = jnp.all(jnp.abs(step) <= epsilon * jnp.abs(state.x), axis=0) | (state.step_size <= epsilon**2)
        fields = state.after(problem, trial, is_accepted, is_stuck)
        fields["newton"] = jnp.where(jnp.isfinite(fields["newton"]), fields["newton"], 0)
        step_size = jnp.where(is_accepted, 1, state.step_size / 3).astype(state.step_size.dtype)
        return GaussNewtonState(step_size=step_size, **fields)
