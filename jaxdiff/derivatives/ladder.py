"""A derivative and its error bar from values of f on a ladder of steps: polynomial fits at every scale, the scale chosen by the data.

f is evaluated at x +- h for three steps per octave, from several times the scale of x down to its rounding. Around every octave a window
of neighbouring steps is fitted by polynomials of every degree at once: in an orthonormal basis the fit of degree p is a partial sum of
the fit of degree p + 1, so that one product of a small orthogonal matrix with the window gives all of them, and what is left over, the
tail, is the noise of f *at the scale where it is used*. A candidate, one window and one degree, has the error bar

    (|w|_1 floor + 2 |w|_2 max(noise, misfit)) / h^n  +  2 (first two omitted terms),

with w the weights of the formula, the floor half a unit in the last place of the largest value (or half a quantum, for an f that only
takes values of a grid), the noise the largest tail of this and of all smaller windows, and the misfit the residual of this fit.
Candidates are trusted from small steps upward, where noise is large and truncation absent, as long as their confidence intervals have a
point in common (Lepski's rule): a large step at which f was aliased, or crosses a kink, contradicts them. The one with the
smallest bar is taken.

The weights' constants, the factors 4 and 2, and the width of the intervals are our own, tuned on one set of functions and checked on
another.

References:
    J. Lyness and C. Moler, Numerical differentiation of analytic functions, SIAM J. Numer. Anal. 4 (1967) 202-210 (many steps, one fit).
    O. Lepski, On a problem of adaptive estimation in Gaussian white noise, Theory Probab. Appl. 35 (1991) 454-466 (choosing a scale).
    P. Brubeck, Y. Nakatsukasa and N. Trefethen, Vandermonde with Arnoldi, SIAM Review 63 (2021) 405-415 (the orthonormal basis).
"""

import dataclasses
import functools
import math
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon, smallest_normal
from jaxdiff.derivatives.stencils import exact_weights
from jaxdiff.derivatives.steps import power_of_two_below

# Steps in an octave: seven bits each, so that x + h is exact for all but the very smallest, and no two of them a power of two apart, so
# that a period of f that divides one does not divide the others.
OCTAVE = (0.9142135623730951, 0.7428260819, 0.5856680633)
# The smallest step, in units in the last place of x: below it x + h is no longer exact.
_SMALLEST = 2.0**3


EXTRAPOLATIONS = ("polynomial", "richardson", "ridders")
"""How a window leads to a derivative: least-squares polynomials over all of its steps, or a tableau of exact eliminations over steps that
halve (Richardson) or that shrink by a fifth (as Ridders' do by a third)."""


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Which steps are taken, and how many of them make a window; powers of two of the scale of x."""

    top: int
    """log2 of the largest step, in units of the scale max(|x|, 1)."""
    absolute: int
    """Octaves from the top downward."""
    relative: int
    """Octaves below those, or from |x| downward where |x| is smaller than all of those."""
    window: int
    """Octaves of a window."""
    degrees: int
    """The largest number of terms of a fit."""
    extrapolation: str = "polynomial"
    """One of `EXTRAPOLATIONS`."""

    @classmethod
    def for_dtype(cls, dtype: jnp.dtype, extrapolation: str = "polynomial") -> "Ladder":
        """The ladder that the precision calls for."""
        if machine_epsilon(dtype) < 1e-12:
            return cls(top=3, absolute=30, relative=12, window=6, degrees=13, extrapolation=extrapolation)
        return cls(top=3, absolute=16, relative=7, window=4, degrees=8, extrapolation=extrapolation)

    @property
    def octaves(self) -> int:
        """Octaves in all."""
        return self.absolute + self.relative

    @property
    def num_windows(self) -> int:
        """Windows in all, one per octave that has enough octaves below it."""
        return self.octaves - self.window + 1

    @property
    def num_evaluations(self) -> int:
        """Evaluations of f per point: both sides, and the point itself."""
        return 2 * len(OCTAVE) * self.octaves + 1


@dataclasses.dataclass(frozen=True, eq=False)
class Basis:
    """An orthonormal basis of a window's values, low degrees first, and what its members say of a derivative at the centre."""

    rows: np.ndarray
    """[terms, nodes]: coefficients in the basis are ``rows @ values``."""
    weights: np.ndarray
    """[terms, nodes]: the derivative by the fit with 1, 2, ... terms, for a window whose largest step is one, is ``weights @ values``."""
    terms: np.ndarray
    """[terms]: what a unit coefficient adds to the derivative."""
    first: int
    """The smallest number of terms that can give the derivative."""
    absolute: np.ndarray
    """[terms]: sum of the absolute weights on values of f, of the fit with 1, 2, ... terms."""
    root: np.ndarray
    """[terms]: root of the sum of their squares, for values of unit noise."""

    def coefficients(self, values: jax.Array) -> jax.Array:
        """[terms, ...] from [nodes, ...]; the node at zero, which carries nothing, may be left out."""
        return _contract(self.rows[:, : len(values)], values)

    def fits(self, values: jax.Array, degrees: int) -> jax.Array:
        """The derivative by the fits with ``first`` to ``degrees`` terms."""
        return _contract(self.weights[self.first - 1 : degrees, : len(values)], values)

    def misfit(self, coefficients: jax.Array, degrees: int, first: int | None = None) -> jax.Array:
        """Root mean square of what the same fits leave over."""
        counts = np.arange(self.first if first is None else first, degrees + 1)
        size = len(self.terms)
        left_over = (np.arange(size) >= counts[:, None]) / (size - counts)[:, None]
        return jnp.sqrt(_contract(left_over, coefficients**2))


def _contract(matrix: np.ndarray, values: jax.Array) -> jax.Array:
    return jnp.tensordot(jnp.asarray(matrix, values.dtype), values, axes=1, precision=jax.lax.Precision.HIGHEST)


@functools.cache
def basis_for(kind: str, n: int, octaves: int) -> Basis:
    """The basis of one kind of window.

    Args:
        kind: "odd" (half the difference of both sides: h, h^3, ...), "even" (their mean, less f(x): h^2, h^4, ..., with the constant, for
            f(x) is as noisy as the rest) or "side" (one side: 1, h, h^2, ...).
        n: order of the derivative.
        octaves: width of the window.
    """
    h = np.array([2.0**-octave * node / OCTAVE[0] for octave in range(octaves) for node in OCTAVE])
    if kind == "odd":
        # The half difference of two values has 1/sqrt(2) of the noise of one; all nodes alike, so that no weights are called for.
        node_scale, start, step, power = np.ones_like(h), h, h**2, (n - 1) // 2
    else:
        h = np.concatenate([h, [0.0]])
        node_scale = np.where((h > 0) & (kind == "even"), math.sqrt(2.0), 1.0)
        start, step = np.ones_like(h) * node_scale, h**2 if kind == "even" else h
        power = n // 2 if kind == "even" else n
    # Vandermonde with Arnoldi: Gram-Schmidt, twice, on the recurrence instead of on powers, whose matrix is singular to rounding. The
    # Taylor coefficients at zero of every member follow the same recurrence.
    size = len(h)
    q = np.zeros((size, size))
    series = np.zeros((size, power + 1))
    norm = float(np.linalg.norm(start))
    q[0], series[0, 0] = start / norm, 1 / norm
    for i in range(1, size):
        new, taylor = step * q[i - 1], np.concatenate([[0.0], series[i - 1, :-1]])
        for _ in range(2):
            overlap = q[:i] @ new
            new, taylor = new - overlap @ q[:i], taylor - overlap @ series[:i]
        norm = float(np.linalg.norm(new))
        q[i], series[i] = new / norm, taylor / norm
    terms = series[:, power] * math.factorial(n)
    weights = np.cumsum(terms[:, None] * q, axis=0) * node_scale
    return Basis(q * node_scale, weights, terms, power + 1, absolute=np.abs(weights).sum(1), root=np.sqrt(np.cumsum(terms**2)))


class Tableau(NamedTuple):
    """One row of Richardson's tableau: formulas that eliminate 0, 1, 2, ... more powers of h, from the window's largest step downward."""

    weights: np.ndarray
    """[formulas, nodes]: the derivative, for a window whose largest step is one, is ``weights @ values``."""
    absolute: np.ndarray
    """[formulas]: sum of the absolute weights on values of f."""
    root: np.ndarray
    """[formulas]: root of the sum of their squares, in the units of a misfit of the same kind of window."""


@functools.cache
def tableau_for(kind: str, n: int, octaves: int, extrapolation: str) -> Tableau:
    """The tableau of an "odd" or "even" window, its weights by exact elimination.

    Args:
        kind: as in `basis_for`; one side of x alone is left to polynomials.
        n: order of the derivative.
        octaves: width of the window.
        extrapolation: "richardson", over steps a factor of two apart, or "ridders", over every step of the window, at most nine of them.

    References:
        L. F. Richardson and J. A. Gaunt, The deferred approach to the limit, Phil. Trans. R. Soc. A 226 (1927) 299-361; C. J. F. Ridders,
        Accurate computation of F'(x) and F'(x) F''(x), Advances in Engineering Software 4 (1982) 75-76.
    """
    nodes = [Fraction(node) / Fraction(OCTAVE[0]) / 2**octave for octave in range(octaves) for node in OCTAVE]
    stride = len(OCTAVE) if extrapolation == "richardson" else 1
    chosen = list(range(0, len(nodes), stride))[:9]
    rows, absolute, root = [], [], []
    for count in range((n + 1) // 2, len(chosen) + 1):
        h = [nodes[i] for i in chosen[:count]]
        exact = exact_weights((Fraction(0), *h, *(-step for step in h)), n)
        weights = np.zeros(len(nodes))
        # Both sides together: half their difference, or their mean less f(x).
        weights[chosen[:count]] = [2 * float(weight) for weight in exact[1 : count + 1]]
        at_centre = float(exact[0])
        rows.append(weights)
        absolute.append(float(np.sum(np.abs(weights))) + abs(at_centre))
        one = weights if kind == "odd" else weights / math.sqrt(2.0)
        root.append(math.hypot(float(np.linalg.norm(one)), at_centre))
    return Tableau(np.array(rows), np.array(absolute), np.array(root))


class Steps(NamedTuple):
    """The ladder's steps for each of P points."""

    h: jax.Array
    """[octaves, 3, P] steps, descending."""
    is_usable: jax.Array
    """[octaves, 3, P]: whether x + h differs from x by h, to rounding."""
    is_contiguous: jax.Array
    """[P]: whether the relative octaves follow upon the absolute ones."""


def ladder_steps(x: jax.Array, ladder: Ladder, scale: jax.Array | None = None, resolution: jax.Array | None = None) -> Steps:
    """Steps around every point.

    Args:
        x: [P] points.
        ladder: which steps.
        scale: [P] positive, instead of max(|x|, 1).
        resolution: [P] positive; steps below its rounding are not usable, as those below the rounding of x are not.
    """
    size = jnp.abs(x)
    scale = jnp.maximum(size, 1) if scale is None else scale
    top = power_of_two_below(scale) * 2.0**ladder.top
    below = top * 2.0**-ladder.absolute
    is_tiny = (size > 0) & (size < below)
    relative = jnp.where(is_tiny, power_of_two_below(jnp.where(is_tiny, size, 1)), below)
    tops = [top * 2.0**-octave for octave in range(ladder.absolute)] + [relative * 2.0**-octave for octave in range(ladder.relative)]
    h = jnp.stack(tops)[:, None, :] * jnp.asarray(OCTAVE, x.dtype)[:, None]
    size = size if resolution is None else jnp.maximum(size, resolution)
    smallest = jnp.maximum(size * machine_epsilon(x.dtype), smallest_normal(x.dtype)) * _SMALLEST
    return Steps(h, h >= smallest, ~is_tiny)


class Samples(NamedTuple):
    """Values of f around L points, and where they were taken."""

    x: jax.Array
    """[L] points."""
    steps: Steps
    centre: jax.Array
    """[L]: f(x)."""
    right: jax.Array
    """[octaves, 3, L]: f(x + h); NaN where f was not evaluated."""
    left: jax.Array
    """[octaves, 3, L]: f(x - h)."""


class Judged(NamedTuple):
    """What one kind of window says of a derivative, for each of L points; without a usable window NaN, with an infinite bar."""

    value: jax.Array
    bar: jax.Array
    step: jax.Array
    """Largest step of the window that was taken."""
    noise: jax.Array
    """Root mean square of f's noise there."""
    span: jax.Array
    """The largest |f| there."""


# An interval is this many bars wide to either side when windows are held against each other.
_BELIEF = 2.0
# How many standard deviations of the measured noise a bar allows for: the noise is known from few numbers.
CAUTION = 4.0
# The terms that a fit of one more and two more degrees would add stand for all that it leaves out, so many times over.
_OMITTED = 2.0
# What a grid's second quantum may be, in units of the first, two steps after it.
_GRID_GROWTH = 2.5
# A misfit so many times the noise of all smaller windows is structure that this window does not resolve, not noise.
_SURPRISE = 100.0


def judge(samples: Samples, ladder: Ladder, kind: str, n: int) -> Judged:
    """The n-th derivative by one kind of window, a kind of basis; "side" is the right one."""
    steps, f0 = samples.steps, samples.centre
    dtype = f0.dtype
    epsilon = machine_epsilon(dtype)
    right, left = _at_exact_steps(samples)
    is_right, is_left = (jnp.isfinite(side) & steps.is_usable & jnp.isfinite(f0) for side in (right, left))
    right, left = jnp.where(is_right, right, f0), jnp.where(is_left, left, f0)
    if kind in ("odd", "even"):
        is_ok, sizes = is_right & is_left, jnp.maximum(jnp.abs(right), jnp.abs(left))
        y = (right - left) / 2 if kind == "odd" else (right - f0) / 2 + (left - f0) / 2
    else:
        is_ok, sizes, y = is_right, jnp.abs(right), right - f0

    crosses = np.zeros((ladder.num_windows, 1), bool)
    crosses[ladder.absolute - ladder.window + 1 : ladder.absolute] = True
    is_window = jnp.all(_windows(is_ok, ladder), axis=0) & (steps.is_contiguous | ~crosses)
    h = steps.h[: ladder.num_windows, 0]
    quantum = _quantum(samples, is_right, is_left)[: ladder.num_windows]
    span = jnp.maximum(jnp.max(_windows(jnp.where(is_ok, sizes, 0), ladder), axis=0), jnp.abs(f0))
    floor = jnp.maximum(epsilon / 2 * span, quantum / 2)

    basis = basis_for(kind, n, ladder.window)
    values, unit = _scaled(_windows(y, ladder))
    coefficients = basis.coefficients(values)
    misfit = basis.misfit(coefficients, ladder.degrees) * unit
    if kind in ("odd", "even"):
        # The other parity says nothing of the derivative, and all about whether f is smooth here: at a step past a pole or a kink, the
        # values on both sides may well lie on one odd polynomial, and f(x) does not lie on the even one.
        other, other_unit = _scaled(_windows((right - f0) / 2 + (left - f0) / 2 if kind == "odd" else (right - left) / 2, ladder))
        beside = basis_for("even" if kind == "odd" else "odd", n, ladder.window)
        misfit = jnp.maximum(misfit, beside.misfit(beside.coefficients(other), ladder.degrees, basis.first) * other_unit)
    noise, before = _pooled(jnp.where(is_window, misfit[-1], 0), is_window)
    is_resolved = misfit <= _SURPRISE * jnp.maximum(before, floor)
    is_broken = largest_below((is_window & ~is_resolved[-1]).astype(jnp.int32)) > 0
    is_window &= ~is_broken

    per_unit = _power(h, n)
    if ladder.extrapolation == "polynomial" or kind == "side":
        fits = basis.fits(values, ladder.degrees) * (unit * per_unit)
        terms = jnp.asarray(basis.terms[basis.first : ladder.degrees + 2], dtype)[:, None, None]
        added = jnp.abs(terms * coefficients[basis.first : ladder.degrees + 2]) * (unit * jnp.abs(per_unit))
        absolute, root = (weights[basis.first - 1 : ladder.degrees] for weights in (basis.absolute, basis.root))
    else:
        tableau = tableau_for(kind, n, ladder.window, ladder.extrapolation)
        table = _contract(tableau.weights, values) * (unit * per_unit)
        # What two more eliminations change stands for all that is left, as two more degrees do for a fit.
        fits, added = table[:-2], jnp.abs(jnp.diff(table, axis=0))
        absolute, root = tableau.absolute[:-2], tableau.root[:-2]
        misfit, is_resolved = misfit[: len(fits)], is_resolved[: len(fits)]
    absolute, root = (jnp.asarray(weights, dtype)[:, None, None] for weights in (absolute, root))
    rounding = (absolute * floor + CAUTION * root * jnp.maximum(noise, misfit)) * jnp.abs(per_unit)
    bars = rounding + _OMITTED * (added[:-1] + added[1:]) + 4 * epsilon * jnp.abs(fits)
    bars = jnp.where(is_window & is_resolved & jnp.isfinite(bars) & jnp.isfinite(fits), bars, jnp.inf)
    return _choose(fits, bars, h, jnp.maximum(noise, floor), span)


def _windows(values: jax.Array, ladder: Ladder) -> jax.Array:
    """[octaves, 3, L] to [nodes, windows, L]."""
    nodes = np.arange(ladder.window * len(OCTAVE))[:, None] + np.arange(ladder.num_windows) * len(OCTAVE)
    # One gather: slices put one behind the other are fused into every use, which triples the time to compile.
    return values.reshape(-1, values.shape[-1]).at[nodes].get(mode="promise_in_bounds", unique_indices=False)


def _scaled(values: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Values in units of the largest of their window, so that squares neither overflow nor vanish; and that unit."""
    unit = jnp.max(jnp.abs(values), axis=0)
    unit = jnp.where(unit > 0, unit, 1)
    return values / unit, unit


def _choose(fits: jax.Array, bars: jax.Array, h: jax.Array, noise: jax.Array, span: jax.Array) -> Judged:
    """The smallest bar among candidates [degrees, windows, L] that smaller steps do not contradict."""
    is_candidate = jnp.isfinite(bars)
    low = jnp.max(jnp.where(is_candidate, fits - _BELIEF * bars, -jnp.inf), axis=0)
    high = jnp.min(jnp.where(is_candidate, fits + _BELIEF * bars, jnp.inf), axis=0)
    is_agreed = largest_below(low) <= -largest_below(-high)
    score = jnp.where(is_agreed, bars, jnp.inf)
    # First the best degree of every window, then the best window.
    degree = jnp.argmin(score, axis=0)[None]
    value, bar = (jnp.take_along_axis(values, degree, axis=0)[0] for values in (fits, score))
    window = jnp.argmin(bar, axis=0)[None]
    value, bar, h, noise, span = (jnp.take_along_axis(values, window, axis=0)[0] for values in (value, bar, h, noise, span))
    return Judged(jnp.where(jnp.isfinite(bar), value, jnp.nan), bar, jnp.abs(h), noise, span)


def largest_below(values: jax.Array) -> jax.Array:
    """The largest of this and all later (smaller) steps, along the first axis."""
    lowest = -jnp.inf if jnp.issubdtype(values.dtype, jnp.floating) else 0
    return _below(values, jnp.asarray(lowest, values.dtype), jax.lax.max)


def count_below(mask: jax.Array) -> jax.Array:
    """How many of this and all later (smaller) steps, along the first axis."""
    return _below(mask.astype(jnp.int32), jnp.int32(0), jax.lax.add)


def _below(values: jax.Array, initial: jax.Array, reduce: Any) -> jax.Array:
    # One operation: cumulative ones become a tree of slices, which takes the compiler seconds each.
    size, rest = len(values), values.ndim - 1
    padding = ((0, size - 1), *((0, 0),) * rest)
    return jax.lax.reduce_window(values, initial, reduce, (size, *(1,) * rest), (1,) * values.ndim, padding)


def _power(h: jax.Array, n: int) -> jax.Array:
    """h^-n without an h^n that underflows."""
    inverse, result = 1 / h, jnp.ones_like(h)
    for _ in range(n):
        result = result * inverse
    return result


def _pooled(tail: jax.Array, is_window: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest tail of this window, of all smaller ones, and of the three smallest: five numbers by themselves may be small by luck."""
    rank = count_below(is_window)
    smallest = jnp.max(jnp.where(is_window & (rank <= 3), tail, 0), axis=0)
    pooled = jnp.maximum(largest_below(tail), smallest)
    return pooled, jnp.concatenate([pooled[1:], smallest[None]])


def _at_exact_steps(samples: Samples) -> tuple[jax.Array, jax.Array]:
    """Values moved, along the chord, from where x +- h was rounded to, to x +- h: the error of the sum is known exactly (Knuth)."""
    x, h, f0 = samples.x, samples.steps.h, samples.centre
    slope = (samples.right - samples.left) / (2 * h)
    slope = jnp.where(jnp.isfinite(slope), slope, (samples.right - f0) / h)
    slope = jnp.where(jnp.isfinite(slope), slope, (f0 - samples.left) / h)
    slope = jnp.where(jnp.isfinite(slope), slope, 0)
    moved = []
    for values, step in ((samples.right, h), (samples.left, -h)):
        point = x + step
        apart = point - x
        error = (x - (point - apart)) + (step - apart)
        moved.append(values + slope * error)
    return moved[0], moved[1]


def _quantum(samples: Samples, is_right: jax.Array, is_left: jax.Array) -> jax.Array:
    """[octaves, L]: the smallest change of f seen at this or smaller steps, where f has plateaus; zero where it has none.

    An f that is rounded to a grid shows small steps neither noise nor slope; the grid shows in equal values side by side. Before the first
    change has been seen, it stands for what was not. An f that is constant around x, and is not further off, has plateaus too; it is told
    from a grid by what follows the first change (`_looks_like_a_grid`).
    """
    f0 = samples.centre
    octaves = samples.right.shape[0]
    gaps, ties, grids = [], [], []
    for values, is_ok in ((samples.right, is_right), (samples.left, is_left)):
        flat, is_flat_ok = values.reshape(-1, values.shape[-1]), is_ok.reshape(-1, values.shape[-1])
        apart = jnp.abs(jnp.diff(flat, axis=0, append=f0[None]))
        is_pair = is_flat_ok & jnp.concatenate([is_flat_ok[1:], jnp.ones_like(is_flat_ok[:1])])
        gaps.append(jnp.where(is_pair & (apart > 0), apart, jnp.inf).reshape(octaves, -1, apart.shape[-1]).min(1))
        ties.append(jnp.sum(is_pair & (apart == 0), axis=0))
        grids.append(_looks_like_a_grid(jnp.where(is_flat_ok, jnp.abs(flat - f0), 0)))
    smallest = -largest_below(-jnp.minimum(*gaps))
    seen = jnp.isfinite(smallest)
    first = jnp.max(jnp.where(seen, smallest, -jnp.inf), axis=0)
    quantum = jnp.where(seen, smallest, jnp.where(jnp.isfinite(first), first, 0))
    return jnp.where((ties[0] + ties[1] >= 3) & (grids[0] | grids[1]), quantum, 0)


def _looks_like_a_grid(apart: jax.Array) -> jax.Array:
    """[L]: whether f, seen along ascending steps, leaves the value f(x) as a grid does.

    A grid does so by one quantum, and two steps later, steps being a fifth apart, by not more than two. A constant that ends at a kink goes
    on from there by much more than the first change.

    Args:
        apart: [steps, L] distances of f from f(x), largest step first.
    """
    ascending = jnp.flip(apart, 0)
    first = jnp.argmax(ascending > 0, axis=0)[None]
    at, later = (jnp.take_along_axis(ascending, jnp.minimum(first + ahead, len(ascending) - 1), axis=0)[0] for ahead in (0, 2))
    return (at > 0) & (later <= _GRID_GROWTH * at)
