"""A batch may have a tolerance for each problem: each is then solved as it is alone with its own tolerance, bit for bit."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd

TOLERANCES = np.logspace(-1, -5, 5)
CENTRES = np.linspace(0.5, 1.5, 5)
STARTS = jnp.zeros((5, 2))


def quartic(x, centre):
    return jnp.sum((x - centre) ** 4) + 3 * jnp.sum((x - centre) ** 2 * jnp.array([1.0, 2.0]))


def decay(x, rate):
    t = jnp.arange(6.0)
    return x[0] * jnp.exp(-x[1] * t) - 2 * jnp.exp(-rate * t)


@pytest.mark.parametrize("mode", ["lockstep", "refill"])
def test_each_problem_stops_at_its_own_tolerance(mode):
    options = jd.BatchOptions(mode=mode, lanes=2, reassociate=False)
    fitted = lambda **given: jd.minimize_batch(quartic, STARTS, (CENTRES,), solver=jd.GradientDescent(**given), options=options)  # noqa: E731
    many = fitted(gtol=TOLERANCES, xtol=TOLERANCES / 10)
    assert many.success.all()
    assert len(set(many.nit.tolist())) > 2
    for i in (0, 4):
        one = fitted(gtol=TOLERANCES[i], xtol=TOLERANCES[i] / 10)
        assert int(many.nit[i]) == int(one.nit[i])
        assert (many.x[i] == one.x[i]).all()
        assert int(many.status[i]) == int(one.status[i])


def test_fits_and_roots_have_their_own_too():
    fitted = lambda xtol: jd.least_squares_batch(  # noqa: E731
        decay, jnp.ones((5, 2)), (CENTRES,), solver=jd.LevenbergMarquardtCholesky(xtol=xtol)
    )
    fits = fitted(TOLERANCES)
    assert fits.status_name == "CONVERGED_STEP: 5"
    assert [int(fits.nit[i]) for i in (0, 4)] == [int(fitted(TOLERANCES[i]).nit[i]) for i in (0, 4)]
    roots = jd.root_batch(lambda x, c: x**3 - c, jnp.ones(5), (CENTRES + 1,), solver=jd.NewtonRoot(ftol=TOLERANCES))
    assert int(roots.nit[0]) < int(roots.nit[4])
    assert (np.abs(np.asarray(roots.fun)) <= TOLERANCES).all()


def test_a_tolerance_may_be_like_x_for_each_problem_beside_scale_bounds_and_chunks():
    spread = np.stack([TOLERANCES, TOLERANCES], axis=1)
    given = {"bounds": (None, jnp.array([jnp.inf, 1.2])), "scale": 2.0}
    one = jd.minimize_batch(quartic, STARTS, (CENTRES,), solver=jd.GradientDescent(gtol=TOLERANCES), **given)
    two = jd.minimize_batch(quartic, STARTS, (CENTRES,), solver=jd.GradientDescent(gtol=spread), **given)
    assert (one.x == two.x).all()
    parts = jd.minimize_batch(
        quartic, STARTS, (CENTRES,), solver=jd.GradientDescent(gtol=TOLERANCES), options=jd.BatchOptions(chunk_size=3), **given
    )
    assert parts.nit.tolist() == one.nit.tolist()


def test_other_tolerances_compile_nothing():
    traces = []

    def counted(x, centre):
        traces.append(None)
        return quartic(x, centre)

    for factor in (1, 2):
        jd.minimize_batch(counted, STARTS, (CENTRES,), solver=jd.GradientDescent(gtol=TOLERANCES * factor))
        traced = len(traces)
        if factor == 1:
            first = traced
    assert traced == first > 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gtol": np.array([1e-3, 1e-3, 1e-30, 1e-3, 1e-3])}, r"gtol = 1e-30 at \(2,\).*machine epsilon"),
        ({"gtol": np.full(3, 1e-3)}, r"leaf of shape \(3,\); expected one number, or \(2,\)"),
        ({"ftol": np.full(2, 1e-3)}, "ftol = .*expected one number"),
    ],
)
def test_tolerances_that_fit_nothing_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        jd.minimize_batch(quartic, STARTS, (CENTRES,), solver=jd.GradientDescent(**given))
