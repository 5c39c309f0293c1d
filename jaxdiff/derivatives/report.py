"""What a check of derivatives found: a verdict per leaf, with the numbers that it rests on."""

import dataclasses
import enum
import html
import math
from typing import Any


class Verdict(enum.StrEnum):
    """What is to be thought of the derivative with respect to one leaf."""

    PASS = "pass"
    """Autodiff agrees with finite differences, which are sharp enough to say so."""
    FAIL = "fail"
    """Autodiff is outside the error bar of the finite difference, on two ladders of steps."""
    INCONCLUSIVE = "inconclusive"
    """Nothing speaks against autodiff, but noise or precision would have hidden an error."""
    KINK = "kink"
    """The slopes from left and right differ; autodiff lies between them."""
    NON_FINITE = "non-finite"
    """Autodiff, or f itself, is not finite."""

    @property
    def is_failure(self) -> bool:
        """Whether something has to be mended."""
        return self in (Verdict.FAIL, Verdict.NON_FINITE)


class DerivativeError(AssertionError):
    """A derivative is wrong or not finite."""


@dataclasses.dataclass(frozen=True)
class LeafVerdict:
    """The verdict on one leaf of the arguments. All numbers are Python floats; NaN where there is none.

    Attributes:
        name: of the leaf, such as ``params['w']``.
        order: of the derivative.
        verdict: the verdict.
        mode: "forward" or "reverse", the one that the numbers below belong to.
        index: the worst coordinate; None where the numbers are slopes along a random direction of the whole leaf.
        output: which number of f's output they belong to.
        autodiff: autodiff's value.
        finite_difference: the finite difference.
        bar: error bar of the finite difference.
        rounding: measured rounding error of autodiff's value.
        left_slope: slope from the left, at a kink.
        right_slope: slope from the right, at a kink.
        taylor_slope: power of h with which f(x + h v) - f(x) - h f'v vanishes: near 2 where f' is right, near 1 where it is wrong.
        resolution: relative error that would have gone unnoticed in the worst direction.
        num_comparisons: how many pairs of slopes were compared.
        num_unresolved: how many of them finite differences could not settle.
        precision_loss: relative error of the derivative in the precision that was asked about; NaN unless it was.
        detail: the finding in words.
    """

    name: str
    order: int
    verdict: Verdict
    mode: str
    index: tuple[int, ...] | None
    output: str
    autodiff: float
    finite_difference: float
    bar: float
    rounding: float
    left_slope: float
    right_slope: float
    taylor_slope: float
    resolution: float
    num_comparisons: int
    num_unresolved: int
    precision_loss: float
    detail: str

    @property
    def place(self) -> str:
        """The leaf with the index of its worst coordinate."""
        return self.name if not self.index else f"{self.name}[{', '.join(map(str, self.index))}]"

    def __str__(self) -> str:
        """One line of text."""
        order = f" (order {self.order})" if self.order > 1 else ""
        where = "" if self.index is not None else " along a random direction"
        numbers = f"autodiff {self.autodiff:.8g}, finite difference {self.finite_difference:.8g} ± {self.bar:.1e}"
        mode = f", {self.mode} mode" if self.mode else ""
        detail = f"; {self.detail}" if self.detail else ""
        return f"{self.verdict}: {self.place}{order}{where}, {self.output}{mode}: {numbers}{detail}"


@dataclasses.dataclass(frozen=True)
class DerivativeReport:
    """Verdicts on every leaf of a function's arguments.

    Attributes:
        function: name of the function.
        leaves: one verdict per leaf and order.
        modes: modes that were checked.
        notes: what was left out, and what else was found.
        consistency: largest difference between forward and reverse mode, relative to the terms it is the sum of; NaN where only one ran.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> report = jd.check_derivatives(jnp.sin, 1.0)
        >>> report.failed, report.verdicts
        (False, {'x': 'pass'})
    """

    function: str
    leaves: tuple[LeafVerdict, ...]
    modes: tuple[str, ...]
    notes: tuple[str, ...]
    consistency: float

    @property
    def failed(self) -> bool:
        """Whether any leaf's derivative is wrong or not finite."""
        return any(leaf.verdict.is_failure for leaf in self.leaves)

    @property
    def verdicts(self) -> dict[str, str]:
        """Verdict by leaf; of several orders the worst."""
        worst: dict[str, str] = {}
        for rank in (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.KINK, Verdict.NON_FINITE, Verdict.FAIL):
            worst |= {leaf.name: str(leaf.verdict) for leaf in self.leaves if leaf.verdict is rank}
        return {leaf.name: worst[leaf.name] for leaf in self.leaves}

    @property
    def message(self) -> str:
        """The report in a sentence."""
        counts = [(rank, sum(leaf.verdict is rank for leaf in self.leaves)) for rank in Verdict]
        found = ", ".join(f"{count} {rank}" for rank, count in counts if count)
        return f"derivatives of {self.function}: {found}"

    def raise_if_failed(self) -> "DerivativeReport":
        """The report itself where nothing failed.

        Raises:
            DerivativeError: a derivative is wrong or not finite; the text names leaf, index and values.
        """
        if self.failed:
            lines = [str(leaf) for leaf in self.leaves if leaf.verdict.is_failure]
            raise DerivativeError("\n  ".join([self.message, *lines, *self.notes]))
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values that JSON can carry; numbers that are not finite are None or text."""
        leaves = [{key: _plain(value) for key, value in dataclasses.asdict(leaf).items()} for leaf in self.leaves]
        return {
            "function": self.function,
            "failed": self.failed,
            "verdicts": self.verdicts,
            "modes": list(self.modes),
            "notes": list(self.notes),
            "consistency": _plain(self.consistency),
            "leaves": leaves,
        }

    def __str__(self) -> str:
        rows = [_HEADINGS, *(_row(leaf) for leaf in self.leaves)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(_HEADINGS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self.message, *lines, *_remarks(self)])

    __repr__ = __str__

    def __rich__(self) -> Any:
        from rich import box
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        table = Table(title=escape(self.message), title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
        for heading in _HEADINGS:
            table.add_column(heading, overflow="fold")
        for leaf in self.leaves:
            verdict, *cells = _row(leaf)
            table.add_row(f"[{_COLOURS[leaf.verdict]}]{verdict}[/]", *map(escape, cells))
        return Group(table, *(Text(remark) for remark in _remarks(self)))

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{html.escape(heading)}</th>" for heading in _HEADINGS)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _row(leaf)) + "</tr>" for leaf in self.leaves)
        remarks = "".join(f"<p>{html.escape(remark)}</p>" for remark in _remarks(self))
        return f"<p>{html.escape(self.message)}</p><table><tr>{head}</tr>{rows}</table>{remarks}"


_HEADINGS = ("verdict", "leaf", "order", "worst at", "mode", "autodiff", "difference", "bar", "unnoticed", "Taylor")
_COLOURS = {
    Verdict.PASS: "green",
    Verdict.FAIL: "red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.KINK: "yellow",
    Verdict.NON_FINITE: "red",
}


def _row(leaf: LeafVerdict) -> tuple[str, ...]:
    where = "a direction" if leaf.index is None else "[" + ", ".join(map(str, leaf.index)) + "]" if leaf.index else "-"
    where = where if leaf.output in ("", "output") else f"{where}, {leaf.output}"
    numbers = [f"{leaf.autodiff:.8g}", f"{leaf.finite_difference:.8g}", f"{leaf.bar:.1e}"]
    numbers += [f"{leaf.resolution:.1e}", f"{leaf.taylor_slope:.1f}"]
    return (str(leaf.verdict), leaf.name, str(leaf.order), where, leaf.mode, *(("-" if text == "nan" else text) for text in numbers))


def _remarks(report: DerivativeReport) -> list[str]:
    return [f"{leaf.place}: {leaf.detail}" for leaf in report.leaves if leaf.detail] + list(report.notes)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Verdict) else value
