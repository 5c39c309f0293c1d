"""Batches larger than memory: the host cuts them into chunks, solves one after the other, and may keep each on disk.

Data stay where they are, memory-mapped NumPy arrays on disk included; only a chunk at a time goes to the device. All chunks have one
length, so that one program serves them all: the last begins a little early, and what it does twice is dropped.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from jaxdiff._entry import batch_size, leaf_axes
from jaxdiff._types import PyTree
from jaxdiff._validation import is_staged, is_traced, plain_lists
from jaxdiff.batch.options import BatchOptions
from jaxdiff.batch.progress import progress_bar

F = TypeVar("F", bound=Callable[..., Any])

_OWN = ("bounds", "fixed", "scale", "sigma")
"""Arguments of which each problem may have its own, told by their shape."""


def chunkable(*names: str) -> Callable[[F], F]:
    """Decorator of an entry: with ``BatchOptions(chunk_size=...)`` it is called for one chunk after the other.

    Args:
        names: arguments that ``in_axes`` speaks of, in its order; ``args`` is a tuple of them.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            options = kwargs.get("options")
            if not isinstance(options, BatchOptions) or options.chunk_size is None:
                return function(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return _Chunks(function, bound, names, options).run()

        return wrapper  # type: ignore[return-value]

    return decorate


class _Chunks:
    """One call of an entry, in chunks."""

    def __init__(self, function: Callable[..., Any], bound: inspect.BoundArguments, names: tuple[str, ...], options: BatchOptions) -> None:
        self.function, self.bound, self.names, self.options = function, bound, names, options
        given = bound.arguments
        self.trees: list[PyTree] = []
        for name in names:
            if name == "args":
                self.trees += given["args"] if isinstance(given["args"], tuple) else (given["args"],)
            else:
                # A bracket is a pair, whatever its ends are.
                self.trees.append(given[name] if name == "bracket" else plain_lists(given[name], name))
        if is_traced((self.trees, [given.get(name) for name in _OWN])) or is_staged():
            raise ValueError("BatchOptions(chunk_size=...) cannot be traced; expected chunk_size = None inside of jax.jit and its like")
        first, *rest = self.trees
        axes = leaf_axes(given["in_axes"], first, tuple(rest))
        self.num_problems = batch_size(first, tuple(rest), axes)
        self.axes = (*axes[0], *axes[1])
        # The shapes of one problem's leaves, by which a member of bounds that holds all problems' is known.
        self.own_shapes = {np.shape(leaf) for leaf in self._sliced(slice(0, 1), as_one=True)} if self.num_problems else set()

    def run(self) -> Any:
        """The result of the whole batch, its fields NumPy arrays."""
        count = self.num_problems
        size = min(self.options.chunk_size or count, count)
        if count == 0:
            return self._solve(0, 0)
        store = None if self.options.store is None else _Store(pathlib.Path(self.options.store), count, size)
        firsts = list(range(0, count, size))
        structure, whole = None, None
        with progress_bar(count) if self.options.progress else contextlib.nullcontext():
            # The last chunk is solved in any case: what it returns has the form of the result.
            for number, first in enumerate(firsts):
                begin = min(first, count - size)
                mark = None if store is None else self._fingerprint(begin, size)
                leaves = None if store is None or number == len(firsts) - 1 else store.read(number, mark)
                if leaves is None:
                    result = self._solve(begin, size)
                    structure = jax.tree.structure(result)
                    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(result)]
                    if store is not None:
                        store.write(number, mark, leaves)
                whole = whole or [np.empty((count, *leaf.shape[1:]), leaf.dtype) for leaf in leaves]
                for target, leaf in zip(whole, leaves, strict=True):
                    target[begin : begin + size] = leaf
        assert structure is not None
        merged = structure.unflatten(whole)
        return merged.raise_if_failed() if self.bound.arguments.get("throw") else merged

    def _sliced(self, rows: slice, as_one: bool = False) -> list[Any]:
        """All leaves that ``in_axes`` speaks of, with these problems alone."""

        def cut(leaf: Any, axis: int | None) -> Any:
            if axis is None:
                return leaf
            leaf = leaf if isinstance(leaf, (np.ndarray, jax.Array)) else np.asarray(leaf)
            part = leaf[(*[slice(None)] * (axis % leaf.ndim), rows)]
            return np.asarray(part).take(0, axis=axis) if as_one else part

        return [cut(leaf, axis) for leaf, axis in zip(jax.tree.leaves(self.trees), self.axes, strict=True)]

    def _own(self, tree: PyTree, rows: slice, own_shapes: set[tuple[int, ...]]) -> PyTree:
        """Bounds, scales and the like of these problems alone; what all share as it is."""
        count = self.num_problems

        def cut(leaf: Any) -> Any:
            shape = np.shape(leaf)
            has_all = len(shape) > 0 and shape[0] == count and shape[1:] in own_shapes and shape not in self.own_shapes
            return leaf[rows] if has_all else leaf

        return jax.tree.map(cut, tree)

    def _solve(self, begin: int, size: int) -> Any:
        rows = slice(begin, begin + size)
        trees = jax.tree.structure(self.trees).unflatten(self._sliced(rows))
        changed: dict[str, Any] = {"options": dataclasses.replace(self.options, chunk_size=None, store=None), "throw": False}
        for name, tree in zip(self.names, trees, strict=False):
            changed[name] = tuple(trees[self.names.index("args") :]) if name == "args" else tree
        given = self.bound.arguments
        changed |= {name: self._own(given[name], rows, self.own_shapes) for name in _OWN if given.get(name) is not None}
        solver: Any = given.get("solver")
        tolerances = {name: getattr(solver, name) for name in getattr(solver, "tolerance_names", ())}
        if any(value is not None for value in tolerances.values()):
            # A tolerance of one problem may be one number.
            changed["solver"] = dataclasses.replace(solver, **self._own(tolerances, rows, self.own_shapes | {()}))
        return self.function(**(given | changed))

    def _fingerprint(self, begin: int, size: int) -> str:
        """What the answer of a chunk depends on, as far as it can be told: data, options, and the code of the function."""
        digest = hashlib.sha256()
        for leaf in self._sliced(slice(begin, begin + size)):
            array = np.ascontiguousarray(np.asarray(leaf))
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
        given = {name: value for name, value in self.bound.arguments.items() if name not in (*self.names, "options", "throw")}
        fun = next(iter(self.bound.arguments.values()))
        code = getattr(fun, "__code__", None)
        digest.update(b"" if code is None else code.co_code + repr(code.co_names).encode() + repr(code.co_varnames).encode())
        digest.update(getattr(fun, "__qualname__", type(fun).__qualname__).encode())
        plain = lambda leaf: np.asarray(leaf).tolist() if hasattr(leaf, "dtype") else leaf  # noqa: E731
        rest = {name: jax.tree.map(plain, value) for name, value in given.items() if value is not fun}
        digest.update(repr(rest).encode())
        return digest.hexdigest()


class _Store:
    """Chunks on disk: a manifest, and one ``.npz`` for each chunk that is done. An interrupted run loses the chunk that it was in."""

    def __init__(self, place: pathlib.Path, num_problems: int, chunk_size: int) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        wanted = {"format": 1, "num_problems": num_problems, "chunk_size": chunk_size}
        manifest = place / "manifest.json"
        if manifest.exists():
            found = json.loads(manifest.read_text(encoding="utf-8"))
            if found != wanted:
                raise ValueError(f"store = {str(place)!r} is of another batch ({found}); expected {wanted}, or an empty folder")
        else:
            manifest.write_text(json.dumps(wanted) + "\n", encoding="utf-8")

    def read(self, number: int, mark: str | None) -> list[np.ndarray] | None:
        """A chunk's leaves; None where it is not there, or is of other data, options or code."""
        path = self.place / f"chunk-{number:06d}.npz"
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as held:
            if str(held["fingerprint"]) != mark:
                return None
            return [held[f"leaf{i}"] for i in range(len(held.files) - 1)]

    def write(self, number: int, mark: str | None, leaves: list[np.ndarray]) -> None:
        """Write a chunk; it is there whole or not at all."""
        path = self.place / f"chunk-{number:06d}.npz"
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            np.savez(file, fingerprint=np.asarray(mark), **{f"leaf{i}": leaf for i, leaf in enumerate(leaves)})  # type: ignore[arg-type]
        os.replace(unfinished, path)
