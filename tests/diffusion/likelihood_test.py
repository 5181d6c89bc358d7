import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.diffusion import likelihood, paths, predictions

LINEAR = paths.Linear()


def test_the_likelihood_along_the_flow_of_a_correlated_gaussian(compute, make_keys):
    """The exact divergence, and Hutchinson's estimate without bias: on average over keys it is the exact one."""
    covariance = np.float32([[0.5, 0.3], [0.3, 0.4]])

    def velocity(x, t):
        a, b, c = ((1 - t) ** 2 * v + t**2 * e for v, e in ((0.5, 1), (0.3, 0), (0.4, 1)))
        solved = x @ (jnp.array([[c, -b], [-b, a]]) / (a * c - b * b))
        return t * solved - (1 - t) * solved @ covariance

    x = np.array([[0.4, -1.0]])
    expected = -0.5 * (x @ np.linalg.inv(covariance) @ x.T + np.log(np.linalg.det(2 * np.pi * covariance)))[0, 0]
    grid, many = np.linspace(0, 1, 9, dtype=np.float32), np.tile(x, (400, 1))
    keys = make_keys(400)

    def both(x):
        exact = likelihood.flow_log_likelihood(velocity, x[:1], grid, LINEAR)
        return exact, likelihood.flow_log_likelihood(velocity, x, grid, LINEAR, keys=keys, probes=2)

    exact, guesses = compute(both, many)
    np.testing.assert_allclose(exact, [expected], atol=2e-4)
    assert guesses.std() > 0.01
    np.testing.assert_allclose(guesses.mean(), expected, atol=4 * float(guesses.std()) / 20)


def test_bits_per_dimension():
    """Of the uniform density over [-1, 1], which is 0 .. 255 over 127.5."""
    bits = likelihood.bits_per_dimension(np.float32(10 * np.log(0.5)), 10)
    np.testing.assert_allclose(bits, np.log2(255.0), rtol=1e-6)


@pytest.mark.parametrize("path", [LINEAR, paths.Cosine(), paths.VariancePreserving(), paths.Sigma()])
def test_the_bound_of_gaussian_data(path, compute):
    """With the best denoiser, the weighted errors integrate to 1/2 log((1 + snr_0 v)/(1 + snr_1 v)), for every kind."""
    variance, ratios = 0.25, np.linspace(8.0, -6.0, 2001)

    def integrands(log_snr):
        t = path.time(log_snr)
        error = variance / (1 + jnp.exp(log_snr) * variance)  # of the data
        found = []
        for kind in predictions.KINDS:
            unit = [predictions.data_and_noise(kind, path, jnp.full_like(t, p), jnp.ones_like(t), t)[0] for p in (0, 1)]
            found.append(likelihood.bound_weight(kind, path, t) * error / (unit[1] - unit[0]) ** 2)
        return t, jnp.stack(found)

    t, found = (np.asarray(y, np.float64) for y in compute(integrands, ratios.astype(np.float32)))
    total = ((found[:, 1:] + found[:, :-1]) / 2 * np.diff(t)).sum(1)
    snr = np.exp(ratios[[0, -1]])
    expected = 0.5 * np.log((1 + snr[0] * variance) / (1 + snr[1] * variance))
    np.testing.assert_allclose(total, expected, rtol=2e-3)


def test_what_the_bound_loses_at_noise(compute):
    def both(x):
        return likelihood.prior_divergence(LINEAR, x), likelihood.prior_divergence(paths.Cosine(), x, 0.5)

    nothing, some = compute(both, np.full((1, 3), 2.0, np.float32))
    assert nothing == 0.0
    a, s = np.cos(np.pi / 4), np.sin(np.pi / 4)
    expected = (a**2 * 4 + s**2 - 1 - 2 * np.log(s)) / 2 * 3
    np.testing.assert_allclose(some, expected, rtol=1e-5)
