import re

import numpy as np
import pytest

from jaxtok.data import audio, sources, speech
from jaxtok.data.cache import Cache
from jaxtok.data.speech import Bucket, Plan, Utterances

SMALL = Utterances(seconds=(1.0, 3.2), buckets=((1.6, 24), (3.2, 64)))


@pytest.fixture
def source(folder):
    return sources.open_source(f"folder:{folder}")


@pytest.fixture
def planner(source):
    return SMALL.planner(source.index, source.index.select("train"), training=True)


def test_plans_keep_to_one_speaker_and_language_and_to_the_target(source, planner):
    index, longer = source.index, 0
    for number, anchor in enumerate(np.tile(planner.anchors, 4)):
        plan = planner.plan(int(anchor), np.random.default_rng(number))
        assert plan.records[0] == anchor and len(set(plan.records)) == len(plan.records)
        assert len({(index.speaker[p], index.language[p], index.split[p]) for p in plan.records}) == 1
        seconds = [round(index.seconds[p] * 24000) for p in plan.records]
        assert plan.samples == sum(seconds) + 4800 * (len(seconds) - 1) <= 3.2 * 24000
        assert plan.ids == sum(int(index.text_bytes[p]) for p in plan.records) + len(seconds) - 1
        assert plan == planner.plan(int(anchor), np.random.default_rng(number))
        longer += len(plan.records) > 1
    assert longer > 20


def test_an_example_is_its_utterances_with_gaps_and_joined_texts(source):
    plan = Plan((2, 6), 0, 0)
    out = SMALL.make(plan, Bucket(76800, 64), source)
    pieces = []
    for position in plan.records:
        record = source.record(position)
        samples, rate = audio.decode(record.audio, record.file)
        assert rate == 16000
        pieces.append(audio.resample(samples, rate, 24000))
    wanted = np.concatenate([pieces[0], np.zeros(4800), pieces[1]])
    length = len(wanted)
    np.testing.assert_allclose(out["audio"][:length], wanted, atol=1 / 32767)
    assert (out["audio"][length:] == 0).all() and out["audio"].dtype == np.float32
    assert SMALL.text.decode(out["text_ids"]) == "tone 2 say number 6 now"
    assert out["text_mask"].sum() == len("tone 2 say number 6 now") and out["text_ids"].shape == (64,)
    assert out["text_mask"][: out["text_mask"].sum()].all() and (out["text_ids"][~out["text_mask"]] == 0).all()


def test_the_mask_covers_whole_tokens(source, planner):
    for anchor in planner.anchors:
        plan = planner.plan(int(anchor), np.random.default_rng(3))
        bucket = planner.bucket([plan])
        mask = SMALL.make(plan, bucket, source)["audio_mask"]
        valid = int(mask.sum())
        assert mask.shape == (bucket.samples,) and mask[:valid].all()
        assert valid % 3840 == 0 and plan.samples <= valid < plan.samples + 3840
        assert bucket.samples == (38400 if valid <= 38400 and plan.ids <= 24 else 76800)


def test_a_text_too_long_drops_utterances_and_never_truncates(source):
    tight = Utterances(seconds=(3.2, 3.2), buckets=((3.2, 20),))
    planner = tight.planner(source.index, np.arange(24), training=True)
    for number, anchor in enumerate(planner.anchors):
        plan = planner.plan(int(anchor), np.random.default_rng(number))
        assert plan.ids <= 20
    out = tight.make(Plan((2, 6), 0, 0), Bucket(76800, 20), source)
    assert tight.text.decode(out["text_ids"]) == "tone 2" and out["audio_mask"].sum() == 19200
    with pytest.raises(speech.CorruptRecord, match="its text has 16 ids, the bucket holds 10"):
        tight.make(Plan((6,), 0, 0), Bucket(76800, 10), source)


def test_what_fits_no_bucket_is_no_anchor(source):
    short = Utterances(seconds=(0.8, 0.8), buckets=((0.8, 24),))
    planner = short.planner(source.index, np.arange(24), training=True)
    assert planner.anchors.tolist() == [0, 1, 2, 3] and planner.left_out == 20


def test_a_longer_utterance_than_the_target_stands_alone(source, planner):
    plan = planner.plan(23, np.random.default_rng(0))
    single = planner.single(23)
    assert single.samples == round(1.98 * 24000)
    low = Utterances(seconds=(0.5, 0.5), buckets=((3.2, 64),)).planner(source.index, np.arange(24), training=True)
    assert low.plan(23, np.random.default_rng(0)) == low.single(23) == single and plan.records[0] == 23


def test_no_concatenation_on_request(source):
    alone = Utterances(seconds=(1.0, 3.2), buckets=((3.2, 64),), concatenate=False)
    planner = alone.planner(source.index, np.arange(24), training=True)
    assert planner.plan(4, np.random.default_rng(0)) == planner.single(4)


def test_an_unknown_speaker_is_not_concatenated(folder):
    text = (folder / "all.tsv").read_text().replace("\tspeaker0\t", "\t\t")
    (folder / "all.tsv").write_text(text)
    index = sources.open_source(f"folder:{folder}").index
    planner = SMALL.planner(index, np.arange(24), training=True)
    for anchor in range(0, 24, 2):
        assert planner.plan(anchor, np.random.default_rng(0)) == planner.single(anchor)
    assert any(len(planner.plan(n, np.random.default_rng(n)).records) > 1 for n in range(1, 24, 2))


def test_peak_scaling(source):
    plan, bucket = Plan((2,), 0, 0), Bucket(38400, 24)
    loud = Utterances(buckets=((6.4, 64),), peak=0.95).make(plan, bucket, source)["audio"]
    plain = Utterances(buckets=((6.4, 64),)).make(plan, bucket, source)["audio"]
    assert np.abs(loud).max() == pytest.approx(0.95, abs=1e-4)
    np.testing.assert_allclose(loud, plain * (0.95 / np.abs(plain).max()), atol=1e-4)


def test_the_cache_changes_no_value_and_is_bounded(folder):
    values = []
    for cache in (0, 1, 320):
        source = sources.open_source(f"folder:{folder}")
        examples = Utterances(seconds=(1.0, 3.2), buckets=((3.2, 64),), cache=cache)
        for _ in range(2):
            values.append(
                np.stack([examples.make(Plan((n,), 0, 0), Bucket(76800, 64), source)["audio"] for n in range(24)])
            )
    assert all((value == values[0]).all() for value in values)
    small = Cache(100)
    for n in range(9):
        small.put(n, (np.zeros(20, np.int16), ""))
    assert [small.get(n) is not None for n in range(9)] == [False] * 7 + [True] * 2
    small.put(9, (np.zeros(51, np.int16), ""))
    assert small.get(9) is None and small.get(8) is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seconds": (2.0, 1.0)}, "expected 0 < low <= high"),
        ({"buckets": ((3.0, 80),)}, r"bucket of 3.0 s and 80 ids: expected a multiple of 0.16 s \(such as 3.04\)"),
        ({"buckets": ()}, "expected at least one"),
        ({"buckets": ((6.4, 80), (3.2, 90))}, "ascending"),
        ({"buckets": ((3.2, 80), (6.4, 60))}, "ascending"),
        ({"buckets": ((6.4, 0),)}, "at least 1 id"),
        ({"evaluation_buckets": ((1.0, 9),)}, "bucket of 1.0 s"),
        ({"seconds": (3.0, 7.0)}, "seconds up to 7.0, but the largest bucket has 6.4 s"),
        ({"gap": -0.1}, "expected gap >= 0"),
        ({"peak": 1.5}, "peak from 0 to 1"),
        ({"rate": 0}, "rate 0"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        Utterances(**fields)


def test_a_length_that_is_no_binary_fraction_fills_its_bucket():
    assert 10.8 * 24000 > 259200  # in floating point
    assert Utterances(seconds=(1.0, 10.8), buckets=((10.8, 9),), multiple=320).shapes(True) == (Bucket(259200, 9),)


def test_a_record_that_is_not_as_the_index_says(folder, source):
    (folder / "002.wav").write_bytes((folder / "020.wav").read_bytes())
    with pytest.raises(speech.CorruptRecord, match=re.escape("record 2 (002.wav): lasts 1.800 s")) as caught:
        SMALL.utterance(source, 2)
    assert caught.value.position == 2


def test_replacements_fit_and_are_deterministic(planner):
    for number, anchor in enumerate(planner.anchors):
        plan = planner.plan(int(anchor), np.random.default_rng(number))
        bucket = planner.bucket([plan])
        for bad in plan.records:
            other = planner.replacement(plan, [bad], 7, bucket)
            assert other == planner.replacement(plan, [bad], 7, bucket)
            assert bad not in other.records and other.samples <= bucket.samples and other.ids <= bucket.ids
            kept = [p for p in plan.records if p != bad]
            assert [p for p in other.records if p in kept] == kept
            assert len({planner.group[p] for p in other.records}) == 1 or not kept
