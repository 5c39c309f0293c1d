"""What the command line prints: tables on standard output, progress on standard error."""

import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from jaxdiff.experiments.base import Column, Table

# A long table is for the report; the terminal gets its head.
MAX_ROWS = 32


def _console() -> Console:
    """Standard output; wide where it is not a terminal, for there nobody reads it in eighty columns."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 132)


def notify(text: str) -> None:
    """Progress, on standard error, so that it never mixes with results."""
    Console(stderr=True, highlight=False).print(f"[dim]{escape(text)}[/dim]")


def show_run(finished: Any) -> None:
    """Main tables, verdicts, a line per experiment, and where the report is."""
    console = _console()
    for record in finished.records:
        console.print()
        console.rule(f"[bold]{escape(record.title)}[/bold]", align="left")
        if record.error:
            console.print(f"[red]failed:[/red] {escape(record.error)}")
            continue
        for table in record.outcome.tables.values():
            if table.is_main:
                console.print(_rich_table(table))
        for verdict in record.verdicts:
            mark = {True: "[green]ok[/green]  ", False: "[red]FAIL[/red]", None: "    "}[verdict.is_good]
            console.print(f" {mark} {escape(verdict.text)}", soft_wrap=True)
    console.print()
    summary = RichTable(box=box.SIMPLE_HEAD, title="Summary", title_justify="left")
    for heading, justify in (("experiment", "left"), ("result", "left"), ("checks", "right"), ("seconds", "right")):
        summary.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for record in finished.records:
        state = {"ok": "[green]ok[/green]", "failed": "[red]failed[/red]", "checks failed": "[red]checks failed[/red]"}[record.status]
        checks = [verdict for verdict in record.verdicts if verdict.is_good is not None]
        good = sum(verdict.is_good is True for verdict in checks)
        summary.add_row(escape(record.label), state, f"{good} of {len(checks)}" if checks else "-", f"{record.seconds:.1f}")
    console.print(summary)
    console.print(f"run folder: {finished.folder}", soft_wrap=True)
    if finished.report:
        console.print(f"report:     {finished.report}", soft_wrap=True)
    else:
        console.print(f"no report: {finished.report_problem}", soft_wrap=True)


def _rich_table(table: Table) -> RichTable:
    made = RichTable(title=escape(table.title), title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for column in table.columns:
        made.add_column(escape(column.label), justify="right" if column.spec else "left")
    for row in table.rows[:MAX_ROWS]:
        made.add_row(*(escape(cell(column, row.get(column.key))) for column in table.columns))
    hidden = len(table.rows) - MAX_ROWS
    if hidden > 0:
        made.caption = f"and {hidden} more rows, in the report"
    return made


def cell(column: Column, value: Any) -> str:
    """A value as a reader sees it; numbers as the column says, a missing value as a dash.

    Example:
        >>> cell(Column("error", "error", ".1e"), 0.00012), cell(Column("error", "error", ".1e"), None)
        ('1.2e-04', '-')
    """
    if value is None or value != value:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.spec and isinstance(value, (int, float)):
        return format(value, column.spec)
    return str(value)


def show_entries(topic: str, entries: list[dict[str, str]]) -> None:
    """One topic of ``jaxdiff list``."""
    table = RichTable(box=box.SIMPLE_HEAD)
    table.add_column(topic, no_wrap=True)
    table.add_column("what it is")
    for entry in entries:
        table.add_row(escape(entry["name"]), escape(entry["description"]))
    _console().print(table)


def show_counts(entries: dict[str, list[dict[str, str]]]) -> None:
    """``jaxdiff list`` without a topic."""
    table = RichTable(box=box.SIMPLE_HEAD)
    table.add_column("topic")
    table.add_column("count", justify="right")
    table.add_column("names")
    for topic, items in entries.items():
        names = [item["name"] for item in items]
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        table.add_row(topic, str(len(names)), escape(shown))
    _console().print(table)


def show_findings(findings: dict[str, Any]) -> None:
    """``jaxdiff doctor``."""
    console = _console()
    table = RichTable(box=box.SIMPLE, show_header=False)
    table.add_row("jaxdiff", findings["jaxdiff"])
    table.add_row("Python", findings["python"])
    for name, version in findings["packages"].items():
        table.add_row(name, version or "[yellow]absent[/yellow]")
    for position, device in enumerate(findings["devices"]):
        table.add_row(f"device {position}", escape(f"{device['platform']}: {device['kind']}"))
    for name, finding in findings["dtypes"].items():
        table.add_row(name, finding)
    table.add_row("default dtype", findings["default_dtype"])
    table.add_row("compile cache", escape(findings["compile_cache"]))
    console.print(table)
    for line in findings["absent"]:
        console.print(f"[yellow]optional[/yellow] {escape(line)}")
    for line in findings["problems"]:
        console.print(f"[red]problem[/red] {escape(line)}")
    console.print("everything is fine" if findings["is_good"] else "not fine", style="green" if findings["is_good"] else "red")
