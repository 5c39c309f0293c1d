"""A solver as an optax transformation, for training loops that are written for optax."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff._types import PyTree
from jaxdiff._validation import check_count
from jaxdiff.problem import Minimize, Packing
from jaxdiff.result import Status
from jaxdiff.solvers.base import resolve_tolerances


class AsOptaxState(NamedTuple):
    """State of a solver that runs as an optax transformation.

    Attributes:
        solver_state: the solver's own, of one lane; its ``status`` tells whether it has stopped.
    """

    solver_state: Any


def as_optax(solver: Any, *, max_trials: int = 20) -> optax.GradientTransformationExtraArgs:
    """A solver of this package as an optax gradient transformation with a line search of its own.

    Each update makes the solver's steps until the parameters move, it stops, or ``max_trials`` are made; the first one evaluates the start
    besides. The function must be the same from update to update: a solver that has stopped stays stopped, and its updates are zero.

    Args:
        solver: such as ``LBFGS()`` or ``NonlinearCG()``.
        max_trials: steps of the solver that one update may make.

    Returns:
        A transformation whose ``update(grads, state, params, *, value_fn, value=None, grad=None)`` needs the function; any other keyword
        is handed to ``value_fn``, as ``optax.lbfgs`` does. Where value and grad at ``params`` are given they replace what the solver knows.

    Raises:
        TypeError: solver is not one; update is called without ``value_fn``.
        ValueError: max_trials is not a positive integer; update is called without params.

    Example:
        >>> import jax, jax.numpy as jnp, jaxdiff as jd, optax
        >>> loss = lambda params: jnp.sum((params - 3.0) ** 2)
        >>> optimizer, params = jd.as_optax(jd.LBFGS()), jnp.zeros(4)
        >>> state = optimizer.init(params)
        >>> for _ in range(5):
        ...     value, grad = jax.value_and_grad(loss)(params)
        ...     updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        ...     params = optax.apply_updates(params, updates)
        >>> bool(jnp.allclose(params, 3.0))
        True
    """
    if isinstance(solver, type) or not (hasattr(solver, "init") and hasattr(solver, "step") and hasattr(solver, "tolerance_names")):
        raise TypeError(f"solver = {solver!r}; expected an instance such as LBFGS()")
    check_count(max_trials, "max_trials", minimum=1)

    def init(params: PyTree) -> AsOptaxState:
        packing = Packing.of(jax.tree.map(jnp.asarray, params))
        resolved = resolve_tolerances(solver, packing, is_exact=True)
        return AsOptaxState(resolved.init(Minimize(_unknown, (), (), packing), packing.ravel(params)[:, None]))

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        value_fn: Callable[..., Any] | None = None,
        value: Any = None,
        grad: PyTree | None = None,
        **extra: Any,
    ) -> tuple[PyTree, AsOptaxState]:
        if params is None:
            raise ValueError("params = None; expected the parameters: update(grads, state, params, value_fn=...)")
        if value_fn is None:
            raise TypeError("update() was called without value_fn; expected the function that is minimized: update(..., value_fn=loss)")
        packing = Packing.of(jax.tree.map(jnp.asarray, params))
        problem = Minimize(lambda tree: value_fn(tree, **extra), (), (), packing)
        resolved = resolve_tolerances(solver, packing, is_exact=True)
        x = packing.ravel(params)[:, None]
        held = _at_parameters(state.solver_state, packing, x, value, grad)

        def is_pending(carry: tuple[jax.Array, Any]) -> jax.Array:
            trials, new = carry
            is_still = jnp.all(new.x == x)
            return (trials < max_trials) & is_still & (new.status[0] == Status.RUNNING)

        def make(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
            trials, new = carry
            # The step that evaluates the start is no trial.
            return trials + jnp.where(new.num_steps[0] < 0, 0, 1).astype(trials.dtype), resolved.step(problem, new)

        _, new = jax.lax.while_loop(is_pending, make, (jnp.zeros((), jnp.int32), held))
        moved = packing.unravel((new.x - x)[:, 0])
        return jax.tree.map(lambda step, given: step.astype(jnp.result_type(given)), moved, updates), AsOptaxState(new)

    return optax.GradientTransformationExtraArgs(init, update)


def _at_parameters(held: Any, packing: Packing, x: jax.Array, value: Any, grad: PyTree | None) -> Any:
    """The state at the caller's parameters, which may differ from the solver's own by the rounding of an addition."""
    is_started = held.num_steps >= 0
    given: dict[str, Any] = {"x": x}
    if value is not None:
        given["value"] = jnp.reshape(jnp.asarray(value, held.value.dtype), (1,))
    if grad is not None:
        given["gradient"] = packing.ravel(grad)[:, None]
    own = {name: getattr(held, name) for name in ("x", "value", "gradient")}
    at = {name: jnp.where(is_started, given[name], old) if name in given else old for name, old in own.items()}
    # A state that keeps its numbers in one array knows where they stand.
    return held.at(**at) if hasattr(held, "at") else dataclasses.replace(held, **at)


def _unknown(_: PyTree) -> jax.Array:
    raise TypeError("a solver asked for values of f before its first step")
