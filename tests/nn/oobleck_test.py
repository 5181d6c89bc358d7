"""Oobleck: sizes and lengths."""

import jax
import jax.numpy as jnp
import pytest

from jaxtok.nn.oobleck import Decoder, Encoder

SMALL = dict(channels=2, multipliers=(1, 2), strides=(2, 3), latent=3)  # hop 6


def audio(samples, batch=2):
    return jax.random.normal(jax.random.key(0), (batch, samples, 1))


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


def test_bias_and_tanh_of_the_end():
    z = 30 * jax.random.normal(jax.random.key(0), (1, 5, 3))
    plain, limited = Decoder(**SMALL), Decoder(**SMALL, bias=True, tanh=True)
    params = plain.init(jax.random.key(1), z)["params"]
    assert sorted(params["conv_out"]) == ["kernel"]
    expected = plain.apply({"params": params}, z)
    assert jnp.abs(expected).max() > 1
    assert limited.init(jax.random.key(1), z)["params"]["conv_out"]["bias"].shape == (1,)
    found = limited.apply({"params": params | {"conv_out": params["conv_out"] | {"bias": jnp.full(1, 0.5)}}}, z)
    assert jnp.allclose(found, jnp.tanh(expected + 0.5), atol=1e-5)
    mask = jnp.arange(5)[None] < 4
    assert not limited.apply(limited.init(jax.random.key(1), z), z, mask)[:, 24:].any()


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
