import jax
import numpy as np
import pytest

from jaxtok.signal import log_mel
from jaxtok.signal.log_mel import LogMel, htk_filters

torch = pytest.importorskip("torch")


def audio(samples=4000):
    return np.random.default_rng(0).uniform(-0.5, 0.5, (2, samples)).astype(np.float32)


def test_filters_are_triangles_between_neighbours_on_the_htk_scale():
    filters = htk_filters(1024, 24000, 20, 0.0, 12000.0)
    mel = 2595 * np.log10(1 + np.arange(513) * 24000 / 1024 / 700)
    step = 2595 * np.log10(1 + 12000 / 700) / 21
    centres = np.arange(1, 21) * step
    distance = np.abs(mel[:, None] - centres) / step
    assert (filters[distance < 1 - 1e-6] > 0).all() and (filters[distance > 1 + 1e-6] == 0).all()
    hertz = 700 * (10 ** (centres / 2595) - 1)  # straight in hertz, height 1, and the sum of neighbours is 1
    inside = (np.arange(513) * 24000 / 1024 > hertz[0]) & (np.arange(513) * 24000 / 1024 < hertz[-1])
    np.testing.assert_allclose(filters[inside].sum(1), 1.0, atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "center"])
def test_frames_equal_pytorch(padding):
    front = LogMel(n_fft=256, hop=64, bands=12, padding=padding)
    x = torch.tensor(audio())
    if padding == "same":
        x = torch.nn.functional.pad(x[:, None], (96, 96), mode="reflect")[:, 0]
    window = torch.hann_window(256)
    spectrum = torch.stft(x, 256, 64, window=window, center=padding == "center", return_complex=True)
    mel = torch.tensor(log_mel.htk_filters(256, 24000, 12, 0.0, 12000.0)).T @ spectrum.abs()
    found = jax.jit(front)(audio())
    assert found.shape == (2, front.frames(4000), 12)
    np.testing.assert_allclose(found, torch.log(mel.clip(min=1e-7)).mT, atol=1e-4)


@pytest.mark.parametrize("padding", ["same", "center"])
def test_a_padded_row_has_the_frames_that_it_has_alone(padding):
    front = LogMel(n_fft=256, hop=64, bands=12, padding=padding)
    lengths = np.array([4000, 1536])
    padded = np.where(np.arange(4000) < lengths[:, None], audio(), 0.3)
    found, alone = jax.jit(front)(padded, lengths=lengths)[1], front(audio()[1:, :1536])[0]
    assert len(alone) == front.frames(1536)
    np.testing.assert_allclose(found[: len(alone)], alone, atol=1e-4)


def test_bad_settings_and_short_audio_are_refused():
    with pytest.raises(ValueError, match="filters: expected one of htk, slaney, found 'bark'"):
        LogMel(filters="bark")
    with pytest.raises(ValueError, match="padding: expected 'center', or 'same' with n_fft - hop even"):
        LogMel(n_fft=1024, hop=255)
    with pytest.raises(ValueError, match=r"floor: expected a positive magnitude, found 0.0"):
        LogMel(floor=0.0)
    with pytest.raises(ValueError, match=r"expected \[batch, more than 384 samples\], found shape \(1, 384\)"):
        LogMel()(np.zeros((1, 384), np.float32))
