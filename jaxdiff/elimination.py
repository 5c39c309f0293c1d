"""General square systems over a block of lanes: Gaussian elimination with partial pivoting, every lane with interchanges of its own."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon
from jaxdiff._types import LaneBool, LaneMatrix, LaneVector

UNROLL_LIMIT = 3
"""Unknowns up to which columns are unrolled at trace time."""

LOOP_LIMIT = 16
"""Unknowns up to which elimination loops over columns, vectorised over lanes; above, the vendor's LU is called lane by lane."""


def solve_square(matrix: LaneMatrix, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    """Solution of ``A x = b`` in every lane, and whether A is singular to rounding.

    Columns, then rows, are scaled to a largest entry of one, so that units matter neither to the pivots nor to the verdict. A pivot that
    cannot be told from rounding is replaced by rounding, so that the solution is finite, and long.

    Args:
        matrix: ``[n, n, lanes]``.
        rhs: ``[n, lanes]``.

    Returns:
        The solution, ``[n, lanes]``, and the verdict, ``[lanes]``. Where an entry is not finite the solution is not either.

    References:
        Golub and Van Loan, Matrix Computations (2013), algorithm 3.4.1.

    Example:
        >>> x, is_singular = solve_square(jnp.array([[[0.0], [2.0]], [[1.0], [1.0]]]), jnp.array([[4.0], [3.0]]))
        >>> x[:, 0].tolist(), bool(is_singular[0])
        ([1.0, 2.0], False)
    """
    n = matrix.shape[0]
    if n == 1:
        return _solve_one(matrix[0], rhs)
    columns = _guarded(jnp.max(jnp.abs(matrix), axis=0))
    scaled = matrix / columns[None]
    rows = _guarded(jnp.max(jnp.abs(scaled), axis=1))
    scaled, right = scaled / rows[:, None], rhs / rows
    attempt = _solve_eliminated if n <= LOOP_LIMIT else _solve_vendor
    solution, is_singular = attempt(scaled, right)
    return solution / columns, is_singular


def _solve_one(entry: LaneVector, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    is_zero = entry == 0
    return rhs / jnp.where(is_zero, machine_epsilon(entry.dtype), entry), is_zero[0]


def _guarded(size: jax.Array) -> jax.Array:
    return jnp.where(size > 0, size, 1)


def _threshold(n: int, dtype: jnp.dtype) -> float:
    return n * machine_epsilon(dtype)


def _solve_eliminated(matrix: LaneMatrix, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    n, lanes = rhs.shape
    threshold = _threshold(n, matrix.dtype)
    index = jnp.arange(n)[:, None]
    table = jnp.concatenate([matrix, rhs[:, None]], axis=1)

    def eliminate(j: Any, carry: tuple[jax.Array, LaneBool]) -> tuple[jax.Array, LaneBool]:
        table, is_singular = carry
        column = jnp.where(index >= j, jnp.abs(table[:, j]), -1)
        is_pivot = (index == jnp.argmax(column, axis=0)[None])[:, None]
        pivot_row, row = jnp.sum(jnp.where(is_pivot, table, 0), axis=0), table[j]
        table = jnp.where(is_pivot, row[None], table)
        pivot = pivot_row[j]
        # Written so that a NaN counts as singular.
        is_small = ~(jnp.abs(pivot) > threshold)
        pivot_row = pivot_row.at[j].set(jnp.where(is_small & ~jnp.isnan(pivot), threshold, pivot))
        table = table.at[j].set(pivot_row)
        multipliers = jnp.where(index > j, table[:, j], 0) / pivot_row[j]
        return table - multipliers[:, None] * pivot_row[None], is_singular | is_small

    def substitute(i: Any, x: LaneVector) -> LaneVector:
        j = n - 1 - i
        row = table[j]
        rest = jnp.sum(jnp.where(index > j, row[:n] * x, 0), axis=0)
        return x.at[j].set((row[n] - rest) / row[j])

    carry, x = (table, jnp.zeros(lanes, bool)), jnp.zeros_like(rhs)
    if n <= UNROLL_LIMIT:
        for j in range(n):
            carry = eliminate(j, carry)
        table, is_singular = carry
        for i in range(n):
            x = substitute(i, x)
        return x, is_singular
    table, is_singular = jax.lax.fori_loop(0, n, eliminate, carry)
    return jax.lax.fori_loop(0, n, substitute, x), is_singular


def _solve_vendor(matrix: LaneMatrix, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    n = matrix.shape[0]
    wide = jnp.promote_types(matrix.dtype, jnp.float32)
    factor, _, order = jax.lax.linalg.lu(jnp.moveaxis(matrix, -1, 0).astype(wide))
    pivots = jnp.einsum("lii->li", factor)
    threshold = _threshold(n, matrix.dtype)
    is_small = ~(jnp.abs(pivots) > threshold)
    diagonal = jnp.where(is_small & ~jnp.isnan(pivots), threshold, pivots)
    factor = jnp.where(jnp.eye(n, dtype=bool), diagonal[:, :, None], factor)
    right = jnp.take_along_axis(rhs.T.astype(wide), order, axis=1)[..., None]
    lower = jax.lax.linalg.triangular_solve(factor, right, left_side=True, lower=True, unit_diagonal=True)
    solution = jax.lax.linalg.triangular_solve(factor, lower, left_side=True, lower=False)
    return solution[..., 0].T.astype(rhs.dtype), jnp.any(is_small, axis=1)
