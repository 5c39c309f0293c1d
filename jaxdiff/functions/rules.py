"""The rules of differentiation as combinators: each takes pairs (f, f') and returns the pair of the combined function.

Nothing is differentiated by JAX here. The derivative is built from the derivatives of the parts as the rule says, so a pair can be held
against ``jax.grad`` of its value, and that is how the rules are tested. Functions take a scalar or an array and act on each element.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.functions._arrays import as_real

Elementwise = Callable[[Any], Array]


@dataclass(frozen=True)
class Differentiable:
    """A function together with its derivative.

    Attributes:
        value: the function, of one scalar or array.
        derivative: its derivative, called alike.

    Example:
        >>> sine = Differentiable(jnp.sin, jnp.cos)
        >>> float(sine(0.0)), float(sine.derivative(0.0))
        (0.0, 1.0)
    """

    value: Elementwise
    derivative: Elementwise

    def __post_init__(self) -> None:
        for name in ("value", "derivative"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} = {getattr(self, name)!r}; expected a callable")

    def __call__(self, x: Any) -> Float[Array, "..."]:
        """The value at ``x``."""
        return self.value(as_real(x, "x"))


def _check_pair(f: Any, name: str) -> None:
    if not isinstance(f, Differentiable):
        raise TypeError(f"{name} = {f!r}; expected a Differentiable, a pair of a function and its derivative")


def _check_real(c: Any, name: str) -> None:
    if isinstance(c, bool) or not isinstance(c, (int, float)) or not math.isfinite(c):
        raise ValueError(f"{name} = {c!r}; expected a finite real number")


def _power(x: jax.Array, n: int | float) -> jax.Array:
    return jax.lax.integer_pow(x, n) if isinstance(n, int) else jnp.power(x, n)


def power_rule(n: int | float) -> Differentiable:
    """x^n with derivative n x^(n - 1).

    A whole n, written as 2 or 2.0, is multiplied out and holds for every x; any other n gives NaN for x < 0. At x = 0 the derivative of x^0
    is 0, that of x^1 is 1, and that of x^n for any other n < 1 is infinite, for n < 0 with the value.

    Args:
        n: the exponent, a Python number.

    Raises:
        ValueError: ``n`` is not a finite real number.

    Example:
        >>> cube = power_rule(3)
        >>> float(cube(-2.0)), float(cube.derivative(-2.0))
        (-8.0, 12.0)
    """
    _check_real(n, "n")
    if float(n).is_integer():
        n = int(n)

    def derivative(x: Any) -> jax.Array:
        # Without the branch x^0 would have the derivative 0 x^(-1), which is NaN at zero.
        return jnp.zeros_like(x) if n == 0 else n * _power(jnp.asarray(x), n - 1)

    return Differentiable(lambda x: _power(jnp.asarray(x), n), derivative)


def constant_multiple_rule(c: int | float, f: Differentiable) -> Differentiable:
    """C f with derivative c f'.

    Example:
        >>> float(constant_multiple_rule(5.0, power_rule(2)).derivative(1.0))
        10.0
    """
    _check_real(c, "c")
    _check_pair(f, "f")
    return Differentiable(lambda x: c * f.value(x), lambda x: c * f.derivative(x))


def sum_rule(f: Differentiable, g: Differentiable) -> Differentiable:
    """F + g with derivative f' + g'.

    Example:
        >>> float(sum_rule(power_rule(2), power_rule(3)).derivative(1.0))
        5.0
    """
    _check_pair(f, "f")
    _check_pair(g, "g")
    return Differentiable(lambda x: f.value(x) + g.value(x), lambda x: f.derivative(x) + g.derivative(x))


def product_rule(f: Differentiable, g: Differentiable) -> Differentiable:
    """F g with derivative f' g + f g'.

    Example:
        >>> float(product_rule(power_rule(2), power_rule(3)).derivative(1.0))
        5.0
    """
    _check_pair(f, "f")
    _check_pair(g, "g")
    return Differentiable(
        lambda x: f.value(x) * g.value(x),
        lambda x: f.derivative(x) * g.value(x) + f.value(x) * g.derivative(x),
    )


def quotient_rule(f: Differentiable, g: Differentiable) -> Differentiable:
    """F / g with derivative (f' g - f g') / g^2.

    Where g = 0 the quotient is not differentiable, whatever its limit: the derivative there is NaN. The value there is what IEEE division
    gives, an infinity for f != 0 and NaN for 0/0; neither is ever a finite number.

    The derivative is computed as (f' - (f / g) g') / g: g^2 would overflow or vanish before the result does.

    Example:
        >>> q = quotient_rule(power_rule(0), power_rule(1))
        >>> float(q(2.0)), float(q.derivative(2.0))
        (0.5, -0.25)
        >>> float(q(0.0)), float(q.derivative(0.0))
        (inf, nan)
    """
    _check_pair(f, "f")
    _check_pair(g, "g")

    def derivative(x: Any) -> jax.Array:
        denominator = g.value(x)
        is_pole = denominator == 0
        # Guarded before the division, so that a derivative of this derivative is NaN at the pole only.
        safe = jnp.where(is_pole, 1, denominator)
        slope = (f.derivative(x) - f.value(x) / safe * g.derivative(x)) / safe
        return jnp.where(is_pole, jnp.nan, slope)

    return Differentiable(lambda x: f.value(x) / g.value(x), derivative)


def chain_rule(outer: Differentiable, inner: Differentiable) -> Differentiable:
    """outer(inner(x)) with derivative outer'(inner(x)) inner'(x).

    Example:
        >>> sine = Differentiable(jnp.sin, jnp.cos)
        >>> float(chain_rule(power_rule(2), sine).derivative(0.0))
        0.0
    """
    _check_pair(outer, "outer")
    _check_pair(inner, "inner")
    return Differentiable(
        lambda x: outer.value(inner.value(x)),
        lambda x: outer.derivative(inner.value(x)) * inner.derivative(x),
    )
