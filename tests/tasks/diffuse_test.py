"""The diffusion task against a network that knows the answer: data of deviation 1/2 around the label."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtok.diffusion import noise
from jaxtok.nn.dit import DiT
from jaxtok.tasks import conditions
from jaxtok.tasks.diffuse import METHODS, Diffuse, Sampling

KEY = jax.random.key(0)
SHAPE = (4, 4, 2)


class Exact(nn.Module):
    """The velocity towards data of the straight path, in data-time, for x ~ N(label, 1/4); no class is label 0."""

    classes: int = 3

    @nn.compact
    def __call__(self, x, t, label):
        self.param("unused", nn.initializers.zeros, ())
        mean = jnp.where(label == self.classes, 0, label).astype(jnp.float32)[:, None, None, None]
        a = t[:, None, None, None]
        s = 1 - a
        variance = a**2 / 4 + s**2
        centred = x - a * mean
        data, e = mean + a / 4 / variance * centred, s / variance * centred
        return data - e


TASK = Diffuse(model=Exact())
PARAMS = {"unused": jnp.zeros(())}


def _batch(count=6):
    x = jax.random.normal(KEY, (count, *SHAPE)) / 2
    return {"image": x, "label": jnp.arange(count) % 3, "index": jnp.arange(count)}


@pytest.mark.parametrize("method", METHODS)
def test_samples_have_the_mean_and_the_deviation_of_their_class(method):
    label = jnp.repeat(jnp.arange(3), 40)
    keys = jax.random.split(KEY, 120)
    x = TASK.sample(PARAMS, label, keys, SHAPE, Sampling(steps=60, method=method))
    for number in range(3):
        mine = np.asarray(x[label == number])
        np.testing.assert_allclose([mine.mean(), mine.std()], [number, 0.5], atol=0.05)


def test_guidance_moves_away_from_no_class_and_none_is_one_pass():
    label, keys = jnp.full(40, 1), jax.random.split(KEY, 40)
    plain = TASK.sample(PARAMS, label, keys, SHAPE, Sampling(steps=30))
    strong = TASK.sample(PARAMS, label, keys, SHAPE, Sampling(steps=30, guidance=3.0))
    assert strong.mean() > plain.mean() + 0.5
    outside = TASK.sample(PARAMS, label, keys, SHAPE, Sampling(steps=30, guidance=3.0, interval=(2.0, 3.0)))
    np.testing.assert_allclose(outside, plain, atol=1e-5)
    first = TASK.sample(PARAMS, label, keys, SHAPE, Sampling(steps=30, guidance=3.0, channels=1))
    np.testing.assert_allclose(first[..., 1], plain[..., 1], atol=1e-5)
    np.testing.assert_allclose(first[..., 0], strong[..., 0], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_depends_on_its_own_key_and_label_alone(method):
    label, keys = jnp.array([0, 1, 2]), jax.random.split(KEY, 3)
    sampling = Sampling(steps=5, guidance=2.0, method=method)
    whole = TASK.sample(PARAMS, label, keys, SHAPE, sampling)
    alone = TASK.sample(PARAMS, label[1:2], keys[1:2], SHAPE, sampling)
    np.testing.assert_allclose(alone[0], whole[1], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_samples_are_the_same_on_eight_devices(method):
    label, keys = jnp.arange(8) % 3, jax.random.split(KEY, 8)
    run = jax.jit(lambda label, keys: TASK.sample(PARAMS, label, keys, SHAPE, Sampling(5, 2.0, method)))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = run(*jax.device_put((label, keys), NamedSharding(mesh, PartitionSpec("data"))))
    assert len(spread.sharding.device_set) == 8
    np.testing.assert_allclose(spread, run(label, keys), atol=1e-5)


def test_the_loss_of_the_exact_network_is_the_least_and_depends_on_no_neighbour():
    batch = _batch(64) | {"label": jnp.zeros(64, jnp.int32)}
    exact = TASK.losses(PARAMS, {}, batch, KEY, 0)[0]["main"][0]

    class Wrong(Exact):
        @nn.compact
        def __call__(self, x, t, label):
            return 0.8 * super().__call__(x, t, label)

    assert exact < Diffuse(model=Wrong()).losses(PARAMS, {}, batch, KEY, 0)[0]["main"][0]
    halves = [{name: value[i : i + 32] for name, value in batch.items()} for i in (0, 32)]
    each = [TASK.losses(PARAMS, {}, half, KEY, 0)[0]["main"][0] for half in halves]
    np.testing.assert_allclose(np.mean(each), exact, rtol=1e-5)
    rows = TASK.evaluate(PARAMS, {}, batch, KEY)["flow"]
    np.testing.assert_allclose(rows[32:], TASK.evaluate(PARAMS, {}, halves[1], KEY)["flow"], rtol=1e-4)


def test_labels_are_hidden_at_their_rate():
    seen = []

    class Spy(Exact):
        @nn.compact
        def __call__(self, x, t, label):
            seen.append(label)
            return super().__call__(x, t, label)

    Diffuse(model=Spy(), label_drop=0.25).losses(PARAMS, {}, _batch(2000), KEY, 0)
    assert abs(float((seen[0] == 3).mean()) - 0.25) < 0.03


def test_the_network_is_fed_its_own_clock():
    fed = []

    class Spy(Exact):
        @nn.compact
        def __call__(self, x, t, label):
            fed.append(t)
            return super().__call__(x, t, label)

    x, label = jnp.zeros((2, *SHAPE)), jnp.zeros(2, jnp.int32)
    flow = Diffuse(model=Spy()).velocity(PARAMS, x, jnp.asarray(0.25), label)
    other = Diffuse(model=Spy(), flip=False, scale=1000.0).velocity(PARAMS, x, jnp.asarray(0.25), label)
    np.testing.assert_allclose(fed, [[0.75, 0.75], [250.0, 250.0]])
    assert flow.shape == other.shape == x.shape


def test_a_dit_trains_and_samples_without_labels():
    task = Diffuse(model=DiT(depth=1, width=16, heads=2, patch=2), direction=1.0)
    batch = {name: value for name, value in _batch().items() if name != "label"}
    params, state, frozen = jax.jit(task.init)(KEY, batch)
    (loss, numbers), _ = task.losses(params, state, batch, KEY, 0, frozen=frozen)[0]["main"], None
    np.testing.assert_allclose(loss, numbers["flow"] + numbers["direction"], rtol=1e-6)
    np.testing.assert_allclose(numbers["direction"], 1.0, atol=1e-6)  # of zeros
    slope = jax.jit(jax.grad(lambda p: task.losses(p, {}, batch, KEY, 0)[0]["main"][0]))(params)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(slope)) < 100  # no pole at an output of 0
    keys = noise.per_example(KEY, batch["index"])
    x = task.sample(params, None, keys, SHAPE, Sampling(steps=3))
    assert x.shape == (6, *SHAPE) and abs(float(x.std()) - 1) < 0.1  # a velocity of 0 leaves the noise


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sampling(steps=0), "steps must be at least 1, found 0"),
        (lambda: Sampling(method="rk4"), "method must be one of"),
        (lambda: Sampling(guidance=-1.0), "must not be negative"),
        (lambda: Sampling(shift=0.0), "shift must be positive"),
        (lambda: Sampling(interval=(0.5, 0.1)), "expected an interval"),
        (lambda: Diffuse(model=Exact(), label_drop=1.5), "label_drop must lie in"),
        (
            lambda: Diffuse(model=DiT(depth=1, width=16, heads=2)).sample(
                {}, None, jax.random.split(KEY, 2), SHAPE, Sampling(guidance=2.0)
            ),
            "guidance needs a model with classes",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Reader(nn.Module):
    """As Exact, for x ~ N(number of the text's real ids, 1/4); no text is the mean 1."""

    classes = 0

    @nn.compact
    def __call__(self, x, t, text):
        text = self.read(text)
        return Exact(name="exact")(x, t, text["mean"])

    def read(self, text):
        return text if "mean" in text else {"mean": text["mask"].sum(1)}


def _text(lengths, width=4):
    mask = jnp.arange(width) < jnp.asarray(lengths)[:, None]
    return {"ids": jnp.where(mask, 7, 0), "mask": mask}


@pytest.mark.parametrize("sampling", [Sampling(steps=60), Sampling(steps=60, guidance=2.0)])
def test_text_is_read_once_and_guidance_moves_away_from_no_text(sampling):
    task = Diffuse(model=Reader(), condition=conditions.Text())
    x = task.sample({"exact": PARAMS}, _text([2] * 60), jax.random.split(KEY, 60), SHAPE, sampling)
    # Of straight paths to N(2, 1/4), away from those to N(1, 1/4): 2 means 2 + (2 - 1) at the end of each.
    expected = 2.0 if sampling.guidance == 1.0 else 3.0
    np.testing.assert_allclose(np.asarray(x).mean(), expected, atol=0.06)


def test_a_share_of_texts_and_labels_is_hidden():
    keys = jax.random.split(KEY, 4000)
    text = _text([3] * 4000)
    hidden = conditions.hide(keys, text, conditions.Text().none(text, None), 0.25)
    shown = np.asarray(hidden["mask"].sum(1) == 3)
    assert abs(shown.mean() - 0.75) < 0.03
    np.testing.assert_array_equal(hidden["ids"][shown], text["ids"][shown])
    assert (np.asarray(hidden["ids"])[~shown] == 0).all() and (np.asarray(hidden["mask"])[~shown].sum(1) == 1).all()
    label = conditions.hide(keys, jnp.full(4000, 2), 5, 0.25)
    np.testing.assert_array_equal(np.asarray(label) == 2, shown)
    assert set(np.asarray(label).tolist()) == {2, 5}
