"""The derivative of a root with respect to its data, by the implicit function theorem; and what all such derivatives do about failures."""

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxdiff._types import LaneBool, LaneInt, LaneMatrix, LaneVector
from jaxdiff.elimination import solve_square
from jaxdiff.problem import Minimize
from jaxdiff.result import is_success
from jaxdiff.root_problem import Root

P = TypeVar("P", bound=Minimize)


def without_failures(problem: P, x: LaneVector, is_solved: LaneBool) -> tuple[P, LaneVector]:
    """The problem and the solutions with data and point of a solved lane in the place of those without success.

    On the way back zero times a NaN would be a NaN: a failed lane, even one that a loss leaves out, would spoil the derivative of what it
    shares with others. What is put in its place has no derivative, and the lane's own data are flagged: their derivative is NaN where
    a nonzero tangent or cotangent meets them and zero where none does. Where no lane is solved nothing can be put in.
    """
    donor = jnp.where(is_solved, jnp.arange(is_solved.shape[0]), jnp.argmax(is_solved))

    def replaced(leaf: Any, batched: bool) -> Any:
        if not batched or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            return jnp.take(leaf, donor, axis=-1) if batched else leaf
        return _replaced_where(is_solved, leaf, jnp.take(leaf, donor, axis=-1))

    leaves, structure = jax.tree.flatten(problem.args)
    args = structure.unflatten([replaced(leaf, batched) for leaf, batched in zip(leaves, problem.is_batched, strict=True)])
    x = jnp.where(is_solved, x, jax.lax.stop_gradient(jnp.take(x, donor, axis=-1)))
    return dataclasses.replace(problem, args=args), x


@jax.custom_jvp
def _replaced_where(is_solved: LaneBool, leaf: jax.Array, substitute: jax.Array) -> jax.Array:
    """The leaf, lanes last, and the substitute in lanes that are not solved; their derivatives become NaN where they are not zero."""
    return jnp.where(is_solved, leaf, substitute)


@_replaced_where.defjvp
def _replaced_where_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    is_solved = primals[0]

    def keep_or_flag(_: Any, tangent: jax.Array) -> jax.Array:
        is_asked_for = jnp.any((tangent != 0).reshape(-1, tangent.shape[-1]), axis=0)
        return jnp.where(is_solved, tangent, jnp.where(is_asked_for, jnp.nan, 0).astype(tangent.dtype))

    flagged = jax.lax.custom_linear_solve(lambda v: v, tangents[1], solve=keep_or_flag, transpose_solve=keep_or_flag, symmetric=True)
    return _replaced_where(*primals), flagged


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
    is_solved = is_success(status)
    (problem, safe_x), (problem_dot, _) = jax.jvp(lambda p: without_failures(p, x, is_solved), (problem,), (tangents[0],))
    _, residuals_dot = jax.jvp(lambda p: p.evaluate(safe_x), (problem,), (problem_dot,))
    _, jacobian = problem.system(safe_x)
    x_dot = -_solve_where(is_solved, jacobian, residuals_dot)
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
