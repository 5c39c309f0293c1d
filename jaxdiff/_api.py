"""The entries of minimizing: one problem, or a batch of them."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdiff._bounds import at_bound, unravel_plain
from jaxdiff._chunks import chunkable
from jaxdiff._entry import ALONE, Given, check_options, gather, history_length, history_of, of_one, plan_of, reporter, settled, wrapped
from jaxdiff._progress import Progress, Report
from jaxdiff._second_look import with_proven_minima
from jaxdiff._types import Objective, PyTree, Starts
from jaxdiff._validation import check_choice, check_count, explain_tracing_errors, is_traced, suggest_keywords
from jaxdiff.batch.execute import execute, lanes_last, solve_part
from jaxdiff.batch.options import BatchOptions, Plan
from jaxdiff.batch.rescue import Stage, alone, is_widened, rescue
from jaxdiff.derivatives import Autodiff
from jaxdiff.linalg import max_norm
from jaxdiff.loop import attach_derivative, solve_unrolled
from jaxdiff.problem import Minimize
from jaxdiff.result import OptimizeResult, is_success
from jaxdiff.solvers import BFGS, Newton
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
    fixed: Any = None,
    scale: Any = None,
    has_aux: bool = False,
    max_steps: int = 4000,
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
        fixed: True where a parameter stays at its start; booleans, a pytree like x. The solution does not depend on the data there.
        scale: the typical size of each parameter, positive; one number or a pytree like x; rounded to a power of two. The solver works with
            x divided by it, and ``gtol`` is in units of f per such unit; the result is in the units of x.
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
    given = gather(fun, x0, args, bounds=bounds, fixed=fixed, scale=scale, solver=solver)
    report = reporter(callback, verbose)
    problem = given.problem(Minimize, derivatives, has_aux)
    result = _solve(problem, given, given.solver, max_steps, ALONE, history, max_evals, differentiation, report)
    return of_one(result, report, verbose, throw)


@suggest_keywords(**(_ALIASES | {"options": "options", "chunk_size": "options", "batch_size": "options"}))
@chunkable("x0", "args")
def minimize_batch(
    fun: Objective,
    x0: PyTree,
    args: PyTree = (),
    *,
    in_axes: Any = 0,
    solver: Any = BFGS(),  # noqa: B008 (frozen)
    derivatives: Any = Autodiff(),  # noqa: B008 (frozen)
    bounds: Any = None,
    fixed: Any = None,
    scale: Any = None,
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
        solver: as in `minimize`; its tolerances may be arrays with one for each problem.
        derivatives: as in `minimize`.
        bounds: as in `minimize`, shared by all problems; a leaf with a leading axis of problems has bounds for each.
        fixed: as in `minimize`, shared or for each problem likewise.
        scale: as in `minimize`, shared or for each problem likewise.
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
    check_options(options)
    given = gather(fun, x0, args, is_batch=True, in_axes=in_axes, bounds=bounds, fixed=fixed, scale=scale, solver=solver)
    problem = given.problem(Minimize, derivatives, has_aux)
    result = _solve(problem, given, given.solver, max_steps, options, history, max_evals, differentiation)
    return result.raise_if_failed() if throw else result


def _solve(
    problem: Minimize,
    given: Given,
    solver: Any,
    max_steps: Any,
    options: BatchOptions,
    history: bool | int,
    max_evals: Any = None,
    differentiation: Any = "implicit",
    report: Report | None = None,
) -> OptimizeResult:
    """Check what is common to one and many, and run; of many every field of the result has a leading axis of problems."""
    named = solver
    solver = settled(solver, problem, given.has_limits, "one with takes_bounds = True, such as BFGS(),")
    solver = resolve_tolerances(solver, problem.packing, problem.derivatives.is_exact)
    max_steps = check_count(max_steps, "max_steps")
    check_choice(differentiation, "differentiation", ("implicit", "unrolled"))
    solver, starts, length = wrapped(solver, problem, max_evals, report), given.starts, history_length(history, max_steps)
    plan = plan_of(options, problem, starts.shape[0], length > 0)
    num_unrolled = None
    if differentiation == "unrolled":
        if length:
            raise ValueError(f"history = {history!r} with differentiation = 'unrolled'; expected history = False")
        plan, num_unrolled = dataclasses.replace(plan, mode="lockstep", num_threads=1), max_steps
    with explain_tracing_errors():
        result = execute(_run, problem, solver, starts, max_steps, plan, trace_length=length, num_unrolled=num_unrolled)
    if num_unrolled is not None or is_traced((result.status, problem)):
        return result
    if not options.rescue:
        at = lambda problem, ends: _solve(problem, dataclasses.replace(given, starts=ends), Newton(), 0, alone(options), False)  # noqa: E731
        return with_proven_minima(result, problem, named, at)

    def again(problem: Minimize, starts: Starts, other: Any = named) -> OptimizeResult:
        return _solve(problem, dataclasses.replace(given, starts=starts), other, max_steps, alone(options), history, max_evals)

    other = BFGS() if isinstance(named, Newton) else Newton()
    stages = [Stage(2, lambda problem, starts: again(problem, starts, other)), Stage(3, again)]
    if is_widened(starts):
        stages.insert(0, Stage(1, again))
    return rescue(result, problem, starts, stages)


def _run(
    problem: Minimize,
    solver: Solver,
    starts: Starts,
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
        outcome, solution, value = solve_unrolled(problem, solver, problem.project(jnp.asarray(starts).T), num_unrolled)
    else:
        outcome, trace = solve_part(problem, solver, starts, max_steps, first, count, plan, trace_length)
        problem = lanes_last(problem, first, count)
        solution, value = attach_derivative(problem, outcome.x, outcome.value, outcome.status)
    packing = problem.packing
    optimality = max_norm(problem.per_unit(problem.projected(outcome.x, outcome.gradient)))
    return OptimizeResult(
        x=packing.unravel(problem.unscaled(solution).T),
        fun=value,
        jac=packing.unravel(problem.per_unit(outcome.gradient).T),
        nit=outcome.num_steps,
        nfev=outcome.num_evaluations,
        status=outcome.status,
        success=is_success(outcome.status),
        optimality=optimality,
        at_bound=unravel_plain(packing, at_bound(problem, outcome.x).T) if problem.is_bounded else None,
        history=history_of(problem, trace),
        aux=jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), problem.aux(solution)),
        steps_paid=outcome.steps_paid,
    )
