"""Log-mel spectrograms on the HTK scale, the front end and the loss of Vocos and its descendants."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.signal.mel import mel_filters, reflect_ends
from jaxtok.signal.stft import stft


@functools.lru_cache(maxsize=16)
def htk_filters(n_fft: int, sample_rate: int, bands: int, low: float, high: float) -> np.ndarray:
    """Triangular filters of height 1 on the HTK scale, 2595 log10(1 + f / 700): float32 [n_fft // 2 + 1, bands].

    Equal to ``librosa.filters.mel(..., htk=True, norm=None)``, transposed, and to torchaudio's default.
    """
    bins = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    limits = 2595.0 * np.log10(1.0 + np.asarray([low, high]) / 700.0)
    edges = 700.0 * (10.0 ** (np.linspace(*limits, bands + 2) / 2595.0) - 1.0)
    rising = (bins[:, None] - edges[:-2]) / np.diff(edges)[:-1]
    falling = (edges[2:] - bins[:, None]) / np.diff(edges)[1:]
    filters = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    filters.setflags(write=False)
    return filters


FILTERS = {"htk": htk_filters, "slaney": mel_filters}


@dataclasses.dataclass(frozen=True)
class LogMel:
    """Natural logarithm of mel magnitudes, not normalised (the front end of Vocos, arXiv 2306.00814).

    The signal is reflected at its own ends under a periodic Hann window; magnitudes, not powers, enter the filters.

    Attributes:
      sample_rate: in Hz; the bands reach from 0 to half of it.
      n_fft: window and transform length in samples.
      hop: samples per frame.
      bands: number of mel bands.
      floor: the smallest mel magnitude.
      filters: "htk" (height 1) or "slaney" (area 1).
      padding: "same" gives L // hop frames, each centred on the middle of its hop; "center" L // hop + 1, each centred
        on a multiple of the hop.
    """

    sample_rate: int = 24000
    n_fft: int = 1024
    hop: int = 256
    bands: int = 100
    floor: float = 1e-7
    filters: str = "htk"
    padding: str = "same"

    def __post_init__(self):
        if self.filters not in FILTERS:
            raise ValueError(f"filters: expected one of {', '.join(FILTERS)}, found {self.filters!r}")
        if self.padding not in ("same", "center") or (self.padding == "same" and (self.n_fft - self.hop) % 2):
            raise ValueError(
                f"padding: expected 'center', or 'same' with n_fft - hop even, found {self.padding!r} with n_fft "
                f"{self.n_fft}, hop {self.hop}"
            )
        if not self.floor > 0:
            raise ValueError(f"floor: expected a positive magnitude, found {self.floor}")

    @property
    def reach(self) -> int:
        """Samples that are reflected at each end; audio must be longer."""
        return self.n_fft // 2 if self.padding == "center" else (self.n_fft - self.hop) // 2

    def frames(self, samples: jax.Array) -> jax.Array:
        """The number of frames of so many samples."""
        return samples // self.hop + (self.padding == "center")

    def magnitudes(self, audio: jax.Array, *, lengths: jax.Array | None = None) -> jax.Array:
        """Mel magnitudes, float32 [B, T, bands], of audio [B, L] in [-1, 1].

        Args:
          audio: padded rows end at ``lengths``.
          lengths: int [B], true lengths, each above ``reach``; None means L for all. Frames beyond a row's own
            :meth:`frames` are meaningless.

        Raises:
          ValueError: for another rank, or audio that is too short.
        """
        if audio.ndim != 2 or audio.shape[1] <= self.reach:
            raise ValueError(f"audio: expected [batch, more than {self.reach} samples], found shape {audio.shape}")
        padded = reflect_ends(audio.astype(jnp.float32), self.reach, lengths)
        spectrum = stft(padded, self.n_fft, self.hop, padding="none")
        table = FILTERS[self.filters](self.n_fft, self.sample_rate, self.bands, 0.0, self.sample_rate / 2)
        return jnp.einsum("btf,fm->btm", jnp.abs(spectrum), table, precision="highest")

    def __call__(self, audio: jax.Array, *, lengths: jax.Array | None = None) -> jax.Array:
        """Log-mel frames, float32 [B, T, bands]; see :meth:`magnitudes`."""
        return jnp.log(jnp.maximum(self.magnitudes(audio, lengths=lengths), self.floor))
