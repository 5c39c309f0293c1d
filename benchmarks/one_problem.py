"""One problem at a time beside optimistix: CPU seconds to compile, and of a call once compiled, over Moré, Garbow and Hillstrom.

In the same process, on the same function from the standard start, in float64, without a persistent cache; theirs under `jax.jit`, ours
called plainly, as it is meant to be (`--jit`: under `jax.jit` too). Compile time is that of a first call less that of a second; run time
the median of calls in turns, the way of a plain call through Python included. Ratios are taken over the problems that both solve: a sum of
squares within 1e-6, relative, or 1e-10, absolute, of the known minimum. Tolerances: ours by default, theirs 1e-10 (least squares) and 1e-8
(BFGS), relative and absolute. `--plain`: the time of a plain call beside that of the same under `jax.jit`.

Usage: python benchmarks/one_problem.py [lm] [bfgs] [--every K] [--jit] [--plain] [--verbose]
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix

import jaxdiff as jd
from jaxdiff.functions.mgh import MghProblem, load_mgh

CALLS = 15
MAX_STEPS = 1000


def our_lm(problem: MghProblem, x: Any) -> Any:
    result = jd.least_squares(problem.residual, x, solver=jd.LevenbergMarquardt(), max_steps=MAX_STEPS)
    return result.x, result.nit, result.success


def their_lm(problem: MghProblem, x: Any) -> Any:
    solver = optimistix.LevenbergMarquardt(rtol=1e-10, atol=1e-10)
    solution = optimistix.least_squares(lambda x, _: problem.residual(x), solver, x, max_steps=MAX_STEPS, throw=False)
    return solution.value, solution.stats["num_steps"], solution.result == optimistix.RESULTS.successful


@functools.cache
def squares(residual: Callable[..., Any]) -> Callable[..., Any]:
    # The same function for the same problem: a new one would compile anew.
    return lambda x: jnp.sum(residual(x) ** 2)


def our_bfgs(problem: MghProblem, x: Any) -> Any:
    result = jd.minimize(squares(problem.residual), x, solver=jd.BFGS(), max_steps=MAX_STEPS)
    return result.x, result.nit, result.success


def their_bfgs(problem: MghProblem, x: Any) -> Any:
    solver = optimistix.BFGS(rtol=1e-8, atol=1e-8)
    objective = lambda x, _: jnp.sum(problem.residual(x) ** 2)  # noqa: E731
    solution = optimistix.minimise(objective, solver, x, max_steps=MAX_STEPS, throw=False)
    return solution.value, solution.stats["num_steps"], solution.result == optimistix.RESULTS.successful


PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {"lm": (our_lm, their_lm), "bfgs": (our_bfgs, their_bfgs)}


def called_first(solve: Callable[..., Any], problem: MghProblem, x: Any, is_jitted: bool) -> tuple[Callable[[Any], Any], float]:
    """The call, and the CPU time of its first time less that of its second."""
    call = functools.partial(solve, problem)
    call = jax.jit(call) if is_jitted else call
    taken = []
    for _ in range(2):
        began = time.process_time()
        jax.block_until_ready(call(x))
        taken.append(time.process_time() - began)
    return call, taken[0] - taken[1]


def seconds_of(calls: list[Callable[[], Any]]) -> list[float]:
    """The median CPU time of each, called in turns."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(CALLS):
        for place, call in zip(taken, calls, strict=True):
            began = time.process_time()
            jax.block_until_ready(call())
            place.append(time.process_time() - began)
    return [float(np.median(place)) for place in taken]


def is_solved(problem: MghProblem, x: Any) -> bool:
    squares = float(np.sum(np.asarray(problem.residual(jnp.asarray(x))) ** 2))
    return squares <= problem.f_min * (1 + 1e-6) + 1e-10


def compare(kind: str, chosen: list[tuple[str, MghProblem]], is_jitted: bool, is_verbose: bool) -> None:
    rows = []
    ways = list(zip(PAIRS[kind], (is_jitted, True), strict=True))
    for solve, jitted in ways:
        # What a process does once: imports, the first use of each primitive.
        called_first(solve, chosen[0][1], jnp.asarray(chosen[0][1].start), jitted)
    # No program of the first problem is left.
    jax.clear_caches()
    for name, problem in chosen:
        x = jnp.asarray(problem.start)
        programs, costs = zip(*(called_first(solve, problem, x, jitted) for solve, jitted in ways), strict=True)
        found = [jax.block_until_ready(program(x)) for program in programs]
        seconds = seconds_of([functools.partial(program, x) for program in programs])
        solved = [is_solved(problem, answer[0]) for answer in found]
        rows.append((name, costs, seconds, solved))
        if is_verbose:
            steps = [int(answer[1]) for answer in found]
            print(
                f"  {name:36s} compile {costs[0]:5.2f} {costs[1]:5.2f} s, run {1e3 * seconds[0]:8.3f} {1e3 * seconds[1]:8.3f} ms, "
                f"steps {steps[0]:4d} {steps[1]:4d}, solved {solved[0]:d} {solved[1]:d}",
                flush=True,
            )
    both = [row for row in rows if all(row[3])]
    ratios = lambda index: np.median([row[index][0] / row[index][1] for row in both])  # noqa: E731
    middle = lambda index, whose: np.median([row[index][whose] for row in both])  # noqa: E731
    print(
        f"{kind}: solved {sum(row[3][0] for row in rows)} and {sum(row[3][1] for row in rows)} of {len(rows)}; over {len(both)} of both: "
        f"compile {middle(1, 0):.2f} against {middle(1, 1):.2f} s, ratio {ratios(1):.2f}; "
        f"run {1e3 * middle(2, 0):.3f} against {1e3 * middle(2, 1):.3f} ms, ratio {ratios(2):.2f}   (medians)"
    )


def plain_overhead() -> None:
    """What a plain call costs beside its program."""
    valley = lambda x: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])  # noqa: E731
    value = lambda x: jnp.sum(valley(x) ** 2)  # noqa: E731
    start = jnp.array([-1.2, 1.0])
    calls: dict[str, Callable[[Any], Any]] = {
        "least_squares": lambda x: jd.least_squares(valley, x, solver=jd.LevenbergMarquardt()),
        "minimize": lambda x: jd.minimize(value, x, solver=jd.BFGS()),
    }
    for name, call in calls.items():
        program = jax.jit(call)
        jax.block_until_ready((call(start), program(start)))
        plain, alone = seconds_of([lambda call=call: call(start), lambda program=program: program(start)])
        print(f"{name}, called plainly: {1e6 * plain:.0f} us, of which its program {1e6 * alone:.0f} us")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*", help="lm, bfgs; both where none is named")
    parser.add_argument("--every", type=int, default=1, help="only every k-th problem")
    parser.add_argument("--jit", action="store_true", help="ours under jax.jit too")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)
    print(f"jax {jax.__version__}, optimistix {optimistix.__version__}, {jax.devices()[0].platform}, CPU time")
    if options.plain:
        return plain_overhead()
    for kind in options.kinds or PAIRS:
        compare(kind, list(load_mgh().items())[:: options.every], options.jit, options.verbose)


if __name__ == "__main__":
    main()
