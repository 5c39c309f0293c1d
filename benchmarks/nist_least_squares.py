"""NIST's 27 nonlinear regressions, both starts, by least squares with default options: digits, standard errors, false successes.

A false success is a run that says it converged and has fewer than 3 digits in its worst parameter.

Usage: python benchmarks/nist_least_squares.py [float64] [finite] [float32] [--solver NAME | default] [--verbose]
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.functions.nist import load_nist, log_relative_error

KINDS = {
    "float64": ("float64", jd.Autodiff()),
    "finite": ("float64", jd.FiniteDifference()),
    "float32": ("float32", jd.Autodiff()),
}


def run(kind: str, solver: object, is_verbose: bool) -> None:
    dtype, derivatives = KINDS[kind]
    began = time.perf_counter()
    digits, errors, steps, false = [], [], [], []
    for dataset in load_nist().values():

        def residual(b: jax.Array, x: jax.Array, y: jax.Array, model: object = dataset.model) -> jax.Array:
            return model(x, b) - y

        starts = np.stack([dataset.start1, dataset.start2]).astype(dtype)
        data = (jnp.asarray(dataset.x, dtype), jnp.asarray(dataset.y, dtype))
        result = jd.least_squares_batch(
            residual, starts, data, in_axes=(0, None, None), solver=solver, derivatives=derivatives, covariance=True
        )
        for lane in range(2):
            worst = float(np.min(log_relative_error(np.asarray(result.x[lane]), dataset.certified)))
            # Lanczos1's residuals, and so its errors, lie below the rounding of its data.
            error = float(np.min(log_relative_error(np.asarray(result.standard_errors[lane]), dataset.certified_sd)))
            digits.append(worst)
            steps.append(int(result.nit[lane]))
            errors.append((f"{dataset.name} {lane + 1}", error))
            name = jd.Status(int(result.status[lane])).name
            if bool(result.success[lane]) and worst < 3:
                false.append(f"{dataset.name} {lane + 1}")
            if is_verbose or (worst < 6 and dtype == "float64") or not bool(result.success[lane]):
                print(f"  {dataset.name:10s}{lane + 1}  {name:20s}{steps[-1]:5d} steps {worst:6.1f} digits, errors {error:5.1f}")
    digits, threshold = np.array(digits), 6 if dtype == "float64" else 3
    print(
        f"{kind}: {np.sum(digits >= threshold)} of 54 to {threshold} digits, mean {digits.mean():.2f}, false successes {false or 0}, "
        f"mean steps {np.mean(steps):.0f}, {time.perf_counter() - began:.0f} s with compilation"
    )
    low = [f"{name} ({error:.1f})" for name, error in errors if error < 5]
    print(f"  standard errors to 5 digits: {54 - len(low)} of 54{'; not ' + ', '.join(low) if low and dtype == 'float64' else ''}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--solver", default="levenberg_marquardt", help="default: as a batch without a named solver is solved")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {options.solver}, default options")
    for kind in options.kinds:
        run(kind, None if options.solver == "default" else jd.SOLVERS[options.solver](), options.verbose)


if __name__ == "__main__":
    main()
