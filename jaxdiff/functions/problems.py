"""Standard test problems of unconstrained minimization: f, start, known minimizers, source.

The objectives are plain JAX functions of the dtype of their argument; where the textbook form subtracts nearly equal numbers near the
minimum, an equal form that does not is used, and the comment says so. Starts and minimizers are NumPy arrays: nothing lies on a device.
"""

import dataclasses
import functools
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, Real

from jaxdiff._types import PyTree, Scalar
from jaxdiff._validation import check_count, check_positive, closest

Point: TypeAlias = Float[Array | np.ndarray, "n"]


@dataclasses.dataclass(frozen=True, eq=False)
class StandardProblem:
    """One problem: minimize ``fun(x, *args)`` from ``start``.

    Example:
        >>> problem = get_problem("rosenbrock", 4)
        >>> float(problem.fun(problem.minimizer, *problem.args)) == problem.minimum
        True
    """

    name: str
    fun: Callable[..., Scalar]
    """The objective, ``fun(x, *args)``."""
    start: PyTree
    """Where the source starts, or where we do; `start_source` says which. A float64 array ``[n]``, or a pytree of such."""
    minimizers: tuple[np.ndarray, ...]
    """All global minimizers, each ``[n]`` in float64; empty where none is written down."""
    minimum: float | None
    """The smallest value of f."""
    formula: str
    source: str
    start_source: str
    notes: str = ""
    domain: tuple[float, float] | None = None
    """Box, the same in every variable, in which global methods are usually tried."""
    load: Callable[[], tuple[Any, ...]] = tuple
    """Makes `args`."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Further arguments of `fun`: plain numbers, or data of integer dtype that any precision holds exactly.

        Raises:
            ImportError: the data come with an optional dependency that is not installed.
        """
        return self.load()

    @property
    def minimizer(self) -> np.ndarray | None:
        """The first of `minimizers`, where there is one."""
        return self.minimizers[0] if self.minimizers else None


def rosenbrock(x: Point) -> Scalar:
    """Curved valley, ``sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2``.

    Example:
        >>> round(float(rosenbrock(jnp.array([-1.2, 1.0]))), 12)
        24.2
    """
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def himmelblau(x: Point) -> Scalar:
    """Four equal minima, ``(x_1^2 + x_2 - 11)^2 + (x_1 + x_2^2 - 7)^2``.

    Example:
        >>> float(himmelblau(jnp.array([3.0, 2.0])))
        0.0
    """
    x = jnp.asarray(x)
    return (x[0] ** 2 + x[1] - 11) ** 2 + (x[0] + x[1] ** 2 - 7) ** 2


def beale(x: Point) -> Scalar:
    """Flat valley with sharp corners, ``sum_i (y_i - x_1 (1 - x_2^i))^2``, i = 1, 2, 3, y = (1.5, 2.25, 2.625).

    Example:
        >>> float(beale(jnp.array([3.0, 0.5])))
        0.0
    """
    x = jnp.asarray(x)
    return (1.5 - x[0] * (1 - x[1])) ** 2 + (2.25 - x[0] * (1 - x[1] ** 2)) ** 2 + (2.625 - x[0] * (1 - x[1] ** 3)) ** 2


def booth(x: Point) -> Scalar:
    """Convex quadratic of condition 9, ``(x_1 + 2 x_2 - 7)^2 + (2 x_1 + x_2 - 5)^2``.

    Example:
        >>> float(booth(jnp.array([1.0, 3.0])))
        0.0
    """
    x = jnp.asarray(x)
    return (x[0] + 2 * x[1] - 7) ** 2 + (2 * x[0] + x[1] - 5) ** 2


def rastrigin(x: Point) -> Scalar:
    """Egg box on a bowl, ``sum_i x_i^2 + 10 (1 - cos(2 pi x_i))``: a local minimum near every integer point.

    Example:
        >>> float(rastrigin(jnp.zeros(2)))
        0.0
    """
    # 1 - cos(2 t) = 2 sin(t)^2 keeps its digits near the minimum.
    return jnp.sum(x**2 + 20 * jnp.sin(np.pi * x) ** 2)


def ackley(x: Point) -> Scalar:
    """A funnel with ripples, ``-20 exp(-0.2 sqrt(mean x_i^2)) - exp(mean cos(2 pi x_i)) + 20 + e``.

    At its minimum f has the tip of a cone; the derivative given there is zero, one of its subgradients.

    Example:
        >>> float(ackley(jnp.zeros(2)))
        0.0
    """
    square = jnp.mean(x**2)
    # The guard keeps sqrt's infinite slope at zero away from the zero that it would be multiplied by.
    radius = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    # Both differences through expm1, so that f has its digits near zero: 20 (1 - exp(-r / 5)) + e (1 - exp(-2 mean sin^2)).
    return -20 * jnp.expm1(-0.2 * radius) - np.e * jnp.expm1(-2 * jnp.mean(jnp.sin(np.pi * x) ** 2))


def styblinski_tang(x: Point) -> Scalar:
    """Separable quartic with two minima per variable, ``sum_i (x_i^4 - 16 x_i^2 + 5 x_i) / 2``.

    Example:
        >>> float(styblinski_tang(jnp.array([1.0, 1.0])))
        -10.0
    """
    return jnp.sum(x * (x * (x**2 - 16) + 5)) / 2


def powell_singular(x: Point) -> Scalar:
    """``sum (a + 10 b)^2 + 5 (c - d)^2 + (b - 2 c)^4 + 10 (a - d)^4`` over blocks (a, b, c, d); the Hessian at the minimum is singular.

    Example:
        >>> float(powell_singular(jnp.array([3.0, -1.0, 0.0, 1.0])))
        215.0
    """
    a, b, c, d = x.reshape(-1, 4).T
    return jnp.sum((a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4)


def wood(x: Point) -> Scalar:
    """Two coupled valleys, with a saddle that traps descent.

    ``100 (b - a^2)^2 + (1 - a)^2 + 90 (d - c^2)^2 + (1 - c)^2 + 10 (b + d - 2)^2 + 0.1 (b - d)^2``

    Example:
        >>> float(wood(jnp.array([-3.0, -1.0, -3.0, -1.0])))
        19192.0
    """
    a, b, c, d = jnp.asarray(x)
    valleys = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
    return valleys + 10 * (b + d - 2) ** 2 + 0.1 * (b - d) ** 2


def dixon_price(x: Point) -> Scalar:
    """``(x_1 - 1)^2 + sum_{i=2}^n i (2 x_i^2 - x_{i-1})^2``.

    Example:
        >>> float(dixon_price(jnp.array([1.0, 1.0])))
        2.0
    """
    x = jnp.asarray(x)
    weights = jnp.asarray(np.arange(2.0, x.shape[0] + 1), x.dtype)
    return (x[0] - 1) ** 2 + jnp.sum(weights * (2 * x[1:] ** 2 - x[:-1]) ** 2)


def quadratic_form(x: Point, condition: Real[Array | np.ndarray, ""] | float = 100.0) -> Scalar:
    """``sum_i lambda_i (H (x - 1))_i^2 / 2`` with ``lambda_i = condition^((i-1)/(n-1))``: a convex quadratic, rotated off the axes.

    H is the Householder reflection along (1, 2, ..., n), so that the Hessian ``H diag(lambda) H`` is dense, has exactly these eigenvalues,
    and costs n operations.

    Example:
        >>> float(quadratic_form(jnp.ones(3), 1e6))
        0.0
    """
    x = jnp.asarray(x)
    n = x.shape[0]
    normal = jnp.asarray(np.arange(1.0, n + 1) / np.linalg.norm(np.arange(1.0, n + 1)), x.dtype)
    eigenvalues = jnp.asarray(condition, x.dtype) ** jnp.asarray(np.linspace(0.0, 1.0, n), x.dtype)
    z = x - 1
    return jnp.sum(eigenvalues * (z - 2 * normal * jnp.sum(normal * z)) ** 2) / 2


def logistic_regression(
    x: Point, predictor: Real[Array | np.ndarray, "m"], outcome: Integer[Array | np.ndarray, "m"] | Float[Array | np.ndarray, "m"]
) -> Scalar:
    """Negative log-likelihood of ``P(outcome = 1) = 1 / (1 + exp(-(x_1 + x_2 predictor)))``, summed over the observations.

    Args:
        x: intercept and slope.
        predictor: any real numbers.
        outcome: 0 or 1.

    Returns:
        ``sum log(1 + exp(-s (x_1 + x_2 predictor)))``, s = 1 where the outcome is 1 and -1 where it is 0.

    Example:
        >>> round(float(logistic_regression(jnp.zeros(2), jnp.array([1.0, 2.0]), jnp.array([0, 1]))), 6)  # 2 log 2
        1.386294
    """
    x = jnp.asarray(x)
    logit = x[0] + x[1] * jnp.asarray(predictor, x.dtype)
    sign = 2 * jnp.asarray(outcome, x.dtype) - 1
    # log(1 + exp(-s z)) in one piece: neither exp overflows, nor does log(1 + tiny) round to zero.
    return jnp.sum(jnp.logaddexp(0.0, -sign * logit))


def softmax_regression(
    x: dict[str, Float[Array | np.ndarray, "..."]],
    features: Real[Array | np.ndarray, "m k"],
    labels: Integer[Array | np.ndarray, "m"],
    l2: Real[Array | np.ndarray, ""] | float = 1e-3,
) -> Scalar:
    """Mean cross-entropy of ``features @ weights + bias`` against the labels, plus ``l2 / 2`` times the squared weights.

    Args:
        x: ``weights``, ``[k, c]``, and ``bias``, ``[c]``.
        features: grey values 0 to 16; they are divided by 16.
        labels: classes, 0 to c - 1.
        l2: weight of the penalty. Without one, separable classes have no minimizer.

    Returns:
        The penalized loss, in the dtype of the weights.

    Example:
        >>> x = {"weights": jnp.zeros((2, 4)), "bias": jnp.zeros(4)}
        >>> round(float(softmax_regression(x, jnp.ones((3, 2)), jnp.array([0, 1, 3]))), 6)  # log 4
        1.386294
    """
    weights, bias = jnp.asarray(x["weights"]), jnp.asarray(x["bias"])
    logits = (jnp.asarray(features, weights.dtype) / 16) @ weights + bias
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=-1), jnp.asarray(labels)[:, None], axis=-1)
    return -jnp.mean(chosen) + jnp.asarray(l2, weights.dtype) / 2 * jnp.sum(weights**2)


# Temperature in degrees Fahrenheit and whether any O-ring was damaged, of the 23 shuttle flights before Challenger's last.
_TEMPERATURE = (66, 70, 69, 68, 67, 72, 73, 70, 57, 63, 70, 78, 67, 53, 67, 75, 70, 81, 76, 79, 75, 76, 58)
_DAMAGED = (0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1)


def _shuttle_flights() -> tuple[Any, ...]:
    return np.array(_TEMPERATURE, np.int32), np.array(_DAMAGED, np.int32)


@functools.cache
def _digits() -> tuple[Any, ...]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError("the handwritten digits come with scikit-learn: install jaxdiff[data]") from None
    digits: Any = load_digits()
    # Grey values are whole numbers from 0 to 16: integers hold them in any precision.
    return digits.data.astype(np.uint8), digits.target.astype(np.int32), 1e-3


_OURS = "our choice"
_MGH = "J. J. Moré, B. S. Garbow, K. E. Hillstrom (1981), Testing Unconstrained Optimization Software, ACM TOMS 7(1):17-41"
_SURVEY = "M. Jamil, X.-S. Yang (2013), A literature survey of benchmark functions for global optimisation problems, IJMMNO 4(2):150-194"


def _repeat(values: tuple[float, ...], n: int) -> np.ndarray:
    """The values over and over, ``[n]``."""
    return np.resize(np.array(values, np.float64), n)


def _rosenbrock(n: int) -> StandardProblem:
    return StandardProblem(
        name="rosenbrock",
        fun=rosenbrock,
        start=_repeat((-1.2, 1.0), n),
        minimizers=(np.ones(n),),
        minimum=0.0,
        formula="sum_i 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2",
        source="H. H. Rosenbrock (1960), An automatic method for finding the greatest or least value of a function, Computer J. 3:175-184",
        start_source=f"Rosenbrock's for two variables, repeated: {_MGH}",
        notes="From four variables on there is a local minimum near (-1, 1, ..., 1).",
        domain=(-2.048, 2.048),
    )


def _himmelblau(n: int) -> StandardProblem:
    minimizers = (
        (3.0, 2.0),
        (-2.8051180869527448531, 3.1313125182505729658),
        (-3.7793102533777468919, -3.2831859912861694123),
        (3.5844283403304917449, -1.8481265269644035535),
    )
    return StandardProblem(
        name="himmelblau",
        fun=himmelblau,
        start=np.zeros(n),
        minimizers=tuple(np.array(minimizer) for minimizer in minimizers),
        minimum=0.0,
        formula="(x_1^2 + x_2 - 11)^2 + (x_1 + x_2^2 - 7)^2",
        source="D. M. Himmelblau (1972), Applied Nonlinear Programming, McGraw-Hill",
        start_source=f"{_OURS}: near the local maximum, where the Hessian is negative definite",
        domain=(-5.0, 5.0),
    )


def _beale(n: int) -> StandardProblem:
    return StandardProblem(
        name="beale",
        fun=beale,
        start=np.ones(n),
        minimizers=(np.array([3.0, 0.5]),),
        minimum=0.0,
        formula="(1.5 - x_1 (1 - x_2))^2 + (2.25 - x_1 (1 - x_2^2))^2 + (2.625 - x_1 (1 - x_2^3))^2",
        source=f"E. M. L. Beale (1958), On an iterative method for finding a local minimum, Princeton; number 5 of {_MGH}",
        start_source=_MGH,
        notes="f falls towards 0.452 along a valley to infinity (x_1 to -inf, x_2 to 1), where poor starts end.",
        domain=(-4.5, 4.5),
    )


def _booth(n: int) -> StandardProblem:
    return StandardProblem(
        name="booth",
        fun=booth,
        start=np.zeros(n),
        minimizers=(np.array([1.0, 3.0]),),
        minimum=0.0,
        formula="(x_1 + 2 x_2 - 7)^2 + (2 x_1 + x_2 - 5)^2",
        source=_SURVEY,
        start_source=_OURS,
        domain=(-10.0, 10.0),
    )


def _rastrigin(n: int) -> StandardProblem:
    return StandardProblem(
        name="rastrigin",
        fun=rastrigin,
        start=_repeat((0.4, -0.3), n),
        minimizers=(np.zeros(n),),
        minimum=0.0,
        formula="sum_i x_i^2 + 10 (1 - cos(2 pi x_i))",
        source="L. A. Rastrigin (1974), Systems of Extremal Control, Nauka; for n variables H. Mühlenbein, M. Schomisch, J. Born (1991), "
        "The parallel genetic algorithm as function optimizer, Parallel Computing 17:619-632",
        start_source=f"{_OURS}: in the basin of the global minimum, where the Hessian is negative definite",
        notes="A local minimum near every integer point.",
        domain=(-5.12, 5.12),
    )


def _ackley(n: int) -> StandardProblem:
    return StandardProblem(
        name="ackley",
        fun=ackley,
        start=_repeat((0.4, -0.3), n),
        minimizers=(np.zeros(n),),
        minimum=0.0,
        formula="-20 exp(-0.2 sqrt(mean x_i^2)) - exp(mean cos(2 pi x_i)) + 20 + e",
        source="D. H. Ackley (1987), A Connectionist Machine for Genetic Hillclimbing, Kluwer",
        start_source=f"{_OURS}: in the basin of the global minimum",
        notes="Not differentiable at the minimizer, the tip of a cone: gradients near it do not become small.",
        domain=(-32.768, 32.768),
    )


def _styblinski_tang(n: int) -> StandardProblem:
    return StandardProblem(
        name="styblinski_tang",
        fun=styblinski_tang,
        start=np.zeros(n),
        minimizers=(np.full(n, -2.9035340277711770951),),
        minimum=-39.166165703771415464 * n,
        formula="sum_i (x_i^4 - 16 x_i^2 + 5 x_i) / 2",
        source="M. A. Styblinski, T.-S. Tang (1990), Experiments in nonconvex optimization: stochastic approximation with function "
        "smoothing and simulated annealing, Neural Networks 3(4):467-483",
        start_source=f"{_OURS}: where the Hessian is negative definite",
        notes="2^n minima: each variable has one near -2.90 and a worse one near 2.75.",
        domain=(-5.0, 5.0),
    )


def _powell_singular(n: int) -> StandardProblem:
    return StandardProblem(
        name="powell_singular",
        fun=powell_singular,
        start=_repeat((3.0, -1.0, 0.0, 1.0), n),
        minimizers=(np.zeros(n),),
        minimum=0.0,
        formula="sum (a + 10 b)^2 + 5 (c - d)^2 + (b - 2 c)^4 + 10 (a - d)^4 over blocks (a, b, c, d) of x",
        source="M. J. D. Powell (1962), An iterative method for finding stationary values of a function of several variables, "
        f"Computer J. 5:147-151; numbers 13 and 22 of {_MGH}",
        start_source=_MGH,
        notes="The Hessian at the minimizer has rank n / 2: Newton's method converges linearly, and x is known far worse than f.",
    )


def _wood(n: int) -> StandardProblem:
    return StandardProblem(
        name="wood",
        fun=wood,
        start=_repeat((-3.0, -1.0), n),
        minimizers=(np.ones(n),),
        minimum=0.0,
        formula="100 (b - a^2)^2 + (1 - a)^2 + 90 (d - c^2)^2 + (1 - c)^2 + 10 (b + d - 2)^2 + 0.1 (b - d)^2, (a, b, c, d) = x",
        source="A. R. Colville (1968), A comparative study of nonlinear programming codes, IBM New York Scientific Center, report "
        f"320-2949; number 14 of {_MGH}",
        start_source=_MGH,
        notes="The path from the start passes a saddle near (-0.97, 0.95, -0.97, 0.95), f = 7.877.",
    )


def _dixon_price(n: int) -> StandardProblem:
    # x_i = 2^-(1 - 2^(1-i)); the last variable enters by its square alone.
    minimizer = 2.0 ** (2.0 ** -np.arange(n) - 1)
    mirrored = minimizer.copy()
    mirrored[-1] *= -1
    return StandardProblem(
        name="dixon_price",
        fun=dixon_price,
        start=np.ones(n),
        minimizers=(minimizer, mirrored),
        minimum=0.0,
        formula="(x_1 - 1)^2 + sum_{i=2}^n i (2 x_i^2 - x_{i-1})^2",
        source="L. C. W. Dixon, R. C. Price (1989), Truncated Newton method for sparse unconstrained optimization using automatic "
        "differentiation, J. Optimization Theory and Applications 60:261-275",
        start_source=_OURS,
        domain=(-10.0, 10.0),
    )


def quadratic(n: int = 2, condition: float = 100.0) -> StandardProblem:
    """A convex quadratic of a chosen condition number, minimal at (1, ..., 1); see `quadratic_form`.

    Args:
        n: number of variables, at least 2.
        condition: ratio of the largest to the smallest eigenvalue of the Hessian; the eigenvalues go from 1 to it in geometric steps.

    Returns:
        The problem, with ``args = (condition,)``: another condition compiles nothing anew.

    Raises:
        ValueError: n is not an integer of at least 2, or the condition is below 1 or not finite.

    Example:
        >>> problem = quadratic(3, condition=1e4)
        >>> hessian = jax.jit(jax.hessian(problem.fun))(problem.start, *problem.args)
        >>> np.linalg.eigvalsh(hessian).round(6).tolist()
        [1.0, 100.0, 10000.0]
    """
    n = check_count(n, "n", minimum=2)
    check_positive(condition, "condition")
    if condition < 1:
        raise ValueError(f"condition = {condition!r}; expected a finite number >= 1")
    value = float(condition)
    return StandardProblem(
        name="quadratic",
        fun=quadratic_form,
        start=_repeat((-1.0, 2.0), n),
        minimizers=(np.ones(n),),
        minimum=0.0,
        formula=f"sum_i lambda_i (H (x - 1))_i^2 / 2, lambda from 1 to {value:g} in geometric steps, H a Householder reflection",
        source="textbook; see for example J. Nocedal, S. J. Wright (2006), Numerical Optimization, 2nd edition, Springer, section 3.3",
        start_source=_OURS,
        load=lambda: (value,),
    )


def _logistic_regression(n: int) -> StandardProblem:
    return StandardProblem(
        name="logistic_regression",
        fun=logistic_regression,
        start=np.zeros(n),
        # Computed with 40 digits; R prints 15.0429 and -0.2322, residual deviance 20.315, which is twice the minimum.
        minimizers=(np.array([15.042901647702440711, -0.23216274421859647146]),),
        minimum=10.157596343933414245,
        formula="sum_i log(1 + exp(-s_i (x_1 + x_2 t_i))), t temperature, s = 1 where an O-ring was damaged, else -1",
        source="S. R. Dalal, E. B. Fowlkes, B. Hoadley (1989), Risk analysis of the space shuttle: pre-Challenger prediction of failure, "
        "J. American Statistical Association 84:945-957 (23 flights)",
        start_source=_OURS,
        notes="Temperatures near 70 are not centred: the Hessian's condition number at the minimizer is 8e5.",
        load=_shuttle_flights,
    )


def _softmax_regression(n: int) -> StandardProblem:
    return StandardProblem(
        name="softmax_regression",
        fun=softmax_regression,
        start={"weights": np.zeros((64, 10)), "bias": np.zeros(10)},
        minimizers=(),
        # By SciPy's L-BFGS-B on NumPy's formulas, to a largest gradient entry of 9e-10: strong convexity leaves an error below 1e-12.
        minimum=0.261864547217,
        formula="mean_i -log softmax(W' u_i / 16 + b)_{c_i} + l2 / 2 |W|^2, l2 = 1e-3",
        source="E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (test set, 1,797 "
        "images of 8 x 8 pixels), as scikit-learn ships it",
        start_source=_OURS,
        notes=f"{n} variables in two leaves. Convex; b is determined up to a constant. Needs the extra `data`.",
        load=_digits,
    )


@dataclasses.dataclass(frozen=True)
class _Entry:
    """How a problem is built, its usual number of variables, and which others it may have (multiples of a block; none)."""

    build: Callable[[int], StandardProblem]
    n: int
    block: int | None = None


_ENTRIES: Mapping[str, _Entry] = types.MappingProxyType(
    {
        "rosenbrock": _Entry(_rosenbrock, 2, block=1),
        "himmelblau": _Entry(_himmelblau, 2),
        "beale": _Entry(_beale, 2),
        "booth": _Entry(_booth, 2),
        "rastrigin": _Entry(_rastrigin, 2, block=1),
        "ackley": _Entry(_ackley, 2, block=1),
        "quadratic": _Entry(quadratic, 2, block=1),
        "styblinski_tang": _Entry(_styblinski_tang, 2, block=1),
        "powell_singular": _Entry(_powell_singular, 4, block=4),
        "wood": _Entry(_wood, 4),
        "dixon_price": _Entry(_dixon_price, 2, block=1),
        "logistic_regression": _Entry(_logistic_regression, 2),
        "softmax_regression": _Entry(_softmax_regression, 650),
    }
)

PROBLEMS: Mapping[str, StandardProblem] = types.MappingProxyType({name: entry.build(entry.n) for name, entry in _ENTRIES.items()})


def get_problem(name: str, n: int | None = None) -> StandardProblem:
    """A problem by its name, with a chosen number of variables where its definition allows one.

    Args:
        name: a key of `PROBLEMS`.
        n: number of variables, at least 2; the usual one where missing. `quadratic` also takes a condition number.

    Returns:
        The problem.

    Raises:
        ValueError: no problem has that name, or not that number of variables.

    Example:
        >>> get_problem("rosenbrock", 10).start.shape
        (10,)
    """
    if name not in _ENTRIES:
        raise ValueError(f"name = {name!r}; expected one of {', '.join(_ENTRIES)}{closest(name, _ENTRIES)}")
    entry = _ENTRIES[name]
    if n is None or (entry.block is None and n == entry.n):
        return PROBLEMS[name]
    if entry.block is None:
        raise ValueError(f"n = {n!r}; {name!r} has {entry.n} variables")
    n = check_count(n, "n", minimum=2)
    if n % entry.block:
        raise ValueError(f"n = {n!r}; {name!r} has a multiple of {entry.block} variables")
    return entry.build(n)
