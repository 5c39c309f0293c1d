"""Bounds, fixed parameters and scales: checked and flattened where they come in, and told apart where the solution goes out."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._types import LaneVector, PyTree, Starts
from jaxdiff._validation import as_float_leaves, is_traced
from jaxdiff.derivatives.steps import nearest_power_of_two
from jaxdiff.problem import Minimize, Packing


def flat_bounds(bounds: Any, packing: Packing, starts: Starts, *, is_batch: bool) -> tuple[jax.Array, jax.Array] | None:
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
    if side is None:
        return jnp.full(packing.size, limit, packing.dtype)
    flat = _flat_like(as_float_leaves(side, f"the {name} bound"), f"the {name} bound", packing, num_problems)
    if not is_traced(flat):
        for index in np.argwhere(np.isnan(np.asarray(flat)))[:1]:
            raise ValueError(f"the {name} bound at index {int(index[-1])} is nan; expected a number, or None for no bound")
    return flat


def _flat_like(tree: PyTree, name: str, packing: Packing, num_problems: int | None) -> jax.Array:
    """One number for all, or a tree like x, as a flat vector ``[n]``, or ``[problems, n]`` where a leaf has numbers for each problem.

    Raises:
        ValueError: another structure or shape.
    """
    n, dtype = packing.size, jnp.result_type(*jax.tree.leaves(tree), *(() if _is_boolean(tree) else (packing.dtype,)))
    leaves, structure = jax.tree.flatten(tree)
    if structure == jax.tree.structure(0) and jnp.ndim(leaves[0]) == 0:
        return jnp.full(n, leaves[0], dtype)
    if structure != packing.structure:
        raise ValueError(f"{name} is a pytree like {structure}; expected one value, or a pytree like x0: {packing.structure}")
    spread, is_own = [], False
    for leaf, shape in zip(leaves, packing.shapes, strict=True):
        own = num_problems is not None and leaf.shape == (num_problems, *shape) and leaf.shape != shape
        if leaf.shape not in ((), shape) and not own:
            each = "" if num_problems is None else f", or {(num_problems, *shape)}"
            raise ValueError(f"{name} has a leaf of shape {leaf.shape}; expected a number or {shape}, as in x0{each}")
        is_own |= own
        spread.append(leaf if own else jnp.broadcast_to(leaf, shape))
    plain = dataclasses.replace(packing, dtypes=(jnp.dtype(dtype).name,) * len(spread))
    if not is_own:
        return plain.ravel(structure.unflatten(spread))
    full = [jnp.broadcast_to(leaf, (num_problems, *shape)) for leaf, shape in zip(spread, packing.shapes, strict=True)]
    return plain.ravel(structure.unflatten(full), batch_axes=1)


def _is_boolean(tree: PyTree) -> bool:
    return all(jnp.result_type(leaf) == jnp.bool_ for leaf in jax.tree.leaves(tree))


def flat_fixed(fixed: Any, packing: Packing, num_problems: int | None) -> jax.Array | None:
    """Which parameters do not move, ``[n]`` or ``[problems, n]``; None where all may.

    Raises:
        TypeError: it does not hold booleans.
        ValueError: another structure or shape.
    """
    if fixed is None:
        return None
    if isinstance(fixed, (list, tuple)) and packing.structure == jax.tree.structure(0):
        fixed = np.asarray(fixed)
    for path, leaf in jax.tree_util.tree_leaves_with_path(fixed, is_leaf=lambda leaf: leaf is None):
        if not isinstance(leaf, (bool, np.bool_, np.ndarray, jax.Array)) or jnp.result_type(leaf) != jnp.bool_:
            raise TypeError(f"fixed{jax.tree_util.keystr(path)} = {leaf!r}; expected booleans: True for a parameter that does not move")
    return _flat_like(jax.tree.map(jnp.asarray, fixed), "fixed", packing, num_problems)


def flat_scale(scale: Any, packing: Packing, num_problems: int | None) -> jax.Array | None:
    """The typical size of each parameter, as the nearest power of two, ``[n]`` or ``[problems, n]``; None where all are one.

    A power of two changes no digit: what lies on a bound does so to the last bit, and a start is where it was.

    Raises:
        TypeError: it does not hold real numbers.
        ValueError: another structure or shape; a size that is not positive and finite.
    """
    if scale is None:
        return None
    flat = _flat_like(as_float_leaves(scale, "scale"), "scale", packing, num_problems).astype(packing.dtype)
    if not is_traced(flat):
        values = np.asarray(flat)
        for index in np.argwhere(~((values > 0) & np.isfinite(values)))[:1]:
            where = f"problem {index[0]}, index {index[-1]}" if values.ndim == 2 else f"index {index[-1]}"
            raise ValueError(
                f"scale = {values[tuple(index)]} at {where}; expected positive, finite numbers: typical sizes of the parameters"
            )
    return nearest_power_of_two(jax.lax.stop_gradient(flat))


def held_in_place(
    sides: tuple[jax.Array, jax.Array] | None, fixed: jax.Array | None, starts: Starts, *, is_batch: bool
) -> tuple[jax.Array, jax.Array] | None:
    """The bounds with those of a fixed parameter at its start, both of them."""
    if fixed is None:
        return sides
    at = starts if is_batch else starts[0]
    infinite = jnp.full_like(at, jnp.inf)
    lower, upper = (-infinite, infinite) if sides is None else sides
    return jnp.where(fixed, at, lower), jnp.where(fixed, at, upper)


def check_takes_bounds(problem: Minimize, solver: Any, has_limits: bool, instead: str) -> None:
    """Refuse bounds that the solver would not keep.

    Raises:
        ValueError: naming the solver, and what to use ``instead``.
    """
    if problem.is_bounded and not getattr(solver, "takes_bounds", False):
        what = "bounds" if has_limits else "fixed parameters"
        raise ValueError(f"solver = {type(solver).__name__}(...) takes no {what}; expected {instead} with {what}")


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
