"""How many wrong rules `jaxdiff.check_derivatives` catches and how often it accuses a right one, beside `jax.test_util.check_grads`.

Two sets of cases, in float32 and float64. The first was looked at while the checker was written; the second, of other functions and other
mistakes, was not. A wrong case counts as caught where the verdict is "fail" or "non-finite"; a right one as a false alarm in the same
event. "Inconclusive" is neither. check_grads runs with its defaults, order 1 and both modes where the case has both.

Run: ``python benchmarks/check_derivatives.py`` (a few minutes; ``--quick`` leaves the large model out). Exits 1 where a wrong rule is
missed or a right one is accused.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.test_util import check_grads

import jaxdiff as jd


class Case(NamedTuple):
    """A function at a point, and whether its derivative is right."""

    name: str
    is_right: bool
    f: Callable[..., Any]
    args: tuple[Any, ...]
    modes: tuple[str, ...] = ("forward", "reverse")


def normal(shape: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def with_jvp(f: Callable[..., Any], slope: Callable[..., Any]) -> Callable[..., Any]:
    """F of one array, elementwise, with a slope of its own."""
    wrapped = jax.custom_jvp(f)
    wrapped.defjvp(lambda x, t: (f(x[0]), slope(x[0]) * t[0]))
    return wrapped


def with_vjp(f: Callable[..., Any], pull: Callable[..., Any]) -> Callable[..., Any]:
    """F with a pullback (args, cotangent) -> cotangents of its own."""
    wrapped = jax.custom_vjp(f)
    wrapped.defvjp(lambda *x: (f(*x), x), lambda x, cotangent: pull(x, cotangent))
    return wrapped


def only_reverse(case: Case) -> Case:
    return case._replace(modes=("reverse",))


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


def held_out_cases() -> list[Case]:
    """Not looked at while the checker was written."""
    x5, grid = normal(5, 80), np.linspace(-1.0, 1.0, 300)
    spd = normal((4, 4), 81) @ normal((4, 4), 81).T + np.eye(4)

    def gru(h: jax.Array, w: jax.Array, u: jax.Array) -> jax.Array:
        z = jax.nn.sigmoid(h @ w)
        return (1 - z) * h + z * jnp.tanh(h @ u)

    def lstm_loss(w: jax.Array) -> jax.Array:
        def step(carry: Any, x: jax.Array) -> Any:
            h, c = carry
            i, f, o, g = jnp.split(jnp.concatenate([x, h]) @ w, 4)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            return (jax.nn.sigmoid(o) * jnp.tanh(c), c), None

        start = (jnp.zeros(3, w.dtype), jnp.zeros(3, w.dtype))
        return jnp.sum(jax.lax.scan(step, start, jnp.asarray(normal((12, 2), 82), w.dtype))[0][0])

    def gaussian_peak(a: jax.Array, centre: jax.Array, width: jax.Array) -> jax.Array:
        return a * jnp.exp(-((grid - centre) ** 2) / (2 * width**2)) + 100.0

    def black_scholes(spot: jax.Array, volatility: jax.Array) -> jax.Array:
        d = (jnp.log(spot / 100) + volatility**2 / 2) / volatility
        return spot * jax.scipy.stats.norm.cdf(d) - 100 * jax.scipy.stats.norm.cdf(d - volatility)

    def group_norm(x: jax.Array) -> jax.Array:
        y = x.reshape(2, 4, 3)
        return ((y - y.mean((0, 2), keepdims=True)) / (y.std((0, 2), keepdims=True) + 1e-3)).ravel()

    def kl(p: jax.Array, q: jax.Array) -> jax.Array:
        return jnp.sum(jax.nn.softmax(p) * (jax.nn.log_softmax(p) - jax.nn.log_softmax(q)))

    right = [
        Case("gated recurrent unit", True, gru, (normal((2, 3), 83), normal((3, 3), 84), normal((3, 3), 85))),
        Case("LSTM over 12 steps", True, lstm_loss, (normal((5, 12), 86) / 2,)),
        Case("Gaussian peak on 100", True, gaussian_peak, (3.0, 0.1, 0.2)),
        Case("Black-Scholes", True, black_scholes, (95.0, 0.3)),
        Case("group norm", True, group_norm, (normal(24, 87),)),
        Case("Kullback-Leibler", True, kl, (x5, x5[::-1] + 0.1)),
        Case("eigenvalues", True, jnp.linalg.eigvalsh, (spd,)),
        Case("inverse", True, jnp.linalg.inv, (spd,)),
        Case("quotient near a pole", True, lambda x: 1 / (x - 1), (np.array([1.001, 0.9, 3.0]),)),
        Case("x log x near 0", True, lambda x: x * jnp.log(x), (np.array([1e-5, 0.5]),)),
        Case("power 1.5 of small x", True, lambda x: x**1.5, (np.array([1e-4, 2.0]),)),
        Case("sigmoid in its tails", True, jax.nn.sigmoid, (np.array([-20.0, 12.0, 0.5]),)),
        Case("softplus", True, jax.nn.softplus, (np.array([-15.0, 0.0, 30.0]),)),
        Case("leaky relu network", True, lambda w: jnp.mean(jax.nn.leaky_relu(normal((20, 6), 88) @ w) ** 2), (normal((6, 10), 89),)),
        Case("sum of large and small", True, lambda x, y: 1e4 * x + jnp.sin(y), (0.3, 0.4)),
        Case("product of 40", True, jnp.prod, (1 + 0.1 * normal(40, 90),)),
        Case("cumulative sum", True, lambda x: jnp.cumsum(x) ** 2, (normal(30, 91),)),
        Case("sorting", True, jnp.sort, (normal(12, 92),)),
        Case("Bessel i0e", True, lambda x: jax.scipy.special.i0e(x), (np.array([0.1, 4.0]),)),
        Case("2,000 outputs of 3 sizes", True, lambda x: jnp.exp(jnp.linspace(-5, 5, 2000) * x), (0.8,)),
        Case("interpolation", True, lambda x: jnp.interp(x, grid, jnp.sin(3 * grid)), (np.array([0.1234, -0.777]),)),
        Case("squared distances", True, lambda a, b: jnp.sum((a[:, None] - b[None]) ** 2, -1), (normal((4, 3), 93), normal((5, 3), 94))),
    ]

    loss = with_vjp(lambda w, x: jnp.mean((x @ w) ** 2), lambda args, u: (u * 2 * args[1].T @ (args[1] @ args[0]), jnp.zeros_like(args[1])))
    bmm = with_vjp(
        lambda a, b: jnp.einsum("bij,bjk->bik", a, b),
        lambda args, u: (jnp.einsum("bik,bjk->bij", u, args[1]), jnp.einsum("bji,bik->bjk", args[0], u)),
    )
    relu_shifted = with_jvp(jax.nn.leaky_relu, lambda x: jnp.where(x > 0.5, 1.0, 0.01))
    layer = with_vjp(lambda x: (x - x.mean()) / x.std(), lambda args, u: ((u - u.mean()) / args[0].std(),))
    logsumexp = with_vjp(lambda x: jax.nn.logsumexp(x), lambda args, u: (u * jnp.exp(args[0]),))
    wrong = [
        Case("mean without its 1/n", False, loss, (normal((3, 2), 95), normal((7, 3), 96)), ("reverse",)),
        Case("batched product, one side", False, bmm, (normal((2, 3, 3), 97), normal((2, 3, 3), 98)), ("reverse",)),
        Case("leaky relu's kink misplaced", False, relu_shifted, (np.array([-1.0, 0.3, 0.8]),)),
        Case("layer norm, one term missing", False, layer, (normal(7, 99),), ("reverse",)),
        Case("logsumexp not normalized", False, logsumexp, (normal(5, 100),), ("reverse",)),
        Case("sqrt by 1 / sqrt", False, with_jvp(jnp.sqrt, lambda x: 1 / jnp.sqrt(x)), (np.array([0.5, 4.0]),)),
        Case(
            "second output stopped",
            False,
            lambda x: jnp.stack([jnp.sin(x), jax.lax.stop_gradient(jnp.cos(x))]),
            (0.6,),
        ),
        Case("degrees for radians", False, with_jvp(lambda x: jnp.sin(x), lambda x: jnp.cos(x) * jnp.pi / 180), (x5,)),
        Case("scaled by 1.05, 500 numbers", False, with_jvp(jnp.tanh, lambda x: 1.05 * (1 - jnp.tanh(x) ** 2)), (normal(500, 101),)),
        Case("one of 60 doubled", False, with_jvp(jnp.exp, lambda x: jnp.exp(x).at[17].multiply(2)), (normal(60, 102),)),
        Case("one of 5,000 flipped", False, with_jvp(jnp.sin, lambda x: jnp.cos(x).at[4321].multiply(-1)), (normal(5000, 103),)),
        Case("a leaf's rows reversed", False, with_jvp(lambda x: x**2, lambda x: 2 * x[::-1]), (normal((6, 2), 104),)),
        Case("sign of one argument", False, with_vjp(lambda x, y: x - y, lambda args, u: (u, u)), (0.2, 0.9), ("reverse",)),
        Case("stopped in a loop", False, lambda x: jax.lax.fori_loop(0, 4, lambda _, s: s * x + jax.lax.stop_gradient(s), x), (0.7,)),
        Case("log at 0 behind a where", False, lambda x: jnp.where(x > 0, x * jnp.log(x), 0.0), (np.array([0.0, 0.5]),)),
        Case("power at 0", False, lambda x: jnp.sum(x**2.0 * jnp.where(x == 0, 1.0, jnp.sin(1 / x))), (np.array([0.0, 0.4]),)),
    ]
    return right + wrong


def cast(args: Any, dtype: str) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), args)


def passes_check_grads(case: Case, args: Any) -> bool:
    modes = [{"forward": "fwd", "reverse": "rev"}[mode] for mode in case.modes]
    try:
        check_grads(case.f, args, order=1, modes=modes)
    except AssertionError:
        return False
    return True


def run(name: str, cases: list[Case], dtype: str, is_verbose: bool) -> bool:
    """Print the table of a set; whether nothing was missed and nobody accused."""
    caught, alarms, open_ = {"jaxdiff": 0, "check_grads": 0}, {"jaxdiff": 0, "check_grads": 0}, 0
    right = sum(case.is_right for case in cases)
    start = time.perf_counter()
    print(f"\n{name}, {dtype}")
    print(f"  {'case':32} {'derivative':10} {'jaxdiff':38} {'check_grads':11}")
    for case in cases:
        args = cast(case.args, dtype)
        report = jd.check_derivatives(case.f, *args)
        peer = passes_check_grads(case, args)
        found = {"jaxdiff": report.failed, "check_grads": not peer}
        assert set(report.modes) == set(case.modes), (case.name, report.modes)
        for who, has_failed in found.items():
            (alarms if case.is_right else caught)[who] += has_failed
        verdicts = ", ".join(report.verdicts.values())
        open_ += "inconclusive" in verdicts
        mark = "" if report.failed != case.is_right else "  <-- " + ("FALSE ALARM" if case.is_right else "MISSED")
        print(f"  {case.name:32} {'right' if case.is_right else 'wrong':10} {verdicts:38} {'pass' if peer else 'fail':11}{mark}")
        if is_verbose and (mark or "inconclusive" in verdicts):
            print(report)
    seconds = time.perf_counter() - start
    for who in caught:
        print(f"  {who}: {caught[who]} of {len(cases) - right} wrong rules caught, {alarms[who]} false alarms of {right}")
    print(f"  inconclusive: {open_}; {seconds:.0f} s for all, compilation included")
    return caught["jaxdiff"] == len(cases) - right and alarms["jaxdiff"] == 0


def large_model(width: int = 512, depth: int = 4, batch: int = 32) -> bool:
    """A million parameters, float32: right, and with one element of one gradient wrong."""
    sizes = [(width, width)] * depth
    ws = [jnp.asarray(normal(shape, k) / np.sqrt(shape[0]), jnp.float32) for k, shape in enumerate(sizes)]
    bs = [jnp.zeros(shape[1], jnp.float32) for shape in sizes]
    x, y = (jnp.asarray(normal((batch, width), 70 + k), jnp.float32) for k in range(2))

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        for w, b in params[:-1]:
            x = jnp.tanh(x @ w + b)
        w, b = params[-1]
        return jnp.mean((x @ w + b - y) ** 2)

    broken = jax.custom_vjp(loss)

    def backward(arguments: Any, cotangent: jax.Array) -> Any:
        params, x, y = jax.vjp(loss, *arguments)[1](cotangent)
        w, b = params[2]
        largest = jnp.unravel_index(jnp.argmax(jnp.abs(w)), w.shape)
        params[2] = (w.at[largest].multiply(-30.0), b)
        return params, x, y

    broken.defvjp(lambda *arguments: (loss(*arguments), arguments), backward)
    params = list(zip(ws, bs, strict=True))
    print(f"\nnetwork of {sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters, batch {batch}, float32")
    is_fine = True
    for name, f, is_right in (("right", loss, True), ("one element wrong", broken, False)):
        start = time.perf_counter()
        report = jd.check_derivatives(f, params, x, y, argnums=0)
        counts = {verdict: list(report.verdicts.values()).count(verdict) for verdict in sorted(set(report.verdicts.values()))}
        print(f"  {name}: {counts} of {len(report.leaves)} leaves, {time.perf_counter() - start:.1f} s, compilation included")
        for leaf in report.leaves:
            if leaf.verdict.is_failure:
                print(f"    {leaf}")
        is_fine &= report.failed != is_right
    return is_fine


def main() -> int:
    parser = argparse.ArgumentParser(description="count what check_derivatives catches")
    parser.add_argument("--quick", action="store_true", help="leave the large model out")
    parser.add_argument("--verbose", action="store_true", help="print reports that surprise or leave something open")
    parser.add_argument("--sets", default="12", help="1, 2 or 12")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"], choices=["float32", "float64"])
    options = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}")
    is_fine = True
    for dtype in options.dtypes:
        jax.config.update("jax_enable_x64", dtype == "float64")
        if "1" in options.sets:
            is_fine &= run("first set", plain_cases() + harder_cases(), dtype, options.verbose)
        if "2" in options.sets:
            is_fine &= run("held-out set", held_out_cases(), dtype, options.verbose)
    jax.config.update("jax_enable_x64", False)
    if not options.quick:
        is_fine &= large_model()
    print(f"\nevery wrong rule caught, no right one accused: {'yes' if is_fine else 'NO'}")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
