"""Vision transformer blocks (Dosovitskiy et al., arXiv 2010.11929)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib
from jaxtok.nn import rope
from jaxtok.nn.norms import rms_normalize


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases: [B, T, D] -> [B, T, D].

    Attributes:
      heads: they divide D.
      qk_norm: RMSNorm with a learned scale [D / heads] on queries and keys.
      attention: see :mod:`jaxtok.nn.attention`.
      precision: of the linear maps.
    """

    heads: int
    qk_norm: bool = False
    attention: attention_lib.Attention = attention_lib.auto
    kernel_init: Callable[..., Any] = nn.initializers.xavier_uniform()
    precision: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, *, mask: jax.Array | None = None, angles: tuple[jax.Array, jax.Array] | None = None
    ) -> jax.Array:
        """Attends.

        Args:
          x: [B, T, D].
          mask: bool [B, T], True on real positions.
          angles: cosine and sine [1 or B, T, D / heads / 2] of a rotary embedding of neighbouring channels, or None.
        """
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"SelfAttention: heads must divide the width, found {self.heads} and {width}")
        options: dict[str, Any] = dict(
            kernel_init=self.kernel_init, precision=self.precision, dtype=self.dtype, param_dtype=self.param_dtype
        )
        qkv = nn.Dense(3 * width, name="qkv", **options)(x).reshape(*x.shape[:-1], 3, self.heads, -1)
        query, key, value = qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]
        if self.qk_norm:
            scales = [
                self.param(n, nn.initializers.ones, qkv.shape[-1:], self.param_dtype) for n in ("q_norm", "k_norm")
            ]
            query, key = (rms_normalize(x, scale) for x, scale in zip((query, key), scales))
        if angles is not None:
            query, key = rope.rotate_pairs(query, *angles), rope.rotate_pairs(key, *angles)
        out = self.attention(query, key, value, attention_lib.key_mask(mask))
        return nn.Dense(width, name="out", **options)(out.reshape(x.shape))


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)): [B, T, D] -> [B, T, D]; LayerNorm, tanh-GELU, biases.

    Attributes:
      heads: of attention; they divide D.
      hidden: width of the MLP.
      affine: learned scale and bias in the norms.
      epsilon: of the norms.
      attention: see :mod:`jaxtok.nn.attention`.
      precision: of the linear maps.
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
        options: dict[str, Any] = dict(
            kernel_init=self.kernel_init, precision=self.precision, dtype=self.dtype, param_dtype=self.param_dtype
        )
        attend = SelfAttention(self.heads, attention=self.attention, name="attention", **options)
        x = x + attend(self._norm("attention_norm", x), mask=mask)
        y = nn.Dense(self.hidden, name="hidden_linear", **options)(self._norm("mlp_norm", x))
        return x + nn.Dense(x.shape[-1], name="out_linear", **options)(nn.gelu(y, approximate=True))

    def _norm(self, name: str, x: jax.Array) -> jax.Array:
        norm = nn.LayerNorm(self.epsilon, use_bias=self.affine, use_scale=self.affine, name=name)  # statistics in f32
        return norm(x).astype(self.dtype)
