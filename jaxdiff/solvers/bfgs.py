"""BFGS: a quasi-Newton method that keeps an approximation of the inverse Hessian.

    p_k = -H_k g_k,    s = x_{k+1} - x_k,    y = g_{k+1} - g_k,    rho = 1 / y's
    H_{k+1} = (I - rho s y') H_k (I - rho y s') + rho s s'

Source: Nocedal and Wright, Numerical Optimization (2006), algorithm 6.1 and equations 6.17, 6.20. The line search bisects towards the weak
Wolfe conditions, one trial per step: Lewis and Overton, Nonsmooth optimization via quasi-Newton methods, Math. Program. 141 (2013) 135-163,
algorithm 2.6; the parabola in place of its bisection, and the restart from the identity, are our own. Between bounds H is that of the
parameters that may move, as in Kim, Sra and Dhillon, Tackling box-constrained optimization via a new projected quasi-Newton approach,
SIAM J. Sci. Comput. 32 (2010) 3548-3563; a parameter that a bound holds teaches it nothing.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdiff._numerics import default_gradient_tolerance, machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneMatrix, LaneVector
from jaxdiff.linalg import dot, is_all_finite, matvec, max_norm, select_lanes
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.solvers.base import check_dense, counted, is_gradient_small, unevaluated
from jaxdiff.solvers.line_search import Bracket, is_sufficient_decrease
from jaxdiff.solvers.path import Path, among_free


@pytree_dataclass
class BFGSState:
    """State of BFGS.

    Attributes:
        x: current points.
        value: f there.
        gradient: its gradient there.
        inverse_hessian: approximation of the inverse Hessian, symmetric positive definite.
        is_fresh: whether that approximation is still a multiple of the identity, from the start or after a restart.
        bracket: where on the line acceptable steps may lie, and the one to try next.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of f.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    inverse_hessian: LaneMatrix
    is_fresh: LaneBool
    bracket: Bracket
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt

    @property
    def step_size(self) -> LaneFloat:
        """Multiple of the quasi-Newton step to try next."""
        return self.bracket.trial


@pytree_dataclass
class BFGS:
    """BFGS with a dense inverse Hessian: for up to a few hundred parameters.

    Attributes:
        gtol: stop where the largest absolute entry of the gradient is at most this; absolute, in units of f per unit of x; one number, or a
            pytree like x. None: eps^(1/2), with finite differences eps^(1/3).

    Note:
        A method that sees gradients only cannot tell a saddle from a minimum: CONVERGED_GRADIENT says that the gradient is small.

    Example:
        >>> import jaxdiff as jd
        >>> rosenbrock = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> result = jd.minimize(rosenbrock, [-1.2, 1.0], solver=jd.BFGS())
        >>> [round(float(v), 6) for v in result.x], result.status_name
        ([1.0, 1.0], 'CONVERGED_GRADIENT')
    """

    gtol: Any = None

    name: ClassVar[str] = "bfgs"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol",)
    takes_bounds: ClassVar[bool] = True

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        return default_gradient_tolerance(dtype, is_exact=is_exact)

    def init(self, problem: Minimize, x: LaneVector) -> BFGSState:
        """See `base.Solver`."""
        check_dense("BFGS", x)
        n, lanes = x.shape
        return BFGSState(
            inverse_hessian=_identity(n, lanes, x.dtype),
            is_fresh=jnp.ones(lanes, bool),
            bracket=Bracket.fresh(jnp.ones(lanes, x.dtype)),
            **unevaluated(x),
        )

    def step(self, problem: Minimize, state: BFGSState) -> BFGSState:
        """See `base.Solver`."""
        is_start = state.num_steps < 0
        step_size = state.bracket.trial
        free = problem.free(state.x, state.gradient)
        direction = among_free(free, -matvec(state.inverse_hessian, among_free(free, state.gradient)))
        path = Path.along(problem, state.x, state.gradient, direction, step_size)
        direction, slope, trial_x = path.direction, path.slope, path.x
        trial_value, trial_gradient = problem.value_and_gradient(trial_x)
        is_finite = is_all_finite(trial_x, trial_value, trial_gradient)
        trial_slope = dot(trial_gradient, path.moving)
        is_low = is_finite & is_sufficient_decrease(state.value, trial_value, path.mean_slope, trial_slope, step_size)
        bracket, is_accepted = state.bracket.narrowed(is_low, state.value, trial_value, path.mean_slope, trial_slope)
        if problem.is_bounded:
            trial = path.not_past_first_stop(step_size, bracket.trial)
            bracket = dataclasses.replace(bracket, trial=jnp.where(is_low, bracket.trial, trial))
        is_accepted = is_accepted | (is_start & is_finite)

        change = among_free(free, trial_gradient - state.gradient)
        updated = _updated(state.inverse_hessian, path.displacement, change, state.is_fresh)
        inverse_hessian, is_fresh = select_lanes(is_start, (state.inverse_hessian, state.is_fresh), (updated, jnp.zeros_like(is_start)))
        # Nothing is known of the curvature yet: the first trial moves no coordinate by more than one.
        projected = problem.projected(trial_x, trial_gradient)
        first = safe_divide(jnp.ones_like(step_size), max_norm(projected), otherwise=1.0)
        next_trial = jnp.where(is_start, jnp.minimum(first, 1), 1).astype(step_size.dtype)
        bracket = select_lanes(is_accepted, Bracket.fresh(next_trial), bracket)

        # Where the line is exhausted the approximation may be to blame: once more along the gradient, and then no more.
        epsilon = machine_epsilon(state.x.dtype)
        is_stuck = ~is_accepted & jnp.all(bracket.trial * jnp.abs(direction) <= epsilon * jnp.abs(state.x), axis=0)
        is_stuck = is_stuck | (~is_accepted & ((bracket.trial <= epsilon**2) | ~(slope < 0)))
        is_restarted = is_stuck & ~state.is_fresh & ~is_start
        gentle = safe_divide(jnp.ones_like(step_size), max_norm(among_free(free, state.gradient)), otherwise=1.0)
        n, lanes = state.x.shape
        restart = (_identity(n, lanes, state.x.dtype), jnp.ones_like(is_start), Bracket.fresh(jnp.minimum(gentle, 1)))
        inverse_hessian, is_fresh, bracket = select_lanes(
            is_restarted,
            restart,
            select_lanes(is_accepted, (inverse_hessian, is_fresh, bracket), (state.inverse_hessian, state.is_fresh, bracket)),
        )

        failure = jnp.where(is_stuck & ~is_restarted, jnp.where(is_finite, Status.STALLED, Status.NON_FINITE), Status.RUNNING)
        failure = jnp.where(trial_value == -jnp.inf, Status.UNBOUNDED, failure)
        failure = jnp.where(is_start & ~is_finite, Status.NON_FINITE_START, failure)
        is_converged = is_accepted & is_gradient_small(projected, self.gtol)
        x, value, gradient = select_lanes(
            is_accepted | is_start, (trial_x, trial_value, trial_gradient), (state.x, state.value, state.gradient)
        )
        return BFGSState(
            x=x,
            value=value,
            gradient=gradient,
            inverse_hessian=inverse_hessian,
            is_fresh=is_fresh,
            bracket=bracket,
            status=jnp.where(is_converged, Status.CONVERGED_GRADIENT, failure).astype(jnp.int32),
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, problem.evaluations_per_gradient),
        )


def _identity(n: int, lanes: int, dtype: Any) -> LaneMatrix:
    return jnp.broadcast_to(jnp.eye(n, dtype=dtype)[..., None], (n, n, lanes))


def _updated(inverse_hessian: LaneMatrix, s: LaneVector, y: LaneVector, is_fresh: LaneBool) -> LaneMatrix:
    """The BFGS update, skipped where the step shows no positive curvature; a fresh matrix is first scaled to the curvature seen.

    Written out (equation 6.17 expanded) so that every operation is elementwise or one matrix-vector product; symmetric to the last bit.
    """
    curvature = dot(s, y)
    y_squared = dot(y, y)
    # Below this the curvature is rounding; a division by it would destroy what has been learnt.
    is_safe = curvature > machine_epsilon(s.dtype) * jnp.sqrt(dot(s, s)) * jnp.sqrt(y_squared)
    guarded = jnp.where(is_safe, curvature, 1)
    scale = jnp.where(is_fresh & is_safe, safe_divide(guarded, y_squared, otherwise=1.0), 1)
    scaled = inverse_hessian * scale
    z = scale * matvec(inverse_hessian, y)
    rho = 1 / guarded
    weight = rho * (1 + rho * dot(y, z))
    new = scaled + weight * s[:, None] * s[None, :] - rho * (z[:, None] * s[None, :] + s[:, None] * z[None, :])
    # Two numbers per lane tell of an overflow; looking through the matrix for it would cost a pass over memory.
    return jnp.where(is_safe & jnp.isfinite(weight) & jnp.isfinite(dot(s, z)), new, inverse_hessian)
