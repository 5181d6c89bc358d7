"""Quantizers need jax, flax and what these two bring along, and nothing of jaxtok beyond small layers."""

import subprocess
import sys

# Python's own import is replaced by one that knows who imports: what flax loads for itself is its own affair. A
# package that is neither loaded by then nor jaxtok cannot be found at all, by whatever way it is asked for.
GUARD = """
import builtins, functools, importlib.abc, sys
import flax.linen, flax.nnx, jax
known = {name.partition(".")[0] for name in sys.modules} | sys.stdlib_module_names
allowed = sys.stdlib_module_names | {"jax", "jaxlib", "flax", "numpy", "jaxtok"}
plain = builtins.__import__

def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if importer.partition(".")[0] == "jaxtok" and level == 0 and name.partition(".")[0] not in allowed:
        raise ImportError(f"{importer} imports {name}")
    return plain(name, globals, locals, fromlist, level)

class Nothing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in known | {"jaxtok"}:
            raise ImportError(f"{name} is blocked")

builtins.__import__ = guarded
sys.meta_path.insert(0, Nothing())
"""

USE = """
from jaxtok.quantizers import FSQ
import jax.numpy as jnp
assert FSQ(levels=(8, 5, 5, 5))(jnp.array([0.3, -0.7, 1.2, -2.0])).codes.tolist() == [173]

import jaxtok.quantizers as jq
from jaxtok.quantizers import codes, entropy, estimators, nearest, usage
z = jax.random.normal(jax.random.key(0), (2, 8, 4))
for q in (jq.EMAVQ(size=16, width=4, revive=0.1, kmeans=1), jq.FVQ(size=16, width=4, hidden=8), jq.LFQ(bits=4),
          jq.IBQ(size=16, width=4), jq.FactorizedVQ(size=16, width=4, inner_width=2), jq.SimVQ(size=16, width=4),
          jq.ResidualFSQ(levels=(5, 5, 5, 5), depth=2, dropout="batch"), jq.BSQ(bits=4), jq.ScalarRound(width=4)):
    def run(q, key, z):  # tracing runs all the Python there is, and compiles nothing
        return q.apply(q.init(key, z), z, train=True, rng=key, mutable=["codebook"])
    y, _ = jax.eval_shape(functools.partial(run, q), jax.random.key(1), z)
    assert y.latents.shape == z.shape
print(sorted({".".join(name.split(".")[:2]) for name in sys.modules if name.startswith("jaxtok.")}))
"""


def _python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)


def test_quantizers_run_where_every_other_package_is_blocked():
    result = _python(GUARD + USE)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "['jaxtok.build', 'jaxtok.nn', 'jaxtok.quantizers']"


def test_the_guard_does_guard():
    """A package is refused whether flax has loaded it already (optax, orbax) or not (grain)."""
    tries = """
for package in ("orbax.checkpoint", "optax", "grain"):
    try:
        exec(f"import {package}", {"__name__": "jaxtok.quantizers.vq"})
    except ImportError as error:
        print(error)
try:
    importlib.import_module("grain")
except ImportError as error:
    print(error)
"""
    assert _python(GUARD + tries).stdout.splitlines() == [
        "jaxtok.quantizers.vq imports orbax.checkpoint",
        "jaxtok.quantizers.vq imports optax",
        "jaxtok.quantizers.vq imports grain",
        "grain is blocked",
    ]
