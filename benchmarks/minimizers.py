"""The 42 instances of Moré, Garbow and Hillstrom as plain minimization of the sum of squares, from 1, 10 and 100 times the standard start.

Solved: the sum of squares is within 1e-6 of the global minimum, relative, or 1e-10, absolute; by the same rule SciPy's least-squares solver
MINPACK solves 40, 29 and 28. Elsewhere: it says that it converged, at another point; the gradient there must be as small as the tolerance
and rounding allow, or it is a false success. That is looked at in float64, entry by entry:

    |g_k| <= gtol + 20 eps sum_i |J_ik r_i| + max(10 eps, xtol) (|H| |x|)_k

the second term being the rounding of the gradient's own sum, the third what a change of x by its rounding, or by xtol, does to it.

Usage: python benchmarks/minimizers.py [--solver bfgs] [--dtype float32] [--max-steps 5000] [--only NAME] [--verbose]
           [--json PATH]
"""

import argparse
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.functions.mgh import MghProblem, load_mgh

SCALES = (1, 10, 100)


def squares(problem: MghProblem):
    return lambda x: jnp.sum(problem.residual(x) ** 2)


def is_solved(problem: MghProblem, value: float, dtype: str) -> bool:
    if dtype == "float32":
        return value <= problem.f_min * (1 + 1e-3) + 1e-5
    return value <= problem.f_min * (1 + 1e-6) + 1e-10


def excess_of_gradient(problem: MghProblem, point: np.ndarray, solver: object, dtype: str) -> float:
    """Largest ratio of an entry of the gradient to what is allowed; above 1 a claim of success is false."""
    x = jnp.asarray(point, jnp.float64)
    residuals, jacobian = problem.residual(x), jax.jacfwd(problem.residual)(x)
    hessian = jax.hessian(squares(problem))(x)
    gradient = 2 * jacobian.T @ residuals
    epsilon = np.finfo(dtype).eps
    names = solver.tolerance_names  # type: ignore[attr-defined]
    default = lambda name: (solver.default_tolerance(name, np.dtype(dtype), True) if name in names else None) or 0.0  # type: ignore[attr-defined]  # noqa: E731
    rounding = 20 * epsilon * jnp.abs(jacobian).T @ jnp.abs(residuals)
    motion = max(10 * epsilon, default("xtol")) * jnp.abs(hessian) @ jnp.abs(x)
    return float(jnp.max(jnp.abs(gradient) / (default("gtol") + rounding + motion)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--solver", default="bfgs")
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--max-steps", type=int, default=5000)
    parser.add_argument("--only", default=None, help="one instance by name")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--json", type=pathlib.Path, help="where the counts are added to those of other solvers")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    solver = jd.SOLVERS[options.solver]()
    began = time.perf_counter()
    solved = dict.fromkeys(SCALES, 0)
    claims, false, elsewhere, steps = 0, [], [], []
    for name, problem in load_mgh().items():
        if options.only not in (None, name):
            continue
        starts = np.stack([problem.start * scale for scale in SCALES]).astype(options.dtype)
        result = jd.minimize_batch(squares(problem), starts, solver=solver, in_axes=(0,), max_steps=options.max_steps)
        for lane, scale in enumerate(SCALES):
            value, has_converged = float(result.fun[lane]), bool(result.success[lane])
            has_solved = is_solved(problem, value, options.dtype)
            solved[scale] += has_solved
            claims += has_converged
            steps.append(int(result.nit[lane]))
            excess = excess_of_gradient(problem, np.asarray(result.x[lane]), solver, options.dtype) if has_converged else np.nan
            where = f"{name} x {scale}"
            if has_converged and not excess <= 1:
                false.append(f"{where} ({value:.6g}, gradient {excess:.3g} times what is allowed)")
            elif has_converged and not has_solved:
                elsewhere.append(f"{where} ({value:.6g})")
            if options.verbose or not has_solved or not has_converged:
                status = jd.Status(int(result.status[lane])).name
                print(
                    f"  {where:50s}{status:20s}{steps[-1]:5d} steps, f = {value:.6g}, minimum {problem.f_min:.6g}, largest gradient "
                    f"{float(result.optimality[lane]):.2g}{'' if has_solved else '  NOT SOLVED'}",
                    flush=True,
                )
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {options.solver}, {options.dtype}, at most {options.max_steps} steps")
    print(f"solved {', '.join(f'{count} of 42 from {scale} x' for scale, count in solved.items())}; median {np.median(steps):.0f} steps")
    print(f"claims of success {claims}, false {len(false)}: {'; '.join(false)}")
    print(f"converged elsewhere {len(elsewhere)}: {'; '.join(elsewhere)}")
    print(f"{time.perf_counter() - began:.0f} s with compilation")
    if options.json:
        counts = json.loads(options.json.read_text()) if options.json.exists() else {}
        counts[f"{options.solver} {options.dtype}"] = {
            "jax": jax.__version__,
            "max_steps": options.max_steps,
            "solved": {str(scale): count for scale, count in solved.items()},
            "claims": claims,
            "false": false,
            "elsewhere": elsewhere,
            "median steps": float(np.median(steps)),
        }
        options.json.write_text(json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    main()
