"""Roots of one equation inside a bracket, at whose ends F has opposite signs: bisection and Chandrupatla's method.

The bracket shrinks in every step and always holds a change of sign. That a sign changes is no proof of a root: 1/x changes it at its pole.
So the rise of F over the bracket is watched as the bracket shrinks by w: over a root it falls, at least like w^(1/4) (a root of third order
of x does so like w^(1/3)); over a jump it stays, over a pole it grows.

Sources: Chandrupatla, A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function without using derivatives,
Advances in Engineering Software 28 (1997) 145-149; Scherer, Computational Physics (2013), algorithm 6.1.7.3. Bisection halves the count of
floating-point numbers in the bracket and not its width, so that 64 steps suffice in double precision wherever the root lies. The test of
the rise, its exponent and its window are our own.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon, safe_divide, smallest_normal
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import DType, LaneFloat, LaneInt, LaneVector
from jaxdiff.linalg import max_norm
from jaxdiff.result import Status
from jaxdiff.root_problem import Root
from jaxdiff.solvers.base import counted, require_equations

_LATE = 48
"""Steps after which Chandrupatla's method halves the count of numbers: in double precision it ends within 64 more."""


@pytree_dataclass
class BracketState:
    """State of a bracketing method.

    Attributes:
        x: the end of the bracket at which |F| is smaller, ``[1, lanes]``.
        residuals: F there.
        a: the end that was tried last.
        b: the other end.
        c: the end that was left behind last; a before there is one.
        value_a: F at a.
        value_b: F at b.
        value_c: F at c.
        width: a width of the bracket at least a thousand times the present one, or the first.
        rise: by how much F differed between the ends then.
        next_width: a later width, of which the same will be true.
        next_rise: the rise then.
        scale: the smaller of |F| at the two ends at first.
        reach: by how much a step is shortened, since F was not a number.
        status: codes of `Status`.
        num_steps: trials made; the first two steps evaluate the ends.
        num_evaluations: evaluations of F.
    """

    x: LaneVector
    residuals: LaneVector
    a: LaneFloat
    b: LaneFloat
    c: LaneFloat
    value_a: LaneFloat
    value_b: LaneFloat
    value_c: LaneFloat
    width: LaneFloat
    rise: LaneFloat
    next_width: LaneFloat
    next_rise: LaneFloat
    scale: LaneFloat
    reach: LaneFloat
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt

    @property
    def value(self) -> LaneFloat:
        """|F|, under the name that the loop keeps it by."""
        return max_norm(self.residuals)

    @property
    def gradient(self) -> LaneVector:
        """F, under the name that the loop keeps it by."""
        return self.residuals

    @property
    def step_size(self) -> LaneFloat:
        """The width of the bracket, under the name that a history keeps it by."""
        return jnp.abs(self.b - self.a)


@pytree_dataclass
class _Bracketing:
    """What both methods share.

    Attributes:
        xtol: CONVERGED_STEP where the bracket is at most ``2 xtol |x|`` wide, and F rises over it as over a root; relative. None: 2 eps.
        ftol: CONVERGED_VALUE where ``|F| <= ftol``; absolute, in units of F. None: 0, so that F has to be zero.
    """

    xtol: Any = None
    ftol: Any = None

    tolerance_names: ClassVar[tuple[str, ...]] = ("xtol", "ftol")
    takes_bracket: ClassVar[bool] = True

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        return 0.0 if name == "ftol" else 2 * machine_epsilon(dtype)

    def init(self, problem: Any, x: jax.Array) -> BracketState:
        """See `base.Solver`; x are the two ends, ``[2, lanes]``."""
        require_equations(problem, type(self).__name__)
        a, b = x
        zero, none = jnp.zeros_like(a), jnp.zeros(a.shape, jnp.int32)
        return BracketState(
            x=x[:1],
            residuals=jnp.full_like(x[:1], jnp.inf),
            a=a,
            b=b,
            c=a,
            value_a=zero,
            value_b=zero,
            value_c=zero,
            width=zero,
            rise=zero,
            next_width=zero,
            next_rise=zero,
            scale=zero,
            reach=zero + 1,
            status=none + Status.RUNNING,
            num_steps=none - 1,
            num_evaluations=none,
        )

    def step(self, problem: Root, state: BracketState) -> BracketState:
        """See `base.Solver`."""
        is_first, is_second = state.num_steps < 0, state.num_steps == 0
        is_start = is_first | is_second
        inner = self._propose(state)
        inner = state.a + (inner - state.a) * state.reach
        trial = jnp.where(is_first, state.a, jnp.where(is_second, state.b, inner))
        value = problem.evaluate(trial[None])[0]
        is_known = jnp.isfinite(value) | (~is_start & ~jnp.isnan(value))

        # The trial takes the place of the end of its own sign.
        is_like_a = jnp.sign(value) == jnp.sign(state.value_a)
        moves = ~is_start & is_known
        pick = lambda then, otherwise: jnp.where(moves, then, otherwise)  # noqa: E731
        a, value_a = pick(trial, state.a), jnp.where(is_first | moves, value, state.value_a)
        b = pick(jnp.where(is_like_a, state.b, state.a), state.b)
        value_b = pick(jnp.where(is_like_a, state.value_b, state.value_a), jnp.where(is_second, value, state.value_b))
        c = pick(jnp.where(is_like_a, state.a, state.b), state.c)
        value_c = pick(jnp.where(is_like_a, state.value_a, state.value_b), jnp.where(is_second, state.value_a, state.value_c))

        takes_b = ~is_first & (jnp.abs(value_b) < jnp.abs(value_a))
        best, best_value = jnp.where(takes_b, b, a), jnp.where(takes_b, value_b, value_a)
        width, rise = jnp.abs(b - a), jnp.abs(value_b - value_a)
        epsilon = machine_epsilon(trial.dtype)
        is_narrow = width <= 2 * jnp.maximum(self.xtol, epsilon) * jnp.abs(best) + 2 * smallest_normal(trial.dtype)
        is_small = jnp.maximum(jnp.abs(value_a), jnp.abs(value_b)) <= 64 * epsilon * state.scale
        is_rising = jnp.isfinite(rise) & (rise <= state.rise * safe_divide(width, state.width, otherwise=1.0) ** 0.25)
        found = jnp.where(is_small | is_rising, Status.CONVERGED_STEP, Status.DISCONTINUITY)
        status = jnp.where(is_narrow & ~is_first, found, Status.RUNNING)
        status = jnp.where(is_second & (jnp.sign(value_a) * jnp.sign(value_b) > 0), Status.NO_SIGN_CHANGE, status)
        status = jnp.where((best_value == 0) | (jnp.abs(best_value) <= self.ftol), Status.CONVERGED_VALUE, status)
        reach = jnp.where(is_known, 1, state.reach / 4).astype(trial.dtype)
        lost = jnp.where(is_start, Status.NON_FINITE_START, jnp.where(reach < epsilon, Status.NON_FINITE, Status.RUNNING))
        status = jnp.where(is_known, status, lost).astype(jnp.int32)

        is_thousandth = width <= state.next_width / 1024
        roll = lambda first, then, otherwise: jnp.where(is_second, first, jnp.where(is_thousandth, then, otherwise))  # noqa: E731
        return BracketState(
            x=best[None],
            residuals=best_value[None],
            a=a,
            b=b,
            c=c,
            value_a=value_a,
            value_b=value_b,
            value_c=value_c,
            width=roll(width, state.next_width, state.width),
            rise=roll(rise, state.next_rise, state.rise),
            next_width=roll(width, width, state.next_width),
            next_rise=roll(rise, rise, state.next_rise),
            scale=jnp.where(is_second, jnp.minimum(jnp.abs(value_a), jnp.abs(value_b)), state.scale),
            reach=reach,
            status=status,
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, 1),
        )

    def _propose(self, state: BracketState) -> LaneFloat:
        raise NotImplementedError


@pytree_dataclass
class Bisection(_Bracketing):
    """Bisection: half of the floating-point numbers of the bracket are left in every step, whatever F is.

    Attributes:
        xtol: CONVERGED_STEP where the bracket is at most ``2 xtol |x|`` wide, and F rises over it as over a root; relative. None: 2 eps.
        ftol: CONVERGED_VALUE where ``|F| <= ftol``; absolute, in units of F. None: 0, so that F has to be zero.

    Example:
        >>> import jaxdiff as jd
        >>> result = jd.root_scalar(lambda x: x**2 - 2, (0.0, 2.0), solver=jd.Bisection())
        >>> round(float(result.x), 9), int(result.nit) <= 65
        (1.414213562, True)
    """

    name: ClassVar[str] = "bisection"

    def _propose(self, state: BracketState) -> LaneFloat:
        return middle_number(state.a, state.b)


@pytree_dataclass
class Chandrupatla(_Bracketing):
    """Chandrupatla's method: inverse quadratic interpolation where three points allow it, else bisection.

    Attributes:
        xtol: CONVERGED_STEP where the bracket is at most ``2 xtol |x|`` wide, and F rises over it as over a root; relative. None: 2 eps.
        ftol: CONVERGED_VALUE where ``|F| <= ftol``; absolute, in units of F. None: 0, so that F has to be zero.

    Example:
        >>> import jaxdiff as jd
        >>> result = jd.root_scalar(lambda x: x**2 - 2, (0.0, 2.0), solver=jd.Chandrupatla())
        >>> round(float(result.x), 9), bool(result.success)
        (1.414213562, True)
    """

    name: ClassVar[str] = "chandrupatla"

    def _propose(self, state: BracketState) -> LaneFloat:
        a, b, c = state.a, state.b, state.c
        f, g, h = state.value_a, state.value_b, state.value_c
        xi, phi = safe_divide(a - b, c - b), safe_divide(f - g, h - g)
        is_smooth = (phi * phi < xi) & ((1 - phi) ** 2 < 1 - xi) & (c != a)
        t = safe_divide(f, f - g) * safe_divide(h, h - g) - safe_divide(c - a, b - a) * safe_divide(f, h - f) * safe_divide(g, g - h)
        width = jnp.abs(b - a)
        edge = jnp.minimum(safe_divide(jnp.maximum(self.xtol, machine_epsilon(a.dtype)) * jnp.abs(state.x[0]), width), 0.5)
        t = jnp.where(is_smooth & jnp.isfinite(t), jnp.clip(t, edge, 1 - edge), 0.5)
        inside = a + t * (b - a)
        return jnp.where(state.num_steps > _LATE, middle_number(a, b), inside)


def middle_number(a: LaneFloat, b: LaneFloat) -> LaneFloat:
    """The floating-point number half way between two in their order, as many of them on either side.

    Example:
        >>> middle_number(jnp.array([1.0]), jnp.array([4.0])).tolist()
        [2.0]
    """
    bits = jnp.dtype(a.dtype).itemsize * 8
    integer = jnp.dtype(f"int{bits}")
    # Read as integers, the numbers of one sign are in order; those of the other are turned round.
    turn = lambda i: i ^ ((i >> (bits - 1)) & jnp.iinfo(integer).max)  # noqa: E731
    low, high = (turn(jax.lax.bitcast_convert_type(end, integer)) for end in (a, b))
    return jax.lax.bitcast_convert_type(turn((low & high) + ((low ^ high) >> 1)), a.dtype)
