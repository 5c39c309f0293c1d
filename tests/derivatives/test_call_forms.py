"""The public calls: JAX's forms whatever the method, and messages that say what is wrong with an input."""

import functools
import inspect
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.derivatives import Method

METHODS = [
    jd.Autodiff(),
    jd.Autodiff(mode="forward"),
    jd.Autodiff(mode="reverse"),
    jd.FiniteDifference(order=4),
    jd.FiniteDifference(order=4, hessian_from="values"),
    jd.Supplied(),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=str)


def close(ours, theirs, allowed: float = 1e-7) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=allowed, atol=allowed), ours, theirs)


def f(x: jax.Array, y: dict, power: int = 2) -> jax.Array:
    return jnp.sum(jnp.sin(x) ** power) * y["a"] + jnp.sum(x) * y["b"][0]


X, Y = jnp.asarray([0.3, 1.1, -0.7]), {"a": jnp.asarray(2.0), "b": jnp.asarray([0.5, 1.0])}


@pytest.mark.core
@every_method
def test_gradient_has_the_form_of_jax_grad(method: Method) -> None:
    close(jd.gradient(f, method=method)(X, Y), jax.grad(f)(X, Y))
    close(jd.value_and_gradient(f, method=method)(X, Y, power=3), jax.value_and_grad(f)(X, Y, power=3))
    if not isinstance(method, jd.Supplied):
        close(jd.gradient(f, (0, 1), method=method)(X, Y), jax.grad(f, (0, 1))(X, Y))
        close(jd.gradient(f, 1, method=method)(X, Y), jax.grad(f, 1)(X, Y))


@every_method
def test_aux_is_passed_on(method: Method) -> None:
    with_aux = lambda x: (jnp.sum(x**2), {"twice": 2 * x})  # noqa: E731
    close(jd.gradient(with_aux, has_aux=True, method=method)(X), (2 * X, {"twice": 2 * X}))
    close(jd.value_and_gradient(with_aux, has_aux=True, method=method)(X), ((jnp.sum(X**2), {"twice": 2 * X}), 2 * X))


@every_method
def test_jacobian_has_the_form_of_jax_jacobian(method: Method) -> None:
    wide = lambda x, y: {"s": jnp.outer(jnp.sin(x), x[:2]), "t": y["a"] * x[0]}  # noqa: E731
    close(jd.jacobian(wide, method=method)(X, Y), jax.jacrev(wide)(X, Y))
    if not isinstance(method, jd.Supplied):
        tall = lambda x, y: jnp.sum(x) * y["a"]  # noqa: E731
        close(jd.jacobian(tall, (0, 1), method=method)(X, Y), jax.jacrev(tall, (0, 1))(X, Y))


@every_method
def test_hessian_and_its_products_have_the_form_of_jax_hessian(method: Method) -> None:
    close(jd.hessian(f, method=method)(X, Y), jax.hessian(f)(X, Y), 1e-6)
    v = jnp.asarray([1.0, -2.0, 0.5])
    close(jd.hvp(f, X, v, Y, method=method), jax.hessian(f)(X, Y) @ v, 1e-6)
    close(jd.directional_derivative(f, X, v, Y, method=method), jnp.vdot(jax.grad(f)(X, Y), v))


@every_method
def test_nth_derivatives_and_partials(method: Method) -> None:
    """Exp is its own derivative; x^3 y^2 has 6 x y^2, 6 x^2 y and 12 x y."""
    points = jnp.asarray([[0.0, 0.5], [1.0, -1.0]])
    for n in (1, 2, 3):
        close(jd.derivative(lambda x, a: jnp.exp(a * x), n, method=method)(points, 2.0), 2.0**n * jnp.exp(2 * points), 10.0 ** (2 * n - 11))
    product = lambda x: x[0] ** 3 * x[1] ** 2  # noqa: E731
    at = jnp.asarray([1.5, 2.0])
    for indices, exact in (((0, 0), 36.0), ((0, -1), 27.0), ((1, 0, 0), 36.0)):
        close(jd.partial(product, *indices, method=method)(at), jnp.asarray(exact), 1e-6)


@every_method
def test_methods_trace_and_hash(method: Method) -> None:
    assert isinstance(method, Method)
    assert hash(method) == hash(type(method)(**{k: getattr(method, k) for k in inspect.signature(type(method)).parameters}))
    points = jnp.stack([X, 2 * X], axis=-1)
    solve = jax.jit(lambda p, m: jax.vmap(jd.value_and_gradient(f, method=m), in_axes=(-1, None), out_axes=-1)(p, Y), static_argnums=1)
    value, gradient = solve(points, method)
    close(gradient, jnp.stack([jax.grad(f)(X, Y), jax.grad(f)(2 * X, Y)], axis=-1))
    assert value.shape == (2,)


@pytest.mark.core
@every_method
def test_float32_stays_float32(method: Method) -> None:
    x, y = X.astype("float32"), jax.tree.map(lambda leaf: leaf.astype("float32"), Y)

    @jax.jit
    def everything(x: jax.Array, y: dict) -> tuple:
        return (
            jd.value_and_gradient(f, method=method)(x, y),
            jd.hessian(f, method=method)(x, y),
            jd.jacobian(jnp.sin, method=method)(x),
            jd.derivative(jnp.sin, 2, method=method)(x),
            jd.derivative(lambda x: 2.0 * x, method=method)(np.float32(1.0)),
            jd.hvp(f, x, x, y, method=method),
        )

    results = everything(x, y)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(results)} == {"float32"}


def test_autodiff_jacobian_takes_the_mode_with_fewer_passes() -> None:
    """Forward mode passes through a while_loop, reverse mode does not: which one was taken shows in what fails."""

    def looped(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda s: jnp.max(s) < 10, lambda s: 2 * s, x)

    tall = lambda x: jnp.concatenate([looped(x), looped(x)])  # noqa: E731
    assert jd.jacobian(tall)(jnp.ones(2)).shape == (4, 2)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jd.jacobian(lambda x: looped(x)[0])(jnp.ones(3))
    assert jd.jacobian(lambda x: looped(x)[0], method=jd.Autodiff(mode="forward"))(jnp.ones(3)).shape == (3,)
    np.testing.assert_allclose(jd.gradient(lambda x: looped(x)[0], method=jd.Autodiff(mode="forward"))(jnp.ones(3)), [16.0, 0.0, 0.0])


def test_forward_mode_differentiates_twice_what_reverse_cannot() -> None:
    looped = lambda x: jax.lax.while_loop(lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] * x), (0, jnp.ones_like(x)))[1]  # noqa: E731
    f = lambda x: looped(x[0]) * x[1]  # x^3 y  # noqa: E731
    np.testing.assert_allclose(jd.hessian(f, method=jd.Autodiff("forward"))(jnp.asarray([2.0, 5.0])), [[60.0, 12.0], [12.0, 0.0]])


# Inputs that are wrong, or only look so.


@pytest.mark.core
@every_method
def test_integers_are_promoted(method: Method) -> None:
    gradient = jd.gradient(lambda x: jnp.sum(x**3), method=method)
    np.testing.assert_allclose(gradient(np.array([1, 2])), [3.0, 12.0], rtol=1e-6)
    assert gradient(np.array([1, 2])).dtype == jnp.float64
    np.testing.assert_allclose(jd.hessian(lambda x: jnp.sum(x**3), method=method)(jnp.asarray([1, 2])), np.diag([6.0, 12.0]), atol=1e-5)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ("abc", "x = 'abc' is a str"),
        (None, "x holds None"),
        (np.array([1, None]), "dtype object"),
        (np.array([True, False]), "x is boolean"),
        (np.array([1j]), "x is complex128; expected real"),
        ({"a": 1.0, "b": "c"}, "'c' is a str"),
    ],
    ids=str,
)
def test_what_is_not_real_is_refused_by_name(x, message: str) -> None:
    for call in (jd.gradient, jd.hessian, jd.jacobian):
        with pytest.raises(TypeError, match=message):
            call(jnp.sum)(x)
    with pytest.raises(
        TypeError, match=message.replace("x is", "argument 1 is").replace("x holds", "argument 1 holds").replace("x =", "argument 1 =")
    ):
        jd.gradient(lambda a, b: a, 1)(1.0, x)


def test_no_parameters_is_an_error() -> None:
    for nothing in (np.zeros(0), {}, (), np.zeros((0, 3))):
        with pytest.raises(ValueError, match="x has no parameters"):
            jd.gradient(lambda x: 0.0)(nothing)


@every_method
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda x: x, r"array of shape \(2,\) and dtype float64.*jacobian.*least_squares"),
        (lambda x: None, "None of type NoneType"),
        (lambda x: 3, "3 of type int"),
        (lambda x: jnp.argmax(x), r"array of shape \(\) and dtype int"),
        (lambda x: jnp.sum(x) + 0j, "complex128"),
        (lambda x: (jnp.sum(x), 1), "of type tuple"),
    ],
    ids=["vector", "None", "int", "integer array", "complex", "pair"],
)
def test_what_f_returns_must_be_one_real_number(method: Method, returned, message: str) -> None:
    for call in (jd.gradient, jd.value_and_gradient, jd.hessian):
        with pytest.raises(TypeError, match=f"f returned .*{message}"):
            call(returned, method=method)(jnp.ones(2))


def test_has_aux_wants_a_pair() -> None:
    with pytest.raises(TypeError, match=r"with has_aux=True expected a pair"):
        jd.gradient(jnp.sum, has_aux=True)(jnp.ones(2))


@every_method
def test_jacobian_says_what_is_not_an_array(method: Method) -> None:
    for wrong in (lambda x: None, lambda x: {"a": x, "b": "text"}, lambda x: jnp.argmax(x)):
        with pytest.raises(TypeError, match=r"f returned .*expected real floating arrays"):
            jd.jacobian(wrong, method=method)(jnp.ones(2))


def branches(x: jax.Array) -> jax.Array:
    if x[0] > 0:  # the line that the message must name
        return jnp.sum(x)
    return -jnp.sum(x)


def calls_numpy(x: jax.Array) -> jax.Array:
    return jnp.sum(np.sin(x))  # the line that the message must name


@pytest.mark.parametrize("method", [jd.FiniteDifference(), jd.Autodiff()], ids=["finite", "autodiff"])
@pytest.mark.parametrize(
    ("function", "kind", "hint"),
    [
        (branches, jax.errors.TracerBoolConversionError, "jnp.where"),
        (calls_numpy, jax.errors.TracerArrayConversionError, "use jax.numpy"),
    ],
    ids=["branch", "numpy"],
)
def test_tracing_errors_say_where_and_what_instead(method: Method, function, kind: type, hint: str) -> None:
    lines, first = inspect.getsourcelines(function)
    line = first + next(i for i, text in enumerate(lines) if "must name" in text)
    for call in (jd.gradient, jd.hessian, jd.jacobian):
        if function is branches and isinstance(method, jd.Autodiff) and call is jd.gradient:
            np.testing.assert_array_equal(call(function, method=method)(jnp.ones(2)), np.ones(2))  # as under jax.grad, outside of jit
            continue
        with pytest.raises(kind) as caught:
            jax.jit(call(function, method=method))(jnp.ones(2))
        notes = [note for note in caught.value.__notes__ if note.startswith("jaxdiff:")]
        assert len(notes) == 1
        assert hint in notes[0]
        assert f"{__file__}:{line}" in notes[0]


def test_errors_of_the_users_own_pass_through() -> None:
    class Mine(ValueError):
        pass

    def f(x: jax.Array) -> jax.Array:
        raise Mine("of my own")

    for method in METHODS:
        with pytest.raises(Mine, match="of my own"):
            jd.gradient(f, method=method)(jnp.ones(2))


@pytest.mark.parametrize("method", ["autodif", jd.Autodiff, None, 3], ids=str)
def test_unknown_method_is_refused(method) -> None:
    with pytest.raises((ValueError, TypeError), match=r"method"):
        jd.gradient(jnp.sin, method=method)


def test_wrong_calls_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"mode = 'forwards'.*did you mean 'forward'"):
        jd.Autodiff(mode="forwards")
    with pytest.raises(TypeError, match="unexpected keyword argument 'metod'; did you mean 'method'"):
        jd.gradient(jnp.sin, metod=jd.Autodiff())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="'argnum'; did you mean 'argnums'"):
        jd.hessian(jnp.sin, argnum=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"FiniteDifference\(\) got an unexpected keyword argument 'eps'; did you mean 'step'"):
        jd.FiniteDifference(eps=1e-7)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="argnums = 2; f was called with 1 positional"):
        jd.gradient(jnp.sin, 2)(1.0)
    with pytest.raises(ValueError, match="at least one coordinate"):
        jd.partial(jnp.sum)
    with pytest.raises(ValueError, match="index 3 is out of range for x with 2"):
        jd.partial(jnp.sum, 3)(jnp.ones(2))
    with pytest.raises(ValueError, match="expected one vector"):
        jd.partial(jnp.sum, 0)(jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="v has a leaf of shape"):
        jd.hvp(jnp.sum, jnp.ones(2), jnp.ones(3))
    with pytest.raises(ValueError, match="n = 0; expected an integer >= 1"):
        jd.derivative(jnp.sin, 0)
    with pytest.raises(ValueError, match=r"step = -0.1|expected positive"):
        jd.FiniteDifference(step=-0.1)
    with pytest.raises(TypeError, match="step = 'small'"):
        jd.FiniteDifference(step="small")
    with pytest.raises(ValueError, match="step has a leaf of shape"):
        jd.gradient(jnp.sum, method=jd.FiniteDifference(step=np.ones(3)))(jnp.ones(2))


def test_options_of_the_wrong_type_are_refused_without_a_type_checker() -> None:
    """These tests run under a type checker, which is quicker to complain; a user's process has none."""
    script = """
import jaxdiff as jd, jax.numpy as jnp
for make in (
    lambda: jd.FiniteDifference(order=1.5), lambda: jd.FiniteDifference(order="2"), lambda: jd.FiniteDifference(kind=3),
    lambda: jd.FiniteDifference(chunk_size=0), lambda: jd.FiniteDifference(chunk_size=-4), lambda: jd.FiniteDifference(chunk_size=1.5),
    lambda: jd.derivative(jnp.sin, 1.5), lambda: jd.gradient(jnp.sin, "x"), lambda: jd.gradient(jnp.sin, method="autodif"),
    lambda: jd.gradient(jnp.sin, method=jd.Autodiff), lambda: jd.partial(jnp.sum, 0.5),
):
    try:
        make()
    except ValueError as error:
        print(error)
    else:
        print("accepted")
print(jd.gradient(jnp.sum, method=jd.FiniteDifference(chunk_size=10**9))(jnp.ones(2)).shape)
"""
    lines = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    words = ["order = 1.5", "order = '2'", "kind = 3", "chunk_size = 0", "chunk_size = -4", "chunk_size = 1.5", "n = 1.5", "argnums = 'x'"]
    words += ["did you mean 'autodiff'", "method = <class", "indices = 0.5", "(2,)"]
    assert len(lines) == len(words)
    for line, word in zip(lines, words, strict=True):
        assert word in line


# Supplied derivatives.


def quartic(x: jax.Array, a: jax.Array) -> jax.Array:
    return a * jnp.sum(x**4)


def test_supplied_derivatives_are_used_and_not_derived_again() -> None:
    """Each is wrong on purpose, so that its use shows."""
    x, v = jnp.asarray([1.0, 2.0]), jnp.asarray([1.0, 1.0])
    method = jd.Supplied(
        gradient=lambda x, a: 10 * x,
        hessian=lambda x, a: jnp.full((2, 2), 7.0),
        hvp=lambda x, v, a: 100 * v,
        jacobian=lambda x, a: 20 * x,
    )
    np.testing.assert_array_equal(jd.gradient(quartic, method=method)(x, 1.0), 10 * x)
    np.testing.assert_array_equal(jd.hessian(quartic, method=method)(x, 1.0), np.full((2, 2), 7.0))
    np.testing.assert_array_equal(jd.hvp(quartic, x, v, 1.0, method=method), 100 * v)
    np.testing.assert_array_equal(jd.jacobian(quartic, method=method)(x, 1.0), 20 * x)
    assert float(jd.value_and_gradient(quartic, method=method)(x, 2.0)[0]) == 34.0


def test_missing_pieces_follow_from_the_supplied_ones() -> None:
    x, v = jnp.asarray([1.0, 2.0]), jnp.asarray([1.0, -1.0])
    gradient = jd.Supplied(gradient=lambda x, a: 10 * x)
    np.testing.assert_array_equal(jd.hessian(quartic, method=gradient)(x, 1.0), 10 * np.eye(2))
    np.testing.assert_array_equal(jd.hvp(quartic, x, v, 1.0, method=gradient), 10 * v)
    np.testing.assert_array_equal(jd.jacobian(quartic, method=gradient)(x, 1.0), 10 * x)
    np.testing.assert_array_equal(jd.directional_derivative(quartic, x, v, 1.0, method=gradient), -10.0)
    np.testing.assert_array_equal(jd.partial(quartic, 1, method=gradient)(x, 1.0), 20.0)
    np.testing.assert_array_equal(jd.partial(quartic, 1, 1, method=gradient)(x, 1.0), 10.0)
    product = jd.Supplied(hvp=lambda x, v, a: 3 * v)
    np.testing.assert_array_equal(jd.hessian(quartic, method=product)(x, 1.0), 3 * np.eye(2))
    np.testing.assert_allclose(jd.gradient(quartic, method=product)(x, 1.0), 4 * x**3)
    matrix = jd.Supplied(hessian=lambda x, a: jnp.asarray([[1.0, 2.0], [2.0, 5.0]]))
    np.testing.assert_array_equal(jd.hvp(quartic, x, v, 1.0, method=matrix), [-1.0, -3.0])
    rows = jd.Supplied(jacobian=lambda x, a: 20 * x)
    np.testing.assert_array_equal(jd.gradient(quartic, method=rows)(x, 1.0), 20 * x)
    slope = jd.derivative(jnp.sin, method=jd.Supplied(gradient=lambda x: 5 * x))
    np.testing.assert_array_equal(slope(x), 5 * x)
    np.testing.assert_array_equal(jd.derivative(jnp.sin, 2, method=jd.Supplied(gradient=lambda x: 5 * x))(x), [5.0, 5.0])


def test_supplied_trees() -> None:
    x = {"a": jnp.asarray([1.0, 2.0]), "b": jnp.asarray(3.0)}
    f = lambda x: jnp.sum(x["a"] ** 2) * x["b"]  # noqa: E731
    v = jax.tree.map(jnp.ones_like, x)
    exact = jax.jvp(jax.grad(f), (x,), (v,))[1]
    close(jd.hvp(f, x, v, method=jd.Supplied(hessian=jax.hessian(f))), exact)
    close(jd.hessian(f, method=jd.Supplied(hvp=lambda x, v: jax.jvp(jax.grad(f), (x,), (v,))[1]))(x), jax.hessian(f)(x))


def test_supplied_derivatives_of_the_wrong_form_are_refused() -> None:
    x = jnp.ones(2)
    with pytest.raises(ValueError, match=r"gradient has a leaf of shape \(3,\); expected \(2,\)"):
        jd.gradient(jnp.sum, method=jd.Supplied(gradient=lambda x: jnp.ones(3)))(x)
    with pytest.raises(ValueError, match="gradient has the structure"):
        jd.gradient(jnp.sum, method=jd.Supplied(gradient=lambda x: {"a": x}))(x)
    with pytest.raises(ValueError, match="argnums = 1; supplied derivatives are with respect to the first"):
        jd.gradient(lambda x, y: y, 1, method=jd.Supplied(gradient=lambda x, y: x))(x, 1.0)
    with pytest.raises(TypeError, match=r"gradient = 3; expected a function|gradient"):
        jd.Supplied(gradient=3)  # type: ignore[arg-type]


def test_partially_bound_functions_and_methods_of_objects_work() -> None:
    bound = functools.partial(quartic, a=2.0)
    np.testing.assert_allclose(jd.gradient(bound, method=jd.FiniteDifference())(jnp.ones(2)), [8.0, 8.0], rtol=1e-8)

    class Model:
        def loss(self, x: jax.Array) -> jax.Array:
            return jnp.sum(x**2)

    np.testing.assert_allclose(jd.gradient(Model().loss, method=jd.FiniteDifference())(jnp.ones(2)), [2.0, 2.0], rtol=1e-8)
