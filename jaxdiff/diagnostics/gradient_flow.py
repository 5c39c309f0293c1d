"""How a gradient fares on its way back through a network: norms layer by layer, and what became of those that are zero.

The signal of a layer is the root mean square of the gradient with respect to its affine output (`mlp_gradient_flow`), or, where only the
parameters are known, with respect to those (`gradient_flow`). The rule, with r the signal over that of the last layer that has one:

    non-finite       some number of the layer's gradient is inf or NaN;
    true zero        all of it is zero, in exact arithmetic too: units that are off, parameters that nothing depends on;
    saturated zero   all of it is zero, and would not be but for rounding: saturated units, underflow;
    vanishing        r < ``vanishing``, 1e-3 unless told otherwise;
    exploding        r > ``exploding``, 1e3 unless told otherwise.

A unit is dead where its activation, by a formula that says so (relu, hard_tanh), has slope zero for every sample. It is saturated where its
slope is below ``saturation`` times the activation's slope at zero for every sample, 1e-3 unless told otherwise. The thresholds are ours.

References:
    X. Glorot and Y. Bengio, Understanding the difficulty of training deep feedforward neural networks, AISTATS 9 (2010) 249-256: signals
    layer by layer. K. He, X. Zhang, S. Ren and J. Sun, Delving deep into rectifiers, ICCV (2015), section 2.2: the factor per layer of relu
    networks. L. Lu, Y. Shin, Y. Su and G. Karniadakis, Dying ReLU and initialization (2020): dead units.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxdiff._types import PyTree
from jaxdiff._validation import as_data, as_float_leaves, check_choice, check_positive, explain_tracing_errors, is_traced
from jaxdiff.derivatives.culprit import called
from jaxdiff.derivatives.protocol import Bound, compiled
from jaxdiff.diagnostics.flow_report import Flow, GradientFlow, LayerFlow, judged
from jaxdiff.diagnostics.zeros import with_lost_zeros
from jaxdiff.functions.activations import ACTIVATIONS
from jaxdiff.functions.losses import LOSSES
from jaxdiff.functions.network import DenseLayer, Layers, dense, mlp


def gradient_flow(loss: Callable[..., Any], params: PyTree, *args: Any, vanishing: float = 1e-3, exploding: float = 1e3) -> GradientFlow:
    """Norms of a loss's gradient layer by layer, and whether what is zero is truly zero.

    A layer is what has one parent in the tree of parameters, such as a weight and its bias; leaves at the top are layers by themselves.
    Layers come in the order in which the loss first uses them, what it does not use behind the others, and are judged by the last.

    Args:
        loss: called as ``loss(params, *args)``; returns one real number; written in JAX.
        params: a pytree of floating-point arrays.
        *args: pytrees of numbers and arrays.
        vanishing: a layer's gradient vanishes where its root mean square is below this share of the last layer's,
        exploding: and explodes where it is above this multiple of it.

    Returns:
        A row per layer; print it, or see `GradientFlow`. What a layer hands on and its units are unknown here.

    Raises:
        TypeError: a leaf is no number, or the loss is not one real number; called inside a JAX transformation.
        ValueError: a threshold that is not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> params = {"in": jnp.full(3, 50.0), "out": jnp.ones(3)}
        >>> jd.gradient_flow(lambda p, x: p["out"] @ jnp.tanh(p["in"] * x), params, 1.0).flows
        {"['in']": 'saturated zero', "['out']": 'fine'}
        >>> jd.gradient_flow(lambda p, x: p["out"] @ jax.nn.relu(p["in"] * x), params, -1.0).flows
        {"['in']": 'true zero', "['out']": 'true zero'}
    """
    _check((params, args), vanishing=vanishing, exploding=exploding)
    with explain_tracing_errors():
        params = as_float_leaves(params, "params")
        bound = Bound.of(loss, (params, *as_data(args, "args")))
        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        order = _order_of_use(jax.make_jaxpr(lambda p: bound.scalar(p)[0])(params))
        value, found = jax.device_get(_measured(None, bound))
    layers: dict[str, list[int]] = {}
    for k in sorted(range(len(paths)), key=lambda k: order.get(k, math.inf)):
        layers.setdefault(jax.tree_util.keystr(paths[k] if len(paths[k]) == 1 else paths[k][:-1]) or "params", []).append(k)
    rows = [_row(name, [found[k] for k in members], any(k in order for k in members)) for name, members in layers.items()]
    dtype = jnp.result_type(*jax.tree.leaves(params)).name
    return GradientFlow(float(value), dtype, judged(rows, vanishing, exploding), float(vanishing), float(exploding))


def mlp_gradient_flow(
    layers: Layers,
    x: Any,
    y: Any,
    *,
    activation: str = "tanh",
    output_activation: str | None = None,
    loss: str = "mse",
    vanishing: float = 1e-3,
    exploding: float = 1e3,
    saturation: float = 1e-3,
) -> GradientFlow:
    """The same for `jaxdiff.functions.mlp`, with the signal of every layer, what it hands on, and its dead and saturated units.

    Args:
        layers: as `jaxdiff.functions.init_mlp` makes them.
        x: inputs on the last axis, any leading axes.
        y: targets, of the shape of the outputs.
        activation: name in ``ACTIVATIONS``, after every layer but the last.
        output_activation: name in ``ACTIVATIONS``, after the last layer; None for none.
        loss: name in ``LOSSES``; its mean is differentiated.
        vanishing: the gradient vanishes where a layer's signal is below this share of the last layer's,
        exploding: and explodes where it is above this multiple of it.
        saturation: a unit is saturated where its slope is below this share of the activation's slope at zero for every sample.

    Returns:
        A row per layer; print it, or see `GradientFlow`.

    Raises:
        TypeError: called inside a JAX transformation.
        ValueError: an unknown name, shapes that do not fit, a threshold that is not positive.

    Example:
        >>> import jax
        >>> import jaxdiff as jd
        >>> from jaxdiff.functions import init_mlp
        >>> layers = init_mlp(jax.random.key(0), (8, *[8] * 8, 1))
        >>> x = jax.random.normal(jax.random.key(1), (64, 8))
        >>> flow = jd.mlp_gradient_flow(layers, x, x[:, :1], activation="sigmoid")
        >>> str(flow.layers[0].flow), flow.growth < 0.25  # the slope of a sigmoid is 1/4 at most
        ('vanishing', True)
    """
    _check((layers, x, y), vanishing=vanishing, exploding=exploding, saturation=saturation)
    check_choice(loss, "loss", LOSSES)
    x, y = (as_float_leaves(data, name) for data, name in ((x, "x"), (y, "y")))
    # Names and shapes that do not fit are named by those who know them.
    jax.eval_shape(
        lambda layers, x, y: LOSSES[loss].value(mlp(layers, x, activation=activation, output_activation=output_activation), y), layers, x, y
    )
    names = (*[activation] * (len(layers) - 1), output_activation)
    value, found = jax.device_get(_measured_mlp(tuple(layers), x, y, names, loss, jnp.asarray(saturation, x.dtype)))
    each = [jax.tree.map(lambda leaf, k=k: leaf[k], run) for run in found for k in range(len(run["bias"]["num_lost"]))]
    rows = [_row(f"layers[{k}]", [parts["weight"], parts["bias"]], **parts["units"]) for k, parts in enumerate(each)]
    dtype = jnp.result_type(*jax.tree.leaves(layers)).name
    return GradientFlow(float(value), dtype, judged(rows, vanishing, exploding), float(vanishing), float(exploding))


def _check(data: Any, **thresholds: float) -> None:
    if is_traced(data):
        raise TypeError("gradient flow is judged by looking at values, and cannot be traced; call it outside of jit, vmap and grad")
    for name, value in thresholds.items():
        check_positive(value, name)


@compiled
def _measured(method: None, bound: Bound) -> tuple[jax.Array, list[dict[str, jax.Array]]]:
    """The loss, and for every leaf what `_numbers` tells of it."""
    params = bound.x
    (value, gradient), (_, lost) = with_lost_zeros(jax.value_and_grad(lambda p: bound.scalar(p)[0]))(params)
    return value, [_numbers(*leaves) for leaves in zip(*map(jax.tree.leaves, (params, gradient, lost)), strict=True)]


@functools.partial(jax.jit, static_argnums=(3, 4))
def _measured_mlp(
    layers: Layers, x: jax.Array, y: jax.Array, names: tuple[str | None, ...], loss: str, saturation: jax.Array
) -> tuple[jax.Array, list[Any]]:
    """The loss, and for every run of equal layers what is found there, a leading axis over its layers."""
    runs = [list(members) for _, members in itertools.groupby(range(len(layers)), lambda k: (layers[k].weight.shape, names[k]))]
    activations = [ACTIVATIONS.get(names[run[0]] or "") for run in runs]
    # Equal layers run in a loop: a deep network then compiles no longer than a shallow one.
    stacked = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *(layers[k] for k in run)) for run in runs]

    def forward(stacked: list[DenseLayer], taps: list[jax.Array]) -> tuple[jax.Array, list[Any]]:
        """The loss with something added to every affine output: the gradient with respect to that is the layer's signal."""
        h, passed = x, []
        for layer, tap, g in zip(stacked, taps, activations, strict=True):

            def through(h: jax.Array, item: Any, g: Any = g) -> Any:
                a = dense(item[0], h) + item[1]
                h = a if g is None else g.value(a)
                return h, (a, h)

            if len(tap) > 1:
                h, both = jax.lax.scan(through, h, (layer, tap))
            else:
                h, both = through(h, jax.tree.map(lambda leaf: leaf[0], (layer, tap)))
                both = jax.tree.map(lambda leaf: leaf[None], both)
            passed.append(both)
        return LOSSES[loss].value(h, y), passed

    widths = [(layer.weight.shape[0], *x.shape[:-1], layer.weight.shape[-1]) for layer in stacked]
    taps = [jnp.zeros(shape, jnp.result_type(x, layer.weight)) for shape, layer in zip(widths, stacked, strict=True)]
    differentiated = jax.value_and_grad(forward, argnums=(0, 1), has_aux=True)
    ((value, passed), (gradient, signals)), (_, (lost, _)) = with_lost_zeros(differentiated)(stacked, taps)
    found = []
    for layer, slope, mark, signal, (a, h), g in zip(stacked, gradient, lost, signals, passed, activations, strict=True):
        row = {name: jax.vmap(_numbers)(*(getattr(tree, name) for tree in (layer, slope, mark))) for name in ("weight", "bias")}
        units = jax.vmap(functools.partial(_units, g, saturation=saturation))(a)
        row["units"] = {"signal": jax.vmap(_root_mean_square)(signal), "activation": jax.vmap(_root_mean_square)(h)} | units
        found.append(row)
    return value, found


def _units(g: Any, a: jax.Array, *, saturation: jax.Array) -> dict[str, Any]:
    """How many units of a layer are dead and how many saturated; an activation over a whole axis has no units."""
    if g is None or not g.is_elementwise:
        return dict.fromkeys(("num_units", "num_dead", "num_saturated"), jnp.zeros((), int))
    slope = jnp.abs(g.derivative(a)).reshape(-1, a.shape[-1])
    dead = jnp.all(slope == 0, axis=0) & (not g.is_smooth)
    saturated = jnp.all(slope < saturation * jnp.abs(g.derivative(jnp.zeros((), a.dtype))), axis=0) & ~dead
    return {"num_units": jnp.asarray(a.shape[-1]), "num_dead": jnp.sum(dead), "num_saturated": jnp.sum(saturated)}


def _numbers(parameter: jax.Array, gradient: jax.Array, lost: jax.Array) -> dict[str, Any]:
    return {
        "num_parameters": jnp.asarray(parameter.size),
        "parameter_norm": _norm(parameter),
        "gradient_norm": _norm(gradient),
        "num_zero": jnp.sum(gradient == 0),
        "num_lost": jnp.sum(lost),
        "num_non_finite": jnp.sum(~jnp.isfinite(gradient)),
    }


def _norm(x: jax.Array) -> jax.Array:
    """Euclidean norm; of numbers whose squares overflow or vanish too."""
    size = jnp.max(jnp.abs(x), initial=0.0)
    scale = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    return scale * jnp.sqrt(jnp.sum((x / scale) ** 2))


def _root_mean_square(x: jax.Array) -> jax.Array:
    return _norm(x) / math.sqrt(max(x.size, 1))


def _row(name: str, parts: list[dict[str, Any]], is_used: bool = True, **units: Any) -> LayerFlow:
    counts: dict[str, Any] = {
        key: sum(int(part[key]) for part in parts) for key in ("num_parameters", "num_zero", "num_lost", "num_non_finite")
    }
    norms: dict[str, Any] = {key: math.hypot(*(float(part[key]) for part in parts)) for key in ("parameter_norm", "gradient_norm")}
    signal = float(units.get("signal", norms["gradient_norm"] / math.sqrt(max(counts["num_parameters"], 1))))
    return LayerFlow(
        name=name,
        flow=Flow.FINE,
        signal=signal,
        ratio=math.nan,
        activation=float(units.get("activation", math.nan)),
        num_units=int(units.get("num_units", 0)),
        num_dead=int(units.get("num_dead", 0)),
        num_saturated=int(units.get("num_saturated", 0)),
        is_used=is_used,
        **counts,
        **norms,
    )


def _order_of_use(closed: Any) -> dict[int, int]:
    """When each input of a program is first used: its position among the uses; inputs that are not used are absent."""
    order: dict[int, int] = {}

    def visit(jaxpr: Any, names: dict[Any, int]) -> None:
        for equation in jaxpr.eqns:
            inner = called(equation)
            inputs = [names.get(atom) if not isinstance(atom, core.Literal) else None for atom in equation.invars]
            if inner is not None:
                visit(inner.jaxpr, {v: k for v, k in zip(inner.jaxpr.invars, inputs, strict=True) if k is not None})
                continue
            for k in inputs:
                if k is not None:
                    order.setdefault(k, len(order))

    visit(closed.jaxpr, {variable: k for k, variable in enumerate(closed.jaxpr.invars)})
    return order
