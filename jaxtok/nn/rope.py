"""Rotary position embedding (Su et al., arXiv 2104.09864)."""

import jax
import jax.numpy as jnp
import numpy as np


def angles(positions: jax.Array, head_dim: int, theta: float = 10000.0) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of position * theta^(-2i/head_dim), float32 [..., T, head_dim / 2].

    Args:
      positions: int or float [..., T].
      head_dim: channels per head, even.
      theta: base of the frequencies.
    """
    if head_dim % 2:
        raise ValueError(f"rotary embedding needs an even number of channels per head, found {head_dim}")
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    angle = positions.astype(jnp.float32)[..., None] * frequencies.astype(np.float32)
    return jnp.cos(angle), jnp.sin(angle)


def rotate_half(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the pairs (i, i + head_dim/2): the layout of Llama in its Hugging Face form.

    Args:
      x: queries or keys [B, T, N, head_dim].
      cos: [B or 1, T, head_dim / 2] from :func:`angles`, and ``sin`` likewise.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
