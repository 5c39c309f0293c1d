"""What importing the package may not do. In a process of its own: here JAX is long awake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import json, sys
import jax
from jax._src import xla_bridge

def settings():
    return {name: repr(value) for name, value in jax.config.values.items()}

before = settings()
import jaxdiff
# Every public name, whether it is there at once or on demand.
names = [name for name in dir(jaxdiff) if not name.startswith("__")]
for name in names:
    getattr(jaxdiff, name)
import jaxdiff.derivatives, jaxdiff.functions, jaxdiff.solvers, jaxdiff.batch
after = settings()
changed = {name: (before.get(name), value) for name, value in after.items() if before.get(name) != value}
print(json.dumps({
    "names": len(names),
    "backends": sorted(xla_bridge._backends),
    "changed": changed,
    "live_arrays": len(jax.live_arrays()) if xla_bridge._backends else 0,
    "plotting": sorted(set(sys.modules) & {"matplotlib", "sklearn", "scipy", "pyarrow", "jinja2", "pydantic", "mpmath"}),
}))
"""


@pytest.fixture(scope="module")
def findings() -> dict:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("JAX_", "XLA_"))}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.core
def test_import_starts_no_backend_and_so_allocates_no_array(findings: dict) -> None:
    assert findings["names"] > 10
    assert findings["backends"] == []
    assert findings["live_arrays"] == 0


@pytest.mark.core
def test_import_changes_no_jax_setting(findings: dict) -> None:
    assert findings["changed"] == {}


def test_import_leaves_optional_packages_alone(findings: dict) -> None:
    # jax itself may import scipy for jax.scipy; what is ours to answer for is the rest.
    assert set(findings["plotting"]) <= {"scipy"}
