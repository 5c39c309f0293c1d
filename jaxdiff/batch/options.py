"""How a batch is run."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Literal

import jax

from jaxdiff._validation import check_choice, check_count
from jaxdiff.problem import Minimize

BLOCK_BYTES = 256 * 1024
"""Working set of a block of lanes: half of a small second-level cache, the other half is for what a step makes on the way."""

CACHE_BYTES = 1024 * 1024
"""Working set that a block may have where it would be of few lanes otherwise, so that each loop over them costs more than to begin it."""

MANY_LANES = 128
"""Lanes that a block is to have, if they fit."""

LINE_BYTES = 64
"""A line of the cache. Rows of a power of two lie all in the same few places of it: see benchmarks/NOTES.md."""

CHUNK_BYTES = 26 * 1024 * 1024
"""Inputs and outputs of the problems that one core is given at a time."""

CHUNK_BLOCKS = 16
"""Blocks of lanes that a chunk has at least: at its end, lanes run out of problems."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the options come to for one batch; hashable.

    Attributes:
        mode: ``"refill"``, ``"lockstep"`` or ``"pallas"``.
        lanes: problems held side by side.
        check_every: steps between two rounds of retiring and refilling; None: as many as suit the solver.
        num_threads: engines that run side by side.
        chunk: problems that an engine is given at a time.
        reassociate: whether the compiler may reorder sums.
        devices: devices that each run an engine on a part of the batch; none: where the data are.
        progress: whether to draw a bar.
        may_fuse: whether the mode was left open, so that one kernel may take its place on a GPU.
        interpret: whether the kernel is run as a JAX program.
        is_one: whether this is one problem, whose result has no axis of problems.
    """

    mode: str
    lanes: int
    check_every: int | None
    num_threads: int
    chunk: int
    reassociate: bool
    devices: tuple[Any, ...] = ()
    progress: bool = False
    may_fuse: bool = False
    interpret: bool = False
    is_one: bool = False


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """How a batch is run.

    Attributes:
        mode: ``"refill"``: one block of lanes, in which a lane that has finished takes the next problem, so that the cost follows the work
            each problem needs. ``"lockstep"``: block after block, each until its slowest lane is done. ``"auto"``: refill, unless the
            batch fits into two blocks, or a history is asked for, which only lockstep keeps; on a GPU the fused kernel, for small
            Levenberg-Marquardt problems that it can carry. ``"pallas"``: that kernel, the whole loop of the solver in one launch, for
            functions and solvers that are arithmetic alone (`LevenbergMarquardtCholesky`, `BFGS`, `GradientDescent`); on a GPU only. All of
            them can be traced and differentiated.
        lanes: problems held side by side in one block; None: as many as fit the cache. More than the batch has are as many as it has.
        check_every: steps between two rounds of retiring and refilling lanes. None: one, for solvers of many short steps four.
        num_threads: engines that run side by side, each with a part of the batch, since JAX runs one program on about one core of a CPU.
            None: as many as there are cores, where the batch is large enough; one inside ``jax.jit`` and its like.
        reassociate: whether XLA's CPU compiler may reorder sums, so that they run in vector instructions: two to four times faster for sums
            over samples. It may then also fold a compensated sum or ``(x + h) - x`` inside ``fun``; NaN, infinities, divisions and
            functions keep their meaning. Set for the one program and for no other, never with finite differences, and not inside
            ``jax.jit`` and its like, where the options of the outer program hold. None: True, but not with finite differences. Never for
            roots, where rounding errors are looked at.
        rescue: whether problems that did not converge are solved once more, alone, in float64 where that is enabled; ``rescued`` of the
            result says where that helped, ``rescued_by`` which attempt it was. True: with more precision (least squares: by
            `LevenbergMarquardt` on orthogonal factors), then by another solver, then from another start, each for what is left. None: the
            first of these, of least squares where no solver is named. Not of roots, and not inside ``jax.jit`` and its like.
        devices: devices that each run an engine on a part of the batch, without a word between them: how many, the first ones of the
            default backend, or a list of them. Results do not depend on how many there are, to the last bit on CPU. Not inside ``jax.jit``
            and its like. None: the device that holds the data.
        progress: whether to draw a bar on standard error while the batch runs, with problems done and problems per second. Not inside
            ``jax.jit`` and its like, where nothing is drawn.
        chunk_size: problems that go to the device at a time, where data do not fit it, or are memory-mapped: the host solves chunk after
            chunk. The fields of the result are NumPy arrays then. Not inside ``jax.jit`` and its like. None: all at once.
        store: a folder that keeps each chunk once it is solved; the same call goes on where an interrupted one stopped. Chunks of other
            data, options or code are solved anew; what the function closes over is not looked at.
        interpret: whether the kernel of ``mode="pallas"`` is run as a JAX program, on any device and slowly; for tests.

    Raises:
        TypeError: devices is neither a number nor a list of devices.
        ValueError: an unknown mode, or a number below one; more devices than there are.

    Example:
        >>> BatchOptions(lanes=256).lanes
        256
    """

    mode: Literal["auto", "refill", "lockstep", "pallas"] = "auto"
    lanes: int | None = None
    check_every: int | None = None
    num_threads: int | None = None
    reassociate: bool | None = None
    rescue: bool | None = None
    devices: int | Sequence[Any] | None = None
    progress: bool = False
    chunk_size: int | None = None
    store: Any = None
    interpret: bool = False

    def __post_init__(self) -> None:
        check_choice(self.mode, "mode", ("auto", "refill", "lockstep", "pallas"))
        if self.store is not None and self.chunk_size is None:
            raise ValueError(f"store = {self.store!r} without chunk_size; expected how many problems to solve at a time")
        for name in ("lanes", "check_every", "num_threads", "chunk_size"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name, minimum=1)
        for name in ("reassociate", "rescue"):
            if getattr(self, name) not in (None, True, False):
                raise ValueError(f"{name} = {getattr(self, name)!r}; expected True, False or None")
        for name in ("progress", "interpret"):
            if getattr(self, name) not in (True, False):
                raise ValueError(f"{name} = {getattr(self, name)!r}; expected True or False")
        if self.devices is not None and not _is_list_of_devices(self.devices):
            if isinstance(self.devices, (list, tuple)):
                raise TypeError(f"devices = {self.devices!r}; expected how many, or some of jax.devices(), each once")
            check_count(self.devices, "devices", minimum=1)

    def plan(self, problem: Minimize, num_problems: int, has_history: bool, may_reassociate: bool = True) -> Plan:
        """What these options come to for a batch.

        Raises:
            ValueError: a history is asked of refill; reassociation of finite differences; more devices than there are.
        """
        lanes = self.block_size(problem, num_problems)
        mode = self.resolve_mode(num_problems, lanes, has_history)
        if self.reassociate and not problem.derivatives.is_exact:
            raise ValueError("reassociate = True would fold finite differences; expected None or False with this choice of derivatives")
        reassociate = may_reassociate and (problem.derivatives.is_exact if self.reassociate is None else self.reassociate)
        threads = self.num_threads or (_num_cores() if jax.default_backend() == "cpu" else 1)
        # An engine that does not fill its lanes at least twice gains nothing.
        threads = max(1, min(threads, num_problems // (2 * lanes) if self.num_threads is None and lanes else num_problems))
        chunk = max(-(-num_problems // threads), 1)
        if jax.default_backend() == "cpu":
            chunk = _even_chunk(num_problems, threads, max(CHUNK_BYTES // _bytes_in_and_out(problem, num_problems), CHUNK_BLOCKS * lanes))
        may_fuse = self.mode == "auto" and not has_history and num_problems > 0
        devices = self._chosen_devices()
        return Plan(mode, lanes, self.check_every, threads, chunk, reassociate, devices, self.progress, may_fuse, bool(self.interpret))

    def _chosen_devices(self) -> tuple[Any, ...]:
        if self.devices is None:
            return ()
        if isinstance(self.devices, (list, tuple)):
            return tuple(self.devices)
        present = jax.devices()
        if self.devices > len(present):  # type: ignore[operator]
            raise ValueError(f"devices = {self.devices}; expected at most {len(present)}, the devices of backend {present[0].platform!r}")
        return tuple(present[: self.devices])  # type: ignore[misc]

    def resolve_mode(self, num_problems: int, lanes: int, has_history: bool) -> str:
        """``"refill"``, ``"lockstep"`` or ``"pallas"``.

        Raises:
            ValueError: a history is asked of refill or of the kernel; the kernel without a GPU.
        """
        if self.mode in ("refill", "pallas") and has_history:
            raise ValueError(f"mode = {self.mode!r} keeps no history; expected mode 'lockstep' or 'auto' with history, or history = False")
        if self.mode == "pallas" and not self.interpret and jax.default_backend() != "gpu":
            raise ValueError(
                f"mode = 'pallas' needs a GPU, the backend is {jax.default_backend()!r}; expected mode = 'auto', or interpret = True to "
                "run the kernel as a program"
            )
        if self.mode == "auto":
            return "lockstep" if has_history or num_problems <= 2 * lanes else "refill"
        return self.mode if num_problems else "lockstep"

    def block_size(self, problem: Minimize, num_problems: int) -> int:
        """Lanes of a block, for a batch of this many problems."""
        if self.lanes is not None:
            return min(self.lanes, num_problems)
        n, data = problem.packing.size, _numbers_per_problem(problem, num_problems)
        # A Hessian and its factor, a few vectors, and the data of one lane.
        bytes_per_lane = (2 * n * n + 8 * n + data + 16) * problem.packing.dtype.itemsize
        wanted = max(BLOCK_BYTES // bytes_per_lane, min(CACHE_BYTES // bytes_per_lane, MANY_LANES), 8)
        lanes = min(1 << (wanted.bit_length() - 1), 2048)
        # An odd number of lines of the cache, so that rows begin in different places of it.
        line = LINE_BYTES // problem.packing.dtype.itemsize
        return min(lanes - line if lanes >= 2 * line else lanes, num_problems)


def _even_chunk(num_problems: int, threads: int, largest: int) -> int:
    """Problems of a chunk, at most ``largest``: equally many chunks for each thread, the last hardly overlapping the one before."""
    rounds = -(-num_problems // (threads * largest))
    return max(-(-num_problems // (threads * rounds)), 1) if num_problems else 1


def _is_list_of_devices(value: Any) -> bool:
    is_list = isinstance(value, (list, tuple)) and all(isinstance(item, jax.Device) for item in value)
    return is_list and 0 < len(value) == len(set(value))


def _numbers_per_problem(problem: Minimize, num_problems: int) -> int:
    """Numbers that each problem brings as data of its own."""
    leaves = zip(jax.tree.leaves(problem.args), problem.is_batched, strict=True)
    return sum(leaf.size // max(num_problems, 1) for leaf, batched in leaves if batched)


def _bytes_in_and_out(problem: Minimize, num_problems: int) -> int:
    """Bytes of one problem's data and results, about: residuals as many as data, a covariance and a correlation, a few vectors."""
    n = problem.packing.size
    return (2 * _numbers_per_problem(problem, num_problems) + 2 * n * n + 6 * n + 16) * problem.packing.dtype.itemsize


def _num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
