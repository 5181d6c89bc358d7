"""Guidance: from predictions with and without a condition to one prediction."""

import jax
import jax.numpy as jnp


def classifier_free(conditional: jax.Array, unconditional: jax.Array, scale: jax.Array | float) -> jax.Array:
    """u + scale (c - u) (Ho and Salimans, arXiv 2207.12598); scale 1 is the conditional prediction."""
    return unconditional + scale * (conditional - unconditional)


def rescale(
    guided: jax.Array,
    conditional: jax.Array,
    amount: float,
    *,
    mask: jax.Array | None = None,
    per_sample: bool = True,
) -> jax.Array:
    """Pulls the standard deviation of a guided prediction towards the conditional one's (Lin et al., 2305.08891).

    amount * guided * std(conditional)/std(guided) + (1 - amount) * guided.

    Args:
      guided: [B, ...].
      conditional: [B, ...].
      amount: 0 changes nothing, 1 matches the standard deviation.
      mask: bool [B, T] of the positions that count in the standard deviations (not padding, not prompt), or None.
      per_sample: False takes one standard deviation over the whole batch, as TaDiCodec's code does; samples then
        depend on their batch neighbours.
    """
    axes = tuple(range(1 if per_sample else 0, guided.ndim))
    weight = jnp.ones(guided.shape, jnp.float32)
    if mask is not None:
        weight = weight * mask.reshape(mask.shape + (1,) * (guided.ndim - mask.ndim))
    count = jnp.maximum(weight.sum(axes, keepdims=True), 1.0)

    def deviation(x: jax.Array) -> jax.Array:
        mean = (x * weight).sum(axes, keepdims=True) / count
        return jnp.sqrt((jnp.square(x - mean) * weight).sum(axes, keepdims=True) / count)

    ratio = deviation(conditional) / jnp.maximum(deviation(guided), 1e-12)
    return guided * (amount * ratio + (1.0 - amount))
