import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.diffusion import guidance, noise, paths, samplers, times

GAUSSIAN = 0.25  # variance of the data; the exact velocity of the linear path is known


def _velocity(x, t):
    mean = (1 - t) * GAUSSIAN / ((1 - t) ** 2 * GAUSSIAN + t**2) * x
    return (x - mean) / t


@pytest.mark.parametrize("steps, error", [(10, -0.11767), (20, -0.06078), (40, -0.03092), (80, -0.01560)])
def test_euler_on_gaussian_data_has_the_known_errors(steps, error):
    end = samplers.euler(_velocity, jnp.array([1.7]), times.uniform_grid(steps))
    np.testing.assert_allclose(end[0] - 0.85, error, atol=2e-5)


@pytest.mark.parametrize("steps", [1, 7, 32])
def test_a_constant_velocity_is_followed_exactly(steps):
    x, e = jnp.array([[0.3, -2.0]]), jnp.array([[1.5, 0.2]])
    path = paths.Linear(floor=1e-5)
    _, v = paths.interpolate(path, x, e, jnp.array([0.4]))
    end = samplers.euler(lambda x_t, t: v, e, times.uniform_grid(steps), middle=True)
    np.testing.assert_allclose(end, x + 1e-5 * e, atol=2e-6)


def test_middle_shows_the_middle_of_each_step():
    grid = times.uniform_grid(4)
    np.testing.assert_allclose(samplers.network_times(grid, middle=True), [0.875, 0.625, 0.375, 0.125])
    np.testing.assert_allclose(samplers.network_times(grid), [1.0, 0.75, 0.5, 0.25])


def test_per_step_inputs_reach_their_step():
    values = jnp.array([1.0, 10.0])
    end = samplers.euler(
        lambda x, t, extra: extra * jnp.ones_like(x), jnp.zeros(1), times.uniform_grid(2), per_step=values
    )
    np.testing.assert_allclose(end, [-5.5])


def test_path_ends_at_data_and_noise():
    x, e = jnp.ones((2, 3)), jnp.full((2, 3), 5.0)
    x_t, v = paths.interpolate(paths.Linear(floor=1e-5), x, e, jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(x_t[0], 1.0 + 5e-5, rtol=1e-7)
    np.testing.assert_allclose(x_t[1], 5.0)
    np.testing.assert_allclose(v, -1.0 + (1 - 1e-5) * 5.0, rtol=1e-6)


def test_rescaled_guidance_has_the_known_values():
    c, u = jnp.array([[1.0, -1.0, 2.0, -2.0]]), jnp.array([[0.5, -0.5, 0.5, -0.5]])
    guided = guidance.classifier_free(c, u, 5.0)
    np.testing.assert_allclose(guided, [[3.0, -3.0, 8.0, -8.0]])
    np.testing.assert_allclose(guidance.rescale(guided, c, 0.75), [[1.33885, -1.33885, 3.57027, -3.57027]], atol=1e-5)
    np.testing.assert_allclose(guidance.classifier_free(c, u, 1.0), c)
    np.testing.assert_allclose(guidance.rescale(guided, c, 0.0), guided)


def test_rescale_leaves_the_stated_mixture_of_deviations_on_the_masked_part():
    c = jax.random.normal(jax.random.key(0), (2, 6, 3))
    g = 4.0 * jax.random.normal(jax.random.key(1), (2, 6, 3)) + 1.0
    mask = jnp.array([[1] * 6, [0, 0, 1, 1, 1, 0]], bool)
    out = guidance.rescale(g, c, 0.75, mask=mask)
    for row, keep in enumerate(np.asarray(mask)):
        expected = 0.75 * np.std(c[row][keep]) + 0.25 * np.std(g[row][keep])
        np.testing.assert_allclose(np.std(out[row][keep]), expected, rtol=1e-5)
    whole = guidance.rescale(g, c, 0.75, per_sample=False)
    np.testing.assert_allclose(np.std(whole), 0.75 * np.std(c) + 0.25 * np.std(g), rtol=1e-5)


def test_noise_depends_on_the_example_alone():
    keys = noise.per_example(jax.random.key(3), jnp.array([5, 9]))
    both = noise.sequence(keys, 12, 4)
    alone = noise.sequence(noise.per_example(jax.random.key(3), jnp.array([9])), 7, 4)
    np.testing.assert_array_equal(both[1, :7], alone[0])
    assert abs(float(noise.sequence(keys, 2000, 4).std()) - 1.0) < 0.02


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="at least 1 step"):
        times.uniform_grid(0)
