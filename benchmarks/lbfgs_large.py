"""Seconds per iteration and memory of L-BFGS with a million parameters, beside SciPy's L-BFGS-B, in one process.

Both remember 10 pairs and minimize the same compiled function; SciPy's is called once more per iteration through NumPy. Rounds alternate,
the first of each is not counted, and the ratio is of medians of seconds per iteration (iterations as each counts them: steps here).

Usage: python benchmarks/lbfgs_large.py [--n 1000000] [--rounds 5] [--iterations 40] [--dtype float64]
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import jaxdiff as jd

MEMORY = 10


def objective(x: jax.Array, curvature: jax.Array) -> jax.Array:
    """A convex quartic whose curvatures span three decades."""
    u = x - 1
    return jnp.sum(u * u * (curvature + u * u))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--dtype", default="float64")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    n, iterations = options.n, options.iterations
    x0 = jnp.zeros(n, options.dtype)
    curvature = jnp.logspace(0, 3, n, dtype=options.dtype)
    value_and_grad = jax.jit(jax.value_and_grad(objective))

    @jax.jit
    def ours(x0: jax.Array, curvature: jax.Array) -> jd.OptimizeResult:
        return jd.minimize(objective, x0, (curvature,), solver=jd.LBFGS(memory=MEMORY, gtol=1e-12), max_steps=iterations)

    def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = value_and_grad(jnp.asarray(x, options.dtype), curvature)
        return float(value), np.asarray(gradient, np.float64)

    scipy_options = {"maxcor": MEMORY, "maxiter": iterations, "ftol": 0, "gtol": 0, "maxfun": 10 * iterations}

    def run_ours() -> tuple[float, int, int, float]:
        began = time.perf_counter()
        result = jax.block_until_ready(ours(x0, curvature))
        return time.perf_counter() - began, int(result.nit), int(result.nfev), float(result.fun)

    def run_scipy() -> tuple[float, int, int, float]:
        began = time.perf_counter()
        result = scipy.optimize.minimize(fun, np.asarray(x0), jac=True, method="L-BFGS-B", options=scipy_options)
        return time.perf_counter() - began, int(result.nit), int(result.nfev), float(result.fun)

    compiled = ours.lower(x0, curvature).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    floats = n * x0.dtype.itemsize
    temporaries, outputs = memory.temp_size_in_bytes / floats, memory.output_size_in_bytes / floats
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, scipy {scipy.__version__}, n = {n:,}, {options.dtype}, {MEMORY} pairs")
    print(f"memory of the solve: {temporaries:.1f} n floats of temporaries, {outputs:.1f} n of results; 2 m + 6 = {2 * MEMORY + 6}")
    times: dict[str, list[float]] = {"jaxdiff": [], "scipy": []}
    for round_ in range(options.rounds + 1):
        for name, run in (("jaxdiff", run_ours), ("scipy", run_scipy)):
            seconds, nit, nfev, value = run()
            if round_:
                times[name].append(seconds / nit)
            else:
                print(f"  {name}: {nit} iterations, {nfev} evaluations, f = {value:.6g}")
    for name, each in times.items():
        print(f"  {name}: {1e3 * statistics.median(each):.1f} ms per iteration (best {1e3 * min(each):.1f}, worst {1e3 * max(each):.1f})")
    ratios = [ours / theirs for ours, theirs in zip(times["jaxdiff"], times["scipy"], strict=True)]
    print(f"jaxdiff / scipy per iteration: median of rounds {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
