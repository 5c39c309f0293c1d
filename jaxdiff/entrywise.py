"""Functions that act on each entry of arrays by itself, read operation by operation and shared out to loops that run fast.

XLA's CPU compiler fuses such a function into every loop that uses it, where strided data keep it from vector instructions, and several
transcendental functions in one loop spill its registers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from jaxdiff.linalg import in_one_loop, together

CALLS = {"pjit": "jaxpr", "jit": "jaxpr", "closed_call": "call_jaxpr"}
FLAT = {"lt", "le", "gt", "ge", "eq", "ne", "sign", "floor", "ceil", "round", "is_finite", "stop_gradient", "and", "or", "not"}
LINEAR = {"neg", "copy", "copy_p", "real", "convert_element_type"}
CHEAP = {"integer_pow", "square", "max", "min", "abs", "clamp"}
# fmt: off
COSTLY = frozenset(
    {"exp", "exp2", "log", "log1p", "expm1", "sin", "cos", "tan", "tanh", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh", "atanh",
     "logistic", "sqrt", "rsqrt", "cbrt", "pow", "div", "atan2", "erf", "erfc", "erf_inv", "lgamma", "digamma"}
)
# fmt: on
TRANSCENDENTAL = COSTLY - {"div", "sqrt", "rsqrt"}
"""What takes a loop of its own."""

ELEMENTWISE = FLAT | LINEAR | CHEAP | COSTLY | {"add", "add_any", "sub", "mul", "select_n"}


def bind(equation: Any, values: Sequence[Any]) -> Any:
    """The operation at these values."""
    return equation.primitive.bind(*values, **equation.primitive.get_bind_params(equation.params))


def is_elementwise(jaxpr: Any) -> bool:
    """Whether a program acts on each entry by itself."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in CALLS or name == "custom_jvp_call":
            inner = equation.params[CALLS.get(name, "call_jaxpr")]
            if not is_elementwise(inner.jaxpr):
                return False
        elif name not in ELEMENTWISE and not (name == "broadcast_in_dim" and equation.invars[0].aval.shape == ()):
            return False
    return True


def written_out(function: Callable[..., tuple[jax.Array, ...]], arrays: Sequence[jax.Array]) -> tuple[jax.Array, ...]:
    """A function that acts on each entry by itself, at arrays of one shape, its outputs written out by loops of their own.

    Every loop over the samples would otherwise compute them anew, and with them what they are functions of.

    Args:
        function: value and derivatives of one operation; where it is more than that, it is called as it is.
        arrays: of one shape.

    Example:
        >>> [float(value[0]) for value in written_out(lambda x: (jnp.exp(x), -jnp.exp(x)), [jnp.zeros(1)])]
        [1.0, -1.0]
    """
    closed, shape = jax.make_jaxpr(function)(*arrays), arrays[0].shape
    if not is_elementwise(closed.jaxpr) or any(np.shape(const) not in ((), shape) for const in closed.consts):
        return together(*function(*arrays))
    # Written out too: what is fused in from strided data is not vectorised together with a logarithm.
    given = [together(value, value)[0] for value in (jnp.broadcast_to(value, shape) for value in (*closed.consts, *arrays))]
    numbers = jax.make_jaxpr(lambda *numbers: _at_one_entry(closed.jaxpr, numbers, {}))(
        *(jnp.zeros((), value.dtype) for value in given)
    ).jaxpr
    # One transcendental function after the other, each in a loop of its own: the constants of several do not fit the registers.
    level: dict[Any, int] = dict.fromkeys(numbers.invars, 0)
    stages: dict[int, list[Any]] = {}
    for equation in numbers.eqns:
        depth = max((level[atom] for atom in equation.invars if not isinstance(atom, Literal)), default=0)
        if equation.primitive.name in TRANSCENDENTAL:
            stages.setdefault(depth, []).extend(equation.outvars)
            depth += 1
        level.update(dict.fromkeys(equation.outvars, depth))
    known = dict(zip(numbers.invars, given, strict=True))

    def stage(outputs: Sequence[Any]) -> list[jax.Array]:
        inputs, equations = list(known), _needed([equation for equation in numbers.eqns if equation.outvars[0] not in known], outputs)
        return in_one_loop(lambda *given: _at(equations, inputs, given, outputs), *known.values(), flattens=True)

    for outputs in list(stages.values())[:-1]:
        known.update(zip(outputs, stage(outputs), strict=True))
    return tuple(stage(numbers.outvars))


def _needed(equations: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
    """Those of the operations that these outputs need, in order."""
    wanted, kept = {atom for atom in outputs if not isinstance(atom, Literal)}, []
    for equation in reversed(equations):
        if wanted.intersection(equation.outvars):
            kept.append(equation)
            wanted.update(atom for atom in equation.invars if not isinstance(atom, Literal))
    return kept[::-1]


def _at(equations: Sequence[Any], inputs: Sequence[Any], numbers: Sequence[jax.Array], outputs: Sequence[Any]) -> list[jax.Array]:
    """The outputs of operations on numbers."""
    known = dict(zip(inputs, numbers, strict=True))
    look_up = lambda atom: jnp.asarray(_literal(atom)) if isinstance(atom, Literal) else known[atom]  # noqa: E731
    for equation in equations:
        known[equation.outvars[0]] = bind(equation, [look_up(atom) for atom in equation.invars])
    return [look_up(atom) for atom in outputs]


def _at_one_entry(jaxpr: Any, numbers: Sequence[Any], made: dict[Any, Any], is_derivative: bool = True) -> list[Any]:
    """A program that acts on each entry by itself, at one entry; each operation once, and nothing multiplied by a derivative that is zero.

    A rule for derivatives is handed zeros for what does not depend on the parameters. The compiler may not drop them, since 0 * inf is not
    0; what they are multiplied by, an exponential say, would be computed for nothing.
    """
    known: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), numbers, strict=True))
    look_up = lambda atom: _literal(atom) if isinstance(atom, Literal) else known[atom]  # noqa: E731
    is_zero = lambda value: isinstance(value, np.generic) and value == 0  # noqa: E731
    for equation in jaxpr.eqns:
        name, values = equation.primitive.name, [look_up(atom) for atom in equation.invars]
        key = (name, str(equation.params), *((value, value.dtype) if isinstance(value, np.generic) else id(value) for value in values))
        if name in CALLS:
            inner = equation.params[CALLS[name]]
            outputs = _at_one_entry(inner.jaxpr, [*inner.consts, *values], made, is_derivative)
        elif name == "custom_jvp_call":
            inner = equation.params["call_jaxpr"]
            outputs = _at_one_entry(inner.jaxpr, [*inner.consts, *values], made, False)
        elif name == "broadcast_in_dim":
            outputs = values
        elif is_derivative and name == "mul" and any(map(is_zero, values)):
            outputs = [next(filter(is_zero, values))]
        elif is_derivative and name in ("add", "add_any") and any(map(is_zero, values)):
            outputs = [values[1] if is_zero(values[0]) else values[0]]
        else:
            if key not in made:
                made[key] = bind(equation, [jnp.asarray(value) for value in values])
            outputs = [made[key]]
        known.update(zip(equation.outvars, outputs, strict=True))
    return [jnp.asarray(look_up(atom)) for atom in jaxpr.outvars]


def _literal(atom: Any) -> Any:
    return np.asarray(atom.val, atom.aval.dtype)[()]
