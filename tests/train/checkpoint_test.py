"""Damage, full disks, and what is kept."""

import pathlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_game

from jaxtok.train import manifest
from jaxtok.train.checkpoint import Checkpoints, load_item, load_params, newest, restore
from jaxtok.train.errors import CheckpointError
from jaxtok.train.loop import train
from jaxtok.train.state import TrainState
from jaxtok.train.writer import read_lines


def state(value=1.0, width=4):
    params = {"a": {"kernel": jnp.full((2, width), value)}, "b": jnp.full((3,), value, jnp.bfloat16)}
    zero = jnp.zeros((), jnp.int32)
    return TrainState(step=zero, bad=zero - 1, params=params, ema={}, opt={"main": (zero, params)}, state={})


def save(checkpoints, step, value=1.0, metrics=None):
    about = {"config": {}, "frozen": {}}
    checkpoints.save(step, state(value), data={"states": [{"next": step}]}, meta=about, metrics=metrics or {})
    checkpoints.wait()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(folder, keep_last=3)
    for step in (1, 2):
        save(checkpoints, step, float(step))
    return folder


@pytest.fixture
def run(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def test_items_load_alone_and_together(run):
    like = jax.eval_shape(state)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), like)
    found, data, meta = restore(run, 1, like)
    assert jax.tree.all(jax.tree.map(np.array_equal, found.params, state(1.0).params))
    assert found.opt["main"][1]["b"].dtype == jnp.bfloat16 and isinstance(found.opt["main"], tuple)
    assert (data, meta["step"]) == ({"states": [{"next": 1}]}, 1)
    assert float(load_params(run)["a"]["kernel"][0, 0]) == 2.0
    assert load_item(run, "ema") == {}


def files(run, step):
    folder = pathlib.Path(manifest.at(run, step))
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_every_flipped_bit_and_every_cut_is_found(run, caplog):
    """Each file of the newest checkpoint in turn; the one before it is used, and the damage is named."""
    paths = files(run, 2)
    assert len(paths) > 10
    for path in paths:
        whole = path.read_bytes()
        if not whole:
            continue
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 16
        for damaged in (bytes(flipped), whole[:-1]):
            path.write_bytes(damaged)
            caplog.clear()
            assert newest(run) == 1
            assert str(path) in caplog.text and "going on from step 1" in caplog.text
        path.write_bytes(whole)
    assert newest(run) == 2
    paths[-1].unlink()
    assert newest(run) == 1


def test_no_whole_checkpoint_left(run):
    for step in (1, 2):
        files(run, step)[-1].write_bytes(b"")
    with pytest.raises(CheckpointError, match="no whole checkpoint in .* has 0 bytes, expected"):
        newest(run)
    with pytest.raises(CheckpointError, match="has no checkpoint of step 7; it has: 1, 2"):
        load_params(run, 7)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_params(run / "elsewhere")


def test_other_arrays_are_refused_before_loading(run):
    like = jax.eval_shape(lambda: state(width=5))
    with pytest.raises(ValueError, match=r"params/a/kernel is float32\[2, 4\], this config needs float32\[2, 5\]"):
        restore(run, 2, like)
    like = jax.eval_shape(lambda: TrainState(**(vars(state()) | {"ema": {"x": jnp.zeros(1)}})))
    with pytest.raises(ValueError, match=r"has no ema/x, which this config needs"):
        restore(run, 2, like)


def test_the_last_and_the_best_are_kept_and_a_killed_save_is_cleared(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep_last=2, keep_best="error")
    for step, error in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 5.0), (5, float("nan"))):
        save(checkpoints, step, metrics={"error": error})
    assert manifest.steps(tmp_path) == [2, 4, 5]
    (manifest.at(tmp_path, 5) / manifest.NAME).unlink()
    (manifest.folder(tmp_path) / "00000006.orbax-checkpoint-tmp").mkdir()
    manifest.clean(tmp_path)
    assert sorted(path.name for path in manifest.folder(tmp_path).iterdir()) == ["00000002", "00000004"]


def test_a_damaged_checkpoint_is_trained_over(tmp_path, caplog):
    train(toy_game.config(steps=12), tmp_path / "whole")
    train(toy_game.config(steps=8), tmp_path / "run")
    largest = max(files(tmp_path / "run", 8), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[100] ^= 1
    largest.write_bytes(data)
    assert train(toy_game.config(steps=12), tmp_path / "run").step == 12
    assert "going on from step 4" in caplog.text and manifest.steps(tmp_path / "run") == [8, 12]
    assert not manifest.damage(manifest.at(tmp_path / "run", 8))
    one, other = ([line["loss"] for line in read_lines(tmp_path / name / "metrics.jsonl")] for name in ("whole", "run"))
    assert one == other


def test_a_full_disk_is_one_sentence_and_the_previous_checkpoint_stays_whole(tmp_path):
    """The system refuses files above a size, as it would on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = toy_game.config(steps=40)
    config["model"]["width"] = 4096

    train(config, tmp_path, stop_after=4)

    def fill(step, *_):
        if step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, before[1]))

    try:
        with pytest.raises(CheckpointError) as found:
            train(config, tmp_path, callbacks=[fill])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = str(found.value)
    assert "the checkpoint of step 8 could not be written to" in message and "\n" not in message
    assert message.endswith("the last whole one is step 4") and "File too large" in message
    assert newest(tmp_path) == 4
    assert train(config | {"train": config["train"] | {"steps": 9}}, tmp_path).step == 9


def test_a_directory_that_cannot_be_written(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 1)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(manifest, "write", refuse)
    with pytest.raises(CheckpointError, match=r"step 2 could not .*Permission denied\): the last whole one is step 1"):
        save(checkpoints, 2)
    assert newest(tmp_path) == 1
