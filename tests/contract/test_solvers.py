"""The contract that every solver keeps, on every problem of a small table: structure, dtype, freezing, batching, compiling once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.loop import step_running
from jaxdiff.problem import Minimize, Packing
from jaxdiff.solvers.base import resolve_tolerances

SOLVERS = {
    "bfgs": jd.BFGS(),
    "gradient_descent": jd.GradientDescent(),
    "gradient_descent_strong_wolfe": jd.GradientDescent(learning_rate=1e-3, line_search="strong_wolfe"),
    "gradient_descent_barzilai_borwein": jd.GradientDescent(learning_rate=1e-3, line_search="barzilai_borwein"),
    "gradient_descent_fixed": jd.GradientDescent(learning_rate=1e-3, line_search="fixed"),
    "lbfgs": jd.LBFGS(memory=3),
    "nonlinear_cg": jd.NonlinearCG(),
    "trust_region_newton": jd.TrustRegionNewton(),
    "trust_region_newton_cg": jd.TrustRegionNewtonCG(),
    "newton": jd.Newton(),
    "adam": jd.FromOptax(optax.adam(0.05)),
    "momentum": jd.FromOptax(optax.sgd(1e-3, momentum=0.9)),
}


def rosenbrock(x: jax.Array) -> jax.Array:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def quadratic(x: jax.Array) -> jax.Array:
    return (x[0] - 1) ** 2 + 10 * (x[1] + 2) ** 2 + x[0] * x[1]


PROBLEMS = {"rosenbrock": rosenbrock, "quadratic": quadratic}
STARTS = np.array([[-1.2, 1.0], [0.5, 0.5], [2.0, -1.0], [1.0, 1.0]])


def block(fun: Any, dtype: str) -> tuple[Minimize, jax.Array]:
    x = jnp.asarray(STARTS.T, dtype)
    return Minimize(fun, (), (), Packing.of(x[:, 0])), x


def prepared(solver: Any, problem: Minimize) -> Any:
    return resolve_tolerances(solver, problem.packing, is_exact=True)


@pytest.mark.core
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_keeps_structure_shapes_and_dtypes(name: str, problem: str, dtype: str) -> None:
    bound, x = block(PROBLEMS[problem], dtype)
    solver = prepared(SOLVERS[name], bound)
    structures = []

    def described(state: Any) -> list[Any]:
        structures.append(jax.tree.structure(state))
        assert all(leaf.dtype == dtype for leaf in (state.x, state.value, state.gradient))
        return jax.tree.leaves(state)

    before = jax.eval_shape(lambda x: described(solver.init(bound, x)), x)
    after = jax.eval_shape(lambda x: described(solver.step(bound, solver.init(bound, x))), x)
    assert structures[0] == structures[1]
    assert before == after
    assert all(leaf.shape[-1] == len(STARTS) for leaf in before), "lanes are the last axis of every leaf"


@pytest.mark.parametrize("name", SOLVERS)
def test_the_first_step_evaluates_the_start_and_a_stopped_lane_is_frozen_bit_for_bit(name: str) -> None:
    bound, x = block(rosenbrock, "float64")
    solver = prepared(SOLVERS[name], bound)

    @jax.jit
    def run(x: jax.Array) -> Any:
        def step(state: Any, _: None) -> tuple[Any, Any]:
            new = step_running(bound, solver, state)
            return new, new

        return jax.lax.scan(step, solver.init(bound, x), length=5)[1]

    states = run(x)
    at = lambda k: jax.tree.map(lambda leaf: leaf[k], states)  # noqa: E731
    first, before, after = at(0), at(3), at(4)
    np.testing.assert_array_equal(first.x, x)
    np.testing.assert_allclose(first.value, [24.2, 6.5, 2501.0, 0.0], rtol=1e-14)
    np.testing.assert_array_equal(first.num_steps, 0)
    assert first.status[3] == jd.Status.CONVERGED_GRADIENT, "a start at the minimiser takes no step"
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(np.asarray(old)[..., 3], np.asarray(new)[..., 3])
    running = np.asarray(before.status) == jd.Status.RUNNING
    np.testing.assert_array_equal(after.num_steps - before.num_steps, running.astype(int))
    assert running[:3].any()


@pytest.mark.core
@pytest.mark.parametrize("name", SOLVERS)
def test_batched_vmapped_and_looped_agree(name: str) -> None:
    fun, solver = rosenbrock, SOLVERS[name]
    # Along a valley steepest descent doubles a difference in the last place every few steps, and lanes of other programs round otherwise:
    # steps of Barzilai and Borwein, quotients of small differences, make 1e-9 of it within 40 of them.
    steps = 20 if name in ("gradient_descent_strong_wolfe", "gradient_descent_barzilai_borwein") else 60
    batched = jd.minimize_batch(fun, STARTS, solver=solver, max_steps=steps)
    looped = [jd.minimize(fun, start, solver=solver, max_steps=steps) for start in STARTS]
    vmapped = jax.vmap(lambda x0: jd.minimize(fun, x0, solver=solver, max_steps=steps))(jnp.asarray(STARTS))
    for other in (jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped), vmapped):
        np.testing.assert_array_equal(batched.status, other.status)
        np.testing.assert_array_equal(batched.nit, other.nit)
        np.testing.assert_allclose(batched.x, other.x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
def test_other_numbers_never_compile_again(name: str) -> None:
    solver = SOLVERS[name]
    traces = 0

    def fun(x: jax.Array, a: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        return jnp.sum((x - a) ** 2)

    jd.minimize(fun, jnp.zeros(2), jnp.ones(2), solver=solver, max_steps=5)
    first = traces
    assert first > 0
    options = {"gtol": 1e-3}
    if isinstance(solver, jd.GradientDescent):
        options["learning_rate"] = 0.25
    changed = dataclasses.replace(solver, **options)
    jd.minimize(fun, jnp.full(2, 3.0), jnp.full(2, 7.0), solver=changed, max_steps=9)
    assert traces == first


@pytest.mark.core
def test_every_reachable_status_is_reached_in_one_batch() -> None:
    """One lane per status; ``kind`` chooses the function, so that all of them share one program."""

    def fun(x: jax.Array, kind: jax.Array) -> jax.Array:
        u, v = x
        # Where a branch is not chosen its operand is a harmless 1, so that no lane sees another lane's NaN.
        inside = jnp.where(kind == 3, u, 1.0)
        branches = [
            (u - 1) ** 2 + v**2,
            rosenbrock(x),
            u**2 - v**2,
            jnp.log(inside) + v**2,
            jnp.where(jnp.abs(u) > 10, -jnp.inf, -(u**2) - u) + v**2,
            jnp.where(u > 2.0, u, jnp.nan) + v**2,
        ]
        return jnp.select([kind == k for k in range(len(branches))], branches)

    starts = jnp.array([[3.0, 1.0], [-1.2, 1.0], [0.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [2.5, 1.0]])
    result = jd.minimize_batch(fun, starts, jnp.arange(6), solver=jd.Newton(), max_steps=12)
    names = [jd.Status(int(code)).name for code in result.status]
    assert names[0] == "CONVERGED_GRADIENT"
    assert names[1] == "MAX_STEPS"
    assert names[2] in ("MAX_STEPS", "SADDLE_POINT")
    assert names[3] == "NON_FINITE_START"
    assert names[4] == "UNBOUNDED"
    assert names[5] in ("NON_FINITE", "MAX_STEPS")
    np.testing.assert_array_equal(result.success, [True, False, False, False, False, False])
    assert jnp.isfinite(result.x).all(), "x stays at the last finite point"
