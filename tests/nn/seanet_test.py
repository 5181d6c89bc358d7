"""SEANet: sizes, lengths, streams."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.conv2d import GroupNorm
from jaxtok.nn.seanet import Decoder, Encoder

SMALL = dict(dimension=3, width=4, strides=(2, 3), lstm_layers=1)
HOP = 6


def audio(samples, batch=2):
    return jax.random.normal(jax.random.key(0), (batch, samples, 1))


@functools.lru_cache
def made(strides=(2, 3), **fields):
    fields = SMALL | dict(strides=strides) | fields
    encoder, decoder = Encoder(**fields), Decoder(**fields)
    z = jnp.zeros((1, 9, 3))
    return (
        encoder, jax.jit(encoder.init)(jax.random.key(1), audio(60, 1)),
        decoder, jax.jit(decoder.init)(jax.random.key(2), z),
    )  # fmt: skip


def folded(strides, dimension, second_biases):
    """Parameters of EnCodec's encoder by hand: kernels and biases; weight norm's g come with them in the reference."""
    total, width = 7 * 32 + 32, 32
    for stride in strides:
        half = width // 2
        total += 3 * width * half + half + half * width + width + width * width + width
        total += 2 * stride * width * 2 * width + 2 * width
        width *= 2
    return total + 2 * (8 * width * width + (2 if second_biases else 1) * 4 * width) + 7 * width * dimension + dimension


@pytest.mark.parametrize("strides, released", [((4, 5, 5, 6), 8_303_104), ((2, 4, 5, 8), 8_802_816)])
def test_parameter_counts_of_wavtokenizers_encoders(count, strides, released):
    found = count(Encoder(dimension=512, strides=strides, causal=False), jnp.zeros((1, 600, 1)))
    assert found == folded(strides, 512, second_biases=False)
    # The card's number has, for each output of a convolution, weight norm's g, and the LSTM's second biases.
    outputs = sum(32 * 2**i + 32 * 2**i // 2 + 32 * 2**i + 32 * 2 ** (i + 1) for i in range(4)) + 32 + 512
    assert folded(strides, 512, second_biases=True) + outputs == released


@pytest.mark.parametrize("strides, rate", [((4, 5, 5, 6), 40), ((2, 4, 5, 8), 75)])
def test_frames_a_second_at_24_khz(strides, rate):
    encoder, decoder = (part(dimension=8, width=2, strides=strides, causal=False) for part in (Encoder, Decoder))
    for samples, frames in ((24_000, rate), (24_001, rate + 1)):
        z, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), audio(samples, 1))[0]
        assert z.shape == (1, frames, 8)
        y = jax.eval_shape(decoder.init_with_output, jax.random.key(0), z)[0]
        assert y.shape == (1, frames * encoder.hop, 1)


@pytest.mark.parametrize("mode, frames", [("reflect", 1), ("reflect", 7), ("zeros", 64)])
def test_parts_give_the_whole(mode, frames):
    encoder, params, decoder, back = made(strides=(3,), mode=mode)
    x = audio(70 * 3 - 2, 1)  # the last frame is only begun
    whole, _ = jax.jit(encoder.apply)(params, x)
    sounds = jax.jit(decoder.apply)(back, whole)
    assert whole.shape[1] == 70 and sounds.shape[1] == 210
    for module, variables, values, expected, size in (
        (encoder, params, x, whole, frames * 3), (decoder, back, whole, sounds, frames),
    ):  # fmt: skip
        step = jax.jit(functools.partial(module.apply, method="stream"), static_argnames="last")
        state, parts = None, []
        for begin in range(0, values.shape[1], size):
            last = begin + size >= values.shape[1]
            part, state = step(variables, values[:, begin : begin + size], state, last=last)
            parts.append(part)
        np.testing.assert_allclose(jnp.concatenate(parts, axis=1), expected, atol=1e-5)
        assert step._cache_size() <= 10  # once the reflections are known, all parts have the same program


def test_causal_frames_do_not_see_what_follows():
    encoder, params, _, _ = made(mode="zeros")
    apply = jax.jit(lambda x: encoder.apply(params, x)[0])
    x = audio(60, 1)
    changed = apply(x.at[:, 5 * HOP :].add(1.0))  # frame t sees samples before (t + 1) hop
    np.testing.assert_array_equal(changed[:, :5], apply(x)[:, :5])
    assert (changed[:, 5] != apply(x)[:, 5]).all()


@pytest.mark.parametrize(("part", "x"), [(Encoder, audio(24)), (Decoder, jnp.ones((1, 4, 3)))])
def test_gain_is_of_all_convolutions(part, x):
    plain, more = (
        flax.traverse_util.flatten_dict(part(**SMALL, gain=gain).init(jax.random.key(0), x)["params"], sep="/")
        for gain in (1.0, 2.5)
    )
    for name, kernel in plain.items():
        grown = name.endswith("/kernel") and not name.startswith("lstm")
        np.testing.assert_array_equal(more[name], kernel * (2.5 if grown else 1.0), err_msg=name)


def test_wrong_inputs_are_refused():
    key, norm = jax.random.key(0), functools.partial(GroupNorm, 1)
    for shape in ((60, 1), (1, 0, 1), (1, 60, 2)):
        with pytest.raises(ValueError, match=r"audio: expected \[batch, 1 or more, 1\], found shape"):
            Encoder(**SMALL).init(key, jnp.zeros(shape))
    with pytest.raises(ValueError, match=r"latents: expected \[batch, 1 or more, 3\], found shape \(1, 6, 4\)"):
        Decoder(**SMALL).init(key, jnp.zeros((1, 6, 4)))
    with pytest.raises(ValueError, match=r"mask: expected shape \(1, 60\)"):
        Encoder(**SMALL).init(key, audio(60, 1), jnp.ones((1, 59), bool))
    with pytest.raises(ValueError, match="mask: expected None where a norm"):
        Encoder(**SMALL, norm=norm).init(key, audio(60, 1), jnp.ones((1, 60), bool))
    with pytest.raises(ValueError, match="Encoder: a stream expected causal=True and norm=None, found False, None"):
        Encoder(**SMALL, causal=False).init(key, audio(60, 1), method="stream")
    with pytest.raises(ValueError, match="expected mode of"):
        Encoder(**SMALL, mode="edge").init(key, audio(60, 1))
