"""One self-contained HTML page out of a run folder. It reads what was saved, never a solver, and points to nothing outside itself."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from jaxdiff.experiments import storage
from jaxdiff.experiments.base import Column
from jaxdiff.experiments.config import ConfigError
from jaxdiff.experiments.console import cell

# A table longer than this is folded; the reader opens it.
FOLD_ABOVE = 32


def unavailable() -> str | None:
    """Why no report can be written, or None."""
    try:
        import jinja2  # noqa: F401
    except ImportError:
        return "jinja2 is absent: install jaxdiff[html]"
    return None


def write(folder: Path) -> Path:
    """Write ``report.html`` into a run folder, from what is saved there.

    Raises:
        ConfigError: the folder is not a run folder, a file of it is damaged, or jinja2 is absent.
    """
    problem = unavailable()
    if problem:
        raise ConfigError([problem])
    path = Path(folder) / "report.html"
    storage.write_text(path, render(Path(folder)))
    return path


def render(folder: Path) -> str:
    """The page as text; see `write`."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters["code"] = _code_spans
    return page.get_template("report.html").render(**_read_run(folder))


def _code_spans(text: str) -> Any:
    """Escaped HTML in which what stood between backticks is set as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _read_run(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise ConfigError([f"{folder}: is not a folder; expected a run folder"])
    surroundings = _read_json(folder / "environment.json")
    config_text = _read_text(folder / "config.toml")
    places = sorted(item for item in (folder / "experiments").glob("*") if (item / "result.json").is_file())
    if not places:
        raise ConfigError([f"{folder}: holds no results; expected a run folder"])
    from jaxdiff.experiments.config import read_toml

    settings = read_toml(folder / "config.toml")
    return {
        "settings": settings,
        "folder": folder.name,
        "environment": surroundings,
        "environment_rows": _environment_rows(surroundings),
        "config_text": config_text,
        "experiments": [_read_experiment(place) for place in places],
        "timings": _read_rows(folder / "timings.jsonl"),
    }


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: {getattr(error, 'strerror', None) or error}; expected a file of a run folder"]) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ConfigError([f"{path}:{error.lineno}:{error.colno}: {error.msg}"]) from None
    if not isinstance(value, dict):
        raise ConfigError([f"{path}: expected a JSON object"])
    return value


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        return storage.read_rows(path)
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError([f"{path}: {getattr(error, 'strerror', None) or error}; expected JSON lines"]) from None


def _read_experiment(place: Path) -> dict[str, Any]:
    result = _read_json(place / "result.json")
    try:
        tables = [_read_table(place, name, described) for name, described in result["tables"].items()]
        figures = [_read_figure(place, name, described) for name, described in result["figures"].items()]
    except (KeyError, TypeError) as error:
        raise ConfigError([f"{place / 'result.json'}: {error}; written by another version?"]) from None
    trace = place / "traceback.txt"
    return result | {
        "anchor": place.name,
        "tables": tables,
        "figures": figures,
        "about": [part for part in result["about"].split("\n\n") if part],
        "traceback": _read_text(trace) if result["error"] and trace.is_file() else None,
        "num_checks": sum(verdict["is_good"] is not None for verdict in result["verdicts"]),
        "num_good": sum(verdict["is_good"] is True for verdict in result["verdicts"]),
    }


def _read_table(place: Path, name: str, described: dict[str, Any]) -> dict[str, Any]:
    columns = [Column(**column) for column in described["columns"]]
    rows = _read_rows(place / "tables" / f"{name}.jsonl")
    return {
        "name": name,
        "title": described["title"],
        "caption": described["caption"],
        "columns": columns,
        "rows": [[cell(column, row.get(column.key)) for column in columns] for row in rows],
        "is_folded": len(rows) > FOLD_ABOVE or not described["is_main"],
    }


def _read_figure(place: Path, name: str, described: dict[str, Any]) -> dict[str, Any]:
    def uri(theme: str) -> str:
        path = place / "figures" / f"{name}-{theme}.png"
        try:
            return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
        except OSError as error:
            raise ConfigError([f"{path}: {error.strerror}"]) from None

    width, height = described["size"]
    return {"name": name, "caption": described["caption"], "light": uri("light"), "dark": uri("dark"), "width": width, "height": height}


def _environment_rows(surroundings: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("jaxdiff", surroundings["jaxdiff"]),
        ("commit", surroundings["commit"] or "not a checkout"),
        ("Python", surroundings["python"]),
        ("system", surroundings["system"]),
        ("processor", f"{surroundings['cpu']}, {surroundings['cores']} cores"),
        ("devices", ", ".join(f"{device['platform']} ({device['kind']})" for device in surroundings["devices"])),
        ("precision", surroundings["precision"] + (", 64-bit types enabled" if surroundings["is_x64_enabled"] else ", 32-bit types only")),
        ("seed", str(surroundings["seed"])),
    ]
    return rows + [(name, version or "absent") for name, version in surroundings["packages"].items()]
