"""The complex step: f'(x) = Im f(x + i h) / h, without a difference and so without cancellation.

For f analytic at x and real on the real line, f(x + i h) = f(x) + i h f'(x) - h^2 f''(x) / 2 - ..., so that the imaginary part over h is
f' up to h^2 f''' / 6. Nothing is subtracted: h may be so small that this term is far below the last bit. Second derivatives are the
complex step of JAX's first ones.

It holds for holomorphic f only. What is not (abs, max, comparisons, conj, ...) would give a number all the same, and a wrong one: the
program of f is therefore searched, into every branch and loop, before it runs, and whatever is not known to be holomorphic is refused by
its name.

References:
    W. Squire and G. Trapp, Using complex variables to estimate derivatives of real functions, SIAM Review 40 (1998), 110-112.
    J. Martins, P. Sturdza and J. Alonso, The complex-step derivative approximation, ACM TOMS 29 (2003), 245-262.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdiff._types import PyTree
from jaxdiff.derivatives.protocol import Bound, compiled
from jaxdiff.derivatives.steps import nearest_power_of_two
from jaxdiff.derivatives.trees import ravel, tree_size, unravel, unravel_matrix

_STEPS = {32: 2.0**-30, 64: 2.0**-70}
"""h over |x|, by bits: its square is far below eps even where f varies a thousand times faster than x, and h itself far above underflow."""

_ARITHMETIC = """add add_any sub mul div neg integer_pow pow square sqrt rsqrt exp exp2 expm1 log log2 log1p logistic sin cos tan sinh cosh
tanh asin acos atan asinh acosh atanh polynomial"""
_SUMS = "reduce_sum reduce_prod cumsum cumprod dot_general conv_general_dilated triangular_solve"
_SHAPES = """broadcast_in_dim reshape transpose squeeze concatenate slice dynamic_slice dynamic_update_slice pad rev gather scatter
scatter-add scatter-mul scatter_add scatter_mul select_n copy copy_p convert_element_type split optimization_barrier name pvary
expand_dims stack unstack tile"""
HOLOMORPHIC = frozenset(f"{_ARITHMETIC} {_SUMS} {_SHAPES}".split())
"""Primitives of JAX through which a complex step may pass. A list of what is allowed, not of what is not: new primitives are refused."""

_WRAPPERS = "jit pjit closed_call core_call remat remat2 checkpoint custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr"
_CALLS = frozenset(f"{_WRAPPERS} scan while cond".split())
"""Primitives that are what their bodies are."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class ComplexStep:
    """Derivatives by a step along the imaginary axis: first derivatives of f, second ones of autodiff's first.

    f must be holomorphic: made of arithmetic, powers, exponentials, logarithms, trigonometric and hyperbolic functions, sums and matrix
    products. abs, max, min, sign, comparisons, sorting, real, imag and conj are refused. Where f(x) itself is not finite (log of a negative
    number, which complex numbers have), the derivative is NaN; so it is where x is so small that no step below it is a normal number.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> float(jd.derivative(jnp.sin, method=jd.ComplexStep())(0.0))
        1.0
        >>> jd.gradient(jnp.abs, method=jd.ComplexStep())(1.0)
        Traceback (most recent call last):
        TypeError: f uses abs, which is not holomorphic; ...
    """

    is_exact: ClassVar[bool] = True

    def num_evaluations(self, n: int) -> int:
        """One for the value, one complex one for each parameter."""
        return n + 1

    def derivative_at(self, bound: Bound, x: jax.Array, n: int) -> jax.Array:
        """The first derivative; the second as the complex step of a ``jax.jvp``.

        Raises:
            ValueError: n is above two.
            TypeError: f is not holomorphic.
        """
        _check_order(n)
        return _derivative(self, dataclasses.replace(bound, order=n), x)

    def partial_at(self, bound: Bound, x: jax.Array, indices: tuple[int, ...]) -> jax.Array:
        """A first or second partial derivative."""
        _check_order(len(indices))
        return _partial(self, dataclasses.replace(bound, order=tuple(indices)), x)

    def value_and_gradient_at(self, bound: Bound, x: PyTree) -> tuple[tuple[jax.Array, Any], PyTree]:
        """One complex evaluation for each parameter, all in one batch."""
        return _value_and_gradient(self, bound, x)

    def jacobian_at(self, bound: Bound, x: PyTree) -> PyTree:
        """One complex evaluation for each parameter, all in one batch."""
        return _jacobian(self, bound, x)

    def hessian_at(self, bound: Bound, x: PyTree) -> PyTree:
        """The complex step of ``jax.grad``, made symmetric."""
        return _hessian(self, bound, x)

    def hvp_at(self, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
        """The complex step of ``jax.grad`` along v."""
        return _hvp(self, bound, x, v)

    def directional_derivative_at(self, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
        """One complex evaluation, along v."""
        return _directional_derivative(self, bound, x, v)


def check_holomorphic(f: Callable[..., Any], *args: Any) -> None:
    """Whether f, traced with complex arguments, is made of holomorphic primitives only.

    Args:
        f: function of pytrees.
        *args: complex arrays or shapes of them.

    Raises:
        TypeError: naming the primitive that is not holomorphic, or what f says of complex numbers.
    """
    try:
        program = jax.make_jaxpr(f)(*args)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"f does not take complex numbers, which ComplexStep needs ({error}); use Autodiff() or FiniteDifference()"
        ) from error
    for name in _unknown(program.jaxpr):
        raise TypeError(
            f"f uses {name}, which is not holomorphic; a complex step through it is wrong. Use Autodiff() or FiniteDifference()"
        )


def _unknown(jaxpr: Any) -> Iterator[str]:
    """Names of the primitives that take complex numbers and are not known to be holomorphic, in every body of the program.

    Whatever depends on x is complex, unless it came through a primitive that is named here.
    """
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        bodies = list(_bodies(equation.params))
        takes_complex = any(_is_complex(variable) for variable in equation.invars)
        if takes_complex and not (name in HOLOMORPHIC or (name in _CALLS and bodies)):
            yield name
        elif takes_complex and name == "convert_element_type" and not all(_is_complex(variable) for variable in equation.outvars):
            yield "a cast of x to real numbers"
        for body in bodies:
            yield from _unknown(body)


def _bodies(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner


def _is_complex(variable: Any) -> bool:
    dtype = getattr(variable.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating)


def _check_order(n: int) -> None:
    if n > 2:
        raise ValueError(f"n = {n}; expected 1 or 2: a complex step gives first derivatives, and second ones of autodiff's first")


def _complex(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.promote_types(leaf.dtype, jnp.complex64)), tree)


def _step(x: jax.Array) -> jax.Array:
    """h at each coordinate, a power of two, so that dividing by it is exact; zero where none is short enough."""
    info = jnp.finfo(x.dtype)
    scale = jnp.where(x == 0, jnp.ones_like(x), nearest_power_of_two(jnp.abs(x)))
    # Subnormal numbers are flushed to zero: beside tiny x the step may be longer, as long as its square is below eps.
    longest = 2.0 ** -(info.nmant // 2 + 2) * scale
    step = jnp.maximum(_STEPS[info.bits] * scale, jnp.minimum(longest, 64 * info.tiny))
    return jnp.where(step >= info.tiny, step, jnp.zeros_like(step))


def _flat(x: PyTree) -> jax.Array:
    """x as one vector of at least 32 bits."""
    flat = ravel(x)
    return flat.astype(jnp.promote_types(flat.dtype, jnp.float32))


def _moved(x: PyTree, flat: jax.Array, offset: jax.Array) -> PyTree:
    """x + i offset, in the structure of x."""
    return unravel(jax.lax.complex(flat, offset), jax.eval_shape(_complex, x))


def _holomorphic(f: Callable[[PyTree], PyTree], x: PyTree) -> Callable[[PyTree], PyTree]:
    check_holomorphic(f, jax.eval_shape(_complex, x))
    return f


def _imaginary(output: PyTree, dtype: Any) -> jax.Array:
    """Imaginary parts, flat: zero where the output does not depend on x."""
    parts = [jnp.ravel(jnp.imag(leaf)).astype(dtype) for leaf in jax.tree.leaves(output)]
    return jnp.concatenate(parts)


def _columns(f: Callable[[PyTree], PyTree], x: PyTree) -> jax.Array:
    """Derivatives of every output with respect to every coordinate, [coordinates, outputs]."""
    flat = _flat(x)
    steps = _step(flat)

    def column(unit: jax.Array) -> jax.Array:
        return _imaginary(f(_moved(x, flat, unit * steps)), flat.dtype) / jnp.sum(unit * steps)

    return jax.vmap(column)(jnp.eye(flat.size, dtype=flat.dtype))


def _along(f: Callable[[PyTree], PyTree], x: PyTree, v: PyTree) -> jax.Array:
    """The derivative of every output along v. The step is the longest that is short for every coordinate."""
    flat = _flat(x)
    direction = ravel(v, flat.dtype)
    size = jnp.abs(direction)
    each = jnp.where(size > 0, _step(flat) / jnp.where(size > 0, nearest_power_of_two(size), 1), jnp.inf)
    step = jnp.min(each, initial=_STEPS[jnp.finfo(flat.dtype).bits])
    return _imaginary(f(_moved(x, flat, step * direction)), flat.dtype) / step


def _where_finite(value: jax.Array, slope: jax.Array) -> jax.Array:
    """The slope, NaN where the real function has no value: complex numbers go where it does not."""
    return jnp.where(jnp.isfinite(value), slope, jnp.nan)


def _output(bound: Bound) -> Callable[[PyTree], Any]:
    return lambda x: bound.with_aux(x)[0]


def _gradient(bound: Bound) -> Callable[[PyTree], PyTree]:
    return jax.grad(_output(bound), holomorphic=True)


@compiled
def _derivative(method: ComplexStep, bound: Bound, x: jax.Array) -> jax.Array:
    point = jnp.zeros((), x.dtype)
    f = _output(bound)
    if bound.order == 2:
        f = lambda z: jax.jvp(_output(bound), (z,), (jnp.ones_like(z),))[1]  # noqa: E731
    f = _holomorphic(f, point)

    def at(point: jax.Array) -> jax.Array:
        slope = _columns(f, point)[0, 0]
        return _where_finite(bound.scalar(point)[0], slope).astype(x.dtype)

    return jax.vmap(at)(x.reshape(-1)).reshape(x.shape)


@compiled
def _partial(method: ComplexStep, bound: Bound, x: jax.Array) -> jax.Array:
    units = [jnp.zeros_like(x).at[index].set(1) for index in bound.order]
    f = _output(bound)
    if len(units) == 2:
        f = lambda z: jax.jvp(_output(bound), (z,), (units[0].astype(z.dtype),))[1]  # noqa: E731
    slope = _along(_holomorphic(f, x), x, units[-1])[0]
    return _where_finite(bound.scalar(x)[0], slope).astype(x.dtype)


@compiled
def _value_and_gradient(method: ComplexStep, bound: Bound, x: PyTree) -> tuple[tuple[jax.Array, Any], PyTree]:
    value, aux = bound.scalar(x)
    columns = _columns(_holomorphic(_output(bound), x), x)
    return (value, aux), unravel(_where_finite(value, columns[:, 0]), x)


@compiled
def _jacobian(method: ComplexStep, bound: Bound, x: PyTree) -> PyTree:
    output = bound.arrays(x)
    columns = _columns(_holomorphic(_output(bound), x), x)
    return unravel_matrix(_where_finite(ravel(output)[:, None], columns.T), output, x)


@compiled
def _hessian(method: ComplexStep, bound: Bound, x: PyTree) -> PyTree:
    matrix = _columns(_holomorphic(_gradient(bound), x), x)
    assert matrix.shape == (tree_size(x),) * 2
    return unravel_matrix(_where_finite(bound.scalar(x)[0], (matrix + matrix.T) / 2), x, x)


@compiled
def _hvp(method: ComplexStep, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
    product = _along(_holomorphic(_gradient(bound), x), x, v)
    return unravel(_where_finite(bound.scalar(x)[0], product), x)


@compiled
def _directional_derivative(method: ComplexStep, bound: Bound, x: PyTree, v: PyTree) -> PyTree:
    output = bound.arrays(x)
    slopes = _along(_holomorphic(_output(bound), x), x, v)
    return unravel(_where_finite(ravel(output), slopes), output)
