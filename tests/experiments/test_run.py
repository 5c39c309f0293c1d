"""Runs: what is left behind, that it can be repeated, and that one failure costs no other result."""

import dataclasses
import html.parser
import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pytest

from jaxdiff.experiments import config, figures, kinds, report, run, storage
from jaxdiff.experiments.base import Column, Context, Experiment, Outcome, Picture, Table, Verdict

pytestmark = pytest.mark.core


class Probe(Experiment):
    """Probe <of> the machinery.

    First paragraph & more.

    Second one.
    """

    kind: Literal["probe"] = "probe"
    fails: bool = False
    holds: bool = True

    def run(self, context: Context) -> Outcome:
        """Draw numbers."""
        if self.fails:
            raise RuntimeError("meant to <fail>\nwith a second line")
        numbers = context.rng("numbers").normal(size=3)
        rows: list[dict[str, Any]] = [{"name": f"row {i}", "value": float(value), "odd": None} for i, value in enumerate(numbers)]
        rows[0]["value"], rows[1]["odd"] = float("inf"), float("nan")
        columns = [Column("name", "name"), Column("value", "value (<unit>)", ".3e"), Column("odd", "odd", ".1f")]
        return Outcome({"numbers": Table("Numbers", columns, rows, "Drawn.")}, {"numbers": numbers})

    def verdicts(self, outcome: Outcome) -> list[Verdict]:
        """One check and one note."""
        return [Verdict("the check", is_good=self.holds), Verdict("a note")]

    def figures(self, outcome: Outcome) -> dict[str, Picture]:
        """A line."""

        def draw(figure: Any, theme: figures.Theme) -> None:
            figure.subplots().plot(outcome.arrays["numbers"], color=theme.series[0])

        return {"line": Picture(draw, "A line.", size=(3.0, 2.0))}


@pytest.fixture(autouse=True)
def _probe_is_a_kind(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(kinds.KINDS, "probe", Probe)
    config.run_model.cache_clear()
    yield
    config.run_model.cache_clear()


def make(folder: Path, *experiments: dict[str, Any], **settings: Any) -> config.Run:
    tables = [{"kind": "probe"} | experiment for experiment in experiments]
    return config.validate({"name": "probe", "output": str(folder), "experiment": tables} | settings)


def test_run_folder_holds_configuration_environment_tables_arrays_figures_and_report(tmp_path: Path) -> None:
    finished = run.run(make(tmp_path, {}, seed=3, formats=["png", "svg"]))
    folder = finished.folder
    assert finished.is_good
    assert {item.name for item in folder.iterdir()} >= {"config.toml", "environment.json", "timings.jsonl", "experiments", "report.html"}
    surroundings = json.loads((folder / "environment.json").read_text())
    assert surroundings["seed"] == 3
    assert surroundings["packages"]["jax"] == jax.__version__
    assert surroundings["devices"][0]["platform"] == jax.devices()[0].platform
    place = folder / "experiments" / "00-probe"
    rows = storage.read_rows(place / "tables" / "numbers.jsonl")
    assert rows[0]["value"] == float("inf")
    assert rows[1]["odd"] is None
    drawn = np.random.default_rng([3, *b"numbers"]).normal(size=3)
    np.testing.assert_array_equal(storage.read_arrays(place / "arrays.npz")["numbers"], drawn)
    assert {item.name for item in (place / "figures").iterdir()} == {"line-light.png", "line-dark.png", "line.svg"}
    assert all((place / "figures" / f"line-{theme}.png").read_bytes().startswith(b"\x89PNG") for theme in ("light", "dark"))


def test_parquet_holds_the_same_rows_as_json_lines(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    place = run.run(make(tmp_path, {})).folder / "experiments" / "00-probe" / "tables"
    from_parquet = parquet.read_table(place / "numbers.parquet").to_pylist()
    from_lines = storage.read_rows(place / "numbers.jsonl")
    assert [row["name"] for row in from_parquet] == [row["name"] for row in from_lines]
    assert [row["value"] for row in from_parquet] == [row["value"] for row in from_lines]


def test_saved_configuration_is_the_one_that_ran_and_runs_again(tmp_path: Path) -> None:
    first = make(tmp_path, {"name": "a", "holds": True}, {"name": "b"}, seed=11, description='quoted "text" \\ with\nlines \x7f')
    folder = run.run(first).folder
    assert config.load(folder / "config.toml") == first


def test_same_configuration_and_seed_give_the_same_tables(tmp_path: Path) -> None:
    def numbers(seed: int) -> list[dict[str, Any]]:
        return run.run(make(tmp_path, {}, seed=seed)).records[0].outcome.tables["numbers"].rows

    assert repr(numbers(1)) == repr(numbers(1))
    assert repr(numbers(1)) != repr(numbers(2))


def test_two_runs_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    folders = {run.run(make(tmp_path, {})).folder for _ in range(3)}
    assert len(folders) == 3


def test_failing_experiment_is_reported_and_the_others_are_kept(tmp_path: Path) -> None:
    finished = run.run(make(tmp_path, {"name": "first"}, {"name": "broken", "fails": True}, {"name": "last"}))
    assert [record.status for record in finished.records] == ["ok", "failed", "ok"]
    assert not finished.is_good
    assert finished.records[1].error == "RuntimeError: meant to <fail>"
    assert "second line" in (finished.folder / "experiments" / "01-broken" / "traceback.txt").read_text()
    page = (finished.folder / "report.html").read_text()
    assert "RuntimeError: meant to &lt;fail&gt;" in page
    assert json.loads(json.dumps(finished.summary()))["experiments"][1]["status"] == "failed"


def test_failing_check_fails_the_run_and_a_note_does_not(tmp_path: Path) -> None:
    finished = run.run(make(tmp_path, {"holds": False}))
    assert finished.records[0].status == "checks failed"
    assert not finished.is_good
    assert run.run(make(tmp_path, {"holds": True})).is_good


def test_interrupt_is_not_taken_for_a_failing_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Probe, context: Context) -> Outcome:
        raise KeyboardInterrupt

    monkeypatch.setattr(Probe, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.run(make(tmp_path, {}))


def test_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(config.ConfigError, match="output: "):
        run.run(make(tmp_path / "file", {}))


def test_float64_without_64_bit_types_is_refused(tmp_path: Path) -> None:
    with jax.enable_x64(False), pytest.raises(config.ConfigError, match="float64"):
        run.run(make(tmp_path, {}, precision="float64"))


def test_report_can_be_made_again_from_what_was_saved_without_running_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = run.run(make(tmp_path, {}))
    before = finished.report.read_text()
    finished.report.unlink()
    monkeypatch.setattr(Probe, "run", None)
    monkeypatch.setattr(Probe, "figures", None)
    monkeypatch.setitem(kinds.KINDS, "probe", None)
    assert report.write(finished.folder).read_text() == before


class _Links(html.parser.HTMLParser):
    """Everything in a page that points somewhere, and everything that names an anchor."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "link", "img", "source", "br"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "srcset", "action", "data", "poster", "background", "cite", "formaction"):
                self.targets.append(value or "")
            if name == "id":
                self.anchors.add(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_points_to_nothing_outside_itself_and_is_well_formed(tmp_path: Path) -> None:
    finished = run.run(make(tmp_path, {}, {"name": "broken", "fails": True}))
    page = finished.report.read_text()
    links = _Links()
    links.feed(page)
    assert links.open == []
    assert "script" not in links.tags
    outside = [target for target in links.targets if not target.startswith(("data:", "#"))]
    assert outside == []
    assert {target[1:] for target in links.targets if target.startswith("#")} <= links.anchors
    assert sum(target.startswith("data:image/png;base64,") for target in links.targets) == 2
    # Nothing in a style sheet fetches either.
    assert not re.search(r"url\s*\(|@import|https?:|//\w", re.sub(r"data:[^\"]*", "", page))


def test_report_tells_what_was_asked_found_and_where_it_ran(tmp_path: Path) -> None:
    page = run.run(make(tmp_path, {}, description="Why this was run.")).report.read_text()
    expected = [
        "Probe &lt;of&gt; the machinery",
        "First paragraph &amp; more.",
        "Second one.",
        "value (&lt;unit&gt;)",
        "the check",
        "a note",
    ]
    expected += ["Why this was run.", jax.__version__, "kind = &#34;probe&#34;", "prefers-color-scheme: dark"]
    assert [text for text in expected if text not in page] == []


@pytest.mark.parametrize("damage", ["missing", "not json", "other version"])
def test_damaged_run_folder_is_refused_with_the_file(damage: str, tmp_path: Path) -> None:
    folder = run.run(make(tmp_path, {})).folder
    target = folder / "experiments" / "00-probe" / "result.json"
    if damage == "missing":
        target = folder / "environment.json"
        target.unlink()
    elif damage == "not json":
        target.write_text("{")
    else:
        target.write_text('{"tables": {"numbers": {}}, "figures": {}}')
    with pytest.raises(config.ConfigError, match=re.escape(str(target))):
        report.write(folder)


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    storage.write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="cannot be saved"):
        storage.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["file.json"]


def test_arrays_of_objects_are_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="pickle"):
        storage.write_arrays(tmp_path / "a.npz", {"a": np.array([object()])})
    np.savez(tmp_path / "b.npz", a=np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="pickle"):
        storage.read_arrays(tmp_path / "b.npz")


def test_run_without_matplotlib_or_jinja2_keeps_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "is_available", lambda: False)
    monkeypatch.setattr(report, "unavailable", lambda: "jinja2 is absent")
    finished = run.run(make(tmp_path, {}))
    assert finished.is_good
    assert finished.report is None
    assert finished.report_problem == "jinja2 is absent"
    assert (finished.folder / "experiments" / "00-probe" / "tables" / "numbers.jsonl").is_file()


def test_moved_run_folder_still_makes_its_report(tmp_path: Path) -> None:
    folder = run.run(make(tmp_path, {})).folder
    moved = tmp_path / "elsewhere"
    shutil.move(folder, moved)
    assert report.write(moved) == moved / "report.html"


def test_saved_verdicts_are_those_of_the_run(tmp_path: Path) -> None:
    finished = run.run(make(tmp_path, {}))
    saved = json.loads((finished.folder / "experiments" / "00-probe" / "result.json").read_text())
    assert saved["verdicts"] == [dataclasses.asdict(verdict) for verdict in finished.records[0].verdicts]
