"""Labels that are hidden in training, so that a generator also learns what guidance needs: images of no class."""

import jax
import jax.numpy as jnp

from jaxtok.diffusion import times


def check_drop(share: float) -> None:
    """ValueError for a share of hidden labels outside [0, 1]."""
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"label_drop must lie in [0, 1], found {share}")


def hide(keys: jax.Array, label: jax.Array, none: int, share: float) -> jax.Array:
    """Labels [B] of which a ``share`` are ``none``, the label of no class, by one key [B] for each."""
    return jnp.where(times.uniform(keys) < share, none, label)
