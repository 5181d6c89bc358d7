"""Compiler options of training steps."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

# jaxlib 0.10 makes YNNPACK programs of matrix products, convolutions and elementwise work. Of reductions alone, a step
# of DiT-S/2 is 7 % faster than of everything or of nothing (sums over rows, the gradients of biases, are over 20 times
# faster by it); steps of the mini configs are the same within 4 %: experiments/benchmarks/step_options.md.
CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def options(mesh: Mesh) -> dict[str, Any]:
    """For ``jax.jit(compiler_options=...)`` of a step on the devices of a mesh; empty where there is nothing to say."""
    return known(tuple(CPU.items())) if mesh.devices.flat[0].platform == "cpu" else {}


@functools.cache
def known(wanted: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Those of the options that this jaxlib knows on this machine's CPU: they come and go."""
    return {name: value for name, value in wanted if _works({name: value})}


def _works(options: Mapping[str, Any]) -> bool:
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        try:
            jax.jit(lambda: 0, compiler_options=dict(options)).lower().compile()
        except jax.errors.JaxRuntimeError:
            return False
    return True
