"""Derivatives by JAX's automatic differentiation: nothing of it is written here, only which transformation is called."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdiff._types import PyTree
from jaxdiff._validation import check_choice
from jaxdiff.derivatives.protocol import Bound
from jaxdiff.derivatives.trees import ravel, tree_size, unravel

MODES = ("auto", "forward", "reverse")


@dataclasses.dataclass(frozen=True)
class Autodiff:
    """Automatic differentiation: exact up to rounding, as good as the rules of the functions that f is made of.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> float(jd.gradient(jnp.sin, method=jd.Autodiff(mode="forward"))(0.0))
        1.0
    """

    mode: str = "auto"
    """"forward" pushes tangents from x to f, one pass per parameter; "reverse" pulls cotangents back, one pass per output; "auto" takes
    reverse for gradients, forward over reverse for Hessians, and for Jacobians whichever needs fewer passes. Forward is the one that
    passes through ``while_loop``."""

    is_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice(self.mode, "mode", MODES)

    def num_evaluations(self, n: int) -> int:
        """One, by the usual count: the derivative passes are not evaluations of f."""
        return 1

    def derivative_at(self, bound: Bound, x: jax.Array, n: int) -> jax.Array:
        """Nested forward mode, vmapped over the points."""
        at: Callable[[jax.Array], jax.Array] = _value_only(bound)
        for _ in range(n):
            at = _slope(at, jnp.ones((), x.dtype)) if self.mode != "reverse" else jax.grad(at)
        return jax.vmap(at)(x.reshape(-1)).reshape(x.shape)

    def partial_at(self, bound: Bound, x: jax.Array, indices: tuple[int, ...]) -> jax.Array:
        """Nested forward mode along unit vectors."""
        at: Callable[[jax.Array], jax.Array] = _value_only(bound)
        for index in indices:
            at = _slope(at, jnp.zeros_like(x).at[index].set(1))
        return at(x)

    def value_and_gradient_at(self, bound: Bound, x: PyTree) -> tuple[tuple[jax.Array, Any], PyTree]:
        """``jax.value_and_grad``, or its forward-mode equal."""
        if self.mode == "forward":
            value, gradient = _forward_gradient(bound.scalar, x)
            return value, gradient
        return jax.value_and_grad(bound.scalar, has_aux=True)(x)

    def jacobian_at(self, bound: Bound, x: PyTree) -> PyTree:
        """``jax.jacfwd`` or ``jax.jacrev``."""
        mode = self.mode
        if mode == "auto":
            mode = "forward" if tree_size(x) <= tree_size(jax.eval_shape(bound.arrays, x)) else "reverse"
        return (jax.jacfwd if mode == "forward" else jax.jacrev)(bound.arrays)(x)

    def hessian_at(self, bound: Bound, x: PyTree) -> PyTree:
        """Forward over reverse, unless the mode asks for one kind throughout."""
        inner = jax.jacfwd if self.mode == "forward" else jax.grad
        outer = jax.jacrev if self.mode == "reverse" else jax.jacfwd
        return outer(inner(_value_only(bound)))(x)

    def hvp_at(self, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
        """Forward over reverse: the gradient's derivative along v; no Hessian is made."""
        value = _value_only(bound)
        if self.mode == "reverse":
            return jax.grad(lambda x: _inner(jax.grad(value)(x), v))(x)
        inner = jax.jacfwd if self.mode == "forward" else jax.grad
        return jax.jvp(inner(value), (x,), (v,))[1]

    def directional_derivative_at(self, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
        """``jax.jvp``; in reverse mode the Jacobian's product with v, by two pullbacks."""
        if self.mode != "reverse":
            return jax.jvp(bound.arrays, (x,), (v,))[1]
        output, pullback = jax.vjp(bound.arrays, x)
        # The pullback is linear in its cotangent; pulling v back through it transposes it once more.
        _, transposed = jax.vjp(lambda cotangent: pullback(cotangent)[0], jax.tree.map(jnp.zeros_like, output))
        return transposed(v)[0]


def _value_only(bound: Bound) -> Callable[[PyTree], jax.Array]:
    return lambda x: bound.scalar(x)[0]


def _slope(f: Callable[[jax.Array], jax.Array], direction: jax.Array) -> Callable[[jax.Array], jax.Array]:
    return lambda x: jax.jvp(f, (x,), (direction,))[1]


def _forward_gradient(f: Callable[[PyTree], tuple[jax.Array, Any]], x: PyTree) -> tuple[tuple[jax.Array, Any], PyTree]:
    """A value, its aux and the gradient by one linearization pushed along every unit vector."""
    value, push, aux = jax.linearize(f, x, has_aux=True)
    flat = ravel(x)
    slopes = jax.vmap(lambda tangent: push(unravel(tangent, x)))(jnp.eye(flat.size, dtype=flat.dtype))
    return (value, aux), unravel(slopes, x)


def _inner(a: PyTree, b: PyTree) -> jax.Array:
    products = jax.tree.leaves(jax.tree.map(lambda s, t: jnp.sum(s * t), a, b))
    return functools.reduce(jnp.add, products)
