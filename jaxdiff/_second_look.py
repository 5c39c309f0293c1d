"""A second look at fits that stopped without a success: whether they are at a minimum after all, and at the claim that proves it.

Solvers of least squares know the curvature of the cost by J'J alone. Where the residuals do not vanish, what J leaves undetermined may be
determined by their own curvature; and where they do vanish at a singular J, no relative digit of the parameters is ever settled. Hence

- a minimum of second order: the Hessian of the cost, scaled to a unit diagonal, is safely positive definite, and the Newton step that it
  gives changes no parameter by more than xtol, or than what rounding does to the gradient, which leaves three sevenths of the digits;
- a zero: the residuals have fallen to rounding of those at the start, lie below half of the digits of what the parameters contribute to
  them, and make no angle with a column of J that rounding could not have made. In double precision only: in single precision that may be
  a bad condition as well.

Both ask for it among the parameters that no bound holds, and both test the point itself: no step is taken. They are our own; for the
Newton step as an error see Dennis and Schnabel, Numerical Methods for Unconstrained Optimization (1983), section 7.2.

The other way round, a success is looked at again where a column of J, and that of the Hessian, is zero to the last bit. A parameter that
the model does not use is no reason to doubt the others. One that changes the residuals elsewhere, at zero, at one, at half or twice its
value, has lost its influence by underflow, and nothing at the point tells where its minimum is: PLATEAU.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon
from jaxdiff._types import LaneBool, LaneVector, Starts
from jaxdiff.batch.execute import execute, lanes_last
from jaxdiff.batch.options import BatchOptions, Plan
from jaxdiff.batch.rescue import taken
from jaxdiff.derivatives import Autodiff
from jaxdiff.fit_result import FitResult
from jaxdiff.linalg import smallest_eigenpairs
from jaxdiff.problem import LeastSquares, Minimize
from jaxdiff.result import OptimizeResult, Status, is_success
from jaxdiff.solvers import (
    BFGS,
    LBFGS,
    Dogleg,
    GaussNewton,
    GradientDescent,
    LevenbergMarquardt,
    LevenbergMarquardtCholesky,
    NonlinearCG,
    TrustRegionNewtonCG,
)
from jaxdiff.solvers.base import Solver
from jaxdiff.solvers.residual_model import LinearModel

_NAMES = tuple(solver.name for solver in (Dogleg, GaussNewton, LevenbergMarquardt, LevenbergMarquardtCholesky))
_DOUBTFUL = (Status.SINGULAR, Status.STALLED)


def is_doubtful(result: FitResult) -> np.ndarray:
    """Which of many fits, or whether the only one, may be at a minimum though its status does not say so."""
    return np.isin(np.asarray(result.status), _DOUBTFUL)


def may_be_lost(result: FitResult) -> np.ndarray:
    """Which successes of many fits, or whether that of the only one, have a slope of zero to the last bit and residuals that are not."""
    leaves = jax.tree.leaves(result.jac)
    ndim = np.ndim(result.status)
    is_level = np.any([np.any(np.asarray(leaf) == 0, axis=tuple(range(ndim, np.ndim(leaf)))) for leaf in leaves], axis=0)
    return np.asarray(is_level & np.asarray(result.success) & (np.asarray(result.fun) > 0))


def without_lost(result: FitResult, problem: LeastSquares, starts: Starts, solver: Any) -> FitResult:
    """The result, with PLATEAU for a success in which a parameter that matters elsewhere has no influence at all.

    Args:
        result: problems in the first axis; concrete.
        problem: its batched data have the problems in their first axis.
        starts: ``[num_problems, n]``.
        solver: that ended there.
    """
    index = np.flatnonzero(may_be_lost(result))
    if index.size == 0 or not isinstance(problem.derivatives, Autodiff):
        return result
    small, _, ends, plan = _apart(result, problem, starts, index)
    try:
        are_lost = execute(_are_lost, small, solver, ends, 0, plan)
    except (TypeError, ValueError, NotImplementedError):
        # Residuals with a derivative rule of their own may have no second derivative.
        return result
    lost = index[np.asarray(are_lost)[: index.size]]
    if lost.size == 0:
        return result
    status, success = np.array(result.status), np.array(result.success)
    status[lost], success[lost] = Status.PLATEAU, False
    return dataclasses.replace(result, status=jnp.asarray(status), success=jnp.asarray(success))


def _padded(index: np.ndarray) -> np.ndarray:
    """The index, its last member repeated up to a power of two: of few sizes, so that the next batch does not compile again."""
    return np.concatenate([index, np.full((1 << int(index.size - 1).bit_length()) - index.size, index[-1])])


def _apart(result: FitResult, problem: LeastSquares, starts: Starts, index: np.ndarray) -> tuple[LeastSquares, Starts, jax.Array, Plan]:
    """These problems alone, padded: with their data, their starts, where they ended, and how to run them."""
    padded = _padded(index)
    small, held = taken(problem, starts, padded, may_widen=False)
    ends = problem.packing.ravel(jax.tree.map(lambda leaf: leaf[padded], result.x), batch_axes=1)
    return small, held, ends, BatchOptions(mode="lockstep").plan(small, padded.size, False, may_reassociate=False)


_ELSEWHERE = ((0.0, 0.0), (0.0, 1.0), (0.5, 0.0), (2.0, 0.0))
"""Where a parameter without influence is looked at: so many times itself, plus so much."""


def _are_lost(problem: LeastSquares, solver: Solver, points: Starts, max_steps: Any, first: Any, *, count: int, plan: Plan | None) -> Any:
    """Whether a parameter whose columns of J and H are zero there changes the residuals elsewhere, beyond half of their digits."""
    del solver, max_steps, plan
    problem = lanes_last(problem, first, count)
    x = jax.lax.dynamic_slice_in_dim(points, first, count).T
    x = x if problem.units is None else x / problem.units
    at = problem.linearize(x)
    is_without = jnp.all(at.jacobian == 0, axis=0) & jnp.all(problem.hessian_by_jacobian(x) == 0, axis=0)
    free = problem.free(x, jnp.zeros_like(x))
    is_without = is_without if free is None else is_without & free
    size = jnp.max(jnp.abs(at.residuals), axis=0)
    is_lost = jnp.zeros(count, bool)
    for factor, shift in _ELSEWHERE:
        there = problem.residuals(problem.project(jnp.where(is_without, factor * x + shift, x)))
        change = jnp.max(jnp.abs(there - at.residuals), axis=0)
        is_lost = is_lost | (jnp.isfinite(change) & (change > machine_epsilon(x.dtype) ** 0.5 * size))
    return is_lost


_GRADIENT_ONLY = tuple(solver.name for solver in (BFGS, LBFGS, NonlinearCG, GradientDescent, TrustRegionNewtonCG))
_HESSIAN_LIMIT = 100
"""Parameters up to which a Hessian is formed to prove a minimum."""


def with_proven_minima(
    result: OptimizeResult, problem: Minimize, solver: Any, at: Callable[[Minimize, jax.Array], OptimizeResult]
) -> OptimizeResult:
    """The result of minimizing, with a success in place of STALLED where Newton's test of the point, at which nothing moves, has one.

    Who sees gradients only has no measure for one at a start that is all but a minimum, or where f is zero at its minimum and small.

    Args:
        result: problems in the first axis, or of one; concrete.
        problem: its batched data have the problems in their first axis.
        solver: that ended there, as it was named; with a gtol that was given, that alone counts.
        at: what Newton's method says of points, ``[num_problems, n]``, in no step.
    """
    is_open = np.atleast_1d(np.asarray(result.status) == Status.STALLED)
    if not is_open.any() or getattr(solver, "name", None) not in _GRADIENT_ONLY or solver.gtol is not None:
        return result
    if problem.packing.size > _HESSIAN_LIMIT or not isinstance(problem.derivatives, Autodiff):
        return result
    is_one = np.ndim(result.status) == 0
    index = np.flatnonzero(is_open)
    padded = _padded(index)
    x = jax.tree.map(lambda leaf: leaf[None] if is_one else leaf[padded], result.x)
    ends = problem.packing.ravel(x, batch_axes=1)
    small, _ = taken(problem, jnp.zeros((is_open.size, problem.packing.size), ends.dtype), padded, may_widen=False)
    try:
        found = at(small, ends).status[: index.size]
    except (TypeError, ValueError, NotImplementedError):
        # A function with a derivative rule of its own may have no second derivative.
        return result
    is_proven = np.asarray(is_success(found))
    if not is_proven.any():
        return result
    status = np.atleast_1d(np.array(result.status))
    status[index] = np.where(is_proven, np.asarray(found), status[index])
    status = jnp.asarray(status[0] if is_one else status)
    return dataclasses.replace(result, status=status, success=is_success(status))


def looked_at_again(result: FitResult, problem: LeastSquares, starts: Starts, solver: Any, is_curve: bool) -> FitResult:
    """The result, with CONVERGED_STEP where a minimum of second order is proven, and CONVERGED_GRADIENT where a zero is.

    Args:
        result: problems in the first axis; concrete.
        problem: its batched data have the problems in their first axis.
        starts: ``[num_problems, n]``.
        solver: that ended there, its tolerances resolved.
        is_curve: whether parameters that the data do not determine are SINGULAR, whatever is proven.
    """
    status = np.array(result.status)
    index = np.flatnonzero(is_doubtful(result) & (np.asarray(result.is_full_rank) if is_curve else True))
    if index.size == 0 or solver.name not in _NAMES or not isinstance(problem.derivatives, Autodiff):
        return result
    small, held, ends, plan = _apart(result, problem, starts, index)
    try:
        verdict = execute(_verdicts, small, solver, jnp.concatenate([ends, held], axis=1), 0, plan)
    except (TypeError, ValueError, NotImplementedError):
        # Residuals with a derivative rule of their own may have no second derivative.
        return result
    verdict = np.asarray(verdict)[: index.size]
    if not verdict.any():
        return result
    status[index] = np.where(verdict > 0, verdict, status[index])
    success = np.array(result.success)
    success[index] |= verdict > 0
    return dataclasses.replace(result, status=jnp.asarray(status), success=jnp.asarray(success))


def _verdicts(problem: LeastSquares, solver: Solver, points: Starts, max_steps: Any, first: Any, *, count: int, plan: Plan | None) -> Any:
    """Codes of `Status`, 0 where nothing is proven; of each row of ``points`` the first half is the end and the other the start."""
    del max_steps, plan
    problem = lanes_last(problem, first, count)
    ends, starts = jnp.split(jax.lax.dynamic_slice_in_dim(points, first, count).T, 2)
    ends = ends if problem.units is None else ends / problem.units
    model, _, gradient = LinearModel.about(problem, ends)
    is_zero = _is_zero(problem, model, starts, solver)
    is_minimum = _is_minimum(problem, model, ends, gradient, solver)
    code = jnp.where(is_minimum, Status.CONVERGED_STEP, jnp.where(is_zero, Status.CONVERGED_GRADIENT, Status.RUNNING))
    return code.astype(jnp.int32)


def _is_zero(problem: LeastSquares, model: LinearModel, starts: LaneVector, solver: Any) -> LaneBool:
    epsilon = machine_epsilon(starts.dtype)
    if epsilon > 1e-10:
        return jnp.zeros(starts.shape[-1], bool)
    at_start = jnp.sqrt(2 * problem.cost(problem.residuals(starts)))
    is_fallen = model.residual_norm * model.residual_scale <= epsilon * at_start
    is_below = model.residual_norm <= epsilon**0.5 * (model.noise / epsilon)
    is_free = jnp.ones(starts.shape, bool) if model.free is None else model.free
    is_right = (jnp.abs(model.slopes) <= solver.gtol * model.residual_norm + 2 * model.noise) | ~is_free
    return is_fallen & is_below & jnp.all(is_right, axis=0)


def _is_minimum(problem: LeastSquares, model: LinearModel, x: LaneVector, gradient: LaneVector, solver: Any) -> LaneBool:
    epsilon = machine_epsilon(x.dtype)
    n = x.shape[0]
    is_free = jnp.ones(x.shape, bool) if model.free is None else model.free
    identity = jnp.eye(n, dtype=x.dtype)[..., None]
    hessian = jnp.where(is_free[:, None] & is_free[None], problem.hessian_by_jacobian(x), identity)
    diagonal = jnp.sum(hessian * identity, axis=1)
    # Guarded before it is factored: a lane may hold anything.
    is_usable = jnp.all(jnp.isfinite(hessian), axis=(0, 1)) & jnp.all(diagonal > 0, axis=0)
    size = jnp.sqrt(jnp.where(is_usable, diagonal, 1))
    values, vectors = smallest_eigenpairs(jnp.where(is_usable, hessian, identity) / size[:, None] / size[None])
    is_definite = is_usable & (values[0] > n * epsilon**0.5)
    values = jnp.where(is_definite, values, 1)
    inverse = jnp.sum(vectors[:, None] * vectors[None] / values, axis=2) / size[:, None] / size[None]
    newton = jnp.sum(inverse * jnp.where(is_free, gradient, 0)[None], axis=1)
    # What rounding of the residuals does to each slope of the cost.
    slopes = model.column_norms * (model.noise * model.residual_scale)
    doubt = jnp.sqrt(jnp.sum((inverse * slopes[None]) ** 2, axis=1))
    typical = jnp.maximum(jnp.abs(x), epsilon**-0.75 * model.noise * model.units)
    is_near = jnp.abs(newton) <= jnp.maximum(solver.xtol * typical, 2 * doubt)
    is_settled = 5 * doubt <= epsilon ** (3 / 7) * typical
    return is_definite & jnp.all((is_near & is_settled) | ~is_free, axis=0)
