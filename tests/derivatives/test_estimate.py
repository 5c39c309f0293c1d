"""Estimates with error bars: how often the bars hold, what is said where there is no derivative, and where f is never evaluated."""

import math
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.derivatives import lines
from jaxdiff.derivatives.ladder import OCTAVE, Ladder, tableau_for
from jaxdiff.derivatives.quick import Quick

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import estimate_cases

ORDERS = (1, 2, 3, 4)
STATUS = jd.EstimateStatus
# Both lose a term below the rounding of an intermediate result and are smooth there, so that small steps agree on what is wrong: a limit of
# the method that is counted here, so that it cannot grow unseen.
KNOWN_WRONG = {("float32", "second", 1): ["edge/entropy", "cancellation/large_terms", "cancellation/large_terms"]}


@pytest.fixture(scope="module", autouse=True)
def _one_size() -> Any:
    """Values are judged 32 lines at a time, always: one program per order and precision, which is what most of this file's time is."""
    before = lines._LINES_AT_ONCE
    lines._LINES_AT_ONCE = (32, 32)
    yield
    lines._LINES_AT_ONCE = before


@pytest.fixture(scope="module")
def held_out() -> Callable[[str, str], dict]:
    """Estimates of both splits, each sampled once for all orders."""
    known: dict[tuple[str, str], dict] = {}

    def get(dtype: str, name: str) -> dict:
        if (dtype, name) not in known:
            known[dtype, name] = estimate_cases.estimates(dtype, name)
        return known[dtype, name]

    return get


@pytest.mark.parametrize("name_of_split", ["first", "second"])
@pytest.mark.parametrize("n", ORDERS)
def test_bars_hold_at_99_percent_of_held_out_points(held_out: Callable, dtype: str, name_of_split: str, n: int) -> None:
    cases = [(case, found) for case, found in held_out(dtype, name_of_split)[n] if case.expects is None and n in case.references]
    true = np.array([case.references[n] for case, _ in cases])
    value, bar = (np.array([float(getattr(found, field)) for _, found in cases]) for field in ("value", "error"))
    error, is_silent = np.abs(value - true), ~np.isfinite(bar)
    holds = is_silent | (error <= bar)
    assert np.count_nonzero(holds) >= 0.99 * len(cases), [case.name for (case, _), ok in zip(cases, holds, strict=True) if not ok]
    is_wrong = ~is_silent & (error > 1e-2 * np.abs(true)) & (bar < 0.1 * error)
    wrong = [case.name for (case, _), bad in zip(cases, is_wrong, strict=True) if bad]
    assert all(wrong.count(name) <= KNOWN_WRONG.get((dtype, name_of_split, n), []).count(name) for name in wrong), wrong
    # An answer that says nothing is honest and useless: where f is smooth there is none, elsewhere few.
    is_smooth = np.array([case.smooth for case, _ in cases])
    assert not np.any(is_silent & is_smooth)
    assert np.count_nonzero(is_silent) <= {1: 0.05, 2: 0.07, 3: 0.13, 4: 0.25}[n] * len(cases)
    counted = ~is_silent & (error > 0)
    assert np.median(bar[counted] / error[counted]) <= 30
    if n == 1:
        assert np.median(error[is_smooth] / np.abs(true[is_smooth])) <= {"float64": 1e-14, "float32": 1e-6}[dtype]


@pytest.mark.parametrize("name", ["first", "second"])
def test_kinks_jumps_and_points_outside_are_told_apart(held_out: Callable, dtype: str, name: str) -> None:
    for n in ORDERS:
        told = [
            (case.name, case.expects, STATUS(int(found.status)).name.lower()) for case, found in held_out(dtype, name)[n] if case.expects
        ]
        assert len(told) >= 14
        assert [row for row in told if row[1] != row[2]] == []
        assert all(np.isnan(found.value) and np.isinf(found.error) for case, found in held_out(dtype, name)[n] if case.expects)


def test_many_points_of_one_function_in_every_order(dtype: str) -> None:
    x = np.linspace(-2, 2, 12).reshape(3, 4).astype(dtype)
    derivatives = (np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x), np.sin)
    for n, exact in zip(ORDERS, derivatives, strict=True):
        found = jd.estimate(jnp.sin, jnp.asarray(x), n)
        assert found.value.shape == found.error.shape == found.status.shape == found.num_evals.shape == (3, 4)
        assert found.value.dtype == found.error.dtype == dtype
        assert np.all(np.abs(np.asarray(found.value, np.float64) - exact(x.astype(np.float64))) <= found.error)
        assert np.all(found.status == STATUS.OK)


def test_noise_is_measured_and_said(dtype: str) -> None:
    level = 1e-3
    f = estimate_cases.noisy(level, is_relative=False)(jnp.sin)
    found = jd.estimate(f, jnp.linspace(-1, 1, 12, dtype=dtype))
    assert np.all(found.status == STATUS.NOISY)
    # Uniform in [-level, level): the root mean square is level / sqrt(3).
    assert level / 6 < float(jnp.median(found.noise)) < 2 * level
    assert np.all(np.abs(found.value - jnp.cos(jnp.linspace(-1, 1, 12))) <= found.error)


def test_values_that_say_nothing_are_inconclusive_not_wrong() -> None:
    drowned = jd.estimate(estimate_cases.noisy(1e3, is_relative=False)(jnp.sin), jnp.array([0.3, 1.0]))
    assert np.all(drowned.status == STATUS.INCONCLUSIVE)
    assert np.all(np.isinf(drowned.error))


def test_a_constant_that_ends_at_a_kink_is_not_taken_for_a_grid(dtype: str) -> None:
    found = jd.estimate(jax.nn.relu, jnp.array([-0.1, -0.7, -3.0, -1e-3], dtype))
    assert np.all(found.status == STATUS.OK)
    assert np.all(found.value == 0)


def test_powers_between_one_and_two_at_zero_are_no_kinks_and_within_their_bars(dtype: str) -> None:
    # Alike at every scale: what a window says is the slope of its own size, and not the limit.
    def f(x: jax.Array) -> jax.Array:
        size = jnp.abs(x)
        smooth = [jnp.sign(x) * size**1.2, size**1.2, size**1.2 + x, size**1.5 - 3 * x, jnp.sign(x) * size**1.5]
        return jnp.stack([*smooth, size, size + size**1.5])

    found = jd.estimate(f, jnp.zeros((), dtype))
    true = np.array([0.0, 0.0, 1.0, -3.0, 0.0])
    assert (np.abs(found.value[:5] - true) <= found.error[:5]).all()
    assert not np.isin(found.status[:5], [STATUS.KINK, STATUS.JUMP]).any()
    assert (np.asarray(found.status[5:]) == STATUS.KINK).all()


def test_slopes_of_both_sides_of_a_kink() -> None:
    found = jd.estimate(lambda x: jnp.where(x > 1, 3 * x - 2, x**2), jnp.array([1.0, 0.5]))
    assert found.status.tolist() == [STATUS.KINK, STATUS.OK]
    assert float(found.left[0]) == pytest.approx(2.0, abs=1e-6)
    assert float(found.right[0]) == pytest.approx(3.0, abs=1e-6)
    assert np.isnan(found.left[1])
    assert np.isnan(found.right[1])


def test_one_bad_point_leaves_its_neighbours_bit_for_bit() -> None:
    f = lambda x: jnp.sqrt(x) + jnp.abs(x - 2)  # noqa: E731
    good = jnp.array([0.5, 1.0, 3.0, 4.0])
    bad = good.at[1].set(-1.0).at[2].set(2.0)
    alone, beside = jd.estimate(f, good), jd.estimate(f, bad)
    assert beside.status.tolist() == [STATUS.OK, STATUS.NON_FINITE, STATUS.KINK, STATUS.OK]
    for field in ("value", "error", "step", "noise"):
        np.testing.assert_array_equal(getattr(alone, field)[jnp.array([0, 3])], getattr(beside, field)[jnp.array([0, 3])])


class Recorder:
    """A plain Python function that remembers where it was called."""

    def __init__(self, f: Callable[[float], Any]) -> None:
        self.f, self.points = f, []

    def __call__(self, x: float) -> Any:
        self.points.append(np.array(float(x) if np.ndim(x) == 0 else x))  # raises on a tracer
        return self.f(x)


@pytest.mark.parametrize(("x", "count"), [(0.9, 1), (np.linspace(0.3, 0.97, 70), 70)])
def test_f_is_evaluated_within_bounds_only_and_as_often_as_is_said(x: Any, count: int) -> None:
    f = Recorder(lambda x: math.sqrt(1 - x))
    found = jd.estimate(f, x, scheme=jd.Adaptive(bounds=(0.25, 1.0)))
    points = np.array(f.points)
    assert points.min() >= 0.25
    assert points.max() <= 1.0
    # One more call finds out what f returns.
    assert len(points) == int(jnp.sum(found.num_evals)) + 1
    assert np.all(np.abs(found.value + 0.5 / np.sqrt(1 - np.asarray(x))) <= found.error)
    assert np.all(found.status == STATUS.OK)


def test_at_a_bound_one_side_answers() -> None:
    f = Recorder(math.exp)
    found = jd.estimate(f, 1.0, scheme=jd.Adaptive(bounds=(None, 1.0)))
    assert max(f.points) <= 1.0
    assert abs(float(found.value) - math.e) <= float(found.error) < 1e-9


def test_where_a_host_function_raises_there_is_no_value() -> None:
    found = jd.estimate(math.log, np.array([1e-3, 2.0, -1.0]))
    np.testing.assert_allclose(found.value[:2], [1e3, 0.5], rtol=1e-12)
    assert np.all(np.abs(found.value[:2] - jnp.array([1e3, 0.5])) <= found.error[:2])
    assert found.status[2] == STATUS.NON_FINITE
    assert jd.estimate(lambda x: 1 / float(x), 0.0).status == STATUS.NON_FINITE
    with pytest.raises(KeyError):
        jd.estimate(lambda x: {}[float(x)], 1.0)


def test_evaluations_are_told_truly_where_one_window_is_enough() -> None:
    # A kink in the middle of many smooth points: it costs the quick look and the ladder, they the look only.
    x = jnp.linspace(-1.0, 1.0, 101)
    found = jd.estimate(lambda x: jnp.cos(x) + jnp.abs(x), x)
    look, ladder = Quick.of(x.dtype).num_evaluations, Ladder.for_dtype(x.dtype).num_evaluations
    assert found.status[50] == STATUS.KINK
    assert int(found.num_evals[50]) == look + ladder
    smooth = jd.estimate(jnp.cos, x)
    assert np.all(smooth.num_evals == look)
    assert np.all(np.abs(smooth.value + jnp.sin(x)) <= smooth.error)
    few = jd.estimate(jnp.cos, x[:3])
    assert np.all(few.num_evals == look)


def test_a_constant_over_the_window_may_be_a_plateau_of_a_grid(dtype: str) -> None:
    # tanh to three digits: at 4 its plateau is as wide as the window, and the slope of 1.3e-3 is to be seen beyond it only.
    f = lambda x: jnp.round(jnp.tanh(x) * 1000) / 1000  # noqa: E731
    found = jd.estimate(f, jnp.array([4.0], dtype))
    assert abs(float(found.value[0]) - 1 / math.cosh(4.0) ** 2) <= float(found.error[0])


def test_the_second_call_of_a_hessian_traces_nothing() -> None:
    traces = []

    def f(x: jax.Array) -> jax.Array:
        traces.append(1)
        return jnp.sum(jnp.sin(x) * x[::-1])

    x = jnp.linspace(-1.0, 1.0, 4)
    first = jd.hessian(f, method=jd.Adaptive())(x)
    before = len(traces)
    assert before > 0
    np.testing.assert_array_equal(jd.hessian(f, method=jd.Adaptive())(x), first)
    assert len(traces) == before
    np.testing.assert_allclose(first, jax.hessian(lambda x: jnp.sum(jnp.sin(x) * x[::-1]))(x), atol=1e-12)


def test_host_and_traced_functions_give_the_same(dtype: str) -> None:
    x = jnp.array([0.3, 1.1], dtype)
    traced, host = jd.estimate(lambda x: x * x * 0.5 + x, x), jd.estimate(lambda x: float(x) * float(x) * 0.5 + float(x), x)
    assert host.value.dtype == dtype
    assert np.all(np.abs(traced.value - host.value) <= traced.error + host.error)
    assert np.all(host.error < 1e3 * np.finfo(dtype).eps)


def test_inside_jit_and_with_constants_inside_jit() -> None:
    x = jnp.array([0.0, 0.5, -0.5])
    f = lambda x: jnp.exp(x) + jnp.abs(x)  # noqa: E731
    plain, traced = jd.estimate(f, x), jax.jit(lambda x: jd.estimate(f, x))(x)
    assert traced.status.tolist() == plain.status.tolist() == [STATUS.KINK, STATUS.OK, STATUS.OK]
    assert np.all(np.abs(traced.value[1:] - plain.value[1:]) <= plain.error[1:])
    assert traced.num_evals.tolist() == plain.num_evals.tolist()
    # Where x is a constant of somebody else's trace, everything is staged all the same.
    assert jax.eval_shape(lambda: jd.estimate(f, x)).value.shape == (3,)
    with pytest.raises(Exception, match=r"jax\.numpy"):
        jax.jit(lambda x: jd.estimate(math.exp, x))(1.0)


def model(p: dict, t: jax.Array) -> jax.Array:
    return p["a"] * jnp.exp(-p["rate"][0] * t) + jnp.sin(p["rate"][1] * t)


def test_pytrees_through_gradient_jacobian_and_hessian() -> None:
    t = jnp.linspace(0.0, 2.0, 5)
    p = {"a": jnp.float64(2.0), "rate": jnp.array([0.7, 1.3])}
    loss = lambda p: jnp.sum(model(p, t) ** 2)  # noqa: E731
    method = jd.Adaptive()
    pairs = [
        (jd.gradient(loss, method=method), jax.grad(loss)),
        (jd.jacobian(lambda p: {"y": model(p, t)}, method=method), jax.jacobian(lambda p: {"y": model(p, t)})),
        (jd.hessian(loss, method=method), jax.hessian(loss)),
        (jd.hessian(loss, method=jd.Adaptive(hessian_from="values")), jax.hessian(loss)),
    ]
    for function, exact in pairs:
        found, expected = function.estimate(p), exact(p)
        for field in ("value", "error", "step", "noise", "status", "num_evals"):
            assert jax.tree.structure(getattr(found, field)) == jax.tree.structure(expected)
        for value, error, true in zip(*map(jax.tree.leaves, (found.value, found.error, expected)), strict=True):
            assert value.shape == error.shape == true.shape
            assert np.all(np.abs(value - true) <= error)
            assert np.all(error < 1e-6)
        assert all(np.all(leaf == STATUS.OK) for leaf in jax.tree.leaves(found.status))
        jax.tree.map(np.testing.assert_array_equal, function(p), found.value)


def test_a_kink_in_one_coordinate_is_named_there() -> None:
    found = jd.gradient(lambda x: jnp.sum(jnp.abs(x)), method=jd.Adaptive()).estimate(jnp.array([1.0, 0.0, -2.0]))
    assert found.status.tolist() == [STATUS.OK, STATUS.KINK, STATUS.OK]
    np.testing.assert_allclose(found.value, [1.0, np.nan, -1.0], rtol=1e-12)


def test_chunks_change_memory_not_answers() -> None:
    x = jnp.linspace(-1.0, 1.0, 9)
    f = lambda x: jnp.sum(jnp.sin(x) * x)  # noqa: E731
    whole, chunked = (jd.gradient(f, method=jd.Adaptive(chunk_size=size)).estimate(x) for size in (None, 2))
    assert np.all(np.abs(whole.value - chunked.value) <= whole.error)
    assert whole.status.tolist() == chunked.status.tolist()


def test_precision_of_x_is_kept_without_64_bits() -> None:
    with jax.enable_x64(False):
        found = jd.estimate(jnp.tanh, np.float32([0.3, 1.0]))
        assert found.value.dtype == jnp.float32
        assert np.all(
            np.abs(np.asarray(found.value, np.float64) - 1 / np.cosh(np.float32([0.3, 1.0]).astype(np.float64)) ** 2) <= found.error
        )
        with pytest.warns(jd.PrecisionWarning, match="x is float64"):
            jd.estimate(jnp.tanh, np.float64(0.3))


def test_several_outputs_share_evaluations() -> None:
    found = jd.estimate(lambda x: jnp.stack([jnp.sin(x), x**3]), jnp.array([0.5, 1.0, 2.0]))
    assert found.value.shape == (3, 2)
    x = np.array([0.5, 1.0, 2.0])
    assert np.all(np.abs(found.value - np.stack([np.cos(x), 3 * x**2], 1)) <= found.error)


def test_a_scale_of_its_own_finds_what_the_default_cannot_see() -> None:
    # sin(1e9 x) at 1: the ladder below |x| has few digits of phase left; told the length, it has the derivative.
    with mp.workdps(40):
        true = float(10**9 * mp.cos(mp.mpf(10) ** 9))
    found = jd.estimate(lambda x: jnp.sin(1e9 * x), jnp.array([1.0]), scheme=jd.Adaptive(scale=1e-9))
    assert abs(float(found.value[0]) - true) <= float(found.error[0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: jd.estimate(jnp.sin, 1.0, 0), ValueError, "n = 0"),
        (lambda: jd.estimate(jnp.sin, 1.0, 5), ValueError, "n = 5; expected 1, 2, 3 or 4"),
        (lambda: jd.estimate(jnp.sin, "1"), TypeError, "x"),
        (lambda: jd.estimate(jnp.sin, {"a": 1.0}), TypeError, "x is a dict; expected a number or an array"),
        (lambda: jd.estimate(jnp.sin, 1j), TypeError, "x"),
        (lambda: jd.estimate(jnp.sin, jnp.float16(1)), TypeError, "x is float16; expected float32 or float64"),
        (lambda: jd.estimate(jnp.sin, 3.0, scheme=jd.Adaptive(bounds=(0, 2))), ValueError, r"x = 3.0 at index 0 lies outside its bounds"),
        (lambda: jd.estimate(lambda x: "a", 1.0), TypeError, "f returned 'a'"),
        (lambda: jd.estimate(lambda x: None, 1.0), TypeError, "f returned None"),
        (lambda: jd.Adaptive(scale=-1.0), ValueError, "scale = -1.0; expected positive"),
        (lambda: jd.Adaptive(bounds=(0, 1, 2)), ValueError, "expected a pair"),
        (lambda: jd.Adaptive(bounds=(np.nan, 1)), ValueError, "hold NaN"),
        (lambda: jd.Adaptive(chunk_size=0), ValueError, "chunk_size = 0"),
        (lambda: jd.Adaptive(hessian_from="value"), ValueError, "hessian_from = 'value'"),
    ],
)
def test_bad_input_is_named(call: Callable, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_methods_without_bars_have_no_estimate() -> None:
    with pytest.raises(TypeError, match=r"expected method=Adaptive\(...\)"):
        jd.gradient(jnp.sum, method=jd.FiniteDifference()).estimate(jnp.ones(2))


def test_text_says_value_bar_and_status() -> None:
    text = repr(jd.estimate(jnp.sin, 0.0))
    assert text.startswith("Estimate(1.0 +- ")
    assert text.endswith(f", ok, {Quick.of(np.dtype('float64')).num_evaluations} evaluations)")
    assert "kink, slopes -1 and 1" in repr(jd.estimate(jnp.abs, 0.0))


@pytest.mark.parametrize("extrapolation", ["richardson", "ridders"])
def test_tableaus_give_the_derivative_within_their_bars_and_name_kinks(extrapolation: str) -> None:
    scheme = jd.Adaptive(extrapolation=extrapolation)
    x = jnp.asarray([-1.3, 0.0, 0.7, 2.1])
    found = jd.estimate(lambda x: jnp.exp(jnp.abs(x)), x, scheme=scheme)
    exact = np.array([-math.exp(1.3), np.nan, math.exp(0.7), math.exp(2.1)])
    assert [STATUS(int(status)).name for status in found.status] == ["OK", "KINK", "OK", "OK"]
    smooth = np.array([0, 2, 3])
    error = np.abs(np.asarray(found.value)[smooth] - exact[smooth])
    assert np.all(error <= np.asarray(found.error)[smooth])
    assert np.all(np.asarray(found.error)[smooth] <= 1e-10 * np.abs(exact[smooth]))


@pytest.mark.parametrize("kind", ["odd", "even"])
@pytest.mark.parametrize("extrapolation", ["richardson", "ridders"])
def test_each_further_elimination_is_exact_for_one_more_power(extrapolation: str, kind: str) -> None:
    n = 1 if kind == "odd" else 2
    tableau = tableau_for(kind, n, 6, extrapolation)
    h = np.array([2.0**-octave * node / OCTAVE[0] for octave in range(6) for node in OCTAVE])
    for row, weights in enumerate(tableau.weights):
        for k in range(row + 1):
            # y is half the difference of x^p on both sides, or their mean: h^p, whose derivative at zero is n! for p = n and else zero.
            power = n + 2 * k
            assert weights @ h**power == pytest.approx(math.factorial(n) if k == 0 else 0.0, abs=1e-9 * tableau.absolute[row])


def test_an_unknown_extrapolation_is_named() -> None:
    with pytest.raises(ValueError, match=r"extrapolation = 'romberg'.*richardson"):
        jd.Adaptive(extrapolation="romberg")
