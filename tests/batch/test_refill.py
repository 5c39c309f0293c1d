"""The engine that retires and refills lanes: the answers of lockstep, whatever the lanes, at the cost of the work there is.

Lockstep and refill are two programs, which a compiler may round apart in the last place (jax 0.12 does); what one program gives does not
depend on the order of the queue, nor on bad neighbours, to the last bit.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


def fun(x: jax.Array, c: jax.Array, offset: jax.Array) -> jax.Array:
    return (1 - x[0]) ** 2 + c * (x[1] - x[0] ** 2) ** 2 + offset


def batch(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(-2, 2, (count, 2)), 10.0 ** rng.uniform(0, 3, count)


def solve(starts: np.ndarray, c: np.ndarray, mode: str = "refill", lanes: int = 16, check_every: int = 4, max_steps: int = 200) -> object:
    options = jd.BatchOptions(mode=mode, lanes=lanes, check_every=check_every)
    return jd.minimize_batch(fun, starts, (c, 1.0), in_axes=(0, 0, None), solver=jd.BFGS(), max_steps=max_steps, options=options)


FIELDS = ("x", "fun", "jac", "nit", "nfev", "status", "optimality")


@pytest.mark.core
@pytest.mark.parametrize("check_every", [1, 4, 7])
def test_refill_gives_the_answers_of_lockstep(check_every: int) -> None:
    starts, c = batch(123)
    lockstep, refill = solve(starts, c, "lockstep"), solve(starts, c, check_every=check_every)
    assert lockstep.success.all()
    np.testing.assert_array_equal(refill.status, lockstep.status)
    # gtol allows an error of some 1e-8 in x at the flattest of these minima.
    np.testing.assert_allclose(refill.x, lockstep.x, atol=1e-7)
    np.testing.assert_allclose(refill.fun, lockstep.fun, rtol=1e-14)
    assert np.abs(refill.nit - lockstep.nit).max() <= 2


def test_a_lane_that_runs_out_of_steps_ends_with_exactly_that_many() -> None:
    starts, c = batch(123)
    lockstep, refill = solve(starts, c, "lockstep", max_steps=13), solve(starts, c, max_steps=13)
    assert 0 < np.sum(lockstep.status == jd.Status.MAX_STEPS) < 123
    assert refill.nit.max() == 13
    np.testing.assert_array_equal(refill.status, lockstep.status)
    np.testing.assert_allclose(refill.x, lockstep.x, rtol=1e-6)


def test_no_steps_at_all_evaluates_every_start() -> None:
    starts, c = batch(40)
    result = solve(starts, c, max_steps=0)
    np.testing.assert_array_equal(result.x, starts)
    np.testing.assert_allclose(result.fun, [fun(x, k, 1.0) for x, k in zip(starts, c, strict=True)], rtol=1e-14)


@pytest.mark.core
def test_bad_problems_change_no_bit_of_the_others() -> None:
    starts, c = batch(123)
    clean = solve(starts, c)
    starts[5], c[77] = np.nan, np.nan
    bad = solve(starts, c)
    others = np.delete(np.arange(123), [5, 77])
    for field in FIELDS:
        np.testing.assert_array_equal(np.asarray(getattr(bad, field))[others], np.asarray(getattr(clean, field))[others])
    np.testing.assert_array_equal(np.asarray(bad.status)[[5, 77]], jd.Status.NON_FINITE_START)


def test_the_order_of_the_queue_does_not_matter() -> None:
    starts, c = batch(123)
    order = np.random.default_rng(1).permutation(123)
    straight, shuffled = solve(starts, c), solve(starts[order], c[order])
    for field in FIELDS:
        np.testing.assert_array_equal(np.asarray(getattr(straight, field))[order], getattr(shuffled, field))


def test_the_cost_follows_the_work_and_not_the_slowest_lane() -> None:
    """One problem in eight needs many steps. Rounds are counted by a callback: in lockstep every block waits for its slowest lane."""
    rounds = []

    def counted(x: jax.Array, c: jax.Array) -> jax.Array:
        jax.debug.callback(lambda _: rounds.append(1), c)
        return jnp.where(c > 1, fun(x, c, 0.0), jnp.sum((x - 1) ** 2))

    starts, c = np.tile([-1.2, 1.0], (256, 1)), np.where(np.arange(256) % 8 == 0, 100.0, 0.0)
    evaluations = {}
    for mode in ("lockstep", "refill"):
        rounds.clear()
        options = jd.BatchOptions(mode=mode, lanes=16, check_every=2)
        result = jd.minimize_batch(counted, starts, c, solver=jd.BFGS(), options=options)
        jax.effects_barrier()
        assert result.success.all()
        evaluations[mode] = len(rounds)
    work = int(np.sum(result.nit + 1))
    assert evaluations["refill"] < 0.5 * evaluations["lockstep"]
    assert evaluations["refill"] < 2 * work


def test_gradients_flow_through_the_engine() -> None:
    starts, _ = batch(40)

    def total(target: jax.Array, mode: str) -> jax.Array:
        options = jd.BatchOptions(mode=mode, lanes=8)
        quadratic = lambda x, t: jnp.sum((x - t) ** 2 + 0.1 * x[0] ** 2)  # noqa: E731
        return jnp.sum(jd.minimize_batch(quadratic, starts, target, solver=jd.Newton(), options=options).x ** 2)

    target = jnp.linspace(-1, 1, 40)
    np.testing.assert_allclose(jax.grad(total)(target, "refill"), jax.grad(total)(target, "lockstep"), rtol=1e-12)


def test_a_history_asks_for_lockstep() -> None:
    with pytest.raises(ValueError, match="mode = 'refill' keeps no history"):
        jd.minimize_batch(lambda x: x**2, np.ones(9), history=True, options=jd.BatchOptions(mode="refill", lanes=2))
    result = jd.minimize_batch(lambda x: x**2, np.ones(9), history=3, options=jd.BatchOptions(lanes=2))
    assert result.history.value.shape == (9, 3)


def test_check_every_is_a_positive_integer() -> None:
    with pytest.raises(ValueError, match=r"check_every = 0; expected an integer >= 1"):
        jd.BatchOptions(check_every=0)
