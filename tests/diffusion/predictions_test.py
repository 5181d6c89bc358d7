import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.diffusion import paths, predictions

PATHS = {"linear": paths.Linear(), "floor": paths.Linear(1e-5), "cosine": paths.Cosine(),
         "vp": paths.VariancePreserving(), "sigma": paths.Sigma()}  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_every_prediction_gives_back_data_and_noise(name, compute):
    path = PATHS[name]
    x, noise = np.random.default_rng(0).standard_normal((2, 5, 3, 4)).astype(np.float32)
    t = np.linspace(0.1, 0.9, 5, dtype=np.float32)

    def round_trip(x, noise, t):
        x_t, v = paths.interpolate(path, x, noise, t)
        found = {}
        for kind in predictions.KINDS:
            target = predictions.target(kind, path, x, noise, t)
            both = predictions.data_and_noise(kind, path, target, x_t, t)
            found[kind] = (*both, predictions.flow(kind, path, target, x_t, t), target)
        return found, v

    found, v = compute(round_trip, x, noise, t)
    for kind in predictions.KINDS:
        np.testing.assert_allclose(found[kind][0], x, atol=2e-4)
        np.testing.assert_allclose(found[kind][1], noise, atol=2e-4)
        np.testing.assert_allclose(found[kind][2], v, atol=2e-3)
    np.testing.assert_array_equal(found["flow"][3], v)
    with pytest.raises(ValueError, match="prediction must be one of"):
        predictions.check("epsilon")


@pytest.mark.parametrize("path", [paths.Cosine(), paths.VariancePreserving()])
def test_score_of_unit_gaussian_data_is_minus_the_state(path, gaussian, compute):
    x, t = np.linspace(-2, 2, 24, dtype=np.float32).reshape(6, 4), np.linspace(0.1, 1.0, 6, dtype=np.float32)

    def score(x, t):
        return predictions.score("data", path, gaussian(path, 1.0).estimate(x, t)[0], x, t)

    np.testing.assert_allclose(compute(score, x, t), -x, atol=1e-4)


def test_edm_scales_and_weights(compute):
    table = {
        0.5: (0.5, 0.353553, 1.414214, -0.173287, 8.0),
        80.0: (3.9061e-5, 0.49999, 0.0124998, 1.09551, 4.00016),
        0.002: (0.999984, 0.00199998, 1.99998, -1.55365, 250004),
    }
    sigma = np.float32(list(table))
    found = compute(lambda s: jnp.stack([*predictions.edm_scales(s), predictions.edm_weight(s)], 1), sigma)
    np.testing.assert_allclose(found, list(table.values()), rtol=2e-5)


def test_the_edm_denoiser_turns_its_weighted_error_into_that_of_the_network(compute):
    """D(x; sigma) - x = c_out (F - target): with EDM's weight the loss is |F - target|^2."""
    x, noise = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    sigma = np.float32([0.01, 0.5, 20.0])
    x_t = x + sigma[:, None] * noise

    def all_of(x_t, sigma, target=x):
        skip, out, scale, shown = (c[:, None] for c in predictions.edm_scales(sigma))
        seen = {}

        def network(x, level):
            seen["differences"] = x - scale * x_t, level - shown[:, 0]
            return (target - skip * x_t) / out + 0.25  # off by 1/4

        error = predictions.edm_denoiser(network)(x_t, sigma) - target
        return predictions.edm_weight(sigma)[:, None] * error**2, seen["differences"]

    loss, differences = compute(all_of, x_t, sigma)
    np.testing.assert_allclose(loss, 0.0625, rtol=1e-3)
    assert all(np.abs(difference).max() < 1e-5 for difference in differences)


def test_min_snr_weights(compute):
    """Weights at k = 0 and 99 and the first k below a ratio of 5, of three tables."""
    firsts = []
    for betas in (paths.linear_betas(), paths.sqrt_linear_betas(), paths.cosine_betas()):
        level = paths.Discrete(betas).alpha_bar
        snr = level / (1 - level)
        weights = compute(lambda s: {k: predictions.min_snr_weight(k, s) for k in ("noise", "data", "v")}, np.log(snr))
        firsts.append(int((weights["noise"] < 1 - 1e-6).sum()))
        np.testing.assert_allclose(weights["data"], np.minimum(snr, 5), rtol=1e-5)
        np.testing.assert_allclose(weights["v"] * (snr + 1), np.minimum(snr, 5), rtol=1e-5)
        if betas == paths.linear_betas():
            np.testing.assert_allclose(weights["noise"][[0, 99]], [0.00050005, 0.574023], rtol=1e-4)
    assert firsts == [130, 147, 261]
    with pytest.raises(ValueError, match="min-SNR weights are of"):
        predictions.min_snr_weight("flow", jnp.zeros(1))
