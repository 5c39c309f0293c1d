"""The whole solver in one kernel: a block of lanes stays in registers from its start to its solution.

On a GPU every operation of the engine is a launch, or at least a pass over memory. Here one kernel runs the loop of the solver for a block
of 128 lanes, one warpgroup: the solver's step for one problem, the user's function traced inside of it, is written out number by number
(`scalarize`), so that the kernel holds nothing but arithmetic on vectors over lanes, loads and stores of rows, one loop, and a maximum over
the block that says whether any lane still runs. No word of any backend is in it; only its launch differs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdiff._object_arrays import filled, shared_out
from jaxdiff.loop import Outcome, step_where
from jaxdiff.problem import Minimize
from jaxdiff.result import Status
from jaxdiff.scalarize import NotScalarizable, Scalarizer, any_lane
from jaxdiff.solvers import LevenbergMarquardtCholesky
from jaxdiff.solvers.base import Solver

WARPGROUP = 128
"""Lanes of a block: Mosaic GPU lays vectors out over whole warpgroups."""


SIZE_LIMIT = 12
"""Parameters up to which the kernel is chosen without being asked for: above, a lane's matrix does not fit its registers (our guess)."""


def is_for_pallas(problem: Minimize, solver: Any) -> bool:
    """Whether a batch is of the kind that the kernel is chosen for unasked: Levenberg-Marquardt on few parameters, exact derivatives."""
    inner = getattr(solver, "solver", solver)
    return isinstance(inner, LevenbergMarquardtCholesky) and problem.packing.size <= SIZE_LIMIT and problem.derivatives.is_exact


def solve_pallas(problem: Minimize, solver: Solver, x: jax.Array, max_steps: Any, compiler: str) -> Outcome:
    """Solve a batch in one kernel.

    Args:
        problem: batched leaves of its args carry all problems in their last axis.
        solver: its tolerances resolved.
        x: starting points of all problems, ``[n, num_problems]``.
        max_steps: how many steps a problem may make.
        compiler: ``"mosaic"``, ``"triton"``, or ``"interpret"``: a JAX program, on any device, for tests; see `compiler_for`.

    Returns:
        The outcome of every problem, problems in the last axis.

    Raises:
        NotScalarizable: the function or the solver holds an operation that the kernel cannot.
    """
    num_problems = x.shape[-1]
    num_blocks = -(-num_problems // WARPGROUP)
    shared, batched, rebuild = _split(problem, solver, max_steps)
    rows = [x, *batched]
    kernel, outputs = _kernel(rebuild, shared, rows)
    padded = [_padded(row.reshape(-1, num_problems), num_blocks * WARPGROUP) for row in rows]
    # Whole warpgroups of what all share, too: copies of fewer bytes are not to be had everywhere.
    flat = [jnp.pad(jnp.reshape(value, -1), (0, -value.size % WARPGROUP)) for value in shared]
    out_shape = [jax.ShapeDtypeStruct((count, num_blocks * WARPGROUP), dtype) for count, dtype in outputs]
    launch = {"mosaic": _launch_mosaic, "triton": _launch_triton, "interpret": _launch_interpreted}[compiler]
    try:
        results = launch(kernel, flat, padded, out_shape, num_blocks)
    except NotScalarizable as error:
        kind = type(getattr(solver, "solver", solver)).__name__
        raise NotScalarizable(
            f"mode = 'pallas' cannot write out fun with solver = {kind}(...): {error}; expected mode 'auto', 'refill' or 'lockstep'"
        ) from None
    x, value, gradient, status, num_steps, num_evaluations, paid = (result[:, :num_problems] for result in results)
    return Outcome(x, value[0], gradient, status[0], num_steps[0], num_evaluations[0], paid[0])


def compiler_for(problem: Minimize, interpret: bool) -> str:
    """What carries the kernel: Mosaic GPU from Hopper on and in 32 bits, which is where it is at home; else Triton."""
    if interpret:
        return "interpret"
    capability = float(getattr(jax.devices()[0], "compute_capability", 0.0))
    is_narrow = all(jnp.result_type(leaf).itemsize <= 4 for leaf in jax.tree.leaves((problem.args, jnp.zeros((), problem.packing.dtype))))
    return "mosaic" if capability >= 9 and is_narrow else "triton"


Launch = Callable[[Callable[..., None], list[jax.Array], list[jax.Array], list[Any], int], Any]
"""Runs a kernel on (what all share, rows over problems, shapes of the outputs, number of blocks). Pallas is large, and few need it: each
imports it by itself."""


def _launch_call(
    kernel: Callable[..., None],
    shared: list[jax.Array],
    rows: list[jax.Array],
    out_shape: list[Any],
    num_blocks: int,
    **options: Any,
) -> Any:
    """By ``pallas_call``, which hands the kernel its block of every array."""
    from jax.experimental import pallas as pl

    by_block = lambda array: pl.BlockSpec((array.shape[0], WARPGROUP), lambda i: (0, i))  # noqa: E731
    return pl.pallas_call(
        kernel,
        out_shape=out_shape,
        grid=(num_blocks,),
        in_specs=[*(pl.BlockSpec(value.shape, lambda i: (0,)) for value in shared), *map(by_block, rows)],
        out_specs=[*map(by_block, out_shape)],
        **options,
    )(*shared, *rows)


def _launch_interpreted(
    kernel: Callable[..., None], shared: list[jax.Array], rows: list[jax.Array], out_shape: list[Any], num_blocks: int
) -> Any:
    return _launch_call(kernel, shared, rows, out_shape, num_blocks, interpret=True)


def _launch_triton(
    kernel: Callable[..., None], shared: list[jax.Array], rows: list[jax.Array], out_shape: list[Any], num_blocks: int
) -> Any:
    from jax.experimental.pallas import triton

    # One lane a thread.
    return _launch_call(
        kernel, shared, rows, out_shape, num_blocks, compiler_params=triton.CompilerParams(num_warps=WARPGROUP // 32, num_stages=1)
    )


def _launch_mosaic(
    kernel: Callable[..., None], shared: list[jax.Array], rows: list[jax.Array], out_shape: list[Any], num_blocks: int
) -> Any:
    """Mosaic GPU hands over whole arrays in global memory, of which the kernel sees its columns."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    def body(*refs: Any) -> None:
        columns = pl.ds(jax.lax.axis_index("block") * WARPGROUP, WARPGROUP)
        kernel(*refs[: len(shared)], *(ref.at[:, columns] for ref in refs[len(shared) :]))

    return plgpu.kernel(body, out_type=out_shape, grid=(num_blocks,), grid_names=("block",))(*shared, *rows)


def _padded(rows: jax.Array, length: int) -> jax.Array:
    """The last lane repeated up to whole blocks."""
    return jnp.concatenate([rows, jnp.broadcast_to(rows[:, -1:], (rows.shape[0], length - rows.shape[1]))], axis=1)


def _split(problem: Minimize, solver: Solver, max_steps: Any) -> tuple[list[jax.Array], list[jax.Array], Callable[..., Any]]:
    """What all problems share, what each has of its own, and how both become (problem, solver, max_steps) again."""
    leaves, structure = jax.tree.flatten(problem.args)
    shared_args = [jnp.asarray(leaf) for leaf, batched in zip(leaves, problem.is_batched, strict=True) if not batched]
    batched = [leaf for leaf, is_batched in zip(leaves, problem.is_batched, strict=True) if is_batched]
    rest = dataclasses.replace(problem, args=())
    others, other_structure = jax.tree.flatten((rest, solver, max_steps))
    num_args = len(shared_args)

    def rebuild(shared: Sequence[jax.Array], own: Sequence[jax.Array]) -> tuple[Minimize, Solver, Any]:
        given, held = iter(shared[:num_args]), iter(own)
        args = structure.unflatten([next(held) if is_batched else next(given) for is_batched in problem.is_batched])
        rest, solver, max_steps = other_structure.unflatten(shared[num_args:])
        return dataclasses.replace(rest, args=args), solver, max_steps

    return [*shared_args, *(jnp.asarray(leaf) for leaf in others)], batched, rebuild


def _kernel(
    rebuild: Callable[..., Any], shared: Sequence[jax.Array], rows: Sequence[jax.Array]
) -> tuple[Callable[..., None], list[tuple[int, Any]]]:
    """The kernel, and rows and dtype of each of its outputs."""
    of_shared = [jax.ShapeDtypeStruct(value.shape, value.dtype) for value in shared]
    of_lane = [jax.ShapeDtypeStruct((*row.shape[:-1], 1), row.dtype) for row in rows]

    def start(shared: Any, x: Any, own: Any) -> Any:
        problem, solver, _ = rebuild(shared, own)
        return solver.init(problem, x)

    def step(shared: Any, own: Any, state: Any) -> Any:
        problem, solver, max_steps = rebuild(shared, own)
        is_running = (state.status == Status.RUNNING) & (state.num_steps < max_steps)
        return step_where(problem, solver, state, is_running), is_running

    def finish(state: Any) -> list[Any]:
        outcome = dataclasses.replace(Outcome.of(state), steps_paid=None)
        return jax.tree.leaves(outcome)

    state = jax.eval_shape(start, of_shared, of_lane[0], of_lane[1:])
    starting = jax.make_jaxpr(start)(of_shared, of_lane[0], of_lane[1:])
    stepping = jax.make_jaxpr(step)(of_shared, of_lane[1:], state)
    finishing, finished = jax.make_jaxpr(finish, return_shape=True)(state)
    outputs = [(int(np.prod(leaf.shape)), leaf.dtype) for leaf in finished]
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]

    def kernel(*refs: Any) -> None:
        scalarizer = Scalarizer((WARPGROUP,))
        shared_refs, own_refs = refs[: len(shared)], refs[len(shared) : len(shared) + len(rows)]
        output_refs = refs[len(shared) + len(rows) :]
        held = [_read(ref, value.shape, is_row=False) for ref, value in zip(shared_refs, of_shared, strict=True)]
        x, *own = [_read(ref, value.shape, is_row=True) for ref, value in zip(own_refs, of_lane, strict=True)]
        entries = [scalarizer.spread(entry) for part in scalarizer(starting, [*held, x, *own]) for entry in part.reshape(-1)]
        # What a loop carries keeps its layout: a number that fills a vector would have to remain one.
        lane = x.reshape(-1)[0]
        entries = [lax.select_n(lax.lt(lane, lane), entry, entry) for entry in entries]

        def body(carry: Any) -> Any:
            count, _, entries = carry
            *new, running = scalarizer(stepping, [*held, *own, *shared_out(shapes, entries)])
            # One step behind: a block makes one round more than its slowest lane, and asks only once per round.
            new = [scalarizer.spread(entry) for part in new for entry in part.reshape(-1)]
            return count + jnp.int32(1), any_lane(scalarizer.spread(running.reshape(-1)[0])), new

        count, _, entries = lax.while_loop(lambda carry: carry[1], body, (jnp.int32(-1), jnp.bool_(True), entries))
        for ref, part in zip(output_refs, scalarizer(finishing, shared_out(shapes, entries)), strict=False):
            for j, entry in enumerate(part.reshape(-1)):
                ref[j, :] = scalarizer.spread(entry)
        output_refs[-1][0, :] = lax.broadcast_in_dim(count.astype(jnp.float32), (WARPGROUP,), ())

    return kernel, [*outputs, (1, jnp.float32)]


def _read(ref: Any, shape: tuple[int, ...], is_row: bool) -> np.ndarray:
    """An object array of what a reference holds: its rows over lanes, or its single numbers."""
    return filled(shape, [ref[j, :] if is_row else ref[j] for j in range(int(np.prod(shape)))])
