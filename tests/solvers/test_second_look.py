"""What fits that ended in doubt may be said to be at: minima and zeros that are proven, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff._second_look import _verdicts
from jaxdiff.functions.mgh import load_mgh
from jaxdiff.problem import LeastSquares, Packing
from jaxdiff.solvers.base import resolve_tolerances

ROOT = np.sqrt(0.5)
# With u = x0 + x1 - 1 and v = x0 - x1 the cost is (u^2 + (1 + bend v^2 / 2)^2) / 2 at weight 0, stationary where u = v = 0: a minimum for a
# positive bend, a saddle for a negative one, a valley for none; J is singular there each time. At weight 1 the residuals are
# 11 x0 - 9 x1 and v^2, which vanish at x = (0, 0).
CASES = [
    ((0.5, 0.5), 1.0, 0.0, "CONVERGED_STEP"),
    ((0.5 + 1e-13, 0.5), 1.0, 0.0, "CONVERGED_STEP"),
    ((0.5 + 1e-7, 0.5), 1.0, 0.0, "RUNNING"),
    ((0.5, 0.5), -1.0, 0.0, "RUNNING"),
    ((0.5, 0.5), 0.0, 0.0, "RUNNING"),
    # Minima of second order beside the saddle: 1 - v^2 / 2 = 0.
    ((0.5 + ROOT, 0.5 - ROOT), -1.0, 0.0, "CONVERGED_STEP"),
    ((9e-12, 11e-12), 0.0, 1.0, "CONVERGED_GRADIENT"),
    ((9e-3, 11e-3), 0.0, 1.0, "RUNNING"),
    ((np.nan, 0.5), 1.0, 0.0, "RUNNING"),
]


def residual(x: jax.Array, bend: jax.Array, weight: jax.Array) -> jax.Array:
    u, v = x[0] + x[1] - 1, x[0] - x[1]
    curved, singular = jnp.stack([u, 1 + bend * v**2 / 2]), jnp.stack([11 * x[0] - 9 * x[1], v**2])
    return jnp.where(weight > 0, singular, curved)


def test_minima_and_zeros_are_proven_and_nothing_else_is() -> None:
    ends = jnp.asarray([end for end, *_ in CASES])
    data = tuple(jnp.asarray([case[k] for case in CASES]) for k in (1, 2))
    problem = LeastSquares(residual, data, (True, True), Packing.of(ends[0]))
    solver = resolve_tolerances(jd.LevenbergMarquardt(), problem.packing, is_exact=True)
    points = jnp.concatenate([ends, jnp.full_like(ends, 3.0)], axis=1)
    codes = jax.jit(lambda problem, points: _verdicts(problem, solver, points, 0, 0, count=len(CASES), plan=None))(problem, points)
    assert [jd.Status(int(code)).name for code in codes] == [name for *_, name in CASES]


def test_a_zero_at_which_the_jacobian_is_singular_has_converged() -> None:
    """Powell's singular function (MGH 13): the zero is at the origin, where two of four columns depend on the others."""
    problem = load_mgh("Powell singular")
    result = jd.least_squares(problem.residual, problem.start, solver=jd.LevenbergMarquardt())
    assert result.success
    np.testing.assert_allclose(result.x, 0, atol=1e-6)


def test_a_minimum_that_only_the_curvature_of_the_residuals_determines_has_converged() -> None:
    """Chebyquad with 8 unknowns (MGH 35): Gauss-Newton's matrix is singular at the minimum, the Hessian of the cost is not."""
    problem = load_mgh("Chebyquad (n=8)")
    # A budget that is not reached changes nothing.
    result = jd.least_squares(problem.residual, problem.start * 10, solver=jd.LevenbergMarquardt(), max_evals=100_000)
    assert result.success
    assert abs(2 * float(result.fun) - problem.f_min) <= 1e-9 * problem.f_min


def test_a_parameter_lost_to_underflow_is_no_success_and_one_that_is_not_used_is_none_of_its_business() -> None:
    def fun(x: jax.Array, is_used: jax.Array) -> jax.Array:
        return jnp.stack([x[0] - 1, x[0] - 2 + is_used * jnp.exp(-x[1])])

    ends = ((2000.0, 0.0, [1.5, 2000.0]), (2000.0, 1.0, [1.5, 2000.0]), (1.0, 1.0, [1.0, 0.0]))
    for start, is_used, expected in ends:
        result = jd.least_squares(fun, np.array([0.0, start]), (np.array(is_used),))
        np.testing.assert_allclose(result.x, expected, atol=1e-7)
        # From 2000, with x1 in use, the residuals vanish at x1 = 0, of which nothing at 2000 tells.
        assert result.status_name == "PLATEAU" if (start, is_used) == (2000.0, 1.0) else result.success


def test_a_start_that_is_all_but_a_minimum_has_converged_and_one_at_a_maximum_has_not() -> None:
    """At 2^(1/2), which no number is, the value and the slope of (x^2 - 2)^2 are rounding; times 1e-6 they say nothing of themselves."""
    fun = lambda x, factor: factor * jnp.sum((x**2 - 2) ** 2)  # noqa: E731
    starts, factors = np.full((2, 2), np.sqrt(2.0)), np.array([1e-6, -1e-6])
    result = jd.minimize_batch(fun, starts, factors, options=jd.BatchOptions(mode="lockstep"))
    np.testing.assert_array_equal(result.success, [True, False])
    np.testing.assert_array_equal(result.x[0], starts[0])
    alone = jd.minimize(fun, starts[0], factors[0])
    assert alone.success
