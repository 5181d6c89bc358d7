import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.metrics.audio import _SCALES, ci_sdr, mel_distance, multi_scale_mel_distance, sdr, si_sdr, stft_distance
from jaxtok.signal.mel import MelFrontEnd, mel_centres

FRONT = MelFrontEnd()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def numpy_stft_distance(a, b):
    total = 0.0
    for n_fft in (2048, 1024, 512):
        hop, window = n_fft // 4, np.sin(np.pi * np.arange(n_fft) / n_fft) ** 2
        pad = (n_fft - hop) // 2
        magnitudes = []
        for x in (a, b):
            x = np.pad(x.astype(np.float64), pad)
            frames = [np.fft.rfft(x[t * hop : t * hop + n_fft] * window) for t in range(len(a) // hop)]
            magnitudes.append(np.maximum(np.abs(frames), 1e-5))
        A, B = magnitudes
        total += np.linalg.norm(A - B) / np.linalg.norm(A) + np.abs(np.log(A) - np.log(B)).mean()
    return total / 3


def test_mel_distance_counts_frames_and_bands():
    mel = jnp.zeros((3, 4, 128))
    below = mel_centres(128, 0.0, 12000.0) < 8000
    assert below.sum() == 114 and (np.diff(below.astype(int)) <= 0).all()
    other = mel.at[0, 0, 0].set(1.0).at[0, 3].set(9.0).at[0, :, 114:].set(7.0)  # one band of one frame counts
    other = other.at[1].add(-0.5)
    mask = jnp.asarray([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    found = mel_distance(mel, other, mask, frontend=FRONT)
    np.testing.assert_allclose(found, [np.sqrt(8.14) / (3 * 114), 0.5 * np.sqrt(8.14), 0], rtol=1e-6)
    all_bands = mel_distance(mel, other, mask, below_hz=12000.0, frontend=FRONT)
    np.testing.assert_allclose(all_bands[0], np.sqrt(8.14) * (1 + 3 * 14 * 7) / (3 * 128), rtol=1e-6)


def test_mel_distance_of_twice_the_amplitude_is_ln_2():
    audio = jnp.asarray(0.1 * noise(1, 4800))
    found = mel_distance(FRONT(audio), FRONT(2 * audio), jnp.ones((1, 10), bool), frontend=FRONT)
    np.testing.assert_allclose(found, [np.log(2)], atol=1e-4)


def test_multi_scale_mel_distance_of_a_gain_is_its_logarithm_at_each_scale():
    audio = jnp.asarray(0.1 * noise(1, 2048))
    distance = jax.jit(multi_scale_mel_distance)
    np.testing.assert_allclose(distance(audio, 0.5 * audio), [7 * np.log10(2)], rtol=1e-4)
    np.testing.assert_array_equal(distance(audio, audio), [0])
    assert _SCALES[-1].sample_rate == 16000 and [scale.n_fft for scale in _SCALES] == [2**n for n in range(5, 12)]


def test_stft_distance_matches_numpy():
    a, b = noise(2, 5000), noise(2, 5000, seed=1)
    found = jax.jit(stft_distance)(a, b)
    np.testing.assert_allclose(found, [numpy_stft_distance(x, y) for x, y in zip(a, b)], rtol=1e-4)


def test_stft_distance_of_twice_the_amplitude():
    a = jnp.asarray(noise(1, 4096))
    np.testing.assert_allclose(jax.jit(stft_distance)(a, a), [0.0], atol=1e-6)
    np.testing.assert_allclose(jax.jit(stft_distance)(a, 2 * a), [1 + np.log(2)], rtol=1e-4)


def test_stft_distance_of_a_padded_row():
    a, b = noise(2, 4096), noise(2, 4096, seed=1)
    mask = np.arange(4096) < np.asarray([[4096], [3072]])
    found = jax.jit(stft_distance)(a, b, mask)
    expected = [numpy_stft_distance(a[0], b[0]), numpy_stft_distance(a[1, :3072], b[1, :3072])]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(jax.jit(stft_distance)(a, b, np.zeros_like(mask)), [0, 0])


def test_si_sdr_closed_form():
    # Orthogonal noise of a hundredth of the energy is 20 dB, whatever the scale and the mean of the estimate.
    n = np.arange(1000)
    a, b = np.sin(2 * np.pi * 5 * n / 1000), np.cos(2 * np.pi * 5 * n / 1000)
    reference = np.stack([a, a, a, 0 * a, a]).astype(np.float32)
    estimate = np.stack([a + 0.1 * b, -3 * (a + 0.1 * b) + 0.7, b, a, 0 * a]).astype(np.float32)
    found = np.asarray(jax.jit(si_sdr)(reference, estimate))
    np.testing.assert_allclose(found[:2], [20, 20], atol=1e-2)
    assert found[2] == pytest.approx(-100) or found[2] < -80
    np.testing.assert_array_equal(found[3:], [-100, -100])
    assert float(si_sdr(reference[:1], 2 * reference[:1])[0]) == 100


def test_sdr_of_a_gain_and_of_noise():
    gains = np.asarray([0.5, 0.99, -1.0, 0.0, 3.0])
    a, b = noise(1, 4000), noise(1, 4000, seed=1)
    found = jax.jit(sdr)(np.tile(a, (5, 1)), (gains[:, None] * a).astype(np.float32))
    np.testing.assert_allclose(found, -20 * np.log10(np.abs(1 - gains)), atol=1e-3)  # not scale invariant
    np.testing.assert_allclose(sdr(a, a + 0.1 * b), 20 + 10 * np.log10((a**2).sum() / (b**2).sum()), atol=1e-4)
    np.testing.assert_array_equal(
        sdr(np.concatenate([a, 0 * a, 0 * a]), np.concatenate([a, a, 0 * a])), [100, -100, -100]
    )


def test_ci_sdr_is_invariant_to_filters_of_its_length():
    a, b = noise(1, 8000), noise(1, 8000, seed=1)
    a[:, -40:] = 0.0  # so that the filtered reference ends within the recording
    response = noise(32, seed=2)
    wet = np.convolve(a[0], response)[None, :8000].astype(np.float32)
    assert ci_sdr(a, wet, taps=32)[0] == ci_sdr(a, wet)[0] == 100 and si_sdr(a, wet)[0] < 0
    assert ci_sdr(a, wet, taps=31)[0] == pytest.approx(
        10 * np.log10((response[:31] ** 2).sum() / response[31] ** 2), abs=0.3
    )
    late = np.roll(a, 40, axis=1)  # a delay within the filter, and one beyond it
    assert ci_sdr(a, late, taps=41)[0] == 100 and ci_sdr(a, late, taps=40)[0] < -15
    # Orthogonal noise has its level after any filter; 32 taps explain 32 of its 8031 samples.
    level = 10 * np.log10((wet**2).sum() / (b**2).sum())
    np.testing.assert_allclose(ci_sdr(a, wet + 0.1 * b, taps=32), 20 + level, atol=0.1)


def test_ci_sdr_is_the_least_squares_distance():
    a, b = noise(2, 60), noise(2, 60, seed=1)
    for x, y, found in zip(a, b, ci_sdr(a, b, taps=7)):
        matrix = np.stack([np.pad(x.astype(np.float64), (shift, 6 - shift)) for shift in range(7)], axis=1)
        y = np.pad(y.astype(np.float64), (0, 6))
        filtered = matrix @ np.linalg.lstsq(matrix, y, rcond=None)[0]
        assert found == pytest.approx(10 * np.log10((filtered**2).sum() / ((y - filtered) ** 2).sum()), abs=1e-4)


def test_ci_sdr_of_one_tap_is_si_sdr_where_means_are_zero():
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (noise(2, 500), noise(2, 500, seed=1)))
    np.testing.assert_allclose(ci_sdr(a, a + b, taps=1), si_sdr(a, a + b), atol=1e-4)
    np.testing.assert_array_equal(ci_sdr(a, np.stack([a[0], 0 * a[1]])), [100, -100])
    np.testing.assert_array_equal(ci_sdr(0 * a, a), [-100, -100])


def test_ci_sdr_of_a_reference_that_leaves_bands_empty():
    """A constant and a sine span a few dimensions of 512: the filter is not unique, its number is."""
    n = np.arange(16000)
    a = np.stack([np.full(16000, 0.3), 0.5 * np.sin(0.05 * n)]).astype(np.float32)
    np.testing.assert_array_equal(ci_sdr(a, 2 * a), [100, 100])
    b = 0.01 * noise(2, 16000)
    level = 10 * np.log10((a**2).sum(1) / (b**2).sum(1))
    np.testing.assert_allclose(ci_sdr(a, a + b), level, atol=0.5)


@pytest.mark.parametrize("measure", [si_sdr, sdr, ci_sdr])
def test_ratios_of_a_padded_row(measure):
    a, b = noise(2, 500), noise(2, 500, seed=1)
    mask = np.arange(500) < np.asarray([[500], [300]])
    found = measure(a, a + b, mask)
    np.testing.assert_allclose(found[1], measure(a[1:, :300], (a + b)[1:, :300])[0], atol=1e-4)
    np.testing.assert_array_equal(measure(a, b, np.zeros_like(mask)), [0, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, m: mel_distance(x, x[:, :3], m, frontend=FRONT), r"mel_b: found shape \(1, 3, 128\), expected"),
        (lambda x, m: mel_distance(x[..., :80], x[..., :80], m, frontend=FRONT), r"mel_a: found .* frames, 128\]"),
        (lambda x, m: mel_distance(x, x, m[:, :3], frontend=FRONT), r"mask: found shape \(1, 3\), expected \(1, 4\)"),
        (lambda x, m: mel_distance(x, x, m, below_hz=1.0, frontend=FRONT), "below_hz: found 1.0"),
        (lambda x, m: stft_distance(x[..., 0], x[..., 0]), "reference: found 4 samples, expected at least 512"),
        (lambda x, m: stft_distance(x, x), r"reference: found shape \(1, 4, 128\), expected \[batch, samples\]"),
        (lambda x, m: si_sdr(x[..., 0], x[:, :3, 0]), r"estimate: found shape \(1, 3\), expected \(1, 4\)"),
        (lambda x, m: ci_sdr(x[..., 0], x[:, :3, 0]), r"estimate: found shape \(1, 3\), expected \(1, 4\)"),
        (lambda x, m: ci_sdr(x[..., 0], x[..., 0], taps=0), "taps: found 0, expected at least 1"),
        (lambda x, m: si_sdr(x[..., 0], x[..., 0], m[:, :3]), r"mask: found shape \(1, 3\), expected \(1, 4\)"),
    ],
)
def test_bad_input_gets_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((1, 4, 128)), jnp.ones((1, 4), bool))
