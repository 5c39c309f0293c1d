"""A gradient has units: what is claimed of f times 1e-6, plus 1e4, or with x in other units must hold of f itself."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

# What f is multiplied by, what is added to it, the unit of x.
CHANGES = np.array([[1, 0, 1], [1e6, 0, 1], [1e-6, 0, 1], [1, 1e4, 1], [1, 0, 1024], [1, 0, 1 / 1024]], np.float32)
# Compiles faster than lanes that are refilled.
ALONE = jd.BatchOptions(mode="lockstep")
IS_CLIFF = np.repeat([False, True, False], len(CHANGES))
STARTS = np.array([[-1.2, 1.0], [0.0, -1.0], [1.0, 1.0]], np.float32)


def cube(x: jax.Array) -> jax.Array:
    return 100 * (x[1] - x[0] ** 3) ** 2 + (1 - x[0]) ** 2


def cliff(x: jax.Array) -> jax.Array:
    return ((x[0] - 3) / 100) ** 2 - (x[0] - x[1]) + jnp.exp(20 * (x[0] - x[1]))


def changed(x: jax.Array, is_cliff: jax.Array, change: jax.Array) -> jax.Array:
    factor, offset, unit = change
    x = x * unit
    # Where a function is not asked for it is given a point at which nothing overflows.
    return factor * jnp.where(is_cliff, cliff(jnp.where(is_cliff, x, 0)), cube(jnp.where(is_cliff, 0, x))) + offset


@pytest.mark.parametrize("solver", [jd.BFGS(), jd.LBFGS(), jd.Newton()], ids=lambda s: s.name)
def test_no_success_is_false_in_other_units_and_a_start_at_the_minimum_takes_no_step(solver: Any) -> None:
    """Single precision, where gtol is 3e-4; minima by CUTEst: 0 at (1, 1), and 0.199787."""
    result = minimized(solver)
    claimed = np.asarray(result.success)
    for lane in np.flatnonzero(claimed):
        offset, unit = CHANGES[lane % 6, 1:].astype(float)
        point = jnp.asarray(np.asarray(result.x[lane], float) * unit)
        fun, minimum = (cliff, 0.199787) if IS_CLIFF[lane] else (cube, 0.0)
        # Behind 1e4 two units in the last place hide 2.4e-3 of f.
        if float(fun(point)) > minimum + 1e-4 + 2.4e-7 * offset:
            rounding = 1e-6 * jnp.abs(jax.hessian(fun)(point)) @ jnp.abs(point)
            assert (jnp.abs(jax.grad(fun)(point)) <= 5e-4 + rounding).all(), (lane, point, result.status[lane])
    assert claimed[:12].sum() >= 7, "an honest status without success would be no use"
    np.testing.assert_array_equal(result.nit[12:], 0)
    assert claimed[12:].all()


def test_a_gtol_that_is_given_is_what_it_says() -> None:
    result = minimized(jd.BFGS(gtol=1e-2))
    assert result.success[2]
    assert result.nit[2] == 0, "the gradient of 1e-6 f is 2.4e-3 at the start"


def minimized(solver: Any) -> Any:
    """Both functions in all units, and one from its minimum."""
    starts = np.concatenate([start / CHANGES[:, 2:] for start in STARTS])
    return jd.minimize_batch(changed, starts, (IS_CLIFF, np.tile(CHANGES, (3, 1))), solver=solver, max_steps=400, options=ALONE)
