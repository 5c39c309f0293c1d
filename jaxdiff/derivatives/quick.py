"""A derivative from one window, where f is a polynomial there to rounding: a fifth of the ladder's evaluations, and a fraction of its work.

One window is fitted as in `ladder`, and f is sampled at some steps below it too, ever more sparsely, down to its rounding: there the fit
has to say what f is, within the rounding of f. A bump, a kink or a grid that the window does not see shows at one of these, and where the
slightest thing is amiss, the answer is that one window is not enough.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon
from jaxdiff.derivatives.estimates import Estimate, EstimateStatus
from jaxdiff.derivatives.ladder import CAUTION, OCTAVE, basis_for
from jaxdiff.derivatives.steps import power_of_two_below

# Noise, and the first omitted terms, in units of f's rounding, above which one window is not enough. Our own choice.
_NOISE = 4.0
_OMITTED = 100.0


class Part(NamedTuple):
    """What is asked of one parity's values, at the window's steps and the sparse ones; all of it one matrix, so that they are read once."""

    matrix: np.ndarray
    """[rows, steps]: the derivative (of f's own parity), two omitted terms, what the fit leaves over, what it says wrongly below."""
    absolute: float
    """Sum of the derivative's absolute weights on values of f."""
    root: float
    """Root of the sum of their squares, for values of unit noise."""
    num_left_over: int


class Quick(NamedTuple):
    """One window and the sparse steps below it, for one order of derivative."""

    steps: np.ndarray
    """The window's steps, then the sparse ones, in units of the scale."""
    odd: Part
    even: Part
    num_sparse: int

    @classmethod
    @functools.cache
    def of(cls, dtype: np.dtype, n: int) -> "Quick":
        """The window of a precision."""
        if machine_epsilon(dtype) < 1e-12:
            octaves, degrees, sparse = 4, 8, (5, 6, 7, 9, 12, 18, 26, 36)
        else:
            octaves, degrees, sparse = 3, 5, (4, 5, 6, 8, 12, 17)
        window = np.array([node * 2.0**-octave for octave in range(octaves) for node in OCTAVE])
        below = np.array([OCTAVE[octave % len(OCTAVE)] * 2.0**-octave for octave in sparse])
        odd, even = (_part(kind, n, octaves, degrees, window, below) for kind in ("odd", "even"))
        return cls(np.concatenate([window, below]), odd, even, len(below))

    @property
    def num_evaluations(self) -> int:
        """Of f, per line."""
        return 2 * len(self.steps) + 1


def _part(kind: str, n: int, octaves: int, degrees: int, window: np.ndarray, below: np.ndarray) -> Part:
    is_own = (n % 2 == 1) == (kind == "odd")
    basis = basis_for(kind, n if is_own else n + 1, octaves)
    size, nodes = len(basis.rows), len(window)
    # The least-squares fit continued to smaller steps; the even part, whose constant is known to be zero, without one.
    powers = np.arange(degrees) * 2 + (1 if kind == "odd" else 2)
    q, r = np.linalg.qr((window[:, None] / window[0]) ** powers)
    continued = np.linalg.solve(r.T, ((below[:, None] / window[0]) ** powers).T).T @ q.T
    # The node at zero, of an even part, carries nothing.
    rows = [basis.rows[degrees:, :nodes] / np.sqrt(size - degrees), -continued]
    if is_own:
        omitted = basis.terms[degrees : degrees + 2, None] * basis.rows[degrees : degrees + 2, :nodes]
        rows = [basis.weights[degrees - 1 : degrees, :nodes], omitted, *rows]
    matrix = np.zeros((sum(map(len, rows)), nodes + len(below)))
    matrix[:, :nodes] = np.concatenate(rows)
    matrix[-len(below) :, nodes:] = np.eye(len(below))
    return Part(matrix, float(basis.absolute[degrees - 1]), float(basis.root[degrees - 1]), size - degrees)


def quick_positions(centre: jax.Array, scale: Any, bounds: Any, n: int) -> tuple[jax.Array, jax.Array]:
    """Positions [2 J + 1, C] (centre, right, left), and the lines [C] all of whose positions may be evaluated."""
    h = _steps(centre, scale, n)
    # The barrier keeps a compiler from seeing through (x + h) - x, which is taken of these again.
    positions = jax.lax.optimization_barrier(jnp.concatenate([centre[None], centre + h, centre - h]))
    if bounds is None:
        return positions, jnp.ones(centre.shape, bool)
    is_inside = jnp.all((positions >= bounds[0]) & (positions <= bounds[1]), axis=0)
    return jnp.where(is_inside, positions, centre), is_inside


def _steps(centre: jax.Array, scale: Any, n: int) -> jax.Array:
    # What varies over the length |x| is rare where |x| is large; sin at x = 10 varies over one.
    scale = jnp.maximum(jnp.abs(centre) / 16, 1) if scale is None else scale
    return power_of_two_below(scale) * jnp.asarray(Quick.of(centre.dtype, n).steps, centre.dtype)[:, None]


def conclude_quickly(
    values: jax.Array, centre: jax.Array, scale: Any, positions: jax.Array, is_inside: jax.Array, n: int
) -> tuple[Estimate, jax.Array]:
    """The n-th derivative from one window, fields [C, outputs], and whether [C] that is enough."""
    dtype = centre.dtype
    epsilon = machine_epsilon(dtype)
    quick = Quick.of(dtype, n)
    h = _steps(centre, scale, n)
    f0, (right, left) = values[0], jnp.split(values[1:], 2)
    ahead, behind = jnp.split((positions[1:] - centre)[..., None], 2)
    span = jnp.maximum(jnp.max(jnp.abs(right), axis=0), jnp.maximum(jnp.max(jnp.abs(left), axis=0), jnp.abs(f0)))
    top = h[0][:, None]

    # Where x + h is rounded, values are moved along the chord.
    slope = (right - left) / (ahead - behind)
    h = h[..., None]
    right, left = right + slope * (h - ahead), left - slope * (h + behind)
    odd, even = _product(quick.odd.matrix, (right - left) / 2), _product(quick.even.matrix, (right - f0) / 2 + (left - f0) / 2)
    (part, own, other) = (quick.odd, odd, even[: quick.even.num_left_over]) if n % 2 else (quick.even, even, odd[: quick.odd.num_left_over])
    misfit = jnp.maximum(*(jnp.sqrt(jnp.sum(rest**2, axis=0)) for rest in (own[3 : 3 + part.num_left_over], other)))
    per_unit = 1 / top**n
    value, omitted = own[0] * per_unit, jnp.abs(own[1]) + jnp.abs(own[2])
    rounding = part.absolute * epsilon / 2 * span + CAUTION * part.root * misfit
    bar = (rounding + 2 * omitted) * per_unit + 4 * epsilon * jnp.abs(value)

    worst = jnp.maximum(*(jnp.max(jnp.abs(rows[-quick.num_sparse :]), axis=0) for rows in (odd, even)))
    is_alike = worst <= 4 * epsilon * span
    is_smooth = (misfit <= _NOISE * epsilon * span) & (omitted <= _OMITTED * epsilon * span) & jnp.isfinite(bar)
    status = jnp.full(value.shape, EstimateStatus.OK, jnp.int32)
    nothing = jnp.full_like(value, jnp.nan)
    found = Estimate(
        value,
        bar,
        jnp.broadcast_to(top, value.shape),
        jnp.maximum(misfit, epsilon / 2 * span),
        status,
        nothing,
        nothing,
        jnp.broadcast_to(jnp.where(is_inside, quick.num_evaluations, 0).astype(jnp.int32)[:, None], value.shape),
    )
    return found, is_inside & jnp.all(is_alike & is_smooth, axis=1)


def _product(matrix: np.ndarray, values: jax.Array) -> jax.Array:
    return jnp.tensordot(jnp.asarray(matrix, values.dtype), values, axes=1, precision=jax.lax.Precision.HIGHEST)
