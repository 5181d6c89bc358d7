"""LlamaGen and MaskGIT: the published settings, and the way from a tokenizer over stored tokens to images."""

import jax
import numpy as np
import pytest
from PIL import Image

import jaxtok
from jaxtok import fingerprint
from jaxtok import model as model_lib
from jaxtok.build import build
from jaxtok.commands.encode_dataset import encode_dataset
from jaxtok.data import pipeline, sources

slug_of = pytest.mark.parametrize("slug", ["llamagen", "maskgit"])


@slug_of
def test_mini_fits_its_tokenizer_and_its_images(slug):
    config, tokenizer = jaxtok.get_config(f"{slug}:mini"), jaxtok.get_config("fvq:mini")
    encoder = build(tokenizer.model.encoder)
    side = tokenizer.data.examples.size // encoder.factor
    assert (config.model.grid, config.shape) == ((side, side), (side, side, 1)) == ((8, 8), (8, 8, 1))
    assert config.model.codes == tokenizer.model.quantizer.size == config.data.examples.codebook
    plain = dict(config.data.examples.to_dict(), fingerprint="")
    assert len(build(plain).classes(sources.open_source("samples:emoji").index)) == config.model.classes == 36


@slug_of
def test_the_tokenizer_is_named_once(slug):
    config = jaxtok.get_config(f"{slug}:mini,tokenizer=runs/other").copy_and_resolve_references()
    assert config.tokenizer == config.data.examples.fingerprint.run == "runs/other"
    paper = jaxtok.get_config(f"{slug}:paper").data.copy_and_resolve_references().to_dict()
    assert build(paper["examples"]).fingerprint == ""  # of no tokenizer yet


def test_papers_train_as_published():
    plans = {slug: jaxtok.get_config(f"{slug}:paper").train for slug in ("llamagen", "maskgit")}
    numbers = ("b1", "b2", "weight_decay")
    found = {
        slug: (plan.steps, plan.batch_size, *(plan.players.main.optimizer[name] for name in numbers))
        for slug, plan in plans.items()
    }
    assert found["llamagen"] == (300 * 5004, 256, 0.9, 0.95, 0.05) and plans["llamagen"].players.main.clip == 1.0
    assert found["maskgit"] == (2_000_000, 256, 0.9, 0.96, 0.045)
    rate = build(plans["maskgit"].players.main.optimizer.schedule)
    np.testing.assert_allclose([rate(2500), rate(5000), rate(10**6)], [5e-5, 1e-4, 1e-4], rtol=1e-6)


def _tokenizer(folder, levels):
    config = dict(
        slug="mosaic",
        model=dict(
            target="jaxtok.tokenizers.feedforward:FeedForwardTokenizer",
            encoder=dict(target="jaxtok.nn.mosaic:MosaicEncoder", patch=2),
            quantizer=dict(target="jaxtok.quantizers:FSQ", levels=levels, symmetric=True, bound="clip"),
            decoder=dict(target="jaxtok.nn.mosaic:MosaicDecoder", patch=2),
        ),
        interface=dict(ref="jaxtok.models.image:assemble"),
        data=dict(source="", examples=dict(target="jaxtok.data.images:Images", size=4)),
    )
    model_lib.save(folder, config, {})


def test_from_images_over_tokens_to_images(tmp_path):
    for n in range(16):
        (tmp_path / "images" / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (16 * n, 255, 0)).save(tmp_path / "images" / "ab"[n % 2] / f"{n:02d}.png")
    _tokenizer(tmp_path / "tokenizer", (4, 2, 2))
    encode_dataset(tmp_path / "tokenizer", f"folder:{tmp_path / 'images'}", tmp_path / "tokens", flip=True)

    config = jaxtok.get_config("maskgit:tiny").copy_and_resolve_references()
    run = str(tmp_path / "tokenizer")
    with config.unlocked():
        config.model.update(codes=16, classes=2, grid=(2, 2), depth=0, scan=False)
        config.update(shape=(2, 2, 1), tokenizer=run)
        config.data.source = f"tokens:{tmp_path / 'tokens'}"
        config.data.examples = dict(
            target="jaxtok.data.tokens:Tokens", shape=(2, 2, 1), codebook=16, flip=True,
            fingerprint=dict(target="jaxtok.fingerprint:of_run", run=run),
        )  # fmt: skip
    config = config.to_dict()
    batch = next(pipeline.training(config["data"], batch_size=8, seed=0))
    task = build(config["task"], model=build(config["model"]))
    shapes, rng = jax.eval_shape(task.init, jax.random.key(0), batch)[0], np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    model_lib.save(tmp_path / "run", config, params)

    model = jaxtok.load(tmp_path / "run")
    codes = model.sample_tokens([0, 1], steps=2)
    assert codes.shape == (2, 2, 2, 1) and int(codes.max()) < 16
    images = model.sample([0, 1], steps=2)
    red, green, blue = np.asarray(codes)[..., 0] % 4, np.asarray(codes)[..., 0] // 4 % 2, np.asarray(codes)[..., 0] // 8
    colours = np.stack([85 * red, 255 * green, 255 * blue], -1)
    np.testing.assert_array_equal(images, colours.repeat(2, 1).repeat(2, 2))

    _tokenizer(tmp_path / "another", (2, 4, 2))
    mark = fingerprint.of_run(str(tmp_path / "another"))
    config["data"]["examples"]["fingerprint"]["run"] = str(tmp_path / "another")
    with pytest.raises(ValueError, match=f"made by another tokenizer .* expected {mark[:12]}"):
        pipeline.training(config["data"], batch_size=8, seed=0)


@slug_of
def test_unknown_variants_are_refused(slug):
    with pytest.raises(ValueError, match=f"{slug} has no variant 'huge'; known: tiny, mini, paper"):
        jaxtok.get_config(f"{slug}:huge")
