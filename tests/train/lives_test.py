"""Processes that are killed, terminated, or come second."""

import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import toy_game

from jaxtok.train.checkpoint import load_item
from jaxtok.train.loop import train
from jaxtok.train.writer import read_lines

HERE = pathlib.Path(__file__).parent
TIMED = ("steps_per_second", "examples_per_second", "teraflops_per_second")


def script(environment, name, *args, timeout=120):
    done = subprocess.run(
        [sys.executable, HERE / name, *map(str, args)], env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def curve(workdir):
    return [{k: v for k, v in line.items() if k not in TIMED} for line in read_lines(workdir / "metrics.jsonl")]


def test_a_run_that_is_killed_again_and_again_equals_one_that_is_not(tmp_path, surroundings):
    found = script(surroundings, "lives.py", "kill", tmp_path / "killed")
    assert found["status"] == 0
    assert found["in_save"] >= 3  # some kills did fall into a save
    train(toy_game.config(steps=found["steps"], log_every=1, checkpoint_every=0), tmp_path / "whole")
    killed, whole = curve(tmp_path / "killed"), curve(tmp_path / "whole")
    assert [line["step"] for line in killed] == list(range(1, found["steps"] + 1))
    assert killed == whole  # every loss of both players, to the last bit
    for item in ("params", "ema", "opt", "state"):
        one, other = (load_item(tmp_path / name, item) for name in ("killed", "whole"))
        assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)), one, other)), item


def test_sigterm_saves_and_a_second_process_is_refused(tmp_path, surroundings):
    found = script(surroundings, "lives.py", "term", tmp_path / "run")
    assert (
        found["refused"].endswith("stop it, or take another workdir")
        and f"process {found['pid']} on" in found["refused"]
    )
    assert found["status"] == 0
    assert found["step"] == found["saved"] + 3
