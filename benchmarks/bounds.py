"""Bounded minimizers on the 24 problems of ``tests/solvers/test_minimizers_between_bounds.py``, beside SciPy's.

Solved: the value is within 1e-8 of the published minimum, relative above one; elsewhere: within 1e-8 of a known local minimum. A claim of
success is false where neither holds. All solvers have default options and as many steps; evaluations count a value with its gradient once
(a Hessian-vector product too; a Hessian is not counted).

Usage: python benchmarks/bounds.py [--solvers bfgs lbfgs ...] [--peers] [--max-steps 1000] [--verbose]
"""

import argparse
import pathlib
import sys
import time
import warnings
from collections.abc import Callable

import jax
import numpy as np

import jaxdiff as jd

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests" / "solvers"))

SOLVERS: dict[str, object] = {
    "bfgs": jd.BFGS(),
    "newton": jd.Newton(),
    "lbfgs": jd.LBFGS(),
    "nonlinear_cg": jd.NonlinearCG(),
    "trust_region_newton": jd.TrustRegionNewton(),
    "trust_region_newton_cg": jd.TrustRegionNewtonCG(),
    "gradient_descent_strong_wolfe": jd.GradientDescent(line_search="strong_wolfe"),
    "gradient_descent_barzilai_borwein": jd.GradientDescent(line_search="barzilai_borwein"),
}
PEERS = {
    "L-BFGS-B": {"ftol": 1e-15, "gtol": 1e-8, "maxiter": 1000, "maxfun": 5000},
    "TNC": {"maxfun": 5000},
    "trust-constr": {"maxiter": 1000},
}

Answer = tuple[float, bool, int, str]


def by_jaxdiff(solver: object, max_steps: int) -> list[Answer]:
    import test_minimizers_between_bounds as table

    problems = list(table.PROBLEMS.values())
    starts, lower, upper = (np.stack([table.padded(getattr(p, name)) for p in problems]) for name in ("start", "lower", "upper"))
    result = jd.minimize_batch(
        table.any_problem, starts, np.arange(len(problems)), bounds=(lower, upper), solver=solver, max_steps=max_steps
    )
    assert bool(((lower <= result.x) & (result.x <= upper)).all()), "a bound was not kept"
    return [
        (float(f), bool(ok), int(count), jd.Status(int(code)).name)
        for f, ok, count, code in zip(result.fun, result.success, result.nfev, result.status, strict=True)
    ]


def by_scipy(method: str) -> list[Answer]:
    import scipy.optimize
    import test_minimizers_between_bounds as table

    answers = []
    for problem in table.PROBLEMS.values():
        both = jax.jit(jax.value_and_grad(lambda x, p=problem: p.fun(x).astype(float)))
        calls = 0

        def fun(x: np.ndarray, both: Callable = both) -> tuple[float, np.ndarray]:
            nonlocal calls
            calls += 1
            value, gradient = both(x)
            return float(value), np.asarray(gradient)

        found = scipy.optimize.minimize(
            fun,
            np.asarray(problem.start, float),
            jac=True,
            method=method,
            bounds=scipy.optimize.Bounds(problem.lower, problem.upper),
            options=PEERS[method],
        )
        answers.append((float(found.fun), bool(found.success), calls, str(found.message)))
    return answers


def show(name: str, answers: list[Answer], verbose: bool, seconds: float) -> None:
    import test_minimizers_between_bounds as table

    solved, elsewhere, false, open_ = 0, [], [], []
    for (title, problem), (value, has_claimed, count, words) in zip(table.PROBLEMS.items(), answers, strict=True):
        near = lambda minimum, value=value: abs(value - minimum) <= 1e-8 * max(1, abs(minimum))  # noqa: E731
        if near(problem.minimum):
            solved += 1
        elif any(near(other) for other in problem.others):
            elsewhere.append(f"{title} ({value:.6g})")
        elif has_claimed:
            false.append(f"{title} ({value:.6g} for {problem.minimum:.6g})")
        if not has_claimed:
            open_.append(f"{title} ({words}, {count} evaluations, {value:.6g})")
        if verbose:
            print(f"  {title:40s}{value:18.9g}{count:8d}  {words}")
    counts = [count for _, _, count, _ in answers]
    listed = lambda names: f"{len(names)} {'; '.join(names)}"  # noqa: E731
    spent = f"evaluations median {np.median(counts):.0f}, mean {np.mean(counts):.0f}"
    print(f"{name:36s} solved {solved} of {len(answers)}, {spent}; {seconds:.0f} s")
    print(
        f"    at a local minimum {listed(elsewhere)}\n    false successes {listed(false)}\n    no success claimed {listed(open_)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--solvers", nargs="*", default=list(SOLVERS), choices=list(SOLVERS))
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--max-steps", type=int, default=1000)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore")
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, float64, at most {options.max_steps} steps")
    for name in options.solvers:
        began = time.perf_counter()
        answers = by_jaxdiff(SOLVERS[name], options.max_steps)
        show(name, answers, options.verbose, time.perf_counter() - began)
    for method in PEERS if options.peers else ():
        began = time.perf_counter()
        answers = by_scipy(method)
        show(f"scipy {method}", answers, options.verbose, time.perf_counter() - began)


if __name__ == "__main__":
    main()
