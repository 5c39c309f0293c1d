"""Several devices: the bits of one, no collective in the program, no lane that changes another's bits; in processes of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxdiff as jd

PROGRAM = """
import json, re
import jax, jax.numpy as jnp, numpy as np
import jaxdiff as jd
from jaxdiff.batch import devices

prepared = []
original = devices.prepare
devices.prepare = lambda *a: prepared.append(original(*a)) or prepared[-1]

def decay(p, t, y):
    return p[0] * jnp.exp(-p[1] * t) - y

t = np.linspace(0.1, 3, 8, dtype=np.float32)
rng = np.random.default_rng(0)
truth = rng.uniform(0.5, 2, (90, 2))
y = (truth[:, :1] * np.exp(-truth[:, 1:] * t) + 0.01 * rng.normal(size=(90, 8))).astype(np.float32)
starts = (truth * rng.uniform(0.7, 1.4, truth.shape)).astype(np.float32)
bad = y.copy()
bad[[3, 50]] = np.nan

def solve(y, **options):
    chosen = jd.BatchOptions(lanes=16, rescue=False, mode="refill", **options)
    result = jd.least_squares_batch(decay, starts, (t, y), in_axes=(0, None, 0), options=chosen)
    return {name: np.asarray(getattr(result, name)) for name in ("x", "fun", "jac", "nit", "status", "residuals")}

one, four, given = solve(y, devices=1), solve(y, devices=4), solve(y, devices=jax.devices()[1:3])
spoilt = solve(bad, devices=4)
same = lambda a, b, rows: all(np.array_equal(a[k][rows], b[k][rows], equal_nan=True) for k in a)
everywhere, others = np.arange(90), np.delete(np.arange(90), [3, 50])
text = prepared[1][0].lower(*prepared[1][1]).compile().as_text()
words = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")
print(json.dumps({
    "solved": int(np.sum((one["status"] > 0) & (one["status"] < 4))),
    "four as one": same(one, four, everywhere),
    "two as one": same(one, given, everywhere),
    "others as without": same(four, spoilt, others),
    "bad": spoilt["status"][[3, 50]].tolist(),
    "loops": len(re.findall(r" while\\(", text)),
    "collectives": [word for word in words if word in text],
    "devices": len(prepared[1][1][-2].sharding.device_set),
}))
"""


@pytest.fixture(scope="module")
def findings() -> dict:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("XLA_")}
    environment |= {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "PYTHONPATH": str(Path(jd.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.core
def test_results_do_not_depend_on_the_devices_to_the_last_bit(findings: dict) -> None:
    assert findings["devices"] == 4
    assert findings["solved"] == 90
    assert findings["four as one"]
    assert findings["two as one"]


def test_a_problem_of_nan_changes_no_other_bit_on_any_device(findings: dict) -> None:
    assert findings["others as without"]
    assert findings["bad"] == [jd.Status.NON_FINITE_START] * 2


def test_the_program_has_loops_and_no_collective(findings: dict) -> None:
    assert findings["loops"] >= 1
    assert findings["collectives"] == []


def test_one_device_is_enough_for_every_kind_of_batch() -> None:
    options = jd.BatchOptions(devices=1, lanes=4)
    found = jd.minimize_batch(lambda x, a: (x - a) ** 2, np.zeros(10), np.arange(10.0), options=options)
    np.testing.assert_array_equal(found.x, np.arange(10.0))
    roots = jd.root_batch(lambda x, a: x * x - a, np.ones(10), np.arange(1.0, 11.0), options=jd.BatchOptions(devices=1, mode="lockstep"))
    np.testing.assert_allclose(roots.x, np.sqrt(np.arange(1.0, 11.0)), rtol=np.finfo(float).eps ** (2 / 3))


def test_devices_that_are_not_there_are_named() -> None:
    with pytest.raises(ValueError, match=r"devices = 0; expected an integer >= 1"):
        jd.BatchOptions(devices=0)
    with pytest.raises(TypeError, match=r"devices = \['gpu:0'\]; expected how many, or some of jax.devices\(\)"):
        jd.BatchOptions(devices=["gpu:0"])
    with pytest.raises(ValueError, match=r"devices = 999; expected at most \d+, the devices of backend 'cpu'"):
        jd.minimize_batch(lambda x: x**2, np.ones(3), options=jd.BatchOptions(devices=999))
    with pytest.raises(ValueError, match=r"devices=...\) cannot be traced"):
        jax.jit(lambda x: jd.minimize_batch(lambda x: x**2, x, options=jd.BatchOptions(devices=1)).x)(np.ones(3))
