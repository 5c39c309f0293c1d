"""Bad inputs: each gets an error at once that names the argument, its value and what was expected, or a status; never a silent answer.

The numbers in the test names are the rows of ``tests/data/bad_inputs.json``, restricted to what the entries of `minimize` and
`minimize_batch` take. Rows that touch the configuration and the command line are tested beside those.
"""

import json
import pathlib
import subprocess
import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxdiff as jd
from jaxdiff.functions.mgh import load_mgh

SOLVERS = [jd.BFGS(), jd.Newton(), jd.GradientDescent(), jd.FromOptax(optax.adam(0.1))]


def sphere(x: Any) -> jax.Array:
    return jnp.sum((x - 1) ** 2)


def rosenbrock(x: jax.Array) -> jax.Array:
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def in_float32(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process in which JAX keeps its default of 32 bits."""
    prelude = "import numpy as np, jax, jax.numpy as jnp, jaxdiff as jd\nfun = lambda x: jnp.sum((x - 1) ** 2)\n"
    environment = {"PATH": "", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(pathlib.Path(jd.__file__).parents[1])}
    return subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, env=environment, check=False)


def test_row_1_integers_are_promoted() -> None:
    from_integers = jd.minimize(sphere, np.array([1, 2]))
    assert from_integers.x.dtype == jnp.float64
    np.testing.assert_array_equal(from_integers.x, jd.minimize(sphere, np.array([1.0, 2.0])).x)


@pytest.mark.parametrize(
    ("x0", "word"), [("abc", "str"), (None, "None"), (np.array([object()]), "object"), (np.array([True]), "bool"), ({"a": None}, "None")]
)
def test_row_2_what_is_no_number_is_named(x0: Any, word: str) -> None:
    with pytest.raises(TypeError, match=rf"x0.*{word}"):
        jd.minimize(sphere, x0)


def test_row_3_complex_starts_are_refused() -> None:
    with pytest.raises(TypeError, match=r"x0 is complex128; expected real parameters"):
        jd.minimize(sphere, np.array([1.0 + 2.0j]))


@pytest.mark.core
def test_row_4_float64_is_never_narrowed_in_silence() -> None:
    warned = in_float32("import warnings; warnings.simplefilter('error')\njd.minimize(fun, np.ones(2))")
    assert warned.returncode == 1
    assert "PrecisionWarning: x0 is float64 but JAX keeps 32 bits here" in warned.stderr
    refused = in_float32("jd.minimize(fun, [1.0, 2.0], solver=jd.Newton(gtol=1e-9))")
    assert refused.returncode == 1
    assert "ValueError: gtol = 1e-09; expected a finite number >= 1.19e-07, the machine epsilon of float32" in refused.stderr
    fine = in_float32("import warnings; warnings.simplefilter('error')\nprint(jd.minimize(fun, [1.0, 2.0]).x.dtype)")
    assert fine.stdout.strip() == "float32", fine.stderr


@pytest.mark.core
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_rows_5_20_34_a_bad_lane_has_a_status_and_its_neighbours_their_bits(solver: Any) -> None:
    """One of 256 lanes starts at NaN, one has NaN data: theirs are the only results that change, and nobody pays a step for them."""
    starts = np.random.default_rng(0).uniform(-2, 2, (256, 2))
    data = np.random.default_rng(1).uniform(-1, 1, 256)
    fun = lambda x, c: rosenbrock(x) + (x[0] - c) ** 2  # noqa: E731
    options = jd.BatchOptions(lanes=64)
    clean = jd.minimize_batch(fun, starts, data, solver=solver, options=options, max_steps=300)
    starts[7, 1], data[100] = np.nan, np.nan
    bad = jd.minimize_batch(fun, starts, data, solver=solver, options=options, max_steps=300)
    for lane in (7, 100):
        assert bad.status[lane] == jd.Status.NON_FINITE_START
        assert bad.nit[lane] == 0
        np.testing.assert_array_equal(bad.x[lane], starts[lane])
    others = np.delete(np.arange(256), [7, 100])
    for field in ("x", "fun", "jac", "nit", "nfev", "status"):
        np.testing.assert_array_equal(np.asarray(getattr(bad, field))[others], np.asarray(getattr(clean, field))[others])


@pytest.mark.parametrize("tolerance", [0, -1, float("nan"), float("inf"), 1e-30])
def test_row_7_tolerances_that_cannot_be_met_are_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match=r"gtol = .*expected a finite number >= 2.22e-16, the machine epsilon of float64"):
        jd.minimize(sphere, [1.0], solver=jd.Newton(gtol=tolerance))
    if tolerance != 0:
        with pytest.raises(ValueError, match=r"xtol = .*or 0 to switch this test off"):
            jd.minimize(sphere, [1.0], solver=jd.Newton(xtol=tolerance))


@pytest.mark.parametrize("max_steps", [-1, 2.5, True, "100"])
def test_row_8_max_steps_is_an_honest_integer(max_steps: Any) -> None:
    with pytest.raises(ValueError, match=r"max_steps = .*expected an integer >= 0"):
        jd.minimize(sphere, [1.0], max_steps=max_steps)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_row_8_no_steps_is_an_evaluation_of_the_start(solver: Any) -> None:
    result = jd.minimize(sphere, [3.0, 4.0], max_steps=0, solver=solver)
    assert result.status == jd.Status.MAX_STEPS
    assert (result.nit, float(result.fun)) == (0, 13.0)
    np.testing.assert_array_equal(result.x, [3.0, 4.0])


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_row_9_an_empty_batch_has_an_empty_result(solver: Any) -> None:
    result = jd.minimize_batch(sphere, np.zeros((0, 3)), solver=solver)
    assert result.x.shape == result.jac.shape == (0, 3)
    assert result.status.shape == result.fun.shape == (0,)
    assert result.x.dtype == jnp.float64


def test_row_10_no_parameters_is_an_error() -> None:
    for call in (
        lambda: jd.minimize(sphere, np.zeros(0)),
        lambda: jd.minimize_batch(sphere, np.zeros((4, 0))),
        lambda: jd.minimize(sphere, {}),
    ):
        with pytest.raises(ValueError, match="x0 has no parameters"):
            call()


def test_row_11_ragged_starts_name_the_first_offending_row() -> None:
    with pytest.raises(ValueError, match=r"x0\[2\] has 3 numbers where x0\[0\] has 2"):
        jd.minimize_batch(sphere, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0, 7.0]])


def test_row_12_batches_of_different_length_name_both_shapes_and_the_axis() -> None:
    fun = lambda x, y: jnp.sum((x - y[0]) ** 2)  # noqa: E731
    with pytest.raises(
        ValueError, match=r"x0 of shape \(4, 2\) has 4 problems along axis 0, but args\[0\] of shape \(5, 3\) has 5 along axis 0"
    ):
        jd.minimize_batch(fun, np.zeros((4, 2)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match=r"in_axes = \(0,\) has 1 entries; expected 2"):
        jd.minimize_batch(fun, np.zeros((4, 2)), np.zeros((4, 3)), in_axes=(0,))
    with pytest.raises(ValueError, match=r"args\[0\] of shape \(4, 3\) has no axis 2"):
        jd.minimize_batch(fun, np.zeros((4, 2)), np.zeros((4, 3)), in_axes=(0, 2))
    with pytest.raises(ValueError, match="expected at least one of them to count the problems"):
        jd.minimize_batch(fun, np.zeros((4, 2)), np.zeros((4, 3)), in_axes=None)


@pytest.mark.parametrize(
    ("fun", "message"),
    [
        (lambda x: (x - 1) ** 2, r"array of shape \(2,\) and dtype float64.*least_squares"),
        (lambda x: None, "None"),
        (lambda x: 3, "3 of type int"),
        (lambda x: jnp.sum(x > 0), "dtype int"),
        (lambda x: (jnp.sum(x), 1.0), "tuple"),
    ],
)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_row_13_an_objective_returns_one_real_number(fun: Any, message: str, solver: Any) -> None:
    with pytest.raises(TypeError, match=message):
        jd.minimize(fun, [1.0, 2.0], solver=solver)


@pytest.mark.core
def test_row_16_branching_on_a_traced_value_says_where_and_what_instead() -> None:
    def fun(x: jax.Array) -> jax.Array:
        return x[0] if x[0] > 0 else -x[0]

    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        jd.minimize(fun, [1.0])
    notes = " ".join(caught.value.__notes__)
    assert "jnp.where" in notes
    assert "lax.cond" in notes
    assert "test_bad_inputs.py:" in notes


@pytest.mark.core
def test_row_17_numpy_on_a_traced_value_says_to_use_jax_numpy() -> None:
    with pytest.raises(jax.errors.TracerArrayConversionError) as caught:
        jd.minimize(lambda x: np.sin(x[0]), [1.0])
    notes = " ".join(caught.value.__notes__)
    assert "jax.numpy" in notes
    assert "test_bad_inputs.py:" in notes


def test_row_18_the_users_own_exception_reaches_the_caller() -> None:
    def fun(x: jax.Array) -> jax.Array:
        raise KeyError("no such table")

    with pytest.raises(KeyError, match="no such table") as caught:
        jd.minimize(fun, [1.0])
    assert any("test_bad_inputs.py" in str(entry.path) for entry in caught.traceback)


@pytest.mark.parametrize("solver", [jd.BFGS(), jd.Newton(), jd.GradientDescent()], ids=lambda s: s.name)
def test_row_21_a_step_out_of_the_domain_is_taken_back(solver: Any) -> None:
    result = jd.minimize(lambda x: (jnp.log(x) - 1) ** 2, 0.05, solver=solver, max_steps=2000)
    assert result.success
    assert float(result.x) == pytest.approx(np.e, rel=1e-6)


@pytest.mark.parametrize("solver", [jd.BFGS(), jd.Newton()], ids=lambda s: s.name)
def test_row_24_rank_one_problems_end_at_their_published_minimum(solver: Any) -> None:
    """MGH 33 and 34: the minimum is reached on a whole plane, and the Hessian has rank one."""
    names = {"Linear, rank 1 (n=10,m=20)": 190 / 41, "Linear, rank 1 with zero columns and rows (n=10,m=20)": 454 / 74}
    residuals = [load_mgh(name).residual for name in names]
    branches = [lambda x, r=r: jnp.sum(r(x) ** 2) for r in residuals]
    for number, minimum in enumerate(names.values()):
        result = jd.minimize(lambda x, k: jax.lax.switch(k, branches, x), np.ones(10), number, solver=solver)
        assert np.isfinite(result.x).all()
        assert result.success or result.status == jd.Status.STALLED
        assert float(result.fun) == pytest.approx(minimum, rel=1e-6)


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ((1.0, -1.0), ValueError, r"bounds: at index 0 the lower bound 1.0 exceeds the upper bound -1.0"),
        ((None, [2.0, np.nan]), ValueError, r"the upper bound at index 1 is nan"),
        ((np.zeros(3), None), ValueError, r"the lower bound has a leaf of shape \(3,\); expected a number or \(2,\)"),
        (({"a": 0.0}, None), ValueError, r"the lower bound is a pytree like .*expected one value, or a pytree like x0"),
        ((None, [9.0, 0.5]), ValueError, r"x0 = 1.0 at index 1 lies outside its bounds \[-inf, 0.5\]"),
        (("low", None), TypeError, r"the lower bound = 'low' is a str; expected a real number"),
        (3.0, TypeError, r"bounds = 3.0; expected a pair \(lower, upper\)"),
        ([(0.0, 1.0), (0.0, 1.0), (0.0, 1.0)], TypeError, r"expected a pair \(lower, upper\)"),
    ],
)
def test_row_31_bounds_that_make_no_sense_name_index_and_values(bounds: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jd.minimize(sphere, [1.0, 1.0], bounds=bounds)


def test_row_31_a_batch_names_the_problem_too() -> None:
    with pytest.raises(ValueError, match=r"x0 = 1.0 at problem 1, index 0 lies outside its bounds \[2.0, inf\]"):
        jd.minimize_batch(sphere, np.ones((3, 2)), bounds=(np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0]]), None))
    with pytest.raises(
        ValueError, match=r"the upper bound has a leaf of shape \(4, 2\); expected a number or \(2,\), as in x0, or \(3, 2\)"
    ):
        jd.minimize_batch(sphere, np.ones((3, 2)), bounds=(None, np.ones((4, 2))))
    own = types.SimpleNamespace(init=None, tolerance_names=())
    with pytest.raises(ValueError, match=r"solver = SimpleNamespace\(...\) takes no bounds; expected LevenbergMarquardt"):
        jd.least_squares(lambda x: x - 1, [1.0], bounds=(0.0, None), solver=own)


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: s.name)
def test_row_26_a_start_at_the_minimiser_takes_no_step(solver: Any) -> None:
    for fun in (sphere, lambda x: 4.0 + 0 * jnp.sum(x)):
        result = jd.minimize(fun, [1.0, 1.0], solver=solver)
        assert result.status == jd.Status.CONVERGED_GRADIENT
        assert result.nit == 0


@pytest.mark.parametrize("lanes", [0, -4, 1.5])
def test_row_39_lanes_are_a_positive_integer(lanes: Any) -> None:
    with pytest.raises(ValueError, match=r"lanes = .*expected an integer >= 1"):
        jd.BatchOptions(lanes=lanes)


def test_row_39_more_lanes_than_problems_are_clipped() -> None:
    result = jd.minimize_batch(sphere, np.zeros((3, 2)), options=jd.BatchOptions(lanes=1000))
    np.testing.assert_allclose(result.x, 1.0)


def test_row_40_unknown_words_name_the_nearest_known_one() -> None:
    with pytest.raises(ValueError, match=r"solver = 'newtn'; expected an instance such as Newton\(\).*did you mean 'newton'"):
        jd.minimize(sphere, [1.0], solver="newtn")
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'maxiter'; did you mean 'max_steps'"):
        jd.minimize(sphere, [1.0], maxiter=10)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'histroy'; did you mean 'history'"):
        jd.minimize_batch(sphere, [[1.0]], histroy=True)
    with pytest.raises(TypeError, match=r"solver = Newton is a class; expected an instance"):
        jd.minimize(sphere, [1.0], solver=jd.Newton)
    with pytest.raises(TypeError, match=r"derivatives = 'autodiff'; expected one of Autodiff"):
        jd.minimize(sphere, [1.0], derivatives="autodiff")
    with pytest.raises(ValueError, match=r"line_search = 'backtrack'.*did you mean 'backtracking'"):
        jd.GradientDescent(line_search="backtrack")
    with pytest.raises(ValueError, match=r"mode = 'lockstp'.*did you mean 'lockstep'"):
        jd.BatchOptions(mode="lockstp")


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), float("inf"), "fast", True])
def test_a_learning_rate_is_a_positive_number(rate: Any) -> None:
    with pytest.raises(ValueError, match=r"learning_rate = .*expected a positive, finite number"):
        jd.GradientDescent(learning_rate=rate)


def test_data_that_is_no_data_is_named() -> None:
    with pytest.raises(TypeError, match=r"args\[0\]\['name'\] is a str; expected numbers or arrays"):
        jd.minimize(lambda x, d: sphere(x), [1.0], {"name": "abc"})
    with pytest.raises(TypeError, match=r"raise_if_failed\(\) needs values"):
        jax.jit(lambda x: jd.minimize(sphere, x, throw=True).x)(jnp.ones(2))


def test_the_rows_tested_here_are_rows_of_the_table() -> None:
    rows = {item["id"] for item in json.loads((pathlib.Path(__file__).parent / "data" / "bad_inputs.json").read_text())["items"]}
    assert {1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18, 20, 21, 24, 26, 31, 34, 38, 39, 40} <= rows


@pytest.mark.parametrize("solver", [jd.BFGS(), jd.Newton()], ids=lambda s: s.name)
def test_row_38_a_matrix_beyond_memory_is_refused_with_its_size(solver: Any) -> None:
    with pytest.raises(ValueError, match=r"keeps a matrix of 200000 x 200000 for each of 1 problems, 298 GiB; expected at most 8 GiB"):
        jd.minimize(sphere, np.zeros(200_000), solver=solver)
