"""What was looked at while the checker was written."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rule_cases import Case, normal, with_jvp, with_vjp


def plain_cases() -> list[Case]:
    """The first half of what was looked at while the checker was written."""
    x3, x6 = normal(3), normal((2, 3), 1)
    a, b = normal((4, 5), 2), normal((5, 3), 3)
    labels = np.array([0, 2, 1, 3])

    def cross_entropy(z: jax.Array) -> jax.Array:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], axis=1))

    def layer_norm(x: jax.Array, gain: jax.Array) -> jax.Array:
        return gain * (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME")

    def chain(x: jax.Array, ws: list[jax.Array]) -> jax.Array:
        for w in ws:
            x = jnp.tanh(x @ w)
        return x

    right = [
        Case("log at 1e-3", True, jnp.log, (1e-3,)),
        Case("softmax cross-entropy", True, cross_entropy, (normal((4, 5), 4) * 3,)),
        Case("layer norm", True, layer_norm, (normal((3, 8), 5), normal(8, 6))),
        Case("logsumexp at 1e3", True, jax.nn.logsumexp, (normal(6, 7) + 1e3,)),
        Case("matmul chain", True, chain, (normal((2, 4), 8), [normal((4, 4), 9 + k) / 2 for k in range(4)])),
        Case("convolution", True, convolve, (normal((1, 2, 6, 6), 10), normal((3, 2, 3, 3), 11))),
        Case("sqrt near 0", True, jnp.sqrt, (np.array([1e-6, 1e-3, 1.0]),)),
        Case("tanh saturated", True, jnp.tanh, (np.array([-30.0, -5.0, 0.3, 9.0]),)),
        Case("1e6 + sin", True, lambda x: 1e6 + jnp.sin(x), (x3,)),
        Case("1e6 + sin - 1e6", True, lambda x: (1e6 + jnp.sin(x)) - 1e6, (x3,)),
        Case("relu away from 0", True, jax.nn.relu, (np.array([-0.5, 0.1, 2.0]),)),
        Case("sum of 1,000 squares", True, lambda x: jnp.sum(x**2), (normal(1000, 12),)),
        Case("1,000 outputs", True, lambda x: jnp.sin(x * jnp.arange(1, 1001) / 100), (0.7,)),
        Case("constant leaf", True, lambda x, y: jnp.sin(x) + 0 * jnp.sum(y), (0.3, x3)),
        Case("unused leaf", True, lambda x, y: jnp.sin(x), (0.3, x3)),
        Case("Cholesky", True, lambda m: jnp.linalg.cholesky(m @ m.T + 4 * jnp.eye(4)), (normal((4, 4), 13),)),
        Case(
            "relu network",
            True,
            lambda w, v: jnp.mean((jax.nn.relu(normal((16, 8), 14) @ w) @ v) ** 2),
            (normal((8, 32), 15) / 3, normal((32, 1), 16) / 6),
        ),
    ]

    def scaled(factor: float) -> Callable[..., Any]:
        return with_jvp(jnp.sin, lambda x: factor * jnp.cos(x))

    matmul_transposed = with_vjp(lambda m, v: m @ v, lambda args, u: (jnp.outer(args[1], u), args[0] @ u))
    one_wrong = with_jvp(jnp.sin, lambda x: jnp.cos(x).at[3].multiply(1.5))
    stopped = with_vjp(lambda x, y: jnp.sum(x * y), lambda args, u: (u * args[1], jnp.zeros_like(args[1])))
    small = with_vjp(
        lambda x, y: 100 * jnp.sum(jnp.sin(x)) + jnp.sum(jnp.sin(y)), lambda args, u: (100 * u * jnp.cos(args[0]), jnp.zeros_like(args[1]))
    )
    wrong = [
        Case("transposed", False, matmul_transposed, (normal((4, 4), 20), normal(4, 21)), ("reverse",)),
        Case("scaled by 1.05", False, scaled(1.05), (x6,)),
        Case("sign flipped", False, with_jvp(jnp.exp, lambda x: -jnp.exp(x)), (x6,)),
        Case("zero", False, with_jvp(jnp.exp, jnp.zeros_like), (x6,)),
        Case("stop_gradient in a product", False, lambda x, y: jax.lax.stop_gradient(x) * y + x, (0.7, 1.3)),
        Case("one element of 10", False, one_wrong, (normal(10, 22),)),
        Case("zero for one argument", False, stopped, (x3, x3 + 1), ("reverse",)),
        Case("zero beside 100 times larger", False, small, (x3, x3 + 1), ("reverse",)),
        Case("zero with 1,000 outputs", False, with_jvp(jnp.sin, jnp.zeros_like), (normal(1000, 23),)),
        Case("doubled with 1,000 outputs", False, with_jvp(jnp.sin, lambda x: 2 * jnp.cos(x)), (normal(1000, 23),)),
        Case("one of 1,000 outputs", False, with_jvp(jnp.sin, lambda x: jnp.cos(x).at[500].set(0.0)), (normal(1000, 23),)),
        Case("double where", False, lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(x), 0.0)), (np.array([1.0, -1.0, 0.0, 2.0]),)),
        Case("matmul, one factor stopped", False, lambda m, n: jax.lax.stop_gradient(m) @ n, (a, b)),
    ]
    if jax.config.jax_enable_x64:
        wrong.append(Case("scaled by 1.01", False, scaled(1.01), (x6,)))
    return right + wrong


def harder_cases() -> list[Case]:
    """The second half: held out at first, and looked at when (1 - cos x) / x^2 raised a false alarm in float32."""
    x4 = normal(4, 40)

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.softmax(q @ k.T / jnp.sqrt(q.shape[-1] * 1.0)) @ v

    def kalman(x: jax.Array, p: jax.Array) -> jax.Array:
        gain = p / (p + 0.1)
        return jnp.stack([x + gain * (0.3 - x), (1 - gain) * p])

    def pendulum(start: jax.Array) -> jax.Array:
        step = lambda s, _: (s + 0.05 * jnp.stack([s[1], -jnp.sin(s[0])]), None)  # noqa: E731
        return jax.lax.scan(step, start, None, length=60)[0]

    def huber(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(jnp.abs(x) < 1, 0.5 * x**2, jnp.abs(x) - 0.5))

    def rms_norm(x: jax.Array) -> jax.Array:
        return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)

    right = [
        Case("attention", True, attention, tuple(normal((5, 4), 41 + k) for k in range(3))),
        Case("lgamma and digamma", True, lambda x: jax.lax.lgamma(x) + jax.lax.digamma(x), (np.array([0.1, 1.5, 20.0]),)),
        Case("Kalman update", True, kalman, (0.7, 2.0)),
        Case("pendulum, 60 steps", True, pendulum, (np.array([1.0, 0.0]),)),
        Case("Huber", True, huber, (normal(6, 44) * 2,)),
        Case("rms norm of tiny values", True, rms_norm, (normal((2, 6), 45) * 1e-4,)),
        Case("solve", True, lambda m, v: jnp.linalg.solve(m + 5 * jnp.eye(5), v), (normal((5, 5), 46), normal(5, 47))),
        Case("log determinant", True, lambda m: jnp.linalg.slogdet(m @ m.T + jnp.eye(6))[1], (normal((6, 6), 48),)),
        Case("exp at -20 and 20", True, jnp.exp, (np.array([-20.0, 20.0]),)),
        Case("erf and its tail", True, jax.lax.erf, (np.array([0.1, 2.0, 3.5]),)),
        Case("Planck at tiny x", True, lambda x: x / jnp.expm1(x), (np.array([1e-5, 1e-2, 1.0]),)),
        Case("(1 - cos x) / x^2", True, lambda x: (1 - jnp.cos(x)) / x**2, (np.array([1e-3, 0.1]),)),
        Case("arctan2", True, jnp.arctan2, (x4, x4[::-1].copy())),
        Case(
            "gelu network, 3 leaves",
            True,
            lambda p, x: jnp.sum(jax.nn.gelu(x @ p["w"] + p["b"])),
            ({"w": normal((6, 9), 49), "b": normal(9, 50)}, normal((3, 6), 51)),
        ),
        Case("polynomial of degree 12", True, lambda x: jnp.polyval(jnp.ones(13), x), (np.array([0.9, -1.3]),)),
        Case("sin(100 x)", True, lambda x: jnp.sin(100 * x), (x4,)),
        Case("sums of 3,000 exponentials", True, lambda x: jnp.sum(jnp.exp(x)), (normal(3000, 52),)),
        Case("Student t likelihood", True, lambda x, s: jnp.sum(jnp.log1p((x / s) ** 2)) + x.size * jnp.log(s), (normal(50, 53), 1.7)),
        Case("max pooling", True, lambda x: jnp.max(x.reshape(2, 3, 4), axis=-1), (normal(24, 54),)),
        Case("fft power", True, lambda x: jnp.abs(jnp.fft.fft(x)) ** 2, (normal(8, 55),)),
    ]
    softmax_no_mean = with_vjp(lambda x: jax.nn.softmax(x), lambda args, u: (jax.nn.softmax(args[0]) * u,))
    norm_wrong = with_vjp(lambda x: jnp.sqrt(jnp.sum(x**2)), lambda args, u: (u * args[0],))
    logdet_transposed = with_vjp(lambda m: jnp.linalg.slogdet(m)[1], lambda args, u: (u * jnp.linalg.inv(args[0]),))
    rows_swapped = with_vjp(lambda x: x * jnp.array([[1.0, 2.0], [3.0, 4.0]]), lambda args, u: (u * jnp.array([[1.0, 3.0], [2.0, 4.0]]),))
    missing_sum = with_vjp(lambda x, b: jnp.sin(x + b), lambda args, u: (u * jnp.cos(args[0] + args[1]), jnp.sum(u)))

    def one_of(n: int) -> Callable[..., Any]:
        weight = jnp.ones(n).at[n // 3].set(0.0)
        return with_vjp(lambda x: jnp.sum(jnp.sin(x)), lambda args, u: (u * jnp.cos(args[0]) * weight,))

    wrong = [
        Case("softmax without its mean", False, softmax_no_mean, (x4,), ("reverse",)),
        Case("norm not normalized", False, norm_wrong, (x4,), ("reverse",)),
        Case("log determinant transposed", False, logdet_transposed, (normal((3, 3), 60) + 3 * np.eye(3),), ("reverse",)),
        Case("two entries swapped", False, rows_swapped, (normal((2, 2), 61),), ("reverse",)),
        Case("bias with the wrong sum", False, missing_sum, (normal((4, 3), 62), 0.2), ("reverse",)),
        Case("one of 3,000 is zero", False, one_of(3000), (normal(3000, 63),), ("reverse",)),
        Case("one of 200 is zero", False, one_of(200), (normal(200, 64),), ("reverse",)),
        Case("tanh' = 1 - x^2", False, with_jvp(jnp.tanh, lambda x: 1 - x**2), (x4,)),
        Case("gelu by 0.95", False, with_jvp(lambda x: jax.nn.gelu(x), lambda x: 0.95 * jax.grad(jax.nn.gelu)(x)), (0.8,)),
        Case("chain rule forgotten", False, with_jvp(lambda x: jnp.sin(3 * x), lambda x: jnp.cos(3 * x)), (x4,)),
        Case(
            "swapped arguments",
            False,
            with_vjp(lambda x, y: x / y, lambda args, u: (-u * args[0] / args[1] ** 2, u / args[1])),
            (1.2, 0.7),
            ("reverse",),
        ),
        Case("norm at 0", False, lambda x: jnp.linalg.norm(x), (np.zeros(3),)),
        Case("round, straight through", False, with_jvp(lambda x: jnp.round(x), jnp.ones_like), (np.array([0.3, 1.8]),)),
        Case("small output stopped", False, lambda x: jnp.stack([1e3 * jnp.sin(x), jax.lax.stop_gradient(jnp.cos(x))]), (0.4,)),
        Case("clipped gradient", False, with_jvp(lambda x: x**3, lambda x: jnp.clip(3 * x**2, 0, 1)), (np.array([0.1, 2.0]),)),
    ]
    return right + wrong
