"""Derivatives of all solutions of a batch, with problems among them that have none."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

A = jnp.array([1.0, 4.0, -1.0, 9.0, 2.25, 0.25, 16.0])
FAILED = 2
"""The problem whose datum is negative: its f or F is NaN everywhere."""


def solve(kind: str, a: jax.Array, scale: jax.Array, **options: Any) -> Any:
    """Seven problems with the solution scale * sqrt(a); the third has none."""
    chosen = jd.BatchOptions(**{"lanes": 2, "num_threads": 1} | options)
    starts = jnp.ones(7)
    if kind == "minimize":
        f = lambda x, a, s: (x - s * jnp.sqrt(a)) ** 2 + (x - s * jnp.sqrt(a)) ** 4  # noqa: E731
        return jd.minimize_batch(f, starts, (a, scale), in_axes=(0, 0, None), options=chosen)
    if kind == "least_squares":
        r = lambda x, a, s: jnp.stack([x - s * jnp.sqrt(a), 2 * (x - s * jnp.sqrt(a))])  # noqa: E731
        return jd.least_squares_batch(r, starts, (a, scale), in_axes=(0, 0, None), options=chosen)
    return jd.root_batch(
        lambda x, a, s: x * x / s**2 - jnp.where(a > 0, a, jnp.nan), starts, (a, scale), in_axes=(0, 0, None), options=chosen
    )


CASES = [("minimize", {"mode": "refill"}), ("least_squares", {"mode": "lockstep"}), ("root", {"mode": "refill"})]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_masked_failures_leave_derivatives_of_own_and_of_shared_data_intact(kind: str, options: dict[str, Any]) -> None:
    """x = s sqrt(a), so that d(sum x)/da = s / (2 sqrt(a)), and d(sum x)/ds is the sum of sqrt(a) over what was solved."""

    def loss(a: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
        result = solve(kind, a, scale, **options)
        return jnp.sum(jnp.where(result.success, result.x, 0)), jnp.sum(~result.success)

    (own, shared), num_failed = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(A, jnp.asarray(2.0))
    good = np.delete(np.arange(7), FAILED)
    assert int(num_failed) == 1
    np.testing.assert_allclose(own[good], 1 / np.sqrt(A[good]), rtol=1e-5)
    assert float(own[FAILED]) == 0
    np.testing.assert_allclose(shared, np.sum(np.sqrt(A[good])), rtol=1e-5)


def test_a_failure_that_is_not_masked_shows_in_its_own_derivative_and_in_no_other() -> None:
    own = jax.grad(lambda a: jnp.sum(solve("least_squares", a, jnp.asarray(2.0)).x))(A)
    np.testing.assert_array_equal(np.isnan(own), np.arange(7) == FAILED)
