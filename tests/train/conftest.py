import os
import pathlib
import sys

import pytest

HERE = pathlib.Path(__file__).parent

# The configs of these tests address "toy_game:Game".
sys.path.insert(0, str(HERE))


@pytest.fixture
def surroundings(tmp_path):
    """Environment variables of child processes, which share what one of them compiled."""
    return os.environ | {
        "PYTHONPATH": f"{HERE.parent.parent}:{HERE}",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": "none",
    }
