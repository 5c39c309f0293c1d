"""A function of any pytrees as a vector function of its float leaves, and the compiled programs that look at it along directions.

A direction is one leaf's magnitudes times random signs, on a range of its coordinates, and zero elsewhere; so one compiled program serves
every leaf, every half of a bisection and every single coordinate. Magnitudes are powers of two, as steps are: x + t v is then exact unless
it crosses a binade.

Steps are taken one after the other (``lax.map`` without a batch), which bounds memory by that of one evaluation and evaluates f as its
user does: a vmapped f sums in another order, and turns ``cond`` into ``select``.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import is_float_dtype, machine_epsilon
from jaxdiff._types import PyTree
from jaxdiff._validation import as_float_leaves, explain_tracing_errors

# Relative displacements, in machine epsilons, at which the derivative is looked at again to see how much of it is rounding.
JITTER = (0.0, 3.0, -11.0, 37.0, -101.0)
# Outputs beyond this many are summed in groups with random signs.
MAX_OUTPUTS = 4096
SCALINGS = ("leaf", "absolute", "relative")


@dataclasses.dataclass(frozen=True)
class Span:
    """A direction: leaf number, which random signs, and the range of coordinates that move."""

    leaf: int
    direction: int
    start: int
    stop: int


class Flattened:
    """f as a function from a tuple of float leaves to one vector; everything else of its arguments stays as it is.

    Attributes:
        leaves: the differentiated leaves, JAX arrays.
        names: how each is written, such as ``params['w']``.
        output_names: paths of f's output leaves, with their sizes.
        output_epsilon: machine epsilon of each output, [m].
        num_outputs: m.
    """

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], argnums: int | Sequence[int] | None) -> None:
        self._args = args
        chosen = _chosen_arguments(args, argnums)
        labels = argument_names(f, len(args))
        self.leaves: tuple[jax.Array, ...] = ()
        self.names: tuple[str, ...] = ()
        self._places: list[tuple[int, int]] = []
        self._flat = [jax.tree.flatten(argument) for argument in args]
        for position in chosen:
            for place, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(args[position])):
                if not _is_float(leaf):
                    if np.iscomplexobj(leaf):
                        name = f"{labels[position]}{jax.tree_util.keystr(path)}"
                        raise TypeError(f"{name} is complex; expected real parameters (pass the real and the imaginary part as two leaves)")
                    continue
                name = f"{labels[position]}{jax.tree_util.keystr(path)}"
                self.leaves += (as_float_leaves(leaf, name),)
                self.names += (name,)
                self._places.append((position, place))
        if not self.leaves:
            raise TypeError(f"no floating-point leaf among arguments {chosen}; expected at least one to differentiate")
        self.output_names, self.output_epsilon = self._describe_output(f)
        self.num_outputs = min(len(self.output_epsilon), MAX_OUTPUTS)
        self._all_outputs = len(self.output_epsilon)
        if self._all_outputs > MAX_OUTPUTS:
            self.output_epsilon = np.full(MAX_OUTPUTS, self.output_epsilon.max())

    @property
    def is_grouped(self) -> bool:
        """Whether outputs are summed in groups."""
        return self._all_outputs > MAX_OUTPUTS

    def vector(self, f: Callable[..., Any]) -> Callable[[tuple[jax.Array, ...]], jax.Array]:
        """f, or another function of the same arguments, as a function of the leaves."""

        def at(leaves: tuple[jax.Array, ...]) -> jax.Array:
            flat = flat_output(f(*self.arguments(leaves)))
            if flat.size <= MAX_OUTPUTS:
                return flat
            # Sums in groups, with random signs, so that errors of one kind and opposite sign do not cancel in all of them.
            rows = math.ceil(flat.size / MAX_OUTPUTS)
            signs = jax.random.rademacher(jax.random.key(0), (rows * MAX_OUTPUTS,), dtype=flat.dtype)
            padded = jnp.zeros(rows * MAX_OUTPUTS, flat.dtype).at[: flat.size].set(flat)
            return jnp.sum((padded * signs).reshape(rows, MAX_OUTPUTS), axis=0)

        return at

    def arguments(self, leaves: Sequence[Any]) -> tuple[Any, ...]:
        """The positional arguments of f with these leaves in their places."""
        flat = [(list(values), structure) for values, structure in self._flat]
        for (position, place), leaf in zip(self._places, leaves, strict=True):
            flat[position][0][place] = leaf
        return tuple(structure.unflatten(values) for values, structure in flat)

    def select(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The differentiated leaves of other arguments of the same structure."""
        flat = [jax.tree.leaves(argument) for argument in args]
        return tuple(flat[position][place] for position, place in self._places)

    def output_name(self, index: int) -> str:
        """Which number of f's output an index of the vector is."""
        if self.is_grouped:
            return f"group {index} of the outputs"
        for name, shape in self.output_names:
            size = math.prod(shape)
            if index < size:
                where = ", ".join(str(int(i)) for i in np.unravel_index(index, shape)) if shape else ""
                return f"{name}[{where}]" if where else name
            index -= size
        raise IndexError(index)

    def _describe_output(self, f: Callable[..., Any]) -> tuple[list[tuple[str, tuple[int, ...]]], np.ndarray]:
        with explain_tracing_errors():
            output = jax.eval_shape(lambda leaves: f(*self.arguments(leaves)), self.leaves)
        names, epsilons = [], []
        for path, leaf in jax.tree_util.tree_leaves_with_path(output):
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                continue
            is_complex = jnp.issubdtype(leaf.dtype, jnp.complexfloating)
            names.append((f"output{jax.tree_util.keystr(path)}", leaf.shape))
            if is_complex:
                names[-1:] = [(f"output{jax.tree_util.keystr(path)}.{part}", leaf.shape) for part in ("real", "imag")]
            epsilons += [machine_epsilon(leaf.dtype)] * (math.prod(leaf.shape) * (2 if is_complex else 1))
        if not epsilons:
            raise TypeError(f"f returned {jax.tree.map(lambda leaf: leaf.dtype.name, output)}; expected at least one floating-point output")
        return names, np.array(epsilons)


def flat_output(output: PyTree) -> jax.Array:
    """The floating-point leaves of an output one behind the other; a complex one as its real part, then its imaginary part."""
    parts = []
    for leaf in jax.tree.leaves(output):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
            parts += [jnp.ravel(jnp.real(leaf)), jnp.ravel(jnp.imag(leaf))]
        elif jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            parts.append(jnp.ravel(jnp.asarray(leaf)))
    return jnp.concatenate([part.astype(jnp.result_type(*parts)) for part in parts])


class Probe:
    """Values, forward slopes and reverse gradients of f around a point, compiled once each.

    Args:
        flattened: f's leaves and outputs.
        value: the vector function that finite differences are taken of.
        rule: the vector function whose derivative is on trial; the same one unless a rule is held against a reference.
        directions: how many sets of random signs there are.
        seed: of the signs.
    """

    def __init__(
        self,
        flattened: Flattened,
        value: Callable[[Any], jax.Array],
        rule: Callable[[Any], jax.Array],
        directions: int,
        seed: int,
    ) -> None:
        self.leaves, self.rule = flattened.leaves, rule
        self.sizes = [leaf.size for leaf in self.leaves]
        self._epsilon = tuple(machine_epsilon(leaf.dtype) for leaf in self.leaves)
        # Signs of one size do cancel, errors of +1 and -1 most of all: a quarter, a half and one, with a sign.
        random = np.random.default_rng(seed)
        weights = np.array([0.25, 0.5, 0.5, 1.0], np.float16)
        weights = np.concatenate([weights, -weights])
        self._host_signs = [weights[random.integers(0, 8, (directions, n), np.int8)] for n in self.sizes]
        for signs in self._host_signs:
            signs[0] = np.sign(signs[0])
        self._signs = tuple(jnp.asarray(signs) for signs in self._host_signs)
        self._host_leaves = [np.asarray(leaf, np.float64).ravel() for leaf in self.leaves]
        self._host_sizes = {scaling: [_magnitudes(x, scaling) for x in self._host_leaves] for scaling in SCALINGS}
        self._values = jax.jit(functools.partial(_values_along, value))
        self._slopes = jax.jit(functools.partial(_slopes_along, rule, self._epsilon))
        self._pull = jax.jit(functools.partial(_pull_back, rule, self._epsilon))
        self._device_sizes: dict[str, tuple[jax.Array, ...]] = {}
        # In half precision a hundred roundings are no small displacement.
        self.jitter = JITTER if max(self._epsilon) < 1e-4 else tuple(float(np.sign(j) * min(abs(j), 3.0)) for j in JITTER)

    def steps(self, leaf: int) -> np.ndarray:
        """Steps of a leaf's ladder, in units of its magnitudes: from a half down to where its precision ends, descending powers of two."""
        bits = -int(np.log2(self._epsilon[leaf]))
        count = min(30, max(bits - 5, 4))
        return 2.0 ** -np.arange(1.0, count + 1)

    def values(self, span: Span, scaling: str, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """f at -steps, 0 and steps along a direction, in float64: [K, m], [m], [K, m]."""
        # All ladders have one length, so that leaves of another precision do not compile another program.
        length = 2 * max(self.steps(leaf).size for leaf in range(len(self.leaves))) + 1
        ts = np.zeros(length)
        ts[1 : 2 * steps.size + 1] = np.concatenate([-steps, steps])
        count = jnp.int32(2 * steps.size + 1)
        found = np.asarray(self._values(self.leaves, *self._along(span, scaling), jnp.asarray(ts, jnp.float32), count), np.float64)
        return found[1 : steps.size + 1], found[0], found[steps.size + 1 : 2 * steps.size + 1]

    def slopes(self, span: Span, scaling: str) -> jax.Array:
        """Forward-mode slopes along a direction, at the point and a few roundings beside it, [J, m]; under way when they are returned."""
        return self._slopes(self.leaves, *self._along(span, scaling), jnp.asarray(self.jitter, jnp.float32))

    def pull(self, cotangent: np.ndarray, jitter: float) -> list[np.ndarray]:
        """The cotangent pulled back to every leaf at a point a few roundings beside x; flat, in float64."""
        pulled = self._pull(self.leaves, self._signs, jnp.asarray(cotangent, jnp.float32), jnp.float32(jitter))
        return [np.asarray(leaf, np.float64).ravel() for leaf in pulled]

    def direction(self, span: Span, scaling: str) -> np.ndarray:
        """The moving coordinates of a direction, [stop - start], on the host."""
        part = slice(span.start, span.stop)
        return self._host_sizes[scaling][span.leaf][part] * self._host_signs[span.leaf][span.direction, part].astype(np.float64)

    def magnitudes(self, leaf: int) -> np.ndarray:
        """How far each coordinate of a leaf moves at t = 1."""
        return self._host_sizes["leaf"][leaf]

    def has_scaling(self, leaf: int, scaling: str) -> bool:
        """Whether a scaling differs from the leaf's own."""
        own, other = self._host_sizes["leaf"][leaf], self._host_sizes[scaling][leaf]
        return scaling == "leaf" or bool(np.any((other < own / 2) | (other > own * 2)))

    def _along(self, span: Span, scaling: str) -> tuple[Any, ...]:
        if scaling not in self._device_sizes:
            sizes = self._host_sizes[scaling]
            self._device_sizes[scaling] = tuple(jnp.asarray(size, leaf.dtype) for size, leaf in zip(sizes, self.leaves, strict=True))
        bounds = np.zeros((2, len(self.leaves)), np.int32)
        bounds[:, span.leaf] = span.start, span.stop
        return self._device_sizes[scaling], self._signs, jnp.int32(span.direction), jnp.asarray(bounds)


def _magnitudes(x: np.ndarray, scaling: str) -> np.ndarray:
    """How far each coordinate moves at t = 1: a power of two near its own size, its leaf's size or one."""
    size = np.abs(x)
    finite = size[np.isfinite(size)]
    typical = float(np.sqrt(np.mean(finite**2))) if finite.size else 0.0
    typical = typical if typical > 0 else 1.0
    if scaling == "relative":
        wanted = np.where(size > 0, size, typical)
    else:
        wanted = np.maximum(size, typical if scaling == "leaf" else 1.0)
    wanted = np.where(np.isfinite(wanted), np.clip(wanted, 2.0**-100, 2.0**100), 1.0)
    return 2.0 ** np.round(np.log2(wanted))


def _tangent(leaves: Any, sizes: Any, signs: Any, direction: jax.Array, bounds: jax.Array) -> tuple[jax.Array, ...]:
    parts = []
    for number, leaf in enumerate(leaves):
        place = jnp.arange(leaf.size, dtype=jnp.int32)
        moves = (place >= bounds[0, number]) & (place < bounds[1, number])
        along = jnp.where(moves, sizes[number] * signs[number][direction].astype(leaf.dtype), jnp.zeros((), leaf.dtype))
        parts.append(along.reshape(leaf.shape))
    return tuple(parts)


def _values_along(
    f: Any, leaves: Any, sizes: Any, signs: Any, direction: jax.Array, bounds: jax.Array, ts: jax.Array, count: jax.Array
) -> jax.Array:
    """f at the first so many of the steps; a count that is no part of the program, for ladders of several lengths are asked for."""
    tangent = _tangent(leaves, sizes, signs, direction, bounds)

    def at(t: jax.Array) -> jax.Array:
        return f(tuple(x + t.astype(x.dtype) * v for x, v in zip(leaves, tangent, strict=True)))

    shape = jax.eval_shape(at, ts[0])
    found = jnp.full((ts.size, *shape.shape), jnp.nan, shape.dtype)
    return jax.lax.fori_loop(0, count, lambda k, found: found.at[k].set(at(ts[k])), found)


def _jittered(epsilon: tuple[float, ...], leaves: Any, signs: Any, jitter: jax.Array) -> tuple[jax.Array, ...]:
    moved = []
    for x, sign, eps in zip(leaves, signs, epsilon, strict=True):
        factor = 1 + (jitter.astype(x.dtype) * eps) * jnp.sign(sign[0]).astype(x.dtype).reshape(x.shape)
        moved.append(jnp.where(jitter == 0, x, x * factor))
    return tuple(moved)


def _slopes_along(f: Any, epsilon: Any, leaves: Any, sizes: Any, signs: Any, direction: Any, bounds: Any, jitter: jax.Array) -> jax.Array:
    tangent = _tangent(leaves, sizes, signs, direction, bounds)
    return jax.lax.map(lambda j: jax.jvp(f, (_jittered(epsilon, leaves, signs, j),), (tangent,))[1], jitter)


def _pull_back(f: Any, epsilon: Any, leaves: Any, signs: Any, cotangent: jax.Array, jitter: jax.Array) -> tuple[jax.Array, ...]:
    value, pullback = jax.vjp(f, _jittered(epsilon, leaves, signs, jitter))
    return pullback(cotangent.astype(value.dtype))[0]


def argument_names(f: Callable[..., Any], count: int) -> list[str]:
    """Names of the first positional parameters, as far as f tells them."""
    try:
        parameters = inspect.signature(f).parameters.values()
    except (TypeError, ValueError):
        parameters = ()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [named[k] if k < len(named) else f"args[{k}]" for k in range(count)]


def _chosen_arguments(args: tuple[Any, ...], argnums: int | Sequence[int] | None) -> tuple[int, ...]:
    if argnums is None:
        return tuple(
            k for k, argument in enumerate(args) if any(_is_float(leaf) or np.iscomplexobj(leaf) for leaf in jax.tree.leaves(argument))
        )
    wanted = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    for number in wanted:
        if isinstance(number, bool) or not isinstance(number, int) or not -len(args) <= number < len(args):
            raise ValueError(f"argnums = {argnums!r}; expected positions among {len(args)} positional arguments")
    return tuple(number % len(args) for number in wanted)


def _is_float(leaf: Any) -> bool:
    if isinstance(leaf, float):
        return True
    return isinstance(leaf, (np.ndarray, np.generic, jax.Array)) and is_float_dtype(leaf.dtype)
