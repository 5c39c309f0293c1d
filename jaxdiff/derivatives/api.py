"""The calls a user makes: one form for every method, scipy's words and JAX's conventions (``argnums``, ``has_aux``, pytrees).

Each of them checks its arguments, binds f to them, and hands both to the method.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff._types import PyTree
from jaxdiff._validation import as_float_leaves, check_count, closest, explain_tracing_errors, suggest_keywords
from jaxdiff.derivatives.adaptive import Adaptive
from jaxdiff.derivatives.autodiff import Autodiff
from jaxdiff.derivatives.estimates import Estimate
from jaxdiff.derivatives.protocol import Bound, Method
from jaxdiff.derivatives.trees import check_like, tree_size

_METHODS = {"autodiff": "Autodiff()", "finite_difference": "FiniteDifference()", "adaptive": "Adaptive()", "supplied": "Supplied(...)"}
_AUTODIFF = Autodiff()


@suggest_keywords(order="n")
def derivative(f: Callable[..., Any], n: int = 1, *, method: Method = _AUTODIFF) -> Callable[..., jax.Array]:
    """The n-th derivative of a scalar function of one number.

    Args:
        f: called as ``f(x, *args)`` with one number x; returns one number.
        n: order of the derivative, at least one.
        method: where the derivative comes from.

    Returns:
        ``df(x, *args)``; x may be an array of points of any shape, all of which share args; the result has the shape of x.

    Raises:
        TypeError: f is not callable or does not return one real number; x is not real.
        ValueError: n is not a whole number of at least one.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> x = jnp.array([0.0, 1.0])
        >>> jnp.round(jd.derivative(jnp.exp, n=3)(x), 4).tolist()
        [1.0, 2.7183]
        >>> jnp.round(jd.derivative(jnp.exp, method=jd.FiniteDifference())(x), 4).tolist()
        [1.0, 2.7183]
    """
    _check(f, method)
    n = check_count(n, "n", minimum=1)

    def derivative_of_f(x: Any, *args: Any, **kwargs: Any) -> jax.Array:
        with explain_tracing_errors():
            points = _as_points(x)
            if points.size == 0:
                return points
            return method.derivative_at(Bound.of(f, (points, *args), kwargs), points, n)

    def estimate(x: Any, *args: Any, **kwargs: Any) -> Estimate:
        points = _as_points(x)
        return _with_bars(method, "derivative").derivative_estimate(Bound.of(f, (points, *args), kwargs), points, n)

    return _attach(derivative_of_f, estimate)


@suggest_keywords(aux="has_aux", argnum="argnums")
def value_and_gradient(
    f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, *, has_aux: bool = False, method: Method = _AUTODIFF
) -> Callable[..., Any]:
    """The value and the gradient of a scalar function together, as ``jax.value_and_grad`` gives them.

    Args:
        f: called as ``f(x, *args)``; x is a pytree; returns one number, or ``(number, aux)``.
        argnums: which positional arguments to differentiate.
        has_aux: whether f returns a pair whose second member is only passed on.
        method: where the gradient comes from.

    Returns:
        A function of f's arguments that returns ``(value, gradient)``, with has_aux ``((value, aux), gradient)``.

    Raises:
        TypeError: f does not return one real number; an argument to differentiate is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> value, gradient = jd.value_and_gradient(lambda x: jnp.sum(x**2))(jnp.array([1.0, 2.0]))
        >>> float(value), gradient.tolist()
        (5.0, [2.0, 4.0])
    """
    _check(f, method)
    argnums = _check_argnums(argnums)

    def value_and_gradient_of_f(*args: Any, **kwargs: Any) -> Any:
        with explain_tracing_errors():
            bound = _bind(f, args, kwargs, argnums, has_aux)
            (value, aux), gradient = method.value_and_gradient_at(bound, bound.x)
            return ((value, aux) if has_aux else value), gradient

    return value_and_gradient_of_f


@suggest_keywords(aux="has_aux", argnum="argnums")
def gradient(
    f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, *, has_aux: bool = False, method: Method = _AUTODIFF
) -> Callable[..., Any]:
    """The gradient of a scalar function, as ``jax.grad`` gives it.

    Args:
        f: called as ``f(x, *args)``; x is a pytree; returns one number, or ``(number, aux)``.
        argnums: which positional arguments to differentiate.
        has_aux: whether f returns a pair whose second member is only passed on.
        method: where the gradient comes from.

    Returns:
        A function of f's arguments that returns a pytree like x (a tuple of them where argnums is a tuple), with has_aux ``(gradient,
        aux)``.

    Raises:
        TypeError: f does not return one real number; an argument to differentiate is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> f = lambda x, scale: scale * jnp.sum(x**2)
        >>> jd.gradient(f)(jnp.array([1.0, 2.0]), 3.0).tolist()
        [6.0, 12.0]
        >>> by_differences = jd.gradient(f, method=jd.FiniteDifference(order=4))(jnp.array([1.0, 2.0]), 3.0)
        >>> jnp.round(by_differences, 3).tolist()
        [6.0, 12.0]
    """
    both = value_and_gradient(f, argnums, has_aux=has_aux, method=method)

    def gradient_of_f(*args: Any, **kwargs: Any) -> Any:
        value, slopes = both(*args, **kwargs)
        return (slopes, value[1]) if has_aux else slopes

    def estimate(*args: Any, **kwargs: Any) -> Estimate:
        bound = _bind(f, args, kwargs, _check_argnums(argnums), has_aux)
        return _with_bars(method, "gradient").gradient_estimate(bound, bound.x)

    return _attach(gradient_of_f, estimate)


@suggest_keywords(argnum="argnums")
def jacobian(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, *, method: Method = _AUTODIFF) -> Callable[..., PyTree]:
    """The Jacobian of a function between pytrees, as ``jax.jacobian`` gives it.

    Args:
        f: called as ``f(x, *args)``; x and what f returns are pytrees of real arrays.
        argnums: which positional arguments to differentiate.
        method: where the Jacobian comes from; autodiff takes forward or reverse mode by the number of parameters and outputs.

    Returns:
        A function of f's arguments: the tree of the output, in each leaf the tree of x, in each leaf the output's axes and then those of x.

    Raises:
        TypeError: f returns something that is not a real array; an argument to differentiate is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> jd.jacobian(lambda x: jnp.stack([x[0] * x[1], x[0]]))(jnp.array([2.0, 3.0])).tolist()
        [[3.0, 2.0], [1.0, 0.0]]
    """
    _check(f, method)
    argnums = _check_argnums(argnums)

    def jacobian_of_f(*args: Any, **kwargs: Any) -> PyTree:
        with explain_tracing_errors():
            bound = _bind(f, args, kwargs, argnums)
            return method.jacobian_at(bound, bound.x)

    def estimate(*args: Any, **kwargs: Any) -> Estimate:
        bound = _bind(f, args, kwargs, argnums)
        return _with_bars(method, "jacobian").jacobian_estimate(bound, bound.x)

    return _attach(jacobian_of_f, estimate)


@suggest_keywords(argnum="argnums")
def hessian(f: Callable[..., Any], argnums: int | tuple[int, ...] = 0, *, method: Method = _AUTODIFF) -> Callable[..., PyTree]:
    """The Hessian of a scalar function, as ``jax.hessian`` gives it.

    Args:
        f: called as ``f(x, *args)``; x is a pytree; returns one number.
        argnums: which positional arguments to differentiate.
        method: where the Hessian comes from.

    Returns:
        A function of f's arguments: the tree of x, in each leaf the tree of x, in each leaf the axes of both.

    Raises:
        TypeError: f does not return one real number; an argument to differentiate is not real.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> f = lambda x: x[0] ** 2 * x[1]
        >>> jd.hessian(f)(jnp.array([2.0, 3.0])).tolist()
        [[6.0, 4.0], [4.0, 0.0]]
        >>> jnp.round(jd.hessian(f, method=jd.FiniteDifference())(jnp.array([2.0, 3.0])), 3).tolist()
        [[6.0, 4.0], [4.0, 0.0]]
    """
    _check(f, method)
    argnums = _check_argnums(argnums)

    def hessian_of_f(*args: Any, **kwargs: Any) -> PyTree:
        with explain_tracing_errors():
            bound = _bind(f, args, kwargs, argnums)
            return method.hessian_at(bound, bound.x)

    def estimate(*args: Any, **kwargs: Any) -> Estimate:
        bound = _bind(f, args, kwargs, argnums)
        return _with_bars(method, "hessian").hessian_estimate(bound, bound.x)

    return _attach(hessian_of_f, estimate)


def partial(f: Callable[..., Any], *indices: int, method: Method = _AUTODIFF) -> Callable[..., jax.Array]:
    """A mixed partial derivative of a scalar function of one vector.

    Args:
        f: called as ``f(x, *args)`` with a vector x of shape [n]; returns one number.
        *indices: the coordinates to differentiate by, one after the other; repeated ones give higher orders; negative ones count from the
            end.
        method: where the derivative comes from.

    Returns:
        ``df(x, *args)``, one number.

    Raises:
        TypeError: f does not return one real number; x is not real.
        ValueError: there are no indices, or one is out of range; x is not a vector.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> f = lambda x: x[0] ** 3 * x[1] ** 2
        >>> float(jd.partial(f, 0, 0, 1)(jnp.array([1.0, 2.0])))  # 12 x y
        24.0
        >>> round(float(jd.partial(f, 0, 1, method=jd.FiniteDifference(order=4))(jnp.array([1.0, 2.0]))), 3)  # 6 x^2 y
        12.0
    """
    _check(f, method)
    if not indices:
        raise ValueError("indices = (); expected at least one coordinate to differentiate by")
    whole = tuple(check_count(index, "indices", minimum=-(2**31)) for index in indices)

    def partial_of_f(x: Any, *args: Any, **kwargs: Any) -> jax.Array:
        with explain_tracing_errors():
            point = as_float_leaves(x, "x")
            if not isinstance(point, jax.Array) or point.ndim != 1:
                raise ValueError(f"x has shape {jnp.shape(x) if not isinstance(x, dict) else x}; expected one vector of shape [n]")
            for index in whole:
                if not -point.size <= index < point.size:
                    raise ValueError(f"index {index} is out of range for x with {point.size} coordinates")
            positive = tuple(index % point.size for index in whole)
            return method.partial_at(Bound.of(f, (point, *args), kwargs), point, positive)

    return partial_of_f


def directional_derivative(f: Callable[..., Any], x: PyTree, v: PyTree, *args: Any, method: Method = _AUTODIFF) -> PyTree:
    """The derivative of f along v: d/dt f(x + t v) at t = 0. The length of v counts; scale it to one for a slope per unit of length.

    Args:
        f: called as ``f(x, *args)``; x and what f returns are pytrees of real arrays.
        x: the point.
        v: the direction, a pytree like x.
        *args: f's other arguments.
        method: where the derivative comes from.

    Returns:
        A pytree like f's output.

    Raises:
        TypeError: f returns something that is not a real array; x is not real.
        ValueError: v is not like x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> float(jd.directional_derivative(lambda x: x[0] * x[1], jnp.array([2.0, 3.0]), jnp.array([1.0, 1.0])))
        5.0
    """
    _check(f, method)
    with explain_tracing_errors():
        bound = _bind(f, (x, *args), {}, 0)
        return method.directional_derivative_at(bound, bound.x, _as_direction(v, bound.x))


def hvp(f: Callable[..., Any], x: PyTree, v: PyTree, *args: Any, method: Method = _AUTODIFF) -> PyTree:
    """The Hessian of a scalar function times a vector, without making the Hessian.

    Args:
        f: called as ``f(x, *args)``; x is a pytree; returns one number.
        x: the point.
        v: the vector, a pytree like x.
        *args: f's other arguments.
        method: where the product comes from.

    Returns:
        A pytree like x.

    Raises:
        TypeError: f does not return one real number; x is not real.
        ValueError: v is not like x.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> jd.hvp(lambda x: x[0] ** 2 * x[1], jnp.array([2.0, 3.0]), jnp.array([1.0, 0.0])).tolist()
        [6.0, 4.0]
    """
    _check(f, method)
    with explain_tracing_errors():
        bound = _bind(f, (x, *args), {}, 0)
        return method.hvp_at(bound, bound.x, _as_direction(v, bound.x))


def _attach(function: Callable[..., Any], estimate: Callable[..., Estimate]) -> Callable[..., Any]:
    """The function that a user gets, with the whole estimate behind it as an attribute."""

    @functools.wraps(estimate)
    def explained(*args: Any, **kwargs: Any) -> Estimate:
        with explain_tracing_errors():
            return estimate(*args, **kwargs)

    function.estimate = explained  # type: ignore[attr-defined]
    return function


def _with_bars(method: Method, name: str) -> Adaptive:
    if not isinstance(method, Adaptive):
        raise TypeError(f"{name}(method={method!r}) has no error bars to estimate; expected method=Adaptive(...)")
    return method


def _check(f: Any, method: Any) -> None:
    if not callable(f):
        raise TypeError(f"f = {f!r}; expected a function")
    if isinstance(method, type) or not isinstance(method, Method):
        hint = closest(method, _METHODS) if isinstance(method, str) else ""
        raise ValueError(f"method = {method!r}; expected one of {', '.join(_METHODS.values())}{hint}")


def _check_argnums(argnums: Any) -> int | tuple[int, ...]:
    if isinstance(argnums, (tuple, list)):
        return tuple(check_count(number, "argnums") for number in argnums)
    return check_count(argnums, "argnums")


def _bind(f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], argnums: Any, has_aux: bool = False) -> Bound:
    """Bind f to its arguments, those to differentiate made real arrays first."""
    prepared = list(args)
    for number in (argnums,) if isinstance(argnums, int) else argnums:
        if number >= len(args):
            raise ValueError(f"argnums = {argnums}; f was called with {len(args)} positional arguments")
        name = "x" if number == 0 else f"argument {number}"
        prepared[number] = as_float_leaves(args[number], name)
        if tree_size(prepared[number]) == 0:
            raise ValueError(f"{name} has no parameters; expected at least one number")
    return Bound.of(f, tuple(prepared), kwargs, argnums, has_aux)


def _as_points(x: Any) -> jax.Array:
    """Points to differentiate at: an array, or nested lists of numbers, which is how a short array is written."""
    points = as_float_leaves(jnp.asarray(x) if isinstance(x, (list, tuple)) else x, "x")
    if not isinstance(points, jax.Array):
        raise TypeError(f"x is a {type(x).__name__}; expected a number or an array of points")
    return points


def _as_direction(v: Any, x: PyTree) -> PyTree:
    return check_like(as_float_leaves(v, "v"), x, "v")
