"""Short-time Fourier transform and its inverse, by overlap-add with division by the window envelope.

Plain functions on arrays of any leading shape; time and frequency are the last two axes, ``[..., frames, bins]``.
Framing and overlap-add work on blocks of ``hop`` samples (slices and concatenations, no gather and no scatter).
Windows are periodic: ``hann(n)[i] = sin(pi i / n)^2``, so that shifted copies add up to a constant.

The inverse is the least-squares one of Griffin and Lim (1984): the sum of windowed inverse frames divided by
the sum of squared windows. Where the spectrum is that of a signal, it gives this signal back exactly, edges included.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.signal import fourier

PADDINGS = ("same", "center", "none")


def hann(length: int) -> np.ndarray:
    """Periodic Hann window of ``length`` samples, float32."""
    return (np.sin(np.pi * np.arange(length) / length) ** 2).astype(np.float32)


def frame(audio: jax.Array, length: int, hop: int) -> jax.Array:
    """Cuts overlapping frames: ``[..., L] -> [..., T, length]`` with ``T = (L - length) // hop + 1``.

    Frame t holds the samples ``t * hop ... t * hop + length - 1``; samples after the last whole frame are left out.

    Raises:
      ValueError: when the audio is shorter than one frame, or ``length`` or ``hop`` is not positive.
    """
    _check_sizes(length, hop)
    samples = audio.shape[-1]
    if samples < length:
        raise ValueError(f"audio: found {samples} samples, expected at least one frame of {length}")
    frames, blocks = (samples - length) // hop + 1, -(-length // hop)
    total = (frames + blocks - 1) * hop
    audio = _fit(audio, total)
    rows = audio.reshape(*audio.shape[:-1], frames + blocks - 1, hop)
    shifted = [rows[..., i : i + frames, :] for i in range(blocks)]
    return jnp.concatenate(shifted, axis=-1)[..., :length]


def overlap_add(frames: jax.Array, hop: int) -> jax.Array:
    """Adds frames at their places, the transpose of `frame`: ``[..., T, length] -> [..., (T - 1) * hop + length]``."""
    *_, count, length = frames.shape
    _check_sizes(length, hop)
    blocks = -(-length // hop)
    rows = _fit(frames, blocks * hop)
    batch = [(0, 0)] * (frames.ndim - 2)
    total = 0
    for i in range(blocks):
        part = rows[..., i * hop : (i + 1) * hop]
        total = total + jnp.pad(part, [*batch, (i, blocks - 1 - i), (0, 0)])
    total = jnp.asarray(total)
    return total.reshape(*total.shape[:-2], -1)[..., : (count - 1) * hop + length]


def stft(
    audio: jax.Array,
    n_fft: int,
    hop: int,
    window: np.ndarray | None = None,
    *,
    padding: str = "same",
    edge: str = "reflect",
) -> jax.Array:
    """Complex spectrum of real audio, not normalised: ``[..., L] -> [..., T, n_fft // 2 + 1]``.

    Args:
      audio: real samples; bfloat16 and float16 are computed in float32.
      n_fft: frame and transform length in samples.
      hop: samples between frames.
      window: ``[n_fft]`` samples; the periodic Hann window when absent.
      padding: ``"same"`` adds ``n_fft - hop`` samples, half on each side, so that ``T = L // hop`` and frame t is
        centred on the middle of its hop; ``"center"`` adds ``n_fft // 2`` on each side: ``T = L // hop + 1``, frame t
        centred on sample ``t * hop``; ``"none"`` adds nothing.
      edge: what is added: ``"reflect"`` or ``"zero"``.

    Raises:
      ValueError: for an unknown padding or edge, a window of another length, or audio too short for one frame.
    """
    window = _window(window, n_fft)
    left, right = _margins(padding, n_fft, hop)
    if edge not in ("reflect", "zero"):
        raise ValueError(f"edge: found {edge!r}, expected 'reflect' or 'zero'")
    audio = audio.astype(jnp.promote_types(audio.dtype, jnp.float32))
    if audio.shape[-1] == 0:
        raise ValueError("audio: found 0 samples, expected at least one")
    margins = [(0, 0)] * (audio.ndim - 1) + [(left, right)]
    padded = jnp.pad(audio, margins, mode="reflect" if edge == "reflect" else "constant")
    if padded.shape[-1] < n_fft:
        raise ValueError(
            f"audio: found {audio.shape[-1]} samples, expected at least {n_fft - left - right} "
            f"for one frame of n_fft {n_fft} with padding {padding!r}"
        )
    return fourier.rfft(frame(padded, n_fft, hop) * window)


def istft(
    spectrum: jax.Array,
    n_fft: int,
    hop: int,
    window: np.ndarray | None = None,
    *,
    padding: str = "same",
    mask: jax.Array | None = None,
) -> jax.Array:
    """Audio whose frames are nearest to the given ones: ``[..., T, n_fft // 2 + 1] -> [..., L]``.

    Args:
      spectrum: complex frames as `stft` makes them, not normalised.
      n_fft: frame and transform length in samples.
      hop: samples between frames.
      window: ``[n_fft]`` samples, for synthesis and analysis alike; the periodic Hann window when absent.
      padding: ``"same"`` gives ``hop * T`` samples (half of ``n_fft - hop`` is trimmed on each side), ``"center"``
        gives ``hop * (T - 1)``, ``"none"`` all ``(T - 1) * hop + n_fft``.
      mask: ``[..., T]`` boolean, not with ``"none"``: frames outside neither add to the sum nor to the window
        envelope, and their samples are 0, so that a padded row gives the samples that it gives alone.

    Raises:
      ValueError: for an unknown padding, a mask with padding "none", a spectrum or window of another length, or a
        window and hop that leave a sample under no window (the periodic Hann window needs ``hop < n_fft``).
    """
    window = _window(window, n_fft)
    left, right = _margins(padding, n_fft, hop)
    *_, count, bins = spectrum.shape
    if bins != n_fft // 2 + 1:
        raise ValueError(f"spectrum: found {bins} bins, expected n_fft // 2 + 1 = {n_fft // 2 + 1}")
    if mask is not None and padding == "none":
        raise ValueError("mask: found padding 'none', expected 'same' or 'center'")
    _check_cover(window, hop, count, left, right)
    frames = fourier.irfft(spectrum, n_fft) * window
    squares = window**2
    if mask is not None:
        frames = jnp.where(mask[..., None], frames, 0)
    audio = overlap_add(frames, hop)
    envelope = _envelope(squares, hop, jnp.ones(count, bool) if mask is None else mask)
    total = audio.shape[-1]
    audio, envelope = audio[..., left : total - right], envelope[..., left : total - right]
    if mask is None:
        return audio / envelope
    inside = jnp.repeat(mask if padding == "same" else mask[..., 1:], hop, axis=-1)
    return jnp.where(inside, audio / jnp.where(inside, envelope, 1), 0)


def _envelope(squares: np.ndarray, hop: int, mask: jax.Array) -> jax.Array:
    """Sum of squared windows under each sample: ``[..., T] -> [..., (T - 1) * hop + n_fft]``."""
    length, count = squares.shape[-1], mask.shape[-1]
    blocks = -(-length // hop)
    rows = _fit(jnp.asarray(squares), blocks * hop).reshape(blocks, hop)
    margins = [(0, 0)] * (mask.ndim - 1) + [(blocks - 1, blocks - 1)]
    present = jnp.pad(mask, margins).astype(rows.dtype)
    # Block m lies under block i of frame m - i, which stands at m - i + (blocks - 1) of the padded mask.
    under = jnp.stack([present[..., blocks - 1 - i : 2 * blocks - 2 - i + count] for i in range(blocks)], axis=-1)
    envelope = jnp.sum(under[..., :, None] * rows, axis=-2)
    return envelope.reshape(*envelope.shape[:-2], -1)[..., : (count - 1) * hop + length]


def _check_cover(window: np.ndarray, hop: int, count: int, left: int, right: int) -> None:
    """The envelope repeats with period hop inside, so a few frames show all its values."""
    length = window.shape[-1]
    count = min(count, 2 * -(-length // hop) + 1)
    envelope = np.zeros((count - 1) * hop + length)
    for t in range(count):
        envelope[t * hop : t * hop + length] += np.square(window, dtype=np.float64)
    if (envelope[left : len(envelope) - right] <= 0).any():
        raise ValueError(f"hop: found {hop}, expected one that leaves no sample of {length} under a window of zero")


def _margins(padding: str, n_fft: int, hop: int) -> tuple[int, int]:
    _check_sizes(n_fft, hop)
    if padding == "same":
        if hop > n_fft:
            raise ValueError(f"hop: found {hop}, expected at most n_fft = {n_fft} with padding 'same'")
        return (n_fft - hop) // 2, (n_fft - hop) - (n_fft - hop) // 2
    if padding == "center":
        return n_fft // 2, n_fft // 2
    if padding == "none":
        return 0, 0
    raise ValueError(f"padding: found {padding!r}, expected one of {', '.join(map(repr, PADDINGS))}")


def _window(window: np.ndarray | None, n_fft: int) -> np.ndarray:
    if window is None:
        return hann(n_fft)
    window = np.asarray(window)
    if window.shape != (n_fft,):
        raise ValueError(f"window: found shape {window.shape}, expected ({n_fft},) for n_fft {n_fft}")
    return window


def _check_sizes(length: int, hop: int) -> None:
    if length < 1 or hop < 1:
        raise ValueError(f"frame length and hop: found {length} and {hop}, expected both to be positive")


def _fit(x: jax.Array, length: int) -> jax.Array:
    """Cuts or zero-pads the last axis to ``length``."""
    missing = max(0, length - x.shape[-1])
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])[..., :length]
