"""How a batch went: what became of its problems, what they took, which of them went worst, and how well its lanes were used."""

import dataclasses
import html
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jaxdiff._validation import check_count, check_positive
from jaxdiff.result import RESCUES, OptimizeResult, Status

LEVELS = (0.0, 0.25, 0.5, 0.9, 0.99, 1.0)
"""Quantiles that a report lists."""


@dataclasses.dataclass(frozen=True)
class WorstProblem:
    """One of the problems that went worst.

    Attributes:
        index: its place in the batch.
        status: the name of its status.
        nit: steps.
        fun: f at its x; of roots the largest absolute component of F.
        optimality: as in the result.
    """

    index: int
    status: str
    nit: int
    fun: float
    optimality: float


@dataclasses.dataclass(frozen=True)
class BatchReport:
    """How a batch went; made by ``result.report()``. Prints as text, by rich, and as HTML.

    Attributes:
        num_problems: problems of the batch.
        num_solved: how many of them claim a solution.
        statuses: how many problems ended with each status, by name, most frequent first.
        nit: quantiles of the steps, by level; see `LEVELS`.
        nfev: quantiles of the evaluations.
        optimality: quantiles of the finite ones.
        worst: problems without a solution first, those with statuses that say least good in front; then those with most steps.
        num_rescued: problems that a further attempt solved; None where none was made.
        rescued_by: how many by which attempt, by name.
        steps_made: steps of all problems, the evaluation of each start counted as one.
        steps_paid: steps that lanes were run for, waiting and idle ones included.
        seconds: what the run took, where it was said.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> result = jd.minimize_batch(lambda x, a: a * (x - 1) ** 2, jnp.zeros(4), jnp.array([1.0, 2.0, jnp.nan, 3.0]))
        >>> report = result.report(seconds=0.5)
        >>> report.num_solved, report.statuses["NON_FINITE_START"], report.problems_per_second, report.worst[0].index
        (3, 1, 8.0, 2)
    """

    num_problems: int
    num_solved: int
    statuses: Mapping[str, int]
    nit: Mapping[float, float]
    nfev: Mapping[float, float]
    optimality: Mapping[float, float]
    worst: tuple[WorstProblem, ...]
    num_rescued: int | None
    rescued_by: Mapping[str, int]
    steps_made: int
    steps_paid: float | None
    seconds: float | None

    @property
    def straggler_efficiency(self) -> float | None:
        """Steps made over steps paid: 1 where no lane ever waited or idled. None where nobody counted."""
        return None if not self.steps_paid else self.steps_made / self.steps_paid

    @property
    def problems_per_second(self) -> float | None:
        """Problems over seconds; None where the seconds are not known."""
        return None if self.seconds is None else self.num_problems / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON; quantiles under their level in per cent."""
        values = dataclasses.asdict(self)
        for name in ("nit", "nfev", "optimality"):
            values[name] = {f"{100 * level:g}%": value for level, value in values[name].items()}
        values["worst"] = [dataclasses.asdict(problem) for problem in self.worst]
        return values | {"straggler_efficiency": self.straggler_efficiency, "problems_per_second": self.problems_per_second}

    def _summary(self) -> list[tuple[str, str]]:
        solved = f" ({self.num_solved / self.num_problems:.2%})" if self.num_problems else ""
        rows = [("problems", f"{self.num_problems:,}"), ("solved", f"{self.num_solved:,}{solved}")]
        if self.num_rescued is not None:
            how = ", ".join(f"{count:,} by {name}" for name, count in self.rescued_by.items())
            rows.append(("of these rescued", f"{self.num_rescued:,}{f' ({how})' if how else ''}"))
        if self.seconds is not None:
            rows.append(("problems per second", f"{self.problems_per_second:,.0f}"))
        if self.straggler_efficiency is not None:
            rows.append(("straggler efficiency", f"{self.straggler_efficiency:.1%}"))
        return rows

    def _tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, head and rows of each table."""
        most = max(self.statuses.values(), default=1)
        statuses = [[name, f"{count:,}", "#" * max(1, round(30 * count / most))] for name, count in self.statuses.items()]
        quantiles = [
            [name, *(f"{value:.4g}" for value in getattr(self, name).values())]
            for name in ("nit", "nfev", "optimality")
            if getattr(self, name)
        ]
        worst = [[str(p.index), p.status, str(p.nit), f"{p.fun:.6g}", f"{p.optimality:.3g}"] for p in self.worst]
        tables = [
            ("Statuses", ["status", "problems", ""], statuses),
            ("Quantiles", ["", *(f"{100 * level:g} %" for level in LEVELS)], quantiles),
            ("Worst problems", ["index", "status", "nit", "fun", "optimality"], worst),
        ]
        return [table for table in tables if table[2]]

    def __str__(self) -> str:
        lines = [f"{name}: {value}" for name, value in self._summary()]
        for title, head, rows in self._tables():
            widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
            lines += ["", title]
            lines += [
                "  " + "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in [head, *rows]
            ]
        return "\n".join(lines)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.table import Table

        parts: list[Any] = [", ".join(f"{name} {value}" for name, value in self._summary())]
        for title, head, rows in self._tables():
            table = Table(*head, title=title, title_justify="left")
            for row in rows:
                table.add_row(*row)
            parts.append(table)
        return Group(*parts)

    def _repr_html_(self) -> str:
        cells = lambda words, tag: "".join(f"<{tag} style='text-align:left'>{html.escape(word)}</{tag}>" for word in words)  # noqa: E731
        text = "<br>".join(f"{html.escape(name)}: <b>{html.escape(value)}</b>" for name, value in self._summary())
        for title, head, rows in self._tables():
            body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
            text += f"<h4>{title}</h4><table><tr>{cells(head, 'th')}</tr>{body}</table>"
        return text


def batch_report(result: OptimizeResult, seconds: float | None = None, num_worst: int = 5) -> BatchReport:
    """The report of a result; see `OptimizeResult.report`."""
    if isinstance(result.status, Tracer):
        raise TypeError("report() needs values; under jit, vmap or grad look at result.status instead")
    status = np.asarray(result.status)
    if status.ndim != 1:
        raise ValueError(f"report() of a result whose status has shape {status.shape}; expected a batch, with one axis of problems")
    check_positive(seconds, "seconds")
    num_worst = check_count(num_worst, "num_worst")
    nit, nfev = np.asarray(result.nit), np.asarray(result.nfev)
    optimality = np.asarray(result.optimality, np.float64)
    codes, counts = np.unique(status, return_counts=True)
    rescued = result.rescued
    attempts = np.zeros(0) if result.rescued_by is None else np.asarray(result.rescued_by)
    return BatchReport(
        num_problems=status.size,
        num_solved=int(np.sum(np.asarray(result.success))),
        statuses={Status(int(codes[i])).name: int(counts[i]) for i in np.argsort(-counts, kind="stable")},
        nit=_quantiles(nit),
        nfev=_quantiles(nfev),
        optimality=_quantiles(optimality),
        worst=_worst(result, status, nit, optimality, num_worst),
        num_rescued=None if rescued is None else int(np.sum(np.asarray(rescued))),
        rescued_by={name: int(np.sum(attempts == code)) for code, name in enumerate(RESCUES) if code and np.any(attempts == code)},
        steps_made=int(np.sum(nit.astype(np.int64) + 1)),
        steps_paid=None if result.steps_paid is None else float(np.sum(np.asarray(result.steps_paid), dtype=np.float64)),
        seconds=None if seconds is None else float(seconds),
    )


def _worst(result: OptimizeResult, status: np.ndarray, nit: np.ndarray, optimality: np.ndarray, num_worst: int) -> tuple[WorstProblem, ...]:
    values = jax.tree.leaves(result.fun)
    is_number = len(values) == 1 and np.ndim(values[0]) == 1
    fun = np.asarray(values[0], np.float64) if is_number else optimality
    success = np.asarray(result.success)
    badness = np.nan_to_num(optimality, nan=np.inf)
    # The last key counts most: failures, then codes (later ones are worse news), then steps.
    order = np.lexsort((-badness, -nit, np.where(success, 0, -status), success))[:num_worst]
    return tuple(WorstProblem(int(i), Status(int(status[i])).name, int(nit[i]), float(fun[i]), float(optimality[i])) for i in order)


def _quantiles(values: np.ndarray) -> dict[float, float]:
    finite = values[np.isfinite(values)]
    return {} if finite.size == 0 else {level: float(value) for level, value in zip(LEVELS, np.quantile(finite, LEVELS), strict=True)}
