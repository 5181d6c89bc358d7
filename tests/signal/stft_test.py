import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.signal.stft import frame, hann, istft, overlap_add, stft

SIZES = [(16, 4), (20, 6), (15, 5), (12, 6), (9, 4)]  # hop divides the frame or not, odd and even


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def round_trip(audio, n_fft, hop, padding="same", edge="reflect"):
    def both(x):
        spectrum = stft(x, n_fft, hop, padding=padding, edge=edge)
        return spectrum, istft(spectrum, n_fft, hop, padding=padding)

    return jax.jit(both)(audio)


def test_hann_is_periodic():
    np.testing.assert_allclose(hann(8), [0, 0.14644661, 0.5, 0.85355339, 1, 0.85355339, 0.5, 0.14644661], atol=1e-7)
    shifted = hann(1920).reshape(4, 480).sum(0)
    np.testing.assert_allclose(shifted, 2.0, atol=1e-6)


def test_frame_of_a_ramp():
    frames = frame(jnp.arange(11.0), 4, 3)
    np.testing.assert_array_equal(frames, [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]])


@pytest.mark.parametrize(("length", "hop"), [*SIZES, (4, 7)])
def test_frame_and_overlap_add_match_loops(length, hop):
    audio = noise(2, 50)
    frames = frame(jnp.asarray(audio), length, hop)
    count = (50 - length) // hop + 1
    expected = np.stack([audio[:, t * hop : t * hop + length] for t in range(count)], axis=1)
    np.testing.assert_array_equal(frames, expected)
    total = np.zeros((2, (count - 1) * hop + length), np.float32)
    for t in range(count):
        total[:, t * hop : t * hop + length] += expected[:, t]
    np.testing.assert_allclose(overlap_add(frames, hop), total, atol=1e-6)


@pytest.mark.parametrize(("padding", "left"), [("same", 720), ("center", 960), ("none", 0)])
def test_stft_matches_numpy(padding, left):
    audio = noise(4001)
    padded = np.pad(audio.astype(np.float64), left, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1920) / 1920)
    count = {"same": 4001 // 480, "center": 4001 // 480 + 1, "none": (4001 - 1920) // 480 + 1}[padding]
    expected = np.stack([np.fft.rfft(padded[t * 480 : t * 480 + 1920] * window) for t in range(count)])
    found = stft(jnp.asarray(audio), 1920, 480, padding=padding)
    assert found.shape == (count, 961) and found.dtype == jnp.complex64
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_stft_of_a_bin_centred_cosine_is_the_transformed_window():
    # A periodic Hann window turns a cosine of bin 10 and amplitude a into a n/4 at bin 10 and -a n/8 beside it.
    audio = jnp.cos(2 * jnp.pi * 10 * jnp.arange(64.0) / 64)
    spectrum = stft(audio, 64, 64, padding="none")[0]
    expected = np.zeros(33)
    expected[9:12] = [-8, 16, -8]
    np.testing.assert_allclose(spectrum, expected, atol=1e-4)


@pytest.mark.parametrize(("n_fft", "hop"), SIZES)
@pytest.mark.parametrize("edge", ["reflect", "zero"])
def test_same_reconstructs_every_sample(n_fft, hop, edge):
    audio = noise(3, 7 * hop)
    spectrum, back = round_trip(audio, n_fft, hop, edge=edge)
    assert spectrum.shape == (3, 7, n_fft // 2 + 1) and back.shape == audio.shape
    np.testing.assert_allclose(back, audio, atol=2e-5)


@pytest.mark.parametrize(("n_fft", "hop"), [(2400, 600), (1280, 320)])
def test_published_sizes_reconstruct_every_sample(n_fft, hop):
    """WavTokenizer's, at its 40 and 75 tokens a second."""
    audio = noise(2, 20 * hop)
    np.testing.assert_allclose(round_trip(audio, n_fft, hop)[1], audio, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (20, 6), (12, 6)])
def test_center_reconstructs_every_sample(n_fft, hop):
    audio = noise(2, 7 * hop)
    spectrum, back = round_trip(audio, n_fft, hop, padding="center")
    assert spectrum.shape == (2, 8, n_fft // 2 + 1) and back.shape == audio.shape
    np.testing.assert_allclose(back, audio, atol=2e-5)


def test_another_window_reconstructs():
    window = np.linspace(0.5, 1.5, 16).astype(np.float32)
    audio = noise(24)
    back = istft(stft(jnp.asarray(audio), 16, 4, window), 16, 4, window)
    np.testing.assert_allclose(back, audio, atol=2e-5)


def test_istft_is_the_least_squares_inverse():
    # An arbitrary spectrum is no signal's: the inverse must solve the normal equations of windowing and framing.
    rng = np.random.default_rng(1)
    spectrum = rng.standard_normal((5, 9)) + 1j * rng.standard_normal((5, 9))
    frames = np.fft.irfft(spectrum, 16)
    matrix = np.zeros((5 * 16, 32))
    for t in range(5):
        matrix[t * 16 + np.arange(16), t * 4 + np.arange(16)] = hann(16)
    expected = np.linalg.lstsq(matrix, frames.reshape(-1), rcond=None)[0][6:-6]
    np.testing.assert_allclose(istft(jnp.asarray(spectrum, jnp.complex64), 16, 4), expected, atol=1e-5)


@pytest.mark.parametrize(("padding", "less"), [("same", 0), ("center", 1)])
def test_masked_frames_change_nothing(padding, less):
    rng = np.random.default_rng(2)
    spectrum = jnp.asarray(rng.standard_normal((2, 9, 9)) + 1j * rng.standard_normal((2, 9, 9)), jnp.complex64)
    mask = jnp.arange(9) < jnp.asarray([[9], [5]])
    padded = jax.jit(lambda s, m: istft(s, 16, 4, padding=padding, mask=m))(spectrum, mask)
    own = 4 * (5 - less)
    np.testing.assert_allclose(padded[0], istft(spectrum[0], 16, 4, padding=padding), atol=1e-6)
    np.testing.assert_allclose(padded[1, :own], istft(spectrum[1, :5], 16, 4, padding=padding), atol=1e-6)
    np.testing.assert_array_equal(padded[1, own:], 0)


def test_gradient_passes_the_round_trip():
    audio = jnp.asarray(noise(24))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(istft(stft(x, 16, 4), 16, 4) * audio)))(audio)
    np.testing.assert_allclose(gradient, audio, atol=1e-4)  # the round trip is the identity, so is its transpose


def test_half_precision_is_computed_in_float32():
    audio = jnp.asarray(noise(64), jnp.bfloat16)
    np.testing.assert_allclose(stft(audio, 16, 4), stft(audio.astype(jnp.float32), 16, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frame(jnp.zeros(5), 6, 2), "audio: found 5 samples, expected at least one frame of 6"),
        (lambda: frame(jnp.zeros(5), 6, 0), "found 6 and 0, expected both to be positive"),
        (lambda: stft(jnp.zeros(0), 16, 4), "audio: found 0 samples"),
        (lambda: stft(jnp.zeros(3), 16, 4), "audio: found 3 samples, expected at least 4"),
        (lambda: stft(jnp.zeros(99), 16, 4, padding="valid"), "padding: found 'valid', expected one of 'same'"),
        (lambda: stft(jnp.zeros(99), 16, 4, edge="wrap"), "edge: found 'wrap'"),
        (lambda: stft(jnp.zeros(99), 16, 4, np.ones(15)), r"window: found shape \(15,\), expected \(16,\)"),
        (lambda: stft(jnp.zeros(99), 16, 17), "hop: found 17, expected at most n_fft = 16"),
        (lambda: istft(jnp.zeros((3, 8), jnp.complex64), 16, 4), "spectrum: found 8 bins, expected .* 9"),
        (lambda: istft(jnp.zeros((3, 9), jnp.complex64), 16, 16), "hop: found 16, expected one that leaves no sample"),
        (
            lambda: istft(jnp.zeros((3, 9), jnp.complex64), 16, 4, padding="none", mask=jnp.ones(3, bool)),
            "mask: found padding 'none', expected 'same' or 'center'",
        ),
    ],
)
def test_bad_input_gets_one_sentence(call, message):
    with pytest.raises(ValueError, match=message):
        call()
