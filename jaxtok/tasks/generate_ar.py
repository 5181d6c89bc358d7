"""Training a generator that says the codes of an image one after another, with classes or without."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.decode import autoregressive
from jaxtok.decode import sampling as draws
from jaxtok.diffusion import noise
from jaxtok.tasks import code_guidance, conditions

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class ARSampling:
    """How codes are drawn.

    Attributes:
      temperature: of the logits; 0 takes the most probable code.
      top_k: only the most probable codes; 0 for all.
      top_p: only the most probable codes that hold this share of the probability; 1 for all.
      guidance: u + guidance (c - u) of the logits; 1 for none.
      scale: how guidance moves over the codes, one of ``code_guidance.SCALES``.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    scale: str = "constant"
    by_code = True  # no field: the network is called for each

    @property
    def calls(self) -> int:
        """Of the network for each code; a guided one counts twice."""
        return 2 if self.guidance != 1.0 else 1

    def __post_init__(self):
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                "expected temperature >= 0, top_k >= 0 and top_p in (0, 1], found "
                f"{self.temperature}, {self.top_k} and {self.top_p}"
            )
        if self.guidance < 0:
            raise ValueError(f"guidance must not be negative, found {self.guidance}")
        code_guidance.check(self.scale)


@dataclasses.dataclass(frozen=True)
class GenerateAR:
    """Cross-entropy of every code given its class and the codes before it, row by row: nats per code.

    A grid has one code per position; of residual codes, [B, h, w, Q] with Q above 1, none is chosen silently: they are
    refused.

    Attributes:
      model: such as :class:`jaxtok.nn.token_transformer.CausalCodes`.
      label_drop: share of examples whose label is hidden, for guidance.
    """

    model: Any
    label_drop: float = 0.1

    def __post_init__(self):
        conditions.check_drop(self.label_drop)

    accumulable = True

    @property
    def classes(self) -> int:
        """Labels that the network knows, besides the one of no class."""
        return self.model.classes

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict, dict, dict]:
        """Parameters from a batch's shapes; no state, nothing frozen."""
        codes, label = data(batch, self.model)
        return self.model.init(rng, codes[:, :-1], label)["params"], {}, {}

    def losses(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, step: jax.Array, *, frozen: Any = None,
        ema: Any = None,
    ) -> tuple[dict[str, tuple[jax.Array, dict[str, jax.Array]]], Any]:  # fmt: skip
        """The loss of the one player, ``main``, with dropout."""
        del step, frozen, ema
        codes, label = data(batch, self.model)
        keys = jax.vmap(jax.random.split)(noise.per_example(rng, batch["index"]))
        label = conditions.hide(keys[:, 0], label, self.classes, self.label_drop)
        nats = self._nats(params, codes, label, keys[:, 1]).mean()
        return {"main": (nats, {"nats": nats})}, state

    def evaluate(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, *, frozen: Any = None
    ) -> dict[str, jax.Array]:
        """``nats``: per code, of each example with its class."""
        del state, rng, frozen
        return {"nats": self._nats(params, *data(batch, self.model), None).mean(1)}

    def sample(
        self,
        params: Any,
        label: jax.Array | None,
        keys: jax.Array,
        shape: tuple[int, ...],
        sampling: ARSampling | None = None,
    ) -> jax.Array:
        """Codes int32 [B, h, w, 1]; each grid depends on its own key and label alone.

        Args:
          params: of the model.
          label: int [B], or None for a network without classes.
          keys: [B].
          shape: (h, w, 1), the model's.
          sampling: None for the defaults.

        Raises:
          ValueError: for another shape, or guidance of a network that knows no class.
        """
        sampling = sampling or ARSampling()
        check_shape(shape, self.model)
        label, guided = rows(label, len(keys), self.model, sampling.guidance)
        logits, cache = self._apply(params, jnp.zeros((len(label), 0), jnp.int32), label, self.model.cache(len(label)))
        step = autoregressive.stepper(lambda ids, cache: self._apply(params, ids, None, cache))
        length, logits = shape[0] * shape[1], logits[:, -1]
        if guided:

            def scale(position: jax.Array) -> jax.Array:
                done = position.astype(jnp.float32) / max(length - 1, 1)
                return code_guidance.scale(sampling.scale, sampling.guidance, done)

            logits = autoregressive.guide(logits, scale, 0)
            step = autoregressive.guided(step, scale)
        choose = functools.partial(
            draws.choose, temperature=sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p
        )
        ids, _ = autoregressive.generate(step, cache, logits, keys, length=length, choose=choose)
        return ids.reshape(-1, *shape)

    def programs(self, params: Any, batch: Batch) -> dict[str, tuple[Any, tuple]]:
        """``decode``: the codes of a batch of labels with guidance, for ahead-of-time compilation."""
        return {"decode": program(self, ARSampling(guidance=2.0 if self.classes else 1.0), params, batch)}

    def _nats(self, params: Any, codes: jax.Array, label: jax.Array, keys: jax.Array | None) -> jax.Array:
        """-log p of every code, [B, h w]."""
        logits = self.model.apply({"params": params}, codes[:, :-1], label, keys=keys)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), codes[..., None], axis=-1)[..., 0]

    def _apply(self, params: Any, ids: jax.Array, label: jax.Array | None, cache: Any) -> Any:
        return self.model.apply({"params": params}, ids, label, cache=cache)


def data(batch: Batch, model: Any) -> tuple[jax.Array, jax.Array]:
    """Codes int [B, h w] row by row, and labels int [B]; of a model without classes the label is the one of no class.

    Raises:
      ValueError: for codes of another grid, or several per position.
    """
    codes = batch["codes"]
    check_shape(codes.shape[1:], model)
    label = batch["label"] if model.classes else jnp.zeros(len(codes), jnp.int32)
    return codes.reshape(len(codes), -1), label


def check_shape(shape: tuple[int, ...], model: Any) -> None:
    """ValueError for a grid that is not the model's with one code per position."""
    if tuple(shape) != (*model.grid, 1):
        raise ValueError(f"codes: expected a grid of shape {(*model.grid, 1)} (height, width, 1), found {tuple(shape)}")


def rows(label: jax.Array | None, count: int, model: Any, guidance: float) -> tuple[jax.Array, bool]:
    """Labels of the network's rows, [B], or [2 B] with those of no class behind; and whether there is guidance.

    Raises:
      ValueError: for guidance without classes, or no labels for a network that knows classes.
    """
    if label is None and model.classes:
        raise ValueError(f"label: expected int [{count}] of {model.classes} classes, found None")
    if guidance == 1.0:
        return (jnp.zeros(count, jnp.int32) if label is None else label), False
    if label is None:
        raise ValueError("guidance needs a model with classes, found one without")
    return jnp.concatenate([label, jnp.full_like(label, model.classes)]), True


def program(task: Any, sampling: Any, params: Any, batch: Batch) -> tuple[Any, tuple]:
    """A jittable ``decode(params, batch, key)`` and its arguments."""
    shape = batch["codes"].shape[1:]

    def decode(params, batch, key):
        label = batch["label"] if task.classes else None
        return task.sample(params, label, noise.per_example(key, batch["index"]), shape, sampling)

    return decode, (params, batch, jax.eval_shape(lambda: jax.random.key(0)))
