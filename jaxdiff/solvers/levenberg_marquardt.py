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
from jaxdiff.linalg import matvec, select_lanes
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
        growth: what the damping is multiplied by at the next rejection.
        decay: what it is at most multiplied by at the next good step.
        largest_x: largest size of each parameter so far.
        largest_norms: largest length of each column of the Jacobian so far.
        is_resolved: whether rounding leaves the parameters at x enough digits.
        num_blind: steps within the rounding of the cost that did not lower the slopes by a tenth; where all derivatives vanish, places
            looked at.
        has_seen_flat: whether the cost was the same to the last bit at one of these places.
        has_seen_change: whether it was another at one of them.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of the residuals.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    model: LinearModel
    damping: LaneFloat
    growth: LaneFloat
    decay: LaneFloat
    largest_x: LaneVector
    largest_norms: LaneVector
    is_resolved: LaneBool
    num_blind: LaneInt
    has_seen_flat: LaneBool
    has_seen_change: LaneBool
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
        ones = jnp.ones(x.shape[-1], x.dtype)
        no = jnp.zeros(x.shape[-1], bool)
        return LevenbergMarquardtState(
            model=LinearModel.empty(problem, x),
            damping=ones * self.damping,
            growth=2 * ones,
            decay=ones / 3,
            largest_x=jnp.abs(x),
            largest_norms=jnp.zeros_like(x),
            is_resolved=no,
            num_blind=jnp.zeros(x.shape[-1], jnp.int32),
            has_seen_flat=no,
            has_seen_change=no,
            **unevaluated(x),
        )

    def step(self, problem: LeastSquares, state: LevenbergMarquardtState) -> LevenbergMarquardtState:
        """See `base.Solver`."""
        epsilon = machine_epsilon(state.x.dtype)
        model, is_start = state.model, state.num_steps < 0
        weights = self._weights(state)
        step, scaled, is_bent_well, probes = self._propose(problem, state, weights)
        is_flat = ~is_start & jnp.all(model.column_norms == 0, axis=0)
        step = jnp.where(is_flat, _probe(state), step)
        trial_x = problem.project(state.x + step)
        # In units of the residual scale squared, so that no square overflows.
        predicted = jnp.sum(model.predicted(scaled) ** 2, axis=0) / 2 + state.damping * jnp.sum((weights * scaled) ** 2, axis=0)
        if problem.is_bounded:
            # The bounds have bent the step: only the model itself tells what it promises.
            scaled = model.scaled(trial_x - state.x)
            image = model.predicted(scaled)
            predicted = -jnp.sum(model.rotated * image, axis=0) - jnp.sum(image * image, axis=0) / 2
        trial = try_point(problem, self, state, trial_x, predicted, weights)
        decrease, is_finite, fall, verdict = trial.decrease, trial.is_finite, trial.fall, trial.verdict
        is_blind = trial.is_blind & ~is_flat
        ratio = jnp.where(is_blind, jnp.where(fall <= 0.5, 1.0, 0.5), safe_divide(decrease, predicted))
        is_lower = (predicted > 0) & (ratio > 1e-4) & is_bent_well
        is_accepted = is_finite & (is_start | jnp.where(is_flat, decrease > 0, jnp.where(is_blind, fall < 1, is_lower)))

        is_resting = is_flat | (is_blind & ~(fall <= 0.9))
        num_blind = jnp.where(is_resting, state.num_blind + 1, jnp.where(is_accepted, 0, state.num_blind)).astype(jnp.int32)
        has_seen_flat = state.has_seen_flat | (is_flat & (decrease == 0))
        has_seen_change = state.has_seen_change | (is_flat & (decrease != 0))

        # Nothing slopes at the start: a minimum, a plateau, or a constant; the places around tell.
        begins_flat = is_start & jnp.all(trial.model.column_norms == 0, axis=0) & jnp.any(trial.model.free, axis=0)
        begins_flat = begins_flat & (trial.model.residual_norm > 0)
        accepted_status = jnp.where(begins_flat, Status.RUNNING, verdict.status)
        is_lost = is_blind & (num_blind >= 60)
        accepted_status = jnp.where(
            is_lost & (accepted_status == Status.RUNNING), jnp.where(verdict.is_resolved, Status.STALLED, Status.SINGULAR), accepted_status
        )

        is_stuck = is_lost | jnp.all(jnp.abs(step) <= epsilon * jnp.abs(state.x), axis=0) | ~(state.damping < 1 / epsilon**2)
        given_up = jnp.where(is_finite, jnp.where(state.is_resolved, Status.STALLED, Status.SINGULAR), Status.NON_FINITE)
        rejected_status = jnp.where(is_stuck, given_up, Status.RUNNING)
        looked = jnp.where(has_seen_flat & has_seen_change, Status.PLATEAU, Status.CONVERGED_GRADIENT)
        flat_status = jnp.where(num_blind >= len(_PROBES), looked, Status.RUNNING)
        rejected_status = jnp.where(is_flat, flat_status, rejected_status)
        rejected_status = jnp.where(is_start, Status.NON_FINITE_START, rejected_status)

        damping, growth, decay = _updated(state, ratio, is_accepted & ~is_start)
        kept = (state.x, state.value, state.gradient, model, state.is_resolved, state.largest_x, state.largest_norms)
        largest_x = jnp.maximum(state.largest_x, jnp.abs(trial_x))
        taken = (trial_x, trial.value, trial.gradient, trial.model, verdict.is_resolved, largest_x, trial.largest_norms)
        x, value, gradient, model, is_resolved, largest_x, largest_norms = select_lanes(is_accepted | is_start, taken, kept)
        return LevenbergMarquardtState(
            x=x,
            value=value,
            gradient=gradient,
            model=model,
            damping=damping,
            growth=growth,
            decay=decay,
            largest_x=largest_x,
            largest_norms=largest_norms,
            is_resolved=is_resolved,
            num_blind=num_blind,
            has_seen_flat=has_seen_flat,
            has_seen_change=has_seen_change,
            status=jnp.where(is_accepted, accepted_status, rejected_status).astype(jnp.int32),
            # Looking around a point where nothing slopes is no step.
            num_steps=counted(state.num_steps, jnp.where(is_flat, 0, 1)),
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
        """The step to try, its first-order part in units of the scaled model, whether it bends little, and evaluations spent."""
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
        if not self.is_accelerated:
            return step, scaled, jnp.ones_like(state.is_resolved), 0
        reach = 0.1
        ahead = problem.residuals(problem.project(state.x + reach * step))
        image = jnp.sum(model.at.jacobian * step[None], axis=1)
        bend = (model.at.weights * (ahead - model.at.residuals) / reach - image) * (2 / reach) / model.residual_scale
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
        length = lambda v: jnp.sqrt(jnp.sum((weights * v) ** 2, axis=0))  # noqa: E731
        is_bent_well = 2 * length(acceleration) <= 0.75 * length(scaled)
        return step + acceleration * model.units / 2, scaled, is_bent_well | ~is_seen, 1


def _updated(state: LevenbergMarquardtState, ratio: LaneFloat, is_accepted: LaneBool) -> tuple[LaneFloat, LaneFloat, LaneFloat]:
    """The damping, its growth and its decay behind a step: Nielsen's cubic, whose floor halves along a row of good steps."""
    tiny = jnp.asarray(jnp.finfo(ratio.dtype).tiny, ratio.dtype)
    cubic = 1 - (2 * jnp.clip(ratio, 0, 2) - 1) ** 3
    lowered = jnp.maximum(state.damping * jnp.maximum(state.decay, cubic), tiny * 1e3)
    # Rejections end long before this, and an overflow would make the rest of the state NaN.
    raised = jnp.minimum(state.damping * state.growth, 1 / machine_epsilon(ratio.dtype) ** 3)
    is_good = ratio > 0.75
    decay = jnp.where(is_good, jnp.maximum(state.decay / 2, 1e-3), 1 / 3).astype(ratio.dtype)
    damping = jnp.where(is_accepted, lowered, raised)
    growth = jnp.where(is_accepted, 2, jnp.minimum(2 * state.growth, 1 / machine_epsilon(ratio.dtype)))
    decay = jnp.where(is_accepted, decay, 1 / 3)
    is_start = state.num_steps < 0
    return (
        jnp.where(is_start, state.damping, damping).astype(ratio.dtype),
        jnp.where(is_start, state.growth, growth).astype(ratio.dtype),
        jnp.where(is_start, state.decay, decay).astype(ratio.dtype),
    )


def _probe(state: LevenbergMarquardtState) -> LaneVector:
    """The displacement to the next place to look at where all derivatives vanish."""
    factor = jnp.asarray(_PROBES, state.x.dtype)[jnp.clip(state.num_blind, 0, len(_PROBES) - 1)]
    return jnp.where(state.x == 0, factor, (factor - 1) * state.x)
