"""Randomness that depends on the example alone: not on its neighbours, its padding or the number of devices."""

import jax
import jax.numpy as jnp


def per_example(key: jax.Array, index: jax.Array) -> jax.Array:
    """One key per example, from the step's key and the examples' global positions, int [B] -> keys [B]."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def sequence(keys: jax.Array, length: int, width: int) -> jax.Array:
    """Unit Gaussian sequences, float32 [B, length, width]; a longer one begins with the shorter one.

    Args:
      keys: one per example, [B].
    """

    def one(key: jax.Array) -> jax.Array:
        steps = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(length))
        return jax.vmap(lambda k: jax.random.normal(k, (width,)))(steps)

    return jax.vmap(one)(keys)
