"""Two real processes of two devices each."""

import json
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import toy_game

from jaxtok.train.loop import train
from jaxtok.train.writer import read_lines

HERE = pathlib.Path(__file__).parent


def pair(surroundings, workdir):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    environment = surroundings | {"XLA_FLAGS": flags}
    command = [sys.executable, HERE / "pair.py", str(port)]
    both = [
        subprocess.Popen(
            [*command, str(i), workdir],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        texts = [process.communicate(timeout=240) for process in both]
    finally:
        for process in both:
            process.kill()
    for process, (_, errors) in zip(both, texts):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in texts]


def losses(workdir):
    return np.array([line["loss"] for line in read_lines(workdir / "metrics.jsonl") if "loss" in line])


def test_two_processes_equal_one_resume_and_stop_together(tmp_path, surroundings):
    one, two = pair(surroundings, tmp_path / "pair")
    assert one["first"] == two["first"] == 7
    # SIGTERM reached process 1 alone: both saved the same step.
    assert one["reason"] == two["reason"] == "SIGTERM"
    assert 14 < one["step"] == two["step"] < 20
    assert one["evaluation"] == two["evaluation"]

    alone = train(toy_game.sharded(steps=one["step"]), tmp_path / "alone")
    np.testing.assert_allclose(one["metrics"]["loss"], alone.metrics["loss"], atol=1e-5)
    np.testing.assert_allclose(two["metrics"]["loss"], alone.metrics["loss"], atol=1e-5)
    size = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(jax.device_get(alone.state.params)))
    assert one["divided"] and one["size"] == two["size"]
    np.testing.assert_allclose(one["size"], size, rtol=1e-5)

    # One process goes on where two stopped.
    more = one["step"] + 4
    train(toy_game.sharded(steps=more), tmp_path / "alone")
    assert train(toy_game.sharded(steps=more), tmp_path / "pair").step == more
    assert len(losses(tmp_path / "pair")) == more
    np.testing.assert_allclose(losses(tmp_path / "pair"), losses(tmp_path / "alone"), atol=1e-5)
