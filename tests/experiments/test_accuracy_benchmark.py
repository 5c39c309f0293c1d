"""The benchmark of derivative schemes: its references, its counts, and that what is wrong or missing shows."""

import itertools
import json
import math
from typing import Any

import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from jaxdiff.experiments.accuracy_benchmark import PEERS, AccuracyTable, _write_beside, accuracy_benchmark, certified_derivatives
from jaxdiff.experiments.base import Context
from jaxdiff.experiments.kinds.accuracy import Accuracy


@pytest.fixture(scope="module")
def table() -> AccuracyTable:
    schemes = ["autodiff", "complex-step", "forward-1", "central-4"]
    options = {"points": [0.5, 1.0, 1.75], "peers": ["scipy.differentiate", "scipy.approx_derivative"]}
    single = accuracy_benchmark(["sin"], schemes, ["float32"], **options)
    # The adaptive scheme takes longest to compile: once is enough.
    double = accuracy_benchmark(["sin"], ["adaptive", *schemes], ["float64"], **options)
    return AccuracyTable(single.rows + double.rows, single.skipped | double.skipped)


def test_there_is_a_row_for_every_dtype_and_scheme(table: AccuracyTable) -> None:
    assert len(table.rows) == 6 + 7
    assert not table.skipped


def test_errors_are_what_theory_says(table: AccuracyTable) -> None:
    for row in table.rows:
        eps = float(np.finfo(row.dtype).eps)
        bounds = {"autodiff": (0, 2 * eps), "complex-step": (0, 4 * eps), "forward-1": (eps**0.5 / 100, 5 * eps**0.5)}
        low, high = bounds.get(row.scheme, (0, 20 * eps ** (2 / 3)))
        assert low <= row.median_error <= high, row
        assert row.worst_error >= row.median_error
        assert row.seconds > 0


def test_evaluations_are_those_of_the_stencils(table: AccuracyTable) -> None:
    count = {row.scheme: row.evaluations for row in table.rows if row.dtype == "float64"}
    assert (count["forward-1"], count["central-4"], count["autodiff"]) == (2, 4, 1)
    assert count["scipy.approx_derivative"] == 3
    assert count["adaptive"] > count["scipy.differentiate"] > 4


def test_only_schemes_with_a_bar_have_a_coverage(table: AccuracyTable) -> None:
    assert {row.scheme for row in table.rows if not math.isnan(row.coverage)} == {"adaptive", "scipy.differentiate"}
    assert all(row.coverage == 1 for row in table.rows if row.scheme == "adaptive")


def test_nothing_on_the_front_is_beaten_in_both(table: AccuracyTable) -> None:
    front = table.front("float64")
    assert front
    for row in front:
        assert not any(
            other.evaluations <= row.evaluations and other.median_error < row.median_error
            for other in table.by_scheme()
            if other.dtype == "float64"
        )
    with pytest.raises(ValueError, match="cost"):
        table.front("float64", "dollars")


def test_the_front_of_values_leaves_out_what_needs_more(table: AccuracyTable) -> None:
    assert [row.scheme for row in table.front("float64")] == ["autodiff"]
    front = table.front("float64", values_only=True)
    assert len(front) > 1
    assert not {row.scheme for row in front} & {"autodiff", "complex-step"}


def test_no_name_in_the_picture_covers_a_mark_or_another_name() -> None:
    figure_module = pytest.importorskip("matplotlib.figure")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    panel = figure_module.Figure(figsize=(4.5, 4.3)).subplots()
    places = {"first scheme": (1.0, 1e-8), "second scheme": (1.0, 1e-8), "third scheme": (2.0, 1.2e-8), "far": (100.0, 1e-2)}
    panel.loglog(*zip(*places.values(), strict=True), "o", markersize=6)
    panel.margins(x=0.25, y=0.1)
    size = panel.get_window_extent().size * 72 / panel.figure.dpi
    _write_beside(panel, places, size)
    FigureCanvasAgg(panel.figure).draw()
    boxes = [text.get_window_extent() for text in panel.texts]
    marks = panel.transData.transform(list(places.values()))
    assert [text.get_text() for text in panel.texts] == list(places)
    assert sum(one.overlaps(other) for one, other in itertools.combinations(boxes, 2)) == 0
    assert sum(box.contains(*mark) for box in boxes for mark in marks) == 0


def test_text_numbers_and_picture(table: AccuracyTable) -> None:
    pytest.importorskip("matplotlib")
    assert len(str(table).splitlines()) == 14
    assert len(json.loads(json.dumps(table.to_dict()))["rows"]) == 13
    assert [axis.get_title() for axis in table.plot().axes] == ["float32", "float64"]


def test_functions_of_ones_own_and_what_a_scheme_refuses() -> None:
    functions = {"abs_cube": (lambda x: jnp.abs(x) ** 3, lambda x: abs(x) ** 3)}
    table = accuracy_benchmark(functions, ["autodiff", "complex-step"], ["float64"], [-1.5, 2.0])
    assert [row.scheme for row in table.rows] == ["autodiff"]
    assert "abs" in table.skipped["complex-step on abs_cube, float64"]
    assert table.rows[0].worst_error < 1e-15


def test_a_peer_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "findiff", "no_such_module")
    table = accuracy_benchmark(["sin"], ["autodiff"], ["float64"], [1.0], ["findiff"])
    assert table.skipped == {"findiff": "not installed"}
    assert "without findiff: not installed" in str(table)


def test_references_that_do_not_agree_stop_the_benchmark() -> None:
    with pytest.raises(ArithmeticError, match="do not agree"):
        certified_derivatives(lambda x: mp.sqrt(abs(x)), [0.0], 2)
    assert float(certified_derivatives(mp.sin, [0.5], 2)[0]) == -math.sin(0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"functions": ["sine"]}, "functions has 'sine'"),
        ({"schemes": ["adaptiv"]}, "schemes has 'adaptiv'"),
        ({"dtypes": ["float16"]}, "float16"),
        ({"points": [math.nan]}, "points"),
        ({"peers": ["autograd"]}, "autograd"),
    ],
)
def test_unknown_names_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy_benchmark(**({"functions": ["sin"], "schemes": ["autodiff"]} | changes))


def test_experiment_sets_error_against_cost_and_says_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "findiff", "no_such_module")
    options = {"functions": ["sin"], "schemes": ["central-2"], "derivatives": [1], "dtypes": ["float64"], "num_points": 3}
    experiment = Accuracy(**options, cost_functions=["sin"], peers=["scipy.differentiate", "findiff"])
    outcome = experiment.run(Context(seed=0, precision="float64", notify=lambda text: None))
    rows = {row["scheme"]: row for row in outcome.tables["cost"].rows}
    assert set(rows) == {"autodiff", "complex-step", "adaptive", "central-2", "scipy.differentiate"}
    assert rows["central-2"]["evaluations"] == 2
    assert "coverage" not in rows["central-2"]
    assert outcome.tables["left_out"].rows == [{"scheme": "findiff", "reason": "not installed"}]
    assert set(experiment.figures(outcome)) == {"step_size", "cost", "time"}
