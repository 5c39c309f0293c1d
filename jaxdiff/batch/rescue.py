"""Further chances for the problems of a batch that did not converge, alone: more precision, another solver, another start."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._types import Starts
from jaxdiff.batch.halton import halton
from jaxdiff.batch.options import BatchOptions
from jaxdiff.problem import Minimize
from jaxdiff.result import RESCUES, Status

R = TypeVar("R")


_HOPELESS = (Status.INVALID_DATA,)
_SETTLED = (Status.INVALID_DATA, Status.SINGULAR, Status.UNBOUNDED)
"""Statuses that say of the problem, and not of the solver, why there is no solution; behind the first stage they are believed."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One attempt at the problems that are still unsolved.

    Attributes:
        code: which of `RESCUES` it is.
        again: solves a small batch of the same form, given the problem and its starts.
    """

    code: int
    again: Callable[[Any, jax.Array], Any]


def rescue(result: R, problem: Minimize, starts: Starts, stages: Sequence[Stage]) -> R:
    """The result with the problems that failed solved once more, stage after stage, and the best of all answers kept.

    Args:
        result: of the whole batch, problems in the first axis; concrete, with ``rescued`` and ``rescued_by`` among its fields.
        problem: its batched data have the problems in their first axis.
        starts: ``[num_problems, n]``.
        stages: what to try, each on what the ones before it left unsolved.
    """
    rescued_by = np.zeros(np.asarray(result.status).shape, np.int32)  # type: ignore[attr-defined]
    paid = result.steps_paid  # type: ignore[attr-defined]
    for number, stage in enumerate(stages):
        status = np.asarray(result.status)  # type: ignore[attr-defined]
        index = np.flatnonzero(~np.asarray(result.success) & ~np.isin(status, _SETTLED if number else _HOPELESS))  # type: ignore[attr-defined]
        if index.size:
            index = index[_is_finite(problem, starts, index)]
        if index.size == 0:
            continue
        # Few sizes, so that the next batch does not compile again.
        padded = np.concatenate([index, np.full((1 << int(index.size - 1).bit_length()) - index.size, index[-1])])
        small, held = taken(problem, starts, padded)
        if stage.code == RESCUES.index("another start"):
            held = _moved(held)
        other = jax.tree.map(lambda leaf, size=index.size: leaf[:size], stage.again(small, held))
        is_better = np.asarray(other.success) | ~(np.asarray(other.fun) >= np.asarray(result.fun)[index])  # type: ignore[attr-defined]
        rescued_by[index[np.asarray(other.success)]] = stage.code
        result = merged(result, other, index, is_better)
        paid = None if paid is None else paid.at[index].add(other.steps_paid)
    codes = jnp.asarray(rescued_by)
    return dataclasses.replace(result, rescued=codes > 0, rescued_by=codes, steps_paid=paid)  # type: ignore[type-var]


def alone(options: BatchOptions) -> BatchOptions:
    """How the few problems of a rescue are run: as the batch, in the sizes that suit them."""
    return dataclasses.replace(options, rescue=False, mode="auto", lanes=None, progress=False)


def is_widened(starts: Starts) -> bool:
    """Whether a rescue has more precision than the batch had."""
    return bool(jax.config.jax_enable_x64) and starts.dtype != jnp.float64  # type: ignore[attr-defined]


def _moved(starts: Starts) -> jax.Array:
    """Each parameter of each start moved by up to three tenths of itself, one at zero by up to a tenth; always the same way."""
    # The first point is a corner and the second the middle, which would not move the first parameter.
    shift = 2 * halton(starts.shape[0] + 2, starts.shape[1], None)[2:] - 1
    return jnp.asarray(starts) + jnp.asarray(shift, starts.dtype) * jnp.where(starts == 0, 0.1, 0.3 * jnp.abs(starts)).astype(starts.dtype)


def retry(result: R, problem: Minimize, starts: Starts, again: Callable[[Any, jax.Array], R]) -> R:
    """The result with the problems that failed solved once more from their starts, and those answers taken.

    Args:
        result: of the whole batch, problems in the first axis; NumPy arrays, which are written to.
        problem: its batched data have the problems in their first axis.
        starts: ``[num_problems, n]``.
        again: solves a small batch of the same form.
    """
    index = np.flatnonzero(~result.success)  # type: ignore[attr-defined]
    if index.size:
        # Few sizes, so that the next batch does not compile again.
        padded = np.concatenate([index, np.full((1 << int(index.size - 1).bit_length()) - index.size, index[-1])])
        other = again(*taken(problem, starts, padded, may_widen=False))
        for whole, part in zip(jax.tree.leaves(result), jax.tree.leaves(other), strict=True):
            whole[index] = np.asarray(part)[: index.size]
    return result


def merged(result: R, other: R, index: np.ndarray, is_better: np.ndarray) -> R:
    """The result with the better of the others in the places ``index``; what either says of ``rescued`` is left out."""
    result, other = (dataclasses.replace(each, rescued=None, rescued_by=None) for each in (result, other))  # type: ignore[type-var]
    place, chosen = index[is_better], np.flatnonzero(is_better)
    old, structure = jax.tree.flatten(result)
    new = jax.tree.leaves(other)
    return structure.unflatten([a.at[place].set(b[chosen].astype(a.dtype)) for a, b in zip(old, new, strict=True)])


def _is_finite(problem: Minimize, starts: Starts, index: np.ndarray) -> np.ndarray:
    """Which of these problems have finite starts and data: where they have not, no solver helps. Bounds may be infinite."""
    finite = np.all(np.isfinite(np.asarray(starts[index])), axis=1)
    leaves = jax.tree.leaves(problem.args)
    for leaf, batched in list(zip(leaves, problem.is_batched, strict=True))[: len(leaves) - problem.num_own]:
        if batched and jnp.issubdtype(leaf.dtype, jnp.floating):
            finite &= np.all(np.isfinite(np.asarray(leaf[index])).reshape(index.size, -1), axis=1)
    return finite


def taken(problem: Any, starts: Starts, index: np.ndarray, may_widen: bool = True) -> tuple[Any, jax.Array]:
    """The problems of these indices, in double precision where that is enabled and not forbidden."""
    wide = jnp.float64 if may_widen and jax.config.jax_enable_x64 else None  # type: ignore[attr-defined]

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
    return dataclasses.replace(problem, **changed), widened(jnp.asarray(starts[index]))
