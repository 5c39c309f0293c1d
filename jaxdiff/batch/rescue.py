"""A second chance for the problems of a batch that did not converge: alone, by a slower solver, in double precision where it is enabled."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.problem import Minimize
from jaxdiff.result import Status

R = TypeVar("R")


def rescue(result: R, problem: Minimize, starts: jax.Array, again: Callable[[Any, jax.Array], R]) -> R:
    """The result with the problems that failed solved once more from their starts, and the better of both answers kept.

    Args:
        result: of the whole batch, problems in the first axis; concrete, with ``rescued`` among its fields.
        problem: its batched data have the problems in their first axis.
        starts: ``[num_problems, n]``.
        again: solves a small batch of the same form.
    """
    status = np.asarray(result.status)  # type: ignore[attr-defined]
    success = np.asarray(result.success)  # type: ignore[attr-defined]
    rescued = np.zeros(status.shape, bool)
    index = np.flatnonzero(~success & (status != Status.INVALID_DATA))
    if index.size:
        index = index[_is_finite(problem, starts, index)]
    if index.size == 0:
        return dataclasses.replace(result, rescued=jnp.asarray(rescued))  # type: ignore[type-var]
    # Few sizes, so that the next batch does not compile again.
    padded = np.concatenate([index, np.full((1 << int(index.size - 1).bit_length()) - index.size, index[-1])])
    small, held = taken(problem, starts, padded)
    other = jax.tree.map(lambda leaf: leaf[: index.size], again(small, held))
    is_better = np.asarray(other.success) | ~(np.asarray(other.fun) >= np.asarray(result.fun)[index])  # type: ignore[attr-defined]
    rescued[index] = np.asarray(other.success)
    return dataclasses.replace(merged(result, other, index, is_better), rescued=jnp.asarray(rescued))  # type: ignore[type-var]


def merged(result: R, other: R, index: np.ndarray, is_better: np.ndarray) -> R:
    """The result with the better of the others in the places ``index``; what either says of ``rescued`` is left out."""
    place, chosen = index[is_better], np.flatnonzero(is_better)
    old, structure = jax.tree.flatten(dataclasses.replace(result, rescued=None))  # type: ignore[type-var]
    new = jax.tree.leaves(dataclasses.replace(other, rescued=None))  # type: ignore[type-var]
    return structure.unflatten([a.at[place].set(b[chosen].astype(a.dtype)) for a, b in zip(old, new, strict=True)])


def _is_finite(problem: Minimize, starts: jax.Array, index: np.ndarray) -> np.ndarray:
    """Which of these problems have finite starts and data: where they have not, no solver helps. Bounds may be infinite."""
    finite = np.all(np.isfinite(np.asarray(starts[index])), axis=1)
    leaves = jax.tree.leaves(problem.args)
    for leaf, batched in list(zip(leaves, problem.is_batched, strict=True))[: len(leaves) - problem.num_own]:
        if batched and jnp.issubdtype(leaf.dtype, jnp.floating):
            finite &= np.all(np.isfinite(np.asarray(leaf[index])).reshape(index.size, -1), axis=1)
    return finite


def taken(problem: Any, starts: jax.Array, index: np.ndarray) -> tuple[Any, jax.Array]:
    """The problems of these indices, in double precision where that is enabled."""
    wide = jnp.float64 if jax.config.jax_enable_x64 else None  # type: ignore[attr-defined]

    def widened(leaf: Any) -> Any:
        return leaf.astype(wide) if wide is not None and jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf

    leaves, structure = jax.tree.flatten(problem.args)
    args = structure.unflatten(
        [widened(leaf[index] if batched else jnp.asarray(leaf)) for leaf, batched in zip(leaves, problem.is_batched, strict=True)]
    )
    changed: dict[str, Any] = {"args": args}
    if wide is not None:
        changed["packing"] = dataclasses.replace(problem.packing, dtypes=("float64",) * len(problem.packing.dtypes))
    if hasattr(problem, "loss_scale"):
        changed["loss_scale"] = widened(jnp.asarray(problem.loss_scale))
    return dataclasses.replace(problem, **changed), widened(starts[index])
