"""Which zeros of a program are zeros, and which are numbers that rounding has lost.

The gradient of a saturated tanh is zero in floating point and not in exact arithmetic; that of a relu that is off is zero in both. The two
are told apart by running the program's equations with a companion beside each array: whether each number would be zero in exact arithmetic.

    a b       is not zero where neither factor is: if the product is, it has underflowed;
    a + b     is not zero where one term is not; where both are not and their sum is, it is lost if either has been rounded
              (1 - tanh(20)^2), and a true zero if neither has (1 - 1);
    exp(a)    is never zero; sums, products of matrices, indexing and selection treat the companions as they treat the numbers.

What the rules do not know counts as not zero. So a true zero is one that the program proves; a lost one may, for once, be an exact
cancellation of rounded terms. Calls, loops of known length and branches are looked into.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from jaxdiff.derivatives.culprit import called


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Treat companions of 0 and 1 as they treat numbers; a result is not zero where theirs is not.
_SUMS = _words("reduce_sum cumsum reduce_window_sum dot_general conv_general_dilated select_and_scatter_add scatter-add")
_MOVES = _words(
    "reshape broadcast_in_dim transpose squeeze expand_dims slice dynamic_slice dynamic_update_slice concatenate rev gather copy pad "
    "select_n scatter split convert_element_type reduce_precision optimization_barrier"
)
_ADDITIONS = _words("add sub add_any")
_KEEP_ZERO = _words("neg abs sqrt cbrt sign tanh sin tan asin atan sinh asinh atanh erf erf_inv expm1 log1p square real imag div pow")
# Zero for more numbers than zero alone, without anything lost.
_STEPS = _words("floor ceil round stop_gradient iota")
_ROUND_NOTHING = _MOVES | _STEPS | _words("neg abs sign max min")


class _Known(NamedTuple):
    """A value of the program, where it would not be zero in exact arithmetic, and whether it has been rounded."""

    value: Any
    alive: Any
    rounded: bool


def with_lost_zeros(function: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """The function, returning besides its result where that is zero and would not be in exact arithmetic.

    Args:
        function: of pytrees of arrays, returning a pytree of arrays; written in JAX.

    Returns:
        A function of the same arguments, returning (result, lost); lost has the result's structure, its leaves are booleans. It may be
        compiled with ``jax.jit``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> slopes, lost = with_lost_zeros(jax.vmap(jax.grad(jnp.tanh)))(jnp.array([0.0, 30.0]))
        >>> slopes.tolist(), lost.tolist()
        ([1.0, 0.0], [False, True])
        >>> slopes, lost = with_lost_zeros(jax.vmap(jax.grad(jax.nn.relu)))(jnp.array([1.0, -30.0]))
        >>> slopes.tolist(), lost.tolist()
        ([1.0, 0.0], [False, False])
    """

    def run(*args: Any) -> tuple[Any, Any]:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        outputs = _run(closed, [_exact(jnp.asarray(leaf)) for leaf in jax.tree.leaves(args)])
        structure = jax.tree.structure(shapes)
        lost = [known.alive & (known.value == 0) for known in outputs]
        return structure.unflatten([known.value for known in outputs]), structure.unflatten(lost)

    return run


def _exact(value: Any) -> _Known:
    return _Known(value, jnp.asarray(value) != 0, False)


def _run(closed: Any, inputs: list[_Known]) -> list[_Known]:
    known: dict[Any, _Known] = dict(zip(closed.jaxpr.constvars, map(_exact, closed.consts), strict=True))
    known.update(zip(closed.jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> _Known:
        return _exact(atom.val) if isinstance(atom, core.Literal) else known[atom]

    for equation in closed.jaxpr.eqns:
        known.update(zip(equation.outvars, _results(equation, [read(atom) for atom in equation.invars]), strict=True))
    return [read(atom) for atom in closed.jaxpr.outvars]


def _results(equation: Any, operands: list[_Known]) -> list[_Known]:
    inner = called(equation)
    if inner is not None:
        return _run(inner, operands)
    name = equation.primitive.name
    if name == "scan":
        return _scan(equation, operands)
    if name == "cond":
        return _branch(equation.params["branches"], operands)
    values = _bind(equation, [operand.value for operand in operands])
    was_rounded = any(operand.rounded for operand in operands)
    if name in _SUMS | _MOVES:
        # Selectors and indices choose, they are no numbers to be lost.
        companions = [o.alive.astype(o.value.dtype) if _is_float(o.value) else o.value for o in operands]
        alive = [_is_alive(value, companion, was_rounded) for value, companion in zip(values, _bind(equation, companions), strict=True)]
    else:
        alive = [_alive(name, equation.params, operands, value, was_rounded) for value in values]
    is_rounded = was_rounded or name not in _ROUND_NOTHING
    return [_Known(value, mark, is_rounded and _is_float(value)) for value, mark in zip(values, alive, strict=True)]


def _is_alive(value: Any, companion: Any, was_rounded: bool) -> Any:
    if not _is_float(value):
        return value != 0
    # Without rounding among the terms, a sum that is zero is one.
    return (value != 0) | (companion != 0) if was_rounded else value != 0


def _alive(name: str, params: Any, operands: list[_Known], value: Any, was_rounded: bool) -> Any:
    """Where the result of an equation that is not linear would not be zero in exact arithmetic."""
    is_seen = value != 0
    if not _is_float(value) or name in _STEPS:
        return is_seen
    marks = [operand.alive for operand in operands]
    if name in _ADDITIONS:
        both = marks[0] & marks[1] if was_rounded else False
        return is_seen | (marks[0] ^ marks[1]) | both
    if name == "mul":
        return is_seen | (marks[0] & marks[1])
    if name in _KEEP_ZERO or (name == "integer_pow" and params["y"] > 0):
        return is_seen | marks[0]
    if name in ("max", "min"):
        chosen = [mark & (operand.value == value) for mark, operand in zip(marks, operands, strict=True)]
        return is_seen | chosen[0] | chosen[1]
    return jnp.ones_like(is_seen)


def _scan(equation: Any, operands: list[_Known]) -> list[_Known]:
    """A loop of known length; what it carries counts as rounded."""
    params, body = equation.params, equation.params["jaxpr"]
    # What is stacked has one axis more outside than inside; JAX's own count of the rest changes its form between versions.
    num_carry = sum(inner.aval.ndim == outer.aval.ndim for inner, outer in zip(body.jaxpr.outvars, equation.outvars, strict=True))
    num_whole = sum(inner.aval.ndim == outer.aval.ndim for inner, outer in zip(body.jaxpr.invars, equation.invars, strict=True))
    consts, carry, items = operands[: num_whole - num_carry], operands[num_whole - num_carry : num_whole], operands[num_whole:]

    def pairs(known: list[_Known]) -> list[tuple[Any, Any]]:
        return [(item.value, item.alive) for item in known]

    def step(carried: Any, item: Any) -> Any:
        outputs = _run(body, [*consts, *(_Known(value, alive, True) for value, alive in (*carried, *item))])
        return pairs(outputs[:num_carry]), pairs(outputs[num_carry:])

    end, stacked = jax.lax.scan(step, pairs(carry), pairs(items), length=params["length"], reverse=params["reverse"])
    return [_Known(value, alive, True) for value, alive in (*end, *stacked)]


def _branch(branches: Any, operands: list[_Known]) -> list[_Known]:
    index, *rest = operands
    roundings = [item.rounded for item in rest]

    def of(branch: Any) -> Callable[[Any], Any]:
        def run(pairs: Any) -> Any:
            inputs = [_Known(value, alive, rounded) for (value, alive), rounded in zip(pairs, roundings, strict=True)]
            return [(item.value, item.alive) for item in _run(branch, inputs)]

        return run

    found = jax.lax.switch(index.value, [of(branch) for branch in branches], [(item.value, item.alive) for item in rest])
    return [_Known(value, alive, True) for value, alive in found]


def _bind(equation: Any, values: list[Any]) -> list[Any]:
    results = equation.primitive.bind(*values, **equation.params)
    return list(results) if equation.primitive.multiple_results else [results]


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.inexact)
