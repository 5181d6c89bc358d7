"""The user's face of a waveform tokenizer: audio in, tokens out, audio back, from Python and from the command line."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import soundfile

import jaxtok
from jaxtok import cli
from jaxtok import model as model_lib
from jaxtok.build import build
from jaxtok.models import audio as audio_model
from jaxtok.models import audio_rows, audio_stream

HOP = 600
SLUGS = ("wavtokenizer", "sq_codec", "ezaudio")  # one codebook, four codes of a grid (two in tiny), no codes


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def drawn(module):
    shapes, rng = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, module.hop))), np.random.default_rng(0)
    return jax.tree.map(lambda s: (rng.standard_normal(s.shape) * 0.4).astype(s.dtype), shapes)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with saved models of drawn weights, as a run's parameters are, and a recording."""
    folder = tmp_path_factory.mktemp("audio")
    for slug in SLUGS:
        config = jaxtok.get_config(f"{slug}:tiny").copy_and_resolve_references().to_dict()
        variables = drawn(build(config["model"]))
        state = {"codebook": variables["codebook"], "hits": np.zeros(8)} if "codebook" in variables else {}
        model_lib.save(folder / slug, config, {"generator": variables["params"]}, state)
    soundfile.write(folder / "noise.wav", noise(5000), 16000)
    return folder


@pytest.fixture(scope="module")
def model(place):
    return jaxtok.load(place / "wavtokenizer")


@pytest.fixture(scope="module")
def vae(place):
    return jaxtok.load(place / "ezaudio")


@pytest.fixture(scope="module")
def causal():
    """A causal codec of one small stage."""
    sizes = dict(latent=4, width=2, strides=(4,))
    module = build(dict(
        target="jaxtok.papers.sq_codec:SQCodec",
        encoder=dict(target="jaxtok.nn.sq_codec:Encoder", **sizes),
        quantizer=dict(target="jaxtok.papers.sq_codec:Bounded", width=4, steps=1, word=2),
        decoder=dict(target="jaxtok.nn.sq_codec:Decoder", **sizes),
    ))  # fmt: skip
    return audio_model.AudioModel(drawn(module), module, 16000)


def test_lengths_rates_and_bits(model):
    assert (model.rate, model.hop, model.token_rate, model.bitrate) == (24000, HOP, 40.0, 120.0)
    tokens = model.encode(noise(2401))
    assert tokens.codes.shape == (1, 5, 1) and tokens.codes.dtype == jnp.int32 and tokens.single
    audio = model.decode(tokens)
    assert audio.shape == (2401,) and audio.dtype == np.float32 and np.isfinite(audio).all()
    assert model.encode(noise(1600), rate=16000).samples[0] == 2400


def test_a_recording_is_the_same_alone_and_in_a_list(model):
    waves = [noise(n, n) for n in (4000, 2401, 1)]
    together = model.encode(waves)
    assert together.codes.shape == (3, 7, 1) and [wave.shape for wave in model.decode(together)] == [
        (4000,),
        (2401,),
        (1,),
    ]
    alone = model.encode(waves[1])
    np.testing.assert_array_equal(together.codes[1, :5], alone.codes[0])
    np.testing.assert_array_equal(together.mask[1], np.arange(7) < 5)
    np.testing.assert_allclose(model.decode(together)[1], model.decode(alone), atol=1e-4)
    stored = model.tokens(np.asarray(alone.codes[0]), samples=2401)
    np.testing.assert_array_equal(model.decode(stored), model.decode(alone))


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda m: m.encode(np.zeros((2, 100), np.float32)), "recording 0: expected mono audio"),
        (lambda m: m.encode([]), "expected at least one recording"),
        (lambda m: m.encode(noise(100), rate=-1), "rate: expected a positive number"),
        (lambda m: m.tokens(np.zeros((3, 2), int)), r"codes: expected \[tokens, 1\], found shape \(3, 2\)"),
        (lambda m: m.tokens(np.full((3, 1), 8)), "codes: expected integers from 0 to 7"),
        (lambda m: m.tokens(np.zeros((3, 1), int), samples=1801), "samples: expected at most 1800"),
    ],
)
def test_wrong_input_is_refused(model, run, said):
    with pytest.raises(ValueError, match=said):
        run(model)


def test_a_moving_codebook_is_not_forgotten(model):
    config = jaxtok.get_config("wavtokenizer:tiny")
    with pytest.raises(ValueError, match="the model keeps a codebook in the run's state, found none"):
        audio_model.assemble(config, model.variables["params"])


def test_a_continuous_model_has_latents_and_no_bits(vae):
    assert (vae.discrete, vae.streams, vae.hop, vae.token_rate) == (False, False, 480, 50.0)
    waves = [noise(n, n) for n in (960, 481)]
    tokens = vae.encode(waves)
    assert tokens.codes is None and tokens.latents.shape == (2, 2, 4) and tokens.mask.all()
    np.testing.assert_array_equal(tokens.latents, vae.encode(waves).latents)  # means: nothing is drawn
    np.testing.assert_allclose(vae.encode(waves[1]).latents[0], tokens.latents[1], atol=1e-5)
    long, short = vae.decode(tokens)
    assert long.shape == (960,) and short.shape == (481,)
    stored = vae.latents(np.asarray(tokens.latents[1]), samples=481)
    np.testing.assert_allclose(vae.decode(stored), short, atol=1e-5)
    for run, said in (
        (lambda: vae.bitrate, "bitrate: this model's tokens are continuous"),
        (lambda: vae.tokens(np.zeros((3, 1), int)), "codes: this model's tokens are continuous"),
        (lambda: vae.latents(np.zeros((3, 5))), r"latents: expected \[tokens, 4\], found shape \(3, 5\)"),
        (lambda: vae.latents(np.full((3, 4), np.nan)), "latents: expected finite floating-point numbers"),
        (lambda: vae.stream_encode(noise(480)), "stream: expected a causal model"),
        (lambda: vae.stream_decode(tokens), "stream: expected a causal model"),
    ):
        with pytest.raises(ValueError, match=said):
            run()


def test_windows_of_a_long_recording_change_nothing_that_their_context_holds(vae):
    """Convolutions see 3 tokens on each side; a window that shows them gives what the whole gives."""
    wave, whole = noise(480 * 70 - 100), dataclasses.replace(vae, window=0)
    tokens = whole.encode([wave, wave[:1000]])
    sound = whole.decode(tokens)
    cut = dataclasses.replace(vae, window=20, context=4)
    windowed = cut.encode([wave, wave[:1000]])
    np.testing.assert_allclose(windowed.latents, tokens.latents, atol=1e-5)
    np.testing.assert_array_equal(windowed.samples, tokens.samples)
    for found, expected in zip(cut.decode(tokens), sound):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    blind = dataclasses.replace(vae, window=20, context=0)
    assert np.abs(blind.encode(wave).latents[0, :70] - tokens.latents[0, :70]).max() > 1e-3
    assert np.abs(blind.decode(tokens)[0] - sound[0]).max() > 1e-3


def test_a_recording_that_fits_its_window_is_coded_whole(model):
    """Attention and the recurrent layers see all of it; the lengths of a longer one are kept, its beginning nearly."""
    assert (model.window, model.context) == (2400, 200)  # a minute, and 5 s
    wave, cut = noise(HOP * 40 - 7), dataclasses.replace(model, window=16, context=4)
    tokens = model.encode(wave)
    np.testing.assert_array_equal(dataclasses.replace(model, window=40, context=4).encode(wave).codes, tokens.codes)
    found = cut.encode(wave)
    assert found.codes.shape == tokens.codes.shape and cut.decode(tokens).shape == wave.shape
    assert (found.codes != tokens.codes).mean() < 0.5 and (cut.decode(tokens) != model.decode(tokens)).any()


def test_few_rows_go_together_where_they_are_long(monkeypatch):
    monkeypatch.setattr(audio_rows, "SAMPLES", 100)
    counts = {0: 3, 1: 60, 2: 20, 3: 4, 4: 5}
    groups = audio_rows._groups(counts, lambda count: count)
    assert groups == [[0, 3, 4, 2], [1]]


def test_latents_of_a_scalar_codec_are_rounded_where_they_are_decoded(causal):
    tokens = causal.encode(noise(64))
    assert tokens.codes.shape == (1, 8, 2) and causal.bitrate == pytest.approx(2000 * 2 * np.log2(9))
    stored = causal.tokens(np.asarray(tokens.codes[0]))
    assert np.abs(tokens.latents - stored.latents).max() > 0.01
    made = causal.latents(np.asarray(tokens.latents[0]))
    assert made.codes is None
    for other in (stored, made):
        np.testing.assert_array_equal(causal.decode(other), causal.decode(tokens))


def test_a_stream_gives_what_the_whole_gives(causal):
    wave = noise(203)
    tokens = causal.encode(wave)
    codes, sound, state, heard = [], [], None, None
    # Less than a hop, nothing, and many hops at once.
    for begin, end in ((0, 3), (3, 3), (3, 67), (67, 131), (131, 195), (195, 203)):
        part, state = causal.stream_encode(wave[begin:end], state, last=end == 203)
        audio, heard = causal.stream_decode(part, heard, last=end == 203)
        codes.append(part.codes[0])
        sound.append(audio)
    assert [len(part) for part in codes] == [0, 0, 8, 8, 8, 2] and state.samples == 203
    np.testing.assert_array_equal(np.concatenate(codes), tokens.codes[0])
    together = np.concatenate(sound)
    assert together.shape == (26 * causal.hop,) and len(sound[2]) < len(sound[3]) == 64  # two frames are waited for
    np.testing.assert_allclose(together[:203], causal.decode(tokens), atol=1e-5)
    with pytest.raises(ValueError, match="the stream ended, expected at least one sample"):
        causal.stream_encode(wave[:0], last=True)
    with pytest.raises(ValueError, match="a stream expected those of one recording, found 2"):
        causal.stream_decode(causal.encode([wave, wave]))
    with pytest.raises(ValueError, match="audio: expected mono audio"):
        causal.stream_encode(np.zeros((2, 8), np.float32))


def test_long_recordings_go_through_in_parts(causal, monkeypatch):
    waves = [noise(n, n) for n in (203, 64)]
    whole = causal.encode(waves)
    sounds = causal.decode(whole)
    monkeypatch.setattr(audio_rows, "LONG", 20)
    monkeypatch.setattr(audio_stream, "SIZES", (8, 1))
    seen = []

    def watched(run):
        return lambda module, variables, x, *rest: seen.append(len(x)) or run(module, variables, x, *rest)

    for name in ("encode_part", "decode_part"):
        monkeypatch.setattr(audio_stream, name, watched(getattr(audio_stream, name)))
    parts = causal.encode(waves)
    assert seen == [64, 64, 64, 8, 3]  # 25 hops and a rest, of the longer one alone
    np.testing.assert_array_equal(parts.codes, whole.codes)
    np.testing.assert_allclose(parts.latents, whole.latents, atol=1e-5)
    for one, other in zip(causal.decode(parts), sounds):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert seen[5:] == [8, 8, 8, 1, 1, 0]


def test_the_command_line(place, capsys):
    def run(command, status=0):
        assert cli.main(command.format(place).split()) == status
        return capsys.readouterr()

    common = "--model {0}/ezaudio --input {0}/noise.wav --output {0}/"
    assert "16 latents, 0.31 s, 50 latents/s of 4 numbers" in run("reconstruct " + common + "heard").out
    assert "16 latents" in run("encode " + common + "latents").out
    kept = safetensors.numpy.load_file(place / "latents/noise.safetensors")
    assert kept["latents"].shape == (16, 4) and kept["samples"] == [7500]
    run("decode --model {0}/ezaudio --input {0}/latents/noise.safetensors --output {0}/again")
    first, second = (soundfile.read(place / folder / "noise.wav")[0] for folder in ("heard", "again"))
    np.testing.assert_array_equal(first, second)
    wrong = "decode --model {0}/wavtokenizer --input {0}/latents/noise.safetensors --output {0}/again"
    assert "holds latents, samples, expected codes and samples" in run(wrong, 2).err
    run("encode --model {0}/sq_codec --input {0}/noise.wav --output {0}/grid")
    kept = safetensors.numpy.load_file(place / "grid/noise.safetensors")
    assert kept["codes"].shape == (16, 2) and kept["codes"].max() < 19**2 and kept["samples"] == [5000]
    common = "--model {0}/wavtokenizer --input {0}/noise.wav --output {0}/"
    assert "13 tokens, 0.31 s, 120 bit/s" in run("reconstruct " + common + "out").out
    run("encode " + common + "tokens")
    run("decode --model {0}/wavtokenizer --input {0}/tokens/noise.safetensors --output {0}/again")
    first, second = (soundfile.read(place / folder / "noise.wav")[0] for folder in ("out", "again"))
    assert first.shape == (7500,)
    np.testing.assert_array_equal(first, second)
    assert "--text: given for a model of waveforms" in run("reconstruct " + common + "out --text a", 2).err
    assert "--prompt: given for a model of waveforms" in run("reconstruct " + common + "out --prompt self:1", 2).err
