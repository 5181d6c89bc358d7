"""Log-mel spectrograms: slaney filters, the front end of speech tokenizers, and its frame arithmetic."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.signal import fourier


def hz_to_mel(hz: np.ndarray | float) -> np.ndarray:
    """Slaney's mel scale: linear below 1 kHz (200/3 Hz a step), logarithmic above (27 steps per factor 6.4)."""
    hz = np.asarray(hz, np.float64)
    return np.where(hz < 1000.0, hz * 3.0 / 200.0, 15.0 + 27.0 * np.log(np.maximum(hz, 1e-9) / 1000.0) / np.log(6.4))


def mel_to_hz(mel: np.ndarray | float) -> np.ndarray:
    """The inverse of :func:`hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1000.0 * np.exp((mel - 15.0) * np.log(6.4) / 27.0))


def mel_centres(bands: int, low: float, high: float) -> np.ndarray:
    """The centre frequency in Hz of each of ``bands`` triangles between ``low`` and ``high`` Hz, float64 [bands]."""
    return mel_to_hz(np.linspace(hz_to_mel(low), hz_to_mel(high), bands + 2))[1:-1]


@functools.lru_cache(maxsize=16)
def mel_filters(n_fft: int, sample_rate: int, bands: int, low: float, high: float) -> np.ndarray:
    """Area-normalised triangular filters on slaney's scale, float32 [n_fft // 2 + 1, bands].

    Equal to ``librosa.filters.mel(sr=..., n_fft=..., n_mels=..., fmin=..., fmax=...)`` (its defaults ``htk=False``,
    ``norm="slaney"``), transposed.
    """
    bins = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    edges = mel_to_hz(np.linspace(hz_to_mel(low), hz_to_mel(high), bands + 2))
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    filters = (triangles * 2.0 / (edges[2:] - edges[:-2])).astype(np.float32)
    filters.setflags(write=False)
    return filters


def reflect_ends(audio: jax.Array, pad: int, lengths: jax.Array | None = None) -> jax.Array:
    """Reflects ``pad`` samples at both ends of each signal, at its own end where signals are padded.

    Args:
      audio: [B, L].
      pad: samples added on each side; every signal must be longer than this.
      lengths: int [B], the true lengths; None means L for all.

    Returns:
      [B, L + 2 pad]. Beyond the reflection of a short signal stand further (meaningless) reflections.
    """
    if lengths is None:
        return jnp.pad(audio, ((0, 0), (pad, pad)), mode="reflect")
    position = jnp.abs(jnp.arange(-pad, audio.shape[1] + pad))
    last = lengths[:, None] - 1
    index = jnp.clip(jnp.where(position > last, 2 * last - position, position), min=0, max=audio.shape[1] - 1)
    return jnp.take_along_axis(audio, index, axis=1)


@dataclasses.dataclass(frozen=True)
class MelFrontEnd:
    """Waveform to normalised log-mel frames (the front end of TaDiCodec, arXiv 2508.16790).

    The signal is reflected by (n_fft - hop)/2 at each end and framed without centring, so L samples give L // hop
    frames. magnitude = sqrt(re^2 + im^2 + 1e-9) under a periodic Hann window; natural logarithm of
    max(mel, floor); normalised as (logmel - mean)/sqrt(variance) with global scalars.

    Attributes:
      sample_rate: in Hz.
      n_fft: window and transform length in samples; a multiple of ``hop``.
      hop: samples per frame.
      bands: number of mel bands between ``low`` and ``high`` Hz.
      mean: of the log-mel; ``variance`` likewise; ``floor`` is the smallest mel energy.
    """

    sample_rate: int = 24000
    n_fft: int = 1920
    hop: int = 480
    bands: int = 128
    low: float = 0.0
    high: float = 12000.0
    mean: float = -4.92
    variance: float = 8.14
    floor: float = 1e-5

    def __post_init__(self):
        if self.n_fft % self.hop or (self.n_fft - self.hop) % 2:
            raise ValueError(f"n_fft must be a multiple of hop with an even difference, found {self.n_fft}, {self.hop}")

    def frames(self, samples: jax.Array) -> jax.Array:
        """The number of frames of so many samples."""
        return samples // self.hop

    def log_mel(self, audio: jax.Array, *, lengths: jax.Array | None = None) -> jax.Array:
        """Natural log-mel energies, float32 [B, L // hop, bands], of audio [B, L] in [-1, 1]."""
        pad = (self.n_fft - self.hop) // 2
        if audio.ndim != 2 or audio.shape[1] <= pad:
            raise ValueError(f"audio must be [batch, samples] with more than {pad} samples, found shape {audio.shape}")
        padded = reflect_ends(audio.astype(jnp.float32), pad, lengths)
        frames = audio.shape[1] // self.hop
        blocks = self.n_fft // self.hop
        hops = padded[:, : (frames + blocks - 1) * self.hop].reshape(len(audio), frames + blocks - 1, self.hop)
        framed = jnp.concatenate([hops[:, i : i + frames] for i in range(blocks)], axis=-1)
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.n_fft) / self.n_fft)
        magnitude = jnp.sqrt(fourier.power(framed * window.astype(np.float32)) + 1e-9)
        filters = mel_filters(self.n_fft, self.sample_rate, self.bands, self.low, self.high)
        mel = jnp.einsum("btf,fm->btm", magnitude, filters, precision="highest")
        return jnp.log(jnp.maximum(mel, self.floor))

    def __call__(self, audio: jax.Array, *, lengths: jax.Array | None = None) -> jax.Array:
        """Normalised log-mel frames, float32 [B, L // hop, bands], of audio [B, L] in [-1, 1]."""
        return self.normalize(self.log_mel(audio, lengths=lengths))

    def normalize(self, log_mel: jax.Array) -> jax.Array:
        """From natural log-mel to the network's scale."""
        return (log_mel - self.mean) / np.float32(np.sqrt(self.variance))

    def denormalize(self, mel: jax.Array) -> jax.Array:
        """From the network's scale back to natural log-mel."""
        return mel * np.float32(np.sqrt(self.variance)) + self.mean
