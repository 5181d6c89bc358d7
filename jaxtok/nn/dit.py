"""Diffusion transformers on grids: DiT (Peebles and Xie, arXiv 2212.09748) and LightningDiT (arXiv 2501.01423)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib
from jaxtok.nn import embed, rope
from jaxtok.nn.mlp import SwiGLU
from jaxtok.nn.norms import rms_normalize
from jaxtok.nn.remat import remat
from jaxtok.nn.vit import SelfAttention

# Depth, width and heads of the published sizes.
SIZES = {
    "S": dict(depth=12, width=384, heads=6),
    "B": dict(depth=12, width=768, heads=12),
    "L": dict(depth=24, width=1024, heads=16),
    "XL": dict(depth=28, width=1152, heads=16),
}


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """x (1 + scale) + shift, for x [B, T, D] and shift, scale [B, D] or per token [B, T, D]."""
    if shift.ndim == x.ndim - 1:
        shift, scale = shift[:, None], scale[:, None]
    return x * (1 + scale) + shift


class TimeEmbedding(nn.Module):
    """256 sines and cosines of the time (cosines first, as in DiT), Linear, SiLU, Linear: [B] -> [B, width].

    Attributes:
      width: of the embedding.
      features: sines and cosines in all.
    """

    width: int
    features: int = 256
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        """Embeds times in the unit that the network was trained with."""
        sine, cosine = jnp.split(embed.sinusoidal(t, self.features, shift=0), 2, axis=-1)
        options: dict[str, Any] = dict(
            kernel_init=nn.initializers.normal(0.02), dtype=self.dtype, param_dtype=self.param_dtype
        )
        x = nn.silu(nn.Dense(self.width, name="hidden_linear", **options)(jnp.concatenate([cosine, sine], -1)))
        return nn.Dense(self.width, name="out_linear", **options)(x)


class _Norm(nn.Module):
    """LayerNorm without affine parameters, or RMSNorm with a learned scale; statistics in float32."""

    rms: bool
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.rms:
            return rms_normalize(x, self.param("scale", nn.initializers.ones, x.shape[-1:], self.param_dtype))
        return nn.LayerNorm(1e-6, use_bias=False, use_scale=False)(x).astype(x.dtype)


class DiTBlock(nn.Module):
    """adaLN-Zero: x + gate1 attention(norm(x) (1 + scale1) + shift1), and the same around an MLP.

    The six vectors, in the order shift1, scale1, gate1, shift2, scale2, gate2, are Linear(SiLU(condition)), which is
    zero at first.

    Attributes:
      heads: of attention.
      hidden: width of the MLP.
      rms: RMSNorm with a learned scale instead of LayerNorm.
      swiglu: SwiGLU instead of tanh-GELU.
      qk_norm: RMSNorm on queries and keys.
      attention: see :mod:`jaxtok.nn.attention`.
    """

    heads: int
    hidden: int
    rms: bool = False
    swiglu: bool = False
    qk_norm: bool = False
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array, angles: Any) -> tuple[jax.Array, None]:
        """One block on x [B, T, D] with condition [B, D] or [B, T, D]. Returns (x, None) for scans."""
        width, types = x.shape[-1], dict(dtype=self.dtype, param_dtype=self.param_dtype)
        vectors = _modulation(6, width, "modulation", types)(nn.silu(condition))
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(vectors, 6, axis=-1)
        if condition.ndim == 2:
            gate1, gate2 = gate1[:, None], gate2[:, None]
        y = modulate(_Norm(self.rms, self.param_dtype, name="attention_norm")(x), shift1, scale1)
        attend = SelfAttention(self.heads, qk_norm=self.qk_norm, attention=self.attention, name="attention", **types)
        x = x + gate1 * attend(y, angles=angles)
        y = modulate(_Norm(self.rms, self.param_dtype, name="mlp_norm")(x), shift2, scale2)
        return x + gate2 * self._mlp(y, types), None

    def _mlp(self, y: jax.Array, types: dict[str, Any]) -> jax.Array:
        init = nn.initializers.xavier_uniform()
        if self.swiglu:
            return SwiGLU(self.hidden, bias=True, kernel_init=init, name="mlp", **types)(y)
        h = nn.Dense(self.hidden, kernel_init=init, name="hidden_linear", **types)(y)
        return nn.Dense(y.shape[-1], kernel_init=init, name="out_linear", **types)(nn.gelu(h, approximate=True))


class DiT(nn.Module):
    """A diffusion transformer on images or grids of latents, conditioned on time and class: the output is 0 at first.

    With the defaults it is DiT; ``rms``, ``swiglu`` and ``rope`` make it LightningDiT. Time is fed as it comes: DiT's
    is the index of a table of 1000, SiT's and LightningDiT's runs from 0 (noise) to 1 (data); a wrapper translates.

    Attributes:
      depth: blocks.
      width: D.
      heads: of attention; they divide D.
      patch: p; the grid is H / p x W / p tokens.
      out_channels: 0 for as many as come in; twice as many where the variance is learned.
      classes: labels run from 0 to classes - 1; ``classes`` itself is the label of no class. 0 for no labels at all.
      ratio: hidden width of the MLP over D; a SwiGLU has two thirds of it, rounded down.
      rms: RMSNorm with a learned scale instead of LayerNorm.
      swiglu: SwiGLU with biases instead of tanh-GELU.
      rope: axial rotary positions in every block, beside the fixed table.
      qk_norm: RMSNorm on queries and keys.
      scan: True stacks the blocks' parameters and compiles one of them.
      remat: see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    depth: int
    width: int
    heads: int
    patch: int = 2
    out_channels: int = 0
    classes: int = 0
    ratio: float = 4.0
    rms: bool = False
    swiglu: bool = False
    rope: bool = False
    qk_norm: bool = False
    scan: bool = True
    remat: str = ""
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, label: jax.Array | None = None) -> jax.Array:
        """The prediction for x [B, H, W, C] at times t [B] and labels int [B]: float32 [B, H, W, out_channels]."""
        batch, height, width, channels = x.shape
        down, across, p = height // self.patch, width // self.patch, self.patch
        if height % p or width % p:
            raise ValueError(f"DiT: patch {p} must divide the grid, found shape {x.shape}")
        if (label is None) != (self.classes == 0):
            raise ValueError(
                f"DiT: {self.classes} classes and {'no label' if label is None else 'a label'} do not agree"
            )
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        tokens = x.reshape(batch, down, p, across, p, channels).swapaxes(2, 3).reshape(batch, down * across, -1)
        init = nn.initializers.xavier_uniform()
        h = nn.Dense(self.width, kernel_init=init, name="patch_linear", **types)(tokens)
        h = h + jnp.asarray(embed.grid_table(down, across, self.width), h.dtype)
        condition = TimeEmbedding(self.width, name="time", **types)(t)
        if label is not None:
            init = nn.initializers.normal(0.02)
            table = nn.Embed(self.classes + 1, self.width, embedding_init=init, name="label", **types)
            condition = condition + table(label)
        h = self._blocks(h, condition, down, across, types)
        shift, scale = jnp.split(_modulation(2, self.width, "last_modulation", types)(nn.silu(condition)), 2, axis=-1)
        h = modulate(_Norm(self.rms, self.param_dtype, name="last_norm")(h), shift, scale)
        out = self.out_channels or channels
        types["dtype"] = jnp.float32
        h = nn.Dense(p * p * out, kernel_init=nn.initializers.zeros, name="last_linear", **types)(h)
        return h.reshape(batch, down, across, p, p, out).swapaxes(2, 3).reshape(batch, height, width, out)

    def _blocks(self, h: jax.Array, condition: jax.Array, down: int, across: int, types: dict[str, Any]) -> jax.Array:
        hidden = int(self.ratio * self.width * 2 / 3) if self.swiglu else int(self.ratio * self.width)
        options: dict[str, Any] = dict(
            heads=self.heads, hidden=hidden, rms=self.rms, swiglu=self.swiglu, qk_norm=self.qk_norm,
            attention=self.attention, **types,
        )  # fmt: skip
        angles = rope.axial_angles(down, across, self.width // self.heads) if self.rope else None
        block = remat(DiTBlock, self.remat, scanned=self.scan)
        if not self.scan:
            for i in range(self.depth):
                h, _ = block(name=f"blocks_{i}", **options)(h, condition, angles)
            return h
        stack = nn.scan(
            block, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth,
            in_axes=(nn.broadcast, nn.broadcast),
        )  # fmt: skip
        return stack(name="blocks", **options)(h, condition, angles)[0]


def _modulation(count: int, width: int, name: str, types: dict[str, Any]) -> nn.Dense:
    return nn.Dense(count * width, kernel_init=nn.initializers.zeros, name=name, **types)
