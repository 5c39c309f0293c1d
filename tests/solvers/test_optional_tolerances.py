"""Minimizers that see gradients only test the last and the next step where xtol or ftol asks for it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd

SOLVERS = [
    jd.BFGS,
    jd.LBFGS,
    jd.NonlinearCG,
    jd.TrustRegionNewtonCG,
    lambda **given: jd.GradientDescent(1e-3, **given),
    lambda **given: jd.FromOptax(optax.sgd(1e-3), **given),
]


def bowl(x):
    """A strictly convex function with its minimum 1 at (1, -2)."""
    away = x - jnp.array([1.0, -2.0])
    return 1 + jnp.sum(jnp.array([1.0, 20.0]) * away**2 + away**4)


@pytest.mark.parametrize("make", SOLVERS)
def test_a_tolerance_that_is_met_is_named_and_holds(make):
    # 0 switches a test off and compiles nothing; so small a gtol is never met before the others are.
    solve = lambda **given: jd.minimize(bowl, jnp.array([3.0, 1.0]), solver=make(gtol=1e-15, **given), max_steps=20_000)  # noqa: E731
    for name, status, tight in (("xtol", "CONVERGED_STEP", 1e-6), ("ftol", "CONVERGED_VALUE", 1e-9)):
        off = {"xtol": 0.0, "ftol": 0.0}
        close, loose = solve(**(off | {name: tight})), solve(**(off | {name: 1e-2}))
        assert close.status_name in (status, "CONVERGED_GRADIENT")
        # Steps of 1e-3 times the gradient are the shortest here.
        np.testing.assert_allclose(close.x, [1.0, -2.0], atol=1e-3)
        assert loose.status_name == status
        assert int(loose.nit) < int(close.nit)


def test_a_step_that_the_line_search_cut_short_stops_nothing():
    # From here the first trials overshoot by orders of magnitude, and the step that is taken at last moves x by 0.1 %.
    steep = lambda x: jnp.sum(jnp.cosh(8 * x))  # noqa: E731
    result = jd.minimize(steep, jnp.array([5.0, -4.0]), solver=jd.BFGS(xtol=1e-2, ftol=1e-2))
    assert result.success
    assert float(jnp.max(jnp.abs(jax.grad(steep)(result.x)))) < 1e-2 * float(jnp.max(jnp.abs(jax.grad(steep)(jnp.array([5.0, -4.0])))))
    assert float(result.fun) < 2 * 1.01


def test_xtol_like_x_and_no_compilation_for_another_one():
    traces = []

    def counted(x):
        traces.append(None)
        return bowl(x["both"])

    given = {"both": jnp.array([3.0, 1.0])}
    jd.minimize(counted, given, solver=jd.BFGS(gtol=1e-15, xtol={"both": jnp.array([1e-3, 1.0])}))
    first = len(traces)
    result = jd.minimize(counted, given, solver=jd.BFGS(gtol=1e-15, xtol={"both": jnp.array([1e-4, 0.5])}))
    assert len(traces) == first
    assert result.status_name == "CONVERGED_STEP"
