"""Batches in chunks from the host: the answers of one piece, data on disk, and runs that go on where they stopped."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import _chunks

FIELDS = ("x", "fun", "jac", "nit", "status", "at_bound")
A = np.linspace(1.0, 3.0, 25)
LOWER = np.tile(np.linspace(0.0, 3.5, 25)[:, None], (1, 2))


def fun(x: jax.Array, a: jax.Array, offset: jax.Array) -> jax.Array:
    return jnp.sum((x - a) ** 4 + (x - a) ** 2) + offset


def solve(data: np.ndarray = A, **options: object) -> jd.OptimizeResult:
    chosen = jd.BatchOptions(**{"mode": "refill", "lanes": 4, "num_threads": 1} | options)
    return jd.minimize_batch(fun, np.full((25, 2), 4.0), (data, 1.0), in_axes=(0, 0, None), bounds=(LOWER, None), options=chosen)


def assert_same(a: jd.OptimizeResult, b: jd.OptimizeResult) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_chunks_of_data_on_disk_give_the_bits_of_one_piece(tmp_path: pathlib.Path) -> None:
    """25 problems in chunks of 8: the last overlaps the one before it; each problem brings its own bound."""
    np.save(tmp_path / "a.npy", A)
    whole = solve()
    chunked = solve(np.load(tmp_path / "a.npy", mmap_mode="r"), chunk_size=8, progress=True)
    assert isinstance(chunked.x, np.ndarray)
    assert_same(whole, chunked)
    assert 0 < int(np.sum(chunked.at_bound == -1)) < 50
    assert chunked.report().num_problems == 25


def test_an_interrupted_run_goes_on_and_other_data_are_solved_anew(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solved: list[int] = []
    original = _chunks._Chunks._solve

    def counted(chunks: _chunks._Chunks, begin: int, size: int) -> jd.OptimizeResult:
        if len(solved) == 2 and not interrupted:
            interrupted.append(1)
            raise KeyboardInterrupt
        solved.append(begin)
        return original(chunks, begin, size)

    interrupted: list[int] = []
    monkeypatch.setattr(_chunks._Chunks, "_solve", counted)
    with pytest.raises(KeyboardInterrupt):
        solve(chunk_size=8, store=tmp_path)
    assert solved == [0, 8]
    resumed = solve(chunk_size=8, store=tmp_path)
    assert solved == [0, 8, 16, 17]
    assert_same(solve(), resumed)
    changed = A.copy()
    changed[0] = 2.0
    solved.clear()
    assert_same(solve(changed), solve(changed, chunk_size=8, store=tmp_path))
    assert solved == [0, 17]
    with pytest.raises(ValueError, match="is of another batch"):
        solve(chunk_size=9, store=tmp_path)


def test_every_entry_takes_chunks() -> None:
    options = jd.BatchOptions(chunk_size=2, num_threads=1)
    squares = np.array([1.0, 4.0, 9.0])
    np.testing.assert_allclose(jd.root_batch(lambda x, a: x * x - a, np.ones(3), squares, options=options).x, [1, 2, 3], rtol=1e-9)
    bracketed = jd.root_scalar_batch(lambda x, a: x * x - a, (0.0, 5.0), squares, in_axes=(None, 0), options=options)
    np.testing.assert_allclose(bracketed.x, [1, 2, 3], rtol=1e-9)
    t = np.arange(5.0)
    y = np.stack([1 + 2 * t, 3 - t, t])
    fit = jd.curve_fit_batch(lambda t, a, b: a + b * t, t, y, np.zeros((3, 2)), sigma=np.ones((3, 5)), options=options)
    np.testing.assert_allclose(fit.x, [[1, 2], [3, -1], [0, 1]], atol=1e-9)
    assert fit.covariance.shape == (3, 2, 2)


def test_what_chunks_cannot_do_is_said() -> None:
    with pytest.raises(ValueError, match=r"chunk_size = 0; expected an integer >= 1"):
        jd.BatchOptions(chunk_size=0)
    with pytest.raises(ValueError, match=r"store = 'here' without chunk_size"):
        jd.BatchOptions(store="here")
    with pytest.raises(ValueError, match=r"chunk_size=...\) cannot be traced"):
        jax.jit(lambda x: jd.minimize_batch(lambda x: x**2, x, options=jd.BatchOptions(chunk_size=2)).x)(np.ones(3))
    with pytest.raises(jd.OptimizationError, match="1 of 3 problems converged"):
        jd.minimize_batch(lambda x: x**2, np.array([1.0, np.nan, np.nan]), throw=True, options=jd.BatchOptions(chunk_size=2))
