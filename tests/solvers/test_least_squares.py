"""Least squares: certified answers, honest statuses, bounds that satisfy the first-order conditions, losses as SciPy's, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxdiff as jd
from jaxdiff.functions.mgh import load_mgh
from jaxdiff.functions.nist import load_nist, log_relative_error

SOLVERS = [jd.LevenbergMarquardt(), jd.GaussNewton(), jd.Dogleg(), jd.LevenbergMarquardtCholesky()]


def rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def decay(x: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
    return x[0] * jnp.exp(-x[1] * t) - y


def noisy_decay() -> tuple[np.ndarray, np.ndarray]:
    """Samples of 3 exp(-t / 2) with noise, every seventh an outlier."""
    t = np.linspace(0, 4, 30)
    y = 3 * np.exp(-t / 2) + 0.05 * np.random.default_rng(0).normal(size=30)
    y[::7] += 2
    return t, y


def fitted(name: str, dtype: str, derivatives: object = jd.Autodiff()) -> tuple[jd.FitResult, np.ndarray]:
    """A NIST dataset from both of its starts, and the digits of the worst parameter of each."""
    dataset = load_nist(name)
    starts = np.stack([dataset.start1, dataset.start2]).astype(dtype)
    residual = lambda b, x, y: dataset.model(x, b) - y  # noqa: E731
    data = (jnp.asarray(dataset.x, dtype), jnp.asarray(dataset.y, dtype))
    result = jd.least_squares_batch(residual, starts, data, in_axes=(0, None, None), derivatives=derivatives, covariance=True)
    return result, np.array([log_relative_error(np.asarray(x), dataset.certified).min() for x in result.x])


@pytest.mark.parametrize("name", ["MGH10", "Bennett5", "Eckerle4"])
def test_the_hardest_nist_datasets_are_solved_to_their_certified_digits(name: str) -> None:
    result, digits = fitted(name, "float64")
    assert result.success.all()
    assert digits.min() > 8
    for errors in result.standard_errors:
        assert log_relative_error(np.asarray(errors), load_nist(name).certified_sd).min() > 5
    assert (np.asarray(result.dof) == load_nist(name).dof).all()


@pytest.mark.parametrize("name", ["MGH10", "Lanczos3"])
def test_single_precision_never_claims_what_rounding_hides(name: str) -> None:
    result, digits = fitted(name, "float32")
    assert result.x.dtype == jnp.float32
    assert not (np.asarray(result.success) & (digits < 3)).any()


def test_finite_difference_jacobians_reach_certified_digits() -> None:
    result, digits = fitted("Rat43", "float64", jd.FiniteDifference())
    assert digits.min() > 6
    assert (np.asarray(result.nfev) > 5 * np.asarray(result.nit)).all(), "each Jacobian costs several evaluations, and they are counted"


@pytest.mark.core
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_every_solver_reaches_the_published_minimum(solver: object, dtype: str) -> None:
    result = jd.least_squares(rosenbrock, jnp.asarray([-1.2, 1.0], dtype), solver=solver)
    assert result.success
    assert result.x.dtype == result.fun.dtype == dtype
    np.testing.assert_allclose(result.x, 1.0, atol=10 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", ["Powell badly scaled", "Brown badly scaled", "Linear, rank 1 with zero columns and rows (n=10,m=20)"])
def test_bad_scales_and_bad_ranks_reach_the_published_minimum(name: str) -> None:
    problem = load_mgh(name)
    result = jd.least_squares(problem.residual, problem.start)
    assert 2 * float(result.fun) == pytest.approx(problem.f_min, rel=1e-9, abs=1e-20)
    assert jnp.isfinite(result.x).all()


def test_a_start_on_a_plateau_is_left_or_named() -> None:
    """Gulf's residuals do not change to the last bit around 100 times the standard start, and have their minimum elsewhere."""
    problem = load_mgh("Gulf research and development")
    result = jd.least_squares(problem.residual, problem.start * 100)
    assert not result.success or 2 * float(result.fun) < 1e-12


def test_a_start_at_the_minimiser_takes_no_step() -> None:
    for residual in (lambda x: x - 1, lambda x: 2.0 + 0 * x, lambda x: 1 + (x - 1) ** 2):
        result = jd.least_squares(residual, [1.0, 1.0])
        assert (result.status_name, int(result.nit)) == ("CONVERGED_GRADIENT", 0)


def test_failures_have_their_status_and_keep_the_last_finite_point() -> None:
    result = jd.least_squares(jnp.log, [-1.0, 2.0])
    assert (result.status_name, int(result.nit)) == ("NON_FINITE_START", 0)
    np.testing.assert_array_equal(result.x, [-1.0, 2.0])
    inside = jd.least_squares(lambda x: jnp.log(x) - 1, [0.01, 30.0])
    np.testing.assert_allclose(inside.x, np.e)
    assert inside.success
    runaway = jd.least_squares(lambda x: jnp.exp(-x), [0.0], max_steps=30)
    assert not runaway.success
    assert jd.least_squares(rosenbrock, [-1.2, 1.0], max_steps=2).status_name == "MAX_STEPS"


@pytest.mark.parametrize(("lower", "upper"), [([-2.0, -2.0], [0.5, 2.0]), ([-2.0, 1.5], [2.0, 2.0]), ([-1.5, 0.25], [-0.25, 0.25])])
def test_bounded_optima_satisfy_the_first_order_conditions(lower: list[float], upper: list[float]) -> None:
    start = np.clip([-1.2, 1.0], lower, upper)
    result = jd.least_squares(rosenbrock, start, bounds=(np.array(lower), np.array(upper)))
    assert result.success
    x, slope = np.asarray(result.x), np.asarray(result.jac)
    assert ((x >= lower) & (x <= upper)).all()
    flags = np.asarray(result.at_bound)
    np.testing.assert_allclose(slope[flags == 0], 0, atol=1e-8)
    assert (slope[flags == 1] <= 0).all()
    assert (slope[flags == -1] >= 0).all()
    assert (flags[np.equal(lower, upper)] == 2).all()
    if not np.equal(lower, upper).any():
        peer = scipy.optimize.least_squares(lambda x: [10 * (x[1] - x[0] ** 2), 1 - x[0]], start, bounds=(lower, upper), xtol=1e-14)
        assert float(result.fun) <= peer.cost * (1 + 1e-9)


@pytest.mark.parametrize("loss", ["soft_l1", "huber", "cauchy"])
def test_robust_losses_are_scipys(loss: str) -> None:
    t, y = noisy_decay()
    result = jd.least_squares(decay, [1.0, 1.0], (t, y), loss=loss, f_scale=0.1)
    peer = scipy.optimize.least_squares(
        lambda x: x[0] * np.exp(-x[1] * t) - y, [1.0, 1.0], loss=loss, f_scale=0.1, xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    assert result.success
    np.testing.assert_allclose(result.x, peer.x, rtol=1e-6)
    assert float(result.fun) == pytest.approx(peer.cost, rel=1e-12)


def test_the_value_of_every_loss_is_scipys_at_any_size() -> None:
    from jaxdiff.problem import LOSSES, robust_cost

    sizes = np.array([0.0, 1e-9, 0.3, 1.0, 1.5, 40.0, 1e9])
    for loss in LOSSES:
        for size in sizes:
            peer = scipy.optimize.least_squares(lambda x, s=size: [s + 0 * x[0]], [0.0], loss=loss, f_scale=2.0, max_nfev=1).cost
            assert float(robust_cost(jnp.asarray(size), loss, 2.0)) == pytest.approx(peer, rel=1e-9)


@pytest.mark.core
def test_solutions_are_differentiable_on_and_off_their_bounds() -> None:
    """Residuals x0 - a and x1 - 3 a, with x1 bounded by b: x0 = a, x1 = min(3 a, b)."""

    def solve(a: jax.Array, b: jax.Array) -> jax.Array:
        return jd.least_squares(
            lambda x, a: jnp.stack([x[0] - a, x[1] - 3 * a]), [0.0, 0.0], a, bounds=(None, jnp.stack([10.0 + 0 * b, b]))
        ).x

    jacobian = jax.jit(jax.jacfwd(solve, argnums=(0, 1)))
    np.testing.assert_allclose(jacobian(1.0, 5.0), [[1.0, 3.0], [0.0, 0.0]], atol=1e-12)
    np.testing.assert_allclose(jacobian(2.0, 5.0), [[1.0, 0.0], [0.0, 1.0]], atol=1e-12)


def test_supplied_jacobians_are_used_and_pytrees_come_back() -> None:
    calls = []

    def jacobian(x: dict[str, jax.Array], a: jax.Array) -> dict[str, jax.Array]:
        calls.append(1)
        return {"u": jnp.array([1.0, 0.0, 0.0]), "v": jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])}

    residual = lambda x, a: jax.lax.stop_gradient(jnp.concatenate([(x["u"] - a)[None], 2 * (x["v"] - a)]))  # noqa: E731
    result = jd.least_squares(residual, {"u": 0.0, "v": jnp.zeros(2)}, 3.0, derivatives=jd.Supplied(jacobian=jacobian))
    assert calls
    assert result.success
    np.testing.assert_allclose(result.x["v"], 3.0)


@pytest.mark.core
def test_one_and_many_agree_and_bad_lanes_leave_the_others_their_bits() -> None:
    starts = np.random.default_rng(1).uniform(-2, 2, (12, 2))
    options = jd.BatchOptions(lanes=4, mode="refill")
    solver = jd.LevenbergMarquardt()
    clean = jd.least_squares_batch(rosenbrock, starts, options=options, solver=solver)
    assert clean.success.all()
    alone = jd.least_squares(rosenbrock, starts[3])
    np.testing.assert_allclose(clean.x[3], alone.x, rtol=1e-9)
    assert int(clean.nit[3]) == int(alone.nit)
    starts[5] = np.nan
    bad = jd.least_squares_batch(rosenbrock, starts, options=options, solver=solver)
    assert bad.status[5] == jd.Status.NON_FINITE_START
    others = np.delete(np.arange(12), 5)
    for field in ("x", "fun", "nit", "status"):
        np.testing.assert_array_equal(np.asarray(getattr(bad, field))[others], np.asarray(getattr(clean, field))[others])


def test_other_numbers_never_compile_again() -> None:
    traces = 0

    def residual(x: jax.Array, a: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        return x - a

    jd.least_squares(residual, jnp.zeros(2), jnp.ones(2), f_scale=2.0)
    first = traces
    solver = jd.LevenbergMarquardt(gtol=1e-3, xtol=1e-3, damping=1.0)
    jd.least_squares(residual, jnp.full(2, 3.0), jnp.full(2, 7.0), solver=solver, max_steps=9, f_scale=3.0)
    assert traces == first > 0


def test_bad_inputs_are_named_with_their_values() -> None:
    cases = [
        ({"bounds": (1.0, -1.0)}, ValueError, r"at index 0 the lower bound 1.0 exceeds the upper bound -1.0"),
        ({"bounds": (None, np.array([2.0, np.nan]))}, ValueError, r"the upper bound at index 1 is nan"),
        ({"bounds": (np.zeros(3), None)}, ValueError, r"the lower bound has a leaf of shape \(3,\); expected a number or \(2,\)"),
        ({"bounds": (0.5, None)}, ValueError, r"x0 = 0.0 at index 0 lies outside its bounds \[0.5, inf\]"),
        ({"bounds": 3.0}, TypeError, r"bounds = 3.0; expected a pair"),
        ({"loss": "hubber"}, ValueError, r"loss = 'hubber'.*did you mean 'huber'"),
        ({"f_scale": -1.0}, ValueError, r"f_scale = -1.0; expected a positive, finite number"),
        ({"max_nfev": 5}, TypeError, r"unexpected keyword argument 'max_nfev'; did you mean 'max_evals'"),
    ]
    for options, kind, message in cases:
        with pytest.raises(kind, match=message):
            jd.least_squares(rosenbrock, [0.0, 0.0], **options)
    with pytest.raises(TypeError, match=r"array of shape \(2,\) and dtype int.*expected residuals"):
        jd.least_squares(lambda x: jnp.array([1, 2]), [0.0, 0.0])
    with pytest.raises(ValueError, match="no residuals"):
        jd.least_squares(lambda x: x[:0], [0.0, 0.0])
    with pytest.raises(ValueError, match="x0 has no parameters"):
        jd.least_squares(rosenbrock, np.zeros(0))
    with pytest.raises(TypeError, match=r"LevenbergMarquardt\(...\) needs residuals"):
        jd.minimize(lambda x: jnp.sum(x**2), [1.0], solver=jd.LevenbergMarquardt())
    with pytest.raises(ValueError, match=r"scaling = 'marquart'.*did you mean 'marquardt'"):
        jd.LevenbergMarquardt(scaling="marquart")


def test_fewer_residuals_than_parameters_are_met_and_said_to_leave_them_open() -> None:
    result = jd.least_squares(lambda x: jnp.stack([x[0] + x[1] - 3]), [0.0, 0.0], covariance=True)
    assert float(jnp.sum(result.x)) == pytest.approx(3.0)
    assert not result.is_full_rank
    assert int(result.rank) == 1
    assert "rank 1 only" in str(result)


def test_a_minimum_of_equations_that_is_no_zero_is_left_unless_a_solver_is_named() -> None:
    """Freudenstein and Roth (MGH 2): the zero is at (5, 4), the local minimum 48.98425 at (11.41, -0.8968)."""
    fun = load_mgh("Freudenstein and Roth").residual
    named = jd.least_squares(fun, [0.5, -2.0], solver=jd.LevenbergMarquardt())
    assert 2 * float(named.fun) == pytest.approx(48.98425, rel=1e-6)
    assert named.rescued is None
    found = jd.least_squares(fun, [0.5, -2.0])
    assert found.success
    assert bool(found.rescued)
    np.testing.assert_allclose(found.x, [5.0, 4.0], rtol=1e-10)
    assert int(found.nfev) > 0
    batch = jd.least_squares_batch(fun, np.array([[0.5, -2.0], [5.0, 4.0], [5.0, -20.0]]), in_axes=(0,))
    np.testing.assert_allclose(batch.x, [[5.0, 4.0]] * 3, rtol=1e-8)
    assert batch.rescued.tolist() == [True, False, True]
    # x^2 + 1 has no zero: the minimum of its square stays what it was.
    assert float(jd.least_squares(lambda x: x**2 + 1, [0.5]).fun) == pytest.approx(0.5)
