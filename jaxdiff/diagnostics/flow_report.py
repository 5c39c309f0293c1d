"""What a look at a gradient's flow found: a row per layer, with the rule by which it is judged."""

import dataclasses
import enum
import html
import math
from collections.abc import Sequence
from typing import Any


class Flow(enum.StrEnum):
    """What becomes of the gradient in one layer; `gradient_flow` has the rule."""

    FINE = "fine"
    """None of the others."""
    VANISHING = "vanishing"
    """Far smaller than at the last layer."""
    EXPLODING = "exploding"
    """Far larger than at the last layer."""
    TRUE_ZERO = "true zero"
    """Zero, in exact arithmetic too."""
    SATURATED_ZERO = "saturated zero"
    """Zero by rounding or underflow alone."""
    NON_FINITE = "non-finite"
    """Somewhere inf or NaN."""


@dataclasses.dataclass(frozen=True)
class LayerFlow:
    """One layer. Numbers are Python's; NaN where there is none.

    Attributes:
        name: of the layer, such as ``layers[0]`` or ``['w1']``.
        flow: what becomes of the gradient there.
        num_parameters: how many numbers the layer has.
        parameter_norm: Euclidean norm of them.
        gradient_norm: Euclidean norm of the gradient with respect to them.
        signal: root mean square of the gradient with respect to the layer's affine output; of `gradient_flow`, to its parameters.
        ratio: signal over that of the last layer that has one.
        activation: root mean square of what the layer hands on; NaN where unknown.
        num_zero: how many numbers of the gradient are zero.
        num_lost: how many of those would not be in exact arithmetic.
        num_non_finite: how many are inf or NaN.
        num_units: units with an activation; zero where unknown.
        num_dead: of them those that are off for every sample.
        num_saturated: of them those whose slope is next to nothing for every sample.
        is_used: whether the loss uses any of the layer's parameters.
    """

    name: str
    flow: Flow
    num_parameters: int
    parameter_norm: float
    gradient_norm: float
    signal: float
    ratio: float
    activation: float
    num_zero: int
    num_lost: int
    num_non_finite: int
    num_units: int
    num_dead: int
    num_saturated: int
    is_used: bool


@dataclasses.dataclass(frozen=True)
class GradientFlow:
    """Every layer of a network, from the input to the output.

    Attributes:
        loss: its value.
        dtype: precision of the parameters.
        layers: one row per layer.
        vanishing: below this ratio a gradient vanishes.
        exploding: above this ratio it explodes.
    """

    loss: float
    dtype: str
    layers: tuple[LayerFlow, ...]
    vanishing: float
    exploding: float

    @property
    def growth(self) -> float:
        """By which factor the signal changes from a layer to the one before it: geometric mean from the last layer to the first.

        Zero where nothing arrives; NaN where there is a single layer, or no finite signal at its ends.
        """
        signals = [layer.signal for layer in self.layers if layer.is_used]
        if len(signals) < 2 or not (math.isfinite(signals[0]) and math.isfinite(signals[-1]) and signals[-1] > 0):
            return math.nan
        return (signals[0] / signals[-1]) ** (1 / (len(signals) - 1))

    @property
    def flows(self) -> dict[str, str]:
        """What becomes of the gradient, by layer."""
        return {layer.name: str(layer.flow) for layer in self.layers}

    @property
    def is_fine(self) -> bool:
        """Whether it is in every layer."""
        return all(layer.flow is Flow.FINE for layer in self.layers)

    @property
    def message(self) -> str:
        """All layers in a sentence."""
        counts = [(flow, sum(layer.flow is flow for layer in self.layers)) for flow in Flow]
        found = ", ".join(f"{count} {flow}" for flow, count in counts if count)
        growth = "" if math.isnan(self.growth) else f"; {self.growth:.3g} times per layer on the way back"
        return f"gradient flow, {self.dtype}, loss {self.loss:.6g}: {found}{growth}"

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values that JSON can carry; numbers that are not finite are None or text."""
        rows = [{key: _plain(value) for key, value in dataclasses.asdict(layer).items()} for layer in self.layers]
        whole = {key: _plain(getattr(self, key)) for key in ("loss", "dtype", "vanishing", "exploding", "growth")}
        return whole | {"flows": self.flows, "layers": rows}

    def __str__(self) -> str:
        rows = [_HEADINGS, *(_row(layer) for layer in self.layers)]
        widths = [max(len(row[k]) for row in rows) for k in range(len(_HEADINGS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self.message, *lines])

    __repr__ = __str__

    def __rich__(self) -> Any:
        from rich import box
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=escape(self.message), title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
        for heading in _HEADINGS:
            table.add_column(heading, overflow="fold")
        for layer in self.layers:
            flow, *cells = _row(layer)
            table.add_row(f"[{'green' if layer.flow is Flow.FINE else 'red'}]{flow}[/]", *map(escape, cells))
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th style='text-align:left'>{html.escape(heading)}</th>" for heading in _HEADINGS)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _row(layer)) + "</tr>" for layer in self.layers)
        return f"<p>{html.escape(self.message)}</p><table><tr>{head}</tr>{rows}</table>"


def judged(layers: Sequence[LayerFlow], vanishing: float, exploding: float) -> tuple[LayerFlow, ...]:
    """Ratios and what follows from them; the last layer with a signal is the measure of all."""
    signals = [layer.signal for layer in layers if math.isfinite(layer.signal) and layer.signal > 0]
    reference = signals[-1] if signals else math.nan
    return tuple(_judge(dataclasses.replace(layer, ratio=layer.signal / reference), vanishing, exploding) for layer in layers)


def _judge(layer: LayerFlow, vanishing: float, exploding: float) -> LayerFlow:
    flow = Flow.FINE
    if layer.num_non_finite:
        flow = Flow.NON_FINITE
    elif layer.num_parameters and layer.num_zero == layer.num_parameters:
        flow = Flow.SATURATED_ZERO if layer.num_lost else Flow.TRUE_ZERO
    elif layer.ratio < vanishing:
        flow = Flow.VANISHING
    elif layer.ratio > exploding:
        flow = Flow.EXPLODING
    return dataclasses.replace(layer, flow=flow)


_HEADINGS = ("flow", "layer", "parameters", "|gradient|", "signal", "ratio", "activation", "zero", "lost", "dead", "saturated", "")


def _row(layer: LayerFlow) -> tuple[str, ...]:
    numbers = [f"{value:.3g}" for value in (layer.gradient_norm, layer.signal, layer.ratio, layer.activation)]
    numbers = ["-" if text == "nan" else text for text in numbers]
    units = [f"{count}/{layer.num_units}" if layer.num_units else "-" for count in (layer.num_dead, layer.num_saturated)]
    counts = [f"{layer.num_zero:,}", f"{layer.num_lost:,}"]
    return (
        str(layer.flow),
        layer.name,
        f"{layer.num_parameters:,}",
        *numbers,
        *counts,
        *units,
        "" if layer.is_used else "the loss does not use it",
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return str(value) if isinstance(value, Flow) else value
