import numpy as np
import pytest

import jaxtok
from jaxtok.data import recordings
from jaxtok.metrics import recognition
from jaxtok.metrics.judge import Unjudged


@pytest.mark.parametrize(
    ("reference", "found", "count"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a x c", 1),  # substituted
        ("a b c", "a c", 1),  # missing
        ("a b c", "a b x c", 1),  # additional
        ("a b c d", "b c d e", 2),  # one missing, one additional, rather than four substituted
        ("a b", "", 2),
        ("", "a b", 2),
        ("a b", "c d e f", 4),  # more than one error a word
    ],
)
def test_edits_by_hand(reference, found, count):
    assert recognition.edits(reference.split(), found.split()) == count


def test_a_transcript_without_words_cannot_be_judged():
    assert recognition.words_of("Press 1!") == ["press", "one"]
    with pytest.raises(Unjudged, match="its transcript has no words"):
        recognition.words_of(" ... ")


def test_speech_is_recognised_whatever_came_before():
    pytest.importorskip("pocketsphinx", reason="needs the extra 'eval'")
    found, _ = recordings.find(["samples:speech"])
    short = {recording.name: recording for recording in found if recording.language == "en"}
    first = recognition.recognise(*short["en/conf-kicked.ogg"].read())
    said = recognition.words_of(short["en/conf-kicked.ogg"].text)
    assert recognition.edits(said, first) <= 2, first
    recognition.recognise(0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    assert recognition.recognise(*short["en/conf-kicked.ogg"].read()) == first


def test_what_is_heard_does_not_depend_on_what_came_before():
    """In speech that is hard to understand, where words hang on small differences."""
    pytest.importorskip("pocketsphinx", reason="needs the extra 'eval'")
    found, _ = recordings.find(["samples:speech"])
    short = sorted((len(r.read()[0]), r.name, r) for r in found if r.language == "en")[21:24]
    codec = jaxtok.load("wavtokenizer-mini")
    waves = [np.asarray(codec.decode(codec.encode(audio, rate=rate))) for audio, rate in (r.read() for *_, r in short)]
    heard = [recognition.recognise(wave, codec.rate) for wave in waves]
    assert len(set(map(tuple, heard))) == len(heard)
    assert [recognition.recognise(wave, codec.rate) for wave in waves[::-1]] == heard[::-1]
