"""Functions of one lane, computed for a block of lanes in few loops.

XLA's CPU compiler makes a loop over the lanes of nearly every operation that has more than one use, or computes it anew in each. Here a
function is written out number by number (`scalarize`), and what it returns is shared out to as few loops as there can be of operations
that still fit the registers and the vectoriser (`linalg.in_one_loop`): every number is computed once in each loop, and nothing in between
is ever written to memory.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxdiff._object_arrays import filled
from jaxdiff._types import PyTree
from jaxdiff.linalg import in_one_loop
from jaxdiff.scalarize import NotScalarizable, Scalarizer

LOOP_LIMIT = 240
"""Operations of one loop; see benchmarks/NOTES.md."""

TOTAL_LIMIT = 700
"""Operations up to which a function is written out at all: each takes some milliseconds to compile."""

FEW_LANES = 16
"""Lanes below which there is nothing to share out: one problem as it is compiles, and with ten unknowns runs, in half the time."""


def lanewise(function: Callable[..., PyTree], *trees: PyTree) -> PyTree:
    """``function(*trees)``, computed in few loops over the lanes where these are many and it is short, and as it is where not.

    Args:
        function: of pytrees of arrays, lanes in the last axis, however many. It may close over constants, but not over arrays that are
            traced. Of arithmetic only, or it is called as it is.
        trees: pytrees of arrays whose last axis is the lanes.

    Example:
        >>> lanewise(lambda a, b: (a[0] * b, jnp.sum(a, axis=0)), jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([5.0, 6.0]))[1].tolist()
        [4.0, 6.0]
    """
    leaves, structure = jax.tree.flatten(trees)
    program = _written_out(function, structure, leaves) if leaves[0].shape[-1] >= FEW_LANES else None
    if program is None:
        return function(*trees)
    rows = [row for leaf in leaves for row in leaf.reshape(-1, leaf.shape[-1])]
    entries: list[jax.Array] = []
    for group in program.groups(LOOP_LIMIT):
        entries += in_one_loop(group.run, [rows[k] for k in group.read])
    results, place = [], 0
    for shape in program.shapes:
        size = int(np.prod(shape))
        part = entries[place : place + size]
        results.append(jnp.stack(part).reshape(*shape, -1) if shape else part[0])
        place += size
    return program.result.unflatten(results)


@dataclasses.dataclass(frozen=True)
class _Group:
    """Some of the outputs of a program, and what they need.

    Attributes:
        equations: in order.
        inputs: variables that are read.
        read: which inputs of the program these are.
        outputs: variables or literals.
    """

    equations: list[Any]
    inputs: list[Any]
    read: list[int]
    outputs: list[Any]

    def run(self, numbers: Sequence[jax.Array]) -> list[jax.Array]:
        """The outputs at these inputs."""
        shape = numbers[0].shape if numbers else ()
        known = dict(zip(self.inputs, numbers, strict=True))

        def look_up(atom: Any) -> jax.Array:
            value = jnp.asarray(atom.val, atom.val.dtype) if isinstance(atom, Literal) else known[atom]
            return value if value.shape == shape else jnp.broadcast_to(value, shape)

        for equation in self.equations:
            known[equation.outvars[0]] = equation.primitive.bind(*map(look_up, equation.invars), **equation.params)
        return [look_up(atom) for atom in self.outputs]


@dataclasses.dataclass(frozen=True)
class _Program:
    """A function of one lane as operations on numbers.

    Attributes:
        jaxpr: of numbers.
        shapes: of the outputs, without lanes.
        result: the tree of the outputs.
    """

    jaxpr: Any
    shapes: list[tuple[int, ...]]
    result: Any

    def groups(self, limit: int) -> list[_Group]:
        """The outputs shared out, in order, to loops of at most so many operations, as far as one output alone needs no more."""
        equations = self.jaxpr.eqns
        maker = {equation.outvars[0]: k for k, equation in enumerate(equations)}
        needs: list[set[int]] = []
        for equation in equations:
            parts = [needs[maker[atom]] for atom in equation.invars if not isinstance(atom, Literal) and atom in maker]
            needs.append({len(needs)}.union(*parts))
        groups: list[tuple[set[int], list[Any]]] = []
        for atom in self.jaxpr.outvars:
            needed = needs[maker[atom]] if not isinstance(atom, Literal) and atom in maker else set()
            if not groups or len(groups[-1][0] | needed) > limit:
                groups.append((set(), []))
            groups[-1][0].update(needed)
            groups[-1][1].append(atom)
        return [self._group(sorted(needed), outputs) for needed, outputs in groups]

    def _group(self, needed: list[int], outputs: list[Any]) -> _Group:
        equations = [self.jaxpr.eqns[k] for k in needed]
        atoms = {atom for equation in equations for atom in equation.invars if not isinstance(atom, Literal)}
        atoms |= {atom for atom in outputs if not isinstance(atom, Literal)}
        read = [k for k, variable in enumerate(self.jaxpr.invars) if variable in atoms]
        return _Group(equations, [self.jaxpr.invars[k] for k in read], read, outputs)


def _written_out(function: Callable[..., PyTree], structure: Any, leaves: Sequence[jax.Array]) -> _Program | None:
    """The function of one lane number by number; None where it is too long, or holds what cannot be written out."""
    one = [jax.ShapeDtypeStruct((*leaf.shape[:-1], 1), leaf.dtype) for leaf in leaves]
    closed, output = jax.make_jaxpr(lambda *leaves: function(*structure.unflatten(leaves)), return_shape=True)(*one)
    outputs, result = jax.tree.flatten(output)
    sizes = [int(np.prod(leaf.shape)) for leaf in one]

    def numbers(*entries: jax.Array) -> list[jax.Array]:
        held, arrays = iter(entries), []
        for leaf, size in zip(one, sizes, strict=True):
            arrays.append(filled(leaf.shape, [next(held) for _ in range(size)]))
        scalarizer = Scalarizer((), is_plain=False)
        parts = scalarizer(closed, arrays)
        if scalarizer.num_operations > TOTAL_LIMIT:
            raise NotScalarizable(f"more than {TOTAL_LIMIT} operations")
        return [scalarizer.spread(entry) for part in parts for entry in part.reshape(-1)]

    given = [jax.ShapeDtypeStruct((), leaf.dtype) for leaf, size in zip(one, sizes, strict=True) for _ in range(size)]
    try:
        written = jax.make_jaxpr(numbers)(*given)
    except NotScalarizable:
        return None
    if written.consts or any(len(equation.outvars) != 1 for equation in written.jaxpr.eqns):
        return None
    return _Program(written.jaxpr, [leaf.shape[:-1] for leaf in outputs], result)
