"""How a batch is run."""

import dataclasses
from typing import Literal

import jax

from jaxdiff._validation import check_choice, check_count
from jaxdiff.problem import Minimize

CACHE_BYTES = 512 * 1024
"""Working set that a block of lanes should stay within: about the second-level cache of one core."""


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """How a batch is run.

    Attributes:
        mode: ``"refill"``: one block of lanes, in which a lane that has finished takes the next problem, so that the cost follows the work
            each problem needs. ``"lockstep"``: block after block, each until its slowest lane is done. ``"auto"``: refill, unless the
            batch fits into two blocks, or a history is asked for, which only lockstep keeps. All of them can be traced and differentiated.
        lanes: problems held side by side in one block; None: as many as fit the cache. More than the batch has are as many as it has.
        check_every: steps between two rounds of retiring and refilling lanes.

    Raises:
        ValueError: an unknown mode, or a number below one.

    Example:
        >>> BatchOptions(lanes=256).lanes
        256
    """

    mode: Literal["auto", "refill", "lockstep"] = "auto"
    lanes: int | None = None
    check_every: int = 4

    def __post_init__(self) -> None:
        check_choice(self.mode, "mode", ("auto", "refill", "lockstep"))
        check_count(self.check_every, "check_every", minimum=1)
        if self.lanes is not None:
            check_count(self.lanes, "lanes", minimum=1)

    def resolve_mode(self, num_problems: int, lanes: int, has_history: bool) -> str:
        """``"refill"`` or ``"lockstep"``.

        Raises:
            ValueError: a history is asked of refill.
        """
        if self.mode == "refill" and has_history:
            raise ValueError("mode = 'refill' keeps no history; expected mode 'lockstep' or 'auto' with history, or history = False")
        if self.mode == "auto":
            return "lockstep" if has_history or num_problems <= 2 * lanes else "refill"
        return self.mode if num_problems else "lockstep"

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
        wanted = max(CACHE_BYTES // bytes_per_lane, 8)
        return min(1 << (wanted.bit_length() - 1), 2048, num_problems)
