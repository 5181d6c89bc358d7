"""Mel filters against librosa, where the extra ``parity`` is installed."""

import numpy as np
import pytest

from jaxtok.signal import log_mel, mel

librosa = pytest.importorskip("librosa", reason="needs the extra 'parity'")


@pytest.mark.parametrize("n_fft, rate, bands, high", [(1920, 24000, 128, 12000.0), (1024, 16000, 80, 8000.0)])
def test_filters_equal_librosas(n_fft, rate, bands, high):
    theirs = librosa.filters.mel(sr=rate, n_fft=n_fft, n_mels=bands, fmin=0.0, fmax=high)
    np.testing.assert_allclose(mel.mel_filters(n_fft, rate, bands, 0.0, high), theirs.T, atol=1e-6)


@pytest.mark.parametrize(("n_fft", "bands"), [(1024, 100), (64, 8)])
def test_htk_filters_equal_librosas(n_fft, bands):
    theirs = librosa.filters.mel(sr=24000, n_fft=n_fft, n_mels=bands, htk=True, norm=None)
    np.testing.assert_allclose(log_mel.htk_filters(n_fft, 24000, bands, 0.0, 12000.0), theirs.T, atol=1e-6)
