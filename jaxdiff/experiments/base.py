"""What an experiment is: a TOML table that can run itself, and what it hands back.

`Experiment.run` alone computes. `verdicts` and `figures` are given what was saved, so that sentences and pictures never depend on a solver.
"""

import concurrent.futures
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from jaxdiff.experiments.config import Section

# Draws on a matplotlib figure; the theme gives colours that suit the background.
Draw = Callable[[Any, Any], None]


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table: the key in each row, what a reader sees above it, and how a number is written.

    Attributes:
        key: key in the rows.
        label: heading, with the unit in brackets where there is one.
        spec: Python format specification for numbers, such as ``.2e``; empty for text.
        is_timing: whether the column changes from run to run; everything else is a function of configuration and seed.
    """

    key: str
    label: str
    spec: str = ""
    is_timing: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows with a title; ``is_main`` tables are also printed on the terminal."""

    title: str
    columns: list[Column]
    rows: list[dict[str, Any]]
    caption: str = ""
    is_main: bool = True


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run leaves behind: tables by name, and plain arrays for the pictures."""

    tables: dict[str, Table]
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A sentence made from the numbers; ``is_good`` None is a remark, False fails the run."""

    text: str
    is_good: bool | None = None


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure: how it is drawn, its size in inches, and the sentence under it."""

    draw: Draw
    caption: str
    size: tuple[float, float] = (8.0, 4.5)


@dataclasses.dataclass
class Context:
    """What a run is given besides its options.

    Attributes:
        seed: of every random number.
        precision: dtype of experiments that do not list their own.
        notify: is told what is being done, in a few words.
        timings: label and seconds of each timed part, in order.
    """

    seed: int
    precision: str
    notify: Callable[[str], None]
    timings: list[tuple[str, float]] = dataclasses.field(default_factory=list)

    def rng(self, purpose: str) -> np.random.Generator:
        """Random numbers that depend on the seed and on the purpose, so that a new use does not shift the others.

        Example:
            >>> context = Context(seed=1, precision="float64", notify=print)
            >>> bool(context.rng("starts").random() == context.rng("starts").random())
            True
        """
        return np.random.default_rng([self.seed, *purpose.encode()])

    def map(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """``[function(item) for item in items]`` on two threads: XLA compiles outside Python's lock, and compiling is most of the work.

        Not for what is timed. What ``function`` returns may not depend on the order of the calls.
        """
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
            return list(pool.map(function, items))

    @contextlib.contextmanager
    def timed(self, label: str) -> Iterator[None]:
        """Note the seconds that the body takes under ``label``; what it computes must be ready when it ends."""
        self.notify(label)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings.append((label, time.perf_counter() - start))


class Experiment(Section):
    """Base of every kind. The class docstring's first line is what ``jaxdiff list kinds`` prints; the rest opens its part of the report."""

    kind: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=60)] | None = Field(
        default=None, description="names the experiment in tables, folders and --set; the kind where absent"
    )

    @property
    def label(self) -> str:
        """Name of this experiment within its run."""
        return self.name or self.kind

    def dtypes_needed(self, precision: str) -> set[str]:
        """Floating dtypes that JAX must be able to hold for this experiment."""
        return set(getattr(self, "dtypes", [])) or {precision}

    def run(self, context: Context) -> Outcome:
        """Compute; the only part that may touch a solver."""
        raise NotImplementedError

    def verdicts(self, outcome: Outcome) -> list[Verdict]:
        """Sentences made from the numbers."""
        raise NotImplementedError

    def figures(self, outcome: Outcome) -> Mapping[str, Picture]:
        """Pictures of the numbers, by file name."""
        raise NotImplementedError


FloatName = Literal["float32", "float64"]
