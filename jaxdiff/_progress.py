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
from jaxdiff._types import DType, LaneVector, PyTree
from jaxdiff.linalg import max_norm
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
        x: the point, like ``x0``.
        status: why the solver stopped here; RUNNING where it goes on.
    """

    num_steps: int
    num_evaluations: int
    value: float
    optimality: float
    step_size: float
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

    def __call__(self, num_steps: Any, num_evaluations: Any, value: Any, optimality: Any, step_size: Any, status: Any, x: PyTree) -> None:
        """Take one step's numbers from the device."""
        whole = lambda a: int(np.asarray(a))  # noqa: E731
        real = lambda a: float(np.asarray(a))  # noqa: E731
        progress = Progress(
            num_steps=whole(num_steps),
            num_evaluations=whole(num_evaluations),
            value=real(value),
            optimality=real(optimality),
            step_size=real(step_size),
            x=jax.tree.map(np.asarray, x),
            status=Status(whole(status)),
        )
        if self.is_printed:
            if progress.num_steps == 0:
                print(f"{'step':>8}{'evaluations':>13}{'f':>18}{'optimality':>14}{'step size':>13}")
            print(
                f"{progress.num_steps:>8}{progress.num_evaluations:>13}{progress.value:>18.8e}{progress.optimality:>14.2e}"
                f"{progress.step_size:>13.2e}",
                flush=True,
            )
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
        step_size = getattr(new, "step_size", jnp.full_like(new.value, jnp.nan))
        optimality = max_norm(problem.projected(new.x, new.gradient))
        numbers = (new.num_steps, new.num_evaluations, new.value, optimality, step_size, new.status)
        jax.debug.callback(self.report, *(number[0] for number in numbers), problem.packing.unravel(new.x[:, 0]))
        return new
