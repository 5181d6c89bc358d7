"""The user's face of a waveform tokenizer: audio in, tokens out, audio back, from Python and from the command line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import jaxtok
from jaxtok import audio_model, cli
from jaxtok import model as model_lib
from jaxtok.build import build

HOP = 600


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a saved model of drawn weights, as a run's parameters are, and a recording."""
    folder = tmp_path_factory.mktemp("audio")
    config = jaxtok.get_config("wavtokenizer:tiny").copy_and_resolve_references().to_dict()
    shapes = jax.eval_shape(build(config["model"]).init, jax.random.key(0), jnp.zeros((1, HOP)))
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda s: (rng.standard_normal(s.shape) * 0.4).astype(s.dtype), shapes)
    state = {"codebook": drawn["codebook"], "hits": np.zeros(8)}
    model_lib.save(folder / "model", config, {"generator": drawn["params"]}, state)
    soundfile.write(folder / "noise.wav", noise(5000), 16000)
    return folder


@pytest.fixture(scope="module")
def model(place):
    return jaxtok.load(place / "model")


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


def test_the_command_line(place, capsys):
    def run(command, status=0):
        assert cli.main(command.format(place).split()) == status
        return capsys.readouterr()

    common = "--model {0}/model --input {0}/noise.wav --output {0}/"
    assert "13 tokens, 0.31 s, 120 bit/s" in run("reconstruct " + common + "out").out
    run("encode " + common + "tokens")
    run("decode --model {0}/model --input {0}/tokens/noise.safetensors --output {0}/again")
    first, second = (soundfile.read(place / folder / "noise.wav")[0] for folder in ("out", "again"))
    assert first.shape == (7500,)
    np.testing.assert_array_equal(first, second)
    assert "--text: given for a model of waveforms" in run("reconstruct " + common + "out --text a", 2).err
    assert "--prompt: given for a model of waveforms" in run("reconstruct " + common + "out --prompt self:1", 2).err
