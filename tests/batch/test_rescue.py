"""The cascade of rescues: each attempt on what the ones before left unsolved, and each reported."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd

ATTEMPTS = {"more precision": 1, "another solver": 2, "another start": 3}


def barrier(x: jax.Array, rate: jax.Array) -> jax.Array:
    """Its minimum is at 0.5; where f is not finite, at |x| = 1, no solver starts. A small rate makes fixed steps too short."""
    return rate * (jnp.sum((x - 0.5) ** 2) - 1e-9 * jnp.sum(jnp.log(1 - x * x)))


def test_each_attempt_takes_what_the_ones_before_left_and_is_reported() -> None:
    starts, rates = np.array([[0.3], [0.3], [1.0], [0.2]]), np.array([1.0, 1e-3, 1.0, np.nan])
    solver = jd.GradientDescent(gtol=1e-8, learning_rate=0.5)
    run = lambda rescue: jd.minimize_batch(  # noqa: E731
        barrier, starts, rates, solver=solver, max_steps=4, options=jd.BatchOptions(rescue=rescue, num_threads=1)
    )
    plain, result = run(None), run(True)
    np.testing.assert_array_equal(plain.success, [True, False, False, False])
    assert plain.rescued is None
    np.testing.assert_array_equal(result.rescued_by, [0, ATTEMPTS["another solver"], ATTEMPTS["another start"], 0])
    np.testing.assert_array_equal(result.rescued, [False, True, True, False])
    np.testing.assert_allclose(result.x[:3, 0], 0.5, atol=1e-5)
    # What did not need it keeps its bits, and data of NaN are beyond help.
    np.testing.assert_array_equal(result.x[0], plain.x[0])
    assert int(result.status[3]) == jd.Status.NON_FINITE_START
    report = result.report()
    assert report.rescued_by == {"another solver": 1, "another start": 1}
    assert "2 (1 by another solver, 1 by another start)" in str(report)
    assert report.steps_paid > plain.report().steps_paid


def test_float32_that_cannot_see_the_minimum_is_rescued_in_double_precision() -> None:
    """With a slope of 1e4 one unit in the last place of x changes the gradient by 10, and 1e-5 is asked for."""
    f = lambda x, c: (c * x[0] - 1) ** 2 + (x[1] - c * x[0]) ** 2  # noqa: E731
    starts, scale = np.zeros((2, 2), np.float32), np.array([1.0, 1e4], np.float32)
    options = jd.BatchOptions(rescue=True, num_threads=1)
    result = jd.minimize_batch(f, starts, scale, solver=jd.BFGS(gtol=1e-5), options=options)
    assert result.success.all()
    assert result.x.dtype == np.float32
    assert int(result.rescued_by[1]) == ATTEMPTS["more precision"]


def test_nothing_is_rescued_under_jit() -> None:
    options = jd.BatchOptions(rescue=True)
    inside = jax.jit(lambda x: jd.minimize_batch(lambda x: (x - 1) ** 2, x, options=options))(np.zeros(3))
    assert inside.rescued is None
