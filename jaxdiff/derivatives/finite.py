"""Finite differences of any order, compiled, over all coordinates at once.

Every formula here is a stencil (`stencils`) laid along an axis: a coordinate, or a direction. A mixed derivative is the product of
stencils, one per axis. What is the same for all of them:

- Points are x + o_k h with h from `steps`, and what x + o_k h - x really is after rounding enters the weights: a first derivative is
  divided by it (the representable difference), a higher one has its share of f' taken out.
- Sums run over f(x_k) - f_ref, not over f(x_k): the weights add up to zero, so that nothing changes in exact arithmetic, while a
  difference of nearby values is exact in floating point and the rounding of weights and sums then acts on small numbers.
- With bounds no point lies outside them: an axis that lacks room takes the one-sided stencil of the same order, with a shorter step if it
  must.

References:
    J. Nocedal and S. Wright, Numerical Optimization, 2nd edition (2006), section 8.1: gradients, Jacobians, Hessians of gradients and of
    values.
"""

import dataclasses
import functools
import itertools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon
from jaxdiff._types import PyTree
from jaxdiff._validation import check_choice, check_count, is_traced, suggest_keywords
from jaxdiff.derivatives.protocol import Bound, compiled
from jaxdiff.derivatives.stencils import KINDS, Stencil, exact_weights, stencil_for
from jaxdiff.derivatives.steps import balanced_step, length_scale, nearest_power_of_two, power_of_two_below
from jaxdiff.derivatives.trees import map_in_chunks, ravel, spread, tree_size, unravel, unravel_matrix


@dataclasses.dataclass(frozen=True, eq=False)
class FiniteDifference:
    """Finite differences of f's values, in the precision of x.

    Equal, and of equal hash, where all fields are, arrays by content: it may be a static argument of ``jax.jit``. It is a pytree too,
    whose data are ``step`` and ``bounds``: passed as an ordinary argument, another step compiles nothing anew, and a traced step may be
    swept by ``vmap``.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> method = jd.FiniteDifference(kind="forward", order=2, bounds=(0.0, None))
        >>> round(float(jd.derivative(lambda x: x**1.5, method=method)(1.0)), 4)
        1.5
    """

    kind: str = "central"
    """"forward" (points at and above x), "backward" (at and below) or "central" (both sides; twice as accurate for the same
    evaluations)."""
    order: int = 2
    """The error shrinks as step^order, until rounding; even for a central difference."""
    step: Any = None
    """The step, absolute, in units of x: a number, or a pytree like x; never taken below the spacing of x. None: the rule of
    `default_step`, which balances truncation and rounding for a function that varies over a length max(|x|, 1)."""
    bounds: Any = None
    """``(lower, upper)``, each None, a number or a pytree like x: f is evaluated nowhere else. Where lower equals upper no derivative can
    be had, and the result is NaN."""
    chunk_size: int | None = None
    """How many coordinates (of a gradient), pairs of them (of a Hessian) or points (of `derivative`) are evaluated at once, so that
    memory is bounded; None: as many as make about four million numbers."""
    hessian_from: str = "gradients"
    """"gradients" differences ``jax.grad(f)``, "values" f itself: a thousand times less accurate, for an f that autodiff cannot pass."""

    is_exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self.kind, "kind", KINDS)
        check_choice(self.hessian_from, "hessian_from", ("gradients", "values"))
        stencil_for(self.kind, 1, self.order)
        if self.chunk_size is not None:
            check_count(self.chunk_size, "chunk_size", minimum=1)
        for leaf in _concrete_leaves(self.step, "step"):
            if not np.all(np.isfinite(leaf) & (leaf > 0)):
                raise ValueError(f"step = {leaf}; expected positive, finite numbers")
        if self.bounds is not None:
            if not (isinstance(self.bounds, (tuple, list)) and len(self.bounds) == 2):
                raise ValueError(f"bounds = {self.bounds!r}; expected a pair (lower, upper), each None, a number or a pytree like x")
            object.__setattr__(self, "bounds", tuple(self.bounds))
            for side, name in zip(self.bounds, ("lower", "upper"), strict=True):
                for leaf in _concrete_leaves(side, f"the {name} bound"):
                    if np.any(np.isnan(leaf)):
                        raise ValueError(f"the {name} bound holds NaN: {leaf}; expected numbers, or None for no bound")

    def _key(self) -> tuple[Any, ...]:
        leaves, structure = jax.tree.flatten((self.step, self.bounds))
        return (self.kind, self.order, self.chunk_size, self.hessian_from, structure, *map(_content, leaves))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FiniteDifference) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def num_evaluations(self, n: int) -> int:
        """One for the value, and one per point of the stencil and parameter."""
        return 1 + n * _scheme(self.kind, self.order, 1, self.bounds is not None).num_points

    def flattened(self, x: PyTree) -> "FiniteDifference":
        """The same method for f as a function of ``ravel(x)``: step and bounds that are pytrees like x become flat vectors.

        Example:
            >>> import jaxdiff as jd
            >>> method = jd.FiniteDifference(bounds=({"a": 0.0, "b": 1.0}, None))
            >>> method.flattened({"a": 2.0, "b": 3.0}).bounds[0].tolist()
            [0.0, 1.0]
        """
        dtype = jnp.result_type(*jax.tree.leaves(x))
        step = None if self.step is None else spread(self.step, x, "step", dtype)
        bounds = self.bounds
        if bounds is not None:
            bounds = tuple(None if side is None else spread(side, x, "bounds", dtype) for side in bounds)
        return dataclasses.replace(self, step=step, bounds=bounds)

    def derivative_at(self, bound: Bound, x: jax.Array, n: int) -> jax.Array:
        """The stencil of the n-th derivative at every point."""
        self._check_inside(x)
        return _derivative(self, dataclasses.replace(bound, order=n), x)

    def partial_at(self, bound: Bound, x: jax.Array, indices: tuple[int, ...]) -> jax.Array:
        """The product of one stencil per distinct coordinate, all from values of f."""
        self._check_inside(x)
        return _partial(self, dataclasses.replace(bound, order=tuple(sorted(indices))), x)

    def value_and_gradient_at(self, bound: Bound, x: PyTree) -> tuple[tuple[jax.Array, Any], PyTree]:
        """One stencil per coordinate; the value is f at x itself."""
        self._check_inside(x)
        return _value_and_gradient(self, bound, x)

    def jacobian_at(self, bound: Bound, x: PyTree) -> PyTree:
        """One stencil per coordinate: a column each."""
        self._check_inside(x)
        return _jacobian(self, bound, x)

    def hessian_at(self, bound: Bound, x: PyTree) -> PyTree:
        """The symmetric part of the Jacobian of ``jax.grad(f)``, or second differences of values."""
        self._check_inside(x)
        return (_hessian_of_gradients if self.hessian_from == "gradients" else _hessian_of_values)(self, bound, x)

    def hvp_at(self, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
        """``jax.grad(f)`` differenced along v, or mixed differences of values along v and each coordinate."""
        self._check_inside(x)
        return (_hvp_of_gradients if self.hessian_from == "gradients" else _hvp_of_values)(self, bound, x, v)

    def directional_derivative_at(self, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
        """One stencil along v."""
        self._check_inside(x)
        return _directional_derivative(self, bound, x, v)

    def _check_inside(self, x: PyTree) -> None:
        """Structures at once; values where they can be seen. Inside a trace an x out of bounds gives NaN."""
        if self.step is not None:
            spread(self.step, x, "step", jnp.result_type(float))
        if self.bounds is None:
            return
        lower, upper = (None if side is None else spread(side, x, "bounds", jnp.result_type(float)) for side in self.bounds)
        if is_traced((x, self.bounds)):
            return
        flat = np.asarray(ravel(x), np.float64)
        low = np.full(flat.shape, -np.inf) if lower is None else np.asarray(lower, np.float64)
        high = np.full(flat.shape, np.inf) if upper is None else np.asarray(upper, np.float64)
        for i in np.flatnonzero(~(low <= high))[:1]:
            raise ValueError(f"bounds: at index {i} the lower bound {low[i]} exceeds the upper bound {high[i]}")
        for i in np.flatnonzero((flat < low) | (flat > high))[:1]:
            raise ValueError(f"x = {flat[i]} at index {i} lies outside its bounds [{low[i]}, {high[i]}]")


jax.tree_util.register_dataclass(
    FiniteDifference, data_fields=["step", "bounds"], meta_fields=["kind", "order", "chunk_size", "hessian_from"]
)
FiniteDifference.__init__ = suggest_keywords(eps="step", h="step", dx="step", scheme="kind", method="kind")(FiniteDifference.__init__)


class _Scheme(NamedTuple):
    """Stencils of one axis as tables: the preferred one first; with bounds, the forward and the backward one behind it.

    Offset zero is kept out of the tables: its value is shared, and its weight is minus the sum of the others.
    """

    offsets: np.ndarray
    """[stencils, points], padded with zeros."""
    weights: np.ndarray
    """[stencils, points], for a step of one."""
    first: np.ndarray
    """[stencils, points]: weights of a first derivative on the same points."""
    stencils: tuple[Stencil, ...]
    has_center: bool
    """Whether f at x itself takes part (always, with bounds)."""

    @property
    def num_points(self) -> int:
        """Evaluations per axis, that of f at x not counted."""
        return self.offsets.shape[1]


@functools.cache
def _scheme(kind: str, order: int, derivative: int, is_bounded: bool) -> _Scheme:
    stencils = [stencil_for(kind, derivative, order)]
    if is_bounded:
        stencils += [stencil_for("forward", derivative, order), stencil_for("backward", derivative, order)]
    points = max(sum(offset != 0 for offset in stencil.offsets) for stencil in stencils)
    offsets, weights, first = (np.zeros((len(stencils), points)) for _ in range(3))
    for row, stencil in enumerate(stencils):
        slopes = exact_weights(stencil.offsets, 1)
        kept = [k for k, offset in enumerate(stencil.offsets) if offset != 0]
        offsets[row, : len(kept)] = [stencil.offsets[k] for k in kept]
        weights[row, : len(kept)] = [float(stencil.weights[k]) for k in kept]
        first[row, : len(kept)] = [float(slopes[k]) for k in kept]
    return _Scheme(offsets, weights, first, tuple(stencils), is_bounded or 0 in stencils[0].offsets)


def _balanced(schemes: list[_Scheme], epsilon: np.ndarray) -> np.ndarray:
    """Relative steps [stencils, coordinates] of a product of schemes: constants add up, weights multiply (see `steps`)."""
    rows = []
    for stencils in zip(*(scheme.stencils for scheme in schemes), strict=True):
        constant = sum(abs(float(stencil.constant)) for stencil in stencils)
        weight = math.prod(stencil.absolute_weight for stencil in stencils)
        total = sum(stencil.derivative for stencil in stencils)
        rows.append([balanced_step(constant, weight, total, stencils[0].order, float(e)) for e in epsilon])
    return np.array(rows)


@dataclasses.dataclass(frozen=True)
class _Space:
    """Where to differentiate: x as one flat vector, how far it may move, and how far it should.

    Attributes:
        x: [n].
        like: the pytree that x is flat of.
        room: how far each coordinate may go down and up, [n] each, or None.
        steps: the step of each coordinate for each stencil, [stencils, n].
        schemes: one scheme per axis.
        work: dtype of weights and sums: that of x, float32 for half precision.
    """

    x: jax.Array
    like: PyTree
    bounds: tuple[jax.Array, jax.Array] | None
    steps: jax.Array
    schemes: list[_Scheme]
    work: Any

    @classmethod
    def of(cls, method: FiniteDifference, x: PyTree, output: PyTree, derivatives: tuple[int, ...] = (1,)) -> "_Space":
        """The space of a mixed derivative, of the given order along each axis, of a function whose output has the given dtypes."""
        flat = ravel(x)
        work = jnp.promote_types(flat.dtype, jnp.float32)
        schemes = [_scheme(method.kind, method.order, d, method.bounds is not None) for d in derivatives]
        coarsest = max(machine_epsilon(leaf.dtype) for leaf in jax.tree.leaves(output))
        epsilon = [max(machine_epsilon(leaf.dtype), coarsest) for leaf in jax.tree.leaves(x)]
        sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(x)]
        # One number per leaf, repeated: a million coordinates cost no arithmetic on the host.
        relative = jnp.asarray(np.repeat(_balanced(schemes, np.array(epsilon)), sizes, axis=1), work)
        fixed = jax.lax.stop_gradient(flat).astype(work)
        if method.step is None:
            steps = nearest_power_of_two(relative * length_scale(fixed))
        else:
            spacing = jnp.asarray(np.repeat(epsilon, sizes), work) * jnp.abs(fixed)
            steps = jnp.broadcast_to(jnp.maximum(spread(method.step, x, "step", work), spacing), relative.shape)
        bounds = None
        if method.bounds is not None:
            low, high = (
                jnp.full(flat.shape, limit, flat.dtype) if side is None else spread(side, x, "bounds", flat.dtype)
                for side, limit in zip(method.bounds, (-jnp.inf, jnp.inf), strict=True)
            )
            bounds = (low, high)
        return cls(flat, x, bounds, steps, schemes, work)

    def room(self, share: float = 1.0) -> tuple[jax.Array, jax.Array] | None:
        """How far each coordinate may go down and up; a share of it where two axes move the same coordinate."""
        if self.bounds is None:
            return None
        x = jax.lax.stop_gradient(self.x).astype(self.work)
        return share * (x - self.bounds[0].astype(self.work)), share * (self.bounds[1].astype(self.work) - x)

    def axes(self, number: int = 0, *, with_center: bool = False) -> "_Axis":
        """The axes along all coordinates, one per row: positions are values of that coordinate."""
        scheme, room = self.schemes[number], self.room()

        def axis(x: jax.Array, steps: jax.Array, room: Any, bounds: Any) -> _Axis:
            line = _choose(scheme, steps, room, self.work)
            positions = x + (line.offsets * line.step).astype(x.dtype)
            if bounds is not None:
                positions = jnp.clip(positions, *bounds)
            # The barrier keeps a compiler from cancelling (x + h) - x, which is the point of computing it.
            positions = jax.lax.optimization_barrier(positions)
            moved = jax.lax.stop_gradient((positions - x).astype(self.work))
            if scheme.stencils[0].derivative == 1:
                # The sum of w_k (x_k - x): for two points it is the representable difference itself.
                return _Axis(positions, line.weights, jnp.sum(line.weights * moved)).centered(x, with_center)
            shift = jnp.sum(line.weights * (moved / line.step - line.offsets))
            return _Axis(positions, line.weights - shift * line.first, _power(line.step, scheme)).centered(x, with_center)

        return jax.vmap(axis)(self.x, self.steps.T, room, self.bounds)

    def moved(self, i: Any, position: jax.Array, point: jax.Array | None = None) -> jax.Array:
        """X (or a point) with coordinate i elsewhere. A selection fuses with what follows and vectorises; a scatter does neither."""
        return jnp.where(jnp.arange(self.x.size) == i, position, self.x if point is None else point)

    def direction(self, v: jax.Array, *, with_center: bool = False, share: float = 1.0) -> "_Axis":
        """The axis along a vector: positions are multiples t of v. Its step is the longest that takes no coordinate beyond its own."""
        length = jnp.abs(jax.lax.stop_gradient(v).astype(self.work))
        guarded = jnp.where(length > 0, length, jnp.ones_like(length))
        steps = jnp.min(jnp.where(length > 0, self.steps / guarded, jnp.inf), axis=1)
        steps = nearest_power_of_two(jnp.where(jnp.isfinite(steps), steps, jnp.ones_like(steps)))
        room = self.room(share)
        if room is not None:
            ahead = jnp.where(v > 0, room[1], room[0]) / guarded
            behind = jnp.where(v > 0, room[0], room[1]) / guarded
            room = tuple(jnp.min(jnp.where(length > 0, side, jnp.inf)) for side in (behind, ahead))
        line = _choose(self.schemes[0], steps, room, self.work)
        positions = (line.offsets * line.step).astype(self.work)
        return _Axis(positions, line.weights, line.step).centered(jnp.zeros((), self.work), with_center)

    def along(self, v: jax.Array, t: jax.Array) -> jax.Array:
        """X + t v, within the bounds."""
        point = (self.x.astype(self.work) + t * v.astype(self.work)).astype(self.x.dtype)
        return point if self.bounds is None else jnp.clip(point, *self.bounds)


class _Line(NamedTuple):
    """The stencil chosen for one axis: [points] each, and a step."""

    offsets: jax.Array
    weights: jax.Array
    first: jax.Array
    step: jax.Array


class _Axis(NamedTuple):
    """Where to evaluate along one axis, with which weights, and what to divide their sum by."""

    positions: jax.Array
    weights: jax.Array
    divisor: jax.Array

    def centered(self, center: jax.Array, is_wanted: bool) -> "_Axis":
        """With the point of offset zero in front, which carries what is missing to a sum of zero."""
        if not is_wanted:
            return self
        weights = jnp.concatenate([-jnp.sum(self.weights)[None], self.weights])
        return _Axis(jnp.concatenate([center[None], self.positions]), weights, self.divisor)


def _choose(scheme: _Scheme, steps: jax.Array, room: tuple[jax.Array, ...] | None, work: Any) -> _Line:
    """The preferred stencil where it fits; else the one-sided stencil of the side with more room, shortened if need be."""
    offsets, weights, first = (jnp.asarray(table, work) for table in (scheme.offsets, scheme.weights, scheme.first))
    if room is None:
        return _Line(offsets[0], weights[0], first[0], steps[0])
    down, up = room
    reach_down, reach_up = (jnp.asarray(np.abs(side), work) for side in (scheme.offsets.min(axis=1), scheme.offsets.max(axis=1)))
    is_fitting = (reach_up[0] * steps[0] <= up) & (reach_down[0] * steps[0] <= down)
    chosen = jnp.where(is_fitting, 0, jnp.where(up >= down, 1, 2))
    longest = power_of_two_below(jnp.maximum(up, down) / scheme.num_points)
    step = jnp.where(is_fitting, steps[0], jnp.minimum(steps[chosen], longest))
    is_inside = (down >= 0) & (up >= 0)
    step = jnp.where(is_inside & (step > 0), step, jnp.nan)
    return _Line(offsets[chosen], weights[chosen], first[chosen], step)


def _power(step: jax.Array, scheme: _Scheme) -> jax.Array:
    """h^d, exact for a power of two."""
    return functools.reduce(jnp.multiply, [step] * scheme.stencils[0].derivative)


def _combine(values: jax.Array, weights: jax.Array, divisor: jax.Array, reference: jax.Array) -> jax.Array:
    """The weighted sum over the leading axis. Weights of zero are padding, and what was evaluated there is not looked at."""
    work = jnp.promote_types(values.dtype, weights.dtype)
    weights = weights.reshape((-1,) + (1,) * (values.ndim - 1)).astype(work)
    difference = values.astype(work) - reference.astype(work)
    return jnp.sum(jnp.where(weights == 0, jnp.zeros_like(difference), weights * difference), axis=0) / divisor.astype(work)


def _columns(space: _Space, method: FiniteDifference, fun: Callable[[jax.Array], jax.Array], center: jax.Array) -> jax.Array:
    """The derivative of ``fun`` ([n] to [m]) along every coordinate, [n, m]; ``center`` is fun at x."""

    def column(i: jax.Array, axis: _Axis) -> jax.Array:
        values = jax.vmap(lambda position: fun(space.moved(i, position)))(axis.positions)
        return _combine(values, axis.weights, axis.divisor, center if space.schemes[0].has_center else values[0])

    n = space.x.size
    return map_in_chunks(column, (jnp.arange(n), space.axes()), method.chunk_size, space.schemes[0].num_points * max(n, center.size))


@compiled
def _derivative(method: FiniteDifference, bound: Bound, x: jax.Array) -> jax.Array:
    output = jax.eval_shape(lambda point: bound.scalar(point)[0], jax.ShapeDtypeStruct((), x.dtype))
    space = _Space.of(method, x, output, (bound.order,))

    def at(axis: _Axis) -> jax.Array:
        values = jax.vmap(lambda position: bound.scalar(position)[0])(axis.positions)
        return _combine(values, axis.weights, axis.divisor, values[0])

    axes = space.axes(with_center=space.schemes[0].has_center)
    slopes = map_in_chunks(at, (axes,), method.chunk_size, 1 + space.schemes[0].num_points)
    return slopes.reshape(x.shape).astype(x.dtype)


@compiled
def _value_and_gradient(method: FiniteDifference, bound: Bound, x: PyTree) -> tuple[tuple[jax.Array, Any], PyTree]:
    value, aux = bound.scalar(x)
    space = _Space.of(method, x, value)
    columns = _columns(space, method, lambda flat: bound.scalar(unravel(flat, x))[0][None], value[None])
    return (value, aux), unravel(columns[:, 0], x)


@compiled
def _jacobian(method: FiniteDifference, bound: Bound, x: PyTree) -> PyTree:
    output = bound.arrays(x)
    space = _Space.of(method, x, output)
    columns = _columns(space, method, lambda flat: ravel(bound.arrays(unravel(flat, x))), ravel(output))
    return unravel_matrix(columns.T, output, x)


@compiled
def _hessian_of_gradients(method: FiniteDifference, bound: Bound, x: PyTree) -> PyTree:
    slopes, gradient = _autodiff_gradient(bound, x)
    space = _Space.of(method, x, gradient)
    matrix = _columns(space, method, slopes, ravel(gradient))
    return unravel_matrix((matrix + matrix.T) / 2, x, x)


@compiled
def _hessian_of_values(method: FiniteDifference, bound: Bound, x: PyTree) -> PyTree:
    value = bound.scalar(x)[0]
    n = tree_size(x)

    def fun(flat: jax.Array) -> jax.Array:
        return bound.scalar(unravel(flat, x))[0][None]

    diagonal = _columns(_Space.of(method, x, value, (2,)), method, fun, value[None])[:, 0]
    matrix = jnp.diag(diagonal)
    if n > 1:
        space = _Space.of(method, x, value, (1, 1))
        rows, columns = np.triu_indices(n, 1)
        axes = space.axes(with_center=space.schemes[0].has_center)
        pairs = [(jnp.asarray(side), jax.tree.map(lambda leaf, side=side: leaf[side], axes)) for side in (rows, columns)]
        points = (1 + space.schemes[0].num_points) ** 2
        mixed = map_in_chunks(lambda *pair: _product(space, fun, pair, value)[0], pairs, method.chunk_size, points * n)
        matrix = matrix.at[rows, columns].set(mixed).at[columns, rows].set(mixed)
    return unravel_matrix(matrix, x, x)


@compiled
def _partial(method: FiniteDifference, bound: Bound, x: jax.Array) -> jax.Array:
    counted = [(index, len(list(group))) for index, group in itertools.groupby(bound.order)]
    value = jax.eval_shape(lambda x: bound.scalar(x)[0], x)
    space = _Space.of(method, x, value, tuple(count for _, count in counted))
    fun = lambda flat: bound.scalar(flat)[0][None]  # noqa: E731
    axes = []
    for number, (index, _) in enumerate(counted):
        all_axes = space.axes(number, with_center=space.schemes[number].has_center)
        axes.append((index, jax.tree.map(lambda leaf, index=index: leaf[index], all_axes)))
    return _product(space, fun, axes)[0].astype(x.dtype)


def _product(
    space: _Space, fun: Callable[[jax.Array], jax.Array], axes: Sequence[tuple[Any, _Axis]], reference: jax.Array | None = None
) -> jax.Array:
    """The product of stencils along several axes, each with the coordinate it moves, applied to ``fun``."""
    grid = jnp.meshgrid(*(axis.positions for _, axis in axes), indexing="ij")
    weights = functools.reduce(jnp.multiply, jnp.meshgrid(*(axis.weights for _, axis in axes), indexing="ij"))
    divisor = functools.reduce(jnp.multiply, [axis.divisor for _, axis in axes])

    def at(*positions: jax.Array) -> jax.Array:
        point = space.x
        for (i, _), position in zip(axes, positions, strict=True):
            point = space.moved(i, position, point)
        return fun(point)

    values = jax.vmap(at)(*(positions.reshape(-1) for positions in grid))
    return _combine(values, weights.reshape(-1), divisor, values[0] if reference is None else reference)


@compiled
def _directional_derivative(method: FiniteDifference, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
    output = bound.arrays(x)
    space = _Space.of(method, x, output)
    slopes = _along(space, lambda flat: ravel(bound.arrays(unravel(flat, x))), ravel(v, space.x.dtype), ravel(output))
    return unravel(slopes, output)


@compiled
def _hvp_of_gradients(method: FiniteDifference, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
    slopes, gradient = _autodiff_gradient(bound, x)
    space = _Space.of(method, x, gradient)
    return unravel(_along(space, slopes, ravel(v, space.x.dtype), ravel(gradient)), x)


@compiled
def _hvp_of_values(method: FiniteDifference, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
    value = bound.scalar(x)[0]
    space = _Space.of(method, x, value, (1, 1))
    flat_v = ravel(v, space.x.dtype)
    has_center = space.schemes[0].has_center
    line = space.direction(flat_v, with_center=has_center, share=0.5)
    n = space.x.size

    def component(i: jax.Array) -> jax.Array:
        # The two axes may move the same coordinate, so that each of them has half of its room.
        across = space.direction((jnp.arange(n) == i).astype(flat_v.dtype), with_center=has_center, share=0.5)
        weights = (line.weights[:, None] * across.weights[None, :]).reshape(-1)

        def at(t: jax.Array, s: jax.Array) -> jax.Array:
            point = space.along(flat_v, t)
            return bound.scalar(unravel(space.moved(i, point + s.astype(point.dtype), point), x))[0]

        values = jax.vmap(lambda t: jax.vmap(lambda s: at(t, s))(across.positions))(line.positions).reshape(-1)
        return _combine(values, weights, line.divisor * across.divisor, value)

    points = line.positions.size * (1 + space.schemes[0].num_points)
    return unravel(map_in_chunks(component, (jnp.arange(n),), method.chunk_size, points * n), x)


def _along(space: _Space, fun: Callable[[jax.Array], jax.Array], v: jax.Array, center: jax.Array) -> jax.Array:
    axis = space.direction(v)
    values = jax.vmap(lambda t: fun(space.along(v, t)))(axis.positions)
    return _combine(values, axis.weights, axis.divisor, center if space.schemes[0].has_center else values[0])


def _autodiff_gradient(bound: Bound, x: PyTree) -> tuple[Callable[[jax.Array], jax.Array], PyTree]:
    """``jax.grad`` of f as a function of flat vectors, and its value at x."""
    gradient = jax.grad(lambda x: bound.scalar(x)[0])
    return lambda flat: ravel(gradient(unravel(flat, x))), gradient(x)


def _concrete_leaves(tree: PyTree, name: str) -> list[np.ndarray]:
    """Leaves whose values can be seen; tracers, shapes and JAX's own placeholders pass by."""
    concrete = []
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, (str, bytes, bool, complex)):
            raise TypeError(f"{name} = {leaf!r}; expected real numbers")
        if isinstance(leaf, (numbers.Real, np.ndarray, np.generic)) or (isinstance(leaf, jax.Array) and not is_traced(leaf)):
            concrete.append(np.asarray(leaf, np.float64))
    return concrete


def _content(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, (np.ndarray, np.generic, jax.Array)) and not is_traced(leaf):
        array = np.asarray(leaf)
        return (array.shape, array.dtype.name, array.tobytes())
    return (type(leaf), leaf if isinstance(leaf, numbers.Real) else id(leaf))
