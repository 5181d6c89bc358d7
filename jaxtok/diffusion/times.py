"""Time grids for sampling and time draws for training; t = 0 is data, t = 1 is noise."""

import jax
import jax.numpy as jnp
import numpy as np


def uniform_grid(steps: int) -> np.ndarray:
    """``steps`` equal steps from noise to data: float32 [steps + 1], from 1 to 0."""
    if steps < 1:
        raise ValueError(f"sampling needs at least 1 step, found {steps}")
    return np.linspace(1.0, 0.0, steps + 1).astype(np.float32)


def uniform(keys: jax.Array, *, low: float = 0.0, high: float = 1.0) -> jax.Array:
    """One uniform time per example, float32 [B], from keys [B]."""
    return jax.vmap(lambda key: jax.random.uniform(key, minval=low, maxval=high))(keys)


def evenly(index: jax.Array, count: int) -> jax.Array:
    """Deterministic mid-points (index mod count + 1/2)/count, float32 [B]: for evaluation."""
    return ((index % count).astype(jnp.float32) + 0.5) / count
