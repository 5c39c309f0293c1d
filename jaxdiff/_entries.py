"""Vectors in two forms, for algorithms that are written once: a list of entries, each an array of lanes, or one array, entries first.

Of few entries a list, since `linalg.in_one_loop` takes a whole algorithm on numbers. Of many an array: a loop for each entry would take the
compiler seconds, an operation on all of them takes it as long as one.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Entries: TypeAlias = Any
"""A list with an array of lanes for each entry, or one array ``[entries, lanes]``."""


def each(function: Callable[..., Any], *vectors: Entries) -> Entries:
    """``function`` of every entry of vectors of one form and length; what it closes over are numbers of a lane, the same for all entries.

    Example:
        >>> [int(number) for number in each(lambda a, b: a + b, [jnp.array(1), jnp.array(2)], [jnp.array(3), jnp.array(4)])]
        [4, 6]
    """
    if isinstance(vectors[0], list):
        return [function(*parts) for parts in zip(*vectors, strict=True)]
    return function(*vectors)


def taken(vector: Entries, places: Sequence[int] | np.ndarray) -> Entries:
    """The entries at these places."""
    if isinstance(vector, list):
        return [vector[place] for place in places]
    return vector[np.asarray(places, np.int32)]


def total(vector: Entries) -> jax.Array:
    """The sum of all entries, in every lane."""
    return functools.reduce(jnp.add, vector) if isinstance(vector, list) else jnp.sum(vector, axis=0)


def dot(a: Entries, b: Entries) -> jax.Array:
    """The inner product, in every lane."""
    return total(each(jnp.multiply, a, b))


def largest(vector: Entries) -> jax.Array:
    """The largest entry, in every lane; NaN where one is."""
    return functools.reduce(jnp.maximum, vector) if isinstance(vector, list) else jnp.max(vector, axis=0)


def every(conditions: Entries) -> jax.Array:
    """Whether all entries hold, in every lane."""
    return functools.reduce(jnp.logical_and, conditions) if isinstance(conditions, list) else jnp.all(conditions, axis=0)
