"""The problem of finding a root: as many equations as unknowns, once per lane."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon
from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import LaneBool, LaneMatrix, LaneVector, PyTree
from jaxdiff.problem import FlatResidual, LeastSquares, Packing
from jaxdiff.result import Status


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the unknowns of a smaller problem belong in x, whose other entries are held. Hashable.

    Attributes:
        packing: how x lies in a flat vector.
        index: the places in it.
    """

    packing: Packing
    index: tuple[int, ...]

    def filled(self, whole: jax.Array, x: jax.Array) -> PyTree:
        """The pytree of ``whole`` with ``x`` put into it, both in their last axes."""
        return self.packing.unravel(whole.at[..., np.asarray(self.index)].set(x))


@pytree_dataclass
class Root(LeastSquares):
    """Find x with F(x) = 0, F having as many components as x. F takes the place of the residuals of least squares.

    Attributes:
        fun_packing: how F lies in a flat vector.
        place: where the unknowns belong in the user's x, whose other entries are the last of the user's data; None: everywhere.
    """

    fun_packing: Packing | None = static(default=None)
    place: Place | None = static(default=None)

    @property
    def packing_of_x(self) -> Packing:
        """How the user's x lies in a flat vector."""
        return self.packing if self.place is None else self.place.packing

    def among_unknowns(self, tolerance: Any) -> Any:
        """A tolerance like the user's x, ``[]`` or ``[n, 1]``, for the unknowns."""
        return tolerance if self.place is None or jnp.ndim(tolerance) == 0 else tolerance[np.asarray(self.place.index)]

    def unravel(self, x: jax.Array) -> PyTree:
        """The user's pytree, held entries included; problems, where ``x`` has them, in its first axis."""
        if self.place is None:
            return self.packing.unravel(x)
        whole = jnp.moveaxis(self.args[len(self.args) - self.num_own - 1], -1, 0) if self._is_held_apart else self.args[-self.num_own - 1]
        if self._is_held_apart:
            whole = whole.reshape(whole.shape[0], *[1] * (x.ndim - 2), whole.shape[-1])
        return self.place.filled(jnp.broadcast_to(whole, (*x.shape[:-1], whole.shape[-1])), x)

    @property
    def _is_held_apart(self) -> bool:
        """Whether the held entries differ from problem to problem."""
        return self.is_batched[len(self.is_batched) - self.num_own - 1]

    @property
    def _is_tall(self) -> bool:
        return True

    def system(self, x: LaneVector) -> tuple[LaneVector, LaneMatrix]:
        """F and its Jacobian in every lane, ``[n, lanes]`` and ``[n, n, lanes]``."""
        return self.over_lanes(self._residual_and_jacobian(), x)

    def is_at_rounding(self, x: LaneVector, residuals: LaneVector, typical: LaneVector) -> LaneBool:
        """Whether F at x cannot be told from the noise of its own rounding: of what it does a few units in the last place away.

        F is taken a few units away on both sides, in several directions: what it does there beyond a straight line is noise. Noise is
        rounding only as long as it is small beside what F does a hundredth away; a function that is rough by itself has no root here.

        Args:
            x: where the solver came to rest.
            residuals: F there.
            typical: sizes of the unknowns; units in the last place are of the larger of them and x.
        """
        epsilon = machine_epsilon(x.dtype)
        size = jnp.maximum(jnp.abs(x), jnp.where(jnp.isfinite(typical), jnp.abs(typical), 0))
        index = jnp.arange(x.shape[0])[:, None]

        def second_difference(reach: Any) -> LaneVector:
            return jnp.abs(self.evaluate(x + reach * size) + self.evaluate(x - reach * size) - 2 * residuals) / 2

        def look(k: jax.Array, noise: LaneVector) -> LaneVector:
            # Signs that differ from component to component and from look to look: bits of the two counts.
            signs = 1 - 2 * (jax.lax.population_count(index & k) % 2).astype(x.dtype)
            return jnp.maximum(noise, second_difference((1 + k % 3) * epsilon * signs))

        noise = jax.lax.fori_loop(0, 6, look, jnp.zeros_like(residuals))
        around = jnp.maximum(jnp.abs(self.evaluate(x + size / 128)), jnp.abs(self.evaluate(x - size / 128)))
        is_noise = (jnp.abs(residuals) <= 4 * noise) & (noise <= epsilon**0.5 * around)
        return jnp.all(is_noise | (residuals == 0), axis=0)

    def evaluate(self, x: LaneVector) -> LaneVector:
        """F in every lane."""
        return self.residuals(x)


def output_packing(fun: Any, packing: Packing, has_aux: bool, args: tuple[PyTree, ...], is_batched: tuple[bool, ...]) -> Packing:
    """The layout of F, found by tracing it once; nothing is computed. Batched data have their problems in the first axis.

    Raises:
        TypeError: F is not made of real floating numbers.
        ValueError: F has not as many components as x.
    """
    axes = jax.tree.structure(args).unflatten(is_batched)
    drop = lambda leaf, batched: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:] if batched else jnp.shape(leaf), jnp.result_type(leaf))  # noqa: E731
    one = jax.tree.map(drop, args, axes)
    x = jax.ShapeDtypeStruct((packing.size,), packing.dtype)
    size = jax.eval_shape(FlatResidual(fun, packing, has_aux, 0), x, *one).shape[0]
    as_given = lambda x, *args: jax.tree.map(jnp.asarray, fun(packing.unravel(x), *args)[0] if has_aux else fun(packing.unravel(x), *args))  # noqa: E731
    output = jax.eval_shape(as_given, x, *one)
    if size != packing.size:
        shapes = [tuple(leaf.shape) for leaf in jax.tree.leaves(output)]
        raise ValueError(
            f"fun returned {size} numbers (shapes {shapes}) for {packing.size} unknowns (shapes {list(packing.shapes)}); expected as many "
            "equations as unknowns; for more or fewer use least_squares"
        )
    return Packing.of(output)


def root_message(status: Status) -> str:
    """A status in a sentence about roots."""
    return _MESSAGES.get(status, status.message)


_MESSAGES = {
    Status.CONVERGED_VALUE: "Converged: F vanishes to rounding, or is as small as ftol asks.",
    Status.CONVERGED_STEP: "Converged: the step to the root of the linear model, or the bracket, is as small as xtol asks.",
    Status.STALLED: "Not converged: |F| no longer falls at this precision, though it is not small enough.",
    Status.SINGULAR: "Not converged: the Jacobian is singular here and F does not vanish: a local minimum of |F|, not a root.",
    Status.NON_FINITE: "Not converged: F or its derivative is not finite around the last point; x is the last finite one.",
    Status.NON_FINITE_START: "Not started: F or its derivative is not finite at the start.",
    Status.PLATEAU: "Not a root: F and its derivative have sunk below the smallest number of this precision on the way out.",
}
