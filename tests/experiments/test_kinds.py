"""Every kind, small: what it finds is right, its verdicts can fail, and the same seed gives the same tables."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxdiff.experiments import config, run
from jaxdiff.experiments.base import Context, Outcome
from jaxdiff.experiments.kinds import KINDS

SMALL: dict[str, dict[str, Any]] = {
    "accuracy": {"functions": ["sin"], "schemes": ["forward-1", "central-2"], "derivatives": [1], "dtypes": ["float64"], "num_points": 8},
    "documented_derivatives": {"activations": ["tanh", "relu", "softmax"], "losses": ["mse", "kl_divergence"], "num_points": 8},
    "gradient_flow": {"depths": [8], "activations": ["relu"], "initializations": ["glorot"], "width": 128, "num_samples": 16},
    "optimizers": {"problems": ["himmelblau"], "solvers": [{"name": "newton"}, {"name": "gradient_descent", "max_steps": 3}]},
    "nist": {"datasets": ["DanWood"]},
    "classification": {"solvers": [{"name": "adam", "learning_rate": 0.1}], "max_steps": 40, "min_accuracy": 0.85},
    "batch": {"num_problems": 64, "num_loop": 8, "num_scipy": 4, "repeats": 1},
}


def context(**changes: Any) -> Context:
    return Context(**({"seed": 0, "precision": "float64", "notify": lambda text: None} | changes))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> run.Finished:
    folder = tmp_path_factory.mktemp("runs")
    tables = [{"kind": kind} | options for kind, options in SMALL.items()]
    return run.run(config.validate({"name": "small", "output": str(folder), "experiment": tables}))


def record(finished: run.Finished, kind: str) -> run.Record:
    return next(item for item in finished.records if item.kind == kind)


def rows(finished: run.Finished, kind: str, table: str) -> list[dict[str, Any]]:
    outcome = record(finished, kind).outcome
    assert outcome is not None
    return outcome.tables[table].rows


def test_there_is_a_small_version_of_every_kind() -> None:
    assert set(SMALL) == set(KINDS)


@pytest.mark.parametrize("kind", SMALL)
def test_kind_runs_with_tables_verdicts_and_pictures(kind: str, finished: run.Finished) -> None:
    item = record(finished, kind)
    assert item.error is None
    assert item.status == "ok"
    assert any(verdict.is_good for verdict in item.verdicts)
    position = list(SMALL).index(kind)
    pictures = list((finished.folder / "experiments" / f"{position:02d}-{kind}" / "figures").glob("*-light.png"))
    assert pictures
    assert all(picture.stat().st_size > 4000 for picture in pictures)
    for table in item.outcome.tables.values():
        assert table.rows
        assert {column.key for column in table.columns} & set(table.rows[0])


def test_same_seed_gives_the_same_tables_but_for_times(finished: run.Finished, tmp_path: Path) -> None:
    kinds = ("accuracy", "optimizers", "batch")
    tables = [{"kind": kind} | SMALL[kind] for kind in kinds]
    again = run.run(config.validate({"name": "small", "output": str(tmp_path), "experiment": tables}))
    for kind in kinds:
        first, second = record(finished, kind).outcome, record(again, kind).outcome
        for name, table in first.tables.items():
            timed = {column.key for column in table.columns if column.is_timing}
            untimed = lambda found: [{key: value for key, value in row.items() if key not in timed} for row in found.rows]  # noqa: B023, E731
            assert repr(untimed(table)) == repr(untimed(second.tables[name]))
        for name, array in first.arrays.items():
            np.testing.assert_array_equal(array, second.arrays[name])


def test_another_seed_gives_other_points() -> None:
    draws = [context(seed=seed).rng("points").random(3).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert context().rng("points").random() != context().rng("other").random()


def test_central_differences_are_more_accurate_than_forward_and_autodiff_than_both(finished: run.Finished) -> None:
    error = {row["scheme"]: row["median"] for row in rows(finished, "accuracy", "by_scheme")}
    assert error["autodiff"] < error["central-2"] < error["forward-1"]
    # Rounding and truncation in balance: sqrt(eps) and eps^(2/3), within a factor of ten.
    assert 1e-9 < error["forward-1"] < 2e-7
    assert 1e-12 < error["central-2"] < 4e-10


def test_step_sweep_is_a_u_whose_sides_have_the_slopes_of_truncation_and_rounding(finished: run.Finished) -> None:
    arrays = record(finished, "accuracy").outcome.arrays
    steps = np.log2(arrays["steps_float64"].astype(float))
    for scheme, order in (("forward-1", 1), ("central-2", 2)):
        errors = np.log2(arrays[f"error_float64_{scheme}"])
        right = np.polyfit(steps[-8:-2], errors[-8:-2], 1)[0]
        left = np.polyfit(steps[:12], errors[:12], 1)[0]
        assert right == pytest.approx(order, abs=0.2)
        assert left == pytest.approx(-1, abs=0.3)
        row = next(row for row in rows(finished, "accuracy", "step") if row["scheme"] == scheme)
        assert (row["rounding"], row["truncation"]) == (pytest.approx(-1, abs=0.1), pytest.approx(order, abs=0.1))
    worse = [row | {"truncation": row["order"] - 1.0} for row in rows(finished, "accuracy", "step")]
    outcome = Outcome({**record(finished, "accuracy").outcome.tables, "step": _table("step", worse).tables["step"]})
    verdicts = KINDS["accuracy"](**SMALL["accuracy"]).verdicts(outcome)
    assert [verdict.is_good for verdict in verdicts if "Truncation" in verdict.text] == [False]


def test_documented_derivative_that_is_wrong_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from jaxdiff.functions.activations import ACTIVATIONS

    # The textbook form, which loses every digit in the tail.
    naive = dataclasses.replace(ACTIVATIONS["tanh"], derivative=lambda x: 1 - ACTIVATIONS["tanh"].value(x) ** 2)
    monkeypatch.setitem(ACTIVATIONS, "tanh", naive)
    experiment = KINDS["documented_derivatives"](activations=["tanh"], losses=[], dtypes=["float32"], num_points=16)
    outcome = experiment.run(context())
    assert outcome.tables["derivatives"].rows[0]["verdict"] == "WRONG"
    assert experiment.verdicts(outcome)[0].is_good is False


def test_documented_loss_derivative_that_forgets_the_mean_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from jaxdiff.functions.losses import LOSSES

    def forgets(prediction: Any, target: Any, *, reduction: str = "mean") -> Any:
        return 2 * (prediction - target)

    monkeypatch.setitem(LOSSES, "mse", dataclasses.replace(LOSSES["mse"], derivative=forgets))
    experiment = KINDS["documented_derivatives"](activations=[], losses=["mse"], dtypes=["float64"], num_points=8)
    outcome = experiment.run(context())
    assert outcome.tables["derivatives"].rows[0]["verdict"] == "WRONG"


def test_registered_function_without_reference_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxdiff.functions.activations import ACTIVATIONS

    monkeypatch.setitem(ACTIVATIONS, "brand_new", ACTIVATIONS["tanh"])
    experiment = KINDS["documented_derivatives"](activations=["brand_new"], losses=[], dtypes=["float64"], num_points=4)
    outcome = experiment.run(context())
    assert outcome.tables["derivatives"].rows[0]["verdict"] == "no reference"
    assert experiment.verdicts(outcome)[0].is_good is False


def test_relu_networks_lose_the_signal_that_theory_says(finished: run.Finished) -> None:
    (row,) = rows(finished, "gradient_flow", "flow")
    # He et al. (2015): width times the variance of a weight, 1 for Glorot's, times one half; and 128 units keep to it this closely.
    assert row["growth"] == pytest.approx(math.sqrt(0.5), rel=0.1)
    assert row["flow"] == "fine"
    signal = record(finished, "gradient_flow").outcome.arrays["signal_relu_glorot_8"]
    assert len(signal) == 9
    experiment = KINDS["gradient_flow"](**SMALL["gradient_flow"])
    worse = [row | {"growth": 0.5, "flow": "vanishing"}]
    verdicts = experiment.verdicts(_table("flow", worse))
    assert [verdict.is_good for verdict in verdicts] == [False, None]
    assert "vanishing: relu from glorot, 8 layers" in verdicts[1].text
    with pytest.raises(ValueError, match="softmax takes a whole axis"):
        KINDS["gradient_flow"](activations=["softmax"])


def test_newton_finds_a_minimizer_of_himmelblau_and_three_steps_of_descent_say_so(finished: run.Finished) -> None:
    newton, descent = rows(finished, "optimizers", "runs")
    assert newton["finding"] == "minimizer"
    assert newton["distance"] < 1e-8
    assert (descent["status"], descent["finding"], descent["nit"]) == ("MAX_STEPS", "not converged", 3)
    path = record(finished, "optimizers").outcome.arrays["himmelblau_0_path"]
    assert len(path) == newton["nit"] + 1


def test_success_far_from_every_minimum_is_called_false() -> None:
    from jaxdiff.experiments.kinds.optimizers import _finding, _problem

    problem = _problem("himmelblau")
    assert _finding(problem, np.array([0.0, 0.0]), success=True, is_near=False) == "FALSE SUCCESS"
    # Himmelblau's local maximum: the gradient vanishes, the curvature is negative.
    assert _finding(problem, np.array([-0.270845, -0.923039]), success=True, is_near=False) == "FALSE SUCCESS"
    assert _finding(problem, np.array([3.0, 2.0]), success=False, is_near=True) == "at a minimizer, but does not say so"
    experiment = KINDS["optimizers"](**SMALL["optimizers"])
    good = {"problem": "himmelblau", "solver": "newton", "success": True, "nit": 1, "status": "CONVERGED_GRADIENT", "finding": "minimizer"}
    table = _table("runs", [good, good | {"finding": "FALSE SUCCESS"}])
    assert experiment.verdicts(table)[0].is_good is False


def test_danwood_is_solved_to_the_certified_digits_from_both_starts(finished: run.Finished) -> None:
    for row in rows(finished, "nist", "runs"):
        assert row["finding"] == "certified"
        assert row["digits"] >= 8
        assert row["rss"] == pytest.approx(4.3173084083e-03, rel=1e-9)  # NIST's certified residual sum of squares


def test_nist_finding_judges_by_geometry_and_not_by_the_solver() -> None:
    from jaxdiff.experiments.kinds.nist import _finding
    from jaxdiff.functions.nist import load_nist

    data = load_nist("Eckerle4")
    assert _finding(True, 9.0, data, data.certified, "float64") == "certified"
    assert _finding(False, 9.0, data, data.certified, "float64") == "certified, says otherwise"
    assert _finding(False, 0.0, data, data.start2, "float64") == "not converged"
    assert _finding(True, 0.0, data, data.start2, "float64") == "FALSE SUCCESS"
    # A peak far outside the data: the model is zero to the last bit, whatever its parameters.
    assert _finding(True, 0.0, data, np.array([1.0, 0.1, 5000.0]), "float64") == "plateau"
    experiment = KINDS["nist"](**SMALL["nist"])
    row = {"dataset": "DanWood", "start": 1, "finding": "FALSE SUCCESS", "digits": 0.0, "status": "CONVERGED_GRADIENT", "nit": 3}
    assert experiment.verdicts(_table("runs", [row]))[0].is_good is False


def test_confusion_matrix_counts_every_digit_held_back_once(finished: run.Finished) -> None:
    confusion = record(finished, "classification").outcome.arrays["confusion"]
    (row,) = rows(finished, "classification", "training")
    assert confusion.sum() == 449  # a quarter of 1,797
    assert np.trace(confusion) / confusion.sum() == pytest.approx(row["test"])
    assert row["test"] > 0.85


def test_digits_held_back_are_never_trained_on_and_depend_on_the_seed() -> None:
    orders = [context(seed=seed).rng("split").permutation(1797)[:449].tolist() for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_accuracy_below_what_was_asked_fails_the_run(finished: run.Finished) -> None:
    experiment = KINDS["classification"](**(SMALL["classification"] | {"min_accuracy": 1.0}))
    assert experiment.verdicts(record(finished, "classification").outcome)[0].is_good is False


def test_batch_loop_and_scipy_end_at_the_same_cost(finished: run.Finished) -> None:
    for row in rows(finished, "batch", "speed"):
        assert row["matched"] == 1.0
        assert row["solved"] == 1.0
        assert row["seconds"] > 0
    cost = record(finished, "batch").outcome.arrays["cost"]
    assert len(cost) == 64
    assert np.max(cost) < 1e-12  # (a - x)^2 + b (y - x^2)^2 is zero at its minimum


def test_batch_of_another_cost_does_not_pass_for_faster(finished: run.Finished) -> None:
    item = record(finished, "batch")
    speed = item.outcome.tables["speed"]
    worse = [row | {"matched": 0.99} if row["method"] == "loop over jit" else row for row in speed.rows]
    verdicts = KINDS["batch"](**SMALL["batch"]).verdicts(_table("speed", worse))
    assert verdicts[1].is_good is False


@pytest.mark.parametrize("family", ["rosenbrock", "logistic"])
def test_gradients_written_for_scipy_are_those_of_the_objective(family: str) -> None:
    import jax

    from jaxdiff.experiments.kinds.batch import _FAMILIES

    entry = _FAMILIES[family]
    starts, data = entry.draw(np.random.default_rng(0), 3)
    x = starts[1] + 0.3
    value, gradient = entry.value_and_gradient(x, *(item[1] for item in data))
    expected, expected_gradient = jax.value_and_grad(entry.objective)(x, *(item[1] for item in data))
    assert value == pytest.approx(float(expected), rel=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-11)


def _table(name: str, found: list[dict[str, Any]]) -> Outcome:
    from jaxdiff.experiments.base import Table

    return Outcome({name: Table(name, [], found)})
