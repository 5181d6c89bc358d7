"""Training a classifier by the cross-entropy of its labels."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Classify:
    """Cross-entropy of ``label [B]`` given ``field``.

    Attributes:
      model: ``model(x) -> logits [B, classes]``, such as :class:`jaxtok.nn.classifier.Classifier`.
      field: the batch's key of the data.
      smoothing: share of the target that is spread evenly over all classes.
    """

    model: Any
    field: str = "image"
    smoothing: float = 0.0

    def __post_init__(self):
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"smoothing must lie in [0, 1), found {self.smoothing}")

    accumulable = True

    def init(self, rng: jax.Array, batch: Batch) -> tuple[dict, dict, dict]:
        """Parameters from a batch's shapes; no state, nothing frozen."""
        return self.model.init(rng, batch[self.field])["params"], {}, {}

    def losses(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, step: jax.Array, *, frozen: Any = None,
        ema: Any = None,
    ) -> tuple[dict[str, tuple[jax.Array, dict[str, jax.Array]]], Any]:  # fmt: skip
        """The loss of the one player, ``main``: nats."""
        del rng, step, frozen, ema
        logits, label = self.model.apply({"params": params}, batch[self.field]), batch["label"]
        target = optax.smooth_labels(jax.nn.one_hot(label, logits.shape[-1]), self.smoothing)
        right = (logits.argmax(-1) == label).astype(jnp.float32)
        return {"main": (optax.softmax_cross_entropy(logits, target).mean(), {"accuracy": right.mean()})}, state

    def evaluate(
        self, params: Any, state: Any, batch: Batch, rng: jax.Array, *, frozen: Any = None
    ) -> dict[str, jax.Array]:
        """Per example ``accuracy``, 0 or 1, and ``cross_entropy`` of the label, in nats."""
        del state, rng, frozen
        logits, label = self.model.apply({"params": params}, batch[self.field]), batch["label"]
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return {"accuracy": (logits.argmax(-1) == label).astype(jnp.float32), "cross_entropy": nats}
