import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.diffusion import guidance, paths, predictions, samplers, times

C, U = np.float32([[1.0, -1.0, 2.0, -2.0]]), np.float32([[0.5, -0.5, 0.5, -0.5]])


def _close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


def test_rules_by_hand(compute):
    def rules(c, u):
        guided = guidance.classifier_free(c, u, 5.0)
        return {
            "guided": guided,
            "one": guidance.classifier_free(c, u, 1.0),
            "rescaled": guidance.rescale(guided, c, 0.75),
            "not rescaled": guidance.rescale(guided, c, 0.0),
            "zero_star": guidance.zero_star(c, u, 5.0),
            "whole": guidance.projected(c, u, 5.0, parallel=1.0, longest=jnp.inf),
            "orthogonal": guidance.projected(c, u, 5.0) - u,
            "short": guidance.projected(c, u, 1.0, parallel=1.0, longest=0.1) - u,
            "three": guidance.some_channels(guided, c, 3),
            "two": guidance.some_channels(guided, c, (1, 3)),
            "none": guidance.some_channels(guided, c, 0),
        }

    found = compute(rules, C, U)
    guided = [[3, -3, 8, -8]]
    for name, expected in {
        "guided": guided, "one": C, "not rescaled": guided, "whole": guided, "zero_star": [[-1, 1, 4, -4]],
        "rescaled": [[1.33885, -1.33885, 3.57027, -3.57027]], "three": [[3, -3, 8, -2]], "two": [[1, -3, 2, -8]],
        "none": C,
    }.items():  # fmt: skip
        np.testing.assert_allclose(found[name], expected, rtol=5e-6, err_msg=name)
    _close([(found["orthogonal"] * C).sum(), np.linalg.norm(found["short"])], [0.0, 0.1])
    with pytest.raises(ValueError, match="among the 4"):
        guidance.some_channels(C, C, 5)


def test_scales_by_time(compute):
    t = np.float32([0.0, 0.3, 0.5, 1.0])

    def scales(t):
        return guidance.interval(t, 4.0, 0.3, 0.5), guidance.power_cosine(t, 3.0, 1.0), guidance.ramp(t, 3.0)

    found = compute(scales, t)
    _close(found[0], [1, 4, 4, 1])
    _close(found[1][[3, 2, 0]], [1, 2, 3])
    _close(found[2][[0, 2, 3]], [1, 2, 3])


def test_rescale_leaves_the_stated_mixture_of_deviations_on_the_masked_part(compute):
    rng = np.random.default_rng(0)
    c, g = rng.standard_normal((2, 6, 3)), 4.0 * rng.standard_normal((2, 6, 3)) + 1.0
    mask = np.array([[1] * 6, [0, 0, 1, 1, 1, 0]], bool)
    out, whole = compute(
        lambda g, c: (guidance.rescale(g, c, 0.75, mask=mask), guidance.rescale(g, c, 0.75, per_sample=False)), g, c
    )
    for row, keep in enumerate(mask):
        expected = 0.75 * np.std(c[row][keep]) + 0.25 * np.std(g[row][keep])
        np.testing.assert_allclose(np.std(out[row][keep]), expected, rtol=1e-5)
    np.testing.assert_allclose(np.std(whole), 0.75 * np.std(c) + 0.25 * np.std(g), rtol=1e-5)


def test_several_conditions():
    both = 2 * C
    np.testing.assert_allclose(guidance.nested([U, C, both], [7.0, 2.0]), U + 7 * (C - U) + 2 * C)
    same = guidance.nested([U, C, both], [3.0, 3.0])
    np.testing.assert_allclose(same, guidance.classifier_free(both, U, 3.0), rtol=1e-6)
    np.testing.assert_allclose(guidance.composed([C, both], U, [1.0, 0.0]), C)
    np.testing.assert_allclose(guidance.composed([C, both], U, [2.0, -1.0]), U + 2 * (C - U) - (both - U))
    with pytest.raises(ValueError, match="one scale less"):
        guidance.nested([U, C], [1.0, 2.0])
    with pytest.raises(ValueError, match="one scale per condition"):
        guidance.composed([C], U, [])


def test_two_denoisers_make_one(compute):
    """The weak one is left out where the scale is 1: outside of its interval it is not even finite here."""
    scale = functools.partial(guidance.interval, scale=5.0, low=0.2, high=0.6)

    def weak(x, t):
        return jnp.where((t < 0.2) | (t > 0.6), jnp.nan, U)

    denoise = jax.jit(guidance.guided(lambda x, t: jnp.asarray(C), weak, scale))
    np.testing.assert_allclose(denoise(C, 0.5), [[3, -3, 8, -8]])
    np.testing.assert_allclose(denoise(C, 0.9), C)
    assert guidance.guided(lambda x, t: x, None, 1.0)(C, 0.5) is C
    constant = guidance.guided(lambda x, t: C, lambda x, t: U, 5.0, rule=guidance.zero_star)
    two = guidance.guided(lambda x, t: jnp.tile(C, (2, 1)), lambda x, t: jnp.tile(U, (2, 1)), scale)
    found = compute(lambda x, t: (constant(x, t), two(x, t)), C, np.float32([0.5, 0.9]))
    _close(found[0], [[-1, 1, 4, -4]])
    np.testing.assert_allclose(found[1], [[3, -3, 8, -8], [1, -1, 2, -2]])  # a scale per example


def test_guiding_any_prediction_of_a_linear_path_is_the_same(compute):
    """At one state, u and c give the same guided data estimate in every form."""
    path, t, x_t = paths.Linear(), np.float32([0.3]), 0.7 * C

    def guided(c, u):
        found = []
        for kind in ("data", "noise", "flow"):
            as_kind = []
            for data in (c, u):
                noise = (x_t - 0.7 * data) / 0.3
                as_kind.append(predictions.target(kind, path, data, noise, t))
            both = guidance.classifier_free(*as_kind, 3.0)
            found.append(predictions.data_and_noise(kind, path, both, x_t, t)[0])
        return found

    data, noise, flow = compute(guided, C, U)
    np.testing.assert_allclose(data, U + 3 * (C - U), rtol=1e-6)
    np.testing.assert_allclose(noise, data, rtol=1e-5)
    np.testing.assert_allclose(flow, data, rtol=1e-5)


def test_the_first_steps_answer_zero(compute):
    grid = times.uniform_grid(4)

    def ends(x):
        velocities = (guidance.zero_start(lambda x, t: jnp.ones_like(x), grid, n) for n in (0, 2))
        return [samplers.euler(velocity, x, grid) for velocity in velocities]

    np.testing.assert_allclose(np.ravel(compute(ends, np.zeros((1, 1)))), [-1.0, -0.5])
    with pytest.raises(ValueError, match="steps must lie in"):
        guidance.zero_start(lambda x, t: x, grid, 5)


def test_residual_guidance_tracks_the_virtual_noise(compute):
    """(x - a z)/s at every step, without the image z; the network is a random linear map, c_skip 0."""
    path, levels = paths.Discrete(paths.sqrt_linear_betas()), np.array([679, 359, 299, 99])
    rng = np.random.default_rng(0)
    z, mix, noises = rng.standard_normal((2, 6)), rng.standard_normal((6, 6)) / 3, rng.standard_normal((4, 2, 6))
    a, s = np.sqrt(path.alpha_bar[levels]), np.sqrt(1 - path.alpha_bar[levels])
    np.testing.assert_allclose([a[1], s[1], a[3], s[3]], [0.70107, 0.71309, 0.94629, 0.32332], atol=1e-5)

    def step(x, virtual, fresh, now, then):
        guided = guidance.residual(x @ mix.astype(np.float32), virtual, 1.2, share=0.9)
        return guided, guidance.virtual_noise(virtual, guided, fresh, path, now, then)

    step = jax.jit(step)
    x, virtual = a[0] * z + s[0] * noises[0], noises[0]
    for i in range(3):
        expected = 0.9 * virtual + 1.2 * (x @ mix - 0.9 * virtual)
        guided, virtual = (np.asarray(y) for y in step(x, virtual, noises[i + 1], levels[i], levels[i + 1]))
        np.testing.assert_allclose(guided, expected, rtol=1e-4, atol=1e-4)
        x = a[i + 1] * (x - s[i] * guided) / a[i] + s[i + 1] * noises[i + 1]
        np.testing.assert_allclose(virtual, (x - a[i + 1] * z) / s[i + 1], rtol=1e-4, atol=1e-4)
    # a network that gives the true noise is not changed, nor is any at scale 1
    np.testing.assert_allclose(guidance.residual(C, C, 1.4), C, rtol=1e-6)
    np.testing.assert_allclose(guidance.residual(C, U, 1.0), C)
    np.testing.assert_allclose(guidance.residual(C, U, 1.4, share=0.0), 1.4 * C)
