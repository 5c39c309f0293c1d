"""A batch in lockstep: block after block of lanes, each small enough to stay in cache.

Under a plain vmap the whole batch runs until its slowest problem is done, and is streamed through memory in each step. Here a block ends
when its own slowest lane does.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.batch.progress import announce
from jaxdiff.loop import Outcome, Trace, solve_block
from jaxdiff.problem import Minimize
from jaxdiff.solvers.base import Solver


def solve_lockstep(
    problem: Minimize, solver: Solver, x: jax.Array, max_steps: Any, lanes: int, trace_length: int = 0
) -> tuple[Outcome, Trace | None]:
    """Solve a batch block by block.

    Args:
        problem: batched leaves of its args carry all problems in their last axis.
        solver: its tolerances resolved.
        x: starting points of all problems, ``[n, num_problems]``.
        max_steps: how many steps a lane may make.
        lanes: lanes of a block.
        trace_length: points of history to keep.

    Returns:
        The outcome and the trace, all problems in the last axis.
    """
    num_problems = x.shape[-1]
    if num_problems <= lanes:
        return solve_block(problem, solver, x, max_steps, trace_length)
    leaves, structure = jax.tree.flatten(problem.args)

    def block_from(first: jax.Array) -> tuple[Outcome, Trace | None]:
        part = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, first, lanes, axis=-1)  # noqa: E731
        args = structure.unflatten([part(leaf) if batched else leaf for leaf, batched in zip(leaves, problem.is_batched, strict=True)])
        return solve_block(dataclasses.replace(problem, args=args), solver, part(x), max_steps, trace_length)

    def write(block: jax.Array, results: Any) -> Any:
        # The last block begins a little early: what it does twice is the same.
        first = jnp.minimum(block * lanes, num_problems - lanes)
        announce(solver, block * lanes, (block + 1) * lanes, num_problems)
        keep = lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, first, axis=-1)  # noqa: E731
        return jax.tree.map(keep, results, block_from(first))

    shapes = jax.eval_shape(block_from, jnp.zeros((), jnp.int32))
    empty = jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape[:-1], num_problems), leaf.dtype), shapes)
    return jax.lax.fori_loop(0, -(-num_problems // lanes), write, empty)
