"""Views of a waveform that discriminators look at: audio ``[B, L]`` to a tuple of parts ``[B, positions..., C]``.

Frozen dataclasses, so that a network that holds one compares and hashes by its values. No view has parameters.
"""

import dataclasses
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.signal.stft import hann, stft

View = Callable[[jax.Array], tuple[jax.Array, ...]]
BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
WINDOWS = ("hann", "rectangular")


@dataclasses.dataclass(frozen=True)
class Period:
    """Rows of ``period`` samples: one part [B, ceil(L / period), period, 1]; the end is reflected to a whole row.

    Attributes:
      period: samples per row.
      always: pad a whole row where the length divides already, as DAC does; else nothing.
    """

    period: int
    always: bool = False

    def __call__(self, audio: jax.Array) -> tuple[jax.Array, ...]:
        """Folds ``[B, L]``; ValueError where it is too short to be reflected."""
        missing = -audio.shape[1] % self.period
        missing = self.period if self.always and not missing else missing
        if audio.shape[1] <= missing:
            raise ValueError(f"audio: expected more than {missing} samples, found {audio.shape[1]}")
        audio = jnp.pad(audio, ((0, 0), (0, missing)), mode="reflect")
        return (audio.reshape(len(audio), -1, self.period, 1),)


@dataclasses.dataclass(frozen=True)
class Magnitude:
    """The magnitude spectrogram: one part [B, n_fft // 2 + 1, L // hop + 1, 1], frames centred on multiples of hop."""

    n_fft: int
    hop: int
    window: str = "rectangular"

    def __call__(self, audio: jax.Array) -> tuple[jax.Array, ...]:
        """Of ``[B, L]``."""
        spectrum = _spectrum(audio, self.n_fft, self.hop, self.window, "center")
        return (jnp.abs(spectrum).swapaxes(1, 2)[..., None],)


@dataclasses.dataclass(frozen=True)
class Complex:
    """Real and imaginary part of the spectrum: one part [B, (L - n_fft) // hop + 1, n_fft // 2 + 1, 2].

    No margins; divided by the root of the window's energy, so that white noise keeps its deviation.
    """

    n_fft: int
    hop: int
    window: str = "hann"

    def __call__(self, audio: jax.Array) -> tuple[jax.Array, ...]:
        """Of ``[B, L]``; ValueError where it is shorter than ``n_fft``."""
        spectrum = _spectrum(audio, self.n_fft, self.hop, self.window, "none")
        energy = np.square(_window(self.window, self.n_fft)).sum()
        return (_pair(spectrum * np.float32(energy**-0.5)),)


@dataclasses.dataclass(frozen=True)
class Bands:
    """Real and imaginary part of the spectrum in bands: parts [B, L // hop + 1, bins of the band, 2].

    Attributes:
      n_fft: of the transform; ``hop`` and ``window`` ("hann" or "rectangular") likewise.
      edges: of the bands as shares of the bins.
    """

    n_fft: int
    hop: int
    window: str = "hann"
    edges: tuple[float, ...] = BANDS

    def __call__(self, audio: jax.Array) -> tuple[jax.Array, ...]:
        """Of ``[B, L]``."""
        spectrum = _pair(_spectrum(audio, self.n_fft, self.hop, self.window, "center"))
        cuts = [int(edge * spectrum.shape[2]) for edge in self.edges]
        return tuple(spectrum[:, :, low:high] for low, high in itertools.pairwise(cuts))


@dataclasses.dataclass(frozen=True)
class Pooled:
    """The waveform [B, L / 2^times, 1] after ``times`` average poolings of 4 samples with step 2."""

    times: int

    def __call__(self, audio: jax.Array) -> tuple[jax.Array, ...]:
        """Of ``[B, L]``; the zeros beyond the ends do not count."""
        x = audio[..., None]
        for _ in range(self.times):
            x = nn.avg_pool(x, (4,), strides=(2,), padding=((1, 1),), count_include_pad=False)
        return (x,)


@dataclasses.dataclass(frozen=True)
class Levelled:
    """Another view of the audio without its mean and with a peak of 0.8 (silence stays silence)."""

    view: View

    def __call__(self, audio: jax.Array) -> tuple[jax.Array, ...]:
        """Of ``[B, L]``."""
        audio = audio - audio.mean(1, keepdims=True)
        # The gradient of `max` looks for the value that was found; fused code may compute it anew, round it otherwise,
        # find it nowhere and divide by 0. A position is found again.
        size = jnp.abs(audio)
        loudest = jnp.arange(audio.shape[1]) == size.argmax(1)[:, None]
        return self.view(0.8 * audio / (jnp.where(loudest, size, 0).sum(1, keepdims=True) + 1e-9))


def _spectrum(audio: jax.Array, n_fft: int, hop: int, window: str, padding: str) -> jax.Array:
    if padding == "center" and audio.shape[1] <= n_fft // 2:
        raise ValueError(f"audio: expected more than {n_fft // 2} samples for n_fft {n_fft}, found {audio.shape[1]}")
    return stft(audio, n_fft, hop, _window(window, n_fft), padding=padding)


def _window(name: str, n_fft: int) -> np.ndarray:
    if name not in WINDOWS:
        raise ValueError(f"window: expected one of {', '.join(WINDOWS)}, found {name!r}")
    return hann(n_fft) if name == "hann" else np.ones(n_fft, np.float32)


def _pair(spectrum: jax.Array) -> jax.Array:
    return jnp.stack([spectrum.real, spectrum.imag], axis=-1)
