"""`minimize_batch` in lockstep: blocks of lanes, axes, sharing, derivatives, and independence of how lanes are placed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


def misfit(p: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
    """Exponential decay; t is shared, y belongs to a problem."""
    return jnp.sum((p["a"] * jnp.exp(-p["k"] * t) - y) ** 2)


def decays(count: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    truth = {"a": rng.uniform(1, 3, count), "k": rng.uniform(0.3, 1.5, count)}
    t = np.linspace(0, 4, 12)
    y = truth["a"][:, None] * np.exp(-truth["k"][:, None] * t)
    return {"a": np.full(count, 1.5), "k": np.full(count, 0.8)}, t, y, truth


@pytest.mark.core
def test_shared_and_split_data_recover_the_truth() -> None:
    starts, t, y, truth = decays(37)
    result = jd.minimize_batch(misfit, starts, (t, y), in_axes=(0, None, 0))
    assert result.success.all()
    np.testing.assert_allclose(result.x["a"], truth["a"], rtol=1e-7)
    np.testing.assert_allclose(result.x["k"], truth["k"], rtol=1e-7)


def test_axes_may_lie_anywhere_and_starts_may_be_shared() -> None:
    starts, t, y, _ = decays(9)
    plain = jd.minimize_batch(misfit, starts, (t, y), in_axes=(0, None, 0))
    turned = jd.minimize_batch(misfit, {"a": 1.5, "k": 0.8}, (t, y.T), in_axes=(None, None, 1))
    negative = jd.minimize_batch(misfit, starts, (t, y.T), in_axes=(0, None, -1))
    for other in (turned, negative):
        np.testing.assert_array_equal(plain.x["a"], other.x["a"])
        np.testing.assert_array_equal(plain.nit, other.nit)


@pytest.mark.parametrize("lanes", [1, 4, 8, 37])
def test_results_do_not_depend_on_the_size_of_a_block(lanes: int) -> None:
    starts, t, y, _ = decays(37)
    whole = jd.minimize_batch(misfit, starts, (t, y), in_axes=(0, None, 0), options=jd.BatchOptions(lanes=37))
    result = jd.minimize_batch(misfit, starts, (t, y), in_axes=(0, None, 0), options=jd.BatchOptions(lanes=lanes))
    np.testing.assert_allclose(result.x["a"], whole.x["a"], rtol=1e-9)
    np.testing.assert_array_equal(result.success, whole.success)
    assert result.x["a"].shape == (37,)


def test_results_do_not_depend_on_where_in_the_batch_a_problem_lies() -> None:
    starts, t, y, _ = decays(32)
    order = np.random.default_rng(1).permutation(32)
    options = jd.BatchOptions(lanes=8)
    straight = jd.minimize_batch(misfit, starts, (t, y), in_axes=(0, None, 0), options=options)
    shuffled = jd.minimize_batch(
        misfit, {name: value[order] for name, value in starts.items()}, (t, y[order]), in_axes=(0, None, 0), options=options
    )
    for field in ("fun", "nit", "nfev", "status", "optimality"):
        np.testing.assert_array_equal(np.asarray(getattr(straight, field))[order], getattr(shuffled, field))
    np.testing.assert_array_equal(np.asarray(straight.x["k"])[order], shuffled.x["k"])


def test_a_block_ends_with_its_own_slowest_lane() -> None:
    """Steps are counted by a callback in f: an easy block beside a hard one pays for its own steps only."""
    seen = []

    def fun(x: jax.Array, kind: jax.Array) -> jax.Array:
        jax.debug.callback(lambda k: seen.append(int(k)), kind)
        easy = jnp.sum((x - 1) ** 2)
        hard = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        return jnp.where(kind == 0, easy, hard)

    kind = np.repeat([0, 1], 4)
    result = jd.minimize_batch(fun, np.tile([-1.2, 1.0], (8, 1)), kind, options=jd.BatchOptions(lanes=4))
    jax.effects_barrier()
    assert result.success.all()
    assert 0 < seen.count(0) < seen.count(1) / 4


def test_gradients_of_a_batch_match_those_of_its_problems() -> None:
    starts, t, y, _ = decays(6)

    def total(y: jax.Array) -> jax.Array:
        result = jd.minimize_batch(misfit, starts, (t, y), in_axes=(0, None, 0), options=jd.BatchOptions(lanes=4))
        return jnp.sum(result.x["k"] ** 2)

    def one(y: jax.Array) -> jax.Array:
        return jd.minimize(misfit, {"a": 1.5, "k": 0.8}, (t, y)).x["k"] ** 2

    expected = jax.vmap(jax.grad(one))(jnp.asarray(y))
    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(y)), expected, rtol=1e-6, atol=1e-9)
    shared = jax.grad(lambda t: jnp.sum(jd.minimize_batch(misfit, starts, (t, y), in_axes=(0, None, 0)).x["k"]))(jnp.asarray(t))
    h = 1e-6
    solve = lambda t: jnp.sum(jd.minimize_batch(misfit, starts, (t, y), in_axes=(0, None, 0)).x["k"])  # noqa: E731
    difference = (solve(jnp.asarray(t).at[3].add(h)) - solve(jnp.asarray(t).at[3].add(-h))) / (2 * h)
    np.testing.assert_allclose(shared[3], difference, rtol=1e-5)


@pytest.mark.core
def test_a_failed_lane_is_nan_where_asked_for_and_zero_where_masked_out() -> None:
    """The neighbours' derivatives stay those of a batch without it."""
    fun = lambda x, a: (x - a) ** 2 - jnp.log(jnp.where(a > 10, -1.0, 1.0))  # noqa: E731
    solve = lambda a: jd.minimize_batch(fun, jnp.zeros(3), a)  # noqa: E731
    a = jnp.array([1.0, 20.0, 2.0])
    naive = jax.grad(lambda a: jnp.sum(solve(a).x))(a)
    np.testing.assert_array_equal(jnp.isnan(naive), [False, True, False])

    def masked(a: jax.Array) -> jax.Array:
        result = solve(a)
        return jnp.sum(jnp.where(result.success, result.x, 0.0) ** 2)

    np.testing.assert_allclose(jax.grad(masked)(a), [2.0, 0.0, 4.0])


@pytest.mark.core
def test_aux_and_float32_travel_with_their_lanes() -> None:
    fun = lambda x, a: (jnp.sum((x - a) ** 2), {"a": a, "x": x})  # noqa: E731
    a = jnp.arange(5, dtype=jnp.float32)
    result = jd.minimize_batch(fun, jnp.zeros((5, 2), jnp.float32), a, has_aux=True, options=jd.BatchOptions(lanes=2))
    assert result.x.dtype == result.fun.dtype == jnp.float32
    np.testing.assert_array_equal(result.aux["a"], a)
    np.testing.assert_array_equal(result.aux["x"], result.x)
