"""What a generator is told, a class or a text, and what stands in its place where guidance wants nothing told.

A condition is an array or a dict of arrays [B, ...]; the network takes it as it is. Hidden in a share of the training
examples, it teaches the network the images of no class or text.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxtok.diffusion import times

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Label:
    """The batch's ``label``, int [B]; no class is the number behind the last. None for a network of no classes."""

    kind = "class"

    def of(self, batch: Batch, model: Any) -> jax.Array | None:
        """The condition of a batch."""
        return batch["label"] if model.classes else None

    def none(self, condition: jax.Array, model: Any) -> jax.Array:
        """As many that tell nothing."""
        return jnp.full_like(condition, model.classes)

    def read(self, condition: jax.Array, model: Any, params: Any) -> jax.Array:
        """What does not change from step to step, computed once: here nothing."""
        del model, params
        return condition


@dataclasses.dataclass(frozen=True)
class Text:
    """``text_ids`` int [B, N] and ``text_mask`` bool [B, N] of the batch; no text is one id of padding.

    Attributes:
      pad_id: of the tokenizer.
    """

    pad_id: int = 0
    kind = "text"

    def of(self, batch: Batch, model: Any) -> dict[str, jax.Array]:
        """The condition of a batch: ``ids`` and ``mask``."""
        del model
        return {"ids": batch["text_ids"], "mask": batch["text_mask"]}

    def none(self, condition: dict[str, jax.Array], model: Any) -> dict[str, jax.Array]:
        """As many that tell nothing."""
        del model
        ids = condition["ids"]
        return {
            "ids": jnp.full_like(ids, self.pad_id),
            "mask": jnp.broadcast_to(jnp.arange(ids.shape[1]) < 1, ids.shape),
        }

    def read(self, condition: dict[str, jax.Array], model: Any, params: Any) -> dict[str, jax.Array]:
        """The text's vectors [B, N, E] by the network's own encoder, computed once for all steps."""
        return model.apply({"params": params}, condition, method="read")


LABEL = Label()


def check_drop(share: float) -> None:
    """ValueError for a share of hidden conditions outside [0, 1]."""
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"label_drop must lie in [0, 1], found {share}")


def hide(keys: jax.Array, condition: Any, none: Any, share: float) -> Any:
    """Conditions [B, ...] of which a ``share`` are ``none``'s, by one key [B] for each."""
    hidden = times.uniform(keys) < share

    def one(told: jax.Array, nothing: jax.Array) -> jax.Array:
        return jnp.where(hidden.reshape(-1, *(1,) * (told.ndim - 1)), nothing, told)

    return jax.tree.map(one, condition, jax.tree.map(lambda told, x: jnp.broadcast_to(x, told.shape), condition, none))


def pair(kind: Any, condition: Any, model: Any, params: Any) -> tuple[Any, Any]:
    """What the steps of a sampler are told, and what those of its unconditional side are; None twice for no condition.

    Args:
      kind: :class:`Label` or :class:`Text`.
      condition: as ``kind.of`` gives it, or None.
      model: the network.
      params: of the network.
    """
    if condition is None:
        return None, None
    return kind.read(condition, model, params), kind.read(kind.none(condition, model), model, params)
