"""What a derivative method is, and the function it is handed: f with all of its arguments, one or several of them free.

A method is a frozen, hashable dataclass that answers the questions of `Method`. Everything a user calls (`gradient`, `hessian`, ...)
checks its arguments, binds f, and asks. A new method is one new class and nothing else.
"""

import dataclasses
import functools
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._types import PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bound:
    """f bound to its arguments, a function of those that are differentiated.

    Arrays and floats are data, everything else (f, booleans, integers, strings) is part of the type: a compiled kernel is reused for
    other data.

    Attributes:
        data: array and float leaves of the arguments.
        f: the user's function.
        rest: the other leaves, each with its type, so that ``True`` and ``1`` are not taken for the same; None where a leaf is data.
        structure: how leaves make up ``(args, kwargs)``.
        argnums: which positional arguments are differentiated.
        has_aux: whether f returns a pair, the second of which is only passed on.
        order: which derivative a kernel is asked for, where there is a choice: a count, or the coordinates of a mixed one.
    """

    data: tuple[Any, ...]
    f: Callable[..., Any] = dataclasses.field(metadata={"static": True})
    rest: tuple[Any, ...] = dataclasses.field(metadata={"static": True})
    structure: Any = dataclasses.field(metadata={"static": True})
    argnums: int | tuple[int, ...] = dataclasses.field(metadata={"static": True})
    has_aux: bool = dataclasses.field(metadata={"static": True})
    order: Any = dataclasses.field(default=1, metadata={"static": True})

    @classmethod
    def of(
        cls,
        f: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        argnums: int | tuple[int, ...] = 0,
        has_aux: bool = False,
    ) -> "Bound":
        """Bind ``f(*args, **kwargs)``."""
        leaves, structure = jax.tree.flatten((args, kwargs or {}))
        data = tuple(leaf for leaf in leaves if _is_data(leaf))
        rest = tuple(None if _is_data(leaf) else (type(leaf), leaf) for leaf in leaves)
        return cls(data, f, rest, structure, argnums, has_aux)

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` as they were given."""
        data = iter(self.data)
        return self.structure.unflatten([next(data) if leaf is None else leaf[1] for leaf in self.rest])

    @property
    def x(self) -> PyTree:
        """The differentiated argument, or the tuple of them."""
        args = self.arguments[0]
        return args[self.argnums] if isinstance(self.argnums, int) else tuple(args[i] for i in self.argnums)

    def arguments_at(self, x: PyTree) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` with the differentiated arguments replaced."""
        args, kwargs = self.arguments
        replaced = list(args)
        if isinstance(self.argnums, int):
            replaced[self.argnums] = x
        else:
            for position, part in zip(self.argnums, x, strict=True):
                replaced[position] = part
        return tuple(replaced), kwargs

    def __call__(self, x: PyTree) -> Any:
        """f at x."""
        args, kwargs = self.arguments_at(x)
        return self.f(*args, **kwargs)

    def with_aux(self, x: PyTree) -> tuple[Any, Any]:
        """f at x as a pair (output, aux); aux is None where f has none.

        Raises:
            TypeError: f was said to return a pair and does not.
        """
        output = self(x)
        if not self.has_aux:
            return output, None
        if not (isinstance(output, tuple) and len(output) == 2):
            raise TypeError(f"f returned {describe(output)}; with has_aux=True expected a pair (value, aux)")
        return output

    def scalar(self, x: PyTree) -> tuple[jax.Array, Any]:
        """f at x as (value, aux), the value checked to be one real floating number.

        Raises:
            TypeError: naming what f returned, and what to call instead.
        """
        value, aux = self.with_aux(x)
        is_number = isinstance(value, (float, np.floating, np.ndarray, jax.Array))
        if not is_number or jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            hint = "; for a vector-valued f use jacobian, and for a vector of residuals least_squares" if getattr(value, "ndim", 0) else ""
            raise TypeError(f"f returned {describe(value)}; expected one real floating number{hint}")
        return jnp.asarray(value), aux

    def arrays(self, x: PyTree) -> PyTree:
        """f at x as a pytree of arrays, every leaf checked to be real floating.

        Raises:
            TypeError: naming what f returned.
        """
        output, _ = self.with_aux(x)
        leaves = jax.tree.leaves(output, is_leaf=lambda leaf: leaf is None)
        for leaf in leaves:
            is_number = isinstance(leaf, (float, np.floating, np.ndarray, jax.Array))
            if not is_number or not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(f"f returned {describe(leaf)}; expected real floating arrays")
        if not leaves:
            raise TypeError(f"f returned {describe(output)}; expected real floating arrays")
        return jax.tree.map(jnp.asarray, output)


@runtime_checkable
class Method(Protocol):
    """Where derivatives come from. Every answer has the form that JAX's own transformations give it, and must be traceable."""

    is_exact: ClassVar[bool]
    """Whether derivatives carry rounding error only, and no truncation error."""

    def num_evaluations(self, n: int) -> int:
        """Evaluations of f that a value and a gradient with respect to n parameters cost together."""
        ...

    def derivative_at(self, bound: Bound, x: jax.Array, n: int) -> jax.Array:
        """The n-th derivative of a scalar function of one number at every point of an array."""
        ...

    def partial_at(self, bound: Bound, x: jax.Array, indices: tuple[int, ...]) -> jax.Array:
        """The mixed partial derivative of a scalar function of one vector."""
        ...

    def value_and_gradient_at(self, bound: Bound, x: PyTree) -> tuple[tuple[jax.Array, Any], PyTree]:
        """``((value, aux), gradient)``; aux is None where f has none."""
        ...

    def jacobian_at(self, bound: Bound, x: PyTree) -> PyTree:
        """The tree of f's output, in each leaf the tree of x, in each leaf the output's axes, then x's."""
        ...

    def hessian_at(self, bound: Bound, x: PyTree) -> PyTree:
        """The tree of x, in each leaf the tree of x."""
        ...

    def hvp_at(self, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
        """The Hessian times v, a tree like x."""
        ...

    def directional_derivative_at(self, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
        """The derivative of f along v, a tree like f's output."""
        ...


def compiled(kernel: Callable[..., Any]) -> Any:
    """Decorator for kernels ``(method, bound, x, ...)``: compiled once per function f, shapes and static options.

    What is compiled is remembered for as long as f itself lives and no longer: f may close over large arrays, or over tracers of somebody
    else's trace. As with ``jax.jit``, f has to be pure: a change of what it closes over is not seen. An f that cannot be hashed, which says
    of itself that it may change, is compiled at every call. ``kernel.shapes(method, bound, x, ...)`` says what would come out: f is traced
    for that once, as well.
    """
    programs: dict[int, tuple[weakref.ref, _Program]] = {}

    def program_of(f: Callable[..., Any]) -> _Program:
        known = programs.get(id(f))
        if known is not None and known[0]() is f:
            return known[1]
        number = id(f)
        try:
            reference = weakref.ref(f, lambda _: programs.pop(number, None))
        except TypeError:  # a callable without weak references, such as one with __slots__
            return _Program(kernel, lambda: f)
        program = _Program(kernel, reference)
        if _is_hashable(f):
            programs[number] = (reference, program)
        return program

    @functools.wraps(kernel)
    def wrapper(method: Any, bound: Bound, *args: Any) -> Any:
        if not _is_hashable(bound.rest):
            return kernel(method, bound, *args)
        return program_of(bound.f)(method, dataclasses.replace(bound, f=_absent), *args)

    def shapes(method: Any, bound: Bound, *args: Any) -> Any:
        if not _is_hashable(bound.rest):
            return jax.eval_shape(lambda *rest: kernel(method, bound, *rest), *args)
        return program_of(bound.f).shapes(method, dataclasses.replace(bound, f=_absent), *args)

    wrapper.shapes = shapes  # type: ignore[attr-defined]
    return wrapper


class _Program:
    """A kernel compiled for one f, which remembers shapes that it was asked for: finding them again takes a quarter of a millisecond."""

    def __init__(self, kernel: Callable[..., Any], f: Callable[[], Any]) -> None:
        @functools.wraps(kernel)
        def run(method: Any, bound: Bound, *args: Any) -> Any:
            return kernel(method, dataclasses.replace(bound, f=f()), *args)

        self._run = jax.jit(run)
        self._shapes: dict[Any, Any] = {}

    def __call__(self, *args: Any) -> Any:
        return self._run(*args)

    def shapes(self, *args: Any) -> Any:
        leaves, structure = jax.tree.flatten(args)
        seen = tuple(_kind_of(leaf) for leaf in leaves), structure, jax.dtypes.canonicalize_dtype(np.float64)
        if seen not in self._shapes:
            self._shapes[seen] = self._run.eval_shape(*args)
        return self._shapes[seen]


def _kind_of(leaf: Any) -> Any:
    """What a tracer would know of a leaf."""
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return leaf.shape, leaf.dtype, getattr(leaf, "weak_type", False)
    return type(leaf)


def _absent(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("f is put back before it is called")


def describe(output: Any) -> str:
    """What f returned, in words."""
    if isinstance(output, (np.ndarray, np.generic, jax.Array)):
        return f"an array of shape {tuple(output.shape)} and dtype {output.dtype}"
    return f"{output!r} of type {type(output).__name__}"


def _is_data(leaf: Any) -> bool:
    if isinstance(leaf, (jax.Array, float, complex)):
        return True
    return isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype.kind in "biufcV"


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
