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
from jaxdiff.linalg import all_rows, dot, is_all_finite, matvec, max_norm, select_lanes, together
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.solvers.base import check_dense, counted, unevaluated
from jaxdiff.solvers.line_search import Bracket, is_sufficient_decrease
from jaxdiff.solvers.path import Path, among_free


@pytree_dataclass
class BFGSState:
    """State of BFGS.

    Attributes:
        x: current points.
        value: f there.
        gradient: its gradient there.
        direction: the quasi-Newton step -H g from here, among the parameters that may move.
        inverse_hessian: approximation H of the inverse Hessian, symmetric positive definite.
        is_fresh: whether that approximation is still a multiple of the identity, from the start or after a restart.
        bracket: where on the line acceptable steps may lie, and the one to try next.
        steepest: largest entry of the projected gradient at any point so far.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of f.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    direction: LaneVector
    inverse_hessian: LaneMatrix
    is_fresh: LaneBool
    bracket: Bracket
    steepest: LaneFloat
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt

    # A lane that does not learn adds nothing to its H, and one that starts begins with the identity.
    self_kept: ClassVar[tuple[str, ...]] = ("inverse_hessian",)

    @property
    def step_size(self) -> LaneFloat:
        """Multiple of the quasi-Newton step to try next."""
        return self.bracket.trial


@pytree_dataclass
class BFGS:
    """BFGS with a dense inverse Hessian: for up to a few hundred parameters.

    Attributes:
        gtol: stop where the largest absolute entry of the gradient is at most this, in units of f per unit of x; one number, or a pytree
            like x. None: eps^(1/2), with finite differences eps^(1/3). Where no gradient on the way was as large as one, it is at most
            this fraction of the largest of them: a small f is not at its minimum from the start. The number alone counts where no step
            leads further from a gradient that is eps^(1/4) of the largest, and where it is that small relative to f and x as well.

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
            direction=jnp.zeros_like(x),
            inverse_hessian=jnp.broadcast_to(jnp.eye(n, dtype=x.dtype)[..., None], (n, n, lanes)),
            is_fresh=jnp.ones(lanes, bool),
            bracket=Bracket.fresh(jnp.ones(lanes, x.dtype)),
            steepest=jnp.zeros(lanes, x.dtype),
            **unevaluated(x),
        )

    def step(self, problem: Minimize, state: BFGSState) -> BFGSState:
        """See `base.Solver`.

        What several loops over the lanes need is written out once between them (`linalg.together`): XLA's CPU compiler would compute the
        product of H and a vector anew for every entry of the next H.
        """
        free = problem.free(state.x, state.gradient)
        path = Path.along(problem, state.x, state.gradient, state.direction, state.bracket.trial)
        trial_value, trial_gradient = problem.value_and_gradient(path.x)
        trial_gradient, _ = together(trial_gradient, trial_gradient)
        projected = problem.projected(path.x, trial_gradient)
        y = among_free(free, trial_gradient - state.gradient)
        image, z = together(matvec(state.inverse_hessian, projected), matvec(state.inverse_hessian, y))
        scalars = _Scalars.of(problem, state, path, free, trial_value, trial_gradient, projected, y, z, self.gtol)
        verdict = _Verdict.of(problem, state, path, scalars)

        # Where nothing is learnt s and z are put out of the way, for they may be anything.
        learns = verdict.learns > 0
        s, z = jnp.where(learns, path.displacement, 0), jnp.where(learns, z, 0)
        left, right = together(verdict.weight * s - verdict.rho * z, -verdict.rho * z)
        identity = jnp.eye(s.shape[0], dtype=s.dtype)[..., None]
        is_reset = verdict.is_reset > 0
        scaled = jnp.where(is_reset, identity, state.inverse_hessian * verdict.scale)
        inverse_hessian = scaled + left[:, None] * s[None, :] + s[:, None] * right[None, :]

        moves = verdict.moves > 0
        # H_{k+1} g from the products with H_k.
        along, across = jnp.where(learns, scalars.s_gradient, 0), jnp.where(learns, -verdict.rho * scalars.z_gradient, 0)
        ahead = -(verdict.scale * image + left * along + s * across)
        ahead = among_free(problem.free(path.x, trial_gradient), jnp.where(state.num_steps < 0, -projected, ahead))
        steepest = -among_free(free, state.gradient)
        direction = jnp.where(moves, ahead, jnp.where(is_reset, steepest, state.direction))
        x, gradient, direction = together(jnp.where(moves, path.x, state.x), jnp.where(moves, trial_gradient, state.gradient), direction)
        return BFGSState(
            x=x,
            value=jnp.where(moves, trial_value, state.value),
            gradient=gradient,
            direction=direction,
            inverse_hessian=inverse_hessian,
            is_fresh=verdict.is_fresh > 0,
            bracket=Bracket(verdict.low, verdict.high, verdict.trial),
            steepest=verdict.steepest,
            status=verdict.status.astype(jnp.int32),
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, problem.evaluations_per_gradient),
        )


@pytree_dataclass
class _Scalars:
    """What a step needs to know of its vectors: one number per lane each."""

    trial_value: LaneFloat
    is_finite: LaneFloat
    slope: LaneFloat
    mean_slope: LaneFloat
    trial_slope: LaneFloat
    curvature: LaneFloat
    s_squared: LaneFloat
    y_squared: LaneFloat
    y_z: LaneFloat
    s_z: LaneFloat
    s_gradient: LaneFloat
    z_gradient: LaneFloat
    largest: LaneFloat
    old_largest: LaneFloat
    is_small: LaneFloat
    was_small: LaneFloat
    reach: LaneFloat

    @classmethod
    def of(
        cls,
        problem: Minimize,
        state: BFGSState,
        path: Path,
        free: Any,
        value: LaneFloat,
        gradient: LaneVector,
        projected: LaneVector,
        y: LaneVector,
        z: LaneVector,
        gtol: Any,
    ) -> "_Scalars":
        """All of them in one loop over the lanes."""
        s, size = path.displacement, jnp.abs(state.x)
        moved = jnp.where(size > 0, jnp.abs(path.direction) / jnp.where(size > 0, size, 1), jnp.where(path.direction == 0, 0, jnp.inf))
        flag = lambda condition: condition.astype(value.dtype)  # noqa: E731
        largest, steep, old = max_norm(projected), jnp.abs(projected), among_free(free, state.gradient)
        # Without the units of f and x no number is small. What a gradient has been tells, and f itself beside x where it is not near zero.
        fraction = jnp.minimum(jnp.maximum(state.steepest, largest), 1)
        is_small = all_rows(steep <= gtol * fraction) | all_rows(
            (steep <= gtol) & (steep * jnp.maximum(jnp.abs(path.x), 1) <= gtol * jnp.abs(value))
        )
        return cls(
            *together(
                value,
                flag(is_all_finite(path.x, value, gradient)),
                path.slope,
                path.mean_slope,
                dot(gradient, path.moving),
                dot(s, y),
                dot(s, s),
                dot(y, y),
                dot(y, z),
                dot(s, z),
                dot(s, projected),
                dot(z, projected),
                largest,
                max_norm(old),
                flag(is_small),
                flag(all_rows(jnp.abs(old) <= gtol)),
                max_norm(moved),
            )
        )


@pytree_dataclass
class _Verdict:
    """What becomes of a trial, one number per lane each.

    Attributes:
        moves: whether x becomes the trial.
        learns: whether H does.
        is_reset: whether H becomes the identity.
        is_fresh: as in the state.
        scale: what H is multiplied by.
        rho: 1 / y's.
        weight: of s s'.
        low: as in `Bracket`.
        high: as in `Bracket`.
        trial: as in `Bracket`.
        steepest: as in the state.
        status: codes of `Status`.
    """

    moves: LaneFloat
    learns: LaneFloat
    is_reset: LaneFloat
    is_fresh: LaneFloat
    scale: LaneFloat
    rho: LaneFloat
    weight: LaneFloat
    low: LaneFloat
    high: LaneFloat
    trial: LaneFloat
    steepest: LaneFloat
    status: LaneFloat

    @classmethod
    def of(cls, problem: Minimize, state: BFGSState, path: Path, seen: _Scalars) -> "_Verdict":
        """Where the line goes on, whether H learns, and how it stands with the lane; all in one loop."""
        is_start, is_finite = state.num_steps < 0, seen.is_finite > 0
        # A lane that has stopped is still stepped, and its H is nobody's but its own.
        is_running = state.status == Status.RUNNING
        step_size = state.bracket.trial
        is_low = is_finite & is_sufficient_decrease(state.value, seen.trial_value, seen.mean_slope, seen.trial_slope, step_size)
        bracket, is_accepted = state.bracket.narrowed(is_low, state.value, seen.trial_value, seen.mean_slope, seen.trial_slope)
        if problem.is_bounded:
            trial = path.not_past_first_stop(step_size, bracket.trial)
            bracket = dataclasses.replace(bracket, trial=jnp.where(is_low, bracket.trial, trial))
        is_accepted = is_accepted | (is_start & is_finite)
        # Nothing is known of the curvature yet: the first trial moves no coordinate by more than one.
        first = safe_divide(jnp.ones_like(step_size), seen.largest, otherwise=1.0)
        next_trial = jnp.where(is_start, jnp.minimum(first, 1), 1).astype(step_size.dtype)
        bracket = select_lanes(is_accepted, Bracket.fresh(next_trial), bracket)

        # Where the line is exhausted the approximation may be to blame: once more along the gradient, and then no more.
        epsilon = machine_epsilon(state.x.dtype)
        is_stuck = ~is_accepted & (bracket.trial * seen.reach <= epsilon)
        is_stuck = is_stuck | (~is_accepted & ((bracket.trial <= epsilon**2) | ~(seen.slope < 0)))
        is_restarted = is_stuck & ~state.is_fresh & ~is_start
        gentle = safe_divide(jnp.ones_like(step_size), seen.old_largest, otherwise=1.0)
        bracket = select_lanes(is_restarted, Bracket.fresh(jnp.minimum(gentle, 1)), bracket)
        # A gradient that has hardly shrunk says nothing, however small: f may be too flat for its own rounding to show a descent.
        is_fine = (seen.was_small > 0) & (seen.old_largest <= epsilon**0.25 * state.steepest)
        given_up = jnp.where(is_fine, Status.CONVERGED_GRADIENT, jnp.where(is_finite, Status.STALLED, Status.NON_FINITE))
        failure = jnp.where(is_stuck & ~is_restarted, given_up, Status.RUNNING)
        failure = jnp.where(seen.trial_value == -jnp.inf, Status.UNBOUNDED, failure)
        failure = jnp.where(is_start & ~is_finite, Status.NON_FINITE_START, failure)
        status = jnp.where(is_accepted & (seen.is_small > 0), Status.CONVERGED_GRADIENT, failure)

        # Below this the curvature is rounding; a division by it would destroy what has been learnt.
        is_safe = seen.curvature > epsilon * jnp.sqrt(seen.s_squared) * jnp.sqrt(seen.y_squared)
        guarded = jnp.where(is_safe, seen.curvature, 1)
        is_scaled = state.is_fresh & is_safe
        scale = jnp.where(is_scaled, safe_divide(guarded, seen.y_squared, otherwise=1.0), 1)
        rho = 1 / guarded
        weight = rho * (1 + rho * scale * seen.y_z)
        # Two numbers per lane tell of an overflow; looking through the matrix for it would cost a pass over memory.
        is_sound = is_safe & jnp.isfinite(weight) & jnp.isfinite(scale * seen.s_z)
        is_reset = is_running & (is_start | is_restarted)
        learns = is_running & is_accepted & ~is_start & is_sound
        is_fresh = jnp.where(is_start | is_restarted, True, state.is_fresh & ~is_accepted)
        numbers = (jnp.where(learns, scale, 1), jnp.where(learns, rho * scale, 0), jnp.where(learns, weight, 0))
        flag = lambda condition: condition.astype(step_size.dtype)  # noqa: E731
        steepest = jnp.where(is_accepted, jnp.maximum(state.steepest, seen.largest), state.steepest)
        lines = (bracket.low, bracket.high, bracket.trial, steepest)
        return cls(*together(flag(is_accepted | is_start), flag(learns), flag(is_reset), flag(is_fresh), *numbers, *lines, flag(status)))
