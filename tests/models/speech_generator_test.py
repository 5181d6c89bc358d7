"""Text to speech as users meet it: the model, the command, and the way there from a tokenizer."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file, save_file

import jaxtok
from jaxtok import cli
from jaxtok import model as model_lib
from jaxtok.commands.encode_dataset import encode_dataset
from jaxtok.data import pipeline
from jaxtok.data.check import check
from jaxtok.evaluation import speech_generator as speech_generator_evaluation
from jaxtok.models import speech_generator
from jaxtok.train.loop import train

UNIT = 3840  # samples of a token
RNG = np.random.default_rng(0)


def scattered(params, size=0.1):
    return jax.tree.map(lambda leaf: leaf + size * RNG.standard_normal(leaf.shape).astype(np.float32), params)


def _tokenizer(folder):
    config = jaxtok.get_config("tadicodec:tiny").copy_and_resolve_references().to_dict()
    config["vocoder"]["iterations"] = 1
    module, cond = jaxtok.build(config["model"]), {"text_ids": jnp.zeros((1, 4), jnp.int32)}
    shapes = jax.eval_shape(
        lambda key: module.init(key, jnp.zeros((1, 16, 128)), jnp.ones(1), cond=cond), jax.random.key(0)
    )
    params = jax.tree.map(lambda leaf: 0.2 * RNG.standard_normal(leaf.shape).astype(np.float32), shapes["params"])
    model_lib.save(folder, config, params)


def _config(slug, tokenizer, **changes):
    """A tiny generator of the tiny tokenizer's codes, trained on the fly."""
    config = jaxtok.get_config(f"{slug}:tiny").copy_and_resolve_references().to_dict()
    name = config["task"].pop("target")
    codes = {"codes": 16384} if slug == "tadicodec_mgm" else {"vocabulary": 259 + 16384 + 2}
    inner = config["task"] | ({} if slug == "tadicodec_mgm" else {"codes": 16384})
    config["model"] |= codes | {"width": 16, "depth": 1}
    config["task"] = dict(target="jaxtok.tasks.on_the_fly:OnTheFly", tokenizer=tokenizer, task=dict(ref=name, **inner))
    config["data"]["examples"] |= dict(target="jaxtok.data.speech:Utterances")
    config["data"]["examples"].pop("levels")
    few = dict(steps=2) if slug == "tadicodec_mgm" else dict(least=2, most=5)
    config["sampling"] |= few
    return config | dict(tokenizer=tokenizer, decoding=dict(steps=1, guidance=1.0)) | changes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tokenizer, a generator of each kind, a voice, and a generator of images."""
    folder = tmp_path_factory.mktemp("speech")
    _tokenizer(folder / "tokenizer")
    for slug in ("tadicodec_mgm", "tadicodec_ar"):
        config = _config(slug, str(folder / "tokenizer"))
        inner = jaxtok.build(config["task"]["task"])(model=jaxtok.build(config["model"]))
        batch = {"codes": jnp.zeros((1, 4, 1), jnp.int32), "codes_mask": jnp.ones((1, 4), bool)}
        batch |= {"text_ids": jnp.zeros((1, 4), jnp.int32), "text_mask": jnp.ones((1, 4), bool)}
        shapes = jax.eval_shape(inner.init, jax.random.key(0), batch)[0]
        params = jax.tree.map(lambda leaf: 0.5 * RNG.standard_normal(leaf.shape).astype(np.float32), shapes)
        model_lib.save(folder / slug.removeprefix("tadicodec_"), config, params)
    config = jaxtok.get_config("maskgit:tiny").copy_and_resolve_references().to_dict()
    task = jaxtok.build(config["task"], model=jaxtok.build(config["model"]))
    batch = {"codes": jnp.zeros((1, 4, 4, 1), jnp.int32), "label": jnp.zeros(1, jnp.int32)}
    shapes = jax.eval_shape(task.init, jax.random.key(0), batch)[0]
    model_lib.save(folder / "images", config, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
    soundfile.write(folder / "voice.wav", _voice(), 24000)
    return folder


def _voice(seconds=0.9, low=100):
    time = np.arange(round(seconds * 24000)) / 24000
    return (0.3 * np.sin(2 * np.pi * low * time * (1 + time))).astype(np.float32)


def test_masked_speech_lasts_as_long_as_the_prompt_says_and_depends_on_its_place_alone(place):
    model = jaxtok.load(place / "mgm")
    told = dict(prompt=_voice(), prompt_text="123456789", rng=3)
    whole = model.sample(["says it", "another text"], **told)  # 0.9 s of 9 letters: 0.1 s a letter
    assert [len(wave) for wave in whole] == [int(0.7 * 6.25) * UNIT, int(1.2 * 6.25) * UNIT]
    assert all(wave.dtype == np.float32 and np.isfinite(wave).all() for wave in whole)
    alone = model.sample("says it", **told)
    np.testing.assert_allclose(alone, whole[0], atol=1e-4)
    codes, said = model.sample_codes(["a", "b"], prompt=[5, 6, 7], prompt_text="c", counts=[4, 3])
    assert said.sum(1).tolist() == [4, 3] and codes.min() >= 0 and codes.max() < 16384
    for other in (dict(rng=jax.random.key(4)), dict(prompt=[5, 6, 8]), dict(prompt_text="d"), dict(guidance=1.0)):
        options = dict(prompt=[5, 6, 7], prompt_text="c", counts=[4, 3]) | other
        assert (model.sample_codes(["a", "b"], **options)[0] != codes).any()
    assert len(model.sample("good", seconds=0.5)) == 3 * UNIT
    assert len(model.sample("e", prompt=_voice(), prompt_text="a far longer text than e")) == UNIT  # at least one


def test_speech_one_after_another_ends_by_itself(place):
    model = jaxtok.load(place / "ar")
    codes, said = model.sample_codes(["good morning", "b"], least=2, most=5)
    assert codes.shape == (2, 5) and (said.sum(1) >= 2).all()
    again, _ = model.sample_codes(["good morning"], least=2, most=5)
    np.testing.assert_array_equal(again[0], codes[0])
    wave = model.sample("good morning", prompt=_voice(), prompt_text="its words")
    assert len(wave) % UNIT == 0 and 2 <= len(wave) // UNIT <= 5


def test_the_command_writes_a_wav_and_takes_hyphens(place, tmp_path, capsys):
    said = ["--text", "says it", "--prompt", f"{place}/voice.wav", "--prompt-text", "123456789", "--seed=3"]
    out = f"{tmp_path}/out.wav"
    assert cli.main(["sample", "--model", f"{place}/mgm", *said, "--decoder-steps", "1", "--output", out]) == 0
    assert f"0.64 s of speech -> {out}" in capsys.readouterr().out
    wave, rate = soundfile.read(out, dtype="float32")
    voice = soundfile.read(place / "voice.wav", dtype="float32")[0]
    expected = jaxtok.load(place / "mgm").sample("says it", prompt=voice, prompt_text="123456789", rng=3)
    assert rate == 24000
    np.testing.assert_allclose(wave, expected / max(1.0, np.abs(expected).max()), atol=2e-3)


VOICE = " --prompt {0}/voice.wav --prompt-text abcd"
BAD = {
    "prompt without its text": ("mgm --text a --prompt {0}/voice.wav", "prompt_text: expected what the prompt says"),
    "text of no prompt": ("mgm --text a --prompt-text b", "prompt_text: given without a prompt"),
    "no text": ("mgm", "--text: expected one text to be spoken, found 0"),
    "an empty text": ("mgm --text= --seconds 1", "text: expected what is to be said, found"),
    "two texts": ("mgm --text a --text b", "--text: expected one text to be spoken, found 2"),
    "unknown length": ("mgm --text a", "seconds: without a prompt expected how long"),
    "a length for what ends by itself": ("ar --text a --seconds 1", "seconds 1: this generator ends by itself"),
    "steps for what has none": ("ar --text a --steps 3", "steps: this generator has no such setting; it has temper"),
    "text too long": ("mgm --seconds 1 --text " + 65 * "a", "text: has 65 ids, expected at most 64"),
    "texts too long": ("ar --text " + 60 * "a" + VOICE, "text: has 65 ids with the prompt's, expected at most 64"),
    "speech too long": ("mgm --text a --seconds 3", "18 tokens beside the prompt's 0 are more than the 16"),
    "an endless length": ("mgm --text a --seconds inf", "seconds: expected from 0 to an hour, found inf"),
    "no steps of the decoder": ("mgm --text a --seconds 1 --decoder-steps 0", "steps must be at least 1, found 0"),
    "no voice": ("mgm --text a --prompt {0}/absent.wav --prompt-text b", "absent.wav: no such file"),
    "a class": ("mgm --text a --class 3", "--class: given for a generator of speech"),
    "samples": ("mgm --text a --count 3", "--count: given for a generator of speech"),
    "another file": ("mgm --text a --output a.png", "--output: expected a .wav file, found 'a.png'"),
    "a prompt for images": ("images --prompt {0}/voice.wav", "--prompt: given for a generator of images"),
    "seconds for images": ("images --seconds 3", "--seconds: given for a generator of images"),
    "text for images": ("images --text a", "--text: this generator reads no text"),
    "a tokenizer": ("tokenizer --text a", "is a SpeechModel, expected a generator"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name, place, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, sentence = BAD[name]
    assert cli.main(["sample", "--model", *f"{place}/{command}".format(place).split()]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1, said
    assert not list(tmp_path.iterdir())


def test_prompts_that_cannot_be_followed_are_refused(place):
    model = jaxtok.load(place / "mgm")
    with pytest.raises(ValueError, match=r"prompt: lasts 0.042 s, expected at least one token, 0.16 s"):
        model.sample("a", prompt=np.zeros(1000, np.float32), prompt_text="b")
    with pytest.raises(ValueError, match="the prompt's 15 are more than the 16"):
        model.sample("a", prompt=np.zeros(15 * UNIT, np.float32), prompt_text="b", seconds=1.0)
    silent = dataclasses.replace(model, decoder=None)
    assert silent.sample_codes(["a"], counts=[2])[0].shape == (1, 16)
    with pytest.raises(ValueError, match="codes of no tokenizer"):
        silent.sample("a", seconds=1.0)


def test_the_tokenizer_must_be_one_of_speech_with_the_same_codebook(place):
    config = _config("tadicodec_mgm", str(place / "mgm"))
    with pytest.raises(ValueError, match="expected a tokenizer of speech, found a SpeechGenerator"):
        speech_generator.assemble(config, {})
    config = _config("tadicodec_mgm", str(place / "tokenizer"))
    config["model"]["codes"] = 100
    with pytest.raises(ValueError, match="expected one codebook of 100 codes, found 1 of 16384 codes"):
        speech_generator.assemble(config, {})


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder of twelve utterances of two speakers."""
    folder = tmp_path_factory.mktemp("recordings")
    lines = ["file\ttext\tspeaker\tsplit"]
    for n in range(12):
        soundfile.write(folder / f"{n:02d}.wav", _voice(0.5 + 0.07 * n, 80 + 25 * n), 24000)
        lines.append(f"{n:02d}.wav\ttone {n}\ts{n % 2}\t{('train', 'train', 'validation', 'test')[n % 4]}")
    (folder / "all.tsv").write_text("\n".join(lines) + "\n")
    return f"folder:{folder}"


def test_tokens_made_on_the_fly_are_those_that_are_stored(place, recordings, tmp_path):
    done = encode_dataset(place / "tokenizer", recordings, tmp_path / "tokens", shards=2)
    assert "12 utterances as tokens of 16384 codes, 2 shards" in str(done)
    report = check(f"tokens:{tmp_path / 'tokens'}")
    assert report.bad == 0 and "12 token sequences, 0 bad (3 of 4x1" in str(report)
    config = _config("tadicodec_mgm", str(place / "tokenizer"))
    config["data"] |= dict(source=recordings)
    mark = dict(target="jaxtok.fingerprint:of_run", run=str(place / "tokenizer"))
    examples = config["data"]["examples"] | dict(
        target="jaxtok.data.token_sequences:TokenSequences", codebook=16384, fingerprint=mark
    )
    stored = config["data"] | dict(source=f"tokens:{tmp_path / 'tokens'}", examples=examples)
    made, kept = (
        next(iter(pipeline.evaluation(data, split="train", batch_size=8))) for data in (config["data"], stored)
    )
    model = jaxtok.load(place / "tokenizer")
    made = jax.jit(lambda batch: model.tokenize(model.variables, batch))(made)
    assert set(made) == set(kept) and kept["codes"].shape == (8, 10, 1) and kept["example_mask"].sum() == 6
    for name in ("text_ids", "text_mask", "index", "example_mask"):
        np.testing.assert_array_equal(made[name], kept[name])
    real = kept["example_mask"][:, None] & kept["codes_mask"]
    np.testing.assert_array_equal(made["codes_mask"][:6], kept["codes_mask"][:6])
    np.testing.assert_array_equal(made["codes"][real], kept["codes"][real])
    assert len(np.unique(kept["codes"][real])) > 5
    shutil.copytree(place / "tokenizer", tmp_path / "another")
    weights = scattered(load_file(place / "tokenizer" / "weights.safetensors"))
    save_file(weights, tmp_path / "another" / "weights.safetensors")
    for run, said in (("mgm", "is a SpeechGenerator, expected a tokenizer"), ("another", "made by another tokenizer")):
        examples["fingerprint"]["run"] = str((tmp_path if run == "another" else place) / run)
        with pytest.raises(ValueError, match=said):
            pipeline.training(stored, batch_size=2, seed=0)
    for changes, said in (
        (dict(codebook=8), "the source holds tokens of 16384"),
        (dict(multiple=1920), "3840 samples"),
    ):
        wrong = stored | dict(examples=examples | dict(fingerprint="") | changes)
        with pytest.raises(ValueError, match=said):
            pipeline.training(wrong, batch_size=2, seed=0)
    with pytest.raises(ValueError, match="flip: given for a tokenizer of speech"):
        encode_dataset(place / "tokenizer", recordings, tmp_path / "more", flip=True)


def test_a_run_trains_on_the_fly_reports_and_keeps_to_its_tokenizer(place, recordings, tmp_path):
    shutil.copytree(place / "tokenizer", tmp_path / "tokenizer")
    config = _config("tadicodec_mgm", str(tmp_path / "tokenizer"))
    config["data"] |= dict(source=recordings, evaluation=dict(languages=(), words=1, seconds=0.0))
    config["train"] |= dict(steps=2, batch_size=4, evaluate_every=0, mesh=dict(data=1, fsdp=1, tensor=1))
    result = train(config, tmp_path / "run")
    assert np.isfinite(result.metrics["loss"]) and result.step == 2
    saved = jaxtok.model.recipes.of_run(tmp_path / "run")
    speech_generator_evaluation.write(result, saved, tmp_path / "run", utterances=3, batches=1, shown=1)
    text = (tmp_path / "run" / "report.md").read_text()
    assert "a held-out code costs" in text.splitlines()[0] and "| nothing | 9.704 | | 0.0% |" in text
    for name in ("sound/00-spoken.wav", "sound/00-prompt.wav", "pictures/00.png", "report.json"):
        assert (tmp_path / "run" / name).exists()
    assert len(jaxtok.load(tmp_path / "run").sample("a", seconds=0.5)) == 3 * UNIT
    weights = load_file(tmp_path / "tokenizer" / "weights.safetensors")
    save_file(scattered(weights), tmp_path / "tokenizer" / "weights.safetensors")
    with pytest.raises(ValueError, match="the frozen weights 'tokenizer.* are not those that it learned with"):
        jaxtok.load(tmp_path / "run")


def test_the_verdict_wants_the_right_text_to_help():
    nats = dict(right=[1.0, 2.0], shuffled=[2.0, 3.0], frequency=2.0)
    assert speech_generator_evaluation.verdict(nats) == (
        True, "Holds: a held-out code costs 1.50 nats with its text, 2.50 with another's, 2.00 by its frequency alone.",
    )  # fmt: skip
    for name in ("shuffled", "frequency"):
        assert not speech_generator_evaluation.verdict(nats | {name: 1.4})[0]
