"""Word error rate: which words of a transcript a recogniser misses in a recording.

The recogniser is pocketsphinx with the US-English model that its package ships. It is a weak one: the number means
something beside that of the original recordings alone, which is why both are always reported together.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtok.metrics.judge import Unjudged, heard, package
from jaxtok.text.words import spoken

RATE = 16000


def edits(reference: Sequence[str], found: Sequence[str]) -> int:
    """The least number of substituted, missing and additional words that turn one sequence into the other."""
    row = list(range(len(found) + 1))
    for i, word in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(found, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def words_of(text: str) -> list[str]:
    """The words of an English transcript as the recogniser would say them.

    Raises:
      Unjudged: when there is none.
    """
    if not (words := spoken(text)):
        raise Unjudged("its transcript has no words")
    return words


def recognise(audio: Any, rate: int) -> list[str]:
    """The words that pocketsphinx hears in an English recording; may be none.

    The recording is resampled to 16 kHz by soxr, scaled down where its peak exceeds 1, rounded to 16 bits, and
    decoded as one utterance by the default decoder (en-us, its trigram model and dictionary), with cepstral means of
    this recording alone and features begun anew, so that no recording changes what is heard in another one.

    Args:
      audio: [samples].
      rate: in Hz.
    """
    decoder = _decoder()
    decoder.reinit_feat()  # else its means and the noise that it has learned go on
    samples = np.rint(heard(audio, rate, RATE) * 32767).astype(np.int16)
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return spoken(hypothesis.hypstr) if hypothesis else []


@functools.lru_cache(maxsize=1)
def _decoder() -> Any:
    sphinx = package("pocketsphinx", "word error rate")
    return sphinx.Decoder(samprate=float(RATE), cmn="batch", loglevel="FATAL")
