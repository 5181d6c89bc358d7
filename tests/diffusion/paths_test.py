import jax
import numpy as np
import pytest

from jaxtok.diffusion import paths, times

PATHS = {"linear": paths.Linear(), "floor": paths.Linear(1e-5), "cosine": paths.Cosine(),
         "vp": paths.VariancePreserving(), "sigma": paths.Sigma()}  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_derivatives_are_those_of_the_coefficients_and_time_inverts_the_log_snr(name, compute):
    path, t = PATHS[name], np.linspace(0.05, 0.95, 7, dtype=np.float32)

    def both(t):
        found = (*path.derivatives(t), paths.log_snr_slope(path, t))
        functions = (lambda t: path.coefficients(t)[0], lambda t: path.coefficients(t)[1],
                     lambda t: paths.log_snr(path, t))  # fmt: skip
        expected = [jax.vmap(jax.grad(function))(t) for function in functions]
        return found, expected, path.time(paths.log_snr(path, t))

    found, expected, again = compute(both, t)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(again, t, rtol=1e-5)


def test_the_straight_path_ends_at_data_and_noise(compute):
    x, e, t = np.ones((2, 3), np.float32), np.full((2, 3), 5.0, np.float32), np.float32([0.0, 1.0])
    x_t, v = compute(lambda x, e, t: paths.interpolate(paths.Linear(floor=1e-5), x, e, t), x, e, t)
    np.testing.assert_allclose(x_t[0], 1.0 + 5e-5, rtol=1e-7)
    np.testing.assert_allclose(x_t[1], 5.0)
    np.testing.assert_allclose(v, -1.0 + (1 - 1e-5) * 5.0, rtol=1e-6)


def test_a_time_per_token_gives_each_token_its_own_level(compute):
    x, e = np.ones((2, 3, 4), np.float32), np.zeros((2, 3, 4), np.float32)
    t = np.float32([[0.0, 0.5, 1.0], [0.25, 0.75, 0.0]])

    def both(t):
        return paths.interpolate(paths.Linear(), x, e, t)[0], paths.corrupt(paths.Linear(), x, e, t)

    x_t, alone = compute(both, t)
    np.testing.assert_allclose(x_t, np.broadcast_to((1 - t)[..., None], x.shape))
    np.testing.assert_array_equal(alone, x_t)


def test_tables(compute):
    """Levels at k = 0, 249, 499, 749, 999."""
    expected = {
        "linear": (0.9999, 0.524085, 0.0785872, 0.00335055, 4.03583e-5),
        "cosine": (0.999959, 0.847012, 0.493844, 0.144272, 2.42877e-9),
        "sqrt": (0.99915, 0.675432, 0.27767, 0.0566235, 0.0046601),
    }
    made = {"linear": paths.linear_betas(), "cosine": paths.cosine_betas(), "sqrt": paths.sqrt_linear_betas()}
    for name, values in expected.items():
        found = paths.Discrete(made[name]).alpha_bar[[0, 249, 499, 749, 999]]
        np.testing.assert_allclose(found, values, rtol=2e-5)
    zero = paths.Discrete(paths.zero_terminal(made["sqrt"])).alpha_bar
    np.testing.assert_allclose(zero[[0, 499, 999]], [0.99915, 0.242359, 0.0], atol=1e-6)
    a, s = compute(paths.Discrete(made["linear"]).coefficients, np.array([-1, 0]))
    np.testing.assert_allclose([a, s], [[1.0, 0.9999**0.5], [0.0, 0.01]], rtol=1e-4)


def test_the_table_of_embedded_text():
    betas = paths.sqrt_betas()
    np.testing.assert_allclose(betas[:3], [0.014641, 0.008889, 0.007068], atol=1e-6)
    assert betas[-1] == 0.999 and sum(beta == 0.999 for beta in betas) == 1
    level = paths.Discrete(betas).alpha_bar
    np.testing.assert_allclose([level[0], np.sqrt(1 - level[0]), level[1000]], [0.98536, 0.121, 0.2954], atol=5e-5)


def test_a_respaced_table_keeps_its_levels():
    path = paths.Discrete(paths.linear_betas())
    chosen = times.indices(250, spacing="respaced")[::-1]
    assert chosen[0] == 0 and chosen[-1] == 999 and len(chosen) == 250
    np.testing.assert_allclose(paths.respaced(path, chosen).alpha_bar, path.alpha_bar[chosen], rtol=1e-9)
    with pytest.raises(ValueError, match="no derivatives"):
        path.derivatives(np.asarray(0))
    with pytest.raises(ValueError, match=r"betas must lie in \(0, 1\], found 2 from 0.1 to 1.5"):
        paths.Discrete((0.1, 1.5))


def test_the_posterior_of_a_table(compute):
    """Against the formula of DDPM in float64, and two of its variances."""
    path = paths.Discrete(paths.linear_betas())
    now, then = np.array([0, 1, 500, 999]), np.array([-1, 0, 480, 998])

    def both(now, then):
        return paths.posterior(path, 0.3, -0.7, now, then), paths.forward_variance(path, now, then)

    (mean, variance), forward = compute(both, now, then)
    np.testing.assert_allclose(variance[[1, 3]], [5.45319e-5, 0.0199999835], rtol=2e-5)
    level = np.append(path.alpha_bar, 1.0)
    before, here = level[then], level[now]
    alpha = here / before
    expected = (np.sqrt(before) * (1 - alpha) * 0.3 - np.sqrt(alpha) * (1 - before) * 0.7) / (1 - here)
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    np.testing.assert_allclose(forward, 1 - alpha, rtol=2e-5)


def test_even_steps_of_log_snr(compute):
    """And one process with two clocks: sigma = t/(1 - t)."""
    path = paths.Cosine()

    def both(t):
        even = paths.log_snr(path, paths.log_snr_grid(path, 7, low=-6.0, high=8.0))
        return even, paths.Sigma().time(paths.log_snr(paths.Linear(), t))

    t = np.float32([0.1, 0.5, 0.9])
    even, sigma = compute(both, t)
    np.testing.assert_allclose(even, np.linspace(-6, 8, 8), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sigma, t / (1 - t), rtol=1e-5)
    with pytest.raises(ValueError, match="at least 1 step"):
        paths.log_snr_grid(path, 0, low=-6.0, high=8.0)
