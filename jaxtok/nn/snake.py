"""The snake activation, which lets networks of waveforms be periodic."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def snake(x: jax.Array, alpha: jax.Array, beta: jax.Array) -> jax.Array:
    """x + sin(alpha x)^2 / (beta + 1e-9).

    Source: Ziyin et al., "Neural Networks Fail to Learn Periodic Functions and How to Fix It" (arXiv 2006.08195), where
    beta is alpha; apart in BigVGAN (arXiv 2206.04658).

    Args:
      x: [..., C].
      alpha: frequencies, broadcastable to x.
      beta: likewise; the wave is 1 / beta high.
    """
    return x + jnp.square(jnp.sin(alpha * x)) / (beta + 1e-9)


class Snake(nn.Module):
    """:func:`snake` with learned frequencies and heights, exp(``alpha``) and exp(``beta``) [C]: 1 at first."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C]."""
        alpha, beta = (
            self.param(name, nn.initializers.zeros, x.shape[-1:], self.param_dtype) for name in ("alpha", "beta")
        )
        return snake(x.astype(self.dtype), jnp.exp(alpha).astype(self.dtype), jnp.exp(beta).astype(self.dtype))
