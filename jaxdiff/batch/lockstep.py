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
    num_blocks = -(-num_problems // lanes)
    order = jnp.minimum(jnp.arange(num_blocks * lanes), num_problems - 1)
    to_blocks = lambda a: jnp.moveaxis(jnp.take(a, order, axis=-1).reshape(*a.shape[:-1], num_blocks, lanes), -2, 0)  # noqa: E731
    leaves, structure = jax.tree.flatten(problem.args)
    batched = [to_blocks(leaf) for leaf, is_batched in zip(leaves, problem.is_batched, strict=True) if is_batched]

    def one_block(block: tuple[jax.Array, jax.Array, list[jax.Array]]) -> tuple[Outcome, Trace | None]:
        index, x, data = block
        announce(solver, index * lanes, (index + 1) * lanes, num_problems)
        data = iter(data)
        args = structure.unflatten(
            [next(data) if is_batched else leaf for leaf, is_batched in zip(leaves, problem.is_batched, strict=True)]
        )
        return solve_block(dataclasses.replace(problem, args=args), solver, x, max_steps, trace_length)

    blocks = jax.lax.map(one_block, (jnp.arange(num_blocks), to_blocks(x), batched))
    together = lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], num_blocks * lanes)[..., :num_problems]  # noqa: E731
    return jax.tree.map(together, blocks)
