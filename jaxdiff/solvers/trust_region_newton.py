"""Newton's method inside a trust region, its subproblem solved exactly.

    p_k = argmin g_k'p + p'H_k p / 2    over |D_k p| <= Delta_k

D_k^2 is the diagonal of the Hessian in absolute value, or half its last value where that is larger, so that the units of the parameters do
not matter.

Sources: Nocedal and Wright, Numerical Optimization (2006), algorithm 4.1; Moré and Sorensen, SIAM J. Sci. Stat. Comput. 4 (1983) 553-572.
The scaling and the first radius are our own, the test for saddles is that of `newton`. Between bounds the model is that of the parameters
that may move, and its step is brought between them; see `trust_region.between_bounds`.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneMatrix, LaneVector
from jaxdiff.linalg import dot, is_all_finite, matvec, max_norm, select_lanes, smallest_eigenpairs
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.solvers.base import check_dense, counted, default_newton_tolerance, unevaluated
from jaxdiff.solvers.line_search import is_lost_in_rounding
from jaxdiff.solvers.path import Path, among_free, among_movable, open_ways, with_identity
from jaxdiff.solvers.saddle import probe_null_vectors
from jaxdiff.solvers.stationary import Sizes, has_run_away, is_stationary, is_step_negligible, stopped_short
from jaxdiff.solvers.trust_region import between_bounds, gain_ratio, next_radius, solve_in_ball

MEMORY_OF_SCALE = 0.5
"""Least fraction of its last value that a parameter's scale may fall to; 1 keeps the largest scale for ever."""


@pytree_dataclass
class Model:
    """The quadratic model at a point, in scaled variables D p and along the eigenvectors of D^-1 H D^-1.

    Attributes:
        scale: D.
        eigenvalues: in ascending order.
        eigenvectors: in columns.
        slopes: the scaled gradient along the eigenvectors.
    """

    scale: LaneVector
    eigenvalues: LaneVector
    eigenvectors: LaneMatrix
    slopes: LaneVector

    @classmethod
    def of(cls, gradient: LaneVector, hessian: LaneMatrix, last_scale: LaneVector, is_movable: jax.Array | None = None) -> "Model":
        """The model of a gradient and a Hessian among the parameters that may move; what is not finite makes a model of zeros."""
        is_usable = is_all_finite(gradient, hessian)
        gradient = among_free(is_movable, gradient)
        root = jnp.sqrt(jnp.abs(jnp.einsum("iil->il", hessian)))
        largest = jnp.max(root, axis=0)
        # A curvature that passes through zero must not open the region without end: the scale falls by half at most.
        scale = jnp.maximum(root, MEMORY_OF_SCALE * last_scale)
        scale = jnp.where(scale > 0, scale, jnp.where(largest > 0, largest, 1))
        scale = jnp.where(is_usable, scale, 1)
        scaled = jnp.where(is_usable, with_identity(is_movable, hessian / scale[:, None] / scale[None]), 0)
        eigenvalues, eigenvectors = smallest_eigenpairs(scaled)
        slopes = matvec(jnp.swapaxes(eigenvectors, 0, 1), jnp.where(is_usable, gradient / scale, 0))
        return cls(scale, eigenvalues, eigenvectors, slopes)

    @property
    def is_definite(self) -> LaneBool:
        """Whether the Hessian is positive definite beyond what rounding can feign."""
        n = self.eigenvalues.shape[0]
        return self.eigenvalues[0] > 10 * n * machine_epsilon(self.eigenvalues.dtype) * jnp.max(jnp.abs(self.eigenvalues), axis=0)

    def newton(self) -> tuple[LaneVector, LaneFloat]:
        """The Newton step and the decrease that it promises; only where `is_definite`."""
        along = -safe_divide(self.slopes, self.eigenvalues)
        return self.unscaled(along), -dot(self.slopes, along) / 2

    def unscaled(self, along: LaneVector) -> LaneVector:
        """A step in the parameters, from its components along the eigenvectors."""
        return matvec(self.eigenvectors, along) / self.scale

    def promise(self, step: LaneVector) -> LaneFloat:
        """The decrease of the model at a step in the parameters."""
        along = matvec(jnp.swapaxes(self.eigenvectors, 0, 1), self.scale * step)
        return -dot(along, self.slopes + self.eigenvalues * along / 2)

    def length(self, step: LaneVector) -> LaneFloat:
        """The norm of the region."""
        scaled = self.scale * step
        return jnp.sqrt(dot(scaled, scaled))


@pytree_dataclass
class TrustRegionNewtonState:
    """State of the trust-region Newton method.

    Attributes:
        x: current points.
        value: f there.
        gradient: its gradient there.
        model: the quadratic model there.
        radius: of the region, in the norm abs(D p).
        displacement: the step to try next.
        predicted: decrease of f that it promises.
        sizes: how large f, its gradient and x have been.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of f.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    model: Model
    radius: LaneFloat
    displacement: LaneVector
    predicted: LaneFloat
    sizes: Sizes
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt

    @property
    def step_size(self) -> LaneFloat:
        """The radius, under the name that a history keeps it by."""
        return self.radius


@pytree_dataclass
class TrustRegionNewton:
    """Trust-region Newton for problems small enough to decompose a dense Hessian; uses negative curvature rather than avoid it.

    Stops with success only where the Hessian bears it out, as `Newton` does: SADDLE_POINT where the gradient is small, the Hessian has
    negative curvature, and no step along it lowers f; PLATEAU where it has come to a region in which f does not change at all.

    Attributes:
        gtol: as in `Newton`.
        xtol: as in `Newton`.
        ftol: as in `Newton`.

    Example:
        >>> import jaxdiff as jd
        >>> rosenbrock = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> result = jd.minimize(rosenbrock, [-1.2, 1.0], solver=jd.TrustRegionNewton())
        >>> [round(float(v), 6) for v in result.x], bool(result.success)
        ([1.0, 1.0], True)
    """

    gtol: Any = None
    xtol: Any = None
    ftol: Any = None

    name: ClassVar[str] = "trust_region_newton"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol", "xtol", "ftol")
    takes_bounds: ClassVar[bool] = True
    weighs_gradient: ClassVar[bool] = True

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        return default_newton_tolerance(name, dtype, is_exact)

    def init(self, problem: Minimize, x: LaneVector) -> TrustRegionNewtonState:
        """See `base.Solver`."""
        check_dense("TrustRegionNewton", x)
        n, lanes = x.shape
        empty = jnp.zeros_like(x)
        return TrustRegionNewtonState(
            model=Model(empty, empty, jnp.zeros((n, n, lanes), x.dtype), empty),
            radius=jnp.ones(lanes, x.dtype),
            displacement=empty,
            predicted=jnp.zeros(lanes, x.dtype),
            sizes=Sizes.none(x),
            **unevaluated(x),
        )

    def step(self, problem: Minimize, state: TrustRegionNewtonState) -> TrustRegionNewtonState:
        """See `base.Solver`."""
        is_start = state.num_steps < 0
        # Along the path, so that a parameter that arrives at its bound does so to the last bit.
        trial_x = Path.along(problem, state.x, state.gradient, state.displacement, jnp.ones_like(state.radius)).x
        trial_value, trial_gradient = problem.value_and_gradient(trial_x)
        is_finite = is_all_finite(trial_x, trial_value, trial_gradient)
        slope, trial_slope = dot(state.gradient, state.displacement), dot(trial_gradient, state.displacement)
        ratio, is_taken = gain_ratio(state.value, trial_value, slope, trial_slope, state.predicted)
        is_taken = is_finite & (is_taken | is_start)

        def model_there() -> tuple[Model, LaneBool]:
            hessian = problem.hessian(trial_x)
            share = self.gtol.share(state.sizes, max_norm(problem.projected(trial_x, trial_gradient)))
            is_movable, _, _ = among_movable(problem, trial_x, trial_gradient, share)
            return Model.of(trial_gradient, hessian, state.model.scale, is_movable), is_all_finite(hessian)

        # Only where some lane moves: a rejected trial needs no Hessian.
        there, is_hessian_finite = jax.lax.cond(jnp.any(is_taken), model_there, lambda: (state.model, jnp.ones_like(is_taken)))
        is_finite = is_finite & (is_hessian_finite | ~is_taken)
        is_taken = is_taken & is_finite
        ratio = jnp.where(is_finite, ratio, -1)
        new = (trial_x, trial_value, trial_gradient)
        x, value, gradient = select_lanes(is_taken | is_start, new, (state.x, state.value, state.gradient))
        model = select_lanes(is_taken, there, state.model)

        length = state.model.length(state.displacement)
        radius = next_radius(state.radius, length, ratio, state.value, jnp.where(is_finite, trial_value, jnp.nan), slope)
        # The norm has changed with the point: the radius keeps its meaning along the step that led there.
        radius = jnp.where(is_taken, radius * safe_divide(model.length(state.displacement), length, otherwise=1.0), radius)
        away = model.length(x)
        radius = jnp.where(is_start, jnp.where(away > 0, away, model.length(jnp.ones_like(x))), radius)
        along, predicted, _ = solve_in_ball(model.eigenvalues, model.slopes, radius)
        displacement = model.unscaled(along)
        if problem.is_bounded:
            displacement, predicted = between_bounds(problem, x, gradient, displacement, model.promise)

        sizes = state.sizes.with_point(is_taken, is_start, max_norm(problem.projected(x, gradient)), value, max_norm(x))
        status, escape, gain, probes = self._assess(
            problem, x, state.displacement, value, gradient, model, predicted, sizes, is_taken, ~is_start
        )
        has_escape = is_taken & (gain > 0)
        displacement, predicted = select_lanes(has_escape, (escape, gain), (displacement, predicted))
        radius = jnp.where(has_escape, jnp.maximum(radius, model.length(escape)), radius)
        rejected = _status_after_rejection(problem, self.gtol, sizes, x, value, gradient, model, displacement, predicted, is_finite)
        runs_away = has_run_away(state.sizes, max_norm(trial_x), trial_value, state.value)
        rejected = jnp.where(runs_away, Status.UNBOUNDED, rejected)
        rejected = jnp.where(is_start, Status.NON_FINITE_START, rejected)
        return TrustRegionNewtonState(
            x=x,
            value=value,
            gradient=gradient,
            model=model,
            radius=radius,
            displacement=displacement,
            predicted=predicted,
            sizes=sizes,
            status=jnp.where(is_taken & ~runs_away, status, rejected).astype(jnp.int32),
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, problem.evaluations_per_gradient + probes),
        )

    def _assess(
        self,
        problem: Minimize,
        x: LaneVector,
        displacement: LaneVector,
        value: LaneFloat,
        gradient: LaneVector,
        model: Model,
        predicted: LaneFloat,
        sizes: Sizes,
        is_taken: LaneBool,
        has_moved: LaneBool,
    ) -> "tuple[LaneInt, LaneVector, LaneFloat, LaneInt]":
        """The status of a new point; a way out of it and its gain where the gradient is small and f falls all the same; probes made."""
        is_definite = model.is_definite
        newton, promised = model.newton()
        projected = problem.projected(x, gradient)
        is_movable, _, is_weak = among_movable(problem, x, gradient, self.gtol.share(sizes, max_norm(projected)))
        newton = open_ways(problem, x, newton)
        is_small = is_stationary(self.gtol, sizes, x, value, projected, displacement)
        is_small = is_small | (is_definite & is_step_negligible(self.gtol, sizes, x, projected, newton))
        is_step_small = jnp.all(jnp.abs(newton) <= self.xtol * jnp.abs(x), axis=0)
        status = jnp.where(promised <= self.ftol * jnp.abs(value), Status.CONVERGED_VALUE, Status.RUNNING)
        status = jnp.where(is_step_small, Status.CONVERGED_STEP, status)
        status = jnp.where(is_small, Status.CONVERGED_GRADIENT, status)

        # A small gradient where the Hessian is not definite: a saddle, a maximum, or a minimum that is flat in some direction.
        epsilon = machine_epsilon(x.dtype)
        # What a small region promises is little whatever the slope: that has to be slight beside f and x as well.
        is_slight = max_norm(projected) * max_norm(x) <= epsilon**0.4 * jnp.abs(value)
        is_flat = is_small | ((predicted <= epsilon * jnp.abs(value)) & is_slight)
        is_doubtful = is_taken & is_flat & ~is_definite

        def probed() -> tuple[LaneVector, LaneBool, LaneBool, LaneFloat, LaneBool]:
            hessian = with_identity(is_movable, problem.hessian(x))
            escape, has_escape, is_saddle = probe_null_vectors(problem, x, value, hessian, is_movable)
            gain = value - problem.value(problem.project(x + escape))
            return escape, has_escape, is_saddle, gain, jnp.all(hessian == 0, axis=(0, 1))

        nowhere = jnp.zeros_like(is_small)
        escape, has_escape, is_saddle, gain, is_hessian_zero = jax.lax.cond(
            jnp.any(is_doubtful), probed, lambda: (jnp.zeros_like(x), nowhere, nowhere, jnp.zeros_like(value), nowhere)
        )
        stop = jnp.where(is_small, Status.CONVERGED_GRADIENT, Status.CONVERGED_VALUE)
        # Negative curvature across a bound is no saddle.
        stop = jnp.where(is_saddle & ~is_weak, Status.SADDLE_POINT, stop)
        # On a straight line, as beside a kink, the model has no minimum that could be near.
        stop = jnp.where(is_hessian_zero & ~is_small, Status.STALLED, stop)
        is_constant = has_moved & jnp.all(gradient == 0, axis=0) & is_hessian_zero
        stop = jnp.where(is_constant, Status.PLATEAU, stop)
        verdict = jnp.where(has_escape, Status.RUNNING, stop)
        status = jnp.where(is_doubtful, verdict, jnp.where(is_definite, status, Status.RUNNING)).astype(jnp.int32)
        probes = jnp.where(is_doubtful, 8 * x.shape[0] + 1, 0).astype(jnp.int32)
        return status, escape, jnp.where(is_doubtful & has_escape, gain, 0), probes


def _status_after_rejection(
    problem: Minimize,
    gtol: Any,
    sizes: Sizes,
    x: LaneVector,
    value: LaneFloat,
    gradient: LaneVector,
    model: Model,
    displacement: LaneVector,
    predicted: LaneFloat,
    is_finite: LaneBool,
) -> LaneInt:
    """RUNNING with a smaller region, unless there is nothing left to gain or no smaller step to make."""
    epsilon = machine_epsilon(x.dtype)
    _, promised = model.newton()
    is_spent = model.is_definite & is_finite & is_lost_in_rounding(promised, predicted, value)
    is_stuck = jnp.all(jnp.abs(displacement) <= epsilon * jnp.abs(x), axis=0)
    is_stuck = is_stuck | jnp.all(jnp.abs(displacement) <= jnp.finfo(x.dtype).tiny, axis=0)
    given_up = stopped_short(problem, gtol, sizes, x, value, gradient, is_stuck & model.is_definite, is_finite)
    status = jnp.where(is_stuck, given_up, Status.RUNNING)
    return jnp.where(is_spent, Status.CONVERGED_VALUE, status).astype(jnp.int32)
