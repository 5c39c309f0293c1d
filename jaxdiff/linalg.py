"""Linear algebra over a block of lanes: leading axes are contracted, lanes stay last.

So the text of a solver reads like the book, while every scalar of it is a vector instruction over lanes. Small systems are unrolled
at trace time into elementwise operations; beyond ``UNROLL_LIMIT`` unknowns the vendor's routine is called, lane by lane.
"""

import functools

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon
from jaxdiff._types import LaneBool, LaneFloat, LaneMatrix, LaneVector, PyTree

UNROLL_LIMIT = 12
"""Unknowns up to which factorizations are unrolled; above, the program grows as n^3 and so does its compile time."""


def dot(a: LaneVector, b: LaneVector) -> LaneFloat:
    """Inner product in every lane.

    Example:
        >>> dot(jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [4.0]])).tolist()
        [11.0]
    """
    return jnp.sum(a * b, axis=0)


def max_norm(a: LaneVector) -> LaneFloat:
    """Largest absolute entry in every lane; NaN where an entry is NaN.

    Example:
        >>> max_norm(jnp.array([[1.0], [-2.0]])).tolist()
        [2.0]
    """
    return jnp.max(jnp.abs(a), axis=0)


def matvec(matrix: LaneMatrix, vector: LaneVector) -> LaneVector:
    """Matrix times vector in every lane.

    Example:
        >>> matvec(jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]]), jnp.array([[1.0], [1.0]]))[:, 0].tolist()
        [3.0, 7.0]
    """
    return jnp.sum(matrix * vector[None], axis=1)


def is_all_finite(*arrays: jax.Array) -> LaneBool:
    """Whether every entry of every array is finite, lane by lane."""
    return functools.reduce(jnp.logical_and, [jnp.all(jnp.isfinite(a), axis=tuple(range(a.ndim - 1))) for a in arrays])


def select_lanes(keep: LaneBool, new: PyTree, old: PyTree) -> PyTree:
    """``new`` in the lanes where ``keep`` holds, ``old`` in the others; lanes are the last axis of every leaf.

    A selection, never a product with a mask: what is not selected may be NaN.

    Example:
        >>> select_lanes(jnp.array([True, False]), jnp.array([[1.0, 1.0]]), jnp.array([[0.0, 0.0]])).tolist()
        [[1.0, 0.0]]
    """
    return jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, old)


def solve(matrix: LaneMatrix, rhs: LaneVector) -> LaneVector:
    """Solution of a general square system in every lane, by the vendor's LU.

    Example:
        >>> solve(jnp.array([[[2.0]]]), jnp.array([[4.0]])).tolist()
        [[2.0]]
    """
    wide = _vendor_dtype(matrix.dtype)
    return jnp.linalg.solve(jnp.moveaxis(matrix, -1, 0).astype(wide), rhs.T[..., None].astype(wide))[..., 0].T.astype(rhs.dtype)


def solve_modified(matrix: LaneMatrix, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    """Solve a symmetric system made positive definite where it is not, so that the solution is a descent direction.

    The matrix is first scaled to a diagonal of +-1, so that the units of the parameters do not matter. A definite matrix is left as it is.

    Args:
        matrix: symmetric, shape ``[n, n, lanes]``.
        rhs: right-hand side, shape ``[n, lanes]``.

    Returns:
        The solution, shape ``[n, lanes]``, and whether the matrix was safely positive definite, shape ``[lanes]``.

    References:
        Gill, Murray and Wright, Practical Optimization (1981), section 4.4.2.2, without interchanges, for up to ``UNROLL_LIMIT`` unknowns.
        Nocedal and Wright, Numerical Optimization (2006), section 3.4, eigenvalue modification, above.

    Example:
        >>> x, is_definite = solve_modified(jnp.array([[[-2.0]]]), jnp.array([[4.0]]))
        >>> bool(x[0, 0] > 0), bool(is_definite[0])
        (True, False)
    """
    n = matrix.shape[0]
    scale = _jacobi_scale(matrix)
    scaled = matrix * scale[:, None] * scale[None, :]
    solver = _solve_modified_unrolled if n <= UNROLL_LIMIT else _solve_modified_vendor
    solution, is_definite = solver(scaled, rhs * scale)
    return solution * scale, is_definite


def smallest_eigenpairs(matrix: LaneMatrix) -> tuple[LaneVector, LaneMatrix]:
    """Eigenvalues in ascending order, ``[n, lanes]``, and eigenvectors in the columns of ``[n, n, lanes]``, of the symmetric matrix.

    Example:
        >>> smallest_eigenpairs(jnp.array([[[2.0], [0.0]], [[0.0], [-1.0]]]))[0][:, 0].tolist()
        [-1.0, 2.0]
    """
    values, vectors = jnp.linalg.eigh(jnp.moveaxis(matrix, -1, 0).astype(_vendor_dtype(matrix.dtype)))
    return values.T.astype(matrix.dtype), jnp.moveaxis(vectors, 0, -1).astype(matrix.dtype)


def _vendor_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype that the vendor's routines take: half precision is factored in float32."""
    return jnp.promote_types(dtype, jnp.float32)


def _jacobi_scale(matrix: LaneMatrix) -> LaneVector:
    """1 / sqrt|diagonal|, however far the diagonal spreads; a zero in it is scaled like the largest entry."""
    # Roots first: the diagonal of a badly scaled problem may span the whole range of the dtype, its root spans only half of it.
    root = jnp.sqrt(jnp.abs(jnp.einsum("iil->il", matrix)))
    largest = jnp.max(root, axis=0)
    return 1 / jnp.where(root > 0, root, jnp.where(largest > 0, largest, 1))


def _definite_threshold(n: int, dtype: jnp.dtype) -> float:
    """A pivot or eigenvalue of the scaled matrix below this cannot be told from rounding (our own factor of ten)."""
    return 10 * n * machine_epsilon(dtype)


def _solve_modified_unrolled(matrix: LaneMatrix, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    """LDL' whose pivots are raised as far as keeps L bounded; a nested list of lane vectors, so that each operation is elementwise."""
    n = matrix.shape[0]
    threshold = _definite_threshold(n, matrix.dtype)
    floor = machine_epsilon(matrix.dtype) ** 0.5
    off_diagonal = jnp.abs(matrix - matrix * jnp.eye(n, dtype=matrix.dtype)[..., None])
    xi = jnp.max(off_diagonal, axis=(0, 1)) / max((n * n - 1) ** 0.5, 1.0)
    largest = jnp.max(jnp.abs(jnp.einsum("iil->il", matrix)), axis=0)
    beta_squared = jnp.maximum(jnp.maximum(largest, xi), machine_epsilon(matrix.dtype))
    is_definite = jnp.ones(matrix.shape[-1], bool)
    # c[i][j] = L[i][j] * D[j], the products the recurrences share.
    c: list[list[jax.Array]] = [[matrix[i, j] for j in range(n)] for i in range(n)]
    lower: list[list[jax.Array]] = [[matrix[0, 0]] * n for _ in range(n)]  # filled below the diagonal, row by row
    pivots: list[jax.Array] = []
    for j in range(n):
        for k in range(j):
            lower[j][k] = c[j][k] / pivots[k]
        for i in range(j, n):
            for k in range(j):
                c[i][j] = c[i][j] - lower[j][k] * c[i][k]
        pivot = c[j][j]
        is_safe = pivot > threshold
        is_definite = is_definite & is_safe
        theta = functools.reduce(jnp.maximum, [jnp.abs(c[i][j]) for i in range(j + 1, n)], jnp.zeros_like(pivot))
        raised = jnp.maximum(jnp.maximum(jnp.abs(pivot), theta * theta / beta_squared), floor)
        pivots.append(jnp.where(is_definite, pivot, raised))
    z: list[jax.Array] = []
    for i in range(n):
        z.append(functools.reduce(lambda total, k, i=i: total - lower[i][k] * z[k], range(i), rhs[i]))
    x = [z[i] / pivots[i] for i in range(n)]
    for i in reversed(range(n)):
        for k in range(i + 1, n):
            x[i] = x[i] - (c[k][i] / pivots[i]) * x[k]
    return jnp.stack(x), is_definite


def _solve_modified_vendor(matrix: LaneMatrix, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    """Cholesky where it exists in every lane, else the eigenvalues' absolute values with a floor."""
    n = matrix.shape[0]
    threshold = _definite_threshold(n, matrix.dtype)
    lane_first = jnp.moveaxis(matrix, -1, 0).astype(_vendor_dtype(matrix.dtype))
    # A NaN would make eigh iterate in vain; the lane is not definite either way.
    is_finite = is_all_finite(matrix)
    lane_first = jnp.where(is_finite[:, None, None], lane_first, jnp.eye(n, dtype=lane_first.dtype))
    shifted = lane_first - threshold * jnp.eye(n, dtype=lane_first.dtype)
    is_definite = jnp.all(jnp.isfinite(jnp.linalg.cholesky(shifted)), axis=(1, 2))

    def by_cholesky() -> jax.Array:
        factor = jnp.linalg.cholesky(lane_first)
        return jax.vmap(lambda low, b: jax.scipy.linalg.cho_solve((low, True), b))(factor, rhs.T.astype(factor.dtype)).T

    def by_eigenvalues() -> jax.Array:
        values, vectors = jnp.linalg.eigh(lane_first)
        floor = machine_epsilon(matrix.dtype) ** 0.5
        values = jnp.where(values > threshold, values, jnp.maximum(jnp.abs(values), floor))
        return jnp.einsum("lij,lj,lkj,kl->il", vectors, 1 / values, vectors, rhs.astype(values.dtype))

    solution = jax.lax.cond(jnp.all(is_definite), by_cholesky, by_eigenvalues)
    return solution.astype(rhs.dtype), is_definite & is_finite
