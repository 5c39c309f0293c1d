"""Published least-squares problems that are neither NIST's nor Moré, Garbow and Hillstrom's, and that no default was chosen by.

Each is residuals in jax.numpy, a start, perhaps bounds, and a source. Starts are the published ones where there are any. S-numbers are
those of Schittkowski, More Test Examples for Nonlinear Programming Codes (1987), HS-numbers those of Hock and Schittkowski (1981).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """One problem; ``residual(x)`` is a function of a vector."""

    name: str
    source: str
    residual: Callable[[jax.Array], jax.Array]
    start: tuple[float, ...]
    lower: Any = None
    upper: Any = None


def fit(model: Callable[..., Any], t: Any, y: Any) -> Callable[[jax.Array], jax.Array]:
    t, y = np.asarray(t, float), np.asarray(y, float)
    return lambda b: model(t, *b) - y


def biexponential(t: Any, a: Any, k: Any, b: Any, m: Any) -> Any:
    return a * jnp.exp(-k * t) + b * jnp.exp(-m * t)


def logistic(t: Any, top: Any, middle: Any, scale: Any) -> Any:
    return top / (1 + jnp.exp((middle - t) / scale))


def integrated(slope: Callable[..., Any], y: jax.Array, times: Any, num_steps: int) -> jax.Array:
    """Classical Runge-Kutta with the same number of steps between any two of ``times``; rows are times, the first not included."""
    times = np.asarray(times, float)

    def leap(y: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(y: jax.Array, _: None) -> tuple[jax.Array, None]:
            k1 = slope(y)
            k2 = slope(y + h / 2 * k1)
            k3 = slope(y + h / 2 * k2)
            return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(y + h * k3)), None

        y = jax.lax.scan(step, y, None, length=num_steps)[0]
        return y, y

    return jax.lax.scan(leap, y, jnp.asarray(np.diff(times) / num_steps, y.dtype))[1]


CONCENTRATION = np.repeat([0.02, 0.06, 0.11, 0.22, 0.56, 1.10], 2)
VELOCITY = [76, 47, 97, 107, 123, 139, 159, 152, 191, 201, 207, 200]
michaelis = fit(lambda s, v, k: v * s / (k + s), CONCENTRATION, VELOCITY)
oxygen = fit(lambda t, a, k: a * (1 - jnp.exp(-k * t)), [1, 2, 3, 4, 5, 7], [8.3, 10.3, 19.0, 16.0, 15.6, 19.8])

ASSAY = np.repeat([0.04882812, 0.1953125, 0.390625, 0.78125, 1.5625, 3.125, 6.25, 12.5], 2)
DENSITY = [0.017, 0.018, 0.121, 0.124, 0.206, 0.215, 0.377, 0.374, 0.614, 0.609, 1.019, 1.001, 1.334, 1.364, 1.710, 1.710]
assay = fit(logistic, np.log(ASSAY), DENSITY)

# Draper and Smith (1981), table 10.1: fraction of available chlorine by weeks.
CHLORINE = {
    8: [0.49, 0.49], 10: [0.48, 0.47, 0.48, 0.47], 12: [0.46, 0.46, 0.45, 0.43], 14: [0.45, 0.43, 0.43], 16: [0.44, 0.43, 0.43],
    18: [0.46, 0.45], 20: [0.42, 0.42, 0.43], 22: [0.41, 0.41, 0.40], 24: [0.42, 0.40, 0.40], 26: [0.41, 0.40, 0.41], 28: [0.41, 0.40],
    30: [0.40, 0.40, 0.38], 32: [0.41, 0.40], 34: [0.40], 36: [0.41, 0.38], 38: [0.40, 0.40], 40: [0.39], 42: [0.39],
}  # fmt: skip
chlorine = fit(
    lambda t, a, b: a + (0.49 - a) * jnp.exp(-b * (t - 8)),
    np.repeat(list(CHLORINE), [len(v) for v in CHLORINE.values()]),
    [value for week in CHLORINE.values() for value in week],
)

REACTANTS = np.array([
    [470, 300, 10], [285, 80, 10], [470, 300, 120], [470, 80, 120], [470, 80, 10], [100, 190, 10], [100, 80, 65], [470, 190, 65],
    [100, 300, 54], [100, 300, 120], [100, 80, 120], [285, 300, 10], [285, 190, 120],
], float)  # fmt: skip
RATE = [8.55, 3.79, 4.82, 0.02, 2.75, 14.39, 2.54, 4.35, 13.00, 8.50, 0.05, 11.32, 3.13]


def hougen(b: jax.Array) -> jax.Array:
    x1, x2, x3 = REACTANTS.T
    return (b[0] * x2 - x3 / b[4]) / (1 + b[1] * x1 + b[2] * x2 + b[3] * x3) - np.array(RATE)


def circle(x: jax.Array) -> jax.Array:
    points = np.array([[1, 7], [2, 6], [5, 8], [7, 7], [9, 5], [3, 7]], float)
    return jnp.hypot(points[:, 0] - x[0], points[:, 1] - x[1]) - x[2]


ELLIPSE_POINTS = np.array([[1, 7], [2, 6], [5, 8], [7, 7], [9, 5], [6, 7], [3, 2], [8, 4]], float)


def ellipse(x: jax.Array) -> jax.Array:
    """Center, half axes, tilt, and an angle for each of the eight points."""
    a, b, tilt, angles = x[2], x[3], x[4], x[5:]
    u, v = a * jnp.cos(angles), b * jnp.sin(angles)
    across = x[0] + u * jnp.cos(tilt) - v * jnp.sin(tilt) - ELLIPSE_POINTS[:, 0]
    return jnp.concatenate([across, x[1] + u * jnp.sin(tilt) + v * jnp.cos(tilt) - ELLIPSE_POINTS[:, 1]])


ELLIPSE_START = (*ELLIPSE_POINTS.mean(axis=0), 5.0, 3.0, 0.0, *np.arctan2(*(ELLIPSE_POINTS - ELLIPSE_POINTS.mean(axis=0)).T[::-1]))

PINENE_TIMES = [0, 1230, 3060, 4920, 7800, 10680, 15030, 22620, 36420]
PINENE = np.array([
    [88.35, 76.4, 65.1, 50.4, 37.5, 25.9, 14.0, 4.5], [7.3, 15.6, 23.1, 32.9, 42.7, 49.1, 57.4, 63.1],
    [2.3, 4.5, 5.3, 6.0, 6.0, 5.9, 5.1, 3.8], [0.4, 0.7, 1.1, 1.5, 1.9, 2.2, 2.6, 2.9], [1.75, 2.8, 5.8, 9.3, 12.0, 17.0, 21.0, 25.7],
]).T  # fmt: skip


def pinene(k: jax.Array) -> jax.Array:
    def slope(y: jax.Array) -> jax.Array:
        return jnp.stack([
            -(k[0] + k[1]) * y[0], k[0] * y[0], k[1] * y[0] - (k[2] + k[3]) * y[2] + k[4] * y[4], k[2] * y[2], k[3] * y[2] - k[4] * y[4]
        ])  # fmt: skip

    return jnp.ravel(integrated(slope, jnp.array([100.0, 0, 0, 0, 0]), PINENE_TIMES, 20) - PINENE)


HARES = [30, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22, 25.4, 27.1, 40.3, 57, 76.6, 52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7]
LYNXES = [4, 6.1, 9.8, 35.2, 59.4, 41.7, 19, 13, 8.3, 9.1, 7.4, 8, 12.3, 19.5, 45.7, 51.1, 29.7, 15.8, 9.7, 10.1, 8.6]


def lotka_volterra(x: jax.Array) -> jax.Array:
    """Populations in logarithms; rates and the first populations are unknown."""

    def slope(z: jax.Array) -> jax.Array:
        return jnp.stack([x[0] - x[1] * jnp.exp(z[1]), -x[2] + x[3] * jnp.exp(z[0])])

    first = x[4:6]
    rest = integrated(slope, first, np.arange(21.0), 10)
    return jnp.ravel(jnp.concatenate([first[None], rest]) - np.log(np.stack([HARES, LYNXES], axis=1)))


def dipole(sums: list[float]) -> Callable[[jax.Array], jax.Array]:
    def residual(x: jax.Array) -> jax.Array:
        a, b, c, d, t, u, v, w = x
        return jnp.stack([
            a + b, c + d, t * a + u * b - v * c - w * d, v * a + w * b + t * c + u * d,
            a * (t**2 - v**2) - 2 * c * t * v + b * (u**2 - w**2) - 2 * d * u * w,
            c * (t**2 - v**2) + 2 * a * t * v + d * (u**2 - w**2) + 2 * b * u * w,
            a * t * (t**2 - 3 * v**2) + c * v * (v**2 - 3 * t**2) + b * u * (u**2 - 3 * w**2) + d * w * (w**2 - 3 * u**2),
            c * t * (t**2 - 3 * v**2) - a * v * (v**2 - 3 * t**2) + d * u * (u**2 - 3 * w**2) - b * w * (w**2 - 3 * u**2),
        ]) - np.array(sums)  # fmt: skip

    return residual


def combustion(x: jax.Array) -> jax.Array:
    r, r5, r6, r7, r8, r9, r10 = 10.0, 0.193, 4.10622e-4, 5.45177e-4, 4.4975e-7, 3.40735e-5, 9.615e-7
    a, b, c, d, e = x
    return jnp.stack([
        a * b + a - 3 * e,
        2 * a * b + a + 2 * r10 * b**2 + b * c**2 + r7 * b * c + r9 * b * d + r8 * b - r * e,
        2 * b * c**2 + r7 * b * c + 2 * r5 * c**2 + r6 * c - 8 * e,
        r9 * b * d + 2 * d**2 - 4 * r * e,
        a * b + a + r10 * b**2 + b * c**2 + r7 * b * c + r9 * b * d + r8 * b + r5 * c**2 + r6 * c + d**2 - 1,
    ])  # fmt: skip


def hs25(x: jax.Array) -> jax.Array:
    i = np.arange(1, 100)
    u = 25 + (-50 * np.log(0.01 * i)) ** (2 / 3)
    return -0.01 * i + jnp.exp(-((u - x[1]) ** x[2]) / x[0])


def s244(x: jax.Array) -> jax.Array:
    z = 0.1 * np.arange(1, 9)
    return jnp.exp(-x[0] * z) - x[2] * jnp.exp(-x[1] * z) - (np.exp(-z) - 5 * np.exp(-10 * z))


def engvall(x: jax.Array) -> jax.Array:
    a, b, c = x
    return jnp.stack([
        a**2 + b**2 + c**2 - 1, a**2 + b**2 + (c - 2) ** 2 - 1, a + b + c - 1, a + b - c + 1, a**3 + 3 * b**2 + (5 * c - a + 1) ** 2 - 36
    ])  # fmt: skip


def cragg_levy(x: jax.Array) -> jax.Array:
    a, b, c, d = x
    return jnp.stack([(jnp.exp(a) - b) ** 2, 10 * (b - c) ** 3, jnp.tan(c - d) ** 2, a**4, d - 1])


def rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def branin(x: jax.Array) -> jax.Array:
    a, b = x
    return jnp.stack([4 * (a + b), 4 * (a + b) + (a - b) * ((a - 2) ** 2 + b**2 - 1)])


def himmelblau(x: jax.Array) -> jax.Array:
    return jnp.stack([x[0] ** 2 + x[1] - 11, x[0] + x[1] ** 2 - 7])


def madsen(x: jax.Array) -> jax.Array:
    return jnp.stack([x[0] ** 2 + x[0] * x[1] + x[1] ** 2, jnp.sin(x[0]), jnp.cos(x[1])])


def s312(x: jax.Array) -> jax.Array:
    a, b = x
    return jnp.stack([a**2 + 12 * b - 1, 49 * a**2 + 49 * b**2 + 84 * a + 2324 * b - 681])


DECADES = [
    3.93, 5.31, 7.24, 9.64, 12.90, 17.10, 23.20, 31.40, 39.80, 50.20, 62.90, 76.00, 92.00, 105.70, 122.80, 131.70, 151.30, 179.30, 203.20
]  # fmt: skip
SULFA_TIMES = [0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 12, 24, 48]
SULFA = [215.6, 189.2, 176.0, 162.8, 138.6, 121.0, 101.2, 88.0, 61.6, 22.0, 4.4, 0.1]
INDO_TIMES = [0.25, 0.5, 0.75, 1, 1.25, 2, 3, 4, 5, 6, 8]
INDO = [1.5, 0.94, 0.78, 0.48, 0.37, 0.19, 0.12, 0.11, 0.08, 0.07, 0.05]
RUMFORD_TIMES = [4, 5, 7, 12, 14, 16, 20, 24, 28, 31, 34, 37.5, 41]
RUMFORD = [126, 125, 123, 120, 119, 118, 116, 115, 114, 113, 112, 111, 110]
CHICK = [42, 51, 59, 64, 76, 93, 106, 125, 149, 171, 199, 205]

BATES_WATTS = "Bates and Watts, Nonlinear Regression Analysis (1988)"
PINHEIRO = "Pinheiro and Bates, Mixed-Effects Models in S and S-PLUS (2000)"
MINPACK2 = "Averick et al., The MINPACK-2 test problem collection (1992)"
DIPOLE_1 = [0.485, -0.0019, -0.0581, 0.015, 0.105, 0.0406, 0.167, -0.399]
DIPOLE_START_1 = (0.299, 0.186, -0.0273, 0.0254, -0.474, 0.474, -0.0892, 0.0892)
DIPOLE_START_2 = (-0.3, 0.39, 0.3, -0.344, -1.2, 2.69, 1.59, -1.5)
LYNX_START = (0.5, 0.025, 0.8, 0.025, 3.4, 1.4)
LYNX_LIMITS = (0.5, 0.1, 1, 0.1, 5, 5)
DIPOLE_2 = [-0.69, -0.044, -1.57, -1.31, -2.65, 2.0, -12.6, 9.48]

uptake = fit(
    lambda c, top, rate, least: top * (1 - jnp.exp(-jnp.exp(rate) * (c - least))),
    [95, 175, 250, 350, 500, 675, 1000],
    [16, 30.4, 34.8, 37.2, 35.3, 39.2, 39.7],
)
loblolly = fit(
    lambda t, top, first, rate: top + (first - top) * jnp.exp(-jnp.exp(rate) * t),
    [3, 5, 10, 15, 20, 25],
    [4.51, 10.89, 28.72, 41.74, 52.70, 60.92],
)
two_rates = fit(lambda t, a, b: jnp.exp(-a * t) + jnp.exp(-b * t), [1 / 3, 1, 3], [1.2, 0.45, 0.12])

PROBLEMS = [
    HeldOut("Himmelblau", "Himmelblau, Applied Nonlinear Programming (1972)", himmelblau, (1, 1)),
    HeldOut("Puromycin", BATES_WATTS, michaelis, (205, 0.08)),
    HeldOut("Puromycin, far", BATES_WATTS, michaelis, (50, 1.0)),
    HeldOut("Biochemical oxygen demand", BATES_WATTS, oxygen, (20, 0.24)),
    HeldOut("Sulfisoxazole", BATES_WATTS, fit(biexponential, SULFA_TIMES, SULFA), (150, 1.0, 100, 0.1)),
    HeldOut("Rumford's cooling", BATES_WATTS, fit(lambda t, k: 60 + 70 * jnp.exp(-k * t), RUMFORD_TIMES, RUMFORD), (0.1,)),
    HeldOut("Hougen and Watson", BATES_WATTS, hougen, (1, 0.05, 0.02, 0.1, 2)),
    HeldOut("Indomethacin", PINHEIRO, fit(biexponential, INDO_TIMES, INDO), (2, 2.0, 0.5, 0.2)),
    HeldOut("Immunoassay of DNase", PINHEIRO, assay, (3, 0, 1)),
    HeldOut("Loblolly pine 301", PINHEIRO, loblolly, (90, -5, -3)),
    HeldOut("Carbon dioxide uptake", PINHEIRO, uptake, (30, -4.5, 50)),
    HeldOut("Growth of a chick", PINHEIRO, fit(logistic, [*range(0, 21, 2), 21], CHICK), (300, 14, 6)),
    HeldOut("Population of the US", "Fox, Nonlinear regression (2002)", fit(logistic, np.arange(19), DECADES), (400, 13, 5)),
    HeldOut("Chlorine", "Draper and Smith, Applied Regression Analysis (1981), section 10.3", chlorine, (0.30, 0.02)),
    HeldOut("Circle", "Gander, Golub and Strebel (1994)", circle, (0, 0, 1)),
    HeldOut("Ellipse", "Gander, Golub and Strebel (1994)", ellipse, ELLIPSE_START),
    HeldOut("Two decay rates", "Transtrum, Machta and Sethna (2010), model; data our own", two_rates, (0.1, 10.0)),
    HeldOut("Alpha-pinene", f"Box et al. (1973); {MINPACK2}", pinene, (5.84e-5, 2.65e-5, 1.63e-5, 27.77e-5, 4.61e-5)),
    HeldOut("Hares and lynxes", "Hudson's Bay Company, 1900-1920; Carpenter (2018)", lotka_volterra, LYNX_START),
    HeldOut("Heart dipole 791129", f"Dennis, Gay and Vu (1985); {MINPACK2}", dipole(DIPOLE_1), DIPOLE_START_1),
    HeldOut("Heart dipole 791226", f"Dennis, Gay and Vu (1985); {MINPACK2}", dipole(DIPOLE_2), DIPOLE_START_2),
    HeldOut("Combustion of propane", f"Meintjes and Morgan (1990); {MINPACK2}; start our own", combustion, (0.01, 30, 0.1, 1, 0.05)),
    HeldOut("S201", "Schittkowski (1987)", lambda x: jnp.stack([2 * (x[0] - 5), x[1] - 6]), (8, 9)),
    HeldOut("S206", "Schittkowski (1987)", lambda x: jnp.stack([x[1] - x[0] ** 2, 10 * (1 - x[0])]), (-1.2, 1)),
    HeldOut("S210", "Schittkowski (1987)", lambda x: jnp.stack([1000 * (x[1] - x[0] ** 2), 1 - x[0]]), (-1.2, 1)),
    HeldOut("S211", "Schittkowski (1987)", lambda x: jnp.stack([10 * (x[1] - x[0] ** 3), 1 - x[0]]), (-1.2, 1)),
    HeldOut("S212, Branin", "Schittkowski (1987)", branin, (2, 0)),
    HeldOut("S213", "Schittkowski (1987)", lambda x: ((10 * (x[0] - x[1]) ** 2 + (x[0] - 1) ** 2) ** 2)[None], (8, 1)),
    HeldOut("S240, Zangwill", "Schittkowski (1987)", lambda x: jnp.sum(x) - 2 * jnp.roll(x, 1), (100, -1, 2.5)),
    HeldOut("S241, Engvall", "Schittkowski (1987)", engvall, (1, 2, 0)),
    HeldOut("S244", "Schittkowski (1987)", s244, (1, 2, 1)),
    HeldOut("S246", "Schittkowski (1987)", lambda x: jnp.stack([10 * (x[2] - ((x[0] + x[1]) / 2) ** 2), 1 - x[0], 1 - x[1]]), (-1.2, 2, 0)),
    HeldOut("S261, Cragg and Levy", "Schittkowski (1987)", cragg_levy, (1, 2, 2, 2)),
    HeldOut("S308, Madsen", "Schittkowski (1987)", madsen, (3, 0.1)),
    HeldOut("S312", "Schittkowski (1987)", s312, (1, 1)),
    HeldOut("HS1", "Hock and Schittkowski (1981)", rosenbrock, (-2, 1), (-np.inf, -1.5), (np.inf, np.inf)),
    HeldOut("HS2", "Hock and Schittkowski (1981), its start made feasible", rosenbrock, (-2, 1.5), (-np.inf, 1.5), (np.inf, np.inf)),
    HeldOut("HS25", "Hock and Schittkowski (1981)", hs25, (100, 12.5, 3), (0.1, 0, 0), (100, 25.6, 5)),
    HeldOut("Puromycin, bounded", f"{BATES_WATTS}; bounds our own", michaelis, (150, 0.08), (0, 0), (200, 1)),
    HeldOut("Biochemical oxygen demand, bounded", f"{BATES_WATTS}; bounds our own", oxygen, (20, 0.24), (0, 0), (30, 0.4)),
    HeldOut("Immunoassay of DNase, bounded", f"{PINHEIRO}; bounds our own", assay, (1.5, 0, 1), (0, -1, 0.1), (2, 3, 3)),
    HeldOut("Branin, bounded", "Schittkowski (1987), S212; bounds our own", branin, (2, 0.5), (1, 0.2), (3, 2)),
    HeldOut("Hares and lynxes, bounded", "Carpenter (2018); bounds our own", lotka_volterra, LYNX_START, (0.0,) * 6, LYNX_LIMITS),
]  # fmt: skip
