"""The 27 nonlinear regressions of NIST's Statistical Reference Datasets: models in JAX, data, starts and certified answers.

Each dataset is a model ``y = model(x, b) + error`` whose least-squares parameters ``b`` NIST computed in extended precision and certified
to 11 digits, with two published starts: the first far from the answer, the second nearer.

References:
    National Institute of Standards and Technology, Statistical Reference Datasets, Nonlinear Regression,
    https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml
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

Samples: TypeAlias = Float[Array | np.ndarray, "..."]
Parameters: TypeAlias = Float[Array | np.ndarray, "n"]
HostVector: TypeAlias = Float64[np.ndarray, "n"]

# NIST certifies 11 digits, so that no estimate can be shown to have more.
CERTIFIED_DIGITS = 11.0


@dataclasses.dataclass(frozen=True, eq=False)
class NistDataset:
    """One regression with its certified answer. Arrays are float64, on the host and read-only."""

    name: str
    level: str
    """Difficulty as NIST grades it: Lower, Average or Higher."""
    x: Float64[np.ndarray, "..."]
    """Predictors, ``[m]``; for Nelson, which has two, ``[m, 2]``."""
    y: Float64[np.ndarray, "m"]
    """What the model predicts: NIST's response column; for Nelson its logarithm."""
    model: Callable[[Samples, Parameters], Samples]
    """``model(x, b)``, in jax.numpy, of the dtype of its arguments."""
    start1: HostVector
    """The published start far from the answer."""
    start2: HostVector
    """The published start near the answer."""
    certified: HostVector
    """Certified parameters, 11 digits."""
    certified_sd: HostVector
    """Their certified standard deviations."""
    certified_rss: float
    """Certified residual sum of squares. Lanczos1's, 1.43e-25, lies below what its printed parameters give in float64 (3.98e-21)."""
    dof: int
    """Degrees of freedom, m - n. For Rat43 NIST prints 9; 15 - 4 = 11 is right and given here."""
    formula: str
    """The model as NIST prints it."""
    model_class: str
    """Kind of model: exponential, rational, miscellaneous."""
    citation: str
    """Where the data come from."""


def chwirut(x: Samples, b: Parameters) -> Samples:
    """Ultrasonic response, ``exp(-b1 x) / (b2 + b3 x)``: Chwirut1 and Chwirut2.

    Example:
        >>> chwirut(jnp.array([0.0]), jnp.array([1.0, 0.5, 1.0])).tolist()
        [2.0]
    """
    b1, b2, b3 = b
    return jnp.exp(-b1 * x) / (b2 + b3 * x)


def danwood(x: Samples, b: Parameters) -> Samples:
    """Radiated energy of a lamp, ``b1 x**b2``.

    Example:
        >>> danwood(jnp.array([2.0]), jnp.array([3.0, 2.0])).tolist()
        [12.0]
    """
    b1, b2 = b
    return b1 * x**b2


def gauss(x: Samples, b: Parameters) -> Samples:
    """Two Gaussian peaks on a decaying baseline: Gauss1, Gauss2 and Gauss3.

    ``b1 exp(-b2 x) + b3 exp(-((x - b4) / b5)**2) + b6 exp(-((x - b7) / b8)**2)``

    Example:
        >>> gauss(jnp.array([0.0]), jnp.array([1.0, 1.0, 2.0, 0.0, 1.0, 3.0, 0.0, 1.0])).tolist()
        [6.0]
    """
    b1, b2, b3, b4, b5, b6, b7, b8 = b
    return b1 * jnp.exp(-b2 * x) + b3 * jnp.exp(-(((x - b4) / b5) ** 2)) + b6 * jnp.exp(-(((x - b7) / b8) ** 2))


def lanczos(x: Samples, b: Parameters) -> Samples:
    """Three decaying exponentials, ``b1 exp(-b2 x) + b3 exp(-b4 x) + b5 exp(-b6 x)``: Lanczos1, Lanczos2 and Lanczos3.

    Example:
        >>> lanczos(jnp.array([0.0]), jnp.array([1.0, 1.0, 2.0, 1.0, 3.0, 1.0])).tolist()
        [6.0]
    """
    b1, b2, b3, b4, b5, b6 = b
    return b1 * jnp.exp(-b2 * x) + b3 * jnp.exp(-b4 * x) + b5 * jnp.exp(-b6 * x)


def saturating_exponential(x: Samples, b: Parameters) -> Samples:
    """Approach to a plateau, ``b1 (1 - exp(-b2 x))``: Misra1a and BoxBOD.

    Example:
        >>> saturating_exponential(jnp.array([0.0]), jnp.array([5.0, 1.0])).tolist()
        [0.0]
    """
    b1, b2 = b
    # expm1: at Misra1a's b2 x near 0.04, 1 - exp would lose the digits that float32 lives on.
    return -b1 * jnp.expm1(-b2 * x)


def misra1b(x: Samples, b: Parameters) -> Samples:
    """Monomolecular adsorption, ``b1 (1 - (1 + b2 x / 2)**-2)``.

    Example:
        >>> misra1b(jnp.array([2.0]), jnp.array([4.0, 1.0])).tolist()
        [3.0]
    """
    b1, b2 = b
    t = b2 * x / 2
    # 1 - (1 + t)^-2 = t (2 + t) / (1 + t)^2, without the subtraction of nearly equal numbers.
    return b1 * t * (2 + t) / (1 + t) ** 2


def misra1c(x: Samples, b: Parameters) -> Samples:
    """Monomolecular adsorption, ``b1 (1 - (1 + 2 b2 x)**-0.5)``.

    Example:
        >>> misra1c(jnp.array([1.5]), jnp.array([4.0, 1.0])).tolist()
        [2.0]
    """
    b1, b2 = b
    t = 2 * b2 * x
    root = jnp.sqrt(1 + t)
    # 1 - 1/r = t / (r (1 + r)) where r^2 = 1 + t, without the subtraction.
    return b1 * t / (root * (1 + root))


def misra1d(x: Samples, b: Parameters) -> Samples:
    """Monomolecular adsorption, ``b1 b2 x / (1 + b2 x)``.

    Example:
        >>> misra1d(jnp.array([1.0]), jnp.array([4.0, 1.0])).tolist()
        [2.0]
    """
    b1, b2 = b
    t = b2 * x
    return b1 * t / (1 + t)


def enso(x: Samples, b: Parameters) -> Samples:
    """Monthly air pressure: a yearly cycle and two more of unknown periods b4 and b7.

    ``b1 + b2 cos(w x / 12) + b3 sin(w x / 12) + b5 cos(w x / b4) + b6 sin(w x / b4) + b8 cos(w x / b7) + b9 sin(w x / b7)``, w = 2 pi

    Example:
        >>> enso(jnp.array([0.0]), jnp.array([1.0, 2.0, 0.0, 40.0, 3.0, 0.0, 25.0, 4.0, 0.0])).tolist()
        [10.0]
    """
    b1, b2, b3, b4, b5, b6, b7, b8, b9 = b
    year, second, third = (2 * np.pi * x / period for period in (12.0, b4, b7))
    cycles = b2 * jnp.cos(year) + b3 * jnp.sin(year) + b5 * jnp.cos(second) + b6 * jnp.sin(second)
    return b1 + cycles + b8 * jnp.cos(third) + b9 * jnp.sin(third)


def cubic_over_cubic(x: Samples, b: Parameters) -> Samples:
    """``(b1 + b2 x + b3 x^2 + b4 x^3) / (1 + b5 x + b6 x^2 + b7 x^3)``: Hahn1 and Thurber.

    Example:
        >>> cubic_over_cubic(jnp.array([1.0]), jnp.array([1.0, 2.0, 3.0, 4.0, 1.0, 1.0, 2.0])).tolist()
        [2.0]
    """
    b1, b2, b3, b4, b5, b6, b7 = b
    return (b1 + x * (b2 + x * (b3 + x * b4))) / (1 + x * (b5 + x * (b6 + x * b7)))


def kirby2(x: Samples, b: Parameters) -> Samples:
    """Line widths under a microscope, ``(b1 + b2 x + b3 x^2) / (1 + b4 x + b5 x^2)``.

    Example:
        >>> kirby2(jnp.array([1.0]), jnp.array([1.0, 2.0, 3.0, 0.5, 0.5])).tolist()
        [3.0]
    """
    b1, b2, b3, b4, b5 = b
    return (b1 + x * (b2 + x * b3)) / (1 + x * (b4 + x * b5))


def mgh17(x: Samples, b: Parameters) -> Samples:
    """Two exponentials over a constant, ``b1 + b2 exp(-x b4) + b3 exp(-x b5)`` (Osborne 1 of the Moré-Garbow-Hillstrom problems).

    Example:
        >>> mgh17(jnp.array([0.0]), jnp.array([1.0, 2.0, 3.0, 1.0, 1.0])).tolist()
        [6.0]
    """
    b1, b2, b3, b4, b5 = b
    return b1 + b2 * jnp.exp(-x * b4) + b3 * jnp.exp(-x * b5)


def nelson(x: Float[Array | np.ndarray, "... 2"], b: Parameters) -> Samples:
    """Logarithm of a breakdown voltage, ``b1 - b2 x1 exp(-b3 x2)``; x holds (weeks, temperature) pairs.

    Example:
        >>> nelson(jnp.array([[1.0, 0.0]]), jnp.array([3.0, 1.0, 1.0])).tolist()
        [2.0]
    """
    b1, b2, b3 = b
    return b1 - b2 * x[..., 0] * jnp.exp(-b3 * x[..., 1])


def roszman1(x: Samples, b: Parameters) -> Samples:
    """Quantum defects, ``b1 - b2 x - arctan(b3 / (x - b4)) / pi``.

    Example:
        >>> roszman1(jnp.array([1.0]), jnp.array([1.0, 0.5, 1.0, 0.0])).tolist()
        [0.25]
    """
    b1, b2, b3, b4 = b
    # arctan of a quotient, not arctan2: the certified values belong to the principal branch that NIST prints.
    return b1 - b2 * x - jnp.arctan(b3 / (x - b4)) / np.pi


def bennett5(x: Samples, b: Parameters) -> Samples:
    """Magnetization, ``b1 (b2 + x)**(-1 / b3)``.

    Example:
        >>> bennett5(jnp.array([3.0]), jnp.array([8.0, 1.0, 0.5])).tolist()
        [0.5]
    """
    b1, b2, b3 = b
    return b1 * (b2 + x) ** (-1 / b3)


def eckerle4(x: Samples, b: Parameters) -> Samples:
    """Transmittance, a Gaussian line ``(b1 / b2) exp(-((x - b3) / b2)**2 / 2)``.

    Example:
        >>> eckerle4(jnp.array([3.0]), jnp.array([4.0, 2.0, 3.0])).tolist()
        [2.0]
    """
    b1, b2, b3 = b
    return b1 / b2 * jnp.exp(-0.5 * ((x - b3) / b2) ** 2)


def mgh09(x: Samples, b: Parameters) -> Samples:
    """``b1 (x^2 + x b2) / (x^2 + x b3 + b4)`` (Kowalik and Osborne).

    Example:
        >>> mgh09(jnp.array([1.0]), jnp.array([2.0, 3.0, 1.0, 2.0])).tolist()
        [2.0]
    """
    b1, b2, b3, b4 = b
    return b1 * x * (x + b2) / (x * (x + b3) + b4)


def mgh10(x: Samples, b: Parameters) -> Samples:
    """Resistance of a thermistor, ``b1 exp(b2 / (x + b3))`` (Meyer).

    Example:
        >>> mgh10(jnp.array([1.0]), jnp.array([2.0, 0.0, 1.0])).tolist()
        [2.0]
    """
    b1, b2, b3 = b
    return b1 * jnp.exp(b2 / (x + b3))


def rat42(x: Samples, b: Parameters) -> Samples:
    """Sigmoidal growth, ``b1 / (1 + exp(b2 - b3 x))``.

    Example:
        >>> rat42(jnp.array([2.0]), jnp.array([4.0, 2.0, 1.0])).tolist()
        [2.0]
    """
    b1, b2, b3 = b
    # The logistic function has a derivative where exp overflows; the quotient as printed has inf / inf.
    return b1 * jax.nn.sigmoid(b3 * x - b2)


def rat43(x: Samples, b: Parameters) -> Samples:
    """Sigmoidal growth, ``b1 / (1 + exp(b2 - b3 x))**(1 / b4)``.

    Example:
        >>> bool(jnp.allclose(rat43(jnp.array([2.0]), jnp.array([8.0, 2.0, 1.0, 0.5])), 2.0))
        True
    """
    b1, b2, b3, b4 = b
    # Through log(1 + exp(z)), which neither overflows nor rounds away its tail.
    return b1 * jnp.exp(-jnp.logaddexp(b2 - b3 * x, 0.0) / b4)


_MODELS: Mapping[str, Callable[..., Samples]] = types.MappingProxyType(
    {
        "Misra1a": saturating_exponential,
        "Chwirut2": chwirut,
        "Chwirut1": chwirut,
        "Lanczos3": lanczos,
        "Gauss1": gauss,
        "Gauss2": gauss,
        "DanWood": danwood,
        "Misra1b": misra1b,
        "Kirby2": kirby2,
        "Hahn1": cubic_over_cubic,
        "Nelson": nelson,
        "MGH17": mgh17,
        "Lanczos1": lanczos,
        "Lanczos2": lanczos,
        "Gauss3": gauss,
        "Misra1c": misra1c,
        "Misra1d": misra1d,
        "Roszman1": roszman1,
        "ENSO": enso,
        "MGH09": mgh09,
        "Thurber": cubic_over_cubic,
        "BoxBOD": saturating_exponential,
        "Rat42": rat42,
        "MGH10": mgh10,
        "Eckerle4": eckerle4,
        "Rat43": rat43,
        "Bennett5": bennett5,
    }
)


@overload
def load_nist(name: None = None) -> dict[str, NistDataset]: ...
@overload
def load_nist(name: str) -> NistDataset: ...
def load_nist(name: str | None = None) -> NistDataset | dict[str, NistDataset]:
    """One dataset by its name (in any case), or all 27 in NIST's order of difficulty.

    Args:
        name: such as ``"Misra1a"``; all datasets where it is missing.

    Returns:
        The dataset, or a dictionary of datasets by name.

    Raises:
        ValueError: there is no dataset of that name.

    Example:
        >>> data = load_nist("Misra1a")
        >>> residual = data.y - data.model(data.x, data.certified)
        >>> bool(abs(float(residual @ residual) / data.certified_rss - 1) < 1e-9)
        True
        >>> len(load_nist())
        27
    """
    datasets = _read()
    if name is None:
        return dict(datasets)
    known = {key.lower(): key for key in datasets}
    if name.lower() not in known:
        raise ValueError(f"name = {name!r}; expected one of {', '.join(datasets)}{closest(name, known)}")
    return datasets[known[name.lower()]]


def log_relative_error(estimate: Any, certified: Any) -> Float64[np.ndarray, "..."]:
    """Correct digits of each estimated parameter: NIST's LRE, ``-log10(|estimate - certified| / |certified|)``.

    Where the certified value is zero, the error is taken absolute. The answer lies between 0 (not one digit, or not finite) and 11, the
    number of digits that NIST certifies.

    Args:
        estimate: numbers found, of any shape.
        certified: certified numbers, of the same shape.

    Returns:
        Digits, of the same shape, in float64 on the host.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> log_relative_error([1.001, 2.0, float("nan")], [1.0, 2.0, 3.0]).round(3).tolist()
        [3.0, 11.0, 0.0]

    References:
        B. D. McCullough (1998), Assessing the Reliability of Statistical Software: Part I, The American Statistician 52(4):358-366.
    """
    estimate, certified = np.asarray(estimate, np.float64), np.asarray(certified, np.float64)
    if estimate.shape != certified.shape:
        raise ValueError(f"estimate has shape {estimate.shape} and certified {certified.shape}; expected the same shape")
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        error = np.abs(estimate - certified) / np.where(certified == 0, 1.0, np.abs(certified))
        digits = -np.log10(error)
    return np.asarray(np.where(np.isnan(digits), 0.0, np.clip(digits, 0.0, CERTIFIED_DIGITS)))


@functools.cache
def _read() -> Mapping[str, NistDataset]:
    text = importlib.resources.files("jaxdiff.functions").joinpath("data", "nist_strd.json").read_text(encoding="utf-8")
    records = {record["name"]: record for record in json.loads(text)["datasets"]}
    return types.MappingProxyType({name: _dataset(records[name], model) for name, model in _MODELS.items()})


def _dataset(record: dict[str, Any], model: Callable[..., Samples]) -> NistDataset:
    y = np.asarray(record["y"], np.float64)
    return NistDataset(
        name=record["name"],
        level=record["level"],
        x=_frozen(record["x"]),
        y=_frozen(np.log(y) if record["response"] == "log(y)" else y),
        model=model,
        start1=_frozen(record["start1"]),
        start2=_frozen(record["start2"]),
        certified=_frozen(record["certified"]),
        certified_sd=_frozen(record["certified_sd"]),
        certified_rss=record["certified_rss"],
        dof=record["dof"],
        formula=record["model"],
        model_class=record["model_class"],
        citation=record["reference"],
    )


def _frozen(values: Any) -> Float64[np.ndarray, "..."]:
    """A read-only copy, for the datasets are shared by everyone who loads them."""
    array = np.array(values, np.float64)
    array.flags.writeable = False
    return array
