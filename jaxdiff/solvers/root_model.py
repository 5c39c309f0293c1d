"""What the solvers of equations share: the linear model F + J s about a point, the steps it proposes, and what it says of a root.

A root is claimed where rounding leaves nothing to gain, or where Newton's method has shown that it contracts to one. With

    S_i = sum_j |J_ij x_j|    (what x contributes to F_i to first order; eps S_i is what rounding x alone does to it)

F vanishes to rounding where ``|F_i| <= 2 eps S_i`` for all i, and a step p is small where ``sum_j |J_ij p_j| <= xtol S_i``. Neither depends
on the units of x or of F. A small step alone proves nothing: next to a minimum of |F| that is no root, steps may be small too. What tells a
root is that the last full Newton step was followed by one not a tenth as long, as Deuflhard's natural monotonicity test has it; next to a
double root, or a minimum that nearly is one, steps only halve.

Sources: Powell, A hybrid method for nonlinear equations (1970); Moré, Garbow and Hillstrom, User guide for MINPACK-1 (1980), HYBRJ;
Deuflhard, Newton Methods for Nonlinear Problems (2011), section 3.1. How they are put together is our own.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide, smallest_normal
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneMatrix, LaneVector
from jaxdiff.linalg import dot, matvec, max_norm
from jaxdiff.result import Status
from jaxdiff.solvers.residual_model import safe_norm

CONTRACTION = 0.1
"""How much shorter the next Newton step has to be for a small one to be believed."""


@pytree_dataclass
class Proposal:
    """A step to try.

    Attributes:
        step: ``[n, lanes]``.
        length: its length in the metric of the trust region.
        predicted: the length of F that the linear model promises behind it, over the present one.
        is_newton: whether it is the full Newton step.
    """

    step: LaneVector
    length: LaneFloat
    predicted: LaneFloat
    is_newton: LaneBool


class RootReadings:
    """How the loop and a history read a state of a solver of equations: it has ``residuals`` and ``radius``."""

    residuals: LaneVector
    radius: LaneFloat

    @property
    def value(self) -> LaneFloat:
        """The largest |F_i|, under the name that the loop keeps it by."""
        return max_norm(self.residuals)

    @property
    def gradient(self) -> LaneVector:
        """F, under the name that the loop keeps it by."""
        return self.residuals

    @property
    def step_size(self) -> LaneFloat:
        """The radius, under the name that a history keeps it by."""
        return self.radius


def size_of(values: LaneVector) -> LaneFloat:
    """Euclidean length without overflow of squares; of one number its size."""
    return jnp.abs(values[0]) if values.shape[0] == 1 else safe_norm(values)


def contribution(jacobian: LaneMatrix, x: LaneVector) -> LaneVector:
    """S, ``sum_j |J_ij x_j|``.

    Example:
        >>> contribution(jnp.array([[[2.0], [-1.0]], [[0.0], [1.0]]]), jnp.array([[3.0], [4.0]]))[:, 0].tolist()
        [10.0, 4.0]
    """
    return jnp.sum(jnp.abs(jacobian) * jnp.abs(x)[None], axis=1)


def dogleg(
    residuals: LaneVector, jacobian: LaneMatrix, newton: LaneVector, is_singular: LaneBool, weights: LaneVector, radius: LaneFloat
) -> Proposal:
    """Powell's dogleg: from the minimum along the gradient of |F| towards the Newton step, inside ``|D s| <= radius``.

    Args:
        residuals: F.
        jacobian: J.
        newton: the Newton step.
        is_singular: whether it is not to be trusted.
        weights: D.
        radius: of the trust region.
    """
    if residuals.shape[0] == 1:
        length = jnp.abs(newton[0]) * weights[0]
        fraction = jnp.minimum(safe_divide(radius, length, otherwise=1.0), 1)
        fraction = jnp.where(is_singular, 0, fraction).astype(radius.dtype)
        return Proposal(fraction * newton, fraction * length, 1 - fraction, fraction == 1)
    largest = jnp.max(jnp.abs(residuals), axis=0)
    scale = jnp.where(largest > 0, largest, 1)
    scaled = residuals / scale
    columns = jacobian / weights[None]
    slopes = jnp.sum(columns * scaled[:, None], axis=0)
    image = matvec(columns, slopes)
    # J and so its slopes may be huge: guarded by a scale of their own.
    steepness = _positive(jnp.max(jnp.abs(slopes), axis=0))
    image, unit = image / steepness, slopes / steepness
    cauchy = -unit * safe_divide(dot(unit, slopes), dot(image, image)) * scale
    wanted = weights * newton
    far = jnp.where(is_singular | ~jnp.all(jnp.isfinite(wanted), axis=0), cauchy, wanted)
    across = far - cauchy
    short, whole = safe_norm(cauchy), safe_norm(far)
    # |a + t b| = radius for the second leg, in units of the radius; the root without cancellation.
    a, b = cauchy / radius, across / radius
    half, rest, square = dot(a, b), dot(a, a) - 1, dot(b, b)
    root = jnp.sqrt(jnp.maximum(half**2 - square * rest, 0))
    t = jnp.where(half > 0, safe_divide(-rest, half + root), safe_divide(root - half, square))
    bent = cauchy + jnp.clip(t, 0, 1) * across
    is_whole = whole <= radius
    step = jnp.where(is_whole, far, jnp.where(short >= radius, cauchy * safe_divide(radius, short), bent))
    predicted = safe_norm(scaled + matvec(columns, step) / scale) / _positive(safe_norm(scaled))
    is_newton = is_whole & ~is_singular
    return Proposal(step / weights, safe_norm(step), jnp.where(is_newton, 0, predicted), is_newton)


def assess(
    x: LaneVector,
    residuals: LaneVector,
    jacobian: LaneMatrix,
    newton: LaneVector,
    is_contracting: LaneBool,
    ftol: Any,
    xtol: Any,
) -> LaneInt:
    """A success, or RUNNING; for the tests see the head of this file."""
    epsilon = machine_epsilon(x.dtype)
    size = jnp.abs(residuals)
    if x.shape[0] == 1:
        # J cancels, unless it vanishes.
        is_step_small = jnp.abs(newton[0]) <= xtol * jnp.abs(x[0]) if jnp.ndim(xtol) == 0 else jnp.abs(newton[0]) <= (xtol * jnp.abs(x))[0]
        is_vanishing = ((jnp.abs(newton[0]) <= 2 * epsilon * jnp.abs(x[0])) & (jacobian[0, 0] != 0)) | (size[0] == 0)
        is_value_small = is_vanishing | jnp.all(size <= ftol, axis=0)
    else:
        moved = contribution(jacobian, newton)
        is_step_small = jnp.all(moved <= contribution(jacobian, xtol * x), axis=0)
        is_value_small = jnp.all(size <= jnp.maximum(ftol, 2 * epsilon * contribution(jacobian, x)), axis=0)
    status = jnp.where(is_step_small & is_contracting, Status.CONVERGED_STEP, Status.RUNNING)
    return jnp.where(is_value_small, Status.CONVERGED_VALUE, status).astype(jnp.int32)


def is_nearly_spent(x: LaneVector, largest_x: LaneVector, jacobian: LaneMatrix, newton: LaneVector) -> LaneBool:
    """Whether the Newton step is so short that, were there a root at its end, it should have been taken: half of the digits of x."""
    half = machine_epsilon(x.dtype) ** 0.5
    typical = jnp.maximum(jnp.abs(x), 8 * half * largest_x)
    if x.shape[0] == 1:
        return (jnp.abs(newton) <= half * typical)[0]
    return jnp.all(contribution(jacobian, newton) <= half * contribution(jacobian, typical), axis=0)


def is_stationary(residuals: LaneVector, jacobian: LaneMatrix) -> LaneBool:
    """Whether F is orthogonal to every column of J, to half of the digits: then |F| has a stationary point that is no root."""
    scaled = residuals / _positive(jnp.max(jnp.abs(residuals), axis=0))
    norms = safe_norm(jacobian)
    slopes = jnp.abs(jnp.sum(jacobian / _positive(norms)[None] * scaled[:, None], axis=0))
    return jnp.all(slopes <= machine_epsilon(residuals.dtype) ** 0.5 * safe_norm(scaled), axis=0)


def has_underflown(before: LaneVector, residuals: LaneVector, jacobian: LaneMatrix) -> LaneBool:
    """Whether F and J are zero for lack of smaller numbers: exp(-x) becomes zero without ever having a root."""
    dtype = residuals.dtype
    was_tiny = jnp.max(jnp.abs(before), axis=0) < smallest_normal(dtype) / machine_epsilon(dtype)
    return was_tiny & jnp.all(residuals == 0, axis=0) & jnp.all(jacobian == 0, axis=(0, 1))


def default_root_tolerance(name: str, dtype: DType, is_exact: bool) -> float:
    """What None stands for in ftol and xtol of the solvers of equations; our own choices."""
    epsilon = machine_epsilon(dtype)
    if name == "ftol":
        return 0.0
    return epsilon ** (3 / 4) if is_exact else epsilon ** (2 / 3)


def _positive(size: jax.Array) -> jax.Array:
    return jnp.where(size > 0, size, 1)
