"""Levenberg-Marquardt on the normal equations: the least work per step, for many small and well-conditioned problems at once.

    (J'J + lambda D^2) p = -J'r,    x_{k+1} = x_k + p

One pass over the residuals gives J'J, J'r and the cost; LDL' factors of the matrix scaled to a unit diagonal give two steps: the damped
one, which is tried next, and the undamped one, which tells how much there is left to gain. Forming J'J squares the condition of J. Where
that leaves no digits a pivot shows it, and the lane ends as SINGULAR rather than with a success: `LevenbergMarquardt` works from orthogonal
factors and can go on from there, which a batch lets it do.

Sources: Marquardt, SIAM J. Appl. Math. 11 (1963) 431-441; Moré, The Levenberg-Marquardt algorithm: implementation and theory (1978), for D;
Nielsen, Damping parameter in Marquardt's method, IMM-REP-1999-05 (1999), equation 2.3; Madsen, Nielsen and Tingleff, Methods for
non-linear least squares problems (2004), algorithm 3.16. Bounds by projection: Bertsekas, SIAM J. Control Optim. 20 (1982) 221-246.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._entries import Entries, dot, each, every, largest, taken, total
from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneVector
from jaxdiff._validation import check_positive
from jaxdiff.linalg import UNROLL_LIMIT, in_one_loop, solve_definite, solve_definite_by_entries
from jaxdiff.problem import LeastSquares
from jaxdiff.result import Status
from jaxdiff.solvers.base import check_dense, counted, require_residuals, unevaluated


@pytree_dataclass
class LevenbergMarquardtCholeskyState:
    """State of Levenberg-Marquardt on the normal equations.

    All real numbers are rows of one array: a step reads it in one loop and writes it in one copy.

    Attributes:
        numbers: the rows that `Rows` names, in its order, ``[rows, lanes]``.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of the residuals.
        size: number of parameters n.
    """

    numbers: jax.Array
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt
    size: int = static()

    @property
    def rows(self) -> "Rows":
        """The rows by name."""
        return Rows.of(self.numbers, self.size)

    @property
    def x(self) -> LaneVector:
        """Current points."""
        return self.numbers[: self.size]

    @property
    def value(self) -> LaneFloat:
        """The cost there."""
        return self.numbers[2 * self.size]

    @property
    def gradient(self) -> LaneVector:
        """J'r there."""
        return self.numbers[2 * self.size + 1 : 3 * self.size + 1]

    @property
    def step_size(self) -> LaneFloat:
        """The damping, under the name that a history keeps it by."""
        return self.numbers[-5]


@pytree_dataclass
class Rows:
    """The numbers of one lane, or of all lanes, one array each.

    Attributes:
        x: current point.
        step: the step to try next.
        value: the cost at x.
        gradient: J'r there.
        lower: the lower triangle of J'J there, row after row.
        scale: D^2, the largest diagonal of J'J so far.
        damping: lambda.
        growth: what the damping is multiplied by at the next rejection.
        predicted: the decrease of the cost that the model promises of the step.
        slope: the square of the largest slope of the cost along a column of J of length one.
        reach: 0 where the step would change no parameter beyond rounding, else 1.
    """

    x: Entries
    step: Entries
    value: jax.Array
    gradient: Entries
    lower: Entries
    scale: Entries
    damping: jax.Array
    growth: jax.Array
    predicted: jax.Array
    slope: jax.Array
    reach: jax.Array

    @classmethod
    def of(cls, rows: jax.Array, n: int) -> "Rows":
        """Rows in the order of `LevenbergMarquardtCholeskyState.numbers`."""
        begins = np.cumsum([0, n, n, 1, n, n * (n + 1) // 2, n])
        x, step, value, gradient, lower, scale = (_entries(rows[a:b], n) for a, b in itertools.pairwise(begins))
        return cls(x, step, value[0], gradient, lower, scale, *rows[begins[-1] :])


def _entries(vector: jax.Array, n: int) -> Entries:
    """A vector in the form that a step with n parameters is written in: see `_updated`."""
    return list(vector) if n <= UNROLL_LIMIT else vector


@pytree_dataclass
class LevenbergMarquardtCholesky:
    """Levenberg-Marquardt on the normal equations: what a batch of small least-squares problems is solved with first.

    Attributes:
        gtol: CONVERGED_GRADIENT where no column of J makes an angle with the residuals whose cosine exceeds this; free of units. None:
            4 eps, with finite differences eps^(2/3).
        xtol: CONVERGED_STEP where the undamped step would change no parameter by more than this fraction of itself; 0 switches the test
            off. One number, or a pytree like x. None: eps^(2/3), with finite differences eps^(1/2).
        ftol: CONVERGED_VALUE where the undamped model promises no further decrease than this fraction of the cost, or than 10 eps of it,
            which rounding hides. None: 10 eps, and the undamped step would change no parameter by more than a tenth of eps^(3/7) of itself.
        damping: lambda at the start, relative to D^2.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> residuals = lambda x: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])
        >>> result = jd.least_squares(residuals, [-1.2, 1.0], solver=jd.LevenbergMarquardtCholesky())
        >>> [round(float(v), 5) for v in result.x], bool(result.success)
        ([1.0, 1.0], True)
    """

    gtol: Any = None
    xtol: Any = None
    ftol: Any = None
    damping: Any = 1e-2

    name: ClassVar[str] = "levenberg_marquardt_cholesky"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol", "xtol", "ftol")
    takes_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_positive(self.damping, "damping")

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        epsilon = machine_epsilon(dtype)
        if name == "ftol":
            return 10 * epsilon
        if name == "gtol":
            return 4 * epsilon if is_exact else epsilon ** (2 / 3)
        return epsilon ** (2 / 3) if is_exact else epsilon ** (1 / 2)

    def init(self, problem: Any, x: LaneVector) -> LevenbergMarquardtCholeskyState:
        """See `base.Solver`."""
        require_residuals(problem, "LevenbergMarquardtCholesky")
        check_dense("LevenbergMarquardtCholesky", x)
        n, lanes = x.shape
        start = unevaluated(x)
        # Of a lane that has not evaluated its start the first trial reads x alone.
        others = jnp.zeros((3 * n + n * (n + 1) // 2 + 6, lanes), x.dtype)
        numbers = jnp.concatenate([x, others])
        return LevenbergMarquardtCholeskyState(numbers, start["status"], start["num_steps"], start["num_evaluations"], size=n)

    def restart_where(
        self, problem: LeastSquares, state: LevenbergMarquardtCholeskyState, is_fresh: LaneBool, x: LaneVector
    ) -> LevenbergMarquardtCholeskyState:
        """New starting points in these lanes. See `loop.restart_where`."""
        start = unevaluated(x)
        counts = {name: jnp.where(is_fresh, start[name], getattr(state, name)) for name in ("status", "num_steps", "num_evaluations")}
        return dataclasses.replace(state, numbers=state.numbers.at[: state.size].set(jnp.where(is_fresh, x, state.x)), **counts)

    def step(self, problem: LeastSquares, state: LevenbergMarquardtCholeskyState) -> LevenbergMarquardtCholeskyState:
        """See `base.Solver`."""
        return self.step_where(problem, state, jnp.ones(state.status.shape, bool))

    def step_where(
        self, problem: LeastSquares, state: LevenbergMarquardtCholeskyState, is_running: LaneBool
    ) -> LevenbergMarquardtCholeskyState:
        """One trial in these lanes; the others stay as they are. See `loop.step_where`."""
        n = state.size
        is_start = state.num_steps < 0
        trial_x = problem.project(state.x + jnp.where(is_start, 0, state.numbers[n : 2 * n]))
        trial = problem.normal_equations(trial_x)
        spread = lambda value: _entries(jnp.broadcast_to(value, trial_x.shape), n)  # noqa: E731
        given = _Given(
            trial=_Trial(trial.value, _entries(trial.gradient, n), _entries(trial.lower, n)),
            limits=[spread(side) for side in problem.limits] if problem.is_bounded else None,
            tolerances=[spread(value) for value in (self.gtol, self.xtol, self.ftol)],
            damping=jnp.broadcast_to(jnp.asarray(self.damping, trial_x.dtype), is_start.shape),
            old=state.rows,
            status=state.status,
            is_start=is_start,
            is_running=is_running,
        )
        new, status = _updated(given)
        more = is_running.astype(jnp.int32)
        return LevenbergMarquardtCholeskyState(
            jnp.concatenate([leaf[None] if leaf.ndim == 1 else leaf for leaf in jax.tree.leaves(new)]),
            status,
            counted(state.num_steps, more),
            counted(state.num_evaluations, more * problem.evaluations_per_gradient),
            size=n,
        )


@pytree_dataclass
class _Trial:
    """The normal equations at a trial point; fields as in `Rows`."""

    value: jax.Array
    gradient: Entries
    lower: Entries


@pytree_dataclass
class _Given:
    """All that a step depends on, each number an array of its own.

    Attributes:
        trial: the normal equations at the trial point.
        limits: lower and upper bounds, None without any.
        tolerances: gtol, xtol and ftol, for each parameter.
        damping: lambda at the start.
        old: the state; where the trial point is the start only x counts, the rest may be another problem's.
        status: of the state.
        is_start: whether the trial point is the start.
        is_running: whether to change anything.
    """

    trial: _Trial
    limits: list[Entries] | None
    tolerances: list[Entries]
    damping: jax.Array
    old: Rows
    status: jax.Array
    is_start: jax.Array
    is_running: jax.Array

    @property
    def trial_x(self) -> Entries:
        """The trial point, computed where it is read: fused in from outside of a loop, the sum would keep it from vector instructions."""
        moved = each(lambda x, step: x + jnp.where(self.is_start, 0, step), self.old.x, self.old.step)
        return moved if self.limits is None else each(jnp.clip, moved, *self.limits)


@pytree_dataclass
class _Scaled:
    """The normal equations scaled to a unit diagonal; a row of the identity for a parameter that stays where it is.

    Attributes:
        unit: what the scaled unknowns are multiplied by.
        free: whether a parameter may move; None where all may.
        downhill: the scaled right-hand side.
        below: the entries below the diagonal, row after row.
        extra: what the damping adds to the diagonal.
    """

    unit: Entries
    free: Entries | None
    downhill: Entries
    below: Entries
    extra: Entries


@pytree_dataclass
class _Proposal:
    """The two steps in scaled unknowns and what the model promises of them."""

    newton: Entries
    is_definite: jax.Array
    promised: jax.Array
    damped: Entries
    predicted: jax.Array


def _updated(given: _Given) -> tuple[Rows, jax.Array]:
    """The state and the status behind a trial.

    Stage by stage. Of few parameters each is one loop over the lanes, and of a stage much larger the compiler makes no vector instructions.
    Of many, each operation is one for all parameters.
    """
    together = in_one_loop if isinstance(given.old.x, list) else lambda function, *trees: function(*trees)
    is_accepted, rejected, numbers = together(_judged, given)
    at = dataclasses.replace(given.old, **together(_moved, given, is_accepted), **numbers)
    scaled = together(_scaled, at, given.limits)
    proposal = _proposed(together, scaled)
    proposed = together(_stepped, given, at, scaled, proposal, is_accepted)
    is_near = together(_is_near, at, scaled, proposal.newton, given.tolerances[2])
    status = together(_verdict, given, at, scaled, proposal, is_near, is_accepted, rejected)
    return dataclasses.replace(at, **proposed), status


def _judged(given: _Given) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """Whether the trial is accepted, the status where it is not, and the fields of `Rows` that follow from that alone."""
    trial, old, is_start = given.trial, given.old, given.is_start
    epsilon = machine_epsilon(old.value.dtype)
    diagonal = _diagonal(trial.lower)
    # A NaN or an infinity in any entry of J shows in the diagonal of J'J; an overflow of the squares shows there too.
    is_finite = jnp.isfinite(sum((total(each(jnp.abs, number)) for number in (trial.gradient, diagonal, given.trial_x)), trial.value))
    slope = largest(each(lambda d, g: jnp.where(d > 0, g * (g / jnp.where(d > 0, d, 1)), 0), diagonal, trial.gradient))
    decrease = old.value - trial.value
    rounding = 4 * epsilon * old.value
    # Where the cost has gone flat to rounding the slopes still tell the way.
    is_blind = ~is_start & (old.predicted <= rounding) & (jnp.abs(decrease) <= rounding)
    ratio = jnp.where(is_blind, 0.5, safe_divide(decrease, old.predicted))
    is_better = (is_blind & (slope < 0.64 * old.slope)) | (~is_blind & (old.predicted > 0) & (ratio > 1e-4))
    is_accepted = is_finite & (is_start | is_better)
    is_stuck = is_blind | (old.reach < 0.5) | ~(old.damping < 1 / epsilon)
    rejected = jnp.where(is_stuck, jnp.where(is_finite, Status.STALLED, Status.NON_FINITE), Status.RUNNING)
    rejected = jnp.where(is_start, Status.NON_FINITE_START, rejected)
    # Nielsen's rule.
    bend = 2 * jnp.clip(ratio, 0, 1) - 1
    lowered = jnp.maximum(old.damping * jnp.maximum(1 - bend * bend * bend, 1 / 3), 1e3 * float(jnp.finfo(ratio.dtype).tiny))
    # Rejections end long before this overflows.
    damping = jnp.where(is_accepted, lowered, old.damping * old.growth)
    growth = jnp.where(is_accepted, jnp.full_like(ratio, 2), 2 * old.growth)
    keep = lambda at_start, new, old: jnp.where(given.is_running, jnp.where(is_start, at_start, new), old)  # noqa: E731
    numbers = {
        "damping": keep(given.damping, damping, old.damping),
        "growth": keep(2, growth, old.growth),
        "slope": keep(slope, jnp.where(is_accepted, slope, old.slope), old.slope),
    }
    return is_accepted & given.is_running, jnp.where(given.is_running, rejected, given.status).astype(given.status.dtype), numbers


def _moved(given: _Given, is_accepted: jax.Array) -> dict[str, Any]:
    """The fields of `Rows` that an accepted trial brings along."""
    trial, old = given.trial, given.old
    takes = is_accepted | (given.is_start & given.is_running)
    numbers = {"x": given.trial_x, "value": trial.value, "gradient": trial.gradient, "lower": trial.lower}
    moved = jax.tree.map(lambda a, b: jnp.where(takes, a, b), numbers, {name: getattr(old, name) for name in numbers})
    grown = lambda d, s: jnp.where(takes, jnp.where(given.is_start, d, jnp.maximum(s, d)), s)  # noqa: E731
    return {**moved, "scale": each(grown, _diagonal(trial.lower), old.scale)}


def _scaled(at: Rows, limits: list[Entries] | None) -> _Scaled:
    """The normal equations at the point, scaled."""
    free = None if limits is None else each(_is_free, at.x, at.gradient, *limits)

    def unit_of(d: jax.Array, *is_free: jax.Array) -> jax.Array:
        has_column = functools.reduce(jnp.logical_and, is_free, d > 0)
        return jnp.where(has_column, 1 / jnp.sqrt(jnp.where(has_column, d, 1)), 0)

    unit = each(unit_of, _diagonal(at.lower), *([] if free is None else [free]))
    row, column = np.tril_indices(len(unit), -1)
    below = each(lambda b, u, v: b * u * v, taken(at.lower, row * (row + 1) // 2 + column), taken(unit, row), taken(unit, column))
    extra = each(lambda s, u: at.damping * (s * u * u), at.scale, unit)
    return _Scaled(unit, free, each(lambda g, u: -g * u, at.gradient, unit), below, extra)


def _proposed(together: Callable[..., Any], scaled: _Scaled) -> _Proposal:
    """The undamped and the damped step in scaled unknowns, whether the matrix is definite, and what the undamped model promises of both."""
    n = len(scaled.unit)
    gain = lambda scaled, x: dot(scaled.downhill, x) / 2  # noqa: E731
    damped_gain = lambda scaled, x: (dot(scaled.downhill, x) + dot(scaled.extra, each(jnp.square, x))) / 2  # noqa: E731
    if isinstance(scaled.unit, list):

        def solved(scaled: _Scaled, is_damped: bool) -> tuple[Entries, jax.Array, jax.Array]:
            diagonal = [1 + more if is_damped else jnp.ones_like(more) for more in scaled.extra]
            entries = [[*scaled.below[i * (i - 1) // 2 : i * (i + 1) // 2], diagonal[i]] for i in range(n)]
            x, is_definite = solve_definite_by_entries(entries, scaled.downhill)
            return x, is_definite, (damped_gain if is_damped else gain)(scaled, x)

        newton, is_definite, promised = together(functools.partial(solved, is_damped=False), scaled)
        damped, _, predicted = together(functools.partial(solved, is_damped=True), scaled)
        return _Proposal(newton, is_definite, promised, damped, predicted)
    row, column = np.indices((n, n))
    low, high = np.minimum(row, column), np.maximum(row, column)
    place = np.where(row == column, len(scaled.below) + row, high * (high - 1) // 2 + low)
    # Both systems are solved by one program, side by side as lanes.
    matrices = [jnp.concatenate([scaled.below, diagonal])[place] for diagonal in (jnp.ones_like(scaled.extra), 1 + scaled.extra)]
    x, is_definite = solve_definite(jnp.concatenate(matrices, axis=-1), jnp.concatenate([scaled.downhill] * 2, axis=-1))
    newton, damped = jnp.split(x, 2, axis=-1)
    return _Proposal(newton, is_definite[: newton.shape[-1]], gain(scaled, newton), damped, damped_gain(scaled, damped))


def _stepped(given: _Given, at: Rows, scaled: _Scaled, proposal: _Proposal, is_accepted: jax.Array) -> dict[str, Any]:
    """The fields of `Rows` that say what to try next."""
    # Close to the minimum the damping only delays; where the undamped step fails the damped ones follow.
    is_near = is_accepted & ~given.is_start & proposal.is_definite & (proposal.promised <= 1e-3 * at.value)
    step = each(lambda newton, damped, u: jnp.where(is_near, newton, damped) * u, proposal.newton, proposal.damped, scaled.unit)
    predicted = jnp.where(is_near, proposal.promised, proposal.predicted)
    if given.limits is not None:
        # Bounds bend the step, and only the model itself tells what a bent one promises.
        step = each(lambda x, p, low, high: jnp.clip(x + p, low, high) - x, at.x, step, *given.limits)
        bent = each(lambda p, u: jnp.where(u > 0, p / jnp.where(u > 0, u, 1), 0), step, scaled.unit)
        row, column = np.tril_indices(len(bent), -1)
        across = dot(scaled.below, each(jnp.multiply, taken(bent, row), taken(bent, column))) if len(bent) > 1 else 0
        predicted = dot(scaled.downhill, bent) - dot(bent, bent) / 2 - across
    keep = lambda new, old: jnp.where(given.is_running, new, old)  # noqa: E731
    is_tiny = every(each(lambda p, x: jnp.abs(p) <= machine_epsilon(p.dtype) * jnp.abs(x), step, at.x))
    return {
        "step": each(keep, step, at.step),
        "predicted": keep(predicted, at.predicted),
        "reach": keep(jnp.where(is_tiny, jnp.zeros_like(predicted), 1), at.reach),
    }


def _is_near(at: Rows, scaled: _Scaled, newton: Entries, ftol: Entries) -> jax.Array:
    """Whether the undamped step is short, where ftol is no looser than rounding itself.

    Of noisy data a gain that rounding hides may still be a long way, and steps may shrink by no more than a tenth each. A parameter near
    zero is judged by what it contributes to the model.
    """
    epsilon = machine_epsilon(at.value.dtype)
    noise = epsilon * (total(each(lambda d, x: jnp.sqrt(d) * jnp.abs(x), _diagonal(at.lower), at.x)) + jnp.sqrt(2 * at.value))

    def is_short(p: jax.Array, x: jax.Array, u: jax.Array, tolerance: jax.Array) -> jax.Array:
        size = jnp.maximum(jnp.abs(x), epsilon**-0.75 * noise * u)
        return (jnp.abs(p * u) <= 0.1 * epsilon ** (3 / 7) * size) | (tolerance > 10 * epsilon)

    return every(each(is_short, newton, at.x, scaled.unit, ftol))


def _verdict(
    given: _Given,
    at: Rows,
    scaled: _Scaled,
    proposal: _Proposal,
    is_near: jax.Array,
    is_accepted: jax.Array,
    rejected: jax.Array,
) -> jax.Array:
    """The status: where the trial was accepted, what the undamped model says of the point."""
    epsilon = machine_epsilon(at.value.dtype)
    gtol, xtol, ftol = given.tolerances
    is_small_gain = every(each(lambda tolerance: proposal.promised <= jnp.maximum(tolerance, 10 * epsilon) * at.value, ftol)) & is_near
    is_small = lambda p, u, tolerance, x: jnp.abs(p * u) <= tolerance * jnp.abs(x)  # noqa: E731
    is_small_step = every(each(is_small, proposal.newton, scaled.unit, xtol, at.x))
    if epsilon > 1e-10:
        # In single precision a step of eps^(2/3) may still be worth a part of the cost, far above what rounding of x does to it.
        is_loose = every(each(lambda tolerance: tolerance > 2 * epsilon ** (2 / 3), xtol))
        rounding = total(each(lambda d, x: jnp.sqrt(d) * jnp.abs(x), _diagonal(at.lower), at.x))
        is_small_step &= is_loose | (proposal.promised <= 1e-3 * at.value) | (2 * proposal.promised <= (10 * epsilon * rounding) ** 2)
    length = jnp.sqrt(2 * at.value)
    is_small_slope = each(lambda slope, tolerance: jnp.abs(slope) <= tolerance * length, scaled.downhill, gtol)
    has_influence = each(lambda d, s: d > epsilon * s, _diagonal(at.lower), at.scale)
    if scaled.free is not None:
        or_held = lambda condition, is_free: condition | ~is_free  # noqa: E731
        is_small_slope, has_influence = each(or_held, is_small_slope, scaled.free), each(or_held, has_influence, scaled.free)
    is_small_gradient = every(is_small_slope)
    status = jnp.where(is_small_gain, Status.CONVERGED_VALUE, Status.RUNNING)
    status = jnp.where(is_small_step, Status.CONVERGED_STEP, status)
    status = jnp.where(is_small_gradient, Status.CONVERGED_GRADIENT, status)
    # A parameter without influence, or one that has lost it on the way, was not found; without full rank a step says too little.
    is_sound = (proposal.is_definite & every(has_influence)) | (at.value == 0)
    status = jnp.where(is_sound, status, jnp.where(is_small_gradient, Status.SINGULAR, Status.RUNNING))
    return jnp.where(is_accepted, status.astype(rejected.dtype), rejected)


def _diagonal(lower: Entries) -> Entries:
    """The diagonal of a packed lower triangle."""
    i = np.arange(math.isqrt(2 * len(lower)))
    return taken(lower, i * (i + 3) // 2)


def _is_free(x: jax.Array, gradient: jax.Array, lower: jax.Array, upper: jax.Array) -> jax.Array:
    """As `Minimize.free`."""
    return ~(((x <= lower) & (gradient >= 0)) | ((x >= upper) & (gradient <= 0)) | (lower >= upper))
