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
from jaxdiff.batch.progress import announce
from jaxdiff.loop import Outcome, advance, restart_where
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.solvers.base import Solver


@pytree_dataclass
class Engine:
    """What the engine carries from round to round.

    Attributes:
        state: the solver's state of the lanes.
        data: the data of the problems that the lanes hold, one row each where they are batched. A lane's data then lie side by side: sums
            over samples were measured two to three times slower over a strided axis.
        index: which problem each lane holds; the end of the queue where it holds none.
        next_problem: the first problem of the queue that no lane has taken yet; goes on counting beyond its end.
        outcomes: outcomes of all problems, one row each, an array for each dtype: every array is a pass over the lanes.
        num_rounds: rounds so far.
    """

    state: Any
    data: list[jax.Array]
    index: LaneInt
    next_problem: jax.Array
    outcomes: list[jax.Array]
    num_rounds: jax.Array


def solve_refill(
    problem: Minimize,
    solver: Solver,
    x: jax.Array,
    max_steps: Any,
    lanes: int,
    check_every: int | None,
) -> Outcome:
    """Solve a batch with one block of lanes, refilled as they finish.

    Args:
        problem: batched leaves of its args carry all problems in their last axis.
        solver: its tolerances resolved.
        x: starting points of all problems, ``[n, num_problems]``.
        max_steps: how many steps a problem may make.
        lanes: lanes of the block.
        check_every: steps between two rounds of retiring and refilling; None: as many as suit the solver.

    Returns:
        The outcome of every problem, problems in the last axis.
    """
    end = x.shape[-1]
    if check_every is None:
        check_every = int(getattr(getattr(solver, "solver", solver), "steps_per_round", 1))
    leaves, structure = jax.tree.flatten(problem.args)
    # One row a problem: taking or writing a lane then touches one stretch of memory.
    rows = [jnp.moveaxis(leaf, -1, 0) for leaf, batched in zip(leaves, problem.is_batched, strict=True) if batched]
    starts = x.T

    def bound(data: list[jax.Array]) -> Minimize:
        held = iter(data)
        args = [jnp.moveaxis(next(held), 0, -1) if batched else leaf for leaf, batched in zip(leaves, problem.is_batched, strict=True)]
        return dataclasses.replace(problem, args=structure.unflatten(args))

    def is_busy(engine: Engine) -> jax.Array:
        return jnp.any(engine.index < end)

    def round_of(engine: Engine) -> Engine:
        # Bound inside of the loop: rows that are turned before it would be copied, and summed over a strided axis.
        trial = lambda _, state: advance(bound(engine.data), solver, state, 1, max_steps)  # noqa: E731
        state = jax.lax.fori_loop(0, check_every, trial, engine.state)
        has_stopped = (state.status != Status.RUNNING) | (state.num_steps >= max_steps)
        is_retired = has_stopped & (engine.index < end)
        # Lanes that do not retire write out of range, and so nowhere.
        place = jnp.where(is_retired, engine.index, end)
        found = _packed(Outcome.of(state))
        outcomes = [kept.at[place].set(new.T, mode="drop") for kept, new in zip(engine.outcomes, found, strict=True)]
        queued = engine.next_problem + jnp.cumsum(is_retired, dtype=jnp.int32) - 1
        index = jnp.where(is_retired, jnp.minimum(queued, end), engine.index)
        is_fresh = is_retired & (index < end)

        def refill() -> tuple[Any, list[jax.Array]]:
            held = jnp.minimum(index, end - 1)
            data = [
                jnp.where(is_fresh.reshape(-1, *[1] * (old.ndim - 1)), row[held], old) for row, old in zip(rows, engine.data, strict=True)
            ]
            return restart_where(bound(data), solver, state, is_fresh, starts[held].T), data

        state, data = jax.lax.cond(jnp.any(is_fresh), refill, lambda: (state, engine.data))
        # Not held back at the end of the queue, so that it tells how many have retired.
        taken = engine.next_problem + jnp.sum(is_retired, dtype=jnp.int32)
        announce(solver, engine.next_problem - lanes, taken - lanes, end)
        return Engine(state, data, index, taken, outcomes, engine.num_rounds + 1)

    index = jnp.arange(lanes, dtype=jnp.int32)
    held = jnp.minimum(index, end - 1)
    data = [row[held] for row in rows]
    state = solver.init(bound(data), starts[held].T)
    empty = [jnp.zeros((end, rows.shape[0]), rows.dtype) for rows in _packed(Outcome.of(state))]
    engine = Engine(state, data, index, jnp.asarray(lanes, jnp.int32), empty, jnp.zeros((), jnp.int32))
    engine = jax.lax.while_loop(is_busy, round_of, engine)
    outcomes = _unpacked([kept.T for kept in engine.outcomes], Outcome.of(state))
    share = engine.num_rounds.astype(jnp.float32) * (lanes * check_every / end)
    return dataclasses.replace(outcomes, steps_paid=jnp.full(end, share))


def _packed(outcome: Outcome) -> list[jax.Array]:
    """All numbers of one dtype in one array, ``[rows, lanes]``."""
    leaves = jax.tree.leaves(outcome)
    dtypes = list(dict.fromkeys(leaf.dtype for leaf in leaves))
    return [jnp.concatenate([leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves if leaf.dtype == dtype]) for dtype in dtypes]


def _unpacked(packed: list[jax.Array], like: Outcome) -> Outcome:
    """What `_packed` has put together, of another number of lanes."""
    leaves, structure = jax.tree.flatten(like)
    dtypes, taken, parts = [rows.dtype for rows in packed], [0] * len(packed), []
    for leaf in leaves:
        of_dtype = dtypes.index(leaf.dtype)
        begin, taken[of_dtype] = taken[of_dtype], taken[of_dtype] + leaf.size // leaf.shape[-1]
        parts.append(packed[of_dtype][begin : taken[of_dtype]].reshape(*leaf.shape[:-1], -1))
    return structure.unflatten(parts)
