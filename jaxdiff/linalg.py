"""Linear algebra over a block of lanes: leading axes are contracted, lanes stay last.

So the text of a solver reads like the book, while every scalar of it is a vector instruction over lanes. Small systems are unrolled at
trace time into elementwise operations, middling ones loop over columns, large ones go to the vendor's routine, lane by lane.
"""

import functools

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon
from jaxdiff._types import LaneBool, LaneFloat, LaneMatrix, LaneVector, PyTree

UNROLL_LIMIT = 5
"""Unknowns up to which factorizations are unrolled into elementwise operations.

Above, XLA's CPU compiler fuses each entry into all that use it: at ten unknowns the unrolled form took 3 s to compile, and 1,300 ns per
lane.
"""

LOOP_LIMIT = 12
"""Unknowns up to which factorizations loop over columns, vectorised over lanes; above, the vendor's routine is called lane by lane."""


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
    """Solve a symmetric system, with a multiple of its scaled diagonal added where it is not positive definite.

    The matrix is first scaled to a diagonal of +-1, so that the units of the parameters do not matter. A definite matrix is left as it is;
    otherwise the solution is that of a definite one nearby, and so a direction of descent where ``rhs`` is the negative gradient.

    Raising single pivots instead (Gill, Murray and Wright, 1981) needs interchanges, which differ from lane to lane; without them the
    direction was seen to reach 1e34 on a Hessian of ten unknowns with one negative eigenvalue.

    Args:
        matrix: symmetric, shape ``[n, n, lanes]``.
        rhs: right-hand side, shape ``[n, lanes]``.

    Returns:
        The solution, shape ``[n, lanes]``, and whether the matrix was safely positive definite, shape ``[lanes]``.

    References:
        Nocedal and Wright, Numerical Optimization (2006), algorithm 3.3; the sequence of shifts is our own.

    Example:
        >>> x, is_definite = solve_modified(jnp.array([[[-2.0]]]), jnp.array([[4.0]]))
        >>> bool(x[0, 0] > 0), bool(is_definite[0])
        (True, False)
    """
    n = matrix.shape[0]
    scale = _jacobi_scale(matrix)
    scaled = matrix * scale[:, None] * scale[None, :]
    scaled_rhs = rhs * scale
    attempt = _solve_definite_unrolled if n <= UNROLL_LIMIT else _solve_definite_looped if n <= LOOP_LIMIT else _solve_definite_vendor
    # No eigenvalue lies below minus the largest row sum: five shifts, each eight times the last, lead from a thousandth of it past it.
    row_sum = jnp.max(jnp.sum(jnp.abs(scaled), axis=1), axis=0)
    is_usable = is_all_finite(scaled, scaled_rhs)

    def is_pending(carry: tuple[jax.Array, LaneVector, LaneBool, LaneBool]) -> jax.Array:
        trials, _, is_solved, _ = carry
        return (trials == 0) | ((trials < 6) & jnp.any(~is_solved & is_usable))

    def shift_more(carry: tuple[jax.Array, LaneVector, LaneBool, LaneBool]) -> tuple[jax.Array, LaneVector, LaneBool, LaneBool]:
        trials, solution, is_solved, was_definite = carry
        shift = 1e-3 * row_sum * jnp.asarray(8.0, scaled.dtype) ** (trials - 1)
        shift = jnp.where(trials == 0, 0, jnp.where(row_sum > 0, shift, 1)).astype(scaled.dtype)
        trial, is_definite = attempt(scaled + shift * jnp.eye(n, dtype=scaled.dtype)[..., None], scaled_rhs)
        was_definite = jnp.where(trials == 0, is_definite, was_definite)
        return trials + 1, jnp.where(is_solved, solution, trial), is_solved | is_definite, was_definite

    nowhere = jnp.zeros(rhs.shape[-1], bool)
    # A loop from the very first attempt, so that the factorization is compiled once.
    _, solution, _, was_definite = jax.lax.while_loop(
        is_pending, shift_more, (jnp.zeros((), jnp.int32), jnp.zeros_like(rhs), nowhere, nowhere)
    )
    return solution * scale, was_definite


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


def _solve_definite_unrolled(matrix: LaneMatrix, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    """LDL' and its substitutions on nested lists of lane vectors, so that each operation is elementwise."""
    n = matrix.shape[0]
    threshold = _definite_threshold(n, matrix.dtype)
    is_definite = jnp.ones(matrix.shape[-1], bool)
    # c[i][j] = L[i][j] * D[j], the products that the recurrences share.
    c = [[matrix[i, j] for j in range(n)] for i in range(n)]
    pivots: list[jax.Array] = []
    for j in range(n):
        for k in range(j):
            multiplier = c[j][k] / pivots[k]
            for i in range(j, n):
                c[i][j] = c[i][j] - multiplier * c[i][k]
        is_safe = c[j][j] > threshold
        is_definite = is_definite & is_safe
        pivots.append(jnp.where(is_safe, c[j][j], 1))
    z: list[jax.Array] = []
    for i in range(n):
        z.append(functools.reduce(lambda total, k, i=i: total - (c[i][k] / pivots[k]) * z[k], range(i), rhs[i]))
    x = [z[i] / pivots[i] for i in range(n)]
    for i in reversed(range(n)):
        for k in range(i + 1, n):
            x[i] = x[i] - (c[k][i] / pivots[i]) * x[k]
    return jnp.stack(x), is_definite


def _solve_definite_looped(matrix: LaneMatrix, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    """Symmetric elimination column by column, the whole block of lanes at once; rows above the pivot are masked rather than skipped."""
    n = matrix.shape[0]
    threshold = _definite_threshold(n, matrix.dtype)
    rows = jnp.arange(n)[:, None]

    def eliminate(j: jax.Array, carry: tuple[LaneMatrix, LaneVector, LaneBool]) -> tuple[LaneMatrix, LaneVector, LaneBool]:
        matrix, rhs, is_definite = carry
        row = matrix[j]
        is_safe = row[j] > threshold
        multipliers = jnp.where(rows > j, row / jnp.where(is_safe, row[j], 1), 0)
        return matrix - multipliers[:, None] * row[None], rhs - multipliers * rhs[j], is_definite & is_safe

    upper, z, is_definite = jax.lax.fori_loop(0, n, eliminate, (matrix, rhs, jnp.ones(rhs.shape[-1], bool)))

    def substitute(i: jax.Array, x: LaneVector) -> LaneVector:
        j = n - 1 - i
        row = upper[j]
        rest = jnp.sum(jnp.where(rows > j, row, 0) * x, axis=0)
        return x.at[j].set((z[j] - rest) / jnp.where(is_definite, row[j], 1))

    return jax.lax.fori_loop(0, n, substitute, jnp.zeros_like(rhs)), is_definite


def _solve_definite_vendor(matrix: LaneMatrix, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    """Cholesky by the vendor's routine, lane by lane."""
    n = matrix.shape[0]
    wide = _vendor_dtype(matrix.dtype)
    identity = jnp.eye(n, dtype=wide)
    lane_first = jnp.moveaxis(matrix, -1, 0).astype(wide)
    factor = jnp.linalg.cholesky(lane_first - _definite_threshold(n, matrix.dtype) * identity)
    is_definite = jnp.all(jnp.isfinite(factor), axis=(1, 2))
    factor = jnp.where(is_definite[:, None, None], jnp.linalg.cholesky(lane_first), identity)
    solution = jax.vmap(lambda low, b: jax.scipy.linalg.cho_solve((low, True), b))(factor, rhs.T.astype(wide))
    return solution.T.astype(rhs.dtype), is_definite
