"""Oobleck: waveforms to the moments of Gaussian latents and back, by residual units with snake activations.

Source: Evans et al., "Fast Timing-Conditioned Latent Audio Diffusion" (arXiv 2402.04825) and "Stable Audio Open" (arXiv
2407.14358); the defaults are EzAudio's (Hai et al., arXiv 2409.10819), 50 frames a second at 24 kHz. DAC's networks
(Kumar et al., arXiv 2306.06546) are these but for the decoder's end. Kernels are plain, released weight normalisation
is folded (:mod:`jaxtok.convert.oobleck`, :mod:`jaxtok.convert.dac`).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn.conv1d import Conv1D, ConvTranspose1D
from jaxtok.nn.remat import remat
from jaxtok.nn.snake import Snake
from jaxtok.nn.stream import Unit, Walk, Whole, inside, lengths_of, real

DILATIONS = (1, 3, 9)


class ResidualUnit(Unit):
    """x + conv(snake(conv(snake(x)))): a dilated convolution of 7, then one of a single position."""

    dilation: int
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def walk(self, walk: Walk, x: jax.Array) -> jax.Array:
        """The unit on what ``walk`` runs layers on."""
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        around = (3 * self.dilation, 3 * self.dilation)
        h = Snake(name="snake1", **types)(x)
        h = walk(Conv1D(x.shape[-1], 7, dilation=self.dilation, padding=around, name="conv1", **types), h)
        h = Snake(name="snake2", **types)(h)
        return walk.add("sum", x, walk(Conv1D(x.shape[-1], 1, name="conv2", **types), h))


class _Parts(nn.Module):
    """What encoder and decoder have in common: the fields, and how layers are made from them."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4, 8)
    strides: tuple[int, ...] = (2, 4, 6, 10)
    latent: int = 128
    audio_channels: int = 1
    remat: str = ""
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        if len(self.multipliers) != len(self.strides):
            raise ValueError(f"Oobleck: expected a multiplier per stride, found {self.multipliers} and {self.strides}")
        super().__post_init__()

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    @property
    def _types(self) -> dict[str, Any]:
        return dict(dtype=self.dtype, param_dtype=self.param_dtype)

    def _conv(self, walk: Walk, x: jax.Array, features: int, size: int, name: str, **fields: Any) -> jax.Array:
        around = (size // 2, size // 2)
        return walk(Conv1D(features, size, padding=around, name=name, **fields, **self._types), x)

    def _snake(self, name: str) -> Snake:
        return Snake(name=name, **self._types)

    def _units(self, walk: Walk, x: jax.Array, stage: int) -> jax.Array:
        unit = remat(ResidualUnit, self.remat)
        for j, dilation in enumerate(DILATIONS):
            x = walk(unit(dilation, name=f"stage{stage}_unit{j}", **self._types), x)
        return x

    def _begin(self, x: jax.Array, channels: int, what: str, mask: jax.Array | None) -> Whole:
        if x.ndim != 3 or x.shape[1] == 0 or x.shape[2] != channels:
            raise ValueError(
                f"{what}: expected [batch, positions, {channels}] with positions > 0, found shape {x.shape}"
            )
        return Whole(lengths_of(mask, x))


class Encoder(_Parts):
    """Waveforms to moments, of which :class:`jaxtok.quantizers.Gaussian` makes mean and deviation.

    Convolution 7; at each stage three residual units with dilations 1, 3, 9, snake and a convolution of 2 stride with
    ceil(stride / 2) zeros on each side; snake; convolution 3.

    Attributes:
      channels: width at the sample rate.
      multipliers: of the width behind each stage.
      strides: of the stages, the first first; for the decoder as well.
      latent: channels of the latents; there are twice as many moments.
      audio_channels: of the waveforms.
      remat: of residual units, see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    def frames(self, samples: Any) -> Any:
        """Frames of so many samples, a number or an array: floor(samples / hop) where all strides are even."""
        for stride in self.strides:
            samples = (samples + 2 * -(-stride // 2) - 2 * stride) // stride + 1
        return samples

    @nn.compact
    def __call__(self, audio: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
        """Moments float32 [B, frames(L), 2 latent] and their mask.

        Args:
          audio: [B, L, audio_channels].
          mask: [B, L], True on a row's samples, which come first; a row then gives what it gives alone, and zeros.

        Raises:
          ValueError: for another shape of audio or mask, or audio that is too short for a frame.
        """
        walk = self._begin(audio, self.audio_channels, "audio", mask)
        if self.frames(audio.shape[1]) < 1:
            raise ValueError(f"audio: expected enough samples for a frame (one per {self.hop}), found {audio.shape[1]}")
        x = self._conv(walk, audio, self.channels, 7, "conv_in")
        for i, (multiplier, stride) in enumerate(zip(self.multipliers, self.strides)):
            x = self._snake(f"stage{i}_snake")(self._units(walk, x, i))
            half, name = -(-stride // 2), f"stage{i}_down"
            layer = Conv1D(multiplier * self.channels, 2 * stride, stride, 1, (half, half), name=name, **self._types)
            x = walk(layer, x)
        x = self._conv(walk, self._snake("snake_out")(x), 2 * self.latent, 3, "conv_out").astype(jnp.float32)
        return inside(x, walk.lengths), None if walk.lengths is None else real(walk.lengths, x.shape[1])


class Decoder(_Parts):
    """Latents to waveforms: the encoder's mirror, with transposed convolutions before the residual units.

    The fields are the encoder's and two of its own, True in DAC.

    Attributes:
      bias: whether the last convolution has one.
      tanh: whether tanh limits the audio to [-1, 1].
    """

    bias: bool = False
    tanh: bool = False

    @nn.compact
    def __call__(self, z: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Audio float32 [B, hop T, audio_channels], limited by ``tanh`` alone; each odd stride takes one position off.

        Args:
          z: [B, T, latent].
          mask: [B, T], True on a row's frames, which come first; a row then gives what it gives alone, and zeros.

        Raises:
          ValueError: for another shape of z or mask.
        """
        walk = self._begin(z, self.latent, "latents", mask)
        x = self._conv(walk, z, self.multipliers[-1] * self.channels, 7, "conv_in")
        widths = (1, *self.multipliers)
        for i, stride in reversed(list(enumerate(self.strides))):
            half, name, width = -(-stride // 2), f"stage{i}_up", widths[i] * self.channels
            layer = ConvTranspose1D(width, 2 * stride, stride, (half, half), name=name, **self._types)
            x = self._units(walk, walk(layer, self._snake(f"stage{i}_snake")(x)), i)
        x = self._conv(walk, self._snake("snake_out")(x), self.audio_channels, 7, "conv_out", use_bias=self.bias)
        x = x.astype(jnp.float32)
        return inside(jnp.tanh(x) if self.tanh else x, walk.lengths)
