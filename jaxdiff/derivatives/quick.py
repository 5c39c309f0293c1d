"""A first derivative from one window, where f is a polynomial there to rounding: a tenth of the ladder's evaluations, and less of its work.

f is taken at a few steps on both sides. Odd and even polynomials with fewer terms are fitted, and what they leave over has to be rounding.
At some more steps, ever smaller, on one side or the other in turn, the fits have to say what f is, within its rounding. A bump, a kink or a
grid that the window does not see shows at one of these. An f that does not move over the window at all, and not at a step far off either,
is a constant, or else it may be one rounded to a grid. Where the slightest thing is amiss, the answer is that one window is not enough.

In float64 the window is narrow, from a seventh of the scale down to a fiftieth, so that functions with a singularity one scale away, such
as log(x) at 1, are polynomials in it too; the price, rounding divided by a smaller step, is some 1e-15 of f. In float32, where that price
would be digits, it is five times as wide.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon
from jaxdiff.derivatives.estimates import Estimate, EstimateStatus
from jaxdiff.derivatives.ladder import CAUTION
from jaxdiff.derivatives.steps import power_of_two_below

# Noise in units of f's rounding, and the omitted terms in units of the bar's share of rounding, above which one window is not enough; and
# how many roundings f has to move by over the window. Our own choice.
_NOISE = 4.0
_OMITTED = 4.0
_MOVES = 16.0
# A step towards zero and past it, in units of the scale: an f that has not moved there either is taken for a constant.
_FAR = 6.3
# Lines that are worked on together, and numbers that f is evaluated at together: half a mebibyte stays in a core's cache.
_LANES = 1024
_ELEMENTS = 2**16


class Quick(NamedTuple):
    """One window, and the probes below it."""

    window: np.ndarray
    """[W] steps, in units of the scale, few bits each, so that x + h is mostly exact."""
    probes: np.ndarray
    """[P] steps with a sign."""
    matrix: np.ndarray
    """[1 + odd + even + P, 2 W]: from odd, then even parts at the window's steps, the derivative times the largest step; what the odd fit
    leaves over, the first omitted term first; what the even fit leaves over; and what f - f(x) is at the probes."""
    left_over: tuple[int, int]
    """How many rows are left over of either part."""
    absolute: float
    """Sum of the derivative's absolute weights on values of f, its step in units of the largest."""
    root: float
    """Root of the sum of their squares, for values of unit noise."""
    omitted: float
    """What a unit of the first omitted term adds to the derivative."""

    @classmethod
    @functools.cache
    def of(cls, dtype: np.dtype) -> "Quick":
        """The window of a precision."""
        if machine_epsilon(dtype) < 1e-12:
            top, ratio, nodes, terms, octaves = 0.15, 0.74, 8, 6, (6.7, 9.3, 13.2, 20.4, 31.3)
        else:
            top, ratio, nodes, terms, octaves = 0.7, 0.68, 6, 4, (3.9, 5.2, 7.4, 10.7, 15.6)
        window = np.array([_short(top * ratio**k) for k in range(nodes)])
        probes = np.array([_short(2.0**-octave) * (-1) ** k for k, octave in enumerate(octaves)])
        t, at = window / window[0], probes / window[0]
        powers = 2 * np.arange(terms)
        odd, inverse = _fit(t[:, None] ** (2 * np.arange(nodes) + 1))
        # The even part carries f(x) as a node at zero; continued to the probes, it is known to vanish there.
        even = np.linalg.qr(np.append(t, 0.0)[:, None] ** (2 * np.arange(terms + 1)), mode="complete")[0]
        own = inverse[0, :terms] @ odd[:, :terms].T
        rows = [
            np.concatenate([own, np.zeros(nodes)])[None],
            np.concatenate([odd[:, terms:].T, np.zeros((nodes - terms, nodes))], axis=1),
            np.concatenate([np.zeros((nodes - terms, nodes)), even[:-1, terms + 1 :].T], axis=1),
            np.concatenate([_continued(t, at, powers + 1), _continued(t, at, powers + 2)], axis=1),
        ]
        absolute, root = float(np.sum(np.abs(own))), float(np.linalg.norm(own))
        return cls(window, probes, np.concatenate(rows), (nodes - terms, nodes - terms), absolute, root, abs(float(inverse[0, terms])))

    @property
    def steps(self) -> np.ndarray:
        """All steps with their signs, the point itself first, the far one last."""
        return np.concatenate([[0.0], self.window, -self.window, self.probes, [_FAR]])

    @property
    def num_evaluations(self) -> int:
        """Of f, per line."""
        return len(self.steps)


def _short(step: float) -> float:
    """A step of seven bits."""
    unit = 2.0 ** (np.ceil(np.log2(step)) - 7)
    return float(np.round(step / unit) * unit)


def _fit(powers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An orthonormal basis of powers, low ones first, and what power each of its members consists of."""
    q, r = np.linalg.qr(powers)
    return q, np.linalg.inv(r)


def _continued(t: np.ndarray, at: np.ndarray, powers: np.ndarray) -> np.ndarray:
    """[P, W]: the least-squares fit of these powers, at other places."""
    q, r = np.linalg.qr(t[:, None] ** powers)
    return np.linalg.solve(r.T, (at[:, None] ** powers).T).T @ q.T


def quick_positions(centre: jax.Array, scale: Any, bounds: Any) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Positions [J, C], the points themselves first; how far they are from those; unit of the steps; lines that may be evaluated, [C]."""
    steps, unit = jnp.asarray(Quick.of(centre.dtype).steps, centre.dtype), _unit(centre, scale)
    is_inside = _is_inside(centre, unit, bounds)
    positions = _positions(centre, unit, steps, bounds, is_inside)
    return positions, positions - centre, unit, is_inside


def _is_inside(centre: jax.Array, scale: jax.Array, bounds: Any) -> jax.Array:
    if bounds is None:
        return jnp.ones(centre.shape, bool)
    reach = scale * float(Quick.of(centre.dtype).window[0])
    return (centre - reach >= bounds[0]) & (centre + reach <= bounds[1])


def _positions(centre: jax.Array, scale: jax.Array, steps: jax.Array, bounds: Any, is_inside: jax.Array) -> jax.Array:
    steps = steps[:, None]
    steps = jnp.where((steps == jnp.asarray(_FAR, steps.dtype)) & (centre > 0), -steps, steps)
    # The barrier keeps a compiler from seeing through (x + h) - x, which is taken of these again.
    positions = jax.lax.optimization_barrier(centre + scale * steps)
    if bounds is None:
        return positions
    # What may not be evaluated is not: f is called at the centre in its place.
    return jnp.where(is_inside & (positions >= bounds[0]) & (positions <= bounds[1]), positions, centre)


def _unit(centre: jax.Array, scale: Any) -> jax.Array:
    """The unit of steps: a power of two."""
    # What varies over the length |x| is rare where |x| is large; sin at x = 10 varies over one.
    return power_of_two_below(jnp.maximum(jnp.abs(centre) / 16, 1) if scale is None else scale)


def quick_look(
    values_at: Callable[[Any, Any], jax.Array], index: jax.Array, centre: jax.Array, scale: Any, bounds: Any, lanes: int, elements: int
) -> "Glance":
    """Positions, values and conclusions in one traceable program, block by block, so that what is between them stays in a core's cache.

    Args:
        values_at: f, [J, C, outputs], at positions [J, C] on the lines of which index [C] are the numbers.
        index: [C] numbers of the lines.
        centre: [C].
        scale: [C], or None.
        bounds: two [C], or None.
        lanes: at most so many lines at once.
        elements: numbers that go into f and come out of it, per line and position.

    Returns:
        What one window says.
    """
    count = index.size
    block = max(1, min(lanes, _LANES, _ELEMENTS // elements, count))
    rows = max(1, min(_ELEMENTS // (8 * elements * block), (Quick.of(centre.dtype).num_evaluations + 1) // 2))

    def look(items: Any) -> Any:
        index, centre, scale, bounds = items
        is_inside = _is_inside(centre, scale, bounds)

        def some(steps: jax.Array) -> tuple[jax.Array, jax.Array]:
            positions = _positions(centre, scale, steps, bounds, is_inside)
            return values_at(index, positions), positions - centre

        values, moved = _by_rows(some, rows, centre.dtype)
        return conclude_quickly(values, moved, scale, is_inside)

    # Ahead of the loop: in one expression with the positions, it would be computed for each of them.
    items = (index, centre, _unit(centre, scale), bounds)
    if block == count:
        return look(items)
    blocks = -(-count // block)
    # The last block is filled up with the last line.
    padded = jax.tree.map(lambda leaf: leaf[jnp.minimum(jnp.arange(blocks * block), count - 1)].reshape(blocks, block), items)
    found = jax.lax.map(look, padded)
    return jax.tree.map(lambda leaf: leaf.reshape(blocks * block, *leaf.shape[2:])[:count], found)


def _by_rows(some: Callable[[jax.Array], Any], rows: int, dtype: Any) -> Any:
    """Some of the steps after the other. Out of one expression, a compiler computes f again for every use of its values."""
    steps = Quick.of(dtype).steps
    groups = -(-len(steps) // rows)
    filled = np.concatenate([steps, np.zeros(groups * rows - len(steps))])
    found = jax.lax.map(some, jnp.asarray(filled.reshape(groups, rows), dtype))
    return jax.tree.map(lambda leaf: leaf.reshape(groups * rows, *leaf.shape[2:])[: len(steps)], found)


class Glance(NamedTuple):
    """What one window says: what differs from line to line of an estimate."""

    value: jax.Array
    """[C, outputs], as the next three."""
    error: jax.Array
    step: jax.Array
    noise: jax.Array
    is_inside: jax.Array
    """[C]: lines that f was evaluated on, 23 times in float64."""
    is_enough: jax.Array
    """[C]: lines for which the window is enough."""

    @property
    def estimate(self) -> Estimate:
        """The estimate, fields [C, outputs]."""
        count = jnp.where(self.is_inside, Quick.of(self.value.dtype).num_evaluations, 0).astype(jnp.int32)
        nothing = jnp.full_like(self.value, jnp.nan)
        status = jnp.full(self.value.shape, EstimateStatus.OK, jnp.int32)
        return Estimate(*self[:4], status, nothing, nothing, jnp.broadcast_to(count[:, None], self.value.shape))


def conclude_quickly(values: jax.Array, moved: jax.Array, scale: jax.Array, is_inside: jax.Array) -> "Glance":
    """The first derivative from values [J, C, outputs].

    Args:
        values: of f.
        moved: [J, C] distances of their positions from the points.
        scale: [C] unit of the steps.
        is_inside: [C] lines that f was evaluated on.
    """
    dtype, (_, lines, outputs) = scale.dtype, values.shape
    epsilon, quick = machine_epsilon(dtype), Quick.of(dtype)
    nodes, (odd_left, even_left) = len(quick.window), quick.left_over
    # One axis of lanes: a loop over a last axis of one output is no vector instruction.
    values, far = values[:-1].reshape(-1, lines * outputs), values[-1].reshape(-1)
    moved, unit = (jnp.repeat(leaf, outputs, axis=-1) if outputs > 1 else leaf for leaf in (moved[1:], scale))
    moved, moved_far = moved[:-1], moved[-1]
    h, top = unit * jnp.asarray(quick.window, dtype)[:, None], unit * float(quick.window[0])
    f0, (right, left, probed) = values[0], jnp.split(values[1:], (nodes, 2 * nodes))
    ahead, behind, beside = jnp.split(moved, (nodes, 2 * nodes))
    span = jnp.max(jnp.abs(values), axis=0)
    # Where x + h is rounded, values are moved along a chord.
    slope = (right[0] - left[0]) / (ahead[0] - behind[0])
    right, left = right + slope * (h - ahead), left - slope * (h + behind)
    parts = jnp.concatenate([(right - left) / 2, (right - f0) / 2 + (left - f0) / 2])
    rows = jnp.tensordot(jnp.asarray(quick.matrix, dtype), parts, axes=1, precision=jax.lax.Precision.HIGHEST)
    own, odd, even, expected = rows[0], rows[1 : 1 + odd_left], rows[1 + odd_left : 1 + odd_left + even_left], rows[-len(quick.probes) :]

    misfit = jnp.sqrt(jnp.maximum(jnp.mean(odd**2, axis=0), jnp.mean(even**2, axis=0)))
    # The terms fall quickly, or noise is all that there is of them: the second, by itself, stands for the first.
    omitted = quick.omitted * jnp.max(jnp.abs(odd), axis=0)
    value, rounding = own / top, quick.absolute * epsilon / 2 * span
    bar = (rounding + CAUTION * quick.root * misfit + 2 * omitted) / top + 4 * epsilon * jnp.abs(value)
    step = unit * jnp.asarray(quick.probes, dtype)[:, None]
    strayed = jnp.max(jnp.abs(probed - f0 - value * (beside - step) - expected), axis=0)
    is_smooth = (misfit <= _NOISE * epsilon * span) & (strayed <= _NOISE * epsilon * span) & (omitted <= _OMITTED * rounding)
    moves = jnp.maximum(jnp.abs(parts[0]), jnp.abs(parts[nodes])) > _MOVES * epsilon * span
    is_constant = jnp.all(values == f0, axis=0) & (far == f0) & (moved_far != 0)
    is_enough = is_inside & jnp.all((is_smooth & (moves | is_constant) & jnp.isfinite(bar)).reshape(lines, outputs), axis=1)
    noise = jnp.maximum(misfit, epsilon / 2 * span)
    value, bar, top, noise = (leaf.reshape(lines, outputs) for leaf in (value, bar, top, noise))
    return Glance(value, bar, top, noise, is_inside, is_enough)
