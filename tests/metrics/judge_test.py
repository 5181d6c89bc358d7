"""What judges share: packages that are absent, and what they are given to hear."""

import numpy as np
import pytest

from jaxtok.metrics import judge


def test_a_missing_package_is_named_with_the_way_to_install_it():
    for find in (judge.package, judge.folder):
        with pytest.raises(
            ImportError, match=r"^PESQ needs the package absent_judge of the extra 'eval' .*jaxtok\[eval\]'$"
        ):
            find("absent_judge", "PESQ")


def test_what_is_heard_is_resampled_and_never_over_full_scale():
    wave = 3 * np.sin(2 * np.pi * 440 * np.arange(24000) / 24000).astype(np.float32)
    heard = judge.heard(wave, 24000, 16000)
    assert heard.shape == (16000,) and heard.dtype == np.float32 and np.abs(heard).max() <= 1
    np.testing.assert_allclose(heard[100:-100], np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)[100:-100], atol=1e-2)
    quiet = judge.heard(0.01 * wave, 24000, 24000)
    np.testing.assert_array_equal(quiet, 0.01 * wave)
    with pytest.raises(judge.Unjudged, match="it is silent"):
        judge.heard(np.zeros(10, np.float32), 16000, 16000)
    with pytest.raises(ValueError, match="expected mono audio"):
        judge.heard(np.zeros((2, 10)), 16000, 16000)


def test_the_longer_recording_is_cut():
    assert [x.shape for x in judge.pair(np.ones(5), np.ones(3))] == [(3,), (3,)]
