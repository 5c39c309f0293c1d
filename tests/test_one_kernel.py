"""Programs of one small problem in one kernel: the same numbers, whatever a kernel may hold, and nothing that it may not."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import jaxdiff as jd
from jaxdiff.one_kernel import ENTRIES_LIMIT, OPERATIONS_LIMIT, in_one_kernel
from jaxdiff.solvers.residual_model import triangular_factor

MARK = 'xla_cpu_small_call="true"'

# Each with what NumPy or SciPy has for it; of two numbers, 0.3 to 2.1 and -0.9 to 0.9.
ELEMENTWISE: dict[str, tuple[Any, Any]] = {
    "arithmetic": (lambda a, b: (a + b) * a - b / a, lambda a, b: (a + b) * a - b / a),
    "powers": (
        lambda a, b: a**b + b**3 + jnp.sqrt(a) + jax.lax.rsqrt(a) + jnp.cbrt(b),
        lambda a, b: a**b + b**3 + a**0.5 + a**-0.5 + np.cbrt(b),
    ),
    "exponentials": (
        lambda a, b: jnp.exp(b) + jnp.expm1(b) + jnp.exp2(b) + jnp.log(a) + jnp.log1p(b),
        lambda a, b: np.exp(b) + np.expm1(b) + np.exp2(b) + np.log(a) + np.log1p(b),
    ),
    "angles": (
        lambda a, b: jnp.sin(b) + jnp.cos(b) + jnp.tan(b) + jnp.arcsin(b) + jnp.arccos(b) + jnp.arctan(b) + jnp.arctan2(b, a),
        lambda a, b: np.sin(b) + np.cos(b) + np.tan(b) + np.arcsin(b) + np.arccos(b) + np.arctan(b) + np.arctan2(b, a),
    ),
    "hyperbolic": (
        lambda a, b: jnp.sinh(b) + jnp.cosh(b) + jnp.tanh(b) + jnp.arcsinh(b) + jnp.arctanh(b) + jnp.arccosh(1 + a) + jax.nn.sigmoid(b),
        lambda a, b: np.sinh(b) + np.cosh(b) + np.tanh(b) + np.arcsinh(b) + np.arctanh(b) + np.arccosh(1 + a) + scipy.special.expit(b),
    ),
    "errors": (
        lambda a, b: jax.lax.erf(b) + jax.lax.erfc(b) * 2 + jax.lax.erf_inv(b),
        lambda a, b: scipy.special.erf(b) + scipy.special.erfc(b) * 2 + scipy.special.erfinv(b),
    ),
    "steps": (
        lambda a, b: jnp.floor(a) + jnp.ceil(a) + jnp.round(a) + jnp.sign(b) + jnp.clip(b, -0.5, 0.5) + jnp.fmod(a, 0.7) + jnp.abs(b),
        lambda a, b: np.floor(a) + np.ceil(a) + np.round(a) + np.sign(b) + np.clip(b, -0.5, 0.5) + np.fmod(a, 0.7) + np.abs(b),
    ),
    "choices": (
        lambda a, b: jnp.where((a > 1) & ~(b < 0) | (a == b) ^ (b >= 0.5), jnp.maximum(a, b), jnp.minimum(a, b)),
        lambda a, b: np.where((a > 1) & ~(b < 0) | (a == b) ^ (b >= 0.5), np.maximum(a, b), np.minimum(a, b)),
    ),
    "sums": (
        lambda a, b: jnp.outer(a, b).sum(0) + (a @ b) + jnp.max(b) * jnp.min(a) + jnp.prod(a) + jnp.outer(a, b) @ a,
        lambda a, b: np.outer(a, b).sum(0) + (a @ b) + np.max(b) * np.min(a) + np.prod(a) + np.outer(a, b) @ a,
    ),
    "shapes": (
        lambda a, b: jnp.concatenate([a[2:], b[:2]]) + jnp.pad(a[:-1], (1, 0)) + b[::-1] + jnp.stack([a, b]).T.reshape(-1)[: a.size],
        lambda a, b: np.concatenate([a[2:], b[:2]]) + np.pad(a[:-1], (1, 0)) + b[::-1] + np.stack([a, b]).T.reshape(-1)[: a.size],
    ),
    "places": (
        lambda a, b: (
            jax.lax.dynamic_update_slice(a, b[:1], (jnp.int32(a[0] * 0) + 1,))
            + jax.lax.dynamic_slice(b, (jnp.int32(0),), (a.size,))
            + a[::-1][jnp.array([0, 2, 1, 3, 4, 5])]
        ),
        lambda a, b: np.concatenate([a[:1], b[:1], a[2:]]) + b + a[::-1][[0, 2, 1, 3, 4, 5]],
    ),
    "loops": (
        lambda a, b: (
            jax.lax.fori_loop(0, 3, lambda k, s: s * a + k, b)
            + jax.lax.while_loop(lambda s: s[0] < 9, lambda s: s + a, b)
            + jax.lax.cond(b[0] < 0, lambda: a, lambda: b)
        ),
        lambda a, b: ((b * a) * a + 1) * a + 2 + (b + a * np.ceil((9 - b[0]) / a[0])) + a,
    ),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_kind_of_operation_gives_in_a_kernel_what_numpy_gives(dtype: Any) -> None:
    a, b = (np.linspace(*ends, 6, dtype=dtype) for ends in ((0.3, 2.1), (-0.9, 0.9)))
    everything = jax.jit(lambda a, b: in_one_kernel(lambda a, b: {name: pair[0](a, b) for name, pair in ELEMENTWISE.items()}, a, b))
    assert MARK in str(everything.lower(a, b).compile().as_text())
    for name, found in everything(a, b).items():
        assert found.dtype == dtype
        expected = ELEMENTWISE[name][1](a.astype(float), b.astype(float))
        np.testing.assert_allclose(found, expected, rtol=200 * np.finfo(dtype).eps, err_msg=name)


def test_products_of_integers_keep_their_dtype() -> None:
    a = np.arange(6, dtype=np.int32).reshape(2, 3)
    found = jax.jit(lambda a: in_one_kernel(lambda a: a @ a.T, a))(a)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, a @ a.T)


def test_the_largest_sums_that_a_kernel_takes_call_no_library() -> None:
    x = jnp.ones(ENTRIES_LIMIT)
    sums = lambda x: (jnp.sum(x), jnp.max(x), jnp.sum(x.reshape(-1, 8), axis=0), jnp.outer(x[:32], x[:32]) @ x[:32])  # noqa: E731
    program = jax.jit(lambda x: in_one_kernel(sums, x)).lower(x).compile()
    assert MARK in str(program.as_text())
    assert [float(part.sum()) for part in program(x)] == [ENTRIES_LIMIT, 1, ENTRIES_LIMIT, 1024]


def test_arguments_that_nothing_reads_change_nothing() -> None:
    def function(x: Any, unread: Any, removed: Any) -> Any:
        return jnp.where(jnp.isnan(x) & ~jnp.isnan(x), removed, jnp.sin(x))

    x = jnp.array([0.5, 1.0])
    found = jax.jit(lambda *args: in_one_kernel(function, *args))(x, jnp.ones(3), jnp.ones(()))
    np.testing.assert_allclose(found, np.sin([0.5, 1.0]), rtol=1e-15)


@pytest.mark.parametrize(
    "function",
    [
        jnp.sort,
        lambda x: jax.lax.fori_loop(0, 2, lambda k, y: jnp.outer(y, y) @ y, x),
        lambda x: x.at[x.astype(int)].add(1.0),
        lambda x: jnp.linalg.inv(jnp.diag(x))[0],
        lambda x: jnp.sum(jnp.outer(jnp.ones(ENTRIES_LIMIT), x), axis=0),
        lambda x: functools.reduce(lambda y, _: -y, range(OPERATIONS_LIMIT + 2), x),
    ],
    ids=["sort", "product in a loop", "scatter", "library", "large", "long"],
)
def test_a_program_that_no_kernel_may_hold_stays_as_it_is(function: Any) -> None:
    x = jnp.array([2.0, 1.0, 0.0]) + 1
    lowered = jax.jit(lambda x: in_one_kernel(function, x)).lower(x)
    assert "xla_cpu_small_call" not in lowered.as_text()
    np.testing.assert_allclose(lowered.compile()(x), function(x), rtol=1e-15)


def test_derivatives_and_batches_are_those_of_the_function() -> None:
    kernel = lambda x: in_one_kernel(lambda x: jnp.sum(jnp.exp(x)) ** 2, x)  # noqa: E731
    x = np.array([0.5, 1.0, -0.3])
    gradient = 2 * np.exp(x).sum() * np.exp(x)
    np.testing.assert_allclose(jax.jit(jax.grad(kernel))(x), gradient, rtol=1e-14)
    hessian = 2 * np.outer(np.exp(x), np.exp(x)) + np.diag(gradient)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(jax.jacrev(kernel)))(x), hessian, rtol=1e-14)
    batched = jax.jit(jax.vmap(kernel)).lower(np.stack([x, 2 * x]))
    assert "xla_cpu_small_call" not in batched.as_text(), "many lanes are worth loops of their own"
    np.testing.assert_allclose(batched.compile()(np.stack([x, 2 * x])), [np.exp(x).sum() ** 2, np.exp(2 * x).sum() ** 2], rtol=1e-14)


@pytest.mark.parametrize("solver", [jd.BFGS(), jd.LevenbergMarquardt()], ids=lambda solver: solver.name)
def test_one_small_problem_is_one_kernel(solver: Any) -> None:
    residuals = lambda x: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])  # noqa: E731
    if isinstance(solver, jd.BFGS):
        solve = jax.jit(lambda x: jd.minimize(lambda x: jnp.sum(residuals(x) ** 2), x, solver=solver).x)
    else:
        solve = jax.jit(lambda x: jd.least_squares(residuals, x, solver=solver).x)
    program = solve.lower(jnp.array([-1.2, 1.0])).compile()
    entry = str(program.as_text()).split("ENTRY")[1]
    assert entry.count(" call(") == 1
    assert entry.count(" fusion(") <= 3, "beside the kernel only what makes the result"
    np.testing.assert_allclose(program(jnp.array([-1.2, 1.0])), [1, 1], rtol=1e-6)


def test_the_factor_of_one_table_is_that_of_lapack_whatever_the_size_of_its_entries() -> None:
    table = np.random.default_rng(0).normal(size=(9, 5))
    tables = [table, 1e200 * table, 1e-200 * table, table * [1, 0, 1, 1e-120, 1e120], np.zeros_like(table)]
    factor = jax.jit(lambda table: triangular_factor(table[..., None])[..., 0])
    for table in tables:
        size = np.abs(table).max(axis=0)
        unit = np.where(size > 0, size, 1)
        expected = np.linalg.qr(table / unit)[1][:4]
        # A reflection may turn the sign of a row.
        found = np.asarray(factor(table)) / unit
        np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-14)
        assert not np.tril(found, -1).any()
