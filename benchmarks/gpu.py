"""One run on a GPU: what is right, then how fast it is. Under ten minutes; ``--small`` runs the same in a minute or two on a CPU.

1. Correctness: the engine and the fused kernel against SciPy in float64 on the same fits; roots and derivatives against closed forms.
2. The 5 x 5 Gaussian of the comparison in the Gpufit paper (Przybylski et al., Scientific Reports 7 (2017) 15722): 5 parameters, tolerance
   1e-4, at most 10 iterations, float32, 10^7 fits; published 3.04 million fits per second by hand-written CUDA on the card of its time.
   Engines: refilled lanes (XLA), lockstep (XLA), the fused kernel (Pallas). optimistix under vmap on the same card, on a subset.
3. The fraction of what the card could do: bytes that must be moved over its bandwidth, operations that must be made over its peak.
4. BFGS on Rosenbrock's function, n = 2 and 10. 5. Gradients at many points: autodiff, finite differences, ``jax.grad``.

Run: ``python benchmarks/gpu.py [--small] [--out FILE]``. Writes JSON to ``benchmarks/results/``. What fails is recorded and does not stop
the rest. Rates are medians of repeated calls with results waited for, compiling apart; rates that miss the matched cost say so.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from batch_progress import peak, problems

import jaxdiff as jd

PUBLISHED = 3.04e6
"""Fits per second of the Gpufit paper's comparison."""

PEAKS = {"H100": (66.9e12, 3.35e12), "H200": (66.9e12, 4.8e12), "A100": (19.5e12, 2.0e12), "L40S": (91.6e12, 0.864e12)}
"""Vendor's float32 operations and bytes per second of some cards (SXM, dense, not tensor cores)."""

OPERATIONS_PER_SAMPLE = 90
"""Of one step and one pixel: the model with its 5 slopes about 40 and one exp, 21 products and sums twice each."""

MAX_STEPS = 10


def timed(run: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Seconds of the first call and the median of further ones."""
    begin = time.perf_counter()
    jax.block_until_ready(run())
    first = time.perf_counter() - begin
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begin)
    seconds = statistics.median(times)
    return {"seconds": seconds, "first_call": first}


def fit(mode: str, starts: jax.Array, grid: jax.Array, y: jax.Array, **options: Any) -> jd.FitResult:
    chosen = jd.BatchOptions(mode=mode, rescue=False, interpret=mode == "pallas" and jax.default_backend() != "gpu", **options)
    solver = jd.LevenbergMarquardtCholesky(ftol=1e-4, xtol=0.0)
    return jd.least_squares_batch(peak, starts, (grid, y), in_axes=(0, None, 0), solver=solver, max_steps=MAX_STEPS, options=chosen)


def engines(small: bool) -> dict[str, dict[str, Any]]:
    """Each engine with the options that are tried."""
    lanes = (512,) if small else (16_384, 131_072)
    tried: dict[str, dict[str, Any]] = {f"refill, {n} lanes": {"mode": "refill", "lanes": n, "num_threads": 1} for n in lanes}
    tried |= {f"lockstep, {n} lanes": {"mode": "lockstep", "lanes": n} for n in ((512,) if small else (1_048_576,))}
    return tried | {"fused kernel": {"mode": "pallas"}}


def reference_costs(starts: np.ndarray, grid: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SciPy in float64, to convergence."""
    import scipy.optimize

    def residual(p: np.ndarray, data: np.ndarray) -> np.ndarray:
        return p[0] * np.exp(-((grid[0] - p[1]) ** 2 + (grid[1] - p[2]) ** 2) / (2 * p[3] ** 2)) + p[4] - data

    return np.array([scipy.optimize.least_squares(residual, s, args=(data,), method="lm").cost for s, data in zip(starts, y, strict=True)])


def correctness(small: bool) -> dict[str, Any]:
    count = 128 if small else 2_000
    starts, grid, y = problems(count)
    wanted = reference_costs(*(a.astype(np.float64) for a in (starts, grid, y)))
    found: dict[str, Any] = {}
    for name, options in engines(small).items():
        found[name] = guarded(lambda options=options: _compared(options, (starts, grid, y), wanted))
    roots = jd.root_batch(lambda x, a: x**3 - a, jnp.ones(1000), jnp.linspace(1, 50, 1000)).x
    found["cube roots"] = {"largest_relative_error": float(np.max(np.abs(roots / np.cbrt(np.linspace(1, 50, 1000)) - 1)))}
    return found


def _compared(options: dict[str, Any], data: tuple[np.ndarray, ...], wanted: np.ndarray) -> dict[str, Any]:
    result = fit(options["mode"], *data, **{key: value for key, value in options.items() if key != "mode"})
    costs = np.asarray(result.fun, np.float64)
    return {
        "within_0.1_percent": float(np.mean(costs <= 1.001 * wanted)),
        "statuses": result.report().statuses,
        "mean_steps": float(np.mean(np.asarray(result.nit))),
    }


def gaussians(small: bool) -> dict[str, Any]:
    count = 4_096 if small else 10_000_000
    starts, grid, y = jax.device_put(problems_in_parts(count))
    found: dict[str, Any] = {"fits": count, "published_per_second": PUBLISHED}
    for name, options in engines(small).items():
        # The kernel interpreted is a test of it and no measurement.
        size = 256 if small and options["mode"] == "pallas" else count
        rest = {key: value for key, value in options.items() if key != "mode"}
        found[name] = guarded(lambda options=options, rest=rest, size=size: _rate(options["mode"], rest, starts, grid, y, size))
    found["optimistix under vmap"] = guarded(lambda: optimistix_rate(starts, grid, y, 512 if small else 262_144))
    return found


def problems_in_parts(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A million different problems, repeated: drawing ten million would take longer than fitting them."""
    starts, grid, y = problems(min(count, 1_000_000))
    times = -(-count // starts.shape[0])
    return np.tile(starts, (times, 1))[:count], grid, np.tile(y, (times, 1))[:count]


def _rate(mode: str, options: dict[str, Any], starts: jax.Array, grid: jax.Array, y: jax.Array, count: int) -> dict[str, Any]:
    run = lambda: fit(mode, starts[:count], grid, y[:count], **options)  # noqa: E731
    row = timed(run, 1 if mode == "pallas" and jax.default_backend() != "gpu" else 3)
    steps = float(np.sum(np.asarray(run().nit) + 1))
    row |= {"fits": count, "per_second": count / row["seconds"], "mean_steps": steps / count}
    return row | roofline(count, steps, row["seconds"], y.shape[1], starts.shape[1])


def roofline(count: int, steps: float, seconds: float, samples: int, parameters: int) -> dict[str, Any]:
    """Fractions of the card's bandwidth and peak; nothing where the card is not known."""
    kind = jax.devices()[0].device_kind
    known = [peaks for name, peaks in PEAKS.items() if name in kind]
    if not known:
        return {}
    operations, bandwidth = known[0]
    # Data and start in; x, gradient, residuals, cost, status and counts out.
    moved = 4.0 * count * (2 * samples + 3 * parameters + 8)
    return {
        "fraction_of_bandwidth": moved / bandwidth / seconds,
        "fraction_of_peak": steps * samples * OPERATIONS_PER_SAMPLE / operations / seconds,
    }


def optimistix_rate(starts: jax.Array, grid: jax.Array, y: jax.Array, count: int) -> dict[str, Any]:
    import optimistix as optx

    solver = optx.LevenbergMarquardt(rtol=1e-4, atol=1e-4)

    def one(start: jax.Array, data: jax.Array) -> jax.Array:
        return optx.least_squares(lambda p, args: peak(p, grid, args), solver, start, data, max_steps=MAX_STEPS, throw=False).value

    run = jax.jit(jax.vmap(one))
    row = timed(lambda: run(starts[:count], y[:count]), 3)
    costs = jax.vmap(lambda p, data: jnp.sum(peak(p, grid, data) ** 2) / 2)
    ours = fit("lockstep", starts[:count], grid, y[:count]).fun
    theirs = costs(run(starts[:count], y[:count]), y[:count])
    return row | {
        "fits": count,
        "per_second": count / row["seconds"],
        "within_0.1_percent_of_ours": float(jnp.mean(theirs <= 1.001 * ours)),
    }


def rosenbrock(small: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for n in (2, 10):
        count = 1_000 if small else 1_000_000
        starts = jax.random.uniform(jax.random.key(0), (count, n), minval=-2.0, maxval=2.0)
        valley = lambda x: jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)  # noqa: E731
        options = {"refill": jd.BatchOptions(mode="refill", lanes=256 if small else 65_536, num_threads=1)}
        for name, chosen in options.items():
            run = lambda starts=starts, chosen=chosen, valley=valley: jd.minimize_batch(valley, starts, options=chosen)  # noqa: E731
            found[f"n = {n}, {name}"] = guarded(lambda run=run, count=count: _solved(run, count))
    return found


def _solved(run: Callable[[], jd.OptimizeResult], count: int) -> dict[str, Any]:
    row = timed(run, 3)
    result = run()
    # The valley of 10 variables has a second minimum, which is one too.
    return row | {
        "per_second": count / row["seconds"],
        "converged": float(jnp.mean(result.success)),
        "mean_steps": float(jnp.mean(result.nit)),
    }


def derivatives(small: bool) -> dict[str, Any]:
    count = 10_000 if small else 5_000_000
    points = jax.random.uniform(jax.random.key(1), (count, 4), minval=0.5, maxval=2.0)
    f = lambda x: jnp.sum(jnp.sin(x) * jnp.exp(-x)) + jnp.prod(x)  # noqa: E731
    exact = jax.jit(jax.vmap(jax.grad(f)))
    kinds = {
        "jax.grad": exact,
        "autodiff": jax.jit(jax.vmap(jd.gradient(f))),
        "central differences": jax.jit(jax.vmap(jd.gradient(f, method=jd.FiniteDifference()))),
    }
    found: dict[str, Any] = {}
    for name, run in kinds.items():
        row = timed(lambda run=run: run(points), 3)
        error = float(jnp.max(jnp.abs(run(points) - exact(points)) / (1 + jnp.abs(exact(points)))))
        found[name] = row | {"per_second": count / row["seconds"], "largest_relative_difference_from_jax": error}
    return found


def guarded(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it found, or why it did not."""
    try:
        return run()
    except Exception as error:
        traceback.print_exc(limit=3)
        return {"error": f"{type(error).__name__}: {str(error)[:500]}"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Correctness and speed on the device at hand.")
    parser.add_argument("--small", action="store_true", help="small sizes, for a CPU")
    parser.add_argument("--out", type=pathlib.Path, help="where to write JSON")
    options = parser.parse_args()
    device = jax.devices()[0]
    found: dict[str, Any] = {"device": device.device_kind, "platform": device.platform, "jax": jax.__version__, "small": options.small}
    begin = time.perf_counter()
    for section in (correctness, gaussians, rosenbrock, derivatives):
        found[section.__name__] = guarded(lambda section=section: section(options.small))
        print(f"\n{section.__name__} (after {time.perf_counter() - begin:.0f} s)")
        for name, row in found[section.__name__].items():
            print(f"  {name}: {row}")
    found["seconds"] = time.perf_counter() - begin
    out = options.out or pathlib.Path(__file__).parent / "results" / f"gpu_{'small_' if options.small else ''}{device.platform}.json"
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"\n{found['seconds']:.0f} s, written to {out}")
    return int("error" in json.dumps(found["correctness"]))


if __name__ == "__main__":
    sys.exit(main())
