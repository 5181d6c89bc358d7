"""Distances between spectrograms as training losses of waveforms: mel at one or many scales, and plain STFT.

Each gives float32 ``[B]``; the mean over the global batch is the caller's. A mask says where a row's own sound ends:
the row is reflected there and later frames do not count, so that it has the number that it has alone. Numbers of
different losses do not compare; for reports there is :mod:`jaxtok.metrics.audio`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.signal.log_mel import LogMel
from jaxtok.signal.mel import reflect_ends
from jaxtok.signal.stft import hann, stft
from jaxtok.signal.weighting import a_weight

# Vocos's and WavTokenizer's: one scale, natural logarithm. DAC's: seven scales, hop a quarter.
VOCOS = (LogMel(padding="center"),)
DAC = tuple(
    LogMel(24000, n_fft, n_fft // 4, bands, 1e-5, "slaney", "center")
    for n_fft, bands in zip((32, 64, 128, 256, 512, 1024, 2048), (5, 10, 20, 40, 80, 160, 320))
)
# (n_fft, hop, window) of Parallel WaveGAN (arXiv 1910.11480).
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))


def mel(
    reference: jax.Array, estimate: jax.Array, *, mask: jax.Array | None = None, scales: tuple[LogMel, ...] = VOCOS,
    log_base: float = float(np.e), magnitude: float = 0.0,
) -> jax.Array:  # fmt: skip
    """The sum over scales of the mean absolute difference of log-mel spectrograms: float32 [B].

    Vocos (arXiv 2306.00814) and WavTokenizer (arXiv 2408.16532) take ``scales=VOCOS`` with weight 45; DAC (arXiv
    2306.06546) ``scales=DAC, log_base=10`` with weight 15.

    Args:
      reference: audio [B, L].
      estimate: audio [B, L].
      mask: bool [B, L], True on a row's samples, which come first; all where absent.
      scales: front ends; their logarithm is natural.
      log_base: of the compared logarithm.
      magnitude: weight of the difference of magnitudes without logarithm beside it.

    Raises:
      ValueError: when shapes differ, audio is too short for a scale, or ``log_base`` is no base.
    """
    lengths = _lengths(reference, estimate, mask)
    if not log_base > 1:
        raise ValueError(f"log_base: expected more than 1, found {log_base}")
    total = jnp.zeros(len(reference))
    for scale in scales:
        pair = [scale.magnitudes(x, lengths=lengths) for x in (reference, estimate)]
        a, b = (jnp.log(jnp.maximum(x, scale.floor)) for x in pair)
        difference = jnp.abs(a - b) / np.log(log_base)
        if magnitude:
            difference += magnitude * jnp.abs(pair[0] - pair[1])
        inside = _inside(difference, None if lengths is None else scale.frames(lengths))
        total += _mean(difference.mean(-1), inside)
    return total


def stft_loss(
    reference: jax.Array, estimate: jax.Array, *, mask: jax.Array | None = None,
    resolutions: tuple[tuple[int, int, int], ...] = RESOLUTIONS, floor: float = 1e-7, a_weighted: int = 0,
) -> jax.Array:  # fmt: skip
    """Multi-resolution STFT loss: spectral convergence + log magnitude, the mean over resolutions: float32 [B].

    |A - B| / |A| (norms over an example's frames and bins) + the mean of |ln A - ln B|, A the reference. Source:
    Yamamoto et al., "Parallel WaveGAN" (arXiv 1910.11480), there with norms over the batch. Stable Audio's VAE and
    EzAudio's (arXiv 2409.10819) have ``floor=1e-8`` and A-weighting.

    Args:
      reference: audio [B, L].
      estimate: audio [B, L].
      mask: bool [B, L], True on a row's samples, which come first; all where absent.
      resolutions: (n_fft, hop, window length); frames are centred on multiples of the hop.
      floor: the smallest power.
      a_weighted: the rate in Hz of audio that is A-weighted first (:mod:`jaxtok.signal.weighting`); 0 for none.

    Raises:
      ValueError: when shapes differ, a window is longer than its transform, or audio is too short.
    """
    lengths = _lengths(reference, estimate, mask)
    if a_weighted:
        reference, estimate = (a_weight(x, a_weighted, mask=mask) for x in (reference, estimate))
    total = jnp.zeros(len(reference))
    for n_fft, hop, length in resolutions:
        if not 0 < length <= n_fft or reference.shape[1] <= n_fft // 2:
            raise ValueError(
                f"resolutions: expected windows up to n_fft and audio above half of it, found n_fft {n_fft}, window "
                f"{length}, {reference.shape[1]} samples"
            )
        a, b = (_magnitude(x, n_fft, hop, length, floor, lengths) for x in (reference, estimate))
        inside = _inside(a, None if lengths is None else lengths // hop + 1)
        squares = [jnp.sum(jnp.where(inside[..., None], jnp.square(x), 0), axis=(1, 2)) for x in (a - b, a)]
        rest = jnp.where(squares[0] > 0, squares[0], 1)  # the root's slope at 0 is infinite
        convergence = jnp.where(squares[0] > 0, jnp.sqrt(rest), 0) / jnp.sqrt(jnp.maximum(squares[1], floor))
        total += convergence + _mean(jnp.abs(jnp.log(a) - jnp.log(b)).mean(-1), inside)
    return total / len(resolutions)


def _magnitude(audio: jax.Array, n_fft: int, hop: int, length: int, floor: float, lengths: Any) -> jax.Array:
    left = (n_fft - length) // 2
    window = np.pad(hann(length), (left, n_fft - length - left))
    padded = reflect_ends(audio.astype(jnp.float32), n_fft // 2, lengths)
    spectrum = stft(padded, n_fft, hop, window, padding="none")
    return jnp.sqrt(jnp.maximum(spectrum.real**2 + spectrum.imag**2, floor))


def _inside(frames: jax.Array, counts: jax.Array | None) -> jax.Array:
    """bool [B, T]: which frames count."""
    if counts is None:
        return jnp.ones(frames.shape[:2], bool)
    return jnp.arange(frames.shape[1]) < counts[:, None]


def _mean(x: jax.Array, inside: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(inside, x, 0), axis=-1) / jnp.maximum(inside.sum(-1), 1)


def _lengths(reference: jax.Array, estimate: jax.Array, mask: jax.Array | None) -> jax.Array | None:
    if reference.ndim != 2:
        raise ValueError(f"reference: expected [batch, samples], found shape {reference.shape}")
    for name, x in (("estimate", estimate), ("mask", mask)):
        if x is not None and x.shape != reference.shape:
            raise ValueError(f"{name}: expected the shape of reference, {reference.shape}, found {x.shape}")
    return None if mask is None else mask.sum(-1)
