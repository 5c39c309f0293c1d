"""Speed of batches, each against its peers in this process, on the same data, at matched final cost.

Usage: python benchmarks/batch.py WHAT [--count N] [--peer-count N] [--turns 3] [--write]

WHAT is one of
  gaussian      2-D Gaussian peaks on 7 x 7 pixels, 5 parameters, float32, ftol 1e-5
  stragglers    the same where 5 % of the windows are empty and need many times the steps: time over the sum of steps
  t2            T2 decay, 32 echoes, 3 parameters, float32
  rosenbrock    BFGS on Rosenbrock's function of 2 and of 10 variables, float64
  logistic      Newton on ridge logistic regression, 50 rows and 8 columns per group, float64
  volatility    Black-Scholes implied volatilities, float64
  sizes         time per fit over the size of the batch
  compile       the first call, less a later one, for 5 and for 20 parameters
  memory        peak memory beyond inputs and outputs

For each method: problems per second of wall time and per second of CPU time, medians of turns taken in rotation; the first call apart;
steps per problem; and in how many of the problems its final cost lies within 0.1 % of the best that any of the methods found (99.99 % is
asked of a comparison at matched cost). A peer whose run would take minutes is given the first --peer-count problems only. On a shared
machine CPU time is the steadier of the two; numba, and jaxdiff where a batch is large, use all cores, the others about one.

The floor is what the arithmetic of the steps needs on one core at the rates that this machine reaches on exponentials and on matrix
products: ``trials * (exponentials * seconds per exponential + flops / flops per second)``.
"""

import argparse
import gc
import json
import os
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import batch_workloads as workloads
import jax
import jax.numpy as jnp
import numpy as np
from batch_workloads import Method, Workload

import jaxdiff as jd
from jaxdiff.batch.execute import REASSOCIATE

RESULTS = pathlib.Path(__file__).parent / "results" / "batch.json"
SOLVER = jd.LevenbergMarquardtCholesky(ftol=1e-5)
DOUBLE = ("rosenbrock", "logistic", "volatility")


def timed(call: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall time, CPU time of all threads, and what came out."""
    gc.collect()
    wall, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(call())
    return time.perf_counter() - wall, time.process_time() - cpu, result


def compare(workload: Workload, turns: int) -> list[dict[str, Any]]:
    """Run all methods in rotation; print and return one row for each."""
    first, walls, cpus, found = {}, {}, {}, {}
    for turn in range(turns + 1):
        for method in workload.methods:
            wall, cpu, result = timed(lambda method=method: method.solve(method.count))
            if turn == 0:
                first[method.name] = (wall, cpu)
                found[method.name] = (np.asarray(result[0]), None if result[1] is None else np.asarray(result[1]))
            else:
                walls.setdefault(method.name, []).append(wall)
                cpus.setdefault(method.name, []).append(cpu)
    costs = {name: workload.cost(x) for name, (x, _) in found.items()}
    best = np.full(max(len(cost) for cost in costs.values()), np.inf)
    for cost in costs.values():
        best[: len(cost)] = np.fmin(best[: len(cost)], cost)
    rows = [row_of(workload, method, first, walls, cpus, found, costs, best) for method in workload.methods]
    for row in rows[1:]:
        row["ours_over_it"] = rows[0]["per_second"] / row["per_second"]
        row["ours_over_it_cpu"] = rows[0]["per_cpu_second"] / row["per_cpu_second"]
    show(workload, rows)
    return rows


def row_of(workload: Workload, method: Method, first: Any, walls: Any, cpus: Any, found: Any, costs: Any, best: Any) -> dict[str, Any]:
    name = method.name
    wall, cpu = statistics.median(walls[name]), statistics.median(cpus[name])
    cost, steps = costs[name], found[name][1]
    with np.errstate(invalid="ignore"):
        is_matched = cost <= best[: len(cost)] * (1 + 1e-3) + workload.absolute
    return {
        "workload": workload.name,
        "method": name,
        "count": method.count,
        "per_second": method.count / wall,
        "per_cpu_second": method.count / cpu,
        "first_call_extra_cpu_seconds": first[name][1] - cpu,
        "mean_steps": None if steps is None else float(steps.mean()),
        "largest_steps": None if steps is None else int(steps.max()),
        "matched": float(is_matched.mean()),
    }


def show(workload: Workload, rows: list[dict[str, Any]]) -> None:
    print(f"\n{workload.name}")
    heads = ("count", 10), ("per second", 13), ("per CPU s", 12), ("ours / it", 10), ("by CPU", 9), ("first", 7), ("steps", 13)
    print("method".ljust(44) + "".join(f"{head:>{width}s}" for head, width in heads) + "  matched")
    for row in rows:
        ratio = f"{row['ours_over_it']:10.1f}{row['ours_over_it_cpu']:9.1f}" if "ours_over_it" in row else " " * 19
        steps = "" if row["mean_steps"] is None else f"{row['mean_steps']:.2f}/{row['largest_steps']}"
        print(
            f"{row['method']:44s}{row['count']:10,d}{row['per_second']:13,.0f}{row['per_cpu_second']:12,.0f}{ratio}"
            f"{row['first_call_extra_cpu_seconds']:6.1f}s{steps:>13s}  {100 * row['matched']:.4f} %",
            flush=True,
        )


def rates(dtype: Any) -> tuple[float, float]:
    """Seconds per exponential, in loops over a block in cache, and flops per second, in matrix products; both of CPU time."""
    block = jnp.linspace(-1, 0, 1 << 14, dtype=dtype)
    many = jax.jit(lambda x: jax.lax.fori_loop(0, 400, lambda _, y: jnp.exp(-y), x), compiler_options=REASSOCIATE)
    jax.block_until_ready(many(block))
    exponential = min(timed(lambda: many(block))[1] for _ in range(5)) / (400 * block.size)
    square = np.random.default_rng(0).normal(size=(1024, 1024)).astype(dtype)
    flops = 2 * 1024**3 / min(timed(lambda: square @ square)[1] for _ in range(5))
    return exponential, flops


def add_floor(workload: Workload, rows: list[dict[str, Any]], dtype: Any) -> None:
    exponential, flops = rates(dtype)
    trial = workload.exponentials * exponential + workload.flops / flops
    print(f"exp {exponential * 1e9:.2f} ns, {flops / 1e9:.0f} GFlop/s: a trial needs {trial * 1e9:.0f} ns of one core")
    for row in rows:
        if row["mean_steps"] and row["method"].startswith("jaxdiff"):
            row["floor_fraction"] = trial * row["mean_steps"] * row["per_cpu_second"]
            print(f"{row['method']:44s} reaches {100 * row['floor_fraction']:.1f} % of the floor")


def stragglers(count: int, turns: int) -> list[dict[str, Any]]:
    """Seconds of CPU per step where 5 % need many times the steps, over the same where none does."""
    rows = []
    for empty in (0.0, 0.05):
        start, data = with_slow_ones(count) if empty else workloads.peaks(count)
        x0, y = jnp.asarray(start), jnp.asarray(data)
        solve = lambda x0=x0, y=y: jd.least_squares_batch(workloads.peak, x0, y, solver=SOLVER, max_steps=100)  # noqa: E731
        solve()
        runs = [timed(solve) for _ in range(turns)]
        wall, cpu = statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs)
        steps = np.asarray(runs[0][2].nit) + 1
        rows.append({"workload": "stragglers", "empty": empty, "steps": float(steps.sum()), "wall": wall, "cpu": cpu, "count": count})
        print(
            f"{100 * empty:.0f} % empty: steps mean {steps.mean():.2f}, most {steps.max()}; "
            f"{cpu / steps.sum() * 1e9:.1f} ns of CPU per step, {wall / steps.sum() * 1e9:.1f} ns of wall time"
        )
    ratio = (rows[1]["cpu"] / rows[1]["steps"]) / (rows[0]["cpu"] / rows[0]["steps"])
    print(f"time over the sum of steps, against that of the batch without stragglers: {ratio:.3f}; goal 1.2")
    rows[1]["over_ideal"] = ratio
    return rows


def with_slow_ones(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The batch with 5 % of its problems, scattered, replaced by fits of empty windows that take at least 80 steps."""
    empty_start, empty_data = workloads.peaks(1 << 14, 1.0)
    steps = jd.least_squares_batch(workloads.peak, jnp.asarray(empty_start), jnp.asarray(empty_data), solver=SOLVER, max_steps=100).nit
    pool = np.flatnonzero(np.asarray(steps) >= 80)
    rng = np.random.default_rng(5)
    place = rng.choice(count, count // 20, replace=False)
    taken = rng.choice(pool, place.size)
    start, data = workloads.peaks(count)
    start[place], data[place] = empty_start[taken], empty_data[taken]
    return start, data


def sizes(largest: int, turns: int) -> list[dict[str, Any]]:
    rows, counts = [], [count for count in (10_000, 100_000, 1_000_000, 10_000_000) if count <= largest]
    start, data = workloads.peaks(min(largest, 100_000))
    for count in counts:
        # The same 100,000 problems over and over, so that every batch has the same mix; the first ones where it is smaller.
        repeats = -(-count // len(start))
        x0, y = jnp.asarray(np.tile(start, (repeats, 1))[:count]), jnp.asarray(np.tile(data, (repeats, 1))[:count])
        solve = lambda x0=x0, y=y: jd.least_squares_batch(workloads.peak, x0, y, solver=SOLVER, max_steps=200)  # noqa: E731
        solve()
        runs = [timed(solve)[:2] for _ in range(turns if count > 100_000 else 5 * turns)]
        wall, cpu = statistics.median(run[0] for run in runs), statistics.median(run[1] for run in runs)
        rows.append({"workload": "sizes", "count": count, "wall_per_fit": wall / count, "cpu_per_fit": cpu / count})
        print(f"{count:12,d} fits: {wall / count * 1e9:8.0f} ns of wall time, {cpu / count * 1e9:8.0f} ns of CPU per fit", flush=True)
    return rows


def sums_of_peaks(p: jax.Array, y: jax.Array) -> jax.Array:
    """Residuals of four peaks of their own height, centre and width on a sloped ground of eight numbers: 20 parameters."""
    t = jnp.arange(60, dtype=p.dtype) / 60
    total = jnp.zeros_like(t)
    for k in range(4):
        total = total + p[3 * k] * jnp.exp(-(((t - p[3 * k + 1]) / p[3 * k + 2]) ** 2))
    for k in range(8):
        total = total + p[12 + k] * t**k
    return total - y


def compile_times() -> list[dict[str, Any]]:
    """The first call of a batch of 5 and of one of 20 parameters; no cache of compiled programs is used."""
    rows = []
    rng = np.random.default_rng(0)
    start, data = workloads.peaks(4096)
    true = np.concatenate([np.stack([rng.uniform(1, 2, 4), np.array([0.1, 0.4, 0.6, 0.9]), np.full(4, 0.05)], 1).ravel(), np.zeros(8)])
    clean = np.asarray(sums_of_peaks(jnp.asarray(true, jnp.float32), jnp.zeros(60, jnp.float32)))
    starts20 = (true + rng.normal(0, 1e-3, (4096, 20))).astype(np.float32)
    data20 = (clean + rng.normal(0, 1e-3, (4096, 60))).astype(np.float32)
    cases = [
        ("least squares, 5 parameters", lambda: jd.least_squares_batch(workloads.peak, start, data, solver=SOLVER)),
        ("least squares, 20 parameters", lambda: jd.least_squares_batch(sums_of_peaks, starts20, data20, solver=SOLVER)),
        ("BFGS, 5 parameters", lambda: jd.minimize_batch(workloads.chained_rosenbrock, np.zeros((4096, 5), np.float32))),
        ("BFGS, 20 parameters", lambda: jd.minimize_batch(workloads.chained_rosenbrock, np.zeros((4096, 20), np.float32))),
    ]
    for name, call in cases:
        jax.clear_caches()
        wall, cpu, _ = timed(call)
        again, again_cpu, _ = timed(call)
        rows.append({"workload": "compile", "case": name, "wall": wall - again, "cpu": cpu - again_cpu})
        print(f"{name:30s} first call {wall - again:5.2f} s of wall time, {cpu - again_cpu:5.2f} s of CPU beyond a later one", flush=True)
    return rows


def memory(count: int) -> list[dict[str, Any]]:
    """Peak resident memory of a call, beyond what was resident before it (inputs and compiled programs) and its outputs; Linux only."""
    start, data = workloads.peaks(count)
    x0, y = jnp.asarray(start), jnp.asarray(data)
    del start, data
    solve = lambda: jax.block_until_ready(jd.least_squares_batch(workloads.peak, x0, y, solver=SOLVER))  # noqa: E731
    solve()
    trim()
    before = resident()
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    result = solve()
    outputs = sum(leaf.nbytes for leaf in jax.tree.leaves(result))
    extra = high_water() - before - outputs
    print(
        f"{count:,d} fits: inputs {(x0.nbytes + y.nbytes) / 2**20:.0f} MiB, outputs {outputs / 2**20:.0f} MiB, "
        f"peak beyond both {extra / 2**20:.0f} MiB; goal 64 MiB"
    )
    return [{"workload": "memory", "count": count, "inputs": x0.nbytes + y.nbytes, "outputs": outputs, "beyond": extra}]


def trim() -> None:
    """Give freed memory back to the system."""
    import ctypes

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def resident() -> int:
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def high_water() -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


COUNTS = {
    "gaussian": (65_536, 65_536),
    "stragglers": (65_536, 0),
    "t2": (1_000_000, 16_384),
    "rosenbrock": (40_000, 40_000),
    "logistic": (100_000, 8_192),
    "volatility": (10_000_000, 10_000_000),
    "sizes": (10_000_000, 0),
    "compile": (0, 0),
    "memory": (1_000_000, 0),
}


def run(what: str, count: int, peer_count: int, turns: int, only_ours: bool) -> list[dict[str, Any]]:
    if what == "stragglers":
        return stragglers(count, turns)
    if what == "sizes":
        return sizes(count, turns)
    if what == "compile":
        return compile_times()
    if what == "memory":
        return memory(count)
    if what == "rosenbrock":
        cases = [workloads.rosenbrock(2, count, peer_count), workloads.rosenbrock(10, count, peer_count)]
    else:
        cases = [getattr(workloads, what)(count, peer_count)]
    rows = []
    for case in cases:
        if only_ours:
            case.methods[:] = [method for method in case.methods if method.name.startswith("jaxdiff")]
        held = compare(case, turns)
        add_floor(case, held, np.float64 if what in DOUBLE else np.float32)
        rows += held
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=sorted(COUNTS))
    parser.add_argument("--count", type=int, help="problems; by default as the table of goals has it")
    parser.add_argument("--peer-count", type=int, help="problems that slow peers are given")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only-ours", action="store_true", help="leave out the peers")
    parser.add_argument("--write", action="store_true", help="put the numbers into benchmarks/results/batch.json")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", options.what in DOUBLE)
    count, peer_count = COUNTS[options.what]
    count = count if options.count is None else options.count
    peer_count = min(peer_count if options.peer_count is None else options.peer_count, count)
    load = os.getloadavg()[0]
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {os.cpu_count()} cores, load {load:.1f}")
    rows = run(options.what, count, peer_count, options.turns, options.only_ours)
    if options.write:
        held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        held[options.what] = {"jax": jax.__version__, "cores": os.cpu_count(), "load": round(load, 1), "rows": rows}
        RESULTS.write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    main()
