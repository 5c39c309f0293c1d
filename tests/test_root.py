"""Roots: published answers, honest statuses, no false success, derivatives against closed forms, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.functions.mgh import load_mgh

KINDS = {
    "two roots": lambda u: u**2 - 2,
    "double root": lambda u: (u - 1) ** 2,
    "double root, expanded": lambda u: u**2 - 2 * u + 1,
    "triple root, expanded": lambda u: u**3 - 3 * u**2 + 3 * u - 1,
    "root at zero": jnp.sin,
    "rounding of pi": lambda u: jnp.sin(u + np.pi),
    "exact start": lambda u: u - 3,
    "starts where it is flat": lambda u: (u - 3) ** 2 - 2,
    "no root": lambda u: u**2 + 1,
    "minimum near zero": lambda u: u**2 + 1e-6,
    "minimum near zero, elsewhere": lambda u: (u - 1) ** 2 + 1e-6,
    "runs away": lambda u: jnp.exp(-u),
    "runs away slowly": lambda u: 1 / u,
    "constant": lambda u: 0 * u + 2.0,
    "step": lambda u: jnp.sign(u - 0.3),
    "logarithm": lambda u: jnp.log(u / 10),
}
ROOTS = {
    "two roots": [2**0.5],
    "double root": [1.0],
    "double root, expanded": [1.0],
    "triple root, expanded": [1.0],
    "root at zero": [0.0, np.pi, 2 * np.pi],
    "rounding of pi": [0.0, np.pi],
    "exact start": [3.0],
    "starts where it is flat": [3 - 2**0.5, 3 + 2**0.5],
    "logarithm": [10.0],
}


def one_of_many(u: jax.Array, kind: jax.Array) -> jax.Array:
    """All kinds in one function of one unknown; a branch that is not chosen sees a harmless 1, so that no lane sees another lane's NaN."""
    return sum(jnp.where(kind == k, f(jnp.where(kind == k, u, 1.0)), 0.0) for k, f in enumerate(KINDS.values()))


def solved_kinds(solver: object, dtype: str, mode: str = "auto") -> jd.RootResult:
    starts = jnp.full(len(KINDS), 3.0, dtype)
    options = jd.BatchOptions(mode=mode, lanes=8)
    return jd.root_batch(one_of_many, starts, jnp.arange(len(KINDS)), solver=solver, options=options)


@pytest.mark.core
def test_every_kind_of_root_is_found_and_nothing_else_is_called_one(dtype: str) -> None:
    result = solved_kinds(jd.NewtonRoot(), dtype)
    # A root of multiplicity m is known to eps^(1/m) at best.
    digits = {"double root, expanded": 1 / 2, "triple root, expanded": 1 / 3}
    for lane, kind in enumerate(KINDS):
        status = jd.Status(int(result.status[lane])).name
        if kind in ROOTS:
            assert result.success[lane], (kind, status)
            tolerance = 30 * np.finfo(dtype).eps ** digits.get(kind, 0.75)
            assert min(abs(float(result.x[lane]) - root) for root in ROOTS[kind]) <= tolerance, kind
        else:
            assert not result.success[lane], (kind, status)
        assert jnp.isfinite(result.x[lane])
    status = dict(zip(KINDS, [jd.Status(int(code)).name for code in result.status], strict=True))
    assert status["no root"] in ("SINGULAR", "STALLED")
    assert status["constant"] == status["step"] == "SINGULAR"
    assert int(result.nit[list(KINDS).index("exact start")]) == 0
    assert int(result.nit[list(KINDS).index("double root")]) <= 6, "two Newton steps at once lead to a double root"


@pytest.mark.core
def test_secants_find_roots_too_and_call_nothing_else_one(dtype: str) -> None:
    """Where J vanishes at the start no secant leads away: only Newton's undamped steps from elsewhere do."""
    result = solved_kinds(jd.Broyden(), dtype)
    digits = {"double root": 1 / 2, "double root, expanded": 1 / 2, "triple root, expanded": 1 / 3}
    found = [kind for lane, kind in enumerate(KINDS) if result.success[lane]]
    for kind in found:
        distance = min(abs(float(result.x[list(KINDS).index(kind)]) - root) for root in ROOTS.get(kind, [np.inf]))
        assert distance <= 30 * np.finfo(dtype).eps ** digits.get(kind, 0.75), kind
    assert set(ROOTS) - set(found) <= {"starts where it is flat", "double root, expanded"}
    assert jnp.isfinite(result.x).all()


def test_secants_spend_fewer_evaluations_on_differences_than_jacobians_do() -> None:
    fun = load_mgh("Broyden tridiagonal (n=10)").residual
    spent = {}
    for solver in (jd.Broyden(), jd.NewtonRoot()):
        result = jd.root(fun, -np.ones(10), solver=solver, derivatives=jd.FiniteDifference())
        assert result.success
        assert float(jnp.abs(fun(result.x)).max()) <= 1e-8
        spent[solver.name] = int(result.nfev)
    assert spent["broyden"] < 0.6 * spent["newton_root"]
    with pytest.raises(ValueError, match="radius = 0; expected a positive, finite number"):
        jd.Broyden(radius=0)


def solve_square(problem: object, solver: object) -> jd.RootResult:
    return jd.root_batch(problem.residual, np.stack([problem.start * scale for scale in (1, 10, 100)]), solver=solver, in_axes=(0,))


@pytest.mark.parametrize(("name", "at_least"), [("Freudenstein and Roth", 3), ("Powell badly scaled", 2), ("Broyden banded (n=10)", 3)])
def test_published_systems_are_solved_from_near_and_far(name: str, at_least: int) -> None:
    """SciPy's hybr solves 0, 2 and 3 of these (benchmarks/roots.py)."""
    problem = load_mgh(name)
    result = solve_square(problem, jd.NewtonRoot())
    assert int(np.sum(result.success)) >= at_least
    residuals = np.abs(np.stack([problem.residual(x) for x in result.x])).max(axis=1)
    assert (residuals[np.asarray(result.success)] <= 1e-9).all()


def test_an_infinite_slope_makes_no_root_of_a_batch() -> None:
    """1 + cbrt(x) at 0: a step of zero length, at F = 1."""
    result = jd.root_batch(lambda x: 1 + jnp.cbrt(x), jnp.array([0.0, 0.5, -0.3]))
    assert result.status[0] == jd.Status.NON_FINITE_START
    np.testing.assert_allclose(result.x[1:], -1.0, rtol=1e-15)
    assert result.success[1:].all()


@pytest.mark.core
def test_derivatives_of_roots_are_those_of_the_closed_form() -> None:
    """x^3 = a: dx/da = 1 / (3 x^2), d2x/da2 = -2 / (9 x^5)."""
    cube_root = lambda a: jd.root(lambda x, a: x**3 - a, 1.5, a).x  # noqa: E731
    assert float(jax.jit(jax.grad(cube_root))(8.0)) == pytest.approx(1 / 12)
    assert float(jax.jit(jax.jacfwd(jax.grad(cube_root)))(8.0)) == pytest.approx(-2 / 9 / 2**5)
    closed_over = jax.grad(lambda a: jd.root(lambda x: x**3 - a, 1.5).x)(8.0)
    assert float(closed_over) == pytest.approx(1 / 12)


@pytest.mark.core
def test_jacobians_of_systems_are_transposed_where_they_are_not_symmetric() -> None:
    matrix, b = np.array([[2.0, 1.0], [0.0, 3.0]]), jnp.array([4.0, 6.0])
    solve = lambda b: jd.root(lambda x, b: jnp.asarray(matrix) @ x - b, jnp.zeros(2), b).x  # noqa: E731
    np.testing.assert_allclose(jax.jacrev(solve)(b), np.linalg.inv(matrix), atol=1e-14)
    np.testing.assert_allclose(jax.jacfwd(solve)(b), np.linalg.inv(matrix), atol=1e-14)


def test_a_root_that_was_not_found_has_no_derivative_and_spoils_no_other() -> None:
    a = jnp.array([4.0, -4.0, 9.0])
    roots = lambda a: jd.root_batch(lambda x, a: x * x - a, jnp.ones(3), a)  # noqa: E731
    gradient = jax.grad(lambda a: jnp.sum(roots(a).x))(a)
    np.testing.assert_allclose(gradient[::2], [1 / 4, 1 / 6])
    assert jnp.isnan(gradient[1])
    masked = jax.grad(lambda a: jnp.sum(jnp.where(roots(a).success, roots(a).x, 0)))(a)
    np.testing.assert_allclose(masked, [1 / 4, 0, 1 / 6])


@pytest.mark.core
def test_pytrees_come_back_with_aux_and_history() -> None:
    def fun(x: dict[str, jax.Array], a: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
        return {"first": x["u"] ** 2 - a, "second": x["v"] - x["u"]}, x["u"] + 1

    result = jd.root(fun, {"u": 1, "v": 0.0}, 4.0, has_aux=True, history=True, max_steps=20)
    assert float(result.x["v"]) == pytest.approx(2.0)
    assert set(result.fun) == {"first", "second"}
    assert float(result.aux) == pytest.approx(3.0)
    nit = int(result.nit)
    np.testing.assert_allclose(np.asarray(result.history.x["u"])[[0, nit]], [1.0, 2.0])
    assert float(result.history.optimality[0]) == 3.0
    assert "fun['first']" in str(result)
    tolerant = jd.root(fun, {"u": 1, "v": 0.0}, 4.0, has_aux=True, solver=jd.NewtonRoot(ftol={"first": 1.0, "second": 0.5}))
    assert tolerant.status_name == "CONVERGED_VALUE"
    assert float(tolerant.optimality) > 1e-3


def test_a_loose_ftol_is_judged_component_by_component() -> None:
    fun = lambda x: jnp.stack([x[0] ** 2 - 4, x[1] - 5e-7])  # noqa: E731
    result = jd.root(fun, [3.0, 0.0], solver=jd.NewtonRoot(ftol=np.array([1e-2, 1e-6]), xtol=0))
    assert 1e-12 < abs(float(result.fun[0])) <= 1e-2


def test_a_step_out_of_the_domain_is_shortened() -> None:
    result = jd.root(lambda x: jnp.log(x), 2.8, max_steps=30)
    assert result.success
    assert float(result.x) == pytest.approx(1.0)
    outside = jd.root_batch(lambda x: jnp.log(x), jnp.array([-1.0, jnp.nan, 2.0]))
    assert [jd.Status(int(code)).name for code in outside.status][:2] == ["NON_FINITE_START"] * 2
    np.testing.assert_array_equal(outside.nit[:2], 0)
    np.testing.assert_array_equal(outside.x[:2], [-1.0, np.nan])


@pytest.mark.parametrize("derivatives", [jd.FiniteDifference(), jd.Supplied(jacobian=lambda x, a: 2 * x)], ids=["differences", "supplied"])
def test_other_derivatives_lead_to_the_same_root(derivatives: object) -> None:
    result = jd.root(
        lambda x, a: jax.lax.stop_gradient(x * x - a) if isinstance(derivatives, jd.Supplied) else x * x - a,
        1.0,
        2.0,
        derivatives=derivatives,
    )
    assert result.success
    assert float(result.x) == pytest.approx(2**0.5, rel=1e-9)


def test_bad_input_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"fun returned 3 numbers \(shapes \[\(3,\)\]\) for 2 unknowns.*expected as many equations"):
        jd.root(lambda x: jnp.concatenate([x, x[:1]]), [1.0, 2.0])
    with pytest.raises(TypeError, match=r"x0 is complex"):
        jd.root(lambda x: x, 1j)
    with pytest.raises(TypeError, match="expected residuals"):
        jd.root(lambda x: None, 1.0)
    with pytest.raises(ValueError, match="x0 has no parameters"):
        jd.root(lambda x: x, np.zeros(0))
    with pytest.raises(ValueError, match=r"x0\[1\] has 1 numbers where x0\[0\] has 2"):
        jd.root_batch(lambda x: x, [[1.0, 2.0], [1.0]])
    with pytest.raises(ValueError, match="machine epsilon of float64"):
        jd.root(lambda x: x, 1.0, solver=jd.NewtonRoot(xtol=1e-30))
    with pytest.raises(ValueError, match=r"tolerance is a pytree.*like what fun returns"):
        jd.root(lambda x: x, 1.0, solver=jd.NewtonRoot(ftol={"u": 1.0}))
    with pytest.raises(TypeError, match="did you mean 'max_steps'"):
        jd.root(lambda x: x, 1.0, maxiter=3)
    with pytest.raises(ValueError, match=r"max_steps = -1; expected an integer >= 0"):
        jd.root(lambda x: x, 1.0, max_steps=-1)
    with pytest.raises(TypeError, match=r"BFGS.*does not solve equations; expected one of NewtonRoot"):
        jd.root(lambda x: x, 1.0, solver=jd.BFGS())
    with pytest.raises(TypeError, match=r"NewtonRoot\(\.\.\.\) finds roots"):
        jd.minimize(lambda x: x**2, 1.0, solver=jd.NewtonRoot())
    with pytest.raises(jd.OptimizationError, match="local minimum"):
        jd.root(lambda x: x * x + 1, 1.0, throw=True)


def test_integers_are_promoted_and_an_empty_batch_is_one() -> None:
    result = jd.root(lambda x: x - 0.5, np.array([1, 2]))
    np.testing.assert_array_equal(result.x, 0.5)
    empty = jd.root_batch(lambda x: x, np.zeros((0, 2)))
    assert empty.x.shape == (0, 2)
    assert empty.status.shape == (0,)


def test_no_steps_at_all_evaluate_the_start() -> None:
    result = jd.root(lambda x: x * x - 2, 1.0, max_steps=0)
    assert (result.status_name, float(result.fun), int(result.nfev)) == ("MAX_STEPS", -1.0, 1)
