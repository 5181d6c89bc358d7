"""Images in, tokens out, images back."""

import jax
import numpy as np
import pytest

import jaxtok
from jaxtok.build import build
from jaxtok.models import image as image_model

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model():
    config = jaxtok.get_config("fvq:tiny")
    config.model.quantizer = dict(target="jaxtok.quantizers:EMAVQ", size=16, width=8)
    batch = {"image": np.zeros((1, 16, 16, 3), np.float32)}
    params, state, _ = jax.jit(build(config.task, model=build(config.model)).init)(jax.random.key(0), batch)
    return image_model.assemble(config, params, state)


def test_bytes_and_floats_give_the_same_tokens_and_bytes_come_back(model):
    images = RNG.integers(0, 256, (3, 16, 24, 3), np.uint8)
    tokens = model.encode(images)
    assert tokens.codes.shape == (3, 8, 12, 1) and tokens.codes.dtype == np.int32
    np.testing.assert_array_equal(tokens.codes, model.encode(images / 127.5 - 1).codes)
    again = model.decode(tokens)
    assert again.shape == images.shape and again.dtype == np.uint8
    expected = np.round((np.clip(model.decode_pixels(tokens), -1, 1) + 1) * 127.5)
    np.testing.assert_array_equal(again, expected)
    assert model.bits(16, 24) == 8 * 12 * 4


def test_an_image_alone_has_the_tokens_that_it_has_in_a_batch(model):
    images = RNG.integers(0, 256, (35, 16, 16, 3), np.uint8)  # more than are encoded at once
    together = model.encode(images)
    alone = model.encode(images[34])
    np.testing.assert_array_equal(alone.codes[0], together.codes[34])
    image = model.decode(alone)
    assert image.shape == (16, 16, 3)
    assert np.abs(image.astype(int) - model.decode(together)[34]).max() <= 1


def test_stored_codes_are_tokens_again(model):
    tokens = model.encode(RNG.uniform(-1, 1, (2, 16, 16, 3)))
    stored = model.tokens(np.asarray(tokens.codes))
    np.testing.assert_allclose(stored.latents, tokens.latents, atol=1e-6)
    np.testing.assert_array_equal(model.decode(model.tokens(np.asarray(tokens.codes[0]))), model.decode(stored)[0])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 15, 16, 3), np.uint8), "multiples of 2, found shape"),
        (np.zeros((16, 16, 4), np.uint8), r"expected \[images, height, width, 3\], found shape \(16, 16, 4\)"),
        (np.zeros((0, 16, 16, 3), np.uint8), "found shape"),
        (np.full((16, 16, 3), 2.0), r"floats in \[-1, 1\], found 2.0 to 2.0"),
        (np.full((16, 16, 3), np.nan), "found nan to nan"),
        (np.zeros((16, 16, 3), np.int32), "expected uint8, or floats in .*, found int32"),
    ],
)
def test_wrong_images_are_refused(model, images, message):
    with pytest.raises(ValueError, match=message):
        model.encode(images)


def test_wrong_codes_are_refused(model):
    with pytest.raises(ValueError, match=r"expected \[images, h, w, 1\], found shape"):
        model.tokens(np.zeros((2, 3), int))
    with pytest.raises(ValueError, match="values from 0 to 15, found 0 to 16"):
        model.tokens(np.array([[[0], [16]]]))
    with pytest.raises(ValueError, match="expected integers"):
        model.tokens(np.zeros((1, 2, 2, 1)))


def test_a_moving_codebook_is_not_forgotten(model):
    config = jaxtok.get_config("fvq:tiny")
    config.model.quantizer = dict(target="jaxtok.quantizers:EMAVQ", size=16, width=8)
    with pytest.raises(ValueError, match="the model keeps a codebook in the run's state, found none"):
        image_model.assemble(config, model.variables["params"])
