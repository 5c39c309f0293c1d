"""Derivatives that the user wrote; what is missing follows from what is there by automatic differentiation."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdiff._types import PyTree
from jaxdiff.derivatives.autodiff import Autodiff
from jaxdiff.derivatives.protocol import Bound
from jaxdiff.derivatives.trees import check_like, contract, ravel, unravel, unravel_matrix


@dataclasses.dataclass(frozen=True)
class Supplied:
    """The user's own derivative functions, each called with the same arguments as f, with respect to the first of them.

    They are taken at their word: nothing compares them with f here. What is not supplied is derived: a Hessian from ``hvp`` along every
    unit vector, else from autodiff of ``gradient``; ``hvp`` from autodiff of ``gradient``, else from ``hessian``; a scalar f's Jacobian
    is its gradient and the reverse; everything else is autodiff of f.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> method = jd.Supplied(gradient=lambda x: 2 * x)
        >>> jd.gradient(lambda x: jnp.sum(x**2), method=method)(jnp.array([1.0, 2.0])).tolist()
        [2.0, 4.0]
        >>> jd.hessian(lambda x: jnp.sum(x**2), method=method)(jnp.array([1.0, 2.0])).tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """

    gradient: Callable[..., Any] | None = None
    """``gradient(x, *args)``, a pytree like x."""
    jacobian: Callable[..., Any] | None = None
    """``jacobian(x, *args)``, in the form of ``jax.jacobian``: the output's axes, then those of x."""
    hessian: Callable[..., Any] | None = None
    """``hessian(x, *args)``, in the form of ``jax.hessian``."""
    hvp: Callable[..., Any] | None = None
    """``hvp(x, v, *args)``, a pytree like x."""

    is_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not callable(value):
                raise TypeError(f"{field.name} = {value!r}; expected a function called as f is, or None")

    def num_evaluations(self, n: int) -> int:
        """One: the supplied functions are not counted as evaluations of f."""
        return 1

    def derivative_at(self, bound: Bound, x: jax.Array, n: int) -> jax.Array:
        """The supplied gradient is the first derivative; higher ones are autodiff of it."""
        if self.gradient is None:
            return Autodiff().derivative_at(bound, x, n)
        slope = self._bound_gradient(bound)
        if n > 1:
            return Autodiff().derivative_at(dataclasses.replace(slope, has_aux=False), x, n - 1)
        return jax.vmap(lambda point: slope.scalar(point)[0])(x.reshape(-1)).reshape(x.shape)

    def partial_at(self, bound: Bound, x: jax.Array, indices: tuple[int, ...]) -> jax.Array:
        """Autodiff of the supplied gradient along all indices but the first."""
        if self.gradient is None:
            return Autodiff().partial_at(bound, x, indices)
        slope = self._bound_gradient(bound)
        first = Bound.of(lambda point: jnp.asarray(slope(point))[indices[0]], (x,))
        return first(x) if len(indices) == 1 else Autodiff().partial_at(first, x, indices[1:])

    def value_and_gradient_at(self, bound: Bound, x: PyTree) -> tuple[tuple[jax.Array, Any], PyTree]:
        """The value from f, the gradient as supplied."""
        gradient = self.gradient or self.jacobian
        if gradient is None:
            return Autodiff().value_and_gradient_at(bound, x)
        args, kwargs = _arguments(bound, x)
        return bound.scalar(x), check_like(gradient(*args, **kwargs), x, "gradient")

    def jacobian_at(self, bound: Bound, x: PyTree) -> PyTree:
        """As supplied; of a scalar f, the supplied gradient."""
        args, kwargs = _arguments(bound, x)
        if self.jacobian is not None:
            return self.jacobian(*args, **kwargs)
        if self.gradient is not None:
            output = jax.eval_shape(bound.arrays, x)
            if isinstance(output, jax.ShapeDtypeStruct) and output.shape == ():
                return check_like(self.gradient(*args, **kwargs), x, "gradient")
        return Autodiff().jacobian_at(bound, x)

    def hessian_at(self, bound: Bound, x: PyTree) -> PyTree:
        """As supplied, from hvp, or from the gradient."""
        args, kwargs = _arguments(bound, x)
        if self.hessian is not None:
            return self.hessian(*args, **kwargs)
        if self.hvp is not None:
            flat = ravel(x)
            columns = jax.vmap(lambda unit: ravel(self.hvp_at(bound, x, unravel(unit, x))), out_axes=1)
            return unravel_matrix(columns(jnp.eye(flat.size, dtype=flat.dtype)), x, x)
        if self.gradient is not None:
            return jax.jacfwd(self._bound_gradient(bound))(x)
        return Autodiff().hessian_at(bound, x)

    def hvp_at(self, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
        """As supplied, from the gradient, or from the Hessian."""
        args, kwargs = _arguments(bound, x)
        if self.hvp is not None:
            return check_like(self.hvp(args[0], v, *args[1:], **kwargs), x, "hvp")
        if self.gradient is not None:
            return jax.jvp(self._bound_gradient(bound), (x,), (v,))[1]
        if self.hessian is not None:
            return contract(self.hessian(*args, **kwargs), x, v)
        return Autodiff().hvp_at(bound, x, v)

    def directional_derivative_at(self, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
        """The supplied gradient's or Jacobian's product with v."""
        if self.gradient is None and self.jacobian is None:
            return Autodiff().directional_derivative_at(bound, x, v)
        return contract(self.jacobian_at(bound, x), jax.eval_shape(bound.arrays, x), v)

    def _bound_gradient(self, bound: Bound) -> Bound:
        _check_first(bound)

        def checked(x: PyTree, *args: Any, **kwargs: Any) -> PyTree:
            return check_like(self.gradient(x, *args, **kwargs), x, "gradient")  # type: ignore[misc]

        return dataclasses.replace(bound, f=checked, has_aux=False)


def _check_first(bound: Bound) -> None:
    if bound.argnums != 0:
        raise ValueError(f"argnums = {bound.argnums}; supplied derivatives are with respect to the first argument: expected 0")


def _arguments(bound: Bound, x: PyTree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    _check_first(bound)
    return bound.arguments_at(x)
