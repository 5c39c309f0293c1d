"""How a gradient fares in deep networks, over depth, activation and initialization."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from jaxdiff.experiments import figures
from jaxdiff.experiments.base import Column, Context, Experiment, FloatName, Outcome, Picture, Table, Verdict
from jaxdiff.experiments.registry import ActivationName, registry

# Mean squared slope of relu on a symmetric distribution: half of the units are on.
RELU_SLOPE_SQUARED = 0.5
# Variance of a weight times the width, for layers as wide as what comes before them.
WEIGHT_VARIANCE = {"glorot": 1.0, "he": 2.0, "lecun": 1.0}
# The mean over a few random networks is not that over all: a factor per layer within so much of the theory's counts as found.
TOLERANCE = 0.1


class GradientFlow(Experiment):
    """Does a gradient arrive at the first layer of a deep network?

    Networks of dense layers, all of one width, at random weights and without training. The signal of a layer is the root mean square of the
    gradient of the loss with respect to the layer's affine output. It vanishes below a thousandth of what it is at the last layer, and
    explodes above a thousandfold. Units are dead where a relu is off for every sample, and saturated where the slope of a smooth activation
    is below a thousandth of that at zero. A gradient that is zero is told to be truly so, or lost to rounding.

    For relu the factor per layer is known (He et al., 2015): the square root of the width times the variance of a weight times one half.
    """

    kind: Literal["gradient_flow"] = "gradient_flow"
    depths: list[int] = Field(default=[4, 32], min_length=1, description="numbers of hidden layers")
    activations: list[ActivationName] = Field(default=["sigmoid", "tanh", "relu", "gelu"], min_length=1, description="elementwise ones")
    initializations: list[Literal["glorot", "he", "lecun"]] = Field(default=["glorot", "he"], min_length=1)
    gain: float = Field(default=1.0, gt=0, description="factor on all weights; large ones saturate")
    width: int = Field(default=64, ge=1, le=4096, description="of every layer, the input included")
    num_samples: int = Field(default=64, ge=1, le=65_536, description="standard normal inputs")
    num_networks: int = Field(default=3, ge=1, le=100, description="random networks; the picture shows the first, rows the geometric mean")
    dtype: FloatName = Field(default="float32")

    @field_validator("activations")
    @classmethod
    def _is_elementwise(cls, activations: list[str]) -> list[str]:
        for name in activations:
            if not registry("activations")[name].is_elementwise:
                raise ValueError(f"{name} takes a whole axis and has no units; expected an elementwise activation")
        return activations

    def dtypes_needed(self, precision: str) -> set[str]:
        """Its own."""
        return {self.dtype}

    def run(self, context: Context) -> Outcome:
        """Look at every network once."""
        cases = [(activation, depth) for activation in self.activations for depth in self.depths]
        with context.timed("look at the gradients"):
            found = context.map(lambda case: self._look(context, *case), cases)
        arrays = {name: values for _, pictures in found for name, values in pictures.items()}
        columns = [
            Column("activation", "activation"),
            Column("initialization", "weights"),
            Column("depth", "layers", "d"),
            Column("growth", "factor per layer", ".3g"),
            Column("expected", "in theory", ".3g"),
            Column("ratio", "first over last", ".1e"),
            Column("flow", "first layer"),
            Column("num_fine", "fine layers", "d"),
            Column("dead", "dead units", ".1%"),
            Column("saturated", "saturated units", ".1%"),
        ]
        caption = (
            f"Width {self.width}, {self.num_samples} samples, gain {self.gain:g}, {self.dtype}; means over {self.num_networks} networks."
        )
        table = Table("The gradient on its way back", columns, [row for rows, _ in found for row in rows], caption)
        return Outcome(tables={"flow": table}, arrays=arrays)

    def _look(self, context: Context, activation: str, depth: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        import jax

        import jaxdiff as jd
        from jaxdiff.functions import DenseLayer, init_mlp

        rows, arrays = [], {}
        random = context.rng(f"inputs {activation} {depth}")
        x, y = random.standard_normal((2, self.num_samples, self.width)).astype(self.dtype)
        for scheme in self.initializations:
            flows = []
            for seed in random.integers(2**31, size=self.num_networks):
                layers = init_mlp(jax.random.key(int(seed)), [self.width] * (depth + 2), scheme=scheme, dtype=self.dtype)
                scaled = tuple(DenseLayer(self.gain * layer.weight, layer.bias) for layer in layers)
                flows.append(jd.mlp_gradient_flow(scaled, x, y, activation=activation))
            arrays[f"signal_{activation}_{scheme}_{depth}"] = np.array([layer.signal for layer in flows[0].layers])
            rows.append({"activation": activation, "initialization": scheme, "depth": depth} | self._row(activation, scheme, flows))
        return rows, arrays

    def _row(self, activation: str, scheme: str, flows: list[Any]) -> dict[str, Any]:
        # From the last hidden layer to the first: the output has no activation.
        hidden = [flow.layers[:-1] for flow in flows]
        growths = [_growth(layers[0].signal, layers[-1].signal, len(layers)) for layers in hidden]
        units = sum(layer.num_units for layers in hidden for layer in layers)
        row: dict[str, Any] = {}
        if np.all(np.isfinite(growths)):
            row["growth"] = math.prod(growths) ** (1 / len(growths))
        ratio = float(np.median([flow.layers[0].ratio for flow in flows]))
        if math.isfinite(ratio):
            row["ratio"] = ratio
        if activation == "relu":
            row["expected"] = self.gain * math.sqrt(WEIGHT_VARIANCE[scheme] * RELU_SLOPE_SQUARED)
        return row | {
            "flow": _commonest([str(flow.layers[0].flow) for flow in flows]),
            "num_fine": round(float(np.mean([sum(flow == "fine" for flow in found.flows.values()) for found in flows]))),
            "dead": sum(layer.num_dead for layers in hidden for layer in layers) / units,
            "saturated": sum(layer.num_saturated for layers in hidden for layer in layers) / units,
        }

    def verdicts(self, outcome: Outcome) -> list[Verdict]:
        """Whether relu keeps to the theory, and what fares best and worst."""
        rows = outcome.tables["flow"].rows
        verdicts = []
        # A few units are a matter of luck, and so are a few layers.
        known = [row for row in rows if {"growth", "expected"} <= set(row) and row["depth"] >= 8 and self.width >= 32]
        if known:
            worst = max(known, key=lambda row: abs(row["growth"] / row["expected"] - 1))
            text = (
                f"relu: the factor per layer is that of He et al. (2015) to {TOLERANCE:.0%} (the farthest: {worst['growth']:.3g} against "
                f"{worst['expected']:.3g}, {worst['initialization']}, {worst['depth']} layers)."
            )
            verdicts.append(Verdict(text, is_good=abs(worst["growth"] / worst["expected"] - 1) <= TOLERANCE))
        slow = [row for row in rows if row["activation"] == "sigmoid" and "growth" in row and row["initialization"] in ("glorot", "lecun")]
        if slow and self.width >= 32:
            # The slope of a sigmoid is 1/4 at most, and a random square matrix of unit variance keeps the mean square.
            largest = max(row["growth"] for row in slow)
            text = f"sigmoid: at most a quarter of the signal passes a layer, up to the spread of random weights (largest: {largest:.3g})."
            verdicts.append(Verdict(text, is_good=largest <= 0.25 * self.gain * (1 + TOLERANCE)))
        for flow in ("vanishing", "exploding", "true zero", "saturated zero", "non-finite"):
            names = [f"{row['activation']} from {row['initialization']}, {row['depth']} layers" for row in rows if row["flow"] == flow]
            if names:
                verdicts.append(Verdict(f"At the first layer {flow}: {'; '.join(names)}."))
        return verdicts

    def figures(self, outcome: Outcome) -> Mapping[str, Picture]:
        """The signal layer by layer: a panel per initialization, a line per activation."""
        deepest = max(self.depths)

        def draw(figure: Any, theme: figures.Theme) -> None:
            axes = figure.subplots(1, len(self.initializations), squeeze=False, sharey=True)[0]
            for axis, scheme in zip(axes, self.initializations, strict=True):
                for position, activation in enumerate(self.activations):
                    for depth in self.depths:
                        signal = outcome.arrays[f"signal_{activation}_{scheme}_{depth}"].astype(np.float64)
                        shown = np.where(signal > 0, signal / signal[-1], np.nan)
                        style = {"color": theme.series[position % 7], "marker": figures.MARKERS[position % 7], "markersize": 3.0}
                        label = activation if depth == deepest else None
                        axis.semilogy(np.arange(1, len(signal) + 1), shown, label=label, **style)
                axis.axhspan(1e-3, 1e3, color=theme.faint, alpha=0.35, zorder=0)
                axis.set_title(scheme)
                axis.set_xlabel("layer, from the input")
            axes[0].set_ylabel("signal over that of the last layer")
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))

        caption = (
            f"The gradient with respect to each layer's affine output, root mean square over {self.num_samples} samples and {self.width} "
            "units, first network of each. Shaded: neither vanishing nor exploding. Zeros are not drawn."
        )
        return {"signal": Picture(draw, caption, size=(9.0, 4.3))}


def _growth(first: float, last: float, num_layers: int) -> float:
    """The factor per layer between two signals; zero where nothing arrives, NaN where there is none to begin with."""
    if not (math.isfinite(first) and math.isfinite(last) and last > 0):
        return math.nan
    return (first / last) ** (1 / max(num_layers - 1, 1))


def _commonest(words: list[str]) -> str:
    return max(dict.fromkeys(words), key=words.count)
