"""Derivative schemes side by side: error, error bar, evaluations and seconds, against references that mpmath gives in two precisions.

Every scheme sees the same function in the same dtype at the same points. Peers (numdifftools, SciPy, findiff) run the way their
documentation runs them, on NumPy functions; what is not installed is left out, with a line that says so.
"""

import contextlib
import dataclasses
import importlib
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdiff._validation import check_choice, check_count, closest
from jaxdiff.experiments import references

PEERS = {
    "numdifftools": "numdifftools",
    "scipy.differentiate": "scipy.differentiate",
    "scipy.approx_derivative": "scipy.optimize",
    "findiff": "findiff",
}
"""Packages to hold the schemes against, each with the module that it needs."""
SCHEMES = ("autodiff", "complex-step", "adaptive", "forward-1", "central-2", "central-4", "central-6")
BEYOND_VALUES = ("autodiff", "complex-step")
"""Schemes that differentiate f's program, or evaluate it at complex numbers."""
DTYPES = ("float32", "float64")
_REPEATS = 3
_FAMILIES = {
    "f's own operations": ("s", "#595959"),
    "finite differences": ("o", "#0072b2"),
    "adaptive": ("*", "#009e73"),
    "other packages": ("^", "#d55e00"),
}
"""Marks and colours of the schemes in a picture."""


class Answer(NamedTuple):
    """What a scheme says at every point.

    Attributes:
        value: the derivatives.
        bar: their error bars; None from a scheme that gives none.
        evaluations: of f, per point.
    """

    value: np.ndarray
    bar: np.ndarray | None
    evaluations: float


@dataclasses.dataclass(frozen=True)
class AccuracyRow:
    """One scheme on one function in one dtype.

    Attributes:
        function: its name.
        scheme: its name.
        dtype: of x and f.
        n: order of the derivative.
        median_error: relative error, median over the points; absolute where the derivative is zero.
        worst_error: the largest; inf where a value is not finite.
        median_bar: error bar over |derivative|, median; NaN without bars.
        coverage: share of the points at which the bar holds; NaN without bars.
        evaluations: of f, per point; those of a derivative pass are not counted, and a complex one counts once.
        seconds: per point, compiled, all points in one call where the scheme allows that.
    """

    function: str
    scheme: str
    dtype: str
    n: int
    median_error: float
    worst_error: float
    median_bar: float
    coverage: float
    evaluations: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class AccuracyTable:
    """Every row of a benchmark.

    Attributes:
        rows: one for each function, dtype and scheme.
        skipped: schemes and peers that were left out, each with the reason.
    """

    rows: tuple[AccuracyRow, ...]
    skipped: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and strings."""
        return {"rows": [dataclasses.asdict(row) for row in self.rows], "skipped": dict(self.skipped)}

    def by_scheme(self) -> list[AccuracyRow]:
        """Medians over the functions of medians, the worst of worst errors, the mean of coverages; function ``"all"``.

        A function that a scheme was left out on does not count there: see ``skipped``.
        """
        summary = []
        for dtype, scheme in dict.fromkeys((row.dtype, row.scheme) for row in self.rows):
            group = [row for row in self.rows if (row.dtype, row.scheme) == (dtype, scheme)]
            middle = {key: statistics.median(getattr(row, key) for row in group) for key in ("median_error", "median_bar", "seconds")}
            mean = {key: statistics.fmean(getattr(row, key) for row in group) for key in ("coverage", "evaluations")}
            worst = max(row.worst_error for row in group)
            summary.append(AccuracyRow("all", scheme, dtype, group[0].n, worst_error=worst, **middle, **mean))
        return summary

    def front(self, dtype: str, cost: str = "evaluations", *, values_only: bool = False) -> list[AccuracyRow]:
        """The schemes that no other beats in both error and cost, cheapest first: the Pareto front.

        Args:
            dtype: one of the table's.
            cost: ``"evaluations"`` or ``"seconds"``.
            values_only: whether to leave out autodiff and the complex step, which need more of f than its values.
        """
        check_choice(cost, "cost", ("evaluations", "seconds"))
        rows = [row for row in self.by_scheme() if row.dtype == dtype and not (values_only and row.scheme in BEYOND_VALUES)]
        kept: list[AccuracyRow] = []
        for row in sorted(rows, key=lambda row: (getattr(row, cost), row.median_error)):
            if not kept or row.median_error < kept[-1].median_error:
                kept.append(row)
        return kept

    def __str__(self) -> str:
        """One line for each dtype and scheme, and one for each that was left out."""
        lines = [f"{'dtype':8} {'scheme':24} {'median':>8} {'worst':>8} {'bar':>8} {'holds':>6} {'evaluations':>11} {'us/point':>9}"]
        for row in self.by_scheme():
            errors = f"{row.median_error:8.1e} {row.worst_error:8.1e}"
            bar = "" if math.isnan(row.median_bar) else f"{row.median_bar:8.1e} {row.coverage:6.1%}"
            lines.append(f"{row.dtype:8} {row.scheme:24} {errors} {bar:>15} {row.evaluations:11.1f} {1e6 * row.seconds:9.3g}")
        return "\n".join([*lines, *(f"without {name}: {reason}" for name, reason in self.skipped.items())])

    def plot(self, figure: Any = None, cost: str = "evaluations") -> Any:
        """Error against cost, a panel for each dtype; the line is the Pareto front of the schemes that take values of f and nothing else.

        Args:
            figure: a matplotlib figure to draw on; None makes one.
            cost: ``"evaluations"`` or ``"seconds"``.

        Returns:
            The figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        check_choice(cost, "cost", ("evaluations", "seconds"))
        if figure is None:
            try:
                from matplotlib.figure import Figure
            except ImportError:
                raise ImportError("plot needs matplotlib: install jaxdiff[plot]") from None
            figure = Figure(figsize=(9.0, 4.3), layout="constrained")
        dtypes = list(dict.fromkeys(row.dtype for row in self.rows))
        panels = figure.subplots(1, len(dtypes), squeeze=False)[0]
        for panel, dtype in zip(panels, dtypes, strict=True):
            floor = float(np.finfo(dtype).eps) / 8

            def place(row: AccuracyRow, floor: float = floor) -> tuple[float, float]:
                return getattr(row, cost), max(row.median_error, floor)

            places = {row.scheme: place(row) for row in self.by_scheme() if row.dtype == dtype and np.isfinite(row.median_error)}
            panel.set_xscale("log")
            panel.set_yscale("log")
            for family, (marker, color) in _FAMILIES.items():
                mine = [place for scheme, place in places.items() if _family(scheme) == family]
                if mine:
                    panel.plot(*zip(*mine, strict=True), marker, color=color, label=family)
            front = [place(row) for row in self.front(dtype, cost, values_only=True)]
            panel.plot(*zip(*front, strict=True), ":", color="0.5", linewidth=1.0, zorder=0)
            panel.set_title(dtype)
            panel.set_xlabel("evaluations of f per point" if cost == "evaluations" else "seconds per point")
            panel.margins(x=0.25, y=0.1)
            _write_beside(panel, places, np.array(figure.get_size_inches()) * (72 * 0.8 / len(dtypes), 72 * 0.75))
            panel.legend(fontsize=7, loc="upper right")
        panels[0].set_ylabel("median relative error")
        return figure


def _family(scheme: str) -> str:
    if scheme in BEYOND_VALUES:
        return "f's own operations"
    return "other packages" if scheme in PEERS else "adaptive" if scheme == "adaptive" else "finite differences"


def _write_beside(panel: Any, places: dict[str, tuple[float, float]], size: np.ndarray) -> None:
    """Names beside their marks on logarithmic axes, each where it covers neither a mark nor another name.

    Args:
        panel: matplotlib axes, with everything drawn.
        places: of the marks, by name.
        size: about how wide and high the axes are, in points.
    """
    low, high = (np.log10([limits[end] for limits in (panel.get_xlim(), panel.get_ylim())]) for end in (0, 1))
    marks = {name: (np.log10(place) - low) / (high - low) * size for name, place in places.items()}
    taken = [(*(mark - 3.5), *(mark + 3.5)) for mark in marks.values()]
    for name, mark in marks.items():
        width, height = 3.9 * len(name), 7.0
        sides = ((6, 0, "left"), (-6 - width, 0, "right"), (-width / 2, 9, "center"), (-width / 2, -9, "center"))
        near = [(*offset, align) for *offset, align in sides]
        near += [(x, step * dy, align) for dy in (9, 18, 27) for step in (1, -1) for x, _, align in sides[:2]]
        boxes = [(mark[0] + x, mark[1] + y - height / 2, mark[0] + x + width, mark[1] + y + height / 2) for x, y, _ in near]
        covered = [sum(_overlap(box, other) for other in taken) + _overhang(box, size) for box in boxes]
        best = int(np.argmin(covered))
        x, y, align = near[best]
        x += {"left": 0, "right": width, "center": width / 2}[align]
        panel.annotate(name, places[name], fontsize=7, xytext=(x, y), textcoords="offset points", ha=align, va="center")
        taken.append(boxes[best])


def _overlap(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Common area of two rectangles (left, bottom, right, top)."""
    width, height = (min(box[k + 2], other[k + 2]) - max(box[k], other[k]) for k in (0, 1))
    return max(width, 0.0) * max(height, 0.0)


def _overhang(box: tuple[float, ...], size: np.ndarray) -> float:
    """How much of a rectangle lies outside of the axes, in area; what sticks out is cut off or covers the neighbour."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, (0.0, 0.0, float(size[0]), float(size[1])))


def accuracy_benchmark(
    functions: Sequence[str] | Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = ("sin", "exp", "log", "tanh"),
    schemes: Sequence[str] = SCHEMES,
    dtypes: Sequence[str] = DTYPES,
    points: Any = None,
    peers: Sequence[str] = (),
    *,
    n: int = 1,
) -> AccuracyTable:
    """Error, error bar, coverage, evaluations and seconds of derivative schemes on functions whose derivatives are known.

    Args:
        functions: names of elementary functions and activations (``jaxdiff list functions``), or a mapping from a name of your own to the
            function in JAX and the same function in mpmath.
        schemes: ``"autodiff"``, ``"complex-step"``, ``"adaptive"``, or kind and order of a finite difference, such as ``"central-4"``.
        dtypes: ``"float32"``, ``"float64"`` or both.
        points: a sequence of numbers; each dtype takes those nearest to them. None: 32 points evenly on [0.5, 2].
        peers: keys of `PEERS`. One that is not installed or does not give this derivative is left out, and named in ``skipped``.
        n: order of the derivative.

    Returns:
        The table; print it, plot it, or take its rows.

    Raises:
        ValueError: an unknown name; points that are not finite.
        ArithmeticError: mpmath's two precisions do not agree on a reference.
        ImportError: mpmath is not installed.

    Example:
        >>> import jaxdiff as jd
        >>> table = jd.accuracy_benchmark(["sin"], ["central-2", "central-4"], ["float64"], [0.5, 1.0])
        >>> [row.scheme for row in table.front("float64")]
        ['central-2', 'central-4']
    """
    import jax

    n = check_count(n, "n", minimum=1)
    subjects = _subjects(functions)
    for name in schemes:
        _check_scheme(name)
    for name in peers:
        check_choice(name, "peers", tuple(PEERS))
    for dtype in dtypes:
        check_choice(dtype, "dtypes", DTYPES)
    where = np.linspace(0.5, 2.0, 32) if points is None else np.asarray(points, np.float64).reshape(-1)
    if where.size == 0 or not np.all(np.isfinite(where)):
        raise ValueError(f"points = {points!r}; expected at least one, all finite")
    skipped: dict[str, str] = {}
    runners = {name: _scheme(name, n) for name in schemes}
    for name in peers:
        found = _peer(name, n)
        if isinstance(found, str):
            skipped[name] = found
        else:
            runners[name] = found
    rows = []
    for label, (f, exact) in subjects.items():
        for dtype in dtypes:
            x = where.astype(dtype)
            certified = certified_derivatives(exact, x.tolist(), n)
            for name, runner in runners.items():
                with jax.enable_x64(True) if dtype == "float64" else contextlib.nullcontext():
                    try:
                        answer, seconds = _timed(runner, f, x)
                    except TypeError as error:
                        skipped[f"{name} on {label}, {dtype}"] = str(error).splitlines()[0]
                        continue
                rows.append(_row(label, name, dtype, n, answer, certified, seconds))
    return AccuracyTable(tuple(rows), skipped)


def certified_derivatives(definition: Callable[[Any], Any], points: Sequence[float], n: int) -> list[Any]:
    """The n-th derivative at each point by mpmath, in 50 and in 80 digits.

    Args:
        definition: the function in mpmath's numbers.
        points: exact in binary.
        n: order.

    Raises:
        ArithmeticError: the two do not agree to 20 digits.
    """
    import mpmath

    exact = []
    for point in points:
        pair = []
        for digits in (references.DIGITS, 80):
            # In a tail the value is one less exp(-2|x|), and the derivative is that difference: it needs digits of its own.
            with mpmath.workdps(digits + int(n * 2 * abs(point))):
                pair.append(mpmath.diff(definition, mpmath.mpf(float(point)), n))
        if not abs(pair[0] - pair[1]) <= mpmath.mpf(10) ** -20 * max(abs(pair[1]), mpmath.mpf(10) ** -20):
            raise ArithmeticError(
                f"derivative {n} at x = {point!r}: {mpmath.nstr(pair[0], 25)} and {mpmath.nstr(pair[1], 25)} do not agree"
            )
        exact.append(pair[1])
    return exact


def _row(function: str, scheme: str, dtype: str, n: int, answer: Answer, certified: list[Any], seconds: float) -> AccuracyRow:
    errors = references.relative_error(answer.value, certified)
    median_bar = coverage = math.nan
    if answer.bar is not None:
        sizes = np.array([float(abs(reference)) or 1.0 for reference in certified])
        bars = np.asarray(answer.bar, np.float64) / sizes
        if not np.all(np.isnan(bars)):
            median_bar = float(np.nanmedian(bars))
        # A bar that is NaN does not hold.
        coverage = float(np.mean(errors <= bars))
    evaluations, each = float(answer.evaluations), seconds / len(certified)
    return AccuracyRow(function, scheme, dtype, n, float(np.median(errors)), float(np.max(errors)), median_bar, coverage, evaluations, each)


def _timed(runner: Callable[..., Callable[[], Answer]], f: Callable[[Any], Any], x: np.ndarray) -> tuple[Answer, float]:
    call = runner(f, x)
    answer = call()
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return answer, statistics.median(seconds)


def _subjects(functions: Any) -> dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]]:
    if isinstance(functions, Mapping):
        return dict(functions)
    import jax.numpy as jnp
    import mpmath

    from jaxdiff.functions.activations import ACTIVATIONS

    definitions = references._activation_definitions(mpmath.mp)
    subjects = {}
    for name in functions:
        if name in references.ELEMENTARY:
            entry = references.ELEMENTARY[name]
            subjects[name] = getattr(jnp, entry.jax_name), getattr(mpmath, entry.mpmath_name)
        elif name in definitions:
            subjects[name] = ACTIVATIONS[name].value, definitions[name]
        else:
            known = [*references.ELEMENTARY, *definitions]
            raise ValueError(f"functions has {name!r}; expected names of elementary functions or activations{closest(name, known)}")
    return subjects


# --- schemes ----------------------------------------------------------------------------------------------------------------------------


def _check_scheme(name: str) -> None:
    kind, _, order = name.partition("-")
    if name not in SCHEMES and not (kind in ("forward", "backward", "central") and order.isdecimal()):
        raise ValueError(f"schemes has {name!r}; expected kind and order, as in 'central-4', or a scheme{closest(name, SCHEMES)}")


def _scheme(name: str, n: int) -> Callable[..., Callable[[], Answer]]:
    import jax

    import jaxdiff as jd

    def adaptive(f: Callable[[Any], Any], x: np.ndarray) -> Callable[[], Answer]:
        def call() -> Answer:
            found = jax.block_until_ready(jd.estimate(f, x, n))
            return Answer(np.asarray(found.value), np.asarray(found.error), int(np.max(found.num_evals)))

        return call

    def plain(f: Callable[[Any], Any], x: np.ndarray) -> Callable[[], Answer]:
        method, evaluations = _method(name, n)
        slopes = jax.jit(jd.derivative(f, n, method=method))
        return lambda: Answer(np.asarray(slopes(x)), None, evaluations)

    return adaptive if name == "adaptive" else plain


def _method(name: str, n: int) -> tuple[Any, int]:
    """The method, and how often it evaluates f for one derivative."""
    import jaxdiff as jd
    from jaxdiff.derivatives import stencil_for

    if name == "autodiff":
        return jd.Autodiff(), 1
    if name == "complex-step":
        return jd.ComplexStep(), 1
    kind, _, order = name.partition("-")
    return jd.FiniteDifference(kind=kind, order=int(order)), len(stencil_for(kind, n, int(order)).offsets)


# --- peers ------------------------------------------------------------------------------------------------------------------------------


class _Counted:
    """A NumPy function made of f that counts the points at which it is called."""

    def __init__(self, f: Callable[[Any], Any], dtype: np.dtype) -> None:
        import jax

        name = getattr(f, "__name__", "")
        in_numpy = getattr(np, name, None) if name in references.ELEMENTARY else None
        self.f = in_numpy or jax.jit(f)
        self.dtype = dtype
        self.count = 0

    def __call__(self, x: Any) -> Any:
        x = np.asarray(x, self.dtype)
        self.count += x.size
        return np.asarray(self.f(x))


def _peer(name: str, n: int) -> Callable[..., Callable[[], Answer]] | str:
    """A runner, or the reason why there is none."""
    try:
        importlib.import_module(PEERS[name])
    except ImportError:
        return "not installed"
    if n > 1 and name.startswith("scipy"):
        return f"gives first derivatives only; n = {n}"
    solve = {
        "numdifftools": _numdifftools,
        "scipy.differentiate": _scipy_differentiate,
        "scipy.approx_derivative": _approx_derivative,
        "findiff": _findiff,
    }[name]

    def runner(f: Callable[[Any], Any], x: np.ndarray) -> Callable[[], Answer]:
        def call() -> Answer:
            counted = _Counted(f, x.dtype)
            # A peer may divide by zero inside; what it returns is what counts.
            with np.errstate(all="ignore"):
                value, bar = solve(counted, x, n)
            return Answer(np.asarray(value), None if bar is None else np.asarray(bar), counted.count / x.size)

        return call

    return runner


def _numdifftools(f: _Counted, x: np.ndarray, n: int) -> tuple[Any, Any]:
    numdifftools = importlib.import_module("numdifftools")
    # (value, info) before version 0.10, one named tuple since.
    found = numdifftools.Derivative(f, n=n, full_output=True)(x)
    return (found.estimate, found.error_estimate) if hasattr(found, "estimate") else (found[0], found[1].error_estimate)


def _scipy_differentiate(f: _Counted, x: np.ndarray, n: int) -> tuple[Any, Any]:
    found = importlib.import_module("scipy.differentiate").derivative(f, x)
    return found.df, found.error


def _approx_derivative(f: _Counted, x: np.ndarray, n: int) -> tuple[Any, Any]:
    approx_derivative = importlib.import_module("scipy.optimize._numdiff").approx_derivative
    return [np.ravel(approx_derivative(f, np.array([point])))[0] for point in x], None


def _findiff(f: _Counted, x: np.ndarray, n: int) -> tuple[Any, Any]:
    """Its central stencil of fourth order; the spacing is left to the caller: eps^(1/(n + 4)) times max(|x|, 1)."""
    stencil = importlib.import_module("findiff").coefficients(deriv=n, acc=4)["center"]
    h = np.finfo(x.dtype).eps ** (1 / (n + 4)) * np.maximum(np.abs(x), 1)
    weights, offsets = (np.asarray(stencil[key], np.float64) for key in ("coefficients", "offsets"))
    values = np.array([f(x + offset * h) for offset in offsets])
    return weights @ values / h.astype(np.float64) ** n, None
