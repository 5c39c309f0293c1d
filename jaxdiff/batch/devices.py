"""One engine on each of several devices, each with a part of the batch and without a word between them.

Left to itself the compiler would split the lanes of one engine over the devices, and ask all of them in every round whether any lane still
runs: a collective in the loop. Under ``shard_map`` each device runs a loop of its own.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdiff.batch.options import Plan
from jaxdiff.problem import Minimize
from jaxdiff.solvers.base import Solver

AXIS = "problems"


def solve_on_devices(
    body: Callable[..., Any],
    problem: Minimize,
    solver: Solver,
    starts: jax.Array,
    max_steps: Any,
    plan: Plan,
    compiler_options: dict[str, Any] | None,
    options: dict[str, Any],
) -> Any:
    """Run ``body`` on every device of the plan; the arguments are those of `execute.execute`.

    Returns:
        What ``body`` returns for the whole batch.
    """
    program, arguments = prepare(body, problem, solver, starts, max_steps, plan, compiler_options, options)
    num_problems = starts.shape[0]
    return jax.tree.map(lambda leaf: leaf[:num_problems], program(*arguments))


def prepare(
    body: Callable[..., Any],
    problem: Minimize,
    solver: Solver,
    starts: jax.Array,
    max_steps: Any,
    plan: Plan,
    compiler_options: dict[str, Any] | None,
    options: dict[str, Any],
) -> tuple[Any, tuple[Any, ...]]:
    """The compiled program and its arguments, laid out over the devices; the last problem fills the parts up."""
    num_problems, num_devices = starts.shape[0], len(plan.devices)
    count = max(-(-num_problems // num_devices), 1)
    if plan.mode == "lockstep":
        # Whole blocks, so that their shape does not depend on how many devices there are.
        count = -(-count // max(plan.lanes, 1)) * max(plan.lanes, 1)
    mesh = Mesh(np.asarray(plan.devices), (AXIS,))
    order = np.minimum(np.arange(num_devices * count), max(num_problems - 1, 0))

    def lay_out(leaf: Any, is_split: bool) -> jax.Array:
        leaf = jnp.asarray(leaf)
        if is_split and order.size != num_problems:
            leaf = jnp.take(leaf, order, axis=0)
        return jax.device_put(leaf, NamedSharding(mesh, P(AXIS) if is_split else P()))

    leaves, structure = jax.tree.flatten((problem, solver, starts, max_steps))
    is_split = _which_are_split(problem, solver)
    held = tuple(lay_out(leaf, split) for leaf, split in zip(leaves, is_split, strict=True))
    part = dataclasses.replace(plan, num_threads=1)
    frozen = None if compiler_options is None else tuple(sorted(compiler_options.items()))
    return _program(body, structure, is_split, count, part, mesh, frozen, tuple(sorted(options.items()))), held


def _which_are_split(problem: Minimize, solver: Solver) -> tuple[bool, ...]:
    """For each leaf of (problem, solver, starts, max_steps), whether it has an axis of problems."""
    others = jax.tree.map(lambda _: False, dataclasses.replace(problem, args=()))
    args = jax.tree.structure(problem.args).unflatten(problem.is_batched)
    return tuple(jax.tree.leaves((dataclasses.replace(others, args=args), jax.tree.map(lambda _: False, solver), True, False)))


@functools.lru_cache(maxsize=64)
def _program(
    body: Callable[..., Any],
    structure: Any,
    is_split: tuple[bool, ...],
    count: int,
    plan: Plan,
    mesh: Mesh,
    compiler_options: tuple[tuple[str, Any], ...] | None,
    options: tuple[tuple[str, Any], ...],
) -> Any:
    def on_one(*leaves: jax.Array) -> Any:
        problem, solver, starts, max_steps = structure.unflatten(leaves)
        return body(problem, solver, starts, max_steps, 0, count=count, plan=plan, **dict(options))

    specs = tuple(P(AXIS) if split else P() for split in is_split)
    mapped = jax.shard_map(on_one, mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False)
    return jax.jit(mapped, compiler_options=None if compiler_options is None else dict(compiler_options))
