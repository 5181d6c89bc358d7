"""The user's face: raw audio in, tokens out, raw audio back."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtok
from jaxtok import model as model_lib
from jaxtok.signal import windows
from jaxtok.tokenizers.diffusion import FlowSampler

UNIT = 8 * 480


@pytest.fixture(scope="module")
def model():
    config = jaxtok.get_config("tadicodec:tiny").copy_and_resolve_references().to_dict()
    config["vocoder"]["iterations"] = 2
    module = jaxtok.build(config["model"])
    cond = {"text_ids": jnp.zeros((1, 4), jnp.int32)}
    params = jax.jit(lambda: module.init(jax.random.key(0), jnp.zeros((1, 16, 128)), jnp.ones(1), cond=cond))()[
        "params"
    ]
    # random weights everywhere, so that tokens and text matter
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = tree.unflatten([leaf + 0.2 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)])
    return model_lib.assemble(config, params)


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def test_lengths_rates_and_bits(model):
    assert model.token_rate == 6.25 and model.bitrate == 87.5
    tokens = model.encode(noise(10000))
    assert tokens.codes.shape == (1, 3, 1) and tokens.codes.dtype == jnp.int32 and tokens.single
    assert model.encode(noise(16000), rate=16000).samples[0] == 24000
    audio = model.decode(tokens, rng=jax.random.key(0), steps=2)
    assert audio.shape == (10000,) and audio.dtype == np.float32 and np.isfinite(audio).all()


def test_tokens_are_the_same_alone_and_in_a_list(model):
    waves = [noise(n, n) for n in (5000, 30000, UNIT, 61440)]
    together = model.encode(waves)
    assert together.codes.shape == (4, 16, 1)
    for row, wave in enumerate(waves):
        alone = model.encode(wave)
        count = alone.codes.shape[1]
        np.testing.assert_array_equal(together.codes[row, :count], alone.codes[0])
        assert int(together.mask[row].sum()) == count


def test_samples_are_the_same_alone_and_in_a_list(model):
    waves = [noise(9000, 1), noise(30000, 2)]
    settings = dict(rng=jax.random.key(3), steps=3)
    mels, mask = model.decode_mel(model.encode(waves, text=["one", "twenty two"]), rng=settings["rng"])
    alone, _ = model.decode_mel(model.encode(waves[0], text="one"), rng=settings["rng"])
    np.testing.assert_allclose(mels[0, :24], alone[0], atol=1e-4)
    assert int(mask[0].sum()) == 24 and int(mask[1].sum()) == 64
    different, _ = model.decode_mel(model.encode(waves[0], text="two"), rng=settings["rng"])
    assert float(jnp.abs(different - alone).max()) > 1e-3


def test_long_recordings_are_encoded_in_windows(model):
    wave = noise(24000 * 8)  # 400 frames; the window holds 128 and sees 16 on each side
    assert (model.window, model.context) == (128, 16)
    tokens = model.encode(wave)
    assert tokens.codes.shape == (1, 50, 1)
    spans = windows.overlapping(400, 128, 16)
    assert [span[2:] for span in spans] == [(0, 112), (112, 208), (208, 304), (304, 400)]
    mel = model._mel(wave)
    whole = dataclasses.replace(model, window=400)._mel(wave)
    np.testing.assert_allclose(mel, whole, atol=1e-4)  # seams of the spectrogram do not exist
    low, high, start, end = spans[1]
    inside = model._encode([mel[low:high]])[0]
    np.testing.assert_array_equal(tokens.codes[0, start // 8 : end // 8], inside[(start - low) // 8 : (end - low) // 8])
    with pytest.raises(ValueError, match=r"8.0 s with the prompt, at most 2.6 s .* or leave the text out"):
        model.decode(tokens, rng=jax.random.key(0), text="long")
    parts = [(model.encode(wave[:40000]), "a"), (model.encode(wave[40000:90000]), "b")]
    assert model.decode_segments(parts, rng=jax.random.key(0), steps=1).shape == (90000,)


def test_long_recordings_are_decoded_in_pieces_that_continue_each_other(model):
    waves, key, sampler = [noise(24000 * 4, 1), noise(9000, 2)], jax.random.key(3), FlowSampler(2)
    tokens = model.encode(waves)  # 200 frames and 24; a piece holds 128, the next is given 16 of them
    mel, mask = model.decode_mel(tokens, rng=key, sampler=sampler)
    assert mel.shape == (2, 200, 128) and mask.sum(1).tolist() == [200, 24] and not mel[1, 24:].any()
    short, _ = model.decode_mel(model.encode(waves[1]), rng=key, sampler=sampler)
    np.testing.assert_allclose(mel[1, :24], short[0], atol=1e-4)
    codes = np.asarray(tokens.codes)[:1]
    first, _ = model.decode_mel(model.tokens(codes[0, :16]), rng=key, sampler=sampler)
    np.testing.assert_allclose(mel[0, :128], first[0], atol=1e-4)
    piece = dict(mask=np.ones((1, 11), bool), keys=jax.random.fold_in(key, 1)[None], texts=None, sampler=sampler)
    second = model._piece(codes[:, 14:], before=np.asarray(first[:, 112:]), **piece)
    np.testing.assert_allclose(mel[0, 128:], second[0, 16:], atol=1e-4)
    fresh = model._piece(codes[:, 14:], before=np.zeros((1, 0, 128), np.float32), **piece)
    assert float(jnp.abs(fresh[0, 16:] - second[0, 16:]).max()) > 1e-3  # what came before is heard
    assert model.decode(tokens, rng=key, steps=1)[0].shape == (96000,)
    with pytest.raises(ValueError, match=r"prompt: lasts 2.56 s, expected below 2.56"):
        model.decode(tokens, rng=key, prompt=noise(65000))


def test_prompt_is_not_part_of_the_output(model):
    prompt, wave = noise(12000, 5), noise(20000, 6)
    tokens = model.encode(wave, text="spoken")
    mel, mask = model.decode_mel(tokens, rng=jax.random.key(0), prompt=prompt, prompt_text="before")
    assert mel.shape == (1, 48, 128) and bool(mask.all())
    without, _ = model.decode_mel(tokens, rng=jax.random.key(0))
    assert float(jnp.abs(mel - without).max()) > 1e-3


def test_lead_is_given_and_left_out(model):
    wave = noise(24000)
    tokens = model.encode(wave, text="spoken")
    audio = model.decode(tokens, rng=jax.random.key(0), prompt=wave, lead=0.5, steps=1)
    assert audio.shape == (24000 - 3 * UNIT,)  # 0.5 s hold 3 whole tokens
    with pytest.raises(ValueError, match="lead of 2 s"):
        model.decode(tokens, rng=jax.random.key(0), prompt=wave, lead=2.0)


def test_stored_codes_decode_like_fresh_ones(model):
    tokens = model.encode(noise(9000))
    stored = model.tokens(np.asarray(tokens.codes[0]), samples=9000)
    np.testing.assert_allclose(stored.latents, tokens.latents)
    a, b = (model.decode(t, rng=jax.random.key(0), steps=1) for t in (tokens, stored))
    np.testing.assert_array_equal(a, b)


def test_saved_weights_load(model, tmp_path):
    config = jaxtok.get_config("tadicodec:tiny").to_dict()
    model_lib.save(tmp_path / "m", config, model.params)
    loaded = jaxtok.load(tmp_path / "m")
    assert loaded.module == model.module
    np.testing.assert_array_equal(loaded.encode(noise(9000)).codes, model.encode(noise(9000)).codes)
    with pytest.raises(ValueError, match="already holds a model"):
        model_lib.save(tmp_path / "m", config, model.params)


@pytest.mark.parametrize(
    "audio, settings, message",
    [
        (np.zeros(0, np.float32), {}, "found no samples"),
        (np.array([0.0, np.nan], np.float32), {}, "NaN or Inf"),
        (np.zeros((2, 100), np.float32), {}, "expected mono audio"),
        (np.array(["a"]), {}, "expected floating-point"),
        ([], {}, "found an empty list"),
        (np.zeros(100, np.float32), {"rate": -1}, "rate must be positive"),
        ([np.zeros(100, np.float32)], {"text": ["a", "b"]}, "expected 1 transcripts"),
    ],
)
def test_bad_audio_is_refused_in_one_sentence(model, audio, settings, message):
    with pytest.raises(ValueError, match=message):
        model.encode(audio, **settings)


def test_bad_codes_and_settings_are_refused(model):
    tokens = model.encode(noise(4000))
    with pytest.raises(ValueError, match="values from 0 to 16383, found 16384"):
        model.tokens(np.array([[16384]]))
    with pytest.raises(ValueError, match=r"expected \[tokens, 1\]"):
        model.tokens(np.array([1, 2]))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        model.decode(tokens, rng=jax.random.key(0), steps=0)
    with pytest.raises(ValueError, match="expected 1 transcripts"):
        model.decode(tokens, rng=jax.random.key(0), text=["a", "b"])
    with pytest.raises(ValueError, match="no run there"):
        jaxtok.load("/nonexistent/run")
