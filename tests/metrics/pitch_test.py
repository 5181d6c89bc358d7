import numpy as np
import pytest

from jaxtok.metrics import pitch
from jaxtok.metrics.judge import Unjudged


def track(hertz, voiced):
    return pitch.Track(np.asarray(hertz, float), np.asarray(voiced, bool))


def test_cents_and_voicing_of_given_tracks():
    a = track([100, 200, 300, 400], [1, 1, 0, 1])
    b = track([200, 200, 500, 50, 999], [1, 1, 1, 0, 1])
    assert pitch.cents(a, b) == pytest.approx(600)  # an octave and nothing, over the two frames voiced in both
    assert pitch.voicing(a, b) == 0.5
    with pytest.raises(Unjudged, match="no frame is voiced in both"):
        pitch.cents(track([100], [1]), track([100], [0]))


def test_a_buzz_has_its_pitch_and_silence_none():
    pytest.importorskip("librosa", reason="needs the extra 'eval'")
    n = np.arange(12000) / 24000
    buzzes = [
        sum(0.1 * np.sin(2 * np.pi * f * k * n) / k for k in range(1, 10)) for f in (120.0, 120.0 * 2 ** (1 / 12))
    ]
    low, high = (pitch.track(buzz, 24000) for buzz in buzzes)
    assert len(low.hertz) == 51 and low.voiced[3:-3].all()
    np.testing.assert_allclose(low.hertz[5:-5], 120, rtol=0.01)
    assert pitch.cents(low, high) == pytest.approx(100, abs=8)
    silent = pitch.track(np.zeros(12000), 24000)
    assert pitch.voicing(low, silent) == pytest.approx(low.voiced.mean(), abs=0.03)
