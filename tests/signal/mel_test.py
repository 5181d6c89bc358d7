import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.signal import mel

RATE = 24000


def _tones():
    n = np.arange(RATE)
    return 0.5 * np.sin(2 * np.pi * 440 * n / RATE) + 0.1 * np.sin(2 * np.pi * 3000 * n / RATE)


def test_log_mel_of_two_tones_has_the_reference_values():
    log_mel = mel.MelFrontEnd().log_mel(jnp.asarray(_tones(), jnp.float32)[None])[0]
    assert log_mel.shape == (50, 128)
    np.testing.assert_allclose(log_mel.mean(), -9.352475, atol=1e-3)  # bands near the floor carry float32 noise
    np.testing.assert_allclose(log_mel.max(), 2.412305, atol=1e-5)
    assert int(log_mel[10].argmax()) == 16
    np.testing.assert_allclose(log_mel[10].max(), 2.407793, atol=1e-5)
    np.testing.assert_allclose(log_mel[10, 0], -9.183764, atol=2e-3)
    np.testing.assert_allclose(log_mel[10, 127], -11.512925, atol=1e-6)
    np.testing.assert_allclose(log_mel[0, jnp.array([0, 10, 64])], [-0.494967, 0.071958, -5.264629], atol=1e-4)


def test_filters_sum_and_peak_of_a_kilohertz_sine():
    filters = mel.mel_filters(1920, RATE, 128, 0.0, 12000.0)
    assert filters.shape == (961, 128)
    np.testing.assert_allclose(filters.sum(), 10.239088, rtol=1e-6)
    sine = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    log_mel = mel.MelFrontEnd().log_mel(jnp.asarray(sine, jnp.float32)[None])[0]
    nearest = np.abs(mel.mel_centres(128, 0.0, 12000.0) - 1000.0).argmin()
    assert set(np.asarray(log_mel[5:45].argmax(-1))) == {nearest}


@pytest.mark.parametrize("samples, frames", [(24000, 50), (24001, 50), (24479, 50), (24480, 51)])
def test_frame_counts(samples, frames):
    assert mel.MelFrontEnd()(jnp.zeros((1, samples))).shape == (1, frames, 128)


def test_silence_is_at_the_floor():
    front = mel.MelFrontEnd()
    silence = jnp.zeros((1, 9600))
    np.testing.assert_allclose(front.log_mel(silence), -11.512925, atol=1e-5)
    np.testing.assert_allclose(front(silence), -2.310819, atol=1e-5)
    np.testing.assert_allclose(front.denormalize(front(silence)), front.log_mel(silence), atol=1e-5)


def test_padded_rows_have_the_frames_they_have_alone():
    rng = np.random.default_rng(0)
    audio = rng.uniform(-1, 1, (2, 9600)).astype(np.float32)
    audio[1, 3840:] = 0.0
    front = mel.MelFrontEnd()
    together = front(jnp.asarray(audio), lengths=jnp.array([9600, 3840]))
    np.testing.assert_allclose(together[0], front(audio[:1])[0], atol=1e-5)
    np.testing.assert_allclose(together[1, :8], front(audio[1:, :3840])[0], atol=1e-5)


def test_too_short_audio_is_refused():
    with pytest.raises(ValueError, match="more than 720 samples"):
        mel.MelFrontEnd()(jnp.zeros((1, 720)))
