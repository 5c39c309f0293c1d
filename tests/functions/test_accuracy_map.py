"""The published error map: what it says of ours, that its measure catches what it should, and that it can be measured again."""

import importlib.util
import json
import pathlib
import sys
from types import ModuleType

import numpy as np
import pytest

from jaxdiff.functions.activations import ACTIVATIONS
from jaxdiff.functions.losses import LOSSES

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accuracy_benchmark_script", ROOT / "benchmarks" / "accuracy.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_published_map_has_every_smooth_function_within_four_ulp() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "accuracy.json").read_text())
    smooth = {name for name, entry in ACTIVATIONS.items() if entry.is_elementwise and entry.is_smooth}
    smooth |= {name for name, entry in LOSSES.items() if entry.is_smooth and not entry.is_rowwise}
    assert {row["function"] for row in result["rows"]} == smooth
    assert len(result["rows"]) == 2 * len(smooth)
    errors = [row[key] for row in result["rows"] for key in ("ours_value", "ours_gradient")]
    assert sum(error <= 4 for error in errors) == len(errors) == 4 * len(smooth)
    table = (ROOT / "docs" / "tables" / "accuracy.md").read_text()
    assert all(f"| {row['function']} | {row['dtype']} |" in table for row in result["rows"])


@pytest.mark.parametrize("name", ["log_cosh", "poisson_nll"])
def test_map_measured_again_stays_within_four_ulp(name: str, dtype: str, benchmark_module: ModuleType) -> None:
    errors = benchmark_module.error_map(name, dtype, 60)
    for key in ("ours_value", "ours_gradient"):
        assert np.sum(np.isfinite(errors[key])) > 60
        assert np.nanmax(errors[key]) <= 4


def test_measure_catches_a_rule_that_loses_its_tail(benchmark_module: ModuleType) -> None:
    errors = benchmark_module.error_map("tanh", "float32", 60)
    assert np.nanmax(errors["peer_gradient"]) > 1e4  # 1 - tanh^2, as jax 0.10.2 has it
    assert np.nanmax(errors["ours_gradient"]) <= 4


def test_references_that_two_precisions_do_not_agree_on_stop_the_script(benchmark_module: ModuleType) -> None:
    import mpmath as mp

    with pytest.raises(ArithmeticError, match="at x = 1e-80"):
        benchmark_module.certified(lambda x: mp.log(1 + x), np.array([1e-80]))


@pytest.mark.parametrize("name", ["silu", "gelu_tanh", "mish", "softsign"])
def test_second_derivatives_measured_again_stay_within_eight_ulp(name: str, dtype: str, benchmark_module: ModuleType) -> None:
    # Sixty points do not meet a root; what is beside one is in test_activations.
    assert benchmark_module.second_errors(name, dtype, 60, with_peer=False)["ours"] <= benchmark_module.SECOND_BOUND
