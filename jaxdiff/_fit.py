"""The entries of least squares: one problem or many, residuals or a model and its data."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._bounds import at_bound, unravel_plain
from jaxdiff._chunks import chunkable
from jaxdiff._entry import ALONE, Given, check_options, gather, history_length, history_of, of_one, plan_of, reporter, settled, wrapped
from jaxdiff._escape import escaped, left_open
from jaxdiff._numerics import machine_epsilon
from jaxdiff._progress import Progress, Report
from jaxdiff._second_look import is_doubtful, looked_at_again, may_be_lost, without_lost
from jaxdiff._types import Objective, PyTree, Starts
from jaxdiff._validation import (
    as_float_leaves,
    check_choice,
    check_count,
    check_positive,
    explain_tracing_errors,
    is_traced,
    suggest_keywords,
)
from jaxdiff.batch.execute import execute, lanes_last, solve_part
from jaxdiff.batch.options import BatchOptions, Plan
from jaxdiff.batch.rescue import Stage, alone, rescue
from jaxdiff.derivatives import Autodiff
from jaxdiff.fit_result import FitResult
from jaxdiff.linalg import PANEL_LIMIT, max_norm
from jaxdiff.loop import Outcome, attach_derivative
from jaxdiff.problem import LOSSES, LeastSquares
from jaxdiff.result import Status, is_success
from jaxdiff.solvers import Dogleg, LevenbergMarquardt, LevenbergMarquardtCholesky
from jaxdiff.solvers.base import Solver, resolve_tolerances
from jaxdiff.solvers.residual_model import LinearModel, invert_upper

_ALIASES = {
    "maxiter": "max_steps",
    "max_nfev": "max_evals",
    "maxfev": "max_evals",
    "disp": "verbose",
    "x_scale": "scale",
    "method": "solver",
    "jac": "derivatives",
    "Dfun": "derivatives",
    "tol": "solver",
    "ftol": "solver",
    "xtol": "solver",
    "gtol": "solver",
}


@suggest_keywords(**_ALIASES, options="solver")
def least_squares(
    residual: Objective,
    x0: PyTree,
    args: PyTree = (),
    *,
    solver: Any = None,
    derivatives: Any = Autodiff(),  # noqa: B008 (frozen)
    bounds: Any = None,
    fixed: Any = None,
    scale: Any = None,
    loss: str = "linear",
    f_scale: Any = 1.0,
    covariance: bool = False,
    has_aux: bool = False,
    max_steps: int = 4000,
    max_evals: int | None = None,
    history: bool | int = False,
    callback: Callable[[Progress], Any] | None = None,
    verbose: int = 0,
    throw: bool = False,
) -> FitResult:
    """Minimize ``0.5 sum_i c^2 rho((r_i(x) / c)^2)``, half the sum of squares of residuals or of a robust loss of them.

    May be called under ``jax.jit``, ``jax.vmap`` and ``jax.grad``. The solution is differentiable with respect to ``args`` by the implicit
    function theorem, parameters on their bounds included; where the solver did not succeed that derivative is NaN.

    Args:
        residual: called as ``residual(x, *args)``; returns a real floating array or a pytree of them, with ``has_aux`` a pair of that and
            a pytree of arrays. There may be fewer residuals than parameters; the covariance is then infinite.
        x0: where to start; a pytree of real numbers.
        args: data for ``residual``, as in `minimize`.
        solver: ``LevenbergMarquardt()``, ``Dogleg()``, ``GaussNewton()``, or a minimizer such as ``BFGS()``. None:
            ``LevenbergMarquardt()``; and of as many residuals as parameters, without bounds, where it ends at a minimum that is no zero,
            Newton's method for equations from the start in search of one; ``rescued`` of the result says where that helped. A solver
            of least squares that ends as SINGULAR or STALLED at what the Hessian of the cost proves to be a minimum has converged. Neither
            is asked inside ``jax.jit`` and its like.
        derivatives: ``Autodiff()``, ``FiniteDifference(...)`` or ``Supplied(jacobian=...)``, in the form of ``jax.jacobian``.
        bounds: ``(lower, upper)``, each None, a number or a pytree like x; every solver takes them; a parameter whose bounds are equal
            is fixed.
        fixed: True where a parameter stays at its start, as in `minimize`.
        scale: the typical size of each parameter, as in `minimize`; the covariance is in the units of x.
        loss: ``"linear"``, ``"soft_l1"``, ``"huber"``, ``"cauchy"`` or ``"arctan"``, as in SciPy.
        f_scale: c, the size of a residual from which on a robust loss bends; in units of the residuals.
        covariance: whether to compute the covariance of the parameters, their standard errors and correlation, and the rank.
        has_aux: whether ``residual`` returns a pair ``(residuals, aux)``.
        max_steps: steps at most; one trial each.
        max_evals: evaluations of the residuals at most, as in `minimize`.
        history: True keeps every point, a number the last so many.
        callback: as in `minimize`.
        verbose: as in `minimize`.
        throw: raise where the solver does not succeed. Not under ``jit``.

    Returns:
        A `FitResult`; its ``x`` is like ``x0``.

    Raises:
        TypeError: ``x0`` is not real, ``residual`` does not return real arrays, an argument is of the wrong kind.
        ValueError: an option out of range; bounds that cross, hold NaN or leave out ``x0``; no parameters or no residuals.
        OptimizationError: with ``throw``, if the solver did not succeed.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> t = jnp.linspace(0.0, 4.0, 9)
        >>> decay = lambda x, t, y: x["a"] * jnp.exp(-x["k"] * t) - y
        >>> result = jd.least_squares(decay, {"a": 1.0, "k": 1.0}, (t, 3 * jnp.exp(-t / 2)))
        >>> round(float(result.x["a"]), 4), round(float(result.x["k"]), 4), bool(result.success)
        (3.0, 0.5, True)
    """
    given = gather(residual, x0, args, bounds=bounds, fixed=fixed, scale=scale, solver=solver)
    report = reporter(callback, verbose)
    wanted = Wanted(bool(covariance))
    problem = _problem(given, derivatives, has_aux, loss, f_scale)
    result = _solve_fit(problem, given, given.solver, max_steps, ALONE, history, wanted, max_evals, report)
    return of_one(result, report, verbose, throw)


@suggest_keywords(**_ALIASES, chunk_size="options", batch_size="options")
@chunkable("x0", "args")
def least_squares_batch(
    residual: Objective,
    x0: PyTree,
    args: PyTree = (),
    *,
    in_axes: Any = 0,
    solver: Any = None,
    derivatives: Any = Autodiff(),  # noqa: B008 (frozen)
    bounds: Any = None,
    fixed: Any = None,
    scale: Any = None,
    loss: str = "linear",
    f_scale: Any = 1.0,
    covariance: bool = False,
    has_aux: bool = False,
    max_steps: int = 1000,
    max_evals: int | None = None,
    history: bool | int = False,
    throw: bool = False,
    options: BatchOptions = BatchOptions(),  # noqa: B008 (frozen)
) -> FitResult:
    """Solve many least-squares problems of one form at once; the leading axis of ``x0`` counts them.

    A problem that fails has a status of its own and leaves the others as they were.

    Args:
        residual: written for one problem, called as ``residual(x, *args)``.
        x0: starts, a pytree like that of one problem with a leading axis on each leaf.
        args: data; see ``in_axes``.
        in_axes: which axis of each of ``(x0, *args)`` counts the problems, None where they share it; as in ``jax.vmap``.
        solver: as in `least_squares`. None: `LevenbergMarquardtCholesky`, up to 24 parameters, and `LevenbergMarquardt` for the problems
            that it leaves unsolved, as ``options.rescue`` has it; then as in `least_squares`.
        derivatives: as in `least_squares`.
        bounds: as in `least_squares`, shared by all problems; a leaf with a leading axis of problems has bounds for each.
        fixed: as in `least_squares`, shared or for each problem likewise.
        scale: as in `least_squares`, shared or for each problem likewise.
        loss: as in `least_squares`.
        f_scale: as in `least_squares`.
        covariance: as in `least_squares`.
        has_aux: as in `least_squares`.
        max_steps: steps that each problem may make.
        max_evals: as in `minimize`, for each problem.
        history: as in `least_squares`.
        throw: raise where any problem did not succeed. Not under ``jit``.
        options: how the batch is run.

    Returns:
        A `FitResult` in which every field has a leading axis of problems.

    Raises:
        TypeError: as in `least_squares`.
        ValueError: as in `least_squares`; batch axes of different lengths.
        OptimizationError: with ``throw``, if any problem did not succeed.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> targets = jnp.arange(4.0)
        >>> result = jd.least_squares_batch(lambda x, a: jnp.stack([x - a, 2 * (x - a)]), jnp.zeros(4), targets)
        >>> result.x.round(6).tolist(), bool(result.success.all())
        ([0.0, 1.0, 2.0, 3.0], True)
    """
    check_options(options)
    given = gather(residual, x0, args, is_batch=True, in_axes=in_axes, bounds=bounds, fixed=fixed, scale=scale, solver=solver)
    problem = _problem(given, derivatives, has_aux, loss, f_scale)
    result = _solve_fit(problem, given, given.solver, max_steps, options, history, Wanted(bool(covariance)), max_evals)
    return result.raise_if_failed() if throw else result


@dataclasses.dataclass(frozen=True)
class CurveResidual:
    """What a model misses the data by, in units of their errors; compares by what it holds, so that it compiles once.

    Attributes:
        model: the user's.
        is_spread: whether it takes its parameters one by one.
        errors: ``"none"``, ``"deviations"`` or ``"covariance"``: what ``sigma`` holds.
    """

    model: Callable[..., Any]
    is_spread: bool
    errors: str

    def __call__(self, params: PyTree, x: PyTree, y: jax.Array, *sigma: jax.Array) -> jax.Array:
        """Return the residuals.

        Raises:
            ValueError: the model returns another shape than that of y.
        """
        predicted = self.model(x, *params) if self.is_spread else self.model(x, params)
        if jnp.shape(predicted) != jnp.shape(y):
            raise ValueError(f"model returned shape {jnp.shape(predicted)}; expected {jnp.shape(y)}, as y has")
        missed = predicted - y
        if self.errors == "deviations":
            return missed / sigma[0]
        if self.errors == "covariance":
            return jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(sigma[0]), jnp.ravel(missed), lower=True)
        return missed


@suggest_keywords(**_ALIASES, f="model", xdata="x", ydata="y")
def curve_fit(
    model: Callable[..., Any],
    x: PyTree,
    y: Any,
    p0: PyTree,
    *,
    sigma: Any = None,
    absolute_sigma: bool = False,
    bounds: Any = None,
    fixed: Any = None,
    scale: Any = None,
    loss: str = "linear",
    f_scale: Any = 1.0,
    solver: Any = LevenbergMarquardt(),  # noqa: B008 (frozen)
    derivatives: Any = Autodiff(),  # noqa: B008 (frozen)
    max_steps: int = 4000,
    max_evals: int | None = None,
    history: bool | int = False,
    callback: Callable[[Progress], Any] | None = None,
    verbose: int = 0,
    throw: bool = False,
) -> FitResult:
    """Fit the parameters of a model to data by least squares, with their covariance.

    Data that are not finite give the status INVALID_DATA, and parameters that the data do not determine SINGULAR.

    Args:
        model: ``model(x, *params)``, or ``model(x, params)`` where p0 is a pytree, or where the model takes two arguments and p0 is a
            vector; returns an array of the shape of y.
        x: predictors, any pytree of arrays.
        y: what the model should give.
        p0: where to start: numbers, a vector, or a pytree.
        sigma: standard deviations of y, of its shape or one number; or their covariance, ``[y.size, y.size]``.
        absolute_sigma: whether sigma is in units of y, so that the covariance of the parameters is not scaled by the misfit.
        bounds: as in `least_squares`.
        fixed: as in `least_squares`.
        scale: as in `least_squares`.
        loss: as in `least_squares`.
        f_scale: as in `least_squares`.
        solver: as in `least_squares`.
        derivatives: as in `least_squares`; finite differences are of the model's misfit.
        max_steps: as in `least_squares`.
        max_evals: as in `least_squares`.
        history: as in `least_squares`.
        callback: as in `minimize`.
        verbose: as in `minimize`.
        throw: as in `least_squares`.

    Returns:
        A `FitResult` with covariance, standard errors, correlation and rank; its ``x`` holds the parameters, like p0.

    Raises:
        TypeError: as in `least_squares`.
        ValueError: as in `least_squares`; the model's shape is not that of y; a sigma that is not positive, or of another shape.
        OptimizationError: with ``throw``, if the solver did not succeed.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> t = jnp.arange(5.0)
        >>> fit = jd.curve_fit(lambda t, a, b: a + b * t, t, jnp.array([1.0, 2.9, 5.1, 7.0, 9.0]), [0.0, 0.0])
        >>> [round(float(v), 2) for v in fit.x], [round(float(v), 4) for v in fit.standard_errors], int(fit.dof)
        ([0.98, 2.01], [0.0616, 0.0252], 3)
    """
    p0 = as_float_leaves(p0, "p0")
    y = as_float_leaves(y, "y")
    errors, held = _errors(sigma, jnp.shape(y))
    residual = CurveResidual(model, _is_spread(model, p0), errors)
    given = gather(residual, p0, (x, y, *held), name="p0", data_name="data", bounds=bounds, fixed=fixed, scale=scale, solver=solver)
    report = reporter(callback, verbose)
    problem = _problem(given, derivatives, False, loss, f_scale)
    wanted = Wanted(True, True, bool(absolute_sigma))
    result = _solve_fit(problem, given, given.solver, max_steps, ALONE, history, wanted, max_evals, report)
    return of_one(result, report, verbose, throw)


@suggest_keywords(**_ALIASES, f="model", xdata="x", ydata="y")
@chunkable("x", "y", "p0")
def curve_fit_batch(
    model: Callable[..., Any],
    x: PyTree,
    y: Any,
    p0: PyTree,
    *,
    sigma: Any = None,
    in_axes: Any = (None, 0, 0),
    absolute_sigma: bool = False,
    bounds: Any = None,
    fixed: Any = None,
    scale: Any = None,
    loss: str = "linear",
    f_scale: Any = 1.0,
    solver: Any = None,
    derivatives: Any = Autodiff(),  # noqa: B008 (frozen)
    max_steps: int = 1000,
    max_evals: int | None = None,
    history: bool | int = False,
    throw: bool = False,
    options: BatchOptions = BatchOptions(),  # noqa: B008 (frozen)
) -> FitResult:
    """Fit one model to many data sets at once.

    Args:
        model: written for one data set, as in `curve_fit`.
        x: predictors.
        y: data, by default with a leading axis of problems.
        p0: starts, by default with a leading axis of problems.
        sigma: standard deviations, of the shape of y for one problem where they are shared, of that of the whole y where they are not.
        in_axes: which axis of each of ``(x, y, p0)`` counts the problems, None where they share it.
        absolute_sigma: as in `curve_fit`.
        bounds: as in `least_squares_batch`.
        fixed: as in `least_squares_batch`.
        scale: as in `least_squares_batch`.
        loss: as in `least_squares`.
        f_scale: as in `least_squares`.
        solver: as in `least_squares`. None: `LevenbergMarquardtCholesky`, up to 24 parameters, and `LevenbergMarquardt` for the problems
            that it leaves unsolved, as ``options.rescue`` has it.
        derivatives: as in `least_squares`.
        max_steps: as in `least_squares`.
        max_evals: as in `least_squares_batch`.
        history: as in `least_squares`.
        throw: as in `least_squares`.
        options: how the batch is run.

    Returns:
        A `FitResult` in which every field has a leading axis of problems.

    Raises:
        TypeError: as in `curve_fit`.
        ValueError: as in `curve_fit` and `least_squares_batch`.
        OptimizationError: with ``throw``, if any problem did not succeed.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> t = jnp.arange(5.0)
        >>> y = jnp.stack([1 + 2 * t, 3 - t])
        >>> fit = jd.curve_fit_batch(lambda t, a, b: a + b * t, t, y, jnp.zeros((2, 2)))
        >>> (fit.x.round(6) + 0.0).tolist()
        [[1.0, 2.0], [3.0, -1.0]]
    """
    check_options(options)
    if not (isinstance(in_axes, (tuple, list)) and len(in_axes) == 3):
        raise ValueError(f"in_axes = {in_axes!r}; expected three entries, for x, y and p0")
    p0 = as_float_leaves(p0, "p0")
    y = as_float_leaves(y, "y")
    x_axes, y_axis, p_axes = in_axes
    one_shape = list(jnp.shape(y))
    if y_axis is not None:
        del one_shape[y_axis]
    is_own = sigma is not None and y_axis is not None and jnp.shape(sigma) == jnp.shape(y)
    errors, held = ("deviations", (_positive(sigma),)) if is_own else _errors(sigma, tuple(one_shape))
    axes = (p_axes, x_axes, y_axis, *((y_axis if is_own else None) for _ in held))
    one = jax.tree.map(lambda leaf: leaf[0], p0) if p_axes == 0 else p0
    residual = CurveResidual(model, _is_spread(model, one), errors)
    given = gather(
        residual,
        p0,
        (x, y, *held),
        is_batch=True,
        in_axes=axes,
        name="p0",
        data_name="data",
        bounds=bounds,
        fixed=fixed,
        scale=scale,
        solver=solver,
    )
    problem = _problem(given, derivatives, False, loss, f_scale)
    result = _solve_fit(problem, given, given.solver, max_steps, options, history, Wanted(True, True, bool(absolute_sigma)), max_evals)
    return result.raise_if_failed() if throw else result


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a fit is asked for beside its parameters.

    Attributes:
        covariance: their covariance, and what follows from it.
        is_curve: a status for data that are not finite or do not determine the parameters.
        is_absolute: whether the covariance is not scaled by the misfit.
    """

    covariance: bool
    is_curve: bool = False
    is_absolute: bool = False


def _errors(sigma: Any, shape: tuple[int, ...]) -> tuple[str, tuple[Any, ...]]:
    """What kind of errors sigma holds, and sigma as data."""
    if sigma is None:
        return "none", ()
    size = int(np.prod(shape))
    if jnp.shape(sigma) == (size, size) and shape != (size, size):
        return "covariance", (as_float_leaves(sigma, "sigma"),)
    if jnp.shape(sigma) not in ((), shape):
        raise ValueError(f"sigma has shape {jnp.shape(sigma)}; expected one number, {shape} as y has, or their covariance {(size, size)}")
    return "deviations", (_positive(sigma),)


def _positive(sigma: Any) -> jax.Array:
    sigma = as_float_leaves(sigma, "sigma")
    if not is_traced(sigma):
        values = np.asarray(sigma)
        for index in np.argwhere(~(values > 0))[:1]:
            raise ValueError(f"sigma = {values[tuple(index)]} at index {tuple(int(i) for i in index)}; expected positive numbers")
    return sigma


def _is_spread(model: Any, p0: PyTree) -> bool:
    """Whether the model takes its parameters one by one: p0 is a vector, and the model has not just one place for it."""
    if not callable(model):
        raise TypeError(f"model = {model!r}; expected a function of x and the parameters")
    leaves = jax.tree.leaves(p0)
    if not (jax.tree.structure(p0) == jax.tree.structure(0) and jnp.ndim(leaves[0]) == 1):
        return False
    try:
        places = inspect.signature(model).parameters.values()
    except (TypeError, ValueError):
        return True
    if any(place.kind is place.VAR_POSITIONAL for place in places):
        return True
    required = [place for place in places if place.kind in (place.POSITIONAL_ONLY, place.POSITIONAL_OR_KEYWORD)]
    return len(required) != 2 or leaves[0].shape[0] == 1


def _problem(given: Given, derivatives: Any, has_aux: bool, loss: str, f_scale: Any) -> LeastSquares:
    check_choice(loss, "loss", LOSSES)
    check_positive(f_scale, "f_scale")
    return given.problem(LeastSquares, derivatives, has_aux, loss=loss, loss_scale=_number(f_scale, given.packing.dtype))


def _number(value: Any, dtype: Any) -> Any:
    return jnp.asarray(value, dtype) if is_traced(value) else np.asarray(value, dtype)


def _solve_fit(
    problem: LeastSquares,
    given: Given,
    solver: Any,
    max_steps: Any,
    options: BatchOptions,
    history: bool | int,
    wanted: Wanted,
    max_evals: Any = None,
    report: Report | None = None,
) -> FitResult:
    """Check what is common to one and many, and run; of many every field of the result has a leading axis of problems."""
    # One problem is never rescued: its solver was named.
    wants_rescue = options is not ALONE and (solver is None if options.rescue is None else options.rescue)
    wants_escape = max_evals is None and (wants_rescue or (options is ALONE and solver is None))
    if solver is None:
        is_small = options is not ALONE and problem.packing.size <= PANEL_LIMIT
        solver = LevenbergMarquardtCholesky() if is_small else LevenbergMarquardt()
    solver = settled(solver, problem, given.has_limits, "LevenbergMarquardt(...)")
    solver = resolve_tolerances(solver, problem.packing, problem.derivatives.is_exact)
    max_steps = check_count(max_steps, "max_steps")
    starts, length = given.starts, history_length(history, max_steps)
    plan = plan_of(options, problem, starts.shape[0], length > 0)
    with explain_tracing_errors():
        running = wrapped(solver, problem, max_evals, report)
        result = execute(_run_fit, problem, running, starts, max_steps, plan, trace_length=length, wanted=wanted)
    if is_traced((result.status, problem)):
        return result

    def again(problem: LeastSquares, starts: Starts, solver: Any = LevenbergMarquardt()) -> FitResult:  # noqa: B008 (frozen)
        return _solve_fit(problem, dataclasses.replace(given, starts=starts), solver, max_steps, alone(options), history, wanted, max_evals)

    if wants_rescue:
        stages = [Stage(1, again)]
        if options.rescue:
            # Asked for by name: whatever may help.
            stages += [Stage(2, lambda problem, starts: again(problem, starts, Dogleg())), Stage(3, again)]
        result = rescue(result, problem, starts, stages)

    def settle(result: FitResult) -> FitResult:
        # A solver with a tolerance for each problem has none by which a point could be judged afterwards.
        if (options is ALONE or wants_rescue) and not problem.tolerances:
            result = looked_at_again(result, problem, starts, solver, wanted.is_curve)
        if options is ALONE or options.rescue:
            # In a batch on request only: gradients with a zero in them are many there, and a program more is compiled for them.
            result = without_lost(result, problem, starts, solver)
        return escaped(result, problem, starts, again) if wants_escape else result

    if options is not ALONE:
        return settle(result)
    may_change = is_doubtful(result).any() or may_be_lost(result).any()
    if not may_change and not (wants_escape and left_open(result, problem).size):
        return result
    return jax.tree.map(lambda leaf: leaf[0], settle(jax.tree.map(lambda leaf: leaf[None], result)))


def _run_fit(
    problem: LeastSquares,
    solver: Solver,
    starts: Starts,
    max_steps: Any,
    first: Any,
    *,
    count: int,
    plan: Plan,
    trace_length: int,
    wanted: Wanted,
) -> FitResult:
    outcome, trace = solve_part(problem, solver, starts, max_steps, first, count, plan, trace_length)
    problem = lanes_last(problem, first, count)
    packing = problem.packing
    problems_first = lambda tree: jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), tree)  # noqa: E731
    free = problem.free(outcome.x, outcome.gradient)
    extra: dict[str, Any] = {}
    if wanted.covariance:
        extra = _covariance(problem, outcome, wanted.is_absolute)
    if wanted.is_curve:
        status = _data_status(jax.lax.stop_gradient(problem), outcome, extra["is_full_rank"])
        outcome = dataclasses.replace(outcome, status=status)
    solution, value = attach_derivative(problem, outcome.x, outcome.value, outcome.status)
    residuals = problem.residuals(solution)
    n = packing.size
    num_free = jnp.full(count, n, jnp.int32) if free is None else jnp.sum(free, axis=0, dtype=jnp.int32)
    flags = at_bound(problem, outcome.x)
    if wanted.covariance:
        errors = jnp.where(flags == 2, 0, extra.pop("standard_errors"))
        extra = problems_first(extra) | {"standard_errors": unravel_plain(packing, errors.T)}
    return FitResult(
        x=packing.unravel(problem.unscaled(solution).T),
        fun=value,
        jac=packing.unravel(problem.per_unit(outcome.gradient).T),
        nit=outcome.num_steps,
        nfev=outcome.num_evaluations,
        steps_paid=outcome.steps_paid,
        status=outcome.status,
        success=is_success(outcome.status),
        optimality=max_norm(problem.per_unit(problem.projected(outcome.x, outcome.gradient))),
        history=history_of(problem, trace),
        aux=problems_first(problem.aux(solution)),
        residuals=residuals.T,
        at_bound=unravel_plain(packing, flags.T),
        dof=residuals.shape[0] - num_free,
        **extra,
    )


def _covariance(problem: LeastSquares, outcome: Outcome, is_absolute: bool) -> dict[str, jax.Array]:
    """Covariance, standard errors, correlation and rank at the solutions, lanes last.

    From the orthogonal factor of J with columns of length one: the inverse of J'J itself would have half the digits.
    """
    model, value, _ = LinearModel.about(problem, outcome.x)
    n, lanes = outcome.x.shape
    m = model.at.residuals.shape[0]
    has_column = model.column_norms > 0
    lane_first = jnp.moveaxis(model.factor, -1, 0)
    singular = jnp.linalg.svd(jnp.where(jnp.isfinite(lane_first), lane_first, 0), compute_uv=False)
    threshold = max(n, m) * machine_epsilon(outcome.x.dtype) * singular[:, :1]
    is_free = jnp.ones(outcome.x.shape, bool) if model.free is None else model.free
    num_free = jnp.sum(is_free, axis=0)
    # Rows of the identity stand for columns that are missing: they count in neither.
    rank = jnp.minimum(jnp.sum(singular > threshold, axis=1), m + n - jnp.sum(has_column, axis=0)) - (n - jnp.sum(has_column, axis=0))
    is_full_rank = (rank == num_free) & (num_free <= m) & jnp.isfinite(value)
    inverse = invert_upper(model.factor)
    inverse = inverse / jnp.where(has_column, model.column_norms, 1)[:, None]
    inverse = jnp.where(has_column[:, None] & has_column[None], inverse, 0)
    if problem.units is not None:
        inverse = inverse * problem.units[:, None]
    dof = m - num_free
    variance = jnp.ones(lanes, outcome.x.dtype) if is_absolute else 2 * value / jnp.where(dof > 0, dof, 1)
    variance = variance if is_absolute else jnp.where(dof > 0, variance, jnp.inf)
    spread = jnp.sqrt(jnp.sum(inverse * inverse, axis=1))
    outer = jnp.sum(inverse[:, None] * inverse[None], axis=2)
    is_sure = is_full_rank & jnp.isfinite(variance)
    covariance = jnp.where(is_sure, jnp.where(is_sure, variance, 0) * outer, jnp.inf)
    errors = jnp.where(is_sure, jnp.sqrt(jnp.where(is_sure, variance, 0)) * spread, jnp.inf)
    held = ~is_free
    errors = jnp.where(held, jnp.nan, errors)
    scale = jnp.where(spread > 0, spread, 1)
    correlation = jnp.where(is_full_rank & ~(held[:, None] | held[None]), outer / scale[:, None] / scale[None], jnp.nan)
    covariance = jnp.where(held[:, None] | held[None], 0, covariance)
    return {
        "covariance": covariance,
        "standard_errors": errors,
        "correlation": correlation,
        "rank": rank.astype(jnp.int32),
        "is_full_rank": is_full_rank,
    }


def _data_status(problem: LeastSquares, outcome: Outcome, is_full_rank: jax.Array) -> jax.Array:
    """INVALID_DATA where the data are not finite, SINGULAR where they do not determine the parameters of a fit that converged."""
    own = problem.num_own
    leaves = jax.tree.leaves(problem.args)
    is_valid = jnp.ones(outcome.status.shape, bool)
    for leaf, batched in list(zip(leaves, problem.is_batched, strict=True))[: len(leaves) - own]:
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            axes = tuple(range(jnp.ndim(leaf) - 1)) if batched else None
            is_valid &= jnp.all(jnp.isfinite(leaf), axis=axes)
    status = jnp.where(is_success(outcome.status) & ~is_full_rank, Status.SINGULAR, outcome.status)
    return jnp.where(is_valid, status, Status.INVALID_DATA).astype(jnp.int32)
