"""`minimize`: right answers from published starts, honest statuses, pytrees, jit, vmap, derivatives of solutions, history."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.functions.nist import load_nist, log_relative_error


def rosenbrock(x: jax.Array) -> jax.Array:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def wood(x: jax.Array) -> jax.Array:
    return (
        100 * (x[1] - x[0] ** 2) ** 2
        + (1 - x[0]) ** 2
        + 90 * (x[3] - x[2] ** 2) ** 2
        + (1 - x[2]) ** 2
        + 10.1 * ((x[1] - 1) ** 2 + (x[3] - 1) ** 2)
        + 19.8 * (x[1] - 1) * (x[3] - 1)
    )


@pytest.mark.core
@pytest.mark.parametrize(("fun", "start"), [(rosenbrock, [-1.2, 1.0]), (wood, [-3.0, -1.0, -3.0, -1.0])])
def test_newton_reaches_the_published_minimum(fun: object, start: list[float], dtype: str) -> None:
    result = jd.minimize(fun, jnp.asarray(start, dtype), solver=jd.Newton())
    assert result.success
    assert result.x.dtype == result.fun.dtype == dtype
    np.testing.assert_allclose(result.x, 1.0, atol=100 * np.finfo(dtype).eps ** 0.75)


@pytest.mark.parametrize("solver", [jd.BFGS(), jd.GradientDescent(), optax.adam(0.02), optax.lbfgs()])
def test_first_order_solvers_reach_the_published_minimum(solver: object) -> None:
    result = jd.minimize(rosenbrock, [-1.2, 1.0], solver=solver, max_steps=40_000)
    assert result.optimality < 1e-5
    np.testing.assert_allclose(result.x, 1.0, atol=1e-4)
    assert bool(result.success) == bool(result.optimality <= np.finfo(float).eps ** 0.5)


@pytest.mark.parametrize("derivatives", [jd.FiniteDifference(), jd.FiniteDifference(kind="forward", order=1)])
@pytest.mark.parametrize("solver", [jd.Newton(), jd.GradientDescent()])
def test_finite_differences_are_one_field_away(solver: object, derivatives: object) -> None:
    fun = lambda x: jnp.cosh(x[0] - 1) + jnp.cosh(2 * (x[1] + 1))  # noqa: E731
    exact = jd.minimize(fun, [0.0, 0.0], solver=solver)
    result = jd.minimize(fun, [0.0, 0.0], solver=solver, derivatives=derivatives)
    assert result.success
    np.testing.assert_allclose(result.x, [1.0, -1.0], atol=1e-5)
    assert result.nfev > 2 * exact.nfev, "each gradient costs several evaluations, and they are counted"


@pytest.mark.core
def test_supplied_derivatives_are_used_and_not_replaced() -> None:
    calls = []

    def gradient(x: dict[str, jax.Array]) -> dict[str, jax.Array]:
        calls.append("gradient")
        return {"u": 2 * (x["u"] - 1), "v": 8 * x["v"]}

    def hessian(x: dict[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
        calls.append("hessian")
        one = jnp.ones_like(x["u"])
        return {"u": {"u": 2 * one, "v": 0 * one}, "v": {"u": 0 * one, "v": 8 * one}}

    # f itself has no derivative that JAX could find: only the supplied ones lead to the minimum.
    fun = lambda x: jax.lax.stop_gradient((x["u"] - 1) ** 2 + 4 * x["v"] ** 2)  # noqa: E731
    result = jd.minimize(fun, {"u": 3.0, "v": 2.0}, derivatives=jd.Supplied(gradient=gradient, hessian=hessian), solver=jd.Newton())
    assert {"gradient", "hessian"} <= set(calls)
    assert result.success
    assert (float(result.x["u"]), float(result.x["v"])) == (1.0, 0.0)


# -- honest statuses ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6])
def test_newton_never_calls_a_saddle_a_minimum(offset: float) -> None:
    """x^2 - y^2 + y^4 has a saddle at the origin and minima at y = +-sqrt(1/2), f = -1/4."""
    result = jd.minimize(lambda x, c: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 + c, [0.0, 0.0], offset, solver=jd.Newton())
    assert not result.success or abs(float(result.x[1])) == pytest.approx(0.5**0.5, abs=1e-6)
    assert result.success or result.status == jd.Status.SADDLE_POINT


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: x[0] ** 3 + x[1] ** 2,
        lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2,
        lambda x: -(x[0] ** 2) - x[1] ** 4,
        lambda x: x[0] * x[1],
        lambda x: x[0] ** 2 + x[1] ** 3,
    ],
    ids=["inflection", "monkey_saddle", "maximum", "hyperbolic", "degenerate"],
)
def test_newton_does_not_stop_at_a_stationary_point_that_is_no_minimum(fun: object) -> None:
    assert not jd.minimize(fun, [0.0, 0.0], max_steps=50, solver=jd.Newton()).success


@pytest.mark.parametrize(
    ("fun", "minimum"),
    [
        (lambda x: x[0] ** 4 + x[1] ** 2, 0.0),
        (lambda x: (x[0] + x[1] - 1) ** 2, 0.0),
        (lambda x: 3.0 + 0 * x[0], 3.0),
        # Powell's singular function, Moré, Garbow and Hillstrom (1981), problem 13, in two of its variables.
        (lambda x: (x[0] + 10 * x[1]) ** 2 + (x[1] - 2 * x[0]) ** 4, 0.0),
    ],
    ids=["quartic", "valley", "constant", "powell"],
)
def test_newton_accepts_minima_that_are_flat(fun: object, minimum: float) -> None:
    result = jd.minimize(fun, [2.0, 1.0], solver=jd.Newton())
    assert result.success
    assert float(result.fun) == pytest.approx(minimum, abs=1e-12)


@pytest.mark.parametrize("solver", [jd.BFGS(), jd.Newton(), jd.GradientDescent(), optax.adam(0.1)])
@pytest.mark.parametrize("fun", [lambda x: -jnp.sum(x), lambda x: -jnp.sum(jnp.exp(x)), lambda x: jnp.sum(x**3)])
def test_what_is_unbounded_below_never_converges(solver: object, fun: object) -> None:
    result = jd.minimize(fun, [-0.1, 0.5], solver=solver, max_steps=100)
    assert not result.success
    assert jnp.isfinite(result.x).all()


@pytest.mark.parametrize("solver", [jd.BFGS(), jd.Newton(), jd.GradientDescent(), optax.adam(0.1)])
def test_a_start_that_is_not_finite_is_named_and_returned_unchanged(solver: object) -> None:
    for fun, start in [(lambda x: jnp.sum(jnp.log(x)), [-1.0, 2.0]), (lambda x: jnp.sum(x**2), [jnp.nan, 1.0])]:
        result = jd.minimize(fun, jnp.array(start), solver=solver)
        assert result.status == jd.Status.NON_FINITE_START
        assert result.nit == 0
        np.testing.assert_array_equal(result.x, start)
        assert jnp.isnan(result.fun)


@pytest.mark.parametrize("solver", [jd.BFGS(), jd.Newton(), jd.GradientDescent(learning_rate=100.0)])
def test_a_step_out_of_the_domain_is_taken_back(solver: object) -> None:
    """x - log x, minimum at 1; full Newton steps from 3 and long gradient steps from anywhere leave x > 0."""
    result = jd.minimize(lambda x: x - jnp.log(x), 3.0, solver=solver, max_steps=500)
    assert result.success
    assert float(result.x) == pytest.approx(1.0, abs=1e-7)


def test_a_fixed_step_out_of_the_domain_ends_at_the_last_finite_point() -> None:
    solver = jd.GradientDescent(learning_rate=100.0, line_search="fixed")
    result = jd.minimize(lambda x: x - jnp.log(x), 3.0, solver=solver)
    assert result.status == jd.Status.NON_FINITE
    assert float(result.x) == 3.0
    assert float(result.fun) == pytest.approx(3 - np.log(3))


def test_a_gradient_that_is_nan_beside_a_finite_value_is_never_accepted() -> None:
    """sqrt at its kink: f is finite at 0, its derivative is not; the double-where trap makes it NaN."""
    trap = lambda x: jnp.where(x > 1, x**2, jnp.where(x > 1, jnp.sqrt(x - 1), x))  # noqa: E731
    for solver in (jd.BFGS(), jd.Newton(), jd.GradientDescent(), optax.sgd(0.9)):
        result = jd.minimize(trap, 1.5, solver=solver)
        assert not result.success
        assert jnp.isfinite(result.jac)


def test_accepted_steps_never_raise_f() -> None:
    for solver in (jd.BFGS(), jd.Newton(), jd.GradientDescent()):
        values = np.asarray(jd.minimize(rosenbrock, [-1.2, 1.0], solver=solver, history=True).history.value)
        values = values[np.isfinite(values)]
        assert len(values) > 20
        assert (np.diff(values) <= 4 * np.finfo(float).eps * np.abs(values[:-1])).all()


def test_ftol_and_xtol_stop_where_they_say() -> None:
    loose = jd.minimize(lambda x: 1 + rosenbrock(x), [-1.2, 1.0], solver=jd.Newton(ftol=1e-2))
    assert loose.status == jd.Status.CONVERGED_VALUE
    assert float(loose.fun) - 1 < 2e-2
    step = jd.minimize(rosenbrock, [-1.2, 1.0], solver=jd.Newton(xtol=1e-2))
    assert step.status == jd.Status.CONVERGED_STEP
    np.testing.assert_allclose(step.x, 1.0, atol=2e-2)
    tight = jd.minimize(rosenbrock, [-1.2, 1.0], solver=jd.Newton())
    assert step.nit < tight.nit


@pytest.mark.core
def test_tolerances_may_differ_from_leaf_to_leaf() -> None:
    fun = lambda x: (x["u"] - 1) ** 2 + jnp.sum((x["v"] - 2) ** 2)  # noqa: E731
    solver = jd.GradientDescent(learning_rate=0.1, line_search="fixed", gtol={"u": 1e-10, "v": 1e-2})
    result = jd.minimize(fun, {"u": 0.0, "v": jnp.zeros(2)}, solver=solver)
    assert abs(result.jac["u"]) <= 1e-10
    assert jnp.abs(result.jac["v"]).max() <= 1e-2


# -- transformations ----------------------------------------------------------------------------------------------------------------------


def quartic(x: jax.Array, a: jax.Array) -> jax.Array:
    return jnp.sum((x - a) ** 4 + 0.5 * (x - 2 * a) ** 2 + 0.1 * x[0] * x)


@pytest.mark.parametrize("solver", [jd.Newton(), jd.GradientDescent(learning_rate=0.1), optax.adam(0.05)])
def test_the_solution_is_differentiable_in_both_modes_and_twice(solver: object) -> None:
    """Held against central differences of the solutions themselves."""
    a = jnp.array([0.5, 1.0, -0.3])
    solve = lambda a: jd.minimize(quartic, jnp.zeros(3), a, solver=solver, max_steps=5000).x  # noqa: E731
    h = 1e-5
    expected = np.stack([(solve(a.at[i].add(h)) - solve(a.at[i].add(-h))) / (2 * h) for i in range(3)], axis=1)
    np.testing.assert_allclose(jax.jacfwd(solve)(a), expected, atol=1e-5)
    np.testing.assert_allclose(jax.jacrev(solve)(a), expected, atol=1e-5)
    second = jax.hessian(lambda a: solve(a)[1])(a)
    slope = jax.jit(jax.grad(lambda a: solve(a)[1]))
    expected = np.stack([(slope(a.at[i].add(h)) - slope(a.at[i].add(-h))) / (2 * h) for i in range(3)], axis=1)
    np.testing.assert_allclose(second, expected, atol=1e-4)


@pytest.mark.core
def test_what_fun_closes_over_is_differentiated_too() -> None:
    a = jnp.array([0.5, 1.0, -0.3])
    by_argument = jax.grad(lambda a: jnp.sum(jd.minimize(quartic, jnp.zeros(3), a).x ** 2))(a)
    by_closure = jax.grad(lambda a: jnp.sum(jd.minimize(lambda x: quartic(x, a), jnp.zeros(3)).x ** 2))(a)
    np.testing.assert_array_equal(by_closure, by_argument)
    by_method = jax.jit(jax.grad(lambda a: jnp.sum(jd.minimize(Holder(a).value, jnp.zeros(3)).x ** 2)))(a)
    np.testing.assert_allclose(by_method, by_argument, rtol=1e-12)


class Holder:
    """An objective as a method of an object that holds the data."""

    def __init__(self, a: jax.Array) -> None:
        self.a = a

    def value(self, x: jax.Array) -> jax.Array:
        return quartic(x, self.a)


def test_the_derivative_of_the_minimum_value_is_the_partial_derivative() -> None:
    """The envelope theorem."""
    a = jnp.array([0.5, 1.0, -0.3])
    result = jd.minimize(quartic, jnp.zeros(3), a)
    total = jax.grad(lambda a: jd.minimize(quartic, jnp.zeros(3), a).fun)(a)
    np.testing.assert_allclose(total, jax.grad(quartic, argnums=1)(result.x, a), atol=1e-10)


@pytest.mark.core
def test_the_derivative_of_a_solution_that_was_not_found_is_nan() -> None:
    a = jnp.array([0.5, 1.0, -0.3])
    unsolved = lambda a: jd.minimize(quartic, jnp.zeros(3), a, max_steps=1).x  # noqa: E731
    assert jnp.isnan(jax.jacfwd(unsolved)(a)).all()
    assert jnp.isnan(jax.grad(lambda a: jnp.sum(unsolved(a)))(a)).all()


def test_jit_vmap_and_plain_calls_agree() -> None:
    solve = lambda x0, a: jd.minimize(quartic, x0, a)  # noqa: E731
    x0, a = jnp.zeros((4, 3)), jnp.linspace(-1, 1, 12).reshape(4, 3)
    plain = [solve(x0[i], a[i]) for i in range(4)]
    for results in (jax.vmap(solve)(x0, a), jax.jit(jax.vmap(solve))(x0, a), jax.lax.map(lambda z: solve(*z), (x0, a))):
        for i, one in enumerate(plain):
            np.testing.assert_allclose(results.x[i], one.x, rtol=1e-10, atol=1e-12)
            assert results.status[i] == one.status


def test_options_may_be_swept_under_vmap() -> None:
    rates = jnp.array([0.05, 0.1, 0.2])
    solve = lambda rate: jd.minimize(jnp.sum, jnp.ones(1), solver=jd.GradientDescent(rate, line_search="fixed"), max_steps=3).x[0]  # noqa: E731
    np.testing.assert_allclose(jax.vmap(solve)(rates), 1 - 3 * rates, rtol=1e-14)


def test_pytrees_of_mixed_shapes_come_back_as_they_went_in() -> None:
    x0 = {"w": jnp.ones((2, 3)), "b": (jnp.zeros(3), 1.0)}
    result = jd.minimize(lambda x: jnp.sum((x["w"] - 2) ** 2) + jnp.sum((x["b"][0] + 1) ** 2) + (x["b"][1] - 5) ** 2, x0)
    assert jax.tree.structure(result.x) == jax.tree.structure(x0) == jax.tree.structure(result.jac)
    np.testing.assert_allclose(result.x["w"], np.full((2, 3), 2.0))
    assert result.x["b"][1].shape == ()
    assert float(result.x["b"][1]) == pytest.approx(5.0)


@pytest.mark.core
def test_optax_sees_the_users_tree_and_one_lane_at_a_time() -> None:
    """A transformation that treats leaves and norms of its own: clipped by the global norm, the bias frozen."""
    transformation = optax.chain(
        optax.clip_by_global_norm(0.1), optax.multi_transform({"go": optax.sgd(0.5), "stay": optax.set_to_zero()}, {"w": "go", "b": "stay"})
    )
    fun = lambda x, t: jnp.sum((x["w"] - t) ** 2) + jnp.sum(x["b"] ** 2)  # noqa: E731
    starts = {"w": jnp.array([[3.0, 0.0], [300.0, 5.0]]), "b": jnp.ones((2, 1))}
    result = jd.minimize_batch(fun, starts, jnp.zeros(2), solver=transformation, max_steps=7)
    for lane in range(2):
        params = jax.tree.map(lambda leaf, lane=lane: leaf[lane], starts)
        state = transformation.init(params)
        for _ in range(7):
            updates, state = transformation.update(jax.grad(fun)(params, 0.0), state, params)
            params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(result.x["w"][lane], params["w"], rtol=1e-14)
        np.testing.assert_array_equal(result.x["b"][lane], 1.0)


def test_aux_is_that_of_the_solution() -> None:
    result = jd.minimize(lambda x: ((x - 2.0) ** 2, {"twice": 2 * x}), 0.0, has_aux=True)
    assert float(result.aux["twice"]) == 4.0


# -- history and texts --------------------------------------------------------------------------------------------------------------------


@pytest.mark.core
def test_history_holds_the_whole_path_or_its_end() -> None:
    whole = jd.minimize(rosenbrock, [-1.2, 1.0], history=True, max_steps=100, solver=jd.Newton())
    steps = int(whole.nit)
    assert whole.history.value.shape == (101,)
    assert float(whole.history.value[0]) == pytest.approx(24.2)
    np.testing.assert_array_equal(whole.history.x[steps], whole.x)
    assert np.isnan(whole.history.value[steps + 1 :]).all()
    assert np.isfinite(whole.history.value[: steps + 1]).all()
    end = jd.minimize(rosenbrock, [-1.2, 1.0], history=4, max_steps=100, solver=jd.Newton())
    np.testing.assert_array_equal(end.history.x, whole.history.x[steps - 3 : steps + 1])
    np.testing.assert_array_equal(end.history.optimality, whole.history.optimality[steps - 3 : steps + 1])


def test_history_of_a_batch_ends_where_each_lane_ends() -> None:
    starts = np.array([[-1.2, 1.0], [1.0, 1.0], [0.9, 0.9]])
    batch = jd.minimize_batch(rosenbrock, starts, history=6)
    for lane, start in enumerate(starts):
        alone = jd.minimize(rosenbrock, start, history=6)
        # Two programs round apart, and BFGS multiplies that near the minimum, where f is some 1e-15.
        np.testing.assert_allclose(batch.history.value[lane], alone.history.value, rtol=1e-6, atol=1e-18)


@pytest.mark.core
def test_results_read_well() -> None:
    result = jd.minimize(rosenbrock, [-1.2, 1.0], solver=jd.Newton())
    text = str(result)
    assert "Converged: the gradient is as small as gtol asks." in text
    assert "nit: 33" in text
    assert "<table>" in result._repr_html_()
    assert result.to_dict()["status"] == "CONVERGED_GRADIENT"
    batch = jd.minimize_batch(rosenbrock, jnp.array([[1.0, 1.0], [jnp.nan, 0.0]]))
    assert batch.message.startswith("1 of 2 problems converged")
    with pytest.raises(jd.OptimizationError, match="1 of 2 problems converged"):
        batch.raise_if_failed()
    with pytest.raises(jd.OptimizationError, match="max_steps"):
        jd.minimize(rosenbrock, [-1.2, 1.0], max_steps=2, throw=True, solver=jd.Newton())


def test_every_status_has_a_sentence_and_only_three_are_successes() -> None:
    assert all(status.message.endswith(".") for status in jd.Status)
    assert [status.name for status in jd.Status if status.is_success] == ["CONVERGED_GRADIENT", "CONVERGED_VALUE", "CONVERGED_STEP"]


def test_newton_that_shrinks_a_spike_between_the_data_says_plateau() -> None:
    """NIST's Eckerle4 from its first start: the peak narrows until no sample sees it, and f is constant to the last bit."""
    dataset = load_nist("Eckerle4")
    misfit = lambda b, x, y: jnp.sum((y - dataset.model(x, b)) ** 2)  # noqa: E731
    result = jd.minimize(misfit, dataset.start1, (dataset.x, dataset.y), solver=jd.Newton())
    assert result.status == jd.Status.PLATEAU
    assert not result.success


@pytest.mark.parametrize(("name", "start"), [("Misra1a", 1), ("Chwirut2", 1), ("Rat43", 2), ("BoxBOD", 2), ("MGH10", 2), ("ENSO", 1)])
def test_newton_finds_the_certified_parameters_of_nist(name: str, start: int) -> None:
    dataset = load_nist(name)
    misfit = lambda b, x, y: jnp.sum((y - dataset.model(x, b)) ** 2)  # noqa: E731
    result = jd.minimize(misfit, (dataset.start1, dataset.start2)[start - 1], (dataset.x, dataset.y), solver=jd.Newton(), max_steps=500)
    assert result.success
    assert log_relative_error(result.x, dataset.certified).min() > 9


def test_finite_difference_steps_may_differ_from_leaf_to_leaf() -> None:
    method = jd.FiniteDifference(step={"u": 1e-3, "v": 1e-4})
    fun = lambda x: (x["u"] - 1) ** 2 + jnp.sum((x["v"] - 2) ** 2)  # noqa: E731
    result = jd.minimize(fun, {"u": 0.0, "v": jnp.zeros(2)}, derivatives=method)
    np.testing.assert_allclose(result.x["v"], 2.0, atol=1e-6)


def test_a_small_function_is_not_at_its_minimum_from_the_start() -> None:
    edensch = lambda x, a: a * jnp.sum((x[:-1] - 2) ** 4 + (x[:-1] * x[1:] - 2 * x[1:]) ** 2 + (x[1:] + 1) ** 2)  # noqa: E731
    results = [jd.minimize(edensch, jnp.zeros(2, jnp.float32), jnp.float32(small)) for small in (1e-6, 1e-9)]
    assert results[0].success
    for result in results:
        # At (2, -1) every term is zero. Where rounding hides the descent, that must be said.
        assert not result.success or np.allclose(np.asarray(result.x), [2, -1], atol=0.2)
