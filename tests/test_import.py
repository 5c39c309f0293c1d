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


def test_names_for_readers_and_names_at_run_time_are_the_same() -> None:
    """The package lists its names twice: for type checkers, and for loading on demand."""
    import ast

    import jaxdiff

    tree = ast.parse((ROOT / "jaxdiff" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    listed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    subpackages = {name for name, module in listed.items() if module == "jaxdiff"}
    assert {name: module for name, module in listed.items() if module != "jaxdiff"} == jaxdiff._HOME
    assert subpackages == set(jaxdiff._SUBPACKAGES)
    with pytest.raises(AttributeError, match="has no attribute 'minimise'"):
        _ = jaxdiff.minimise
