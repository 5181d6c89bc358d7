import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.signal.weighting import a_filter, a_magnitude, a_weight


def decibels(x):
    return 20 * np.log10(np.abs(x))


def test_magnitude_is_the_standards():
    # IEC 61672's table, to a decimal; at a high rate, so that the bilinear transformation bends little.
    hertz = 10 ** np.array([1.5, 2.0, 2.7, 3.0, 3.3, 3.6, 3.9])  # 31.5 Hz to 8 kHz by name
    expected = [-39.4, -19.1, -3.2, 0.0, 1.2, 1.0, -1.1]
    np.testing.assert_allclose(decibels(a_magnitude(hertz, 400_000)), expected, atol=0.06)


def test_filter_follows_it_where_it_is_long_enough():
    for rate in (16_000, 24_000):
        taps = a_filter(rate)
        np.testing.assert_array_equal(taps, taps[::-1])
        hertz = np.array([500, 1000, 2000, 4000, 7000])
        response = np.exp(-2j * np.pi * hertz[:, None] * np.arange(101) / rate) @ taps
        np.testing.assert_allclose(decibels(response), decibels(a_magnitude(hertz, rate)), atol=0.1)
    with pytest.raises(ValueError, match="expected a positive rate and odd taps of 3 or more, found 16000 and 100"):
        a_filter(16_000, 100)


def test_audio_is_filtered_and_keeps_its_length():
    t = np.arange(2400) / 24_000
    audio = np.stack([np.sin(2 * np.pi * 1000 * t), np.sin(2 * np.pi * 100 * t)]).astype(np.float32)
    found = np.asarray(jax.jit(a_weight, static_argnums=1)(audio, 24_000))
    inner = found[:, 200:-200]
    np.testing.assert_allclose(inner.std(1) / audio.std(1), a_magnitude(np.array([1000, 100]), 24_000), rtol=0.15)
    np.testing.assert_allclose(inner[0], audio[0, 200:-200], atol=5e-3)  # nothing is shifted
    expected = np.stack([np.convolve(row, a_filter(24_000), "same") for row in audio])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    mask = np.arange(2400) < np.array([[2400], [900]])
    short = a_weight(jnp.where(mask, audio, 9.0), 24_000, mask=mask)
    np.testing.assert_allclose(short[1, :900], a_weight(audio[1:, :900], 24_000)[0], atol=1e-6)
