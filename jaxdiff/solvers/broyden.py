"""Broyden's method for equations, inside a trust region: one evaluation of F per step, and a Jacobian only where the secants have failed.

    B_{k+1} = B_k + (y - B_k s) (D^2 s)' / |D s|^2,    B_k p = -F(x_k),    x + s,  s on Powell's dogleg,  |D s| <= radius

B begins as the Jacobian at the start, and is the Jacobian again where two trials in a row lower |F| too little. A root is claimed from a
Jacobian only, by the tests of `root_model`: where the secants suggest one, the next step looks at the Jacobian there and does not move.

Sources: Broyden, A class of methods for solving nonlinear simultaneous equations, Math. Comp. 19 (1965) 577-593, equation 4.5 (the "good"
update); Moré, Garbow and Hillstrom, User guide for MINPACK-1 (1980), HYBRJ, for its scaling, the trust region, and when to begin anew.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneMatrix, LaneVector
from jaxdiff._validation import check_positive
from jaxdiff.elimination import solve_square
from jaxdiff.linalg import is_all_finite, matvec, select_lanes
from jaxdiff.result import Status
from jaxdiff.root_problem import Root
from jaxdiff.solvers.base import check_dense, counted, require_equations
from jaxdiff.solvers.residual_model import safe_norm
from jaxdiff.solvers.root_model import (
    CONTRACTION,
    RootReadings,
    assess,
    default_root_tolerance,
    dogleg,
    has_underflown,
    is_nearly_spent,
    is_stationary,
    size_of,
)

_FAILURES = 2
"""Trials in a row that lower |F| too little, after which the Jacobian is evaluated anew (MINPACK's own number)."""

_LOOKS = 8
"""Jacobians in a row between which |F| has not fallen by a tenth, after which the lane has stalled; MINPACK allows five."""


@pytree_dataclass
class BroydenState(RootReadings):
    """State of Broyden's method.

    Attributes:
        x: current points.
        residuals: F there.
        matrix: B, the approximation of the Jacobian.
        newton: the step B^{-1} (-F).
        is_singular: whether B is singular to rounding.
        is_exact: whether B is the Jacobian at x.
        radius: of the trust region, in the norm |D s|.
        weights: D, the largest length of each column of a Jacobian so far.
        largest_x: largest size of each unknown so far.
        last_length: length of the last step if it was accepted and full, in the norm |D s|; 0 otherwise.
        last_residuals: F before it.
        num_failures: trials in a row that lowered |F| too little.
        num_looks: Jacobians since |F| last fell by a tenth of what it was.
        lowest: |F| when that was.
        is_look: whether the next step evaluates the Jacobian at x and does not move.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of F.
    """

    x: LaneVector
    residuals: LaneVector
    matrix: LaneMatrix
    newton: LaneVector
    is_singular: LaneBool
    is_exact: LaneBool
    radius: LaneFloat
    weights: LaneVector
    largest_x: LaneVector
    last_length: LaneFloat
    last_residuals: LaneVector
    num_failures: LaneInt
    num_looks: LaneInt
    lowest: LaneFloat
    is_look: LaneBool
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt


@pytree_dataclass
class Broyden:
    """Broyden's method: for equations whose Jacobian costs much more than F; `NewtonRoot` finds more roots, in fewer steps.

    A success says what that of `NewtonRoot` does, and is claimed from a Jacobian evaluated at the root.

    Attributes:
        xtol: as in `NewtonRoot`.
        ftol: as in `NewtonRoot`.
        radius: of the first trust region, relative to |D x|; absolute where x is zero.

    Raises:
        ValueError: radius is not positive and finite.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> result = jd.root(lambda x: jnp.stack([x[0] ** 2 + x[1] ** 2 - 2, x[0] - x[1]]), [2.0, 0.5], solver=jd.Broyden())
        >>> [round(float(v), 5) for v in result.x], bool(result.success)
        ([1.0, 1.0], True)
    """

    xtol: Any = None
    ftol: Any = None
    radius: Any = 100.0

    name: ClassVar[str] = "broyden"
    tolerance_names: ClassVar[tuple[str, ...]] = ("xtol", "ftol")

    def __post_init__(self) -> None:
        check_positive(self.radius, "radius")

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        return default_root_tolerance(name, dtype, is_exact)

    def init(self, problem: Any, x: LaneVector) -> BroydenState:
        """See `base.Solver`."""
        require_equations(problem, "Broyden")
        check_dense("Broyden", x)
        n, lanes = x.shape
        zero, no, none = jnp.zeros(lanes, x.dtype), jnp.zeros(lanes, bool), jnp.zeros(lanes, jnp.int32)
        return BroydenState(
            x=x,
            residuals=jnp.full_like(x, jnp.inf),
            matrix=jnp.zeros((n, n, lanes), x.dtype),
            newton=jnp.zeros_like(x),
            is_singular=no,
            is_exact=no,
            radius=zero + self.radius,
            weights=jnp.ones_like(x),
            largest_x=jnp.abs(x),
            last_length=zero,
            last_residuals=jnp.full_like(x, jnp.inf),
            num_failures=none,
            num_looks=none,
            lowest=zero + jnp.inf,
            is_look=~no,
            status=jnp.full(lanes, Status.RUNNING, jnp.int32),
            num_steps=none - 1,
            num_evaluations=none,
        )

    def step(self, problem: Root, state: BroydenState) -> BroydenState:
        """See `base.Solver`."""
        is_start, is_look = state.num_steps < 0, state.is_look
        proposal = dogleg(state.residuals, state.matrix, state.newton, state.is_singular, state.weights, state.radius)
        step = jnp.where(is_look, 0, proposal.step)
        trial_x = state.x + step
        # Only where some lane looks is there a Jacobian to evaluate.
        residuals, jacobian = jax.lax.cond(
            jnp.any(is_look & (state.status == Status.RUNNING)),
            lambda: problem.system(trial_x),
            lambda: (problem.evaluate(trial_x), state.matrix),
        )
        matrix = jnp.where(is_look, jacobian, _updated(state, step, residuals))
        is_finite = is_all_finite(trial_x, residuals, matrix)

        old_size, new_size = size_of(state.residuals), size_of(residuals)
        fall = safe_divide(new_size, jnp.where(is_start, 1, old_size), otherwise=1.0)
        ratio = safe_divide(1 - fall * fall, 1 - proposal.predicted**2, otherwise=-1.0)
        is_moved = is_finite & ~is_look & (ratio > 1e-4) & (fall < 1)
        is_seen = is_finite & is_look
        x, here = select_lanes(is_moved | is_start, (trial_x, residuals), (state.x, state.residuals))
        # A trial that failed has taught B all the same, unless it was not finite.
        matrix = jnp.where(is_finite, matrix, state.matrix)
        newton, is_singular = solve_square(matrix, -here)

        weights, radius = self._region(state, proposal.length, x, matrix, jnp.where(is_finite, ratio, -1.0), is_finite)
        length = size_of(weights * newton)
        last_length = jnp.where(is_moved & proposal.is_newton, proposal.length, jnp.where(is_moved, 0, state.last_length))
        last_residuals = jnp.where(is_moved, state.residuals, state.last_residuals)
        num_failures = jnp.where(is_look | (is_finite & (ratio >= 0.1)), 0, state.num_failures + 1).astype(jnp.int32)
        has_fallen = is_moved & (new_size <= 0.9 * state.lowest) | is_start
        lowest = jnp.where(has_fallen, new_size, state.lowest)
        num_looks = jnp.where(has_fallen, 0, state.num_looks + jnp.where(is_look, 1, 0)).astype(jnp.int32)

        # From the Jacobian itself a root is claimed, from B it is only suspected; the last step tells whether steps contract. A Jacobian
        # evaluated before they do would be wasted.
        is_contracting = ~is_singular & (last_length > 0) & (length <= CONTRACTION * last_length)
        claim = assess(x, here, matrix, newton, is_contracting, self.ftol, self.xtol)
        claim = jnp.where(has_underflown(last_residuals, here, matrix), Status.PLATEAU, claim)
        is_suspect = is_moved & (claim != Status.RUNNING)

        largest_x = jnp.where(is_moved, jnp.maximum(state.largest_x, jnp.abs(x)), state.largest_x)
        is_short = ~is_look & jnp.all(jnp.abs(step) <= machine_epsilon(step.dtype) * jnp.abs(state.x), axis=0)
        is_spent = ~is_moved & ~is_look & is_nearly_spent(state.x, state.largest_x, state.matrix, state.newton) & ~state.is_singular
        is_blocked = ~is_look & ~is_moved & (is_short | is_spent)
        is_flat = is_singular | is_stationary(here, matrix)
        reason = jnp.where(is_flat, Status.SINGULAR, Status.STALLED)
        reason = jnp.where(is_finite, reason, Status.NON_FINITE)
        # What B says of the end is not to be trusted: only from a Jacobian does a lane stop.
        is_over = (is_blocked & state.is_exact) | (is_look & ~is_start & is_flat & (claim == Status.RUNNING)) | (num_looks >= _LOOKS)
        status = jnp.where(is_seen & (claim != Status.RUNNING), claim, jnp.where(is_over, reason, Status.RUNNING))
        status = jnp.where(is_start & ~is_finite, Status.NON_FINITE_START, status)
        is_exact = is_seen | (state.is_exact & ~is_moved & ~is_finite)
        wants_look = is_suspect | (~is_look & ((num_failures >= _FAILURES) | is_blocked | is_singular))
        return BroydenState(
            x=x,
            residuals=here,
            matrix=matrix,
            newton=newton,
            is_singular=is_singular,
            is_exact=is_exact,
            radius=radius,
            weights=weights,
            largest_x=largest_x,
            last_length=last_length,
            last_residuals=last_residuals,
            num_failures=num_failures,
            num_looks=num_looks,
            lowest=lowest,
            is_look=wants_look,
            status=status.astype(jnp.int32),
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, jnp.where(is_look, problem.evaluations_per_gradient, 1)),
        )

    def _region(
        self, state: BroydenState, length: LaneFloat, x: LaneVector, matrix: LaneMatrix, ratio: LaneFloat, is_finite: LaneBool
    ) -> tuple[LaneVector, LaneFloat]:
        """D and the radius behind a trial, as in MINPACK."""
        is_start = state.num_steps < 0
        weights = state.weights
        if x.shape[0] > 1:
            norms = safe_norm(matrix)
            norms = jnp.where(jnp.isfinite(norms), norms, 0)
            weights = jnp.where(is_start, jnp.where(norms > 0, norms, 1), jnp.where(state.is_look, jnp.maximum(weights, norms), weights))
        wider = jnp.where(ratio >= 0.5, jnp.maximum(state.radius, 2 * length), state.radius)
        shorter = jnp.where(is_finite, 0.5, 0.1) * jnp.minimum(state.radius, length)
        radius = jnp.where(state.is_look, state.radius, jnp.where(ratio >= 0.1, wider, shorter))
        size = size_of(weights * x)
        at_start = jnp.where((size > 0) & jnp.isfinite(size), size, 1) * self.radius
        return weights, jnp.where(is_start, at_start, radius).astype(x.dtype)


def _updated(state: BroydenState, step: LaneVector, residuals: LaneVector) -> LaneMatrix:
    """Broyden's update of B; B itself where nothing was moved."""
    weighted = state.weights * step
    length = size_of(weighted)
    unit = safe_divide(weighted, jnp.broadcast_to(length, weighted.shape))
    missed = residuals - state.residuals - matvec(state.matrix, step)
    missed = safe_divide(missed, jnp.broadcast_to(length, missed.shape))
    return state.matrix + missed[:, None] * (state.weights * unit)[None]
