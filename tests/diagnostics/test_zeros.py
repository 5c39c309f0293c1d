"""True zeros and lost ones: slopes that are zero by definition, by underflow, and by rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diagnostics.zeros import with_lost_zeros
from jaxdiff.functions import activations

# The names that JAX gives its programs' parts change between versions.
pytestmark = pytest.mark.core


def test_slopes_that_underflow_or_round_to_zero_are_lost_and_those_of_switched_off_units_are_not() -> None:
    smooth = {"jnp.tanh": jnp.tanh, "jax.nn.sigmoid": jax.nn.sigmoid, "tanh": activations.tanh, "silu": activations.silu}
    broken = {
        "jax.nn.relu": jax.nn.relu,
        "relu": activations.relu,
        "hard_tanh": activations.hard_tanh,
        "maximum": lambda x: jnp.maximum(x, 0),
    }

    def slopes(x):
        return {name: jax.vmap(jax.grad(f))(x) for name, f in (smooth | broken).items()}

    x = jnp.array([-400.0, 0.5], jnp.float32)
    found, lost = jax.jit(with_lost_zeros(slopes))(x)
    for name in smooth | broken:
        # sech(400)^2 and its like are far below the smallest number of single precision, and positive.
        assert found[name][0] == 0
        assert lost[name].tolist() == [name in smooth, False], name
        np.testing.assert_array_equal(found[name], jax.vmap(jax.grad((smooth | broken)[name]))(x))


def test_products_and_sums_are_told_apart_by_what_they_are_made_of() -> None:
    def parts(x):
        tiny = x * 1e-30
        return {
            "underflow": tiny * tiny,
            "zero factor": tiny * (x - x),
            "one minus one": jnp.ones(2) - 1.0,
            "one minus cos": 1.0 - jnp.cos(x * 1e-6),
            "product with zeros": jnp.ones((2, 2)) @ (0.0 * x),
            "product that underflows": jnp.eye(2, dtype=x.dtype) * tiny @ tiny,
        }

    values, lost = with_lost_zeros(parts)(jnp.array([1.0, 2.0], jnp.float32))
    assert all(not np.any(value) for value in values.values())
    marks = {name: mark.tolist() for name, mark in lost.items()}
    gone, true = [True, True], [False, False]
    assert marks == {
        "underflow": gone,
        "zero factor": true,
        "one minus one": true,
        "one minus cos": gone,
        "product with zeros": true,
        "product that underflows": gone,
    }


def test_loops_and_branches_are_looked_into() -> None:
    def deep(w, gate):
        h = jax.lax.scan(lambda h, _: (jax.lax.cond(gate, jnp.tanh, jax.nn.relu, w * h), None), jnp.ones(()), None, length=3)[0]
        return h

    slope = jax.jit(with_lost_zeros(jax.grad(deep)))
    assert [part.tolist() for part in slope(60.0, True)] == [0.0, True]
    # A relu of a negative number is off, whatever comes after.
    assert [part.tolist() for part in slope(-60.0, False)] == [0.0, False]
