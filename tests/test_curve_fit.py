"""`curve_fit`: parameters, standard errors and correlations against closed forms and SciPy; data that do not tell are said not to."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxdiff as jd

T = np.arange(8.0)
Y = np.array([1.1, 2.9, 5.2, 6.8, 9.1, 11.2, 12.8, 15.1])
SIGMA = np.array([0.1, 0.2, 0.1, 0.3, 0.2, 0.1, 0.2, 0.4])


def line(t, a, b):
    return a + b * t


@pytest.mark.core
@pytest.mark.parametrize("is_absolute", [False, True])
def test_a_line_has_the_covariance_of_the_normal_equations(is_absolute):
    fit = jd.curve_fit(line, T, Y, [0.0, 0.0], sigma=SIGMA, absolute_sigma=is_absolute)
    design = np.stack([np.ones(8), T], axis=1) / SIGMA[:, None]
    best, squares, _, _ = np.linalg.lstsq(design, Y / SIGMA, rcond=None)
    expected = np.linalg.inv(design.T @ design) * (1 if is_absolute else squares[0] / 6)
    assert fit.success
    assert (int(fit.dof), int(fit.rank), bool(fit.is_full_rank)) == (6, 2, True)
    np.testing.assert_allclose(fit.x, best, rtol=1e-11)
    np.testing.assert_allclose(fit.covariance, expected, rtol=1e-10)
    np.testing.assert_allclose(fit.standard_errors, np.sqrt(np.diag(expected)), rtol=1e-10)
    slant = expected[0, 1] / np.sqrt(expected[0, 0] * expected[1, 1])
    np.testing.assert_allclose(fit.correlation, [[1, slant], [slant, 1]], rtol=1e-10)


def test_correlated_errors_are_whitened_as_in_scipy():
    errors = 0.04 * np.exp(-np.abs(T[:, None] - T[None]))
    fit = jd.curve_fit(line, T, Y, [0.0, 0.0], sigma=errors, absolute_sigma=True)
    best, covariance = scipy.optimize.curve_fit(line, T, Y, [0.0, 0.0], sigma=errors, absolute_sigma=True)
    np.testing.assert_allclose(fit.x, best, rtol=1e-7)
    np.testing.assert_allclose(fit.covariance, covariance, rtol=1e-6)


def test_a_model_may_take_a_vector_or_a_tree_of_parameters():
    by_vector = jd.curve_fit(lambda t, p: p[0] + p[1] * t, T, Y, [0.0, 0.0])
    by_tree = jd.curve_fit(lambda t, p: p["a"] + p["b"] * t, T, Y, {"a": 0.0, "b": 0.0})
    np.testing.assert_allclose(by_vector.x, [by_tree.x["a"], by_tree.x["b"]], rtol=1e-12)
    np.testing.assert_allclose(by_vector.standard_errors[1], by_tree.standard_errors["b"], rtol=1e-10)


def test_bounds_hold_and_what_they_hold_has_no_error_of_its_own():
    fit = jd.curve_fit(line, T, Y, [0.5, 1.5], bounds=([0.5, 0.0], [0.5, 1.9]))
    np.testing.assert_array_equal(fit.x, [0.5, 1.9])
    np.testing.assert_array_equal(fit.at_bound, [2, 1])
    assert float(fit.standard_errors[0]) == 0
    assert jnp.isnan(fit.standard_errors[1])
    for text in (str(fit), fit._repr_html_()):
        assert "fixed" in text
        assert "at its upper bound" in text


@pytest.mark.core
def test_many_fits_have_a_status_each():
    """A good line, NaN in the data, and predictors that are all the same: rows 35 of the table of bad inputs."""
    predictors = np.stack([T, T, np.full(8, 2.0)])
    data = np.stack([Y, np.where(T == 3, np.nan, Y), Y])
    fit = jd.curve_fit_batch(line, predictors, data, np.zeros((3, 2)), in_axes=(0, 0, 0))
    assert [jd.Status(int(code)).name for code in fit.status[1:]] == ["INVALID_DATA", "SINGULAR"]
    assert fit.success.tolist() == [True, False, False]
    alone = jd.curve_fit(line, T, Y, [0.0, 0.0])
    np.testing.assert_allclose(fit.x[0], alone.x, rtol=1e-11)
    np.testing.assert_allclose(fit.covariance[0], alone.covariance, rtol=1e-10)
    assert np.isinf(fit.standard_errors[2]).all()
    assert not fit.is_full_rank[2]


def test_a_result_reads_as_a_report_and_as_plain_data():
    fit = jd.curve_fit(line, T, Y, [0.0, 0.0])
    head, summary, _, columns, first, second = str(fit).splitlines()
    assert head.startswith("Converged")
    assert summary.startswith(f"{fit.status_name}, {int(fit.nit)} steps, {int(fit.nfev)} evaluations, cost ")
    assert "6 degrees of freedom, residual standard deviation" in summary
    assert columns.split() == ["parameter", "value", "standard", "error", "relative"]
    # The last digit shown is that of the second digit of the error.
    design = np.stack([np.ones(8), T], axis=1)
    best, squares, _, _ = np.linalg.lstsq(design, Y, rcond=None)
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)) * squares[0] / 6)
    assert first.split()[:3] == ["x[0]", f"{best[0]:.2f}", f"{errors[0]:.3g}"]
    assert second.split()[:3] == ["x[1]", f"{best[1]:.3f}", f"{errors[1]:.3g}"]
    assert "<table>" in fit._repr_html_()
    assert f"<td>{best[0]:.2f}</td>" in fit._repr_html_()
    plain = fit.to_dict()
    assert {"standard_errors", "covariance", "correlation", "residuals", "rank", "dof", "at_bound", "message"} <= set(plain)
    assert plain["status"] == fit.status_name
    assert all(isinstance(leaf, (np.ndarray, np.generic, str, type(None))) for leaf in plain.values())


def test_strong_correlations_and_missing_ranks_are_said_in_words():
    far = jd.curve_fit(lambda t, a, b: a + b * t, T + 1000.0, Y, [0.0, 0.0])
    assert "x[0] and x[1] have correlation -1.0000." in str(far)
    open_ended = jd.curve_fit(lambda t, a, b: (a + b) * t, T, Y, [1.0, 1.0])
    assert not open_ended.success
    assert "rank 1 only" in str(open_ended)


def test_shapes_and_errors_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"model returned shape \(8, 1\); expected \(8,\), as y has"):
        jd.curve_fit(lambda t, a, b: (a + b * t)[:, None], T, Y, [0.0, 0.0])
    with pytest.raises(ValueError, match=r"sigma has shape \(3,\); expected one number, \(8,\)"):
        jd.curve_fit(line, T, Y, [0.0, 0.0], sigma=np.ones(3))
    with pytest.raises(ValueError, match=r"sigma = 0.0 at index \(2,\); expected positive numbers"):
        jd.curve_fit(line, T, Y, [0.0, 0.0], sigma=np.where(T == 2, 0.0, 1.0))
