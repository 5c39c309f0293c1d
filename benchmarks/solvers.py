"""Solvers one problem at a time, against their peers: solved, evaluations, seconds of a second call, seconds to compile.

Least squares: NIST's 27 datasets from both starts, and the 42 instances of Moré, Garbow and Hillstrom from the standard start, default
options. Peers run in the same process on the same function with the tolerances below. A run is solved where its sum of squares is within
1e-6, relative, or 1e-10, absolute, of the known minimum. Performance profiles are those of Dolan and Moré (2002): the fraction of
problems that a solver solves within a factor of the best.

Evaluations are of the residuals; a Jacobian by autodiff counts as part of the evaluation at its point (SciPy's nfev, the steps of
optimistix and jaxopt). Seconds are the median of seven calls on a machine that has other work: read ratios. `minimize` is for minimizers
on the same sums of squares, see `solvers_minimizers.py`.

Usage: python benchmarks/solvers.py [least_squares | minimize] [--sets nist mgh] [--solvers NAME ...] [--every K]
The table is merged into results/solvers.json, so that solvers may be run in turns; the picture is drawn from all that it holds.
"""

import argparse
import json
import pathlib
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from solvers_minimizers import MINIMIZERS

import jaxdiff as jd
from jaxdiff.functions.mgh import load_mgh
from jaxdiff.functions.nist import load_nist

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results" / "solvers.json"
PICTURES = HERE.parent / "docs" / "images"
NUM_CALLS = 7
TOLERANCE = 1e-10

# What a solver gives back: x, evaluations, and whether it says that it succeeded.
Answer = tuple[Any, Any, Any]


class Problem:
    """Residuals of a vector and data, starts, and the known minimum of their sum of squares."""

    def __init__(self, name: str, residual: Callable[..., Any], data: tuple[Any, ...], starts: list[np.ndarray], minimum: float) -> None:
        self.name, self.residual, self.starts, self.minimum = name, residual, starts, minimum
        self.data = tuple(jnp.asarray(leaf) for leaf in data)

    def is_solved(self, x: Any) -> bool:
        """Whether x is as good as the known minimum."""
        squares = float(np.sum(np.asarray(self.residual(jnp.asarray(x), *self.data)) ** 2))
        return squares <= self.minimum * (1 + 1e-6) + 1e-10


def problems(sets: list[str]) -> list[Problem]:
    found = []
    if "nist" in sets:
        for d in load_nist().values():
            residual = lambda b, x, y, model=d.model: model(x, b) - y  # noqa: E731
            found.append(Problem(d.name, residual, (d.x, d.y), [d.start1, d.start2], d.certified_rss))
    if "mgh" in sets:
        found += [Problem(p.name, p.residual, (), [p.start], p.f_min) for p in load_mgh().values()]
    return found


def ours(solver: Any) -> Callable[[Problem], Callable[..., Answer]]:
    def bind(problem: Problem) -> Callable[..., Answer]:
        def solve(x: Any, *data: Any) -> Answer:
            result = jd.least_squares(problem.residual, x, data, solver=solver)
            return result.x, result.nfev, result.success

        return jax.jit(solve)

    return bind


def by_optimistix(name: str) -> Callable[[Problem], Callable[..., Answer]]:
    def bind(problem: Problem) -> Callable[..., Answer]:
        import optimistix

        def solve(x: Any, *data: Any) -> Answer:
            solver = getattr(optimistix, name)(rtol=TOLERANCE, atol=TOLERANCE)
            solution = optimistix.least_squares(lambda x, data: problem.residual(x, *data), solver, x, data, max_steps=1000, throw=False)
            return solution.value, solution.stats["num_steps"], solution.result == optimistix.RESULTS.successful

        return jax.jit(solve)

    return bind


def by_jaxopt(problem: Problem) -> Callable[..., Answer]:
    import jaxopt

    def solve(x: Any, *data: Any) -> Answer:
        solver = jaxopt.LevenbergMarquardt(problem.residual, maxiter=1000, tol=TOLERANCE, jit=True)
        x, state = solver.run(x, *data)
        return x, state.iter_num, state.error <= TOLERANCE

    return jax.jit(solve)


def by_scipy(method: str) -> Callable[[Problem], Callable[..., Answer]]:
    def bind(problem: Problem) -> Callable[..., Answer]:
        residual, jacobian = jax.jit(problem.residual), jax.jit(jax.jacfwd(problem.residual))

        def solve(x: Any, *data: Any) -> Answer:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                result = scipy.optimize.least_squares(
                    lambda x: np.asarray(residual(x, *data)), x, jac=lambda x: np.asarray(jacobian(x, *data)), method=method
                )
            return result.x, result.nfev, result.success

        return solve

    return bind


SOLVERS: dict[str, Callable[[Problem], Callable[..., Answer]]] = {
    "jaxdiff LM": ours(jd.LevenbergMarquardt()),
    "jaxdiff dogleg": ours(jd.Dogleg()),
    "jaxdiff Gauss-Newton": ours(jd.GaussNewton()),
    "optimistix LM": by_optimistix("LevenbergMarquardt"),
    "optimistix dogleg": by_optimistix("Dogleg"),
    "optimistix Gauss-Newton": by_optimistix("GaussNewton"),
    "jaxopt LM": by_jaxopt,
    "scipy lm": by_scipy("lm"),
    "scipy trf": by_scipy("trf"),
}


def measure(problem: Problem, bind: Callable[[Problem], Callable[..., Answer]]) -> list[dict[str, Any]]:
    """A row per start; the first start pays for the compilation."""
    rows, solve = [], bind(problem)
    for number, start in enumerate(problem.starts):
        # The first call of a process touches code that a second one finds warm; compile time is that call less a run.
        began = time.perf_counter()
        try:
            jax.block_until_ready(solve(jnp.asarray(start), *problem.data))
            first = time.perf_counter() - began
            seconds = []
            for _ in range(NUM_CALLS):
                began = time.perf_counter()
                x, evaluations, success = jax.block_until_ready(solve(jnp.asarray(start), *problem.data))
                seconds.append(time.perf_counter() - began)
        except ValueError as problem_refused:  # SciPy's lm refuses fewer residuals than parameters, all refuse starts that are not finite
            rows.append({"problem": f"{problem.name} {number + 1}", "is_solved": False, "error": str(problem_refused)})
            continue
        rows.append(
            {
                "problem": f"{problem.name} {number + 1}",
                "is_solved": problem.is_solved(x),
                "says_success": bool(success),
                "evaluations": int(evaluations),
                "seconds": float(np.median(seconds)),
                "compile_seconds": first - float(np.median(seconds)) if number == 0 else None,
            }
        )
    return rows


def profile(table: dict[str, list[dict[str, Any]]], key: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Dolan and Moré's rho(tau) of each solver: factors, and fractions of the problems solved within them."""
    names = sorted(set.intersection(*({row["problem"] for row in rows} for rows in table.values())))
    costs = {}
    for solver, rows in table.items():
        by_name = {row["problem"]: row for row in rows}
        costs[solver] = np.array([by_name[name][key] if by_name[name]["is_solved"] else np.inf for name in names], float)
    best = np.min(list(costs.values()), axis=0)
    curves = {}
    for solver, cost in costs.items():
        with np.errstate(invalid="ignore"):
            factors = np.sort(np.where(np.isfinite(best), cost / best, np.inf))
        curves[solver] = (factors, np.arange(1, len(names) + 1) / len(names))
    return curves


def draw(table: dict[str, list[dict[str, Any]]], what: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for axis, key, label in zip(axes, ("evaluations", "seconds"), ("evaluations", "seconds, compiled"), strict=True):
        for solver, (factors, fractions) in profile(table, key).items():
            is_shown = np.isfinite(factors)
            style = {"linewidth": 2.4} if solver.startswith("jaxdiff") else {"linewidth": 1.2, "linestyle": "--"}
            axis.step(factors[is_shown], fractions[is_shown], where="post", label=solver, **style)
        axis.set(xscale="log", xlim=(1, 100), ylim=(0, 1.02), xlabel=f"factor of the fewest {label}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("problems solved")
    axes[1].legend(fontsize=8, loc="lower right")
    figure.savefig(PICTURES / f"solvers_{what}.png", dpi=110)


def report(table: dict[str, list[dict[str, Any]]]) -> None:
    print(f"{'':26s}{'solved':>10s}{'elsewhere':>11s}{'evaluations':>13s}{'ms':>9s}{'compile s':>11s}   (medians over all runs)")
    for solver, rows in table.items():
        done = [row for row in rows if "seconds" in row]
        solved = sum(row["is_solved"] for row in rows)
        elsewhere = sum(row["says_success"] and not row["is_solved"] for row in done)
        compiled = [row["compile_seconds"] for row in done if row["compile_seconds"] is not None]
        print(
            f"{solver:26s}{solved:4d} of {len(rows):3d}{elsewhere:11d}{np.median([row['evaluations'] for row in done]):13.0f}"
            f"{1e3 * np.median([row['seconds'] for row in done]):9.2f}{np.median(compiled):11.2f}"
        )
    for mine, other in (("jaxdiff LM", "optimistix LM"), ("jaxdiff BFGS", "optimistix BFGS")):
        if not {mine, other} <= set(table):
            continue
        pairs = {row["problem"]: row for row in table[other] if row["is_solved"]}
        both = [(row, pairs[row["problem"]]) for row in table[mine] if row["is_solved"] and row["problem"] in pairs]
        run = np.median([a["seconds"] / b["seconds"] for a, b in both])
        compiled = np.median(
            [a["compile_seconds"] / b["compile_seconds"] for a, b in both if a["compile_seconds"] and b["compile_seconds"]]
        )
        print(f"{mine} over {other}, median of {len(both)} runs that both solve: run time {run:.2f}, compile time {compiled:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="?", default="least_squares", choices=["least_squares", "minimize"])
    parser.add_argument("--sets", nargs="+", choices=["nist", "mgh"], help="default: both, for minimizers mgh")
    parser.add_argument("--solvers", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--every", type=int, default=1, help="only every k-th problem")
    options = parser.parse_args()
    is_fit = options.what == "least_squares"
    known = SOLVERS if is_fit else MINIMIZERS
    names = options.solvers or list(known)
    if unknown := set(names) - set(known):
        parser.error(f"--solvers {sorted(unknown)}; expected some of {sorted(known)}")
    sets = options.sets or (["nist", "mgh"] if is_fit else ["mgh"])
    jax.config.update("jax_enable_x64", True)
    chosen = problems(sets)[:: options.every]
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {len(chosen)} problems, sets {', '.join(sets)}")
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    table = held.setdefault(options.what, {})
    new: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    # Solvers in turns on each problem, so that other work on the machine troubles all of them alike.
    for problem in chosen:
        for name in names:
            new[name] += measure(problem, known[name])
    for name, rows in new.items():
        kept = {row["problem"]: row for row in table.get(name, [])} | {row["problem"]: row for row in rows}
        table[name] = list(kept.values())
    held |= {"jax": jax.__version__, "scipy": scipy.__version__}
    RESULTS.write_text(json.dumps(held, indent=1) + "\n")
    report(table)
    draw(table, options.what)


if __name__ == "__main__":
    main()
