"""Problems: a function bound to its data and to a choice of derivatives, asked about a whole block of lanes at once.

A solver sees nothing but a problem. It never calls ``jax.grad``; it never sees the user's pytrees, nor where the derivatives come from.
The user's function is written for one problem; it is vmapped here, once, with the lanes in the last axis of every batched array.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon
from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import LaneFloat, LaneMatrix, LaneTriangle, LaneVector, Objective, PyTree
from jaxdiff.curvature import NotCoveredError, value_gradient_hessian
from jaxdiff.derivatives import Autodiff, FiniteDifference, Supplied, hessian, hvp, jacobian, value_and_gradient
from jaxdiff.derivatives.columns import value_and_columns
from jaxdiff.derivatives.protocol import describe
from jaxdiff.derivatives.stencils import stencil_for
from jaxdiff.derivatives.steps import nearest_power_of_two, relative_step
from jaxdiff.linalg import sums_together


@dataclasses.dataclass(frozen=True)
class Packing:
    """How a pytree of arrays is laid out in one flat vector. Hashable, so that the same layout never compiles twice.

    Attributes:
        structure: the tree.
        shapes: the shape of each leaf.
        dtypes: the dtype of each leaf, by name.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @classmethod
    def of(cls, tree: PyTree, *, skip_axes: int = 0) -> "Packing":
        """The layout of a tree of arrays, whose first ``skip_axes`` axes are not part of it (a batch axis)."""
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple(tuple(leaf.shape[skip_axes:]) for leaf in leaves), tuple(leaf.dtype.name for leaf in leaves))

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """Numbers in each leaf."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes)

    @functools.cached_property
    def dtype(self) -> jnp.dtype:
        """Dtype of the flat vector: what the leaves promote to."""
        return jnp.result_type(*self.dtypes)

    def ravel(self, tree: PyTree, *, batch_axes: int = 0) -> jax.Array:
        """The leaves one behind the other, in the last axis; leading batch axes stay in front.

        Raises:
            ValueError: the tree is of another structure or shape.
        """
        leaves, structure = jax.tree.flatten(tree)
        if structure != self.structure:
            raise ValueError(f"expected a pytree like {self.structure}, got {structure}")
        for leaf, shape in zip(leaves, self.shapes, strict=True):
            if tuple(jnp.shape(leaf)[batch_axes:]) != shape:
                raise ValueError(f"expected a leaf of shape {shape}, got {tuple(jnp.shape(leaf)[batch_axes:])}")
        flat = [_reshaped(leaf, self.dtype, (*jnp.shape(leaf)[:batch_axes], size)) for leaf, size in zip(leaves, self.sizes, strict=True)]
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=-1)

    def unravel(self, flat: jax.Array) -> PyTree:
        """The pytree again, from the last axis of ``flat``; leading axes stay in front of each leaf."""
        pieces = jnp.split(flat, np.cumsum(self.sizes)[:-1], axis=-1) if len(self.sizes) > 1 else [flat]
        leaves = [
            jnp.reshape(piece, (*flat.shape[:-1], *shape)).astype(dtype)
            for piece, shape, dtype in zip(pieces, self.shapes, self.dtypes, strict=True)
        ]
        return self.structure.unflatten(leaves)


def _reshaped(leaf: Any, dtype: Any, shape: tuple[int, ...]) -> jax.Array:
    if isinstance(leaf, jax.Array) and leaf.shape == shape and leaf.dtype == dtype:
        # As it is: an operation that does nothing takes a third as long as a small fit.
        return leaf
    return jnp.reshape(jnp.asarray(leaf, dtype), shape)


@dataclasses.dataclass(frozen=True)
class FlatFunction:
    """The user's function as a function of a flat vector. Holds no data and compares by what it holds, so that it can key a compile cache.

    Attributes:
        fun: the user's function of a pytree.
        packing: how the pytree lies in a flat vector.
        has_aux: whether ``fun`` returns a pair of its value and ``aux``.
        num_own: how many of the last members of args are the problem's own (its scale, its bounds) and not the user's.
        is_scaled: whether the first of these is the scale of x.
    """

    fun: Objective
    packing: Packing
    has_aux: bool
    num_own: int = 0
    is_scaled: bool = False

    def output(self, x: jax.Array, args: tuple[PyTree, ...]) -> Any:
        """What the user's function returns at a flat x."""
        x, args = self.given(x, args)
        return self.fun(self.packing.unravel(x), *args)

    def given(self, x: jax.Array, args: tuple[PyTree, ...]) -> tuple[jax.Array, tuple[PyTree, ...]]:
        """x in the user's units, and the user's data."""
        kept = len(args) - self.num_own
        return (x * args[kept] if self.is_scaled else x), args[:kept]


@dataclasses.dataclass(frozen=True)
class FlatObjective(FlatFunction):
    """A scalar function of one problem."""

    def __call__(self, x: jax.Array, *args: PyTree) -> jax.Array:
        """Return f of one problem at a flat x, in the dtype of x.

        Raises:
            TypeError: ``fun`` does not return a real floating scalar.
        """
        output = self.output(x, args)
        if self.has_aux:
            if not (isinstance(output, tuple) and len(output) == 2):
                raise TypeError(f"fun returned {describe(output)}; with has_aux=True expected a pair (value, aux)")
            output = output[0]
        is_number = isinstance(output, (float, np.floating, np.ndarray, jax.Array))
        if not is_number or jnp.shape(output) != () or not jnp.issubdtype(jnp.result_type(output), jnp.floating):
            hint = "; for a vector of residuals use least_squares" if is_number and jnp.ndim(output) > 0 else ""
            raise TypeError(f"fun returned {describe(output)}; expected one real floating number{hint}")
        return jnp.asarray(output, x.dtype)


@pytree_dataclass
class Minimize:
    """Minimize a scalar function, once per lane, perhaps between bounds.

    Bounds are data: they ride as the last two members of ``args``, so that a lane that is refilled brings its own. A solver that takes
    bounds asks ``free`` which parameters may move, and puts every trial through ``project``. A scale rides before them: solvers then see
    x divided by it, bounds likewise, and what they find is brought back by ``unscaled``. Between the two ride tolerances that differ from
    problem to problem.

    Attributes:
        fun: the user's function for one problem, called as ``fun(x, *args)``.
        args: its data; a leaf that differs from problem to problem carries the lanes in its last axis.
        is_batched: for each leaf of ``args``, whether it carries lanes.
        packing: how x lies in a flat vector.
        derivatives: where derivatives come from: autodiff, finite differences, or supplied by the user.
        has_aux: whether ``fun`` returns ``(value, aux)``.
        is_bounded: whether the last two members of ``args`` are the lower and the upper bounds, ``[n]`` or ``[n, lanes]``.
        is_scaled: whether the first of the problem's own members is the typical size of each parameter, likewise.
        tolerances: names of the tolerances that ride behind it, ``[1 or n, lanes]`` each.
    """

    fun: Objective = static()
    args: tuple[PyTree, ...]
    is_batched: tuple[bool, ...] = static()
    packing: Packing = static()
    derivatives: Any = static(default=Autodiff())
    has_aux: bool = static(default=False)
    is_bounded: bool = static(default=False)
    is_scaled: bool = static(default=False)
    tolerances: tuple[str, ...] = static(default=())

    @property
    def evaluations_per_gradient(self) -> int:
        """Evaluations of f that a value and a gradient cost together."""
        return self.derivatives.num_evaluations(self.packing.size)

    @property
    def flat_value(self) -> FlatObjective:
        """The function of one problem, of a flat x."""
        return FlatObjective(self.fun, self.packing, self.has_aux, self.num_own, self.is_scaled)

    @property
    def num_own(self) -> int:
        """How many of the last members of ``args`` are scale, tolerances and bounds, and not for ``fun``."""
        return (2 if self.is_bounded else 0) + (1 if self.is_scaled else 0) + len(self.tolerances)

    @property
    def units(self) -> jax.Array | None:
        """The scale, ``[n, lanes]`` or ``[n, 1]``; None without one."""
        if not self.is_scaled:
            return None
        units = self.args[len(self.args) - self.num_own]
        return units if jnp.ndim(units) == 2 else units[:, None]

    def unscaled(self, x: LaneVector) -> LaneVector:
        """x in the user's units; x itself, the very array, without a scale."""
        return x if self.units is None else x * self.units

    def per_unit(self, gradient: LaneVector) -> LaneVector:
        """A gradient in the user's units; itself without a scale."""
        return gradient if self.units is None else gradient / self.units

    def unravel(self, x: jax.Array) -> PyTree:
        """The user's pytree, from the last axis of x in the user's units."""
        return self.packing.unravel(x)

    @property
    def limits(self) -> tuple[jax.Array, jax.Array]:
        """The lower and the upper bounds, ``[n, lanes]`` or ``[n, 1]``; only where ``is_bounded``."""
        lower, upper = self.args[-2:]
        return (lower, upper) if jnp.ndim(lower) == 2 else (lower[:, None], upper[:, None])

    @property
    def own_tolerances(self) -> dict[str, jax.Array]:
        """The tolerances that differ from lane to lane, ``[n, lanes]``, or ``[lanes]`` for all parameters alike."""
        begin = len(self.args) - self.num_own + (1 if self.is_scaled else 0)
        held = self.args[begin : begin + len(self.tolerances)]
        return {name: value[0] if value.shape[0] == 1 else value for name, value in zip(self.tolerances, held, strict=True)}

    def over_lanes(self, function: Callable[..., Any], *blocks: PyTree) -> Any:
        """Apply ``function(*one_lane_of_each_block, *args)`` in every lane; results carry the lanes last."""
        arg_axes = jax.tree.structure(self.args).unflatten([-1 if batched else None for batched in self.is_batched])
        block_axes = tuple(jax.tree.map(lambda _: -1, block) for block in blocks)
        return jax.vmap(function, in_axes=(*block_axes, *arg_axes), out_axes=-1)(*blocks, *self.args)

    def value(self, x: LaneVector) -> LaneFloat:
        """f in every lane."""
        return self.over_lanes(self.flat_value, x)

    def value_and_gradient(self, x: LaneVector) -> tuple[LaneFloat, LaneVector]:
        """f and its gradient in every lane."""
        return self.over_lanes(value_and_gradient(self.flat_value, method=self._flat_derivatives()), x)

    def gradient(self, x: LaneVector) -> LaneVector:
        """The gradient in every lane."""
        return self.value_and_gradient(x)[1]

    def hessian(self, x: LaneVector) -> LaneMatrix:
        """The Hessian in every lane, made symmetric."""
        matrix = self.over_lanes(hessian(self.flat_value, method=self._flat_derivatives()), x)
        return (matrix + jnp.swapaxes(matrix, 0, 1)) / 2

    def value_gradient_hessian(self, x: LaneVector) -> tuple[LaneFloat, LaneVector, LaneMatrix]:
        """f, its gradient and its Hessian in every lane, together where that is cheaper."""
        n = x.shape[0]
        if isinstance(self.derivatives, Autodiff) and self.derivatives.mode != "reverse" and n <= COLUMNS_LIMIT:
            try:
                value, first, lower = self.over_lanes(functools.partial(value_gradient_hessian, self.flat_value), x)
            except NotCoveredError:
                pass
            else:
                place = [[max(i, j) * (max(i, j) + 1) // 2 + min(i, j) for j in range(n)] for i in range(n)]
                return value, jnp.stack(first), jnp.stack([jnp.stack([lower[k] for k in row]) for row in place])
        return *self.value_and_gradient(x), self.hessian(x)

    def hvp(self, x: LaneVector, v: LaneVector) -> LaneVector:
        """Hessian times vector in every lane."""
        method = self._flat_derivatives()
        return self.over_lanes(lambda x, v, *args: hvp(self.flat_value, x, v, *args, method=method), x, v)

    def aux(self, x: LaneVector) -> PyTree:
        """What ``fun`` returns beside its value, in every lane, lanes last; None without ``has_aux``."""
        if not self.has_aux:
            return None
        function = FlatFunction(self.fun, self.packing, True, self.num_own, self.is_scaled)
        return self.over_lanes(lambda x, *args: function.output(x, args)[1], x)

    def project(self, x: LaneVector) -> LaneVector:
        """The nearest point between the bounds; x itself, the very array, where there are none."""
        if not self.is_bounded:
            return x
        lower, upper = self.limits
        return jnp.clip(x, lower, upper)

    def free(self, x: LaneVector, gradient: LaneVector) -> jax.Array | None:
        """Which parameters may move: not fixed, and not held at a bound by the gradient, ``[n, lanes]``; None without bounds."""
        if not self.is_bounded:
            return None
        lower, upper = self.limits
        is_held = ((x <= lower) & (gradient >= 0)) | ((x >= upper) & (gradient <= 0)) | (lower >= upper)
        return ~is_held

    def projected(self, x: LaneVector, gradient: LaneVector) -> LaneVector:
        """The gradient of the parameters that may move, 0 for those held at a bound; the gradient itself without bounds."""
        free = self.free(x, gradient)
        return gradient if free is None else jnp.where(free, gradient, 0)

    def _flat_derivatives(self) -> Any:
        """The user's derivative functions speak of pytrees; the solvers of flat vectors."""
        if isinstance(self.derivatives, FiniteDifference):
            return self.derivatives.flattened(self.packing.unravel(jnp.zeros(self.packing.size, self.packing.dtype)))
        if not isinstance(self.derivatives, Supplied):
            return self.derivatives
        gradient_of: Any = self.derivatives.gradient
        hessian_of: Any = self.derivatives.hessian
        hvp_of: Any = self.derivatives.hvp
        packing = self.packing
        users = FlatFunction(self.fun, packing, self.has_aux, self.num_own, self.is_scaled)
        size = lambda args: args[len(args) - self.num_own] if self.is_scaled else 1  # noqa: E731
        given: dict[str, Callable[..., Any]] = {}

        def gradient(x: jax.Array, *args: PyTree) -> jax.Array:
            flat, own = users.given(x, args)
            return packing.ravel(gradient_of(packing.unravel(flat), *own)) * size(args)

        def product(x: jax.Array, v: jax.Array, *args: PyTree) -> jax.Array:
            flat, own = users.given(x, args)
            return packing.ravel(hvp_of(packing.unravel(flat), packing.unravel(v * size(args)), *own)) * size(args)

        def curvature(x: jax.Array, *args: PyTree) -> jax.Array:
            flat, own = users.given(x, args)
            units = jnp.broadcast_to(jnp.asarray(size(args), x.dtype), x.shape)
            return _flat_matrix(hessian_of(packing.unravel(flat), *own), packing) * units[:, None] * units

        if gradient_of is not None:
            given["gradient"] = gradient
        if hvp_of is not None:
            given["hvp"] = product
        if hessian_of is not None:
            given["hessian"] = curvature
        return Supplied(**given)


COLUMNS_LIMIT = 12
"""Parameters up to which the columns of a Jacobian are derived one by one; above, the program would grow too long to compile quickly."""

LOSSES = ("linear", "soft_l1", "huber", "cauchy", "arctan")


@dataclasses.dataclass(frozen=True)
class FlatResidual(FlatFunction):
    """The residuals of one problem as one flat vector."""

    def __call__(self, x: jax.Array, *args: PyTree) -> jax.Array:
        """Return the residuals of one problem at a flat x, ``[m]``, in the dtype of x.

        Raises:
            TypeError: ``fun`` does not return real floating arrays.
            ValueError: there are no residuals.
        """
        output = self.output(x, args)
        if self.has_aux:
            if not (isinstance(output, tuple) and len(output) == 2):
                raise TypeError(f"fun returned {describe(output)}; with has_aux=True expected a pair (residuals, aux)")
            output = output[0]
        leaves = jax.tree.leaves(output, is_leaf=lambda leaf: leaf is None)
        for leaf in leaves:
            is_number = isinstance(leaf, (float, np.floating, np.ndarray, jax.Array))
            if not is_number or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(f"fun returned {describe(leaf)}; expected residuals: real floating arrays, or a pytree of them")
        if sum(jnp.size(leaf) for leaf in leaves) == 0:
            raise ValueError(f"fun returned {describe(output)}: no residuals; expected at least one")
        return jnp.concatenate([jnp.ravel(jnp.asarray(leaf, x.dtype)) for leaf in leaves])


@dataclasses.dataclass(frozen=True)
class FlatCost:
    """Half the sum of the losses of the residuals, a function of a flat x; takes the scale of the loss in front of the data.

    Attributes:
        residual: the residuals.
        loss: the name of the loss.
    """

    residual: FlatResidual
    loss: str

    def __call__(self, x: jax.Array, scale: jax.Array, *args: PyTree) -> jax.Array:
        """Return the cost of one problem at a flat x."""
        return jnp.sum(robust_cost(self.residual(x, *args), self.loss, scale))


def robust_cost(residuals: jax.Array, loss: str, scale: Any) -> jax.Array:
    """What each residual adds to the cost, ``0.5 c^2 rho((r / c)^2)``; SciPy's losses, with its ``f_scale`` as c.

    Example:
        >>> robust_cost(jnp.array([2.0]), "linear", 1.0).tolist()
        [2.0]
        >>> robust_cost(jnp.array([2.0]), "huber", 1.0).tolist()
        [1.5]
    """
    if loss == "linear":
        return residuals * residuals / 2
    z = (residuals / scale) ** 2
    return scale**2 * _rho(z, loss)[0] / 2


def _rho(z: jax.Array, loss: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """rho, its first and its second derivative at z = (r / c)^2.

    References:
        Triggs et al., Bundle adjustment: a modern synthesis (1999), section 4.3; scipy.optimize.least_squares.
    """
    if loss == "soft_l1":
        # sqrt(1 + z) - 1 without the subtraction of nearly equal numbers.
        root = jnp.sqrt(1 + z)
        return 2 * z / (1 + root), 1 / root, -0.5 / root**3
    if loss == "huber":
        outer = jnp.where(z > 1, z, 1)
        root = jnp.sqrt(outer)
        return jnp.where(z > 1, 2 * root - 1, z), jnp.where(z > 1, 1 / root, 1), jnp.where(z > 1, -0.5 / root**3, 0)
    if loss == "cauchy":
        return jnp.log1p(z), 1 / (1 + z), -1 / (1 + z) ** 2
    # arctan: written through 1 / z where z^2 would overflow.
    large = z > 1
    inverse = 1 / jnp.where(large, z, 1)
    small = jnp.where(large, 1, z)
    slope = jnp.where(large, inverse**2 / (1 + inverse**2), 1 / (1 + small**2))
    return jnp.arctan(z), slope, -2 * jnp.where(large, inverse * slope * (1 / (1 + inverse**2)), small * slope**2)


@pytree_dataclass
class Linearization:
    """The residuals and their Jacobian in every lane, weighted so that the gradient of the cost is J'r.

    Attributes:
        residuals: as the user's function gives them, ``[m, lanes]``.
        weights: what rows of the user's Jacobian were multiplied by, ``[m, lanes]``; None for the linear loss, which leaves them alone.
        weighted: weighted residuals, ``[m, lanes]``.
        jacobian: weighted Jacobian, ``[m, n, lanes]``.
    """

    residuals: jax.Array
    weights: jax.Array | None
    weighted: jax.Array
    jacobian: jax.Array


@pytree_dataclass
class NormalEquations:
    """What a Gauss-Newton step needs to know of the residuals, in every lane.

    Attributes:
        value: the cost, ``[lanes]``.
        gradient: J'r, ``[n, lanes]``.
        lower: the lower triangle of J'J, row after row, ``[n (n + 1) / 2, lanes]``.
        is_finite: whether every residual and every entry of the Jacobian is finite, ``[lanes]``.
    """

    value: LaneFloat
    gradient: LaneVector
    lower: LaneTriangle
    is_finite: jax.Array

    @property
    def diagonal(self) -> LaneVector:
        """The diagonal of J'J, ``[n, lanes]``."""
        return jnp.stack([self.lower[i * (i + 3) // 2] for i in range(self.gradient.shape[0])])

    @property
    def matrix(self) -> LaneMatrix:
        """J'J, ``[n, n, lanes]``."""
        n = self.gradient.shape[0]
        place = [[max(i, j) * (max(i, j) + 1) // 2 + min(i, j) for j in range(n)] for i in range(n)]
        return jnp.stack([jnp.stack([self.lower[k] for k in row]) for row in place])


@pytree_dataclass
class LeastSquares(Minimize):
    """Minimize half the sum of squares of residuals, or of a robust loss of them, once per lane.

    ``fun`` returns the residuals, an array or a pytree of arrays. The cost is ``0.5 sum_i c^2 rho((r_i / c)^2)`` as in SciPy. A minimizer
    may be asked to solve it too: value, gradient and Hessian are those of the cost.

    Attributes:
        loss: one of `LOSSES`.
        loss_scale: c, the size of a residual at which a robust loss begins to bend; one number.
    """

    loss: str = static(default="linear")
    loss_scale: Any = 1.0

    @property
    def flat_residual(self) -> FlatResidual:
        """The residuals of one problem, of a flat x."""
        return FlatResidual(self.fun, self.packing, self.has_aux, self.num_own, self.is_scaled)

    @property
    def flat_value(self) -> Any:
        """The cost of one problem, of a flat x."""
        cost, scale = FlatCost(self.flat_residual, self.loss), self.loss_scale
        return lambda x, *args: cost(x, scale, *args)

    @property
    def num_residuals(self) -> int:
        """Residuals of one problem."""
        axes = jax.tree.structure(self.args).unflatten(self.is_batched)
        drop = lambda leaf, batched: jax.ShapeDtypeStruct(jnp.shape(leaf)[:-1] if batched else jnp.shape(leaf), jnp.result_type(leaf))  # noqa: E731
        one = jax.tree.map(drop, self.args, axes)
        return jax.eval_shape(self.flat_residual, jax.ShapeDtypeStruct((self.packing.size,), self.packing.dtype), *one).shape[0]

    def residuals(self, x: LaneVector) -> jax.Array:
        """The residuals in every lane, ``[m, lanes]``."""
        return self.over_lanes(self.flat_residual, x)

    def linearize(self, x: LaneVector) -> Linearization:
        """Residuals and Jacobian in every lane, weighted for the loss."""
        residuals, matrix = self.over_lanes(self._residual_and_jacobian(), x)
        if self.loss == "linear":
            return Linearization(residuals, None, residuals, matrix)
        weighted, weights = self._reweighted(residuals)
        return Linearization(residuals, weights, weighted, matrix * weights[:, None])

    def _reweighted(self, residuals: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The weighted residuals of a robust loss, and the weights of the rows of the Jacobian."""
        z = (residuals / self.loss_scale) ** 2
        _, slope, bend = _rho(z, self.loss)
        # Triggs' correction, floored at a tenth of the slope where the loss bends down: the matrix must stay positive semidefinite, and a
        # floor at rounding (SciPy's) would let the weighted residuals of outliers drown all others.
        curvature = jnp.maximum(slope + 2 * bend * z, 0.1 * slope)
        weights = jnp.sqrt(curvature)
        return residuals * slope / weights, weights

    def _residuals_and_columns(self, x: LaneVector) -> tuple[jax.Array, Sequence[jax.Array]]:
        """Residuals ``[m, lanes]`` and the columns of their Jacobian, each of the same shape; not weighted."""
        method = self.derivatives
        is_forward = isinstance(method, Autodiff) and (method.mode == "forward" or (method.mode == "auto" and self._is_tall))
        if is_forward and x.shape[0] <= COLUMNS_LIMIT:
            residual = self.flat_residual
            return self.over_lanes(lambda x, *args: value_and_columns(residual, x, *args), x)
        residuals, matrix = self.over_lanes(self._residual_and_jacobian(), x)
        return residuals, [matrix[:, j] for j in range(x.shape[0])]

    def cost(self, residuals: jax.Array) -> LaneFloat:
        """The cost of residuals ``[m, lanes]``."""
        return jnp.sum(robust_cost(residuals, self.loss, self.loss_scale), axis=0)

    def decrease(self, old: jax.Array, new: jax.Array, unit: LaneFloat) -> LaneFloat:
        """How much lower the cost of ``new`` residuals is than that of ``old`` ones, in units of ``unit`` squared.

        Summed from differences residual by residual: near a minimum the difference of the sums would be rounding.
        """
        if self.loss == "linear":
            return jnp.sum(((old - new) / unit) * ((old + new) / unit), axis=0) / 2
        cost = lambda residuals: robust_cost(residuals, self.loss, self.loss_scale)  # noqa: E731
        return jnp.sum((cost(old) - cost(new)) / unit / unit, axis=0)

    def normal_equations(self, x: LaneVector) -> NormalEquations:
        """Cost, J'r and J'J in every lane, all sums in one pass over the samples.

        XLA on CPU fuses a producer into each of its consumers: separate sums would compute each residual once per sum. One variadic reduce
        computes each once.
        """
        n = x.shape[0]
        residuals, columns = self._residuals_and_columns(x)
        cost, weighted = robust_cost(residuals, self.loss, self.loss_scale), residuals
        if self.loss != "linear":
            weighted, weights = self._reweighted(residuals)
            columns = [column * weights for column in columns]
        # Without this, products of exponentials would be rewritten to further exponentials.
        weighted, columns = jax.lax.optimization_barrier((weighted, columns))
        products = [columns[i] * columns[j] for i in range(n) for j in range(i + 1)]
        products += [column * weighted for column in columns] + [cost]
        sums = sums_together((0,), *products)
        lower, gradient, value = jnp.stack(sums[: -n - 1]), jnp.stack(sums[-n - 1 : -1]), sums[-1]
        # A NaN or an infinity in any entry of J shows in the diagonal of J'J; an overflow of the squares shows there too.
        largest = functools.reduce(jnp.maximum, [sums[i * (i + 3) // 2] for i in range(n)])
        is_finite = (
            jnp.isfinite(value)
            & jnp.isfinite(largest)
            & functools.reduce(jnp.logical_and, [jnp.isfinite(slope) for slope in sums[-n - 1 : -1]])
        )
        return NormalEquations(value, gradient, lower, is_finite)

    def value_and_gradient(self, x: LaneVector) -> tuple[LaneFloat, LaneVector]:
        """The cost and its gradient J'r in every lane."""
        linear = self.linearize(x)
        return self.cost(linear.residuals), jnp.sum(linear.jacobian * linear.weighted[:, None], axis=0)

    def hessian(self, x: LaneVector) -> LaneMatrix:
        """The Hessian of the cost in every lane, second derivatives of the residuals included."""
        return self.hessian_by_jacobian(x) if isinstance(self.derivatives, Supplied) else super().hessian(x)

    def hessian_by_jacobian(self, x: LaneVector) -> LaneMatrix:
        """The same as the derivative of J'r, taken forward: whatever way J is made, the residuals are not differentiated backward again."""

        def gradient(x: jax.Array, *args: PyTree) -> jax.Array:
            residuals, matrix = self._residual_and_jacobian()(x, *args)
            slope = 1.0 if self.loss == "linear" else _rho((residuals / self.loss_scale) ** 2, self.loss)[1]
            return matrix.T @ (slope * residuals)

        matrix = self.over_lanes(jax.jacfwd(gradient), x)
        return (matrix + jnp.swapaxes(matrix, 0, 1)) / 2

    def _residual_and_jacobian(self) -> Callable[..., tuple[jax.Array, jax.Array]]:
        """``(residuals, Jacobian)`` of one problem, of a flat x."""
        residual, method = self.flat_residual, self._flat_derivatives()
        if isinstance(method, Autodiff) and method.mode != "reverse" and (method.mode == "forward" or self._is_tall):

            def pair(x: jax.Array, *args: PyTree) -> tuple[jax.Array, jax.Array]:
                def twice(x: jax.Array) -> tuple[jax.Array, jax.Array]:
                    value = residual(x, *args)
                    return value, value

                matrix, value = jax.jacfwd(twice, has_aux=True)(x)
                return value, matrix

            return pair
        adapt = self._adapted if isinstance(method, FiniteDifference) else lambda x, args: method
        return lambda x, *args: (residual(x, *args), jacobian(residual, method=adapt(x, args))(x, *args))

    def _adapted(self, x: jax.Array, args: tuple[PyTree, ...]) -> FiniteDifference:
        """The user's finite differences with what they leave open: steps in proportion to the parameters, none of them out of bounds.

        Parameters of fits differ by many powers of ten, and a step in proportion to max(|x|, 1) would reach far beyond a small one: with it
        NIST's Hahn1 and Kirby2 are lost. The rule is MINPACK's.
        """
        method = self._flat_derivatives()
        if method.step is None:
            relative = relative_step(stencil_for(method.kind, 1, method.order), machine_epsilon(x.dtype))
            step = nearest_power_of_two(relative * jnp.where(x != 0, jnp.abs(x), jnp.ones_like(x)))
            method = dataclasses.replace(method, step=step)
        if self.is_bounded and method.bounds is None:
            lower, upper = args[-2:]
            # A fixed parameter needs room for a derivative that nobody reads.
            is_fixed = lower >= upper
            method = dataclasses.replace(method, bounds=(jnp.where(is_fixed, -jnp.inf, lower), jnp.where(is_fixed, jnp.inf, upper)))
        return method

    @property
    def _is_tall(self) -> bool:
        return self.num_residuals >= self.packing.size

    def _flat_derivatives(self) -> Any:
        if not isinstance(self.derivatives, Supplied):
            return super()._flat_derivatives()
        jacobian_of, packing, residual = self.derivatives.jacobian, self.packing, self.flat_residual
        if jacobian_of is None:
            return Autodiff()

        def flat(x: jax.Array, *args: PyTree) -> jax.Array:
            at, own = residual.given(x, args)
            rows = flat_rows(jacobian_of(packing.unravel(at), *own), packing, x.dtype)
            return rows * args[len(own)] if self.is_scaled else rows

        return Supplied(jacobian=flat)


def flat_rows(tree: PyTree, packing: Packing, dtype: Any) -> jax.Array:
    """A Jacobian given as a tree of the residuals, in each leaf the tree of x (jax.jacobian's form), as one matrix.

    Raises:
        ValueError: a block does not end in the axes of its leaf of x.
    """
    rows: list[list[jax.Array]] = []
    leaves = jax.tree.leaves(tree)
    if len(leaves) % len(packing.shapes):
        raise ValueError(f"jacobian has {len(leaves)} leaves; expected a multiple of {len(packing.shapes)}, those of x")
    for start in range(0, len(leaves), len(packing.shapes)):
        row = []
        for leaf, shape, size in zip(leaves[start : start + len(packing.shapes)], packing.shapes, packing.sizes, strict=True):
            if tuple(jnp.shape(leaf)[jnp.ndim(leaf) - len(shape) :]) != shape:
                raise ValueError(f"jacobian has a block of shape {jnp.shape(leaf)}; expected the residual's axes, then {shape}, those of x")
            row.append(jnp.reshape(jnp.asarray(leaf, dtype), (-1, size)))
        rows.append(row)
    return jnp.concatenate([jnp.concatenate(row, axis=1) for row in rows], axis=0)


def _flat_matrix(blocks: PyTree, packing: Packing) -> jax.Array:
    """A Hessian given as a tree of trees of blocks (jax.hessian's form) as one square matrix."""
    rows = packing.structure.flatten_up_to(blocks)
    leaves = [packing.structure.flatten_up_to(row) for row in rows]
    sizes = packing.sizes
    return jnp.block([[jnp.reshape(leaf, (sizes[i], sizes[j])) for j, leaf in enumerate(row)] for i, row in enumerate(leaves)])
