"""How accurate the finite differences are: at the default step, at the best step of all, and against the figure each scheme must meet.

The figure of each row is the median relative error over sin, exp, log and tanh at 64 points on [0.5, 2], against mpmath at 50 digits at
the very points that the precision in question holds. "Best step" is the power of two, one for all points, that gives the smallest median.

Run: ``python benchmarks/finite_differences.py`` (under a minute; needs mpmath). Exits 1 when a row is not within 3 times of its figure.
"""

import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np

import jaxdiff as jd


class Row(NamedTuple):
    """One scheme in one precision.

    Attributes:
        dtype: precision of x and f.
        kind: of stencil.
        order: of accuracy.
        derivative: order of the derivative.
        figure: error at the best step, as measured before this package was written.
    """

    dtype: str
    kind: str
    order: int
    derivative: int
    figure: float


ROWS = (
    Row("float64", "forward", 1, 1, 1.4e-8),
    Row("float64", "central", 2, 1, 7e-12),
    Row("float64", "central", 4, 1, 1.2e-13),
    Row("float64", "central", 2, 2, 5e-9),
    Row("float32", "forward", 1, 1, 3e-4),
    Row("float32", "central", 2, 1, 6e-6),
    Row("float32", "central", 4, 1, 1.1e-6),
    Row("float32", "central", 2, 2, 1.1e-4),
)
FUNCTIONS = {"sin": (jnp.sin, mp.sin), "exp": (jnp.exp, mp.exp), "log": (jnp.log, mp.log), "tanh": (jnp.tanh, mp.tanh)}
FACTOR = 3.0


def points(dtype: str) -> np.ndarray:
    return np.random.default_rng(0).uniform(0.5, 2.0, 64).astype(dtype)


def references(dtype: str, derivative: int) -> np.ndarray:
    """[functions, points], the derivatives by mpmath, rounded once to float64."""
    with mp.workdps(50):
        return np.array([[float(mp.diff(f, mp.mpf(float(x)), derivative)) for x in points(dtype)] for _, f in FUNCTIONS.values()])


def median_error(row: Row, step: float | None = None) -> float:
    """Median relative error over functions and points."""
    method = jd.FiniteDifference(kind=row.kind, order=row.order, step=step)
    x = jnp.asarray(points(row.dtype))
    values = [jd.derivative(f, row.derivative, method=method)(x) for f, _ in FUNCTIONS.values()]
    reference = references(row.dtype, row.derivative)
    return float(np.median(np.abs(np.asarray(jnp.stack(values), np.float64) - reference) / np.abs(reference)))


def best_step(row: Row) -> tuple[float, float]:
    """The power of two with the smallest median error, and that error."""
    exponents = range(-30, -1) if row.dtype == "float64" else range(-14, -1)
    errors = {2.0**exponent: median_error(row, 2.0**exponent) for exponent in exponents}
    errors = {step: error for step, error in errors.items() if np.isfinite(error)}
    step = min(errors, key=errors.__getitem__)
    return step, errors[step]


def main() -> int:
    jax.config.update("jax_enable_x64", True)
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}; median relative error over {', '.join(FUNCTIONS)} on [0.5, 2]")
    print(
        f"{'precision':9} {'scheme':24} {'default step':>12} {'error':>9} {'best step':>10} {'error':>9} {'figure':>9} {'error/figure':>12}"
    )
    is_fine = True
    for row in ROWS:
        error = median_error(row)
        step, smallest = best_step(row)
        default = jd.derivatives.default_step(row.kind, row.derivative, row.order, row.dtype)
        is_fine &= error <= FACTOR * row.figure
        scheme = f"{row.kind}, order {row.order}, f{chr(39) * row.derivative}"
        numbers = f"{default:12.2e} {error:9.1e} {step:10.2e} {smallest:9.1e} {row.figure:9.1e} {error / row.figure:12.2f}"
        print(f"{row.dtype:9} {scheme:24} {numbers}")
    print(f"every row within {FACTOR:g} times of its figure at the default step: {'yes' if is_fine else 'NO'}")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
