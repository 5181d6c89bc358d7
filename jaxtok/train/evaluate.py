"""Evaluation on held-out batches: per-example numbers, averaged over the examples that are no padding."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from jaxtok import recipes
from jaxtok.train import settings, sharding
from jaxtok.train.checkpoint import load_item, load_params
from jaxtok.train.program import make_task
from jaxtok.train.source import source_of
from jaxtok.train.state import TrainState, Tree
from jaxtok.train.step import keys


def make_evaluate(task: Any, mesh: Mesh, rng: jax.Array) -> Callable[..., dict[str, tuple[jax.Array, jax.Array]]]:
    """Jitted ``(params, state, frozen, batch) -> {name: (sum, count)}`` over one batch's examples."""

    def evaluate(params: Tree, state: Tree, frozen: Tree, batch: Mapping[str, jax.Array]):
        batch = dict(batch)
        mask = batch.pop("example_mask", None)
        values = task.evaluate(params, state, batch, rng, frozen=frozen)
        found = {}
        for name, value in values.items():
            here = jnp.ones(value.shape, bool) if mask is None else mask
            found[name] = (jnp.sum(jnp.where(here, value, 0.0)), jnp.sum(here))
        return found

    return jax.jit(evaluate, out_shardings=sharding.replicated(mesh))


def run(
    evaluate: Callable, mesh: Mesh, state: TrainState, frozen: Tree, batches: Iterable[Mapping]
) -> dict[str, float]:
    """Means over all batches, of the running mean of the parameters where there is one.

    Raises:
      ValueError: when there is no example.
    """
    return average(evaluate, mesh, state.ema or state.params, state.state, frozen, batches)


def average(
    evaluate: Callable, mesh: Mesh, params: Tree, state: Tree, frozen: Tree, batches: Iterable[Mapping]
) -> dict[str, float]:
    """As ``run``, of given parameters and task state."""
    totals: dict[str, np.ndarray] = {}
    for batch in batches:
        found = jax.device_get(evaluate(params, state, frozen, sharding.put_batch(mesh, batch)))
        for name, pair in found.items():
            totals[name] = totals.get(name, np.zeros(2)) + np.asarray(pair, np.float64)
    if not totals or not next(iter(totals.values()))[1]:
        raise ValueError("the held-out split has no example: set train.evaluate_every=0, or give the data one")
    return {name: float(total / count) for name, (total, count) in totals.items()}


def evaluate_run(workdir: epath.PathLike, *, split: str, limit: int = 0) -> dict[str, float]:
    """The means of a finished or running run on a split, from its newest whole checkpoint.

    Args:
      workdir: the run's directory.
      split: of the data that the run's config names.
      limit: at most so many examples; 0 for all.

    Raises:
      ValueError: when there is no such run, or nothing in the split.
    """
    config = settings.resolve(recipes.of_run(workdir))
    mesh = sharding.make_mesh(config["train"]["mesh"])
    task = make_task(config, mesh)
    size = config["train"]["batch_size"]
    batches = source_of(config["data"]).evaluation(split=split, batch_size=size, limit=limit)
    loaded = load_params(workdir), load_item(workdir, "state")
    params, state = jax.device_put(loaded, sharding.replicated(mesh))
    first = {name: value for name, value in next(iter(batches)).items() if name != "example_mask"}
    frozen = jax.jit(lambda batch: task.init(keys(config["seed"]).init, batch)[2])(first)
    evaluate = make_evaluate(task, mesh, keys(config["seed"]).evaluate)
    return average(evaluate, mesh, params, state, frozen, batches)
