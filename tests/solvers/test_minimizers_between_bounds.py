"""Bounds on minimizers: published minima, first-order conditions, bounds met to the last bit, one program for all bounds.

Hock and Schittkowski, Test Examples for Nonlinear Programming Codes (1981): the problems whose only constraints are bounds, without 25,
whose start lies where f is flat. Moré, Garbow and Hillstrom's with Gay's bounds come from the package's own data; Gulf and Box are left
out, whose published minima do not belong to the published data. The minima of the others follow in closed form.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.functions.mgh import load_mgh


@dataclasses.dataclass(frozen=True)
class Bounded:
    """A function, a start, bounds, and the smallest value between them."""

    fun: Callable[[jax.Array], jax.Array]
    start: Any
    lower: Any
    upper: Any
    minimum: float
    others: tuple[float, ...] = ()
    """Values of local minima that a descent method may honestly end in."""


def rosenbrock(x: jax.Array) -> jax.Array:
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def wood(x: jax.Array) -> jax.Array:
    a, b, c, d = x
    first = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
    return first + 10.1 * ((b - 1) ** 2 + (d - 1) ** 2) + 19.8 * (b - 1) * (d - 1)


def hs5(x: jax.Array) -> jax.Array:
    return jnp.sin(x[0] + x[1]) + (x[0] - x[1]) ** 2 - 1.5 * x[0] + 2.5 * x[1] + 1


def hs110(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.log(x - 2) ** 2 + jnp.log(10 - x) ** 2) - jnp.prod(x) ** 0.2


def extended_rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100 * (x[1::2] - x[::2] ** 2) ** 2 + (1 - x[::2]) ** 2)


def nearly_flat(x: jax.Array) -> jax.Array:
    """A convex quadratic whose Hessian is the Hilbert matrix, the condition of which is 1.5e7 at n = 6; its minimum is at -1."""
    i = jnp.arange(x.shape[0])
    return 0.5 * (x + 1) @ ((1 / (i[:, None] + i[None] + 1)) @ (x + 1))


def of_mgh(name: str) -> Bounded:
    problem = load_mgh(name)
    assert problem.bounds is not None
    assert problem.bounds.is_confirmed
    residual = problem.residual
    start = np.clip(problem.start, problem.bounds.lower, problem.bounds.upper)
    others = (WOOD_AT_ZERO,) if name == "Wood" else ()
    return Bounded(lambda x: jnp.sum(residual(x) ** 2), start, problem.bounds.lower, problem.bounds.upper, problem.bounds.f_min, others)


INF = np.inf
WOOD_AT_ZERO = 7.09383642512905
"""Wood's function at a local minimum on the bound x0 <= 0: the gradient of the other three found to vanish by mpmath, 30 digits; there
x = (0, 0.0123936, -1.3684863, 1.8823699), the derivative towards the inside is -2, and the Hessian of the others is positive definite."""
GAY = [name for name, problem in load_mgh().items() if problem.bounds is not None and problem.bounds.is_confirmed]

PROBLEMS: dict[str, Bounded] = {
    "HS 1": Bounded(rosenbrock, [-2.0, 1.0], [-INF, -1.5], [INF, INF], 0.0),
    # The other minimum is on the bound too, at x = (-1.2210, 1.5).
    "HS 2": Bounded(rosenbrock, [-2.0, 1.5], [-INF, 1.5], [INF, INF], 0.0504261879, (4.941229318,)),
    "HS 3": Bounded(lambda x: x[1] + 1e-5 * (x[1] - x[0]) ** 2, [10.0, 1.0], [-INF, 0.0], [INF, INF], 0.0),
    "HS 4": Bounded(lambda x: (x[0] + 1) ** 3 / 3 + x[1], [1.125, 0.125], [1.0, 0.0], [INF, INF], 8 / 3),
    "HS 5": Bounded(hs5, [0.0, 0.0], [-1.5, -3.0], [4.0, 3.0], -np.sqrt(3) / 2 - np.pi / 3),
    "HS 38": Bounded(wood, [-3.0, -1.0, -3.0, -1.0], [-10.0] * 4, [10.0] * 4, 0.0),
    "HS 45": Bounded(lambda x: 2 - jnp.prod(x) / 120, [1.0, 1.0, 1.5, 2.0, 2.5], [0.0] * 5, [1.0, 2.0, 3.0, 4.0, 5.0], 1.0),
    "HS 110": Bounded(hs110, [9.0] * 10, [2.001] * 10, [9.999] * 10, -45.77846971),
    **{f"MGH {name}": of_mgh(name) for name in GAY},
    # min over x0 <= 1/2 of Rosenbrock: x1 = x0^2, f = (1 - x0)^2.
    "Rosenbrock, x0 <= 1/2": Bounded(rosenbrock, [-2.0, 1.0], [-INF, -INF], [0.5, INF], 0.25),
    # x0 fixed at -1: x1 = 1, f = 4.
    "Rosenbrock, x0 fixed": Bounded(rosenbrock, [-1.0, 3.0], [-1.0, -INF], [-1.0, INF], 4.0),
    "Rosenbrock, all fixed": Bounded(rosenbrock, [-1.0, 3.0], [-1.0, 3.0], [-1.0, 3.0], 404.0),
    # Each pair: x_even <= 1/2.
    "Extended Rosenbrock": Bounded(extended_rosenbrock, [-1.2, 1.0] * 5, [-INF] * 10, [0.5, INF] * 5, 1.25),
    # A corner: the gradient is positive there in every coordinate, since the matrix is.
    "Hilbert, a corner": Bounded(
        nearly_flat, [1.0] * 6, [0.0] * 6, [2.0] * 6, 0.5 * float(np.sum(1 / (np.add.outer(range(6), range(6)) + 1)))
    ),
    # A maximum on the bound, where the gradient is 0: from 0.3 down to it there is no descent, and the minimum is at 1.
    "Concave": Bounded(lambda x: -jnp.sum(x**2), [0.3, 0.1], [0.0, 0.0], [1.0, 1.0], -2.0),
    # The free minimum lies on the bound exactly: a multiplier of 0.
    "Degenerate": Bounded(lambda x: (x[0] - 1) ** 2 + (x[0] + x[1] - 1) ** 2, [3.0, 2.0], [1.0, 0.0], [5.0, 5.0], 0.0),
    # Linear: x' c is smallest at the corner that c picks.
    "Linear": Bounded(lambda x: x @ jnp.array([1.0, -2.0, 3.0]), [0.1, 0.2, 0.3], [-1.0] * 3, [1.0] * 3, -6.0),
}


SOLVERS = {
    "bfgs": jd.BFGS(),
    "newton": jd.Newton(),
    "lbfgs": jd.LBFGS(memory=4),
    "nonlinear_cg": jd.NonlinearCG(),
    "trust_region_newton": jd.TrustRegionNewton(),
    "trust_region_newton_cg": jd.TrustRegionNewtonCG(),
    "gradient_descent": jd.GradientDescent(learning_rate=0.1),
    "strong_wolfe": jd.GradientDescent(line_search="strong_wolfe"),
    "barzilai_borwein": jd.GradientDescent(line_search="barzilai_borwein"),
    "optax": jd.FromOptax(optax.sgd(0.05)),
}
WIDTH = 10


def any_problem(x: jax.Array, number: jax.Array) -> jax.Array:
    """Every problem of the table in one program; what a problem does not use of x is fixed."""
    branches = [lambda x, p=p: jnp.asarray(p.fun(x[: len(p.start)]), x.dtype) for p in PROBLEMS.values()]
    return jax.lax.switch(number, branches, x)


def padded(values: Any) -> np.ndarray:
    return np.concatenate([np.asarray(values, float), np.zeros(WIDTH - len(values))])


@pytest.mark.parametrize("solver", [jd.BFGS(), jd.LBFGS(), jd.Newton()], ids=lambda s: s.name)
def test_published_minima_between_bounds_are_found_and_none_is_claimed_elsewhere(solver: Any) -> None:
    solved, false, honest = [], [], []
    for number, (name, problem) in enumerate(PROBLEMS.items()):
        lower, upper = padded(problem.lower), padded(problem.upper)
        result = jd.minimize(any_problem, padded(problem.start), number, bounds=(lower, upper), solver=solver, max_steps=500)
        x, gradient = np.asarray(result.x), np.asarray(result.jac)
        assert ((lower <= x) & (x <= upper)).all(), name
        near = [abs(float(result.fun) - value) <= 1e-8 * max(1, abs(value)) for value in (problem.minimum, *problem.others)]
        held = ((x == lower) & (gradient >= 0)) | ((x == upper) & (gradient <= 0)) | (lower == upper)
        assert float(result.optimality) == pytest.approx(np.abs(np.where(held, 0, gradient)).max(initial=0), rel=1e-12), name
        (solved if any(near) and result.success else false if result.success else honest).append(name)
    assert false == []
    assert honest == []
    assert len(solved) == len(PROBLEMS) >= 24


def clipped(x: dict[str, jax.Array], target: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """Separable: its minimum between bounds is the target, clipped. Beyond the bounds it is NaN, and a NaN would be in the way."""
    flat = jnp.stack([x["a"][0], x["a"][1], x["b"]])
    inside = jnp.where(jnp.any((flat < lower) | (flat > upper)), jnp.nan, 1.0)
    smooth = jnp.sum(jnp.array([1.0, 3.0]) * (x["a"] - target[:2]) ** 2) + 2 * jnp.sum((x["b"] - target[2]) ** 4)
    return inside * (smooth + (x["b"] - target[2]) ** 2)


@pytest.mark.core
@pytest.mark.parametrize("name", SOLVERS)
def test_bounds_are_met_to_the_last_bit_and_f_is_never_asked_for_beyond_them(name: str) -> None:
    random = np.random.default_rng(3)
    targets = random.uniform(-3, 3, (40, 3))
    lower, upper = -random.uniform(0.1, 2, (40, 3)), random.uniform(0.1, 2, (40, 3))
    lower[::5, 1] = upper[::5, 1] = 0.0
    tree = lambda a: {"a": a[:, :2], "b": a[:, 2]}  # noqa: E731
    result = jd.minimize_batch(
        clipped,
        tree(np.zeros((40, 3))),
        (targets, lower, upper),
        bounds=(tree(lower), tree(upper)),
        solver=SOLVERS[name],
        max_steps=2000,
        options=jd.BatchOptions(mode="refill", lanes=8),
    )
    assert result.success.all()
    found = np.column_stack([result.x["a"], result.x["b"]])
    flags = np.column_stack([result.at_bound["a"], result.at_bound["b"]])
    np.testing.assert_allclose(found, np.clip(targets, lower, upper), atol=1e-6)
    is_outside = (targets < lower) | (targets > upper) | (lower == upper)
    np.testing.assert_array_equal(found[is_outside], np.clip(targets, lower, upper)[is_outside])
    np.testing.assert_array_equal(flags, np.where(lower == upper, 2, np.where(targets > upper, 1, np.where(targets < lower, -1, 0))))
    if name != "trust_region_newton_cg":
        # A step makes one trial; Hessian-vector products are counted too, and probes of null vectors.
        assert (result.nfev <= result.nit + 1 + (24 if "newton" in name else 0) * result.nit).all()


@pytest.mark.core
def test_solutions_are_differentiable_on_and_off_their_bounds() -> None:
    """x0 = a where it is free, x1 = min(3 a, b), x2 is fixed at 7."""
    fun = lambda x, a: (x[0] - a) ** 2 + (x[1] - 3 * a) ** 2 + x[2] ** 2 * a  # noqa: E731

    def solve(a: jax.Array, b: jax.Array) -> jax.Array:
        bounds = (jnp.array([-10.0, -10.0, 7.0]), jnp.stack([10.0 + 0 * b, b, 7.0 + 0 * b]))
        return jd.minimize(fun, jnp.array([0.0, 0.0, 7.0]), a, bounds=bounds).x

    for b, expected in ((4.0, [[1, 0], [0, 1], [0, 0]]), (9.0, [[1, 0], [3, 0], [0, 0]])):
        for jacobian in (jax.jacfwd, jax.jacrev):
            np.testing.assert_allclose(np.stack(jacobian(solve, argnums=(0, 1))(2.0, b), axis=1), expected, atol=1e-7)


def test_a_start_beyond_its_bounds_that_nobody_could_look_at_is_brought_inside() -> None:
    solve = jax.jit(lambda x0, upper: jd.minimize(rosenbrock, x0, bounds=(None, upper)))
    result = solve(jnp.array([3.0, 3.0]), jnp.array([0.5, jnp.inf]))
    assert result.success
    np.testing.assert_allclose(result.x, [0.5, 0.25], rtol=1e-7)


def test_a_bad_lane_leaves_its_neighbours_as_they_were() -> None:
    starts = np.random.default_rng(0).uniform(-2, 0.5, (6, 2))
    solve = functools.partial(jd.minimize_batch, rosenbrock, bounds=(None, np.array([0.5, np.inf])))
    clean = solve(starts)
    starts[2] = np.nan
    bad = solve(starts)
    assert bad.status[2] == jd.Status.NON_FINITE_START
    np.testing.assert_array_equal(np.delete(bad.x, 2, 0), np.delete(clean.x, 2, 0))
