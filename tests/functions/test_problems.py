"""The standard problems: values against mpmath, minimizers stationary and lowest, starts and minima as published."""

import builtins
import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.special

import jaxdiff.functions
from jaxdiff.functions.problems import PROBLEMS, get_problem, quadratic

# One size beyond the usual one for every problem that has a choice.
SIZES = {"rosenbrock": 5, "rastrigin": 3, "ackley": 3, "quadratic": 4, "styblinski_tang": 3, "powell_singular": 8, "dixon_price": 4}
CASES = [(name, None) for name in PROBLEMS if name != "softmax_regression"] + list(SIZES.items())


def textbook(name, args):
    """f in mpmath, term by term as the sources print it; ours are rearranged."""
    mp = mpmath.mp
    pairs = itertools.pairwise

    def ackley(*x):
        radius = mp.sqrt(mp.fsum(t**2 for t in x) / len(x))
        return -20 * mp.exp(-radius / 5) - mp.exp(mp.fsum(mp.cos(2 * mp.pi * t) for t in x) / len(x)) + 20 + mp.e

    def powell(*x):
        blocks = [x[k : k + 4] for k in range(0, len(x), 4)]
        return mp.fsum((a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4 for a, b, c, d in blocks)

    def wood(a, b, c, d):
        valleys = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
        return valleys + 10 * (b + d - 2) ** 2 + (b - d) ** 2 / mp.mpf(10)

    def quadratic_form(*x):
        n = len(x)
        normal = mp.matrix(list(range(1, n + 1))) / mp.sqrt(n * (n + 1) * (2 * n + 1) / mp.mpf(6))
        reflection = mp.eye(n) - 2 * normal * normal.T
        scales = mp.diag([mp.mpf(args[0]) ** (mp.mpf(i) / (n - 1)) for i in range(n)])
        z = mp.matrix([t - 1 for t in x])
        return (z.T * reflection * scales * reflection * z)[0] / 2

    def logistic(intercept, slope):
        def chance(outcome, predictor):
            p = 1 / (1 + mp.exp(-(intercept + slope * int(predictor))))
            return p if outcome else 1 - p

        return -mp.fsum(mp.log(chance(y, t)) for t, y in zip(*args, strict=True))

    return {
        "rosenbrock": lambda *x: mp.fsum(100 * (b - a**2) ** 2 + (1 - a) ** 2 for a, b in pairs(x)),
        "himmelblau": lambda a, b: (a**2 + b - 11) ** 2 + (a + b**2 - 7) ** 2,
        "beale": lambda a, b: mp.fsum((mp.mpf(y) - a * (1 - b**i)) ** 2 for i, y in ((1, "1.5"), (2, "2.25"), (3, "2.625"))),
        "booth": lambda a, b: (a + 2 * b - 7) ** 2 + (2 * a + b - 5) ** 2,
        "rastrigin": lambda *x: 10 * len(x) + mp.fsum(t**2 - 10 * mp.cos(2 * mp.pi * t) for t in x),
        "ackley": ackley,
        "quadratic": quadratic_form,
        "styblinski_tang": lambda *x: mp.fsum(t**4 - 16 * t**2 + 5 * t for t in x) / 2,
        "powell_singular": powell,
        "wood": wood,
        "dixon_price": lambda *x: (x[0] - 1) ** 2 + mp.fsum(i * (2 * b**2 - a) ** 2 for i, (a, b) in enumerate(pairs(x), start=2)),
        "logistic_regression": logistic,
    }[name]


def exact(name, args, point):
    # Digits enough for log(1 - p) where p = 1 - exp(-240).
    with mpmath.workdps(150):
        return textbook(name, args)(*[mpmath.mpf(float(t)) for t in point])


@functools.cache
def evaluated(name, n):
    """Points (start, minimizers, near them, at random), values, gradients and Hessians there: one program per problem and size."""
    problem = get_problem(name, n)
    rng = np.random.default_rng(7)
    near = [m + 1e-4 * rng.standard_normal(m.shape) for m in problem.minimizers]
    low, high = problem.domain or (-2.0, 3.0)
    points = np.stack([problem.start, *problem.minimizers, *near, *rng.uniform(low, high, (3000, problem.start.size))])
    f = lambda x: problem.fun(x, *problem.args)  # noqa: E731
    program = jax.jit(jax.vmap(lambda x: (f(x), jax.grad(f)(x), jax.hessian(f)(x))))
    return points, *(np.asarray(out) for out in program(points))


@pytest.mark.parametrize(("name", "n"), CASES)
def test_values_are_those_of_the_textbook_form(name, n):
    points, values, _, _ = evaluated(name, n)
    args = get_problem(name, n).args
    count = 1 + 2 * len(get_problem(name, n).minimizers) + 4
    expected = np.array([float(exact(name, args, point)) for point in points[:count]])
    # Near a minimum of zero the residuals carry the rounding of x itself, eps |x|: f is known to eps |x| sqrt(f |H|), far below eps |x|.
    np.testing.assert_allclose(values[:count], expected, rtol=1e-11, atol=1e-25)


@pytest.mark.parametrize(("name", "n"), CASES)
def test_minimum_is_the_value_at_every_minimizer(name, n):
    problem = get_problem(name, n)
    assert problem.minimizers
    for minimizer in problem.minimizers:
        # Minimizers are rounded to float64: f is off by the square of that, times the curvature.
        assert float(exact(name, problem.args, minimizer)) == pytest.approx(problem.minimum, rel=1e-15, abs=1e-27)


@pytest.mark.parametrize(("name", "n"), [case for case in CASES if case[0] != "ackley"])
def test_minimizers_are_stationary_and_minimal(name, n):
    problem = get_problem(name, n)
    points, _, gradients, hessians = evaluated(name, n)
    for k in range(1, 1 + len(problem.minimizers)):
        curvature = np.linalg.eigvalsh(hessians[k])
        # The gradient of a point rounded to float64: half a unit of x times the curvature, and a few roundings of the terms.
        assert np.max(np.abs(gradients[k])) <= 4 * np.finfo(float).eps * curvature[-1] * max(1.0, np.max(np.abs(points[k])))
        assert curvature[0] >= -1e-12 * curvature[-1]
        with mpmath.workdps(40):
            f = textbook(name, problem.args)
            at = [mpmath.mpf(float(t)) for t in problem.minimizers[k - 1]]
            for i in range(len(at)):
                slope = mpmath.diff(lambda t, i=i, f=f, at=at: f(*at[:i], t, *at[i + 1 :]), at[i])
                assert abs(slope) <= 2 * np.finfo(float).eps * curvature[-1] * max(1.0, np.max(np.abs(points[k])))


@pytest.mark.parametrize(("name", "n"), CASES)
def test_nothing_in_the_domain_lies_below_the_minimum(name, n):
    problem = get_problem(name, n)
    _, values, _, _ = evaluated(name, n)
    assert np.all(values >= problem.minimum - 1e-13 * max(1.0, abs(problem.minimum)))
    # Nor is the start a minimizer, from which nothing could be learnt.
    assert values[0] > problem.minimum + 1e-3


def test_ackley_keeps_its_digits_near_its_tip():
    # 20 + e - 20 exp(...) - exp(...) in float64 has none left at 1e-15, where f is 4 |x| / sqrt(n) = 4e-15.
    value = float(PROBLEMS["ackley"].fun(jnp.array([1e-15, 1e-15])))
    assert value == pytest.approx(4e-15, rel=1e-12)


def test_ackley_gives_the_subgradient_zero_at_its_tip():
    points, _, gradients, _ = evaluated("ackley", None)
    assert points[1].tolist() == [0.0, 0.0]
    assert gradients[1].tolist() == [0.0, 0.0]


def test_rastrigin_keeps_its_digits_near_its_minimum():
    # To second order f = (1 + 20 pi^2) |x|^2.
    value = float(PROBLEMS["rastrigin"].fun(jnp.array([1e-10, 0.0])))
    assert value == pytest.approx((1 + 20 * np.pi**2) * 1e-20, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "n", "theirs"),
    [
        ("rosenbrock", 2, "Rosenbrock"),
        ("beale", 2, "Beale"),
        ("powell_singular", 4, "Powell singular"),
        ("powell_singular", 20, "Extended Powell singular (n=20)"),
        ("wood", 4, "Wood"),
    ],
)
def test_published_starts_and_their_values(name, n, theirs):
    path = pathlib.Path(jaxdiff.functions.__file__).with_name("data") / "mgh.json"
    record = next(record for record in json.loads(path.read_text())["problems"] if record["name"] == theirs)
    problem = get_problem(name, n)
    np.testing.assert_array_equal(problem.start, record["x0"])
    assert float(problem.fun(problem.start)) == pytest.approx(record["f0"], rel=1e-14)


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_entries_are_complete(name):
    problem = PROBLEMS[name]
    assert problem.name == name
    assert all((problem.formula, problem.source, problem.start_source))
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float64 for leaf in jax.tree.leaves(problem.start))


@pytest.mark.parametrize("name", list(PROBLEMS))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_values_have_the_dtype_of_x_whatever_the_data(name, dtype):
    problem = PROBLEMS[name]
    x = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), problem.start)
    out = jax.eval_shape(problem.fun, x, *problem.args)
    assert (out.shape, out.dtype) == ((), dtype)


@pytest.mark.parametrize("condition", [1.0, 1e3, 1e8])
def test_quadratic_has_the_chosen_condition(condition):
    problem = quadratic(5, condition)
    hessian = np.asarray(jax.jit(jax.hessian(problem.fun))(problem.start, *problem.args))
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), np.geomspace(1.0, condition, 5), rtol=1e-8, atol=1e-15 * condition)
    # Rotated off the axes, or scaling each variable alone would undo the condition.
    if condition > 1:
        assert np.all(np.abs(hessian[np.triu_indices(5, 1)]) > 1e-3)


def test_another_condition_compiles_nothing_anew():
    traces = []

    @jax.jit
    def value(x, condition):
        traces.append(None)
        return quadratic(2).fun(x, condition)

    for condition in (1.0, 10.0, 1e6):
        value(np.zeros(2), *quadratic(2, condition).args)
    assert len(traces) == 1


def test_logistic_regression_reproduces_the_published_fit():
    problem = PROBLEMS["logistic_regression"]
    # R's glm on the 23 flights: coefficients 15.0429 and -0.2322, standard errors 7.3786 and 0.1082, residual deviance 20.315.
    np.testing.assert_allclose(problem.minimizer, [15.0429, -0.2322], atol=5e-5)
    _, values, _, hessians = evaluated("logistic_regression", None)
    assert 2 * values[1] == pytest.approx(20.315, abs=5e-4)
    np.testing.assert_allclose(np.sqrt(np.diag(np.linalg.inv(hessians[1]))), [7.3786, 0.1082], atol=5e-5)


def test_logistic_regression_neither_overflows_nor_loses_its_tail():
    problem = PROBLEMS["logistic_regression"]
    x = jnp.array([0.0, 50.0], jnp.float32)
    value, gradient = jax.jit(jax.value_and_grad(problem.fun))(x, *problem.args)
    # All 16 flights without damage are missed by 50 t each, the 7 others cost nothing.
    temperature, damaged = problem.args
    assert float(value) == pytest.approx(50 * float(np.sum(temperature[damaged == 0])), rel=1e-6)
    np.testing.assert_allclose(gradient, [16, np.sum(temperature[damaged == 0])], rtol=1e-6)


def test_softmax_regression_agrees_with_numpy_and_its_minimum_with_scipy():
    pytest.importorskip("sklearn")
    problem = PROBLEMS["softmax_regression"]
    images, labels, l2 = problem.args
    assert images.shape == (1797, 64)
    features, targets = images / 16, np.eye(10)[labels]

    def objective(flat):
        weights, bias = flat[:640].reshape(64, 10), flat[640:]
        log_chances = scipy.special.log_softmax(features @ weights + bias, axis=1)
        slope = (np.exp(log_chances) - targets) / len(labels)
        value = -np.mean(np.sum(log_chances * targets, axis=1)) + l2 / 2 * np.sum(weights**2)
        return value, np.concatenate([(features.T @ slope + l2 * weights).ravel(), slope.sum(axis=0)])

    flat = np.random.default_rng(3).standard_normal(650)
    x = {"weights": flat[:640].reshape(64, 10), "bias": flat[640:]}
    value, gradient = jax.jit(jax.value_and_grad(problem.fun))(x, *problem.args)
    expected, slope = objective(flat)
    assert float(value) == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(np.concatenate([np.ravel(gradient["weights"]), gradient["bias"]]), slope, rtol=1e-11, atol=1e-14)

    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 0.0, "gtol": 1e-6, "maxcor": 50}
    best = scipy.optimize.minimize(objective, np.zeros(650), jac=True, method="L-BFGS-B", options=options)
    # Gradient entries of 1e-6 and a curvature of 1e-3 bound the excess by 650 * 1e-12 / 2e-3 = 3e-7; nearly all of it is far less.
    assert best.fun == pytest.approx(problem.minimum, abs=1e-8)


def test_digits_without_scikit_learn_name_the_extra(monkeypatch):
    import jaxdiff.functions.problems as problems

    real = builtins.__import__
    monkeypatch.setattr(problems, "_digits", problems._digits.__wrapped__)

    def refuse(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"jaxdiff\[data\]"):
        problems._digits()


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ValueError, match=r"'rosenbrok'.*did you mean 'rosenbrock'"):
        get_problem("rosenbrok")


@pytest.mark.parametrize(
    ("name", "n", "words"),
    [
        ("beale", 3, "n = 3; 'beale' has 2 variables"),
        ("powell_singular", 6, "n = 6; 'powell_singular' has a multiple of 4 variables"),
        ("rosenbrock", 1, "n = 1; expected an integer >= 2"),
        ("rosenbrock", True, "n = True; expected an integer >= 2"),
    ],
)
def test_sizes_that_a_problem_does_not_have_are_refused(name, n, words):
    with pytest.raises(ValueError, match=words):
        get_problem(name, n)


@pytest.mark.parametrize("condition", [0.5, float("inf"), float("nan"), -1.0])
def test_conditions_below_one_are_refused(condition):
    with pytest.raises(ValueError, match="condition = "):
        quadratic(2, condition)
