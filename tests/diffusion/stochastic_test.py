"""Stochastic samplers on the exact denoiser of Gaussian data of deviation 1/2: it is linear, so moments are recursions.

``_deviation`` follows the variance of a chain x <- keep x + noise z in float64; samplers are held to it by samples.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.diffusion import paths, samplers, times

VARIANCE = 0.25
LINEAR, SIGMA, COSINE = paths.Linear(), paths.Sigma(), paths.Cosine()


def _deviation(steps, begin=1.0):
    variance = begin**2
    for keep, noise in steps:
        variance = keep**2 * variance + noise**2
    return np.sqrt(variance)


def _denoiser(a, s):
    """Factors of the state in the estimates of data and noise."""
    total = a**2 * VARIANCE + s**2
    return a * VARIANCE / total, s / total


# ---- closed forms ----


def _sit(grid):
    """Euler-Maruyama with g^2 = 2 t on the linear path, and no noise in the last step."""
    for number, (t, then) in enumerate(itertools.pairwise(grid)):
        data, noise = _denoiser(1 - t, t)
        drift = (noise - data) + t * noise / t  # v - t score
        yield 1 + (then - t) * drift, np.sqrt(2 * t * (t - then)) if number < len(grid) - 2 else 0.0


def test_the_recipe_of_sit_has_its_deviations(gaussian, start):
    """Exact 0.5; 25 or 250 points down to 0.04, or 250 down to 0.004; Euler's 24 steps beside them."""
    grids = {points: np.append(np.linspace(1, 0.04, points), 0.0) for points in (25, 250)}
    fine = np.append(np.linspace(1, 0.004, 250), 0.0)
    found = [_deviation(_sit(grid)) for grid in (grids[25], grids[250], fine)]
    np.testing.assert_allclose(found, [0.48954, 0.49434, 0.49916], atol=1e-5)
    euler = np.linspace(1, 0, 25)
    slope = [_denoiser(1 - t, t) for t in euler[:-1]]
    keep = [(1 - (noise - data) / 24, 0.0) for data, noise in slope]
    np.testing.assert_allclose(_deviation(keep), 0.47004, atol=1e-5)

    exact = gaussian()
    x = samplers.euler_maruyama(exact.velocity, exact.score, *_at(start, grids[25]))
    np.testing.assert_allclose(np.std(np.asarray(x)), 0.48954, atol=0.006)


def _at(start, grid):
    return start[0], np.asarray(grid, np.float32), start[1]


def test_ddim_with_noise_follows_its_recursion(gaussian, start):
    grid, eta = np.linspace(0.95, 0.05, 6), 0.6

    def steps():
        for t, then in itertools.pairwise(grid):
            a, s, a_then, s_then = (f(np.pi / 2 * u) for u in (t, then) for f in (np.cos, np.sin))
            data, noise = _denoiser(a, s)
            fresh = eta * s_then / s * np.sqrt(1 - (a / a_then) ** 2)
            yield a_then * data + np.sqrt(s_then**2 - fresh**2) * noise, fresh

    x, grid32, keys = _at(start, grid)
    found = samplers.ddim(gaussian(COSINE).estimate, x, grid32, COSINE, eta=eta, keys=keys)
    np.testing.assert_allclose(np.std(np.asarray(found)), _deviation(steps()), atol=0.006)


def test_the_stochastic_solver_of_second_order_follows_its_recursion(gaussian, start, compute, make_keys):
    """Two numbers, the state and the last data estimate, and their covariance; order 1 is DDIM of eta 1."""
    path, grid = COSINE, np.linspace(0.95, 0.05, 17)
    covariance, before = np.array([[1.0, 0.0], [0.0, 0.0]]), None
    for number, (t, then) in enumerate(itertools.pairwise(grid)):
        a, s, a_then, s_then = (f(np.pi / 2 * u) for u in (t, then) for f in (np.cos, np.sin))
        data, _ = _denoiser(a, s)
        h = np.log(a_then / s_then) - np.log(a / s)
        ratio = 0.0 if number == 0 else h / before / 2
        gain = a_then * (1 - np.exp(-2 * h))
        move = np.array([[s_then / s * np.exp(-h) + gain * (1 + ratio) * data, -gain * ratio], [data, 0.0]])
        covariance = move @ covariance @ move.T
        covariance[0, 0] += s_then**2 * (1 - np.exp(-2 * h))
        before = h
    exact = gaussian(path)
    x, grid32, keys = _at(start, grid)
    found = samplers.dpm_solver(exact.estimate, x, grid32, path, keys=keys, last_first=False)
    np.testing.assert_allclose(np.std(np.asarray(found)), np.sqrt(covariance[0, 0]), atol=0.006)

    def of_first_order(x, keys):
        first = samplers.dpm_solver(exact.estimate, x, grid32, path, keys=keys, order=1)
        return first, samplers.ddim(exact.estimate, x, grid32, path, keys=keys, eta=1.0)

    first, ddim = compute(of_first_order, x[:5], make_keys(5))
    np.testing.assert_allclose(first, ddim, atol=2e-6)


def test_the_stochastic_sampler_of_edm_follows_its_recursion(gaussian, start, compute, make_keys):
    """Noise is added between 0.05 and 50 only; without churn it is Heun's method."""
    sigmas, churn = times.karras_sigmas(8).astype(float), 2.0

    def steps():
        for now, then in itertools.pairwise(sigmas):
            up = now * (1 + min(churn / 8, np.sqrt(2) - 1)) if 0.05 <= now <= 50 else now
            first = _denoiser(1.0, up)[1]
            keep = 1 + (then - up) * first
            if then:
                keep = 1 + (then - up) * (first + keep * _denoiser(1.0, then)[1]) / 2
            yield keep, abs(keep) * 1.003 * np.sqrt(up**2 - now**2)

    exact = gaussian(SIGMA)
    x, grid, keys = _at(start, sigmas)
    found = samplers.churned_heun(exact.velocity, 80 * x, grid, keys, churn=churn, low=0.05, high=50.0, inflate=1.003)
    expected = _deviation(steps(), 80.0)
    np.testing.assert_allclose(np.std(np.asarray(found)), expected, rtol=0.015)

    def without_churn(x, keys):
        still = samplers.churned_heun(exact.velocity, x, grid, keys, churn=0.0)
        return still, samplers.heun(exact.velocity, x, grid, last_euler=True)

    still, heun = compute(without_churn, 80 * x[:3], make_keys(3))
    np.testing.assert_allclose(still, heun, atol=1e-5)


def _ddpm(level, upper):
    """Ancestral steps over levels, ascending."""
    for k in range(len(level) - 1, -1, -1):
        before = level[k - 1] if k else 1.0
        alpha = level[k] / before
        denoise = _denoiser(np.sqrt(level[k]), np.sqrt(1 - level[k]))[0]
        keep = (np.sqrt(before) * (1 - alpha) * denoise + np.sqrt(alpha) * (1 - before)) / (1 - level[k])
        noise = (1 - alpha) if upper else (1 - alpha) * (1 - before) / (1 - level[k])
        yield keep, np.sqrt(noise) if k else 0.0


@pytest.mark.parametrize(("spacing", "steps", "upper"), [("respaced", 25, False), ("trailing", 50, True)])
def test_ancestral_sampling_follows_its_recursion(spacing, steps, upper, gaussian, start):
    path = paths.Discrete(paths.linear_betas())
    chosen = times.indices(steps, spacing=spacing)

    def estimate(x, k):
        both = gaussian(path).estimate(x, k)
        return (*both, jnp.ones_like(x)) if upper else both

    x = samplers.ancestral(estimate, start[0], chosen, path, start[1])
    np.testing.assert_allclose(
        np.std(np.asarray(x)), _deviation(_ddpm(path.alpha_bar[chosen[::-1]], upper)), atol=0.006
    )
    np.testing.assert_allclose(_deviation(_ddpm(path.alpha_bar, upper)), 0.5, atol=0.03)  # all levels: nearly exact


def test_consistency_sampling_renoises_to_each_level(start, make_keys):
    path = paths.Discrete(paths.sqrt_linear_betas())
    keep = samplers.consistency(lambda x, k: x, 0 * start[0], np.array([999, 499]), path, start[1])
    np.testing.assert_allclose(np.std(np.asarray(keep)), np.sqrt(1 - 0.27767), atol=0.01)
    once = samplers.consistency(lambda x, k: x + k, np.ones((3, 1), np.float32), np.array([999]), path, make_keys(3))
    np.testing.assert_array_equal(once, np.full((3, 1), 1000.0))


# ---- keys ----


def test_samples_depend_on_their_own_key_alone(gaussian, make_keys):
    """Not on their neighbours; the same key gives the same sample, another key another one."""
    linear, cosine, edm = gaussian(), gaussian(COSINE), gaussian(SIGMA)
    table = gaussian(paths.Discrete(tuple(np.linspace(0.02, 0.3, 20))))
    grid, ks = np.float32([1.0, 0.5, 0.04, 0.0]), np.array([15, 9, 2])
    runs = {
        "euler_maruyama": lambda x, keys: samplers.euler_maruyama(linear.velocity, linear.score, x, grid, keys),
        "ddim": lambda x, keys: samplers.ddim(cosine.estimate, x, grid, COSINE, eta=1.0, keys=keys),
        "dpm_solver": lambda x, keys: samplers.dpm_solver(cosine.estimate, x, grid, COSINE, keys=keys),
        "churned_heun": lambda x, keys: samplers.churned_heun(edm.velocity, x, grid, keys, churn=1.0),
        "ancestral": lambda x, keys: samplers.ancestral(table.estimate, x, ks, table.path, keys),
        "consistency": lambda x, keys: samplers.consistency(lambda x, k: x, x, ks, table.path, keys),
    }
    together = jax.jit(lambda x, keys: {name: run(x, keys) for name, run in runs.items()})
    x, keys = np.float32([[0.3], [-1.2], [0.9], [2.0]]), make_keys(4)
    order = np.array([2, 0, 3, 1])
    results = (
        together(x, keys),
        together(x, keys),
        together(x[order], make_keys(4, order)),
        together(x, make_keys(4, [3, 2, 1, 0])),
    )
    whole, again, moved, other = jax.tree.map(np.asarray, results)
    for name in runs:
        np.testing.assert_array_equal(whole[name], again[name])
        np.testing.assert_array_equal(whole[name][order], moved[name])
        assert (np.abs(whole[name] - other[name]) > 1e-4).all(), name
