"""Tokens made of the batch's images are those that were stored, and so are the losses on them."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import jaxtok
from jaxtok import model as model_lib
from jaxtok.build import build
from jaxtok.commands.encode_dataset import encode_dataset
from jaxtok.data import pipeline
from jaxtok.models.generator import assemble
from jaxtok.train.loop import train

KEY, RNG = jax.random.key(0), np.random.default_rng(0)
FSQ = dict(target="jaxtok.quantizers:FSQ", levels=(4, 4, 4))
CONTINUOUS = dict(target="jaxtok.quantizers:Continuous")
ON_THE_FLY = "jaxtok.tasks.on_the_fly:OnTheFly"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for n in range(20):
        (folder / "ab"[n % 2]).mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (4, 4, 3), np.uint8)).save(folder / "ab"[n % 2] / f"{n:02d}.png")
    return f"folder:{folder}"


def _tokenizer(folder, quantizer, seed=0):
    """A saved tokenizer with one matrix of weights: 2 x 2 mean colours, mixed."""
    config = dict(
        slug="mosaic",
        model=dict(
            target="jaxtok.tokenizers.feedforward:FeedForwardTokenizer",
            encoder=dict(target="jaxtok.nn.mosaic:MosaicEncoder", patch=2), quantizer=quantizer, pre=3,
            decoder=dict(target="jaxtok.nn.mosaic:MosaicDecoder", patch=2),
        ),
        interface=dict(ref="jaxtok.models.image:assemble"),
        data=dict(source="", examples=dict(target="jaxtok.data.images:Images", size=4)),
    )  # fmt: skip
    module = build(config["model"])
    shapes = jax.eval_shape(module.init, KEY, np.zeros((1, 4, 4, 3), np.float32))["params"]
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    assert jax.tree.leaves(params)
    model_lib.save(folder, config, params)
    return str(folder)


def _config(slug, images, **task):
    """A tiny generator of 2 x 2 tokens, trained from images."""
    config = jaxtok.get_config(f"{slug}:tiny").copy_and_resolve_references().to_dict()
    shape = (2, 2, 1) if slug == "llamagen" else (2, 2, 3)
    small = dict(codes=64, grid=(2, 2)) if slug == "llamagen" else dict(patch=1)
    inner = {key: value for key, value in config["task"].items() if key != "target"}
    inner |= {} if slug == "llamagen" else {"field": "latents"}
    examples = dict(target="jaxtok.data.images:Images", size=4, label="group")
    config["data"] |= dict(source=images, examples=examples)
    return config | dict(
        model=config["model"] | small | dict(classes=2), shape=shape, tokenizer=task["tokenizer"],
        task=dict(target=ON_THE_FLY, task=dict(ref=config["task"]["target"], **inner), **task),
    )  # fmt: skip


def _stored(config, folder, codebook):
    """The same generator, trained from stored tokens."""
    shape = config["shape"]
    examples = dict(target="jaxtok.data.tokens:Tokens", shape=shape, codebook=codebook, label="group")
    inner = config["task"]["task"]
    task = {key: value for key, value in inner.items() if key != "ref"} | dict(target=inner["ref"])
    return config | dict(task=task, data=config["data"] | dict(source=f"tokens:{folder}", examples=examples))


@pytest.mark.parametrize("slug, quantizer, codebook", [("llamagen", FSQ, 64), ("lightningdit", CONTINUOUS, 0)])
def test_losses_and_samples_are_those_of_stored_tokens(slug, quantizer, codebook, images, tmp_path):
    place = _tokenizer(tmp_path / "tokenizer", quantizer)
    encode_dataset(place, images, tmp_path / "tokens")
    config = _config(slug, images, tokenizer=place, statistics="" if codebook else f"tokens:{tmp_path / 'tokens'}")
    stored = _stored(config, tmp_path / "tokens", codebook)
    tasks = [build(one["task"], model=build(one["model"])) for one in (config, stored)]
    batches = [next(pipeline.training(one["data"], batch_size=8, seed=0)) for one in (config, stored)]
    np.testing.assert_array_equal(batches[0]["index"], batches[1]["index"])
    params, _, frozen = jax.jit(tasks[0].init)(KEY, batches[0])
    assert list(frozen) == ["tokenizer"]
    shapes = jax.eval_shape(tasks[1].init, KEY, batches[1])[0]
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * RNG.standard_normal(leaf.shape).astype(np.float32), params)
    losses = [
        jax.jit(lambda p, f, b, task=task: task.losses(p, {}, b, KEY, 0, frozen=f)[0]["main"][0])(params, frozen, batch)
        for task, batch in zip(tasks, batches)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-6)
    name = "nats" if codebook else "flow"
    found = [task.evaluate(params, {}, batch, KEY, frozen=frozen)[name] for task, batch in zip(tasks, batches)]
    np.testing.assert_allclose(*found, rtol=1e-5)
    models = [assemble(one, params) for one in (config, stored)]
    np.testing.assert_array_equal(models[0].sample([0, 1]), models[1].sample([0, 1]))
    decode, arguments = tasks[0].programs(params, batches[0])["decode"]
    assert jax.eval_shape(decode, *arguments).shape == (8, *config["shape"])


def test_a_run_does_not_go_on_with_another_tokenizer(images, tmp_path):
    place = _tokenizer(tmp_path / "tokenizer", FSQ)
    config = _config("llamagen", images, tokenizer=place)
    config["train"] |= dict(steps=2, checkpoint_every=2, evaluate_every=0)
    result = train(config, tmp_path / "run")
    assert result.step == 2
    another = _tokenizer(tmp_path / "another", FSQ, seed=1)
    shutil.copy(f"{another}/weights.safetensors", place)
    config["train"] |= dict(steps=4)
    with pytest.raises(ValueError, match="the frozen weights .*tokenizer.* are not those that the run"):
        train(config, tmp_path / "run")


def test_latents_without_statistics_are_refused(images, tmp_path):
    config = _config("lightningdit", images, tokenizer=_tokenizer(tmp_path / "tokenizer", CONTINUOUS))
    task = build(config["task"], model=build(config["model"]))
    batch = next(pipeline.training(config["data"], batch_size=2, seed=0))
    with pytest.raises(ValueError, match="latents need 'statistics'"):
        task.init(KEY, batch)
