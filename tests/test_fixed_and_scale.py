"""Parameters that stay where they are, and parameters of known size: in every entry, in the user's units, checked where they come in."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


def tilted(x: dict[str, jax.Array], a: jax.Array) -> jax.Array:
    """Its minimum over u at a given v is at u = (a, 2 a) + v, where f = v^2 + 1."""
    return jnp.sum(jnp.array([3.0, 1.0]) * (x["u"] - jnp.array([1.0, 2.0]) * a - x["v"]) ** 2) + x["v"] ** 2 + 1


@pytest.mark.core
def test_a_fixed_parameter_stays_and_the_others_make_the_best_of_it() -> None:
    fixed = {"u": jnp.array([False, True]), "v": False}

    def solve(a: jax.Array) -> Any:
        return jd.minimize(tilted, {"u": jnp.array([0.0, 5.0]), "v": 2.0}, a, fixed=fixed, scale={"u": 1e3, "v": 0.1})

    # u1 = 5: v minimizes (5 - 2 a - v)^2 + v^2, v = (5 - 2 a) / 2, and u0 = a + v.
    result = solve(jnp.asarray(1.0))
    assert result.success
    np.testing.assert_allclose([*result.x["u"], result.x["v"]], [2.5, 5.0, 1.5], atol=1e-7)
    assert float(result.x["u"][1]) == 5.0
    assert (result.at_bound["u"].tolist(), int(result.at_bound["v"])) == ([0, 2], 0)
    np.testing.assert_allclose(result.jac["u"], [0.0, 2 * (5 - 2 - 1.5)], atol=1e-6, err_msg="the gradient is in the user's units")
    for jacobian in (jax.jacfwd, jax.jacrev):
        slopes = jacobian(lambda a: solve(a).x)(jnp.asarray(1.0))
        np.testing.assert_allclose([*slopes["u"], slopes["v"]], [0.0, 0.0, -1.0], atol=1e-7)


def test_problems_of_a_batch_have_fixed_parameters_and_scales_of_their_own() -> None:
    fixed = np.array([[False, False], [True, False], [True, True]])
    scale = np.array([[1.0, 1.0], [1e-3, 7.0], [1e3, 3.0]])
    fun = lambda x, a: (x[0] - a) ** 2 + (x[1] - x[0]) ** 2  # noqa: E731
    starts = np.array([[4.0, -1.0]] * 3)
    result = jd.minimize_batch(fun, starts, np.array([1.0, 2.0, 3.0]), fixed=fixed, scale=scale, solver=jd.Newton())
    assert result.success.all()
    np.testing.assert_allclose(result.x, [[1, 1], [4, 4], [4, -1]], atol=1e-6)
    np.testing.assert_array_equal(result.at_bound, np.where(fixed, 2, 0))


def test_a_scale_leaves_bounds_and_starts_their_bits_and_turns_a_bad_problem_into_a_good_one() -> None:
    """Curvatures of 1e-14 and 1e10 and an upper bound of 0.3, which has no exact binary form."""
    size = np.array([1e7, 1e-5])

    def fun(x: jax.Array, c: jax.Array) -> jax.Array:
        return jnp.sum((x / size - c) ** 2)

    result = jd.minimize(fun, [0.1 * 1e7, 0.3e-5], jnp.array([2.0, 3.0]), bounds=(None, [jnp.inf, 1.7e-5]), scale=size)
    assert result.success
    np.testing.assert_allclose(result.x, [2e7, 1.7e-5], rtol=1e-7)
    assert float(result.x[1]) == 1.7e-5
    assert float(result.jac[1]) == pytest.approx(2 * (1.7 - 3) / 1e-5, rel=1e-12)
    stopped = jd.minimize(fun, [0.1 * 1e7, 0.3e-5], jnp.array([2.0, 3.0]), scale=size, max_steps=0, history=True)
    np.testing.assert_array_equal(stopped.x, [0.1 * 1e7, 0.3e-5])
    assert stopped.history is not None
    np.testing.assert_array_equal(stopped.history.x, [[0.1 * 1e7, 0.3e-5]])


@pytest.mark.parametrize("solver", [jd.LevenbergMarquardt(), jd.GaussNewton(), jd.Dogleg()], ids=lambda s: s.name)
def test_fits_hold_parameters_and_their_covariance_is_in_the_users_units(solver: Any) -> None:
    """A line of which the slope is held: the offset is the mean of what is left, its error s / sqrt(n)."""
    t = jnp.arange(6.0)
    y = 3.0 + 2 * t + jnp.array([0.3, -0.1, 0.2, -0.4, 0.1, 0.5])
    fit = jd.curve_fit(lambda t, a, b: a + b * t, t, y, [0.0, 2.0], fixed=[False, True], scale=[1e-4, 1e6], solver=solver)
    left = np.asarray(y - 2 * t)
    assert fit.success
    assert float(fit.x[1]) == 2.0
    assert float(fit.x[0]) == pytest.approx(left.mean(), rel=1e-10), "to the default xtol of the solver"
    assert int(fit.dof) == 5
    error = left.std(ddof=1) / np.sqrt(6)
    np.testing.assert_allclose(fit.covariance, [[error**2, 0], [0, 0]], rtol=1e-10)
    np.testing.assert_allclose(fit.standard_errors, [error, 0], rtol=1e-10)


def test_batches_of_fits_hold_other_parameters_in_each_data_set() -> None:
    t = jnp.linspace(0.0, 4.0, 9)
    model = lambda t, a, k: a * jnp.exp(-k * t)  # noqa: E731
    y = jnp.stack([model(t, 3.0, 0.5), model(t, 2.0, 0.25)])
    fixed = np.array([[True, False], [False, True]])
    fit = jd.curve_fit_batch(model, t, y, np.array([[3.0, 1.0], [1.0, 0.25]]), fixed=fixed, scale=[10.0, 0.1])
    assert fit.success.all()
    np.testing.assert_allclose(fit.x, [[3.0, 0.5], [2.0, 0.25]], rtol=1e-6)
    assert (np.asarray(fit.x)[fixed] == [3.0, 0.25]).all()


@pytest.mark.core
def test_equations_are_solved_for_the_unknowns_that_are_not_held() -> None:
    def fun(x: dict[str, jax.Array], a: jax.Array) -> jax.Array:
        return jnp.stack([x["p"][0] ** 2 + x["q"] - a, x["p"][1] * x["q"] - 6.0])

    # q is held: p0 = sqrt(a - q), p1 = 6 / q.
    solve = lambda a: jd.root(  # noqa: E731
        fun, {"p": jnp.array([1.0, 1.0]), "q": 2.0}, a, fixed={"p": False, "q": True}, scale={"p": 4.0, "q": 1.0}, history=3
    )
    result = solve(jnp.asarray(11.0))
    assert result.success
    np.testing.assert_allclose(result.x["p"], [3.0, 3.0], rtol=1e-10)
    assert float(result.x["q"]) == 2.0
    assert result.history is not None
    assert result.history.x["p"].shape == (3, 2)
    slope = jax.grad(lambda a: solve(a).x["p"][0])(jnp.asarray(11.0))
    assert float(slope) == pytest.approx(1 / 6, rel=1e-8)
    many = jd.root_batch(fun, {"p": np.ones((2, 2)), "q": np.array([2.0, 3.0])}, np.array([11.0, 19.0]), fixed={"p": False, "q": True})
    np.testing.assert_allclose(many.x["p"], [[3, 3], [4, 2]], rtol=1e-10)
    np.testing.assert_array_equal(many.x["q"], [2.0, 3.0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scale": [1.0, 0.0]}, ValueError, r"scale = 0.0 at index 1; expected positive, finite numbers"),
        ({"scale": -2.0}, ValueError, r"scale = -2.0 at index 0; expected positive"),
        ({"scale": [jnp.nan, 1.0]}, ValueError, r"scale = nan at index 0"),
        ({"scale": [1.0, jnp.inf]}, ValueError, r"scale = inf at index 1"),
        ({"scale": np.ones(3)}, ValueError, r"scale has a leaf of shape \(3,\); expected a number or \(2,\)"),
        ({"scale": {"a": 1.0}}, ValueError, r"scale is a pytree like .*expected one value, or a pytree like x0"),
        ({"scale": "large"}, TypeError, r"scale = 'large' is a str; expected a real number"),
        ({"fixed": [1, 0]}, TypeError, r"fixed = .*expected booleans"),
        ({"fixed": np.array([True])}, ValueError, r"fixed has a leaf of shape \(1,\); expected a number or \(2,\)"),
        ({"fixed": "x"}, TypeError, r"fixed = 'x'; expected booleans"),
        ({"scale": 2.0, "derivatives": jd.FiniteDifference(step=1e-3)}, ValueError, r"scale with FiniteDifference\(step="),
    ],
)
@pytest.mark.parametrize("entry", [jd.minimize, jd.least_squares, jd.root], ids=lambda e: e.__name__)
def test_fixed_parameters_and_scales_that_make_no_sense_are_named(entry: Any, options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        entry(lambda x: x, jnp.ones(2), **options)


def test_what_cannot_be_held_is_said() -> None:
    identity = lambda x: x  # noqa: E731
    with pytest.raises(ValueError, match="fixed is True for every unknown"):
        jd.root(identity, jnp.ones(2), fixed=True)
    with pytest.raises(TypeError, match="fixed is traced"):
        jax.jit(lambda mask: jd.root(identity, jnp.ones(2), fixed=mask).x)(jnp.array([True, False]))
    with pytest.raises(ValueError, match=r"scale = -1.0 at problem 1, index 0"):
        jd.minimize_batch(jnp.sum, np.ones((3, 2)), scale=np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, 1.0]]))
    with pytest.raises(ValueError, match=r"fun returned 2 numbers .* for 1 unknowns"):
        jd.root(identity, jnp.ones(2), fixed=[True, False])
