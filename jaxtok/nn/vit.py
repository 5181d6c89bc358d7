"""Vision transformer blocks (Dosovitskiy et al., arXiv 2010.11929)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)): [B, T, D] -> [B, T, D]; LayerNorm, tanh-GELU, biases.

    Attributes:
      heads: of attention; they divide D.
      hidden: width of the MLP.
      affine: learned scale and bias in the norms.
      epsilon: of the norms.
      attention: see :mod:`jaxtok.nn.attention`.
      precision: of the matrix products.
    """

    heads: int
    hidden: int
    affine: bool = False
    epsilon: float = 1e-6
    attention: attention_lib.Attention = attention_lib.auto
    kernel_init: Callable[..., Any] = nn.initializers.xavier_uniform()
    precision: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Applies the block; ``mask`` bool [B, T] marks real positions."""
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"Block: heads must divide the width, found {self.heads} and {width}")
        options: dict[str, Any] = dict(
            kernel_init=self.kernel_init, precision=self.precision, dtype=self.dtype, param_dtype=self.param_dtype
        )
        y = self._norm("attention_norm", x)
        qkv = nn.Dense(3 * width, name="qkv", **options)(y)
        parts = jnp.split(qkv.reshape(*x.shape[:-1], 3, self.heads, -1), 3, axis=-3)
        y = self.attention(*(part.squeeze(-3) for part in parts), attention_lib.key_mask(mask))
        x = x + nn.Dense(width, name="out", **options)(y.reshape(x.shape))
        y = self._norm("mlp_norm", x)
        y = nn.gelu(nn.Dense(self.hidden, name="hidden_linear", **options)(y), approximate=True)
        return x + nn.Dense(width, name="out_linear", **options)(y)

    def _norm(self, name: str, x: jax.Array) -> jax.Array:
        norm = nn.LayerNorm(self.epsilon, use_bias=self.affine, use_scale=self.affine, name=name)  # statistics in f32
        return norm(x).astype(self.dtype)
