"""Pytrees as flat vectors and back, and functions over many of them in chunks."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._types import PyTree

# Elements of perturbed points held at once when no chunk_size is given: 32 MiB in float64. Our own choice.
_ELEMENTS_AT_ONCE = 2**22


def tree_size(tree: PyTree) -> int:
    """Number of elements of all leaves together."""
    return sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def ravel(tree: PyTree, dtype: Any = None) -> jax.Array:
    """The leaves one behind the other, in ``dtype`` or what they promote to."""
    leaves = jax.tree.leaves(tree)
    dtype = jnp.result_type(*leaves) if dtype is None else dtype
    flat = [jnp.ravel(leaf).astype(dtype) for leaf in leaves]
    return flat[0] if len(flat) == 1 else jnp.concatenate(flat)


def unravel(flat: jax.Array, like: PyTree) -> PyTree:
    """A flat vector in the shapes and dtypes of ``like`` (arrays or shapes)."""
    leaves, structure = jax.tree.flatten(like)
    pieces, start = [], 0
    for leaf in leaves:
        size = math.prod(leaf.shape)
        pieces.append(flat[start : start + size].reshape(leaf.shape).astype(leaf.dtype))
        start += size
    return structure.unflatten(pieces)


def unravel_matrix(matrix: jax.Array, rows: PyTree, columns: PyTree) -> PyTree:
    """A matrix as the tree ``rows`` of trees ``columns``, each leaf with the axes of both: the form of ``jax.jacobian``.

    Args:
        matrix: one row per element of ``rows``, one column per element of ``columns``.
        rows: pytree of arrays or shapes; its dtypes are those of the result.
        columns: pytree of arrays or shapes.
    """
    row_leaves, row_structure = jax.tree.flatten(rows)
    column_leaves, column_structure = jax.tree.flatten(columns)
    blocks, top = [], 0
    for row in row_leaves:
        height, left, across = math.prod(row.shape), 0, []
        for column in column_leaves:
            width = math.prod(column.shape)
            block = matrix[top : top + height, left : left + width]
            across.append(block.reshape(row.shape + column.shape).astype(row.dtype))
            left += width
        blocks.append(column_structure.unflatten(across))
        top += height
    return row_structure.unflatten(blocks)


def contract(matrix: PyTree, rows: PyTree, v: PyTree) -> PyTree:
    """The product of a tree-of-trees matrix (`unravel_matrix`'s form) with a vector like its columns."""
    leaves, structure = jax.tree.flatten(v)
    row_structure = jax.tree.structure(rows)
    sums = []
    for row in row_structure.flatten_up_to(matrix):
        blocks = structure.flatten_up_to(row)
        # Highest precision: some accelerators otherwise round the factors of a float32 product to fewer bits.
        products = [
            jnp.tensordot(block, leaf, axes=jnp.ndim(leaf), precision=jax.lax.Precision.HIGHEST)
            for block, leaf in zip(blocks, leaves, strict=True)
        ]
        sums.append(functools.reduce(jnp.add, products))
    return row_structure.unflatten(sums)


def check_like(tree: PyTree, like: PyTree, name: str) -> PyTree:
    """A pytree with the structure, the shapes and (cast) the dtypes of another.

    Raises:
        ValueError: the structure or a shape differs.
    """
    leaves, structure = jax.tree.flatten(tree)
    expected, expected_structure = jax.tree.flatten(like)
    if structure != expected_structure:
        raise ValueError(f"{name} has the structure {structure}; expected that of x, {expected_structure}")
    for leaf, other in zip(leaves, expected, strict=True):
        if jnp.shape(leaf) != other.shape:
            raise ValueError(f"{name} has a leaf of shape {jnp.shape(leaf)}; expected {other.shape}, as in x")
    return structure.unflatten([jnp.asarray(leaf, other.dtype) for leaf, other in zip(leaves, expected, strict=True)])


def spread(value: PyTree, like: PyTree, name: str, dtype: Any) -> jax.Array:
    """A scalar, or a pytree of scalars or arrays like ``like``, as one flat vector with one element per coordinate.

    Raises:
        ValueError: the structure is another, or a leaf does not broadcast.
    """
    size = tree_size(like)
    leaves, structure = jax.tree.flatten(value)
    if len(leaves) == 1 and jnp.ndim(leaves[0]) == 0:
        return jnp.broadcast_to(jnp.asarray(leaves[0], dtype), (size,))
    expected, expected_structure = jax.tree.flatten(like)
    if structure != expected_structure:
        raise ValueError(f"{name} has the structure {structure}; expected a scalar or that of x, {expected_structure}")
    spread_leaves = []
    for leaf, other in zip(leaves, expected, strict=True):
        shape = jnp.shape(leaf)
        if shape not in ((), jnp.shape(other)):
            raise ValueError(f"{name} has a leaf of shape {shape}; expected a scalar or {jnp.shape(other)}, as in x")
        spread_leaves.append(jnp.broadcast_to(jnp.asarray(leaf, dtype), jnp.shape(other)))
    return ravel(spread_leaves, dtype)


def chunk_of(chunk_size: int | None, elements_each: int) -> int:
    """How many items fit in memory at once."""
    return max(1, _ELEMENTS_AT_ONCE // max(elements_each, 1)) if chunk_size is None else chunk_size


def map_in_chunks(function: Callable[..., jax.Array], items: Any, chunk_size: int | None, elements_each: int) -> jax.Array:
    """``vmap`` over the leading axis of the items, in chunks where all at once would be too large."""
    count = jax.tree.leaves(items)[0].shape[0]
    chunk = chunk_of(chunk_size, elements_each)
    if chunk >= count:
        return jax.vmap(function)(*items)
    return jax.lax.map(lambda item: function(*item), items, batch_size=chunk)
