"""Running a batch from the host: with compiler options of its own, on several cores, chunk by chunk.

Every chunk runs in the same program, and what comes out of it is written straight to its place: beyond inputs and outputs there is never
more in memory than a chunk for each core. Inside a trace none of this can be had: there the batch is part of the program around it.
"""

import concurrent.futures
import dataclasses
import functools
import math
import re
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._compile import QUICKLY, is_worth_haste
from jaxdiff._types import Starts
from jaxdiff._validation import is_staged, is_traced
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

_MAY_RUN_TOGETHER: dict[int, bool] = {}
"""By the hash of what has been compiled and run, whether it may run on several threads at once."""

_VENDOR = re.compile(
    r" = (?:cholesky|lu|qr|geqrf|geqp3|householder_product|eigh|eig|svd|triangular_solve|schur|hessenberg|tridiagonal)[\[ ]"
)
"""Routines that XLA's CPU backend calls from a library, in parallel on the threads that run its programs: two programs that do so at once
were seen to wait for each other without end (jax 0.10.2, two cores, batched QR and SVD)."""


def execute(
    body: Callable[..., Any],
    problem: Minimize,
    solver: Solver,
    starts: Starts,
    max_steps: Any,
    plan: Plan,
    amend: Callable[[Any], Any] | None = None,
    **options: Any,
) -> Any:
    """Call ``body(problem, solver, starts, max_steps, first, count=, plan=, **options)``, compiled, chunk by chunk as the plan says.

    Args:
        body: solves the problems from ``first`` on, ``count`` of them; a pure function. What it returns has a leading axis of problems.
        problem: its batched data have the problems in their first axis.
        solver: its tolerances resolved.
        starts: ``[num_problems, n]``.
        max_steps: as in the entries.
        plan: how.
        amend: called with the result, whose arrays are then NumPy's and may be written to, unless all of this is traced.
        options: further static arguments of ``body``.

    Returns:
        What ``body`` returns for the whole batch; of one problem, where the plan says so, without the axis of problems.
    """
    num_problems = starts.shape[0]
    is_within = is_staged() or is_traced((problem, solver, starts, max_steps))
    if is_within:
        if plan.devices:
            raise ValueError("BatchOptions(devices=...) cannot be traced; expected devices = None inside of jax.jit, jax.vmap and jax.grad")
        plan = dataclasses.replace(plan, num_threads=1, reassociate=False, progress=False, may_fuse=False)
    elif jax.default_backend() != "cpu":
        plan = dataclasses.replace(plan, reassociate=False)
    if plan.progress:
        with progress_bar(num_problems) as token:
            told = Announcing(solver, token)
            return jax.block_until_ready(
                execute(body, problem, told, starts, max_steps, dataclasses.replace(plan, progress=False), amend, **options)
            )
    if plan.may_fuse:
        unfused = dataclasses.replace(plan, may_fuse=False)
        if jax.default_backend() == "gpu" and is_for_pallas(problem, solver):
            try:
                fused = dataclasses.replace(unfused, mode="pallas", num_threads=1)
                return execute(body, problem, solver, starts, max_steps, fused, amend, **options)
            except (NotImplementedError, ValueError, jax.errors.JaxRuntimeError) as error:
                warnings.warn(f"the fused kernel could not be built ({error}); the batch runs refilled", RuntimeWarning, stacklevel=2)
        return execute(body, problem, solver, starts, max_steps, unfused, amend, **options)
    if plan.devices:
        result = solve_on_devices(
            body, problem, solver, jnp.asarray(starts), max_steps, plan, REASSOCIATE if plan.reassociate else None, options
        )
        return result if amend is None else _handed_over(amend(jax.tree.map(np.array, result)))
    quickly = not is_within and is_worth_haste(num_problems)
    compiled = _compiled(body, tuple(sorted(options)), plan.reassociate, quickly)
    chunk = min(plan.chunk, num_problems)
    if is_within or chunk == num_problems:
        result = compiled(problem, solver, starts, max_steps, 0, count=num_problems, plan=plan, **options)
        return result if is_within or amend is None else _handed_over(amend(jax.tree.map(np.array, result)))
    # All chunks are of one length and share one program; the last begins a little early, and what it does twice is the same.
    firsts = [min(first, num_problems - chunk) for first in range(0, num_problems, chunk)]
    leaves, structure = jax.tree.flatten(problem.args)
    # Views, of which XLA's CPU backend copies at most the chunk at hand.
    leaves = [np.asarray(leaf) if batched else leaf for leaf, batched in zip(leaves, problem.is_batched, strict=True)]
    host_starts = np.asarray(starts)

    static = {"count": chunk, "plan": plan, **options}

    def piece(first: int) -> tuple[Minimize, Solver, np.ndarray]:
        part = slice(first, first + chunk)
        held = [leaf[part] if batched else leaf for leaf, batched in zip(leaves, problem.is_batched, strict=True)]
        return dataclasses.replace(problem, args=structure.unflatten(held)), solver, host_starts[part]

    outputs, layout = jax.tree.flatten(compiled.eval_shape(*piece(0), max_steps, 0, **static))
    whole = [_aligned((num_problems, *leaf.shape[1:]), leaf.dtype) for leaf in outputs]

    def solve_from(first: int) -> None:
        for place, leaf in zip(whole, jax.tree.leaves(compiled(*piece(first), max_steps, 0, **static)), strict=True):
            place[first : first + chunk] = np.asarray(leaf)

    layouts = tuple((jnp.shape(leaf)[1:], jnp.result_type(leaf)) for leaf in leaves)
    # The solver and the user's function are parts of the structure of their trees.
    key = hash((compiled, tuple(sorted(options.items())), plan, chunk, jax.tree.structure((problem, solver)), layouts))
    if key not in _MAY_RUN_TOGETHER:
        text = str(compiled.trace(*piece(0), max_steps, 0, **static).jaxpr)
        # The first chunk compiles; meanwhile the other threads would do the same.
        solve_from(firsts.pop(0))
        _MAY_RUN_TOGETHER[key] = _VENDOR.search(text) is None
    # The next part for whoever is free; this thread takes its share, for another one takes a fraction of a small batch's time to begin.
    queue, lock = iter(firsts), threading.Lock()

    def work() -> None:
        while True:
            with lock:
                first = next(queue, None)
            if first is None:
                return
            solve_from(first)

    others = min(plan.num_threads, len(firsts)) - 1 if _MAY_RUN_TOGETHER[key] else 0
    if others:
        with concurrent.futures.ThreadPoolExecutor(others) as pool:
            futures = [pool.submit(work) for _ in range(others)]
            work()
        for future in futures:
            future.result()
    else:
        work()
    result = layout.unflatten(whole)
    return _handed_over(result if amend is None else amend(result))


def _handed_over(result: Any) -> Any:
    """The result as arrays of JAX's, without a copy where they allow it."""
    return jax.device_put(result)


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An empty array that begins where XLA's CPU backend wants its own to: it then takes it over as it is, without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + 64, np.uint8)
    begin = -room.ctypes.data % 64
    return room[begin : begin + size].view(dtype).reshape(shape)


@functools.lru_cache(maxsize=64)
def _compiled(body: Callable[..., Any], options: tuple[str, ...], reassociate: bool, quickly: bool) -> Any:
    @functools.wraps(body)
    def run(*args: Any, plan: Plan, **static: Any) -> Any:
        result = body(*args, plan=plan, **static)
        # In the program itself: a slice of each field would be a call of its own.
        return jax.tree.map(lambda leaf: leaf[0], result) if plan.is_one else result

    flags = (QUICKLY if quickly else {}) | (REASSOCIATE if reassociate else {})
    return jax.jit(run, static_argnames=("count", "plan", *options), compiler_options=flags or None)


def lanes_last(problem: P, first: Any = 0, count: int | None = None) -> P:
    """The problem with the problems in the last axis of its data, as solvers expect it; where asked, only ``count`` of them."""
    leaves, structure = jax.tree.flatten(problem.args)
    part = lambda leaf: leaf if count is None or count == leaf.shape[0] else jax.lax.dynamic_slice_in_dim(leaf, first, count)  # noqa: E731
    moved = [jnp.moveaxis(part(leaf), 0, -1) if batched else leaf for leaf, batched in zip(leaves, problem.is_batched, strict=True)]
    return dataclasses.replace(problem, args=structure.unflatten(moved))


def solve_part(
    problem: Minimize, solver: Solver, starts: Starts, max_steps: Any, first: Any, count: int, plan: Plan, trace_length: int
) -> tuple[Outcome, Trace | None]:
    """Outcome and trace of a part of the batch, problems in the last axis; the loop itself is not differentiated.

    The derivative of a solution follows from the solution alone.
    """
    held_problem, held_solver, held = jax.lax.stop_gradient((lanes_last(problem, first, count), solver, starts))
    # Under jit nobody could look whether the start lies within its bounds.
    x = held_problem.project(jnp.asarray(held).T)
    if plan.mode == "pallas":
        # The kernel has its problems in blocks of its own; a part of the batch is cut out before.
        compiler = compiler_for(problem, plan.interpret)
        part = lanes_last(jax.lax.stop_gradient(problem), first, count)
        return solve_pallas(part, held_solver, jax.lax.dynamic_slice_in_dim(x, first, count, axis=1), max_steps, compiler), None
    if plan.mode == "refill":
        # On several devices a block keeps its lanes even where it holds fewer problems: no shape may depend on how many devices there are.
        lanes = plan.lanes if plan.devices else min(plan.lanes, count)
        return solve_refill(held_problem, held_solver, x, max_steps, lanes, plan.check_every), None
    return solve_lockstep(held_problem, held_solver, x, max_steps, plan.lanes, trace_length)
