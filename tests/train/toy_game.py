"""A small two-player game on which the trainer is tested: state with a running mean, frozen weights, a late player."""

import dataclasses
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np

TRACES = []  # one entry each time that the losses are traced


@dataclasses.dataclass(frozen=True)
class Net:
    width: int = 8


def _kernel(rng, n, m):
    return jax.random.normal(rng, (n, m)) / jnp.sqrt(n)


def _net(rng, n, width, m):
    up, down = jax.random.split(rng)
    return {
        "up": {"kernel": _kernel(up, n, width), "bias": jnp.zeros(width)},
        "down": {"kernel": _kernel(down, width, m)},
    }


def _apply(params, x):
    return jnp.tanh(x @ params["up"]["kernel"] + params["up"]["bias"]) @ params["down"]["kernel"]


@dataclasses.dataclass(frozen=True)
class Game:
    """A generator maps x plus noise to y; a discriminator tells pairs apart; both losses are means over the batch."""

    model: Net
    adversarial: float = 0.1
    nan_at: int = -1
    running: bool = True

    def init(self, rng, batch):
        n, w = batch["x"].shape[1], self.model.width
        r = jax.random.split(rng, 5)
        params = {"generator": _net(r[0], n, w, n), "discriminator": _net(r[1], n, w, 1)}
        state = {"mean": jnp.zeros(n), "count": jnp.zeros((), jnp.int32)}
        return params, state, {"target": {"kernel": _kernel(r[4], n, n)}}

    def losses(self, params, state, batch, rng, step, *, frozen, ema):
        TRACES.append(batch["x"].shape)
        noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(rng, i), batch["x"].shape[1:]))(batch["index"])
        real = jnp.tanh(batch["x"] @ frozen["target"]["kernel"])
        fake = _apply(params["generator"], batch["x"] + 0.1 * noise)
        judge, fixed = params["discriminator"], jax.lax.stop_gradient(params["discriminator"])
        rebuild = jnp.mean((fake - real - 0.1 * state["mean"]) ** 2)
        fool = jnp.mean(jax.nn.softplus(-_apply(fixed, fake)))
        tell = jnp.mean(jax.nn.softplus(-_apply(judge, real)))
        tell += jnp.mean(jax.nn.softplus(_apply(judge, jax.lax.stop_gradient(fake))))
        loss = rebuild + self.adversarial * fool + jnp.where(step == self.nan_at, jnp.nan, 0.0)
        if self.running:
            state = {"mean": 0.9 * state["mean"] + 0.1 * jnp.mean(real, 0), "count": state["count"] + 1}
        return {"generator": (loss, {"rebuild": rebuild}), "discriminator": (tell, {"tell": tell})}, state

    def evaluate(self, params, state, batch, rng, *, frozen):
        real = jnp.tanh(batch["x"] @ frozen["target"]["kernel"])
        return {"error": jnp.mean((_apply(params["generator"], batch["x"]) - real) ** 2, -1)}


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Endless shuffled rows with an augmentation; a validation split of ``held_out`` rows."""

    rows: int = 4096
    width: int = 8
    held_out: int = 20

    def _row(self, index, seed):
        return {"x": np.random.default_rng((seed, int(index))).normal(size=self.width).astype(np.float32)}

    def training(self, *, batch_size, seed, process_index=0, process_count=1) -> Any:
        def augment(i, row, rng):
            return {"x": row["x"] + rng.normal(0, 0.01, self.width).astype(np.float32), "index": np.int32(i)}

        data = grain.MapDataset.range(self.rows).seed(seed).shuffle().repeat().map(lambda i: self._row(i, 1))
        data = data.map_with_index(lambda i, row: (i, row)).random_map(lambda pair, rng: augment(*pair, rng))
        data = data[process_index::process_count].batch(batch_size // process_count)
        return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)))

    def evaluation(self, *, split, batch_size, limit=0, process_index=0, process_count=1):
        total = min(self.held_out, limit or self.held_out)
        for begin in range(0, total, batch_size):
            index = np.arange(begin, begin + batch_size)[process_index::process_count]
            x = np.stack([self._row(i, 2)["x"] for i in index])
            yield {"x": x, "index": index.astype(np.int32), "example_mask": index < total}


def player(pattern, rate=0.01, **fields):
    schedule = dict(target="jaxtok.train.schedules:constant", value=rate)
    return dict(pattern=pattern, optimizer=dict(target="jaxtok.train.optimizers:adamw", schedule=schedule)) | fields


def config(task=None, data=None, **train):
    """A config of the toy game; ``train`` overrides fields of its train section."""
    plan = dict(
        steps=12,
        batch_size=16,
        ema=0.9,
        mesh=dict(data=1, fsdp=1, tensor=1),
        players=dict(
            generator=player("generator/.*", clip=1.0), discriminator=player("discriminator/.*", start=3, period=2)
        ),
        log_every=1,
        checkpoint_every=4,
    )
    return dict(
        slug="toy",
        seed=3,
        model=dict(target="toy_game:Net"),
        task=dict(target="toy_game:Game") | (task or {}),
        data=dict(target="toy_game:Numbers") | (data or {}),
        train=plan | train,
    )


def sharded(**train):
    """The game on four devices, parameters over fsdp."""
    rules = ((r".*/up/kernel", ("", "fsdp")), (r".*/down/kernel", ("fsdp", "")))
    return config(mesh=dict(data=2, fsdp=2, tensor=1), sharding=rules, **train)
