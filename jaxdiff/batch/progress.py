"""A bar that shows how far a batch has come, drawn by the host while the program runs.

Each engine tells the host some ten times in its part of the batch, a hundred times in a large one; in between the bar costs one
comparison per round, and what is computed is computed as without it. A call to the host was measured at up to a millisecond of CPU time.
"""

import contextlib
import itertools
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxdiff._progress import Wrapper
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import LaneBool
from jaxdiff.loop import step_where

MARKS = (10, 100)
"""How often a part of a batch reports, at least and at most."""

PROBLEMS_PER_MARK = 50_000
"""Problems between two reports, where that is within the limits: a tenth of a second or more."""


@pytree_dataclass
class Announcing(Wrapper):
    """A solver whose batch reports how far it has come.

    Attributes:
        token: the number of the bar; traced, so that a further bar compiles nothing.
    """

    token: Any

    def step(self, problem: Any, state: Any) -> Any:
        """See `solvers.base.Solver`."""
        return self.solver.step(problem, state)

    def step_where(self, problem: Any, state: Any, is_running: LaneBool) -> Any:
        """See `loop.step_where`."""
        return step_where(problem, self.solver, state, is_running)


def announce(solver: Any, before: jax.Array, after: jax.Array, count: int) -> None:
    """Tell the host, where somebody listens, that so many problems are done.

    Args:
        solver: wrapped in `Announcing` where somebody listens.
        before: problems done at the last call.
        after: problems done now.
        count: problems in all.
    """
    if not isinstance(solver, Announcing):
        return
    fewest, most = MARKS
    stride = max(count // min(max(count // PROBLEMS_PER_MARK, fewest), most), 1)
    passed = after // stride - before // stride
    jax.lax.cond(passed > 0, lambda: jax.debug.callback(_hear, solver.token, passed * stride), lambda: None)


class Bar:
    """One bar and its count; the count is kept by the host, where several engines report to it.

    Attributes:
        total: problems in all.
        done: problems reported as done.
    """

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self.total, self.done = total, 0
        rate = TextColumn("{task.fields[rate]} per second")
        columns = (BarColumn(), MofNCompleteColumn(), rate, TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(file=sys.stderr), transient=False, refresh_per_second=4)
        self._task = self._progress.add_task("problems", total=total, rate="-")
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count problems as done and draw."""
        with self._lock:
            self.done = min(self.done + count, self.total)
            elapsed = self._progress.tasks[0].elapsed or 0.0
            rate = f"{self.done / elapsed:,.0f}" if elapsed > 0 else "-"
            self._progress.update(self._task, completed=self.done, rate=rate)

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.stop()


_BARS: dict[int, Bar] = {}
_TOKENS = itertools.count(1)
_CURRENT = threading.local()


@contextlib.contextmanager
def progress_bar(total: int) -> Iterator[np.ndarray]:
    """A bar for so many problems, by its token; within another one on this thread its problems count for that one."""
    if getattr(_CURRENT, "token", None) is not None:
        yield np.asarray(_CURRENT.token, np.int32)
        jax.effects_barrier()
        return
    token = next(_TOKENS) % 2**31
    with Bar(total) as bar:
        _BARS[token], _CURRENT.token = bar, token
        is_done = False
        try:
            yield np.asarray(token, np.int32)
            is_done = True
        finally:
            jax.effects_barrier()
            del _BARS[token]
            _CURRENT.token = None
            if is_done:
                # What lies behind the last mark of each part was not reported.
                bar.add(total - bar.done)


def _hear(token: Any, count: Any) -> None:
    bar = _BARS.get(int(np.asarray(token)))
    if bar is not None:
        bar.add(int(np.asarray(count)))
