"""Vision transformers and their blocks (Dosovitskiy et al., arXiv 2010.11929)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib
from jaxtok.nn import embed, linear, rope, windows
from jaxtok.nn.mlp import MLP, gelu
from jaxtok.nn.norms import LayerNorm, rms_normalize
from jaxtok.nn.stack import repeat


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
          mask: bool [B, T], True on real positions, or of pairs [B or 1, heads or 1, T or 1, T].
          angles: cosine and sine [1 or B, T, D / heads / 2] of a rotary embedding of neighbouring channels, or None.
        """
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"SelfAttention: heads must divide the width, found {self.heads} and {width}")
        options: dict[str, Any] = dict(
            kernel_init=self.kernel_init, precision=self.precision, dtype=self.dtype, param_dtype=self.param_dtype
        )
        qkv = linear.Dense(3 * width, name="qkv", **options)(x).reshape(*x.shape[:-1], 3, self.heads, -1)
        query, key, value = qkv[..., 0, :, :], qkv[..., 1, :, :], qkv[..., 2, :, :]
        if self.qk_norm:
            query, key = normalized(self, query, key)
        if angles is not None:
            query, key = rope.rotate_pairs(query, *angles), rope.rotate_pairs(key, *angles)
        out = self.attention(query, key, value, attention_lib.pair_mask(mask))
        return linear.Dense(width, name="out", **options)(out.reshape(x.shape))


class CrossAttention(nn.Module):
    """Queries of one sequence, keys and values of another: [B, T, D], [B, S, C] -> [B, T, D].

    Attributes:
      heads: of attention.
      head_dim: channels per head; 0 for D / heads, which must then be whole.
      bias: of the maps to queries, keys and values.
      out_bias: of the map out of the heads.
      qk_norm: RMSNorm with a learned scale [head_dim] on queries and keys.
      attention: see :mod:`jaxtok.nn.attention`.
    """

    heads: int
    head_dim: int = 0
    bias: bool = True
    out_bias: bool = True
    qk_norm: bool = False
    attention: attention_lib.Attention = attention_lib.auto
    kernel_init: Callable[..., Any] = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Attends.

        Args:
          x: [B, T, D].
          context: [B, S, C]; x itself for self-attention.
          mask: bool [B, S], True on real positions of the context, or of pairs [B or 1, heads or 1, T or 1, S].
        """
        width = x.shape[-1]
        if not self.head_dim and width % self.heads:
            raise ValueError(f"CrossAttention: heads must divide the width, found {self.heads} and {width}")
        inner = self.heads * (self.head_dim or width // self.heads)
        options: dict[str, Any] = dict(kernel_init=self.kernel_init, dtype=self.dtype, param_dtype=self.param_dtype)
        query = linear.Dense(inner, use_bias=self.bias, name="query", **options)(x)
        both = linear.Dense(2 * inner, use_bias=self.bias, name="key_value", **options)(context)
        query = query.reshape(*x.shape[:-1], self.heads, -1)
        both = both.reshape(*context.shape[:-1], 2, self.heads, -1)
        key, value = both[..., 0, :, :], both[..., 1, :, :]
        if self.qk_norm:
            query, key = normalized(self, query, key)
        out = self.attention(query, key, value, attention_lib.pair_mask(mask))
        return linear.Dense(width, use_bias=self.out_bias, name="out", **options)(out.reshape(*x.shape[:-1], inner))


def normalized(module: Any, query: jax.Array, key: jax.Array, prefix: str = "") -> tuple[jax.Array, jax.Array]:
    """Queries and keys [B, T, N, H] by their root mean square, times the module's parameters ``q_norm``, ``k_norm``."""
    names = (f"{prefix}q_norm", f"{prefix}k_norm")
    scales = [module.param(n, nn.initializers.ones, query.shape[-1:], module.param_dtype) for n in names]
    return rms_normalize(query, scales[0]), rms_normalize(key, scales[1])


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)): [B, T, D] -> [B, T, D]; LayerNorm, biases. Records "tokens".

    Attributes:
      heads: of attention; they divide D.
      hidden: width of the MLP.
      affine: learned scale and bias in the norms.
      epsilon: of the norms.
      activation: of the MLP; the tanh-GELU unless given.
      qk_norm: see :class:`SelfAttention`, as the following.
      attention: see :mod:`jaxtok.nn.attention`.
      precision: of the linear maps.
    """

    heads: int
    hidden: int
    affine: bool = False
    epsilon: float = 1e-6
    activation: Callable[[jax.Array], jax.Array] = gelu
    qk_norm: bool = False
    attention: attention_lib.Attention = attention_lib.auto
    kernel_init: Callable[..., Any] = nn.initializers.xavier_uniform()
    precision: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, angles: Any = None) -> jax.Array:
        """Applies the block; ``mask`` and ``angles`` as in :class:`SelfAttention`."""
        options: dict[str, Any] = dict(
            kernel_init=self.kernel_init, precision=self.precision, dtype=self.dtype, param_dtype=self.param_dtype
        )
        attend = SelfAttention(self.heads, self.qk_norm, self.attention, name="attention", **options)
        x = x + attend(self._norm("attention_norm", x), mask=mask, angles=angles)
        mlp = MLP(self.hidden, activation=self.activation, name="mlp", **options)
        x = x + mlp(self._norm("mlp_norm", x))
        self.sow("intermediates", "tokens", x)
        return x

    def _norm(self, name: str, x: jax.Array) -> jax.Array:
        return LayerNorm(self.affine, self.epsilon, self.param_dtype, name=name)(x).astype(self.dtype)


class ViT(nn.Module):
    """Images or grids of vectors to tokens: patches, positions, blocks, LayerNorm.

    Attributes:
      depth: blocks.
      width: D.
      heads: of attention; they divide D.
      patch: p; the grid is H / p x W / p tokens.
      prefix: learned tokens before the patches: a class token, registers.
      learned: positions are parameters; otherwise :func:`jaxtok.nn.embed.grid_table`. The prefix has none.
      ratio: hidden width of the MLPs over D.
      activation: of the MLPs; the tanh-GELU unless given.
      scan: True stacks the blocks' parameters and compiles one of them.
      remat: see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    depth: int
    width: int
    heads: int
    patch: int = 16
    prefix: int = 0
    learned: bool = False
    ratio: float = 4.0
    activation: Callable[[jax.Array], jax.Array] = gelu
    scan: bool = True
    remat: str = ""
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Tokens [B, prefix + H / p * W / p, D] of x [B, H, W, C].

        Args:
          x: [B, H, W, C].
          mask: bool [B, prefix + patches], True on real tokens, or of pairs [B or 1, heads or 1, T or 1, T].

        Raises:
          ValueError: when the patch does not divide the grid.
        """
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        h = embed_patches(x, self.patch, self.width, **types)
        init = nn.initializers.normal(0.02)
        if self.learned:
            table = self.param("positions", init, h.shape[1:], self.param_dtype)
        else:
            table = embed.grid_table(x.shape[1] // self.patch, x.shape[2] // self.patch, self.width)
        h = h + jnp.asarray(table, h.dtype)
        if self.prefix:
            first = self.param("prefix", init, (self.prefix, self.width), self.param_dtype)
            h = jnp.concatenate([jnp.broadcast_to(first.astype(h.dtype), (len(h), *first.shape)), h], axis=1)
        h = repeat(
            Block, self.depth, h, mask, None, scan=self.scan, remat=self.remat, heads=self.heads,
            hidden=int(self.ratio * self.width), affine=True, activation=self.activation, attention=self.attention,
            **types,
        )  # fmt: skip
        return LayerNorm(True, name="norm", param_dtype=self.param_dtype)(h)


def embed_patches(x: jax.Array, patch: int, width: int, name: str = "patch_linear", **types: Any) -> jax.Array:
    """Patches through a linear map, within a compact method: [B, H, W, C] -> [B, H / p * W / p, width]."""
    return nn.Dense(width, kernel_init=nn.initializers.xavier_uniform(), name=name, **types)(windows.patchify(x, patch))
