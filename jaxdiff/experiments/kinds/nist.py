"""Real data: the nonlinear regressions of NIST's Statistical Reference Datasets, against their certified parameters."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from jaxdiff.experiments import figures
from jaxdiff.experiments.base import Column, Context, Experiment, Outcome, Picture, Table, Verdict
from jaxdiff.experiments.registry import AnySolver, DatasetName, NewtonTable

# A run has found the certified solution where every parameter agrees to this many digits.
_DIGITS = {"float32": 2.0, "float64": 4.0}

# The residuals are taken to be at right angles to the model's derivatives below this cosine.
_COSINE = {"float32": 1e-2, "float64": 1e-5}


class Nist(Experiment):
    """Do the solvers find the certified parameters of NIST's reference datasets?

    Each dataset is a nonlinear regression with certified parameters, published by the US National Institute of Standards and Technology
    together with two starts: the first is far from the solution, the second nearer. The sum of squared residuals is minimized from both.

    Digits are NIST's log relative error, -log10(|estimate - certified| / |certified|), of the worst parameter; certified values have 11
    digits. A sum of squares may have other stationary points, and plateaus where the model no longer depends on its parameters; a general
    minimizer may end there, and such runs are listed as what they are. A success is false where the residuals are not at right angles to
    the model's derivatives.
    """

    kind: Literal["nist"] = "nist"
    datasets: list[DatasetName] = Field(default=["Misra1a", "Chwirut2", "Rat43", "Eckerle4"], min_length=1, description="see list datasets")
    starts: list[Literal[1, 2]] = Field(default=[1, 2], min_length=1, description="published starts")
    solver: AnySolver = Field(default=NewtonTable(), description="a table with a name and options")
    max_steps: int = Field(default=500, ge=1, le=1_000_000, description="unless the solver gives its own")

    def run(self, context: Context) -> Outcome:
        """Fit every dataset from every start."""
        runs: list[dict[str, Any]] = []
        parameters: list[dict[str, Any]] = []
        arrays: dict[str, np.ndarray] = {}
        for fits, curves in context.map(lambda name: self._fit_all(name, context), self.datasets):
            runs += [run for run, _, _ in fits]
            parameters += [row for _, rows, _ in fits for row in rows]
            arrays |= curves
        run_columns = [
            Column("dataset", "dataset"),
            Column("start", "start", "d"),
            Column("finding", "finding"),
            Column("digits", "digits", ".1f"),
            Column("status", "status"),
            Column("nit", "steps", ",d"),
            Column("nfev", "evaluations", ",d"),
            Column("rss", "sum of squares", ".6e"),
            Column("certified_rss", "certified", ".6e"),
            Column("level", "difficulty"),
        ]
        parameter_columns = [
            Column("dataset", "dataset"),
            Column("start", "start", "d"),
            Column("parameter", "parameter"),
            Column("estimate", "estimate", ".11e"),
            Column("certified", "certified", ".11e"),
            Column("digits", "digits", ".1f"),
        ]
        caption = f"{self.solver.heading} in {context.precision}, at most {self._max_steps} steps; digits of the worst parameter."
        tables = {
            "runs": Table("Fits", run_columns, runs, caption),
            "parameters": Table("Every parameter", parameter_columns, parameters, is_main=False),
        }
        return Outcome(tables, arrays)

    @property
    def _max_steps(self) -> int:
        return self.solver.max_steps if self.solver.max_steps is not None else self.max_steps

    def _fit_all(
        self, name: str, context: Context
    ) -> tuple[list[tuple[dict[str, Any], list[dict[str, Any]], np.ndarray]], dict[str, np.ndarray]]:
        """One dataset from every start, and the curves of its best fit."""
        from jaxdiff.functions.nist import load_nist

        data = load_nist(name)
        with context.timed(name):
            fits = [self._fit(data, start, context.precision) for start in self.starts]
            best = min(fits, key=lambda fit: fit[0]["rss"] if np.isfinite(fit[0]["rss"]) else np.inf)
            return fits, _curves(name, data, best[2])

    def _fit(self, data: Any, start: int, precision: str) -> tuple[dict[str, Any], list[dict[str, Any]], np.ndarray]:
        import jaxdiff as jd
        from jaxdiff.functions.nist import log_relative_error

        x, y = np.asarray(data.x, dtype=precision), np.asarray(data.y, dtype=precision)
        x0 = np.asarray(data.start1 if start == 1 else data.start2, dtype=precision)
        result = jd.minimize(_sum_of_squares(data.model), x0, (x, y), solver=self.solver.build(), max_steps=self._max_steps)
        estimate = np.asarray(result.x, dtype=np.float64)
        certified = np.asarray(data.certified, dtype=np.float64)
        digits = np.asarray(log_relative_error(estimate, certified), dtype=np.float64)
        worst = float(np.min(digits))
        run = {"dataset": data.name, "level": data.level, "start": start, "status": result.status_name, "success": bool(result.success)}
        run |= {"nit": int(result.nit), "nfev": int(result.nfev), "rss": float(result.fun), "certified_rss": float(data.certified_rss)}
        run |= {"digits": worst, "precision": precision, "finding": _finding(bool(result.success), worst, data, estimate, precision)}
        names = [f"b{position + 1}" for position in range(len(certified))]
        rows = [
            {"dataset": data.name, "start": start, "parameter": b, "estimate": float(e), "certified": float(c), "digits": float(d)}
            for b, e, c, d in zip(names, estimate, certified, digits, strict=True)
        ]
        return run, rows, estimate

    def verdicts(self, outcome: Outcome) -> list[Verdict]:
        """How many were found; whether any success is false."""
        rows = outcome.tables["runs"].rows
        found = [row for row in rows if row["finding"] == "certified"]
        false = [row for row in rows if row["finding"] == "FALSE SUCCESS"]
        verdicts = [
            Verdict(
                "No false success: every run that says it converged is at a stationary point of the sum of squares."
                if not false
                else "False success: " + ", ".join(f"{row['dataset']} from start {row['start']}" for row in false) + ".",
                is_good=not false,
            ),
            Verdict(f"{len(found)} of {len(rows)} runs converge to the certified parameters."),
        ]
        solved = {row["dataset"] for row in found}
        verdicts.append(
            Verdict(
                f"{len(solved)} of {len(self.datasets)} datasets are solved from at least one published start"
                + (
                    f"; not: {', '.join(name for name in self.datasets if name not in solved)}."
                    if len(solved) < len(self.datasets)
                    else "."
                )
            )
        )
        if found:
            verdicts.append(
                Verdict(f"Where found, the worst parameter agrees to {np.mean([row['digits'] for row in found]):.1f} digits on average.")
            )
        for row in rows:
            if row not in found and row not in false:
                verdicts.append(
                    Verdict(f"{row['dataset']} from start {row['start']}: {row['finding']} ({row['status']} after {row['nit']:,} steps).")
                )
        return verdicts

    def figures(self, outcome: Outcome) -> Mapping[str, Picture]:
        """Data, fit and residuals of the first datasets."""
        shown = self.datasets[:4]
        rows = outcome.tables["runs"].rows

        def draw(figure: Any, theme: figures.Theme) -> None:
            axes = figure.subplots(2, len(shown), squeeze=False, sharex="col", height_ratios=[2.4, 1])
            for column, name in enumerate(shown):
                x, y = outcome.arrays[f"{name}_x"], outcome.arrays[f"{name}_y"]
                top, bottom = axes[0, column], axes[1, column]
                top.plot(x, y, "o", color=theme.series[0], markersize=3.5, markerfacecolor="none", label="data")
                top.plot(outcome.arrays[f"{name}_curve_x"], outcome.arrays[f"{name}_curve_y"], color=theme.series[1], label="fit")
                bottom.axhline(0, color=theme.text, linewidth=0.8)
                bottom.vlines(x, 0, outcome.arrays[f"{name}_residual"], color=theme.series[0], linewidth=1)
                bottom.plot(x, outcome.arrays[f"{name}_residual"], "o", color=theme.series[0], markersize=2.5)
                best = min(
                    (row for row in rows if row["dataset"] == name), key=lambda row: row["rss"] if row["rss"] is not None else np.inf
                )
                top.set_title(f"{name}: {best['digits']:.1f} digits")
                bottom.set_xlabel("x")
            axes[0, 0].set_ylabel("y")
            axes[1, 0].set_ylabel("residual")
            figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)

        caption = "NIST's data with the best fit found here, and its residuals below. Units as in NIST's files."
        return {"fits": Picture(draw, caption, size=(1.5 + 2.5 * len(shown), 4.6))}


def _sum_of_squares(model: Any) -> Any:
    """The objective of one dataset; made once per model, so that the second start compiles nothing."""
    if model not in _OBJECTIVES:
        import jax.numpy as jnp

        _OBJECTIVES[model] = lambda b, x, y: jnp.sum((y - model(x, b)) ** 2)
    return _OBJECTIVES[model]


_OBJECTIVES: dict[Any, Any] = {}


def _finding(success: bool, digits: float, data: Any, estimate: np.ndarray, precision: str) -> str:
    """What the run is, judged by the certified values and the geometry of the residuals, not by what the solver says of itself."""
    if digits >= _DIGITS[precision]:
        return "certified" if success else "certified, says otherwise"
    if not success:
        return "not converged"
    cosine = _largest_cosine(data, estimate)
    if cosine is None:
        return "plateau"
    return "other stationary point" if cosine <= _COSINE[precision] else "FALSE SUCCESS"


def _largest_cosine(data: Any, estimate: np.ndarray) -> float | None:
    """|cos| of the angle between the residuals and the model's derivatives: zero at a stationary point, whatever the units.

    None where the model has gone flat, so that no parameter changes it.
    """
    import jax
    import jax.numpy as jnp

    b, x = jnp.asarray(estimate), jnp.asarray(data.x)
    jacobian = np.asarray(jax.jacfwd(lambda b: data.model(x, b))(b), dtype=np.float64)
    residual = data.y - np.asarray(data.model(x, b), dtype=np.float64)
    lengths = np.linalg.norm(jacobian, axis=0)
    if not np.any(lengths > 0):
        return None
    moved = lengths > 0
    return float(np.max(np.abs(residual @ jacobian)[moved] / (lengths[moved] * np.linalg.norm(residual))))


def _curves(name: str, data: Any, estimate: np.ndarray) -> dict[str, np.ndarray]:
    """Data, residuals, and the model on a fine grid; a model of several variables is drawn over the number of the point."""
    import jax

    x, y = np.asarray(data.x, dtype=np.float64), np.asarray(data.y, dtype=np.float64)
    grid = x if x.ndim > 1 else np.linspace(x.min(), x.max(), 400)
    values = np.asarray(jax.jit(data.model)(np.concatenate([x, grid]), estimate), dtype=np.float64)
    drawn_x, drawn_grid = (np.arange(len(y), dtype=np.float64),) * 2 if x.ndim > 1 else (x, grid)
    curve = {f"{name}_curve_x": drawn_grid, f"{name}_curve_y": values[len(y) :]}
    return {f"{name}_x": drawn_x, f"{name}_y": y, f"{name}_residual": y - values[: len(y)]} | curve
