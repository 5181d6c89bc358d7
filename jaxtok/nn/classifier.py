"""Classifiers: an encoder, the mean over positions, and a linear map to one logit per class."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Classifier(nn.Module):
    """Logits of x by the mean of an encoder's vectors.

    Attributes:
      encoder: ``encoder(x, mask=) -> (vectors [B, ..., D], mask [B, ...] or None)``, such as
        :class:`jaxtok.nn.vqgan.Encoder`.
      classes: logits.
    """

    encoder: nn.Module
    classes: int
    param_dtype: Any = jnp.float32

    def features(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """The mean of the vectors over all real positions, float32 [B, D]."""
        vectors, real = self.encoder(x, mask=mask)
        vectors = vectors.astype(jnp.float32).reshape(len(vectors), -1, vectors.shape[-1])
        weight = jnp.ones(vectors.shape[:2]) if real is None else real.reshape(vectors.shape[:2]).astype(jnp.float32)
        return jnp.einsum("bt,btd->bd", weight, vectors) / jnp.maximum(weight.sum(1), 1.0)[:, None]

    @nn.compact
    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Logits, float32 [B, classes]."""
        return nn.Dense(self.classes, param_dtype=self.param_dtype, name="head")(self.features(x, mask=mask))
