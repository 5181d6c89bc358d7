"""SQ-Codec's networks: waveforms to bounded vectors and back by residual units with PReLU and strided convolutions.

Source: Yang et al., "SimpleSpeech" (arXiv 2406.02328) and "SimpleSpeech 2" (arXiv 2408.13893). Between encoder and
decoder stands :class:`jaxtok.quantizers.ScalarRound`, which has the tanh. Kernels are plain, released weight
normalisation is folded (:mod:`jaxtok.convert.sq_codec`).
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn.conv1d import Conv1D, ConvTranspose1D
from jaxtok.nn.remat import remat
from jaxtok.nn.stream import Held, Part, Unit, Walk, Whole, inside, lengths_of, real

DILATIONS = (1, 3, 5, 7, 9)


def prelu(x: jax.Array, slope: jax.Array) -> jax.Array:
    """x where it is positive, ``slope`` x elsewhere (He et al., arXiv 1502.01852)."""
    return jnp.where(x > 0, x, slope.astype(x.dtype) * x)


def sample_conv(features: int, size: int, stride: int = 1, dilation: int = 1, *, causal: bool, **fields: Any) -> Conv1D:
    """A convolution with zeros around: (size - 1) dilation before where it is causal, else half of them on each side.

    Half is rounded down; with a stride there are as many zeros.
    """
    total = (size - 1) * dilation
    return Conv1D(features, size, stride, dilation, (total, 0) if causal else (total // 2, total // 2), **fields)


@dataclasses.dataclass(frozen=True)
class Pool:
    """The mean of each ``factor`` positions; a rest is dropped."""

    factor: int
    name: str = "pool"

    def frames(self, length: Any) -> Any:
        """floor(length / factor)."""
        return length // self.factor

    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """[B, T, C] -> [B, floor(T / factor), C]."""
        count = x.shape[1] // self.factor
        return x[:, : count * self.factor].reshape(len(x), count, self.factor, x.shape[-1]).mean(2)

    def stream(self, x: jax.Array, state: Held | None, last: bool) -> tuple[jax.Array, Held]:
        """The means of what is whole by now, and the rest."""
        if state is not None:
            x = jnp.concatenate([state.inputs, x], axis=1)
        return self(x), Held(x[:, x.shape[1] // self.factor * self.factor :], True)


@dataclasses.dataclass(frozen=True)
class Repeat:
    """Each position ``factor`` times."""

    factor: int
    name: str = "repeat"

    def frames(self, length: Any) -> Any:
        """length times factor."""
        return length * self.factor

    def __call__(self, x: jax.Array, lengths: jax.Array | None = None) -> jax.Array:
        """[B, T, C] -> [B, factor T, C]."""
        return jnp.repeat(x, self.factor, axis=1)

    def stream(self, x: jax.Array, state: Any, last: bool) -> tuple[jax.Array, tuple[()]]:
        """Without a state."""
        return self(x), ()


class ResidualUnit(Unit):
    """x + prelu(conv(prelu(conv(x)))): a dilated convolution, then one of a single position.

    Attributes:
      dilation: of the first convolution.
      size: of its window.
      causal: see :class:`Encoder`.
    """

    dilation: int
    size: int = 7
    causal: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def walk(self, walk: Walk, x: jax.Array) -> jax.Array:
        """The unit on what ``walk`` runs layers on."""
        fields: dict[str, Any] = dict(causal=self.causal, dtype=self.dtype, param_dtype=self.param_dtype)
        slopes = [_slope(self, f"slope{i}") for i in (1, 2)]
        h = walk(sample_conv(x.shape[-1], self.size, 1, self.dilation, name="conv1", **fields), x)
        h = walk(sample_conv(x.shape[-1], 1, name="conv2", **fields), prelu(h, slopes[0]))
        return walk.add("sum", x, prelu(h, slopes[1]))


class _Parts(nn.Module):
    """What encoder and decoder have in common: the fields, and how layers are made from them."""

    latent: int = 36
    width: int = 48
    strides: tuple[int, ...] = (2, 4, 4, 5)
    pool: int = 2
    audio_channels: int = 1
    kernel_size: int = 7
    look_ahead: int = 2
    causal: bool = True
    gain: float = 1.0
    remat: str = ""
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return self.pool * math.prod(self.strides)

    @property
    def streams(self) -> bool:
        """Whether there is a ``stream``."""
        return self.causal

    @property
    def _types(self) -> dict[str, Any]:
        return dict(dtype=self.dtype, param_dtype=self.param_dtype)

    @property
    def _direct(self) -> dict[str, Any]:
        return dict(gain=self.gain, **self._types)

    def _conv(self, walk: Walk, x: jax.Array, features: int, name: str) -> jax.Array:
        layer = sample_conv(features, self.kernel_size, causal=self.causal, name=name, **self._direct)
        return walk(layer, x)

    def _units(self, walk: Walk, x: jax.Array, stage: int) -> jax.Array:
        unit = remat(ResidualUnit, self.remat)
        for j, dilation in enumerate(DILATIONS):
            fields: dict[str, Any] = dict(size=self.kernel_size, causal=self.causal, **self._types)
            x = walk(unit(dilation, name=f"stage{stage}_unit{j}", **fields), x)
        return x

    def _check(self, x: jax.Array, channels: int, what: str) -> None:
        if x.ndim != 3 or x.shape[2] != channels:
            raise ValueError(f"{what}: expected [batch, positions, {channels}], found shape {x.shape}")

    def _continue(self, x: jax.Array, channels: int, what: str, state: Any, last: bool) -> Part:
        self._check(x, channels, what)
        if not self.causal:
            raise ValueError(f"{type(self).__name__}: a stream expected causal=True, found False")
        return Part(state, last)


class Encoder(_Parts):
    """Waveforms to frames of unbounded numbers, which :class:`jaxtok.quantizers.ScalarRound` bounds and rounds.

    Convolution; with ``pool`` > 1 another one, PReLU and the mean of ``pool`` samples; at each stage five residual
    units with dilations 1, 3, 5, 7, 9 and a convolution of 2 stride that doubles the width, with PReLU, whose one slope
    ``down_slope`` all stages share as the reference's do; convolution. The defaults are the released 16 kHz codec of 50
    frames a second, 23.48 M parameters with the decoder.

    Attributes:
      latent: channels of the frames.
      width: at the sample rate.
      strides: of the stages, the first first; for the decoder as well.
      pool: samples that are averaged before the stages.
      audio_channels: of the waveforms.
      kernel_size: of all convolutions without a stride, but for the decoder's first.
      look_ahead: frames after its own that the decoder's first convolution sees, causal or not.
      causal: pads before the signal alone: a frame sees samples up to its first ``pool``, none of the following.
      gain: kernels outside residual units begin with so many times PyTorch's default. With 1, as in the reference, the
        signal fades from layer to layer, all frames are alike at first, and a short run does not get over it.
      remat: of residual units, see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    @nn.compact
    def walk(self, walk: Walk, x: jax.Array) -> jax.Array:
        """The network on what ``walk`` runs layers on."""
        x = self._conv(walk, x, self.width, "conv_in")
        if self.pool > 1:
            x = prelu(self._conv(walk, x, self.width, "pool_conv"), _slope(self, "pool_slope"))
            x = walk(Pool(self.pool), x)
        slope = _slope(self, "down_slope")
        for i, stride in enumerate(self.strides):
            x = self._units(walk, x, i)
            fields: dict[str, Any] = dict(causal=self.causal, name=f"stage{i}_down", **self._direct)
            x = prelu(walk(sample_conv(2 * x.shape[-1], 2 * stride, stride, **fields), x), slope)
        return self._conv(walk, x, self.latent, "conv_out").astype(jnp.float32)

    def frames(self, samples: Any) -> Any:
        """Frames of so many samples, a number or an array: causal, ceil(floor(samples / pool) / (hop / pool))."""
        samples = samples // self.pool
        for stride in self.strides:
            samples = -(-samples // stride) if self.causal else (samples - 2) // stride + 1
        return samples

    def __call__(self, audio: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
        """Frames float32 [B, frames(L), latent] and their mask.

        Args:
          audio: [B, L, audio_channels].
          mask: [B, L], True on a row's samples, which come first; a row then gives what it gives alone, and zeros.

        Raises:
          ValueError: for another shape of audio or mask, or audio that is too short for a frame.
        """
        self._check(audio, self.audio_channels, "audio")
        if self.frames(audio.shape[1]) < 1:
            raise ValueError(f"audio: expected enough samples for a frame (one per {self.hop}), found {audio.shape[1]}")
        walk = Whole(lengths_of(mask, audio))
        z = self.walk(walk, audio)
        return inside(z, walk.lengths), None if walk.lengths is None else real(walk.lengths, z.shape[1])

    def stream(self, audio: jax.Array, state: Any = None, last: bool = False) -> tuple[jax.Array, Any]:
        """The frames of the samples so far, and the state for those that follow; see :mod:`jaxtok.nn.stream`.

        Raises:
          ValueError: for another shape, or a network that is not causal.
        """
        part = self._continue(audio, self.audio_channels, "audio", state, last)
        return self.walk(part, audio), part.state


class Decoder(_Parts):
    """Frames to waveforms: the encoder's mirror; a stage is a transposed convolution and five residual units.

    The fields are the encoder's.
    """

    @nn.compact
    def walk(self, walk: Walk, x: jax.Array) -> jax.Array:
        """The network on what ``walk`` runs layers on."""
        size, channels = 2 * self.look_ahead + 1, self.width * 2 ** len(self.strides)
        x = walk(sample_conv(channels, size, causal=False, name="conv_in", **self._direct), x)
        for i, stride in reversed(list(enumerate(self.strides))):
            trim = (0, stride) if self.causal else (stride // 2, stride // 2)
            layer = ConvTranspose1D(x.shape[-1] // 2, 2 * stride, stride, trim, name=f"stage{i}_up", **self._direct)
            x = self._units(walk, walk(layer, x), i)
        if self.pool > 1:
            x = walk(Repeat(self.pool), x)
            x = prelu(self._conv(walk, x, self.width, "pool_conv"), _slope(self, "pool_slope"))
        return self._conv(walk, x, self.audio_channels, "conv_out").astype(jnp.float32)

    def __call__(self, z: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Audio float32 [B, hop T, audio_channels], not limited to [-1, 1]; not causal, odd strides add samples.

        Args:
          z: [B, T, latent], of the quantizer's grid.
          mask: [B, T], True on a row's frames, which come first; a row then gives what it gives alone, and zeros.

        Raises:
          ValueError: for another shape of z or mask.
        """
        self._check(z, self.latent, "latents")
        if z.shape[1] == 0:
            raise ValueError("latents: expected at least one frame, found none")
        walk = Whole(lengths_of(mask, z))
        return inside(self.walk(walk, z), walk.lengths)

    def stream(self, z: jax.Array, state: Any = None, last: bool = False) -> tuple[jax.Array, Any]:
        """The samples of the frames so far but the last ``look_ahead``, and the state for those that follow.

        Raises:
          ValueError: for another shape, or a network that is not causal.
        """
        part = self._continue(z, self.latent, "latents", state, last)
        return self.walk(part, z), part.state


def _slope(module: nn.Module, name: str) -> jax.Array:
    return module.param(name, nn.initializers.constant(0.25), (), jnp.float32)
