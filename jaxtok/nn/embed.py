"""Embeddings of scalars: diffusion times and positions."""

from typing import Any

import flax.linen as nn
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


class TimeEmbedding(nn.Module):
    """Sines and cosines of the time (cosines first, as in DiT), Linear, SiLU, Linear: [...] -> [..., width].

    Attributes:
      width: of the embedding.
      features: sines and cosines in all.
      max_period: the longest period over 2 pi; 10 in DDT, whose times run from 0 to 1.
    """

    width: int
    features: int = 256
    max_period: float = 10000.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        """Embeds times in the unit that the network was trained with."""
        sine, cosine = jnp.split(sinusoidal(t, self.features, max_period=self.max_period, shift=0), 2, axis=-1)
        options: dict[str, Any] = dict(
            kernel_init=nn.initializers.normal(0.02), dtype=self.dtype, param_dtype=self.param_dtype
        )
        x = nn.silu(nn.Dense(self.width, name="hidden_linear", **options)(jnp.concatenate([cosine, sine], -1)))
        return nn.Dense(self.width, name="out_linear", **options)(x)


def line_table(length: int, channels: int) -> np.ndarray:
    """Fixed positions of a sequence: [sin, cos] of position times 10000^(-i/(channels/2)), float32 [length, channels].

    Raises:
      ValueError: for an odd number of channels.
    """
    if channels % 2:
        raise ValueError(f"a table of positions needs an even number of channels, found {channels}")
    angle = np.arange(length)[:, None] * 10000.0 ** (-np.arange(channels // 2) / (channels // 2))
    return np.concatenate([np.sin(angle), np.cos(angle)], -1).astype(np.float32)


def grid_table(
    height: int, width: int, channels: int, *, scale: float = 1.0, start: tuple[int, int] = (0, 0)
) -> np.ndarray:
    """DiT's fixed positions of a grid, row by row: float32 [height * width, channels].

    The first half of the channels encodes the column, the second the row, each as [sin, cos] of the position times
    10000^(-i/(channels/4)).

    Args:
      height: rows.
      width: columns.
      channels: a multiple of 4.
      scale: positions are divided by it (2 in PixArt at 1024 pixels).
      start: the first row and column, where the grid is cut out of a larger one (SD3).

    Raises:
      ValueError: for another number of channels.
    """
    if channels % 4:
        raise ValueError(f"a table of positions needs a multiple of 4 channels, found {channels}")
    rows, columns = np.divmod(np.arange(height * width), width)
    frequencies = 10000.0 ** (-np.arange(channels // 4) / (channels // 4))
    parts = []
    for position in (columns + start[1], rows + start[0]):
        angle = position[:, None] / scale * frequencies
        parts += [np.sin(angle), np.cos(angle)]
    return np.concatenate(parts, -1).astype(np.float32)
