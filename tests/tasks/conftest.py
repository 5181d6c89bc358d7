"""What tests of several tasks do alike."""

import jax
import numpy as np
import pytest

from jaxtok.train.checkpoint import ITEMS, load_item
from jaxtok.train.loop import train
from jaxtok.train.writer import read_lines


def _kept(workdir):
    """The lines of a run's metrics, and the items of its last checkpoint by name."""
    items = {item: jax.tree.map(np.asarray, load_item(workdir, item)) for item in ITEMS}
    return read_lines(workdir / "metrics.jsonl"), items


def _resume(config, workdir, stops):
    """Trains without a stop, and again with a stop after each of the steps ``stops``: both must give the same bits.

    Each stop leaves what a killed process does, lines of two steps that it never saved.

    Returns:
      Lines and items of the run that was never stopped.
    """
    whole, parts, last = workdir / "whole", workdir / "parts", 0
    train(config, whole)
    for stop in stops:
        assert train(config, parts, stop_after=stop - last).step == stop
        with open(parts / "metrics.jsonl", "a") as file:
            file.write(f'{{"step": {stop + 1}, "loss": 1.0}}\n{{"step": {stop + 2}, "lo')
        last = stop
    train(config, parts)
    (lines, items), (again, found) = map(_kept, (whole, parts))
    assert [line["step"] for line in lines] == [line["step"] for line in again] == list(range(1, len(lines) + 1))
    assert len(lines) == config["train"]["steps"]
    assert [line["loss"] for line in lines] == [line["loss"] for line in again]
    for item, tree in items.items():
        assert jax.tree.leaves(tree) and jax.tree.structure(tree) == jax.tree.structure(found[item]), item
        assert jax.tree.all(jax.tree.map(np.array_equal, tree, found[item])), item
    return lines, items


@pytest.fixture
def resume():
    """``resume(config, workdir, stops)``: see its docstring; every item of the state must hold something."""
    return _resume
