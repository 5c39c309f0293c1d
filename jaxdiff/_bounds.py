"""Bounds: checked and flattened where they come in, and told apart where the solution goes out."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._types import LaneVector, PyTree
from jaxdiff._validation import as_float_leaves, is_traced
from jaxdiff.problem import Minimize, Packing


def flat_bounds(bounds: Any, packing: Packing, starts: jax.Array, *, is_batch: bool) -> tuple[jax.Array, jax.Array] | None:
    """Both bounds as flat vectors ``[n]``, or, in a batch, ``[problems, n]`` where a leaf has bounds for each problem.

    Raises:
        TypeError: bounds is no pair.
        ValueError: another structure or shape; NaN; bounds that cross, or that leave out a start.
    """
    if bounds is None:
        return None
    if not (isinstance(bounds, (tuple, list)) and len(bounds) == 2):
        raise TypeError(f"bounds = {bounds!r}; expected a pair (lower, upper), each None, a number or a pytree like x0")
    if all(side is None for side in bounds):
        return None
    lower, upper = (
        _flat_side(side, name, limit, packing, starts.shape[0] if is_batch else None)
        for side, name, limit in zip(bounds, ("lower", "upper"), (-np.inf, np.inf), strict=True)
    )
    if lower.ndim != upper.ndim:
        lower, upper = jnp.broadcast_arrays(lower, upper)
    if not is_traced((lower, upper, starts)):
        low, high, start = (np.atleast_2d(np.asarray(side)) for side in (lower, upper, starts))
        low, high, start = np.broadcast_arrays(low, high, start)
        for lane, i in np.argwhere(~(low <= high))[:1]:
            raise ValueError(f"bounds: at index {i} the lower bound {low[lane, i]} exceeds the upper bound {high[lane, i]}")
        # A start that is not finite has a status of its own.
        for lane, i in np.argwhere((start < low) | (start > high))[:1]:
            where = f"problem {lane}, index {i}" if starts.shape[0] > 1 else f"index {i}"
            raise ValueError(f"x0 = {start[lane, i]} at {where} lies outside its bounds [{low[lane, i]}, {high[lane, i]}]")
    return lower, upper


def _flat_side(side: Any, name: str, limit: float, packing: Packing, num_problems: int | None) -> jax.Array:
    n = packing.size
    if side is None:
        return jnp.full(n, limit, packing.dtype)
    side = as_float_leaves(side, f"the {name} bound")
    leaves, structure = jax.tree.flatten(side)
    if structure == jax.tree.structure(0) and jnp.ndim(leaves[0]) == 0:
        flat = jnp.full(n, leaves[0], packing.dtype)
    else:
        if structure != packing.structure:
            raise ValueError(f"the {name} bound is a pytree like {structure}; expected a number, or a pytree like x0: {packing.structure}")
        spread, is_own = [], False
        for leaf, shape in zip(leaves, packing.shapes, strict=True):
            own = num_problems is not None and leaf.shape == (num_problems, *shape) and leaf.shape != shape
            if leaf.shape not in ((), shape) and not own:
                each = "" if num_problems is None else f", or {(num_problems, *shape)}"
                raise ValueError(f"the {name} bound has a leaf of shape {leaf.shape}; expected a number or {shape}, as in x0{each}")
            is_own |= own
            spread.append(leaf if own else jnp.broadcast_to(leaf, shape))
        if is_own:
            full = [jnp.broadcast_to(leaf, (num_problems, *shape)) for leaf, shape in zip(spread, packing.shapes, strict=True)]
            flat = packing.ravel(structure.unflatten(full), batch_axes=1)
        else:
            flat = packing.ravel(structure.unflatten(spread))
    if not is_traced(flat):
        for index in np.argwhere(np.isnan(np.asarray(flat)))[:1]:
            raise ValueError(f"the {name} bound at index {int(index[-1])} is nan; expected a number, or None for no bound")
    return flat


def with_bounds(
    args: tuple[PyTree, ...], is_batched: tuple[bool, ...], sides: tuple[jax.Array, jax.Array] | None
) -> tuple[tuple[PyTree, ...], tuple[bool, ...]]:
    """The data with the bounds as their last two members, and which leaves have problems in their first axis; those of one are shared."""
    if sides is None:
        return args, is_batched
    return (*args, *sides), (*is_batched, *(side.ndim == 2 for side in sides))


def check_takes_bounds(problem: Minimize, solver: Any, instead: str) -> None:
    """Refuse bounds that the solver would not keep.

    Raises:
        ValueError: naming the solver, and what to use ``instead``.
    """
    if problem.is_bounded and not getattr(solver, "takes_bounds", False):
        raise ValueError(f"solver = {type(solver).__name__}(...) takes no bounds; expected {instead} with bounds")


def at_bound(problem: Minimize, x: LaneVector) -> jax.Array:
    """-1 where a parameter lies on its lower bound, 1 on its upper one, 2 where it is fixed, else 0; like x."""
    if not problem.is_bounded:
        return jnp.zeros(x.shape, jnp.int32)
    lower, upper = problem.limits
    flags = jnp.where(x >= upper, 1, jnp.where(x <= lower, -1, 0))
    return jnp.where(jnp.broadcast_to(lower >= upper, x.shape), 2, flags).astype(jnp.int32)


def unravel_plain(packing: Packing, flat: jax.Array) -> PyTree:
    """A tree like x, of the dtype of ``flat``."""
    return dataclasses.replace(packing, dtypes=(flat.dtype.name,) * len(packing.dtypes)).unravel(flat)
