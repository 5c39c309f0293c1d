"""Gradient descent, with a fixed step or with backtracking.

    x_{k+1} = x_k - alpha_k g_k

Source: Nocedal and Wright, Numerical Optimization (2006), section 3.1 (backtracking: algorithm 3.1, one trial per step of the solver).
Between bounds it is the projected gradient method, x_{k+1} = P(x_k - alpha_k g_k).
"""

from typing import Any, ClassVar, Literal

import jax.numpy as jnp

from jaxdiff._numerics import default_gradient_tolerance, machine_epsilon
from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import DType, LaneFloat, LaneInt, LaneVector
from jaxdiff._validation import check_choice, check_positive
from jaxdiff.linalg import dot, is_all_finite, select_lanes
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.solvers.base import counted, is_gradient_small, unevaluated
from jaxdiff.solvers.line_search import is_sufficient_decrease, shortened
from jaxdiff.solvers.path import Path


@pytree_dataclass
class GradientDescentState:
    """State of gradient descent.

    Attributes:
        x: current points.
        value: f there.
        gradient: its gradient there.
        step_size: multiple of the gradient that the next trial goes.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of f.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    step_size: LaneFloat
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt


@pytree_dataclass
class GradientDescent:
    """Steepest descent in the Euclidean norm.

    Attributes:
        learning_rate: the step in units of x per unit of gradient; with backtracking, the first one tried.
        line_search: ``"backtracking"`` accepts a step that lowers f enough, doubles the next one, and shortens a step that does not;
            ``"fixed"`` takes every finite step.
        gtol: stop where the largest absolute entry of the gradient is at most this; absolute, in units of f per unit of x; one number, or a
            pytree like x. None: eps^(1/2), with finite differences eps^(1/3).

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
    line_search: Literal["backtracking", "fixed"] = static(default="backtracking")
    gtol: Any = None

    name: ClassVar[str] = "gradient_descent"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol",)
    takes_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(self.learning_rate, "learning_rate")
        check_choice(self.line_search, "line_search", ("backtracking", "fixed"))

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        return default_gradient_tolerance(dtype, is_exact=is_exact)

    def init(self, problem: Minimize, x: LaneVector) -> GradientDescentState:
        """See `base.Solver`."""
        return GradientDescentState(step_size=jnp.full(x.shape[-1], self.learning_rate, x.dtype), **unevaluated(x))

    def step(self, problem: Minimize, state: GradientDescentState) -> GradientDescentState:
        """See `base.Solver`."""
        is_start = state.num_steps < 0
        path = Path.along(problem, state.x, state.gradient, -state.gradient, state.step_size)
        trial_x = path.x
        trial_value, trial_gradient = problem.value_and_gradient(trial_x)
        is_finite = is_all_finite(trial_x, trial_value, trial_gradient)
        if self.line_search == "fixed":
            is_accepted, step_size = is_finite, state.step_size
            failure = jnp.where(is_finite, Status.RUNNING, Status.NON_FINITE)
        else:
            slope, trial_slope = path.mean_slope, dot(trial_gradient, path.moving)
            is_accepted = is_finite & is_sufficient_decrease(state.value, trial_value, slope, trial_slope, state.step_size)
            shorter = path.not_past_first_stop(state.step_size, shortened(state.step_size, state.value, trial_value, slope))
            step_size = jnp.where(is_accepted, 2 * state.step_size, shorter)
            step_size = jnp.where(is_start, state.step_size, step_size)
            # A step that no longer moves any coordinate by more than rounding will not do so when it is shorter still.
            reach = machine_epsilon(state.x.dtype) * jnp.abs(state.x)
            is_stuck = ~is_accepted & jnp.all(jnp.abs(step_size * path.direction) <= reach, axis=0)
            is_stuck = is_stuck | (~is_accepted & (step_size <= jnp.finfo(step_size.dtype).smallest_normal))
            failure = jnp.where(is_stuck, jnp.where(is_finite, Status.STALLED, Status.NON_FINITE), Status.RUNNING)
        failure = jnp.where(trial_value == -jnp.inf, Status.UNBOUNDED, failure)
        failure = jnp.where(is_start & ~is_finite, Status.NON_FINITE_START, failure)
        is_converged = is_accepted & is_gradient_small(problem.projected(trial_x, trial_gradient), self.gtol)
        status = jnp.where(is_converged, Status.CONVERGED_GRADIENT, failure)
        # A start that is not finite is shown as it is: its value is the evidence.
        x, value, gradient = select_lanes(
            is_accepted | is_start, (trial_x, trial_value, trial_gradient), (state.x, state.value, state.gradient)
        )
        return GradientDescentState(
            x=x,
            value=value,
            gradient=gradient,
            step_size=step_size,
            status=status.astype(jnp.int32),
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, problem.evaluations_per_gradient),
        )
