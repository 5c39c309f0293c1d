"""A third held-out set: published minimizations and least squares that no other set here has, with default options, beside SciPy's best.

Written from their formulas in the CUTEst collection (Gould, Orban and Toint, 2015), Schittkowski, More Test Examples for Nonlinear
Programming Codes (1987, S-numbers), Hock and Schittkowski (1981, HS-numbers), Jamil and Yang, A literature survey of benchmark functions
(2013), Luksan and Vlcek, Sparse and partially separable test problems (1999), and Ratkowsky, Nonlinear Regression Modeling (1983). Each has
its published minimum, by which the formula is checked: somebody has to reach it, or be named. Starts are the published ones where
there are any; what is our own is said. Solved, claimed and false are those of `heldout_minimizers` and `heldout_least_squares`.

Usage: python benchmarks/heldout_third.py [--only minimize | fits] [--solver NAME ...] [--json PATH] [--verbose]
"""

import argparse
import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from heldout_least_squares import by_scipy as fitted_by_scipy
from heldout_least_squares import slope
from heldout_minimizers import Function, by_scipy, prepared, stationarity
from heldout_problems import HeldOut, fit

import jaxdiff as jd

RESULTS = pathlib.Path(__file__).parent / "results" / "heldout_third.json"
ONES = np.ones


@dataclasses.dataclass(frozen=True)
class Published:
    """A function or a fit, the lowest value (of a fit the sum of squares) that is published of it, None without one, and its source."""

    problem: Any
    minimum: float | None
    source: str


def index(x: jax.Array) -> jax.Array:
    return jnp.arange(1, x.shape[0] + 1, dtype=x.dtype)


def hairy(x: jax.Array) -> jax.Array:
    hair = 30 * jnp.sin(7 * x[0]) ** 2 * jnp.cos(7 * x[1]) ** 2
    return hair + 100 * jnp.sqrt(0.01 + (x[0] - x[1]) ** 2) + 100 * jnp.sqrt(0.01 + x[0] ** 2)


def zangwill_2(x: jax.Array) -> jax.Array:
    a, b = x
    return (-56 * a - 256 * b + 991 + 16 * a**2 + 16 * b**2 - 8 * a * b) / 15


def bracken(x: jax.Array) -> jax.Array:
    a, b = x
    return (a - 2) ** 2 + (b - 1) ** 2 + 0.04 / (1 - a**2 / 4 - b**2) + 5 * (a - 2 * b + 1) ** 2


def mexican_hat(x: jax.Array) -> jax.Array:
    brim = (x[0] - 1) ** 2
    return -2 * brim + 1e4 * (-0.02 + 1e-4 * (x[1] - x[0] ** 2) ** 2 + brim) ** 2


def toint_gauss(x: jax.Array) -> jax.Array:
    a, b, c = x[:-2], x[1:-1], x[2:]
    return jnp.sum((10 / (x.shape[0] + 2) + c**2) * (2 - jnp.exp(-((a - b) ** 2) / (0.1 + c**2))))


def bdqrtic(x: jax.Array) -> jax.Array:
    quartic = x[:-4] ** 2 + 2 * x[1:-3] ** 2 + 3 * x[2:-2] ** 2 + 4 * x[3:-1] ** 2 + 5 * x[-1] ** 2
    return jnp.sum((3 - 4 * x[:-4]) ** 2 + quartic**2)


def nondquar(x: jax.Array) -> jax.Array:
    return (x[0] - x[1]) ** 2 + (x[-2] + x[-1]) ** 2 + jnp.sum((x[:-2] + x[1:-1] + x[-1]) ** 4)


def broyden_7(x: jax.Array) -> jax.Array:
    n = x.shape[0]
    wide = jnp.pad(x, 1)
    rows = jnp.abs((3 - 2 * x) * x - wide[:-2] - wide[2:] + 1)
    return jnp.sum(rows ** (7 / 3)) + jnp.sum(jnp.abs(x[: n // 2] + x[n // 2 :]) ** (7 / 3))


def branin(x: jax.Array) -> jax.Array:
    a, b = x
    return (b - 5.1 * a**2 / (4 * jnp.pi**2) + 5 * a / jnp.pi - 6) ** 2 + 10 * (1 - 1 / (8 * jnp.pi)) * jnp.cos(a) + 10


def deckkers_aarts(x: jax.Array) -> jax.Array:
    square = x[0] ** 2 + x[1] ** 2
    return 1e5 * x[0] ** 2 + x[1] ** 2 - square**2 + 1e-5 * square**4


def six_humps(x: jax.Array) -> jax.Array:
    a, b = x
    return (4 - 2.1 * a**2 + a**4 / 3) * a**2 + a * b + (4 * b**2 - 4) * b**2


def s309(x: jax.Array) -> jax.Array:
    a = x[0]
    return 1.41 * a**4 - 12.76 * a**3 + 39.91 * a**2 - 51.93 * a + 24.37 + (x[1] - 3.9) ** 2


def hosaki(x: jax.Array) -> jax.Array:
    a, b = x
    return (1 - 8 * a + 7 * a**2 - 7 / 3 * a**3 + a**4 / 4) * b**2 * jnp.exp(-b)


def hs110(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.log(x - 2) ** 2 + jnp.log(10 - x) ** 2) - jnp.prod(x) ** 0.2


def himmelblau_b(x: jax.Array) -> jax.Array:
    a, b = x
    return (a * b * (1 - a) * (1 - b - a * (1 - a) ** 5)) ** 2


def pspdoc(x: jax.Array) -> jax.Array:
    a, b, c, d = x
    return jnp.sqrt(1 + a**2 + (b - c) ** 2) + jnp.sqrt(1 + b**2 + (c - d) ** 2)


CUTEST, SURVEY = "CUTEst", "Jamil and Yang (2013); start our own"
MINIMA = [
    Published(Function("BRKMCC", bracken, [2.0, 2.0]), 0.1690427, CUTEST),
    Published(Function("HAIRY", hairy, [-5.0, -7.0]), 20.0, CUTEST),
    Published(Function("LOGHAIRY", lambda x: jnp.log((100 + hairy(x)) / 100), [-500.0, -700.0]), 0.1823216, CUTEST),
    Published(Function("SISSER", lambda x: 3 * x[0] ** 4 - 2 * x[0] ** 2 * x[1] ** 2 + 3 * x[1] ** 4, [1.0, 0.1]), 0.0, CUTEST),
    Published(Function("ZANGWIL2", zangwill_2, [3.0, 8.0]), -18.2, CUTEST),
    Published(Function("HIMMELBB", himmelblau_b, [-1.2, 1.0]), 0.0, CUTEST),
    Published(Function("HIMMELBG", lambda x: jnp.exp(-x[0] - x[1]) * (2 * x[0] ** 2 + 3 * x[1] ** 2), [0.5, 0.5]), 0.0, CUTEST),
    Published(Function("HIMMELBH", lambda x: -3 * x[0] - 2 * x[1] + 2 + x[0] ** 3 + x[1] ** 2, [0.0, 2.0]), -1.0, CUTEST),
    Published(Function("MEXHAT", mexican_hat, [0.86, 0.72]), -0.0401, CUTEST),
    Published(Function("MARATOSB", lambda x: x[0] + 1e6 * (x[0] ** 2 + x[1] ** 2 - 1) ** 2, [1.1, 0.1]), -1.00000006, CUTEST),
    Published(Function("TOINTGSS, n = 10", toint_gauss, 3 * ONES(10)), 10 * 8 / 12, f"{CUTEST}; at zero"),
    Published(Function("COSINE, n = 10", lambda x: jnp.sum(jnp.cos(x[:-1] ** 2 - 0.5 * x[1:])), ONES(10)), -9.0, CUTEST),
    Published(Function("POWER, n = 20", lambda x: jnp.sum(index(x) * x**2) ** 2, ONES(20)), 0.0, CUTEST),
    Published(Function("DENSCHNA", lambda x: x[0] ** 4 + (x[0] + x[1]) ** 2 + (jnp.exp(x[1]) - 1) ** 2, [1.0, 1.0]), 0.0, CUTEST),
    Published(Function("BDQRTIC, n = 100", bdqrtic, ONES(100)), 378.769, CUTEST),
    Published(Function("NONDQUAR, n = 20", nondquar, np.tile([1.0, -1.0], 10)), 0.0, CUTEST),
    Published(Function("BROYDN7D, n = 10", broyden_7, -ONES(10)), None, "Luksan and Vlcek, 7; another minimum than published"),
    Published(Function("LOGROS", lambda x: jnp.log(1 + 1e4 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2), [-1.2, 1.0]), 0.0, CUTEST),
    Published(Function("S309", s309, [0.0, 0.0]), -3.987172, "Schittkowski"),
    Published(Function("Trid, n = 10", lambda x: jnp.sum((x - 1) ** 2) - jnp.sum(x[1:] * x[:-1]), np.zeros(10)), -210.0, SURVEY),
    Published(Function("Styblinski-Tang", lambda x: jnp.sum(x**4 - 16 * x**2 + 5 * x) / 2, -ONES(5)), -39.16616570 * 5, SURVEY),
    Published(Function("Branin's function", branin, [2.5, 7.5]), 0.3978874, SURVEY),
    Published(Function("Brent", lambda x: jnp.sum((x + 10) ** 2) + jnp.exp(-jnp.sum(x**2)), [0.0, 0.0]), 0.0, SURVEY),
    Published(Function("Chung-Reynolds", lambda x: jnp.sum(x**2) ** 2, 5 * ONES(5)), 0.0, SURVEY),
    Published(Function("Deckkers-Aarts", deckkers_aarts, [1.0, 10.0]), -24776.51834, SURVEY),
    Published(Function("HS3", lambda x: x[1] + 1e-5 * (x[1] - x[0]) ** 2, [10.0, 1.0], ([-np.inf, 0.0], None)), 0.0, "HS"),
    Published(Function("HS4", lambda x: (x[0] + 1) ** 3 / 3 + x[1], [1.125, 0.125], ([1.0, 0.0], None)), 8 / 3, "HS"),
    Published(Function("HS45", lambda x: 2 - jnp.prod(x) / 120, [1.0, 2.0, 2.0, 2.0, 2.0], (0.0, np.arange(1.0, 6.0))), 1.0, "HS; start"),
    Published(Function("HS110", hs110, 9 * ONES(10), (2.001, 9.999)), -45.77846971, "HS"),
    Published(Function("Hosaki", hosaki, [3.0, 4.0], (0.0, [5.0, 6.0])), -2.3458, SURVEY),
    Published(Function("CAMEL6", six_humps, [1.1, 1.1], ([-3.0, -1.5], [3.0, 1.5])), -1.031628, CUTEST),
    Published(
        Function("MDHOLE", lambda x: 100 * (jnp.sin(x[0]) - x[1]) ** 2 + x[0], [10.0, 1.0], ([0.0, -np.inf], None)), 0.0, CUTEST
    ),
    Published(Function("PSPDOC", pspdoc, [-3.0, 3.0, 3.0, 3.0], (None, [-1.0, *3 * [np.inf]])), 1 + 2**0.5, f"{CUTEST}; start"),
]  # fmt: skip


def s282(x: jax.Array) -> jax.Array:
    return jnp.concatenate([jnp.stack([x[0] - 1, x[-1] - 1]), jnp.sqrt(10 * (10 - index(x)[:-1])) * (x[:-1] ** 2 - x[1:])])


def s303(x: jax.Array) -> jax.Array:
    along = jnp.sum(index(x) * x) / 2
    return jnp.concatenate([x, jnp.stack([along, along**2])])


CLEARANCE = np.array([[4, 5.75, 7.5, 24, 32, 48, 72, 96], [72.1, 65.6, 55.9, 17.1, 9.8, 4.5, 1.3, 0.6]])


def s333(x: jax.Array) -> jax.Array:
    t, y = CLEARANCE
    return (y - x[0] * jnp.exp(-x[1] * t) - x[2]) / y


def s352(x: jax.Array) -> jax.Array:
    t = np.arange(1, 21) / 5
    return jnp.concatenate([x[0] + x[1] * t - np.exp(t), x[2] + x[3] * np.sin(t) - np.cos(t)])


def trigexp(x: jax.Array) -> jax.Array:
    a, b = x[:-1], x[1:]
    forth = jnp.pad(3 * a**3 + 2 * b - 5 + jnp.sin(a - b) * jnp.sin(a + b), (0, 1))
    return forth + jnp.pad(4 * b - a * jnp.exp(a - b) - 3, (1, 0))


def singular_broyden(x: jax.Array) -> jax.Array:
    wide = jnp.pad(x, 1)
    return ((3 - 2 * x) * x - wide[:-2] - 2 * wide[2:] + 1) ** 2


def tridiagonal_li(x: jax.Array) -> jax.Array:
    a, b = x[:-1], x[1:]
    return jnp.pad(8 * b * (b**2 - a) - 2 * (1 - b), (1, 0)) + jnp.pad(4 * (a - b**2), (0, 1))


pasture = fit(
    lambda t, a, b, c, d: a - b * jnp.exp(-jnp.exp(-c) * t**d),
    [9, 14, 21, 28, 42, 57, 63, 70, 79],
    [8.93, 10.8, 18.59, 22.33, 39.35, 56.11, 61.73, 64.62, 67.08],
)
hatfldf = fit(lambda t, a, b, c: a + b * jnp.exp(c * t), [1, 2, 3], [0.032, 0.056, 0.099])
SCHITTKOWSKI, LUKSAN = "Schittkowski (1987)", "Luksan and Vlcek (1999)"
PASTURE_START, NEAR_PASTURE = (70.0, 60.0, 9.0, 2.0), (70.0, 50.0, 9.0, 2.0)
PASTURE_SQUARES = float(np.sum(np.asarray(pasture(jnp.array([69.955, 61.681, 9.209, 2.378]))) ** 2))
"""At the parameters that Ratkowsky prints, which are rounded."""


FITS = [
    Published(HeldOut("S282", SCHITTKOWSKI, s282, (-1.2, *9 * [0.0])), 0.0, SCHITTKOWSKI),
    Published(HeldOut("S291, one residual", SCHITTKOWSKI, lambda x: jnp.sum(index(x) * x**2)[None], 10 * (1.0,)), 0.0, SCHITTKOWSKI),
    Published(HeldOut("S303, n = 20", SCHITTKOWSKI, s303, 20 * (0.1,)), 0.0, SCHITTKOWSKI),
    Published(HeldOut("S333", SCHITTKOWSKI, s333, (30.0, 0.04, 3.0)), 0.0432, SCHITTKOWSKI),
    Published(HeldOut("S352", SCHITTKOWSKI, s352, (25.0, 5.0, -5.0, -1.0)), 903.234, SCHITTKOWSKI),
    Published(HeldOut("Trigexp 1, n = 10", LUKSAN, trigexp, 10 * (0.0,)), 0.0, LUKSAN),
    Published(HeldOut("Singular Broyden, n = 10", LUKSAN, singular_broyden, 10 * (-1.0,)), 0.0, LUKSAN),
    Published(HeldOut("Tridiagonal system, n = 10", LUKSAN, tridiagonal_li, 10 * (12.0,)), 0.0, LUKSAN),
    Published(HeldOut("HATFLDF", CUTEST, hatfldf, 3 * (0.1,)), 0.0, CUTEST),
    Published(HeldOut("Pasture, Weibull", "Ratkowsky", pasture, PASTURE_START), PASTURE_SQUARES, "Ratkowsky"),
    Published(HeldOut("Trigexp 1, x <= 0.9", LUKSAN, trigexp, 10 * (0.0,), 10 * (-2.0,), 10 * (0.9,)), None, "bounds our own"),
    Published(HeldOut("Pasture, bounded", "Ratkowsky", pasture, NEAR_PASTURE, 4 * (0.0,), (72.0, 58.0, 99.0, 99.0)), None, "bounds"),
]  # fmt: skip


def is_lowest(value: float, lowest: float) -> bool:
    return value <= lowest + 1e-6 * max(1, abs(lowest))


def minimized(known: Published, solvers: list[str]) -> dict[str, Any]:
    """How the solvers and SciPy's methods end on one function."""
    function: Function = known.problem
    theirs = by_scipy(function)
    ends: dict[str, dict[str, Any]] = {}
    for name in solvers:
        result = jd.minimize(function.fun, jnp.asarray(function.start, float), bounds=function.bounds, solver=prepared(name))
        is_false = bool(result.success) and stationarity(function, np.asarray(result.x)) > 1e-5
        ends[name] = {
            "value": float(result.fun),
            "status": result.status_name,
            "claimed": bool(result.success),
            "false": is_false,
            "evaluations": int(result.nfev),
        }
    lowest = min([end["value"] for end in ends.values() if np.isfinite(end["value"])] + [value for value, _ in theirs.values()])
    for end in ends.values():
        end["lowest"] = is_lowest(end["value"], lowest)
    scipy_ends = {name: {"value": value, "claimed": ok, "lowest": is_lowest(value, lowest)} for name, (value, ok) in theirs.items()}
    return {"name": function.name, "published": known.minimum, "found": lowest, "ends": ends, "scipy": scipy_ends}


def fitted(known: Published) -> dict[str, Any]:
    """How the default route and SciPy's methods end on one fit."""
    problem: HeldOut = known.problem
    jitted, jitted_jacobian = jax.jit(problem.residual), jax.jit(jax.jacfwd(problem.residual))
    residual, jacobian = (lambda f: lambda x: np.asarray(f(x)))(jitted), (lambda f: lambda x: np.asarray(f(x)))(jitted_jacobian)
    theirs = fitted_by_scipy(problem, residual, jacobian)
    bounds = None if problem.lower is None else (np.array(problem.lower, float), np.array(problem.upper, float))
    result = jd.least_squares(problem.residual, np.array(problem.start, float), bounds=bounds)
    squares = 2 * float(result.fun)
    limit = min([squares, *theirs.values()]) * (1 + 1e-6) + 1e-12
    end = {
        "value": squares,
        "status": result.status_name,
        "claimed": bool(result.success),
        "false": bool(result.success) and slope(problem, result, jacobian) > 1e-6 and squares > 1e-20,
        "evaluations": int(result.nfev),
        "lowest": squares <= limit,
    }
    scipy_ends = {
        name: {"value": value if np.isfinite(value) else None, "claimed": bool(np.isfinite(value)), "lowest": value <= limit}
        for name, value in theirs.items()
    }
    return {"name": problem.name, "published": known.minimum, "found": limit, "ends": {"default": end}, "scipy": scipy_ends}


def tell(title: str, rows: list[dict[str, Any]], verbose: bool) -> None:
    """Print counts, and what is not as it should be."""
    by_peers = [any(end["lowest"] for end in row["scipy"].values()) for row in rows]
    print(f"{title}: {len(rows)} problems; lowest by SciPy's best {sum(by_peers)}")
    for side in ("ends", "scipy"):
        for name in dict.fromkeys(name for row in rows for name in row[side]):
            runs = [(row, row[side][name], peers) for row, peers in zip(rows, by_peers, strict=True) if name in row[side]]
            counts = [sum(bool(end.get(key)) for _, end, _ in runs) for key in ("lowest", "claimed", "false")]
            missed = [f"{row['name']} ({end['value'] or 0:.6g})" for row, end, peers in runs if peers and not end["lowest"]]
            print(
                f"  {name:22s} of {len(runs)}: lowest {counts[0]}, claimed {counts[1]}, false {counts[2]}; others lower: {missed or 'none'}"
            )
            if side == "ends":
                silent = [f"{row['name']} ({end['status']})" for row, end, _ in runs if end["lowest"] and not end["claimed"]]
                print(f"    lowest but not claimed: {silent or 'none'}")
    known = [row for row in rows if row["published"] is not None]
    unlike = [row for row in known if abs(row["found"] - row["published"]) > 1e-4 * max(1, abs(row["published"]))]
    print(f"  elsewhere than published: {[(row['name'], row['found'], row['published']) for row in unlike] or 'none'}", flush=True)
    if verbose:
        for row in rows:
            print(row)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("minimize", "fits"))
    parser.add_argument("--solver", nargs="*", default=["bfgs", "lbfgs", "newton", "trust_region_newton"])
    parser.add_argument("--json", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    answers: dict[str, Any] = {"jax": jax.__version__, "scipy": scipy.__version__}
    print(f"jax {jax.__version__}, scipy {scipy.__version__}, {jax.devices()[0].platform}, float64, default options")
    if options.only != "fits":
        answers["minimize"] = [minimized(known, options.solver) for known in MINIMA]
        tell("minimizations", answers["minimize"], options.verbose)
    if options.only != "minimize":
        answers["fits"] = [fitted(known) for known in FITS]
        tell("least squares", answers["fits"], options.verbose)
    if options.only is None:
        options.json.write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main()
