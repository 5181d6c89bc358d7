"""Distances between sounds, one pinned protocol per number; each gives one float32 number per example, ``[B]``.

All take masks and give a padded row the number that it has alone. A row without any real frame gives 0.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
import scipy.linalg

from jaxtok.losses import spectral
from jaxtok.signal.mel import MelFrontEnd, mel_centres
from jaxtok.signal.stft import stft

SDR_LIMIT = 100.0
CI_SDR_TAPS = 512
RESOLUTIONS = (2048, 1024, 512)
MAGNITUDE_FLOOR = 1e-5
MULTI_SCALE_RATE = 16000
_SCALES = tuple(dataclasses.replace(scale, sample_rate=MULTI_SCALE_RATE) for scale in spectral.DAC)


def mel_distance(
    mel_a: jax.Array,
    mel_b: jax.Array,
    mask: jax.Array,
    *,
    below_hz: float = 8000.0,
    frontend: MelFrontEnd,
) -> jax.Array:
    """Mean absolute difference of two log-mel spectrograms in nats (natural logarithm of the mel energy).

    Protocol: both spectrograms are the normalised ones of ``frontend``; the difference is scaled back by its standard
    deviation; mean over the frames in ``mask`` and over the bands whose centre lies below ``below_hz``. One nat
    is 8.7 dB. With the default, sources sampled at 16 kHz are compared where they have content.

    Args:
      mel_a: ``[B, T, bands]``.
      mel_b: ``[B, T, bands]``.
      mask: ``[B, T]`` boolean, true on frames that count.
      below_hz: upper limit in Hz for the centres of the bands.
      frontend: the front end that made both.

    Raises:
      ValueError: when shapes differ or do not fit the front end, or when no band lies below ``below_hz``.
    """
    _check_equal("mel_b", mel_b, "mel_a", mel_a)
    if mel_a.ndim != 3 or mel_a.shape[-1] != frontend.bands:
        raise ValueError(f"mel_a: found shape {mel_a.shape}, expected [batch, frames, {frontend.bands}]")
    if mask.shape != mel_a.shape[:2]:
        raise ValueError(f"mask: found shape {mask.shape}, expected {mel_a.shape[:2]} as the mel has frames")
    below = mel_centres(frontend.bands, frontend.low, frontend.high) < below_hz
    if not below.any():
        raise ValueError(f"below_hz: found {below_hz}, expected a value above the centre of the lowest band")
    scale = np.float32(np.sqrt(frontend.variance))
    difference = jnp.abs(mel_a.astype(jnp.float32) - mel_b.astype(jnp.float32)) * scale
    return _mean(jnp.mean(difference[..., : int(below.sum())], axis=-1), mask, axis=-1)


def multi_scale_mel_distance(reference: jax.Array, estimate: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Multi-scale log-mel distance: the sum over seven scales of mean absolute differences of log10 magnitudes.

    Protocol: the scales of DAC (arXiv 2306.06546), windows of 32 to 2048 samples with 5 to 320 bands and hops of a
    quarter, here at 16 kHz (8 kHz is the highest frequency), magnitudes at least 1e-5; levels as they are. A gain of
    a factor g costs 7 |log10 g|. It is the loss :func:`jaxtok.losses.spectral.mel` at these scales. Frames are centred
    and the signal is reflected at its ends, so a row needs more than 1024 samples.

    Args:
      reference: ``[B, L]`` at 16 kHz.
      estimate: ``[B, L]``.
      mask: ``[B, L]`` boolean, true on real samples, which come first; all where absent.

    Raises:
      ValueError: when shapes differ, or for 1024 samples or fewer.
    """
    return spectral.mel(reference, estimate, mask=mask, scales=_SCALES, log_base=10.0)


def stft_distance(reference: jax.Array, estimate: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Multi-resolution STFT distance: spectral convergence plus log-magnitude distance, mean over resolutions.

    Protocol: Hann windows of 2048, 1024 and 512 samples, hops of a quarter, zeros outside the signal, frame t centred
    on the middle of its hop; magnitudes A (reference) and B at least 1e-5. Spectral convergence is
    ``|A - B| / |A|`` with norms over all frames and bins of the example; log-magnitude distance is
    the mean of ``|ln A - ln B|``. A frame counts when its whole hop is inside the mask. The formulas are
    those of Yamamoto et al., "Parallel WaveGAN" (arXiv 1910.11480); window sizes differ between papers, so
    compare only numbers of this function.

    Args:
      reference: ``[B, L]``.
      estimate: ``[B, L]``.
      mask: ``[B, L]`` boolean, true on real samples; all where absent.

    Raises:
      ValueError: when shapes differ, or for fewer samples than the largest hop (512).
    """
    mask = _check_audio(reference, estimate, mask)
    if reference.shape[1] < RESOLUTIONS[0] // 4:
        raise ValueError(f"reference: found {reference.shape[1]} samples, expected at least {RESOLUTIONS[0] // 4}")
    total = jnp.zeros(len(reference))
    for n_fft in RESOLUTIONS:
        hop = n_fft // 4
        a, b = (_magnitude(jnp.where(mask, x, 0), n_fft, hop) for x in (reference, estimate))
        frames = mask[:, : a.shape[1] * hop].reshape(len(mask), -1, hop).all(axis=-1)
        weight = frames[..., None]
        norms = [jnp.sqrt(jnp.sum(jnp.where(weight, x, 0) ** 2, axis=(1, 2))) for x in (a - b, a)]
        convergence = norms[0] / jnp.where(norms[1] > 0, norms[1], 1)
        total += convergence + _mean(jnp.mean(jnp.abs(jnp.log(a) - jnp.log(b)), axis=-1), frames, axis=-1)
    return total / len(RESOLUTIONS)


def si_sdr(reference: jax.Array, estimate: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Scale-invariant signal-to-distortion ratio in decibels (higher is better).

    Protocol: means over the mask are taken from both; the estimate is split into its projection on the
    reference and the rest; ``10 log10`` of the ratio of their energies, limited to [-100, 100] so that averages
    stay finite. A silent reference or estimate gives -100. Source: Le Roux et al., "SDR: half-baked or well
    done?" (arXiv 1811.02508), with the mean removed. It compares waveforms: a decoder that generates phase, such as
    a diffusion decoder or Griffin-Lim, scores badly however good it sounds.

    Args:
      reference: ``[B, L]``.
      estimate: ``[B, L]``.
      mask: ``[B, L]`` boolean, true on real samples; all where absent.

    Raises:
      ValueError: when shapes differ.
    """
    mask = _check_audio(reference, estimate, mask)
    target, found = (_centre(x.astype(jnp.float32), mask) for x in (reference, estimate))
    energy = jnp.sum(target**2, axis=-1, keepdims=True)
    scale = jnp.sum(target * found, axis=-1, keepdims=True) / jnp.where(energy > 0, energy, 1)
    kept, rest = jnp.sum((scale * target) ** 2, axis=-1), jnp.sum((found - scale * target) ** 2, axis=-1)
    return _decibels(kept, rest, mask)


def sdr(reference: jax.Array, estimate: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Signal-to-distortion ratio in decibels (higher is better), of the samples as they are.

    Protocol: ``10 log10`` of the energy of the reference over that of the difference, limited to [-100, 100]; no
    mean is taken away. It is not scale invariant: a gain of a factor g gives ``-20 log10 |1 - g|``, so a silent
    estimate 0. A silent reference gives -100. The cautions of :func:`si_sdr` hold.

    Args:
      reference: ``[B, L]``.
      estimate: ``[B, L]``.
      mask: ``[B, L]`` boolean, true on real samples; all where absent.

    Raises:
      ValueError: when shapes differ.
    """
    mask = _check_audio(reference, estimate, mask)
    target, found = (jnp.where(mask, x.astype(jnp.float32), 0) for x in (reference, estimate))
    return _decibels(jnp.sum(target**2, axis=-1), jnp.sum((found - target) ** 2, axis=-1), mask)


def ci_sdr(
    reference: jax.Array, estimate: jax.Array, mask: jax.Array | None = None, *, taps: int = CI_SDR_TAPS
) -> jax.Array:
    """Convolution-invariant signal-to-distortion ratio in decibels (higher is better); not to be jitted.

    Protocol: the estimate is split into the reference through the causal filter of ``taps`` coefficients that comes
    nearest to it, and the rest; ``10 log10`` of the ratio of their energies, limited to [-100, 100]. Beyond its end
    the estimate is silent while the filtered reference rings. A silent reference or estimate gives -100. This is the
    SDR of BSS Eval for one source (Vincent et al., "Performance measurement in blind audio source separation", 2006),
    named by Boeddeker et al. (arXiv 2011.15003), at its 512 taps. The normal equations are solved in float64, with
    1e-12 of the reference's energy added to their diagonal, which settles what the filter does to bands where the
    reference is silent. With one tap it is :func:`si_sdr` without removal of means.

    Args:
      reference: ``[B, L]``.
      estimate: ``[B, L]``.
      mask: ``[B, L]`` boolean, true on real samples; all where absent.
      taps: coefficients of the filter.

    Raises:
      ValueError: when shapes differ, or for less than one tap.
    """
    mask = _check_audio(reference, estimate, mask)
    if taps < 1:
        raise ValueError(f"taps: found {taps}, expected at least 1")
    target, found = (np.where(mask, np.asarray(x, np.float64), 0) for x in (reference, estimate))
    length = target.shape[1] + taps - 1  # of a filtered reference
    size = scipy.fft.next_fast_len(length, real=True)
    spectra = [np.fft.rfft(x, size, axis=-1) for x in (target, found)]
    products = [np.fft.irfft(spectra[0].conj() * x, size, axis=-1)[:, :taps] for x in spectra]
    filtered = np.zeros((len(mask), length))
    for row, (own, cross) in enumerate(zip(*products)):
        if own[0] > 0:
            own[0] *= 1 + 1e-12
            response = np.fft.rfft(scipy.linalg.solve_toeplitz(own, cross), size)
            filtered[row] = np.fft.irfft(spectra[0][row] * response, size)[:length]
    rest = np.pad(found, ((0, 0), (0, taps - 1))) - filtered
    return _decibels(*(jnp.asarray((x**2).sum(axis=-1), jnp.float32) for x in (filtered, rest)), jnp.asarray(mask))


def _magnitude(audio: jax.Array, n_fft: int, hop: int) -> jax.Array:
    return jnp.maximum(jnp.abs(stft(audio, n_fft, hop, edge="zero")), MAGNITUDE_FLOOR)


def _decibels(kept: jax.Array, rest: jax.Array, mask: jax.Array) -> jax.Array:
    """Of the ratio of two energies [B], within the limit; 0 where the mask is empty."""
    ratio = kept / jnp.where(rest > 0, rest, 1)
    decibels = 10 * jnp.log10(jnp.where(ratio > 0, ratio, 1))
    decibels = jnp.where(rest > 0, jnp.where(ratio > 0, decibels, -SDR_LIMIT), SDR_LIMIT)
    decibels = jnp.where(kept > 0, decibels, -SDR_LIMIT)
    return jnp.where(mask.any(axis=-1), jnp.clip(decibels, min=-SDR_LIMIT, max=SDR_LIMIT), 0)


def _mean(x: jax.Array, mask: jax.Array, axis: int) -> jax.Array:
    """Mean over the mask; 0 where the mask is empty."""
    return jnp.sum(jnp.where(mask, x, 0), axis=axis) / jnp.maximum(jnp.sum(mask, axis=axis), 1)


def _centre(x: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, x - _mean(x, mask, axis=-1)[..., None], 0)


def _check_audio(reference: jax.Array, estimate: jax.Array, mask: jax.Array | None) -> jax.Array:
    _check_equal("estimate", estimate, "reference", reference)
    if reference.ndim != 2:
        raise ValueError(f"reference: found shape {reference.shape}, expected [batch, samples]")
    if mask is None:
        return jnp.ones(reference.shape, bool)
    _check_equal("mask", mask, "reference", reference)
    return mask


def _check_equal(name: str, x: jax.Array, other_name: str, other: jax.Array) -> None:
    if x.shape != other.shape:
        raise ValueError(f"{name}: found shape {x.shape}, expected {other.shape} as {other_name} has")
