"""Estimates along lines: f on the step ladder of every point, coordinate or direction, in chunks.

A line has a number of its own, the position, at which its ladder is centred: a point itself, one coordinate of x, or the multiple of a
direction. Everything that `adaptive` asks is a set of lines.

Outside of a trace, f is evaluated by one program and its values judged by another, which is compiled once for all functions; f may then as
well be called on the host, point by point. Most functions are smooth at the scale of x and need little of the ladder: many lines are first
sampled on one window and a few tiny steps, and only those on which f is not a polynomial there to rounding, tiny steps included, get the
whole ladder. Inside of a trace all of it is one program.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon
from jaxdiff.derivatives.estimates import Estimate, EstimateStatus, conclude
from jaxdiff.derivatives.ladder import CAUTION, OCTAVE, Basis, Ladder, Samples, Steps, basis_for, ladder_steps
from jaxdiff.derivatives.steps import power_of_two_below

# Lines whose values are judged together, per output of f: their tables then take about 64 MiB. Few lines are filled up to the smaller
# number, so that judging is compiled for two sizes only. Our own choice.
_LINES_AT_ONCE = (32, 1024)
# Lines that are sampled on one window first: at least so many, and so many together.
_MANY = (64, 8192)
# What a host function raises of a point outside its domain.
OUTSIDE: tuple[type[Exception], ...] = (ValueError, ArithmeticError)


ValuesAt = Callable[[Any, Any], Any]


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


def estimate_lines(values_at: ValuesAt, lines: Lines, n: int, num_outputs: int) -> Estimate:
    """The n-th derivative along every line, every field [P, outputs]; traceable.

    Args:
        values_at: ``values_at(index, positions)``: f, [J, C, outputs], at positions [J, C] on the lines of which index [C] are the numbers.
        lines: the lines.
        n: order of the derivative.
        num_outputs: of f.
    """
    ladder = Ladder.for_dtype(lines.centres.dtype)
    count = lines.centres.size
    width = min(max(1, _LINES_AT_ONCE[1] // num_outputs), count)

    def chunk(items: Any) -> Estimate:
        index, centre, scale, bounds = items
        steps, positions, is_inside = _place(centre, scale, bounds, lines.is_direction, ladder)
        return _conclude(values_at(index, positions), centre, steps, is_inside, ladder, n)

    items = (jnp.arange(count), lines.centres, lines.scales, lines.bounds)
    if width == count:
        return chunk(items)
    chunks = math.ceil(count / width)
    # The last chunk is filled up with the last line.
    padded = jax.tree.map(lambda leaf: leaf[jnp.minimum(jnp.arange(chunks * width), count - 1)].reshape(chunks, width), items)
    found = jax.lax.map(chunk, padded)
    return jax.tree.map(lambda leaf: leaf.reshape(chunks * width, -1)[:count], found)


def estimate_lines_now(values_at: ValuesAt, lines: Lines, n: int, num_outputs: int, *, is_costly: bool) -> Estimate:
    """`estimate_lines` with arrays for arguments: chunk by chunk from the host.

    Args:
        values_at: as there; may run on the host.
        lines: the lines.
        n: order of the derivative.
        num_outputs: of f.
        is_costly: whether f is called on the host, point by point; what is judged is then not filled up with lines that are not asked for.
    """
    ladder = Ladder.for_dtype(lines.centres.dtype)
    count = lines.centres.size
    fields = [np.zeros((count, num_outputs), np.int32 if name == "status" else lines.centres.dtype) for name in _FIELDS]
    left = np.arange(count)

    def store(index: np.ndarray, found: Estimate) -> None:
        for field, name in zip(fields, _FIELDS, strict=True):
            field[index] = np.asarray(getattr(found, name))[: len(index)]

    if n == 1 and not lines.is_direction and count >= _MANY[0]:
        width = min(max(1, _MANY[1] // num_outputs), count)
        failed = []
        for start in range(0, count, width):
            index = left[start : start + width]
            filled, centre, scale, bounds = _take(lines, index, width)
            positions, is_inside = _place_quickly(centre, scale, bounds)
            found, is_enough = _conclude_quickly(values_at(filled, positions), centre, scale, positions, is_inside)
            store(index, found)
            failed.append(index[~np.asarray(is_enough)[: len(index)]])
        left = np.concatenate(failed)
    for start in range(0, len(left), width := _width(len(left), num_outputs)):
        index = left[start : start + width]
        filled, centre, scale, bounds = _take(lines, index, width)
        steps, positions, is_inside = _place(centre, scale, bounds, lines.is_direction, ladder)
        if is_costly:
            asked = np.asarray(values_at(filled[: len(index)], positions[:, : len(index)]))
            values = np.concatenate([asked, np.repeat(asked[:, :1], width - len(index), axis=1)], axis=1)
        else:
            values = values_at(filled, positions)
        store(index, _conclude(values, centre, steps, is_inside, ladder, n))
    return Estimate(*map(jnp.asarray, fields), num_evals=ladder.num_evaluations)


_FIELDS = ("value", "error", "step", "noise", "status", "left", "right")


def _width(count: int, num_outputs: int) -> int:
    few, many = (max(1, lanes // num_outputs) for lanes in _LINES_AT_ONCE)
    return few if count <= few else many


def _take(lines: Lines, index: np.ndarray, width: int) -> tuple[jax.Array, jax.Array, Any, Any]:
    """Some lines, filled up with the last of them."""
    filled = jnp.asarray(index[np.minimum(np.arange(width), len(index) - 1)])
    return filled, *jax.tree.map(lambda leaf: leaf[filled], (lines.centres, lines.scales, lines.bounds))


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


@functools.partial(jax.jit, static_argnums=(4, 5))
def _conclude(values: jax.Array, centre: jax.Array, steps: Steps, is_inside: jax.Array, ladder: Ladder, n: int) -> Estimate:
    """Values [2 J + 1, C, outputs] to an estimate with fields [C, outputs]."""
    width, outputs = values.shape[1:]
    found = conclude(_samples(values, centre, steps, is_inside), ladder, n)
    return jax.tree.map(lambda leaf: leaf.reshape(width, outputs), found)


def _samples(values: jax.Array, centre: jax.Array, steps: Steps, is_inside: jax.Array) -> Samples:
    """Every output of every line as a lane of its own."""
    outputs = values.shape[-1]
    values = jnp.where(is_inside[..., None], values, jnp.nan)
    right, left = jnp.split(values[1:].reshape(2 * steps.h.shape[0], steps.h.shape[1], -1), 2)
    repeat = functools.partial(jnp.repeat, repeats=outputs, axis=-1)
    return Samples(repeat(centre), jax.tree.map(repeat, steps), values[0].reshape(-1), right, left)


@jax.jit
def _place_quickly(centre: jax.Array, scale: Any, bounds: Any) -> tuple[jax.Array, jax.Array]:
    """Positions [2 J + 1, C] of one window and of tiny steps, and the lines [C] all of whose positions may be evaluated."""
    h = _quick_steps(centre, scale)
    positions = jax.lax.optimization_barrier(jnp.concatenate([centre[None], centre + h, centre - h]))
    if bounds is None:
        return positions, jnp.ones(centre.shape, bool)
    is_inside = jnp.all((positions >= bounds[0]) & (positions <= bounds[1]), axis=0)
    return jnp.where(is_inside, positions, centre), is_inside


def _quick_steps(centre: jax.Array, scale: Any) -> jax.Array:
    # What varies over the length |x| is rare where |x| is large; sin at x = 10 varies over one.
    scale = jnp.maximum(jnp.abs(centre) / 16, 1) if scale is None else scale
    return power_of_two_below(scale) * jnp.asarray(_Quick.for_dtype(centre.dtype).steps, centre.dtype)[:, None]


@jax.jit
def _conclude_quickly(
    values: jax.Array, centre: jax.Array, scale: Any, positions: jax.Array, is_inside: jax.Array
) -> tuple[Estimate, jax.Array]:
    """The first derivative from one window, and whether [C] that is enough: f is there what one fit says, to rounding."""
    dtype = centre.dtype
    epsilon = machine_epsilon(dtype)
    quick = _Quick.for_dtype(dtype)
    h = _quick_steps(centre, scale)
    f0, (right, left) = values[0], jnp.split(values[1:], 2)
    ahead, behind = jnp.split((positions[1:] - centre)[..., None], 2)
    nodes = len(quick.odd.rows)
    span = jnp.max(jnp.abs(values), axis=0)
    top = h[0][:, None]

    # Where x + h is rounded, values are moved along the chord.
    slope = (right - left) / (ahead - behind)
    h = h[..., None]
    right, left = right + slope * (h - ahead), left - slope * (h + behind)
    odd, even = (right - left) / 2, (right - f0) / 2 + (left - f0) / 2
    coefficients, beside = quick.odd.coefficients(odd[:nodes]), quick.even.coefficients(even[:nodes])
    left_over = [basis.misfit(part, quick.degrees, quick.degrees)[0] for basis, part in ((quick.odd, coefficients), (quick.even, beside))]
    misfit = jnp.maximum(*left_over)
    value = quick.odd.fits(odd[:nodes], quick.degrees)[-1] / top
    following = slice(quick.degrees, quick.degrees + 2)
    omitted = jnp.sum(jnp.abs(coefficients[following] * jnp.asarray(quick.odd.terms[following], dtype)[:, None, None]), axis=0)
    noise = jnp.maximum(misfit, epsilon / 2 * span)
    last = quick.degrees - 1
    bar = (float(quick.odd.absolute[last]) * epsilon / 2 * span + CAUTION * float(quick.odd.root[last]) * misfit + 2 * omitted) / top
    bar += 4 * epsilon * jnp.abs(value)

    # Far below the window f has to be the same straight line; its curvature is beyond rounding at the smallest two steps only.
    rounding = 4 * epsilon * span
    is_straight = jnp.all(jnp.abs(odd[nodes:] - value * h[nodes:]) <= rounding + bar * h[nodes:], axis=0)
    is_level = jnp.all(jnp.abs(even[-2:]) <= rounding, axis=0)
    is_enough = is_inside[:, None] & is_straight & is_level & (noise <= 4 * epsilon * span) & (omitted <= 100 * epsilon * span)
    nothing = jnp.full_like(value, jnp.nan)
    status = jnp.full(value.shape, EstimateStatus.OK, jnp.int32)
    return Estimate(value, bar, jnp.broadcast_to(top, value.shape), noise, status, nothing, nothing, 0), jnp.all(is_enough, axis=1)


class _Quick(NamedTuple):
    """One window, and tiny steps at which to look whether f is there what it seems from above."""

    steps: np.ndarray
    """The window's steps, then the tiny ones, in units of the scale."""
    odd: Basis
    even: Basis
    degrees: int

    @classmethod
    def for_dtype(cls, dtype: Any) -> "_Quick":
        octaves, degrees, tiny = (4, 8, (18, 24, 30, 36)) if machine_epsilon(dtype) < 1e-12 else (3, 5, (9, 13, 17))
        steps = [node * 2.0**-octave for octave in range(octaves) for node in OCTAVE] + [OCTAVE[0] * 2.0**-octave for octave in tiny]
        return cls(np.array(steps), basis_for("odd", 1, octaves), basis_for("even", 1, octaves), degrees)


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
        num_evals=estimates.num_evals,
    )


def estimate_along(phi: Callable[[jax.Array], jax.Array], scale: Any, dtype: Any, n: int = 1) -> Estimate:
    """The n-th derivative at t = 0 of a traceable function of one number, every field in the shape of what it returns; traceable.

    Args:
        phi: from t to an array.
        scale: the length of t over which phi may vary; steps below its rounding are not taken.
        dtype: of t.
        n: order of the derivative.
    """
    lines = Lines(jnp.zeros(1, dtype), lambda xp, i, position: position, jnp.asarray(scale, dtype)[None], None, is_direction=True)
    output = jax.eval_shape(phi, jax.ShapeDtypeStruct((), dtype))

    def values_at(index: jax.Array, positions: jax.Array) -> jax.Array:
        return jax.vmap(lambda position: jnp.ravel(phi(position)))(positions[:, 0])[:, None].astype(dtype)

    found = estimate_lines(values_at, lines, n, max(1, math.prod(output.shape)))
    return jax.tree.map(lambda leaf: leaf.reshape(output.shape), found)
