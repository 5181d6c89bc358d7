"""Eight CPU devices, cheap compilation, and a compilation cache kept between runs."""

import os
import pathlib
import platform
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",  # tests only: halves the time to compile
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",  # 8 devices wait for few and busy cores
    ]
)

import jax
import pytest

_CACHE = pathlib.Path(os.environ.get("JAXTOK_TEST_CACHE", pathlib.Path(tempfile.gettempdir()) / "jaxtok-test-cache"))
# Two programs with collectives at once can wait for each other for ever, where cores are fewer than devices.
jax.config.update("jax_cpu_enable_async_dispatch", False)
jax.config.update("jax_compilation_cache_dir", str(_CACHE / f"{jax.__version__}-{platform.node()}"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

_MOST = 4 << 30  # bytes that a worker may hold before its compiled programs are dropped


@pytest.fixture(scope="module", autouse=True)
def release_memory():
    """Compiled programs of a whole suite fill a small machine; those that are needed again lie in the cache on disk."""
    yield
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists() and int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > _MOST:
        jax.clear_caches()
