"""A trained vocoder alone, on the command line, and behind a speech tokenizer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import jaxtok
from jaxtok import cli
from jaxtok import model as model_lib
from jaxtok.build import build
from jaxtok.models.vocoder import VocoderModel, vocode
from jaxtok.signal.griffin_lim import GriffinLim
from jaxtok.signal.log_mel import LogMel
from jaxtok.tokenizers.diffusion import FlowSampler

HOP = 480
FRONTEND = dict(target="jaxtok.signal.mel:MelFrontEnd")


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a saved vocoder of drawn weights, as a run's parameters are, and a recording."""
    folder = tmp_path_factory.mktemp("vocoder")
    vocos = dict(target="jaxtok.nn.vocos:Vocos", bands=128, width=8, hidden=12, depth=2, n_fft=1920, hop=HOP)
    config = dict(
        slug="vocos", model=vocos, task=dict(frontend=FRONTEND), interface=dict(ref="jaxtok.models.vocoder:assemble")
    )
    shapes = jax.eval_shape(build(vocos).init, jax.random.key(0), jnp.zeros((1, 4, 128)))["params"]
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda s: (rng.standard_normal(s.shape) * 0.3).astype(s.dtype), shapes)
    model_lib.save(folder / "vocoder", config, {"generator": drawn, "discriminator": {}})
    soundfile.write(folder / "noise.wav", noise(16000), 16000)
    return folder


@pytest.fixture(scope="module")
def vocoder(place):
    return jaxtok.load(place / "vocoder")


def test_a_recording_goes_through_its_mel_and_back_in_whole_frames(vocoder):
    wave = noise(24000 + 300)
    found = vocoder.reconstruct(wave)
    assert found.dtype == np.float32 and found.shape == (24000,) and vocoder.rate == 24000
    np.testing.assert_allclose(found, vocoder(vocoder.frontend(wave[None, :24000]))[0], atol=1e-4)
    assert vocoder.reconstruct(noise(16000), rate=16000).shape == (24000,)


def test_windows_of_a_long_recording_leave_no_seam(vocoder):
    wave = noise(1600 * HOP)  # two windows
    whole = vocoder(vocoder.frontend(wave[None]))[0]
    np.testing.assert_allclose(vocoder.reconstruct(wave), whole, atol=2e-4 * float(jnp.abs(whole).max()))


def test_a_long_mel_is_vocoded_in_windows_without_seam(vocoder):
    mel = vocoder.frontend(noise(1600 * HOP)[None])
    mask = jnp.arange(1600) < 1500
    whole = vocoder(mel, mask=mask[None])
    scale = float(jnp.abs(whole).max())
    np.testing.assert_allclose(vocode(vocoder, mel, mask[None]), whole, atol=2e-4 * scale)


def test_griffin_lim_does_not_click_where_windows_meet():
    """A tone whose phases differ from window to window, since the second begins 578 frames later, no multiple of 4."""
    tone = 0.3 * np.sin(2 * np.pi * 203.7 / 24000 * np.arange(1602 * HOP)).astype(np.float32)
    found = jaxtok.load("griffin-lim").replace(module=GriffinLim(iterations=16, updates=8)).reconstruct(tone)
    jumps = np.abs(np.diff(found, 2))
    seam = (1024 - 128) * HOP
    inside = slice(seam - 8 * HOP, seam + 8 * HOP)
    assert jumps[inside].max() < 1.5 * jumps[200 * HOP : 800 * HOP].max()


def test_frames_on_the_edges_of_their_hops_are_those_of_the_article(vocoder):
    """vocos-mel-24khz: L samples have L // hop + 1 frames, and come back in whole hops."""
    module = dataclasses.replace(vocoder.module, bands=100, n_fft=1024, hop=256, padding="center")
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 4, 100)))["params"]
    params = jax.tree.map(lambda s: 0.1 * np.cos(np.arange(s.size, dtype=s.dtype)).reshape(s.shape), shapes)
    centered = VocoderModel(params, module, LogMel(padding="center"))
    wave = noise(40 * 256)
    found = centered.reconstruct(wave)
    assert found.shape == (40 * 256,)
    np.testing.assert_allclose(found, centered(centered.frontend(wave[None]))[0], atol=1e-4)


def test_griffin_lim_is_a_vocoder_without_weights():
    wave, vocoder = noise(12000), jaxtok.load("griffin-lim")
    assert jax.tree.leaves(vocoder) == [] and vocoder.module == GriffinLim()
    short = GriffinLim(iterations=2)  # rounding grows with every iteration
    found = vocoder.replace(module=short).reconstruct(wave)
    np.testing.assert_allclose(found, short(vocoder.frontend(wave[None]))[0], atol=1e-3)


@pytest.mark.parametrize(
    ("wave", "rate", "said"),
    [
        (noise(1900), 0, r"expected more than 0.080 s, found 0.079 s"),
        (np.zeros(0, np.float32), 0, "found no samples"),
        (noise(4000), -1, "rate: expected a positive number"),
    ],
)
def test_bad_audio(vocoder, wave, rate, said):
    with pytest.raises(ValueError, match=said):
        vocoder.reconstruct(wave, rate=rate)


def test_the_command_reconstructs_and_says_that_there_are_no_tokens(place, capsys):
    flags = ["--model", str(place / "vocoder"), "--input", str(place / "noise.wav"), "--output", str(place / "out")]
    assert cli.main(["reconstruct", *flags]) == 0
    again, rate = soundfile.read(place / "out" / "noise.wav")
    assert rate == 24000 and again.shape == (24000,)
    for command in ("encode", "decode"):
        assert cli.main([command, *flags]) == 2
        assert "is a vocoder, which has no tokens" in capsys.readouterr().err


def test_behind_a_speech_tokenizer_the_vocoder_makes_its_audio(place, vocoder):
    config = jaxtok.get_config("tadicodec:tiny").copy_and_resolve_references().to_dict()
    module = build(config["model"])
    blank = jnp.zeros((1, 16, 128)), jnp.ones(1)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *blank, cond={"text_ids": jnp.zeros((1, 4), int)}))
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, 0.01, leaf.dtype), shapes["params"])
    config["vocoder"] = dict(target="jaxtok.model:load", name=str(place / "vocoder"))
    speech = model_lib.assemble(config, params)
    settings = dict(rng=jax.random.key(1), steps=2, guidance=1.0)
    tokens = speech.encode(noise(8 * HOP * 6))
    audio = speech.decode(tokens, **settings)
    assert audio.shape == (8 * HOP * 6,)
    mel, mask = speech.decode_mel(tokens, rng=settings["rng"], sampler=FlowSampler(steps=2, guidance=1.0))
    np.testing.assert_allclose(audio, vocoder(mel, mask=mask)[0], atol=1e-4)
    config["frontend"] = dict(FRONTEND, mean=0.0)
    with pytest.raises(ValueError, match="vocoder: expected one of MelFrontEnd"):
        model_lib.assemble(config, params)
