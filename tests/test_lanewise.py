"""Functions of one lane in few loops: the same numbers as the function itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff.lanewise as module
from jaxdiff.lanewise import lanewise


def mixed(matrix: jax.Array, vector: jax.Array, number: jax.Array, flag: jax.Array) -> dict[str, jax.Array]:
    product = jnp.sum(matrix * vector, axis=1)
    return {"product": product, "largest": jnp.max(jnp.abs(vector), axis=0), "chosen": jnp.where(flag, number, -1), "is_low": number < 0}


def arguments() -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(16, 5))
    return numbers[:9].reshape(3, 3, 5), numbers[9:12], numbers[12], numbers[13] > 0


@pytest.mark.parametrize("limit", [240, 5])
def test_outputs_are_those_of_numpy_whatever_the_loops_hold(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOP_LIMIT", limit)
    matrix, vector, number, flag = arguments()
    found = jax.jit(lambda *trees: lanewise(mixed, *trees))(matrix, vector, number, flag)
    np.testing.assert_allclose(found["product"], np.einsum("ijl,jl->il", matrix, vector), rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(found["largest"], np.abs(vector).max(axis=0))
    np.testing.assert_array_equal(found["chosen"], np.where(flag, number, -1))
    np.testing.assert_array_equal(found["is_low"], number < 0)


def test_one_loop_is_made_where_operations_fit_and_none_where_they_cannot_be_written_out() -> None:
    trees = tuple(jnp.asarray(tree) for tree in arguments())
    # A loop is a reduction for CPU in the program, each in a branch of its own.
    num_loops = lambda function: str(jax.make_jaxpr(lambda *trees: lanewise(function, *trees))(*trees)).count("= reduce[")  # noqa: E731
    assert num_loops(mixed) == 1
    sort = lambda matrix, vector, number, flag: jnp.sort(vector, axis=0)  # noqa: E731
    assert num_loops(sort) == 0
    np.testing.assert_array_equal(lanewise(sort, *trees), np.sort(arguments()[1], axis=0))


def test_a_nan_in_one_lane_stays_there() -> None:
    matrix, vector, number, flag = arguments()
    spoilt = vector.copy()
    spoilt[:, 2] = np.nan
    run = jax.jit(lambda *trees: lanewise(mixed, *trees))
    clean, other = (jax.tree.map(np.asarray, run(matrix, v, number, flag)) for v in (vector, spoilt))
    assert np.isnan(other["product"][:, 2]).all()
    kept = [0, 1, 3, 4]
    np.testing.assert_array_equal(clean["product"][:, kept], other["product"][:, kept])


def test_derivatives_pass_through() -> None:
    slope = jax.grad(lambda x: jnp.sum(lanewise(lambda v: jnp.sum(v**2, axis=0), x)))(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    np.testing.assert_array_equal(slope, [[2.0, 4.0], [6.0, 8.0]])
