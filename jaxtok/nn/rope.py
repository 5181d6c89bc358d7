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


def rotate_pairs(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates the pairs (2 i, 2 i + 1): neighbouring channels, as in RoFormer and EVA.

    Args:
      x: queries or keys [B, T, N, head_dim].
      cos: [B or 1, T, head_dim / 2] from :func:`angles` or :func:`axial_angles`, and ``sin`` likewise.
    """
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    first, second = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[..., None, :], sin[..., None, :]
    out = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return out.reshape(x.shape).astype(x.dtype)


def axial_angles(height: int, width: int, head_dim: int, theta: float = 10000.0) -> tuple[jax.Array, jax.Array]:
    """Angles of a grid's positions, row by row: the first half of the channels by row, the second by column.

    Returns:
      Cosine and sine, float32 [1, height * width, head_dim / 2].
    """
    if head_dim % 4:
        raise ValueError(f"axial rotary embedding needs a multiple of 4 channels per head, found {head_dim}")
    rows, columns = np.divmod(np.arange(height * width), width)
    parts = [angles(jnp.asarray(positions)[None], head_dim // 2, theta) for positions in (rows, columns)]
    return jnp.concatenate([p[0] for p in parts], -1), jnp.concatenate([p[1] for p in parts], -1)
