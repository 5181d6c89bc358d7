"""Sets of tokens: what `jaxtok encode` writes, how it goes on after a stop, and what a generator reads."""

import itertools
import json
import math

import numpy as np
import pytest

import jaxtok
from jaxtok import cli, fingerprint
from jaxtok import model as model_lib
from jaxtok.commands.encode_dataset import Moments, encode_dataset
from jaxtok.data import check, pack, pipeline, sources, tokens
from jaxtok.data.abstract import abstract_batch
from jaxtok.data.tokens import Tokens

LEVELS = (4, 3, 5)


def _tokenizer(folder, quantizer=None):
    """A saved tokenizer without parameters, of 4 x 4 pixels: the mean colours of four patches, rounded."""
    rounded = dict(target="jaxtok.quantizers:FSQ", levels=LEVELS, symmetric=True, bound="clip")
    config = dict(
        slug="mosaic",
        model=dict(
            target="jaxtok.tokenizers.feedforward:FeedForwardTokenizer",
            encoder=dict(target="jaxtok.nn.mosaic:MosaicEncoder", patch=2),
            quantizer=quantizer or rounded,
            decoder=dict(target="jaxtok.nn.mosaic:MosaicDecoder", patch=2),
        ),
        interface=dict(ref="jaxtok.models.image:assemble"),
        data=dict(source="", examples=dict(target="jaxtok.data.images:Images", size=4)),
    )
    model_lib.save(folder, config, {})
    return folder


@pytest.fixture
def model(tmp_path):
    return _tokenizer(tmp_path / "model")


@pytest.fixture
def continuous(tmp_path):
    return _tokenizer(tmp_path / "continuous", dict(target="jaxtok.quantizers:Continuous"))


def _config(out, **examples):
    return {"source": f"tokens:{out}", "examples": {"target": "jaxtok.data.tokens:Tokens", **examples}, "prefetch": 0}


def _codes(n):
    """Of the fixture's image n: red 10 n in the left half, green 10 n in the right one."""
    red, green = (math.floor((level - 1) * 10 * n / 255 + 0.5) for level in LEVELS[:2])
    return np.array([[red, 4 * green]] * 2)[..., None]


def test_every_image_and_its_mirror_are_encoded(images, model, tmp_path):
    done = encode_dataset(model, f"folder:{images}", tmp_path / "out", flip=True, shards=3)
    mark = fingerprint.of_run(str(model))
    said = "24 images as 2 x 2 x 1 tokens of 60 codes, mirrored ones too, 3 shards, tokenizer"
    assert str(done) == f"{tmp_path / 'out'}: {said} {mark[:12]}"
    found, pictures = (sources.open_source(name) for name in (f"tokens:{tmp_path / 'out'}", f"folder:{images}"))
    for position in range(24):
        record, row = found.record(position), pictures.index.row(position)
        number = int(row.file.split("/")[1][:3])
        assert record.tokens.dtype == np.int32
        np.testing.assert_array_equal(record.tokens[0], _codes(number))
        np.testing.assert_array_equal(record.tokens[1], _codes(number)[:, ::-1])
        assert record.captions == pictures.record(position).captions and record.captions["en"] == f"picture {number}"
        names = ("file", "split", "group", "style", "item", "captions")
        assert [getattr(found.index.row(position), name) for name in names] == [getattr(row, name) for name in names]
    with pytest.raises(ValueError, match="tokens are not joined; join what they are made of"):
        sources.open_source(f"tokens:{tmp_path / 'out'},tokens:{tmp_path / 'out'}")
    said = tokens.describe(f"tokens:{tmp_path / 'out'}")
    assert (said["fingerprint"], said["source"], said["codebook"]) == (mark, f"folder:{images}", 60)
    assert (said["shape"], said["flip"], said["mean"], said["size"]) == ([2, 2, 1], True, [], 4)
    report = check.check(f"tokens:{tmp_path / 'out'}")
    assert report.bad == 0 and str(report).endswith("24 token grids, 0 bad (24 of 2x2)")


def _files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stopped_run_goes_on_and_leaves_the_same_files(images, model, tmp_path, monkeypatch):
    call = (model, f"folder:{images}")
    encode_dataset(*call, tmp_path / "whole", shards=3)
    real, written = pack.write_shard, []

    def stop(path, items):
        written.append(path.name)
        if len(written) == 3:
            path.write_bytes(b"half")
            raise OSError("no space left on device")
        return real(path, items)

    out = tmp_path / "out"
    monkeypatch.setattr(pack, "write_shard", stop)
    with pytest.raises(OSError, match="no space"):
        encode_dataset(*call, out, shards=3)
    with pytest.raises(ValueError, match=r"no manifest\.json, so the set is not whole; run jaxtok encode again"):
        sources.open_source(f"tokens:{out}")
    damaged = out / "shard-00001-of-00003.array_record"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")  # its marker says otherwise
    monkeypatch.undo()
    done = encode_dataset(*call, out, shards=3)
    assert done.encoded == 2 and "(1 shards were there)" in str(done)
    assert _files(out) == _files(tmp_path / "whole") and "shard-00000-of-00003.json" not in _files(out)
    assert encode_dataset(*call, out, shards=3).encoded == 0


def test_what_does_not_belong_together_is_refused(images, model, tmp_path, folder):
    out = tmp_path / "out"
    encode_dataset(model, f"folder:{images}", out)
    other = _tokenizer(tmp_path / "other", dict(target="jaxtok.quantizers:FSQ", levels=(3, 3, 3)))
    with pytest.raises(
        ValueError, match=r"holds tokens of another tokenizer \(fingerprint \w{12}, this one has \w{12}\)"
    ):
        encode_dataset(other, f"folder:{images}", out)
    with pytest.raises(ValueError, match="was begun with flip=False, now it is True; choose another folder"):
        encode_dataset(model, f"folder:{images}", out, flip=True)
    (images / "all.tsv").write_text((images / "all.tsv").read_text().replace("\ttrain\n", "\tvalidation\n"))
    with pytest.raises(ValueError, match="was begun with index="):
        encode_dataset(model, f"folder:{images}", out)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("mine")
    for change, said in (
        (dict(output=tmp_path / "foreign"), r"holds 'thesis\.txt', expected a new or empty folder"),
        (dict(source=f"folder:{folder}"), "holds utterances, expected images for this tokenizer"),
        (dict(split="dev"), "split 'dev': expected one of train, validation, test"),
        (dict(shards=-1), "shards -1"),
        (dict(size=5), "size 5: expected a multiple of the tokenizer's 2 pixels"),
        (dict(model=tmp_path), "no run there"),
    ):
        with pytest.raises(ValueError, match=said):
            encode_dataset(**dict(model=model, source=f"folder:{images}", output=tmp_path / "new") | change)
    assert not (tmp_path / "new").exists()


def test_statistics_are_those_of_the_train_split(images, continuous, tmp_path):
    out = tmp_path / "out"
    encode_dataset(continuous, f"folder:{images}", out, flip=True, shards=5)
    source = sources.open_source(f"tokens:{out}")
    every = [source.record(n) for n in range(24)]
    train = np.concatenate([record.tokens.reshape(-1, 3) for record in every if record.split == "train"])
    assert train.shape == (18 * 2 * 4, 3) and train.dtype == np.float32
    said = tokens.describe(f"tokens:{out}")
    np.testing.assert_allclose(said["mean"], train.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(said["deviation"], train.std(0, dtype=np.float64), rtol=1e-12, atol=1e-12)
    mean, deviation = tokens.statistics(said)
    assert mean[2] == -1 and said["deviation"][2] == 0 and deviation[2] == 1  # no image has blue
    batch = next(pipeline.training(_config(out, label=""), batch_size=18, seed=0))
    assert sorted(batch) == ["index", "latents"] and batch["latents"].dtype == np.float32
    expected = sorted(((record.tokens[0] - mean) / deviation).sum() for record in every if record.split == "train")
    np.testing.assert_allclose(sorted(batch["latents"].sum((1, 2, 3))), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(batch["latents"][..., 0].mean(), 0, atol=1e-5)
    held = next(iter(pipeline.evaluation(_config(out), split="test", batch_size=4)))
    assert held["latents"].shape == (4, 2, 2, 3) and held["example_mask"].tolist() == [True] * 3 + [False]
    encode_dataset(continuous, f"folder:{images}", tmp_path / "test", split="test")
    with pytest.raises(ValueError, match="found latents without statistics, since its train split is missing"):
        list(pipeline.evaluation(_config(tmp_path / "test"), split="test", batch_size=4))


def test_moments_of_parts_are_those_of_the_whole():
    x = np.random.default_rng(0).normal(1e3, 1, (300, 2)).astype(np.float32)
    whole = Moments()
    for part in np.split(x, [1, 7, 150]):
        moments = Moments()
        moments.add(part)
        whole.merge(Moments.from_json(json.loads(json.dumps(moments.to_json()))))
    whole.merge(Moments())
    assert whole.count == 300
    np.testing.assert_allclose(whole.mean, x.mean(0, dtype=np.float64), rtol=1e-14)
    np.testing.assert_allclose(whole.deviation, x.std(0, dtype=np.float64), rtol=1e-12)


def test_batches_of_codes(images, model, tmp_path):
    out = tmp_path / "out"
    encode_dataset(model, f"folder:{images}", out, flip=True)
    config = _config(out, label="group_style", flip=True, fingerprint=fingerprint.of_run(str(model)))
    batches = list(itertools.islice(pipeline.training(config, batch_size=6, seed=0), 30))
    assert {name: (value.dtype, value.shape) for name, value in batches[0].items()} == {
        "codes": (np.int32, (6, 2, 2, 1)), "label": (np.int32, (6,)), "index": (np.int32, (6,)),
    }  # fmt: skip
    seen = {}
    for batch in batches:
        for codes, label in zip(batch["codes"], batch["label"]):
            seen.setdefault(tuple(codes.ravel()), set()).add(int(label))
    for n in (n for n in range(24) if n % 8 > 1):
        for codes in (_codes(n), _codes(n)[:, ::-1]):
            assert n % 2 * 2 + n % 4 // 2 in seen[tuple(codes.ravel())]
    assert jaxtok.build(config["examples"]).classes(sources.open_source(f"tokens:{out}").index) == [
        "cat a", "cat b", "dog a", "dog b",
    ]  # fmt: skip
    known = dict(target="jaxtok.data.tokens:Tokens", shape=(2, 2, 1), codebook=60, label="group")
    assert abstract_batch({"examples": known}, 8) == {
        "codes": ((8, 2, 2, 1), np.int32), "label": ((8,), np.int32), "index": ((8,), np.int32),
    }  # fmt: skip


def test_captions_come_with_the_tokens_of_their_image(images, model, tmp_path):
    out = tmp_path / "out"
    encode_dataset(model, f"folder:{images}", out)
    config = _config(out, label="", language="de", ids=9)
    batch = next(pipeline.training(config, batch_size=8, seed=0))
    examples = jaxtok.build(config["examples"])
    for codes, ids, mask in zip(batch["codes"], batch["text_ids"], batch["text_mask"]):
        word, number = examples.text.decode(ids[mask]).split()
        assert word == "Bild" and int(number) % 3  # every third has no German one
        np.testing.assert_array_equal(codes, _codes(int(number)))
    known = dict(config["examples"], shape=(2, 2, 1), codebook=60)
    assert abstract_batch({"examples": known}, 8)["text_mask"] == ((8, 9), np.bool_)
    with pytest.raises(ValueError, match="the source has captions in 'de', 'en'"):
        pipeline.training(_config(out, language="fr"), batch_size=8, seed=0)


def test_tokens_that_do_not_fit_are_refused(images, model, tmp_path):
    encode_dataset(model, f"folder:{images}", tmp_path / "out")
    for examples, message in (
        ({"fingerprint": "0" * 64}, r"made by another tokenizer \(fingerprint \w{12}, expected 0{12}\); encode the"),
        ({"flip": True}, "holds no tokens of mirrored images; encode it with --flip"),
        ({"shape": (4, 4, 1)}, r"shape \(4, 4, 1\): the source holds tokens of shape \(2, 2, 1\)"),
        ({"codebook": 64}, "expected 64 codes, the source holds 60 codes"),
        ({"codebook": 0}, "expected latents, the source holds 60 codes"),
        ({"shape": (4, 4)}, r"shape \(4, 4\): expected \(\) or \(height, width, channels\)"),
        ({"label": "kind"}, "label 'kind': expected one of"),
        ({"target": "jaxtok.data.images:Images"}, "Images are made of images, but .* holds token grids"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline.training(_config(tmp_path / "out", **examples), batch_size=4, seed=0)


def test_shapes_need_a_source_or_words():
    with pytest.raises(ValueError, match="expected both, to know a batch without its source"):
        Tokens().shapes(True)
    with pytest.raises(ValueError, match="holds images, expected tokens written by jaxtok encode"):
        tokens.describe("samples:emoji")


def test_a_fingerprint_changes_with_every_weight_and_setting():
    model = {"target": "a:B", "sizes": (1, 2), "width": 3}
    variables = {"params": {"a": np.arange(3.0), "b": np.zeros(())}}
    mark = fingerprint.fingerprint(model, variables)
    again = {"params": dict(reversed(variables["params"].items()))}
    assert mark == fingerprint.fingerprint(json.loads(json.dumps(model)), again) and len(mark) == 64
    others = [
        fingerprint.fingerprint(model | {"width": 4}, variables),
        fingerprint.fingerprint(model, {"params": variables["params"] | {"b": np.float64(1e-300)}}),
        fingerprint.fingerprint(model, {"params": variables["params"] | {"a": np.arange(3)}}),
        fingerprint.fingerprint(model, {"other": variables["params"]}),
    ]
    assert len({mark, *others}) == 5 and fingerprint.of_run("") == ""


def test_mosaics_made_on_the_fly_are_the_tokenizer_s(images, model):
    source = sources.open_source(f"folder:{images}")
    data = dict(target="jaxtok.data.mosaic:Mosaic", size=4, patch=2, levels=LEVELS, label="group")
    examples = jaxtok.build(data)
    bucket = examples.shapes(False)[0]
    pixels = np.stack([examples.picture(source, n)[0] for n in range(24)])
    plans = examples.planner(source.index, np.arange(24), training=False)
    made = np.stack([examples.make(plans.single(n), bucket, source)["codes"] for n in range(24)])
    found = jaxtok.load(model)
    np.testing.assert_array_equal(made, found.encode(pixels).codes)
    assert examples.codebook == 60 and examples.blank(bucket)["codes"].shape == (2, 2, 1)
    again = found.decode(found.tokens(made))
    assert np.abs(again.astype(int) - pixels).max() <= 255 / 2 / 2 + 1  # half a step of the coarsest channel
    for change, said in (({"patch": 3}, "patch 3: expected a divisor"), ({"levels": (1, 2, 2)}, "three numbers of at")):
        with pytest.raises(ValueError, match=said):
            jaxtok.build(data | change)


def test_the_command(images, model, tmp_path, capsys):
    command = f"encode --model {model} --source folder:{images} --output {tmp_path}/out --split test --flip --shards 2"
    assert cli.main(command.split()) == 0
    assert "3 images as 2 x 2 x 1 tokens of 60 codes, mirrored ones too, 2 shards" in capsys.readouterr().out
    assert set(sources.open_source(f"tokens:{tmp_path}/out").index.split) == {"test"}
    assert cli.main([*command.split(), "a.png"]) == 2
    assert "--source: given beside 'a.png', expected a source or files" in capsys.readouterr().err
