"""Newton's method with a modified factorization and a line search of one trial per step.

    p_k = -(H_k + E_k)^{-1} g_k,    x_{k+1} = x_k + alpha_k p_k

E_k is zero where H_k is safely positive definite, and else large enough that p_k is a direction of descent.

Source: Nocedal and Wright, Numerical Optimization (2006), section 3.4 and algorithm 3.2; Gill, Murray and Wright, Practical Optimization
    (1981), section 4.4.2. The test for saddles and its escape are our own. Between bounds H_k is that of the
    parameters that may move (Bertsekas, SIAM J. Control Optim. 20 (1982) 221-246; see `path`).
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneMatrix, LaneVector
from jaxdiff.linalg import all_entries, all_rows, dot, is_all_finite, matvec, max_norm, select_lanes, solve, solve_modified, together
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.solvers.base import check_dense, counted, default_newton_tolerance, unevaluated
from jaxdiff.solvers.line_search import CURVATURE, is_lost_in_rounding, is_sufficient_decrease, shortened
from jaxdiff.solvers.path import Path, among_movable, open_ways, with_identity
from jaxdiff.solvers.saddle import probe_null_vectors
from jaxdiff.solvers.stationary import Sizes, has_run_away, is_stationary, is_step_negligible, stopped_short


@pytree_dataclass
class NewtonState:
    """State of Newton's method.

    Attributes:
        x: current points.
        value: f there.
        gradient: its gradient there.
        direction: the step to try next, before it is multiplied by ``step_size``.
        is_definite: whether ``direction`` is the Newton step of a safely positive definite Hessian.
        step_size: multiple of ``direction`` to try next; above one where the Hessian is not definite and f falls on.
        sizes: how large f, its gradient and x have been.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of f.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    direction: LaneVector
    is_definite: LaneBool
    step_size: LaneFloat
    sizes: Sizes
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt


@pytree_dataclass
class Newton:
    """Newton's method for problems small enough to factor a dense Hessian.

    Stops with success only where the Hessian bears it out: safely positive definite, or singular with no descent found along its null
    vectors. At a saddle it leaves along a direction of negative curvature; where it finds none that lowers f it says SADDLE_POINT.
    Where it has come to a region in which f does not change at all, it says PLATEAU.

    Attributes:
        gtol: CONVERGED_GRADIENT where the largest absolute entry of the gradient is at most this, in units of f per unit of x; one number,
            or a pytree like x. None: eps^(3/4), since the last step of a quadratically convergent method is almost free; with finite
            differences eps^(1/3); where the gradient is small beside f, x and what they have been too (see `stationary`).
        xtol: CONVERGED_STEP where the Newton step would change no parameter by more than this fraction of itself; 0 switches the test off.
            One number, or a pytree like x. None: eps^(2/3), with finite differences eps^(1/2).
        ftol: CONVERGED_VALUE where the quadratic model promises no further decrease than this fraction of abs(f); 0 switches the test off.
            None: 0, since the gradient still tells the way where f has gone flat. Whatever ftol is, a lane in which no trial lowers f, and
            whose model promises a decrease below the rounding of f, ends as CONVERGED_VALUE.

    Example:
        >>> import jaxdiff as jd
        >>> rosenbrock = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> result = jd.minimize(rosenbrock, [-1.2, 1.0], solver=jd.Newton())
        >>> [round(float(v), 6) for v in result.x], bool(result.success)
        ([1.0, 1.0], True)
    """

    gtol: Any = None
    xtol: Any = None
    ftol: Any = None

    name: ClassVar[str] = "newton"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol", "xtol", "ftol")
    takes_bounds: ClassVar[bool] = True
    weighs_gradient: ClassVar[bool] = True

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        return default_newton_tolerance(name, dtype, is_exact)

    def init(self, problem: Minimize, x: LaneVector) -> NewtonState:
        """See `base.Solver`."""
        check_dense("Newton", x)
        lanes = x.shape[-1]
        return NewtonState(
            direction=jnp.zeros_like(x),
            is_definite=jnp.zeros(lanes, bool),
            step_size=jnp.ones(lanes, x.dtype),
            sizes=Sizes.none(x),
            **unevaluated(x),
        )

    def step(self, problem: Minimize, state: NewtonState) -> NewtonState:
        """See `base.Solver`."""
        path = Path.along(problem, state.x, state.gradient, state.direction, state.step_size)
        trial_x = path.x
        trial_value, trial_gradient, trial_hessian = problem.value_gradient_hessian(trial_x)
        # Written out once: what follows would otherwise compute the inner products anew in each of its loops.
        slope, mean_slope, trial_slope, is_finite = together(
            path.slope,
            path.mean_slope,
            dot(trial_gradient, path.moving),
            (is_all_finite(trial_x, trial_value, trial_gradient) & all_entries(jnp.isfinite, trial_hessian)).astype(trial_value.dtype),
        )
        is_finite = is_finite > 0
        is_accepted = is_finite & is_sufficient_decrease(state.value, trial_value, mean_slope, trial_slope, state.step_size)

        direction, is_definite, assessed, probes = self._assess(
            problem, trial_x, path.displacement, trial_value, trial_gradient, trial_hessian, state.sizes, state.num_steps >= 0
        )
        largest = max_norm(problem.projected(trial_x, trial_gradient))
        width = max_norm(trial_x)
        sizes = state.sizes.with_point(is_accepted, state.num_steps < 0, largest, trial_value, width)
        shorter = path.not_past_first_stop(state.step_size, shortened(state.step_size, state.value, trial_value, mean_slope))
        # Without a model that has a minimum a step has no length of its own: as long as f falls as steeply as before, twice the last one.
        is_falling = ~state.is_definite & ~is_definite & (trial_slope <= CURVATURE * slope) & (slope < 0)
        longer = jnp.where(is_falling, jnp.maximum(2 * state.step_size, 1), 1)
        step_size = jnp.where(is_accepted, longer, shorter).astype(state.step_size.dtype)
        rejected = _status_after_rejection(problem, self.gtol, state, slope, step_size, is_finite)
        runs_away = has_run_away(state.sizes, width, trial_value, state.value)
        rejected = jnp.where(runs_away, Status.UNBOUNDED, rejected)
        rejected = jnp.where(state.num_steps < 0, Status.NON_FINITE_START, rejected)
        # A start that is not finite is shown as it is: its value is the evidence.
        x, value, gradient, direction, is_definite = select_lanes(
            is_accepted | (state.num_steps < 0),
            (trial_x, trial_value, trial_gradient, direction, is_definite),
            (state.x, state.value, state.gradient, state.direction, state.is_definite),
        )
        return NewtonState(
            x=x,
            value=value,
            gradient=gradient,
            direction=direction,
            is_definite=is_definite,
            step_size=step_size,
            sizes=sizes,
            status=jnp.where(is_accepted & ~runs_away, assessed, rejected).astype(jnp.int32),
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, problem.evaluations_per_gradient + probes),
        )

    def _assess(
        self,
        problem: Minimize,
        x: LaneVector,
        displacement: LaneVector,
        value: LaneFloat,
        gradient: LaneVector,
        hessian: LaneMatrix,
        sizes: Sizes,
        has_moved: LaneBool,
    ) -> "tuple[LaneVector, LaneBool, LaneInt, LaneInt]":
        """The next direction, whether it is a true Newton step, the status of the point, and the evaluations spent on finding out."""
        projected = problem.projected(x, gradient)
        is_movable, reduced, is_weak = among_movable(problem, x, gradient, self.gtol.share(sizes, max_norm(projected)))
        hessian = with_identity(is_movable, hessian)
        direction, is_definite = _newton_direction(hessian, -reduced)
        direction = open_ways(problem, x, direction)
        promised, is_small, is_step_small, is_usable, is_level = together(
            -dot(gradient, direction) / 2,
            *(
                condition.astype(x.dtype)
                for condition in (
                    is_stationary(self.gtol, sizes, x, value, projected, displacement)
                    | (is_definite & is_step_negligible(self.gtol, sizes, x, projected, direction)),
                    all_rows(jnp.abs(direction) <= self.xtol * jnp.abs(x)),
                    is_all_finite(gradient) & all_entries(jnp.isfinite, hessian),
                    all_rows(gradient == 0) & all_entries(lambda entry: entry == 0, hessian),
                )
            ),
        )
        is_small, is_step_small, is_usable, is_level = (flag > 0 for flag in (is_small, is_step_small, is_usable, is_level))
        is_gain_small = promised <= self.ftol * jnp.abs(value)
        status = jnp.where(is_gain_small, Status.CONVERGED_VALUE, Status.RUNNING)
        status = jnp.where(is_step_small, Status.CONVERGED_STEP, status)
        status = jnp.where(is_small, Status.CONVERGED_GRADIENT, status)

        # A small gradient where the Hessian is not definite: a saddle, a maximum, or a minimum that is flat in some direction.
        is_flat = is_small | (promised <= machine_epsilon(x.dtype) * jnp.abs(value))
        is_doubtful = is_flat & ~is_definite & is_usable
        escape, has_escape, is_saddle = jax.lax.cond(
            jnp.any(is_doubtful),
            lambda: probe_null_vectors(*jax.lax.stop_gradient((problem, x, value, hessian)), is_movable),
            lambda: (jnp.zeros_like(x), jnp.zeros_like(is_small), jnp.zeros_like(is_small)),
        )
        stop = jnp.where(is_small, Status.CONVERGED_GRADIENT, Status.CONVERGED_VALUE)
        # Negative curvature across a bound is no saddle.
        stop = jnp.where(is_saddle & ~is_weak, Status.SADDLE_POINT, stop)
        # A spike that shrinks between the data ends here with nothing to go by; an f that is constant from its start has its minimum there.
        is_constant = has_moved & is_level
        stop = jnp.where(is_constant, Status.PLATEAU, stop)
        verdict = jnp.where(has_escape, Status.RUNNING, stop)
        status = jnp.where(is_doubtful, verdict, jnp.where(is_definite, status, Status.RUNNING)).astype(jnp.int32)
        direction = jnp.where(is_doubtful & has_escape, escape, direction)
        probes = jnp.where(is_doubtful, 8 * x.shape[0], 0).astype(jnp.int32)
        return direction, is_definite, status, probes


def _status_after_rejection(
    problem: Minimize, gtol: Any, state: NewtonState, slope: LaneFloat, next_step_size: LaneFloat, is_finite: LaneBool
) -> LaneInt:
    """RUNNING with a shorter step, unless there is nothing left to gain or nothing left to shorten."""
    epsilon = machine_epsilon(state.x.dtype)
    left = next_step_size * (2 - next_step_size) * (-slope / 2)
    is_spent = state.is_definite & is_finite & is_lost_in_rounding(-slope / 2, left, state.value)
    is_stuck = jnp.all(jnp.abs(next_step_size * state.direction) <= epsilon * jnp.abs(state.x), axis=0)
    is_stuck = is_stuck | (next_step_size <= epsilon**2)
    given_up = stopped_short(problem, gtol, state.sizes, state.x, state.value, state.gradient, is_stuck & state.is_definite, is_finite)
    status = jnp.where(is_stuck, given_up, Status.RUNNING)
    return jnp.where(is_spent, Status.CONVERGED_VALUE, status).astype(jnp.int32)


@jax.custom_jvp
def _newton_direction(hessian: LaneMatrix, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    """`linalg.solve_modified`, with a derivative that unrolled steps can be taken back through.

    The derivative is that of H^{-1} rhs where H is definite. Where it was modified the direction counts as a constant: such steps lie far
    from the minimum, and the definite ones that follow forget how they came about.
    """
    return solve_modified(hessian, rhs)


@_newton_direction.defjvp
def _newton_direction_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    hessian, rhs = primals
    hessian_dot, rhs_dot = tangents
    direction, is_definite = _newton_direction(hessian, rhs)
    guarded = jnp.where(is_definite, hessian, jnp.eye(rhs.shape[0], dtype=rhs.dtype)[..., None])
    change = jnp.where(is_definite, rhs_dot - matvec(hessian_dot, direction), 0)
    return (direction, is_definite), (solve(guarded, change), np.zeros(is_definite.shape, jax.dtypes.float0))
