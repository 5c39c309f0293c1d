"""Many problems at once: blocks of lanes in lockstep, each block small enough to stay in cache.

Under a plain vmap the whole batch runs until its slowest problem is done, and is streamed through memory in each step. Here a block ends
when its own slowest lane does.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxdiff._validation import check_choice, check_count
from jaxdiff.loop import Trace, solve_block
from jaxdiff.problem import Minimize
from jaxdiff.solvers.base import Solver

CACHE_BYTES = 512 * 1024
"""Working set that a block of lanes should stay within: about the second-level cache of one core."""


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """How a batch is run.

    Attributes:
        mode: ``"lockstep"``: blocks of lanes, each until its slowest lane is done; traceable and differentiable. ``"auto"``: the best there
            is for the batch, today always lockstep.
        lanes: problems held side by side in one block; None: as many as fit the cache. More than the batch has are as many as it has.

    Raises:
        ValueError: an unknown mode, or lanes below one.

    Example:
        >>> BatchOptions(lanes=256).lanes
        256
    """

    mode: Literal["auto", "lockstep"] = "auto"
    lanes: int | None = None

    def __post_init__(self) -> None:
        check_choice(self.mode, "mode", ("auto", "lockstep"))
        if self.lanes is not None:
            check_count(self.lanes, "lanes", minimum=1)

    def block_size(self, problem: Minimize, num_problems: int) -> int:
        """Lanes of a block, for a batch of this many problems."""
        if self.lanes is not None:
            return min(self.lanes, num_problems)
        n = problem.packing.size
        data = sum(
            leaf.size // max(num_problems, 1)
            for leaf, batched in zip(jax.tree.leaves(problem.args), problem.is_batched, strict=True)
            if batched
        )
        # A Hessian and its factor, a few vectors, and the data of one lane.
        bytes_per_lane = (2 * n * n + 8 * n + 2 * data + 16) * problem.packing.dtype.itemsize
        wanted = max(CACHE_BYTES // bytes_per_lane, 64)
        return min(1 << (wanted.bit_length() - 1), 2048, num_problems)


def solve_batch(
    problem: Minimize, solver: Solver, x: jax.Array, max_steps: Any, lanes: int, trace_length: int = 0
) -> tuple[Any, Trace | None]:
    """Solve a batch block by block.

    Args:
        problem: batched leaves of its args carry all problems in their last axis.
        solver: its tolerances resolved.
        x: starting points of all problems, ``[n, num_problems]``.
        max_steps: how many steps a lane may make.
        lanes: lanes of a block.
        trace_length: points of history to keep.

    Returns:
        The final state and the trace, all problems in the last axis.
    """
    num_problems = x.shape[-1]
    if num_problems <= lanes:
        return solve_block(problem, solver, x, max_steps, trace_length)
    num_blocks = -(-num_problems // lanes)
    order = jnp.minimum(jnp.arange(num_blocks * lanes), num_problems - 1)
    to_blocks = lambda a: jnp.moveaxis(jnp.take(a, order, axis=-1).reshape(*a.shape[:-1], num_blocks, lanes), -2, 0)  # noqa: E731
    leaves, structure = jax.tree.flatten(problem.args)
    batched = [to_blocks(leaf) for leaf, is_batched in zip(leaves, problem.is_batched, strict=True) if is_batched]

    def one_block(block: tuple[jax.Array, list[jax.Array]]) -> tuple[Any, Trace | None]:
        x, data = block
        data = iter(data)
        args = structure.unflatten(
            [next(data) if is_batched else leaf for leaf, is_batched in zip(leaves, problem.is_batched, strict=True)]
        )
        return solve_block(dataclasses.replace(problem, args=args), solver, x, max_steps, trace_length)

    blocks = jax.lax.map(one_block, (to_blocks(x), batched))
    together = lambda a: jnp.moveaxis(a, 0, -2).reshape(*a.shape[1:-1], num_blocks * lanes)[..., :num_problems]  # noqa: E731
    return jax.tree.map(together, blocks)
