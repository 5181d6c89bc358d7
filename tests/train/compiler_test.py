import types

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxtok.train import compiler


def test_options_are_those_that_this_compiler_knows():
    assert compiler.known((("xla_cpu_no_such_option", True), ("xla_cpu_enable_fast_math", False))) == {
        "xla_cpu_enable_fast_math": False
    }
    found = compiler.options(Mesh(np.array(jax.devices()[:1]), ("data",)))
    assert set(found) <= set(compiler.CPU)
    x = jnp.ones((256, 256))
    compiled = jax.jit(lambda x: jnp.exp(x @ x), compiler_options=found).lower(x).compile()
    assert not found or "ynn" not in compiled.as_text()
    np.testing.assert_allclose(compiled(x), np.exp(np.float32(256)) * np.ones((256, 256)), rtol=1e-5)


def test_other_devices_have_none():
    device = types.SimpleNamespace(platform="tpu")
    assert compiler.options(types.SimpleNamespace(devices=np.array([device], object))) == {}
