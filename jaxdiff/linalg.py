"""Linear algebra over a block of lanes: leading axes are contracted, lanes stay last.

So the text of a solver reads like the book, while every scalar of it is a vector instruction over lanes. Small systems are unrolled at
trace time into elementwise operations, middling ones go panel by panel, large ones go to the vendor's routine, lane by lane.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.custom_batching
import jax.extend.core
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon
from jaxdiff._types import LaneBool, LaneFloat, LaneMatrix, LaneVector, PyTree

UNROLL_LIMIT = 5
"""Unknowns up to which a factorization is one panel, unrolled into elementwise operations."""

ENTRIES_LIMIT = 8
"""Unknowns up to which a matrix is looked at entry by entry."""

PANEL_LIMIT = 24
"""Unknowns up to which factorizations go panel by panel, vectorised over lanes; above, the vendor's routine is called lane by lane."""

PANEL_WIDTH = 2
"""Columns of a panel. Measured at 10 and 20 unknowns: wider ones took longer, see benchmarks/NOTES.md."""


@jax.custom_jvp
def together(*values: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays themselves, all of one shape, computed by one loop over their entries rather than one loop each.

    XLA's CPU compiler fuses an elementwise operation into each of those that use it, and computes it anew in each: without end, for a
    recurrence such as an elimination. The one thing that it computes once for many outputs is a reduction of several operands. So each
    value is halved, repeated, and added to itself again: exact, and what is repeated is computed once. Of integers and truth values, which
    cannot be halved, the larger of two equal ones is taken.

    Other compilers fuse several outputs by themselves; there this is the identity.

    Example:
        >>> [value.tolist() for value in together(jnp.array([1.0, 3.0]), jnp.array([2.0, 4.0]))]
        [[1.0, 3.0], [2.0, 4.0]]
    """

    def reduced(*values: jax.Array) -> tuple[jax.Array, ...]:
        is_float = [jnp.issubdtype(value.dtype, jnp.floating) for value in values]
        twice = tuple(
            jnp.broadcast_to(value / 2 if halves else value, (2, *value.shape)) for value, halves in zip(values, is_float, strict=True)
        )
        lowest = lambda dtype: False if dtype == jnp.bool_ else jnp.iinfo(dtype).min  # noqa: E731
        starts = tuple(
            jnp.zeros((), v.dtype) if halves else jnp.full((), lowest(v.dtype), v.dtype) for v, halves in zip(values, is_float, strict=True)
        )
        both = lambda x, y, halves: x + y if halves else jnp.maximum(x, y)  # noqa: E731
        combine = lambda a, b: tuple(both(*each) for each in zip(a, b, is_float, strict=True))  # noqa: E731
        return tuple(jax.lax.optimization_barrier(tuple(jax.lax.reduce(twice, starts, combine, (0,)))))

    if len(values) == 1:
        return values
    return jax.lax.platform_dependent(*values, cpu=reduced, default=lambda *values: values)


@together.defjvp
def _together_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    return together(*primals), tuple(tangents)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def sums_together(axes: tuple[int, ...], *values: jax.Array) -> tuple[jax.Array, ...]:
    """Sums of arrays of one shape over some of their axes, in one loop over the entries.

    Example:
        >>> [float(total) for total in sums_together((0,), jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0]))]
        [3.0, 7.0]
    """
    if len(values) == 1:
        return (jnp.sum(values[0], axis=axes),)
    zeros = tuple(jnp.zeros((), value.dtype) for value in values)
    return tuple(jax.lax.reduce(values, zeros, lambda a, b: tuple(s + t for s, t in zip(a, b, strict=True)), axes))


@sums_together.defjvp
def _sums_together_jvp(axes: tuple[int, ...], primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    return sums_together(axes, *primals), tuple(jnp.sum(tangent, axis=axes) for tangent in tangents)


def in_one_loop(function: Callable[..., PyTree], *trees: PyTree, flattens: bool = False) -> PyTree:
    """``function(*trees)`` of arrays of one shape, entry by entry, computed by one loop over the entries; each value is computed once.

    What `together` does for a few values, this does for the whole of an algorithm that is written in numbers: hundreds of operations
    compile to one loop, vectorised over lanes, with no array between them. On CPU ``function`` becomes the computation inside of a
    reduction, which the compiler takes as it is: a reduction over two equal entries, of which it is given one.

    Other compilers fuse by themselves; there this is the function itself.

    Args:
        function: elementwise, of pytrees of numbers; returns a pytree of numbers. It may close over constants, but not over arrays.
        trees: pytrees of arrays of one shape; truth values and integers too.
        flattens: whether a batch of such arrays is one long loop too, where ``jax.vmap`` would make one loop inside of the other. It takes
            longer to trace.

    Example:
        >>> both = in_one_loop(lambda a, b: {"sum": a + b, "less": a < b}, jnp.array([1.0, 3.0]), jnp.array([2.0, 2.0]))
        >>> both["sum"].tolist(), both["less"].tolist()
        ([3.0, 5.0], [True, False])
    """
    leaves, structure = jax.tree.flatten(trees)
    shape = leaves[0].shape
    numbers = structure.unflatten([jax.ShapeDtypeStruct((), leaf.dtype) for leaf in leaves])
    # Traced once: what follows repeats the operations found, which is a good deal faster than to call the function again.
    jaxpr, returned = jax.make_jaxpr(function, return_shape=True)(*numbers)
    outputs, result = jax.tree.flatten(returned)
    used = _used(jaxpr.jaxpr)
    of_numbers = jax.extend.core.jaxpr_as_fun(jaxpr)

    def plain(*leaves: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(jnp.broadcast_to(value, leaves[0].shape) for value in jax.vmap(of_numbers)(*leaves))

    def reduced(*leaves: jax.Array) -> tuple[jax.Array, ...]:
        # Operand and result of a place have one dtype: results take the places of what goes in, as far as these reach.
        given = [leaf for leaf, is_used in zip(leaves, used, strict=True) if is_used]
        dtypes, places = [leaf.dtype for leaf in given], []
        for output in outputs:
            free = (k for k, dtype in enumerate(dtypes) if dtype == output.dtype and k not in places)
            places.append(next(free, len(dtypes)))
            if places[-1] == len(dtypes):
                dtypes.append(output.dtype)
        size = leaves[0].size
        missing = [jnp.zeros(size, dtype) for dtype in dtypes[len(given) :]]
        twice = [jnp.broadcast_to(leaf, (2, size)) for leaf in (*given, *missing, jnp.ones(size, bool))]
        zeros = [jnp.zeros((), operand.dtype) for operand in twice]

        def apply(left: tuple[jax.Array, ...], right: tuple[jax.Array, ...]) -> tuple[Any, ...]:
            # Either may hold what went in, which the last place tells, or the neutral element, or a result; the order is the compiler's.
            chosen = iter([jax.lax.select(right[-1], b, a) for a, b in zip(left[: len(given)], right[: len(given)], strict=True)])
            entries = [next(chosen) if is_used else jnp.zeros((), leaf.dtype) for leaf, is_used in zip(leaves, used, strict=True)]
            results = [jnp.zeros((), operand.dtype) for operand in twice]
            for place, value in zip(places, of_numbers(*entries), strict=True):
                results[place] = value
            return tuple(results)

        # MLIR looks for operands that no used result needs, along every path through the computation: seconds of it, of which a barrier
        # that uses all results takes none.
        reduction = jax.lax.optimization_barrier(jax.lax.reduce(tuple(twice), tuple(zeros), apply, (0,)))
        return tuple(reduction[place] for place in places)

    def flat(*leaves: jax.Array) -> tuple[jax.Array, ...]:
        return jax.lax.platform_dependent(*leaves, cpu=reduced, default=plain)

    run = jax.custom_jvp(_over_flat(flat, shape) if flattens or len(shape) > 1 else flat)
    # Not by way of `custom_vmap`, through which there is no way back.
    of_arrays = functools.reduce(lambda inner, _: jax.vmap(inner), shape, lambda *numbers: tuple(of_numbers(*numbers)))
    run.defjvp(lambda primals, tangents: jax.jvp(of_arrays, primals, tangents))
    return result.unflatten(run(*leaves))


def _over_flat(function: Callable[..., tuple[jax.Array, ...]], shape: tuple[int, ...]) -> Callable[..., tuple[jax.Array, ...]]:
    """A function of flat arrays as one of arrays of this shape, and of batches of them: one long loop instead of one in the other.

    A loop over 50 samples inside of one over lanes took a third longer.
    """

    @jax.custom_batching.custom_vmap
    def run(*leaves: jax.Array) -> tuple[jax.Array, ...]:
        return tuple(value.reshape(shape) for value in function(*(leaf.reshape(-1) for leaf in leaves)))

    @run.def_vmap
    def _(axis_size: int, in_batched: Sequence[bool], *leaves: jax.Array) -> tuple[tuple[jax.Array, ...], tuple[bool, ...]]:
        whole = (axis_size, *shape)
        spread = [leaf if is_batched else jnp.broadcast_to(leaf, whole) for leaf, is_batched in zip(leaves, in_batched, strict=True)]
        values = _over_flat(function, whole)(*spread)
        return values, (True,) * len(values)

    return run


def _used(jaxpr: Any) -> list[bool]:
    """Which of its arguments a program looks at."""
    read = {atom for equation in jaxpr.eqns for atom in equation.invars if not hasattr(atom, "val")}
    read |= {atom for atom in jaxpr.outvars if not hasattr(atom, "val")}
    return [variable in read for variable in jaxpr.invars]


def dot(a: LaneVector, b: LaneVector) -> LaneFloat:
    """Inner product in every lane.

    Example:
        >>> dot(jnp.array([[1.0], [2.0]]), jnp.array([[3.0], [4.0]])).tolist()
        [11.0]
    """
    return _over_rows(jnp.add, a * b, jnp.sum)


def max_norm(a: LaneVector) -> LaneFloat:
    """Largest absolute entry in every lane; NaN where an entry is NaN.

    Example:
        >>> max_norm(jnp.array([[1.0], [-2.0]])).tolist()
        [2.0]
    """
    return _over_rows(jnp.maximum, jnp.abs(a), jnp.max)


def all_rows(condition: jax.Array) -> LaneBool:
    """Whether a condition holds for every entry, lane by lane.

    Example:
        >>> all_rows(jnp.array([[True, True], [False, True]])).tolist()
        [False, True]
    """
    return _over_rows(jnp.logical_and, condition, jnp.all)


def all_over_rows(*conditions: jax.Array) -> tuple[LaneBool, ...]:
    """Whether each condition holds for every entry, lane by lane: one loop for all of them.

    Example:
        >>> [answer.tolist() for answer in all_over_rows(jnp.array([[True], [False]]), jnp.array([[True], [True]]))]
        [[False], [True]]
    """
    true = jnp.ones((), bool)
    return tuple(jax.lax.reduce(conditions, (true,) * len(conditions), lambda a, b: tuple(x & y for x, y in zip(a, b, strict=True)), (0,)))


def all_entries(condition: Callable[[jax.Array], jax.Array], matrix: LaneMatrix) -> LaneBool:
    """Whether a condition holds for every entry of a symmetric matrix, lane by lane.

    A small matrix is asked entry by entry: of one that was put together from its entries nothing but these is then looked at.

    Example:
        >>> all_entries(jnp.isfinite, jnp.array([[[1.0, jnp.nan]]])).tolist()
        [True, False]
    """
    n = matrix.shape[0]
    if n > ENTRIES_LIMIT:
        return jnp.all(condition(matrix), axis=(0, 1))
    return functools.reduce(jnp.logical_and, [condition(matrix[i, j]) for i in range(n) for j in range(i + 1)])


def _over_rows(combine: Callable[..., jax.Array], rows: jax.Array, reduction: Callable[..., jax.Array]) -> jax.Array:
    """A reduction over the first axis, written out where it is short.

    On CPU a reduction is a loop of its own, or a call into a library, over a strided axis; written out it is vectorised over lanes and
    fused with what makes and what uses it.
    """
    if not 0 < rows.shape[0] <= PANEL_LIMIT:
        return reduction(rows, axis=0)
    return functools.reduce(combine, [rows[i] for i in range(rows.shape[0])])


def matvec(matrix: LaneMatrix, vector: LaneVector) -> LaneVector:
    """Matrix times vector in every lane.

    Example:
        >>> matvec(jnp.array([[[1.0], [2.0]], [[3.0], [4.0]]]), jnp.array([[1.0], [1.0]]))[:, 0].tolist()
        [3.0, 7.0]
    """
    return _over_rows(jnp.add, jnp.swapaxes(matrix, 0, 1) * vector[:, None], jnp.sum)


def is_all_finite(*arrays: jax.Array) -> LaneBool:
    """Whether every entry of every array is finite, lane by lane."""
    by_lane = [jnp.isfinite(a) for a in arrays]
    return functools.reduce(
        jnp.logical_and, [a if a.ndim == 1 else all_rows(a.reshape(math.prod(a.shape[:-1]), a.shape[-1])) for a in by_lane]
    )


def select_lanes(keep: LaneBool, new: PyTree, old: PyTree) -> PyTree:
    """``new`` in the lanes where ``keep`` holds, ``old`` in the others; lanes are the last axis of every leaf.

    A selection, never a product with a mask: what is not selected may be NaN.

    Example:
        >>> select_lanes(jnp.array([True, False]), jnp.array([[1.0, 1.0]]), jnp.array([[0.0, 0.0]])).tolist()
        [[1.0, 0.0]]
    """
    return jax.tree.map(lambda a, b: jnp.where(keep, a, b), new, old)


def select_together(keep: LaneBool, new: PyTree, old: PyTree) -> PyTree:
    """As `select_lanes`, with one loop for all leaves of one shape: a loop of its own for each takes a fiftieth of a second to compile.

    Example:
        >>> select_together(jnp.array([True, False]), jnp.array([[1.0, 1.0]]), jnp.array([[0.0, 0.0]])).tolist()
        [[1.0, 0.0]]
    """
    return all_together(select_lanes(keep, new, old))


def all_together(tree: PyTree) -> PyTree:
    """The tree itself, all of its leaves of one shape computed by one loop; see `together`.

    Example:
        >>> all_together({"a": jnp.ones(2), "b": jnp.array([True, False])})["b"].tolist()
        [True, False]
    """
    leaves, structure = jax.tree.flatten(tree)
    shapes = [leaf.shape for leaf in leaves]
    # In the order of the leaves: another order would make another program of the same.
    for shape in dict.fromkeys(shapes):
        places = [place for place, other in enumerate(shapes) if other == shape]
        for place, leaf in zip(places, together(*(leaves[place] for place in places)), strict=True):
            leaves[place] = leaf
    return structure.unflatten(leaves)


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
    attempt = _attempt_by_entries(matrix, rhs) if matrix.shape[0] <= ENTRIES_LIMIT else _attempt_by_panels(matrix, rhs)

    def is_pending(carry: Any) -> jax.Array:
        trials, _, is_solved, is_usable, _ = carry
        return (trials == 0) | ((trials < 6) & jnp.any(~is_solved & is_usable))

    def shift_more(carry: Any) -> Any:
        trials, solution, is_solved, _, was_definite = carry
        # No eigenvalue lies below minus the largest row sum: five shifts, each eight times the last, lead from a thousandth of it past it.
        # Only where a shift is wanted: on CPU these sums took twice as long as the factorization.
        size = jax.lax.cond(trials == 0, lambda: jnp.zeros(rhs.shape[-1], matrix.dtype), lambda: _largest_row_sum(matrix))
        shift = 1e-3 * size * jnp.asarray(8.0, matrix.dtype) ** (trials - 1)
        shift = jnp.where(trials == 0, 0, jnp.where(size > 0, shift, 1)).astype(matrix.dtype)
        trial, is_definite, is_usable = attempt(shift)
        was_definite = jnp.where(trials == 0, is_definite, was_definite)
        return trials + 1, jnp.where(is_solved, solution, trial), is_solved | is_definite, is_usable, was_definite

    nowhere = jnp.zeros(rhs.shape[-1], bool)
    # A loop from the very first attempt, so that the factorization is compiled once.
    _, solution, _, _, was_definite = jax.lax.while_loop(
        is_pending, shift_more, (jnp.zeros((), jnp.int32), jnp.zeros_like(rhs), nowhere, nowhere, nowhere)
    )
    return solution, was_definite


def _largest_row_sum(matrix: LaneMatrix) -> LaneFloat:
    """Largest sum of absolute entries of a row of the scaled matrix."""
    scale = _jacobi_scale(matrix)
    return max_norm(_over_rows(jnp.add, jnp.abs(matrix * scale[:, None] * scale[None, :]), jnp.sum))


def _attempt_by_panels(matrix: LaneMatrix, rhs: LaneVector) -> Callable[[LaneFloat], tuple[LaneVector, LaneBool, LaneBool]]:
    """With a shift of the scaled diagonal: the solution, whether the matrix was definite, and whether it is a matrix of numbers at all."""
    scale = _jacobi_scale(matrix)
    scaled, scaled_rhs = matrix * scale[:, None] * scale[None, :], rhs * scale
    is_usable = is_all_finite(scaled, scaled_rhs)
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)[..., None]

    def attempt(shift: LaneFloat) -> tuple[LaneVector, LaneBool, LaneBool]:
        solution, is_definite = solve_definite(scaled + shift * identity, scaled_rhs)
        return solution * scale, is_definite, is_usable

    return attempt


def _attempt_by_entries(matrix: LaneMatrix, rhs: LaneVector) -> Callable[[LaneFloat], tuple[LaneVector, LaneBool, LaneBool]]:
    """As `_attempt_by_panels`, all of it in one loop over lanes."""
    n = matrix.shape[0]

    def of_numbers(lower: list[list[jax.Array]], rhs: list[jax.Array], shift: jax.Array) -> tuple[list[jax.Array], jax.Array, jax.Array]:
        scale = _scale_of([lower[i][i] for i in range(n)])
        scaled = [[lower[i][j] * scale[i] * scale[j] for j in range(i + 1)] for i in range(n)]
        right = [entry * factor for entry, factor in zip(rhs, scale, strict=True)]
        # NaN is handed on by the larger of two.
        size = functools.reduce(jnp.maximum, map(jnp.abs, (*right, *(entry for row in scaled for entry in row))))
        for i in range(n):
            scaled[i][i] = scaled[i][i] + shift
        solution, is_definite = solve_definite_by_entries(scaled, right)
        return [entry * factor for entry, factor in zip(solution, scale, strict=True)], is_definite, jnp.isfinite(size)

    def attempt(shift: LaneFloat) -> tuple[LaneVector, LaneBool, LaneBool]:
        lower = [[matrix[i, j] for j in range(i + 1)] for i in range(n)]
        solution, is_definite, is_usable = in_one_loop(of_numbers, lower, list(rhs), shift)
        return jnp.stack(solution), is_definite, is_usable

    return attempt


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
    n = matrix.shape[0]
    if n <= PANEL_LIMIT:
        return jnp.stack(_scale_of([matrix[i, i] for i in range(n)]))
    root = jnp.sqrt(jnp.abs(jnp.einsum("iil->il", matrix)))
    largest = max_norm(root)
    return 1 / jnp.where(root > 0, root, jnp.where(largest > 0, largest, 1))


def _scale_of(diagonal: list[jax.Array]) -> list[jax.Array]:
    """`_jacobi_scale` of a diagonal entry by entry."""
    # Roots first: the diagonal of a badly scaled problem may span the whole range of the dtype, its root spans only half of it.
    roots = [jnp.sqrt(jnp.abs(entry)) for entry in diagonal]
    largest = functools.reduce(jnp.maximum, roots)
    return [1 / jnp.where(root > 0, root, jnp.where(largest > 0, largest, 1)) for root in roots]


def _definite_threshold(n: int, dtype: jnp.dtype) -> float:
    """A pivot or eigenvalue of the scaled matrix below this cannot be told from rounding (our own factor of ten)."""
    return 10 * n * machine_epsilon(dtype)


def solve_definite(matrix: LaneMatrix, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    """Solution of a symmetric positive definite system in every lane, and whether each pivot was safely positive.

    The matrix should be scaled to a diagonal of about one: that is what pivots are held against. Where one fails the solution means
    nothing, but is finite where the input is.

    Args:
        matrix: symmetric, shape ``[n, n, lanes]``; only its lower triangle is read up to `UNROLL_LIMIT` unknowns.
        rhs: right-hand side, shape ``[n, lanes]``.

    References:
        Golub and Van Loan, Matrix Computations (2013), section 4.1.2: LDL'; section 3.2.11 for the order by panels.

    Example:
        >>> x, is_safe = solve_definite(jnp.array([[[1.0], [0.5]], [[0.5], [1.0]]]), jnp.array([[2.0], [2.5]]))
        >>> x[:, 0].round(5).tolist(), bool(is_safe[0])
        ([1.0, 2.0], True)
    """
    n = matrix.shape[0]
    if n > PANEL_LIMIT:
        return _solve_definite_vendor(matrix, rhs)
    if n <= UNROLL_LIMIT:
        return _solve_definite_unrolled(matrix, rhs)
    return _solve_definite_panels(matrix, rhs)


def _eliminate(entries: list[list[jax.Array]], threshold: float) -> "tuple[list[jax.Array], dict[tuple[int, int], jax.Array], jax.Array]":
    """LDL' of a small matrix given as a lower triangle of lane vectors: 1 / D, L below its diagonal, and whether all pivots are safe."""
    n = len(entries)
    inverse_pivots, lower, is_safe = [], {}, jnp.ones(entries[0][0].shape, bool)
    for j in range(n):
        is_positive = entries[j][j] > threshold
        is_safe = is_safe & is_positive
        inverse_pivots.append(1 / jnp.where(is_positive, entries[j][j], 1))
        for i in range(j + 1, n):
            lower[i, j] = entries[i][j] * inverse_pivots[j]
        for i in range(j + 1, n):
            for k in range(j + 1, i + 1):
                entries[i][k] = entries[i][k] - lower[i, j] * entries[k][j]
    return inverse_pivots, lower, is_safe


def _solve_definite_unrolled(matrix: LaneMatrix, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    """LDL' and its substitutions, all in one loop over lanes."""
    n = matrix.shape[0]
    x, is_safe = solve_definite_by_entries([[matrix[i, j] for j in range(i + 1)] for i in range(n)], list(rhs))
    *x, is_safe = together(*x, is_safe.astype(rhs.dtype))
    return jnp.stack(x), is_safe > 0.5


def solve_definite_by_entries(entries: list[list[jax.Array]], rhs: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
    """As `solve_definite`, of a lower triangle row by row, each entry an array of its own, all of one shape; for `in_one_loop`.

    Example:
        >>> x, is_safe = solve_definite_by_entries([[jnp.array(1.0)], [jnp.array(0.5), jnp.array(1.0)]], [jnp.array(2.0), jnp.array(2.5)])
        >>> [round(float(value), 5) for value in x], bool(is_safe)
        ([1.0, 2.0], True)
    """
    n = len(entries)
    inverse_pivots, lower, is_safe = _eliminate([list(row) for row in entries], _definite_threshold(n, rhs[0].dtype))
    z: list[jax.Array] = []
    for i in range(n):
        z.append(functools.reduce(lambda total, k, i=i: total - lower[i, k] * z[k], range(i), rhs[i]))
    x = [z[i] * inverse_pivots[i] for i in range(n)]
    for i in reversed(range(n)):
        x[i] = functools.reduce(lambda total, k, i=i: total - lower[k, i] * x[k], range(i + 1, n), x[i])
    return x, is_safe


def _solve_definite_panels(matrix: LaneMatrix, rhs: LaneVector) -> tuple[LaneVector, LaneBool]:
    """LDL' panel by panel: few operations to compile, each a vectorised pass over what is left of the matrix.

    The right-hand side is carried along as one more row, in which the forward substitution then happens by itself.
    """
    n = matrix.shape[0]
    threshold = _definite_threshold(n, matrix.dtype)
    rest = jnp.concatenate([matrix, rhs[None]], axis=0)
    is_definite = jnp.ones(rhs.shape[-1], bool)
    panels: list[tuple[int, dict[tuple[int, int], jax.Array], list[jax.Array]]] = []
    for start in range(0, n, PANEL_WIDTH):
        width = min(PANEL_WIDTH, n - start)
        inverse_pivots, lower, is_safe = _eliminate([[rest[i, j] for j in range(i + 1)] for i in range(width)], threshold)
        outputs = together(*inverse_pivots, *lower.values(), (is_definite & is_safe).astype(rhs.dtype))
        inverse_pivots, lower = outputs[:width], dict(zip(lower, outputs[width:-1], strict=True))
        is_definite = outputs[-1] > 0.5
        columns: list[jax.Array] = []
        for j in range(width):
            columns.append(functools.reduce(lambda total, k, j=j: total - columns[k] * lower[j, k], range(j), rest[width:, j]))
        outputs = together(*columns, *(column * inverse for column, inverse in zip(columns, inverse_pivots, strict=True)))
        columns, below = list(outputs[:width]), list(outputs[width:])
        panels.append((start, lower, below))
        if start + width < n:
            rest = rest[width:, width:]
            for low, column in zip(below, columns, strict=True):
                rest = rest - low[:, None] * column[None, :-1]
            # What is left is needed by three passes of the next panel; without this each would compute it anew.
            rest, _ = together(rest, rest)
    x: list[jax.Array] = [rhs[0]] * n
    for start, lower, below in reversed(panels):
        width = len(below)
        after = x[start + width :]
        y = [functools.reduce(lambda total, r, low=low: total - low[r] * after[r], range(len(after)), low[-1]) for low in below]
        for j in reversed(range(width)):
            y[j] = functools.reduce(lambda total, k, j=j: total - lower[k, j] * y[k], range(j + 1, width), y[j])
        x[start : start + width] = together(*y)
    return jnp.stack(x), is_definite


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
