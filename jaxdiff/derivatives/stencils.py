"""Finite-difference stencils as data: offsets and exact rational weights, of any derivative order and any accuracy order.

A stencil says that, for a smooth f and a step h,

    f^(d)(x) = (1 / h^d) sum_k w_k f(x + o_k h)  -  C h^p f^(d+p)(x)  +  O(h^(p+1)),

where ``d`` is the derivative order, ``p`` the accuracy order, ``o_k`` whole numbers, and ``w_k`` and ``C`` rational. The weights are the
solution of the Vandermonde system of moment conditions, found in exact arithmetic by Fornberg's recursion and checked against those
conditions whenever a stencil is made; they become floating-point numbers last, when a kernel asks for them.

References:
    B. Fornberg, Generation of finite difference formulas on arbitrarily spaced grids, Mathematics of Computation 51 (1988) 699-706,
    section 3.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from jaxdiff._types import DType
from jaxdiff._validation import check_choice, check_count

KINDS = ("forward", "backward", "central")
FORNBERG = "Fornberg, Mathematics of Computation 51 (1988) 699-706"


@dataclasses.dataclass(frozen=True)
class Stencil:
    """One finite-difference formula. Making one checks it: wrong weights cannot be held.

    Example:
        >>> stencil = stencil_for("central", derivative=1, order=4)
        >>> [str(weight) for weight in stencil.weights]
        ['1/12', '-2/3', '2/3', '-1/12']
    """

    offsets: tuple[int, ...]
    """Where f is evaluated, in steps from x; ascending; points of zero weight are left out."""
    weights: tuple[Fraction, ...]
    """One exact weight per offset, for a step of one."""
    derivative: int
    """Order d of the derivative."""
    order: int
    """Order p of accuracy: the error shrinks as h^p."""
    constant: Fraction
    """C of the leading error: the formula gives f^(d) + C h^p f^(d+p)."""
    source: str = FORNBERG
    """Where the weights come from."""

    def __post_init__(self) -> None:
        if len(self.offsets) != len(self.weights) or tuple(sorted(set(self.offsets))) != self.offsets:
            raise ValueError(f"offsets = {self.offsets}; expected ascending whole numbers, one per weight")
        d, p = self.derivative, self.order
        for power in range(d + p):
            expected = math.factorial(d) if power == d else 0
            if self.moment(power) != expected:
                raise ValueError(f"weights = {self.weights}: moment {power} is {self.moment(power)}; expected {expected}")
        constant = self.moment(d + p) / math.factorial(d + p)
        if constant != self.constant or constant == 0:
            raise ValueError(f"constant = {self.constant}; the weights give {constant}, and order {p} needs it to be other than zero")

    def moment(self, power: int) -> Fraction:
        """The exact sum of w_k o_k^power."""
        return sum((weight * Fraction(offset) ** power for offset, weight in zip(self.offsets, self.weights, strict=True)), Fraction(0))

    @property
    def absolute_weight(self) -> float:
        """Sum of |w_k|: how much the formula amplifies an error in f, before the division by h^d."""
        return float(sum(abs(weight) for weight in self.weights))

    def weights_as(self, dtype: DType) -> np.ndarray:
        """The weights rounded once, to ``dtype``."""
        return np.array([float(weight) for weight in self.weights]).astype(dtype)


@functools.cache
def exact_weights(offsets: tuple[int | Fraction, ...], derivative: int) -> tuple[Fraction, ...]:
    """Weights of the highest accuracy order that the given points allow, by Fornberg's recursion in rational arithmetic.

    Args:
        offsets: distinct whole numbers or fractions, at least ``derivative + 1`` of them.
        derivative: order of the derivative.

    Returns:
        One weight per offset, for a step of one.

    Raises:
        ValueError: offsets repeat, or are too few.

    Example:
        >>> [str(weight) for weight in exact_weights((-1, 0, 1), 2)]
        ['1', '-2', '1']
    """
    if len(set(offsets)) != len(offsets) or len(offsets) <= derivative:
        raise ValueError(f"offsets = {offsets}; expected at least {derivative + 1} distinct whole numbers or fractions")
    # weights[m][k]: weight of point k in the formula for the m-th derivative on the points seen so far.
    weights = [[Fraction(0)] * len(offsets) for _ in range(derivative + 1)]
    weights[0][0] = Fraction(1)
    product_before = Fraction(1)
    for j in range(1, len(offsets)):
        product = Fraction(1)
        for m in range(min(j, derivative), -1, -1):  # descending, since the new point's weight uses the previous order of the last point
            lower = weights[m - 1][j - 1] if m else Fraction(0)
            weights[m][j] = m * lower - offsets[j - 1] * weights[m][j - 1]
        for k in range(j):
            gap = Fraction(offsets[j] - offsets[k])
            product *= gap
            for m in range(min(j, derivative), -1, -1):
                lower = weights[m - 1][k] if m else Fraction(0)
                weights[m][k] = (offsets[j] * weights[m][k] - m * lower) / gap
        for m in range(min(j, derivative) + 1):
            weights[m][j] *= product_before / product
        product_before = product
    return tuple(weights[derivative])


@functools.cache
def stencil_for(kind: str = "central", derivative: int = 1, order: int = 2) -> Stencil:
    """The smallest stencil of a kind with a given derivative order and accuracy order.

    Args:
        kind: "forward" (offsets 0, 1, 2, ...), "backward" (0, -1, -2, ...) or "central" (as many to either side).
        derivative: order d of the derivative, at least one.
        order: order p of accuracy, at least one; even for a central stencil.

    Returns:
        The stencil; the same object on the next call.

    Raises:
        ValueError: naming the argument that is out of range.

    Example:
        >>> stencil_for("forward", derivative=1, order=2).offsets
        (0, 1, 2)
        >>> str(stencil_for("central", derivative=2, order=2).constant)
        '1/12'
    """
    check_choice(kind, "kind", KINDS)
    check_count(derivative, "derivative", minimum=1)
    check_count(order, "order", minimum=1)
    if kind == "central":
        if order % 2:
            raise ValueError(f"order = {order}; expected an even number: the odd orders of a central difference cancel")
        radius = (derivative + 1) // 2 - 1 + order // 2
        offsets: Sequence[int] = range(-radius, radius + 1)
    elif kind == "forward":
        offsets = range(derivative + order)
    else:
        offsets = range(-(derivative + order) + 1, 1)
    weights = exact_weights(tuple(offsets), derivative)
    kept = [(offset, weight) for offset, weight in zip(offsets, weights, strict=True) if weight != 0]
    power = derivative + order
    constant = sum((weight * offset**power for offset, weight in kept), Fraction(0)) / math.factorial(power)
    return Stencil(
        offsets=tuple(offset for offset, _ in kept),
        weights=tuple(weight for _, weight in kept),
        derivative=derivative,
        order=order,
        constant=constant,
    )


def stencil_table(derivatives: Sequence[int] = (1, 2, 3, 4), orders: Sequence[int] = (1, 2, 4, 6)) -> list[dict[str, Any]]:
    """Stencils as rows of plain text and numbers, for a report.

    Example:
        >>> stencil_table(derivatives=(1,), orders=(2,))[2]["weights"]
        '-1/2, 1/2'
    """
    rows = []
    for kind in KINDS:
        for derivative in derivatives:
            for order in orders:
                if kind == "central" and order % 2:
                    continue
                stencil = stencil_for(kind, derivative, order)
                rows.append(
                    {
                        "kind": kind,
                        "derivative": derivative,
                        "order": order,
                        "offsets": ", ".join(str(offset) for offset in stencil.offsets),
                        "weights": ", ".join(str(weight) for weight in stencil.weights),
                        "constant": str(stencil.constant),
                    }
                )
    return rows
