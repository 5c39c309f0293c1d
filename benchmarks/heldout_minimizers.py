"""Held-out minimizers: published functions that no test of this package uses, with default options, beside the best of four of SciPy's.

The functions are written from their formulas in Andrei, An unconstrained optimization test functions collection, Adv. Model. Optim. 10
(2008) 147-161, in the CUTEst collection (Gould, Orban and Toint, 2015) and in Jamil and Yang, A literature survey of benchmark functions
(2013); bounds, where there are any, are our own. Solved: within 1e-6 of the lowest value that anybody found from that start, relative above
one. A success claimed elsewhere is false unless the point is stationary (largest projected gradient at most 1e-5 of one plus f).

Usage: python benchmarks/heldout_minimizers.py [--solver NAME ...] [--verbose]
"""

import argparse
import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd


@dataclasses.dataclass(frozen=True)
class Function:
    """A function, a start, and bounds or none."""

    name: str
    fun: Callable[[jax.Array], jax.Array]
    start: Any
    bounds: tuple[Any, Any] | None = None


def goldstein_price(x: jax.Array) -> jax.Array:
    a, b = x
    left = 1 + (a + b + 1) ** 2 * (19 - 14 * a + 3 * a**2 - 14 * b + 6 * a * b + 3 * b**2)
    return left * (30 + (2 * a - 3 * b) ** 2 * (18 - 32 * a + 12 * a**2 + 48 * b - 36 * a * b + 27 * b**2))


def cragglvy(x: jax.Array) -> jax.Array:
    a, b, c, d = x[:-3:2], x[1:-2:2], x[2:-1:2], x[3::2]
    return jnp.sum((jnp.exp(a) - b) ** 4 + 100 * (b - c) ** 6 + (jnp.tan(c - d) + c - d) ** 4 + a**8 + (d - 1) ** 2)


def dixmaana(x: jax.Array) -> jax.Array:
    n = x.shape[0]
    m = n // 3
    first = 1 + jnp.sum(x**2) + 0.125 * jnp.sum(x[: 2 * m] ** 2 * x[m:] ** 4)
    return first + 0.125 * jnp.sum(x[:m] * x[2 * m :])


def index(x: jax.Array) -> jax.Array:
    return jnp.arange(1, x.shape[0] + 1, dtype=x.dtype)


ONES = np.ones
FUNCTIONS = [
    Function("Himmelblau", lambda x: (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2, [1.0, 1.0]),
    Function("Three-hump camel", lambda x: 2 * x[0] ** 2 - 1.05 * x[0] ** 4 + x[0] ** 6 / 6 + x[0] * x[1] + x[1] ** 2, [0.6, -0.8]),
    Function("Goldstein-Price", goldstein_price, [0.3, -0.8]),
    Function("Cube", lambda x: 100 * (x[1] - x[0] ** 3) ** 2 + (1 - x[0]) ** 2, [-1.2, 1.0]),
    Function("Maratos, extended", lambda x: jnp.sum(x[::2] + 100 * (x[::2] ** 2 + x[1::2] ** 2 - 1) ** 2), np.tile([1.1, 0.1], 10)),
    Function("Dixon-Price", lambda x: (x[0] - 1) ** 2 + jnp.sum(index(x)[1:] * (2 * x[1:] ** 2 - x[:-1]) ** 2), ONES(10)),
    Function("Zakharov", lambda x: jnp.sum(x**2) + jnp.sum(index(x) * x / 2) ** 2 + jnp.sum(index(x) * x / 2) ** 4, ONES(10)),
    Function("Raydan 1", lambda x: jnp.sum(index(x) / 10 * (jnp.exp(x) - x)), ONES(50)),
    Function("Raydan 2", lambda x: jnp.sum(jnp.exp(x) - x), ONES(50)),
    Function("Hager", lambda x: jnp.sum(jnp.exp(x) - jnp.sqrt(index(x)) * x), ONES(50)),
    Function("Diagonal 4, extended", lambda x: jnp.sum(x[::2] ** 2 + 100 * x[1::2] ** 2) / 2, ONES(50)),
    Function("Arwhead", lambda x: jnp.sum((x[:-1] ** 2 + x[-1] ** 2) ** 2 - 4 * x[:-1] + 3), ONES(50)),
    Function("Nondia", lambda x: (x[0] - 1) ** 2 + jnp.sum(100 * (x[0] - x[:-1] ** 2) ** 2), -ONES(20)),
    Function("Tridia", lambda x: (x[0] - 1) ** 2 + jnp.sum(index(x)[1:] * (2 * x[1:] - x[:-1]) ** 2), ONES(30)),
    Function("Liarwhd", lambda x: jnp.sum(4 * (x**2 - x[0]) ** 2 + (x - 1) ** 2), 4 * ONES(20)),
    Function("Engval1", lambda x: jnp.sum((x[:-1] ** 2 + x[1:] ** 2) ** 2 - 4 * x[:-1] + 3), 2 * ONES(30)),
    Function("Cragglvy", cragglvy, [1.0, *([2.0] * 11)]),
    Function("Dixmaana", dixmaana, 2 * ONES(15)),
    Function("Fletchcr", lambda x: 100 * jnp.sum((x[1:] - x[:-1] + 1 - x[:-1] ** 2) ** 2), np.zeros(10)),
    Function("Dqrtic", lambda x: jnp.sum((x - index(x)) ** 4), 2 * ONES(20)),
    Function("McCormick", lambda x: jnp.sin(x[0] + x[1]) + (x[0] - x[1]) ** 2 - 1.5 * x[0] + 2.5 * x[1] + 1, [0.0, 0.0], (-1.5, 4.0)),
    Function("Raydan 1, x >= 0.1", lambda x: jnp.sum(index(x) / 10 * (jnp.exp(x) - x)), ONES(50), (0.1, None)),
    Function("Engval1, x <= 0.7", lambda x: jnp.sum((x[:-1] ** 2 + x[1:] ** 2) ** 2 - 4 * x[:-1] + 3), 0.5 * ONES(30), (-1.0, 0.7)),
    Function("Liarwhd, x <= 0.9", lambda x: jnp.sum(4 * (x**2 - x[0]) ** 2 + (x - 1) ** 2), 0.5 * ONES(20), (None, 0.9)),
    Function("Dqrtic, x <= 5", lambda x: jnp.sum((x - index(x)) ** 4), 2 * ONES(20), (None, 5.0)),
    Function("Cube, x0 <= 0.8", lambda x: 100 * (x[1] - x[0] ** 3) ** 2 + (1 - x[0]) ** 2, [-1.2, 1.0], (None, [0.8, np.inf])),
]


def stationarity(function: Function, point: np.ndarray) -> float:
    """The largest projected gradient over one plus |f|."""
    value, gradient = jax.value_and_grad(function.fun)(jnp.asarray(point, float))
    lower, upper = function.bounds or (None, None)
    at_lower = point <= (-np.inf if lower is None else np.asarray(lower))
    at_upper = point >= (np.inf if upper is None else np.asarray(upper))
    held = (at_lower & (gradient >= 0)) | (at_upper & (gradient <= 0))
    return float(np.abs(np.where(held, 0, gradient)).max() / (1 + abs(float(value))))


def by_scipy(function: Function) -> dict[str, tuple[float, bool]]:
    import scipy.optimize

    both = jax.jit(jax.value_and_grad(function.fun))
    curvature = jax.jit(jax.hessian(function.fun))
    start = np.asarray(function.start, float)
    limits = None
    if function.bounds is not None:
        lower, upper = (side if side is not None else limit for side, limit in zip(function.bounds, (-np.inf, np.inf), strict=True))
        limits = scipy.optimize.Bounds(np.broadcast_to(lower, start.shape), np.broadcast_to(upper, start.shape))
    methods = ("L-BFGS-B", "TNC") if limits is not None else ("BFGS", "L-BFGS-B", "trust-exact", "TNC")
    found = {}
    for method in methods:
        hessian = {"hess": lambda x: np.asarray(curvature(x))} if method == "trust-exact" else {}
        answer = scipy.optimize.minimize(
            lambda x: tuple(np.asarray(part, float) for part in both(x)), start, jac=True, method=method, bounds=limits, **hessian
        )
        found[method] = (float(answer.fun), bool(answer.success))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--solver", nargs="*", default=["bfgs"])
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    rows: dict[str, list[tuple[str, float, bool, str]]] = {}
    best = {}
    for function in FUNCTIONS:
        answers = [(name, value, ok, "") for name, (value, ok) in by_scipy(function).items()]
        best[function.name] = min(value for _, value, _, _ in answers)
        for name in options.solver:
            result = jd.minimize(function.fun, jnp.asarray(function.start, float), bounds=function.bounds, solver=jd.SOLVERS[name]())
            is_false = bool(result.success) and stationarity(function, np.asarray(result.x)) > 1e-5
            words = f"{result.status_name}, {int(result.nfev)} evaluations{', FALSE' if is_false else ''}"
            answers.append((f"jaxdiff {name}", float(result.fun), bool(result.success), words))
        rows[function.name] = answers
    names = list(dict.fromkeys(name for answers in rows.values() for name, *_ in answers))
    solved, claimed, false, missed = (dict.fromkeys(names, 0) for _ in range(4))
    lists: dict[str, list[str]] = {name: [] for name in names}
    for title, answers in rows.items():
        lowest = min(value for _, value, _, _ in answers)
        is_near = lambda value, lowest=lowest: value <= lowest + 1e-6 * max(1, abs(lowest))  # noqa: E731
        by_peers = is_near(best[title])
        for name, value, ok, words in answers:
            solved[name] += is_near(value)
            claimed[name] += ok
            false[name] += words.endswith("FALSE")
            if not is_near(value):
                lists[name].append(f"{title} ({value:.6g} for {lowest:.6g}{', ' + words if words else ''})")
                missed[name] += by_peers
            if options.verbose:
                print(f"  {title:24s}{name:24s}{value:16.8g} {'ok' if ok else '--'} {words}")
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, float64, default options, {len(FUNCTIONS)} functions")
    for name in names:
        tail = f", false {false[name]}, missed where SciPy's best did not {missed[name]}" if name.startswith("jaxdiff") else ""
        print(f"{name:32s} lowest {solved[name]:3d}, claimed {claimed[name]:3d}{tail}; not lowest: {'; '.join(lists[name]) or 'none'}")
    print(f"{time.perf_counter() - began:.0f} s with compilation")


if __name__ == "__main__":
    main()
