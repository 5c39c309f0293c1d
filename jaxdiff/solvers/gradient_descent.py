"""Gradient descent, with a fixed step, backtracking, a strong Wolfe search, or the steps of Barzilai and Borwein.

    x_{k+1} = x_k - alpha_k g_k

Source: Nocedal and Wright, Numerical Optimization (2006), section 3.1 (backtracking: algorithm 3.1, one trial per step of the solver).
Barzilai and Borwein, IMA J. Numer. Anal. 8 (1988) 141-148, their two steps chosen between as by Zhou, Gao and Dai, Comput. Optim. Appl. 35
(2006) 69-86; the nonmonotone safeguard is Zhang and Hager's, SIAM J. Optim. 14 (2004) 1043-1056.
Between bounds it is the projected gradient method, x_{k+1} = P(x_k - alpha_k g_k).
"""

from typing import Any, ClassVar, Literal

import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneVector
from jaxdiff._validation import check_choice, check_positive
from jaxdiff.linalg import dot, is_all_finite, max_norm, select_lanes
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.solvers.base import counted, default_gradient_only_tolerance, unevaluated
from jaxdiff.solvers.line_search import CURVATURE, StrongBracket, is_sufficient_decrease, shortened
from jaxdiff.solvers.path import Path, at_stop
from jaxdiff.solvers.stationary import Sizes, assessed, has_run_away, stopped_short

NONMONOTONE = 0.85
"""eta of the mean of the last values: 0 lets f fall only, 1 takes the mean of all of them (Zhang and Hager's own constant)."""


@pytree_dataclass
class GradientDescentState:
    """State of gradient descent.

    Attributes:
        x: current points.
        value: f there.
        gradient: its gradient there.
        step_size: multiple of the gradient that the next trial goes.
        bracket: of the strong Wolfe search; None for the others.
        reference: mean of the last values of f, which a Barzilai-Borwein step must undercut; None for the others.
        weight: how many values that mean counts for; None for the others.
        sizes: how large f, its gradient and x have been.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of f.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    step_size: LaneFloat
    bracket: StrongBracket | None
    reference: LaneFloat | None
    weight: LaneFloat | None
    sizes: Sizes
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt


@pytree_dataclass
class GradientDescent:
    """Steepest descent in the Euclidean norm.

    Attributes:
        learning_rate: the step in units of x per unit of gradient; with backtracking, the first one tried.
        line_search: ``"backtracking"`` accepts a step that lowers f enough, doubles the next one, and shortens a step that does not;
            ``"strong_wolfe"`` interpolates until the slope has shrunk too; ``"barzilai_borwein"`` takes the step from the last change of
            the gradient, and lets f rise for a while below a mean of its last values; ``"fixed"`` takes every finite step.
        gtol: stop where the largest absolute entry of the gradient is at most this, in units of f per unit of x; one number, or a pytree
            like x. None: eps^(1/2), with finite differences eps^(1/3), where the gradient is small beside f, x and what they have been
            too (see `stationary`).
        xtol: as in `BFGS`.
        ftol: as in `BFGS`.

    Raises:
        ValueError: learning_rate is not positive and finite; line_search is unknown.

    Note:
        A first-order method cannot tell a saddle from a minimum: CONVERGED_GRADIENT says that the gradient is small, and no more.

    Example:
        >>> import jaxdiff as jd
        >>> result = jd.minimize(lambda x: (x - 3.0) ** 2, 0.0, solver=jd.GradientDescent(learning_rate=0.1))
        >>> round(float(result.x), 6), result.status_name
        (3.0, 'CONVERGED_GRADIENT')
    """

    learning_rate: Any = 1.0
    line_search: Literal["backtracking", "strong_wolfe", "barzilai_borwein", "fixed"] = static(default="backtracking")
    gtol: Any = None
    xtol: Any = None
    ftol: Any = None

    name: ClassVar[str] = "gradient_descent"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol", "xtol", "ftol")
    has_optional_tests: ClassVar[bool] = True
    takes_bounds: ClassVar[bool] = True
    weighs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(self.learning_rate, "learning_rate")
        check_choice(self.line_search, "line_search", ("backtracking", "strong_wolfe", "barzilai_borwein", "fixed"))

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float | None:
        """See `base.Solver`."""
        return default_gradient_only_tolerance(name, dtype, is_exact)

    def init(self, problem: Minimize, x: LaneVector) -> GradientDescentState:
        """See `base.Solver`."""
        step_size = jnp.full(x.shape[-1], self.learning_rate, x.dtype)
        zero = jnp.zeros_like(step_size)
        is_mean_kept = self.line_search == "barzilai_borwein"
        return GradientDescentState(
            step_size=step_size,
            bracket=StrongBracket.fresh(step_size, zero, zero) if self.line_search == "strong_wolfe" else None,
            reference=jnp.full_like(zero, jnp.inf) if is_mean_kept else None,
            weight=zero if is_mean_kept else None,
            sizes=Sizes.none(x),
            **unevaluated(x),
        )

    def step(self, problem: Minimize, state: GradientDescentState) -> GradientDescentState:
        """See `base.Solver`."""
        is_start = state.num_steps < 0
        path = Path.along(problem, state.x, state.gradient, -state.gradient, state.step_size)
        trial_x = path.x
        trial_value, trial_gradient = problem.value_and_gradient(trial_x)
        is_finite = is_all_finite(trial_x, trial_value, trial_gradient)
        bracket, reference, weight = state.bracket, state.reference, state.weight
        if self.line_search == "fixed":
            is_accepted, step_size = is_finite, state.step_size
            failure = jnp.where(is_finite, Status.RUNNING, Status.NON_FINITE)
        elif self.line_search == "strong_wolfe":
            is_accepted, step_size, bracket = self._searched(problem, state, path, trial_value, trial_gradient, is_finite)
            failure = _failure(problem, self.gtol, state, path, is_accepted, step_size, is_finite)
        elif self.line_search == "barzilai_borwein":
            is_accepted, step_size, reference, weight = self._barzilai_borwein(state, path, trial_value, trial_gradient, is_finite)
            failure = _failure(problem, self.gtol, state, path, is_accepted, step_size, is_finite)
        else:
            slope, trial_slope = path.mean_slope, dot(trial_gradient, path.moving)
            is_accepted = is_finite & is_sufficient_decrease(state.value, trial_value, slope, trial_slope, state.step_size)
            shorter = path.not_past_first_stop(state.step_size, shortened(state.step_size, state.value, trial_value, slope))
            step_size = jnp.where(is_accepted, 2 * state.step_size, shorter)
            step_size = jnp.where(is_start, state.step_size, step_size)
            failure = _failure(problem, self.gtol, state, path, is_accepted, step_size, is_finite)
        runs_away = has_run_away(state.sizes, max_norm(trial_x), trial_value, state.value)
        failure = jnp.where(runs_away, Status.UNBOUNDED, failure)
        failure = jnp.where(is_start & ~is_finite, Status.NON_FINITE_START, failure)
        is_small, sizes = assessed(
            problem, self.gtol, state.sizes, is_start, is_accepted, trial_x, path.displacement, trial_value, trial_gradient
        )
        status = jnp.where(is_small & ~runs_away, Status.CONVERGED_GRADIENT, failure)
        # A start that is not finite is shown as it is: its value is the evidence.
        x, value, gradient = select_lanes(
            is_accepted | is_start, (trial_x, trial_value, trial_gradient), (state.x, state.value, state.gradient)
        )
        return GradientDescentState(
            x=x,
            value=value,
            gradient=gradient,
            step_size=step_size,
            bracket=bracket,
            reference=reference,
            weight=weight,
            sizes=sizes,
            status=status.astype(jnp.int32),
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, problem.evaluations_per_gradient),
        )

    def _searched(
        self,
        problem: Minimize,
        state: GradientDescentState,
        path: Path,
        trial_value: LaneFloat,
        trial_gradient: LaneVector,
        is_finite: LaneBool,
    ) -> "tuple[LaneBool, LaneFloat, StrongBracket]":
        """Whether the trial meets the strong Wolfe conditions, the next step size, and what is known of its line."""
        assert state.bracket is not None
        slope, trial_slope = path.mean_slope, dot(trial_gradient, path.moving)
        is_low = is_finite & is_sufficient_decrease(state.value, trial_value, slope, trial_slope, state.step_size)
        bracket, is_accepted = state.bracket.narrowed(is_low, state.value, trial_value, slope, trial_slope, CURVATURE)
        bracket, is_accepted = at_stop(path, bracket, is_accepted, is_low, state.step_size)
        is_start = state.num_steps < 0
        is_accepted = jnp.where(is_start, is_finite, is_accepted)
        # The first trial promises the decrease of the last step (Nocedal and Wright, equation 3.60).
        projected = problem.projected(path.x, trial_gradient)
        new_slope = -dot(projected, projected)
        likely = jnp.minimum(safe_divide(state.step_size * slope, new_slope, otherwise=1.0), 10 * state.step_size)
        first = jnp.where(is_start | ~(likely > 0), state.step_size, likely)
        fresh = StrongBracket.fresh(first, trial_value, new_slope)
        bracket = select_lanes(is_accepted, fresh, bracket)
        return is_accepted, bracket.trial, bracket

    def _barzilai_borwein(
        self, state: GradientDescentState, path: Path, trial_value: LaneFloat, trial_gradient: LaneVector, is_finite: LaneBool
    ) -> "tuple[LaneBool, LaneFloat, LaneFloat, LaneFloat]":
        """Whether the trial is below the mean of the last values, the next step size, and that mean with its weight."""
        assert state.reference is not None
        assert state.weight is not None
        slope, trial_slope = path.mean_slope, dot(trial_gradient, path.moving)
        is_start = state.num_steps < 0
        is_accepted = is_finite & (is_start | is_sufficient_decrease(state.reference, trial_value, slope, trial_slope, state.step_size))
        s, y = path.displacement, trial_gradient - state.gradient
        curvature = dot(s, y)
        long, short = safe_divide(dot(s, s), curvature), safe_divide(curvature, dot(y, y))
        step_size = jnp.where(short < 0.5 * long, short, long)
        step_size = jnp.where((curvature > 0) & jnp.isfinite(step_size) & (step_size > 0), step_size, 2 * state.step_size)
        shorter = path.not_past_first_stop(state.step_size, shortened(state.step_size, state.value, trial_value, slope))
        step_size = jnp.where(is_start, state.step_size, jnp.where(is_accepted, step_size, shorter))
        weight = NONMONOTONE * state.weight + 1
        mean = jnp.where(is_start, trial_value, (NONMONOTONE * state.weight * state.reference + trial_value) / weight)
        return (
            is_accepted,
            step_size,
            jnp.where(is_accepted, mean, state.reference),
            jnp.where(is_accepted, jnp.where(is_start, 1, weight), state.weight),
        )


def _failure(
    problem: Minimize,
    gtol: Any,
    state: GradientDescentState,
    path: Path,
    is_accepted: LaneBool,
    step_size: LaneFloat,
    is_finite: LaneBool,
) -> LaneInt:
    """RUNNING, or why there is no shorter step to try: one that moves no coordinate by more than rounding will not do so when shorter."""
    reach = machine_epsilon(state.x.dtype) * jnp.abs(state.x)
    is_stuck = ~is_accepted & jnp.all(jnp.abs(step_size * path.direction) <= reach, axis=0)
    is_stuck = is_stuck | (~is_accepted & (step_size <= jnp.finfo(step_size.dtype).smallest_normal))
    given_up = stopped_short(problem, gtol, state.sizes, state.x, state.value, state.gradient, is_stuck, is_finite)
    return jnp.where(is_stuck, given_up, Status.RUNNING).astype(jnp.int32)
