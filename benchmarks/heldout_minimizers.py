"""Held-out minimizers: published functions that no test of this package uses, with default options, beside the best of four of SciPy's.

The functions are written from their formulas in Andrei, An unconstrained optimization test functions collection, Adv. Model. Optim. 10
(2008) 147-161, in the CUTEst collection (Gould, Orban and Toint, 2015) and in Jamil and Yang, A literature survey of benchmark functions
(2013); bounds, where there are any, are our own. Solved: within 1e-6 of the lowest value that anybody found from that start, relative above
one. A success claimed elsewhere is false unless the point is stationary (largest projected gradient at most 1e-5 of one plus f).

With ``--scaled`` ten of them, each as it is, times 1e6 and 1e-6, plus 1e4, and with x in units of 1e3 and 1e-3, in double and in single
precision: 120 runs per solver, what each claims looked at in the units of the function as it was written.

Usage: python benchmarks/heldout_minimizers.py [--solver NAME ...] [--second | --scaled] [--json PATH] [--verbose]
"""

import argparse
import dataclasses
import json
import pathlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

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


def allinitu(x: jax.Array) -> jax.Array:
    a, b, c, d = x
    first = c - 1 + a**2 + b**2 + (c + d) ** 2 + jnp.sin(c) ** 2 + a**2 * b**2 + d - 3 + jnp.sin(c) ** 2 + (d - 1) ** 2 + b**4
    return first + (c**2 + (d + a) ** 2) ** 2 + (a - 4 + jnp.sin(d) ** 2 + b**2 * c**2) ** 2 + jnp.sin(d) ** 4


def schmvett(x: jax.Array) -> jax.Array:
    a, b, c = x[:-2], x[1:-1], x[2:]
    return -jnp.sum(1 / (1 + (a - b) ** 2) + jnp.sin((jnp.pi * b + c) / 2) + jnp.exp(-(((a + c) / b - 2) ** 2)))


def psc1(x: jax.Array) -> jax.Array:
    a, b = x[::2], x[1::2]
    return jnp.sum((a**2 + b**2 + a * b) ** 2 + jnp.sin(a) ** 2 + jnp.cos(b) ** 2)


def three_exponentials(x: jax.Array) -> jax.Array:
    a, b = x[::2], x[1::2]
    return jnp.sum(jnp.exp(a + 3 * b - 0.1) + jnp.exp(a - 3 * b - 0.1) + jnp.exp(-a - 0.1))


def bohachevsky(x: jax.Array) -> jax.Array:
    return x[0] ** 2 + 2 * x[1] ** 2 - 0.3 * jnp.cos(3 * jnp.pi * x[0]) - 0.4 * jnp.cos(4 * jnp.pi * x[1]) + 0.7


def sinquad(x: jax.Array) -> jax.Array:
    middle = jnp.sum((jnp.sin(x[1:-1] - x[-1]) - x[0] ** 2 + x[1:-1] ** 2) ** 2)
    return (x[0] - 1) ** 4 + middle + (x[-1] ** 2 - x[0] ** 2) ** 2


def edensch(x: jax.Array) -> jax.Array:
    a, b = x[:-1], x[1:]
    return 16 + jnp.sum((a - 2) ** 4 + (a * b - 2 * b) ** 2 + (b + 1) ** 2)


def genhumps(x: jax.Array) -> jax.Array:
    a, b = x[:-1], x[1:]
    return jnp.sum(jnp.sin(2 * a) ** 2 * jnp.sin(2 * b) ** 2 + 0.05 * (a**2 + b**2))


def genrose(x: jax.Array) -> jax.Array:
    return 1 + jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (x[1:] - 1) ** 2)


def hobbs(x: jax.Array) -> jax.Array:
    weeds = jnp.array([5.308, 7.24, 9.638, 12.866, 17.069, 23.192, 31.443, 38.558, 50.156, 62.948, 75.995, 91.972])
    return jnp.sum((100 * x[0] / (1 + 10 * x[1] * jnp.exp(-0.1 * x[2] * jnp.arange(1.0, 13.0))) - weeds) ** 2)


def hatfld(x: jax.Array) -> jax.Array:
    return (x[0] - 1) ** 2 + jnp.sum((x[:-1] - jnp.sqrt(x[1:])) ** 2)


def cvxbqp(x: jax.Array) -> jax.Array:
    n = x.shape[0]
    second, third = (np.mod(k * np.arange(1, n + 1) - 1, n) for k in (2, 3))
    return jnp.sum(index(x) / 2 * (x + x[second] + x[third]) ** 2)


def nonscomp(x: jax.Array) -> jax.Array:
    return (x[0] - 1) ** 2 + 4 * jnp.sum((x[1:] - x[:-1] ** 2) ** 2)


def mccormick(x: jax.Array) -> jax.Array:
    a, b = x[:-1], x[1:]
    return jnp.sum(-1.5 * a + 2.5 * b + 1 + (a - b) ** 2 + jnp.sin(a + b))


HILBERT = 1 / (np.arange(6)[:, None] + np.arange(6)[None] + 1)
ODD = np.where(np.arange(12) % 2 == 0, 1.0, -100.0)
SECOND = [
    Function("PSC1, extended", psc1, np.tile([3.0, 0.1], 5)),
    Function("Tridiagonal 1, extended", lambda x: jnp.sum((x[::2] + x[1::2] - 3) ** 2 + (x[::2] - x[1::2] + 1) ** 4), 2 * ONES(10)),
    Function("Three exponentials, extended", three_exponentials, 0.1 * ONES(10)),
    Function("Bdexp", lambda x: jnp.sum((x[:-2] + x[1:-1]) * jnp.exp(-x[2:] * (x[:-2] + x[1:-1]))), ONES(10)),
    Function("Sinquad", sinquad, 0.1 * ONES(10)),
    Function("Edensch", edensch, np.zeros(20)),
    Function("Genhumps", genhumps, [-506.0, 506.2, 506.2, 506.2, 506.2]),
    Function("Schmvett", schmvett, 0.5 * ONES(10)),
    Function("Hilbert A", lambda x: x @ jnp.asarray(HILBERT, x.dtype) @ x, -3 * ONES(6)),
    Function("Perquad", lambda x: jnp.sum(index(x) * x**2) + jnp.sum(x) ** 2 / 100, 0.5 * ONES(30)),
    Function("Bohachevsky 1", bohachevsky, [0.2, 0.1]),
    Function("Hiebert, extended", lambda x: jnp.sum((x[::2] - 10) ** 2 + (x[::2] * x[1::2] - 50000) ** 2), np.zeros(4)),
    Function("Cliff", lambda x: ((x[0] - 3) / 100) ** 2 - (x[0] - x[1]) + jnp.exp(20 * (x[0] - x[1])), [0.0, -1.0]),
    Function("Allinitu", allinitu, np.zeros(4)),
    Function("Dixon3dq", lambda x: (x[0] - 1) ** 2 + jnp.sum((x[1:-1] - x[2:]) ** 2) + (x[-1] - 1) ** 2, -ONES(20)),
    Function("Genrose", genrose, np.arange(1, 31) / 31),
    Function("Hobbs weeds", hobbs, ONES(3)),
    Function("Easom", lambda x: -jnp.cos(x[0]) * jnp.cos(x[1]) * jnp.exp(-jnp.sum((x - jnp.pi) ** 2)), [2.0, 2.0]),
    Function("Biggsb1", lambda x: (x[0] - 1) ** 2 + jnp.sum((x[1:] - x[:-1]) ** 2) + (1 - x[-1]) ** 2, np.zeros(25), (0.0, 0.9)),
    Function("Cvxbqp1", cvxbqp, 0.5 * ONES(15), (0.1, 10.0)),
    Function("Nonscomp", nonscomp, 3 * ONES(12), (ODD, 100.0)),
    Function("McCormick, extended", mccormick, np.zeros(15), (-1.5, 3.0)),
    Function("Explin", lambda x: jnp.sum(jnp.exp(0.1 * x[:4] * x[1:5])) - 10 * jnp.sum(index(x) * x), np.zeros(12), (0.0, 10.0)),
    Function("Hatflda", hatfld, 0.1 * ONES(4), (1e-7, None)),
    Function("Hatfldb", hatfld, 0.1 * ONES(4), (1e-7, [np.inf, 0.8, np.inf, np.inf])),
    Function("Hobbs weeds, x >= 0, x2 <= 3", hobbs, ONES(3), (0.0, [np.inf, np.inf, 3.0])),
]  # fmt: skip


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


CHANGES = {
    "as it is": (1.0, 0.0, 1.0),
    "times 1e6": (1e6, 0.0, 1.0),
    "times 1e-6": (1e-6, 0.0, 1.0),
    "plus 1e4": (1.0, 1e4, 1.0),
    "x in units of 1e3": (1.0, 0.0, 1e3),
    "x in units of 1e-3": (1.0, 0.0, 1e-3),
}
"""What f is multiplied by, what is added to it, and the unit of x."""
SCALED = ("Cube", "Sinquad", "Edensch", "Cliff", "Allinitu", "Genrose", "Nonscomp", "Explin", "Hatflda", "Hatfldb")
NEAR = {"float64": 1e-6, "float32": 1e-4}
STATIONARY = {"float64": 1e-5, "float32": 4e-4}


@dataclasses.dataclass(frozen=True)
class ScaledRun:
    """How one run of a function in other units ended, in the units of the function as it was written."""

    function: str
    change: str
    dtype: str
    value: float
    excess: float
    status: str
    evaluations: int


def prepared(name: str) -> Any:
    """The solver of that name with default options."""
    return jd.FromOptax(optax.adam(1e-2)) if name == "optax" else jd.SOLVERS[name]()


def sides(function: Function) -> tuple[np.ndarray, np.ndarray] | None:
    """Both bounds of every parameter; None without any."""
    if function.bounds is None:
        return None
    lower, upper = (limit if side is None else side for side, limit in zip(function.bounds, (-np.inf, np.inf), strict=True))
    shape = np.shape(function.start)
    return np.broadcast_to(np.asarray(lower, float), shape), np.broadcast_to(np.asarray(upper, float), shape)


def scaled_runs(function: Function, solver: Any, dtype: str, max_steps: int = 4000) -> list[ScaledRun]:
    """One function in all units, a lane each."""
    factor, offset, unit = (np.array(column, dtype) for column in zip(*CHANGES.values(), strict=True))
    start, limits = np.asarray(function.start, dtype), sides(function)
    bounds = None if limits is None else tuple((side / unit[:, None]).astype(dtype) for side in limits)
    fun = lambda x, factor, offset, unit: factor * function.fun(x * unit) + offset  # noqa: E731
    data = (factor, offset, unit)
    result = jd.minimize_batch(fun, start / unit[:, None], data, solver=solver, bounds=bounds, max_steps=max_steps)
    points = np.asarray(result.x, float) * unit[:, None].astype(float)
    for side in limits or ():
        # A bound in the units of x may round beyond itself.
        points = np.where(np.isclose(points, side, rtol=1e-6, atol=0), side, points)
    return [
        ScaledRun(
            function.name,
            change,
            dtype,
            float(function.fun(jnp.asarray(point))),
            excess(function, point, dtype),
            jd.Status(int(status)).name,
            int(evaluations),
        )
        for change, point, status, evaluations in zip(CHANGES, points, result.status, result.nfev, strict=True)
    ]


def excess(function: Function, point: np.ndarray, dtype: str) -> float:
    """The largest ratio of an entry of the projected gradient to what is allowed: a fraction of one plus f, and the rounding of x."""
    x = jnp.asarray(point, float)
    value, gradient = jax.value_and_grad(function.fun)(x)
    lower, upper = sides(function) or (-np.inf, np.inf)
    held = ((x <= lower) & (gradient >= 0)) | ((x >= upper) & (gradient <= 0))
    rounding = 10 * np.finfo(dtype).eps * jnp.abs(jax.hessian(function.fun)(x)) @ jnp.abs(x)
    return float(jnp.max(jnp.where(held, 0, jnp.abs(gradient)) / (STATIONARY[dtype] * (1 + jnp.abs(value)) + rounding)))


def report_scaled(names: list[str], verbose: bool) -> dict[str, Any]:
    """Run and print the functions of `SCALED` in all units; the counts of every solver."""
    functions = {function.name: function for function in (*FUNCTIONS, *SECOND)}
    lowest = {name: min(value for value, _ in by_scipy(functions[name]).values()) for name in SCALED}
    counts = {}
    for name in names:
        began = time.perf_counter()
        runs = [run for title in SCALED for dtype in NEAR for run in scaled_runs(functions[title], prepared(name), dtype)]
        # Behind 1e4 two units in the last place of f hide as much of it.
        hidden = lambda run: 2 * np.finfo(run.dtype).eps * CHANGES[run.change][1]  # noqa: E731
        near = [run.value <= lowest[run.function] + NEAR[run.dtype] * max(1, abs(lowest[run.function])) + hidden(run) for run in runs]
        claimed = [run.status.startswith("CONVERGED") for run in runs]
        rows = list(zip(runs, near, claimed, strict=True))
        false = [run for run, is_near, is_claimed in rows if is_claimed and not is_near and not run.excess <= 1]
        silent = [run for run, is_near, is_claimed in rows if is_near and not is_claimed]
        words = lambda run: f"{run.function} {run.change} {run.dtype} ({run.value:.6g} for {lowest[run.function]:.6g}, {run.status})"  # noqa: E731
        if verbose:
            for run, is_near, _ in rows:
                print(f"  {words(run):90s}{'' if is_near else 'not lowest':12s}{run.evaluations:6d} evaluations, excess {run.excess:.2g}")
        evaluations = int(np.sum([run.evaluations for run in runs]))
        print(
            f"{name:24s} {len(runs)} runs: lowest {sum(near)}, claimed {sum(claimed)}, false {len(false)}; lowest but not claimed "
            f"{len(silent)}; {evaluations} evaluations; {time.perf_counter() - began:.0f} s\n"
            f"    false: {'; '.join(map(words, false)) or 'none'}",
            flush=True,
        )
        counts[name] = {
            "runs": len(runs),
            "lowest": int(sum(near)),
            "claimed": int(sum(claimed)),
            "false": [words(run) for run in false],
            "lowest but not claimed": [words(run) for run in silent],
            "evaluations": evaluations,
        }
    return counts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--solver", nargs="*", default=["bfgs"])
    parser.add_argument("--second", action="store_true", help="the second set, written down when the solvers stood")
    parser.add_argument("--scaled", action="store_true", help="ten functions in other units, in both precisions")
    parser.add_argument("--json", type=pathlib.Path, help="where the counts are written to")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    if options.scaled:
        counts = report_scaled(options.solver, options.verbose)
        if options.json:
            options.json.write_text(json.dumps({"jax": jax.__version__, "scaled": counts}, indent=1) + "\n")
        return
    began = time.perf_counter()
    rows: dict[str, list[tuple[str, float, bool, str]]] = {}
    best = {}
    functions = SECOND if options.second else FUNCTIONS
    for function in functions:
        answers = [(name, value, ok, "") for name, (value, ok) in by_scipy(function).items()]
        best[function.name] = min(value for _, value, _, _ in answers)
        for name in options.solver:
            result = jd.minimize(function.fun, jnp.asarray(function.start, float), bounds=function.bounds, solver=prepared(name))
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
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, float64, default options, {len(functions)} functions")
    for name in names:
        tail = f", false {false[name]}, missed where SciPy's best did not {missed[name]}" if name.startswith("jaxdiff") else ""
        print(f"{name:32s} lowest {solved[name]:3d}, claimed {claimed[name]:3d}{tail}; not lowest: {'; '.join(lists[name]) or 'none'}")
    print(f"{time.perf_counter() - began:.0f} s with compilation")


if __name__ == "__main__":
    main()
