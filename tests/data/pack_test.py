import json
import pathlib

import numpy as np
import pytest
import soundfile

from jaxtok.data import check, pack, sources


def _damage(folder: pathlib.Path) -> pathlib.Path:
    """One record of each kind of badness; returns the folder."""
    rate = 16000
    tone = 0.4 * np.sin(np.arange(rate) / 5)
    for number, sound in {2: tone * 0, 3: tone[:800], 4: np.sign(tone)}.items():
        name = sorted(folder.glob(f"{number:03d}.*"))[0]
        soundfile.write(name, sound, rate)
    (folder / "000.wav").write_bytes(b"RIFF")
    (folder / "001.flac").unlink()
    soundfile.write(folder / "006.wav", np.where(np.arange(rate) == 9, np.nan, tone), rate, subtype="FLOAT")
    soundfile.write(folder / "008.wav", tone, 8000)
    (folder / "unnamed").mkdir()
    soundfile.write(folder / "unnamed" / "extra.wav", tone, rate)
    text = (folder / "all.tsv").read_text().replace("tone 5\t", "...\t")
    (folder / "all.tsv").write_text(text)
    return folder


def test_check_names_every_bad_file(folder):
    report = check.check(f"folder:{_damage(folder)}")
    found = {(problem.file, problem.kind) for problem in report.problems}
    assert found == {
        ("000.wav", "unreadable"), ("001.flac", "unreadable"), ("002.wav", "silent"), ("003.flac", "too short"),
        ("004.wav", "clipped"), ("005.flac", "empty transcript"), ("006.wav", "unreadable"), ("008.wav", "wrong rate"),
        ("unnamed/extra.wav", "no transcript"),
    }  # fmt: skip
    assert report.bad == 9 and report.records == 24 and report.rates == {16000: 20, 8000: 1}
    lines = str(report).splitlines()
    assert len(lines) == 10 and "24 records" in lines[-1] and "9 bad" in lines[-1]
    assert "006.wav: unreadable: holds NaN or Inf" in str(report)
    assert ("009.flac", "wrong rate") in {(p.file, p.kind) for p in check.check(f"folder:{folder}", rate=8000).problems}


def test_check_finds_nothing_in_good_data(folder):
    report = check.check(f"folder:{folder}")
    assert report.problems == () and report.bad == 0
    assert report.seconds == pytest.approx(sum(0.6 + 0.06 * n for n in range(24)), abs=1e-3)


def test_pack_refuses_bad_records_or_leaves_them_out(folder, tmp_path):
    _damage(folder)
    with pytest.raises(ValueError, match=r"7 bad records, the first: 000\.wav: unreadable"):
        pack.pack(folder, tmp_path / "out")
    done = pack.pack(folder, tmp_path / "out", skip_bad=True)
    assert done.records == 17 and len(done.left_out) == 7 and "left out: 002.wav: silent" in str(done)
    assert check.check(f"arrayrecord:{tmp_path / 'out'}").bad == 1  # the rate is told, and may be mixed


def test_pack_shards_index_and_manifest(folder, tmp_path):
    done = pack.pack(folder, tmp_path / "out", shards=5)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["index.tsv", "manifest.json", *(f"shard-{n:05d}-of-00005.array_record" for n in range(5))]
    assert done.shards == 5 and done.records == 24 and done.splits == {"train": 18, "validation": 3, "test": 3}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [shard["records"] for shard in manifest["shards"]] and sum(s["records"] for s in manifest["shards"]) == 24
    again = pack.pack(folder, tmp_path / "again", shards=5)
    assert (tmp_path / "again" / "manifest.json").read_text() == (tmp_path / "out" / "manifest.json").read_text()
    assert again.bytes == done.bytes


def test_more_shards_than_records(tmp_path, write_folder):
    done = pack.pack(write_folder(tmp_path / "few", count=3), tmp_path / "out", shards=9)
    assert done.shards == 3
    assert [sources.open_source(f"arrayrecord:{tmp_path / 'out'}").record(n).file[:3] for n in range(3)] == [
        "000", "001", "002",
    ]  # fmt: skip


def test_a_half_written_output_is_cleaned_and_a_whole_one_refused(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    written = []

    def stop(path, items):
        written.append(path)
        if len(written) == 2:
            raise OSError("no space left on device")
        real(path, items)

    real = pack._write_shard
    monkeypatch.setattr(pack, "_write_shard", stop)
    with pytest.raises(OSError, match="no space"):
        pack.pack(folder, out, shards=4)
    with pytest.raises(ValueError, match=r"no manifest\.json, so the set is not whole"):
        sources.open_source(f"arrayrecord:{out}")
    monkeypatch.undo()
    assert pack.pack(folder, out, shards=2).shards == 2
    assert not list(out.glob("*-of-00004*"))
    with pytest.raises(ValueError, match="holds a whole set already"):
        pack.pack(folder, out)


def test_pack_touches_no_foreign_files(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds 'thesis\.txt'"):
        pack.pack(folder, tmp_path / "out")
    with pytest.raises(ValueError, match="is a file"):
        pack.pack(folder, tmp_path / "out" / "thesis.txt")
    with pytest.raises(ValueError, match="shards -1"):
        pack.pack(folder, tmp_path / "new", shards=-1)


def test_damage_of_a_packed_set_is_found(folder, tmp_path):
    out = tmp_path / "out"
    pack.pack(folder, out, shards=1)
    shard = next(out.glob("shard*"))
    whole = shard.read_bytes()
    source = sources.open_source(f"arrayrecord:{out}")
    at = whole.index(source.record(7).audio[100:140])
    shard.write_bytes(whole[: at + 5] + bytes([whole[at + 5] ^ 4]) + whole[at + 6 :])
    problems = check.check(f"arrayrecord:{out}").problems
    assert [(problem.position, problem.kind) for problem in problems] == [(7, "unreadable")]
    shard.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="the set is damaged"):
        sources.open_source(f"arrayrecord:{out}")
    shard.unlink()
    with pytest.raises(ValueError, match="is missing"):
        sources.open_source(f"arrayrecord:{out}")
    (out / "index.tsv").write_text((out / "index.tsv").read_text().replace("en", "es"))
    with pytest.raises(ValueError, match=r"index\.tsv differs"):
        sources.open_source(f"arrayrecord:{out}")
