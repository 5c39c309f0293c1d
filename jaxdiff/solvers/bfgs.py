"""BFGS: a quasi-Newton method that keeps an approximation of the inverse Hessian.

    p_k = -H_k g_k,    s = x_{k+1} - x_k,    y = g_{k+1} - g_k,    rho = 1 / y's
    H_{k+1} = (I - rho s y') H_k (I - rho y s') + rho s s'

Source: Nocedal and Wright, Numerical Optimization (2006), algorithm 6.1 and equations 6.17, 6.20. The line search bisects towards the weak
Wolfe conditions, one trial per step: Lewis and Overton, Nonsmooth optimization via quasi-Newton methods, Math. Program. 141 (2013) 135-163,
algorithm 2.6; the parabola in place of its bisection, and the restart from the identity, are our own. Between bounds H is that of the
parameters that may move, as in Kim, Sra and Dhillon, Tackling box-constrained optimization via a new projected quasi-Newton approach,
SIAM J. Sci. Comput. 32 (2010) 3548-3563; a parameter that a bound holds teaches it nothing.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneTriangle, LaneVector
from jaxdiff.lanewise import lanewise
from jaxdiff.linalg import PANEL_LIMIT, UNROLL_LIMIT, all_rows, all_together, dot, matvec, max_norm, select_lanes, together
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.solvers.base import check_dense, counted, default_gradient_only_tolerance, unevaluated
from jaxdiff.solvers.line_search import Bracket, is_sufficient_decrease
from jaxdiff.solvers.path import Path, among_free, not_past
from jaxdiff.solvers.stationary import GradientTolerance, Sizes, has_run_away, is_rest, is_small

PRODUCTS_LIMIT = 12
"""Parameters up to which the products of H and two vectors are written out number by number; above, they are sums of rows."""

PACKED_LIMIT = PANEL_LIMIT
"""Parameters up to which the lower triangle of H stands for it: half the memory. Above, rows of H are sums of their own."""


@pytree_dataclass
class BFGSState:
    """State of BFGS.

    Attributes:
        x: current points.
        numbers: what a step writes in one copy: the gradient at x, the quasi-Newton step -H g among the parameters that may move, and a row
            each for f, the bracket's three numbers, whether H is still a multiple of the identity, and the three of `Sizes`.
        inverse_hessian: approximation H of the inverse Hessian, symmetric positive definite; up to `PACKED_LIMIT` parameters its lower
            triangle, row after row.
        status: codes of `Status`.
        num_steps: trials made.
        evaluations: evaluations of f that a trial takes.
    """

    x: LaneVector
    numbers: jax.Array
    inverse_hessian: Any
    status: LaneInt
    num_steps: LaneInt
    evaluations: int = static()

    # A lane that does not learn adds nothing to its H, and one that starts begins with the identity.
    self_kept: ClassVar[tuple[str, ...]] = ("inverse_hessian",)

    @property
    def gradient(self) -> LaneVector:
        """The gradient at x."""
        return self.numbers[: self.x.shape[0]]

    @property
    def direction(self) -> LaneVector:
        """The quasi-Newton step from x."""
        return self.numbers[self.x.shape[0] : 2 * self.x.shape[0]]

    @property
    def value(self) -> LaneFloat:
        """The value of f at x."""
        return self.numbers[-8]

    @property
    def bracket(self) -> Bracket:
        """Where on the line acceptable steps may lie, and the one to try next."""
        return Bracket(self.numbers[-7], self.numbers[-6], self.numbers[-5])

    @property
    def is_fresh(self) -> LaneBool:
        """Whether H is still a multiple of the identity, from the start or after a restart."""
        return self.numbers[-4] > 0

    @property
    def sizes(self) -> Sizes:
        """How large f, its gradient and x have been."""
        return Sizes(self.numbers[-3], self.numbers[-2], self.numbers[-1])

    @property
    def step_size(self) -> LaneFloat:
        """Multiple of the quasi-Newton step to try next."""
        return self.numbers[-5]

    @property
    def num_evaluations(self) -> LaneInt:
        """Evaluations of f so far, that of the start included."""
        return (self.num_steps + 1) * self.evaluations

    def at(self, x: LaneVector, value: LaneFloat, gradient: LaneVector) -> "BFGSState":
        """The state with these in place of its own."""
        n = x.shape[0]
        return dataclasses.replace(self, x=x, numbers=self.numbers.at[:n].set(gradient).at[2 * n].set(value))


@pytree_dataclass
class BFGS:
    """BFGS with a dense inverse Hessian: for up to a few hundred parameters.

    Attributes:
        gtol: stop where the largest absolute entry of the gradient is at most this, in units of f per unit of x; one number, or a pytree
            like x. None: eps^(1/2), with finite differences eps^(1/3), where the gradient is small beside f, x and what they have been
            too (see `stationary`).
        xtol: CONVERGED_STEP where the last step changed no parameter by more than this fraction of itself, and the next one would not
            either; one number, or a pytree like x. None: no such test.
        ftol: CONVERGED_VALUE where the last step lowered f by no more than this fraction of abs(f), and the next one promises no more.
            None: no such test.

    Note:
        A method that sees gradients only cannot tell a saddle from a minimum: CONVERGED_GRADIENT says that the gradient is small.

    Example:
        >>> import jaxdiff as jd
        >>> rosenbrock = lambda x: (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        >>> result = jd.minimize(rosenbrock, [-1.2, 1.0], solver=jd.BFGS())
        >>> [round(float(v), 6) for v in result.x], result.status_name
        ([1.0, 1.0], 'CONVERGED_GRADIENT')
    """

    gtol: Any = None
    xtol: Any = None
    ftol: Any = None

    name: ClassVar[str] = "bfgs"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol", "xtol", "ftol")
    has_optional_tests: ClassVar[bool] = True
    takes_bounds: ClassVar[bool] = True
    weighs_gradient: ClassVar[bool] = True
    steps_per_round: ClassVar[int] = 4

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float | None:
        """See `base.Solver`."""
        return default_gradient_only_tolerance(name, dtype, is_exact)

    def init(self, problem: Minimize, x: LaneVector) -> BFGSState:
        """See `base.Solver`."""
        check_dense("BFGS", x)
        n, lanes = x.shape
        identity, start = _identity(n, x.dtype), unevaluated(x)
        zero, one = jnp.zeros((1, lanes), x.dtype), jnp.ones((1, lanes), x.dtype)
        numbers = jnp.concatenate([jnp.zeros((2 * n, lanes), x.dtype), start["value"][None], zero, zero, one, one, zero, zero, zero])
        return BFGSState(
            x=x,
            numbers=numbers,
            inverse_hessian=jnp.broadcast_to(identity, (*identity.shape[:-1], lanes)),
            status=start["status"],
            num_steps=start["num_steps"],
            evaluations=problem.evaluations_per_gradient,
        )

    def restart_where(self, problem: Minimize, state: BFGSState, is_fresh: LaneBool, x: LaneVector) -> BFGSState:
        """New starting points in these lanes. See `loop.restart_where`."""
        start = {name: jnp.where(is_fresh, new, getattr(state, name)) for name, new in unevaluated(x).items() if name in _STARTS}
        return dataclasses.replace(state, **start)

    def step(self, problem: Minimize, state: BFGSState) -> BFGSState:
        """See `base.Solver`."""
        return self.step_where(problem, state, state.status == Status.RUNNING)

    def step_where(self, problem: Minimize, state: BFGSState, is_running: LaneBool) -> BFGSState:
        """One trial in these lanes; the others stay as they are. See `loop.step_where`.

        Stage by stage, each in as few loops over the lanes as there can be (`lanewise`): XLA's CPU compiler would compute the product of H
        and a vector anew for every entry of the next H.
        """
        given = _given(problem, state, self.gtol, is_running)
        image, z = _images(state.inverse_hessian, given)
        seen = lanewise(_Scalars.of, given, z)
        verdict = lanewise(_Verdict.of, given, seen)
        if is_running.shape[0] == 1:
            # Each of its numbers would go through the whole of the line search for itself.
            verdict = all_together(verdict)
        moved, inverse_hessian = _moved(state.inverse_hessian, given, seen, verdict, image, z)
        direction = moved.direction
        if problem.is_bounded:
            ahead = among_free(problem.free(given.x, given.gradient), direction)
            direction = jnp.where(verdict.moves, ahead, direction)
        return BFGSState(
            x=moved.x,
            numbers=jnp.concatenate([moved.gradient, direction, jnp.stack(verdict.rows)]),
            inverse_hessian=inverse_hessian,
            status=verdict.status,
            num_steps=counted(state.num_steps, is_running.astype(jnp.int32)),
            evaluations=state.evaluations,
        )


_STARTS = ("x", "status", "num_steps")
"""What a step reads of a lane that has not evaluated its start; the rest may be another problem's."""


@pytree_dataclass
class _Bounded:
    """What bounds change of a trial.

    Attributes:
        direction: the direction at x; 0 where a bound leaves no way.
        moving: the direction at the trial; 0 where a bound has been met before.
        projected: the gradient at the trial of the parameters that may move from there.
        y: by how much the gradient of the parameters that may move has changed.
        downhill: the negative gradient at x of the parameters that may move.
        mean_slope: as in `Path`.
        first_stop: as in `Path`.
    """

    direction: LaneVector
    moving: LaneVector
    projected: LaneVector
    y: LaneVector
    downhill: LaneVector
    mean_slope: LaneFloat
    first_stop: LaneFloat


@pytree_dataclass
class _Given:
    """What a step knows of a trial, all of it written out: of what is computed on the way in XLA makes no vector instructions.

    Attributes:
        state: the state, without H.
        x: the trial.
        displacement: the step there.
        value: f there.
        gradient: its gradient there.
        per_gtol: one over the tolerance of each entry of the gradient: a division would cost more than all else that is asked of it.
        is_gtol_given: whether a person gave it.
        is_running: whether to change anything.
        bounded: None without bounds.
    """

    state: BFGSState
    x: LaneVector
    displacement: LaneVector
    value: LaneFloat
    gradient: LaneVector
    per_gtol: LaneVector
    is_gtol_given: LaneBool
    is_running: LaneBool
    bounded: _Bounded | None

    @property
    def is_start(self) -> LaneBool:
        """Whether the trial is the start: of such a lane nothing but x means anything before."""
        return self.state.num_steps < 0

    @property
    def sizes(self) -> Sizes:
        """Of the points before."""
        sizes = self.state.sizes
        return Sizes(*(jnp.where(self.is_start, 0, size) for size in (sizes.steepest, sizes.highest, sizes.widest)))

    @property
    def direction(self) -> LaneVector:
        """As in `_Bounded`."""
        return jnp.where(self.is_start, 0, self.state.direction) if self.bounded is None else self.bounded.direction

    @property
    def moving(self) -> LaneVector:
        """As in `_Bounded`."""
        return self.direction if self.bounded is None else self.bounded.moving

    @property
    def projected(self) -> LaneVector:
        """As in `_Bounded`."""
        return self.gradient if self.bounded is None else self.bounded.projected

    @property
    def y(self) -> LaneVector:
        """As in `_Bounded`."""
        return self.gradient - self.state.gradient if self.bounded is None else self.bounded.y

    @property
    def downhill(self) -> LaneVector:
        """As in `_Bounded`."""
        return -self.state.gradient if self.bounded is None else self.bounded.downhill


def _given(problem: Minimize, state: BFGSState, gtol: GradientTolerance, is_running: LaneBool) -> _Given:
    """The trial, f and its gradient there."""
    direction = jnp.where(state.num_steps < 0, 0, state.direction)
    path = Path.along(problem, state.x, state.gradient, direction, state.bracket.trial)
    x, displacement = together(path.x, path.displacement)
    value, gradient = problem.value_and_gradient(x)
    if x.shape[0] <= PANEL_LIMIT:
        value, *rows = together(value, *gradient)
        gradient = jnp.stack(rows)
    bounded = None
    if path.first_stop is not None:
        free = problem.free(state.x, state.gradient)
        vectors = (
            path.direction,
            path.moving,
            problem.projected(x, gradient),
            among_free(free, gradient - state.gradient),
            among_free(free, -state.gradient),
        )
        bounded = _Bounded(*together(*vectors), *together(path.mean_slope, path.first_stop))
    without_matrix = dataclasses.replace(state, inverse_hessian=None)
    spread, is_given = jnp.broadcast_to(1 / gtol.limit, x.shape), jnp.broadcast_to(gtol.is_given, is_running.shape)
    return _Given(without_matrix, x, displacement, value, gradient, spread, is_given, is_running, bounded)


@functools.lru_cache(maxsize=64)
def _rows_and_columns(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each entry of a packed lower triangle."""
    rows, columns = np.tril_indices(n)
    return rows, columns


def _identity(n: int, dtype: DType) -> jax.Array:
    """The identity as H is kept, for one lane."""
    identity = np.eye(n)
    return jnp.asarray(identity[_rows_and_columns(n)] if n <= PACKED_LIMIT else identity, dtype)[..., None]


def _images(inverse_hessian: jax.Array, given: _Given) -> tuple[LaneVector, LaneVector]:
    """H times the gradient and times its change, in one pass over H."""
    n = given.x.shape[0]
    if n > PACKED_LIMIT:
        return together(*(matvec(inverse_hessian, vector) for vector in (given.projected, given.y)))  # type: ignore[return-value]
    place = np.zeros((n, n), np.int32)
    rows, columns = _rows_and_columns(n)
    place[rows, columns] = place[columns, rows] = np.arange(rows.size)

    def products(lower: LaneTriangle, given: _Given) -> tuple[LaneVector, LaneVector]:
        images = [functools.reduce(jnp.add, [lower[place[:, j]] * v[j] for j in range(n)]) for v in (given.projected, given.y)]
        return together(*images)  # type: ignore[return-value]

    return lanewise(products, inverse_hessian, given) if n <= PRODUCTS_LIMIT else products(inverse_hessian, given)


@pytree_dataclass
class _Moved:
    """Vectors behind a trial.

    Attributes:
        x: as in the state.
        gradient: as in the state.
        direction: as in the state, between bounds before what they hold is taken out.
        s: the step that H learns from, 0 where it does not.
        u: H becomes scale H + u s' + s u'.
    """

    x: LaneVector
    gradient: LaneVector
    direction: LaneVector
    s: LaneVector
    u: LaneVector

    @classmethod
    def of(cls, given: _Given, seen: "_Scalars", verdict: "_Verdict", image: LaneVector, z: LaneVector) -> "_Moved":
        """All of them in one loop over the lanes."""
        state, moves, learns = given.state, verdict.moves, verdict.learns
        # Where nothing is learnt s and z are put out of the way, for they may be anything.
        s = jnp.where(learns, given.displacement, 0)
        u = jnp.where(learns, verdict.weight * given.displacement - verdict.rho * z, 0)
        # H_{k+1} g from the product with H_k.
        along = jnp.where(learns, seen.s_gradient, 0)
        across = jnp.where(learns, verdict.weight * seen.s_gradient - verdict.rho * seen.z_gradient, 0)
        ahead = jnp.where(given.is_start, -given.projected, -(verdict.scale * image + u * along + s * across))
        direction = jnp.where(moves, ahead, jnp.where(verdict.is_reset, given.downhill, state.direction))
        x, gradient = jnp.where(moves, given.x, state.x), jnp.where(moves, given.gradient, state.gradient)
        return cls(*together(x, gradient, direction, s, u))


def _moved(
    inverse_hessian: jax.Array, given: _Given, seen: "_Scalars", verdict: "_Verdict", image: LaneVector, z: LaneVector
) -> "tuple[_Moved, jax.Array]":
    """The vectors behind a trial, and H there: scale H + u s' + s u', or the identity."""
    n = given.x.shape[0]
    rows, columns = _rows_and_columns(n) if n <= PACKED_LIMIT else (np.arange(n)[:, None], np.arange(n)[None])

    def updated(inverse_hessian: jax.Array, verdict: _Verdict, moved: _Moved) -> jax.Array:
        scaled = jnp.where(verdict.is_reset, _identity(n, given.x.dtype), inverse_hessian * verdict.scale)
        return scaled + moved.u[rows] * moved.s[columns] + moved.s[rows] * moved.u[columns]

    def both(inverse_hessian: jax.Array, given: _Given, seen: _Scalars, verdict: _Verdict, *products: LaneVector) -> Any:
        moved = _Moved.of(given, seen, verdict, *products)
        return moved.x, moved.gradient, moved.direction, updated(inverse_hessian, verdict, moved)

    if n > UNROLL_LIMIT:
        moved = _Moved.of(given, seen, verdict, image, z)
        return moved, updated(inverse_hessian, verdict, moved)
    x, gradient, direction, inverse_hessian = lanewise(both, inverse_hessian, given, seen, verdict, image, z)
    return _Moved(x, gradient, direction, x, x), inverse_hessian


@pytree_dataclass
class _Scalars:
    """What a step needs to know of its vectors: one number per lane each."""

    is_finite: LaneBool
    slope: LaneFloat
    trial_slope: LaneFloat
    curvature: LaneFloat
    s_squared: LaneFloat
    y_squared: LaneFloat
    y_z: LaneFloat
    s_z: LaneFloat
    s_gradient: LaneFloat
    z_gradient: LaneFloat
    largest: LaneFloat
    old_largest: LaneFloat
    width: LaneFloat
    stride: LaneFloat
    ratio: LaneFloat
    old_ratio: LaneFloat
    reach: LaneFloat

    @classmethod
    def of(cls, given: _Given, z: LaneVector) -> "_Scalars":
        """All of them in few loops over the lanes."""
        state, per_gtol, projected, direction = given.state, given.per_gtol, given.projected, given.direction
        s, y, size = given.displacement, given.y, jnp.abs(state.x)
        moved = jnp.where(size > 0, jnp.abs(direction) / jnp.where(size > 0, size, 1), jnp.where(direction == 0, 0, jnp.inf))
        largest, old_largest, width = max_norm(projected), max_norm(given.downhill), max_norm(given.x)
        is_finite = all_rows(jnp.isfinite(given.x)) & jnp.isfinite(given.value) & all_rows(jnp.isfinite(given.gradient))
        numbers = (
            dot(state.gradient, direction),
            dot(given.gradient, given.moving),
            dot(s, y),
            dot(s, s),
            dot(y, y),
            dot(y, z),
            dot(s, z),
            dot(s, projected),
            dot(z, projected),
            largest,
            old_largest,
            width,
            max_norm(s),
            max_norm(projected * per_gtol),
            max_norm(given.downhill * per_gtol),
            max_norm(moved),
        )
        return cls(is_finite, *together(*numbers))


@pytree_dataclass
class _Verdict:
    """What becomes of a trial, one number per lane each.

    Attributes:
        moves: whether x becomes the trial.
        learns: whether H does.
        is_reset: whether H becomes the identity.
        scale: what H is multiplied by.
        rho: 1 / y's, times that.
        weight: half of what s s' is.
        rows: the last rows of the state's numbers.
        status: codes of `Status`.
    """

    moves: LaneBool
    learns: LaneBool
    is_reset: LaneBool
    scale: LaneFloat
    rho: LaneFloat
    weight: LaneFloat
    rows: list[LaneFloat]
    status: LaneInt

    @classmethod
    def of(cls, given: _Given, seen: _Scalars) -> "_Verdict":
        """Where the line goes on, whether H learns, and how it stands with the lane; all in one loop."""
        state, bounded, is_start, is_running = given.state, given.bounded, given.is_start, given.is_running
        step_size, is_finite = state.bracket.trial, seen.is_finite
        mean_slope = seen.slope if bounded is None else bounded.mean_slope
        is_low = is_finite & is_sufficient_decrease(state.value, given.value, mean_slope, seen.trial_slope, step_size)
        bracket, is_accepted = state.bracket.narrowed(is_low, state.value, given.value, mean_slope, seen.trial_slope)
        if bounded is not None:
            trial = not_past(bounded.first_stop, step_size, bracket.trial)
            bracket = dataclasses.replace(bracket, trial=jnp.where(is_low, bracket.trial, trial))
        is_accepted = is_finite & (is_accepted | is_start)
        # Nothing is known of the curvature yet: the first trial moves no coordinate by more than one.
        first = safe_divide(jnp.ones_like(step_size), seen.largest, otherwise=1.0)
        next_trial = jnp.where(is_start, jnp.minimum(first, 1), 1).astype(step_size.dtype)
        bracket = select_lanes(is_accepted, Bracket.fresh(next_trial), bracket)

        # Where the line is exhausted the approximation may be to blame: once more along the gradient, and then no more.
        epsilon = machine_epsilon(state.x.dtype)
        is_stuck = ~is_accepted & (bracket.trial * seen.reach <= epsilon)
        is_stuck = is_stuck | (~is_accepted & ((bracket.trial <= epsilon**2) | ~(seen.slope < 0)))
        is_restarted = is_stuck & ~state.is_fresh & ~is_start
        gentle = safe_divide(jnp.ones_like(step_size), seen.old_largest, otherwise=1.0)
        bracket = select_lanes(is_restarted, Bracket.fresh(jnp.minimum(gentle, 1)), bracket)
        was_rest = is_rest(given.is_gtol_given, given.sizes, seen.old_ratio, seen.old_largest, state.value, seen.width)
        given_up = jnp.where(was_rest, Status.CONVERGED_GRADIENT, jnp.where(is_finite, Status.STALLED, Status.NON_FINITE))
        failure = jnp.where(is_stuck & ~is_restarted, given_up, Status.RUNNING)
        last = jnp.where(is_start, jnp.inf, state.value)
        runs_away = has_run_away(given.sizes, seen.width, given.value, last)
        failure = jnp.where(runs_away, Status.UNBOUNDED, failure)
        failure = jnp.where(is_start & ~is_finite, Status.NON_FINITE_START, failure)
        has_ended = is_small(given.is_gtol_given, given.sizes, seen.ratio, seen.largest, given.value, seen.width, seen.stride)
        status = jnp.where(is_accepted & has_ended & ~runs_away, Status.CONVERGED_GRADIENT, failure)

        # Below this the curvature is rounding; a division by it would destroy what has been learnt.
        is_safe = seen.curvature > epsilon * jnp.sqrt(seen.s_squared) * jnp.sqrt(seen.y_squared)
        guarded = jnp.where(is_safe, seen.curvature, 1)
        is_scaled = state.is_fresh & is_safe
        scale = jnp.where(is_scaled, safe_divide(guarded, seen.y_squared, otherwise=1.0), 1)
        rho = 1 / guarded
        weight = rho * (1 + rho * scale * seen.y_z)
        # Two numbers per lane tell of an overflow; looking through the matrix for it would cost a pass over memory.
        is_sound = is_safe & jnp.isfinite(weight) & jnp.isfinite(scale * seen.s_z)
        learns = is_running & is_accepted & ~is_start & is_sound
        sizes = given.sizes.with_point(is_accepted, is_start, seen.largest, given.value, seen.width)
        moves = is_running & (is_accepted | is_start)
        is_fresh = is_start | is_restarted | (state.is_fresh & ~is_accepted)
        line = (bracket.low, bracket.high, bracket.trial, is_fresh.astype(step_size.dtype), sizes.steepest, sizes.highest, sizes.widest)
        keep = lambda new, old: select_lanes(is_running, new, old)  # noqa: E731
        return cls(
            moves=moves,
            learns=learns,
            is_reset=is_running & (is_start | is_restarted),
            scale=jnp.where(learns, scale, 1),
            rho=rho * scale,
            weight=weight / 2,
            rows=[jnp.where(moves, given.value, state.value), *(keep(new, old) for new, old in zip(line, state.numbers[-7:], strict=True))],
            status=keep(status.astype(jnp.int32), state.status),
        )
