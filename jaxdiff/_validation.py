"""Checks of arguments: what is wrong is said at once, with the argument's name, its value and what was expected."""

import contextlib
import difflib
import functools
import inspect
import numbers
import os
import re
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.core import Tracer, eval_context
from jax.extend.core import get_opaque_trace_state

from jaxdiff._numerics import is_float_dtype, machine_epsilon
from jaxdiff._types import DType, PyTree

F = TypeVar("F", bound=Callable[..., Any])


class PrecisionWarning(UserWarning):
    """An input held more precision than JAX is set to keep."""


def is_traced(tree: PyTree) -> bool:
    """Whether any leaf of ``tree`` is a tracer, so that its value cannot be looked at."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def is_staged() -> bool:
    """Whether operations are being recorded, inside of ``jax.jit``, say: what they give are tracers then, of concrete numbers too."""
    state = get_opaque_trace_state(convention="flax")
    with eval_context():
        # No transformation at all: that is seen in a few microseconds, where the operation below takes a hundred.
        if state == get_opaque_trace_state(convention="flax"):
            return False
    return isinstance(jnp.zeros(()) + 0, Tracer)


def closest(name: str, known: Iterable[str]) -> str:
    """A ready-made ``; did you mean 'x'?`` for the known name nearest to ``name``, or nothing."""
    matches = difflib.get_close_matches(str(name).lower(), list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def suggest_keywords(**aliases: str) -> Callable[[F], F]:
    """Decorator: an unknown keyword is a TypeError that names the nearest known one.

    Args:
        aliases: other libraries' words for an argument, such as ``maxiter="max_steps"``.
    """

    def decorate(function: F) -> F:
        function_name = function.__qualname__.removesuffix(".__init__")
        known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_POSITIONAL]

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for name in kwargs:
                if name not in known:
                    hint = f"; did you mean {aliases[name]!r}?" if name in aliases else closest(name, known)
                    raise TypeError(f"{function_name}() got an unexpected keyword argument {name!r}{hint}")
            return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorate


def as_float_leaves(tree: PyTree, name: str) -> PyTree:
    """Every leaf as a JAX array of a real floating dtype; integers are promoted to the default float.

    Args:
        tree: a pytree of numbers or arrays.
        name: the argument's name, for the messages.

    Returns:
        The same tree with JAX arrays as leaves; a list or tuple of plain numbers, or of equally long such lists, is one array.

    Raises:
        TypeError: a leaf is not numeric, is boolean, or is complex.
        ValueError: lists of unequal lengths.

    Warns:
        PrecisionWarning: a NumPy float64 array comes in while JAX keeps 32 bits.
    """
    if any(leaf is None for leaf in jax.tree.leaves(tree, is_leaf=lambda leaf: leaf is None)):
        raise TypeError(f"{name} holds None; expected real numbers or arrays of them")
    return jax.tree.map(lambda leaf: _as_float_array(leaf, name), plain_lists(tree, name))


def plain_lists(tree: PyTree, name: str) -> PyTree:
    """A list or tuple of plain numbers (or of such lists) is meant as an array, as in NumPy; any other container is a pytree."""
    if not isinstance(tree, (list, tuple)) or hasattr(tree, "_fields") or not tree:
        return tree
    if all(isinstance(leaf, numbers.Number) and not isinstance(leaf, np.generic) for leaf in tree):
        return _plain_array(tree)
    rows = [row for row in tree if isinstance(row, (list, tuple)) and all(isinstance(leaf, numbers.Number) for leaf in row)]
    if len(rows) < len(tree):
        return tree
    for index, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(f"{name}[{index}] has {len(row)} numbers where {name}[0] has {len(rows[0])}; expected rows of one length")
    return _plain_array(tree)


def _plain_array(numbers_: Any) -> Any:
    """An array without a dtype of its own opinion: Python floats become JAX's default float."""
    array = np.asarray(numbers_)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))


_AS_THEY_ARE = (np.dtype(np.float32), np.dtype(np.float64))


def _as_float_array(leaf: Any, name: str) -> jax.Array:
    if isinstance(leaf, (str, bytes)):
        raise TypeError(f"{name} = {leaf!r} is a {type(leaf).__name__}; expected a real number or an array of them")
    if isinstance(leaf, jax.Array):
        dtype = leaf.dtype
        if dtype in _AS_THEY_ARE and not leaf.weak_type and dtype == jax.dtypes.canonicalize_dtype(dtype):
            return leaf
    else:
        array = np.asarray(leaf)
        dtype = array.dtype
        if dtype.kind == "O":
            raise TypeError(f"{name} holds {type(leaf).__name__} of dtype object; expected a real number or an array of them")
        _warn_if_narrowed(leaf, name)
    if jnp.issubdtype(dtype, jnp.bool_):
        raise TypeError(f"{name} is boolean; expected real numbers")
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"{name} is {dtype}; expected real parameters (optimize the real and the imaginary part as two leaves)")
    if not (jnp.issubdtype(dtype, jnp.integer) or is_float_dtype(dtype)):
        raise TypeError(f"{name} has dtype {dtype}; expected real numbers")
    # Narrowed first: result_type would warn of a Python float's 64 bits where JAX keeps 32.
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    target = dtype if is_float_dtype(dtype) else jnp.result_type(dtype, float)
    return jnp.asarray(leaf, dtype=target)


def as_data(tree: PyTree, name: str) -> PyTree:
    """Data as leaves that JAX takes: arrays and Python numbers stay as they are, Python numbers weakly typed.

    Raises:
        TypeError: a leaf is neither an array nor a number.

    Warns:
        PrecisionWarning: a NumPy float64 array comes in while JAX keeps 32 bits.
    """

    def check(path: Any, leaf: Any) -> Any:
        where = f"{name}{jax.tree_util.keystr(path)}"
        if isinstance(leaf, jax.Array):
            # An array is data whatever made it: jnp.full(3, 2.0) is weakly typed, jnp.ones(3) is not, and the two would compile apart.
            return jnp.asarray(leaf, dtype=leaf.dtype) if leaf.weak_type else leaf  # type: ignore[attr-defined]
        if isinstance(leaf, numbers.Number) and not isinstance(leaf, np.generic):
            return leaf
        if not isinstance(leaf, (np.ndarray, np.generic)) or leaf.dtype.kind not in "biufcV":
            kind = f"an array of dtype {leaf.dtype}" if isinstance(leaf, np.ndarray) else f"a {type(leaf).__name__}"
            raise TypeError(f"{where} is {kind}; expected numbers or arrays of them (bind anything else to fun, as with functools.partial)")
        _warn_if_narrowed(leaf, where)
        return jnp.asarray(leaf)

    return jax.tree_util.tree_map_with_path(check, tree)


def _warn_if_narrowed(leaf: Any, name: str) -> None:
    if isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype == np.float64 and jnp.result_type(float) == np.float32:
        warnings.warn(
            f"{name} is float64 but JAX keeps 32 bits here, so float32 is used; "
            "enable 64 bits with jax.config.update('jax_enable_x64', True), or pass float32",
            PrecisionWarning,
            stacklevel=2,
        )


def check_count(value: Any, name: str, *, minimum: int = 0) -> int:
    """An honest integer not below ``minimum``; booleans, floats and strings are refused.

    Raises:
        ValueError: naming the argument, its value and what was expected.
    """
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_integer or int(value) < minimum:
        raise ValueError(f"{name} = {value!r}; expected an integer >= {minimum}")
    return int(value)


def check_tolerance(value: Any, name: str, dtype: DType, *, zero_disables: bool = False) -> None:
    """A tolerance must be finite and resolvable in ``dtype``: at least its machine epsilon (or zero, where zero switches the test off).

    Raises:
        ValueError: quoting the machine epsilon of the dtype.
        TypeError: the tolerance is not a real number.
    """
    if is_traced(value):
        return
    epsilon = machine_epsilon(dtype)
    for leaf in jax.tree.leaves(value):
        if isinstance(leaf, (str, bytes, bool)) or np.asarray(leaf).dtype.kind not in "fiuV":
            raise TypeError(f"{name} = {leaf!r}; expected a real number")
        array = np.asarray(leaf, dtype=np.float64)
        is_fine = np.isfinite(array) & (array >= epsilon)
        if zero_disables:
            is_fine |= array == 0
        for index in np.argwhere(~is_fine)[:1]:
            shown = repr(leaf) if array.ndim == 0 else f"{array[tuple(index)]} at {tuple(index.tolist())}"
            expected = f"a finite number >= {epsilon:.3g}, the machine epsilon of {jnp.dtype(dtype).name}"
            raise ValueError(f"{name} = {shown}; expected {expected}{' (or 0 to switch this test off)' if zero_disables else ''}")


def check_positive(value: Any, name: str) -> None:
    """A positive, finite real number; what is traced cannot be looked at and passes.

    Raises:
        ValueError: naming the argument and its value.
    """
    if value is None or is_traced(value):
        return
    is_number = isinstance(value, (numbers.Real, np.ndarray, jax.Array)) and not isinstance(value, bool) and np.shape(value) == ()  # type: ignore[arg-type]
    if not (is_number and np.isfinite(float(value)) and float(value) > 0):
        raise ValueError(f"{name} = {value!r}; expected a positive, finite number")


def check_choice(value: Any, name: str, choices: Iterable[str]) -> None:
    """One of a few words.

    Raises:
        ValueError: naming the argument, its value, the choices and the nearest of them.
    """
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} = {value!r}; expected one of {', '.join(map(repr, choices))}{closest(value, choices)}")


@contextlib.contextmanager
def explain_tracing_errors() -> Iterator[None]:
    """Add to JAX's tracing errors where in the user's code they arose and what to write instead.

    The exception, its type and its traceback stay as they are; a note is added, once, however deeply these contexts nest.

    Example:
        >>> try:
        ...     with explain_tracing_errors():
        ...         jax.jit(lambda x: x if x > 0 else -x)(1.0)
        ... except jax.errors.TracerBoolConversionError as error:
        ...     print(any("jnp.where" in note for note in error.__notes__))
        True
    """
    try:
        yield
    except jax.errors.TracerArrayConversionError as error:
        _add_hint(error, "NumPy was called on a traced value: use jax.numpy (jnp.sin for np.sin), which JAX can differentiate and compile")
        raise
    except jax.errors.TracerBoolConversionError as error:
        _add_hint(error, "Python branched on a traced value: use jnp.where(condition, a, b), or jax.lax.cond for whole branches")
        raise
    except jax.errors.TracerIntegerConversionError as error:
        _add_hint(error, "a traced value was used as a Python integer: index JAX arrays with it, or loop with jax.lax.fori_loop")
        raise
    except jax.errors.ConcretizationTypeError as error:
        _add_hint(error, "a traced value was made a Python number: use jax.numpy in place of math or float(), jnp.where for branches")
        raise


_HINT = "jaxdiff: "


def _add_hint(error: BaseException, hint: str) -> None:
    if any(note.startswith(_HINT) for note in getattr(error, "__notes__", ())):
        return
    place = _user_frame(error)
    error.add_note(f"{_HINT}{hint}{f' (at {place})' if place else ''}")


def _user_frame(error: BaseException) -> str | None:
    """``file:line`` of the innermost frame that belongs neither to JAX, nor to NumPy, nor to this package."""
    inside = tuple(os.path.dirname(os.path.abspath(module.__file__)) + os.sep for module in (jax, jaxlib, np) if module.__file__)
    inside += (os.path.dirname(os.path.abspath(__file__)) + os.sep,)
    # jaxtyping's and beartype's wrappers are compiled from strings, with no file behind them.
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith((*inside, "<@beartype", "<frozen"))
    ]
    frames = [frame for frame in frames if not re.search(r"[/\\](jaxtyping|beartype|contextlib\.py)", frame.filename)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else None
