"""Convolutions over images, channels last, and changes of resolution: ``[B, H, W, C] -> [B, H', W', C']``."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# PyTorch's default for convolutions and Linears: uniform in +-1/sqrt(inputs of one output), biases likewise.
uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def uniform_bias(inputs: int) -> nn.initializers.Initializer:
    """Uniform in +-1/sqrt(inputs), with ``inputs`` the number of values that one output sums over."""

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, minval=-(inputs**-0.5), maxval=inputs**-0.5)

    return init


def conv(inputs: int, features: int, size: int = 3, **fields: Any) -> nn.Conv:
    """A convolution with a ``size x size`` window, "same" zero padding, and PyTorch's default initialisation.

    Args:
      inputs: channels of what comes in; the biases' deviation depends on it.
      features: channels of what comes out.
      size: of the window.
      **fields: further fields of ``nn.Conv``: ``name``, ``strides``, ``padding``, ``dtype``, ``param_dtype``.
    """
    options: dict[str, Any] = {"kernel_init": uniform, "bias_init": uniform_bias(inputs * size * size)} | fields
    return nn.Conv(features, (size, size), **options)


def dense(inputs: int, features: int, **fields: Any) -> nn.Dense:
    """A convolution with a window of one position, with PyTorch's default initialisation."""
    options: dict[str, Any] = {"kernel_init": uniform, "bias_init": uniform_bias(inputs)} | fields
    return nn.Dense(features, **options)


class Downsample(nn.Module):
    """Half the height and width by a 3 x 3 convolution of stride 2, padded by one zero at the bottom and the right."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, H, W, C] -> [B, H / 2, W / 2, C]``."""
        options: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        return conv(x.shape[-1], x.shape[-1], strides=(2, 2), padding=((0, 1), (0, 1)), name="conv", **options)(x)


class Upsample(nn.Module):
    """Twice the height and width: each value four times (nearest neighbour), then a 3 x 3 convolution."""

    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, H, W, C] -> [B, 2 H, 2 W, C]``."""
        options: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        return conv(x.shape[-1], x.shape[-1], name="conv", **options)(nearest(x))


def nearest(x: jax.Array, factor: int = 2) -> jax.Array:
    """Each value ``factor x factor`` times: ``[B, H, W, C] -> [B, factor H, factor W, C]``."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, factor, width, factor, channels))
    return x.reshape(batch, factor * height, factor * width, channels)


class GroupNorm(nn.Module):
    """Group normalisation with statistics in float32 (Wu and He, arXiv 1803.08494).

    Attributes:
      groups: of neighbouring channels; must divide their number.
    """

    groups: int = 32
    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Normalises each example's groups over positions and channels; parameters ``scale [C]`` and ``bias [C]``.

        Args:
          x: [B, positions..., C].
          mask: [B, positions...], True on the positions that count; all where absent.

        Raises:
          ValueError: when the groups do not divide the channels.
        """
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(f"GroupNorm: groups must divide the {channels} channels, found {self.groups}")
        scale = self.param("scale", nn.initializers.ones, (channels,), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        grouped = x.astype(jnp.float32).reshape(x.shape[0], math.prod(x.shape[1:-1]), self.groups, -1)
        counted = None if mask is None else mask.reshape(x.shape[0], -1, 1, 1)
        mean = grouped.mean((1, 3), where=counted)  # [B, groups]
        variance = jnp.square(grouped - mean[:, None, :, None]).mean((1, 3), where=counted)
        wide = (x.shape[0],) + (1,) * (x.ndim - 2) + (channels,)

        def spread(statistic: jax.Array) -> jax.Array:
            return jnp.repeat(statistic, channels // self.groups, axis=1).reshape(wide)

        slope = spread(jax.lax.rsqrt(variance + self.epsilon)) * scale
        return ((x.astype(jnp.float32) - spread(mean)) * slope + bias).astype(self.dtype)
