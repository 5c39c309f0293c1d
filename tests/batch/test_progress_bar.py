"""The bar of a batch: it counts every problem, on standard error alone, and changes no bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.batch import progress


def fun(x: jax.Array, c: jax.Array) -> jax.Array:
    return (1 - x[0]) ** 2 + c * (x[1] - x[0] ** 2) ** 2


def solve(**options: object) -> jd.OptimizeResult:
    starts = np.random.default_rng(0).uniform(-2, 2, (230, 2))
    chosen = jd.BatchOptions(**{"lanes": 16, "num_threads": 1} | options)
    return jd.minimize_batch(fun, starts, np.linspace(1, 20, 230), options=chosen)


@pytest.mark.parametrize(("mode", "num_threads"), [("refill", 2), ("lockstep", 1)])
def test_a_bar_hears_of_every_problem_and_changes_no_bit(
    mode: str, num_threads: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[int] = []
    add = progress.Bar.add
    monkeypatch.setattr(progress.Bar, "add", lambda bar, count: (heard.append(count), add(bar, count))[1])
    with_bar = solve(mode=mode, num_threads=num_threads, progress=True)
    output = capsys.readouterr()
    without = solve(mode=mode, num_threads=num_threads)
    # The last is what the program has not told.
    assert sum(heard) >= 230
    assert len(heard) > 5
    assert 0 <= heard[-1] < 64
    assert "230/230" in output.err
    assert output.out == ""
    for name in ("x", "fun", "jac", "nit", "nfev", "status", "steps_paid"):
        np.testing.assert_array_equal(getattr(with_bar, name), getattr(without, name))


def test_nothing_is_drawn_without_asking_nor_under_jit(capsys: pytest.CaptureFixture[str]) -> None:
    solve()
    options = jd.BatchOptions(lanes=4, progress=True)
    jax.jit(lambda x: jd.minimize_batch(lambda x: jnp.sum(x**2), x, options=options).x)(np.ones((9, 1)))
    assert capsys.readouterr() == ("", "")


def test_progress_is_true_or_false() -> None:
    with pytest.raises(ValueError, match="progress = 'yes'; expected True or False"):
        jd.BatchOptions(progress="yes")
