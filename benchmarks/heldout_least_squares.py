"""Least squares on published problems that no default was chosen by, against the best of SciPy's methods, all with default options.

SciPy runs lm, trf, dogbox and leastsq from the same start with exact Jacobians; with bounds trf and dogbox. A problem is solved by whoever
ends within 1e-6, relative, or 1e-12, absolute, of the lowest sum of squares that anyone found. A success of ours is false where the
point is not stationary: where the cosine of the residuals with a column of J that no bound holds exceeds 1e-6, though the residuals
are not zero to rounding (sum of squares above 1e-20).

Without a named solver, as a person would call it: the default route.

Usage: python benchmarks/heldout_least_squares.py [--solver NAME] [--verbose]
"""

import argparse
import json
import pathlib
import warnings
from typing import Any

import jax
import numpy as np
import scipy.optimize
from heldout_problems import PROBLEMS, HeldOut

import jaxdiff as jd

RESULTS = pathlib.Path(__file__).parent / "results" / "heldout_least_squares.json"


def by_scipy(problem: HeldOut, residual: Any, jacobian: Any) -> dict[str, float]:
    """Sum of squares at the end of each method; infinite where it raises."""
    is_bounded = problem.lower is not None
    ends = {}
    start = np.array(problem.start, float)
    for method in ("trf", "dogbox") if is_bounded else ("lm", "trf", "dogbox", "leastsq"):
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                if method == "leastsq":
                    x = scipy.optimize.leastsq(residual, start, Dfun=jacobian)[0]
                else:
                    bounds = (problem.lower, problem.upper) if is_bounded else (-np.inf, np.inf)
                    x = scipy.optimize.least_squares(residual, start, jac=jacobian, method=method, bounds=bounds).x
            squares = float(np.sum(residual(x) ** 2))
            ends[method] = squares if np.isfinite(squares) else np.inf
        except (ValueError, TypeError):
            ends[method] = np.inf
    return ends


def slope(problem: HeldOut, result: Any, jacobian: Any) -> float:
    """The largest cosine of the residuals with a column of J that no bound holds."""
    r, matrix = np.asarray(result.residuals), jacobian(np.asarray(result.x))
    gradient = matrix.T @ r
    flags = np.asarray(result.at_bound)
    is_held = ((flags == -1) & (gradient >= 0)) | ((flags == 1) & (gradient <= 0)) | (flags == 2)
    lengths = np.linalg.norm(matrix, axis=0) * np.linalg.norm(r)
    return float(np.max(np.where(is_held, 0, np.abs(gradient) / np.where(lengths > 0, lengths, 1))))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--solver", default="default", help="a solver's name, or default: least_squares without one")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(f"jax {jax.__version__}, scipy {scipy.__version__}, {options.solver}, default options, {len(PROBLEMS)} problems")
    rows = []
    for problem in PROBLEMS:
        jitted, jitted_jacobian = jax.jit(problem.residual), jax.jit(jax.jacfwd(problem.residual))
        residual, jacobian = (lambda f: lambda x: np.asarray(f(x)))(jitted), (lambda f: lambda x: np.asarray(f(x)))(jitted_jacobian)
        ends = by_scipy(problem, residual, jacobian)
        is_bounded = problem.lower is not None
        bounds = (np.array(problem.lower, float), np.array(problem.upper, float)) if is_bounded else None
        solver = None if options.solver == "default" else jd.SOLVERS[options.solver]()
        result = jd.least_squares(problem.residual, np.array(problem.start, float), solver=solver, bounds=bounds)
        squares = 2 * float(result.fun)
        lowest = min([squares if np.isfinite(squares) else np.inf, *ends.values()])
        limit = lowest * (1 + 1e-6) + 1e-12
        cosine = slope(problem, result, jacobian)
        row = {
            "name": problem.name,
            "source": problem.source,
            "is_bounded": is_bounded,
            "squares": squares,
            "status": result.status_name,
            "steps": int(result.nit),
            "is_solved": squares <= limit,
            "is_false": bool(result.success) and cosine > 1e-6 and squares > 1e-20,
            "cosine": cosine,
            "scipy": ends,
            "scipy_solved": [method for method, end in ends.items() if end <= limit],
        }
        rows.append(row)
        is_behind = bool(row["scipy_solved"]) and not row["is_solved"]
        if options.verbose or is_behind or row["is_false"] or not row["is_solved"] or not bool(result.success):
            mark = "BEHIND SCIPY" if is_behind else "" if row["is_solved"] else "not solved"
            print(
                f"  {problem.name:36s}{row['status']:20s}{row['steps']:5d} steps, sum of squares {squares:.8g}, "
                f"lowest {lowest:.8g} by {row['scipy_solved'] or 'us'}, cosine {cosine:.1e} {mark}",
                flush=True,
            )
    ours, theirs = sum(row["is_solved"] for row in rows), sum(bool(row["scipy_solved"]) for row in rows)
    print(f"solved: {ours} of {len(rows)}; by the best of SciPy's methods: {theirs}; by each of them:")
    for method in ("lm", "trf", "dogbox", "leastsq"):
        print(f"  {method:8s}{sum(method in row['scipy_solved'] for row in rows)} of {sum(method in row['scipy'] for row in rows)}")
    behind = [row["name"] for row in rows if row["scipy_solved"] and not row["is_solved"]]
    print(f"solved by SciPy and not by us: {behind or 'none'}; false successes: {[row['name'] for row in rows if row['is_false']] or 0}")
    if options.solver == "default":
        RESULTS.write_text(json.dumps({"jax": jax.__version__, "scipy": scipy.__version__, "rows": rows}, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
