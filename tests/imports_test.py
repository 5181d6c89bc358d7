"""``import jaxtok`` is cheap and needs jax and flax alone."""

import subprocess
import sys

CODE = """
import sys, time
import jax, flax
import flax.linen
before = set(sys.modules)
start = time.perf_counter()
import jaxtok
print(time.perf_counter() - start)
import jaxtok.quantizers, jaxtok.diffusion.samplers, jaxtok.tokenizers.diffusion, jaxtok.papers.tadicodec
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
heavy = loaded & {"grain", "orbax", "optax", "ml_collections", "tensorflow_datasets", "matplotlib", "soundfile", "soxr",
                  "tensorboardX", "absl", "array_record", "chex", "safetensors", "torch", "tensorflow"}
print(sorted(heavy))
"""


def test_import_costs_less_than_a_tenth_of_a_second_and_loads_nothing_heavy():
    out = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout.split("\n")
    assert float(out[0]) < 0.1
    assert out[1] == "[]"


def test_build_stays_the_function_after_its_module_is_imported():
    code = "import jaxtok.build; from jaxtok.build import symbol; import jaxtok; assert callable(jaxtok.build)"
    subprocess.run([sys.executable, "-c", code], check=True)
