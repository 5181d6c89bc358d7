"""Transforms by matrix products: the values of the transform, and rows that stay on their device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.signal import fourier
from jaxtok.signal.mel import MelFrontEnd
from jaxtok.signal.stft import istft, stft
from jaxtok.train import collectives, hlo


@pytest.mark.parametrize("n", [1920, 15])
def test_products_equal_the_transform(n):
    frames = np.random.default_rng(0).standard_normal((3, n)).astype(np.float32)
    spectrum = np.fft.rfft(frames.astype(np.float64))
    scale = np.abs(spectrum).max()
    np.testing.assert_allclose(fourier.rfft_by_products(jnp.asarray(frames)), spectrum, atol=1e-5 * scale)
    inverse = fourier.irfft_by_products(jnp.asarray(spectrum, jnp.complex64), n)
    np.testing.assert_allclose(inverse, frames, atol=1e-5)


def test_imaginary_parts_of_the_ends_count_nothing():
    spectrum = jnp.asarray([[1 + 5j, 2 - 1j, 3j, 4 + 7j]], jnp.complex64)
    for n in (6, 7):
        expected = np.fft.irfft(np.asarray(spectrum), n)
        np.testing.assert_allclose(fourier.irfft_by_products(spectrum, n), expected, atol=1e-6)


def programs():
    front = MelFrontEnd(sample_rate=2400, n_fft=64, hop=16, bands=8, high=1200.0)
    return {
        "stft and its inverse": lambda x: istft(stft(x, 64, 16), 64, 16),
        "mel": front.log_mel,
    }


@pytest.mark.parametrize("name", list(programs()))
def test_rows_stay_on_their_devices(name):
    """Under a mesh nothing is gathered, and the values are those of one CPU, where the transform is taken."""
    run = programs()[name]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    audio = np.random.default_rng(1).standard_normal((16, 320)).astype(np.float32)
    divided = jax.device_put(audio, jax.NamedSharding(mesh, jax.P("data")))

    def gathered(compiled):
        return [one for one in collectives.of_module(hlo.parse(compiled.as_text()), 8) if one.kind == "all-gather"]

    with jax.set_mesh(mesh):
        compiled = jax.jit(lambda x: run(x)).lower(divided).compile()
        assert not gathered(compiled)
        found = compiled(divided)
    np.testing.assert_allclose(found, jax.jit(lambda x: run(x))(audio), atol=1e-5)
