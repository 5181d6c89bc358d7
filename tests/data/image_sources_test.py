import io
import json
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

from jaxtok import cli
from jaxtok.data import check, image_records, pack, picture, pipeline, records, sources, splits

tfds = pytest.importorskip("tensorflow_datasets")


def _all(source):
    return sorted((source.record(position) for position in range(len(source.index))), key=lambda record: record.file)


def _damage(folder):
    """One image of each kind of badness; returns the folder."""
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "cat" / "002.png", save_all=True, append_images=frames[1:])
    (folder / "cat" / "000.png").write_bytes(b"")
    (folder / "dog" / "001.png").write_bytes((folder / "dog" / "001.png").read_bytes()[:45])
    Image.fromarray(np.full((2, 2), 60000, np.uint16)).save(folder / "dog" / "003.png")
    Image.new("RGBA", (9, 5)).save(folder / "cat" / "004.png")
    return folder


def test_check_names_every_bad_image(write_images, tmp_path):
    report = check.check(f"folder:{_damage(write_images(tmp_path / 'images'))}")
    assert [str(problem) for problem in report.problems] == [
        "cat/000.png: unreadable: the file is empty, expected an image",
        "cat/002.png: unreadable: is animated or has pages (2 of them), expected a still image",
        "dog/001.png: unreadable: not readable as an image (a damaged PNG), expected PNG, JPEG or WebP",
        "dog/003.png: unreadable: has mode I;16, expected 8 bits per channel, such as L, RGB or RGBA",
    ]
    assert report.records == 24 and report.bad == 4 and report.sizes == {(8, 8): 19, (9, 5): 1}
    assert str(report).splitlines()[-1].endswith("24 images, 4 bad (19 of 8x8, 1 of 9x5)")


def test_check_names_what_the_tsv_does_not(images, capsys):
    assert check.check(f"folder:{images}").problems == ()
    (images / "extra").mkdir()
    Image.new("RGB", (2, 2)).save(images / "extra" / "a.webp")
    (images / "cat" / "000.png").unlink()
    assert cli.main(["data", "check", f"folder:{images}"]) == 1
    out = capsys.readouterr().out
    assert "cat/000.png: unreadable: " in out and "no such file, but the TSV names it" in out
    assert "extra/a.webp: unnamed: the TSV does not name it" in out and "24 images, 2 bad" in out


def test_pack_refuses_bad_images_or_leaves_them_out(write_images, tmp_path, capsys):
    folder, out = str(_damage(write_images(tmp_path / "images"))), str(tmp_path / "out")
    assert cli.main(["data", "pack", folder, out]) == 2
    assert "4 bad records, the first: cat/000.png: unreadable: the file is empty" in capsys.readouterr().err
    assert cli.main(["data", "pack", folder, out, "--skip_bad"]) == 0
    printed = capsys.readouterr().out
    assert ": 20 images, 1 shards, " in printed and printed.count("left out: ") == 4
    assert check.check(f"arrayrecord:{out}").bad == 0


def test_a_packed_set_is_its_folder(images, tmp_path, image_config):
    done = pack.pack(images, tmp_path / "out", shards=3)
    assert done.shards == 3 and done.records == 24 and done.splits == {"train": 18, "validation": 3, "test": 3}
    folder, packed = sources.open_source(f"folder:{images}"), sources.open_source(f"arrayrecord:{tmp_path / 'out'}")
    assert (
        _all(packed) == _all(folder)
        and packed.index.to_tsv()
        == type(folder.index)(image_records.Row.of(folder.record(n)) for n in range(24)).to_tsv()
    )
    record = packed.record(4)
    assert (record.file, record.group, record.style, record.split) == ("cat/004.png", "cat", "a", "train")
    assert record.captions == {"en": "picture 4", "de": "Bild 4"} and packed.record(3).captions == {"en": "picture 3"}
    assert picture.decode(record.image, "x")[0, 0].tolist() == [40, 0, 0]
    again = image_records.Picture.from_bytes(record.to_bytes())
    assert again == record
    one, two = (
        pipeline.training(image_config(name, examples={"flip": True}), batch_size=4, seed=1)
        for name in (folder.name, packed.name)
    )
    for _ in range(5):
        left, right = next(one), next(two)
        assert all((left[name] == right[name]).all() for name in left)


def test_damage_of_a_packed_set_is_found(images, tmp_path):
    out = tmp_path / "out"
    pack.pack(images, out, shards=1)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["records"] == 24
    text = (out / "index.tsv").read_text().replace("cat", "cow")
    (out / "index.tsv").write_text(text)
    with pytest.raises(ValueError, match=r"index\.tsv differs"):
        sources.open_source(f"arrayrecord:{out}")
    manifest["index"]["digest"] = records.digest(text.encode())
    (out / "manifest.json").write_text(json.dumps(manifest))
    assert sources.open_source(f"arrayrecord:{out}").index.groups == ["cow", "dog"]
    text = text.replace("picture", "x").replace("\ten:", "\ten=")
    with pytest.raises(ValueError, match="index.tsv, line 2: found 8 cells"):
        image_records.Index.from_tsv(text.replace("de:6 ", "").replace("en:9", "en"))
    with pytest.raises(ValueError, match="is not the header of an index"):
        image_records.Index.from_tsv("position\tfile\n")


def test_classes_are_the_subfolders(write_images, tmp_path):
    folder = write_images(tmp_path / "images", groups=("pets/cat", "pets/dog", "cow"))
    source = sources.open_source(f"folder:{folder}")
    assert source.index.groups == ["cow", "pets/cat", "pets/dog"] and set(source.index.split) == {"train"}
    assert [source.index.row(n).group for n in range(len(source.index))] == [
        file.rpartition("/")[0] for file in source.index.file
    ]


def test_folders_named_after_splits_are_the_splits(write_images, tmp_path):
    folder = write_images(tmp_path / "images", groups=("train/cat", "train/dog", "val/cat", "Test/dog"))
    index = sources.open_source(f"folder:{folder}").index
    assert index.groups == ["cat", "dog"]
    assert [(index.split == split).sum() for split in records.SPLITS] == [12, 6, 6]
    assert all(index.file[n].startswith("Test/dog") for n in index.select("test"))


def test_a_flat_folder_has_one_class(write_images, tmp_path, image_config):
    folder = write_images(tmp_path / "images", groups=("",))
    (folder / ".hidden.png").write_bytes(b"junk")
    batch = next(pipeline.training(image_config(f"folder:{folder}"), batch_size=4, seed=0))
    assert batch["label"].tolist() == [0] * 4


def test_items_are_never_in_two_splits():
    rows = [(f"g{n % 2}", f"item {n % 100}") for n in range(400)]
    out = splits.by_item(rows, "10%")
    assert out.count("test") == out.count("validation") == 40
    by_item = {}
    for (_, item), split in zip(rows, out):
        by_item.setdefault(item, set()).add(split)
    assert all(len(found) == 1 for found in by_item.values())
    for group in ("g0", "g1"):
        assert sum(split == "test" for (g, _), split in zip(rows, out) if g == group) == 20
    assert splits.by_item(rows[::-1], "10%")[::-1] == out
    assert splits.by_item(rows, "g1=3").count("test") == 12
    across = splits.by_item([("a", "x"), ("b", "x"), *rows], "10%")
    assert across[0] == across[1] and across[2:] == out


@pytest.mark.parametrize(
    ("tsv", "message"),
    [
        ("file\tlabel\na.png\n", "line 2: found 1 cells, expected 2"),
        ("file\tlabel\na.png\tx\na.png\ty\n", "line 3: 'a.png' is named twice"),
        ("file\tsplit\na.png\tdev\n", "line 2: split 'dev'"),
        (
            "file\tlabel\na.png\tx\nb.wav\ty\n",
            r"1 sounds \(such as b.wav\) and 1 images \(such as a.png\), expected one",
        ),
    ],
)
def test_malformed_tables(tmp_path, tsv, message):
    (tmp_path / "all.tsv").write_text(tsv)
    with pytest.raises(ValueError, match=message):
        sources.open_source(f"folder:{tmp_path}")


def test_mixed_and_empty_folders(tmp_path, write_images, capsys):
    with pytest.raises(ValueError, match=r"expected images, or sounds with one \.tsv of transcripts, found none"):
        sources.open_source(f"folder:{tmp_path}")
    write_images(tmp_path / "images", count=3)
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000)
    message = r"holds 1 sounds (such as a.wav) and 3 images (such as images/cat/000.png), expected one kind"
    assert cli.main(["data", "check", f"folder:{tmp_path}"]) == 2
    assert message in capsys.readouterr().err
    assert cli.main(["data", "pack", str(tmp_path), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def _png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def prepare_tfds(folder_source, data_dir, kind):
    """A prepared set with the folder's records, as a user would make one."""
    features = {
        "file": {
            "image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["cat", "dog"]),
            "caption": tfds.features.Text(), "file_name": tfds.features.Text(),
        },
        "tensor": {
            "image": tfds.features.Tensor(shape=(8, 8, 3), dtype=np.uint8),
            "label": tfds.features.Scalar(dtype=np.int64), "caption": tfds.features.Sequence(tfds.features.Text()),
        },
        "nothing": {"label": tfds.features.ClassLabel(names=["cat", "dog"])},
    }[kind]  # fmt: skip

    class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            names = records.SPLITS if kind == "file" else ("train",)
            return {split: self._generate_examples(split) for split in names}

        def _generate_examples(self, split):
            for record in _all(folder_source):
                image = io.BytesIO(record.image) if kind == "file" else picture.decode(record.image, "x")
                label = record.group if kind != "tensor" else {"cat": 2, "dog": 10}[record.group]
                values = {"image": image, "label": label, "file_name": record.file, "caption": record.captions["en"]}
                if kind == "tensor":
                    values["caption"] = [record.captions["en"]]
                if record.split == split or kind != "file":
                    yield record.file, {name: values[name] for name in features}

    builder = Pictures(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare()
    return str(builder.data_path)


def test_tfds_images_labels_and_captions(images, tmp_path, image_config):
    folder = sources.open_source(f"folder:{images}")
    found = sources.open_source(f"tfds:{prepare_tfds(folder, tmp_path / 'tfds', 'file')}")
    for one, two in zip(_all(found), _all(folder)):
        assert (one.file, one.group, one.split, one.image) == (two.file, two.group, two.split, two.image)
        assert one.captions == {"en": two.captions["en"]}
    assert "tensorflow" not in sys.modules
    batch = next(pipeline.training(image_config(found.name, examples={"language": "en"}), batch_size=4, seed=0))
    assert batch["image"].shape == (4, 4, 4, 3) and batch["text_mask"].any(1).all()
    again = sources.open_source(found.name)  # the index comes from the cache now
    assert again.index.to_tsv() == found.index.to_tsv()


def test_tfds_tensors_and_plain_numbers(images, tmp_path):
    folder = sources.open_source(f"folder:{images}")
    found = sources.open_source(f"tfds:{prepare_tfds(folder, tmp_path / 'tfds', 'tensor')}")
    assert found.index.groups == ["00002", "00010"] and found.index.captions == {}
    assert sorted(found.index.file)[:2] == ["train-0", "train-1"]
    pixels = {picture.decode(record.image, "x").tobytes() for record in _all(found)}
    assert pixels == {picture.decode(record.image, "x").tobytes() for record in _all(folder)}
    assert list(found.index.split).count("test") == 2  # 5 % of each class, rounded: one each


def test_tfds_says_what_is_wrong(images, tmp_path):
    path = prepare_tfds(sources.open_source(f"folder:{images}"), tmp_path / "tfds", "nothing")
    with pytest.raises(ValueError, match=r"has features \['label'\], expected one of audio, speech, image"):
        sources.open_source(f"tfds:{path}")
