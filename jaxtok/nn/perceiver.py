"""The perceiver resampler: any number of vectors to a fixed number (Alayrac et al., arXiv 2204.14198)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib
from jaxtok.nn.mlp import MLP, exact_gelu
from jaxtok.nn.norms import LayerNorm
from jaxtok.nn.stack import repeat
from jaxtok.nn.vit import CrossAttention


class PerceiverBlock(nn.Module):
    """Latents look at inputs and at themselves, and go through an MLP; LayerNorms, no biases in the linear maps.

    Attributes:
      heads: of attention.
      head_dim: channels per head.
      ratio: hidden width of the MLP over D.
      epsilon: of the norms.
      attention: see :mod:`jaxtok.nn.attention`.
    """

    heads: int
    head_dim: int = 64
    ratio: float = 4.0
    epsilon: float = 1e-5
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, latents: jax.Array, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Latents [B, K, D] of the same, x [B, N, D] and the mask of both, bool [B, N + K] or None."""
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        norms: dict[str, Any] = dict(affine=True, epsilon=self.epsilon, param_dtype=self.param_dtype)
        query = LayerNorm(name="latent_norm", **norms)(latents)
        both = jnp.concatenate([LayerNorm(name="input_norm", **norms)(x), query], axis=1)
        attend = CrossAttention(
            self.heads, self.head_dim, bias=False, out_bias=False, attention=self.attention, name="attention", **types
        )
        latents = latents + attend(query, both, mask=mask)
        mlp = MLP(int(self.ratio * latents.shape[-1]), activation=exact_gelu, bias=False, name="mlp", **types)
        return latents + mlp(LayerNorm(name="mlp_norm", **norms)(latents))


class Perceiver(nn.Module):
    """[B, N, C] -> [B, queries, out]: an input map, learned latents through the blocks, an output map, LayerNorm.

    Attributes:
      queries: latents.
      width: D, of the latents.
      depth: blocks.
      heads: of attention.
      head_dim: channels per head; heads x head_dim may differ from D.
      out: width of what comes out; 0 for D.
      ratio: hidden width of the MLPs over D.
      epsilon: of the norms.
      scan: True stacks the blocks' parameters and compiles one of them.
      remat: see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    queries: int
    width: int
    depth: int
    heads: int
    head_dim: int = 64
    out: int = 0
    ratio: float = 4.0
    epsilon: float = 1e-5
    scan: bool = True
    remat: str = ""
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """[B, queries, out] of x [B, N, C], of which only the positions where ``mask`` bool [B, N] is True count.

        Raises:
          ValueError: for another rank of x.
        """
        if x.ndim != 3:
            raise ValueError(f"Perceiver: expected [batch, tokens, channels], found shape {x.shape}")
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        init = nn.initializers.normal(self.width**-0.5)
        latents = self.param("latents", init, (self.queries, self.width), self.param_dtype)
        x = nn.Dense(self.width, name="in_linear", **types)(x)
        latents = jnp.broadcast_to(latents.astype(x.dtype), (len(x), *latents.shape))
        if mask is not None:
            mask = jnp.concatenate([mask, jnp.ones((len(x), self.queries), bool)], axis=1)
        latents = repeat(
            PerceiverBlock, self.depth, latents, x, mask, scan=self.scan, remat=self.remat, heads=self.heads,
            head_dim=self.head_dim, ratio=self.ratio, epsilon=self.epsilon, attention=self.attention, **types,
        )  # fmt: skip
        latents = nn.Dense(self.out or self.width, name="out_linear", **types)(latents)
        return LayerNorm(True, self.epsilon, self.param_dtype, name="out_norm")(latents)
