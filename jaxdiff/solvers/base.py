"""The contract that every solver keeps, and the few tests that all of them share.

A solver is a frozen dataclass of options. It is written for a block of lanes and never vmapped: ``init`` turns starting points into a
state, ``step`` makes one trial in every lane. The state is a frozen dataclass of arrays only, lanes in the last axis of each, so that
freezing, retiring and refilling a lane is one ``jax.tree.map``. Functions and data are in the problem, which is passed beside the state.
"""

import dataclasses
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import default_gradient_tolerance, machine_epsilon
from jaxdiff._types import DType, LaneFloat, LaneInt, LaneVector
from jaxdiff._validation import check_tolerance, is_traced
from jaxdiff.problem import LeastSquares, Minimize, Packing
from jaxdiff.result import Status
from jaxdiff.root_problem import Root
from jaxdiff.solvers.stationary import GradientTolerance


class State(Protocol):
    """What the loop, the engine and the result read of any solver's state. Solvers add fields of their own.

    Attributes:
        x: the current points, ``[n, lanes]``; always points at which f and its gradient are finite, or the start.
        value: f at x.
        gradient: its gradient at x.
        status: codes of `Status`; RUNNING until the lane stops.
        num_steps: trials made so far; -1 before the first step, which evaluates the start.
        num_evaluations: evaluations of f so far.

    A state may list, in a class variable ``self_kept``, fields that ``step`` itself leaves as they are in lanes whose status is not
    RUNNING, and that a fresh lane may take over as the last problem left them; see `loop.keep_lanes`.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt


@runtime_checkable
class Solver(Protocol):
    """The contract.

    Attributes:
        name: the word for it in configs and tables.
        tolerance_names: which of gtol, xtol, ftol it has; None stands for the default of the dtype.

    A solver that tests gradients only says by a class variable ``has_optional_tests = True`` that its xtol and ftol, None by default, are
    tested from outside.

    A solver of many short steps may say in ``steps_per_round`` after how many of them a batch looks for lanes that have stopped.

    A solver whose gtol has the units of a gradient says so by a class variable ``weighs_gradient = True``; it is handed a
    `stationary.GradientTolerance` in place of a number.
    """

    name: ClassVar[str]
    tolerance_names: ClassVar[tuple[str, ...]]

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float | None:
        """The tolerance that None stands for; ``is_exact`` tells whether derivatives are exact to rounding. None: there is no such test."""
        ...

    def init(self, problem: Minimize, x: LaneVector) -> Any:
        """A state at the starting points that has not looked at f yet.

        The first step does that: so f is compiled once and not twice, and a lane is refilled in the midst of others without a round of
        evaluations of its own.
        """
        ...

    def step(self, problem: Minimize, state: Any) -> Any:
        """Make one trial in every lane, running or not; the loop keeps the lanes that have stopped as they were."""
        ...


def resolve_tolerances(solver: Any, packing: Packing, is_exact: bool) -> Any:
    """The solver with each tolerance as an array that meets a block of lanes, ``[]`` or ``[n, 1]``; defaults filled in, values checked.

    Raises:
        ValueError: a tolerance that is not finite or is below the machine epsilon of the dtype.
    """
    dtype = packing.dtype
    resolved = {}
    for name in solver.tolerance_names:
        value = getattr(solver, name)
        is_given = value is not None
        if value is None:
            value = solver.default_tolerance(name, dtype, is_exact)
        else:
            check_tolerance(value, name, dtype, zero_disables=name != "gtol")
            if name == "ftol" and not (jax.tree_util.all_leaves([value]) and np.ndim(value) == 0):
                raise ValueError(f"ftol = {value!r}; expected one number, for f is one; in a batch, or one for each problem")
        if value is None:
            continue
        resolved[name] = spread_tolerance(value, packing)
        if name == "gtol" and getattr(solver, "weighs_gradient", False):
            resolved[name] = GradientTolerance(resolved[name], np.bool_(is_given))
    return dataclasses.replace(solver, **resolved)


def spread_tolerance(value: Any, packing: Packing, like: str = "x0") -> Any:
    """A tolerance, one number or a pytree as ``packing`` lays out, as an array that meets a block of lanes, ``[]`` or ``[n, 1]``.

    Raises:
        ValueError: another structure; ``like`` is what the message calls the pytree.
    """
    if jax.tree_util.all_leaves([value]) and np.ndim(value) == 0:
        return value.astype(packing.dtype) if is_traced(value) else np.asarray(value, packing.dtype)
    leaves, structure = jax.tree.flatten(value)
    if structure != packing.structure:
        raise ValueError(f"a tolerance is a pytree like {structure}; expected one number, or a pytree like {like}: {packing.structure}")
    for leaf, shape in zip(leaves, packing.shapes, strict=True):
        if np.shape(leaf) not in ((), shape):
            raise ValueError(f"a tolerance has a leaf of shape {np.shape(leaf)}; expected one number, or {shape}, as in {like}")
    spread = [jnp.broadcast_to(jnp.asarray(leaf, packing.dtype), shape) for leaf, shape in zip(leaves, packing.shapes, strict=True)]
    return jnp.concatenate([jnp.ravel(leaf) for leaf in spread])[:, None]


def unevaluated(x: LaneVector) -> dict[str, jax.Array]:
    """The common fields of a state that has not looked at f: a value of +inf, which any finite one lowers."""
    lanes = x.shape[-1]
    return {
        "x": x,
        "value": jnp.full(lanes, jnp.inf, x.dtype),
        "gradient": jnp.zeros_like(x),
        "status": jnp.full(lanes, Status.RUNNING, jnp.int32),
        "num_steps": jnp.full(lanes, -1, jnp.int32),
        "num_evaluations": jnp.zeros(lanes, jnp.int32),
    }


DENSE_LIMIT_BYTES = 2**33
"""Largest matrix that a solver makes without being asked twice: 8 GiB."""


def check_dense(name: str, x: LaneVector) -> None:
    """Refuse a matrix per lane that would not fit into memory.

    Raises:
        ValueError: naming the number of parameters, the bytes, and what to use instead.
    """
    n, lanes = x.shape
    needed = n * n * lanes * x.dtype.itemsize
    if needed > DENSE_LIMIT_BYTES:
        raise ValueError(
            f"{name} keeps a matrix of {n} x {n} for each of {lanes} problems, {needed / 2**30:.0f} GiB; expected at most "
            f"{DENSE_LIMIT_BYTES / 2**30:.0f} GiB: use LBFGS() or NonlinearCG()"
        )


def require_residuals(problem: Any, name: str) -> LeastSquares:
    """The problem itself, if it is one of least squares.

    Raises:
        TypeError: it minimizes a scalar function.
    """
    if not isinstance(problem, LeastSquares):
        raise TypeError(f"solver = {name}(...) needs residuals; expected least_squares or curve_fit, or a solver for scalar functions")
    return problem


def require_equations(problem: Any, name: str) -> Root:
    """The problem itself, if it is one of finding a root.

    Raises:
        TypeError: it is one of minimizing.
    """
    if not isinstance(problem, Root):
        raise TypeError(f"solver = {name}(...) finds roots of equations; expected root or root_batch, or a solver that minimizes")
    return problem


def default_newton_tolerance(name: str, dtype: DType, is_exact: bool) -> float:
    """What None stands for in gtol, xtol and ftol of minimizers that see a dense Hessian; our own choices.

    The last step of a quadratically convergent method is almost free, so that gtol is smaller than for those that see gradients only.
    """
    if name == "ftol":
        return 0.0
    exponents = {"gtol": 3 / 4, "xtol": 2 / 3} if is_exact else {"gtol": 1 / 3, "xtol": 1 / 2}
    return machine_epsilon(dtype) ** exponents[name]


def default_gradient_only_tolerance(name: str, dtype: DType, is_exact: bool) -> float | None:
    """What None stands for in gtol, xtol and ftol of minimizers that see gradients only: xtol and ftol are tested on request."""
    return default_gradient_tolerance(dtype, is_exact=is_exact) if name == "gtol" else None


def counted(count: LaneInt, more: int | jax.Array) -> LaneInt:
    """A counter moved on, its dtype kept."""
    return count + jnp.asarray(more, count.dtype)
