"""L-BFGS: its matrix is that of the two-loop recursion, its ring is written in place, and a lane never sees what another left there."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.problem import Minimize, Packing
from jaxdiff.solvers.base import resolve_tolerances


def chained(x: jax.Array, a: Any = 1.0) -> jax.Array:
    return jnp.sum((a - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2)


def two_loop(pairs: list[tuple[np.ndarray, np.ndarray]], gradient: np.ndarray) -> np.ndarray:
    """H g by Nocedal and Wright, algorithm 7.4 with equation 7.20; pairs oldest first."""
    q, alphas = gradient.copy(), []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (y @ s))
        q = q - alphas[-1] * y
    s, y = pairs[-1]
    r = (s @ y) / (y @ y) * q
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        r = r + s * (alpha - y @ r / (y @ s))
    return r


def test_every_direction_is_that_of_the_two_loop_recursion() -> None:
    memory, n = 3, 6
    problem = Minimize(chained, (), (), Packing.of(jnp.zeros(n)))
    solver = resolve_tolerances(jd.LBFGS(memory=memory), problem.packing, is_exact=True)
    step = jax.jit(lambda state: solver.step(problem, state))
    starts = np.random.default_rng(0).uniform(-2, 2, (n, 2))
    state = solver.init(problem, jnp.asarray(starts))
    seen: list[list[tuple[np.ndarray, np.ndarray]]] = [[], []]
    compared = 0
    for _ in range(25):
        before, state = state, step(state)
        for lane in range(2):
            s, y = (np.asarray(getattr(state, k) - getattr(before, k))[:, lane] for k in ("x", "gradient"))
            if int(state.num_steps[lane]) < 1 or not s.any():
                continue
            seen[lane].append((s, y))
            expected = -two_loop(seen[lane][-memory:], np.asarray(state.gradient)[:, lane])
            np.testing.assert_allclose(np.asarray(state.direction)[:, lane], expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())
            compared += 1
    assert compared > 30, "the ring has gone round several times in both lanes"


def test_a_lane_that_is_refilled_steps_as_if_it_had_run_alone() -> None:
    # Few steps, so that rounding has not grown yet: what the last problem left in the ring would show at once.
    starts = np.random.default_rng(1).uniform(-2, 2, (24, 4))
    options = jd.BatchOptions(lanes=4, mode="refill")
    refilled = jd.minimize_batch(chained, starts, solver=jd.LBFGS(memory=3), options=options, max_steps=15)
    for start, x in zip(starts[-6:], refilled.x[-6:], strict=True):
        np.testing.assert_allclose(x, jd.minimize(chained, start, solver=jd.LBFGS(memory=3), max_steps=15).x, rtol=1e-8)
    solved = jd.minimize_batch(chained, starts, solver=jd.LBFGS(memory=3), options=options)
    assert solved.success.all()


def test_memory_of_a_solve_is_that_of_the_ring_and_six_vectors() -> None:
    n, memory = 100_000, 10
    # Each parameter on its own, so that f and its gradient keep next to nothing. What comes out is not counted: x, and the gradient there.
    objective = lambda x, curvature: jnp.sum((x - 1) ** 2 * (curvature + (x - 1) ** 2))  # noqa: E731
    solve = jax.jit(lambda x, curvature: jd.minimize(objective, x, (curvature,), solver=jd.LBFGS(memory=memory), max_steps=100))
    analysis = solve.lower(jnp.zeros(n), jnp.ones(n)).compile().memory_analysis()
    assert analysis is not None
    assert analysis.temp_size_in_bytes / (8 * n) < 2 * memory + 6


def test_large_problems_end_at_the_minimum_in_both_precisions(dtype: str) -> None:
    result = jd.minimize(lambda x: jnp.sum(jnp.cosh(x - 1)), jnp.zeros(10_000, dtype), solver=jd.LBFGS())
    assert result.success
    assert result.x.dtype == dtype
    assert np.abs(np.asarray(result.x) - 1).max() < 2 * np.finfo(dtype).eps ** 0.5


def test_memory_is_a_positive_integer() -> None:
    with pytest.raises(ValueError, match="memory = 0"):
        jd.LBFGS(memory=0)
    assert dataclasses.replace(jd.LBFGS(), memory=4).memory == 4
