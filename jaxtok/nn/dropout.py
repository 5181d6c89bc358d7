"""Dropout with one key per example (Srivastava et al. 2014), so that no row depends on its neighbours."""

import math

import jax
import jax.numpy as jnp


def dropout(x: jax.Array, keys: jax.Array | None, rate: float) -> jax.Array:
    """Each element is 0 with probability ``rate``, else divided by 1 - rate; ``rate`` is rounded to 2^-16.

    Args:
      x: [B, ...].
      keys: [B], or None for no dropout.
      rate: in [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout must lie in [0, 1), found {rate}")
    kept = round((1.0 - rate) * 2**16)
    if keys is None or kept == 2**16:
        return x
    size = math.prod(x.shape[1:])
    words = jax.vmap(lambda key: jax.random.bits(key, (-(-size // 2),), jnp.uint32))(keys)  # two draws per word
    draws = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(len(x), -1)[:, :size].reshape(x.shape)
    return jnp.where(draws < kept, x * (2**16 / kept), jnp.zeros((), x.dtype))
