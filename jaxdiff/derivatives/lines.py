"""Estimates along lines: f on the step ladder of every point, coordinate or direction, in chunks.

A line has a number of its own, the position, at which its ladder is centred: a point itself, one coordinate of x, or the multiple of a
direction. Everything that `adaptive` asks is a set of lines.

Outside of a trace, f is evaluated by one program and its values judged by another, which is compiled once for all functions; f may then as
well be called on the host, point by point. Most functions are smooth at the scale of x and need little of the ladder: many lines are first
given a quick look (`quick`), and only those for which that is not enough get the whole ladder. Inside of a trace all of it is one program,
and one such line takes its chunk with it.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.derivatives.estimates import Estimate, conclude
from jaxdiff.derivatives.ladder import Ladder, Samples, Steps, ladder_steps
from jaxdiff.derivatives.quick import Glance, conclude_quickly, quick_look, quick_positions

# Lines whose values are judged together, per output of f: their tables then take about 64 MiB. Few lines are filled up to the smaller
# number, so that judging is compiled for two sizes only. Our own choice.
_LINES_AT_ONCE = (32, 1024)
# Lines times outputs of f whose quick look is shared out to all cores.
MANY = 8192
_CORES = min(os.cpu_count() or 1, 8)
# What a host function raises of a point outside its domain.
OUTSIDE: tuple[type[Exception], ...] = (ValueError, ArithmeticError)


ValuesAt = Callable[[Any, Any], Any]
Look = Callable[[np.ndarray], Glance]


@dataclasses.dataclass(frozen=True)
class Lines:
    """P lines: where each is centred, how long its steps may be, and where a position lies in the space of x."""

    centres: jax.Array
    """[P] positions to differentiate at."""
    point: Callable[[Any, Any, Any], Any]
    """``point(numpy, i, position)``: the flat x of a position on line i, by `numpy` or `jax.numpy`."""
    scales: jax.Array | None = None
    """[P] lengths over which f may vary; None: max(|centre|, 1)."""
    bounds: tuple[jax.Array, jax.Array] | None = None
    """[P] positions outside which f is not evaluated."""
    is_direction: bool = False
    """Whether positions are multiples of a direction: steps below the rounding of ``scales`` then do not move x."""
    extrapolation: str = "polynomial"
    """How windows lead to a derivative; the quick look knows polynomials only."""


def point_lines(x: jax.Array, scales: Any, bounds: Any) -> Lines:
    """One line per point: f is a function of one number."""
    return Lines(x, lambda xp, i, position: xp.reshape(position, (1,)), scales, bounds)


def coordinate_lines(x: jax.Array, scales: Any, bounds: Any) -> Lines:
    """One line per coordinate of a flat x."""
    # A selection fuses with what follows and vectorises; a scatter does neither.
    return Lines(x, lambda xp, i, position: xp.where(xp.arange(x.size) == i, position, xp.asarray(x)), scales, bounds)


def direction_lines(x: jax.Array, directions: jax.Array, lengths: jax.Array, bounds: Any) -> Lines:
    """One line per row of ``directions`` [P, n], positions multiples of it.

    Args:
        x: [n].
        directions: [P, n].
        lengths: [n]: over which f may vary along each coordinate.
        bounds: of x, [n] each, or None.
    """
    share = jnp.max(jnp.abs(directions) / lengths, axis=1)
    reach = 1 / jnp.where(share > 0, share, 1)
    limits = None
    if bounds is not None:
        moves = directions != 0
        ends = [jnp.where(moves, (side - x) / jnp.where(moves, directions, 1), 0) for side in bounds]
        low, high = jnp.minimum(*ends), jnp.maximum(*ends)
        limits = jnp.max(jnp.where(moves, low, -jnp.inf), axis=1), jnp.min(jnp.where(moves, high, jnp.inf), axis=1)

    def point(xp: Any, i: Any, position: Any) -> Any:
        moved = xp.asarray(x) + position * xp.asarray(directions)[i]
        return moved if bounds is None else xp.clip(moved, xp.asarray(bounds[0]), xp.asarray(bounds[1]))

    return Lines(jnp.zeros(directions.shape[0], x.dtype), point, reach, limits, is_direction=True)


def look_along(values_at: ValuesAt, lines: Lines, num_outputs: int, index: jax.Array, chunk_size: int | None) -> Glance:
    """`quick_look` at the lines of which index [C] are the numbers."""
    items = jax.tree.map(lambda leaf: leaf[index], (lines.centres, lines.scales, lines.bounds))
    point = jax.eval_shape(lambda position: lines.point(jnp, 0, position), lines.centres[0])
    return quick_look(values_at, index, *items, lanes=chunk_size or MANY, elements=point.size + num_outputs)


def estimate_lines(values_at: ValuesAt, lines: Lines, n: int, num_outputs: int, chunk_size: int | None = None) -> Estimate:
    """The n-th derivative along every line, every field [P, outputs]; traceable.

    Args:
        values_at: ``values_at(index, positions)``: f, [J, C, outputs], at positions [J, C] on the lines of which index [C] are the numbers.
        lines: the lines.
        n: order of the derivative.
        num_outputs: of f.
        chunk_size: lines of a quick look at once; None: as many as stay in a cache.
    """
    ladder = Ladder.for_dtype(lines.centres.dtype, lines.extrapolation)
    count = lines.centres.size
    width = min(max(1, _LINES_AT_ONCE[1] // num_outputs), count)

    def whole(items: Any) -> Estimate:
        index, centre, scale, bounds = items
        steps, positions, is_inside = _place(centre, scale, bounds, lines.is_direction, ladder)
        return _conclude(values_at(index, positions), centre, steps, is_inside, ladder, n, 0)

    def chunk(items: Any) -> Estimate:
        if not is_worth_a_look(n, lines.extrapolation):
            return whole(items)
        glance = look_along(values_at, lines, num_outputs, items[0], chunk_size)
        found, is_enough = glance.estimate, glance.is_enough
        return jax.lax.cond(jnp.all(is_enough), lambda: found, lambda: _merged(found, is_enough, whole(items)))

    items = (jnp.arange(count), lines.centres, lines.scales, lines.bounds)
    if width == count:
        return chunk(items)
    chunks = math.ceil(count / width)
    # The last chunk is filled up with the last line.
    padded = jax.tree.map(lambda leaf: leaf[jnp.minimum(jnp.arange(chunks * width), count - 1)].reshape(chunks, width), items)
    found = jax.lax.map(chunk, padded)
    return jax.tree.map(lambda leaf: leaf.reshape(chunks * width, -1)[:count], found)


def _merged(found: Estimate, is_enough: jax.Array, whole: Estimate) -> Estimate:
    """What one window says where it is enough, and what the whole ladder says elsewhere, at the cost of both."""
    merged = jax.tree.map(lambda quick, full: jnp.where(is_enough[:, None], quick, full), found, whole)
    return dataclasses.replace(merged, num_evals=jnp.where(is_enough[:, None], 0, whole.num_evals) + found.num_evals)


def is_worth_a_look(n: int, extrapolation: str) -> bool:
    """Whether one window is known for this order."""
    return n == 1 and extrapolation == "polynomial"


def estimate_lines_now(
    values_at: ValuesAt, lines: Lines, n: int, num_outputs: int, *, look: Look | None = None, looked: Any = None, is_costly: bool = False
) -> Estimate:
    """`estimate_lines` with arrays for arguments: chunk by chunk from the host.

    Args:
        values_at: as there; may run on the host.
        lines: the lines.
        n: order of the derivative.
        num_outputs: of f.
        look: ``look(index)``: `look_along` as one program; None: positions, values and conclusions are three.
        looked: an estimate along all lines, and for which of them it is enough, where there is one already.
        is_costly: whether f is called on the host, point by point; it is then not called for what is not asked for: lines that fill up a
            chunk, and positions out of bounds, which are handed over as NaN.
    """
    ladder = Ladder.for_dtype(lines.centres.dtype, lines.extrapolation)
    count = lines.centres.size
    items = jax.tree.map(np.asarray, (lines.centres, lines.scales, lines.bounds))
    fields: dict[str, np.ndarray] = {}
    left = np.arange(count)

    def store(index: np.ndarray, found: Estimate) -> None:
        for name, leaf in vars(found).items():
            field = fields.setdefault(name, np.zeros((count, num_outputs), leaf.dtype))
            field[index] = np.asarray(leaf)[: len(index)]

    def sampled(filled: np.ndarray, positions: jax.Array, is_inside: jax.Array, asked: int) -> Any:
        if not is_costly:
            return values_at(filled, positions)
        wanted = np.where(is_inside, positions, np.nan)[:, :asked]
        values = np.asarray(values_at(filled[:asked], wanted))
        return np.concatenate([values, np.repeat(values[:, :1], len(filled) - asked, axis=1)], axis=1)

    def apart(index: np.ndarray, width: int) -> Glance:
        filled, *where = _take(items, index, width)
        positions, moved, unit, is_inside = _place_quickly(*where)
        return _conclude_quickly(sampled(filled, positions, is_inside, len(index)), moved, unit, is_inside)

    def looks() -> tuple[Estimate, jax.Array]:
        if look is None:
            width = _width(count, num_outputs)[0]
            parts = [apart(left[start : start + width], width) for start in range(0, count, width)]
        else:
            # All of them are under way before the first is waited for, and run side by side.
            width = count if count * num_outputs < MANY else -(-count // _CORES)
            parts = [look(_filled(left[start : start + width], width)) for start in range(0, count, width)]
        return _joined(parts, count)

    before: Any = 0
    if is_worth_a_look(n, lines.extrapolation):
        found, is_enough = looked or looks()
        if np.all(is_enough):
            return found
        fields = {name: np.array(leaf) for name, leaf in vars(found).items()}
        left = np.flatnonzero(~np.asarray(is_enough))
        before = fields["num_evals"][left]
    width, lanes = _width(len(left), num_outputs)
    for start in range(0, len(left), width):
        index = left[start : start + width]
        filled, centre, scale, bounds = _take(items, index, width)
        steps, positions, is_inside = _place(centre, scale, bounds, lines.is_direction, ladder)
        values = sampled(filled, positions, is_inside, len(index))
        store(index, _conclude(values, centre, steps, is_inside, ladder, n, lanes))
    fields["num_evals"][left] += before
    return Estimate(**{name: jnp.asarray(field) for name, field in fields.items()})


@functools.partial(jax.jit, static_argnums=1)
def _joined(parts: list[Glance], count: int) -> tuple[Estimate, jax.Array]:
    glance = jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)
    return glance.estimate, glance.is_enough


def _width(count: int, num_outputs: int) -> tuple[int, int]:
    """How many lines are judged at once, and with how many lanes."""
    few, many = _LINES_AT_ONCE
    lanes = few if count * num_outputs <= few else many
    return max(1, lanes // num_outputs), lanes


def _filled(index: np.ndarray, width: int) -> np.ndarray:
    return index[np.minimum(np.arange(width), len(index) - 1)]


def _take(items: Any, index: np.ndarray, width: int) -> tuple[np.ndarray, Any, Any, Any]:
    """Some lines, filled up with the last of them; by NumPy, which does not wait for what is under way."""
    filled = _filled(index, width)
    return filled, *jax.tree.map(lambda leaf: leaf[filled], items)


@functools.partial(jax.jit, static_argnums=(3, 4))
def _place(centre: jax.Array, scale: Any, bounds: Any, is_direction: bool, ladder: Ladder) -> tuple[Steps, jax.Array, jax.Array]:
    """Steps, the positions [2 J + 1, C] they lead to (centre, right, left), and which of them may be evaluated."""
    steps = ladder_steps(centre, ladder, scale, scale if is_direction else None)
    h = steps.h.reshape(-1, centre.size)
    positions = jnp.concatenate([centre[None], centre + h, centre - h])
    is_inside = jnp.ones_like(positions, bool)
    if bounds is not None:
        is_inside = (positions >= bounds[0]) & (positions <= bounds[1])
        # What may not be evaluated is not: f is called at the centre in its place.
        positions = jnp.where(is_inside, positions, centre)
    # The barrier keeps a compiler from seeing through (x + h) - x, which is taken of these again.
    return steps, jax.lax.optimization_barrier(positions), is_inside


def _conclude(values: Any, centre: Any, steps: Steps, is_inside: jax.Array, ladder: Ladder, n: int, lanes: int) -> Estimate:
    """Values [2 J + 1, C, outputs] to an estimate with fields [C, outputs]."""
    return _shaped(conclude(_samples(values, centre, steps, is_inside, lanes), ladder, n), is_inside, values.shape[-1])


@functools.partial(jax.jit, static_argnums=4)
def _samples(values: Any, centre: Any, steps: Steps, is_inside: jax.Array, filled: int) -> Samples:
    """Every output of every line as a lane of its own, filled up to so many lanes."""
    _, lines, outputs = values.shape
    lanes = lines * outputs
    values = jnp.where(is_inside[..., None], values, jnp.nan).reshape(len(values), lanes)
    right, left = jnp.split(values[1:].reshape(2 * steps.h.shape[0], steps.h.shape[1], lanes), 2)
    repeat = functools.partial(jnp.repeat, repeats=outputs, axis=-1)
    samples = Samples(repeat(centre), jax.tree.map(repeat, steps), values[0], right, left)
    return jax.tree.map(lambda leaf: leaf[..., np.minimum(np.arange(max(filled, lanes)), lanes - 1)], samples)


@functools.partial(jax.jit, static_argnums=2)
def _shaped(found: Estimate, is_inside: jax.Array, outputs: int) -> Estimate:
    lines = is_inside.shape[1]
    found = jax.tree.map(lambda leaf: leaf[: lines * outputs].reshape(lines, outputs), found)
    evaluations = jnp.sum(is_inside, axis=0, dtype=jnp.int32)[:, None]
    return dataclasses.replace(found, num_evals=jnp.broadcast_to(evaluations, (lines, outputs)))


_place_quickly = jax.jit(quick_positions)
_conclude_quickly = jax.jit(conclude_quickly)


def combine(estimates: Estimate, weights: jax.Array) -> Estimate:
    """A weighted sum of estimates along the leading axis: bars add up, and the worst status stands.

    Where a member has no value neither has the sum; nor has it slopes of its own.
    """
    nothing = jnp.full_like(estimates.value[0], jnp.nan)
    return Estimate(
        value=jnp.sum(weights * estimates.value, 0),
        error=jnp.sum(jnp.abs(weights) * estimates.error, 0),
        step=jnp.max(estimates.step, 0),
        noise=jnp.max(estimates.noise, 0),
        status=jnp.max(estimates.status, 0),
        left=nothing,
        right=nothing,
        num_evals=jnp.sum(estimates.num_evals, 0, dtype=estimates.num_evals.dtype),
    )
