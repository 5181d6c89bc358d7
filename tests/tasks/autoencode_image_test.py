"""Training an image tokenizer: its loss, its moving state, and that devices and neighbours change nothing."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxtok.build import build
from jaxtok.metrics import image as metrics
from jaxtok.nn.conv2d import nearest
from jaxtok.quantizers import VQ, usage
from jaxtok.tasks.autoencode_image import ImageAutoencode
from jaxtok.tokenizers.feedforward import FeedForwardTokenizer

ROWS, SIZE = 8, 8


class Encoder(nn.Module):
    """Two pixels square to a vector, each by itself: quick to compile."""

    @nn.compact
    def __call__(self, x, mask=None):
        return nn.Conv(8, (2, 2), strides=(2, 2), name="patches")(x), None


class Decoder(nn.Module):
    @nn.compact
    def __call__(self, z, mask=None):
        return nn.Conv(3, (3, 3))(nearest(nn.tanh(z)))


QUANTIZERS = {
    "VQ": dict(target="jaxtok.quantizers:VQ", size=16, width=4),
    "EMAVQ": dict(target="jaxtok.quantizers:EMAVQ", size=16, width=4),
    "Gaussian": dict(target="jaxtok.quantizers:Gaussian", width=4),
}


def make(quantizer, **fields):
    width = 2 * 4 if quantizer == "Gaussian" else 4
    model = FeedForwardTokenizer(Encoder(), build(QUANTIZERS[quantizer]), Decoder(), pre=width, post=8)
    return ImageAutoencode(model, **fields)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (ROWS, SIZE, SIZE, 3)).astype(np.float32)
    return {"image": image, "index": np.arange(ROWS, dtype=np.int32)}


def stepper(task):
    """Jitted (params, state, batch) -> ((loss, (numbers, state after)), gradient)."""

    def loss(params, state, batch):
        found, after = task.losses(params, state, batch, jax.random.key(7), 0)
        return found["main"][0], (found["main"][1], after)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.fixture(scope="module", params=list(QUANTIZERS))
def ready(request, batch):
    task = make(request.param)
    params, state, frozen = jax.jit(task.init)(jax.random.key(0), batch)
    assert frozen == {}
    return task, params, state, stepper(task)


def test_loss_is_the_pixels_and_the_quantizers(ready, batch):
    task, params, state, step = ready
    (loss, (numbers, _)), gradient = step(params, state, batch)
    np.testing.assert_allclose(loss, numbers["pixel"] + numbers["quantizer"], rtol=1e-6)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["encoder"]))
    if task.model.quantizer.num_codebooks:  # without noise, evaluation sees the same reconstruction
        y, _ = jax.jit(task.reconstruct)(params, state, batch["image"])
        np.testing.assert_allclose(numbers["pixel"], np.square(y - batch["image"]).mean(), rtol=1e-5)


def test_absolute_error_and_its_weight(ready, batch):
    task, params, state, _ = ready
    if not isinstance(task.model.quantizer, VQ):
        return
    absolute = dataclasses.replace(task, pixel="l1", weight=2.0)
    found, _ = jax.jit(absolute.losses)(params, state, batch, jax.random.key(7), 0)
    loss, numbers = found["main"]
    y, _ = jax.jit(task.reconstruct)(params, state, batch["image"])
    np.testing.assert_allclose(numbers["pixel"], np.abs(y - batch["image"]).mean(), rtol=1e-5)
    np.testing.assert_allclose(loss, 2 * numbers["pixel"] + numbers["quantizer"], rtol=1e-6)


def test_state_moves_in_training_and_counts_every_code(ready, batch):
    task, params, state, step = ready
    (_, (numbers, after)), _ = step(params, state, batch)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    if not task.model.quantizer.num_codebooks:
        assert state == {}
        return
    codes = np.asarray(jax.jit(task.reconstruct)(params, state, batch["image"])[1])
    counts = np.bincount(codes.reshape(-1), minlength=16)
    np.testing.assert_array_equal(after["hits"], counts[None])
    (_, (_, twice)), _ = step(params, dict(state, hits=after["hits"]), batch)
    np.testing.assert_allclose(twice["hits"], (0.99 * counts + counts)[None], rtol=1e-6)
    np.testing.assert_allclose(numbers["usage"], (counts > 0).mean(), rtol=1e-6)
    assert numbers["dead"] == (counts == 0).sum()
    np.testing.assert_allclose(numbers["perplexity"], usage.summary(counts)["perplexity"], rtol=1e-5)
    uniform = usage.uniform_usage(16, codes.size)
    np.testing.assert_allclose(numbers["evenness"], (counts > 0).mean() / uniform, rtol=1e-5)
    if "codebook" in state:
        before, moved = (tree["codebook"]["quantizer"] for tree in (state, after))
        assert (before["embedding"] != moved["embedding"]).any()
        np.testing.assert_allclose(moved["counts"], 0.99 + 0.01 * counts, rtol=1e-6)


def test_loss_gradient_and_state_are_the_same_on_eight_devices(ready, batch):
    _, params, state, step = ready
    (expected, (_, after)), gradient = step(params, state, batch)
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    whole = NamedSharding(mesh, PartitionSpec())
    (found, (_, eight)), spread = step(*jax.device_put((params, state), whole), jax.device_put(batch, rows))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for a, b in zip(jax.tree.leaves((gradient, after)), jax.tree.leaves((spread, eight))):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)


def test_evaluation_is_per_image_and_independent_of_neighbours(ready, batch):
    task, params, state, _ = ready
    evaluate = jax.jit(task.evaluate)
    every = evaluate(params, state, batch, jax.random.key(0))
    alone = evaluate(params, state, {"image": batch["image"][2:3]}, jax.random.key(1))
    assert set(every) == {"mse", "l1", "psnr"}
    for name, values in every.items():
        assert values.shape == (ROWS,)
        np.testing.assert_allclose(values[2:3], alone[name], rtol=1e-4)
    np.testing.assert_allclose(every["psnr"], 10 * np.log10(4 / every["mse"]), rtol=1e-5)


def test_programs_give_codes_and_images(ready, batch):
    task, params, _, _ = ready
    programs = task.programs(params, batch)
    tokens = jax.eval_shape(programs["encode"][0], *programs["encode"][1])
    if task.model.quantizer.num_codebooks:
        assert tokens.shape == (ROWS, 4, 4, 1) and tokens.dtype == np.int32
    else:
        assert tokens.shape[:3] == (ROWS, 4, 4) and tokens.dtype == np.float32
    assert jax.eval_shape(programs["decode"][0], *programs["decode"][1]).shape == (ROWS, SIZE, SIZE, 3)


def test_a_collapsing_codebook_is_named():
    task = make("VQ")
    numbers = {"main/evenness": 0.1, "main/usage": 0.0625}
    assert task.warnings(200, numbers) == {}  # too early to tell
    assert task.warnings(201, {"main/evenness": 0.9, "main/usage": 0.9}) == {}
    sentence = task.warnings(201, numbers)["codebook"]
    assert sentence == (
        "codebook is collapsing at step 201: 1 of 16 codes are in use (6.2%), where uniform codes would show 62.5%"
    )
    residual = dict(target="jaxtok.quantizers:ResidualVQ", layers=(QUANTIZERS["VQ"],) * 3)
    several = dataclasses.replace(task, model=task.model.clone(quantizer=build(residual)))
    numbers = {f"main/{name}_{q}": value for name, value in (("evenness", 1.0), ("usage", 0.5)) for q in range(3)}
    found = several.warnings(500, numbers | {"main/evenness_1": 0.01})
    assert list(found) == ["codebook 1"]


def test_wrong_fields_are_refused():
    with pytest.raises(ValueError, match=r"pixel must be one of .*, found 'l3'"):
        make("VQ", pixel="l3")
    with pytest.raises(ValueError, match="decay must lie between 0 and 1, found 1"):
        make("VQ", decay=1.0)


def test_metrics_have_their_closed_forms():
    a = jnp.zeros((1, 2, 2, 3))
    np.testing.assert_allclose(metrics.squared_error(a, a + 0.5), [0.25])
    np.testing.assert_allclose(metrics.absolute_error(a, a - 0.5), [0.5])
    np.testing.assert_allclose(metrics.psnr(a, a + 0.2), [20.0], rtol=1e-5)  # a tenth of the range of 2
    np.testing.assert_allclose(metrics.psnr(a, a), [100.0], rtol=1e-6)
    np.testing.assert_allclose(metrics.squared_error(a + 1, a + 7), [0.0])  # both white
    with pytest.raises(ValueError, match="expected two of one shape"):
        metrics.psnr(a, a[:, :1])
