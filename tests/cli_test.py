"""The command line: every kind of bad input gives one sentence and a status; the codec commands do their job."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file

import jaxtok
from jaxtok import cli
from jaxtok import model as model_lib


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny model and good and bad files; {name} in the commands below stands for its entries."""
    folder = tmp_path_factory.mktemp("cli")
    config = jaxtok.get_config("tadicodec:tiny").copy_and_resolve_references().to_dict()
    config["vocoder"]["iterations"] = 2
    module = jaxtok.build(config["model"])
    cond = {"text_ids": jnp.zeros((1, 4), jnp.int32)}
    params = jax.jit(lambda: module.init(jax.random.key(0), jnp.zeros((1, 16, 128)), jnp.ones(1), cond=cond))()
    model_lib.save(folder / "model", config, params["params"])
    tone = np.sin(np.arange(16000) * 0.1).astype(np.float32) * 0.3
    soundfile.write(folder / "tone.wav", tone, 16000)
    soundfile.write(folder / "stereo.wav", np.stack([tone, -0.5 * tone], axis=1), 16000)
    soundfile.write(folder / "eight.wav", np.repeat(np.outer(tone, np.arange(8) / 8), 12, axis=0), 192000)
    soundfile.write(folder / "one.wav", tone[1:2], 192000)
    soundfile.write(folder / "none.wav", np.zeros(0, np.float32), 16000)
    soundfile.write(folder / "nan.wav", np.full(800, np.nan, np.float32), 16000, subtype="FLOAT")
    (folder / "empty.wav").write_bytes(b"")
    (folder / "picture.wav").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (folder / "text.safetensors").write_text("not safetensors")
    save_file({"other": np.zeros(3, np.float32)}, folder / "other.safetensors")
    (folder / "broken.py").write_text("x = 1\n")
    (folder / "file").write_text("a file where a folder should be")
    return folder


CODEC = "reconstruct --model {}/model --output {}/out "
MEASURE = "evaluate --output {}/out --input {}/tone.wav --metrics stft_distance "
TRAIN = "train --workdir {}/run --config "
BAD = {
    "unknown command": ("trian", "no command named 'trian'"),
    "unknown option": (TRAIN + "tadicodec:tiny --wrkdir=x", "Unknown command line flag 'wrkdir'"),
    "no config": ("train --workdir {}/run", "--config is missing"),
    "no workdir": ("train --config tadicodec:tiny", "--workdir is missing"),
    "misspelt system": (TRAIN + "tadicodek:tiny", "did you mean tadicodec"),
    "missing config file": (TRAIN + "{}/absent.py", "absent.py' does not exist"),
    "config without get_config": (TRAIN + "{}/broken.py", "get_config"),
    "unknown variant": (TRAIN + "tadicodec:huge", "no variant 'huge'"),
    "unknown config key": (TRAIN + "tadicodec:tiny --config.train.stepz=3", "stepz"),
    "config value of another type": (TRAIN + "tadicodec:tiny --config.train.steps=many", "many"),
    "no training steps": (TRAIN + "tadicodec:tiny --config.train.steps=0", "train.steps"),
    "batch that devices cannot share": (TRAIN + "tadicodec:tiny --config.train.batch_size=7", "batch_size"),
    "mesh larger than the machine": (TRAIN + "tadicodec:tiny --config.train.mesh.fsdp=3", "8 devices"),
    "unknown data source": (TRAIN + "tadicodec:tiny --config.data.source=tape:7", "tape"),
    "unknown shipped samples": (TRAIN + "tadicodec:tiny --config.data.source=samples:speach", "speach"),
    "missing data folder": (TRAIN + "tadicodec:tiny --config.data.source=folder:{}/absent", "absent"),
    "unknown address": (TRAIN + "tadicodec:tiny --config.task.target=jaxtok.tasks.autoencode:Speech", "Speech"),
    "unwritable workdir": ("train --workdir /proc/jaxtok --config tadicodec:tiny", "/proc/jaxtok"),
    "workdir that is a file": ("train --workdir {}/file --config tadicodec:tiny", "file"),
    "accumulation with batch statistics": (TRAIN + "tadicodec:tiny --config.train.accumulate=2", "accumulat"),
    "no such model": (
        "reconstruct --model {}/absent --output {}/out --input {}/tone.wav",
        "or one of emoji-judge, griffin-lim",
    ),
    "no input": (CODEC, "expected at least one file"),
    "missing audio": (CODEC + "--input {}/absent.wav", "absent.wav: no such file"),
    "folder for audio": (CODEC + "--input {}", "is a folder"),
    "empty file": (CODEC + "--input {}/empty.wav", "the file is empty"),
    "audio without samples": (CODEC + "--input {}/none.wav", "holds no samples"),
    "NaN in audio": (CODEC + "--input {}/nan.wav", "NaN or Inf"),
    "picture called wav": (CODEC + "--input {}/picture.wav", "it is a PNG picture"),
    "zero sampling steps": (CODEC + "--input {}/tone.wav --steps 0", "steps must be at least 1, found 0"),
    "negative guidance": (CODEC + "--input {}/tone.wav --guidance -2", "guidance must not be negative"),
    "more texts than files": (CODEC + "--input {}/tone.wav --text a --text b", "expected 1 transcripts"),
    "prompt text without prompt": (CODEC + "--input {}/tone.wav --prompt_text a", "without --prompt"),
    "prompt of no length": (CODEC + "--input {}/tone.wav --prompt self:x", "expected self:SECONDS"),
    "prompt text of an own beginning": (
        CODEC + "--input {}/tone.wav --prompt self:1 --prompt_text a",
        "utterance's own",
    ),
    "own beginning of tokens": (
        "decode --model {}/model --output {}/out --input {}/other.safetensors --prompt self:1",
        "for `jaxtok reconstruct` alone",
    ),
    "swapped text without a reader": (
        MEASURE + "--model griffin-lim --swap text",
        "--swap: given without a model of speech",
    ),
    "a voice without a speaker": (MEASURE + "--model griffin-lim --prompt a.wav", "--prompt: given without a model of"),
    "no output": ("encode --model {}/model --input {}/tone.wav", "--output is missing"),
    "missing tokens": ("decode --model {}/model --output {}/out --input {}/absent.st", "no such file"),
    "tokens that are none": (
        "decode --model {}/model --output {}/out --input {}/text.safetensors",
        "not a file of tokens",
    ),
    "tokens of another kind": ("decode --model {}/model --output {}/out --input {}/other.safetensors", "holds other"),
    "missing weights": (
        "convert --family tadicodec --config tadicodec:tiny --output {}/w --weights {}/no",
        "does not exist",
    ),
    "weights that are none": (
        "convert --family tadicodec --config tadicodec:tiny --output {}/w --weights {}/text.safetensors",
        "not a safetensors file",
    ),
    "weights without a key": (
        "convert --family tadicodec --config tadicodec:tiny --output {}/w --weights {}/other.safetensors",
        "'encoder.in_linear.weight' with shape (32, 128) is missing",
    ),
    "unknown family": (
        "convert --family tadi --config tadicodec:tiny --output {}/w --weights {}/other.safetensors",
        "no converter named 'tadi'",
    ),
    "evaluating no run": ("evaluate --model {}/absent", "no run there"),
    "unknown topology": ("compile --config tadicodec:tiny --topology v9z:4x4", "v9z"),
    "no topology": ("compile --config tadicodec:tiny", "--topology is missing"),
    "mesh that does not fill the slice": ("compile --config tadicodec:tiny --topology cpu:8 --mesh data=3", "3"),
    "mesh of unknown axes": ("compile --config tadicodec:tiny --topology cpu:8 --mesh rows=8", "rows"),
    "data without words": ("data", "expected 'pack FOLDER OUT' or 'check SOURCE'"),
    "packing a missing folder": ("data pack {}/absent {}/packed", "absent"),
    "checking an unknown source": ("data check tape:7", "tape"),
}


@pytest.mark.parametrize("command, sentence", BAD.values(), ids=BAD.keys())
def test_bad_input_gives_one_sentence(command, sentence, place, capsys):
    status = cli.main([word.replace("{}", str(place)) for word in command.split()])
    err = capsys.readouterr().err.strip().splitlines()
    assert status in (1, 2)
    said = [line for line in err if line.startswith("jaxtok: ")]
    assert len(said) == 1 and err[-1] == said[0], err
    assert sentence in said[0]
    assert len(said[0]) < 400


def run(capsys, command, place):
    assert cli.main([word.replace("{}", str(place)) for word in command.split()]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_too_little_memory_is_said_in_one_sentence(place, monkeypatch, capsys):
    def full(*_):
        raise MemoryError("Unable to allocate 2.00 TiB")

    monkeypatch.setattr("jaxtok.commands.audio.reconstruct", full)
    command = f"reconstruct --model wavtokenizer-mini --input {place}/tone.wav --output {place}/out"
    assert cli.main(command.split()) == 1
    assert capsys.readouterr().err == "jaxtok: out of memory: Unable to allocate 2.00 TiB\n"


def test_evaluate_follows_the_voice_of_a_prompt(place, capsys):
    """Other numbers than without it, and the table says whose voice it is."""
    command = MEASURE.replace("tone.wav", "stereo.wav") + "--model {}/model --steps 1"
    alone = run(capsys, command, place)
    led = run(capsys, command + " --prompt {}/tone.wav --prompt-text hm", place)
    assert "the voice of tone.wav" in led and "voice" not in alone
    results = json.loads((place / "out/metrics.json").read_text())
    (scores,) = (model["scores"]["stft_distance"] for model in results["models"].values())
    assert f"{scores['mean']:.3g}" in led and f"{scores['mean']:.3g}" not in alone


def test_reconstruct_keeps_the_length_and_mixes_stereo(place, capsys):
    out = run(capsys, CODEC + "--input {}/tone.wav {}/stereo.wav --text one --text two --steps 1", place)
    assert out.count("7 tokens, 1.00 s, 87.5 bit/s") == 2
    for name in ("tone", "stereo"):
        audio, rate = soundfile.read(place / "out" / f"{name}.wav")
        assert rate == 24000 and audio.shape == (24000,)


def test_eight_channels_at_192_khz_and_a_single_sample_work(place, capsys):
    run(capsys, CODEC + "--input {}/eight.wav {}/one.wav --text one --text two --steps 1", place)
    assert soundfile.info(place / "out" / "eight.wav").frames == 24000
    assert soundfile.info(place / "out" / "one.wav").frames == 1


def test_own_beginning_as_prompt(place, capsys):
    run(capsys, CODEC + "--input {}/tone.wav --steps 1 --prompt self:0.4", place)
    assert soundfile.info(place / "out" / "tone.wav").frames == 24000 - 2 * 3840
    run(capsys, CODEC + "--input {}/tone.wav --steps 1 --prompt self:0.6", place)  # shorter than twice 0.6 s: no prompt
    assert soundfile.info(place / "out" / "tone.wav").frames == 24000


def test_encode_then_decode(place, capsys):
    run(capsys, "encode --model {}/model --input {}/tone.wav --output {}/tokens", place)
    out = run(capsys, "decode --model {}/model --input {}/tokens/tone.safetensors --output {}/decoded --steps 1", place)
    assert "7 tokens" in out
    audio, rate = soundfile.read(place / "decoded" / "tone.wav")
    assert rate == 24000 and audio.shape == (24000,)


def test_list_names_every_system(place, capsys):
    listed = run(capsys, "list", place)
    assert "tadicodec" in listed and "weights to load by name: emoji-judge, griffin-lim" in listed
    assert "| paper | config |" in run(capsys, "list --markdown", place)


def test_help_and_version(place, capsys):
    assert "usage: jaxtok COMMAND" in run(capsys, "--help", place)
    assert run(capsys, "--version", place).strip() == jaxtok.__version__


def test_evaluation_is_written(place, capsys):
    """A run of two steps, evaluated on the test split."""
    folder = place / "evaluated"
    config = "--config tadicodec:tiny --config.train.steps=2 --config.train.evaluate_every=0 --config.after=()"
    run(capsys, f"train --workdir {folder} {config}", place)
    out = run(capsys, f"evaluate --model {folder} --limit 8", place)
    numbers = json.loads((folder / "evaluation-test.json").read_text())
    assert 0.2 < numbers["flow"] < 3.0 and "flow" in out
