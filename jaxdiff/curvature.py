"""Value, gradient and Hessian of a function of few numbers, forward, each second derivative as sparse as the function makes it.

    f = phi(a):    f_j = phi' a_j,    f_jk = phi'' a_j a_k + phi' a_jk

``jax.jacfwd(jax.grad(f))`` pushes unit vectors through the gradient: it multiplies by their zeros, which no compiler may drop, makes both
halves of a symmetric matrix, and turns a sum over samples into products of small matrices, one call for each. Here f is read operation by
operation. Every number carries its derivatives with respect to one and to two of the parameters, where they are not zero by structure.
A sum over samples becomes a few loops of many sums each: a logistic likelihood has its Hessian ``sum_i w_i c_i c_i'`` as one would write
it.

Source: Fike and Alonso, The development of hyper-dual numbers for exact second-derivative calculations, AIAA 2011-886; Griewank and
Walther, Evaluating Derivatives (2008), section 13.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal

from jaxdiff._object_arrays import each_entry, filled, folded, picked
from jaxdiff.entrywise import CALLS, CHEAP, ELEMENTWISE, FLAT, LINEAR, bind, is_elementwise, written_out
from jaxdiff.linalg import sums_together

APART_LIMIT = 32
"""Entries up to which an array made of parameters is held number by number."""

WORK_LIMIT = 4000
"""Products of derivatives up to which this is done at all; beyond, the program would take longer to compile than it is worth."""

TILE = 4
"""Rows and columns of a block of the Hessian that is summed in one loop: what 16 vector registers hold. All 45 sums of 8 parameters in one
loop took 1,240 ns, in loops of 9 to 16 sums 450 to 520; see benchmarks/NOTES.md."""

_MOVES = {"slice", "squeeze", "reshape", "expand_dims", "transpose", "rev", "broadcast_in_dim", "copy", "copy_p"}


class NotCoveredError(NotImplementedError):
    """The function holds an operation that is not read here."""


@dataclasses.dataclass(frozen=True)
class _Jet:
    """An array with its derivatives; what is missing is zero.

    Attributes:
        value: the array.
        first: by parameter j.
        second: by parameters (j, k), j >= k.
    """

    value: jax.Array
    first: dict[int, jax.Array]
    second: dict[tuple[int, int], jax.Array]

    def map(self, linear: Callable[[jax.Array], jax.Array]) -> "_Jet":
        """The jet of a linear function of it."""
        apply = lambda parts: {key: linear(part) for key, part in parts.items()}  # noqa: E731
        return _Jet(linear(self.value), apply(self.first), apply(self.second))


def value_gradient_hessian(
    f: Callable[..., jax.Array], x: jax.Array, *args: Any
) -> tuple[jax.Array, tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """f(x), its n first derivatives, and the lower triangle of its Hessian row after row.

    Args:
        f: called as ``f(x, *args)``; returns one number.
        x: a vector.
        args: passed on.

    Raises:
        NotCoveredError: f holds what is not read here: loops, matrix products of parameters with each other, and the like.

    Example:
        >>> value, slopes, lower = value_gradient_hessian(lambda x: x[0] ** 2 * x[1], jnp.array([3.0, 2.0]))
        >>> float(value), [float(s) for s in slopes], [float(h) for h in lower]
        (18.0, [12.0, 9.0], [4.0, 6.0, 0.0])
    """
    leaves, structure = jax.tree.flatten(args)
    closed = jax.make_jaxpr(lambda x, *leaves: f(x, *structure.unflatten(leaves)))(x, *leaves)
    n = x.shape[0]
    apart = np.empty(n, object)
    for i in range(n):
        apart[i] = _Jet(x[i], {i: jnp.ones((), x.dtype)}, {})
    (result,) = _Reader().read(closed.jaxpr, closed.consts, [apart, *leaves])
    result = _as_jet(_assembled(result))
    zero = jnp.zeros((), x.dtype)
    first = tuple(result.first.get(j, zero) for j in range(n))
    second = tuple(result.second.get((j, k), zero) for j in range(n) for k in range(j + 1))
    return result.value, first, second


class _Reader:
    """Reads a jaxpr; values are arrays, jets, or, of few numbers, object arrays of scalars and scalar jets."""

    def __init__(self) -> None:
        self.work = 0

    def read(self, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
        known: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))
        look_up = lambda atom: atom.val if isinstance(atom, Literal) else known[atom]  # noqa: E731
        for equation in jaxpr.eqns:
            values = [look_up(atom) for atom in equation.invars]
            known.update(zip(equation.outvars, self._outputs(equation, values), strict=True))
            if self.work > WORK_LIMIT:
                raise NotCoveredError(f"more than {WORK_LIMIT:,} products of derivatives")
        return [look_up(atom) for atom in jaxpr.outvars]

    def _outputs(self, equation: Any, values: list[Any]) -> list[Any]:
        name = equation.primitive.name
        if not any(_is_active(value) for value in values):
            outputs = bind(equation, values)
            return list(outputs) if equation.primitive.multiple_results else [outputs]
        if name in CALLS:
            inner = equation.params[CALLS[name]]
            return self.read(inner.jaxpr, inner.consts, values)
        if name in _MOVES and len(values) == 1:
            return [_moved(equation, values[0])]
        if name in ("split", "unstack"):
            return _divided(equation, values[0])
        if name == "concatenate":
            return [_joined(equation, values)]
        if name == "reduce_sum":
            return [self._sum(values[0], tuple(equation.params["axes"]))]
        if name == "dot_general":
            return [self._contracted(equation, values)]
        if name in ELEMENTWISE:
            return [self._entries(equation, values)]
        if name == "custom_jvp_call" and len(equation.outvars) == 1 and is_elementwise(equation.params["call_jaxpr"].jaxpr):
            # What it calls has been traced for arrays of this shape.
            return [self._elementwise(equation, [_assembled(value) for value in values])]
        raise NotCoveredError(f"the primitive {name!r}")

    # What acts on each entry by itself.

    def _entries(self, equation: Any, values: list[Any]) -> Any:
        shape = equation.outvars[0].aval.shape
        if not any(isinstance(value, np.ndarray) and value.dtype == object for value in values) or np.prod(shape) > APART_LIMIT:
            return self._elementwise(equation, [_assembled(value) for value in values])
        spread = [_over(shape, _shallow(value)) for value in values]
        return each_entry(shape, lambda index: self._elementwise(equation, [value[index] for value in spread]))

    def _elementwise(self, equation: Any, values: list[Any]) -> Any:
        name = equation.primitive.name
        active = [i for i, value in enumerate(values) if isinstance(value, _Jet)]
        if not active or name in FLAT:
            return bind(equation, [_value(value) for value in values])
        if name in LINEAR:
            return values[0].map(lambda part: bind(equation, [part]))
        if name in ("add", "add_any", "sub"):
            a, b = values
            value = bind(equation, [_value(a), _value(b)])
            sign = (lambda part: -part) if name == "sub" else (lambda part: part)
            a, b = _as_jet(a), _as_jet(b)
            return _spread(_Jet(value, _added(a.first, b.first, sign), _added(a.second, b.second, sign)))
        if name == "select_n":
            return self._selected(equation, values)
        if name == "mul" and len(active) == 1:
            factor = values[1 - active[0]]
            self._count(values[active[0]])
            return _spread(values[active[0]].map(lambda part: part * factor))
        if name == "div" and active == [0]:
            self._count(values[0])
            return _spread(values[0].map(lambda part: part / values[1]))
        if name == "mul":
            a, b = values
            one = lambda other: {0: b.value, 1: a.value}[other]  # noqa: E731
            return self._chained(values, a.value * b.value, {0: one(0), 1: one(1)}, {(1, 0): 1.0})
        return self._composed(equation, values, active)

    def _composed(self, equation: Any, values: list[Any], active: list[int]) -> _Jet:
        """A function of one or two jets, its partial derivatives by JAX's own rules."""
        if len(active) > 2:
            raise NotCoveredError(f"the primitive {equation.primitive.name!r} of {len(active)} functions of the parameters")

        def function(*moving: jax.Array) -> jax.Array:
            given = dict(zip(active, moving, strict=True))
            output = bind(equation, [given.get(i, value) for i, value in enumerate(values)])
            return output[0] if equation.primitive.multiple_results else output

        at = [values[i].value for i in active]
        has_bends = equation.primitive.name not in ("max", "min", "abs", "clamp")
        is_dear = equation.primitive.name not in CHEAP and len(equation.outvars[0].aval.shape) > 0

        def derivatives(*at: jax.Array) -> tuple[jax.Array, ...]:
            along = lambda g, i: lambda *p: jax.jvp(lambda v: g(*p[:i], v, *p[i + 1 :]), (p[i],), (jnp.ones_like(p[i]),))[1]  # noqa: E731
            slopes = [along(function, i)(*at) for i in range(len(at))]
            pairs = [(i, k) for i in range(len(at)) for k in range(i + 1)] if has_bends else []
            return function(*at), *slopes, *(along(along(function, i), k)(*at) for i, k in pairs)

        value, *rest = written_out(derivatives, at) if is_dear else derivatives(*at)
        slopes = dict(enumerate(rest[: len(at)]))
        bends = dict(zip(((i, k) for i in range(len(at)) for k in range(i + 1)), rest[len(at) :], strict=False))
        return self._chained([values[i] for i in active], value, slopes, bends)

    def _chained(self, jets: Sequence[_Jet], value: jax.Array, slopes: dict[int, Any], bends: dict[tuple[int, int], Any]) -> _Jet:
        """The chain rule for a function of these jets; ``bends`` holds its second partial derivatives, (i, k) with i >= k."""
        first: dict[int, jax.Array] = {}
        second: dict[tuple[int, int], jax.Array] = {}
        for i, slope in slopes.items():
            for j, part in jets[i].first.items():
                _add_to(first, j, slope * part)
            for pair, part in jets[i].second.items():
                _add_to(second, pair, slope * part)
        for (i, k), bend in bends.items():
            scaled = {j: bend * part if isinstance(bend, jax.Array) else part for j, part in jets[i].first.items()}
            for j, part in scaled.items():
                for m, other in jets[k].first.items():
                    if i == k and m > j:
                        continue
                    # Of two different jets both orders are wanted, and on the diagonal both are the same pair.
                    product = part * other
                    _add_to(second, (max(j, m), min(j, m)), 2 * product if i != k and j == m else product)
        self.work += len(first) + 2 * len(second)
        return _spread(_Jet(value, first, second))

    def _selected(self, equation: Any, values: list[Any]) -> _Jet:
        if isinstance(values[0], _Jet):
            raise NotCoveredError("a selection by a parameter")
        cases = [_as_jet(value) for value in values[1:]]
        return _combined(cases, lambda parts: bind(equation, [values[0], *parts]))

    def _count(self, jet: _Jet) -> None:
        self.work += len(jet.first) + len(jet.second)

    # What folds entries together.

    def _sum(self, value: Any, axes: tuple[int, ...]) -> Any:
        if _is_apart(value):
            return folded(self._plus, value, axes)
        if not axes:
            return value
        first, second = value.first, value.second
        tiles: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for j, k in sorted(second):
            tiles.setdefault((j // TILE, k // TILE), []).append((j, k))
        shape = value.value.shape
        total, *slopes = sums_together(axes, value.value, *(jnp.broadcast_to(part, shape) for part in first.values()))
        bends: dict[tuple[int, int], jax.Array] = {}
        for pairs in tiles.values():
            bends.update(zip(pairs, sums_together(axes, *(jnp.broadcast_to(second[pair], shape) for pair in pairs)), strict=True))
        return _Jet(total, dict(zip(first, slopes, strict=True)), bends)

    def _plus(self, a: Any, b: Any) -> Any:
        if not isinstance(a, _Jet) and not isinstance(b, _Jet):
            return a + b
        a, b = _as_jet(a), _as_jet(b)
        return _Jet(a.value + b.value, _added(a.first, b.first), _added(a.second, b.second))

    def _times(self, a: Any, b: Any) -> Any:
        if isinstance(a, _Jet) and isinstance(b, _Jet):
            return self._chained([a, b], a.value * b.value, {0: b.value, 1: a.value}, {(1, 0): 1.0})
        if isinstance(b, _Jet):
            a, b = b, a
        self.work += 1
        return _spread(a.map(lambda part: part * b)) if isinstance(a, _Jet) else a * b

    def _contracted(self, equation: Any, values: list[Any]) -> Any:
        """A product with a vector of parameters, term by term; of two vectors, as a sum of products."""
        (left, right), _ = equation.params["dimension_numbers"]
        a, b = values
        shapes = [np.shape(v) if _is_apart(v) else np.shape(_value(v)) for v in values]
        # A vector that is summed over has no further axis to run along.
        if len(left) != 1:
            raise NotCoveredError("a product of matrices with parameters in them")
        if len(shapes[0]) == len(shapes[1]) == 1:
            if _is_apart(a) or _is_apart(b):
                total = functools.reduce(self._plus, map(self._times, _entries_of(_shallow(a)), _entries_of(_shallow(b))))
                return total
            return self._sum(self._times(a, b), (0,))
        vector, matrix, axis = (a, b, right[0]) if _is_apart(a) and len(shapes[0]) == 1 else (b, a, left[0])
        if not _is_apart(vector) or np.ndim(vector) != 1 or _is_active(matrix):
            raise NotCoveredError("a product of matrices with parameters in them")
        slices = [lax.index_in_dim(jnp.asarray(matrix), i, axis, keepdims=False) for i in range(vector.size)]
        return functools.reduce(self._plus, [self._times(entry, part) for entry, part in zip(vector, slices, strict=True)])


def _is_apart(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object


def _is_active(value: Any) -> bool:
    return isinstance(value, _Jet) or _is_apart(value)


def _value(value: Any) -> Any:
    return value.value if isinstance(value, _Jet) else value


def _as_jet(value: Any) -> _Jet:
    return value if isinstance(value, _Jet) else _Jet(jnp.asarray(value), {}, {})


def _shallow(value: Any) -> Any:
    """A jet of few entries apart; others as they are."""
    if isinstance(value, _Jet):
        return each_entry(value.value.shape, lambda index: value.map(lambda part: part[index]))
    return value


def _over(shape: tuple[int, ...], value: Any) -> Any:
    """One number for every entry; an array as it is."""
    if np.ndim(value):
        return value
    return np.broadcast_to(value if _is_apart(value) else filled((), [value]), shape)


def _spread(jet: _Jet) -> _Jet:
    """Derivatives in the shape of the value: a number may have met an array."""
    shape = jet.value.shape
    fill = lambda parts: {key: part if part.shape == shape else jnp.broadcast_to(part, shape) for key, part in parts.items()}  # noqa: E731
    return _Jet(jet.value, fill(jet.first), fill(jet.second))


def _add_to(table: dict[Any, jax.Array], key: Any, part: jax.Array) -> None:
    table[key] = table[key] + part if key in table else part


def _added(a: dict[Any, jax.Array], b: dict[Any, jax.Array], sign: Callable[[jax.Array], jax.Array] = lambda part: part) -> dict[Any, Any]:
    result = dict(a)
    for key, part in b.items():
        _add_to(result, key, sign(part))
    return result


def _assembled(value: Any) -> Any:
    """An array apart as one jet."""
    if not _is_apart(value):
        return value
    jets = [_as_jet(entry) for entry in value.ravel()]
    return _combined(jets, lambda parts: jnp.stack([jnp.asarray(part) for part in parts]).reshape(value.shape))


def _combined(jets: Sequence[_Jet], linear: Callable[[list[jax.Array]], jax.Array]) -> _Jet:
    """The jet of a linear function of several."""

    def of(tables: list[dict[Any, jax.Array]]) -> dict[Any, jax.Array]:
        keys = sorted({key for table in tables for key in table})
        parts = lambda key: [table.get(key, jnp.zeros_like(jet.value)) for table, jet in zip(tables, jets, strict=True)]  # noqa: E731
        return {key: linear(parts(key)) for key in keys}

    return _Jet(linear([jet.value for jet in jets]), of([jet.first for jet in jets]), of([jet.second for jet in jets]))


def _moved(equation: Any, value: Any) -> Any:
    """What only moves entries; of an array apart it is done at trace time."""
    if not _is_apart(value) or np.prod(equation.outvars[0].aval.shape) > APART_LIMIT:
        if _is_apart(value) and value.size == 1 and equation.primitive.name == "broadcast_in_dim":
            shape = equation.outvars[0].aval.shape
            return _as_jet(value.ravel()[0]).map(lambda part: jnp.broadcast_to(part, shape))
        return _assembled(value).map(lambda part: bind(equation, [part]))
    with jax.ensure_compile_time_eval():
        places = np.asarray(bind(equation, [jnp.arange(value.size, dtype=jnp.int32).reshape(value.shape)]))
    return picked(value.ravel(), places)


def _divided(equation: Any, value: Any) -> list[Any]:
    if _is_apart(value):
        with jax.ensure_compile_time_eval():
            parts = bind(equation, [jnp.arange(value.size, dtype=jnp.int32).reshape(value.shape)])
        return [picked(value.ravel(), np.asarray(part)) for part in parts]
    pieces = [bind(equation, [part]) for part in (value.value, *value.first.values(), *value.second.values())]
    count, num_first = len(pieces[0]), len(value.first)
    return [
        _Jet(
            pieces[0][i],
            dict(zip(value.first, (piece[i] for piece in pieces[1 : 1 + num_first]), strict=True)),
            dict(zip(value.second, (piece[i] for piece in pieces[1 + num_first :]), strict=True)),
        )
        for i in range(count)
    ]


def _joined(equation: Any, values: list[Any]) -> Any:
    size = np.prod(equation.outvars[0].aval.shape)
    if size <= APART_LIMIT and all(_is_apart(value) or not isinstance(value, _Jet) for value in values):
        return np.concatenate([_entries_of(value) for value in values], axis=equation.params["dimension"])
    return _combined([_as_jet(_assembled(value)) for value in values], lambda parts: bind(equation, parts))


def _entries_of(value: Any) -> np.ndarray:
    if _is_apart(value):
        return value
    array = jnp.asarray(value)
    return each_entry(array.shape, lambda index: array[index])
