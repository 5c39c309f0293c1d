"""Functions with right and with wrong derivatives, for `check_derivatives.py`: three sets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Case(NamedTuple):
    """A function at a point, and whether its derivative is right.

    Attributes:
        name: for the table.
        is_right: whether its derivative is.
        f: the function.
        args: the point.
        modes: those that f has.
        dtypes: a mistake too small for single precision is tried in double alone.
    """

    name: str
    is_right: bool
    f: Callable[..., Any]
    args: tuple[Any, ...]
    modes: tuple[str, ...] = ("forward", "reverse")
    dtypes: tuple[str, ...] = ("float32", "float64")


def normal(shape: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def with_jvp(f: Callable[..., Any], slope: Callable[..., Any]) -> Callable[..., Any]:
    """F of one array, elementwise, with a slope of its own."""
    wrapped = jax.custom_jvp(f)
    wrapped.defjvp(lambda x, t: (f(x[0]), slope(x[0]) * t[0]))
    return wrapped


def with_vjp(f: Callable[..., Any], pull: Callable[..., Any]) -> Callable[..., Any]:
    """F with a pullback (args, cotangent) -> cotangents of its own."""
    wrapped = jax.custom_vjp(f)
    wrapped.defvjp(lambda *x: (f(*x), x), lambda x, cotangent: pull(x, cotangent))
    return wrapped
