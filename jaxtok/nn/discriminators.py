"""Discriminators of waveforms: one network, several views of the sound, in the forms that papers published.

A discriminator looks at a view of the audio (folded by a period, a spectrogram, a coarser waveform), runs a stack of
convolutions over it and gives one logit per position, with all hidden layers beside them for feature matching. An
:class:`Ensemble` holds several. Convolutions are weight-normalised as in the sources (Salimans and Kingma, arXiv
1602.07868), kernel = scale * v / |v| with one scale per output channel: ``v`` is the parameter ``kernel``.

Audio is ``[B, L]`` and whole: there is no mask, since a convolution would carry padding into the logits of what is
real. Cut crops of real samples first. All is computed per example, in float32 up to the view.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from flax.linen.dtypes import promote_dtype

from jaxtok.nn.conv2d import uniform, uniform_bias
from jaxtok.nn.views import BANDS, Bands, Complex, Levelled, Magnitude, Period, Pooled, View

PERIODS = (2, 3, 5, 7, 11)


class Judged(NamedTuple):
    """What one discriminator says.

    Attributes:
      logits: float32 [B, ...], one per position of its last layer; high means real.
      features: the hidden layers after their activation, one entry per layer: an array [B, ..., C], or a tuple of
        arrays where the view has several parts.
    """

    logits: jax.Array
    features: tuple[Any, ...]


class Layer(NamedTuple):
    """A convolution: channels out, window, steps, dilations (1 where absent), groups, and whether it is normalised.

    Padding is with zeros, (window - 1) * dilation // 2 on both sides.
    """

    features: int
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...] = ()
    groups: int = 1
    normalised: bool = True


class Conv(nn.Module):
    """A :class:`Layer` over ``[B, positions..., C]``; parameters ``kernel``, ``bias`` and, if normalised, ``scale``.

    The scale begins as the norm of the kernel, so that the effective kernel begins as PyTorch's default.
    """

    layer: Layer
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves; the number of position axes is that of the window."""
        features, window, strides, dilation, groups, normalised = self.layer
        dilation = dilation or (1,) * len(window)
        inputs = x.shape[-1] // groups
        kernel = self.param("kernel", uniform, (*window, inputs, features), self.param_dtype)
        bias = self.param("bias", uniform_bias(inputs * math.prod(window)), (features,), self.param_dtype)
        if normalised:
            norm = jnp.sqrt(jnp.sum(jnp.square(kernel.astype(jnp.float32)), axis=tuple(range(kernel.ndim - 1))))
            scale = self.param("scale", lambda _: norm.astype(self.param_dtype))
            kernel = kernel * (scale / norm)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        axes = "DHW"[-len(window) :]
        sides = [(size - 1) * wide // 2 for size, wide in zip(window, dilation)]
        return bias + jax.lax.conv_general_dilated(
            x, kernel, strides, [(side, side) for side in sides], rhs_dilation=dilation, feature_group_count=groups,
            dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        )  # fmt: skip


class Discriminator(nn.Module):
    """Convolutions over a view of audio, each with a leaky ReLU, and a last one to a single channel.

    Where the view has several parts (bands), each has a stack of its own; they are joined along their last position
    axis before the last convolution.

    Attributes:
      view: from audio [B, L] to a tuple of parts [B, positions..., C].
      layers: of every stack.
      last: window of the last convolution.
      slope: of the leaky ReLU below 0.
    """

    view: View
    layers: tuple[Layer, ...]
    last: tuple[int, ...]
    slope: float = 0.1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, audio: jax.Array, condition: jax.Array | None = None) -> Judged:
        """Logits and hidden layers of ``audio [B, L]``; ``condition`` is not used.

        Raises:
          ValueError: for another rank, or audio that is too short for the view.
        """
        del condition
        if audio.ndim != 2:
            raise ValueError(f"audio: expected [batch, samples], found shape {audio.shape}")
        types: dict[str, Any] = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        parts, features = self.view(audio.astype(jnp.float32)), []
        for i, layer in enumerate(self.layers):
            name = "part{p}_conv{i}" if len(parts) > 1 else "conv{i}"
            parts = tuple(
                nn.leaky_relu(Conv(layer, name=name.format(p=p, i=i), **types)(x), self.slope)
                for p, x in enumerate(parts)
            )
            features.append(parts if len(parts) > 1 else parts[0])
        joined = jnp.concatenate(parts, axis=-2)
        logits = Conv(Layer(1, self.last, (1,) * len(self.last)), name="last", **types)(joined)[..., 0]
        return Judged(logits.astype(jnp.float32), tuple(features))


class Ensemble(nn.Module):
    """Several discriminators of the same audio: ``[B, L] -> (Judged, ...)``.

    Attributes:
      members: modules from audio and condition to :class:`Judged`.
    """

    members: tuple[nn.Module, ...]

    def __call__(self, audio: jax.Array, condition: jax.Array | None = None) -> tuple[Judged, ...]:
        """What each member says of ``audio [B, L]``, where ``condition`` int32 [B] holds of it."""
        return tuple(member(audio, condition) for member in self.members)


class Panel(nn.Module):
    """Ensembles by name, for losses that weigh them differently: ``[B, L] -> {name: (Judged, ...)}``.

    Attributes:
      ensembles: such as ``{"period": multi_period(), "band": multi_band()}``.
    """

    ensembles: Mapping[str, nn.Module]

    def __post_init__(self):
        object.__setattr__(self, "ensembles", FrozenDict(sorted(self.ensembles.items())))  # so that the module hashes
        super().__post_init__()

    def __call__(self, audio: jax.Array, condition: jax.Array | None = None) -> dict[str, tuple[Judged, ...]]:
        """What each ensemble says of ``audio [B, L]``, where ``condition`` int32 [B] holds of it."""
        return {name: ensemble(audio, condition) for name, ensemble in self.ensembles.items()}


def multi_period(
    periods: Sequence[int] = PERIODS, *, channels: Sequence[int] = (32, 128, 512, 1024, 1024), **types: Any
) -> Ensemble:
    """HiFi-GAN's multi-period discriminator (Kong et al., arXiv 2010.05646), also of Vocos and WavTokenizer.

    Each folds the waveform into rows of ``period`` samples and convolves along the columns: windows of 5, steps of 3
    but for the last layer. 41.1 M parameters.
    """
    return Ensemble(tuple(_period(Period(period), channels, types) for period in periods))


def multi_resolution(
    n_ffts: Sequence[int] = (1024, 2048, 512), *, channels: int = 64, **types: Any
) -> Ensemble:  # fmt: skip
    """Magnitude spectrograms under a rectangular window, hop a quarter: WavTokenizer's form (arXiv 2408.16532) of
    UnivNet's multi-resolution discriminator (Jang et al., arXiv 2106.07889). Over frequency, then time."""
    table = [((7, 5), (2, 2)), ((5, 3), (2, 1)), ((5, 3), (2, 2)), ((3, 3), (2, 1)), ((3, 3), (2, 2))]
    layers = tuple(Layer(channels, window, strides) for window, strides in table)
    return Ensemble(tuple(Discriminator(Magnitude(n, n // 4), layers, (3, 3), **types) for n in n_ffts))


def multi_band(
    n_ffts: Sequence[int] = (2048, 1024, 512), *, channels: int = 32, edges: Sequence[float] = BANDS, **types: Any
) -> Ensemble:
    """Complex spectra cut into bands with a stack each, of levelled audio: DAC's multi-band discriminator (Kumar et
    al., arXiv 2306.06546) as Vocos trains it. Over time, then frequency; 1.41 M parameters."""
    return Ensemble(tuple(_band(Levelled(Bands(n, n // 4, edges=tuple(edges))), channels, types) for n in n_ffts))


def dac(
    periods: Sequence[int] = PERIODS, n_ffts: Sequence[int] = (2048, 1024, 512), *, window: str = "hann",
    edges: Sequence[float] = BANDS, channels: Sequence[int] = (32, 128, 512, 1024, 1024), band_channels: int = 32,
    **types: Any,
) -> Ensemble:  # fmt: skip
    """All of DAC's discriminators (arXiv 2306.06546): periods and bands of levelled audio.

    A length that a period divides is padded by a whole further period. WavTokenizer's copy takes
    ``window="rectangular"``.
    """
    folded = [_period(Levelled(Period(period, always=True)), channels, types) for period in periods]
    bands = [_band(Levelled(Bands(n, n // 4, window, tuple(edges))), band_channels, types) for n in n_ffts]
    return Ensemble((*folded, *bands))


def multi_stft(n_ffts: Sequence[int] = (1024, 2048, 512), *, channels: int = 32, **types: Any) -> Ensemble:
    """EnCodec's multi-scale STFT discriminator (Defossez et al., arXiv 2210.13438): complex spectra, hop a quarter,
    windows dilated in time. EzAudio's has 64 channels and n_ffts 1280, 640, 320, 160, 80. The first layer has no
    weight norm, as in the source."""
    middle = tuple(Layer(channels, (3, 9), (1, 2), (dilation, 1)) for dilation in (1, 2, 4))
    first = Layer(channels, (3, 9), (1, 1), normalised=False)
    layers = (first, *middle, Layer(channels, (3, 3), (1, 1)))
    return Ensemble(tuple(Discriminator(Complex(n, n // 4), layers, (3, 3), 0.2, **types) for n in n_ffts))


def multi_scale(scales: int = 3, *, channels: int = 16, **types: Any) -> Ensemble:
    """MelGAN's discriminators (Kumar et al., arXiv 1910.06711) of the waveform at full, half, quarter ... rate.

    16.9 M parameters. The first layer pads with zeros, where MelGAN reflects 7 samples.
    """
    widths = [min(channels * 4**i, 64 * channels) for i in range(5)]
    grouped = (Layer(after, (41,), (4,), (), before // 4) for before, after in itertools.pairwise(widths))
    layers = (Layer(channels, (15,), (1,)), *grouped, Layer(64 * channels, (5,), (1,)))
    return Ensemble(tuple(Discriminator(Pooled(i), layers, (3,), 0.2, **types) for i in range(scales)))


def _period(view: View, channels: Sequence[int], types: dict[str, Any]) -> Discriminator:
    steps = (3,) * (len(channels) - 1) + (1,)
    layers = tuple(Layer(width, (5, 1), (step, 1)) for width, step in zip(channels, steps))
    return Discriminator(view, layers, (3, 1), **types)


def _band(view: View, channels: int, types: dict[str, Any]) -> Discriminator:
    first, last = Layer(channels, (3, 9), (1, 1)), Layer(channels, (3, 3), (1, 1))
    return Discriminator(view, (first, *(Layer(channels, (3, 9), (1, 2)),) * 3, last), (3, 3), **types)
