"""What the minimizers promise beyond the contract: their steps are those of the books, and what they say of a point is true."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.problem import Minimize, Packing
from jaxdiff.solvers.base import resolve_tolerances
from jaxdiff.solvers.trust_region import solve_in_ball

GRADIENT_ONLY = [jd.LBFGS(), jd.NonlinearCG()]
SECOND_ORDER = [jd.TrustRegionNewton(), jd.TrustRegionNewtonCG()]


def rosenbrock(x: jax.Array) -> jax.Array:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def test_the_step_in_a_ball_meets_the_conditions_of_a_global_minimum() -> None:
    # Moré and Sorensen (1983), lemma 2.4: (W + lambda) s = -g, lambda >= 0, W + lambda >= 0, lambda (radius - |s|) = 0.
    rng = np.random.default_rng(0)
    n, lanes = 5, 240
    w = np.sort(rng.normal(size=(n, lanes)), axis=0)
    g = rng.normal(size=(n, lanes))
    w[:, :60] = np.sort(np.abs(w[:, :60]), axis=0)  # definite
    g[0, 60:120] = 0  # the hard case
    w[1, 120:180] = w[0, 120:180]  # a double lowest eigenvalue
    g[:, 200:220] *= 1e-14
    radius = 10.0 ** rng.uniform(-3, 3, lanes)
    s, decrease, is_inside = (np.asarray(a) for a in jax.jit(solve_in_ball)(w, g, radius))
    length = np.linalg.norm(s, axis=0)
    assert (length <= radius * (1 + 2e-3)).all()
    np.testing.assert_allclose(length[~is_inside], radius[~is_inside], rtol=2e-3)
    assert (w[0, is_inside] > 0).all()
    # lambda from the components along s; the residual of the equation is that of the rounding given to g in the hard case.
    multiplier = np.where(is_inside, 0, -np.sum(s * (g + w * s), axis=0) / length**2)
    scale = np.abs(g).max(0) + np.abs(w).max(0) * radius
    assert (multiplier >= -1e-12 * scale / length).all()
    assert (w[0] + multiplier >= -1e-9 * np.abs(w).max(0)).all()
    assert np.abs((w + multiplier) * s + g).max(0) == pytest.approx(0, abs=1e-9 * scale.max())
    np.testing.assert_allclose(decrease, -(np.sum(g * s, 0) + np.sum(w * s * s, 0) / 2), rtol=1e-10)


@pytest.mark.parametrize(("solver", "dtype"), list(zip(SECOND_ORDER, ("float64", "float32"), strict=True)), ids=["exact", "cg"])
def test_a_saddle_is_left_or_named_and_never_called_a_minimum(solver: Any, dtype: str) -> None:
    def fun(x: jax.Array, kind: jax.Array) -> jax.Array:
        inside = jnp.where(jnp.abs(x[1]) > 0, jnp.inf, x[0] ** 2 - x[1] ** 2)
        return jnp.where(kind == 0, x[0] ** 2 - x[1] ** 2 + x[1] ** 4, jnp.where(kind == 1, jnp.cos(x[0]) + jnp.cos(x[1]), inside))

    result = jd.minimize_batch(fun, jnp.zeros((3, 2), dtype), jnp.arange(3), solver=solver)
    np.testing.assert_array_equal(result.success, [True, True, False])
    np.testing.assert_allclose(np.abs(result.x[0]), [0, 0.5**0.5], atol=1e-3)
    np.testing.assert_allclose(result.fun[:2], [-0.25, -2], atol=1e-6)
    assert result.status[2] == jd.Status.SADDLE_POINT


@pytest.mark.parametrize("solver", [*GRADIENT_ONLY, *SECOND_ORDER], ids=lambda s: s.name)
def test_single_precision_claims_no_more_than_rounding_allows(solver: Any) -> None:
    # Curvatures from 1 to 1e4 upon an offset of 1e4, whose rounding hides a decrease of 1e-3: the gradient must tell.
    curvature = jnp.logspace(0, 4, 6, dtype=jnp.float32)
    result = jd.minimize(lambda x: 1e4 + jnp.sum(curvature * (x - 1) ** 2), jnp.zeros(6, jnp.float32), solver=solver, max_steps=2000)
    if solver.name == "nonlinear_cg":
        # Its directions lose conjugacy in the rounding of f, and it goes on: it may not call that a success.
        assert result.status == jd.Status.MAX_STEPS
        return
    # A status without success would be honest too, and the test could not fail.
    assert result.success
    gradient = 2 * np.asarray(curvature, np.float64) * (np.asarray(result.x, np.float64) - 1)
    eps = np.finfo(np.float32).eps
    assert (np.abs(gradient) <= eps**0.5 + 10 * eps ** (2 / 3) * np.asarray(curvature)).all()
    assert result.x.dtype == jnp.float32


@pytest.mark.parametrize("formula", ["hager_zhang", "polak_ribiere"])
def test_accepted_steps_of_conjugate_gradients_meet_the_strong_wolfe_conditions(formula: Any) -> None:
    problem = Minimize(rosenbrock, (), (), Packing.of(jnp.zeros(2)))
    solver = resolve_tolerances(jd.NonlinearCG(formula), problem.packing, is_exact=True)
    step = jax.jit(lambda state: solver.step(problem, state))
    state = step(solver.init(problem, jnp.array([[-1.2], [1.0]])))
    accepted = 0
    for _ in range(40):
        before, state = state, step(state)
        moved = np.asarray(state.x - before.x)[:, 0]
        if not moved.any() or bool(state.status[0]):
            continue
        slope, there = (float(np.asarray(s.gradient)[:, 0] @ np.asarray(before.direction)[:, 0]) for s in (before, state))
        alpha = float(before.bracket.trial[0])
        assert float(state.value[0]) <= float(before.value[0]) + 1e-4 * alpha * slope
        assert abs(there) <= 0.1 * abs(slope) * (1 + 1e-9)
        accepted += 1
    assert accepted > 10


def test_the_inner_iterations_of_a_step_are_bounded() -> None:
    curvature = jnp.logspace(0, 4, 50)
    quadratic = lambda x: jnp.sum(curvature * (x - 1) ** 2)  # noqa: E731
    few = jd.minimize(quadratic, jnp.zeros(50), solver=jd.TrustRegionNewtonCG(max_inner=3), max_steps=20)
    assert int(few.nfev) <= (int(few.nit) + 1) * (1 + 3)
    many = jd.minimize(quadratic, jnp.zeros(50), solver=jd.TrustRegionNewtonCG(), max_steps=100)
    assert many.success
    assert int(many.nit) < 100
    with pytest.raises(ValueError, match="max_inner = 0"):
        jd.TrustRegionNewtonCG(max_inner=0)


def test_as_optax_goes_the_way_of_the_solver() -> None:
    solver = jd.LBFGS()
    optimizer, params = jd.as_optax(solver), {"u": jnp.array(-1.2), "v": jnp.array(1.0)}
    loss = lambda p, scale: scale * rosenbrock(jnp.stack([p["u"], p["v"]]))  # noqa: E731
    state: Any = optimizer.init(params)

    @jax.jit
    def make(params: Any, state: Any) -> Any:
        value, grad = jax.value_and_grad(loss)(params, 1.0)
        updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=loss, scale=1.0)
        return optax.apply_updates(params, updates), state, value

    values = []
    for _ in range(60):
        params, state, value = make(params, state)
        values.append(float(value))
    assert (np.diff(values) <= 0).all(), "every update lowers the loss"
    path = jd.minimize(rosenbrock, jnp.array([-1.2, 1.0]), solver=solver, history=True).history
    assert path is not None
    visited = np.unique(np.asarray(path.value)[np.isfinite(path.value)])[::-1]
    np.testing.assert_allclose(values[:8], visited[:8], rtol=1e-6)
    np.testing.assert_allclose([params["u"], params["v"]], 1, atol=1e-5)
    assert state.solver_state.status[0] in (jd.Status.CONVERGED_GRADIENT, jd.Status.CONVERGED_STEP)


def test_as_optax_says_what_is_missing() -> None:
    optimizer = jd.as_optax(jd.LBFGS())
    state = optimizer.init(jnp.zeros(2))
    with pytest.raises(TypeError, match="value_fn"):
        optimizer.update(jnp.zeros(2), state, jnp.zeros(2))
    with pytest.raises(ValueError, match="params = None"):
        optimizer.update(jnp.zeros(2), state, value_fn=jnp.sum)
    with pytest.raises(TypeError, match="LBFGS"):
        jd.as_optax(jd.LBFGS)
    with pytest.raises(ValueError, match="max_trials = 0"):
        jd.as_optax(jd.LBFGS(), max_trials=0)


@pytest.mark.parametrize("transformation", [optax.lbfgs(), optax.polyak_sgd()], ids=["lbfgs", "polyak"])
def test_transformations_that_ask_for_value_and_function_get_them(transformation: Any) -> None:
    # f is zero at its minimum, as Polyak's step supposes.
    result = jd.minimize(lambda x: jnp.sum((x - 2.0) ** 2), jnp.zeros(3), solver=jd.FromOptax(transformation), max_steps=200)
    assert result.success
    np.testing.assert_allclose(result.x, 2, atol=1e-6)


def test_gradient_descent_with_better_steps_needs_fewer() -> None:
    curvature = jnp.logspace(0, 2, 20)
    quadratic = lambda x: jnp.sum(curvature * (x - 1) ** 2)  # noqa: E731
    steps = {}
    for line_search in ("backtracking", "strong_wolfe", "barzilai_borwein"):
        result = jd.minimize(quadratic, jnp.zeros(20), solver=jd.GradientDescent(line_search=line_search), max_steps=3000)
        assert result.success
        np.testing.assert_allclose(result.x, 1, atol=1e-7)
        steps[line_search] = int(result.nit)
    assert steps["barzilai_borwein"] < min(steps["backtracking"], steps["strong_wolfe"])


def test_barzilai_borwein_may_let_f_rise_and_backtracking_may_not() -> None:
    def rises(line_search: Any) -> bool:
        solver = jd.GradientDescent(line_search=line_search)
        path = jd.minimize(rosenbrock, jnp.array([-1.2, 1.0]), solver=solver, max_steps=150, history=True).history
        assert path is not None
        values = np.asarray(path.value)
        return bool((np.diff(values[np.isfinite(values)]) > 0).any())

    assert rises("barzilai_borwein")
    assert not rises("strong_wolfe")
