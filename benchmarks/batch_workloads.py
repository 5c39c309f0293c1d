"""The workloads of `batch.py`: data, the function of one problem, and the peers, each a function of the data that returns its solutions.

Every peer is called as its own documentation has it, compiled where it can be, with exact derivatives where it takes them.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd

COLUMNS, ROWS = (axis.ravel().astype(np.float32) for axis in np.meshgrid(np.arange(7), np.arange(7)))
ECHOES = np.arange(1, 33, dtype=np.float32) * 10
SQUARE_ROOT_OF_HALF = 0.5**0.5


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to solve a workload.

    Attributes:
        name: for the table.
        solve: solves the first ``count`` problems; returns solutions ``[count, n]`` and steps per problem, or None.
        count: how many problems it is given.
    """

    name: str
    solve: Callable[[int], tuple[Any, Any]]
    count: int


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is solved.

    Attributes:
        name: for the table.
        unit: what is counted.
        cost: final costs of solutions ``[k, n]`` of the first k problems, by NumPy in float64.
        methods: ours first.
        flops: per trial and problem, for the floor.
        exponentials: per trial and problem.
        absolute: a difference of cost that counts as none.
    """

    name: str
    unit: str
    cost: Callable[[np.ndarray], np.ndarray]
    methods: list[Method]
    flops: float = 0.0
    exponentials: float = 0.0
    absolute: float = 0.0


# ---- peaks ----------------------------------------------------------------------------------------------------------------------------


def peak(p: jax.Array, y: jax.Array) -> jax.Array:
    """Residuals of a round Gaussian peak on 7 x 7 pixels: height, centre, width, background."""
    a, x0, y0, s, b = p[0], p[1], p[2], p[3], p[4]
    return a * jnp.exp(-((COLUMNS - x0) ** 2 + (ROWS - y0) ** 2) / (2 * s * s)) + b - y


def peaks(count: int, empty: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Starts within 30 % of the truth, and Poisson counts; in a fraction ``empty`` of the windows there is no peak."""
    rng = np.random.default_rng(0)
    low, high = [200, 2, 2, 0.7, 5], [1000, 4, 4, 1.6, 20]
    truth = rng.uniform(low, high, (count, 5)).astype(np.float32)
    start = (truth * rng.uniform(0.7, 1.3, truth.shape)).astype(np.float32)
    data = np.empty((count, 49), np.float32)
    height = np.where(rng.uniform(size=count) < empty, 0, truth[:, 0])
    for part in range(0, count, 1 << 16):
        held = slice(part, part + (1 << 16))
        _, x0, y0, s, b = truth[held].T[..., None]
        shape = np.exp(-((COLUMNS - x0) ** 2 + (ROWS - y0) ** 2) / (2 * s * s))
        data[held] = rng.poisson(height[held, None] * shape + b)
    return start, data


def peak_costs(data: np.ndarray, solution: np.ndarray) -> np.ndarray:
    a, x0, y0, s, b = np.asarray(solution, float).T[..., None]
    with np.errstate(all="ignore"):
        model = a * np.exp(-((COLUMNS - x0) ** 2 + (ROWS - y0) ** 2) / (2 * s * s)) + b
        return np.sum((model - data[: len(solution)]) ** 2, axis=1) / 2


def gaussian(count: int, peer_count: int, ftol: float = 1e-5) -> Workload:
    start, data = peaks(count)
    x0, y = jnp.asarray(start), jnp.asarray(data)
    from batch_numba import gaussian_lm

    def ours(k: int) -> tuple[Any, Any]:
        result = jd.least_squares_batch(peak, x0[:k], y[:k], solver=jd.LevenbergMarquardtCholesky(ftol=ftol), max_steps=200)
        return result.x, result.nit + 1

    methods = [
        Method("jaxdiff", ours, count),
        Method("numba, both cores", lambda k: gaussian_lm(start[:k], data[:k], COLUMNS, ROWS, ftol, 200), count),
        Method("optimistix LevenbergMarquardt, vmap", optimistix_lm(peak, x0, y, ftol), peer_count),
    ]
    # Per sample: 12 for the model, 8 for its columns, 42 for 21 sums of products; per trial: two factorizations and their solutions.
    return Workload("gaussian", "fits", functools.partial(peak_costs, data), methods, flops=49 * 62 + 2 * 150, exponentials=49)


def optimistix_lm(residual: Callable[..., jax.Array], x0: jax.Array, y: jax.Array, tol: float) -> Callable[[int], tuple[Any, Any]]:
    import optimistix

    solver = optimistix.LevenbergMarquardt(rtol=tol, atol=tol)

    @jax.jit
    @jax.vmap
    def solve(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = optimistix.least_squares(residual, solver, x, args=y, max_steps=200, throw=False)
        return found.value, found.stats["num_steps"]

    return lambda k: solve(x0[:k], y[:k])


# ---- T2 -------------------------------------------------------------------------------------------------------------------------------


def decay(t: jax.Array, a: jax.Array, t2: jax.Array, c: jax.Array) -> jax.Array:
    """Signal of a spin echo: amplitude, T2 and offset."""
    return a * jnp.exp(-t / t2) + c


def t2(count: int, peer_count: int, ftol: float | None = None) -> Workload:
    rng = np.random.default_rng(1)
    truth = rng.uniform([500, 30, 0], [1500, 150, 50], (count, 3)).astype(np.float32)
    start = np.broadcast_to(np.array([800, 80, 10], np.float32), truth.shape)
    data = np.empty((count, ECHOES.size), np.float32)
    for part in range(0, count, 1 << 16):
        held = slice(part, part + (1 << 16))
        a, rate, c = truth[held].T[..., None]
        data[held] = a * np.exp(-ECHOES / rate) + c + rng.normal(0, 5, (len(a), ECHOES.size))
    x0, y = jnp.asarray(start), jnp.asarray(data)

    def ours(k: int) -> tuple[Any, Any]:
        solver = jd.LevenbergMarquardtCholesky(ftol=ftol)
        result = jd.least_squares_batch(decay_residuals, x0[:k], y[:k], solver=solver, max_steps=200)
        return result.x, result.nit + 1

    def with_covariance(k: int) -> tuple[Any, Any]:
        result = jd.curve_fit_batch(decay, ECHOES, y[:k], x0[:k], max_steps=200)
        return result.x, result.nit + 1

    def scipy_loop(k: int) -> tuple[Any, Any]:
        from scipy.optimize import curve_fit

        model = lambda t, a, t2, c: a * np.exp(-t / t2) + c  # noqa: E731
        t, held, p0 = ECHOES.astype(float), data.astype(float), start.astype(float)
        return np.array([curve_fit(model, t, held[i], p0[i])[0] for i in range(k)]), None

    def costs(solution: np.ndarray) -> np.ndarray:
        a, rate, c = np.asarray(solution, float).T[..., None]
        with np.errstate(all="ignore"):
            return np.sum((a * np.exp(-ECHOES / rate) + c - data[: len(solution)]) ** 2, axis=1) / 2

    methods = [
        Method("jaxdiff least_squares_batch", ours, count),
        Method("jaxdiff curve_fit_batch (with covariances)", with_covariance, count),
        Method("scipy curve_fit, a loop", scipy_loop, min(peer_count, 4000)),
        Method("optimistix LevenbergMarquardt, vmap", optimistix_lm(decay_residuals, x0, y, 1e-5), peer_count),
    ]
    return Workload("t2", "fits", costs, methods, flops=32 * 34 + 100, exponentials=32)


def decay_residuals(p: jax.Array, y: jax.Array) -> jax.Array:
    return decay(ECHOES, p[0], p[1], p[2]) - y


# ---- Rosenbrock -----------------------------------------------------------------------------------------------------------------------


def chained_rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rosenbrock(n: int, count: int, peer_count: int) -> Workload:
    start = np.random.default_rng(2).uniform(-2, 2, (count, n))
    x0 = jnp.asarray(start)

    def ours(k: int) -> tuple[Any, Any]:
        result = jd.minimize_batch(chained_rosenbrock, x0[:k], solver=jd.BFGS(gtol=1e-6), max_steps=1000)
        return result.x, result.nit + 1

    def scipy_loop(k: int) -> tuple[Any, Any]:
        from scipy.optimize import minimize, rosen, rosen_der

        return np.array([minimize(rosen, start[i], jac=rosen_der, method="BFGS", options={"gtol": 1e-6}).x for i in range(k)]), None

    def costs(solution: np.ndarray) -> np.ndarray:
        x = np.asarray(solution, float)
        return np.sum(100 * (x[:, 1:] - x[:, :-1] ** 2) ** 2 + (1 - x[:, :-1]) ** 2, axis=1)

    methods = [
        Method("jaxdiff BFGS", ours, count),
        Method("optimistix BFGS, vmap", optimistix_bfgs(lambda x, _: chained_rosenbrock(x), x0, None), peer_count),
        Method("scipy BFGS, a loop", scipy_loop, min(peer_count, 500)),
    ]
    # A trial: f and its gradient, H y, the update of half of H, H g.
    return Workload(f"rosenbrock {n}", "minima", costs, methods, flops=16 * n + 9 * n * n, absolute=1e-8)


def optimistix_bfgs(fun: Callable[..., jax.Array], x0: jax.Array, data: Any, tol: float = 1e-6) -> Callable[[int], tuple[Any, Any]]:
    import optimistix

    solver = optimistix.BFGS(rtol=tol, atol=tol)

    @jax.jit
    @jax.vmap
    def solve(x: jax.Array, data: Any) -> tuple[jax.Array, jax.Array]:
        found = optimistix.minimise(fun, solver, x, args=data, max_steps=1000, throw=False)
        return found.value, found.stats["num_steps"]

    return lambda k: solve(x0[:k], jax.tree.map(lambda leaf: leaf[:k], data))


# ---- ridge logistic regression --------------------------------------------------------------------------------------------------------


def ridge_logistic(w: jax.Array, rows: jax.Array, labels: jax.Array) -> jax.Array:
    """Negative log likelihood of labels -1 and 1, with a ridge."""
    return jnp.sum(jax.nn.softplus(-labels * (rows @ w))) + 0.05 * jnp.sum(w * w)


def logistic(count: int, peer_count: int) -> Workload:
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(count, 50, 8))
    truth = rng.normal(size=(count, 8))
    chance = 1 / (1 + np.exp(-np.einsum("gij,gj->gi", rows, truth)))
    labels = np.where(rng.uniform(size=chance.shape) < chance, 1.0, -1.0)
    x0, data = jnp.zeros((count, 8)), (jnp.asarray(rows), jnp.asarray(labels))

    def ours(k: int) -> tuple[Any, Any]:
        result = jd.minimize_batch(ridge_logistic, x0[:k], (data[0][:k], data[1][:k]), solver=jd.Newton(gtol=1e-6))
        return result.x, result.nit + 1

    def jaxopt_lbfgs() -> Callable[[int], tuple[Any, Any]]:
        import jaxopt

        solver = jaxopt.LBFGS(ridge_logistic, maxiter=200, tol=1e-6, implicit_diff=False)
        solve = jax.jit(jax.vmap(lambda x, rows, labels: solver.run(x, rows, labels).params))
        return lambda k: (solve(x0[:k], data[0][:k], data[1][:k]), None)

    def scipy_loop(k: int) -> tuple[Any, Any]:
        from scipy.optimize import minimize

        def value_and_gradient(w: np.ndarray, held: np.ndarray, label: np.ndarray) -> tuple[float, np.ndarray]:
            margin = -label * (held @ w)
            pull = -label / (1 + np.exp(-margin))
            return float(np.logaddexp(0, margin).sum() + 0.05 * w @ w), pull @ held + 0.1 * w

        found = [
            minimize(value_and_gradient, np.zeros(8), (rows[i], labels[i]), jac=True, method="BFGS", options={"gtol": 1e-6}).x
            for i in range(k)
        ]
        return np.array(found), None

    def costs(solution: np.ndarray) -> np.ndarray:
        w = np.asarray(solution, float)
        k = len(w)
        margin = -labels[:k] * np.einsum("gij,gj->gi", rows[:k], w)
        return np.logaddexp(0, margin).sum(axis=1) + 0.05 * np.sum(w * w, axis=1)

    one = lambda w, held: ridge_logistic(w, *held)  # noqa: E731
    methods = [
        Method("jaxdiff Newton", ours, count),
        Method("optimistix BFGS, vmap", optimistix_bfgs(one, x0, data), peer_count),
        Method("jaxopt LBFGS, vmap", jaxopt_lbfgs(), min(peer_count, 1000)),
        Method("scipy BFGS, a loop", scipy_loop, min(peer_count, 1000)),
    ]
    # Per row: two products with the row, 36 sums of products for the Hessian; per group: a factorization.
    return Workload("logistic", "groups", costs, methods, flops=50 * (32 + 8 + 72 + 20) + 400, exponentials=50)


# ---- implied volatilities -------------------------------------------------------------------------------------------------------------


def excess(v: jax.Array, strike: jax.Array, term: jax.Array, price: jax.Array) -> jax.Array:
    """Black-Scholes value of a call on 100 without interest, less its price."""
    spread = v * jnp.sqrt(term)
    d = jnp.log(100 / strike) / spread + spread / 2
    below = lambda z: jax.lax.erfc(-z * SQUARE_ROOT_OF_HALF) / 2  # noqa: E731
    return 100 * below(d) - strike * below(d - spread) - price


def volatility(count: int, peer_count: int) -> Workload:
    from scipy.optimize import newton
    from scipy.special import ndtr

    rng = np.random.default_rng(0)
    strike, term, true = rng.uniform(80, 120, count), rng.uniform(0.25, 2, count), rng.uniform(0.15, 0.6, count)
    start = jnp.full(count, 0.3)
    price = np.asarray(jax.jit(excess)(true, strike, term, 0.0))
    held = [jnp.asarray(leaf) for leaf in (strike, term, price)]

    def ours(k: int) -> tuple[Any, Any]:
        result = jd.root_batch(excess, start[:k], tuple(leaf[:k] for leaf in held))
        return result.x[:, None], result.nit + 1

    def bracketed(k: int) -> tuple[Any, Any]:
        result = jd.root_scalar_batch(excess, (0.01, 3.0), tuple(leaf[:k] for leaf in held), in_axes=(None, 0, 0, 0))
        return result.x[:, None], result.nit + 1

    def scipy_newton(k: int) -> tuple[Any, Any]:
        s, t, c = strike[:k], term[:k], price[:k]

        def value(v: np.ndarray) -> np.ndarray:
            spread = v * np.sqrt(t)
            d = np.log(100 / s) / spread + spread / 2
            return 100 * ndtr(d) - s * ndtr(d - spread) - c

        def slope(v: np.ndarray) -> np.ndarray:
            spread = v * np.sqrt(t)
            d = np.log(100 / s) / spread + spread / 2
            return 100 * np.sqrt(t) * np.exp(-d * d / 2) / np.sqrt(2 * np.pi)

        return newton(value, np.full(k, 0.3), fprime=slope)[:, None], None

    methods = [
        Method("jaxdiff root_batch", ours, count),
        Method("jaxdiff root_scalar_batch", bracketed, count),
        Method("scipy newton on arrays", scipy_newton, peer_count),
    ]
    # The error of the root takes the place of a cost; 1e-9 of a volatility counts as none.
    errors = lambda solution: np.abs(np.asarray(solution, float)[:, 0] - true[: len(solution)])  # noqa: E731
    # Two erfc (about three exponentials' work each), two exponentials for the slope, a logarithm.
    return Workload("volatility", "roots", errors, methods, flops=60, exponentials=9, absolute=1e-9)
