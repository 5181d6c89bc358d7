"""Tokenizers of waveforms: parts give the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn import oobleck, seanet, sq_codec
from jaxtok.papers.sq_codec import Bounded, SQCodec
from jaxtok.quantizers import EMAVQ, Gaussian
from jaxtok.tokenizers.waveform import WaveformTokenizer, latent_width

SQ, SEANET = dict(latent=4, width=2, strides=(2, 3)), dict(dimension=4, width=2, strides=(3, 4), lstm_layers=1)
CODECS = {
    "sq_codec": SQCodec(sq_codec.Encoder(**SQ), Bounded(width=4, steps=1, word=2), sq_codec.Decoder(**SQ)),
    "seanet": WaveformTokenizer(seanet.Encoder(**SEANET), EMAVQ(size=16, width=4), seanet.Decoder(**SEANET)),
}
VAE = WaveformTokenizer(
    oobleck.Encoder(channels=2, multipliers=(1, 2), strides=(3, 4), latent=3), Gaussian(width=3),
    oobleck.Decoder(channels=2, multipliers=(1, 2), strides=(3, 4), latent=3),
)  # fmt: skip
HOP = 12


def drawn(module):
    """Variables without compiling ``init``; the signal passes with its size, so that codes differ."""
    shapes, rng = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2 * HOP))), np.random.default_rng(0)

    def draw(path, leaf):
        size = max(1, int(np.prod(leaf.shape[:-1])))
        values = rng.normal(0, 0.05 if path[-1].key == "bias" else 1.2 * size**-0.5, leaf.shape)
        return jnp.ones(leaf.shape, bool) if leaf.dtype == bool else jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.lru_cache
def whole(name):
    module, variables = CODECS[name], drawn(CODECS[name])
    audio = np.random.default_rng(1).standard_normal((2, 130 * HOP), dtype=np.float32)
    return module, variables, audio, *jax.jit(module.apply)(variables, audio)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("frames", [1, 7, 64])
def test_parts_give_the_whole(name, frames):
    module, variables, audio, tokens, y = whole(name)
    latents = np.asarray(tokens.latents)

    @functools.partial(jax.jit, static_argnames=("method", "last"))
    def step(x, state, method, last):
        return module.apply(variables, x, state, last=last, method=method)

    for method, x, unit in (("stream_encode", audio, HOP), ("stream_decode", latents, 1)):
        state, parts, size = None, [], frames * unit
        for begin in range(0, x.shape[1], size):
            part, state = step(x[:, begin : begin + size], state, method, begin + size >= x.shape[1])
            parts.append(part)
        if method == "stream_encode":
            assert frames != 1 or parts[0].codes.shape == ((2, 1, 2) if name == "sq_codec" else (2, 0, 1))
            codes = jnp.concatenate([part.codes for part in parts], axis=1)
            assert codes.dtype == jnp.int32 and len(np.unique(codes)) > 3
            np.testing.assert_array_equal(codes, tokens.codes)
            found = jnp.concatenate([part.latents for part in parts], axis=1)
            np.testing.assert_allclose(found, tokens.latents, atol=1e-5)
        else:
            assert float(jnp.abs(y).max()) > 0.1
            np.testing.assert_allclose(jnp.concatenate(parts, axis=1), y, atol=1e-5)


def test_sizes_are_known_without_running():
    assert [latent_width(module) for module in (*CODECS.values(), VAE)] == [4, 4, 3]
    assert [module.streams for module in (*CODECS.values(), VAE)] == [True, True, False]
    mask = np.arange(40) < np.array([[40], [24], [26], [12]])
    assert VAE.frames(mask).sum(1).tolist() == [3, 2, 2, 1]  # whole hops alone
    assert CODECS["seanet"].frames(mask).sum(1).tolist() == [4, 2, 3, 1]  # begun ones as well


def test_what_does_not_stream_says_so():
    for method, x in (("stream_encode", jnp.zeros((1, 6))), ("stream_decode", jnp.zeros((1, 2, 3)))):
        with pytest.raises(ValueError, match="a decoder that are causal, found Encoder and Decoder that are not"):
            VAE.apply({}, x, method=method)
    with pytest.raises(ValueError, match=r"audio: expected \[batch, samples\], found shape \(1, 6, 1\)"):
        CODECS["sq_codec"].apply({}, jnp.zeros((1, 6, 1)), method="stream_encode")
