"""Whether a derivative is right: autodiff against finite differences with an error bar, leaf by leaf of the arguments.

For every leaf, random directions v of that leaf alone are taken, scaled to it, and phi(t) = f(x + t v) is followed on a ladder of steps t.
Its slope at 0, with a bar that is measured (`slopes`), is compared with autodiff's: in forward mode every output of f by itself with the
jvp, in reverse mode the outputs weighted by cotangents with the vjp. Nothing is compared with a constant times the size of the output, and
no leaf hides behind a larger one.

    allowance = bar of the finite difference + rounding of autodiff's slope,

the second measured too: by the slope's scatter at points a few roundings beside x, and the rounding of the sum that it is. A slope fails
where it differs by more, lies outside what one-sided quotients allow, and does so again on a second ladder of other steps. It passes only
where it differs by less and the allowance is below a twentieth of the slope (or of the leaf's largest, where the slope itself is small), or
where what one-sided quotients allow is: an error of five per cent would have been seen. Everything between is inconclusive. A failing
direction is bisected to the coordinate; leaves small enough are tried coordinate by coordinate.

What can be missed: an error below the allowance, reported as ``resolution``; in a leaf too large for single coordinates, one wrong
coordinate whose share of a random direction's slope is below it; errors that cancel in all random directions; an error at other points
than x. Outputs beyond 4,096 are summed in groups with random signs.

References:
    A. Griewank and A. Walther, Evaluating Derivatives, 2nd edition (2008), section 3: jvp and vjp as transposes of one another.
    The Taylor remainder as a test: P. E. Farrell, D. A. Ham, S. W. Funke and M. E. Rognes, Automated derivation of the adjoint of
    high-level transient finite element programs, SIAM Journal on Scientific Computing 35 (2013) C369-C393, section 6.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff._numerics import is_float_dtype, machine_epsilon
from jaxdiff._types import PyTree
from jaxdiff._validation import check_choice, check_count, explain_tracing_errors, is_traced
from jaxdiff.derivatives.inquiry import MODES, Inquiry, scatter
from jaxdiff.derivatives.probes import JITTER, Flattened, Probe, Span
from jaxdiff.derivatives.report import DerivativeReport, LeafVerdict, Verdict


def check_derivatives(
    f: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] | None = None,
    order: int = 1,
    modes: str | Sequence[str] = MODES,
    directions: int = 4,
    seed: int = 0,
    precision: str | None = None,
) -> DerivativeReport:
    """Hold autodiff of f at a point against finite differences with an error bar; a verdict per leaf of the arguments.

    A verdict "kink" is no failure where autodiff lies between the slopes of the two sides. A mode that f does not have (forward through
    ``custom_vjp``, reverse through ``while_loop``) is left out, and the report says so.

    Args:
        f: called as ``f(*args)``; written in JAX; returns a pytree with floating-point leaves. Others of its leaves are ignored.
        *args: pytrees. Floating-point leaves are differentiated, everything else (integers, booleans, None, strings) is handed on. Keyword
            arguments are bound by ``functools.partial``.
        argnums: which positional arguments to differentiate; by default all that hold floating-point leaves.
        order: 1; or 2 for the derivatives of the first derivative too, against finite differences of it.
        modes: "forward", "reverse" or both.
        directions: random directions per leaf.
        seed: of the random directions.
        precision: "float64" to take finite differences of f with its arguments in float64, which tells a wrong rule from lost precision.

    Returns:
        The report; ``report.failed``, ``report.raise_if_failed()``.

    Raises:
        TypeError: no floating-point leaf, or a complex one; f returns no floating-point number; called inside a JAX transformation.
        ValueError: an option out of its range; ``precision="float64"`` while JAX keeps 32 bits; f has none of the modes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jax.custom_jvp
        ... def softplus(x):
        ...     return jnp.logaddexp(x, 0.0)
        >>> softplus.defjvps(lambda tangent, value, x: tangent * jax.nn.sigmoid(-x))  # the sign is wrong
        >>> report = jd.check_derivatives(softplus, jnp.array([-1.0, 0.0, 2.0]))
        >>> report.verdicts, report.leaves[0].index
        ({'x': 'fail'}, (2,))
    """
    modes = _checked(args, order, modes, directions, precision)
    return _check(f, f, args, _Options(argnums, order, modes, directions, seed, precision))


def check_rule(
    rule_function: Callable[..., Any],
    reference: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] | None = None,
    modes: str | Sequence[str] = MODES,
    directions: int = 4,
    seed: int = 0,
) -> DerivativeReport:
    """Hold a function with a derivative rule of its own against the plain function that it claims to differentiate.

    Values have to agree up to the rounding that both show at points a few roundings apart; autodiff of ``rule_function`` is compared with
    finite differences of ``reference``, as in `check_derivatives`, and forward with reverse mode.

    Args:
        rule_function: such as one with ``jax.custom_jvp`` or ``jax.custom_vjp`` (the latter has no forward mode, and the report says so).
        reference: the same function without the rule; called with the same arguments.
        *args: as in `check_derivatives`.
        argnums: as in `check_derivatives`.
        modes: as in `check_derivatives`.
        directions: random directions per leaf.
        seed: of the random directions.

    Returns:
        The report; a difference in value is a verdict "fail" of the leaf called "value".

    Raises:
        TypeError: as `check_derivatives`; or the two functions return different shapes.
        ValueError: as `check_derivatives`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxdiff as jd
        >>> @jax.custom_vjp
        ... def square(x):
        ...     return x * x
        >>> square.defvjp(lambda x: (x * x, x), lambda x, cotangent: (2 * x * cotangent,))
        >>> report = jd.check_rule(square, lambda x: x * x, 3.0)
        >>> report.verdicts, report.modes
        ({'value': 'pass', 'x': 'pass'}, ('reverse',))
    """
    modes = _checked(args, 1, modes, directions, None)
    return _check(rule_function, reference, args, _Options(argnums, 1, modes, directions, seed, None))


@dataclasses.dataclass(frozen=True)
class _Options:
    argnums: int | Sequence[int] | None
    order: int
    modes: tuple[str, ...]
    directions: int
    seed: int
    precision: str | None
    only: frozenset[int] | None = None
    """Numbers of the leaves to look at; None for all."""


def _checked(args: Any, order: int, modes: str | Sequence[str], directions: int, precision: str | None) -> tuple[str, ...]:
    if is_traced(args):
        raise TypeError("derivatives are checked by looking at values, and cannot be traced; call it outside of jit, vmap and grad")
    if order not in (1, 2) or isinstance(order, bool):
        raise ValueError(f"order = {order!r}; expected 1 or 2")
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    for mode in modes:
        check_choice(mode, "modes", MODES)
    if not modes:
        raise ValueError("modes = (); expected 'forward', 'reverse' or both")
    check_count(directions, "directions", minimum=1)
    if precision is not None:
        check_choice(precision, "precision", ("float64",))
        if jnp.result_type(float) != np.float64:
            raise ValueError("precision = 'float64' needs 64 bits, and JAX keeps 32; call jax.config.update('jax_enable_x64', True) first")
    return tuple(mode for mode in MODES if mode in modes)


def _check(rule: Callable[..., Any], reference: Callable[..., Any], args: tuple[Any, ...], options: _Options) -> DerivativeReport:
    low = Flattened(rule, args, options.argnums)
    if options.precision is not None:
        args = jax.tree.map(_as_float64, args)
    flattened = Flattened(rule, args, options.argnums) if options.precision is not None else low
    modes, notes = _available(flattened.vector(rule), flattened.leaves, options.modes)
    if rule is not reference:
        other = Flattened(reference, args, options.argnums)
        if [shape for _, shape in other.output_names] != [shape for _, shape in flattened.output_names]:
            raise TypeError(f"rule_function returns {flattened.output_names}, reference {other.output_names}; expected the same shapes")
    if flattened.is_grouped:
        notes.append("f has more outputs than are compared one by one: they were summed in groups with random signs")
    with explain_tracing_errors():
        leaves, consistency = Inquiry(flattened, rule, reference, modes, options.directions, options.seed, 1).run(options.only)
        if options.precision is not None:
            leaves = _with_precision_loss(leaves, low, flattened, rule, modes, options)
        if rule is not reference:
            leaves = [_compare_values(flattened, rule, reference), *leaves]
        leaves = _reconsidered(leaves, rule, reference, args, options)
        if options.order == 2:
            first = _first_derivative(flattened, rule, modes, options.seed)
            second = Flattened(first, args, options.argnums)
            second_modes, more = _available(second.vector(first), second.leaves, options.modes)
            notes += [f"order 2: {note}" for note in more]
            found, other_consistency = Inquiry(second, first, first, second_modes, options.directions, options.seed, 2).run()
            # The names of f's arguments, not those of the derivative's wrapper.
            leaves += [dataclasses.replace(leaf, name=name) for leaf, name in zip(found, flattened.names, strict=True)]
            consistency = float(np.fmax(consistency, other_consistency))
    name = getattr(rule, "__name__", None) or type(rule).__name__
    return DerivativeReport(name, tuple(leaves), modes, tuple(notes), consistency)


def _available(f: Callable[..., Any], leaves: Any, modes: tuple[str, ...]) -> tuple[tuple[str, ...], list[str]]:
    """The modes that f has, of those asked for; and what to say of the others."""
    kept, notes, reasons = [], [], []
    for mode in modes:
        try:
            if mode == "forward":
                # Traced and lowered: that a custom_vjp has no forward mode shows at the latest there.
                jax.jit(lambda x: jax.jvp(f, (x,), (x,))[1]).lower(leaves)
            else:
                jax.eval_shape(lambda x: _pulled(f, x), leaves)
            kept.append(mode)
        except (TypeError, ValueError, NotImplementedError) as error:
            reasons.append(error)
            notes.append(f"{mode} mode was not checked, f does not have it: {str(error).strip().splitlines()[0]}")
    if not kept:
        raise ValueError(f"f has no derivative in {' or '.join(modes)} mode: {reasons[0]}") from reasons[0]
    return tuple(kept), notes


def _pulled(f: Callable[..., Any], x: Any) -> Any:
    value, pullback = jax.vjp(f, x)
    return pullback(value)


def _as_float64(leaf: Any) -> Any:
    is_array = isinstance(leaf, (np.ndarray, np.generic, jax.Array))
    return jnp.asarray(leaf, np.float64) if is_array and is_float_dtype(leaf.dtype) else leaf


def _compare_values(flattened: Flattened, rule: Callable[..., Any], reference: Callable[..., Any]) -> LeafVerdict:
    """The values of two functions, with what they scatter by at points a few roundings apart as allowance."""
    leaves, vectors = flattened.leaves, [jax.jit(flattened.vector(f)) for f in (rule, reference)]
    signs = [np.where(np.arange(leaf.size).reshape(leaf.shape) % 2, -1.0, 1.0) for leaf in leaves]
    values = np.empty((2, len(JITTER), flattened.num_outputs))
    for k, jitter in enumerate(np.sign(JITTER) * np.minimum(np.abs(JITTER), 5)):
        moved = [
            leaf * (1 + jnp.asarray(jitter * machine_epsilon(leaf.dtype) * s, leaf.dtype)) for leaf, s in zip(leaves, signs, strict=True)
        ]
        for which, vector in enumerate(vectors):
            values[which, k] = np.asarray(vector(tuple(moved)), np.float64)
    allowance = 4 * (scatter(values[0]) + scatter(values[1])) + 16 * flattened.output_epsilon * np.abs(values[1, 0])
    with np.errstate(all="ignore"):
        distance = np.abs(values[0, 0] - values[1, 0])
        is_same = (distance <= allowance) | (values[0, 0] == values[1, 0])
        ratio = np.where(is_same, 0.0, np.where(np.isfinite(distance), distance / np.maximum(allowance, 1e-300), np.inf))
    worst = int(np.argmax(ratio)) if not np.all(is_same) else int(np.argmax(np.where(np.isfinite(distance), distance, 0.0)))
    is_finite = np.isfinite(values[:, 0, worst]).all()
    verdict = Verdict.PASS if np.all(is_same) else Verdict.FAIL if is_finite else Verdict.NON_FINITE
    nan = math.nan
    detail = "" if np.all(is_same) else "the rule's function and the reference differ in value: the numbers are values, not slopes"
    numbers = (float(values[0, 0, worst]), float(values[1, 0, worst]), float(allowance[worst]))
    count = flattened.num_outputs
    output = flattened.output_name(worst)
    return LeafVerdict("value", 0, verdict, "", (), output, *numbers, 0.0, nan, nan, nan, nan, count, 0, nan, detail)


def _first_derivative(flattened: Flattened, rule: Callable[..., Any], modes: tuple[str, ...], seed: int) -> Callable[..., PyTree]:
    """The first derivative as a function of f's arguments: the vjp of fixed random weights, or the jvp where there is no reverse mode."""
    at = flattened.vector(rule)
    random = np.random.default_rng(seed + 2)
    count = flattened.num_outputs
    weights = np.ones(1) if count == 1 else random.choice([-1.0, -0.5, 0.5, 1.0], count)
    tangent = [random.choice([-1.0, -0.5, 0.5, 1.0], leaf.shape) for leaf in flattened.leaves]

    def gradient(*args: Any) -> PyTree:
        leaves = flattened.select(args)
        if "reverse" in modes:
            value, pullback = jax.vjp(at, leaves)
            return {f"d/d {name}": part for name, part in zip(flattened.names, pullback(jnp.asarray(weights, value.dtype))[0], strict=True)}
        along = tuple(jnp.asarray(v, leaf.dtype) for v, leaf in zip(tangent, leaves, strict=True))
        return jax.jvp(at, (leaves,), (along,))[1]

    return gradient


def _reconsidered(
    leaves: list[LeafVerdict], rule: Callable[..., Any], reference: Callable[..., Any], args: tuple[Any, ...], options: _Options
) -> list[LeafVerdict]:
    """An accusation in a lower precision is brought before float64, whether JAX keeps 64 bits elsewhere or not.

    A rule that passes there is right, and what the lower precision gives has lost its digits: that is no failure of the rule. In half
    precision, where hardly a slope stands out of the rounding, what is left open is brought there too. Where f does not run in float64 the
    verdict stands.
    """
    flattened = Flattened(rule, args, options.argnums)
    dtypes, names = {leaf.dtype for leaf in flattened.leaves}, flattened.names
    is_half = any(dtype.itemsize < 4 for dtype in dtypes)
    doubtful = (Verdict.FAIL, Verdict.INCONCLUSIVE) if is_half else (Verdict.FAIL,)
    if options.precision is not None or dtypes == {jnp.dtype("float64")} or not any(leaf.verdict in doubtful for leaf in leaves):
        return leaves
    try:
        with jax.enable_x64(True):
            higher = jax.tree.map(_as_float64, args)
            # Of a network most leaves need no second look; what stands before them is the comparison of values.
            first = len(leaves) - len(names)
            only = frozenset(k - first for k, leaf in enumerate(leaves) if k >= first and leaf.verdict in doubtful)
            again = _check(rule, reference, higher, dataclasses.replace(options, order=1, precision="float64", only=only)).leaves
    except Exception:  # anything that f may raise where it meets a dtype it was not written for
        return leaves
    return [_in_the_light_of(other, leaf, doubtful) for leaf, other in zip(leaves, again, strict=True)]


def _in_the_light_of(higher: LeafVerdict, leaf: LeafVerdict, doubtful: tuple[Verdict, ...]) -> LeafVerdict:
    """A verdict in a low precision, after that in float64."""
    is_right = higher.verdict in (Verdict.PASS, Verdict.KINK)
    if leaf.order != 1 or leaf.verdict not in doubtful:
        return leaf
    if leaf.verdict is Verdict.FAIL and is_right:
        text = f"the rule passes in float64; autodiff or f has lost its digits here ({leaf.detail or 'see the numbers'})"
        return dataclasses.replace(leaf, verdict=Verdict.INCONCLUSIVE, detail=text)
    if leaf.verdict is Verdict.INCONCLUSIVE and higher.verdict is Verdict.FAIL:
        return dataclasses.replace(higher, detail="the numbers are those of float64, where the rule fails")
    if leaf.verdict is Verdict.INCONCLUSIVE and is_right:
        return dataclasses.replace(leaf, detail=f"{leaf.detail}; the rule passes in float64")
    return leaf


def _with_precision_loss(
    verdicts: list[LeafVerdict], low: Flattened, high: Flattened, rule: Callable[..., Any], modes: tuple[str, ...], options: _Options
) -> list[LeafVerdict]:
    """The verdicts in float64, each with how much of the derivative the original precision loses."""
    gradients = []
    for flattened in (low, high):
        vector = flattened.vector(rule)
        probe = Probe(flattened, vector, vector, options.directions, options.seed)
        if "reverse" in modes:
            cotangent = np.random.default_rng(options.seed + 1).choice([-1.0, 1.0], flattened.num_outputs)
            gradients.append(probe.pull(cotangent, 0.0))
        else:
            spans = [Span(k, 0, 0, size) for k, size in enumerate(probe.sizes)]
            gradients.append([np.asarray(probe.slopes(span, "leaf"), np.float64)[0] for span in spans])
    changed = []
    for leaf, of_low, of_high, array in zip(verdicts, *gradients, low.leaves, strict=True):
        epsilon = machine_epsilon(array.dtype)
        size = float(np.linalg.norm(of_high))
        loss = float(np.linalg.norm(of_low - of_high)) / size if size > 0 else 0.0
        dtype, detail, verdict = array.dtype.name, leaf.detail, leaf.verdict
        if verdict is Verdict.FAIL:
            text = "the rule is wrong: it fails in float64 too"
        elif not np.all(np.isfinite(of_low)):
            verdict, text = Verdict.NON_FINITE, f"the rule is right in float64; in {dtype} it is not finite"
        elif loss > 64 * epsilon:
            text = f"the rule is right in float64; {dtype} loses precision: relative error {loss:.1e}, {loss / epsilon:,.0f} epsilons"
        else:
            text = f"{dtype} keeps its precision: relative error {loss:.1e}, {loss / epsilon:.1f} epsilons"
        if verdict in (Verdict.INCONCLUSIVE, Verdict.KINK):
            text = f"in {dtype} relative error {loss:.1e} against float64"
        changed.append(dataclasses.replace(leaf, verdict=verdict, precision_loss=loss, detail="; ".join(filter(None, (detail, text)))))
    return changed
