"""The test problems of Moré, Garbow and Hillstrom: 35 sums of squares, 42 instances, with standard starts and known minima.

Every problem minimizes ``F(x) = sum_i f_i(x)^2`` (no factor 1/2). The residuals ``f`` are written from the paper's formulas; sizes, data,
starts and minima are read from ``data/mgh.json``.

References:
    J. J. Moré, B. S. Garbow, K. E. Hillstrom (1981), Testing Unconstrained Optimization Software, ACM Transactions on Mathematical
    Software 7(1):17-41, numbers (1) to (35).
    D. M. Gay (1984), A trust-region approach to linearly constrained optimization, in Numerical Analysis, Lecture Notes in
    Mathematics 1066:72-105 (the bounds).
"""

import dataclasses
import functools
import importlib.resources
import json
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from jaxdiff._validation import closest

Point: TypeAlias = Float[Array | np.ndarray, "n"]
Residual: TypeAlias = Float[Array | np.ndarray, "m"]
HostVector: TypeAlias = Float64[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True, eq=False)
class MghBounds:
    """The same problem inside a box, as Gay (1984) bounds it."""

    lower: HostVector
    upper: HostVector
    x_min: HostVector
    """The best point found inside the box."""
    f_min: float
    """Best sum of squares found inside the box, by SciPy from 25 starts."""
    f_literature: float
    """The published sum of squares."""
    is_confirmed: bool
    """Whether the two agree. Where they do not (Gulf, Box), neither is to be judged by."""


@dataclasses.dataclass(frozen=True, eq=False)
class MghProblem:
    """One instance: residuals, standard start, known minimum. Arrays are float64, on the host and read-only."""

    id: int
    """The paper's number, 1 to 35."""
    name: str
    """Unique among the instances: the size is part of it where the paper has several."""
    n: int
    m: int
    residual: Callable[[Point], Residual]
    """``residual(x)``, ``[m]``, in jax.numpy, of the dtype of x."""
    start: HostVector
    """The standard start; the paper also starts from 10 and 100 times it."""
    start_scales: tuple[int, ...]
    f_start: float
    """Sum of squares at the start."""
    f_min: float
    """The smallest sum of squares, or the one that the paper gives."""
    x_min: HostVector
    """A point that reaches it; not always the only one (see `notes` and `other_minima`)."""
    other_minima: tuple[str, ...]
    """Local minima and minima at infinity that solvers end in, with their sum of squares."""
    bounds: MghBounds | None
    classes: tuple[str, ...]
    """The paper's sections that use it: NEQ (equations), LSQ (least squares), UNC (unconstrained)."""
    formula: str
    notes: str


@overload
def load_mgh(name: None = None) -> dict[str, MghProblem]: ...
@overload
def load_mgh(name: str) -> MghProblem: ...
def load_mgh(name: str | None = None) -> MghProblem | dict[str, MghProblem]:
    """One instance by its name (in any case), or all 42 in the paper's order.

    Args:
        name: such as ``"Rosenbrock"`` or ``"Watson (n=9)"``; all instances where it is missing.

    Returns:
        The instance, or a dictionary of instances by name.

    Raises:
        ValueError: there is no instance of that name.

    Example:
        >>> problem = load_mgh("Rosenbrock")
        >>> problem.residual(problem.x_min).tolist()
        [0.0, 0.0]
        >>> len(load_mgh())
        42
    """
    problems = _read()
    if name is None:
        return dict(problems)
    known = {key.lower(): key for key in problems}
    if name.lower() not in known:
        raise ValueError(f"name = {name!r}; expected one of {', '.join(problems)}{closest(name, known)}")
    return problems[known[name.lower()]]


@functools.cache
def _read() -> Mapping[str, MghProblem]:
    text = importlib.resources.files("jaxdiff.functions").joinpath("data", "mgh.json").read_text(encoding="utf-8")
    return types.MappingProxyType({record["name"]: _problem(record) for record in json.loads(text)["problems"]})


def _problem(record: dict[str, Any]) -> MghProblem:
    box = record.get("bounded_variant")
    return MghProblem(
        id=record["id"],
        name=record["name"],
        n=record["n"],
        m=record["m"],
        residual=_bind(record),
        start=_frozen(record["x0"]),
        start_scales=tuple(record["start_scales"]),
        f_start=record["f0"],
        f_min=record["f_min"],
        x_min=_frozen(record["x_min"]),
        other_minima=tuple(_describe(minimum) for minimum in record["other_minima"]),
        bounds=None
        if box is None
        else MghBounds(
            lower=_frozen(box["lower"]),
            upper=_frozen(box["upper"]),
            x_min=_frozen(box["x_best"]),
            f_min=box["f_best_found_here"],
            f_literature=box["f_literature"],
            is_confirmed=box["literature_confirmed"],
        ),
        classes=tuple(record["classes"]),
        formula=record["formula"],
        notes=record["notes"],
    )


def _bind(record: dict[str, Any]) -> Callable[[Point], Residual]:
    """The residuals of one instance: where n does not determine them, its number of residuals or its data are bound."""
    residual = _RESIDUALS[record["id"]]
    bound = {key: _frozen(values) for key, values in record["data"].items()}
    if record["id"] in _SIZED:
        bound["m"] = record["m"]
    return functools.partial(residual, **bound) if bound else residual


def _describe(minimum: dict[str, str]) -> str:
    where = f" at {minimum['x']}" if "x" in minimum else ""
    note = f" ({minimum['note']})" if "note" in minimum else ""
    return f"{minimum['f']}{where}{note}"


def _frozen(values: Any) -> HostVector:
    """A read-only copy, for the problems are shared by everyone who loads them."""
    array = np.array(values, np.float64)
    array.flags.writeable = False
    return array


def _like(values: np.ndarray, x: Point) -> Array:
    """Constants, computed in float64 on the host, in the dtype of x (or what JAX makes of it)."""
    return jnp.asarray(values, jax.dtypes.canonicalize_dtype(x.dtype))


def _steps(count: int) -> np.ndarray:
    """The paper's i = 1 ... count, in float64."""
    return np.arange(1.0, count + 1)


def _rosenbrock(x: Point) -> Residual:
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def _freudenstein_roth(x: Point) -> Residual:
    first = -13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1]
    second = -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1]
    return jnp.stack([first, second])


def _powell_badly_scaled(x: Point) -> Residual:
    return jnp.stack([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001])


def _brown_badly_scaled(x: Point) -> Residual:
    return jnp.stack([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def _beale(x: Point, *, y: np.ndarray) -> Residual:
    return _like(y, x) - x[0] * (1 - jnp.stack([x[1], x[1] ** 2, x[1] ** 3]))


def _jennrich_sampson(x: Point, *, m: int) -> Residual:
    i = _like(_steps(m), x)
    return 2 + 2 * i - (jnp.exp(i * x[0]) + jnp.exp(i * x[1]))


def _helical_valley(x: Point) -> Residual:
    # The paper's angle runs from -1/4 to 3/4 of a turn, with its cut where x1 = 0, x2 < 0; arctan2's cut lies on the negative x1 axis.
    # Unlike arctan(x2 / x1), arctan2 has a derivative where x1 = 0. The test is on the angle, so that x2 = -0.0 counts as zero does.
    turns = jnp.arctan2(x[1], x[0]) / (2 * np.pi)
    theta = jnp.where((x[0] < 0) & (turns < 0), turns + 1, turns)
    return jnp.stack([10 * (x[2] - 10 * theta), 10 * (jnp.sqrt(x[0] ** 2 + x[1] ** 2) - 1), x[2]])


def _bard(x: Point, *, y: np.ndarray) -> Residual:
    u = _steps(len(y))
    v = 16 - u
    w = np.minimum(u, v)
    return _like(y, x) - (x[0] + _like(u, x) / (_like(v, x) * x[1] + _like(w, x) * x[2]))


def _gaussian(x: Point, *, y: np.ndarray) -> Residual:
    t = _like((8 - _steps(len(y))) / 2, x)
    return x[0] * jnp.exp(-x[1] * (t - x[2]) ** 2 / 2) - _like(y, x)


def _meyer(x: Point, *, y: np.ndarray) -> Residual:
    t = _like(45 + 5 * _steps(len(y)), x)
    return x[0] * jnp.exp(x[1] / (t + x[2])) - _like(y, x)


def _gulf(x: Point, *, m: int) -> Residual:
    # The paper prints |y_i m i x_2|; the accepted reading, by which its minimum holds, is |y_i - x_2|.
    t = _steps(m) / 100
    y = 25 + (-50 * np.log(t)) ** (2 / 3)
    return jnp.exp(-(jnp.abs(_like(y, x) - x[1]) ** x[2]) / x[0]) - _like(t, x)


def _box(x: Point, *, m: int) -> Residual:
    t = 0.1 * _steps(m)
    return jnp.exp(-_like(t, x) * x[0]) - jnp.exp(-_like(t, x) * x[1]) - x[2] * _like(np.exp(-t) - np.exp(-10 * t), x)


def _powell_singular(x: Point) -> Residual:
    """Blocks of four variables; the extended problem, number 22, has several."""
    a, b, c, d = x.reshape(-1, 4).T
    return jnp.stack([a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2], axis=1).ravel()


def _wood(x: Point) -> Residual:
    a, b, c, d = x
    return jnp.stack(
        [10 * (b - a**2), 1 - a, 90**0.5 * (d - c**2), 1 - c, 10**0.5 * (b + d - 2), (b - d) / 10**0.5],
    )


def _kowalik_osborne(x: Point, *, y: np.ndarray, u: np.ndarray) -> Residual:
    u_ = _like(u, x)
    return _like(y, x) - x[0] * u_ * (u_ + x[1]) / (u_ * (u_ + x[2]) + x[3])


def _brown_dennis(x: Point, *, m: int) -> Residual:
    t = _steps(m) / 5
    first = x[0] + _like(t, x) * x[1] - _like(np.exp(t), x)
    second = x[2] + x[3] * _like(np.sin(t), x) - _like(np.cos(t), x)
    return first**2 + second**2


def _osborne_1(x: Point, *, y: np.ndarray) -> Residual:
    t = _like(10 * (_steps(len(y)) - 1), x)
    return _like(y, x) - (x[0] + x[1] * jnp.exp(-t * x[3]) + x[2] * jnp.exp(-t * x[4]))


def _biggs_exp6(x: Point, *, m: int) -> Residual:
    t = 0.1 * _steps(m)
    y = np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t)
    t_ = _like(t, x)
    return x[2] * jnp.exp(-t_ * x[0]) - x[3] * jnp.exp(-t_ * x[1]) + x[5] * jnp.exp(-t_ * x[4]) - _like(y, x)


def _osborne_2(x: Point, *, y: np.ndarray) -> Residual:
    t = _like((_steps(len(y)) - 1) / 10, x)
    model = x[0] * jnp.exp(-t * x[4])
    for k in range(1, 4):
        model = model + x[k] * jnp.exp(-((t - x[k + 7]) ** 2) * x[k + 4])
    return _like(y, x) - model


def _watson(x: Point) -> Residual:
    j = np.arange(x.shape[0])
    powers = (_steps(29)[:, None] / 29) ** j
    slopes = np.concatenate([np.zeros((29, 1)), j[1:] * powers[:, :-1]], axis=1)
    inner = _like(slopes, x) @ x - (_like(powers, x) @ x) ** 2 - 1
    return jnp.concatenate([inner, jnp.stack([x[0], x[1] - x[0] ** 2 - 1])])


def _extended_rosenbrock(x: Point) -> Residual:
    odd, even = x[::2], x[1::2]
    return jnp.stack([10 * (even - odd**2), 1 - odd], axis=1).ravel()


def _penalty_1(x: Point) -> Residual:
    return jnp.append(1e-5**0.5 * (x - 1), jnp.sum(x**2) - 0.25)


def _penalty_2(x: Point) -> Residual:
    n = x.shape[0]
    i = _steps(n)
    y = np.exp(i[1:] / 10) + np.exp(i[:-1] / 10)
    grown = jnp.exp(x / 10)
    pairs = 1e-5**0.5 * (grown[1:] + grown[:-1] - _like(y, x))
    single = 1e-5**0.5 * (grown[1:] - float(np.exp(-0.1)))
    last = jnp.sum(_like(n - i + 1, x) * x**2) - 1
    return jnp.concatenate([(x[0] - 0.2)[None], pairs, single, last[None]])


def _variably_dimensioned(x: Point) -> Residual:
    moment = jnp.sum(_like(_steps(x.shape[0]), x) * (x - 1))
    return jnp.concatenate([x - 1, jnp.stack([moment, moment**2])])


def _trigonometric(x: Point) -> Residual:
    # 1 - cos x = 2 sin^2(x / 2) keeps its digits near the solution, x = 0.
    missing = 2 * jnp.sin(x / 2) ** 2
    return jnp.sum(missing) + _like(_steps(x.shape[0]), x) * missing - jnp.sin(x)


def _brown_almost_linear(x: Point) -> Residual:
    return jnp.append(x[:-1] + jnp.sum(x) - (x.shape[0] + 1), jnp.prod(x) - 1)


def _discrete_boundary_value(x: Point) -> Residual:
    n = x.shape[0]
    h = 1 / (n + 1)
    padded = jnp.pad(x, 1)
    return 2 * x - padded[:-2] - padded[2:] + h**2 * (x + _like(_steps(n) * h + 1, x)) ** 3 / 2


def _discrete_integral_equation(x: Point) -> Residual:
    n = x.shape[0]
    h = 1 / (n + 1)
    t = _steps(n) * h
    kernel = np.where(t[None, :] <= t[:, None], (1 - t)[:, None] * t[None, :], t[:, None] * (1 - t)[None, :])
    return x + _like(h / 2 * kernel, x) @ (x + _like(t + 1, x)) ** 3


def _broyden_tridiagonal(x: Point) -> Residual:
    padded = jnp.pad(x, 1)
    return (3 - 2 * x) * x - padded[:-2] - 2 * padded[2:] + 1


def _broyden_banded(x: Point) -> Residual:
    n = x.shape[0]
    offset = np.arange(n)[None, :] - np.arange(n)[:, None]
    band = ((offset >= -5) & (offset <= 1) & (offset != 0)).astype(np.float64)
    return x * (2 + 5 * x**2) + 1 - _like(band, x) @ (x * (1 + x))


def _linear_full_rank(x: Point, *, m: int) -> Residual:
    shared = 2 / m * jnp.sum(x) + 1
    return jnp.pad(x, (0, m - x.shape[0])) - shared


def _linear_rank_1(x: Point, *, m: int) -> Residual:
    return _like(_steps(m), x) * jnp.sum(_like(_steps(x.shape[0]), x) * x) - 1


def _linear_rank_1_zeros(x: Point, *, m: int) -> Residual:
    """Number 33 with the first and last column, and the first and last row, set to zero."""
    rows, columns = _steps(m) - 1, _steps(x.shape[0])
    rows[-1] = columns[0] = columns[-1] = 0
    return _like(rows, x) * jnp.sum(_like(columns, x) * x) - 1


def _chebyquad(x: Point) -> Residual:
    n = x.shape[0]
    before, current = jnp.ones_like(x), 2 * x - 1
    means = []
    for degree in range(1, n + 1):
        integral = -1 / (degree**2 - 1) if degree % 2 == 0 else 0.0
        means.append(jnp.mean(current) - integral)
        before, current = current, 2 * (2 * x - 1) * current - before
    return jnp.stack(means)


# Problems whose number of residuals is a choice of its own.
_SIZED = frozenset({6, 11, 12, 16, 18, 32, 33, 34})

_RESIDUALS: Mapping[int, Callable[..., Residual]] = types.MappingProxyType(
    {
        1: _rosenbrock,
        2: _freudenstein_roth,
        3: _powell_badly_scaled,
        4: _brown_badly_scaled,
        5: _beale,
        6: _jennrich_sampson,
        7: _helical_valley,
        8: _bard,
        9: _gaussian,
        10: _meyer,
        11: _gulf,
        12: _box,
        13: _powell_singular,
        14: _wood,
        15: _kowalik_osborne,
        16: _brown_dennis,
        17: _osborne_1,
        18: _biggs_exp6,
        19: _osborne_2,
        20: _watson,
        21: _extended_rosenbrock,
        22: _powell_singular,
        23: _penalty_1,
        24: _penalty_2,
        25: _variably_dimensioned,
        26: _trigonometric,
        27: _brown_almost_linear,
        28: _discrete_boundary_value,
        29: _discrete_integral_equation,
        30: _broyden_tridiagonal,
        31: _broyden_banded,
        32: _linear_full_rank,
        33: _linear_rank_1,
        34: _linear_rank_1_zeros,
        35: _chebyquad,
    }
)
