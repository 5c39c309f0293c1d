"""The only place that steps a solver: to the end (`solve`), or by a number of steps (`advance`).

A lane that has stopped is kept bit for bit as it was, whatever its neighbours still do.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import LaneBool, LaneFloat, LaneInt, LaneVector
from jaxdiff.implicit import without_failures
from jaxdiff.linalg import max_norm, select_lanes, solve
from jaxdiff.one_kernel import in_one_kernel
from jaxdiff.problem import Minimize
from jaxdiff.result import Status, is_success
from jaxdiff.solvers.base import Solver


@pytree_dataclass
class Trace:
    """A ring of the last recorded points, lanes last.

    Attributes:
        value: f, ``[T, lanes]``.
        optimality: largest absolute entry of the gradient, ``[T, lanes]``.
        step_size: the solver's step size where it has one, ``[T, lanes]``.
        damping: the damping of Levenberg and Marquardt or the radius of a trust region where it has one, ``[T, lanes]``.
        step_length: how far the point lies from the one before, ``[T, lanes]``; 0 behind a trial that was rejected.
        x: points, ``[T, n, lanes]``.
    """

    value: jax.Array
    optimality: jax.Array
    step_size: jax.Array
    damping: jax.Array
    step_length: jax.Array
    x: jax.Array


@pytree_dataclass
class Outcome:
    """What is kept of a lane that has stopped; the rest of a solver's state, a Hessian say, is not.

    Attributes:
        x: the last point, ``[n, lanes]``.
        value: f there.
        gradient: its gradient there.
        status: codes of `Status`, none of them RUNNING.
        num_steps: trials made.
        num_evaluations: evaluations of f.
        steps_paid: steps that were run for the lane, those of waiting for others included, the evaluation of the start as one; the sum over
            a batch is what was run. None where nobody counted.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt
    steps_paid: LaneFloat | None = None

    @classmethod
    def of(cls, state: Any) -> "Outcome":
        """The outcome of a state whose running lanes have run out of steps."""
        status = jnp.where(state.status == Status.RUNNING, Status.MAX_STEPS, state.status).astype(jnp.int32)
        return cls(state.x, state.value, state.gradient, status, state.num_steps, state.num_evaluations)


def step_running(problem: Minimize, solver: Solver, state: Any) -> Any:
    """One step of the lanes that run; the others stay as they are."""
    if state.status.shape[0] == 1:
        # The loop only comes here while some lane runs; with one lane a selection would copy the state for nothing.
        return solver.step(problem, state)
    return step_where(problem, solver, state, state.status == Status.RUNNING)


def step_where(problem: Minimize, solver: Solver, state: Any, is_running: LaneBool) -> Any:
    """One step of these lanes; the others stay as they are. A solver with a method of this name does both in one pass."""
    own = getattr(solver, "step_where", None)
    return keep_lanes(is_running, solver.step(problem, state), state) if own is None else own(problem, state, is_running)


def restart_where(problem: Minimize, solver: Solver, state: Any, is_fresh: LaneBool, x: LaneVector) -> Any:
    """The state with these lanes at the start of another problem. A solver with a method of this name writes only what a start needs."""
    own = getattr(solver, "restart_where", None)
    return keep_lanes(~is_fresh, state, solver.init(problem, x)) if own is None else own(problem, state, is_fresh, x)


def keep_lanes(is_kept: LaneBool, new: Any, old: Any) -> Any:
    """``new`` in these lanes, ``old`` in the others; but a field that the state lists in ``self_kept`` is taken from ``new`` as it is.

    Of such a field the solver's ``step`` itself changes nothing in a lane that has stopped, and a fresh lane may find there what the last
    problem left. To select a history of steps would be to copy it in every step, where only one slot of it has been written.
    """
    chosen = select_lanes(is_kept, new, old)
    kept = {name: getattr(new, name) for name in getattr(type(new), "self_kept", ())}
    return dataclasses.replace(chosen, **kept) if kept else chosen


def advance(problem: Minimize, solver: Solver, state: Any, num_steps: Any, max_steps: Any = math.inf) -> Any:
    """A fixed number of steps; lanes that stop on the way, or have made ``max_steps``, stay as they are."""

    def step(_: jax.Array, state: Any) -> Any:
        return step_where(problem, solver, state, (state.status == Status.RUNNING) & (state.num_steps < max_steps))

    return jax.lax.fori_loop(0, num_steps, step, state)


def solve_block(problem: Minimize, solver: Solver, x: LaneVector, max_steps: Any, trace_length: int = 0) -> tuple[Outcome, Trace | None]:
    """Run a block of lanes until every one has stopped, or has made ``max_steps`` steps.

    Args:
        problem: bound to the data of these lanes.
        solver: its tolerances already resolved.
        x: starting points, ``[n, lanes]``.
        max_steps: how many steps at most; traced.
        trace_length: how many points to keep, the last ones; 0 keeps none.

    Returns:
        How each lane ended, and the trace.
    """
    if x.shape[-1] == 1:
        # One problem: a kernel, if it is small.
        alone = lambda problem, solver, x, max_steps: _solved(problem, solver, x, max_steps, trace_length)  # noqa: E731
        return in_one_kernel(alone, problem, solver, x, max_steps)
    return _solved(problem, solver, x, max_steps, trace_length)


def _solved(problem: Minimize, solver: Solver, x: LaneVector, max_steps: Any, trace_length: int) -> tuple[Outcome, Trace | None]:
    """As `solve_block`."""
    state = solver.init(problem, x)
    trace = _empty_trace(state, trace_length)

    def is_running(carry: tuple[jax.Array, Any, Any]) -> jax.Array:
        count, state, _ = carry
        # One more than max_steps, since the first step only evaluates the start.
        return (count <= max_steps) & jnp.any(state.status == Status.RUNNING)

    def body(carry: tuple[jax.Array, Any, Any]) -> tuple[jax.Array, Any, Any]:
        count, state, trace = carry
        was_running = state.status == Status.RUNNING
        new = step_running(problem, solver, state)
        return count + 1, new, _record(problem, trace, state, new, was_running)

    count, state, trace = jax.lax.while_loop(is_running, body, (jnp.zeros((), jnp.int32), state, trace))
    outcome = dataclasses.replace(Outcome.of(state), steps_paid=jnp.full(x.shape[-1:], count, jnp.float32))
    return outcome, None if trace is None else _in_order(trace, state.num_steps)


def solve_unrolled(problem: Minimize, solver: Solver, x: LaneVector, max_steps: int) -> tuple[Outcome, LaneVector, LaneFloat]:
    """The same run as a scan of fixed length, which can be differentiated in both modes; once every lane has stopped a step costs nothing.

    Args:
        problem: bound to the data of these lanes.
        solver: its tolerances already resolved.
        x: starting points, ``[n, lanes]``.
        max_steps: how many steps at most; known when compiling.

    Returns:
        How each lane ended, without derivatives; the solutions and their values with them, flagged by NaN where a lane did not succeed.
    """
    first = None
    if x.shape[-1] > 1:
        # On the way back a lane of NaN would spoil the data that it shares with others, were it only multiplied by zero. Hence a run
        # without derivatives, after which each lane that fails is replaced by one that does not.
        first = solve_block(*jax.lax.stop_gradient((problem, solver, x)), max_steps)[0]
        is_fine = is_success(first.status)
        donor = jnp.where(is_fine, jnp.arange(x.shape[-1]), jnp.argmax(is_fine))
        leaves, structure = jax.tree.flatten(problem.args)
        taken = [jnp.take(leaf, donor, axis=-1) if batched else leaf for leaf, batched in zip(leaves, problem.is_batched, strict=True)]
        problem, x = dataclasses.replace(problem, args=structure.unflatten(taken)), jnp.take(x, donor, axis=-1)

    def step(state: Any, _: None) -> tuple[Any, None]:
        is_running = state.status == Status.RUNNING
        move = lambda: select_lanes(is_running, solver.step(problem, state), state)  # noqa: E731
        return jax.lax.cond(jnp.any(is_running), move, lambda: state), None

    # One more than max_steps, since the first step only evaluates the start.
    state, _ = jax.lax.scan(step, solver.init(problem, x), None, length=max_steps + 1)
    unrolled = Outcome.of(state)
    outcome = jax.lax.stop_gradient(unrolled)
    if first is not None:
        # Nobody has counted the steps of the scan.
        outcome = select_lanes(is_success(first.status), outcome, dataclasses.replace(first, steps_paid=None))
    return outcome, *_flagged(unrolled.x, unrolled.value, outcome)


def _empty_trace(state: Any, length: int) -> Trace | None:
    if length == 0:
        return None
    lanes = state.value.shape[0]
    missing = jnp.full((length, lanes), jnp.nan, state.value.dtype)
    return Trace(missing, missing, missing, missing, missing, jnp.full((length, *state.x.shape), jnp.nan, state.x.dtype))


def _record(problem: Minimize, trace: Trace | None, before: Any, state: Any, was_running: LaneBool) -> Trace | None:
    """Write the point of every lane that has just been stepped; each lane counts its own steps, so a stopped lane keeps its last points."""
    if trace is None:
        return None
    length = trace.value.shape[0]
    slot = state.num_steps % length
    # A lane that was not running writes nowhere: its slot is out of range and dropped.
    slot = jnp.where(was_running, slot, length)
    lanes = jnp.arange(slot.shape[0])
    numbers = {"value": state.value, **report_of(problem, before, state)}
    rings = {name: getattr(trace, name).at[slot, lanes].set(number, mode="drop") for name, number in numbers.items()}
    return Trace(**rings, x=trace.x.at[slot, :, lanes].set(state.x.T, mode="drop"))


def report_of(problem: Minimize, before: Any, state: Any) -> dict[str, LaneFloat]:
    """What a history and a callback say of a step beside its value, in the user's units; NaN for what a solver does not have."""
    missing = jnp.full_like(state.value, jnp.nan)
    moved = problem.unscaled(state.x - before.x)
    return {
        "optimality": max_norm(problem.per_unit(problem.projected(state.x, state.gradient))),
        "step_size": getattr(state, "step_size", missing),
        "damping": getattr(state, "damping", getattr(state, "radius", missing)),
        "step_length": jnp.sqrt(jnp.sum(moved * moved, axis=0)),
    }


def _in_order(trace: Trace, num_steps: LaneInt) -> Trace:
    """The ring unrolled, oldest point first, lane by lane."""
    length = trace.value.shape[0]
    oldest = jnp.where(num_steps < length, 0, (num_steps + 1) % length)
    order = (jnp.arange(length)[:, None] + oldest) % length

    def unroll(ring: jax.Array) -> jax.Array:
        index = order if ring.ndim == 2 else order[:, None, :]
        return jnp.take_along_axis(ring, jnp.broadcast_to(index, ring.shape), axis=0)

    return jax.tree.map(unroll, trace)


@jax.custom_jvp
def attach_derivative(problem: Minimize, x: LaneVector, value: LaneFloat, status: LaneInt) -> tuple[LaneVector, LaneFloat]:
    """The solution and its value, unchanged, with their derivative with respect to the problem's data by the implicit function theorem.

    At a minimum the gradient g(x, args) vanishes, so dx = -H^{-1} (dg/dargs) dargs. A parameter that a bound holds moves with its bound,
    and the others by the same formula among themselves. A lane without success has no such derivative: it gets NaN wherever a nonzero
    tangent or cotangent meets it, and zero where none does, so that masking such lanes out of a loss leaves the others' derivatives intact.

    Args:
        problem: with the data to differentiate with respect to.
        x: solutions, ``[n, lanes]``.
        value: f there.
        status: how each lane ended.

    Returns:
        ``x`` and ``value``.

    References:
        Nocedal and Wright, Numerical Optimization (2006), theorem A.2; Blondel et al., Efficient and modular implicit differentiation
        (2022).
    """
    del problem, status
    return x, value


@attach_derivative.defjvp
def _attach_derivative_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    problem, x, value, status = primals
    problem_dot = tangents[0]
    # Through the function itself, so that a second derivative sees how x and value depend on the data.
    x, value = attach_derivative(problem, x, value, status)
    is_solved = is_success(status)
    found = x
    (problem, x), (problem_dot, _) = jax.jvp(lambda p: without_failures(p, found, is_solved), (problem,), (problem_dot,))
    gradient, gradient_dot = jax.jvp(lambda p: p.gradient(x), (problem,), (problem_dot,))
    hessian = problem.hessian(x)
    free = problem.free(x, gradient)
    if free is None:
        x_dot = -_solve_where(is_solved, hessian, gradient_dot)
    else:
        _, upper = problem.limits
        lower_dot, upper_dot = problem_dot.limits
        held_dot = jnp.where(free, 0, jnp.where(x >= upper, upper_dot, lower_dot))
        identity = jnp.eye(x.shape[0], dtype=x.dtype)[..., None]
        among_free = jnp.where(free[:, None] & free[None], hessian, identity)
        rhs = jnp.where(free, gradient_dot + jnp.sum(hessian * held_dot[None], axis=1), -held_dot)
        x_dot = -_solve_where(is_solved, among_free, rhs)
    _, value_dot = jax.jvp(lambda p, x: p.value(x), (problem, x), (problem_dot, x_dot))
    return (found, value), (x_dot, value_dot)


@jax.custom_jvp
def _flagged(x: LaneVector, value: LaneFloat, outcome: Outcome) -> tuple[LaneVector, LaneFloat]:
    """The outcome's x and value, with the derivatives of those given; lanes without success are flagged as in `attach_derivative`."""
    del x, value
    return outcome.x, outcome.value


@_flagged.defjvp
def _flagged_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    flagged = _flag_where(is_success(primals[2].status), jnp.concatenate([tangents[0], tangents[1][None]]))
    return _flagged(*primals), (flagged[:-1], flagged[-1])


def _flag_where(is_solved: LaneBool, tangent: LaneVector) -> LaneVector:
    """The tangent where the lane is solved; elsewhere NaN for a nonzero one and 0 for a zero one, transposed alike."""

    def keep_or_flag(_: Any, tangent: LaneVector) -> LaneVector:
        return jnp.where(is_solved, tangent, jnp.where(jnp.any(tangent != 0, axis=0), jnp.nan, 0))

    return jax.lax.custom_linear_solve(lambda v: v, tangent, solve=keep_or_flag, transpose_solve=keep_or_flag, symmetric=True)


def _solve_where(is_solved: LaneBool, hessian: jax.Array, rhs: LaneVector) -> LaneVector:
    """H^{-1} rhs where the lane is solved; elsewhere NaN for a nonzero right-hand side and 0 for a zero one, transposed alike."""
    # Guarded before it is solved: a lane that failed may hold anything.
    identity = jnp.eye(hessian.shape[0], dtype=hessian.dtype)[..., None]
    guarded = jnp.where(is_solved, hessian, identity)

    def solve_or_flag(_: Any, rhs: LaneVector) -> LaneVector:
        is_asked_for = jnp.any(rhs != 0, axis=0)
        return jnp.where(is_solved, solve(guarded, rhs), jnp.where(is_asked_for, jnp.nan, 0))

    return jax.lax.custom_linear_solve(
        lambda v: jnp.sum(guarded * v[None], axis=1), rhs, solve=solve_or_flag, transpose_solve=solve_or_flag, symmetric=True
    )
