"""Problems: a function bound to its data and to a choice of derivatives, asked about a whole block of lanes at once.

A solver sees nothing but a problem. It never calls ``jax.grad``; it never sees the user's pytrees, nor where the derivatives come from.
The user's function is written for one problem; it is vmapped here, once, with the lanes in the last axis of every batched array.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import LaneFloat, LaneMatrix, LaneVector, Objective, PyTree
from jaxdiff.derivatives import Autodiff, FiniteDifference, Supplied, hessian, hvp, value_and_gradient
from jaxdiff.derivatives.protocol import describe


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

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers in each leaf."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes)

    @property
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
        flat = [
            jnp.reshape(jnp.asarray(leaf, self.dtype), (*jnp.shape(leaf)[:batch_axes], size))
            for leaf, size in zip(leaves, self.sizes, strict=True)
        ]
        return flat[0] if len(flat) == 1 else jnp.concatenate(flat, axis=-1)

    def unravel(self, flat: jax.Array) -> PyTree:
        """The pytree again, from the last axis of ``flat``; leading axes stay in front of each leaf."""
        pieces = jnp.split(flat, np.cumsum(self.sizes)[:-1], axis=-1) if len(self.sizes) > 1 else [flat]
        leaves = [
            jnp.reshape(piece, (*flat.shape[:-1], *shape)).astype(dtype)
            for piece, shape, dtype in zip(pieces, self.shapes, self.dtypes, strict=True)
        ]
        return self.structure.unflatten(leaves)


@dataclasses.dataclass(frozen=True)
class FlatObjective:
    """The user's function as a function of a flat vector. Holds no data and compares by what it holds, so that it can key a compile cache.

    Attributes:
        fun: the user's function of a pytree.
        packing: how the pytree lies in a flat vector.
        has_aux: whether ``fun`` returns ``(value, aux)``.
    """

    fun: Objective
    packing: Packing
    has_aux: bool

    def __call__(self, x: jax.Array, *args: PyTree) -> jax.Array:
        """Return f of one problem at a flat x, in the dtype of x.

        Raises:
            TypeError: ``fun`` does not return a real floating scalar.
        """
        output = self.fun(self.packing.unravel(x), *args)
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
    """Minimize a scalar function, once per lane.

    Attributes:
        fun: the user's function for one problem, called as ``fun(x, *args)``.
        args: its data; a leaf that differs from problem to problem carries the lanes in its last axis.
        is_batched: for each leaf of ``args``, whether it carries lanes.
        packing: how x lies in a flat vector.
        derivatives: where derivatives come from: autodiff, finite differences, or supplied by the user.
        has_aux: whether ``fun`` returns ``(value, aux)``.
    """

    fun: Objective = static()
    args: tuple[PyTree, ...]
    is_batched: tuple[bool, ...] = static()
    packing: Packing = static()
    derivatives: Any = static(default=Autodiff())
    has_aux: bool = static(default=False)

    @property
    def evaluations_per_gradient(self) -> int:
        """Evaluations of f that a value and a gradient cost together."""
        return self.derivatives.num_evaluations(self.packing.size)

    @property
    def flat_value(self) -> FlatObjective:
        """The function of one problem, of a flat x."""
        return FlatObjective(self.fun, self.packing, self.has_aux)

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

    def hvp(self, x: LaneVector, v: LaneVector) -> LaneVector:
        """Hessian times vector in every lane."""
        method = self._flat_derivatives()
        return self.over_lanes(lambda x, v, *args: hvp(self.flat_value, x, v, *args, method=method), x, v)

    def aux(self, x: LaneVector) -> PyTree:
        """What ``fun`` returns beside its value, in every lane, lanes last; None without ``has_aux``."""
        if not self.has_aux:
            return None
        return self.over_lanes(lambda x, *args: self.fun(self.packing.unravel(x), *args)[1], x)

    def _flat_derivatives(self) -> Any:
        """The user's derivative functions speak of pytrees; the solvers of flat vectors."""
        if isinstance(self.derivatives, FiniteDifference):
            return self.derivatives.flattened(self.packing.unravel(jnp.zeros(self.packing.size, self.packing.dtype)))
        if not isinstance(self.derivatives, Supplied):
            return self.derivatives
        gradient_of, hessian_of, hvp_of = self.derivatives.gradient, self.derivatives.hessian, self.derivatives.hvp
        packing = self.packing
        given: dict[str, Callable[..., Any]] = {}
        if gradient_of is not None:
            given["gradient"] = lambda x, *args: packing.ravel(gradient_of(packing.unravel(x), *args))
        if hvp_of is not None:
            given["hvp"] = lambda x, v, *args: packing.ravel(hvp_of(packing.unravel(x), packing.unravel(v), *args))
        if hessian_of is not None:
            given["hessian"] = lambda x, *args: _flat_matrix(hessian_of(packing.unravel(x), *args), packing)
        return Supplied(**given)


def _flat_matrix(blocks: PyTree, packing: Packing) -> jax.Array:
    """A Hessian given as a tree of trees of blocks (jax.hessian's form) as one square matrix."""
    rows = packing.structure.flatten_up_to(blocks)
    leaves = [packing.structure.flatten_up_to(row) for row in rows]
    sizes = packing.sizes
    return jnp.block([[jnp.reshape(leaf, (sizes[i], sizes[j])) for j, leaf in enumerate(row)] for i, row in enumerate(leaves)])
