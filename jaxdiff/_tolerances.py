"""Tolerances on request: those that differ from problem to problem of a batch, and the tests of minimizers that see gradients only.

Both are wrappers of a solver, so that a run that asks for neither compiles to what it always was.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._progress import Wrapper
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import LaneBool, LaneVector
from jaxdiff._validation import check_tolerance
from jaxdiff.linalg import all_rows, dot
from jaxdiff.loop import restart_where, step_where
from jaxdiff.problem import Minimize, Packing
from jaxdiff.result import Status
from jaxdiff.solvers.stationary import GradientTolerance

UNREAD = 1.0
"""What stands in a solver for a tolerance that each problem has for itself; nothing reads it."""


def taken_apart(solver: Any, packing: Packing, num_problems: int) -> tuple[Any, dict[str, jax.Array]]:
    """The tolerances that differ from problem to problem, ``[problems, 1]``, or ``[problems, n]``; and the solver without them.

    Such a tolerance is an array with a number for each problem, or a pytree like x0, problems first. What could be read as a tolerance
    for each parameter is one.

    Raises:
        ValueError: naming the tolerance: too small, or not finite.
    """
    own = {}
    for name in getattr(solver, "tolerance_names", ()):
        value = getattr(solver, name)
        if value is None or (jax.tree_util.all_leaves([value]) and np.ndim(value) == 0):
            continue
        flat = _for_each_problem(value, packing, num_problems)
        if flat is not None:
            check_tolerance(flat[:, 0] if flat.shape[1] == 1 else flat, name, packing.dtype, zero_disables=name != "gtol")
            own[name] = flat
    return (dataclasses.replace(solver, **dict.fromkeys(own, UNREAD)) if own else solver), own


def _for_each_problem(value: Any, packing: Packing, num_problems: int) -> jax.Array | None:
    leaves, structure = jax.tree.flatten(value)
    shapes = [np.shape(leaf) for leaf in leaves]
    is_like_x = structure == packing.structure
    if is_like_x and all(shape == own for shape, own in zip(shapes, packing.shapes, strict=True)):
        return None
    if is_like_x and all(shape == (num_problems, *own) for shape, own in zip(shapes, packing.shapes, strict=True)):
        return packing.ravel(value, batch_axes=1)
    if shapes == [(num_problems,)] and jax.tree_util.all_leaves([value]):
        return jnp.asarray(value, packing.dtype)[:, None]
    return None


@pytree_dataclass
class WithOwnTolerances(Wrapper):
    """A solver that asks the problem for the tolerances of each lane."""

    def of(self, problem: Minimize) -> Any:
        """The solver itself, for these lanes."""
        known: dict[str, Any] = {name: value for name, value in problem.own_tolerances.items() if name in self.solver.tolerance_names}
        if "gtol" in known and isinstance(self.solver.gtol, GradientTolerance):
            known["gtol"] = GradientTolerance(known["gtol"], np.bool_(True))
        return dataclasses.replace(self.solver, **known)

    def init(self, problem: Minimize, x: LaneVector) -> Any:
        """See `solvers.base.Solver`."""
        return self.of(problem).init(problem, x)

    def restart_where(self, problem: Minimize, state: Any, is_fresh: LaneBool, x: LaneVector) -> Any:
        """See `loop.restart_where`."""
        return restart_where(problem, self.of(problem), state, is_fresh, x)

    def step(self, problem: Minimize, state: Any) -> Any:
        """See `solvers.base.Solver`."""
        return self.of(problem).step(problem, state)

    def step_where(self, problem: Minimize, state: Any, is_running: LaneBool) -> Any:
        """See `loop.step_where`."""
        return step_where(problem, self.of(problem), state, is_running)


@pytree_dataclass
class UntilSlow(Wrapper):
    """A minimizer that stops where the last step, and the next one as far as it is known, achieve too little.

    CONVERGED_VALUE where the last step lowered f by at most ``ftol abs(f)`` and half of the slope along the next one is not more either;
    CONVERGED_STEP where neither changes a parameter by more than ``xtol`` of it. A step that a line search has cut short is followed by one
    that promises more, so that it stops nothing. A rejected trial has achieved nothing and says nothing.
    """

    def step(self, problem: Minimize, state: Any) -> Any:
        """See `solvers.base.Solver`."""
        new = self.solver.step(problem, state)
        asked = self.solver.of(problem) if isinstance(self.solver, WithOwnTolerances) else self.solver
        moved = new.x - state.x
        may_stop = (new.status == Status.RUNNING) & (state.num_steps >= 0) & ~all_rows(moved == 0)
        ahead = next_step(problem, new)
        status = new.status
        if asked.xtol is not None:
            limit = asked.xtol * jnp.abs(new.x)
            is_short = all_rows(jnp.abs(moved) <= limit) & all_rows(jnp.abs(ahead) <= limit)
            status = jnp.where(may_stop & is_short, Status.CONVERGED_STEP, status)
        if asked.ftol is not None:
            fallen, size = state.value - new.value, jnp.maximum(jnp.abs(state.value), jnp.abs(new.value))
            promised = jnp.abs(dot(new.gradient, ahead)) / 2
            is_flat = (fallen >= 0) & (jnp.maximum(fallen, promised) <= asked.ftol * size)
            status = jnp.where(may_stop & is_flat, Status.CONVERGED_VALUE, status)
        return dataclasses.replace(new, status=status.astype(new.status.dtype))


def next_step(problem: Minimize, state: Any) -> LaneVector:
    """The step that a state will try next, between the bounds; zero where its solver cannot tell before it has the next gradient."""
    if hasattr(state, "displacement"):
        return state.displacement
    if hasattr(state, "direction"):
        return problem.project(state.x + state.step_size * state.direction) - state.x
    if hasattr(state, "step_size"):
        return problem.project(state.x - state.step_size * state.gradient) - state.x
    return jnp.zeros_like(state.x)


def with_tests(solver: Any, problem: Minimize) -> Any:
    """The solver, its tolerances resolved, with what its tolerances ask for beyond what it does itself."""
    is_tested = getattr(solver, "has_optional_tests", False) and not (solver.xtol is None and solver.ftol is None)
    if problem.tolerances:
        solver = WithOwnTolerances(solver)
    return UntilSlow(solver) if is_tested else solver
