"""Levenberg-Marquardt: damped Gauss-Newton steps for sums of squares, with Nielsen's update and geodesic acceleration.

    (J'J + lambda D^2) p = -J'r,    (J'J + lambda D^2) a = -J' (d^2/dt^2) r(x + t p),    x_{k+1} = x_k + p + a / 2

One trial per step: the damping grows where the cost does not fall as the model predicts, and falls where it does.

Sources: Marquardt, SIAM J. Appl. Math. 11 (1963) 431-441; Moré, The Levenberg-Marquardt algorithm: implementation and theory (1978);
Nielsen, Damping parameter in Marquardt's method, IMM-REP-1999-05 (1999), equation 2.3; Transtrum and Sethna, Improvements to the
Levenberg-Marquardt algorithm for nonlinear least-squares minimization, arXiv:1201.5885 (2012), sections 2 and 5. The damping by the sizes
of the parameters, and the ever faster fall of the damping along a row of good steps, are our own.
"""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneVector
from jaxdiff._validation import check_choice, check_positive
from jaxdiff.linalg import matvec, select_together, together
from jaxdiff.problem import LeastSquares
from jaxdiff.result import Status
from jaxdiff.solvers.base import check_dense, counted, require_residuals, unevaluated
from jaxdiff.solvers.residual_model import LinearModel, default_residual_tolerance, try_point

SCALINGS = ("parameters", "marquardt", "levenberg")

# Where all derivatives vanish at the start: places to look at, as multiples of x. Our own choice.
_PROBES = (0.9, 1.1, 0.5, 2.0, 0.1, 10.0, -1.0)


@pytree_dataclass
class LevenbergMarquardtState:
    """State of Levenberg-Marquardt.

    Attributes:
        x: current points.
        value: the cost there.
        gradient: its gradient there.
        model: the residuals to first order there.
        damping: lambda, relative to the largest column of J diag(1 / D).
        streak: good steps in a row; negative, rejections in a row.
        largest_x: largest size of each parameter so far.
        largest_norms: largest length of each column of the Jacobian so far.
        at_rest: code of `Status` for a lane that gets no further from x.
        num_blind: steps within the rounding of the cost that did not lower the slopes by a tenth; where all derivatives vanish, places
            looked at.
        seen: at these places, bit 0: the cost was the same to the last bit at one; bit 1: it was another at one.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of the residuals.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    model: LinearModel
    damping: LaneFloat
    streak: LaneInt
    largest_x: LaneVector
    largest_norms: LaneVector
    at_rest: LaneInt
    num_blind: LaneInt
    seen: LaneInt
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt

    @property
    def step_size(self) -> LaneFloat:
        """The damping, under the name that a history keeps it by."""
        return self.damping


@pytree_dataclass
class LevenbergMarquardt:
    """Levenberg-Marquardt for least squares; the steps come from QR factors of J, which keep all digits of ill-conditioned problems.

    A success says that a first-order test holds, and that rounding at this precision leaves every parameter about three sevenths of the
    digits: otherwise the status is SINGULAR, STALLED or PLATEAU.

    Attributes:
        gtol: CONVERGED_GRADIENT where no column of J makes an angle with the residuals whose cosine exceeds this; free of units. None:
            4 eps, with finite differences eps^(2/3).
        xtol: CONVERGED_STEP where the undamped step would change no parameter by more than this fraction of itself, or than rounding does;
            0 leaves rounding alone. One number, or a pytree like x. None: eps^(2/3), with finite differences eps^(1/2).
        ftol: CONVERGED_VALUE where the undamped model promises no further decrease than this fraction of the cost; 0 switches the test
            off. None: 0.
        damping: lambda at the start, relative to the largest column of J diag(1 / D).
        scaling: what D is. ``"parameters"``: one over the size of each parameter, or over a hundredth of its largest so far;
            ``"marquardt"``: the length of each column of J, its largest so far, as in MINPACK; ``"levenberg"``: the same for all.
        is_accelerated: whether steps bend along the second derivative of the residuals; one more evaluation per step.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> residuals = lambda x: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])
        >>> result = jd.least_squares(residuals, [-1.2, 1.0], solver=jd.LevenbergMarquardt())
        >>> [round(float(v), 6) for v in result.x], bool(result.success)
        ([1.0, 1.0], True)
    """

    gtol: Any = None
    xtol: Any = None
    ftol: Any = None
    damping: Any = 1e-3
    scaling: str = static(default="parameters")
    is_accelerated: bool = static(default=True)

    name: ClassVar[str] = "levenberg_marquardt"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol", "xtol", "ftol")
    takes_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice(self.scaling, "scaling", SCALINGS)
        check_positive(self.damping, "damping")

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        return default_residual_tolerance(name, dtype, is_exact)

    def init(self, problem: Any, x: LaneVector) -> LevenbergMarquardtState:
        """See `base.Solver`."""
        problem = require_residuals(problem, "LevenbergMarquardt")
        check_dense("LevenbergMarquardt", x)
        zeros = jnp.zeros(x.shape[-1], jnp.int32)
        return LevenbergMarquardtState(
            model=LinearModel.empty(problem, x),
            damping=jnp.full(x.shape[-1], self.damping, x.dtype),
            streak=zeros,
            largest_x=jnp.abs(x),
            largest_norms=jnp.zeros_like(x),
            at_rest=zeros,
            num_blind=zeros,
            seen=zeros,
            **unevaluated(x),
        )

    def step(self, problem: LeastSquares, state: LevenbergMarquardtState) -> LevenbergMarquardtState:
        """See `base.Solver`."""
        epsilon = machine_epsilon(state.x.dtype)
        model, is_start = state.model, state.num_steps < 0
        weights = self._weights(state)
        step, scaled, predicted, is_bent_well, probes = self._propose(problem, state, weights)
        is_tiny, is_flat = jnp.all(jnp.stack([jnp.abs(step) <= epsilon * jnp.abs(state.x), model.column_norms == 0]), axis=1)
        is_flat = is_flat & ~is_start
        step = jnp.where(is_flat, _probe(state), step)
        trial_x = problem.project(state.x + step)
        if problem.is_bounded:
            # The bounds have bent the step: only the model itself tells what it promises.
            scaled = model.scaled(trial_x - state.x)
            image = model.predicted(scaled)
            predicted = -jnp.sum(model.rotated * image + image * image / 2, axis=0)
        trial = try_point(problem, self, state, trial_x, predicted, weights)
        decrease, fall, verdict = trial.decrease, trial.fall, trial.verdict
        is_blind = trial.is_blind & ~is_flat
        # Three quarters lower the damping a little, so that a row of blind steps finds the damping at which slopes fall fastest.
        ratio = jnp.where(is_blind, jnp.where(fall <= 0.5, 1.0, 0.75), safe_divide(decrease, predicted))
        is_lower = (predicted > 0) & (ratio > 1e-4) & is_bent_well
        is_better = jnp.where(is_flat, decrease > 0, jnp.where(is_blind, fall < 1, is_lower))
        is_accepted = verdict.is_finite & (is_start | is_better)

        is_resting = is_flat | (is_blind & ~(fall <= 0.9))
        num_blind = jnp.where(is_resting & ~(is_flat & is_accepted), state.num_blind + 1, jnp.where(is_accepted, 0, state.num_blind))
        seen = jnp.where(is_flat, state.seen | jnp.where(decrease == 0, 1, 2), state.seen)

        # Nothing slopes at the start, or at a lower place beside it: a minimum, a plateau, or a constant; the places around tell.
        begins_flat = (is_start | is_flat) & verdict.is_flat & (trial.model.residual_norm > 0)
        is_lost = is_blind & (num_blind >= 60)
        accepted_status = jnp.where(begins_flat, Status.RUNNING, verdict.status)
        accepted_status = jnp.where(is_lost & (accepted_status == Status.RUNNING), verdict.at_rest, accepted_status)

        is_stuck = is_lost | is_tiny | ~(state.damping < 1 / epsilon**2)
        rejected_status = jnp.where(is_stuck, jnp.where(verdict.is_finite, state.at_rest, Status.NON_FINITE), Status.RUNNING)
        looked = jnp.where(seen == 3, Status.PLATEAU, Status.CONVERGED_GRADIENT)
        rejected_status = jnp.where(is_flat, jnp.where(num_blind >= len(_PROBES), looked, Status.RUNNING), rejected_status)
        rejected_status = jnp.where(is_start, Status.NON_FINITE_START, rejected_status)

        damping, streak = _updated(state, ratio, is_accepted)
        status = jnp.where(is_accepted, accepted_status, rejected_status)
        # Looking around a point where nothing slopes is no step, unless it leads somewhere.
        counts = (counted(state.num_steps, jnp.where(is_flat & ~is_accepted, 0, 1)), num_blind.astype(jnp.int32), seen.astype(jnp.int32))
        moves, damping, streak, status, num_steps, num_blind, seen = together(
            is_accepted | is_start, damping, streak, status.astype(jnp.int32), *counts
        )
        kept = (state.x, state.value, state.gradient, model, state.at_rest, state.largest_x, state.largest_norms)
        largest_x = jnp.maximum(state.largest_x, jnp.abs(trial_x))
        taken = (trial_x, trial.value, trial.gradient, trial.model, verdict.at_rest, largest_x, trial.largest_norms)
        x, value, gradient, model, at_rest, largest_x, largest_norms = select_together(moves, taken, kept)
        return LevenbergMarquardtState(
            x=x,
            value=value,
            gradient=gradient,
            model=model,
            damping=damping,
            streak=streak,
            largest_x=largest_x,
            largest_norms=largest_norms,
            at_rest=at_rest,
            num_blind=num_blind,
            seen=seen,
            status=status,
            num_steps=num_steps,
            num_evaluations=counted(state.num_evaluations, problem.evaluations_per_gradient + probes),
        )

    def _weights(self, state: LevenbergMarquardtState) -> LaneVector:
        """D in units of the scaled model, its smallest entry over all of its largest column about one."""
        norms = state.model.column_norms
        if self.scaling == "marquardt":
            weights = safe_divide(state.largest_norms, norms, otherwise=1.0)
        elif self.scaling == "levenberg":
            weights = safe_divide(jnp.broadcast_to(jnp.max(state.largest_norms, axis=0), norms.shape), norms, otherwise=1.0)
        else:
            size = jnp.maximum(jnp.abs(state.x), 0.01 * state.largest_x)
            influence = norms * jnp.where(size > 0, size, 1)
            weights = safe_divide(jnp.broadcast_to(jnp.max(influence, axis=0), norms.shape), influence, otherwise=1.0)
        # A column that has all but vanished would make the damping infinite.
        return jnp.minimum(jnp.where(weights > 0, weights, 1), 1 / machine_epsilon(norms.dtype))

    def _propose(self, problem: LeastSquares, state: LevenbergMarquardtState, weights: LaneVector) -> Any:
        """The step, its first-order part and the promise of that in units of the scaled model; whether it bends little; evaluations."""
        model = state.model
        damping = jnp.sqrt(state.damping) * weights
        scaled, inverse = model.solve(damping)
        step = scaled * model.units
        if problem.is_bounded:
            # Parameters that the step would carry over a bound go to it; the others make the best of that.
            bent = problem.project(state.x + step) - state.x
            given = jnp.where(bent == step, jnp.nan, model.scaled(bent))
            again, inverse = model.solve(damping, given)
            scaled = jnp.where(jnp.isnan(given), again, given)
            step = scaled * model.units
        # In units of the residual scale squared, so that no square overflows.
        predicted = jnp.sum(model.predicted(scaled) ** 2 / 2 + (damping * scaled) ** 2, axis=0)
        if not self.is_accelerated:
            return step, scaled, predicted, jnp.ones(step.shape[-1], bool), 0
        reach = 0.1
        ahead = problem.residuals(problem.project(state.x + reach * step))
        image = jnp.sum(model.at.jacobian * step[None], axis=1)
        bend = (ahead - model.at.residuals) / reach
        bend = ((bend if model.at.weights is None else model.at.weights * bend) - image) * (2 / reach) / model.residual_scale
        bend_norm = jnp.sqrt(jnp.sum(bend * bend, axis=0))
        # Below this the second difference is rounding.
        is_seen = (bend_norm * (reach**2 / 2) > 10 * model.noise) & jnp.isfinite(bend_norm)
        bend = jnp.where(is_seen, bend, 0)
        pulled = safe_divide(jnp.sum(model.at.jacobian * bend[:, None], axis=0), model.column_norms)
        if problem.is_bounded:
            pulled = jnp.where(jnp.isnan(given), pulled, 0)
        # (R'R)^{-1} = R^{-1} R^{-1}'.
        acceleration = -matvec(inverse, jnp.sum(inverse * pulled[:, None], axis=0))
        acceleration = jnp.where(jnp.isfinite(acceleration), acceleration, 0)
        bent, straight = jnp.sum((weights * jnp.stack([acceleration, scaled])) ** 2, axis=1)
        return step + acceleration * model.units / 2, scaled, predicted, (2 * jnp.sqrt(bent) <= 0.75 * jnp.sqrt(straight)) | ~is_seen, 1


def _updated(state: LevenbergMarquardtState, ratio: LaneFloat, is_accepted: LaneBool) -> tuple[LaneFloat, LaneInt]:
    """The damping behind a step, and the streak: Nielsen's update, whose floor halves along a row of good steps."""
    dtype = ratio.dtype
    tiny = float(jnp.finfo(dtype).tiny)
    count = jnp.clip(state.streak, -50, 50).astype(dtype)
    cubic = 1 - (2 * jnp.clip(ratio, 0, 2) - 1) ** 3
    floor = jnp.maximum(jnp.exp2(-jnp.maximum(count, 0)) / 3, 1e-3)
    lowered = jnp.maximum(state.damping * jnp.maximum(floor, cubic), tiny * 1e3)
    # Rejections end long before this, and an overflow would make the rest of the state NaN.
    raised = jnp.minimum(state.damping * jnp.exp2(1 - jnp.minimum(count, 0)), 1 / machine_epsilon(dtype) ** 3)
    damping = jnp.where(is_accepted, lowered, raised)
    streak = jnp.where(ratio > 0.75, jnp.maximum(state.streak, 0) + 1, 0)
    streak = jnp.where(is_accepted, streak, jnp.minimum(state.streak, 0) - 1)
    is_start = state.num_steps < 0
    return jnp.where(is_start, state.damping, damping).astype(dtype), jnp.where(is_start, 0, streak).astype(jnp.int32)


def _probe(state: LevenbergMarquardtState) -> LaneVector:
    """The displacement to the next place to look at where all derivatives vanish."""
    factor = jnp.asarray(_PROBES, state.x.dtype)[jnp.clip(state.num_blind, 0, len(_PROBES) - 1)]
    return jnp.where(state.x == 0, factor, (factor - 1) * state.x)
