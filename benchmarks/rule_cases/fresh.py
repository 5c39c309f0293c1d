"""Wrong and right rules of a third set, written down before the checker had seen any of them; `NOTES.md` has what its first run gave.

Right ones are JAX's own derivatives of what people differentiate; wrong ones are mistakes that people make in rules of their own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rule_cases import Case, normal, with_jvp, with_vjp

FLOAT64_ONLY = ("float64",)


def right_cases() -> list[Case]:
    """JAX's derivatives."""
    x4, x6 = normal(4, 200), normal(6, 201)

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        scores = q @ k.T / jnp.sqrt(1.0 * q.shape[-1])
        return jax.nn.softmax(jnp.where(jnp.tril(jnp.ones(scores.shape, bool)), scores, -jnp.inf)) @ v

    def contrastive(a: jax.Array, b: jax.Array) -> jax.Array:
        a, b = (v / jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (a, b))
        return -jnp.mean(jnp.diag(jax.nn.log_softmax(a @ b.T / 0.07)))

    def focal(z: jax.Array) -> jax.Array:
        log_p = jax.nn.log_sigmoid(z)
        return -jnp.mean((1 - jnp.exp(log_p)) ** 2 * log_p)

    def lennard_jones(r: jax.Array) -> jax.Array:
        gap = r[:, None] - r[None]
        upper = np.triu_indices(r.shape[0], 1)
        inverse = 1 / jnp.sum(gap[upper] ** 2, axis=-1) ** 3
        return jnp.sum(4 * (inverse**2 - inverse))

    def kepler(m: jax.Array, e: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 8, lambda _, u: u - (u - e * jnp.sin(u) - m) / (1 - e * jnp.cos(u)), m)

    def gaussian_process(log_scale: jax.Array, log_noise: jax.Array) -> jax.Array:
        t = jnp.linspace(0.0, 3.0, 12, dtype=log_scale.dtype)
        kernel = jnp.exp(-0.5 * ((t[:, None] - t) / jnp.exp(log_scale)) ** 2) + jnp.exp(log_noise) * jnp.eye(12, dtype=t.dtype)
        lower = jnp.linalg.cholesky(kernel)
        white = jax.scipy.linalg.solve_triangular(lower, jnp.sin(2 * t), lower=True)
        return 0.5 * white @ white + jnp.sum(jnp.log(jnp.diag(lower)))

    def hidden_markov(log_a: jax.Array, log_b: jax.Array) -> jax.Array:
        step = lambda alpha, o: (jax.nn.logsumexp(alpha[:, None] + jax.nn.log_softmax(log_a), axis=0) + log_b[:, o], None)  # noqa: E731
        return jax.nn.logsumexp(jax.lax.scan(step, log_b[:, 0], jnp.array([1, 0, 2, 2, 1, 0, 1, 2]))[0])

    def lotka_volterra(p: jax.Array) -> jax.Array:
        slope = lambda s: jnp.stack([s[0] * (p[0] - p[1] * s[1]), s[1] * (p[2] * s[0] - p[3])])  # noqa: E731

        def step(s: jax.Array, _: None) -> Any:
            a = slope(s)
            b = slope(s + 0.05 * a)
            c = slope(s + 0.05 * b)
            return s + 0.1 / 6 * (a + 2 * b + 2 * c + slope(s + 0.1 * c)), None

        return jax.lax.scan(step, jnp.ones(2, p.dtype), None, length=30)[0]

    def rotation(q: jax.Array, v: jax.Array) -> jax.Array:
        q = q / jnp.linalg.norm(q)
        return v + 2 * jnp.cross(q[1:], jnp.cross(q[1:], v) + q[0] * v)

    def lora(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(normal((5, 6), 202) @ a @ b + normal((5, 4), 203)))

    def spectral(w: jax.Array) -> jax.Array:
        v = jax.lax.fori_loop(0, 5, lambda _, v: w.T @ (w @ v) / jnp.linalg.norm(w.T @ (w @ v)), jnp.ones(w.shape[1], w.dtype))
        return w / jnp.linalg.norm(w @ v)

    def mixture(means: jax.Array, log_widths: jax.Array) -> jax.Array:
        data = jnp.asarray(normal(60, 204), means.dtype)
        log_p = -0.5 * ((data[:, None] - means) * jnp.exp(-log_widths)) ** 2 - log_widths
        return -jnp.mean(jax.nn.logsumexp(log_p, axis=1))

    def embedding(table: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(table[jnp.array([3, 1, 3, 0, 3])]) ** 2)

    def while_root(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda y: jnp.abs(y * y - x) > 1e-6 * x, lambda y: (y + x / y) / 2, x)

    def dead_units(w: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.mean(jax.nn.relu(normal((9, 3), 205) @ w + b) ** 2)

    logits = normal((5, 7), 206)
    return [
        Case("causal attention", True, attention, tuple(normal((4, 3), 207 + k) for k in range(3))),
        Case("contrastive loss at 0.07", True, contrastive, (normal((4, 6), 210), normal((4, 6), 211))),
        Case("focal loss", True, focal, (np.array([-6.0, -0.5, 2.0, 9.0]),)),
        Case("Lennard-Jones, 8 atoms", True, lennard_jones, (1.1 * np.indices((2, 2, 2)).reshape(3, 8).T + 0.05 * normal((8, 3), 212),)),
        Case("Kepler's equation by Newton", True, kepler, (1.1, 0.6)),
        Case("matrix exponential", True, jax.scipy.linalg.expm, (normal((3, 3), 213),)),
        Case("singular values", True, lambda m: jnp.linalg.svd(m, compute_uv=False), (normal((4, 3), 214),)),
        Case("QR, the triangle", True, lambda m: jnp.linalg.qr(m)[1], (normal((4, 3), 215) + np.eye(4, 3),)),
        Case("rotation by a quaternion", True, rotation, (normal(4, 216), normal(3, 217))),
        Case("Gaussian process", True, gaussian_process, (-0.3, -3.0)),
        Case("hidden Markov model", True, hidden_markov, (normal((3, 3), 218), normal((3, 3), 219))),
        Case("Lotka-Volterra by Runge-Kutta", True, lotka_volterra, (np.array([1.5, 1.0, 0.8, 1.2]),)),
        Case("sinc", True, jnp.sinc, (np.array([1e-4, 0.3, 1.0, 7.2]),)),
        Case("log(1 - exp(-x))", True, lambda x: jnp.log(-jnp.expm1(-x)), (np.array([1e-4, 0.7, 8.0]),)),
        Case("normal quantiles", True, jax.scipy.special.ndtri, (np.array([1e-3, 0.4, 0.98]),)),
        Case("beta function", True, jax.scipy.special.betaln, (np.array([0.4, 3.0, 50.0]), np.array([2.0, 0.7, 30.0]))),
        Case("low-rank update, one factor 0", True, lora, (normal((6, 2), 220), np.zeros((2, 4)))),
        Case("rows looked up more than once", True, embedding, (normal((5, 3), 221),)),
        Case("cumulative maximum", True, jax.lax.cummax, (normal(9, 222),)),
        Case("cumulative product", True, jnp.cumprod, (1 + 0.3 * normal(12, 223),)),
        Case("segment sums", True, lambda x: jax.ops.segment_sum(x**2, jnp.array([0, 1, 0, 2, 2, 1]), 3), (x6,)),
        Case("top three", True, lambda x: jax.lax.top_k(x, 3)[0], (normal(8, 224),)),
        Case("spectral normalization", True, spectral, (normal((4, 5), 225),)),
        Case("Gaussian mixture", True, mixture, (np.array([-1.0, 0.2, 2.0]), np.array([-0.5, 0.0, 0.3]))),
        Case("Newton's root in a while loop", True, while_root, (2.7,), ("forward",)),
        Case("relu units all dead", True, dead_units, (normal((3, 4), 226), np.array([-100.0, 0.3, -50.0, 1.0]))),
        Case("tiny weights", True, lambda w: jnp.sum(jnp.tanh(1e18 * w)), (1e-18 * x4,)),
        Case("huge arguments", True, lambda x: jnp.log(x) + 1e-9 * x, (1e8 * np.array([1.0, 2.5]),)),
        Case("exp(-1 / x)", True, lambda x: jnp.exp(-1 / x), (np.array([0.06, 0.4]),)),
        Case("saturated softmax", True, jax.nn.softmax, (np.array([50.0, -50.0, 48.0]),)),
        Case("logit near 1", True, lambda p: jnp.log(p) - jnp.log1p(-p), (np.array([0.999, 0.02]),)),
        Case("arccos near its end", True, jnp.arccos, (np.array([0.9999, -0.5]),)),
        Case("powers of arrays", True, lambda x, y: x**y, (np.array([0.3, 2.2, 9.0]), np.array([2.5, -1.3, 0.5]))),
        Case("Hill function", True, lambda x, k, n: x**n / (k**n + x**n), (np.array([0.1, 3.0]), 0.8, 4.0)),
        Case("conditional branch", True, lambda x: jax.lax.cond(x > 0, jnp.sin, lambda x: x**3, x), (0.4,)),
        Case(
            "optax's CTC loss",
            True,
            lambda z: optax.ctc_loss(z[None], jnp.zeros((1, 5)), jnp.array([[1, 2, 2]]), jnp.zeros((1, 3))),
            (logits,),
        ),
        Case("checkpointed layers", True, lambda w: jnp.sum(jax.checkpoint(lambda w: jnp.sin(jnp.cos(w) ** 2))(w)), (normal((3, 3), 228),)),
        Case("mean of 20,000", True, lambda x: jnp.mean(jnp.log1p(x**2)), (normal(20_000, 229),)),
        Case("sum of squares minus mean squared", True, lambda x: jnp.mean(x**2) - jnp.mean(x) ** 2, (3 + x6,)),
        Case(
            "swish gated unit",
            True,
            lambda x, w, v: jax.nn.silu(x @ w) * (x @ v),
            (normal((2, 3), 230), normal((3, 4), 231), normal((3, 4), 232)),
        ),
    ]


def wrong_cases() -> list[Case]:
    """Mistakes."""
    x4, x5, reverse = normal(4, 240), normal(5, 241), ("reverse",)
    square, other = normal((3, 3), 242) + 2 * np.eye(3), normal((3, 3), 243)

    def normalize(x: jax.Array) -> jax.Array:
        return (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5)

    def attention(q: jax.Array, k: jax.Array) -> jax.Array:
        return jax.nn.softmax(q @ k.T / 2)

    def scores_back(args: Any, u: jax.Array) -> Any:
        p = attention(*args)
        inner = p * (u - jnp.sum(u * p, axis=-1, keepdims=True))
        return inner @ args[1], inner.T @ args[0]  # without the 1 / 2 of the scores

    def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.convolve(x, w, mode="valid")

    def convolve_back(args: Any, u: jax.Array) -> Any:
        x, w = args
        return jnp.convolve(u, w, mode="full"), jnp.convolve(x[::-1], u, mode="valid")  # w is not reversed for x

    def look_up_back(args: Any, u: jax.Array) -> Any:
        return (jnp.zeros_like(args[0]).at[jnp.array([2, 0, 2])].set(u),)  # the last of two rows wins

    def recurrent(w: jax.Array) -> jax.Array:
        h = jnp.ones(3, w.dtype)
        for k in range(4):
            h = jnp.tanh((jax.lax.stop_gradient(h) if k == 2 else h) @ w)
        return jnp.sum(h)

    def detached_statistics(x: jax.Array) -> jax.Array:
        mean, spread = jax.lax.stop_gradient((x.mean(0), jnp.sqrt(x.var(0) + 1e-5)))
        return jnp.sum(((x - mean) / spread) ** 3)

    def unit(x: jax.Array) -> jax.Array:
        return x / jnp.sqrt(jnp.sum(x**2))

    def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
        return a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b))

    def root(a: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 20, lambda _, y: y - (y**3 + y - a) / (3 * y**2 + 1), a)

    def six_leaves(p: Any) -> jax.Array:
        return sum(10.0**-k * jnp.sum(jnp.sin(p[f"w{k}"])) for k in range(6))

    def five_of_six(args: Any, u: jax.Array) -> Any:
        return ({f"w{k}": (k != 3) * 10.0**-k * u * jnp.cos(args[0][f"w{k}"]) for k in range(6)},)

    def one_of(n: int, place: int, factor: float) -> Any:
        return with_vjp(lambda x: jnp.mean(jnp.sin(x)), lambda args, u: (u * jnp.cos(args[0]).at[place].multiply(factor) / n,))

    def interpolate(t: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        return (1 - t) * a + t * b

    def scan_sum(x: jax.Array) -> jax.Array:
        return jnp.cumsum(x) ** 2

    mask = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    cases = [
        Case(
            "batch norm, variance held",
            False,
            with_vjp(normalize, lambda args, u: ((u - u.mean(0)) / jnp.sqrt(args[0].var(0) + 1e-5),)),
            (normal((6, 3), 244),),
            reverse,
        ),
        Case("attention, scale forgotten", False, with_vjp(attention, scores_back), (normal((3, 4), 245), normal((3, 4), 246)), reverse),
        Case("convolution, kernel not reversed", False, with_vjp(convolve, convolve_back), (normal(7, 247), normal(3, 248)), reverse),
        Case(
            "inverse, not transposed",
            False,
            with_vjp(jnp.linalg.inv, lambda args, u: (-jnp.linalg.inv(args[0]) @ u @ jnp.linalg.inv(args[0]),)),
            (square,),
            reverse,
        ),
        Case(
            "logsumexp overflows",
            False,
            with_vjp(lambda x: jax.nn.logsumexp(x), lambda args, u: (u * jnp.exp(args[0]) / jnp.sum(jnp.exp(args[0])),)),
            (1e3 + x4,),
            reverse,
        ),
        Case(
            "temperature forgotten",
            False,
            with_vjp(lambda x: jax.nn.softmax(x / 3), lambda args, u: (jax.vjp(jax.nn.softmax, args[0] / 3)[1](u)[0],)),
            (x4,),
            reverse,
        ),
        Case("silu' = sigmoid", False, with_jvp(lambda x: jax.nn.silu(x), jax.nn.sigmoid), (x4,)),
        Case(
            "cumulative sum, not reversed",
            False,
            with_vjp(scan_sum, lambda args, u: (jnp.cumsum(2 * u * jnp.cumsum(args[0])),)),
            (x5,),
            reverse,
        ),
        Case("rows set, not added", False, with_vjp(lambda t: t[jnp.array([2, 0, 2])], look_up_back), (normal((4, 2), 249),), reverse),
        Case(
            "arctan2, sign of one",
            False,
            with_vjp(
                jnp.arctan2, lambda args, u: (u * args[1] / (args[0] ** 2 + args[1] ** 2), u * args[0] / (args[0] ** 2 + args[1] ** 2))
            ),
            (0.7, -0.4),
            reverse,
        ),
        Case("unit vector, not projected", False, with_vjp(unit, lambda args, u: (u / jnp.sqrt(jnp.sum(args[0] ** 2)),)), (x4,), reverse),
        Case("recurrence cut in the middle", False, recurrent, (normal((3, 3), 250),)),
        Case("statistics detached", False, detached_statistics, (normal((5, 2), 251),)),
        Case("abs has slope 1", False, with_jvp(jnp.abs, jnp.ones_like), (np.array([0.5, -2.0]),)),
        Case("mask forgotten", False, with_vjp(lambda x: x**2 * mask, lambda args, u: (2 * u * args[0],)), (x5,), reverse),
        Case(
            "padding shifted by one",
            False,
            with_vjp(lambda x: jnp.pad(x, (1, 1)) ** 2, lambda args, u: ((u * 2 * jnp.pad(args[0], (1, 1)))[:-2],)),
            (x5,),
            reverse,
        ),
        Case(
            "mean by n - 1",
            False,
            with_vjp(lambda x: jnp.mean(x**2), lambda args, u: (2 * u * args[0] / (args[0].size - 1),)),
            (normal(12, 252),),
            reverse,
        ),
        Case("expm1' = expm1", False, with_jvp(jnp.expm1, jnp.expm1), (np.array([0.5, -1.0]),)),
        Case("x / |x| at 0", False, lambda x: jnp.where(jnp.sum(x**2) > 0, unit(x), 0.0), (np.zeros(2),)),
        Case(
            "cosine of a zero vector", False, lambda a, b: jnp.where(jnp.sum(a * a) > 0, cosine(a, b), 0.0), (np.zeros(3), normal(3, 253))
        ),
        Case("arccos at 1 behind a where", False, lambda x: jnp.where(jnp.abs(x) < 1, jnp.arccos(x), 0.0), (np.array([1.0, 0.3]),)),
        Case(
            "log of a softmax that underflows",
            False,
            lambda z: jnp.where(z > -500, jnp.log(jax.nn.softmax(z)), z),
            (np.array([0.0, -1000.0]),),
        ),
        Case(
            "scaled by 1.05, sizes 1e-6 to 1e6",
            False,
            with_jvp(
                lambda x: 10.0 ** jnp.arange(-6, 7, 2) * jnp.sin(x),
                lambda x: 10.0 ** jnp.arange(-6, 7, 2) * jnp.cos(x) * jnp.ones(7).at[1].set(1.05),
            ),
            (normal(7, 254),),
        ),
        Case("sign has slope 1", False, with_jvp(jnp.sign, jnp.ones_like), (np.array([0.4, -0.2]),)),
        Case("implicit root, sign lost", False, with_jvp(root, lambda a: -1 / (3 * root(a) ** 2 + 1)), (1.7,)),
        Case(
            "one of six leaves, 1,000 times smaller",
            False,
            with_vjp(six_leaves, five_of_six),
            ({f"w{k}": normal(3, 255 + k) for k in range(6)},),
            reverse,
        ),
        Case("one of 300 zero", False, one_of(300, 211, 0.0), (0.5 * normal(300, 262),), reverse),
        Case("one of 20,000 flipped", False, one_of(20_000, 13_579, -1.0), (0.5 * normal(20_000, 263),), reverse),
        Case("0 / 0 in the branch not taken", False, lambda x: jnp.sum(jnp.where(x == 0, 1.0, jnp.sin(x) / x)), (np.array([0.0, 0.5]),)),
        Case(
            "factor of two of a square",
            False,
            with_vjp(lambda a, b: jnp.sum((a - b) ** 2), lambda args, u: (u * (args[0] - args[1]), -u * (args[0] - args[1]))),
            (x4, x4[::-1].copy()),
            reverse,
        ),
        Case(
            "gradient clipped to 1",
            False,
            with_vjp(lambda x: jnp.sum(jnp.exp(x)), lambda args, u: (jnp.clip(u * jnp.exp(args[0]), -1, 1),)),
            (np.array([-0.5, 0.7]),),
            reverse,
        ),
        Case("third argument's tangent dropped", False, _drops_third(), (0.3, 1.2, -0.8)),
        Case(
            "ends of an interval swapped",
            False,
            with_vjp(interpolate, lambda args, u: (u * (args[2] - args[1]), u * args[0], u * (1 - args[0]))),
            (0.3, 1.0, 2.5),
            reverse,
        ),
        Case(
            "softplus wrong beyond 4",
            False,
            with_jvp(lambda x: jax.nn.softplus(x), lambda x: jnp.where(x > 4, 0.9, 1.0) * jax.nn.sigmoid(x)),
            (np.array([0.2, 5.0, 1.0]),),
        ),
        Case(
            "trace of a product, transposed",
            False,
            with_vjp(lambda a, b: jnp.trace(a @ b), lambda args, u: (u * args[1], u * args[0])),
            (square, other),
            reverse,
        ),
        Case(
            "determinant without adjugate",
            False,
            with_vjp(jnp.linalg.det, lambda args, u: (u * jnp.linalg.inv(args[0]).T,)),
            (square,),
            reverse,
        ),
        Case(
            "angle by the wrong constant",
            False,
            with_jvp(lambda x: jnp.cos(2 * jnp.pi * x), lambda x: -6.0 * jnp.sin(2 * jnp.pi * x)),
            (np.array([0.1, 0.7]),),
            ("forward", "reverse"),
            FLOAT64_ONLY,
        ),
        Case(
            "gelu by its tanh form",
            False,
            with_jvp(lambda x: jax.nn.gelu(x, approximate=False), jax.vmap(jax.grad(jax.nn.gelu))),
            (np.array([1.5, -2.0, 0.4]),),
            ("forward", "reverse"),
            FLOAT64_ONLY,
        ),
        Case(
            "scaled by 1.01, 12 outputs",
            False,
            with_jvp(lambda x: jnp.exp(-(x**2)), lambda x: -2.02 * x * jnp.exp(-(x**2))),
            (normal(12, 264),),
            ("forward", "reverse"),
            FLOAT64_ONLY,
        ),
        Case(
            "weight decay forgotten",
            False,
            with_vjp(lambda w: jnp.sum(jnp.tanh(w)) + 5e-4 * jnp.sum(w**2), lambda args, u: (u * (1 - jnp.tanh(args[0]) ** 2),)),
            (normal(6, 265),),
            reverse,
            FLOAT64_ONLY,
        ),
    ]
    return cases


def _drops_third() -> Any:
    f = jax.custom_jvp(lambda x, y, z: jnp.sin(x) * y + jnp.exp(z))
    f.defjvp(lambda p, t: (jnp.sin(p[0]) * p[1] + jnp.exp(p[2]), jnp.cos(p[0]) * p[1] * t[0] + jnp.sin(p[0]) * t[1]))
    return f


def fresh_cases() -> list[Case]:
    return right_cases() + wrong_cases()
