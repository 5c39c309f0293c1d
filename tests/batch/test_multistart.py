"""Many starts: Halton's points, the minima that a closed form counts, pruning, and clear errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxdiff as jd
from jaxdiff.batch.halton import halton

ONE = jd.BatchOptions(num_threads=1, lanes=64)


def test_plain_points_are_those_of_scipy() -> None:
    reference = scipy.stats.qmc.Halton(7, scramble=False).random(200)
    np.testing.assert_allclose(halton(200, 7, None), reference, atol=1e-15)


def test_permuted_points_differ_by_seed_and_fill_the_cube_more_evenly_than_chance() -> None:
    points = halton(256, 6, np.random.default_rng(0))
    assert ((points >= 0) & (points < 1)).all()
    assert not np.array_equal(points, halton(256, 6, np.random.default_rng(1)))
    chance = np.random.default_rng(0).random((256, 6))
    assert scipy.stats.qmc.discrepancy(points) < 0.3 * scipy.stats.qmc.discrepancy(chance)


def wells(x: jax.Array, tilt: jax.Array) -> jax.Array:
    """Four minima, close to (+-1, +-1); the tilt makes that of the lowest signs the lowest."""
    return jnp.sum((x**2 - 1) ** 2 + tilt * x)


@pytest.fixture(scope="module")
def found() -> jd.MultistartResult:
    tilts = np.array([0.1, -0.2, 0.0])
    return jd.multistart(wells, 64, tilts, in_axes=(None, 0), bounds=(np.full(2, -2.0), np.full(2, 2.0)), solver=jd.BFGS(), options=ONE)


def test_every_minimum_of_every_problem_is_found_once(found: jd.MultistartResult) -> None:
    np.testing.assert_array_equal(found.num_minima, 4)
    np.testing.assert_array_equal(np.sum(found.basin_counts, axis=1) + found.num_failed, 64)
    for tilt, points, values in zip([0.1, -0.2, 0.0], found.minima, found.minima_fun, strict=True):
        # Roots of the derivative 4 x^3 - 4 x + tilt, the middle one a maximum.
        low, _, high = np.sort(np.roots([4, 0, -4, tilt]).real)
        signs = {tuple(np.sign(point)) for point in np.asarray(points)}
        assert len(signs) == 4
        np.testing.assert_allclose(points, np.where(np.asarray(points) < 0, low, high), atol=1e-6)
        assert (np.diff(values) >= 0).all()


def test_the_best_is_the_global_minimum(found: jd.MultistartResult) -> None:
    np.testing.assert_array_equal(np.sign(found.best.x[:2]), [[-1, -1], [1, 1]])
    np.testing.assert_array_equal(found.best.fun, np.min(np.asarray(found.runs.fun), axis=1))
    assert found.best.success.all()


def test_starts_of_each_problem_and_runs_that_fail() -> None:
    """One start is NaN: it fails, and is counted as failed and in no basin."""
    starts = np.array([[[-2.0, -2.0], [2.0, 2.0], [np.nan, 0.0]], [[-2.0, 2.0], [2.0, -2.0], [-1.0, 1.5]]])
    result = jd.multistart(wells, starts, np.array([0.1, 0.1]), in_axes=(0, 0), options=ONE)
    np.testing.assert_array_equal(result.num_minima, [2, 2])
    np.testing.assert_array_equal(result.num_failed, [1, 0])
    # The minima of the second problem are equally low, in either order.
    np.testing.assert_array_equal(np.sort(result.basin_counts, axis=1), [[1, 1], [1, 2]])
    np.testing.assert_array_equal(np.sign(result.best.x[0]), [-1, -1])
    assert result.runs.status_name.count("NON_FINITE_START") == 1


def test_pruning_keeps_the_runs_that_are_lowest_after_the_coarse_steps() -> None:
    starts = np.linspace(-3, 3, 25)[:, None]
    slope = lambda x: jnp.sum((x**2 - 1) ** 2 + x)  # noqa: E731
    result = jd.multistart(slope, starts, keep=6, coarse_steps=8, options=ONE)
    assert result.runs.status.shape == (6,)
    assert result.starts.shape == (25, 1)
    # The other minimum lies two higher: nothing of it is left.
    assert int(result.num_minima) == 1
    np.testing.assert_allclose(result.best.x, np.min(np.roots([4, 0, -4, 1]).real), atol=1e-7)


def test_least_squares_of_residuals() -> None:
    times = np.linspace(0, 3, 20)
    y = np.sin(2.0 * times)
    result = jd.multistart(lambda w, t, y: jnp.sin(w * t) - y, np.linspace(0.5, 8.0, 24), (times, y), kind="least_squares", options=ONE)
    assert int(result.num_minima) > 1
    np.testing.assert_allclose(result.best.x, 2.0, rtol=1e-9)
    assert isinstance(result.best, jd.FitResult)
    assert "minima from 24 runs" in str(result)


def test_what_cannot_be_drawn_or_kept_is_said() -> None:
    box = (np.zeros(2), np.ones(2))
    with pytest.raises(ValueError, match=r"starts = 8 with bounds = None; expected bounds"):
        jd.multistart(wells, 8, 0.1)
    with pytest.raises(ValueError, match="expected finite bounds to draw"):
        jd.multistart(wells, 8, 0.1, bounds=(np.zeros(2), np.full(2, np.inf)))
    with pytest.raises(ValueError, match=r"starts = 0; expected an integer >= 1"):
        jd.multistart(wells, 0, 0.1, bounds=box)
    with pytest.raises(ValueError, match=r"keep = 9 of 8 starts"):
        jd.multistart(wells, 8, 0.1, bounds=box, keep=9)
    with pytest.raises(ValueError, match="kind = 'root'"):
        jd.multistart(wells, 8, 0.1, bounds=box, kind="root")
    with pytest.raises(TypeError, match="did you mean 'starts'"):
        jd.multistart(wells, x0=np.ones((2, 2)))
    with pytest.raises(TypeError, match="multistart counts minima on the host"):
        jax.jit(lambda a: jd.multistart(wells, 8, a, bounds=box).best.fun)(0.1)
    with pytest.raises(jd.OptimizationError, match="1 of 1 problems have no run that converged"):
        jd.multistart(wells, np.full((3, 2), np.nan), 0.1, throw=True, options=ONE)
