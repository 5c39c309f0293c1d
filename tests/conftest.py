"""Settings of the whole suite: both precisions, one compile cache per run, types checked at run time."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("jaxdiff", "beartype.beartype")


def pytest_configure(config: pytest.Config) -> None:
    """Give every worker of one run the same compile cache: the same program is compiled once, not once per worker."""
    shared = os.environ.setdefault("JAXDIFF_TEST_CACHE", tempfile.mkdtemp(prefix="jaxdiff-cache-"))
    jax.config.update("jax_compilation_cache_dir", shared)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Both precisions, one after the other."""
    return request.param
