"""Newton's method for equations, inside a trust region, with a way out of the minima of |F| that are no roots.

    J(x) p = -F(x),    x + s,  s on Powell's dogleg,  |D s| <= radius

Three additions to the textbook, one trial per step all of them:

- Next to a root of multiplicity m the steps shrink by 1 - 1/m only; where they do, m steps are tried at once.
- Where |F| has come to a minimum that is no root, hardly falls, or takes long, undamped Newton steps are tried from the start, whatever
  they do to |F|: near a singular Jacobian they jump far. If that does not lead below the |F| left behind, the solver returns there.
- Where a short Newton step no longer lowers |F|, F has come to its rounding, or to a root that is none; it stops there and then.

Sources: Powell, A hybrid method for nonlinear equations (1970); Moré, Garbow and Hillstrom, User guide for MINPACK-1 (1980), HYBRJ, for the
metric and the radius; Traub, Iterative Methods for the Solution of Equations (1964), section 7.2, for multiple roots. The undamped steps as
an escape are our own.
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneMatrix, LaneVector
from jaxdiff._validation import check_count, check_positive
from jaxdiff.elimination import solve_square
from jaxdiff.linalg import dot, is_all_finite, max_norm, select_lanes
from jaxdiff.result import Status
from jaxdiff.root_problem import Root
from jaxdiff.solvers.base import check_dense, counted, require_equations
from jaxdiff.solvers.residual_model import safe_norm
from jaxdiff.solvers.root_model import (
    CONTRACTION,
    Proposal,
    RootReadings,
    assess,
    default_root_tolerance,
    dogleg,
    has_underflown,
    is_nearly_spent,
    is_stationary,
    size_of,
)

_SLOW = 12
"""Steps in a row that lower |F| by less than a hundredth, after which the trust region is given up."""


@pytree_dataclass
class NewtonRootState(RootReadings):
    """State of Newton's method for equations.

    Attributes:
        x: current points.
        residuals: F there.
        jacobian: J there.
        newton: the Newton step from there; zero before the start is evaluated.
        is_singular: whether J is singular to rounding.
        radius: of the trust region, in the norm |D s|.
        weights: D, the largest length of each column of J so far.
        largest_x: largest size of each unknown so far.
        multiple: how many Newton steps to try at once; -1 where that has failed before.
        num_slow: steps in a row that hardly lowered |F|.
        num_free: undamped steps taken so far.
        is_free: whether the next step is undamped.
        is_look: whether the next step only evaluates x.
        start_x: the start, from where the undamped steps begin.
        left_x: where the trust region was left.
        left_residuals: F there.
        left_status: what to say if the undamped steps lead nowhere; RUNNING to go on there.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of F.
    """

    x: LaneVector
    residuals: LaneVector
    jacobian: LaneMatrix
    newton: LaneVector
    is_singular: LaneBool
    radius: LaneFloat
    weights: LaneVector
    largest_x: LaneVector
    multiple: LaneFloat
    num_slow: LaneInt
    num_free: LaneInt
    is_free: LaneBool
    is_look: LaneBool
    start_x: LaneVector
    left_x: LaneVector
    left_residuals: LaneVector
    left_status: LaneInt
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt


@pytree_dataclass
class NewtonRoot:
    """Newton's method for as many equations as unknowns; a dense Jacobian in every step.

    A success says that F vanishes to rounding, or that Newton's method contracts to a root that is a step of ``xtol`` away. A minimum of
    |F| that is no root is SINGULAR or STALLED.

    Attributes:
        xtol: CONVERGED_STEP where the Newton step p has ``sum_j |J_ij p_j| <= xtol sum_j |J_ij x_j|`` for all i, and is less than a tenth
            of the one before; for one unknown ``|p| <= xtol |x|``. Relative; one number, or a pytree like x; 0 switches the test off.
            None: eps^(3/4), with finite differences eps^(2/3).
        ftol: CONVERGED_VALUE where ``|F_i| <= ftol`` for all i; absolute, in units of F; one number, or a pytree like F. None: 0. Whatever
            it is, F that vanishes to rounding ends as CONVERGED_VALUE.
        radius: of the first trust region, relative to |D x|; absolute where x is zero.
        max_free_steps: undamped steps from the start, taken where the trust region ends in a minimum of |F| that is no root, or takes long;
            0 for none.
        patience: steps inside the trust region that count as long.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> result = jd.root(lambda x: jnp.stack([x[0] ** 2 + x[1] ** 2 - 2, x[0] - x[1]]), [2.0, 0.5], solver=jd.NewtonRoot())
        >>> [round(float(v), 6) for v in result.x], bool(result.success)
        ([1.0, 1.0], True)
    """

    xtol: Any = None
    ftol: Any = None
    radius: Any = 100.0
    max_free_steps: int = static(default=100)
    patience: int = static(default=40)

    name: ClassVar[str] = "newton_root"
    tolerance_names: ClassVar[tuple[str, ...]] = ("xtol", "ftol")

    def __post_init__(self) -> None:
        check_positive(self.radius, "radius")
        check_count(self.max_free_steps, "max_free_steps")
        check_count(self.patience, "patience", minimum=1)

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        return default_root_tolerance(name, dtype, is_exact)

    def init(self, problem: Any, x: LaneVector) -> NewtonRootState:
        """See `base.Solver`."""
        require_equations(problem, "NewtonRoot")
        check_dense("NewtonRoot", x)
        n, lanes = x.shape
        zero, no, none = jnp.zeros(lanes, x.dtype), jnp.zeros(lanes, bool), jnp.zeros(lanes, jnp.int32)
        return NewtonRootState(
            x=x,
            residuals=jnp.full_like(x, jnp.inf),
            jacobian=jnp.zeros((n, n, lanes), x.dtype),
            newton=jnp.zeros_like(x),
            is_singular=no,
            radius=zero + self.radius,
            weights=jnp.ones_like(x),
            largest_x=jnp.abs(x),
            multiple=zero + 1,
            num_slow=none,
            num_free=none,
            is_free=no,
            is_look=~no,
            start_x=x,
            left_x=x,
            left_residuals=jnp.zeros_like(x),
            left_status=none,
            status=jnp.full(lanes, Status.RUNNING, jnp.int32),
            num_steps=none - 1,
            num_evaluations=none,
        )

    def step(self, problem: Root, state: NewtonRootState) -> NewtonRootState:
        """See `base.Solver`."""
        is_start, is_look, is_free = state.num_steps < 0, state.is_look, state.is_free
        proposal = dogleg(state.residuals, state.jacobian, state.newton, state.is_singular, state.weights, state.radius)
        is_multiple = ~is_free & ~is_look & (state.multiple > 1) & proposal.is_newton & (state.multiple * proposal.length <= state.radius)
        step = jnp.where(is_multiple, state.multiple * state.newton, proposal.step)
        step = jnp.where(is_look, 0, jnp.where(is_free, _undamped(state.x, state.newton), step))
        trial_x = state.x + step
        residuals, jacobian = problem.system(trial_x)
        is_finite = is_all_finite(trial_x, residuals, jacobian)
        newton, is_singular = solve_square(jacobian, -residuals)

        old_size, new_size = size_of(state.residuals), size_of(residuals)
        fall = safe_divide(new_size, jnp.where(is_start, 1, old_size), otherwise=1.0)
        shrinkage = safe_divide(size_of(state.weights * newton), size_of(state.weights * state.newton), otherwise=1.0)
        ratio = jnp.where(is_look, 0.3, safe_divide(1 - fall * fall, 1 - proposal.predicted**2, otherwise=-1.0))
        is_lower = jnp.where(is_multiple, (shrinkage <= 0.5) | (new_size == 0), ratio > 1e-4) & (fall < 1)
        is_accepted = is_finite & (is_look | is_free | is_lower)

        is_contracting = ~is_look & ~is_multiple & (proposal.is_newton | is_free) & ~is_singular & (shrinkage <= CONTRACTION)
        accepted_status = assess(trial_x, residuals, jacobian, newton, is_contracting, self.ftol, self.xtol)
        has_sunk = ~is_look & has_underflown(state.residuals, residuals, jacobian)
        accepted_status = jnp.where(has_sunk, Status.PLATEAU, accepted_status)
        rejected_status = jnp.where(is_start, Status.NON_FINITE_START, Status.RUNNING)
        status = jnp.where(is_accepted, accepted_status, rejected_status).astype(jnp.int32)

        num_slow = jnp.where(is_free | is_look | (fall <= 0.99), 0, state.num_slow + 1)
        num_slow = jnp.where(is_accepted, num_slow, state.num_slow).astype(jnp.int32)
        # Short enough for a root at its end to have been reached, and yet neither it nor a part of it lowers |F|.
        is_spent = is_nearly_spent(state.x, state.largest_x, state.jacobian, state.newton) & ~state.is_singular
        is_spent = is_spent & (proposal.length <= 0.3 * size_of(state.weights * state.newton))
        is_short = jnp.all(jnp.abs(step) <= machine_epsilon(step.dtype) * jnp.abs(state.x), axis=0)
        is_blocked = ~is_look & ~is_free & ~is_accepted & (is_short | is_spent)
        is_tired = is_accepted & ~is_free & (is_stationary(residuals, jacobian) | (num_slow >= _SLOW))

        weights, radius = _updated_region(self.radius, state, proposal, trial_x, jacobian, ratio, is_finite, is_multiple)
        taken = (trial_x, residuals, jacobian, newton, is_singular)
        kept = (state.x, state.residuals, state.jacobian, state.newton, state.is_singular)
        x, residuals, jacobian, newton, is_singular = select_lanes(is_accepted | is_start, taken, kept)
        new = NewtonRootState(
            x=x,
            residuals=residuals,
            jacobian=jacobian,
            newton=newton,
            is_singular=is_singular,
            radius=radius,
            weights=weights,
            largest_x=jnp.where(is_accepted, jnp.maximum(state.largest_x, jnp.abs(trial_x)), state.largest_x),
            multiple=_next_multiple(state, newton, fall, is_multiple, is_accepted & proposal.is_newton & ~is_free & ~is_look),
            num_slow=num_slow,
            num_free=state.num_free,
            is_free=is_free,
            is_look=jnp.zeros_like(is_look),
            start_x=state.start_x,
            left_x=state.left_x,
            left_residuals=state.left_residuals,
            left_status=state.left_status,
            status=status,
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, problem.evaluations_per_gradient),
        )
        is_running = status == Status.RUNNING
        return self._turned(new, is_finite, (is_tired | (is_blocked & ~is_spent)) & is_running, is_blocked & is_spent & is_running)

    def _turned(self, state: NewtonRootState, is_finite: LaneBool, may_leave: LaneBool, must_stop: LaneBool) -> NewtonRootState:
        """Lanes that are stuck here leave for undamped steps, or stop; those on undamped steps come back, or give up."""
        is_running = state.status == Status.RUNNING
        is_flat = state.is_singular | is_stationary(state.residuals, state.jacobian)
        reason = jnp.where(is_flat, Status.SINGULAR, Status.STALLED)
        reason = jnp.where(is_finite, reason, Status.NON_FINITE).astype(jnp.int32)
        is_impatient = is_running & ~state.is_free & (state.num_free == 0) & (state.num_steps >= self.patience) & is_finite
        leaves = ((may_leave & is_finite) | is_impatient) & ~must_stop & (state.num_free < self.max_free_steps)
        stops = must_stop | (may_leave & ~leaves)

        num_free = counted(state.num_free, jnp.where(state.is_free, 1, 0))
        is_below = size_of(state.residuals) < 0.5 * size_of(state.left_residuals)
        returns = state.is_free & is_running & is_finite & is_below
        fails = state.is_free & is_running & ~returns & (~is_finite | (num_free >= self.max_free_steps))
        gone = jnp.where(may_leave, reason, Status.RUNNING).astype(jnp.int32)
        left_x, left_residuals, left_status = select_lanes(
            leaves, (state.x, state.residuals, gone), (state.left_x, state.left_residuals, state.left_status)
        )
        x = jnp.where(fails, left_x, jnp.where(leaves, state.start_x, state.x))
        residuals = jnp.where(fails, left_residuals, state.residuals)
        status = jnp.where(stops, reason, jnp.where(fails, left_status, state.status))
        size = size_of(state.weights * state.x)
        radius = jnp.where(returns, jnp.where(size > 0, size, 1) * self.radius, state.radius).astype(x.dtype)
        return dataclasses.replace(
            state,
            x=x,
            residuals=residuals,
            newton=jnp.where(leaves | fails, 0, state.newton),
            radius=radius,
            num_slow=jnp.where(leaves, 0, state.num_slow).astype(jnp.int32),
            num_free=num_free,
            is_free=leaves | (state.is_free & ~returns & ~fails),
            is_look=leaves | fails,
            left_x=left_x,
            left_residuals=left_residuals,
            left_status=left_status,
            status=status.astype(jnp.int32),
        )


def _undamped(x: LaneVector, newton: LaneVector) -> LaneVector:
    """The Newton step, cut off where it is a thousand times as long as x."""
    reach = 1000 * jnp.maximum(max_norm(x), 1)
    longest = max_norm(newton)
    return newton * jnp.where(longest > reach, safe_divide(reach, longest), 1)


def _updated_region(
    first: Any,
    state: NewtonRootState,
    proposal: Proposal,
    x: LaneVector,
    jacobian: LaneMatrix,
    ratio: LaneFloat,
    is_finite: LaneBool,
    is_multiple: LaneBool,
) -> tuple[LaneVector, LaneFloat]:
    """D and the radius behind a trial; the radius as in MINPACK, but never beyond the step that has just failed."""
    is_start = state.num_steps < 0
    if x.shape[0] == 1:
        weights = state.weights
    else:
        norms = safe_norm(jacobian)
        norms = jnp.where(jnp.isfinite(norms), norms, 0)
        weights = jnp.where(is_start, jnp.where(norms > 0, norms, 1), jnp.maximum(state.weights, norms))
    wider = jnp.where(ratio >= 0.5, jnp.maximum(state.radius, 2 * proposal.length), state.radius)
    radius = jnp.where(ratio >= 0.1, wider, jnp.where(is_finite, 0.25, 0.1) * jnp.minimum(state.radius, proposal.length))
    radius = jnp.where(is_multiple | state.is_free, state.radius, radius)
    size = size_of(weights * x)
    at_start = jnp.where((size > 0) & jnp.isfinite(size), size, 1) * first
    return weights, jnp.where(is_start, at_start, radius).astype(x.dtype)


def _next_multiple(state: NewtonRootState, newton: LaneVector, fall: LaneFloat, is_multiple: LaneBool, was_plain: LaneBool) -> LaneFloat:
    """How many Newton steps to try at once: 1 / (1 - theta) where the last two shrank by theta and kept their direction."""
    if newton.shape[0] == 1:
        theta = safe_divide(newton[0], state.newton[0])
        is_aligned = theta > 0
    else:
        old, new = state.weights * state.newton, state.weights * newton
        scale = max_norm(old)
        old, new = safe_divide(old, scale), safe_divide(new, scale)
        theta = safe_divide(dot(old, new), dot(old, old))
        is_aligned = size_of(new - theta * old) <= 0.05 * size_of(new)
    is_steady = (theta > 0.4) & (theta < 0.95)
    multiple = jnp.round(1 / (1 - jnp.where(is_steady, theta, 0.5)))
    # F falls by theta^m there, and theta is 1 - 1/m.
    is_steady &= is_aligned & (jnp.abs(theta - (1 - 1 / multiple)) <= 0.05 / multiple)
    is_steady &= jnp.abs(fall - theta**multiple) <= 0.05
    wanted = jnp.where(was_plain & ~is_multiple & is_steady, multiple, 1)
    has_failed = (state.multiple < 0) | (is_multiple & ~was_plain)
    return jnp.where(has_failed, -1, wanted).astype(newton.dtype)
