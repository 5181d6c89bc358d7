"""What the networks of waveforms have in common: padding, gradients, recomputation, types."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn import oobleck, seanet, sq_codec

SEANET = dict(dimension=3, width=4, strides=(2, 3), lstm_layers=1)
SQ_CODEC = dict(latent=3, width=2, strides=(3,), pool=2)
OOBLECK = dict(channels=2, multipliers=(1, 2), strides=(2, 3), latent=3)
# Networks and fields; samples of a row and of a shorter one, their frames, and samples of the shorter one's decoding.
PADDED = {
    "seanet": (seanet, SEANET, 60, 25, 10, 5, 30),  # the last frame is only begun
    "seanet, not causal": (seanet, SEANET | dict(causal=False), 60, 25, 10, 5, 30),
    "sq_codec": (sq_codec, SQ_CODEC, 30, 15, 5, 3, 18),
    "sq_codec, not causal": (sq_codec, SQ_CODEC | dict(causal=False), 30, 15, 5, 2, 14),  # odd strides add samples
    "oobleck": (oobleck, OOBLECK, 40, 17, 7, 3, 16),  # and take them
}


def audio(samples, batch=2):
    return jax.random.normal(jax.random.key(0), (batch, samples, 1))


def drawn(module, x):
    """Variables without compiling ``init``; the signal passes with its size."""
    shapes, rng = jax.eval_shape(module.init, jax.random.key(0), x), np.random.default_rng(0)

    def draw(path, leaf):
        size = max(1, int(np.prod(leaf.shape[:-1])))
        return jnp.asarray(rng.normal(0, 0.05 if path[-1].key == "bias" else size**-0.5, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("name", PADDED)
def test_a_row_is_the_same_alone_and_padded(name):
    networks, fields, samples, short, frames, few, length = PADDED[name]
    encoder, decoder, x = networks.Encoder(**fields), networks.Decoder(**fields), audio(samples)
    params, back = drawn(encoder, x), drawn(decoder, jnp.zeros((1, 4, 3)))
    encode, decode = jax.jit(encoder.apply), jax.jit(decoder.apply)
    z, mask = encode(params, x, jnp.arange(samples) < jnp.asarray([[samples], [short]]))
    assert mask.sum(1).tolist() == [frames, few] == [encoder.frames(samples), encoder.frames(short)]
    alone, _ = encode(params, x[1:, :short])
    np.testing.assert_allclose(z[1, :few], alone[0], atol=1e-5)
    np.testing.assert_array_equal(z[1, few:], 0)
    y, expected = decode(back, z[..., :3], mask), decode(back, alone[..., :3])[0]
    assert len(expected) == length and jnp.abs(expected).max() > 1e-3
    np.testing.assert_allclose(y[1, :length], expected, atol=1e-5 * float(jnp.abs(expected).max()))
    np.testing.assert_array_equal(y[1, length:], 0)


@pytest.mark.parametrize(
    "module, x",
    [
        (seanet.Encoder(**SEANET | dict(strides=(3,), units=2)), audio(30)),
        (sq_codec.Encoder(**SQ_CODEC), audio(18)),
        (oobleck.Decoder(channels=2, multipliers=(2,), strides=(3,), latent=3), jnp.ones((1, 3, 3)) * jnp.arange(3.0)),
    ],
    ids=("seanet", "sq_codec", "oobleck"),
)
def test_gradients_reach_every_parameter(module, x):
    params = drawn(module, x)

    @jax.jit
    @jax.grad
    def gradient(params):
        found = module.apply(params, x)
        return jnp.square((found[0] if isinstance(found, tuple) else found) - 1).sum()

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
        assert jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("encoder, fields, units", [
    (seanet.Encoder, SEANET, 2), (sq_codec.Encoder, SQ_CODEC, 5), (oobleck.Encoder, OOBLECK, 6),
])  # fmt: skip
def test_recomputation_changes_no_parameter(encoder, fields, units):
    plain, again, x = encoder(**fields), encoder(**fields, remat="nothing_saveable"), audio(24)
    shapes = jax.eval_shape(plain.init, jax.random.key(0), x)
    assert shapes == jax.eval_shape(again.init, jax.random.key(0), x)
    found = [str(jax.make_jaxpr(lambda v, m=m: m.apply(v, x)[0])(shapes)).count("remat") for m in (plain, again)]
    assert found[0] == 0 and found[1] >= units


def test_bfloat16_keeps_parameters_and_frames_in_float32():
    plain, x = functools.partial(seanet.Encoder, **SEANET), audio(60)
    params = drawn(plain(), x)
    z, _ = jax.jit(plain(dtype=jnp.bfloat16).apply)(params, x)
    exact, _ = jax.jit(plain().apply)(params, x)
    assert z.dtype == jnp.float32
    error = float(jnp.abs(z - exact).max())
    assert 0 < error < 0.05 * float(jnp.abs(exact).max())
