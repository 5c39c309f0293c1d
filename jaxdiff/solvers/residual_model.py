"""What the least-squares solvers share: the linear model r + J p about a point, the steps it proposes, and what it says of convergence.

Steps come from orthogonal factors of J and never from J'J: forming J'J squares the condition number, and with it goes half of the digits.
Columns are scaled to length one and residuals to a largest entry of one, so that neither units nor overflow of squares matter:

    J_s = J diag(1 / |J_j|),    r_s = r / max|r|,    J_s = Q R,    p = max|r| diag(1 / |J_j|) p_s,    R p_s = -Q' r_s

Sources: Moré, The Levenberg-Marquardt algorithm: implementation and theory (1978), section 3, for the factorization in two stages and the
cosine test; Björck, Numerical Methods for Least Squares Problems (1996), theorem 1.4.6, for the two terms of the rounding error of a
solution. How they are put together to a verdict is our own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneMatrix, LaneVector
from jaxdiff.linalg import all_over_rows, matvec, select_lanes
from jaxdiff.one_kernel import in_one_kernel
from jaxdiff.problem import LeastSquares, Linearization
from jaxdiff.result import Status
from jaxdiff.solvers.base import counted, unevaluated


@pytree_dataclass
class LinearModel:
    """The residuals to first order about a point, and their orthogonal factor.

    Attributes:
        at: residuals and Jacobian.
        free: which parameters may move; None where all may.
        column_norms: lengths of the columns of the Jacobian, ``[n, lanes]``; 0 where a column is zero, or its parameter not free.
        slopes: J_s' r_s, all columns: the cosines of their angles with the residuals times ``residual_norm``, ``[n, lanes]``.
        residual_scale: the largest residual, ``[lanes]``; 1 where all are zero.
        residual_norm: length of r_s, ``[lanes]``.
        noise: what rounding alone may do to r_s: eps (|r_s| + sum_j |J_j x_j|) in the same units, ``[lanes]``.
        factor: R, upper triangular, ``[n, n, lanes]``; a parameter without a column has a row of the identity.
        rotated: the first n entries of Q' r_s, ``[n, lanes]``.
    """

    at: Linearization
    free: jax.Array | None
    column_norms: LaneVector
    slopes: LaneVector
    residual_scale: LaneFloat
    residual_norm: LaneFloat
    noise: LaneFloat
    factor: LaneMatrix
    rotated: LaneVector

    @classmethod
    def empty(cls, problem: LeastSquares, x: LaneVector) -> "LinearModel":
        """A model of zero residuals, whose step is zero."""
        n, lanes = x.shape
        m = problem.num_residuals
        zeros = lambda *shape: jnp.zeros((*shape, lanes), x.dtype)  # noqa: E731
        return cls(
            Linearization(zeros(m), None if problem.loss == "linear" else zeros(m), zeros(m), zeros(m, n)),
            jnp.ones((n, lanes), bool) if problem.is_bounded else None,
            zeros(n),
            zeros(n),
            jnp.ones(lanes, x.dtype),
            zeros(),
            zeros(),
            jnp.broadcast_to(jnp.eye(n, dtype=x.dtype)[..., None], (n, n, lanes)),
            zeros(n),
        )

    @classmethod
    def about(cls, problem: LeastSquares, x: LaneVector) -> "tuple[LinearModel, LaneFloat, LaneVector]":
        """The model, the cost and its gradient at x."""
        at = problem.linearize(x)
        table = jnp.concatenate([at.jacobian, at.weighted[:, None]], axis=1)
        lengths, largest = safe_norm(table, with_largest=True)
        scale = jnp.where(largest[-1] > 0, largest[-1], 1)
        residual_norm = lengths[-1] / scale
        slopes = jnp.sum(at.jacobian * (at.weighted / scale)[:, None], axis=0)
        gradient = slopes * scale
        value = (scale * residual_norm) ** 2 / 2 if problem.loss == "linear" else problem.cost(at.residuals)
        free = problem.free(x, gradient)
        norms = lengths[:-1] if free is None else jnp.where(free, lengths[:-1], 0)
        units = jnp.concatenate([norms, scale[None]])
        has_column = units > 0
        identity = jnp.where(has_column[None], 0, jnp.eye(x.shape[0] + 1, dtype=x.dtype)[:-1, :, None])
        # A row of the identity in place of each missing column, so that R has no zero in its diagonal for it.
        table = jnp.concatenate([jnp.where(has_column, table / jnp.where(has_column, units, 1), 0), identity])
        reduced = triangular_factor(table)
        noise = machine_epsilon(x.dtype) * (residual_norm + jnp.sum(lengths[:-1] * jnp.abs(x), axis=0) / scale)
        slopes = safe_divide(slopes, lengths[:-1])
        return cls(at, free, norms, slopes, scale, residual_norm, noise, reduced[:, :-1], reduced[:, -1]), value, gradient

    @property
    def units(self) -> LaneVector:
        """What one unit of a scaled step is worth in each parameter; 0 where it has no column."""
        return safe_divide(jnp.broadcast_to(self.residual_scale, self.column_norms.shape), self.column_norms)

    def solve(self, damping: LaneVector, given: LaneVector | None = None) -> tuple[LaneVector, LaneMatrix]:
        """The scaled step p_s that minimizes |R p_s + Q'r_s|^2 + |diag(damping) p_s|^2, and the inverse of that problem's factor.

        Args:
            damping: one weight per parameter, ``[n, lanes]``.
            given: scaled steps of the parameters that are not to be solved for, NaN in the others.
        """
        right, columns = self.rotated, self.factor
        if given is not None:
            is_given = ~jnp.isnan(given)
            right = right + self.predicted(jnp.where(is_given, given, 0))
            columns = jnp.where(is_given[None], 0, columns)
        n = right.shape[0]
        rows = jnp.eye(n, dtype=right.dtype)[..., None] * damping[None]
        table = jnp.concatenate([columns, rows], axis=0)
        reduced = triangular_factor(jnp.concatenate([table, jnp.concatenate([right, jnp.zeros_like(right)])[:, None]], axis=1))
        inverse = invert_upper(reduced[:, :-1])
        return -matvec(inverse, reduced[:, -1]), inverse

    def scaled(self, step: LaneVector) -> LaneVector:
        """A step in the units of the scaled model."""
        return safe_divide(step, self.units)

    def predicted(self, scaled_step: LaneVector) -> LaneVector:
        """R p_s, whose length is that of J p in units of the residual scale."""
        return matvec(self.factor, scaled_step)


@pytree_dataclass
class Verdict:
    """What the model says of the point it was made at.

    Attributes:
        status: a success, PLATEAU, SINGULAR, or RUNNING.
        at_rest: what a solver should say that gets no further from here: CONVERGED_VALUE where the model promises nothing beyond rounding
            and the parameters are known to three sevenths of the digits, else STALLED or SINGULAR.
        newton: the undamped Gauss-Newton step, ``[n, lanes]``; of least length where the Jacobian has not full rank.
        promised: |Q'r_s|^2, twice what that step would gain to first order, in units of the residual scale squared.
        is_finite: whether the point, every residual and every derivative is.
        is_flat: whether no free parameter has any influence.
    """

    status: LaneInt
    at_rest: LaneInt
    newton: LaneVector
    promised: LaneFloat
    is_finite: LaneBool
    is_flat: LaneBool


def assess(
    model: LinearModel, x: LaneVector, largest_norms: LaneVector, gtol: Any, xtol: Any, ftol: Any, jacobian_epsilon: float
) -> Verdict:
    """Whether a first-order test holds, and whether it means anything at this precision.

    Rounding enters the residuals, by about eps (|r_i| + sum_j |J_ij x_j|) each, and the Jacobian, by ``jacobian_epsilon``. From there it
    spreads to the parameters through R^{-1}. A step that is smaller than what rounding can do to it is as small as steps get; where
    rounding leaves a parameter fewer than about three sevenths of the digits, no test can be trusted and none passes.
    """
    epsilon = machine_epsilon(x.dtype)
    n, m = x.shape[0], model.at.residuals.shape[0]
    diagonal = jnp.eye(n, dtype=bool)[..., None]
    pivots = jnp.sum(jnp.where(diagonal, model.factor, 0), axis=0)
    # A pivot that cannot be told from rounding: its column depends on those before it, and does without a step of its own.
    is_small = jnp.abs(pivots) <= 10 * max(n, m) * epsilon
    inverse = invert_upper(jnp.where(diagonal & is_small[None], 1, model.factor))
    newton = -matvec(inverse, jnp.where(is_small, 0, model.rotated)) * model.units
    spread = jnp.sqrt(jnp.sum(inverse * inverse, axis=1))

    noise = model.noise
    sloped = jacobian_epsilon * model.residual_norm * jnp.max(spread, axis=0)
    doubt = (noise + sloped) / np.sqrt(m) * spread * model.units
    # A parameter that contributes little to the model, a zero above all, is judged by its contribution and not by its own digits.
    typical = jnp.maximum(jnp.abs(x), epsilon**-0.75 * noise * model.units)
    moved = jnp.abs(newton)
    held = jnp.zeros(x.shape, bool) if model.free is None else ~model.free
    tests = [
        # Rounding of the residuals alone turns a column by noise / |r|.
        (jnp.abs(model.slopes) <= gtol * model.residual_norm + 2 * noise) | held,
        # Slopes may drown in rounding before the step does: as long as it is this long, it has more to tell.
        (moved <= epsilon**0.5 * typical) | held,
        (moved <= jnp.maximum(xtol * typical, 2 * doubt)) | held,
        (moved <= epsilon ** (3 / 7) * typical) | held,
        # Doubt is a typical error and not a bound: among a hundred fits of ten parameters one error exceeds three of it, and none five.
        (5 * doubt <= epsilon ** (3 / 7) * typical) | held,
        ~is_small,
        # A parameter that had an influence once and has none now was lost, not found.
        (model.column_norms > 0) | (largest_norms == 0) | held,
        jnp.isfinite(model.slopes) & jnp.isfinite(x),
        (model.column_norms == 0) | held,
        held,
    ]
    answers = all_over_rows(*tests)
    is_small_gradient, is_near, is_small_step, is_close, is_resolved, is_full, is_alive, is_finite, is_flat, is_held = answers
    promised = jnp.sum(model.rotated * model.rotated, axis=0)
    is_small_gain = (promised <= ftol * model.residual_norm**2) | ((model.residual_norm <= noise) & is_near)
    status = jnp.where(is_small_gain, Status.CONVERGED_VALUE, Status.RUNNING)
    status = jnp.where(is_small_step, Status.CONVERGED_STEP, status)
    # Without full rank a step says nothing of the directions that it leaves out.
    status = jnp.where(is_full, status, Status.RUNNING)
    status = jnp.where(is_small_gradient & (is_near | ~is_full), Status.CONVERGED_GRADIENT, status)

    # In double precision a pivot at rounding means a rank that is not full; in single precision it may as well be a bad condition.
    is_resolved = jnp.where(is_full, is_resolved, epsilon < 1e-10)
    is_exact = model.residual_norm == 0
    # Stationary to rounding, and yet nothing known of the parameters: no further step can change that.
    status = jnp.where(is_resolved | is_exact, status, jnp.where(is_small_gradient, Status.SINGULAR, Status.RUNNING))
    status = jnp.where(~is_alive & ~is_exact & (status != Status.RUNNING), Status.PLATEAU, status)
    is_level = (promised <= 4 * noise * model.residual_norm) & is_close & is_full & is_alive
    at_rest = jnp.where(is_resolved, jnp.where(is_level, Status.CONVERGED_VALUE, Status.STALLED), Status.SINGULAR)
    is_finite = is_finite & jnp.isfinite(model.residual_norm)
    return Verdict(status.astype(jnp.int32), at_rest.astype(jnp.int32), newton, promised, is_finite, is_flat & ~is_held)


def default_residual_tolerance(name: str, dtype: DType, is_exact: bool) -> float:
    """What None stands for in gtol, xtol and ftol of the solvers of least squares; our own choices."""
    epsilon = machine_epsilon(dtype)
    if name == "ftol":
        return 0.0
    if name == "gtol":
        return 4 * epsilon if is_exact else epsilon ** (2 / 3)
    return epsilon ** (2 / 3) if is_exact else epsilon ** (1 / 2)


def safe_norm(a: jax.Array, with_largest: bool = False) -> Any:
    """Euclidean length along the first axis without overflow or underflow of squares; perhaps with the largest absolute entry.

    Example:
        >>> float(safe_norm(jnp.array([3e30, 4e30], jnp.float32)) / 5e30)
        1.0
    """
    largest = jnp.max(jnp.abs(a), axis=0)
    guarded = jnp.where(largest > 0, largest, 1)
    length = largest * jnp.sqrt(jnp.sum((a / guarded) ** 2, axis=0))
    return (length, largest) if with_largest else length


def triangular_factor(table: jax.Array) -> jax.Array:
    """R of the QR factorization of a tall table ``[k, n + 1, lanes]``, its last row left out: ``[n, n + 1, lanes]``."""
    wide = jnp.promote_types(table.dtype, jnp.float32)
    if table.shape[-1] == 1 and table.size <= _ALONE_LIMIT:
        return in_one_kernel(_reflected, table[..., 0].astype(wide))[..., None].astype(table.dtype)
    factor = jnp.linalg.qr(jnp.moveaxis(table, -1, 0).astype(wide), mode="r")
    return jnp.moveaxis(factor[:, : table.shape[1] - 1], 0, -1).astype(table.dtype)


_ALONE_LIMIT = 2048
"""Entries of a single table up to which a loop over its columns takes no longer than a call of the vendor's routine."""


def _reflected(table: jax.Array) -> jax.Array:
    """`triangular_factor` of one table ``[k, n + 1]``, by Householder's reflections.

    References:
        Golub and Van Loan, Matrix Computations (2013), algorithms 5.1.1 and 5.2.1.
    """
    k, n = table.shape[0], table.shape[1] - 1
    place = jnp.arange(k, dtype=jnp.int32)[:, None]

    def reflect(j: jax.Array, table: jax.Array) -> jax.Array:
        # What lies below the diagonal of the columns before is never read again, and may be anything.
        column = jnp.where(place >= j, jax.lax.dynamic_slice_in_dim(table, j, 1, axis=1), 0)
        largest = jnp.max(jnp.abs(column))
        # In units of its largest entry no square overflows. A column of zeros has nothing to reflect.
        column = column / jnp.where(largest > 0, largest, 1)
        length = jnp.sqrt(jnp.sum(column * column))
        pivot = jnp.sum(jnp.where(place == j, column, 0))
        # |normal|^2 / 2, without cancellation: the pivot and its image differ in sign.
        half = length * (length + jnp.abs(pivot))
        normal = column + jnp.where(place == j, jnp.where(pivot > 0, length, -length), 0)
        along = jnp.sum(normal * table, axis=0, keepdims=True) / jnp.where(half > 0, half, 1)
        return table - normal * along

    table = jax.lax.fori_loop(jnp.int32(0), jnp.int32(n), reflect, table)[:n]
    return jnp.where(place[:n] <= jnp.arange(n + 1, dtype=jnp.int32), table, 0)


def invert_upper(factor: LaneMatrix) -> LaneMatrix:
    """R^{-1} in every lane, by back substitution row by row, the whole block at once.

    A triangular solve of a batch is expanded by XLA on CPU into code that takes seconds to compile; a loop over rows is a few operations.

    Example:
        >>> invert_upper(jnp.array([[[2.0], [1.0]], [[0.0], [4.0]]]))[..., 0].tolist()
        [[0.5, -0.125], [0.0, 0.25]]
    """
    n, _, lanes = factor.shape
    if lanes == 1 and n * n > _ALONE_LIMIT:
        # One large matrix is one call of the vendor's.
        identity = jnp.eye(n, dtype=factor.dtype)
        return jax.lax.linalg.triangular_solve(factor[..., 0], identity, left_side=True, lower=False)[..., None]
    rows = jnp.arange(n)[:, None]
    identity = jnp.eye(n, dtype=factor.dtype)

    def substitute(i: jax.Array, inverse: LaneMatrix) -> LaneMatrix:
        j = n - 1 - i
        row = factor[j]
        rest = jnp.sum(jnp.where(rows > j, row, 0)[:, None] * inverse, axis=0)
        return jax.lax.dynamic_update_index_in_dim(inverse, (identity[j][:, None] - rest) / row[j], j, 0)

    return jax.lax.fori_loop(0, n, substitute, jnp.zeros_like(factor))


@pytree_dataclass
class Trial:
    """A trial point, and what a solver needs to know to take it or leave it.

    Attributes:
        x: the point.
        value: the cost there.
        gradient: its gradient there.
        model: the residuals to first order there.
        largest_norms: largest length of each column so far, this point included.
        decrease: by how much the cost fell, in units of the old residual scale squared.
        is_blind: whether all is finite, and what was promised and what came are both within the rounding of the cost.
        fall: slopes there over slopes before, in the metric given.
        verdict: what its model says of it.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    model: LinearModel
    largest_norms: LaneVector
    decrease: LaneFloat
    is_blind: LaneBool
    fall: LaneFloat
    verdict: Verdict


def try_point(problem: LeastSquares, solver: Any, state: Any, trial_x: LaneVector, predicted: LaneFloat, weights: LaneVector) -> Trial:
    """Evaluate a trial point and hold it against the model of the state.

    Args:
        problem: bound to the data of these lanes.
        solver: with its tolerances resolved.
        state: with ``model``, ``gradient`` and ``largest_norms``.
        trial_x: where to look.
        predicted: the decrease that the model promises, in units of its residual scale squared.
        weights: the metric in which slopes are compared, in units of the scaled model.
    """
    model = state.model
    trial, value, gradient = LinearModel.about(problem, trial_x)
    largest_norms = jnp.maximum(state.largest_norms, jnp.where(jnp.isfinite(trial.column_norms), trial.column_norms, 0))
    epsilon = machine_epsilon(trial_x.dtype)
    jacobian_epsilon = epsilon if problem.derivatives.is_exact else epsilon ** (2 / 3)
    verdict = assess(trial, trial_x, largest_norms, solver.gtol, solver.xtol, solver.ftol, jacobian_epsilon)
    decrease = problem.decrease(model.at.residuals, trial.at.residuals, model.residual_scale)
    rounding = 4 * model.noise * model.residual_norm
    is_blind = (jnp.abs(predicted) <= rounding) & (jnp.abs(decrease) <= 4 * rounding) & (state.num_steps >= 0)
    # Where the cost has gone flat the slopes still tell the way: in the metric of D, in which a well damped step lowers them as a gradient
    # step does, or in that of J'J, in which an undamped one does. All of it in units of the old residual scale.
    metric = safe_divide(jnp.ones_like(trial_x), weights * model.column_norms * model.residual_scale)
    slopes = jnp.stack([gradient * metric, state.gradient * metric, model.rotated])
    new, old, promised = jnp.sum(slopes * slopes, axis=1)
    grown = (trial.residual_scale / model.residual_scale) ** 2
    fall = jnp.sqrt(jnp.minimum(safe_divide(new, old, otherwise=1.0), safe_divide(verdict.promised * grown, promised, otherwise=1.0)))
    return Trial(trial_x, value, gradient, trial, largest_norms, decrease, verdict.is_finite & is_blind, fall, verdict)


@pytree_dataclass
class FitState:
    """What the states of Gauss-Newton and of the dogleg have in common.

    Attributes:
        x: current points.
        value: the cost there.
        gradient: its gradient there.
        model: the residuals to first order there.
        newton: the Gauss-Newton step.
        largest_norms: largest length of each column of the Jacobian so far.
        at_rest: code of `Status` for a lane that gets no further from x.
        num_blind: steps within the rounding of the cost that did not lower the slopes by a tenth.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of the residuals.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    model: LinearModel
    newton: LaneVector
    largest_norms: LaneVector
    at_rest: LaneInt
    num_blind: LaneInt
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt

    @staticmethod
    def fresh(problem: LeastSquares, x: LaneVector) -> dict[str, Any]:
        """These fields at points that have not been looked at."""
        none = jnp.zeros(x.shape[-1], jnp.int32)
        model, zero = LinearModel.empty(problem, x), jnp.zeros_like(x)
        return {"model": model, "newton": zero, "largest_norms": zero, "at_rest": none, "num_blind": none, **unevaluated(x)}

    def after(self, problem: LeastSquares, trial: Trial, is_accepted: LaneBool, is_stuck: LaneBool) -> dict[str, Any]:
        """These fields behind a trial; ``is_stuck`` tells where a rejected one leaves nothing else to try."""
        is_start = self.num_steps < 0
        is_resting = trial.is_blind & ~(trial.fall <= 0.9)
        num_blind = jnp.where(is_resting, self.num_blind + 1, jnp.where(is_accepted, 0, self.num_blind)).astype(jnp.int32)
        is_lost = num_blind >= 40
        accepted_status = jnp.where(is_lost & (trial.verdict.status == Status.RUNNING), trial.verdict.at_rest, trial.verdict.status)
        # Nothing slopes at the start, and nothing tells whether it is a minimum.
        is_flat = is_start & trial.verdict.is_flat & (trial.model.residual_norm > 0)
        accepted_status = jnp.where(is_flat, Status.PLATEAU, accepted_status)
        given_up = jnp.where(trial.verdict.is_finite, self.at_rest, Status.NON_FINITE)
        rejected_status = jnp.where(is_start, Status.NON_FINITE_START, jnp.where(is_stuck | is_lost, given_up, Status.RUNNING))
        taken = (trial.x, trial.value, trial.gradient, trial.model, trial.verdict.newton, trial.largest_norms, trial.verdict.at_rest)
        names = ("x", "value", "gradient", "model", "newton", "largest_norms", "at_rest")
        fields = select_lanes(is_accepted | is_start, taken, tuple(getattr(self, name) for name in names))
        return {
            **dict(zip(names, fields, strict=True)),
            "num_blind": num_blind,
            "status": jnp.where(is_accepted, accepted_status, rejected_status).astype(jnp.int32),
            "num_steps": counted(self.num_steps, 1),
            "num_evaluations": counted(self.num_evaluations, problem.evaluations_per_gradient),
        }
