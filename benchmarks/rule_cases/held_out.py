"""The second set, not looked at while the checker was written."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rule_cases import Case, normal, with_jvp, with_vjp


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
