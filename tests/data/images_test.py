import itertools
import logging
import re

import numpy as np
import pytest

from jaxtok.data import pack, picture, pipeline, sources
from jaxtok.data.abstract import abstract_batch
from jaxtok.data.images import Images, Plan
from jaxtok.text.bytes import Bytes

RANDOM = {"flip": True, "crop": (0.3, 1.0)}


@pytest.fixture
def source(images):
    return f"folder:{images}"


def _take(iterator, count):
    return list(itertools.islice(iterator, count))


def _same(left, right):
    assert len(left) == len(right)
    for one, two in zip(left, right):
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def _numbers(batch):
    """Which of the fixture's images stand in a batch that is neither cropped nor flipped."""
    return np.rint((batch["image"][:, 0, 0, 0] + 1) * 127.5 / 10).astype(int).tolist()


def test_a_batch(source, image_config):
    batch = next(pipeline.training(image_config(source), batch_size=6, seed=0))
    assert {name: (value.dtype, value.shape) for name, value in batch.items()} == {
        "image": (np.float32, (6, 4, 4, 3)), "label": (np.int32, (6,)), "index": (np.int32, (6,)),
    }  # fmt: skip
    for number, image, label in zip(_numbers(batch), batch["image"], batch["label"]):
        wanted = np.full((4, 4, 3), -1.0)
        wanted[:, :2, 0], wanted[:, 2:, 1] = number / 12.75 - 1, number / 12.75 - 1
        np.testing.assert_allclose(image, wanted, atol=1e-6)
        assert label == number % 2 and number % 8 > 1


@pytest.mark.parametrize("count", [2, 4])
def test_all_process_counts_see_the_same_rows(source, image_config, count):
    data = image_config(source, examples={"language": "en", **RANDOM})
    whole = _take(pipeline.training(data, batch_size=8, seed=3), 6)
    parts = [
        _take(pipeline.training(data, batch_size=8, seed=3, process_index=p, process_count=count), 6)
        for p in range(count)
    ]
    _same(
        [{name: np.concatenate([part[step][name] for part in parts]) for name in whole[0]} for step in range(6)], whole
    )


def test_every_epoch_visits_every_image_once(source, image_config):
    batches = _take(pipeline.training(image_config(source), batch_size=6, seed=0), 12)
    assert sorted(np.concatenate([batch["index"] for batch in batches])) == list(range(72))
    at = {int(n): picture for batch in batches for n, picture in zip(batch["index"], _numbers(batch))}
    for epoch in range(4):
        assert sorted(at[n] for n in range(18 * epoch, 18 * epoch + 18)) == [n for n in range(24) if n % 8 > 1]


@pytest.mark.parametrize("stop", [0, 3, 7])
def test_resume_is_exact_with_random_crops(source, image_config, stop):
    data = image_config(source, prefetch=2, examples=RANDOM)
    whole = _take(pipeline.training(data, batch_size=4, seed=5), 10)
    first = pipeline.training(data, batch_size=4, seed=5)
    _take(first, stop)
    state = first.get_state()
    assert state == {"step": stop}
    again = pipeline.training(data, batch_size=4, seed=5)
    again.set_state(state)
    _same(_take(again, 10 - stop), whole[stop:])
    first.close()
    again.close()


def test_workers_on_packed_data_give_the_same(images, source, image_config, tmp_path):
    pack.pack(images, tmp_path / "packed")
    wanted = _take(pipeline.training(image_config(source, examples=RANDOM), batch_size=4, seed=5), 4)
    data = image_config(f"arrayrecord:{tmp_path / 'packed'}", examples=RANDOM)
    _same(_take(pipeline.training(data, batch_size=4, seed=5), 4), wanted)
    iterator = pipeline.training(data | {"workers": 1}, batch_size=4, seed=5)
    _same(_take(iterator, 4), wanted)
    iterator.close()


def test_flips_exchange_left_and_right_of_half(source, image_config):
    plain, flipped = (
        _take(pipeline.training(image_config(source, examples={"flip": flip}), batch_size=6, seed=0), 30)
        for flip in (False, True)
    )
    turned = [(two == one[:, ::-1]).all() for a, b in zip(plain, flipped) for one, two in zip(a["image"], b["image"])]
    kept = [(two == one).all() for a, b in zip(plain, flipped) for one, two in zip(a["image"], b["image"])]
    assert all(a != b for a, b in zip(turned, kept)) and 70 < sum(turned) < 110
    held = {n: list(pipeline.evaluation(image_config(source, examples=e), split="test", batch_size=4)) for n, e in
            enumerate(({}, RANDOM))}  # fmt: skip
    _same(held[0], held[1])


def test_boxes_cover_the_share_that_they_should():
    examples = Images(crop=(0.25, 0.5), ratio=(0.5, 2.0))
    rng = np.random.default_rng(0)
    boxes = np.array([examples.box(rng.random(4).tolist(), 100, 200) for _ in range(400)])
    left, upper, right, lower = boxes.T
    assert left.min() >= 0 and upper.min() >= 0 and right.max() <= 200 and lower.max() <= 100
    share = (right - left) * (lower - upper) / 20000
    assert share.max() <= 0.5 + 1e-9 and 0.3 < share.mean() < 0.4
    assert examples.box((0.0, 0.5, 0.0, 0.0), 100, 200) == pytest.approx((0, 0, 5000**0.5, 5000**0.5))
    assert examples.box((0.0, 0.5, 0.5, 0.999999), 100, 200)[3] == pytest.approx(100, abs=1e-3)


def test_a_crop_is_the_part_resized(source, image_config):
    opened = sources.open_source(source)
    examples = Images(size=4, crop=(0.25, 0.25), ratio=(1.0, 1.0))
    plan = Plan((12,), crop=(0.0, 0.0, 0.999999, 0.0))
    out = examples.make(plan, examples.shapes(True)[0], opened)["image"]
    np.testing.assert_allclose(out[..., 1], 120 / 127.5 - 1, atol=0.01)  # the right half is green alone
    assert (out[..., 0] == -1).all()


def test_captions(source, image_config):
    data = image_config(source, examples={"language": "de", "ids": 7})
    batches = _take(pipeline.training(data, batch_size=4, seed=0), 6)
    seen = set()
    for batch in batches:
        assert batch["text_ids"].shape == (4, 7) and batch["text_ids"].dtype == np.int32
        for number, ids, mask in zip(_numbers(batch), batch["text_ids"], batch["text_mask"]):
            assert Bytes().decode(ids) == f"Bild {number}" and mask.sum() == len(f"Bild {number}")
            seen.add(number)
    assert seen == {n for n in range(24) if n % 8 > 1 and n % 3}  # every third has no German caption
    short = image_config(source, examples={"language": "de", "ids": 6})
    assert {n for b in _take(pipeline.training(short, batch_size=4, seed=0), 6) for n in _numbers(b)} == {2, 4, 5, 7}


def test_filters_and_labels(source, image_config):
    data = image_config(source, groups=("dog",), styles=("b",), examples={"label": "group_style"})
    batches = _take(pipeline.training(data, batch_size=4, seed=0), 6)
    assert {n for b in batches for n in _numbers(b)} == {3, 7, 11, 15, 19, 23}
    assert {int(label) for b in batches for label in b["label"]} == {3}
    index = sources.open_source(source).index
    assert Images(label="group_style").classes(index) == ["cat a", "cat b", "dog a", "dog b"]
    assert Images().classes(index) == ["cat", "dog"] and Images(label="style").classes(index) == ["a", "b"]
    assert Images(label="group_style").labels(index)[:4].tolist() == [0, 2, 1, 3]
    held = pipeline.evaluation(
        image_config(source, evaluation={"styles": ("a",)}, examples={"label": ""}), split="validation", batch_size=2
    )
    assert [sorted(batch) for batch in held] == [["example_mask", "image", "index"]] * 2
    assert sorted(int(i) for b in held for i in b["index"][b["example_mask"]]) == [1, 9, 17]


def test_evaluation_pads_the_last_batch(source, image_config):
    batches = list(pipeline.evaluation(image_config(source), split="test", batch_size=2))
    assert [batch["example_mask"].tolist() for batch in batches] == [[True, True], [True, False]]
    assert sorted(int(i) for b in batches for i in b["index"][b["example_mask"]]) == [0, 8, 16]
    assert (batches[1]["image"][1] == 0).all() and batches[1]["label"][1] == 0
    parts = [
        list(pipeline.evaluation(image_config(source), split="test", batch_size=2, process_index=p, process_count=2))
        for p in (0, 1)
    ]
    _same([{n: np.concatenate([a[n], b[n]]) for n in a} for a, b in zip(*parts)], batches)


def test_corrupt_records_are_replaced_by_their_class_counted_and_named(images, source, image_config, caplog):
    clean = _take(pipeline.training(image_config(source), batch_size=4, seed=5), 9)
    (images / "dog" / "011.png").write_bytes(b"\x89PNG" + bytes(9))
    data = image_config(source, max_corrupt=0.5)
    with caplog.at_level(logging.WARNING, logger="absl"):
        iterator = pipeline.training(data, batch_size=4, seed=5)
        damaged = _take(iterator, 9)
    assert iterator._reader.corrupt == 2 and iterator._reader.seen == 38
    named = [record.getMessage() for record in caplog.records if "corrupt" in record.getMessage()]
    assert len(named) == 1 and "record 11 (dog/011.png)" in named[0] and "a damaged PNG" in named[0]
    changed = 0
    for one, two in zip(clean, damaged):
        np.testing.assert_array_equal(one["index"], two["index"])
        np.testing.assert_array_equal(one["label"], two["label"])
        for before, after in zip(_numbers(one), _numbers(two)):
            assert (before == after) == (before != 11) and after != 11
            changed += before == 11
    assert changed == 2
    _same(_take(pipeline.training(data, batch_size=4, seed=5), 9), damaged)
    with pytest.raises(
        ValueError, match=r"2 of \d+ records read are corrupt, more than data\.max_corrupt=0\.01 allows"
    ):
        _take(pipeline.training(image_config(source), batch_size=4, seed=5), 12)


def test_when_nothing_is_readable(images, source, image_config):
    for path in images.glob("*/*.png"):
        path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="no other record fits in the place of corrupt record"):
        next(pipeline.training(image_config(source, max_corrupt=1.0), batch_size=4, seed=5))
    (batch,) = pipeline.evaluation(image_config(source, max_corrupt=1.0), split="test", batch_size=4)
    assert not batch["example_mask"].any()


def test_the_cache_changes_no_value(source):
    values = []
    for cache in (0, 320):
        opened = sources.open_source(source)
        examples = Images(size=3, crop=(0.5, 0.9), cache=cache)
        bucket = examples.shapes(True)[0]
        plans = [Plan((n,), n % 2 > 0, crop) for n in range(24) for crop in ((), (0.1, 0.5, 0.3, 0.9))]
        for _ in range(2):
            values.append(np.stack([examples.make(plan, bucket, opened)["image"] for plan in plans]))
    assert all((value == values[0]).all() for value in values)


def test_abstract_batches_are_those_that_come(source, image_config):
    for examples in ({}, {"language": "en", "ids": 20}, {"label": ""}):
        data = image_config(source, examples=examples)
        found = abstract_batch(data | {"source": "folder:/nowhere"}, 6)
        batch = next(pipeline.training(data, batch_size=6, seed=0))
        assert found == {name: (value.shape, value.dtype) for name, value in batch.items()}


def test_summary(source, image_config):
    out = pipeline.summary(image_config(source))
    assert out["train"] == {"images": 18, "groups": 2, "items": 18} and out["test"]["images"] == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 0}, "size 0 and ids 64: expected positive"),
        ({"label": "groop"}, "label 'groop': expected one of 'group', 'style', 'group_style', ''"),
        ({"crop": (0.5,)}, r"crop \(0.5,\): expected \(\) or 0 < low <= high <= 1"),
        ({"crop": (0.0, 1.0)}, "crop"),
        ({"ratio": (2.0, 1.0)}, r"ratio \(2.0, 1.0\)"),
        ({"filter": "cubic"}, "filter 'cubic': expected one of area"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        Images(**fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"languages": ("en",)}, r"data\.languages: no such filter of images, known: groups, styles"),
        ({"style": ("a",)}, r"data\.style: no such key, did you mean styles\?"),
        ({"styles": ("x",)}, "style 'x': the source has 'a', 'b'"),
        ({"groups": ("cow",)}, "group 'cow': the source has 'cat', 'dog'"),
        ({"groups": ("dog",), "examples": {"language": "de", "ids": 1}}, "none of 9 training images has a"),
        ({"examples": {"language": "fr"}}, "language 'fr': the source has captions in 'de', 'en'"),
        ({"examples": {"target": "jaxtok.data.speech:Utterances", "size": 4}}, "cannot be built"),
    ],
)  # fmt: skip
def test_bad_configs(source, image_config, change, message):
    with pytest.raises(ValueError, match=message):
        pipeline.training(image_config(source, **change), batch_size=4, seed=0)


def test_kinds_are_not_mixed_up(source, folder, config, image_config):
    with pytest.raises(ValueError, match=r"data\.examples: Images are made of images, but .* holds utterances"):
        pipeline.training(image_config(f"folder:{folder}"), batch_size=4, seed=0)
    with pytest.raises(ValueError, match=r"data\.examples: Utterances are made of utterances, but .* holds images"):
        pipeline.evaluation(config(source), split="test", batch_size=4)
    with pytest.raises(ValueError, match=r"data\.evaluation\.words: no such filter of images"):
        pipeline.evaluation(image_config(source, evaluation={"words": 3}), split="test", batch_size=4)


def test_a_label_that_some_lack(images, source, image_config):
    text = (images / "all.tsv").read_text().replace("\tdog\ta\tpicture 1\t", "\t\ta\tpicture 1\t")
    (images / "all.tsv").write_text(text)
    with pytest.raises(ValueError, match=re.escape("1 images of the source have no group, the first is 'dog/001.png'")):
        pipeline.training(image_config(source), batch_size=4, seed=0)
    assert "label" not in next(pipeline.training(image_config(source, examples={"label": ""}), batch_size=4, seed=0))


def test_pictures_of_another_shape(write_images, tmp_path):
    from PIL import Image

    folder = write_images(tmp_path / "wide", count=1)
    wide = np.zeros((4, 10, 3), np.uint8)
    wide[:, 3:7] = 255
    Image.fromarray(wide).save(folder / "cat" / "wide.png")
    opened = sources.open_source(f"folder:{folder}")
    out, _ = Images(size=2).picture(opened, opened.index.file.index("cat/wide.png"))
    assert (out == 255).all() and picture.to_float(out).max() == 1
