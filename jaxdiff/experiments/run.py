"""A configuration becomes a run folder.

    runs/<name>-<time>/
      config.toml          resolved: it can be run again
      environment.json     versions, devices, precision, commit
      timings.jsonl        what took how long
      experiments/<nn>-<label>/result.json   state, verdicts, what the tables and pictures are called
                               tables/*.jsonl (and .parquet)   arrays.npz   figures/*.png
      report.html

Every file is written whole or not at all. An experiment that fails is reported as failed, and the others run.
"""

import dataclasses
import datetime
import json
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxdiff.experiments import environment, figures, report, storage
from jaxdiff.experiments.base import Column, Context, Experiment, Outcome, Table, Verdict
from jaxdiff.experiments.config import ConfigError, Run, load, to_toml


@dataclasses.dataclass(frozen=True)
class Record:
    """What became of one experiment.

    Attributes:
        label: its name within the run.
        kind: which kind it is.
        title: the first line of the kind's description.
        outcome: tables and arrays; None where it failed.
        verdicts: sentences made from the numbers.
        error: the last line of the traceback where it failed.
        seconds: from start to saved.
    """

    label: str
    kind: str
    title: str
    outcome: Outcome | None
    verdicts: list[Verdict]
    error: str | None
    seconds: float

    @property
    def status(self) -> str:
        """``ok``, ``checks failed`` or ``failed``."""
        if self.outcome is None:
            return "failed"
        return "checks failed" if any(verdict.is_good is False for verdict in self.verdicts) else "ok"


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished run: its folder, its report where one could be written, and a record per experiment."""

    folder: Path
    records: list[Record]
    report: Path | None
    report_problem: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether every experiment ran and every check held."""
        return all(record.status == "ok" for record in self.records)

    def summary(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "folder": str(self.folder),
            "report": str(self.report) if self.report else None,
            "is_good": self.is_good,
            "experiments": [
                {
                    "name": record.label,
                    "kind": record.kind,
                    "status": record.status,
                    "error": record.error,
                    "seconds": round(record.seconds, 3),
                    "verdicts": [dataclasses.asdict(verdict) for verdict in record.verdicts],
                    "tables": {name: storage.to_json(table.rows) for name, table in record.outcome.tables.items()}
                    if record.outcome
                    else {},
                }
                for record in self.records
            ],
        }


def _tables(record: Record) -> dict[str, Table]:
    return record.outcome.tables if record.outcome else {}


def configure_jax(config: Run) -> None:
    """Set device and precision as the configuration asks. For an application: it changes JAX for the whole process.

    Raises:
        ConfigError: there is no such device.
    """
    import jax

    if config.device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    # For a GPU nothing is set: JAX takes one first where there is one, while its list of platforms fails on the first that is absent.
    jax.config.update("jax_enable_x64", needs_float64(config))
    try:
        found = jax.devices()[0].platform
    except RuntimeError as error:
        raise ConfigError([f"device: {config.device!r} cannot be used: {str(error).splitlines()[0]}"]) from None
    if config.device not in ("auto", found):
        hint = " (install jaxdiff[cuda13] or jaxdiff[cuda12], and see JAX_PLATFORMS)" if config.device == "gpu" else ""
        raise ConfigError([f"device: {config.device!r} asked for, but JAX computes on {found}{hint}"])


def needs_float64(config: Run) -> bool:
    """Whether any experiment holds float64; float32 data stay float32 beside it."""
    return any("float64" in experiment.dtypes_needed(config.precision) for experiment in config.experiment)


def run(config: Run, *, notify: Callable[[str], None] | None = None) -> Finished:
    """Run every experiment of a configuration and write the report.

    Args:
        config: validated, see `config.load`.
        notify: is told what is being done, in a few words.

    Returns:
        Where everything is, and what became of each experiment.

    Raises:
        ConfigError: the output folder cannot be made, or an experiment needs float64 while JAX keeps 32 bits.
    """
    import jax

    if needs_float64(config) and jax.dtypes.canonicalize_dtype("float64") != "float64":
        raise ConfigError(["precision: an experiment needs float64; call configure_jax(config) first, or enable jax_enable_x64"])
    folder = _make_folder(config)
    storage.write_text(folder / "config.toml", to_toml(config))
    storage.write_json(folder / "environment.json", environment.describe() | {"seed": config.seed, "precision": config.precision})
    records = []
    timings: list[dict[str, Any]] = []
    for position, experiment in enumerate(config.experiment):
        place = folder / "experiments" / f"{position:02d}-{experiment.label}"
        records.append(_run_one(experiment, config, place, timings, notify or _silent))
        storage.write_rows(folder / "timings", timings)
    problem, path = report.unavailable(), None
    if problem is None:
        path = report.write(folder)
    return Finished(folder=folder, records=records, report=path, report_problem=problem)


def _silent(text: str) -> None:
    """Tell nobody."""


def _make_folder(config: Run) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    root = Path(config.output)
    for attempt in range(100):
        folder = root / (f"{config.name}-{stamp}" + (f"-{attempt + 1}" if attempt else ""))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not root.is_dir():
                raise ConfigError([f"output: {root} is not a folder"]) from None
        except OSError as error:
            raise ConfigError([f"output: {root}: {(error.strerror or type(error).__name__).lower()}"]) from None
        else:
            return folder
    raise ConfigError([f"output: {root} already holds 100 runs of this second"])


def _run_one(experiment: Experiment, config: Run, place: Path, timings: list[dict[str, Any]], notify: Callable[[str], None]) -> Record:
    """Run, judge, draw and save one experiment; whatever goes wrong in it stays in it."""
    label = experiment.label
    context = Context(seed=config.seed, precision=config.precision, notify=lambda text: notify(f"{label}: {text}"))
    title, about = describe_kind(type(experiment))
    saved: dict[str, Any] = {"name": label, "kind": experiment.kind, "title": title, "about": about}
    saved["options"] = experiment.model_dump(mode="json", exclude_none=True)
    outcome, verdicts, error = None, [], None
    start = time.perf_counter()
    try:
        with context.timed("run"):
            outcome = experiment.run(context)
        verdicts = experiment.verdicts(outcome)
        saved["tables"] = _save_tables(place, outcome.tables)
        storage.write_arrays(place / "arrays.npz", outcome.arrays)
        with context.timed("draw"):
            saved["figures"] = _save_figures(place, experiment, outcome, config.formats)
    except Exception as failure:
        outcome, verdicts = None, []
        error = f"{type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else ''}".rstrip(": ")
        storage.write_text(place / "traceback.txt", traceback.format_exc())
        saved |= {"tables": {}, "figures": {}}
    timings += [{"experiment": label, "part": part, "seconds": seconds} for part, seconds in context.timings]
    record = Record(label, experiment.kind, title, outcome, verdicts, error, time.perf_counter() - start)
    saved |= {"status": record.status, "error": error, "seconds": record.seconds}
    saved["verdicts"] = [dataclasses.asdict(verdict) for verdict in verdicts]
    storage.write_json(place / "result.json", saved)
    return record


def describe_kind(kind: type[Experiment]) -> tuple[str, str]:
    """Title and introduction of a kind: the first line of its docstring, and its further paragraphs."""
    first, _, rest = (kind.__doc__ or "").strip().partition("\n")
    paragraphs = [" ".join(part.split()) for part in rest.split("\n\n")]
    return first.rstrip("."), "\n\n".join(part for part in paragraphs if part)


def load_outcomes(folder: Path) -> list[tuple[Experiment, Outcome]]:
    """Every experiment of a run folder that did not fail, with what it saved; to draw its pictures again.

    Raises:
        ConfigError: the folder is not a run folder.
    """
    config = load(folder / "config.toml")
    found = []
    for position, experiment in enumerate(config.experiment):
        place = folder / "experiments" / f"{position:02d}-{experiment.label}"
        saved = json.loads((place / "result.json").read_text(encoding="utf-8"))
        if saved["status"] == "failed":
            continue
        tables = {
            name: Table(
                title=described["title"],
                columns=[Column(**column) for column in described["columns"]],
                rows=storage.read_rows(place / "tables" / f"{name}.jsonl"),
                caption=described["caption"],
                is_main=described["is_main"],
            )
            for name, described in saved["tables"].items()
        }
        found.append((experiment, Outcome(tables, storage.read_arrays(place / "arrays.npz"))))
    return found


def _save_tables(place: Path, tables: dict[str, Table]) -> dict[str, Any]:
    described = {}
    for name, table in tables.items():
        storage.write_rows(place / "tables" / name, table.rows)
        described[name] = {
            "title": table.title,
            "caption": table.caption,
            "is_main": table.is_main,
            "columns": [dataclasses.asdict(column) for column in table.columns],
        }
    return described


def _save_figures(place: Path, experiment: Experiment, outcome: Outcome, formats: Sequence[str]) -> dict[str, Any]:
    """Draw for both backgrounds; other formats in light only, for print."""
    if not figures.is_available():
        return {}
    described = {}
    for name, picture in experiment.figures(outcome).items():
        for theme in figures.THEMES:
            storage.write_bytes(place / "figures" / f"{name}-{theme.name}.png", figures.render(picture, theme))
        for file_format in formats:
            if file_format != "png":
                storage.write_bytes(place / "figures" / f"{name}.{file_format}", figures.render(picture, figures.LIGHT, file_format))
        described[name] = {"caption": picture.caption, "size": list(picture.size)}
    return described
