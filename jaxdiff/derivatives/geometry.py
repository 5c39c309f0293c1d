"""What a derivative looks like: tangents, secants, the way uphill, and the way along a level curve."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._types import PyTree
from jaxdiff._validation import as_float_leaves
from jaxdiff.derivatives.api import value_and_gradient
from jaxdiff.derivatives.autodiff import Autodiff
from jaxdiff.derivatives.protocol import Method

_AUTODIFF = Autodiff()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TangentLine:
    """y = value + slope (x - point).

    Attributes:
        point: where it touches.
        value: f there.
        slope: f' there.
    """

    point: jax.Array
    value: jax.Array
    slope: jax.Array

    def __call__(self, x: Any) -> jax.Array:
        """Height of the line at x, a number or an array."""
        return self.value + self.slope * (jnp.asarray(x) - self.point)

    @property
    def intercept(self) -> jax.Array:
        """Height of the line at zero."""
        return self.value - self.slope * self.point


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TangentPlane:
    """z = value + gradient . (x - point), in any number of dimensions.

    Attributes:
        point: where it touches, [n].
        value: f there.
        gradient: of f there, [n].
    """

    point: jax.Array
    value: jax.Array
    gradient: jax.Array

    def __call__(self, x: Any) -> jax.Array:
        """Height of the plane at x, [..., n]."""
        # A sum, and not a dot product, which some accelerators take in lower precision.
        return self.value + jnp.sum(self.gradient * (jnp.asarray(x) - self.point), axis=-1)

    @property
    def normal(self) -> jax.Array:
        """The unit vector (-gradient, 1) / length in the space of (x, z), [n + 1]."""
        return _unit(jnp.append(-self.gradient, jnp.ones((), self.gradient.dtype)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Secants:
    """Lines through (x, f(x)) and (x + h, f(x + h)), one per step h, beside the tangent that they turn into.

    Attributes:
        point: x.
        value: f(x).
        steps: h as floating-point numbers carry it: (x + h) - x, [k].
        slopes: of the secants, [k].
        tangent: slope of the tangent.
    """

    point: jax.Array
    value: jax.Array
    steps: jax.Array
    slopes: jax.Array
    tangent: jax.Array

    @property
    def errors(self) -> jax.Array:
        """How far each secant's slope is from the tangent's, [k]."""
        return jnp.abs(self.slopes - self.tangent)

    def __call__(self, x: Any) -> jax.Array:
        """Heights of all secants at x: [k] for a number, [k, ...] for an array."""
        x = jnp.asarray(x)
        return self.value + jnp.multiply.outer(self.slopes, x - self.point)


def tangent_line(f: Callable[..., Any], x0: Any, *args: Any, method: Method = _AUTODIFF) -> TangentLine:
    """The tangent to the graph of a scalar function of one number.

    Args:
        f: called as ``f(x, *args)`` with one number; returns one number.
        x0: where the line touches.
        *args: f's other arguments.
        method: where the slope comes from.

    Returns:
        A line; call it for heights.

    Raises:
        TypeError: f does not return one real number; x0 is not real.
        ValueError: x0 is not one number.

    Example:
        >>> import jaxdiff as jd
        >>> line = jd.derivatives.tangent_line(lambda x: x**2, 3.0)
        >>> float(line.slope), float(line.intercept), float(line(4.0))
        (6.0, -9.0, 15.0)
    """
    point = _number(x0)
    value, slope = value_and_gradient(f, method=method)(point, *args)
    return TangentLine(point, value, slope)


def tangent_plane(f: Callable[..., Any], x0: Any, *args: Any, method: Method = _AUTODIFF) -> TangentPlane:
    """The tangent plane to the graph of a scalar function of a vector.

    Args:
        f: called as ``f(x, *args)`` with a vector of shape [n]; returns one number.
        x0: where the plane touches, [n].
        *args: f's other arguments.
        method: where the gradient comes from.

    Returns:
        A plane; call it for heights.

    Raises:
        TypeError: f does not return one real number; x0 is not real.
        ValueError: x0 is not a vector.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> plane = jd.derivatives.tangent_plane(lambda x: x[0] * x[1], jnp.array([2.0, 3.0]))
        >>> plane.gradient.tolist(), float(plane(jnp.array([3.0, 4.0])))
        ([3.0, 2.0], 11.0)
    """
    point = _vector(x0, 1)
    value, slopes = value_and_gradient(f, method=method)(point, *args)
    return TangentPlane(point, value, slopes)


def secants(f: Callable[..., Any], x0: Any, steps: Any, *args: Any, method: Method = _AUTODIFF) -> Secants:
    """Secants of a scalar function of one number, which turn into its tangent as the step shrinks (until rounding takes over).

    Args:
        f: called as ``f(x, *args)`` with one number; returns one number.
        x0: the point that all of them share.
        steps: distances h to the other point of each, [k]; of either sign, none of them zero.
        *args: f's other arguments.
        method: where the tangent's slope comes from.

    Returns:
        Slopes of the secants and of the tangent.

    Raises:
        TypeError: f does not return one real number; x0 or steps are not real.
        ValueError: x0 is not one number; steps is not a vector.

    Example:
        >>> import jaxdiff as jd
        >>> lines = jd.derivatives.secants(lambda x: x**2, 1.0, [1.0, 0.5, 0.25])
        >>> lines.slopes.tolist(), float(lines.tangent)
        ([3.0, 2.5, 2.25], 2.0)
    """
    point = _number(x0)
    distances = as_float_leaves(steps, "steps")
    if not isinstance(distances, jax.Array) or distances.ndim != 1:
        raise ValueError(f"steps has shape {jnp.shape(steps)}; expected a vector of distances")
    value, slope = value_and_gradient(f, method=method)(point, *args)
    ends = jax.lax.optimization_barrier(point + distances.astype(point.dtype))
    taken = ends - point
    # f returned one real number at x, so it does at the other ends.
    slopes = (jax.vmap(lambda x: jnp.asarray(f(x, *args)))(ends) - value) / taken
    return Secants(point, value, taken, slopes, slope)


def direction_of_steepest_ascent(f: Callable[..., Any], x: PyTree, *args: Any, method: Method = _AUTODIFF) -> PyTree:
    """The unit vector along which f grows fastest: the gradient over its length.

    Args:
        f: called as ``f(x, *args)``; x is a pytree; returns one number.
        x: the point.
        *args: f's other arguments.
        method: where the gradient comes from.

    Returns:
        A pytree like x, of Euclidean length one over all of its leaves; zero where the gradient is zero, since no direction is singled out.

    Raises:
        TypeError: f does not return one real number; x is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> up = jd.derivatives.direction_of_steepest_ascent(lambda x: 3 * x[0] + 4 * x[1], jnp.array([5.0, 6.0]))
        >>> [round(float(part), 6) for part in up]
        [0.6, 0.8]
    """
    _, slopes = value_and_gradient(f, method=method)(x, *args)
    return _unit(slopes)


def level_curve_tangent(f: Callable[..., Any], x: Any, *args: Any, method: Method = _AUTODIFF) -> jax.Array:
    """The unit tangent of the level curve of a function of two numbers: the gradient, turned a quarter to the left, over its length.

    Args:
        f: called as ``f(x, *args)`` with a vector of shape [2]; returns one number.
        x: the point, [2].
        *args: f's other arguments.
        method: where the gradient comes from.

    Returns:
        [2]; higher ground lies to its right. Zero where the gradient is zero: a level set need not be a curve there.

    Raises:
        TypeError: f does not return one real number; x is not real.
        ValueError: x is not of shape [2].

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> jd.derivatives.level_curve_tangent(lambda x: jnp.sum(x**2), jnp.array([2.0, 0.0])).tolist()  # a circle
        [0.0, 1.0]
    """
    point = _vector(x, 1)
    if point.size != 2:
        raise ValueError(f"x has shape {point.shape}; expected (2,); for more dimensions use level_surface_tangents")
    up = direction_of_steepest_ascent(f, point, *args, method=method)
    # Adding zero turns -0.0 into 0.0.
    return jnp.stack([-up[1], up[0]]) + 0.0


def level_surface_tangents(f: Callable[..., Any], x: Any, *args: Any, method: Method = _AUTODIFF) -> jax.Array:
    """An orthonormal basis of the tangent space of the level set of a function of n numbers.

    With g the unit gradient, the Householder reflection that takes g to a coordinate axis takes the other axes to vectors that are
    orthonormal and perpendicular to g, to rounding, whatever g is.

    Args:
        f: called as ``f(x, *args)`` with a vector of shape [n], n at least two; returns one number.
        x: the point, [n].
        *args: f's other arguments.
        method: where the gradient comes from.

    Returns:
        [n - 1, n], one vector per row; all zero where the gradient is zero.

    Raises:
        TypeError: f does not return one real number; x is not real.
        ValueError: x is not a vector of at least two numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> basis = jd.derivatives.level_surface_tangents(lambda x: x[2], jnp.zeros(3))
        >>> jnp.abs(basis).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    point = _vector(x, 2)
    up = direction_of_steepest_ascent(f, point, *args, method=method)
    # Reflecting onto the far end of the last axis adds numbers of one sign: u is never short, and nothing cancels.
    u = up.at[-1].add(jnp.where(up[-1] >= 0, 1.0, -1.0).astype(up.dtype))
    u = u * jnp.sqrt(2 / jnp.sum(u**2))
    basis = jnp.eye(point.size, dtype=up.dtype)[:-1] - u[:-1, None] * u[None, :]
    return jnp.where(jnp.any(up != 0), basis, jnp.zeros_like(basis))


def _unit(vector: PyTree) -> PyTree:
    """A pytree over its Euclidean length; the largest element is divided out first, so that no square overflows or vanishes."""
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(vector)]))
    guarded = jnp.where(largest == 0, jnp.ones_like(largest), largest)
    scaled = jax.tree.map(lambda leaf: leaf / guarded.astype(leaf.dtype), vector)
    square = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(scaled))
    length = jnp.sqrt(jnp.where(largest == 0, jnp.ones_like(square), square))
    return jax.tree.map(lambda leaf: leaf / length.astype(leaf.dtype), scaled)


def _number(x: Any) -> jax.Array:
    point = as_float_leaves(x, "x0")
    if not isinstance(point, jax.Array) or point.ndim != 0:
        raise ValueError(f"x0 = {x!r}; expected one number")
    return point


def _vector(x: Any, minimum: int) -> jax.Array:
    point = as_float_leaves(x, "x")
    if not isinstance(point, jax.Array) or point.ndim != 1 or point.size < minimum:
        raise ValueError(f"x = {x!r}; expected a vector of at least {minimum} numbers")
    return point
