"""Running a batch from the host: with compiler options of its own, and on several cores.

Inside a trace neither can be had: there the batch is part of the program around it.
"""

import concurrent.futures
import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jaxdiff.batch.devices import solve_on_devices
from jaxdiff.batch.engine import solve_refill
from jaxdiff.batch.lockstep import solve_lockstep
from jaxdiff.batch.options import Plan
from jaxdiff.batch.pallas import compiler_for, is_for_pallas, solve_pallas
from jaxdiff.batch.progress import Announcing, progress_bar
from jaxdiff.loop import Outcome, Trace
from jaxdiff.problem import Minimize
from jaxdiff.solvers.base import Solver

P = TypeVar("P", bound=Minimize)

REASSOCIATE = {
    "xla_cpu_enable_fast_math": True,
    "xla_cpu_fast_math_honor_nans": True,
    "xla_cpu_fast_math_honor_infs": True,
    "xla_cpu_fast_math_honor_division": True,
    "xla_cpu_fast_math_honor_functions": True,
}
"""Options of XLA's CPU compiler that let it reorder sums, and change nothing else."""


def execute(
    body: Callable[..., Any], problem: Minimize, solver: Solver, starts: jax.Array, max_steps: Any, plan: Plan, **options: Any
) -> Any:
    """Call ``body(problem, solver, starts, max_steps, first, count=, plan=, **options)``, compiled, in as many parts as the plan says.

    Args:
        body: solves the problems from ``first`` on, ``count`` of them; a pure function. What it returns has a leading axis of problems.
        problem: its batched data have the problems in their first axis.
        solver: its tolerances resolved.
        starts: ``[num_problems, n]``.
        max_steps: as in the entries.
        plan: how.
        options: further static arguments of ``body``.

    Returns:
        What ``body`` returns for the whole batch.
    """
    num_problems = starts.shape[0]
    # An operation on constants is traced where everything is.
    is_traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((problem, solver, starts, max_steps, jnp.zeros(()))))
    if is_traced:
        if plan.devices:
            raise ValueError("BatchOptions(devices=...) cannot be traced; expected devices = None inside of jax.jit, jax.vmap and jax.grad")
        plan = dataclasses.replace(plan, num_threads=1, reassociate=False, progress=False, may_fuse=False)
    elif jax.default_backend() != "cpu":
        plan = dataclasses.replace(plan, reassociate=False)
    if plan.progress:
        with progress_bar(num_problems) as token:
            told = Announcing(solver, token)
            return jax.block_until_ready(
                execute(body, problem, told, starts, max_steps, dataclasses.replace(plan, progress=False), **options)
            )
    if plan.may_fuse:
        unfused = dataclasses.replace(plan, may_fuse=False)
        if jax.default_backend() == "gpu" and is_for_pallas(problem, solver):
            try:
                fused = dataclasses.replace(unfused, mode="pallas", num_threads=1)
                return execute(body, problem, solver, starts, max_steps, fused, **options)
            except (NotImplementedError, ValueError, jax.errors.JaxRuntimeError) as error:
                warnings.warn(f"the fused kernel could not be built ({error}); the batch runs refilled", RuntimeWarning, stacklevel=2)
        return execute(body, problem, solver, starts, max_steps, unfused, **options)
    if plan.devices:
        return solve_on_devices(body, problem, solver, starts, max_steps, plan, REASSOCIATE if plan.reassociate else None, options)
    compiled = _compiled(body, tuple(sorted(options)), plan.reassociate)
    run = functools.partial(compiled, problem, solver, starts, max_steps, plan=plan, **options)
    if plan.num_threads == 1:
        return run(0, count=num_problems)
    # Parts of one length share one program; the last begins a little early, and what it does twice is dropped.
    count = -(-num_problems // plan.num_threads)
    firsts = [min(i * count, num_problems - count) for i in range(plan.num_threads)]
    # The first call compiles; meanwhile the others would do the same.
    with concurrent.futures.ThreadPoolExecutor(plan.num_threads) as pool:
        compiled.lower(problem, solver, starts, max_steps, 0, count=count, plan=plan, **options).compile()
        parts = list(pool.map(lambda first: jax.block_until_ready(run(first, count=count)), firsts))
    kept = [
        jax.tree.map(lambda leaf, skip=i * count - first: leaf[skip:], part)
        for i, (first, part) in enumerate(zip(firsts, parts, strict=True))
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *kept)


@functools.lru_cache(maxsize=64)
def _compiled(body: Callable[..., Any], options: tuple[str, ...], reassociate: bool) -> Any:
    return jax.jit(body, static_argnames=("count", "plan", *options), compiler_options=REASSOCIATE if reassociate else None)


def lanes_last(problem: P, first: Any = 0, count: int | None = None) -> P:
    """The problem with the problems in the last axis of its data, as solvers expect it; where asked, only ``count`` of them."""
    leaves, structure = jax.tree.flatten(problem.args)
    part = lambda leaf: leaf if count is None or count == leaf.shape[0] else jax.lax.dynamic_slice_in_dim(leaf, first, count)  # noqa: E731
    moved = [jnp.moveaxis(part(leaf), 0, -1) if batched else leaf for leaf, batched in zip(leaves, problem.is_batched, strict=True)]
    return dataclasses.replace(problem, args=structure.unflatten(moved))


def solve_part(
    problem: Minimize, solver: Solver, starts: jax.Array, max_steps: Any, first: Any, count: int, plan: Plan, trace_length: int
) -> tuple[Outcome, Trace | None]:
    """Outcome and trace of a part of the batch, problems in the last axis; the loop itself is not differentiated.

    The derivative of a solution follows from the solution alone.
    """
    held_problem, held_solver, held = jax.lax.stop_gradient((lanes_last(problem), solver, starts))
    # Under jit nobody could look whether the start lies within its bounds.
    x = held_problem.project(held.T)
    if plan.mode == "pallas":
        # The kernel has its problems in blocks of its own; a part of the batch is cut out before.
        compiler = compiler_for(problem, plan.interpret)
        part = lanes_last(jax.lax.stop_gradient(problem), first, count)
        return solve_pallas(part, held_solver, jax.lax.dynamic_slice_in_dim(x, first, count, axis=1), max_steps, compiler), None
    if plan.mode == "refill":
        # On several devices a block keeps its lanes even where it holds fewer problems: no shape may depend on how many devices there are.
        lanes = plan.lanes if plan.devices else min(plan.lanes, count)
        return solve_refill(held_problem, held_solver, x, max_steps, lanes, plan.check_every, first, count), None
    return solve_lockstep(held_problem, held_solver, x, max_steps, plan.lanes, trace_length)
