"""L-BFGS: a quasi-Newton method that remembers the last few steps instead of a matrix.

    p_k = -H_k g_k
    H_k = gamma I + [S  gamma Y] [[R^-T (D + gamma Y'Y) R^-1,  -R^-T], [-R^-1,  0]] [S  gamma Y]'

S and Y hold the last m steps and changes of the gradient in their rows, D is the diagonal of S'Y and R its upper triangle, oldest pair
first. This is the matrix of the two-loop recursion (Nocedal and Wright, algorithm 7.4) written out, so that a step passes over the history
twice and not four times: once for S g and Y g, once for the direction.

Source: Byrd, Nocedal and Schnabel, Representations of quasi-Newton matrices and their use in limited memory methods, Math. Program. 63
(1994) 129-156, theorem 2.2 and section 3; Nocedal and Wright, Numerical Optimization (2006), section 7.2. Keeping R^-1 in place of R, so
that the ring is never put in order, is our own. The line search is that of `bfgs`. Between bounds H_k is that of the parameters that may
move, as in Kim, Sra and Dhillon, SIAM J. Sci. Comput. 32 (2010) 3548-3563: inner products are with the gradient of these alone.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide
from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import DType, LaneBool, LaneFloat, LaneInt, LaneVector
from jaxdiff._validation import check_count
from jaxdiff.linalg import dot, matvec, max_norm, select_lanes
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.solvers.base import counted, default_gradient_only_tolerance, unevaluated
from jaxdiff.solvers.line_search import Bracket, is_sufficient_decrease
from jaxdiff.solvers.path import Path, among_free, open_ways
from jaxdiff.solvers.stationary import Sizes, assessed, has_run_away, stopped_short


@pytree_dataclass
class Pairs:
    """What is remembered of the pairs beside the pairs themselves: inner products, each in the place of its slot of the ring.

    A slot that holds no pair, or one of a problem that its lane held before, has zero rows and columns in ``inverse_triangle``: whatever
    finite numbers lie in it then count for nothing.

    Attributes:
        inverse_triangle: R^-1, ``[m, m, lanes]``; triangular once its slots are put in order of age.
        gram: Y'Y, ``[m, m, lanes]``.
        curvature: s'y of each pair, ``[m, lanes]``.
        along_steps: s'g of each pair at the current gradient, ``[m, lanes]``.
        along_changes: y'g of each pair at the current gradient, ``[m, lanes]``.
        scale: gamma, s'y / y'y of the newest pair.
        slot: where the next pair goes.
    """

    inverse_triangle: jax.Array
    gram: jax.Array
    curvature: LaneVector
    along_steps: LaneVector
    along_changes: LaneVector
    scale: LaneFloat
    slot: LaneInt

    @classmethod
    def none(cls, memory: int, like: LaneVector) -> "Pairs":
        """No pair yet; H is the identity."""
        lanes = like.shape[-1]
        square, row = jnp.zeros((memory, memory, lanes), like.dtype), jnp.zeros((memory, lanes), like.dtype)
        return cls(square, square, row, row, row, jnp.ones(lanes, like.dtype), jnp.zeros(lanes, jnp.int32))

    def forgotten(self) -> "Pairs":
        """The same with every pair given up; the place in the ring stays."""
        return dataclasses.replace(Pairs.none(self.curvature.shape[0], self.curvature), slot=self.slot)

    def moved(
        self,
        is_stored: LaneBool,
        curvature: LaneFloat,
        change_squared: LaneFloat,
        along_steps: LaneVector,
        along_changes: LaneVector,
        with_change: tuple[LaneVector, LaneVector] | None = None,
    ) -> "Pairs":
        """At a new gradient, with a new pair in the slot where ``is_stored``.

        The inverse of a triangle that loses its first row and column is the rest of the inverse; one that gains a last column c with d at
        its end gains -R^-1 c / d with 1 / d at its end. Neither needs the order of the others.

        Args:
            is_stored: whether there is a new pair.
            curvature: its s'y.
            change_squared: its y'y.
            along_steps: s'g of every pair, the new one included, at the new gradient.
            along_changes: y'g likewise.
            with_change: s'y and y'y of every old pair with the new y; None where y is the change of the very gradients.
        """
        memory = along_steps.shape[0]
        is_next = jnp.arange(memory)[:, None] == self.slot
        is_new = is_next & is_stored
        # Without a new pair the oldest goes all the same: its slot has been written over. The next new pair would have taken its place.
        rest = jnp.where(is_next[:, None] | is_next[None], 0, self.inverse_triangle)
        # What lies in a slot without a pair must not even overflow: zero times infinity is not zero.
        is_held = is_new | (jnp.einsum("iil->il", rest) != 0)
        along_steps, along_changes = jnp.where(is_held, along_steps, 0), jnp.where(is_held, along_changes, 0)
        # s_i'y of the new y is s_i'g_new - s_i'g_old: its rounding is that of y itself.
        along_new, gram_new = along_steps - self.along_steps, along_changes - self.along_changes
        if with_change is not None:
            along_new, gram_new = (jnp.where(is_held & ~is_new, products, 0) for products in with_change)
        gram_new = jnp.where(is_new, change_squared, gram_new)
        guarded = jnp.where(is_stored, curvature, 1)
        column = jnp.where(is_new, 1 / guarded, -matvec(rest, along_new) / guarded)
        return Pairs(
            inverse_triangle=jnp.where(is_new[None], column[:, None], rest),
            gram=jnp.where(is_new[None], gram_new[:, None], jnp.where(is_new[:, None], gram_new[None], self.gram)),
            curvature=jnp.where(is_new, curvature, self.curvature),
            along_steps=along_steps,
            along_changes=along_changes,
            scale=jnp.where(is_stored, safe_divide(guarded, change_squared, otherwise=1.0), self.scale),
            slot=jnp.where(is_stored, (self.slot + 1) % memory, self.slot),
        )

    def weights(self) -> tuple[LaneVector, LaneVector]:
        """By how much each step and each change enters H g, ``[m, lanes]`` each."""
        by_changes = matvec(self.inverse_triangle, self.along_steps)
        middle = self.curvature * by_changes + self.scale * (matvec(self.gram, by_changes) - self.along_changes)
        return matvec(jnp.swapaxes(self.inverse_triangle, 0, 1), middle), -self.scale * by_changes


@pytree_dataclass
class LBFGSState:
    """State of L-BFGS.

    Attributes:
        x: current points.
        value: f there.
        gradient: its gradient there.
        direction: the quasi-Newton step there.
        slope: derivative of f along it.
        steps: S, ``[m, n, lanes]``: a ring in which one slot is written per accepted step.
        changes: Y, ``[m, n, lanes]``, likewise.
        pairs: the inner products of these.
        is_fresh: whether no pair is remembered, at the start or after a restart.
        bracket: where on the line acceptable steps may lie, and the one to try next.
        sizes: how large f, its gradient and x have been.
        status: codes of `Status`.
        num_steps: trials made.
        num_evaluations: evaluations of f.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    direction: LaneVector
    slope: LaneFloat
    steps: jax.Array
    changes: jax.Array
    pairs: Pairs
    is_fresh: LaneBool
    bracket: Bracket
    sizes: Sizes
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt

    self_kept: ClassVar[tuple[str, ...]] = ("steps", "changes")

    @property
    def step_size(self) -> LaneFloat:
        """Multiple of the quasi-Newton step to try next."""
        return self.bracket.trial


@pytree_dataclass
class LBFGS:
    """L-BFGS: for any number of parameters; 2 memory + 5 vectors of their length are kept.

    Attributes:
        memory: pairs of steps and changes of the gradient that are remembered, m; a choice: another number compiles again.
        gtol: stop where the largest absolute entry of the gradient is at most this, in units of f per unit of x; one number, or a pytree
            like x. None: eps^(1/2), with finite differences eps^(1/3), where the gradient is small beside f, x and what they have been
            too (see `stationary`).
        xtol: as in `BFGS`.
        ftol: as in `BFGS`.

    Raises:
        ValueError: memory is not a positive integer.

    Note:
        A method that sees gradients only cannot tell a saddle from a minimum: CONVERGED_GRADIENT says that the gradient is small.

    Example:
        >>> import jax.numpy as jnp, jaxdiff as jd
        >>> chained = lambda x: jnp.sum((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2)
        >>> result = jd.minimize(chained, jnp.zeros(1000), solver=jd.LBFGS())
        >>> bool(jnp.allclose(result.x, 1, atol=1e-4)), result.status_name
        (True, 'CONVERGED_GRADIENT')
    """

    memory: int = static(default=10)
    gtol: Any = None
    xtol: Any = None
    ftol: Any = None

    name: ClassVar[str] = "lbfgs"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol", "xtol", "ftol")
    has_optional_tests: ClassVar[bool] = True
    takes_bounds: ClassVar[bool] = True
    weighs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count(self.memory, "memory", minimum=1)

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float | None:
        """See `base.Solver`."""
        return default_gradient_only_tolerance(name, dtype, is_exact)

    def init(self, problem: Minimize, x: LaneVector) -> LBFGSState:
        """See `base.Solver`."""
        lanes = x.shape[-1]
        ring = jnp.zeros((self.memory, *x.shape), x.dtype)
        return LBFGSState(
            direction=jnp.zeros_like(x),
            slope=jnp.zeros(lanes, x.dtype),
            steps=ring,
            changes=ring,
            pairs=Pairs.none(self.memory, x),
            is_fresh=jnp.ones(lanes, bool),
            bracket=Bracket.fresh(jnp.ones(lanes, x.dtype)),
            sizes=Sizes.none(x),
            **unevaluated(x),
        )

    def step(self, problem: Minimize, state: LBFGSState) -> LBFGSState:
        """See `base.Solver`."""
        is_start = state.num_steps < 0
        step_size = state.bracket.trial
        path = Path.along(problem, state.x, state.gradient, state.direction, step_size)
        # Without bounds the state's own: reading it saves a pass over two vectors.
        slope = path.mean_slope if problem.is_bounded else state.slope
        trial_x, displacement = path.x, path.displacement
        trial_value, trial_gradient = problem.value_and_gradient(trial_x)
        # Finite where the trial's gradient is, and computed here so that the old gradient is read before it is written over.
        change = trial_gradient - state.gradient
        # By their largest entries: truth values of a million entries would be written out, and are an eighth of a vector.
        is_finite = jnp.isfinite(max_norm(trial_x)) & jnp.isfinite(trial_value) & jnp.isfinite(max_norm(change))
        trial_slope = dot(trial_gradient, path.moving)
        is_low = is_finite & is_sufficient_decrease(state.value, trial_value, slope, trial_slope, step_size)
        bracket, is_accepted = state.bracket.narrowed(is_low, state.value, trial_value, slope, trial_slope)
        if problem.is_bounded:
            trial = path.not_past_first_stop(step_size, bracket.trial)
            bracket = dataclasses.replace(bracket, trial=jnp.where(is_low, bracket.trial, trial))
        is_moved = is_accepted & ~is_start
        is_accepted = is_accepted | (is_start & is_finite)

        new = (trial_x, trial_value, trial_gradient)
        x, value, gradient = select_lanes(is_accepted | is_start, new, (state.x, state.value, state.gradient))
        learnt = _Learnt.of(problem, state, path, trial_gradient, change, trial_slope, is_moved, x, gradient)
        is_new, change, reduced, pairs = learnt.is_new, learnt.change, learnt.reduced, learnt.pairs
        direction = _direction(state, pairs, reduced, learnt.in_slot, displacement, change)
        direction = open_ways(problem, x, among_free(learnt.free, direction))
        direction = jnp.where(is_accepted, direction, state.direction)
        slope = jnp.where(is_accepted, dot(gradient, direction), state.slope)

        # Where the line is exhausted, or leads nowhere, the pairs may be to blame: once more along the gradient, and then no more.
        is_stuck = ~is_accepted & ~is_start & _is_exhausted(x, state, bracket)
        is_restarted = (is_stuck & ~state.is_fresh) | (is_accepted & ~(slope < 0))
        pairs = select_lanes(is_restarted, pairs.forgotten(), pairs)
        is_fresh = (state.is_fresh & ~is_new) | is_restarted
        direction = jnp.where(is_restarted, -reduced, direction)
        one = jnp.ones_like(step_size)
        # Nothing is known of the curvature then: the first trial moves no coordinate by more than one.
        gentle, slope = jax.lax.cond(
            jnp.any(is_fresh),
            lambda: (safe_divide(one, max_norm(reduced), otherwise=1.0), jnp.where(is_restarted, -dot(reduced, reduced), slope)),
            lambda: (one, slope),
        )
        fresh = Bracket.fresh(jnp.where(is_fresh, jnp.minimum(gentle, 1), one))
        bracket = select_lanes(is_accepted | is_restarted, fresh, bracket)
        # A lane that has stopped writes nothing: the loop leaves these two arrays alone, since to select them is to copy them. They are
        # read before they are written, and what is written depends on what was read, so that the write is made in place.
        is_written = is_new & (slope < 0) & (state.status == Status.RUNNING)
        steps = _written(state.steps, is_written, state.pairs.slot, displacement)
        changes = _written(state.changes, is_written, state.pairs.slot, change)

        # Once more where it is asked for: between the trial and the direction there is no room for a vector of its own.
        again = lambda: displacement if problem.is_bounded else step_size * state.direction  # noqa: E731
        is_small, sizes = assessed(problem, self.gtol, state.sizes, is_start, is_accepted, trial_x, again, trial_value, trial_gradient)
        given_up = stopped_short(problem, self.gtol, sizes, x, value, gradient, is_stuck, is_finite)
        failure = jnp.where(is_stuck & ~is_restarted, given_up, Status.RUNNING)
        runs_away = has_run_away(state.sizes, max_norm(trial_x), trial_value, state.value)
        failure = jnp.where(runs_away, Status.UNBOUNDED, failure)
        failure = jnp.where(is_start & ~is_finite, Status.NON_FINITE_START, failure)
        return LBFGSState(
            x=x,
            value=value,
            gradient=gradient,
            direction=direction,
            slope=slope,
            steps=steps,
            changes=changes,
            pairs=pairs,
            is_fresh=is_fresh,
            bracket=bracket,
            sizes=sizes,
            status=jnp.where(is_small & ~runs_away, Status.CONVERGED_GRADIENT, failure).astype(jnp.int32),
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, problem.evaluations_per_gradient),
        )


@pytree_dataclass
class _Learnt:
    """What a trial has taught of the curvature, and what the next direction needs.

    Attributes:
        is_new: whether there is a new pair.
        in_slot: its place in the ring, ``[m, lanes]``.
        change: its y, 0 in parameters that a bound held.
        free: which parameters may move at the new point; None without bounds.
        reduced: the new gradient, 0 in parameters that a bound holds.
        pairs: the pairs at the new point.
    """

    is_new: LaneBool
    in_slot: jax.Array
    change: LaneVector
    free: jax.Array | None
    reduced: LaneVector
    pairs: Pairs

    @classmethod
    def of(
        cls,
        problem: Minimize,
        state: LBFGSState,
        path: Path,
        trial_gradient: LaneVector,
        change: LaneVector,
        trial_slope: LaneFloat,
        is_moved: LaneBool,
        x: LaneVector,
        gradient: LaneVector,
    ) -> "_Learnt":
        """From a trial; ``x`` and ``gradient`` are those of the point that the lane goes on from."""
        step_size, slope, step = state.bracket.trial, path.slope if problem.is_bounded else state.slope, path.displacement
        free = problem.free(x, gradient)
        reduced = among_free(free, gradient)
        if problem.is_bounded:
            change = among_free(problem.free(state.x, state.gradient), change)
            curvature, along = dot(step, change), dot(step, reduced)
        else:
            # From slopes that are known: no further pass over vectors.
            curvature, along = step_size * (trial_slope - slope), step_size * trial_slope
        change_squared = dot(change, change)
        is_new = is_moved & (curvature > -machine_epsilon(x.dtype) * step_size * slope) & (change_squared < jnp.inf)
        in_slot = (jnp.arange(state.steps.shape[0])[:, None] == state.pairs.slot) & is_new
        along_steps = jnp.where(in_slot, along, _products(state.steps, reduced))
        along_changes = jnp.where(
            in_slot, dot(change, reduced if problem.is_bounded else trial_gradient), _products(state.changes, reduced)
        )
        with_change = (_products(state.steps, change), _products(state.changes, change)) if problem.is_bounded else None
        pairs = state.pairs.moved(is_new, curvature, change_squared, along_steps, along_changes, with_change)
        return cls(is_new, in_slot, change, free, reduced, pairs)


def _is_exhausted(x: LaneVector, state: LBFGSState, bracket: Bracket) -> LaneBool:
    """Whether a rejected trial leaves nothing to try: the next one would move no coordinate, or the direction does not descend."""
    epsilon = machine_epsilon(x.dtype)
    # A difference of two numbers has the sign that their comparison has.
    is_still = jnp.max(bracket.trial * jnp.abs(state.direction) - epsilon * jnp.abs(x), axis=0) <= 0
    return is_still | (bracket.trial <= epsilon**2) | ~(state.slope < 0)


def _direction(
    state: LBFGSState, pairs: Pairs, gradient: LaneVector, in_slot: jax.Array, step: LaneVector, change: LaneVector
) -> LaneVector:
    """-H g, of the pairs in the rings and of the newest, which is not there yet; ``in_slot`` marks its place, ``[m, lanes]``."""
    by_steps, by_changes = pairs.weights()
    older = _combination(state.steps, jnp.where(in_slot, 0, by_steps)) + _combination(state.changes, jnp.where(in_slot, 0, by_changes))
    newest = [jnp.sum(jnp.where(in_slot, weight, 0), axis=0) for weight in (by_steps, by_changes)]
    newest = jnp.where(jnp.any(in_slot, axis=0), newest[0] * step + newest[1] * change, 0)
    return -(pairs.scale * gradient + older + newest)


def _written(ring: jax.Array, is_written: LaneBool, slot: LaneInt, row: LaneVector) -> jax.Array:
    """The ring with one slot replaced in the lanes that store a pair."""
    memory, _, lanes = ring.shape
    if lanes == 1:
        return jax.lax.dynamic_update_index_in_dim(ring, jnp.where(is_written, row, 0), slot[0], axis=0)
    # A slot out of range is dropped.
    return ring.at[jnp.where(is_written, slot, memory), :, jnp.arange(lanes)].set(row.T, mode="drop")


def _products(ring: jax.Array, vector: LaneVector) -> jax.Array:
    """Inner product of every slot with a vector, ``[m, lanes]``."""
    if vector.shape[-1] == 1:
        # A single lane is a matrix-vector product; as a sum over an axis XLA's CPU compiler leaves it scalar, some ten times slower.
        return jnp.matmul(ring[..., 0], vector, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(ring * vector[None], axis=1)


def _combination(ring: jax.Array, weights: jax.Array) -> LaneVector:
    """The sum of the slots, each times its weight, ``[n, lanes]``."""
    if weights.shape[-1] == 1:
        return jnp.matmul(weights.T, ring[..., 0], precision=jax.lax.Precision.HIGHEST).T
    return jnp.sum(ring * weights[:, None], axis=0)
