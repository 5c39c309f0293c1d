"""Backpropagation written by hand against jax.grad, and against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.functions.losses import LOSSES
from jaxdiff.functions.network import DenseLayer, dense, init_mlp, mlp, mlp_value_and_gradient

SIZES = (4, 7, 5, 3)
# (hidden, output, loss): classification and regression heads, with an elementwise and with a row-wise output activation.
NETWORKS = [
    ("sigmoid", None, "mse"),
    ("softmax", None, "mse"),
    ("log_softmax", None, "hinge"),
    ("tanh", None, "categorical_cross_entropy_with_logits"),
    ("tanh", "softmax", "categorical_cross_entropy"),
    ("gelu", "softmax", "kl_divergence"),
    ("relu", None, "binary_cross_entropy_with_logits"),
    ("silu", "sigmoid", "binary_cross_entropy"),
    ("mish", None, "huber"),
    ("leaky_relu", "softplus", "log_cosh"),
]


def _data(dtype: str) -> tuple:
    rng = np.random.default_rng(0)
    layers = init_mlp(jax.random.key(1), SIZES, dtype=dtype)
    layers = tuple(DenseLayer(layer.weight, jnp.asarray(rng.normal(size=layer.bias.shape) / 2, dtype)) for layer in layers)
    return layers, rng.normal(size=(6, SIZES[0])).astype(dtype), np.eye(SIZES[-1])[rng.integers(0, SIZES[-1], 6)].astype(dtype)


def _largest_difference(tree: object, other: object) -> float:
    """Largest difference over the largest element, leaf by leaf: what rounding leaves in sums of products."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return max(float(np.max(np.abs(a - b)) / np.max(np.abs(b))) for a, b in pairs)


@pytest.mark.core
@pytest.mark.parametrize(("hidden", "output", "loss"), NETWORKS)
def test_backpropagation_equals_autodiff_to_rounding(hidden: str, output: str | None, loss: str, dtype: str) -> None:
    layers, x, y = _data(dtype)

    @jax.jit
    def both(layers: tuple, x: jax.Array, y: jax.Array) -> tuple:
        by_hand = mlp_value_and_gradient(layers, x, y, activation=hidden, output_activation=output, loss=loss)

        def objective(layers: tuple) -> jax.Array:
            return LOSSES[loss].value(mlp(layers, x, activation=hidden, output_activation=output), y)

        return by_hand, jax.value_and_grad(objective)(layers)

    (value, gradient), (expected_value, expected) = both(layers, x, y)
    assert jax.tree.structure(gradient) == jax.tree.structure(layers)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves((value, gradient)))
    assert float(value) == pytest.approx(float(expected_value), rel=8 * float(np.finfo(dtype).eps))
    assert _largest_difference(gradient, expected) <= 32 * np.finfo(dtype).eps


def test_linear_network_matches_the_normal_equations() -> None:
    rng = np.random.default_rng(5)
    x, y, w, b = rng.normal(size=(9, 4)), rng.normal(size=(9, 2)), rng.normal(size=(4, 2)), rng.normal(size=2)
    value, (gradient,) = mlp_value_and_gradient((DenseLayer(w, b),), x, y)
    residual = x @ w + b - y
    assert float(value) == pytest.approx(np.mean(residual**2), rel=1e-14)
    # The mean is over all 18 elements.
    np.testing.assert_allclose(gradient.weight, 2 / 18 * x.T @ residual, rtol=1e-13)
    np.testing.assert_allclose(gradient.bias, 2 / 18 * residual.sum(0), rtol=1e-13)


def test_softmax_regression_gradient_is_probability_minus_label() -> None:
    rng = np.random.default_rng(6)
    x, w = rng.normal(size=(8, 3)), rng.normal(size=(3, 4))
    y = np.eye(4)[rng.integers(0, 4, 8)]
    _, (gradient,) = mlp_value_and_gradient((DenseLayer(w, np.zeros(4)),), x, y, loss="categorical_cross_entropy_with_logits")
    p = np.exp(x @ w)
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(gradient.weight, x.T @ (p - y) / 8, rtol=1e-12)


def test_dead_units_follow_the_convention_at_the_kink() -> None:
    layers = (DenseLayer(np.zeros((2, 3)), np.zeros(3)), DenseLayer(np.ones((3, 1)), np.zeros(1)))
    x, y = np.ones((4, 2)), np.ones((4, 1))
    _, gradient = mlp_value_and_gradient(layers, x, y, activation="relu")
    # Every hidden unit sits at the kink, where the derivative of relu is 0.
    assert not np.any(gradient[0].weight)
    np.testing.assert_allclose(gradient[1].bias, [-2.0])


def test_leading_axes_and_reductions() -> None:
    layers, x, y = _data("float64")
    compiled = jax.jit(mlp_value_and_gradient, static_argnames="reduction")
    value, gradient = compiled(layers, x, y)
    stacked_value, stacked = compiled(layers, x.reshape(2, 3, -1), y.reshape(2, 3, -1))
    assert float(value) == pytest.approx(float(stacked_value), rel=1e-15)
    assert _largest_difference(stacked, gradient) <= 1e-15
    total, summed = compiled(layers, x, y, reduction="sum")
    assert float(total) == pytest.approx(y.size * float(value), rel=1e-14)
    assert _largest_difference(summed, jax.tree.map(lambda g: y.size * g, gradient)) <= 1e-14
    single, _ = compiled(layers, x[0], y[0])
    np.testing.assert_allclose(jax.jit(mlp)(layers, x[0]), jax.jit(mlp)(layers, x)[0], rtol=1e-14)
    assert single.shape == ()


@pytest.mark.parametrize("scheme", ["glorot", "he", "lecun"])
def test_weights_have_the_variance_of_their_scheme(scheme: str) -> None:
    (layer,) = init_mlp(jax.random.key(0), (300, 200), scheme=scheme, dtype="float32")
    assert layer.weight.dtype == np.float32
    variance = {"glorot": 2 / 500, "he": 2 / 300, "lecun": 1 / 300}[scheme]
    # 60,000 draws: the standard error of the variance is under 0.6 %.
    assert float(jnp.var(layer.weight)) == pytest.approx(variance, rel=0.03)
    assert not np.any(layer.bias)


def test_layers_get_different_weights_and_the_default_dtype() -> None:
    layers = init_mlp(jax.random.key(0), (6, 6, 6))
    assert layers[0].weight.dtype == jnp.result_type(float)
    assert not np.any(layers[0].weight == layers[1].weight)
    old_style = init_mlp(jax.random.PRNGKey(0), (6, 6, 6))
    np.testing.assert_array_equal(old_style[0].weight, layers[0].weight)


def test_bad_input_is_refused_by_name() -> None:
    layers, x, y = _data("float64")
    key = jax.random.key(0)
    for sizes in ((3,), (3, 0), (3, 2.5), (3, -1, 2), (True, 2)):
        with pytest.raises(ValueError, match="sizes"):
            init_mlp(key, sizes)
    with pytest.raises(ValueError, match=r"scheme = 'glorto'.*did you mean 'glorot'"):
        init_mlp(key, (2, 2), scheme="glorto")
    with pytest.raises(ValueError, match=r"activation = 'than'.*did you mean 'tanh'"):
        mlp(layers, x, activation="than")
    with pytest.raises(ValueError, match="output_activation = 'sofmax'"):
        mlp(layers, x, output_activation="sofmax")
    with pytest.raises(ValueError, match="loss = 'mze'"):
        mlp_value_and_gradient(layers, x, y, loss="mze")
    with pytest.raises(ValueError, match="reduction = 'none'"):
        mlp_value_and_gradient(layers, x, y, reduction="none")
    with pytest.raises(ValueError, match=r"x has shape \(6, 3\); expected 4 inputs"):
        mlp(layers, x[:, :3])
    with pytest.raises(ValueError, match=r"prediction has shape \(6, 3\) and target has shape \(6,\)"):
        mlp_value_and_gradient(layers, x, y[:, 0])
    with pytest.raises(TypeError, match="x"):
        mlp(layers, "abc")
    with pytest.raises(ValueError, match="at least one layer"):
        mlp((), x)


def test_dense_keeps_leading_axes() -> None:
    layer = DenseLayer(jnp.ones((3, 2)), jnp.zeros(2))
    assert dense(layer, jnp.ones((4, 5, 3))).shape == (4, 5, 2)
