"""Columns of a Jacobian one by one, held against jax.jacfwd, and sparse where the function takes its argument apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import functions as fn
from jaxdiff.derivatives.columns import value_and_columns

T = np.linspace(0.1, 2.0, 6)


@jax.custom_jvp
def doubled(x: jax.Array) -> jax.Array:
    return 2 * x


doubled.defjvp(lambda primals, tangents: (doubled(primals[0]), 5 * tangents[0]))


def scanned(x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda carry, t: (carry + t * x[1], jnp.sin(carry) * x[0]), x[2], T)[1]


FUNCTIONS = {
    "indexed": lambda x: x[0] * jnp.exp(-x[1] * T) + x[-1],
    "unpacked": lambda x: (lambda a, b, c: a * jnp.exp(-b * T) + c)(*x),
    "sliced": lambda x: jnp.sum(x[1:]) * T + x[:2] @ jnp.ones((2, 6)),
    "whole": lambda x: jnp.sin(x) @ jnp.ones((3, 6)) * T,
    "reshaped": lambda x: (x.reshape(3, 1)[::-1] * T)[0] * x[1],
    "inside jit": lambda x: jax.jit(lambda y: y[0] * T + y[2])(x) * jax.jit(jnp.sin)(x[1]),
    "rule of its own": lambda x: doubled(x[1]) * T + fn.tanh(x[0]),
    "scan": scanned,
    "returns an argument": lambda x: x,
    "constant": lambda x: jnp.asarray(T),
    "split": lambda x: (lambda parts: parts[0][0] * T + parts[1][1])(jnp.split(x, [1])),
    "condition": lambda x: jax.lax.cond(x[0] > 0, lambda: x[1] * T, lambda: x[2] * T),
}


@pytest.mark.core
@pytest.mark.parametrize("name", FUNCTIONS)
def test_columns_are_those_of_jacfwd(name: str) -> None:
    f, x = FUNCTIONS[name], jnp.array([0.7, 0.4, -0.3])
    value, columns = jax.jit(lambda x: value_and_columns(f, x))(x)
    np.testing.assert_allclose(value, f(x), rtol=1e-14)
    np.testing.assert_allclose(jnp.stack(columns, axis=-1), jax.jacfwd(f)(x), rtol=1e-13, atol=1e-15)


def test_what_a_parameter_does_not_touch_is_not_computed_for_it() -> None:
    f = FUNCTIONS["unpacked"]
    program = str(jax.make_jaxpr(lambda x: value_and_columns(f, x)[1][2])(jnp.ones(3)))
    columns = jax.make_jaxpr(lambda x: value_and_columns(f, x)[1][2])(jnp.ones(3)).jaxpr
    used = {columns.outvars[0]}
    for equation in reversed(columns.eqns):
        if used & set(equation.outvars):
            used |= {atom for atom in equation.invars if not hasattr(atom, "val")}
            assert equation.primitive.name != "exp", program
