"""Golden facts of the shipped set."""

import collections
import json
import pathlib

import numpy as np
import pytest

from jaxtok.data import audio, records, sources
from jaxtok.text.words import words

FOLDER = pathlib.Path(sources.__file__).parent / "samples" / "speech"


@pytest.fixture(scope="module")
def source():
    return sources.open_source("samples:speech")


def test_counts(source):
    index = source.index
    assert len(index) == 2567 and index.languages == ["en", "es", "fr", "it", "ru"]
    assert collections.Counter(index.split) == {"train": 2308, "validation": 128, "test": 131}
    assert index.seconds.sum() / 60 == pytest.approx(97.96, abs=0.01)
    assert np.median(index.seconds) == pytest.approx(1.34, abs=0.01)
    for split in ("validation", "test"):
        english = (index.split == split) & (index.language == 0)
        assert english.sum() >= 60 and index.words[english].min() >= 4 and index.seconds[english].min() >= 2.0
        assert (index.seconds[english] >= 3.0).sum() >= 36


def test_no_held_out_sentence_is_trained_on(source):
    seen = collections.defaultdict(set)
    for position in range(len(source.index)):
        record = source.record(position)
        seen[record.split, record.language].add(" ".join(words(record.text)))
        row = source.index.row(position)
        assert (record.file, record.split, record.language) == (row.file, row.split, row.language)
        assert records.text_bytes(record.text) == row.text_bytes
    for language in source.index.languages:
        train, validation, test = (seen[split, language] for split in records.SPLITS)
        assert not train & validation and not train & test and not validation & test


@pytest.mark.parametrize(
    ("position", "file", "speaker", "samples", "text"),
    [
        (0, "en/activated.ogg", "allison", 17024, "Activated."),
        (
            2,
            "en/agent-alreadyon.ogg",
            "allison",
            88262,
            "That agent is already logged on. Please enter your agent number followed by the pound key.",
        ),
    ],
)
def test_records(source, position, file, speaker, samples, text):
    record = source.record(position)
    assert (record.file, record.speaker, record.text) == (file, speaker, text)
    sound, rate = audio.decode(record.audio, file)
    assert rate == 16000 and len(sound) == samples == round(record.seconds * 16000)
    assert 0.05 < np.abs(sound).max() <= 1.05


def test_files_are_small_attributed_and_whole():
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    assert sum(shard["records"] for shard in manifest["shards"]) == 2567
    assert all((FOLDER / shard["file"]).stat().st_size < 6_000_000 for shard in manifest["shards"])
    licence = (FOLDER / "LICENSE").read_text()
    for name in ("Allison Smith", "June Wallack", "Carlo Flora", "Maxim Topal", "CC BY-SA 3.0", "CC BY 3.0"):
        assert name in licence
    assert "speech" in sources.samples()
