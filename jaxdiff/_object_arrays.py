"""Object arrays, whose entries are traced numbers or what stands for them; NumPy itself would look into these."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def each_entry(shape: tuple[int, ...], entry: Callable[[tuple[int, ...]], Any]) -> np.ndarray:
    """The object array whose entry at ``index`` is ``entry(index)``.

    Example:
        >>> each_entry((2, 2), lambda index: sum(index)).tolist()
        [[0, 1], [1, 2]]
    """
    result = np.empty(shape, object)
    for index in np.ndindex(*shape):
        result[index] = entry(index)
    return result


def filled(shape: tuple[int, ...], entries: Sequence[Any]) -> np.ndarray:
    """An object array with these entries, one by one.

    Example:
        >>> filled((2, 1), [[1, 2], [3]]).tolist()
        [[[1, 2]], [[3]]]
    """
    result = np.empty(len(entries), object)
    for i, entry in enumerate(entries):
        result[i] = entry
    return result.reshape(shape)


def shared_out(shapes: Sequence[tuple[int, ...]], entries: Sequence[Any]) -> list[np.ndarray]:
    """Object arrays of these shapes, filled one after the other.

    Example:
        >>> [part.tolist() for part in shared_out([(2,), ()], [1, 2, 3])]
        [[1, 2], 3]
    """
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    return [filled(shape, entries[begin:end]) for shape, begin, end in zip(shapes, ends, ends[1:], strict=False)]


def picked(flat: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The entries of a flat object array that stand at these places, in the shape of ``places``.

    Example:
        >>> picked(filled((2,), ["a", "b"]), np.array([[1], [0]])).tolist()
        [['b'], ['a']]
    """
    return each_entry(places.shape, lambda index: flat[places[index]])


def folded(combine: Callable[[Any, Any], Any], array: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """An object array folded over some of its axes.

    Example:
        >>> folded(lambda a, b: a + b, filled((2, 2), [1, 2, 3, 4]), (0,)).tolist()
        [4, 6]
    """
    rows = np.moveaxis(array, axes, range(len(axes)))
    kept = rows.shape[len(axes) :]
    rows = rows.reshape(-1, *kept)
    return each_entry(kept, lambda index: functools.reduce(combine, rows[(slice(None), *index)]))
