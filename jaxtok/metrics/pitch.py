"""How far the pitch of a reconstruction is from the recording's.

Protocol: fundamental frequency by pYIN (Mauch and Dixon, ICASSP 2014) as librosa has it, at 16 kHz, every 10 ms in
frames of 64 ms, between 50 and 550 Hz in steps of 10 cents. Level does not matter; nothing is shifted.
"""

from typing import Any, NamedTuple

import numpy as np

from jaxtok.metrics.judge import Unjudged, heard, package

RATE = 16000
HOP = 160
_FRAME = 1024
_LOW, _HIGH = 50.0, 550.0


class Track(NamedTuple):
    """The pitch of a recording: ``hertz`` float [frames] (of no meaning where unvoiced), ``voiced`` bool [frames]."""

    hertz: np.ndarray
    voiced: np.ndarray


def track(audio: Any, rate: int) -> Track:
    """The pitch of a recording [samples] at ``rate`` Hz; silence is unvoiced."""
    librosa = package("librosa", "pitch error")
    try:
        wave = heard(audio, rate, RATE)
    except Unjudged:
        frames = 1 + len(np.asarray(audio)) * RATE // rate // HOP
        return Track(np.full(frames, _LOW), np.zeros(frames, bool))
    hertz, voiced, _ = librosa.pyin(
        wave, fmin=_LOW, fmax=_HIGH, sr=RATE, frame_length=_FRAME, hop_length=HOP, fill_na=None
    )
    return Track(hertz, voiced)


def cents(reference: Track, estimate: Track) -> float:
    """Mean |difference| in cents (a hundredth of a semitone) over frames that are voiced in both.

    Raises:
      Unjudged: when there is no such frame.
    """
    a, b = _pair(reference, estimate)
    both = a.voiced & b.voiced
    if not both.any():
        raise Unjudged("no frame is voiced in both")
    return float(np.abs(1200 * np.log2(b.hertz[both] / a.hertz[both])).mean())


def voicing(reference: Track, estimate: Track) -> float:
    """The share of frames that are voiced in one and not in the other, from 0 to 1."""
    a, b = _pair(reference, estimate)
    return float((a.voiced != b.voiced).mean())


def _pair(a: Track, b: Track) -> tuple[Track, Track]:
    frames = min(len(a.voiced), len(b.voiced))
    return Track(a.hertz[:frames], a.voiced[:frames]), Track(b.hertz[:frames], b.voiced[:frames])
