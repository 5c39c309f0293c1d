"""Nonlinear conjugate gradients, with a strong Wolfe line search of one trial per step.

    p_{k+1} = -g_{k+1} + beta p_k,    y = g_{k+1} - g_k
    Polak-Ribière+:  beta = max(0, g_{k+1}'y / g_k'g_k)
    Hager-Zhang:     beta = max((y - 2 p y'y / p'y)'g_{k+1} / p'y, -1 / (|p| min(0.01, |g_k|)))

Sources: Nocedal and Wright, Numerical Optimization (2006), algorithm 5.4, equations 5.45, 5.49 and 5.52, and 3.60 for the first trial of a
line; Hager and Zhang, SIAM J. Optim. 16 (2005) 170-192, equations 1.3 and 1.6. Between bounds the parameters that may move do so along
conjugate directions, begun anew whenever others may move; so do the inner iterations of Moré and Toraldo, SIAM J. Optim. 1 (1991) 93-113.
"""

from typing import Any, ClassVar, Literal

import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneVector
from jaxdiff._validation import check_choice
from jaxdiff.linalg import dot, is_all_finite, max_norm, select_lanes
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.solvers.base import counted, default_gradient_only_tolerance, unevaluated
from jaxdiff.solvers.line_search import StrongBracket, is_sufficient_decrease
from jaxdiff.solvers.path import Path, among_free, at_stop
from jaxdiff.solvers.stationary import Sizes, assessed, has_run_away, stopped_short

CURVATURE = 0.1
"""c_2 of the line search: conjugate directions need a nearly exact one (Nocedal and Wright, section 5.2)."""

POWELL = 0.2
"""Successive gradients that are further from orthogonal than this start anew (equation 5.52; Powell's own constant)."""


@pytree_dataclass
class NonlinearCGState:
    """State of nonlinear conjugate gradients.

    Attributes:
        x: current points.
        value: f there.
        gradient: its gradient there.
        direction: the search direction there.
        slope: derivative of f along it.
        is_fresh: whether it is the negative gradient.
        bracket: where on the line acceptable steps may lie, and the one to try next.
        sizes: how large f, its gradient and x have been.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of f.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    direction: LaneVector
    slope: LaneFloat
    is_fresh: LaneBool
    bracket: StrongBracket
    sizes: Sizes
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt

    @property
    def step_size(self) -> LaneFloat:
        """Multiple of the direction to try next."""
        return self.bracket.trial


@pytree_dataclass
class NonlinearCG:
    """Nonlinear conjugate gradients: for any number of parameters; three vectors of their length are kept.

    Attributes:
        formula: ``"hager_zhang"``, or ``"polak_ribiere"``, which starts anew where beta would be negative or successive gradients are far
            from orthogonal. Both start anew where the direction does not descend, or its line is exhausted.
        gtol: stop where the largest absolute entry of the gradient is at most this, in units of f per unit of x; one number, or a pytree
            like x. None: eps^(1/2), with finite differences eps^(1/3), where the gradient is small beside f, x and what they have been
            too (see `stationary`).
        xtol: as in `BFGS`.
        ftol: as in `BFGS`.

    Raises:
        ValueError: formula is unknown.

    Note:
        A method that sees gradients only cannot tell a saddle from a minimum: CONVERGED_GRADIENT says that the gradient is small.

    Example:
        >>> import jaxdiff as jd
        >>> rosenbrock = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> result = jd.minimize(rosenbrock, [-1.2, 1.0], solver=jd.NonlinearCG())
        >>> [round(float(v), 4) for v in result.x], result.status_name
        ([1.0, 1.0], 'CONVERGED_GRADIENT')
    """

    formula: Literal["hager_zhang", "polak_ribiere"] = static(default="hager_zhang")
    gtol: Any = None
    xtol: Any = None
    ftol: Any = None

    name: ClassVar[str] = "nonlinear_cg"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol", "xtol", "ftol")
    has_optional_tests: ClassVar[bool] = True
    takes_bounds: ClassVar[bool] = True
    weighs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice(self.formula, "formula", ("hager_zhang", "polak_ribiere"))

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float | None:
        """See `base.Solver`."""
        return default_gradient_only_tolerance(name, dtype, is_exact)

    def init(self, problem: Minimize, x: LaneVector) -> NonlinearCGState:
        """See `base.Solver`."""
        lanes = x.shape[-1]
        zero = jnp.zeros(lanes, x.dtype)
        return NonlinearCGState(
            direction=jnp.zeros_like(x),
            slope=zero,
            is_fresh=jnp.ones(lanes, bool),
            bracket=StrongBracket.fresh(jnp.ones(lanes, x.dtype), zero, zero),
            sizes=Sizes.none(x),
            **unevaluated(x),
        )

    def step(self, problem: Minimize, state: NonlinearCGState) -> NonlinearCGState:
        """See `base.Solver`."""
        is_start = state.num_steps < 0
        step_size = state.bracket.trial
        path = Path.along(problem, state.x, state.gradient, state.direction, step_size)
        slope, trial_x = path.mean_slope if problem.is_bounded else state.slope, path.x
        trial_value, trial_gradient = problem.value_and_gradient(trial_x)
        change = trial_gradient - state.gradient
        is_finite = is_all_finite(trial_x, trial_value, change)
        trial_slope = dot(trial_gradient, path.moving)
        is_low = is_finite & is_sufficient_decrease(state.value, trial_value, slope, trial_slope, step_size)
        bracket, is_accepted = state.bracket.narrowed(is_low, state.value, trial_value, slope, trial_slope, CURVATURE)
        bracket, is_accepted = at_stop(path, bracket, is_accepted, is_low, step_size)
        is_accepted = jnp.where(is_start, is_finite, is_accepted)
        new = (trial_x, trial_value, trial_gradient)
        x, value, gradient = select_lanes(is_accepted | is_start, new, (state.x, state.value, state.gradient))

        free = problem.free(x, gradient)
        reduced = among_free(free, gradient)
        was_free = problem.free(state.x, state.gradient)
        before = among_free(was_free, state.gradient)
        beta = self._beta(state, before, among_free(free, trial_gradient), among_free(free, change), trial_slope)
        has_changed = jnp.zeros_like(is_start)
        if problem.is_bounded:
            # Directions are conjugate among the same parameters only, and the last step says nothing of those that move now.
            has_changed = jnp.any((free != was_free) | (path.moving != path.direction), axis=0)
            beta = jnp.where(has_changed, 0, beta)
        beta = jnp.where(is_start, 0, beta)
        conjugate = beta * state.direction - reduced
        new_slope = dot(reduced, conjugate)
        epsilon = machine_epsilon(x.dtype)
        is_still = jnp.all(bracket.trial * jnp.abs(state.direction) <= epsilon * jnp.abs(x), axis=0) | (bracket.trial <= epsilon**2)
        is_stuck = ~is_accepted & ~is_start & (is_still | ~(state.slope < 0))
        is_restarted = (is_stuck & ~state.is_fresh) | (is_accepted & ~(is_finite & (beta != 0) & (new_slope < 0)))
        direction = jnp.where(is_restarted, -reduced, jnp.where(is_accepted, conjugate, state.direction))
        slope = jnp.where(is_restarted, -dot(reduced, reduced), jnp.where(is_accepted, new_slope, state.slope))

        # The first trial promises the decrease of the last step; nothing is known at the start, where no coordinate moves by more than one.
        gentle = jnp.minimum(safe_divide(jnp.ones_like(step_size), max_norm(reduced), otherwise=1.0), 1)
        likely = jnp.minimum(safe_divide(step_size * state.slope, slope, otherwise=1.0), 10 * step_size)
        first = jnp.where(is_start | is_stuck | has_changed | ~(likely > 0), gentle, likely)
        fresh = StrongBracket.fresh(first, value, slope)
        bracket = select_lanes(is_accepted | is_restarted, fresh, bracket)

        is_small, sizes = assessed(
            problem, self.gtol, state.sizes, is_start, is_accepted, trial_x, path.displacement, trial_value, trial_gradient
        )
        given_up = stopped_short(problem, self.gtol, sizes, x, value, gradient, is_stuck, is_finite)
        failure = jnp.where(is_stuck & ~is_restarted, given_up, Status.RUNNING)
        runs_away = has_run_away(state.sizes, max_norm(trial_x), trial_value, state.value)
        failure = jnp.where(runs_away, Status.UNBOUNDED, failure)
        failure = jnp.where(is_start & ~is_finite, Status.NON_FINITE_START, failure)
        return NonlinearCGState(
            x=x,
            value=value,
            gradient=gradient,
            direction=direction,
            slope=slope,
            is_fresh=is_restarted | (state.is_fresh & ~is_accepted),
            bracket=bracket,
            sizes=sizes,
            status=jnp.where(is_small & ~runs_away, Status.CONVERGED_GRADIENT, failure).astype(jnp.int32),
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, problem.evaluations_per_gradient),
        )

    def _beta(
        self, state: NonlinearCGState, before: LaneVector, trial_gradient: LaneVector, change: LaneVector, trial_slope: LaneFloat
    ) -> LaneFloat:
        """How much of the last direction stays; 0 starts anew. ``before`` is the gradient at the start of the line."""
        squared = dot(before, before)
        overlap = dot(trial_gradient, change)
        if self.formula == "polak_ribiere":
            beta = jnp.maximum(safe_divide(overlap, squared), 0)
            trial_squared = dot(trial_gradient, trial_gradient)
            # g_{k+1}'g_k, from what is there already.
            is_far = jnp.abs(trial_squared - overlap) >= POWELL * trial_squared
            return jnp.where(is_far, 0, beta)
        along = trial_slope - state.slope
        beta = safe_divide(overlap - 2 * safe_divide(dot(change, change) * trial_slope, along), along)
        length = jnp.sqrt(dot(state.direction, state.direction))
        least = -safe_divide(jnp.ones_like(length), length * jnp.minimum(jnp.sqrt(squared), 0.01))
        return jnp.maximum(beta, least)
