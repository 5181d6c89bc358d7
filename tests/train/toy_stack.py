"""A small scanned network on given rows, for the compiler's report."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

WIDTH, HIDDEN, DEPTH, INPUTS, LENGTH = 64, 256, 4, 16, 8


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        h = nn.silu(nn.Dense(HIDDEN, use_bias=False, name="up")(x))
        return x + nn.Dense(WIDTH, use_bias=False, name="down")(h), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(WIDTH, use_bias=False, name="first")(x)
        scanned = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=DEPTH)
        x, _ = scanned(name="blocks")(x, None)
        return nn.Dense(INPUTS, use_bias=False, name="last")(x)


@dataclasses.dataclass(frozen=True)
class Task:
    model: Stack

    def init(self, rng, batch):
        return self.model.init(rng, batch["x"])["params"], {}, {}

    def losses(self, params, state, batch, rng, step, *, frozen, ema):
        out = self.model.apply({"params": params}, batch["x"])
        loss = jnp.mean(jnp.square(out - jnp.roll(batch["x"], 1, axis=1)))
        return {"main": (loss, {})}, state

    def programs(self, params, batch):
        return {"encode": (lambda p, x: self.model.apply({"params": p}, x), (params, batch["x"]))}


@dataclasses.dataclass(frozen=True)
class Source:
    length: int = LENGTH

    def training(self, *, batch_size, seed, process_index=0, process_count=1):
        x = np.random.default_rng(seed).normal(size=(batch_size, self.length, INPUTS)).astype(np.float32)
        while True:
            yield {"x": x, "index": np.arange(batch_size, dtype=np.int32), "name": np.array(["a"] * batch_size)}


def config(**train):
    schedule = dict(target="jaxtok.train.schedules:constant", value=1e-3)
    optimizer = dict(target="jaxtok.train.optimizers:adamw", schedule=schedule)
    return dict(
        slug="stack", variant="toy", seed=0,
        model=dict(target="toy_stack:Stack"), task=dict(target="toy_stack:Task"),
        data=dict(target="toy_stack:Source"),
        train=dict(steps=1, batch_size=16, players=dict(main=dict(optimizer=optimizer)), **train),
    )  # fmt: skip
