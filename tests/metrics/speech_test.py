"""PESQ, STOI and DNSMOS on real speech, where the extra ``eval`` is installed."""

import numpy as np
import pytest

from jaxtok.data import recordings
from jaxtok.metrics import speech
from jaxtok.metrics.judge import Unjudged

REASON = "needs the extra 'eval'"


@pytest.fixture(scope="module")
def spoken():
    """A recording of 2.3 s, its rate, and the recording with a tenth of its energy in noise."""
    found, _ = recordings.find(["samples:speech"])
    wave, rate = next(one for one in found if one.name == "en/conf-kicked.ogg").read()
    noise = np.random.default_rng(0).standard_normal(len(wave)).astype(np.float32)
    return wave, rate, wave + noise * np.sqrt(0.1 * np.mean(wave**2))


def test_pesq_of_identity_noise_level_and_rate(spoken):
    pytest.importorskip("pesq", reason=REASON)
    wave, rate, noisy = spoken
    assert speech.pesq(wave, wave, rate) == pytest.approx(speech.PESQ_BEST, abs=1e-5)
    assert speech.pesq(wave, 0.25 * wave, rate) == pytest.approx(speech.PESQ_BEST, abs=0.01)
    assert 1.0 < speech.pesq(wave, noisy, rate) < 2.0
    assert speech.pesq(wave, wave[:-1000], rate) > 4.5  # the longer is cut
    with pytest.raises(Unjudged, match="no utterances detected|silent"):
        speech.pesq(wave, np.zeros_like(wave), rate)
    with pytest.raises(Unjudged, match="1/4 of a second"):
        speech.pesq(wave[:2000], wave[:2000], rate)


def test_stoi_of_identity_noise_and_brevity(spoken):
    pytest.importorskip("pystoi", reason=REASON)
    wave, rate, noisy = spoken
    assert speech.stoi(wave, wave, rate) == pytest.approx(1.0, abs=1e-6)
    assert speech.stoi(wave, 0.25 * wave, rate) == pytest.approx(1.0, abs=1e-6)
    assert 0.6 < speech.stoi(wave, noisy, rate) < 0.99
    for samples in (100, 6000):
        with pytest.raises(Unjudged, match=r"under 0.4 s of speech"):
            speech.stoi(wave[:samples], wave[:samples], rate)


def test_dnsmos_prefers_the_clean_recording(spoken):
    for name in ("speechmos", "onnxruntime", "librosa"):
        pytest.importorskip(name, reason=REASON)
    wave, rate, noisy = spoken
    clean, worse = speech.dnsmos(wave, rate), speech.dnsmos(noisy, rate)
    assert list(clean) == ["signal", "background", "overall", "p808"]
    assert all(1 < value < 5 for value in clean.values())
    assert worse["overall"] < clean["overall"] - 0.3 and worse["p808"] < clean["p808"]
