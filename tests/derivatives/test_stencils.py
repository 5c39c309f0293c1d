"""Stencils: exact, checked against published tables, and impossible to get wrong unnoticed."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdiff.derivatives.stencils import KINDS, Stencil, exact_weights, stencil_for, stencil_table

# Fornberg (1988), Mathematics of Computation 51, tables 1 (centered) and 3 (one-sided).
PUBLISHED = {
    ("central", 1, 2): "-1/2 1/2",
    ("central", 1, 4): "1/12 -2/3 2/3 -1/12",
    ("central", 1, 6): "-1/60 3/20 -3/4 3/4 -3/20 1/60",
    ("central", 1, 8): "1/280 -4/105 1/5 -4/5 4/5 -1/5 4/105 -1/280",
    ("central", 2, 2): "1 -2 1",
    ("central", 2, 4): "-1/12 4/3 -5/2 4/3 -1/12",
    ("central", 2, 6): "1/90 -3/20 3/2 -49/18 3/2 -3/20 1/90",
    ("central", 3, 2): "-1/2 1 -1 1/2",
    ("central", 3, 4): "1/8 -1 13/8 -13/8 1 -1/8",
    ("central", 4, 2): "1 -4 6 -4 1",
    ("central", 4, 4): "-1/6 2 -13/2 28/3 -13/2 2 -1/6",
    ("forward", 1, 1): "-1 1",
    ("forward", 1, 2): "-3/2 2 -1/2",
    ("forward", 1, 3): "-11/6 3 -3/2 1/3",
    ("forward", 1, 4): "-25/12 4 -3 4/3 -1/4",
    ("forward", 2, 1): "1 -2 1",
    ("forward", 2, 2): "2 -5 4 -1",
    ("forward", 3, 1): "-1 3 -3 1",
    ("forward", 3, 2): "-5/2 9 -12 7 -3/2",
    ("forward", 4, 1): "1 -4 6 -4 1",
    ("forward", 4, 2): "3 -14 26 -24 11 -2",
}

KIND_DERIVATIVE_ORDER = st.tuples(st.sampled_from(KINDS), st.integers(1, 6), st.integers(1, 8)).map(
    lambda t: (t[0], t[1], t[2] + t[2] % 2 if t[0] == "central" else t[2])
)


@pytest.mark.core
@pytest.mark.parametrize("key", PUBLISHED, ids=lambda key: f"{key[0]}-d{key[1]}-p{key[2]}")
def test_weights_are_the_published_ones(key: tuple[str, int, int]) -> None:
    assert stencil_for(*key).weights == tuple(Fraction(weight) for weight in PUBLISHED[key].split())


@settings(deadline=None, max_examples=60)
@given(KIND_DERIVATIVE_ORDER, st.integers(-5, 5), st.fractions(Fraction(1, 9), 3, max_denominator=9), st.data())
def test_stencil_is_exact_on_polynomials_in_rational_arithmetic(
    key: tuple[str, int, int], x: int, h: Fraction, data: st.DataObject
) -> None:
    """Every polynomial of degree below d + p, at any point, with any step: no error at all."""
    stencil = stencil_for(*key)
    d, degree = stencil.derivative, stencil.derivative + stencil.order - 1
    coefficients = data.draw(st.lists(st.integers(-9, 9), min_size=degree + 1, max_size=degree + 1))
    approximate = sum(
        w * sum(c * (x + o * h) ** k for k, c in enumerate(coefficients)) for o, w in zip(stencil.offsets, stencil.weights, strict=True)
    )
    exact = sum(c * math.perm(k, d) * Fraction(x) ** (k - d) for k, c in enumerate(coefficients) if k >= d)
    assert approximate / h**d == exact


@settings(deadline=None, max_examples=60)
@given(KIND_DERIVATIVE_ORDER, st.fractions(Fraction(1, 9), 3, max_denominator=9))
def test_leading_error_is_the_truncation_constant(key: tuple[str, int, int], h: Fraction) -> None:
    """On t^(d+p), whose derivative of order d + p is constant, the whole error is C h^p (d+p)!."""
    stencil = stencil_for(*key)
    power = stencil.derivative + stencil.order
    error = sum(w * (o * h) ** power for o, w in zip(stencil.offsets, stencil.weights, strict=True)) / h**stencil.derivative
    assert error == stencil.constant * h**stencil.order * math.factorial(power)
    assert error != 0


@given(KIND_DERIVATIVE_ORDER)
def test_backward_mirrors_forward_and_central_mirrors_itself(key: tuple[str, int, int]) -> None:
    _, d, p = key
    forward, backward = stencil_for("forward", d, p), stencil_for("backward", d, p)
    assert backward.offsets == tuple(-o for o in reversed(forward.offsets))
    assert backward.weights == tuple((-1) ** d * w for w in reversed(forward.weights))
    central = stencil_for("central", d, p + p % 2)
    assert central.weights == tuple((-1) ** d * w for w in reversed(central.weights))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": (Fraction(-1, 2), Fraction(1, 3))},
        {"weights": (Fraction(1, 2), Fraction(-1, 2))},
        {"offsets": (-1, 2)},
        {"offsets": (1, -1)},
        {"offsets": (-1, 0, 1)},
        {"order": 3},
        {"order": 1},
        {"derivative": 2},
        {"constant": Fraction(1, 3)},
    ],
    ids=str,
)
def test_wrong_stencil_cannot_be_made(change: dict) -> None:
    right = stencil_for("central", 1, 2)
    assert dataclasses.replace(right) == right
    with pytest.raises(ValueError, match=r"moment|offsets|constant"):
        dataclasses.replace(right, **change)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_weights_are_rounded_once_and_last(dtype: str) -> None:
    weights = stencil_for("central", 1, 4).weights_as(np.float32 if dtype == "bfloat16" else dtype)
    assert [float(w) for w in weights] == [float(np.asarray(float(w)).astype(weights.dtype)) for w in stencil_for("central", 1, 4).weights]


def test_stencils_are_made_once() -> None:
    assert stencil_for("central", 1, 4) is stencil_for("central", 1, 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stencil_for("central", 1, 4).order = 6  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("centrl", 1, 2), "kind = 'centrl'.*did you mean 'central'"),
        (("central", 0, 2), "derivative = 0; expected an integer >= 1"),
        (("central", 1, 3), "order = 3; expected an even number"),
        (("forward", 1, 0), "order = 0; expected an integer >= 1"),
    ],
    ids=str,
)
def test_impossible_stencils_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stencil_for(*arguments)


@pytest.mark.parametrize("offsets", [(0, 0, 1), (0,), ()])
def test_points_that_carry_no_derivative_are_refused(offsets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected at least 2 distinct"):
        exact_weights(offsets, 1)


def test_uneven_offsets_are_exact_too() -> None:
    offsets = (-3, 0, 1, 7)
    weights = exact_weights(offsets, 2)
    assert [sum(w * o**k for o, w in zip(offsets, weights, strict=True)) for k in range(4)] == [0, 0, 2, 0]


def test_table_lists_every_kind_once() -> None:
    rows = stencil_table(derivatives=(1, 2), orders=(1, 2))
    assert len({(row["kind"], row["derivative"], row["order"]) for row in rows}) == len(rows) == 2 * 2 * 2 + 2
    assert isinstance(stencil_for(**{key: rows[0][key] for key in ("kind", "derivative", "order")}), Stencil)
