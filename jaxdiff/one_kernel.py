"""A whole algorithm for one small problem as one kernel: what it is made of costs no launch, and next to nothing to compile.

XLA's CPU compiler makes a kernel of every loop over the entries of an array, each compiled on its own (some 18 ms) and launched on its own
(some tenths of a microsecond). For two parameters that is nearly all the time there is. A call that carries the attribute
``xla_cpu_small_call`` it compiles as a single function instead, loops and branches included; by itself it marks so the smallest of its
while loops. A compiler that does not know the attribute sees a call like any other, and other platforms never see it.

What such a kernel may hold is narrower than what a program may: no call of a library, no scatter, and nothing large enough for a
thread of its own. So a program is looked through first, and one that holds anything else stays as it is.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from jaxdiff._types import PyTree

ENTRIES_LIMIT = 1024
"""Entries of the largest array up to which a program is small. From 4096 on XLA hands sums to a library, which no kernel can call."""

OPERATIONS_LIMIT = 4000
"""Operations up to which one function compiles faster than many: the compiler's time grows faster than a function's length."""

_IS_TRIED = (0, 10) <= jaxlib.version.__version_info__[:2] < (0, 13)
"""Whether this is a compiler that all of this has been tried on. The attribute is documented nowhere, and a mistake ends the process."""

_KNOWN = frozenset(
    (  # noqa: SIM905
        "abs acos acosh add add_any and asin asinh atan atan2 atanh broadcast_in_dim cbrt ceil clamp concatenate convert_element_type copy "
        "cos cosh copy_p div dynamic_slice dynamic_update_slice eq erf erf_inv erfc exp exp2 expm1 expand_dims floor gather ge gt "
        "integer_pow iota is_finite le log log1p logistic lt max min mul ne neg not optimization_barrier or pad pow reduce reduce_and "
        "reduce_max reduce_min reduce_or reduce_prod reduce_sum rem reshape rev round rsqrt select_n sign sin sinh slice split sqrt square "
        "squeeze stack stop_gradient sub tan tanh transpose unstack xor"
    ).split()
)
_INLINED = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
_NESTED = frozenset({"while", "cond", "scan"})

_kernel_p = Primitive("one_kernel")
_kernel_p.multiple_results = True


def in_one_kernel(function: Callable[..., PyTree], *trees: PyTree) -> PyTree:
    """``function(*trees)``, on CPU as a single kernel where it is small and holds nothing that a kernel cannot.

    Args:
        function: of pytrees of arrays; pure. Derivatives and batches of it are those of the function as it is.
        trees: pytrees of arrays.

    Example:
        >>> float(in_one_kernel(lambda x: jax.lax.while_loop(lambda a: a < 100, lambda a: a * a, x), jnp.array(2.0)))
        256.0
    """
    leaves, structure = jax.tree.flatten(trees)
    closed, shapes = jax.make_jaxpr(lambda *leaves: function(*structure.unflatten(leaves)), return_shape=True)(*leaves)
    if _is_fit(closed):
        results = _kernel_p.bind(*leaves, jaxpr=closed)
    else:
        # Traced once already: to repeat the operations is faster than to call the function again.
        results = jaxpr_as_fun(closed)(*leaves)
    return jax.tree.structure(shapes).unflatten(results)


def _is_fit(closed: ClosedJaxpr) -> bool:
    """Whether a kernel may hold the program: not too long, each operation known, and each array small."""
    if not _IS_TRIED or closed.effects:
        return False
    equations = list(itertools.islice(_equations(closed), OPERATIONS_LIMIT + 1))
    if len(equations) > OPERATIONS_LIMIT or not all(_is_known(equation) and _is_small(equation) for equation in equations):
        return False
    # Matrix products are written out as sums, but not within loops and branches; left there, they would call a library.
    bodies = [inner for equation in equations if equation.primitive.name in _NESTED for inner in _inner(equation)]
    return not any(equation.primitive.name == "dot_general" for inner in bodies for equation in _equations(inner))


def _equations(closed: ClosedJaxpr) -> Iterator[Any]:
    for equation in closed.jaxpr.eqns:
        yield equation
        for inner in _inner(equation):
            yield from _equations(inner)


def _inner(equation: Any) -> list[ClosedJaxpr]:
    name, params = equation.primitive.name, equation.params
    if equation.primitive is _kernel_p:
        return [params["jaxpr"]]
    if name in _INLINED:
        return [params[_INLINED[name]]]
    if name == "while":
        return [params["cond_jaxpr"], params["body_jaxpr"]]
    if name == "cond":
        return list(params["branches"])
    return [params["jaxpr"]] if name == "scan" else []


def _is_known(equation: Any) -> bool:
    name = equation.primitive.name
    if name == "dot_general":
        return math.prod(_product_shape(equation)) <= ENTRIES_LIMIT
    return name in _KNOWN or name in _INLINED or name in _NESTED or name == "platform_index" or equation.primitive is _kernel_p


def _is_small(equation: Any) -> bool:
    return all(math.prod(atom.aval.shape) <= ENTRIES_LIMIT for atom in (*equation.invars, *equation.outvars))


def _product_shape(equation: Any) -> tuple[int, ...]:
    """Of all products whose sums a matrix product is."""
    left = equation.params["dimension_numbers"][0][0]
    shape = equation.invars[0].aval.shape
    return (*equation.outvars[0].aval.shape, *(shape[axis] for axis in left))


def _flat(closed: ClosedJaxpr, args: Sequence[Any]) -> list[Any]:
    """The program's results, the functions that it calls written out: a kernel within a kernel would not be one."""
    jaxpr = closed.jaxpr
    known: dict[Any, Any] = {}
    known.update(zip(jaxpr.constvars, closed.consts, strict=True))
    known.update(zip(jaxpr.invars, args, strict=True))
    for equation in jaxpr.eqns:
        values = [atom.val if hasattr(atom, "val") else known[atom] for atom in equation.invars]
        name = equation.primitive.name
        if name in _INLINED or equation.primitive is _kernel_p:
            results = _flat(_inner(equation)[0], values)
        elif name == "dot_general":
            results = [_dot(values[0], values[1], equation)]
        else:
            results = equation.primitive.bind(*values, **equation.params)
            results = results if equation.primitive.multiple_results else [results]
        known.update(zip(equation.outvars, results, strict=True))
    return [atom.val if hasattr(atom, "val") else known[atom] for atom in jaxpr.outvars]


def _lowered_on_cpu(*args: Any, jaxpr: ClosedJaxpr) -> list[Any]:
    # A kernel that does not read one of its arguments ends the process (a failed check of the compiler). So each is handed back; behind a
    # barrier, for what JAX sees handed back it takes out of the call.
    run = jax.jit(lambda *args: (_flat(jaxpr, args), jax.lax.optimization_barrier(args)))
    with set_xla_metadata(xla_cpu_small_call="true", inlineable="false"):
        return run(*args)[0]


def _plainly(*args: Any, jaxpr: ClosedJaxpr) -> list[Any]:
    return jaxpr_as_fun(jaxpr)(*args)


def _batched(args: Sequence[Any], axes: Sequence[Any], *, jaxpr: ClosedJaxpr) -> tuple[list[Any], list[int]]:
    # With many lanes loops over them are worth more than one kernel.
    return jax.vmap(jaxpr_as_fun(jaxpr), in_axes=tuple(axes))(*args), [0] * len(jaxpr.out_avals)


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, jaxpr: ClosedJaxpr) -> Any:
    return jax.jvp(jaxpr_as_fun(jaxpr), tuple(primals), tuple(ad.instantiate_zeros(tangent) for tangent in tangents))


def _dot(a: jax.Array, b: jax.Array, equation: Any) -> jax.Array:
    """A matrix product as sums of products: a kernel calls no library."""
    (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
    dtype, count = equation.outvars[0].aval.dtype, len(left_batch)
    own = [axis for axis in range(a.ndim) if axis not in (*left, *left_batch)]
    other = [axis for axis in range(b.ndim) if axis not in (*right, *right_batch)]
    a = jnp.transpose(a, (*left_batch, *own, *left)).astype(dtype)
    b = jnp.transpose(b, (*right_batch, *other, *right)).astype(dtype)
    a = jnp.expand_dims(a, tuple(range(count + len(own), count + len(own) + len(other))))
    b = jnp.expand_dims(b, tuple(range(count, count + len(own))))
    # Of integers sums are wider by themselves.
    return jnp.sum(a * b, axis=tuple(range(-len(left), 0)), dtype=dtype) if left else a * b


_kernel_p.def_impl(_plainly)
_kernel_p.def_abstract_eval(lambda *_, jaxpr: jaxpr.out_avals)
ad.primitive_jvps[_kernel_p] = _jvp
batching.primitive_batchers[_kernel_p] = _batched
mlir.register_lowering(_kernel_p, mlir.lower_fun(_plainly, multiple_results=True))
mlir.register_lowering(_kernel_p, mlir.lower_fun(_lowered_on_cpu, multiple_results=True), platform="cpu")
