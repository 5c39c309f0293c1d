"""Roots in brackets: published answers, poles and jumps told from roots, statuses per lane, derivatives, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

KINDS = {
    "square": (lambda x: x**2 - 2, (0.0, 2.0), 2**0.5),
    "cosine": (lambda x: jnp.cos(x) - x, (1.0, 0.0), 0.7390851332151607),
    "cube root": (jnp.cbrt, (-1.0, 2.0), 0.0),
    "ninth power": (lambda x: (x - 0.5) ** 9, (-1.0, 2.0), 0.5),
    "steep": (lambda x: jnp.tanh(1e4 * (x - 0.3)), (0.0, 1.0), 0.3),
    "tiny root": (lambda x: x - 1e-20, (-1.0, 1.0), 1e-20),
    "root at an end": (lambda x: x - 2, (0.0, 2.0), 2.0),
    "pole": (lambda x: 1 / (x - 0.3), (0.0, 1.0), None),
    "pole at zero": (lambda x: 1 / x, (-1.0, 2.0), None),
    "tangent": (jnp.tan, (1.0, 2.0), None),
    "step": (lambda x: jnp.where(x > 0.3, 1.0 + x, -1.0), (0.0, 1.0), None),
    "small step": (lambda x: x - 0.3 + jnp.where(x > 0.3, 1e-3, -1e-3), (0.0, 1.0), None),
    "no change of sign": (lambda x: x**2 + 1, (-1.0, 2.0), None),
    "not a number at an end": (jnp.log, (-1.0, 2.0), None),
    "not a number inside": (lambda x: jnp.where(jnp.abs(x) < 0.5, jnp.nan, x), (-1.0, 2.0), None),
}


def one_of_many(x: jax.Array, kind: jax.Array) -> jax.Array:
    """All kinds in one function; a branch that is not chosen sees a harmless 1."""
    return sum(jnp.where(kind == k, f(jnp.where(kind == k, x, 1.0)), 0.0) for k, (f, _, _) in enumerate(KINDS.values()))


@pytest.mark.core
@pytest.mark.parametrize("solver", [jd.Chandrupatla(), jd.Bisection()], ids=lambda s: s.name)
def test_roots_are_found_and_poles_and_jumps_are_not_called_roots(solver: object, dtype: str) -> None:
    ends = np.array([bracket for _, bracket, _ in KINDS.values()], dtype)
    result = jd.root_scalar_batch(one_of_many, (ends[:, 0], ends[:, 1]), jnp.arange(len(KINDS)), solver=solver)
    status = dict(zip(KINDS, [jd.Status(int(code)).name for code in result.status], strict=True))
    for lane, (kind, (_, _, root)) in enumerate(KINDS.items()):
        assert bool(result.success[lane]) == (root is not None), (kind, status[kind])
        if root is not None:
            # F of ninth order is zero to the last bit in a wide interval.
            tolerance = 1e-4 if kind == "ninth power" and dtype == "float32" else 4 * np.finfo(dtype).eps * abs(root)
            tolerance = 1e-30 if kind == "cube root" else 1e-5 if kind == "ninth power" else tolerance
            assert abs(float(result.x[lane]) - root) <= tolerance, kind
    assert [status[k] for k in ("pole", "pole at zero", "tangent", "step", "small step")] == ["DISCONTINUITY"] * 5
    assert status["no change of sign"] == "NO_SIGN_CHANGE"
    assert status["not a number at an end"] == "NON_FINITE_START"
    assert status["not a number inside"] in ("NON_FINITE", "DISCONTINUITY", "MAX_STEPS")
    finite = [lane for lane, kind in enumerate(KINDS) if kind != "not a number inside"]
    assert int(np.asarray(result.nit)[finite].max()) <= 2 + (48 if solver.name == "chandrupatla" else 0) + 66
    assert int(result.nit[0]) <= (12 if solver.name == "chandrupatla" else 66)


def test_one_under_vmap_agrees_with_the_batch_and_is_differentiable() -> None:
    a = jnp.array([1.5, 4.0, 8.5])
    one = lambda a: jd.root_scalar(lambda x, a: x * x - a, (0.0, 3.0), a)  # noqa: E731
    batch = jd.root_scalar_batch(lambda x, a: x * x - a, (0.0, 3.0), a, in_axes=(None, 0))
    vmapped = jax.vmap(one)(a)
    np.testing.assert_allclose(vmapped.x, batch.x, rtol=1e-15)
    np.testing.assert_array_equal(vmapped.nit, batch.nit)
    np.testing.assert_allclose(jax.vmap(jax.grad(lambda a: one(a).x))(a), 0.5 / np.sqrt(a))


def test_bad_brackets_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"bracket = \(1.0, 2.0\): fun has the same sign at both ends"):
        jd.root_scalar(lambda x: x, (1.0, 2.0))
    with pytest.raises(ValueError, match=r"bracket = 1.0; expected a pair"):
        jd.root_scalar(lambda x: x, 1.0)
    with pytest.raises(ValueError, match=r"expected two numbers"):
        jd.root_scalar(lambda x: x, (np.zeros(2), np.ones(2)))
    with pytest.raises(TypeError, match=r"NewtonRoot.*in a bracket; expected one of Chandrupatla, Bisection"):
        jd.root_scalar(lambda x: x, (-1.0, 1.0), solver=jd.NewtonRoot())
    with pytest.raises(TypeError, match=r"Bisection\(\.\.\.\) needs a bracket: call root_scalar"):
        jd.root(lambda x: x, 1.0, solver=jd.Bisection())
    with pytest.raises(ValueError, match="machine epsilon"):
        jd.root_scalar(lambda x: x, (-1.0, 1.0), solver=jd.Bisection(xtol=1e-30))
