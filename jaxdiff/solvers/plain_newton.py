"""Newton's method for one equation in one unknown, and nothing around it: the first attempt at many roots at once.

    x_{k+1} = x_k - F(x_k) / F'(x_k)

It goes on as long as |F| falls, and claims a root by the tests of `NewtonRoot`; whatever else happens, it gives up, for `NewtonRoot` to
begin again from the start. A state of five numbers and one evaluation of F and F' together make its steps several times cheaper than those
of a method that is prepared for the worst.

Source: Nocedal and Wright, Numerical Optimization (2006), algorithm 11.1; the tests are those of `root_model`.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdiff._numerics import machine_epsilon
from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import DType, LaneFloat, LaneInt, LaneVector
from jaxdiff.linalg import together
from jaxdiff.result import Status
from jaxdiff.root_problem import Root
from jaxdiff.solvers.base import counted
from jaxdiff.solvers.root_model import CONTRACTION, default_root_tolerance

PLAIN_STEPS = (4, 12)
"""Steps after which it gives up, in a first pass over all problems and in a second over those that the first has left.

A block of lanes takes as long as its slowest: of implied volatilities 98 of 100 need four steps at most, and nearly every block has one
that needs seven. What each lane is given does not depend on its neighbours."""


@pytree_dataclass
class PlainNewtonState:
    """State of Newton's method alone.

    Attributes:
        x: current points, ``[1, lanes]``.
        residuals: F there.
        newton: the step to take next.
        status: codes of `Status`.
        num_steps: trials made.
    """

    x: LaneVector
    residuals: LaneVector
    newton: LaneVector
    status: LaneInt
    num_steps: LaneInt

    @property
    def value(self) -> LaneFloat:
        """|F|, under the name that the loop keeps it by."""
        return jnp.abs(self.residuals[0])

    @property
    def gradient(self) -> LaneVector:
        """F, under the name that the loop keeps it by."""
        return self.residuals

    @property
    def num_evaluations(self) -> LaneInt:
        """One for each trial, the start included."""
        return self.num_steps + 1


@pytree_dataclass
class PlainNewton:
    """Newton's method for one unknown; not to be chosen, but what `root_batch` begins with.

    Attributes:
        xtol: as in `NewtonRoot`.
        ftol: as in `NewtonRoot`.
    """

    xtol: Any = None
    ftol: Any = None

    name: ClassVar[str] = "plain_newton"
    tolerance_names: ClassVar[tuple[str, ...]] = ("xtol", "ftol")

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float:
        """See `base.Solver`."""
        return default_root_tolerance(name, dtype, is_exact)

    def init(self, problem: Any, x: LaneVector) -> PlainNewtonState:
        """See `base.Solver`."""
        none = jnp.zeros(x.shape[-1], jnp.int32)
        return PlainNewtonState(x, jnp.full_like(x, jnp.inf), jnp.zeros_like(x), none + Status.RUNNING, none - 1)

    def step(self, problem: Root, state: PlainNewtonState) -> PlainNewtonState:
        """See `base.Solver`."""
        epsilon = machine_epsilon(state.x.dtype)
        is_start = state.num_steps < 0
        x = state.x + state.newton
        residual = problem.flat_residual
        pair = lambda x, *args: jax.jvp(lambda x: residual(x, *args), (x,), (jnp.ones_like(x),))  # noqa: E731
        # Written out once: what follows would otherwise compute F anew in each of its loops.
        residuals, slope = together(*problem.over_lanes(pair, x))
        newton = -residuals / slope
        size, moved = jnp.abs(residuals), jnp.abs(newton)
        # NaN is what newton is where F is not finite or the slope vanishes; an infinite slope would make it zero, and a root of any point.
        is_lower = jnp.isfinite(newton) & jnp.isfinite(slope) & (is_start | (size < 0.9999 * jnp.abs(state.residuals)))
        is_value_small = (moved <= 2 * epsilon * jnp.abs(x)) | (size == 0) | (size <= self.ftol)
        is_step_small = (moved <= self.xtol * jnp.abs(x)) & (moved <= CONTRACTION * jnp.abs(state.newton)) & ~is_start
        status = jnp.where(is_step_small, Status.CONVERGED_STEP, Status.RUNNING)
        status = jnp.where(is_value_small, Status.CONVERGED_VALUE, status)
        status = jnp.where(is_lower, status, Status.MAX_STEPS)[0].astype(jnp.int32)
        return PlainNewtonState(x, residuals, newton, status, counted(state.num_steps, 1))
