"""Finite differences and autodiff against derivatives known to 50 digits."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from jaxdiff.experiments import figures
from jaxdiff.experiments.accuracy_benchmark import AccuracyRow, AccuracyTable, accuracy_benchmark
from jaxdiff.experiments.base import Column, Context, Experiment, FloatName, Outcome, Picture, Table, Verdict
from jaxdiff.experiments.registry import SCHEMES, FunctionName, SchemeName

# A default step counts as well chosen where its error is within this factor of the best step's.
STEP_FACTOR = 5.0
# The fitted powers of the step are right to this much.
SLOPE_TOLERANCE = 0.5
COSTS = {"cost": "evaluations", "time": "seconds"}


class Accuracy(Experiment):
    """How wrong are finite differences, and autodiff, against exact derivatives?

    Each scheme differentiates each function at random points with the step that jaxdiff chooses by itself. References come from mpmath,
    in 50 digits, at the very points that the dtype holds.

    The second part varies the step. Too long a step truncates the Taylor series, too short a one drowns in rounding: the error is a U. The
    default step, marked by a star, is predicted from the scheme and the dtype alone, without looking at the function.

    The third part, where it is asked for, sets error against cost: every scheme, autodiff, the complex step, the adaptive scheme and other
    packages, with the evaluations of f and the time that each takes per point, and how often its error bar holds.
    """

    kind: Literal["accuracy"] = "accuracy"
    functions: list[FunctionName] = Field(
        default=["sin", "exp", "log", "tanh"], min_length=1, description="elementary functions and activations"
    )
    schemes: list[SchemeName] = Field(
        default=["forward-1", "central-2", "central-4", "central-6"], min_length=1, description="see list stencils"
    )
    derivatives: list[Literal[1, 2, 3, 4]] = Field(default=[1, 2], min_length=1, description="orders of the derivative")
    dtypes: list[FloatName] = Field(default=["float32", "float64"], min_length=1)
    interval: list[float] = Field(default=[0.5, 2.0], min_length=2, max_length=2, description="points are drawn from it")
    num_points: int = Field(default=32, ge=1, le=10_000)
    sweep_function: FunctionName = Field(default="exp", description="function of the step-size picture")

    cost_functions: list[FunctionName] = Field(default=[], description="functions on which error is set against cost; none where empty")
    peers: list[Literal["numdifftools", "scipy.differentiate", "scipy.approx_derivative", "findiff"]] = Field(
        default=[], description="packages to set beside; what is not installed is left out"
    )

    @field_validator("interval")
    @classmethod
    def _is_ordered(cls, interval: list[float]) -> list[float]:
        if not (np.all(np.isfinite(interval)) and interval[0] < interval[1]):
            raise ValueError(f"expected two finite numbers, the smaller one first, got {interval}")
        return interval

    def run(self, context: Context) -> Outcome:
        """Differentiate everything, then sweep the step."""
        # Points that float32 holds exactly are the same points in every dtype.
        points = context.rng("points").uniform(self.interval[0], self.interval[1], self.num_points).astype(np.float32)
        rows = []
        with context.timed("references"):
            references = {(name, n): _references(name, points, n) for name in self.functions for n in self.derivatives}
        for dtype in self.dtypes:
            for n in self.derivatives:
                with context.timed(f"derivative {n} in {dtype}"):
                    rows += self._rows(n, dtype, points, references)
        with context.timed("vary the step"):
            arrays, sweep_rows = self._sweep(points)
        tables = {"by_scheme": self._summary(rows), "step": _sweep_table(self.sweep_function, sweep_rows), "all": _full_table(rows)}
        if self.cost_functions:
            with context.timed("set error against cost"):
                schemes = ["autodiff", "complex-step", "adaptive", *self.schemes]
                found = accuracy_benchmark(self.cost_functions, schemes, self.dtypes, points, self.peers)
            tables["cost"] = _cost_table(found, self.cost_functions, self.num_points)
            if found.skipped:
                rows = [{"scheme": name, "reason": reason} for name, reason in found.skipped.items()]
                tables["left_out"] = Table("Left out of it", [Column("scheme", "scheme"), Column("reason", "because")], rows)
        return Outcome(tables=tables, arrays=arrays)

    def _rows(self, n: int, dtype: str, points: np.ndarray, references: dict[tuple[str, int], list[Any]]) -> list[dict[str, Any]]:
        import jax

        import jaxdiff as jd
        from jaxdiff.experiments.references import error_in_ulp, relative_error

        x = np.asarray(points, dtype=dtype)
        functions = {name: _function(name) for name in self.functions}
        methods = {"autodiff": jd.Autodiff(), **{scheme: _method(scheme) for scheme in self.schemes}}

        def differentiate(x: Any) -> dict[str, dict[str, Any]]:
            return {label: {name: jd.derivative(f, n, method=m)(x) for name, f in functions.items()} for label, m in methods.items()}

        rows = []
        # Everything in one program: compiling dominates.
        for label, by_function in jax.jit(differentiate)(x).items():
            for name, values in by_function.items():
                errors = relative_error(values, references[name, n])
                row = {"function": name, "derivative": n, "dtype": dtype, "scheme": label}
                row |= {"median": float(np.median(errors)), "worst": float(np.max(errors))}
                row["worst_ulp"] = float(np.max(error_in_ulp(values, references[name, n], dtype)))
                rows.append(row)
        return rows

    def _summary(self, rows: list[dict[str, Any]]) -> Table:
        summary = []
        for n in self.derivatives:
            for dtype in self.dtypes:
                for scheme in ["autodiff", *self.schemes]:
                    group = [row for row in rows if (row["derivative"], row["dtype"], row["scheme"]) == (n, dtype, scheme)]
                    row = {"derivative": n, "dtype": dtype, "scheme": scheme}
                    row["median"] = float(np.median([item["median"] for item in group]))
                    row["worst"] = max(item["worst"] for item in group)
                    if scheme != "autodiff":
                        row["step"] = _default_step(scheme, n, dtype)
                    summary.append(row)
        columns = [
            Column("derivative", "order of derivative", "d"),
            Column("dtype", "dtype"),
            Column("scheme", "scheme"),
            Column("step", "default step (times max(|x|, 1))", ".2e"),
            Column("median", "median relative error", ".1e"),
            Column("worst", "worst relative error", ".1e"),
        ]
        names = ", ".join(self.functions)
        caption = f"Median over {names} of each function's median error over {self.num_points} points; worst over all of them."
        return Table("Errors at the default step", columns, summary, caption)

    def _sweep(self, points: np.ndarray) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
        """Median relative error over the points, for every power of two as the step."""
        import jax

        import jaxdiff as jd
        from jaxdiff.diagnostics.step_sweep import fitted_slopes
        from jaxdiff.experiments.references import relative_error

        function = _function(self.sweep_function)
        references = _references(self.sweep_function, points, 1)
        arrays, rows = {}, []
        for dtype in self.dtypes:
            exponents = np.arange(-44 if dtype == "float64" else -20, 0)
            steps = (2.0**exponents).astype(dtype)
            arrays[f"steps_{dtype}"] = steps
            x = np.asarray(points, dtype=dtype)

            def differentiate(relative_steps: Any, x: Any) -> dict[str, tuple[Any, Any]]:
                # One point at a time: the step is relative to each point's own length.
                def at(scheme: str, relative_step: Any, point: Any) -> Any:
                    return jd.derivative(function, method=_method(scheme, relative_step * _length(point)))(point)

                def over_steps(scheme: str) -> Any:
                    return jax.vmap(lambda h: jax.vmap(lambda point: at(scheme, h, point))(x))(relative_steps)

                return {scheme: (over_steps(scheme), jd.derivative(function, method=_method(scheme))(x)) for scheme in self.schemes}

            for scheme, (values, default) in jax.jit(differentiate)(steps, x).items():
                errors = np.array([np.median(relative_error(row, references)) for row in np.asarray(values)])
                arrays[f"error_{dtype}_{scheme}"] = errors
                step = _default_step(scheme, 1, dtype)
                at_default = float(np.median(relative_error(default, references)))
                best = int(np.argmin(errors))
                row = {"dtype": dtype, "scheme": scheme, "default_step": step, "default_error": at_default}
                order = SCHEMES[scheme].order
                slopes = zip(("rounding", "truncation"), fitted_slopes(steps.astype(np.float64), errors, 1 + order), strict=True)
                row |= {"order": order} | {name: slope for name, slope in slopes if slope == slope}
                row |= {
                    "best_step": float(steps[best]),
                    "best_error": float(errors[best]),
                    "ratio": at_default / max(float(errors[best]), 1e-300),
                }
                rows.append(row)
        return arrays, rows

    def verdicts(self, outcome: Outcome) -> list[Verdict]:
        """Is the default step near the best, and is autodiff accurate."""
        verdicts = []
        for dtype in self.dtypes:
            rows = [row for row in outcome.tables["step"].rows if row["dtype"] == dtype]
            worst = max(rows, key=lambda row: row["ratio"])
            verdicts.append(
                Verdict(
                    f"{dtype}: at its default step every scheme is within {worst['ratio']:.2g} times the error of the sweep's best step "
                    f"(the farthest is {worst['scheme']}: {worst['default_error']:.1e} against {worst['best_error']:.1e}).",
                    is_good=worst["ratio"] <= STEP_FACTOR,
                )
            )
        rows = outcome.tables["step"].rows
        gaps = [(abs(row["truncation"] - row["order"]), row) for row in rows if "truncation" in row]
        gaps += [(abs(row["rounding"] + 1), row) for row in rows if "rounding" in row]
        if gaps:
            gap, row = max(gaps, key=lambda pair: pair[0])
            text = f"Truncation grows with the power of the step that each scheme claims and rounding as 1/h, to {gap:.2f} in the exponent"
            verdicts.append(Verdict(f"{text} (the farthest is {row['scheme']} in {row['dtype']}).", is_good=gap <= SLOPE_TOLERANCE))
        summary = outcome.tables["by_scheme"].rows
        for dtype in self.dtypes:
            first = [row for row in summary if row["dtype"] == dtype and row["derivative"] == self.derivatives[0]]
            exact = next(row for row in first if row["scheme"] == "autodiff")
            best = min((row for row in first if row["scheme"] != "autodiff"), key=lambda row: row["median"])
            verdicts.append(
                Verdict(
                    f"{dtype}: autodiff's median error is {exact['median']:.1e}, that of the best scheme here ({best['scheme']}) "
                    f"{best['median']:.1e}."
                )
            )
        return verdicts

    def figures(self, outcome: Outcome) -> Mapping[str, Picture]:
        """The U of the error over the step."""

        def draw(figure: Any, theme: figures.Theme) -> None:
            axes = figure.subplots(1, len(self.dtypes), squeeze=False, sharey=False)[0]
            for axis, dtype in zip(axes, self.dtypes, strict=True):
                steps = outcome.arrays[f"steps_{dtype}"]
                for position, scheme in enumerate(self.schemes):
                    errors = outcome.arrays[f"error_{dtype}_{scheme}"]
                    style = {"color": theme.series[position % 7], "linestyle": figures.DASHES[position % 7]}
                    axis.loglog(steps, figures.log_floor(errors, float(np.finfo(dtype).eps) / 8), label=scheme, base=10, **style)
                    row = next(r for r in outcome.tables["step"].rows if (r["dtype"], r["scheme"]) == (dtype, scheme))
                    star = {"color": theme.series[position % 7], "markeredgecolor": theme.text, "markeredgewidth": 0.7, "zorder": 5}
                    axis.plot(row["default_step"], row["default_error"], "*", markersize=13, **star)
                axis.axhline(np.finfo(dtype).eps, color=theme.text, linewidth=0.8, linestyle=":")
                axis.annotate(f"eps of {dtype}", (steps[-1], np.finfo(dtype).eps), ha="right", va="bottom", fontsize=8)
                axis.set_title(dtype)
                axis.set_xlabel("step h, relative to max(|x|, 1)")
                axis.set_ylim(np.finfo(dtype).eps / 4, 3)
            axes[0].set_ylabel(f"median relative error of {self.sweep_function}'(x)")
            handles, labels = axes[0].get_legend_handles_labels()
            star = axes[0].plot([], [], "*", color="none", markeredgecolor=theme.text, markersize=11)[0]
            figure.legend([*handles, star], [*labels, "default step"], loc="outside lower center", ncols=len(labels) + 1)

        caption = (
            f"Error of the first derivative of {self.sweep_function} over the step, median of {self.num_points} points in "
            f"[{self.interval[0]:g}, {self.interval[1]:g}]. To the right truncation grows as a power of h, to the left rounding as 1/h."
        )
        pictures = {"step_size": Picture(draw, caption, size=(9.0, 4.3))}
        if "cost" in outcome.tables:
            pictures |= {name: self._cost_picture(outcome.tables["cost"], cost) for name, cost in COSTS.items()}
        return pictures

    def _cost_picture(self, table: Table, cost: str) -> Picture:
        found = AccuracyTable(tuple(_as_row(row) for row in table.rows), {})
        caption = (
            f"Error of the first derivative against cost over {', '.join(self.cost_functions)}. Dotted: what no other scheme beats in "
            "both, of those that take values of f and nothing else."
        )
        if cost == "evaluations":
            caption += " A derivative pass and an evaluation at complex numbers count as one."
        return Picture(lambda figure, theme: found.plot(figure, cost), caption, size=(9.0, 4.3))


def _references(name: str, points: np.ndarray, n: int) -> list[Any]:
    from jaxdiff.experiments.references import scalar_derivative

    return scalar_derivative(name, points.tolist(), n)


def _function(name: str) -> Callable[[Any], Any]:
    import jax.numpy as jnp

    from jaxdiff.experiments.references import ELEMENTARY
    from jaxdiff.experiments.registry import registry

    if name in ELEMENTARY:
        return getattr(jnp, ELEMENTARY[name].jax_name)
    return registry("activations")[name].value


def _method(scheme: str, step: Any = None) -> Any:
    import jaxdiff as jd

    return jd.FiniteDifference(kind=SCHEMES[scheme].kind, order=SCHEMES[scheme].order, step=step)


def _length(point: Any) -> Any:
    import jax.numpy as jnp

    return jnp.maximum(jnp.abs(point), jnp.ones_like(point))


def _default_step(scheme: str, n: int, dtype: str) -> float:
    from jaxdiff.derivatives.steps import default_step

    return default_step(SCHEMES[scheme].kind, n, SCHEMES[scheme].order, dtype)


def _sweep_table(name: str, rows: list[dict[str, Any]]) -> Table:
    columns = [
        Column("dtype", "dtype"),
        Column("scheme", "scheme"),
        Column("default_step", "default step", ".2e"),
        Column("default_error", "median error there", ".1e"),
        Column("best_step", "best step", ".2e"),
        Column("best_error", "median error there", ".1e"),
        Column("ratio", "default / best", ".2f"),
        Column("rounding", "slope to the left", "+.2f"),
        Column("truncation", "slope to the right", "+.2f"),
    ]
    return Table(
        f"The default step against the best one, first derivative of {name}", columns, rows, "Steps relative to max(|x|, 1).", is_main=False
    )


def _as_row(row: dict[str, Any]) -> AccuracyRow:
    """A row of the saved table; a scheme without error bars has no cells for them."""
    return AccuracyRow(**({"function": "all", "n": 1, "median_bar": np.nan, "coverage": np.nan} | row))


def _cost_table(found: AccuracyTable, functions: list[str], num_points: int) -> Table:
    columns = [
        Column("dtype", "dtype"),
        Column("scheme", "scheme"),
        Column("median_error", "median error", ".1e"),
        Column("worst_error", "worst", ".1e"),
        Column("median_bar", "bar", ".1e"),
        Column("coverage", "bar holds", ".1%"),
        Column("evaluations", "evaluations", ".1f"),
        Column("seconds", "time (s)", ".1e", is_timing=True),
    ]
    rows = []
    for row in found.by_scheme():
        cells = {column.key: getattr(row, column.key) for column in columns}
        rows.append({key: value for key, value in cells.items() if value == value})
    caption = f"First derivatives of {', '.join(functions)} at {num_points} points, in one call where a scheme allows that. "
    caption += "Errors and error bars are relative; evaluations of f and time are per point."
    return Table("Error against cost", columns, rows, caption)


def _full_table(rows: list[dict[str, Any]]) -> Table:
    columns = [
        Column("function", "function"),
        Column("derivative", "order of derivative", "d"),
        Column("dtype", "dtype"),
        Column("scheme", "scheme"),
        Column("median", "median relative error", ".1e"),
        Column("worst", "worst relative error", ".1e"),
        Column("worst_ulp", "worst error (ulp)", ".3g"),
    ]
    return Table("Every function", columns, rows, is_main=False)
