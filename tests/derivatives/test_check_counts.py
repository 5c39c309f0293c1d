"""The published counts of the checker: complete, without a miss or a false alarm, those that the README tells, and some measured again."""

import json
import pathlib
import re
import sys
from types import ModuleType

import jax.numpy as jnp
import pytest

import jaxdiff as jd

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fresh() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from rule_cases import fresh
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return fresh


@pytest.fixture(scope="module")
def counts() -> list[dict]:
    return json.loads((ROOT / "benchmarks" / "results" / "check_derivatives.json").read_text())


def test_every_wrong_rule_was_caught_and_no_right_one_accused(counts: list[dict], fresh: ModuleType) -> None:
    assert {(row["set"], row["dtype"]) for row in counts} == {
        *((name, dtype) for name in ("first set", "held-out set", "fresh set") for dtype in ("float32", "float64")),
        ("a large network", "float32"),
    }
    assert sum(row["wrong"] - row["caught"]["jaxdiff"] for row in counts) == 0
    assert sum(row["false_alarms"]["jaxdiff"] for row in counts) == 0
    cases = fresh.fresh_cases()
    for row in counts:
        if row["set"] == "fresh set":
            assert min(row["wrong"], row["right"]) >= 30
            of_dtype = [case for case in cases if row["dtype"] in case.dtypes]
            assert (sum(not case.is_right for case in of_dtype), sum(case.is_right for case in of_dtype)) == (row["wrong"], row["right"])
        # At most one in twelve of the right ones may be left open, or "no false alarm" would say little.
        assert len(row["inconclusive"]) <= row["right"] / 12


def test_the_readme_tells_these_counts(counts: list[dict]) -> None:
    sets = [row for row in counts if row["set"] != "a large network"]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    told = re.search(
        r"Of (\d+) wrong rules in float32 and float64 it caught (\d+) and accused none of (\d+) right ones, of which it left (\d+) open; "
        r"`jax.test_util.check_grads` caught (\d+) and accused (\d+)",
        text,
    )
    assert told is not None
    assert [int(number) for number in told.groups()] == [
        sum(row["wrong"] for row in sets),
        sum(row["caught"]["jaxdiff"] for row in sets),
        sum(row["right"] for row in sets),
        sum(len(row["inconclusive"]) for row in sets),
        sum(row["caught"]["check_grads"] for row in sets),
        sum(row["false_alarms"]["check_grads"] for row in sets),
    ]


@pytest.mark.parametrize("name", ["focal loss", "saturated softmax", "unit vector, not projected", "one of 300 zero"])
def test_cases_measured_again_come_out_alike(name: str, fresh: ModuleType) -> None:
    (case,) = [case for case in fresh.fresh_cases() if case.name == name]
    report = jd.check_derivatives(case.f, *(jnp.asarray(leaf, "float32") for leaf in case.args))
    assert report.failed is not case.is_right
    assert set(report.modes) == set(case.modes)
