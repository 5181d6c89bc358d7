"""Normalisation layers; statistics are in float32 whatever the dtype of the input."""

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
