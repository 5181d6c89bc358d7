import pathlib
import pickle
import sys

import numpy as np
import pytest

from jaxtok.data import pack, pipeline, records, sources

tfds = pytest.importorskip("tensorflow_datasets")


def _all(source):
    return [source.record(position) for position in range(len(source.index))]


def _key(record):
    return record.file


def prepare_tfds(folder_source, data_dir, features=("audio", "text", "speaker", "language", "file")):
    """A prepared set with the folder's records, as a user would make one."""
    kinds = {"audio": tfds.features.Tensor(shape=(), dtype=np.object_)}

    class Prompts(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict({name: kinds.get(name, tfds.features.Text()) for name in features}),
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in records.SPLITS}

        def _generate_examples(self, split):
            for record in _all(folder_source):
                if record.split == split:
                    yield record.file, {name: getattr(record, name) for name in features}

    builder = Prompts(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)


def test_folder_arrayrecord_and_tfds_hold_the_same(folder, tmp_path, config):
    source = sources.open_source(f"folder:{folder}")
    wanted = sorted(_all(source), key=_key)
    pack.pack(folder, tmp_path / "packed", shards=3)
    packed = sources.open_source(f"arrayrecord:{tmp_path / 'packed'}")
    assert sorted(_all(packed), key=_key) == wanted
    assert [packed.index.row(n) for n in range(24)] == [sources.records.Row.of(source.record(n)) for n in range(24)]
    other = sources.open_source(f"tfds:{prepare_tfds(source, tmp_path / 'tfds')}")
    found = sorted(_all(other), key=_key)
    assert [(r.file, r.text, r.split, r.speaker, r.audio) for r in found] == [
        (r.file, r.text, r.split, r.speaker, r.audio) for r in wanted
    ]
    np.testing.assert_allclose(sorted(other.index.seconds), sorted(source.index.seconds))
    assert "tensorflow" not in sys.modules
    # Folder and packed set have one order, so training on them is the same to the last sample.
    one, two = (
        pipeline.training(config(name), batch_size=4, seed=1)
        for name in (f"folder:{folder}", f"arrayrecord:{tmp_path / 'packed'}")
    )
    for _ in range(6):
        left, right = next(one), next(two)
        assert all((left[name] == right[name]).all() for name in left)
    batch = next(pipeline.training(config(other.name), batch_size=4, seed=1))
    assert np.abs(batch["audio"]).max() > 0.3 and batch["text_mask"].any(1).all()
    again = sources.open_source(other.name)  # the index comes from the cache now
    assert [again.index.row(n) for n in range(24)] == [other.index.row(n) for n in range(24)]


def test_tfds_says_what_is_wrong(folder, tmp_path):
    source = sources.open_source(f"folder:{folder}")
    path = prepare_tfds(source, tmp_path / "tfds", features=("audio", "file"))
    with pytest.raises(ValueError, match="expected one of text, transcript"):
        sources.open_source(f"tfds:{path}")
    with pytest.raises(ValueError, match="cannot open it"):
        sources.open_source("tfds:no_such_set_of_speech")
    with pytest.raises(ValueError, match="cannot open it"):
        sources.open_source(f"tfds:{tmp_path}/nothing/1.0.0")


def test_split_by_hash_is_the_same_packed_and_not(tmp_path, write_folder):
    folder = write_folder(tmp_path / "speech", count=48, split=False)
    source = sources.FolderSource(str(folder), holdout="en=3,es=2")
    pack.pack(folder, tmp_path / "packed", holdout="en=3,es=2")
    packed = sources.open_source(f"arrayrecord:{tmp_path / 'packed'}")
    assert list(packed.index.split) == list(source.index.split)
    assert list(packed.index.split).count("test") == list(packed.index.split).count("validation") == 5


def test_joined_sources_are_one(folder, tmp_path, write_folder):
    other = write_folder(tmp_path / "with,comma", count=8)
    names = f"folder:{other}", f"folder:{folder}", "samples:sounds"
    parts, joined = [sources.open_source(name) for name in names], sources.open_source(",".join(names))
    assert _all(joined) == [record for part in parts for record in _all(part)]
    assert (
        joined.index.to_tsv()
        == type(joined.index)(part.index.row(at) for part in parts for at in range(len(part.index))).to_tsv()
    )
    assert joined.index.languages == ["", "en", "es"]
    again = pickle.loads(pickle.dumps(joined))
    assert again.record(8) == parts[1].record(0) and again.record(7) == parts[0].record(7)


def test_sources_pickle(folder, tmp_path):
    pack.pack(folder, tmp_path / "packed")
    for name in (f"folder:{folder}", f"arrayrecord:{tmp_path / 'packed'}"):
        source = sources.open_source(name)
        wanted = source.record(3)
        assert pickle.loads(pickle.dumps(source)).record(3) == wanted


def test_records_and_index_round_trip(folder):
    source = sources.open_source(f"folder:{folder}")
    record = source.record(5)
    assert records.Record.from_bytes(record.to_bytes()) == record
    again = records.Index.from_tsv(source.index.to_tsv())
    assert again.row(5).file == "005.flac" and again.row(5).speaker == "speaker1"
    np.testing.assert_allclose(again.seconds, source.index.seconds, atol=1e-6)
    for damaged in (b"", b"JTR1", b"xxxx" + bytes(20), b"JTR1\x04\x00\x00\x00{{{{"):
        with pytest.raises(ValueError, match="record 7"):
            records.Record.from_bytes(damaged, "record 7")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("speech", "expected samples:NAME"),
        ("samples:", "expected samples:NAME"),
        ("samples:speach", "known: .*speech"),
        ("folder:/no/such/place", "no such folder"),
        ("arrayrecord:/no/such/place", "no such folder"),
        ("samples:speech,samples:speach", "known: .*speech"),
        ("samples:speech,samples:emoji", "samples:speech holds utterances, samples:emoji images"),
    ],
)
def test_unknown_sources(source, message):
    with pytest.raises(ValueError, match=message):
        sources.open_source(source)


@pytest.mark.parametrize(
    ("tsv", "message"),
    [
        ("", "expected at least file and text"),
        ("file\twords\n", "expected at least file and text"),
        ("file\ttext\n", "holds no transcripts"),
        ("file\ttext\na.wav\n", "line 2: found 1 cells, expected 2"),
        ("file\ttext\na.wav\tx\na.wav\ty\n", "line 3: 'a.wav' is named twice"),
        ("file\ttext\tseconds\na.wav\tx\tlong\n", "seconds 'long' is no number"),
        ("file\ttext\tsplit\na.wav\tx\tdev\n", "line 2: split 'dev'"),
    ],
)
def test_malformed_transcripts(tmp_path, tsv, message):
    (tmp_path / "all.tsv").write_text(tsv)
    with pytest.raises(ValueError, match=message):
        sources.open_source(f"folder:{tmp_path}")


def test_transcripts_of_other_programs(tmp_path):
    (tmp_path / "all.tsv").write_bytes('\ufefffile\ttext\r\na.wav\t"h\u00e9"\r\n\r\n'.encode())
    assert sources.read_transcripts(str(tmp_path)) == [{"file": "a.wav", "text": '"h\u00e9"'}]
    (tmp_path / "all.tsv").write_bytes(b"file\ttext\na.wav\th\xe9\n")
    with pytest.raises(ValueError, match=r"all\.tsv: is not UTF-8 text"):
        sources.read_transcripts(str(tmp_path))


def test_shards_on_an_object_store_are_copied_once(tmp_path, monkeypatch):
    """No object store here: paths with a scheme are served from a folder."""
    (tmp_path / "s.array_record").write_bytes(b"12345")
    reads = []

    def path(name):
        reads.append(str(name))
        return real(str(name).replace("gs://bucket", str(tmp_path)))

    real = sources.epath.Path
    monkeypatch.setattr(sources.epath, "Path", path)
    shard = [{"sha256": "ab" * 32, "bytes": 5}]
    first = sources.local_copies(["gs://bucket/s.array_record", "/here/t.array_record"], [*shard, *shard])
    assert first[1] == "/here/t.array_record" and pathlib.Path(first[0]).read_bytes() == b"12345"
    reads.clear()
    assert sources.local_copies(["gs://bucket/s.array_record"], shard) == first[:1] and reads == []


def test_a_folder_needs_exactly_one_tsv(tmp_path):
    with pytest.raises(ValueError, match="found none"):
        sources.open_source(f"folder:{tmp_path}")
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_text("file\ttext\n")
    with pytest.raises(ValueError, match=r"found a\.tsv, b\.tsv"):
        sources.open_source(f"folder:{tmp_path}")
