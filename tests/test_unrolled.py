"""Derivatives of the steps themselves, against closed forms and against the implicit function theorem."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd


def tilted(x: jax.Array, a: jax.Array) -> jax.Array:
    """Convex; its minimum is at log(a) in each coordinate."""
    return jnp.sum(jnp.exp(x) - a * x)


@pytest.mark.parametrize(
    "solver", [jd.BFGS(), jd.Newton(), jd.GradientDescent(learning_rate=0.3), optax.sgd(0.3)], ids=lambda s: getattr(s, "name", "optax")
)
def test_unrolled_derivatives_are_those_of_the_closed_form(solver: Any) -> None:
    """x = log(a): dx/da = 1/a; the value f = a - a log(a) has slope -log(a)."""
    a = jnp.array([0.5, 1.7])

    def solve(a: jax.Array) -> tuple[jax.Array, jax.Array]:
        result = jd.minimize(tilted, jnp.zeros(2), a, solver=solver, differentiation="unrolled", max_steps=200)
        return result.x, result.fun

    # Each mode compiles as long again; the batch below takes both of them.
    of_x, of_value = (jax.jacfwd if isinstance(solver, jd.Newton) else jax.jacrev)(solve)(a)
    np.testing.assert_allclose(of_x, np.diag(1 / a), atol=1e-5)
    np.testing.assert_allclose(of_value, -np.log(a), atol=1e-5)


@pytest.mark.core
def test_a_derivative_with_respect_to_an_option_of_the_solver_is_that_of_the_steps() -> None:
    """One step of length r from 0 on (x - 1)^2 / 2 under gtol = 1: x = r, so that dx/dr = 1; the implicit derivative is 0."""

    def solve(rate: jax.Array, how: str) -> jax.Array:
        solver = jd.GradientDescent(learning_rate=rate, line_search="fixed", gtol=0.9)
        return jd.minimize(lambda x: (x - 1) ** 2 / 2, 0.0, solver=solver, differentiation=how, max_steps=3).x

    assert float(jax.grad(solve)(0.25, "unrolled")) == pytest.approx(1.0, rel=1e-12)
    assert float(jax.grad(solve)(0.25, "implicit")) == 0.0


@pytest.mark.core
def test_unrolled_problems_of_a_batch_that_were_not_solved_are_flagged_and_no_others() -> None:
    """The second problem starts at NaN; x1 is held at its bound of 0 and does not move with a."""
    starts = jnp.array([[0.0, 0.0], [jnp.nan, 0.0], [0.3, 0.0]])

    def solve(a: jax.Array) -> jax.Array:
        given = {"bounds": (None, jnp.array([jnp.inf, 0.0])), "solver": jd.GradientDescent(learning_rate=0.3)}
        return jd.minimize_batch(tilted, starts, a, **given, differentiation="unrolled", in_axes=(0, None), max_steps=100).x

    a = jnp.array([0.5, 1.7])
    forward, reverse = jax.jacfwd(solve)(a), jax.jacrev(solve)(a)
    for jacobian in (forward, reverse):
        np.testing.assert_allclose(jacobian[0], [[2.0, 0.0], [0.0, 0.0]], atol=1e-5)
        np.testing.assert_allclose(jacobian[2], [[2.0, 0.0], [0.0, 0.0]], atol=1e-5)
    assert np.isnan(reverse[1]).any()
    unsolved = lambda a: jd.minimize(tilted, jnp.zeros(2), a, differentiation="unrolled", max_steps=1).x  # noqa: E731
    assert np.isnan(jax.jacrev(unsolved)(a)).all()


def test_unrolled_and_looped_runs_end_alike() -> None:
    looped = jd.minimize(tilted, jnp.zeros(2), jnp.array([0.5, 1.7]))
    unrolled = jd.minimize(tilted, jnp.zeros(2), jnp.array([0.5, 1.7]), differentiation="unrolled", max_steps=40)
    np.testing.assert_allclose(unrolled.x, looped.x, rtol=1e-12)
    assert (unrolled.nit, unrolled.nfev, unrolled.status) == (looped.nit, looped.nfev, looped.status)


def test_words_and_combinations_that_make_no_sense_are_named() -> None:
    with pytest.raises(ValueError, match=r"differentiation = 'unroled'; expected one of 'implicit', 'unrolled'.*did you mean 'unrolled'"):
        jd.minimize(tilted, [0.0], 1.0, differentiation="unroled")
    with pytest.raises(ValueError, match="history = True with differentiation = 'unrolled'"):
        jd.minimize(tilted, [0.0], 1.0, differentiation="unrolled", history=True)
