"""What the progress bar of a batch costs: CPU time with it over CPU time without, run in turn in one process.

Run: ``python benchmarks/batch_progress.py [problems]``.
"""

import contextlib
import io
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd


def peak(p: jax.Array, grid: jax.Array, y: jax.Array) -> jax.Array:
    a, x0, y0, w, c = p
    return a * jnp.exp(-((grid[0] - x0) ** 2 + (grid[1] - y0) ** 2) / (2 * w * w)) + c - y


def problems(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0))).reshape(2, -1)
    truth = np.stack([rng.uniform(lo, hi, count) for lo, hi in [(50, 100), (1.5, 2.5), (1.5, 2.5), (0.8, 1.2), (5, 10)]], axis=1)
    y = truth[:, :1] * np.exp(-((grid[0] - truth[:, 1:2]) ** 2 + (grid[1] - truth[:, 2:3]) ** 2) / (2 * truth[:, 3:4] ** 2)) + truth[:, 4:]
    y += rng.normal(size=y.shape)
    starts = truth * rng.uniform(0.8, 1.2, truth.shape)
    return starts.astype(np.float32), grid.astype(np.float32), y.astype(np.float32)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    starts, grid, y = jax.device_put(problems(count))

    def seconds(progress: bool) -> float:
        options = jd.BatchOptions(progress=progress, rescue=False)
        begin = time.process_time()
        with contextlib.redirect_stderr(io.StringIO()):
            jax.block_until_ready(jd.least_squares_batch(peak, starts, (grid, y), in_axes=(0, None, 0), options=options).x)
        return time.process_time() - begin

    for progress in (True, False):
        seconds(progress)
    pairs = [(seconds(True), seconds(False)) for _ in range(9)]
    ratio = statistics.median(shown / plain for shown, plain in pairs)
    print(f"{count:,} fits, CPU seconds without a bar {statistics.median(p for _, p in pairs):.2f}, with / without {ratio:.4f}")


if __name__ == "__main__":
    main()
