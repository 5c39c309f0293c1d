"""Functions of one problem, written out number by number: each number becomes a vector over lanes, each operation elementwise.

A kernel on a GPU keeps a vector over lanes in registers, one lane a thread. It has no small arrays: no slices, no stacks, no matrices of
5 x 5. So a traced function is interpreted with every array held as an object array of lane vectors; what only moves entries moves Python
objects and vanishes, a reduction becomes a chain of additions, and nothing but elementwise arithmetic is left.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from jaxdiff._object_arrays import each_entry, filled, folded, picked, shared_out

LIMIT = 60_000
"""Elementwise operations up to which a function is written out."""


class NotScalarizable(NotImplementedError):
    """A function holds an operation that cannot be written out number by number."""


MOVES = frozenset(
    {"broadcast_in_dim", "reshape", "transpose", "slice", "squeeze", "rev", "expand_dims", "gather", "dynamic_slice", "split", "unstack"}
)
"""Primitives that only move entries; of operands behind the first they take indices."""

CALLS = {
    "pjit": "jaxpr",
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "remat": "jaxpr",
    "checkpoint": "jaxpr",
}
"""Primitives that call a function, and where they keep it."""

FOLDS: dict[str, Callable[[Any, Any], Any]] = {
    "reduce_sum": lax.add,
    "reduce_prod": lax.mul,
    "reduce_max": lax.max,
    "reduce_min": lax.min,
    "reduce_and": lax.bitwise_and,
    "reduce_or": lax.bitwise_or,
}
"""Reductions, and what they fold with."""

# fmt: off
ELEMENTWISE = frozenset(
    {"abs", "add", "add_any", "and", "atan2", "cbrt", "ceil", "clamp", "convert_element_type", "cos", "cosh", "div", "eq", "erf",
     "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p",
     "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or", "pow", "real", "rem", "round", "rsqrt", "select_n", "sign",
     "sin", "sinh", "sqrt", "square", "sub", "tan", "tanh", "xor", "copy", "acos", "asin", "atan", "acosh", "asinh", "atanh",
     "digamma", "nextafter", "shift_left"}
)
# fmt: on
"""Primitives that act on each entry by itself."""


class Scalarizer:
    """Interprets a traced function on object arrays of lane vectors.

    Args:
        shape: of the vectors, ``(lanes,)``; of single numbers, ``()``.
        is_plain: whether to keep to the words that every backend of Pallas has; otherwise a primitive stays what it is.
    """

    def __init__(self, shape: tuple[int, ...], is_plain: bool = True) -> None:
        self.shape = shape
        self.is_plain = is_plain
        self.num_operations = 0

    def __call__(self, closed: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Values of a closed jaxpr at these object arrays.

        Raises:
            NotScalarizable: naming the primitive.
        """
        return self._run(closed.jaxpr, [_as_objects(const) for const in closed.consts], inputs)

    def _run(self, jaxpr: Any, consts: Sequence[np.ndarray], inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        known: dict[Any, np.ndarray] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))
        read = lambda atom: _as_objects(atom.val, atom.aval.dtype) if hasattr(atom, "val") else known[atom]  # noqa: E731
        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            results = self._evaluate(equation, operands)
            known.update(zip(equation.outvars, results, strict=True))
            if self.num_operations > LIMIT:
                raise NotScalarizable(f"more than {LIMIT:,} operations")
        return [read(atom) for atom in jaxpr.outvars]

    def _evaluate(self, equation: Any, operands: list[np.ndarray]) -> list[np.ndarray]:
        name, params = equation.primitive.name, equation.params
        if name in CALLS:
            inner = params[CALLS[name]]
            consts = [_as_objects(const) for const in getattr(inner, "consts", ())]
            return self._run(getattr(inner, "jaxpr", inner), consts, operands)
        if name == "platform_index":
            place = [i for i, platforms in enumerate(params["platforms"]) if platforms is None]
            return [_as_objects(np.int32(place[0] if place else 0))]
        if name == "optimization_barrier":
            return list(operands)
        if name == "cond":
            return self._branch(params["branches"], operands)
        if name in MOVES:
            return _moved(equation, operands)
        if name in ("concatenate", "pad", "stack"):
            return [_joined(equation, operands)]
        if name in FOLDS:
            return [folded(functools.partial(self._apply, FOLDS[name]), operands[0], params["axes"])]
        if name == "reduce":
            return self._fold_many(params, operands)
        if name == "dot_general":
            return [self._dot(params, operands)]
        if name == "iota" or (not operands and name != "rng_uniform"):
            with jax.ensure_compile_time_eval():
                return [_as_objects(value) for value in _as_list(equation.primitive.bind(**params))]
        if name in ("while", "scan"):
            return getattr(self, f"_{name}")(params, operands)
        if name == "stop_gradient":
            return operands
        if name in ELEMENTWISE:
            return [self._elementwise(equation, operands)]
        raise NotScalarizable(f"the primitive {name!r}")

    # What acts on each entry by itself.

    def _elementwise(self, equation: Any, operands: list[np.ndarray]) -> np.ndarray:
        shape = equation.outvars[0].aval.shape
        spread = [np.broadcast_to(operand, shape) for operand in operands]
        return each_entry(shape, lambda index: self._one(equation, [operand[index] for operand in spread]))

    def _one(self, equation: Any, values: list[Any]) -> Any:
        name = equation.primitive.name
        if all(isinstance(value, np.generic) for value in values):
            if name == "convert_element_type":
                return values[0].astype(equation.params["new_dtype"])
            with jax.ensure_compile_time_eval():
                return np.asarray(equation.primitive.bind(*(jnp.asarray(v) for v in values), **equation.params))[()]
        if name == "select_n" and isinstance(values[0], np.generic):
            return values[1 + int(values[0])]
        if name in ("and", "or") and any(isinstance(value, np.bool_) for value in values):
            a, b = values if isinstance(values[0], np.bool_) else reversed(values)
            return b if a == (name == "and") else a
        self.num_operations += 1
        values = self.alike(values)
        x = values[0]
        if not self.is_plain:
            return equation.primitive.bind(*values, **equation.params)
        # In words that every backend has.
        if name == "not" and x.dtype == jnp.bool_:
            return _not(x)
        if name == "convert_element_type" and x.dtype == equation.params["new_dtype"]:
            return x
        if name == "convert_element_type" and equation.params["new_dtype"] == jnp.bool_:
            return lax.ne(x, lax.full_like(x, 0))
        if name == "convert_element_type" and x.dtype == jnp.bool_:
            number = lax.full_like(x, 1, dtype=equation.params["new_dtype"])
            return lax.select_n(x, lax.full_like(number, 0), number)
        if name == "select_n" and len(values) == 3 and values[1].dtype == jnp.bool_:
            return _chosen(x, values[2], values[1])
        if name == "is_finite":
            return lax.lt(lax.abs(x), lax.full_like(x, jnp.inf))
        if name == "square":
            return lax.mul(x, x)
        if name == "add_any":
            return lax.add(*values)
        if name == "clamp":
            low, x, high = values
            return lax.min(lax.max(x, low), high)
        if name == "integer_pow":
            return _power(x, equation.params["y"])
        if name == "sqrt":
            return _root(x)
        if name == "logistic":
            return lax.div(lax.full_like(x, 1), lax.add(lax.full_like(x, 1), lax.exp(lax.neg(x))))
        if name == "log1p":
            return _log1p(x)
        if name == "expm1":
            return _expm1(x)
        return equation.primitive.bind(*values, **equation.params)

    def alike(self, values: Sequence[Any]) -> list[Any]:
        """The values as arrays of one shape: numbers are spread where another is a vector."""
        shape = max((jnp.shape(value) for value in values), key=len)
        return [self.spread(value, shape) for value in values]

    def spread(self, value: Any, shape: tuple[int, ...] | None = None) -> jax.Array:
        """A number as a vector over lanes; a vector itself."""
        shape = self.shape if shape is None else shape
        if isinstance(value, np.generic):
            return lax.full(shape, value.item(), value.dtype)
        return value if jnp.shape(value) == shape else lax.broadcast_in_dim(value, shape, ())

    # What folds entries together.

    def _apply(self, operation: Callable[..., Any], *values: Any) -> Any:
        if all(isinstance(value, np.generic) for value in values):
            with jax.ensure_compile_time_eval():
                return np.asarray(operation(*(jnp.asarray(v) for v in values)))[()]
        self.num_operations += 1
        return operation(*self.alike(values))

    def _fold_many(self, params: Any, operands: list[np.ndarray]) -> list[np.ndarray]:
        count = len(operands) // 2
        axes = params["dimensions"]
        rows = [np.moveaxis(operand, axes, range(len(axes))) for operand in operands[:count]]
        kept = rows[0].shape[len(axes) :]
        rows = [row.reshape(-1, *kept) for row in rows]
        results = [np.empty(kept, object) for _ in range(count)]
        inner = params["jaxpr"]
        consts = [_as_objects(const) for const in params.get("consts", getattr(inner, "consts", ()))]
        for index in np.ndindex(*kept):
            carry = [_as_objects(operand[()]) for operand in operands[count:]]
            for k in range(rows[0].shape[0]):
                entries = [_as_objects(row[(k, *index)]) for row in rows]
                carry = self._run(getattr(inner, "jaxpr", inner), consts, [*carry, *entries])
            for result, value in zip(results, carry, strict=True):
                result[index] = value[()]
        return results

    def _dot(self, params: Any, operands: list[np.ndarray]) -> np.ndarray:
        (left_sum, right_sum), (left_batch, right_batch) = params["dimension_numbers"]
        left, right = operands
        rest = lambda a, *used: [i for i in range(a.ndim) if i not in {k for group in used for k in group}]  # noqa: E731
        left = np.transpose(left, (*left_batch, *rest(left, left_sum, left_batch), *left_sum))
        right = np.transpose(right, (*right_batch, *rest(right, right_sum, right_batch), *right_sum))
        batch, summed = left.shape[: len(left_batch)], left.shape[left.ndim - len(left_sum) :]
        free_left = left.shape[len(batch) : left.ndim - len(summed)]
        free_right = right.shape[len(batch) : right.ndim - len(summed)]
        flat_left = left.reshape(*batch, int(np.prod(free_left)), -1)
        flat_right = right.reshape(*batch, int(np.prod(free_right)), -1)

        def entry(index: tuple[int, ...]) -> Any:
            pairs = zip(flat_left[index[:-1]], flat_right[(*index[:-2], index[-1])], strict=True)
            return functools.reduce(functools.partial(self._apply, lax.add), [self._apply(lax.mul, a, b) for a, b in pairs])

        result = each_entry((*batch, flat_left.shape[-2], flat_right.shape[-2]), entry)
        return result.reshape(*batch, *free_left, *free_right)

    # Control flow: a branch is a selection, a loop with a fixed number of rounds is written out.

    def _branch(self, branches: Sequence[Any], operands: list[np.ndarray]) -> list[np.ndarray]:
        index, *inputs = operands
        if isinstance(index[()], np.generic):
            return self(branches[int(np.clip(index[()], 0, len(branches) - 1))], inputs)
        results = [self(branch, inputs) for branch in branches]
        chosen = results[-1]
        for k in reversed(range(len(branches) - 1)):
            is_k = self._apply(lambda i, k=k: lax.le(i.astype(jnp.int32), lax.full_like(i, k, jnp.int32)), index[()])
            chosen = [self.select(is_k, new, old) for new, old in zip(results[k], chosen, strict=True)]
        return chosen

    def select(self, condition: Any, new: np.ndarray, old: np.ndarray) -> np.ndarray:
        """``new`` in the lanes where the condition holds, ``old`` in the others."""
        either = lambda a, b: a if a is b else self._apply(_chosen, condition, a, b)  # noqa: E731
        return each_entry(new.shape, lambda index: either(new[index], old[index]))

    def _scan(self, params: Any, operands: list[np.ndarray]) -> list[np.ndarray]:
        if "ft_in" in params:  # jax 0.12
            num_consts, num_carry, _ = (len(list(part)) for part in params["ft_in"].update(list(range(len(operands)))).unpack())
        else:
            num_consts, num_carry = params["num_consts"], params["num_carry"]
        consts, carry, rows = operands[:num_consts], operands[num_consts : num_consts + num_carry], operands[num_consts + num_carry :]
        order = range(params["length"])
        outputs: list[list[np.ndarray]] = []
        for k in reversed(order) if params["reverse"] else order:
            values = self(params["jaxpr"], [*consts, *carry, *(row[k] for row in rows)])
            carry = values[:num_carry]
            outputs.append(values[num_carry:])
        if params["reverse"]:
            outputs.reverse()
        return [*carry, *(np.stack(column) for column in zip(*outputs, strict=True))]

    def _while(self, params: Any, operands: list[np.ndarray]) -> list[np.ndarray]:
        """A loop whose number of rounds differs from lane to lane: until no lane wants more, those that have stopped kept as they are."""
        num_cond, num_body = params["cond_nconsts"], params["body_nconsts"]
        of_cond, of_body, start = operands[:num_cond], operands[num_cond : num_cond + num_body], operands[num_cond + num_body :]
        shapes = [value.shape for value in start]
        flat = lambda values: [self.spread(entry) for value in values for entry in value.reshape(-1)]  # noqa: E731

        def wants_more(entries: Any) -> Any:
            return self.spread(self(params["cond_jaxpr"], [*of_cond, *shared_out(shapes, entries)])[0][()])

        def body(entries: Any) -> Any:
            running = wants_more(entries)
            old = shared_out(shapes, entries)
            new = self(params["body_jaxpr"], [*of_body, *old])
            return flat([self.select(running, a, b) for a, b in zip(new, old, strict=True)])

        return shared_out(shapes, lax.while_loop(lambda entries: any_lane(wants_more(entries)), body, flat(start)))


def any_lane(condition: jax.Array) -> jax.Array:
    """Whether a condition holds in any lane, in words that every backend has."""
    ones = lax.select_n(condition, lax.full(condition.shape, 0, jnp.int32), lax.full(condition.shape, 1, jnp.int32))
    return jnp.max(ones) > 0


def _as_objects(value: Any, dtype: Any = None) -> np.ndarray:
    """An object array: of lane vectors as it is, of numbers with NumPy scalars as entries; a vector over lanes as one entry."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        return value
    if isinstance(value, Tracer):
        if jnp.ndim(value) > 1:
            raise NotScalarizable("an array that the function closes over and that is traced; pass it in args")
        return filled((), [value])
    array = np.asarray(value, dtype)
    return each_entry(array.shape, lambda index: array[index])


def _moved(equation: Any, operands: list[np.ndarray]) -> list[np.ndarray]:
    """What a primitive that moves entries gives, found by letting it move their numbers."""
    operand, *others = operands
    if equation.primitive.name in _BY_NUMPY:
        return [_BY_NUMPY[equation.primitive.name](operand, equation.params)]
    numbers = np.arange(operand.size, dtype=np.int32).reshape(operand.shape)
    if any(not isinstance(entry, np.generic) for other in others for entry in other.reshape(-1)):
        raise NotScalarizable(f"{equation.primitive.name!r} by indices that are computed")
    with jax.ensure_compile_time_eval():
        indices = [jnp.asarray(other.astype(atom.aval.dtype)) for other, atom in zip(others, equation.invars[1:], strict=True)]
        moved = [np.asarray(part) for part in _as_list(equation.primitive.bind(jnp.asarray(numbers), *indices, **equation.params))]
    if any(part.size and (part.min() < 0 or part.max() >= operand.size) for part in moved):
        raise NotScalarizable(f"{equation.primitive.name!r} out of range")
    flat = operand.reshape(-1)
    return [picked(flat, part) for part in moved]


def _broadcast(operand: np.ndarray, params: Any) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], operand.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(operand.reshape(shape), params["shape"])


def _sliced(operand: np.ndarray, params: Any) -> np.ndarray:
    strides = params["strides"] or (1,) * operand.ndim
    return operand[tuple(map(slice, params["start_indices"], params["limit_indices"], strides))]


_BY_NUMPY: dict[str, Callable[[np.ndarray, Any], np.ndarray]] = {
    "broadcast_in_dim": _broadcast,
    "slice": _sliced,
    "squeeze": lambda operand, params: np.squeeze(operand, axis=tuple(params["dimensions"])),
    "transpose": lambda operand, params: np.transpose(operand, params["permutation"]),
}
"""What is done some hundred times in a step, without a program for each shape of it: a fiftieth of a second to compile."""


def _joined(equation: Any, operands: list[np.ndarray]) -> np.ndarray:
    """Concatenation, stacking or padding: all entries in one list, and their numbers moved."""
    firsts = np.cumsum([0, *(operand.size for operand in operands)])
    with jax.ensure_compile_time_eval():
        numbers = [
            jnp.arange(first, first + operand.size, dtype=jnp.int32).reshape(operand.shape)
            for first, operand in zip(firsts[:-1], operands, strict=True)
        ]
        moved = np.asarray(equation.primitive.bind(*numbers, **equation.params))
    flat = np.empty(firsts[-1], object)
    for first, operand in zip(firsts[:-1], operands, strict=True):
        flat[first : first + operand.size] = operand.reshape(-1)
    return picked(flat, moved)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _chosen(condition: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """``a`` where the condition holds, else ``b``; of truth values by logic, since a register holds no single bit to select."""
    if a.dtype == jnp.bool_:
        return lax.bitwise_or(lax.bitwise_and(condition, a), lax.bitwise_and(_not(condition), b))
    return lax.select_n(condition, b, a)


def _not(condition: jax.Array) -> jax.Array:
    """The opposite, by a comparison: to flip the single bit of a truth value is not to be had everywhere."""
    zero, one = (lax.full(condition.shape, k, jnp.int32) for k in (0, 1))
    return lax.eq(lax.select_n(condition, zero, one), zero)


def _root(x: jax.Array) -> jax.Array:
    """A square root by one step of Newton's method from its reciprocal, which every GPU has."""
    inverse = lax.rsqrt(x)
    root = lax.mul(x, inverse)
    root = lax.mul(root, lax.sub(lax.full_like(x, 1.5), lax.mul(lax.full_like(x, 0.5), lax.mul(root, inverse))))
    is_itself = lax.bitwise_or(lax.eq(x, lax.full_like(x, 0)), lax.eq(x, lax.full_like(x, jnp.inf)))
    return lax.select_n(is_itself, root, x)


def _log1p(x: jax.Array) -> jax.Array:
    """log(1 + x); what is lost in 1 + x is lost in (1 + x) - 1 too, and drops out of the quotient (Higham, ASNA (2002), section 1.14.1)."""
    one = lax.full_like(x, 1)
    u = lax.add(one, x)
    lost = lax.sub(u, one)
    is_small = lax.eq(lost, lax.full_like(x, 0))
    quotient = lax.mul(lax.log(u), lax.div(x, lax.select_n(is_small, lost, one)))
    is_large = lax.eq(u, lax.full_like(x, jnp.inf))
    return lax.select_n(is_small, lax.select_n(is_large, quotient, u), x)


def _expm1(x: jax.Array) -> jax.Array:
    """exp(x) - 1, by the same cancellation of errors (Higham, ASNA (2002), section 1.14.1)."""
    one = lax.full_like(x, 1)
    u = lax.exp(x)
    less = lax.sub(u, one)
    is_small = lax.eq(u, one)
    # Where exp underflows or overflows the difference is exact, and the logarithm of no use.
    is_far = lax.bitwise_or(lax.eq(u, lax.full_like(x, 0)), lax.eq(u, lax.full_like(x, jnp.inf)))
    no_quotient = lax.bitwise_or(is_small, is_far)
    quotient = lax.mul(less, lax.div(x, lax.log(lax.select_n(no_quotient, u, lax.full_like(x, 2)))))
    return lax.select_n(is_small, lax.select_n(is_far, quotient, less), x)


def _power(x: jax.Array, exponent: int) -> jax.Array:
    """An integer power by repeated squaring."""
    if exponent == 0:
        return lax.full_like(x, 1)
    result, square, rest = None, x, abs(exponent)
    while rest:
        if rest % 2:
            result = square if result is None else lax.mul(result, square)
        rest //= 2
        square = lax.mul(square, square) if rest else square
    assert result is not None
    return lax.div(lax.full_like(x, 1), result) if exponent < 0 else result
