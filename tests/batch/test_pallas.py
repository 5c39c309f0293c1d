"""The fused kernel: the answers of the engine, run as a program on CPU; and it can be lowered for both compilers of GPUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.scalarize import NotScalarizable, Scalarizer, filled

TIMES = np.linspace(0.1, 3.0, 6)


def decay(p: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
    return p[0] * jnp.exp(-p[1] * t) - y


def decays(count: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 2, (count, 2))
    y = truth[:, :1] * np.exp(-truth[:, 1:] * TIMES) + 0.01 * rng.normal(size=(count, TIMES.size))
    starts = truth * rng.uniform(0.7, 1.4, truth.shape)
    y[7] = np.nan
    return starts.astype(dtype), y.astype(dtype)


def solve(starts: np.ndarray, y: np.ndarray, **options: object) -> jd.FitResult:
    chosen = jd.BatchOptions(rescue=False, reassociate=False, **options)
    bounds = (None, np.array([np.inf, 1.8], y.dtype))
    starts = np.minimum(starts, np.asarray([9, 1.7], y.dtype))
    return jd.least_squares_batch(decay, starts, (TIMES.astype(y.dtype), y), in_axes=(0, None, 0), bounds=bounds, options=chosen)


def test_the_kernel_ends_where_the_engine_does() -> None:
    """A block and a part of one; a bound that binds in some lanes; a lane of NaN."""
    dtype = "float32"
    starts, y = decays(150, dtype)
    engine, kernel = solve(starts, y, mode="lockstep"), solve(starts, y, mode="pallas", interpret=True)
    assert 5 < int(np.sum(np.asarray(engine.at_bound) == 1)) < 145
    np.testing.assert_array_equal(kernel.status, engine.status)
    np.testing.assert_array_equal(kernel.at_bound, engine.at_bound)
    assert int(kernel.status[7]) == jd.Status.NON_FINITE_START
    fine = np.delete(np.arange(150), 7)
    rtol = np.finfo(dtype).eps ** (2 / 3)
    np.testing.assert_allclose(np.asarray(kernel.x)[fine], np.asarray(engine.x)[fine], rtol=rtol)
    np.testing.assert_allclose(np.asarray(kernel.fun)[fine], np.asarray(engine.fun)[fine], rtol=rtol)
    # Rounding may end a lane one step earlier or later.
    assert np.abs(np.asarray(kernel.nit) - np.asarray(engine.nit)).max() <= 1


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("compiler", ["mosaic", "triton"])
def test_the_kernel_can_be_lowered_for_gpus(compiler: str) -> None:
    """Lowering needs no GPU; what the lowered kernel computes is not tested by it."""
    from jaxdiff.batch.pallas import solve_pallas
    from jaxdiff.derivatives import Autodiff
    from jaxdiff.problem import LeastSquares, Packing
    from jaxdiff.solvers.base import resolve_tolerances

    starts, y = decays(200, "float32")
    packing = Packing.of(jnp.asarray(starts[0]))
    args = (TIMES.astype(np.float32), y.T)
    problem = LeastSquares(decay, args, (False, True), packing, Autodiff(), loss_scale=np.float32(1))
    solver = resolve_tolerances(jd.LevenbergMarquardtCholesky(), packing, True)
    run = jax.jit(lambda problem, solver, x: solve_pallas(problem, solver, x, np.int32(10), compiler))
    if compiler == "triton" and jax.__version_info__ >= (0, 11):
        pytest.skip("from jax 0.11 on Triton is deprecated, and lowers only beside a GPU")
    with jax.enable_x64(False):
        text = run.trace(problem, solver, starts.T).lower(lowering_platforms=("cuda",)).as_text()
    assert compiler in text.lower()


def test_every_kind_of_operation_is_written_out_as_jax_computes_it() -> None:
    matrix = np.random.default_rng(0).uniform(0.1, 0.9, (3, 4))

    def f(x: jax.Array) -> jax.Array:
        pieces = jnp.concatenate([x[::-1], jnp.pad(x, 1)[1:3], jnp.stack([x[0], x[1] * 2])])
        control = jax.lax.cond(x[0] > 0.5, lambda: jnp.sum(x), lambda: jnp.prod(x))
        rounds = jax.lax.while_loop(lambda c: c[0] < 2 + 4 * x[1], lambda c: (c[0] + 1, c[1] * x[0]), (0.0, x[2]))[1]
        total = jax.lax.fori_loop(0, 3, lambda i, s: s + jnp.sin(s), x[3])
        smooth = jnp.stack([jnp.log1p(1e-9 * x[0]), jnp.expm1(1e-9 * x[1]), jax.nn.sigmoid(x[2]), jnp.sqrt(x[3]), x[0] ** -3])
        edges = jnp.stack([jnp.sqrt(0 * x[0]), jnp.expm1(-1e3 * x[0]), jnp.expm1(1e3 * x[0]), jnp.clip(x[1], 0.3, 0.4)])
        logic = jnp.where(jnp.where(x[0] > 0.5, ~(x[1] > 0.5), x[2] > 0.5), x[:2], x[2:])
        return jnp.concatenate([logic, pieces, jnp.stack([control, rounds, total]), matrix @ x, smooth, edges, jnp.array([jnp.max(x)])])

    points = np.random.default_rng(1).uniform(0.1, 0.9, (4, 5))
    written = Scalarizer((5,))(jax.make_jaxpr(f)(points[:, 0]), [filled((4,), [jnp.asarray(row) for row in points])])[0]
    spread = np.stack([np.broadcast_to(np.asarray(entry), (5,)) for entry in written])
    np.testing.assert_allclose(spread, jax.vmap(f, in_axes=1, out_axes=1)(points), rtol=4e-15)


def test_what_cannot_be_written_out_is_named() -> None:
    options = jd.BatchOptions(mode="pallas", interpret=True)
    with pytest.raises(
        NotScalarizable, match=r"cannot write out fun with solver = LevenbergMarquardtCholesky\(...\): the primitive 'sort'"
    ):
        jd.least_squares_batch(lambda x: jnp.sort(x), np.ones((3, 2)), options=options)


def test_without_a_gpu_the_kernel_is_refused_unless_interpreted() -> None:
    with pytest.raises(ValueError, match="mode = 'pallas' needs a GPU, the backend is 'cpu'; expected mode = 'auto', or interpret = True"):
        jd.minimize_batch(lambda x: x**2, np.ones(3), options=jd.BatchOptions(mode="pallas"))
    with pytest.raises(ValueError, match="mode = 'pallas' keeps no history"):
        jd.minimize_batch(lambda x: x**2, np.ones(3), history=True, options=jd.BatchOptions(mode="pallas", interpret=True))
