"""Make jaxdiff/functions/_coefficients.py: the polynomials behind the certified activations and losses.

Each function is interpolated at Chebyshev nodes in 60-digit arithmetic, the interpolant is turned into powers, and its largest relative
error and its conditioning (sum of |terms| over |value|) on the interval are written beside it. Interpolation at Chebyshev nodes is
within a small factor of the minimax polynomial, and needs no exchange algorithm.

Run: ``python benchmarks/fit_coefficients.py > jaxdiff/functions/_coefficients.py`` (about a minute; needs mpmath).
"""

from collections.abc import Callable

import mpmath as mp

mp.mp.dps = 60


def normal_cdf(x: mp.mpf) -> mp.mpf:
    return mp.erfc(-x / mp.sqrt(2)) / 2


def mills_ratio(a: mp.mpf) -> mp.mpf:
    return normal_cdf(-a) / (mp.exp(-a * a / 2) / mp.sqrt(2 * mp.pi))


def interpolate(f: Callable, low: mp.mpf, high: mp.mpf, count: int) -> tuple[list, mp.mpf, mp.mpf]:
    """Power coefficients of the Chebyshev interpolant, its largest relative error, its conditioning."""
    middle, half = (high + low) / 2, (high - low) / 2
    angles = [mp.pi * (2 * k + 1) / (2 * count) for k in range(count)]
    values = [f(middle + half * mp.cos(angle)) for angle in angles]
    series = [2 * sum(v * mp.cos(j * angle) for v, angle in zip(values, angles, strict=True)) / count for j in range(count)]
    series[0] /= 2
    # T_0 = 1, T_1 = s, T_{j+1} = 2 s T_j - T_{j-1} with s = (x - middle) / half, all as powers of x.
    chebyshev = [[mp.mpf(1)], [-middle / half, 1 / half]]
    while len(chebyshev) < count:
        following = [mp.mpf(0)] * (len(chebyshev) + 1)
        for power, c in enumerate(chebyshev[-1]):
            following[power] -= 2 * c * middle / half
            following[power + 1] += 2 * c / half
        for power, c in enumerate(chebyshev[-2]):
            following[power] -= c
        chebyshev.append(following)
    powers = [mp.fsum(series[j] * chebyshev[j][power] for j in range(power, count)) for power in range(count)]
    grid = [low + (high - low) * k / 200 for k in range(201)]
    error = max(abs(mp.polyval(powers[::-1], x) / f(x) - 1) for x in grid)
    conditioning = max(mp.fsum(abs(c * x**p) for p, c in enumerate(powers)) / abs(f(x)) for x in grid)
    return powers, error, conditioning


def limit_at_zero(f: Callable, limit: mp.mpf) -> Callable:
    return lambda x: f(x) if abs(x) > mp.mpf(10) ** -24 else limit


GELU_TANH_A, GELU_TANH_B = 2 * mp.sqrt(2 / mp.pi), 2 * mp.sqrt(2 / mp.pi) * mp.mpf("0.044715")


def gelu_derivative(x: mp.mpf) -> mp.mpf:
    return normal_cdf(x) + x * mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def gelu_tanh_derivative(x: mp.mpf) -> mp.mpf:
    e = mp.exp(-GELU_TANH_A * x - GELU_TANH_B * x**3)
    return (1 + e + e * x * (GELU_TANH_A + 3 * GELU_TANH_B * x**2)) / (1 + e) ** 2


def silu_derivative(x: mp.mpf) -> mp.mpf:
    e = mp.exp(-x)
    return (1 + e + e * x) / (1 + e) ** 2


def mish_derivative(x: mp.mpf) -> mp.mpf:
    e = mp.exp(x)
    return e * (4 * (x + 1) + e * (4 * x + 6) + 4 * e**2 + e**3) / (2 * e + e * e + 2) ** 2


# Name, derivative, a guess of its root -r, the interval of a = -x around r, the centre of the powers (towards the end where the
# polynomial is small, for its conditioning), and the number of coefficients in float32 and in float64.
ROOTS = (
    ("GELU", gelu_derivative, "0.75", ("0.25", "1.75"), "1.25", (12, 21)),
    ("GELU_TANH", gelu_tanh_derivative, "0.75", ("0.25", "1.6"), "1.25", (11, 21)),
    ("SILU", silu_derivative, "1.28", ("0.75", "2"), "1.5", (9, 18)),
    ("MISH", mish_derivative, "1.19", ("0.75", "1.65"), "1.25", (8, 18)),
)


def silu_second(x: mp.mpf) -> mp.mpf:
    e = mp.exp(-x)
    return e / (1 + e) ** 2 * (2 - x * mp.tanh(x / 2))


def gelu_tanh_second(x: mp.mpf) -> mp.mpf:
    z, slope = GELU_TANH_A * x + GELU_TANH_B * x**3, GELU_TANH_A + 3 * GELU_TANH_B * x**2
    e = mp.exp(-z)
    return e / (1 + e) ** 2 * (2 * slope + 6 * GELU_TANH_B * x**2 - x * slope**2 * mp.tanh(z / 2))


def mish_second(x: mp.mpf) -> mp.mpf:
    e = mp.exp(x)
    d = e * e + 2 * e + 2
    return 4 * e * (1 + e) / d**2 * (2 + x * (1 + e / (1 + e) - 4 * e * (1 + e) / d))


# The same of second derivatives; those of silu and gelu_tanh are even, and mish's has another root on the right.
SECOND_ROOTS = (
    ("GELU_TANH_SECOND", gelu_tanh_second, "1.42", ("1", "1.9"), "1.5", (10, 20)),
    ("SILU_SECOND", silu_second, "2.4", ("1.6", "3.4"), "2.75", (11, 23)),
    ("MISH_SECOND_LEFT", mish_second, "2.256", ("1.6", "3"), "2.5", (10, 20)),
    ("MISH_SECOND_RIGHT", lambda x: mish_second(-x), "1.49", ("1.1", "2.4"), "2", (11, 22)),
)


def tail_of_mills(t: mp.mpf) -> mp.mpf:
    a = 4 * (1 + t) / (1 - t)
    return (1 / mills_ratio(a) - a) * (a + 4)


def table(name: str, comment: str, f: Callable, ranges: dict[int, tuple]) -> None:
    print(f"\n# {comment}\n{name}: dict[int, tuple[float, ...]] = {{")
    for bits, (low, high, count) in ranges.items():
        powers, error, conditioning = interpolate(f, mp.mpf(low), mp.mpf(high), count)
        print(f"    # relative error {mp.nstr(error, 2)}, conditioning {mp.nstr(conditioning, 3)}")
        print(f"    {bits}: (")
        for c in powers:
            print(f"        {float(c)!r},")
        print("    ),")
    print("}")


def pair(name: str, comment: str, x: mp.mpf) -> None:
    """A constant as a leading part of eleven bits, exact in products with as many, and the rest."""
    leading = mp.mpf(int(mp.floor(x * 2**10 + mp.mpf(1) / 2))) / 2**10
    print(f"\n# {comment}\n{name}: tuple[float, float] = ({float(leading)!r}, {float(x - leading)!r})")


def root(name: str, comment: str, x: mp.mpf) -> None:
    """A root as the nearest number of each precision and the rest: (a - first) - second is then right to the last bit beside the root."""
    print(f"\n# {comment}\n{name}: dict[int, tuple[float, float]] = {{")
    for bits, digits in ((32, 24), (64, 53)):
        with mp.workprec(digits):
            nearest = +x
        print(f"    {bits}: ({float(nearest)!r}, {float(x - nearest)!r}),")
    print("}")


def around_root(name: str, derivative: Callable, guess: str, span: tuple[str, str], centre: str, counts: tuple[int, int]) -> None:
    """The root of a derivative, and a polynomial for the derivative over the distance to it."""
    (low, high), (few, many) = span, counts
    what = "derivative of " + name.lower()
    if derivative in [row[1] for row in SECOND_ROOTS]:
        what = "second derivative of " + name.lower().partition("_second")[0]
    r = -mp.findroot(derivative, -mp.mpf(guess))
    root(f"{name}_ROOT", f"the {what} is zero at x = -(sum)", r)
    shift = mp.mpf(centre) - r
    quotient = limit_at_zero(lambda d: derivative(-r - d) / -d, mp.diff(derivative, -r))
    interval = mp.mpf(low) - mp.mpf(centre), mp.mpf(high) - mp.mpf(centre)
    table(
        f"{name}_SLOPE",
        f"{what} at x = -a over r - a, for a from {low} to {high}, in a - {centre}, r its root",
        lambda s: quotient(s + shift),
        {32: (*interval, few), 64: (*interval, many)},
    )
    print(f"{name}_SPAN: tuple[float, float, float] = ({float(low)}, {float(high)}, {float(centre)})")


def main() -> None:
    print('"""Polynomial coefficients (lowest power first) and split constants; written by benchmarks/fit_coefficients.py, not by hand."""')
    table(
        "EXPM1",
        "(exp(x) - 1 - x) / x^2 on [-1, 1/2], in x",
        limit_at_zero(lambda x: (mp.expm1(x) - x) / x**2, mp.mpf(1) / 2),
        {32: (-1, 0.5, 8), 64: (-1, 0.5, 14)},
    )
    table(
        "TANH",
        "(tanh(x)/x - 1) / x^2 on [0, 0.55], in x^2",
        limit_at_zero(lambda u: (mp.tanh(mp.sqrt(u)) / mp.sqrt(u) - 1) / u, -mp.mpf(1) / 3),
        {32: (0, "0.3025", 6), 64: (0, "0.3025", 12)},
    )
    table(
        "NORMAL_CENTRE",
        "(Phi(x) - 1/2) / x on [0, 1], in x^2, Phi the standard normal distribution",
        limit_at_zero(lambda u: (normal_cdf(mp.sqrt(u)) - mp.mpf(1) / 2) / mp.sqrt(u), 1 / mp.sqrt(2 * mp.pi)),
        {32: (0, 1, 6), 64: (0, 1, 11)},
    )
    # The Mills ratio R(a) = (1 - Phi(a)) / phi(a) is 1 / (a + w(a)); w is the tail of its continued fraction.
    table(
        "MILLS_TAIL",
        "w(a) (a + 4) for a from 1 to 14 or 40, in t = (a - 4) / (a + 4), with 1 / (a + w(a)) the Mills ratio",
        tail_of_mills,
        {32: (mp.mpf(-3) / 5, mp.mpf(10) / 18, 10), 64: (mp.mpf(-3) / 5, mp.mpf(36) / 44, 23)},
    )
    table(
        "LOG_COSH",
        "log(cosh(x)) / x^2 on [0, 1], in x^2",
        limit_at_zero(lambda u: mp.log(mp.cosh(mp.sqrt(u))) / u, mp.mpf(1) / 2),
        {32: (0, 1, 8), 64: (0, 1, 16)},
    )
    for row in ROOTS:
        around_root(*row)
    for row in SECOND_ROOTS:
        around_root(*row)
    print("\n# 1 / sqrt(2 pi) as the nearest number of each precision, and the logarithm of what that rounding took")
    print("INVERSE_SQRT_2PI: dict[int, tuple[float, float]] = {")
    for bits, digits in ((32, 24), (64, 53)):
        exact = 1 / mp.sqrt(2 * mp.pi)
        with mp.workprec(digits):
            nearest = +exact
        print(f"    {bits}: ({float(nearest)!r}, {float(mp.log(exact / nearest))!r}),")
    print("}")
    pair("GELU_TANH_A", "2 sqrt(2 / pi)", GELU_TANH_A)
    pair("GELU_TANH_B", "2 sqrt(2 / pi) * 0.044715", GELU_TANH_B)
    pair("LOG_2", "log(2)", mp.log(2))


if __name__ == "__main__":
    main()
