"""Linear resampling along time, as speech tokenizers use it between frame rates."""

import jax
import jax.numpy as jnp
import numpy as np


def linear(x: jax.Array, length: int) -> jax.Array:
    """Linear interpolation along axis 1 on the half-pixel grid, without anti-aliasing.

    Output i samples the input at (i + 1/2) T/length - 1/2, clamped to the ends: what PyTorch calls
    ``F.interpolate(mode="linear", align_corners=False)``. For T = 8 length, output i is the mean of frames 8i + 3
    and 8i + 4.

    Args:
      x: [B, T, ...].
      length: number of output positions.

    Returns:
      [B, length, ...] in the dtype of ``x``.
    """
    size = x.shape[1]
    if length < 1 or size < 1:
        raise ValueError(f"resampling needs at least one position on both sides, found {size} -> {length}")
    position = np.clip((np.arange(length) + 0.5) * size / length - 0.5, 0.0, size - 1.0)
    left = np.floor(position).astype(np.int32)
    right = np.minimum(left + 1, size - 1)
    weight = (position - left).astype(np.float32).reshape((1, length) + (1,) * (x.ndim - 2))
    weight = jnp.asarray(weight, x.dtype)
    return x[:, left] * (1 - weight) + x[:, right] * weight
