"""Budgets of evaluations, callbacks, printed progress, and what a result says of its bounds."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


def rosenbrock(x: jax.Array) -> jax.Array:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


@pytest.mark.core
def test_a_budget_of_evaluations_ends_a_run_with_a_status_of_its_own() -> None:
    result = jd.minimize(rosenbrock, [-1.2, 1.0], max_evals=7)
    assert result.status == jd.Status.MAX_EVALS
    assert (int(result.nfev), int(result.nit)) == (7, 6)
    by_differences = jd.minimize(rosenbrock, [-1.2, 1.0], max_evals=7, derivatives=jd.FiniteDifference())
    assert by_differences.status == jd.Status.MAX_EVALS
    assert int(by_differences.nit) == 1, "a gradient of two parameters costs five evaluations"
    batch = jd.minimize_batch(
        rosenbrock, [[1.0, 1.0], [-1.2, 1.0], [0.9, 0.8]], max_evals=7, options=jd.BatchOptions(mode="refill", lanes=2)
    )
    assert [jd.Status(int(status)).name for status in batch.status] == ["CONVERGED_GRADIENT", "MAX_EVALS", "MAX_EVALS"]


@pytest.mark.core
def test_a_callback_sees_every_step_in_order() -> None:
    seen: list[jd.Progress] = []
    result = jd.minimize(lambda x: rosenbrock(x["p"]), {"p": [-1.2, 1.0]}, callback=seen.append, bounds=(None, 1.5))
    assert [progress.num_steps for progress in seen] == list(range(int(result.nit) + 1))
    assert seen[0].value == pytest.approx(24.2)
    assert seen[-1].status == jd.Status.CONVERGED_GRADIENT
    assert {progress.status for progress in seen[:-1]} == {jd.Status.RUNNING}
    np.testing.assert_array_equal(seen[-1].x["p"], result.x["p"])
    assert seen[-1].optimality == float(result.optimality)
    values = [progress.value for progress in seen]
    assert values == sorted(values, reverse=True)


def test_the_same_callback_compiles_once_and_none_leaves_the_program_as_it_was() -> None:
    traces = 0

    def fun(x: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        return rosenbrock(x)

    seen: list[Any] = []
    jd.minimize(fun, [-1.2, 1.0])
    before = traces
    assert before > 0
    jd.minimize(fun, [-1.2, 1.0], callback=None)
    jd.minimize(fun, [-1.2, 1.0], max_evals=None, verbose=0)
    assert traces == before
    jd.minimize(fun, [-1.2, 1.0], callback=seen.append)
    once = traces
    assert once > before
    jd.minimize(fun, [-1.2, 1.0], callback=seen.append)
    assert traces == once


def test_verbose_prints_a_row_for_every_step_and_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    result = jd.minimize(rosenbrock, [-1.2, 1.0], verbose=2, max_steps=5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", "evaluations", "f", "reduction", "step", "length", "optimality"]
    assert [int(line.split()[0]) for line in lines[1:7]] == list(range(6))
    assert [len(line.split()) for line in lines[1:7]] == [4, *[6] * 5], "at the start there is neither a step nor a reduction"
    assert "Not converged: max_steps were taken." in lines[7]
    assert float(lines[6].split()[2]) == pytest.approx(float(result.fun), rel=1e-8)
    jd.minimize(rosenbrock, [-1.2, 1.0], verbose=1, max_steps=5)
    assert capsys.readouterr().out == str(result) + "\n"


@pytest.mark.core
def test_fits_report_their_steps_and_a_history_keeps_damping_and_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    residual = lambda x: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])  # noqa: E731
    seen: list[jd.Progress] = []
    result = jd.least_squares(residual, [-1.2, 1.0], callback=seen.append, verbose=2, history=True, scale=[1.0, 4.0])
    count = int(result.nit) + 1
    assert [progress.num_steps for progress in seen] == list(range(count))
    assert len(capsys.readouterr().out.splitlines()) == count + 1 + len(str(result).splitlines())
    history = result.history
    assert history is not None
    x = np.asarray(history.x)[:count]
    np.testing.assert_array_equal(x[0], [-1.2, 1.0])
    np.testing.assert_allclose(history.step_length[1:count], np.linalg.norm(np.diff(x, axis=0), axis=1), rtol=1e-12)
    assert (np.asarray(history.damping)[:count] > 0).all()
    np.testing.assert_array_equal([p.damping for p in seen], history.damping[:count])
    np.testing.assert_array_equal([p.step_length for p in seen][1:], history.step_length[1:count])
    np.testing.assert_allclose([p.reduction for p in seen][1:], -np.diff(history.value[:count]), rtol=1e-12)
    assert np.isnan(np.asarray(history.value)[count:]).all()


def test_a_result_names_the_parameters_on_their_bounds() -> None:
    fun = lambda x: (x["u"] - 1) ** 2 + jnp.sum((x["v"] - 3) ** 2)  # noqa: E731
    lower, upper = {"u": 2.0, "v": jnp.array([0.0, 0.0])}, {"u": 9.0, "v": jnp.array([2.0, 0.0])}
    result = jd.minimize(fun, {"u": 5.0, "v": jnp.zeros(2)}, bounds=(lower, upper))
    expected = "x['u'] lower, x['v'][0] upper, x['v'][1] fixed"
    assert f"at bound: {expected}" in str(result)
    assert "at bound" in result._repr_html_()
    assert result.to_dict()["at_bound"]["v"].tolist() == [1, 2]
    assert result.to_dict()["covariance"] is None
    batch = jd.minimize_batch(rosenbrock, np.zeros((3, 2)), bounds=(None, np.array([0.5, np.inf])))
    assert "at bound: 3 of 6 parameters" in str(batch)
    assert "at bound" not in str(jd.minimize(rosenbrock, [0.0, 0.0]))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_evals": 0}, ValueError, "max_evals = 0; expected an integer >= 1"),
        ({"max_evals": 2.5}, ValueError, "max_evals = 2.5; expected an integer >= 1"),
        ({"verbose": 3}, ValueError, "verbose = 3; expected 0, 1 or 2"),
        ({"callback": "print"}, TypeError, "callback = 'print'; expected a function of a Progress"),
        ({"maxfev": 10}, TypeError, "unexpected keyword argument 'maxfev'; did you mean 'max_evals'"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jd.minimize(rosenbrock, [-1.2, 1.0], **options)
