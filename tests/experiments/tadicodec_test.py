"""The experiment end to end with 2 steps: every arm trains, and the table, the picture and the numbers are complete."""

import json
import pathlib

import numpy as np
import pytest


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2]))
    from experiments import tadicodec

    return tadicodec


def test_the_judge_knows_the_truth_and_the_tilt(experiment):
    (batch,) = experiment.Speech(held_out=16).evaluation(split="test", batch_size=16)
    assert batch["mel"].shape == (16, experiment.FRAMES, experiment.BANDS)
    lengths = [np.bincount(row) for row in batch["segment"]]
    assert all(row.min() >= 4 and row.max() <= 12 and row.sum() == experiment.FRAMES for row in lengths)
    assert all((np.diff(ids[mask]) != 0).all() for ids, mask in zip(batch["text_ids"], batch["text_mask"]))
    perfect = experiment.judge(batch["mel"], batch)
    assert perfect["phoneme"] == 0 and perfect["mel"] == 0 and perfect["tilt"] < 0.05
    tilted = experiment.judge(batch["mel"] + 0.5 * experiment.LINE, batch)
    assert tilted["phoneme"] == 0 and abs(tilted["tilt"] - 0.5) < 0.05
    other = experiment.judge(np.roll(batch["mel"], 1, axis=0), batch)
    assert other["phoneme"] > 0.7


def test_two_steps_give_a_complete_table(experiment, tmp_path):
    experiment.main(["--steps=2", "--seeds=1", "--held-out=32", "--decoded=8", f"--output={tmp_path}"])
    rows = json.loads((tmp_path / "tadicodec.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == list(experiment.ARMS)
    for row in rows:
        assert {*experiment.ERRORS, *experiment.CODES} <= row["numbers"].keys()
        assert np.isfinite(list(row["numbers"].values())).all()
    report = (tmp_path / "tadicodec.md").read_text()
    for arm in experiment.ARMS:
        assert report.count(f"\n| {arm} |") == 2
    assert report.count("\n- (") == 9
    assert (tmp_path / "tadicodec.png").stat().st_size > 10_000
