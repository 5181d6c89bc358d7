"""The VQGAN's convolutional encoder and decoder: images to a grid of vectors and back.

Source: Esser et al., "Taming Transformers for High-Resolution Image Synthesis" (arXiv 2012.09841), in LlamaGen's form
(Sun et al., arXiv 2406.06525): attention at the lowest resolution only. The defaults are its VQ-16, 16 x 16 vectors of
an image of 256 x 256.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn import attention as attention_lib
from jaxtok.nn.conv2d import Downsample, GroupNorm, Upsample, conv, dense
from jaxtok.nn.remat import remat


class ResBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))), with a 1 x 1 convolution of x where the width changes.

    Attributes:
      features: channels out.
      groups: of the normalisations.
    """

    features: int
    groups: int = 32
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, H, W, C] -> [B, H, W, features]``."""
        options: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        inputs = x.shape[-1]
        h = nn.swish(GroupNorm(self.groups, name="norm1", **options)(x))
        h = conv(inputs, self.features, name="conv1", **options)(h)
        h = nn.swish(GroupNorm(self.groups, name="norm2", **options)(h))
        h = conv(self.features, self.features, name="conv2", **options)(h)
        if inputs != self.features:
            x = dense(inputs, self.features, name="shortcut", **options)(x)
        return x + h


class AttentionBlock(nn.Module):
    """x + out(attention(norm(x))): one head of the full width over all positions, of an image or of any signal.

    Attributes:
      groups: of the normalisation.
      attention: see :mod:`jaxtok.nn.attention`.
    """

    groups: int = 32
    attention: attention_lib.Attention = attention_lib.xla
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """``[B, positions..., C] -> [B, positions..., C]``; ``mask [B, positions...]`` marks what is real."""
        options: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        batch, channels = x.shape[0], x.shape[-1]
        h = GroupNorm(self.groups, name="norm", **options)(x, mask).reshape(batch, -1, channels)
        query, key, value = (
            dense(channels, channels, name=name, **options)(h)[:, :, None] for name in ("query", "key", "value")
        )
        keys = attention_lib.key_mask(None if mask is None else mask.reshape(batch, -1))
        h = self.attention(query, key, value, keys)[:, :, 0]
        return x + dense(channels, channels, name="out", **options)(h).reshape(x.shape)


class _Parts(nn.Module):
    """What encoder and decoder have in common: the fields, and how a block is made from them."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    z_channels: int = 256
    image_channels: int = 3
    groups: int = 32
    attention: attention_lib.Attention = attention_lib.xla
    remat: str = ""
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def factor(self) -> int:
        """Pixels per vector, in height and in width."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def _options(self) -> dict[str, Any]:
        return dict(dtype=self.dtype, param_dtype=self.param_dtype)

    def _res(self, level: int, name: str) -> nn.Module:
        return remat(ResBlock, self.remat)(
            self.channels * self.multipliers[level], self.groups, name=name, **self._options
        )

    def _attend(self, name: str) -> nn.Module:
        return AttentionBlock(self.groups, self.attention, name=name, **self._options)

    def _middle(self, x: jax.Array) -> jax.Array:
        x = self._attend("middle_attention")(self._res(-1, "middle_res0")(x))
        return self._res(-1, "middle_res1")(x)

    def _finish(self, x: jax.Array, features: int) -> jax.Array:
        x = nn.swish(GroupNorm(self.groups, name="norm_out", **self._options)(x))
        return conv(x.shape[-1], features, name="conv_out", **self._options)(x).astype(jnp.float32)


class Encoder(_Parts):
    """Images to a grid of vectors.

    A 3 x 3 convolution; at each level ``blocks`` residual blocks and, but for the last level, half the resolution; at
    the last level attention after each block; then residual block, attention, residual block, norm, swish, convolution.

    Attributes:
      channels: width at multiplier 1.
      multipliers: of the width, one per level; the grid is 2^(levels - 1) times smaller than the image.
      blocks: residual blocks per level.
      z_channels: width of the vectors.
      image_channels: of the images.
      groups: of all normalisations; must divide ``channels``.
      attention: see :mod:`jaxtok.nn.attention`.
      remat: of residual blocks, see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, None]:
        """Vectors float32 [B, H / factor, W / factor, z_channels] of images [B, H, W, C], and no mask of them.

        Raises:
          ValueError: for another rank, number of channels or resolution, or when there is a mask: images are whole.
        """
        if x.ndim != 4 or x.shape[-1] != self.image_channels or x.shape[1] % self.factor or x.shape[2] % self.factor:
            raise ValueError(
                f"images: expected [batch, height, width, {self.image_channels}] with height and width in multiples of "
                f"{self.factor}, found shape {x.shape}"
            )
        if mask is not None:
            raise ValueError("mask: expected None, as images have no padding, found an array")
        x = conv(self.image_channels, self.channels, name="conv_in", **self._options)(x)
        last = len(self.multipliers) - 1
        for level in range(last + 1):
            for i in range(self.blocks):
                x = self._res(level, f"level{level}_res{i}")(x)
                if level == last:
                    x = self._attend(f"level{level}_attention{i}")(x)
            if level < last:
                x = Downsample(name=f"level{level}_downsample", **self._options)(x)
        return self._finish(self._middle(x), self.z_channels), None


class Decoder(_Parts):
    """A grid of vectors to images: the encoder's mirror, with one more residual block per level.

    Attributes:
      channels: width at multiplier 1.
      multipliers: of the width, one per level, in the encoder's order.
      blocks: the encoder's; here there are ``blocks + 1`` residual blocks per level.
      z_channels: width of the vectors.
      image_channels: of the images.
      groups: of all normalisations; must divide ``channels``.
      attention: see :mod:`jaxtok.nn.attention`.
      remat: of residual blocks, see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    @nn.compact
    def __call__(self, z: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Images float32 [B, H, W, C], not limited to [-1, 1], of vectors [B, H / factor, W / factor, z_channels].

        Raises:
          ValueError: for another rank or width, or when there is a mask: images are whole.
        """
        if z.ndim != 4 or z.shape[-1] != self.z_channels:
            raise ValueError(f"latents: expected [batch, height, width, {self.z_channels}], found shape {z.shape}")
        if mask is not None:
            raise ValueError("mask: expected None, as images have no padding, found an array")
        last = len(self.multipliers) - 1
        width = self.channels * self.multipliers[last]
        x = self._middle(conv(self.z_channels, width, name="conv_in", **self._options)(z))
        for level in reversed(range(last + 1)):
            for i in range(self.blocks + 1):
                x = self._res(level, f"level{level}_res{i}")(x)
                if level == last:
                    x = self._attend(f"level{level}_attention{i}")(x)
            if level > 0:
                x = Upsample(name=f"level{level}_upsample", **self._options)(x)
        return self._finish(x, self.image_channels)
