"""A hand-written Levenberg-Marquardt for Gaussian peaks, its Jacobian by hand too, on all cores: the peer that `batch.py` is held to."""

import math

import numba
import numpy as np

FAST = {"reassoc", "contract", "arcp", "nsz"}


@numba.njit(fastmath=FAST, error_model="numpy")
def _normal_equations(p, y, xs, ys, a, g):
    height, x0, y0, s, b = p
    inverse = numba.float32(1) / (s * s)
    a[:] = 0
    g[:] = 0
    cost = numba.float32(0)
    h01 = h02 = h03 = h04 = h00 = h11 = h12 = h13 = h14 = h22 = h23 = h24 = h33 = h34 = numba.float32(0)
    g0 = g1 = g2 = g3 = g4 = numba.float32(0)
    for k in range(y.shape[0]):
        dx, dy = xs[k] - x0, ys[k] - y0
        square = (dx * dx + dy * dy) * inverse
        e = math.exp(numba.float32(-0.5) * square)
        he = height * e
        r = he + b - y[k]
        j1 = he * dx * inverse
        j2 = he * dy * inverse
        j3 = he * square / s
        cost += r * r
        h00 += e * e
        h01 += e * j1
        h02 += e * j2
        h03 += e * j3
        h04 += e
        h11 += j1 * j1
        h12 += j1 * j2
        h13 += j1 * j3
        h14 += j1
        h22 += j2 * j2
        h23 += j2 * j3
        h24 += j2
        h33 += j3 * j3
        h34 += j3
        g0 += e * r
        g1 += j1 * r
        g2 += j2 * r
        g3 += j3 * r
        g4 += r
    a[0, 0], a[1, 0], a[2, 0], a[3, 0], a[4, 0] = h00, h01, h02, h03, h04
    a[1, 1], a[2, 1], a[3, 1], a[4, 1] = h11, h12, h13, h14
    a[2, 2], a[3, 2], a[4, 2] = h22, h23, h24
    a[3, 3], a[4, 3] = h33, h34
    a[4, 4] = numba.float32(y.shape[0])
    g[0], g[1], g[2], g[3], g[4] = g0, g1, g2, g3, g4
    return cost


@numba.njit(fastmath=FAST, error_model="numpy")
def _solve(a, g, damping, low, d, x):
    for j in range(5):
        pivot = a[j, j] * (numba.float32(1) + damping)
        for k in range(j):
            pivot -= low[j, k] * low[j, k] * d[k]
        d[j] = pivot
        for i in range(j + 1, 5):
            value = a[i, j]
            for k in range(j):
                value -= low[i, k] * low[j, k] * d[k]
            low[i, j] = value / pivot
    for i in range(5):
        value = g[i]
        for k in range(i):
            value -= low[i, k] * x[k]
        x[i] = value
    for i in range(4, -1, -1):
        value = x[i] / d[i]
        for k in range(i + 1, 5):
            value -= low[k, i] * x[k]
        x[i] = value


@numba.njit(parallel=True, fastmath=FAST, error_model="numpy")
def _all(start, data, xs, ys, ftol, max_steps, out, steps):
    count = start.shape[0]
    chunk = 256
    for part in numba.prange((count + chunk - 1) // chunk):
        a, ta = np.zeros((5, 5), np.float32), np.zeros((5, 5), np.float32)
        g, tg = np.zeros(5, np.float32), np.zeros(5, np.float32)
        low, d, x, trial = np.zeros((5, 5), np.float32), np.zeros(5, np.float32), np.zeros(5, np.float32), np.zeros(5, np.float32)
        p = np.zeros(5, np.float32)
        for lane in range(part * chunk, min(count, (part + 1) * chunk)):
            p[:] = start[lane]
            y = data[lane]
            cost = _normal_equations(p, y, xs, ys, a, g)
            damping = numba.float32(1e-2)
            step = 1
            while step < max_steps:
                _solve(a, g, damping, low, d, x)
                for i in range(5):
                    trial[i] = p[i] - x[i]
                new = _normal_equations(trial, y, xs, ys, ta, tg)
                step += 1
                if new < cost:
                    is_done = cost - new <= ftol * cost
                    cost = new
                    damping = damping * numba.float32(0.1)
                    for i in range(5):
                        p[i] = trial[i]
                        g[i] = tg[i]
                        for j in range(i + 1):
                            a[i, j] = ta[i, j]
                    if is_done:
                        break
                else:
                    # Nothing to gain at this precision, or no step short enough.
                    if abs(new - cost) <= numba.float32(1e-6) * cost or damping > numba.float32(1e10):
                        break
                    damping = damping * numba.float32(10)
            out[lane] = p
            steps[lane] = step


def gaussian_lm(
    start: np.ndarray, data: np.ndarray, xs: np.ndarray, ys: np.ndarray, ftol: float, max_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Solutions and steps of all fits."""
    out, steps = np.empty_like(start), np.empty(len(start), np.int32)
    _all(start, data, xs, ys, np.float32(ftol), max_steps, out, steps)
    return out, steps
