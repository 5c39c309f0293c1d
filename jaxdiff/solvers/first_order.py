"""Any optax gradient transformation as a solver.

    u_k, s_{k+1} = update(g_k, s_k, x_k),    x_{k+1} = x_k + u_k

The update rules are optax's, untouched; between bounds x_{k+1} is the nearest point within them.

Source: optax, GradientTransformation and GradientTransformationExtraArgs.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from jaxdiff._pytree import pytree_dataclass, static
from jaxdiff._types import DType, LaneFloat, LaneInt, LaneVector, PyTree
from jaxdiff.linalg import is_all_finite, max_norm, select_lanes
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.solvers.base import counted, default_gradient_only_tolerance, unevaluated
from jaxdiff.solvers.stationary import Sizes, assessed, has_run_away


@pytree_dataclass
class FromOptaxState:
    """State of an optax transformation.

    Attributes:
        x: current points.
        value: f there.
        gradient: its gradient there.
        transformation_state: optax's own state, one per lane, lanes last.
        sizes: how large f, its gradient and x have been.
        status: codes of `Status`.
        num_steps: updates made.
        num_evaluations: evaluations of f; those that a transformation with a line search makes itself are not seen here.
    """

    x: LaneVector
    value: LaneFloat
    gradient: LaneVector
    transformation_state: PyTree
    sizes: Sizes
    status: LaneInt
    num_steps: LaneInt
    num_evaluations: LaneInt


@pytree_dataclass
class FromOptax:
    """An optax transformation run to a gradient tolerance.

    Each lane has a state of its own and sees the user's pytree, so that transformations which take norms or treat leaves differently mean
    what they mean in optax. Value, gradient and the function itself are handed to transformations that ask for them.

    Attributes:
        transformation: an ``optax.GradientTransformation``, such as ``optax.adam(1e-2)``. A choice: another object compiles again; to sweep
            a learning rate without compiling, use ``optax.inject_hyperparams`` or `GradientDescent`.
        gtol: stop where the largest absolute entry of the gradient is at most this; one number, or a pytree like x. None: eps^(1/2), with
            finite differences eps^(1/3), where the gradient is small beside f, x and what they have been too (see `stationary`).
        xtol: as in `BFGS`, of the last update alone.
        ftol: as in `BFGS`, of the last update alone.

    Raises:
        TypeError: transformation is not an optax gradient transformation.

    Example:
        >>> import jaxdiff as jd, optax
        >>> result = jd.minimize(lambda x: (x - 1.0) ** 2, 0.0, solver=jd.FromOptax(optax.adam(0.1)), max_steps=2000)
        >>> round(float(result.x), 4)
        1.0
    """

    transformation: Any = static(default=None)
    gtol: Any = None
    xtol: Any = None
    ftol: Any = None

    name: ClassVar[str] = "optax"
    tolerance_names: ClassVar[tuple[str, ...]] = ("gtol", "xtol", "ftol")
    has_optional_tests: ClassVar[bool] = True
    takes_bounds: ClassVar[bool] = True
    weighs_gradient: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.transformation, optax.GradientTransformation):
            raise TypeError(f"transformation = {self.transformation!r}; expected an optax.GradientTransformation such as optax.adam(1e-2)")

    def default_tolerance(self, name: str, dtype: DType, is_exact: bool) -> float | None:
        """See `base.Solver`."""
        return default_gradient_only_tolerance(name, dtype, is_exact)

    def init(self, problem: Minimize, x: LaneVector) -> FromOptaxState:
        """See `base.Solver`."""
        inner = problem.over_lanes(lambda x, *_: self.transformation.init(problem.packing.unravel(x)), x)
        return FromOptaxState(transformation_state=inner, sizes=Sizes.none(x), **unevaluated(x))

    def step(self, problem: Minimize, state: FromOptaxState) -> FromOptaxState:
        """See `base.Solver`."""
        packing = problem.packing
        transformation = optax.with_extra_args_support(self.transformation)

        def update(x: jax.Array, value: jax.Array, gradient: jax.Array, inner: PyTree, *args: PyTree) -> tuple[jax.Array, PyTree]:
            params, updates = packing.unravel(x), packing.unravel(gradient)
            value_fn = lambda params: problem.flat_value(packing.ravel(params), *args)  # noqa: E731
            updates, inner = transformation.update(updates, inner, params, value=value, grad=updates, value_fn=value_fn)
            return packing.ravel(optax.apply_updates(params, updates)), inner

        new_x, new_inner = problem.over_lanes(update, state.x, state.value, state.gradient, state.transformation_state)
        # Some transformations compute in a wider dtype; the state keeps its own.
        new_inner = jax.tree.map(lambda new, old: new.astype(old.dtype), new_inner, state.transformation_state)
        is_start = state.num_steps < 0
        new_x, new_inner = select_lanes(is_start, (state.x, state.transformation_state), (new_x, new_inner))
        new_x = problem.project(new_x)
        new_value, new_gradient = problem.value_and_gradient(new_x)
        is_finite = is_all_finite(new_x, new_value, new_gradient)
        # A start that is not finite is shown as it is: its value is the evidence.
        x, value, gradient = select_lanes(is_finite | is_start, (new_x, new_value, new_gradient), (state.x, state.value, state.gradient))
        is_small, sizes = assessed(problem, self.gtol, state.sizes, is_start, is_finite, new_x, new_x - state.x, new_value, new_gradient)
        runs_away = has_run_away(state.sizes, max_norm(new_x), new_value, state.value)
        status = jnp.where(is_small, Status.CONVERGED_GRADIENT, Status.RUNNING)
        failure = jnp.where(runs_away, Status.UNBOUNDED, Status.NON_FINITE)
        failure = jnp.where(is_start, Status.NON_FINITE_START, failure)
        status = jnp.where(is_finite & ~runs_away, status, failure)
        return FromOptaxState(
            x=x,
            value=value,
            gradient=gradient,
            sizes=sizes,
            transformation_state=new_inner,
            status=status.astype(jnp.int32),
            num_steps=counted(state.num_steps, 1),
            num_evaluations=counted(state.num_evaluations, problem.evaluations_per_gradient),
        )
