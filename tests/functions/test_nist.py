"""NIST's datasets: the models give the certified sums of squares and standard deviations, and LRE counts digits as NIST does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.functions.nist import load_nist, log_relative_error

DATASETS = load_nist()

# The formulas as NIST prints them, operation by operation, in NumPy; the package rearranges them against cancellation and overflow.
PRINTED = {
    "Misra1a": lambda x, b: b[0] * (1 - np.exp(-b[1] * x)),
    "BoxBOD": lambda x, b: b[0] * (1 - np.exp(-b[1] * x)),
    "Misra1b": lambda x, b: b[0] * (1 - (1 + b[1] * x / 2) ** (-2)),
    "Misra1c": lambda x, b: b[0] * (1 - (1 + 2 * b[1] * x) ** (-0.5)),
    "Misra1d": lambda x, b: b[0] * b[1] * x * ((1 + b[1] * x) ** (-1)),
    "Rat42": lambda x, b: b[0] / (1 + np.exp(b[1] - b[2] * x)),
    "Rat43": lambda x, b: b[0] / ((1 + np.exp(b[1] - b[2] * x)) ** (1 / b[3])),
    "MGH09": lambda x, b: b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3]),
    "Kirby2": lambda x, b: (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2),
    "Thurber": lambda x, b: (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3),
    "Hahn1": lambda x, b: (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3),
}


@functools.cache
def evaluated(name):
    """Predictions at both starts and at the certified parameters, and the Jacobian there: one compilation per dataset."""
    data = DATASETS[name]
    points = np.stack([data.start1, data.start2, data.certified])
    compute = jax.jit(lambda x, b: (jax.vmap(lambda row: data.model(x, row))(b), jax.jacfwd(lambda row: data.model(x, row))(b[-1])))
    values, jacobian = compute(data.x, points)
    return dict(zip(("start1", "start2", "certified"), np.asarray(values), strict=True)), np.asarray(jacobian)


def test_all_27_datasets_are_there_with_their_sizes():
    assert len(DATASETS) == 27
    assert [sum(data.level == level for data in DATASETS.values()) for level in ("Lower", "Average", "Higher")] == [8, 11, 8]
    for data in DATASETS.values():
        n = len(data.certified)
        assert len(data.y) == len(data.x)
        assert data.dof == len(data.y) - n
        assert data.start1.shape == data.start2.shape == data.certified_sd.shape == (n,)
        assert all((data.formula, data.citation, data.model_class))


def test_nelson_predicts_the_logarithm_from_pairs():
    data = load_nist("Nelson")
    assert data.x.shape == (128, 2)
    # The first response in NIST's file is 15.00.
    assert data.y[0] == np.log(15.0)


def test_rat43_has_the_degrees_of_freedom_that_its_size_says():
    assert load_nist("Rat43").dof == 11


@pytest.mark.parametrize("name", [name for name in DATASETS if name != "Lanczos1"])
def test_residual_sum_of_squares_is_the_certified_one(name):
    data = DATASETS[name]
    residual = data.y - evaluated(name)[0]["certified"]
    # 11 printed digits of parameters and answer; Lanczos2's tiny residuals feel the 11th digit of the parameters most.
    assert np.sum(residual**2) == pytest.approx(data.certified_rss, rel=2e-10)


def test_lanczos1_residuals_are_below_its_printed_digits():
    data = load_nist("Lanczos1")
    residual = data.y - evaluated("Lanczos1")[0]["certified"]
    # 3.98e-21: the certified 1.43e-25 needs more digits of the parameters than NIST prints.
    assert np.sum(residual**2) == pytest.approx(3.98e-21, rel=0.01)


@pytest.mark.parametrize("name", list(DATASETS))
def test_standard_deviations_are_the_certified_ones(name):
    data = DATASETS[name]
    _, jacobian = evaluated(name)
    # s^2 inv(J'J), by QR of the scaled columns: the columns of Bennett5 and Nelson differ by ten orders of magnitude.
    scale = np.linalg.norm(jacobian, axis=0)
    inverse = np.linalg.inv(np.linalg.qr(jacobian / scale)[1])
    deviation = np.sqrt(data.certified_rss / data.dof) * np.linalg.norm(inverse, axis=1) / scale
    np.testing.assert_allclose(deviation, data.certified_sd, rtol=1e-6)


@pytest.mark.parametrize("name", list(PRINTED))
@pytest.mark.parametrize("where", ["start1", "start2", "certified"])
def test_rearranged_models_equal_the_printed_formulas(name, where):
    data = DATASETS[name]
    printed = PRINTED[name](data.x, getattr(data, where))
    # Kirby2's curve crosses zero, where either form keeps only the digits of its largest term.
    np.testing.assert_allclose(evaluated(name)[0][where], printed, rtol=1e-12, atol=1e-15 * np.max(np.abs(printed)))


def test_saturating_models_keep_their_digits_in_float32():
    for name in ("Misra1a", "Misra1b", "Misra1c"):
        data = DATASETS[name]
        b = data.certified.astype(np.float32)
        # Evaluated in float64 at the float32 parameters: what is left is the rounding of the model alone.
        # Three units of the last place, where the printed forms are off by 4e-7, 5e-6 and 1e-6.
        exact = PRINTED[name](data.x.astype(np.float32).astype(np.float64), b.astype(np.float64))
        np.testing.assert_allclose(np.asarray(jax.jit(data.model)(data.x.astype(np.float32), b)), exact, rtol=3 * 2.0**-23)


@pytest.mark.parametrize("name", ["Rat42", "Rat43"])
def test_growth_curves_have_a_gradient_where_exp_overflows(name):
    data = DATASETS[name]
    b = jnp.asarray(data.certified, jnp.float32).at[1].set(200.0)
    x = jnp.asarray(data.x, jnp.float32)
    jacobian = jax.jit(jax.jacfwd(lambda b: data.model(x, b)))(b)
    assert bool(jnp.all(jnp.isfinite(jacobian)))


@pytest.mark.parametrize("name", list(DATASETS))
def test_models_keep_the_dtype(name):
    data = DATASETS[name]
    out = jax.eval_shape(data.model, jnp.asarray(data.x, jnp.float32), jnp.asarray(data.start2, jnp.float32))
    assert (out.dtype, out.shape) == (jnp.float32, data.y.shape)


def test_datasets_cannot_be_changed_under_other_users():
    data = load_nist("Misra1a")
    with pytest.raises(ValueError, match="read-only"):
        data.y[0] = 0.0
    load_nist().clear()
    assert len(load_nist()) == 27


def test_names_are_found_in_any_case_and_unknown_ones_get_a_suggestion():
    assert load_nist("chwirut1") is load_nist("Chwirut1")
    with pytest.raises(ValueError, match=r"'Chwirut9'.*did you mean 'chwirut"):
        load_nist("Chwirut9")


def test_log_relative_error_counts_digits():
    # -log10(1e-5) of a relative error, -log10(1e-3) of an absolute one, and the three ends: exact, wrong altogether, not finite.
    estimate = [1.00001, 1e-3, 2.0, 30.0, np.nan, np.inf]
    certified = [1.0, 0.0, 2.0, 2.0, 1.0, 1.0]
    np.testing.assert_allclose(log_relative_error(estimate, certified), [5.0, 3.0, 11.0, 0.0, 0.0, 0.0], atol=1e-6)
    assert log_relative_error(jnp.asarray(238.94), 238.94212918).shape == ()


def test_log_relative_error_refuses_unequal_shapes():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        log_relative_error([1.0, 2.0], [1.0, 2.0, 3.0])
