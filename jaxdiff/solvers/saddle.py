"""Telling a minimum from a saddle, a plateau or an inflection where the gradient has vanished: by values of f around the point."""

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon
from jaxdiff._types import LaneBool, LaneFloat, LaneMatrix, LaneVector
from jaxdiff.linalg import max_norm, select_lanes, smallest_eigenpairs
from jaxdiff.problem import Minimize
from jaxdiff.solvers.path import among_free


def probe_null_vectors(
    problem: Minimize, x: LaneVector, value: LaneFloat, hessian: LaneMatrix, is_movable: jax.Array | None = None
) -> tuple[LaneVector, LaneBool, LaneBool]:
    """Try f along every eigenvector, both ways, near and far; between bounds along those of the parameters that may move.

    Returns:
        The displacement with the lowest f, whether it lowers f beyond rounding, and whether the Hessian has clearly negative curvature.
    """
    epsilon = machine_epsilon(x.dtype)
    size = jnp.maximum(jnp.abs(x), 1)
    largest = jnp.max(jnp.abs(hessian), axis=(0, 1))
    # By its root twice: near overflow the reciprocal of the largest entry is a subnormal number, which is flushed to zero.
    root = jnp.sqrt(jnp.where(largest > 0, largest, 1))
    scaled = hessian / root / root
    scaled = jnp.where(jnp.all(jnp.isfinite(scaled), axis=(0, 1)), scaled, 0)
    eigenvalues, eigenvectors = smallest_eigenpairs(scaled)
    # Short enough for a third-order term to show above rounding, (eps^(1/4))^3 > eps; and far enough to look over the rim of a plateau.
    reaches = jnp.array([epsilon**0.25, 0.01, 0.1, 1.0], x.dtype)

    def probe(k: jax.Array, best: tuple[LaneVector, LaneFloat]) -> tuple[LaneVector, LaneFloat]:
        vector = among_free(is_movable, jax.lax.dynamic_index_in_dim(eigenvectors, k // 8, axis=1, keepdims=False))
        reach = reaches[(k // 2) % 4] * jnp.where(k % 2 == 0, 1, -1).astype(x.dtype)
        length = max_norm(vector / size)
        displacement = vector * (reach / jnp.where(length > 0, length, 1))
        trial = problem.value(problem.project(x + displacement))
        return select_lanes(trial < best[1], (displacement, trial), best)

    displacement, lowest = jax.lax.fori_loop(0, 8 * x.shape[0], probe, (jnp.zeros_like(x), value))
    has_escape = lowest < value - 10 * epsilon * jnp.abs(value)
    is_saddle = eigenvalues[0] < -(epsilon ** (2 / 3))
    return displacement, has_escape, is_saddle
