"""Least squares by the batch: the answers of one by one, rescue, threads, reordered sums, and independence of the neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxdiff as jd
from jaxdiff.batch import execute
from jaxdiff.functions.nist import load_nist, log_relative_error
from jaxdiff.solvers import levenberg_marquardt_cholesky

TIMES = np.linspace(0.2, 6.0, 16)
FIELDS = ("x", "fun", "jac", "nit", "nfev", "status", "residuals")


def decay(p: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
    a, rate, c = p
    return a * jnp.exp(-rate * t) + c - y


def decays(count: int, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = np.stack([rng.uniform(1, 3, count), rng.uniform(0.3, 1.5, count), rng.uniform(0, 0.5, count)], axis=1)
    y = truth[:, :1] * np.exp(-truth[:, 1:2] * TIMES) + truth[:, 2:] + 0.02 * rng.normal(size=(count, TIMES.size))
    return (truth * rng.uniform(0.7, 1.3, truth.shape)).astype(dtype), y.astype(dtype)


def solve(starts: np.ndarray, y: np.ndarray, **options: object) -> jd.FitResult:
    chosen = jd.BatchOptions(**{"mode": "refill", "lanes": 32, "num_threads": 1} | options)
    return jd.least_squares_batch(decay, starts, (TIMES.astype(y.dtype), y), in_axes=(0, None, 0), options=chosen)


@pytest.mark.core
def test_every_problem_ends_at_the_minimum_that_scipy_finds(dtype: str) -> None:
    starts, y = decays(100, dtype)
    result = solve(starts, y)
    assert result.success.all()
    # Normal equations in single precision leave one of some two hundred of these short of what they claim.
    assert result.rescued.sum() <= (2 if dtype == "float32" else 0)
    jacobian = jax.jit(jax.jacfwd(decay))
    for i in range(0, 100, 9):
        reference = scipy.optimize.least_squares(
            lambda p, i=i: np.asarray(decay(p, TIMES, y[i].astype(float))),
            starts[i],
            jac=lambda p, i=i: np.asarray(jacobian(jnp.asarray(p), TIMES, y[i].astype(float))),
            xtol=1e-14,
            ftol=1e-14,
            gtol=1e-14,
        )
        # Residuals of 0.02 are differences of numbers about 3: each carries 150 eps of itself in rounding, and its square twice that.
        np.testing.assert_allclose(result.fun[i], reference.cost, rtol=300 * np.finfo(dtype).eps)


def test_sums_in_another_order_give_the_same_minima() -> None:
    starts, y = decays(100)
    free, fixed = solve(starts, y, reassociate=True), solve(starts, y, reassociate=False)
    np.testing.assert_array_equal(free.success, fixed.success)
    np.testing.assert_allclose(free.fun, fixed.fun, rtol=1e-12)
    np.testing.assert_allclose(free.x, fixed.x, rtol=1e-6)


def test_finite_differences_are_never_reassociated() -> None:
    starts, y = decays(9)
    options = jd.BatchOptions(reassociate=True)
    with pytest.raises(ValueError, match="reassociate = True would fold finite differences"):
        jd.least_squares_batch(decay, starts, (TIMES, y), in_axes=(0, None, 0), derivatives=jd.FiniteDifference(), options=options)


def test_two_engines_give_the_bits_of_one() -> None:
    """An odd number of problems: the two parts overlap by one."""
    starts, y = decays(101)
    one, two = solve(starts, y), solve(starts, y, num_threads=2)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(one, field), getattr(two, field))


def test_programs_that_call_vendor_routines_do_not_run_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """On two cores two of them were seen to wait for each other without end."""
    sizes = []
    pool = execute.concurrent.futures.ThreadPoolExecutor
    monkeypatch.setattr(execute.concurrent.futures, "ThreadPoolExecutor", lambda size: sizes.append(size) or pool(size))
    starts, y = decays(101)
    sizes_of_first = 0
    for solver in (jd.LevenbergMarquardtCholesky(), jd.LevenbergMarquardt()):
        options = jd.BatchOptions(mode="refill", lanes=32, num_threads=2)
        # The first time the first part is solved alone, for it compiles, and here one other is left.
        for _ in range(2):
            jd.least_squares_batch(decay, starts, (TIMES, y), in_axes=(0, None, 0), solver=solver, options=options)
        # One thread beside that of the caller for the first solver, and none more for the other.
        assert set(sizes) == {1}
        sizes_of_first = sizes_of_first or len(sizes)
    assert len(sizes) == sizes_of_first


@pytest.mark.core
def test_neither_order_nor_bad_neighbours_change_a_bit_or_a_step() -> None:
    starts, y = decays(100, "float32")
    clean = solve(starts, y)
    order = np.random.default_rng(1).permutation(100)
    y_bad = y.copy()
    y_bad[[5, 77], 3] = np.nan
    shuffled, bad = solve(starts[order], y[order]), solve(starts, y_bad)
    others = np.delete(np.arange(100), [5, 77])
    for field in FIELDS:
        np.testing.assert_array_equal(np.asarray(getattr(clean, field))[order], getattr(shuffled, field))
        np.testing.assert_array_equal(np.asarray(getattr(clean, field))[others], np.asarray(getattr(bad, field))[others])
    np.testing.assert_array_equal(np.asarray(bad.status)[[5, 77]], jd.Status.NON_FINITE_START)
    np.testing.assert_array_equal(np.asarray(bad.nit)[[5, 77]], 0)


def test_what_the_normal_equations_cannot_resolve_is_rescued_in_double_and_reported() -> None:
    """Columns that differ by 1e-5 are lost to J'J in float32, whose eps is 1e-7."""
    width = np.array([1, 1e-5, 1, 1], np.float32)

    def lines(x: jax.Array, width: jax.Array) -> jax.Array:
        return jnp.stack([x[0] + x[1] - 3, width * (x[0] - x[1] + 1)])

    starts = np.zeros((4, 2), np.float32)
    plain = jd.least_squares_batch(lines, starts, width, options=jd.BatchOptions(rescue=False))
    np.testing.assert_array_equal(plain.success, width == 1)
    assert plain.rescued is None
    result = jd.least_squares_batch(lines, starts, width)
    assert result.success.all()
    assert result.x.dtype == np.float32
    np.testing.assert_array_equal(result.rescued, width < 1)
    np.testing.assert_allclose(result.x, np.tile([1.0, 2.0], (4, 1)), rtol=1e-5)
    kept = np.flatnonzero(width == 1)
    np.testing.assert_array_equal(np.asarray(result.x)[kept], np.asarray(plain.x)[kept])


def test_a_second_batch_of_the_same_shape_is_not_traced_again() -> None:
    traces = []

    def traced(p: jax.Array, y: jax.Array) -> jax.Array:
        traces.append(1)
        return decay(p, jnp.asarray(TIMES), y)

    starts, y = decays(80)
    options = jd.BatchOptions(mode="refill", lanes=16, num_threads=2)
    jd.least_squares_batch(traced, starts, y, options=options)
    count = len(traces)
    jd.least_squares_batch(traced, starts + 0.01, y, options=options)
    assert len(traces) == count


def test_bounds_of_each_problem_hold_in_the_engine() -> None:
    starts, y = decays(60)
    lower = np.tile([0.0, 0.6, 0.0], (60, 1))
    starts = np.maximum(starts, lower)
    options = jd.BatchOptions(mode="refill", lanes=16, num_threads=1)
    result = jd.least_squares_batch(decay, starts, (TIMES, y), in_axes=(0, None, 0), bounds=(lower, None), options=options)
    assert result.success.all()
    assert (np.asarray(result.x) >= lower).all()
    held = np.asarray(result.at_bound)[:, 1] == -1
    assert 5 < held.sum() < 55
    for i in [*np.flatnonzero(held)[:3], *np.flatnonzero(~held)[:3]]:
        fit = scipy.optimize.least_squares(
            lambda p, i=i: np.asarray(decay(p, TIMES, y[i])), starts[i], bounds=(lower[i], np.inf), xtol=1e-12, ftol=1e-12, gtol=1e-12
        )
        np.testing.assert_allclose(result.fun[i], fit.cost, rtol=1e-7)


def test_inside_jit_the_batch_is_part_of_the_program_around_it() -> None:
    starts, y = decays(70)
    outside = solve(starts, y, reassociate=False)
    inside = jax.jit(lambda s, y: solve(s, y).fun)(starts, y)
    np.testing.assert_allclose(inside, outside.fun, rtol=1e-13)


def test_noisy_fits_in_single_precision_are_not_called_solved_where_rounding_hides_the_rest_of_the_way() -> None:
    """ENSO's cost is flat to rounding where two of its parameters still have two digits: noise is a hundred times the promised gain."""
    data = load_nist()["ENSO"]
    starts = np.stack([data.start1, data.start2]).astype("float32")
    residuals = lambda b, t, y: data.model(t, b) - y  # noqa: E731
    samples = (np.asarray(data.x, "float32"), np.asarray(data.y, "float32"))
    result = jd.least_squares_batch(residuals, starts, samples, in_axes=(0, None, None), options=jd.BatchOptions(rescue=False))
    digits = [log_relative_error(np.asarray(x), data.certified).min() for x in result.x]
    assert result.success.any()
    assert not (np.asarray(result.success) & (np.asarray(digits) < 3)).any()


@pytest.mark.parametrize("bounds", [None, (-2.0, 0.9)], ids=["free", "bounded"])
def test_few_parameters_as_entries_and_many_as_an_array_are_one_algorithm(bounds: object, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = np.random.default_rng(3).uniform(-1.5, 0.8, (6, 2))
    solve = lambda scale: jd.least_squares_batch(  # noqa: E731
        lambda x: jnp.stack([scale * (x[1] - x[0] ** 2), 1 - x[0]]), starts, solver=jd.LevenbergMarquardtCholesky(), bounds=bounds
    )
    entries = solve(10.0)
    monkeypatch.setattr(levenberg_marquardt_cholesky, "UNROLL_LIMIT", 1)
    array = solve(10.0)
    # The unique minimum: (1, 1), and between the bounds where x0 = 0.9 holds it.
    expected = [1.0, 1.0] if bounds is None else [0.9, 0.81]
    for result in (entries, array):
        assert bool(jnp.all(result.success))
        np.testing.assert_allclose(result.x, np.tile(expected, (6, 1)), rtol=1e-7)
    assert entries.nit.tolist() == array.nit.tolist()
