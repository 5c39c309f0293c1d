"""The entries of root finding: equations from a start, or one equation in a bracket; one problem or many."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._chunks import chunkable
from jaxdiff._entry import (
    ALONE,
    Given,
    batch_size,
    check_options,
    gather,
    history_length,
    history_of,
    leaf_axes,
    map_axes,
    of_one,
    plan_of,
    refuse_words,
    reporter,
    to_front,
    wrapped,
)
from jaxdiff._held import hold_unknowns
from jaxdiff._progress import Progress, Report
from jaxdiff._tolerances import with_tests
from jaxdiff._types import Objective, PyTree, Starts
from jaxdiff._validation import as_data, as_float_leaves, check_count, check_tolerance, explain_tracing_errors, is_traced, suggest_keywords
from jaxdiff.batch.execute import execute, lanes_last, solve_part
from jaxdiff.batch.options import BatchOptions, Plan
from jaxdiff.batch.rescue import retry
from jaxdiff.derivatives import Autodiff
from jaxdiff.implicit import attach_root_derivative
from jaxdiff.linalg import max_norm
from jaxdiff.loop import Outcome
from jaxdiff.result import Status, is_success
from jaxdiff.root_problem import Root, output_packing
from jaxdiff.root_result import RootResult
from jaxdiff.solvers import ROOT_SOLVERS, Chandrupatla, NewtonRoot
from jaxdiff.solvers.base import Solver, spread_tolerance
from jaxdiff.solvers.plain_newton import PLAIN_STEPS, PlainNewton

_ALIASES = {
    "maxiter": "max_steps",
    "maxfev": "max_evals",
    "disp": "verbose",
    "method": "solver",
    "tol": "solver",
    "xtol": "solver",
    "ftol": "solver",
    "jac": "derivatives",
    "fprime": "derivatives",
}


@suggest_keywords(**_ALIASES, options="solver")
def root(
    fun: Objective,
    x0: PyTree,
    args: PyTree = (),
    *,
    solver: Any = NewtonRoot(),  # noqa: B008 (frozen)
    derivatives: Any = Autodiff(),  # noqa: B008 (frozen)
    fixed: Any = None,
    scale: Any = None,
    has_aux: bool = False,
    max_steps: int = 256,
    max_evals: int | None = None,
    history: bool | int = False,
    callback: Callable[[Progress], Any] | None = None,
    verbose: int = 0,
    throw: bool = False,
) -> RootResult:
    """Find x with F(x) = 0: as many equations as unknowns.

    May be called under ``jax.jit``, ``jax.vmap`` and ``jax.grad``. The root is differentiable with respect to ``args``, and to whatever
    ``fun`` closes over, by the implicit function theorem; where there is no success, or the Jacobian is singular, that derivative is NaN.

    Args:
        fun: called as ``fun(x, *args)``; returns a real floating array or a pytree of them, with as many numbers as x has; with
            ``has_aux`` a pair of that and a pytree of arrays.
        x0: where to start; a pytree of real numbers. A list of plain numbers is an array. Integers are promoted to the default float.
        args: data for ``fun``: a tuple of pytrees; anything else is the only one. Data are arguments rather than closures, so that other
            data of the same shape do not compile again.
        solver: ``NewtonRoot()`` or ``Broyden()``.
        derivatives: ``Autodiff()``, ``FiniteDifference(...)`` or ``Supplied(jacobian=...)``, in the form of ``jax.jacobian``.
        fixed: True where an unknown stays at its start; booleans, a pytree like x. There are then as many equations as other unknowns. Not
            traced: another choice is another program.
        scale: the typical size of each unknown, positive; one number or a pytree like x; rounded to a power of two.
        has_aux: whether ``fun`` returns a pair ``(F, aux)``.
        max_steps: steps at most; one trial each.
        max_evals: evaluations of F at most, as in `minimize`.
        history: True keeps every point, a number the last so many.
        callback: as in `minimize`; ``value`` and ``optimality`` are the largest absolute component of F.
        verbose: as in `minimize`.
        throw: raise where the solver does not succeed. Not under ``jit``.

    Returns:
        A `RootResult`: its ``x`` is like ``x0``, its ``fun`` is F(x) like what ``fun`` returns.

    Raises:
        TypeError: ``x0`` is not real, ``fun`` does not return real numbers, an argument is of the wrong kind.
        ValueError: an option out of range; ``x0`` without any number in it; not as many equations as unknowns.
        OptimizationError: with ``throw``, if the solver did not succeed.

    Example:
        >>> import jax, jaxdiff as jd
        >>> cube_root = lambda a: jd.root(lambda x, a: x**3 - a, 1.0, a).x
        >>> round(float(cube_root(8.0)), 5), round(float(jax.grad(cube_root)(8.0)), 5)  # the derivative is 1 / (3 * 2**2)
        (2.0, 0.08333)
    """
    _check_solver(solver, is_bracketing=False)
    report = reporter(callback, verbose)
    given, held = hold_unknowns(fixed, gather(fun, x0, args, scale=scale, solver=solver), derivatives)
    problem = _problem(given, held.derivatives, has_aux, held.place)
    result = _solve(problem, given.solver, given.starts, max_steps, ALONE, history, max_evals, report)
    return of_one(result, report, verbose, throw)


@suggest_keywords(**_ALIASES, chunk_size="options", batch_size="options")
@chunkable("x0", "args")
def root_batch(
    fun: Objective,
    x0: PyTree,
    args: PyTree = (),
    *,
    in_axes: Any = 0,
    solver: Any = None,
    derivatives: Any = Autodiff(),  # noqa: B008 (frozen)
    fixed: Any = None,
    scale: Any = None,
    has_aux: bool = False,
    max_steps: int = 256,
    max_evals: int | None = None,
    history: bool | int = False,
    throw: bool = False,
    options: BatchOptions = BatchOptions(),  # noqa: B008 (frozen)
) -> RootResult:
    """Find roots of many systems of one form at once; the leading axis of ``x0`` counts the problems.

    A problem that fails has a status of its own and leaves the others bit for bit as they were.

    Args:
        fun: written for one problem, called as ``fun(x, *args)``.
        x0: starts, a pytree like that of one problem with a leading axis on each leaf.
        args: data; see ``in_axes``.
        in_axes: which axis of each of ``(x0, *args)`` counts the problems, None where they share it; as in ``jax.vmap``.
        solver: as in `root`. None: `NewtonRoot`; where there is one unknown, and no mode is chosen, a few plain Newton steps come first,
            and `NewtonRoot` solves from the start what they do not.
        derivatives: as in `root`.
        fixed: as in `root`; the same for all problems.
        scale: as in `root`, shared by all problems; a leaf with a leading axis of problems has sizes for each.
        has_aux: as in `root`.
        max_steps: steps that each problem may make.
        max_evals: as in `minimize`, for each problem.
        history: as in `root`.
        throw: raise where any problem did not succeed. Not under ``jit``.
        options: how the batch is run.

    Returns:
        A `RootResult` in which every field has a leading axis of problems.

    Raises:
        TypeError: as in `root`.
        ValueError: as in `root`; batch axes of different lengths; rows of different lengths.
        OptimizationError: with ``throw``, if any problem did not succeed.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> result = jd.root_batch(lambda x, a: x * x - a, jnp.ones(3), jnp.array([1.0, 4.0, -1.0]))
        >>> result.x[:2].round(9).tolist(), result.success.tolist()
        ([1.0, 2.0], [True, True, False])
    """
    check_options(options)
    may_begin_plain = solver is None and options.mode == "auto" and history is False and max_evals is None
    solver = NewtonRoot() if solver is None else solver
    _check_solver(solver, is_bracketing=False)
    given, held = hold_unknowns(fixed, gather(fun, x0, args, is_batch=True, in_axes=in_axes, scale=scale, solver=solver), derivatives)
    problem = _problem(given, held.derivatives, has_aux, held.place)
    plain: tuple[int, ...] = ()
    if may_begin_plain and problem.packing.size == 1 and isinstance(problem.derivatives, Autodiff):
        plain = () if is_traced((problem, given.starts, max_steps)) else PLAIN_STEPS
    result = _solve(problem, given.solver, given.starts, max_steps, options, history, max_evals, plain=plain)
    return result.raise_if_failed() if throw else result


@suggest_keywords(**_ALIASES, x0="bracket", options="solver")
def root_scalar(
    fun: Objective,
    bracket: Any,
    args: PyTree = (),
    *,
    solver: Any = Chandrupatla(),  # noqa: B008 (frozen)
    has_aux: bool = False,
    max_steps: int = 256,
    history: bool | int = False,
    throw: bool = False,
) -> RootResult:
    """Find the root of one equation in one unknown between two points at which the function has opposite signs.

    A pole or a jump, at which a sign changes too, is no root: the status is DISCONTINUITY. The root is differentiable with respect to
    ``args`` as in `root`. From a start instead of a bracket, call `root`.

    Args:
        fun: called as ``fun(x, *args)`` with one number x; returns one real floating number, with ``has_aux`` a pair.
        bracket: ``(a, b)``, in any order.
        args: data for ``fun``, as in `root`.
        solver: ``Chandrupatla()`` or ``Bisection()``.
        has_aux: whether ``fun`` returns a pair ``(F, aux)``.
        max_steps: steps at most; the first evaluates the other end.
        history: True keeps every point, a number the last so many.
        throw: raise where the solver does not succeed. Not under ``jit``.

    Returns:
        A `RootResult`.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an option out of range; ``bracket`` is no pair of numbers; ``fun`` has the same sign at both ends. Under ``jit`` and
            ``vmap`` the last is the status NO_SIGN_CHANGE.
        OptimizationError: with ``throw``, if the solver did not succeed.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> result = jd.root_scalar(lambda x, a: jnp.cos(x) - a * x, (0.0, 1.0), 1.0)
        >>> round(float(result.x), 9), result.success.item()
        (0.739085133, True)
        >>> jd.root_scalar(lambda x: 1 / x, (-1.0, 2.0)).status_name
        'DISCONTINUITY'
    """
    _check_solver(solver, is_bracketing=True)
    a, b = _ends(bracket)
    if jnp.shape(a) != () or jnp.shape(b) != ():
        raise ValueError(
            f"bracket has ends of shapes {jnp.shape(a)} and {jnp.shape(b)}; expected two numbers (root_scalar_batch takes many)"
        )
    problem = _problem(gather(fun, a, args), Autodiff(), has_aux)
    result = of_one(_solve(problem, solver, jnp.stack([a, b])[None], max_steps, ALONE, history), None, 0, False)
    if not is_traced(result) and int(result.status) == Status.NO_SIGN_CHANGE:
        raise ValueError(f"bracket = ({a}, {b}): fun has the same sign at both ends; expected opposite signs")
    return result.raise_if_failed() if throw else result


@suggest_keywords(**_ALIASES, x0="bracket", chunk_size="options", batch_size="options")
@chunkable("bracket", "args")
def root_scalar_batch(
    fun: Objective,
    bracket: Any,
    args: PyTree = (),
    *,
    in_axes: Any = 0,
    solver: Any = Chandrupatla(),  # noqa: B008 (frozen)
    has_aux: bool = False,
    max_steps: int = 256,
    history: bool | int = False,
    throw: bool = False,
    options: BatchOptions = BatchOptions(),  # noqa: B008 (frozen)
) -> RootResult:
    """Find roots in many brackets at once.

    Args:
        fun: written for one problem, as in `root_scalar`.
        bracket: ``(a, b)``, two arrays; or numbers, where ``in_axes`` says that all problems share them.
        args: data; see ``in_axes``.
        in_axes: which axis of each of ``(bracket, *args)`` counts the problems, None where they share it. The entry of the bracket may be a
            pair, one for each end.
        solver: as in `root_scalar`.
        has_aux: as in `root_scalar`.
        max_steps: steps that each problem may make.
        history: as in `root_scalar`.
        throw: raise where any problem did not succeed. Not under ``jit``.
        options: how the batch is run.

    Returns:
        A `RootResult` in which every field has a leading axis of problems; a problem without a change of sign has the status
        NO_SIGN_CHANGE.

    Raises:
        TypeError: as in `root_scalar`.
        ValueError: as in `root_scalar` and `root_batch`.
        OptimizationError: with ``throw``, if any problem did not succeed.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> result = jd.root_scalar_batch(lambda x, a: x * x - a, (0.0, 3.0), jnp.array([1.0, 4.0, 10.0]), in_axes=(None, 0))
        >>> result.x[:2].round(9).tolist(), result.status_name
        ([1.0, 2.0], 'CONVERGED_VALUE: 2, NO_SIGN_CHANGE: 1')
    """
    check_options(options)
    _check_solver(solver, is_bracketing=True)
    ends = _ends(bracket)
    args = as_data(args if isinstance(args, tuple) else (args,), "args")
    axes = leaf_axes(in_axes, ends, args)
    ends = map_axes(lambda leaf, axis: to_front(leaf, axis, batch_size(ends, args, axes)), ends, axes[0])
    if any(end.ndim != 1 for end in ends):
        raise ValueError(f"bracket has ends of shapes {[end.shape for end in ends]}; expected one number for each problem")
    arg_axes = jax.tree.structure(args).unflatten(axes[1])
    given = gather(fun, ends[0], args, is_batch=True, in_axes=(0, *arg_axes), solver=solver)
    result = _solve(_problem(given, Autodiff(), has_aux), given.solver, jnp.stack(ends, axis=1), max_steps, options, history)
    return result.raise_if_failed() if throw else result


def _ends(bracket: Any) -> tuple[jax.Array, jax.Array]:
    """Both ends, in their common dtype.

    Raises:
        ValueError: not a pair.
    """
    if not (isinstance(bracket, (tuple, list)) and len(bracket) == 2):
        raise ValueError(f"bracket = {bracket!r}; expected a pair (a, b)")
    a, b = as_float_leaves(bracket[0], "bracket[0]"), as_float_leaves(bracket[1], "bracket[1]")
    dtype = jnp.result_type(a, b)
    return a.astype(dtype), b.astype(dtype)


def _problem(given: Given, derivatives: Any, has_aux: bool, place: Any = None) -> Root:
    user = len(given.args) - given.num_own
    args = given.args[:user]
    with explain_tracing_errors():
        fun_packing = output_packing(given.fun, given.packing, bool(has_aux), args, given.is_batched[: len(jax.tree.leaves(args))])
    return given.problem(Root, derivatives, has_aux, fun_packing=fun_packing, place=place)


def _solve(
    problem: Root,
    solver: Any,
    starts: Starts,
    max_steps: Any,
    options: BatchOptions,
    history: bool | int,
    max_evals: Any = None,
    report: Report | None = None,
    plain: tuple[int, ...] = (),
) -> RootResult:
    """Check what is common to one and many, and run; of many every field of the result has a leading axis of problems.

    ``starts`` has a row for each problem: a start, or the two ends of a bracket. ``plain``: plain Newton steps to try first, and then.
    """
    chosen, solver = solver, _resolved(solver, problem)
    max_steps = check_count(max_steps, "max_steps")
    length = history_length(history, max_steps)
    amend = None
    if plain:

        def again(problem: Root, starts: Starts) -> RootResult:
            return _solve(problem, chosen, starts, max_steps, options, history, plain=plain[1:])

        amend = lambda result: retry(result, problem, starts, again)  # noqa: E731
        solver, max_steps_now = with_tests(PlainNewton(solver.xtol, solver.ftol), problem), min(max_steps, plain[0])
        options_now = dataclasses.replace(options, mode="lockstep")
    else:
        solver, max_steps_now, options_now = wrapped(solver, problem, max_evals, report), max_steps, options
    # Whether F vanishes to rounding is read off its rounding errors: the compiler must leave sums in their order.
    plan = plan_of(options_now, problem, starts.shape[0], length > 0, may_reassociate=False)
    with explain_tracing_errors():
        return execute(_run_root, problem, solver, starts, max_steps_now, plan, amend, trace_length=length)


def _run_root(
    problem: Root, solver: Solver, starts: Starts, max_steps: Any, first: Any, *, count: int, plan: Plan, trace_length: int
) -> RootResult:
    outcome, trace = solve_part(problem, solver, starts, max_steps, first, count, plan, trace_length)
    problem = lanes_last(problem, first, count)
    own_starts = jax.lax.dynamic_slice_in_dim(starts, first, count)[:, : problem.packing.size]
    outcome = _settled(*jax.lax.stop_gradient((problem, outcome, own_starts.T)))
    solution, residuals = attach_root_derivative(problem, outcome.x, outcome.gradient, outcome.status)
    assert problem.fun_packing is not None
    return RootResult(
        x=problem.unravel(problem.unscaled(solution).T),
        fun=problem.fun_packing.unravel(residuals.T),
        jac=None,
        nit=outcome.num_steps,
        nfev=outcome.num_evaluations,
        status=outcome.status,
        success=is_success(outcome.status),
        optimality=max_norm(outcome.gradient),
        history=history_of(problem, trace),
        aux=jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), problem.aux(solution)),
        steps_paid=outcome.steps_paid,
    )


def _settled(problem: Root, outcome: Outcome, start: jax.Array) -> Outcome:
    """Where |F| no longer fell: a success if F is there what rounding makes of zero."""
    is_resting = (outcome.status == Status.STALLED) | (outcome.status == Status.SINGULAR)
    is_root = jax.lax.cond(
        jnp.any(is_resting),
        lambda: is_resting & problem.is_at_rounding(outcome.x, outcome.gradient, start),
        lambda: jnp.zeros_like(is_resting),
    )
    return dataclasses.replace(outcome, status=jnp.where(is_root, Status.CONVERGED_VALUE, outcome.status).astype(jnp.int32))


def _resolved(solver: Any, problem: Root) -> Any:
    """The solver with its tolerances as arrays that meet a block of lanes: xtol is like x, ftol like F."""
    dtype = problem.packing.dtype
    resolved = {}
    for name in solver.tolerance_names:
        value = getattr(solver, name)
        if value is None:
            value = solver.default_tolerance(name, dtype, problem.derivatives.is_exact)
        else:
            check_tolerance(value, name, dtype, zero_disables=True)
        if name == "xtol":
            resolved[name] = problem.among_unknowns(spread_tolerance(value, problem.packing_of_x))
        else:
            assert problem.fun_packing is not None
            resolved[name] = spread_tolerance(value, problem.fun_packing, "what fun returns")
    return dataclasses.replace(solver, **resolved)


def _check_solver(solver: Any, *, is_bracketing: bool) -> None:
    kinds = [kind for kind in ROOT_SOLVERS.values() if getattr(kind, "takes_bracket", False) == is_bracketing]
    known = [kind.__name__ for kind in kinds]
    refuse_words(solver, known)
    words = ", ".join(known)
    if getattr(type(solver), "takes_bracket", False) and not is_bracketing:
        raise TypeError(f"solver = {type(solver).__name__}(...) needs a bracket: call root_scalar; expected one of {words}")
    is_own = not isinstance(solver, tuple(ROOT_SOLVERS.values())) and getattr(type(solver), "finds_roots", False)
    if not isinstance(solver, tuple(kinds)) and not is_own:
        raise TypeError(f"solver = {solver!r} does not solve equations{' in a bracket' if is_bracketing else ''}; expected one of {words}")
