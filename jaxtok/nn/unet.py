"""The diffusion U-Net: residual blocks with the time, attention among positions and to text, one skip per block.

Dhariwal and Nichol (arXiv 2105.05233) in the form of latent diffusion (Rombach et al., arXiv 2112.10752). The defaults
are Stable Diffusion 1.5's; with ``attend`` all False but the lowest levels, and no text, it is a pixel U-Net.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib
from jaxtok.nn.conv2d import GroupNorm, Upsample, conv, dense, uniform
from jaxtok.nn.dit import class_table
from jaxtok.nn.embed import TimeEmbedding
from jaxtok.nn.mlp import SwiGLU, exact_gelu
from jaxtok.nn.norms import LayerNorm
from jaxtok.nn.remat import remat
from jaxtok.nn.vit import CrossAttention


class ResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x))) + linear(swish(time))))); the last convolution is 0 at first.

    Attributes:
      features: channels out; a 1 x 1 convolution of x where the width changes.
      groups: of the normalisations.
    """

    features: int
    groups: int = 32
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, time: jax.Array) -> jax.Array:
        """``[B, H, W, C], [B, E] -> [B, H, W, features]``."""
        options: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        inputs = x.shape[-1]
        h = nn.swish(GroupNorm(self.groups, 1e-5, name="norm1", **options)(x))
        h = conv(inputs, self.features, name="conv1", **options)(h)
        h = h + dense(time.shape[-1], self.features, name="time", **options)(nn.swish(time))[:, None, None]
        h = nn.swish(GroupNorm(self.groups, 1e-5, name="norm2", **options)(h))
        h = conv(self.features, self.features, name="conv2", kernel_init=nn.initializers.zeros, **options)(h)
        if inputs != self.features:
            x = dense(inputs, self.features, name="shortcut", **options)(x)
        return x + h


class SpatialTransformer(nn.Module):
    """x + out(blocks(in(norm(x)))): attention among all positions, to the text, GEGLU; the map out is 0 at first.

    Attributes:
      depth: blocks.
      heads: of attention; they divide the width.
      groups: of the normalisation.
      attention: see :mod:`jaxtok.nn.attention`.
    """

    depth: int
    heads: int
    groups: int = 32
    attention: attention_lib.Attention = attention_lib.auto
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, text: jax.Array | None = None, text_mask: jax.Array | None = None) -> jax.Array:
        """``[B, H, W, C] -> [B, H, W, C]``; without text [B, N, E] there is no attention to it."""
        options: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        width = x.shape[-1]
        h = GroupNorm(self.groups, name="norm", **options)(x).reshape(len(x), -1, width)
        h = dense(width, width, name="in_linear", **options)(h)
        for i in range(self.depth):
            h = self._block(h, text, text_mask, f"block{i}_", options)
        h = dense(width, width, name="out_linear", kernel_init=nn.initializers.zeros, **options)(h)
        return x + h.reshape(x.shape)

    def _block(
        self, h: jax.Array, text: jax.Array | None, text_mask: jax.Array | None, prefix: str, options: dict[str, Any]
    ) -> jax.Array:
        def norm(name: str) -> jax.Array:
            return LayerNorm(True, 1e-5, self.param_dtype, name=f"{prefix}{name}_norm")(h)

        fields: dict[str, Any] = dict(bias=False, attention=self.attention, kernel_init=uniform, **options)
        y = norm("self")
        h = h + CrossAttention(self.heads, name=f"{prefix}self", **fields)(y, y)
        if text is not None:
            h = h + CrossAttention(self.heads, name=f"{prefix}text", **fields)(norm("text"), text, mask=text_mask)
        mlp = SwiGLU(4 * h.shape[-1], True, uniform, exact_gelu, name=f"{prefix}mlp", **options)
        return h + mlp(norm("mlp"))


class UNet(nn.Module):
    """Images or grids of latents, conditioned on time, text and class: the output is 0 at first.

    A convolution; at each level ``blocks`` residual blocks, with a transformer after each where ``attend`` says so, and
    but for the last level half the resolution; block, transformer, block in the middle; then upwards ``blocks + 1``
    at each level, each of which takes one of the skips; norm, swish, convolution.

    Attributes:
      channels: width at multiplier 1.
      multipliers: of the width, one per level.
      blocks: residual blocks per level.
      attend: which levels have transformers.
      heads: of attention; they divide all widths.
      depth: blocks per transformer; 0 for none, not even in the middle.
      out_channels: 0 for as many as come in.
      classes: labels run from 0 to classes - 1; ``classes`` itself is the label of no class. 0 for no labels at all.
      groups: of all normalisations; must divide ``channels``.
      attention: see :mod:`jaxtok.nn.attention`.
      remat: of residual blocks and transformers, see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    channels: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)
    blocks: int = 2
    attend: tuple[bool, ...] = (True, True, True, False)
    heads: int = 8
    depth: int = 1
    out_channels: int = 0
    classes: int = 0
    groups: int = 32
    attention: attention_lib.Attention = attention_lib.auto
    remat: str = ""
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def _options(self) -> dict[str, Any]:
        return dict(dtype=self.dtype, param_dtype=self.param_dtype)

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, label: jax.Array | None = None, *, text: jax.Array | None = None,
        text_mask: jax.Array | None = None,
    ) -> jax.Array:  # fmt: skip
        """The prediction for x [B, H, W, C]: float32 [B, H, W, out_channels].

        Args:
          x: [B, H, W, C], with H and W multiples of 2^(levels - 1).
          t: [B], in the unit that the network was trained with; SD's is the index of a table of 1000.
          label: int [B], with classes.
          text: [B, N, E].
          text_mask: bool [B, N], True on real tokens.

        Raises:
          ValueError: for another resolution, or fields that do not agree.
        """
        self._check(x, label)
        inputs, last = x.shape[-1], len(self.multipliers) - 1
        time = TimeEmbedding(4 * self.channels, self.channels, name="time", **self._options)(t)
        if label is not None:
            time = time + class_table(self.classes, 4 * self.channels, **self._options)(label)
        h = conv(inputs, self.channels, name="conv_in", **self._options)(x)
        skips = [h]
        for level in range(last + 1):
            for i in range(self.blocks):
                h = self._step(h, time, text, text_mask, level, f"down{level}_{i}")
                skips.append(h)
            if level < last:
                half: dict[str, Any] = dict(strides=(2, 2), padding=((1, 1), (1, 1)))
                h = conv(h.shape[-1], h.shape[-1], name=f"down{level}_half", **half, **self._options)(h)
                skips.append(h)
        h = self._res(last, "middle_res0")(h, time)
        if self.depth:
            h = self._transformer("middle_attention")(h, text, text_mask)
        h = self._res(last, "middle_res1")(h, time)
        for level in reversed(range(last + 1)):
            for i in range(self.blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._step(h, time, text, text_mask, level, f"up{level}_{i}")
            if level:
                h = Upsample(name=f"up{level}_double", **self._options)(h)
        h = nn.swish(GroupNorm(self.groups, 1e-5, name="norm_out", **self._options)(h)).astype(jnp.float32)
        zeros, out = nn.initializers.zeros, self.out_channels or inputs
        fields: dict[str, Any] = dict(kernel_init=zeros, bias_init=zeros, param_dtype=self.param_dtype)
        return conv(self.channels, out, name="conv_out", **fields)(h)

    def _res(self, level: int, name: str) -> nn.Module:
        features = self.channels * self.multipliers[level]
        return remat(ResBlock, self.remat)(features, self.groups, name=name, **self._options)

    def _transformer(self, name: str) -> nn.Module:
        fields: dict[str, Any] = dict(attention=self.attention, name=name, **self._options)
        return remat(SpatialTransformer, self.remat)(self.depth, self.heads, self.groups, **fields)

    def _step(self, h: jax.Array, time: jax.Array, text: Any, text_mask: Any, level: int, name: str) -> jax.Array:
        h = self._res(level, f"{name}_res")(h, time)
        if self.depth and self.attend[level]:
            h = self._transformer(f"{name}_attention")(h, text, text_mask)
        return h

    def _check(self, x: jax.Array, label: jax.Array | None) -> None:
        if len(self.attend) != len(self.multipliers):
            raise ValueError(f"attend: expected {len(self.multipliers)} entries, one per level, found {self.attend}")
        factor = 2 ** (len(self.multipliers) - 1)
        if x.ndim != 4 or x.shape[1] % factor or x.shape[2] % factor:
            raise ValueError(
                f"UNet: expected [batch, height, width, channels] with height and width in multiples of {factor}, "
                f"found shape {x.shape}"
            )
        if (label is None) != (self.classes == 0):
            raise ValueError(
                f"UNet: {self.classes} classes and {'no label' if label is None else 'a label'} do not agree"
            )
