"""Gradient flow against closed forms: powers of a factor, a single saturated layer, a single dead one."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.functions import DenseLayer, init_mlp, mlp, mlp_value_and_gradient

WIDTH, DEPTH, BATCH = 2, 12, 3


def chain(factor: float, dtype: str = "float64", bias: float = 0.0, where: int = 5) -> tuple[DenseLayer, ...]:
    """Multiples of the unit matrix, and a bias in one layer."""
    layers = [DenseLayer(factor * jnp.eye(WIDTH, dtype=dtype), jnp.zeros(WIDTH, dtype)) for _ in range(DEPTH)]
    layers[where] = DenseLayer(layers[where].weight, layers[where].bias + bias)
    return tuple(layers)


def flow_of(layers: tuple[DenseLayer, ...], activation: str, x: float = 1.0, y: float = 0.0) -> jd.GradientFlow:
    shape, dtype = (BATCH, WIDTH), layers[0].weight.dtype
    return jd.mlp_gradient_flow(layers, jnp.full(shape, x, dtype), jnp.full(shape, y, dtype), activation=activation)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_in_a_linear_network_every_number_is_a_power_of_the_factor(factor: float, dtype: str) -> None:
    """relu of positive numbers is linear: h_k = c^k, and with the mean of squares dL/da_k = 2 c^L c^(L - k) / (B n)."""
    flow = flow_of(chain(factor, dtype), "relu")
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    assert flow.dtype == dtype
    assert flow.loss == pytest.approx(factor ** (2 * DEPTH), rel=tolerance)
    assert flow.growth == pytest.approx(factor, rel=tolerance)
    for k, layer in enumerate(flow.layers, 1):
        assert layer.activation == pytest.approx(factor**k, rel=tolerance)
        assert layer.signal == pytest.approx(2 * factor ** (2 * DEPTH - k) / (BATCH * WIDTH), rel=tolerance)
        assert layer.ratio == pytest.approx(factor ** (DEPTH - k), rel=tolerance)
        # dL/dW_k = h_(k-1)^T dL/da_k summed over the batch, n^2 equal numbers; dL/db_k its n sums.
        weight, bias = 2 * factor ** (2 * DEPTH - 1), 2 * factor ** (2 * DEPTH - k) / math.sqrt(WIDTH)
        assert layer.gradient_norm == pytest.approx(math.hypot(weight, bias), rel=tolerance)
        assert layer.parameter_norm == pytest.approx(factor * math.sqrt(WIDTH), rel=tolerance)
    # 2^-10 < 1e-3 and 2^10 > 1e3: the two layers farthest from the last.
    name = "vanishing" if factor < 1 else "exploding"
    assert list(flow.flows.values()) == [name] * 2 + ["fine"] * (DEPTH - 2)
    assert not flow.is_fine


def test_units_that_are_off_make_true_zeros() -> None:
    flow = flow_of(chain(1.0, bias=-10.0), "relu")
    # The output is 0 for a target of 0: no signal. Behind the layer that is off all are handed zeros, where relu is off by convention.
    assert set(flow.flows.values()) == {"true zero"}
    assert [layer.num_dead for layer in flow.layers] == [0] * 5 + [WIDTH] * (DEPTH - 6) + [0]
    moved = flow_of(chain(1.0, bias=-10.0), "relu", y=1.0)
    assert list(moved.flows.values()) == ["true zero"] * (DEPTH - 1) + ["fine"]
    assert moved.growth == 0.0
    assert sum(layer.num_lost for layer in moved.layers) == 0


def test_a_saturated_layer_weakens_the_signal_by_its_slope() -> None:
    # Before it every number is 0, and the slope of tanh is 1 there.
    flow = flow_of(chain(1.0, bias=5.0, where=DEPTH - 2), "tanh", x=0.0)
    slope = 1 / math.cosh(5.0) ** 2
    signals = [layer.signal for layer in flow.layers]
    assert signals[-2] / signals[-1] == pytest.approx(slope, rel=1e-12)
    np.testing.assert_allclose(signals[:-1], signals[-2], rtol=1e-12)
    assert [layer.num_saturated for layer in flow.layers] == [0] * (DEPTH - 2) + [WIDTH, 0]  # 1.8e-4 < 1e-3
    assert list(flow.flows.values()) == ["vanishing"] * (DEPTH - 1) + ["fine"]


def test_a_layer_beyond_the_range_of_numbers_makes_saturated_zeros() -> None:
    # sech(400)^2 = 4 exp(-800) is below the smallest number of double precision.
    flow = flow_of(chain(1.0, bias=400.0, where=DEPTH - 2), "tanh", x=0.5)
    assert list(flow.flows.values()) == ["saturated zero"] * (DEPTH - 1) + ["fine"]
    assert flow.layers[0].num_lost > 0
    assert flow.layers[0].num_dead == 0


def test_norms_are_those_of_backpropagation_by_hand_for_any_shape() -> None:
    layers = init_mlp(jax.random.key(0), (3, 4, 4, 2), dtype="float64")
    x, y = (jax.random.normal(jax.random.key(k), (5, n), "float64") for k, n in ((1, 3), (2, 2)))
    value, gradient = mlp_value_and_gradient(layers, x, y)
    flow = jd.mlp_gradient_flow(layers, x, y)
    general = jd.gradient_flow(lambda p, x, y: jnp.mean((mlp(p, x) - y) ** 2), layers, x, y)
    for found in (flow, general):
        assert found.loss == pytest.approx(float(value), rel=1e-12)
        for row, layer in zip(found.layers, gradient, strict=True):
            norm = math.hypot(np.linalg.norm(layer.weight), np.linalg.norm(layer.bias))
            assert row.gradient_norm == pytest.approx(norm, rel=1e-12)
            assert row.num_parameters == layer.weight.size + layer.bias.size
    assert list(general.flows) == ["[0]", "[1]", "[2]"]


def test_layers_of_any_tree_come_in_the_order_of_their_use_and_unused_ones_are_said() -> None:
    def loss(p, x):
        return p["a"] @ jnp.sin(p["z"]["w"] * x + p["z"]["b"]) + 1e-5 * jnp.sum(p["late"])

    tree = {"a": jnp.ones(3), "late": jnp.ones(4), "unused": jnp.ones(2), "z": {"b": jnp.zeros(3), "w": jnp.zeros(3)}}
    flow = jd.gradient_flow(loss, tree, 2.0)
    assert list(flow.flows.items()) == [
        ("['z']", "exploding"),
        ("['a']", "true zero"),  # sin(0) = 0
        ("['late']", "fine"),
        ("['unused']", "true zero"),
    ]
    assert [layer.is_used for layer in flow.layers] == [True, True, True, False]
    # dL/dw = cos(0) x = 2, dL/db = 1, three of each; dL/dlate = 1e-5, four of them.
    assert flow.layers[0].gradient_norm == pytest.approx(math.sqrt(3 * 4 + 3), rel=1e-6)
    assert flow.layers[0].ratio == pytest.approx(math.sqrt(15 / 6) / 1e-5, rel=1e-6)
    assert "the loss does not use it" in str(flow)
    assert jd.gradient_flow(loss, tree, 2.0, exploding=1e6).flows["['z']"] == "fine"


def test_norms_survive_numbers_whose_squares_do_not() -> None:
    flow = jd.gradient_flow(
        lambda p: 1e-30 * jnp.sum(p["small"]) + 1e30 * jnp.sum(p["large"]), {"small": jnp.ones(4), "large": jnp.ones(4)}
    )
    norms = {layer.name: layer.gradient_norm for layer in flow.layers}
    assert norms == {"['small']": pytest.approx(2e-30), "['large']": pytest.approx(2e30)}
    with jax.enable_x64(False):
        single = jd.gradient_flow(lambda p: 1e-30 * jnp.sum(p), jnp.ones(4, jnp.float32))
    assert single.layers[0].gradient_norm == pytest.approx(2e-30, rel=1e-6)
    assert single.dtype == "float32"


def test_what_is_not_finite_is_said_to_be_in_text_html_rich_and_json() -> None:
    from rich.console import Console

    flow = jd.gradient_flow(lambda p: jnp.sum(jnp.sqrt(p["w"])), {"w": jnp.array([0.0, 1.0])})
    assert flow.flows == {"['w']": "non-finite"}
    assert json.loads(json.dumps(flow.to_dict(), allow_nan=False))["layers"][0]["num_non_finite"] == 1
    console = Console(width=150)
    with console.capture() as capture:
        console.print(flow)
    for text in (str(flow), capture.get(), flow._repr_html_()):
        assert "non-finite" in text


def test_mistakes_are_named() -> None:
    layers, x = chain(1.0), jnp.ones((BATCH, WIDTH))
    with pytest.raises(TypeError, match="expected one real floating number"):
        jd.gradient_flow(lambda p: p, jnp.ones(2))
    with pytest.raises(ValueError, match=r"vanishing = -1\.0; expected a positive"):
        jd.gradient_flow(jnp.sum, jnp.ones(2), vanishing=-1.0)
    with pytest.raises(ValueError, match=r"activation = 'rleu'.*did you mean 'relu'"):
        jd.mlp_gradient_flow(layers, x, x, activation="rleu")
    with pytest.raises(ValueError, match="loss = 'msee'; expected one of"):
        jd.mlp_gradient_flow(layers, x, x, loss="msee")
    with pytest.raises(ValueError, match=r"saturation = 0\.0; expected a positive"):
        jd.mlp_gradient_flow(layers, x, x, saturation=0.0)
    with pytest.raises(TypeError, match="cannot be traced"):
        jax.jit(lambda p: jd.gradient_flow(jnp.sum, p))(jnp.ones(2))
