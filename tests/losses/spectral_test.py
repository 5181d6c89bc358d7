import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses import spectral
from jaxtok.signal.log_mel import LogMel
from jaxtok.signal.mel import mel_filters
from jaxtok.signal.weighting import a_filter

torch = pytest.importorskip("torch")
RESOLUTIONS = ((128, 30, 100), (64, 16, 64))
DAC = tuple(scale for scale in spectral.DAC if scale.n_fft in (32, 256))


def pair(samples=3000):
    rng = np.random.default_rng(0)
    return [rng.normal(0, 0.2, (2, samples)).astype(np.float32) for _ in range(2)]


def magnitudes(x, n_fft, hop, length):
    window = torch.hann_window(length)
    return torch.stft(torch.tensor(x), n_fft, hop, length, window, center=True, return_complex=True).abs()


def test_scales_are_the_published_ones():
    assert [(s.n_fft, s.hop, s.bands) for s in spectral.VOCOS] == [(1024, 256, 100)]
    assert [(s.n_fft, s.hop, s.bands) for s in spectral.DAC] == [
        (32, 8, 5), (64, 16, 10), (128, 32, 20), (256, 64, 40), (512, 128, 80), (1024, 256, 160), (2048, 512, 320),
    ]  # fmt: skip
    assert {(s.filters, s.floor) for s in spectral.DAC} == {("slaney", 1e-5)}


def test_mel_equals_pytorch_at_dacs_scales():
    reference, estimate = pair()
    expected = 0.0
    for n_fft, bands in ((32, 5), (256, 40)):
        filters = torch.tensor(mel_filters(n_fft, 24000, bands, 0.0, 12000.0)).T
        a, b = (filters @ magnitudes(x, n_fft, n_fft // 4, n_fft) for x in (reference, estimate))
        expected += (a.clip(min=1e-5).log10() - b.clip(min=1e-5).log10()).abs().mean((1, 2))
        expected += 0.5 * (a - b).abs().mean((1, 2))
    found = jax.jit(lambda a, b: spectral.mel(a, b, scales=DAC, log_base=10, magnitude=0.5))(reference, estimate)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_mel_of_a_gain_is_its_logarithm():
    x, _ = pair()
    loss = jax.jit(spectral.mel)
    np.testing.assert_allclose(loss(x, 0.5 * x), np.log(2.0), rtol=1e-4)
    np.testing.assert_array_equal(loss(x, x), 0.0)


def test_stft_loss_of_what_is_a_weighted():
    reference, estimate = pair()
    taps = a_filter(24000)
    weighted = [np.stack([np.convolve(row, taps, "same") for row in x]) for x in (reference, estimate)]
    loss = functools.partial(spectral.stft_loss, resolutions=RESOLUTIONS, floor=1e-8)
    loss = jax.jit(loss, static_argnames="a_weighted")
    np.testing.assert_allclose(loss(reference, estimate, a_weighted=24000), loss(*weighted), rtol=1e-4)
    hum = reference + np.sin(np.arange(3000) * 2 * np.pi * 60 / 24000).astype(np.float32)  # is hardly heard
    assert (loss(reference, hum, a_weighted=24000) < 0.5 * loss(reference, hum)).all()


def test_stft_loss_equals_pytorch():
    reference, estimate = pair()
    expected = 0.0
    for resolution in RESOLUTIONS:
        a, b = (magnitudes(x, *resolution).square().clip(min=1e-7).sqrt() for x in (reference, estimate))
        convergence = (a - b).square().sum((1, 2)).sqrt() / a.square().sum((1, 2)).sqrt()
        expected += convergence + (a.log() - b.log()).abs().mean((1, 2))
    found = jax.jit(lambda a, b: spectral.stft_loss(a, b, resolutions=RESOLUTIONS))(reference, estimate)
    np.testing.assert_allclose(found, expected / 2, rtol=1e-4)


LOSSES = {
    "mel": lambda a, b, mask=None: spectral.mel(
        a, b, mask=mask, scales=(LogMel(24000, 256, 64, 20, padding="center"),)
    ),
    "stft": lambda a, b, mask=None: spectral.stft_loss(a, b, mask=mask, resolutions=RESOLUTIONS),
}


@pytest.mark.parametrize("name", list(LOSSES))
def test_padding_never_counts(name):
    """A padded row has the number that it has alone, and no gradient reaches its padding."""
    loss = LOSSES[name]
    reference, estimate = pair()
    mask = np.arange(3000) < np.array([[3000], [1234]])
    slope = jax.jit(jax.value_and_grad(lambda y, x, mask: loss(x, y, mask)[1]))
    found, gradient = slope(estimate, reference, mask)
    np.testing.assert_allclose(found, loss(reference[1:, :1234], estimate[1:, :1234])[0], rtol=1e-5)
    assert not np.abs(gradient[0]).any() and not np.abs(gradient[1, 1234:]).any()
    assert np.abs(gradient[1, :1234]).min() > 0
    dirty = [np.where(mask, x, filler).astype(np.float32) for x, filler in ((estimate, 7.0), (reference, -9.0))]
    np.testing.assert_array_equal(slope(*dirty, mask)[0], found)


@pytest.mark.parametrize("name", list(LOSSES))
def test_gradients_are_finite_at_silence_and_identity(name):
    slope = jax.jit(jax.grad(lambda y, x: LOSSES[name](x, y).sum()))
    x, _ = pair()
    for reference, estimate in ((x, x), (x, 0 * x), (0 * x, x), (0 * x, 0 * x)):
        assert np.isfinite(slope(estimate, reference)).all()


def test_bad_input_is_refused():
    x = jnp.zeros((2, 3000))
    with pytest.raises(ValueError, match=r"estimate: expected the shape of reference, \(2, 3000\), found \(2, 2999\)"):
        spectral.mel(x, x[:, 1:])
    with pytest.raises(ValueError, match=r"mask: expected the shape of reference, \(2, 3000\), found \(2, 3\)"):
        spectral.stft_loss(x, x, mask=jnp.ones((2, 3), bool))
    with pytest.raises(ValueError, match=r"reference: expected \[batch, samples\], found shape \(3000,\)"):
        spectral.mel(x[0], x[0])
    with pytest.raises(ValueError, match="log_base: expected more than 1, found 1"):
        spectral.mel(x, x, log_base=1)
    with pytest.raises(ValueError, match="found n_fft 64, window 65, 3000 samples"):
        spectral.stft_loss(x, x, resolutions=((64, 16, 65),))
