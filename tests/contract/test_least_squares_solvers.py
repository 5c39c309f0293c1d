"""The contract that every solver of least squares keeps: structure, dtype, freezing, batching, tolerances, compiling once, statuses."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff._compile import QUICKLY
from jaxdiff.loop import step_running
from jaxdiff.problem import LeastSquares, Packing
from jaxdiff.solvers.base import resolve_tolerances

pytestmark = pytest.mark.core

SOLVERS = {
    "levenberg_marquardt": jd.LevenbergMarquardt(),
    "levenberg_marquardt_plain": jd.LevenbergMarquardt(scaling="marquardt", is_accelerated=False),
    "levenberg_marquardt_cholesky": jd.LevenbergMarquardtCholesky(),
    "dogleg": jd.Dogleg(),
    "gauss_newton": jd.GaussNewton(),
}
# One program less to compile; its fields are those of the first.
STEPPED = [name for name in SOLVERS if name != "levenberg_marquardt_plain"]
TIMES = np.linspace(0.0, 2.0, 5)
# The last start of either problem is its solution.
STARTS = {
    "rosenbrock": np.array([[-1.2, 1.0], [0.5, 0.5], [2.0, -1.0], [1.0, 1.0]]),
    "decay": np.array([[1.0, 1.0], [2.0, 0.25], [4.0, 1.0], [3.0, 0.5]]),
}
SOLUTIONS = {"rosenbrock": [1.0, 1.0], "decay": [3.0, 0.5]}


def residual(x: jax.Array, is_decay: jax.Array, t: jax.Array) -> jax.Array:
    """Either problem, by a number that is data, so that both share a program; five residuals each."""
    valley = jnp.zeros_like(t).at[0].set(10 * (x[1] - x[0] ** 2)).at[1].set(1 - x[0])
    return jnp.where(is_decay, x[0] * jnp.exp(-x[1] * t) - 3 * jnp.exp(-t / 2), valley)


def data(problem: str, dtype: str) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(problem == "decay"), jnp.asarray(TIMES, dtype)


def block(problem: str, dtype: str) -> tuple[LeastSquares, jax.Array]:
    x = jnp.asarray(STARTS[problem].T, dtype)
    return LeastSquares(residual, data(problem, dtype), (False, False), Packing.of(x[:, 0])), x


def prepared(name: str, problem: LeastSquares) -> Any:
    return resolve_tolerances(SOLVERS[name], problem.packing, is_exact=True)


@functools.cache
def stepping(name: str) -> Any:
    """One program per solver: a step of the lanes that run, of either problem."""
    return jax.jit(lambda bound, state: step_running(bound, prepared(name, bound), state), compiler_options=QUICKLY)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_keeps_structure_shapes_and_dtypes(name: str, dtype: str) -> None:
    bound, x = block("decay", dtype)
    solver = prepared(name, bound)

    def read(state: Any) -> Any:
        assert state.x.dtype == state.value.dtype == state.gradient.dtype == dtype
        return state

    before = jax.eval_shape(lambda x: read(solver.init(bound, x)), x)
    after = jax.eval_shape(lambda state: read(solver.step(bound, state)), before)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert jax.tree.leaves(before) == jax.tree.leaves(after)
    assert all(leaf.shape[-1] == 4 for leaf in jax.tree.leaves(before)), "lanes are the last axis of every leaf"


@pytest.mark.parametrize("problem", STARTS)
@pytest.mark.parametrize("name", STEPPED)
def test_the_start_is_evaluated_first_no_step_raises_the_cost_and_stopped_lanes_are_frozen(name: str, problem: str) -> None:
    bound, x = block(problem, "float64")
    states = [prepared(name, bound).init(bound, x)]
    for _ in range(5):
        states.append(stepping(name)(bound, states[-1]))
    first = states[1]
    np.testing.assert_array_equal(states[0].num_steps, -1)
    np.testing.assert_array_equal(first.x, x)
    np.testing.assert_array_equal(first.num_steps, 0)
    expected = [0.5 * float(jnp.sum(residual(start, *bound.args) ** 2)) for start in x.T]
    np.testing.assert_allclose(first.value, expected, rtol=1e-14, atol=1e-30)
    assert jd.Status(int(first.status[3])).is_success, "a start at the solution takes no step"
    for old, new in itertools.pairwise(states[1:]):
        stopped = np.asarray(old.status) != jd.Status.RUNNING
        for before, after in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
            np.testing.assert_array_equal(np.asarray(before)[..., stopped], np.asarray(after)[..., stopped])
        np.testing.assert_array_equal(new.num_steps - old.num_steps, (~stopped).astype(int))
        assert (np.asarray(new.value) <= np.asarray(old.value) * (1 + 1e-13)).all()
    assert np.count_nonzero(np.asarray(states[-1].value) < np.asarray(first.value)) >= 2


@pytest.mark.parametrize("name", STEPPED)
def test_batched_vmapped_and_looped_agree_and_other_numbers_compile_nothing(name: str) -> None:
    """Each program is called for either problem: other data, other starts, other tolerances."""
    traces = 0

    def counted(x: jax.Array, is_decay: jax.Array, t: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        return residual(x, is_decay, t)

    one = lambda x, args, solver: jd.least_squares(counted, x, args, solver=solver)  # noqa: E731
    vmapped = jax.jit(jax.vmap(one, in_axes=(0, None, None)), compiler_options=QUICKLY)
    before = 0
    for number, problem in enumerate(STARTS):
        solver = dataclasses.replace(SOLVERS[name], gtol=1e-9 * (1 + number), xtol=1e-9 * (1 + number), ftol=0.0)
        starts, args = jnp.asarray(STARTS[problem]), data(problem, "float64")
        batched = jd.least_squares_batch(counted, starts, args, in_axes=(0, None, None), solver=solver)
        assert batched.success.all()
        np.testing.assert_allclose(batched.x, np.broadcast_to(SOLUTIONS[problem], (4, 2)), rtol=1e-8)
        looped = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[one(start, args, solver) for start in starts[:2]])
        for other in (vmapped(starts, args, solver), looped):
            count = len(other.x)
            np.testing.assert_array_equal(batched.status[:count], other.status)
            np.testing.assert_array_equal(batched.nit[:count], other.nit)
            np.testing.assert_allclose(batched.x[:count], other.x, rtol=1e-9)
        # How many residuals there are is looked up by one abstract call each; a compilation would trace more often.
        assert number == 0 or traces - before <= 3
        before = traces


def test_every_status_is_reached_by_one_program() -> None:
    """One lane per status; ``kind`` chooses the residuals, so that all of them share one program, whatever the tolerances."""

    def fun(x: jax.Array, kind: jax.Array) -> jax.Array:
        u, v = x
        # Where a branch is not chosen its operand is a harmless 1, so that no lane sees another lane's NaN.
        inside, near = jnp.where(kind == 2, u, 1.0), jnp.where(kind == 3, u, 1.0)
        branches = [
            jnp.stack([u - 1, v, 0.0]),
            u * jnp.exp(-v * jnp.linspace(0.0, 1.0, 3)) - jnp.array([3.0, 2.0, 1.5]),
            jnp.stack([jnp.log(inside), v, 1.0]),
            jnp.stack([jnp.where(near >= 2.0, near, jnp.nan), v, 1.0]),
            # Parameters that differ by rounding alone.
            jnp.stack([u + v - 1, u + v - 2 + 1e-13 * v, 1e-13 * v]),
            # Half of a derivative: the slopes vanish elsewhere than the cost is lowest.
            jnp.stack([u + v - 1, jax.lax.stop_gradient(u - v) + (u - v) * 0.5, v]),
            # A staircase: nothing slopes anywhere, and what is around is no higher here and lower there.
            jnp.stack([jnp.floor(jnp.maximum(u, -3.0)), jnp.floor(jnp.maximum(v, -3.0)), 0.0]) + 4.0,
        ]
        return jnp.select([kind == k for k in range(len(branches))], branches)

    starts = jnp.array([[3.0, 1.0], [1.0, 1.0], [-1.0, 0.0], [2.5, 1.0], [3.0, 5.0], [3.0, 1.0], [1.0, 1.0]])

    def names(max_steps: int, max_evals: int, **options: float) -> list[str]:
        solver = jd.LevenbergMarquardt(**options)
        kinds = jnp.arange(len(starts))
        result = jd.least_squares_batch(fun, starts, kinds, solver=solver, max_steps=max_steps, max_evals=max_evals)
        assert jnp.isfinite(result.x).all(), "x stays at the last finite point"
        assert result.success.tolist() == [jd.Status(int(code)).is_success for code in result.status]
        return [jd.Status(int(code)).name for code in result.status]

    expected = ["CONVERGED_GRADIENT", "CONVERGED_STEP", "NON_FINITE_START", "NON_FINITE", "SINGULAR", "STALLED", "PLATEAU"]
    assert names(400, 4000) == expected
    assert names(400, 4000, ftol=0.1)[1] == "CONVERGED_VALUE"
    assert names(2, 4000)[1] == "MAX_STEPS"
    assert names(400, 5)[1] == "MAX_EVALS"
