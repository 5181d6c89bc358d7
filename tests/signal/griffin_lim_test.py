import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.signal.griffin_lim import GriffinLim, mel_to_magnitude
from jaxtok.signal.mel import MelFrontEnd, mel_centres, mel_filters

FRONT = MelFrontEnd()
BELOW = mel_centres(128, 0.0, 12000.0) < 8000


def vowel(samples=24000):
    """A gliding buzz with three formants that fades in and out twice a second."""
    n = np.arange(samples) / 24000
    pitch = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 2 * n)) / 24000
    tone = np.zeros(samples)
    for h in range(1, 60):
        level = sum(np.exp(-(((120 * h - f) / 200) ** 2)) for f in (500, 1500, 2500)) + 0.01
        tone += level * np.sin(h * pitch)
    noise = 1e-3 * np.random.default_rng(0).standard_normal(samples)
    return (0.1 * tone * (1.2 - np.cos(2 * np.pi * 2 * n)) / 2 + noise).astype(np.float32)


def test_magnitude_gives_the_mel_back():
    mel = FRONT(jnp.asarray(vowel())[None])
    magnitude = mel_to_magnitude(mel, FRONT)
    assert magnitude.shape == (1, 50, 961) and float(magnitude.min()) >= 0
    filters = mel_filters(1920, 24000, 128, 0.0, 12000.0)
    assert not np.asarray(magnitude)[..., filters.sum(1) == 0].any()
    error = np.log(np.asarray(magnitude) @ filters) - np.asarray(FRONT.denormalize(mel))
    assert np.abs(error).max() < 0.03 and np.abs(error).mean() < 1e-3


def test_mel_of_the_output_is_close_to_the_given_mel():
    audio = jnp.asarray(vowel())[None]
    mel = FRONT(audio)
    found = jax.jit(GriffinLim())(mel)
    assert found.shape == audio.shape and found.dtype == jnp.float32
    error = np.abs(FRONT.log_mel(found) - FRONT.log_mel(audio))[..., BELOW].mean()
    assert error < 0.15  # nats; 0.116 when written
    start = jax.jit(GriffinLim(iterations=0))(mel)
    assert error < 0.4 * np.abs(FRONT.log_mel(start) - FRONT.log_mel(audio))[..., BELOW].mean()
    level = np.sqrt(np.mean(np.square(found)) / np.mean(np.square(audio)))
    assert 0.9 < level < 1.1


def test_a_row_gives_its_audio_whatever_stands_beside_and_behind_it():
    short, long = FRONT(jnp.asarray(vowel(5 * 480))[None]), FRONT(jnp.asarray(vowel(9 * 480))[None])
    model = jax.jit(GriffinLim(iterations=2).__call__)  # rounding grows with every iteration, see the docstring
    alone = model(short)
    padded = jnp.concatenate([long, jnp.pad(short, ((0, 0), (0, 4), (0, 0)), constant_values=1.0)])
    mask = jnp.arange(9) < jnp.asarray([[9], [5]])
    batch = model(padded, mask=mask)
    np.testing.assert_allclose(batch[0], model(long)[0], atol=1e-4)
    np.testing.assert_allclose(batch[1, : 5 * 480], alone[0], atol=1e-4)
    np.testing.assert_array_equal(batch[1, 5 * 480 :], 0)


def test_rounding_grows_less_than_the_docstring_says():
    mel = FRONT(jnp.asarray(vowel())[None])
    model = jax.jit(GriffinLim())
    first, second = model(mel), model(mel * (1 + 1e-7))
    assert np.square(first - second).sum() < 10**-3.5 * np.square(first).sum()


def test_silence_stays_silent():
    mel = FRONT.normalize(jnp.full((1, 4, 128), np.log(FRONT.floor)))
    np.testing.assert_array_equal(jax.jit(GriffinLim(iterations=2))(mel), 0)


@pytest.mark.parametrize("shape", [(4, 128), (1, 0, 128), (1, 4, 80)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"mel: found shape .* expected \[batch, frames, 128\]"):
        GriffinLim()(jnp.zeros(shape))


def test_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"mask: found shape \(1, 5\), expected \(1, 4\)"):
        GriffinLim()(jnp.zeros((1, 4, 128)), mask=jnp.ones((1, 5), bool))
