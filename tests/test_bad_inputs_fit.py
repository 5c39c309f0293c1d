"""The rows of ``tests/data/bad_inputs.json`` that concern least squares and curve fits: an error at once, or an honest status.

Rows 13, 26 and 40 are in ``tests/solvers/test_least_squares.py`` too, with more cases.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.functions.mgh import load_mgh

T = np.arange(6.0)


def shifted(x: Any, y: Any) -> jax.Array:
    return x - y


def line(t: Any, a: Any, b: Any) -> Any:
    return a + b * t


def test_row_1_integers_are_promoted() -> None:
    assert jd.least_squares(shifted, np.array([1, 2]), np.array([3.0, 4.0])).x.dtype == jnp.float64


@pytest.mark.parametrize(("x0", "word"), [("abc", "str"), (None, "None"), (np.array([True]), "bool"), (np.array([1j]), "complex128")])
def test_rows_2_and_3_what_is_no_real_number_is_named(x0: Any, word: str) -> None:
    with pytest.raises(TypeError, match=rf"x0.*{word}"):
        jd.least_squares(shifted, x0, 1.0)
    with pytest.raises(TypeError, match=rf"p0.*{word}"):
        jd.curve_fit(line, T, T, x0)


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf"), 1e-30])
@pytest.mark.parametrize("name", ["gtol", "xtol", "ftol"])
def test_row_7_tolerances_that_cannot_be_met_are_refused(name: str, tolerance: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} = .*the machine epsilon of float64"):
        jd.least_squares(shifted, [1.0], 1.0, solver=jd.LevenbergMarquardt(**{name: tolerance}))


# 2.5 and "100" are answered by the type checker of the tests before our own message, which `minimize` has in common.
@pytest.mark.parametrize("max_steps", [-1, True])
def test_row_8_max_steps_is_an_honest_integer(max_steps: Any) -> None:
    with pytest.raises(ValueError, match=r"max_steps = .*expected an integer >= 0"):
        jd.least_squares(shifted, [1.0], 1.0, max_steps=max_steps)


def test_row_8_no_steps_is_an_evaluation_of_the_start() -> None:
    result = jd.least_squares(shifted, [3.0, 4.0], 0.0, max_steps=0)
    assert (result.status_name, int(result.nit), float(result.fun)) == ("MAX_STEPS", 0, 12.5)
    np.testing.assert_array_equal(result.x, [3.0, 4.0])


def test_row_9_an_empty_batch_has_an_empty_result() -> None:
    result = jd.least_squares_batch(shifted, np.zeros((0, 3)), np.zeros((0, 3)))
    assert result.x.shape == result.jac.shape == result.residuals.shape == (0, 3)
    assert result.status.shape == (0,)


def test_row_10_no_parameters_and_no_residuals_are_errors() -> None:
    with pytest.raises(ValueError, match="x0 has no parameters"):
        jd.least_squares_batch(shifted, np.zeros((4, 0)), 1.0, in_axes=(0, None))
    with pytest.raises(ValueError, match="p0 has no parameters"):
        jd.curve_fit(line, T, T, np.zeros(0))
    with pytest.raises(ValueError, match="no residuals"):
        jd.least_squares(lambda x: x[:0], [0.0, 0.0])
    with pytest.raises(ValueError, match="no residuals"):
        jd.curve_fit(line, np.zeros(0), np.zeros(0), [0.0, 0.0])


def test_row_11_ragged_starts_name_the_first_offending_row() -> None:
    with pytest.raises(ValueError, match=r"x0\[2\] has 3 numbers where x0\[0\] has 2"):
        jd.least_squares_batch(shifted, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0, 7.0]], 0.0, in_axes=(0, None))


def test_row_12_batches_of_different_length_name_both_shapes_and_the_axis() -> None:
    with pytest.raises(ValueError, match=r"x0 of shape \(4, 2\) has 4 problems along axis 0, but args\[0\] of shape \(5, 2\) has 5"):
        jd.least_squares_batch(shifted, np.zeros((4, 2)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"shape \(4, 2\) has 4 problems along axis 0, but args\[1\] of shape \(5, 6\) has 5"):
        jd.curve_fit_batch(line, T, np.zeros((5, 6)), np.zeros((4, 2)))


def test_row_13_a_scalar_objective_is_one_residual_and_other_things_are_named() -> None:
    assert jd.least_squares(lambda x: x - 2, 0.0).success
    for residual, message in ((lambda x: None, "None"), (lambda x: x > 0, "dtype bool")):
        with pytest.raises(TypeError, match=message):
            jd.least_squares(residual, [1.0])


@pytest.mark.parametrize("solver", [jd.LevenbergMarquardt(), jd.Dogleg(), jd.GaussNewton()], ids=lambda s: s.name)
def test_row_15_fewer_residuals_than_parameters_are_met_or_said_to_be_open(solver: Any) -> None:
    """Documented: the residual is brought to zero, nothing is claimed of the parameters, and the covariance is infinite."""
    result = jd.least_squares(lambda x: (x[0] + x[1] - 3)[None], [0.0, 0.0], solver=solver, covariance=True)
    np.testing.assert_allclose(jnp.sum(result.x), 3.0)
    assert np.isinf(result.standard_errors).all()


def test_rows_16_and_17_what_cannot_be_traced_says_where_and_what_instead() -> None:
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        jd.least_squares(lambda x: x if x[0] > 0 else -x, [1.0])
    assert "jnp.where" in " ".join(caught.value.__notes__)
    with pytest.raises(jax.errors.TracerArrayConversionError) as caught:
        jd.curve_fit(lambda t, a, b: a + np.sin(b) * t, T, T, [1.0, 1.0])
    assert "jax.numpy" in " ".join(caught.value.__notes__)


@pytest.mark.parametrize("name", ["Powell badly scaled", "Brown badly scaled", "Meyer"])
def test_row_30_scales_from_1e_minus_6_to_1e6_reach_the_published_minimum(name: str) -> None:
    problem = load_mgh(name)
    result = jd.least_squares(problem.residual, problem.start)
    assert result.success
    assert 2 * float(result.fun) == pytest.approx(problem.f_min, rel=1e-6, abs=1e-10)


def test_row_31_bounds_that_make_no_sense_are_named_with_index_and_values() -> None:
    cases = [
        ((np.array([0.0, 3.0]), np.array([1.0, 2.0])), r"at index 1 the lower bound 3.0 exceeds the upper bound 2.0"),
        ((None, np.array([5.0, np.nan])), r"the upper bound at index 1 is nan"),
        ((np.zeros(3), None), r"the lower bound has a leaf of shape \(3,\)"),
        ((2.0, None), r"x0 = 1.0 at index 0 lies outside its bounds \[2.0, inf\]"),
    ]
    for bounds, message in cases:
        with pytest.raises(ValueError, match=message):
            jd.least_squares(shifted, [1.0, 1.0], 0.0, bounds=bounds)
        with pytest.raises(ValueError, match=message):
            jd.curve_fit(line, T, T, [1.0, 1.0], bounds=bounds)


def test_row_35_data_that_are_missing_or_tell_nothing_have_their_status() -> None:
    """All of y NaN, and a predictor that is constant; the good data set between them has the bits that it has without them."""
    y = 1 + 2 * T
    x = np.stack([T, T, np.full(6, 2.0)])
    mixed = jd.curve_fit_batch(line, x, np.stack([np.full(6, np.nan), y, y]), np.zeros((3, 2)), in_axes=(0, 0, 0))
    assert [jd.Status(int(code)).name for code in mixed.status[::2]] == ["INVALID_DATA", "SINGULAR"]
    assert not np.asarray(mixed.success)[::2].any()
    clean = jd.curve_fit_batch(line, np.stack([T, T, T]), np.stack([y, y, y]), np.zeros((3, 2)), in_axes=(0, 0, 0))
    assert clean.success.all()
    np.testing.assert_array_equal(mixed.x[1], clean.x[1])
