"""How speech sounds, by the field's judges: PESQ, STOI and DNSMOS, one pinned protocol each.

PESQ and STOI compare a recording with its reconstruction; DNSMOS hears one recording alone. All hear 16 kHz, resampled
by soxr; audio whose peak exceeds 1 is scaled down to it; of two recordings the longer is cut at its end, and neither is
shifted. What a judge has no number for raises :class:`jaxtok.metrics.judge.Unjudged` with the reason. The packages come
with the extra ``eval``.
"""

import warnings
from typing import Any

import numpy as np

from jaxtok.metrics.judge import Unjudged, heard, package, pair

RATE = 16000
PESQ_BEST = 4.643888  # of a recording with itself: the mapping of P.862.2 at its upper end
_STOI_RATE, _STOI_FRAMES, _STOI_HOP = 10000, 30, 128


def pesq(reference: Any, estimate: Any, rate: int) -> float:
    """Wideband PESQ, from 1.0 to 4.64, higher is better (ITU-T P.862.2, the package pesq).

    The standard itself levels both signals, aligns utterances in time and weighs by frequency. Silence on either side,
    less than a quarter of a second, and a recording in which it finds no utterance cannot be judged.

    Args:
      reference: the recording [samples].
      estimate: its reconstruction [samples].
      rate: of both in Hz.
    """
    judge = package("pesq", "PESQ")
    a, b = pair(heard(reference, rate, RATE), heard(estimate, rate, RATE))
    try:
        return float(judge.pesq(RATE, a, b, "wb"))
    except judge.PesqError as error:
        said = error.args[0] if error.args else error
        raise Unjudged((said.decode() if isinstance(said, bytes) else str(said)).lower()) from error


def stoi(reference: Any, estimate: Any, rate: int) -> float:
    """Short-time objective intelligibility, up to 1, higher is better (Taal et al. 2011, the package pystoi).

    Both are resampled on to 10 kHz and frames more than 40 dB below the recording's loudest are left out, as the
    package does; level does not matter. A recording with fewer than 30 such frames (0.4 s) cannot be judged.

    Args:
      reference: the recording [samples].
      estimate: its reconstruction [samples].
      rate: of both in Hz.
    """
    judge = package("pystoi", "STOI")
    a, b = pair(heard(reference, rate, RATE), heard(estimate, rate, RATE))
    short = Unjudged("under 0.4 s of speech")
    if len(a) * _STOI_RATE / RATE < (_STOI_FRAMES + 2) * _STOI_HOP:
        raise short
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(judge.stoi(a, b, RATE, extended=False))
        except RuntimeWarning as warning:
            raise short from warning


def dnsmos(audio: Any, rate: int) -> dict[str, float]:
    """DNSMOS, mean opinion scores from 1 to 5 predicted without a reference, higher is better.

    P.835: ``signal``, ``background``, ``overall`` (Reddy et al., arXiv 2110.01763); P.808: ``p808`` (arXiv 2010.15258);
    the models and the code of the package speechmos. A recording shorter than 9.01 s is repeated until it is as long;
    of a longer one, windows of 9.01 s a second apart are averaged.

    Args:
      audio: [samples].
      rate: in Hz.
    """
    judge = package("speechmos.dnsmos", "DNSMOS")
    found = judge.run(heard(audio, rate, RATE).astype(np.float64), sr=RATE)
    names = {"signal": "sig_mos", "background": "bak_mos", "overall": "ovrl_mos", "p808": "p808_mos"}
    return {name: float(found[key]) for name, key in names.items()}
