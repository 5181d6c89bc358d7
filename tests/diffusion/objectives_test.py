from math import erf

import jax
import numpy as np

from jaxtok.diffusion import objectives, paths

PATH = paths.Discrete(paths.linear_betas())


def _bits(x, k, data, between):
    """The divergence for k > 0 by its formula in float64; the state's share is the same in both means."""
    level = PATH.alpha_bar
    here, before = level[k], level[k - 1]
    alpha = here / before
    low = (1 - alpha) * (1 - before) / (1 - here)
    first = np.sqrt(before) * (1 - alpha) / (1 - here)
    log_variance = between * np.log(1 - alpha) + (1 - between) * np.log(low)
    change = np.log(low) - log_variance
    square = (first * (x - data)) ** 2 / np.exp(log_variance)
    return (np.exp(change) - 1 - change + square) / 2 / np.log(2)


def test_learned_variance(compute):
    """Against its formula; the bin's likelihood at k = 0; no gradient to the mean."""
    x, x_t, data, between = np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32)
    k = np.array([1, 250, 999, 700, 0])
    x[4], data[3:], between[3:] = (-1.0, 0.2, 1.0), x[3:], 0.0
    data[4] = (-1.0, 0.204, 0.99)

    def both(data, between):
        bits, pull = jax.vjp(lambda d, b: objectives.learned_variance_bound(x, x_t, k, d, b, PATH), data, between)
        return bits, pull(np.ones(5, np.float32))

    bits, (by_data, by_between) = compute(both, data, between)
    expected = [np.mean(_bits(x[i], k[i], data[i], between[i])) for i in range(3)]
    np.testing.assert_allclose(bits[:3], expected, rtol=1e-3)
    np.testing.assert_allclose(bits[3], 0.0, atol=1e-5)  # the true posterior
    level = PATH.alpha_bar
    unit = np.sqrt((1 - level[1] / level[0]) * (1 - level[0]) / (1 - level[1])) * np.sqrt(2)  # of index 1
    half = 1 / 255
    mass = [(1 + erf(half / unit)) / 2, (erf((half - 0.004) / unit) + erf((half + 0.004) / unit)) / 2,
            (1 - erf((1 - half - 0.99) / unit)) / 2]  # fmt: skip
    np.testing.assert_allclose(bits[4], -np.log2(mass).mean(), rtol=2e-3)
    assert (by_data == 0).all() and (by_between[[0, 1, 2, 4]] != 0).all()


def test_bins_hold_all_the_mass(compute):
    values = np.linspace(-1, 1, 256, dtype=np.float32)
    log_mass = compute(lambda x: objectives.binned_log_likelihood(x, np.float32(0.97), np.float32(-6.0)), values)
    np.testing.assert_allclose(np.exp(log_mass).sum(), 1.0, atol=1e-5)


def test_weights_by_time():
    found = objectives.cosmap_weight(np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(found, [0.6366, 1.2732, 0.6366], atol=1e-4)
    weights = objectives.bell_weights(np.arange(1, 1001) / 1000)
    np.testing.assert_allclose([weights.mean(), weights.min()], [1.0, 0.0], atol=1e-6)
    assert weights.argmax() == 499 and weights[249] == weights[749] > 0.5
