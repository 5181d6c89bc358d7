"""Paths, predictions, times, samplers and guidance against closed forms; data is Gaussian of deviation 1/2.

For such data the exact denoiser is x = a v/(a^2 v + s^2) x_t with v = 1/4, and the exact flow scales the state by its
deviation sqrt(a^2 v + s^2).
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.diffusion import guidance, paths, predictions, samplers, times

VARIANCE = 0.25
PATHS = {"linear": paths.Linear(), "floor": paths.Linear(1e-5), "cosine": paths.Cosine(),
         "vp": paths.VariancePreserving(), "sigma": paths.Sigma()}  # fmt: skip
KEY = jax.random.key(0)


def _estimate(path, variance=VARIANCE):
    def both(x, t):
        a, s = path.coefficients(t)
        data = a * variance / (a**2 * variance + s**2) * x
        return data, jnp.where(s > 0, (x - a * data) / jnp.where(s > 0, s, 1.0), 0.0)

    return both


def _velocity(path, variance=VARIANCE):
    estimate = _estimate(path, variance)

    def velocity(x, t):
        data, noise = estimate(x, t)
        da, ds = path.derivatives(t)
        return da * data + ds * noise

    return velocity


def _close(found, expected, tolerance):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


# ---- paths ----


@pytest.mark.parametrize("name", PATHS)
def test_derivatives_are_those_of_the_coefficients(name):
    path, t = PATHS[name], jnp.linspace(0.05, 0.95, 7)
    for number in (0, 1):
        slope = jax.vmap(jax.grad(lambda t, n=number: path.coefficients(t)[n]))(t)
        np.testing.assert_allclose(path.derivatives(t)[number], slope, rtol=2e-5, atol=1e-6)


def test_tables():
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
    a, s = paths.Discrete(made["linear"]).coefficients(jnp.array([-1, 0]))
    np.testing.assert_allclose([a, s], [[1.0, 0.9999**0.5], [0.0, 0.01]], rtol=1e-4)


def test_a_respaced_table_keeps_its_levels():
    path = paths.Discrete(paths.linear_betas())
    chosen = times.indices(250, spacing="respaced")[::-1]
    assert chosen[0] == 0 and chosen[-1] == 999 and len(chosen) == 250
    np.testing.assert_allclose(paths.respaced(path, chosen).alpha_bar, path.alpha_bar[chosen], rtol=1e-9)


# ---- predictions ----


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("kind", predictions.KINDS)
def test_every_prediction_gives_back_data_and_noise(name, kind):
    path = PATHS[name]
    x, noise = jax.random.normal(KEY, (2, 5, 3, 4))
    t = jnp.linspace(0.1, 0.9, 5)
    x_t = paths.corrupt(path, x, noise, t)
    target = predictions.target(kind, path, x, noise, t)
    found = predictions.data_and_noise(kind, path, target, x_t, t)
    _close(found[0], x, 2e-4)
    _close(found[1], noise, 2e-4)
    _close(predictions.flow(kind, path, target, x_t, t), paths.interpolate(path, x, noise, t)[1], 2e-3)


@pytest.mark.parametrize("path", [paths.Cosine(), paths.VariancePreserving()])
def test_score_of_unit_gaussian_data_is_minus_the_state(path):
    x, t = jax.random.normal(KEY, (6, 4)), jnp.linspace(0.1, 1.0, 6)
    data, _ = _estimate(path, 1.0)(x, paths.expand(t, 2))
    _close(predictions.score("data", path, data, x, t), -x, 1e-4)


def test_edm_scales_and_weights():
    table = {
        0.5: (0.5, 0.353553, 1.414214, -0.173287, 8.0),
        80.0: (3.9061e-5, 0.49999, 0.0124998, 1.09551, 4.00016),
        0.002: (0.999984, 0.00199998, 1.99998, -1.55365, 250004),
    }
    for sigma, expected in table.items():
        found = (*predictions.edm_scales(jnp.asarray(sigma)), predictions.edm_weight(jnp.asarray(sigma)))
        np.testing.assert_allclose(found, expected, rtol=2e-5)


def test_min_snr_weights():
    path = paths.Discrete(paths.linear_betas())
    weight = predictions.min_snr_weight("noise", paths.log_snr(path, jnp.arange(1000)))
    np.testing.assert_allclose(weight[jnp.array([0, 99])], [0.00050005, 0.574023], rtol=2e-3)
    assert int((weight < 1).sum()) == 130


# ---- times ----


def test_shifts_compose_and_keep_the_ends():
    t = np.linspace(0, 1, 11)
    np.testing.assert_allclose(times.shift(times.shift(t, 3.0), 2.0), times.shift(t, 6.0), atol=1e-12)
    np.testing.assert_allclose(times.shift(times.shift(t, 3.0), 1 / 3), t, atol=1e-12)
    assert times.shift(0.5, 3.0) == 0.75
    assert all(times.shift(np.float32([0, 1]), q).tolist() == [0, 1] for q in np.arange(0.1, 12, 0.01))
    np.testing.assert_allclose([times.shift_of_tokens(n) for n in (1024, 4096)], [np.exp(0.63), 3.158], rtol=1e-3)


def test_logit_normal_quantiles():
    t = times.logit_normal(jax.random.split(KEY, 20000))
    _close(jnp.quantile(t, jnp.array([0.1, 0.25, 0.5, 0.75, 0.9])), [0.2173, 0.3375, 0.5, 0.6625, 0.7827], 0.01)
    s = times.stratified(KEY, 16)
    np.testing.assert_array_equal(jnp.floor(s * 16), jnp.arange(16))


def test_grids():
    sigmas = times.karras_sigmas(18)
    np.testing.assert_allclose(sigmas[:6], [80, 57.586, 40.786, 28.375, 19.352, 12.910], rtol=1e-4)
    np.testing.assert_allclose(sigmas[-4:], [0.022935, 0.007528, 0.002, 0.0], rtol=1e-4)
    assert times.indices(50)[:3].tolist() == [999, 979, 959]
    assert times.indices(50, spacing="leading")[:3].tolist() == [981, 961, 941]
    assert times.indices(50, spacing="linspace")[:3].tolist() == [999, 979, 958]
    for steps in range(1, 1001):
        found = times.indices(steps)
        assert len(found) == steps and found[0] == 999 and found.min() >= 0 and (np.diff(found) < 0).all()
    assert times.lcm_indices(4).tolist() == [999, 759, 499, 259]
    assert times.lcm_indices(8).tolist() == [999, 879, 759, 639, 499, 379, 259, 139]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: times.indices(0), "expected 1 to 1000 steps, found 0"),
        (lambda: times.indices(5, spacing="even"), "spacing must be"),
        (lambda: times.shift(0.5, 0.0), "shift must be positive"),
        (lambda: times.indices(1000, spacing="leading"), "leaves the table of 1000 levels"),
        (lambda: times.karras_sigmas(1), "at least 2 steps"),
        (lambda: predictions.check("epsilon"), "prediction must be one of"),
        (lambda: samplers.heun(_velocity(paths.Linear()), jnp.ones(1), jnp.ones(1)), "at least 2 times"),
        (lambda: samplers.ddim(None, jnp.ones(1), jnp.ones(3), paths.Linear(), eta=1.0), "eta needs keys"),
        (lambda: samplers.dpm_solver(None, jnp.ones(1), jnp.ones(3), paths.Linear(), order=3), "order must be 1 or 2"),
        (lambda: paths.Discrete((0.1,)).derivatives(0), "no derivatives"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- samplers on the exact denoiser ----

START = jnp.array([[1.7]])


def test_euler_and_heun_converge_at_their_orders():
    """From 1.7 at noise to 0.85, the tabled errors of 10, 20, 40, 80 steps."""
    velocity = _velocity(paths.Linear())
    grids = [np.linspace(1, 0, n + 1) for n in (10, 20, 40, 80)]
    euler = [samplers.euler(velocity, START, grid)[0, 0] - 0.85 for grid in grids]
    _close(euler, [-0.11767, -0.06078, -0.03092, -0.01560], 1e-5)
    heun = [samplers.heun(velocity, START, grid)[0, 0] - 0.85 for grid in grids]
    _close(heun, [0.002924, 0.000864, 0.000233, 0.0000602], 2e-6)
    two_step = [abs(samplers.adams_bashforth(velocity, START, grid)[0, 0] - 0.85) for grid in grids]
    assert all(3.0 < a / b < 5.0 for a, b in itertools.pairwise(two_step))  # second order


def _lambda_grid(steps):
    """Times of the cosine path whose log(a/s) is uniform from -3 to 4."""
    return 2 / np.pi * np.arctan(np.exp(-np.linspace(-3, 4, steps + 1)))


def test_ddim_and_dpm_solver_converge_at_their_orders():
    path, start = paths.Cosine(), jnp.array([[1.0]])
    estimate, grids = _estimate(path), [_lambda_grid(n) for n in (10, 20, 40, 80)]
    a, s = (np.asarray(c) for c in path.coefficients(jnp.asarray(grids[0][[0, -1]])))
    exact = np.sqrt((a[1] ** 2 / 4 + s[1] ** 2) / (a[0] ** 2 / 4 + s[0] ** 2))
    _close(exact, 0.500716, 1e-6)
    first = [samplers.ddim(estimate, start, grid, path)[0, 0] - exact for grid in grids]
    _close(first, [-0.08025, -0.04187, -0.02139, -0.01081], 1e-5)
    again = [samplers.dpm_solver(estimate, start, grid, path, order=1)[0, 0] - exact for grid in grids]
    _close(again, first, 2e-6)
    second = [samplers.dpm_solver(estimate, start, grid, path, last_first=False)[0, 0] - exact for grid in grids]
    _close(np.abs(second), [0.01143, 0.00360, 0.000937, 0.000236], 1e-5)


def test_ddim_on_the_linear_path_is_euler_and_dpm_begins_at_pure_noise():
    path, grid = paths.Linear(), np.linspace(1, 0, 11)
    euler = samplers.euler(_velocity(path), START, grid)
    np.testing.assert_allclose(samplers.ddim(_estimate(path), START, grid, path), euler, atol=1e-5)
    error = [float(samplers.dpm_solver(_estimate(path), START, np.linspace(1, 0, n + 1), path)[0, 0]) for n in (10, 40)]
    assert abs(error[0] - 0.85) < 0.05 and abs(error[1] - 0.85) < 0.01


def test_edm_heun():
    velocity, start = _velocity(paths.Sigma()), jnp.array([[80.0]])
    ends = [samplers.heun(velocity, start, times.karras_sigmas(n), last_euler=True)[0, 0] for n in (9, 18, 36)]
    _close(ends, [0.6391, 0.5276, 0.5061], 1e-4)


def test_ddim_step_by_hand():
    path = paths.Discrete(paths.sqrt_linear_betas())
    estimate = predictions.estimator(lambda x, t: jnp.full_like(x, 0.5), "noise", path)
    x = jnp.array([[1.0]])
    _close(estimate(x, jnp.asarray(500))[0], 1.093182, 1e-5)
    _close(samplers.ddim(estimate, x, jnp.array([500, 480]), path), 1.019660, 1e-5)
    keys = jax.random.split(KEY, 4000)
    many = samplers.ddim(estimate, jnp.ones((4000, 1)), jnp.array([500, 480]), path, eta=1.0, keys=keys)
    _close(many.std(), 0.294430, 0.01)


def test_stochastic_samplers_end_with_the_data_deviation():
    """SiT's recipe from unit noise, exact 1/2: 0.49434 with a last step of 0.04, 0.49916 with one of 0.004."""
    path, keys = paths.Linear(), jax.random.split(KEY, 20000)
    start = jax.vmap(lambda key: jax.random.normal(key, (1,)))(jax.random.split(jax.random.key(1), 20000))
    velocity = _velocity(path)

    def score(x, t):
        return -_estimate(path)(x, t)[1] / t

    for last, expected in ((0.04, 0.49434), (0.004, 0.49916)):
        grid = np.append(np.linspace(1, last, 250), 0.0)
        x = samplers.euler_maruyama(velocity, score, start, grid, keys)
        _close(x.std(), expected, 0.006)


def _ancestral_deviation(level, upper):
    """The deviation that the exact denoiser ends with: a linear recursion over levels, ascending, in float64."""
    variance = 1.0
    for k in range(len(level) - 1, -1, -1):
        before = level[k - 1] if k else 1.0
        alpha = level[k] / before
        denoise = np.sqrt(level[k]) * VARIANCE / (level[k] * VARIANCE + 1 - level[k])
        keep = (np.sqrt(before) * (1 - alpha) * denoise + np.sqrt(alpha) * (1 - before)) / (1 - level[k])
        noise = (1 - alpha) if upper else (1 - alpha) * (1 - before) / (1 - level[k])
        variance = keep**2 * variance + (noise if k else 0.0)
    return np.sqrt(variance)


@pytest.mark.parametrize(("spacing", "steps", "upper"), [("respaced", 250, False), ("trailing", 50, True)])
def test_ancestral_sampling_follows_its_recursion(spacing, steps, upper):
    path, keys = paths.Discrete(paths.linear_betas()), jax.random.split(KEY, 20000)
    start = jax.vmap(lambda key: jax.random.normal(key, (1,)))(jax.random.split(jax.random.key(1), 20000))
    chosen = times.indices(steps, spacing=spacing)

    def estimate(x, k):
        both = _estimate(path)(x, k)
        return (*both, jnp.ones_like(x)) if upper else both

    x = samplers.ancestral(estimate, start, chosen, path, keys)
    _close(x.std(), _ancestral_deviation(path.alpha_bar[chosen[::-1]], upper), 0.006)
    _close(_ancestral_deviation(path.alpha_bar, upper), 0.5, 0.03)  # all levels are nearly exact


def test_consistency_sampling_renoises_to_each_level():
    path = paths.Discrete(paths.sqrt_linear_betas())

    def function(x, k):
        return 0.0 * x + 2.0

    x = samplers.consistency(function, jnp.zeros((3, 1)), times.lcm_indices(4), path, jax.random.split(KEY, 3))
    _close(x, 2.0, 1e-6)
    keep = samplers.consistency(lambda x, k: x, jnp.zeros((4000, 1)), jnp.array([999, 499]), path,
                                jax.random.split(KEY, 4000))  # fmt: skip
    _close(keep.std(), np.sqrt(1 - 0.27767), 0.02)


def test_samples_do_not_depend_on_their_neighbours():
    path, keys = paths.Linear(), jax.random.split(KEY, 5)
    start = jax.random.normal(jax.random.key(2), (5, 3))
    velocity, grid = _velocity(path), np.append(np.linspace(1, 0.04, 9), 0.0)
    score = lambda x, t: -_estimate(path)(x, t)[1] / t  # noqa: E731
    whole = samplers.euler_maruyama(velocity, score, start, grid, keys)
    alone = samplers.euler_maruyama(velocity, score, start[3:4], grid, keys[3:4])
    np.testing.assert_allclose(alone[0], whole[3], atol=1e-6)


# ---- guidance ----

C, U = jnp.array([[1.0, -1.0, 2.0, -2.0]]), jnp.array([[0.5, -0.5, 0.5, -0.5]])


def test_guidance_by_hand():
    guided = guidance.classifier_free(C, U, 5.0)
    np.testing.assert_allclose(guided, [[3, -3, 8, -8]])
    _close(guidance.rescale(guided, C, 0.75), [[1.33885, -1.33885, 3.57027, -3.57027]], 1e-5)
    np.testing.assert_allclose(guidance.classifier_free(C, U, 1.0), C)
    _close(guidance.zero_star(C, U, 5.0), [[-1, 1, 4, -4]], 1e-5)
    np.testing.assert_allclose(guidance.projected(C, U, 5.0, parallel=1.0, longest=jnp.inf), guided, rtol=1e-6)
    orthogonal = guidance.projected(C, U, 5.0) - U
    _close(jnp.sum(orthogonal * C), 0.0, 1e-5)
    short = guidance.projected(C, U, 1.0, parallel=1.0, longest=0.1) - U
    _close(jnp.linalg.norm(short), 0.1, 1e-6)
    np.testing.assert_allclose(guidance.some_channels(guided, C, 3), [[3, -3, 8, -2]])
    t = jnp.array([0.0, 0.3, 0.5, 1.0])
    assert guidance.interval(t, 4.0, 0.3, 0.5).tolist() == [1, 4, 4, 1]
    _close(guidance.power_cosine(jnp.array([1.0, 0.5, 0.0]), 3.0, 1.0), [1, 2, 3], 1e-6)
    assert guidance.ramp(jnp.array([0.0, 0.5, 1.0]), 3.0).tolist() == [1, 2, 3]
