"""A-weighting: audio as loud as the ear hears it, by a short filter, so that losses can be taken of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Poles of the analog filter in Hz and its gain at 1 kHz in dB (IEC 61672); the first and the last pole are double.
_POLES = (20.598997, 107.65265, 737.86223, 12194.217)
_GAIN = 1.9997


@functools.lru_cache(maxsize=8)
def a_filter(rate: int, taps: int = 101) -> np.ndarray:
    """The symmetric filter float32 [taps] whose response is nearest, by least squares, to A-weighting's magnitude.

    The analog filter is brought to the rate by the bilinear transformation (no prewarping), its magnitude taken at 512
    frequencies. So does auraloss (Steinmetz and Reiss, 2020), whose weighting Stable Audio and EzAudio train with.

    Args:
      rate: in Hz.
      taps: odd; few of them cannot follow the slope below some hundred Hz.

    Raises:
      ValueError: for a rate that is not positive, or an even number of taps.
    """
    if rate <= 0 or taps < 3 or taps % 2 == 0:
        raise ValueError(f"a_filter: expected a positive rate and odd taps of 3 or more, found {rate} and {taps}")
    from scipy.signal import firls

    frequencies = np.arange(512) * rate / 1024
    filters = firls(taps, frequencies, a_magnitude(frequencies, rate), fs=rate).astype(np.float32)
    filters.setflags(write=False)
    return filters


def a_magnitude(frequencies: np.ndarray, rate: int) -> np.ndarray:
    """The magnitude of the digital A-weighting filter at frequencies in Hz below half the rate: 1 at about 1 kHz."""
    s = 2j * rate * np.tan(np.pi * np.asarray(frequencies, np.float64) / rate)  # where the transformation looks
    first, second, third, last = (2 * np.pi * pole for pole in _POLES)
    response = last**2 * 10 ** (_GAIN / 20) * s**4
    return np.abs(response / ((s + first) ** 2 * (s + second) * (s + third) * (s + last) ** 2))


def a_weight(audio: jax.Array, rate: int, *, mask: jax.Array | None = None, taps: int = 101) -> jax.Array:
    """Audio [B, L] through the filter, float32 [B, L], with zeros beyond its ends.

    Args:
      audio: [B, L].
      rate: in Hz.
      mask: bool [B, L], True on a row's samples; what lies outside counts as zeros.
      taps: of the filter.
    """
    x = audio.astype(jnp.float32) if mask is None else jnp.where(mask, audio, 0).astype(jnp.float32)
    kernel, side = jnp.asarray(a_filter(rate, taps))[:, None, None], taps // 2
    padded = jnp.pad(x, ((0, 0), (side, side)))[..., None]
    y = jax.lax.conv_general_dilated(padded, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC"))
    return y[..., 0]
