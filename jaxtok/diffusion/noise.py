"""Randomness that depends on the example alone: not on its neighbours, its padding or the number of devices."""

import jax
import jax.numpy as jnp


def per_example(key: jax.Array, index: jax.Array) -> jax.Array:
    """One key per example, from the step's key and the examples' global positions, int [B] -> keys [B]."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def unit(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Unit Gaussian noise, float32 [B, *shape], from keys [B]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def sequence(keys: jax.Array, length: int, width: int) -> jax.Array:
    """Unit Gaussian sequences, float32 [B, length, width]; a longer one begins with the shorter one.

    Args:
      keys: one per example, [B].
      length: positions.
      width: channels.
    """
    return jax.vmap(jax.vmap(lambda key: jax.random.normal(key, (width,))))(positions(keys, length))


def uniforms(keys: jax.Array, length: int) -> jax.Array:
    """Uniform draws in [0, 1), float32 [B, length], one per position; a longer row begins with the shorter one."""
    return jax.vmap(jax.vmap(jax.random.uniform))(positions(keys, length))


def positions(keys: jax.Array, length: int) -> jax.Array:
    """One key per position, [B, length], from one per example; a longer row begins with the shorter one."""
    return jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(length)))(keys)
