"""What `adaptive` asks, as values of f along lines: by one compiled program where JAX can trace f, by calls on the host elsewhere."""

import contextlib
import dataclasses
import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._types import PyTree
from jaxdiff._validation import is_staged, is_traced
from jaxdiff.derivatives.estimates import Estimate
from jaxdiff.derivatives.lines import (
    MANY,
    OUTSIDE,
    Lines,
    combine,
    coordinate_lines,
    direction_lines,
    estimate_lines,
    estimate_lines_now,
    is_worth_a_look,
    look_along,
    point_lines,
)
from jaxdiff.derivatives.protocol import Bound, compiled, describe
from jaxdiff.derivatives.quick import Glance
from jaxdiff.derivatives.trees import chunk_of, map_in_chunks, ravel, tree_size, unravel, unravel_matrix


class Look(NamedTuple):
    """What f is found to be: the shapes it returns, and whether only the host can call it."""

    output: PyTree
    is_on_host: bool


def look_at(bound: Bound, x: PyTree, *, one_of_many: bool = False) -> Look:
    """Trace f; where JAX cannot, call it once, at x (or at the first of many points)."""
    shapes = jax.ShapeDtypeStruct((), x.dtype) if one_of_many else x
    with contextlib.suppress(Exception):  # whatever it is, it comes again below
        return Look(_output.shapes(None, bound, shapes), False)
    try:
        jax.eval_shape(bound, shapes)
    except Exception:
        # Whatever a foreign function makes of a tracer. If it is f itself that is wrong, the call below says so.
        if is_traced((x, bound.data)) or is_staged():
            raise
        point = x.reshape(-1)[0] if one_of_many else x
        try:
            output = _on_host(bound)(_concrete(point))
        except OUTSIDE:
            output = np.nan
        for leaf in jax.tree.leaves(output, is_leaf=lambda leaf: leaf is None):
            if not isinstance(leaf, (numbers.Real, np.ndarray, np.generic)) or np.asarray(leaf).dtype.kind not in "fiu":
                raise TypeError(f"f returned {describe(output)}; expected real numbers") from None
        dtype = jnp.result_type(*jax.tree.leaves(x))
        return Look(jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), dtype), output), True)
    return Look(jax.eval_shape(bound.arrays, shapes), False)


@compiled
def _output(method: None, bound: Bound, x: PyTree) -> PyTree:
    return bound.arrays(x)


@compiled
def number(method: None, bound: Bound, x: PyTree) -> jax.Array:
    """The value of f, checked to be one number."""
    return bound.scalar(x)[0]


def run(
    method: Any,
    bound: Bound,
    x: PyTree,
    kind: str,
    n: int,
    directions: jax.Array | None = None,
    *,
    of_gradient: bool = False,
    form: str = "rows",
    look: Look | None = None,
) -> Estimate:
    """Estimates along lines of f, or of its gradient by autodiff.

    Args:
        method: `Adaptive`.
        bound: f.
        x: where.
        kind: of lines: "points", "coordinates" or "directions".
        n: order of the derivative.
        directions: [lines, size of x].
        of_gradient: whether the gradient of f is what is differentiated.
        form: of the result: "rows" for fields [lines, outputs], "points", "gradient", "jacobian" or "hessian".
        look: what f is, where that is known already.
    """
    method.check_inside(x)
    look = look_at(bound, x, one_of_many=kind == "points") if look is None else look
    bound = dataclasses.replace(bound, order=(kind, n, of_gradient, form))
    finish = functools.partial(_finished, form, x, look.output)
    if is_traced((method, bound, x, directions)) or is_staged():
        return finish(_in_one_program(method, bound, x, directions))
    num_outputs = tree_size(x if of_gradient else look.output)
    count = tree_size(x) if directions is None else len(directions)
    looked = None
    if not look.is_on_host and is_worth_a_look(n, method.extrapolation) and count * num_outputs < MANY:
        finished, is_enough, *looked = _at_once(method, bound, x, directions)
        if is_enough:
            return finished
    lines = _lines(method, x, kind, directions)
    if look.is_on_host:
        host = _host_values(bound, lines, x, kind, num_outputs)
        return finish(estimate_lines_now(host, lines, n, num_outputs, is_costly=True))
    # The same program for every order and form: f does not know what its values are for.
    arguments = method, dataclasses.replace(bound, order=(kind, 0, of_gradient, "rows")), x, directions
    values_at, look_now = (functools.partial(kernel, *arguments) for kernel in (_values, _looks))
    return finish(estimate_lines_now(values_at, lines, n, num_outputs, look=look_now, looked=looked))


def _finished(form: str, x: PyTree, output: PyTree, found: Estimate) -> Estimate:
    """Fields [lines, outputs] in the form that was asked for."""
    if form == "points":
        leaves = jax.tree.leaves(output)
        shape = x.shape + (leaves[0].shape if len(leaves) == 1 else (-1,))
        return jax.tree.map(lambda leaf: leaf.reshape(shape), found)
    if form == "gradient":
        return jax.tree.map(lambda leaf: _like(leaf[:, 0], x), found)
    if form == "jacobian":
        return jax.tree.map(lambda leaf: as_matrix(leaf.T, output, x), found)
    if form == "hessian":
        both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf.T]), found)
        found = combine(both, jnp.full((2, 1, 1), 0.5, found.value.dtype))
        return jax.tree.map(lambda leaf: as_matrix(leaf, x, x), found)
    return found


def _lines(method: Any, x: PyTree, kind: str, directions: jax.Array | None) -> Lines:
    flat = ravel(x)
    scale, bounds = method.flat(x)
    if directions is None:
        lines = (point_lines if kind == "points" else coordinate_lines)(flat, scale, bounds)
        return dataclasses.replace(lines, extrapolation=method.extrapolation)
    lengths = jnp.maximum(jnp.abs(flat), 1) if scale is None else scale
    return dataclasses.replace(direction_lines(flat, directions, lengths, bounds), extrapolation=method.extrapolation)


@compiled
def _values(method: Any, bound: Bound, x: PyTree, directions: jax.Array | None, index: jax.Array, positions: jax.Array) -> jax.Array:
    """f at positions [J, C] on the lines index [C], [J, C, outputs], as many at once as memory allows."""
    kind, _, of_gradient, _ = bound.order
    lines = _lines(method, x, kind, directions)

    def f(point: jax.Array) -> jax.Array:
        if kind == "points":
            return ravel(bound.arrays(point[0]))
        at = unravel(point, x)
        return ravel(jax.grad(lambda x: bound.scalar(x)[0])(at) if of_gradient else bound.arrays(at))

    def at(i: jax.Array, position: jax.Array) -> jax.Array:
        return f(lines.point(jnp, i, position))

    point = jax.eval_shape(lambda position: lines.point(jnp, 0, position), lines.centres[0])
    elements = positions.shape[0] * (point.size + jax.eval_shape(f, point).size)
    if chunk_of(method.chunk_size, elements) >= index.size:
        # In the order in which positions are stored: nothing is transposed.
        values = jax.vmap(jax.vmap(at), in_axes=(None, 0))(index, positions)
    else:
        line = jax.vmap(at, in_axes=(None, 0))
        values = jnp.moveaxis(map_in_chunks(line, (index, positions.T), method.chunk_size, elements), 0, 1)
    return values.astype(lines.centres.dtype)


@compiled
def _looks(method: Any, bound: Bound, x: PyTree, directions: jax.Array | None, index: jax.Array) -> Glance:
    """A quick look at the lines index [C]."""
    lines, values_at = _lines(method, x, bound.order[0], directions), functools.partial(_values, method, bound, x, directions)
    return look_along(values_at, lines, _num_outputs(values_at, lines), index, method.chunk_size)


@compiled
def _at_once(method: Any, bound: Bound, x: PyTree, directions: jax.Array | None) -> tuple[Estimate, jax.Array, Estimate, jax.Array]:
    """A quick look at all lines: in the form that was asked for, whether that is enough; line by line, and for which it is."""
    kind, *_, form = bound.order
    lines, values_at = _lines(method, x, kind, directions), functools.partial(_values, method, bound, x, directions)
    glance = look_along(values_at, lines, _num_outputs(values_at, lines), jnp.arange(lines.centres.size), method.chunk_size)
    found, is_enough = glance.estimate, glance.is_enough
    output = _output.shapes(None, bound, jax.ShapeDtypeStruct((), x.dtype) if kind == "points" else x)
    return _finished(form, x, output, found), jnp.all(is_enough), found, is_enough


def _num_outputs(values_at: Callable[[Any, Any], Any], lines: Lines) -> int:
    return jax.eval_shape(values_at, jnp.zeros(1, jnp.int32), lines.centres[:1][None]).shape[-1]


@compiled
def _in_one_program(method: Any, bound: Bound, x: PyTree, directions: jax.Array | None) -> Estimate:
    kind, n, *_ = bound.order
    lines = _lines(method, x, kind, directions)
    values_at = functools.partial(_values, method, bound, x, directions)
    return estimate_lines(values_at, lines, n, _num_outputs(values_at, lines), method.chunk_size)


def _host_values(bound: Bound, lines: Lines, x: PyTree, kind: str, num_outputs: int) -> Callable[[Any, Any], np.ndarray]:
    """The same by calls of f on the host, one point at a time; a point outside of its domain has no value."""
    host, like = _on_host(bound), jax.tree.map(np.asarray, x)

    def call(flat: np.ndarray) -> np.ndarray:
        if np.isnan(flat).any():
            return np.full(num_outputs, np.nan)
        try:
            output = host(float(flat[0]) if kind == "points" else _concrete(like, flat))
        except OUTSIDE:
            return np.full(num_outputs, np.nan)
        return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(output)])

    def values_at(index: Any, positions: Any) -> np.ndarray:
        index, positions = np.asarray(index), np.asarray(positions)
        rows = [[call(np.asarray(lines.point(np, i, position))) for i, position in zip(index, row, strict=True)] for row in positions]
        return np.array(rows, positions.dtype)

    return values_at


def _on_host(bound: Bound) -> Bound:
    """With NumPy arrays for data, and f's first result only where it has two."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[()] if isinstance(leaf, jax.Array) else leaf, bound)


def _concrete(like: PyTree, flat: np.ndarray | None = None) -> PyTree:
    """A pytree of NumPy arrays, Python floats for single numbers; with the values of a flat vector, or its own."""
    leaves, structure = jax.tree.flatten(like)
    sizes = [math.prod(np.shape(leaf)) for leaf in leaves]
    parts = [np.asarray(leaf) for leaf in leaves] if flat is None else np.split(flat, np.cumsum(sizes)[:-1])
    shaped = [part.reshape(np.shape(leaf)).astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
    return structure.unflatten([float(leaf) if leaf.ndim == 0 else leaf for leaf in shaped])


def _like(flat: jax.Array, x: PyTree) -> PyTree:
    """In the shapes of x; in its dtypes too, unless these are statuses."""
    return unravel(flat, _shaped(x, flat.dtype))


def as_matrix(matrix: jax.Array, rows: PyTree, columns: PyTree) -> PyTree:
    """A matrix in the form of ``jax.jacobian``; statuses keep their dtype."""
    return unravel_matrix(matrix, _shaped(rows, matrix.dtype), columns)


def _shaped(tree: PyTree, dtype: Any) -> PyTree:
    is_integer = jnp.issubdtype(dtype, jnp.integer)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype if is_integer else leaf.dtype), tree)
