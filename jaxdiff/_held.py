"""Unknowns of equations that are held at their starts: taken out of x before it is solved for, and put back behind."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._bounds import flat_fixed
from jaxdiff._entry import Given, check_derivatives
from jaxdiff._types import Objective, PyTree
from jaxdiff._validation import is_traced
from jaxdiff.derivatives import Supplied
from jaxdiff.problem import Packing, flat_rows
from jaxdiff.root_problem import Place


@dataclasses.dataclass(frozen=True)
class HeldFunction:
    """The user's function of the other unknowns, flat; the last of its data is the whole start. Compares by what it holds.

    Attributes:
        fun: the user's.
        place: where the others belong.
    """

    fun: Objective
    place: Place

    def __call__(self, x: jax.Array, *args: PyTree) -> Any:
        """Return what the user's function does, at the start with ``x`` put into it."""
        return self.fun(self.place.filled(args[-1], x), *args[:-1])


@dataclasses.dataclass(frozen=True)
class HeldJacobian(HeldFunction):
    """The columns of the user's Jacobian that belong to the other unknowns."""

    def __call__(self, x: jax.Array, *args: PyTree) -> jax.Array:
        """Return the matrix."""
        return flat_rows(super().__call__(x, *args), self.place.packing, x.dtype)[:, np.asarray(self.place.index)]


@dataclasses.dataclass(frozen=True)
class Held:
    """What is left to build a problem of: where its unknowns belong (None: everywhere), and its derivatives."""

    place: Place | None
    derivatives: Any


def hold_unknowns(fixed: Any, given: Given, derivatives: Any) -> tuple[Given, Held]:
    """The arguments of the smaller problem.

    Raises:
        TypeError: fixed holds no booleans, or is traced.
        ValueError: fixed differs from problem to problem, or leaves no unknown.
    """
    derivatives = check_derivatives(derivatives)
    if is_traced(fixed):
        raise TypeError("fixed is traced; expected booleans that are known here: which unknowns are held decides what is compiled")
    mask = flat_fixed(fixed, given.packing, None)
    if mask is None or not np.any(np.asarray(mask)):
        return given, Held(None, derivatives)
    index = tuple(int(i) for i in np.flatnonzero(~np.asarray(mask)))
    if not index:
        raise ValueError("fixed is True for every unknown; expected at least one that moves")
    place = Place(given.packing, index)
    chosen, own = np.asarray(index), given.num_own
    user, units = given.args[: len(given.args) - own], given.args[len(given.args) - own :]
    # The start in the user's units; one problem shares it, so that it may be looked at without an axis of problems.
    whole = given.starts * units[0] if given.is_scaled else given.starts
    is_many = any(given.is_batched) or whole.shape[0] != 1
    whole = whole if is_many else whole[0]
    leaves = len(jax.tree.leaves(user))
    batched = (*given.is_batched[:leaves], is_many, *given.is_batched[leaves:])
    packing = Packing.of(jnp.zeros(len(index), given.packing.dtype))
    if isinstance(derivatives, Supplied) and derivatives.jacobian is not None:
        derivatives = Supplied(jacobian=HeldJacobian(derivatives.jacobian, place))
    smaller = dataclasses.replace(
        given,
        fun=HeldFunction(given.fun, place),
        args=(*user, whole, *(unit[..., chosen] if unit.shape[-1] == given.packing.size else unit for unit in units)),
        is_batched=batched,
        packing=packing,
        starts=given.starts[:, chosen],
    )
    return smaller, Held(place, derivatives)
