"""Roots: the square systems of Moré, Garbow and Hillstrom against peers, and implied volatilities at once.

Usage: python benchmarks/roots.py [systems] [volatilities] [--count 10000000] [--peers]

``systems`` counts, from 1, 10 and 100 times the standard start, roots that were found (largest |F_i| at most 1e-8) and successes that were
claimed where there is none. ``volatilities`` finds Black-Scholes implied volatilities of random European calls in float64, all with default
tolerances, and prints roots per second, compile time apart, beside scipy.optimize.newton on the whole array.
"""

import argparse
import functools
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from jaxdiff.functions.mgh import MghProblem, load_mgh

SCALES = (1, 10, 100)
SQUARE_ROOT_OF_HALF = 0.5**0.5


def by_jaxdiff(solver: Any, max_steps: int = 256) -> Callable[[MghProblem, np.ndarray], list[tuple[np.ndarray, bool]]]:
    def solve(problem: MghProblem, starts: np.ndarray) -> list[tuple[np.ndarray, bool]]:
        result = jd.root_batch(problem.residual, starts, in_axes=(0,), solver=solver, max_steps=max_steps)
        return [(np.asarray(x), bool(ok)) for x, ok in zip(result.x, result.success, strict=True)]

    return solve


def by_scipy(problem: MghProblem, starts: np.ndarray) -> list[tuple[np.ndarray, bool]]:
    import scipy.optimize

    fun, jacobian = jax.jit(problem.residual), jax.jit(jax.jacfwd(problem.residual))
    found = []
    for start in starts:
        result = scipy.optimize.root(lambda x: np.asarray(fun(x)), start, jac=lambda x: np.asarray(jacobian(x)), method="hybr")
        found.append((result.x, bool(result.success)))
    return found


def by_optimistix(name: str) -> Callable[[MghProblem, np.ndarray], list[tuple[np.ndarray, bool]]]:
    def solve(problem: MghProblem, starts: np.ndarray) -> list[tuple[np.ndarray, bool]]:
        import optimistix

        solver = getattr(optimistix, name)(1e-8, 1e-8)

        @jax.jit
        def one(start: Any) -> Any:
            answer = optimistix.root_find(lambda x, _: problem.residual(x), solver, start, max_steps=256, throw=False)
            return answer.value, answer.result == optimistix.RESULTS.successful

        found = [one(jnp.asarray(start)) for start in starts]
        return [(np.asarray(value), bool(is_claimed)) for value, is_claimed in found]

    return solve


def systems(with_peers: bool) -> None:
    methods: dict[str, Any] = {
        "jaxdiff NewtonRoot": by_jaxdiff(jd.NewtonRoot()),
        "the same, 1,000 steps": by_jaxdiff(jd.NewtonRoot(), 1000),
        "jaxdiff Broyden": by_jaxdiff(jd.Broyden()),
    }
    if with_peers:
        methods |= {"scipy hybr": by_scipy, "optimistix Newton": by_optimistix("Newton"), "optimistix Dogleg": by_optimistix("Dogleg")}
    problems = [problem for problem in load_mgh().values() if problem.m == problem.n]
    print(f"{len(problems)} square systems; {sum(problem.f_min > 1e-6 for problem in problems)} of them have no root")
    for name, method in methods.items():
        found, claimed, false = [0, 0, 0], [0, 0, 0], []
        began = time.perf_counter()
        for problem in problems:
            starts = np.stack([problem.start * scale for scale in SCALES])
            for i, (x, has_claimed) in enumerate(method(problem, starts)):
                size = float(np.abs(np.asarray(problem.residual(x))).max())
                is_found = size <= 1e-8
                found[i] += is_found
                claimed[i] += has_claimed
                if has_claimed and not is_found:
                    false.append(f"{problem.name} x {SCALES[i]} (|F| = {size:.1e})")
        print(
            f"{name:20s} found {found}, claimed {claimed}, false {len(false)} {'; '.join(false)}; "
            f"{time.perf_counter() - began:.0f} s with compilation",
            flush=True,
        )


def excess(v: jax.Array, strike: jax.Array, term: jax.Array, price: jax.Array) -> jax.Array:
    """Black-Scholes value of a call on 100 without interest, less its price."""
    spread = v * jnp.sqrt(term)
    d = jnp.log(100 / strike) / spread + spread / 2
    below = lambda z: jax.lax.erfc(-z * SQUARE_ROOT_OF_HALF) / 2  # noqa: E731
    return 100 * below(d) - strike * below(d - spread) - price


def volatilities(count: int, with_peers: bool) -> None:
    rng = np.random.default_rng(0)
    strike, term, true = rng.uniform(80, 120, count), rng.uniform(0.25, 2, count), rng.uniform(0.15, 0.6, count)
    price = np.asarray(jax.jit(excess)(true, strike, term, 0.0))
    start = np.full(count, 0.3)
    for mode, lanes, every in (("lockstep", 256, 4), ("lockstep", 1024, 4), ("refill", 1024, 2), ("refill", 1024, 4)):
        options = jd.BatchOptions(mode=mode, lanes=lanes, check_every=every)
        run = functools.partial(jd.root_batch, excess, start, (strike, term, price), options=options)
        began = time.perf_counter()
        jax.block_until_ready(run())
        first = time.perf_counter() - began
        began = time.perf_counter()
        result = jax.block_until_ready(run())
        seconds = time.perf_counter() - began
        error = np.abs(np.asarray(result.x) - true)
        print(
            f"jaxdiff {mode:9s}{lanes:5d} lanes, every {every}: {count / seconds:12,.0f} per second (first call {first:.1f} s); "
            f"steps {float(result.nit.mean()):.2f} (at most {int(result.nit.max())}), error median {np.median(error):.1e}, "
            f"largest {error.max():.1e}; {result.status_name}",
            flush=True,
        )
    if with_peers:
        import scipy.optimize
        import scipy.special

        def value(v: np.ndarray) -> np.ndarray:
            spread = v * np.sqrt(term)
            d = np.log(100 / strike) / spread + spread / 2
            return 100 * scipy.special.ndtr(d) - strike * scipy.special.ndtr(d - spread) - price

        def slope(v: np.ndarray) -> np.ndarray:
            d = np.log(100 / strike) / (v * np.sqrt(term)) + v * np.sqrt(term) / 2
            return 100 * np.sqrt(term) * np.exp(-d * d / 2) / np.sqrt(2 * np.pi)

        began = time.perf_counter()
        found = scipy.optimize.newton(value, start, fprime=slope)
        seconds = time.perf_counter() - began
        print(f"scipy newton: {count / seconds:,.0f} per second; error largest {np.abs(found - true).max():.1e}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", default=["systems", "volatilities"])
    parser.add_argument("--count", type=int, default=10_000_000)
    parser.add_argument("--peers", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}")
    if "systems" in options.what:
        systems(options.peers)
    if "volatilities" in options.what:
        volatilities(options.count, options.peers)


if __name__ == "__main__":
    main()
