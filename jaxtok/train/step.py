"""One training step as a pure function of (state, frozen, batch, stop)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxtok.train import players as playing
from jaxtok.train.players import Player
from jaxtok.train.state import TrainState, Tree


class Keys(NamedTuple):
    """The independent streams of a run's seed."""

    init: jax.Array
    step: jax.Array
    evaluate: jax.Array


def keys(seed: int) -> Keys:
    """The keys of a run; the step's is folded with the step's number, the evaluation's is always the same."""
    return Keys(*jax.random.split(jax.random.key(seed), 3))


def make_init(
    task: Any, players: Sequence[Player], *, seed: int, ema: float = 0.0
) -> Callable[[Mapping[str, jax.Array]], tuple[TrainState, Tree]]:
    """Builds ``init(batch) -> (state, frozen)``, to be jitted with the shardings of its result."""

    def init(batch: Mapping[str, jax.Array]) -> tuple[TrainState, Tree]:
        params, task_state, frozen = task.init(keys(seed).init, batch)
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            bad=jnp.full((), -1, jnp.int32),
            params=params,
            ema=jax.tree.map(jnp.copy, params) if ema else {},
            opt=playing.init(players, params),
            state=task_state,
        )
        return state, frozen

    return init


def make_step(
    task: Any, players: Sequence[Player], *, seed: int, accumulate: int = 1, ema: float = 0.0, micro: Any = None
) -> Callable[[TrainState, Tree, Mapping[str, jax.Array], jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Builds ``step(state, frozen, batch, stop) -> (state, out)``.

    Args:
      task: has ``losses(params, state, batch, rng, step, *, frozen, ema)``.
      players: with their paths assigned.
      seed: of the run, see ``keys``.
      accumulate: micro-batches a step. Micro-batch i holds rows i, i + k, i + 2k, ..., so that no row leaves its
        device; the task's state runs through them in turn.
      ema: decay of the running mean of the parameters, 0 for none.
      micro: sharding of one micro-batch's leading axes, (accumulate, rows), or None.

    ``stop`` is int32 [devices], not 0 where a process was asked to stop. ``out["signal"]`` is int32 [2]: whether any
    was, and the first step that was not finite (-1: none). The other entries of ``out`` are float32 scalars.
    """

    def step(state: TrainState, frozen: Tree, batch: Mapping[str, jax.Array], stop: jax.Array):
        rng = jax.random.fold_in(keys(seed).step, state.step)

        def total(params, task_state, rows):
            losses, after = task.losses(params, task_state, rows, rng, state.step, frozen=frozen, ema=state.ema)
            metrics = {f"{name}/loss": value for name, (value, _) in losses.items()}
            metrics |= {f"{name}/{key}": value for name, (_, more) in losses.items() for key, value in more.items()}
            loss = sum(jnp.asarray(value, jnp.float32) for value, _ in losses.values())
            return loss, (after, {"loss": loss} | {key: jnp.asarray(v, jnp.float32) for key, v in metrics.items()})

        grads, task_state, metrics = _gradients(total, state, batch, accumulate, micro)
        norms = {player.name: optax.tree.norm(player.take(grads)) for player in players}

        # A step that is not finite moves nothing, and neither does any after it: the state stays the last good one
        # until the host, which learns of it a few steps late, stops the run.
        finite = jnp.isfinite(metrics["loss"])
        for norm in norms.values():
            finite &= jnp.isfinite(norm)
        bad = jnp.where((state.bad < 0) & ~finite, state.step, state.bad)
        ok = bad < 0

        params, opt = playing.update(players, state.params, state.opt, grads, state.step, ok)
        for player in players:
            metrics[f"{player.name}/grad_norm"] = norms[player.name]
            metrics[f"{player.name}/learning_rate"] = player.rate(state.step)
        mean = state.ema
        if ema:  # written as a step towards params: where they are equal, nothing changes, not even by rounding
            mean = jax.tree.map(lambda m, p: jnp.where(ok, m + (1 - ema) * (p - m).astype(m.dtype), m), mean, params)
        out = metrics | {"signal": jnp.stack([jnp.max(stop), bad])}
        after = TrainState(
            step=state.step + 1,
            bad=bad,
            params=params,
            ema=mean,
            opt=opt,
            state=playing.select(ok, task_state, state.state),
        )
        return after, out

    return step


def _gradients(
    total: Callable, state: TrainState, batch: Mapping[str, jax.Array], accumulate: int, micro: Any
) -> tuple[Tree, Tree, dict[str, jax.Array]]:
    """Gradient of the mean of ``total`` over micro-batches, the task's state after them, and the mean metrics."""
    grad = jax.grad(total, has_aux=True)
    if accumulate == 1:
        grads, (task_state, metrics) = grad(state.params, state.state, batch)
        return grads, task_state, metrics

    def split(x):
        rows = jnp.moveaxis(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 1, 0)
        return rows if micro is None else jax.lax.with_sharding_constraint(rows, micro)

    def add(carry, rows):
        sums, task_state = carry
        grads, (task_state, metrics) = grad(state.params, task_state, rows)
        return (jax.tree.map(jnp.add, sums, grads), task_state), metrics

    zeros = jax.tree.map(jnp.zeros_like, state.params)
    (sums, task_state), metrics = jax.lax.scan(add, (zeros, state.state), jax.tree.map(split, dict(batch)))
    return (
        jax.tree.map(lambda g: g / accumulate, sums),
        task_state,
        {key: jnp.mean(value) for key, value in metrics.items()},
    )
