"""Solvers side by side on test functions of two variables, their paths over contours."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from jaxdiff.experiments import figures
from jaxdiff.experiments.base import Column, Context, Experiment, Outcome, Picture, Table, Verdict
from jaxdiff.experiments.registry import AdamTable, AnySolver, GradientDescentTable, NewtonTable, ProblemName

GRID = 140

# Solved: as near to a known minimizer as half the digits of the dtype allow, for f is flat there.
_DISTANCE = {"float32": 2e-2, "float64": 1e-4}


class Optimizers(Experiment):
    """Which way do the solvers go, and how many steps do they take?

    Every solver starts at the published point of every function, and is stopped by its own default tolerances or by the number of steps
    allowed. A step is one trial: a trial that a line search rejects counts. A solver that says it converged must be at a known minimizer.
    """

    kind: Literal["optimizers"] = "optimizers"
    problems: list[ProblemName] = Field(
        default=["rosenbrock", "himmelblau", "beale"], min_length=1, description="functions of two variables"
    )
    solvers: list[AnySolver] = Field(
        default_factory=lambda: [GradientDescentTable(), NewtonTable(), AdamTable(learning_rate=0.05)],
        min_length=1,
        description="tables with a name and options",
    )
    max_steps: int = Field(default=5000, ge=1, le=1_000_000, description="of solvers that do not give their own")

    @field_validator("problems")
    @classmethod
    def _have_two_variables(cls, problems: list[str]) -> list[str]:
        for name in problems:
            try:
                _problem(name)
            except ValueError as error:
                raise ValueError(f"expected functions of two variables with a known minimizer: {error}") from None
        return problems

    @model_validator(mode="after")
    def _headings_differ(self) -> "Optimizers":
        headings = [solver.heading for solver in self.solvers]
        if len(set(headings)) < len(headings):
            raise ValueError(f"solvers: expected different headings, got {', '.join(headings)}; give each table a label of its own")
        return self

    def run(self, context: Context) -> Outcome:
        """Solve everything, keeping the paths."""
        rows: list[dict[str, Any]] = []
        arrays: dict[str, np.ndarray] = {}
        for found_rows, found_arrays in context.map(lambda name: self._race(name, context), self.problems):
            rows += found_rows
            arrays |= found_arrays
        columns = [
            Column("problem", "function"),
            Column("solver", "solver"),
            Column("finding", "finding"),
            Column("status", "status"),
            Column("nit", "steps", ",d"),
            Column("nfev", "evaluations", ",d"),
            Column("excess", "f - minimum", ".1e"),
            Column("distance", "distance", ".1e"),
        ]
        caption = f"Computed in {context.precision}. A value with its gradient is one evaluation. Distance: to the nearest known minimizer."
        return Outcome({"runs": Table("Runs", columns, rows, caption)}, arrays)

    def _race(self, name: str, context: Context) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """Every solver on one function."""
        problem = _problem(name)
        rows: list[dict[str, Any]] = []
        arrays: dict[str, np.ndarray] = {}
        paths = []
        with context.timed(name):
            for position, solver in enumerate(self.solvers):
                row, path, values = self._solve(problem, solver, context.precision)
                rows.append(row)
                paths.append(path)
                arrays[f"{name}_{position}_path"], arrays[f"{name}_{position}_value"] = path, values
            return rows, arrays | _contours(name, problem, paths)

    def _solve(self, problem: Any, solver: Any, precision: str) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
        import jaxdiff as jd

        start = np.asarray(problem.start, dtype=precision)
        max_steps = solver.max_steps if solver.max_steps is not None else self.max_steps
        result = jd.minimize(problem.fun, start, tuple(problem.args), solver=solver.build(), max_steps=max_steps, history=True)
        assert result.history is not None
        steps = int(result.nit)
        path = np.asarray(result.history.x, dtype=np.float64)[: steps + 1]
        values = np.asarray(result.history.value, dtype=np.float64)[: steps + 1]
        x = np.asarray(result.x, dtype=np.float64)
        distance = min(float(np.linalg.norm(x - minimizer)) for minimizer in _minimizers(problem))
        row = {"problem": problem.name, "solver": solver.heading, "status": result.status_name, "success": bool(result.success)}
        row |= {"nit": steps, "nfev": int(result.nfev), "value": float(result.fun)}
        row |= {"excess": float(result.fun) - float(problem.minimum), "distance": distance}
        row["finding"] = _finding(problem, x, bool(result.success), distance <= _DISTANCE[precision])
        return row, path, values

    def verdicts(self, outcome: Outcome) -> list[Verdict]:
        """No false success; who was first."""
        rows = outcome.tables["runs"].rows
        claimed = [row for row in rows if row["success"]]
        false = [f"{row['solver']} on {row['problem']}" for row in rows if row["finding"] == "FALSE SUCCESS"]
        elsewhere = [f"{row['solver']} on {row['problem']}" for row in rows if row["finding"] == "another minimum"]
        text = f"{len(claimed)} of {len(rows)} runs say that they converged"
        text += f"; false: {', '.join(false)}." if false else ", and each of them is at a minimum."
        verdicts = [Verdict(text, is_good=not false)]
        if elsewhere:
            verdicts.append(Verdict(f"At a minimum that is not among the lowest: {', '.join(elsewhere)}."))
        for name in dict.fromkeys(row["problem"] for row in rows):
            done = sorted((row for row in claimed if row["problem"] == name), key=lambda row: row["nit"])
            left = [row for row in rows if row["problem"] == name and not row["success"]]
            text = ", ".join(f"{row['solver']} in {row['nit']:,} steps" for row in done) or "no solver converged"
            text += "".join(f"; {row['solver']} stopped with {row['status']} after {row['nit']:,}" for row in left)
            verdicts.append(Verdict(f"{name}: {text}."))
        return verdicts

    def figures(self, outcome: Outcome) -> Mapping[str, Picture]:
        """Paths over contours, and the fall of f."""
        rows = outcome.tables["runs"].rows
        count = len(self.problems)

        def draw_paths(figure: Any, theme: figures.Theme) -> None:
            for axis, name in zip(figure.subplots(1, count, squeeze=False)[0], self.problems, strict=True):
                _draw_contours(axis, outcome.arrays, name, theme)
                for position in range(len(self.solvers)):
                    path = outcome.arrays[f"{name}_{position}_path"]
                    few = slice(None, None, max(1, len(path) // 25))
                    colour = theme.series[(1, 0, 2, 3, 4, 5, 6)[position % 7]]
                    axis.plot(*path.T, color=theme.background, linewidth=3.0, alpha=0.7, zorder=3)
                    axis.plot(*path.T, color=colour, linewidth=1.7, zorder=4)
                    axis.plot(
                        *path[few].T,
                        figures.MARKERS[position % 7],
                        color=colour,
                        markeredgecolor=theme.background,
                        markeredgewidth=0.5,
                        zorder=5,
                    )
                axis.plot(
                    *outcome.arrays[f"{name}_0_path"][0], "o", color=theme.background, markeredgecolor=theme.text, markersize=8, zorder=6
                )
                axis.plot(*outcome.arrays[f"{name}_minimizers"].T, "*", color="#ffffff", markeredgecolor="#000000", markersize=13, zorder=7)
                axis.set_title(name)
                axis.set_xlabel("$x_1$")
                axis.grid(visible=False)
            figure.axes[0].set_ylabel("$x_2$")
            _legend(figure, [solver.heading for solver in self.solvers], theme, ends=True)

        def draw_values(figure: Any, theme: figures.Theme) -> None:
            for axis, name in zip(figure.subplots(1, count, squeeze=False)[0], self.problems, strict=True):
                for position, solver in enumerate(self.solvers):
                    row = next(r for r in rows if (r["problem"], r["solver"]) == (name, solver.heading))
                    gap = outcome.arrays[f"{name}_{position}_value"] - (row["value"] - row["excess"])
                    colour = theme.series[(1, 0, 2, 3, 4, 5, 6)[position % 7]]
                    axis.plot(np.arange(len(gap)) + 1, np.maximum(gap, 1e-18), color=colour, linestyle=figures.DASHES[position % 7])
                    axis.plot(len(gap), max(gap[-1], 1e-18), figures.MARKERS[position % 7], color=colour, markersize=7)
                axis.set_xscale("log")
                axis.set_yscale("log")
                axis.set_title(name)
                axis.set_xlabel("step + 1")
            figure.axes[0].set_ylabel("f - minimum")
            _legend(figure, [solver.heading for solver in self.solvers], theme, ends=False)

        width = 1.2 + 3.1 * count
        return {
            "paths": Picture(draw_paths, "Paths over the contours of f. Circle: start; stars: known minimizers.", size=(width, 4.1)),
            "values": Picture(
                draw_values, "How f falls; the mark is where a solver stopped. Below 1e-18 drawn at 1e-18.", size=(width, 3.5)
            ),
        }


def _problem(name: str) -> Any:
    """The problem in two variables.

    Raises:
        ValueError: it has another number of them, or no minimizer of it is known.
    """
    from jaxdiff.functions.problems import get_problem

    problem = get_problem(name, 2)
    if not problem.minimizers or problem.minimum is None:
        raise ValueError(f"name = {name!r}; no minimizer of it is known")
    return problem


def _minimizers(problem: Any) -> np.ndarray:
    """Every known minimizer, one per row."""
    return np.atleast_2d(np.asarray(problem.minimizers, dtype=np.float64))


def _finding(problem: Any, x: np.ndarray, success: bool, is_near: bool) -> str:
    """What the run is, judged by the known minimizers, and elsewhere by gradient and Hessian at the end; not by what the solver says."""
    import jax

    if not success:
        return "at a minimizer, but does not say so" if is_near else "not converged"
    if is_near:
        return "minimizer"
    objective = lambda x: problem.fun(x, *problem.args)  # noqa: E731
    slope = np.max(np.abs(jax.grad(objective)(jax.numpy.asarray(x))))
    curvature = np.min(np.linalg.eigvalsh(np.asarray(jax.hessian(objective)(jax.numpy.asarray(x)), dtype=np.float64)))
    return "another minimum" if slope < 1e-3 and curvature > -1e-6 else "FALSE SUCCESS"


def _contours(name: str, problem: Any, paths: list[np.ndarray]) -> dict[str, np.ndarray]:
    """f on a grid that holds the start, the ends, the nearest minimizer of each, and the better part of the paths."""
    import jax
    import jax.numpy as jnp

    minimizers = _minimizers(problem)
    ends = np.array([path[-1] for path in paths])
    nearest = minimizers[np.argmin(np.linalg.norm(ends[:, None] - minimizers[None], axis=-1), axis=1)]
    inner = [np.quantile(path, [0.02, 0.98], axis=0) for path in paths]
    shown = np.concatenate([paths[0][:1], ends[np.all(np.isfinite(ends), axis=1)], nearest, *inner])
    low, high = shown.min(axis=0), shown.max(axis=0)
    margin = 0.25 * np.maximum(high - low, 0.5)
    low, high = low - margin, high + margin
    axes = [np.linspace(low[k], high[k], GRID) for k in range(2)]
    points = jnp.asarray(np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2))
    values = jax.jit(jax.vmap(lambda x: problem.fun(x, *problem.args)))(points)
    inside = np.all((minimizers >= low) & (minimizers <= high), axis=1)
    return {
        f"{name}_grid_x": axes[0],
        f"{name}_grid_y": axes[1],
        f"{name}_grid_f": np.asarray(values, dtype=np.float64).reshape(GRID, GRID),
        f"{name}_minimizers": minimizers[inside],
        f"{name}_minimum": np.asarray(float(problem.minimum)),
    }


def _draw_contours(axis: Any, arrays: Mapping[str, np.ndarray], name: str, theme: figures.Theme) -> None:
    """Filled contours of log(f - minimum + a little), so that a valley and its walls both show."""
    gap = arrays[f"{name}_grid_f"] - float(arrays[f"{name}_minimum"])
    level = np.log10(np.maximum(gap, 0) + 1e-3 * np.median(gap))
    axis.contourf(arrays[f"{name}_grid_x"], arrays[f"{name}_grid_y"], level, levels=18, cmap=theme.colour_map())
    axis.contour(arrays[f"{name}_grid_x"], arrays[f"{name}_grid_y"], level, levels=18, colors=theme.text, linewidths=0.3, alpha=0.6)
    axis.set_xlim(arrays[f"{name}_grid_x"][[0, -1]])
    axis.set_ylim(arrays[f"{name}_grid_y"][[0, -1]])


def _legend(figure: Any, names: list[str], theme: figures.Theme, *, ends: bool) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for position, name in enumerate(names):
        colour = theme.series[(1, 0, 2, 3, 4, 5, 6)[position % 7]]
        # Paths are told apart by their marks: dashes would look like steps.
        style = {"marker": figures.MARKERS[position % 7], "linestyle": "-" if ends else figures.DASHES[position % 7]}
        handles.append(Line2D([], [], color=colour, label=name, **style))
    if ends:
        handles.append(
            Line2D([], [], color="none", marker="o", markeredgecolor=theme.text, markerfacecolor="none", markersize=8, label="start")
        )
        handles.append(Line2D([], [], color="none", marker="*", markeredgecolor=theme.text, markersize=12, label="minimizer"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
