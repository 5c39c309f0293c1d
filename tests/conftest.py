"""Settings of the whole suite: both precisions, one compile cache per run, types checked at run time."""

import gc
import os
import pathlib
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

# Where a user's mistake is answered by a message of our own, a type checker in front of it would answer first.
UNCHECKED = {"jaxdiff._api", "jaxdiff._validation", "jaxdiff.batch.options", "jaxdiff.solvers.gradient_descent"}


def modules() -> list[str]:
    """Every module of the package by its full name; naming a package would name all below it."""
    root = pathlib.Path(__file__).parents[1] / "jaxdiff"
    return [".".join(("jaxdiff", *path.relative_to(root).with_suffix("").parts)) for path in root.rglob("*.py") if path.stem != "__init__"]


# Functions and points that tests share; the tests import them from beside themselves.
collect_ignore_glob = ["derivatives/estimate_cases*.py"]

install_import_hook([name for name in modules() if name not in UNCHECKED], "beartype.beartype")


# Files that take a worker longest, the longest first: begun last, one of them would keep one worker busy while the other has nothing left.
LONGEST = (
    "derivatives/test_estimate.py",
    "solvers/test_counts.py",
    "test_minimize.py",
    "contract/test_solvers.py",
    "solvers/test_least_squares.py",
    "solvers/test_minimizers_between_bounds.py",
    "test_root.py",
    "derivatives/test_check.py",
    "test_unrolled.py",
    "batch/test_least_squares_batch.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest in front."""
    root = pathlib.Path(__file__).parent
    rank = {root / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


class ForgetPrograms:
    """Drops what a file has compiled when its tests are over: a process may map no more than some 65,000 pieces of memory."""

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        if nextitem is None or nextitem.path != item.path:
            jax.clear_caches()
            gc.collect()


def pytest_configure(config: pytest.Config) -> None:
    """Give every worker of one run the same compile cache: the same program is compiled once, not once per worker."""
    config.pluginmanager.register(ForgetPrograms())
    shared = os.environ.setdefault("JAXDIFF_TEST_CACHE", tempfile.mkdtemp(prefix="jaxdiff-cache-"))
    jax.config.update("jax_compilation_cache_dir", shared)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A test compiles at its first example and not at the others; a deadline would measure the machine.
    hypothesis.settings.register_profile("jaxdiff", deadline=None)
    hypothesis.settings.load_profile("jaxdiff")


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Both precisions, one after the other."""
    return request.param
