"""A dense layer and a multilayer perceptron with backpropagation written by hand, to be held against ``jax.grad``.

The backward pass uses the documented derivatives of the registries and nothing else: what is exact there is exact here. Notation as in
Goodfellow, Bengio and Courville (2016), "Deep Learning", section 6.5, algorithms 6.3 and 6.4: layer k maps h to a = h W + b and then
to activation(a).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray, UInt32

from jaxdiff._types import DType, Scalar
from jaxdiff._validation import check_count, closest
from jaxdiff.functions._arrays import as_real
from jaxdiff.functions.activations import ACTIVATIONS, Activation
from jaxdiff.functions.losses import LOSSES, Loss

INITIALIZERS = {
    "glorot": jax.nn.initializers.glorot_uniform,
    "he": jax.nn.initializers.he_normal,
    "lecun": jax.nn.initializers.lecun_normal,
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DenseLayer:
    """Parameters of one dense layer, or a gradient with respect to them.

    Attributes:
        weight: W, one column per output.
        bias: b.
    """

    weight: Any
    bias: Any


Layers = tuple[DenseLayer, ...]


def dense(layer: DenseLayer, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
    """Affine map of the last axis, x W + b.

    Example:
        >>> layer = DenseLayer(jnp.array([[1.0], [2.0]]), jnp.array([3.0]))
        >>> dense(layer, jnp.array([1.0, 1.0])).tolist()
        [6.0]
    """
    return x @ layer.weight + layer.bias


def dense_pullback(
    layer: DenseLayer, x: Float[Array, "... inputs"], cotangent: Float[Array, "... outputs"]
) -> tuple[DenseLayer, Float[Array, "... inputs"]]:
    """Gradients of sum(cotangent * dense(layer, x)) with respect to the layer and to x.

    With c the cotangent and the sums over all leading axes: dW = sum x^T c, db = sum c, dx = c W^T.

    Example:
        >>> layer = DenseLayer(jnp.array([[1.0], [2.0]]), jnp.array([3.0]))
        >>> gradient, dx = dense_pullback(layer, jnp.array([5.0, 7.0]), jnp.array([1.0]))
        >>> gradient.weight.tolist(), gradient.bias.tolist(), dx.tolist()
        ([[5.0], [7.0]], [1.0], [1.0, 2.0])
    """
    rows, flat = x.reshape(-1, x.shape[-1]), cotangent.reshape(-1, cotangent.shape[-1])
    return DenseLayer(rows.T @ flat, flat.sum(0)), cotangent @ layer.weight.T


def init_mlp(
    key: Key[Array, ""] | PRNGKeyArray | UInt32[Array, "2"], sizes: Sequence[Any], *, scheme: str = "glorot", dtype: DType = float
) -> Layers:
    """Random weights and zero biases for a multilayer perceptron.

    Args:
        key: a JAX random key; one is split off for each layer.
        sizes: positive integers: the number of inputs, of units in each hidden layer, and of outputs.
        scheme: spread of the weights: ``"glorot"``, ``"he"`` or ``"lecun"`` (``jax.nn.initializers``).
        dtype: of the parameters.

    Raises:
        ValueError: fewer than two sizes, a size that is not a positive integer, or an unknown scheme.

    Example:
        >>> layers = init_mlp(jax.random.key(0), (3, 8, 2))
        >>> [layer.weight.shape for layer in layers]
        [(3, 8), (8, 2)]
    """
    if len(sizes) < 2:
        raise ValueError(f"sizes = {sizes!r}; expected at least the numbers of inputs and of outputs")
    sizes = [check_count(size, "sizes", minimum=1) for size in sizes]
    initializer = _look_up(INITIALIZERS, scheme, "scheme")()
    keys = jax.random.split(key, len(sizes) - 1)
    dtype = jnp.result_type(dtype)
    return tuple(
        DenseLayer(initializer(k, (n_in, n_out), dtype), jnp.zeros(n_out, dtype))
        for k, n_in, n_out in zip(keys, sizes[:-1], sizes[1:], strict=True)
    )


def _look_up(registry: dict[str, Any], name: Any, argument: str) -> Any:
    if name not in registry:
        raise ValueError(f"{argument} = {name!r}; expected one of {', '.join(registry)}{closest(str(name), registry)}")
    return registry[name]


def _activations(num_layers: int, activation: str, output_activation: str | None) -> list[Activation | None]:
    hidden = _look_up(ACTIVATIONS, activation, "activation")
    last = None if output_activation is None else _look_up(ACTIVATIONS, output_activation, "output_activation")
    return [hidden] * (num_layers - 1) + [last]


def _check_input(layers: Layers, x: Any) -> jax.Array:
    if len(layers) == 0:
        raise ValueError("layers = (); expected at least one layer")
    x = as_real(x, "x")
    n_in = layers[0].weight.shape[0]
    if x.ndim == 0 or x.shape[-1] != n_in:
        raise ValueError(f"x has shape {x.shape}; expected {n_in} inputs on its last axis, as the first layer takes")
    return x


def mlp(layers: Layers, x: Any, *, activation: str = "tanh", output_activation: str | None = None) -> Float[Array, "... outputs"]:
    """Multilayer perceptron.

    Args:
        layers: as ``init_mlp`` makes them.
        x: inputs on the last axis, any leading axes.
        activation: name in ``ACTIVATIONS``, after every layer but the last.
        output_activation: name in ``ACTIVATIONS``, after the last layer; None for none.

    Returns:
        Outputs on the last axis.

    Raises:
        ValueError: an unknown name, or inputs that do not fit the first layer.

    Example:
        >>> layers = init_mlp(jax.random.key(0), (3, 8, 2))
        >>> mlp(layers, jnp.ones((5, 3))).shape
        (5, 2)
    """
    h = _check_input(layers, x)
    for layer, g in zip(layers, _activations(len(layers), activation, output_activation), strict=True):
        a = dense(layer, h)
        h = a if g is None else g.value(a)
    return h


def _activation_pullback(g: Activation | None, a: jax.Array, cotangent: jax.Array) -> jax.Array:
    """Gradient of sum(cotangent * g(a)) with respect to a: a product, or with a Jacobian over the last axis a sum of products."""
    if g is None:
        return cotangent
    if g.is_elementwise:
        return cotangent * g.derivative(a)
    return jnp.einsum("...i,...ij->...j", cotangent, g.derivative(a))


def mlp_value_and_gradient(
    layers: Layers,
    x: Any,
    y: Any,
    *,
    activation: str = "tanh",
    output_activation: str | None = None,
    loss: str = "mse",
    reduction: str = "mean",
) -> tuple[Scalar, Layers]:
    """Loss of a multilayer perceptron and its gradient by backpropagation written out.

    The forward pass keeps every input h and every affine result a; the backward pass goes from the derivative of the loss with respect to
    the prediction back through each activation and each layer.

    Args:
        layers: as ``init_mlp`` makes them.
        x: inputs on the last axis, any leading axes.
        y: targets, of the shape of the outputs.
        activation: name in ``ACTIVATIONS``, after every layer but the last.
        output_activation: name in ``ACTIVATIONS``, after the last layer; None for none.
        loss: name in ``LOSSES``.
        reduction: ``"mean"`` or ``"sum"``.

    Returns:
        The loss, and its gradient in the form of ``layers``.

    Raises:
        ValueError: an unknown name, or shapes that do not fit.

    Example:
        >>> layers = init_mlp(jax.random.key(0), (3, 8, 2))
        >>> x, y = jnp.ones((5, 3)), jnp.zeros((5, 2))
        >>> value, gradient = mlp_value_and_gradient(layers, x, y)
        >>> automatic = jax.grad(lambda layers: LOSSES["mse"].value(mlp(layers, x), y))(layers)
        >>> bool(jnp.allclose(gradient[0].weight, automatic[0].weight))
        True
    """
    entry: Loss = _look_up(LOSSES, loss, "loss")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction = {reduction!r}; expected 'mean' or 'sum', which give one number to differentiate")
    activations = _activations(len(layers), activation, output_activation)
    h = _check_input(layers, x)
    inputs, affine = [], []
    for layer, g in zip(layers, activations, strict=True):
        a = dense(layer, h)
        inputs.append(h)
        affine.append(a)
        h = a if g is None else g.value(a)
    value = entry.value(h, y, reduction=reduction)

    cotangent = entry.derivative(h, y, reduction=reduction)
    gradient = []
    for layer, g, h, a in zip(reversed(layers), reversed(activations), reversed(inputs), reversed(affine), strict=True):
        layer_gradient, cotangent = dense_pullback(layer, h, _activation_pullback(g, a, cotangent))
        gradient.append(layer_gradient)
    return value, tuple(reversed(gradient))
