"""Draw docs/images/quickstart.png out of a run folder of configs/quickstart.toml: python docs/make_images.py runs/quickstart-..."""

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from jaxdiff.experiments import figures
from jaxdiff.experiments.base import Picture
from jaxdiff.experiments.run import load_outcomes

TARGET = Path(__file__).parent / "images" / "quickstart.png"


def main(folder: Path) -> None:
    """Two pictures of the report above each other, in 256 colours so that the repository stays small."""
    pictures = {experiment.kind: experiment.figures(outcome) for experiment, outcome in load_outcomes(folder)}
    parts = [pictures["accuracy"]["step_size"], pictures["optimizers"]["paths"]]

    def draw(figure: Any, theme: figures.Theme) -> None:
        for part, place in zip(parts, figure.subfigures(len(parts), 1, height_ratios=[part.size[1] for part in parts]), strict=True):
            part.draw(place, theme)

    whole = Picture(draw, "", size=(9.0, sum(part.size[1] for part in parts) * 0.92))
    image = Image.open(io.BytesIO(figures.render(whole, figures.LIGHT, dots_per_inch=110)))
    TARGET.parent.mkdir(exist_ok=True)
    image.convert("RGB").quantize(256).save(TARGET, optimize=True)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
