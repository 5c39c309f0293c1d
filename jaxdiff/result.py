"""What comes out of a solver: a status in words, and one result type for every solver, one problem or many."""

import dataclasses
import enum
import html
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np
from jax.core import Tracer

from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import PyTree

if TYPE_CHECKING:
    from jaxdiff.batch_report import BatchReport


R = TypeVar("R", bound="OptimizeResult")


class Status(enum.IntEnum):
    """Why a solver stopped; one vocabulary for every solver. Positive codes up to ``CONVERGED_STEP`` are successes.

    Example:
        >>> Status(1)
        <Status.CONVERGED_GRADIENT: 1>
        >>> Status.MAX_STEPS.is_success
        False
    """

    RUNNING = 0
    CONVERGED_GRADIENT = 1
    CONVERGED_VALUE = 2
    CONVERGED_STEP = 3
    MAX_STEPS = 4
    MAX_EVALS = 5
    STALLED = 6
    LINE_SEARCH_FAILED = 7
    SADDLE_POINT = 8
    SINGULAR = 9
    UNBOUNDED = 10
    NON_FINITE = 11
    NON_FINITE_START = 12
    INVALID_DATA = 13
    NOT_RUN = 14
    PLATEAU = 15
    NO_SIGN_CHANGE = 16
    DISCONTINUITY = 17

    @property
    def is_success(self) -> bool:
        """Whether this status claims a solution."""
        return Status.CONVERGED_GRADIENT <= self <= Status.CONVERGED_STEP

    @property
    def message(self) -> str:
        """The status in a sentence."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.RUNNING: "Still running.",
    Status.CONVERGED_GRADIENT: "Converged: the gradient is as small as gtol asks.",
    Status.CONVERGED_VALUE: "Converged: the decrease of f that is still promised is as small as ftol asks.",
    Status.CONVERGED_STEP: "Converged: the step that would come next is as small as xtol asks.",
    Status.MAX_STEPS: "Not converged: max_steps were taken.",
    Status.MAX_EVALS: "Not converged: max_evals evaluations were made.",
    Status.STALLED: "Not converged: f no longer falls at this precision, though the gradient is not small enough.",
    Status.LINE_SEARCH_FAILED: "Not converged: no step along the search direction lowers f enough.",
    Status.SADDLE_POINT: "Not a minimum: the gradient is small, but the Hessian has a direction of negative curvature.",
    Status.SINGULAR: "Not converged: the linear system of the step is singular.",
    Status.UNBOUNDED: "Not a minimum: f falls to minus infinity, or falls on and on as x runs away.",
    Status.NON_FINITE: "Not converged: f or its derivative is not finite around the last point; x is the last finite one.",
    Status.NON_FINITE_START: "Not started: f or its derivative is not finite at the start.",
    Status.INVALID_DATA: "Not started: the data hold values that are not finite.",
    Status.NOT_RUN: "Not run.",
    Status.PLATEAU: "Not converged: the solver came to where f is constant to the last bit; nothing there tells whether it is a minimum.",
    Status.NO_SIGN_CHANGE: "Not started: the function has the same sign at both ends of the bracket.",
    Status.DISCONTINUITY: "Not a root: the function changes its sign by a jump or through a pole.",
}


RESCUES = ("not rescued", "more precision", "another solver", "another start")
"""What the codes of ``rescued_by`` stand for: the stages of the cascade, in their order."""


def is_success(status: jax.Array) -> jax.Array:
    """Whether each status code claims a solution."""
    return (status >= Status.CONVERGED_GRADIENT) & (status <= Status.CONVERGED_STEP)


@pytree_dataclass
class History:
    """The last recorded points of a run, oldest first, padded with NaN behind the end.

    Attributes:
        value: f, shape ``[T]``; a batch has ``[lanes, T]``.
        optimality: largest absolute entry of the gradient, shape like ``value``.
        step_size: factor or learning rate of the step that comes next, NaN where a solver has none.
        damping: the damping of Levenberg and Marquardt or the radius of a trust region for the next step, NaN where a solver has none.
        step_length: how far the point lies from the one before, the Euclidean length; 0 behind a trial that was rejected.
        x: the points, like x with a leading axis ``T`` on each leaf.
    """

    value: Any
    optimality: Any
    step_size: Any
    damping: Any
    step_length: Any
    x: PyTree


@pytree_dataclass
class OptimizeResult:
    """What a solver found; a registered pytree. For a batch every field has a leading lane axis.

    Attributes:
        x: the solution, like ``x0``.
        fun: f(x).
        jac: the gradient at x, like ``x0``.
        nit: steps taken; a rejected trial is a step of its own.
        nfev: evaluations of f, those spent on finite differences included; a gradient by autodiff comes with its value and counts once.
        status: why the solver stopped, a code of `Status`.
        success: whether the status claims a solution.
        optimality: largest absolute entry of ``jac``, parameters that a bound holds left out.
        covariance: covariance of the parameters, where asked for.
        at_bound: -1 where a parameter lies on its lower bound, 1 on its upper one, 2 where it is fixed, else 0; like x;
            None without bounds.
        history: a `History`, where asked for.
        aux: what f returns beside its value at x, where ``has_aux``.
        steps_paid: steps that the batch ran for each problem, the evaluation of its start, waiting for slower neighbours and idle lanes
            included; `report` makes the straggler efficiency of it.
        rescued: where another attempt found a solution that the first one had not; None where none was made.
        rescued_by: which attempt that was: 0 none, 1 more precision, 2 another solver, 3 another start.

    Example:
        >>> import jaxdiff as jd
        >>> result = jd.minimize(lambda x: (x - 1) ** 2, 3.0, solver=jd.Newton())
        >>> float(result.x), bool(result.success), result.status_name
        (1.0, True, 'CONVERGED_GRADIENT')
    """

    x: PyTree
    fun: Any
    jac: PyTree
    nit: Any
    nfev: Any
    status: Any
    success: Any
    optimality: Any
    covariance: Any = None
    at_bound: PyTree = None
    history: History | None = None
    aux: PyTree = None
    steps_paid: Any = None
    rescued: Any = None
    rescued_by: Any = None

    @property
    def status_name(self) -> str:
        """The status by name; for a batch the names with their counts, most frequent first. Host only."""
        codes = np.atleast_1d(np.asarray(self.status))
        if np.ndim(self.status) == 0:
            return Status(int(codes[0])).name
        names, counts = np.unique(codes, return_counts=True)
        return ", ".join(f"{Status(int(names[i])).name}: {counts[i]:,}" for i in np.argsort(-counts, kind="stable"))

    @property
    def message(self) -> str:
        """The status in a sentence; for a batch how many problems were solved, and why the others were not. Host only."""
        if np.ndim(self.status) == 0:
            return Status(int(np.asarray(self.status))).message
        solved = int(np.sum(np.asarray(self.success)))
        return f"{solved:,} of {np.size(self.status):,} problems converged ({self.status_name})."

    def raise_if_failed(self: R) -> R:
        """The result itself where every problem converged.

        Raises:
            OptimizationError: a problem did not converge; the message says how many and why.
        """
        if isinstance(self.status, Tracer):
            raise TypeError("raise_if_failed() needs values; under jit, vmap or grad look at result.status instead")
        if not np.all(np.asarray(self.success)):
            raise OptimizationError(self.message)
        return self

    def report(self, seconds: float | None = None, num_worst: int = 5) -> "BatchReport":
        """How a batch went, to read, print or save; see `BatchReport`. Host only.

        Args:
            seconds: what the run took, by a clock of yours; the report then has the problems per second.
            num_worst: how many of the worst problems to list.

        Raises:
            TypeError: under ``jit``, ``vmap`` or ``grad``.
            ValueError: the result is of one problem; seconds is not positive; num_worst is negative.
        """
        from jaxdiff.batch_report import batch_report

        return batch_report(self, seconds, num_worst)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python and NumPy values under the names of the fields, with ``status`` as its name and ``message`` beside it."""
        values = {f.name: jax.tree.map(np.asarray, getattr(self, f.name)) for f in dataclasses.fields(self) if f.name != "history"}
        values["status"] = self.status_name
        values["message"] = self.message
        if self.history is not None:
            values["history"] = {f.name: jax.tree.map(np.asarray, getattr(self.history, f.name)) for f in dataclasses.fields(self.history)}
        return values

    def __str__(self) -> str:
        if isinstance(self.status, Tracer):
            return object.__repr__(self)
        rows = _rows(self)
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:>{width}}: {value}" for name, value in rows)

    __repr__ = __str__

    def __rich__(self) -> Any:
        from rich.table import Table

        table = Table(title=self.message, title_justify="left", show_header=False)
        for name, value in _rows(self)[1:]:
            table.add_row(name, value)
        return table

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th style='text-align:left'>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in _rows(self))
        return f"<table>{rows}</table>"


class OptimizationError(RuntimeError):
    """A solver was asked to raise where it does not converge, and did not converge."""


def _rows(result: OptimizeResult) -> list[tuple[str, str]]:
    """Names and short texts of what a reader wants first."""
    rows = [("message", result.message), ("status", result.status_name)]
    values = jax.tree_util.tree_leaves_with_path(result.fun)
    if np.ndim(result.status) == 0:
        shown = lambda leaf: f"{float(leaf):.10g}" if np.ndim(leaf) == 0 else _short(leaf)  # noqa: E731
        rows += [(f"fun{jax.tree_util.keystr(path)}", shown(leaf)) for path, leaf in values]
        rows += [("optimality", f"{float(result.optimality):.3g}"), ("nit", str(int(result.nit))), ("nfev", str(int(result.nfev)))]
    else:
        rows += [(f"fun{jax.tree_util.keystr(path)}", _quantiles(leaf)) for path, leaf in values]
        rows += [(name, _quantiles(getattr(result, name))) for name in ("optimality", "nit", "nfev")]
    rows += [(f"x{jax.tree_util.keystr(path)}", _short(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(result.x)]
    return rows + _at_bound_rows(result)


def _at_bound_rows(result: OptimizeResult) -> list[tuple[str, str]]:
    """Which parameters lie on a bound; of a batch, or where there are many, how many."""
    leaves = jax.tree_util.tree_leaves_with_path(result.at_bound)
    count = sum(int(np.count_nonzero(np.asarray(leaf))) for _, leaf in leaves)
    if count == 0:
        return []
    if np.ndim(result.status) != 0 or count > 8:
        return [("at bound", f"{count:,} of {sum(np.size(leaf) for _, leaf in leaves):,} parameters")]
    places = {-1: "lower", 1: "upper", 2: "fixed"}
    named = [
        f"x{jax.tree_util.keystr(path)}{list(map(int, index)) if index.size else ''} {places[int(np.asarray(leaf)[tuple(index)])]}"
        for path, leaf in leaves
        for index in np.argwhere(np.asarray(leaf))
    ]
    return [("at bound", ", ".join(named))]


def _quantiles(values: Any) -> str:
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        return "(empty)"
    if not np.any(np.isfinite(values)):
        return "no finite value"
    low, middle, high = np.quantile(values[np.isfinite(values)], [0.0, 0.5, 1.0])
    return f"min {low:.4g}, median {middle:.4g}, max {high:.4g}"


def _short(leaf: Any) -> str:
    return np.array2string(np.asarray(leaf), precision=8, threshold=12, edgeitems=3, separator=", ")
