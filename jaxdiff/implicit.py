"""The derivative of a root with respect to its data, by the implicit function theorem."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._types import LaneBool, LaneInt, LaneMatrix, LaneVector
from jaxdiff.elimination import solve_square
from jaxdiff.result import is_success
from jaxdiff.root_problem import Root


@jax.custom_jvp
def attach_root_derivative(problem: Root, x: LaneVector, residuals: LaneVector, status: LaneInt) -> tuple[LaneVector, LaneVector]:
    """The root and F there, unchanged, with their derivative with respect to the problem's data.

    At a root F(x, args) = 0, so dx = -J^{-1} (dF/dargs) dargs, and F does not change. A lane without success, or with a singular Jacobian,
    has no such derivative: it gets NaN wherever a nonzero tangent or cotangent meets it, and zero where none does, so that masking such
    lanes out of a loss leaves the others' derivatives intact.

    Args:
        problem: with the data to differentiate with respect to.
        x: roots, ``[n, lanes]``.
        residuals: F there, ``[n, lanes]``.
        status: how each lane ended.

    Returns:
        ``x`` and ``residuals``.

    References:
        Blondel et al., Efficient and modular implicit differentiation (2022), section 2.1.
    """
    del problem, status
    return x, residuals


@attach_root_derivative.defjvp
def _attach_root_derivative_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    problem, x, residuals, status = primals
    # Through the function itself, so that a second derivative sees how x depends on the data.
    x, residuals = attach_root_derivative(problem, x, residuals, status)
    _, residuals_dot = jax.jvp(lambda p: p.evaluate(x), (problem,), (tangents[0],))
    _, jacobian = problem.system(x)
    x_dot = -_solve_where(is_success(status), jacobian, residuals_dot)
    # Zero, and NaN where x_dot is.
    return (x, residuals), (x_dot, 0 * x_dot)


def _solve_where(is_solved: LaneBool, jacobian: LaneMatrix, rhs: LaneVector) -> LaneVector:
    """J^{-1} rhs where the lane is solved and J regular; elsewhere NaN for a nonzero right-hand side and 0 for a zero one."""
    # Guarded before it is solved: a lane that failed may hold anything.
    identity = jnp.eye(jacobian.shape[0], dtype=jacobian.dtype)[..., None]
    guarded = jnp.where(is_solved, jacobian, identity)

    def solve(matrix: LaneMatrix, rhs: LaneVector) -> LaneVector:
        solution, is_singular = solve_square(matrix, rhs)
        is_asked_for = jnp.any(rhs != 0, axis=0)
        return jnp.where(is_solved & ~is_singular, solution, jnp.where(is_asked_for, jnp.nan, 0))

    return jax.lax.custom_linear_solve(
        lambda v: jnp.sum(guarded * v[None], axis=1),
        rhs,
        solve=lambda _, rhs: solve(guarded, rhs),
        transpose_solve=lambda _, rhs: solve(jnp.swapaxes(guarded, 0, 1), rhs),
    )
