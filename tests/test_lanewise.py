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
    numbers = rng.normal(size=(16, 20))
    return numbers[:9].reshape(3, 3, 20), numbers[9:12], numbers[12], numbers[13] > 0


@pytest.mark.parametrize("limit", [240, 5])
def test_outputs_are_those_of_numpy_whatever_the_loops_hold(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOP_LIMIT", limit)
    matrix, vector, number, flag = arguments()
    found = jax.jit(lambda *trees: lanewise(mixed, *trees))(matrix, vector, number, flag)
    np.testing.assert_allclose(found["product"], np.einsum("ijl,jl->il", matrix, vector), rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(found["largest"], np.abs(vector).max(axis=0))
    np.testing.assert_array_equal(found["chosen"], np.where(flag, number, -1))
    np.testing.assert_array_equal(found["is_low"], number < 0)


def test_one_loop_is_made_where_operations_fit_and_none_for_one_lane_or_what_cannot_be_written_out() -> None:
    trees = tuple(jnp.asarray(tree) for tree in arguments())
    # A loop is a reduction for CPU in the program, each in a branch of its own.
    num_loops = lambda function, trees: str(jax.make_jaxpr(lambda *t: lanewise(function, *t))(*trees)).count("= reduce[")  # noqa: E731
    assert num_loops(mixed, trees) == 1
    assert num_loops(mixed, tuple(tree[..., :1] for tree in trees)) == 0
    sort = lambda matrix, vector, number, flag: jnp.sort(vector, axis=0)  # noqa: E731
    assert num_loops(sort, trees) == 0
    np.testing.assert_array_equal(lanewise(sort, *trees), np.sort(arguments()[1], axis=0))


def test_a_nan_in_one_lane_stays_there() -> None:
    matrix, vector, number, flag = arguments()
    spoilt = vector.copy()
    spoilt[:, 2] = np.nan
    run = jax.jit(lambda *trees: lanewise(mixed, *trees))
    clean, other = (jax.tree.map(np.asarray, run(matrix, v, number, flag)) for v in (vector, spoilt))
    assert np.isnan(other["product"][:, 2]).all()
    kept = [lane for lane in range(20) if lane != 2]
    np.testing.assert_array_equal(clean["product"][:, kept], other["product"][:, kept])


def test_derivatives_pass_through() -> None:
    x = jnp.asarray(arguments()[1])
    slope = jax.grad(lambda x: jnp.sum(lanewise(lambda v: jnp.sum(v**2, axis=0), x)))(x)
    np.testing.assert_array_equal(slope, 2 * x)
