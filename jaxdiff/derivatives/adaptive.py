"""Finite differences that choose their own step and say how wrong they are: `Adaptive` as a method, `estimate` for the numbers behind it.

f is evaluated on a whole ladder of steps at once and the values decide (`ladder`): where the noise is, how far f is a polynomial, whether
it has a derivative at all. That takes some 250 evaluations per derivative in float64 and 140 in float32, most of which parallel hardware
does at the price of few; for a first derivative of an f that is smooth at the scale of x one window (`quick`) of some 20 is enough.
`FiniteDifference` is for when two have to do.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import PyTree
from jaxdiff._validation import as_data, as_float_leaves, check_choice, check_count, explain_tracing_errors, is_staged, is_traced
from jaxdiff.derivatives.estimates import Estimate
from jaxdiff.derivatives.ladder import EXTRAPOLATIONS, Ladder
from jaxdiff.derivatives.lines import combine
from jaxdiff.derivatives.protocol import Bound
from jaxdiff.derivatives.sampling import as_matrix, look_at, number, run
from jaxdiff.derivatives.trees import ravel, spread, tree_size, unravel


@pytree_dataclass
class Adaptive:
    """Finite differences from a whole ladder of steps, with an error bar, for functions of any scale and noise.

    f may be one that JAX can trace, or any other: plain Python, NumPy, a C library, a simulator. Those are called on the host, once per
    point, and cannot be used inside ``jax.jit``; when they raise `ValueError` or `ArithmeticError`, there is no value at that point.

    A derivative taken with this method is the value of its estimate: NaN at a kink or a jump. ``jd.gradient(f, method=jd.Adaptive())``
    returns a function that has the whole estimate too, as ``.estimate(x)``; so do `derivative`, `jacobian` and `hessian`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> gradient = jd.gradient(lambda x: jnp.sum(jnp.sin(x)), method=jd.Adaptive())
        >>> bool(jnp.allclose(gradient(jnp.array([0.0, 1.0])), jnp.cos(jnp.array([0.0, 1.0]))))
        True
        >>> gradient.estimate(jnp.array([0.0, 1.0])).status.tolist()  # OK, both
        [0, 0]
    """

    scale: Any = None
    """The length over which f may vary, absolute, in units of x, from eight times which steps are tried downward: a number, or a pytree
    like x; None: max(|x|, 1)."""
    bounds: Any = None
    """``(lower, upper)``, each None, a number or a pytree like x: f is evaluated nowhere else."""
    chunk_size: int | None = static(default=None)
    """How many points, coordinates or directions are evaluated at once; None: as many as make about four million numbers."""
    hessian_from: str = static(default="gradients")
    """"gradients" estimates the slopes of ``jax.grad(f)``, "values" second derivatives of f itself, the only way for an f that JAX cannot
    trace."""
    extrapolation: str = static(default="polynomial")
    """"polynomial" fits all steps of a window by least squares, which averages noise; "richardson" eliminates one power of h after the
    other over steps that halve, "ridders" over every step, which shrink by a fifth. All of them have bars of the same kind, and the same
    statuses."""

    is_exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.hessian_from, "hessian_from", ("gradients", "values"))
        check_choice(self.extrapolation, "extrapolation", EXTRAPOLATIONS)
        if self.chunk_size is not None:
            check_count(self.chunk_size, "chunk_size", minimum=1)
        for leaf in jax.tree.leaves(self.scale):
            if not is_traced(leaf) and not (np.all(np.isfinite(leaf)) and np.all(np.asarray(leaf) > 0)):
                raise ValueError(f"scale = {leaf!r}; expected positive, finite numbers")
        if self.bounds is not None:
            if not (isinstance(self.bounds, (tuple, list)) and len(self.bounds) == 2):
                raise ValueError(f"bounds = {self.bounds!r}; expected a pair (lower, upper), each None, a number or a pytree like x")
            for leaf in jax.tree.leaves(self.bounds):
                if not is_traced(leaf) and np.any(np.isnan(leaf)):
                    raise ValueError(f"bounds = {self.bounds!r} hold NaN; expected numbers, or None for no bound")

    def num_evaluations(self, n: int) -> int:
        """The ladder, once per parameter, in float64."""
        return n * Ladder.for_dtype(jnp.dtype("float64")).num_evaluations

    def flattened(self, x: PyTree) -> "Adaptive":
        """The same method for f as a function of ``ravel(x)``: scale and bounds that are pytrees like x become flat vectors."""
        scale, bounds = self.flat(x)
        return dataclasses.replace(self, scale=scale, bounds=bounds)

    def derivative_at(self, bound: Bound, x: jax.Array, n: int) -> jax.Array:
        """The value of the estimate at every point."""
        return self.derivative_estimate(bound, x, n).value

    def partial_at(self, bound: Bound, x: jax.Array, indices: tuple[int, ...]) -> jax.Array:
        """One coordinate's ladder, or a sum over directions (polarization) where coordinates mix."""
        return self.partial_estimate(bound, x, indices).value

    def value_and_gradient_at(self, bound: Bound, x: PyTree) -> tuple[tuple[jax.Array, Any], PyTree]:
        """The value of f at x, and that of the gradient's estimate."""
        return bound.scalar(x), self.gradient_estimate(bound, x).value

    def jacobian_at(self, bound: Bound, x: PyTree) -> PyTree:
        """The value of the estimate."""
        return self.jacobian_estimate(bound, x).value

    def hessian_at(self, bound: Bound, x: PyTree) -> PyTree:
        """The value of the estimate."""
        return self.hessian_estimate(bound, x).value

    def hvp_at(self, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
        """The slope of ``jax.grad(f)`` along v, or the Hessian from values times v."""
        if self.hessian_from == "values" or look_at(bound, x).is_on_host:
            return unravel(self._hessian_of_values(bound, x).value @ ravel(v), x)
        return unravel(run(self, bound, x, "directions", 1, ravel(v)[None], of_gradient=True).value[0], x)

    def directional_derivative_at(self, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
        """The value of the estimate along v."""
        return unravel(run(self, bound, x, "directions", 1, ravel(v)[None]).value[0], look_at(bound, x).output)

    def derivative_estimate(self, bound: Bound, x: jax.Array, n: int) -> Estimate:
        """The n-th derivative at every point of an array; a function with several outputs has its axes behind those of x."""
        return run(self, bound, x, "points", n, form="points")

    def gradient_estimate(self, bound: Bound, x: PyTree) -> Estimate:
        """Every field a pytree like x."""
        look = look_at(bound, x)
        if not look.is_on_host:
            number.shapes(None, bound, x)  # says so if f does not return one number
        return run(self, bound, x, "coordinates", 1, form="gradient", look=look)

    def jacobian_estimate(self, bound: Bound, x: PyTree) -> Estimate:
        """Every field in the form of ``jax.jacobian``."""
        return run(self, bound, x, "coordinates", 1, form="jacobian")

    def hessian_estimate(self, bound: Bound, x: PyTree) -> Estimate:
        """Every field in the form of ``jax.hessian``; symmetric."""
        look = look_at(bound, x)
        if self.hessian_from == "values" or look.is_on_host:
            return jax.tree.map(lambda leaf: as_matrix(leaf, x, x), self._hessian_of_values(bound, x))
        return run(self, bound, x, "coordinates", 1, of_gradient=True, form="hessian", look=look)

    def partial_estimate(self, bound: Bound, x: jax.Array, indices: tuple[int, ...]) -> Estimate:
        """A mixed partial derivative of a function of one vector; every field one number.

        A mixed derivative is a sum of derivatives along directions (polarization): for two coordinates
        f_ij = (D^2 f along e_i + e_j  -  D^2 f along e_i - e_j) / 4.
        """
        n, flat = len(indices), ravel(x)
        if n > 4:
            raise ValueError(f"indices = {indices}; expected at most four with Adaptive: higher derivatives of values have no digits left")
        lengths = self._lengths(flat, x)[jnp.asarray(indices)]
        signs = np.array([(1, *rest) for rest in itertools.product((1, -1), repeat=n - 1)]) if len(set(indices)) > 1 else np.ones((1, n))
        units = (jnp.arange(flat.size) == jnp.asarray(indices)[:, None]) * lengths[:, None]
        weights = np.prod(signs, axis=1) / (len(signs) * math.factorial(n) if len(signs) > 1 else n**n)
        found = run(self, bound, x, "directions", n, jnp.asarray(signs, flat.dtype) @ units)
        return combine(jax.tree.map(lambda leaf: leaf[:, 0], found), jnp.asarray(weights, flat.dtype) / jnp.prod(lengths))

    def _hessian_of_values(self, bound: Bound, x: PyTree) -> Estimate:
        """[n, n] fields: second derivatives along coordinates, and along sums and differences of two."""
        flat = ravel(x)
        diagonal = run(self, bound, x, "coordinates", 2)
        matrix = jax.tree.map(lambda leaf: jnp.diag(leaf[:, 0]), diagonal)
        if flat.size == 1:
            return matrix
        rows, columns = np.triu_indices(flat.size, 1)
        lengths = self._lengths(flat, x)
        units = jnp.diag(lengths)
        found = run(self, bound, x, "directions", 2, jnp.concatenate([units[rows] + units[columns], units[rows] - units[columns]]))
        weights = jnp.array([[1.0], [-1.0]], flat.dtype) / (4 * lengths[rows] * lengths[columns])
        mixed = combine(jax.tree.map(lambda leaf: leaf.reshape(2, -1), found), weights)
        return jax.tree.map(lambda whole, part: whole.at[rows, columns].set(part).at[columns, rows].set(part), matrix, mixed)

    def check_inside(self, x: PyTree) -> None:
        """Precision and structures at once; values where they can be seen."""
        for leaf in jax.tree.leaves(x):
            if leaf.dtype.itemsize < 4:
                raise TypeError(f"x is {leaf.dtype}; expected float32 or float64 (f itself may compute in half precision)")
        if self.bounds is None or is_traced((x, self.bounds)) or is_staged():
            return
        flat = np.asarray(ravel(x))
        low, high = (np.asarray(side) for side in self.flat(x)[1] or ())
        for i in np.flatnonzero(~((low <= flat) & (flat <= high)))[:1]:
            raise ValueError(f"x = {flat[i]} at index {i} lies outside its bounds [{low[i]}, {high[i]}]")

    def flat(self, x: PyTree) -> tuple[jax.Array | None, tuple[jax.Array, jax.Array] | None]:
        """Scale and bounds, one element per coordinate."""
        dtype = jnp.result_type(*jax.tree.leaves(x))
        scale = None if self.scale is None else spread(self.scale, x, "scale", dtype)
        if self.bounds is None:
            return scale, None
        size = tree_size(x)
        low, high = (
            jnp.full(size, limit, dtype) if side is None else spread(side, x, "bounds", dtype)
            for side, limit in zip(self.bounds, (-jnp.inf, jnp.inf), strict=True)
        )
        return scale, (low, high)

    def _lengths(self, flat: jax.Array, x: PyTree) -> jax.Array:
        scale = self.flat(x)[0]
        return jnp.maximum(jnp.abs(flat), 1) if scale is None else scale


def estimate(f: Callable[..., Any], x: Any, n: int = 1, *, args: Any = (), scheme: Adaptive | None = None) -> Estimate:
    """The n-th derivative of a function of one number, with an error bar, at one point or at many.

    Args:
        f: called as ``f(x, *args)`` with one number x; returns one real number, or an array of them. Anything callable: what JAX cannot
            trace is called on the host.
        x: a number, or an array of points of any shape, in float32 or float64: the precision in which f is evaluated.
        n: order of the derivative, 1 to 4.
        args: f's other arguments: a tuple, or its only member.
        scheme: the scale of f, bounds on x, memory; see `Adaptive`.

    Returns:
        An `Estimate`; every field has the shape of x, followed by that of f's output.

    Raises:
        TypeError: f is not callable or does not return real numbers; x is not real, or of half precision.
        ValueError: n is not 1, 2, 3 or 4; a point lies outside the bounds.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> found = jd.estimate(jnp.exp, jnp.array([0.0, 1.0]))
        >>> bool(jnp.all(jnp.abs(found.value - jnp.exp(jnp.array([0.0, 1.0]))) <= found.error))
        True
        >>> import math
        >>> found = jd.estimate(lambda x: round(math.sin(x), 6), 1.0)  # a simulator that prints six digits
        >>> bool(abs(found.value - math.cos(1.0)) <= found.error), bool(found.error < 1e-4)
        (True, True)
    """
    scheme = Adaptive() if scheme is None else scheme
    if not callable(f):
        raise TypeError(f"f = {f!r}; expected a function")
    if not isinstance(scheme, Adaptive):
        raise TypeError(f"scheme = {scheme!r}; expected Adaptive(...)")
    n = check_count(n, "n", minimum=1)
    if n > 4:
        raise ValueError(f"n = {n}; expected 1, 2, 3 or 4: higher derivatives of values have no digits left")
    with explain_tracing_errors():
        points = as_float_leaves(jnp.asarray(x) if isinstance(x, (list, tuple)) else x, "x")
        if not isinstance(points, jax.Array):
            raise TypeError(f"x is a {type(x).__name__}; expected a number or an array of points")
        extra = args if isinstance(args, tuple) else (args,)
        return scheme.derivative_estimate(Bound.of(f, (points, *as_data(extra, "args"))), points, n)
