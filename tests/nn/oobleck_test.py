"""Oobleck: sizes, lengths, the posterior's closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.oobleck import Decoder, Encoder, divergence, posterior

SMALL = dict(channels=2, multipliers=(1, 2), strides=(2, 3), latent=3)  # hop 6


def audio(samples, batch=2):
    return jax.random.normal(jax.random.key(0), (batch, samples, 1))


@functools.lru_cache
def made():
    encoder, decoder = Encoder(**SMALL), Decoder(**SMALL)
    return (
        encoder, jax.jit(encoder.init)(jax.random.key(1), audio(24)),
        decoder, jax.jit(decoder.init)(jax.random.key(2), jnp.zeros((1, 5, 3))),
    )  # fmt: skip


def by_hand(multipliers, strides, latent, audio_channels):
    """Parameters of encoder and decoder, without weight norm's g."""
    widths = [128 * m for m in (1, *multipliers)]
    unit = lambda w: 7 * w * w + w * w + 2 * w + 4 * w  # noqa: E731
    encoder = 7 * audio_channels * 128 + 128 + 2 * widths[-1] + 3 * widths[-1] * 2 * latent + 2 * latent
    decoder = 7 * latent * widths[-1] + widths[-1] + 2 * 128 + 7 * 128 * audio_channels
    for inner, outer, stride in zip(widths, widths[1:], strides):
        encoder += 3 * unit(inner) + 2 * inner + 2 * stride * inner * outer + outer
        decoder += 3 * unit(inner) + 2 * outer + 2 * stride * inner * outer + inner
    return encoder, decoder


@pytest.mark.parametrize("fields", [
    dict(multipliers=(1, 2, 4, 8), strides=(2, 4, 6, 10), latent=128, audio_channels=1),
    dict(multipliers=(1, 2, 4, 8, 16), strides=(2, 4, 4, 8, 8), latent=64, audio_channels=2),
])  # fmt: skip
def test_parameter_counts_of_ezaudio_and_stable_audio(count, fields):
    found = (
        count(Encoder(**fields), jnp.zeros((1, 2048, fields["audio_channels"]))),
        count(Decoder(**fields), jnp.zeros((1, 4, fields["latent"]))),
    )
    assert found == by_hand(**fields)
    assert sum(found) == {128: 43_829_248, 64: 156_077_696}[fields["latent"]]


def test_frames_a_second_of_ezaudio():
    thin = dict(channels=2, latent=4)
    for samples, frames in ((24_000, 50), (24_479, 50), (24_480, 51)):
        assert Encoder(**thin).frames(samples) == frames
        moments = jax.eval_shape(Encoder(**thin).init_with_output, jax.random.key(0), audio(samples, 1))[0][0]
        assert moments.shape == (1, frames, 8)
    y = jax.eval_shape(Decoder(**thin).init_with_output, jax.random.key(0), jnp.zeros((1, 50, 4)))[0]
    assert y.shape == (1, 24_000, 1)


def test_posterior_and_divergence_in_closed_form():
    moments = jnp.asarray([[[0.5, 2.0, np.log(np.e - 1), -100.0]]])
    mean, deviation = posterior(moments)
    np.testing.assert_array_equal(mean, [[[0.5, 2.0]]])
    np.testing.assert_allclose(deviation, [[[1.0001, 1e-4]]], rtol=1e-5)
    one, two = jnp.ones((1, 1, 2)), jnp.full((1, 1, 2), 2.0)
    assert float(divergence(0 * one, one)) == 0
    assert float(divergence(one, two)) == pytest.approx(2 * (1 + 4 - 2 * np.log(2) - 1))
    means = jnp.concatenate([one, two], axis=1)
    kept = divergence(means, jnp.ones((1, 2, 2)), jnp.asarray([[True, False]]))
    assert float(kept) == 2.0 and float(divergence(means, jnp.ones((1, 2, 2)))) == 5.0


def test_a_row_is_the_same_alone_and_padded():
    encoder, params, decoder, back = made()
    x, samples = audio(40), 17
    z, mask = jax.jit(encoder.apply)(params, x, jnp.arange(40) < jnp.asarray([[40], [samples]]))
    alone, _ = jax.jit(encoder.apply)(params, x[1:, :samples])
    frames = alone.shape[1]
    assert mask.sum(1).tolist() == [7, frames] and frames == encoder.frames(samples) == 3  # (17 // 2 + 1) // 3
    np.testing.assert_allclose(z[1, :frames], alone[0], atol=1e-5)
    np.testing.assert_array_equal(z[1, frames:], 0)
    y, expected = jax.jit(decoder.apply)(back, z[..., :3], mask), jax.jit(decoder.apply)(back, alone[..., :3])[0]
    assert len(expected) == 2 * (3 * frames - 1)  # the odd stride takes a position off
    np.testing.assert_allclose(y[1, : len(expected)], expected, atol=1e-5)
    np.testing.assert_array_equal(y[1, len(expected) :], 0)


def test_gradients_reach_every_parameter():
    decoder, z = Decoder(channels=2, multipliers=(2,), strides=(3,), latent=3), jnp.ones((1, 3, 3)) * jnp.arange(3.0)
    params = jax.jit(decoder.init)(jax.random.key(0), z)
    gradient = jax.jit(jax.grad(lambda v: jnp.square(decoder.apply(v, z) - 1).sum()))(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert jnp.isfinite(leaf).all() and jnp.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_recomputation_changes_no_parameter():
    plain, again = Encoder(**SMALL), Encoder(**SMALL, remat="nothing_saveable")
    shapes = jax.eval_shape(plain.init, jax.random.key(0), audio(24))
    assert shapes == jax.eval_shape(again.init, jax.random.key(0), audio(24))
    found = [
        str(jax.make_jaxpr(lambda v, m=m: m.apply(v, audio(24))[0])(shapes)).count("remat") for m in (plain, again)
    ]
    assert found[0] == 0 and found[1] >= 6  # residual units


def test_wrong_inputs_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"audio: expected \[batch, positions, 1\] .* found shape \(1, 24, 2\)"):
        Encoder(**SMALL).init(key, jnp.zeros((1, 24, 2)))
    with pytest.raises(ValueError, match=r"audio: expected enough samples for a frame \(one per 6\), found 2"):
        Encoder(**SMALL).init(key, audio(2))
    with pytest.raises(ValueError, match=r"latents: expected \[batch, positions, 3\] .* found shape \(1, 4, 6\)"):
        Decoder(**SMALL).init(key, jnp.zeros((1, 4, 6)))
    with pytest.raises(ValueError, match=r"expected a multiplier per stride, found \(1, 2\) and \(2,\)"):
        Encoder(multipliers=(1, 2), strides=(2,))
