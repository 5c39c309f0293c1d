"""The Moré-Garbow-Hillstrom problems: the published starts and minima, their data's twins at NIST, and the branches of their formulas."""

import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff.functions.mgh
from jaxdiff.functions.mgh import load_mgh
from jaxdiff.functions.nist import load_nist

PROBLEMS = load_mgh()
RECORDS = {
    record["name"]: record
    for record in json.loads(pathlib.Path(jaxdiff.functions.mgh.__file__).with_name("data").joinpath("mgh.json").read_text())["problems"]
}

# What the paper gives in closed form or to six digits; its minima are cut, not rounded.
CLOSED_FORMS = {
    "Linear, full rank (n=10,m=20)": 10.0,
    "Linear, rank 1 (n=10,m=20)": 190 / 41,
    "Linear, rank 1 with zero columns and rows (n=10,m=20)": 454 / 74,
}


@functools.cache
def evaluated():
    """Residuals and Jacobians at three points, the start, the minimum, and the minimum inside the bounds: one program for all problems."""

    def one(problem, points):
        both = lambda x: (problem.residual(x),) * 2  # noqa: E731
        return jax.vmap(jax.jacfwd(both, has_aux=True))(points)

    points = {name: np.stack([p.start, p.x_min, p.bounds.x_min if p.bounds else p.x_min]) for name, p in PROBLEMS.items()}
    program = jax.jit(lambda points: {name: one(PROBLEMS[name], at) for name, at in points.items()})
    return {name: (np.sum(np.asarray(f) ** 2, axis=1), np.asarray(f), np.asarray(j)) for name, (j, f) in program(points).items()}


def printed_interval(text):
    """The numbers whose decimals, cut after the last printed digit, read as ``text``, such as ``8.21487...e-3``."""
    mantissa, exponent = re.fullmatch(r"([\d.]+)\.\.\.(?:e(-?\d+))?", text).groups()
    unit = 10.0 ** -len(mantissa.partition(".")[2])
    scale = 10.0 ** int(exponent or 0)
    return float(mantissa) * scale, (float(mantissa) + unit) * scale


def test_there_are_42_instances_of_35_problems():
    assert len(PROBLEMS) == 42
    assert {problem.id for problem in PROBLEMS.values()} == set(range(1, 36))


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_sizes_and_dtype_are_the_stated_ones(name):
    problem = PROBLEMS[name]
    assert problem.start.shape == problem.x_min.shape == (problem.n,)
    for dtype in (jnp.float32, jnp.float64):
        out = jax.eval_shape(problem.residual, jax.ShapeDtypeStruct((problem.n,), dtype))
        assert (out.shape, out.dtype) == ((problem.m,), dtype)


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_sum_of_squares_at_the_standard_start_is_the_recorded_one(name):
    # Recorded from NumPy programs written from the paper and checked against MINPACK's, apart from ours.
    assert evaluated()[name][0][0] == pytest.approx(RECORDS[name]["f0"], rel=1e-12)


@pytest.mark.parametrize("name", list(PROBLEMS))
def test_minimum_is_the_published_one(name):
    value, printed = evaluated()[name][0][1], RECORDS[name]["f_min_paper"]
    if printed == "0":
        # A zero of the residuals, each to rounding: Powell's badly scaled one has terms of size 1, Brown's of size 2.
        assert value <= 1e-29
    elif name in CLOSED_FORMS:
        assert value == pytest.approx(CLOSED_FORMS[name], rel=1e-14)
    else:
        low, high = printed_interval(printed)
        assert low <= value < high
        assert value == pytest.approx(PROBLEMS[name].f_min, rel=1e-12)


@pytest.mark.parametrize("name", [name for name, problem in PROBLEMS.items() if problem.f_min > 0])
def test_residuals_are_orthogonal_to_the_jacobian_at_the_minimum(name):
    _, residuals, jacobians = evaluated()[name]
    residual, jacobian = residuals[1], jacobians[1]
    # MINPACK's measure, the cosine between the residuals and each column; where the minimum is zero, the residuals themselves vanish.
    # The recorded minimizer of Meyer reaches 1.0e-8, those of all others less.
    bound = np.linalg.norm(jacobian, axis=0) * np.linalg.norm(residual)
    assert np.all(np.abs(residual @ jacobian) <= 2e-8 * bound)


@pytest.mark.parametrize("name", [name for name, problem in PROBLEMS.items() if problem.bounds])
def test_minimum_inside_the_bounds_is_the_published_one_where_confirmed(name):
    bounds = PROBLEMS[name].bounds
    value = evaluated()[name][0][2]
    assert np.all((bounds.lower <= bounds.x_min) & (bounds.x_min <= bounds.upper))
    assert value == pytest.approx(bounds.f_min, rel=1e-9, abs=1e-19)
    is_near = value == pytest.approx(bounds.f_literature, rel=1e-5, abs=1e-15)
    assert is_near == bounds.is_confirmed


@pytest.mark.parametrize(("mine", "theirs"), [("Meyer", "MGH10"), ("Kowalik and Osborne", "MGH09"), ("Osborne 1", "MGH17")])
def test_problems_shared_with_nist_have_its_certified_sum_of_squares(mine, theirs):
    data = load_nist(theirs)
    residual = np.asarray(PROBLEMS[mine].residual(data.certified))
    assert np.sum(residual**2) == pytest.approx(data.certified_rss, rel=1e-10)


def test_helical_valley_turns_once_and_has_a_derivative_on_the_axis():
    residual = jax.jit(jax.vmap(PROBLEMS["Helical valley"].residual))
    # theta of the paper: arctan(x2 / x1) / 2 pi, half a turn more where x1 < 0; a quarter turn of x2's sign where x1 = 0.
    points = np.array([[1.0, 1, 0], [-1, 1, 0], [-1, -1, 0], [1, -1, 0], [-1, 0, 0], [-1, -0.0, 0], [0, 2, 0], [0, -2, 0]])
    theta = -np.asarray(residual(points))[:, 0] / 100
    np.testing.assert_allclose(theta, [1 / 8, 3 / 8, 5 / 8, -1 / 8, 1 / 2, 1 / 2, 1 / 4, -1 / 4], rtol=1e-14)
    slope = jax.jit(jax.jacfwd(PROBLEMS["Helical valley"].residual))(jnp.array([0.0, 2.0, 0.0]))
    # d theta / d x1 = -x2 / (2 pi (x1^2 + x2^2)) = -1 / (4 pi), times -100.
    assert float(slope[0, 0]) == pytest.approx(100 / (4 * np.pi), rel=1e-14)


def test_problem_data_cannot_be_changed_under_other_users():
    with pytest.raises(ValueError, match="read-only"):
        load_mgh("Wood").start[0] = 0.0
    load_mgh().clear()
    assert len(load_mgh()) == 42


def test_names_are_found_in_any_case_and_unknown_ones_get_a_suggestion():
    assert load_mgh("watson (n=9)") is load_mgh("Watson (n=9)")
    with pytest.raises(ValueError, match=r"'Rosenbrok'.*did you mean 'rosenbrock'"):
        load_mgh("Rosenbrok")
