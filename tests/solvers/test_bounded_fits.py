"""Least squares between bounds by the solvers without damping: published minima, bounds met to the last bit, derivatives there.

Moré, Garbow and Hillstrom's problems with Gay's bounds, whose minima come from the package's own data (SciPy's, from 25 starts); Hock and
Schittkowski's 1 and 2; of a linear fit SciPy's BVLS.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxdiff as jd
from jaxdiff.functions.mgh import load_mgh

SOLVERS = [jd.Dogleg(), jd.GaussNewton()]
WIDTH = 4
GAY = ("Powell badly scaled", "Helical valley", "Wood")


def rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


# Both minima of HS 2 lie on its bound.
TABLE = [(p.residual, p.start, p.bounds.lower, p.bounds.upper, (p.bounds.f_min,)) for p in map(load_mgh, GAY)] + [
    (rosenbrock, [-2.0, 1.0], [-np.inf, -1.5], [np.inf, np.inf], (0.0,)),
    (rosenbrock, [-2.0, 1.5], [-np.inf, 1.5], [np.inf, np.inf], (0.0504261879, 4.941229318)),
]
LONGEST = max(load_mgh(name).m for name in GAY) + WIDTH


def residual(x: jax.Array, number: jax.Array) -> jax.Array:
    """Every problem of the table in one program; what a problem does not use of x is fixed."""

    def branch(fun, n):
        return lambda x: jnp.pad(fun(x[:n]), (0, LONGEST - fun(x[:n]).shape[0]))

    return jax.lax.switch(number, [branch(fun, len(start)) for fun, start, *_ in TABLE], x)


def padded(values, number: float = 0.0) -> np.ndarray:
    return np.pad(np.asarray(values, float), (0, WIDTH - len(values)), constant_values=number)


@functools.cache
def solved(solver):
    lower, upper = np.stack([padded(row[2]) for row in TABLE]), np.stack([padded(row[3]) for row in TABLE])
    starts = np.clip(np.stack([padded(row[1]) for row in TABLE]), lower, upper)
    return lower, upper, jd.least_squares_batch(residual, starts, np.arange(len(TABLE)), bounds=(lower, upper), solver=solver)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_bounded_problems_end_at_their_published_minima_on_or_between_their_bounds(solver) -> None:
    lower, upper, result = solved(solver)
    assert result.success.all()
    for squares, (*_, minima) in zip(2 * np.asarray(result.fun), TABLE, strict=True):
        assert any(abs(squares - minimum) <= 1e-7 * minimum + 1e-12 for minimum in minima), (squares, minima)
    x, slope = np.asarray(result.x), np.asarray(result.jac)
    assert ((x >= lower) & (x <= upper)).all()
    flags = np.asarray(result.at_bound)
    np.testing.assert_array_equal(flags, np.where(lower >= upper, 2, np.where(x == upper, 1, np.where(x == lower, -1, 0))))
    assert (slope[flags == 1] <= 0).all()
    assert (slope[flags == -1] >= 0).all()
    assert np.count_nonzero(np.abs(flags) == 1) >= 3, "bounds matter in these problems"


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_a_linear_fit_between_bounds_is_solved_in_one_step_of_gauss_newton(solver, dtype) -> None:
    """SciPy's BVLS; correlated columns, so that bending the free minimum along the bounds would end elsewhere."""
    rng = np.random.default_rng(3)
    matrix, right = rng.normal(size=(12, 5)) + 2, rng.normal(size=12)
    low, high = np.full(5, -0.125), np.full(5, 0.25)
    peer = scipy.optimize.lsq_linear(matrix, right, (low, high), method="bvls", tol=1e-14)
    assert np.count_nonzero(peer.active_mask) >= 2
    fun = lambda x, matrix, right: matrix @ x - right  # noqa: E731
    data = (jnp.asarray(matrix, dtype), jnp.asarray(right, dtype))
    result = jd.least_squares(fun, jnp.zeros(5, dtype), data, bounds=(low.astype(dtype), high.astype(dtype)), solver=solver)
    assert result.success
    assert result.x.dtype == dtype
    np.testing.assert_array_equal(np.asarray(result.at_bound), peer.active_mask)
    np.testing.assert_allclose(result.x, peer.x, atol=20 * np.finfo(dtype).eps)
    if isinstance(solver, jd.GaussNewton):
        assert int(result.nit) <= 2


def test_a_solution_moves_with_its_bounds_and_its_data() -> None:
    """Residuals x0 - a and x0 + x1 - 3 a, with x1 bounded by b: where it holds x1 = b, x0 = (4 a - b) / 2, else x0 = a, x1 = 2 a."""

    def solve(a: jax.Array, b: jax.Array) -> jax.Array:
        fun = lambda x, a: jnp.stack([x[0] - a, x[0] + x[1] - 3 * a])  # noqa: E731
        return jd.least_squares(fun, [0.0, 0.0], a, bounds=(None, jnp.stack([10.0 + 0 * b, b])), solver=jd.Dogleg()).x

    jacobian = jax.jit(jax.jacrev(solve, argnums=(0, 1)))
    np.testing.assert_allclose(jacobian(1.0, 5.0), [[1.0, 2.0], [0.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(jacobian(2.0, 3.0), [[2.0, 0.0], [-0.5, 1.0]], atol=1e-12)


def test_a_short_step_in_single_precision_that_still_lowers_the_cost_is_no_solution() -> None:
    """Brown badly scaled with Gay's bounds: a step of 2e-5 of x0 was called the last at a cost 3 % above the minimum."""
    problem = load_mgh("Brown badly scaled")
    assert problem.bounds is not None
    lower, upper = problem.bounds.lower.astype("float32"), problem.bounds.upper.astype("float32")
    start = np.clip(problem.start.astype("float32"), lower, upper)
    result = jd.least_squares(problem.residual, start, bounds=(lower, upper), solver=jd.LevenbergMarquardtCholesky())
    assert result.success
    assert abs(2 * float(result.fun) - problem.bounds.f_min) <= 1e-5 * problem.bounds.f_min
