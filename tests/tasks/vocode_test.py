"""Training a vocoder: what its two losses are, whom they move, and that devices, padding and kills change nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxtok
from jaxtok.losses import spectral
from jaxtok.nn import discriminators, views
from jaxtok.nn.vocos import Vocos
from jaxtok.signal.log_mel import LogMel
from jaxtok.signal.mel import MelFrontEnd
from jaxtok.tasks.vocode import Vocode

ROWS, SAMPLES, CROP, HOP = 8, 1280, 512, 16
BANDS = views.Levelled(views.Bands(64, 16, edges=(0.0, 0.4, 1.0)))
LAYERS = (discriminators.Layer(2, (3, 3), (1, 2)), discriminators.Layer(2, (3, 3), (1, 1)))
FRONT = LogMel(n_fft=64, hop=HOP, bands=8)
TASK = Vocode(
    model=Vocos(bands=8, width=8, hidden=12, depth=1, n_fft=64, hop=HOP),
    discriminator=discriminators.Panel({
        "period": discriminators.multi_period((2,), channels=(2, 4)),
        "band": discriminators.Ensemble((discriminators.Discriminator(BANDS, LAYERS, (3, 3)),)),
    }),
    frontend=FRONT,
    weights={"period": 1.0, "band": 0.1},
    reconstruction=lambda x, y: spectral.mel(x, y, scales=(LogMel(n_fft=64, hop=16, bands=8, padding="center"),)),
    crop=CROP,
    lecam=0.01,
    start=2,
    judge=MelFrontEnd(n_fft=64, hop=16, bands=8),
)  # fmt: skip


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    lengths = np.array([1280, 640, 192, 1280, 960, 1280, 320, 512])
    mask = np.arange(SAMPLES) < lengths[:, None]
    audio = np.where(mask, rng.uniform(-0.4, 0.4, (ROWS, SAMPLES)), 0.0).astype(np.float32)
    return {"audio": audio, "audio_mask": mask, "index": np.arange(ROWS, dtype=np.int32)}


@pytest.fixture(scope="module")
def ready(batch):
    """Parameters away from their start, and LeCam averages that are not 0."""
    shapes = jax.eval_shape(TASK.init, jax.random.key(0), batch)
    assert shapes[2] == {}
    rng = np.random.default_rng(1)
    params, state = jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes[:2])
    return params, state


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


@jax.jit
def seen(params, batch):
    """Crops, samples, and what the discriminators say of each, without the task's losses."""
    x = TASK.crops(batch, jax.vmap(lambda i: jax.random.fold_in(jax.random.key(7), i))(batch["index"]))
    y = TASK.model.apply({"params": params["generator"]}, FRONT(x))
    judged = [TASK.discriminator.apply({"params": params["discriminator"]}, audio) for audio in (x, y)]
    return TASK.reconstruction(x, y).mean(), *judged


def test_losses_are_the_published_sums(ready, both, batch):
    params, state = ready
    found, _, after = both(params, state, batch, 2)
    distance, real, fake = jax.device_get(seen(params, batch))
    generator, told = 45.0 * distance, 0.0
    for name, weight in (("period", 1.0), ("band", 0.1)):
        (r,), (f,) = real[name], fake[name]
        generator += weight * np.maximum(1 - f.logits, 0).mean()
        layers = zip(*(jax.tree.leaves([*one.features[1:], one.logits]) for one in (r, f)))
        generator += weight * sum(np.abs(a - b).mean() for a, b in layers)
        told += weight * (np.maximum(1 - r.logits, 0).mean() + np.maximum(1 + f.logits, 0).mean())
    np.testing.assert_allclose(found["generator"][0], generator, rtol=1e-4)
    plain = found["discriminator"][0] - 0.01 * found["discriminator"][1]["lecam"]
    np.testing.assert_allclose(plain, told, rtol=1e-4)
    average = 0.99 * state["lecam"]["real"]["band"][0] + 0.01 * real["band"][0].logits.mean()
    np.testing.assert_allclose(after["lecam"]["real"]["band"][0], average, rtol=1e-4)


def test_no_loss_reaches_the_other_player_and_each_reaches_all_of_its_own(ready, both, batch):
    _, gradients, _ = both(*ready, batch, 2)
    for player, gradient in gradients.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            mine = path[0].key == player
            assert np.isfinite(leaf).all() and (np.abs(leaf).max() > 0) == mine, (player, jax.tree_util.keystr(path))


def test_the_adversary_counts_from_its_start(ready, both, batch):
    early, late = (both(*ready, batch, step)[0]["generator"] for step in (1, 2))
    np.testing.assert_allclose(early[0], 45 * early[1]["reconstruction"], rtol=1e-6)
    opinion = sum(
        weight * (late[1][f"adversarial_{name}"] + late[1][f"features_{name}"]) for name, weight in TASK.weights.items()
    )
    np.testing.assert_allclose(late[0] - early[0], opinion, rtol=1e-3)


def test_what_stands_in_the_padding_changes_nothing(ready, both, batch):
    dirty = dict(batch, audio=np.where(batch["audio_mask"], batch["audio"], 0.9).astype(np.float32))
    clean, other = (both(*ready, rows, 2)[0] for rows in (batch, dirty))
    jax.tree.map(np.testing.assert_array_equal, clean, other)


def test_devices_and_micro_batches_change_nothing(ready, both, batch):
    found, gradients, after = both(*ready, batch, 2)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    here = jax.device_put(ready, NamedSharding(mesh, PartitionSpec()))
    spread = both(*here, rows, 2)
    assert len(rows["audio"].sharding.device_set) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), (found, after), spread[::2])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), gradients, spread[1])
    # Two micro-batches of four rows each, every row twice so that no other shape is compiled.
    micro = [both(*ready, {name: np.repeat(value[i::2], 2, 0) for name, value in batch.items()}, 2)[1] for i in (0, 1)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *micro)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), gradients, mean)


def test_crops_are_stretches_of_the_recording_repeated_where_it_is_short(batch):
    plain = dataclasses.replace(TASK, peak=())
    draw = jax.jit(lambda batch, keys: (plain.crops(batch, keys), TASK.crops(batch, keys)))
    starts = set()
    for seed in range(20):
        x, scaled = map(np.asarray, draw(batch, jax.random.split(jax.random.key(seed), ROWS)))
        np.testing.assert_array_equal(x[2], np.tile(batch["audio"][2, :192], 3)[:CROP])  # 192 samples, from the start
        windows = np.lib.stride_tricks.sliding_window_view(batch["audio"][1, :640], CROP)
        (start,) = np.flatnonzero((windows == x[1]).all(1))
        starts.add(int(start))
        np.testing.assert_array_equal(x[7], batch["audio"][7, :CROP])
        ratio = np.abs(scaled).max(1) / np.abs(x).max(1) * np.abs(batch["audio"]).max(1)  # the recording's peak now
        assert (ratio > 10 ** (-6 / 20) - 1e-5).all() and (ratio < 10 ** (-1 / 20) + 1e-5).all()
    assert min(starts) < 26 and max(starts) > 102  # of 0 .. 128
    silent, _ = draw(dict(batch, audio=0 * batch["audio"]), jax.random.split(jax.random.key(0), ROWS))
    np.testing.assert_array_equal(silent, 0.0)


def test_evaluation_is_per_recording_and_knows_no_padding(ready, batch):
    evaluate = jax.jit(lambda batch: (TASK.evaluate(*ready, batch, jax.random.key(0)), TASK.vocode(ready[0], batch)))
    rows = {name: value[:4] for name, value in batch.items()}
    found, (x, y, mask) = evaluate(rows)
    assert {name: value.shape for name, value in found.items()} == dict(mel_distance=(4,), stft_distance=(4,))
    assert x.shape == y.shape == mask.shape == (4, SAMPLES)
    assert not np.abs(np.asarray(y)[~mask]).any() and not np.abs(np.asarray(x)[~mask]).any()
    others = np.roll(batch["audio"], 1, axis=0)[:4]  # other neighbours, and something in the padding
    others[1] = np.where(batch["audio_mask"][1], batch["audio"][1], 0.9)
    again = evaluate(dict(rows, audio=others))[0]
    for name, value in found.items():
        np.testing.assert_array_equal(again[name][1], value[1])
        assert (np.delete(again[name], 1) != np.delete(value, 1)).all()


def test_resuming_is_bit_equal_with_the_discriminator_and_its_averages(tmp_path, resume):
    """Stopped before the discriminator begins, so that the program changes after resuming, and again later."""
    config = jaxtok.get_config("vocos:tiny").to_dict()
    config["task"] |= dict(lecam=0.01, weights=dict(period=1.0))
    ensembles = config["task"]["discriminator"]["ensembles"]
    config["task"]["discriminator"]["ensembles"] = dict(period=ensembles["period"] | dict(periods=(2,)))
    config["train"] |= dict(steps=5, ema=0.9, log_every=1, evaluate_every=0, checkpoint_every=0)
    config["train"]["mesh"]["data"] = 1
    config["train"]["players"]["discriminator"]["start"] = 3
    lines, items = resume(config, tmp_path, (2, 4))
    assert ["discriminator/loss" in line for line in lines] == [False] * 3 + [True] * 2
    assert all(np.abs(leaf) > 0 for leaf in jax.tree.leaves(items["state"]["lecam"]))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(weights={"period": 1.0}), r"weights: expected \['band', 'period'\], found \['period'\]"),
        (dict(crop=500), "crop: expected whole hops of 16 samples, found 500"),
        (dict(criterion="mse"), "criterion: expected one of"),
        (dict(frontend=LogMel(n_fft=64, hop=32, bands=8), crop=512), "frontend: expected the model's hop 16, found 32"),
        (dict(frontend=LogMel(n_fft=64, hop=16, bands=8, padding="center")), "found padding 'center'"),
        (dict(peak=(-1.0, -6.0)), r"peak: expected \(low, high\) decibels up to 0"),
    ],
)
def test_bad_fields(fields, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(TASK, **fields)


def test_lecam_refuses_accumulation():
    assert not TASK.accumulable and dataclasses.replace(TASK, lecam=0.0).accumulable


def test_tadicodecs_vocoder_is_of_this_form():
    task = dataclasses.replace(TASK, model=Vocos(), frontend=MelFrontEnd(), crop=32 * 480)
    params = jax.eval_shape(task.init, jax.random.key(0), {})[0]["generator"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 255_042_434
