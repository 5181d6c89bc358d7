"""SQ-Codec's networks: the card's sizes, lengths and causality."""

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.sq_codec import Decoder, Encoder, prelu

SMALL = dict(latent=3, width=2, strides=(3,), pool=2)
HOP = 6


def audio(samples, batch=1):
    return jax.random.normal(jax.random.key(0), (batch, samples, 1))


@functools.lru_cache
def made(causal=True):
    encoder, decoder = Encoder(**SMALL, causal=causal), Decoder(**SMALL, causal=causal)
    return (
        encoder, jax.jit(encoder.init)(jax.random.key(1), audio(HOP)),
        decoder, jax.jit(decoder.init)(jax.random.key(2), jnp.zeros((1, 5, 3))),
    )  # fmt: skip


def test_parameter_count_of_the_packaged_codec(count):
    found = count(Encoder(), jnp.zeros((1, 640, 1))) + count(Decoder(), jnp.zeros((1, 4, 36)))
    assert found == 23_459_160
    widths = [48 * 2**i for i in range(5)]
    # Weight norm's g: one for each output of a convolution, each input of a transposed one; none in the poolings'.
    normed = 48 + 36 + widths[-1] + 1 + sum(20 * w for w in widths[:-1]) + sum(2 * 2 * w for w in widths[:-1])
    assert found + normed == 23_477_293  # the card's 23.48 M


@pytest.mark.parametrize("samples, frames", [(320, 1), (321, 1), (322, 2), (16_000, 50)])
def test_frames_of_the_packaged_codec(samples, frames):
    thin = dict(latent=4, width=2)
    assert Encoder(**thin).frames(samples) == frames
    z = jax.eval_shape(Encoder(**thin).init_with_output, jax.random.key(0), audio(samples))[0][0]
    assert z.shape == (1, frames, 4)  # ceil(floor(L / 2) / 160)
    y = jax.eval_shape(Decoder(**thin).init_with_output, jax.random.key(0), z)[0]
    assert y.shape == (1, 320 * frames, 1)


def test_a_frame_sees_its_first_samples_and_nothing_later():
    encoder, params, decoder, back = made()
    encode, decode = (jax.jit(part.apply) for part in (encoder, decoder))
    x, z = audio(5 * HOP), jnp.ones((1, 6, 3))
    seen = lambda apply, x, at: np.flatnonzero((apply(x.at[:, at].add(1.0)) != apply(x)).any((0, 2)))[0]  # noqa: E731
    for sample, frame in ((2 * HOP + 1, 2), (2 * HOP + 2, 3), (3 * HOP + 1, 3)):  # frame i sees samples to 6 i + 1
        assert seen(lambda x: encode(params, x)[0], x, sample) == frame
    for frame, sample in ((2, 0), (3, HOP), (5, 3 * HOP)):  # the decoder looks two frames ahead
        assert seen(lambda z: decode(back, z), z, frame) == sample


@pytest.mark.parametrize("frames", [1, 7])
def test_parts_give_the_whole(frames):
    encoder, params, decoder, back = made()
    x = audio(20 * HOP - 3)
    whole, _ = jax.jit(encoder.apply)(params, x)
    for module, variables, values, expected, size in (
        (encoder, params, x, whole, frames * HOP),
        (decoder, back, whole, jax.jit(decoder.apply)(back, whole), frames),
    ):
        step = jax.jit(functools.partial(module.apply, method="stream"), static_argnames="last")
        state, parts = None, []
        for begin in range(0, values.shape[1], size):
            last = begin + size >= values.shape[1]
            part, state = step(variables, values[:, begin : begin + size], state, last=last)
            parts.append(part)
        np.testing.assert_allclose(jnp.concatenate(parts, axis=1), expected, atol=1e-5)


@pytest.mark.parametrize(("part", "x"), [(Encoder, audio(24)), (Decoder, jnp.ones((1, 4, 3)))])
def test_gain_is_of_kernels_outside_the_residual_units(part, x):
    plain, more = (
        flax.traverse_util.flatten_dict(part(**SMALL, gain=gain).init(jax.random.key(0), x)["params"], sep="/")
        for gain in (1.0, 2.5)
    )
    grown = {name for name in plain if (more[name] != plain[name]).any()}
    assert grown == {name for name in plain if name.endswith("/kernel") and "unit" not in name} and len(grown) > 3
    for name in plain:
        np.testing.assert_array_equal(more[name], plain[name] * (2.5 if name in grown else 1.0))


def test_one_slope_serves_all_stages():
    shapes = jax.eval_shape(Encoder(latent=3, width=2, strides=(2, 3)).init, jax.random.key(0), audio(24))["params"]
    assert [name for name in shapes if "slope" in name] == ["down_slope", "pool_slope"]


def test_prelu_and_its_first_slope():
    np.testing.assert_array_equal(prelu(jnp.asarray([-2.0, 0.0, 3.0]), jnp.asarray(0.25)), [-0.5, 0.0, 3.0])
    assert float(made()[1]["params"]["stage0_unit4"]["slope2"]) == 0.25


def test_wrong_inputs_are_refused():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"audio: expected \[batch, positions, 1\], found shape \(1, 24, 2\)"):
        Encoder(**SMALL).init(key, jnp.zeros((1, 24, 2)))
    with pytest.raises(ValueError, match=r"audio: expected enough samples for a frame \(one per 6\), found 1"):
        Encoder(**SMALL).init(key, audio(1))
    with pytest.raises(ValueError, match=r"latents: expected \[batch, positions, 3\], found shape \(1, 4\)"):
        Decoder(**SMALL).init(key, jnp.zeros((1, 4)))
    with pytest.raises(ValueError, match="latents: expected at least one frame, found none"):
        Decoder(**SMALL).init(key, jnp.zeros((1, 0, 3)))
    with pytest.raises(ValueError, match="Decoder: a stream expected causal=True, found False"):
        Decoder(**SMALL, causal=False).init(key, jnp.zeros((1, 4, 3)), method="stream")
