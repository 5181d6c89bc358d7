"""Training TaDiCodec: what its loss counts, and that devices, padding and neighbours change nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxtok
from jaxtok.build import build
from jaxtok.diffusion import noise
from jaxtok.tasks import autoencode

ROWS, FRAMES = 8, 32


@pytest.fixture(scope="module")
def task():
    config = jaxtok.get_config("tadicodec:tiny")
    return build(config.task, model=build(config.model))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    lengths = np.array([32, 8, 16, 24, 32, 32, 16, 8])
    mask = np.arange(FRAMES) < lengths[:, None]
    return {
        "mel": np.where(mask[..., None], rng.normal(size=(ROWS, FRAMES, 128)), 0.0).astype(np.float32),
        "mel_mask": mask,
        "text_ids": rng.integers(3, 259, (ROWS, 6)).astype(np.int32),
        "text_mask": np.arange(6) < rng.integers(1, 7, (ROWS, 1)),
        "index": np.arange(ROWS, dtype=np.int32),
    }


@pytest.fixture(scope="module")
def params(task, batch):
    params = jax.jit(task.init)(jax.random.key(0), batch)[0]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([leaf + 0.1 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)])


def loss_and_gradient(task, params, batch):
    @jax.jit
    def run(params, batch):
        return jax.value_and_grad(lambda p: task.losses(p, {}, batch, jax.random.key(7), 0)[0]["main"][0])(params)

    return run(params, batch)


def test_loss_and_gradient_are_the_same_on_eight_devices(task, params, batch):
    expected, gradient = loss_and_gradient(task, params, batch)
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))

    def spread(leaf):
        spec = PartitionSpec(*("fsdp" if size % 4 == 0 else None for size in leaf.shape[-1:]))
        return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*(None,) * (leaf.ndim - 1), *spec)))

    found, spread_gradient = loss_and_gradient(task, jax.tree.map(spread, params), jax.device_put(batch, rows))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(spread_gradient)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_tokens_are_the_same_on_eight_devices(task, params, batch):
    @jax.jit
    def encode(params, mel, mask):
        return task.model.apply({"params": params}, mel, mask=mask, method="encode").codes

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    one = encode(params, batch["mel"], batch["mel_mask"])
    rows = NamedSharding(mesh, PartitionSpec("data"))
    eight = encode(params, *jax.device_put((batch["mel"], batch["mel_mask"]), rows))
    assert len(eight.sharding.device_set) == 8
    real = batch["mel_mask"][:, 4::8]
    np.testing.assert_array_equal(np.asarray(one)[real], np.asarray(eight)[real])


def test_loss_ignores_what_stands_in_padded_frames(task, params, batch):
    expected, _ = loss_and_gradient(task, params, batch)
    dirty = dict(batch, mel=np.where(batch["mel_mask"][..., None], batch["mel"], 9.0).astype(np.float32))
    np.testing.assert_array_equal(loss_and_gradient(task, params, dirty)[0], expected)


def test_loss_ignores_the_targets_of_prompt_frames(task, params, batch, monkeypatch):
    """A prompt's frames are given clean, so their noise is in their targets alone; that of other frames counts."""
    expected, _ = loss_and_gradient(task, params, batch)
    drawn = autoencode._Draws.of

    def noisier(prompt):
        def of(*args):
            draws = drawn(*args)
            where = (draws.prompt if prompt else ~draws.prompt)[..., None]
            return dataclasses.replace(draws, noise=draws.noise + 9.0 * where)

        return of

    assert (
        int(drawn(noise.per_example(jax.random.key(7), batch["index"]), batch["mel_mask"], 128, task).prompt.sum()) > 8
    )
    monkeypatch.setattr(autoencode._Draws, "of", noisier(True))
    np.testing.assert_array_equal(loss_and_gradient(task, params, batch)[0], expected)
    monkeypatch.setattr(autoencode._Draws, "of", noisier(False))
    assert loss_and_gradient(task, params, batch)[0] > expected + 0.1


def test_draws_depend_on_the_example_alone(task):
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.arange(512))
    mask = jnp.arange(64) < jnp.where(jnp.arange(512) % 2, 64, 16)[:, None]
    draws = autoencode._Draws.of(keys, mask, 4, task)
    alone = autoencode._Draws.of(keys[5:6], mask[5:6], 4, task)
    for name in ("t", "noise", "prompt", "code_keep", "text_keep"):
        np.testing.assert_array_equal(getattr(draws, name)[5:6], getattr(alone, name))
    shorter = autoencode._Draws.of(keys[:2], mask[:2, :16], 4, task)
    np.testing.assert_array_equal(draws.noise[:2, :16], shorter.noise)
    lengths = np.asarray(draws.prompt.sum(1))
    assert 0.15 < (lengths == 0).mean() < 0.27  # a prompt four times in five
    long, short = lengths[1::2][lengths[1::2] > 0], lengths[::2][lengths[::2] > 0]
    assert long.min() >= 5 and long.max() <= 25 and short.min() >= 4 and short.max() <= 6
    assert 0.15 < 1 - float(draws.code_keep.mean()) < 0.27 and bool(draws.text_keep.all())
    assert abs(float(draws.t.mean()) - 0.5) < 0.05
    later = autoencode._Draws.of(keys, mask, 4, dataclasses.replace(task, shift=3.0))
    np.testing.assert_allclose(later.t, 3 * draws.t / (1 + 2 * draws.t), rtol=1e-6)
    np.testing.assert_array_equal(later.noise, draws.noise)


def test_evaluation_is_per_example_and_independent_of_neighbours(task, params, batch):
    evaluate = jax.jit(task.evaluate)
    every = evaluate(params, {}, batch, jax.random.key(0))["flow"]
    assert every.shape == (ROWS,)
    alone = evaluate(params, {}, {name: value[2:3] for name, value in batch.items()}, jax.random.key(0))["flow"]
    np.testing.assert_allclose(every[2:3], alone, rtol=1e-5)
