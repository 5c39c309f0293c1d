"""A way out of the minima of |r| that are no zeros, for as many residuals as parameters.

Where J is square and r is not zero at a stationary point, J'r = 0 says that J is singular: descent ends there, and a solution may lie
elsewhere. The undamped Newton steps of `NewtonRoot` from the start pass such points. What they find is fitted once more and taken where it
is lower by far, so that the status is that of least squares.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon
from jaxdiff._types import Starts
from jaxdiff.batch.execute import execute, lanes_last, solve_part
from jaxdiff.batch.options import BatchOptions, Plan
from jaxdiff.batch.rescue import merged, taken
from jaxdiff.fit_result import FitResult
from jaxdiff.problem import LeastSquares
from jaxdiff.result import RESCUES, Status, is_success
from jaxdiff.root_problem import Root
from jaxdiff.solvers import NewtonRoot
from jaxdiff.solvers.base import Solver

_STEPS = 256


def escaped(result: FitResult, problem: LeastSquares, starts: Starts, again: Callable[[Any, jax.Array], FitResult]) -> FitResult:
    """The result, with what Newton's method for equations leads to in place of minima of |r| that are no zeros.

    Args:
        result: problems in the first axis; concrete.
        problem: its batched data have the problems in their first axis.
        starts: ``[num_problems, n]``.
        again: fits a small batch of the same form.
    """
    index, status = left_open(result, problem), np.asarray(result.status)
    if index.size == 0:
        return result
    small, held = taken(problem, starts, index)
    names = ("fun", "args", "is_batched", "packing", "derivatives", "has_aux", "is_scaled", "tolerances")
    kept = {name: getattr(small, name) for name in names}
    equations = Root(**kept)
    epsilon = machine_epsilon(held.dtype)
    solver: Any = NewtonRoot(xtol=np.asarray(epsilon**0.75, held.dtype), ftol=np.asarray(0.0, held.dtype))
    plan = BatchOptions(mode="lockstep").plan(equations, index.size, False, may_reassociate=False)
    x, has_root, num_steps, num_evaluations = execute(_roots, equations, solver, held, _STEPS, plan)
    has_root = np.asarray(has_root)
    if not has_root.any():
        return result
    other = again(small, jnp.where(has_root[:, None], x, held))
    other = dataclasses.replace(other, nit=other.nit + num_steps, nfev=other.nfev + num_evaluations)
    is_better = has_root & np.asarray(other.success) & (np.asarray(other.fun) < 0.25 * np.asarray(result.fun)[index])
    if not is_better.any():
        return result
    codes = np.zeros(status.shape, np.int32) if result.rescued_by is None else np.array(result.rescued_by)
    codes[index[is_better]] = RESCUES.index("another solver")
    return dataclasses.replace(merged(result, other, index, is_better), rescued=jnp.asarray(codes > 0), rescued_by=jnp.asarray(codes))


def left_open(result: FitResult, problem: LeastSquares) -> np.ndarray:
    """Which of many fits, or whether the only one (then ``[0]``), may have a zero of the residuals elsewhere."""
    if result.residuals.shape[-1] != problem.packing.size or problem.is_bounded or problem.loss != "linear":
        return np.zeros(0, np.int64)
    # How large is large has no unit: it only decides whether to look.
    is_open = np.abs(np.asarray(result.residuals)).max(axis=-1) > machine_epsilon(problem.packing.dtype) ** 0.5
    # A run that was not let to its end is not at a minimum, and has no steps left.
    unfinished = (Status.INVALID_DATA, Status.NON_FINITE_START, Status.MAX_STEPS, Status.MAX_EVALS)
    return np.flatnonzero(is_open & ~np.isin(np.asarray(result.status), unfinished))


def _roots(problem: Root, solver: Solver, starts: Starts, max_steps: Any, first: Any, *, count: int, plan: Plan) -> Any:
    outcome, _ = solve_part(problem, solver, starts, max_steps, first, count, plan, 0)
    # Rests near a root count as one: what is found is fitted again.
    at = lanes_last(problem, first, count).evaluate(outcome.x)
    is_close = jnp.max(jnp.abs(at), axis=0) <= machine_epsilon(outcome.x.dtype) ** 0.5
    return outcome.x.T, is_success(outcome.status) | is_close, outcome.num_steps, outcome.num_evaluations
