"""Linear algebra over lanes, held against NumPy lane by lane."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import linalg


def symmetric(n: int, lanes: int, seed: int, shift: float) -> np.ndarray:
    """Random symmetric matrices, positive definite for a large enough shift; lanes last."""
    factor = np.random.default_rng(seed).normal(size=(lanes, n, n))
    return np.moveaxis(factor + factor.swapaxes(1, 2) + shift * np.eye(n), 0, -1)


@pytest.mark.core
@pytest.mark.parametrize("n", [1, 2, 5, 10, 13, 25])
def test_solve_modified_is_the_plain_solution_where_the_matrix_is_definite(n: int, dtype: str) -> None:
    matrix, rhs = symmetric(n, 7, 0, 4.0 * n), np.random.default_rng(1).normal(size=(n, 7))
    x, is_definite = jax.jit(linalg.solve_modified)(jnp.asarray(matrix, dtype), jnp.asarray(rhs, dtype))
    expected = np.stack([np.linalg.solve(matrix[..., lane], rhs[:, lane]) for lane in range(7)], axis=-1)
    assert x.dtype == dtype
    assert is_definite.all()
    np.testing.assert_allclose(x, expected, rtol=0, atol=30 * np.finfo(dtype).eps * np.abs(expected).max())


@pytest.mark.parametrize("n", [2, 10, 13])
def test_solve_modified_gives_a_descent_direction_where_the_matrix_is_indefinite(n: int) -> None:
    matrix, gradient = symmetric(n, 64, 2, 0.0), np.random.default_rng(3).normal(size=(n, 64))
    p, is_definite = linalg.solve_modified(jnp.asarray(matrix), -jnp.asarray(gradient))
    smallest = np.array([np.linalg.eigvalsh(matrix[..., lane])[0] for lane in range(64)])
    np.testing.assert_array_equal(is_definite, smallest > 0)
    assert (smallest < 0).sum() > 30
    assert (np.sum(np.asarray(p) * gradient, axis=0) < 0).all()


@pytest.mark.parametrize("matrix", [np.zeros((2, 2)), np.diag([1.0, 0.0]), np.ones((2, 2)), np.array([[0.0, 1.0], [1.0, 0.0]])])
def test_solve_modified_stays_finite_and_says_singular_is_not_definite(matrix: np.ndarray) -> None:
    p, is_definite = linalg.solve_modified(jnp.asarray(matrix)[..., None], jnp.array([[1.0], [2.0]]))
    assert jnp.isfinite(p).all()
    assert not is_definite[0]
    assert linalg.dot(p, jnp.array([[1.0], [2.0]]))[0] > 0


def test_solve_modified_does_not_care_about_the_units_of_the_unknowns() -> None:
    matrix, rhs = symmetric(4, 5, 4, 20.0), np.random.default_rng(5).normal(size=(4, 5))
    units = 10.0 ** np.array([-12.0, 12.0, 0.0, 5.0])
    scaled = matrix * units[:, None, None] * units[None, :, None]
    x, is_definite = linalg.solve_modified(jnp.asarray(scaled), jnp.asarray(rhs * units[:, None]))
    expected = np.stack([np.linalg.solve(matrix[..., lane], rhs[:, lane]) for lane in range(5)], axis=-1)
    assert is_definite.all()
    np.testing.assert_allclose(np.asarray(x) * units[:, None], expected, rtol=1e-12)


@pytest.mark.parametrize("n", [3, 10, 13])
def test_a_lane_of_nan_leaves_the_other_lanes_bit_for_bit_alone(n: int) -> None:
    matrix, rhs = symmetric(n, 4, 6, 4.0 * n), np.random.default_rng(7).normal(size=(n, 4))
    solve = jax.jit(linalg.solve_modified)
    clean, _ = solve(jnp.asarray(matrix), jnp.asarray(rhs))
    matrix[..., 2] = np.nan
    bad, is_definite = solve(jnp.asarray(matrix), jnp.asarray(rhs))
    keep = np.array([0, 1, 3])
    np.testing.assert_array_equal(bad[:, keep], clean[:, keep])
    assert not is_definite[2]


def test_solve_matches_numpy(dtype: str) -> None:
    matrix, rhs = np.random.default_rng(8).normal(size=(4, 4, 3)), np.random.default_rng(9).normal(size=(4, 3))
    x = linalg.solve(jnp.asarray(matrix, dtype), jnp.asarray(rhs, dtype))
    expected = np.stack([np.linalg.solve(matrix[..., lane], rhs[:, lane]) for lane in range(3)], axis=-1)
    np.testing.assert_allclose(x, expected, rtol=0, atol=200 * np.finfo(dtype).eps * np.abs(expected).max())


def test_smallest_eigenpairs_come_in_ascending_order_and_satisfy_their_equation() -> None:
    matrix = symmetric(4, 3, 10, 0.0)
    values, vectors = linalg.smallest_eigenpairs(jnp.asarray(matrix))
    assert (jnp.diff(values, axis=0) >= 0).all()
    np.testing.assert_allclose(np.einsum("ijl,jkl->ikl", matrix, vectors), vectors * values[None], atol=1e-13)


def test_together_changes_no_bit() -> None:
    values = [jnp.asarray(np.random.default_rng(k).normal(size=9) * 10.0 ** np.arange(-150, 120, 30)) for k in range(3)]
    values[1] = values[1].at[2].set(jnp.nan).at[3].set(jnp.inf)
    for value, same in zip(values, jax.jit(linalg.together)(*values), strict=True):
        np.testing.assert_array_equal(value, same)
