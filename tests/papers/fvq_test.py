"""FVQ: the published sizes and schedule, the folded codebook, and what a run leaves behind."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxtok
from jaxtok.build import build, symbol
from jaxtok.data import pipeline
from jaxtok.quantizers import export
from jaxtok.tokenizers.feedforward import FeedForwardTokenizer
from jaxtok.train import settings
from jaxtok.train.loop import train


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_paper_has_the_published_parts():
    config = jaxtok.get_config("fvq:paper")
    module = build(config.model)
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    assert count(params["encoder"]) + count(params["decoder"]) == 71_747_971  # LlamaGen's VQ-16 without its table
    assert count(params["pre_linear"]) == count(params["post_linear"]) == 256 * 256 + 256
    assert count(params["quantizer"]["embedding"]) == 16384 * 256
    assert count(params["quantizer"]["bridge"]) == 3_153_664  # 3.15 M


def test_paper_s_schedule_is_the_reference_s():
    plan = jaxtok.get_config("fvq:paper").train
    assert plan.steps == 40 * 10_009 and plan.players.main.clip == 1.0
    optimizer = plan.players.main.optimizer
    assert (optimizer.b1, optimizer.b2, optimizer.weight_decay) == (0.9, 0.95, 0.0)
    rate = build(optimizer.schedule)
    warmup = 4 * 10_009
    held = warmup + 0.3 * (plan.steps - 1 - warmup)
    found = [rate(step) for step in (0, warmup // 2, warmup, int(held), plan.steps - 1)]
    np.testing.assert_allclose(found, 1e-4 * np.array([0.005, 0.5025, 1, 1, 0.01]), rtol=1e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three steps of tiny in the real loop, and the files that follow."""
    config = jaxtok.get_config("fvq:tiny")
    config.train.mesh.data = 1
    config.train.steps, config.train.evaluate_every = 3, 0
    workdir = tmp_path_factory.mktemp("fvq")
    result = train(config, workdir)
    for hook in config.after:
        symbol(hook["ref"])(result, settings.resolve(config), workdir, batch_size=64, shown=4)
    return config, workdir, result


def test_a_run_leaves_its_report(run):
    config, workdir, _ = run
    text = (workdir / "report.md").read_text()
    assert text.startswith(("Holds: ", "Falls short: ")) and "| untrained model |" in text
    numbers = json.loads((workdir / "report.json").read_text())
    held_out = pipeline.summary(config.data.to_dict())["test"]["images"]
    codes = numbers["codes"]["codebook"]
    assert numbers["images"] == held_out and codes["tokens"] == held_out * 64
    assert 1 <= codes["used"] <= 64 and codes["usage"] == codes["used"] / 64
    assert numbers["psnr"]["trained"] != numbers["psnr"]["untrained"]
    assert Image.open(workdir / "reconstructions.png").mode == "RGB" and Image.open(workdir / "codes.png").size[0] > 100
    assert not list(workdir.glob(".*partial"))


def test_training_reports_the_use_of_the_codebook(run):
    _, workdir, result = run
    first, *_ = (json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines())
    numbers = [first[f"main/{name}"] for name in ("usage", "dead", "perplexity")]
    assert numbers == [1 / 64, 63, 1]  # all codes begin at 0, so the first is the nearest
    hits = np.asarray(result.state.state["hits"])
    assert hits.shape == (1, 64)
    np.testing.assert_allclose(hits.sum(), 512 * (1 + 0.99 + 0.99**2), rtol=1e-5)


def test_folding_the_bridge_away_changes_no_token(run):
    config, _, result = run
    params = jax.device_get(result.state.params)
    bridged = build(config.model)
    quantizer, folded = export(bridged.quantizer, {"params": params["quantizer"]})
    plain = FeedForwardTokenizer(bridged.encoder, quantizer, bridged.decoder, bridged.pre, bridged.post)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    before, image = jax.jit(bridged.apply)({"params": params}, x)
    after, again = jax.jit(plain.apply)({"params": params | {"quantizer": folded["params"]}}, x)
    assert len(np.unique(before.codes)) > 1
    np.testing.assert_array_equal(before.codes, after.codes)
    np.testing.assert_allclose(before.latents, after.latents, atol=1e-7)  # XLA may fuse the two differently
    np.testing.assert_allclose(image, again, atol=1e-5)


def test_unknown_variants_are_refused():
    with pytest.raises(ValueError, match="fvq has no variant 'huge'; known: tiny, mini, paper"):
        jaxtok.get_config("fvq:huge")
