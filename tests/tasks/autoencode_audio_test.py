"""Training a waveform tokenizer: what its two losses are, whom they move, and what its state does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxtok
from jaxtok.losses import spectral
from jaxtok.nn import discriminators, oobleck, seanet, views
from jaxtok.papers.wavtokenizer import Decoder, conditional
from jaxtok.quantizers import EMAVQ, Gaussian
from jaxtok.signal.log_mel import LogMel
from jaxtok.signal.mel import MelFrontEnd
from jaxtok.tasks.autoencode_audio import AudioAutoencode
from jaxtok.tasks.waveform import Term
from jaxtok.tokenizers.waveform import WaveformTokenizer

ROWS, CROP = 8, 96
BANDS = views.Bands(32, 8, edges=(0.0, 0.4, 1.0))
LAYERS = (discriminators.Layer(2, (3, 3), (1, 2)),)
# One id, no dropout, and recordings of a crop's length: nothing is drawn but by the quantizer.
TASK = AudioAutoencode(
    model=WaveformTokenizer(
        seanet.Encoder(dimension=4, width=2, strides=(2, 3), causal=False),
        EMAVQ(size=8, width=4, commitment=10.0),
        Decoder(dimension=4, width=4, hidden=6, depth=1, n_fft=24, hop=6, bandwidths=1, groups=2, rate=0.0),
        conditional=True,
    ),
    discriminator=discriminators.Panel({
        "period": conditional(discriminators.multi_period((2,), channels=(2, 4)), 1),
        "band": discriminators.Ensemble((discriminators.Discriminator(BANDS, LAYERS, (3, 3)),)),
    }),
    terms={
        "period": Term(criterion="clipped_hinge", first=1),
        "band": Term(weight=2.0, matching=0.5, criterion="least_squares", first=0, logits=False),
    },
    reconstruction=lambda x, y: spectral.mel(x, y, scales=(LogMel(n_fft=32, hop=8, bands=4, padding="center"),)),
    start=2,
    crop=CROP,
    peak=(),
    bandwidths=1,
    judge=MelFrontEnd(n_fft=64, hop=16, bands=8),
)  # fmt: skip

# The same with latents that are drawn from a Gaussian, and unconditional discriminators.
OOBLECK = dict(channels=2, multipliers=(1,), strides=(6,), latent=2)
DRAWN = dataclasses.replace(
    TASK,
    model=WaveformTokenizer(
        oobleck.Encoder(**OOBLECK), Gaussian(width=2, weight=0.1, reduction="position"), oobleck.Decoder(**OOBLECK)
    ),
    discriminator=discriminators.Panel({"band": TASK.discriminator.ensembles["band"]}),
    terms={"band": TASK.terms["band"]},
    bandwidths=0,
)


@pytest.fixture(scope="module")
def batch():
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, (ROWS, CROP)).astype(np.float32)
    return {"audio": audio, "index": np.arange(ROWS, dtype=np.int32)}


@pytest.fixture(scope="module")
def ready(batch):
    """Parameters and a codebook away from their start."""
    params, state, frozen = jax.eval_shape(TASK.init, jax.random.key(0), batch)
    assert frozen == {} and sorted(state) == ["codebook", "hits"]
    rng = np.random.default_rng(1)

    def draw(path, leaf):  # where no hinge is satisfied, gradients of real and fake cancel in biases
        deviation = {"bias": 0.05, "scale": 2.0}.get(path[-1].key, 0.6)
        return rng.normal(0, deviation, leaf.shape).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, params)
    book = rng.normal(0, 0.5, (8, 4)).astype(np.float32)
    moving = {"embedding": book, "sums": book, "counts": np.ones(8, np.float32), "started": np.ones((), bool)}
    state = {"codebook": {"quantizer": moving}, "hits": np.zeros((1, 8), np.float32)}
    return jax.tree.map(jnp.asarray, (params, state))


@pytest.fixture(scope="module")
def both():
    """Jitted (params, state, batch, step) -> (losses, gradient of each player's loss by all parameters, state)."""

    def run(params, state, batch, step):
        def losses(params):
            found, after = TASK.losses(params, state, batch, jax.random.key(7), step)
            return {name: value for name, (value, _) in found.items()}, (found, after)

        values, pull, (found, after) = jax.vjp(losses, params, has_aux=True)
        zeros = jax.tree.map(jnp.zeros_like, values)
        return found, {name: pull(zeros | {name: jnp.ones(())})[0] for name in values}, after

    return jax.jit(run)


@pytest.fixture(scope="module")
def parts(ready, batch):
    """The tokens, the mel distance and what the discriminators say, without the task's losses."""
    params, state = ready

    @jax.jit
    def run(audio):
        tokens, y = TASK.model.apply({"params": params["generator"], "codebook": state["codebook"]}, audio)
        ids = jnp.zeros(ROWS, jnp.int32)
        seen = [TASK.discriminator.apply({"params": params["discriminator"]}, a, ids) for a in (audio, y)]
        return tokens, TASK.reconstruction(audio, y).mean(), *seen

    return jax.device_get(run(batch["audio"]))


def test_losses_are_the_published_sums(ready, both, batch, parts):
    found, _, _ = both(*ready, batch, 2)
    tokens, distance, real, fake = parts
    (r,), (f,) = real["period"], fake["period"]
    hidden = np.abs(r.features[1] - f.features[1]).mean() + np.abs(r.logits - f.logits).mean()
    generator = 45.0 * distance + tokens.loss + np.maximum(1 - f.logits, 0).mean() + hidden
    told = np.maximum(1 - r.logits, 0).mean() + np.maximum(1 + f.logits, 0).mean()
    (r,), (f,) = real["band"], fake["band"]
    hidden = sum(np.abs(a - b).mean() for a, b in zip(r.features[0], f.features[0]))  # two bands
    generator += 2 * (np.square(1 - f.logits).mean() + 0.5 * hidden)
    told += 2 * (np.square(1 - r.logits).mean() + np.square(f.logits).mean())
    np.testing.assert_allclose(found["generator"][0], generator, rtol=1e-4)
    np.testing.assert_allclose(found["discriminator"][0], told, rtol=1e-4)
    early = both(*ready, batch, 1)[0]["generator"]  # the discriminators do not count yet
    np.testing.assert_allclose(early[0], 45 * distance + tokens.loss, rtol=1e-4)


def test_without_discriminators_is_before_they_count(ready, both, batch):
    """The step of a discriminator's player that has not begun leaves it out, and moves the generator alike."""
    params, state = ready
    assert TASK.without(frozenset({"other"})) == TASK
    alone = TASK.without(frozenset({"discriminator"}))

    @jax.jit
    def run(params):
        def loss(params):
            found, after = alone.losses(params, state, batch, jax.random.key(7), 1)
            assert list(found) == ["generator"]
            return found["generator"][0], after

        return jax.value_and_grad(loss, has_aux=True)(params)

    (value, after), gradient = run(params)
    found, gradients, kept = both(params, state, batch, 1)
    np.testing.assert_allclose(value, found["generator"][0], rtol=1e-6)
    for one, other in zip(jax.tree.leaves((gradient, after)), jax.tree.leaves((gradients["generator"], kept))):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_no_loss_reaches_the_other_player_and_each_reaches_all_of_its_own(ready, both, batch):
    _, gradients, _ = both(*ready, batch, 2)
    for player, gradient in gradients.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if name.endswith("attention/key/bias"):  # adds the same to all weights of a query
                continue
            assert np.isfinite(leaf).all() and (np.abs(leaf).max() > 0) == (path[0].key == player), (player, name)


def test_codebook_and_hits_move_once(ready, both, batch, parts):
    _, _, after = both(*ready, batch, 2)
    counts = np.bincount(parts[0].codes.reshape(-1), minlength=8)
    assert (counts > 0).sum() > 1
    np.testing.assert_array_equal(after["hits"], counts[None])
    before, moved = ready[1]["codebook"]["quantizer"], after["codebook"]["quantizer"]
    np.testing.assert_allclose(moved["counts"], 0.99 + 0.01 * counts, rtol=1e-6)
    hit = counts > 0
    assert (before["embedding"] != moved["embedding"])[hit].any(1).all()
    np.testing.assert_allclose(moved["sums"][~hit], 0.99 * before["sums"][~hit], rtol=1e-6)


def on_eight(tree, rows):
    """The tree on all devices, and rows spread over them."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    here, there = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    return jax.device_put(tree, here), jax.device_put(rows, there)


def test_devices_change_nothing(ready, both, batch):
    found, gradients, after = both(*ready, batch, 2)

    @jax.jit
    def run(params, state, batch):
        def total(params):
            found, after = TASK.losses(params, state, batch, jax.random.key(7), 2)
            return sum(value for value, _ in found.values()), (found, after)

        return jax.grad(total, has_aux=True)(params)

    here, rows = on_eight(ready, batch)
    assert len(rows["audio"].sharding.device_set) == 8
    gradient, spread = run(*here, rows)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), (found, after), spread)
    for found, expected in zip(*map(jax.tree.leaves, (gradient, jax.tree.map(jnp.add, *gradients.values())))):
        # Logarithms of faint bands make the small ones of a leaf uncertain by a part of its largest.
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-5 * max(1.0, float(jnp.abs(expected).max())))


def test_latents_that_are_drawn_need_no_codes_and_no_one_device(batch):
    shapes, state, _ = jax.eval_shape(DRAWN.init, jax.random.key(0), batch)
    assert state == {} and DRAWN.accumulable and DRAWN.warnings(10_000, {}) == {}
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda s: rng.normal(0, 0.4, s.shape).astype(np.float32), shapes)
    run = jax.jit(lambda params, batch, key: DRAWN.losses(params, {}, batch, key, 2)[0])
    found, other = (run(params, batch, jax.random.key(seed)) for seed in (7, 8))
    loss, numbers = found["generator"]
    np.testing.assert_allclose(numbers["quantizer"], 0.1 * numbers["kl"], rtol=1e-6)
    parts = 45 * numbers["reconstruction"] + numbers["quantizer"]
    parts += 2 * (numbers["adversarial_band"] + 0.5 * numbers["features_band"])
    np.testing.assert_allclose(loss, parts, rtol=1e-5)
    assert numbers["kl"] == other["generator"][1]["kl"] and loss != other["generator"][0]  # what is drawn differs
    spread = run(*on_eight(params, batch), jax.random.key(7))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, spread)
    x, y, mask, codes = jax.eval_shape(DRAWN.reconstruct, shapes, {}, batch)
    assert codes is None and x.shape == y.shape == mask.shape == (ROWS, CROP)


def test_evaluation_is_per_recording_and_knows_no_padding(ready):
    evaluate = jax.jit(lambda batch: TASK.evaluate(*ready, batch, jax.random.key(0)))
    audio = np.random.default_rng(2).uniform(-0.5, 0.5, (2, 1280)).astype(np.float32)
    mask = np.arange(1280) < np.array([[1280], [700]])
    found = evaluate({"audio": audio, "audio_mask": mask})
    assert {name: value.shape for name, value in found.items()} == dict(mel_distance=(2,), stft_distance=(2,))
    others = np.stack([audio[0] * 0.5, np.where(mask[1], audio[1], 0.9)])  # and something in the padding
    again = evaluate({"audio": others, "audio_mask": mask})
    for name, value in found.items():
        np.testing.assert_array_equal(again[name][1], value[1])
        assert again[name][0] != value[0]


def test_resuming_is_bit_equal_with_both_players_and_the_codebook(tmp_path, resume):
    """Stopped before the discriminator begins, so that the program changes after resuming, and again later."""
    config = jaxtok.get_config("wavtokenizer:tiny").to_dict()
    period = dict(target="jaxtok.nn.discriminators:multi_period", periods=(2,), channels=(2,))
    period = dict(target="jaxtok.papers.wavtokenizer:conditional", ensemble=period)
    config["task"]["discriminator"] = dict(target="jaxtok.nn.discriminators:Panel", ensembles=dict(period=period))
    config["task"]["terms"] = dict(period=config["task"]["terms"]["period"])
    config["train"] |= dict(steps=5, ema=0.9, log_every=1, evaluate_every=0, checkpoint_every=0)
    config["train"]["mesh"]["data"] = 1
    config["train"]["players"]["discriminator"]["start"] = 3
    lines, items = resume(config, tmp_path, (2, 4))
    assert ["discriminator/loss" in line for line in lines] == [False] * 3 + [True] * 2
    assert sorted(items["opt"]) == ["discriminator", "generator"]
    moving = items["state"]["codebook"]["quantizer"]
    assert moving["started"] and len(np.unique(moving["counts"])) > 1
    assert items["state"]["hits"].sum() > 0


def test_a_collapsing_codebook_is_named():
    numbers = {"generator/evenness": 0.1, "generator/usage": 0.125}
    assert TASK.warnings(200, numbers) == {}  # too early to tell
    assert TASK.warnings(201, numbers)["codebook"].startswith("codebook is collapsing at step 201: 1 of 8 codes")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(terms={"period": Term()}), r"terms: expected \['band', 'period'\], found \['period'\]"),
        (dict(crop=100), "crop: expected whole hops of 6 samples, found 100"),
        (dict(peak=(-1.0, -6.0)), r"peak: expected \(low, high\) decibels up to 0"),
        (dict(decay=1.0), "decay: expected a number between 0 and 1, found 1.0"),
    ],
)
def test_bad_fields(fields, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(TASK, **fields)


def test_a_moving_codebook_refuses_accumulation_and_terms_their_criterion():
    assert not TASK.accumulable
    with pytest.raises(ValueError, match="criterion: expected one of"):
        Term(criterion="mse")
