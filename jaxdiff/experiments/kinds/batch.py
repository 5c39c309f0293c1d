"""Many small problems at once, against solving them one after the other."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from jaxdiff.experiments import figures
from jaxdiff.experiments.base import Column, Context, Experiment, Outcome, Picture, Table, Verdict
from jaxdiff.experiments.registry import AnySolver, NewtonTable

# Final costs count as the same within this fraction of the cost, or this much where the cost is near zero.
_COST_TOLERANCE = {"float32": 1e-4, "float64": 1e-6}
_MATCHED = 0.9999


class Batch(Experiment):
    """How much faster is a batch of small problems than a loop over them?

    Every problem has its own data and its own start, drawn by the seed. The batch is one call of `minimize_batch`. The loop calls a
    compiled `minimize` once per problem, which is what one would write without a batch. SciPy, where installed, runs BFGS with a gradient
    written by hand in NumPy, on the first problems only; its rate is for those.

    Times are medians with results waited for: of repeated calls for the batch, of ten blocks of problems for the loops. Compiling is the
    first call less that median. A comparison counts only where the final costs are the same.
    """

    kind: Literal["batch"] = "batch"
    family: Literal["rosenbrock", "logistic"] = Field(default="rosenbrock", description="a valley of 2 variables; logistic regression of 4")
    num_problems: int = Field(default=10_000, ge=1, le=10_000_000)
    solver: AnySolver = Field(default=NewtonTable(), description="a table with a name and options")
    max_steps: int = Field(default=200, ge=1, le=1_000_000, description="unless the solver gives its own")
    repeats: int = Field(default=5, ge=1, le=1000, description="timed runs of the batch")
    num_loop: int = Field(default=10_000, ge=1, description="problems in the loop; the first ones")
    num_scipy: int = Field(default=300, ge=0, description="problems given to SciPy; the first ones")

    def run(self, context: Context) -> Outcome:
        """Solve the same problems three ways."""
        import jax

        family = _FAMILIES[self.family]
        starts, data = family.draw(context.rng(self.family), self.num_problems)
        starts, data = starts.astype(context.precision), tuple(item.astype(context.precision) for item in data)
        with context.timed("batch"):
            batch, first, times = self._batch(family, starts, data)
        costs = np.asarray(batch.fun, dtype=np.float64)
        median = float(np.median(times))
        rows = [self._row("batch", self.num_problems, median, first - median, np.asarray(batch.success), costs, costs, context.precision)]
        num_loop = min(self.num_loop, self.num_problems)
        with context.timed("loop"):
            loop_costs, success, first, seconds = self._loop(family, starts[:num_loop], tuple(item[:num_loop] for item in data))
        rows.append(
            self._row("loop over jit", num_loop, seconds, first - seconds / num_loop, success, loop_costs, costs, context.precision)
        )
        num_scipy = min(self.num_scipy, self.num_problems)
        if num_scipy and _has_scipy():
            with context.timed("scipy"):
                scipy_costs, success, seconds = _scipy_loop(family, starts[:num_scipy], tuple(item[:num_scipy] for item in data))
            rows.append(self._row("loop over scipy BFGS", num_scipy, seconds, None, success, scipy_costs, costs, context.precision))
        fastest = rows[0]["rate"]
        rows = [row | {"ratio": fastest / row["rate"]} for row in rows]
        columns = [
            Column("method", "how"),
            Column("count", "problems", ",d"),
            Column("seconds", "seconds", ".3f", is_timing=True),
            Column("rate", "per second", ",.0f", is_timing=True),
            Column("ratio", "batch faster by", ".1f", is_timing=True),
            Column("compile", "compiling (s)", ".2f", is_timing=True),
            Column("solved", "converged", ".2%"),
            Column("matched", "same final cost", ".2%"),
        ]
        device = jax.devices()[0]
        where = f"{context.precision}, on {device.platform} ({device.device_kind}), jax {jax.__version__}"
        caption = f"{family.about} {self.solver.heading}, {where}."
        arrays = {"nit": np.asarray(batch.nit), "cost": costs}
        status = Table(
            "How the batch ended", [Column("status", "status"), Column("count", "problems", ",d")], _status_rows(batch), is_main=False
        )
        return Outcome({"speed": Table("Time", columns, rows, caption), "status": status}, arrays)

    @property
    def _max_steps(self) -> int:
        return self.solver.max_steps if self.solver.max_steps is not None else self.max_steps

    def _batch(self, family: "_Family", starts: np.ndarray, data: tuple[np.ndarray, ...]) -> tuple[Any, float, list[float]]:
        """The result, seconds of the first call, seconds of each further one."""
        import jax

        import jaxdiff as jd

        starts, data = jax.block_until_ready(jax.device_put((starts, data)))
        solver = self.solver.build()

        def solve() -> tuple[Any, float]:
            begin = time.perf_counter()
            found = jax.block_until_ready(jd.minimize_batch(family.objective, starts, data, solver=solver, max_steps=self._max_steps))
            return found, time.perf_counter() - begin

        result, first = solve()
        return result, first, [solve()[1] for _ in range(self.repeats)]

    def _loop(self, family: "_Family", starts: np.ndarray, data: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Costs, successes, seconds of the first call, and of the whole loop."""
        import jax

        import jaxdiff as jd

        solver = self.solver.build()
        solve = jax.jit(lambda x0, *args: jd.minimize(family.objective, x0, args, solver=solver, max_steps=self._max_steps))
        # On the device beforehand, in one call: the loop is not charged for copying.
        problems = jax.device_put([(start, *items) for start, *items in zip(starts, *data, strict=True)])
        begin = time.perf_counter()
        jax.block_until_ready(solve(*problems[0]))
        first = time.perf_counter() - begin
        results, seconds = _timed_in_blocks(lambda problem: jax.block_until_ready(solve(*problem)), problems)
        found = jax.device_get([(result.fun, result.success) for result in results])
        costs, success = (np.array(column) for column in zip(*found, strict=True))
        return costs.astype(np.float64), success, first, seconds

    def _row(
        self, method: str, count: int, seconds: float, compiling: float | None, success: np.ndarray, costs: np.ndarray, batch: np.ndarray,
        precision: str,
    ) -> dict[str, Any]:  # fmt: skip
        tolerance = _COST_TOLERANCE[precision]
        difference = np.abs(costs - batch[: len(costs)])
        matched = float(np.mean(difference <= tolerance * np.maximum(np.abs(batch[: len(costs)]), 1)))
        row = {
            "method": method,
            "count": count,
            "seconds": seconds,
            "rate": count / seconds,
            "compile": None if compiling is None else max(compiling, 0.0),
        }
        return row | {"solved": float(np.mean(success)), "matched": matched}

    def verdicts(self, outcome: Outcome) -> list[Verdict]:
        """Same cost first, then speed."""
        batch, *others = outcome.tables["speed"].rows
        verdicts = [
            Verdict(
                f"{batch['solved']:.2%} of {batch['count']:,} problems converged in the batch, {batch['rate']:,.0f} per second.",
                is_good=batch["solved"] >= 0.99,
            )
        ]
        for row in others:
            is_same = row["matched"] >= _MATCHED
            verdicts.append(
                Verdict(
                    f"{row['method']}: {row['matched']:.2%} of {row['count']:,} problems end at the same cost as in the batch, which is "
                    f"{row['ratio']:,.1f} times faster.",
                    is_good=is_same if "scipy" not in row["method"] else None,
                )
            )
        return verdicts

    def figures(self, outcome: Outcome) -> Mapping[str, Picture]:
        """Problems per second, and how many steps the problems need."""
        rows = outcome.tables["speed"].rows[::-1]
        steps = outcome.arrays["nit"]

        def draw(figure: Any, theme: figures.Theme) -> None:
            left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
            rates = [row["rate"] for row in rows]
            colours = [theme.series[0] if row["method"] == "batch" else theme.series[6] for row in rows]
            left.barh(range(len(rows)), rates, color=colours, height=0.6)
            left.set_xscale("log")
            left.set_xlim(min(rates) / 3, max(rates) * 8)
            for position, rate in enumerate(rates):
                left.annotate(f" {rate:,.0f}", (rate, position), va="center", fontsize=9)
            left.set_yticks(range(len(rows)), [row["method"] for row in rows])
            left.grid(visible=False, axis="y")
            left.set_xlabel("problems per second (compiling apart)")
            bins = np.arange(0, int(steps.max()) + 2) if steps.max() <= 60 else 40
            right.hist(steps, bins=bins, color=theme.series[0])
            right.axvline(float(np.mean(steps)), color=theme.series[1], linestyle="--")
            right.annotate(f" mean {np.mean(steps):.1f}", (float(np.mean(steps)), 0.94), xycoords=("data", "axes fraction"), fontsize=8.5)
            right.set_xlabel("steps of a problem")
            right.set_ylabel("problems")

        caption = f"Left: speed. Right: steps that the {len(steps):,} problems of the batch took; the slowest took {int(steps.max())}."
        return {"speed": Picture(draw, caption, size=(9.0, 3.2))}


class _Family(NamedTuple):
    """A family of problems: the objective in JAX, the same with its gradient in NumPy for SciPy, and how instances are drawn."""

    about: str
    objective: Callable[..., Any]
    value_and_gradient: Callable[..., tuple[float, np.ndarray]]
    draw: Callable[[np.random.Generator, int], tuple[np.ndarray, tuple[np.ndarray, ...]]]


def _rosenbrock(x: Any, a: Any, b: Any) -> Any:
    return (a - x[0]) ** 2 + b * (x[1] - x[0] ** 2) ** 2


def _rosenbrock_numpy(x: np.ndarray, a: Any, b: Any) -> tuple[float, np.ndarray]:
    gap = x[1] - x[0] ** 2
    gradient = np.array([-2 * (a - x[0]) - 4 * b * x[0] * gap, 2 * b * gap])
    return float((a - x[0]) ** 2 + b * gap**2), gradient


def _draw_rosenbrock(rng: np.random.Generator, count: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    return rng.uniform(-2, 2, (count, 2)), (rng.uniform(0.5, 1.5, count), rng.uniform(10, 100, count))


def _logistic(w: Any, features: Any, labels: Any) -> Any:
    import jax.numpy as jnp

    margins = labels * (features @ w)
    return jnp.sum(jnp.logaddexp(0, -margins)) + jnp.sum(w**2) / 2


def _logistic_numpy(w: np.ndarray, features: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    margins = labels * (features @ w)
    share = np.exp(-np.logaddexp(0, margins))
    return float(np.sum(np.logaddexp(0, -margins)) + np.sum(w**2) / 2), w - features.T @ (labels * share)


def _draw_logistic(rng: np.random.Generator, count: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    features = rng.normal(size=(count, 24, 4))
    truth = rng.normal(size=(count, 4))
    noisy = np.einsum("prf,pf->pr", features, truth) + rng.logistic(size=(count, 24))
    return np.zeros((count, 4)), (features, np.where(noisy > 0, 1.0, -1.0))


_FAMILIES = {
    "rosenbrock": _Family(
        "(a - x)^2 + b (y - x^2)^2 with a in [0.5, 1.5], b in [10, 100], starts in [-2, 2]^2.",
        _rosenbrock,
        _rosenbrock_numpy,
        _draw_rosenbrock,
    ),
    "logistic": _Family("Ridge logistic regression, 24 rows and 4 columns per problem.", _logistic, _logistic_numpy, _draw_logistic),
}


def _timed_in_blocks(solve: Callable[[Any], Any], problems: list[Any]) -> tuple[list[Any], float]:
    """Every result, and the seconds that all problems take at the median rate of ten blocks of them."""
    results, rates = [], []
    for block in np.array_split(np.arange(len(problems)), min(10, len(problems))):
        begin = time.perf_counter()
        results += [solve(problems[position]) for position in block]
        rates.append((time.perf_counter() - begin) / len(block))
    return results, float(np.median(rates)) * len(problems)


def _has_scipy() -> bool:
    try:
        import scipy.optimize  # noqa: F401
    except ImportError:
        return False
    return True


def _scipy_loop(family: _Family, starts: np.ndarray, data: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray, float]:
    """Costs, successes and seconds. SciPy computes in float64 whatever it is given."""
    from scipy.optimize import minimize

    problems = [
        (start.astype(np.float64), *(np.asarray(item, dtype=np.float64) for item in items))
        for start, *items in zip(starts, *data, strict=True)
    ]
    solve = lambda problem: minimize(family.value_and_gradient, problem[0], args=problem[1:], jac=True, method="BFGS")  # noqa: E731
    results, seconds = _timed_in_blocks(solve, problems)
    return np.array([result.fun for result in results]), np.array([result.success for result in results]), seconds


def _status_rows(result: Any) -> list[dict[str, Any]]:
    import jaxdiff as jd

    codes, counts = np.unique(np.asarray(result.status), return_counts=True)
    rows = [{"status": jd.Status(int(code)).name, "count": int(number)} for code, number in zip(codes, counts, strict=True)]
    return sorted(rows, key=lambda row: -row["count"])
