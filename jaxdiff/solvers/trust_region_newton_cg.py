"""Newton's method inside a trust region, matrix-free: conjugate gradients on Hessian-vector products, ended at the boundary.

    p_k ~ argmin g_k'p + p'H_k p / 2    over |p| <= Delta_k

The inner iterations are the work of one step: bounded in number, and masked lane by lane.

Sources: Steihaug, SIAM J. Numer. Anal. 20 (1983) 626-637; Nocedal and Wright, Numerical Optimization (2006), algorithms 7.2 and 4.1. The
search for negative curvature where the gradient has vanished is our own. Between bounds the iterations are among the parameters that may
move, and their step is brought between the bounds; see `trust_region.between_bounds`.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneVector
from jaxdiff._validation import check_count, is_traced
from jaxdiff.linalg import dot, is_all_finite, max_norm, select_lanes
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.solvers.base import counted, default_gradient_only_tolerance, unevaluated
from jaxdiff.solvers.path import Path, among_free, among_movable
from jaxdiff.solvers.stationary import Sizes, assessed, has_run_away, stopped_short
from jaxdiff.solvers.trust_region import between_bounds, gain_ratio, next_radius


@pytree_dataclass
class TrustRegionNewtonCGState:
    """State of the matrix-free trust-region Newton method.

    Attributes:
        x: current points.
        value: f there.
        gradient: its gradient there.
        radius: of the region, in the Euclidean norm.
        displacement: the step to try next.
        predicted: decrease of f that it promises.
        is_small: whether the gradient there is small, and only negative curvature is looked for.
        sizes: how large f, its gradient and x have been.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of f and its gradient; a Hessian-vector product counts as one.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    radius: LaneFloat
    displacement: LaneVector
    predicted: LaneFloat
    is_small: LaneBool
    sizes: Sizes
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt

    @property
    def step_size(self) -> LaneFloat:
        """The radius, under the name that a history keeps it by."""
        return self.radius


@pytree_dataclass
class TrustRegionNewtonCG:
    """Trust-region Newton without a matrix: for many parameters whose Hessian is better than its last few steps tell.

    Where the gradient is small it looks for negative curvature with the same inner iterations, from a fixed vector in place of the
    gradient. What it finds is a way down, or, where f does not fall along it, SADDLE_POINT. The parameters should be of similar size: it
    does not scale them.

    Attributes:
        gtol: stop where the largest absolute entry of the gradient is at most this, in units of f per unit of x; one number, or a pytree
            like x. None: eps^(1/2), with finite differences eps^(1/3), where the gradient is small beside f, x and what they have been
            too (see `stationary`).
        xtol: as in `BFGS`.
        ftol: as in `BFGS`.
        max_inner: Hessian-vector products that a step may make at most.

    Raises:
        ValueError: max_inner is not a positive integer.

    Note:
        CONVERGED_GRADIENT says that the gradient is small and that no negative curvature was found, not that there is none.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> chained = lambda x: jnp.sum((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2)
        >>> result = jd.minimize(chained, jnp.zeros(200), solver=jd.TrustRegionNewtonCG(), max_steps=1000)
        >>> bool(jnp.allclose(result.x, 1, atol=1e-4)), result.status_name
        (True, 'CONVERGED_GRADIENT')
    """

    gtol: Any = None
    xtol: Any = None
    ftol: Any = None
    max_inner: Any = 200

    name: ClassVar[str] = "trust_region_newton_cg"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol", "xtol", "ftol")
    has_optional_tests: ClassVar[bool] = True
    takes_bounds: ClassVar[bool] = True
    weighs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not is_traced(self.max_inner):
            check_count(self.max_inner, "max_inner", minimum=1)

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float | None:
        """See `base.Solver`."""
        return default_gradient_only_tolerance(name, dtype, is_exact)

    def init(self, problem: Minimize, x: LaneVector) -> TrustRegionNewtonCGState:
        """See `base.Solver`."""
        lanes = x.shape[-1]
        return TrustRegionNewtonCGState(
            radius=jnp.ones(lanes, x.dtype),
            displacement=jnp.zeros_like(x),
            predicted=jnp.zeros(lanes, x.dtype),
            is_small=jnp.zeros(lanes, bool),
            sizes=Sizes.none(x),
            **unevaluated(x),
        )

    def step(self, problem: Minimize, state: TrustRegionNewtonCGState) -> TrustRegionNewtonCGState:
        """See `base.Solver`."""
        is_start = state.num_steps < 0
        # Along the path, so that a parameter that arrives at its bound does so to the last bit.
        trial_x = Path.along(problem, state.x, state.gradient, state.displacement, jnp.ones_like(state.radius)).x
        trial_value, trial_gradient = problem.value_and_gradient(trial_x)
        is_finite = is_all_finite(trial_x, trial_value, trial_gradient)
        slope, trial_slope = dot(state.gradient, state.displacement), dot(trial_gradient, state.displacement)
        ratio, is_taken = gain_ratio(state.value, trial_value, slope, trial_slope, state.predicted)
        ratio = jnp.where(is_finite, ratio, -1)
        is_taken = is_finite & (is_taken | is_start)
        new = (trial_x, trial_value, trial_gradient)
        x, value, gradient = select_lanes(is_taken | is_start, new, (state.x, state.value, state.gradient))
        length = jnp.sqrt(dot(state.displacement, state.displacement))
        radius = next_radius(state.radius, length, ratio, state.value, jnp.where(is_finite, trial_value, jnp.nan), slope)
        away = jnp.sqrt(dot(x, x))
        radius = jnp.where(is_start, jnp.where(away > 0, away, 1), radius)

        small, sizes = assessed(
            problem, self.gtol, state.sizes, is_start, is_taken, trial_x, trial_x - state.x, trial_value, trial_gradient
        )
        is_small = jnp.where(is_taken, small, state.is_small)
        is_asked = (state.status == Status.RUNNING) & (is_taken | ~is_start)
        is_movable, reduced, is_weak = among_movable(problem, x, gradient, self.gtol.share(sizes, sizes.steepest))
        inner = _Inner.run(problem, x, reduced, radius, is_small, is_asked, self.max_inner, is_movable)
        # In no norm that we know of is a step below this one: the region has shrunk to nothing.
        epsilon = machine_epsilon(x.dtype)
        is_stuck = jnp.all(jnp.abs(inner.step) <= epsilon * jnp.abs(x), axis=0) | (radius <= jnp.finfo(x.dtype).tiny)
        is_spent = is_small & (inner.predicted <= epsilon * jnp.abs(value))
        failure = stopped_short(problem, self.gtol, sizes, x, value, gradient, is_stuck & ~is_small, is_finite & inner.is_finite)
        failure = jnp.where(is_stuck | ~inner.is_finite, failure, Status.RUNNING)
        # Negative curvature across a bound is no saddle.
        spent = jnp.where(is_weak, Status.CONVERGED_GRADIENT, Status.SADDLE_POINT)
        failure = jnp.where(~is_taken & is_spent, spent, failure)
        runs_away = has_run_away(state.sizes, max_norm(trial_x), trial_value, state.value)
        failure = jnp.where(runs_away, Status.UNBOUNDED, failure)
        failure = jnp.where(is_start & ~is_finite, Status.NON_FINITE_START, failure)
        status = jnp.where(is_small & ~inner.is_negative & ~runs_away, Status.CONVERGED_GRADIENT, failure)
        return TrustRegionNewtonCGState(
            x=x,
            value=value,
            gradient=gradient,
            radius=radius,
            displacement=inner.step,
            predicted=inner.predicted,
            is_small=is_small,
            sizes=sizes,
            status=jnp.where(is_taken, status, failure).astype(jnp.int32),
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, (1 + inner.num_products) * problem.evaluations_per_gradient),
        )


@pytree_dataclass
class _Inner:
    """Conjugate gradients on the model, in every lane that is not done.

    Attributes:
        step: z, the step so far; at the end the step to try.
        residual: H z + b.
        direction: d.
        predicted: decrease of the model at the end.
        largest: largest |H d| / |d| seen, an estimate of |H| from below.
        is_negative: whether negative curvature ended it.
        is_finite: whether every product was finite.
        is_done: whether the lane has ended.
        num_products: Hessian-vector products made.
    """

    step: LaneVector
    residual: LaneVector
    direction: LaneVector
    predicted: LaneFloat
    largest: LaneFloat
    is_negative: LaneBool
    is_finite: LaneBool
    is_done: LaneBool
    num_products: LaneInt

    @classmethod
    def run(
        cls,
        problem: Minimize,
        x: LaneVector,
        gradient: LaneVector,
        radius: LaneFloat,
        is_small: LaneBool,
        is_asked: LaneBool,
        max_inner: Any,
        is_movable: jax.Array | None,
    ) -> "_Inner":
        """The step of algorithm 7.2; where the gradient is small, a step along negative curvature if there is any, else none.

        Args:
            problem: gives the products.
            x: the point.
            gradient: there, 0 for parameters that may not move.
            radius: of the region.
            is_small: lanes in which the gradient has vanished.
            is_asked: lanes in which a step is wanted.
            max_inner: products at most.
            is_movable: which parameters may move; None where all may.
        """
        n, lanes = x.shape
        # Without structure, so that it is orthogonal to no eigenvector that a person would choose.
        noise = among_free(is_movable, jnp.broadcast_to(jnp.sin(jnp.arange(1, n + 1, dtype=x.dtype) ** 2)[:, None], x.shape))
        # Solved for b / |b|, the maximum norm, so that squares of large gradients do not overflow.
        size = jnp.where(is_small | (max_norm(gradient) == 0), 1, max_norm(gradient))
        b = jnp.where(is_small, noise, gradient) / size
        length = jnp.sqrt(dot(b, b))
        forcing = jnp.where(is_small, machine_epsilon(x.dtype) ** 0.5, jnp.minimum(0.5, jnp.sqrt(length * size)))
        zero, nowhere = jnp.zeros_like(radius), jnp.zeros(lanes, bool)
        start = cls(jnp.zeros_like(x), b, -b, zero, zero, nowhere, ~nowhere, ~is_asked, jnp.zeros(lanes, jnp.int32))

        def is_pending(carry: tuple[jax.Array, _Inner]) -> jax.Array:
            return (carry[0] < max_inner) & jnp.any(~carry[1].is_done)

        def iterate(carry: tuple[jax.Array, _Inner]) -> tuple[jax.Array, _Inner]:
            count, inner = carry
            product = among_free(is_movable, problem.hvp(x, inner.direction))
            advanced = inner.advanced(product, radius / size, is_small, forcing * length)
            return count + 1, select_lanes(inner.is_done, inner, advanced)

        _, inner = jax.lax.while_loop(is_pending, iterate, (jnp.zeros((), jnp.int32), start))
        inner = inner.finished(gradient, radius, size, is_small)
        if is_movable is None:
            return inner
        return inner.between_bounds(problem, x, gradient, is_small)

    def between_bounds(self, problem: Minimize, x: LaneVector, gradient: LaneVector, is_small: LaneBool) -> "_Inner":
        """With the step brought between the bounds, at the cost of two more products."""

        def promise(step: LaneVector) -> LaneFloat:
            return -dot(step, gradient + problem.hvp(x, step) / 2)

        # Along negative curvature both ways are equally good: that into the region which has more room.
        one, way = jnp.ones_like(self.predicted), jnp.where(is_small, -self.step, self.step)
        there, back = (Path.along(problem, x, gradient, step, one).displacement for step in (self.step, way))
        step = jnp.where(dot(back, back) > dot(there, there), way, self.step)
        bent, predicted = between_bounds(problem, x, gradient, step, promise)
        return dataclasses.replace(self, step=bent, predicted=predicted, num_products=self.num_products + 2)

    def advanced(self, product: LaneVector, radius: LaneFloat, is_small: LaneBool, tolerance: LaneFloat) -> "_Inner":
        """One iteration, with ``product`` = H d."""
        z, r, d = self.step, self.residual, self.direction
        squared, curvature, residual_squared = dot(d, d), dot(d, product), dot(r, r)
        largest = jnp.maximum(self.largest, safe_divide(jnp.sqrt(dot(product, product)), jnp.sqrt(squared)))
        is_finite = is_all_finite(product) & jnp.isfinite(curvature)
        # A curvature within rounding of zero is no proof of a saddle; as a way for a step it is as good as a negative one.
        least = jnp.where(is_small, -(machine_epsilon(squared.dtype) ** 0.5) * largest * squared, 0)
        is_negative = is_finite & (curvature <= least) & (curvature < jnp.where(is_small, 0, jnp.inf))
        alpha = safe_divide(residual_squared, jnp.where(curvature > 0, curvature, 0))
        inside = z + alpha * d
        leaves = is_negative | (dot(inside, inside) >= radius**2)
        # In the search for negative curvature nothing is stepped, and the boundary means nothing.
        tau = _to_boundary(z, d, radius)
        step_size = jnp.where(is_small, alpha, jnp.where(leaves, tau, alpha))
        step_size = jnp.where(is_finite, step_size, 0)
        residual = r + jnp.where(is_finite, step_size * product, 0)
        new_squared = dot(residual, residual)
        beta = safe_divide(new_squared, residual_squared)
        has_converged = jnp.sqrt(new_squared) <= tolerance
        is_done = is_negative | ~is_finite | has_converged | (leaves & ~is_small) | (is_small & (curvature <= 0))
        return _Inner(
            step=jnp.where(is_small, z, z + step_size * d),
            residual=residual,
            direction=jnp.where(is_done, d, beta * d - residual),
            predicted=self.predicted,
            largest=largest,
            is_negative=is_negative,
            is_finite=is_finite,
            is_done=is_done,
            num_products=self.num_products + 1,
        )

    def finished(self, gradient: LaneVector, radius: LaneFloat, size: LaneFloat, is_small: LaneBool) -> "_Inner":
        """With the step to try and the decrease that it promises, no longer divided by ``size`` and its square."""
        d = self.direction
        along = dot(gradient, d)
        way = safe_divide(jnp.where(along > 0, -radius, radius), jnp.sqrt(dot(d, d)))
        # The curvature along the last direction is at hand up to its sign and least size only: that size is what is promised.
        floor = machine_epsilon(radius.dtype) ** 0.5 * self.largest
        escape = jnp.where(self.is_negative, way * d, 0)
        gain = jnp.where(self.is_negative, jnp.abs(along * way) + floor * radius**2 / 2, 0)
        step = size * self.step
        promised = -dot(step, gradient + size * self.residual) / 2
        step, predicted = select_lanes(is_small, (escape, gain), (step, promised))
        return _Inner(
            step, self.residual, d, predicted, self.largest, self.is_negative & is_small, self.is_finite, self.is_done, self.num_products
        )


def _to_boundary(z: LaneVector, d: LaneVector, radius: LaneFloat) -> LaneFloat:
    """The positive tau at which |z + tau d| = radius, without cancellation."""
    a, b, c = dot(d, d), dot(z, d), jnp.maximum(radius**2 - dot(z, z), 0)
    root = jnp.sqrt(b * b + a * c)
    return jnp.where(b > 0, safe_divide(c, b + root), safe_divide(root - b, a))
