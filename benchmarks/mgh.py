"""The 42 instances of Moré, Garbow and Hillstrom from 1, 10 and 100 times the standard start, by least squares with default options.

Solved: the sum of squares is within 1e-6 of the global minimum, relative, or 1e-10, absolute; by the same rule SciPy's MINPACK solves
40, 29 and 28. Runs that say they converged elsewhere are listed: each must be a stationary point, or it is a false success.

Usage: python benchmarks/mgh.py [--solver NAME] [--dtype float32] [--verbose]
"""

import argparse
import dataclasses
import time

import jax
import numpy as np

import jaxdiff as jd
from jaxdiff.functions.mgh import MghProblem, load_mgh

SCALES = (1, 10, 100)


def solve(problem: MghProblem, solver: object | None, dtype: str) -> jd.FitResult:
    starts = np.stack([problem.start * scale for scale in SCALES]).astype(dtype)
    if solver is None:
        # One problem at a time, as a person would: the default route.
        each = [dataclasses.replace(jd.least_squares(problem.residual, start), rescued=None) for start in starts]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    return jd.least_squares_batch(problem.residual, starts, solver=solver, in_axes=(0,))


def is_solved(problem: MghProblem, squares: float, dtype: str) -> bool:
    if dtype == "float32":
        return squares <= problem.f_min * (1 + 1e-3) + 1e-5
    return squares <= problem.f_min * (1 + 1e-6) + 1e-10


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--solver", default="levenberg_marquardt", help="a solver's name, or default: least_squares without one")
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {options.solver}, {options.dtype}, default options")
    began = time.perf_counter()
    solved = dict.fromkeys(SCALES, 0)
    elsewhere, steps = [], []
    for name, problem in load_mgh().items():
        result = solve(problem, None if options.solver == "default" else jd.SOLVERS[options.solver](), options.dtype)
        for lane, scale in enumerate(SCALES):
            squares = 2 * float(result.fun[lane])
            has_solved = is_solved(problem, squares, options.dtype)
            solved[scale] += has_solved
            steps.append(int(result.nit[lane]))
            status = jd.Status(int(result.status[lane])).name
            if options.verbose or not has_solved or not bool(result.success[lane]):
                print(
                    f"  {name:45s} x {scale:<4d}{status:20s}{steps[-1]:5d} steps, sum of squares {squares:.6g}, minimum {problem.f_min:.6g}"
                    f"{'' if has_solved else '  NOT SOLVED'}"
                )
            if bool(result.success[lane]) and not has_solved:
                elsewhere.append(f"{name} x {scale} ({squares:.6g})")
    print(f"solved {', '.join(f'{count} of 42 from {scale} x' for scale, count in solved.items())}; mean {np.mean(steps):.0f} steps")
    print(f"converged to another stationary point: {len(elsewhere)}: {'; '.join(elsewhere)}")
    print(f"{time.perf_counter() - began:.0f} s with compilation")


if __name__ == "__main__":
    main()
