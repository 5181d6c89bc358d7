"""The encoder of voices: its arithmetic against a recurrence by hand, its embeddings where the weights are."""

import importlib.util

import numpy as np
import pytest

from jaxtok.data import recordings
from jaxtok.metrics import speaker
from jaxtok.metrics.judge import Unjudged

present = all(importlib.util.find_spec(name) for name in ("resemblyzer", "webrtcvad"))
needs = pytest.mark.skipif(not present, reason=f"needs {speaker.INSTALL}")


def test_partial_stretches_cover_a_recording():
    assert speaker.partials(1000) == [0]
    assert speaker.partials(160 * 160) == [0]
    assert speaker.partials(3 * 16000) == [0, 77, 154]  # 300 frames: the third stretch of 160 is 91 % there
    assert speaker.partials(int(2.5 * 16000)) == [0, 77]


def test_what_is_quiet_is_raised_to_30_decibels_below_full_scale():
    tone = np.sin(np.arange(16000, dtype=np.float32))
    for level in (1e-3, 0.5):
        found = speaker.louder(level * tone)
        expected = max(np.sqrt(1e-3), level / np.sqrt(2))
        np.testing.assert_allclose(np.sqrt(np.mean(found**2)), expected, rtol=1e-3)


@needs
def test_voices_are_told_apart_and_noise_is_none():
    found, _ = recordings.find(["samples:speech"])
    by_name = {one.name: one.read() for one in found if one.name in ("en/conf-kicked.ogg", "en/vm-sorry.ogg")}
    allison, again = (speaker.embedding(*by_name[name]) for name in ("en/conf-kicked.ogg", "en/vm-sorry.ogg"))
    other = speaker.embedding(*next(one for one in found if one.language == "ru").read())
    assert allison.shape == (256,) and np.linalg.norm(allison) == pytest.approx(1) and allison.min() >= 0
    assert speaker.cosine(allison, again) > 0.7 > speaker.cosine(allison, other)
    wave, rate = by_name["en/conf-kicked.ogg"]
    quiet, quieter = (speaker.embedding(level * wave, rate) for level in (1e-2, 1e-3))  # both are raised to one level
    np.testing.assert_allclose(quiet, quieter, atol=1e-3)
    with pytest.raises(Unjudged, match="no voice|silent"):
        speaker.embedding(np.zeros(16000, np.float32), 16000)
