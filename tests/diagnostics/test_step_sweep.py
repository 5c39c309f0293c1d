"""The sweep of the step: slopes that theory gives, predictions near the best, and what is wrong shows."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.derivatives import FiniteDifference
from jaxdiff.diagnostics import StepSweep, step_sweep

SCHEMES = ("forward-1", "central-2", "central-4")


@pytest.fixture(scope="module")
def sweep() -> StepSweep:
    # Not where exp is near a power of two: in float32 its differences are then right by luck, at every step.
    return step_sweep(jnp.exp, 1.2, SCHEMES, reference=math.exp)


def test_slopes_are_the_orders_of_truncation_and_of_rounding(sweep: StepSweep) -> None:
    assert len(sweep.curves) == 6
    for curve in sweep.curves:
        assert curve.truncation_slope == pytest.approx(curve.order, abs=0.15), curve.scheme
        assert curve.rounding_slope == pytest.approx(-1, abs=0.25), curve.scheme


def test_predicted_step_is_within_a_few_times_of_the_best_error(sweep: StepSweep) -> None:
    for curve in sweep.curves:
        assert curve.best_error <= curve.predicted_error <= 5 * curve.best_error


def test_references_are_taken_at_the_number_the_dtype_holds(sweep: StepSweep) -> None:
    assert sweep.references["float32"] == math.exp(float(np.float32(1.2)))
    assert sweep.references["float64"] == math.exp(1.2)
    assert sweep.source == "given"


def test_autodiff_in_float64_is_the_reference_where_none_is_given_and_works_without_64_bits() -> None:
    with jax.enable_x64(False):
        sweep = step_sweep(jnp.sin, 0.5, ["central-2"])
        assert not jax.config.jax_enable_x64
    assert sweep.source == "autodiff in float64"
    assert sweep.references["float64"] == pytest.approx(math.cos(0.5), rel=1e-15)
    small = {curve.dtype: curve.best_error for curve in sweep.curves}
    assert small["float64"] < 1e-9 < 1e-8 < small["float32"] + 1e-8


def test_a_function_with_less_care_moves_the_rounding_side_not_the_truncation_side() -> None:
    rough = lambda x: jnp.round(jnp.exp(x) * 2**20) / 2**20  # noqa: E731
    curve = step_sweep(rough, 0.7, ["central-2"], ["float64"], reference=math.exp).curves[0]
    assert curve.best_step > 50 * curve.predicted_step
    assert curve.predicted_error > 20 * curve.best_error
    assert curve.truncation_slope == pytest.approx(2, abs=0.5)


def test_second_derivative_and_methods_as_schemes() -> None:
    curve = step_sweep(jnp.cos, 0.3, [FiniteDifference(order=2, step=0.1)], ["float64"], n=2, reference=-math.cos(0.3)).curves[0]
    assert curve.rounding_slope == pytest.approx(-2, abs=0.4)
    assert curve.truncation_slope == pytest.approx(2, abs=0.1)


def test_plot_text_and_numbers(sweep: StepSweep) -> None:
    pytest.importorskip("matplotlib")
    figure = sweep.plot()
    assert [axis.get_title() for axis in figure.axes] == ["float32", "float64"]
    for axis in figure.axes:
        curves = [curve for curve in sweep.curves if curve.dtype == axis.get_title()]
        slopes = [slope for curve in curves for slope in (curve.rounding_slope, curve.truncation_slope)]
        assert [line.get_marker() for line in axis.lines].count("*") == [line.get_marker() for line in axis.lines].count("o") == 3
        # The line of a slope has that slope.
        fitted = [line.get_xydata() for line in axis.lines if line.get_linestyle() == "--"]
        found = [np.diff(np.log(line[[0, -1]]), axis=0)[0] for line in fitted]
        np.testing.assert_allclose([high / wide for wide, high in found], [slope for slope in slopes if math.isfinite(slope)])
    assert len(str(sweep).splitlines()) == 8
    assert json.loads(json.dumps(sweep.to_dict()))["curves"][0]["scheme"] == "forward-1"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schemes": ["central"]}, "schemes has 'central'"),
        ({"schemes": ["sideways-2"]}, "sideways"),
        ({"dtypes": ["float16"]}, "float16"),
        ({"reference": math.nan}, "reference"),
        ({"x": math.inf}, "x = inf"),
    ],
)
def test_what_cannot_be_swept_is_named(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        step_sweep(**({"f": jnp.sin, "x": 1.0, "schemes": ["central-2"], "dtypes": ["float64"]} | changes))
