"""The contract that every solver of equations keeps: structure, dtype, freezing, batching, compiling once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.loop import advance, step_running
from jaxdiff.problem import Packing
from jaxdiff.root_problem import Root

SOLVERS = {
    "newton_root": jd.NewtonRoot(xtol=1e-5, ftol=0.0),
    "broyden": jd.Broyden(xtol=1e-5, ftol=0.0),
    "chandrupatla": jd.Chandrupatla(1e-5, 0.0),
    "bisection": jd.Bisection(1e-5, 0.0),
}


def cubic(x: jax.Array) -> jax.Array:
    return x**3 - 2


def block(solver: Any, dtype: str) -> tuple[Root, jax.Array]:
    """Four problems of one unknown; the last starts at the root of 0 = x^3 - 2 + 2, given as its own datum."""
    packing = Packing.of(jnp.zeros(1, dtype))
    problem = Root(lambda x, a: x**3 - a, (jnp.asarray([2.0, 5.0, 9.0, 0.0], dtype),), (True,), packing, fun_packing=packing)
    starts = jnp.asarray([[1.0, 1.0, 3.0, 0.0], [2.0, 4.0, 1.0, 4.0]], dtype)
    return problem, starts if getattr(solver, "takes_bracket", False) else starts[:1]


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_keeps_structure_shapes_and_dtypes(name: str, dtype: str) -> None:
    solver = SOLVERS[name]
    bound, x = block(solver, dtype)
    before = jax.eval_shape(lambda x: solver.init(bound, x), x)
    after = jax.eval_shape(lambda x: solver.step(bound, solver.init(bound, x)), x)
    assert before == after
    assert all(leaf.shape[-1] == 4 for leaf in jax.tree.leaves(before)), "lanes are the last axis of every leaf"
    assert before.x.dtype == before.residuals.dtype == dtype


@pytest.mark.parametrize("name", SOLVERS)
def test_a_stopped_lane_is_frozen_bit_for_bit(name: str) -> None:
    solver = SOLVERS[name]
    bound, x = block(solver, "float64")

    @jax.jit
    def run(x: jax.Array) -> Any:
        state = advance(bound, solver, solver.init(bound, x), 3)
        return state, step_running(bound, solver, state)

    before, after = run(x)
    assert before.status[3] == jd.Status.CONVERGED_VALUE
    assert before.num_steps[3] == 0, "a start at the root takes no step"
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(np.asarray(old)[..., 3], np.asarray(new)[..., 3])
    running = np.asarray(before.status) == jd.Status.RUNNING
    np.testing.assert_array_equal(after.num_steps - before.num_steps, running.astype(int))
    assert running[:3].any()


@pytest.mark.parametrize("solver", [jd.NewtonRoot(xtol=1e-10), jd.Broyden(xtol=1e-10)], ids=lambda s: s.name)
def test_batched_refilled_vmapped_and_looped_agree_and_other_numbers_compile_nothing(solver: Any) -> None:
    traces = 0

    def fun(x: jax.Array, a: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        return x**3 - a

    a, starts = jnp.array([2.0, 5.0, 9.0, 0.5]), jnp.array([1.0, 1.0, 3.0, 0.3])
    batched = jd.root_batch(fun, starts, a, solver=solver)
    looped = [jd.root(fun, start, a_, solver=solver) for start, a_ in zip(starts[:2], a[:2], strict=True)]
    vmapped = jax.vmap(lambda start, a: jd.root(fun, start, a, solver=solver))(starts, a)
    refilled = jd.root_batch(fun, starts, a, solver=solver, options=jd.BatchOptions(mode="refill", lanes=2))
    for other in (vmapped, refilled, jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped)):
        count = len(other.x)
        np.testing.assert_array_equal(batched.status[:count], other.status)
        np.testing.assert_array_equal(batched.nit[:count], other.nit)
        np.testing.assert_allclose(batched.x[:count], other.x, rtol=1e-12)
    assert batched.success.all()
    before = traces
    jd.root_batch(fun, starts + 1, a + 1, solver=dataclasses.replace(solver, xtol=1e-8, radius=10.0), max_steps=99)
    # The layout of F is looked up by one abstract call; a compilation would trace several times.
    assert traces - before <= 2


@pytest.mark.parametrize("solver", [jd.NewtonRoot(), jd.Broyden()], ids=lambda s: s.name)
def test_every_status_is_reached_by_one_program(solver: Any) -> None:
    """One lane per status; ``kind`` chooses the equation, so that all of them share one program."""

    def fun(x: jax.Array, kind: jax.Array) -> jax.Array:
        # Where a branch is not chosen its operand is a harmless 1, so that no lane sees another lane's NaN.
        inside = jnp.where(kind == 3, x, 1.0)
        branches = [x - 1, x**2 + 1, 1 + 0 * x, jnp.log(inside), jnp.exp(-x), x**3 - 2]
        return jnp.select([kind == k for k in range(len(branches))], branches)

    def names(max_steps: int, max_evals: int, **options: float) -> list[str]:
        changed = dataclasses.replace(solver, **options)
        starts = jnp.array([3.0, 0.7, 1.0, -1.0, 0.0, 1.0])
        result = jd.root_batch(fun, starts, jnp.arange(6), solver=changed, max_steps=max_steps, max_evals=max_evals)
        assert result.success.tolist() == [jd.Status(int(code)).is_success for code in result.status]
        return [jd.Status(int(code)).name for code in result.status]

    assert names(2000, 9000)[:5] == ["CONVERGED_VALUE", "STALLED", "SINGULAR", "NON_FINITE_START", "PLATEAU"]
    assert names(2000, 9000, xtol=1e-3)[5] == "CONVERGED_STEP"
    assert names(2000, 9000, ftol=0.1)[5] == "CONVERGED_VALUE"
    assert names(2, 9000)[5] == "MAX_STEPS"
    assert names(2000, 3)[5] == "MAX_EVALS"
