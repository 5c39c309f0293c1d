"""The entries: one problem, or a batch of them. Arguments are checked here, pytrees are flattened here, and nowhere else."""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from jaxdiff._bounds import at_bound, check_takes_bounds, flat_bounds, unravel_plain, with_bounds
from jaxdiff._progress import Progress, Report, Reporting, WithinBudget
from jaxdiff._types import Objective, PyTree
from jaxdiff._validation import (
    as_data,
    as_float_leaves,
    check_choice,
    check_count,
    closest,
    explain_tracing_errors,
    is_traced,
    suggest_keywords,
)
from jaxdiff.batch.execute import execute, lanes_last, solve_part
from jaxdiff.batch.options import BatchOptions, Plan
from jaxdiff.derivatives import Autodiff, FiniteDifference, Supplied
from jaxdiff.derivatives.protocol import Method
from jaxdiff.linalg import max_norm
from jaxdiff.loop import attach_derivative, solve_unrolled
from jaxdiff.problem import Minimize, Packing
from jaxdiff.result import History, OptimizeResult, is_success
from jaxdiff.solvers import BFGS, SOLVERS, FromOptax
from jaxdiff.solvers.base import Solver, resolve_tolerances

_ALIASES = {"maxiter": "max_steps", "max_iter": "max_steps", "method": "solver", "tol": "solver", "options": "solver", "jac": "derivatives"}
_ALIASES |= {"maxfev": "max_evals", "maxfun": "max_evals", "max_nfev": "max_evals", "disp": "verbose", "diff": "differentiation"}


@suggest_keywords(**_ALIASES)
def minimize(
    fun: Objective,
    x0: PyTree,
    args: PyTree = (),
    *,
    solver: Any = BFGS(),  # noqa: B008 (frozen)
    derivatives: Any = Autodiff(),  # noqa: B008 (frozen)
    bounds: Any = None,
    has_aux: bool = False,
    max_steps: int = 256,
    max_evals: int | None = None,
    differentiation: Literal["implicit", "unrolled"] = "implicit",
    history: bool | int = False,
    callback: Callable[[Progress], Any] | None = None,
    verbose: int = 0,
    throw: bool = False,
) -> OptimizeResult:
    """Minimize a scalar function of a pytree of real numbers.

    May be called under ``jax.jit``, ``jax.vmap`` and ``jax.grad``. The solution is differentiable with respect to ``args``, and to whatever
    ``fun`` closes over, by the implicit function theorem; where the solver did not succeed that derivative is NaN.

    Args:
        fun: called as ``fun(x, *args)``; returns a real floating scalar, or with ``has_aux`` a pair of that and a pytree of arrays.
        x0: where to start; a pytree of real numbers. A list of plain numbers is an array. Integers are promoted to the default float; the
            computation follows its dtype.
        args: data for ``fun``: a tuple of pytrees; anything else is the only one. Data are arguments rather than closures, so that other
            data of the same shape do not compile again.
        solver: an instance such as ``BFGS()``, ``Newton()``, ``GradientDescent(learning_rate=0.1)``, or an optax transformation.
        derivatives: ``Autodiff()``, ``FiniteDifference(...)`` or ``Supplied(gradient=..., hessian=...)``.
        bounds: ``(lower, upper)``, each None, a number or a pytree like x; a parameter whose bounds are equal is fixed. ``fun`` is never
            asked for its value outside of them (finite differences look a step beyond).
        has_aux: whether ``fun`` returns a pair ``(value, aux)``.
        max_steps: steps at most; one trial each.
        max_evals: evaluations of f at most, counted as in ``nfev``: no step begins once they are made. None: as many as the steps take.
        differentiation: ``"implicit"``: derivatives of the solution by the implicit function theorem, at the cost of one linear solve.
            ``"unrolled"``: derivatives of the steps themselves, forward and reverse, with respect to x0 and the solver's options too; all
            ``max_steps`` are kept for the way back, and a start at the solution has no steps to differentiate.
        history: True keeps every point, a number the last so many.
        callback: called on the host with a `Progress` after every step, the start included. Without one nothing is compiled in for it.
        verbose: 0 is silent, 1 prints how the run ended, 2 a row for every step as well.
        throw: raise where the solver does not succeed. Not under ``jit``.

    Returns:
        An `OptimizeResult`; its ``x`` is like ``x0``.

    Raises:
        TypeError: ``x0`` is not real, ``fun`` does not return a real scalar, an argument is of the wrong kind.
        ValueError: an option out of range; ``x0`` without any number in it; bounds that cross, hold NaN or leave out ``x0``; bounds with a
            solver of your own that takes none.
        OptimizationError: with ``throw``, if the solver did not succeed.

    Example:
        >>> import jaxdiff as jd
        >>> result = jd.minimize(lambda x, a: (x["u"] - a) ** 2 + x["v"] ** 2, {"u": 0.0, "v": 1.0}, args=3.0)
        >>> float(result.x["u"]), result.status_name
        (3.0, 'CONVERGED_GRADIENT')
    """
    x0 = as_float_leaves(x0, "x0")
    args = as_data(args if isinstance(args, tuple) else (args,), "args")
    packing = _pack(x0, "x0", 0)
    fun, hoisted = _hoist_tracers(fun, x0, args)
    args = (*args, *hoisted)
    start = packing.ravel(x0)
    sides = flat_bounds(bounds, packing, start[None], is_batch=False)
    args, is_batched = with_bounds(args, (False,) * len(jax.tree.leaves(args)), sides)
    problem = Minimize(fun, args, is_batched, packing, _check_derivatives(derivatives), bool(has_aux), sides is not None)
    report = _report(callback, verbose)
    result = _solve(
        problem, solver, start[None], max_steps, BatchOptions(lanes=1, reassociate=False), history, max_evals, differentiation, report
    )
    result = jax.tree.map(lambda leaf: leaf[0], result)
    if report is not None and not is_traced(result):
        jax.effects_barrier()
    if verbose and not is_traced(result):
        print(result)
    return result.raise_if_failed() if throw else result


@suggest_keywords(**(_ALIASES | {"options": "options", "chunk_size": "options", "batch_size": "options"}))
def minimize_batch(
    fun: Objective,
    x0: PyTree,
    args: PyTree = (),
    *,
    in_axes: Any = 0,
    solver: Any = BFGS(),  # noqa: B008 (frozen)
    derivatives: Any = Autodiff(),  # noqa: B008 (frozen)
    bounds: Any = None,
    has_aux: bool = False,
    max_steps: int = 256,
    max_evals: int | None = None,
    differentiation: Literal["implicit", "unrolled"] = "implicit",
    history: bool | int = False,
    throw: bool = False,
    options: BatchOptions = BatchOptions(),  # noqa: B008 (frozen)
) -> OptimizeResult:
    """Minimize many functions of one form at once; the leading axis of ``x0`` counts the problems.

    A problem that fails has a status of its own and leaves the others bit for bit as they were. The solutions are differentiable with
    respect to ``args``; derivatives of failed problems are NaN where they are asked for.

    Args:
        fun: written for one problem, called as ``fun(x, *args)``.
        x0: starts, a pytree like that of one problem with a leading axis on each leaf.
        args: data; see ``in_axes``.
        in_axes: which axis of each of ``(x0, *args)`` counts the problems, None where they share it; as in ``jax.vmap``.
        solver: as in `minimize`.
        derivatives: as in `minimize`.
        bounds: as in `minimize`, shared by all problems; a leaf with a leading axis of problems has bounds for each.
        has_aux: as in `minimize`.
        max_steps: steps that each problem may make.
        max_evals: as in `minimize`, for each problem.
        differentiation: as in `minimize`; ``"unrolled"`` holds all problems in one block.
        history: as in `minimize`.
        throw: raise where any problem did not succeed. Not under ``jit``.
        options: how the batch is run.

    Returns:
        An `OptimizeResult` in which every field has a leading axis of problems.

    Raises:
        TypeError: as in `minimize`.
        ValueError: as in `minimize`; batch axes of different lengths; rows of different lengths.
        OptimizationError: with ``throw``, if any problem did not succeed.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> targets = jnp.arange(4.0)
        >>> result = jd.minimize_batch(lambda x, a: (x - a) ** 2, jnp.zeros(4), targets)
        >>> result.x.tolist(), bool(result.success.all())
        ([0.0, 1.0, 2.0, 3.0], True)
    """
    if not isinstance(options, BatchOptions):
        raise TypeError(f"options = {options!r}; expected BatchOptions(...)")
    x0 = as_float_leaves(x0, "x0")
    args = as_data(args if isinstance(args, tuple) else (args,), "args")
    axes = _leaf_axes(in_axes, x0, args)
    num_problems = _batch_size(x0, args, axes)
    x_axes, arg_axes = axes
    x0 = _map_axes(lambda leaf, axis: _to_front(leaf, axis, num_problems), x0, x_axes)
    packing = _pack(x0, "x0", 1)
    first = lambda leaf, axis: leaf if axis is None else jnp.take(leaf, 0, axis=axis)  # noqa: E731
    if num_problems:
        fun, hoisted = _hoist_tracers(fun, jax.tree.map(lambda leaf: leaf[0], x0), _map_axes(first, args, arg_axes))
    else:
        hoisted = ()
    args = (*_map_axes(lambda leaf, axis: leaf if axis is None else jnp.moveaxis(leaf, axis, 0), args, arg_axes), *hoisted)
    is_batched = (*(axis is not None for axis in arg_axes), *(False for _ in hoisted))
    starts = packing.ravel(x0, batch_axes=1)
    sides = flat_bounds(bounds, packing, starts, is_batch=True)
    args, is_batched = with_bounds(args, is_batched, sides)
    problem = Minimize(fun, args, is_batched, packing, _check_derivatives(derivatives), bool(has_aux), sides is not None)
    result = _solve(problem, solver, starts, max_steps, options, history, max_evals, differentiation)
    return result.raise_if_failed() if throw else result


def _report(callback: Any, verbose: Any) -> Report | None:
    if callback is not None and not callable(callback):
        raise TypeError(f"callback = {callback!r}; expected a function of a Progress, or None")
    if check_count(int(verbose) if isinstance(verbose, bool) else verbose, "verbose") > 2:
        raise ValueError(f"verbose = {verbose!r}; expected 0, 1 or 2")
    return Report(callback, verbose == 2) if callback is not None or verbose == 2 else None


def _solve(
    problem: Minimize,
    solver: Any,
    starts: jax.Array,
    max_steps: Any,
    options: BatchOptions,
    history: bool | int,
    max_evals: Any = None,
    differentiation: Any = "implicit",
    report: Report | None = None,
) -> OptimizeResult:
    """Check what is common to one and many, and run; every field of the result has a leading axis of problems."""
    solver = _check_solver(solver)
    check_takes_bounds(problem, solver, "one with takes_bounds = True, such as BFGS()")
    solver = resolve_tolerances(solver, problem.packing, problem.derivatives.is_exact)
    max_steps = check_count(max_steps, "max_steps")
    check_choice(differentiation, "differentiation", ("implicit", "unrolled"))
    if max_evals is not None:
        solver = WithinBudget(solver, check_count(max_evals, "max_evals", minimum=1))
    if report is not None:
        solver = Reporting(solver, report)
    length = max_steps + 1 if history is True else check_count(0 if history is False else history, "history")
    plan = options.plan(problem, starts.shape[0], length > 0)
    num_unrolled = None
    if differentiation == "unrolled":
        if length:
            raise ValueError(f"history = {history!r} with differentiation = 'unrolled'; expected history = False")
        plan, num_unrolled = dataclasses.replace(plan, mode="lockstep", num_threads=1), max_steps
    kept = min(length, max_steps + 1)
    with explain_tracing_errors():
        return execute(_run, problem, solver, starts, max_steps, plan, trace_length=kept, num_unrolled=num_unrolled)


def _run(
    problem: Minimize,
    solver: Solver,
    starts: jax.Array,
    max_steps: Any,
    first: Any,
    *,
    count: int,
    plan: Plan,
    trace_length: int,
    num_unrolled: int | None,
) -> OptimizeResult:
    if num_unrolled is not None:
        problem = lanes_last(problem)
        trace = None
        outcome, solution, value = solve_unrolled(problem, solver, problem.project(starts.T), num_unrolled)
    else:
        outcome, trace = solve_part(problem, solver, starts, max_steps, first, count, plan, trace_length)
        problem = lanes_last(problem, first, count)
        solution, value = attach_derivative(problem, outcome.x, outcome.value, outcome.status)
    packing = problem.packing
    problems_first = lambda tree: jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), tree)  # noqa: E731
    history = None
    if trace is not None:
        per_problem = problems_first(trace)
        points = packing.unravel(per_problem.x)
        history = History(value=per_problem.value, optimality=per_problem.optimality, step_size=per_problem.step_size, x=points)
    return OptimizeResult(
        x=packing.unravel(solution.T),
        fun=value,
        jac=packing.unravel(outcome.gradient.T),
        nit=outcome.num_steps,
        nfev=outcome.num_evaluations,
        steps_paid=outcome.steps_paid,
        status=outcome.status,
        success=is_success(outcome.status),
        optimality=max_norm(problem.projected(outcome.x, outcome.gradient)),
        at_bound=unravel_plain(packing, at_bound(problem, outcome.x).T) if problem.is_bounded else None,
        history=history,
        aux=problems_first(problem.aux(solution)),
    )


def _check_solver(solver: Any) -> Any:
    if isinstance(solver, optax.GradientTransformation):
        return FromOptax(solver)
    known = [kind.__name__ for kind in SOLVERS.values()]
    if isinstance(solver, str):
        near = closest(solver.replace("_", ""), [name.lower() for name in known])
        raise ValueError(f"solver = {solver!r}; expected an instance such as Newton(), one of {', '.join(known)}{near}")
    if inspect.isclass(solver):
        raise TypeError(f"solver = {solver.__name__} is a class; expected an instance: {solver.__name__}(...)")
    if not isinstance(solver, tuple(SOLVERS.values())) and not (hasattr(solver, "init") and hasattr(solver, "tolerance_names")):
        raise TypeError(f"solver = {solver!r}; expected one of {', '.join(known)}, or an optax transformation")
    return solver


def _check_derivatives(method: Any) -> Any:
    if inspect.isclass(method) or not isinstance(method, Method):
        expected = ", ".join(f"{kind.__name__}(...)" for kind in (Autodiff, FiniteDifference, Supplied))
        raise TypeError(f"derivatives = {method!r}; expected one of {expected}")
    return method


def _pack(x0: PyTree, name: str, skip_axes: int) -> Packing:
    packing = Packing.of(x0, skip_axes=skip_axes)
    if packing.size == 0:
        raise ValueError(f"{name} has no parameters (shapes {list(packing.shapes)}); expected at least one number")
    return packing


def _leaf_axes(in_axes: Any, x0: PyTree, args: tuple[PyTree, ...]) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """The batch axis of every leaf of x0 and of args.

    Raises:
        ValueError: ``in_axes`` does not fit ``(x0, *args)``.
    """
    everything = (x0, *args)
    if isinstance(in_axes, list):
        in_axes = tuple(in_axes)
    if isinstance(in_axes, tuple) and len(in_axes) != len(everything):
        raise ValueError(
            f"in_axes = {in_axes!r} has {len(in_axes)} entries; expected {len(everything)}, one for x0 and one for each of args"
        )
    try:
        spread = jax.tree.broadcast(in_axes, everything, is_leaf=lambda axis: axis is None)
    except ValueError as error:
        raise ValueError(f"in_axes = {in_axes!r} is not a prefix of (x0, *args): {error}") from None
    leaves = lambda tree: tuple(jax.tree.leaves(tree, is_leaf=lambda axis: axis is None))  # noqa: E731
    for axis in leaves(spread):
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
            raise ValueError(f"in_axes holds {axis!r}; expected integers and None")
    return leaves(spread[0]), leaves(spread[1:])


def _batch_size(x0: PyTree, args: tuple[PyTree, ...], axes: tuple[tuple[int | None, ...], tuple[int | None, ...]]) -> int:
    """The common length of all batch axes.

    Raises:
        ValueError: naming the two leaves that differ, their shapes and axes; or that nothing is batched.
    """
    named = [(f"x0{jax.tree_util.keystr(path)}", leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(x0)]
    named += [(f"args{jax.tree_util.keystr(path)}", leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(args)]
    first: tuple[str, tuple[int, ...], int] | None = None
    for (name, leaf), axis in zip(named, (*axes[0], *axes[1]), strict=True):
        if axis is None:
            continue
        shape = tuple(jnp.shape(leaf))
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"{name} of shape {shape} has no axis {axis}; give its axis, or None to share it, in in_axes")
        if first is None:
            first = (name, shape, axis)
        elif shape[axis] != first[1][first[2]]:
            raise ValueError(
                f"{first[0]} of shape {first[1]} has {first[1][first[2]]} problems along axis {first[2]}, "
                f"but {name} of shape {shape} has {shape[axis]} along axis {axis}"
            )
    if first is None:
        raise ValueError("in_axes is None for x0 and all of args; expected at least one of them to count the problems")
    return first[1][first[2]]


def _map_axes(function: Callable[[Any, int | None], Any], tree: PyTree, axes: tuple[int | None, ...]) -> PyTree:
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([function(leaf, axis) for leaf, axis in zip(leaves, axes, strict=True)])


def _to_front(leaf: jax.Array, axis: int | None, size: int) -> jax.Array:
    return jnp.broadcast_to(leaf, (size, *leaf.shape)) if axis is None else jnp.moveaxis(leaf, axis, 0)


def _hoist_tracers(fun: Objective, x0: PyTree, args: tuple[PyTree, ...]) -> tuple[Objective, tuple[Any, ...]]:
    """``fun`` with the tracers that it closes over as further arguments, so that derivatives with respect to them are seen.

    Only a function that holds a tracer is converted: the conversion makes a new function, which would compile anew each time.
    """
    if not any(isinstance(leaf, Tracer) for leaf in _held_by(fun, set())):
        return fun, ()
    converted, hoisted = jax.closure_convert(fun, x0, *args)
    return converted, tuple(hoisted)


def _held_by(value: Any, seen: set[int]) -> Iterator[Any]:
    """Leaves that a callable reaches through its closure, defaults, bound arguments, or the object it is a method of."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, functools.partial):
        parts: list[Any] = [value.func, value.args, value.keywords]
    elif isinstance(value, types.MethodType):
        parts = [value.__self__, value.__func__]
    elif isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        parts = [*cells, value.__defaults__, value.__kwdefaults__, getattr(value, "__wrapped__", None)]
    elif isinstance(value, (dict, list, tuple)):
        parts = list(value.values()) if isinstance(value, dict) else list(value)
    elif hasattr(value, "__dict__") and not isinstance(value, (type, types.ModuleType, Tracer)):
        parts = [*vars(value).values(), getattr(value, "__wrapped__", None)]
    else:
        yield value
        return
    for part in parts:
        yield from _held_by(part, seen)


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False
