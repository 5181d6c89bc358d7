"""SEANet: waveforms to frames and back by strided convolutions, residual units and an LSTM at the frame rate.

Source: Tagliasacchi et al., "SEANet: A Multi-modal Speech Enhancement Network" (arXiv 2009.02095), in the form of
EnCodec (Défossez et al., "High Fidelity Neural Audio Compression", arXiv 2210.13438), whose encoder WavTokenizer (arXiv
2408.16532) takes over. Weight normalisation is not part of it: kernels are plain, and released ones are folded
(:mod:`jaxtok.convert.seanet`).
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.nn.conv1d import Conv1D, ConvTranspose1D
from jaxtok.nn.lstm import LSTM
from jaxtok.nn.remat import remat
from jaxtok.nn.stream import Part, Unit, Walk, Whole, inside, lengths_of, real

Norm = Callable[..., nn.Module]


def frame_conv(features: int, size: int, stride: int = 1, dilation: int = 1, *, causal: bool, **fields: Any) -> Conv1D:
    """A convolution with one window per ``stride`` positions, the last of them begun: ceil(T / stride) windows.

    The (size - 1) dilation + 1 - stride positions of padding lie before the signal where it is causal, else half of
    them, rounded up; what the last window lacks is padded behind, too.
    """
    total = (size - 1) * dilation + 1 - stride
    right = 0 if causal else total // 2
    return Conv1D(features, size, stride, dilation, (total - right, right), whole=True, **fields)


class ResidualUnit(Unit):
    """shortcut(x) + conv(elu(conv(elu(x)))): kernels 3 and 1, half as many channels between; the shortcut is a conv 1.

    Attributes:
      dilation: of the first convolution.
      causal: see :class:`Encoder`; likewise ``mode``, ``norm`` and ``gain``.
    """

    dilation: int = 1
    causal: bool = True
    mode: str = "reflect"
    norm: Norm | None = None
    gain: float = 1.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def walk(self, walk: Walk, x: jax.Array) -> jax.Array:
        """The unit on what ``walk`` runs layers on."""
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        fields: dict[str, Any] = dict(causal=self.causal, mode=self.mode, gain=self.gain, **types)
        width = x.shape[-1]
        early = walk(frame_conv(width, 1, name="shortcut", **fields), x)
        early = _normalise(early, self.norm, "shortcut_norm", types)
        x = walk(frame_conv(width // 2, 3, 1, self.dilation, name="conv1", **fields), nn.elu(x))
        x = _normalise(x, self.norm, "conv1_norm", types)
        x = walk(frame_conv(width, 1, name="conv2", **fields), nn.elu(x))
        return walk.add("sum", early, _normalise(x, self.norm, "conv2_norm", types))


class _Parts(nn.Module):
    """What encoder and decoder have in common: the fields, and how layers are made from them."""

    dimension: int = 128
    width: int = 32
    strides: tuple[int, ...] = (2, 4, 5, 8)
    audio_channels: int = 1
    units: int = 1
    lstm_layers: int = 2
    causal: bool = True
    mode: str = "reflect"
    norm: Norm | None = None
    gain: float = 1.0
    remat: str = ""
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    @property
    def streams(self) -> bool:
        """Whether there is a ``stream``."""
        return self.causal and self.norm is None

    @property
    def _types(self) -> dict[str, Any]:
        return dict(dtype=self.dtype, param_dtype=self.param_dtype)

    def _conv(self, walk: Walk, x: jax.Array, features: int, size: int, stride: int = 1, *, name: str) -> jax.Array:
        fields: dict[str, Any] = dict(causal=self.causal, mode=self.mode, gain=self.gain, name=name, **self._types)
        return _normalise(walk(frame_conv(features, size, stride, **fields), x), self.norm, f"{name}_norm", self._types)

    def _units(self, walk: Walk, x: jax.Array, stage: int) -> jax.Array:
        unit = remat(ResidualUnit, self.remat)
        for j in range(self.units):
            fields: dict[str, Any] = dict(causal=self.causal, mode=self.mode, norm=self.norm, gain=self.gain)
            x = walk(unit(2**j, name=f"stage{stage}_unit{j}", **fields, **self._types), x)
        return x

    def _lstm(self, walk: Walk, x: jax.Array) -> jax.Array:
        return walk(LSTM(self.lstm_layers, name="lstm", **self._types), x) if self.lstm_layers else x

    def _begin(self, x: jax.Array, channels: int, what: str, mask: jax.Array | None, least: int = 1) -> Whole:
        if x.ndim != 3 or x.shape[1] < least or x.shape[2] != channels:
            raise ValueError(f"{what}: expected [batch, {least} or more, {channels}], found shape {x.shape}")
        if mask is not None and self.norm is not None:
            raise ValueError("mask: expected None where a norm looks at the whole signal, found an array")
        return Whole(lengths_of(mask, x))

    def _continue(self, x: jax.Array, channels: int, what: str, state: Any, last: bool) -> Part:
        if not self.streams:
            raise ValueError(
                f"{type(self).__name__}: a stream expected causal=True and norm=None, found {self.causal}, {self.norm}"
            )
        self._begin(x, channels, what, None, 0)
        return Part(state, last)


class Encoder(_Parts):
    """Waveforms to frames, one per ``hop`` samples, the last of them begun: ceil(L / hop).

    Convolution 7; at each stage ``units`` residual units with dilations 1, 2, 4, ..., ELU and a convolution of 2 stride
    that doubles the width; an LSTM; ELU; convolution 7. The defaults are EnCodec's at 24 kHz, 75 frames a second. The
    one at 48 kHz has two ``audio_channels``, ``causal=False`` and the norm ``conv2d.GroupNorm`` with one group and
    epsilon 1e-5; WavTokenizer ``dimension=512``, ``causal=False``.

    Attributes:
      dimension: channels of the frames.
      width: at the sample rate.
      strides: of the stages, the first first: the references' ``ratios`` backwards, for the decoder as well.
      audio_channels: of the waveforms.
      units: residual units per stage.
      lstm_layers: 0 leaves it out.
      causal: pads before the signal alone; else on both sides.
      mode: of padding, "reflect" or "zeros".
      norm: ``norm(name=, dtype=, param_dtype=)`` makes the layer that follows each convolution; None for none.
      gain: kernels begin with so many times PyTorch's default. With 1, as in the reference, the signal fades from layer
        to layer (an untrained encoder's frames differ by 7 % of their mean), and a short run does not get over it.
      remat: of residual units, see :mod:`jaxtok.nn.remat`; "" keeps all activations.
    """

    @nn.compact
    def walk(self, walk: Walk, x: jax.Array) -> jax.Array:
        """The network on what ``walk`` runs layers on."""
        x = self._conv(walk, x, self.width, 7, name="conv_in")
        for i, stride in enumerate(self.strides):
            x = nn.elu(self._units(walk, x, i))
            x = self._conv(walk, x, 2 * x.shape[-1], 2 * stride, stride, name=f"stage{i}_down")
        x = nn.elu(self._lstm(walk, x))
        return self._conv(walk, x, self.dimension, 7, name="conv_out").astype(jnp.float32)

    def frames(self, samples: Any) -> Any:
        """Frames of so many samples, a number or an array: ceil(samples / hop)."""
        return -(-samples // self.hop)

    def __call__(self, audio: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
        """Frames float32 [B, ceil(L / hop), dimension] and their mask.

        Args:
          audio: [B, L, audio_channels].
          mask: [B, L], True on a row's samples, which come first; a row then gives what it gives alone, and zeros.

        Raises:
          ValueError: for another shape of audio or mask, or for a mask with a norm.
        """
        walk = self._begin(audio, self.audio_channels, "audio", mask)
        z = self.walk(walk, audio)
        return inside(z, walk.lengths), None if walk.lengths is None else real(walk.lengths, z.shape[1])

    def stream(self, audio: jax.Array, state: Any = None, last: bool = False) -> tuple[jax.Array, Any]:
        """The frames that are certain by now, and the state for the samples that follow.

        Together they are what the whole audio gives. Reflected padding holds the first frames back until it is known:
        after ``6 hop`` samples and a few all have caught up; afterwards each ``hop`` samples give a frame, and parts of
        a multiple of ``hop`` compile once.

        Args:
          audio: [B, any number, audio_channels], what follows the samples before.
          state: of the call before; None at the beginning.
          last: whether the stream ends with it.

        Raises:
          ValueError: for another shape, or a network that is not causal or has a norm.
        """
        part = self._continue(audio, self.audio_channels, "audio", state, last)
        return self.walk(part, audio), part.state


class Decoder(_Parts):
    """Frames to waveforms: the encoder's mirror, with transposed convolutions; the fields are the encoder's."""

    @nn.compact
    def walk(self, walk: Walk, x: jax.Array) -> jax.Array:
        """The network on what ``walk`` runs layers on."""
        x = self._conv(walk, x, self.width * 2 ** len(self.strides), 7, name="conv_in")
        x = self._lstm(walk, x)
        for i, stride in reversed(list(enumerate(self.strides))):
            right = stride if self.causal else stride // 2
            trim, name = (stride - right, right), f"stage{i}_up"
            at_once = (0, 0) if self.norm else trim  # a norm sees what is taken off
            layer = ConvTranspose1D(
                x.shape[-1] // 2, 2 * stride, stride, at_once, gain=self.gain, name=name, **self._types
            )
            x = walk(layer, nn.elu(x))
            if self.norm:
                x = _normalise(x, self.norm, f"{name}_norm", self._types)[:, trim[0] : x.shape[1] - trim[1]]
            x = self._units(walk, x, i)
        return self._conv(walk, nn.elu(x), self.audio_channels, 7, name="conv_out").astype(jnp.float32)

    def __call__(self, z: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Audio float32 [B, hop T, audio_channels], not limited to [-1, 1].

        Args:
          z: [B, T, dimension].
          mask: [B, T], True on a row's frames, which come first; a row then gives what it gives alone, and zeros.

        Raises:
          ValueError: for another shape of z or mask, or for a mask with a norm.
        """
        walk = self._begin(z, self.dimension, "latents", mask)
        return inside(self.walk(walk, z), walk.lengths)

    def stream(self, z: jax.Array, state: Any = None, last: bool = False) -> tuple[jax.Array, Any]:
        """The samples that are certain by now, and the state for the frames that follow; see :meth:`Encoder.stream`.

        Reflected padding holds the first frames back until there are seven.

        Raises:
          ValueError: for another shape, or a network that is not causal or has a norm.
        """
        part = self._continue(z, self.dimension, "latents", state, last)
        return self.walk(part, z), part.state


def _normalise(x: jax.Array, norm: Norm | None, name: str, types: dict[str, Any]) -> jax.Array:
    return x if norm is None else norm(name=name, **types)(x)
