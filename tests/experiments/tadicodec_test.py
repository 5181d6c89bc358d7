"""The experiment end to end with 2 steps: every arm trains, and the table, the picture and the numbers are complete."""

import json
import pathlib

import numpy as np
import pytest

from jaxtok.build import build
from jaxtok.train.settings import leaves


@pytest.fixture(autouse=True)
def _checkout(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2]))


def test_the_judge_knows_the_truth_and_the_tilt():
    from experiments import toy_speech

    (batch,) = toy_speech.Speech(held_out=16).evaluation(split="test", batch_size=16)
    assert batch["mel"].shape == (16, toy_speech.FRAMES, toy_speech.BANDS)
    lengths = [np.bincount(row) for row in batch["segment"]]
    assert all(row.min() >= 4 and row.max() <= 12 and row.sum() == toy_speech.FRAMES for row in lengths)
    assert all((np.diff(ids[mask]) != 0).all() for ids, mask in zip(batch["text_ids"], batch["text_mask"]))
    perfect = toy_speech.judge(batch["mel"], batch, 8)
    assert perfect["phoneme"] == 0 and perfect["mel"] == 0 and perfect["tilt"] < 0.05
    tilted = toy_speech.judge(batch["mel"] + 0.5 * toy_speech.LINE, batch, 8)
    assert tilted["phoneme"] == 0 and abs(tilted["tilt"] - 0.5) < 0.05
    assert toy_speech.judge(np.roll(batch["mel"], 1, axis=0), batch, 8)["phoneme"] > 0.7


def test_every_arm_is_the_base_but_for_one_mechanism():
    from experiments import tadicodec

    base = leaves(tadicodec.config(steps=2))
    for arm, fields in tadicodec.ARMS.items():
        config = tadicodec.config(steps=2, **fields)
        build(config["task"], model=build(config["model"]))
        changed = {key.split(".")[-1] for key, value in leaves(config).items() if base[key] != value}
        assert changed <= {*fields, *(("group",) if "bits" in fields else ())}, arm
        assert set(fields) <= changed, arm


def test_two_steps_give_a_complete_table(tmp_path, monkeypatch):
    """One arm goes through the loop, as each arm is a program to compile; the others borrow its numbers."""
    from experiments import tadicodec

    real, shown = tadicodec.run, {}

    def run(arm, seed, **plan):
        if not shown:
            shown.update(real("half bits", seed, **plan))
        return shown | {"arm": arm}

    monkeypatch.setattr(tadicodec, "run", run)
    tadicodec.main(["--steps=2", "--seeds=1", "--all-arms", "--held-out=32", "--decoded=8", f"--output={tmp_path}"])
    rows = json.loads((tmp_path / "tadicodec.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == list(tadicodec.ARMS)
    for row in rows:
        assert {*tadicodec.ERRORS, *tadicodec.CODES} <= row["numbers"].keys()
        assert np.isfinite(list(row["numbers"].values())).all()
    assert rows[0]["numbers"]["tokens"] == 128 and rows[0]["numbers"]["used"] <= 16
    report = (tmp_path / "tadicodec.md").read_text()
    for arm in tadicodec.ARMS:
        assert report.count(f"\n| {arm} |") == 2
    assert report.count("\n- (") == report.count("**undecided**") == 10  # one seed decides nothing
    assert (tmp_path / "tadicodec.png").stat().st_size > 10_000


def test_a_claim_holds_from_two_standard_errors():
    from experiments import arms

    assert arms.verdict("more", np.array([1.0, 1.1, 0.9])) == "- more: 1.000 ± 0.058. **holds**"
    assert arms.verdict("more", np.array([-1.0, -1.1, -0.9])).endswith("**does not hold: reversed**")
    assert arms.verdict("more", np.array([1.0, -1.1, 0.9])).endswith("**undecided**")
