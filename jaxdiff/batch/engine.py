"""A batch whose cost follows the work that each problem needs: lanes that have stopped are retired, and refilled from the queue.

A block of lanes makes a few steps in lockstep; then every lane that has stopped writes its outcome to the problem's place and takes the
next problem. No lane waits for a slower neighbour for longer than those few steps, and the block stays in cache. A fresh lane costs no
evaluation
of its own: the next step of the block evaluates its start. The whole is one program, so that nothing crosses to the host in between.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._pytree import pytree_dataclass
from jaxdiff._types import LaneInt
from jaxdiff.loop import Outcome, advance, keep_lanes
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.solvers.base import Solver


@pytree_dataclass
class Engine:
    """What the engine carries from round to round.

    Attributes:
        state: the solver's state of the lanes.
        args: the data of the problems that the lanes hold, lanes last where they are batched.
        index: which problem each lane holds; the number of problems where it holds none.
        next_problem: the first problem of the queue that no lane has taken yet.
        outcomes: outcomes of all problems, one row each.
    """

    state: Any
    args: Any
    index: LaneInt
    next_problem: jax.Array
    outcomes: Outcome


def solve_refill(problem: Minimize, solver: Solver, x: jax.Array, max_steps: Any, lanes: int, check_every: int) -> Outcome:
    """Solve a batch with one block of lanes, refilled as they finish.

    Args:
        problem: batched leaves of its args carry all problems in their last axis.
        solver: its tolerances resolved.
        x: starting points of all problems, ``[n, num_problems]``.
        max_steps: how many steps a problem may make.
        lanes: lanes of the block.
        check_every: steps between two rounds of retiring and refilling.

    Returns:
        The outcome of every problem, problems in the last axis.
    """
    num_problems = x.shape[-1]
    leaves, structure = jax.tree.flatten(problem.args)
    # One row a problem: taking or writing a lane then touches one stretch of memory.
    rows = [jnp.moveaxis(leaf, -1, 0) if batched else leaf for leaf, batched in zip(leaves, problem.is_batched, strict=True)]
    starts = x.T

    def load(index: LaneInt) -> tuple[jax.Array, Any]:
        held = jnp.minimum(index, num_problems - 1)
        taken = [jnp.moveaxis(row[held], 0, -1) if batched else row for row, batched in zip(rows, problem.is_batched, strict=True)]
        return starts[held].T, structure.unflatten(taken)

    def is_busy(engine: Engine) -> jax.Array:
        return jnp.any(engine.index < num_problems)

    def round_of(engine: Engine) -> Engine:
        held = dataclasses.replace(problem, args=engine.args)
        state = advance(held, solver, engine.state, check_every, max_steps)
        has_stopped = (state.status != Status.RUNNING) | (state.num_steps >= max_steps)
        is_retired = has_stopped & (engine.index < num_problems)
        # Lanes that do not retire write out of range, and so nowhere.
        place = jnp.where(is_retired, engine.index, num_problems)
        outcomes = jax.tree.map(
            lambda all_rows, lane: all_rows.at[place].set(jnp.moveaxis(lane, -1, 0), mode="drop"), engine.outcomes, Outcome.of(state)
        )
        queued = engine.next_problem + jnp.cumsum(is_retired, dtype=jnp.int32) - 1
        index = jnp.where(is_retired, jnp.minimum(queued, num_problems), engine.index)
        is_fresh = is_retired & (index < num_problems)

        def refill() -> tuple[Any, Any]:
            x, args = load(index)
            fresh = solver.init(dataclasses.replace(problem, args=args), x)
            flat, treedef = jax.tree.flatten(args)
            kept = [
                jnp.where(is_fresh, new, old) if batched else old
                for new, old, batched in zip(flat, jax.tree.leaves(engine.args), problem.is_batched, strict=True)
            ]
            return keep_lanes(~is_fresh, state, fresh), treedef.unflatten(kept)

        state, args = jax.lax.cond(jnp.any(is_fresh), refill, lambda: (state, engine.args))
        return Engine(state, args, index, jnp.minimum(engine.next_problem + jnp.sum(is_retired, dtype=jnp.int32), num_problems), outcomes)

    index = jnp.arange(lanes, dtype=jnp.int32)
    first_x, first_args = load(index)
    state = solver.init(dataclasses.replace(problem, args=first_args), first_x)
    empty = jax.tree.map(lambda lane: jnp.zeros((num_problems, *lane.shape[:-1]), lane.dtype), Outcome.of(state))
    engine = Engine(state, first_args, index, jnp.asarray(lanes, jnp.int32), empty)
    engine = jax.lax.while_loop(is_busy, round_of, engine)
    return jax.tree.map(lambda all_rows: jnp.moveaxis(all_rows, 0, -1), engine.outcomes)
