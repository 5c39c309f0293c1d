"""Least squares between bounds: published problems, each solver of least squares beside SciPy's two methods that take bounds.

Problems: Moré, Garbow and Hillstrom's with Gay's bounds (without Gulf and Box, see `jaxdiff.functions.mgh`), the bounded ones of
`heldout_problems.py`, and Hock and Schittkowski's 38. A problem is solved by whoever ends within 1e-6, relative, or 1e-12, absolute, of
the lowest sum of squares that anyone found. A success is false where that is missed and the point is not stationary between its bounds
either, as in `heldout_least_squares.py`. All with default options; SciPy with exact Jacobians.

Usage: python benchmarks/bounded_fits.py [--solvers dogleg ...] [--dtype float32] [--verbose]
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from heldout_least_squares import by_scipy, slope
from heldout_problems import PROBLEMS, HeldOut

import jaxdiff as jd
from jaxdiff.functions.mgh import load_mgh

SOLVERS = ("levenberg_marquardt", "dogleg", "gauss_newton", "levenberg_marquardt_cholesky")


def of_mgh() -> list[HeldOut]:
    named = [problem for problem in load_mgh().values() if problem.bounds is not None and problem.bounds.is_confirmed]
    return [
        HeldOut(p.name, "Gay (1984)", p.residual, tuple(np.clip(p.start, p.bounds.lower, p.bounds.upper)), p.bounds.lower, p.bounds.upper)
        for p in named
        if p.bounds is not None
    ]


def wood(x: jax.Array) -> jax.Array:
    a, b, c, d = x
    root = np.sqrt(10)
    return jnp.stack([10 * (b - a**2), 1 - a, 3 * root * (d - c**2), 1 - c, root * (b + d - 2), (b - d) / root])


HS38 = HeldOut("HS38", "Hock and Schittkowski (1981)", wood, (-3, -1, -3, -1), (-10,) * 4, (10,) * 4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--solvers", nargs="*", default=SOLVERS, choices=SOLVERS)
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    problems = [*of_mgh(), *(p for p in PROBLEMS if p.lower is not None), HS38]
    relative, absolute = (1e-6, 1e-12) if options.dtype == "float64" else (1e-3, 1e-6)
    print(f"jax {jax.__version__}, {options.dtype}, default options, {len(problems)} problems")
    solved: dict[str, int] = dict.fromkeys((*options.solvers, "trf", "dogbox"), 0)
    claimed, false, behind, steps = [], [], [], []
    for problem in problems:
        jitted, jitted_jacobian = jax.jit(problem.residual), jax.jit(jax.jacfwd(problem.residual))
        residual, jacobian = (lambda f: lambda x: np.asarray(f(x)))(jitted), (lambda f: lambda x: np.asarray(f(x)))(jitted_jacobian)
        lower, upper = np.array(problem.lower, options.dtype), np.array(problem.upper, options.dtype)
        ends: dict[str, float] = by_scipy(problem, residual, jacobian)
        results: dict[str, Any] = {}
        for name in options.solvers:
            start = np.clip(np.array(problem.start, options.dtype), lower, upper)
            result = results[name] = jd.least_squares(problem.residual, start, solver=jd.SOLVERS[name](), bounds=(lower, upper))
            assert bool(((result.x >= lower) & (result.x <= upper)).all()), "a bound was not kept"
            ends[name] = 2 * float(result.fun)
        limit = min(ends.values()) * (1 + relative) + absolute
        for name, end in ends.items():
            solved[name] += end <= limit
        for name, result in results.items():
            cosine = slope(problem, result, jacobian)
            is_false = bool(result.success) and ends[name] > limit and cosine > (1e-6 if options.dtype == "float64" else 1e-3)
            claimed += [name] * bool(result.success)
            false += [f"{problem.name} by {name} ({cosine:.1e})"] * is_false
            behind += [f"{problem.name} by {name}"] * (ends[name] > limit)
            steps.append(int(result.nit))
            if options.verbose or ends[name] > limit or is_false or not bool(result.success):
                print(
                    f"  {problem.name:36s}{name:30s}{result.status_name:20s}{int(result.nit):5d} steps, {ends[name]:.9g}, "
                    f"lowest {min(ends.values()):.9g}, cosine {cosine:.1e}",
                    flush=True,
                )
    print(f"solved: {solved}\nclaimed: {[(name, claimed.count(name)) for name in options.solvers]}\nfalse: {false or 0}\nbehind: {behind}")


if __name__ == "__main__":
    main()
