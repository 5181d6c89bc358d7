"""Embeddings of scalars: diffusion times and positions."""

import jax
import jax.numpy as jnp
import numpy as np


def sinusoidal(t: jax.Array, width: int, *, max_period: float = 10000.0, shift: int = 1) -> jax.Array:
    """[sin(t w_k), cos(t w_k)] with w_k = max_period^(-k/(width/2 - shift)), float32 [..., width].

    Args:
      t: [...], in whatever unit the network was trained with; nothing is multiplied by 1000 here.
      width: channels, even.
      max_period: the longest period over 2 pi.
      shift: 1 as in the Transformer's tensor2tensor form, 0 as in DiT.
    """
    half = width // 2
    if width % 2 or half <= shift:
        raise ValueError(f"a sinusoidal embedding needs an even width above {2 * shift}, found {width}")
    frequencies = np.exp(-np.log(max_period) * np.arange(half) / (half - shift)).astype(np.float32)
    angle = t.astype(jnp.float32)[..., None] * frequencies
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def grid_table(height: int, width: int, channels: int) -> np.ndarray:
    """DiT's fixed positions of a grid, row by row: float32 [height * width, channels].

    The first half of the channels encodes the column, the second the row, each as [sin, cos] of the position times
    10000^(-i/(channels/4)).
    """
    if channels % 4:
        raise ValueError(f"a table of positions needs a multiple of 4 channels, found {channels}")
    rows, columns = np.divmod(np.arange(height * width), width)
    frequencies = 10000.0 ** (-np.arange(channels // 4) / (channels // 4))
    parts = []
    for position in (columns, rows):
        angle = position[:, None] * frequencies
        parts += [np.sin(angle), np.cos(angle)]
    return np.concatenate(parts, -1).astype(np.float32)
