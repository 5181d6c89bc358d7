"""SQ-Codec: the packaged codec's sizes and rates, and what stands on which side of the rounding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtok
from jaxtok.build import build
from jaxtok.nn import sq_codec
from jaxtok.papers.sq_codec import Bounded, SQCodec

SIZES = dict(latent=4, width=2, strides=(3,), pool=2)
MODULE = SQCodec(sq_codec.Encoder(**SIZES), Bounded(width=4, steps=9, word=2), sq_codec.Decoder(**SIZES))
HOP = 6


def drawn(seed, *sizes):
    return np.random.default_rng(seed).standard_normal(sizes, dtype=np.float32)


@pytest.fixture(scope="module")
def params():
    """Drawn without compiling ``init``, of a size that lets vectors differ."""
    shapes = jax.eval_shape(MODULE.init, jax.random.key(0), jnp.zeros((1, HOP)))
    return jax.tree.map(lambda leaf: 0.4 * drawn(leaf.size, *leaf.shape), shapes)


def test_paper_has_the_packaged_codecs_rates():
    config = jaxtok.get_config("sq_codec:paper")
    module = build(config.model)
    assert (config.rate, module.hop, module.streams) == (16000, 320, True)
    quantizer = module.quantizer
    assert (quantizer.num_codebooks, quantizer.codebook_size) == (4, 3**9)
    assert config.rate / module.hop * 4 * np.log2(3**9) == pytest.approx(2853, abs=0.5)  # bit/s
    audio = jax.ShapeDtypeStruct((1, 16000), jnp.float32)
    (tokens, y), variables = jax.eval_shape(module.init_with_output, jax.random.key(0), audio)
    assert tokens.codes.shape == (1, 50, 4) and tokens.latents.shape == (1, 50, 36) and y.shape == (1, 16000)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 23_477_293 - 18_133  # weight norm's: nn's test


def test_the_first_channel_of_a_group_is_the_least_significant_digit():
    quantizer = Bounded(width=36, steps=1, word=9)
    digits = np.random.default_rng(0).integers(-1, 2, (5, 36))
    expected = ((digits + 1).reshape(5, 4, 9) * 3 ** np.arange(9)).sum(-1)  # group g has channels 9 g to 9 g + 8
    np.testing.assert_array_equal(quantizer.encode(jnp.asarray(4.0 * digits)), expected)
    np.testing.assert_array_equal(quantizer.decode(jnp.asarray(expected)), digits)


def test_every_word_of_nine_digits_comes_back():
    quantizer, words = Bounded(width=9, steps=1, word=9), jnp.arange(3**9)[:, None]
    digits = quantizer.decode(words)
    assert np.isin(digits, (-1, 0, 1)).all() and len(np.unique(digits, axis=0)) == 19683
    np.testing.assert_array_equal(quantizer.encode(digits), words)


def test_latents_are_not_rounded_and_decoding_rounds(params):
    audio = drawn(1, 2, 8 * HOP)

    @jax.jit
    def run(audio):
        tokens, y = MODULE.apply(params, audio)
        of_latents = MODULE.apply(params, tokens.latents, method="decode")
        of_codes = MODULE.apply(params, MODULE.quantizer.decode(tokens.codes), method="decode")
        z, _ = MODULE.encoder.apply({"params": params["params"]["encoder"]}, audio[..., None])
        return tokens, y, of_latents, of_codes, jnp.tanh(z)

    tokens, y, of_latents, of_codes, bounded = run(audio)
    np.testing.assert_array_equal(tokens.latents, bounded)
    grid = np.asarray(MODULE.quantizer.decode(tokens.codes))
    np.testing.assert_allclose(grid * 9, np.round(grid * 9), atol=1e-5)
    assert np.abs(grid).max() <= 1 and 0.001 < np.abs(grid - bounded).max() <= 0.5 / 9 + 1e-6
    np.testing.assert_array_equal(MODULE.quantizer.snap(tokens.latents), grid)
    np.testing.assert_array_equal(MODULE.quantizer.snap(grid), grid)
    np.testing.assert_array_equal(of_latents, y)  # bit for bit
    np.testing.assert_array_equal(of_codes, y)
    assert len(np.unique(tokens.codes)) > 4


def test_rounding_is_to_even_and_passes_the_gradient():
    quantizer = Bounded(width=4, steps=1)
    np.testing.assert_array_equal(quantizer.snap(jnp.asarray([0.5, -0.5, 0.51, 1.0])), [0, 0, 1, 1])
    module = SQCodec(MODULE.encoder, quantizer, MODULE.decoder)
    received, pull = jax.vjp(lambda y: module.apply({}, y, method="receive"), jnp.asarray([[[-3.0, -0.4, 0.6, 1.7]]]))
    np.testing.assert_array_equal(received, [[[-1, 0, 1, 1]]])  # what a generator makes may lie outside
    np.testing.assert_array_equal(pull(jnp.ones((1, 1, 4)))[0], 1.0)


def test_the_end_of_a_recording_reaches_no_token(params):
    encode = jax.jit(lambda x: MODULE.apply(params, x, method="encode").latents)
    audio = drawn(2, 1, 4 * HOP)
    other = audio.copy()
    other[:, -(HOP - 2) :] += 1.0  # 318 samples of 320 in the packaged codec
    np.testing.assert_array_equal(encode(audio), encode(other))
    assert (encode(audio)[:, -1] != encode(np.roll(other, -1, 1))[:, -1]).any()


def test_a_recording_that_ends_within_a_hop_keeps_its_length(params):
    audio = drawn(3, 1, 2 * HOP + 1)  # its last sample begins no frame
    tokens, y = jax.jit(MODULE.apply)(params, audio)
    assert tokens.codes.shape == (1, 2, 2) and y.shape == audio.shape and y[0, -1] == 0
    mask = np.arange(3 * HOP) < 2 * HOP + 1
    assert MODULE.frames(mask[None]).tolist() == [[True, True, False]]


def test_unknown_variants_are_refused():
    with pytest.raises(ValueError, match="sq_codec has no variant 'huge'; known: tiny, mini, paper"):
        jaxtok.get_config("sq_codec:huge")
