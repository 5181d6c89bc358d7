"""Golden facts of the shipped sounds."""

import collections
import pathlib

import numpy as np
import pytest

from jaxtok.data import audio, sources

FOLDER = pathlib.Path(sources.__file__).parent / "samples" / "sounds"


def test_counts():
    index = sources.open_source("samples:sounds").index
    assert len(index) == 157 and index.languages == [""]
    assert collections.Counter(index.split) == {"train": 126, "validation": 15, "test": 16}
    assert index.seconds.sum() == pytest.approx(322.467, abs=0.001)
    assert collections.Counter(index.speakers[at] for at in index.speaker)["loop"] == 17
    assert "CC0" in (FOLDER / "LICENSE").read_text()


def test_a_record():
    source = sources.open_source("samples:sounds")
    record = source.record(source.index.file.index("guit_em9.ogg"))
    assert (record.text, record.speaker, record.split) == ("guit em9", "guit", "test")
    sound, rate = audio.decode(record.audio, record.file)
    assert rate == 24000 and len(sound) == round(record.seconds * rate) == 239330
    assert np.abs(sound).max() == pytest.approx(0.623, abs=0.001)
