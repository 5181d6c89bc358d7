"""Vocos: mel frames to audio by a stack of ConvNeXt blocks at the frame rate and one inverse Fourier transform.

Source: Siuzdak, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders" (arXiv 2306.00814);
defaults are TaDiCodec's vocoder (arXiv 2508.16790), 255.04 M parameters. Generator only.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from jaxtok.nn.conv2d import uniform, uniform_bias
from jaxtok.signal.stft import istft

MAX_MAGNITUDE = 100.0

# The reference truncates its normal of deviation 0.02 at -2 and 2, a hundred deviations away: a plain normal.
_normal = nn.initializers.normal(0.02)


class DepthwiseConv1D(nn.Module):
    """One filter per channel along time, "same" zero padding: ``[B, T, C] -> [B, T, C]``.

    A sum of shifted products: XLA fuses it, and on a CPU it takes a fiftieth of the time of a grouped convolution.

    Attributes:
      kernel_size: odd number of frames.
    """

    kernel_size: int = 7
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Filters ``[B, T, C]``; parameters ``kernel [kernel_size, C]`` and ``bias [C]``."""
        channels, frames, reach = x.shape[-1], x.shape[1], self.kernel_size // 2
        kernel = self.param("kernel", _normal, (self.kernel_size, channels), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (channels,), self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        padded = jnp.pad(x, ((0, 0), (reach, reach), (0, 0)))
        total = bias
        for i in range(self.kernel_size):
            total = total + padded[:, i : i + frames] * kernel[i]
        return total


class ConditionalLayerNorm(nn.Module):
    """LayerNorm whose scale and shift depend on which of a few conditions holds: ``[B, T, C] -> [B, T, C]``.

    Parameters are tables ``scale [conditions, C]``, at first ones, and ``bias [conditions, C]``, zeros. Vocos for
    EnCodec's tokens has one condition per bandwidth.

    Attributes:
      conditions: rows of the tables.
    """

    conditions: int
    epsilon: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
        """Normalises the last axis; ``condition`` is int32 [B]."""
        shape = (self.conditions, x.shape[-1])
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        scale, bias = (jnp.take(table, condition, axis=0)[:, None] for table in (scale, bias))
        x = nn.LayerNorm(self.epsilon, use_bias=False, use_scale=False, dtype=jnp.float32)(x)
        return (x * scale + bias).astype(self.dtype)


class ConvNeXtBlock(nn.Module):
    """x + scale * Linear(gelu(Linear(LayerNorm(depthwise(x))))), with the exact (erf) GELU: ``[B, T, C] -> [B, T, C]``.

    Source: Liu et al., "A ConvNet for the 2020s" (arXiv 2201.03545), in one dimension.

    Attributes:
      hidden: width between the two Linears.
      scale: initial value of the per-channel ``scale``.
      kernel_size: of the depthwise convolution, odd.
      conditions: of a :class:`ConditionalLayerNorm`; 0 for a LayerNorm.
    """

    hidden: int
    scale: float
    kernel_size: int = 7
    conditions: int = 0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None = None, condition: jax.Array | None = None
    ) -> jax.Array:  # fmt: skip
        """Applies the block; frames outside ``mask [B, T, 1]`` enter the convolution as zeros.

        Raises:
          ValueError: where there are conditions but no ``condition`` int32 [B].
        """
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        dense: dict[str, Any] = dict(kernel_init=_normal, **types)
        h = DepthwiseConv1D(self.kernel_size, name="depthwise", **types)(_inside(x, mask))
        if self.conditions:
            if condition is None:
                raise ValueError(f"condition: expected int32 [batch] below {self.conditions}, found None")
            h = ConditionalLayerNorm(self.conditions, name="norm", **types)(h, condition)
        else:
            h = nn.LayerNorm(epsilon=1e-6, name="norm", **types)(h)
        h = nn.gelu(nn.Dense(self.hidden, name="expand", **dense)(h), approximate=False)
        h = nn.Dense(x.shape[-1], name="contract", **dense)(h)
        scale = self.param("scale", nn.initializers.constant(self.scale), (x.shape[-1],), self.param_dtype)
        return x + h * scale.astype(h.dtype)


class InverseSTFT(nn.Module):
    """Frames to audio, ``[B, T, C] -> [B, hop T]``, by one Linear and an inverse STFT.

    The Linear gives ``n_fft + 2`` numbers a frame: log-magnitudes and phases. It, the magnitudes (at most 100) and the
    transform are always in float32.

    Attributes:
      n_fft: window and transform length in samples.
      hop: samples per frame.
      padding: "same", or "center" for frames on multiples of the hop, of which the audio has ``hop (T - 1)`` samples.
    """

    n_fft: int
    hop: int
    padding: str = "same"
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Audio float32 [B, hop T], or of ``hop (T - 1)`` samples; those of frames outside ``mask [B, T]`` are 0."""
        linear = nn.Dense(
            self.n_fft + 2, kernel_init=uniform, bias_init=uniform_bias(x.shape[-1]), dtype=jnp.float32,
            param_dtype=self.param_dtype,
        )  # fmt: skip
        nn.share_scope(self, linear)  # the parameters are this module's own
        log_magnitude, phase = jnp.split(linear(x), 2, axis=-1)
        magnitude = jnp.exp(jnp.minimum(log_magnitude, math.log(MAX_MAGNITUDE)))
        spectrum = jax.lax.complex(magnitude * jnp.cos(phase), magnitude * jnp.sin(phase))
        return istft(spectrum, self.n_fft, self.hop, padding=self.padding, mask=mask)


class Vocos(nn.Module):
    """Normalised log-mel frames to audio: ``[B, T, bands] -> [B, hop * T]``.

    Convolution 7, LayerNorm, ConvNeXt blocks, LayerNorm, inverse STFT. A row gives the same audio alone, in a batch and
    (with ``mask``) padded.

    Attributes:
      bands: mel bands of the input. Feed the normalised mel of the front end, not decibels, not the raw logarithm.
      width: channels of the blocks; ``hidden`` is the width inside them, ``depth`` their number.
      n_fft: window and transform length in samples; ``hop`` the samples per frame.
      padding: as the mel was framed: "same", or "center" for frames on multiples of the hop, as the article's releases.
    """

    bands: int = 128
    width: int = 1024
    hidden: int = 4096
    depth: int = 30
    n_fft: int = 1920
    hop: int = 480
    padding: str = "same"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, mel: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Audio ``[B, hop * T]`` ("center": ``hop * (T - 1)``), float32, not limited to [-1, 1].

        Args:
          mel: ``[B, T, bands]``.
          mask: ``[B, T]`` boolean, true on real frames; samples of the other frames are 0.

        Raises:
          ValueError: when the mel has another rank, no frame or another number of bands.
        """
        if mel.ndim != 3 or mel.shape[1] == 0 or mel.shape[2] != self.bands:
            raise ValueError(f"mel: found shape {mel.shape}, expected [batch, frames, {self.bands}] with frames > 0")
        if mask is not None and mask.shape != mel.shape[:2]:
            raise ValueError(f"mask: found shape {mask.shape}, expected {mel.shape[:2]} as the mel has frames")
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        present = None if mask is None else mask[..., None]
        x = nn.Conv(self.width, (7,), padding="SAME", kernel_init=_normal, name="embed", **types)(_inside(mel, present))
        x = nn.LayerNorm(epsilon=1e-6, name="norm", **types)(x)
        for i in range(self.depth):
            x = ConvNeXtBlock(self.hidden, 1 / self.depth, name=f"blocks_{i}", **types)(x, present)
        x = nn.LayerNorm(epsilon=1e-6, name="final_norm", **types)(x)
        return InverseSTFT(self.n_fft, self.hop, self.padding, self.param_dtype, name="head")(x, mask)


def _inside(x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return x if mask is None else jnp.where(mask, x, 0)
