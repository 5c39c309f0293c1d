"""What every entry does with its arguments before a solver runs, and with the history of a run behind it.

Starts and data are checked, pytrees become flat vectors, bounds, fixed parameters and scales become data of the problem. An entry makes its
problem from what comes out, and nothing else looks at in_axes, tracers or options.
"""

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from jaxdiff._bounds import check_takes_bounds, flat_bounds, flat_fixed, flat_scale, held_in_place
from jaxdiff._progress import Report, Reporting, WithinBudget
from jaxdiff._tolerances import taken_apart, with_tests
from jaxdiff._types import Objective, PyTree, Starts
from jaxdiff._validation import as_data, as_float_leaves, check_count, closest
from jaxdiff.batch.options import BatchOptions, Plan
from jaxdiff.derivatives import Autodiff, FiniteDifference, Supplied
from jaxdiff.derivatives.protocol import Method
from jaxdiff.loop import Trace
from jaxdiff.problem import Minimize, Packing
from jaxdiff.result import History
from jaxdiff.solvers import SOLVERS, FromOptax

ALONE = BatchOptions(lanes=1, reassociate=False)
"""How one problem is run."""

_ONE = Plan("lockstep", 1, 1, 1, 1, False, is_one=True)

Axes = tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Given:
    """The arguments of an entry as a problem takes them.

    Attributes:
        fun: the user's function, tracers that it closes over taken out.
        args: its data, and behind them those tracers, the scale and the bounds.
        is_batched: which leaves of ``args`` have the problems in their first axis.
        packing: how x lies in a flat vector.
        starts: ``[problems, n]``, divided by the scale.
        is_bounded: whether there are bounds or fixed parameters.
        is_scaled: whether there is a scale.
        has_limits: whether bounds were given, and not only fixed parameters.
        solver: as given, without tolerances that differ from problem to problem.
        tolerances: the names of those.
    """

    fun: Objective
    args: tuple[PyTree, ...]
    is_batched: tuple[bool, ...]
    packing: Packing
    starts: Starts
    is_bounded: bool
    is_scaled: bool
    has_limits: bool
    solver: Any = None
    tolerances: tuple[str, ...] = ()

    @property
    def num_own(self) -> int:
        """How many of the last members of ``args`` are scale and tolerances, where there are no bounds."""
        return (1 if self.is_scaled else 0) + len(self.tolerances)

    def problem(self, kind: type[Any], derivatives: Any, has_aux: bool, **fields: Any) -> Any:
        """A problem of this kind.

        Raises:
            TypeError: derivatives is no choice of derivatives.
            ValueError: finite differences with a step or bounds of their own beside a scale.
        """
        derivatives = check_derivatives(derivatives)
        if (
            self.is_scaled
            and isinstance(derivatives, FiniteDifference)
            and (derivatives.step is not None or derivatives.bounds is not None)
        ):
            raise ValueError(
                "scale with FiniteDifference(step=..., bounds=...); expected step = None and bounds = None: both follow the scale"
            )
        return kind(
            self.fun,
            self.args,
            self.is_batched,
            self.packing,
            derivatives,
            bool(has_aux),
            is_bounded=self.is_bounded,
            is_scaled=self.is_scaled,
            tolerances=self.tolerances,
            **fields,
        )


def gather(
    fun: Objective,
    x0: PyTree,
    args: PyTree,
    *,
    is_batch: bool = False,
    in_axes: Any = 0,
    name: str = "x0",
    data_name: str = "args",
    bounds: Any = None,
    fixed: Any = None,
    scale: Any = None,
    solver: Any = None,
) -> Given:
    """Check and flatten what an entry was given, for one problem or a batch.

    Raises:
        TypeError: what is no number, no data, no boolean.
        ValueError: no parameters; shapes, axes or structures that do not fit; values out of range.
    """
    x0 = as_float_leaves(x0, name)
    args = as_data(args if isinstance(args, tuple) else (args,), data_name)
    num_problems = None
    if is_batch:
        x_axes, arg_axes = leaf_axes(in_axes, x0, args)
        num_problems = batch_size(x0, args, (x_axes, arg_axes))
        x0 = map_axes(lambda leaf, axis: to_front(leaf, axis, num_problems), x0, x_axes)
        packing = pack(x0, name, 1)
        first = lambda leaf, axis: leaf if axis is None else jnp.take(leaf, 0, axis=axis)  # noqa: E731
        hoisted: tuple[Any, ...] = ()
        if num_problems:
            one = lambda: (jax.tree.map(lambda leaf: leaf[0], x0), *map_axes(first, args, arg_axes))  # noqa: E731
            fun, hoisted = _hoist_tracers(fun, one)
        args = (*map_axes(lambda leaf, axis: leaf if axis in (None, 0) else jnp.moveaxis(leaf, axis, 0), args, arg_axes), *hoisted)
        is_batched = (*(axis is not None for axis in arg_axes), *(False for _ in hoisted))
        starts = packing.ravel(x0, batch_axes=1)
    else:
        packing = pack(x0, name, 0)
        fun, hoisted = _hoist_tracers(fun, lambda: (x0, *args))
        args = (*args, *hoisted)
        is_batched = (False,) * len(jax.tree.leaves(args))
        starts = _row(packing.ravel(x0))
    sides = flat_bounds(bounds, packing, starts, is_batch=is_batch)
    has_limits = sides is not None
    sides = held_in_place(sides, flat_fixed(fixed, packing, num_problems), starts, is_batch=is_batch)
    own = () if sides is None else sides
    units = flat_scale(scale, packing, num_problems)
    if units is not None:
        starts, own = starts / units, tuple(side / units for side in own)
    solver, tolerances = taken_apart(solver, packing, num_problems) if num_problems else (solver, {})
    own = (*(() if units is None else (units,)), *tolerances.values(), *own)
    args, is_batched = (*args, *own), (*is_batched, *(member.ndim == 2 for member in own))
    is_bounded, is_scaled = sides is not None, units is not None
    return Given(fun, args, is_batched, packing, starts, is_bounded, is_scaled, has_limits, solver, tuple(tolerances))


def _row(x: jax.Array) -> Starts:
    """``x[None]``, of numbers on the CPU without an operation of JAX's, which would take longer than a small fit."""
    is_here = not isinstance(x, Tracer) and jax.default_backend() == "cpu" and x.sharding.device_set == {jax.local_devices()[0]}
    return np.asarray(x)[None] if is_here else x[None]


def settled(solver: Any, problem: Minimize, has_limits: bool, instead: str) -> Any:
    """The solver, an optax transformation made one, and seen to take the bounds.

    Raises:
        TypeError: it is none.
        ValueError: it takes no bounds.
    """
    solver = check_solver(solver)
    check_takes_bounds(problem, solver, has_limits, instead)
    return solver


def wrapped(solver: Any, problem: Minimize, max_evals: Any, report: Report | None) -> Any:
    """The solver, its tolerances resolved, with further tests, a budget of evaluations, and reports of its steps, where asked for."""
    solver = with_tests(solver, problem)
    if max_evals is not None:
        solver = WithinBudget(solver, check_count(max_evals, "max_evals", minimum=1))
    return solver if report is None else Reporting(solver, report)


def reporter(callback: Any, verbose: Any) -> Report | None:
    """Where the steps of one problem are reported to; None for nowhere.

    Raises:
        TypeError: callback is no function.
        ValueError: verbose is not 0, 1 or 2.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"callback = {callback!r}; expected a function of a Progress, or None")
    if check_count(int(verbose) if isinstance(verbose, bool) else verbose, "verbose") > 2:
        raise ValueError(f"verbose = {verbose!r}; expected 0, 1 or 2")
    return Report(callback, verbose == 2) if callback is not None or verbose == 2 else None


def plan_of(options: BatchOptions, problem: Minimize, num_problems: int, has_history: bool, may_reassociate: bool = True) -> Plan:
    """What the options come to: for one problem nothing has to be decided."""
    return _ONE if options is ALONE else options.plan(problem, num_problems, has_history, may_reassociate)


def of_one(result: Any, report: Report | None, verbose: int, throw: bool) -> Any:
    """The result of one problem, printed and raised as asked for."""
    is_known = not isinstance(result.status, Tracer)
    if report is not None and is_known:
        jax.effects_barrier()
    if verbose and is_known:
        print(result)
    return result.raise_if_failed() if throw else result


def history_length(history: Any, max_steps: int) -> int:
    """How many points to keep.

    Raises:
        ValueError: history is neither a boolean nor a count.
    """
    length = max_steps + 1 if history is True else check_count(0 if history is False else history, "history")
    return min(length, max_steps + 1)


def history_of(problem: Minimize, trace: Trace | None) -> History | None:
    """The trace with problems in front, in the user's units."""
    if trace is None:
        return None
    points = jnp.moveaxis(jax.vmap(problem.unscaled)(trace.x), -1, 0)
    fields = {name: jnp.moveaxis(getattr(trace, name), -1, 0) for name in ("value", "optimality", "step_size", "damping", "step_length")}
    return History(**fields, x=problem.unravel(points))


def check_options(options: Any) -> None:
    """Refuse what are no options of a batch.

    Raises:
        TypeError: naming the value.
    """
    if not isinstance(options, BatchOptions):
        raise TypeError(f"options = {options!r}; expected BatchOptions(...)")


def check_solver(solver: Any) -> Any:
    """A minimizer, an optax transformation made one.

    Raises:
        TypeError: it is none, or a class.
        ValueError: it is a word.
    """
    if isinstance(solver, optax.GradientTransformation):
        return FromOptax(solver)
    known = [kind.__name__ for kind in SOLVERS.values()]
    refuse_words(solver, known)
    if not isinstance(solver, tuple(SOLVERS.values())) and not (hasattr(solver, "init") and hasattr(solver, "tolerance_names")):
        raise TypeError(f"solver = {solver!r}; expected one of {', '.join(known)}, or an optax transformation")
    return solver


def refuse_words(solver: Any, known: list[str]) -> None:
    """Refuse the name of a solver, and its class, in place of an instance.

    Raises:
        TypeError: a class.
        ValueError: a word; the message has the nearest known one.
    """
    if isinstance(solver, str):
        near = closest(solver.replace("_", ""), [name.lower() for name in known])
        shown = "Newton" if "Newton" in known else known[0]
        raise ValueError(f"solver = {solver!r}; expected an instance such as {shown}(), one of {', '.join(known)}{near}")
    if inspect.isclass(solver):
        raise TypeError(f"solver = {solver.__name__} is a class; expected an instance: {solver.__name__}(...)")


def check_derivatives(method: Any) -> Any:
    """A choice of derivatives.

    Raises:
        TypeError: it is none.
    """
    # To hold an object against a protocol takes a tenth of a millisecond.
    if isinstance(method, (Autodiff, FiniteDifference, Supplied)):
        return method
    if inspect.isclass(method) or not isinstance(method, Method):
        expected = ", ".join(f"{kind.__name__}(...)" for kind in (Autodiff, FiniteDifference, Supplied))
        raise TypeError(f"derivatives = {method!r}; expected one of {expected}")
    return method


def pack(x0: PyTree, name: str, skip_axes: int) -> Packing:
    """The layout of x.

    Raises:
        ValueError: there is no number in it.
    """
    packing = Packing.of(x0, skip_axes=skip_axes)
    if packing.size == 0:
        raise ValueError(f"{name} has no parameters (shapes {list(packing.shapes)}); expected at least one number")
    return packing


def leaf_axes(in_axes: Any, x0: PyTree, args: tuple[PyTree, ...]) -> tuple[Axes, Axes]:
    """The batch axis of every leaf of x0 and of args.

    Raises:
        ValueError: ``in_axes`` does not fit ``(x0, *args)``.
    """
    everything = (x0, *args)
    if isinstance(in_axes, list):
        in_axes = tuple(in_axes)
    if isinstance(in_axes, tuple) and len(in_axes) != len(everything):
        raise ValueError(
            f"in_axes = {in_axes!r} has {len(in_axes)} entries; expected {len(everything)}, one for x0 and one for each of args"
        )
    try:
        spread = jax.tree.broadcast(in_axes, everything, is_leaf=lambda axis: axis is None)
    except ValueError as error:
        raise ValueError(f"in_axes = {in_axes!r} is not a prefix of (x0, *args): {error}") from None
    leaves = lambda tree: tuple(jax.tree.leaves(tree, is_leaf=lambda axis: axis is None))  # noqa: E731
    for axis in leaves(spread):
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
            raise ValueError(f"in_axes holds {axis!r}; expected integers and None")
    return leaves(spread[0]), leaves(spread[1:])


def batch_size(x0: PyTree, args: tuple[PyTree, ...], axes: tuple[Axes, Axes]) -> int:
    """The common length of all batch axes.

    Raises:
        ValueError: naming the two leaves that differ, their shapes and axes; or that nothing is batched.
    """
    named = [(f"x0{jax.tree_util.keystr(path)}", leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(x0)]
    named += [(f"args{jax.tree_util.keystr(path)}", leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(args)]
    first: tuple[str, tuple[int, ...], int] | None = None
    for (name, leaf), axis in zip(named, (*axes[0], *axes[1]), strict=True):
        if axis is None:
            continue
        shape = tuple(jnp.shape(leaf))
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"{name} of shape {shape} has no axis {axis}; give its axis, or None to share it, in in_axes")
        if first is None:
            first = (name, shape, axis)
        elif shape[axis] != first[1][first[2]]:
            raise ValueError(
                f"{first[0]} of shape {first[1]} has {first[1][first[2]]} problems along axis {first[2]}, "
                f"but {name} of shape {shape} has {shape[axis]} along axis {axis}"
            )
    if first is None:
        raise ValueError("in_axes is None for x0 and all of args; expected at least one of them to count the problems")
    return first[1][first[2]]


def map_axes(function: Callable[[Any, int | None], Any], tree: PyTree, axes: Axes) -> PyTree:
    """``function(leaf, axis)`` of every leaf of a tree."""
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([function(leaf, axis) for leaf, axis in zip(leaves, axes, strict=True)])


def to_front(leaf: jax.Array, axis: int | None, size: int) -> jax.Array:
    """The leaf with its problems in front; where they share it, repeated."""
    if axis == 0:
        # As it is: to move an axis to where it is would copy all data.
        return leaf
    return jnp.broadcast_to(leaf, (size, *leaf.shape)) if axis is None else jnp.moveaxis(leaf, axis, 0)


def _hoist_tracers(fun: Objective, arguments: Callable[[], tuple[PyTree, ...]]) -> tuple[Objective, tuple[Any, ...]]:
    """``fun`` with the tracers that it closes over as further arguments, so that derivatives with respect to them are seen.

    Only a function that holds a tracer is converted: the conversion makes a new function, which would compile anew each time.
    """
    if not any(isinstance(leaf, Tracer) for leaf in _held_by(fun, set())):
        return fun, ()
    converted, hoisted = jax.closure_convert(fun, *arguments())
    return converted, tuple(hoisted)


def _held_by(value: Any, seen: set[int]) -> Iterator[Any]:
    """Leaves that a callable reaches through its closure, defaults, bound arguments, or the object it is a method of."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, functools.partial):
        parts: list[Any] = [value.func, value.args, value.keywords]
    elif isinstance(value, types.MethodType):
        parts = [value.__self__, value.__func__]
    elif isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        parts = [*cells, value.__defaults__, value.__kwdefaults__, getattr(value, "__wrapped__", None)]
    elif isinstance(value, (dict, list, tuple)):
        parts = list(value.values()) if isinstance(value, dict) else list(value)
    elif hasattr(value, "__dict__") and not isinstance(value, (type, types.ModuleType, Tracer)):
        parts = [*vars(value).values(), getattr(value, "__wrapped__", None)]
    else:
        yield value
        return
    for part in parts:
        yield from _held_by(part, seen)


def _is_empty(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False
