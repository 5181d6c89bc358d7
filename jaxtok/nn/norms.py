"""Normalisation layers; statistics are in float32 whatever the dtype of the input."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


def rms_normalize(x: jax.Array, scale: jax.Array | None = None, *, eps: float = 1e-6) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) over the last axis, times ``scale`` where given (Zhang and Sennrich, 1910.07467).

    Args:
      x: [..., D].
      scale: broadcastable to x; a learned vector or a function of a condition.
      eps: added to the mean square.
    """
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    if scale is not None:
        wide = wide * scale.astype(jnp.float32)
    return wide.astype(x.dtype)


class RMSNorm(nn.Module):
    """:func:`rms_normalize` with a learned ``scale`` [D]: [..., D] -> [..., D] in the dtype of the input."""

    epsilon: float = 1e-6
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises the last axis."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], self.param_dtype)
        return rms_normalize(x, scale, eps=self.epsilon)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) over the last axis: [..., D] -> [..., D] in the dtype of the input.

    Attributes:
      affine: a learned ``scale`` and ``bias`` [D].
      epsilon: added to the variance.
    """

    affine: bool = False
    epsilon: float = 1e-6
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises the last axis."""
        norm = nn.LayerNorm(self.epsilon, use_bias=self.affine, use_scale=self.affine, param_dtype=self.param_dtype)
        nn.share_scope(self, norm)  # the parameters are this module's own
        return norm(x).astype(x.dtype)
