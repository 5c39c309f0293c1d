"""NIST's 27 nonlinear regressions, both starts, by the minimizers: digits of the worst parameter, and false successes.

Usage: python benchmarks/nist_minimize.py [newton] [bfgs]
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.functions.nist import load_nist, log_relative_error

SOLVERS = {"newton": jd.Newton(), "bfgs": jd.BFGS()}


def main(names: list[str]) -> None:
    jax.config.update("jax_enable_x64", True)
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, float64, default tolerances, at most 1,000 steps")
    for name in names:
        solved = claimed = doubtful = 0
        for dataset in load_nist().values():

            def misfit(b: jax.Array, x: jax.Array, y: jax.Array, model: object = dataset.model) -> jax.Array:
                return jnp.sum((y - model(x, b)) ** 2)

            for number, start in ((1, dataset.start1), (2, dataset.start2)):
                data = (jnp.asarray(dataset.x), jnp.asarray(dataset.y))
                result = jd.minimize(misfit, np.asarray(start), data, solver=SOLVERS[name], max_steps=1000)
                digits = float(np.min(log_relative_error(np.asarray(result.x), dataset.certified)))
                solved += digits >= 6
                claimed += bool(result.success)
                elsewhere = bool(result.success) and digits < 3
                doubtful += elsewhere
                mark = "  converged elsewhere" if elsewhere else ""
                print(
                    f"{name:7s}{dataset.name:10s}{number}  {result.status_name:20s}{int(result.nit):5d} steps {digits:5.1f} digits"
                    f"  sum of squares {float(result.fun):.6g}, certified {dataset.certified_rss:.6g}{mark}"
                )
        print(f"{name}: {solved} of 54 to 6 digits, {claimed} say that they converged, {doubtful} of these elsewhere")


if __name__ == "__main__":
    main(sys.argv[1:] or ["newton"])
