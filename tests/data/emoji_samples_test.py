"""Golden facts of the shipped set."""

import collections
import json
import pathlib

import numpy as np
import pytest

from jaxtok.data import emoji, picture, pipeline, sources

FOLDER = pathlib.Path(sources.__file__).parent / "samples" / "emoji"


@pytest.fixture(scope="module")
def source():
    return sources.open_source("samples:emoji")


def test_counts(source):
    index = source.index
    assert len(index) == 7570 and index.styles == ["fluent3d", "noto", "openmoji", "twemoji"]
    assert index.groups == [
        "activities", "animals-nature", "flags", "food-drink", "objects", "people-body", "smileys-emotion", "symbols",
        "travel-places",
    ]  # fmt: skip
    assert collections.Counter(index.split) == {"train": 6876, "validation": 347, "test": 347}
    assert list(index.captions) == ["de", "en", "es", "fr", "ja", "ru", "zh"]
    assert all((lengths > 0).all() for lengths in index.captions.values()) and index.captions["en"].max() == 44


def test_no_emoji_is_in_two_splits(source):
    index, splits = source.index, collections.defaultdict(set)
    for n in range(len(index)):
        name = pathlib.PurePath(index.file[n]).stem
        for key in (("name", name), ("plain", emoji.item(name)), ("item", index.item[n]), ("data", index.digest[n])):
            splits[key].add(index.split[n])
    assert all(len(found) == 1 for found in splits.values())
    held = {index.item[n] for n in range(len(index)) if index.split[n] != "train"}
    assert len(held) == 166 and len(set(index.item)) == 1675
    for split in ("validation", "test"):
        assert len(np.unique(index.group[index.split == split])) == 9


@pytest.mark.parametrize(
    ("name", "item"),
    [
        ("1f468-200d-1f373", "1f9d1-1f373"),  # man cook: cook
        ("1f9d1-200d-1f373", "1f9d1-1f373"),
        ("1f3c3-200d-2640-200d-27a1", "1f3c3"),  # woman running, facing right: person running
        ("1f3c3-1f3fd", "1f3c3"),
        ("2640", "2640"),  # the signs by themselves
        ("27a1", "27a1"),
        ("1f466", "1f9d2"),  # boy: child
        ("1f468-200d-1f469-200d-1f467", "1f46a"),  # families
        ("1f9d1-200d-1f9d2", "1f46a"),
        ("1f469-200d-2764-200d-1f48b-200d-1f468", "1f48f"),  # kiss
        ("1f478", "1fac5"),  # princess: person with crown
        ("1f9d1-200d-1f384", "1f385"),  # Mx Claus: Santa Claus
        ("1f408-200d-2b1b", "1f408-2b1b"),  # a black cat is no variant of a cat
        ("0023-20e3", "0023-20e3"),
    ],
)
def test_the_item_of_an_emoji(name, item):
    assert emoji.item(name) == item


def test_identical_files_make_one_item():
    files = [("a/1f431.webp", b"x"), ("b/1f431.webp", b"y"), ("a/1f63a.webp", b"x"), ("a/1f600.webp", b"z")]
    assert emoji.items(files) == ["1f431", "1f431", "1f431", "1f600"]


def test_a_record(source):
    position = source.index.file.index("noto/1f34e.webp")
    record = source.record(position)
    assert (record.group, record.style, record.item) == ("food-drink", "noto", "1f34e")
    assert record.tags == "apple, diet, food, fruit, health, red, ripe"
    assert record.captions["en"] == "red apple" and record.captions["de"] == "roter Apfel"
    pixels = picture.decode(record.image, record.file)
    assert pixels.shape == (64, 64, 3) and (pixels[:2, :2] > 250).all()
    for (row, column), colour in {(40, 24): (255, 81, 24), (10, 34): (46, 125, 60), (60, 32): (201, 76, 93)}.items():
        np.testing.assert_allclose(pixels[row, column], colour, atol=4)  # red, the green leaf, the shaded foot


def test_batches(source):
    data = {
        "source": "samples:emoji", "groups": ("food-drink", "flags"), "styles": ("noto", "openmoji"), "prefetch": 0,
        "examples": {"target": "jaxtok.data.images:Images", "size": 16, "label": "group_style", "language": "zh"},
    }  # fmt: skip
    batch = next(pipeline.training(data, batch_size=32, seed=0))
    assert batch["image"].shape == (32, 16, 16, 3) and -1 <= batch["image"].min() < -0.5 and batch["image"].max() > 0.9
    assert set(batch["label"].tolist()) <= {2 * 4 + 1, 2 * 4 + 2, 3 * 4 + 1, 3 * 4 + 2}
    assert batch["text_mask"].any(1).all() and batch["text_ids"].shape == (32, 64)
    assert pipeline.evaluation(data | {"evaluation": {"groups": ("flags",)}}, split="test", batch_size=8).examples == 52


def test_files_are_small_attributed_and_whole():
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    assert sum(shard["records"] for shard in manifest["shards"]) == 7570
    assert all((FOLDER / shard["file"]).stat().st_size < 6_000_000 for shard in manifest["shards"])
    licence = (FOLDER / "LICENSE").read_text()
    for words in (
        "Noto Emoji",
        "Apache",
        "Twemoji",
        "CC BY 4.0",
        "Fluent",
        "MIT",
        "OpenMoji",
        "CC BY-SA 4.0",
        "emojibase",
    ):
        assert words in licence
    assert sources.samples() == ["emoji", "sounds", "speech"]
