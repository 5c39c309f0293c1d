"""How pictures look, on light paper and on dark screens, and how they are saved.

Every picture is drawn twice, once per background, from the same numbers. Colours are those of Okabe and Ito (2008), told apart with any
colour vision; yellow is left out on light paper and black on dark, where they cannot be seen. Lines also differ in marker or dash.
"""

import dataclasses
import io
from typing import Any

import numpy as np

from jaxdiff.experiments.base import Picture


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours for one background.

    Attributes:
        name: light or dark.
        background: of the whole picture.
        text: of words, ticks and frames.
        faint: of grids and what should stand back.
        series: for data, in order.
        levels: colours from low to high, for filled contours and matrices.
        good: of what is right.
        bad: of what is wrong.
    """

    name: str
    background: str
    text: str
    faint: str
    series: tuple[str, ...]
    levels: tuple[str, ...]
    good: str
    bad: str

    def colour_map(self) -> Any:
        """`levels` as a colour map of matplotlib."""
        from matplotlib.colors import LinearSegmentedColormap

        return LinearSegmentedColormap.from_list(self.name, list(self.levels))


LIGHT = Theme(
    name="light",
    background="#ffffff",
    text="#1f2933",
    faint="#d5dae1",
    series=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#595959"),
    levels=("#f3f8fd", "#c6dcef", "#8fb8dc"),
    good="#009e73",
    bad="#d55e00",
)
DARK = Theme(
    name="dark",
    background="#161b22",
    text="#e6edf3",
    faint="#39424e",
    series=("#56b4e9", "#e69f00", "#2fc796", "#e79ac4", "#f0e442", "#7aa7ff", "#b0b8c1"),
    levels=("#101823", "#1d3a5c", "#3d6d9e"),
    good="#2fc796",
    bad="#ff8a4c",
)
THEMES = (LIGHT, DARK)

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))


def is_available() -> bool:
    """Whether matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def render(picture: Picture, theme: Theme, file_format: str = "png", dots_per_inch: int = 130) -> bytes:
    """The picture as the bytes of a file. No global state of matplotlib is touched."""
    import matplotlib
    from cycler import cycler
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "figure.facecolor": theme.background,
        "axes.facecolor": theme.background,
        "savefig.facecolor": theme.background,
        "text.color": theme.text,
        "axes.labelcolor": theme.text,
        "axes.edgecolor": theme.text,
        "axes.titlecolor": theme.text,
        "xtick.color": theme.text,
        "ytick.color": theme.text,
        "grid.color": theme.faint,
        "axes.grid": True,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=list(theme.series)),
        "font.family": ["DejaVu Sans"],
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.5,
        "svg.hashsalt": "jaxdiff",
        "svg.fonttype": "path",
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=picture.size, dpi=dots_per_inch, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        picture.draw(figure, theme)
        buffer = io.BytesIO()
        if file_format == "png":
            # Not savefig, which draws everything twice.
            canvas.print_png(buffer, metadata={"Software": None})
        else:
            figure.savefig(buffer, format=file_format, metadata={"Date": None})
    return buffer.getvalue()


def log_floor(values: Any, floor: float) -> np.ndarray:
    """Values for a logarithmic axis: an exact zero is drawn at ``floor`` instead of nowhere.

    Example:
        >>> log_floor([0.0, 1.0], 1e-20).tolist()
        [1e-20, 1.0]
    """
    values = np.asarray(values, dtype=np.float64)
    return np.where(values == 0, floor, values)
