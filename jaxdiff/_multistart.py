"""Many starts for each problem: the best minimum of each, and what other minima there are."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._api import minimize_batch
from jaxdiff._entry import batch_size, leaf_axes, map_axes
from jaxdiff._fit import least_squares_batch
from jaxdiff._numerics import machine_epsilon
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import Objective, PyTree
from jaxdiff._validation import (
    as_data,
    as_float_leaves,
    check_choice,
    check_count,
    check_positive,
    is_staged,
    is_traced,
    suggest_keywords,
)
from jaxdiff.batch.halton import halton
from jaxdiff.batch.options import BatchOptions
from jaxdiff.derivatives import Autodiff
from jaxdiff.problem import Packing
from jaxdiff.result import OptimizationError, OptimizeResult
from jaxdiff.solvers import BFGS


@pytree_dataclass
class MultistartResult:
    """What many starts found. For many problems every field has a leading axis of them.

    Attributes:
        best: the run with the lowest f among those that succeeded; where none did, among all.
        minima: points of the distinct minima, lowest first, like x with an axis of minima in front; NaN behind the last.
        minima_fun: f there.
        basin_counts: how many runs ended at each; 0 behind the last.
        num_minima: how many distinct minima were found.
        num_failed: runs that did not succeed.
        runs: every run that went to the end, with an axis of runs; where starts were pruned, the kept ones, best first.
        starts: every start, with an axis of starts.

    Example:
        >>> import jaxdiff as jd
        >>> result = jd.multistart(lambda x: (x**2 - 1) ** 2 + 0.1 * x, [-2.0, -0.5, 0.5, 2.0, 3.0])
        >>> int(result.num_minima), result.basin_counts.tolist(), round(float(result.best.x), 3)
        (2, [2, 3], -1.012)
    """

    best: OptimizeResult
    minima: PyTree
    minima_fun: Any
    basin_counts: Any
    num_minima: Any
    num_failed: Any
    runs: OptimizeResult
    starts: PyTree

    def __str__(self) -> str:
        if is_traced(self.num_minima) or np.ndim(self.num_minima) > 1:
            return object.__repr__(self)
        if np.ndim(self.num_minima) == 1:
            counts = np.asarray(self.num_minima)
            found = f"{counts.min()} to {counts.max()} minima each" if counts.size else "none"
            return f"{counts.size:,} problems, {found}\n{self.best}"
        lines = [f"{int(self.num_minima)} minima from {np.size(self.runs.status)} runs, {int(self.num_failed)} of which did not succeed"]
        for k in range(int(self.num_minima)):
            point = jax.tree.map(lambda leaf, k=k: np.asarray(leaf[k]).tolist(), self.minima)
            lines.append(f"  fun {float(self.minima_fun[k]):.10g}  from {int(self.basin_counts[k])} runs  at {point}")
        return "\n".join(lines)

    __repr__ = __str__


_ALIASES = {"x0": "starts", "n_starts": "starts", "num_starts": "starts", "maxiter": "max_steps", "tol": "tolerance", "method": "solver"}


@suggest_keywords(**_ALIASES)
def multistart(
    fun: Objective,
    starts: Any,
    args: PyTree = (),
    *,
    in_axes: Any = None,
    kind: str = "minimize",
    bounds: Any = None,
    solver: Any = None,
    derivatives: Any = Autodiff(),  # noqa: B008 (frozen)
    max_steps: int = 256,
    keep: int | None = None,
    coarse_steps: int = 10,
    tolerance: float | None = None,
    max_minima: int = 16,
    seed: int = 0,
    throw: bool = False,
    options: BatchOptions = BatchOptions(),  # noqa: B008 (frozen)
) -> MultistartResult:
    """Solve one problem, or each of many, from many starts, all in one batch.

    Runs that ended at one point, to ``tolerance``, are one minimum; how many starts led there is its basin count. Minima are counted on the
    host; to differentiate a solution, solve once more from ``best.x``.

    Args:
        fun: f of one problem, called as ``fun(x, *args)``; with ``kind="least_squares"`` its residuals.
        starts: a pytree like x with a leading axis of starts; or how many to draw between ``bounds``, by Halton's sequence with permuted
            digits.
        args: data.
        in_axes: which axis of each of ``(starts, *args)`` counts the problems, None where they share it. Where nothing is counted there is
            one problem, and the result has no axis of problems. In ``starts`` the axis of starts follows that of problems.
        kind: ``"minimize"`` or ``"least_squares"``.
        bounds: as in `minimize_batch`. To draw starts both sides must be given, finite, and a pytree like x.
        solver: as in `minimize_batch` or `least_squares_batch`; None: theirs.
        derivatives: as in `minimize_batch`.
        max_steps: steps of each run.
        keep: how many starts of each problem go on after ``coarse_steps``, those with the lowest f; None: all. Basins are then counted
            among these.
        coarse_steps: steps of the first round, where ``keep`` is given.
        tolerance: how far apart two runs may end and still count as one minimum, in every parameter, as a fraction of the range of that
            problem's starts. None: eps^(1/4), 1e-4 in float64.
        max_minima: how many distinct minima of a problem to keep, the lowest.
        seed: of the drawn starts.
        throw: raise where no run of a problem succeeds.
        options: how the batch is run.

    Returns:
        A `MultistartResult`.

    Raises:
        TypeError: as in `minimize_batch`; under ``jax.jit``, ``jax.vmap`` or ``jax.grad``.
        ValueError: as in `minimize_batch`; starts to draw without finite bounds like x; ``keep`` above the number of starts.
        OptimizationError: with ``throw``, if no run of some problem succeeded.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> waves = lambda x, a: jnp.sum(x**2 / 20 - jnp.cos(a * x))
        >>> box = (-5 * jnp.ones(1), 5 * jnp.ones(1))
        >>> result = jd.multistart(waves, 64, jnp.array([1.0, 2.0]), in_axes=(None, 0), bounds=box)
        >>> result.num_minima.tolist(), jnp.abs(result.best.x).max().round(3).item()
        ([3, 5], 0.0)
    """
    check_choice(kind, "kind", ("minimize", "least_squares"))
    if not isinstance(options, BatchOptions):
        raise TypeError(f"options = {options!r}; expected BatchOptions(...)")
    if is_traced((starts, args, bounds)) or is_staged():
        raise TypeError("multistart counts minima on the host; under jit, vmap or grad call minimize_batch or least_squares_batch")
    args = as_data(args if isinstance(args, tuple) else (args,), "args")
    check_count(max_minima, "max_minima", minimum=1)
    check_positive(tolerance, "tolerance")
    starts, bounds, is_drawn = _as_starts(starts, bounds, check_count(seed, "seed"))
    (start_axes, arg_axes), num_problems = _axes(in_axes, starts, args, is_drawn)
    is_one, num_problems = num_problems is None, 1 if num_problems is None else num_problems
    starts, num_starts = _to_blocks(starts, start_axes, num_problems)
    keep = num_starts if keep is None else check_count(keep, "keep", minimum=1)
    if keep > num_starts:
        raise ValueError(f"keep = {keep} of {num_starts} starts; expected at most as many")
    coarse_steps = check_count(coarse_steps, "coarse_steps")

    def solve(points: PyTree, steps: int, chosen: BatchOptions) -> OptimizeResult:
        """Every run, ``[problems, runs]`` in front of each field."""
        runs = jax.tree.leaves(points)[0].shape[1]
        flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), points)
        data = map_axes(lambda leaf, axis: leaf if axis is None else jnp.repeat(jnp.moveaxis(leaf, axis, 0), runs, axis=0), args, arg_axes)
        axes = (0, *jax.tree.structure(args).unflatten([None if axis is None else 0 for axis in arg_axes]))
        common = {"in_axes": axes, "derivatives": derivatives, "bounds": _repeated(bounds, flat, num_problems, runs)}
        common |= {"max_steps": steps, "options": chosen}
        if kind == "minimize":
            result = minimize_batch(fun, flat, data, solver=BFGS() if solver is None else solver, **common)
        else:
            result = least_squares_batch(fun, flat, data, solver=solver, **common)
        return jax.tree.map(lambda leaf: leaf.reshape(num_problems, runs, *leaf.shape[1:]), result)

    points = starts
    if keep < num_starts:
        # What the few first steps leave undone is not to be rescued.
        coarse = solve(points, coarse_steps, dataclasses.replace(options, rescue=False))
        order = np.argsort(np.where(np.isnan(coarse.fun), np.inf, coarse.fun), axis=1, kind="stable")[:, :keep]
        points = jax.tree.map(lambda leaf: _take(leaf, order), coarse.x)
    result = _gathered(solve(points, max_steps, options), starts, tolerance, max_minima)
    if throw and not np.all(np.asarray(result.best.success)):
        missed = int(np.sum(~np.asarray(result.best.success)))
        raise OptimizationError(f"{missed:,} of {num_problems:,} problems have no run that converged ({result.best.status_name})")
    return jax.tree.map(lambda leaf: leaf[0], result) if is_one else result


def _as_starts(starts: Any, bounds: Any, seed: int) -> tuple[PyTree, Any, bool]:
    """The starts, drawn where only their number is given; the bounds; whether they were drawn."""
    if isinstance(starts, bool) or not isinstance(starts, (int, np.integer)):
        starts = as_float_leaves(starts, "starts")
        if any(leaf.ndim == 0 for leaf in jax.tree.leaves(starts)):
            raise ValueError("starts has a leaf without an axis of starts; expected one, or a whole number with bounds to draw between")
        return starts, bounds, False
    count = check_count(starts, "starts", minimum=1)
    if not (isinstance(bounds, (tuple, list)) and len(bounds) == 2 and all(side is not None for side in bounds)):
        raise ValueError(f"starts = {count} with bounds = {bounds!r}; expected bounds (lower, upper), both given, to draw starts between")
    lower, upper = (as_float_leaves(side, f"the {name} bound") for side, name in zip(bounds, ("lower", "upper"), strict=True))
    if jax.tree.structure(lower) != jax.tree.structure(upper):
        raise ValueError("bounds have two structures; expected both sides like x, to draw starts between")
    packing = Packing.of(lower)
    low, high = (np.asarray(packing.ravel(side), np.float64) for side in (lower, upper))
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high)) and np.all(low <= high)):
        raise ValueError(f"starts = {count} with bounds from {low} to {high}; expected finite bounds to draw starts between")
    drawn = low + (high - low) * halton(count, packing.size, np.random.default_rng(seed))
    # In the precision of x a point may round out of its box.
    flat = jnp.clip(jnp.asarray(drawn, packing.dtype), packing.ravel(lower), packing.ravel(upper))
    return packing.unravel(flat), (lower, upper), True


def _axes(
    in_axes: Any, starts: PyTree, args: tuple[PyTree, ...], is_drawn: bool
) -> tuple[tuple[tuple[int | None, ...], tuple[int | None, ...]], int | None]:
    """Axes of problems, and how many problems; None where nothing counts them."""
    axes = leaf_axes(in_axes, starts, args)
    if is_drawn and any(axis is not None for axis in axes[0]):
        raise ValueError(f"in_axes = {in_axes!r}, but starts are drawn; expected None for them: all problems share them")
    if all(axis is None for axis in (*axes[0], *axes[1])):
        return axes, None
    return axes, batch_size(starts, args, axes)


def _to_blocks(starts: PyTree, axes: tuple[int | None, ...], num_problems: int) -> tuple[PyTree, int]:
    """Starts with problems and starts in front, and how many starts each problem has."""

    def to_block(leaf: jax.Array, axis: int | None) -> jax.Array:
        return jnp.broadcast_to(leaf, (num_problems, *leaf.shape)) if axis is None else jnp.moveaxis(leaf, axis, 0)

    starts = map_axes(to_block, starts, axes)
    shapes = [leaf.shape for leaf in jax.tree.leaves(starts)]
    if not shapes or any(len(shape) < 2 or shape[1] != shapes[0][1] or shape[1] == 0 for shape in shapes):
        raise ValueError(f"starts has leaves of shapes {shapes}, problems first; expected one number of starts, at least one, in all")
    return starts, shapes[0][1]


def _repeated(bounds: Any, flat: PyTree, num_problems: int, runs: int) -> Any:
    """Bounds of each problem for each of its runs; shared ones as they are."""
    if not (isinstance(bounds, (tuple, list)) and len(bounds) == 2):
        return bounds

    def side(tree: Any) -> Any:
        if tree is None or jax.tree.structure(tree) != jax.tree.structure(flat):
            return tree
        own = lambda leaf, x: jnp.ndim(leaf) == x.ndim and jnp.shape(leaf)[0] == num_problems  # noqa: E731
        return jax.tree.map(lambda leaf, x: jnp.repeat(jnp.asarray(leaf), runs, axis=0) if own(leaf, x) else leaf, tree, flat)

    return side(as_float_leaves(bounds[0], "the lower bound") if bounds[0] is not None else None), side(
        as_float_leaves(bounds[1], "the upper bound") if bounds[1] is not None else None
    )


def _take(leaf: Any, order: np.ndarray) -> jax.Array:
    """Of each problem the runs in this order, ``[problems, chosen]``."""
    return jnp.asarray(leaf)[np.arange(order.shape[0])[:, None], order]


def _gathered(runs: OptimizeResult, starts: PyTree, tolerance: float | None, max_minima: int) -> MultistartResult:
    """The best of each problem's runs, and its distinct minima."""
    success = np.asarray(runs.success)
    fun = np.where(np.isnan(runs.fun), np.inf, np.asarray(runs.fun))
    packing = Packing.of(runs.x, skip_axes=2)
    flat = np.asarray(packing.ravel(runs.x, batch_axes=2), np.float64)
    spread = np.asarray(packing.ravel(starts, batch_axes=2), np.float64)
    with np.errstate(invalid="ignore"):
        spread = np.nanmax(np.where(np.isfinite(spread), spread, np.nan), axis=1, initial=-np.inf) - np.nanmin(
            np.where(np.isfinite(spread), spread, np.nan), axis=1, initial=np.inf
        )
    reach = (machine_epsilon(packing.dtype) ** 0.25 if tolerance is None else float(tolerance)) * np.maximum(spread, 0)
    # Where the starts do not differ in a parameter, rounding is the only scale there is.
    reach = np.maximum(reach, machine_epsilon(packing.dtype) ** 0.5 * np.max(np.abs(np.where(np.isfinite(flat), flat, 0)), axis=1))
    places, counts, num_minima = _distinct(flat, np.where(success, fun, np.inf), success, reach, max_minima)
    is_there = counts > 0
    blank = lambda leaf: jnp.where(is_there.reshape(*is_there.shape, *[1] * (leaf.ndim - 2)), leaf, jnp.nan)  # noqa: E731
    best = np.argmin(np.where(success.any(axis=1, keepdims=True), np.where(success, fun, np.inf), fun), axis=1)
    return MultistartResult(
        best=jax.tree.map(lambda leaf: _take(leaf, best[:, None])[:, 0], runs),
        minima=jax.tree.map(lambda leaf: blank(_take(leaf, places)), runs.x),
        minima_fun=blank(_take(runs.fun, places)),
        basin_counts=jnp.asarray(counts),
        num_minima=jnp.asarray(num_minima),
        num_failed=jnp.sum(~runs.success, axis=1),
        runs=runs,
        starts=starts,
    )


def _distinct(
    points: np.ndarray, fun: np.ndarray, success: np.ndarray, reach: np.ndarray, max_minima: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each problem the runs that stand for its minima, lowest first, how many runs each stands for, and how many minima there are.

    The lowest run that no minimum has taken yet is the next one, and takes all within reach of it; in all problems at once.
    """
    rows = np.arange(points.shape[0])
    is_open = success.copy()
    places, counts, num_minima = [], [], np.zeros(points.shape[0], np.int32)
    while is_open.any():
        lowest = np.argmin(np.where(is_open, fun, np.inf), axis=1)
        near = np.all(np.abs(points - points[rows, lowest][:, None]) <= reach[:, None], axis=2)
        near[rows, lowest] = True
        taken = is_open & near & is_open[rows, lowest][:, None]
        num_minima += taken.any(axis=1)
        if len(places) < max_minima:
            places.append(lowest)
            counts.append(taken.sum(axis=1))
        is_open &= ~taken
    if not places:
        places, counts = [np.zeros_like(rows)], [np.zeros_like(rows)]
    return np.stack(places, axis=1), np.stack(counts, axis=1).astype(np.int32), num_minima
