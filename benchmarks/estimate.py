"""How often the error bars of derivative estimates hold, how wide they are, and how long they take, beside numdifftools and scipy.

Run with ``python benchmarks/estimate.py``. Two parts:

1. Coverage on the two held-out splits of ``tests/derivatives/estimate_cases.py``, on which the estimator was not tuned (``--split`` names
   one, or the development set, on which it was):
   by dtype and order, the share of points whose bar holds, confidently wrong ones (relative error above 1e-2 with a bar under a tenth of
   it), the median ratio of bar to error, and the median relative error of smooth, well-scaled points.
2. Speed, compile time apart: 100,000 points of sin and the Hessian of a function of ten variables, ours and theirs in turns, seconds of
   CPU time (which other work on the machine does not stretch as it does those of the clock) and of the clock.
3. ``--only large``: the gradient of a function of 10,000 variables, its seconds and its peak of memory, alone in its process.

``--write`` puts the numbers into ``benchmarks/results/``.
"""

import argparse
import json
import pathlib
import resource
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)
ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "derivatives"))

import estimate_cases  # noqa: E402

import jaxdiff as jd  # noqa: E402
from jaxdiff.derivatives.estimates import EstimateStatus  # noqa: E402
from jaxdiff.derivatives.ladder import EXTRAPOLATIONS  # noqa: E402
from jaxdiff.experiments.environment import describe  # noqa: E402


def coverage(cases: list, n: int) -> dict:
    """One row of the table."""
    rows = {"points": 0, "holds": 0, "confidently_wrong": 0, "inconclusive": 0, "statuses": 0, "statuses_right": 0}
    ratios, smooth, failures = [], [], []
    for case, found in cases:
        status = EstimateStatus(int(found.status))
        if case.expects is not None:
            rows["statuses"] += 1
            rows["statuses_right"] += int(status.name.lower() == case.expects)
            continue
        if n not in case.references:
            continue
        true, value, bar = case.references[n], float(found.value), float(found.error)
        error = abs(value - true)
        rows["points"] += 1
        is_silent = not np.isfinite(bar)
        rows["inconclusive"] += int(is_silent)
        rows["holds"] += int(is_silent or error <= bar)
        is_wrong = not is_silent and error > 1e-2 * abs(true) and bar < 0.1 * error
        rows["confidently_wrong"] += int(is_wrong)
        if not is_silent and not error <= bar:
            failures.append(f"{case.name} at {float(case.x):g}: error {error:.1e}, bar {bar:.1e}, derivative {true:.1e}, {status.name}")
        if not is_silent and error > 0:
            ratios.append(bar / error)
        if case.smooth:
            smooth.append(error / abs(true) if true else error)
    return {
        **rows,
        "coverage": rows["holds"] / rows["points"],
        "median_bar_over_error": float(np.median(ratios)),
        "median_smooth_error": float(np.median(smooth)),
        "failures": failures,
    }


def seconds(runs: dict, repeats: int = 7) -> dict[str, tuple[float, float]]:
    """Medians of CPU time and of the clock of several runs in turns, the first turn, which compiles, apart."""
    times: dict[str, list] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time(), time.perf_counter()
            jax.block_until_ready(run())
            if turn:
                times[name].append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return {name: tuple(map(float, np.median(found, axis=0))) for name, found in times.items()}


def ten_variables(x, xp=jnp):
    """Coupled and smooth."""
    return xp.sum(xp.sin(x) * xp.exp(-(x**2) / 8)) * xp.sum(xp.cos(x[1:] - x[:-1]))


def speed() -> dict[str, float]:
    """Seconds, ours and theirs, on the same data."""
    import numdifftools
    import scipy.differentiate

    x = np.linspace(-10, 10, 100_000)
    points = jnp.asarray(x)
    runs = {
        "sin_100000_jaxdiff": lambda: jd.estimate(jnp.sin, points).value,
        "sin_100000_scipy": lambda: scipy.differentiate.derivative(np.sin, x).df,
        "sin_100000_numdifftools": lambda: numdifftools.Derivative(np.sin)(x),
    }
    found = seconds(runs)
    x = np.linspace(-1, 1, 10)
    point, method = jnp.asarray(x), jd.Adaptive()
    in_jit = jax.jit(jd.hessian(ten_variables, method=method))
    theirs = numdifftools.Hessian(lambda x: ten_variables(x, np))
    runs = {
        "hessian_10_jaxdiff": lambda: jd.hessian(ten_variables, method=jd.Adaptive())(point),
        "hessian_10_jaxdiff_jit": lambda: in_jit(point),
        "hessian_10_numdifftools": lambda: theirs(x),
    }
    found |= seconds(runs, repeats=21)
    runs["hessian_10_jaxdiff_values"] = lambda: jd.hessian(ten_variables, method=jd.Adaptive(hessian_from="values"))(point)
    found |= seconds({"hessian_10_jaxdiff_values": runs["hessian_10_jaxdiff_values"]}, repeats=3)
    result = {f"{name}_{clock}": time for name, times in found.items() for clock, time in zip(("cpu", "clock"), times, strict=True)}
    for ours, *others in (
        ("sin_100000_jaxdiff", "sin_100000_scipy", "sin_100000_numdifftools"),
        ("hessian_10_jaxdiff", "hessian_10_numdifftools"),
        ("hessian_10_jaxdiff_jit", "hessian_10_numdifftools"),
    ):
        result |= {f"{ours}_times_faster_than_{other.split('_')[-1]}": found[other][0] / found[ours][0] for other in others}
    exact = np.asarray(jax.hessian(ten_variables)(point))
    return result | {f"{name}_error": float(np.max(np.abs(np.asarray(run()) - exact))) for name, run in runs.items()}


def large_gradient() -> dict[str, float]:
    """The gradient of a function of 10,000 variables; alone in its process, so that the peak of memory is its own."""
    point = jnp.linspace(-1, 1, 10_000)
    gradient = jd.gradient(lambda x: jnp.sum(jnp.sin(x) * x), method=jd.Adaptive())
    exact = jnp.cos(point) * point + jnp.sin(point)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    found = gradient.estimate(point)
    error = np.abs(np.asarray(found.value - exact))
    return {
        "gradient_10000_evaluations": float(jnp.mean(found.num_evals)),
        "gradient_10000_holds": float(np.mean(error <= np.asarray(found.error))),
        "gradient_10000_seconds": time.perf_counter() - start,
        "gradient_10000_error": float(error.max()),
        "gradient_10000_peak_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }


def main() -> None:
    """Print both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the numbers into benchmarks/results/")
    parser.add_argument("--only", choices=("coverage", "speed", "large"), help="one part only")
    parser.add_argument("--verbose", action="store_true", help="list the points whose bar does not hold")
    parser.add_argument("--split", choices=("first", "second", "development"), help="one set of functions only")
    parser.add_argument("--compiled", action="store_true", help="compile every function, as a user would; slow")
    parser.add_argument("--extrapolation", choices=EXTRAPOLATIONS, default="polynomial", help="how windows lead to a derivative")
    options = parser.parse_args()
    prefix = "" if options.extrapolation == "polynomial" else f"{options.extrapolation}_"
    results: dict = {"environment": describe(), "speed": {}}
    if options.only == "large":
        results["speed"] |= large_gradient()
    if options.only in (None, "coverage"):
        print("split        dtype    n  points  holds   confidently wrong  silent  bar/error  smooth: relative error  statuses")
        for split in (options.split,) if options.split else ("first", "second"):
            for dtype in ("float64", "float32"):
                for n, cases in estimate_cases.estimates(
                    dtype, split, compiled=options.compiled, extrapolation=options.extrapolation
                ).items():
                    row = coverage(cases, n)
                    results[f"{prefix}{split}_{dtype}_{n}"] = row
                    print(
                        f"{split:11s}  {dtype}  {n}  {row['points']:6d}  {100 * row['coverage']:5.1f} %"
                        f"  {row['confidently_wrong']:12d}  {row['inconclusive']:10d}"
                        f"  {row['median_bar_over_error']:9.1f}  {row['median_smooth_error']:22.1e}"
                        f"  {row['statuses_right']}/{row['statuses']}",
                        flush=True,
                    )
                    if options.verbose:
                        print(*(f"    {failure}" for failure in row["failures"]), sep="\n")
    if options.only in (None, "speed"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results["speed"] |= speed()
    if results["speed"]:
        for name, value in results["speed"].items():
            print(f"{name:60s} {value:.3g}")
    if options.write:
        path = ROOT / "benchmarks" / "results" / "estimate.json"
        path.parent.mkdir(exist_ok=True)
        kept = json.loads(path.read_text()) if path.exists() else {}
        results["speed"] = kept.get("speed", {}) | results["speed"]
        path.write_text(json.dumps(kept | results, indent=1) + "\n")


if __name__ == "__main__":
    main()
