"""EzAudio: its VAE's sizes, what is drawn when, the sum of its losses written out; and its modulation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtok
from jaxtok.build import build
from jaxtok.losses import spectral
from jaxtok.nn.dit import DiTBlock
from jaxtok.nn.vit import Block
from jaxtok.papers.ezaudio import shared_condition, sola
from jaxtok.quantizers import Gaussian
from jaxtok.quantizers.gaussian import softplus
from jaxtok.tasks import waveform
from jaxtok.train.schedules import inverse_power


def test_paper_has_the_released_rates_and_sizes():
    config = jaxtok.get_config("ezaudio:paper")
    module = build(config.model)
    assert (config.rate, module.hop, module.streams, module.quantizer.num_codebooks) == (24000, 480, False, 0)
    audio = jax.ShapeDtypeStruct((1, 12000), jnp.float32)
    (tokens, y), variables = jax.eval_shape(module.init_with_output, jax.random.key(0), audio)
    assert tokens.codes is None and tokens.latents.shape == (1, 25, 128) and y.shape == (1, 12000)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == 43_829_248
    task = build(config.task, model=module)
    assert (task.crop, task.peak, task.weight, task.start) == (12000, (), 1.0, 0)
    (discriminators,) = task.discriminator.ensembles.values()
    assert [(d.view.n_fft, d.view.hop) for d in discriminators.members] == [
        (1280, 320), (640, 160), (320, 80), (160, 40), (80, 20),
    ]  # fmt: skip
    resolutions = task.reconstruction.keywords["resolutions"]
    assert resolutions == tuple((n, n // 4, n) for n in (1280, 640, 320, 160, 80, 40, 20))


def test_deviation_and_divergence_are_the_references():
    quantizer = Gaussian(width=2, weight=2e-4, reduction="position", log_variance=softplus)
    moments = jnp.asarray([[[0.5, 2.0, np.log(np.e - 1), -100.0], [0.0, 0.0, 1.0, 1.0]]])
    mean, deviation = np.asarray(moments[..., :2]), np.log1p(np.exp(np.asarray(moments[..., 2:], np.float64))) + 1e-4
    np.testing.assert_allclose(jnp.exp(softplus(moments[..., 2:]) / 2), deviation, rtol=1e-5)
    each = (mean**2 + deviation**2 - 2 * np.log(deviation) - 1).sum(-1)  # sum over channels, mean over frames, no half
    np.testing.assert_allclose(quantizer(moments).loss, 1e-4 * each.mean(), rtol=1e-5)
    alone = quantizer(moments, mask=jnp.asarray([[True, False]])).loss
    np.testing.assert_allclose(alone, 1e-4 * each[0, 0], rtol=1e-5)
    np.testing.assert_array_equal(quantizer(moments).latents, mean)
    many = jnp.broadcast_to(moments[:, :1], (4000, 1, 4))
    latents = quantizer(many, rng=jax.random.key(0), train=True).latents
    np.testing.assert_allclose(latents[:, 0].std(0), deviation[0, 0], rtol=0.05)


def test_losses_are_the_released_weights():
    config = jaxtok.get_config("ezaudio:tiny").copy_and_resolve_references().to_dict()
    task = build(config["task"], model=build(config["model"]))
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (2, task.crop)).astype(np.float32)
    batch = {"audio": audio, "index": np.arange(2, dtype=np.int32)}
    shapes, state, _ = jax.eval_shape(task.init, jax.random.key(0), batch)
    assert state == {}
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)
    key = jax.random.key(5)

    @jax.jit
    def run(params):
        found, _ = task.losses(params, {}, batch, key, 0)
        once = jax.random.fold_in(jax.random.split(key, 4)[3], 0)
        own = {"params": params["generator"]}
        tokens = task.model.apply(own, audio, rng=once, train=True, method="encode")
        y = task.model.apply(own, tokens.latents, method="decode")
        seen = [task.discriminator.apply({"params": params["discriminator"]}, x)["stft"] for x in (audio, y)]
        distance = spectral.stft_loss(
            audio, y, resolutions=((160, 40, 160), (80, 20, 80)), floor=1e-8, a_weighted=24000
        )  # fmt: skip
        return found, tokens, distance.mean(), *seen

    found, tokens, distance, real, fake = jax.device_get(run(params))
    adversarial = sum(-f.logits.mean() for f in fake)
    features = sum(
        np.mean([np.abs(a - b).mean() for a, b in zip(r.features, f.features)]) for r, f in zip(real, fake)
    )  # fmt: skip
    assert len(real) == 1 and len(real[0].features) == 5
    expected = 1.0 * distance + 1e-4 * 2 * tokens.metrics["kl"] + 0.1 * adversarial + 5.0 * features
    np.testing.assert_allclose(found["generator"][0], expected, rtol=1e-4)
    told = sum(np.maximum(1 - r.logits, 0).mean() + np.maximum(1 + f.logits, 0).mean() for r, f in zip(real, fake))
    np.testing.assert_allclose(found["discriminator"][0], 0.1 * told, rtol=1e-4)


def test_the_weight_of_terms_sums_over_members():
    task = build(jaxtok.get_config("ezaudio:paper").task, model=build(jaxtok.get_config("ezaudio:paper").model))
    term = task.terms["stft"]
    assert isinstance(term, waveform.Term) and (term.criterion, term.logits, term.first) == ("hinge", False, 0)
    assert term.weight == pytest.approx(5 * 0.1)  # a sum over five members
    assert term.weight * term.matching == pytest.approx(5 * 5.0 / 5)  # likewise, of a mean over five layers


def test_schedule_is_the_references():
    rate = inverse_power(1.5e-4, gamma=200_000, power=0.5, warmup=0.999)
    for step in (0, 1000, 200_000, 600_000):
        expected = 1.5e-4 * (1 - 0.999 ** (step + 1)) * (1 + step / 200_000) ** -0.5
        np.testing.assert_allclose(rate(step), expected, rtol=1e-4)
    with pytest.raises(ValueError, match=r"expected gamma > 0 and warmup in \[0, 1\), found 0.0 and 0.5"):
        inverse_power(1.0, gamma=0.0, warmup=0.5)


def test_unknown_variants_are_refused():
    with pytest.raises(ValueError, match="ezaudio has no variant 'huge'; known: tiny, mini, paper"):
        jaxtok.get_config("ezaudio:huge")


def modulated(rank, condition, width=4):
    class Two(nn.Module):
        @nn.compact
        def __call__(self, time):
            told = shared_condition(time, 6)
            return [jnp.concatenate(sola(told, 6, width, name=f"block{i}", rank=rank), 1) for i in (0, 1)]

    return Two(), Two().init(jax.random.key(0), condition)


def test_modulation_begins_open_and_has_the_published_size():
    time = jax.random.normal(jax.random.key(1), (3, 4))
    module, variables = modulated(2, time)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == (6 * 16 + 24) + 2 * (6 * 2 * 4 + 36 * 2 * 4 + 24)
    for vectors in module.apply(variables, time):
        np.testing.assert_array_equal(vectors, np.broadcast_to([[0], [0], [1], [0], [0], [1]], (3, 6, 4)))


def test_modulation_is_shared_plus_low_rank_plus_table():
    time = jax.random.normal(jax.random.key(1), (3, 4))
    module, variables = modulated(2, time)
    params = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(leaf.size), leaf.shape), variables["params"])
    found = module.apply({"params": params}, time)
    u = np.asarray(time / (1 + np.exp(-time)))
    common = u @ params["modulation"]["kernel"] + params["modulation"]["bias"]
    for name, vectors in zip(("block0", "block1"), found):
        own = params[name]
        low = u @ own["down"]["kernel"] @ own["up"]["kernel"]
        expected = np.array((common + low).reshape(3, 6, 4) + own["table"])
        for i in (2, 5):  # gates
            expected[:, i] = 1 - expected[:, i]
        np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)
    _, without = modulated(0, time)
    assert sorted(without["params"]["block0"]) == ["table"]


def test_a_block_begins_as_one_without_modulation():
    block = DiTBlock(2, 8, modulation=functools.partial(sola, rank=2))
    x, condition = (
        jax.random.normal(jax.random.key(2), (2, 5, 4)),
        jnp.concatenate([jnp.zeros((2, 24)), jnp.ones((2, 4))], -1),
    )
    variables = block.init(jax.random.key(3), x, condition)
    plain = Block(2, 8)
    inner = {name: value for name, value in variables["params"].items() if name != "modulation"}
    np.testing.assert_allclose(block.apply(variables, x, condition), plain.apply({"params": inner}, x), atol=1e-5)
    with pytest.raises(ValueError, match=r"sola: expected a condition of 28 numbers, found shape \(2, 4\)"):
        block.init(jax.random.key(3), x, condition[:, :4])
