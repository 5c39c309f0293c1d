"""The checker: what it has to catch, whom it may not accuse, and what it says beside.

Every wrong rule here is wrong by construction, every right one is JAX's own; values that reports show are compared with closed forms.
"""

import functools
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.derivatives import DerivativeError

X = np.array([0.3, -1.2, 0.8, 2.0])


def elementwise(f: Any, slope: Any) -> Any:
    wrapped = jax.custom_jvp(f)
    wrapped.defjvp(lambda x, t: (f(x[0]), slope(x[0]) * t[0]))
    return wrapped


def pulled(f: Any, pull: Any) -> Any:
    wrapped = jax.custom_vjp(f)
    wrapped.defvjp(lambda *x: (f(*x), x), lambda x, cotangent: pull(x, cotangent))
    return wrapped


def at(values: Any, dtype: str) -> jax.Array:
    return jnp.asarray(values, dtype)


def verdict(f: Any, *args: Any, **options: Any) -> list[str]:
    return list(jd.check_derivatives(f, *args, **options).verdicts.values())


# Wrong rules


@pytest.mark.parametrize(
    "slope",
    [
        lambda x: 1.05 * jnp.cos(x),
        lambda x: -jnp.cos(x),
        lambda x: 0 * x,
        lambda x: jnp.cos(x).at[2].multiply(1.3),
        lambda x: jnp.cos(x)[::-1],
    ],
    ids=["scaled", "flipped", "zero", "one element", "reversed"],
)
def test_wrong_elementwise_rules_are_caught(slope: Any, dtype: str) -> None:
    report = jd.check_derivatives(elementwise(jnp.sin, slope), at(X, dtype))
    assert report.verdicts == {"x": "fail"}
    (leaf,) = report.leaves
    assert leaf.index is not None
    # sin' = cos
    assert abs(leaf.finite_difference - math.cos(X[leaf.index[0]])) <= leaf.bar + 1e-6 * (dtype == "float32")
    assert abs(leaf.autodiff - leaf.finite_difference) > leaf.bar
    assert leaf.taylor_slope == pytest.approx(1.0, abs=0.1)


def test_one_per_cent_is_caught_in_double_precision() -> None:
    assert verdict(elementwise(jnp.sin, lambda x: 1.01 * jnp.cos(x)), at(X, "float64")) == ["fail"]


def test_what_passes_is_wrong_by_no_more_than_what_the_report_says_goes_unnoticed() -> None:
    # In single precision one-sided quotients still allow this slope, and the central ones' bar does not.
    (leaf,) = jd.check_derivatives(elementwise(jnp.sin, lambda x: 1.0001 * jnp.cos(x)), at([1.0, 2.0], "float32")).leaves
    assert leaf.verdict.value == "fail" or leaf.resolution >= 1e-4


def test_the_wrong_element_is_named() -> None:
    report = jd.check_derivatives(elementwise(jnp.exp, lambda x: jnp.exp(x).at[1, 0].multiply(1.1)), at(X.reshape(2, 2), "float64"))
    assert report.leaves[0].index == (1, 0)
    with pytest.raises(DerivativeError, match=r"fail: .*\[1, 0\], output\[1, 0\].*: autodiff 2\.448"):
        report.raise_if_failed()


def test_zero_beside_a_hundred_times_larger_leaf_is_caught(dtype: str) -> None:
    f = pulled(lambda x, y: 100 * jnp.sum(x**2) + jnp.sum(y**2), lambda args, u: (200 * u * args[0], 0 * args[1]))
    report = jd.check_derivatives(f, at(X, dtype), at(X, dtype), modes="reverse")
    assert list(report.verdicts.values()) == ["pass", "fail"]


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_wrong_rules_with_a_thousand_outputs_are_caught(factor: float) -> None:
    x = at(np.linspace(-2, 2, 1000), "float32")
    assert verdict(elementwise(jnp.sin, lambda x: factor * jnp.cos(x)), x) == ["fail"]


def test_transposed_matrix_is_caught_and_the_vector_beside_it_is_not_accused(dtype: str) -> None:
    m = at(np.array([[1.0, 2.0, -1.0], [0.5, -0.3, 0.2], [3.0, 1.0, 0.7]]), dtype)
    f = pulled(lambda m, v: m @ v, lambda args, u: (jnp.outer(args[1], u), args[0].T @ u))
    assert verdict(f, m, at(X[:3], dtype), modes="reverse") == ["fail", "pass"]


def test_stopped_gradient_is_caught(dtype: str) -> None:
    def f(x, y):
        return jax.lax.stop_gradient(x) * y

    assert jd.check_derivatives(f, at(0.7, dtype), at(1.3, dtype)).verdicts == {"x": "fail", "y": "pass"}


def test_one_wrong_element_among_thousands_is_found_by_bisection() -> None:
    weight = jnp.ones(3000).at[1234].set(-1.0)
    x = at(np.random.default_rng(0).normal(size=3000), "float64")
    report = jd.check_derivatives(pulled(lambda x: jnp.sum(jnp.sin(x)), lambda args, u: (u * weight * jnp.cos(args[0]),)), x)
    assert report.leaves[0].verdict == "fail"
    assert report.leaves[0].index == (1234,)
    assert report.leaves[0].autodiff == pytest.approx(-math.cos(float(x[1234])), rel=1e-12)


def test_forward_and_reverse_that_disagree_are_told_apart() -> None:
    """The jvp is right; its transpose is wrong by less than finite differences beside 1e6 can see."""

    @jax.custom_jvp
    def f(x):
        return 1e6 + jnp.sin(x)

    @f.defjvp
    def _(primals, tangents):
        (x,), (t,) = primals, tangents
        slope = jnp.cos(x)
        solved = jax.custom_derivatives.linear_call(lambda s, t: s * t, lambda s, u: s * u * (1 + 1e-9), slope, t)
        return f(x), solved

    report = jd.check_derivatives(f, jnp.float64(0.3))
    assert report.verdicts == {"x": "fail"}
    assert "forward and reverse" in report.leaves[0].detail
    assert report.consistency == pytest.approx(1e-9, rel=1e-3)


def test_second_derivatives_are_checked_on_request() -> None:
    f = elementwise(jnp.sin, lambda x: jax.lax.stop_gradient(jnp.cos(x)))
    assert verdict(f, 0.7) == ["pass"]
    report = jd.check_derivatives(f, 0.7, order=2)
    assert [(leaf.order, str(leaf.verdict)) for leaf in report.leaves] == [(1, "pass"), (2, "fail")]
    # sin'' = -sin
    assert report.leaves[1].finite_difference == pytest.approx(-math.sin(0.7), abs=1e-8)
    assert verdict(lambda x, y: jnp.sin(x @ y), at(np.eye(2), "float64"), at([1.0, 2.0], "float64"), order=2) == ["pass", "pass"]


def test_a_straight_through_rule_is_seen_through() -> None:
    assert verdict(elementwise(lambda x: jnp.round(x), jnp.ones_like), jnp.float64(0.3)) == ["fail"]


# Right functions


def cross_entropy(z):
    return -jnp.mean(jax.nn.log_softmax(z)[:, 0])


def layer_norm(x):
    return (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (jnp.log, 1e-3),
        (cross_entropy, 3 * X.reshape(2, 2)),
        (layer_norm, X[None]),
        (jax.nn.logsumexp, X + 1e3),
        (jnp.sqrt, np.array([1e-6, 1.0])),
        (jnp.tanh, np.array([-30.0, -5.0, 0.3])),
        (lambda x: 1e6 + jnp.sin(x), X),
        (jnp.floor, 1.5),
        (lambda x: x / jnp.expm1(x), 1e-5),
        (lambda x: jnp.sum(jnp.exp(1j * x)), X),
    ],
    ids=["log", "cross-entropy", "layer norm", "logsumexp", "sqrt", "tanh", "offset", "floor", "x / expm1", "complex"],
)
def test_right_functions_are_not_accused(f: Any, x: Any, dtype: str) -> None:
    report = jd.check_derivatives(f, at(x, dtype))
    assert not report.failed, report
    if dtype == "float64" or f in (jnp.log, cross_entropy, layer_norm, jnp.sqrt, jnp.floor):
        assert set(report.verdicts.values()) == {"pass"}, report
        report.raise_if_failed()


def test_a_slope_hidden_by_rounding_is_inconclusive_and_no_pass() -> None:
    x = at(X, "float32")
    assert verdict(lambda x: 1e6 + jnp.sin(x), x) == ["inconclusive"]
    assert verdict(elementwise(lambda x: 1e6 + jnp.sin(x), lambda x: 0.5 * jnp.cos(x)), x) == ["inconclusive"]


def test_cancellation_that_single_precision_cannot_see_is_settled_in_double() -> None:
    """(1 - cos x) / x^2 at 1e-3: in float32 the cosine moves in steps of 6e-8, and f is smooth, and wrong, between them."""
    with jax.enable_x64(False):
        assert verdict(lambda x: (1 - jnp.cos(x)) / x**2, jnp.float32(1e-3)) == ["inconclusive"]


def test_works_with_64_bits_off() -> None:
    with jax.enable_x64(False):
        assert verdict(jnp.sin, 0.5) == ["pass"]
        assert verdict(elementwise(jnp.sin, lambda x: 1.05 * jnp.cos(x)), jnp.asarray(X, jnp.float32)) == ["fail"]
        with pytest.raises(ValueError, match="needs 64 bits"):
            jd.check_derivatives(jnp.sin, 0.5, precision="float64")


# Kinks and values that are not finite


@pytest.mark.parametrize(
    ("f", "x", "left", "right", "convention"),
    [
        (jax.nn.relu, 0.0, 0.0, 1.0, "the left slope"),
        (lambda x: jnp.max(jnp.stack([x, -2 * x])), 0.0, -2.0, 1.0, "the mean of both slopes"),
        (lambda x: jnp.abs(x - 1), 1.0, -1.0, 1.0, "autodiff takes"),
    ],
)
def test_a_kink_is_named_with_its_slopes_and_the_convention(f: Any, x: float, left: float, right: float, convention: str) -> None:
    report = jd.check_derivatives(f, x)
    (leaf,) = report.leaves
    assert (str(leaf.verdict), report.failed) == ("kink", False)
    assert (leaf.left_slope, leaf.right_slope) == (pytest.approx(left, abs=1e-6), pytest.approx(right, abs=1e-6))
    assert convention in leaf.detail


def test_a_kink_is_found_by_coordinate_and_a_slope_outside_of_it_fails() -> None:
    x = at([1.0, 0.0, -1.0], "float64")
    assert jd.check_derivatives(jax.nn.relu, x).leaves[0].index == (1,)
    assert verdict(elementwise(lambda x: jnp.maximum(x, 0), lambda x: jnp.where(x >= 0, 3.0, 0.0)), 0.0) == ["fail"]


def test_double_where_is_located_by_leaf_coordinate_primitive_and_line() -> None:
    def f(p):
        return jnp.sum(jnp.where(p["x"] > 0, jnp.sqrt(p["x"]), 0.0)) + jnp.sum(p["y"] ** 2)

    report = jd.check_derivatives(f, {"x": at([1.0, 0.0, 2.0], "float64"), "y": at(X, "float64")})
    assert report.failed
    assert report.verdicts == {"p['x']": "non-finite", "p['y']": "pass"}
    leaf = report.leaves[0]
    assert leaf.index == (1,)
    assert "1 of 3 coordinates" in leaf.detail
    assert "div at " in leaf.detail
    assert "test_check.py:" in leaf.detail


def test_no_line_of_the_checker_is_blamed() -> None:
    (leaf,) = jd.check_derivatives(jnp.sqrt, 0.0).leaves
    assert leaf.detail.endswith("it arises in div")


def test_a_jump_is_named_and_is_no_pass() -> None:
    for f, x in ((jnp.floor, 2.0), (lambda x: jnp.where(x > 0.3, x + 1, x), 0.3)):
        (leaf,) = jd.check_derivatives(f, x).leaves
        assert leaf.verdict == "inconclusive"
        assert leaf.detail == "f jumps there, and has no slope to compare with"


def test_f_that_is_not_finite_is_said_to_be() -> None:
    report = jd.check_derivatives(lambda x: jnp.log(x), at([1.0, 0.0], "float64"))
    assert report.verdicts == {"x": "non-finite"}
    assert "f itself is not finite" in report.leaves[0].detail
    assert "log at" in report.leaves[0].detail
    assert "arguments hold" in jd.check_derivatives(lambda x: 2 * x, jnp.array([1.0, jnp.inf])).leaves[0].detail


# Many parameters


def test_of_many_parameters_every_other_step_is_tried_first_and_mistakes_are_caught_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxdiff.derivatives.probes import Probe

    asked, values = [], Probe.values
    monkeypatch.setattr(Probe, "values", lambda self, span, scaling, steps: asked.append(steps.size) or values(self, span, scaling, steps))
    x = jnp.linspace(-1.0, 2.0, 70_000)
    value = lambda x: jnp.mean(jnp.sin(x) * x[::-1])  # noqa: E731
    assert jd.check_derivatives(value, x, directions=2).verdicts == {"x": "pass"}
    full = 30
    assert set(asked) == {full // 2}
    wrong = pulled(value, lambda args, u: (1.1 * jax.grad(value)(args[0]) * u,))
    assert jd.check_derivatives(wrong, x, directions=2).verdicts == {"x": "fail"}
    assert full in asked


# Rules against references


def test_a_rule_is_held_against_its_reference_in_reverse_mode_where_that_is_all() -> None:
    f = pulled(lambda x: jnp.tanh(x), lambda args, u: (u * (1 - jnp.tanh(args[0]) ** 2),))
    report = jd.check_rule(f, jnp.tanh, at(X, "float64"))
    assert not report.failed
    assert report.modes == ("reverse",)
    assert "custom_vjp" in report.notes[0]
    wrong = pulled(lambda x: jnp.tanh(x), lambda args, u: (u * (1 - args[0] ** 2),))
    assert "fail" in jd.check_rule(wrong, jnp.tanh, at(X, "float64")).verdicts.values()


def test_a_rule_of_another_function_differs_in_value() -> None:
    report = jd.check_rule(elementwise(jnp.sin, jnp.cos), lambda x: jnp.sin(x) + 1e-3, at(X, "float64"))
    assert report.verdicts["value"] == "fail"
    assert report.failed
    with pytest.raises(TypeError, match="expected the same shapes"):
        jd.check_rule(jnp.sin, jnp.sum, at(X, "float64"))


def test_a_right_rule_that_loses_its_digits_in_single_precision_is_not_accused() -> None:
    def f(x):
        return (1 - jnp.cos(x)) / x**2

    # The same by a rule: the quotient's derivative, as badly conditioned at 1e-3 as the one that JAX makes.
    rule = elementwise(f, lambda x: jnp.sin(x) / x**2 - 2 * (1 - jnp.cos(x)) / x**3)
    report = jd.check_rule(rule, f, jnp.float32(1e-3))
    assert report.verdicts == {"value": "pass", "x": "inconclusive"}
    wrong = elementwise(f, lambda x: jnp.sin(x) / x**2 + 2 * (1 - jnp.cos(x)) / x**3)
    assert jd.check_rule(wrong, f, jnp.float32(1e-3)).verdicts["x"] == "fail"


def test_only_doubtful_leaves_are_looked_at_again() -> None:
    f = pulled(lambda x, y: jnp.sin(x) + jnp.cos(y), lambda args, u: (1.3 * u * jnp.cos(args[0]), -u * jnp.sin(args[1])))
    report = jd.check_derivatives(f, jnp.float32(0.3), jnp.float32(0.4))
    assert report.verdicts == {"x": "fail", "y": "pass"}
    assert all(leaf.detail == "" for leaf in report.leaves)


def test_a_rule_whose_function_is_detached_from_its_reference_is_caught() -> None:
    """Checked by itself the function below is right: its rule is the derivative of what it computes, not of the reference."""
    f = elementwise(lambda x: jnp.exp(x), jnp.exp)
    assert jd.check_rule(f, lambda x: jnp.exp(x), 0.4).verdicts["x"] == "pass"
    assert jd.check_rule(f, lambda x: jnp.exp(0.4) + 0 * x, 0.4).verdicts == {"value": "pass", "x": "fail"}


# Precision


def test_lost_precision_is_told_from_a_wrong_rule() -> None:
    def f(x):
        return jnp.log1p(jnp.exp(x)) - jnp.log(1 + jnp.exp(x - 1e-3))

    report = jd.check_derivatives(f, jnp.float32(2.0), precision="float64")
    (leaf,) = report.leaves
    # d/dx: s(x) - s(x - 1e-3) with the logistic function s, by its definition in double precision.
    exact = 1 / (1 + math.exp(-2.0)) - 1 / (1 + math.exp(1e-3 - 2.0))
    assert leaf.autodiff == pytest.approx(exact, rel=1e-9)
    assert leaf.verdict == "pass"
    # Two logistic functions near 0.88, each rounded to 2^-25 or so, leave of their difference of 1e-4 no more than this.
    assert 64 * 2.0**-23 < leaf.precision_loss < 4 * 2.0**-24 / exact
    assert "float32 loses precision" in leaf.detail
    wrong = jd.check_derivatives(elementwise(jnp.sin, lambda x: 1.1 * jnp.cos(x)), jnp.bfloat16(0.5), precision="float64")
    assert wrong.leaves[0].verdict == "fail"
    assert "wrong" in wrong.leaves[0].detail


def test_what_half_precision_hides_is_settled_in_double() -> None:
    wrong = jd.check_derivatives(elementwise(jnp.sin, lambda x: 1.1 * jnp.cos(x)), jnp.bfloat16(0.5))
    assert wrong.verdicts == {"x": "fail"}
    assert wrong.leaves[0].finite_difference == pytest.approx(math.cos(0.5), rel=1e-9)
    assert "numbers are those of float64" in wrong.leaves[0].detail
    right = jd.check_derivatives(jnp.sin, jnp.bfloat16(0.5))
    assert right.verdicts == {"x": "inconclusive"}
    assert "the rule passes in float64" in right.leaves[0].detail


# Arguments and modes


def test_other_arguments_are_handed_on_and_argnums_chooses() -> None:
    def f(p, n, flag, nothing, y):
        assert nothing is None
        assert isinstance(flag, bool)
        return jnp.sum(p["a"] ** n) * y * (2 if flag else 1)

    args = ({"a": at(X, "float64"), "k": 3}, 3, True, None, 0.5)
    assert jd.check_derivatives(f, *args).verdicts == {"p['a']": "pass", "y": "pass"}
    assert jd.check_derivatives(f, *args, argnums=-1).verdicts == {"y": "pass"}
    assert verdict(functools.partial(jnp.sum, axis=0), at(X, "float64")) == ["pass"]


def test_a_mode_that_f_does_not_have_is_left_out_and_said() -> None:
    def f(x):
        return jax.lax.while_loop(lambda c: c[1] < 2, lambda c: (jnp.sin(c[0]), c[1] + 1), (x, 0))[0]

    report = jd.check_derivatives(f, 1.3)
    assert (report.modes, report.failed) == (("forward",), False)
    assert "reverse mode was not checked" in report.notes[0]
    with pytest.raises(ValueError, match="no derivative in reverse mode"):
        jd.check_derivatives(f, 1.3, modes="reverse")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jd.check_derivatives(jnp.sin, 3), TypeError, "no floating-point leaf"),
        (lambda: jd.check_derivatives(jnp.sin, 1j), TypeError, "x is complex"),
        (lambda: jd.check_derivatives(lambda x: x > 0, 1.0), TypeError, "expected at least one floating-point output"),
        (lambda: jd.check_derivatives(jnp.sin, 1.0, order=3), ValueError, "order = 3; expected 1 or 2"),
        (lambda: jd.check_derivatives(jnp.sin, 1.0, modes="fwd"), ValueError, "modes = 'fwd'; expected one of 'forward', 'reverse'"),
        (lambda: jd.check_derivatives(jnp.sin, 1.0, directions=0), ValueError, "directions = 0; expected an integer >= 1"),
        (lambda: jd.check_derivatives(jnp.sin, 1.0, argnums=2), ValueError, "argnums = 2; expected positions among 1"),
        (lambda: jd.check_derivatives(jnp.sin, 1.0, precision="float32"), ValueError, "precision = 'float32'; expected one of 'float64'"),
        (lambda: jax.jit(lambda x: jd.check_derivatives(jnp.sin, x))(1.0), TypeError, "cannot be traced"),
    ],
)
def test_mistakes_are_named(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# The report


def test_a_report_is_text_html_rich_and_json() -> None:
    from rich.console import Console

    report = jd.check_derivatives(lambda a, b: a * jnp.abs(b), 2.0, 0.0)
    loaded = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert loaded["verdicts"] == {"a": "pass", "b": "kink"}
    assert loaded["leaves"][1]["left_slope"] == pytest.approx(-2.0)
    console = Console(width=132, file=None, record=True, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(report)
    for text in (str(report), capture.get(), report._repr_html_()):
        assert "kink" in text
        assert "slopes -2 and 2" in text


def test_an_empty_leaf_passes_with_a_remark() -> None:
    report = jd.check_derivatives(lambda x, y: jnp.sum(x) + y, jnp.zeros((0,)), 1.0)
    assert report.verdicts == {"x": "pass", "y": "pass"}
    assert report.leaves[0].detail == "the leaf is empty"
