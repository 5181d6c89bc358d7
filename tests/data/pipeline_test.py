import itertools
import logging

import ml_collections
import numpy as np
import pytest

from jaxtok.data import pack, pipeline


@pytest.fixture
def source(folder):
    return f"folder:{folder}"


def _take(iterator, count):
    return list(itertools.islice(iterator, count))


def _same(left, right):
    assert len(left) == len(right)
    for one, two in zip(left, right):
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_shapes_and_dtypes(source, config):
    shapes = set()
    for batch in _take(pipeline.training(config(source), batch_size=4, seed=0), 12):
        kinds = {name: (value.dtype, value.ndim) for name, value in batch.items()}
        assert kinds == {
            "audio": (np.float32, 2), "audio_mask": (np.bool_, 2), "text_ids": (np.int32, 2),
            "text_mask": (np.bool_, 2), "index": (np.int32, 1),
        }  # fmt: skip
        assert all(len(value) == 4 for value in batch.values())
        shapes.add((batch["audio"].shape[1], batch["text_ids"].shape[1]))
    assert shapes == {(38400, 24), (76800, 64)}


@pytest.mark.parametrize("count", [2, 4])
def test_all_process_counts_see_the_same_rows(source, config, count):
    whole = _take(pipeline.training(config(source), batch_size=8, seed=3), 10)
    parts = [
        _take(pipeline.training(config(source), batch_size=8, seed=3, process_index=p, process_count=count), 10)
        for p in range(count)
    ]
    joined = [{name: np.concatenate([part[step][name] for part in parts]) for name in whole[0]} for step in range(10)]
    _same(joined, whole)


def test_every_epoch_visits_every_anchor_once(source, config):
    data = config(source, examples={"concatenate": False})
    batches = _take(pipeline.training(data, batch_size=6, seed=0), 12)  # 72 examples: 4 epochs of 18, 3 windows
    assert sorted(np.concatenate([batch["index"] for batch in batches])) == list(range(72))
    by_number = {}
    for batch in batches:
        for index, ids in zip(batch["index"], batch["text_ids"]):
            by_number[int(index)] = ids[ids > 0].tobytes()
    epochs = [[by_number[n] for n in range(start, start + 18)] for start in range(0, 72, 18)]
    assert all(len(set(epoch)) == 18 for epoch in epochs) and set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]


def test_another_seed_is_another_order(source, config):
    one, two = (next(pipeline.training(config(source), batch_size=8, seed=seed)) for seed in (0, 1))
    assert one["text_ids"].shape != two["text_ids"].shape or (one["text_ids"] != two["text_ids"]).any()


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("stop", [0, 3, 11])
def test_resume_is_exact_across_epochs(source, config, stop, prefetch):
    data = config(source, prefetch=prefetch)
    whole = _take(pipeline.training(data, batch_size=4, seed=5), 16)  # more than 3 epochs
    first = pipeline.training(data, batch_size=4, seed=5)
    _take(first, stop)
    state = first.get_state()
    assert state == {"step": stop}
    again = pipeline.training(data, batch_size=4, seed=5)
    next(again)
    again.set_state(state)
    _same(_take(again, 16 - stop), whole[stop:])
    # And by another number of processes.
    half = pipeline.training(data, batch_size=4, seed=5, process_index=1, process_count=2)
    half.set_state(state)
    np.testing.assert_array_equal(next(half)["index"], whole[stop]["index"][2:])


def test_the_iterator_is_checkpointed_by_orbax(source, config, tmp_path):
    from orbax.checkpoint import v1 as ocp

    iterator = pipeline.training(config(source), batch_size=4, seed=5)
    _take(iterator, 5)
    ocp.save_checkpointables(tmp_path / "checkpoint", {"data": iterator})
    wanted = next(iterator)
    again = pipeline.training(config(source), batch_size=4, seed=5)
    ocp.load_checkpointables(tmp_path / "checkpoint", {"data": again})
    _same([next(again)], [wanted])


def test_a_damaged_state_is_refused(source, config):
    iterator = pipeline.training(config(source), batch_size=4, seed=5)
    for state in ({"next_index": 3}, {"step": -1}, {}):
        with pytest.raises(ValueError, match="expected {'step': n}"):
            iterator.set_state(state)
    iterator.close()
    with pytest.raises(ValueError, match="closed"):
        next(iterator)


def test_workers_give_the_same_batches_and_state(source, config):
    wanted = _take(pipeline.training(config(source), batch_size=4, seed=5), 7)
    iterator = pipeline.training(config(source, workers=2), batch_size=4, seed=5)
    iterator.set_state({"step": 2})
    _same(_take(iterator, 5), wanted[2:])
    assert iterator.get_state() == {"step": 7}
    iterator.close()


def test_a_config_dict_works_as_well(source, config):
    data = ml_collections.ConfigDict(config(source))
    _same(
        [next(pipeline.training(data, batch_size=4, seed=0))],
        [next(pipeline.training(config(source), batch_size=4, seed=0))],
    )


def test_corrupt_records_are_replaced_counted_and_named(folder, source, config, caplog):
    clean = _take(pipeline.training(config(source), batch_size=4, seed=5), 12)
    (folder / "010.wav").write_bytes(b"RIFF")  # its length is in the index of the packed set
    data = config(source, max_corrupt=0.5)
    (folder / "all.tsv").write_text(_with_seconds(folder))
    with caplog.at_level(logging.WARNING, logger="absl"):
        iterator = pipeline.training(data, batch_size=4, seed=5)
        damaged = _take(iterator, 12)
    reader = iterator._reader
    assert reader.corrupt > 0 and reader.seen > 12 * 4
    named = [record.getMessage() for record in caplog.records if "corrupt" in record.getMessage()]
    assert len(named) == 1 and "record 10 (010.wav)" in named[0] and "damaged or unsupported WAV" in named[0]
    changed = 0
    for one, two in zip(clean, damaged):
        np.testing.assert_array_equal(one["index"], two["index"])
        assert one["audio"].shape == two["audio"].shape
        for row in range(4):
            text = bytes((two["text_ids"][row][two["text_mask"][row]] - 3).astype(np.uint8)).decode()
            assert "tone 10" not in text.replace("tone 100", "")
            same = (one["audio"][row] == two["audio"][row]).all()
            old = bytes((one["text_ids"][row][one["text_mask"][row]] - 3).astype(np.uint8)).decode()
            assert same == ("tone 10" not in old)
            changed += not same
    assert changed > 0
    _same(_take(pipeline.training(data, batch_size=4, seed=5), 12), damaged)


def _with_seconds(folder) -> str:
    lines = (folder / "all.tsv").read_text().splitlines()
    out = [lines[0] + "\tseconds"] + [f"{line}\t{0.6 + 0.06 * n:.6f}" for n, line in enumerate(lines[1:])]
    return "\n".join(out) + "\n"


def test_too_many_corrupt_records_stop_with_one_sentence(folder, source, config):
    (folder / "all.tsv").write_text(_with_seconds(folder))
    for name in ("002.wav", "003.flac", "004.wav", "010.wav"):
        (folder / name).write_bytes(b"junk")
    for prefetch in (0, 2):
        with pytest.raises(ValueError, match=r"are corrupt, more than data\.max_corrupt=0\.01 allows") as caught:
            _take(pipeline.training(config(source, prefetch=prefetch), batch_size=4, seed=5), 50)
        assert "\n" not in str(caught.value) and "see jaxtok data check" in str(caught.value)


def test_when_nothing_is_readable(folder, source, config):
    (folder / "all.tsv").write_text(_with_seconds(folder))
    for path in [*folder.glob("*.wav"), *folder.glob("*.flac")]:
        path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="no other record fits"):
        next(pipeline.training(config(source, max_corrupt=1.0), batch_size=4, seed=5))


def test_evaluation_pads_the_last_batch_and_repeats(source, config):
    data = config(source)
    found = pipeline.evaluation(data, split="test", batch_size=2)
    batches = list(found)
    assert found.examples == 3 and len(found) == len(batches)
    positions = sorted(int(i) for b in batches for i in b["index"][b["example_mask"]])
    assert positions == [0, 8, 16]
    for batch in batches:
        assert batch["audio"].shape[0] == 2 and batch["example_mask"].any()
        assert batch["audio_mask"].any(1).all() and batch["text_mask"].any(1).all()
        assert (batch["audio"][~batch["example_mask"]] == 0).all()
    _same(list(found), batches)
    limited = list(pipeline.evaluation(data, split="test", batch_size=2, limit=1))
    assert len(limited) == 1 and limited[0]["example_mask"].tolist() == [True, False]
    parts = [
        list(pipeline.evaluation(data, split="test", batch_size=2, process_index=p, process_count=2)) for p in (0, 1)
    ]
    _same([{n: np.concatenate([a[n], b[n]]) for n in a} for a, b in zip(*parts)], batches)


def test_evaluation_filters_and_masks_what_is_corrupt(folder, source, config):
    chosen = {"evaluation": {"words": 4}}
    batches = list(pipeline.evaluation(config(source, **chosen), split="test", batch_size=4))
    assert [int(i) for b in batches for i in b["index"][b["example_mask"]]] == [0]
    (folder / "all.tsv").write_text(_with_seconds(folder))
    (folder / "008.wav").write_bytes(b"junk")
    batches = list(pipeline.evaluation(config(source), split="test", batch_size=3))
    assert sorted(int(i) for b in batches for i in b["index"][b["example_mask"]]) == [0, 16]


def test_languages_of_training(source, config):
    data = config(source, languages=("es",), examples={"concatenate": False})
    batches = _take(pipeline.training(data, batch_size=4, seed=0), 8)
    texts = {bytes((row[row > 2] - 3).astype(np.uint8)).decode() for batch in batches for row in batch["text_ids"]}
    numbers = {int("".join(c for c in text if c.isdigit())) for text in texts}
    assert numbers == {n for n in range(24) if n % 4 >= 2}


def test_summary(source, config):
    out = pipeline.summary(config(source))
    assert out["train"]["utterances"] == 18 and out["test"]["utterances"] == 3
    assert sum(split["hours"] for split in out.values()) * 3600 == pytest.approx(30.96, abs=0.01)


def test_training_examples_are_those_that_training_draws_from(source, config):
    assert pipeline.training_examples(config(source)) == 18
    data = config(
        source, languages=("es",), examples={"concatenate": False, "seconds": (1.0, 1.28), "buckets": ((1.28, 24),)}
    )
    drawn = _take(pipeline.training(data, batch_size=4, seed=0), 16)
    texts = {row.tobytes() for batch in drawn for row in batch["text_ids"]}
    assert 0 < len(texts) == pipeline.training_examples(data) < 9  # the longer ones are left out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sorce": "x"}, r"data\.sorce: no such key, did you mean source\?"),
        ({"window": 0}, r"data\.window: found 0, expected at least 1"),
        ({"workers": -1}, r"data\.workers: found -1"),
        ({"max_corrupt": 2.0}, r"data\.max_corrupt: found 2\.0"),
        ({"languages": ("xx",)}, "language 'xx': the source has 'en', 'es'"),
        ({"evaluation": {"word": 3}}, r"data\.evaluation\.word: no such key"),
        ({"source": "nowhere:x"}, "expected samples:NAME"),
    ],
)
def test_bad_configs(source, config, change, message):
    with pytest.raises(ValueError, match=message):
        pipeline.training(config(source) | change, batch_size=4, seed=0)


def test_bad_arguments(source, config):
    data = config(source)
    with pytest.raises(ValueError, match="batch_size 6: expected a positive multiple of the 4 processes"):
        pipeline.training(data, batch_size=6, seed=0, process_count=4)
    with pytest.raises(ValueError, match="split 'dev': expected one of train, validation, test"):
        pipeline.evaluation(data, split="dev", batch_size=4)
    with pytest.raises(ValueError, match="0 utterances of split 'test' pass .*'words': 99"):
        pipeline.evaluation(config(source, evaluation={"words": 99}), split="test", batch_size=4)
    with pytest.raises(ValueError, match=r"data\.examples: is missing"):
        pipeline.training({"source": source}, batch_size=4, seed=0)
    with pytest.raises(ValueError, match="none of 18 training utterances fits"):
        pipeline.training(
            config(source, examples={"seconds": (0.1, 0.16), "buckets": ((0.16, 9),)}), batch_size=4, seed=0
        )


def test_the_shipped_samples_make_batches(tmp_path):
    data = {
        "source": "samples:speech", "languages": ("en",),
        "examples": {"target": "jaxtok.data.speech:Utterances", "seconds": (3.0, 6.4)},
        "evaluation": {"languages": ("en",), "words": 4, "seconds": 3.0},
    }  # fmt: skip
    iterator = pipeline.training(data, batch_size=8, seed=0)
    batches = _take(iterator, 8)
    iterator.close()
    assert {batch["audio"].shape[1] for batch in batches} <= {115200, 153600}
    filled = np.concatenate([batch["audio_mask"].mean(1) for batch in batches])
    assert filled.mean() > 0.75
    held_out = pipeline.evaluation(data, split="test", batch_size=8, limit=8)
    assert held_out.examples == 8
    assert sum(int(batch["example_mask"].sum()) for batch in held_out) == 8


def test_packed_data_with_workers(folder, tmp_path, config):
    pack.pack(folder, tmp_path / "packed")
    data = config(f"arrayrecord:{tmp_path / 'packed'}")
    wanted = _take(pipeline.training(data, batch_size=4, seed=5), 4)
    iterator = pipeline.training(data | {"workers": 1}, batch_size=4, seed=5)
    _same(_take(iterator, 4), wanted)
    iterator.close()
