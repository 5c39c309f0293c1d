"""Levenberg-Marquardt on the normal equations: the least work per step, for many small and well-conditioned problems at once.

    (J'J + lambda D^2) p = -J'r,    x_{k+1} = x_k + p

One pass over the residuals gives J'J, J'r and the cost; LDL' factors of the matrix scaled to a unit diagonal give two steps: the damped
one, which is tried next, and the undamped one, which tells how much there is left to gain. Forming J'J squares the condition of J. Where
that leaves no digits a pivot shows it, and the lane ends as SINGULAR rather than with a success: `LevenbergMarquardt` works from orthogonal
factors and can go on from there, which a batch lets it do.

Sources: Marquardt, SIAM J. Appl. Math. 11 (1963) 431-441; Moré, The Levenberg-Marquardt algorithm: implementation and theory (1978), for D;
Nielsen, Damping parameter in Marquardt's method, IMM-REP-1999-05 (1999), equation 2.3; Madsen, Nielsen and Tingleff, Methods for
non-linear least squares problems (2004), algorithm 3.16. Bounds by projection: Bertsekas, SIAM J. Control Optim. 20 (1982) 221-246.
"""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneTriangle, LaneVector
from jaxdiff._validation import check_positive
from jaxdiff.linalg import all_rows, dot, matvec, max_norm, select_lanes, solve_definite
from jaxdiff.problem import LeastSquares
from jaxdiff.result import Status
from jaxdiff.solvers.base import check_dense, counted, require_residuals, unevaluated


@pytree_dataclass
class LevenbergMarquardtCholeskyState:
    """State of Levenberg-Marquardt on the normal equations.

    Attributes:
        x: current points.
        value: the cost there.
        gradient: J'r there.
        lower: the lower triangle of J'J there, row after row, ``[n (n + 1) / 2, lanes]``.
        scale: D^2, the largest diagonal of J'J so far.
        damping: lambda.
        growth: what the damping is multiplied by at the next rejection.
        step: the step to try next.
        predicted: the decrease of the cost that the model promises of it.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of the residuals.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    lower: LaneTriangle
    scale: LaneVector
    damping: LaneFloat
    growth: LaneFloat
    step: LaneVector
    predicted: LaneFloat
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt

    @property
    def step_size(self) -> LaneFloat:
        """The damping, under the name that a history keeps it by."""
        return self.damping


@pytree_dataclass
class LevenbergMarquardtCholesky:
    """Levenberg-Marquardt on the normal equations: what a batch of small least-squares problems is solved with first.

    Attributes:
        gtol: CONVERGED_GRADIENT where no column of J makes an angle with the residuals whose cosine exceeds this; free of units. None:
            4 eps, with finite differences eps^(2/3).
        xtol: CONVERGED_STEP where the undamped step would change no parameter by more than this fraction of itself; 0 switches the test
            off. One number, or a pytree like x. None: eps^(2/3), with finite differences eps^(1/2).
        ftol: CONVERGED_VALUE where the undamped model promises no further decrease than this fraction of the cost, or than 10 eps of it,
            which rounding hides. None: 10 eps.
        damping: lambda at the start, relative to D^2.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> residuals = lambda x: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])
        >>> result = jd.least_squares(residuals, [-1.2, 1.0], solver=jd.LevenbergMarquardtCholesky())
        >>> [round(float(v), 5) for v in result.x], bool(result.success)
        ([1.0, 1.0], True)
    """

    gtol: Any = None
    xtol: Any = None
    ftol: Any = None
    damping: Any = 1e-2

    name: ClassVar[str] = "levenberg_marquardt_cholesky"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol", "xtol", "ftol")
    takes_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(self.damping, "damping")

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        epsilon = machine_epsilon(dtype)
        if name == "ftol":
            return 10 * epsilon
        if name == "gtol":
            return 4 * epsilon if is_exact else epsilon ** (2 / 3)
        return epsilon ** (2 / 3) if is_exact else epsilon ** (1 / 2)

    def init(self, problem: Any, x: LaneVector) -> LevenbergMarquardtCholeskyState:
        """See `base.Solver`."""
        require_residuals(problem, "LevenbergMarquardtCholesky")
        check_dense("LevenbergMarquardtCholesky", x)
        n, lanes = x.shape
        ones = jnp.ones(lanes, x.dtype)
        return LevenbergMarquardtCholeskyState(
            lower=jnp.zeros((n * (n + 1) // 2, lanes), x.dtype),
            scale=jnp.zeros_like(x),
            damping=ones * self.damping,
            growth=2 * ones,
            step=jnp.zeros_like(x),
            predicted=jnp.zeros_like(ones),
            **unevaluated(x),
        )

    def step(self, problem: LeastSquares, state: LevenbergMarquardtCholeskyState) -> LevenbergMarquardtCholeskyState:
        """See `base.Solver`."""
        epsilon = machine_epsilon(state.x.dtype)
        is_start = state.num_steps < 0
        trial_x = problem.project(state.x + state.step)
        trial = problem.normal_equations(trial_x)
        is_finite = trial.is_finite & all_rows(jnp.isfinite(trial_x))
        decrease = state.value - trial.value
        rounding = 4 * epsilon * state.value
        # Where the cost has gone flat to rounding the slopes still tell the way.
        is_blind = ~is_start & (state.predicted <= rounding) & (jnp.abs(decrease) <= rounding)
        has_flattened = _slope(trial.gradient, trial.diagonal) < 0.8 * _slope(state.gradient, _diagonal(state.lower, state.x.shape[0]))
        ratio = jnp.where(is_blind, 0.5, safe_divide(decrease, state.predicted))
        is_accepted = is_finite & (is_start | jnp.where(is_blind, has_flattened, (state.predicted > 0) & (ratio > 1e-4)))

        x, value, gradient, lower, scale = select_lanes(
            is_accepted | is_start,
            (trial_x, trial.value, trial.gradient, trial.lower, jnp.maximum(state.scale, trial.diagonal)),
            (state.x, state.value, state.gradient, state.lower, state.scale),
        )
        damping, growth = _updated(state, ratio, is_accepted)
        step, predicted, verdict = self._propose(problem, x, value, gradient, lower, scale, damping, is_accepted & ~is_start)
        is_stuck = is_blind | all_rows(jnp.abs(state.step) <= epsilon * jnp.abs(state.x)) | ~(state.damping < 1 / epsilon)
        rejected = jnp.where(is_stuck, jnp.where(is_finite, Status.STALLED, Status.NON_FINITE), Status.RUNNING)
        rejected = jnp.where(is_start, Status.NON_FINITE_START, rejected)
        return LevenbergMarquardtCholeskyState(
            x=x,
            value=value,
            gradient=gradient,
            lower=lower,
            scale=scale,
            damping=damping,
            growth=growth,
            step=step,
            predicted=predicted,
            status=jnp.where(is_accepted, verdict, rejected).astype(jnp.int32),
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, problem.evaluations_per_gradient),
        )

    def _propose(
        self,
        problem: LeastSquares,
        x: LaneVector,
        value: LaneFloat,
        gradient: LaneVector,
        lower: LaneTriangle,
        scale: LaneVector,
        damping: LaneFloat,
        has_moved: LaneBool,
    ) -> tuple[LaneVector, LaneFloat, LaneInt]:
        """The damped step, the decrease that it promises, and what the undamped model says of x."""
        n = x.shape[0]
        epsilon = machine_epsilon(x.dtype)
        diagonal = _diagonal(lower, n)
        free = problem.free(x, gradient)
        free = jnp.ones(x.shape, bool) if free is None else free
        has_column = free & (diagonal > 0)
        unit = jnp.where(has_column, 1 / jnp.sqrt(jnp.where(has_column, diagonal, 1)), 0)
        slopes = gradient * unit
        # A unit diagonal, that of parameters that stay where they are included.
        entries = {(i, j): lower[i * (i + 1) // 2 + j] * unit[i] * unit[j] for i in range(n) for j in range(i)}
        extra = damping * jnp.where(has_column, scale * unit * unit, 0)
        matrix = lambda more: jnp.stack(  # noqa: E731
            [jnp.stack([1 + more[i] if i == j else entries[max(i, j), min(i, j)] for j in range(n)]) for i in range(n)]
        )
        newton, is_definite = solve_definite(matrix(jnp.zeros_like(extra)), -slopes)
        damped, _ = solve_definite(matrix(extra), -slopes)
        promised = -dot(slopes, newton) / 2
        predicted = (dot(extra, damped * damped) - dot(slopes, damped)) / 2
        # Close to the minimum the damping only delays; where the undamped step fails the damped ones follow.
        is_near = has_moved & is_definite & (promised <= 1e-3 * value)
        damped, predicted = jnp.where(is_near, newton, damped), jnp.where(is_near, promised, predicted)
        step, newton = damped * unit, newton * unit
        if problem.is_bounded:
            # Bounds bend the step, and only the model itself tells what a bent one promises.
            step = problem.project(x + step) - x
            scaled = step * jnp.sqrt(jnp.where(has_column, diagonal, 0))
            image = matvec(matrix(jnp.zeros_like(extra)), scaled)
            predicted = -dot(slopes, scaled) - dot(scaled, image) / 2

        is_small_gain = promised <= jnp.maximum(self.ftol, 10 * epsilon) * value
        is_small_step = all_rows(jnp.abs(newton) <= self.xtol * jnp.abs(x))
        is_small_gradient = all_rows((jnp.abs(slopes) <= self.gtol * jnp.sqrt(2 * value)) | ~free)
        status = jnp.where(is_small_gain, Status.CONVERGED_VALUE, Status.RUNNING)
        status = jnp.where(is_small_step, Status.CONVERGED_STEP, status)
        status = jnp.where(is_small_gradient, Status.CONVERGED_GRADIENT, status)
        # A parameter without influence, or one that has lost it on the way, was not found; without full rank a step says too little.
        is_lost = ~all_rows(~free | (diagonal > epsilon * scale))
        is_sound = (is_definite & ~is_lost) | (value == 0)
        status = jnp.where(is_sound, status, jnp.where(is_small_gradient, Status.SINGULAR, Status.RUNNING))
        return step, predicted, status


def _diagonal(lower: LaneTriangle, n: int) -> LaneVector:
    """The diagonal of a packed lower triangle."""
    return jnp.stack([lower[i * (i + 3) // 2] for i in range(n)])


def _slope(gradient: LaneVector, diagonal: LaneVector) -> LaneFloat:
    """The largest slope of the cost along a column of J of length one."""
    return max_norm(safe_divide(gradient, jnp.sqrt(diagonal)))


def _updated(state: LevenbergMarquardtCholeskyState, ratio: LaneFloat, is_accepted: LaneBool) -> tuple[LaneFloat, LaneFloat]:
    """The damping and its growth behind a step, by Nielsen's rule."""
    cubic = 1 - (2 * jnp.clip(ratio, 0, 1) - 1) ** 3
    tiny = jnp.asarray(jnp.finfo(ratio.dtype).tiny, ratio.dtype)
    lowered = jnp.maximum(state.damping * jnp.maximum(cubic, 1 / 3), 1e3 * tiny)
    # Rejections end long before this overflows.
    raised = state.damping * state.growth
    is_start = state.num_steps < 0
    damping = jnp.where(is_start, state.damping, jnp.where(is_accepted, lowered, raised))
    growth = jnp.where(is_accepted | is_start, 2, 2 * state.growth)
    return damping.astype(ratio.dtype), growth.astype(ratio.dtype)
