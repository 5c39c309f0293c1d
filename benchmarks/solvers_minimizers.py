"""The minimizers that `solvers.py minimize` compares, each a function of the start and the data that returns x, evaluations and success.

All minimize the sum of squares of the problem's residuals, in float64, with exact gradients. Evaluations are those of f with its gradient:
nfev of jaxdiff, SciPy and jaxopt, steps of optimistix (one evaluation each), steps and those of its line search of optax.
"""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import jaxdiff as jd

GTOL = 1e-8
"""Of the peers; jaxdiff has its defaults."""
MAX_STEPS = 4000


def objective(problem: Any) -> Callable[..., jax.Array]:
    return lambda x, *data: jnp.sum(problem.residual(x, *data) ** 2)


def ours(solver: Any) -> Callable[[Any], Callable[..., Any]]:
    def bind(problem: Any) -> Callable[..., Any]:
        f = objective(problem)

        def solve(x: Any, *data: Any) -> Any:
            result = jd.minimize(f, x, data, solver=solver, max_steps=MAX_STEPS)
            return result.x, result.nfev, result.success

        return jax.jit(solve)

    return bind


def by_optimistix(problem: Any) -> Callable[..., Any]:
    import optimistix

    f = objective(problem)

    def solve(x: Any, *data: Any) -> Any:
        solver = optimistix.BFGS(rtol=GTOL, atol=GTOL)
        solution = optimistix.minimise(lambda x, data: f(x, *data), solver, x, data, max_steps=MAX_STEPS, throw=False)
        return solution.value, solution.stats["num_steps"], solution.result == optimistix.RESULTS.successful

    return jax.jit(solve)


def by_jaxopt(name: str) -> Callable[[Any], Callable[..., Any]]:
    def bind(problem: Any) -> Callable[..., Any]:
        import jaxopt

        f = objective(problem)

        def solve(x: Any, *data: Any) -> Any:
            x, state = getattr(jaxopt, name)(f, maxiter=MAX_STEPS, tol=GTOL, jit=True).run(x, *data)
            return x, state.num_fun_eval, state.error <= GTOL

        return jax.jit(solve)

    return bind


def by_optax(problem: Any) -> Callable[..., Any]:
    """The loop of optax's own example for `optax.lbfgs`."""
    import optax
    import optax.tree_utils

    f = objective(problem)

    def solve(x: Any, *data: Any) -> Any:
        of_x = lambda x: f(x, *data)  # noqa: E731
        transformation = optax.lbfgs()
        value_and_grad = optax.value_and_grad_from_state(of_x)

        def is_open(carry: Any) -> Any:
            _, state, _ = carry
            count, gradient = optax.tree_utils.tree_get(state, "count"), optax.tree_utils.tree_get(state, "grad")
            return (count == 0) | ((count < MAX_STEPS) & (jnp.linalg.norm(gradient) >= GTOL))

        def step(carry: Any) -> Any:
            x, state, evaluations = carry
            value, gradient = value_and_grad(x, state=state)
            updates, state = transformation.update(gradient, state, x, value=value, grad=gradient, value_fn=of_x)
            searched = optax.tree_utils.tree_get(state, "num_linesearch_steps")
            return optax.apply_updates(x, updates), state, evaluations + jnp.maximum(searched, 1)

        x, state, evaluations = jax.lax.while_loop(is_open, step, (x, transformation.init(x), 1))
        return x, evaluations, jnp.linalg.norm(optax.tree_utils.tree_get(state, "grad")) < GTOL

    return jax.jit(solve)


def by_scipy(method: str) -> Callable[[Any], Callable[..., Any]]:
    options = {"BFGS": {"gtol": GTOL}, "L-BFGS-B": {"gtol": GTOL, "ftol": 0.0, "maxfun": 10**6}, "trust-exact": {"gtol": GTOL}}[method]

    def bind(problem: Any) -> Callable[..., Any]:
        f = objective(problem)
        value_and_gradient, hessian = jax.jit(jax.value_and_grad(f)), jax.jit(jax.hessian(f))

        def both(x: np.ndarray, *data: Any) -> tuple[float, np.ndarray]:
            value, gradient = value_and_gradient(x, *data)
            return float(value), np.asarray(gradient)

        def solve(x: Any, *data: Any) -> Any:
            exact = {"hess": lambda x, *data: np.asarray(hessian(x, *data))} if method == "trust-exact" else {}
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                result = scipy.optimize.minimize(
                    both, np.asarray(x), data, jac=True, method=method, options=options | {"maxiter": MAX_STEPS}, **exact
                )
            return result.x, result.nfev, result.success

        return solve

    return bind


MINIMIZERS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "jaxdiff BFGS": ours(jd.BFGS()),
    "jaxdiff L-BFGS": ours(jd.LBFGS()),
    "jaxdiff trust-region Newton": ours(jd.TrustRegionNewton()),
    "optimistix BFGS": by_optimistix,
    "jaxopt BFGS": by_jaxopt("BFGS"),
    "jaxopt L-BFGS": by_jaxopt("LBFGS"),
    "optax L-BFGS": by_optax,
    "scipy BFGS": by_scipy("BFGS"),
    "scipy L-BFGS-B": by_scipy("L-BFGS-B"),
    "scipy trust-exact": by_scipy("trust-exact"),
}
