"""What minimizers say where something is wrong with f, the start or the arithmetic: an honest status, whatever the solver."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

# Compiles faster than lanes that are refilled.
ALONE = jd.BatchOptions(mode="lockstep")
GRADIENT_ONLY = [jd.BFGS(), jd.LBFGS(), jd.NonlinearCG(), jd.GradientDescent(line_search="barzilai_borwein")]
SECOND_ORDER = [jd.Newton(), jd.TrustRegionNewton(), jd.TrustRegionNewtonCG()]
SOLVERS = [*GRADIENT_ONLY, *SECOND_ORDER]

FUNCTIONS: dict[str, Any] = {
    "line": lambda u, v: -u,
    "exponential": lambda u, v: -jnp.exp(u) + v**2,
    "edge": lambda u, v: jnp.where(jnp.abs(u) > 1e6, -jnp.inf, -(u**2) - u) + v**2,
    "pole": lambda u, v: jnp.log(jnp.abs(u)) + v**2,
    "saddle": lambda u, v: u**2 - v**2,
    "bowl": lambda u, v: (u - 1) ** 2 + v**2,
    "noise": lambda u, v: (u - 1) ** 2 + v**2 + 1e-2 * noise(u + v),
    "cosh": lambda u, v: jnp.exp(u) + jnp.exp(-u) + v**2,
    "walled in": lambda u, v: jnp.where(jnp.abs(u) < 2, (u - 1) ** 2, jnp.inf) + v**2,
    "walled off": lambda u, v: jnp.where(u > 2, u, jnp.inf) + v**2,
    "barrier": lambda u, v: u - jnp.log(u) + v**2,
    "without slope": lambda u, v: u**2 + without_slope(u) + v**2,
    "kink": lambda u, v: jnp.abs(u - 0.3) + jnp.abs(v),
    "valley": lambda u, v: (1 - u) ** 2 + 100 * (v - u**2) ** 2,
}
# Each function, what it is multiplied by, its start, and where its minimum is; None where there is none.
CASES: dict[str, tuple[str, float, tuple[float, float], tuple[float, float] | None]] = {
    "falls along a line": ("line", 1, (1.0, 0.0), None),
    "falls along a line, times 1e-6": ("line", 1e-6, (1.0, 0.0), None),
    "falls as an exponential": ("exponential", 1, (0.0, 1.0), None),
    "falls off an edge": ("edge", 1, (1.0, 0.0), None),
    "falls to a pole": ("pole", 1, (1.0, 1.0), None),
    "saddle at the start": ("saddle", 1, (0.0, 0.0), None),
    "minimum at the start": ("bowl", 1, (1.0, 0.0), (1.0, 0.0)),
    "minimum at the start, times 1e6": ("bowl", 1e6, (1.0, 0.0), (1.0, 0.0)),
    "minimum at the start, times 1e-6": ("bowl", 1e-6, (1.0, 0.0), (1.0, 0.0)),
    "noise that no gradient sees": ("noise", 1, (3.0, 1.0), (1.0, 0.0)),
    "overflow far from the minimum": ("cosh", 1, (80.0, 1.0), (0.0, 0.0)),
    "infinity around the minimum": ("walled in", 1, (1.9, 3.0), (1.0, 0.0)),
    "infinity before the minimum": ("walled off", 1, (2.5, 1.0), None),
    "leaves its domain on the way": ("barrier", 1, (1e-3, 1.0), (1.0, 0.0)),
    "NaN at the start": ("barrier", 1, (-1.0, 0.0), None),
    "NaN in the gradient of the start": ("without slope", 1, (1.0, 1.0), None),
    "NaN in the gradient on the way": ("without slope", 1, (3.0, 1.0), None),
    "kink": ("kink", 1, (1.0, 2.0), (0.3, 0.0)),
    "valley": ("valley", 1, (-1.2, 1.0), (1.0, 1.0)),
}
NAMES = list(CASES)
UNBOUNDED = ("falls along a line", "falls as an exponential", "falls off an edge")
AT_START = [name for name in CASES if name.startswith("minimum at the start")]
EASY = ("infinity around the minimum", "leaves its domain on the way")


def noise(x: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(jnp.sin(1e6 * x))


@jax.custom_jvp
def without_slope(u: jax.Array) -> jax.Array:
    """Zero, with a slope of NaN at and below 2."""
    return jnp.zeros_like(u)


@without_slope.defjvp
def _without_slope_jvp(primals: Any, tangents: Any) -> Any:
    return without_slope(*primals), jnp.where(primals[0] > 2, 0, jnp.nan) * tangents[0]


def fun(x: jax.Array, kind: jax.Array, factor: jax.Array) -> jax.Array:
    # Where a function is not asked for it is given a point at which it is well, so that no lane sees another lane's NaN.
    values = [case(*jnp.where(kind == k, x, jnp.array([2.5, 1.0], x.dtype))) for k, case in enumerate(FUNCTIONS.values())]
    return factor * jnp.select([kind == k for k in range(len(FUNCTIONS))], values)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_statuses_are_honest(solver: Any) -> None:
    """In single precision, where everything overflows, underflows and rounds soonest."""
    names, factors, starts, _ = zip(*CASES.values(), strict=True)
    data = (np.array([list(FUNCTIONS).index(name) for name in names]), np.array(factors, np.float32))
    result = jd.minimize_batch(fun, np.array(starts, np.float32), data, solver=solver, max_steps=600, options=ALONE)
    status = {name: jd.Status(int(code)).name for name, code in zip(CASES, result.status, strict=True)}
    claimed = {name for name, ok in zip(CASES, result.success, strict=True) if ok}
    steps = dict(zip(CASES, result.nit.tolist(), strict=True))
    assert np.isfinite(result.x).all()

    for name, (*_, minimum) in CASES.items():
        if name in claimed and not (name == "saddle at the start" and solver in GRADIENT_ONLY):
            assert minimum is not None, (name, status[name], "there is no minimum")
            np.testing.assert_allclose(result.x[NAMES.index(name)], minimum, atol=2e-2 if "noise" in name else 2e-3, err_msg=name)
    assert {name: status[name] for name in UNBOUNDED} == dict.fromkeys(UNBOUNDED, "UNBOUNDED")
    assert claimed >= {*AT_START, *EASY}
    assert [steps[name] for name in AT_START] == [0, 0, 0]
    assert status["NaN at the start"] == status["NaN in the gradient of the start"] == "NON_FINITE_START"
    assert "valley" in claimed or isinstance(solver, jd.GradientDescent)
