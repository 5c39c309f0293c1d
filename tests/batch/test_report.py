"""The report of a batch says what became of its problems."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


def slow_or_fast(x: jax.Array, rate: jax.Array) -> jax.Array:
    return jnp.sum((x - 1) ** 2) * rate


def gradient_descent(mode: str, max_steps: int = 40) -> jd.OptimizeResult:
    """Fixed steps of 0.5: at a rate of one the first step hits the minimum, at 0.3 it takes many; a NaN never starts."""
    rates = np.where(np.arange(16) % 4 == 0, 0.3, 1.0)
    rates[5] = np.nan
    solver = jd.GradientDescent(learning_rate=0.5)
    options = jd.BatchOptions(mode=mode, lanes=4, check_every=1, num_threads=1)
    return jd.minimize_batch(slow_or_fast, np.zeros((16, 2)), rates, solver=solver, max_steps=max_steps, options=options)


def test_counts_steps_and_the_worst_are_those_of_the_result() -> None:
    result = gradient_descent("refill")
    report = result.report(seconds=2.0)
    assert report.num_problems == 16
    assert report.num_solved == int(result.success.sum())
    assert sum(report.statuses.values()) == 16
    assert report.statuses["NON_FINITE_START"] == 1
    assert report.nit[1.0] == result.nit.max()
    assert report.nit[0.5] == np.median(result.nit)
    assert report.worst[0].index == 5
    assert [problem.index % 4 for problem in report.worst[1:]] == [0] * 4
    assert report.problems_per_second == 8.0
    assert report.num_rescued is None


def test_straggler_efficiency_is_steps_made_over_steps_run() -> None:
    """In lockstep each block of four pays its slowest lane four times; with retirement after every step only the end is idle."""
    lockstep, refill = gradient_descent("lockstep"), gradient_descent("refill")
    made = np.asarray(lockstep.nit) + 1
    paid = 4 * made.reshape(4, 4).max(axis=1).sum()
    assert lockstep.report().steps_made == made.sum()
    assert lockstep.report().steps_paid == paid
    assert lockstep.report().straggler_efficiency == pytest.approx(made.sum() / paid)
    # Lanes take the next problem in order: the queue written out by hand.
    free = [0] * 4
    for steps in np.asarray(refill.nit) + 1:
        lane = free.index(min(free))
        free[lane] += int(steps)
    assert refill.report().steps_paid == pytest.approx(4 * max(free), rel=1e-6)
    assert 1 >= refill.report().straggler_efficiency > lockstep.report().straggler_efficiency


def test_every_form_of_the_report_says_the_same() -> None:
    report = gradient_descent("refill").report()
    as_json = json.loads(json.dumps(report.to_dict()))
    assert as_json["statuses"] == dict(report.statuses)
    assert as_json["nit"]["100%"] == report.nit[1.0]
    text, page = str(report), report._repr_html_()
    for word in ("NON_FINITE_START", "straggler efficiency", f"{report.num_solved:,} ("):
        assert word in text
        assert word in page or word.strip("( ") in page
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report)
    assert "NON_FINITE_START" in console.export_text()


def test_fits_and_roots_report_too() -> None:
    width = np.array([1, 1e-5], np.float32)
    lines = lambda x, width: jnp.stack([x[0] + x[1] - 3, width * (x[0] - x[1] + 1)])  # noqa: E731
    fit = jd.least_squares_batch(lines, np.zeros((2, 2), np.float32), width)
    assert fit.report().num_rescued == 1
    roots = jd.root_batch(lambda x, a: x * x - a, jnp.ones(3), jnp.array([1.0, 4.0, -1.0]))
    report = roots.report(num_worst=1)
    assert (report.num_solved, report.worst[0].index, len(report.worst)) == (2, 2, 1)
    assert report.straggler_efficiency > 0


def test_what_cannot_be_reported_is_said() -> None:
    one = jd.minimize(lambda x: x**2, 1.0)
    with pytest.raises(ValueError, match=r"status has shape \(\); expected a batch"):
        one.report()
    batch = jd.minimize_batch(lambda x: x**2, np.ones(3))
    with pytest.raises(ValueError, match=r"seconds = 0.0; expected a positive,"):
        batch.report(seconds=0.0)
    with pytest.raises(TypeError, match=r"report\(\) needs values"):
        jax.jit(lambda x: jd.minimize_batch(lambda x: x**2, x).report())(np.ones(3))
    assert jd.minimize_batch(lambda x: jnp.sum(x**2), np.ones((0, 2))).report().num_problems == 0
