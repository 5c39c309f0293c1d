"""What wraps a solver on request: a budget of evaluations, and reports of every step. Without a request nothing is wrapped.

A wrapper is itself a solver to the loop and to the batch engine, so that neither knows of it, and a run without one compiles to what it
always was.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import DType, LaneBool, LaneVector, PyTree
from jaxdiff.loop import report_of, restart_where
from jaxdiff.problem import Minimize
from jaxdiff.result import Status


@dataclasses.dataclass(frozen=True)
class Progress:
    """One step of a run, as a callback sees it: NumPy values.

    Attributes:
        num_steps: steps taken so far; 0 is the start.
        num_evaluations: evaluations of f so far.
        value: f at x.
        optimality: largest absolute entry of the gradient, parameters that a bound holds left out.
        step_size: multiple of the solver's step that comes next, NaN where a solver has none.
        damping: the damping of Levenberg and Marquardt or the radius of a trust region that comes next, NaN where a solver has none.
        step_length: how far x lies from the last point; 0 behind a trial that was rejected.
        reduction: by how much f has fallen; NaN at the start.
        x: the point, like ``x0``.
        status: why the solver stopped here; RUNNING where it goes on.
    """

    num_steps: int
    num_evaluations: int
    value: float
    optimality: float
    step_size: float
    damping: float
    step_length: float
    reduction: float
    x: PyTree
    status: Status


@pytree_dataclass
class Wrapper:
    """What every wrapper hands on to its solver.

    Attributes:
        solver: the solver, its tolerances resolved.
    """

    solver: Any

    name: ClassVar[str] = "wrapped"
    tolerance_names: ClassVar[tuple[str, ...]] = ()

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `solvers.base.Solver`."""
        return self.solver.default_tolerance(name, dtype, is_exact)

    def init(self, problem: Minimize, x: LaneVector) -> Any:
        """See `solvers.base.Solver`."""
        return self.solver.init(problem, x)

    def restart_where(self, problem: Minimize, state: Any, is_fresh: LaneBool, x: LaneVector) -> Any:
        """See `loop.restart_where`."""
        return restart_where(problem, self.solver, state, is_fresh, x)


@pytree_dataclass
class WithinBudget(Wrapper):
    """A solver that stops as MAX_EVALS once it has made so many evaluations.

    Attributes:
        max_evals: evaluations of f after which no further step begins.
    """

    max_evals: Any

    def step(self, problem: Minimize, state: Any) -> Any:
        """See `solvers.base.Solver`."""
        new = self.solver.step(problem, state)
        is_spent = (new.status == Status.RUNNING) & (new.num_evaluations >= self.max_evals)
        return dataclasses.replace(new, status=jnp.where(is_spent, Status.MAX_EVALS, new.status).astype(new.status.dtype))


@dataclasses.dataclass(frozen=True)
class Report:
    """Calls the user's function, or prints a row of a table; compares by what it holds, so that the same callback compiles once.

    Attributes:
        callback: called with a `Progress`; None calls nothing.
        is_printed: whether to print a row for every step.
    """

    callback: Callable[[Progress], Any] | None
    is_printed: bool

    def __call__(self, num_steps: Any, num_evaluations: Any, status: Any, numbers: dict[str, Any], x: PyTree) -> None:
        """Take one step's numbers from the device."""
        whole = lambda a: int(np.asarray(a))  # noqa: E731
        progress = Progress(
            num_steps=whole(num_steps),
            num_evaluations=whole(num_evaluations),
            status=Status(whole(status)),
            x=jax.tree.map(np.asarray, x),
            **{name: float(np.asarray(number)) for name, number in numbers.items()},
        )
        if self.is_printed:
            if progress.num_steps == 0:
                print(f"{'step':>8}{'evaluations':>13}{'f':>18}{'reduction':>13}{'step length':>13}{'optimality':>13}")
            # At the start there is neither a step nor a reduction, as in SciPy's table.
            is_start = np.isnan(progress.reduction)
            moved = f"{'':>26}" if is_start else f"{progress.reduction:>13.2e}{progress.step_length:>13.2e}"
            row = f"{progress.num_steps:>8}{progress.num_evaluations:>13}{progress.value:>18.8e}"
            print(f"{row}{moved}{progress.optimality:>13.2e}", flush=True)
        if self.callback is not None:
            self.callback(progress)


@pytree_dataclass
class Reporting(Wrapper):
    """A solver of one problem that reports every step to the host.

    Attributes:
        report: where to.
    """

    report: Report = static()

    def step(self, problem: Minimize, state: Any) -> Any:
        """See `solvers.base.Solver`."""
        new = self.solver.step(problem, state)
        reduction = jnp.where(state.num_steps < 0, jnp.nan, state.value - new.value)
        numbers = {"value": new.value, "reduction": reduction, **report_of(problem, state, new)}
        numbers = {name: number[0] for name, number in numbers.items()}
        counts = (new.num_steps[0], new.num_evaluations[0], new.status[0])
        jax.debug.callback(self.report, *counts, numbers, problem.unravel(problem.unscaled(new.x)[:, 0]))
        return new
