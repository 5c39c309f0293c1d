"""Write the references of the held-out functions: derivatives one to four, by mpmath in two precisions that agree.

    python benchmarks/make_estimate_references.py [first] [second]

They go to ``tests/derivatives/data/heldout.npz`` and ``heldout_second.npz``.

Central differences with a step far below any length of the functions, in a working precision in which that costs nothing. What steps and
precisions of 40 and of 70 digits do not give alike to 1e-25 stops the script; where both are below 1e-36 and unlike, the derivative is
zero.
"""

import pathlib
import sys
from typing import Any

import jax
import mpmath as mp
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "derivatives"))

import estimate_cases

DIGITS = (40, 70)


class Exact:
    """The part of ``jax.numpy`` that the functions use, in mpmath's numbers."""

    sin, cos, tan, exp, log, log1p, expm1, sqrt = mp.sin, mp.cos, mp.tan, mp.exp, mp.log, mp.log1p, mp.expm1, mp.sqrt
    arctan, arcsin, arctanh, sinh, cosh, tanh = mp.atan, mp.asin, mp.atanh, mp.sinh, mp.cosh, mp.tanh
    arccos, arcsinh = mp.acos, mp.asinh
    maximum, minimum, abs, floor, sign, round = max, min, abs, mp.floor, mp.sign, mp.nint
    pi = mp.pi

    @staticmethod
    def where(condition: bool, if_true: Any, if_false: Any) -> Any:
        """One branch or the other."""
        return if_true if condition else if_false


def derivative(expression: Any, x: float, n: int) -> float:
    first, second = (central_difference(expression, x, n, digits) for digits in DIGITS)
    if mp.isfinite(second) and abs(first - second) <= mp.mpf(10) ** -25 * abs(second):
        return float(second)
    if max(abs(first), abs(second)) < mp.mpf(10) ** -36:
        return 0.0
    raise ValueError(f"derivative {n} at x = {x!r}: {mp.nstr(first, 30)} in {DIGITS[0]} digits, {mp.nstr(second, 30)} in {DIGITS[1]}")


def central_difference(expression: Any, x: float, n: int, digits: int) -> mp.mpf:
    """The n-th difference with a step of so many digits less than x: wrong by its square; what it cancels is added to the precision."""
    with mp.workdps((n + 2) * (digits + 30)):
        point = mp.mpf(x)
        step = (abs(point) if x else 1) * mp.mpf(10) ** -digits
        terms = ((-1) ** k * mp.binomial(n, k) * expression(Exact, point + (mp.mpf(n) / 2 - k) * step) for k in range(n + 1))
        return mp.fsum(terms) / step**n


def references(function: Any, x: np.generic, orders: tuple[int, ...]) -> list[float]:
    if function.expects is not None:
        return [np.nan] * len(orders)
    known = function.known.get(float(x))
    if known is not None:
        return [known.get(n, np.nan) for n in orders]
    limits = np.finfo(x.dtype)
    values = []
    for n in orders:
        value = derivative(function.expression, float(x), n)
        # What the dtype cannot hold is not asked for.
        values.append(value if value == 0 or float(limits.tiny) <= abs(value) <= float(limits.max) else np.nan)
    return values


def write(split: estimate_cases.Split) -> None:
    rows, dtypes, points, table = [], [], [], []
    for row, function in enumerate(split.functions):
        f = jax.jit(function.f)
        for dtype in function.dtypes:
            for point in function.points:
                x = np.dtype(dtype).type(point)
                value = f(x)
                assert value.dtype == dtype, (function.name, value.dtype)
                if bool(np.isfinite(value)) == (function.expects == "non_finite"):
                    raise ValueError(f"{function.name} at {x!r} is {value}")
                rows.append(row)
                dtypes.append(dtype)
                points.append(float(x))
                try:
                    table.append(references(function, x, estimate_cases.ORDERS))
                except ValueError as error:
                    raise ValueError(f"{function.name} in {dtype}: {error}") from error
    columns = {"function": np.array(rows, np.int32), "dtype": np.array(dtypes), "x": np.array(points), "references": np.array(table)}
    np.savez_compressed(split.data, **columns)
    print(f"{split.name}: {len(rows)} points of {len(split.functions)} functions, {split.data.stat().st_size} bytes")


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    for name in sys.argv[1:] or ("first", "second"):
        write(estimate_cases.split(name))


if __name__ == "__main__":
    main()
