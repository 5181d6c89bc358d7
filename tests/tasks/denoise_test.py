"""The task on a table of noise levels, against a network that knows the answer: data N(label, 1/4)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.diffusion import noise, objectives, paths, predictions
from jaxtok.tasks.denoise import METHODS, Denoise, TableSampling

KEY = jax.random.key(0)
SHAPE = (4, 4, 2)
PATH = paths.Discrete(paths.linear_betas())


class Exact(nn.Module):
    """The noise of the table for x ~ N(label, 1/4), no class being label 0; and log variances at their upper bound."""

    classes: int = 3
    variance: bool = True

    @nn.compact
    def __call__(self, x, k, label):
        self.param("unused", nn.initializers.zeros, ())
        mean = jnp.where(label == self.classes, 0, label).astype(jnp.float32)[:, None, None, None]
        a, s = PATH.coefficients(k[:, None, None, None])
        guess = s / (a**2 / 4 + s**2) * (x - a * mean)
        return jnp.concatenate([guess, jnp.ones_like(x)], -1) if self.variance else guess


TASK = Denoise(model=Exact())
PARAMS = {"unused": jnp.zeros(())}


@pytest.mark.parametrize(("method", "tolerance"), [("ancestral", 0.05), ("ddim", 0.05), ("dpm_solver", 0.05)])
def test_samples_have_the_mean_and_the_deviation_of_their_class(method, tolerance):
    assert method in METHODS
    label, keys = jnp.repeat(jnp.arange(3), 40), jax.random.split(KEY, 120)
    spacing = "respaced" if method == "ancestral" else "trailing"
    sampling = TableSampling(steps=100, method=method, spacing=spacing)
    x = TASK.sample(PARAMS, label, keys, SHAPE, sampling)
    for number in range(3):
        mine = np.asarray(x[label == number])
        np.testing.assert_allclose([mine.mean(), mine.std()], [number, 0.5], atol=tolerance)
    alone = TASK.sample(PARAMS, label[40:41], keys[40:41], SHAPE, sampling)
    np.testing.assert_allclose(alone[0], x[40], atol=1e-5)


def test_guidance_is_of_the_noise_and_of_the_asked_channels():
    label, keys = jnp.full(40, 1), jax.random.split(KEY, 40)
    plain, strong, first = (
        TASK.sample(PARAMS, label, keys, SHAPE, TableSampling(steps=50, method="ddim", **kind))
        for kind in ({}, dict(guidance=3.0), dict(guidance=3.0, channels=1))
    )
    assert strong.mean() > plain.mean() + 0.5
    np.testing.assert_allclose(first[..., 0], strong[..., 0], atol=1e-4)
    np.testing.assert_allclose(first[..., 1], plain[..., 1], atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_clipping_bounds_the_data_and_leaves_what_lies_within(method):
    label, keys = jnp.arange(12) % 3, jax.random.split(KEY, 12)
    tight, wide, free = (
        np.asarray(TASK.sample(PARAMS, label, keys, SHAPE, TableSampling(steps=20, method=method, clip=clip)))
        for clip in (0.5, 9.0, 0.0)
    )
    np.testing.assert_allclose(wide, free, atol=1e-4)
    assert np.abs(free).max() > 1.5
    assert np.abs(tight).max() <= 0.5 + 1e-6


def test_the_loss_is_the_error_of_the_noise_and_the_bound_of_the_variance():
    count = 8
    x, label = jax.random.uniform(KEY, (count, *SHAPE), minval=-1, maxval=1), jnp.arange(count) % 3
    batch = {"image": x, "label": label, "index": jnp.arange(count)}
    never = Denoise(model=Exact(), label_drop=0.0)
    found, numbers = never.losses(PARAMS, {}, batch, KEY, 0)[0]["main"]
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(noise.per_example(KEY, batch["index"]))
    k = (jax.vmap(jax.random.uniform)(keys[:, 0]) * 1000).astype(jnp.int32)
    e = jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys[:, 1])
    a, s = PATH.coefficients(k[:, None, None, None])
    x_k = a * x + s * e
    guess = s / (a**2 / 4 + s**2) * (x_k - a * label[:, None, None, None])
    np.testing.assert_allclose(numbers["noise"], jnp.square(guess - e).mean(), rtol=1e-5)
    data = (x_k - s * guess) / a
    bound = objectives.learned_variance_bound(x, x_k, k, data, jnp.ones_like(x), PATH).mean()
    np.testing.assert_allclose([numbers["bound"], found], [bound, numbers["noise"] + bound], rtol=1e-4)
    plain = Denoise(model=Exact(variance=False), learned_variance=False, label_drop=0.0)
    np.testing.assert_allclose(plain.losses(PARAMS, {}, batch, KEY, 0)[0]["main"][0], numbers["noise"], rtol=1e-6)


class Converted(nn.Module):
    """What ``Exact`` knows, told as another prediction."""

    kind: str
    classes: int = 3

    @nn.compact
    def __call__(self, x, k, label):
        guess, between = jnp.split(Exact(name="exact")(x, k, label), 2, axis=-1)
        data, e = predictions.data_and_noise("noise", PATH, guess, x, k)
        return jnp.concatenate([predictions.target(self.kind, PATH, data, e, k), between], -1)


@pytest.mark.parametrize("kind", ["v", "data"])
def test_every_prediction_of_the_same_knowledge_samples_and_evaluates_alike(kind):
    task, params = Denoise(model=Converted(kind), prediction=kind, label_drop=0.0), {"exact": PARAMS}
    label, keys = jnp.arange(12) % 3, jax.random.split(KEY, 12)
    sampling = TableSampling(steps=20, method="dpm_solver", spacing="trailing", guidance=2.0, clip=2.0)
    ours, theirs = (t.sample(p, label, keys, SHAPE, sampling) for t, p in ((task, params), (TASK, PARAMS)))
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    batch = {"image": jax.random.uniform(KEY, (12, *SHAPE)), "label": label, "index": jnp.arange(12)}
    found, wanted = (t.evaluate(p, {}, batch, KEY)["noise"] for t, p in ((task, params), (TASK, PARAMS)))
    np.testing.assert_allclose(found, wanted, rtol=1e-3)
    numbers, plain = (
        t.losses(p, {}, batch, KEY, 0)[0]["main"][1]
        for t, p in ((task, params), (Denoise(model=Exact(), label_drop=0.0), PARAMS))
    )
    np.testing.assert_allclose(numbers["bound"], plain["bound"], rtol=2e-3)
    assert set(numbers) == {kind, "bound"} and set(plain) == {"noise", "bound"}
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(noise.per_example(KEY, batch["index"]))
    k = (jax.vmap(jax.random.uniform)(keys[:, 0]) * 1000).astype(jnp.int32)
    e = jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys[:, 1])
    x_k = paths.corrupt(PATH, batch["image"], e, k)
    guess = task.model.apply({"params": params}, x_k, k, label)[..., :2]
    a, s = PATH.coefficients(k[:, None, None, None])
    target = a * e - s * batch["image"] if kind == "v" else batch["image"]
    np.testing.assert_allclose(numbers[kind], jnp.square(guess - target).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(steps=0), "steps must be at least 1"),
        (dict(method="heun"), "method must be one of"),
        (dict(spacing="even"), "spacing must be one of"),
        (dict(guidance=-1.0), "guidance must not be negative, found -1.0"),
        (dict(clip=-1.0), "clip must not be negative, found -1.0"),
    ],
)
def test_bad_settings(settings, said):
    with pytest.raises(ValueError, match=said):
        TableSampling(**settings)
    with pytest.raises(ValueError, match="prediction must be one of .*, found 'flow'"):
        Denoise(model=Exact(), prediction="flow")
    with pytest.raises(ValueError, match="1 to 1000 steps, found 2000"):
        TASK.sample(PARAMS, jnp.zeros(1, int), KEY[None], SHAPE, TableSampling(steps=2000))
